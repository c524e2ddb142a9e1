//! The folder of a training: what is in it, what may be replaced, and which micrographs are in which part.

use super::args::TrainArgs;
use super::settings::Settings;
use crate::cli::status::Usage;
use crate::formats::thi;
use crate::io::write::{remove_leftovers, write_whole};
use crate::train::split::Split;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Names of the lists of micrographs, one for each part.
const LISTS: [&str; 3] = ["train.thi", "validation.thi", "test.thi"];
/// What a training leaves besides models and lists. `PR.png` is what versions before `PR.svg` alone left.
const RESULTS: [&str; 5] = ["eval.json", "PR.svg", "PR.png", "loss.svg", "AP.svg"];
/// The most micrographs of a part that are named in a line. The list names all of them.
const MOST_NAMED: usize = 12;

/// Models in a folder, whatever epoch they are of.
fn models(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_model = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("model_") && (name.ends_with(".pth") || name.ends_with(".safetensors"))
    };
    let mut models: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_model).collect();
    models.sort();
    models
}

/// Refuses a folder with an earlier model.
///
/// Errors: the folder holds a model, which may be days of work, and the command line does not say what is to become of it.
pub(super) fn refuse_a_model(args: &TrainArgs) -> Result<()> {
    match models(&args.exp_id).first() {
        Some(model) if !args.resume && !args.overwrite => Err(Usage::because(format!(
            "{}: an earlier training left this model; expected a folder without one; go on with --resume, name another --exp_id, or replace \
             all with --overwrite",
            model.display()
        ))
        .into()),
        _ => Ok(()),
    }
}

impl Settings {
    /// Makes the folder, and clears away what a killed training left half written. With `--overwrite` the models and results of an
    /// earlier training go first, so that none of them is taken for one of this training.
    ///
    /// Errors: the folder cannot be made, or a file cannot be removed.
    pub(super) fn make_folder(&self, overwrite: bool) -> Result<()> {
        std::fs::create_dir_all(self.folder.join("logs"))
            .with_context(|| format!("{}: the folder cannot be made; check the rights above it", self.folder.display()))?;
        [&self.folder, &self.folder.join("images")].into_iter().for_each(|folder| remove_leftovers(folder));
        if overwrite {
            let results = RESULTS.iter().chain(&LISTS).map(|name| self.folder.join(name)).filter(|path| path.is_file());
            for path in models(&self.folder).into_iter().chain(results) {
                std::fs::remove_file(&path).with_context(|| format!("{}: cannot be removed; check the rights", path.display()))?;
            }
        }
        Ok(())
    }

    /// Writes which micrographs are in which part, as lists that `--data` of every command takes. Returns lines that name the
    /// micrographs.
    ///
    /// Errors: a list cannot be written.
    pub(super) fn write_parts(&self, parts: &Split) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for (list, (part, verb)) in LISTS.iter().zip([(&parts.train, "train"), (&parts.validation, "validate"), (&parts.test, "test")]) {
            let path = |&i: &usize| -> Result<String> {
                let path = &self.gathered.labelled[i].path;
                Ok(std::path::absolute(path).with_context(|| format!("{}: no absolute path", path.display()))?.display().to_string())
            };
            let paths = part.iter().map(path).collect::<Result<Vec<_>>>()?;
            let file = self.folder.join(list);
            if part.is_empty() {
                // An earlier training with other shares may have left a list of this part, which would now be wrong.
                let _ = std::fs::remove_file(&file);
                continue;
            }
            write_whole(&file, thi::write_file_list(&paths).as_bytes())?;
            let mut names: Vec<&str> = part.iter().take(MOST_NAMED).map(|&i| self.gathered.labelled[i].stem.as_str()).collect();
            if part.len() > MOST_NAMED {
                names.push("...");
            }
            lines.push(format!("{verb} ({list}): {}", names.join(", ")));
        }
        Ok(lines)
    }
}
