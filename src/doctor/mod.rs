//! Doctor: does a device compute what it should? Every op, forward and backward, against its f64 reference.
//!
//! `epicker doctor` tells the result; before a GPU is used for the first time the same happens by itself, and what came
//! of it is kept for this GPU, driver and program.

pub mod compute;

use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::device::gpu::images::Images;
use crate::io::kept::Kept;
use crate::ops::{Agreement, Compute, conv};
use crate::random::splitmix64;
use anyhow::{Context, Result, ensure};
use std::time::Instant;

/// What an op gave on a device.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The op.
    pub op: &'static str,
    /// `forward` or `backward`.
    pub direction: &'static str,
    /// How many cases were computed.
    pub cases: usize,
    /// The case that is nearest to its bound or beyond it, or why none could be computed.
    pub worst: Result<Agreement, String>,
}

impl Finding {
    /// True if every case is within its bound.
    pub fn holds(&self) -> bool {
        self.worst.as_ref().is_ok_and(Agreement::holds)
    }

    /// In words: what differs by how much.
    pub fn told(&self) -> String {
        let what = format!("{} {}", self.op, self.direction);
        match &self.worst {
            Ok(agreement) => format!("{what}: error {:.1e}, bound {:.1e}, {}", agreement.error, agreement.bound, agreement.case),
            Err(error) => format!("{what}: {error}"),
        }
    }
}

type Comparison = fn(&Device) -> Result<Vec<Agreement>>;

macro_rules! forward {
    ($($op:ident)*) => { [$((stringify!($op), "forward", crate::ops::$op::compare as Comparison)),*] };
}
macro_rules! backward {
    ($($op:ident)*) => { [$((stringify!($op), "backward", crate::ops::$op::compare_backward as Comparison)),*] };
}

/// Computes all cases of all ops on a device.
pub fn examine(device: &Device) -> Vec<Finding> {
    let (forward, backward) = (crate::for_each_op!(forward), crate::for_each_differentiable_op!(backward));
    let finding = |&(op, direction, compare): &(&'static str, &'static str, Comparison)| {
        let found = compare(device);
        let cases = found.as_ref().map_or(0, Vec::len);
        // An error of 0 within a bound of 0 is as good as can be.
        let strain = |agreement: &Agreement| if agreement.error == 0.0 { 0.0 } else { agreement.error / agreement.bound };
        let worst = match found {
            Ok(found) => found.into_iter().max_by(|a, b| strain(a).total_cmp(&strain(b))).ok_or_else(|| "no case was computed".to_string()),
            Err(error) => Err(format!("{error:#}")),
        };
        Finding { op, direction, cases, worst }
    };
    forward.iter().chain(&backward).map(finding).collect()
}

/// Computes all cases of convolutions by the library alone, forward and backward.
///
/// Errors: the first case that is not right.
pub fn examine_library(compute: &Compute) -> Result<()> {
    match conv::compare_library(compute)?.iter().find(|one| !one.holds()) {
        Some(Agreement { case, error, bound, .. }) => anyhow::bail!("error {error:.1e}, bound {bound:.1e}, {case}"),
        None => Ok(()),
    }
}

/// Examines a GPU, unless it is kept that the same GPU, driver and program were examined before; a line for the log if it was
/// done now.
///
/// Errors: an op is wrong, so the GPU cannot be used.
pub fn before_first_use(gpu: &Gpu, kept: &Kept) -> Result<Option<String>> {
    let seal =
        format!("examined-{:016x}", hash(&format!("{:?} {} {}", gpu.info(), env!("CARGO_PKG_VERSION"), Images::fingerprint_of_program())));
    if kept.read(&seal).is_some() {
        return Ok(None);
    }
    let start = Instant::now();
    let wrong: Vec<String> = examine(&Device::Gpu(gpu.clone())).iter().filter(|finding| !finding.holds()).map(Finding::told).collect();
    ensure!(
        wrong.is_empty(),
        "{}: its kernels do not compute what they should ({}); use the CPU with --gpus -1, and report the output of `epicker doctor --json`",
        gpu.describe(),
        wrong.join("; ")
    );
    kept.write(&seal, &gpu.describe());
    Ok(Some(format!("all kernels of {} were examined and are right ({:.1} seconds, once)", gpu.describe(), start.elapsed().as_secs_f64())))
}

/// A hash of a text, for the name of a file.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0, |hash, byte| splitmix64(hash ^ u64::from(byte)))
}

/// What kernels this program carries.
///
/// Errors: the program's file is damaged.
pub fn kernels() -> Result<String> {
    Ok(Images::of_program().context("kernels of this program")?.describe())
}
