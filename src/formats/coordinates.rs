//! The values all coordinate formats share: points of one micrograph, in its own frame.

use anyhow::{Result, bail};
use std::fmt;
use std::str::FromStr;

/// What is looked for in a micrograph, and what a set of coordinates therefore describes. Its name is the value of
/// `--mode`, and the word in model files and candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// Centres of particles, all of one size.
    #[default]
    Particle,
    /// Centres and radii of vesicles.
    Vesicle,
    /// Vertices of fibers, in path order, with the same `group` for one fiber.
    Fiber,
}

impl Kind {
    /// All kinds, in the order in which help texts name them.
    pub const ALL: [Kind; 3] = [Kind::Particle, Kind::Vesicle, Kind::Fiber];

    /// The word on the command line, in model files and in candidates.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Particle => "particle",
            Kind::Vesicle => "vesicle",
            Kind::Fiber => "fiber",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| format!("unknown mode '{text}'; expected particle, vesicle or fiber"))
    }
}

/// Width and height of a box, in pixels of the micrograph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Full width in micrograph pixels.
    pub width: f64,
    /// Full height in micrograph pixels.
    pub height: f64,
}

impl Size {
    /// A square of side `side` (micrograph pixels).
    pub fn square(side: f64) -> Self {
        Size { width: side, height: side }
    }

    /// Radius of the vesicle this box encloses: (width + height) / 4.
    pub fn radius(self) -> f64 {
        (self.width + self.height) / 4.0
    }
}

/// One coordinate. Frame M: x is the column, y the row in file order, integers are pixel centres.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Coordinate {
    /// Column of the centre, micrograph pixels.
    pub x: f64,
    /// Row of the centre, micrograph pixels.
    pub y: f64,
    /// Score, if the file gives one. Ours are in 0..1; those of other programs are kept as they are.
    pub score: Option<f32>,
    /// Box around the centre, if the file gives one (a vesicle of radius r has a square of side 2r).
    pub size: Option<Size>,
    /// Size of the object itself where the file gives it beside the box (the estimate of a CBOX file).
    pub estimated_size: Option<Size>,
    /// Fiber the point belongs to; equal numbers are one fiber, in the order of the rows.
    pub group: Option<u32>,
}

impl Coordinate {
    /// A point with nothing but its place.
    pub fn at(x: f64, y: f64) -> Self {
        Coordinate { x, y, ..Coordinate::default() }
    }

    /// Radius of the vesicle (micrograph pixels): from the estimated size, else from the box.
    pub fn radius(&self) -> Option<f64> {
        self.estimated_size.or(self.size).map(Size::radius)
    }
}

/// All coordinates of one micrograph.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Coordinates {
    /// What the points are.
    pub kind: Kind,
    /// The points, in the order of the file.
    pub points: Vec<Coordinate>,
}

/// The coordinates of one micrograph, with what else its file says of it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Set {
    /// The micrograph as the file names it; `None` where the name of the file itself is all there is.
    pub micrograph: Option<String>,
    /// The points.
    pub coordinates: Coordinates,
    /// Pixel size that the file states for the micrograph, angstrom per pixel.
    pub pixel_size_angstrom: Option<f64>,
}

/// A micrograph in a list of micrographs.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedMicrograph {
    /// Path as written in the list.
    pub path: String,
    /// Pixel size that the list states, angstrom per pixel.
    pub pixel_size_angstrom: Option<f64>,
}

/// A micrograph and its coordinate file, in a list of pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedPair {
    /// Path of the micrograph as written in the list.
    pub micrograph: String,
    /// Path of the coordinate file as written in the list.
    pub coordinates: String,
}

/// What a coordinate file turned out to hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Coordinates, of one micrograph or of several.
    Coordinates(Vec<Set>),
    /// A list of micrographs.
    Micrographs(Vec<ListedMicrograph>),
    /// A list of micrographs, each with its coordinate file.
    Pairs(Vec<ListedPair>),
}

