//! Sheets: what has been said of each micrograph, label by label, in memory and in files.
//!
//! A sheet changes by small acts (a label is added, moved, removed), and after each it is written: the labels as a coordinate file that
//! every command reads, and all of it as a file of marks beside it. Acts of several windows meet here one after the other, so none
//! undoes the work of another; whoever has not seen the last ones is told.

use crate::formats::coordinates::{Coordinate, Coordinates, Kind, Size, Warnings};
use crate::formats::label_file;
use crate::formats::marks::{Item, Marks, Shape};
use crate::formats::pixel_size::Evidence;
use crate::formats::star::write as star;
use crate::formats::thi;
use crate::io::pairing::{Name, match_names};
use crate::io::sources;
use crate::io::write::{remove_earlier, write_whole};
use crate::train::labels::marks_beside;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most marks of one micrograph.
const MOST_ITEMS: usize = 50_000;
/// Files hold hundredths of a pixel, so labels that differ by less are the same.
const SAME_PX: f64 = 0.02;

/// What has been said of one micrograph.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    /// Labels and other marks.
    pub marks: Marks,
    /// Counts changes; grows with each, over all sheets.
    pub revision: u64,
    /// The window that made the last change.
    by: String,
}

/// All sheets of a folder of labels.
#[derive(Debug)]
pub struct Sheets {
    folder: PathBuf,
    kind: Kind,
    names: Vec<String>,
    all: Mutex<All>,
}

#[derive(Debug)]
struct All {
    sheets: Vec<Sheet>,
    revision: u64,
}

/// What became of some acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The number of changes of all sheets so far.
    pub revision: u64,
    /// Another window has changed the sheet since the one that acted has seen it.
    pub others: bool,
}

impl Sheets {
    /// Opens a folder of sheets, which need not be there. `names` are what the files of the micrographs are called, without extension.
    /// `labels` are labels of whatever format, which are taken over where there is no sheet yet; they themselves are never changed. The
    /// lines that are returned tell what was passed over.
    ///
    /// Errors: names of labels fit several micrographs, or the labels cannot be taken over.
    pub fn open(
        folder: &Path,
        labels: Option<&Path>,
        kind: Kind,
        names: Vec<String>,
        micrographs: &[Name],
    ) -> Result<(Sheets, Vec<String>)> {
        let mut said = Vec::new();
        let mut sheets = vec![Sheet::default(); names.len()];
        for (i, coordinates) in coordinates_of(folder, kind, micrographs, &mut said)? {
            sheets[i].marks.items = items_of(&coordinates, kind);
        }
        for (name, sheet) in names.iter().zip(&mut sheets) {
            match marks_beside(&coordinate_file(folder, name, kind)) {
                Ok(Some(marks)) => sheet.marks = joined(marks, std::mem::take(&mut sheet.marks.items)),
                Ok(None) => {}
                Err(error) => said.push(format!("{error:#}; passed over")),
            }
        }
        let opened = Sheets { folder: folder.to_owned(), kind, names, all: Mutex::new(All { sheets, revision: 1 }) };
        for (i, coordinates) in labels.map_or(Ok(Vec::new()), |labels| coordinates_of(labels, kind, micrographs, &mut said))? {
            let sheet = &mut opened.lock().sheets[i];
            if sheet.marks == Marks::default() {
                let marks = Marks { items: items_of(&coordinates, kind), ..Marks::default() };
                opened.write(folder, i, &marks)?;
                sheet.marks = marks;
            }
        }
        Ok((opened, said))
    }

    /// Where labels are kept.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of changes so far.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// A sheet as it is now.
    pub fn get(&self, i: usize) -> Option<Sheet> {
        self.lock().sheets.get(i).cloned()
    }

    /// Something of every sheet, in the order of the micrographs.
    pub fn each<T>(&self, of: impl Fn(&Sheet) -> T) -> Vec<T> {
        self.lock().sheets.iter().map(of).collect()
    }

