//! Which coordinates belong to which micrograph. They are paired by the whole path first, then by the longest common tail of
//! folders, then by the file's name alone, and each time with and without the endings that other programs add.
//! Source: docs/formats.md, "Names".

use super::endings;
use super::names::{label_stem, micrograph_stem, plain};
use anyhow::{Result, bail, ensure};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Component, Path};

/// Under which names a micrograph or its coordinates are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// What messages call it: a path as the user or a file gave it.
    pub told: String,
    /// The file's name without extension.
    pub stem: String,
    /// The folders of each path that it is known by, the outermost first.
    folders: Vec<Vec<String>>,
    /// True where a table or a list names the micrograph itself, so that its folders are those of a micrograph.
    is_of_micrograph: bool,
}

impl Name {
    /// A micrograph at `path`, which the user or a list calls `given`.
    pub fn of_micrograph(given: &str, path: &Path) -> Name {
        let mut folders = vec![folders_of(Path::new(given))];
        let found = folders_of(path);
        if found != folders[0] {
            folders.push(found);
        }
        Name { told: given.to_owned(), stem: micrograph_stem(path).text, folders, is_of_micrograph: true }
    }

    /// A coordinate file that does not say to which micrograph it belongs, so that only its own name tells.
    pub fn of_file(path: &Path) -> Name {
        Name { told: path.display().to_string(), stem: label_stem(path), folders: vec![folders_of(path)], is_of_micrograph: false }
    }

    /// Coordinates of a micrograph that a table or a list names.
    pub fn in_table(micrograph: &str) -> Name {
        let path = micrograph.replace('\\', "/");
        let path = Path::new(&path);
        Name { told: micrograph.to_owned(), stem: micrograph_stem(path).text, folders: vec![folders_of(path)], is_of_micrograph: true }
    }

    /// The last `count` folders of each path, joined; a path with fewer folders is left out. [`WHOLE`] takes all folders of
    /// every path.
    fn tails(&self, count: usize) -> impl Iterator<Item = String> {
        self.folders.iter().filter_map(move |folders| match count {
            WHOLE => Some(folders.join("/")),
            _ => folders.len().checked_sub(count).map(|from| folders[from..].join("/")),
        })
    }

