//! In which order the points of a fiber follow each other along it.
//!
//! The order of its points is the path of a fiber, but a table of helical segments need not keep that order: RELION sorts and
//! splits its tables, and a selection of classes comes back class by class. Points in a wrong order make a path that jumps to
//! and fro, and training and `--to segments` would then put points where there is no fiber.

use super::coordinates::{Coordinate, Warnings};
use std::collections::HashMap;

/// The path in the order of the rows is taken if it is no more than this factor longer than the shortest path that was found.
/// The search below is not exact, and real points scatter about their fiber.
const ROWS_TOLERANCE: f64 = 1.05;
/// The path in the order of the track lengths is taken if it is no more than this factor longer than the shortest. RELION
/// starts the track anew at each straight piece of a tube that was given as several pairs; a path by such track lengths goes to
/// and fro between the pieces, and is several times as long.
const TRACK_TOLERANCE: f64 = 1.5;
/// The path of a fiber with more points than these is not improved by turning pieces of it round, because the work for that
/// grows with the square of their number.
const MOST_TO_IMPROVE: usize = 2000;

/// What told the order of the points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The rows: the points were in order already.
    Rows,
    /// The track lengths, which are distances along the fiber from its start.
    Track,
    /// The places of the points: each point is followed by its neighbour.
    Places,
}

/// The order of the points of several fibers along their paths, as indices. Points change places only within their fiber.
/// `tracks` are the distances along the fibers, where the file has them. A warning counts the fibers that were out of order.
pub fn of_fibers(points: &[Coordinate], tracks: &[Option<f64>], warnings: &mut Warnings) -> Vec<usize> {
    let mut fibers: Vec<Vec<usize>> = Vec::new();
    let mut places = HashMap::new();
    for (i, point) in points.iter().enumerate() {
        let fiber = *places.entry(point.group).or_insert_with(|| {
            fibers.push(Vec::new());
            fibers.len() - 1
        });
        fibers[fiber].push(i);
    }
    let mut taken: Vec<usize> = (0..points.len()).collect();
    for fiber in fibers {
        let places: Vec<[f64; 2]> = fiber.iter().map(|&i| [points[i].x, points[i].y]).collect();
        let tracks: Option<Vec<f64>> = fiber.iter().map(|&i| tracks.get(i).copied().flatten()).collect();
        let (order, how) = along_path(&places, tracks.as_deref());
        match how {
            Order::Rows => continue,
            Order::Track => {
                warnings.count(1, "of the fibers had points out of order along their path; the track lengths put them in order");
            }
            Order::Places => {
                warnings.count(1, "of the fibers had points out of order along their path; now each point is followed by its neighbour");
            }
        }
        fiber.iter().zip(order).for_each(|(&place, from)| taken[place] = fiber[from]);
    }
    taken
}

/// True if each point of each fiber has another point of that fiber within its box. The points are then dense along the path,
/// and not just its vertices.
pub fn are_dense(points: &[Coordinate]) -> bool {
    let mut fibers: HashMap<Option<u32>, Vec<&Coordinate>> = HashMap::new();
    points.iter().for_each(|point| fibers.entry(point.group).or_default().push(point));
    let is_near = |a: &Coordinate, b: &Coordinate| {
        let reach = a.size.map_or(0.0, |size| size.width.max(size.height));
        distance([a.x, a.y], [b.x, b.y]) <= reach
    };
    let has_neighbour = |fiber: &[&Coordinate], i: usize| (0..fiber.len()).any(|j| j != i && is_near(fiber[i], fiber[j]));
    fibers.values().all(|fiber| fiber.len() < 3 || (0..fiber.len()).all(|i| has_neighbour(fiber, i)))
}