impl Content {
    /// Coordinates of the micrograph that the file itself is named after.
    pub fn one(kind: Kind, points: Vec<Coordinate>) -> Self {
        Content::Coordinates(vec![Set { coordinates: Coordinates { kind, points }, ..Set::default() }])
    }
}

/// What a reader wants to say without refusing the file: equal remarks are counted, not repeated.
#[derive(Clone, Debug, Default)]
pub struct Warnings {
    remarks: Vec<(String, usize, usize)>,
}

impl Warnings {
    /// Notes a remark about a line (0: about the whole file).
    pub fn note(&mut self, line: usize, remark: &str) {
        match self.remarks.iter_mut().find(|(known, _, _)| known == remark) {
            Some((_, _, more)) => *more += 1,
            None => self.remarks.push((remark.to_owned(), line, 0)),
        }
    }

    /// The remarks as messages, one line each.
    pub fn into_messages(self) -> Vec<String> {
        let message = |(remark, line, more): (String, usize, usize)| match (line, more) {
            (0, _) => remark,
            (_, 0) => format!("line {line}: {remark}"),
            _ => format!("line {line} and {more} more: {remark}"),
        };
        self.remarks.into_iter().map(message).collect()
    }
}

/// Numbers for the names of fibers: the names themselves where all are whole numbers, else 1, 2, ... by first appearance.
pub fn number_fibers(names: &[&str]) -> Vec<u32> {
    let whole = |name: &&str| {
        let value = name.parse::<f64>().ok()?;
        (value >= 0.0 && value <= f64::from(u32::MAX) && value.fract() == 0.0).then_some(value as u32)
    };
    if let Some(numbers) = names.iter().map(whole).collect::<Option<Vec<u32>>>() {
        return numbers;
    }
    let mut known = std::collections::HashMap::new();
    let mut number_of = |name| {
        let next = known.len() as u32 + 1;
        *known.entry(name).or_insert(next)
    };
    names.iter().map(|name| number_of(*name)).collect()
}

/// How a real position becomes an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Integers {
    /// To the nearest integer, halves up: floor(v + 0.5), the pixel whose area holds the position.
    #[default]
    Round,
    /// Toward zero, as the original does; half a pixel too small on average.
    Truncate,
}

impl Integers {
    /// The integer of `value`. NaN gives 0, values beyond 64 bit the nearest 64-bit integer.
    pub fn of(self, value: f64) -> i64 {
        match self {
            Integers::Round => (value + 0.5).floor() as i64,
            Integers::Truncate => value as i64,
        }
    }
}

impl Coordinates {
    /// The fibers: per group the indices of its points in path order; groups in order of their first point.
    ///
    /// Errors: a point belongs to no fiber.
    pub fn fibers(&self) -> Result<Vec<Vec<usize>>> {
        let mut place = std::collections::HashMap::new();
        let mut fibers: Vec<Vec<usize>> = Vec::new();
        for (i, point) in self.points.iter().enumerate() {
            let Some(group) = point.group else {
                bail!("point {}: it belongs to no fiber; expected points with a fiber number; choose a format for points", i + 1);
            };
            let fiber = *place.entry(group).or_insert_with(|| {
                fibers.push(Vec::new());
                fibers.len() - 1
            });
            fibers[fiber].push(i);
        }
        Ok(fibers)
    }

    /// The fibers with only those vertices that their shape needs: no dropped one is farther than `tolerance_px`
    /// (micrograph pixels) from the path. For formats that hold edges rather than points.
    ///
    /// Errors: a point belongs to no fiber.
    /// Source: Douglas and Peucker 1973, Cartographica 10(2).
    pub fn straightened(&self, tolerance_px: f64) -> Result<Coordinates> {
        let mut points = Vec::new();
        for fiber in self.fibers()? {
            let mut keep = vec![false; fiber.len()];
            let mut open = vec![(0, fiber.len() - 1)];
            (keep[0], keep[fiber.len() - 1]) = (true, true);
            while let Some((from, to)) = open.pop() {
                let [a, b] = [&self.points[fiber[from]], &self.points[fiber[to]]];
                let distance = |i: usize| distance_to_edge(&self.points[fiber[i]], a, b);
                let farthest = (from + 1..to).max_by(|&i, &j| distance(i).total_cmp(&distance(j)));
                if let Some(i) = farthest.filter(|&i| distance(i) > tolerance_px) {
                    keep[i] = true;
                    open.extend([(from, i), (i, to)]);
                }
            }
            points.extend(fiber.iter().zip(keep).filter(|(_, keep)| *keep).map(|(&i, _)| self.points[i]));
        }
        Ok(Coordinates { kind: self.kind, points })
    }

