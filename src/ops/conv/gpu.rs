//! Convolution on the GPU: how its weights lie, and the launchers of the forward pass and of the gradient of the input.
//! Kernels: kernels/conv.cu.

use super::gpu_tiles::{DEPTH, Tile};
use super::gpu_weights::WeightParts;
use super::window::{Phase, Window, phases};
use super::{ConvShape, Epilogue, Pass};
use crate::device::gpu::{Arg, Gpu, Grid};
use crate::device::{Buffer, Device, TensorMut, TensorRef};
use crate::kernel_struct;
use crate::ops::Real;
use crate::ops::launch::{
    BACKWARD, MOVERS, OUT_BY_FOUR, PixelParts, ScratchPieces, WITH_BIAS, WITH_RELU, WITH_RESIDUAL, by_four, check_places, values_at,
};
use anyhow::{Result, ensure};

/// Threads of a block of the products, as the KERNEL lines say.
pub(super) const THREADS: u32 = 128;
/// Columns of packed weights are filled up to a multiple of this: the widest tile.
const COLUMNS: usize = 64;
/// A kernel may have this many rows and columns of taps: the CUDA code keeps one bit for each in a 32-bit number, to tell which
/// lie outside of the map.
const MOST_TAPS: usize = 15;

/// Weights `[tap][ci][co]` and bias `[co]`. Each row of output channels is filled up with zeros to a multiple of 64, and the number of
/// rows to a multiple of 8, so that a kernel may always read whole tiles. The row behind them is the bias, or zeros without one.
#[derive(Debug)]
pub struct GpuPanels<T: Real> {
    ci: usize,
    co: usize,
    taps: usize,
    /// Where the values lie; kept alive by `owned`, or by whoever lent the memory.
    address: u64,
    owned: Option<Buffer<T>>,
    /// Where the weights lie as they are in a model, if a library asks for that.
    plain: Option<u64>,
    _plain: Option<Buffer<T>>,
}

impl<T: Real> GpuPanels<T> {
    /// Values of the packed weights and bias of [ci, co, kernel].
    pub fn len([ci, co, kernel]: [usize; 3]) -> usize {
        (packed_rows(kernel * kernel, ci) + 1) * packed_columns(co)
    }

    /// Values of memory that `pack_into` needs, wherever that memory begins.
    pub fn scratch_len(extents: [usize; 3]) -> usize {
        ScratchPieces::len(&[Self::len(extents)])
    }

    /// Packs `weights` `[co][ci][k][k]` and `bias` `[co]` (or empty: zeros) on the host and copies them.
    ///
    /// Errors: the device has not as much memory.
    pub fn pack(gpu: &Gpu, [ci, co, kernel]: [usize; 3], weights: &[T], bias: &[T], with_plain: bool) -> Result<Self> {
        let (taps, columns) = (kernel * kernel, packed_columns(co));
        assert!(weights.len() == co * ci * taps && (bias.is_empty() || bias.len() == co), "weights of {co} x {ci} x {kernel} x {kernel}");
        let mut values = vec![T::default(); Self::len([ci, co, kernel])];
        for (o, weights) in weights.chunks_exact(ci * taps).enumerate() {
            for (i, &weight) in weights.iter().enumerate() {
                values[(i % taps * ci + i / taps) * columns + o] = weight;
            }
        }
        values[packed_rows(taps, ci) * columns..][..bias.len()].copy_from_slice(bias);
        let device = Device::Gpu(gpu.clone());
        let owned = Buffer::of(&device, values)?;
        let plain = if with_plain { Some(Buffer::of(&device, weights.to_vec())?) } else { None };
        let plain_address = plain.as_ref().map(|plain| plain.base() as u64);
        Ok(GpuPanels { ci, co, taps, address: owned.base() as u64, owned: Some(owned), plain: plain_address, _plain: plain })
    }

    /// Packs weights that lie on the GPU into `scratch`, which has `scratch_len` values. Both have to live as long as the panels are
    /// used.
    ///
    /// Errors: the launch fails.
    pub fn pack_into(
        gpu: &Gpu,
        [ci, co, kernel]: [usize; 3],
        weights: TensorRef<T>,
        bias: TensorRef<T>,
        with_plain: bool,
        scratch: &mut TensorMut<T>,
    ) -> Result<Self> {
        let taps = kernel * kernel;
        assert!(weights.len() == co * ci * taps && (bias.is_empty() || bias.len() == co), "weights of {co} x {ci} x {kernel} x {kernel}");
        let address = ScratchPieces::of(scratch).take(Self::len([ci, co, kernel]))?;
        let flags = if bias.is_empty() { 0 } else { WITH_BIAS };
        launch_pack(gpu, ConvTaps::all([ci, co, kernel]), flags, weights, bias.arg(), address)?;
        if bias.is_empty() {
            let (row, bytes) = (packed_rows(taps, ci) * packed_columns(co) * size_of::<T>(), packed_columns(co) * size_of::<T>());
            // SAFETY: the last row of the scratch memory that was just taken.
            unsafe { gpu.driver().set_bytes(address + row as u64, 0, bytes, gpu.stream()) }?;
        }
        let plain = with_plain.then(|| weights.pixel_ptr(0) as u64);
        Ok(GpuPanels { ci, co, taps, address, owned: None, plain, _plain: None })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.owned.as_ref().map_or(0, |owned| owned.len() * size_of::<T>())
    }

