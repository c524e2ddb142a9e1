//! Gradients of the deformable convolution.
//!
//! ```text
//! g[c, t] = sum over o of weight[o, c, t] * dout[y, x, o]           S = sample of channel c at tap t's position
//! dinp at the four neighbours += neighbour's bilinear weight * m_t * g
//! dm_t = sum over c of g S                                          dlogit = dm_t m_t (1 - m_t)
//! d(dy_t) = m_t sum over c of g [ (1 - lx) (v10 - v00) + lx (v11 - v01) ]
//! d(dx_t) = m_t sum over c of g [ (1 - ly) (v01 - v00) + ly (v11 - v10) ]
//! dweight[o, c, t] += dout[y, x, o] * m_t S                         dbias[o] += dout[y, x, o]
//! ```
//! with v the four neighbours' values (0 outside), ly and lx the fractions of the position. All are 0 when the position
//! is not strictly inside (-1, h) x (-1, w); at a whole number the slope is the one towards larger positions.
//!
//! On the CPU a task is a few input channels of one image. It alone adds to those channels of `dinp`, pixel by pixel, so
//! that wherever the offsets point no two tasks meet, and the number of threads changes no bit.
//! Source: Zhu, Hu, Lin, Dai 2019, arXiv:1811.11168, section 2.1, differentiated; docs/network.md.

use super::algorithm::Algorithm;
use super::{DeformConvShape, OFFSET_CHANNELS, TAPS, exp, gpu, integer};
use crate::device::cpu::outer_product::{self, Outer};
use crate::device::cpu::tile_product::{self, Tile};
use crate::device::cpu::{InstructionSet, with_scratch};
use crate::device::{Device, TensorMut, TensorRef};
use crate::ops::Real;
use crate::ops::conv::{CpuPanels, add_pixel_sums};
use crate::ops::images;
use anyhow::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Input channels of a task.
const GROUP: usize = 16;
/// Pixels that a task works on at once: nine taps of 16 channels for each make 32 KiB.
const RUN: usize = 56;

/// Output channels whose sums are collected together: one cache line.
const COLLECTED: usize = 16;

/// What the backward pass reads of the forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a, T = f32> {
    /// The input, (n, h, w, ci).
    pub inp: TensorRef<'a, T>,
    /// Offsets and mask logits, (n, h, w, 27).
    pub offsets: TensorRef<'a, T>,
    /// The weights, `[co][ci][3][3]`, flat.
    pub weights: TensorRef<'a, T>,
}

/// Gradients that are added to.
#[derive(Debug)]
pub struct Gradients<'a, 'b, T = f32> {
    /// Of the input, (n, h, w, ci).
    pub dinp: &'a mut TensorMut<'b, T>,
    /// Of the offsets and mask logits, (n, h, w, 27).
    pub doffsets: &'a mut TensorMut<'b, T>,
    /// Of the weights, `[co][ci][3][3]`.
    pub dweights: &'a mut TensorMut<'b, T>,
    /// Of the bias, `[co]`.
    pub dbias: &'a mut TensorMut<'b, T>,
}

/// Values that `backward` needs to work with.
pub fn scratch_len<T: Real>(algorithm: &Algorithm, shape: DeformConvShape) -> usize {
    match algorithm {
        Algorithm::Reference => 0,
        Algorithm::CpuTiles(set, _) => cpu_scratch_len(shape, *set),
        Algorithm::GpuTiles(_) => gpu::scratch_len::<T>(shape.one_image()) + images::scratch_len(shape.n, gradient_lengths(shape)),
    }
}

/// Weights, and values of the bias.
fn gradient_lengths(shape: DeformConvShape) -> [usize; 2] {
    [shape.co * shape.ci * TAPS, shape.co]
}

fn cpu_scratch_len(shape: DeformConvShape, set: InstructionSet) -> usize {
    shape.n * shape.ci.div_ceil(GROUP) * (offset_values(shape) + weight_values(shape, set))
}

/// Partial gradients of one task: of the offsets, and of the weights, `[tap][c][lane]`.
fn offset_values(shape: DeformConvShape) -> usize {
    shape.h * shape.w * OFFSET_CHANNELS
}

