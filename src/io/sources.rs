//! Which coordinates a path means: those of one file, of the files of a folder, or of the files that a list names.
//!
//! `coords`, `check`, `train`, `eval` and `exemplar` find their coordinates here. A file that cannot be read is noted and the
//! others are read; what such a fault means is for the command to judge.
//! Source: docs/formats.md, "Which files hold coordinates".

use super::find::find_micrographs;
use super::lists::{self, Places};
use super::names::{LABEL_EXTENSIONS, is_image_name};
use super::pairing::Name;
use crate::formats::coordinates::{Content, Coordinates, ListedPair, Set, Warnings};
use crate::formats::cs;
use crate::formats::detect::CoordinateFormat;
use crate::formats::label_file::{self, Family, ReadOptions};
use crate::formats::pixel_size::{self, Evidence, PixelSize};
use crate::formats::regular;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The coordinates of one micrograph, and where they come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Names by which they are paired with a micrograph.
    pub name: Name,
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: CoordinateFormat,
    /// The points.
    pub set: Set,
}

impl Source {
    /// The points at their places on the micrograph, with their refined shifts taken from them. `evidence` says how large the
    /// micrograph's pixels are.
    ///
    /// Errors: a refined shift leads off every micrograph.
    pub fn placed(&self, evidence: &Evidence, remarks: &mut Warnings) -> Result<Coordinates> {
        let mut set = self.set.clone();
        set.take_shifts(evidence.angstrom(), remarks).with_context(|| self.path.display().to_string())?;
        // A header that says 1 angstrom may not know the pixel size, but that matters here only if there are shifts.
        let matters = |size: PixelSize| size.source != pixel_size::Source::HeaderOfOne || !self.set.shifts.is_empty();
        evidence.doubt().filter(|_| evidence.decide().is_some_and(matters)).iter().for_each(|doubt| remarks.note(0, doubt));
        remarks.count(
            set.drop_equal(),
            "of the points were equal to another one of their micrograph, as after symmetry expansion; each is taken once",
        );
        Ok(set.coordinates)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Sources {
    /// The coordinates, in the order of the files; those of a folder by name.
    pub sources: Vec<Source>,
    /// Files that cannot be read.
    pub faults: Vec<Unreadable>,
    /// One line for each list that names files which are not there.
    pub missing: Vec<String>,
    /// What the user should know, a line each.
    pub warnings: Vec<String>,
    /// Files that have been read, so that a list beside its files adds nothing twice.
    read: HashSet<PathBuf>,
}

/// A file that cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Why.
    pub error: anyhow::Error,
    /// True for a `.txt`, `.json` or `.cs` of a folder, which may never have been meant as coordinates: a job of cryoSPARC
    /// writes tables of classes and volumes beside its particles.
    pub may_be_else: bool,
}

/// STAR files that RELION leaves in the folder of a job and that are no coordinates.
const RECORDS_OF_RELION: [&str; 5] =
    ["job.star", "job_pipeline.star", "default_pipeline.star", "RELION_OUTPUT_NODES.star", "continue_job.star"];

/// What one file holds, before lists are followed.
enum Held {
    Coordinates(CoordinateFormat, Vec<Set>),
    /// Coordinate files, each with its micrograph. The list is not `complete` if it names all micrographs although some of them
    /// may have no coordinates yet.
    Pairs {
        pairs: Vec<ListedPair>,
        complete: bool,
    },
    /// Coordinate files, without their micrographs.
    Files(Vec<String>),
    /// A list of micrographs, which has no coordinates.
    Micrographs,
}

/// Reads all coordinates of these files and folders.
///
/// A folder means its coordinate files, not those of folders below. Lists in a folder are passed over where the folder also
/// holds coordinates, since they name what is there already; otherwise they are followed.
///
/// Errors: nothing is there, or a folder has no coordinate file.
pub fn read_sources(inputs: &[PathBuf], options: &ReadOptions) -> Result<Sources> {
    let mut sources = Sources::default();
    // `picks/*.thi` names the list of a run as well as the files that it lists, so all files are read before any list is
    // followed.
    let mut later = Vec::new();
    for input in inputs {
        let metadata = std::fs::metadata(input).with_context(|| {
            format!("{}: cannot be found; expected a coordinate file, a folder or a list of them; correct the path", input.display())
        })?;
        if metadata.is_dir() {
            sources.folder(input, options)?;
        } else {
            match hold_named(input, options, &mut sources.warnings) {
                Ok(Held::Coordinates(format, sets)) => sources.add(input, format, sets),
                Ok(list) => later.push((input.as_path(), list)),
                Err(error) => sources.faults.push(Unreadable { error, may_be_else: false }),
            }
        }
    }
    for (path, list) in later {
        sources.follow(path, list, options);
    }
    Ok(sources)
}

/// The endings, in lower case, of the files of a folder that are read: those of the family of formats that the user has named,
/// or those of all formats.
fn endings(family: Option<Family>) -> &'static [&'static str] {
    match family {
        None => &LABEL_EXTENSIONS,
        Some(Family::Thi) => &["thi"],
        Some(Family::Star) => &["star"],
        Some(Family::Box) => &["box"],
        Some(Family::Coord) => &["coord", "coords", "txt"],
        Some(Family::Cbox) => &["cbox"],
        Some(Family::Topaz) => &["txt"],
        Some(Family::Json) => &["json"],
        Some(Family::Helicon) => &["txt", "box"],
        Some(Family::Cs) => &["cs"],
    }
}

