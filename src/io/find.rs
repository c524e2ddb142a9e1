//! Which micrographs a path means: one file, the files of a folder, or those of a list.
//!
//! Source: docs/formats.md, "Which files are micrographs".

use crate::formats::coordinates::{Content, ListedMicrograph};
use crate::formats::label_file;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// One micrograph to work on.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Where the file is.
    pub path: PathBuf,
    /// Its name as the user gave it: the argument, the folder and the file's name, or the entry of the list.
    pub name: String,
    /// Pixel size that the list states, angstrom per pixel.
    pub pixel_size_angstrom: Option<f64>,
}

/// The micrographs that a path means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MicrographList {
    /// In the order of the list; those of a folder in code-point order of their names.
    pub micrographs: Vec<Found>,
    /// Entries of the list for which there is no file; empty unless missing files are to be skipped.
    pub missing: Vec<String>,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
}

/// Endings of the micrographs of a folder, lower case.
const FOLDER_ENDINGS: [&str; 3] = [".mrc", ".mrc.gz", ".mrc.bz2"];
/// As many names as an error tells.
const NAMES_TOLD: usize = 10;

/// Finds the micrographs that `data` means.
///
/// A file is itself; a folder means its files ending in .mrc, .mrc.gz or .mrc.bz2 (any case), not those of folders
/// below; a file ending in .thi or .star is a list.
/// Errors: nothing is there; the folder or list holds no micrograph; the list holds coordinates; files of the list are
/// missing (all are told at once) and `skip_missing` is not set.
pub fn find_micrographs(data: &Path, skip_missing: bool) -> Result<MicrographList> {
    let metadata = std::fs::metadata(data).with_context(|| {
        format!("{}: cannot be found; expected a micrograph, a folder of micrographs or a list ending in .thi or .star", data.display())
    })?;
    let list = if metadata.is_dir() {
        of_folder(data)?
    } else if is_list(data) {
        of_entries(data, read_list(data)?, skip_missing)?
    } else {
        MicrographList { micrographs: vec![found(data.to_owned(), data.display().to_string(), None)], ..MicrographList::default() }
    };
    ensure!(!list.micrographs.is_empty(), "{}: no micrograph; expected at least one; check --data", data.display());
    Ok(list)
}

/// Finds the micrographs that several paths mean, in the order of the paths. One that two of them mean is taken once.
///
/// Errors: as [`find_micrographs`], of any path.
pub fn find_all(data: &[PathBuf], skip_missing: bool) -> Result<MicrographList> {
    if let [one] = data {
        return find_micrographs(one, skip_missing);
    }
    let mut all = MicrographList::default();
    let mut seen = HashSet::new();
    let mut repeated = 0;
    for path in data {
        let list = find_micrographs(path, skip_missing)?;
        all.missing.extend(list.missing);
        all.warnings.extend(list.warnings);
        for found in list.micrographs {
            if seen.insert(found.path.clone()) { all.micrographs.push(found) } else { repeated += 1 }
        }
    }
    if repeated > 0 {
        all.warnings.push(format!("{repeated} of the micrographs are given more than once; each is taken once"));
    }
    Ok(all)
}

/// True for the names of lists.
pub fn is_list(path: &Path) -> bool {
    ["thi", "star"].iter().any(|ending| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(ending)))
}

fn found(path: PathBuf, name: String, pixel_size_angstrom: Option<f64>) -> Found {
    Found { path, name, pixel_size_angstrom }
}

fn of_folder(folder: &Path) -> Result<MicrographList> {
    let unreadable = || format!("{}: the folder cannot be listed; check its rights", folder.display());
    let mut names = Vec::new();
    let mut others = 0;
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let name = entry.file_name();
        let lower = name.to_string_lossy().to_ascii_lowercase();
        // Hidden files are what other programs leave behind: the ._a.mrc of macOS holds no image.
        if lower.starts_with('.') || entry.path().is_dir() {
            continue;
        }
        if FOLDER_ENDINGS.iter().any(|ending| lower.ends_with(ending)) {
            names.push(name);
        } else if [".mrcs", ".map", ".st", ".rec", ".tif", ".tiff", ".png"].iter().any(|ending| lower.ends_with(ending)) {
            others += 1;
        }
    }
    ensure!(
        !names.is_empty(),
        "{}: no file ending in .mrc, .mrc.gz or .mrc.bz2{}; expected micrographs; check --data, or name other files in a list ending in .thi",
        folder.display(),
        if others > 0 { format!(", but {others} other images") } else { String::new() }
    );
    // By bytes: that is the order of code points, on every machine the same.
    names.sort_by(|a, b| a.as_encoded_bytes().cmp(b.as_encoded_bytes()));
    let micrographs = names.into_iter().map(|name| folder.join(name)).map(|path| found(path.clone(), path.display().to_string(), None));
    Ok(MicrographList { micrographs: micrographs.collect(), ..MicrographList::default() })
}

