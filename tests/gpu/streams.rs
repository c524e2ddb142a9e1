//! Streams on a device that does its work as late as it may, in an order that is drawn: a program that waits for everything that it
//! has to wait for gives the same bits in every order, and a wait that is left out is noticed.

use super::network::{FRAME, TRAIN_CASES, batch, golden, trainer};
use super::stages::values;
use anyhow::{Result, ensure};
use epicker::compat::Compat;
use epicker::device::Device;
use epicker::device::gpu::{Gpu, Memory, Pinned};
use epicker::formats::image::{Micrograph, Pixels, Samples};
use epicker::io::model_source::ModelSource;
use epicker::net::{Model, PeakFinder, PeakFinderOptions, Views};
use epicker::ops::heat_map::Peak;
use epicker::pick::slots::{InSlot, Slots};
use epicker::preprocess::Prepared;
use epicker::preprocess::ground::Ground;
use epicker::train::Losses;
use hostgpu::{HostGpu, Options};
use std::sync::Arc;

fn host(order: Option<u64>, left_out_wait: Option<u64>) -> (Gpu, Arc<HostGpu>) {
    HostGpu::gpu(Options { order, left_out_wait, ..Options::default() }).unwrap()
}

/// Width of the frame that is picked.
const PICKED: usize = 32;
/// The micrograph that is not wanted any more once it is on its way.
const DROPPED: usize = 5;

/// What the device says of a micrograph, and its peaks.
type Picked = (Vec<String>, Vec<Peak>);

/// Picks micrographs as a batch does: while the network works on one, the next is put on its way, and its work is launched before anybody
/// waits for the one before. The network runs step by step, then is captured, then is launched as a graph. One micrograph is not wanted
/// any more once it is on its way; its place is taken at once by a larger one, for which pinned memory is given back and asked for.
fn picks(gpu: &Gpu) -> Result<Vec<Picked>> {
    let model = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state)?;
    let mut picker =
        PeakFinder::new(&Device::Gpu(gpu.clone()), &model, PeakFinderOptions { frame: PICKED, sizes: true, k: 8, views: Views::One })?;
    let slots = Slots::new(gpu, 3)?;
    let sizes = [[70, 60]; DROPPED + 1].into_iter().chain([[90, 80]; 2]);
    let of_size = |([nx, ny], seed): ([usize; 2], u64)| Micrograph::of_pixels(nx, ny, Pixels::F32(Samples::from(values(nx, ny, seed))));
    let micrographs: Vec<Micrograph> = sizes.zip(1..).map(of_size).collect();
    let prepare = |i: usize| slots.prepare(&micrographs[i], PICKED, Ground::Levelled { sigma_px: 24.0 }, &Compat::default(), i == 1);
    let (mut next, mut before, mut found) = (Some(prepare(0)?), None, Vec::new());
    let mut keep = |(prepared, peaks): (Prepared, Vec<Peak>)| {
        let shown = prepared.equalised.iter().map(|&level| u64::from(level)).sum::<u64>();
        found.push(([vec![format!("{shown}")], prepared.warnings].concat(), peaks));
    };
    for i in 0..micrographs.len() {
        let Some(mut this) = next.take() else { continue };
        if i == DROPPED {
            drop(this);
            next = Some(prepare(i + 1)?);
            continue;
        }
        if i + 1 < micrographs.len() {
            next = Some(prepare(i + 1)?);
        }
        let launched = this.launch(&mut picker)?;
        if let Some((before, launched)) = before.replace((this, launched)) {
            keep(InSlot::landed(before, &mut picker, launched)?);
        }
    }
    if let Some((last, launched)) = before {
        keep(last.landed(&mut picker, launched)?);
    }
    Ok(found)
}

/// The parameters, the statistics and the losses after two steps of training.
type Trained = (Vec<f32>, Vec<f32>, Vec<Losses>);

fn trains(gpu: &Gpu) -> Result<Trained> {
    let (images, targets) = batch(2, FRAME);
    let mut trainer = trainer::<f32>(&Device::Gpu(gpu.clone()), &TRAIN_CASES[1]);
    let mut losses = Vec::new();
    for exemplars in [[false, false], [true, false]] {
        losses.push(trainer.step(&images, &targets, &exemplars, 1e-3)?);
    }
    let state = trainer.state()?;
    Ok((state.parameters, state.statistics, losses))
}

#[test]
fn picks_are_the_same_in_every_order_of_streams() {
    the_same_picks(0..seeds() / 2);
}

// In two halves, so that two cores share them.
#[test]
fn picks_are_the_same_in_every_order_of_streams_again() {
    the_same_picks(seeds() / 2..seeds());
}

/// Forty orders; after a change of what waits for what, a hundred and more: `EPICKER_SEEDS=100`.
fn seeds() -> u64 {
    std::env::var("EPICKER_SEEDS").map_or(40, |text| text.parse().unwrap())
}

fn the_same_picks(seeds: std::ops::Range<u64>) {
    let picked = picks(&host(None, None).0).unwrap();
    assert!(picked.iter().all(|(_, peaks)| !peaks.is_empty()));
    for seed in seeds {
        assert!(picks(&host(Some(seed), None).0).unwrap() == picked, "seed {seed}: other picks");
    }
}

