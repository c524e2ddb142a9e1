//! The network and its training against the original's outputs in f64, and the plans that run them against the naive walk.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod inference;
mod team;
mod training;
