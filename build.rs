//! The build script. It compiles kernels/*.cu to machine code and packs the result into one file, which
//! src/device/gpu/images.rs includes. It also puts the general models of weights/ into the program.
//!
//! Without a CUDA compiler the build goes on: the program then holds only the sources of the kernels, and says what it lacks.
//! docs/gpu.md says where the compiler is looked for, and what `EPICKER_CUDA_ARCHS` does.

#[path = "build/apart.rs"]
mod apart;
#[path = "build/compiler.rs"]
mod compiler;
#[allow(dead_code)] // the crate uses the rest
#[path = "src/device/gpu/nvrtc.rs"]
mod nvrtc;
#[allow(dead_code)] // the crate uses the rest
#[path = "src/device/gpu/pack.rs"]
mod pack;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail, ensure};

use compiler::{Compiler, Made};
use pack::Form;

/// The architectures that a release has machine code for. Code for one of them also runs on later architectures of the same
/// major version: code for 86 runs on 8.6 to 8.9, code for 120 also on 12.1.
const RELEASE_ARCHS: &[u32] = &[52, 60, 61, 70, 75, 80, 86, 89, 90, 100, 120];
/// A build for development compiles each file once: enough to see an error in a kernel.
const DEVELOPMENT_ARCHS: &[u32] = &[80];
/// It also has PTX, without machine code, for the architecture whose PTX a release has besides: tests execute both.
const DEVELOPMENT_PTX: &[u32] = &[52];
/// Options that NVRTC and nvcc both know.
pub const OPTIONS: &[&str] = &["--std=c++17"];
/// Part of the cache's key. It is raised whenever this script makes images from a source in another way, so that no older image
/// is taken from the cache.
const CHANGES: u32 = 2;

fn main() {
    match apart::serve() {
        Ok(false) => {}
        Ok(true) => return,
        Err(error) => {
            eprintln!("{error:#}");
            std::process::exit(1);
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=weights");
    println!("cargo:rerun-if-changed=src/device/gpu/nvrtc.rs");
    println!("cargo:rerun-if-changed=src/device/gpu/pack.rs");
    for variable in ["NVRTC_LIB", "CUDA_HOME", "CUDA_PATH", "EPICKER_CUDA_ARCHS", "XDG_CACHE_HOME"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    tell_commit();
    // tests/kernels/images.rs starts this script to compile one file again and again.
    if let Ok(program) = std::env::current_exe() {
        println!("cargo:rustc-env=EPICKER_BUILD_SCRIPT={}", program.display());
    }
    if let Err(error) = run() {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}

/// Tells a release build from which commit it is made, for the records of runs. A build for development says nothing: it
/// would have to be made anew after every commit.
fn tell_commit() {
    println!("cargo:rerun-if-env-changed=EPICKER_COMMIT");
    if !is_release() || std::env::var_os("EPICKER_COMMIT").is_some() || !Path::new(".git").exists() {
        return; // packed sources may lie in somebody else's repository
    }
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let what_counts = ["src", "kernels", "weights", "build", "build.rs", "Cargo.toml", "Cargo.lock"];
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return };
    let has_changes = git(&[&["diff", "--quiet", "HEAD", "--"], &what_counts[..]].concat()).is_none();
    println!("cargo:rustc-env=EPICKER_COMMIT={commit}{}", if has_changes { ", with changes" } else { "" });
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
    // The script runs anew for all the others anyway.
    for path in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={path}");
    }
}

/// True if a release is built.
fn is_release() -> bool {
    std::env::var("PROFILE").is_ok_and(|profile| profile == "release")
}

fn run() -> Result<()> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("OUT_DIR is not set; expected cargo to run this")?);
    write_general_models(&out)?;
    let kernels = Kernels::read(Path::new("kernels"))?;
    let mut images = Vec::new();
    for (name, text) in &kernels.headers {
        images.push((Form::Header, 0, name.clone(), text.len(), pack::compress(text.as_bytes())?));
    }
    for (name, text) in &kernels.sources {
        images.push((Form::Source, 0, name.clone(), text.len(), pack::compress(text.as_bytes())?));
    }
    let mut compiler_name = String::new();
    let wanted = wanted_archs()?;
    if !kernels.sources.is_empty() && wanted.archs != Some(Vec::new()) {
        match Compiler::find(&out) {
            Ok(compiler) => {
                images.extend(compile_all(&compiler, &kernels, &wanted, &out)?);
                compiler_name = compiler.name;
            }
            Err(troubles) => {
                let found = if troubles.is_empty() { "no NVRTC and no nvcc was found".to_string() } else { troubles.join("; ") };
                println!("cargo:warning=built without machine code for GPUs: {found}; scripts/fetch-nvrtc.sh fetches a compiler");
            }
        }
    }
    let path = out.join("kernel_images.bin");
    std::fs::write(&path, pack::write(&compiler_name, &images)).with_context(|| path.display().to_string())
}

