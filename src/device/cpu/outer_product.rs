//! The inner loop of every weight gradient: a small tile of it, input channels times output channels, in registers.
//!
//! ```text
//! out[m][j] += sum over rows r and pixels p of  inp[r * inp_row + p * inp_step + m] * other[r * other_row + p * other_step + j]
//! ```
//! with m < rows of the tile (input channels) and j < lanes (output channels). Each vector of `other` is read once for
//! all m, each input value once for all lanes. Sums run over rows, then pixels, in that order.

use super::InstructionSet;
use super::tile_product::{Lanes, PlainLanes};

/// One call of the inner loop.
#[derive(Clone, Copy)]
pub struct Outer {
    /// Input value of row 0, pixel 0, first channel of the tile.
    pub inp: *const f32,
    /// Values from one input pixel to the next.
    pub inp_step: usize,
    /// Values from one input row to the next.
    pub inp_row: usize,
    /// Value of row 0, pixel 0, first lane.
    pub other: *const f32,
    /// Values from one pixel of `other` to the next.
    pub other_step: usize,
    /// Values from one row of `other` to the next.
    pub other_row: usize,
    /// Image rows.
    pub rows: usize,
    /// Pixels of each row.
    pub pixels: usize,
    /// First value of the tile.
    pub out: *mut f32,
    /// Values from one row of the tile to the next.
    pub out_stride: usize,
}

/// An inner loop for one size of tile.
pub type OuterProduct = unsafe fn(&Outer);

#[inline(always)]
unsafe fn product<L: Lanes, const ROWS: usize, const VECTORS: usize>(call: &Outer) {
    // SAFETY: the caller vouches for every pointer: rows, pixels, channels and lanes lie in its buffers.
    unsafe {
        let mut sums: [[L::V; VECTORS]; ROWS] =
            std::array::from_fn(|m| std::array::from_fn(|v| L::load(call.out.add(m * call.out_stride + v * L::LANES))));
        for r in 0..call.rows {
            let mut inp = call.inp.add(r * call.inp_row);
            let mut other = call.other.add(r * call.other_row);
            for _ in 0..call.pixels {
                let w: [L::V; VECTORS] = std::array::from_fn(|v| L::load(other.add(v * L::LANES)));
                for (m, row) in sums.iter_mut().enumerate() {
                    let value = L::splat(inp.add(m));
                    for (sum, &w) in row.iter_mut().zip(&w) {
                        *sum = L::mul_add(value, w, *sum);
                    }
                }
                inp = inp.wrapping_add(call.inp_step);
                other = other.wrapping_add(call.other_step);
            }
        }
        for (m, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                L::store(call.out.add(m * call.out_stride + v * L::LANES), sum);
            }
        }
    }
}

/// The loop for an instruction set, a number of rows (from `tile_product::cut`) and one or two vectors.
///
/// Panics if there is no such loop: a programming error.
pub fn find(set: InstructionSet, rows: usize, vectors: usize) -> OuterProduct {
    macro_rules! by_rows {
        ($wrap:ident, $($rows:literal)*) => {
            match (rows, vectors) {
                $(($rows, 1) => $wrap::<$rows, 1>, ($rows, 2) => $wrap::<$rows, 2>,)*
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

unsafe fn plain<const ROWS: usize, const VECTORS: usize>(call: &Outer) {
    // SAFETY: passed on from the caller.
    unsafe { product::<PlainLanes, ROWS, VECTORS>(call) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Outer, product};
    use crate::device::cpu::tile_product::{Avx2, Avx512};

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2<const ROWS: usize, const VECTORS: usize>(call: &Outer) {
        // SAFETY: passed on from the caller.
        unsafe { product::<Avx2, ROWS, VECTORS>(call) }
    }

    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512<const ROWS: usize, const VECTORS: usize>(call: &Outer) {
        // SAFETY: passed on from the caller.
        unsafe { product::<Avx512, ROWS, VECTORS>(call) }
    }
}
#[cfg(target_arch = "x86_64")]
use x86::{avx2, avx512};
