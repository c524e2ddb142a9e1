//! The gradient of a convolution's weights on the GPU. Kernels: kernels/conv.cu.

use super::gpu::{THREADS, window_arg};
use super::gpu_tiles::{DEPTH, Tile};
use super::window::Window;
use super::{ConvShape, Pass};
use crate::device::gpu::{Arg, Gpu, Grid};
use crate::device::{TensorMut, TensorRef};
use crate::ops::Real;
use crate::ops::launch::{MOVERS, PixelParts, ScratchPieces, by_four, check_places, values_at};
use anyhow::Result;

/// The sum over the pixels is cut into enough parts for about this many blocks.
const WEIGHT_BLOCKS: usize = 512;
/// A part has at least this many pixels.
const PART_PIXELS: usize = 256;
/// There are no more parts than this.
const MOST_PARTS: usize = 128;
/// The sums of all parts together have no more values than this (16 MiB), unless those of one part have.
const PART_VALUES: usize = 4 << 20;

/// How the gradient of the weights is cut into parts of the output's pixels: by the shape alone.
pub(crate) struct WeightParts {
    pub(crate) count: usize,
    pub(crate) pixels: usize,
    /// Rows (tap, ci) and columns (co, filled up to fours) of the sums of each.
    rows: usize,
    columns: usize,
}

impl WeightParts {
    /// The parts of a convolution.
    pub(crate) fn of(shape: ConvShape) -> Self {
        Self::with_tile(shape, [128, if shape.co > 32 { 64 } else { 32 }])
    }

    /// The parts where a block sums a tile of these rows and columns.
    pub(crate) fn with_tile(shape: ConvShape, tile: [usize; 2]) -> Self {
        let [n, oh, ow, co] = shape.out();
        let (pixels, rows, columns) = (n * oh * ow, shape.kernel * shape.kernel * shape.ci, co.next_multiple_of(4));
        let blocks = rows.div_ceil(tile[0]) * co.div_ceil(tile[1]);
        let most = (PART_VALUES / (rows * columns)).min(pixels / PART_PIXELS).clamp(1, MOST_PARTS);
        let part = pixels.div_ceil(WEIGHT_BLOCKS.div_ceil(blocks).min(most)).next_multiple_of(DEPTH);
        WeightParts { count: pixels.div_ceil(part), pixels: part, rows, columns }
    }

    /// Values of the sums of all parts.
    pub(crate) fn len(&self) -> usize {
        self.count * self.rows * self.columns
    }

    /// Adds the sums of all parts to the gradient `[co][ci][k][k]`.
    pub(crate) fn add<T: Real>(&self, gpu: &Gpu, shape: ConvShape, sums: u64, dweights: &mut TensorMut<T>) -> Result<()> {
        let ConvShape { ci, co, kernel, .. } = shape;
        let [co_arg, ci_arg, taps, parts] = [co, ci, kernel * kernel, self.count].map(|x| Arg::value(x as u32));
        let grid = Grid([self.rows.div_ceil(32) as u32, co.div_ceil(32) as u32, 1]);
        let args = [co_arg, ci_arg, taps, parts, values_at::<T>(sums), dweights.arg()];
        // SAFETY: the arguments of the KERNEL line, in its order; all parts have been written, and there are as many weights as
        // the shape says.
        unsafe { gpu.launch("conv_add_weights", grid, MOVERS, &args) }
    }
}

/// Adds the gradient of the weights by way of its parts.
pub(super) fn launch_backward_weights<T: Real>(
    gpu: &Gpu,
    tile: &'static Tile,
    shape: ConvShape,
    inp: TensorRef<T>,
    dout: TensorRef<T>,
    dweights: &mut TensorMut<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let (window, parts) = (Window::forward(shape), WeightParts::of(shape));
    let sums = ScratchPieces::of(scratch).take(parts.len())?;
    let tile = tile.for_maps(gpu, Pass::Weights, window, [by_four(inp), by_four(dout)]);
    check_places(inp, tile.unit)?;
    let ([rows, columns], channels) = (tile.size, shape.co);
    let (grid, part) = match tile.rectangle {
        Some([height, width]) => {
            let tiles = window.n * window.grid[0].div_ceil(height) * window.grid[1].div_ceil(width);
            ([channels.div_ceil(columns), 1], tiles.div_ceil(parts.count))
        }
        None => ([parts.rows.div_ceil(rows), channels.div_ceil(columns)], parts.pixels),
    };
    let grid = Grid([grid[0] as u32, grid[1] as u32, parts.count as u32]);
    let part = Arg::value(part as u32);
    let args = [window_arg(&window), part, inp.arg(), inp.stride_arg(), dout.arg(), dout.stride_arg(), values_at::<T>(sums)];
    // SAFETY: the arguments of the KERNEL line, in its order; the shapes of both maps were checked against the convolution's,
    // and there is room for the sums of all parts.
    unsafe { gpu.launch(tile.kernel, grid, THREADS, &args) }?;
    parts.add(gpu, shape, sums, dweights)
}

/// Adds the gradient of the bias: the sum of `dout` over its pixels. One stream runs in order, so the memory of the parts of
/// the weights' gradient serves once more.
pub(super) fn launch_backward_bias<T: Real>(
    gpu: &Gpu,
    dout: TensorRef<T>,
    dbias: &mut TensorMut<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let parts = PixelParts::of(dout.shape());
    let sums = ScratchPieces::of(scratch).take(parts.len())?;
    parts.add(gpu, dout, sums, dbias)
}
