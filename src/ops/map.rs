//! What is done to maps and weights between the ops: the sum of two maps, one channel that stands for several equal ones, and maps
//! turned, so that what a network says of an image and of its mirror images can be averaged.
//!
//! ```text
//! add              to += from
//! sum_copies       out[o, tap] = sum over k < copies of weights[o, k, tap]
//! spread_copies    to[o, k, tap] += from[o, tap] for every k: equal channels have equal gradients
//! turn             to[y, x] = share from[y', x'], or += it, with y' = y or h-1-y and x' = x or w-1-x
//! ```
//! There is no backward pass, because these are steps of the gradient themselves.
//! Source: docs/network.md, section 1.1 (the image's channels are equal).

use super::{Agreement, Real, in_value_type, launch::lanes, noise, real::convert};
use crate::device::gpu::{Arg, Gpu, Grid};
use crate::device::tensor::Layout;
use crate::device::{Device, Tensor, TensorMut, TensorRef};
use crate::kernel_struct;
use anyhow::Result;
use rayon::prelude::*;

/// Threads of a block, as the KERNEL lines say.
const THREADS: u32 = 256;

/// Values of a part of a sum of two lists that one thread adds.
const PART: usize = 1 << 14;

/// Adds one map to another.
///
/// Shapes: both (n, h, w, c).
/// Errors: the launch fails on the device. Shapes that differ are a programming error and panic.
/// Source: the formula above.
pub fn add<T: Real>(device: &Device, from: TensorRef<T>, to: &mut TensorMut<T>) -> Result<()> {
    assert_eq!(from.shape(), to.shape());
    match device {
        Device::Cpu | Device::Reference => {
            let [n, h, w, c] = from.shape();
            if from.pixel_stride() == c && to.pixel_stride() == c {
                // Both lie in one piece, and a flat list has but one row.
                let add = |(to, from): (&mut [T], &[T])| to.iter_mut().zip(from).for_each(|(to, &value)| *to += value);
                to.as_mut_slice().par_chunks_mut(PART).zip(from.as_slice().par_chunks(PART)).for_each(add);
                return Ok(());
            }
            let to: &TensorMut<T> = to;
            (0..n * h).into_par_iter().for_each(|row| {
                for pixel in row * w..(row + 1) * w {
                    // SAFETY: each row belongs to one task.
                    let to = unsafe { to.pixel_mut(pixel) };
                    to.iter_mut().zip(from.pixel(pixel)).for_each(|(to, &value)| *to += value);
                }
            });
            Ok(())
        }
        Device::Gpu(gpu) => launch_add(gpu, from, to),
    }
}

fn launch_add<T: Real>(gpu: &Gpu, from: TensorRef<T>, to: &mut TensorMut<T>) -> Result<()> {
    let group = lanes(from.shape()[3], &[from, to.as_ref()]);
    let shape = kernel_struct!(MapShape { pixels: from.layout().pixels(), c: from.shape()[3] });
    let (from_at, from_stride, to_stride) = (from.arg(), from.stride_arg(), to.stride_arg());
    let args = [shape, Arg::value(group), from_at, from_stride, to.arg(), to_stride];
    // SAFETY: the arguments of the KERNEL line, in its order; both maps have this shape.
    unsafe { gpu.launch("map_add", Grid::over(from.len() / group as usize, THREADS)?, THREADS, &args) }
}

/// Sums the weights of equal channels: in f64, rounded once.
///
/// Shapes: `weights` `[co][copies][taps]`, `out` `[co][taps]`, flat.
/// Errors: the launch fails on the device. Lengths that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn sum_copies<T: Real>(device: &Device, weights: TensorRef<T>, [copies, taps]: [usize; 2], out: &mut TensorMut<T>) -> Result<()> {
    assert_eq!(weights.len(), copies * out.len(), "{copies} copies of {taps} taps");
    match device {
        Device::Cpu | Device::Reference => {
            let summed = reference_sum(weights.as_slice(), [copies, taps]);
            out.as_mut_slice().copy_from_slice(&summed);
            Ok(())
        }
        Device::Gpu(gpu) => {
            let [count, copies, taps] = [out.len(), copies, taps].map(|extent| Arg::value(extent as u32));
            let grid = Grid::over(out.len(), THREADS)?;
            // SAFETY: the arguments of the KERNEL line, in its order; the lengths were checked.
            unsafe { gpu.launch("map_sum_copies", grid, THREADS, &[count, copies, taps, weights.arg(), out.arg()]) }
        }
    }
}

