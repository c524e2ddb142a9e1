//! Maximum of each s x s window, step s, no padding; rows and columns left over at the end are dropped.
//!
//! ```text
//! out[n, y, x, c] = max over i, j < s of inp[n, s y + i, s x + j, c]
//! ```
//! Backward: `dout` is added to the first pixel of the window, row by row, that holds the maximum.
//! Source: docs/network.md, section 1.2 (Tree).

use super::launch::lanes;
use super::{Agreement, Real, in_value_type, noise, proof, real::convert};
use crate::device::gpu::{Arg, Gpu, Grid};
use crate::device::{Device, Tensor, TensorMut, TensorRef, cpu::InstructionSet};
use crate::kernel_struct;
use anyhow::Result;
use rayon::prelude::*;

/// Extents of one pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaxPoolShape {
    /// Images.
    pub n: usize,
    /// Rows of the input.
    pub h: usize,
    /// Columns of the input.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Side of the window, and the step.
    pub window: usize,
}

impl MaxPoolShape {
    /// Shape of the output, (n, h, w, c).
    pub fn out(&self) -> [usize; 4] {
        [self.n, self.h / self.window, self.w / self.window, self.c]
    }
}

/// Pools `inp` into `out`.
///
/// Shapes: `inp` (n, h, w, c) into `out` (n, h / s, w / s, c), f32.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn forward<T: Real>(device: &Device, shape: MaxPoolShape, inp: TensorRef<T>, out: &mut TensorMut<T>) -> Result<()> {
    assert_eq!(inp.shape(), [shape.n, shape.h, shape.w, shape.c], "input of {shape:?}");
    assert_eq!(out.shape(), shape.out(), "output of {shape:?}");
    match device {
        Device::Cpu => forward_cpu(shape, inp.as_f32(), &mut out.as_f32_mut()),
        Device::Gpu(gpu) => launch_forward(gpu, shape, inp, out)?,
        Device::Reference => out.assign(&reference(shape, &inp.to_vec())),
    }
    Ok(())
}

/// Threads of a block, as the KERNEL lines say.
const THREADS: u32 = 256;

/// The kernels' shape struct.
fn shape_arg(MaxPoolShape { n, h, w, c, window }: MaxPoolShape) -> Arg {
    kernel_struct!(MaxPoolShape { n, h, w, c, window })
}

fn launch_forward<T: Real>(gpu: &Gpu, shape: MaxPoolShape, inp: TensorRef<T>, out: &mut TensorMut<T>) -> Result<()> {
    let group = lanes(shape.c, &[inp, out.as_ref()]);
    let [n, oh, ow, c] = shape.out();
    let args = [shape_arg(shape), Arg::value(group), inp.arg(), inp.stride_arg(), out.arg(), out.stride_arg()];
    let grid = Grid::of_rows(n * oh, ow * c / group as usize, THREADS)?;
    // SAFETY: the arguments of the KERNEL line, in its order; the shapes of both maps were checked against the shape struct.
    unsafe { gpu.launch("max_pool_forward", grid, THREADS, &args) }
}

fn forward_cpu(shape: MaxPoolShape, inp: TensorRef, out: &mut TensorMut) {
    let [n, oh, _, _] = shape.out();
    let out: &TensorMut = out;
    (0..n * oh).into_par_iter().for_each(|row| {
        crate::dispatch!(InstructionSet::detect(), pool_row(shape: MaxPoolShape, row: usize, inp: TensorRef, out: &TensorMut));
    });
}

#[inline(always)]
fn pool_row(shape: MaxPoolShape, row: usize, inp: TensorRef, out: &TensorMut) {
    let MaxPoolShape { h, w, window, .. } = shape;
    let [_, oh, ow, _] = shape.out();
    for x in 0..ow {
        // SAFETY: each output row belongs to one task.
        let to = unsafe { out.pixel_mut(row * ow + x) };
        let corner = (row / oh * h + row % oh * window) * w + x * window;
        to.copy_from_slice(inp.pixel(corner));
        for i in 1..window * window {
            for (to, &value) in to.iter_mut().zip(inp.pixel(corner + i / window * w + i % window)) {
                *to = if value > *to { value } else { *to };
            }
        }
    }
}

