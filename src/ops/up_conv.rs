//! Depth-wise transposed convolution that enlarges f times (kernel 2f, stride f, padding f/2), and the sum with a map
//! of the larger size that follows it in the network.
//!
//! ```text
//! out[n, Y, X, c] = skip[n, Y, X, c] + sum over (y, x, i, j) with y f + i - f/2 = Y and x f + j - f/2 = X of
//!                   inp[n, y, x, c] * weight[c, i, j]
//! ```
//! Every output value has at most 2 x 2 terms. Gradients:
//!
//! ```text
//! dinp[n, y, x, c]  += sum over i, j < 2 f of dout[n, y f + i - f/2, x f + j - f/2, c] * weight[c, i, j]
//! dweight[c, i, j]  += sum over n, y, x of    dout[n, y f + i - f/2, x f + j - f/2, c] * inp[n, y, x, c]
//! dskip             += dout
//! ```
//! Source: Dumoulin, Visin 2016, arXiv:1603.07285, section 4; docs/network.md, section 1.2 (Up).

use super::{Agreement, Real, images, in_value_type, launch::lanes, noise, proof, real::convert};
use crate::device::cpu::{InstructionSet, sum_in_parts, with_scratch};
use crate::device::gpu::{Arg, Gpu, Grid};
use crate::device::{Device, Tensor, TensorMut, TensorRef};
use crate::kernel_struct;
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

/// The kernel in the CPU's order of use, `[i][j][c]`, for the time of `work`.
fn with_packed<R>(shape: UpConvShape, weights: &[f32], work: impl FnOnce(&[f32]) -> R) -> R {
    let taps = 4 * shape.factor * shape.factor;
    with_scratch(taps * shape.c, |packed| {
        packed.iter_mut().enumerate().for_each(|(i, to)| *to = weights[i % shape.c * taps + i / shape.c]);
        work(packed)
    })
}

/// Enlarges `inp` into `out` and adds `skip` if there is one.
///
/// Shapes: `inp` (n, h, w, c), `skip` and `out` (n, f h, f w, c), `weights` `[c][1][2f][2f]`, flat, f32.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn forward<T: Real>(
    device: &Device,
    shape: UpConvShape,
    inp: TensorRef<T>,
    weights: TensorRef<T>,
    skip: Option<TensorRef<T>>,
    out: &mut TensorMut<T>,
) -> Result<()> {
    assert_eq!(inp.shape(), [shape.n, shape.h, shape.w, shape.c], "input of {shape:?}");
    assert_eq!(out.shape(), shape.out(), "output of {shape:?}");
    assert_eq!(weights.len(), 4 * shape.factor * shape.factor * shape.c, "weights of {shape:?}");
    assert!(skip.is_none_or(|skip| skip.shape() == shape.out()), "skip of {shape:?}");
    match device {
        Device::Cpu => with_packed(shape, weights.as_f32().as_slice(), |weights| {
            forward_cpu(shape, inp.as_f32(), weights, skip.map(TensorRef::as_f32), &mut out.as_f32_mut());
        }),
        Device::Gpu(gpu) => launch_forward(gpu, shape, inp, weights, skip, out)?,
        Device::Reference => {
            let skip = skip.map(|skip| skip.to_vec());
            out.assign(&reference(shape, &inp.to_vec(), weights.as_slice(), skip.as_deref()));
        }
    }
    Ok(())
}

/// Threads of a block, as the KERNEL lines say.
const THREADS: u32 = 256;
/// Input pixels of a part of the weights' gradient, and most parts.
const PART_PIXELS: usize = 512;
const MOST_PARTS: usize = 256;

/// The kernels' shape struct.
fn shape_arg(UpConvShape { n, h, w, c, factor }: UpConvShape) -> Arg {
    kernel_struct!(UpConvShape { n, h, w, c, factor })
}

fn launch_forward<T: Real>(
    gpu: &Gpu,
    shape: UpConvShape,
    inp: TensorRef<T>,
    weights: TensorRef<T>,
    skip: Option<TensorRef<T>>,
    out: &mut TensorMut<T>,
) -> Result<()> {
    let group = lanes(shape.c, &[inp, out.as_ref(), skip.unwrap_or(inp)]);
    let [n, oh, ow, c] = shape.out();
    let grid = Grid::of_rows(n * oh, ow * c / group as usize, THREADS)?;
    let (skip_at, skip_stride) = skip.map_or((Arg::null(), Arg::value(0_u32)), |skip| (skip.arg(), skip.stride_arg()));
    let args = [
        shape_arg(shape),
        Arg::value(group),
        inp.arg(),
        inp.stride_arg(),
        weights.arg(),
        Arg::value(u32::from(skip.is_some())),
        skip_at,
        skip_stride,
        out.arg(),
        out.stride_arg(),
    ];
    // SAFETY: the arguments of the KERNEL line, in its order; the shapes of all maps were checked against the shape struct.
    unsafe { gpu.launch("up_conv_forward", grid, THREADS, &args) }
}

