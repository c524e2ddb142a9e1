//! Link: picks of one micrograph become fibers, each a polyline through picked points.
//!
//! The tracer is the original's (`--tracer legacy`): from the best free point it walks to the nearest free point that
//! does not turn too much, forward, then backward, and keeps chains of five points or more. Straight pieces are then
//! merged, so that only the bends are left as vertices.
//! Points, distances and steps are micrograph pixels; x and y of a step are the two parts of a complex number.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

/// A chain with fewer points is not a fiber.
const MIN_POINTS: usize = 5;
/// Pieces that turn less than this (radians) are merged into one.
const MERGE_ANGLE: f64 = 0.15;

/// One fiber.
#[derive(Clone, Debug, PartialEq)]
pub struct Fiber {
    /// Indices of all its points, in path order.
    pub points: Vec<usize>,
    /// Indices of its bends and ends, in path order; at least two.
    pub vertices: Vec<usize>,
}

/// Links `points` (frame M, best score first) to fibers.
///
/// `max_gap_m_px`: longest step; the original's is a tenth of the micrograph's width. `max_turn_rad`: a step must
/// turn less than this from the one before.
/// The result depends on the order of the points: fibers are begun at the best.
pub fn link(points: &[[f64; 2]], max_gap_m_px: f64, max_turn_rad: f64) -> Vec<Fiber> {
    let mut tracer = Tracer::new(points, max_gap_m_px, max_turn_rad);
    let mut fibers = Vec::new();
    let mut start = 0;
    // The first start counts as used from the beginning, so no other chain can run through it while it searches.
    tracer.set(0, State::Used);
    while tracer.free_count >= 2 {
        let mut row = tracer.neighbours(start);
        let (forward, end_direction) = tracer.trace(start, &mut row, [0.0; 2]);
        // The far end's direction reversed, not the start's: the original's choice, and it cuts strongly bent fibers
        // at their start.
        let (backward, _) = tracer.trace(start, &mut row, end_direction.map(|part| -part));
        if tracer.states[start] == State::Free {
            tracer.set(start, State::Dead);
        }
        let chain: Vec<usize> = backward.into_iter().rev().chain(forward).collect();
        if chain.len() >= MIN_POINTS {
            let vertices = merge_straight(points, &chain);
            fibers.push(Fiber { points: chain, vertices });
        }
        match tracer.lowest_free() {
            Some(next) => start = next,
            None => break,
        }
    }
    fibers
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Used,
    Dead,
}

/// A neighbour on the heap: nearest first, lowest index among equals.
#[derive(Clone, Copy, PartialEq)]
struct Neighbour {
    distance: f64,
    index: usize,
}

impl Eq for Neighbour {}

impl PartialOrd for Neighbour {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Neighbour {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.index.cmp(&other.index))
    }
}

/// The neighbours of one point that are still to be tried. Those farther than the gap can never be taken, so they are left out;
/// the original keeps a full matrix of distances instead, and marks the entries that it has tried.
type Row = BinaryHeap<Reverse<Neighbour>>;

struct Tracer<'a> {
    points: &'a [[f64; 2]],
    max_gap: f64,
    max_turn: f64,
    states: Vec<State>,
    free_count: usize,
    first_free: usize,
    cells: HashMap<[i64; 2], Vec<usize>>,
}

impl<'a> Tracer<'a> {
    fn new(points: &'a [[f64; 2]], max_gap: f64, max_turn: f64) -> Self {
        let mut cells: HashMap<[i64; 2], Vec<usize>> = HashMap::new();
        for (i, point) in points.iter().enumerate() {
            cells.entry(cell_of(point, max_gap)).or_default().push(i);
        }
        let states = vec![State::Free; points.len()];
        Tracer { points, max_gap, max_turn, states, free_count: points.len(), first_free: 0, cells }
    }

    fn set(&mut self, index: usize, state: State) {
        if let Some(old) = self.states.get_mut(index) {
            self.free_count -= usize::from(*old == State::Free && state != State::Free);
            *old = state;
        }
    }

    fn lowest_free(&mut self) -> Option<usize> {
        while *self.states.get(self.first_free)? != State::Free {
            self.first_free += 1;
        }
        Some(self.first_free)
    }

