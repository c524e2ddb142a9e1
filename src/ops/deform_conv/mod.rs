//! Modulated deformable convolution, 3x3, stride 1, padding 1, one deformable group.
//!
//! ```text
//! out[n, y, x, o] = relu( bias[o] + sum over taps t = 3 ky + kx and channels c of
//!                         weight[o, c, ky, kx] * m_t(y, x) * S_c(y - 1 + ky + dy_t, x - 1 + kx + dx_t) )
//! ```
//! `offsets` has 27 channels: 2t is dy_t, 2t + 1 is dx_t, 18 + t is the logit of the mask m_t. S is the bilinear
//! sample: 0 unless -1 < py < h and -1 < px < w, and neighbours outside the image count 0.
//! The samples of a tile of pixels are multiplied at once: there is no column buffer of the whole image.
//! Source: Zhu, Hu, Lin, Dai 2019, Deformable ConvNets v2, arXiv:1811.11168, section 2.1; docs/network.md.

pub mod algorithm;
mod backward;
mod gpu;
mod gpu_tiles;

pub use algorithm::Algorithm;
pub use backward::{Gradients, Kept, backward, reference_backward, scratch_len};

use super::conv::{ConvShape, CpuPanels, Packed};
use super::{Agreement, Compute, Precision, Real, in_value_type, noise, proof, real::convert};
use crate::device::cpu::blend::{self, Blend, Samples};
use crate::device::cpu::tile_product::{self, Tile};
use crate::device::cpu::{InstructionSet, with_scratch};
use crate::device::{Device, Tensor, TensorMut, TensorRef};
use anyhow::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Taps of the 3x3 kernel.
const TAPS: usize = 9;

/// Channels of the offsets: dy and dx of nine taps, then nine mask logits.
pub const OFFSET_CHANNELS: usize = 27;

/// Extents of one deformable convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeformConvShape {
    /// Images.
    pub n: usize,
    /// Rows of input and output.
    pub h: usize,
    /// Columns of input and output.
    pub w: usize,
    /// Channels of the input.
    pub ci: usize,
    /// Channels of the output.
    pub co: usize,
}

impl DeformConvShape {
    /// Multiply-adds of the weights (the sampling not counted).
    pub fn multiply_adds(&self) -> u64 {
        self.plain().multiply_adds()
    }

    /// Channels of the input and of the output, and the 3 rows (and columns) of the kernel.
    pub fn extents(&self) -> [usize; 3] {
        self.plain().extents()
    }

    fn one_image(self) -> Self {
        DeformConvShape { n: 1, ..self }
    }

    fn plain(&self) -> ConvShape {
        ConvShape { n: self.n, h: self.h, w: self.w, ci: self.ci, co: self.co, kernel: 3, stride: 1 }
    }
}

/// Weights packed for an algorithm of a deformable convolution.
pub type Weights<T = f32> = Packed<Algorithm, T>;

/// Chooses what computes a deformable convolution best, and packs `weights` `[co][ci][3][3]` and `bias` `[co]` for it.
///
/// Errors: the device has not as much memory.
pub fn prepare(compute: &Compute, shape: DeformConvShape, weights: &[f32], bias: &[f32]) -> Result<Weights> {
    Weights::pack(&compute.device, algorithm::choose(compute, shape), shape.extents(), weights, bias)
}

/// Samples `inp` where `offsets` says and multiplies with the packed weights into `out`.
///
/// Shapes: `inp` (n, h, w, ci), `offsets` (n, h, w, 27) into `out` (n, h, w, co), f32.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn forward<T: Real>(
    device: &Device,
    shape: DeformConvShape,
    inp: TensorRef<T>,
    offsets: TensorRef<T>,
    weights: &Weights<T>,
    relu: bool,
    out: &mut TensorMut<T>,
) -> Result<()> {
    let DeformConvShape { n, h, w, ci, co } = shape;
    assert_eq!(inp.shape(), [n, h, w, ci], "input of {shape:?}");
    assert_eq!(offsets.shape(), [n, h, w, OFFSET_CHANNELS], "offsets of {shape:?}");
    assert_eq!(out.shape(), [n, h, w, co], "output of {shape:?}");
    assert_eq!(weights.extents(), [ci, co, 3], "weights of {shape:?}");
    match weights.algorithm() {
        Algorithm::CpuTiles(_, precision) => {
            forward_cpu(shape, inp.as_f32(), offsets.as_f32(), weights.cpu(), *precision, relu, &mut out.as_f32_mut());
        }
        Algorithm::GpuTiles(tile) => gpu::launch_forward(device.gpu(), tile, shape, inp, offsets, weights.gpu(), relu, out)?,
        Algorithm::Reference => {
            let (weights, bias) = weights.plain();
            out.assign(&reference(shape, &inp.to_vec(), &offsets.to_vec(), weights, bias, relu));
        }
    }
    Ok(())
}