fn forward_cpu(shape: UpConvShape, inp: TensorRef, weights: &[f32], skip: Option<TensorRef>, out: &mut TensorMut) {
    let [n, oh, ow, _] = shape.out();
    let out: &TensorMut = out;
    let columns: Vec<Terms> = (0..ow).map(|x| terms(x, shape.w, shape.factor)).collect();
    let columns = columns.as_slice();
    (0..n * oh).into_par_iter().for_each(|row| {
        crate::dispatch!(
            InstructionSet::detect(),
            up_row(shape: UpConvShape, row: usize, columns: &[Terms], inp: TensorRef, weights: &[f32], skip: Option<TensorRef>, out: &TensorMut)
        );
    });
}

/// The (input position, tap) pairs of an output position along one axis, the first `count` of them.
#[derive(Clone, Copy, Debug, Default)]
struct Terms {
    pairs: [(usize, usize); 2],
    count: usize,
}

/// The pairs of output position `at`: positions outside the input are left out.
fn terms(at: usize, extent: usize, factor: usize) -> Terms {
    // y f + i = at + f/2 with 0 <= i < 2f: the largest y is (at + f/2) / f, the other one is one less.
    let shifted = at + factor / 2;
    let last = shifted / factor;
    let mut terms = Terms::default();
    for y in last.saturating_sub(1)..=last {
        if y < extent && shifted - y * factor < 2 * factor {
            terms.pairs[terms.count] = (y, shifted - y * factor);
            terms.count += 1;
        }
    }
    terms
}

/// One row. It has no closures: one that is not inlined is compiled for another instruction set.
#[inline(always)]
fn up_row(shape: UpConvShape, row: usize, columns: &[Terms], inp: TensorRef, weights: &[f32], skip: Option<TensorRef>, out: &TensorMut) {
    /// Channels whose sums stay in registers.
    const TOGETHER: usize = 16;
    let UpConvShape { h, w, c, factor, .. } = shape;
    let [_, oh, ow, _] = shape.out();
    let (image, y_out) = (row / oh, row % oh);
    let rows = terms(y_out, h, factor);
    for (x_out, columns) in columns.iter().enumerate() {
        // Pixels and first weights of the terms.
        let (mut sources, mut count) = ([(0, 0); 4], 0);
        for &(y, i) in &rows.pairs[..rows.count] {
            for &(x, j) in &columns.pairs[..columns.count] {
                sources[count] = ((image * h + y) * w + x, (i * 2 * factor + j) * c);
                count += 1;
            }
        }
        let sources = &sources[..count];
        // SAFETY: each output row belongs to one task.
        let to = unsafe { out.pixel_mut(row * ow + x_out) };
        match skip {
            Some(skip) => to.copy_from_slice(skip.pixel(row * ow + x_out)),
            None => to.fill(0.0),
        }
        let (whole, rest) = to.as_chunks_mut::<TOGETHER>();
        let first_of_rest = whole.len() * TOGETHER;
        for (k, to) in whole.iter_mut().enumerate() {
            let mut sums = *to;
            for &(pixel, first) in sources {
                let from = &inp.pixel(pixel)[k * TOGETHER..][..TOGETHER];
                let taps = &weights[first + k * TOGETHER..][..TOGETHER];
                for lane in 0..TOGETHER {
                    sums[lane] += from[lane] * taps[lane];
                }
            }
            *to = sums;
        }
        for &(pixel, first) in sources {
            let from = &inp.pixel(pixel)[first_of_rest..];
            let taps = &weights[first + first_of_rest..first + c];
            for ((to, &value), &weight) in rest.iter_mut().zip(from).zip(taps) {
                *to += value * weight;
            }
        }
    }
}

/// The enlargement by its formula: it scatters, as the definition does. `weights` `[c][2f][2f]`.
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

/// Values that `backward` needs to work with.
pub fn scratch_len(device: &Device, shape: UpConvShape) -> usize {
    let one = match device {
        Device::Cpu | Device::Reference => 0,
        Device::Gpu(_) => gpu_scratch_len(shape),
    };
    one + images::scratch_len(shape.n, [4 * shape.factor * shape.factor * shape.c])
}

