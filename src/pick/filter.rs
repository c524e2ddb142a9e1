//! Filter: threshold, border and distance tests, in this order, on the best K.
//!
//! [`filter`] works on the f32 values of frame M that a candidates file holds, so that `pick` and `rethreshold` agree
//! by construction. [`filter_d`] is the original's test on frame D in f32, for `--compat all`.
//! Limits are given in pixels of the 1024-wide image, whatever the frame.

use crate::compat::{Compat, Fault};
use crate::formats::candidates::Candidate;
use crate::pick::decode::BoxD;
use crate::preprocess::geometry::Geometry;
use std::collections::HashMap;

/// Width of the image in whose pixels the limits are given.
const LIMITS_WIDTH: f64 = 1024.0;

/// Least distance of particles in their diameters, where the scale is that of the particles: nearer ones are one and the same.
pub const DISTANCE_SIDES: f64 = 0.5;

/// What a pick must pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// So many best candidates are looked at.
    pub k: usize,
    /// The score must be above it (strictly).
    pub vis_thresh: f32,
    /// Least clearance between box and border, pixels of the 1024-wide image.
    pub edge: f64,
    /// Centres at this distance or less from a better pick drop, pixels of the 1024-wide image.
    pub min_distance: f64,
}

/// So many sides of a box of `side_m_px` (micrograph pixels) as a [`Limits::min_distance`] in a micrograph of `nx` columns.
pub fn sides_as_distance(sides: f64, side_m_px: f64, nx: usize) -> f64 {
    sides * side_m_px * LIMITS_WIDTH / nx as f64
}

/// Indices of the candidates that pass, best first.
///
/// `candidates` are in descending order of score. `box_m_px` is the side of the box of candidates that carry no size
/// (micrograph pixels). `compat`: only `edge-y` matters here.
pub fn filter(candidates: &[Candidate], limits: &Limits, [nx, ny]: [usize; 2], box_m_px: f64, compat: &Compat) -> Vec<usize> {
    let (nx, ny) = (nx as f64, ny as f64);
    let to_m = nx / LIMITS_WIDTH;
    let edge_x_m_px = limits.edge * to_m;
    let edge_y_m_px = if compat.has(Fault::EdgeY) { edge_x_m_px * ny / nx } else { edge_x_m_px };
    let is_inside = |candidate: &Candidate| {
        let (x, y) = (f64::from(candidate.x), f64::from(candidate.y));
        let [width, height] = candidate.size.map_or([box_m_px; 2], |size| size.map(f64::from));
        x - width / 2.0 >= edge_x_m_px
            && x + width / 2.0 <= nx - edge_x_m_px
            && y - height / 2.0 >= edge_y_m_px
            && y + height / 2.0 <= ny - edge_y_m_px
    };
    let passing: Vec<usize> = (0..candidates.len().min(limits.k))
        .take_while(|&i| candidates[i].score > limits.vis_thresh)
        .filter(|&i| is_inside(&candidates[i]))
        .collect();
    let centres: Vec<[f64; 2]> = passing.iter().map(|&i| [f64::from(candidates[i].x), f64::from(candidates[i].y)]).collect();
    let distance_m_px = limits.min_distance * to_m;
    let is_close = |a: usize, b: usize| {
        let (dx, dy) = (centres[a][0] - centres[b][0], centres[a][1] - centres[b][1]);
        dx * dx + dy * dy <= distance_m_px * distance_m_px
    };
    keep_best(&centres, distance_m_px, is_close).into_iter().map(|i| passing[i]).collect()
}

/// The original's tests on frame D (F = 1024 wide) in f32; indices of the boxes that pass, best first.
///
/// Every fault is on: the margin in y is scaled by ny/nx, and the image is as high as 1024 ny/nx, not cut to a whole
/// row.
pub fn filter_d(boxes: &[BoxD], limits: &Limits, geometry: &Geometry) -> Vec<usize> {
    let width_d = geometry.frame as f64;
    let ratio = geometry.ny as f64 / geometry.nx as f64;
    let to_frame = width_d / LIMITS_WIDTH;
    let (edge_x, edge_y) = (limits.edge * to_frame, limits.edge * to_frame * ratio);
    let height_d = width_d * geometry.ny as f64 / geometry.nx as f64;
    let is_inside = |detection: &BoxD| {
        let [x1, y1, x2, y2] = detection.corners.map(f64::from);
        !(x1 < edge_x || x2 > width_d - edge_x || y1 < edge_y || y2 > height_d - edge_y)
    };
    let passing: Vec<usize> =
        (0..boxes.len().min(limits.k)).filter(|&i| boxes[i].score > limits.vis_thresh && is_inside(&boxes[i])).collect();
    let centres: Vec<[f32; 2]> = passing
        .iter()
        .map(|&i| {
            let [x1, y1, x2, y2] = boxes[i].corners;
            [(x1 + x2) / 2.0, (y1 + y2) / 2.0]
        })
        .collect();
    let distance = (limits.min_distance * to_frame) as f32;
    let is_close = |a: usize, b: usize| {
        let (dx, dy) = (centres[a][0] - centres[b][0], centres[a][1] - centres[b][1]);
        dx * dx + dy * dy <= distance * distance
    };
    let places: Vec<[f64; 2]> = centres.iter().map(|centre| centre.map(f64::from)).collect();
    keep_best(&places, f64::from(distance), is_close).into_iter().map(|i| passing[i]).collect()
}

