//! The GPU's side, on a GPU made of the host's processor (tests/hostgpu), on one that executes PTX (tests/ptx), and with
//! libraries of the tests' own that stand for CUDA's driver and for cuDNN.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[path = "../common/mod.rs"]
mod common;

/// A test for each op, forward, by the function `all_hold` of the module around.
macro_rules! forward_tests {
    ($($op:ident)*) => {$(
        #[test]
        fn $op() {
            super::all_hold(epicker::ops::$op::compare);
        }
    )*};
}

/// The same, backward.
macro_rules! backward_tests {
    ($($op:ident)*) => {$(
        #[test]
        fn $op() {
            super::all_hold(epicker::ops::$op::compare_backward);
        }
    )*};
}

mod convolutions;
mod costs;
mod doctor;
mod driver;
mod faults;
mod network;
mod ops;
mod picking;
mod predicted;
mod ptx;
mod stages;
mod streams;
mod team;
