//! The kernels of the deformable convolution on a GPU, as data: which tile each has, and what it asks of the maps. Whatever the tile,
//! a value is the same sum in the same order.

use super::DeformConvShape;
use crate::device::gpu::Gpu;
use crate::ops::Precision;
use crate::ops::conv::TF32_FROM;

/// A kernel of the forward pass, and when it is used. The gradients have tiles of 64 x 64, whatever the channels.
#[derive(Debug, PartialEq, Eq)]
pub struct Tile {
    /// What plans call it.
    pub(super) name: &'static str,
    /// The kernel's name in kernels/deform_conv.cu.
    pub(super) kernel: &'static str,
    /// Pixels and output channels of a block's tile.
    pub(super) size: [usize; 2],
    /// Most output channels that it is the best choice for.
    widest: usize,
    /// True if it reads four channels at once.
    pub(super) reads_fours: bool,
    /// What it multiplies: f32, or on tensor cores what they read.
    pub(super) precision: Precision,
    /// The least compute capability that it runs on.
    least: [u32; 2],
}

/// A tile is summed over this many channels at a time: DEPTH in the kernels.
pub(super) const DEPTH: usize = 8;

/// All kernels. The most particular stands first, and the last one can compute anything.
static TILES: [Tile; 7] = [
    Tile { widest: 16, ..tf32("deform_conv_tf32_128x16", "deform_conv_forward_tf32_128x16", [128, 16]) },
    Tile { widest: 32, ..tf32("deform_conv_tf32_128x32", "deform_conv_forward_tf32_128x32", [128, 32]) },
    tf32("deform_conv_tf32_128x64", "deform_conv_forward_tf32_128x64", [128, 64]),
    Tile { widest: 16, ..tile("deform_conv_128x16", "deform_conv_forward_128x16", [128, 16]) },
    Tile { widest: 32, ..tile("deform_conv_128x32", "deform_conv_forward_128x32", [128, 32]) },
    tile("deform_conv_64x64", "deform_conv_forward_64x64", [64, 64]),
    Tile { reads_fours: false, ..tile("deform_conv_any_64x64", "deform_conv_forward_any_64x64", [64, 64]) },
];

const fn tile(name: &'static str, kernel: &'static str, size: [usize; 2]) -> Tile {
    Tile { name, kernel, size, widest: usize::MAX, reads_fours: true, precision: Precision::F32, least: [5, 0] }
}

const fn tf32(name: &'static str, kernel: &'static str, size: [usize; 2]) -> Tile {
    Tile { precision: Precision::Tf32, least: TF32_FROM, ..tile(name, kernel, size) }
}

/// All kernels that can compute a shape in maps that lie so that four channels are read at once, in a precision or better.
pub(super) fn all(gpu: &Gpu, precision: Precision, shape: DeformConvShape) -> impl Iterator<Item = &'static Tile> {
    let capability = gpu.info().capability;
    let suits = move |tile: &&'static Tile| precision.allows(tile.precision) && tile.least <= capability;
    TILES.iter().filter(suits).filter(move |tile| !tile.reads_fours || has_fours(shape))
}

/// The best kernel for a shape.
pub(super) fn choose(gpu: &Gpu, precision: Precision, shape: DeformConvShape) -> &'static Tile {
    all(gpu, precision, shape).find(|tile| shape.co <= tile.widest).unwrap_or_else(|| unreachable!("the last kernel computes anything"))
}

/// True if any of the kernels, forward or backward, can read four channels at once.
fn has_fours(shape: DeformConvShape) -> bool {
    shape.ci.is_multiple_of(4) || shape.co.is_multiple_of(4)
}

impl Tile {
    /// This kernel, or where the channels or the map do not allow it to read four at once, the one that reads any map.
    pub(super) fn for_map(&'static self, shape: DeformConvShape, is_in_fours: bool) -> &'static Tile {
        if !self.reads_fours || is_in_fours && shape.ci.is_multiple_of(DEPTH) { self } else { &TILES[TILES.len() - 1] }
    }

    /// Chooses between a kernel of the gradients that reads fours and one that reads any map.
    pub(super) fn of_gradients(&self, allows_fours: bool, [fours, any]: [&'static str; 2]) -> &'static str {
        if self.reads_fours && allows_fours { fours } else { any }
    }
}