/// Parts of the sum of the weights' gradient of an image, and input pixels of each.
fn weight_parts(shape: UpConvShape) -> [usize; 2] {
    let pixels = shape.h * shape.w;
    let part_pixels = pixels.div_ceil(pixels.div_ceil(PART_PIXELS).clamp(1, MOST_PARTS)).max(1);
    [pixels.div_ceil(part_pixels), part_pixels]
}

fn gpu_scratch_len(shape: UpConvShape) -> usize {
    weight_parts(shape)[0] * 4 * shape.factor * shape.factor * shape.c
}

/// Gradients that are added to.
#[derive(Debug)]
pub struct Gradients<'a, 'b, T = f32> {
    /// Of the input, (n, h, w, c).
    pub dinp: &'a mut TensorMut<'b, T>,
    /// Of the weights, `[c][1][2f][2f]`, flat.
    pub dweights: &'a mut TensorMut<'b, T>,
}

/// Adds the gradients of the input and of the weights. That of `skip` is `dout` itself.
///
/// Shapes: `inp` (n, h, w, c), `dout` (n, f h, f w, c), `weights` `[c][1][2f][2f]`, flat, f32; `scratch` at least `scratch_len`.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn backward<T: Real>(
    device: &Device,
    shape: UpConvShape,
    inp: TensorRef<T>,
    weights: TensorRef<T>,
    dout: TensorRef<T>,
    Gradients { dinp, dweights }: Gradients<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    assert_eq!(inp.shape(), [shape.n, shape.h, shape.w, shape.c], "input of {shape:?}");
    assert_eq!(dinp.shape(), inp.shape(), "gradient of the input of {shape:?}");
    assert_eq!(dout.shape(), shape.out(), "gradient of the output of {shape:?}");
    assert!(weights.len() == 4 * shape.factor * shape.factor * shape.c && dweights.len() == weights.len(), "weights of {shape:?}");
    match device {
        Device::Cpu => {
            let (dout, dinp): (_, &TensorMut) = (dout.as_f32(), &dinp.as_f32_mut());
            with_packed(shape, weights.as_f32().as_slice(), |weights| {
                (0..shape.n * shape.h).into_par_iter().for_each(|row| {
                    crate::dispatch!(
                        InstructionSet::detect(),
                        down_row(shape: UpConvShape, row: usize, weights: &[f32], dout: TensorRef, dinp: &TensorMut)
                    );
                });
            });
        }
        Device::Gpu(gpu) => {
            let group = lanes(shape.c, &[dout, dinp.as_ref()]);
            let grid = Grid::over(inp.len() / group as usize, THREADS)?;
            let (dout_at, dout_stride, dinp_stride) = (dout.arg(), dout.stride_arg(), dinp.stride_arg());
            let args = [shape_arg(shape), Arg::value(group), weights.arg(), dout_at, dout_stride, dinp.arg(), dinp_stride];
            // SAFETY: the arguments of the KERNEL line, in its order; the shapes of all maps were checked against the shape struct.
            unsafe { gpu.launch("up_conv_backward_data", grid, THREADS, &args) }?;
        }
        Device::Reference => dinp.add(&reference_backward(shape, &inp.to_vec(), weights.as_slice(), &dout.to_vec()).0),
    }
    images::add(device, shape.n, [dweights.reborrow()], scratch, |image, [dweights], scratch| {
        image_weights(device, UpConvShape { n: 1, ..shape }, inp.image(image), dout.image(image), dweights, scratch)
    })
}

