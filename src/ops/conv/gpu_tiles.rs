//! The kernels that multiply in register tiles on a GPU, as data: which tile each has, what it asks of the maps, and from
//! which architecture on it runs. Whatever the tile, a value is the same sum in the same order.

use super::window::{Window, phases};
use super::{ConvShape, Pass};
use crate::device::gpu::Gpu;
use crate::ops::Precision;

/// A kernel, and when it is used.
#[derive(Debug)]
pub struct Tile {
    /// The kernel's name in kernels/conv.cu.
    pub kernel: &'static str,
    /// Rows and columns of a block's tile: grid pixels and channels, or for the gradient of the weights (tap, channel) pairs
    /// and channels.
    pub(super) size: [usize; 2],
    /// Rows and columns of pixels, where a tile is a rectangle of the image.
    pub(super) rectangle: Option<[usize; 2]>,
    /// By how many values its index into the map that it reads counts: 4 where it reads four channels at once, else 1.
    pub(super) unit: usize,
    /// Most channels of the output that it is the best choice for.
    widest: usize,
    /// True if it is chosen only where its tiles are enough for all multiprocessors.
    fills: bool,
    /// What it multiplies: f32, or on tensor cores what they read.
    pub(super) precision: Precision,
    /// The least compute capability that it runs on.
    least: [u32; 2],
    /// Whether it can compute a window, of maps that do (or do not) lie so that four channels are read or written at once.
    can: fn(&Window, InFours) -> bool,
}

/// Whether the input, and the output, lie so that four neighbouring channels can be read or written at once.
pub(super) type InFours = [bool; 2];

/// With fewer blocks of 128 x 64 than this for each multiprocessor, tiles of 64 x 64 keep the device busier.
const FEW_BLOCKS: usize = 2;
/// A tile is summed over this many (tap, channel) pairs at a time: DEPTH in the kernels.
pub(super) const DEPTH: usize = 8;

/// The kernels of the forward pass and of the gradient of the input. The most particular stands first, and the last one can compute
/// anything.
static WINDOWS: [Tile; 11] = [
    Tile { widest: 16, ..tf32("conv_windows_tf32_128x16", [128, 16]) },
    Tile { widest: 32, ..tf32("conv_windows_tf32_128x32", [128, 32]) },
    Tile { fills: true, ..tf32("conv_windows_tf32_128x64", [128, 64]) },
    tf32("conv_windows_tf32_64x64", [64, 64]),
    Tile { rectangle: Some([8, 32]), can: |window, _| is_image(window), ..tile("conv_windows_7x7", [256, 16]) },
    Tile { widest: 16, unit: 4, can: reads_fours, ..tile("conv_windows_256x16", [256, 16]) },
    Tile { widest: 32, unit: 4, can: reads_fours, ..tile("conv_windows_128x32", [128, 32]) },
    Tile { fills: true, unit: 4, can: reads_fours, ..tile("conv_windows_128x64", [128, 64]) },
    Tile { unit: 4, can: reads_fours, ..tile("conv_windows_64x64", [64, 64]) },
    Tile { can: |window, _| has_two_taps(window), ..tile("conv_windows_any_128x64", [128, 64]) },
    tile("conv_windows_any_256x16", [256, 16]),
];

/// The kernels of the gradient of the weights, in the same order.
static WEIGHTS: [Tile; 5] = [
    Tile {
        rectangle: Some([4, 32]),
        can: |window, fours| is_image(window) && writes_fours(window, fours),
        ..tile("conv_weights_7x7", [128, 16])
    },
    Tile { widest: 32, unit: 4, can: both_in_fours, ..tile("conv_weights_128x32", [128, 32]) },
    Tile { unit: 4, can: both_in_fours, ..tile("conv_weights_128x64", [128, 64]) },
    Tile { unit: 4, can: rows_in_fours, ..tile("conv_weights_to_any_128x32", [128, 32]) },
    tile("conv_weights_any_128x32", [128, 32]),
];

const fn tile(kernel: &'static str, size: [usize; 2]) -> Tile {
    let precision = Precision::F32;
    Tile { kernel, size, rectangle: None, unit: 1, widest: usize::MAX, fills: false, precision, least: [5, 0], can: |_, _| true }
}

