//! Convolution with square odd kernels, zero padding of half the kernel, any stride.
//!
//! ```text
//! out[n, y, x, o] = relu( bias[o] + residual[n, y, x, o] + sum over ky, kx, c of
//!                         inp[n, y*s + ky - k/2, x*s + kx - k/2, c] * weight[o, c, ky, kx] )
//! ```
//! Bias, residual and ReLU are the epilogue; each may be left out. Gradients, of the sum without the epilogue:
//!
//! ```text
//! dinp[n, oy*s + ky - k/2, ox*s + kx - k/2, c] += dout[n, oy, ox, o] * weight[o, c, ky, kx]
//! dweight[o, c, ky, kx]                       += dout[n, oy, ox, o] * inp[n, oy*s + ky - k/2, ox*s + kx - k/2, c]
//! dbias[o]                                    += dout[n, oy, ox, o]
//! ```
//! Source: Goodfellow, Bengio, Courville 2016, Deep Learning, section 9.1 (cross-correlation); docs/network.md.

pub mod algorithm;
mod cpu;
mod cpu_weights;
mod cpu_winograd;
pub mod cudnn;
pub(crate) mod gpu;
mod gpu_tiles;
pub(crate) mod gpu_weights;
pub mod library;
mod reference;
mod weights;
mod window;

pub use algorithm::{Algorithm, Algorithms};
pub use gpu_tiles::TF32_FROM;
pub use library::Library;
pub use reference::{reference, reference_backward};
pub use weights::{CpuPanels, Packed, Packing};

use super::{Agreement, Compute, Precision, Real, images, in_value_type, noise, proof, real::convert};
use crate::device::{Device, Tensor, TensorMut, TensorRef, cpu::sum_in_parts};
use anyhow::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Weights packed for an algorithm of a convolution.
pub type Weights<T = f32> = Packed<Algorithm, T>;

/// Which of a convolution's three products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// The output.
    Forward,
    /// The gradient of the input.
    Data,
    /// The gradient of the weights.
    Weights,
}

/// Extents of one convolution. Padding is kernel / 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Images.
    pub n: usize,
    /// Rows of the input.
    pub h: usize,
    /// Columns of the input.
    pub w: usize,
    /// Channels of the input.
    pub ci: usize,
    /// Channels of the output.
    pub co: usize,
    /// Rows and columns of the kernel: odd.
    pub kernel: usize,
    /// Step between output pixels, in input pixels.
    pub stride: usize,
}

impl ConvShape {
    /// Shape of the input, (n, h, w, c).
    pub fn inp(&self) -> [usize; 4] {
        [self.n, self.h, self.w, self.ci]
    }

    /// Shape of the output, (n, h, w, c): (extent + 2 (k/2) - k) / stride + 1.
    pub fn out(&self) -> [usize; 4] {
        let extent = |x: usize| (x + 2 * (self.kernel / 2)).saturating_sub(self.kernel) / self.stride + 1;
        [self.n, extent(self.h), extent(self.w), self.co]
    }

    /// The rows of the input that some rows of the output read.
    pub fn rows_read(&self, rows: Range<usize>) -> Range<usize> {
        let pad = self.kernel / 2;
        let first = (rows.start * self.stride).saturating_sub(pad);
        let end = (rows.end * self.stride + self.kernel).saturating_sub(self.stride + pad);
        first.min(self.h)..end.min(self.h)
    }

    /// Number of weights.
    pub fn weights_len(&self) -> usize {
        self.co * self.ci * self.kernel * self.kernel
    }

    /// Channels of the input and of the output, rows (and columns) of the kernel.
    pub fn extents(&self) -> [usize; 3] {
        [self.ci, self.co, self.kernel]
    }

    /// The same for one image.
    pub fn one_image(self) -> Self {
        ConvShape { n: 1, ..self }
    }

    /// Multiply-adds.
    pub fn multiply_adds(&self) -> u64 {
        let [n, h, w, co] = self.out().map(|x| x as u64);
        n * h * w * co * (self.ci * self.kernel * self.kernel) as u64
    }
}

/// What follows the sum.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a, T = f32> {
    /// Added to the output, pixel by pixel.
    pub residual: Option<TensorRef<'a, T>>,
    /// Negative values become 0.
    pub relu: bool,
}

// This is not derived, because a derived one would ask for `T: Default`, which a view does not need.
impl<T> Default for Epilogue<'_, T> {
    fn default() -> Self {
        Epilogue { residual: None, relu: false }
    }
}

