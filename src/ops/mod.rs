//! The operations of the network. One op is one room: formula, shape struct, host function, CPU code, naive
//! reference, and the cases it is tested with are found under one name.
//!
//! Forward assigns, backward adds. Ops never allocate for their results: the plan owns memory. Every size works, also those that
//! nothing divides.

pub mod adam;
pub mod backward;
pub mod batch_norm;
pub mod conv;
pub mod deform_conv;
pub mod gather;
pub mod heat_map;
pub mod losses;
pub mod map;
pub mod max_pool;
pub mod real;
pub mod relu;
pub mod up_conv;

pub use real::Real;

use crate::device::gpu::Arg;
use crate::device::{TensorMut, TensorRef};

/// How far an op on a device is from its f64 reference, for one of its CASES.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// The case, as text.
    pub case: String,
    /// Largest difference from the f64 reference.
    pub error: f64,
    /// What it may be: twice the error of the plain f32 way plus a few roundings of the largest value.
    pub bound: f64,
    /// Hash of all bits that were found: the same on every run, whatever the number of threads.
    pub bits: u64,
}

impl Agreement {
    /// Compares `found` with the f64 reference `exact`, and the naive f32 result `plain` with it.
    ///
    /// The bound is twice the plain way's largest error, plus four units in the last place of the largest value
    /// (so that a lucky plain result does not fail a result as good as rounding allows). Where f64 was computed in, the
    /// bound is 1e-9 of the largest value, far above rounding and far below a wrong index.
    pub fn of<T: Real>(case: String, found: &[T], plain: &[f32], exact: &[f64]) -> Self {
        assert!(found.len() == exact.len() && plain.len() == exact.len(), "{case}: {} {} {}", found.len(), plain.len(), exact.len());
        fn largest<T: Real>(values: &[T], exact: &[f64]) -> f64 {
            values.iter().zip(exact).fold(0.0_f64, |most, (&value, &exact)| {
                let error = (value.to_f64() - exact).abs();
                // A NaN (poison that was never overwritten) must fail, and `max` would drop it.
                if error.is_nan() { f64::INFINITY } else { most.max(error) }
            })
        }
        let scale = exact.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        let bits = found.iter().fold(0, |hash, value| splitmix64(hash ^ value.to_f64().to_bits()));
        let bound = if size_of::<T>() == 8 { 1e-9 * scale } else { 2.0 * largest(plain, exact) + 4.0 * f64::from(f32::EPSILON) * scale };
        Agreement { case, error: largest(found, exact), bound, bits }
    }

    /// True if the op is as exact as asked.
    pub fn holds(&self) -> bool {
        self.error <= self.bound
    }
}

/// Calls a function that is generic in the type of values with the type that a device computes in.
macro_rules! in_value_type {
    ($device:expr, $function:ident) => {
        if $device.value_bytes() == 8 { $function::<f64>($device) } else { $function::<f32>($device) }
    };
}
pub(crate) use in_value_type;

/// Calls a macro with the name of every op: the one list from which tests, benches and the doctor are made.
#[macro_export]
macro_rules! for_each_op {
    ($action:ident) => {
        $action! { conv deform_conv max_pool up_conv batch_norm heat_map gather adam map }
    };
}

/// Calls a macro with the name of every op that something is learnt through: `backward` stands beside `forward`.
#[macro_export]
macro_rules! for_each_differentiable_op {
    ($action:ident) => {
        $action! { conv deform_conv max_pool up_conv batch_norm relu losses }
    };
}

/// Channels that a thread of a kernel takes at once: 4 where their number and all maps (or lists) allow it, else 1.
pub(crate) fn lanes<T: Real>(channels: usize, maps: &[TensorRef<T>]) -> u32 {
    let allows = |map: &TensorRef<T>| {
        let strides = map.layout().pixels() == 1 || map.pixel_stride().is_multiple_of(4);
        strides && (map.pixel_ptr(0) as usize).is_multiple_of(4 * size_of::<T>())
    };
    if channels.is_multiple_of(4) && maps.iter().all(allows) { 4 } else { 1 }
}

/// Values of scratch memory that hold `count` f64, wherever the memory begins.
pub(crate) fn doubles_len<T: Real>(count: usize) -> usize {
    (8 * count).div_ceil(size_of::<T>()) + 8 / size_of::<T>() - 1
}

/// The address of `count` f64 in scratch memory, behind its first `skipped` values. Panics if it has no room for them: a
/// programming error.
pub(crate) fn doubles<T: Real>(scratch: &TensorMut<T>, skipped: usize, count: usize) -> Arg {
    assert!(scratch.len() >= skipped + doubles_len::<T>(count), "{} values of scratch memory, {skipped} and {count} f64", scratch.len());
    let first = scratch.pixel_ptr(0) as u64 + (skipped * size_of::<T>()) as u64;
    Arg::address(first.next_multiple_of(8))
}

/// Noise in -0.5..0.5, the same for the same seed: `splitmix64` of (seed, index).
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    (0..len as u64).map(|i| ((splitmix64(seed.wrapping_mul(0x9e37_79b9).wrapping_add(i)) >> 40) as f32) / 16_777_216.0 - 0.5).collect()
}

/// One step of the SplitMix64 generator, used as a hash. Source: Steele, Lea, Flood 2014, doi:10.1145/2714064.2660195.
pub fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
