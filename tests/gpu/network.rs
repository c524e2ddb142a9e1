//! The network on a GPU: the kernels executed on the host, through the same plans, launches and copies. With double for
//! float the whole tiny network and a step of training agree with the f64 references, which proves every index, stride and
//! launch; in f32 they agree as closely as rounding allows.

use epicker::device::{Device, Team};
use epicker::formats::coordinates::Kind;
use epicker::formats::model_file::load_model_file;
use epicker::io::model_source::ModelSource;
use epicker::net::Views;
use epicker::net::graph::NodeId;
use epicker::net::inference::plan::Plan;
use epicker::net::parameters::{NetworkMemory, NetworkState, ParameterLayout};
use epicker::net::training::plan::{TrainPlan, TrainPlanOptions};
use epicker::net::training::run::{self as training_run, Arena};
use epicker::net::{Architecture, Model, PeakFinder, PeakFinderOptions, formula};
use epicker::ops::heat_map::Peak;
use epicker::ops::losses::HeatMapLoss;
use epicker::ops::{Real, largest_difference};
use epicker::random::noise;
use epicker::train::TrainingMemory;
use epicker::train::step::Compared;
use epicker::train::{Continual, Object, Targets, Trainer, TrainerOptions};
use hostgpu::{Build, Calls, HostGpu, Options};
use std::path::PathBuf;
use std::sync::Arc;

const TINY: Architecture = Architecture { channels: [8, 8, 12, 16, 24, 32], head: 16 };

pub(super) fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(super) fn host(build: Build) -> (Device, Arc<HostGpu>) {
    let (gpu, host) = HostGpu::gpu(Options { build, ..Options::default() }).unwrap();
    (Device::Gpu(gpu), host)
}

pub(super) fn device(build: Build) -> Device {
    host(build).0
}

/// Noise with some round spots, so that there are peaks of all heights.
fn image(n: usize, [h, w]: [usize; 2]) -> Vec<f32> {
    let mut image: Vec<f32> = noise(n * h * w, 11).iter().map(|x| 2.0 * x).collect();
    for (i, value) in image.iter_mut().enumerate() {
        let (y, x) = (i / w % h, i % w);
        let (dy, dx) = (y as f32 % 24.0 - 12.0, x as f32 % 24.0 - 12.0);
        *value -= 3.0 * (-(dy * dy + dx * dx) / 30.0).exp();
    }
    image
}

/// The largest difference, as a part of the largest value.
fn relative(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    let error = largest_difference(found, expected);
    error / scale.max(1e-300)
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

fn plan_maps(device: &Device, model: &Model, n: usize, extent: [usize; 2]) -> Vec<Vec<f64>> {
    let graph = model.architecture().graph();
    let o = graph.outputs();
    let wanted = [o.heat_map, o.size, o.offset, o.level5, o.up];
    let mut plan = Plan::new(device, &graph, model, n, extent, &wanted).unwrap();
    plan.run(&image(n, extent)).unwrap();
    wanted.iter().map(|&id| plan.read(id).unwrap().into_iter().map(f64::from).collect()).collect()
}

/// The tiny network's maps of a device are those of the CPU.
pub fn plan_gives_the_cpus_maps(device: &Device) {
    let tiny = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
    for (n, extent) in [(1, [64, 96]), (2, [64, 64])] {
        let expected = plan_maps(&Device::Cpu, &tiny, n, extent);
        let found = plan_maps(device, &tiny, n, extent);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = relative(found, expected);
            assert!(error <= 3e-5, "{n} x {extent:?}, map {i}: {error:.2e}"); // the tiny network amplifies rounding
        }
    }
}

#[test]
fn the_inference_plan_gives_the_cpus_maps() {
    plan_gives_the_cpus_maps(&device(Build::Fast));
}

#[test]
fn the_inference_plan_touches_no_memory_that_is_not_its_own() {
    let tiny = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
    let maps = plan_maps(&device(Build::Checked), &tiny, 1, [32, 32]);
    assert_eq!(maps, plan_maps(&device(Build::Fast), &tiny, 1, [32, 32]));
}

