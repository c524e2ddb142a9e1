//! Names: stems, what outputs are called, and which label belongs to which micrograph.
//! Source: docs/formats.md, "Names".

use anyhow::{Result, bail, ensure};
use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

/// Extensions of micrographs, lower case.
pub const IMAGE_EXTENSIONS: [&str; 8] = ["mrc", "mrcs", "map", "st", "rec", "tif", "tiff", "png"];
/// Extensions of coordinate files, lower case.
pub const LABEL_EXTENSIONS: [&str; 8] = ["thi", "star", "box", "coord", "coords", "cbox", "txt", "json"];
/// Names of the lists that a run writes beside its coordinate files.
const RESERVED: [&str; 2] = ["autopick", "merge_results"];
/// What programs add to the name of a label file.
const LABEL_ENDINGS: [&str; 7] = ["_particles", "_autopick", "_manualpick", "_extract", "_picked", "_train", "_info"];
/// What programs add to the name of a micrograph while processing it.
const PROCESSING_ENDINGS: [&str; 6] = ["_DW", "_noDW", "_aligned_mic", "_patch_aligned", "_doseweighted", "_fractions"];
/// cryoSPARC's unique ids have 21 digits; shorter numbers may be dates and belong to the name.
const SHORTEST_UID: usize = 15;

/// A micrograph's name without folder and extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stem {
    /// The stem; dots inside stay.
    pub text: String,
    /// False if the extension is none of an image: then it is kept, and worth a warning.
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
    /// The output of each input, in the order of the inputs. `stem` makes a name of a path.
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
        let shared = if self.keep_dirs { shared_folder(inputs) } else { PathBuf::new() };
        let mut taken: HashMap<String, &Path> = HashMap::new();
        let mut outputs = Vec::with_capacity(inputs.len());
        for input in inputs {
            let stem = stem(input);
            ensure!(
                !stem.is_empty() && stem != "." && stem != "..",
                "{}: its name is only an extension; expected a name; rename it",
                input.display()
            );
            // Only names of folders below the output folder: `..` must not lead out of it.
            let below: PathBuf = match (self.keep_dirs, input.parent()) {
                (true, Some(parent)) => {
                    let parent = plain(parent);
                    let rest = parent.strip_prefix(&shared).unwrap_or(&parent);
                    rest.components().filter(|component| matches!(component, Component::Normal(_))).collect()
                }
                _ => PathBuf::new(),
            };
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

/// Which label belongs to which micrograph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// Pairs of indices (micrograph, label), by micrograph.
    pub pairs: Vec<(usize, usize)>,
    /// Micrographs without a label.
    pub lone_micrographs: Vec<usize>,
    /// Labels without a micrograph.
    pub lone_labels: Vec<usize>,
    /// One line for each way, besides equal names, by which pairs were found.
    pub notes: Vec<String>,
}

