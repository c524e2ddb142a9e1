//! Batch norm in training: by the statistics of the batch (or, with frozen statistics, by the running ones), with the
//! sum and the ReLU that follow it in the network, and its gradients.
//!
//! ```text
//! mean, variance over (n, h, w)         x^ = (inp - mean) / sqrt(variance + eps)
//! out = relu( gamma x^ + beta + residual )
//! running = 0.9 running + 0.1 statistic, for the variance the unbiased one (times m / (m - 1), m = n h w)
//!
//! g = dout where out > 0                dresidual += g    dbeta += sum g    dgamma += sum g x^
//! dinp += gamma / sqrt(variance + eps) (g - sum g / m - x^ sum (g x^) / m)       without the sums if frozen
//! ```
//! The variance is found in two passes, so a large mean costs no digits.
//! Source: Ioffe, Szegedy 2015, arXiv:1502.03167, section 3; docs/network.md, section 1.1.

use super::{EPSILON, MOMENTUM, gpu};
use crate::device::cpu::{InstructionSet, sum_in_parts};
use crate::device::{Device, Team, Tensor, TensorMut, TensorRef};
use crate::ops::{Agreement, Real, in_value_type, noise, proof, real::convert};
use anyhow::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Running mean and variance of one norm.
#[derive(Debug)]
pub struct RunningStatistics<'a, T = f32> {
    /// Mean of each channel, flat.
    pub mean: TensorMut<'a, T>,
    /// Variance of each channel, flat.
    pub variance: TensorMut<'a, T>,
}

impl<'a, T> RunningStatistics<'a, T> {
    /// Statistics that lie in slices on the host.
    pub fn of(mean: &'a mut [T], variance: &'a mut [T]) -> Self {
        RunningStatistics { mean: TensorMut::flat(mean), variance: TensorMut::flat(variance) }
    }
}

/// Values that `train_forward` and `backward` need to work with for maps of this shape.
/// `places`: those of the whole batch's images.
pub fn scratch_len<T: Real>(device: &Device, shape: [usize; 4], places: usize) -> usize {
    match device {
        Device::Cpu | Device::Reference => 0,
        Device::Gpu(_) => gpu::scratch_len::<T>(shape, places),
    }
}

/// What a batch norm does besides normalising.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Norm {
    /// True: normalised by the running statistics, which stay as they are.
    pub frozen: bool,
    /// Negative values become 0.
    pub relu: bool,
}

/// What the forward pass reads.
#[derive(Debug)]
pub struct Forward<'a, T = f32> {
    /// The images of the whole batch.
    pub team: &'a Team,
    /// The map that is normalised, (n, h, w, c).
    pub inp: TensorRef<'a, T>,
    /// Scale of each channel, flat.
    pub gamma: TensorRef<'a, T>,
    /// Shift of each channel, flat.
    pub beta: TensorRef<'a, T>,
    /// Running statistics: they move towards those of the batch, unless they are frozen.
    pub running: RunningStatistics<'a, T>,
    /// True where an earlier call has normalised the same map: its statistics are taken once more, and the running ones stay.
    pub again: bool,
    /// The map that is added, (n, h, w, c).
    pub residual: Option<TensorRef<'a, T>>,
}