/// The full network's maps of a device are those of the CPU.
pub fn full_plan_gives_the_cpus_maps(device: &Device) {
    let architecture = Architecture::DLA34;
    let model = formula::model(architecture).unwrap();
    let (expected, found) = (plan_maps(&Device::Cpu, &model, 1, [64, 64]), plan_maps(device, &model, 1, [64, 64]));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = relative(found, expected);
        assert!(error <= 1e-5, "map {i}: {error:.2e}");
    }
}

#[test]
fn the_full_networks_maps_are_the_cpus() {
    full_plan_gives_the_cpus_maps(&device(Build::Fast));
}

/// The peaks that the tiny network finds on a device are those of the CPU. Returns the finder, which has seen one micrograph, that
/// micrograph, and its peaks.
pub fn finds_the_cpus_peaks(device: &Device, views: Views) -> (PeakFinder, Vec<f32>, Vec<Peak>) {
    let model = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
    let options = PeakFinderOptions { frame: 128, sizes: true, k: 30, views };
    let mut cpu = PeakFinder::new(&Device::Cpu, &model, options).unwrap();
    let mut gpu = PeakFinder::new(device, &model, options).unwrap();
    let image = image(1, [128, 128]);
    let expected = cpu.run(&image).unwrap();
    assert!(expected.len() == 30 && expected[0].score > 0.3, "{:?}", &expected[..2]);
    let first = gpu.run(&image).unwrap();
    for peak in expected.iter().filter(|peak| peak.score > 0.3) {
        let found = first.iter().find(|found| found.index == peak.index).unwrap_or_else(|| panic!("{peak:?} was not found"));
        assert!((found.score - peak.score).abs() < 1e-3, "{found:?}, expected {peak:?}");
        for axis in 0..2 {
            assert!((found.offset[axis] - peak.offset[axis]).abs() < 1e-3, "{found:?}, expected {peak:?}");
            assert!((found.size.unwrap()[axis] - peak.size.unwrap()[axis]).abs() < 5e-3, "{found:?}, expected {peak:?}");
        }
    }
    (gpu, image, first)
}

#[test]
fn picked_peaks_are_the_cpus_and_a_micrograph_costs_one_launch() {
    let (device, host) = host(Build::Fast);
    finds_the_cpus_peaks(&device, Views::Two);
    let (mut gpu, image, first) = finds_the_cpus_peaks(&device, Views::Four);
    // The first micrograph goes step by step, the second is captured; the third is one launch.
    let other: Vec<f32> = image.iter().map(|x| 0.5 * x).collect();
    assert!(gpu.run(&other).unwrap() != first);
    host.take_calls();
    assert_eq!(gpu.run(&image).unwrap(), first);
    let expected = Calls { graph_launches: 1, uploads: 1, synchronisations: 1, ..Calls::default() };
    assert_eq!(host.take_calls(), expected, "no allocation, no other launch, one wait");
    let used = host.memory_in_use();
    drop(gpu);
    assert!(used > 0 && host.memory_in_use() == 0, "{} of {used} bytes are left", host.memory_in_use());
}

#[test]
fn more_peaks_than_go_through_a_head_at_once_are_found() {
    let model = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
    let options = PeakFinderOptions { frame: 256, sizes: false, k: 4096, views: Default::default() };
    let image = noise(256 * 256, 5);
    let expected = PeakFinder::new(&Device::Cpu, &model, options).unwrap().run(&image).unwrap();
    let found = PeakFinder::new(&device(Build::Fast), &model, options).unwrap().run(&image).unwrap();
    let indices = |peaks: &[Peak]| {
        let mut indices: Vec<u32> = peaks.iter().map(|peak| peak.index).collect();
        indices.sort_unstable();
        indices
    };
    assert!((found.len() as f64 / expected.len() as f64 - 1.0).abs() < 0.01);
    let same = indices(&found).iter().filter(|index| indices(&expected).binary_search(index).is_ok()).count();
    assert!(same as f64 > 0.99 * expected.len() as f64, "{same} of {} peaks", expected.len());
}