    /// All points within the gap of point `cur`, itself excluded.
    fn neighbours(&self, cur: usize) -> Row {
        let [x, y] = self.points[cur];
        let [column, row] = cell_of(&self.points[cur], self.max_gap);
        let around = (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| [column + dx, row + dy]));
        around
            .filter_map(|cell| self.cells.get(&cell))
            .flatten()
            .filter(|&&i| i != cur)
            .filter_map(|&i| {
                let (dx, dy) = (self.points[i][0] - x, self.points[i][1] - y);
                let distance = (dx * dx + dy * dy).sqrt();
                (distance < self.max_gap).then_some(Reverse(Neighbour { distance, index: i }))
            })
            .collect()
    }

    /// Walks from `start`; returns the points in the order they were taken and the last step.
    ///
    /// A `direction` of zero means that there is none yet: the first step may then go anywhere, and its point of departure is
    /// recorded. A step of length zero also counts as no direction, because it does so in the original.
    fn trace(&mut self, start: usize, start_row: &mut Row, mut direction: [f64; 2]) -> (Vec<usize>, [f64; 2]) {
        let mut chain = Vec::new();
        let mut cur = start;
        let mut own_row: Option<Row> = None;
        while self.free_count > 0 {
            let row = own_row.as_mut().unwrap_or(&mut *start_row);
            let Some(&Reverse(Neighbour { index: next, .. })) = row.peek() else { break };
            let step = [self.points[next][0] - self.points[cur][0], self.points[next][1] - self.points[cur][1]];
            let is_first = direction == [0.0; 2];
            if self.states[next] != State::Free || !(is_first || turn(direction, step) < self.max_turn) {
                row.pop();
                continue;
            }
            // The entry stays on the row: back at this start, the original finds it again and passes it over.
            self.set(next, State::Used);
            if is_first {
                self.set(cur, State::Used);
                chain.push(cur);
            }
            chain.push(next);
            direction = step;
            cur = next;
            own_row = Some(self.neighbours(cur));
        }
        (chain, direction)
    }
}

/// The square cell of this side in which a point lies: column and row.
pub(super) fn cell_of(point: &[f64; 2], cell_px: f64) -> [i64; 2] {
    // Micrographs have at most a few hundred thousand pixels along a side; the cast saturates beyond.
    point.map(|v| (v / cell_px.max(f64::MIN_POSITIVE)).floor() as i64)
}

/// Angle between two steps, 0..pi: |arg(direction / (step + 1e-5))|.
///
/// The small number keeps a zero step from dividing by zero; it is part of the original's result.
fn turn(direction: [f64; 2], step: [f64; 2]) -> f64 {
    let [re, im] = divide(direction, [step[0] + 1e-5, step[1]]);
    im.atan2(re).abs()
}

/// Complex division by Smith's method, as NumPy does it. Source: Smith 1962, Algorithm 116.
fn divide([a, b]: [f64; 2], [c, d]: [f64; 2]) -> [f64; 2] {
    if c.abs() >= d.abs() {
        let ratio = d / c;
        let scale = 1.0 / (c + d * ratio);
        [(a + b * ratio) * scale, (b - a * ratio) * scale]
    } else {
        let ratio = c / d;
        let scale = 1.0 / (d + c * ratio);
        [(a * ratio + b) * scale, (b * ratio - a) * scale]
    }
}

/// Merges pieces that turn little: the vertices that are left, in path order.
///
/// The first step counts twice in the running direction; starting at the second would give other vertices.
fn merge_straight(points: &[[f64; 2]], chain: &[usize]) -> Vec<usize> {
    let step = |i: usize| -> [f64; 2] {
        let (from, to) = (points[chain[i - 1]], points[chain[i]]);
        [to[0] - from[0], to[1] - from[1]]
    };
    let mut vertices = vec![chain[0], chain[1]];
    let mut direction = step(1);
    for i in 1..chain.len() {
        let piece = step(i);
        if turn(direction, piece) < MERGE_ANGLE {
            if let Some(last) = vertices.last_mut() {
                *last = chain[i];
            }
            direction = [direction[0] + piece[0], direction[1] + piece[1]];
        } else {
            vertices.push(chain[i]);
            if i + 1 < chain.len() {
                direction = step(i + 1);
            }
        }
    }
    vertices
}
