//! The kernels that the program carries, and which form of them a GPU gets: machine code of its architecture, else PTX
//! that the driver compiles, else the sources through NVRTC.
//!
//! docs/gpu.md has the tables of architectures and drivers.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::nvrtc::{self, Nvrtc};
use super::pack::{self, Form, Image};

/// What the build script packed.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernel_images.bin"));

/// The oldest driver that has every call that the program makes (the last came with cuGraphInstantiateWithFlags).
pub const OLDEST_DRIVER: CudaVersion = CudaVersion { major: 11, minor: 4 };
/// The oldest architecture that the kernels are written for.
pub const OLDEST_CAPABILITY: Capability = Capability { major: 5, minor: 2 };

/// Compute capability of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability {
    /// 8 of 8.6.
    pub major: u32,
    /// 6 of 8.6.
    pub minor: u32,
}

impl Capability {
    /// As architectures are written: 86 for 8.6.
    pub fn arch(self) -> u32 {
        self.major * 10 + self.minor
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A release of CUDA: what a driver says that it serves, or what an image needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    /// 12 of 12.8.
    pub major: u32,
    /// 8 of 12.8.
    pub minor: u32,
}

impl CudaVersion {
    /// From the number of cuDriverGetVersion: 12080 is 12.8.
    pub fn from_number(number: i32) -> CudaVersion {
        let number = number.max(0) as u32;
        CudaVersion { major: number / 1000, minor: number % 1000 / 10 }
    }

    /// First driver (Linux) that serves this release.
    /// Source: NVIDIA, CUDA Toolkit release notes, table of toolkit and minimum driver versions.
    pub fn driver(self) -> u32 {
        const FIRST: [(u32, u32, u32); 19] = [
            (11, 0, 450),
            (11, 1, 455),
            (11, 2, 460),
            (11, 3, 465),
            (11, 4, 470),
            (11, 5, 495),
            (11, 6, 510),
            (11, 7, 515),
            (11, 8, 520),
            (12, 0, 525),
            (12, 1, 530),
            (12, 2, 535),
            (12, 3, 545),
            (12, 4, 550),
            (12, 5, 555),
            (12, 6, 560),
            (12, 8, 570),
            (12, 9, 575),
            (13, 0, 580),
        ];
        let row = FIRST.iter().rev().find(|(major, minor, _)| (*major, *minor) <= (self.major, self.minor));
        row.map_or(450, |(_, _, driver)| *driver)
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The form in which a GPU gets the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Machine code for this architecture (80 is `sm_80`).
    Cubin(u32),
    /// PTX for this architecture, which the driver compiles when it is loaded.
    Ptx(u32),
    /// The sources, which NVRTC compiles first.
    Source,
}

impl Choice {
    /// In which form the kernels are.
    pub fn form(self) -> Form {
        match self {
            Choice::Cubin(_) => Form::Cubin,
            Choice::Ptx(_) => Form::Ptx,
            Choice::Source => Form::Source,
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Choice::Cubin(arch) => write!(f, "machine code for sm_{arch}"),
            Choice::Ptx(arch) => write!(f, "PTX for compute_{arch}"),
            Choice::Source => f.write_str("sources compiled by NVRTC"),
        }
    }
}

/// A set of kernel images.
#[derive(Debug)]
pub struct Images<'a> {
    compiler: &'a str,
    images: Vec<Image<'a>>,
}

impl<'a> Images<'a> {
    /// The images that this program carries.
    ///
    /// Errors: the program's file is damaged.
    pub fn of_program() -> Result<Images<'static>> {
        Images::read(PACKED)
    }

    /// A number for the kernels in this program. Other kernels have another number, and so have the same kernels by another compiler.
    pub fn fingerprint_of_program() -> String {
        format!("{:016x}", PACKED.iter().fold(0, |hash, byte| crate::random::splitmix64(hash ^ u64::from(*byte))))
    }

    /// A packed file as the build script writes it.
    ///
    /// Errors: it is not one.
    pub fn read(packed: &'a [u8]) -> Result<Images<'a>> {
        let (compiler, images) = pack::read(packed)?;
        Ok(Images { compiler, images })
    }

    /// The compiler that made the machine code, such as `NVRTC 12.9.86`; empty where the build had none.
    pub fn compiler(&self) -> &'a str {
        self.compiler
    }

