//! Convolution on the GPU: how its weights lie, and its launchers. Kernels: kernels/conv.cu.

use super::{ConvShape, Epilogue};
use crate::device::gpu::dnn::{Operands, Pass, Product};
use crate::device::gpu::{Arg, Gpu, Grid};
use crate::device::{Buffer, Device, TensorMut, TensorRef};
use crate::kernel_struct;
use crate::ops::Real;
use crate::ops::launch::{MOVERS, PixelParts, ScratchPieces, by_four, check_places, values_at};
use anyhow::{Result, ensure};

/// Threads of a block of the products, as the KERNEL lines say.
const THREADS: u32 = 128;
/// Rows of packed weights are filled up to a multiple of this: the summands of a tile (DEPTH in the kernels).
const DEPTH: usize = 8;
/// Columns of packed weights are filled up to a multiple of this: the widest tile.
const COLUMNS: usize = 64;
/// The kernels' flags.
const WITH_BIAS: u32 = 1;
const WITH_RESIDUAL: u32 = 2;
pub(crate) const WITH_RELU: u32 = 4;
const BACKWARD: u32 = 8;
pub(crate) const OUT_BY_FOUR: u32 = 16;
/// Rows and columns of taps, at most: those outside of a map are told by the bits of a number.
const MOST_TAPS: usize = 15;
/// Blocks a multiprocessor below which tiles of 64 x 64 fill a device better than tiles of 128 x 64.
const FEW_BLOCKS: usize = 2;
/// The gradient of the weights is cut into parts of the pixels: to about so many blocks, of no fewer pixels a part, and
/// into no more parts, whose sums have no more values unless one part has (16 MiB).
const WEIGHT_BLOCKS: usize = 512;
const PART_PIXELS: usize = 256;
const MOST_PARTS: usize = 128;
const PART_VALUES: usize = 4 << 20;

/// Weights [tap][ci][co] and bias [co], where rows of output channels are filled up with zeros to a multiple of 64, and
/// the rows to a multiple of 8: whole tiles. The bias is the row after those; without one it is zeros.
#[derive(Debug)]
pub struct GpuPanels<T: Real> {
    ci: usize,
    co: usize,
    taps: usize,
    /// Where the values lie; kept alive by `owned`, or by whoever lent the memory.
    address: u64,
    owned: Option<Buffer<T>>,
    /// Where the weights lie as they are in a model, for a library; 0 if none is used.
    plain: u64,
    _plain: Option<Buffer<T>>,
}

impl<T: Real> GpuPanels<T> {
    /// Values of the packed weights and bias of [ci, co, kernel].
    pub fn len([ci, co, kernel]: [usize; 3]) -> usize {
        (packed_rows(kernel * kernel, ci) + 1) * packed_columns(co)
    }

    /// Values of memory that `pack_into` packs into, wherever it begins.
    pub fn scratch_len(extents: [usize; 3]) -> usize {
        ScratchPieces::len(&[Self::len(extents)])
    }

    /// Packs `weights` [co][ci][k][k] and `bias` [co] (or empty: zeros) on the host and copies them.
    ///
    /// Errors: the device has not as much memory.
    pub fn pack(gpu: &Gpu, [ci, co, kernel]: [usize; 3], weights: &[T], bias: &[T]) -> Result<Self> {
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
        let plain = gpu.convolutions().map(|_| Buffer::of(&device, weights.to_vec())).transpose()?;
        let plain_address = plain.as_ref().map_or(0, |plain| plain.base() as u64);
        Ok(GpuPanels { ci, co, taps, address: owned.base() as u64, owned: Some(owned), plain: plain_address, _plain: plain })
    }

