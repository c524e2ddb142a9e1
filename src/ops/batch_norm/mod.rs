//! Batch norm in evaluation (by the running statistics, or folded into the convolution before it) and in training.
//!
//! ```text
//! out = gamma (inp - mean) / sqrt(variance + eps) + beta = scale inp + shift,  eps = 1e-5
//! ```
//! Folding multiplies each output channel of the convolution by `scale` and its bias likewise, plus `shift`.
//! Source: Ioffe, Szegedy 2015, arXiv:1502.03167, section 3; docs/network.md, section 1.1.

mod gpu;
mod training;

pub use training::{
    Forward, Gradients, Kept, Norm, RunningStatistics, backward, compare_backward, differences, reference_backward, reference_training,
    scratch_len, train_forward,
};

use super::{Agreement, Real, in_value_type, noise, real::convert};
use crate::device::{Device, Tensor, TensorMut, TensorRef, cpu::InstructionSet};
use anyhow::Result;
use rayon::prelude::*;

/// Added to the variance.
pub const EPSILON: f64 = 1e-5;
/// How much of the running statistics a batch replaces in training.
pub const MOMENTUM: f64 = 0.1;

/// The four vectors of one batch norm, one value a channel.
#[derive(Clone, Copy, Debug)]
pub struct Statistics<'a> {
    /// Scale that is learnt.
    pub gamma: &'a [f32],
    /// Shift that is learnt.
    pub beta: &'a [f32],
    /// Running mean.
    pub mean: &'a [f32],
    /// Running variance.
    pub variance: &'a [f32],
}

impl Statistics<'_> {
    /// Scale and shift of each channel, in f64.
    pub fn scale_and_shift(&self) -> (Vec<f64>, Vec<f64>) {
        let scale: Vec<f64> = self
            .gamma
            .iter()
            .zip(self.variance)
            .map(|(&gamma, &variance)| f64::from(gamma) / (f64::from(variance) + EPSILON).sqrt())
            .collect();
        let shift =
            scale.iter().zip(self.beta).zip(self.mean).map(|((scale, &beta), &mean)| f64::from(beta) - f64::from(mean) * scale).collect();
        (scale, shift)
    }
}

/// Folds a batch norm into the weights `[co][...]` and bias `[co]` (or empty) of the convolution before it; computed in
/// f64 and rounded once.
pub fn fold(statistics: Statistics, weights: &mut [f32], bias: &[f32]) -> Vec<f32> {
    let (scale, shift) = statistics.scale_and_shift();
    let each = weights.len() / scale.len();
    for (o, weights) in weights.chunks_exact_mut(each).enumerate() {
        weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale[o]) as f32);
    }
    (0..scale.len()).map(|o| (bias.get(o).map_or(0.0, |&bias| f64::from(bias)) * scale[o] + shift[o]) as f32).collect()
}

/// Normalises `inp` by running statistics into `out`, with a ReLU if asked.
///
/// Shapes: `inp` and `out` (n, h, w, c), `scale` and `shift` `[c]`, flat, f32.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn forward<T: Real>(
    device: &Device,
    inp: TensorRef<T>,
    scale: TensorRef<T>,
    shift: TensorRef<T>,
    relu: bool,
    out: &mut TensorMut<T>,
) -> Result<()> {
    assert_eq!(inp.shape(), out.shape());
    assert!(scale.len() == inp.shape()[3] && shift.len() == scale.len(), "{} {} {:?}", scale.len(), shift.len(), inp.shape());
    match device {
        Device::Cpu => {
            let (inp, out): (_, &TensorMut) = (inp.as_f32(), &out.as_f32_mut());
            let (scale, shift) = (scale.as_f32().as_slice(), shift.as_f32().as_slice());
            let [n, h, _, _] = inp.shape();
            (0..n * h).into_par_iter().for_each(|row| {
                crate::dispatch!(
                    InstructionSet::detect(),
                    norm_row(row: usize, inp: TensorRef, scale: &[f32], shift: &[f32], relu: bool, out: &TensorMut)
                );
            });
        }
        Device::Gpu(gpu) => gpu::launch_forward(gpu, inp, scale, shift, relu, out)?,
        Device::Reference => {
            let (scale, shift, c) = (scale.as_slice(), shift.as_slice(), scale.len());
            let values: Vec<T> = inp.to_vec().iter().enumerate().map(|(i, &value)| value * scale[i % c] + shift[i % c]).collect();
            out.assign(&if relu { crate::ops::relu::reference(&values) } else { values });
        }
    }
    Ok(())
}

#[inline(always)]
fn norm_row(row: usize, inp: TensorRef, scale: &[f32], shift: &[f32], relu: bool, out: &TensorMut) {
    let w = inp.shape()[2];
    for index in row * w..(row + 1) * w {
        // SAFETY: each row belongs to one task.
        let to = unsafe { out.pixel_mut(index) };
        for (((to, &value), &scale), &shift) in to.iter_mut().zip(inp.pixel(index)).zip(scale).zip(shift) {
            let sum = value * scale + shift;
            *to = if relu && sum < 0.0 { 0.0 } else { sum };
        }
    }
}

/// Batch norm by its formula: `inp` (..., c), statistics in T.
pub fn reference<T: Real>(inp: &[T], gamma: &[T], beta: &[T], mean: &[T], variance: &[T], relu: bool) -> Vec<T> {
    let c = gamma.len();
    inp.iter()
        .enumerate()
        .map(|(i, &value)| {
            let ch = i % c;
            let y = gamma[ch] * (value - mean[ch]) / (variance[ch] + T::from_f64(EPSILON)).sqrt() + beta[ch];
            if relu && y < T::default() { T::default() } else { y }
        })
        .collect()
}

/// Shapes (n, h, w, c): 1x1, odd, several images, a real layer.
pub const CASES: [[usize; 4]; 4] = [[1, 1, 1, 1], [1, 5, 7, 3], [2, 4, 5, 33], [1, 16, 16, 64]];

/// Runs all cases on a device and compares them with the f64 reference; the output is poisoned with NaN first.
///
/// Errors: as `forward`.
pub fn compare(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_as)
}

fn compare_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, shape) in CASES.into_iter().enumerate() {
        let seed = i as u64;
        let c = shape[3];
        let inp = noise(shape.iter().product(), seed);
        let (gamma, beta, mean) = (noise(c, seed + 100), noise(c, seed + 200), noise(c, seed + 300));
        let variance: Vec<f32> = noise(c, seed + 400).iter().map(|x| x + 1.0).collect();
        let relu = i % 2 == 1;
        let exact = reference::<f64>(&convert(&inp), &convert(&gamma), &convert(&beta), &convert(&mean), &convert(&variance), relu);
        let plain = reference::<f32>(&inp, &gamma, &beta, &mean, &variance, relu);
        let (scale, shift) = Statistics { gamma: &gamma, beta: &beta, mean: &mean, variance: &variance }.scale_and_shift();
        let list = |values: Vec<f64>| Tensor::flat_on(device, values.into_iter().map(T::from_f64).collect());
        let (scale, shift) = (list(scale)?, list(shift)?);
        let mut out = Tensor::on(device, shape, vec![T::from_f64(f64::NAN); exact.len()])?;
        let inp = Tensor::on(device, shape, convert::<T>(&inp))?;
        forward(device, inp.view(), scale.view(), shift.view(), relu, &mut out.view_mut())?;
        agreements.push(Agreement::of(format!("{shape:?}"), &out.to_vec()?, &plain, &exact));
    }
    Ok(agreements)
}
