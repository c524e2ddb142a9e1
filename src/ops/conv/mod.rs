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
mod cpu_weights;
pub(crate) mod gpu;
mod reference;
mod weights;

pub use gpu::GpuPanels;
pub use reference::{reference, reference_backward};
pub use weights::{CpuPanels, Panels};

use super::{Agreement, Real, in_value_type, noise, proof, real::convert};
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
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a, T = f32> {
    /// Added to the output, pixel by pixel.
    pub residual: Option<TensorRef<'a, T>>,
    /// Negative values become 0.
    pub relu: bool,
}

// Not derived: that would ask for `T: Default`, which no view needs.
impl<T> Default for Epilogue<'_, T> {
    fn default() -> Self {
        Epilogue { residual: None, relu: false }
    }
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
    weights: &Panels<T>,
    epilogue: Epilogue<T>,
    out: &mut TensorMut<T>,
) -> Result<()> {
    assert_eq!(inp.shape(), [shape.n, shape.h, shape.w, shape.ci], "input of {shape:?}");
    assert_eq!(out.shape(), shape.out(), "output of {shape:?}");
    assert!((weights.ci(), weights.co(), weights.taps()) == (shape.ci, shape.co, shape.kernel * shape.kernel), "weights of {shape:?}");
    assert!(epilogue.residual.is_none_or(|residual| residual.shape() == shape.out()), "residual of {shape:?}");
    match device {
        Device::Cpu => {
            let epilogue = Epilogue { residual: epilogue.residual.map(TensorRef::as_f32), relu: epilogue.relu };
            cpu::forward(shape, inp.as_f32(), weights.cpu(), epilogue, &mut out.as_f32_mut());
        }
        Device::Gpu(gpu) => gpu::launch_forward(gpu, shape, inp, weights.gpu(), epilogue, out)?,
    }
    Ok(())
}

/// Values that the gradients need to work with.
pub fn scratch_len<T: Real>(device: &Device, shape: ConvShape) -> usize {
    match device {
        Device::Cpu => cpu_weights::scratch_len(shape, InstructionSet::detect()),
        Device::Gpu(_) => gpu::scratch_len(shape),
    }
}

/// Adds the gradient of the input.
///
/// Shapes: `dout` `shape.out()`, `weights` [co][ci][k][k], flat, `dinp` (n, h, w, ci), f32; `scratch` at least `scratch_len`.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn backward_data<T: Real>(
    device: &Device,
    shape: ConvShape,
    weights: TensorRef<T>,
    dout: TensorRef<T>,
    dinp: &mut TensorMut<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    backward_data_by(device, shape, weights, dout, dinp, scratch, InstructionSet::detect())
}

fn backward_data_by<T: Real>(
    device: &Device,
    shape: ConvShape,
    weights: TensorRef<T>,
    dout: TensorRef<T>,
    dinp: &mut TensorMut<T>,
    scratch: &mut TensorMut<T>,
    set: InstructionSet,
) -> Result<()> {
    assert_eq!(dinp.shape(), [shape.n, shape.h, shape.w, shape.ci], "gradient of the input of {shape:?}");
    assert_eq!(dout.shape(), shape.out(), "gradient of the output of {shape:?}");
    assert_eq!(weights.len(), shape.weights_len(), "weights of {shape:?}");
    match device {
        Device::Cpu => cpu::backward_data(shape, weights.as_f32().as_slice(), dout.as_f32(), &mut dinp.as_f32_mut(), set),
        Device::Gpu(gpu) => gpu::launch_backward_data(gpu, shape, weights, dout, dinp, scratch)?,
    }
    Ok(())
}

/// Adds the gradient of the weights, and that of the bias if there is one.
///
/// Shapes: `inp` (n, h, w, ci), `dout` `shape.out()`, `dweights` [co][ci][k][k] and `dbias` [co], flat, f32; `scratch` at
/// least `scratch_len`.
/// Errors: the launch fails on the device. Shapes that do not fit are a programming error and panic.
/// Source: the formula above.
pub fn backward_weights<T: Real>(
    device: &Device,
    shape: ConvShape,
    inp: TensorRef<T>,
    dout: TensorRef<T>,
    dweights: &mut TensorMut<T>,
    dbias: Option<&mut TensorMut<T>>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    backward_weights_by(device, shape, inp, dout, dweights, dbias, scratch, InstructionSet::detect())
}