#[test]
fn trainings_are_the_same_in_every_order_of_streams() {
    let trained = trains(&host(None, None).0).unwrap();
    for seed in 0..4 {
        assert!(trains(&host(Some(seed), None).0).unwrap() == trained, "seed {seed}: another network");
    }
}

/// Leaves out each wait in turn. If no error and no other result comes out, it is one that can be left out.
fn waits_that_can_be_left_out<T: PartialEq>(run: fn(&Gpu) -> Result<T>) -> Vec<u64> {
    let (gpu, device) = host(Some(0), None);
    let expected = run(&gpu).unwrap();
    let waits = device.waits();
    assert!(waits > 0);
    let is_noticed = |wait: &u64| match run(&host(Some(0), Some(*wait)).0) {
        Ok(found) => found != expected,
        Err(_) => true,
    };
    (0..waits).filter(|wait| !is_noticed(wait)).collect()
}

#[test]
fn a_wait_that_is_left_out_while_picking_is_noticed() {
    // While the second and the third micrograph and the last one are put on their way, places take larger pixels than before and give
    // memory back, which waits for all work: so the network need not wait for the micrograph before (0, 1, 10), nor the host for the
    // network (2, 11). And the place of the micrograph that is not wanted waits for the stream in which that before it was prepared
    // (7). The same waits are needed everywhere else.
    assert_eq!(waits_that_can_be_left_out(picks), [0, 1, 2, 7, 10, 11]);
}

#[test]
fn a_wait_that_is_left_out_while_training_is_noticed() {
    assert_eq!(waits_that_can_be_left_out(trains), [0; 0]);
}

#[test]
fn pinned_memory_is_read_when_the_copy_runs_and_not_before() {
    let (gpu, _) = host(Some(0), None);
    let (mut memory, mut pinned) = (Memory::new(&gpu, 4).unwrap(), Pinned::new(&gpu, 4).unwrap());
    let read = |gpu: &Gpu, memory: &Memory| -> Result<[u8; 4]> {
        let mut bytes = [0; 4];
        memory.download(gpu, 0, &mut bytes)?;
        Ok(bytes)
    };
    pinned.bytes_mut().copy_from_slice(&[1, 2, 3, 4]);
    // SAFETY: this memory is kept; that it is written before a wait is what the test is about.
    unsafe { memory.put_upload(&gpu, 4, &pinned) }.unwrap();
    pinned.bytes_mut().fill(9);
    assert_eq!(read(&gpu, &memory).unwrap(), [9; 4]);
    // Memory that is not pinned may change when the call has returned.
    let mut bytes = [5, 6, 7, 8];
    memory.upload(&gpu, 0, &bytes).unwrap();
    bytes.fill(0);
    assert_eq!((read(&gpu, &memory).unwrap(), bytes), ([5, 6, 7, 8], [0; 4]));
    // Nobody has waited for the copy.
    // SAFETY: as above; the driver notices.
    unsafe { memory.put_upload(&gpu, 4, &pinned) }.unwrap();
    drop(pinned);
    let failure = format!("{:#}", gpu.synchronize().unwrap_err());
    assert!(failure.contains("pinned memory is given back"), "{failure}");
}

#[test]
fn an_error_of_work_comes_out_of_a_wait_and_stays() {
    let (gpu, _) = host(Some(0), None);
    let mut memory = Memory::new(&gpu, 16).unwrap();
    // SAFETY: the copy is as long as the memory, but the address is of nobody; nothing is read there.
    unsafe { gpu.driver().set_bytes(memory.address() + 8, 1, 16, gpu.stream()) }.unwrap();
    memory.clear(&gpu, 0, 16).unwrap();
    let failure = format!("{:#}", gpu.synchronize().unwrap_err());
    assert!(failure.contains("of an allocation of 16 bytes"), "{failure}");
    for later in [gpu.synchronize(), memory.clear(&gpu, 0, 16), gpu.record().map(drop)] {
        let later = format!("{:#}", later.unwrap_err());
        assert!(later.contains("has failed before") && later.contains(&failure), "{later}");
    }
}

#[test]
fn memory_of_one_device_means_nothing_to_another() {
    let ((one, _), (other, _)) = (host(None, None), host(Some(1), None));
    let memory = Memory::new(&one, 64).unwrap();
    let _there = Memory::new(&other, 64).unwrap();
    // SAFETY: the other device refuses the address.
    let asked = unsafe { other.driver().set_bytes(memory.address(), 0, 64, other.stream()) }.and_then(|()| other.synchronize());
    let failure = format!("{:#}", asked.unwrap_err());
    assert!(failure.contains("lies in no memory of the device"), "{failure}");
    // Two devices at once, each with an order of its own.
    let run = || -> Result<bool> {
        let devices = [host(Some(1), None).0, host(Some(2), None).0];
        let found = std::thread::scope(|scope| devices.each_ref().map(|gpu| scope.spawn(|| picks(gpu))).map(|picking| picking.join()));
        let [Ok(first), Ok(second)] = found else { anyhow::bail!("a thread died") };
        let (first, second) = (first?, second?);
        ensure!(!first.is_empty(), "nothing was picked");
        Ok(first == second)
    };
    assert!(run().unwrap());
}
