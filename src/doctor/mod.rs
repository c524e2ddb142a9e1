//! Doctor: does a device compute what it should? Every op, forward and backward, against its f64 reference.
//!
//! `epicker doctor` tells the result; before a GPU is used for the first time the same happens by itself, and what came
//! of it is kept for this GPU, driver and program. What only training needs forbids training alone.

pub mod compute;
pub mod stages;

use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::device::gpu::images::Images;
use crate::io::kept::Kept;
use crate::ops::{Agreement, Compute, conv};
use crate::random::splitmix64;
use anyhow::{Context, Result, ensure};
use std::time::Instant;

/// What a device is to be used for. Training picks, too: on the micrographs that choose the best network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Picking, and everything else that only runs the network.
    Pick,
    /// Training.
    Train,
}

impl Way {
    /// Its name: `pick` or `train`.
    pub fn name(self) -> &'static str {
        match self {
            Way::Pick => "pick",
            Way::Train => "train",
        }
    }
}

/// What an op gave on a device.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The op, or the stage around the network.
    pub op: &'static str,
    /// `forward` or `backward`; empty for a stage.
    pub direction: &'static str,
    /// The least that needs it: what picking needs, training needs as well.
    pub needed_to: Way,
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

    /// What was examined, such as `conv forward`.
    pub fn what(&self) -> String {
        [self.op, self.direction].join(" ").trim_end().to_owned()
    }

    /// In words: what differs by how much.
    pub fn told(&self) -> String {
        let what = self.what();
        match &self.worst {
            Ok(agreement) => format!("{what}: error {:.1e}, bound {:.1e}, {}", agreement.error, agreement.bound, agreement.case),
            Err(error) => format!("{what}: {error}"),
        }
    }
}

type Comparison = fn(&Device) -> Result<Vec<Agreement>>;

/// Something that is examined.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// The op, or the stage around the network.
    pub op: &'static str,
    /// `forward` or `backward`; empty for a stage.
    pub direction: &'static str,
    /// The least that needs it: what picking needs, training needs as well.
    pub needed_to: Way,
    compare: Comparison,
}

macro_rules! forward {
    ($($op:ident)*) => { [$(Check::of_op(stringify!($op), "forward", crate::ops::$op::compare)),*] };
}
macro_rules! backward {
    ($($op:ident)*) => { [$(Check::of_op(stringify!($op), "backward", crate::ops::$op::compare_backward)),*] };
}

/// The ops that run forward when micrographs are picked. tests/gpu/doctor.rs sees to it that no kernel is missing.
const PICKING: [&str; 7] = ["conv", "deform_conv", "max_pool", "up_conv", "heat_map", "gather", "map"];

/// What surrounds the network on a GPU.
const STAGES: [Check; 3] = [
    Check::of_stage("preprocess", Way::Pick, |device| on_gpu(device, stages::compare_preprocess::<f32>)),
    Check::of_stage("batch", Way::Pick, |device| on_gpu(device, stages::compare_batch)),
    Check::of_stage("targets", Way::Train, |device| on_gpu(device, stages::compare_targets::<f32>)),
];

fn on_gpu(device: &Device, compare: fn(&Gpu) -> Result<Vec<Agreement>>) -> Result<Vec<Agreement>> {
    match device {
        Device::Gpu(gpu) => compare(gpu),
        Device::Cpu | Device::Reference => Ok(Vec::new()),
    }
}

impl Check {
    fn of_op(op: &'static str, direction: &'static str, compare: Comparison) -> Check {
        let needed_to = if direction == "forward" && PICKING.contains(&op) { Way::Pick } else { Way::Train };
        Check { op, direction, needed_to, compare }
    }

    const fn of_stage(op: &'static str, needed_to: Way, compare: Comparison) -> Check {
        Check { op, direction: "", needed_to, compare }
    }

    /// Computes all its cases on a device.
    pub fn run(&self, device: &Device) -> Finding {
        let found = (self.compare)(device);
        let cases = found.as_ref().map_or(0, Vec::len);
        // An error of 0 within a bound of 0 is as good as can be.
        let strain = |agreement: &Agreement| if agreement.error == 0.0 { 0.0 } else { agreement.error / agreement.bound };
        let worst = match found {
            Ok(found) => found.into_iter().max_by(|a, b| strain(a).total_cmp(&strain(b))).ok_or_else(|| "no case was computed".to_string()),
            Err(error) => Err(format!("{error:#}")),
        };
        Finding { op: self.op, direction: self.direction, needed_to: self.needed_to, cases, worst }
    }
}

/// What is examined of a device before it is used in a way: all ops that the way needs, and on a GPU what surrounds the network.
pub fn checks(device: &Device, way: Way) -> Vec<Check> {
    let (forward, backward) = (crate::for_each_op!(forward), crate::for_each_differentiable_op!(backward));
    let stages: &[Check] = if matches!(device, Device::Gpu(_)) { &STAGES } else { &[] };
    let all = forward.into_iter().chain(backward).chain(stages.iter().copied());
    all.filter(|check| way == Way::Train || check.needed_to == Way::Pick).collect()
}

/// Computes all cases of everything that a way needs on a device.
pub fn examine(device: &Device, way: Way) -> Vec<Finding> {
    checks(device, way).iter().map(|check| check.run(device)).collect()
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

/// Examines what `way` needs of a GPU, unless it is kept that the same GPU, driver and program were examined before; a line for the
/// log if it was done now.
///
/// Errors: something is wrong, so the GPU cannot be used in this way.
pub fn before_first_use(gpu: &Gpu, way: Way, kept: &Kept) -> Result<Option<String>> {
    let program = format!("{} {:?} {}", env!("CARGO_PKG_VERSION"), option_env!("EPICKER_COMMIT"), Images::fingerprint_of_program());
    let seal = |way: Way| format!("examined-{:016x}", hash(&format!("{:?} {program} to {}", gpu.info(), way.name())));
    // Who may train may pick.
    if [way, Way::Train].into_iter().any(|way| kept.read(&seal(way)).is_some()) {
        return Ok(None);
    }
    let start = Instant::now();
    let findings = examine(&Device::Gpu(gpu.clone()), way);
    let wrong: Vec<String> = findings.iter().filter(|finding| !finding.holds()).map(Finding::told).collect();
    ensure!(
        wrong.is_empty(),
        "{}: its kernels do not compute what they should ({}); use the CPU with --gpus -1, and report the output of `epicker doctor --json`",
        gpu.describe(),
        wrong.join("; ")
    );
    kept.write(&seal(way), &gpu.describe());
    let (gpu, seconds) = (gpu.describe(), start.elapsed().as_secs_f64());
    Ok(Some(format!("all kernels of {gpu} that {} needs were examined and are right ({seconds:.1} seconds, once)", way.name())))
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
