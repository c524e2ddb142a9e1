//! The network against reference outputs computed in f64 by the original's code (tests/golden/README.md), and the plan
//! against the naive walk.

use epicker::device::Device;
use epicker::io::model_source::ModelSource;
use epicker::net::{Architecture, Model, Views, formula, graph::NodeId, inference::plan::Plan, reference};
use epicker::ops::{Compute, Precision, heat_map};
use epicker::random::splitmix64;
use safetensors::SafeTensors;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A tensor as f64, whatever it is stored as, with its shape.
fn values(file: &SafeTensors, name: &str) -> (Vec<usize>, Vec<f64>) {
    let view = file.tensor(name).unwrap();
    let data = view.data();
    let values = match view.dtype() {
        safetensors::Dtype::F64 => data.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        safetensors::Dtype::F32 => data.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
        safetensors::Dtype::I64 => data.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        other => panic!("{name} is {other:?}"),
    };
    (view.shape().to_vec(), values)
}

/// Largest difference between stored values (n, c, h, w), every `step`-th of each axis, and a map (n, h, w, c).
fn difference(stored: &(Vec<usize>, Vec<f64>), map: &[f64], [n, h, w, c]: [usize; 4], step: [usize; 3]) -> f64 {
    let (shape, stored) = stored;
    assert_eq!(shape[..], [n, c.div_ceil(step[0]), h.div_ceil(step[1]), w.div_ceil(step[2])]);
    let mut most = 0.0_f64;
    for (i, &expected) in stored.iter().enumerate() {
        let (x, y) = (i % shape[3] * step[2], i / shape[3] % shape[2] * step[1]);
        let (ch, image) = (i / (shape[3] * shape[2]) % shape[1] * step[0], i / (shape[3] * shape[2] * shape[1]));
        let error = (map[((image * h + y) * w + x) * c + ch] - expected).abs();
        most = most.max(if error.is_nan() { f64::INFINITY } else { error });
    }
    most
}