    /// The same of weights that lie on the GPU, into `scratch` of `scratch_len` values; both have to live as long as the panels
    /// are used.
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
        let address = ScratchPieces::of(scratch).take(Self::len([ci, co, kernel]))?;
        let flags = if bias.is_empty() { 0 } else { WITH_BIAS };
        launch_pack(gpu, ConvTaps::all([ci, co, kernel]), flags, weights, bias.arg(), address)?;
        if bias.is_empty() {
            let (row, bytes) = (packed_rows(taps, ci) * packed_columns(co) * size_of::<T>(), packed_columns(co) * size_of::<T>());
            // SAFETY: the last row of the scratch memory that was just taken.
            unsafe { gpu.driver().set_bytes(address + row as u64, 0, bytes, gpu.stream()) }?;
        }
        let plain = gpu.convolutions().map_or(0, |_| weights.pixel_ptr(0) as u64);
        Ok(GpuPanels { ci, co, taps, address, owned: None, plain, _plain: None })
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

    /// The weights and their row stride as arguments of a kernel, and the bias.
    pub(crate) fn args(&self) -> [Arg; 3] {
        let columns = packed_columns(self.co);
        [values_at::<T>(self.address), Arg::value(columns as u32), values_at::<T>(self.bias_address())]
    }

    fn bias_address(&self) -> u64 {
        self.address + (packed_rows(self.taps, self.ci) * packed_columns(self.co) * size_of::<T>()) as u64
    }
}

/// Rows of packed weights, with those that fill up the last tile.
fn packed_rows(taps: usize, channels: usize) -> usize {
    (taps * channels).next_multiple_of(DEPTH)
}

/// Values of a row of packed weights, for the channels that are written.
fn packed_columns(channels: usize) -> usize {
    channels.next_multiple_of(COLUMNS)
}

/// How the pixels of a grid meet the map that is read and the one that is written: as in conv.cu.
#[derive(Clone, Copy, Debug)]
struct ConvWindow {
    n: usize,
    inp_h: usize,
    inp_w: usize,
    inp_c: usize,
    taps_y: usize,
    taps_x: usize,
    first_y: isize,
    first_x: isize,
    step: usize,
    h: usize,
    w: usize,
    out_h: usize,
    out_w: usize,
    out_c: usize,
    out_y: usize,
    out_x: usize,
    out_step: usize,
}

impl ConvWindow {
    /// Over the input, for every pixel of the output.
    fn forward(shape: ConvShape) -> Self {
        let (ConvShape { n, h, w, ci, co, kernel, stride }, [_, oh, ow, _]) = (shape, shape.out());
        let first = -((kernel / 2) as isize);
        ConvWindow {
            n,
            inp_h: h,
            inp_w: w,
            inp_c: ci,
            taps_y: kernel,
            taps_x: kernel,
            first_y: first,
            first_x: first,
            step: stride,
            h: oh,
            w: ow,
            out_h: oh,
            out_w: ow,
            out_c: co,
            out_y: 0,
            out_x: 0,
            out_step: 1,
        }
    }