/// A run of neighbouring output pixels of one row.
#[derive(Clone, Copy)]
struct Run {
    /// Index of its first pixel, counted through all images.
    first_pixel: usize,
    /// Index of pixel (0, 0) of its image.
    image_pixel: usize,
    /// Row and column of its first pixel.
    y: usize,
    x: usize,
    /// Number of pixels.
    len: usize,
}

/// e to the power of x to two units in the last place for x in -87..88 (clamped outside), in operations that every
/// instruction set vectorises. Source: Moshier, Cephes library, expf.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + 0.5).floor();
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p * r + c;
    }
    let value = p * r * r + r + 1.0;
    value * f32::from_bits(((integer(n) + 127) << 23) as u32)
}

/// Pixels that are located together: loops of a fixed length become vector instructions without a test in between.
const TOGETHER: usize = 16;
/// How far each of them lies to the right of the first.
const NEXT: [f32; TOGETHER] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// Fills `samples` for a run, and a few pixels after it, HELD to a tap. Positions outside the image, and those that are no number, sample
/// nothing.
///
/// Along an axis a pixel's weight is 1 less its distance, or 0 beyond a distance of 1. A sample's four pixels are moved into the image
/// together; so those that count stay among them, and those that do not are too far away.
#[inline(always)]
fn locate(run: Run, [h, w]: [usize; 2], offsets: TensorRef, samples: &mut Samples) {
    let (last_row, last_column) = (h.saturating_sub(2) as f32, w.saturating_sub(2) as f32);
    // A map of one row has no other.
    let (has_below, has_beside) = (if h > 1 { 1.0 } else { 0.0 }, if w > 1 { 1.0 } else { 0.0 });
    let (wide, first) = (w as i32, run.image_pixel as u32);
    // The offsets of a pixel are neighbours; here those of neighbouring pixels become neighbours.
    let mut planes = [[0.0; HELD]; OFFSET_CHANNELS];
    for p in 0..run.len.min(HELD) {
        let Some(of_pixel) = offsets.pixel(run.first_pixel + p).first_chunk::<OFFSET_CHANNELS>() else { return };
        for (plane, &offset) in planes.iter_mut().zip(of_pixel) {
            plane[p] = offset;
        }
    }
    let Samples { corners, weights: [by_a, by_b, by_c, by_d] } = samples;
    for tap in 0..TAPS {
        let row = run.y as f32 - 1.0 + (tap / 3) as f32;
        let column = run.x as f32 - 1.0 + (tap % 3) as f32;
        for at in (0..run.len).step_by(TOGETHER) {
            let (py, px) = (part(&planes[2 * tap], at), part(&planes[2 * tap + 1], at));
            let logit = part(&planes[2 * TAPS + tap], at);
            let to = tap * HELD + at;
            let corner = part_mut(corners, to);
            let (by_a, by_b, by_c, by_d) = (part_mut(by_a, to), part_mut(by_b, to), part_mut(by_c, to), part_mut(by_d, to));
            let column = column + at as f32;
            for p in 0..TOGETHER {
                let (y, x) = (row + py[p], (column + NEXT[p]) + px[p]);
                let mask = 1.0 / (1.0 + exp(-logit[p]));
                let (top, left) = (within(y.floor(), last_row), within(x.floor(), last_column));
                let (upper, lower) = (nearness(y - top) * mask, nearness(y - (top + 1.0)) * (mask * has_below));
                let (near, far) = (nearness(x - left), nearness(x - (left + 1.0)) * has_beside);
                by_a[p] = upper * near;
                by_b[p] = upper * far;
                by_c[p] = lower * near;
                by_d[p] = lower * far;
                corner[p] = first + (integer(top) * wide + integer(left)) as u32;
            }
        }
    }
}