/// Adds the gradient of the weights by one image.
fn image_weights<T: Real>(
    device: &Device,
    shape: UpConvShape,
    inp: TensorRef<T>,
    dout: TensorRef<T>,
    dweights: &mut TensorMut<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let (c, taps) = (shape.c, 4 * shape.factor * shape.factor);
    match device {
        Device::Cpu => {
            let (inp, dout, mut dweights) = (inp.as_f32(), dout.as_f32(), dweights.as_f32_mut());
            let sums = sum_in_parts(shape.h * shape.w, c * taps, |pixels, sums| {
                crate::dispatch!(
                    InstructionSet::detect(),
                    tap_sums(shape: UpConvShape, pixels: std::ops::Range<usize>, inp: TensorRef, dout: TensorRef, sums: &mut [f32])
                );
            });
            let dweights = dweights.as_mut_slice();
            sums.iter().enumerate().for_each(|(i, &sum)| dweights[i % c * taps + i / c] += sum as f32);
        }
        Device::Gpu(gpu) => {
            assert!(scratch.len() >= gpu_scratch_len(shape), "{} values of scratch memory for {shape:?}", scratch.len());
            let extents = shape_arg(shape);
            let ([inp_at, inp_stride], [dout_at, dout_stride]) = ([inp.arg(), inp.stride_arg()], [dout.arg(), dout.stride_arg()]);
            let [parts, part_pixels] = weight_parts(shape);
            let group = lanes(c, &[inp, dout, scratch.as_ref()]);
            let grid = Grid([(taps * c / group as usize).div_ceil(THREADS as usize) as u32, parts as u32, 1]);
            let args =
                [extents, Arg::value(group), Arg::value(part_pixels as u32), inp_at, inp_stride, dout_at, dout_stride, scratch.arg()];
            // SAFETY: the arguments of the KERNEL line, in its order; the shapes of all maps were checked against the shape struct, and
            // the parts fit into the scratch memory.
            unsafe { gpu.launch("up_conv_backward_weights", grid, THREADS, &args) }?;
            let args = [extents, Arg::value(parts as u32), scratch.arg(), dweights.arg()];
            // SAFETY: as above; there are as many weights as the shape says.
            unsafe { gpu.launch("up_conv_add_parts", Grid::over(taps * c, THREADS)?, THREADS, &args) }?;
        }
        Device::Reference => {
            // The weights do not matter to their own gradient.
            let zeros = vec![T::default(); dweights.len()];
            dweights.add(&reference_backward(shape, &inp.to_vec(), &zeros, &dout.to_vec()).1);
        }
    }
    Ok(())
}

/// The (output position, tap) pairs of input position `at` along one axis: positions outside the output are left out.
#[inline(always)]
fn targets(at: usize, extent_out: usize, factor: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    (0..2 * factor).filter_map(move |i| (at * factor + i).checked_sub(factor / 2).filter(|&to| to < extent_out).map(|to| (to, i)))
}

#[inline(always)]
fn down_row(shape: UpConvShape, row: usize, weights: &[f32], dout: TensorRef, dinp: &TensorMut) {
    let UpConvShape { h, w, c, factor, .. } = shape;
    let [_, oh, ow, _] = shape.out();
    for x in 0..w {
        // SAFETY: each input row belongs to one task.
        let to = unsafe { dinp.pixel_mut(row * w + x) };
        for (y_out, i) in targets(row % h, oh, factor) {
            for (x_out, j) in targets(x, ow, factor) {
                let from = dout.pixel((row / h * oh + y_out) * ow + x_out);
                let taps = &weights[(i * 2 * factor + j) * c..][..c];
                for ((to, &value), &weight) in to.iter_mut().zip(from).zip(taps) {
                    *to += value * weight;
                }
            }
        }
    }
}

/// Sums `[i][j][c]` over some input pixels.
#[inline(always)]
fn tap_sums(shape: UpConvShape, pixels: std::ops::Range<usize>, inp: TensorRef, dout: TensorRef, sums: &mut [f32]) {
    let UpConvShape { h, w, c, factor, .. } = shape;
    let [_, oh, ow, _] = shape.out();
    for pixel in pixels {
        let values = inp.pixel(pixel);
        for (y_out, i) in targets(pixel / w % h, oh, factor) {
            for (x_out, j) in targets(pixel % w, ow, factor) {
                let from = dout.pixel((pixel / (h * w) * oh + y_out) * ow + x_out);
                let sums = &mut sums[(i * 2 * factor + j) * c..][..c];
                for ((sum, &value), &gradient) in sums.iter_mut().zip(values).zip(from) {
                    *sum += value * gradient;
                }
            }
        }
    }
}

/// Gradients of input and weights by their formula. `weights` `[c][2f][2f]`.
pub fn reference_backward<T: Real>(shape: UpConvShape, inp: &[T], weights: &[T], dout: &[T]) -> (Vec<T>, Vec<T>) {
    let UpConvShape { n, h, w, c, factor } = shape;
    let [_, oh, ow, _] = shape.out();
    let (mut dinp, mut dweights) = (vec![T::default(); inp.len()], vec![T::default(); weights.len()]);
    for (image, y, x) in (0..n * h * w).map(|p| (p / (h * w), p / w % h, p % w)) {
        for (i, j) in (0..4 * factor * factor).map(|tap| (tap / (2 * factor), tap % (2 * factor))) {
            let (to_y, to_x) = ((y * factor + i).wrapping_sub(factor / 2), (x * factor + j).wrapping_sub(factor / 2));
            if to_y >= oh || to_x >= ow {
                continue;
            }
            for ch in 0..c {
                let gradient = dout[((image * oh + to_y) * ow + to_x) * c + ch];
                let (at, tap) = (((image * h + y) * w + x) * c + ch, (ch * 2 * factor + i) * 2 * factor + j);
                dinp[at] += gradient * weights[tap];
                dweights[tap] += gradient * inp[at];
            }
        }
    }
    (dinp, dweights)
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
    in_value_type!(device, compare_as)
}

