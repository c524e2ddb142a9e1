//! Trace: picks of one micrograph become fibers by what lies around them, not by who is nearest to the best.
//!
//! Every point first looks for the one or two directions in which its neighbours line up. Then pieces grow together, the
//! best links first: a link is good if it is short and goes the way that both its ends go. What is left are pieces that
//! stop at a gap, at a crossing or at a point that was picked a little aside; they are joined over longer ways as long as
//! both go on in a straight line. A point belongs to one fiber; the other one of a crossing steps over it.
//!
//! Points, distances and spacings are micrograph pixels. Nothing depends on the order of the points but ties.
//! Source: the grouping by proximity and good continuation of Guy, Medioni 1996, doi:10.1007/BF00144119, with a greedy
//! choice of links.

use super::fiber::{Fiber, cell_of};
use std::collections::HashMap;
use std::f64::consts::PI;

/// A chain with fewer points is not a fiber.
const MIN_POINTS: usize = 5;
/// A point that is nearer than this share of the spacing to a better one repeats it, so it is left out.
const SAME: f64 = 0.4;
/// This share of the points has its neighbour nearer than the spacing. A network finds peaks at uneven distances along a ridge, so
/// the distance that most of them keep below says more than the median.
const USUAL: f64 = 0.8;
/// Longest link of the first pass, and longest way over a gap, in spacings.
const LINK: f64 = 2.8;
const BRIDGE: f64 = 7.5;
/// How far aside of its fiber a point may be picked, in spacings.
const ASIDE: f64 = 0.12;
/// The direction of a chain at its end is taken over so many links, because a single link turns with every peak that lies aside.
const CHORD_LINKS: usize = 3;
/// A point that no link chose belongs to the fiber that passes it this near, in spacings.
const BESIDE: f64 = 0.35;
/// A point that is nearer than this to the line between two vertices is no vertex itself, in spacings.
const STRAIGHT: f64 = 0.15;

/// Links `points` (frame M, best first) to fibers, best first by their first point.
///
/// `max_gap_m_px`: no link is longer. `max_turn_rad`: a fiber turns less than this from link to link.
pub fn link(points: &[[f64; 2]], max_gap_m_px: f64, max_turn_rad: f64) -> Vec<Fiber> {
    if points.len() < MIN_POINTS {
        return Vec::new();
    }
    // Along a fiber the third neighbour is two spacings away; if every point was picked twice, one.
    let rough = 0.5 * spacing(points, &(0..points.len()).collect::<Vec<_>>(), 3, 0.5, max_gap_m_px);
    let spacing = spacing(points, &without_doubles(points, SAME * rough), 1, USUAL, max_gap_m_px);
    let nodes = without_doubles(points, SAME * spacing);
    let mut chains = Chains::new(points, nodes, spacing, max_turn_rad);
    chains.grow((LINK * spacing).min(max_gap_m_px), 1);
    chains.grow((BRIDGE * spacing).min(max_gap_m_px), 3);
    chains.grow((BRIDGE * spacing).min(max_gap_m_px), 2);
    chains.into_fibers()
}

/// The distance below which a share of the `nodes` has its neighbour of this rank.
fn spacing(points: &[[f64; 2]], nodes: &[usize], rank: usize, share: f64, max_gap: f64) -> f64 {
    let places: Vec<[f64; 2]> = nodes.iter().map(|&i| points[i]).collect();
    let grid = Grid::new(&places, max_gap / 8.0);
    let neighbour = |i: usize| {
        let near = grid.near(places[i], max_gap / 8.0).into_iter().filter(|&j| j != i);
        let mut near: Vec<f64> = near.map(|j| distance(places[i], places[j])).collect();
        near.sort_by(f64::total_cmp);
        near.get(rank - 1).copied()
    };
    let mut found: Vec<f64> = (0..places.len()).filter_map(neighbour).collect();
    found.sort_by(f64::total_cmp);
    found.get((found.len() as f64 * share) as usize).copied().unwrap_or(max_gap / 8.0).max(1e-3)
}