fn extension_of(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

fn files_of(folder: &Path, family: Option<Family>, warnings: &mut Vec<String>) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("{}: the folder cannot be listed; check its rights", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_meant = !name.starts_with('.') && !RECORDS_OF_RELION.contains(&&*name) && endings(family).contains(&&*extension_of(&path));
        match regular::special(&path).filter(|_| is_meant) {
            Some(what) => warnings.push(format!("{}: is {what}, not a file; skipped", path.display())),
            None if is_meant && path.is_file() => files.push(path),
            None => {}
        }
    }
    files.sort();
    ensure!(
        !files.is_empty(),
        "{}: no coordinate files in this folder; expected files ending in .{}; check the folder and the format",
        folder.display(),
        endings(family).join(", .")
    );
    Ok(files)
}

/// Reads one file that was named by itself: [`hold`], but the particles of a `.cs` file without their places get them from the
/// passthrough file that their job has put beside it.
fn hold_named(path: &Path, options: &ReadOptions, warnings: &mut Vec<String>) -> Result<Held> {
    if extension_of(path) == "cs" && options.family.is_none_or(|family| family == Family::Cs) {
        let bytes = regular::read(path)?;
        if cs::are_without_places(&bytes) {
            for rest in passthrough_files(path) {
                let joined = regular::read(&rest).and_then(|rest| cs::read_with(&bytes, &rest, options.star.ignore_shifts));
                // A file that cannot be read, or has other particles, is not the one that is looked for.
                if let Ok(Some((Content::Coordinates(sets), more))) = joined {
                    warnings.push(format!("{}: the places of its particles are taken from {}", path.display(), rest.display()));
                    warnings.extend(more.into_messages().iter().map(|warning| format!("{}: {warning}", path.display())));
                    return Ok(Held::Coordinates(CoordinateFormat::Cs, sets));
                }
            }
        }
    }
    hold(path, options, warnings)
}

/// The passthrough files in the folder of a `.cs` file, by name.
fn passthrough_files(path: &Path) -> Vec<PathBuf> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains("passthrough") && extension_of(path) == "cs" && path.is_file()
    };
    let mut found: Vec<PathBuf> = entries.filter(is_meant).collect();
    found.sort();
    found
}

/// Reads one file without following it if it is a list.
fn hold(path: &Path, options: &ReadOptions, warnings: &mut Vec<String>) -> Result<Held> {
    let bytes = regular::read(path)?;
    let extension = extension_of(path);
    if let Some((table, suffix)) = lists::coords_suffix(path, &bytes) {
        return Ok(Held::Pairs { pairs: pairs_of_suffix(path, &table, &suffix)?, complete: false });
    }
    if let Some(files) = lists::bare_list(&bytes, &extension) {
        return Ok(if files.iter().all(|file| is_image_name(file)) { Held::Micrographs } else { Held::Files(files) });
    }
    let file = label_file::read(&bytes, &extension, options).with_context(|| path.display().to_string())?;
    warnings.extend(file.warnings.iter().map(|warning| format!("{}: {warning}", path.display())));
    Ok(match file.content {
        Content::Coordinates(sets) => Held::Coordinates(file.format, sets),
        Content::Pairs(pairs) => Held::Pairs { pairs, complete: true },
        Content::Micrographs(files) if files.iter().all(|file| is_image_name(&file.path)) => Held::Micrographs,
        Content::Micrographs(files) => Held::Files(files.into_iter().map(|file| file.path).collect()),
    })
}

