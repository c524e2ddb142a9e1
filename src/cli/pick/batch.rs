//! What `epicker pick` is going to do: its micrographs, the names of its outputs, and what is done already.

use super::{Asked, PickArgs};
use crate::formats::image::{ReadOptions, Sections, read_info};
use crate::io::find::{Found, find_micrographs};
use crate::io::lists::Listed;
use crate::io::names::{OutputNames, micrograph_stem};
use crate::pick::output::{Helix, OutputType};
use crate::pick::relion::RelionJob;
use crate::pick::run::{Input, Job};
use crate::pick::settings::WrittenSide;
use anyhow::{Context, Result, ensure};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The work of a run.
pub struct Batch {
    /// The folder that the outputs go to.
    pub folder: PathBuf,
    /// Micrographs to pick.
    pub jobs: Vec<Job>,
    /// All micrographs, those that are done among them, so that a batch that goes on finds the same scale.
    pub inputs: Vec<Input>,
    /// Micrographs that are left alone because they are done.
    pub skipped: usize,
    /// Outputs of an earlier run that will be replaced.
    pub replaced: usize,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
    /// Every micrograph with its output, in order, and whether it is still to be picked.
    all: Vec<(Listed, bool)>,
}

impl Batch {
    /// Finds the micrographs and names their outputs. Writes nothing.
    ///
    /// Errors: no micrograph, two with one name, files that must not be replaced, or an unknown pixel size where one is
    /// needed.
    pub fn find(args: &PickArgs, asked: &Asked, relion: Option<&RelionJob>) -> Result<Batch> {
        let data = args.in_mics.as_ref().or(args.data.as_ref()).context("--data: missing; expected a path")?;
        let found = find_micrographs(data, args.skip_missing)?;
        let mut warnings = found.warnings;
        let jobs = jobs(args, asked, &found.micrographs, relion, &mut warnings)?;
        need_pixel_size(args, asked, &found.micrographs)?;
        let inputs = jobs.iter().map(|job| job.input.clone()).collect();
        let (mut skipped, mut replaced, mut clobbered) = (0, 0, None);
        let (mut todo, mut all) = (Vec::new(), Vec::new());
        for job in jobs {
            let exists = job.output.exists();
            let is_done = args.skip_done && exists && is_complete(&job.output, asked.rule.output_type);
            let listed = Listed { micrograph: PathBuf::from(&job.input.name), coordinates: job.output.clone() };
            all.push((listed, !is_done));
            if is_done {
                skipped += 1;
                continue;
            }
            replaced += usize::from(exists);
            let files = [Some(&job.output), job.candidates.as_ref(), job.picture.as_ref()];
            clobbered = clobbered.or_else(|| files.into_iter().flatten().find(|file| file.exists()).cloned());
            todo.push(job);
        }
        if let (true, Some(file)) = (args.no_clobber, clobbered) {
            anyhow::bail!("{}: exists already; expected no file with --no-clobber; give another --output", file.display());
        }
        let folder = relion.map_or(&args.output, |job| &job.folder).clone();
        Ok(Batch { folder, jobs: todo, inputs, skipped, replaced, warnings, all })
    }

    /// Makes the output folder and sees whether it can be written to.
    ///
    /// Errors: it cannot.
    pub fn make_folder(&self) -> Result<()> {
        let name = || format!("--output {}: cannot be written to; expected a folder with rights to write", self.folder.display());
        std::fs::create_dir_all(&self.folder).with_context(name)?;
        tempfile::Builder::new().prefix(".epicker-").tempfile_in(&self.folder).with_context(name)?;
        Ok(())
    }

    /// Micrographs that have an output now, in the order they were given. `finished`: the outputs that this run wrote.
    pub fn listed(&self, finished: &HashSet<PathBuf>) -> Vec<Listed> {
        let has_output = |(listed, is_to_do): &&(Listed, bool)| !is_to_do || finished.contains(&listed.coordinates);
        self.all.iter().filter(has_output).map(|(listed, _)| listed.clone()).collect()
    }
}

