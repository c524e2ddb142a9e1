//! What a training is made of, and how it goes on, ends and fails.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[path = "../common/mod.rs"]
mod common;

mod data;
mod faults;
mod run;
mod targets;
mod unwatched;
