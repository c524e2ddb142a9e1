//! What surrounds the network on a GPU, its kernels executed on the host, against the CPU: pre-processing from every type
//! of pixels, peaks of large maps, targets drawn on the device, sums of maps.

use epicker::compat::Compat;
use epicker::device::gpu::Gpu;
use epicker::device::{Device, Tensor};
use epicker::doctor::stages::{compare_preprocess, compare_targets};
use epicker::formats::image::{Micrograph, Pixels, Samples};
use epicker::ops::heat_map::PeakMemory;
use epicker::ops::{Agreement, Real, gather, heat_map, largest_difference, map};
use epicker::preprocess::gpu::Preprocessor;
use epicker::preprocess::ground::Ground;
use epicker::preprocess::preprocess;
use epicker::random::noise;
use hostgpu::{Build, HostGpu, Options};

const BUILDS: [Build; 3] = [Build::Fast, Build::F64, Build::Checked];

fn gpu(build: Build) -> Gpu {
    HostGpu::gpu(Options { build, ..Options::default() }).unwrap().0
}

/// Noise on a slope: every grey level occurs.
pub(super) fn values(nx: usize, ny: usize, seed: u64) -> Vec<f32> {
    noise(nx * ny, seed).iter().enumerate().map(|(i, x)| 60.0 * x + 0.2 * (i % nx) as f32 + 40.0).collect()
}

/// Everything that was compared agrees.
pub fn holds(agreements: anyhow::Result<Vec<Agreement>>, on: &str) {
    let agreements = agreements.unwrap();
    assert!(!agreements.is_empty());
    for agreement in agreements {
        let Agreement { case, error, bound, .. } = &agreement;
        assert!(agreement.holds(), "{on}, {case}: {error:e}, expected at most {bound:e}");
    }
}

#[test]
fn micrographs_of_every_type_are_prepared_as_on_the_cpu() {
    holds(compare_preprocess::<f32>(&gpu(Build::Fast)), "fast");
    holds(compare_preprocess::<f64>(&gpu(Build::F64)), "in f64");
    holds(compare_preprocess::<f32>(&gpu(Build::Checked)), "checked");
}

#[test]
fn a_micrograph_of_nan_is_refused() {
    let gpu = gpu(Build::Fast);
    let mut preprocessor = Preprocessor::<f32>::new(&gpu).unwrap();
    let mut pixels = values(64, 64, 1);
    pixels[..41].fill(f32::NAN);
    let micrograph = Micrograph::of_pixels(64, 64, Pixels::F32(Samples::from(pixels)));
    preprocessor.start(&gpu, &micrograph, 64, Ground::Kept, &Compat::default()).unwrap();
    let message = format!("{:#}", preprocessor.finish(&gpu).unwrap_err());
    assert_eq!(message, format!("{:#}", preprocess(&micrograph, 64, Ground::Kept, &Compat::default()).unwrap_err()));
}

/// The peaks of large maps are those of the CPU. Returns all of them.
pub fn peaks_as_the_cpu<T: Real>(gpu: &Gpu, on: &str) -> Vec<Vec<(u32, f32)>> {
    let mut all = Vec::new();
    // Fewer and more peaks than wanted, more than are sorted in shared memory, one plateau, coarse steps, NaN, infinity.
    for (h, w, k, kind) in [(33, 50, 40, 0), (100, 90, 5000, 1), (64, 64, 3000, 2), (64, 64, 500, 2), (70, 33, 200, 3), (17, 16, 9, 4)] {
        let mut logits: Vec<f32> = noise(h * w, 3).iter().map(|x| 16.0 * x).collect();
        match kind {
            1 => logits.iter_mut().for_each(|z| *z = if *z > 0.0 { *z } else { -3.0 }),
            2 => logits.fill(0.25),
            3 => logits.iter_mut().enumerate().for_each(|(i, z)| *z = if i % 5 == 0 { f32::NAN } else { z.round() }),
            4 => logits.iter_mut().enumerate().for_each(|(i, z)| *z = if i == 40 { f32::INFINITY } else { f32::NEG_INFINITY }),
            _ => {}
        }
        let expected = heat_map::peaks(&Device::Cpu, Tensor::from_values([1, h, w, 1], logits.clone()).view(), k).unwrap();
        let device = Device::Gpu(gpu.clone());
        let wide = |values: &[f32]| values.iter().map(|&x| T::from_f64(f64::from(x))).collect::<Vec<T>>();
        let mut memory = PeakMemory::new(gpu, [h, w], k).unwrap();
        memory.find(gpu, Tensor::on(&device, [1, h, w, 1], wide(&logits)).unwrap().view()).unwrap();
        let found = memory.read(gpu).unwrap();
        let indices = |peaks: &[(u32, f32)]| peaks.iter().map(|peak| peak.0).collect::<Vec<u32>>();
        assert!(indices(&found) == indices(&expected), "{on} {h} x {w}, {k}, {kind}");
        let scores = |peaks: &[(u32, f32)]| peaks.iter().map(|peak| peak.1).collect::<Vec<f32>>();
        let error = largest_difference(&scores(&found), &scores(&expected));
        assert!(error <= 4.0 * f64::from(f32::EPSILON), "{on} {h} x {w}: scores differ by {error}");

        // The neighbourhoods of the second half of them, as the heads read them.
        let features = noise(h * w * 3, 4);
        let (first, rows) = (found.len() / 2, 30.min(memory.k() - found.len() / 2));
        let mut out = Tensor::on(&device, [1, 1, rows, 27], vec![T::from_f64(f64::NAN); rows * 27]).unwrap();
        let inp = Tensor::on(&device, [1, h, w, 3], wide(&features)).unwrap();
        gather::forward_at_peaks(gpu, inp.view(), &memory, first, &mut out.view_mut()).unwrap();
        let wanted = &indices(&expected)[first..(first + rows).min(expected.len())];
        let mut exact = gather::reference(&wide(&features), [h, w, 3], wanted);
        exact.resize(rows * 27, T::default());
        assert!(out.to_vec().unwrap() == exact, "{on} {h} x {w}: neighbourhoods");
        all.push(found);
    }
    all
}

#[test]
fn peaks_are_those_of_the_cpu_however_many_there_are() {
    peaks_as_the_cpu::<f32>(&gpu(Build::Fast), "fast");
    peaks_as_the_cpu::<f64>(&gpu(Build::F64), "in f64");
    peaks_as_the_cpu::<f32>(&gpu(Build::Checked), "checked");
}

#[test]
fn targets_are_drawn_as_on_the_cpu() {
    holds(compare_targets::<f32>(&gpu(Build::Fast)), "fast");
    holds(compare_targets::<f64>(&gpu(Build::F64)), "in f64");
    holds(compare_targets::<f32>(&gpu(Build::Checked)), "checked");
}

/// Maps and copies of maps add up on this device.
pub fn adds_maps_up(device: &Device) {
    for agreement in map::compare(device).unwrap() {
        let Agreement { case, error, .. } = &agreement;
        assert!(agreement.holds(), "{device:?} {case}: {error:e}");
    }
}

#[test]
fn maps_and_copies_add_up() {
    adds_maps_up(&Device::Cpu);
    BUILDS.iter().for_each(|&build| adds_maps_up(&Device::Gpu(gpu(build))));
}
