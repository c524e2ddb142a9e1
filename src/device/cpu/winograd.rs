//! The transforms of Winograd's convolution F(4 x 4, 3 x 3): a patch of 6 x 6 input pixels becomes 36 values, a tile of 4 x 4 output
//! pixels comes from 36 sums, each for as many channels at once as a vector register holds.
//!
//! Along one axis the patch holds the coefficients of a polynomial, which are exchanged for what the product of this and the kernel's
//! polynomial needs at the points 0, NEAR, -NEAR, FAR, -FAR and infinity. Source: Lavin and Gray 2016, arXiv:1509.09308. The points decide
//! about rounding (Barabasz et al. 2020, arXiv:1803.10986): these are exact in binary, their product is near 1, and they leave less than
//! half the error of the usual 1 and 2, as the test below shows.

use super::tile_product::{Lanes, by_lanes};

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

/// Kernels `[3][3]` at all points, several side by side, computed in f64.
#[inline(always)]
pub fn kernels<const N: usize>(weights: [[f64; N]; 9]) -> [[f32; N]; POINTS] {
    let (mut rows, mut points) = ([[[0.0; N]; PATCH]; 3], [[0.0; N]; POINTS]);
    for y in 0..3 {
        rows[y] = along([weights[3 * y], weights[3 * y + 1], weights[3 * y + 2]]);
    }
    for x in 0..PATCH {
        let column = along([rows[0][x], rows[1][x], rows[2][x]]);
        for y in 0..PATCH {
            for lane in 0..N {
                points[y * PATCH + x][lane] = column[y][lane] as f32;
            }
        }
    }
    points
}

