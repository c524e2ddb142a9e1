//! Convolution on the CPU with a quarter of the multiply-adds, for kernels of 3 x 3 without a stride: Winograd's F(4 x 4, 3 x 3).
//!
//! The output is cut into tiles of 4 x 4 pixels. The patch of 6 x 6 input pixels under each is transformed to 36 points
//! (`device/cpu/winograd.rs`), at each of them the channels are summed by the tile product, and the 36 sums are transformed back:
//! 36 multiply-adds for 16 pixels in place of 144. A task has some tiles and all or some of the output channels; its points and sums stay
//! in the cache. The order of the sums (chunk, channel) does not depend on how the image was cut into tasks.
//!
//! The gradient of the input is the same with the kernel turned round, and input and output exchanged.

use super::cpu::Block;
use super::weights::{CpuPanels, MOST_LANES};
use super::{ConvShape, Epilogue, Product, Threads};
use crate::device::cpu::winograd::{PATCH, POINTS, Patch, Sums, TILE, kernels, patch, pixels_of};
use crate::device::cpu::{InstructionSet, tile_product, with_scratch};
use crate::device::{TensorMut, TensorRef, second_level_cache};
use std::ops::Range;

/// Rows of the output that are computed together.
pub(super) const ROWS_OF_TILES: usize = TILE;

/// Most tiles of a task.
const MOST_TILES: usize = 24;
const MOST_TILES_OF_LARGE_WEIGHTS: usize = 48;
/// Most bytes of the points and sums of a task; more gain nothing.
const MOST_TASK_BYTES: usize = 576 * 1024;
/// Tiles of a task are a multiple of this, because so many are multiplied together.
const ROWS_TOGETHER: usize = 6;
/// Values between the points of a task beside what they hold, so that they do not all fall into the same lines of the cache.
const GAP: usize = 16;
/// What sums start from.
static ZEROS: [f32; 64] = [0.0; 64];

/// True if it can compute a convolution.
pub(super) fn suits(shape: ConvShape) -> bool {
    shape.kernel == 3 && shape.stride == 1
}

/// True if it is the better way for weights that are packed once. With fewer channels there is nothing to gain, as the times of
/// `cargo bench-op conv` show; and four times as many values as weights are held, which with more of them come from memory again and again.
pub(super) fn pays(shape: ConvShape) -> bool {
    const LEAST_CHANNELS: usize = 16;
    const MOST_WEIGHTS: usize = 512 * 512;
    suits(shape) && shape.ci >= LEAST_CHANNELS && shape.co >= LEAST_CHANNELS && shape.ci * shape.co <= MOST_WEIGHTS
}

/// True if it is the better way for weights that are packed anew in each step.
pub(super) fn pays_in_training(shape: ConvShape) -> bool {
    const MOST_WEIGHTS: usize = 256 * 256;
    pays(shape) && shape.ci * shape.co <= MOST_WEIGHTS
}

/// Packs weights `[co][ci][3][3]` and `bias` `[co]` (or empty: zeros) for an instruction set.
pub(super) fn pack([ci, co]: [usize; 2], weights: &[f32], bias: &[f32], set: InstructionSet) -> CpuPanels {
    pack_by([ci, co], |o, c, tap| weights[(o * ci + c) * 9 + tap], bias, set)
}

fn pack_by([ci, co]: [usize; 2], weight: impl Fn(usize, usize, usize) -> f32 + Sync, bias: &[f32], set: InstructionSet) -> CpuPanels {
    let fill = |c: usize, outputs: Range<usize>, points: &mut [f32]| {
        let mut taps = [[0.0; MOST_LANES]; 9];
        for (lane, o) in outputs.enumerate() {
            for (tap, taps) in taps.iter_mut().enumerate() {
                taps[lane] = f64::from(weight(o, c, tap));
            }
        }
        let taps = &taps;
        crate::dispatch!(set, fill_points(taps: &[[f64; MOST_LANES]; 9], points: &mut [f32]));
    };
    CpuPanels::pack_lanes(ci, co, POINTS, fill, bias, set)
}

/// The points of kernels that stand side by side, `[point][lane]`.
#[inline(always)]
fn fill_points(taps: &[[f64; MOST_LANES]; 9], points: &mut [f32]) {
    /// Every register has a multiple of so many lanes.
    const TOGETHER: usize = 4;
    let lanes = points.len() / POINTS;
    for first in (0..lanes).step_by(TOGETHER) {
        let mut some = [[0.0; TOGETHER]; 9];
        for (some, taps) in some.iter_mut().zip(taps) {
            some.copy_from_slice(&taps[first..first + TOGETHER]);
        }
        for (points, found) in points.chunks_exact_mut(lanes).zip(kernels(some)) {
            points[first..first + TOGETHER].copy_from_slice(&found);
        }
    }
}

