//! What surrounds the network on a GPU, its kernels executed on the host, against the CPU: pre-processing from every type
//! of pixels, peaks of large maps, targets drawn on the device, sums of maps.

use epicker::compat::Compat;
use epicker::device::gpu::Gpu;
use epicker::device::{Device, Tensor};
use epicker::formats::image::{Micrograph, Orientation, Pixels, Samples};
use epicker::ops::heat_map::PeakMemory;
use epicker::ops::losses::{Loss, LossValues};
use epicker::ops::{Agreement, Real, gather, heat_map, losses, map};
use epicker::preprocess::fourier_crop::crop;
use epicker::preprocess::geometry::Geometry;
use epicker::preprocess::gpu::Preprocessor;
use epicker::preprocess::{Normalisation, equalise, letterbox, normalise, preprocess, quantise, survey};
use epicker::random::noise;
use epicker::train::targets::{Labels, Targets, gpu::DeviceTargets};
use half::f16;
use hostgpu::{Build, HostGpu, Options};

const BUILDS: [Build; 3] = [Build::Fast, Build::F64, Build::Checked];

fn gpu(build: Build) -> Gpu {
    HostGpu::gpu(Options { build, ..Options::default() }).unwrap().0
}

fn micrograph(nx: usize, ny: usize, pixels: Pixels) -> Micrograph {
    let (sections, pixel_size_angstrom, orientation) = (1, None, Orientation::Array);
    Micrograph { nx, ny, sections, pixels, pixel_size_angstrom, orientation, warnings: Vec::new() }
}

/// Noise on a slope: every grey level occurs.
fn values(nx: usize, ny: usize, seed: u64) -> Vec<f32> {
    noise(nx * ny, seed).iter().enumerate().map(|(i, x)| 60.0 * x + 0.2 * (i % nx) as f32 + 40.0).collect()
}