/// The wanted maps of a training plan that goes forward by the running statistics.
fn train_maps<T: Real>(device: &Device, extent: [usize; 2]) -> Vec<Vec<f64>> {
    let (graph, layout) = (TINY.graph(), ParameterLayout::new(TINY));
    let o = graph.outputs();
    let wanted: Vec<NodeId> = vec![o.heat_map, o.size, o.offset, o.level5, o.up];
    let options =
        TrainPlanOptions { team: Team::alone(1), extent, wanted: wanted.clone(), frozen: true, backward: false, recompute: false };
    let plan = TrainPlan::new::<T>(&device.into(), &graph, &layout, &options).unwrap();
    let state = NetworkState::from_state_dict(&layout, &load_model_file(&golden("models/tiny.safetensors")).unwrap()).unwrap();
    let mut state = NetworkMemory::new(device, state).unwrap();
    let mut arena = Arena::new(device).unwrap();
    let mut gradients = epicker::device::Buffer::zeros(device, 0).unwrap();
    let mut found = Vec::new();
    training_run::run(&plan, &layout, &mut arena, &mut state, &mut gradients, &image(1, extent), |maps| {
        for &id in &wanted {
            found.push(device.read(maps.map(id))?.into_iter().map(|x: T| x.to_f64()).collect());
        }
        Ok(())
    })
    .unwrap();
    found
}

#[test]
fn in_f64_the_networks_maps_are_the_references() {
    let expected = train_maps::<f64>(&Device::Reference, [64, 96]);
    let found = train_maps::<f64>(&device(Build::F64), [64, 96]);
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = relative(found, expected);
        assert!(error <= 1e-9, "map {i}: {error:.2e}");
    }
}

pub(super) fn batch(n: usize, [h, w]: [usize; 2]) -> (Vec<f32>, Targets) {
    let cells = h / 4 * (w / 4);
    let mut targets = Targets { heat_map: noise(n * cells, 4).iter().map(|x| 0.4 + 0.4 * x).collect(), objects: Vec::new(), labels: None };
    for i in (5..n * cells).step_by(37) {
        targets.heat_map[i] = 1.0;
        targets.objects.push(Object { image: i / cells, index: i % cells, offset: [0.25, 0.5], size: [4.0, 5.5] });
    }
    (image(n, [h, w]), targets)
}

#[derive(Clone, Copy)]
pub(super) struct TrainCase {
    mode: Kind,
    sparse: bool,
    frozen: bool,
    recompute: bool,
    pub(super) continual: bool,
    pub(super) compared: Compared,
    exemplars: [bool; 2],
}

pub(super) const TRAIN_CASES: [TrainCase; 3] = [
    TrainCase {
        mode: Kind::Vesicle,
        sparse: false,
        frozen: false,
        recompute: false,
        continual: true,
        compared: Compared::Batch,
        exemplars: [true, false],
    },
    TrainCase {
        mode: Kind::Particle,
        sparse: true,
        frozen: true,
        recompute: false,
        continual: false,
        compared: Compared::Batch,
        exemplars: [false, false],
    },
    TrainCase {
        mode: Kind::Particle,
        sparse: false,
        frozen: false,
        recompute: true,
        continual: true,
        compared: Compared::Exemplars,
        exemplars: [false, true],
    },
];
pub(super) const FRAME: [usize; 2] = [64, 64];

pub(super) fn options(case: &TrainCase) -> TrainerOptions {
    TrainerOptions {
        heat_map_loss: if case.sparse { HeatMapLoss::SparseOriginal } else { HeatMapLoss::Focal },
        frozen_statistics: case.frozen,
        checkpoint_activations: case.recompute,
        ..TrainerOptions::new(case.mode, 2, FRAME)
    }
}

pub(super) fn trainer<T: Real>(device: &Device, case: &TrainCase) -> Trainer<T> {
    let earlier = || load_model_file(&golden("train/tiny_old.safetensors")).unwrap();
    let continual = case.continual.then(|| Continual { batch_statistics: true, compared: case.compared, ..Continual::new(earlier()) });
    Trainer::new(device, TINY, &load_model_file(&golden("models/tiny.safetensors")).unwrap(), options(case), continual).unwrap()
}

/// The bias of a deformable convolution: the norm behind it takes every mean away, so its gradient is 0 but for rounding.
fn is_without_effect(name: &str) -> bool {
    name.ends_with(".conv.bias")
}