/// A kernel for tensor cores that read TensorFloat-32.
const fn tf32(kernel: &'static str, size: [usize; 2]) -> Tile {
    Tile { precision: Precision::Tf32, least: TF32_FROM, unit: 4, can: reads_sixteens, ..tile(kernel, size) }
}

/// The least compute capability whose tensor cores read TensorFloat-32.
pub const TF32_FROM: [u32; 2] = [8, 0];
/// Channels that the kernels for tensor cores sum over at a time: CORE_DEPTH in kernels/conv.cu.
const CORE_DEPTH: usize = 16;

fn reads_sixteens(window: &Window, [inp, _]: InFours) -> bool {
    inp && window.channels[0].is_multiple_of(CORE_DEPTH)
}

/// True for one channel under windows of 7 x 7 taps, a pixel apart, as in the first layer of the network.
fn is_image(window: &Window) -> bool {
    window.channels[0] == 1 && window.taps == [7, 7] && [window.step, window.out_step] == [1, 1]
}

fn reads_fours(window: &Window, [inp, _]: InFours) -> bool {
    inp && window.channels[0].is_multiple_of(DEPTH)
}

/// True if the channels that a tile is summed over at a time never belong to more than two taps.
fn has_two_taps(window: &Window) -> bool {
    window.channels[0] >= DEPTH || window.taps == [1, 1]
}

fn rows_in_fours(window: &Window, [inp, _]: InFours) -> bool {
    inp && window.channels[0].is_multiple_of(4) && window.grid[1] >= DEPTH
}

fn writes_fours(window: &Window, [_, out]: InFours) -> bool {
    out && window.channels[1].is_multiple_of(4)
}

fn both_in_fours(window: &Window, fours: InFours) -> bool {
    rows_in_fours(window, fours) && writes_fours(window, fours)
}

/// The kernels of a pass that a device has and that can compute a window in a precision, or better.
fn able(gpu: &Gpu, precision: Precision, pass: Pass, window: Window, fours: InFours) -> impl Iterator<Item = &'static Tile> {
    let (table, capability): (&'static [Tile], _) = (if pass == Pass::Weights { &WEIGHTS } else { &WINDOWS }, gpu.info().capability);
    let suits = move |tile: &&'static Tile| precision.allows(tile.precision) && tile.least <= capability;
    table.iter().filter(suits).filter(move |tile| (tile.can)(&window, fours))
}

/// The window of a product. The gradient of the input has one for each phase; the first of them is the largest and decides.
fn window_of(pass: Pass, shape: ConvShape) -> Window {
    let first_phase = if pass == Pass::Data { phases(shape).first().map(|phase| phase.window) } else { None };
    first_phase.unwrap_or_else(|| Window::forward(shape))
}

/// All kernels that can compute a product of maps that lie in fours.
pub(super) fn all(gpu: &Gpu, precision: Precision, pass: Pass, shape: ConvShape) -> impl Iterator<Item = &'static Tile> {
    able(gpu, precision, pass, window_of(pass, shape), [true; 2])
}

/// The best kernel for a product.
pub(super) fn choose(gpu: &Gpu, precision: Precision, pass: Pass, shape: ConvShape) -> &'static Tile {
    let window = window_of(pass, shape);
    let channels = window.channels[1];
    let blocks = |[rows, columns]: [usize; 2]| window.pixels().div_ceil(rows) * channels.div_ceil(columns);
    let fills = |tile: &Tile| !tile.fills || blocks(tile.size) >= FEW_BLOCKS * gpu.info().multiprocessors as usize;
    let best = all(gpu, precision, pass, shape).find(|tile| channels <= tile.widest && fills(tile));
    best.unwrap_or_else(|| unreachable!("the last kernel of a table computes anything"))
}

impl Tile {
    /// This kernel, or where it cannot compute a window of maps that lie like this, the first that can.
    pub(super) fn for_maps(&'static self, gpu: &Gpu, pass: Pass, window: Window, fours: InFours) -> &'static Tile {
        if (self.can)(&window, fours) { self } else { able(gpu, Precision::F32, pass, window, fours).next().unwrap_or(self) }
    }
}