/// A number brought between 0 and a largest one: 0 if it is no number.
#[inline(always)]
fn within(value: f32, largest: f32) -> f32 {
    let value = if value > 0.0 { value } else { 0.0 };
    if value < largest { value } else { largest }
}

/// 1 less a distance, or 0 beyond a distance of 1, and where it is no number.
#[inline(always)]
fn nearness(distance: f32) -> f32 {
    let near = 1.0 - distance.abs();
    if near > 0.0 { near } else { 0.0 }
}

/// A number that is whole, and less than 2^22 in size, as an integer. The usual conversion tests for numbers that no integer can hold.
#[inline(always)]
fn integer(whole: f32) -> i32 {
    const SHIFT: f32 = 1.5 * (1 << 23) as f32;
    (whole + SHIFT).to_bits() as i32 - SHIFT.to_bits() as i32
}

#[inline(always)]
fn part(values: &[f32; HELD], at: usize) -> [f32; TOGETHER] {
    std::array::from_fn(|p| values[at + p])
}

#[inline(always)]
fn part_mut<T>(values: &mut [T], at: usize) -> &mut [T; TOGETHER] {
    let part = values[at..].first_chunk_mut();
    part.unwrap_or_else(|| unreachable!("a run is cut into whole parts"))
}

/// Most pixels of a task: nine taps of 64 channels for each make 126 KiB.
const TASK_PIXELS: usize = 56;
/// Pixels that there is room for.
const HELD: usize = TASK_PIXELS.next_multiple_of(TOGETHER);
const _: () = assert!(TAPS * HELD <= blend::MOST_SAMPLES);

fn forward_cpu(
    shape: DeformConvShape,
    inp: TensorRef,
    offsets: TensorRef,
    weights: &CpuPanels,
    precision: Precision,
    relu: bool,
    out: &mut TensorMut,
) {
    let DeformConvShape { n, h, w, .. } = shape;
    assert!(n * h * w <= u32::MAX as usize && h * w <= i32::MAX as usize, "pixel indices of {shape:?} need 32 bits");
    assert!(h.max(w) < 1 << 22, "positions in {shape:?} need more than f32 holds");
    let out: &TensorMut = out;
    let set = weights.set();
    // Runs of tiles within a row, dealt to tasks; the cut changes no result.
    let mut runs: Vec<Vec<usize>> = Vec::new();
    let mut x = 0;
    for tile in tile_product::cut(w, tile_product::sizes(set).max_rows) {
        match runs.last_mut() {
            Some(run) if x + tile - run[0] <= TASK_PIXELS => run.push(x + tile),
            _ => runs.push(vec![x, x + tile]),
        }
        x += tile;
    }
    (0..n * h * runs.len()).into_par_iter().for_each_init(Samples::new, |samples, task| {
        run_task(shape, task / runs.len(), &runs[task % runs.len()], inp, offsets, weights, precision, relu, samples, out);
    });
}