/// Pairs stems of micrographs with stems of labels: equal names first, then without the endings of pickers, then
/// without the unique id of cryoSPARC, then without the endings of processing. A later step sees only what is left.
///
/// Errors: a step gives a label several micrographs, or a micrograph several labels; all are named.
/// Source: docs/formats.md, "Names".
pub fn match_labels(micrographs: &[String], labels: &[String]) -> Result<Matching> {
    const STEPS: [(&str, Reduce); 4] = [
        ("", Reduce { label: unchanged, micrograph: unchanged }),
        ("the ending of a picking program", Reduce { label: without_label_ending, micrograph: unchanged }),
        ("cryoSPARC's unique id", Reduce { label: without_uid, micrograph: without_uid }),
        ("endings of processing such as _DW", Reduce { label: without_processing, micrograph: without_processing }),
    ];
    let mut micrograph_forms: Vec<Vec<&str>> = micrographs.iter().map(|name| vec![name.as_str()]).collect();
    let mut label_forms: Vec<Vec<&str>> = labels.iter().map(|name| vec![name.as_str()]).collect();
    let mut label_of: Vec<Option<usize>> = vec![None; micrographs.len()];
    let mut is_paired = vec![false; labels.len()];
    let mut notes = Vec::new();
    for (what, reduce) in STEPS {
        extend_forms(&mut micrograph_forms, reduce.micrograph);
        extend_forms(&mut label_forms, reduce.label);
        let mut by_form: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, forms) in micrograph_forms.iter().enumerate().filter(|(i, _)| label_of[*i].is_none()) {
            forms.iter().for_each(|form| by_form.entry(form).or_default().push(i));
        }
        let mut found: HashMap<usize, usize> = HashMap::new(); // micrograph to label, of this step
        for (label, forms) in label_forms.iter().enumerate().filter(|(label, _)| !is_paired[*label]) {
            let partners: HashSet<usize> = forms.iter().filter_map(|form| by_form.get(form)).flatten().copied().collect();
            let mut partners: Vec<usize> = partners.into_iter().collect();
            partners.sort_unstable();
            let [partner] = partners[..] else {
                ensure!(
                    partners.is_empty(),
                    "label {}: it fits the micrographs {}; expected one; rename it",
                    labels[label],
                    listed(micrographs, &partners)
                );
                continue;
            };
            if let Some(other) = found.insert(partner, label) {
                bail!(
                    "micrograph {}: the labels {} fit it; expected one; remove or rename the others",
                    micrographs[partner],
                    listed(labels, &[other, label])
                );
            }
        }
        let mut pairs: Vec<(usize, usize)> = found.into_iter().collect();
        pairs.sort_unstable();
        for &(micrograph, label) in &pairs {
            label_of[micrograph] = Some(label);
            is_paired[label] = true;
        }
        if let (false, Some(&(micrograph, label))) = (what.is_empty(), pairs.first()) {
            notes.push(format!(
                "{} {} paired by leaving out {what}, for example {} with {}",
                pairs.len(),
                if pairs.len() == 1 { "label" } else { "labels" },
                labels[label],
                micrographs[micrograph]
            ));
        }
    }
    Ok(Matching {
        pairs: label_of.iter().enumerate().filter_map(|(i, label)| label.map(|label| (i, label))).collect(),
        lone_micrographs: (0..micrographs.len()).filter(|i| label_of[*i].is_none()).collect(),
        lone_labels: (0..labels.len()).filter(|i| !is_paired[*i]).collect(),
        notes,
    })
}

/// What a step leaves out of the names of either side.
struct Reduce {
    label: fn(&str) -> Option<&str>,
    micrograph: fn(&str) -> Option<&str>,
}

/// Adds to each name's forms what `reduce` makes of them.
fn extend_forms(all: &mut [Vec<&str>], reduce: fn(&str) -> Option<&str>) {
    for forms in all {
        for i in 0..forms.len() {
            if let Some(shorter) = reduce(forms[i]).filter(|shorter| !shorter.is_empty() && !forms.contains(shorter)) {
                forms.push(shorter);
            }
        }
    }
}

fn unchanged(_: &str) -> Option<&str> {
    None
}

fn without_label_ending(stem: &str) -> Option<&str> {
    LABEL_ENDINGS.iter().find_map(|ending| stem.strip_suffix(ending))
}

fn without_uid(stem: &str) -> Option<&str> {
    let digits = stem.bytes().take_while(u8::is_ascii_digit).count();
    (digits >= SHORTEST_UID).then(|| stem[digits..].strip_prefix('_')).flatten()
}

fn without_processing(stem: &str) -> Option<&str> {
    let mut short = stem;
    while let Some(shorter) = PROCESSING_ENDINGS.iter().find_map(|ending| short.strip_suffix(ending)) {
        short = shorter;
    }
    (short.len() < stem.len()).then_some(short)
}

fn listed(names: &[String], indices: &[usize]) -> String {
    const MOST: usize = 5;
    let mut text = indices.iter().take(MOST).map(|&i| names[i].as_str()).collect::<Vec<_>>().join(", ");
    if indices.len() > MOST {
        text.push_str(&format!(" and {} more", indices.len() - MOST));
    }
    text
}

fn base_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// `name` without its extension, if that is one of `known` in any case.
fn strip_extension<'a>(name: &'a str, known: &[&str]) -> Option<&'a str> {
    let (stem, extension) = name.rsplit_once('.')?;
    (!stem.is_empty() && known.iter().any(|one| one.eq_ignore_ascii_case(extension))).then_some(stem)
}

/// The deepest folder that all inputs lie in.
fn shared_folder(inputs: &[PathBuf]) -> PathBuf {
    let mut folders = inputs.iter().map(|input| plain(input.parent().unwrap_or(Path::new(""))));
    let Some(first) = folders.next() else { return PathBuf::new() };
    folders.fold(first, |shared, folder| shared.components().zip(folder.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect())
}

/// A path without `.` and, where that is possible without asking the disk, without `..`.
fn plain(path: &Path) -> PathBuf {
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