fn jobs(args: &PickArgs, asked: &Asked, micrographs: &[Found], relion: Option<&RelionJob>, warnings: &mut Vec<String>) -> Result<Vec<Job>> {
    let paths: Vec<PathBuf> = micrographs.iter().map(|found| found.path.clone()).collect();
    let suffix = args.limits.suffix.as_deref().unwrap_or_default();
    let stem = |path: &Path| micrograph_stem(path).text;
    for path in paths.iter().filter(|path| !micrograph_stem(path).is_known) {
        warnings.push(format!("{}: its extension is none of an image; it is kept in the names of outputs", path.display()));
    }
    let name_all = |folder: &Path, suffix: &str, extension: &str| {
        OutputNames { folder, suffix, extension, keep_dirs: args.keep_dirs }.outputs(&paths, stem)
    };
    let (outputs, candidates, pictures) = match relion {
        Some(job) => {
            let names: Vec<String> = micrographs.iter().map(|found| found.name.clone()).collect();
            let outputs = job.outputs(&names)?;
            let below = |path: &PathBuf| path.strip_prefix(&job.folder).unwrap_or(path).to_path_buf();
            let candidates = outputs.iter().map(|path| job.folder.join("candidates").join(below(path))).collect();
            let pictures = outputs.iter().map(|path| path.with_extension("png")).collect();
            (outputs, candidates, pictures)
        }
        None => {
            let extension = asked.rule.output_type.name();
            let outputs = name_all(&args.output, suffix, extension)?;
            (outputs, name_all(&args.output.join("candidates"), "", "star")?, name_all(&args.output, suffix, "png")?)
        }
    };
    let mut jobs = Vec::with_capacity(micrographs.len());
    for (i, found) in micrographs.iter().enumerate() {
        let input = Input {
            path: found.path.clone(),
            name: found.name.clone(),
            sections: asked.read.sections,
            pixel_size_angstrom: args.angpix.or(found.pixel_size_angstrom),
        };
        let job = Job {
            input,
            output: outputs[i].clone(),
            candidates: (!args.no_candidates).then(|| candidates[i].clone()),
            picture: args.visual.then(|| pictures[i].clone()),
        };
        if let Some(picture) = job.picture.as_ref().filter(|picture| paths.contains(picture)) {
            anyhow::bail!("{}: --visual would replace this micrograph; give another --output", picture.display());
        }
        // A file that cannot be read fails when its turn comes.
        let count = if args.sections == "each" { read_info(&job.input.path, &asked.read).map_or(1, |info| info.sections) } else { 1 };
        if count > 1 {
            jobs.extend((0..count).map(|section| one_section(&job, section, count)));
        } else {
            jobs.push(job);
        }
    }
    Ok(jobs)
}

/// The job of one section: `_z01` and so on at the end of the names of its files.
fn one_section(job: &Job, section: usize, count: usize) -> Job {
    let digits = count.to_string().len().max(2);
    let number = section + 1;
    let with_number = |path: &PathBuf| {
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        path.with_file_name(format!("{stem}_z{number:0digits$}.{extension}"))
    };
    Job {
        output: with_number(&job.output),
        candidates: job.candidates.as_ref().map(with_number),
        picture: job.picture.as_ref().map(with_number),
        input: Input { sections: Sections::One(section), ..job.input.clone() },
    }
}

/// Looks into the first header, so that a missing `--angpix` is told before the network runs.
fn need_pixel_size(args: &PickArgs, asked: &Asked, micrographs: &[Found]) -> Result<()> {
    let needed = match (asked.written_side, asked.rule.helix) {
        (WrittenSide::Asked { .. }, _) => "--diameter",
        (_, Helix::Segments(_)) => "--helix segments",
        _ => return Ok(()),
    };
    let Some(first) = micrographs.first() else { return Ok(()) };
    // A first file that cannot be read fails later, alone.
    let is_unknown = read_info(&first.path, &asked.read).is_ok_and(|info| info.pixel_size_angstrom.is_none());
    ensure!(
        args.angpix.or(first.pixel_size_angstrom).is_some() || !is_unknown,
        "{}: pixel size unknown, which {needed} needs; expected one in the header; give it with --angpix",
        first.path.display()
    );
    Ok(())
}

/// True if an output was written to its end. Files appear under their name only when they are whole; the end mark also
/// tells those of other programs.
fn is_complete(output: &Path, output_type: OutputType) -> bool {
    match output_type {
        OutputType::Thi => std::fs::read(output).is_ok_and(|bytes| bytes.trim_ascii_end().ends_with(b"[End]")),
        _ => output.is_file(),
    }
}
