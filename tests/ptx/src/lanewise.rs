//! Loops over the lanes of rows, made of a function of one lane. Each loop is compiled twice: as any processor runs it, and
//! with vectors of AVX2 and the fused multiply-add, without which an exact `mul_add` is a call of a library.
//!
//! A function must be a closure that captures nothing: only its type is used.

use crate::code::{Lanes, Pure, Row, Rows};
use std::ptr::NonNull;

/// Lanes that are read together before any of them is written, so that a target may lie in the row of a source.
const STEP: usize = 16;

/// What a row may hold.
pub trait Value: Copy + Default + 'static {}
macro_rules! values {
    ($($name:ident)*) => { $(impl Value for $name {})* };
}
values!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

/// The closure of a type that has no values to hold.
#[inline(always)]
fn instance<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0) };
    // SAFETY: a value without bytes can be read from anywhere, and who named the type had such a value.
    unsafe { NonNull::<F>::dangling().read() }
}

#[inline(always)]
fn row<T>(store: *mut u8, row: Row) -> *mut T {
    store.wrapping_add(row as usize).cast()
}

macro_rules! lanewise {
    ($name:ident, $body:ident, $plain:ident, $avx2:ident, [$($from:ident $index:tt),*]) => {
        /// Safety: as `Pure`.
        #[inline(always)]
        #[allow(clippy::needless_range_loop, reason = "several arrays are walked together")]
        unsafe fn $body<$($from: Value,)* D: Value, F: Fn($($from),*) -> D + Copy>(store: *mut u8, rows: &Rows, lanes: Lanes) {
            let f = instance::<F>();
            let to = row::<D>(store, rows.to);
            // SAFETY: the caller vouches for the rows; they have room for whole steps.
            unsafe {
                if lanes.all {
                    let count = lanes.list.len();
                    let mut i = 0;
                    while i < count {
                        let from = ($(row::<$from>(store, rows.from[$index]).add(i).cast::<[$from; STEP]>().read(),)*);
                        let mut values = [D::default(); STEP];
                        for k in 0..STEP {
                            values[k] = f($(from.$index[k]),*);
                        }
                        to.add(i).cast::<[D; STEP]>().write(values);
                        i += STEP;
                    }
                } else {
                    for &lane in lanes.list {
                        let lane = usize::from(lane);
                        *to.add(lane) = f($(*row::<$from>(store, rows.from[$index]).add(lane)),*);
                    }
                }
            }
        }
        /// Safety: as `Pure`.
        unsafe fn $plain<$($from: Value,)* D: Value, F: Fn($($from),*) -> D + Copy>(store: *mut u8, rows: &Rows, lanes: Lanes) {
            // SAFETY: passed on.
            unsafe { $body::<$($from,)* D, F>(store, rows, lanes) }
        }
        /// Safety: as `Pure`, on a processor that has both.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $avx2<$($from: Value,)* D: Value, F: Fn($($from),*) -> D + Copy>(store: *mut u8, rows: &Rows, lanes: Lanes) {
            // SAFETY: passed on.
            unsafe { $body::<$($from,)* D, F>(store, rows, lanes) }
        }
        /// The loop over a function of this many sources.
        pub fn $name<$($from: Value,)* D: Value, F: Fn($($from),*) -> D + Copy + 'static>(_: F) -> Pure {
            #[cfg(target_arch = "x86_64")]
            if has_vectors() {
                return $avx2::<$($from,)* D, F>;
            }
            $plain::<$($from,)* D, F>
        }
    };
}

lanewise!(map1, body1, plain1, avx1, [A 0]);
lanewise!(map2, body2, plain2, avx2, [A 0, B 1]);
lanewise!(map3, body3, plain3, avx3, [A 0, B 1, C 2]);
lanewise!(map4, body4, plain4, avx4, [A 0, B 1, C 2, E 3]);

/// True if the loops with vectors can run here.
#[cfg(target_arch = "x86_64")]
fn has_vectors() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}
