//! The inner loop of every convolution: a small tile of the output, pixels times channels, kept in registers.
//!
//! ```text
//! out[m][j] = start[m][j] + sum over taps t and channels k of  inp[taps[t] + m * stride + k] * weights[t][k][j]
//! ```
//! with m < rows (output pixels of one image row) and j < lanes (output channels of one panel). The input has a
//! stride between pixels that is known when the program is compiled, so one pointer serves all rows. Each weight
//! vector is read once for `rows` pixels, each input value once for all lanes.
//!
//! Sums run over taps, then channels, in that order, one fused multiply-add after the other: the result does not
//! depend on how the image was cut into tiles.

use super::InstructionSet;

/// One call of the inner loop.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Input value of row 0, tap offset 0, channel 0.
    pub inp: *const f32,
    /// Offset of each tap in values.
    pub taps: *const usize,
    /// Number of taps.
    pub tap_count: usize,
    /// Channels summed at each tap.
    pub channels: usize,
    /// Weights: `[tap][channel][lane]`, as many lanes as the panel has.
    pub weights: *const f32,
    /// Output value of row 0, lane 0.
    pub out: *mut f32,
    /// Values from one output row (pixel) to the next.
    pub out_stride: usize,
    /// The sums start from these lanes; null: they go on from what `out` holds.
    pub bias: *const f32,
    /// Added at the start as well; null: nothing.
    pub residual: *const f32,
    /// Values from one pixel of the residual to the next.
    pub residual_stride: usize,
    /// Negative sums become 0 at the end.
    pub relu: bool,
}

/// An inner loop for one combination of rows, panel and input stride.
pub type TileProduct = unsafe fn(&Tile);

/// Sizes of tiles for one instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileSizes {
    /// Values in a vector register.
    pub lanes: usize,
    /// Most rows of a tile.
    pub max_rows: usize,
}

/// The tile sizes of an instruction set; panels are two registers wide, the last one may have one.
pub fn sizes(set: InstructionSet) -> TileSizes {
    match set {
        InstructionSet::Plain => TileSizes { lanes: 4, max_rows: 4 },
        InstructionSet::Avx2 => TileSizes { lanes: 8, max_rows: 6 },
        InstructionSet::Avx512 => TileSizes { lanes: 16, max_rows: 14 },
    }
}

/// Cuts `width` pixels into tiles for which there is a loop: even numbers of rows up to the largest, then one of 1.
pub fn cut(width: usize, max_rows: usize) -> Vec<usize> {
    let pairs = width / 2;
    let mut tiles = Vec::new();
    if pairs > 0 {
        let count = pairs.div_ceil(max_rows / 2);
        for i in 0..count {
            tiles.push(2 * ((i + 1) * pairs / count - i * pairs / count));
        }
    }
    if width % 2 == 1 {
        tiles.push(1);
    }
    tiles
}

/// What the loops need of a vector register.
pub(super) trait Lanes {
    type V: Copy;
    const LANES: usize;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    unsafe fn splat(p: *const f32) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// max(a, 0), but NaN stays NaN.
    unsafe fn relu(a: Self::V) -> Self::V;
}