    /// The micrographs that are to be left out altogether.
    pub fn excluded(&self) -> BTreeSet<usize> {
        self.lock().sheets.iter().enumerate().filter(|(_, sheet)| sheet.marks.excluded).map(|(i, _)| i).collect()
    }

    /// The sheets that other windows have changed since a revision.
    pub fn changed_since(&self, revision: u64, window: &str) -> Vec<usize> {
        let all = self.lock();
        let is_news = |(_, sheet): &(usize, &Sheet)| sheet.revision > revision && sheet.by != window;
        all.sheets.iter().enumerate().filter(is_news).map(|(i, _)| i).collect()
    }

    /// Does what a window asks, and writes the sheet. An act on a mark that another window has removed does nothing, and one that was
    /// done before does nothing new, so a window may ask again.
    ///
    /// Errors: there is no such sheet, an act cannot be understood, or the files cannot be written; then nothing is changed.
    pub fn act(&self, i: usize, window: &str, seen: u64, acts: &[Value]) -> Result<Outcome> {
        let mut all = self.lock();
        let sheet = all.sheets.get(i).with_context(|| format!("no micrograph {i}"))?;
        let others = sheet.revision > seen && sheet.by != window;
        let mut marks = sheet.marks.clone();
        for (k, act) in acts.iter().enumerate() {
            do_act(&mut marks, act).with_context(|| format!("ops, entry {}", k + 1))?;
        }
        if marks != sheet.marks {
            self.write(&self.folder, i, &marks)?;
            all.revision += 1;
            all.sheets[i] = Sheet { marks, revision: all.revision, by: window.to_owned() };
        }
        Ok(Outcome { revision: all.revision, others })
    }

    /// Writes the sheet of a micrograph into a folder. One that says nothing leaves no file behind, because an empty coordinate file
    /// would mean that nothing is there.
    ///
    /// Errors: a file cannot be written.
    pub fn write(&self, folder: &Path, i: usize, marks: &Marks) -> Result<()> {
        let name = self.names.get(i).with_context(|| format!("no micrograph {i}"))?;
        let path = coordinate_file(folder, name, self.kind);
        if marks == &Marks::default() {
            remove_earlier(&Marks::beside(&path))?;
            return remove_earlier(&path);
        }
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made; check the folder's rights", folder.display()))?;
        let coordinates = coordinates_of_shapes(marks.items.iter().map(|item| &item.shape), self.kind);
        let text = match self.kind {
            Kind::Particle => star::particles(&coordinates, star::Style::Relion),
            Kind::Vesicle | Kind::Fiber => thi::write(&coordinates, &thi::WriteOptions::default())?,
        };
        // The marks know more than the coordinates, so they go first.
        write_whole(&Marks::beside(&path), marks.write(name).as_bytes())?;
        write_whole(&path, text.as_bytes())
    }
}

/// The coordinate file of a micrograph. STAR has no column for radii, and knows no bends.
fn coordinate_file(folder: &Path, name: &str, kind: Kind) -> PathBuf {
    folder.join(format!("{name}.{}", if kind == Kind::Particle { "star" } else { "thi" }))
}

/// The coordinates of a folder of any format, each with the index of its micrograph.
fn coordinates_of(folder: &Path, kind: Kind, micrographs: &[Name], said: &mut Vec<String>) -> Result<Vec<(usize, Coordinates)>> {
    let is_there = folder.is_file() || (folder.is_dir() && std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()));
    if !is_there {
        return Ok(Vec::new());
    }
    let mut options = label_file::ReadOptions { kind: Some(kind).filter(|kind| *kind != Kind::Particle), ..Default::default() };
    options.star.fibers = kind == Kind::Fiber;
    let read = match sources::read_sources(&[folder.to_owned()], &options) {
        Ok(read) => read,
        // A folder without a coordinate file has no labels.
        Err(_) => return Ok(Vec::new()),
    };
    said.extend(read.warnings);
    said.extend(read.faults.iter().map(|fault| format!("{:#}; passed over", fault.error)));
    let names: Vec<Name> = read.sources.iter().map(|source| source.name.clone()).collect();
    let matching = match_names(micrographs, &names)?;
    let mut remarks = Warnings::default();
    let placed = |(i, source): &(usize, usize)| Ok((*i, read.sources[*source].placed(&Evidence::default(), &mut remarks)?));
    let coordinates = matching.pairs.iter().map(placed).collect::<Result<Vec<_>>>()?;
    said.extend(remarks.into_messages());
    Ok(coordinates)
}