/// The points that are not nearer than `radius` to a better one.
fn without_doubles(points: &[[f64; 2]], radius: f64) -> Vec<usize> {
    let mut cells: HashMap<[i64; 2], Vec<usize>> = HashMap::new();
    let mut kept = Vec::new();
    for (i, point) in points.iter().enumerate() {
        let cell = cell_of(point, radius);
        let around = (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| [cell[0] + dx, cell[1] + dy]));
        let mut near = around.filter_map(|cell| cells.get(&cell)).flatten();
        if near.all(|&j: &usize| distance(*point, points[j]) >= radius) {
            cells.entry(cell).or_default().push(i);
            kept.push(i);
        }
    }
    kept
}

fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// Points by square cells.
struct Grid<'a> {
    points: &'a [[f64; 2]],
    cell: f64,
    cells: HashMap<[i64; 2], Vec<usize>>,
}

impl<'a> Grid<'a> {
    fn new(points: &'a [[f64; 2]], cell: f64) -> Self {
        let mut cells: HashMap<[i64; 2], Vec<usize>> = HashMap::new();
        for (i, point) in points.iter().enumerate() {
            cells.entry(cell_of(point, cell)).or_default().push(i);
        }
        Grid { points, cell, cells }
    }

    /// All points within `radius`, which is no more than the cell, in ascending order.
    fn near(&self, at: [f64; 2], radius: f64) -> Vec<usize> {
        let cell = cell_of(&at, self.cell);
        let around = (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| [cell[0] + dx, cell[1] + dy]));
        let mut found: Vec<usize> = around.filter_map(|cell| self.cells.get(&cell)).flatten().copied().collect();
        found.retain(|&i| distance(self.points[i], at) <= radius);
        found.sort_unstable();
        found
    }
}

/// The one or two directions (radian, without sense) in which a point's neighbours line up; none if they do not.
fn directions(at: [f64; 2], neighbours: &[[f64; 2]], spacing: f64) -> Vec<f64> {
    let ways: Vec<(f64, f64)> = neighbours.iter().map(|p| ((p[1] - at[1]).atan2(p[0] - at[0]), distance(*p, at))).collect();
    // A neighbour speaks for a direction the more, the nearer it lies to the line, and the less, the farther away it is.
    let support = |angle: f64| -> f64 {
        let term = |&(way, length): &(f64, f64)| {
            let aside = length * (way - angle).sin() / (2.0 * ASIDE * spacing + 0.12 * length);
            (-aside * aside).exp() / (1.0 + (length / (2.0 * spacing)).powi(2))
        };
        ways.iter().map(term).sum()
    };
    let mut ranked: Vec<(f64, f64)> = ways.iter().map(|&(angle, _)| (support(angle), angle)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.total_cmp(&b.1)));
    let Some(&(most, best)) = ranked.first() else { return Vec::new() };
    let second = ranked.iter().find(|(support, angle)| *support > 0.5 * most && between_lines(*angle, best) > 0.5);
    [Some(best), second.map(|(_, angle)| *angle)].into_iter().flatten().collect()
}

/// Angle between two directions without sense, 0 to pi/2.
fn between_lines(a: f64, b: f64) -> f64 {
    let angle = (a - b).rem_euclid(PI);
    angle.min(PI - angle)
}

/// Angle between two steps, 0 to pi.
fn turn(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] * b[1] - a[1] * b[0]).atan2(a[0] * b[0] + a[1] * b[1]).abs()
}

/// Pieces of fibers that grow together.
struct Chains {
    /// Places of the nodes.
    places: Vec<[f64; 2]>,
    /// Index of each node among all points.
    indices: Vec<usize>,
    directions: Vec<Vec<f64>>,
    /// The up to two neighbours of each node.
    links: Vec<Vec<usize>>,
    /// A node of the same chain, nearer to the chain's name.
    parents: Vec<usize>,
    /// Nodes of a chain, at its name.
    sizes: Vec<usize>,
    spacing: f64,
    max_turn: f64,
}