/// Normalises `inp` into `out`, and keeps in `saved` what `backward` needs.
///
/// Shapes: `out` (n, h, w, c), `saved` `[3][c]`, flat; `scratch` at least `scratch_len`.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn train_forward<T: Real>(
    device: &Device,
    norm: Norm,
    read: Forward<T>,
    saved: &mut TensorMut<T>,
    out: &mut TensorMut<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let Forward { team, inp, gamma, beta, ref running, again, residual } = read;
    let [n, h, w, c] = inp.shape();
    assert!(out.shape() == inp.shape() && residual.is_none_or(|residual| residual.shape() == inp.shape()), "{:?}", inp.shape());
    assert!(gamma.len() == c && beta.len() == c && saved.len() == 3 * c);
    assert!(running.mean.len() == c && running.variance.len() == c);
    match device {
        Device::Cpu => {
            let mut running = read.running;
            let (inp, out, mut saved) = (inp.as_f32(), &out.as_f32_mut(), saved.as_f32_mut());
            let (gamma, beta) = (gamma.as_f32().as_slice(), beta.as_f32().as_slice());
            let (residual, saved) = (residual.map(TensorRef::as_f32), saved.as_mut_slice());
            if !again {
                let running = RunningStatistics { mean: running.mean.as_f32_mut(), variance: running.variance.as_f32_mut() };
                keep_statistics(norm, team, inp, running, saved)?;
            }
            let scale: Vec<f32> = (0..c).map(|ch| gamma[ch] * saved[2 * c + ch]).collect();
            let (scale, saved, out): (&[f32], &[f32], &TensorMut) = (&scale, saved, out);
            let relu = norm.relu;
            (0..n * h).into_par_iter().for_each(|row| {
                let pixels = row * w..(row + 1) * w;
                crate::dispatch!(
                    InstructionSet::detect(),
                    norm_pixels(pixels: Range<usize>, inp: TensorRef, saved: &[f32], scale: &[f32], beta: &[f32], residual: Option<TensorRef>, relu: bool, out: &TensorMut)
                );
            });
        }
        Device::Gpu(gpu) => gpu::launch_train_forward(gpu, norm, read, saved, out, scratch)?,
        Device::Reference => {
            let residual = residual.map(|residual| residual.to_vec());
            // The same batch has the same statistics, so these are found once more; the running ones that move are spare.
            let (mut mean, mut variance) = (running.mean.as_ref().to_vec(), running.variance.as_ref().to_vec());
            let running = if again { RunningStatistics::of(&mut mean, &mut variance) } else { read.running };
            let (gamma, beta) = (gamma.as_slice(), beta.as_slice());
            let (values, kept) = reference_training(norm, &inp.to_vec(), gamma, beta, running, residual.as_deref());
            out.assign(&values);
            saved.as_mut_slice()[..kept.len()].copy_from_slice(&kept);
        }
    }
    Ok(())
}

/// Finds mean and variance, moves the running ones towards them unless they are frozen, and keeps in `saved` the mean
/// in two parts and the factor.
fn keep_statistics(norm: Norm, team: &Team, inp: TensorRef, running: RunningStatistics, saved: &mut [f32]) -> Result<()> {
    let c = saved.len() / 3;
    let (mean, variance) = if norm.frozen {
        let widen = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        (widen(running.mean.as_ref().as_slice()), widen(running.variance.as_ref().as_slice()))
    } else {
        let [_, h, w, _] = inp.shape();
        let found = of_all_images(team, 2 * c, |i| statistics(inp.image(i)))?;
        let (mean, variance) = combined(&found[..team.images() * 2 * c], c, h * w);
        move_running(running, &mean, &variance, team.images() * h * w);
        (mean, variance)
    };
    for ch in 0..c {
        saved[ch] = mean[ch] as f32;
        saved[c + ch] = (mean[ch] - f64::from(saved[ch])) as f32;
        saved[2 * c + ch] = (1.0 / (variance[ch] + EPSILON).sqrt()) as f32;
    }
    Ok(())
}

/// So many values of each image of the batch: those of this device's own are computed.
fn of_all_images(team: &Team, values: usize, of_own: impl Fn(usize) -> Vec<f64>) -> Result<Vec<f64>> {
    let mut all = vec![0.0; team.places() * values];
    let own = team.own();
    for (i, to) in all[own.start * values..own.end * values].chunks_exact_mut(values).enumerate() {
        to.copy_from_slice(&of_own(i));
    }
    team.gather_values(&mut all)?;
    Ok(all)
}

/// Mean and biased variance over all images, of the means of each and of its sums of squared differences from them, `[image][2][c]`, of
/// `pixels` pixels each. Source: Chan, Golub, LeVeque 1983, doi:10.1080/00031305.1983.10483115, formula 2.1, for equal counts.
fn combined(of_images: &[f64], c: usize, pixels: usize) -> (Vec<f64>, Vec<f64>) {
    let (images, pixels) = ((of_images.len() / (2 * c)) as f64, pixels as f64);
    let over_images = |value: &dyn Fn(&[f64], usize) -> f64| -> Vec<f64> {
        (0..c).map(|ch| of_images.chunks_exact(2 * c).map(|image| value(image, ch)).sum::<f64>()).collect()
    };
    let mean: Vec<f64> = over_images(&|image, ch| image[ch]).into_iter().map(|sum| sum / images).collect();
    let squares = over_images(&|image, ch| image[c + ch] + pixels * (image[ch] - mean[ch]) * (image[ch] - mean[ch]));
    let variance = squares.into_iter().map(|sum| sum / (images * pixels)).collect();
    (mean, variance)
}

