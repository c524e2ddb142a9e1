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
use super::{ConvShape, Epilogue};
use crate::device::cpu::tile_product::{self, Tile};
use crate::device::cpu::{InstructionSet, with_scratch};
use crate::device::{TensorMut, TensorRef};
use rayon::prelude::*;

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
    rows: std::ops::Range<usize>,
    /// First output column of each tile, and the end.
    columns: Vec<usize>,
    panels: std::ops::Range<usize>,
}

pub(super) fn forward(shape: ConvShape, inp: TensorRef, weights: &CpuPanels, epilogue: Epilogue, out: &mut TensorMut) {
    convolve(Window::forward(shape), inp, weights, epilogue, false, out);
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
        convolve(window, dout, &panels, Epilogue::default(), true, dinp);
    }
}

/// Computes all pixels of the window's grid; with `accumulate` they are added to what `out` holds.
fn convolve(window: Window, inp: TensorRef, weights: &CpuPanels, epilogue: Epilogue, accumulate: bool, out: &mut TensorMut) {
    let out: &TensorMut = out;
    tasks(window, weights).par_iter().for_each(|task| run(window, task, inp, weights, epilogue, accumulate, out));
}

/// Cuts the output into tasks. The cut changes no result.
fn tasks(window: Window, weights: &CpuPanels) -> Vec<Task> {
    let [oh, ow] = window.grid;
    let tiles = tile_product::cut(ow, tile_product::sizes(weights.set()).max_rows);
    let mut blocks: Vec<Vec<usize>> = Vec::new();
    let mut x = 0;
    for tile in tiles {
        match blocks.last_mut() {
            Some(block) if x + tile - block[0] <= BLOCK_COLUMNS => block.push(x + tile),
            _ => blocks.push(vec![x, x + tile]),
        }
        x += tile;
    }
    let columns = blocks.iter().map(|block| block[block.len() - 1] - block[0]).max().unwrap_or(0);
    let input_row = ((columns.max(1) - 1) * window.step + window.taps[1]) * pixel_values(window, weights);
    let rows = (BLOCK_VALUES / input_row).saturating_sub(window.taps[0] - 1) / window.step;
    let rows = rows.clamp(1, oh);
    let row_blocks = oh.div_ceil(rows);
    let mut tasks = Vec::new();
    for image in 0..window.n {
        for block in 0..row_blocks {
            for columns in &blocks {
                for first in (0..weights.count()).step_by(TASK_PANELS) {
                    tasks.push(Task {
                        image,
                        rows: block * oh / row_blocks..(block + 1) * oh / row_blocks,
                        columns: columns.clone(),
                        panels: first..weights.count().min(first + TASK_PANELS),
                    });
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

fn pixel_values(window: Window, weights: &CpuPanels) -> usize {
    if taps_along_row(window, weights) { 1 } else { weights.tile_stride() }
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
                        to_pixel.copy_from_slice(&inp.pixel(pixel_of(column))[first..first + length]);
                    } else {
                        to_pixel.fill(0.0);
                    }
                }
            }
        }
    }
}

fn run(window: Window, task: &Task, inp: TensorRef, weights: &CpuPanels, epilogue: Epilogue, accumulate: bool, out: &TensorMut) {
    let Window { taps: [taps_y, taps_x], first, step: stride, out: [oh, ow], out_step: step, phase, .. } = window;
    let co = weights.co();
    let (first_x, last_x) = (task.columns[0], task.columns[task.columns.len() - 1]);
    let rows = task.rows.len();
    let columns = last_x - first_x;
    let pixel = pixel_values(window, weights);
    let input = Block {
        image: task.image,
        inp: window.inp,
        corner: [(task.rows.start * stride) as isize + first[0], (first_x * stride) as isize + first[1]],
        rows: (rows - 1) * stride + taps_y,
        columns: (columns - 1) * stride + taps_x,
        stride,
        pixel,
    };
    let row_values = input.row_values();
    let (taps, tap_channels): (Vec<usize>, Option<usize>) = if taps_along_row(window, weights) {
        ((0..taps_y).map(|ky| ky * row_values).collect(), Some(taps_x))
    } else {
        ((0..taps_y * taps_x).map(|i| input.offset(i / taps_x, i % taps_x)).collect(), None)
    };
    // A panel that reaches beyond the last channel is summed in a buffer of its own and copied at the end.
    let partial = task.panels.clone().find(|&panel| weights.lanes(panel).0 + weights.lanes(panel).1 > co);
    let partial_lanes = partial.map_or(0, |panel| weights.lanes(panel).1);
    let block_values = input.rows * row_values;
    let pixel_index =
        |row: usize, x: usize| (task.image * oh + (task.rows.start + row) * step + phase[0]) * ow + (first_x + x) * step + phase[1];

    with_scratch(block_values + rows * columns * partial_lanes, |scratch| {
        let (block, partial_sums) = scratch.split_at_mut(block_values);
        let chunks: Vec<(usize, usize)> = weights.chunks().collect();
        for (i, &(first, length)) in chunks.iter().enumerate() {
            input.fill(inp, first, length, block);
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
                            inp: block[row * stride * row_values + x * pixel..].as_ptr(),
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
                        // SAFETY: the block holds every tap of every row of the tile; the weights were packed with these
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