    /// Architectures with machine code, ascending.
    pub fn cubin_archs(&self) -> Vec<u32> {
        self.archs(Form::Cubin)
    }

    /// Architectures with PTX, ascending.
    pub fn ptx_archs(&self) -> Vec<u32> {
        self.archs(Form::Ptx)
    }

    /// Names of the kernel files, such as `conv`.
    pub fn files(&self) -> Vec<&'a str> {
        self.images.iter().filter(|image| image.form == Form::Source).map(|image| image.file).collect()
    }

    /// One line for `doctor` and the log: what is inside, by which compiler.
    pub fn describe(&self) -> String {
        if self.cubin_archs().is_empty() {
            return "kernels as sources only: the build had no CUDA compiler, or was told to make no machine code".to_string();
        }
        let list = |archs: Vec<u32>| archs.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        format!(
            "kernels by {}: machine code for sm {}, PTX for compute {}",
            self.compiler,
            list(self.cubin_archs()),
            list(self.ptx_archs())
        )
    }

    /// The forms for a GPU, the best first: machine code of its major version with the highest minor one that it runs, the newest
    /// PTX that is not newer than it, the sources.
    ///
    /// Errors: the GPU is older than the kernels, or the driver is older than every form needs.
    pub fn choices(&self, gpu: Capability, driver: CudaVersion) -> Result<Vec<Choice>> {
        ensure!(
            gpu >= OLDEST_CAPABILITY,
            "GPU of compute capability {gpu}: the kernels are written for {OLDEST_CAPABILITY} and later; use another GPU or the CPU"
        );
        ensure!(
            driver >= OLDEST_DRIVER,
            "the NVIDIA driver serves CUDA {driver}; expected {OLDEST_DRIVER} or later; install driver {} or later, or use the CPU",
            OLDEST_DRIVER.driver()
        );
        let is_taken = |choice: &Choice| driver >= self.oldest_driver(*choice);
        let cubin = self.cubin_archs().into_iter().rfind(|arch| arch / 10 == gpu.major && *arch <= gpu.arch());
        let ptx = self.ptx_archs().into_iter().filter(|arch| *arch <= gpu.arch()).map(Choice::Ptx).rfind(is_taken);
        Ok(cubin.map(Choice::Cubin).filter(is_taken).into_iter().chain(ptx).chain([Choice::Source]).collect())
    }

    /// The oldest release of CUDA whose driver takes this form.
    ///
    /// Source: NVIDIA, CUDA Compatibility, "minor version compatibility": machine code of one major release runs on
    /// every driver of that major release that knows the architecture. PTX is stamped by the build script with the
    /// oldest version of the language that has its instructions (PTX ISA, release notes).
    pub fn oldest_driver(&self, choice: Choice) -> CudaVersion {
        let compiler = self.compiler_version().unwrap_or(OLDEST_DRIVER);
        let needed = match choice {
            Choice::Cubin(arch) => CudaVersion { major: compiler.major, minor: 0 }.max(first_release(arch)),
            Choice::Ptx(arch) => match pack::oldest_ptx_version(arch) {
                Some(_) => first_release(arch),
                None => compiler,
            },
            Choice::Source => OLDEST_DRIVER,
        };
        needed.max(OLDEST_DRIVER)
    }

    fn compiler_version(&self) -> Option<CudaVersion> {
        let mut numbers = self.compiler.split(' ').nth(1)?.split('.').map(str::parse);
        Some(CudaVersion { major: numbers.next()?.ok()?, minor: numbers.next()?.ok()? })
    }

    /// (file, bytes) of every kernel file in the chosen form, ready for the driver.
    ///
    /// Errors: the form is not there; for sources, no NVRTC is found, or it does not know the GPU, or refuses them.
    pub fn load(&self, choice: Choice, gpu: Capability) -> Result<Vec<(String, Vec<u8>)>> {
        let (form, arch) = match choice {
            Choice::Cubin(arch) => (Form::Cubin, arch),
            Choice::Ptx(arch) => (Form::Ptx, arch),
            Choice::Source => return self.compile(gpu),
        };
        let wanted = self.images.iter().filter(|image| image.form == form && image.arch == arch);
        let mut loaded = Vec::new();
        for image in wanted {
            let mut bytes = image.unpack()?;
            if form == Form::Ptx {
                bytes.push(0); // the driver takes PTX as a text that ends in NUL
            }
            loaded.push((image.file.to_string(), bytes));
        }
        ensure!(!loaded.is_empty(), "this program has no {choice}; it has {}", self.describe());
        Ok(loaded)
    }

    /// The text of a kernel file or header; headers by their full name.
    ///
    /// Errors: there is none of that name.
    pub fn source(&self, file: &str) -> Result<String> {
        let is_text = |image: &&Image| matches!(image.form, Form::Source | Form::Header) && image.file == file;
        let image = self.images.iter().find(is_text).with_context(|| format!("this program has no kernel file {file}"))?;
        String::from_utf8(image.unpack()?).with_context(|| format!("kernel file {file} is not text"))
    }

    fn compile(&self, gpu: Capability) -> Result<Vec<(String, Vec<u8>)>> {
        let nvrtc = find_nvrtc().with_context(|| {
            let reason = "no form of the kernels in it fits, and no NVRTC was found to compile them";
            let remedy = "set NVRTC_LIB to a libnvrtc.so, or use a program built with machine code for it";
            format!("GPU of compute capability {gpu}: this program has {}; {reason}; {remedy}", self.describe())
        })?;
        let known = nvrtc.architectures()?;
        let Some(arch) = known.iter().rfind(|arch| **arch / 10 == gpu.major && **arch <= gpu.arch()) else {
            let (major, minor) = nvrtc.version();
            bail!("GPU of compute capability {gpu}: NVRTC {major}.{minor} compiles for {known:?}; set NVRTC_LIB to one that knows it");
        };
        let options = [format!("--gpu-architecture=sm_{arch}"), "--std=c++17".to_string()];
        let headers = self.images.iter().filter(|image| image.form == Form::Header);
        let headers = headers.map(|image| Ok((image.file.to_string(), self.source(image.file)?))).collect::<Result<Vec<_>>>()?;
        let compile = |file: &&str| -> Result<(String, Vec<u8>)> {
            let compiled = nvrtc.compile(&format!("kernels/{file}.cu"), &self.source(file)?, &headers, &options)?;
            Ok((file.to_string(), compiled.cubin))
        };
        // One after the other: NVRTC 12.9 crashes when two threads compile at once.
        self.files().iter().map(compile).collect()
    }

    fn archs(&self, form: Form) -> Vec<u32> {
        let mut archs: Vec<u32> = self.images.iter().filter(|image| image.form == form).map(|image| image.arch).collect();
        archs.sort_unstable();
        archs.dedup();
        archs
    }
}

/// First release of CUDA that knows an architecture.
fn first_release(arch: u32) -> CudaVersion {
    let (major, minor) = match arch {
        ..=80 => (11, 0),
        81..=86 => (11, 1),
        87 => (11, 4),
        88..=90 => (11, 8),
        91..=101 | 120 => (12, 8),
        102..=103 | 121 => (12, 9),
        _ => (13, 0),
    };
    CudaVersion { major, minor }
}

/// NVRTC of this machine: `NVRTC_LIB`, what the system finds by name, toolkits, and what `scripts/fetch-nvrtc.sh` fetched.
fn find_nvrtc() -> Option<Nvrtc> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut candidates: Vec<PathBuf> = variable("NVRTC_LIB").into_iter().collect();
    candidates.extend(["libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so.11.2", "libnvrtc.so"].map(PathBuf::from));
    let toolkits = [variable("CUDA_HOME"), variable("CUDA_PATH"), Some(PathBuf::from("/usr/local/cuda"))];
    candidates.extend(toolkits.into_iter().flatten().map(|toolkit| toolkit.join("lib64/libnvrtc.so")));
    candidates.extend(nvrtc::fetched_library());
    candidates.iter().find_map(|path| Nvrtc::load(path).ok())
}
