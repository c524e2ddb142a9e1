//! Each compilation runs in a process of its own, whose memory always lies at the same addresses.
//!
//! The machine code that NVRTC makes depends a little on the addresses of its memory: with random addresses, one in six
//! compilations of a large file gives other registers and other loops. So the build script starts itself again for each file,
//! without random addresses, without a path and with hardly any environment, and the same source gives the same bytes every
//! time. Where the system forbids that (some containers forbid `personality`), addresses stay random.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::compiler::Made;
use crate::nvrtc::{Compiled, Nvrtc};
use crate::pack::{self, Form};

/// The first argument of such a process. The process reads a pack from its standard input, which holds the headers and, last,
/// the source with the architecture to compile for. Where a pack names the compiler, this one holds the path of NVRTC's
/// library.
const COMMAND: &str = "compile";
/// The second argument of a process that was started again, whose addresses are as fixed as the system allows.
const FIXED: &str = "fixed";

/// Compiles if the arguments ask for it. Returns false if they do not, as when cargo starts the build script.
///
/// Errors: the source does not compile (the error has the compiler's words), or the input is no pack of ours.
pub fn serve() -> Result<bool> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_none_or(|command| command != COMMAND) {
        return Ok(false);
    }
    if args.len() == 1 {
        start_again_without_random_addresses()?;
    }
    // The buffer always has the same size, so that all later allocations always lie at the same addresses.
    let mut input = Vec::with_capacity(4 << 20);
    std::io::stdin().read_to_end(&mut input)?;
    let (library, images) = pack::read(&input)?;
    let mut texts = Vec::new();
    for image in &images {
        texts.push((image.file.to_string(), String::from_utf8(image.unpack()?)?));
    }
    let source = texts.pop().context("no source")?;
    // A source that stands as PTX becomes PTX alone.
    let asked = &images[texts.len()];
    let (arch, made) = (asked.arch, if asked.form == Form::Ptx { Made::Ptx } else { Made::Both });
    let compiler = Nvrtc::load(&by_a_path_that_is_the_same_everywhere(Path::new(library)))?;
    let Compiled { cubin, ptx, log } = compiler.compile(&source.0, &source.1, &texts, &options(arch, made))?;
    let mut out = std::io::stdout().lock();
    for part in [&cubin[..], ptx.as_bytes(), log.as_bytes()] {
        out.write_all(&(part.len() as u64).to_le_bytes())?;
        out.write_all(part)?;
    }
    out.flush()?;
    Ok(true)
}

/// Changes to the folder of the library, and returns a path of the library that is the same wherever that folder is. The loader
/// keeps the path in memory, so it must not differ.
fn by_a_path_that_is_the_same_everywhere(library: &Path) -> PathBuf {
    const HERE: &str = "/proc/self/cwd";
    match (library.parent(), library.file_name()) {
        (Some(folder), Some(name)) if library.is_absolute() && Path::new(HERE).exists() && std::env::set_current_dir(folder).is_ok() => {
            Path::new(HERE).join(name)
        }
        _ => library.to_path_buf(),
    }
}

/// The options of a compilation.
pub fn options(arch: u32, made: Made) -> Vec<String> {
    let kind = if made == Made::Ptx { "compute" } else { "sm" };
    let mut options = vec![format!("--gpu-architecture={kind}_{arch}")];
    options.extend(crate::OPTIONS.iter().map(|option| option.to_string()));
    options
}

/// Compiles a source in a process of its own. Returns none if no such process can be started. `headers` are pairs of the name
/// in `#include` and the text.
///
/// Errors: the source does not compile; the error has the compiler's words.
pub fn compile(library: &Path, name: &str, source: &str, headers: &[(String, String)], arch: u32, made: Made) -> Result<Option<Compiled>> {
    let (Ok(program), Some(library)) = (std::env::current_exe(), library.to_str()) else { return Ok(None) };
    let mut images = Vec::new();
    for (name, text) in headers {
        images.push((Form::Header, 0, name.clone(), text.len(), pack::compress(text.as_bytes())?));
    }
    let form = if made == Made::Ptx { Form::Ptx } else { Form::Source };
    images.push((form, arch, name.to_string(), source.len(), pack::compress(source.as_bytes())?));
    let piped = || Stdio::piped();
    let started = Command::new(program).arg(COMMAND).stdin(piped()).stdout(piped()).stderr(piped()).spawn();
    let Ok(mut process) = started else { return Ok(None) };
    if let Some(mut input) = process.stdin.take() {
        // Writing fails if the process has ended early; what it said about that is read below.
        let _ = input.write_all(&pack::write(library, &images));
    }
    let output = process.wait_with_output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(!words.trim().is_empty(), "{name}: its compiler ended with {}", output.status);
        bail!("{}", words.trim_end());
    }
    let mut rest = &output.stdout[..];
    let mut part = || -> Result<Vec<u8>> {
        let (length, behind) = rest.split_first_chunk::<8>().context("the compiler's answer is cut off")?;
        let (part, behind) = behind.split_at_checked(u64::from_le_bytes(*length) as usize).context("the compiler's answer is cut off")?;
        rest = behind;
        Ok(part.to_vec())
    };
    let (cubin, ptx, log) = (part()?, part()?, part()?);
    Ok(Some(Compiled { cubin, ptx: String::from_utf8(ptx)?, log: String::from_utf8_lossy(&log).into_owned() }))
}

