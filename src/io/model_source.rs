//! Where a model comes from: a file, or a general model by its name.
//!
//! General models lie in weights/ and are built into the program (build.rs). A file `weights/NAME.safetensors` beside the
//! program, or in `../share/epicker/weights`, is taken instead of the built-in one if somebody has put it there. A release puts
//! its own models there as well, for people to look at; they are told by the sums that it puts beside them, and are never taken
//! instead of the built-in ones, because a newer program may find those of an older release.

use crate::formats::model_file::{load_checkpoint_file, read_checkpoint, sha256, sha256_of_file};
use crate::formats::pth::Checkpoint;
use crate::formats::state_dict::StateDict;
use crate::words::{did_you_mean, row};
use anyhow::{Context, Result, anyhow};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// A general model: its name, and its file's bytes if it was there when the program was built.
type BuiltIn = (&'static str, Option<&'static [u8]>);

include!(concat!(env!("OUT_DIR"), "/general_models.rs"));

/// A file, or the name of a general model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A `.pth` or `.safetensors`.
    File(PathBuf),
    /// The general model for this mode: particle, vesicle or fiber.
    General(&'static str),
}

impl ModelSource {
    /// A model's file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        ModelSource::File(path.into())
    }

    /// Reads the model with all that its file holds; the state of the optimiser is read only on request.
    ///
    /// Errors: the file cannot be read or is no model, or there is no general model of this name.
    pub fn checkpoint(&self, with_optimizer: bool) -> Result<Checkpoint> {
        match self.place()? {
            Place::File(path) => load_checkpoint_file(&path, with_optimizer),
            Place::BuiltIn(bytes) => read_checkpoint(bytes, with_optimizer).with_context(|| self.to_string()),
        }
    }

    /// Reads the model and hands its tensors, its name and its file's SHA-256 to `make`, such as `Model::from_state`.
    ///
    /// Errors: as [`ModelSource::checkpoint`], and those of `make`, which name the source.
    pub fn load<M>(&self, make: impl FnOnce(&StateDict, String, String) -> Result<M>) -> Result<M> {
        let state = self.checkpoint(false)?.state;
        make(&state, self.name(), self.sha256()?).with_context(|| self.to_string())
    }

    /// SHA-256 of the file, in hexadecimal digits.
    ///
    /// Errors: as [`ModelSource::checkpoint`].
    pub fn sha256(&self) -> Result<String> {
        match self.place()? {
            Place::File(path) => sha256_of_file(&path),
            Place::BuiltIn(bytes) => Ok(sha256(bytes)),
        }
    }

    /// Name of the file without its folder, or of the general model.
    pub fn name(&self) -> String {
        match self {
            ModelSource::File(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            ModelSource::General(name) => (*name).to_owned(),
        }
    }

    fn place(&self) -> Result<Place> {
        match self {
            ModelSource::File(path) if !path.exists() => Err(not_there(path)),
            ModelSource::File(path) => Ok(Place::File(path.clone())),
            ModelSource::General(name) => {
                let built_in = BUILT_IN.iter().find(|(known, _)| known == name).and_then(|(_, bytes)| *bytes);
                place_of(name, built_in, std::env::current_exe().ok().as_deref())
            }
        }
    }
}

impl From<OsString> for ModelSource {
    /// What a word of the command line means. A word that is exactly one of the three names is a general model; any other word
    /// is a path.
    fn from(text: OsString) -> ModelSource {
        match BUILT_IN.iter().find(|(name, _)| text == *name) {
            Some((name, _)) => ModelSource::General(name),
            None => ModelSource::File(PathBuf::from(text)),
        }
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ModelSource::File(path) => write!(f, "{}", path.display()),
            ModelSource::General(name) => write!(f, "{name}"),
        }
    }
}

/// The error for a model that is not there. A bare word may have been meant as the name of a general model, so the message
/// names those.
fn not_there(path: &Path) -> anyhow::Error {
    let names = BUILT_IN.map(|(name, _)| name);
    let is_word = path.extension().is_none() && path.components().count() == 1;
    if !is_word {
        return anyhow!("{}: there is no such file; expected a .pth or .safetensors; check the path", path.display());
    }
    let word = path.to_string_lossy();
    anyhow!(
        "{word}: neither a file nor the name of a general model; the general models are {}{}",
        row(&names, "and"),
        did_you_mean(&word, names)
    )
}

