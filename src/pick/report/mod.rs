//! Report: one self-contained page with every micrograph, its picks, and a threshold to move. No network, no server.
//!
//! The page holds a small picture of each micrograph and its peaks down to a low score, so the slider counts and
//! draws at once; the files themselves change only by the `epicker rethreshold` command that the page shows. Fibers were
//! traced at the written threshold, so the page has the traces for that one alone.

mod encode;

use crate::formats::coordinates::{Coordinates, Kind};
use crate::io::write::write_whole_by;
use crate::pick::colour::VIRIDIS;
use crate::pick::output::Pick;
use crate::preprocess::geometry::Geometry;
use crate::words::counted;
use anyhow::{Context, Result};
use encode::{base64, thumbnail};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// In the order in which they use each other.
const SCRIPTS: [&str; 4] = [include_str!("data.js"), include_str!("marks.js"), include_str!("charts.js"), include_str!("view.js")];
/// Most peaks of a micrograph that go into the page.
const MOST_PICKS: usize = 2000;
/// Width of the small pictures: smaller where there are many.
const WIDTHS: [(usize, usize); 4] = [(12, 1024), (60, 512), (250, 384), (usize::MAX, 256)];

/// Scores at this share of their range or below are not on the page of an evaluation, as picking keeps none of them.
const FLOOR: f64 = 0.01;

/// One micrograph of the page.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    name: String,
    size: [usize; 2],
    /// 4-bit grey PNG.
    thumbnail: Vec<u8>,
    /// x, y, radius and score of each pick, as shares of the width, the height, the width and the range of scores; 65535 is all.
    picks: Vec<[u16; 4]>,
    /// The traces of fibers, and the threshold at which they were traced.
    traces: Option<(Vec<u16>, f32)>,
    /// What became of each pick; empty where the truth is not known.
    fates: Vec<Fate>,
    /// The labels as the picks, with the score of the pick that found the label; the last number is 1 for a label that was found,
    /// plus 2 for one that does not count.
    labels: Vec<[u16; 5]>,
    /// On which fiber each pick and each label lies, and where on its path; empty where they are not points of fibers.
    along: [Vec<[u16; 2]>; 2],
    /// Scores above this are all there.
    complete_above: f64,
}

/// A pick as the page draws it. Frame M.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    /// Centre (x, y), micrograph pixels.
    pub centre: [f64; 2],
    /// Radius of its circle, micrograph pixels.
    pub radius: f64,
    /// Score.
    pub score: f32,
    /// The number of the fiber on which it lies, and its place on the path, for points of a fiber.
    pub along: Option<[u16; 2]>,
}

/// What became of a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It found nothing.
    Wrong = 0,
    /// It found a label.
    Right = 1,
    /// It lies at the border and does not count.
    Ignored = 2,
}

/// Something that should be found. Frame M.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    /// Centre (x, y), micrograph pixels.
    pub centre: [f64; 2],
    /// Radius, micrograph pixels.
    pub radius: f64,
    /// Score of the pick that found it.
    pub found_by: Option<f32>,
    /// It lies at the border and does not count.
    pub ignored: bool,
    /// As for a [`Mark`].
    pub along: Option<[u16; 2]>,
}

/// The truth about the picks of a micrograph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth {
    /// What should be found.
    pub labels: Vec<Label>,
    /// What became of each pick.
    pub fates: Vec<Fate>,
}

/// What is told above the micrographs.
#[derive(Clone, Debug)]
pub struct Heading {
    /// Model, mode, date: one line.
    pub about: String,
    /// What the reader should know besides.
    pub note: String,
    /// Words of the command that writes the files with the chosen threshold, whose number goes behind them; empty if there is no
    /// such command.
    pub command: Vec<String>,
    /// Threshold with which the page opens; without one it opens at the best threshold, where the truth is known.
    pub threshold: Option<f32>,
    /// Lowest and highest score that there can be.
    pub range: [f32; 2],
    /// What is picked.
    pub kind: Kind,
    /// The interval of the precision at each recall, where one is known: recall, lower end, upper end.
    pub band: Vec<[f64; 3]>,
}

impl Default for Heading {
    fn default() -> Self {
        Heading {
            about: String::new(),
            note: String::new(),
            command: Vec::new(),
            threshold: None,
            range: [0.0, 1.0],
            kind: Kind::default(),
            band: Vec::new(),
        }
    }
}