/// Labels of a coordinate file. They get names of their own.
fn items_of(coordinates: &Coordinates, kind: Kind) -> Vec<Item> {
    let item = |(i, shape)| Item { id: format!("file{i}"), shape };
    let place = |point: &Coordinate| [point.x, point.y];
    match kind {
        Kind::Fiber => {
            let mut groups: Vec<(Option<u32>, Vec<[f64; 2]>)> = Vec::new();
            for point in &coordinates.points {
                match groups.iter_mut().find(|(group, _)| *group == point.group) {
                    // A piece ends where the next one begins.
                    Some((_, points)) if points.last() != Some(&place(point)) => points.push(place(point)),
                    Some(_) => {}
                    None => groups.push((point.group, vec![place(point)])),
                }
            }
            let fibers = groups.into_iter().filter(|(_, points)| points.len() > 1).map(|(_, points)| Shape::Fiber(points));
            fibers.enumerate().map(item).collect()
        }
        Kind::Particle => coordinates.points.iter().map(|point| Shape::Particle(place(point))).enumerate().map(item).collect(),
        Kind::Vesicle => {
            let shape = |point: &Coordinate| Some(Shape::Vesicle(place(point), point.radius().filter(|radius| *radius > 0.0)?));
            coordinates.points.iter().filter_map(shape).enumerate().map(item).collect()
        }
    }
}

/// Labels as coordinates, for a file.
pub fn coordinates_of_shapes<'a>(shapes: impl IntoIterator<Item = &'a Shape>, kind: Kind) -> Coordinates {
    let at = |[x, y]: [f64; 2]| Coordinate::at(x, y);
    let mut points = Vec::new();
    let mut group = 0;
    for shape in shapes {
        match shape {
            Shape::Particle(centre) if kind == Kind::Particle => points.push(at(*centre)),
            Shape::Vesicle(centre, radius) if kind == Kind::Vesicle => {
                points.push(Coordinate { size: Some(Size::square(2.0 * radius)), ..at(*centre) });
            }
            Shape::Fiber(vertices) if kind == Kind::Fiber => {
                group += 1;
                points.extend(vertices.iter().map(|vertex| Coordinate { group: Some(group), ..at(*vertex) }));
            }
            _ => {}
        }
    }
    Coordinates { kind, points }
}

/// Marks with the labels of the coordinate file beside them. If that has other labels than the marks, somebody has changed it since, and
/// its labels count.
fn joined(marks: Marks, of_file: Vec<Item>) -> Marks {
    let place = |item: &Item| match &item.shape {
        Shape::Particle(at) | Shape::Vesicle(at, _) => vec![*at],
        Shape::Fiber(points) => points.clone(),
        _ => Vec::new(),
    };
    let own: Vec<[f64; 2]> = marks.labels().flat_map(place).collect();
    let others: Vec<[f64; 2]> = of_file.iter().flat_map(place).collect();
    let is_same = |(a, b): (&[f64; 2], &[f64; 2])| (a[0] - b[0]).abs() < SAME_PX && (a[1] - b[1]).abs() < SAME_PX;
    // THI files hold whole numbers, so their places say only that the labels are the same ones.
    let near = |(a, b): (&[f64; 2], &[f64; 2])| (a[0] - b[0]).abs() < 1.0 && (a[1] - b[1]).abs() < 1.0;
    let pairs = || own.iter().zip(&others);
    if own.len() == others.len() && (pairs().all(is_same) || (pairs().all(near) && others.iter().flatten().all(|at| at.fract() == 0.0))) {
        return marks;
    }
    let rest = marks.items.into_iter().filter(|item| !item.shape.is_label());
    Marks { items: of_file.into_iter().chain(rest).collect(), ..marks }
}