/// Mean of each channel, and then the sum of squared differences from it.
fn statistics(inp: TensorRef) -> Vec<f64> {
    let (pixels, c) = (inp.layout().pixels(), inp.shape()[3]);
    let zeros = vec![0.0; c];
    let first = inp.pixel(0);
    // What is summed are differences from one of the values, because these are small numbers whatever the mean is.
    let sums = sum_in_parts(pixels, 2 * c, |pixels, sums| {
        let rest: &[f32] = &zeros;
        crate::dispatch!(InstructionSet::detect(), moments(pixels: Range<usize>, inp: TensorRef, first: &[f32], rest: &[f32], sums: &mut [f32]));
    });
    let mean: Vec<f64> = (0..c).map(|ch| f64::from(first[ch]) + sums[ch] / pixels as f64).collect();
    let near: Vec<f32> = mean.iter().map(|&mean| mean as f32).collect();
    let rest: Vec<f32> = mean.iter().zip(&near).map(|(&mean, &near)| (mean - f64::from(near)) as f32).collect();
    let sums = sum_in_parts(pixels, 2 * c, |pixels, sums| {
        let (near, rest): (&[f32], &[f32]) = (&near, &rest);
        crate::dispatch!(InstructionSet::detect(), moments(pixels: Range<usize>, inp: TensorRef, near: &[f32], rest: &[f32], sums: &mut [f32]));
    });
    mean.into_iter().chain(sums[c..].iter().copied()).collect()
}

/// Channels that a loop works on together, in arrays of this length, which become vector registers. Sums over pixels of 16 channels
/// stay in registers, and a loop over slices of unknown length costs more than its sums where there are few channels.
const TOGETHER: usize = 16;

/// Runs `$part::<N>(channel, ...)` for all channels: as many together as there can be, then one by one.
macro_rules! by_channels {
    ($c:expr, $part:ident($($argument:expr),*)) => {{
        let whole = $c / TOGETHER * TOGETHER;
        for channel in (0..whole).step_by(TOGETHER) {
            $part::<TOGETHER>(channel, $($argument),*);
        }
        for channel in whole..$c {
            $part::<1>(channel, $($argument),*);
        }
    }};
}

/// Some values of a slice. Panics if there are not as many: a programming error.
#[inline(always)]
fn some<const N: usize>(values: &[f32], first: usize) -> [f32; N] {
    let mut some = [0.0; N];
    some.copy_from_slice(&values[first..first + N]);
    some
}

/// Sums of the difference from near + rest, and of its square.
#[inline(always)]
fn moments(pixels: Range<usize>, inp: TensorRef, near: &[f32], rest: &[f32], sums: &mut [f32]) {
    by_channels!(near.len(), some_moments(pixels.clone(), inp, near, rest, sums));
}

#[inline(always)]
fn some_moments<const N: usize>(channel: usize, pixels: Range<usize>, inp: TensorRef, near: &[f32], rest: &[f32], sums: &mut [f32]) {
    let c = near.len();
    let (near, rest) = (some::<N>(near, channel), some::<N>(rest, channel));
    let (mut first, mut second) = (some::<N>(sums, channel), some::<N>(sums, c + channel));
    for pixel in pixels {
        let value = some::<N>(inp.pixel(pixel), channel);
        for i in 0..N {
            let difference = (value[i] - near[i]) - rest[i];
            first[i] += difference;
            second[i] += difference * difference;
        }
    }
    sums[channel..channel + N].copy_from_slice(&first);
    sums[c + channel..c + channel + N].copy_from_slice(&second);
}

fn move_running<T: Real>(mut running: RunningStatistics<T>, mean: &[f64], variance: &[f64], count: usize) {
    // A single value has no unbiased variance. PyTorch refuses such a batch; here the running variance keeps its 0.9.
    let unbiased = if count > 1 { count as f64 / (count - 1) as f64 } else { 0.0 };
    let moved = |old: T, new: f64| T::from_f64((1.0 - MOMENTUM) * old.to_f64() + MOMENTUM * new);
    running.mean.as_mut_slice().iter_mut().zip(mean).for_each(|(old, &new)| *old = moved(*old, new));
    running.variance.as_mut_slice().iter_mut().zip(variance).for_each(|(old, &new)| *old = moved(*old, new * unbiased));
}

