//! Depth-wise transposed convolution that enlarges f times (kernel 2f, stride f, padding f/2), and the sum with a map
//! of the larger size that follows it in the network.
//!
//! ```text
//! out[n, Y, X, c] = skip[n, Y, X, c] + sum over (y, x, i, j) with y f + i - f/2 = Y and x f + j - f/2 = X of
//!                   inp[n, y, x, c] * weight[c, i, j]
//! ```
//! Every output value has at most 2 x 2 terms.
//! Source: Dumoulin, Visin 2016, arXiv:1603.07285, section 4; docs/network.md, section 1.2 (Up).

use super::{Agreement, Real, noise, real::convert};
use crate::device::{Device, Tensor, TensorMut, TensorRef, cpu::InstructionSet};
use anyhow::Result;
use rayon::prelude::*;

/// Extents of one enlargement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpConvShape {
    /// Images.
    pub n: usize,
    /// Rows of the input.
    pub h: usize,
    /// Columns of the input.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// How many times larger the output is: even.
    pub factor: usize,
}

impl UpConvShape {
    /// Shape of the output, (n, h, w, c).
    pub fn out(&self) -> [usize; 4] {
        [self.n, self.h * self.factor, self.w * self.factor, self.c]
    }
}

/// The kernel in the order of use: [i][j][c], from PyTorch's [c][1][i][j].
pub fn pack(c: usize, factor: usize, weights: &[f32]) -> Vec<f32> {
    let taps = 4 * factor * factor;
    assert_eq!(weights.len(), c * taps, "weights of {c} channels, {factor} times");
    (0..taps * c).map(|i| weights[i % c * taps + i / c]).collect()
}

/// Enlarges `inp` into `out` and adds `skip` if there is one.
///
/// Shapes: `inp` (n, h, w, c), `skip` and `out` (n, f h, f w, c), `weights` from `pack`, f32.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn forward(
    device: &Device,
    shape: UpConvShape,
    inp: TensorRef,
    weights: &[f32],
    skip: Option<TensorRef>,
    out: &mut TensorMut,
) -> Result<()> {
    assert_eq!(inp.shape(), [shape.n, shape.h, shape.w, shape.c], "input of {shape:?}");
    assert_eq!(out.shape(), shape.out(), "output of {shape:?}");
    assert_eq!(weights.len(), 4 * shape.factor * shape.factor * shape.c, "weights of {shape:?}");
    assert!(skip.is_none_or(|skip| skip.shape() == shape.out()), "skip of {shape:?}");
    match device {
        Device::Cpu => forward_cpu(shape, inp, weights, skip, out),
        Device::Gpu(gpu) => match *gpu {},
    }
    Ok(())
}

fn forward_cpu(shape: UpConvShape, inp: TensorRef, weights: &[f32], skip: Option<TensorRef>, out: &mut TensorMut) {
    let [n, oh, _, _] = shape.out();
    let out: &TensorMut = out;
    (0..n * oh).into_par_iter().for_each(|row| {
        crate::dispatch!(
            InstructionSet::detect(),
            up_row(shape: UpConvShape, row: usize, inp: TensorRef, weights: &[f32], skip: Option<TensorRef>, out: &TensorMut)
        );
    });
}

/// The (input position, tap) pairs of output position `at` along one axis: positions outside the input are left out.
#[inline(always)]
fn terms(at: usize, extent: usize, factor: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    // y f + i = at + f/2 with 0 <= i < 2f: the largest y is (at + f/2) / f, the other one is one less.
    let shifted = at + factor / 2;
    let last = shifted / factor;
    (last.saturating_sub(1)..=last)
        .filter(move |&y| y < extent && shifted - y * factor < 2 * factor)
        .map(move |y| (y, shifted - y * factor))
}