impl Chains {
    fn new(points: &[[f64; 2]], indices: Vec<usize>, spacing: f64, max_turn: f64) -> Self {
        let places: Vec<[f64; 2]> = indices.iter().map(|&i| points[i]).collect();
        let grid = Grid::new(&places, 4.0 * spacing);
        let look = |i: usize| {
            let near: Vec<[f64; 2]> = grid.near(places[i], 4.0 * spacing).into_iter().filter(|&j| j != i).map(|j| places[j]).collect();
            directions(places[i], &near, spacing)
        };
        let directions = (0..places.len()).map(look).collect();
        let count = places.len();
        Chains {
            places,
            indices,
            directions,
            links: vec![Vec::new(); count],
            parents: (0..count).collect(),
            sizes: vec![1; count],
            spacing,
            max_turn,
        }
    }

    fn name(&mut self, mut i: usize) -> usize {
        while self.parents[i] != i {
            self.parents[i] = self.parents[self.parents[i]];
            i = self.parents[i];
        }
        i
    }

    /// The step that leads out of a chain at its end `i`, over up to `CHORD_LINKS` links; none for a lone point.
    fn outward(&self, i: usize) -> Option<[f64; 2]> {
        let (mut before, mut at) = (i, *self.links[i].first()?);
        for _ in 1..CHORD_LINKS {
            match self.links[at].iter().find(|&&next| next != before) {
                Some(&next) => (before, at) = (at, next),
                None => break,
            }
        }
        Some([self.places[i][0] - self.places[at][0], self.places[i][1] - self.places[at][1]])
    }

    /// How much a link from `i` by `step` departs from where `i` comes from, radian; none if it cannot be.
    fn departure(&self, i: usize, step: [f64; 2]) -> Option<f64> {
        // A point picked a little aside turns a short link more than a long one.
        let allowed = self.max_turn + 2.0 * ASIDE * self.spacing / step[0].hypot(step[1]);
        let found = match (self.links[i].len(), self.outward(i)) {
            (0, _) => {
                let angle = step[1].atan2(step[0]);
                // A lone point without neighbours in line goes anywhere.
                self.directions[i]
                    .iter()
                    .map(|&line| between_lines(line, angle))
                    .fold(f64::INFINITY, f64::min)
                    .min(if self.directions[i].is_empty() { 0.0 } else { PI })
            }
            (1, Some(outward)) => turn(outward, step),
            _ => return None,
        };
        (found < allowed).then_some(found)
    }

    /// Joins ends of chains of at least `least` points, the best links first, until none is left.
    fn grow(&mut self, longest: f64, least: usize) {
        // Each round ranks the links by the directions as they are by now; chains that grew know theirs better.
        for _ in 0..4 {
            let mut links = self.candidates(longest, least);
            links.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
            let mut joined = false;
            for (_, i, j) in links {
                let step = [self.places[j][0] - self.places[i][0], self.places[j][1] - self.places[i][1]];
                let fits = self.departure(i, step).is_some() && self.departure(j, step.map(|x| -x)).is_some();
                let (a, b) = (self.name(i), self.name(j));
                if fits && a != b {
                    self.links[i].push(j);
                    self.links[j].push(i);
                    self.parents[a.max(b)] = a.min(b);
                    self.sizes[a.min(b)] += self.sizes[a.max(b)];
                    joined = true;
                }
            }
            if !joined {
                break;
            }
        }
    }

    /// Links between ends: what each costs, and its ends. A long way costs more, and so does a turn.
    fn candidates(&mut self, longest: f64, least: usize) -> Vec<(f64, usize, usize)> {
        let ends: Vec<usize> = (0..self.places.len()).filter(|&i| self.links[i].len() < 2).collect();
        let ends: Vec<usize> = ends
            .into_iter()
            .filter(|&i| {
                let name = self.name(i);
                self.sizes[name] >= least
            })
            .collect();
        let places: Vec<[f64; 2]> = ends.iter().map(|&i| self.places[i]).collect();
        let grid = Grid::new(&places, longest);
        let mut found = Vec::new();
        for (k, &i) in ends.iter().enumerate() {
            for j in grid.near(places[k], longest).into_iter().map(|k| ends[k]).filter(|&j| j > i) {
                let step = [self.places[j][0] - self.places[i][0], self.places[j][1] - self.places[i][1]];
                if let (Some(a), Some(b)) = (self.departure(i, step), self.departure(j, step.map(|x| -x))) {
                    let bent = (a + b) / self.max_turn.max(0.05);
                    // Squared, so that two short links go before one that steps over a point picked a little aside.
                    let length = step[0].hypot(step[1]) / self.spacing;
                    found.push((length * length * (1.0 + 0.5 * bent * bent), i, j));
                }
            }
        }
        found
    }