fn compare_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, shape) in CASES.into_iter().enumerate() {
        let seed = i as u64;
        let inp = noise(shape.n * shape.h * shape.w * shape.c, seed);
        let weights = noise(4 * shape.factor * shape.factor * shape.c, seed + 100);
        let skip = (i % 2 == 1).then(|| noise(shape.out().iter().product(), seed + 200));
        let exact = reference::<f64>(shape, &convert(&inp), &convert(&weights), skip.as_deref().map(convert).as_deref());
        let plain = reference::<f32>(shape, &inp, &weights, skip.as_deref());
        let inp = Tensor::on(device, [shape.n, shape.h, shape.w, shape.c], convert::<T>(&inp))?;
        let skip = skip.map(|values| Tensor::on(device, shape.out(), convert::<T>(&values))).transpose()?;
        let weights = Tensor::flat_on(device, convert::<T>(&weights))?;
        let mut out = Tensor::on(device, shape.out(), vec![T::from_f64(f64::NAN); exact.len()])?;
        forward(device, shape, inp.view(), weights.view(), skip.as_ref().map(Tensor::view), &mut out.view_mut())?;
        agreements.push(Agreement::of(format!("{shape:?}"), &out.to_vec()?, &plain, &exact));
    }
    Ok(agreements)
}

/// Runs all cases backward on a device and compares the gradients, added to what is there, with the f64 reference.
///
/// Errors: as `backward`.
pub fn compare_backward(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_backward_as)
}

fn compare_backward_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, shape) in CASES.into_iter().enumerate() {
        let seed = i as u64 + 1000;
        let extents = [shape.n, shape.h, shape.w, shape.c];
        let inp = noise(extents.iter().product(), seed);
        let weights = noise(4 * shape.factor * shape.factor * shape.c, seed + 100);
        let dout = noise(shape.out().iter().product(), seed + 200);
        let exact = reference_backward::<f64>(shape, &convert(&inp), &convert(&weights), &convert(&dout));
        let plain = reference_backward::<f32>(shape, &inp, &weights, &dout);
        let list = proof::list(weights.len());
        let (inp, weights) = (Tensor::on(device, extents, convert::<T>(&inp))?, Tensor::on(device, list, convert::<T>(&weights))?);
        let dout = Tensor::on(device, shape.out(), convert::<T>(&dout))?;
        let run = |dinp: &mut TensorMut<T>, dweights: &mut TensorMut<T>| {
            let mut scratch = Tensor::flat_on(device, vec![T::from_f64(f64::NAN); scratch_len(device, shape)])?;
            let gradients = Gradients { dinp: &mut dinp.reborrow(), dweights: &mut dweights.reborrow() };
            backward(device, shape, inp.view(), weights.view(), dout.view(), gradients, &mut scratch.view_mut())
        };
        agreements.push(proof::agree(device, format!("dinp of {shape:?}"), extents, &plain.0, &exact.0, |found| {
            run(found, &mut Tensor::on(device, list, vec![T::default(); exact.1.len()])?.view_mut())
        })?);
        agreements.push(proof::agree(device, format!("dweights of {shape:?}"), list, &plain.1, &exact.1, |found| {
            run(&mut Tensor::on(device, extents, vec![T::default(); exact.0.len()])?.view_mut(), found)
        })?);
    }
    Ok(agreements)
}

/// The gradients of the f64 reference against finite differences.
pub fn differences() -> Vec<Agreement> {
    let case = |(i, shape): (usize, UpConvShape)| {
        let random = |len: usize, k: u64| convert::<f64>(&noise(len, i as u64 + 100 * k));
        let (inp, weights) = (random(shape.n * shape.h * shape.w * shape.c, 0), random(4 * shape.factor * shape.factor * shape.c, 1));
        let dout = random(shape.out().iter().product(), 2);
        let (dinp, dweights) = reference_backward(shape, &inp, &weights, &dout);
        proof::differences(format!("{shape:?}"), [(inp, dinp), (weights, dweights)], &dout, |[inp, weights]| {
            reference(shape, inp, weights, None)
        })
    };
    CASES.into_iter().enumerate().map(case).collect()
}