    /// The weights and their row stride as arguments of a kernel, and the bias.
    pub(crate) fn args(&self) -> [Arg; 3] {
        let columns = packed_columns(self.co);
        [values_at::<T>(self.address), Arg::value(columns as u32), values_at::<T>(self.bias_address())]
    }

    /// Where the weights lie as they are in a model, if that was asked for.
    pub(super) fn plain(&self) -> Option<u64> {
        self.plain
    }

    /// Where the bias lies, `[co]`.
    pub(super) fn bias_address(&self) -> u64 {
        self.address + (packed_rows(self.taps, self.ci) * packed_columns(self.co) * size_of::<T>()) as u64
    }
}

/// The kernels' shape struct.
pub(super) fn window_arg(window: &Window) -> Arg {
    let Window { n, inp: [inp_h, inp_w], channels: [inp_c, out_c], taps: [taps_y, taps_x], first: [first_y, first_x], step, .. } = *window;
    let Window { grid: [h, w], out: [out_h, out_w], phase: [out_y, out_x], out_step, .. } = *window;
    kernel_struct!(ConvWindow {
        n,
        inp_h,
        inp_w,
        inp_c,
        taps_y,
        taps_x,
        first_y,
        first_x,
        step,
        h,
        w,
        out_h,
        out_w,
        out_c,
        out_y,
        out_x,
        out_step
    })
}

/// Rows of packed weights, with those that fill up the last tile.
fn packed_rows(taps: usize, channels: usize) -> usize {
    (taps * channels).next_multiple_of(DEPTH)
}

/// Values of a row of packed weights, for the channels that are written.
fn packed_columns(channels: usize) -> usize {
    channels.next_multiple_of(COLUMNS)
}

/// The taps of a window in its order, and the weights they lie in: as in conv.cu.
#[derive(Clone, Copy, Debug)]
struct ConvTaps {
    co: usize,
    ci: usize,
    kernel: usize,
    taps_y: usize,
    taps_x: usize,
    first_y: usize,
    first_x: usize,
    step: isize,
}

impl ConvTaps {
    /// All taps of [ci, co, kernel], in their order.
    fn all([ci, co, kernel]: [usize; 3]) -> Self {
        ConvTaps { co, ci, kernel, taps_y: kernel, taps_x: kernel, first_y: 0, first_x: 0, step: 1 }
    }

    /// The taps of a phase of the gradient of the input.
    fn of_phase(shape: ConvShape, phase: &Phase) -> Self {
        let (ConvShape { ci, co, kernel, stride, .. }, [taps_y, taps_x]) = (shape, phase.window.taps);
        let [first_y, first_x] = phase.first_tap;
        ConvTaps { co, ci, kernel, taps_y, taps_x, first_y, first_x, step: -(stride as isize) }
    }

    fn arg(&self) -> Arg {
        let ConvTaps { co, ci, kernel, taps_y, taps_x, first_y, first_x, step } = *self;
        kernel_struct!(ConvTaps { co, ci, kernel, taps_y, taps_x, first_y, first_x, step })
    }
}

/// Packs the weights of some taps into `packed`, with the bias if the flags say so.
fn launch_pack<T: Real>(gpu: &Gpu, taps: ConvTaps, flags: u32, weights: TensorRef<T>, bias: Arg, packed: u64) -> Result<()> {
    let ConvTaps { ci, co, taps_y, taps_x, .. } = taps;
    let (read, written) = if flags & BACKWARD > 0 { (co, ci) } else { (ci, co) };
    let columns = packed_columns(written);
    let rows = packed_rows(taps_y * taps_x, read) + usize::from(flags & WITH_BIAS > 0);
    let args = [taps.arg(), Arg::value(flags), weights.arg(), bias, Arg::value(columns as u32), values_at::<T>(packed)];
    // SAFETY: the arguments of the KERNEL line, in its order; whoever calls has room for as many rows and columns.
    unsafe { gpu.launch("conv_pack_weights", Grid::over(rows * columns, MOVERS)?, MOVERS, &args) }
}

