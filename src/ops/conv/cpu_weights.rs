//! Gradient of a convolution's weights on the CPU: for each tap the outer product of input and output pixels, summed
//! over the image, through the outer product's tiles.
//!
//! The output rows are cut into parts by the shape alone, each with sums of its own, and the parts are added in their
//! order: the number of threads changes no bit.

use super::ConvShape;
use super::cpu::Block;
use super::weights::CHUNK;
use crate::device::TensorRef;
use crate::device::cpu::outer_product::{self, Outer};
use crate::device::cpu::{InstructionSet, tile_product, with_scratch};
use rayon::prelude::*;

/// Values of the input block of a task, and of its block of the output's gradient: 96 KiB each.
const BLOCK_VALUES: usize = 24 * 1024;
/// Most output columns of a block.
const BLOCK_COLUMNS: usize = 64;
/// Most parts.
const MOST_PARTS: usize = 16;
/// A part has at least as many output pixels, because its sums have to be cleared and added to the others.
const PART_PIXELS: usize = 512;
/// Where there are fewer parts than this, the input channels are dealt to more tasks, because these share no sums.
const FEW_PARTS: usize = 8;
/// Fewest input channels of a task.
const LEAST_GROUP: usize = 16;
/// The sums of all parts together have at most this many values (16 MiB), unless those of one part alone have more.
const SUM_VALUES: usize = 4 * 1024 * 1024;

/// Output channels whose sums are collected together: one cache line.
const COLLECTED: usize = 16;

/// How the work is cut. It depends on the shape alone, so that the number of threads changes no bit.
struct Cut {
    /// Parts of the output rows of all images.
    parts: usize,
    /// Input channels of a task.
    group: usize,
    groups: usize,
    /// Taps that are summed separately, and how many inputs each has: channels, or taps along a row.
    taps: usize,
    inputs: usize,
    /// Output channels, filled up to whole vectors.
    lanes: usize,
}

impl Cut {
    fn of(shape: ConvShape, set: InstructionSet) -> Self {
        let [n, oh, ow, co] = shape.out();
        let lanes = co.next_multiple_of(tile_product::sizes(set).lanes);
        let along_row = shape.ci == 1 && shape.stride == 1;
        let wanted = (n * oh * ow / PART_PIXELS).clamp(1, MOST_PARTS).min(n * oh);
        let group = match wanted {
            _ if along_row => 1,
            ..FEW_PARTS => shape.ci.min(CHUNK).min((shape.ci * wanted / FEW_PARTS).max(LEAST_GROUP)),
            _ => shape.ci.min(CHUNK),
        };
        let (taps, inputs) = if along_row { (shape.kernel, shape.kernel) } else { (shape.kernel * shape.kernel, group) };
        let groups = shape.ci.div_ceil(group);
        let one = taps * inputs * groups * lanes;
        let parts = (SUM_VALUES / one).clamp(1, wanted);
        Cut { parts, group, groups, taps, inputs, lanes }
    }

    fn task_values(&self) -> usize {
        self.taps * self.inputs * self.lanes
    }
}

/// Values that `backward_weights` needs to work with.
pub(super) fn scratch_len(shape: ConvShape, set: InstructionSet) -> usize {
    let cut = Cut::of(shape, set);
    cut.parts * cut.groups * cut.task_values()
}

/// Adds the gradient of the weights, `[co][ci][k][k]`.
pub(super) fn backward_weights(
    shape: ConvShape,
    inp: TensorRef,
    dout: TensorRef,
    dweights: &mut [f32],
    scratch: &mut [f32],
    set: InstructionSet,
) {
    let ConvShape { n, ci, kernel, .. } = shape;
    let [_, oh, _, _] = shape.out();
    let cut = Cut::of(shape, set);
    let sums = &mut scratch[..cut.parts * cut.groups * cut.task_values()];
    sums.par_chunks_mut(cut.task_values()).enumerate().for_each(|(task, sums)| {
        let (part, group) = (task / cut.groups, task % cut.groups);
        let rows = part * n * oh / cut.parts..(part + 1) * n * oh / cut.parts;
        let channels = group * cut.group..ci.min((group + 1) * cut.group);
        sum_rows(shape, &cut, rows, channels, inp, dout, sums, set);
    });
    let sums: &[f32] = sums;
    let taps = kernel * kernel;
    // Some output channels at a time: they are neighbours in the sums.
    dweights.par_chunks_mut(COLLECTED * ci * taps).enumerate().for_each(|(task, dweights)| {
        let first = task * COLLECTED;
        for (c, tap) in (0..ci).flat_map(|c| (0..taps).map(move |tap| (c, tap))) {
            // Taps along a row stand where the channels do, and their order is the same.
            let within = (tap * cut.group + c % cut.group) * cut.lanes + first;
            let mut total = [0.0_f32; COLLECTED];
            for part in 0..cut.parts {
                let sums = &sums[(part * cut.groups + c / cut.group) * cut.task_values() + within..];
                total.iter_mut().zip(sums).for_each(|(total, &sum)| *total += sum);
            }
            for (dweights, &total) in dweights.chunks_exact_mut(ci * taps).zip(&total) {
                dweights[c * taps + tap] += total;
            }
        }
    });
}