/// One run of pixels of row `row` (counted through all images).
fn run_task(
    shape: DeformConvShape,
    row: usize,
    columns: &[usize],
    inp: TensorRef,
    offsets: TensorRef,
    weights: &CpuPanels,
    precision: Precision,
    relu: bool,
    samples: &mut Samples,
    out: &TensorMut,
) {
    let DeformConvShape { h, w, co, .. } = shape;
    let (image, y) = (row / h, row % h);
    let first_x = columns[0];
    let pixels = columns[columns.len() - 1] - first_x;
    let first_pixel = row * w + first_x;
    let run = Run { first_pixel, image_pixel: image * h * w, y, x: first_x, len: pixels };
    let (extent, to) = ([h, w], &mut *samples);
    crate::dispatch!(weights.set(), locate(run: Run, extent: [usize; 2], offsets: TensorRef, to: &mut Samples));
    let stride = weights.tile_stride();
    let sampled_values = TAPS * pixels * stride;
    let partial = (0..weights.count()).find(|&panel| weights.lanes(panel).0 + weights.lanes(panel).1 > co);
    let partial_lanes = partial.map_or(0, |panel| weights.lanes(panel).1);
    let taps: [usize; TAPS] = std::array::from_fn(|tap| tap * pixels * stride);
    with_scratch(sampled_values + pixels * partial_lanes, |scratch| {
        let (sampled, partial_sums) = scratch.split_at_mut(sampled_values);
        let chunks: Vec<(usize, usize)> = weights.chunks().collect();
        for (i, &(first, length)) in chunks.iter().enumerate() {
            gather(weights.set(), samples, pixels, inp, first..first + length, stride, sampled);
            if precision != Precision::F32 {
                sampled.iter_mut().for_each(|value| *value = precision.rounded(*value));
            }
            for panel in 0..weights.count() {
                let (start, lanes) = weights.lanes(panel);
                let is_partial = partial == Some(panel);
                for tile in columns.windows(2) {
                    let x = tile[0] - first_x;
                    let vectors = lanes / tile_product::sizes(weights.set()).lanes;
                    let product = tile_product::find(weights.set(), tile[1] - tile[0], vectors, stride);
                    let call = Tile {
                        inp: sampled[x * stride..].as_ptr(),
                        taps: taps.as_ptr(),
                        tap_count: TAPS,
                        channels: length,
                        weights: weights.block(first, length, panel).as_ptr(),
                        out: if is_partial {
                            partial_sums[x * lanes..].as_mut_ptr()
                        } else {
                            out.pixel_ptr(first_pixel + x).wrapping_add(start)
                        },
                        out_stride: if is_partial { lanes } else { out.pixel_stride() },
                        bias: if i == 0 { weights.bias(panel).as_ptr() } else { std::ptr::null() },
                        residual: std::ptr::null(),
                        residual_stride: 0,
                        relu: relu && i + 1 == chunks.len(),
                    };
                    // SAFETY: `sampled` holds nine taps of every pixel of the run; the weights were packed with these
                    // chunks and lanes; full panels lie within the output's channels, partial ones in their buffer;
                    // each pixel belongs to one task.
                    unsafe { product(&call) };
                }
            }
        }
        if let Some(panel) = partial {
            let (start, lanes) = weights.lanes(panel);
            for p in 0..pixels {
                // SAFETY: this task alone writes its pixels.
                let to = unsafe { out.pixel_mut(first_pixel + p) };
                to[start..].copy_from_slice(&partial_sums[p * lanes..][..co - start]);
            }
        }
    });
}

/// Samples some channels: one row of `sampled`, `stride` values apart, for each tap and pixel.
fn gather(
    set: InstructionSet,
    samples: &Samples,
    pixels: usize,
    inp: TensorRef,
    channels: Range<usize>,
    stride: usize,
    sampled: &mut [f32],
) {
    let [_, h, w, _] = inp.shape();
    let beside = if w > 1 { 1 } else { 0 };
    let below = if h > 1 { w } else { 0 };
    if blend::suits(set, channels.len()) {
        let call = Blend {
            inp: inp.pixel_ptr(0).wrapping_add(channels.start),
            pixel_stride: inp.pixel_stride(),
            beside: beside * inp.pixel_stride(),
            below: below * inp.pixel_stride(),
            samples,
            count: pixels,
            sets: TAPS,
            held: HELD,
            channels: channels.len(),
            out: sampled.as_mut_ptr(),
            out_stride: stride,
        };
        // SAFETY: `locate` names pixels of the image that have neighbours in it; `sampled` has a row of `stride` values for each tap and
        // pixel of the run, and no chunk has more channels.
        unsafe { blend::blend(set, &call) };
        return;
    }
    for (tap, sampled) in sampled.chunks_exact_mut(pixels * stride).take(TAPS).enumerate() {
        for (p, to) in sampled.chunks_exact_mut(stride).enumerate() {
            let corner = samples.corners[tap * HELD + p] as usize;
            let [wa, wb, wc, wd] = samples.weights.each_ref().map(|weights| weights[tap * HELD + p]);
            let [a, b, c, d] =
                [corner, corner + beside, corner + below, corner + below + beside].map(|pixel| &inp.pixel(pixel)[channels.clone()]);
            for ((((to, &a), &b), &c), &d) in to.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *to = a * wa + b * wb + c * wc + d * wd;
            }
        }
    }
}

