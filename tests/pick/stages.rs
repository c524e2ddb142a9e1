//! From stored values of the original's picking stages to its files, and the mends that differ from it.

use crate::common::fixtures::{golden, raw, runs};
use epicker::compat::Compat;
use epicker::formats::coordinates::Kind;
use epicker::pick::decode::corners_h_to_d;
use epicker::pick::fiber;
use epicker::pick::filter::{Limits, filter_d};
use epicker::pick::output::{self, Helix, OutputRule, OutputType, Pick, Tracer};

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

#[test]
fn stored_boxes_become_the_originals_files_byte_for_byte() {
    let mut compared = 0;
    for (name, run) in &runs().runs {
        let output_type: OutputType = run.value("--output_type").unwrap_or("thi").parse().unwrap();
        let rule = OutputRule {
            kind: run.value("--mode").unwrap_or("particle").parse::<Kind>().unwrap(),
            output_type,
            subpixel: false,
            tracer: Tracer::Legacy,
            ang_thresh_rad: run.value("--ang_thresh").map_or(0.3, |text| text.parse().unwrap()),
            helix: Helix::default(),
            compat: Compat::all(),
        };
        for letter in &run.micrographs {
            let (geometry, raw) = (runs().geometry(letter), raw(letter));
            let kept = filter_d(&raw.results, &limits_of(&run.args), &geometry);
            let picks: Vec<Pick> = kept.into_iter().map(|i| Pick::from_box_d(&raw.results[i], &geometry)).collect();
            let traced = output::trace(&picks, &rule, geometry.nx);
            let text = output::render(&picks, &traced, &rule, 19.0, None).unwrap();
            let file = format!("out/{name}/{}.{}", runs().micrographs[letter].name, output_type.name());
            assert_eq!(text, String::from_utf8(golden(&file)).unwrap(), "{file}");
            compared += 1;
        }
    }
    assert!(compared >= 17, "{compared} files");
}