impl Epilogue<'_> {
    /// What a pixel becomes whose sums lie elsewhere, in the channels from `start` on: the sums are written, or added to what is there.
    fn finish(&self, pixel: usize, start: usize, sums: &[f32], accumulate: bool, to: &mut [f32]) {
        let residual = self.residual.map(|residual| &residual.pixel(pixel)[start..]);
        for (i, (to, &sum)) in to.iter_mut().zip(sums).enumerate() {
            let value = match residual {
                _ if accumulate => *to + sum,
                Some(residual) => sum + residual[i],
                None => sum,
            };
            *to = if self.relu && value < 0.0 { 0.0 } else { value };
        }
    }
}

/// Chooses what computes a convolution best, and packs `weights` `[co][ci][k][k]` and `bias` `[co]` (or empty: zeros) for it.
///
/// Errors: the device has not as much memory.
pub fn prepare(compute: &Compute, shape: ConvShape, weights: &[f32], bias: &[f32]) -> Result<Weights> {
    Weights::pack(&compute.device, algorithm::choose(compute, Pass::Forward, shape), shape.extents(), weights, bias)
}

/// Convolves `inp` with the packed weights into `out`.
///
/// Shapes: `inp` (n, h, w, ci) into `out` `shape.out()`, f32; the residual is shaped as `out`.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn forward<T: Real>(
    device: &Device,
    shape: ConvShape,
    inp: TensorRef<T>,
    weights: &Weights<T>,
    epilogue: Epilogue<T>,
    out: &mut TensorMut<T>,
) -> Result<()> {
    assert_eq!(inp.shape(), shape.inp(), "input of {shape:?}");
    assert_eq!(out.shape(), shape.out(), "output of {shape:?}");
    assert_eq!(weights.extents(), shape.extents(), "weights of {shape:?}");
    assert!(epilogue.residual.is_none_or(|residual| residual.shape() == shape.out()), "residual of {shape:?}");
    match weights.algorithm() {
        Algorithm::Reference => {
            let ((weights, bias), residual) = (weights.plain(), epilogue.residual.map(|residual| residual.to_vec()));
            out.assign(&reference(shape, &inp.to_vec(), weights, bias, residual.as_deref(), epilogue.relu));
        }
        Algorithm::CpuTiles(_) | Algorithm::CpuWinograd(_) => {
            let [_, rows, _, _] = shape.out();
            forward_on_cpu(shape, 0..rows, Threads::All, inp, weights, epilogue, out);
        }
        Algorithm::Library(library, _) if library.forward(device.gpu(), shape, inp, weights.gpu(), epilogue, out) => {}
        Algorithm::GpuTiles(tile) | Algorithm::Library(_, tile) => {
            gpu::launch_forward(device.gpu(), tile, shape, inp, weights.gpu(), epilogue, out)?;
        }
    }
    Ok(())
}

/// Which threads work on a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Threads {
    /// Those of the surrounding pool.
    All,
    /// The one that asks.
    This,
}

/// Computes some rows of the output on the CPU, by the thread that asks. Of the views, which are as large as `shape` says, only these rows
/// and those that they read have to be there. Several images have all of their rows.
///
/// Weights for another device are a programming error and panic.
pub(crate) fn forward_rows<T: Real>(
    shape: ConvShape,
    rows: Range<usize>,
    inp: TensorRef<T>,
    weights: &Weights<T>,
    epilogue: Epilogue<T>,
    out: &mut TensorMut<T>,
) {
    forward_on_cpu(shape, rows, Threads::This, inp, weights, epilogue, out);
}

fn forward_on_cpu<T: Real>(
    shape: ConvShape,
    rows: Range<usize>,
    threads: Threads,
    inp: TensorRef<T>,
    weights: &Weights<T>,
    epilogue: Epilogue<T>,
    out: &mut TensorMut<T>,
) {
    let epilogue = Epilogue { residual: epilogue.residual.map(TensorRef::as_f32), relu: epilogue.relu };
    let product = Product { rows, threads, inp: inp.as_f32(), weights: weights.cpu(), epilogue, accumulate: false };
    let out = &mut out.as_f32_mut();
    match weights.algorithm() {
        Algorithm::CpuTiles(_) => cpu::convolve(window::Window::forward(shape), &product, out),
        Algorithm::CpuWinograd(_) => cpu_winograd::convolve([shape.n, shape.h, shape.w], &product, out),
        other => unreachable!("rows by {other}"),
    }
}