/// The deformable convolution by its formula. `inp` (n, h, w, ci), `offsets` (n, h, w, 27) with mask logits,
/// `weights` `[co][ci][3][3]`, `bias` `[co]`; returns (n, h, w, co).
pub fn reference<T: Real>(shape: DeformConvShape, inp: &[T], offsets: &[T], weights: &[T], bias: &[T], relu: bool) -> Vec<T> {
    let DeformConvShape { n, h, w, ci, co } = shape;
    let one = T::from_f64(1.0);
    let zero = T::default();
    let mut turned = vec![zero; weights.len()]; // [tap][c][o]
    for o in 0..co {
        for c in 0..ci {
            for tap in 0..TAPS {
                turned[(tap * ci + c) * co + o] = weights[(o * ci + c) * TAPS + tap];
            }
        }
    }
    let mut out = vec![zero; n * h * w * co];
    out.par_chunks_mut(co).enumerate().for_each(|(pixel, sums)| {
        let (image, y, x) = (pixel / (h * w), pixel / w % h, pixel % w);
        sums.copy_from_slice(bias);
        let q = &offsets[pixel * OFFSET_CHANNELS..][..OFFSET_CHANNELS];
        for tap in 0..TAPS {
            let mask = one / (one + (zero - q[18 + tap]).exp());
            let py = T::from_f64(y as f64 - 1.0 + (tap / 3) as f64) + q[2 * tap];
            let px = T::from_f64(x as f64 - 1.0 + (tap % 3) as f64) + q[2 * tap + 1];
            let inside = py > T::from_f64(-1.0) && px > T::from_f64(-1.0) && py < T::from_f64(h as f64) && px < T::from_f64(w as f64);
            if !inside {
                continue;
            }
            let (fy, fx) = (py.floor(), px.floor());
            let (ly, lx) = (py - fy, px - fx);
            let (y0, x0) = (fy.to_f64() as isize, fx.to_f64() as isize);
            for c in 0..ci {
                let at = |y: isize, x: isize| {
                    if y < 0 || x < 0 || y >= h as isize || x >= w as isize {
                        zero
                    } else {
                        inp[((image * h + y as usize) * w + x as usize) * ci + c]
                    }
                };
                let value = (one - ly) * (one - lx) * at(y0, x0)
                    + (one - ly) * lx * at(y0, x0 + 1)
                    + ly * (one - lx) * at(y0 + 1, x0)
                    + ly * lx * at(y0 + 1, x0 + 1);
                for (sum, &weight) in sums.iter_mut().zip(&turned[(tap * ci + c) * co..][..co]) {
                    *sum += mask * value * weight;
                }
            }
        }
        if relu {
            sums.iter_mut().filter(|sum| **sum < zero).for_each(|sum| *sum = zero);
        }
    });
    out
}

/// Shapes, and the size of the offsets in pixels: 1x1, odd, one past a tile, partial panels, several chunks, narrow
/// tiles, a real layer.
pub const CASES: [(DeformConvShape, f32); 10] = [
    (DeformConvShape { n: 1, h: 1, w: 1, ci: 1, co: 1 }, 0.5),
    (DeformConvShape { n: 1, h: 7, w: 9, ci: 3, co: 5 }, 1.0),
    (DeformConvShape { n: 1, h: 16, w: 12, ci: 8, co: 6 }, 3.0),
    (DeformConvShape { n: 2, h: 5, w: 57, ci: 17, co: 33 }, 2.0),
    (DeformConvShape { n: 1, h: 6, w: 8, ci: 3, co: 4 }, 40.0),
    (DeformConvShape { n: 1, h: 6, w: 6, ci: 70, co: 16 }, 0.0),
    (DeformConvShape { n: 1, h: 5, w: 13, ci: 24, co: 16 }, 1.5),
    (DeformConvShape { n: 1, h: 12, w: 13, ci: 32, co: 32 }, 2.0),
    (DeformConvShape { n: 1, h: 9, w: 15, ci: 130, co: 64 }, 1.0),
    (DeformConvShape { n: 1, h: 32, w: 32, ci: 128, co: 64 }, 1.0),
];