impl Heading {
    /// That of a folder of picks.
    pub fn of_picks(folder: &Path, kind: Kind, model: &str, threshold: f32, micrographs: usize) -> Heading {
        let micrographs = counted(micrographs, "micrograph");
        let about = format!("{micrographs}, mode {kind}, model {model}, epicker {}", env!("CARGO_PKG_VERSION"));
        let note = match kind {
            Kind::Fiber => "Lines are the traced fibers, in the colour of their mean score. The files change only by the command.",
            _ => "Circles have the written size and the colour of their score. The files change only by the command.",
        };
        let folder = folder.display().to_string();
        let command = ["epicker", "rethreshold", "--data", &folder, "--vis_thresh"].map(str::to_string).to_vec();
        Heading { about, note: note.to_string(), command, threshold: Some(threshold), kind, ..Heading::default() }
    }
}

impl Entry {
    /// A micrograph, from its equalised image (frame D, `geometry.frame` x `geometry.height_d`) and its peaks by
    /// descending score. `traced` are the written coordinates, and the threshold by which they were chosen. `micrographs`: how
    /// many the page will have.
    ///
    /// Errors: the picture cannot be encoded, or fibers are mixed with points.
    pub fn new(
        name: &str,
        grey: &[u8],
        geometry: &Geometry,
        picks: &[Pick],
        (traced, threshold): (&Coordinates, f32),
        micrographs: usize,
    ) -> Result<Entry> {
        let radius = |pick: &Pick| (pick.size[0] + pick.size[1]) / 4.0;
        let mark = |pick: &Pick| Mark { centre: pick.centre, radius: radius(pick), score: pick.score, along: None };
        let size = [geometry.nx, geometry.ny];
        let picks = picks.iter().take(MOST_PICKS).map(|pick| packed(&mark(pick), size, [0.0, 1.0])).collect();
        let entry = Entry::of(name, grey, geometry, picks, micrographs)?;
        let traces = if traced.kind == Kind::Fiber { Some((traces(traced, size)?, threshold)) } else { None };
        Ok(Entry { traces, ..entry })
    }

    /// A micrograph whose truth is known: `marks` in any order, and a fate for each. `range`: lowest and highest score of
    /// the page.
    ///
    /// Errors: the picture cannot be encoded.
    pub fn judged(
        name: &str,
        grey: &[u8],
        geometry: &Geometry,
        (marks, truth): (&[Mark], &Truth),
        range: [f32; 2],
        micrographs: usize,
    ) -> Result<Entry> {
        let size = [geometry.nx, geometry.ny];
        let floor = f64::from(range[0]) + FLOOR * f64::from(range[1] - range[0]);
        let mut order: Vec<usize> = (0..marks.len().min(truth.fates.len())).filter(|&i| f64::from(marks[i].score) > floor).collect();
        order.sort_by(|&a, &b| marks[b].score.total_cmp(&marks[a].score));
        let complete_above = order.get(MOST_PICKS).map_or(floor, |&i| f64::from(marks[i].score));
        order.truncate(MOST_PICKS);
        let label = |label: &Label| {
            let score = label.found_by.unwrap_or(range[0]);
            let mark = Mark { centre: label.centre, radius: label.radius, score, along: None };
            let [x, y, radius, score] = packed(&mark, size, range);
            [x, y, radius, score, u16::from(label.found_by.is_some()) + 2 * u16::from(label.ignored)]
        };
        let picks = order.iter().map(|&i| packed(&marks[i], size, range)).collect();
        let entry = Entry::of(name, grey, geometry, picks, micrographs)?;
        let fates = order.iter().map(|&i| truth.fates[i]).collect();
        let along = [order.iter().filter_map(|&i| marks[i].along).collect(), truth.labels.iter().filter_map(|label| label.along).collect()];
        Ok(Entry { fates, labels: truth.labels.iter().map(label).collect(), along, complete_above, ..entry })
    }

    fn of(name: &str, grey: &[u8], geometry: &Geometry, picks: Vec<[u16; 4]>, micrographs: usize) -> Result<Entry> {
        let width = WIDTHS.iter().find(|(most, _)| micrographs <= *most).map_or(256, |(_, width)| *width).min(geometry.frame);
        let thumbnail = thumbnail(grey, [geometry.frame, geometry.height_d], width)?;
        let size = [geometry.nx, geometry.ny];
        let name = name.to_string();
        let (fates, labels, along) = Default::default();
        Ok(Entry { name, size, thumbnail, picks, traces: None, fates, labels, along, complete_above: 0.0 })
    }