/// Pooling by its formula, (n, h, w, c) in and out.
pub fn reference<T: Real>(shape: MaxPoolShape, inp: &[T]) -> Vec<T> {
    let MaxPoolShape { h, w, c, window, .. } = shape;
    let [n, oh, ow, _] = shape.out();
    let mut out = Vec::with_capacity(n * oh * ow * c);
    for (image, y, x) in (0..n * oh * ow).map(|i| (i / (oh * ow), i / ow % oh, i % ow)) {
        for ch in 0..c {
            let at = |i: usize| inp[((image * h + y * window + i / window) * w + x * window + i % window) * c + ch];
            out.push((1..window * window).fold(at(0), |most, i| if at(i) > most { at(i) } else { most }));
        }
    }
    out
}

/// Adds the gradient of the input.
///
/// Shapes: `inp` and `dinp` (n, h, w, c), `dout` (n, h / s, w / s, c), f32.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the text above.
pub fn backward<T: Real>(
    device: &Device,
    shape: MaxPoolShape,
    inp: TensorRef<T>,
    dout: TensorRef<T>,
    dinp: &mut TensorMut<T>,
) -> Result<()> {
    assert_eq!(inp.shape(), [shape.n, shape.h, shape.w, shape.c], "input of {shape:?}");
    assert_eq!(dinp.shape(), inp.shape(), "gradient of the input of {shape:?}");
    assert_eq!(dout.shape(), shape.out(), "gradient of the output of {shape:?}");
    match device {
        Device::Cpu => {
            let (inp, dout, dinp): (_, _, &TensorMut) = (inp.as_f32(), dout.as_f32(), &dinp.as_f32_mut());
            let [n, oh, _, _] = shape.out();
            (0..n * oh).into_par_iter().for_each(|row| {
                crate::dispatch!(
                    InstructionSet::detect(),
                    unpool_row(shape: MaxPoolShape, row: usize, inp: TensorRef, dout: TensorRef, dinp: &TensorMut)
                );
            });
        }
        Device::Gpu(gpu) => launch_backward(gpu, shape, inp, dout, dinp)?,
        Device::Reference => dinp.add(&reference_backward(shape, &inp.to_vec(), &dout.to_vec())),
    }
    Ok(())
}

fn launch_backward<T: Real>(gpu: &Gpu, shape: MaxPoolShape, inp: TensorRef<T>, dout: TensorRef<T>, dinp: &mut TensorMut<T>) -> Result<()> {
    let strides = [inp.stride_arg(), dout.stride_arg(), dinp.stride_arg()];
    let args = [shape_arg(shape), inp.arg(), strides[0], dout.arg(), strides[1], dinp.arg(), strides[2]];
    // SAFETY: the arguments of the KERNEL line, in its order; the shapes of all maps were checked against the shape struct.
    unsafe { gpu.launch("max_pool_backward", Grid::over(dout.len(), THREADS)?, THREADS, &args) }
}

#[inline(always)]
fn unpool_row(shape: MaxPoolShape, row: usize, inp: TensorRef, dout: TensorRef, dinp: &TensorMut) {
    const CHANNELS: usize = 64;
    let MaxPoolShape { h, w, window, c, .. } = shape;
    let [_, oh, ow, _] = shape.out();
    let (mut most, mut which) = ([0.0_f32; CHANNELS], [0_u32; CHANNELS]);
    for x in 0..ow {
        let corner = (row / oh * h + row % oh * window) * w + x * window;
        let at = |i: usize| corner + i / window * w + i % window;
        for first in (0..c).step_by(CHANNELS) {
            let channels = first..c.min(first + CHANNELS);
            let (most, which) = (&mut most[..channels.len()], &mut which[..channels.len()]);
            most.copy_from_slice(&inp.pixel(corner)[channels.clone()]);
            which.fill(0);
            for i in 1..window * window {
                for ((most, which), &value) in most.iter_mut().zip(&mut *which).zip(&inp.pixel(at(i))[channels.clone()]) {
                    *which = if value > *most { i as u32 } else { *which };
                    *most = if value > *most { value } else { *most };
                }
            }
            for i in 0..window * window {
                // SAFETY: windows do not overlap, and each row of them belongs to one task.
                let to = unsafe { &mut dinp.pixel_mut(at(i))[channels.clone()] };
                for ((to, &which), &gradient) in to.iter_mut().zip(&*which).zip(&dout.pixel(row * ow + x)[channels.clone()]) {
                    *to += if which == i as u32 { gradient } else { 0.0 };
                }
            }
        }
    }
}

