//! Who computes a convolution, and how: chosen once, when a plan is made, and kept with the weights that are packed for it.
//!
//! A new algorithm is a file of its own, an arm of `Algorithm` with its name and packing, a line of `all` (by which tests,
//! benches and the doctor run it), one of `choose` where it is the best, and an arm where mod.rs starts the products.

use super::cpu_winograd;
use super::gpu_tiles::{self, Tile};
use super::library::Library;
use super::weights::Packing;
use super::{ConvShape, Pass};
use crate::device::{Device, cpu::InstructionSet};
use crate::ops::{Compute, Precision};
use std::fmt;
use std::sync::Arc;

/// A way to compute a product of a convolution.
#[derive(Clone, Debug)]
pub enum Algorithm {
    /// The formula, one value after the other: what all the others are compared with.
    Reference,
    /// Register tiles of the CPU, for an instruction set.
    CpuTiles(InstructionSet),
    /// Winograd's way on the CPU, for an instruction set.
    CpuWinograd(InstructionSet),
    /// Register tiles of a GPU, by one of this program's kernels.
    GpuTiles(&'static Tile),
    /// A library of the GPU's maker, and a kernel of this program for what it refuses.
    Library(Arc<Library>, &'static Tile),
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Algorithm::Reference => write!(f, "reference"),
            Algorithm::CpuTiles(set) => write!(f, "tiles, {}", set.name()),
            Algorithm::CpuWinograd(set) => write!(f, "Winograd, {}", set.name()),
            Algorithm::GpuTiles(tile) => write!(f, "{}", tile.kernel),
            Algorithm::Library(library, _) => write!(f, "{}", library.name()),
        }
    }
}

impl From<&Algorithm> for Packing {
    fn from(algorithm: &Algorithm) -> Self {
        match algorithm {
            Algorithm::Reference => Packing::Plain,
            Algorithm::CpuTiles(set) => Packing::Cpu(*set),
            Algorithm::CpuWinograd(set) => Packing::CpuPoints(*set),
            Algorithm::GpuTiles(_) => Packing::Gpu { with_plain: false },
            Algorithm::Library(..) => Packing::Gpu { with_plain: true },
        }
    }
}

impl Algorithm {
    /// Rows of the output that it computes together, where it can compute some of them alone.
    pub fn rows_together(&self) -> Option<usize> {
        match self {
            Algorithm::CpuTiles(_) => Some(1),
            Algorithm::CpuWinograd(_) => Some(cpu_winograd::ROWS_OF_TILES),
            Algorithm::Reference | Algorithm::GpuTiles(_) | Algorithm::Library(..) => None,
        }
    }

    /// What it multiplies, whatever it is asked for.
    pub fn precision(&self) -> Precision {
        match self {
            Algorithm::GpuTiles(tile) => tile.precision,
            Algorithm::Reference | Algorithm::CpuTiles(_) | Algorithm::CpuWinograd(_) | Algorithm::Library(..) => Precision::F32,
        }
    }
}

/// Everything that can compute a product here, in the precision that is asked for or better.
pub fn all(compute: &Compute, pass: Pass, shape: ConvShape) -> Vec<Algorithm> {
    match &compute.device {
        Device::Cpu => {
            let by_winograd = (pass != Pass::Weights && cpu_winograd::suits(shape)).then_some(Algorithm::CpuWinograd as fn(_) -> _);
            let ways = [Some(Algorithm::CpuTiles as fn(_) -> _), by_winograd].into_iter().flatten();
            ways.flat_map(|way| InstructionSet::available().into_iter().map(way)).collect()
        }
        Device::Gpu(gpu) => {
            let by_library =
                |library: &Arc<Library>| Algorithm::Library(library.clone(), gpu_tiles::choose(gpu, compute.precision, pass, shape));
            gpu_tiles::all(gpu, compute.precision, pass, shape)
                .map(Algorithm::GpuTiles)
                .chain(compute.library.as_ref().map(by_library))
                .collect()
        }
        Device::Reference => vec![Algorithm::Reference],
    }
}

/// What computes a product best here, with weights that are packed once.
pub fn choose(compute: &Compute, pass: Pass, shape: ConvShape) -> Algorithm {
    choose_where(compute, pass, shape, cpu_winograd::pays)
}

/// What computes a product best here, if Winograd's way pays where it is said to.
fn choose_where(compute: &Compute, pass: Pass, shape: ConvShape, winograd_pays: fn(ConvShape) -> bool) -> Algorithm {
    match (&compute.device, &compute.library) {
        (Device::Cpu, _) if pass != Pass::Weights && winograd_pays(shape) => Algorithm::CpuWinograd(InstructionSet::detect()),
        (Device::Cpu, _) => Algorithm::CpuTiles(InstructionSet::detect()),
        (Device::Gpu(gpu), Some(library)) => Algorithm::Library(library.clone(), gpu_tiles::choose(gpu, compute.precision, pass, shape)),
        (Device::Gpu(gpu), None) => Algorithm::GpuTiles(gpu_tiles::choose(gpu, compute.precision, pass, shape)),
        (Device::Reference, _) => Algorithm::Reference,
    }
}

/// The algorithms of a layer in training, one for each product.
#[derive(Clone, Debug)]
pub struct Algorithms {
    /// Of the output.
    pub forward: Algorithm,
    /// Of the gradient of the input.
    pub data: Algorithm,
    /// Of the gradient of the weights.
    pub weights: Algorithm,
}

impl Algorithms {
    /// The best ones here.
    pub fn choose(compute: &Compute, shape: ConvShape) -> Self {
        let [forward, data] = [Pass::Forward, Pass::Data].map(|pass| choose_where(compute, pass, shape, cpu_winograd::pays_in_training));
        // The gradient of the weights is found image by image.
        let weights = choose(compute, Pass::Weights, shape.one_image());
        Algorithms { forward, data, weights }
    }
}