/// Starts this program again without random addresses; returns where the system does not allow that.
///
/// The memory that is in use before the first line of `main` must not depend on where this program lies and who called it, or
/// else NVRTC's memory would begin somewhere else. But it does depend on both: every process reads at its start the paths of
/// its files from /proc/self/maps into memory of their length, and its arguments and environment lie above the stack. So the
/// program goes on as a copy that has no path, always with the same arguments and with hardly any environment.
#[cfg(target_os = "linux")]
fn start_again_without_random_addresses() -> Result<()> {
    use std::ffi::{c_int, c_ulong};
    use std::os::unix::process::CommandExt;
    unsafe extern "C" {
        fn personality(persona: c_ulong) -> c_int;
    }
    const NO_RANDOM_ADDRESSES: c_ulong = 0x0004_0000;
    const ASK: c_ulong = 0xffff_ffff;
    // SAFETY: the call changes how the next program of this process is loaded, and nothing else.
    let is_set = unsafe {
        let now = personality(ASK);
        now >= 0 && personality(now as c_ulong | NO_RANDOM_ADDRESSES) >= 0
    };
    if !is_set {
        return Ok(());
    }
    let libraries = folders_of_libraries().map(|folders| ("LD_LIBRARY_PATH", folders));
    // `exec` returns only if it fails: some systems start no program that lies in memory.
    let start = |program: &Path| Command::new(program).arg0(COMMAND).args([COMMAND, FIXED]).env_clear().envs(libraries.clone()).exec();
    if let Some(copy) = copy_without_a_path() {
        start(&copy);
    }
    // If the program went on here with random addresses, it would make other bytes once in a while, and nobody would be told.
    Err(start(Path::new("/proc/self/exe"))).context("the build script cannot start itself to compile the kernels")
}

/// Copies this program into a file in memory, and returns a path that starts the copy. None where the system has no such files.
#[cfg(target_os = "linux")]
fn copy_without_a_path() -> Option<PathBuf> {
    use std::ffi::{c_int, c_long, c_uint};
    use std::fs::File;
    use std::os::fd::{AsRawFd, FromRawFd};
    unsafe extern "C" {
        fn syscall(number: c_long, ...) -> c_long;
        fn dup2(from: c_int, to: c_int) -> c_int;
    }
    // memfd_create is called by its number, because glibc before 2.27 has no function of that name.
    let memfd_create: c_long = if cfg!(target_arch = "x86_64") {
        319
    } else if cfg!(target_arch = "aarch64") {
        279
    } else {
        return None;
    };
    const CLOSED_BY_EXEC: c_uint = 1;
    /// The path contains this number, so it always has the same length.
    const NUMBER: c_int = 100;
    // SAFETY: the name ends in NUL.
    let descriptor = unsafe { syscall(memfd_create, c"compile".as_ptr(), CLOSED_BY_EXEC) };
    let descriptor = c_int::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
    // SAFETY: the descriptor was made above and belongs to nobody else.
    let mut file = unsafe { File::from_raw_fd(descriptor) };
    std::io::copy(&mut File::open("/proc/self/exe").ok()?, &mut file).ok()?;
    // SAFETY: this process is about to be replaced and has opened no file of that number.
    let is_done = unsafe { dup2(file.as_raw_fd(), NUMBER) } == NUMBER;
    is_done.then(|| PathBuf::from(format!("/proc/self/fd/{NUMBER}")))
}

/// Those folders of LD_LIBRARY_PATH that hold libraries of this program. Cargo adds others, whose names are longer or shorter
/// from clone to clone.
#[cfg(target_os = "linux")]
fn folders_of_libraries() -> Option<OsString> {
    let folders = std::env::var_os("LD_LIBRARY_PATH")?;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let paths: Vec<&Path> = maps.lines().filter_map(|line| Some(Path::new(&line[line.find('/')?..]))).collect();
    let serves = |folder: &PathBuf| {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        paths.iter().any(|path| path.parent() == Some(&folder))
    };
    let kept: Vec<PathBuf> = std::env::split_paths(&folders).filter(serves).collect();
    if kept.is_empty() { None } else { std::env::join_paths(kept).ok() }
}

#[cfg(not(target_os = "linux"))]
fn start_again_without_random_addresses() -> Result<()> {
    Ok(())
}