/// Adds the gradient of the input. `weights` `[co][ci][3][3]`.
pub(super) fn backward_data(shape: ConvShape, weights: &[f32], dout: TensorRef, dinp: &mut TensorMut, set: InstructionSet) {
    let ConvShape { n, h, w, ci, co, .. } = shape;
    let turned = |c: usize, o: usize, tap: usize| weights[(o * ci + c) * 9 + 8 - tap];
    let panels = pack_by([co, ci], turned, &[], set);
    let (threads, epilogue) = (Threads::All, Epilogue::default());
    let product = Product { rows: 0..h, threads, inp: dout, weights: &panels, epilogue, accumulate: true };
    convolve([n, h, w], &product, dinp);
}

/// Tiles and output channels of a task.
struct Task {
    /// Counted row by row, through all images.
    tiles: Range<usize>,
    panels: Range<usize>,
}

/// Computes some rows; with `accumulate` they are added to what `out` holds.
pub(super) fn convolve(extents: [usize; 3], product: &Product, out: &mut TensorMut) {
    let Product { rows, threads, weights, .. } = product;
    let [_, h, _] = extents;
    assert!(rows.start.is_multiple_of(TILE) && (rows.end == h || rows.end.is_multiple_of(TILE)), "rows {rows:?} of {h}");
    let out: &TensorMut = out;
    let tasks = tasks(extents, rows.clone(), *threads, weights);
    threads.for_each(&tasks, |task| run(extents, task, product, out));
}

/// Cuts the tiles of these rows of all images into tasks. The cut changes no result.
fn tasks([n, h, w]: [usize; 3], rows: Range<usize>, threads: Threads, weights: &CpuPanels) -> Vec<Task> {
    let across = w.div_ceil(TILE);
    let of_image = h.div_ceil(TILE) * across;
    // Rows of several images are all of them, so that these tiles follow one another.
    assert!(n == 1 || rows == (0..h), "rows {rows:?} of {n} images");
    let first = rows.start / TILE * across;
    let tiles = if n == 1 { rows.end.div_ceil(TILE) * across - first } else { n * of_image };
    if tiles == 0 {
        return Vec::new();
    }
    let all_lanes: usize = (0..weights.count()).map(|panel| weights.lanes(panel).1).sum();
    // Points and sums stay in the second-level cache, beside weights that come by.
    let cache = second_level_cache();
    let values = (cache / 16 * 9).min(MOST_TASK_BYTES) / size_of::<f32>();
    // Weights that do not stay there are read anew for each task. So a task has some of the output channels and as many tiles as there is
    // room for beside their sums, though then patches are transformed more than once.
    let is_large = weights.bytes() > cache / 2;
    let least_tasks = if is_large { threads.tasks() / 2 } else { threads.tasks() };
    let pairs = weights.count().div_ceil(2);
    let groups = match is_large {
        false => 1,
        true if pairs * tiles.div_ceil(MOST_TILES_OF_LARGE_WEIGHTS) >= least_tasks => pairs,
        true => weights.count(),
    };
    let fitting = values / (POINTS * (weights.tile_stride() + all_lanes.div_ceil(groups)));
    // Enough tasks for every thread to be busy to the end.
    let most = fitting.min(tiles.div_ceil(least_tasks.div_ceil(groups).max(1)));
    let most = most.min(if is_large { MOST_TILES_OF_LARGE_WEIGHTS } else { MOST_TILES });
    let most = if most < tiles { (most / ROWS_TOGETHER * ROWS_TOGETHER).max(ROWS_TOGETHER) } else { tiles };
    let blocks = tiles.div_ceil(most);
    // Output channels that fit beside the points.
    let room = values.saturating_sub(POINTS * most * weights.tile_stride()) / (POINTS * most);
    let groups = groups.max(all_lanes.div_ceil(room.max(weights.lanes(0).1))).min(weights.count());
    let cut = |first: usize, of: usize, into: usize, i: usize| first + i * of / into..first + (i + 1) * of / into;
    let block =
        |i: usize| (0..groups).map(move |k| Task { tiles: cut(first, tiles, blocks, i), panels: cut(0, weights.count(), groups, k) });
    (0..blocks).flat_map(block).collect()
}