/// Adds the gradient of summed weights to that of every copy.
///
/// Shapes: `from` `[co][taps]`, `to` `[co][copies][taps]`, flat.
/// Errors: the launch fails on the device. Lengths that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn spread_copies<T: Real>(device: &Device, from: TensorRef<T>, [copies, taps]: [usize; 2], to: &mut TensorMut<T>) -> Result<()> {
    assert_eq!(to.len(), copies * from.len(), "{copies} copies of {taps} taps");
    match device {
        Device::Cpu | Device::Reference => {
            let from = from.as_slice();
            to.as_mut_slice().iter_mut().enumerate().for_each(|(i, to)| *to += from[i / (copies * taps) * taps + i % taps]);
            Ok(())
        }
        Device::Gpu(gpu) => {
            let [count, copies, taps] = [to.len(), copies, taps].map(|extent| Arg::value(extent as u32));
            let grid = Grid::over(to.len(), THREADS)?;
            // SAFETY: the arguments of the KERNEL line, in its order; the lengths were checked.
            unsafe { gpu.launch("map_spread_copies", grid, THREADS, &[count, copies, taps, from.arg(), to.arg()]) }
        }
    }
}

/// A way to turn a map; each undoes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Rows change places: above is below.
    pub rows: bool,
    /// Columns change places: left is right.
    pub columns: bool,
}

impl Turn {
    /// As it is.
    pub const NONE: Turn = Turn { rows: false, columns: false };

    /// Where the value of pixel `i` comes from.
    fn source(self, i: usize, [h, w]: [usize; 2]) -> usize {
        let (y, x) = (i / w, i % w);
        let y = if self.rows { h - 1 - y } else { y };
        y * w + if self.columns { w - 1 - x } else { x }
    }
}

/// Turns a map of one channel, and writes a share of it or adds it to what is there.
///
/// Shapes: both (1, h, w, 1), packed.
/// Errors: the launch fails on the device. Shapes that differ are a programming error and panic.
/// Source: the formula above.
pub fn turn<T: Real>(device: &Device, turn: Turn, share: f32, adds: bool, from: TensorRef<T>, to: &mut TensorMut<T>) -> Result<()> {
    let [n, h, w, c] = from.shape();
    assert!(n == 1 && c == 1 && from.shape() == to.shape(), "{:?} into {:?}", from.shape(), to.shape());
    match device {
        Device::Cpu | Device::Reference => {
            let share = T::from_f64(f64::from(share));
            to.as_mut_slice().iter_mut().enumerate().for_each(|(i, to)| {
                let value = share * from.pixel(turn.source(i, [h, w]))[0];
                *to = if adds { *to + value } else { value };
            });
            Ok(())
        }
        Device::Gpu(gpu) => {
            let shape = kernel_struct!(TurnShape { h, w, rows: turn.rows, columns: turn.columns, adds });
            let args = [shape, Arg::value(share), from.arg(), from.stride_arg(), to.arg(), to.stride_arg()];
            // SAFETY: the arguments of the KERNEL line, in its order; both maps have this shape.
            unsafe { gpu.launch("map_turn", Grid::over(h * w, THREADS)?, THREADS, &args) }
        }
    }
}

fn reference_sum<T: Real>(weights: &[T], [copies, taps]: [usize; 2]) -> Vec<T> {
    let sum = |o: usize, tap: usize| (0..copies).map(|k| weights[(o * copies + k) * taps + tap].to_f64()).sum::<f64>();
    (0..weights.len() / copies).map(|i| T::from_f64(sum(i / taps, i % taps))).collect()
}

