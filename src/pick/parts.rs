//! How long each part of picking takes: by the clock, and on a GPU by the model of `device::gpu::predict` as well, which need not be here.

use crate::compat::Compat;
use crate::device::Device;
use crate::device::gpu::driver::DeviceInfo;
use crate::device::gpu::paper::{Launch, Paper};
use crate::device::gpu::predict::{self, Predicted};
use crate::device::gpu::{Gpu, Moment};
use crate::formats::image::{Micrograph, Pixels, Samples};
use crate::net::inference::peaks::Part;
use crate::net::inference::plan::StepSummary;
use crate::net::{Model, PeakFinder, PeakFinderOptions};
use crate::ops::{Compute, Precision};
use crate::preprocess::gpu::Preprocessor;
use crate::preprocess::ground::Ground;
use anyhow::Result;
use std::time::Instant;

/// What every part of finding the peaks of an image should take on a GPU that the model knows.
///
/// Errors: the model lacks a tensor, the frame is no multiple of 32, or nobody has counted what a kernel costs.
pub fn predicted(info: &DeviceInfo, precision: Precision, model: &Model, options: PeakFinderOptions) -> Result<Vec<(Part, Predicted)>> {
    let (gpu, paper) = Paper::gpu(info.clone())?;
    let compute = Compute { precision, ..Compute::from(&Device::Gpu(gpu)) };
    let mut finder = PeakFinder::new(&compute, model, options)?;
    let steps = finder.plan().summary();
    let bytes = |step: &StepSummary| (step.input_bytes + step.output_bytes + step.weight_bytes) as u64;
    paper.take_launches(); // weights are packed once
    let mut parts = Vec::new();
    finder.put_parts(&mut |part| {
        let bytes = if let Part::Step(i) = part { Some(bytes(&steps[i])) } else { None };
        parts.push((part, predict::of_launches(info, &paper.take_launches(), bytes)?));
        Ok(())
    })?;
    Ok(parts)
}

/// What the preparation of a micrograph of `nx` x `ny` pixels of four bytes launches; it is the same on every GPU.
///
/// Errors: the sizes do not fit.
pub fn preparation([nx, ny]: [usize; 2], frame: usize, ground: Ground) -> Result<Vec<Launch>> {
    let (gpu, paper) = Paper::gpu(DeviceInfo::default())?;
    let mut preprocessor = Preprocessor::<f32>::new(&gpu)?;
    let micrograph = Micrograph::of_pixels(nx, ny, Pixels::F32(Samples::from(vec![0.0; nx * ny])));
    preprocessor.start(&gpu, &micrograph, frame, ground, &Compat::default())?;
    Ok(paper.take_launches())
}

/// What launches should take on a GPU that the model knows, by kernel, in the order of their first launches: name, launches, time.
///
/// Errors: nobody has counted what a kernel costs.
pub fn predicted_by_kernel(info: &DeviceInfo, launches: &[Launch]) -> Result<Vec<(String, usize, Predicted)>> {
    let mut kernels: Vec<(String, usize, Predicted)> = Vec::new();
    for launch in launches {
        let one = predict::of_launch(info, launch, None)?;
        match kernels.iter_mut().find(|(kernel, ..)| *kernel == launch.kernel) {
            Some((_, launches, sum)) => {
                *launches += 1;
                sum.seconds += one.seconds;
            }
            None => kernels.push((launch.kernel.clone(), 1, one)),
        }
    }
    Ok(kernels)
}

/// Milliseconds that every part of finding the peaks of an image takes, the median of some runs. On a GPU marks between the parts take a
/// little time themselves, and the parts are not launched as one graph, so the sum is more than a run takes.
///
/// Errors: a launch fails on the device.
pub fn measured(finder: &mut PeakFinder, runs: usize) -> Result<Vec<(Part, f64)>> {
    let gpu = finder.gpu().cloned();
    let mut times: Vec<(Part, Vec<f64>)> = Vec::new();
    for _ in 0..runs {
        let once = match &gpu {
            Some(gpu) => once_on_gpu(finder, gpu)?,
            None => once_on_cpu(finder)?,
        };
        for (i, (part, ms)) in once.into_iter().enumerate() {
            if times.len() == i {
                times.push((part, Vec::new()));
            }
            times[i].1.push(ms);
        }
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Ok(times.into_iter().map(|(part, all)| (part, median(all))).collect())
}

fn once_on_gpu(finder: &mut PeakFinder, gpu: &Gpu) -> Result<Vec<(Part, f64)>> {
    let mut marks: Vec<Moment> = vec![gpu.record()?];
    let mut parts = Vec::new();
    finder.put_parts(&mut |part| {
        parts.push(part);
        marks.push(gpu.record()?);
        Ok(())
    })?;
    gpu.synchronize()?;
    let ms = |(i, part): (usize, Part)| Ok((part, f64::from(marks[i + 1].ms_since(&marks[i])?)));
    parts.into_iter().enumerate().map(ms).collect()
}

fn once_on_cpu(finder: &mut PeakFinder) -> Result<Vec<(Part, f64)>> {
    let (mut parts, mut last) = (Vec::new(), Instant::now());
    finder.put_parts(&mut |part| {
        let now = Instant::now();
        parts.push((part, 1e3 * (now - last).as_secs_f64()));
        last = now;
        Ok(())
    })?;
    Ok(parts)
}