    fn depth(&self) -> usize {
        self.folders.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// Given in place of a number of folders, this means the whole path.
const WHOLE: usize = usize::MAX;

fn folders_of(path: &Path) -> Vec<String> {
    let parent = plain(path.parent().unwrap_or(Path::new("")));
    let name = |component: Component| match component {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    };
    parent.components().filter_map(name).collect()
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

/// A step of the pairing, which leaves out parts of the names of labels and of micrographs. Each step leaves out more than the
/// step before.
struct Step {
    what: &'static str,
    of_label: Reduce,
    of_micrograph: Reduce,
}

type Reduce = fn(&str) -> Option<Cow<'_, str>>;

const STEPS: [Step; 5] = [
    Step { what: "", of_label: |_| None, of_micrograph: |_| None },
    Step {
        what: "leaving out the ending of a picking program",
        of_label: |stem| endings::without_picking(stem).map(Cow::from),
        of_micrograph: |_| None,
    },
    Step {
        what: "leaving out cryoSPARC's unique id",
        of_label: |stem| endings::without_unique_id(stem).map(Cow::from),
        of_micrograph: |stem| endings::without_unique_id(stem).map(Cow::from),
    },
    Step {
        what: "leaving out endings of processing such as _DW",
        of_label: |stem| endings::without_processing(stem).map(Cow::from),
        of_micrograph: |stem| endings::without_processing(stem).map(Cow::from),
    },
    Step { what: "taking dots for underscores, as RELION writes them", of_label: without_dots, of_micrograph: without_dots },
];

/// RELION's motion correction puts an underscore for every dot in a movie's name (SerialEM's `Nov03_10.45.24` has two).
fn without_dots(stem: &str) -> Option<Cow<'_, str>> {
    stem.contains('.').then(|| Cow::from(stem.replace('.', "_")))
}

/// Pairs micrographs with labels.
///
/// Names whose whole paths agree are paired first, then those with the longest common tail of folders, and last those that
/// agree only in the name of the file. Within each of these, equal stems are paired before stems without their endings. A label
/// whose micrograph has gone to a better label stays alone: it is never given to a micrograph that fits it worse.
///
/// Errors: a label fits several micrographs equally well, or a micrograph several labels; the message names all of them.
/// Source: docs/formats.md, "Names".
pub fn match_names(micrographs: &[Name], labels: &[Name]) -> Result<Matching> {
    let forms_of = |names: &[Name], reduce: fn(&Step) -> Reduce| -> Vec<Vec<Vec<String>>> {
        names.iter().map(|name| forms(&name.stem, reduce)).collect()
    };
    let micrograph_forms = forms_of(micrographs, |step| step.of_micrograph);
    let label_forms = forms_of(labels, |step| step.of_label);
    let deepest = |names: &[Name]| names.iter().map(Name::depth).max().unwrap_or(0);
    let mut pairing = Pairing {
        label_of: vec![None; micrographs.len()],
        is_open: vec![true; labels.len()],
        by_step: Default::default(),
        by_name_alone: Vec::new(),
    };
    for tail in std::iter::once(WHOLE).chain((0..=deepest(micrographs).min(deepest(labels))).rev()) {
        // Most often no folder is common, and then nothing needs to be looked up.
        let folders: HashSet<String> = micrographs.iter().flat_map(|name| name.tails(tail)).collect();
        if !labels.iter().flat_map(|name| name.tails(tail)).any(|tail| folders.contains(&tail)) {
            continue;
        }
        for step in 0..STEPS.len() {
            if !pairing.is_open.contains(&true) {
                break;
            }
            let mut by_key: HashMap<String, Vec<usize>> = HashMap::new();
            for (i, (name, forms)) in micrographs.iter().zip(&micrograph_forms).enumerate() {
                for key in keys(name, &forms[step], tail) {
                    by_key.entry(key).or_default().push(i);
                }
            }
            pairing.take(micrographs, labels, &label_forms, &by_key, step, tail)?;
        }
    }
    Ok(pairing.finish(micrographs, labels))
}

/// The forms of a stem at each step. A step also has the forms of all steps before it.
fn forms(stem: &str, reduce: fn(&Step) -> Reduce) -> Vec<Vec<String>> {
    let mut all: Vec<String> = vec![stem.to_owned()];
    let mut by_step = Vec::with_capacity(STEPS.len());
    for step in &STEPS {
        for i in 0..all.len() {
            let shorter = reduce(step)(&all[i]).map(Cow::into_owned);
            if let Some(shorter) = shorter.filter(|shorter| !shorter.is_empty() && !all.contains(shorter)) {
                all.push(shorter);
            }
        }
        by_step.push(all.clone());
    }
    by_step
}

/// The keys by which a name is looked up: each tail of its folders, with each form of its stem.
fn keys(name: &Name, forms: &[String], tail: usize) -> BTreeSet<String> {
    name.tails(tail).flat_map(|folders| forms.iter().map(move |form| format!("{folders}/{form}"))).collect()
}

/// The pairs so far.
struct Pairing {
    label_of: Vec<Option<usize>>,
    /// True for each label that has neither been paired nor lost its micrograph to a better label.
    is_open: Vec<bool>,
    /// The pairs that each step has found.
    by_step: [Vec<(usize, usize)>; STEPS.len()],
    /// Pairs that were found by the name of the file alone, although both sides have folders, because their folders differ.
    by_name_alone: Vec<(usize, usize)>,
}

impl Pairing {
    /// Adds the pairs of one step for one length of tails.
    fn take(
        &mut self,
        micrographs: &[Name],
        labels: &[Name],
        label_forms: &[Vec<Vec<String>>],
        by_key: &HashMap<String, Vec<usize>>,
        step: usize,
        tail: usize,
    ) -> Result<()> {
        let mut claims: BTreeMap<usize, usize> = BTreeMap::new(); // micrograph to label
        let mut beaten = Vec::new();
        for (label, name) in labels.iter().enumerate().filter(|(label, _)| self.is_open[*label]) {
            let keys = keys(name, &label_forms[label][step], tail);
            let partners: BTreeSet<usize> = keys.iter().filter_map(|key| by_key.get(key)).flatten().copied().collect();
            if partners.iter().any(|micrograph| self.label_of[*micrograph].is_some()) {
                beaten.push(label);
                continue;
            }
            let mut partners = partners.into_iter();
            let (Some(partner), others) = (partners.next(), partners) else { continue };
            let others: Vec<usize> = others.collect();
            ensure!(
                others.is_empty(),
                "label {}: it fits the micrographs {}; expected one; name it with its folders, or rename it",
                name.told,
                listed(micrographs, std::iter::once(partner).chain(others))
            );
            if let Some(other) = claims.insert(partner, label) {
                bail!(
                    "micrograph {}: the labels {} fit it; expected one; remove or rename the others",
                    micrographs[partner].told,
                    listed(labels, [other, label].into_iter())
                );
            }
        }
        beaten.into_iter().for_each(|label| self.is_open[label] = false);
        for (micrograph, label) in claims {
            self.label_of[micrograph] = Some(label);
            self.is_open[label] = false;
            self.by_step[step].push((micrograph, label));
            let has_folders = |name: &Name| name.depth() > 0;
            if tail == 0 && labels[label].is_of_micrograph && has_folders(&labels[label]) && has_folders(&micrographs[micrograph]) {
                self.by_name_alone.push((micrograph, label));
            }
        }
        Ok(())
    }

    fn finish(self, micrographs: &[Name], labels: &[Name]) -> Matching {
        let mut is_paired = vec![false; labels.len()];
        self.label_of.iter().flatten().for_each(|&label| is_paired[label] = true);
        let note = |pairs: &[(usize, usize)], how: &str| {
            pairs.first().map(|&(micrograph, label)| {
                format!(
                    "{} {} paired by {how}, for example {} with {}",
                    pairs.len(),
                    if pairs.len() == 1 { "label" } else { "labels" },
                    labels[label].told,
                    micrographs[micrograph].told
                )
            })
        };
        let mut notes: Vec<String> = STEPS.iter().zip(&self.by_step).skip(1).filter_map(|(step, pairs)| note(pairs, step.what)).collect();
        notes.extend(note(&self.by_name_alone, "the file's name alone, because the folders differ"));
        Matching {
            pairs: self.label_of.iter().enumerate().filter_map(|(i, label)| label.map(|label| (i, label))).collect(),
            lone_micrographs: (0..micrographs.len()).filter(|i| self.label_of[*i].is_none()).collect(),
            lone_labels: (0..labels.len()).filter(|i| !is_paired[*i]).collect(),
            notes,
        }
    }
}

fn listed(names: &[Name], indices: impl Iterator<Item = usize>) -> String {
    const MOST: usize = 5;
    let all: Vec<&str> = indices.map(|i| names[i].told.as_str()).collect();
    let told = all[..all.len().min(MOST)].join(", ");
    if all.len() > MOST { format!("{told} and {} more", all.len() - MOST) } else { told }
}

/// Refuses two names of one folder that are equal without their extensions: `a.mrc` and `a.tif`, `a.star` and `a.box`.
/// `path` tells where an index came from.
///
/// Errors: there are two such names; the message tells both.
pub fn refuse_twins(names: &[Name], path: impl Fn(usize) -> String) -> Result<()> {
    let mut seen: HashMap<(String, &str), usize> = HashMap::new();
    for (i, name) in names.iter().enumerate() {
        let whole = name.folders.last().map(|folders| folders.join("/")).unwrap_or_default();
        if let Some(first) = seen.insert((whole, &name.stem), i) {
            bail!("{} and {}: both are called {}; expected one; move one away, or name the format wanted", path(first), path(i), name.stem);
        }
    }
    Ok(())
}

/// Names that tell the files apart. A name is the stem of its file. Where several files have the same stem, as many of their
/// folders as it takes stand before the stem, with `/` between them.
pub fn distinct(names: &[Name]) -> Vec<String> {
    let mut by_stem: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, name) in names.iter().enumerate() {
        by_stem.entry(&name.stem).or_default().push(i);
    }
    let mut distinct: Vec<String> = names.iter().map(|name| name.stem.clone()).collect();
    for (stem, group) in by_stem.into_iter().filter(|(_, group)| group.len() > 1) {
        let deepest = group.iter().map(|&i| names[i].depth()).max().unwrap_or(0);
        let with_folders = |i: usize, count: usize| -> String {
            let folders = names[i].folders.last().map(Vec::as_slice).unwrap_or_default();
            let tail = &folders[folders.len().saturating_sub(count)..];
            tail.iter().map(String::as_str).chain([stem]).collect::<Vec<_>>().join("/")
        };
        for count in 1..=deepest {
            let told: Vec<String> = group.iter().map(|&i| with_folders(i, count)).collect();
            if count == deepest || told.iter().collect::<BTreeSet<_>>().len() == told.len() {
                group.iter().zip(told).for_each(|(&i, told)| distinct[i] = told);
                break;
            }
        }
    }
    distinct
}
