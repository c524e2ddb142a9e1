//! How well fibers were found, by length: how much of the labelled length was picked, and how much of the picked length
//! is labelled.

use crate::formats::coordinates::{Coordinate, Coordinates, Kind};
use crate::train::labels::along_fibers;
use anyhow::Result;
use std::collections::HashMap;

/// Lengths in micrograph pixels, summed over micrographs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lengths {
    /// Length of the labelled fibers.
    pub labelled: f64,
    /// The part of the labelled length that lies near a picked fiber.
    pub found: f64,
    /// Length of the picked fibers.
    pub picked: f64,
    /// The part of the picked length that lies near a labelled fiber.
    pub right: f64,
}

impl Lengths {
    /// Adds the lengths of another micrograph.
    pub fn add(&mut self, other: Lengths) {
        self.labelled += other.labelled;
        self.found += other.found;
        self.picked += other.picked;
        self.right += other.right;
    }

    /// Share of the picked length that is labelled.
    pub fn precision(&self) -> f64 {
        if self.picked > 0.0 { self.right / self.picked } else { 0.0 }
    }

    /// Share of the labelled length that was picked.
    pub fn recall(&self) -> f64 {
        if self.labelled > 0.0 { self.found / self.labelled } else { 0.0 }
    }

    /// The harmonic mean of precision and recall.
    pub fn f1(&self) -> f64 {
        let sum = self.precision() + self.recall();
        if sum > 0.0 { 2.0 * self.precision() * self.recall() / sum } else { 0.0 }
    }
}

/// Sampling distance along the fibers, micrograph pixels.
const STEP_PX: f64 = 1.0;

/// Compares the fibers of one micrograph; near is `reach_px` micrograph pixels or less from the other path.
///
/// Picks without fiber numbers are points: each stands for a pixel of length.
/// Errors: some of the points belong to a fiber and some do not.
pub fn compare(labels: &Coordinates, picks: &Coordinates, reach_px: f64) -> Result<Lengths> {
    let (labels, picks) = (pieces(labels)?, pieces(picks)?);
    let near = |pieces: &[Piece], others: &[Piece]| {
        let grid = Grid::new(others, reach_px);
        let whole: f64 = pieces.iter().map(|piece| piece.length).sum();
        let part: f64 = pieces.iter().filter(|piece| grid.has_near(piece.at)).map(|piece| piece.length).sum();
        [whole, part]
    };
    let ([labelled, found], [picked, right]) = (near(&labels, &picks), near(&picks, &labels));
    Ok(Lengths { labelled, found, picked, right })
}

/// A point on a fiber, as a page shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// Where it is, micrograph pixels.
    pub at: [f64; 2],
    /// Its score, or 1 if it has none.
    pub score: f32,
    /// The best score of the other side's points within reach; none if there is none.
    pub near: Option<f32>,
    /// The number of its fiber, from 1, and its place on the path. A point that belongs to no fiber has the number 0.
    pub along: [u16; 2],
}

/// A place on a fiber, its score, and its fiber and place as in [`Judged`].
type Sample = ([f64; 2], f32, [u16; 2]);

/// Points every `step_px` along the labelled and along the picked fibers of one micrograph, each with what is near it.
///
/// Errors: some of the points belong to a fiber and some do not.
pub fn judge(labels: &Coordinates, picks: &Coordinates, reach_px: f64, step_px: f64) -> Result<[Vec<Judged>; 2]> {
    let sampled = |coordinates: &Coordinates| -> Result<Vec<Sample>> {
        let points = match coordinates.kind {
            Kind::Fiber => along_fibers(coordinates, step_px)?,
            _ => coordinates.points.clone(),
        };
        let (mut along, mut group) = ([0u16, 0], None);
        let sample = |point: &Coordinate| {
            along = match point.group {
                None => [0, 0],
                same if same == group => [along[0], along[1].saturating_add(1)],
                _ => [along[0].saturating_add(1), 0],
            };
            group = point.group;
            ([point.x, point.y], point.score.unwrap_or(1.0), along)
        };
        Ok(points.iter().map(sample).collect())
    };
    let (labels, picks) = (sampled(labels)?, sampled(picks)?);
    let judged = |points: &[Sample], others: &[Sample]| -> Vec<Judged> {
        // The other side's points are a step apart, so that one lies within half a step of every place along it.
        let reach = reach_px.hypot(step_px / 2.0);
        let mut cells: HashMap<[i64; 2], Vec<Sample>> = HashMap::new();
        let cell = |at: [f64; 2]| at.map(|value| (value / reach.max(STEP_PX)).floor() as i64);
        others.iter().for_each(|other| cells.entry(cell(other.0)).or_default().push(*other));
        let near = |at: [f64; 2]| {
            let [cx, cy] = cell(at);
            let around = (-1..=1).flat_map(|dx| (-1..=1).map(move |dy| [cx + dx, cy + dy]));
            let found = around.filter_map(|cell| cells.get(&cell)).flatten();
            found.filter(|(other, _, _)| (other[0] - at[0]).hypot(other[1] - at[1]) <= reach).map(|(_, score, _)| *score).reduce(f32::max)
        };
        points.iter().map(|&(at, score, along)| Judged { at, score, near: near(at), along }).collect()
    };
    Ok([judged(&labels, &picks), judged(&picks, &labels)])
}

/// A short piece of a fiber around a point.
struct Piece {
    at: [f64; 2],
    length: f64,
}

fn pieces(coordinates: &Coordinates) -> Result<Vec<Piece>> {
    if coordinates.kind != Kind::Fiber {
        return Ok(coordinates.points.iter().map(|point| Piece { at: [point.x, point.y], length: STEP_PX }).collect());
    }
    let mut out = Vec::new();
    let sampled = Coordinates { kind: Kind::Fiber, points: along_fibers(coordinates, STEP_PX)? };
    for fiber in sampled.fibers()? {
        for edge in fiber.windows(2) {
            let [a, b] = [edge[0], edge[1]].map(|i| &sampled.points[i]);
            out.push(Piece { at: [(a.x + b.x) / 2.0, (a.y + b.y) / 2.0], length: (b.x - a.x).hypot(b.y - a.y) });
        }
    }
    Ok(out)
}

/// Points by square cells as wide as the reach.
struct Grid {
    reach: f64,
    cells: HashMap<[i64; 2], Vec<[f64; 2]>>,
}

impl Grid {
    fn new(pieces: &[Piece], reach: f64) -> Self {
        let reach = reach.max(STEP_PX);
        let mut cells: HashMap<[i64; 2], Vec<[f64; 2]>> = HashMap::new();
        for piece in pieces {
            cells.entry(piece.at.map(|value| (value / reach).floor() as i64)).or_default().push(piece.at);
        }
        Grid { reach, cells }
    }

    fn has_near(&self, [x, y]: [f64; 2]) -> bool {
        let [cx, cy] = [x, y].map(|value| (value / self.reach).floor() as i64);
        let offsets = (-1..=1).flat_map(|dx| (-1..=1).map(move |dy| [cx + dx, cy + dy]));
        offsets.filter_map(|cell| self.cells.get(&cell)).flatten().any(|other| (other[0] - x).hypot(other[1] - y) <= self.reach)
    }
}