fn weight_values(shape: DeformConvShape, set: InstructionSet) -> usize {
    TAPS * GROUP * shape.co.next_multiple_of(tile_product::sizes(set).lanes)
}

/// Adds the gradients of everything the op reads.
///
/// Shapes: `dout` (n, h, w, co), f32; `scratch` at least `scratch_len`.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn backward<T: Real>(
    device: &Device,
    shape: DeformConvShape,
    algorithm: &Algorithm,
    kept: Kept<T>,
    dout: TensorRef<T>,
    gradients: Gradients<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let DeformConvShape { n, h, w, ci, co } = shape;
    let Kept { inp, offsets, weights } = kept;
    let Gradients { dinp, doffsets, dweights, dbias } = &gradients;
    assert!(inp.shape() == [n, h, w, ci] && dinp.shape() == inp.shape() && dout.shape() == [n, h, w, co], "maps of {shape:?}");
    assert!(offsets.shape() == [n, h, w, OFFSET_CHANNELS] && doffsets.shape() == offsets.shape(), "offsets of {shape:?}");
    assert!(weights.len() == co * ci * TAPS && dweights.len() == weights.len() && dbias.len() == co, "weights of {shape:?}");
    match algorithm {
        Algorithm::CpuTiles(set, _) => {
            let Gradients { dinp, doffsets, dweights, dbias } = gradients;
            let (dinp, doffsets) = (&mut dinp.as_f32_mut(), &mut doffsets.as_f32_mut());
            let (dweights, dbias) = (&mut dweights.as_f32_mut(), &mut dbias.as_f32_mut());
            let gradients = Gradients { dinp, doffsets, dweights, dbias };
            let kept = Kept { inp: inp.as_f32(), offsets: offsets.as_f32(), weights: weights.as_f32() };
            backward_cpu(shape, kept, dout.as_f32(), gradients, scratch.as_f32_mut().as_mut_slice(), *set);
        }
        Algorithm::GpuTiles(tile) => {
            let Gradients { dinp, doffsets, dweights, dbias } = gradients;
            images::add(device, n, [dweights.reborrow(), dbias.reborrow()], scratch, |image, [dweights, dbias], scratch| {
                let (dinp, doffsets) = (&mut dinp.image_mut(image), &mut doffsets.image_mut(image));
                let (dweights, dbias) = (&mut dweights.reborrow(), &mut dbias.reborrow());
                let kept = Kept { inp: inp.image(image), offsets: offsets.image(image), weights };
                let gradients = Gradients { dinp, doffsets, dweights, dbias };
                gpu::launch_backward(device.gpu(), tile, shape.one_image(), kept, dout.image(image), gradients, scratch)
            })?;
        }
        Algorithm::Reference => {
            let found = reference_backward(shape, &inp.to_vec(), &offsets.to_vec(), weights.as_slice(), &dout.to_vec());
            gradients.dinp.add(&found.0);
            gradients.doffsets.add(&found.1);
            gradients.dweights.add(&found.2);
            gradients.dbias.add(&found.3);
        }
    }
    Ok(())
}

