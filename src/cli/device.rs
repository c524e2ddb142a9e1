//! `--gpus` and `--conv` choose who computes. The program always says what was chosen.

use super::status::OrUsage;
use super::values::Devices;
use crate::device::Device;
use crate::device::gpu::driver::DeviceInfo;
use crate::doctor::Way;
use crate::doctor::compute;
pub use crate::doctor::compute::{Chosen, Conv};
use crate::ops::Precision;
use crate::ops::conv::TF32_FROM;
use crate::pick::workers::Named;
use anyhow::{Result, ensure};

/// Chooses who computes by `--gpus` and `--conv`, and sees to it that a GPU computes right what `way` needs.
///
/// Errors: a GPU that was asked for is not there, or one that is there cannot be used; exit status 2.
pub fn choose(gpus: Option<&Devices>, conv: Conv, way: Way) -> Result<Chosen> {
    compute::choose(gpus, conv, way).or_usage()
}

/// The same, multiplying in a precision. On the CPU that is a trial: every map and weight is rounded, and no time is saved.
///
/// Errors: as `choose`, or a GPU is to multiply in a precision for which it has no kernels.
pub fn choose_in(precision: Precision, gpus: Option<&Devices>, conv: Conv, way: Way) -> Result<Chosen> {
    in_precision(precision, choose(gpus, by_whom(precision, conv), way)?)
}

/// All devices that are asked for.
///
/// Errors: as `choose_in`.
pub fn choose_every(precision: Precision, gpus: Option<&Devices>, conv: Conv, way: Way) -> Result<Vec<Chosen>> {
    let all = compute::every(gpus, by_whom(precision, conv), way).or_usage()?;
    all.into_iter().map(|chosen| in_precision(precision, chosen)).collect()
}

/// A library is asked for products in f32 alone.
fn by_whom(precision: Precision, conv: Conv) -> Conv {
    if precision == Precision::F32 { conv } else { Conv::Native }
}

fn in_precision(precision: Precision, mut chosen: Chosen) -> Result<Chosen> {
    if precision == Precision::F32 {
        return Ok(chosen);
    }
    let name = precision.name();
    chosen.lines.push(match &chosen.compute.device {
        Device::Gpu(gpu) => {
            refuse_precision(precision, gpu.info()).or_usage()?;
            format!("products in {name}, on tensor cores")
        }
        _ => format!("every map and weight is rounded to {name}, to show what that costs; it saves no time on the CPU"),
    });
    chosen.compute.precision = precision;
    Ok(chosen)
}

/// The devices by their names.
pub fn named(chosen: &[Chosen]) -> Vec<Named> {
    chosen.iter().map(|chosen| (chosen.name.clone(), chosen.compute.clone())).collect()
}

/// The devices in words, such as `2 x NVIDIA A100 (sm_80, 79.3 GiB)`.
pub fn in_words(chosen: &[Chosen]) -> String {
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for chosen in chosen {
        let words = match &chosen.compute.device {
            Device::Cpu => "CPU".to_owned(),
            other => other.describe(),
        };
        match kinds.iter_mut().find(|(kind, _)| *kind == words) {
            Some((_, count)) => *count += 1,
            None => kinds.push((words, 1)),
        }
    }
    let words = kinds.into_iter().map(|(kind, count)| if count == 1 { kind } else { format!("{count} x {kind}") });
    words.collect::<Vec<_>>().join(", ")
}

/// Errors: a GPU has no kernels that multiply in this precision.
pub fn refuse_precision(precision: Precision, info: &DeviceInfo) -> Result<()> {
    let [major, minor] = info.capability;
    let has_kernels = precision == Precision::F32 || precision == Precision::Tf32 && info.capability >= TF32_FROM;
    ensure!(
        has_kernels,
        "--precision {}: there are no such kernels for {} (compute capability {major}.{minor}); tf32 needs 8.0 or later, and fp16 can be \
         tried on the CPU (--gpus -1); use fp32",
        precision.name(),
        info.name
    );
    Ok(())
}
