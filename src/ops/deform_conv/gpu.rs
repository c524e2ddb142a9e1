//! Launchers of the deformable convolution. Kernels: kernels/deform_conv.cu.

use super::{DeformConvShape, Gradients};
use crate::device::gpu::Gpu;
use crate::device::{TensorMut, TensorRef};
use crate::ops::Real;
use crate::ops::conv::GpuPanels;
use anyhow::Result;

pub(super) fn launch_forward<T: Real>(
    gpu: &Gpu,
    _shape: DeformConvShape,
    _inp: TensorRef<T>,
    _offsets: TensorRef<T>,
    _weights: &GpuPanels<T>,
    _relu: bool,
    _out: &mut TensorMut<T>,
) -> Result<()> {
    gpu.no_kernel("deform_conv forward")
}

/// Values that the gradients need to work with.
pub(super) fn scratch_len<T: Real>(_shape: DeformConvShape) -> usize {
    0
}

pub(super) fn launch_backward<T: Real>(
    gpu: &Gpu,
    _shape: DeformConvShape,
    _inp: TensorRef<T>,
    _offsets: TensorRef<T>,
    _weights: TensorRef<T>,
    _dout: TensorRef<T>,
    _gradients: Gradients<T>,
    _scratch: &mut TensorMut<T>,
) -> Result<()> {
    gpu.no_kernel("deform_conv backward")
}
