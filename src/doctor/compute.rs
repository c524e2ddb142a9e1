//! Who computes, and how: chosen once for a run. A GPU's kernels are examined before their first use, and so is the library of
//! its maker, by the cases of the convolutions. Which of its algorithms the library computes a product with is chosen once for a
//! GPU and a version, and kept in the user's cache folder.

use super::{Way, before_first_use, examine_library, hash};
use crate::device::Device;
use crate::device::gpu::driver::{self, Meaning};
use crate::device::gpu::{Gpu, cuda};
use crate::io::kept::Kept;
use crate::ops::Compute;
use crate::ops::conv::Library;
use crate::ops::conv::cudnn::Cudnn;
use crate::ops::conv::library::Dnn;
use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// `--conv`: who computes convolutions on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conv {
    /// cuDNN where there is one that computes what it should, else this program's kernels.
    #[default]
    Auto,
    /// cuDNN; the same, with a warning where there is none.
    Cudnn,
    /// This program's kernels.
    Native,
}

impl std::str::FromStr for Conv {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Conv::Auto),
            "cudnn" => Ok(Conv::Cudnn),
            "native" => Ok(Conv::Native),
            _ => Err("expected auto, cudnn or native".to_string()),
        }
    }
}

/// cuDNN of this machine.
///
/// Errors: there is none, or it cannot be used.
pub fn load_cudnn() -> Result<Arc<dyn Dnn>> {
    Ok(Arc::new(Cudnn::find()?))
}

/// What computes, and what the user should know of how it was chosen.
#[derive(Debug)]
pub struct Chosen {
    /// What computes.
    pub compute: Compute,
    /// Lines for the log.
    pub lines: Vec<String>,
    /// Warnings.
    pub warnings: Vec<String>,
    /// Where the library's choices are kept, and under which name.
    kept: Option<(Kept, String)>,
}

impl Chosen {
    fn new(device: &Device) -> Self {
        Chosen { compute: device.into(), lines: Vec::new(), warnings: Vec::new(), kept: None }
    }

    /// Keeps what the library has chosen since; at the end of the work. Returns what the user should know of it: the first
    /// product that it refused, and maps that did not fit into the precision.
    pub fn keep(&self) -> Vec<String> {
        let beyond = self.compute.overflows.load(Ordering::Relaxed);
        if beyond > 0 {
            let name = self.compute.precision.name();
            return vec![format!("{beyond} maps held numbers beyond {name}, and were kept in fp32")];
        }
        let Some(library) = &self.compute.library else { return Vec::new() };
        if let (Some((kept, name)), Some(choices)) = (&self.kept, library.choices()) {
            kept.write(name, &choices);
        }
        library.take_notes()
    }
}

/// Chooses by `--gpus` and `--conv`. The device is the first one of `gpus`, counted as the driver counts them
/// (CUDA_VISIBLE_DEVICES included). Without `gpus` it is the first GPU, or the CPU where there is none; -1 is the CPU.
///
/// Errors: a GPU that was asked for is not there, or one that is there cannot be used in this way.
pub fn choose(gpus: Option<&[i32]>, conv: Conv, way: Way) -> Result<Chosen> {
    let mut chosen = Chosen::new(&Device::Cpu);
    let first = gpus.and_then(|devices| devices.first().copied());
    if gpus.is_some_and(|devices| devices.len() > 1) {
        chosen.warnings.push(format!("--gpus: one device works, the first ({}); the others stay idle", first.unwrap_or_default()));
    }
    let Ok(index) = usize::try_from(first.unwrap_or(0)) else { return Ok(chosen) }; // -1
    match cuda::open(index) {
        Ok((gpu, how)) => {
            let line = format!("GPU {index}: {}, kernels as {how}", gpu.describe());
            let examined = before_first_use(&gpu, way, &Kept::of_user())?;
            let with = choose_library(&gpu, conv, load_cudnn, &examine_library, Kept::of_user())?;
            chosen.lines.extend([line].into_iter().chain(examined).chain(with.lines));
            chosen.warnings.extend(with.warnings);
            Ok(Chosen { compute: with.compute, kept: with.kept, ..chosen })
        }
        // Nobody asked for a GPU, and there is none: the CPU works, and what works is told anyway. `epicker doctor` says what
        // is missing.
        Err(error) if gpus.is_none() && driver::means(&error, Meaning::Absent) => Ok(chosen),
        Err(error) => Err(error).with_context(|| format!("--gpus {index} (-1 is the CPU)")),
    }
}

/// Finds out whether a library's convolutions are right, such as `examine_library`.
pub type Examine<'a> = &'a dyn Fn(&Compute) -> Result<()>;

/// Chooses who computes the convolutions of a GPU. `load` loads the library.
///
/// Errors: the GPU failed for good while the library was examined, so that nothing else can compute on it either.
pub fn choose_library(gpu: &Gpu, conv: Conv, load: impl FnOnce() -> Result<Arc<dyn Dnn>>, examine: Examine, kept: Kept) -> Result<Chosen> {
    let device = Device::Gpu(gpu.clone());
    let native = |why: String| {
        let (mut chosen, line) = (Chosen::new(&device), format!("convolutions by this program's own kernels: {why}"));
        if conv == Conv::Cudnn {
            chosen.warnings.push(line)
        } else {
            chosen.lines.push(line)
        }
        chosen
    };
    if conv == Conv::Native {
        return Ok(Chosen::new(&device));
    }
    let library = match Library::load(gpu, load) {
        Ok(library) => Arc::new(library),
        Err(error) => return Ok(native(format!("{error:#}"))),
    };
    let name = library.name();
    let file = format!("convolutions-{:016x}", hash(&format!("{:?} {name} {}", gpu.info(), env!("CARGO_PKG_VERSION"))));
    let known = kept.read(&file);
    known.iter().for_each(|known| library.remember(known));
    let compute = Compute::with_library(&device, library);
    // What is kept says that the library was examined.
    if known.is_none()
        && let Err(error) = examine(&compute)
    {
        if driver::means(&error, Meaning::Lost) {
            return Err(error.context(format!("{name} makes the GPU fail; use this program's own convolutions: --conv native")));
        }
        return Ok(native(format!("{name} does not compute what it should: {error:#}")));
    }
    let line = if known.is_none() { format!("convolutions by {name}, examined and right") } else { format!("convolutions by {name}") };
    let chosen = Chosen { compute, lines: vec![line], warnings: Vec::new(), kept: Some((kept, file)) };
    if known.is_none() {
        // What the library refuses of the cases is not what the user asked for, so it is not told.
        chosen.keep();
    }
    Ok(chosen)
}

/// What a library computes on a GPU, in words.
pub fn examined(gpu: &Gpu, load: impl FnOnce() -> Result<Arc<dyn Dnn>>, examine: Examine) -> String {
    let library = match Library::load(gpu, load) {
        Ok(library) => Arc::new(library),
        Err(error) => return format!("not used: {error:#}"),
    };
    let name = library.name();
    match examine(&Compute::with_library(&Device::Gpu(gpu.clone()), library.clone())) {
        Ok(()) => {
            let [by_library, native] = library.counts();
            format!("{name}, right; of the cases' products it computes {by_library}, and refuses {native}")
        }
        Err(error) => format!("{name}, WRONG, not used: {error:#}"),
    }
}