/// The files that a `coords_suffix` list of RELION 3.1 means. They lie beside the list, and are called after the micrographs of
/// a table.
fn pairs_of_suffix(list: &Path, table: &str, suffix: &str) -> Result<Vec<ListedPair>> {
    let name = || format!("{}: the micrographs of {table}", list.display());
    let found = Places::of(list).find(table).with_context(|| format!("{}: names {table}, which is not there", list.display()))?;
    let micrographs = find_micrographs(&found, true).with_context(name)?;
    let names = micrographs.micrographs.into_iter().map(|one| one.name).chain(micrographs.missing);
    let coordinates = |micrograph: &str| format!("{}{suffix}.star", lists::below_job(micrograph).display());
    Ok(names.map(|micrograph| ListedPair { coordinates: coordinates(&micrograph), micrograph }).collect())
}

impl Sources {
    fn folder(&mut self, folder: &Path, options: &ReadOptions) -> Result<()> {
        let (before, mut lists) = (self.sources.len() + self.faults.len(), Vec::new());
        for path in files_of(folder, options.family, &mut self.warnings)? {
            match hold(&path, options, &mut self.warnings) {
                Ok(Held::Coordinates(format, sets)) => self.add(&path, format, sets),
                Ok(Held::Micrographs) => {}
                Ok(list) => lists.push((path, list)),
                Err(error) => {
                    let may_be_else = options.family.is_none() && ["txt", "json", "cs"].contains(&&*extension_of(&path));
                    self.faults.push(Unreadable { error, may_be_else });
                }
            }
        }
        if self.sources.len() + self.faults.len() > before {
            return Ok(());
        }
        ensure!(!lists.is_empty(), "{}: no file with coordinates, only lists of micrographs; expected coordinate files", folder.display());
        for (path, list) in lists {
            self.warnings.push(format!("{}: its folder holds no coordinates, so the files that it lists are taken", path.display()));
            self.follow(&path, list, options);
        }
        Ok(())
    }

    /// Takes the sets of a file. A set that names no micrograph goes by the file's own name.
    fn add(&mut self, path: &Path, format: CoordinateFormat, sets: Vec<Set>) {
        if !self.is_new(path) {
            return;
        }
        for set in sets {
            let name = set.micrograph.as_deref().map_or_else(|| Name::of_file(path), Name::in_table);
            self.sources.push(Source { name, path: path.to_owned(), format, set });
        }
    }

    fn is_new(&mut self, path: &Path) -> bool {
        path.canonicalize().is_ok_and(|path| self.read.insert(path))
    }

    /// Reads the files that a list names; files that are missing are counted and named.
    fn follow(&mut self, list: &Path, held: Held, options: &ReadOptions) {
        let (pairs, complete): (Vec<(Option<String>, String)>, bool) = match held {
            Held::Coordinates(format, sets) => return self.add(list, format, sets),
            Held::Micrographs => {
                let error = anyhow!("{}: this lists micrographs; expected coordinates; give it with --data", list.display());
                return self.faults.push(Unreadable { error, may_be_else: false });
            }
            Held::Pairs { pairs, complete } => {
                (pairs.into_iter().map(|pair| (Some(pair.micrograph), pair.coordinates)).collect(), complete)
            }
            Held::Files(files) => (files.into_iter().map(|file| (None, file)).collect(), true),
        };
        let mut places = Places::of(list);
        let (total, mut missing) = (pairs.len(), Vec::new());
        for (micrograph, entry) in pairs {
            let Some(path) = places.find(&entry) else {
                missing.push(entry);
                continue;
            };
            if self.read.contains(&path.canonicalize().unwrap_or_default()) {
                continue;
            }
            match listed(&path, micrograph, options, &mut self.warnings).with_context(|| format!("{}: listed here", list.display())) {
                Ok((format, sets)) => self.add(&path, format, sets),
                Err(error) => self.faults.push(Unreadable { error, may_be_else: false }),
            }
        }
        self.warnings.extend(places.warning());
        if missing.is_empty() {
            return;
        }
        let line = format!(
            "{}: {} of its {total} coordinate files {} missing: {}",
            list.display(),
            missing.len(),
            if missing.len() == 1 { "is" } else { "are" },
            lists::told(&missing)
        );
        if complete || missing.len() == total {
            self.missing.push(line);
        } else {
            self.warnings.push(line);
        }
    }
}

/// The sets of a file that a list names. The list knows best to which micrograph a single set belongs; a table of several
/// micrographs names them itself.
fn listed(
    path: &Path,
    micrograph: Option<String>,
    options: &ReadOptions,
    warnings: &mut Vec<String>,
) -> Result<(CoordinateFormat, Vec<Set>)> {
    let Held::Coordinates(format, mut sets) = hold(path, options, warnings)? else {
        bail!("{}: this is a list too; expected coordinates; correct the list", path.display());
    };
    if let ([set], Some(_)) = (sets.as_mut_slice(), &micrograph) {
        set.micrograph = micrograph;
    }
    Ok((format, sets))
}
