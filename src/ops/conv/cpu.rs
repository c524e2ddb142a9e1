//! Convolution on the CPU: blocks of output pixels, each through the tile product.
//!
//! A task is a block of output rows and columns for a few panels of output channels. Its part of the input is copied,
//! a chunk of channels at a time, into a buffer with zeros for the padding, whose pixels lie at a stride that the tile
//! product was compiled for. For a stride s the columns are dealt to s rows, so that every s-th column is a neighbour.
//! The order of the sums (chunk, tap, channel) does not depend on how the image was cut into tasks.
//!
//! The gradient of the input is a convolution too: of the gradient of the output with the kernel turned round, or for a
//! stride s one for each of the s x s phases of the input's pixels, with the taps that reach that phase.

use super::weights::CpuPanels;
use super::window::{Phase, Window, phases};
use super::{ConvShape, Epilogue, Product, Threads};
use crate::device::cpu::tile_product::{self, Tile};
use crate::device::cpu::{InstructionSet, with_scratch};
use crate::device::{TensorMut, TensorRef};
use std::ops::Range;

/// Values of the input block of a task: 160 KiB, so that it stays in the second-level cache beside the weights.
const BLOCK_VALUES: usize = 40 * 1024;
/// Most output columns of a task.
const BLOCK_COLUMNS: usize = 70;
/// A task has at most this many panels of output channels, because its block of the output is read and written once for every
/// chunk and should stay in the cache.
const TASK_PANELS: usize = 4;

/// Output pixels and panels of one task.
struct Task {
    image: usize,
    rows: Range<usize>,
    /// First output column of each tile, and the end.
    columns: Vec<usize>,
    panels: Range<usize>,
}

/// Adds the gradient of the input. `weights` `[co][ci][k][k]`.
pub(super) fn backward_data(shape: ConvShape, weights: &[f32], dout: TensorRef, dinp: &mut TensorMut, set: InstructionSet) {
    let ConvShape { ci, co, kernel, stride, .. } = shape;
    for Phase { window, first_tap: [tap_y, tap_x] } in phases(shape) {
        let [rows, columns] = window.taps;
        let weight = |c: usize, o: usize, tap: usize| {
            let (ky, kx) = (tap_y - tap / columns * stride, tap_x - tap % columns * stride);
            weights[((o * ci + c) * kernel + ky) * kernel + kx]
        };
        let panels = CpuPanels::pack_by(co, ci, rows * columns, weight, &[], set);
        let (rows, threads, epilogue) = (0..window.grid[0], Threads::All, Epilogue::default());
        convolve(window, &Product { rows, threads, inp: dout, weights: &panels, epilogue, accumulate: true }, dinp);
    }
}

/// Computes some rows of the window's grid; with `accumulate` they are added to what `out` holds.
pub(super) fn convolve(window: Window, product: &Product, out: &mut TensorMut) {
    let Product { rows, threads, inp, weights, .. } = product;
    let out: &TensorMut = out;
    let tasks = tasks(window, rows.clone(), *threads, weights, in_place(window, weights, *inp).is_some());
    threads.for_each(&tasks, |task| run(window, task, product, out));
}