#[inline(always)]
fn up_row(shape: UpConvShape, row: usize, inp: TensorRef, weights: &[f32], skip: Option<TensorRef>, out: &TensorMut) {
    let UpConvShape { h, w, c, factor, .. } = shape;
    let [_, oh, ow, _] = shape.out();
    let (image, y_out) = (row / oh, row % oh);
    for x_out in 0..ow {
        // SAFETY: each output row belongs to one task.
        let to = unsafe { out.pixel_mut(row * ow + x_out) };
        match skip {
            Some(skip) => to.copy_from_slice(skip.pixel(row * ow + x_out)),
            None => to.fill(0.0),
        }
        for (y, i) in terms(y_out, h, factor) {
            for (x, j) in terms(x_out, w, factor) {
                let from = inp.pixel((image * h + y) * w + x);
                let taps = &weights[(i * 2 * factor + j) * c..][..c];
                for ((to, &value), &weight) in to.iter_mut().zip(from).zip(taps) {
                    *to += value * weight;
                }
            }
        }
    }
}

/// The enlargement by its formula: it scatters, as the definition does. `weights` [c][2f][2f].
pub fn reference<T: Real>(shape: UpConvShape, inp: &[T], weights: &[T], skip: Option<&[T]>) -> Vec<T> {
    let UpConvShape { n, h, w, c, factor } = shape;
    let [_, oh, ow, _] = shape.out();
    let mut out = skip.map_or_else(|| vec![T::default(); n * oh * ow * c], <[T]>::to_vec);
    for (image, y, x) in (0..n * h * w).map(|p| (p / (h * w), p / w % h, p % w)) {
        for (i, j) in (0..4 * factor * factor).map(|tap| (tap / (2 * factor), tap % (2 * factor))) {
            let (to_y, to_x) = ((y * factor + i).wrapping_sub(factor / 2), (x * factor + j).wrapping_sub(factor / 2));
            if to_y >= oh || to_x >= ow {
                continue;
            }
            for ch in 0..c {
                out[((image * oh + to_y) * ow + to_x) * c + ch] +=
                    inp[((image * h + y) * w + x) * c + ch] * weights[(ch * 2 * factor + i) * 2 * factor + j];
            }
        }
    }
    out
}

/// 1x1, odd, every factor of the network, several images, a real layer.
pub const CASES: [UpConvShape; 6] = [
    UpConvShape { n: 1, h: 1, w: 1, c: 1, factor: 2 },
    UpConvShape { n: 1, h: 4, w: 5, c: 3, factor: 2 },
    UpConvShape { n: 2, h: 3, w: 3, c: 17, factor: 4 },
    UpConvShape { n: 1, h: 4, w: 5, c: 3, factor: 8 },
    UpConvShape { n: 1, h: 1, w: 7, c: 24, factor: 4 },
    UpConvShape { n: 1, h: 16, w: 16, c: 64, factor: 2 },
];

/// Runs all cases on a device and compares them with the f64 reference; the output is poisoned with NaN first.
///
/// Errors: as `forward`.
pub fn compare(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, shape) in CASES.into_iter().enumerate() {
        let seed = i as u64;
        let inp = noise(shape.n * shape.h * shape.w * shape.c, seed);
        let weights = noise(4 * shape.factor * shape.factor * shape.c, seed + 100);
        let skip = (i % 2 == 1).then(|| noise(shape.out().iter().product(), seed + 200));
        let exact = reference::<f64>(shape, &convert(&inp), &convert(&weights), skip.as_deref().map(convert).as_deref());
        let plain = reference::<f32>(shape, &inp, &weights, skip.as_deref());
        let inp = Tensor::from_values([shape.n, shape.h, shape.w, shape.c], inp);
        let skip = skip.map(|values| Tensor::from_values(shape.out(), values));
        let mut out = Tensor::from_values(shape.out(), vec![f32::NAN; exact.len()]);
        let packed = pack(shape.c, shape.factor, &weights);
        forward(device, shape, inp.view(), &packed, skip.as_ref().map(Tensor::view), &mut out.view_mut())?;
        agreements.push(Agreement::of(format!("{shape:?}"), out.values(), &plain, &exact));
    }
    Ok(agreements)
}