/// Runs all cases on a device and compares them with the f64 reference; the output is poisoned with NaN first.
///
/// Errors: as `forward`.
pub fn compare(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_as)
}

fn compare_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    proof::in_each_precision(device, |compute| compare_by::<T>(compute, |algorithm| algorithm.precision() == compute.precision))
}

/// Runs all cases by the algorithms that are wanted.
fn compare_by<T: Real>(compute: &Compute, wanted: impl Fn(&Algorithm) -> bool) -> Result<Vec<Agreement>> {
    let device = &compute.device;
    let mut agreements = Vec::new();
    for (i, (shape, reach)) in CASES.into_iter().enumerate() {
        if device.leaves_out(shape.multiply_adds()) {
            continue;
        }
        let DeformConvShape { n, h, w, ci, co } = shape;
        let seed = i as u64;
        let inp = compute.precision.all_rounded(&noise(n * h * w * ci, seed));
        let weights = compute.precision.all_rounded(&noise(co * ci * TAPS, seed + 100));
        let bias = noise(co, seed + 200);
        let mut offsets = noise(n * h * w * OFFSET_CHANNELS, seed + 300);
        // Positions in sixteenths of a pixel, exact in f32, so that no rounding decides between two pixels.
        offsets.chunks_exact_mut(OFFSET_CHANNELS).for_each(|q| q[..18].iter_mut().for_each(|v| *v = (*v * reach * 16.0).round() / 16.0));
        let relu = i % 2 == 0;
        let exact = reference::<f64>(shape, &convert(&inp), &convert(&offsets), &convert(&weights), &convert(&bias), relu);
        let plain = reference::<f32>(shape, &inp, &offsets, &weights, &bias, relu);
        let most = most_summed(compute.precision, shape, &inp, &offsets, &weights);
        let inp = Tensor::on(device, [n, h, w, ci], convert::<T>(&inp))?;
        let offsets = Tensor::on(device, [n, h, w, OFFSET_CHANNELS], convert::<T>(&offsets))?;
        for algorithm in algorithm::all(compute, shape).into_iter().filter(&wanted) {
            let case = format!("{shape:?} {algorithm}");
            let packed = Weights::pack(device, algorithm, [ci, co, 3], &weights, &bias)?;
            let mut out = Tensor::on(device, [n, h, w, co], vec![T::from_f64(f64::NAN); exact.len()])?;
            forward(device, shape, inp.view(), offsets.view(), &packed, relu, &mut out.view_mut())?;
            agreements.push(Agreement::of(case, &out.to_vec()?, &plain, &exact).within::<T>(most));
        }
    }
    Ok(agreements)
}

/// What sums of samples may be off that are rounded before they are multiplied: half a unit in the last place of each sample, and one of
/// an f32 for each summand, of the largest sum of absolute values. None in f32, where the naive way says what is good.
fn most_summed(precision: Precision, shape: DeformConvShape, inp: &[f32], offsets: &[f32], weights: &[f32]) -> Option<f64> {
    const HALF_A_UNIT: f64 = 1.0 / 2048.0; // of the ten bits that tf32 and fp16 keep
    let absolute = |values: &[f32]| -> Vec<f64> { values.iter().map(|value| f64::from(value.abs())).collect() };
    (precision != Precision::F32).then(|| {
        let bias = vec![1.0; shape.co];
        let sums = reference::<f64>(shape, &absolute(inp), &convert(offsets), &absolute(weights), &bias, false);
        (HALF_A_UNIT + (TAPS * shape.ci) as f64 * f64::from(f32::EPSILON)) * sums.into_iter().fold(0.0, f64::max)
    })
}

/// Offsets and mask logits for a case. The offsets lie on sixteenths of a pixel, so that no rounding decides between two
/// pixels; with `between` they lie in the middle of two sixteenths, away from the kinks.
fn case_offsets(shape: DeformConvShape, reach: f32, seed: u64, between: bool) -> Vec<f32> {
    let mut offsets = noise(shape.n * shape.h * shape.w * OFFSET_CHANNELS, seed);
    let shift = if between { 1.0 / 32.0 } else { 0.0 };
    offsets.chunks_exact_mut(OFFSET_CHANNELS).for_each(|q| {
        q[..2 * TAPS].iter_mut().for_each(|v| *v = (*v * reach * 16.0).round() / 16.0 + shift);
    });
    offsets
}