fn backward_cpu(
    shape: DeformConvShape,
    Kept { inp, offsets, weights }: Kept,
    dout: TensorRef,
    gradients: Gradients,
    scratch: &mut [f32],
    set: InstructionSet,
) {
    let DeformConvShape { n, h, w, ci, co } = shape;
    let weights = weights.as_slice();
    let Gradients { dinp, doffsets, dweights, dbias } = gradients;
    let (dweights, dbias) = (dweights.as_mut_slice(), dbias.as_mut_slice());
    assert!(n * h * w <= u32::MAX as usize && h * w <= i32::MAX as usize, "pixel indices of {shape:?} need 32 bits");
    assert!(h.max(w) < 1 << 22, "positions in {shape:?} need more than f32 holds");
    let groups = ci.div_ceil(GROUP);
    let panels: Vec<CpuPanels> = (0..groups)
        .map(|group| {
            let (first, len) = (group * GROUP, GROUP.min(ci - group * GROUP));
            let weight = |lane: usize, o: usize, _: usize| weights[(o * ci + first + lane % len) * TAPS + lane / len];
            CpuPanels::pack_by(co, TAPS * len, 1, weight, &[], set)
        })
        .collect();
    let each = offset_values(shape) + weight_values(shape, set);
    let partial = &mut scratch[..n * groups * each];
    let to: &TensorMut = dinp;
    partial.par_chunks_mut(each).enumerate().for_each(|(task, partial)| {
        let (image, group) = (task / groups, task % groups);
        let (partial_offsets, partial_weights) = partial.split_at_mut(offset_values(shape));
        partial_weights.fill(0.0);
        let task = Task { shape, image, first: group * GROUP, len: GROUP.min(ci - group * GROUP), set };
        task.run(inp, offsets, &panels[group], dout, to, partial_offsets, partial_weights);
    });
    // The parts of all groups of channels are added in their order; the weights' parts of all images as `ops/images.rs` says.
    let partial: &[f32] = partial;
    let to: &TensorMut = doffsets;
    (0..n * h).into_par_iter().for_each(|row| {
        for pixel in row * w..(row + 1) * w {
            // SAFETY: each row belongs to one task.
            let to = unsafe { to.pixel_mut(pixel) };
            let (image, within) = (pixel / (h * w), pixel % (h * w));
            for group in 0..groups {
                let from = &partial[(image * groups + group) * each + within * OFFSET_CHANNELS..][..OFFSET_CHANNELS];
                to.iter_mut().zip(from).for_each(|(to, &from)| *to += from);
            }
        }
    });
    let lanes = weight_values(shape, set) / (TAPS * GROUP);
    dweights.par_chunks_mut(COLLECTED * ci * TAPS).enumerate().for_each(|(task, dweights)| {
        for (c, tap) in (0..ci).flat_map(|c| (0..TAPS).map(move |tap| (c, tap))) {
            let within = offset_values(shape) + (tap * GROUP + c % GROUP) * lanes + task * COLLECTED;
            let of_image = |image: usize| -> [f32; COLLECTED] {
                let sums = &partial[(image * groups + c / GROUP) * each + within..];
                std::array::from_fn(|i| sums.get(i).copied().unwrap_or_default())
            };
            let total = images::of_parts(0..n, &of_image, &|a, b| std::array::from_fn(|i| a[i] + b[i]));
            for (dweights, &total) in dweights.chunks_exact_mut(ci * TAPS).zip(&total) {
                dweights[c * TAPS + tap] += total;
            }
        }
    });
    let of_image = |image: usize| {
        let mut sums = vec![0.0; co];
        add_pixel_sums(dout.image(image), &mut sums);
        sums
    };
    let add = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(&b).map(|(a, b)| a + b).collect();
    dbias.iter_mut().zip(images::of_parts(0..n, &of_image, &add)).for_each(|(to, sum)| *to += sum);
}

/// Where the taps of a run of pixels are sampled: `[tap][pixel]` of everything, so that vector instructions may find it.
struct Samples {
    /// Pixel indices of the four neighbours: of the nearest pixel inside where one lies outside of the image.
    pixels: [[[u32; RUN]; TAPS]; 4],
    /// 1 for neighbours in the image, 0 for others.
    inside: [[[f32; RUN]; TAPS]; 4],
    /// Fractional parts of the position's row and column.
    fraction: [[[f32; RUN]; TAPS]; 2],
    mask: [[f32; RUN]; TAPS],
    /// 0 if the position is not strictly inside (-1, h) x (-1, w), else 1.
    counts: [[f32; RUN]; TAPS],
}

impl Samples {
    fn new() -> Box<Samples> {
        Box::new(Samples {
            pixels: [[[0; RUN]; TAPS]; 4],
            inside: [[[0.0; RUN]; TAPS]; 4],
            fraction: [[[0.0; RUN]; TAPS]; 2],
            mask: [[0.0; RUN]; TAPS],
            counts: [[0.0; RUN]; TAPS],
        })
    }
}