#[inline(always)]
fn norm_pixels(
    pixels: Range<usize>,
    inp: TensorRef,
    saved: &[f32],
    scale: &[f32],
    beta: &[f32],
    residual: Option<TensorRef>,
    relu: bool,
    out: &TensorMut,
) {
    by_channels!(scale.len(), norm_some(pixels.clone(), inp, saved, scale, beta, residual, relu, out));
}

#[inline(always)]
fn norm_some<const N: usize>(
    channel: usize,
    pixels: Range<usize>,
    inp: TensorRef,
    saved: &[f32],
    scale: &[f32],
    beta: &[f32],
    residual: Option<TensorRef>,
    relu: bool,
    out: &TensorMut,
) {
    let (mean, rest) = (some::<N>(saved, channel), some::<N>(saved, scale.len() + channel));
    let (scale, beta) = (some::<N>(scale, channel), some::<N>(beta, channel));
    for pixel in pixels {
        let value = some::<N>(inp.pixel(pixel), channel);
        let mut to = [0.0; N];
        for i in 0..N {
            to[i] = ((value[i] - mean[i]) - rest[i]) * scale[i] + beta[i];
        }
        if let Some(residual) = residual {
            let added = some::<N>(residual.pixel(pixel), channel);
            for i in 0..N {
                to[i] += added[i];
            }
        }
        if relu {
            to.iter_mut().for_each(|to| *to = if *to < 0.0 { 0.0 } else { *to });
        }
        // SAFETY: each row of pixels belongs to one task.
        let into = unsafe { out.pixel_mut(pixel) };
        into[channel..channel + N].copy_from_slice(&to);
    }
}

/// What the backward pass reads of the forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a, T = f32> {
    /// The images of the whole batch.
    pub team: &'a Team,
    /// The map that was normalised, (n, h, w, c).
    pub inp: TensorRef<'a, T>,
    /// The result, (n, h, w, c).
    pub out: TensorRef<'a, T>,
    /// Scale of each channel, flat.
    pub gamma: TensorRef<'a, T>,
    /// What `train_forward` has saved, `[3][c]`, flat.
    pub saved: TensorRef<'a, T>,
}

/// Gradients that are added to.
#[derive(Debug)]
pub struct Gradients<'a, 'b, T = f32> {
    /// Of the input, (n, h, w, c).
    pub dinp: &'a mut TensorMut<'b, T>,
    /// Of the map that was added, if there was one, (n, h, w, c).
    pub dresidual: Option<&'a mut TensorMut<'b, T>>,
    /// Of the scales, flat.
    pub dgamma: &'a mut TensorMut<'b, T>,
    /// Of the shifts, flat.
    pub dbeta: &'a mut TensorMut<'b, T>,
}

