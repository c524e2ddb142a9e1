//! The doctor finds what is right on the CPU and on kernels executed on the host, says it, and remembers it.

use crate::common::program::epicker;
use epicker::compat::Compat;
use epicker::device::Device;
use epicker::device::gpu::Gpu;
use epicker::device::gpu::driver::DeviceInfo;
use epicker::device::gpu::paper::Paper;
use epicker::doctor::stages::compare_batch;
use epicker::doctor::{Way, before_first_use, checks};
use epicker::formats::coordinates::Kind;
use epicker::formats::image::{Micrograph, Pixels, Samples};
use epicker::io::kept::Kept;
use epicker::net::{Architecture, Model, PeakFinder, PeakFinderOptions, Views, fresh};
use epicker::ops::losses::HeatMapLoss;
use epicker::pick::slots::Slots;
use epicker::preprocess::ground::Ground;
use epicker::train::targets::Labels;
use epicker::train::{Continual, Targets, Trainer, TrainerOptions};
use hostgpu::{Build, HostGpu, Options};
use std::collections::BTreeSet;

fn host_gpu() -> Gpu {
    HostGpu::gpu(Options { build: Build::Fast, ..Options::default() }).unwrap().0
}

#[test]
fn a_gpu_is_examined_once() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("cache");
    let gpu = host_gpu();
    let kept_there = Kept::within(Some(&kept));
    let first = before_first_use(&gpu, Way::Pick, &kept_there).unwrap().unwrap();
    assert!(first.contains("that pick needs were examined and are right"), "{first}");
    assert_eq!(before_first_use(&gpu, Way::Pick, &kept_there).unwrap(), None);
    // Training needs more. Who may train may pick.
    let then = before_first_use(&gpu, Way::Train, &kept_there).unwrap().unwrap();
    assert!(then.contains("that train needs were examined and are right"), "{then}");
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 2);
    let [picks, trains] = [Way::Pick, Way::Train].map(|way| before_first_use(&gpu, way, &kept_there).unwrap());
    assert_eq!((picks, trains), (None, None));
}

#[test]
fn a_fault_closes_only_the_ways_that_need_what_is_wrong() {
    let with_fault = |skips: fn(&str) -> bool| HostGpu::gpu(Options { skips, ..Options::default() }).unwrap().0;
    let nowhere = Kept::within(None);
    before_first_use(&with_fault(|kernel| kernel == "adam_step"), Way::Pick, &nowhere).unwrap();
    let gpu = with_fault(|kernel| kernel == "conv_windows_128x64");
    let words = format!("{:#}", before_first_use(&gpu, Way::Pick, &nowhere).unwrap_err());
    assert!(words.contains("(conv forward: error ") && words.contains("use the CPU with --gpus -1"), "{words}");
    for (stage, skips) in [
        ("preprocess", (|kernel| kernel == "preprocess_quantise") as fn(&str) -> bool),
        ("targets", |kernel| kernel == "targets_draw"),
        ("adam forward", |kernel| kernel == "adam_step"),
    ] {
        let gpu = Device::Gpu(with_fault(skips));
        let checks = checks(&gpu, Way::Train);
        let check = checks.iter().find(|check| stage == [check.op, check.direction].join(" ").trim_end()).unwrap();
        assert!(!check.run(&gpu).holds(), "{stage}");
    }
}

#[test]
fn a_batch_whose_streams_do_not_wait_for_each_other_is_found() {
    let host = |left_out_wait| HostGpu::gpu(Options { order: Some(0), left_out_wait, ..Options::default() }).unwrap();
    let wrong = |gpu: &Gpu| compare_batch(gpu).unwrap().iter().filter(|agreement| !agreement.holds()).count();
    let (gpu, device) = host(None);
    assert_eq!(wrong(&gpu), 0);
    // The last two waits are the host's for the networks, and the one before is the network's for the last micrograph.
    assert_eq!(wrong(&host(Some(device.waits() - 3)).0), 1);
}

/// Picks as `epicker pick` does, on a device that computes nothing: what it says of the micrographs is of no interest.
fn pick(gpu: &Gpu, architecture: Architecture, frame: usize) {
    let model = Model::from_state(&fresh::state_dict(architecture, 1), String::new(), String::new()).unwrap();
    let mut finder =
        PeakFinder::new(&Device::Gpu(gpu.clone()), &model, PeakFinderOptions { frame, sizes: true, k: 2000, views: Views::Four }).unwrap();
    let slots = Slots::new(gpu, 3).unwrap();
    for _ in 0..3 {
        let micrograph = Micrograph::of_pixels(2 * frame, 2 * frame, Pixels::U8(Samples::from(vec![7; 4 * frame * frame])));
        let _ =
            slots.prepare(&micrograph, frame, Ground::Levelled { sigma_px: 24.0 }, &Compat::default(), true).unwrap().peaks(&mut finder);
    }
}

