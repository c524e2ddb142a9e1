//! The executor of PTX by itself: small kernels written by hand, with what they count worked out by hand, and each fault that is
//! reported once. `cargo test --test gpu ptx` runs the program's own kernels on it.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod cases;