/// A few input channels of one image.
#[derive(Clone, Copy)]
struct Task {
    shape: DeformConvShape,
    image: usize,
    /// First channel, and how many.
    first: usize,
    len: usize,
    set: InstructionSet,
}

impl Task {
    fn run(
        &self,
        inp: TensorRef,
        offsets: TensorRef,
        panels: &CpuPanels,
        dout: TensorRef,
        dinp: &TensorMut,
        partial_offsets: &mut [f32],
        partial_weights: &mut [f32],
    ) {
        let Task { shape: DeformConvShape { h, w, co, .. }, image, len, set, .. } = *self;
        let sizes = tile_product::sizes(set);
        let out_lanes = co.next_multiple_of(sizes.lanes);
        let g_lanes = (TAPS * len).next_multiple_of(sizes.lanes);
        let stride = panels.tile_stride();
        let mut samples = Samples::new();
        with_scratch(RUN * (stride + out_lanes + g_lanes + TAPS * GROUP), |scratch| {
            let (tile, rest) = scratch.split_at_mut(RUN * stride);
            let (other, rest) = rest.split_at_mut(RUN * out_lanes);
            let (g, sampled) = rest.split_at_mut(RUN * g_lanes);
            for start in (0..h * w).step_by(RUN) {
                let pixels = RUN.min(h * w - start);
                let first_pixel = image * h * w + start;
                let (task, run, to) = (*self, start..start + pixels, &mut *samples);
                crate::dispatch!(set, locate(task: Task, run: Range<usize>, offsets: TensorRef, to: &mut Samples));
                for (p, to) in other.chunks_exact_mut(out_lanes).take(pixels).enumerate() {
                    to[..co].copy_from_slice(dout.pixel(first_pixel + p));
                    to[co..].fill(0.0);
                }
                // g, pixel by pixel: [tap][c].
                for (i, (channel, length)) in panels.chunks().enumerate() {
                    for (p, to) in tile.chunks_exact_mut(stride).take(pixels).enumerate() {
                        to[..length].copy_from_slice(&other[p * out_lanes + channel..][..length]);
                    }
                    for panel in 0..panels.count() {
                        let (lane, lanes) = panels.lanes(panel);
                        let mut p = 0;
                        for rows in tile_product::cut(pixels, sizes.max_rows) {
                            let call = Tile {
                                inp: tile[p * stride..].as_ptr(),
                                taps: [0].as_ptr(),
                                tap_count: 1,
                                channels: length,
                                weights: panels.block(channel, length, panel).as_ptr(),
                                out: g[p * g_lanes + lane..].as_mut_ptr(),
                                out_stride: g_lanes,
                                bias: if i == 0 { panels.bias(panel).as_ptr() } else { std::ptr::null() },
                                residual: std::ptr::null(),
                                residual_stride: 0,
                                relu: false,
                            };
                            // SAFETY: the tile and `g` hold all pixels of the run with the strides given.
                            unsafe { tile_product::find(set, rows, lanes / sizes.lanes, stride)(&call) };
                            p += rows;
                        }
                    }
                }
                let samples = &*samples;
                let to = &mut partial_offsets[start * OFFSET_CHANNELS..][..pixels * OFFSET_CHANNELS];
                crate::dispatch!(
                    set,
                    spread(task: Task, samples: &Samples, g: &[f32], g_lanes: usize, inp: TensorRef, dinp: &TensorMut, to: &mut [f32], sampled: &mut [f32])
                );
                // The weights' part: samples times `dout`.
                for tap in 0..TAPS {
                    let mut c = 0;
                    for rows in tile_product::cut(GROUP, sizes.max_rows) {
                        let mut lane = 0;
                        while lane < out_lanes {
                            let vectors = if out_lanes - lane > sizes.lanes { 2 } else { 1 };
                            let call = Outer {
                                inp: sampled[tap * GROUP + c..].as_ptr(),
                                inp_step: TAPS * GROUP,
                                inp_row: 0,
                                other: other[lane..].as_ptr(),
                                other_step: out_lanes,
                                other_row: 0,
                                rows: 1,
                                pixels,
                                out: partial_weights[(tap * GROUP + c) * out_lanes + lane..].as_mut_ptr(),
                                out_stride: out_lanes,
                            };
                            // SAFETY: `sampled` and `other` hold all pixels of the run, `partial_weights` is this task's.
                            unsafe { outer_product::find(set, rows, vectors)(&call) };
                            lane += vectors * sizes.lanes;
                        }
                        c += rows;
                    }
                }
            }
        });
    }
}