/// Three coefficients at the six points, each divided by what makes the products come out.
#[inline(always)]
fn along<const N: usize>(g: [[f64; N]; 3]) -> [[f64; N]; PATCH] {
    let (a, b) = (f64::from(NEAR), f64::from(FAR));
    let (a2, b2) = (a * a, b * b);
    let (near, far) = (2.0 * a2 * (a2 - b2), 2.0 * b2 * (b2 - a2));
    let mut out = [[0.0; N]; PATCH];
    for lane in 0..N {
        let [g0, g1, g2] = [g[0][lane], g[1][lane], g[2][lane]];
        out[0][lane] = g0 / (a2 * b2);
        out[1][lane] = (g0 + a * g1 + a2 * g2) / near;
        out[2][lane] = (g0 - a * g1 + a2 * g2) / near;
        out[3][lane] = (g0 + b * g1 + b2 * g2) / far;
        out[4][lane] = (g0 - b * g1 + b2 * g2) / far;
        out[5][lane] = g2;
    }
    out
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

// All of this has no closures: one that is not inlined is compiled for another instruction set, and hands registers over in memory.

/// Six vectors, `step` values apart.
#[inline(always)]
unsafe fn six<L: Lanes>(at: *const f32, step: usize) -> [L::V; PATCH] {
    // SAFETY: passed on from the caller.
    unsafe {
        [
            L::load(at),
            L::load(at.add(step)),
            L::load(at.add(2 * step)),
            L::load(at.add(3 * step)),
            L::load(at.add(4 * step)),
            L::load(at.add(5 * step)),
        ]
    }
}

/// The vectors of a row, of columns.
#[inline(always)]
fn across<L: Lanes, const ROWS: usize>(columns: &[[L::V; ROWS]; PATCH], y: usize) -> [L::V; PATCH] {
    let [a, b, c, d, e, f] = columns;
    [a[y], b[y], c[y], d[y], e[y], f[y]]
}

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
                columns[x] = points::<L>(six::<L>(at, row));
                x += 1;
            }
            let mut y = 0;
            while y < PATCH {
                let along = points::<L>(across::<L, PATCH>(&columns, y));
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
                columns[x] = pixels::<L>(six::<L>(at, PATCH * point));
                x += 1;
            }
            let bias = L::load(tile.bias.add(first));
            let mut y = 0;
            while y < TILE {
                let along = pixels::<L>(across::<L, TILE>(&columns, y));
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

by_lanes! {
    /// Transforms a patch.
    ///
    /// # Safety
    /// 6 x 6 pixels of the patch's channels can be read, 36 points of them written, and the processor has the instruction set.
    pub unsafe fn patch(call: &Patch) = transform_patch;

    /// Transforms sums back to pixels.
    ///
    /// # Safety
    /// 36 points and the bias of the tile's lanes can be read, 4 x 4 pixels of them written, and of the residual read, if there is one; and
    /// the processor has the instruction set.
    pub unsafe fn pixels_of(call: &Sums) = transform_sums;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// The largest error of 4 x 4 pixels over `channels` channels, in f32, as a share of the largest pixel: summed directly, and at the
    /// points 0, +-near, +-far and infinity.
    fn errors([near, far]: [f64; 2], channels: usize) -> [f64; 2] {
        let mut random = Random::new(1, &[channels as u64]);
        let (mut worst, mut largest) = ([0.0f64; 2], 0.0f64);
        for _ in 0..40 {
            let (mut exact, mut direct, mut sums) = ([[0.0f64; 4]; 4], [[0.0f32; 4]; 4], [[0.0f32; 6]; 6]);
            for _ in 0..channels {
                let mut value = || random.normal() as f32;
                let d: [[f32; 6]; 6] = std::array::from_fn(|_| std::array::from_fn(|_| value()));
                let g: [[f32; 3]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| value()));
                for (y, x, ky, kx) in (0..144).map(|i| (i / 36, i / 9 % 4, i / 3 % 3, i % 3)) {
                    exact[y][x] += f64::from(d[y + ky][x + kx]) * f64::from(g[ky][kx]);
                    direct[y][x] += d[y + ky][x + kx] * g[ky][kx];
                }
                let (a2, b2) = ((near * near) as f32, (far * far) as f32);
                let [a, b] = [near as f32, far as f32];
                let patch = |d: [f32; 6]| {
                    let (e, o, f, p) = (d[4] - b2 * d[2], d[3] - b2 * d[1], d[4] - a2 * d[2], d[3] - a2 * d[1]);
                    let ends = [a2 * b2 * d[0] - (a2 + b2) * d[2] + d[4], a2 * b2 * d[1] - (a2 + b2) * d[3] + d[5]];
                    [ends[0], e + a * o, e - a * o, f + b * p, f - b * p, ends[1]]
                };
                let taps = |g: [f64; 3]| {
                    let at = |x: f64, other: f64| (g[0] + x * g[1] + x * x * g[2]) / (2.0 * x * x * (x * x - other * other));
                    [g[0] / (near * near * far * far), at(near, far), at(-near, far), at(far, near), at(-far, near), g[2]]
                };
                let columns: [[f32; 6]; 6] = std::array::from_fn(|x| patch(std::array::from_fn(|y| d[y][x])));
                let g: [[f64; 6]; 3] = std::array::from_fn(|y| taps(g[y].map(f64::from)));
                for (y, x) in (0..36).map(|i| (i / 6, i % 6)) {
                    let v = patch(std::array::from_fn(|x| columns[x][y]))[x];
                    sums[y][x] += v * taps(std::array::from_fn(|k| g[k][x]))[y] as f32;
                }
            }
            let back = |m: [f32; 6]| {
                let [a, b] = [near as f32, far as f32];
                let (e, o, f, p) = (m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]);
                [m[0] + e + f, a * o + b * p, a * a * e + b * b * f, a * a * a * o + b * b * b * p + m[5]]
            };
            let columns: [[f32; 4]; 6] = std::array::from_fn(|x| back(std::array::from_fn(|y| sums[y][x])));
            for (y, x) in (0..16).map(|i| (i / 4, i % 4)) {
                let found = [direct[y][x], back(std::array::from_fn(|x| columns[x][y]))[x]];
                largest = largest.max(exact[y][x].abs());
                (0..2).for_each(|k| worst[k] = worst[k].max((f64::from(found[k]) - exact[y][x]).abs()));
            }
        }
        worst.map(|worst| worst / largest)
    }

    #[test]
    fn the_points_round_little() {
        for channels in [16, 64, 256] {
            let [direct, ours] = errors([f64::from(NEAR), f64::from(FAR)], channels);
            let [_, usual] = errors([1.0, 2.0], channels);
            assert!(
                ours < 4.0 * direct && ours < 0.5 * usual,
                "{channels} channels: direct {direct:.1e}, at 5/8 and 3/2 {ours:.1e}, at 1 and 2 {usual:.1e}"
            );
        }
    }

    #[test]
    fn kernels_at_the_points_are_polynomials() {
        // A kernel with a single tap in its corner is 1 everywhere but at infinity, where it is 0, each divided as the points want it.
        let corner = kernels([[1.0], [0.0], [0.0], [0.0], [0.0], [0.0], [0.0], [0.0], [0.0]]);
        let first = 1.0 / f64::from(NEAR_2 * FAR_2);
        assert!((f64::from(corner[0][0]) - first * first).abs() < 1e-6 && corner[POINTS - 1] == [0.0]);
        assert_eq!(kernels([[0.0], [0.0], [0.0], [0.0], [0.0], [0.0], [0.0], [0.0], [1.0]])[POINTS - 1], [1.0]);
    }
}
