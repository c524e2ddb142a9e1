//! `--gpus` and `--conv` choose who computes. The program always says what was chosen.

use super::status::OrUsage;
use super::values::Devices;
use crate::doctor::Way;
use crate::doctor::compute;
pub use crate::doctor::compute::{Chosen, Conv};
use anyhow::Result;

/// Chooses who computes by `--gpus` and `--conv`, and sees to it that a GPU computes right what `way` needs.
///
/// Errors: a GPU that was asked for is not there, or one that is there cannot be used; exit status 2.
pub fn choose(gpus: Option<&Devices>, conv: Conv, way: Way) -> Result<Chosen> {
    compute::choose(gpus.map(|devices| devices.0.as_slice()), conv, way).or_usage()
}
