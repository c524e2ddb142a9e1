//! Lists of files: those that a run leaves beside its coordinate files, what a list without a header holds, and where the
//! files that a list names are looked for.

use crate::formats::coordinates::ListedPair;
use crate::formats::{star, text, thi};
use crate::io::names::{is_image_name, is_label_name, micrograph_stem};
use crate::io::write::write_whole;
use anyhow::{Context, Result};
use std::path::{Component, Path, PathBuf};

/// A micrograph and its coordinate file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The micrograph as it was named.
    pub micrograph: PathBuf,
    /// Its coordinate file.
    pub coordinates: PathBuf,
}

/// Writes the lists of a folder: `merge_results.thi`, and `autopick.star` for STAR files.
///
/// Errors: as [`write_merge_results`] and [`write_coordinate_files`].
pub fn write_lists(folder: &Path, listed: &[Listed], is_star: bool) -> Result<()> {
    if is_star {
        write_coordinate_files(folder, listed)?;
    }
    write_merge_results(folder, listed)
}

/// Writes `merge_results.thi` (absolute paths) into `folder`.
///
/// Errors: the file cannot be written, or the working folder is gone.
pub fn write_merge_results(folder: &Path, listed: &[Listed]) -> Result<()> {
    let absolute = |path: &Path| -> Result<String> {
        let path = std::path::absolute(path).with_context(|| format!("{}: no absolute path", path.display()))?;
        Ok(path.display().to_string())
    };
    let pair = |one: &Listed| -> Result<ListedPair> {
        Ok(ListedPair { micrograph: absolute(&one.micrograph)?, coordinates: absolute(&one.coordinates)? })
    };
    let pairs = listed.iter().map(pair).collect::<Result<Vec<_>>>()?;
    write_whole(&folder.join("merge_results.thi"), thi::write_merge_results(&pairs).as_bytes())
}

/// Writes `autopick.star` into `folder`, with the paths as they were given.
///
/// Errors: the file cannot be written.
pub fn write_coordinate_files(folder: &Path, listed: &[Listed]) -> Result<()> {
    let pair =
        |one: &Listed| ListedPair { micrograph: one.micrograph.display().to_string(), coordinates: one.coordinates.display().to_string() };
    let pairs: Vec<ListedPair> = listed.iter().map(pair).collect();
    write_whole(&folder.join("autopick.star"), star::write::coordinate_files(&pairs).as_bytes())
}

/// Where the files that a list names are looked for: in the working directory, as the original does; then in the list's own
/// folder; then in the folders above it, one of which is the project in which RELION wrote the list.
#[derive(Debug)]
pub struct Places {
    list: PathBuf,
    folder: PathBuf,
    absolute: PathBuf,
    /// An entry that names two different files, one in the working directory and one beside the list.
    ambiguous: Option<String>,
}

impl Places {
    /// The places for the entries of this list.
    pub fn of(list: &Path) -> Places {
        let folder = list.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        Places { list: list.to_owned(), folder: folder.to_owned(), absolute, ambiguous: None }
    }

    /// The file that an entry names; `None` if it is in none of the places.
    pub fn find(&mut self, entry: &str) -> Option<PathBuf> {
        let given = PathBuf::from(entry);
        let beside = self.folder.join(&given);
        if given.is_file() {
            if given.is_relative() && self.ambiguous.is_none() && beside.is_file() && !is_same_file(&given, &beside) {
                self.ambiguous = Some(entry.to_owned());
            }
            return Some(given);
        }
        if beside.is_file() {
            return Some(beside);
        }
        let above = self.absolute.ancestors().skip(1).filter(|_| given.is_relative());
        above.map(|above| above.join(&given)).find(|path| path.is_file())
    }

    /// A warning about an ambiguous entry, if there was one. It is asked for once all entries have been looked for.
    pub fn warning(&self) -> Option<String> {
        let entry = self.ambiguous.as_ref()?;
        Some(format!(
            "{}: {entry} exists in the working directory and beside the list; the one in the working directory is taken",
            self.list.display()
        ))
    }
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// The first of some names, and how many more there are.
pub fn told(names: &[String]) -> String {
    const MOST: usize = 10;
    let told = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > MOST { format!("{told} and {} more", names.len() - MOST) } else { told }
}

/// The paths of a list without a header, one path on each line, if the text is such a list.
///
/// A `.thi` is a list if its first line is neither a header nor a row of numbers, because the original reads such lists. A
/// `.txt` may be many things, and is a list only if its first line ends as the name of a micrograph or of a coordinate file.
pub fn bare_list(bytes: &[u8], extension: &str) -> Option<Vec<String>> {
    if extension != "thi" && extension != "txt" {
        return None;
    }
    let text = text::decode(bytes).ok()?;
    let is_comment = |line: &&str| line.starts_with('#') || line.starts_with(';');
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_comment(line)).map(unquoted).peekable();
    let first = lines.peek()?;
    if first.starts_with('[') || first.split_whitespace().next().is_some_and(|token| token.parse::<f64>().is_ok()) {
        return None;
    }
    if extension == "txt" && !is_image_name(first) && !is_label_name(first) {
        return None;
    }
    Some(lines.take_while(|line| !line.starts_with('[')).map(str::to_owned).collect())
}

fn unquoted(line: &str) -> &str {
    line.trim_matches(['"', '\''])
}

/// A list of RELION 3.1, `coords_suffix_SUFFIX.star`: its only line names the table of the micrographs, and the coordinates
/// of each lie beside the list, called after the micrograph with the suffix. Returns the table's path and the suffix.
pub fn coords_suffix(list: &Path, bytes: &[u8]) -> Option<(String, String)> {
    let suffix = list.file_name()?.to_str()?.strip_prefix("coords_suffix")?.strip_suffix(".star")?.to_owned();
    let text = text::decode(bytes).ok()?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let table = lines.next().filter(|line| line.ends_with(".star"))?;
    lines.next().is_none().then(|| (table.to_owned(), suffix))
}

/// A micrograph's path without its extension and without the job of RELION that it came from (`MotionCorr/job002/`). RELION
/// gives this name to the files that later jobs make of the micrograph. The path never leads out of a folder that it is joined
/// to.
pub fn below_job(micrograph: &str) -> PathBuf {
    let parts = Path::new(micrograph).components().filter_map(|part| match part {
        Component::Normal(part) => Some(part),
        _ => None,
    });
    let parts: Vec<_> = parts.collect();
    let is_job = |name: &str| {
        let number = name.strip_prefix("job");
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let after_job = match parts.as_slice() {
        [_, job, rest @ ..] if !rest.is_empty() && job.to_str().is_some_and(is_job) => rest,
        all => all,
    };
    let path: PathBuf = after_job.iter().collect();
    path.with_file_name(micrograph_stem(&path).text)
}

/// All files below a folder with this extension, by path.
///
/// Errors: a folder cannot be read.
pub fn files_below(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("{}: cannot be read", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("{}: cannot be read", folder.display()))?;
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if path.extension().is_some_and(|this| this == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