/// Fills the samples of a run of pixels of the task's image, and of a few after it, which nobody asks for. Positions that are no number
/// sample nothing.
#[inline(always)]
fn locate(task: Task, run: Range<usize>, offsets: TensorRef, samples: &mut Samples) {
    let Task { shape: DeformConvShape { h, w, .. }, image, .. } = task;
    let first = image * h * w;
    let (mut row, mut column) = ([0.0; RUN], [0.0; RUN]);
    for (p, pixel) in run.clone().enumerate() {
        (row[p], column[p]) = ((pixel / w) as f32 - 1.0, (pixel % w) as f32 - 1.0);
    }
    let (height, width, wide, origin) = (h as f32, w as f32, w as i32, first as u32);
    for tap in 0..TAPS {
        // Offsets lie 27 apart; gathered first, so that the loop below runs over neighbours.
        let (mut py, mut px, mut logit) = ([0.0; RUN], [0.0; RUN], [0.0; RUN]);
        for (p, pixel) in run.clone().enumerate() {
            let q = offsets.pixel(first + pixel);
            (py[p], px[p], logit[p]) = (q[2 * tap], q[2 * tap + 1], q[2 * TAPS + tap]);
        }
        let (down, along) = ((tap / 3) as f32, (tap % 3) as f32);
        let Samples { pixels: [pa, pb, pc, pd], inside: [ia, ib, ic, id], fraction: [fy, fx], mask, counts } = &mut *samples;
        let (pa, pb, pc, pd) = (&mut pa[tap], &mut pb[tap], &mut pc[tap], &mut pd[tap]);
        let (ia, ib, ic, id) = (&mut ia[tap], &mut ib[tap], &mut ic[tap], &mut id[tap]);
        let (fy, fx, mask, counts) = (&mut fy[tap], &mut fx[tap], &mut mask[tap], &mut counts[tap]);
        for p in 0..RUN {
            let (y, x) = ((row[p] + down) + py[p], (column[p] + along) + px[p]);
            let counted = (y > -1.0) & (x > -1.0) & (y < height) & (x < width);
            let (y, x) = (if counted { y } else { 0.0 }, if counted { x } else { 0.0 });
            let (y0, x0) = (y.floor(), x.floor());
            let (top, bottom) = (if y0 >= 0.0 { 1.0 } else { 0.0 }, if y0 + 1.0 < height { 1.0 } else { 0.0 });
            let (left, right) = (if x0 >= 0.0 { 1.0 } else { 0.0 }, if x0 + 1.0 < width { 1.0 } else { 0.0 });
            let (upper, lower) = (integer(y0.max(0.0)) * wide, integer((y0 + 1.0).min(height - 1.0)) * wide);
            let (near, far) = (integer(x0.max(0.0)), integer((x0 + 1.0).min(width - 1.0)));
            pa[p] = origin + (upper + near) as u32;
            pb[p] = origin + (upper + far) as u32;
            pc[p] = origin + (lower + near) as u32;
            pd[p] = origin + (lower + far) as u32;
            ia[p] = top * left;
            ib[p] = top * right;
            ic[p] = bottom * left;
            id[p] = bottom * right;
            fy[p] = y - y0;
            fx[p] = x - x0;
            mask[p] = 1.0 / (1.0 + exp(-logit[p]));
            counts[p] = if counted { 1.0 } else { 0.0 };
        }
    }
}