/// A convolution on the CPU: of the output, or of the gradient of the input.
struct Product<'a> {
    /// The rows that are computed.
    rows: Range<usize>,
    threads: Threads,
    inp: TensorRef<'a>,
    weights: &'a CpuPanels,
    epilogue: Epilogue<'a>,
    /// True if it is added to what is there.
    accumulate: bool,
}

impl Threads {
    /// So many tasks keep all of them busy to the end.
    fn tasks(self) -> usize {
        match self {
            Threads::All => 4 * rayon::current_num_threads(),
            Threads::This => 1,
        }
    }

    /// Does something for each of some tasks.
    fn for_each<T: Sync>(self, tasks: &[T], work: impl Fn(&T) + Sync + Send) {
        match self {
            Threads::All => tasks.par_iter().for_each(work),
            Threads::This => tasks.iter().for_each(work),
        }
    }
}

/// Values that the gradients need to work with.
pub fn scratch_len(algorithms: &Algorithms, shape: ConvShape) -> usize {
    let data = match &algorithms.data {
        Algorithm::Reference | Algorithm::CpuTiles(_) | Algorithm::CpuWinograd(_) => 0,
        Algorithm::GpuTiles(_) | Algorithm::Library(..) => gpu::scratch_len(shape),
    };
    data.max(weights_scratch_len(&algorithms.weights, shape))
}

/// Values that the gradient of the weights needs to work with.
fn weights_scratch_len(algorithm: &Algorithm, shape: ConvShape) -> usize {
    let one = match algorithm {
        Algorithm::Reference => 0,
        Algorithm::CpuTiles(set) | Algorithm::CpuWinograd(set) => cpu_weights::scratch_len(shape.one_image(), *set),
        Algorithm::GpuTiles(_) | Algorithm::Library(..) => gpu::scratch_len(shape.one_image()),
    };
    one + images::scratch_len(shape.n, [shape.weights_len()]).max(images::scratch_len(shape.n, [shape.co]))
}

/// Adds the gradient of the input.
///
/// Shapes: `dout` `shape.out()`, `weights` `[co][ci][k][k]`, flat, `dinp` (n, h, w, ci), f32; `scratch` at least `scratch_len`.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn backward_data<T: Real>(
    device: &Device,
    shape: ConvShape,
    algorithm: &Algorithm,
    weights: TensorRef<T>,
    dout: TensorRef<T>,
    dinp: &mut TensorMut<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    assert_eq!(dinp.shape(), [shape.n, shape.h, shape.w, shape.ci], "gradient of the input of {shape:?}");
    assert_eq!(dout.shape(), shape.out(), "gradient of the output of {shape:?}");
    assert_eq!(weights.len(), shape.weights_len(), "weights of {shape:?}");
    match algorithm {
        Algorithm::Reference => dinp.add(&reference::reference_backward_data(shape, weights.as_slice(), &dout.to_vec())),
        Algorithm::CpuTiles(set) => {
            cpu::backward_data(shape, weights.as_f32().as_slice(), dout.as_f32(), &mut dinp.as_f32_mut(), *set);
        }
        Algorithm::CpuWinograd(set) => {
            cpu_winograd::backward_data(shape, weights.as_f32().as_slice(), dout.as_f32(), &mut dinp.as_f32_mut(), *set);
        }
        Algorithm::Library(library, _) if library.backward(device.gpu(), Pass::Data, shape, dinp.as_ref(), weights, dout) => {}
        Algorithm::GpuTiles(tile) | Algorithm::Library(_, tile) => {
            gpu::launch_backward_data(device.gpu(), tile, shape, weights, dout, dinp, scratch)?;
        }
    }
    Ok(())
}

/// Gradients of what is learnt, which are added to.
#[derive(Debug)]
pub struct Gradients<'a, 'b, T = f32> {
    /// Of the weights, `[co][ci][k][k]`, flat.
    pub dweights: &'a mut TensorMut<'b, T>,
    /// Of the bias, `[co]`, flat, if there is one.
    pub dbias: Option<&'a mut TensorMut<'b, T>>,
}

