//! The 3x3 neighbourhoods of chosen pixels, so that a head can be evaluated at the peaks alone.
//!
//! ```text
//! out[0, 0, k, (3 i + j) C + c] = inp[0, y_k + i - 1, x_k + j - 1, c], 0 outside
//! ```
//! A 3x3 convolution at the peaks is then a 1x1 convolution of `out`, with the same products and the same zeros.
//! There is no backward pass, because training evaluates the heads everywhere.
//! Source: docs/network.md, section 2.

use super::heat_map::PeakMemory;
use super::{Agreement, Real, in_value_type, launch::lanes, noise, real::convert};
use crate::device::gpu::{Arg, Gpu, Grid};
use crate::device::{Device, Tensor, TensorMut, TensorRef};
use crate::kernel_struct;
use anyhow::Result;
use rayon::prelude::*;

/// Gathers the neighbourhoods of the pixels `indices` (row-major) of `inp`.
///
/// Shapes: `inp` (1, h, w, c) into `out` (1, 1, at least `indices.len()`, 9 c), f32; rows beyond the indices are left.
/// Errors: the launch fails on the device. An index outside the map is a programming error and panics.
/// Source: the formula above.
pub fn forward<T: Real>(device: &Device, inp: TensorRef<T>, indices: TensorRef<u32>, out: &mut TensorMut<T>) -> Result<()> {
    let [n, h, w, c] = inp.shape();
    assert!(n == 1 && out.shape()[3] == 9 * c && out.layout().pixels() >= indices.len(), "{:?} into {:?}", inp.shape(), out.shape());
    match device {
        Device::Cpu | Device::Reference => {
            let indices = indices.as_slice();
            assert!(indices.iter().all(|&index| (index as usize) < h * w), "an index lies outside {:?}", inp.shape());
            let out: &TensorMut<T> = out;
            indices.par_iter().enumerate().with_min_len(LEAST_OF_A_TASK).for_each(|(k, &index)| {
                let (y, x) = (index as usize / w, index as usize % w);
                // SAFETY: one task has this pixel.
                let to = unsafe { out.pixel_mut(k) };
                for (tap, to) in to.chunks_exact_mut(c).enumerate() {
                    let (yy, xx) = ((y + tap / 3).wrapping_sub(1), (x + tap % 3).wrapping_sub(1));
                    if yy < h && xx < w {
                        to.copy_from_slice(inp.pixel(yy * w + xx));
                    } else {
                        to.fill(T::default());
                    }
                }
            });
        }
        Device::Gpu(gpu) => launch_forward(gpu, inp, indices, out)?,
    }
    Ok(())
}

/// Neighbourhoods that are worth a task.
const LEAST_OF_A_TASK: usize = 64;

/// Threads of a block, as the KERNEL line says.
const THREADS: u32 = 256;

fn launch_forward<T: Real>(gpu: &Gpu, inp: TensorRef<T>, indices: TensorRef<u32>, out: &mut TensorMut<T>) -> Result<()> {
    launch_rows(gpu, inp, [0, indices.len()], None, indices_arg(indices), out)
}

/// The address of a list of indices.
fn indices_arg(indices: TensorRef<u32>) -> Arg {
    Arg::address(indices.pixel_ptr(0) as u64)
}

/// Gathers the neighbourhoods of peaks as they were found on the GPU, from peak `first` on, as many as `out` has rows; rows
/// beyond the last peak become 0.
///
/// Shapes: as `forward`.
/// Errors: the launch fails.
/// Source: the formula above.
pub fn forward_at_peaks<T: Real>(gpu: &Gpu, inp: TensorRef<T>, peaks: &PeakMemory, first: usize, out: &mut TensorMut<T>) -> Result<()> {
    let [n, h, w, c] = inp.shape();
    assert!(n == 1 && out.shape()[3] == 9 * c && peaks.extent() == [h, w], "{:?} into {:?}", inp.shape(), out.shape());
    let rows = out.layout().pixels().min(peaks.k().saturating_sub(first));
    launch_rows(gpu, inp, [first, rows], Some(peaks.count_arg()), peaks.indices_arg(), out)
}

fn launch_rows<T: Real>(
    gpu: &Gpu,
    inp: TensorRef<T>,
    [first, rows]: [usize; 2],
    found: Option<Arg>,
    indices: Arg,
    out: &mut TensorMut<T>,
) -> Result<()> {
    let [_, h, w, c] = inp.shape();
    let group = lanes(c, &[inp, out.as_ref()]);
    let grid = Grid::over(rows * 9 * c / group as usize, THREADS)?;
    let shape = kernel_struct!(GatherShape { h, w, c, rows, first });
    let (has_found, found) = (Arg::value(u32::from(found.is_some())), found.unwrap_or(Arg::null()));
    let (inp_at, inp_stride, out_stride) = (inp.arg(), inp.stride_arg(), out.stride_arg());
    let args = [shape, Arg::value(group), has_found, inp_at, inp_stride, found, indices, out.arg(), out_stride];
    // SAFETY: the arguments of the KERNEL line, in its order; there are as many rows and indices, and an index outside the
    // map reads nothing.
    unsafe { gpu.launch("gather_forward", grid, THREADS, &args) }
}

/// Weights `[co][c][3][3]` of a head as those of a 1x1 convolution of what `forward` gathers: `[co][tap][c]`.
pub fn as_pointwise(co: usize, c: usize, weights: &[f32]) -> Vec<f32> {
    (0..co * 9 * c).map(|i| weights[(i / (9 * c) * c + i % c) * 9 + i / c % 9]).collect()
}

/// Gathering by its formula.
pub fn reference<T: Real>(inp: &[T], [h, w, c]: [usize; 3], indices: &[u32]) -> Vec<T> {
    let mut out = Vec::with_capacity(indices.len() * 9 * c);
    for (&index, tap) in indices.iter().flat_map(|index| (0..9).map(move |tap| (index, tap))) {
        let (y, x) = ((index as usize / w + tap / 3) as isize - 1, (index as usize % w + tap % 3) as isize - 1);
        let inside = y >= 0 && x >= 0 && y < h as isize && x < w as isize;
        out.extend((0..c).map(|ch| if inside { inp[(y as usize * w + x as usize) * c + ch] } else { T::default() }));
    }
    out
}

/// (h, w, c): 1x1, odd, a real map.
pub const CASES: [[usize; 3]; 3] = [[1, 1, 1], [5, 7, 3], [64, 64, 64]];

/// Runs all cases on a device: corners, borders and inner pixels; nothing is rounded, so nothing may differ.
///
/// Errors: as `forward`.
pub fn compare(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_as)
}

fn compare_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, [h, w, c]) in CASES.into_iter().enumerate() {
        let inp = noise(h * w * c, i as u64);
        let indices: Vec<u32> = (0..h * w).step_by(1 + h * w / 50).chain([w - 1, h * w - w, h * w - 1]).map(|index| index as u32).collect();
        let exact = reference::<f64>(&convert(&inp), [h, w, c], &indices);
        let plain = reference::<f32>(&inp, [h, w, c], &indices);
        let mut out = Tensor::on(device, [1, 1, indices.len(), 9 * c], vec![T::from_f64(f64::NAN); exact.len()])?;
        let (inp, indices) = (Tensor::on(device, [1, h, w, c], convert::<T>(&inp))?, Tensor::flat_on(device, indices)?);
        forward(device, inp.view(), indices.view(), &mut out.view_mut())?;
        agreements.push(Agreement { bound: 0.0, ..Agreement::of(format!("{h}x{w}x{c}"), &out.to_vec()?, &plain, &exact) });
    }
    Ok(agreements)
}