/// Every type, with rows and columns of both parities, equal, narrow and high micrographs.
fn micrographs() -> Vec<Micrograph> {
    let made = |nx: usize, ny: usize, wrap: fn(Vec<f32>) -> Pixels| micrograph(nx, ny, wrap(values(nx, ny, (nx * ny) as u64)));
    let mut hot = values(130, 77, 1);
    (hot[500], hot[7000]) = (1e6, -30000.0);
    let mut bad = values(120, 100, 2);
    (bad[3], bad[4000], bad[11_999]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    vec![
        made(90, 70, |values| Pixels::F32(Samples::from(values))),
        made(101, 77, |values| Pixels::I8(Samples::from(values.iter().map(|&x| x as i8).collect::<Vec<i8>>()))),
        made(103, 90, |values| Pixels::U8(Samples::from(values.iter().map(|&x| x as u8).collect::<Vec<u8>>()))),
        made(64, 101, |values| Pixels::I16(Samples::from(values.iter().map(|&x| (100.0 * x) as i16).collect::<Vec<i16>>()))),
        made(131, 70, |values| Pixels::U16(Samples::from(values.iter().map(|&x| (300.0 * x + 9000.0) as u16).collect::<Vec<u16>>()))),
        made(97, 97, |values| Pixels::F16(Samples::from(values.iter().map(|&x| f16::from_f32(x)).collect::<Vec<f16>>()))),
        made(40, 51, |values| Pixels::F32(Samples::from(values))),
        made(41, 30, |values| Pixels::F32(Samples::from(values.iter().map(|x| x + 1e5).collect::<Vec<f32>>()))),
        micrograph(130, 77, Pixels::F32(Samples::from(hot))),
        micrograph(120, 100, Pixels::F32(Samples::from(bad))),
        micrograph(70, 50, Pixels::I16(Samples::from(vec![-7; 3500]))),
    ]
}

/// Grey levels are those of the CPU but for values within rounding of a level's border.
fn levels_agree(micrograph: &Micrograph, found: &[u8], in_f64: bool, what: &str) {
    let geometry = Geometry::new(micrograph.nx, micrograph.ny, 64);
    let adjust = survey(&micrograph.pixels, true, &mut Vec::new()).unwrap().adjust;
    let image_d = crop(&micrograph.pixels, &geometry, adjust, false).unwrap();
    let expected = quantise(&image_d, &micrograph.pixels, false);
    let (min, max) = image_d.iter().fold((f64::MAX, f64::MIN), |(min, max), &x| (min.min(x), max.max(x)));
    let mean = image_d.iter().sum::<f64>() / image_d.len() as f64;
    let deviation = (image_d.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / image_d.len() as f64).sqrt();
    // The CPU rounds value, difference, product and quotient to f32, with the mean in it; the crop in f32 is exact to
    // 2e-5 deviations.
    let epsilon = f64::from(f32::EPSILON);
    let of_values = 2.0 * epsilon * min.abs().max(max.abs()) + if in_f64 { 0.0 } else { 2e-5 * deviation };
    let rounding = 255.0 / (max - min) * of_values + 4.0 * 255.0 * epsilon;
    for ((&found, &expected), value) in found.iter().zip(&expected).zip(&image_d) {
        let level = 255.0 * (value - min) / (max - min) + 0.5;
        let near = (level - level.round()).abs() <= rounding && found.abs_diff(expected) == 1;
        assert!(found == expected || near, "{what}: level {found} instead of {expected} at {level}, rounding {rounding:e}");
    }
}

fn prepares_as_the_cpu<T: Real>(build: Build) {
    let gpu = gpu(build);
    let mut preprocessor = Preprocessor::<T>::new(&gpu).unwrap();
    for micrograph in micrographs() {
        let what = format!("{build:?}, {} x {} of {}", micrograph.nx, micrograph.ny, micrograph.pixels.type_name());
        let expected = preprocess(&micrograph, 64, &Compat::default()).unwrap();
        preprocessor.start(&gpu, &micrograph, 64, &Compat::default()).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        let found = preprocessor.finish(&gpu).unwrap();
        assert_eq!((found.geometry, found.constant), (expected.geometry, expected.constant), "{what}");
        assert_eq!(found.warnings, expected.warnings, "{what}");
        let levels = preprocessor.levels(&gpu).unwrap();
        if !expected.constant {
            levels_agree(&micrograph, &levels, size_of::<T>() == 8, &what);
        }
        // From there on nothing is rounded.
        assert!(found.equalised == equalise(&levels), "{what}: equalised");
        let image = Device::Gpu(gpu.clone()).read(preprocessor.image()).unwrap();
        let exact = normalise(&letterbox(&found.equalised, &found.geometry), Normalisation::Picking);
        assert!(image.iter().map(|x| x.to_f64() as f32).eq(exact), "{what}: image");
    }
}

#[test]
fn micrographs_of_every_type_are_prepared_as_on_the_cpu() {
    prepares_as_the_cpu::<f32>(Build::Fast);
    prepares_as_the_cpu::<f64>(Build::F64);
    prepares_as_the_cpu::<f32>(Build::Checked);
}

#[test]
fn a_micrograph_of_nan_is_refused() {
    let gpu = gpu(Build::Fast);
    let mut preprocessor = Preprocessor::<f32>::new(&gpu).unwrap();
    let mut pixels = values(64, 64, 1);
    pixels[..41].fill(f32::NAN);
    let micrograph = micrograph(64, 64, Pixels::F32(Samples::from(pixels)));
    preprocessor.start(&gpu, &micrograph, 64, &Compat::default()).unwrap();
    let message = format!("{:#}", preprocessor.finish(&gpu).unwrap_err());
    assert_eq!(message, format!("{:#}", preprocess(&micrograph, 64, &Compat::default()).unwrap_err()));
}

fn peaks_as_the_cpu<T: Real>(build: Build) {
    let gpu = gpu(build);
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
        let mut memory = PeakMemory::new(&gpu, [h, w], k).unwrap();
        memory.find(&gpu, Tensor::on(&device, [1, h, w, 1], wide(&logits)).unwrap().view()).unwrap();
        let found = memory.read(&gpu).unwrap();
        let indices = |peaks: &[(u32, f32)]| peaks.iter().map(|peak| peak.0).collect::<Vec<u32>>();
        assert!(indices(&found) == indices(&expected), "{build:?} {h} x {w}, {k}, {kind}");
        let error = found.iter().zip(&expected).fold(0.0_f32, |most, (a, b)| most.max((a.1 - b.1).abs()));
        assert!(error <= 4.0 * f32::EPSILON, "{build:?} {h} x {w}: scores differ by {error}");

        // The neighbourhoods of the second half of them, as the heads read them.
        let features = noise(h * w * 3, 4);
        let (first, rows) = (found.len() / 2, 30.min(memory.k() - found.len() / 2));
        let mut out = Tensor::on(&device, [1, 1, rows, 27], vec![T::from_f64(f64::NAN); rows * 27]).unwrap();
        let inp = Tensor::on(&device, [1, h, w, 3], wide(&features)).unwrap();
        gather::forward_at_peaks(&gpu, inp.view(), &memory, first, &mut out.view_mut()).unwrap();
        let wanted = &indices(&expected)[first..(first + rows).min(expected.len())];
        let mut exact = gather::reference(&wide(&features), [h, w, 3], wanted);
        exact.resize(rows * 27, T::default());
        assert!(out.to_vec().unwrap() == exact, "{build:?} {h} x {w}: neighbourhoods");
    }
}