/// Adds the gradient of the weights, and that of the bias if there is one: summed image by image (`ops/images.rs`).
///
/// Shapes: `inp` (n, h, w, ci), `dout` `shape.out()`, f32; `scratch` at least `scratch_len`.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn backward_weights<T: Real>(
    device: &Device,
    shape: ConvShape,
    algorithm: &Algorithm,
    inp: TensorRef<T>,
    dout: TensorRef<T>,
    Gradients { dweights, dbias }: Gradients<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    assert_eq!(inp.shape(), [shape.n, shape.h, shape.w, shape.ci], "input of {shape:?}");
    assert_eq!(dout.shape(), shape.out(), "gradient of the output of {shape:?}");
    assert_eq!(dweights.len(), shape.weights_len(), "weights of {shape:?}");
    assert!(dbias.as_ref().is_none_or(|dbias| dbias.len() == shape.co), "bias of {shape:?}");
    images::add(device, shape.n, [dweights.reborrow()], scratch, |image, [dweights], scratch| {
        image_weights(device, shape.one_image(), algorithm, inp.image(image), dout.image(image), dweights, scratch)
    })?;
    let Some(dbias) = dbias else { return Ok(()) };
    images::add(device, shape.n, [dbias.reborrow()], scratch, |image, [dbias], scratch| {
        let dout = dout.image(image);
        match device {
            Device::Cpu => add_pixel_sums(dout.as_f32(), dbias.as_f32_mut().as_mut_slice()),
            Device::Gpu(gpu) => gpu_weights::launch_backward_bias(gpu, dout, dbias, scratch)?,
            Device::Reference => dbias.add(&reference::reference_backward_bias(shape.co, &dout.to_vec())),
        }
        Ok(())
    })
}

/// Adds the gradient of the weights by one image.
fn image_weights<T: Real>(
    device: &Device,
    shape: ConvShape,
    algorithm: &Algorithm,
    inp: TensorRef<T>,
    dout: TensorRef<T>,
    dweights: &mut TensorMut<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    match algorithm {
        Algorithm::Reference => dweights.add(&reference::reference_backward_weights(shape, &inp.to_vec(), &dout.to_vec())),
        // Winograd's way is none for this product.
        Algorithm::CpuTiles(set) | Algorithm::CpuWinograd(set) => {
            let (dweights, scratch) = (&mut dweights.as_f32_mut(), &mut scratch.as_f32_mut());
            cpu_weights::backward_weights(shape, inp.as_f32(), dout.as_f32(), dweights.as_mut_slice(), scratch.as_mut_slice(), *set);
        }
        Algorithm::Library(library, _) if library.backward(device.gpu(), Pass::Weights, shape, inp, dweights.as_ref(), dout) => {}
        Algorithm::GpuTiles(tile) | Algorithm::Library(_, tile) => {
            gpu_weights::launch_backward_weights(device.gpu(), tile, shape, inp, dout, dweights, scratch)?;
        }
    }
    Ok(())
}

/// Adds the sum over all pixels to each channel of `sums`.
pub(crate) fn add_pixel_sums(values: TensorRef, sums: &mut [f32]) {
    let found = sum_in_parts(values.layout().pixels(), sums.len(), |pixels, sums| {
        pixels.for_each(|pixel| sums.iter_mut().zip(values.pixel(pixel)).for_each(|(sum, &value)| *sum += value));
    });
    sums.iter_mut().zip(found).for_each(|(sum, found)| *sum += found as f32);
}

/// Shapes that every device is tested with: 1x1, odd, prime, one past a tile, partial panels, more than one chunk of
/// channels, every stride, a real layer, and several images.
pub const CASES: [ConvShape; 28] = [
    case(1, 1, 1, 1, 1, 1, 1),
    case(1, 1, 1, 1, 1, 3, 1),
    case(1, 2, 3, 5, 3, 7, 1),
    case(2, 9, 8, 5, 7, 3, 1),
    case(1, 7, 9, 3, 4, 3, 2),
    case(1, 8, 10, 4, 6, 3, 2),
    case(1, 11, 17, 1, 16, 7, 1),
    case(1, 11, 17, 1, 8, 7, 2),
    case(1, 5, 29, 16, 16, 3, 1),
    case(1, 13, 15, 16, 32, 3, 2),
    case(1, 6, 31, 64, 27, 3, 1),
    case(1, 4, 16, 64, 33, 3, 1),
    case(1, 3, 13, 65, 31, 3, 1),
    case(2, 5, 14, 129, 64, 1, 1),
    case(1, 9, 7, 200, 48, 1, 1),
    case(3, 1, 43, 12, 1, 1, 1),
    case(1, 10, 11, 24, 40, 3, 3),
    case(1, 12, 130, 8, 8, 3, 1),
    case(1, 12, 43, 8, 40, 3, 1),
    case(1, 64, 64, 64, 128, 3, 2),
    case(1, 32, 32, 128, 256, 3, 1),
    case(2, 18, 45, 1, 20, 7, 1),
    case(1, 5, 9, 3, 20, 3, 1),
    case(2, 3, 14, 112, 64, 1, 1),
    case(1, 4, 31, 96, 40, 1, 1),
    case(1, 2, 29, 448, 33, 1, 1),
    case(1, 3, 16, 128, 27, 1, 1),
    case(1, 21, 61, 16, 16, 3, 2),
];