/// Gradient of the input, by its definition.
pub fn reference_backward<T: Real>(shape: MaxPoolShape, inp: &[T], dout: &[T]) -> Vec<T> {
    let MaxPoolShape { n, h, w, c, window } = shape;
    let [_, oh, ow, _] = shape.out();
    let mut dinp = vec![T::default(); n * h * w * c];
    for (image, y, x) in (0..n * oh * ow).map(|i| (i / (oh * ow), i / ow % oh, i % ow)) {
        for ch in 0..c {
            let at = |i: usize| ((image * h + y * window + i / window) * w + x * window + i % window) * c + ch;
            let first = (1..window * window).fold(0, |most, i| if inp[at(i)] > inp[at(most)] { i } else { most });
            dinp[at(first)] += dout[((image * oh + y) * ow + x) * c + ch];
        }
    }
    dinp
}

/// 1x1, odd rests, several images, a real layer.
pub const CASES: [MaxPoolShape; 6] = [
    MaxPoolShape { n: 1, h: 1, w: 1, c: 1, window: 1 },
    MaxPoolShape { n: 1, h: 3, w: 2, c: 1, window: 2 },
    MaxPoolShape { n: 2, h: 6, w: 8, c: 3, window: 2 },
    MaxPoolShape { n: 1, h: 7, w: 9, c: 17, window: 2 },
    MaxPoolShape { n: 1, h: 10, w: 11, c: 5, window: 3 },
    MaxPoolShape { n: 1, h: 32, w: 32, c: 64, window: 2 },
];

/// Runs all cases on a device and compares them with the f64 reference; the output is poisoned with NaN first.
///
/// Errors: as `forward`.
pub fn compare(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_as)
}

fn compare_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, shape) in CASES.into_iter().enumerate() {
        let inp = noise(shape.n * shape.h * shape.w * shape.c, i as u64);
        let exact = reference::<f64>(shape, &convert(&inp));
        let plain = reference::<f32>(shape, &inp);
        let mut out = Tensor::on(device, shape.out(), vec![T::from_f64(f64::NAN); exact.len()])?;
        let inp = Tensor::on(device, [shape.n, shape.h, shape.w, shape.c], convert(&inp))?;
        forward(device, shape, inp.view(), &mut out.view_mut())?;
        agreements.push(Agreement { bound: 0.0, ..Agreement::of(format!("{shape:?}"), &out.to_vec()?, &plain, &exact) });
    }
    Ok(agreements)
}

/// Runs all cases backward on a device, with ties in every second one, and compares with the f64 reference.
///
/// Errors: as `backward`.
pub fn compare_backward(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_backward_as)
}

fn compare_backward_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, shape) in CASES.into_iter().enumerate() {
        let mut inp = noise(shape.n * shape.h * shape.w * shape.c, i as u64);
        if i % 2 == 1 {
            inp.iter_mut().for_each(|value| *value = (*value * 4.0).round());
        }
        let dout = noise(shape.out().iter().product(), i as u64 + 100);
        let exact = reference_backward::<f64>(shape, &convert(&inp), &convert(&dout));
        let plain = reference_backward::<f32>(shape, &inp, &dout);
        let extents = [shape.n, shape.h, shape.w, shape.c];
        let inp = Tensor::on(device, extents, convert::<T>(&inp))?;
        let dout = Tensor::on(device, shape.out(), convert::<T>(&dout))?;
        agreements.push(proof::agree(device, format!("{shape:?}"), extents, &plain, &exact, |found| {
            backward(device, shape, inp.view(), dout.view(), found)
        })?);
    }
    Ok(agreements)
}

/// The gradient of the f64 reference against finite differences.
pub fn differences() -> Vec<Agreement> {
    let case = |(i, shape): (usize, MaxPoolShape)| {
        let inp = convert::<f64>(&noise(shape.n * shape.h * shape.w * shape.c, i as u64));
        let dout = convert::<f64>(&noise(shape.out().iter().product(), i as u64 + 100));
        let dinp = reference_backward(shape, &inp, &dout);
        proof::differences(format!("{shape:?}"), [(inp, dinp)], &dout, |[inp]| reference(shape, inp))
    };
    CASES.into_iter().enumerate().map(case).collect()
}
