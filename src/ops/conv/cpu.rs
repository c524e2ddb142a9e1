//! Convolution on the CPU: blocks of output pixels, each through the tile product.
//!
//! A task is a block of output rows and columns for a few panels of output channels. Its part of the input is copied,
//! a chunk of channels at a time, into a buffer with zeros for the padding, whose pixels lie at a stride that the tile
//! product was compiled for. For a stride s the columns are dealt to s rows, so that every s-th column is a neighbour.
//! The order of the sums (chunk, tap, channel) does not depend on how the image was cut into tasks.

use super::panels::Panels;
use super::{ConvShape, Epilogue};
use crate::device::cpu::tile_product::{self, Tile};
use crate::device::cpu::with_scratch;
use crate::device::{TensorMut, TensorRef};
use rayon::prelude::*;

/// Values of the input block of a task: 160 KiB, so that it stays in the second-level cache beside the weights.
const BLOCK_VALUES: usize = 40 * 1024;
/// Most output columns of a task.
const BLOCK_COLUMNS: usize = 70;
/// Panels of output channels of a task: bounds the block of the output that is revisited for every chunk.
const TASK_PANELS: usize = 4;

/// Output pixels and panels of one task.
struct Task {
    image: usize,
    rows: std::ops::Range<usize>,
    /// First output column of each tile, and the end.
    columns: Vec<usize>,
    panels: std::ops::Range<usize>,
}

pub(super) fn forward(shape: ConvShape, inp: TensorRef, weights: &Panels, epilogue: Epilogue, out: &mut TensorMut) {
    let out: &TensorMut = out;
    tasks(shape, weights).par_iter().for_each(|task| run(shape, task, inp, weights, epilogue, out));
}

/// Cuts the output into tasks. The cut changes no result.
fn tasks(shape: ConvShape, weights: &Panels) -> Vec<Task> {
    let [n, oh, ow, _] = shape.out();
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
    let input_row = ((columns.max(1) - 1) * shape.stride + shape.kernel) * pixel_values(shape, weights);
    let rows = (BLOCK_VALUES / input_row).saturating_sub(shape.kernel - 1) / shape.stride;
    let rows = rows.clamp(1, oh);
    let row_blocks = oh.div_ceil(rows);
    let mut tasks = Vec::new();
    for image in 0..n {
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

/// One channel and no stride: the taps of a row are neighbours in memory, and are summed as if they were channels.
fn taps_along_row(shape: ConvShape) -> bool {
    shape.ci == 1 && shape.stride == 1
}

fn pixel_values(shape: ConvShape, weights: &Panels) -> usize {
    if taps_along_row(shape) { 1 } else { weights.tile_stride() }
}

fn run(shape: ConvShape, task: &Task, inp: TensorRef, weights: &Panels, epilogue: Epilogue, out: &TensorMut) {
    let ConvShape { h, w, kernel, stride, .. } = shape;
    let [_, oh, ow, co] = shape.out();
    let (first_x, last_x) = (task.columns[0], task.columns[task.columns.len() - 1]);
    let rows = task.rows.len();
    let columns = last_x - first_x;
    let pixel = pixel_values(shape, weights);
    let input_rows = (rows - 1) * stride + kernel;
    let input_columns = (columns - 1) * stride + kernel;
    let dealt_columns = input_columns.div_ceil(stride); // in each of the `stride` rows that an input row is dealt to
    let row_values = stride * dealt_columns * pixel;
    let (taps, tap_channels): (Vec<usize>, Option<usize>) = if taps_along_row(shape) {
        ((0..kernel).map(|ky| ky * row_values).collect(), Some(kernel))
    } else {
        let tap = |i: usize| (i / kernel) * row_values + ((i % kernel) % stride * dealt_columns + (i % kernel) / stride) * pixel;
        ((0..kernel * kernel).map(tap).collect(), None)
    };
    // A panel that reaches beyond the last channel is summed in a buffer of its own and copied at the end.
    let partial = task.panels.clone().find(|&panel| weights.lanes(panel).0 + weights.lanes(panel).1 > co);
    let partial_lanes = partial.map_or(0, |panel| weights.lanes(panel).1);
    let block_values = input_rows * row_values;
    let pixel_index = |row: usize, x: usize| (task.image * oh + task.rows.start + row) * ow + first_x + x;

    with_scratch(block_values + rows * columns * partial_lanes, |scratch| {
        let (block, partial_sums) = scratch.split_at_mut(block_values);
        let chunks: Vec<(usize, usize)> = weights.chunks().collect();
        for (i, &(first, length)) in chunks.iter().enumerate() {
            // Fill the block: zeros where the image ends.
            for row in 0..input_rows {
                let iy = (task.rows.start * stride + row) as isize - (kernel / 2) as isize;
                let row_block = &mut block[row * row_values..(row + 1) * row_values];
                let inside_y = iy >= 0 && iy < h as isize;
                for column in 0..input_columns {
                    let ix = (first_x * stride + column) as isize - (kernel / 2) as isize;
                    let to = &mut row_block[(column % stride * dealt_columns + column / stride) * pixel..][..length];
                    if inside_y && ix >= 0 && ix < w as isize {
                        to.copy_from_slice(&inp.pixel((task.image * h + iy as usize) * w + ix as usize)[first..first + length]);
                    } else {
                        to.fill(0.0);
                    }
                }
            }
            let last_chunk = i + 1 == chunks.len();
            for panel in task.panels.clone() {
                let (start, lanes) = weights.lanes(panel);
                let is_partial = partial == Some(panel);
                let block_weights = weights.block(first, length, panel);
                let vectors = lanes / tile_product::sizes(weights.set()).lanes;
                for row in 0..rows {
                    for tile in task.columns.windows(2) {
                        let x = tile[0] - first_x;
                        let product = tile_product::find(weights.set(), tile[1] - tile[0], vectors, pixel);
                        let residual = epilogue.residual.filter(|_| i == 0 && !is_partial);
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
                            out_stride: if is_partial { lanes } else { out.pixel_stride() },
                            bias: if i == 0 { weights.bias(panel).as_ptr() } else { std::ptr::null() },
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
                    to.copy_from_slice(sums);
                    if let Some(residual) = epilogue.residual {
                        to.iter_mut().zip(&residual.pixel(index)[start..]).for_each(|(value, &r)| *value += r);
                    }
                    if epilogue.relu {
                        to.iter_mut().filter(|value| **value < 0.0).for_each(|value| *value = 0.0);
                    }
                }
            }
        }
    });
}