const fn case(n: usize, h: usize, w: usize, ci: usize, co: usize, kernel: usize, stride: usize) -> ConvShape {
    ConvShape { n, h, w, ci, co, kernel, stride }
}

/// Runs all cases on a device, by every algorithm that there is, and compares them with the f64 reference; the output is
/// poisoned with NaN first.
///
/// Errors: as `forward`.
pub fn compare(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_as)
}

fn compare_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    proof::in_each_precision(device, |compute| compare_by::<T>(compute, |algorithm| algorithm.precision() == compute.precision))
}

/// Runs all cases forward by the algorithms that are wanted.
fn compare_by<T: Real>(compute: &Compute, wanted: impl Fn(&Algorithm) -> bool) -> Result<Vec<Agreement>> {
    let device = &compute.device;
    let mut agreements = Vec::new();
    for (i, shape) in CASES.into_iter().enumerate() {
        if device.leaves_out(shape.multiply_adds()) {
            continue;
        }
        let seed = i as u64;
        let inp = compute.precision.all_rounded(&noise(shape.n * shape.h * shape.w * shape.ci, seed));
        let weights = compute.precision.all_rounded(&noise(shape.weights_len(), seed + 100));
        let bias = noise(shape.co, seed + 200);
        let residual = (i % 2 == 1).then(|| noise(shape.out().iter().product(), seed + 300));
        let relu = i % 3 != 0;
        let exact =
            reference::<f64>(shape, &convert(&inp), &convert(&weights), &convert(&bias), residual.as_deref().map(convert).as_deref(), relu);
        let plain = reference::<f32>(shape, &inp, &weights, &bias, residual.as_deref(), relu);
        let most = most_summed(compute.precision, shape, &inp, &weights);
        let inp = Tensor::on(device, [shape.n, shape.h, shape.w, shape.ci], convert::<T>(&inp))?;
        let residual = residual.map(|values| Tensor::on(device, shape.out(), convert::<T>(&values))).transpose()?;
        for algorithm in algorithm::all(compute, Pass::Forward, shape).into_iter().filter(&wanted) {
            let case = format!("{shape:?} {algorithm}");
            let weights = Weights::pack(device, algorithm, shape.extents(), &weights, &bias)?;
            let mut out = Tensor::on(device, shape.out(), vec![T::from_f64(f64::NAN); exact.len()])?;
            let epilogue = Epilogue { residual: residual.as_ref().map(Tensor::view), relu };
            forward(device, shape, inp.view(), &weights, epilogue, &mut out.view_mut())?;
            agreements.push(Agreement::of(case, &out.to_vec()?, &plain, &exact).within::<T>(most));
        }
    }
    Ok(agreements)
}

/// What the sums of tensor cores may be off, whose order is not told: a unit in the last place for each summand, of the largest sum of
/// absolute values. None in f32, where the naive way says what is good.
fn most_summed(precision: Precision, shape: ConvShape, inp: &[f32], weights: &[f32]) -> Option<f64> {
    let absolute = |values: &[f32]| -> Vec<f64> { values.iter().map(|value| f64::from(value.abs())).collect() };
    (precision != Precision::F32).then(|| {
        let sums = reference::<f64>(shape, &absolute(inp), &absolute(weights), &vec![1.0; shape.co], None, false);
        let depth = shape.kernel * shape.kernel * shape.ci;
        depth as f64 * f64::from(f32::EPSILON) * sums.into_iter().fold(0.0, f64::max)
    })
}

/// Runs all cases backward on a device, by every algorithm that there is, and compares the gradients, added to what is there,
/// with the f64 reference.
///
/// Errors: as `backward_data`.
pub fn compare_backward(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_backward_as)
}

fn compare_backward_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    compare_backward_by::<T>(&device.into(), |_| true)
}

