//! The operations of the network. One op is one room: formula, shape struct, host function, CPU code, naive
//! reference, and the cases it is tested with are found under one name.
//!
//! Forward assigns, backward adds. Ops never allocate for their results: the plan owns memory. Every size works, also those that
//! nothing divides.

pub mod adam;
pub mod batch_norm;
mod compute;
pub mod conv;
pub mod deform_conv;
pub mod gather;
pub mod heat_map;
pub mod images;
mod launch;
pub mod losses;
pub mod map;
pub mod max_pool;
pub mod proof;
pub mod real;
pub mod relu;
pub mod up_conv;

pub use compute::{Compute, Precision};
pub(crate) use proof::in_value_type;
pub use proof::{Agreement, largest_difference};
pub use real::Real;

use crate::random::{noise, splitmix64};

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