#[test]
fn peaks_are_those_of_the_cpu_however_many_there_are() {
    peaks_as_the_cpu::<f32>(Build::Fast);
    peaks_as_the_cpu::<f64>(Build::F64);
    peaks_as_the_cpu::<f32>(Build::Checked);
}

fn draws_as_the_cpu<T: Real>(build: Build) {
    let gpu = gpu(build);
    // One after the other in the same memory.
    let mut drawn = DeviceTargets::<T>::new(&gpu).unwrap();
    for (clip, count) in [(false, 30), (true, 300), (false, 0)] {
        let shape @ [n, h, w] = [2, 33, 50];
        let random = noise(5 * count, 6);
        let mut labels: Vec<(usize, [f32; 4])> = Vec::new();
        for (i, x) in random.chunks_exact(5).enumerate() {
            let centre = [(x[0] + 0.5) * 60.0 - 5.0, (x[1] + 0.5) * 43.0 - 5.0];
            let size = [12.0 * x[2] + 5.5, 12.0 * x[3] + 5.5];
            let corner = |axis: usize, side: f32| if i == 7 { f32::NAN } else { centre[axis] + side * size[axis] / 2.0 };
            labels.push((i % n, [corner(0, -1.0), corner(1, -1.0), corner(0, 1.0), corner(1, 1.0)]));
        }
        let mut expected = Targets::new(shape);
        for &(image, corners) in &labels {
            expected.add(image, [h, w], corners, clip);
        }
        drawn.draw(&gpu, shape, &Labels { boxes: labels, clip }).unwrap();
        let found = drawn.to_host(&gpu).unwrap();
        assert_eq!(found.objects, expected.objects, "{build:?}");
        // The exponential may differ in the last place of an f64.
        let error = found.heat_map.iter().zip(&expected.heat_map).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(error <= f32::EPSILON, "{build:?}: {error}");

        // Sizes are compared with a map where they lie, several objects in one cell included.
        let map = noise(n * h * w * 2, 8);
        let wide: Vec<T> = map.iter().map(|&x| T::from_f64(f64::from(x))).collect();
        let objects: Vec<(usize, [f32; 2])> =
            expected.objects.iter().map(|object| (object.image * h * w + object.index, object.size)).collect();
        let mut exact = vec![T::default(); wide.len()];
        let loss = losses::l1(&wide, &objects, 0.5, &mut exact);
        let device = Device::Gpu(gpu.clone());
        let (map, mut dmap) = (Tensor::flat_on(&device, wide).unwrap(), Tensor::flat_on(&device, vec![T::default(); exact.len()]).unwrap());
        let mut values = LossValues::new(&device).unwrap();
        values.l1_of_labels(Loss::Size, map.view(), drawn.labels(), 0.5, &mut dmap.view_mut()).unwrap();
        let found = values.read().unwrap()(Loss::Size);
        assert!((found - loss).abs() <= 1e-12 * loss, "{build:?}: {found} is not {loss}");
        assert!(dmap.to_vec().unwrap() == exact, "{build:?}");
    }
}

#[test]
fn targets_are_drawn_as_on_the_cpu() {
    draws_as_the_cpu::<f32>(Build::Fast);
    draws_as_the_cpu::<f64>(Build::F64);
    draws_as_the_cpu::<f32>(Build::Checked);
}

#[test]
fn maps_and_copies_add_up() {
    let mut devices = vec![Device::Cpu];
    devices.extend(BUILDS.map(|build| Device::Gpu(gpu(build))));
    for device in devices {
        for agreement in map::compare(&device).unwrap() {
            let Agreement { case, error, .. } = &agreement;
            assert!(agreement.holds(), "{device:?} {case}: {error:e}");
        }
    }
}