/// Puts those general models into the program that are in weights/: src/io/model_source.rs includes the file written here.
fn write_general_models(out: &Path) -> Result<()> {
    let mut text = String::from("/// The general models.\nconst BUILT_IN: [BuiltIn; 3] = [\n");
    for name in ["particle", "vesicle", "fiber"] {
        let path = std::env::current_dir()?.join("weights").join(format!("{name}.safetensors"));
        let bytes = if path.is_file() { format!("Some(include_bytes!({:?}))", path.display().to_string()) } else { "None".to_owned() };
        text.push_str(&format!("    ({name:?}, {bytes}),\n"));
    }
    text.push_str("];\n");
    let path = out.join("general_models.rs");
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}

/// What is compiled.
struct Wanted {
    /// Architectures that get machine code. None means all architectures of a release that the compiler knows.
    archs: Option<Vec<u32>>,
    /// Architectures that get only PTX, if the compiler knows them.
    only_ptx: &'static [u32],
}

/// What `EPICKER_CUDA_ARCHS` asks for.
fn wanted_archs() -> Result<Wanted> {
    let value = std::env::var("EPICKER_CUDA_ARCHS").unwrap_or_default();
    let all_of = |archs| Ok(Wanted { archs, only_ptx: &[] });
    match value.trim() {
        "" if is_release() => all_of(None),
        "" => Ok(Wanted { archs: Some(DEVELOPMENT_ARCHS.to_vec()), only_ptx: DEVELOPMENT_PTX }),
        "all" => all_of(None),
        "none" => all_of(Some(Vec::new())),
        list => {
            let number = |word: &str| word.trim().trim_start_matches("sm_").parse::<u32>();
            let mut archs = list
                .split(',')
                .map(number)
                .collect::<Result<Vec<u32>, _>>()
                .map_err(|_| anyhow!("EPICKER_CUDA_ARCHS: found `{list}`; expected `all`, `none`, or architectures such as `80,90`"))?;
            archs.sort_unstable();
            archs.dedup();
            all_of(Some(archs))
        }
    }
}

/// The kernels' texts: headers by file name, sources by name without `.cu`, both in order of name.
struct Kernels {
    folder: PathBuf,
    headers: Vec<(String, String)>,
    sources: Vec<(String, String)>,
}

impl Kernels {
    fn read(folder: &Path) -> Result<Kernels> {
        let mut kernels = Kernels { folder: folder.to_path_buf(), headers: Vec::new(), sources: Vec::new() };
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(kernels) };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_string();
            let text = || std::fs::read_to_string(&path).with_context(|| path.display().to_string());
            if let Some(stem) = name.strip_suffix(".cu") {
                kernels.sources.push((stem.to_string(), text()?));
            } else if name.ends_with(".h") {
                kernels.headers.push((name, text()?));
            }
        }
        kernels.sources.sort();
        kernels.headers.sort();
        Ok(kernels)
    }
}

/// One compilation: of one file, for one architecture.
struct Job<'a> {
    file: &'a str,
    text: &'a str,
    arch: u32,
    made: Made,
}

type PackedImage = (Form, u32, String, usize, Vec<u8>);

fn compile_all(compiler: &Compiler, kernels: &Kernels, wanted: &Wanted, out: &Path) -> Result<Vec<PackedImage>> {
    let archs = match &wanted.archs {
        None => RELEASE_ARCHS.iter().copied().filter(|arch| compiler.archs.contains(arch)).collect::<Vec<u32>>(),
        Some(archs) => archs.clone(),
    };
    for arch in &archs {
        let known = &compiler.archs;
        ensure!(known.contains(arch), "EPICKER_CUDA_ARCHS: {} does not compile for {arch}; expected some of {known:?}", compiler.name);
    }
    // GPUs that do not exist yet run PTX. It is made for the oldest architecture, and for the oldest from 8.0 on, where kernels
    // use what came with 8.0.
    let oldest_from = |least: u32| archs.iter().copied().find(|arch| *arch >= least);
    let ptx_archs = [oldest_from(0), oldest_from(80)];
    let cache = cache_folder(out)?;
    let mut jobs = Vec::new();
    for arch in &archs {
        for (file, text) in &kernels.sources {
            let made = if ptx_archs.contains(&Some(*arch)) { Made::Both } else { Made::Cubin };
            jobs.push(Job { file, text, arch: *arch, made });
        }
    }
    for arch in wanted.only_ptx.iter().filter(|arch| compiler.archs.contains(arch)) {
        for (file, text) in &kernels.sources {
            jobs.push(Job { file, text, arch: *arch, made: Made::Ptx });
        }
    }
    let (next, done) = (Mutex::new(0..jobs.len()), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        while let Some(index) = next.lock().map_err(|_| anyhow!("a compiling thread died"))?.next() {
            let images = compile_one(compiler, kernels, &jobs[index], &cache, out)?;
            done.lock().map_err(|_| anyhow!("a compiling thread died"))?.push((index, images));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads = std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1).min(jobs.len());
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().try_for_each(|handle| handle.join().map_err(|_| anyhow!("a compiling thread died"))?)
    })?;
    let mut done = done.into_inner().map_err(|_| anyhow!("a compiling thread died"))?;
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().flat_map(|(_, images)| images).collect())
}