/// Cuts some rows of the output into tasks. The cut changes no result. With `in_place` the pixels whose windows reach beyond the image
/// have tasks of their own, because only these tasks copy.
fn tasks(window: Window, of: Range<usize>, threads: Threads, weights: &CpuPanels, in_place: bool) -> Vec<Task> {
    let [oh, ow] = window.grid;
    let tiles = tile_product::cut(ow, tile_product::sizes(weights.set()).max_rows);
    // A single pixel at the end of a row has a tile of its own, and the one before it may reach beyond the image as well.
    let ends_alone = if in_place { [1, tiles.len().saturating_sub(if ow % 2 == 1 { 2 } else { 1 })] } else { [0, tiles.len()] };
    let mut blocks: Vec<Vec<usize>> = Vec::new();
    let mut x = 0;
    for (i, tile) in tiles.into_iter().enumerate() {
        match blocks.last_mut() {
            Some(block) if x + tile - block[0] <= BLOCK_COLUMNS && !ends_alone.contains(&i) => block.push(x + tile),
            _ => blocks.push(vec![x, x + tile]),
        }
        x += tile;
    }
    let columns = blocks.iter().map(|block| block[block.len() - 1] - block[0]).max().unwrap_or(0);
    let input_row = ((columns.max(1) - 1) * window.step + window.taps[1]) * pixel_values(window, weights);
    let rows = (BLOCK_VALUES / input_row).saturating_sub(window.taps[0] - 1) / window.step;
    // Enough tasks for every thread to be busy to the end, as far as that is possible.
    let of_a_row = window.n * blocks.len() * weights.count().div_ceil(TASK_PANELS);
    let most = (of.len() * of_a_row).div_ceil(threads.tasks());
    let border = if in_place { window.taps[0].div_ceil(window.step) } else { 0 };
    let mut row_blocks = Vec::new();
    for part in cut_borders(of, oh, border) {
        let count = part.len().div_ceil(rows.min(most).max(1));
        row_blocks.extend((0..count).map(|i| part.start + i * part.len() / count..part.start + (i + 1) * part.len() / count));
    }
    let mut tasks = Vec::new();
    for image in 0..window.n {
        for rows in &row_blocks {
            for columns in &blocks {
                for first in (0..weights.count()).step_by(TASK_PANELS) {
                    let panels = first..weights.count().min(first + TASK_PANELS);
                    tasks.push(Task { image, rows: rows.clone(), columns: columns.clone(), panels });
                }
            }
        }
    }
    tasks
}

/// True for one channel without a stride. Then the taps of a row are neighbours in memory, and are summed as if they were channels.
fn taps_along_row(window: Window, weights: &CpuPanels) -> bool {
    weights.ci() == 1 && window.step == 1
}

/// Values of a pixel of a block.
fn pixel_values(window: Window, weights: &CpuPanels) -> usize {
    if taps_along_row(window, weights) {
        1
    } else if weights.is_deep() {
        weights.ci()
    } else {
        weights.tile_stride()
    }
}

/// Values from one window to the next in a map, if there is a loop for so many. Then what lies inside the image is read where it is.
fn in_place(window: Window, weights: &CpuPanels, inp: TensorRef) -> Option<usize> {
    let stride = window.step * inp.pixel_stride();
    let has_loop = if taps_along_row(window, weights) { stride == 1 } else { stride > 1 && tile_product::has_stride(stride) };
    has_loop.then_some(stride)
}

/// Rows, or columns, that are `border` from either end of `all`, and those between, as far as they are in `of`.
fn cut_borders(of: Range<usize>, all: usize, border: usize) -> [Range<usize>; 3] {
    let (low, high) = (border.clamp(of.start, of.end), all.saturating_sub(border).clamp(of.start, of.end));
    [of.start..low, low..high.max(low), high.max(low)..of.end]
}

/// A rectangle of the input, copied with zeros around: each row dealt to `stride` rows of every stride-th column.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Image, and its rows and columns.
    pub image: usize,
    pub inp: [usize; 2],
    /// Input row and column of its corner.
    pub corner: [isize; 2],
    /// Input rows and columns.
    pub rows: usize,
    pub columns: usize,
    pub stride: usize,
    /// Values from one pixel to the next.
    pub pixel: usize,
}

impl Block {
    /// Columns of each dealt row.
    pub fn dealt(&self) -> usize {
        self.columns.div_ceil(self.stride)
    }

    /// Values from one input row to the next.
    pub fn row_values(&self) -> usize {
        self.stride * self.dealt() * self.pixel
    }

    /// Where the pixel (row, column) lies.
    pub fn offset(&self, row: usize, column: usize) -> usize {
        row * self.row_values() + (column % self.stride * self.dealt() + column / self.stride) * self.pixel
    }

