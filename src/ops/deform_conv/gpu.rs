//! Launchers of the deformable convolution. Kernels: kernels/deform_conv.cu.

use super::backward::{Gradients, Kept};
use super::gpu_tiles::{DEPTH, Tile};
use super::{DeformConvShape, TAPS};
use crate::device::gpu::{Arg, Gpu, Grid};
use crate::device::{TensorMut, TensorRef};
use crate::kernel_struct;
use crate::ops::Real;
use crate::ops::conv::gpu::{GpuPanels, backward_rows_len, pack_backward_rows};
use crate::ops::conv::gpu_weights::WeightParts;
use crate::ops::launch::{MOVERS, OUT_BY_FOUR, PixelParts, ScratchPieces, WITH_BIAS, WITH_RELU, by_four, check_places, values_at};
use anyhow::Result;

/// Threads of a block of the products, as the KERNEL lines say.
const THREADS: u32 = 128;
/// Rows and columns of a block's tile of the gradients.
const TILE: usize = 64;

/// The kernels' shape struct.
fn shape_arg(DeformConvShape { n, h, w, ci, co }: DeformConvShape) -> Arg {
    kernel_struct!(DeformConvShape { n, h, w, ci, co })
}

/// Blocks over all pixels, each of so many.
fn blocks(shape: DeformConvShape, pixels: usize) -> u32 {
    (shape.n * shape.h * shape.w).div_ceil(pixels) as u32
}

pub(super) fn launch_forward<T: Real>(
    gpu: &Gpu,
    tile: &'static Tile,
    shape: DeformConvShape,
    inp: TensorRef<T>,
    offsets: TensorRef<T>,
    weights: &GpuPanels<T>,
    relu: bool,
    out: &mut TensorMut<T>,
) -> Result<()> {
    let tile = tile.for_map(shape, by_four(inp));
    check_places(inp, if tile.reads_fours { 4 } else { 1 })?;
    let four_out = shape.co.is_multiple_of(4) && by_four(out.as_ref());
    let flags = WITH_BIAS | if relu { WITH_RELU } else { 0 } | if four_out { OUT_BY_FOUR } else { 0 };
    let grid = Grid([blocks(shape, tile.size[0]), shape.co.div_ceil(tile.size[1]) as u32, 1]);
    let [weights, weights_stride, bias] = weights.args();
    let args = [
        shape_arg(shape),
        Arg::value(flags),
        inp.arg(),
        inp.stride_arg(),
        offsets.arg(),
        offsets.stride_arg(),
        weights,
        weights_stride,
        bias,
        out.arg(),
        out.stride_arg(),
    ];
    // SAFETY: the arguments of the KERNEL line, in its order; the shapes of all maps were checked against the shape struct,
    // and the weights are packed in whole tiles.
    unsafe { gpu.launch(tile.kernel, grid, THREADS, &args) }
}

/// Values of the pieces of scratch memory: the largest values (4 u32), the fixed-point sums of the gradient of the input
/// (one u64 each), packed weights, and the sums of parts.
fn pieces<T: Real>(shape: DeformConvShape) -> [usize; 4] {
    let DeformConvShape { n, h, w, ci, co } = shape;
    let parts = weight_parts(shape).len().max(PixelParts::of([n, h, w, co]).len());
    [16 / size_of::<T>(), n * h * w * ci * 8 / size_of::<T>(), backward_rows_len([ci, co, 3]), parts]
}

fn weight_parts(shape: DeformConvShape) -> WeightParts {
    WeightParts::with_tile(shape.plain(), [TILE, TILE])
}

/// Values that the gradients need to work with.
pub(super) fn scratch_len<T: Real>(shape: DeformConvShape) -> usize {
    ScratchPieces::len(&pieces::<T>(shape))
}

