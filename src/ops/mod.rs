//! The operations of the network. One op is one room: formula, shape struct, host function, CPU code, naive
//! reference, and the cases it is tested with are found under one name.
//!
//! Forward assigns, backward adds. Ops never allocate for their results: the plan owns memory. Every size works, also those that
//! nothing divides.

pub mod adam;
pub mod batch_norm;
pub mod conv;
pub mod deform_conv;
pub mod gather;
pub mod heat_map;
mod launch;
pub mod losses;
pub mod map;
pub mod max_pool;
pub mod proof;
pub mod real;
pub mod relu;
pub mod up_conv;

pub use proof::Agreement;
pub(crate) use proof::in_value_type;
pub use real::Real;

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