/// Adds the gradients of everything the op reads; of a team, the first member alone adds those of gamma and beta, which all find alike.
///
/// Shapes: `dout` (n, h, w, c); `scratch` at least `scratch_len`.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn backward<T: Real>(
    device: &Device,
    norm: Norm,
    kept: Kept<T>,
    dout: TensorRef<T>,
    gradients: Gradients<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let Kept { team, inp, out, gamma, saved } = kept;
    let Gradients { dinp, dresidual, dgamma, dbeta } = gradients;
    let [n, h, w, c] = inp.shape();
    assert!(out.shape() == inp.shape() && dout.shape() == inp.shape() && dinp.shape() == inp.shape(), "{:?}", inp.shape());
    assert!(dresidual.as_ref().is_none_or(|dresidual| dresidual.shape() == inp.shape()), "{:?}", inp.shape());
    assert!(gamma.len() == c && saved.len() == 3 * c && dgamma.len() == c && dbeta.len() == c);
    match device {
        Device::Cpu => {
            let (inp, out, dout) = (inp.as_f32(), out.as_f32(), dout.as_f32());
            let (gamma, saved) = (gamma.as_f32().as_slice(), saved.as_f32().as_slice());
            let (mut dgamma, mut dbeta) = (dgamma.as_f32_mut(), dbeta.as_f32_mut());
            let (dgamma, dbeta) = (dgamma.as_mut_slice(), dbeta.as_mut_slice());
            let relu = norm.relu;
            let of_images = of_all_images(team, 2 * c, |i| {
                let (inp, out, dout) = (inp.image(i), out.image(i), dout.image(i));
                sum_in_parts(h * w, 2 * c, |pixels, sums| {
                    crate::dispatch!(
                        InstructionSet::detect(),
                        gradient_sums(pixels: Range<usize>, inp: TensorRef, out: TensorRef, dout: TensorRef, saved: &[f32], relu: bool, sums: &mut [f32])
                    );
                })
            })?;
            let of_images = of_images.chunks_exact(2 * c).take(team.images());
            let sums: Vec<f64> = (0..2 * c).map(|i| of_images.clone().map(|image| image[i]).sum()).collect();
            if team.is_first() {
                dbeta.iter_mut().zip(&sums[..c]).for_each(|(to, &sum)| *to += sum as f32);
                dgamma.iter_mut().zip(&sums[c..]).for_each(|(to, &sum)| *to += sum as f32);
            }
            let part = if norm.frozen { 0.0 } else { 1.0 / (team.images() * h * w) as f64 };
            let means: Vec<f32> = sums.iter().map(|sum| (sum * part) as f32).collect();
            let scale: Vec<f32> = (0..c).map(|ch| gamma[ch] * saved[2 * c + ch]).collect();
            let (means, scale, dinp): (&[f32], &[f32], &TensorMut) = (&means, &scale, &dinp.as_f32_mut());
            let dresidual = dresidual.map(TensorMut::as_f32_mut);
            let dresidual: Option<&TensorMut> = dresidual.as_ref();
            (0..n * h).into_par_iter().for_each(|row| {
                let pixels = row * w..(row + 1) * w;
                crate::dispatch!(
                    InstructionSet::detect(),
                    back_pixels(pixels: Range<usize>, inp: TensorRef, out: TensorRef, dout: TensorRef, saved: &[f32], scale: &[f32], means: &[f32], relu: bool, dinp: &TensorMut, dresidual: Option<&TensorMut>)
                );
            });
        }
        Device::Gpu(gpu) => gpu::launch_backward(gpu, norm, kept, dout, Gradients { dinp, dresidual, dgamma, dbeta }, scratch)?,
        Device::Reference => {
            let saved = &saved.as_slice()[..2 * c];
            let found = reference_backward(norm, &inp.to_vec(), &out.to_vec(), &dout.to_vec(), gamma.as_slice(), saved);
            dinp.add(&found.0);
            if let Some(dresidual) = dresidual {
                dresidual.add(&found.1);
            }
            dgamma.add(&found.2);
            dbeta.add(&found.3);
        }
    }
    Ok(())
}

/// Sums of g, then of g x^.
#[inline(always)]
fn gradient_sums(pixels: Range<usize>, inp: TensorRef, out: TensorRef, dout: TensorRef, saved: &[f32], relu: bool, sums: &mut [f32]) {
    by_channels!(saved.len() / 3, some_gradient_sums(pixels.clone(), inp, out, dout, saved, relu, sums));
}

#[inline(always)]
fn some_gradient_sums<const N: usize>(
    channel: usize,
    pixels: Range<usize>,
    inp: TensorRef,
    out: TensorRef,
    dout: TensorRef,
    saved: &[f32],
    relu: bool,
    sums: &mut [f32],
) {
    let c = saved.len() / 3;
    let (mean, rest, inverse) = (some::<N>(saved, channel), some::<N>(saved, c + channel), some::<N>(saved, 2 * c + channel));
    let (mut first, mut second) = (some::<N>(sums, channel), some::<N>(sums, c + channel));
    for pixel in pixels {
        let (value, out) = (some::<N>(inp.pixel(pixel), channel), some::<N>(out.pixel(pixel), channel));
        let dout = some::<N>(dout.pixel(pixel), channel);
        for i in 0..N {
            let g = if relu && out[i] <= 0.0 { 0.0 } else { dout[i] };
            first[i] += g;
            second[i] += g * (((value[i] - mean[i]) - rest[i]) * inverse[i]);
        }
    }
    sums[channel..channel + N].copy_from_slice(&first);
    sums[c + channel..c + channel + N].copy_from_slice(&second);
}