#[test]
fn in_f64_a_step_of_training_is_the_references() {
    let (images, targets) = batch(2, FRAME);
    for (i, case) in TRAIN_CASES.iter().enumerate() {
        let mut exact = trainer::<f64>(&Device::Reference, case);
        let mut found = trainer::<f64>(&device(Build::F64), case);
        let expected = exact.compute_gradients(&images, &targets, &case.exemplars).unwrap();
        let losses = found.compute_gradients(&images, &targets, &case.exemplars).unwrap();
        assert!((losses.total - expected.total).abs() <= 1e-9 * expected.total.abs(), "case {i}: {losses:?}, expected {expected:?}");
        for (k, entry) in exact.layout().parameters().iter().enumerate() {
            let (exact, found) = (exact.gradient(k).unwrap(), found.gradient(k).unwrap());
            let (Some(exact), Some(found)) = (&exact, &found) else {
                assert!(exact.is_none() && found.is_none(), "case {i} {}", entry.name);
                continue;
            };
            if is_without_effect(&entry.name) && !case.frozen {
                assert!(found.iter().all(|x| x.abs() < 1e-9), "case {i} {}", entry.name);
                continue;
            }
            let error = norm(exact.iter().zip(found).map(|(a, b)| a - b)) / norm(exact.iter().copied());
            assert!(error <= 1e-7, "case {i} {}: {error:.2e} of the norm", entry.name);
        }
        exact.apply(1e-3).unwrap();
        found.apply(1e-3).unwrap();
        let (exact_state, found_state) = (exact.state().unwrap(), found.state().unwrap());
        assert!(relative(&found_state.statistics, &exact_state.statistics) <= 1e-9, "case {i}: running statistics");
        for entry in exact.layout().parameters().iter().filter(|entry| !is_without_effect(&entry.name)) {
            let [found, exact] = [&found_state, &exact_state].map(|state| &state.parameters[entry.range.clone()]);
            // Adam divides by the gradient's size, so a gradient off by 1e-7 of a small value moves a little differently.
            let error = largest_difference(found, exact);
            assert!(error <= 1e-3 * 1e-4, "case {i} {}: moved by {error:.2e} too much", entry.name);
        }
    }
}

#[test]
fn the_memory_of_a_training_is_known_before_it_is_asked_for() {
    for case in &TRAIN_CASES {
        for device in [Device::Cpu, device(Build::Fast)] {
            let memory = TrainingMemory::of(&device, TINY, &options(case), case.continual).unwrap();
            assert_eq!(memory.total(), trainer::<f32>(&device, case).bytes(), "{}", device.describe());
        }
    }
}

/// Losses and gradients of a step in f32 are those of the references, as far as rounding allows.
pub fn gradients_are_the_references(device: &Device) {
    let (images, targets) = batch(2, FRAME);
    let case = &TRAIN_CASES[0];
    let mut exact = trainer::<f64>(&Device::Reference, case);
    let mut found = trainer::<f32>(device, case);
    let expected = exact.compute_gradients(&images, &targets, &case.exemplars).unwrap();
    let losses = found.compute_gradients(&images, &targets, &case.exemplars).unwrap();
    assert!((losses.total - expected.total).abs() <= 1e-4 * expected.total, "{losses:?}, expected {expected:?}");
    for (k, entry) in exact.layout().parameters().iter().enumerate().filter(|(_, entry)| !is_without_effect(&entry.name)) {
        let (Some(exact), Some(found)) = (exact.gradient(k).unwrap(), found.gradient(k).unwrap()) else { continue };
        let error = norm(exact.iter().zip(&found).map(|(a, &b)| a - f64::from(b))) / norm(exact.iter().copied());
        // Rounding decides at kinks of ReLU, maximum and floor; a correct f32 code may be this far off.
        assert!(error <= 5e-2, "{}: {error:.2e} of the norm", entry.name);
    }
}

#[test]
fn in_f32_a_steps_gradients_are_the_references_as_far_as_rounding_allows() {
    gradients_are_the_references(&device(Build::Fast));
}

/// A step of training on labels, with the teacher: its losses and the parameters after it.
pub fn step(device: &Device) -> (f64, Vec<f32>) {
    let mut trainer = trainer::<f32>(device, &TRAIN_CASES[0]);
    let losses = trainer.step(&batch(2, FRAME).0, &labelled(false), &TRAIN_CASES[0].exemplars, 1e-3).unwrap();
    (losses.total, trainer.state().unwrap().parameters)
}

