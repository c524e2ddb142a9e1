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
use anyhow::{Context, Result, anyhow};
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

/// `--gpus`: the devices that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// Every GPU there is, or the CPU where there is none.
    All,
    /// These GPUs, counted as the driver counts them (CUDA_VISIBLE_DEVICES included).
    Gpus(Vec<usize>),
    /// The CPU.
    Cpu,
}

impl std::str::FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected device numbers such as 0 or 0,1, all for every GPU, or -1 for the CPU";
        match text.trim() {
            "all" => return Ok(Devices::All),
            "-1" => return Ok(Devices::Cpu),
            _ => {}
        }
        let gpus: Option<Vec<usize>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
        let gpus = gpus.ok_or(EXPECTED)?;
        match gpus.iter().enumerate().find(|(i, number)| gpus[..*i].contains(number)) {
            Some((_, twice)) => Err(format!("{twice} stands there twice; {EXPECTED}")),
            None => Ok(Devices::Gpus(gpus)),
        }
    }
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
    /// What the user knows the device by, such as `GPU 1`.
    pub name: String,
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
        let name = match device {
            Device::Cpu => "CPU".to_owned(),
            device => device.describe(),
        };
        Chosen { name, compute: device.into(), lines: Vec::new(), warnings: Vec::new(), kept: None }
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

/// Chooses one device by `--gpus` and `--conv`: the first of those that [`every`] chooses among.
///
/// Errors: as `every`.
pub fn choose(asked: Option<&Devices>, conv: Conv, way: Way) -> Result<Chosen> {
    let mut idle = None;
    let first = match asked {
        Some(Devices::Gpus(gpus)) if gpus.len() > 1 => {
            idle = Some(format!("--gpus: one device works here, GPU {}; the others stay idle", gpus[0]));
            Some(Devices::Gpus(vec![gpus[0]]))
        }
        Some(Devices::All) => {
            idle = cuda::devices()
                .ok()
                .filter(|all| all.len() > 1)
                .map(|_| "--gpus: one device works here, GPU 0; the others stay idle".to_owned());
            None
        }
        other => other.cloned(),
    };
    let mut chosen = match first {
        Some(Devices::Gpus(gpus)) => gpu(gpus[0], conv, way).with_context(|| of_user(gpus[0]))?,
        Some(Devices::Cpu) => Chosen::new(&Device::Cpu),
        Some(Devices::All) | None => gpu_or_cpu(conv, way)?,
    };
    chosen.warnings.extend(idle);
    Ok(chosen)
}

/// Chooses every device that `--gpus` and `--conv` ask for, one at least. Without `--gpus` it is the first GPU, or the CPU where there
/// is none.
///
/// Errors: a GPU that was asked for is not there, or one that is there cannot be used in this way. Of `all` that is an error only if no
/// GPU can be used; otherwise it is a warning.
pub fn every(asked: Option<&Devices>, conv: Conv, way: Way) -> Result<Vec<Chosen>> {
    let mut all = Vec::new();
    match asked {
        None => return Ok(vec![gpu_or_cpu(conv, way)?]),
        Some(Devices::Cpu) => return Ok(vec![Chosen::new(&Device::Cpu)]),
        Some(Devices::Gpus(gpus)) => {
            for &index in gpus {
                all.push(gpu(index, conv, way).with_context(|| of_user(index))?);
            }
        }
        Some(Devices::All) => {
            let count = cuda::devices().map_or(0, |devices| devices.len());
            if count <= 1 {
                return Ok(vec![gpu_or_cpu(conv, way)?]);
            }
            let (mut left_out, mut first_error) = (Vec::new(), None);
            for index in 0..count {
                match gpu(index, conv, way) {
                    Ok(chosen) => all.push(chosen),
                    Err(error) => {
                        left_out.push(format!("GPU {index} cannot be used, and is left out: {error:#}"));
                        first_error = first_error.or(Some(error));
                    }
                }
            }
            match (all.first_mut(), first_error) {
                (Some(first), _) => first.warnings.extend(left_out),
                (None, error) => {
                    return Err(error.unwrap_or_else(|| anyhow!("no GPU"))).context("--gpus all: no GPU can be used (-1 is the CPU)");
                }
            }
        }
    }
    let differ = |one: &Chosen, other: &Chosen| {
        let kind = |chosen: &Chosen| match &chosen.compute.device {
            Device::Gpu(gpu) => (gpu.info().name.clone(), gpu.info().capability),
            Device::Cpu | Device::Reference => Default::default(),
        };
        kind(one) != kind(other)
    };
    if all.windows(2).any(|two| differ(&two[0], &two[1])) {
        let what = match way {
            Way::Pick => "the last bits of a score depend on which of them picks the micrograph",
            Way::Train => "the last bits of what is learnt depend on which of them has which images",
        };
        all[0]
            .warnings
            .push(format!("--gpus: these GPUs are of different kinds, so {what}; for the same files in every run choose GPUs of one kind"));
    }
    Ok(all)
}

fn of_user(index: usize) -> String {
    format!("--gpus {index} (-1 is the CPU)")
}

/// The first GPU, or the CPU where there is none.
fn gpu_or_cpu(conv: Conv, way: Way) -> Result<Chosen> {
    match gpu(0, conv, way) {
        // Nobody asked for a GPU, and there is none: the CPU works, and what works is told anyway. `epicker doctor` says what
        // is missing.
        Err(error) if driver::means(&error, Meaning::Absent) => Ok(Chosen::new(&Device::Cpu)),
        other => other.with_context(|| of_user(0)),
    }
}

/// A GPU whose kernels, and whose library, have been examined.
fn gpu(index: usize, conv: Conv, way: Way) -> Result<Chosen> {
    let (gpu, how) = cuda::open(index)?;
    let line = format!("GPU {index}: {}, kernels as {how}", gpu.describe());
    let examined = before_first_use(&gpu, way, &Kept::of_user())?;
    let chosen = choose_library(&gpu, conv, load_cudnn, &examine_library, Kept::of_user())?;
    let lines = [line].into_iter().chain(examined).chain(chosen.lines).collect();
    Ok(Chosen { name: format!("GPU {index}"), lines, ..chosen })
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
    let chosen = Chosen { compute, lines: vec![line], kept: Some((kept, file)), ..Chosen::new(&device) };
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
