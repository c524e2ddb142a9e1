//! Names: stems, and what outputs are called.
//! Source: docs/formats.md, "Names".

use anyhow::{Result, bail, ensure};
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// Extensions of micrographs, lower case.
pub const IMAGE_EXTENSIONS: [&str; 8] = ["mrc", "mrcs", "map", "st", "rec", "tif", "tiff", "png"];
/// Extensions of coordinate files, lower case.
pub const LABEL_EXTENSIONS: [&str; 9] = ["thi", "star", "box", "coord", "coords", "cbox", "txt", "json", "cs"];
/// Names of the lists that a run writes beside its coordinate files.
const RESERVED: [&str; 2] = ["autopick", "merge_results"];

/// A micrograph's name without folder and extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stem {
    /// The stem; dots inside stay.
    pub text: String,
    /// False if the extension is not that of an image. The extension is then a part of the stem, which is worth a warning.
    pub is_known: bool,
}

/// The stem of a micrograph: base name minus `.gz` or `.bz2`, minus one known image extension, in any case.
pub fn micrograph_stem(path: &Path) -> Stem {
    let name = base_name(path);
    let name = strip_extension(&name, &["gz", "bz2"]).unwrap_or(&name);
    match strip_extension(name, &IMAGE_EXTENSIONS) {
        Some(stem) => Stem { text: stem.to_owned(), is_known: true },
        None => Stem { text: name.to_owned(), is_known: false },
    }
}

/// The stem of a coordinate file: base name minus its extension, and minus an image extension before it
/// (`A.MRC.thi` belongs to `A.MRC`).
pub fn label_stem(path: &Path) -> String {
    let name = base_name(path);
    let name = strip_extension(&name, &LABEL_EXTENSIONS).unwrap_or(&name);
    strip_extension(name, &IMAGE_EXTENSIONS).unwrap_or(name).to_owned()
}

/// True for the name of an image, compressed or not.
pub fn is_image_name(name: &str) -> bool {
    strip_extension(strip_extension(name, &["gz", "bz2"]).unwrap_or(name), &IMAGE_EXTENSIONS).is_some()
}

/// True for the name of a coordinate file.
pub fn is_label_name(name: &str) -> bool {
    strip_extension(name, &LABEL_EXTENSIONS).is_some()
}

/// Where outputs go and what they are called.
#[derive(Clone, Copy, Debug)]
pub struct OutputNames<'a> {
    /// The output folder.
    pub folder: &'a Path,
    /// Inserted between stem and extension, such as `_autopick`.
    pub suffix: &'a str,
    /// Extension without the dot.
    pub extension: &'a str,
    /// Keeps the folders of the inputs below the one they share.
    pub keep_dirs: bool,
}

impl OutputNames<'_> {
    /// The output path of each input, in the order of the inputs. `stem` says what an output is called, given the path of its
    /// input.
    ///
    /// Errors: two inputs would write one file (names that differ in case only count as one, since they are one on
    /// some disks), an input is called like one of our lists, or the suffix holds a path.
    /// Source: docs/formats.md, "Names".
    pub fn outputs(&self, inputs: &[PathBuf], stem: impl Fn(&Path) -> String) -> Result<Vec<PathBuf>> {
        ensure!(
            !self.suffix.contains(['/', '\\']) && self.suffix.chars().all(|c| !c.is_control()),
            "suffix '{}': it holds a path; expected a part of a name such as _autopick; correct --suffix",
            self.suffix
        );
        let folders = if self.keep_dirs { folders_below_shared(inputs) } else { vec![PathBuf::new(); inputs.len()] };
        let mut taken: HashMap<String, &Path> = HashMap::new();
        let mut outputs = Vec::with_capacity(inputs.len());
        for (input, below) in inputs.iter().zip(folders) {
            let stem = stem(input);
            ensure!(
                !stem.is_empty() && stem != "." && stem != "..",
                "{}: its name is only an extension; expected a name; rename it",
                input.display()
            );
            let name = format!("{stem}{}", self.suffix);
            ensure!(
                !(below.as_os_str().is_empty() && RESERVED.contains(&name.to_lowercase().as_str())),
                "{}: its output would be called like our list {name}; expected another name; rename the micrograph or give --suffix",
                input.display()
            );
            let output = self.folder.join(below).join(format!("{name}.{}", self.extension));
            if let Some(other) = taken.insert(output.to_string_lossy().to_lowercase(), input) {
                bail!(
                    "{} and {}: both would write {}; expected different names; rename one, or keep the folders with --keep-dirs",
                    other.display(),
                    input.display(),
                    output.display()
                );
            }
            outputs.push(output);
        }
        Ok(outputs)
    }
}

fn base_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// `name` without its extension, if that is one of `known` in any case.
fn strip_extension<'a>(name: &'a str, known: &[&str]) -> Option<&'a str> {
    let (stem, extension) = name.rsplit_once('.')?;
    (!stem.is_empty() && known.iter().any(|one| one.eq_ignore_ascii_case(extension))).then_some(stem)
}

/// For each input: its folders below the deepest folder that all inputs share. They are names of folders alone, because a `..`
/// could lead out of the output folder that they are put below.
pub fn folders_below_shared(inputs: &[PathBuf]) -> Vec<PathBuf> {
    let shared = shared_folder(inputs);
    let below = |input: &PathBuf| {
        let folder = plain(input.parent().unwrap_or(Path::new("")));
        let rest = folder.strip_prefix(&shared).unwrap_or(&folder);
        rest.components().filter(|component| matches!(component, Component::Normal(_))).collect()
    };
    inputs.iter().map(below).collect()
}

/// The deepest folder that all inputs lie in.
fn shared_folder(inputs: &[PathBuf]) -> PathBuf {
    let mut folders = inputs.iter().map(|input| plain(input.parent().unwrap_or(Path::new(""))));
    let Some(first) = folders.next() else { return PathBuf::new() };
    folders.fold(first, |shared, folder| shared.components().zip(folder.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect())
}

/// A path without `.` and, where that is possible without asking the disk, without `..`.
pub fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}