#[inline(always)]
fn back_pixels(
    pixels: Range<usize>,
    inp: TensorRef,
    out: TensorRef,
    dout: TensorRef,
    saved: &[f32],
    scale: &[f32],
    means: &[f32],
    relu: bool,
    dinp: &TensorMut,
    dresidual: Option<&TensorMut>,
) {
    by_channels!(scale.len(), back_some(pixels.clone(), inp, out, dout, saved, scale, means, relu, dinp, dresidual));
}

#[inline(always)]
fn back_some<const N: usize>(
    channel: usize,
    pixels: Range<usize>,
    inp: TensorRef,
    out: TensorRef,
    dout: TensorRef,
    saved: &[f32],
    scale: &[f32],
    means: &[f32],
    relu: bool,
    dinp: &TensorMut,
    dresidual: Option<&TensorMut>,
) {
    let c = scale.len();
    let (mean, rest, inverse) = (some::<N>(saved, channel), some::<N>(saved, c + channel), some::<N>(saved, 2 * c + channel));
    let (mean_g, mean_gx) = (some::<N>(means, channel), some::<N>(means, c + channel));
    let scale = some::<N>(scale, channel);
    for pixel in pixels {
        let (value, out) = (some::<N>(inp.pixel(pixel), channel), some::<N>(out.pixel(pixel), channel));
        let dout = some::<N>(dout.pixel(pixel), channel);
        // SAFETY: each row of pixels belongs to one task.
        let to = &mut unsafe { dinp.pixel_mut(pixel) }[channel..channel + N];
        let mut sum = some::<N>(to, 0);
        let mut through = [0.0; N];
        for i in 0..N {
            through[i] = if relu && out[i] <= 0.0 { 0.0 } else { dout[i] };
            let x = ((value[i] - mean[i]) - rest[i]) * inverse[i];
            sum[i] += scale[i] * ((through[i] - mean_g[i]) - x * mean_gx[i]);
        }
        to.copy_from_slice(&sum);
        if let Some(dresidual) = dresidual {
            // SAFETY: as above.
            let to = &mut unsafe { dresidual.pixel_mut(pixel) }[channel..channel + N];
            let mut sum = some::<N>(to, 0);
            for i in 0..N {
                sum[i] += through[i];
            }
            to.copy_from_slice(&sum);
        }
    }
}

/// Batch norm in training by its formula: (out, saved mean and 1 / sqrt(variance + eps)); moves `running` unless frozen.
pub fn reference_training<T: Real>(
    norm: Norm,
    inp: &[T],
    gamma: &[T],
    beta: &[T],
    running: RunningStatistics<T>,
    residual: Option<&[T]>,
) -> (Vec<T>, Vec<T>) {
    let c = gamma.len();
    let count = inp.len() / c;
    let (mut mean, mut variance) = (running.mean.as_ref().to_vec(), running.variance.as_ref().to_vec());
    if !norm.frozen {
        let part = T::from_f64(count as f64);
        for ch in 0..c {
            let channel = || inp.iter().skip(ch).step_by(c);
            let mut sum = T::default();
            channel().for_each(|&x| sum += x);
            mean[ch] = sum / part;
            let mut squares = T::default();
            channel().for_each(|&x| squares += (x - mean[ch]) * (x - mean[ch]));
            variance[ch] = squares / part;
        }
        let widen = |values: &[T]| values.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
        move_running(running, &widen(&mean), &widen(&variance), count);
    }
    let inverse: Vec<T> = variance.iter().map(|&variance| T::from_f64(1.0) / (variance + T::from_f64(EPSILON)).sqrt()).collect();
    let out = inp.iter().enumerate().map(|(i, &value)| {
        let mut y = gamma[i % c] * (value - mean[i % c]) * inverse[i % c] + beta[i % c];
        if let Some(residual) = residual {
            y += residual[i];
        }
        if norm.relu && y < T::default() { T::default() } else { y }
    });
    (out.collect(), mean.iter().chain(&inverse).copied().collect())
}

