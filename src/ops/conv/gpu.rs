//! Convolution on the GPU: how its weights lie, and its launchers. Kernels: kernels/conv.cu.

use super::{ConvShape, Epilogue};
use crate::device::gpu::{Arg, Gpu};
use crate::device::{Buffer, Device, TensorMut, TensorRef};
use crate::ops::Real;
use anyhow::Result;

/// Weights [tap][ci][co] and bias [co], where rows of output channels are filled up with zeros to a multiple of 4, so that
/// each starts at a multiple of 16 bytes. The bias follows the weights; without one it is zeros.
#[derive(Debug)]
pub struct GpuPanels<T: Real> {
    ci: usize,
    co: usize,
    taps: usize,
    /// Where the values lie; kept alive by `owned`, or by whoever lent the memory.
    address: u64,
    owned: Option<Buffer<T>>,
}

impl<T: Real> GpuPanels<T> {
    /// Values of the packed weights and bias of [ci, co, kernel].
    pub fn len([ci, co, kernel]: [usize; 3]) -> usize {
        (kernel * kernel * ci + 1) * Self::stride(co)
    }

    /// Values from one row of output channels to the next.
    pub fn stride(co: usize) -> usize {
        co.next_multiple_of(4)
    }

    /// Packs `weights` [co][ci][k][k] and `bias` [co] (or empty: zeros) on the host and copies them.
    ///
    /// Errors: the device has not as much memory.
    pub fn pack(gpu: &Gpu, [ci, co, kernel]: [usize; 3], weights: &[T], bias: &[T]) -> Result<Self> {
        let (taps, stride) = (kernel * kernel, Self::stride(co));
        assert!(weights.len() == co * ci * taps && (bias.is_empty() || bias.len() == co), "weights of {co} x {ci} x {kernel} x {kernel}");
        let mut values = vec![T::default(); Self::len([ci, co, kernel])];
        for (o, weights) in weights.chunks_exact(ci * taps).enumerate() {
            for (i, &weight) in weights.iter().enumerate() {
                values[(i % taps * ci + i / taps) * stride + o] = weight;
            }
        }
        values[taps * ci * stride..][..bias.len()].copy_from_slice(bias);
        let owned = Buffer::of(&Device::Gpu(gpu.clone()), values)?;
        Ok(GpuPanels { ci, co, taps, address: owned.base() as u64, owned: Some(owned) })
    }

    /// The same of weights that lie on the GPU, into `scratch` of `len` values.
    ///
    /// Errors: the launch fails.
    pub fn pack_into(
        gpu: &Gpu,
        [ci, co, kernel]: [usize; 3],
        weights: TensorRef<T>,
        bias: TensorRef<T>,
        scratch: &mut TensorMut<T>,
    ) -> Result<Self> {
        let taps = kernel * kernel;
        assert!(weights.len() == co * ci * taps && (bias.is_empty() || bias.len() == co), "weights of {co} x {ci} x {kernel} x {kernel}");
        assert!(scratch.len() >= Self::len([ci, co, kernel]));
        gpu.no_kernel("conv weights")
    }

    /// Channels of the input.
    pub fn ci(&self) -> usize {
        self.ci
    }

    /// Channels of the output.
    pub fn co(&self) -> usize {
        self.co
    }

    /// Number of taps.
    pub fn taps(&self) -> usize {
        self.taps
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.owned.as_ref().map_or(0, |owned| owned.len() * size_of::<T>())
    }

    /// The weights as an argument of a kernel.
    pub fn weights_arg(&self) -> Arg {
        Arg::values_at(self.address, size_of::<T>())
    }

    /// The bias as an argument of a kernel.
    pub fn bias_arg(&self) -> Arg {
        Arg::values_at(self.address + (self.taps * self.ci * Self::stride(self.co) * size_of::<T>()) as u64, size_of::<T>())
    }
}

pub(super) fn launch_forward<T: Real>(
    gpu: &Gpu,
    _shape: ConvShape,
    _inp: TensorRef<T>,
    _weights: &GpuPanels<T>,
    _epilogue: Epilogue<T>,
    _out: &mut TensorMut<T>,
) -> Result<()> {
    gpu.no_kernel("conv forward")
}

/// Values that the gradients need to work with.
pub(super) fn scratch_len<T: Real>(_shape: ConvShape) -> usize {
    0
}

pub(super) fn launch_backward_data<T: Real>(
    gpu: &Gpu,
    _shape: ConvShape,
    _weights: TensorRef<T>,
    _dout: TensorRef<T>,
    _dinp: &mut TensorMut<T>,
    _scratch: &mut TensorMut<T>,
) -> Result<()> {
    gpu.no_kernel("conv backward_data")
}

pub(super) fn launch_backward_weights<T: Real>(
    gpu: &Gpu,
    _shape: ConvShape,
    _inp: TensorRef<T>,
    _dout: TensorRef<T>,
    _dweights: &mut TensorMut<T>,
    _dbias: Option<&mut TensorMut<T>>,
    _scratch: &mut TensorMut<T>,
) -> Result<()> {
    gpu.no_kernel("conv backward_weights")
}
