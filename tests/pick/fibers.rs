//! Tracing of fibers against known paths, by length.

use epicker::eval::fiber::{Lengths, compare};
use epicker::formats::coordinates::{Coordinate, Coordinates, Kind};
use epicker::pick::fiber::Fiber;
use epicker::pick::{fiber, trace};
use epicker::random::Random;
use epicker::simulate::filament::Path;

const GAP: f64 = 409.6; // a tenth of 4096 pixels
const TURN: f64 = 0.3;

/// Picks along paths of a field of 4096 x 4096, as a network leaves them: at a spacing, scattered, with some missing, and
/// wrong ones between.
struct Field {
    truth: Coordinates,
    picks: Vec<[f64; 2]>,
}

fn field(seed: u64, paths: usize, spacing: f64, scatter: f64, missing: f64, wrong: usize) -> Field {
    let mut random = Random::new(seed, &[]);
    let extent = [4096.0, 4096.0];
    let (mut truth, mut picks, mut group) = (Vec::new(), Vec::new(), 0);
    for _ in 0..paths {
        let path = Path::draw(extent, 1e6, 15_000.0, &mut random);
        for piece in path.pieces(extent, spacing) {
            for at in &piece {
                truth.push(Coordinate { group: Some(group), ..Coordinate::at(at[0], at[1]) });
                if !random.chance(missing) {
                    picks.push([at[0] + scatter * random.normal(), at[1] + scatter * random.normal()]);
                }
            }
            group += 1;
        }
    }
    picks.extend((0..wrong).map(|_| [extent[0] * random.unit(), extent[1] * random.unit()]));
    random.shuffle(&mut picks);
    Field { truth: Coordinates { kind: Kind::Fiber, points: truth }, picks }
}

fn score(fields: &[Field], link: impl Fn(&[[f64; 2]]) -> Vec<Fiber>) -> Lengths {
    let mut lengths = Lengths::default();
    for field in fields {
        let vertices = link(&field.picks).into_iter().enumerate().flat_map(|(group, fiber)| {
            let point = move |i: usize| Coordinate { group: Some(group as u32), ..Coordinate::at(field.picks[i][0], field.picks[i][1]) };
            fiber.vertices.into_iter().map(point).collect::<Vec<_>>()
        });
        lengths.add(compare(&field.truth, &Coordinates { kind: Kind::Fiber, points: vertices.collect() }, 12.0).unwrap());
    }
    lengths
}

fn by_graph(points: &[[f64; 2]]) -> Vec<Fiber> {
    trace::link(points, GAP, TURN)
}

fn by_legacy(points: &[[f64; 2]]) -> Vec<Fiber> {
    fiber::link(points, GAP, TURN)
}

#[test]
fn crossing_scattered_and_broken_fibers_are_found_by_length() {
    for (name, scatter, missing, wrong) in [("clean", 0.5, 0.0, 0), ("scattered", 4.0, 0.1, 20), ("poor", 5.0, 0.25, 60)] {
        let fields: Vec<Field> = (0..12).map(|seed| field(seed, 5, 40.0, scatter, missing, wrong)).collect();
        let (graph, legacy) = (score(&fields, by_graph), score(&fields, by_legacy));
        println!(
            "{name}: graph {:.3} {:.3}, legacy {:.3} {:.3} (precision, recall)",
            graph.precision(),
            graph.recall(),
            legacy.precision(),
            legacy.recall()
        );
        assert!(graph.f1() > legacy.f1(), "{name}: {} against {}", graph.f1(), legacy.f1());
        let least = match name {
            "clean" => 0.98,
            "scattered" => 0.95,
            _ => 0.85,
        };
        assert!(graph.f1() > least, "{name}: {}", graph.f1());
    }
}

#[test]
fn one_fiber_under_scatter_stays_one() {
    let mut fibers = 0;
    for seed in 0..50 {
        let mut random = Random::new(seed, &[1]);
        let points: Vec<[f64; 2]> = (0..50).map(|i| [100.0 + 40.0 * f64::from(i), 500.0].map(|x| x + 4.0 * random.normal())).collect();
        let found = by_graph(&points);
        fibers += found.len();
        assert!(found.iter().map(|fiber| fiber.points.len()).sum::<usize>() >= 42, "seed {seed}: {found:?}");
    }
    // The original makes 1.55 fibers of one.
    assert!(fibers <= 55, "{fibers} fibers of 50");
}

#[test]
fn a_gap_is_bridged_and_two_fibers_in_line_stay_two() {
    let line = |from: f64, count: u32| (0..count).map(move |i| [from + 40.0 * f64::from(i), 700.0]);
    let near: Vec<[f64; 2]> = line(0.0, 10).chain(line(550.0, 10)).collect(); // 190 pixels between
    assert_eq!(by_graph(&near).len(), 1);
    let far: Vec<[f64; 2]> = line(0.0, 10).chain(line(760.0, 10)).collect(); // 400 pixels between
    assert_eq!(by_graph(&far).len(), 2);
}

#[test]
fn two_fibers_that_cross_stay_straight() {
    let mut points: Vec<[f64; 2]> = (0..21).map(|i| [100.0 + 40.0 * f64::from(i), 500.0]).collect();
    points.extend((0..21).map(|i| [100.0 + 32.0 * f64::from(i), 200.0 + 28.0 * f64::from(i)]));
    let found = by_graph(&points);
    assert_eq!(found.len(), 2, "{found:?}");
    for fiber in &found {
        let first_set = fiber.points.iter().filter(|&&i| i < 21).count();
        assert!(first_set >= fiber.points.len() - 1 || first_set <= 1, "{fiber:?} changes its line");
    }
}

#[test]
fn points_picked_twice_make_one_fiber() {
    let points: Vec<[f64; 2]> = (0..100).map(|i| [100.0 + 20.0 * f64::from(i / 2 * 2), 300.0 + 1.5 * f64::from(i % 2)]).collect();
    let found = by_graph(&points);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].points.len(), 50);
}

#[test]
fn few_equal_or_lone_points_are_no_fiber() {
    for points in [
        vec![],
        vec![[1.0, 1.0]; 3],
        vec![[5.0, 5.0]; 200],
        vec![[0.0, 0.0], [300.0, 10.0], [2000.0, 50.0], [2100.0, 900.0], [100.0, 3000.0]],
    ] {
        assert!(by_graph(&points).iter().all(|fiber| fiber.points.len() >= 5 && fiber.vertices.len() >= 2), "{}", points.len());
    }
    assert!(by_graph(&[[5.0, 5.0]; 200]).is_empty());
}

#[test]
fn a_bend_is_followed_up_to_the_turn_that_is_allowed() {
    // A circle of 400 pixels in steps of 40: a turn of 0.1 each; of 100 pixels: 0.4.
    let circle = |radius: f64| -> Vec<[f64; 2]> {
        let count = (std::f64::consts::TAU * radius / 40.0 * 0.8) as u32;
        (0..count)
            .map(|i| {
                let angle = f64::from(i) * 40.0 / radius;
                [1000.0 + radius * angle.cos(), 1000.0 + radius * angle.sin()]
            })
            .collect()
    };
    let wide = by_graph(&circle(400.0));
    assert_eq!(wide.len(), 1);
    assert_eq!(wide[0].points.len(), circle(400.0).len());
    assert!(trace::link(&circle(60.0), GAP, 0.1).iter().all(|fiber| fiber.points.len() < 7));
}