/// The order of the points of one fiber along its path, as indices. `tracks` are their distances along the fiber from its
/// start, in any unit, where the file has them.
///
/// Where neither the track lengths nor the rows make a path, each point is followed by its nearest neighbour. The path then
/// begins at one of the two points that are farthest apart along the tree that connects all points by the shortest edges.
/// Source: the tree is Prim's (1957, Bell System Technical Journal 36), the improvement by exchanging pieces is Croes's
/// (1958, Operations Research 6).
pub fn along_path(points: &[[f64; 2]], tracks: Option<&[f64]>) -> (Vec<usize>, Order) {
    let rows: Vec<usize> = (0..points.len()).collect();
    let by_track = tracks.and_then(|tracks| {
        let mut order = rows.clone();
        order.sort_by(|&a, &b| tracks[a].total_cmp(&tracks[b])); // equal lengths stay in the order of the rows
        // If two points had the same distance from the start, the lengths would be those of several pieces.
        order.windows(2).all(|pair| tracks[pair[0]] < tracks[pair[1]]).then_some(order)
    });
    if by_track.as_ref() == Some(&rows) || points.len() < 2 {
        return (rows, Order::Rows);
    }
    let by_places = by_places(points);
    let shortest = length(points, &by_places);
    match by_track {
        Some(order) if length(points, &order) <= TRACK_TOLERANCE * shortest => (order, Order::Track),
        _ if length(points, &rows) <= ROWS_TOLERANCE * shortest => (rows, Order::Rows),
        _ => (by_places, Order::Places),
    }
}

fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

fn length(points: &[[f64; 2]], order: &[usize]) -> f64 {
    order.windows(2).map(|pair| distance(points[pair[0]], points[pair[1]])).sum()
}

/// The order in which each point is followed by its nearest neighbour. Of the two ends, the one with the earlier row comes
/// first.
fn by_places(points: &[[f64; 2]]) -> Vec<usize> {
    let mut order = vec![an_end(points)];
    let mut left: Vec<usize> = (0..points.len()).filter(|&i| i != order[0]).collect();
    while let Some(last) = order.last().copied().filter(|_| !left.is_empty()) {
        let to = |i: usize| distance(points[last], points[left[i]]);
        let nearest = (0..left.len()).min_by(|&a, &b| to(a).total_cmp(&to(b))).unwrap_or(0);
        order.push(left.swap_remove(nearest));
    }
    improve(points, &mut order);
    if order.first() > order.last() {
        order.reverse();
    }
    order
}

/// One end of the longest way through the tree that connects all points by the shortest edges.
fn an_end(points: &[[f64; 2]]) -> usize {
    let count = points.len();
    // For each point outside the tree: how far the nearest point inside is, and which one that is. The root is point 0.
    let mut nearest = vec![(f64::INFINITY, 0); count];
    let mut is_inside = vec![false; count];
    let mut edges: Vec<Vec<(usize, f64)>> = vec![Vec::new(); count];
    let mut newest = 0;
    for _ in 1..count {
        is_inside[newest] = true;
        for i in (0..count).filter(|&i| !is_inside[i]) {
            let to_newest = distance(points[i], points[newest]);
            if to_newest < nearest[i].0 {
                nearest[i] = (to_newest, newest);
            }
        }
        let outside = (0..count).filter(|&i| !is_inside[i]);
        let Some(next) = outside.min_by(|&a, &b| nearest[a].0.total_cmp(&nearest[b].0)) else { break };
        let (far, from) = nearest[next];
        edges[from].push((next, far));
        edges[next].push((from, far));
        newest = next;
    }
    // The point that is farthest from a given point, here from point 0, is an end of the longest way.
    let mut far = vec![f64::INFINITY; count];
    let mut open = vec![0];
    far[0] = 0.0;
    while let Some(at) = open.pop() {
        for &(next, edge) in &edges[at] {
            if far[next].is_infinite() {
                far[next] = far[at] + edge;
                open.push(next);
            }
        }
    }
    (0..count).max_by(|&a, &b| far[a].total_cmp(&far[b])).unwrap_or(0)
}

