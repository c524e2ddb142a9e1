//! Samples between pixels: sums of four neighbours, each times a weight, for as many channels at once as a vector register holds.
//!
//! ```text
//! out[i][k] = inp[a_i][k] * wa_i + inp[a_i + beside][k] * wb_i + inp[a_i + below][k] * wc_i + inp[a_i + below + beside][k] * wd_i
//! ```
//! The sum runs from left to right, one fused multiply-add after the other where the instruction set has them.

use super::InstructionSet;
use super::tile_product::{Lanes, by_lanes, sizes};

/// Most samples of a call.
pub const MOST_SAMPLES: usize = 576;

/// Where samples lie, in one piece of memory with a place for each number that is known when the program is compiled: so a single
/// pointer serves all of them.
#[repr(C, align(64))]
pub struct Samples {
    /// Index of the upper left of the four pixels of each sample.
    pub corners: [u32; MOST_SAMPLES],
    /// Weights of the upper left, upper right, lower left and lower right pixel.
    pub weights: [[f32; MOST_SAMPLES]; 4],
}

impl Samples {
    /// Samples of pixel 0 that weigh nothing.
    pub fn new() -> Box<Samples> {
        Box::new(Samples { corners: [0; MOST_SAMPLES], weights: [[0.0; MOST_SAMPLES]; 4] })
    }
}

/// Samples of one map.
#[derive(Clone, Copy)]
pub struct Blend<'a> {
    /// The first channel of pixel 0.
    pub inp: *const f32,
    /// Values from one pixel to the next.
    pub pixel_stride: usize,
    /// Values from a pixel to its neighbour on the right, and to the one below.
    pub beside: usize,
    /// See `beside`.
    pub below: usize,
    /// The samples.
    pub samples: &'a Samples,
    /// Samples of a set, and sets: a sample of each set in turn, because such samples lie near one another.
    pub count: usize,
    /// See `count`.
    pub sets: usize,
    /// Samples from one set to the next, at least `count`.
    pub held: usize,
    /// Channels: a multiple of a register's lanes.
    pub channels: usize,
    /// The first channel of the first sample. Sets lie one after the other.
    pub out: *mut f32,
    /// Values from one sample to the next.
    pub out_stride: usize,
}

/// True if there is a loop for so many channels.
pub fn suits(set: InstructionSet, channels: usize) -> bool {
    channels.is_multiple_of(sizes(set).lanes)
}

#[inline(always)]
unsafe fn run<L: Lanes>(blend: &Blend) {
    // SAFETY: passed on from the caller.
    unsafe {
        match blend.channels / L::LANES {
            vectors if vectors % 4 == 0 => in_groups::<L, 4>(blend),
            vectors if vectors % 2 == 0 => in_groups::<L, 2>(blend),
            _ => in_groups::<L, 1>(blend),
        }
    }
}

/// Works on as many vectors of a sample together. It has no closures: one that is not inlined is compiled for another instruction set.
#[inline(always)]
unsafe fn in_groups<L: Lanes, const VECTORS: usize>(blend: &Blend) {
    let Blend { inp, pixel_stride, beside, below, count, sets, held, channels, out_stride, .. } = *blend;
    assert!(count <= held && held * sets <= MOST_SAMPLES, "{sets} sets of {count} of {held} samples");
    let samples: *const Samples = blend.samples;
    for sample in 0..count {
        let mut i = sample;
        let mut out = blend.out.wrapping_add(sample * out_stride);
        for _ in 0..sets {
            // SAFETY: the index is below the arrays' lengths; the caller vouches for the channels of every pixel, and for those of every
            // sample.
            unsafe {
                let [wa, wb, wc, wd] = &(*samples).weights;
                let (by_a, by_b) = (L::splat(wa.as_ptr().add(i)), L::splat(wb.as_ptr().add(i)));
                let (by_c, by_d) = (L::splat(wc.as_ptr().add(i)), L::splat(wd.as_ptr().add(i)));
                let upper = inp.add(*(*samples).corners.as_ptr().add(i) as usize * pixel_stride);
                let lower = upper.add(below);
                let mut at = 0;
                while at < channels {
                    let mut v = 0;
                    while v < VECTORS {
                        let mut sum = L::mul(L::load(upper.add(at)), by_a);
                        sum = L::mul_add(L::load(upper.add(at + beside)), by_b, sum);
                        sum = L::mul_add(L::load(lower.add(at)), by_c, sum);
                        sum = L::mul_add(L::load(lower.add(at + beside)), by_d, sum);
                        L::store(out.add(at), sum);
                        at += L::LANES;
                        v += 1;
                    }
                }
            }
            i += held;
            out = out.wrapping_add(count * out_stride);
        }
    }
}

by_lanes! {
    /// Computes samples.
    ///
    /// # Safety
    /// Every pixel that is named, and its neighbours beside and below, can be read, and all samples written; and the processor has the
    /// instruction set.
    pub unsafe fn blend(call: &Blend) = run;
}
