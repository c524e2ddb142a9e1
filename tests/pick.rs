//! From stored values of the original's picking stages to its files, and the mends that differ from it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use common::fixtures::{Run, golden, raw, runs};
use epicker::pick::decode::{BoxD, corners_h_to_d};
use epicker::pick::fiber;
use epicker::pick::filter::{Limits, filter_d};
use epicker::pick::geometry::Geometry;

fn limits_of(args: &[String]) -> Limits {
    let value = |name: &str, default: f64| args.iter().position(|arg| arg == name).map_or(default, |i| args[i + 1].parse().unwrap());
    Limits {
        k: value("--K", 2000.0) as usize,
        vis_thresh: value("--vis_thresh", 0.0) as f32,
        edge: value("--edge", 25.0),
        min_distance: value("--min_distance", 0.0),
    }
}

#[test]
fn heat_map_boxes_land_on_the_originals_bits_in_frame_d() {
    for letter in ["a", "b", "c", "d"] {
        let (geometry, raw) = (runs().geometry(letter), raw(letter));
        for (detection, corners_h) in raw.results.iter().zip(&raw.heat_map) {
            assert_eq!(corners_h_to_d(*corners_h, &geometry), detection.corners, "micrograph {letter}");
        }
    }
}

#[test]
fn the_fiber_linker_gives_the_originals_chains() {
    let cases: serde_json::Value = serde_json::from_slice(&golden("link.json")).unwrap();
    let points_of_all = golden("link_points.safetensors");
    let points_of_all = safetensors::SafeTensors::deserialize(&points_of_all).unwrap();
    for (name, case) in cases.as_object().unwrap() {
        let points: Vec<[f64; 2]> = points_of_all
            .tensor(name)
            .unwrap()
            .data()
            .chunks(16)
            .map(|xy| [&xy[..8], &xy[8..]].map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())))
            .collect();
        let number = |key: &str| case[key].as_f64().unwrap();
        let fibers = fiber::link(&points, number("nx") / 10.0, number("ang_thresh"));
        let chains: Vec<Vec<usize>> = serde_json::from_value(case["chains_before_merging"].clone()).unwrap();
        let vertices: Vec<Vec<usize>> = serde_json::from_value(case["chains_after_merging"].clone()).unwrap();
        assert!(!chains.is_empty());
        assert_eq!(fibers.iter().map(|fiber| fiber.points.clone()).collect::<Vec<_>>(), chains, "{name}");
        assert_eq!(fibers.iter().map(|fiber| fiber.vertices.clone()).collect::<Vec<_>>(), vertices, "{name}");
    }
}

/// Rows of the original's files, from boxes that passed: numbers cut, not rounded.
fn rows_of(run: &Run, kept: &[BoxD], geometry: &Geometry) -> Vec<String> {
    let to_m = geometry.nx as f64 / 1024.0;
    let row = |detection: &BoxD| {
        let ([x, y], [x1, y1, x2, y2]) = (detection.centre_m(geometry), detection.corners_m(geometry));
        let ([x, y], corners) = ([x as i64, y as i64], [x1 as i64, y1 as i64, x2 as i64, y2 as i64]);
        let score = detection.score;
        match (run.value("--output_type").unwrap_or("thi"), run.value("--mode").unwrap_or("particle")) {
            ("thi", "vesicle") => {
                let [x1, y1, x2, y2] = detection.corners;
                let radius = f64::from((x2 - x1) + (y2 - y1)) / 4.0 * to_m;
                format!("{x}\t{y}\t{}\t{score:.6}", radius as i64)
            }
            ("thi", _) => format!("{x}\t{y}\t{score:.6}"),
            ("star", _) => format!("{x}.0\t{y}.0\t-999\t-999.0\t{score:.6}"),
            ("box", _) => corners.map(|corner| corner.to_string()).join("\t"),
            (_, _) => format!("{x}\t{y}\t19\t0"),
        }
    };
    kept.iter().map(row).collect()
}

#[test]
fn the_originals_tests_keep_the_originals_picks() {
    for (name, run) in runs().runs.iter().filter(|(_, run)| run.value("--mode") != Some("fiber")) {
        for letter in &run.micrographs {
            let (geometry, raw) = (runs().geometry(letter), raw(letter));
            let kept = filter_d(&raw.results, &limits_of(&run.args), &geometry);
            let kept: Vec<BoxD> = kept.into_iter().map(|i| raw.results[i]).collect();
            let file = format!("out/{name}/{}.{}", runs().micrographs[letter].name, run.value("--output_type").unwrap_or("thi"));
            let text = String::from_utf8(golden(&file)).unwrap();
            let expected: Vec<&str> = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
            assert_eq!(rows_of(run, &kept, &geometry), expected, "{file}");
        }
    }
}

#[test]
fn fibers_of_the_filtered_boxes_make_the_originals_files() {
    for (name, run) in runs().runs.iter().filter(|(_, run)| run.value("--mode") == Some("fiber")) {
        let (geometry, raw) = (runs().geometry("d"), raw("d"));
        let kept = filter_d(&raw.results, &limits_of(&run.args), &geometry);
        let points: Vec<[f64; 2]> = kept.into_iter().map(|i| raw.results[i].centre_m(&geometry)).collect();
        let max_turn = run.value("--ang_thresh").map_or(0.3, |text| text.parse().unwrap());
        let mut text = String::from("[Helix Coordinates: X Y Group Value]\n");
        for (group, fiber) in fiber::link(&points, geometry.nx as f64 / 10.0, max_turn).iter().enumerate() {
            for [x, y] in fiber.vertices.iter().map(|&i| points[i]) {
                text += &format!("{} {} {} 1.0\n", x as i64, y as i64, group + 1);
            }
        }
        assert_eq!(text + "[End]", String::from_utf8(golden(&format!("out/{name}/pd_1200x1024.thi"))).unwrap());
    }
}