/// The entries of a list, and what there is to say about it.
struct Entries {
    entries: Vec<ListedMicrograph>,
    warnings: Vec<String>,
}

fn read_list(list: &Path) -> Result<Entries> {
    let bytes = std::fs::read(list).with_context(|| format!("{}: cannot be read", list.display()))?;
    let extension = list.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    // The original reads lists without a header; their first line is a path, which no header can be.
    if extension == "thi"
        && let Ok(text) = std::str::from_utf8(&bytes)
        && let Some(entries) = bare_list(text)
    {
        return Ok(Entries { entries, warnings: Vec::new() });
    }
    let file = label_file::read(&bytes, &extension, &label_file::ReadOptions::default()).with_context(|| list.display().to_string())?;
    let bare = |path: String| ListedMicrograph { path, pixel_size_angstrom: None };
    let entries = match file.content {
        Content::Micrographs(entries) => entries,
        Content::Pairs(pairs) => pairs.into_iter().map(|pair| bare(pair.micrograph)).collect(),
        Content::Coordinates(_) => bail!(
            "{}: this lists coordinates, not files; expected [File List: Filename] or rlnMicrographName; give the micrographs with --data",
            list.display()
        ),
    };
    Ok(Entries { entries, warnings: file.warnings.into_iter().map(|warning| format!("{}, {warning}", list.display())).collect() })
}

/// The lines of a list without header, if it is one: text whose first line is no header and no row of numbers.
fn bare_list(text: &str) -> Option<Vec<ListedMicrograph>> {
    let text = text.trim_start_matches('\u{feff}');
    let mut lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with(';')).peekable();
    let first = lines.peek()?;
    if first.starts_with('[') || first.split_whitespace().next().is_some_and(|token| token.parse::<f64>().is_ok()) {
        return None;
    }
    let paths = lines.take_while(|line| !line.starts_with('['));
    Some(paths.map(|path| ListedMicrograph { path: path.trim_matches(['"', '\'']).to_owned(), pixel_size_angstrom: None }).collect())
}

/// Looks for every entry: in the working directory (as the original), then in the list's folder, and for STAR in the
/// folders above, one of which is the RELION project.
fn of_entries(list: &Path, entries: Entries, skip_missing: bool) -> Result<MicrographList> {
    let mut result = MicrographList { warnings: entries.warnings, ..MicrographList::default() };
    let folder = list.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_star = list.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("star"));
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let mut seen = HashSet::new();
    let (mut repeated, mut ambiguous) = (0, None);
    for ListedMicrograph { path: entry, pixel_size_angstrom } in entries.entries {
        let given = PathBuf::from(&entry);
        let beside = folder.join(&given);
        let in_working_directory = given.is_file();
        let path = if in_working_directory {
            if given.is_relative() && beside.is_file() && !same_file(&given, &beside) {
                ambiguous.get_or_insert_with(|| entry.clone());
            }
            Some(given)
        } else if beside.is_file() {
            Some(beside)
        } else if is_star && given.is_relative() {
            absolute.ancestors().skip(1).map(|above| above.join(&given)).find(|path| path.is_file())
        } else {
            None
        };
        match path {
            Some(path) if seen.insert(path.clone()) => result.micrographs.push(found(path, entry, pixel_size_angstrom)),
            Some(_) => repeated += 1,
            None => result.missing.push(entry),
        }
    }
    if let Some(entry) = ambiguous {
        result.warnings.push(format!(
            "{}: {entry} exists in the working directory and beside the list; the one in the working directory is taken",
            list.display()
        ));
    }
    if repeated > 0 {
        result.warnings.push(format!("{}: {repeated} entries are listed more than once; each is taken once", list.display()));
    }
    if !result.missing.is_empty() {
        let total = result.missing.len() + result.micrographs.len();
        let names = told(&result.missing);
        ensure!(
            skip_missing,
            "{}: {} of {total} micrographs are missing: {names}; expected all to be there; correct the list or give --skip-missing",
            list.display(),
            result.missing.len()
        );
        result.warnings.push(format!(
            "{}: {} of {total} micrographs are missing and skipped: {names}",
            list.display(),
            result.missing.len()
        ));
    }
    Ok(result)
}

fn told(names: &[String]) -> String {
    let told = names.iter().take(NAMES_TOLD).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_TOLD { format!("{told} and {} more", names.len() - NAMES_TOLD) } else { told }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