fn do_act(marks: &mut Marks, act: &Value) -> Result<()> {
    let value = || act["value"].as_bool().context("\"value\": expected true or false");
    match act["op"].as_str().unwrap_or_default() {
        "add" => {
            let item = Item::of_json(&act["item"])?;
            match marks.items.iter_mut().find(|known| known.id == item.id) {
                Some(known) => *known = item,
                None => {
                    ensure!(marks.items.len() < MOST_ITEMS, "a micrograph has at most {MOST_ITEMS} marks");
                    marks.items.push(item);
                }
            }
        }
        "change" => {
            let item = Item::of_json(&act["item"])?;
            if let Some(known) = marks.items.iter_mut().find(|known| known.id == item.id) {
                *known = item;
            }
        }
        "remove" => {
            let id = act["id"].as_str().context("\"id\": expected the name of a mark")?;
            marks.items.retain(|item| item.id != id);
        }
        "finished" => marks.finished = value()?,
        "excluded" => marks.excluded = value()?,
        other => bail!("\"op\": {other}; expected add, change, remove, finished or excluded"),
    }
    Ok(())
}

impl Sheet {
    /// What a window is told of the sheet, with the number of changes of all sheets.
    pub fn to_json(&self, revision: u64) -> Value {
        let Marks { items, finished, excluded } = &self.marks;
        let items: Vec<Value> = items.iter().map(Item::to_json).collect();
        json!({ "rev": revision, "items": items, "finished": finished, "excluded": excluded })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, kind: Kind) -> Sheets {
        let names = ["a", "b"].map(str::to_owned).to_vec();
        let micrographs: Vec<Name> = names.iter().map(|name| Name::of_micrograph(name, Path::new(&format!("/d/{name}.mrc")))).collect();
        let (sheets, said) = Sheets::open(folder, None, kind, names, &micrographs).unwrap();
        assert_eq!(said, Vec::<String>::new());
        sheets
    }

    fn particle(id: &str, x: f64) -> Value {
        json!({ "op": "add", "item": { "id": id, "kind": "particle", "x": x, "y": 7.25 } })
    }

    #[test]
    fn what_was_said_is_there_again_and_every_command_reads_the_labels() {
        let folder = tempfile::tempdir().unwrap();
        let labels = folder.path().join("labels");
        for (kind, item, file) in [
            (Kind::Particle, json!({ "id": "k1", "kind": "particle", "x": 10.127, "y": 20.0 }), "a.star"),
            (Kind::Vesicle, json!({ "id": "k1", "kind": "vesicle", "x": 10.4, "y": 20.0, "r": 30.5 }), "a.thi"),
            (Kind::Fiber, json!({ "id": "k1", "kind": "fiber", "points": [[1.0, 2.0], [30.0, 40.5], [60.0, 40.0]] }), "a.thi"),
        ] {
            let _ = std::fs::remove_dir_all(&labels);
            let sheets = open(&labels, kind);
            let acts = [
                json!({ "op": "add", "item": item }),
                json!({ "op": "add", "item": { "id": "n1", "kind": "nothing", "x": 5.0, "y": 5.0 } }),
                json!({ "op": "finished", "value": true }),
            ];
            sheets.act(0, "w", 1, &acts).unwrap();
            let before = sheets.get(0).unwrap();
            assert_eq!(open(&labels, kind).get(0).unwrap().marks, before.marks, "{kind}");
            let options = label_file::ReadOptions { kind: Some(kind), ..Default::default() };
            let read = label_file::read_path(&labels.join(file), &options).unwrap();
            let crate::formats::coordinates::Content::Coordinates(sets) = read.content else { panic!("{file} is a list") };
            let points = &sets[0].coordinates.points;
            assert_eq!(points.len(), if kind == Kind::Fiber { 3 } else { 1 });
            assert!((points[0].x - if kind == Kind::Fiber { 1.0 } else { 10.127 }).abs() < 0.5);
        }
    }

