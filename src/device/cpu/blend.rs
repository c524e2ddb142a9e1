//! Sums of four pixels, each times a weight, for as many channels at once as a vector register holds: what a sample between pixels is.
//!
//! ```text
//! out[i][k] = (inp[a_i][k] * wa_i + inp[b_i][k] * wb_i) + (inp[c_i][k] * wc_i + inp[d_i][k] * wd_i)
//! ```
//! The sums are rounded as written here, whatever the instruction set.

use super::InstructionSet;
use super::tile_product::{Lanes, by_lanes, sizes};

/// Samples of one map.
#[derive(Clone, Copy)]
pub struct Blend<'a> {
    /// The first channel of pixel 0.
    pub inp: *const f32,
    /// Values from one pixel to the next.
    pub pixel_stride: usize,
    /// Indices of the four pixels of each sample.
    pub pixels: [&'a [u32]; 4],
    /// Their weights.
    pub weights: [&'a [f32]; 4],
    /// Channels: a multiple of a register's lanes.
    pub channels: usize,
    /// The first channel of the first sample.
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
    let [a, b, c, d] = blend.pixels;
    let [wa, wb, wc, wd] = blend.weights;
    let all = a.iter().zip(b).zip(c).zip(d).zip(wa).zip(wb).zip(wc).zip(wd);
    let mut out = blend.out;
    for (((((((&a, &b), &c), &d), wa), wb), wc), wd) in all {
        // SAFETY: the caller vouches for the channels of every pixel, and for those of every sample.
        unsafe {
            let [wa, wb, wc, wd] = [L::splat(wa), L::splat(wb), L::splat(wc), L::splat(wd)];
            let (a, b) = (blend.inp.add(a as usize * blend.pixel_stride), blend.inp.add(b as usize * blend.pixel_stride));
            let (c, d) = (blend.inp.add(c as usize * blend.pixel_stride), blend.inp.add(d as usize * blend.pixel_stride));
            let mut k = 0;
            while k < blend.channels {
                let upper = L::add(L::mul(L::load(a.add(k)), wa), L::mul(L::load(b.add(k)), wb));
                let lower = L::add(L::mul(L::load(c.add(k)), wc), L::mul(L::load(d.add(k)), wd));
                L::store(out.add(k), L::add(upper, lower));
                k += L::LANES;
            }
            out = out.add(blend.out_stride);
        }
    }
}

by_lanes! {
    /// Computes samples.
    ///
    /// # Safety
    /// Every pixel that is named can be read, and as many samples as there are indices written; and the processor has the instruction set.
    pub unsafe fn blend(call: &Blend) = run;
}