    /// Copies `length` channels from `first` on.
    pub fn fill(&self, inp: TensorRef, first: usize, length: usize, block: &mut [f32]) {
        let [h, w] = self.inp;
        // Columns of the block that lie inside the image.
        let from = (-self.corner[1]).clamp(0, self.columns as isize) as usize;
        let to = (w as isize - self.corner[1]).clamp(from as isize, self.columns as isize) as usize;
        let is_one_piece = self.stride == 1 && length == self.pixel && length == inp.pixel_stride();
        for (row, block) in block.chunks_exact_mut(self.row_values()).take(self.rows).enumerate() {
            let y = self.corner[0] + row as isize;
            let (from, to) = if (0..h as isize).contains(&y) { (from, to) } else { (0, 0) };
            let pixel_of = |column: usize| (self.image * h + y as usize) * w + (self.corner[1] + column as isize) as usize;
            if is_one_piece && from < to {
                block[..from * length].fill(0.0);
                block[to * length..].fill(0.0);
                // SAFETY: these pixels lie inside one row of the image, and their values one after the other.
                let values = unsafe { std::slice::from_raw_parts(inp.pixel_ptr(pixel_of(from)).add(first), (to - from) * length) };
                block[from * length..to * length].copy_from_slice(values);
                continue;
            }
            for (turn, dealt) in block.chunks_exact_mut(self.dealt() * self.pixel).enumerate() {
                for (i, to_pixel) in dealt.chunks_exact_mut(self.pixel).enumerate() {
                    let column = turn + i * self.stride;
                    let to_pixel = &mut to_pixel[..length];
                    if column >= from && column < to {
                        copy_channels(&inp.pixel(pixel_of(column))[first..first + length], to_pixel);
                    } else {
                        to_pixel.fill(0.0);
                    }
                }
            }
        }
    }
}

/// Copies the channels of a pixel, in pieces whose length is known, because a call for each pixel costs more than what it copies.
#[inline(always)]
fn copy_channels(from: &[f32], to: &mut [f32]) {
    let ((from, rest), (to, to_rest)) = (from.as_chunks::<16>(), to.as_chunks_mut::<16>());
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    to_rest.copy_from_slice(rest);
}