    #[test]
    fn two_windows_keep_each_others_labels_and_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let sheets = open(folder.path(), Kind::Particle);
        let one = sheets.act(0, "w1", 1, &[particle("p1", 1.0)]).unwrap();
        assert!(!one.others);
        // The other window has not seen this, and adds its own.
        let two = sheets.act(0, "w2", 1, &[particle("p2", 2.0)]).unwrap();
        assert!(two.others);
        assert_eq!(sheets.get(0).unwrap().marks.items.len(), 2);
        assert_eq!(sheets.changed_since(one.revision, "w1"), [0]);
        assert_eq!(sheets.changed_since(one.revision, "w2"), [0; 0]);
        // One removes what the other moves.
        sheets.act(0, "w1", two.revision, &[json!({ "op": "remove", "id": "p2" })]).unwrap();
        let moved = json!({ "op": "change", "item": { "id": "p2", "kind": "particle", "x": 3.0, "y": 3.0 } });
        assert!(sheets.act(0, "w2", two.revision, &[moved]).unwrap().others);
        assert_eq!(sheets.get(0).unwrap().marks.items.len(), 1);
        // An act that is asked for twice is done once.
        sheets.act(0, "w1", 9, &[particle("p3", 3.0), particle("p3", 3.0)]).unwrap();
        assert_eq!(sheets.get(0).unwrap().marks.items.len(), 2);
    }

    #[test]
    fn what_cannot_be_done_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let sheets = open(folder.path(), Kind::Particle);
        for wrong in [json!({ "op": "explode" }), json!({ "op": "add", "item": { "id": "p", "kind": "particle", "x": "1" } }), json!(7)] {
            assert!(sheets.act(0, "w", 1, &[particle("p1", 1.0), wrong]).is_err());
            assert!(sheets.get(0).unwrap().marks.items.is_empty());
        }
        assert!(sheets.act(2, "w", 1, &[]).is_err());
        // A sheet that says nothing any more leaves no file.
        sheets.act(0, "w", 1, &[particle("p1", 1.0)]).unwrap();
        assert!(folder.path().join("a.star").is_file());
        sheets.act(0, "w", 1, &[json!({ "op": "remove", "id": "p1" })]).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn labels_of_another_program_are_taken_over_and_count_if_they_are_newer() {
        let given = tempfile::tempdir().unwrap();
        std::fs::write(given.path().join("b.box"), "10\t20\t8\t8\n").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let names = ["a", "b"].map(str::to_owned).to_vec();
        let micrographs: Vec<Name> = names.iter().map(|name| Name::of_micrograph(name, Path::new(name))).collect();
        for _ in 0..2 {
            let (sheets, _) = Sheets::open(folder.path(), Some(given.path()), Kind::Particle, names.clone(), &micrographs).unwrap();
            assert_eq!(sheets.get(1).unwrap().marks.items[0].shape, Shape::Particle([14.0, 24.0]));
            assert!(folder.path().join("b.star").is_file());
        }
        assert_eq!(std::fs::read_dir(given.path()).unwrap().count(), 1);
        let folder = tempfile::tempdir().unwrap();
        let sheets = open(folder.path(), Kind::Particle);
        let nothing = json!({ "op": "add", "item": { "id": "n1", "kind": "nothing", "x": 5.0, "y": 5.0 } });
        sheets.act(0, "w", 1, &[particle("p1", 1.0), nothing]).unwrap();
        let path = folder.path().join("a.star");
        let text = std::fs::read_to_string(&path).unwrap().replace("1.00\t7.25", "9.00\t9.00");
        std::fs::write(&path, text).unwrap();
        let items = open(folder.path(), Kind::Particle).get(0).unwrap().marks.items;
        assert_eq!(items.iter().map(|item| &item.shape).collect::<Vec<_>>(), [&Shape::Particle([9.0, 9.0]), &Shape::Nothing([5.0, 5.0])]);
    }
}
