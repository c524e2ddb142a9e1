//! The gradient of a ReLU that was fused into the op before it, in place: what flows back passes where the output is
//! more than 0. (At 0 the derivative is 0, as in PyTorch.)
//!
//! ```text
//! out = max(inp, 0)        dout = out > 0 ? dout : 0
//! ```
//! It works in place, because nothing else reads the gradient of the output and so there is no sum to add to.
//! Source: Nair, Hinton 2010, Rectified linear units improve restricted Boltzmann machines.

use super::{Agreement, Real, in_value_type, noise, real::convert};
use crate::device::cpu::InstructionSet;
use crate::device::gpu::{Gpu, Grid};
use crate::device::{Device, Tensor, TensorMut, TensorRef};
use crate::kernel_struct;
use anyhow::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Clears `dout` where `out` is not above 0.
///
/// Shapes: both (n, h, w, c), f32.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn backward<T: Real>(device: &Device, out: TensorRef<T>, dout: &mut TensorMut<T>) -> Result<()> {
    assert_eq!(out.shape(), dout.shape());
    match device {
        Device::Cpu => {
            let (out, dout): (_, &TensorMut) = (out.as_f32(), &dout.as_f32_mut());
            let [n, h, w, _] = out.shape();
            (0..n * h).into_par_iter().for_each(|row| {
                let pixels = row * w..(row + 1) * w;
                crate::dispatch!(InstructionSet::detect(), clear_pixels(pixels: Range<usize>, out: TensorRef, dout: &TensorMut));
            });
        }
        Device::Gpu(gpu) => launch_backward(gpu, out, dout)?,
        Device::Reference => dout.assign(&reference_backward(&out.to_vec(), &dout.as_ref().to_vec())),
    }
    Ok(())
}

#[inline(always)]
fn clear_pixels(pixels: Range<usize>, out: TensorRef, dout: &TensorMut) {
    for pixel in pixels {
        // SAFETY: each row belongs to one task.
        let gradients = unsafe { dout.pixel_mut(pixel) };
        for (gradient, &out) in gradients.iter_mut().zip(out.pixel(pixel)) {
            *gradient = if out > 0.0 { *gradient } else { 0.0 };
        }
    }
}

/// Threads of a block, as the KERNEL line says.
const THREADS: u32 = 256;

fn launch_backward<T: Real>(gpu: &Gpu, out: TensorRef<T>, dout: &mut TensorMut<T>) -> Result<()> {
    let shape = kernel_struct!(ReluShape { pixels: out.layout().pixels(), c: out.shape()[3] });
    let strides = [out.stride_arg(), dout.stride_arg()];
    let args = [shape, out.arg(), strides[0], dout.arg(), strides[1]];
    // SAFETY: the arguments of the KERNEL line, in its order; both maps have these pixels and channels.
    unsafe { gpu.launch("relu_backward", Grid::over(out.len(), THREADS)?, THREADS, &args) }
}

/// ReLU by its formula.
pub fn reference<T: Real>(inp: &[T]) -> Vec<T> {
    inp.iter().map(|&x| if x < T::default() { T::default() } else { x }).collect()
}

/// Its gradient.
pub fn reference_backward<T: Real>(out: &[T], dout: &[T]) -> Vec<T> {
    out.iter().zip(dout).map(|(&out, &gradient)| if out > T::default() { gradient } else { T::default() }).collect()
}

/// Shapes (n, h, w, c): 1x1, odd, several images.
pub const CASES: [[usize; 4]; 3] = [[1, 1, 1, 1], [1, 5, 7, 3], [2, 4, 5, 33]];

/// Runs all cases on a device: nothing is rounded, so nothing may differ.
///
/// Errors: as `backward`.
pub fn compare_backward(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_backward_as)
}

fn compare_backward_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, shape) in CASES.into_iter().enumerate() {
        let out = reference(&noise(shape.iter().product(), i as u64));
        let dout = noise(out.len(), i as u64 + 100);
        let exact = reference_backward::<f64>(&convert(&out), &convert(&dout));
        let plain = reference_backward::<f32>(&out, &dout);
        let mut found = Tensor::on(device, shape, convert::<T>(&dout))?;
        backward(device, Tensor::on(device, shape, convert(&out))?.view(), &mut found.view_mut())?;
        agreements.push(Agreement { bound: 0.0, ..Agreement::of(format!("{shape:?}"), &found.to_vec()?, &plain, &exact) });
    }
    Ok(agreements)
}

/// The gradient of the f64 reference against finite differences.
pub fn differences() -> Vec<Agreement> {
    let case = |(i, shape): (usize, [usize; 4])| {
        let inp = convert::<f64>(&noise(shape.iter().product(), i as u64));
        let dout = convert::<f64>(&noise(inp.len(), i as u64 + 100));
        let dinp = reference_backward(&reference(&inp), &dout);
        super::proof::differences(format!("{shape:?}"), [(inp, dinp)], &dout, |[inp]| reference(inp))
    };
    CASES.into_iter().enumerate().map(case).collect()
}