/// The images of one job. They come from the cache if nothing that they depend on has changed.
fn compile_one(compiler: &Compiler, kernels: &Kernels, job: &Job, cache: &Path, scratch: &Path) -> Result<Vec<PackedImage>> {
    let mut key = DefaultHasher::new();
    (job.text, &kernels.headers, job.arch, job.made != Made::Cubin, OPTIONS, CHANGES, &compiler.name).hash(&mut key);
    let prefix = format!("{}-{}{}-", job.file, job.arch, if job.made == Made::Ptx { "ptx" } else { "" });
    let path = cache.join(format!("{prefix}{:016x}", key.finish()));
    let stored = std::fs::read(&path).ok();
    if let Some(images) = stored.and_then(|bytes| unpack_stored(&bytes)) {
        return Ok(images);
    }
    let source = kernels.folder.join(format!("{}.cu", job.file));
    let compiled = compiler.compile(&source, &kernels.headers, job.arch, job.made, scratch)?;
    if compiled.log.contains("warning") {
        if compiler.warnings_are_errors() {
            bail!("{}, sm_{}: warnings are errors here:\n{}", source.display(), job.arch, compiled.log);
        }
        for line in compiled.log.lines() {
            println!("cargo:warning={}, sm_{}: {line}", source.display(), job.arch);
        }
    }
    let mut images = Vec::new();
    if job.made != Made::Ptx {
        ensure!(!compiled.cubin.is_empty(), "{}, sm_{}: {} gave no machine code", source.display(), job.arch, compiler.name);
        images.push((Form::Cubin, job.arch, job.file.to_string(), compiled.cubin.len(), pack::compress(&compiled.cubin)?));
    }
    if job.made != Made::Cubin {
        let text = with_oldest_version(&compiled.ptx, job.arch)?;
        images.push((Form::Ptx, job.arch, job.file.to_string(), text.len(), pack::compress(text.as_bytes())?));
    }
    store(cache, &prefix, &path, &pack::write(&compiler.name, &images))?;
    Ok(images)
}

/// Stamps PTX with the oldest version of the language that knows its architecture, and leaves out hints of later versions.
fn with_oldest_version(ptx: &str, arch: u32) -> Result<String> {
    let Some(version) = pack::oldest_ptx_version(arch) else { return Ok(ptx.to_string()) };
    ensure!(ptx.lines().any(|line| line.starts_with(".version ")), "PTX without a line .version");
    let line_for_all = |line: &str| match line.trim_start() {
        text if text.starts_with(".version ") => format!(".version {version}\n"),
        // This hint says which bytes of a load are used. It came with version 8.3, and assemblers that know it refuse it in PTX
        // of an older version.
        text if text.starts_with(".pragma \"used_bytes_mask ") => String::new(),
        _ => format!("{line}\n"),
    };
    Ok(ptx.lines().map(line_for_all).collect())
}

/// `kernel-images` in the target folder: it serves all profiles and targets, and `cargo clean` removes it.
fn cache_folder(out: &Path) -> Result<PathBuf> {
    // OUT_DIR is TARGET/PROFILE/build/NAME/out, or TARGET/TRIPLE/PROFILE/build/NAME/out.
    let folder = out.ancestors().nth(4).context("OUT_DIR is too short a path")?;
    let is_triple = folder.file_name() == std::env::var_os("TARGET").as_deref();
    let cache = if is_triple { folder.parent().unwrap_or(folder) } else { folder }.join("kernel-images");
    std::fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    Ok(cache)
}

fn unpack_stored(bytes: &[u8]) -> Option<Vec<PackedImage>> {
    let (_, images) = pack::read(bytes).ok()?;
    Some(
        images
            .into_iter()
            .map(|image| (image.form, image.arch, image.file.to_string(), image.length, image.compressed().to_vec()))
            .collect(),
    )
}

/// Writes a file of the cache whole or not at all. Of each source and architecture the three latest files are kept, so that a
/// developer can change between branches.
fn store(cache: &Path, prefix: &str, path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, bytes).with_context(|| temporary.display().to_string())?;
    std::fs::rename(&temporary, path).with_context(|| path.display().to_string())?;
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(cache)?.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(prefix)
            && let Ok(modified) = entry.metadata().and_then(|about| about.modified())
        {
            kept.push((modified, entry.path()));
        }
    }
    kept.sort();
    for (_, old) in kept.iter().rev().skip(3) {
        // Another build may have removed the file already.
        let _ = std::fs::remove_file(old);
    }
    Ok(())
}