/// Sums of one part and one group of input channels: `[tap][input][lane]`.
fn sum_rows(
    shape: ConvShape,
    cut: &Cut,
    rows: std::ops::Range<usize>,
    channels: std::ops::Range<usize>,
    inp: TensorRef,
    dout: TensorRef,
    sums: &mut [f32],
    set: InstructionSet,
) {
    let ConvShape { h, w, kernel, stride, .. } = shape;
    let [_, oh, ow, co] = shape.out();
    let pad = (kernel / 2) as isize;
    let pixel = channels.len();
    let along_row = cut.taps == kernel && kernel > 1;
    let inputs = if along_row { kernel } else { pixel };
    let lanes = tile_product::sizes(set).lanes;
    let columns_most = ow.min(BLOCK_COLUMNS);
    let input_row = ((columns_most - 1) * stride + kernel).next_multiple_of(stride) * pixel;
    let rows_most = ((BLOCK_VALUES / input_row).saturating_sub(kernel - 1) / stride).min(BLOCK_VALUES / (columns_most * cut.lanes)).max(1);
    let block_values = ((rows_most - 1) * stride + kernel) * input_row;
    // Gradients of the output that fill whole vectors are read where they lie.
    let is_whole = co == cut.lanes;
    let other_values = if is_whole { 0 } else { rows_most * columns_most * cut.lanes };
    sums.fill(0.0);
    with_scratch(block_values + other_values, |scratch| {
        let (block, other) = scratch.split_at_mut(block_values);
        let mut row = rows.start;
        while row < rows.end {
            let (image, y) = (row / oh, row % oh);
            let row_count = rows_most.min(rows.end - row).min(oh - y);
            for x in (0..ow).step_by(columns_most) {
                let columns = columns_most.min(ow - x);
                let input = Block {
                    image,
                    inp: [h, w],
                    corner: [(y * stride) as isize - pad, (x * stride) as isize - pad],
                    rows: (row_count - 1) * stride + kernel,
                    columns: (columns - 1) * stride + kernel,
                    stride,
                    pixel,
                };
                input.fill(inp, channels.start, pixel, block);
                let (other, other_step, other_row) = if is_whole {
                    (dout.pixel_ptr(row * ow + x), dout.pixel_stride(), ow * dout.pixel_stride())
                } else {
                    for (i, to) in other[..row_count * columns * cut.lanes].chunks_exact_mut(cut.lanes).enumerate() {
                        to[..co].copy_from_slice(dout.pixel((row + i / columns) * ow + x + i % columns));
                        to[co..].fill(0.0);
                    }
                    (other.as_ptr(), cut.lanes, columns * cut.lanes)
                };
                let mut lane = 0;
                while lane < cut.lanes {
                    let vectors = if cut.lanes - lane > lanes { 2 } else { 1 };
                    for tap in 0..cut.taps {
                        let offset = if along_row { input.offset(tap, 0) } else { input.offset(tap / kernel, tap % kernel) };
                        let mut m = 0;
                        for tile in tile_product::cut(inputs, tile_product::sizes(set).max_rows) {
                            let call = Outer {
                                inp: block[offset + m..].as_ptr(),
                                inp_step: pixel,
                                inp_row: stride * input.row_values(),
                                other: other.wrapping_add(lane),
                                other_step,
                                other_row,
                                rows: row_count,
                                pixels: columns,
                                out: sums[(tap * cut.inputs + m) * cut.lanes + lane..].as_mut_ptr(),
                                out_stride: cut.lanes,
                            };
                            // SAFETY: the block holds every tap of every pixel of the rows, `other` (or the gradient itself) all
                            // their lanes, and `sums` all taps, inputs and lanes of this task alone.
                            unsafe { outer_product::find(set, tile, vectors)(&call) };
                            m += tile;
                        }
                    }
                    lane += vectors * lanes;
                }
            }
            row += row_count;
        }
    });
}