/// Makes functions that do the same in the registers of each instruction set: `by_lanes! { pub unsafe fn name(call: &Call) = run; }` calls
/// `run::<L>(call)`, an `#[inline(always)] unsafe fn` of any [`Lanes`].
macro_rules! by_lanes {
    ($($(#[$doc:meta])* pub unsafe fn $name:ident($call:ident: &$type:ty) = $run:ident;)*) => {$(
        $(#[$doc])*
        pub unsafe fn $name(set: $crate::device::cpu::InstructionSet, $call: &$type) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($call: &$type) {
                // SAFETY: passed on from the caller.
                unsafe { $run::<$crate::device::cpu::tile_product::Avx2>($call) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            unsafe fn avx512($call: &$type) {
                // SAFETY: passed on from the caller.
                unsafe { $run::<$crate::device::cpu::tile_product::Avx512>($call) }
            }
            // SAFETY: passed on from the caller.
            unsafe {
                match set {
                    $crate::device::cpu::InstructionSet::Plain => $run::<$crate::device::cpu::tile_product::PlainLanes>($call),
                    #[cfg(target_arch = "x86_64")]
                    $crate::device::cpu::InstructionSet::Avx2 => avx2($call),
                    #[cfg(target_arch = "x86_64")]
                    $crate::device::cpu::InstructionSet::Avx512 => avx512($call),
                    #[cfg(not(target_arch = "x86_64"))]
                    _ => $run::<$crate::device::cpu::tile_product::PlainLanes>($call),
                }
            }
        }
    )*};
}
pub(super) use by_lanes;

#[inline(always)]
unsafe fn product<L: Lanes, const ROWS: usize, const VECTORS: usize, const STRIDE: usize>(tile: &Tile) {
    // SAFETY: the caller vouches for every pointer of the tile: rows, taps, channels and lanes lie in its buffers.
    unsafe {
        let mut sums: [[L::V; VECTORS]; ROWS];
        if tile.bias.is_null() {
            sums = std::array::from_fn(|m| std::array::from_fn(|v| L::load(tile.out.add(m * tile.out_stride + v * L::LANES))));
        } else {
            let bias: [L::V; VECTORS] = std::array::from_fn(|v| L::load(tile.bias.add(v * L::LANES)));
            sums = [bias; ROWS];
        }
        if !tile.residual.is_null() {
            for (m, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = L::add(*sum, L::load(tile.residual.add(m * tile.residual_stride + v * L::LANES)));
                }
            }
        }
        let mut weights = tile.weights;
        for tap in 0..tile.tap_count {
            let mut inp = tile.inp.add(*tile.taps.add(tap));
            for _ in 0..tile.channels {
                let w: [L::V; VECTORS] = std::array::from_fn(|v| L::load(weights.add(v * L::LANES)));
                for (m, row) in sums.iter_mut().enumerate() {
                    let value = L::splat(inp.add(m * STRIDE));
                    for (sum, &w) in row.iter_mut().zip(&w) {
                        *sum = L::mul_add(value, w, *sum);
                    }
                }
                inp = inp.add(1);
                weights = weights.add(VECTORS * L::LANES);
            }
        }
        for (m, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                let value = if tile.relu { L::relu(sum) } else { sum };
                L::store(tile.out.add(m * tile.out_stride + v * L::LANES), value);
            }
        }
    }
}

/// True if there are loops for an input stride: 1 (one channel, taps along the row), or that of pixels of up to 16, 32 and so on
/// channels.
pub fn has_stride(stride: usize) -> bool {
    matches!(stride, 1 | 16 | 32 | 64 | 128 | 256)
}

/// The loop for an instruction set, a number of rows (from `cut`), one or two vectors, and an input stride (`has_stride`).
///
/// Panics if there is no such loop: a programming error.
pub fn find(set: InstructionSet, rows: usize, vectors: usize, stride: usize) -> TileProduct {
    macro_rules! by_stride {
        ($wrap:ident, $rows:literal, $vectors:literal) => {
            match stride {
                1 => $wrap::<$rows, $vectors, 1>,
                16 => $wrap::<$rows, $vectors, 16>,
                32 => $wrap::<$rows, $vectors, 32>,
                64 => $wrap::<$rows, $vectors, 64>,
                128 => $wrap::<$rows, $vectors, 128>,
                256 => $wrap::<$rows, $vectors, 256>,
                _ => unreachable!("no loop for an input stride of {stride}"),
            }
        };
    }
    macro_rules! by_rows {
        ($wrap:ident, $($rows:literal)*) => {
            match (rows, vectors) {
                $(($rows, 1) => by_stride!($wrap, $rows, 1), ($rows, 2) => by_stride!($wrap, $rows, 2),)*
                _ => unreachable!("no loop for {rows} rows and {vectors} vectors"),
            }
        };
    }
    match set {
        InstructionSet::Plain => by_rows!(plain, 1 2 4),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => by_rows!(avx2, 1 2 4 6),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => by_rows!(avx512, 1 2 4 6 8 10 12 14),
        #[cfg(not(target_arch = "x86_64"))]
        _ => by_rows!(plain, 1 2 4),
    }
}

unsafe fn plain<const ROWS: usize, const VECTORS: usize, const STRIDE: usize>(tile: &Tile) {
    // SAFETY: passed on from the caller.
    unsafe { product::<PlainLanes, ROWS, VECTORS, STRIDE>(tile) }
}

pub(super) struct PlainLanes;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, PlainLanes, Tile, product};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2<const ROWS: usize, const VECTORS: usize, const STRIDE: usize>(tile: &Tile) {
        // SAFETY: passed on from the caller.
        unsafe { product::<Avx2, ROWS, VECTORS, STRIDE>(tile) }
    }

    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512<const ROWS: usize, const VECTORS: usize, const STRIDE: usize>(tile: &Tile) {
        // SAFETY: passed on from the caller.
        unsafe { product::<Avx512, ROWS, VECTORS, STRIDE>(tile) }
    }

    pub(in crate::device::cpu) struct Avx2;
    pub(in crate::device::cpu) struct Avx512;

    macro_rules! lanes {
        ($name:ident, $v:ty, $lanes:literal, $load:ident, $store:ident, $set1:ident, $add:ident, $mul:ident, $max:ident, $zero:ident, |$a:ident, $b:ident, $c:ident| $fma:expr) => {
            impl Lanes for $name {
                type V = $v;
                const LANES: usize = $lanes;
                #[inline(always)]
                unsafe fn load(p: *const f32) -> $v {
                    // SAFETY: passed on from the caller, as in all that follow.
                    unsafe { $load(p) }
                }
                #[inline(always)]
                unsafe fn store(p: *mut f32, v: $v) {
                    // SAFETY: as above.
                    unsafe { $store(p, v) }
                }
                #[inline(always)]
                unsafe fn splat(p: *const f32) -> $v {
                    // SAFETY: as above.
                    unsafe { $set1(*p) }
                }
                #[inline(always)]
                unsafe fn add(a: $v, b: $v) -> $v {
                    // SAFETY: as above.
                    unsafe { $add(a, b) }
                }
                #[inline(always)]
                unsafe fn mul(a: $v, b: $v) -> $v {
                    // SAFETY: as above.
                    unsafe { $mul(a, b) }
                }
                #[inline(always)]
                unsafe fn mul_add($a: $v, $b: $v, $c: $v) -> $v {
                    // SAFETY: as above.
                    unsafe { $fma }
                }
                #[inline(always)]
                unsafe fn relu(a: $v) -> $v {
                    // SAFETY: as above. The second operand is returned when one is NaN.
                    unsafe { $max($zero(), a) }
                }
            }
        };
    }
    lanes!(
        PlainLanes,
        __m128,
        4,
        _mm_loadu_ps,
        _mm_storeu_ps,
        _mm_set1_ps,
        _mm_add_ps,
        _mm_mul_ps,
        _mm_max_ps,
        _mm_setzero_ps,
        |a, b, c| _mm_add_ps(_mm_mul_ps(a, b), c)
    );
    lanes!(
        Avx2,
        __m256,
        8,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_add_ps,
        _mm256_mul_ps,
        _mm256_max_ps,
        _mm256_setzero_ps,
        |a, b, c| _mm256_fmadd_ps(a, b, c)
    );
    lanes!(
        Avx512,
        __m512,
        16,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_add_ps,
        _mm512_mul_ps,
        _mm512_max_ps,
        _mm512_setzero_ps,
        |a, b, c| _mm512_fmadd_ps(a, b, c)
    );
}
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};
#[cfg(target_arch = "x86_64")]
use x86::{avx2, avx512};

#[cfg(not(target_arch = "x86_64"))]
impl Lanes for PlainLanes {
    type V = [f32; 4];
    const LANES: usize = 4;
    unsafe fn load(p: *const f32) -> [f32; 4] {
        // SAFETY: passed on from the caller, as in all that follow.
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    unsafe fn store(p: *mut f32, v: [f32; 4]) {
        // SAFETY: as above.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    unsafe fn splat(p: *const f32) -> [f32; 4] {
        // SAFETY: as above.
        unsafe { [*p; 4] }
    }
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    unsafe fn mul_add(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    unsafe fn relu(a: [f32; 4]) -> [f32; 4] {
        a.map(|x| if x < 0.0 { 0.0 } else { x })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_is_cut_into_tiles_that_have_a_loop() {
        for set in InstructionSet::available() {
            let max_rows = sizes(set).max_rows;
            for width in 1..300 {
                let tiles = cut(width, max_rows);
                assert_eq!(tiles.iter().sum::<usize>(), width);
                for rows in tiles {
                    find(set, rows, 1, 64);
                    find(set, rows, 2, 1);
                }
            }
        }
    }
}