/// (output channels, copies, taps): one of each, odd, the first layer of the network.
pub const CASES: [[usize; 3]; 3] = [[1, 1, 1], [5, 2, 9], [16, 3, 49]];

/// Channels of maps, and of the buffers that they are part of.
const MAPS: [[usize; 2]; 3] = [[1, 1], [5, 7], [8, 12]];

/// Runs all cases on a device: each result is rounded once, so nothing may differ from the reference in its type.
///
/// Errors: as `add`.
pub fn compare(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_as)
}

fn compare_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    let list = |values: &[f32]| Tensor::flat_on(device, convert::<T>(values));
    let mut check = |case: String, found: &[T], exact: Vec<T>| {
        let (exact, plain): (Vec<f64>, Vec<f32>) = exact.iter().map(|x| (x.to_f64(), x.to_f64() as f32)).unzip();
        agreements.push(Agreement { bound: 0.0, ..Agreement::of(case, found, &plain, &exact) });
    };
    for [co, copies, taps] in CASES {
        let weights = noise(co * copies * taps, 1);
        let exact = reference_sum(&convert::<T>(&weights), [copies, taps]);
        let mut out = Tensor::flat_on(device, vec![T::from_f64(f64::NAN); co * taps])?;
        sum_copies(device, list(&weights)?.view(), [copies, taps], &mut out.view_mut())?;
        check(format!("sum of {copies} copies"), &out.to_vec()?, exact.clone());
        let mut to = list(&weights)?;
        spread_copies(device, out.view(), [copies, taps], &mut to.view_mut())?;
        let spread = |i: usize| exact[i / (copies * taps) * taps + i % taps] + T::from_f64(f64::from(weights[i]));
        check(format!("spread to {copies} copies"), &to.to_vec()?, (0..weights.len()).map(spread).collect());
    }
    for [h, w] in [[1, 1], [5, 8], [32, 32]] {
        let (from, before) = (noise(h * w, 4), noise(h * w, 5));
        for (k, turned) in [(false, false), (true, false), (false, true), (true, true)].into_iter().enumerate() {
            let (turned, adds) = (Turn { rows: turned.0, columns: turned.1 }, k % 2 == 1);
            let map = |values: &[f32]| Tensor::on(device, [1, h, w, 1], convert::<T>(values));
            let (from_map, mut to) = (map(&from)?, map(&before)?);
            turn(device, turned, 0.25, adds, from_map.view(), &mut to.view_mut())?;
            let wide = |x: f32| T::from_f64(f64::from(x));
            let value = |i: usize| {
                let (y, x) = (if turned.rows { h - 1 - i / w } else { i / w }, if turned.columns { w - 1 - i % w } else { i % w });
                let value = wide(0.25) * wide(from[y * w + x]);
                if adds { wide(before[i]) + value } else { value }
            };
            check(format!("{turned:?} of {h} x {w}"), &to.to_vec()?, (0..h * w).map(value).collect());
        }
    }
    for [c, stride] in MAPS {
        let layout = Layout { shape: [2, 3, 5, c], pixel_stride: stride, channel_offset: stride - c };
        let (from, before) = (noise(30 * c, 2), noise(30 * stride, 3));
        let (from_map, mut buffer) = (Tensor::on(device, layout.shape, convert::<T>(&from))?, list(&before)?);
        let all = buffer.view_mut();
        // SAFETY: the list is as long as the layout's buffer, and nobody else has a view of it.
        let mut to = unsafe { TensorMut::from_raw(all.pixel_ptr(0), layout) };
        add(device, from_map.view(), &mut to)?;
        let wide = |x: f32| T::from_f64(f64::from(x));
        let sum = |i: usize| match (i % stride).checked_sub(stride - c) {
            Some(ch) => wide(before[i]) + wide(from[i / stride * c + ch]),
            None => wide(before[i]),
        };
        check(format!("sum of {c} channels of {stride}"), &buffer.to_vec()?, (0..before.len()).map(sum).collect());
    }
    Ok(agreements)
}
