//! The compiler of the kernels: NVRTC or nvcc, whichever is found first, behind one function.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::apart;
use crate::nvrtc::{self, Compiled, Nvrtc};

/// A compiler that has been seen to compile something.
pub struct Compiler {
    kind: Kind,
    /// Such as `NVRTC 12.9.86`; goes into the table of kernels and decides which drivers take the machine code.
    pub name: String,
    /// Architectures that it knows, ascending.
    pub archs: Vec<u32>,
}

/// What a compilation makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Machine code.
    Cubin,
    /// Machine code, and the PTX that it was made of.
    Both,
    /// PTX, which is sooner done.
    Ptx,
}

enum Kind {
    Nvrtc(Nvrtc),
    Nvcc(PathBuf),
}

/// A source that is compiled to see whether a compiler works. The PTX that comes out names the compiler's full version.
const PROBE: &str = "extern \"C\" __global__ void probe(float* x) { x[threadIdx.x] = 1.0f; }\n";

impl Compiler {
    /// Tries `NVRTC_LIB`, nvcc of `CUDA_HOME`, nvcc on the PATH, and the library that `scripts/fetch-nvrtc.sh` has fetched.
    ///
    /// Returns: the first compiler that works; if none does, what was wrong with each one that was there.
    pub fn find(scratch: &Path) -> Result<Compiler, Vec<String>> {
        let mut candidates: Vec<Box<dyn Fn() -> Result<Compiler>>> = Vec::new();
        if let Some(path) = non_empty("NVRTC_LIB") {
            candidates.push(Box::new(move || Compiler::nvrtc(Path::new(&path))));
        }
        for toolkit in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(non_empty) {
            let nvcc = Path::new(&toolkit).join("bin/nvcc");
            if nvcc.is_file() {
                candidates.push(Box::new(move || Compiler::nvcc(&nvcc, scratch)));
            }
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        if let Some(nvcc) = std::env::split_paths(&path).map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file()) {
            candidates.push(Box::new(move || Compiler::nvcc(&nvcc, scratch)));
        }
        if let Some(library) = nvrtc::fetched_library() {
            candidates.push(Box::new(move || Compiler::nvrtc(&library)));
        }
        let mut troubles = Vec::new();
        for candidate in candidates {
            match candidate() {
                Ok(compiler) => {
                    for trouble in troubles {
                        println!("cargo:warning=kernels are compiled by {}, because {trouble}", compiler.name);
                    }
                    return Ok(compiler);
                }
                Err(error) => troubles.push(format!("{error:#}").replace('\n', " ")),
            }
        }
        Err(troubles)
    }

    fn nvrtc(path: &Path) -> Result<Compiler> {
        let library = Nvrtc::load(path)?;
        let archs = library.architectures()?;
        let mut compiler = Compiler { kind: Kind::Nvrtc(library), name: String::new(), archs };
        compiler.name = format!("NVRTC {}", compiler.probe(Path::new(""))?);
        Ok(compiler)
    }

    fn nvcc(path: &Path, scratch: &Path) -> Result<Compiler> {
        let output = Command::new(path).arg("--list-gpu-arch").output().with_context(|| format!("{}", path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut archs: Vec<u32> = text.lines().filter_map(|line| line.trim().strip_prefix("compute_")?.parse().ok()).collect();
        archs.sort_unstable();
        archs.dedup();
        ensure!(!archs.is_empty(), "{}: --list-gpu-arch names no architecture; expected nvcc 11.1 or later", path.display());
        let mut compiler = Compiler { kind: Kind::Nvcc(path.to_path_buf()), name: String::new(), archs };
        let probe = scratch.join("probe.cu");
        std::fs::write(&probe, PROBE).with_context(|| probe.display().to_string())?;
        compiler.name = format!("nvcc {}", compiler.probe(scratch)?);
        Ok(compiler)
    }

    /// True if warnings about our own kernels stop the build. They do with NVRTC, by which releases are made; a user's nvcc may
    /// know warnings that we have never seen.
    pub fn warnings_are_errors(&self) -> bool {
        matches!(self.kind, Kind::Nvrtc(_))
    }

    fn probe(&self, scratch: &Path) -> Result<String> {
        let arch = *self.archs.last().context("the compiler knows no architecture")?;
        let compiled = match &self.kind {
            Kind::Nvrtc(library) => library.compile("probe.cu", PROBE, &[], &[format!("--gpu-architecture=sm_{arch}")])?,
            Kind::Nvcc(path) => run_nvcc(path, &scratch.join("probe.cu"), arch, &[], Made::Both, scratch)?,
        };
        // "// Cuda compilation tools, release 12.9, V12.9.86"
        let version = compiled.ptx.lines().find_map(|line| line.split_once(", V").map(|(_, version)| version.trim().to_string()));
        version.context("the compiler's PTX does not name its version")
    }

    /// Compiles `kernels/NAME.cu` for one architecture. Warnings that the architecture is old are left out of the log.
    ///
    /// Errors: the compiler refuses the source; the error has its own words.
    pub fn compile(&self, source: &Path, headers: &[(String, String)], arch: u32, made: Made, scratch: &Path) -> Result<Compiled> {
        let mut compiled = match &self.kind {
            Kind::Nvrtc(library) => {
                let text = std::fs::read_to_string(source).with_context(|| source.display().to_string())?;
                let name = source.to_string_lossy();
                match apart::compile(library.path(), &name, &text, headers, arch, made)? {
                    Some(compiled) => compiled,
                    None => library.compile(&name, &text, headers, &apart::options(arch, made))?,
                }
            }
            Kind::Nvcc(path) => run_nvcc(path, source, arch, crate::OPTIONS, made, scratch)?,
        };
        let about_age =
            |line: &&str| line.contains("deprecated") && (line.contains("rchitectures prior") || line.contains("offline compilation"));
        compiled.log = compiled.log.lines().filter(|line| !about_age(line) && !line.trim().is_empty()).collect::<Vec<_>>().join("\n");
        Ok(compiled)
    }
}

fn run_nvcc(nvcc: &Path, source: &Path, arch: u32, options: &[&str], made: Made, scratch: &Path) -> Result<Compiled> {
    let name = source.file_stem().and_then(|name| name.to_str()).context("a kernel file without a name")?;
    let mut log = String::new();
    let mut make = |form: &str| -> Result<Vec<u8>> {
        let out = scratch.join(format!("{name}-{arch}.{form}"));
        let output = Command::new(nvcc)
            .args(options)
            .args([format!("-{form}"), format!("-arch=sm_{arch}")])
            .arg("-o")
            .arg(&out)
            .arg(source)
            .output()
            .with_context(|| nvcc.display().to_string())?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("{}: {}: {}", source.display(), nvcc.display(), said.trim_end());
        }
        log.push_str(&said);
        std::fs::read(&out).map_err(|error| anyhow!("{}: {error}", out.display()))
    };
    let cubin = if made == Made::Ptx { Vec::new() } else { make("cubin")? };
    let ptx = if made != Made::Cubin { String::from_utf8_lossy(&make("ptx")?).into_owned() } else { String::new() };
    Ok(Compiled { cubin, ptx, log })
}

fn non_empty(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.trim().is_empty())
}
