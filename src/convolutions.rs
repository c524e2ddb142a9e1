//! `--conv`: who computes convolutions on a GPU, cuDNN or this program's own kernels, and what cuDNN was found to do best.
//!
//! cuDNN is examined before its first use as the kernels are, by the cases of the convolutions; which algorithm it computes a
//! product with is chosen once for a GPU and a version, and kept in the user's cache folder.

use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::device::gpu::cudnn::Cudnn;
use crate::device::gpu::dnn::{Convolutions, Dnn};
use crate::io::write::write_whole_unsynced;
use crate::random::splitmix64;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Who computes convolutions on a GPU.
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

/// A GPU, and who computes its convolutions.
#[derive(Debug)]
pub struct Chosen {
    /// The GPU, with the library if one is used.
    pub gpu: Gpu,
    /// A line for the log, and whether it is a warning.
    pub line: Option<(String, bool)>,
    file: Option<PathBuf>,
}

/// Finds out whether convolutions on a device are right, such as `doctor::examine_convolutions`.
pub type Examine<'a> = &'a dyn Fn(&Device) -> Result<()>;

/// Chooses by `--conv`. `load` loads the library; `folder` is where choices are kept, if anywhere.
pub fn choose(gpu: &Gpu, conv: Conv, load: impl FnOnce() -> Result<Arc<dyn Dnn>>, examine: Examine, folder: Option<&Path>) -> Chosen {
    let native = |line: Option<String>| Chosen { gpu: gpu.clone(), line: line.map(|line| (line, conv == Conv::Cudnn)), file: None };
    if conv == Conv::Native {
        return native(None);
    }
    let library = match load() {
        Ok(library) => library,
        Err(error) => return native(Some(format!("convolutions by this program's own kernels: {error:#}"))),
    };
    let convolutions = Arc::new(Convolutions::new(library));
    let name = convolutions.name();
    let file = folder.map(|folder| folder.join(file_name(gpu, &name)));
    let known = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    known.iter().for_each(|known| convolutions.remember(known));
    let with = gpu.with_convolutions(convolutions);
    // The file is written once the library was examined.
    if known.is_none() {
        if let Err(error) = examine(&Device::Gpu(with.clone())) {
            return native(Some(format!("convolutions by this program's own kernels: {name} does not compute what it should: {error:#}")));
        }
        let chosen = Chosen { gpu: with, line: Some((format!("convolutions by {name}, examined and right"), false)), file };
        chosen.keep();
        return chosen;
    }
    Chosen { gpu: with, line: Some((format!("convolutions by {name}"), false)), file }
}

/// What a library computes on a GPU, in words.
pub fn examined(gpu: &Gpu, load: impl FnOnce() -> Result<Arc<dyn Dnn>>, examine: Examine) -> String {
    let library = match load() {
        Ok(library) => library,
        Err(error) => return format!("not used: {error:#}"),
    };
    let convolutions = Arc::new(Convolutions::new(library));
    let name = convolutions.name();
    match examine(&Device::Gpu(gpu.with_convolutions(convolutions.clone()))) {
        Ok(()) => {
            let [by_library, native] = convolutions.counts();
            format!("{name}, right; of the cases' products it computes {by_library}, and refuses {native}")
        }
        Err(error) => format!("{name}, WRONG, not used: {error:#}"),
    }
}

impl Chosen {
    /// Keeps what was chosen since; where nothing can be kept it is chosen again the next time. Returns what the user should
    /// know: the first product that the library refused.
    pub fn keep(&self) -> Vec<String> {
        let Some(convolutions) = self.gpu.convolutions() else { return Vec::new() };
        if let (Some(file), Some(choices)) = (&self.file, convolutions.choices()) {
            let _ = file.parent().map(std::fs::create_dir_all);
            let _ = write_whole_unsynced(file, choices.as_bytes());
        }
        convolutions.take_notes()
    }
}

/// Name of the file for this GPU, driver, library and program.
fn file_name(gpu: &Gpu, library: &str) -> String {
    let text = format!("{:?} {library} {}", gpu.info(), env!("CARGO_PKG_VERSION"));
    format!("convolutions-{:016x}", text.bytes().fold(0, |hash, byte| splitmix64(hash ^ u64::from(byte))))
}
