//! Who computes a deformable convolution and its gradients, and how: chosen once, when a plan is made.

use super::DeformConvShape;
use crate::device::{Device, cpu::InstructionSet};
use crate::ops::Compute;
use crate::ops::conv::Packing;
use std::fmt;

/// A way to compute a deformable convolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The formula, one value after the other: what all the others are compared with.
    Reference,
    /// Samples of a tile of pixels, multiplied in register tiles of the CPU, for an instruction set.
    CpuTiles(InstructionSet),
    /// The same on a GPU, by this program's kernels.
    GpuTiles(Reads),
}

/// How many channels a kernel reads at once. Where the channels or the maps do not allow four, it reads one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Four at once.
    Fours,
    /// One at a time.
    Ones,
}

impl Reads {
    /// Chooses between a kernel that reads fours and one that reads any map.
    pub(super) fn kernel(self, allows_fours: bool, [fours, any]: [&'static str; 2]) -> &'static str {
        if self == Reads::Fours && allows_fours { fours } else { any }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Algorithm::Reference => write!(f, "reference"),
            Algorithm::CpuTiles(set) => write!(f, "tiles, {}", set.name()),
            Algorithm::GpuTiles(Reads::Fours) => write!(f, "deform_conv_64x64"),
            Algorithm::GpuTiles(Reads::Ones) => write!(f, "deform_conv_any_64x64"),
        }
    }
}

impl From<&Algorithm> for Packing {
    fn from(algorithm: &Algorithm) -> Self {
        match algorithm {
            Algorithm::Reference => Packing::Plain,
            Algorithm::CpuTiles(set) => Packing::Cpu(*set),
            Algorithm::GpuTiles(_) => Packing::Gpu { with_plain: false },
        }
    }
}

/// Everything that can compute a deformable convolution here.
pub fn all(compute: &Compute, shape: DeformConvShape) -> Vec<Algorithm> {
    match &compute.device {
        Device::Cpu => InstructionSet::available().into_iter().map(Algorithm::CpuTiles).collect(),
        Device::Gpu(_) if has_fours(shape) => vec![Algorithm::GpuTiles(Reads::Fours), Algorithm::GpuTiles(Reads::Ones)],
        Device::Gpu(_) => vec![Algorithm::GpuTiles(Reads::Ones)],
        Device::Reference => vec![Algorithm::Reference],
    }
}

/// What computes a deformable convolution best here.
pub fn choose(compute: &Compute, shape: DeformConvShape) -> Algorithm {
    match &compute.device {
        Device::Cpu => Algorithm::CpuTiles(InstructionSet::detect()),
        Device::Gpu(_) => Algorithm::GpuTiles(if has_fours(shape) { Reads::Fours } else { Reads::Ones }),
        Device::Reference => Algorithm::Reference,
    }
}

/// True if any of the kernels can read four channels at once.
fn has_fours(shape: DeformConvShape) -> bool {
    shape.ci.is_multiple_of(4) || shape.co.is_multiple_of(4)
}
