//! Launchers of the batch norm. Kernels: kernels/batch_norm.cu.

use super::{Norm, RunningStatistics};
use crate::device::gpu::Gpu;
use crate::device::{TensorMut, TensorRef};
use crate::ops::Real;
use anyhow::Result;

pub(super) fn launch_forward<T: Real>(
    gpu: &Gpu,
    _inp: TensorRef<T>,
    _scale: TensorRef<T>,
    _shift: TensorRef<T>,
    _relu: bool,
    _out: &mut TensorMut<T>,
) -> Result<()> {
    gpu.no_kernel("batch_norm forward")
}

/// Values that training, forward or backward, needs to work with for maps of this shape.
pub(super) fn scratch_len<T: Real>(_shape: [usize; 4]) -> usize {
    0
}

pub(super) fn launch_train_forward<T: Real>(
    gpu: &Gpu,
    _norm: Norm,
    _inp: TensorRef<T>,
    _gamma: TensorRef<T>,
    _beta: TensorRef<T>,
    _running: Option<RunningStatistics<T>>,
    _residual: Option<TensorRef<T>>,
    _saved: &mut TensorMut<T>,
    _out: &mut TensorMut<T>,
    _scratch: &mut TensorMut<T>,
) -> Result<()> {
    gpu.no_kernel("batch_norm train_forward")
}

pub(super) fn launch_backward<T: Real>(
    gpu: &Gpu,
    _norm: Norm,
    _inp: TensorRef<T>,
    _out: TensorRef<T>,
    _dout: TensorRef<T>,
    _gamma: TensorRef<T>,
    _saved: TensorRef<T>,
    _dinp: &mut TensorMut<T>,
    _dresidual: Option<&mut TensorMut<T>>,
    _dgamma: &mut TensorMut<T>,
    _dbeta: &mut TensorMut<T>,
    _scratch: &mut TensorMut<T>,
) -> Result<()> {
    gpu.no_kernel("batch_norm backward")
}
