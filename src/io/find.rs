//! Which micrographs a path means: one file, the files of a folder, or those of a list.
//!
//! Source: docs/formats.md, "Which files are micrographs".

use crate::formats::coordinates::{Content, ListedMicrograph};
use crate::formats::pixel_size::Stated;
use crate::formats::{label_file, regular};
use crate::io::lists::{self, Places};
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
    /// What the list says of pixel sizes.
    pub pixel_size: Stated,
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

/// Finds the micrographs that `data` means.
///
/// A file is itself; a folder means its files ending in .mrc, .mrc.gz or .mrc.bz2 (any case), not those of folders
/// below; a file ending in .thi, .star, .txt or .cs is a list.
/// Errors: nothing is there; the folder or list holds no micrograph; the list holds coordinates; files of the list are
/// missing (all are told at once) and `skip_missing` is not set.
pub fn find_micrographs(data: &Path, skip_missing: bool) -> Result<MicrographList> {
    let metadata = std::fs::metadata(data).with_context(|| {
        format!(
            "{}: cannot be found; expected a micrograph, a folder of micrographs or a list ending in .thi, .star, .txt or .cs",
            data.display()
        )
    })?;
    let list = if metadata.is_dir() {
        of_folder(data)?
    } else if is_list(data) {
        of_entries(data, read_list(data)?, skip_missing)?
    } else {
        if let Some(what) = regular::special(data) {
            bail!("{}: is {what}; expected a micrograph, a folder of micrographs or a list; check --data", data.display());
        }
        MicrographList {
            micrographs: vec![found(data.to_owned(), data.display().to_string(), Stated::default())],
            ..MicrographList::default()
        }
    };
    ensure!(!list.micrographs.is_empty(), "{}: no micrograph; expected at least one; check --data", data.display());
    Ok(list)
}

/// Finds the micrographs that several paths mean, in the order of the paths. A micrograph that two of the paths mean is taken
/// once.
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
    ["thi", "star", "txt", "cs"].iter().any(|ending| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(ending)))
}

/// The files of a folder that are micrographs by their names, in code-point order; none is no error.
///
/// Errors: the folder cannot be listed.
pub fn micrographs_of_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(look_into(folder)?.micrographs)
}

/// What lies in a folder.
#[derive(Default)]
struct InFolder {
    micrographs: Vec<PathBuf>,
    /// Images of other kinds, which a list could name.
    other_images: usize,
    warnings: Vec<String>,
}

fn look_into(folder: &Path) -> Result<InFolder> {
    let unreadable = || format!("{}: the folder cannot be listed; check its rights", folder.display());
    let (mut names, mut within) = (Vec::new(), InFolder::default());
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let name = entry.file_name();
        let lower = name.to_string_lossy().to_ascii_lowercase();
        // Hidden files are what other programs leave behind: the ._a.mrc of macOS holds no image.
        if lower.starts_with('.') || entry.path().is_dir() {
            continue;
        }
        if FOLDER_ENDINGS.iter().any(|ending| lower.ends_with(ending)) {
            match regular::special(&entry.path()) {
                Some(what) => within.warnings.push(skipped(&entry.path(), what)),
                None => names.push(name),
            }
        } else if [".mrcs", ".map", ".st", ".rec", ".tif", ".tiff", ".png"].iter().any(|ending| lower.ends_with(ending)) {
            within.other_images += 1;
        }
    }
    // Names are sorted by their bytes. That is the order of their code points, and it is the same on every machine.
    names.sort_by(|a, b| a.as_encoded_bytes().cmp(b.as_encoded_bytes()));
    within.micrographs = names.into_iter().map(|name| folder.join(name)).collect();
    Ok(within)
}

fn found(path: PathBuf, name: String, pixel_size: Stated) -> Found {
    Found { path, name, pixel_size }
}

fn of_folder(folder: &Path) -> Result<MicrographList> {
    let InFolder { micrographs, other_images: others, warnings } = look_into(folder)?;
    ensure!(
        !micrographs.is_empty(),
        "{}: no file ending in .mrc, .mrc.gz or .mrc.bz2{}; expected micrographs; check --data, or name other files in a list ending in .thi",
        folder.display(),
        if others > 0 { format!(", but {others} other images") } else { String::new() }
    );
    let micrographs = micrographs.into_iter().map(|path| found(path.clone(), path.display().to_string(), Stated::default()));
    Ok(MicrographList { micrographs: micrographs.collect(), warnings, ..MicrographList::default() })
}

/// What is said of a named pipe, a socket or a device among the files.
fn skipped(path: &Path, what: &str) -> String {
    format!("{}: is {what}, not a file; skipped", path.display())
}

/// The entries of a list, and what there is to say about it.
struct Entries {
    entries: Vec<ListedMicrograph>,
    warnings: Vec<String>,
}

fn read_list(list: &Path) -> Result<Entries> {
    let bytes = regular::read(list)?;
    let extension = list.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if let Some(paths) = lists::bare_list(&bytes, &extension) {
        let entries = paths.into_iter().map(ListedMicrograph::at).collect();
        return Ok(Entries { entries, warnings: Vec::new() });
    }
    let file = label_file::read(&bytes, &extension, &label_file::ReadOptions::default()).with_context(|| list.display().to_string())?;
    let entries = match file.content {
        Content::Micrographs(entries) => entries,
        Content::Pairs(pairs) => pairs.into_iter().map(|pair| ListedMicrograph::at(pair.micrograph)).collect(),
        Content::Coordinates(_) => bail!(
            "{}: this lists coordinates, not files; expected [File List: Filename], rlnMicrographName or exposures of cryoSPARC; give the micrographs with --data",
            list.display()
        ),
    };
    Ok(Entries { entries, warnings: file.warnings.into_iter().map(|warning| format!("{}, {warning}", list.display())).collect() })
}

/// Looks for the file of every entry (see [`Places`]).
fn of_entries(list: &Path, entries: Entries, skip_missing: bool) -> Result<MicrographList> {
    let mut result = MicrographList { warnings: entries.warnings, ..MicrographList::default() };
    let mut places = Places::of(list);
    let mut seen = HashSet::new();
    let mut repeated = 0;
    for ListedMicrograph { path: entry, pixel_size } in entries.entries {
        let path = places.find(&entry);
        if path.is_none()
            && let Some((path, what)) = special_entry(&entry, list)
        {
            result.warnings.push(skipped(&path, what));
            continue;
        }
        match path {
            Some(path) if seen.insert(path.clone()) => result.micrographs.push(found(path, entry, pixel_size)),
            Some(_) => repeated += 1,
            None => result.missing.push(entry),
        }
    }
    result.warnings.extend(places.warning());
    if repeated > 0 {
        result.warnings.push(format!("{}: {repeated} entries are listed more than once; each is taken once", list.display()));
    }
    if !result.missing.is_empty() {
        let total = result.missing.len() + result.micrographs.len();
        let names = lists::told(&result.missing);
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

/// A named pipe, a socket or a device that an entry of a list leads to, and what it is.
fn special_entry(entry: &str, list: &Path) -> Option<(PathBuf, &'static str)> {
    let beside = list.parent().unwrap_or(Path::new("")).join(entry);
    [PathBuf::from(entry), beside].into_iter().find_map(|path| regular::special(&path).map(|what| (path, what)))
}
