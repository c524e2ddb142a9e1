//! The transforms of Winograd's convolution F(4 x 4, 3 x 3): a patch of 6 x 6 input pixels becomes 36 values, a tile of 4 x 4 output
//! pixels comes from 36 sums, each for as many channels at once as a vector register holds.
//!
//! Along one axis the patch holds the coefficients of a polynomial, which are exchanged for what the product of this and the kernel's
//! polynomial needs at the points 0, NEAR, -NEAR, FAR, -FAR and infinity. Source: Lavin and Gray 2016, arXiv:1509.09308; the points,
//! which decide about rounding, after Barabasz et al. 2020, arXiv:1803.10986: of the pairs that are tried there, exact in binary and with
//! a product near 1, this one leaves the smallest errors (docs/network.md has them).

use super::InstructionSet;
use super::tile_product::{Lanes, PlainLanes};

/// Output pixels along an axis of a tile.
pub const TILE: usize = 4;
/// Input pixels along an axis of a patch, and points.
pub const PATCH: usize = 6;
/// Values of a patch, and sums of a tile.
pub const POINTS: usize = PATCH * PATCH;

const NEAR: f32 = 0.625;
const FAR: f32 = 1.5;
const NEAR_2: f32 = NEAR * NEAR;
const FAR_2: f32 = FAR * FAR;

/// A kernel `[3][3]` at all points, computed in f64, because this is done once.
pub fn kernel(weights: [f64; 9]) -> [f32; POINTS] {
    let along = |g: [f64; 3]| -> [f64; PATCH] {
        let [a, b] = [f64::from(NEAR), f64::from(FAR)];
        let [a2, b2] = [a * a, b * b];
        let (near, far) = (2.0 * a2 * (a2 - b2), 2.0 * b2 * (b2 - a2));
        let at = |x: f64, of: f64| (g[0] + x * g[1] + x * x * g[2]) / of;
        [g[0] / (a2 * b2), at(a, near), at(-a, near), at(b, far), at(-b, far), g[2]]
    };
    let rows: [[f64; PATCH]; 3] = std::array::from_fn(|y| along([weights[3 * y], weights[3 * y + 1], weights[3 * y + 2]]));
    let columns: [[f64; PATCH]; PATCH] = std::array::from_fn(|x| along([rows[0][x], rows[1][x], rows[2][x]]));
    std::array::from_fn(|point| columns[point % PATCH][point / PATCH] as f32)
}

/// A patch of the input.
#[derive(Clone, Copy)]
pub struct Patch {
    /// Channel 0 of its first pixel.
    pub inp: *const f32,
    /// Values from one row, and from one pixel, to the next.
    pub strides: [usize; 2],
    /// Channels: a multiple of a register's lanes.
    pub channels: usize,
    /// Where channel 0 of point 0 goes.
    pub out: *mut f32,
    /// Values from one point to the next.
    pub point_stride: usize,
}

/// The 36 sums of a tile, and where its pixels go.
#[derive(Clone, Copy)]
pub struct Sums {
    /// Lane 0 of point 0.
    pub sums: *const f32,
    /// Values from one point to the next.
    pub point_stride: usize,
    /// Lanes: a multiple of a register's.
    pub lanes: usize,
    /// One value a lane, which is added.
    pub bias: *const f32,
    /// Lane 0 of the first pixel.
    pub out: *mut f32,
    /// Values from one row, and from one pixel, to the next.
    pub strides: [usize; 2],
    /// Added as well, pixel by pixel; null: nothing. It may be `out`.
    pub residual: *const f32,
    /// Values from one row, and from one pixel, of the residual to the next.
    pub residual_strides: [usize; 2],
    /// Negative values become 0.
    pub relu: bool,
}

/// a * by + c.
#[inline(always)]
unsafe fn times<L: Lanes>(a: L::V, by: f32, c: L::V) -> L::V {
    // SAFETY: values are computed with.
    unsafe { L::mul_add(a, L::splat(&by), c) }
}

/// What the product with a kernel needs of six coefficients at the six points.
#[inline(always)]
unsafe fn points<L: Lanes>(d: [L::V; PATCH]) -> [L::V; PATCH] {
    // SAFETY: values are computed with.
    unsafe {
        let (even_near, odd_near) = (times::<L>(d[2], -FAR_2, d[4]), times::<L>(d[1], -FAR_2, d[3]));
        let (even_far, odd_far) = (times::<L>(d[2], -NEAR_2, d[4]), times::<L>(d[1], -NEAR_2, d[3]));
        [
            times::<L>(d[0], NEAR_2 * FAR_2, times::<L>(d[2], -(NEAR_2 + FAR_2), d[4])),
            times::<L>(odd_near, NEAR, even_near),
            times::<L>(odd_near, -NEAR, even_near),
            times::<L>(odd_far, FAR, even_far),
            times::<L>(odd_far, -FAR, even_far),
            times::<L>(d[1], NEAR_2 * FAR_2, times::<L>(d[3], -(NEAR_2 + FAR_2), d[5])),
        ]
    }
}

/// Four pixels of the products at the six points.
#[inline(always)]
unsafe fn pixels<L: Lanes>(m: [L::V; PATCH]) -> [L::V; TILE] {
    // SAFETY: values are computed with.
    unsafe {
        let (even_near, odd_near) = (L::add(m[1], m[2]), times::<L>(m[2], -1.0, m[1]));
        let (even_far, odd_far) = (L::add(m[3], m[4]), times::<L>(m[4], -1.0, m[3]));
        [
            L::add(m[0], L::add(even_near, even_far)),
            times::<L>(odd_near, NEAR, L::mul(odd_far, L::splat(&FAR))),
            times::<L>(even_near, NEAR_2, L::mul(even_far, L::splat(&FAR_2))),
            times::<L>(odd_near, NEAR_2 * NEAR, times::<L>(odd_far, FAR_2 * FAR, m[5])),
        ]
    }
}