/// Greedy suppression: takes points in order, and keeps one if it is close to none kept before.
///
/// A grid of cells at least as wide as `distance` makes it linear in the number of points; `is_close` decides.
fn keep_best(places: &[[f64; 2]], distance: f64, is_close: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    // A little wider than the distance, so that rounding in `is_close` cannot reach past the neighbouring cell.
    let cell_px = (distance * 1.001).max(1.0);
    let cell_of = |place: &[f64; 2]| place.map(|v| (v / cell_px).floor() as i64);
    let mut kept: Vec<usize> = Vec::new();
    let mut cells: HashMap<[i64; 2], Vec<usize>> = HashMap::new();
    for (i, place) in places.iter().enumerate() {
        let [column, row] = cell_of(place);
        let mut around = (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| [column + dx, row + dy]));
        let is_taken = around.any(|cell| cells.get(&cell).is_some_and(|points| points.iter().any(|&j| is_close(i, j))));
        if !is_taken {
            cells.entry([column, row]).or_default().push(i);
            kept.push(i);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair compared, no grid.
    fn keep_best_plainly(count: usize, is_close: impl Fn(usize, usize) -> bool) -> Vec<usize> {
        let mut kept: Vec<usize> = Vec::new();
        for i in 0..count {
            if kept.iter().all(|&j| !is_close(i, j)) {
                kept.push(i);
            }
        }
        kept
    }

    #[test]
    fn the_grid_never_misses_a_close_pair() {
        let places: Vec<[f64; 2]> =
            (0..2000_u64).map(|i| [(i * 7919 % 1013) as f64 * 0.5 - 20.0, (i * 104_729 % 997) as f64 * 0.5]).collect();
        for distance in [0.0, 0.5, 1.0, 7.3, 40.0, 600.0] {
            let is_close = |a: usize, b: usize| {
                let (dx, dy) = (places[a][0] - places[b][0], places[a][1] - places[b][1]);
                dx * dx + dy * dy <= distance * distance
            };
            let kept = keep_best(&places, distance, is_close);
            assert_eq!(kept, keep_best_plainly(places.len(), is_close), "distance {distance}");
        }
    }

    fn at(x: f32, y: f32, score: f32) -> Candidate {
        Candidate { x, y, score, size: None }
    }

    const OPEN: Limits = Limits { k: 2000, vis_thresh: 0.0, edge: 0.0, min_distance: 0.0 };

    #[test]
    fn picks_at_the_right_border_survive() {
        // 2048 x 1024: 2 M pixels per limit pixel. The box is 38 px, so with edge 25 a centre keeps 69 px.
        let limits = Limits { edge: 25.0, ..OPEN };
        let candidates = [at(1979.0, 500.0, 0.9), at(1979.5, 500.0, 0.8), at(69.0, 955.0, 0.7), at(69.0, 955.5, 0.6)];
        assert_eq!(filter(&candidates, &limits, [2048, 1024], 38.0, &Compat::default()), [0, 2]);
        // The original's margin in y is half of that in x here.
        assert_eq!(filter(&candidates, &limits, [2048, 1024], 38.0, &Compat::only(&[Fault::EdgeY])), [0, 2, 3]);
    }

    #[test]
    fn the_best_k_are_taken_before_any_test() {
        let candidates = [at(1.0, 1.0, 0.9), at(500.0, 500.0, 0.8), at(600.0, 500.0, 0.7)];
        let kept = |limits| filter(&candidates, &limits, [1024, 1024], 19.0, &Compat::default());
        assert_eq!(kept(Limits { k: 2, ..OPEN }), [1]);
        assert_eq!(kept(Limits { vis_thresh: 0.7, ..OPEN }), [1], "the threshold is strict");
        assert_eq!(kept(Limits { min_distance: 100.0, ..OPEN }), [1], "a pair at exactly the distance is close");
        assert_eq!(kept(Limits { min_distance: 99.9, ..OPEN }), [1, 2]);
    }

    #[test]
    fn only_equal_places_drop_at_distance_zero() {
        let candidates = [at(500.0, 500.0, 0.9), at(500.0, 500.0, 0.8), at(500.001, 500.0, 0.7)];
        assert_eq!(filter(&candidates, &OPEN, [1024, 1024], 19.0, &Compat::default()), [0, 2]);
    }
}