/// Where the bytes lie.
#[derive(Debug, PartialEq)]
enum Place {
    File(PathBuf),
    BuiltIn(&'static [u8]),
}

fn place_of(name: &str, built_in: Option<&'static [u8]>, program: Option<&Path>) -> Result<Place> {
    let file = format!("weights/{name}.safetensors");
    let folder = program.and_then(Path::parent);
    let beside: Vec<PathBuf> = match folder {
        Some(folder) => vec![folder.join(&file), folder.join("../share/epicker").join(&file)],
        None => Vec::new(),
    };
    let is_taken = |path: &PathBuf| path.is_file() && (built_in.is_none() || !is_as_released(path));
    if let Some(found) = beside.into_iter().find(is_taken) {
        return Ok(Place::File(found));
    }
    built_in.map(Place::BuiltIn).ok_or_else(|| {
        let folder = folder.unwrap_or(Path::new("?")).display();
        anyhow!(
            "general model {name}: this program was built without {file}; expected it there, or in {folder} or {folder}/../share/epicker; \
             name a model's file with --load_model, or build from sources that have it"
        )
    })
}

/// True for a model that a release has put where it is, and that nobody has changed since: `SHA256SUMS` beside it, as
/// scripts/release.sh makes it with sha256sum, has its sum.
fn is_as_released(path: &Path) -> bool {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return false };
    let Ok(sums) = std::fs::read_to_string(folder.join("SHA256SUMS")) else { return false };
    let told = sums.lines().filter_map(|line| line.split_once(' '));
    let Some((sum, _)) = told.into_iter().find(|(_, file)| file.trim_start_matches([' ', '*']).trim_start_matches("./") == name) else {
        return false;
    };
    sha256_of_file(path).is_ok_and(|found| found == sum)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot go on may panic
    use super::*;

    #[test]
    fn a_name_is_a_general_model_and_what_looks_like_a_path_is_one() {
        let of = |text: &str| ModelSource::from(OsString::from(text));
        assert_eq!(of("particle"), ModelSource::General("particle"));
        assert_eq!(of("fiber").name(), "fiber");
        for path in ["./particle", "particle.pth", "folder/vesicle", "mine"] {
            assert_eq!(of(path), ModelSource::File(PathBuf::from(path)));
        }
    }

    #[test]
    fn a_file_beside_the_program_goes_before_the_built_in_one() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("bin/epicker");
        let place = |built_in: Option<&'static [u8]>| place_of("particle", built_in, Some(&program));
        assert_eq!(place(Some(b"bytes")).unwrap(), Place::BuiltIn(b"bytes"));
        let missing = format!("{:#}", place(None).unwrap_err());
        assert!(missing.contains("built without weights/particle.safetensors") && missing.contains("--load_model"), "{missing}");
        std::fs::create_dir_all(folder.path().join("bin")).unwrap();
        for beside in ["share/epicker/weights", "bin/weights"] {
            std::fs::create_dir_all(folder.path().join(beside)).unwrap();
            std::fs::write(folder.path().join(beside).join("particle.safetensors"), "other").unwrap();
            let Place::File(found) = place(Some(b"bytes")).unwrap() else { panic!("the built-in one") };
            assert_eq!(found.canonicalize().unwrap(), folder.path().join(beside).join("particle.safetensors").canonicalize().unwrap());
        }
    }

    #[test]
    fn a_model_of_an_older_release_does_not_go_before_the_built_in_one() {
        let folder = tempfile::tempdir().unwrap();
        let (program, weights) = (folder.path().join("bin/epicker"), folder.path().join("share/epicker/weights"));
        std::fs::create_dir_all(folder.path().join("bin")).unwrap();
        std::fs::create_dir_all(&weights).unwrap();
        std::fs::write(weights.join("particle.safetensors"), "old").unwrap();
        std::fs::write(weights.join("SHA256SUMS"), format!("{}  ./particle.safetensors\n", sha256(b"old"))).unwrap();
        let place = |built_in: Option<&'static [u8]>| place_of("particle", built_in, Some(&program)).unwrap();
        assert_eq!(place(Some(b"new")), Place::BuiltIn(b"new"));
        assert!(matches!(place(None), Place::File(_)), "a program without models takes what is there");
        std::fs::write(weights.join("particle.safetensors"), "somebody's own").unwrap();
        assert!(matches!(place(Some(b"new")), Place::File(_)), "a model that somebody has put there");
    }
}