fn backward_weights_by<T: Real>(
    device: &Device,
    shape: ConvShape,
    inp: TensorRef<T>,
    dout: TensorRef<T>,
    dweights: &mut TensorMut<T>,
    dbias: Option<&mut TensorMut<T>>,
    scratch: &mut TensorMut<T>,
    set: InstructionSet,
) -> Result<()> {
    assert_eq!(inp.shape(), [shape.n, shape.h, shape.w, shape.ci], "input of {shape:?}");
    assert_eq!(dout.shape(), shape.out(), "gradient of the output of {shape:?}");
    assert_eq!(dweights.len(), shape.weights_len(), "weights of {shape:?}");
    assert!(dbias.as_ref().is_none_or(|dbias| dbias.len() == shape.co), "bias of {shape:?}");
    match device {
        Device::Cpu => {
            let (dweights, scratch) = (&mut dweights.as_f32_mut(), &mut scratch.as_f32_mut());
            cpu_weights::backward_weights(shape, inp.as_f32(), dout.as_f32(), dweights.as_mut_slice(), scratch.as_mut_slice(), set);
            if let Some(dbias) = dbias {
                add_pixel_sums(dout.as_f32(), dbias.as_f32_mut().as_mut_slice());
            }
        }
        Device::Gpu(gpu) => gpu::launch_backward_weights(gpu, shape, inp, dout, dweights, dbias, scratch)?,
    }
    Ok(())
}

/// The ways in which a device is tested: every instruction set of the CPU; a GPU has one.
pub(crate) fn ways(device: &Device) -> Vec<InstructionSet> {
    match device {
        Device::Cpu => InstructionSet::available(),
        Device::Gpu(_) => vec![InstructionSet::Plain],
    }
}

/// The name of one of those.
pub(crate) fn way(device: &Device, set: InstructionSet) -> &'static str {
    match device {
        Device::Cpu => set.name(),
        Device::Gpu(_) => "gpu",
    }
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
pub const CASES: [ConvShape; 23] = [
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
];

const fn case(n: usize, h: usize, w: usize, ci: usize, co: usize, kernel: usize, stride: usize) -> ConvShape {
    ConvShape { n, h, w, ci, co, kernel, stride }
}

/// Runs all cases on a device and compares them with the f64 reference; the output is poisoned with NaN first.
///
/// Errors: as `forward`.
pub fn compare(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_as)
}

fn compare_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, shape) in CASES.into_iter().enumerate() {
        if device.leaves_out(shape.multiply_adds()) {
            continue;
        }
        let seed = i as u64;
        let inp = noise(shape.n * shape.h * shape.w * shape.ci, seed);
        let weights = noise(shape.co * shape.ci * shape.kernel * shape.kernel, seed + 100);
        let bias = noise(shape.co, seed + 200);
        let residual = (i % 2 == 1).then(|| noise(shape.out().iter().product(), seed + 300));
        let relu = i % 3 != 0;
        let exact =
            reference::<f64>(shape, &convert(&inp), &convert(&weights), &convert(&bias), residual.as_deref().map(convert).as_deref(), relu);
        let plain = reference::<f32>(shape, &inp, &weights, &bias, residual.as_deref(), relu);
        let inp = Tensor::on(device, [shape.n, shape.h, shape.w, shape.ci], convert::<T>(&inp))?;
        let residual = residual.map(|values| Tensor::on(device, shape.out(), convert::<T>(&values))).transpose()?;
        for set in ways(device) {
            let panels = Panels::for_set(device, shape.ci, shape.co, shape.kernel, &weights, &bias, set)?;
            let mut out = Tensor::on(device, shape.out(), vec![T::from_f64(f64::NAN); exact.len()])?;
            let epilogue = Epilogue { residual: residual.as_ref().map(Tensor::view), relu };
            forward(device, shape, inp.view(), &panels, epilogue, &mut out.view_mut())?;
            agreements.push(Agreement::of(format!("{shape:?} {}", way(device, set)), &out.to_vec()?, &plain, &exact));
        }
    }
    Ok(agreements)
}

/// Runs all cases backward on a device and compares the gradients, added to what is there, with the f64 reference.
///
/// Errors: as `backward_data`.
pub fn compare_backward(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_backward_as)
}

fn compare_backward_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
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
        let scratch = |set: InstructionSet| {
            let len = match device {
                Device::Cpu => cpu_weights::scratch_len(shape, set),
                Device::Gpu(_) => scratch_len::<T>(device, shape),
            };
            Tensor::flat_on(device, vec![T::from_f64(f64::NAN); len])
        };
        let list = proof::list(shape.weights_len());
        for set in ways(device) {
            let case = |what: &str| format!("{what} of {shape:?} {}", way(device, set));
            agreements.push(proof::agree(device, case("dinp"), inp_shape, &plain.0, &dinp, |found| {
                backward_data_by(device, shape, weights.view(), dout.view(), found, &mut scratch(set)?.view_mut(), set)
            })?);
            agreements.push(proof::agree(device, case("dweights"), list, &plain.1, &dweights, |found| {
                backward_weights_by(device, shape, inp.view(), dout.view(), found, None, &mut scratch(set)?.view_mut(), set)
            })?);
        }
        agreements.push(proof::agree(device, format!("dbias of {shape:?}"), proof::list(shape.co), &plain.2, &dbias, |found| {
            let mut dweights = Tensor::flat_on(device, vec![T::default(); shape.weights_len()])?;
            let scratch = &mut scratch(InstructionSet::detect())?;
            backward_weights(device, shape, inp.view(), dout.view(), &mut dweights.view_mut(), Some(found), &mut scratch.view_mut())
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
