//! What surrounds the network on a GPU: micrographs that are prepared there, targets that are drawn there, and a batch on its way
//! through two streams and a graph.

use crate::compat::Compat;
use crate::device::gpu::Gpu;
use crate::device::{Device, Tensor};
use crate::formats::image::{Micrograph, Pixels, Samples};
use crate::net::inference::peaks::UnderWay;
use crate::net::{Architecture, Model, PeakFinder, PeakFinderOptions, fresh};
use crate::ops::heat_map::Peak;
use crate::ops::losses::{Loss, LossValues};
use crate::ops::{Agreement, Real, largest_difference, losses};
use crate::pick::slots::{InSlot, Slots};
use crate::preprocess::fourier_crop::crop;
use crate::preprocess::geometry::Geometry;
use crate::preprocess::gpu::Preprocessor;
use crate::preprocess::ground::{self, Ground};
use crate::preprocess::{Normalisation, Prepared, equalise, letterbox, normalise, preprocess, quantise, survey};
use crate::random::noise;
use crate::train::targets::{Labels, Targets, gpu::DeviceTargets};
use anyhow::{Result, ensure};
use half::f16;

/// Width of the frames here.
const FRAME: usize = 64;
/// Deviation of the Gaussian that leaves the ground: three cells.
const GROUND_PX: f64 = 24.0;

/// Noise on a slope: every grey level occurs.
fn values(nx: usize, ny: usize, seed: u64) -> Vec<f32> {
    noise(nx * ny, seed).iter().enumerate().map(|(i, x)| 60.0 * x + 0.2 * (i % nx) as f32 + 40.0).collect()
}

/// Every type, with rows and columns of both parities, equal, narrow and high micrographs.
fn micrographs() -> Vec<Micrograph> {
    let made = |nx: usize, ny: usize, wrap: fn(Vec<f32>) -> Pixels| Micrograph::of_pixels(nx, ny, wrap(values(nx, ny, (nx * ny) as u64)));
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
        Micrograph::of_pixels(130, 77, Pixels::F32(Samples::from(hot))),
        Micrograph::of_pixels(120, 100, Pixels::F32(Samples::from(bad))),
        Micrograph::of_pixels(70, 50, Pixels::I16(Samples::from(vec![-7; 3500]))),
    ]
}

/// An agreement that allows no difference at all: `wrong` counts them.
fn exact(case: String, wrong: usize) -> Agreement {
    Agreement { case, error: wrong as f64, bound: 0.0, bits: wrong as u64 }
}

/// Micrographs of every type, prepared on the GPU and on the CPU. Counted are grey levels that differ without lying within rounding
/// of a level's border, and everything else that differs.
///
/// Errors: the device fails.
pub fn compare_preprocess<T: Real>(gpu: &Gpu) -> Result<Vec<Agreement>> {
    let mut preprocessor = Preprocessor::<T>::new(gpu)?;
    let mut agreements = Vec::new();
    let grounds = [Ground::Levelled { sigma_px: GROUND_PX }, Ground::Kept];
    for (micrograph, ground) in micrographs().iter().flat_map(|micrograph| grounds.map(|ground| (micrograph, ground))) {
        let case = format!("{} x {} of {}, ground {ground:?}", micrograph.nx, micrograph.ny, micrograph.pixels.type_name());
        let expected = preprocess(micrograph, FRAME, ground, &Compat::default())?;
        preprocessor.start(gpu, micrograph, FRAME, ground, &Compat::default())?;
        let found = preprocessor.finish(gpu)?;
        let facts = |prepared: &Prepared| (prepared.geometry, prepared.constant, prepared.warnings.clone());
        let levels = preprocessor.levels(gpu)?;
        let mut wrong = usize::from(facts(&found) != facts(&expected));
        if !expected.constant {
            wrong += wrong_levels(micrograph, ground, &levels, size_of::<T>() == 8)?;
        }
        // From there on nothing is rounded.
        wrong += usize::from(found.equalised != equalise(&levels));
        let image = Device::Gpu(gpu.clone()).read(preprocessor.image())?;
        let exact_image = normalise(&letterbox(&found.equalised, &found.geometry), Normalisation::Picking);
        wrong += usize::from(!image.iter().map(|x| x.to_f64() as f32).eq(exact_image));
        agreements.push(exact(case, wrong));
    }
    Ok(agreements)
}

/// How many grey levels are not those of the CPU, but for values within rounding of a level's border.
fn wrong_levels(micrograph: &Micrograph, ground: Ground, found: &[u8], in_f64: bool) -> Result<usize> {
    let geometry = Geometry::new(micrograph.nx, micrograph.ny, FRAME);
    let adjust = survey(&micrograph.pixels, true, &mut Vec::new())?.adjust;
    let mut image_d = crop(&micrograph.pixels, &geometry, adjust, false)?;
    if let Ground::Levelled { sigma_px } = ground {
        ground::level(&mut image_d, FRAME, sigma_px);
    }
    let expected = quantise(&image_d, &micrograph.pixels, false);
    let (min, max) = image_d.iter().fold((f64::MAX, f64::MIN), |(min, max), &x| (min.min(x), max.max(x)));
    let mean = image_d.iter().sum::<f64>() / image_d.len() as f64;
    let deviation = (image_d.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / image_d.len() as f64).sqrt();
    // The CPU rounds value, difference, product and quotient to f32, with the mean in it; the crop in f32 is exact to 2e-5
    // deviations.
    let epsilon = f64::from(f32::EPSILON);
    let of_values = 2.0 * epsilon * min.abs().max(max.abs()) + if in_f64 { 0.0 } else { 2e-5 * deviation };
    let rounding = 255.0 / (max - min) * of_values + 4.0 * 255.0 * epsilon;
    let is_wrong = |((found, expected), value): ((&u8, &u8), &f64)| {
        let level = 255.0 * (value - min) / (max - min) + 0.5;
        let is_near = (level - level.round()).abs() <= rounding && found.abs_diff(*expected) == 1;
        found != expected && !is_near
    };
    ensure!(found.len() == expected.len(), "{} grey levels; expected {}", found.len(), expected.len());
    Ok(found.iter().zip(&expected).zip(&image_d).filter(|&one| is_wrong(one)).count())
}