    /// What this micrograph adds to a page; with its truth, where that is known.
    pub fn to_part(&self, has_truth: bool) -> Part {
        Part { json: self.to_json(has_truth).to_string(), complete_above: self.complete_above }
    }

    fn to_json(&self, has_truth: bool) -> Value {
        let numbers = |values: &mut dyn Iterator<Item = u16>| base64(&values.flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
        let mut object = json!({
            "name": self.name,
            "nx": self.size[0],
            "ny": self.size[1],
            "picks": numbers(&mut self.picks.iter().flatten().copied()),
            "thumbnail": base64(&self.thumbnail),
        });
        if let Some((traces, threshold)) = &self.traces {
            object["traces"] = json!(numbers(&mut traces.iter().copied()));
            object["traced_at"] = json!(threshold);
        }
        if has_truth {
            if self.along.iter().any(|along| !along.is_empty()) {
                object["along"] = json!(numbers(&mut self.along[0].iter().flatten().copied()));
                object["label_along"] = json!(numbers(&mut self.along[1].iter().flatten().copied()));
            }
            object["fates"] = json!(base64(&self.fates.iter().map(|fate| *fate as u8).collect::<Vec<u8>>()));
            object["labels"] = json!(numbers(&mut self.labels.iter().flatten().copied()));
        }
        object
    }
}

/// A mark as the page holds it: shares of 65535.
fn packed(mark: &Mark, size: [usize; 2], [low, high]: [f32; 2]) -> [u16; 4] {
    let share = |value: f64, whole: usize| (value / whole as f64 * 65535.0).round().clamp(0.0, 65535.0) as u16;
    let score = f64::from(mark.score - low) / f64::from((high - low).max(f32::MIN_POSITIVE));
    // Rounded down: a score at the threshold is no pick, and must not become one here.
    let score = (score * 65535.0).clamp(0.0, 65535.0) as u16;
    [share(mark.centre[0], size[0]), share(mark.centre[1], size[1]), share(mark.radius, size[0]), score]
}

/// Fibers as the page holds them: how many points, the score, and each point as shares of width and height.
///
/// Errors: some of the points belong to a fiber and some do not.
fn traces(traced: &Coordinates, size: [usize; 2]) -> Result<Vec<u16>> {
    let mut out = Vec::new();
    for fiber in traced.fibers()? {
        // A longer path does not fit into 16 bits; no network finds one.
        let points = &fiber[..fiber.len().min(usize::from(u16::MAX))];
        let mark = |&i: &usize| {
            let point = &traced.points[i];
            let mark = Mark { centre: [point.x, point.y], radius: 0.0, score: point.score.unwrap_or(1.0), along: None };
            packed(&mark, size, [0.0, 1.0])
        };
        let Some([_, _, _, score]) = points.first().map(mark) else { continue };
        out.extend([points.len() as u16, score]);
        out.extend(points.iter().map(mark).flat_map(|[x, y, _, _]| [x, y]));
    }
    Ok(out)
}

/// What a micrograph adds to the page, as text: it may wait in a file of its own until the page is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// An object of the page's data.
    pub json: String,
    /// Scores above this are all there.
    complete_above: f64,
}

impl Part {
    /// The part that picking left as this text.
    ///
    /// Errors: the text holds no object: it was damaged, and would damage the page.
    pub fn parse(json: String) -> Result<Part> {
        let object: Result<serde_json::Map<String, Value>, _> = serde_json::from_str(&json);
        object.context("is no part of a report; remove it, and pick its micrograph again with --report")?;
        Ok(Part { json, complete_above: 0.0 })
    }
}

/// Writes the page into `out`, part after part, so that memory does not grow with the number of micrographs. `has_truth`: the
/// parts say what became of each pick.
///
/// Errors: a part cannot be had, or `out` cannot be written.
pub fn fill(out: &mut dyn Write, heading: &Heading, has_truth: bool, parts: impl Iterator<Item = Result<Part>>) -> Result<()> {
    let part = |text: &'static str, place: &str| text.split_once(place).unwrap_or((text, ""));
    let (head, rest) = part(PAGE, "@STYLE@");
    let (before, rest) = part(rest, "@DATA@");
    let (after, end) = part(rest, "@SCRIPT@");
    // A name such as `</script>` must not end the data.
    let harmless = |json: &str| json.replace('<', "\\u003c");
    write!(out, "{head}{STYLE}{before}{{\"micrographs\":[")?;
    let mut lowest = f64::from(heading.range[0]);
    for (i, part) in parts.enumerate() {
        let part = part?;
        lowest = lowest.max(part.complete_above);
        write!(out, "{}{}", if i > 0 { "," } else { "" }, harmless(&part.json))?;
    }
    let rest = json!({
        "about": heading.about,
        "note": heading.note,
        "command": heading.command.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" "),
        "threshold": heading.threshold,
        "range": heading.range,
        "lowest": lowest,
        "truth": has_truth,
        "fibers": heading.kind == Kind::Fiber,
        "band": heading.band,
        "viridis": VIRIDIS,
    });
    // The rest is an object of its own, whose opening brace the list above stands for.
    write!(out, "],{}{after}{}{end}", &harmless(&rest.to_string())[1..], SCRIPTS.concat())?;
    Ok(())
}