/// Turns pieces of the path round as long as that makes the path shorter.
fn improve(points: &[[f64; 2]], order: &mut [usize]) {
    const MOST_ROUNDS: usize = 20; // a path by neighbours needs two or three
    if order.len() > MOST_TO_IMPROVE {
        return;
    }
    let at = |order: &[usize], i: usize| points[order[i]];
    for _ in 0..MOST_ROUNDS {
        let mut is_better = false;
        for from in 0..order.len() {
            for to in from + 1..order.len() {
                // The piece from..=to is turned round; at an end of the path there is no edge to lose.
                let edge = |a: usize, b: usize| distance(at(order, a), at(order, b));
                let mut gain = 0.0;
                if from > 0 {
                    gain += edge(from - 1, from) - edge(from - 1, to);
                }
                if to + 1 < order.len() {
                    gain += edge(to, to + 1) - edge(from, to + 1);
                }
                if gain > 1e-9 {
                    order[from..=to].reverse();
                    is_better = true;
                }
            }
        }
        if !is_better {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points every 10 pixels along a wave, in a shuffled order, and the order that is theirs.
    fn shuffled(count: usize) -> (Vec<[f64; 2]>, Vec<usize>) {
        // A step that shares no factor with the count visits every point once.
        let place = |i: usize| (i * 7 + 3) % count;
        let point = |i: usize| [10.0 * i as f64, 40.0 * (i as f64 / 8.0).sin()];
        let points = (0..count).map(|i| point(place(i))).collect();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&i| place(i));
        (points, order)
    }

    #[test]
    fn shuffled_points_are_put_in_order_by_their_track_or_by_their_places() {
        for count in [5, 40, 199] {
            let (points, right) = shuffled(count);
            let mut tracks = vec![0.0; count];
            right.iter().enumerate().for_each(|(place, &i)| tracks[i] = 12.5 * place as f64);
            assert_eq!(along_path(&points, Some(&tracks)), (right.clone(), Order::Track));
            let (found, how) = along_path(&points, None);
            let turned: Vec<usize> = right.iter().rev().copied().collect();
            assert!(how == Order::Places && (found == right || found == turned), "{count}: {found:?}, expected {right:?}");
            assert!(found.first() < found.last(), "the end with the earlier row comes first");
        }
    }

    #[test]
    fn points_in_order_stay_as_they_are() {
        let (points, right) = shuffled(40);
        let sorted: Vec<[f64; 2]> = right.iter().map(|&i| points[i]).collect();
        let rows: Vec<usize> = (0..40).collect();
        let reversed: Vec<[f64; 2]> = sorted.iter().rev().copied().collect();
        let tracks: Vec<f64> = rows.iter().map(|&i| i as f64).collect();
        for points in [&sorted, &reversed] {
            assert_eq!(along_path(points, None), (rows.clone(), Order::Rows));
            assert_eq!(along_path(points, Some(&tracks)), (rows.clone(), Order::Rows));
        }
        assert_eq!(along_path(&[], None), (vec![], Order::Rows));
        assert_eq!(along_path(&[[1.0, 1.0]], Some(&[5.0])), (vec![0], Order::Rows));
    }

    #[test]
    fn a_track_that_starts_anew_at_each_piece_is_not_the_order() {
        // Two straight pieces of one tube, as RELION makes segments of two pairs with one tube id.
        let points: Vec<[f64; 2]> = (0..20).map(|i| [10.0 * f64::from(i), 0.0]).collect();
        let tracks: Vec<f64> = (0..20).map(|i| f64::from(i % 10)).collect();
        assert_eq!(along_path(&points, Some(&tracks)), ((0..20).collect(), Order::Rows));
        // A selection left no two equal lengths, but their order still goes to and fro.
        let odd: Vec<f64> = (0..20).map(|i| f64::from(i % 10) + if i < 10 { 0.0 } else { 0.5 }).collect();
        assert_eq!(along_path(&points, Some(&odd)), ((0..20).collect(), Order::Rows));
    }
}