/// Runs all cases backward on a device and compares the gradients, added to what is there, with the f64 reference.
///
/// Errors: as `backward`.
pub fn compare_backward(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_backward_as)
}

fn compare_backward_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, (shape, reach)) in CASES.into_iter().enumerate() {
        if device.leaves_out(shape.multiply_adds()) {
            continue;
        }
        let DeformConvShape { n, h, w, ci, co } = shape;
        let seed = i as u64 + 1000;
        let inp = noise(n * h * w * ci, seed);
        let offsets = case_offsets(shape, reach, seed + 300, false);
        let weights = noise(co * ci * TAPS, seed + 100);
        let dout = noise(n * h * w * co, seed + 200);
        let exact = reference_backward::<f64>(shape, &convert(&inp), &convert(&offsets), &convert(&weights), &convert(&dout));
        let exact = [exact.0, exact.1, exact.2, exact.3];
        let plain = reference_backward::<f32>(shape, &inp, &offsets, &weights, &dout);
        let plain = [plain.0, plain.1, plain.2, plain.3];
        let map = |c: usize| [n, h, w, c];
        let shapes = [map(ci), map(OFFSET_CHANNELS), proof::list(weights.len()), proof::list(co)];
        let inp = Tensor::on(device, shapes[0], convert::<T>(&inp))?;
        let offsets = Tensor::on(device, shapes[1], convert::<T>(&offsets))?;
        let weights = Tensor::on(device, shapes[2], convert::<T>(&weights))?;
        let dout = Tensor::on(device, map(co), convert::<T>(&dout))?;
        for algorithm in algorithm::all(&device.into(), shape) {
            for (which, what) in ["dinp", "doffsets", "dweights", "dbias"].into_iter().enumerate() {
                let name = format!("{what} of {shape:?}, reach {reach}, {algorithm}");
                agreements.push(proof::agree(device, name, shapes[which], &plain[which], &exact[which], |found| {
                    let zeros = |i: usize| Tensor::on(device, shapes[i], vec![T::default(); exact[i].len()]);
                    let mut others = [zeros(0)?, zeros(1)?, zeros(2)?, zeros(3)?];
                    let mut views = others.each_mut().map(Tensor::view_mut);
                    views[which] = found.reborrow();
                    let [dinp, doffsets, dweights, dbias] = &mut views;
                    let gradients = Gradients { dinp, doffsets, dweights, dbias };
                    let mut scratch = Tensor::flat_on(device, vec![T::from_f64(f64::NAN); scratch_len::<T>(&algorithm, shape)])?;
                    let kept = Kept { inp: inp.view(), offsets: offsets.view(), weights: weights.view() };
                    backward(device, shape, &algorithm, kept, dout.view(), gradients, &mut scratch.view_mut())
                })?);
            }
        }
    }
    Ok(agreements)
}

/// The gradients of the f64 reference against finite differences, away from the kinks at whole positions.
pub fn differences() -> Vec<Agreement> {
    let mut agreements = Vec::new();
    for (i, (shape, reach)) in CASES[..6].iter().copied().enumerate() {
        let DeformConvShape { n, h, w, ci, co } = shape;
        let random = |len: usize, k: u64| convert::<f64>(&noise(len, i as u64 + 2000 + 100 * k));
        let offsets = convert::<f64>(&case_offsets(shape, reach, i as u64, true));
        let (inp, weights, bias) = (random(n * h * w * ci, 0), random(co * ci * TAPS, 1), random(co, 2));
        let dout = random(n * h * w * co, 3);
        let (dinp, doffsets, dweights, dbias) = reference_backward(shape, &inp, &offsets, &weights, &dout);
        let arguments = [(inp, dinp), (offsets, doffsets), (weights, dweights), (bias, dbias)];
        agreements.push(proof::differences(format!("{shape:?}"), arguments, &dout, |[inp, offsets, weights, bias]| {
            reference(shape, inp, offsets, weights, bias, false)
        }));
    }
    agreements
}