#[test]
fn the_losses_of_three_epochs_are_the_cpus() {
    let case = TrainCase { continual: false, frozen: false, sparse: false, recompute: false, ..TRAIN_CASES[1] };
    let mut cpu = trainer::<f32>(&Device::Cpu, &case);
    let mut gpu = trainer::<f32>(&device(Build::Fast), &case);
    let (images, targets) = batch(2, FRAME);
    let mut means = Vec::new();
    for epoch in 0..3 {
        let mut sums = [0.0; 2];
        for step in 0..3 {
            let shifted: Vec<f32> = images.iter().enumerate().map(|(i, x)| x + 0.1 * ((i * (1 + step)) % 7) as f32).collect();
            sums[0] += cpu.step(&shifted, &targets, &[false; 2], 1e-4).unwrap().total / 3.0;
            sums[1] += gpu.step(&shifted, &targets, &[false; 2], 1e-4).unwrap().total / 3.0;
        }
        // Single steps differ by more: Adam divides by the gradient's size, so rounding decides where the smallest go.
        assert!((sums[1] - sums[0]).abs() <= 0.02 * sums[0], "epoch {epoch}: {}, expected {}", sums[1], sums[0]);
        means.push(sums);
    }
    assert!(means[2][0] < 0.8 * means[0][0], "nothing was learnt: {means:?}");
}

/// Two images with labels, some of them in one cell.
fn labelled(clip: bool) -> Targets {
    let [h, w] = FRAME.map(|extent| extent / 4);
    let mut targets = Targets::new([2, h, w]);
    for (i, x) in noise(3 * 20, 9).chunks_exact(3).enumerate() {
        let [x, y, side] = [(x[0] + 0.5) * w as f32, (x[1] + 0.5) * h as f32, 3.0 + 2.0 * x[2]];
        targets.add(i % 2, [h, w], [x - side, y - side, x + side, y + 0.5 * side], clip);
    }
    targets
}

#[test]
fn a_step_on_labels_is_the_step_on_their_targets() {
    let (images, _) = batch(2, FRAME);
    for clip in [false, true] {
        let run = |targets: &Targets| {
            let mut trainer = trainer::<f32>(&device(Build::Fast), &TRAIN_CASES[0]);
            let losses = trainer.step(&images, targets, &[false, false], 1e-3).unwrap();
            (losses, trainer.state().unwrap().parameters)
        };
        let targets = labelled(clip);
        assert!(targets.objects.len() > 5 && targets.labels.as_ref().unwrap().boxes.len() == targets.objects.len());
        assert!(run(&targets) == run(&Targets { labels: None, ..targets.clone() }), "clip {clip}");
    }
}

#[test]
fn a_step_of_training_waits_once_and_allocates_nothing() {
    let (images, targets) = (batch(2, FRAME).0, labelled(false));
    let (device, host) = host(Build::Fast);
    for (case, teacher) in [(&TRAIN_CASES[0], 1), (&TRAIN_CASES[1], 0)] {
        let mut trainer = trainer::<f32>(&device.clone(), case);
        trainer.step(&images, &targets, &case.exemplars, 1e-3).unwrap();
        host.take_calls();
        trainer.step(&images, &targets, &case.exemplars, 1e-3).unwrap();
        let calls = host.take_calls();
        // The images, for the teacher again; of the labels their images and their boxes. All losses come back together.
        let expected = Calls { launches: calls.launches, uploads: 3 + teacher, downloads: 1, synchronisations: 1, ..Calls::default() };
        assert_eq!(calls, expected);
    }
}

#[test]
fn a_training_on_a_gpu_is_repeatable_bit_by_bit() {
    let (images, targets) = batch(2, FRAME);
    let run = |seed: u64| {
        let (gpu, _) = HostGpu::gpu(Options { seed, ..Options::default() }).unwrap();
        let mut trainer = trainer::<f32>(&Device::Gpu(gpu), &TRAIN_CASES[0]);
        trainer.step(&images, &targets, &[false, false], 1e-3).unwrap();
        let losses = trainer.step(&images, &targets, &[true, false], 1e-3).unwrap();
        let state = trainer.state().unwrap();
        (state.parameters, state.statistics, losses)
    };
    let once = run(0);
    assert!(once.0.iter().all(|x| x.is_finite()) && once == run(3));
}
