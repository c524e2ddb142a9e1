//! Marks: what somebody has said of a micrograph beside its labels: where nothing is, what is to be left out, and whether all of
//! it has been labelled.
//!
//! The file `NAME.marks` lies beside the coordinate file `NAME.star` (or `.thi`), and holds JSON. The workbench (`epicker view`)
//! writes it, and repeats the labels there with the names by which it tells them apart; `train` and `eval` read the rest.
//! Source: docs/formats.md, "Marks".

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The version of the layout that this program writes and reads.
const FORMAT: u64 = 1;
/// What a file ends with.
pub const EXTENSION: &str = "marks";
/// The most points of one line or outline.
const MOST_POINTS: usize = 100_000;
/// No micrograph has as many pixels along a side.
const FARTHEST_PX: f64 = 1e6;

/// All marks of one micrograph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    /// Labels and other marks, in the order in which they were made.
    pub items: Vec<Item>,
    /// Everything that is to be found has a label, so that the rest is background.
    pub finished: bool,
    /// The micrograph is to be left out altogether.
    pub excluded: bool,
}

/// One mark.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its name, which is unique within the micrograph.
    pub id: String,
    /// What it says, and where.
    pub shape: Shape,
}

/// What a mark says. Frame M; lengths in micrograph pixels.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A particle's centre.
    Particle([f64; 2]),
    /// A vesicle's centre and radius.
    Vesicle([f64; 2], f64),
    /// A fiber's vertices, in path order; two at least.
    Fiber(Vec<[f64; 2]>),
    /// Here is nothing that is looked for.
    Nothing([f64; 2]),
    /// The outline of an area that is to be left out, such as carbon; three points at least.
    Region(Vec<[f64; 2]>),
    /// A brush's stroke over an area that is to be left out: half its width, and its path.
    Brush(f64, Vec<[f64; 2]>),
}

impl Shape {
    /// True for what is looked for, false for what says where it is not.
    pub fn is_label(&self) -> bool {
        matches!(self, Shape::Particle(_) | Shape::Vesicle(..) | Shape::Fiber(_))
    }

    /// True for areas that are to be left out.
    pub fn is_area(&self) -> bool {
        matches!(self, Shape::Region(_) | Shape::Brush(..))
    }

    /// True if a point lies in an area that is to be left out.
    pub fn holds(&self, point: [f64; 2]) -> bool {
        match self {
            Shape::Region(outline) => is_inside(outline, point),
            Shape::Brush(half_width, path) => distance_to_path(path, point) <= *half_width,
            _ => false,
        }
    }

    /// True if a point lies within `reach` of what is marked: of a place, or of a path between its vertices, too. Areas reach nowhere.
    pub fn is_near(&self, point: [f64; 2], reach: f64) -> bool {
        match self {
            Shape::Particle(at) | Shape::Nothing(at) | Shape::Vesicle(at, _) => distance_to_path(&[*at], point) < reach,
            Shape::Fiber(path) => distance_to_path(path, point) < reach,
            Shape::Region(_) | Shape::Brush(..) => false,
        }
    }
}

/// True if a point lies within an outline: a ray to the right crosses it an odd number of times.
fn is_inside(outline: &[[f64; 2]], [x, y]: [f64; 2]) -> bool {
    let mut before = outline.last().copied().unwrap_or_default();
    let mut inside = false;
    for &corner in outline {
        let (([x1, y1], [x2, y2]), crosses) = ((before, corner), (before[1] > y) != (corner[1] > y));
        if crosses && x < x1 + (y - y1) / (y2 - y1) * (x2 - x1) {
            inside = !inside;
        }
        before = corner;
    }
    inside
}

/// Distance of a point from a path; from its only point if it has but one.
fn distance_to_path(path: &[[f64; 2]], point: [f64; 2]) -> f64 {
    let to = |[x, y]: [f64; 2]| (point[0] - x).hypot(point[1] - y);
    let to_edge = |edge: &[[f64; 2]]| {
        let ([x1, y1], [x2, y2]) = (edge[0], edge[1]);
        let (dx, dy) = (x2 - x1, y2 - y1);
        let length = dx * dx + dy * dy;
        let along = if length == 0.0 { 0.0 } else { (((point[0] - x1) * dx + (point[1] - y1) * dy) / length).clamp(0.0, 1.0) };
        to([x1 + along * dx, y1 + along * dy])
    };
    match path {
        [] => f64::INFINITY,
        [only] => to(*only),
        _ => path.windows(2).map(to_edge).fold(f64::INFINITY, f64::min),
    }
}