fn run(window: Window, task: &Task, product: &Product, out: &TensorMut) {
    let &Product { inp, weights, epilogue, accumulate, .. } = product;
    let Window { taps: [taps_y, taps_x], first, step: stride, out: [oh, ow], out_step: step, phase, .. } = window;
    let co = weights.co();
    let (first_x, last_x) = (task.columns[0], task.columns[task.columns.len() - 1]);
    let rows = task.rows.len();
    let columns = last_x - first_x;
    let [corner_y, corner_x] = [(task.rows.start * stride) as isize + first[0], (first_x * stride) as isize + first[1]];
    let (input_rows, input_columns) = ((rows - 1) * stride + taps_y, (columns - 1) * stride + taps_x);
    let [h, w] = window.inp;
    let is_inside = corner_y >= 0 && corner_x >= 0 && corner_y as usize + input_rows <= h && corner_x as usize + input_columns <= w;
    let in_place = in_place(window, weights, inp).filter(|_| is_inside);
    // A pixel of many channels is copied in planes, which are summed like taps.
    let planes = if weights.is_deep() && in_place.is_none() { weights.ci() / weights.plane() } else { 1 };
    let pixel = in_place.unwrap_or(pixel_values(window, weights) / planes);
    let input =
        Block { image: task.image, inp: window.inp, corner: [corner_y, corner_x], rows: input_rows, columns: input_columns, stride, pixel };
    // From one row of the input to the next, and from one pixel: in the map, or in a block that is copied.
    let row_values = if in_place.is_some() { w * inp.pixel_stride() } else { input.row_values() };
    let offset = |row: usize, column: usize| match in_place {
        Some(_) => row * row_values + column * inp.pixel_stride(),
        None => input.offset(row, column),
    };
    let plane_values = input.rows * row_values;
    let (taps, tap_channels): (Vec<usize>, Option<usize>) = if taps_along_row(window, weights) {
        ((0..taps_y).map(|ky| ky * row_values).collect(), Some(taps_x))
    } else if planes > 1 {
        ((0..planes).map(|plane| plane * plane_values).collect(), Some(pixel))
    } else {
        ((0..taps_y * taps_x).map(|i| offset(i / taps_x, i % taps_x)).collect(), None)
    };
    let first_pixel = (task.image * h + corner_y.max(0) as usize) * w + corner_x.max(0) as usize;
    // A panel that reaches beyond the last channel is summed in a buffer of its own and copied at the end.
    let partial = task.panels.clone().find(|&panel| weights.lanes(panel).0 + weights.lanes(panel).1 > co);
    let partial_lanes = partial.map_or(0, |panel| weights.lanes(panel).1);
    let block_values = if in_place.is_some() { 0 } else { planes * plane_values };
    let pixel_index =
        |row: usize, x: usize| (task.image * oh + (task.rows.start + row) * step + phase[0]) * ow + (first_x + x) * step + phase[1];

    with_scratch(block_values + rows * columns * partial_lanes, |scratch| {
        let (block, partial_sums) = scratch.split_at_mut(block_values);
        let chunks: Vec<(usize, usize)> = weights.chunks().collect();
        for (i, &(first, length)) in chunks.iter().enumerate() {
            let from = if in_place.is_some() {
                inp.pixel_ptr(first_pixel).wrapping_add(first)
            } else {
                for (plane, block) in block.chunks_exact_mut(plane_values).enumerate() {
                    input.fill(inp, first + plane * pixel, if planes > 1 { pixel } else { length }, block);
                }
                block.as_ptr()
            };
            let last_chunk = i + 1 == chunks.len();
            for panel in task.panels.clone() {
                let (start, lanes) = weights.lanes(panel);
                let is_partial = partial == Some(panel);
                let block_weights = weights.block(first, length, panel);
                let vectors = lanes / tile_product::sizes(weights.set()).lanes;
                let residual = epilogue.residual.filter(|_| i == 0 && !is_partial);
                for row in 0..rows {
                    for tile in task.columns.windows(2) {
                        let x = tile[0] - first_x;
                        let product = tile_product::find(weights.set(), tile[1] - tile[0], vectors, pixel);
                        let call = Tile {
                            inp: from.wrapping_add(row * stride * row_values + x * pixel),
                            taps: taps.as_ptr(),
                            tap_count: taps.len(),
                            channels: tap_channels.unwrap_or(length),
                            weights: block_weights.as_ptr(),
                            out: if is_partial {
                                partial_sums[(row * columns + x) * lanes..].as_mut_ptr()
                            } else {
                                out.pixel_ptr(pixel_index(row, x)).wrapping_add(start)
                            },
                            out_stride: if is_partial { lanes } else { step * out.pixel_stride() },
                            bias: if i == 0 && (is_partial || !accumulate) { weights.bias(panel).as_ptr() } else { std::ptr::null() },
                            residual: residual.map_or(std::ptr::null(), |r| r.pixel_ptr(pixel_index(row, x)).wrapping_add(start)),
                            residual_stride: residual.map_or(0, |r| r.pixel_stride()),
                            relu: last_chunk && epilogue.relu && !is_partial,
                        };
                        // SAFETY: the block, or the image, has every tap of every row of the tile; the weights were packed with these
                        // chunks and lanes; full panels lie within the output's channels, partial ones in their buffer;
                        // each output pixel and panel belongs to one task.
                        unsafe { product(&call) };
                    }
                }
            }
        }
        if let Some(panel) = partial {
            let (start, lanes) = weights.lanes(panel);
            for row in 0..rows {
                for x in 0..columns {
                    let sums = &partial_sums[(row * columns + x) * lanes..][..co - start];
                    let index = pixel_index(row, x);
                    // SAFETY: this task alone writes these channels of its pixels.
                    let to = unsafe { std::slice::from_raw_parts_mut(out.pixel_ptr(index).add(start), co - start) };
                    epilogue.finish(index, start, sums, accumulate, to);
                }
            }
        }
    });
}