fn rms(values: &[f64]) -> f64 {
    (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt()
}

/// The wanted maps of a plan as f64, (n, h, w, c).
fn plan_maps(model: &Model, image: &[f32], n: usize, extent: [usize; 2], wanted: &[NodeId]) -> Vec<(Vec<f64>, [usize; 4])> {
    let graph = model.architecture().graph();
    let mut plan = Plan::new(&Device::Cpu, &graph, model, n, extent, wanted).unwrap();
    plan.run(image).unwrap();
    let read = |&id: &NodeId| {
        let map = plan.map(id);
        let shape = map.shape();
        ((0..shape[0] * shape[1] * shape[2]).flat_map(|pixel| map.pixel(pixel).iter().map(|&x| f64::from(x))).collect(), shape)
    };
    wanted.iter().map(read).collect()
}

struct TinyCase {
    name: &'static str,
    extent: [usize; 2],
    images: usize,
    /// Every how many-th channel, row and column is stored of the heads' maps, and of the up map.
    steps: [[usize; 3]; 2],
    /// Largest deviations of PyTorch's own f32 from f64: heat map, sizes, offsets, level 5, up.
    pytorch_f32: [f64; 5],
}

const TINY: [TinyCase; 3] = [
    TinyCase {
        name: "256x256",
        extent: [256, 256],
        images: 1,
        steps: [[1, 2, 1], [3, 3, 2]],
        pytorch_f32: [5.32e-4, 3.36e-4, 5.33e-5, 3.94e-5, 3.95e-4],
    },
    TinyCase {
        name: "192x320",
        extent: [192, 320],
        images: 1,
        steps: [[1, 2, 1], [3, 3, 2]],
        pytorch_f32: [3.27e-4, 5.03e-4, 5.80e-5, 4.81e-5, 4.21e-4],
    },
    TinyCase {
        name: "128x128x2",
        extent: [128, 128],
        images: 2,
        steps: [[1, 1, 1], [1, 1, 1]],
        pytorch_f32: [1.37e-4, 1.45e-4, 2.68e-5, 3.30e-5, 1.40e-4],
    },
];

#[test]
fn the_naive_f64_walk_gives_the_originals_outputs() {
    let model = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
    let graph = model.architecture().graph();
    let outputs = graph.outputs();
    for case in &TINY {
        let bytes = std::fs::read(golden(&format!("network/tiny_{}.safetensors", case.name))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let image = values(&file, "input").1;
        let maps = reference::forward::<f64>(&graph, &model, &image, case.images, case.extent).unwrap();
        let [heads, up] = case.steps;
        let all = [1, 1, 1];
        let wanted = [
            ("hm_logit", outputs.heat_map, all),
            ("wh", outputs.size, heads),
            ("reg", outputs.offset, heads),
            ("fea_level5", outputs.level5, all),
            ("fea_up", outputs.up, up),
        ];
        for (name, id, step) in wanted {
            let stored = values(&file, name);
            let [h, w] = graph.extent(id, case.extent);
            let error = difference(&stored, &maps[id.0], [case.images, h, w, graph.node(id).channels], step);
            assert!(error <= 1e-8 * rms(&stored.1), "{} {name}: {error:.2e}", case.name);
        }
        // Detections: the same peaks in the same order with the same scores.
        let [h, w] = graph.extent(outputs.heat_map, case.extent);
        let (shape, indices) = values(&file, "top_inds");
        let scores = values(&file, "top_scores").1;
        let mut peak_count = 0;
        for image in 0..case.images {
            let logits = &maps[outputs.heat_map.0][image * h * w..(image + 1) * h * w];
            let found = heat_map::reference::<f64>(logits, [h, w], usize::MAX);
            if image == 0 {
                peak_count = found.len();
            }
            for (k, &(index, score)) in found.iter().take(shape[1]).enumerate() {
                let stored = image * shape[1] + k;
                assert_eq!(f64::from(index), indices[stored], "{} image {image} peak {k}", case.name);
                assert!((score - scores[stored]).abs() < 1e-9);
            }
        }
        if case.images == 1 {
            assert_eq!(peak_count as f64, values(&file, "nms_count").1[0]);
        }
    }
}

#[test]
fn the_f32_plan_deviates_at_most_three_times_as_much_as_pytorch() {
    let model = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
    let graph = model.architecture().graph();
    let o = graph.outputs();
    for case in &TINY {
        let bytes = std::fs::read(golden(&format!("network/tiny_{}.safetensors", case.name))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let image: Vec<f32> = values(&file, "input").1.iter().map(|&x| x as f32).collect();
        let wanted = [o.heat_map, o.size, o.offset, o.level5, o.up];
        let maps = plan_maps(&model, &image, case.images, case.extent, &wanted);
        let [heads, up] = case.steps;
        let all = [1, 1, 1];
        for (i, (name, step)) in
            [("hm_logit", all), ("wh", heads), ("reg", heads), ("fea_level5", all), ("fea_up", up)].into_iter().enumerate()
        {
            let error = difference(&values(&file, name), &maps[i].0, maps[i].1, step);
            let bound = 3.0 * case.pytorch_f32[i];
            assert!(error <= bound, "{} {name}: {error:.2e}, bound {bound:.2e}", case.name);
        }
    }
}

#[test]
fn picked_peaks_are_the_originals_detections() {
    let model = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
    let bytes = std::fs::read(golden("network/tiny_256x256.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let image: Vec<f32> = values(&file, "input").1.iter().map(|&x| x as f32).collect();
    let options = epicker::net::PeakFinderOptions { frame: 256, sizes: true, k: 100, views: Default::default() };
    let peaks = epicker::net::PeakFinder::new(&Device::Cpu, &model, options).unwrap().run(&image).unwrap();
    let expected = values(&file, "det_vesicle").1; // x1 y1 x2 y2 score class, heat map pixels
    let indices = values(&file, "top_inds").1;
    assert_eq!(peaks.len(), 100);
    for (row, &index) in expected.chunks(6).zip(&indices) {
        let peak = peaks.iter().find(|peak| f64::from(peak.index) == index).expect("the peak is among the 100 best");
        let (x, y) = (f64::from(peak.index % 64), f64::from(peak.index / 64));
        let size = peak.size.unwrap();
        let centre = [x + f64::from(peak.offset[0]), y + f64::from(peak.offset[1])];
        // Three times PyTorch's own deviations: offsets 5.3e-5, sizes 3.4e-4, scores 1.3e-4.
        assert!((f64::from(peak.score) - row[4]).abs() < 4e-4);
        for axis in 0..2 {
            assert!((centre[axis] - (row[axis] + row[axis + 2]) / 2.0).abs() < 1.6e-4);
            assert!((f64::from(size[axis]) - (row[axis + 2] - row[axis])).abs() < 1e-3);
        }
    }
}

/// Several views: the mean of what the network says of the image and of the image turned, turned back. Each is computed here by
/// itself.
#[test]
fn views_are_averaged_as_if_each_had_been_turned_by_hand() {
    const SIDE: usize = 128;
    let model = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
    let image = epicker::random::noise(SIDE * SIDE, 11);
    let graph = model.architecture().graph();
    let wanted = [graph.outputs().heat_map];
    let mut plan = Plan::new(&Device::Cpu, &graph, &model, 1, [SIDE, SIDE], &wanted).unwrap();
    let turned = |values: &[f32], side: usize, [rows, columns]: [bool; 2]| -> Vec<f32> {
        let at = |i: usize, turns: bool| if turns { side - 1 - i } else { i };
        (0..side * side).map(|i| values[at(i / side, rows) * side + at(i % side, columns)]).collect()
    };
    let mut logits = |how: [bool; 2]| -> Vec<f32> {
        plan.run(&turned(&image, SIDE, how)).unwrap();
        turned(&plan.read(wanted[0]).unwrap(), SIDE / 4, how)
    };
    let all = [[false, false], [true, true], [true, false], [false, true]].map(&mut logits);
    for (views, few) in [(Views::One, &all[..1]), (Views::Two, &all[..2]), (Views::Four, &all[..])] {
        let options = epicker::net::PeakFinderOptions { frame: SIDE, sizes: true, k: 60, views };
        let peaks = epicker::net::PeakFinder::new(&Device::Cpu, &model, options).unwrap().run(&image).unwrap();
        assert!(peaks.len() > 40, "{}", peaks.len());
        for peak in &peaks {
            let mean = few.iter().map(|logits| f64::from(logits[peak.index as usize])).sum::<f64>() / few.len() as f64;
            let score = 1.0 / (1.0 + (-mean).exp());
            assert!((f64::from(peak.score) - score).abs() < 1e-6, "{views:?}: {peak:?}, expected {score}");
        }
    }
    assert!(all[1..].iter().all(|other| *other != all[0]));
}

/// The 256x256 test image of the full network: noise of 64 levels with 24 paraboloids, normalised.
fn full_input() -> Vec<f32> {
    const SIDE: i64 = 256;
    let name = "full/input";
    let hash = |text: &str, i: u64| splitmix64(formula::fnv1a64(text).wrapping_add(i));
    let mut v: Vec<i64> = (0..(SIDE * SIDE) as u64).map(|i| (hash(name, i) >> 58) as i64 + 64).collect();
    for k in 0..24u64 {
        let q = |j: u64, below: u64| (hash(&format!("{name}/blob"), 4 * k + j) % below) as i64;
        let (cx, cy, r, a) = (q(0, 256), q(1, 256), 6 + q(2, 10), 64 + q(3, 64));
        for (i, v) in v.iter_mut().enumerate() {
            let (dx, dy) = (i as i64 % SIDE - cx, i as i64 / SIDE - cy);
            let d2 = dx * dx + dy * dy;
            if d2 < r * r {
                let t = a * (r * r - d2) / (r * r);
                *v += if k % 2 == 1 { t } else { -t };
            }
        }
    }
    v.iter().map(|&v| ((v.clamp(0, 255) as f64 / 255.0 - 0.502256) / 0.289417) as f32).collect()
}

#[test]
fn the_full_network_gives_the_originals_outputs_in_f64_and_f32() {
    let bytes = std::fs::read(golden("network/full_256x256.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let model = formula::model(Architecture::DLA34).unwrap();
    assert_eq!(model.tensor("hm.2.bias").unwrap()[0].to_bits(), 0xc008_1b7b);
    assert_eq!(model.tensor("ida_up.up_2.weight").unwrap()[0].to_bits(), 0x3c8f_8793);
    let image = full_input();
    let stored_input = values(&file, "input_f32_strided").1;
    for (i, &expected) in stored_input.iter().enumerate() {
        assert_eq!(f64::from(image[i / 32 * 8 * 256 + i % 32 * 8]), expected);
    }
    let graph = model.architecture().graph();
    let o = graph.outputs();
    let wide: Vec<f64> = image.iter().map(|&x| f64::from(x)).collect();
    let exact = reference::forward::<f64>(&graph, &model, &wide, 1, [256, 256]).unwrap();
    let wanted = [o.heat_map, o.size, o.offset, o.level5, o.up];
    let found = plan_maps(&model, &image, 1, [256, 256], &wanted);
    // PyTorch's own f32 deviations: heat map, sizes, offsets, level 5, up.
    let pytorch_f32 = [3.53e-6, 4.43e-6, 4.66e-6, 1.50e-5, 1.18e-5];
    let stored =
        [("hm_logit", [1, 1, 1]), ("wh", [1, 1, 1]), ("reg", [1, 1, 1]), ("fea_level5_strided", [16, 1, 1]), ("fea_up_strided", [8, 4, 4])];
    for (i, (name, step)) in stored.into_iter().enumerate() {
        let expected = values(&file, name);
        let error = difference(&expected, &exact[wanted[i].0], found[i].1, step);
        assert!(error <= 1e-8 * rms(&expected.1), "{name} in f64: {error:.2e}");
        let error = difference(&expected, &found[i].0, found[i].1, step);
        assert!(error <= 3.0 * pytorch_f32[i], "{name} in f32: {error:.2e}");
    }
    // Twelve stages on the way, every (C/4)-th channel and (H/16)-th row and column.
    let stages = [
        "base.base_layer",
        "base.level0",
        "base.level1",
        "base.level2",
        "base.level3",
        "base.level4",
        "base.level5",
        "dla_up.ida_0.node_1",
        "dla_up.ida_1.node_2",
        "dla_up.ida_2.node_3",
        "ida_up.node_1",
        "ida_up.node_2",
    ];
    for stage in stages {
        let id = graph.nodes().iter().rposition(|node| node.name.starts_with(&format!("{stage}."))).map(NodeId).unwrap();
        let [h, w] = graph.extent(id, [256, 256]);
        let c = graph.node(id).channels;
        let expected = values(&file, &format!("stage.{stage}"));
        let error = difference(&expected, &exact[id.0], [1, h, w, c], [c / 4, (h / 16).max(1), (w / 16).max(1)]);
        assert!(error <= 1e-8 * rms(&expected.1), "{stage}: {error:.2e}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let model = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
    let image: Vec<f32> = epicker::random::noise(96 * 160, 5).iter().map(|x| 4.0 * x).collect();
    let graph = model.architecture().graph();
    let o = graph.outputs();
    let pool = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let run = |threads: usize| pool(threads).install(|| plan_maps(&model, &image, 1, [96, 160], &[o.heat_map, o.size, o.offset, o.up]));
    // One thread computes the first three layers in bands, and the head; two only the layers; five compute whole maps.
    let in_bands = |threads: usize| {
        let plan = pool(threads).install(|| Plan::new(&Device::Cpu, &graph, &model, 1, [96, 160], &[o.heat_map])).unwrap();
        let last = plan.summary().len() - 1;
        [plan.done_with(2).len(), plan.done_with(last).len()]
    };
    assert_eq!([in_bands(1), in_bands(2), in_bands(5)], [[3, 2], [3, 1], [1, 1]]);
    let one = run(1);
    assert!(one.iter().all(|(map, _)| map.iter().all(|x| x.is_finite())));
    assert!(one == run(2) && one == run(5));
}

#[test]
fn the_plan_computes_what_the_published_savings_leave() {
    let model = formula::model(Architecture::DLA34).unwrap();
    let graph = model.architecture().graph();
    let o = graph.outputs();
    let plan = Plan::new(&Device::Cpu, &graph, &model, 1, [1024, 1024], &[o.heat_map, o.up]).unwrap();
    // 131.074 G less dead projections 0.268, one input channel 1.644, and both other heads (docs/network.md, section 2).
    let expected = 131.074e9 - 0.268e9 - 1.644e9 - 9.697e9 * 2.0;
    let found = plan.multiply_adds() as f64;
    assert!((found - expected).abs() < 0.002 * expected, "{found:.4e}, expected {expected:.4e}");
    assert!(plan.arena_bytes() as f64 <= 1.25 * plan.lower_bound_bytes() as f64, "{} of {}", plan.arena_bytes(), plan.lower_bound_bytes());
    let parameters: usize = model
        .architecture()
        .tensor_shapes()
        .iter()
        .filter(|(name, _)| !name.contains("running") && !name.contains("num_batches"))
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    assert_eq!(parameters, 19_655_589);
    assert_eq!(model.architecture().tensor_shapes().len(), 398);
}

#[test]
fn numbers_are_rounded_as_tensor_cores_read_them() {
    let [one, ulp16] = [1.0_f32, 2.0_f32.powi(-10)];
    for precision in [Precision::Tf32, Precision::F16] {
        assert_eq!(precision.rounded(one + 0.4 * ulp16), one, "{precision:?}");
        assert_eq!(precision.rounded(one + 0.6 * ulp16), one + ulp16, "{precision:?}");
        assert_eq!(precision.rounded(-one - 0.6 * ulp16), -one - ulp16, "{precision:?}");
        assert!(precision.rounded(f32::NAN).is_nan() && precision.rounded(f32::INFINITY) == f32::INFINITY, "{precision:?}");
        assert!(!precision.overflows(65504.0) && !precision.overflows(f32::INFINITY), "{precision:?}");
    }
    // A tie goes away from zero in one, to the even neighbour in the other.
    assert_eq!(Precision::Tf32.rounded(one + 0.5 * ulp16), one + ulp16);
    assert_eq!(Precision::F16.rounded(one + 0.5 * ulp16), one);
    assert!(Precision::F16.overflows(70_000.0) && !Precision::Tf32.overflows(70_000.0));
    assert_eq!(Precision::F32.rounded(1.000_000_1), 1.000_000_1);
}

#[test]
fn maps_and_weights_are_rounded_and_what_leaves_the_network_is_not() {
    let model = ModelSource::General("particle").load(Model::from_state).unwrap();
    let graph = model.architecture().graph();
    let outputs = graph.outputs();
    let image: Vec<f32> = (0..64 * 64_u64).map(|i| (splitmix64(i) % 1000) as f32 / 250.0 - 2.0).collect();
    let maps = |precision: Precision| {
        let compute = Compute { precision, ..Compute::from(&Device::Cpu) };
        let mut plan = Plan::new(&compute, &graph, &model, 1, [64, 64], &[outputs.heat_map, outputs.up]).unwrap();
        plan.run(&image).unwrap();
        assert_eq!(compute.overflows.load(std::sync::atomic::Ordering::Relaxed), 0);
        [outputs.heat_map, outputs.up].map(|id| plan.read(id).unwrap())
    };
    let [exact, _] = maps(Precision::F32);
    let scale = exact.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for (precision, most) in [(Precision::Tf32, 5e-3), (Precision::F16, 5e-3)] {
        let [logits, up] = maps(precision);
        assert!(up.iter().all(|&value| precision.rounded(value) == value), "{precision:?}: a map that is read is not rounded");
        assert!(logits.iter().any(|&value| precision.rounded(value) != value), "{precision:?}: the logits are rounded");
        let error = logits.iter().zip(&exact).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / scale;
        assert!(error > 1e-6 && error < most, "{precision:?}: logits differ by {error} of the largest");
    }
}
