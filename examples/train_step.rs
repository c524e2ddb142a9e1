//! Times a step of training. The full network has weights of its own making, its images are noise, and they hold a few objects.
//!
//! `cargo run --release --example train_step -- [SIDE [BATCH [STEPS [checkpoint] [narrow]]]]`; `narrow` has the widths of the general
//! models, a quarter of the full ones and at least 16.

use epicker::device::Device;
use epicker::formats::coordinates::Kind;
use epicker::net::{Architecture, fresh};
use epicker::random::noise;
use epicker::train::{Object, Targets, Trainer, TrainerOptions, TrainingMemory};
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| arguments.get(i).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (side, batch, steps) = (number(0, 512), number(1, 1), number(2, 3));
    let is_narrow = arguments.iter().any(|text| text == "narrow");
    let architecture = if is_narrow { Architecture { channels: [16, 16, 16, 32, 64, 128], head: 64 } } else { Architecture::DLA34 };
    let checkpoint_activations = arguments.iter().any(|text| text == "checkpoint");
    let options = TrainerOptions { checkpoint_activations, ..TrainerOptions::new(Kind::Particle, batch, [side, side]) };
    let memory = TrainingMemory::of(&Device::Cpu, architecture, &options, false)?;
    println!("{}, {batch} x {side} x {side}: {memory:?}, {} MiB in all", Device::Cpu.describe(), memory.total() >> 20);
    let cells = side / 4 * (side / 4);
    let images: Vec<f32> = noise(batch * side * side, 1).iter().map(|x| 3.0 * x).collect();
    let mut targets =
        Targets { heat_map: noise(batch * cells, 2).iter().map(|x| 0.4 + 0.4 * x).collect(), objects: Vec::new(), labels: None };
    for i in (7..batch * cells).step_by(91) {
        targets.heat_map[i] = 1.0;
        targets.objects.push(Object { image: i / cells, index: i % cells, offset: [0.25, 0.5], size: [4.75; 2] });
    }
    let state = fresh::state_dict(architecture, 317);
    let mut trainer = Trainer::<f32>::new(&Device::Cpu, architecture, &state, options, None)?;
    for step in 0..steps {
        let start = Instant::now();
        let losses = trainer.step(&images, &targets, &vec![false; batch], 1e-4)?;
        println!("step {step}: {:.3} s, {losses:?}", start.elapsed().as_secs_f64());
    }
    Ok(())
}
