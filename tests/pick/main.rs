//! From a micrograph to picks, around the network: pre-processing, the stages after it, linking of fibers, whole runs.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[path = "../common/mod.rs"]
mod common;

mod ahead;
mod end_to_end;
mod fibers;
mod preprocess;
mod stages;