/// Labels drawn on the GPU and on the CPU, and the loss of sizes that reads them where they lie.
///
/// Errors: the device fails.
pub fn compare_targets<T: Real>(gpu: &Gpu) -> Result<Vec<Agreement>> {
    let device = Device::Gpu(gpu.clone());
    // One after the other in the same memory.
    let mut drawn = DeviceTargets::<T>::new(gpu)?;
    let mut agreements = Vec::new();
    for (clip, count) in [(false, 30), (true, 300), (false, 0)] {
        let shape @ [n, h, w] = [2, 33, 50];
        let case = format!("{count} labels");
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
        drawn.draw(gpu, shape, &Labels { boxes: labels, clip })?;
        let found = drawn.to_host(gpu)?;
        agreements.push(exact(format!("objects of {case}"), usize::from(found.objects != expected.objects)));
        // The exponential may differ in the last place of an f64.
        let error = largest_difference(&found.heat_map, &expected.heat_map);
        agreements.push(Agreement { error, bound: f64::from(f32::EPSILON), ..exact(format!("heat map of {case}"), 0) });

        // Sizes are compared with a map where they lie, several objects in one cell included.
        let map: Vec<T> = noise(n * h * w * 2, 8).iter().map(|&x| T::from_f64(f64::from(x))).collect();
        let cell = |object: &crate::train::Object| (object.image * h * w + object.index, object.size);
        let objects: Vec<(usize, [f32; 2])> = expected.objects.iter().map(cell).collect();
        let mut gradient = vec![T::default(); map.len()];
        let loss = losses::l1(&map, &objects, 0.5, &mut gradient);
        let (map, mut dmap) = (Tensor::flat_on(&device, map)?, Tensor::flat_on(&device, vec![T::default(); gradient.len()])?);
        let mut values = LossValues::new(&device, 1)?;
        values.l1_of_labels(Loss::Size, map.view(), drawn.labels(), 0.5, &mut dmap.view_mut())?;
        let found = values.read()?(Loss::Size);
        agreements.push(Agreement { error: (found - loss).abs(), bound: 1e-12 * loss, ..exact(format!("size loss of {case}"), 0) });
        agreements.push(exact(format!("gradient of {case}"), usize::from(dmap.to_vec()? != gradient)));
    }
    Ok(agreements)
}

/// Picks micrographs one by one, each with a network of its own that runs step by step, and then all of them as a batch, in which
/// the next is prepared on another stream while a captured graph works on this one. Both have to give the same bits.
///
/// Errors: the device fails.
pub fn compare_batch(gpu: &Gpu) -> Result<Vec<Agreement>> {
    const NETWORK: Architecture = Architecture { channels: [8, 8, 12, 16, 24, 32], head: 16 };
    let model = Model::from_state(&fresh::state_dict(NETWORK, 5), "a new network".to_owned(), String::new())?;
    let device = Device::Gpu(gpu.clone());
    let finder = || PeakFinder::new(&device, &model, PeakFinderOptions { frame: FRAME, sizes: true, k: 20, views: Default::default() });
    let micrographs: Vec<Micrograph> =
        (1..=5).map(|seed| Micrograph::of_pixels(70, 60, Pixels::F32(Samples::from(values(70, 60, seed))))).collect();
    let prepare = |slots: &std::sync::Arc<Slots>, i: usize| slots.prepare(&micrographs[i], FRAME, Ground::Kept, &Compat::default(), false);
    let alone = (0..micrographs.len()).map(|i| Ok(prepare(&Slots::new(gpu, 2)?, i)?.peaks(&mut finder()?)?.1));
    let alone = alone.collect::<Result<Vec<Vec<Peak>>>>()?;
    let (slots, mut finder) = (Slots::new(gpu, 3)?, finder()?);
    let (mut before, mut found) = (None, Vec::new());
    for i in 0..micrographs.len() {
        let mut this: InSlot = prepare(&slots, i)?;
        let launched: UnderWay = this.launch(&mut finder)?;
        if let Some((before, launched)) = before.replace((this, launched)) {
            found.push(before.landed(&mut finder, launched)?.1);
        }
    }
    if let Some((last, launched)) = before {
        found.push(last.landed(&mut finder, launched)?.1);
    }
    let mut agreements = Vec::new();
    for (i, (found, alone)) in found.iter().zip(&alone).enumerate() {
        let is_right = found == alone && !found.is_empty();
        agreements.push(exact(format!("micrograph {} of {}", i + 1, micrographs.len()), usize::from(!is_right)));
    }
    Ok(agreements)
}
