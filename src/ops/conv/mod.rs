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

mod cpu;
mod panels;
mod reference;
mod weight_gradient;

pub use panels::Panels;
pub use reference::{reference, reference_backward};

use super::{Agreement, backward, noise, real::convert};
use crate::device::tensor::Layout;
use crate::device::{Device, Tensor, TensorMut, TensorRef, cpu::InstructionSet, cpu::sum_in_parts};
use anyhow::Result;

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
    /// Shape of the output, (n, h, w, c): (extent + 2 (k/2) - k) / stride + 1.
    pub fn out(&self) -> [usize; 4] {
        let extent = |x: usize| (x + 2 * (self.kernel / 2)).saturating_sub(self.kernel) / self.stride + 1;
        [self.n, extent(self.h), extent(self.w), self.co]
    }

    /// Number of weights.
    pub fn weights_len(&self) -> usize {
        self.co * self.ci * self.kernel * self.kernel
    }

    /// Multiply-adds.
    pub fn multiply_adds(&self) -> u64 {
        let [n, h, w, co] = self.out().map(|x| x as u64);
        n * h * w * co * (self.ci * self.kernel * self.kernel) as u64
    }
}

/// What follows the sum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added to the output, pixel by pixel.
    pub residual: Option<TensorRef<'a>>,
    /// Negative values become 0.
    pub relu: bool,
}

/// Convolves `inp` with the packed weights into `out`.
///
/// Shapes: `inp` (n, h, w, ci) into `out` `shape.out()`, f32; the residual is shaped as `out`.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn forward(device: &Device, shape: ConvShape, inp: TensorRef, weights: &Panels, epilogue: Epilogue, out: &mut TensorMut) -> Result<()> {
    assert_eq!(inp.shape(), [shape.n, shape.h, shape.w, shape.ci], "input of {shape:?}");
    assert_eq!(out.shape(), shape.out(), "output of {shape:?}");
    assert!((weights.ci(), weights.co(), weights.taps()) == (shape.ci, shape.co, shape.kernel * shape.kernel), "weights of {shape:?}");
    assert!(epilogue.residual.is_none_or(|residual| residual.shape() == shape.out()), "residual of {shape:?}");
    match device {
        Device::Cpu => cpu::forward(shape, inp, weights, epilogue, out),
        Device::Gpu(gpu) => match *gpu {},
    }
    Ok(())
}

/// Adds the gradient of the input.
///
/// Shapes: `dout` `shape.out()`, `weights` [co][ci][k][k], `dinp` (n, h, w, ci), f32.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn backward_data(device: &Device, shape: ConvShape, weights: &[f32], dout: TensorRef, dinp: &mut TensorMut) -> Result<()> {
    assert_eq!(dinp.shape(), [shape.n, shape.h, shape.w, shape.ci], "gradient of the input of {shape:?}");
    assert_eq!(dout.shape(), shape.out(), "gradient of the output of {shape:?}");
    assert_eq!(weights.len(), shape.weights_len(), "weights of {shape:?}");
    match device {
        Device::Cpu => cpu::backward_data(shape, weights, dout, dinp, InstructionSet::detect()),
        Device::Gpu(gpu) => match *gpu {},
    }
    Ok(())
}

/// Values that `backward_weights` needs to work with.
pub fn weight_scratch_len(device: &Device, shape: ConvShape) -> usize {
    match device {
        Device::Cpu => weight_gradient::scratch_len(shape, InstructionSet::detect()),
        Device::Gpu(gpu) => match *gpu {},
    }
}