/// The gradients of input and offsets of a run of pixels, and its samples times the mask, `[pixel][tap][c]`.
#[inline(always)]
fn spread(
    task: Task,
    samples: &Samples,
    g: &[f32],
    g_lanes: usize,
    inp: TensorRef,
    dinp: &TensorMut,
    doffsets: &mut [f32],
    sampled: &mut [f32],
) {
    // A loop of its own where the group is whole, so that every length in it is known.
    if task.len == GROUP {
        spread_some::<true>(task, samples, g, g_lanes, inp, dinp, doffsets, sampled);
    } else {
        spread_some::<false>(task, samples, g, g_lanes, inp, dinp, doffsets, sampled);
    }
}

#[inline(always)]
fn spread_some<const WHOLE: bool>(
    task: Task,
    samples: &Samples,
    g: &[f32],
    g_lanes: usize,
    inp: TensorRef,
    dinp: &TensorMut,
    doffsets: &mut [f32],
    sampled: &mut [f32],
) {
    let first = task.first;
    let len = if WHOLE { GROUP } else { task.len };
    for (i, sampled) in sampled.chunks_exact_mut(GROUP).take(doffsets.len() / OFFSET_CHANNELS * TAPS).enumerate() {
        let (p, tap) = (i / TAPS, i % TAPS);
        let dq = &mut doffsets[p * OFFSET_CHANNELS..][..OFFSET_CHANNELS];
        if samples.counts[tap][p] == 0.0 {
            sampled.fill(0.0);
            [dq[2 * tap], dq[2 * tap + 1], dq[2 * TAPS + tap]] = [0.0; 3];
            continue;
        }
        let (ly, lx, mask) = (samples.fraction[0][tap][p], samples.fraction[1][tap][p], samples.mask[tap][p]);
        let bilinear = [(1.0 - ly) * (1.0 - lx), (1.0 - ly) * lx, ly * (1.0 - lx), ly * lx];
        let mut gradient = [0.0_f32; GROUP];
        gradient[..len].copy_from_slice(&g[p * g_lanes + tap * len..][..len]);
        let mut v = [[0.0_f32; GROUP]; 4];
        for (corner, v) in v.iter_mut().enumerate() {
            if samples.inside[corner][tap][p] > 0.0 {
                let pixel = samples.pixels[corner][tap][p] as usize;
                v[..len].copy_from_slice(&inp.pixel(pixel)[first..first + len]);
                let weight = bilinear[corner] * mask;
                // SAFETY: these channels of this image belong to one task.
                let to = unsafe { std::slice::from_raw_parts_mut(dinp.pixel_ptr(pixel).add(first), len) };
                let mut sum = [0.0_f32; GROUP];
                sum[..len].copy_from_slice(to);
                for c in 0..GROUP {
                    sum[c] += weight * gradient[c];
                }
                to.copy_from_slice(&sum[..len]);
            }
        }
        let (mut value, mut along_y, mut along_x) = ([0.0_f32; GROUP], [0.0_f32; GROUP], [0.0_f32; GROUP]);
        for c in 0..GROUP {
            let [a, b, d, e] = [v[0][c], v[1][c], v[2][c], v[3][c]];
            let s = (a * bilinear[0] + b * bilinear[1]) + (d * bilinear[2] + e * bilinear[3]);
            sampled[c] = s * mask;
            value[c] = gradient[c] * s;
            along_y[c] = gradient[c] * ((1.0 - lx) * (d - a) + lx * (e - b));
            along_x[c] = gradient[c] * ((1.0 - ly) * (b - a) + ly * (e - d));
        }
        dq[2 * tap] = mask * sum(along_y);
        dq[2 * tap + 1] = mask * sum(along_x);
        dq[2 * TAPS + tap] = sum(value) * mask * (1.0 - mask);
    }
}

/// Adds the upper half to the lower one again and again: an order of additions that vector registers can follow.
#[inline(always)]
fn sum(mut values: [f32; GROUP]) -> f32 {
    let mut half = GROUP / 2;
    while half > 0 {
        for i in 0..half {
            values[i] += values[i + half];
        }
        half /= 2;
    }
    values[0]
}