    /// Removes fibers of a single point, which have no direction; returns how many there were.
    pub fn drop_lone_vertices(&mut self) -> usize {
        let mut count = std::collections::HashMap::new();
        for point in &self.points {
            if let Some(group) = point.group {
                *count.entry(group).or_insert(0usize) += 1;
            }
        }
        let before = self.points.len();
        self.points.retain(|point| point.group.is_none_or(|group| count.get(&group) != Some(&1)));
        before - self.points.len()
    }
}

fn distance_to_edge(point: &Coordinate, a: &Coordinate, b: &Coordinate) -> f64 {
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    let length_2 = dx * dx + dy * dy;
    let along = if length_2 > 0.0 { (((point.x - a.x) * dx + (point.y - a.y) * dy) / length_2).clamp(0.0, 1.0) } else { 0.0 };
    (point.x - a.x - along * dx).hypot(point.y - a.y - along * dy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_up_on_both_sides_of_zero() {
        assert_eq!([0.5, -0.5, 2.49, -1.5].map(|v| Integers::Round.of(v)), [1, 0, 2, -1]);
        assert_eq!([0.9, -0.9, 2.49].map(|v| Integers::Truncate.of(v)), [0, 0, 2]);
        assert_eq!(Integers::Round.of(f64::NAN), 0);
    }

    #[test]
    fn interleaved_fibers_keep_their_order() {
        let point = |x: f64, group| Coordinate { group: Some(group), ..Coordinate::at(x, 0.0) };
        let mut all = Coordinates { kind: Kind::Fiber, points: vec![point(0.0, 7), point(1.0, 2), point(2.0, 7), point(3.0, 9)] };
        assert_eq!(all.fibers().unwrap(), [vec![0, 2], vec![1], vec![3]]);
        assert_eq!(all.drop_lone_vertices(), 2);
        assert_eq!(all.fibers().unwrap(), [vec![0, 1]]);
        all.points.push(Coordinate::at(0.0, 0.0));
        assert!(all.fibers().is_err());
    }

    #[test]
    fn a_straightened_fiber_keeps_its_ends_and_corners() {
        let point = |x: f64, y: f64| Coordinate { group: Some(1), ..Coordinate::at(x, y) };
        let points = vec![point(0.0, 0.0), point(10.0, 0.4), point(20.0, 0.0), point(20.0, 10.0), point(20.3, 20.0), point(20.0, 30.0)];
        let fiber = Coordinates { kind: Kind::Fiber, points: points.clone() };
        assert_eq!(fiber.straightened(0.5).unwrap().points, [points[0], points[2], points[5]]);
        assert_eq!(fiber.straightened(0.1).unwrap().points, points);
    }

    #[test]
    fn fiber_names_keep_their_numbers_if_they_are_numbers() {
        assert_eq!(number_fibers(&["3", "0.0", "3"]), [3, 0, 3]);
        assert_eq!(number_fibers(&["b", "1", "b", "-2"]), [1, 2, 1, 3]);
    }

    #[test]
    fn equal_remarks_are_counted() {
        let mut warnings = Warnings::default();
        warnings.note(3, "a");
        warnings.note(0, "whole");
        warnings.note(4, "a");
        assert_eq!(warnings.into_messages(), ["line 3 and 1 more: a", "whole"]);
    }
}