/// Runs all cases by the library alone, forward and backward.
///
/// Errors: as `forward` and `backward_data`.
pub fn compare_library(compute: &Compute) -> Result<Vec<Agreement>> {
    let is_library = |algorithm: &Algorithm| matches!(algorithm, Algorithm::Library(..));
    let forward = compare_by::<f32>(compute, is_library)?;
    Ok(forward.into_iter().chain(compare_backward_by::<f32>(compute, is_library)?).collect())
}

/// Runs all cases backward by the algorithms that are wanted; the gradient of the bias, which has one way alone, by the best ones.
fn compare_backward_by<T: Real>(compute: &Compute, wanted: fn(&Algorithm) -> bool) -> Result<Vec<Agreement>> {
    let device = &compute.device;
    let mut agreements = Vec::new();
    for (i, shape) in CASES.into_iter().enumerate() {
        if device.leaves_out(shape.multiply_adds()) {
            continue;
        }
        let seed = i as u64 + 1000;
        let inp_shape = [shape.n, shape.h, shape.w, shape.ci];
        let inp = noise(inp_shape.iter().product(), seed);
        let weights = noise(shape.weights_len(), seed + 100);
        let dout = noise(shape.out().iter().product(), seed + 200);
        let (dinp, dweights, dbias) = reference_backward::<f64>(shape, &convert(&inp), &convert(&weights), &convert(&dout));
        let plain = reference_backward::<f32>(shape, &inp, &weights, &dout);
        let inp = Tensor::on(device, inp_shape, convert::<T>(&inp))?;
        let dout = Tensor::on(device, shape.out(), convert::<T>(&dout))?;
        let weights = Tensor::flat_on(device, convert::<T>(&weights))?;
        let best = Algorithms::choose(compute, shape);
        let scratch = |algorithms: &Algorithms| Tensor::flat_on(device, vec![T::from_f64(f64::NAN); scratch_len(algorithms, shape)]);
        for algorithm in algorithm::all(compute, Pass::Data, shape).into_iter().filter(wanted) {
            let algorithms = Algorithms { data: algorithm, ..best.clone() };
            let case = format!("dinp of {shape:?} {}", algorithms.data);
            agreements.push(proof::agree(device, case, inp_shape, &plain.0, &dinp, |found| {
                let mut scratch = scratch(&algorithms)?;
                backward_data(device, shape, &algorithms.data, weights.view(), dout.view(), found, &mut scratch.view_mut())
            })?);
        }
        for algorithm in algorithm::all(compute, Pass::Weights, shape).into_iter().filter(wanted) {
            let algorithms = Algorithms { weights: algorithm, ..best.clone() };
            let case = format!("dweights of {shape:?} {}", algorithms.weights);
            agreements.push(proof::agree(device, case, proof::list(shape.weights_len()), &plain.1, &dweights, |found| {
                let (mut scratch, gradients) = (scratch(&algorithms)?, Gradients { dweights: found, dbias: None });
                backward_weights(device, shape, &algorithms.weights, inp.view(), dout.view(), gradients, &mut scratch.view_mut())
            })?);
        }
        agreements.push(proof::agree(device, format!("dbias of {shape:?}"), proof::list(shape.co), &plain.2, &dbias, |found| {
            let mut dweights = Tensor::flat_on(device, vec![T::default(); shape.weights_len()])?;
            let (mut scratch, dweights, mut dbias) = (scratch(&best)?, &mut dweights.view_mut(), found.reborrow());
            let gradients = Gradients { dweights, dbias: Some(&mut dbias) };
            backward_weights(device, shape, &best.weights, inp.view(), dout.view(), gradients, &mut scratch.view_mut())
        })?);
    }
    Ok(agreements)
}

/// The gradients of the f64 reference against finite differences.
pub fn differences() -> Vec<Agreement> {
    let mut agreements = Vec::new();
    for (i, shape) in CASES[..18].iter().copied().enumerate() {
        let seed = i as u64 + 2000;
        let random = |len: usize, k: u64| convert::<f64>(&noise(len, seed + 100 * k));
        let inp = random(shape.n * shape.h * shape.w * shape.ci, 0);
        let (weights, bias) = (random(shape.weights_len(), 1), random(shape.co, 2));
        let dout = random(shape.out().iter().product(), 3);
        let (dinp, dweights, dbias) = reference_backward(shape, &inp, &weights, &dout);
        let arguments = [(inp, dinp), (weights, dweights), (bias, dbias)];
        agreements.push(proof::differences(format!("{shape:?}"), arguments, &dout, |[inp, weights, bias]| {
            reference(shape, inp, weights, bias, None, false)
        }));
    }
    agreements
}