impl Marks {
    /// The file that belongs to a coordinate file.
    pub fn beside(coordinates: &Path) -> PathBuf {
        coordinates.with_extension(EXTENSION)
    }

    /// Labels alone: what is looked for.
    pub fn labels(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| item.shape.is_label())
    }

    /// Reads a file of marks.
    ///
    /// Errors: the text is no JSON, is of another version, or a mark is not as it should be.
    pub fn read(text: &str) -> Result<Marks> {
        let value: Value = serde_json::from_str(text).map_err(|error| anyhow::anyhow!("line {}: {error}; expected JSON", error.line()))?;
        match value["format"].as_u64() {
            Some(FORMAT) => {}
            Some(other) => bail!("format {other}; this program reads {FORMAT}; use the program that wrote it"),
            None => bail!("no \"format\"; expected marks of epicker view"),
        }
        let items = value["items"].as_array().context("no list \"items\"; expected marks of epicker view")?;
        let item = |(i, item): (usize, &Value)| Item::of_json(item).with_context(|| format!("items, entry {}", i + 1));
        let items = items.iter().enumerate().map(item).collect::<Result<Vec<Item>>>()?;
        let is = |key: &str| value[key] == json!(true);
        Ok(Marks { items, finished: is("finished"), excluded: is("excluded") })
    }

    /// The text of a file of marks. `micrograph` is for whoever reads it.
    pub fn write(&self, micrograph: &str) -> String {
        let about = "What epicker view knows of this micrograph. The labels are in the coordinate file of the same name, too.";
        let items: Vec<Value> = self.items.iter().map(Item::to_json).collect();
        let head = json!({
            "about": about, "format": FORMAT, "micrograph": micrograph, "finished": self.finished, "excluded": self.excluded
        });
        // One mark a line, so that a person can read it and a difference can be seen.
        let mut text = format!("{head:#}");
        text.truncate(text.trim_end().trim_end_matches('}').trim_end().len());
        let items: Vec<String> = items.iter().map(Value::to_string).collect();
        let items = if items.is_empty() { "[]".to_string() } else { format!("[\n    {}\n  ]", items.join(",\n    ")) };
        text + ",\n  \"items\": " + &items + "\n}\n"
    }
}

impl Item {
    /// A mark from its JSON.
    ///
    /// Errors: a kind that is not known, or something is missing or no number of a micrograph.
    pub fn of_json(value: &Value) -> Result<Item> {
        let id = value["id"].as_str().unwrap_or_default();
        let is_fit = (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        ensure!(is_fit, "\"id\": expected 1 to 32 letters and digits");
        let kind = value["kind"].as_str().unwrap_or_default();
        let shape = match kind {
            "particle" => Shape::Particle(place(value)?),
            "nothing" => Shape::Nothing(place(value)?),
            "vesicle" => Shape::Vesicle(place(value)?, length(value)?),
            "fiber" => Shape::Fiber(points(value, 2)?),
            "region" => Shape::Region(points(value, 3)?),
            "brush" => Shape::Brush(length(value)?, points(value, 1)?),
            _ => bail!("\"kind\": expected particle, vesicle, fiber, nothing, region or brush"),
        };
        Ok(Item { id: id.to_owned(), shape })
    }

    /// The mark as JSON.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        object.insert("id".into(), json!(self.id));
        let (kind, at, radius, points) = match &self.shape {
            Shape::Particle(at) => ("particle", Some(at), None, None),
            Shape::Nothing(at) => ("nothing", Some(at), None, None),
            Shape::Vesicle(at, radius) => ("vesicle", Some(at), Some(radius), None),
            Shape::Fiber(points) => ("fiber", None, None, Some(points)),
            Shape::Region(points) => ("region", None, None, Some(points)),
            Shape::Brush(half_width, points) => ("brush", None, Some(half_width), Some(points)),
        };
        object.insert("kind".into(), json!(kind));
        if let Some([x, y]) = at {
            object.extend([("x".into(), json!(x)), ("y".into(), json!(y))]);
        }
        radius.iter().for_each(|radius| drop(object.insert("r".into(), json!(radius))));
        points.iter().for_each(|points| drop(object.insert("points".into(), json!(points))));
        Value::Object(object)
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.abs() <= FARTHEST_PX)
}