// The loops below have no closures: one that is not inlined is compiled for another instruction set, and hands registers over in memory.

#[inline(always)]
unsafe fn transform_patch<L: Lanes>(patch: &Patch) {
    let [row, pixel] = patch.strides;
    // SAFETY: the caller vouches for 6 x 6 pixels of these channels, and for 36 points of them.
    unsafe {
        let mut first = 0;
        while first < patch.channels {
            let inp = patch.inp.add(first);
            let mut columns = [[L::splat(&0.0); PATCH]; PATCH];
            let mut x = 0;
            while x < PATCH {
                let at = inp.add(x * pixel);
                columns[x] = points::<L>([
                    L::load(at),
                    L::load(at.add(row)),
                    L::load(at.add(2 * row)),
                    L::load(at.add(3 * row)),
                    L::load(at.add(4 * row)),
                    L::load(at.add(5 * row)),
                ]);
                x += 1;
            }
            let mut y = 0;
            while y < PATCH {
                let along = points::<L>([columns[0][y], columns[1][y], columns[2][y], columns[3][y], columns[4][y], columns[5][y]]);
                let to = patch.out.add(y * PATCH * patch.point_stride + first);
                let mut x = 0;
                while x < PATCH {
                    L::store(to.add(x * patch.point_stride), along[x]);
                    x += 1;
                }
                y += 1;
            }
            first += L::LANES;
        }
    }
}

#[inline(always)]
unsafe fn transform_sums<L: Lanes>(tile: &Sums) {
    let ([row, pixel], point) = (tile.strides, tile.point_stride);
    // SAFETY: the caller vouches for 36 points of these lanes, for 4 x 4 pixels of them, and for as many of the residual.
    unsafe {
        let mut first = 0;
        while first < tile.lanes {
            let sums = tile.sums.add(first);
            let mut columns = [[L::splat(&0.0); TILE]; PATCH];
            let mut x = 0;
            while x < PATCH {
                let at = sums.add(x * point);
                columns[x] = pixels::<L>([
                    L::load(at),
                    L::load(at.add(PATCH * point)),
                    L::load(at.add(2 * PATCH * point)),
                    L::load(at.add(3 * PATCH * point)),
                    L::load(at.add(4 * PATCH * point)),
                    L::load(at.add(5 * PATCH * point)),
                ]);
                x += 1;
            }
            let bias = L::load(tile.bias.add(first));
            let mut y = 0;
            while y < TILE {
                let along = pixels::<L>([columns[0][y], columns[1][y], columns[2][y], columns[3][y], columns[4][y], columns[5][y]]);
                let mut x = 0;
                while x < TILE {
                    let mut value = L::add(along[x], bias);
                    if !tile.residual.is_null() {
                        let [row, pixel] = tile.residual_strides;
                        value = L::add(value, L::load(tile.residual.add(y * row + x * pixel + first)));
                    }
                    let value = if tile.relu { L::relu(value) } else { value };
                    L::store(tile.out.add(y * row + x * pixel + first), value);
                    x += 1;
                }
                y += 1;
            }
            first += L::LANES;
        }
    }
}

/// Transforms a patch.
///
/// # Safety
/// 6 x 6 pixels of the patch's channels can be read, 36 points of them written, and the processor has the instruction set.
pub unsafe fn patch(set: InstructionSet, patch: &Patch) {
    // SAFETY: passed on from the caller.
    unsafe {
        match set {
            InstructionSet::Plain => transform_patch::<PlainLanes>(patch),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => x86::avx2_patch(patch),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => x86::avx512_patch(patch),
            #[cfg(not(target_arch = "x86_64"))]
            _ => transform_patch::<PlainLanes>(patch),
        }
    }
}

/// Transforms sums back to pixels.
///
/// # Safety
/// 36 points and the bias of the tile's lanes can be read, 4 x 4 pixels of them written, and of the residual read, if there is one; and the
/// processor has the instruction set.
pub unsafe fn pixels_of(set: InstructionSet, tile: &Sums) {
    // SAFETY: passed on from the caller.
    unsafe {
        match set {
            InstructionSet::Plain => transform_sums::<PlainLanes>(tile),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => x86::avx2_sums(tile),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => x86::avx512_sums(tile),
            #[cfg(not(target_arch = "x86_64"))]
            _ => transform_sums::<PlainLanes>(tile),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Patch, Sums, transform_patch, transform_sums};
    use crate::device::cpu::tile_product::{Avx2, Avx512};

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2_patch(patch: &Patch) {
        // SAFETY: passed on from the caller.
        unsafe { transform_patch::<Avx2>(patch) }
    }

    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512_patch(patch: &Patch) {
        // SAFETY: passed on from the caller.
        unsafe { transform_patch::<Avx512>(patch) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2_sums(tile: &Sums) {
        // SAFETY: passed on from the caller.
        unsafe { transform_sums::<Avx2>(tile) }
    }

    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512_sums(tile: &Sums) {
        // SAFETY: passed on from the caller.
        unsafe { transform_sums::<Avx512>(tile) }
    }
}