pub(super) fn launch_backward<T: Real>(
    gpu: &Gpu,
    tile: &'static Tile,
    shape: DeformConvShape,
    Kept { inp, offsets, weights }: Kept<T>,
    dout: TensorRef<T>,
    gradients: Gradients<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let DeformConvShape { n, h, w, ci, co } = shape;
    let Gradients { dinp, doffsets, dweights, dbias } = gradients;
    let (mut room, pieces) = (ScratchPieces::of(scratch), pieces::<T>(shape));
    let [largest, fixed, packed, sums] = [room.take(pieces[0])?, room.take(pieces[1])?, room.take(pieces[2])?, room.take(pieces[3])?];
    let extents = shape_arg(shape);
    let ([inp_at, inp_stride], [dout_at, dout_stride]) = ([inp.arg(), inp.stride_arg()], [dout.arg(), dout.stride_arg()]);
    let [offsets_at, offsets_stride] = [offsets.arg(), offsets.stride_arg()];
    let [largest_at, fixed_at] = [Arg::address(largest), Arg::address(fixed)];

    // SAFETY: the bytes lie in the two pieces of scratch memory, which have these lengths.
    unsafe {
        gpu.driver().set_bytes(largest, 0, 16, gpu.stream())?;
        gpu.driver().set_bytes(fixed, 0, 8 * n * h * w * ci, gpu.stream())?;
    }
    for (which, [rows, columns], [at, stride]) in
        [(0_u32, [n * h * w, co], [dout_at, dout_stride]), (1, [1, weights.len()], [weights.arg(), Arg::value(0_u32)])]
    {
        let [rows_arg, columns_arg] = [rows, columns].map(|x| Arg::value(x as u32));
        let args = [rows_arg, columns_arg, at, stride, Arg::value(which), largest_at];
        // SAFETY: the arguments of the KERNEL line, in its order; the counts are those of the map and of the weights.
        unsafe { gpu.launch("deform_conv_largest", Grid::over(rows * columns, MOVERS)?, MOVERS, &args) }?;
    }
    let packed_stride = pack_backward_rows(gpu, [ci, co, 3], weights, packed)?;
    let four_out = co.is_multiple_of(DEPTH) && by_four(dout);
    let name = tile.of_gradients(four_out, ["deform_conv_backward_samples_64x64", "deform_conv_backward_samples_any_64x64"]);
    let args = [
        extents,
        inp_at,
        inp_stride,
        offsets_at,
        offsets_stride,
        values_at::<T>(packed),
        packed_stride,
        dout_at,
        dout_stride,
        largest_at,
        fixed_at,
        doffsets.arg(),
        doffsets.stride_arg(),
    ];
    // SAFETY: the arguments of the KERNEL line, in its order; the shapes of all maps were checked against the shape struct,
    // and there is a fixed-point sum for each value of the input.
    unsafe { gpu.launch(name, Grid([blocks(shape, TILE), TAPS as u32, 1]), THREADS, &args) }?;
    let args = [extents, largest_at, fixed_at, dinp.arg(), dinp.stride_arg()];
    // SAFETY: as above.
    unsafe { gpu.launch("deform_conv_add_input", Grid::over(n * h * w * ci, MOVERS)?, MOVERS, &args) }?;

    let parts = weight_parts(shape);
    let four_channels = tile.reads_fours && ci.is_multiple_of(4) && by_four(inp) && co.is_multiple_of(4) && by_four(dout);
    check_places(inp, if four_channels { 4 } else { 1 })?;
    let name = tile.of_gradients(four_channels, ["deform_conv_weights_64x64", "deform_conv_weights_any_64x64"]);
    let grid = Grid([(TAPS * ci.div_ceil(TILE)) as u32, co.div_ceil(TILE) as u32, parts.count as u32]);
    let part_pixels = Arg::value(parts.pixels as u32);
    let args = [extents, part_pixels, inp_at, inp_stride, offsets_at, offsets_stride, dout_at, dout_stride, values_at::<T>(sums)];
    // SAFETY: as above; there is room for the sums of all parts.
    unsafe { gpu.launch(name, grid, THREADS, &args) }?;
    parts.add(gpu, shape.plain(), sums, dweights)?;
    PixelParts::of([n, h, w, co]).add(gpu, dout, sums, dbias)
}