fn place(value: &Value) -> Result<[f64; 2]> {
    let at = number(&value["x"]).zip(number(&value["y"]));
    at.map(|(x, y)| [x, y]).context("\"x\" and \"y\": expected pixels of the micrograph")
}

fn length(value: &Value) -> Result<f64> {
    number(&value["r"]).filter(|radius| *radius > 0.0).context("\"r\": expected pixels of the micrograph, more than 0")
}

fn points(value: &Value, least: usize) -> Result<Vec<[f64; 2]>> {
    let points = value["points"].as_array().filter(|points| (least..=MOST_POINTS).contains(&points.len()));
    let points = points.with_context(|| format!("\"points\": expected {least} points or more"))?;
    let point = |point: &Value| Some([number(&point[0])?, number(&point[1])?]);
    points.iter().map(|one| point(one).context("\"points\": expected [x, y], pixels of the micrograph")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_kinds() -> Marks {
        let item = |(i, shape): (usize, Shape)| Item { id: format!("mark{i}"), shape };
        let shapes = vec![
            Shape::Particle([10.5, 20.25]),
            Shape::Vesicle([100.0, 200.0], 31.5),
            Shape::Fiber(vec![[0.0, 0.0], [10.0, 0.1], [20.0, 5.0]]),
            Shape::Nothing([-1.0, 3.0]),
            Shape::Region(vec![[0.0, 0.0], [100.0, 0.0], [50.0, 100.0]]),
            Shape::Brush(8.0, vec![[5.0, 5.0]]),
        ];
        Marks { items: shapes.into_iter().enumerate().map(item).collect(), finished: true, excluded: false }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for marks in [all_kinds(), Marks::default(), Marks { excluded: true, ..Marks::default() }] {
            assert_eq!(Marks::read(&marks.write("m \"1\".mrc")).unwrap(), marks);
        }
    }

    #[test]
    fn broken_marks_are_refused_by_their_place() {
        let text = all_kinds().write("m");
        for (what, with, said) in [
            ("\"r\":31.5", "\"r\":-1", "entry 2: \"r\""),
            ("[10.0,0.1]", "[10.0]", "entry 3: \"points\""),
            ("\"x\":-1.0", "\"x\":1e9", "entry 4: \"x\""),
            ("mark4", "../x", "entry 5: \"id\""),
            ("\"format\": 1", "\"format\": 9", "format 9"),
            ("\"items\"", "\"things\"", "no list \"items\""),
            ("brush", "broom", "entry 6: \"kind\""),
        ] {
            assert!(text.contains(what), "{what} is not in {text}");
            let error = format!("{:#}", Marks::read(&text.replace(what, with)).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
        assert!(Marks::read("{").is_err());
    }

    #[test]
    fn areas_hold_what_lies_in_them() {
        let square = Shape::Region(vec![[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [0.0, 10.0]]);
        assert!(square.holds([5.0, 5.0]) && !square.holds([15.0, 5.0]) && !square.holds([5.0, -1.0]));
        let bay = Shape::Region(vec![[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [5.0, 2.0], [0.0, 10.0]]);
        assert!(bay.holds([1.0, 5.0]) && !bay.holds([5.0, 5.0]) && bay.holds([9.0, 5.0]));
        let stroke = Shape::Brush(2.0, vec![[0.0, 0.0], [10.0, 0.0]]);
        assert!(stroke.holds([5.0, 1.9]) && !stroke.holds([5.0, 2.1]) && stroke.holds([11.0, 1.0]) && !stroke.holds([12.5, 0.0]));
        assert!(!Shape::Particle([0.0, 0.0]).holds([0.0, 0.0]));
    }
}