/// Adds the gradient of the weights, and that of the bias if there is one.
///
/// Shapes: `inp` (n, h, w, ci), `dout` `shape.out()`, `dweights` [co][ci][k][k], `dbias` [co], f32; `scratch` at least
/// `weight_scratch_len`.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn backward_weights(
    device: &Device,
    shape: ConvShape,
    inp: TensorRef,
    dout: TensorRef,
    dweights: &mut [f32],
    dbias: Option<&mut [f32]>,
    scratch: &mut [f32],
) -> Result<()> {
    assert_eq!(inp.shape(), [shape.n, shape.h, shape.w, shape.ci], "input of {shape:?}");
    assert_eq!(dout.shape(), shape.out(), "gradient of the output of {shape:?}");
    assert_eq!(dweights.len(), shape.weights_len(), "weights of {shape:?}");
    match device {
        Device::Cpu => {
            weight_gradient::backward_weights(shape, inp, dout, dweights, scratch, InstructionSet::detect());
            if let Some(dbias) = dbias {
                add_pixel_sums(dout, dbias);
            }
        }
        Device::Gpu(gpu) => match *gpu {},
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
pub const CASES: [ConvShape; 20] = [
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
    case(1, 64, 64, 64, 128, 3, 2),
    case(1, 32, 32, 128, 256, 3, 1),
];

const fn case(n: usize, h: usize, w: usize, ci: usize, co: usize, kernel: usize, stride: usize) -> ConvShape {
    ConvShape { n, h, w, ci, co, kernel, stride }
}

/// Runs all cases on a device and compares them with the f64 reference; the output is poisoned with NaN first.
///
/// Errors: as `forward`.
pub fn compare(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, shape) in CASES.into_iter().enumerate() {
        let seed = i as u64;
        let inp = noise(shape.n * shape.h * shape.w * shape.ci, seed);
        let weights = noise(shape.co * shape.ci * shape.kernel * shape.kernel, seed + 100);
        let bias = noise(shape.co, seed + 200);
        let residual = (i % 2 == 1).then(|| noise(shape.out().iter().product(), seed + 300));
        let relu = i % 3 != 0;
        let exact =
            reference::<f64>(shape, &convert(&inp), &convert(&weights), &convert(&bias), residual.as_deref().map(convert).as_deref(), relu);
        let plain = reference::<f32>(shape, &inp, &weights, &bias, residual.as_deref(), relu);
        let inp = Tensor::from_values([shape.n, shape.h, shape.w, shape.ci], inp);
        let residual = residual.map(|values| Tensor::from_values(shape.out(), values));
        for set in InstructionSet::available() {
            let panels = Panels::pack(shape.ci, shape.co, shape.kernel, &weights, &bias, set);
            let mut out = Tensor::from_values(shape.out(), vec![f32::NAN; exact.len()]);
            let epilogue = Epilogue { residual: residual.as_ref().map(Tensor::view), relu };
            forward(device, shape, inp.view(), &panels, epilogue, &mut out.view_mut())?;
            agreements.push(Agreement::of(format!("{shape:?} {}", set.name()), out.values(), &plain, &exact));
        }
    }
    Ok(agreements)
}

/// Runs all cases backward on a device and compares the gradients, added to what is there, with the f64 reference.
///
/// Errors: as `backward_data`.
pub fn compare_backward(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, shape) in CASES.into_iter().enumerate() {
        let seed = i as u64 + 1000;
        let inp_shape = [shape.n, shape.h, shape.w, shape.ci];
        let inp = noise(inp_shape.iter().product(), seed);
        let weights = noise(shape.weights_len(), seed + 100);
        let dout = noise(shape.out().iter().product(), seed + 200);
        let (dinp, dweights, dbias) = reference_backward::<f64>(shape, &convert(&inp), &convert(&weights), &convert(&dout));
        let plain = reference_backward::<f32>(shape, &inp, &weights, &dout);
        let (inp, dout) = (Tensor::from_values(inp_shape, inp), Tensor::from_values(shape.out(), dout));
        for set in InstructionSet::available() {
            let case = |what: &str| format!("{what} of {shape:?} {}", set.name());
            agreements.push(backward::agree(case("dinp"), &plain.0, &dinp, |found| {
                let mut found = TensorMut::new(found, Layout::packed(inp_shape));
                match device {
                    Device::Cpu => cpu::backward_data(shape, &weights, dout.view(), &mut found, set),
                    Device::Gpu(gpu) => match *gpu {},
                }
                Ok(())
            })?);
            agreements.push(backward::agree(case("dweights"), &plain.1, &dweights, |found| {
                let mut scratch = vec![f32::NAN; weight_gradient::scratch_len(shape, set)];
                match device {
                    Device::Cpu => weight_gradient::backward_weights(shape, inp.view(), dout.view(), found, &mut scratch, set),
                    Device::Gpu(gpu) => match *gpu {},
                }
                Ok(())
            })?);
        }
        agreements.push(backward::agree(format!("dbias of {shape:?}"), &plain.2, &dbias, |found| {
            let mut scratch = vec![f32::NAN; weight_scratch_len(device, shape)];
            backward_weights(device, shape, inp.view(), dout.view(), &mut vec![0.0; shape.weights_len()], Some(found), &mut scratch)
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
        agreements.push(backward::differences(format!("{shape:?}"), arguments, &dout, |[inp, weights, bias]| {
            reference(shape, inp, weights, bias, None, false)
        }));
    }
    agreements
}
