//! Training samples against the original's own: pictures and targets. tests/golden/README.md tells how these were made.

use epicker::formats::image::{Pixels, ReadOptions, read_micrograph};
use epicker::formats::marks::Shape;
use epicker::preprocess::{Normalisation, normalise};
use epicker::random::Random;
use epicker::train::augment::{Crop, Sample, Symmetry, margin};
use epicker::train::targets::{Mark, Targets, draw_gaussian, gaussian_radius};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/train_data").join(name)
}

struct Tensors(BTreeMap<String, Vec<f64>>);

impl Tensors {
    fn read() -> Self {
        let bytes = std::fs::read(golden("targets.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let values = |tensor: safetensors::tensor::TensorView| -> Vec<f64> {
            let data = tensor.data();
            match tensor.dtype() {
                safetensors::Dtype::F32 => data.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
                safetensors::Dtype::I32 => data.chunks(4).map(|b| f64::from(i32::from_le_bytes(b.try_into().unwrap()))).collect(),
                _ => data.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            }
        };
        Tensors(file.tensors().into_iter().map(|(name, tensor)| (name, values(tensor))).collect())
    }

    fn get(&self, case: &str, name: &str) -> &[f64] {
        &self.0[&format!("{case}/{name}")]
    }
}

/// One sample that the original drew.
struct Case {
    name: String,
    image: String,
    size: [usize; 2],
    sample: Sample,
    crop: Crop,
    side: usize,
    boxes: Vec<[f32; 4]>,
    facts: Value,
}

fn cases() -> Vec<Case> {
    let json: Value = serde_json::from_slice(&std::fs::read(golden("cases.json")).unwrap()).unwrap();
    let case = |(name, facts): (&String, &Value)| {
        let image = facts["image"].as_str().unwrap().to_owned();
        let size: [usize; 2] = serde_json::from_value(json["sizes"][&image].clone()).unwrap();
        let boxes: Vec<[f64; 4]> = serde_json::from_value(json["boxes"][&image].clone()).unwrap();
        let side = if image.starts_with("p_f32") { 1024 } else { 256 };
        let mut sample = Sample::whole(size);
        if let Some(centre) = facts["c_drawn"].as_array() {
            sample.centre_d = [0, 1].map(|i| centre[i].as_f64().unwrap());
        }
        sample.symmetry = Symmetry { flip_x: facts["flip"].as_bool().unwrap(), ..Symmetry::default() };
        Case {
            name: name.clone(),
            crop: Crop::new(size, side, side),
            image,
            size,
            sample,
            side,
            boxes: boxes.iter().map(|[x, y, w, h]| [*x, *y, x + w, y + h].map(|value| value as f32)).collect(),
            facts: facts.clone(),
        }
    };
    json["cases"].as_object().unwrap().iter().map(case).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn samples_are_the_originals_to_the_bit() {
    let mut seen = 0;
    for case in cases().iter().filter(|case| case.side == 256) {
        let micrograph = read_micrograph(&golden(&case.image), &ReadOptions::default()).unwrap();
        assert_eq!([micrograph.ny, micrograph.nx], case.size);
        let Pixels::U8(levels) = &micrograph.pixels else { panic!("{}: {}", case.image, micrograph.pixels.type_name()) };
        let levels = case.crop.image(levels, case.size, &case.sample);
        assert_eq!(sha256(&levels), case.facts["sha256_warped_u8"].as_str().unwrap(), "{}", case.name);
        let input = normalise(&levels, Normalisation::Training);
        let bytes: Vec<u8> = input.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(sha256(&bytes), case.facts["sha256_input_f32_channel"].as_str().unwrap(), "{}: train-norm", case.name);
        assert_ne!(input, normalise(&levels, Normalisation::Picking), "our own training normalises as picking does");
        seen += 1;
    }
    assert_eq!(seen, 7);
}

#[test]
fn clipped_targets_are_the_originals_to_the_bit() {
    let tensors = Tensors::read();
    for case in cases() {
        let side_h = case.side / 4;
        let mut targets = Targets::new([1, side_h, side_h]);
        let mut labels = Vec::new();
        for (label, corners) in case.boxes.iter().enumerate() {
            if targets.add(0, [side_h; 2], case.crop.corners_h(*corners, case.size, &case.sample), true) {
                labels.push(label as f64);
            }
        }
        let name = &case.name;
        assert_eq!(labels, tensors.get(name, "label"), "{name}");
        assert_eq!(labels.len() as u64, case.facts["objects_kept"].as_u64().unwrap());
        let objects = &targets.objects;
        assert_eq!(objects.iter().map(|object| object.index as f64).collect::<Vec<_>>(), tensors.get(name, "ind"), "{name}");
        let pairs = |pair: fn(&epicker::train::targets::Object) -> [f32; 2]| -> Vec<f64> {
            objects.iter().flat_map(|object| pair(object).map(f64::from)).collect()
        };
        assert_eq!(pairs(|object| object.offset), tensors.get(name, "reg"), "{name}");
        assert_eq!(pairs(|object| object.size), tensors.get(name, "wh"), "{name}");

        let filled: Vec<(usize, f32)> = targets.heat_map.iter().copied().enumerate().filter(|(_, value)| *value > 0.0).collect();
        let cells: Vec<f64> = filled.iter().map(|(cell, _)| *cell as f64).collect();
        assert_eq!(cells, tensors.get(name, "hm_index"), "{name}");
        for ((cell, value), expected) in filled.iter().zip(tensors.get(name, "hm_value")) {
            // One unit in the last place: exp() of two libraries.
            assert!((f64::from(*value) - expected).abs() <= f64::from(f32::EPSILON) * expected, "{name}, cell {cell}: {value} {expected}");
        }
    }
}

/// The original cuts a box at the border and takes the middle of what is left; here the label keeps its place.
#[test]
fn labels_at_the_border_keep_their_centres() {
    let (mut moved, mut equal, mut dropped) = (0, 0, 0);
    for case in cases() {
        let side_h = case.side / 4;
        for corners in &case.boxes {
            let corners = case.crop.corners_h(*corners, case.size, &case.sample);
            let mut clipped = Targets::new([1, side_h, side_h]);
            let mut whole = clipped.clone();
            let was_kept = clipped.add(0, [side_h; 2], corners, true);
            let is_kept = whole.add(0, [side_h; 2], corners, false);
            let centre = [(corners[0] + corners[2]) / 2.0, (corners[1] + corners[3]) / 2.0];
            assert_eq!(is_kept, centre.iter().all(|at| (0.0..side_h as f32).contains(at)));
            if !is_kept {
                dropped += usize::from(was_kept);
                continue;
            }
            let object = whole.objects[0];
            let [x, y] = [object.index % side_h, object.index / side_h];
            assert_eq!([x as f32 + object.offset[0], y as f32 + object.offset[1]], centre);
            assert_eq!(object.size, [corners[2] - corners[0], corners[3] - corners[1]]);
            if corners.iter().all(|corner| (0.0..=(side_h - 1) as f32).contains(corner)) {
                assert!(clipped.heat_map == whole.heat_map && clipped.objects == whole.objects, "{corners:?}");
                equal += 1;
            } else {
                assert_ne!(clipped, whole, "{}: {corners:?}", case.name);
                moved += 1;
            }
        }
    }
    assert!(equal > 150 && moved >= 10 && dropped > 0, "{equal} {moved} {dropped}");
}

#[test]
fn a_box_of_no_size_or_no_number_is_no_object() {
    let mut targets = Targets::new([1, 8, 8]);
    for corners in [[3.0, 3.0, 3.0, 5.0], [f32::NAN, 0.0, 2.0, 2.0], [-9.0, 0.0, -5.0, 4.0], [5.0, 4.0, 3.0, 6.0]] {
        assert!(!targets.add(0, [8, 8], corners, false), "{corners:?}");
        assert!(!targets.add(0, [8, 8], corners, true), "{corners:?}");
    }
    assert_eq!(targets, Targets::new([1, 8, 8]));
    // Two in one cell are two objects, in the second image of a batch.
    let mut targets = Targets::new([2, 8, 8]);
    assert!(targets.add(1, [8, 8], [1.0, 1.0, 4.0, 4.0], false) && targets.add(1, [8, 8], [1.5, 1.0, 4.0, 4.0], false));
    assert_eq!(targets.objects.len(), 2);
    assert_eq!(targets.objects[0].index, 2 * 8 + 2);
    assert!(targets.heat_map[..64].iter().all(|value| *value == 0.0));
    assert_eq!(targets.heat_map[64 + 18], 1.0);
}

#[test]
fn margins_are_the_originals() {
    let json: Value = serde_json::from_slice(&std::fs::read(golden("cases.json")).unwrap()).unwrap();
    for (size, expected) in json["margins"].as_object().unwrap() {
        assert_eq!(margin(size.parse().unwrap()) as u64, expected.as_u64().unwrap(), "{size}");
    }
    assert_eq!([margin(0), margin(1), margin(2), margin(3)], [0, 0, 0, 1]);
}

#[test]
fn gaussians_are_the_originals() {
    let json: Value = serde_json::from_slice(&std::fs::read(golden("gaussian_radius.json")).unwrap()).unwrap();
    let rows = json.as_array().unwrap();
    assert!(rows.len() > 100);
    for row in rows {
        let [h, w, radius] = [0, 1, 2].map(|i| row[i].as_f64().unwrap());
        assert_eq!(gaussian_radius([h, w]) as f64, radius, "{h} x {w}");
    }
    // Side 5 has radius 1: deviation one half.
    let mut map = vec![0.0; 25];
    draw_gaussian(&mut map, [5, 5], [0, 2], gaussian_radius([5.0, 5.0]));
    let [centre, beside, diagonal] = [map[10], map[11], map[16]];
    assert_eq!(centre, 1.0);
    assert!((beside - 0.135_335_28).abs() < 1e-7 && (diagonal - 0.018_315_64).abs() < 1e-8);
    assert_eq!(map.iter().filter(|value| **value > 0.0).count(), 6);
}

#[test]
fn areas_that_are_left_out_weigh_nothing_and_labels_stay() {
    let size = [16, 16];
    let mut targets = Targets::new([2, 16, 16]);
    assert!(targets.add(1, size, [3.0, 3.0, 8.0, 8.0], false));
    let (before, labels) = (targets.heat_map.clone(), targets.labels.clone());
    let square = Shape::Region(vec![[0.0, 0.0], [8.0, 0.0], [8.0, 8.0], [0.0, 8.0]]);
    targets.mark(1, size, &square, Mark::LeftOut);
    let at = |map: &[f32], x: usize, y: usize| map[256 + y * 16 + x];
    // The label's own cell stays a label, all others of the area weigh (1 - y)^4, which is nothing.
    assert_eq!(at(&targets.heat_map, 5, 5), 1.0);
    for [x, y] in [[0, 0], [7, 7], [4, 5], [6, 5]] {
        let y_of_cell = f64::from(at(&targets.heat_map, x, y));
        assert!(y_of_cell < 1.0 && (1.0 - y_of_cell).powi(4) < 1e-20, "{x} {y}: {y_of_cell}");
    }
    let outside = |i: &usize| i % 16 > 8 || (i / 16) % 16 > 8 || *i < 256;
    assert!((0..512).filter(outside).all(|i| targets.heat_map[i] == before[i]));
    // Where nothing is, cells differ from 0 by less than anything that they weigh, and Gaussians of labels stay.
    targets.mark(1, size, &Shape::Brush(2.0, vec![[12.5, 12.5]]), Mark::Nothing);
    let nothing = at(&targets.heat_map, 12, 12);
    assert!(nothing > 0.0 && nothing < 1e-5 && at(&targets.heat_map, 12, 15) == 0.0);
    // A GPU would draw the labels alone.
    assert!(labels.is_some() && targets.labels.is_none());
}

#[test]
fn samples_are_drawn_around_what_somebody_has_looked_at() {
    let mut random = Random::new(1, &[]);
    let places = [[100.0, 200.0], [700.0, 50.0]];
    let mut near = [0; 2];
    for _ in 0..200 {
        let mut sample = Sample::whole([900, 900]);
        sample.focus(&mut random, &places, 32.0);
        let is_near = |place: &[f64; 2]| (0..2).all(|i| (sample.centre_d[i] - place[i]).abs() <= 32.0);
        near[places.iter().position(is_near).unwrap()] += 1;
    }
    assert!(near.iter().all(|count| *count > 60), "{near:?}");
    let mut sample = Sample::whole([900, 900]);
    sample.focus(&mut random, &[], 32.0);
    assert_eq!(sample, Sample::whole([900, 900]));
}
