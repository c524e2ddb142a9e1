//! `--gpus`: which device works. It is said, never silent.

use super::status::OrUsage;
use super::values::Devices;
use crate::convolutions::{self, Conv};
use crate::device::Device;
use crate::device::gpu::cuda;
use crate::doctor;
use anyhow::{Context, Result};

/// The device that works, and what to say about it.
#[derive(Debug)]
pub struct Chosen {
    /// The device.
    pub device: Device,
    /// Lines for the log.
    pub lines: Vec<String>,
    /// Warnings.
    pub warnings: Vec<String>,
    convolutions: Option<convolutions::Chosen>,
}

impl Chosen {
    /// Keeps what was found out about the library that computes convolutions; lines for the log. At the end of the work.
    pub fn keep(&self) -> Vec<String> {
        self.convolutions.as_ref().map(convolutions::Chosen::keep).unwrap_or_default()
    }
}

/// Chooses the device: the first one of `--gpus`, counted as the driver counts them (CUDA_VISIBLE_DEVICES included); the
/// first GPU if there is no `--gpus`, and the CPU where there is none; the CPU for -1. `conv`: who computes convolutions on
/// a GPU.
///
/// Errors: a GPU that was asked for is not there, or one that is there cannot be used; exit status 2.
pub fn choose(gpus: Option<&Devices>, conv: Conv) -> Result<Chosen> {
    let mut chosen = Chosen { device: Device::Cpu, lines: Vec::new(), warnings: Vec::new(), convolutions: None };
    let first = gpus.and_then(|devices| devices.0.first().copied());
    if gpus.is_some_and(|devices| devices.0.len() > 1) {
        chosen.warnings.push(format!("--gpus: one device works, the first ({}); the others stay idle", first.unwrap_or_default()));
    }
    let Ok(index) = usize::try_from(first.unwrap_or(0)) else { return Ok(chosen) }; // -1
    match cuda::open(index) {
        Ok((gpu, how)) => {
            chosen.lines.push(format!("GPU {index}: {}, kernels as {how}", gpu.describe()));
            chosen.lines.extend(doctor::before_first_use(&gpu).or_usage()?);
            let convolutions = convolutions::choose(
                &gpu,
                conv,
                convolutions::load_cudnn,
                &doctor::examine_convolutions,
                doctor::cache_folder().as_deref(),
            );
            chosen.device = Device::Gpu(convolutions.gpu.clone());
            match &convolutions.line {
                Some((line, true)) => chosen.warnings.push(line.clone()),
                Some((line, false)) => chosen.lines.push(line.clone()),
                None => {}
            }
            chosen.convolutions = Some(convolutions);
        }
        // Nobody asked for a GPU, and there is none: the CPU works, and what works is told anyway. `epicker doctor` says what
        // is missing.
        Err(error) if gpus.is_none() && cuda::is_absence(&error) => {}
        Err(error) => return Err(error).with_context(|| format!("--gpus {index} (-1 is the CPU)")).or_usage(),
    }
    Ok(chosen)
}