/// Writes the page to a file, as [`fill`] does.
///
/// Errors: as [`fill`], or the file cannot be written.
pub fn write(path: &Path, heading: &Heading, has_truth: bool, parts: impl Iterator<Item = Result<Part>>) -> Result<()> {
    write_whole_by(path, |out| fill(out, heading, has_truth, parts))
}

/// A word as a shell takes it.
pub fn shell_word(word: &str) -> String {
    let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+,:=@%".contains(c));
    if plain { word.to_string() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::coordinates::Coordinate;

    fn pick(x: f64, y: f64, score: f32) -> Pick {
        Pick { centre: [x, y], corners: [0.0; 4], size: [20.0, 20.0], score }
    }

    #[test]
    fn the_page_is_whole_and_names_cannot_break_out_of_it() {
        let geometry = Geometry::new(2048, 1024, 64);
        let grey = vec![100; 64 * 32];
        let picks = [pick(1024.0, 512.0, 0.9), pick(0.0, 1024.0, 0.3)];
        let traced = (&Coordinates::default(), 0.25);
        let entry = Entry::new("</script><b>.mrc", &grey, &geometry, &picks, traced, 1).unwrap();
        assert_eq!(entry.picks[0], [32768, 32768, 320, 58981]);
        let heading =
            Heading { about: "model m".into(), command: vec!["x".into(), "out put".into()], threshold: Some(0.25), ..Heading::default() };
        let mut page = Vec::new();
        fill(&mut page, &heading, false, std::iter::once(Ok(entry.to_part(false)))).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(["@DATA@", "@STYLE@", "@SCRIPT@", "</script><b>"].iter().all(|wrong| !page.contains(wrong)));
        let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["micrographs"][0]["name"], "</script><b>.mrc");
        assert_eq!(data["command"], "x 'out put'");
        assert_eq!((&data["truth"], &data["micrographs"][0]["fates"]), (&json!(false), &Value::Null));
        assert_eq!((&data["fibers"], &data["micrographs"][0]["traces"]), (&json!(false), &Value::Null));
        assert_eq!(data["viridis"][8], json!([253, 231, 37]));
        // Every element that the scripts ask for is there; those that they make themselves begin with `show_`.
        for name in page.split("at(\"").skip(1).filter_map(|rest| rest.split('"').next()).filter(|name| !name.starts_with("show_")) {
            assert!(page.contains(&format!("id=\"{name}\"")), "{name}");
        }
        // Nothing is fetched: no address in the page but those within it.
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src=\"/"));
    }
    #[test]
    fn fibers_have_the_traces_of_their_threshold() {
        let geometry = Geometry::new(2048, 1024, 64);
        let vertex = |group, x, y| Coordinate { group: Some(group), score: Some(0.5), ..Coordinate::at(x, y) };
        let points =
            vec![vertex(1, 0.0, 0.0), vertex(1, 1024.0, 512.0), vertex(2, 2048.0, 1024.0), vertex(2, 0.0, 0.0), vertex(2, 512.0, 0.0)];
        let traced = Coordinates { kind: Kind::Fiber, points };
        let entry = Entry::new("a", &[0; 64 * 32], &geometry, &[pick(1.0, 1.0, 0.9)], (&traced, 0.25), 1).unwrap();
        let (traces, threshold) = entry.traces.clone().unwrap();
        assert_eq!(traces, [2, 32767, 0, 0, 32768, 32768, 3, 32767, 65535, 65535, 0, 0, 16384, 0]);
        assert_eq!(threshold, 0.25);
        let part: Value = serde_json::from_str(&entry.to_part(false).json).unwrap();
        assert_eq!(part["traced_at"], 0.25);
        assert_eq!(part["traces"].as_str().unwrap().len(), (2 * traces.len()).div_ceil(3) * 4);
    }
}