/// Gradients by their formula: of the input, the residual, gamma and beta. `saved` from `reference_training`.
pub fn reference_backward<T: Real>(
    norm: Norm,
    inp: &[T],
    out: &[T],
    dout: &[T],
    gamma: &[T],
    saved: &[T],
) -> (Vec<T>, Vec<T>, Vec<T>, Vec<T>) {
    let c = gamma.len();
    let (mean, inverse) = saved.split_at(c);
    let count = T::from_f64((inp.len() / c) as f64);
    let g: Vec<T> =
        dout.iter().zip(out).map(|(&gradient, &out)| if norm.relu && out <= T::default() { T::default() } else { gradient }).collect();
    let x: Vec<T> = inp.iter().enumerate().map(|(i, &value)| (value - mean[i % c]) * inverse[i % c]).collect();
    let (mut dgamma, mut dbeta) = (vec![T::default(); c], vec![T::default(); c]);
    for (i, (&g, &x)) in g.iter().zip(&x).enumerate() {
        dgamma[i % c] += g * x;
        dbeta[i % c] += g;
    }
    let dinp = g.iter().zip(&x).enumerate().map(|(i, (&g, &x))| {
        let ch = i % c;
        let centred = if norm.frozen { g } else { g - dbeta[ch] / count - x * (dgamma[ch] / count) };
        gamma[ch] * inverse[ch] * centred
    });
    (dinp.collect(), g.clone(), dgamma, dbeta)
}

/// Shapes (n, h, w, c), and a mean: 1 pixel, odd, several images and parts, a large mean, a real layer.
pub const CASES: [([usize; 4], f32); 6] = [
    ([1, 1, 1, 3], 0.0),
    ([1, 5, 7, 3], 0.5),
    ([2, 4, 5, 33], 0.0),
    ([1, 31, 37, 5], 1000.0),
    ([3, 20, 19, 16], 1.0),
    ([1, 32, 32, 64], 0.0),
];

struct Case {
    norm: Norm,
    shape: [usize; 4],
    inp: Vec<f32>,
    residual: Option<Vec<f32>>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    mean: Vec<f32>,
    variance: Vec<f32>,
    dout: Vec<f32>,
}

/// Every shape with batch statistics and frozen ones, with and without residual and ReLU.
fn cases() -> Vec<Case> {
    let case = |i: usize| {
        let (shape, mean) = CASES[i / 4];
        let seed = i as u64 + 3000;
        let (len, c) = (shape.iter().product(), shape[3]);
        Case {
            norm: Norm { frozen: i % 4 == 3, relu: i % 2 == 1 },
            shape,
            inp: noise(len, seed).iter().map(|x| x + mean).collect(),
            residual: (i % 4 < 2).then(|| noise(len, seed + 100)),
            gamma: noise(c, seed + 200),
            beta: noise(c, seed + 300),
            mean: noise(c, seed + 400).iter().map(|x| x + mean).collect(),
            variance: noise(c, seed + 500).iter().map(|x| x + 1.0).collect(),
            dout: noise(len, seed + 600),
        }
    };
    (0..4 * CASES.len()).map(case).collect()
}

/// Runs all cases forward and backward on a device and compares with the f64 reference: outputs, running statistics
/// and gradients.
///
/// Errors: as `backward`.
pub fn compare_backward(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_backward_as)
}