/// Packs all weights as rows of input channels, `[tap][co][ci]`: into `backward_rows_len` values at `packed`.
pub(crate) fn pack_backward_rows<T: Real>(gpu: &Gpu, extents: [usize; 3], weights: TensorRef<T>, packed: u64) -> Result<Arg> {
    launch_pack(gpu, ConvTaps::all(extents), BACKWARD, weights, Arg::null(), packed)?;
    Ok(Arg::value(packed_columns(extents[0]) as u32))
}

/// Values that `pack_backward_rows` packs into.
pub(crate) fn backward_rows_len([ci, co, kernel]: [usize; 3]) -> usize {
    packed_rows(kernel * kernel, co) * packed_columns(ci)
}

/// Multiplies what lies under the windows of `inp` with packed weights, for every pixel of the grid.
fn launch_windows<T: Real>(
    gpu: &Gpu,
    (tile, pass): (&'static Tile, Pass),
    window: Window,
    mut flags: u32,
    inp: TensorRef<T>,
    [weights, weights_stride, bias]: [Arg; 3],
    residual: Option<TensorRef<T>>,
    out: &mut TensorMut<T>,
) -> Result<()> {
    let taps = window.taps[0].max(window.taps[1]);
    ensure!(taps <= MOST_TAPS, "a kernel of {taps} x {taps} taps; expected at most {MOST_TAPS} x {MOST_TAPS}");
    let out_by_four = by_four(out.as_ref()) && residual.is_none_or(by_four);
    let tile = tile.for_maps(gpu, pass, window, [by_four(inp), out_by_four]);
    check_places(inp, tile.unit)?;
    let tiles = match tile.rectangle {
        Some([rows, columns]) => window.n * window.grid[0].div_ceil(rows) * window.grid[1].div_ceil(columns),
        None => window.pixels().div_ceil(tile.size[0]),
    };
    let grid = [tiles, window.channels[1].div_ceil(tile.size[1])];
    if out_by_four {
        flags |= OUT_BY_FOUR;
    }
    let (residual_at, residual_stride) = match residual {
        Some(residual) => {
            flags |= WITH_RESIDUAL;
            (residual.arg(), residual.stride_arg())
        }
        None => (Arg::null(), Arg::value(0_u32)),
    };
    let args = [
        window_arg(&window),
        Arg::value(flags),
        inp.arg(),
        inp.stride_arg(),
        weights,
        weights_stride,
        bias,
        residual_at,
        residual_stride,
        out.arg(),
        out.stride_arg(),
    ];
    // SAFETY: the arguments of the KERNEL line, in its order; the shapes of all maps were checked against the convolution's,
    // and the weights are packed in whole tiles.
    unsafe { gpu.launch(tile.kernel, Grid([Grid::of(grid[0])?.0[0], Grid::of(grid[1])?.0[0], 1]), THREADS, &args) }
}

pub(super) fn launch_forward<T: Real>(
    gpu: &Gpu,
    tile: &'static Tile,
    shape: ConvShape,
    inp: TensorRef<T>,
    weights: &GpuPanels<T>,
    epilogue: Epilogue<T>,
    out: &mut TensorMut<T>,
) -> Result<()> {
    let flags = WITH_BIAS | if epilogue.relu { WITH_RELU } else { 0 };
    launch_windows(gpu, (tile, Pass::Forward), Window::forward(shape), flags, inp, weights.args(), epilogue.residual, out)
}

/// Values that the gradients need to work with. They are computed one after the other, in the same memory.
pub(super) fn scratch_len(shape: ConvShape) -> usize {
    let data: usize = phases(shape).iter().map(|phase| phase_len(&phase.window)).sum();
    let weights = WeightParts::of(shape).len().max(PixelParts::of(shape.out()).len());
    ScratchPieces::len(&[data.max(weights)])
}

/// Values of the packed weights of a phase.
fn phase_len(window: &Window) -> usize {
    packed_rows(window.taps[0] * window.taps[1], window.channels[0]) * packed_columns(window.channels[1])
}

pub(super) fn launch_backward_data<T: Real>(
    gpu: &Gpu,
    tile: &'static Tile,
    shape: ConvShape,
    weights: TensorRef<T>,
    dout: TensorRef<T>,
    dinp: &mut TensorMut<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let mut pieces = ScratchPieces::of(scratch);
    for phase in phases(shape) {
        let packed = pieces.take(phase_len(&phase.window))?;
        launch_pack(gpu, ConvTaps::of_phase(shape, &phase), BACKWARD, weights, Arg::null(), packed)?;
        let packed = [values_at::<T>(packed), Arg::value(packed_columns(shape.ci) as u32), Arg::null()];
        launch_windows(gpu, (tile, Pass::Data), phase.window, BACKWARD, dout, packed, None, dinp)?;
    }
    Ok(())
}