fn run([_, h, w]: [usize; 3], task: &Task, product: &Product, out: &TensorMut) {
    let &Product { inp, weights, epilogue, accumulate, .. } = product;
    let set = weights.set();
    let sizes = tile_product::sizes(set);
    let (stride, count) = (weights.tile_stride(), task.tiles.len());
    let lanes: usize = task.panels.clone().map(|panel| weights.lanes(panel).1).sum();
    let (point_stride, sum_stride) = (count * stride + GAP, count * lanes + GAP);
    // Rows of tiles that are multiplied together, with the loops for one and for two registers.
    let by_rows = |rows| (rows, [1, 2].map(|vectors| tile_product::find(set, rows, vectors, stride)));
    let groups: Vec<_> = tile_product::cut(count, sizes.max_rows).into_iter().map(by_rows).collect();
    let across = w.div_ceil(TILE);
    let place = |tile: usize| {
        let (row, x) = (tile / across, tile % across);
        let down = h.div_ceil(TILE);
        (row / down, row % down * TILE, x * TILE)
    };
    let buffer_values = PATCH * PATCH * stride;
    with_scratch(POINTS * (point_stride + sum_stride) + buffer_values, |scratch| {
        let (points, rest) = scratch.split_at_mut(POINTS * point_stride);
        let (sums, buffer) = rest.split_at_mut(POINTS * sum_stride);
        for (chunk, (first, length)) in weights.chunks().enumerate() {
            for (i, tile) in task.tiles.clone().enumerate() {
                let (image, y, x) = place(tile);
                let is_inside = y > 0 && x > 0 && y + PATCH - 1 <= h && x + PATCH - 1 <= w;
                let channels = length.next_multiple_of(sizes.lanes);
                let (from, strides) = if is_inside && channels == length {
                    let pixel = inp.pixel_ptr((image * h + y - 1) * w + x - 1).wrapping_add(first);
                    (pixel, [w * inp.pixel_stride(), inp.pixel_stride()])
                } else {
                    // With zeros beyond the image; what lies beyond the channels is not multiplied.
                    let corner = [y as isize - 1, x as isize - 1];
                    let block = Block { image, inp: [h, w], corner, rows: PATCH, columns: PATCH, stride: 1, pixel: stride };
                    block.fill(inp, first, length, buffer);
                    (buffer.as_ptr(), [PATCH * stride, stride])
                };
                let call = Patch { inp: from, strides, channels, out: points[i * stride..].as_mut_ptr(), point_stride };
                // SAFETY: the patch lies inside the image, or in the buffer, whose pixels are a stride apart; so are the points, and no
                // chunk has more channels.
                unsafe { patch(set, &call) };
            }
            for point in 0..POINTS {
                let mut before = 0;
                for panel in task.panels.clone() {
                    let wide = weights.lanes(panel).1;
                    let block = &weights.block(first, length, panel)[point * length * wide..][..length * wide];
                    let mut row = 0;
                    for (rows, products) in &groups {
                        let product = products[wide / sizes.lanes - 1];
                        let call = tile_product::Tile {
                            inp: points[point * point_stride + row * stride..].as_ptr(),
                            taps: &0,
                            tap_count: 1,
                            channels: length,
                            weights: block.as_ptr(),
                            out: sums[point * sum_stride + before + row * wide..].as_mut_ptr(),
                            out_stride: wide,
                            bias: if chunk == 0 { ZEROS.as_ptr() } else { std::ptr::null() },
                            residual: std::ptr::null(),
                            residual_stride: 0,
                            relu: false,
                        };
                        // SAFETY: the points of these tiles and channels were written above; the weights were packed with these chunks
                        // and lanes; sums have room for every tile and lane of the panel.
                        unsafe { product(&call) };
                        row += rows;
                    }
                    before += count * wide;
                }
            }
        }
        for (i, tile) in task.tiles.clone().enumerate() {
            let (image, y, x) = place(tile);
            let mut before = 0;
            for panel in task.panels.clone() {
                let (start, wide) = weights.lanes(panel);
                let first_pixel = (image * h + y) * w + x;
                let is_whole = y + TILE <= h && x + TILE <= w && start + wide <= weights.co();
                let strides_of = |stride: usize| [w * stride, stride];
                let mut call = Sums {
                    sums: sums[before + i * wide..].as_ptr(),
                    point_stride: sum_stride,
                    lanes: wide,
                    bias: weights.bias(panel).as_ptr(),
                    out: out.pixel_ptr(first_pixel).wrapping_add(start),
                    strides: strides_of(out.pixel_stride()),
                    residual: std::ptr::null(),
                    residual_strides: [0, 0],
                    relu: false,
                };
                before += count * wide;
                if is_whole {
                    if accumulate {
                        (call.residual, call.residual_strides) = (call.out, call.strides);
                    } else if let Some(residual) = epilogue.residual {
                        call.residual = residual.pixel_ptr(first_pixel).wrapping_add(start);
                        call.residual_strides = strides_of(residual.pixel_stride());
                    }
                    call.relu = epilogue.relu;
                    // SAFETY: the tile and its channels lie inside the output, and each belongs to one task.
                    unsafe { pixels_of(set, &call) };
                    continue;
                }
                (call.out, call.strides) = (buffer.as_mut_ptr(), [TILE * wide, wide]);
                // SAFETY: the buffer holds more pixels than a tile, and a panel has at most as many lanes as its pixels have values.
                unsafe { pixels_of(set, &call) };
                for (dy, dx) in (0..TILE * TILE).map(|at| (at / TILE, at % TILE)).filter(|(dy, dx)| y + dy < h && x + dx < w) {
                    let pixel = first_pixel + dy * w + dx;
                    let end = weights.co().min(start + wide);
                    // SAFETY: this task alone writes these channels of its pixels.
                    let to = unsafe { std::slice::from_raw_parts_mut(out.pixel_ptr(pixel).add(start), end - start) };
                    epilogue.finish(pixel, start, &buffer[(dy * TILE + dx) * wide..], accumulate, to);
                }
            }
        }
    });
}
