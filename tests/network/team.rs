//! Devices that share the images of each batch learn, bit by bit, what one device learns that has all of them.

use epicker::device::Device;
use epicker::formats::coordinates::Kind;
use epicker::formats::model_file::load_model_file;
use epicker::formats::state_dict::StateDict;
use epicker::net::Architecture;
use epicker::ops::Compute;
use epicker::ops::losses::HeatMapLoss;
use epicker::random::noise;
use epicker::train::run::Learner;
use epicker::train::{Compared, Continual, FeatureScale, Losses, Object, Targets, TrainerOptions, Trainers};
use std::path::PathBuf;

const TINY: Architecture = Architecture { channels: [8, 8, 12, 16, 24, 32], head: 16 };
const FRAME: [usize; 2] = [64, 96];

fn model(name: &str) -> StateDict {
    load_model_file(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

/// Some images, each with objects, but for the second one.
fn batch(n: usize, seed: u64) -> (Vec<f32>, Targets) {
    let [h, w] = FRAME;
    let cells = h / 4 * (w / 4);
    let mut targets =
        Targets { heat_map: noise(n * cells, seed + 1).iter().map(|x| 0.4 + 0.4 * x).collect(), objects: Vec::new(), labels: None };
    for i in (5..n * cells).step_by(37).filter(|i| i / cells != 1) {
        targets.heat_map[i] = 1.0;
        targets.objects.push(Object { image: i / cells, index: i % cells, offset: [0.25, 0.5], size: [4.0, 5.5] });
    }
    (noise(n * h * w, seed), targets)
}

#[derive(Clone, Debug)]
struct Case {
    mode: Kind,
    loss: HeatMapLoss,
    recompute: bool,
    frozen: bool,
    /// Whether the earlier network takes the statistics of the batch, and which images are compared with it.
    continual: Option<(bool, Compared)>,
}

const PLAIN: Case = Case { mode: Kind::Particle, loss: HeatMapLoss::Focal, recompute: false, frozen: false, continual: None };

/// What a network has learnt after batches of these numbers of images, and the losses of all steps.
fn learnt(devices: usize, case: &Case, batches: &[usize]) -> (Vec<u32>, Vec<Losses>) {
    let options = TrainerOptions {
        heat_map_loss: case.loss,
        checkpoint_activations: case.recompute,
        frozen_statistics: case.frozen,
        ..TrainerOptions::new(case.mode, *batches.iter().max().unwrap(), FRAME)
    };
    let continual = case.continual.map(|(batch_statistics, compared)| Continual {
        batch_statistics,
        compared,
        feature_scale: FeatureScale::Actual,
        ..Continual::new(model("train/tiny_old.safetensors"))
    });
    let devices = vec![Compute::from(&Device::Cpu); devices];
    let mut trainers = Trainers::new(&devices, TINY, &model("models/tiny.safetensors"), &options, continual.as_ref()).unwrap();
    let step = |(i, &n): (usize, &usize)| {
        let (images, targets) = batch(n, 100 * i as u64);
        // Exemplars are the first images of every other step.
        let exemplar: Vec<bool> = (0..n).map(|image| i % 2 == 0 && image < 2).collect();
        trainers.step(&images, &targets, &exemplar, 1e-3).unwrap()
    };
    let losses = batches.iter().enumerate().map(step).collect();
    let state = trainers.first().state().unwrap();
    let adam = trainers.adam(1e-3).unwrap();
    let moments = adam.moments.iter().flat_map(|moments| moments.first.iter().chain(&moments.second));
    let bits = state.parameters.iter().chain(&state.statistics).chain(moments).map(|value| value.to_bits()).collect();
    (bits, losses)
}

fn same(devices: usize, case: &Case, batches: &[usize]) {
    let ((one, of_one), (several, of_several)) = (learnt(1, case, batches), learnt(devices, case, batches));
    assert_eq!(of_several, of_one, "{devices} devices, {case:?}");
    let different = several.iter().zip(&one).filter(|(a, b)| a != b).count();
    assert!(several.len() == one.len() && different == 0, "{devices} devices, {case:?}: {different} of {} values differ", one.len());
}

#[test]
fn two_devices_with_two_images_learn_what_one_learns_with_four() {
    same(2, &PLAIN, &[4; 20]);
}

#[test]
fn so_do_they_in_a_continual_training() {
    same(2, &Case { continual: Some((false, Compared::Exemplars)), ..PLAIN }, &[4; 20]);
}

#[test]
fn whatever_is_learnt_and_however_many_images_a_device_has() {
    let cases = [
        (2, Case { mode: Kind::Vesicle, continual: Some((true, Compared::Batch)), ..PLAIN }, [4, 3, 1]),
        (3, Case { loss: HeatMapLoss::SparseOriginal, recompute: true, ..PLAIN }, [6, 5, 2]),
        (4, Case { mode: Kind::Fiber, frozen: true, ..PLAIN }, [7, 4, 3]),
        (2, Case { mode: Kind::Vesicle, recompute: true, continual: Some((false, Compared::Batch)), ..PLAIN }, [3, 2, 2]),
    ];
    cases.iter().for_each(|(devices, case, batches)| same(*devices, case, batches));
}

#[test]
fn a_failure_on_one_device_ends_the_step_on_all() {
    let options = TrainerOptions::new(Kind::Particle, 2, FRAME);
    let devices = vec![Compute::from(&Device::Cpu); 2];
    let mut trainers = Trainers::new(&devices, TINY, &model("models/tiny.safetensors"), &options, None).unwrap();
    let (images, targets) = batch(2, 1);
    let error = trainers.step(&images[1..], &targets, &[false; 2], 1e-3).unwrap_err();
    assert!(format!("{error:#}").contains("values for 2 images"), "{error:#}");
}