fn compare_backward_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for case in cases() {
        let Case { norm, shape, inp, residual, gamma, beta, mean, variance, dout } = case;
        let (exact, exact_running) = walk::<f64>(norm, &inp, residual.as_deref(), &gamma, &beta, &mean, &variance, &dout);
        let (plain, plain_running) = walk::<f32>(norm, &inp, residual.as_deref(), &gamma, &beta, &mean, &variance, &dout);
        let name = |what: &str| format!("{what} of {shape:?} {norm:?}");
        let c = gamma.len();
        let list = |values: &[f32]| Tensor::flat_on(device, convert::<T>(values));
        let nan = |len: usize| vec![T::from_f64(f64::NAN); len];
        let (inp, dout) = (Tensor::on(device, shape, convert::<T>(&inp))?, Tensor::on(device, shape, convert::<T>(&dout))?);
        let residual = residual.map(|residual| Tensor::on(device, shape, convert::<T>(&residual))).transpose()?;
        let (gamma, beta) = (list(&gamma)?, list(&beta)?);
        let (mut new_mean, mut new_variance) = (list(&mean)?, list(&variance)?);
        let mut out = Tensor::on(device, shape, nan(plain[0].len()))?;
        let mut saved = Tensor::flat_on(device, nan(3 * c))?;
        let team = &Team::alone(shape[0]);
        let mut scratch = Tensor::flat_on(device, nan(scratch_len::<T>(device, shape, team.places())))?;
        let running = RunningStatistics { mean: new_mean.view_mut(), variance: new_variance.view_mut() };
        train_forward(
            device,
            norm,
            Forward {
                team,
                inp: inp.view(),
                gamma: gamma.view(),
                beta: beta.view(),
                running,
                again: false,
                residual: residual.as_ref().map(Tensor::view),
            },
            &mut saved.view_mut(),
            &mut out.view_mut(),
            &mut scratch.view_mut(),
        )?;
        agreements.push(Agreement::of(name("out"), &out.to_vec()?, &plain[0], &exact[0]));
        let found: Vec<T> = new_mean.to_vec()?.into_iter().chain(new_variance.to_vec()?).collect();
        agreements.push(Agreement::of(name("running statistics"), &found, &plain_running, &exact_running));
        let shapes = [shape, shape, proof::list(c), proof::list(c)];
        for (which, what) in ["dinp", "dresidual", "dgamma", "dbeta"].into_iter().enumerate() {
            agreements.push(proof::agree(device, name(what), shapes[which], &plain[which + 1], &exact[which + 1], |found| {
                let zeros = |i: usize| Tensor::on(device, shapes[i], vec![T::default(); exact[i + 1].len()]);
                let mut others = [zeros(0)?, zeros(1)?, zeros(2)?, zeros(3)?];
                let mut views = others.each_mut().map(Tensor::view_mut);
                views[which] = found.reborrow();
                let [dinp, dresidual, dgamma, dbeta] = &mut views;
                let kept = Kept { team, inp: inp.view(), out: out.view(), gamma: gamma.view(), saved: saved.view() };
                let gradients = Gradients { dinp, dresidual: Some(dresidual), dgamma, dbeta };
                backward(device, norm, kept, dout.view(), gradients, &mut scratch.view_mut())
            })?);
        }
    }
    Ok(agreements)
}

/// Output and gradients, and the running statistics after it, by the references in T.
fn walk<T: Real>(
    norm: Norm,
    inp: &[f32],
    residual: Option<&[f32]>,
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    dout: &[f32],
) -> ([Vec<T>; 5], Vec<T>) {
    let (inp, gamma, dout) = (convert::<T>(inp), convert::<T>(gamma), convert::<T>(dout));
    let (mut mean, mut variance) = (convert::<T>(mean), convert::<T>(variance));
    let running = RunningStatistics::of(&mut mean, &mut variance);
    let (out, saved) = reference_training(norm, &inp, &gamma, &convert(beta), running, residual.map(convert).as_deref());
    let (dinp, dresidual, dgamma, dbeta) = reference_backward(norm, &inp, &out, &dout, &gamma, &saved);
    ([out, dinp, dresidual, dgamma, dbeta], mean.into_iter().chain(variance).collect())
}

/// The gradients of the f64 reference against finite differences: in the smaller cases, because among very many values
/// one lies within a step of the ReLU's kink.
pub fn differences() -> Vec<Agreement> {
    let mut agreements = Vec::new();
    for case in cases().into_iter().filter(|case| case.shape[1] > 1 && case.inp.len() < 5_000) {
        let Case { norm, shape, inp, residual, gamma, beta, mean, variance, dout } = case;
        let residual = residual.unwrap_or_else(|| vec![0.0; inp.len()]);
        let ([_, dinp, dresidual, dgamma, dbeta], _) = walk::<f64>(norm, &inp, Some(&residual), &gamma, &beta, &mean, &variance, &dout);
        let arguments = [(inp, dinp), (residual, dresidual), (gamma, dgamma), (beta, dbeta)];
        let arguments = arguments.map(|(values, gradient)| (convert::<f64>(&values), gradient));
        agreements.push(proof::differences(
            format!("{shape:?} {norm:?}"),
            arguments,
            &convert::<f64>(&dout),
            |[inp, residual, gamma, beta]| {
                let (mut mean, mut variance) = (convert::<f64>(&mean), convert::<f64>(&variance));
                let running = RunningStatistics::of(&mut mean, &mut variance);
                reference_training(norm, inp, gamma, beta, running, Some(residual)).0
            },
        ));
    }
    agreements
}
