//! Who computes a deformable convolution and its gradients, and how: chosen once, when a plan is made.

use super::DeformConvShape;
use super::gpu_tiles::{self, Tile};
use crate::device::{Device, cpu::InstructionSet};
use crate::ops::conv::Packing;
use crate::ops::{Compute, Precision};
use std::fmt;

/// A way to compute a deformable convolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The formula, one value after the other: what all the others are compared with.
    Reference,
    /// Samples of a tile of pixels, rounded to a precision, multiplied in register tiles of the CPU, for an instruction set.
    CpuTiles(InstructionSet, Precision),
    /// The same on a GPU, by this program's kernels.
    GpuTiles(&'static Tile),
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Algorithm::Reference => write!(f, "reference"),
            Algorithm::CpuTiles(set, Precision::F32) => write!(f, "tiles, {}", set.name()),
            Algorithm::CpuTiles(set, precision) => write!(f, "tiles, {}, samples in {}", set.name(), precision.name()),
            Algorithm::GpuTiles(tile) => write!(f, "{}", tile.name),
        }
    }
}

impl From<&Algorithm> for Packing {
    fn from(algorithm: &Algorithm) -> Self {
        match algorithm {
            Algorithm::Reference => Packing::Plain,
            Algorithm::CpuTiles(set, _) => Packing::Cpu(*set),
            Algorithm::GpuTiles(_) => Packing::Gpu { with_plain: false },
        }
    }
}

impl Algorithm {
    /// What it multiplies, whatever it is asked for.
    pub fn precision(&self) -> Precision {
        match self {
            Algorithm::GpuTiles(tile) => tile.precision,
            Algorithm::CpuTiles(_, precision) => *precision,
            Algorithm::Reference => Precision::F32,
        }
    }
}

/// Everything that can compute a deformable convolution here, in the precision that is asked for or better.
pub fn all(compute: &Compute, shape: DeformConvShape) -> Vec<Algorithm> {
    match &compute.device {
        Device::Cpu => InstructionSet::available().into_iter().map(|set| Algorithm::CpuTiles(set, compute.precision)).collect(),
        Device::Gpu(gpu) => gpu_tiles::all(gpu, compute.precision, shape).map(Algorithm::GpuTiles).collect(),
        Device::Reference => vec![Algorithm::Reference],
    }
}

/// What computes a deformable convolution best here.
pub fn choose(compute: &Compute, shape: DeformConvShape) -> Algorithm {
    match &compute.device {
        Device::Cpu => Algorithm::CpuTiles(InstructionSet::detect(), compute.precision),
        Device::Gpu(gpu) => Algorithm::GpuTiles(gpu_tiles::choose(gpu, compute.precision, shape)),
        Device::Reference => Algorithm::Reference,
    }
}