    fn arg(&self) -> Arg {
        let ConvWindow { n, inp_h, inp_w, inp_c, taps_y, taps_x, first_y, first_x, step, h, w, .. } = *self;
        let ConvWindow { out_h, out_w, out_c, out_y, out_x, out_step, .. } = *self;
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

    /// Pixels that are computed.
    fn pixels(&self) -> usize {
        self.n * self.h * self.w
    }
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

    fn arg(&self) -> Arg {
        let ConvTaps { co, ci, kernel, taps_y, taps_x, first_y, first_x, step } = *self;
        kernel_struct!(ConvTaps { co, ci, kernel, taps_y, taps_x, first_y, first_x, step })
    }
}

/// A phase of the input's pixels, those with the same rest modulo the stride in both directions: the window over the
/// gradient of the output that gives their gradient, and the taps of it.
///
/// Along one axis, tap k of output pixel o meets input pixel o s + k - pad. For input pixels a s + phase those taps count
/// that leave no rest; they meet output pixel a + (phase + pad - k) / s, the last tap the first of them.
fn phases(shape: ConvShape) -> Vec<(ConvWindow, ConvTaps)> {
    let (ConvShape { n, h, w, ci, co, kernel, stride }, [_, oh, ow, _]) = (shape, shape.out());
    let along = |phase: usize, extent: usize| {
        let first = (phase + kernel / 2) % stride;
        let taps = if first < kernel { (kernel - 1 - first) / stride + 1 } else { 0 };
        let last = first + stride * taps.saturating_sub(1);
        let meets = ((phase + kernel / 2) as isize - last as isize) / stride as isize;
        (taps, last, meets, (extent - phase).div_ceil(stride))
    };
    let places = (0..stride * stride).map(|i| [i / stride, i % stride]).filter(|phase| phase[0] < h && phase[1] < w);
    let window = |[out_y, out_x]: [usize; 2]| {
        let ((taps_y, last_y, first_y, rows), (taps_x, last_x, first_x, columns)) = (along(out_y, h), along(out_x, w));
        let step = -(stride as isize);
        let taps = ConvTaps { co, ci, kernel, taps_y, taps_x, first_y: last_y, first_x: last_x, step };
        let [inp_h, inp_w, inp_c, out_h, out_w, out_c] = [oh, ow, co, h, w, ci];
        let (h, w, step, out_step) = (rows, columns, 1, stride);
        let window = ConvWindow {
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
            out_step,
        };
        (window, taps)
    };
    places.map(window).filter(|(_, taps)| taps.taps_y * taps.taps_x > 0).collect()
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

/// Packs all weights as rows of input channels, [tap][co][ci]: into `backward_rows_len` values at `packed`.
pub(crate) fn pack_backward_rows<T: Real>(gpu: &Gpu, extents: [usize; 3], weights: TensorRef<T>, packed: u64) -> Result<Arg> {
    launch_pack(gpu, ConvTaps::all(extents), BACKWARD, weights, Arg::null(), packed)?;
    Ok(Arg::value(packed_columns(extents[0]) as u32))
}

/// Values that it packs into.
pub(crate) fn backward_rows_len([ci, co, kernel]: [usize; 3]) -> usize {
    packed_rows(kernel * kernel, co) * packed_columns(ci)
}

/// True for one channel under windows of 7 x 7 taps, a pixel apart: the first layer, which has kernels of its own.
fn is_image(window: &ConvWindow) -> bool {
    window.inp_c == 1 && [window.taps_y, window.taps_x, window.step, window.out_step] == [7, 7, 1, 1]
}

/// Multiplies what lies under the windows of `inp` with packed weights, for every pixel of the grid.
fn launch_windows<T: Real>(
    gpu: &Gpu,
    window: ConvWindow,
    mut flags: u32,
    inp: TensorRef<T>,
    [weights, weights_stride, bias]: [Arg; 3],
    residual: Option<TensorRef<T>>,
    out: &mut TensorMut<T>,
) -> Result<()> {
    let (pixels, channels) = (window.pixels(), window.out_c);
    let four_channels = window.inp_c.is_multiple_of(DEPTH) && by_four(inp);
    check_places(inp, if four_channels { 4 } else { 1 })?;
    let taps = window.taps_y.max(window.taps_x);
    ensure!(taps <= MOST_TAPS, "a kernel of {taps} x {taps} taps; expected at most {MOST_TAPS} x {MOST_TAPS}");
    let blocks = |[rows, columns]: [usize; 2]| [pixels.div_ceil(rows), channels.div_ceil(columns)];
    let (name, tile) = match (four_channels, channels) {
        (true, ..=16) => ("conv_windows_256x16", [256, 16]),
        (true, ..=32) => ("conv_windows_128x32", [128, 32]),
        (true, _) if blocks([128, 64]).iter().product::<usize>() < FEW_BLOCKS * gpu.info().multiprocessors as usize => {
            ("conv_windows_64x64", [64, 64])
        }
        (true, _) => ("conv_windows_128x64", [128, 64]),
        (false, _) if window.inp_c >= DEPTH || window.taps_y * window.taps_x == 1 => ("conv_windows_any_128x64", [128, 64]),
        (false, _) => ("conv_windows_any_256x16", [256, 16]),
    };
    let (name, grid) = if is_image(&window) {
        let tiles = window.n * window.h.div_ceil(8) * window.w.div_ceil(32);
        ("conv_windows_7x7", [tiles, channels.div_ceil(16)])
    } else {
        (name, blocks(tile))
    };
    if by_four(out.as_ref()) && residual.is_none_or(by_four) {
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
        window.arg(),
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
    unsafe { gpu.launch(name, Grid([Grid::of(grid[0])?.0[0], Grid::of(grid[1])?.0[0], 1]), THREADS, &args) }
}

pub(super) fn launch_forward<T: Real>(
    gpu: &Gpu,
    shape: ConvShape,
    inp: TensorRef<T>,
    weights: &GpuPanels<T>,
    epilogue: Epilogue<T>,
    out: &mut TensorMut<T>,
) -> Result<()> {
    if weights.plain != 0 {
        let residual = epilogue.residual.map_or(0, |residual| residual.pixel_ptr(0) as u64);
        let maps = [inp.pixel_ptr(0) as u64, weights.plain, out.pixel_ptr(0) as u64];
        let product = Product {
            residual_stride: epilogue.residual.map(|residual| residual.pixel_stride()),
            relu: epilogue.relu,
            ..product(Pass::Forward, shape, [inp.pixel_stride(), out.pixel_stride()])
        };
        if by_library(gpu, &product, maps, [weights.bias_address(), residual]) {
            return Ok(());
        }
    }
    let flags = WITH_BIAS | if epilogue.relu { WITH_RELU } else { 0 };
    launch_windows(gpu, ConvWindow::forward(shape), flags, inp, weights.args(), epilogue.residual, out)
}

/// A product, for a library.
fn product(pass: Pass, shape: ConvShape, pixel_strides: [usize; 2]) -> Product {
    let (ConvShape { n, h, w, ci, co, kernel, stride }, [_, oh, ow, _]) = (shape, shape.out());
    Product { pass, n, inp: [h, w], out: [oh, ow], channels: [ci, co], kernel, stride, pixel_strides, residual_stride: None, relu: false }
}

/// Lets a library compute a product; false if there is none, or it refuses. Addresses: input, weights, output; bias, residual.
fn by_library(gpu: &Gpu, product: &Product, [inp, weights, out]: [u64; 3], [bias, residual]: [u64; 2]) -> bool {
    let operands = Operands { inp, weights, out, bias, residual };
    // SAFETY: the shapes of all maps were checked against the convolution's, and their strides are those of the product; all
    // work of this device goes to one stream.
    gpu.convolutions().is_some_and(|library| unsafe { library.run(gpu, product, &operands) })
}

/// Values that the gradients need to work with: one after the other.
pub(super) fn scratch_len(shape: ConvShape) -> usize {
    let data: usize = phases(shape).iter().map(|(window, taps)| phase_len(window, taps)).sum();
    let weights = WeightParts::of(shape).len().max(PixelParts::of(shape.out()).len());
    ScratchPieces::len(&[data.max(weights)])
}

/// Values of the packed weights of a phase.
fn phase_len(window: &ConvWindow, taps: &ConvTaps) -> usize {
    packed_rows(taps.taps_y * taps.taps_x, window.inp_c) * packed_columns(window.out_c)
}

pub(super) fn launch_backward_data<T: Real>(
    gpu: &Gpu,
    shape: ConvShape,
    weights: TensorRef<T>,
    dout: TensorRef<T>,
    dinp: &mut TensorMut<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let maps = [dinp.pixel_ptr(0) as u64, weights.pixel_ptr(0) as u64, dout.pixel_ptr(0) as u64];
    if by_library(gpu, &product(Pass::Data, shape, [dinp.pixel_stride(), dout.pixel_stride()]), maps, [0; 2]) {
        return Ok(());
    }
    let mut room = ScratchPieces::of(scratch);
    for (window, taps) in phases(shape) {
        let packed = room.take(phase_len(&window, &taps))?;
        launch_pack(gpu, taps, BACKWARD, weights, Arg::null(), packed)?;
        let packed = [values_at::<T>(packed), Arg::value(packed_columns(shape.ci) as u32), Arg::null()];
        launch_windows(gpu, window, BACKWARD, dout, packed, None, dinp)?;
    }
    Ok(())
}

/// How the gradient of the weights is cut into parts of the output's pixels: by the shape alone.
pub(crate) struct WeightParts {
    pub(crate) count: usize,
    pub(crate) pixels: usize,
    /// Rows (tap, ci) and columns (co, filled up to fours) of the sums of each.
    rows: usize,
    columns: usize,
}

impl WeightParts {
    /// Those of a convolution.
    pub(crate) fn of(shape: ConvShape) -> Self {
        Self::with_tile(shape, [128, if shape.co > 32 { 64 } else { 32 }])
    }

    /// The same for blocks of `tile` rows and columns.
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

    /// Adds the sums of all parts to the gradient [co][ci][k][k].
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

pub(super) fn launch_backward_weights<T: Real>(
    gpu: &Gpu,
    shape: ConvShape,
    inp: TensorRef<T>,
    dout: TensorRef<T>,
    dweights: &mut TensorMut<T>,
    dbias: Option<&mut TensorMut<T>>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let (window, parts) = (ConvWindow::forward(shape), WeightParts::of(shape));
    let sums = ScratchPieces::of(scratch).take(parts.len())?;
    let maps = [inp.pixel_ptr(0) as u64, dweights.pixel_ptr(0) as u64, dout.pixel_ptr(0) as u64];
    if by_library(gpu, &product(Pass::Weights, shape, [inp.pixel_stride(), dout.pixel_stride()]), maps, [0; 2]) {
        return dbias.map_or(Ok(()), |dbias| PixelParts::of(shape.out()).add(gpu, dout, sums, dbias));
    }
    let four_rows = shape.ci.is_multiple_of(4) && by_four(inp) && window.w >= DEPTH;
    check_places(inp, if four_rows { 4 } else { 1 })?;
    let dout_by_four = shape.co.is_multiple_of(4) && by_four(dout);
    let (name, columns) = match (four_rows, dout_by_four) {
        (true, true) if shape.co > 32 => ("conv_weights_128x64", 64),
        (true, true) => ("conv_weights_128x32", 32),
        (true, false) => ("conv_weights_to_any_128x32", 32),
        (false, _) => ("conv_weights_any_128x32", 32),
    };
    let (name, grid, part) = if is_image(&window) && dout_by_four {
        let tiles = window.n * window.h.div_ceil(4) * window.w.div_ceil(32);
        ("conv_weights_7x7", [shape.co.div_ceil(16), 1], tiles.div_ceil(parts.count))
    } else {
        (name, [parts.rows.div_ceil(128), shape.co.div_ceil(columns)], parts.pixels)
    };
    let grid = Grid([grid[0] as u32, grid[1] as u32, parts.count as u32]);
    let args = [window.arg(), Arg::value(part as u32), inp.arg(), inp.stride_arg(), dout.arg(), dout.stride_arg(), values_at::<T>(sums)];
    // SAFETY: the arguments of the KERNEL line, in its order; the shapes of both maps were checked against the convolution's,
    // and there is room for the sums of all parts.
    unsafe { gpu.launch(name, grid, THREADS, &args) }?;
    parts.add(gpu, shape, sums, dweights)?;
    // The sums have been used by then: one stream runs in order.
    match dbias {
        Some(dbias) => PixelParts::of(shape.out()).add(gpu, dout, sums, dbias),
        None => Ok(()),
    }
}