    fn into_fibers(mut self) -> Vec<Fiber> {
        let mut fibers = Vec::new();
        let mut free: Vec<bool> = (0..self.places.len())
            .map(|i| {
                let name = self.name(i);
                self.sizes[name] < MIN_POINTS
            })
            .collect();
        for start in 0..self.places.len() {
            let name = self.name(start);
            // Each chain from that end of its two that is the better point.
            if self.links[start].len() != 1 || self.sizes[name] < MIN_POINTS {
                continue;
            }
            let mut chain = vec![start];
            let mut next = self.links[start].first().copied();
            while let Some(at) = next {
                let before = chain[chain.len() - 1];
                chain.push(at);
                next = self.links[at].iter().copied().find(|&i| i != before);
            }
            if chain[chain.len() - 1] < start {
                continue;
            }
            let chain = self.with_points_beside(chain, &mut free);
            let vertices = self.straightened(&chain);
            let of_points = |nodes: Vec<usize>| nodes.into_iter().map(|i| self.indices[i]).collect();
            fibers.push(Fiber { points: of_points(chain), vertices: of_points(vertices) });
        }
        fibers.sort_by_key(|fiber| fiber.points.iter().copied().min());
        fibers
    }

    /// A chain with the free points that lie beside its links, each at its place along them.
    fn with_points_beside(&self, chain: Vec<usize>, free: &mut [bool]) -> Vec<usize> {
        let reach = BESIDE * self.spacing;
        let candidates: Vec<usize> = (0..self.places.len()).filter(|&i| free[i]).collect();
        let mut out = Vec::with_capacity(chain.len());
        for link in chain.windows(2) {
            let (a, b) = (self.places[link[0]], self.places[link[1]]);
            let step = [b[0] - a[0], b[1] - a[1]];
            let along = |i: usize| {
                ((self.places[i][0] - a[0]) * step[0] + (self.places[i][1] - a[1]) * step[1]) / (step[0] * step[0] + step[1] * step[1])
            };
            let beside = |i: &usize| free[*i] && (0.0..1.0).contains(&along(*i)) && from_segment(self.places[*i], a, b) < reach;
            let mut found: Vec<usize> = candidates.iter().copied().filter(beside).collect();
            found.sort_by(|&i, &j| along(i).total_cmp(&along(j)).then(i.cmp(&j)));
            found.iter().for_each(|&i| free[i] = false);
            out.push(link[0]);
            out.extend(found);
        }
        out.extend(chain.last());
        out
    }

    /// Ends and bends: no other point is farther from the polyline than a share of the spacing.
    /// Source: Douglas, Peucker 1973, doi:10.3138/FM57-6770-U75U-7727.
    fn straightened(&self, chain: &[usize]) -> Vec<usize> {
        let mut keep = vec![false; chain.len()];
        keep[0] = true;
        keep[chain.len() - 1] = true;
        let mut todo = vec![(0, chain.len() - 1)];
        while let Some((first, last)) = todo.pop() {
            let (a, b) = (self.places[chain[first]], self.places[chain[last]]);
            let farthest = (first + 1..last).map(|i| (from_segment(self.places[chain[i]], a, b), i)).max_by(|a, b| a.0.total_cmp(&b.0));
            if let Some((far, i)) = farthest.filter(|(far, _)| *far > STRAIGHT * self.spacing) {
                debug_assert!(far.is_finite());
                keep[i] = true;
                todo.extend([(first, i), (i, last)]);
            }
        }
        chain.iter().zip(keep).filter(|(_, keep)| *keep).map(|(&i, _)| i).collect()
    }
}

/// Distance of a point from a segment.
fn from_segment(p: [f64; 2], a: [f64; 2], b: [f64; 2]) -> f64 {
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let t = (((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / (dx * dx + dy * dy).max(1e-12)).clamp(0.0, 1.0);
    distance(p, [a[0] + t * dx, a[1] + t * dy])
}