/// Gradients by their formula, of input, offsets (with mask logits), weights and bias.
pub fn reference_backward<T: Real>(
    shape: DeformConvShape,
    inp: &[T],
    offsets: &[T],
    weights: &[T],
    dout: &[T],
) -> (Vec<T>, Vec<T>, Vec<T>, Vec<T>) {
    let DeformConvShape { n, h, w, ci, co } = shape;
    let (zero, one) = (T::default(), T::from_f64(1.0));
    let mut turned = vec![zero; weights.len()]; // [tap][c][o]
    for (i, &weight) in weights.iter().enumerate() {
        turned[(i % TAPS * ci + i / TAPS % ci) * co + i / (ci * TAPS)] = weight;
    }
    let (mut dinp, mut doffsets) = (vec![zero; inp.len()], vec![zero; offsets.len()]);
    let (mut sums, mut dbias) = (vec![zero; weights.len()], vec![zero; co]);
    for pixel in 0..n * h * w {
        let (image, y, x) = (pixel / (h * w), pixel / w % h, pixel % w);
        let gradient = &dout[pixel * co..][..co];
        dbias.iter_mut().zip(gradient).for_each(|(sum, &gradient)| *sum += gradient);
        let q = &offsets[pixel * OFFSET_CHANNELS..][..OFFSET_CHANNELS];
        let dq = &mut doffsets[pixel * OFFSET_CHANNELS..][..OFFSET_CHANNELS];
        for tap in 0..TAPS {
            let mask = one / (one + (zero - q[18 + tap]).exp());
            let py = T::from_f64(y as f64 - 1.0 + (tap / 3) as f64) + q[2 * tap];
            let px = T::from_f64(x as f64 - 1.0 + (tap % 3) as f64) + q[2 * tap + 1];
            let inside = py > T::from_f64(-1.0) && px > T::from_f64(-1.0) && py < T::from_f64(h as f64) && px < T::from_f64(w as f64);
            if !inside {
                continue;
            }
            let (ly, lx) = (py - py.floor(), px - px.floor());
            let (y0, x0) = (py.floor().to_f64() as isize, px.floor().to_f64() as isize);
            let corner = |i: isize| {
                let (y, x) = (y0 + i / 2, x0 + i % 2);
                let inside = y >= 0 && x >= 0 && y < h as isize && x < w as isize;
                inside.then(|| ((image * h + y as usize) * w + x as usize) * ci)
            };
            let corners = [corner(0), corner(1), corner(2), corner(3)];
            let bilinear = [(one - ly) * (one - lx), (one - ly) * lx, ly * (one - lx), ly * lx];
            let (mut dmask, mut dy, mut dx) = (zero, zero, zero);
            for c in 0..ci {
                let mut g = zero;
                for (&weight, &gradient) in turned[(tap * ci + c) * co..][..co].iter().zip(gradient) {
                    g += weight * gradient;
                }
                let v = corners.map(|corner| corner.map_or(zero, |corner| inp[corner + c]));
                let s = bilinear[0] * v[0] + bilinear[1] * v[1] + bilinear[2] * v[2] + bilinear[3] * v[3];
                dmask += g * s;
                dy += g * ((one - lx) * (v[2] - v[0]) + lx * (v[3] - v[1]));
                dx += g * ((one - ly) * (v[1] - v[0]) + ly * (v[3] - v[2]));
                for (corner, &bilinear) in corners.iter().zip(&bilinear) {
                    if let Some(corner) = corner {
                        dinp[corner + c] += bilinear * mask * g;
                    }
                }
                for (sum, &gradient) in sums[(tap * ci + c) * co..][..co].iter_mut().zip(gradient) {
                    *sum += gradient * (mask * s);
                }
            }
            dq[2 * tap] += mask * dy;
            dq[2 * tap + 1] += mask * dx;
            dq[18 + tap] += dmask * mask * (one - mask);
        }
    }
    let dweights = (0..weights.len()).map(|i| sums[(i % TAPS * ci + i / TAPS % ci) * co + i / (ci * TAPS)]).collect();
    (dinp, doffsets, dweights, dbias)
}