/// Trains one step of `side` x `side` crops, with a teacher and with exemplars.
fn train(gpu: &Gpu, architecture: Architecture, batch: usize, side: usize, loss: HeatMapLoss) {
    let device = Device::Gpu(gpu.clone());
    let state = fresh::state_dict(architecture, 1);
    for (mode, checkpoint_activations) in [(Kind::Particle, false), (Kind::Vesicle, true)] {
        let options = TrainerOptions { heat_map_loss: loss, checkpoint_activations, ..TrainerOptions::new(mode, batch, [side; 2]) };
        let continual = (mode == Kind::Particle).then(|| Continual::new(state.clone()));
        let mut trainer = Trainer::<f32>::new(&device, architecture, &state, options, continual).unwrap();
        let labels = Labels { boxes: vec![(0, [3.0, 3.0, 9.0, 9.0])], clip: false };
        let targets = Targets { labels: Some(labels), ..Targets::new([batch, side / 4, side / 4]) };
        trainer.step(&vec![0.0; batch * side * side], &targets, &vec![true; batch], 1e-3).unwrap();
    }
}

#[test]
fn the_doctor_examines_every_kernel_that_picks_or_trains() {
    let narrow = Architecture { channels: Architecture::DLA34.channels.map(|c| (c / 4).max(16)), head: Architecture::DLA34.head / 4 };
    std::thread::scope(|scope| {
        // A small GPU, a 2080 Ti, an A100 and an H200.
        for multiprocessors in [24, 68, 108, 132] {
            scope.spawn(move || {
                let (gpu, paper) = Paper::gpu(DeviceInfo { multiprocessors, ..host_gpu().info().clone() }).unwrap();
                let launched = || paper.take_launches().into_iter().map(|launch| launch.kernel).collect::<BTreeSet<String>>();
                let device = Device::Gpu(gpu.clone());
                let [mut to_pick, mut to_train] = [(); 2].map(|()| BTreeSet::new());
                for check in checks(&device, Way::Train) {
                    check.run(&device);
                    let launched = launched();
                    to_train.extend(launched.clone());
                    if check.needed_to == Way::Pick {
                        to_pick.extend(launched);
                    }
                }
                for (architecture, frames) in [(Architecture::DLA34, [512, 1024]), (narrow, [256, 1024])] {
                    frames.into_iter().for_each(|frame| pick(&gpu, architecture, frame));
                    let picked = launched();
                    let missed: Vec<_> = picked.difference(&to_pick).collect();
                    assert!(picked.len() > 20 && missed.is_empty(), "{multiprocessors} multiprocessors, picking: {missed:?}");
                    for loss in [HeatMapLoss::Focal, HeatMapLoss::Sparse(Default::default()), HeatMapLoss::SparseOriginal] {
                        train(&gpu, architecture, 4, 256, loss);
                    }
                    train(&gpu, architecture, 2, 512, HeatMapLoss::Focal);
                    let trained = launched();
                    let missed: Vec<_> = trained.difference(&to_train).collect();
                    assert!(trained.len() > 40 && missed.is_empty(), "{multiprocessors} multiprocessors, training: {missed:?}");
                }
            });
        }
    });
}

#[test]
fn without_a_gpu_the_doctor_says_so_and_examines_the_cpu() {
    let result = epicker(&["doctor", "--gpus", "-1", "--json"]);
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
    let report: serde_json::Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!(report["faults"], serde_json::json!([]));
    assert!(report["devices"][0]["name"].as_str().unwrap().starts_with("CPU"));
    let ops = report["devices"][0]["ops"].as_array().unwrap();
    assert!(ops.iter().all(|op| op["holds"] == true && op["cases"].as_u64().unwrap() > 0), "{ops:?}");
    for examined in [["conv", "forward"], ["adam", "forward"], ["deform_conv", "backward"], ["losses", "backward"]] {
        assert!(ops.iter().any(|op| op["op"] == examined[0] && op["direction"] == examined[1]), "{examined:?}");
    }
    assert!(!report["driver"].as_str().unwrap().is_empty() && !report["kernels"].as_str().unwrap().is_empty());
}
