//! The calls of CUDA's driver, and what is said where there is none, no GPU, or no memory: with a libcuda of the tests'
//! own (tests/libcuda), in processes of their own, because a process loads the driver once.

#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use epicker::device::gpu::cuda::{self, Cuda};
use epicker::device::gpu::driver::{Driver, Meaning, means};
use epicker::device::gpu::images::{Capability, Choice, CudaVersion, Images};
use epicker::device::gpu::{Arg, Gpu, Grid, Memory, Pinned};

/// Folder with the tests' libcuda.so.1; `incomplete`: one that lacks a call.
fn library(incomplete: bool) -> PathBuf {
    static FOLDERS: [OnceLock<tempfile::TempDir>; 2] = [OnceLock::new(), OnceLock::new()];
    let folder = FOLDERS[usize::from(incomplete)].get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libcuda/libcuda.c");
        let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(folder.path().join("libcuda.so.1"));
        if incomplete {
            compiler.arg("-DINCOMPLETE");
        }
        let output = compiler.arg(source).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // The name that is looked for first: with it no driver of this machine is found.
        std::os::unix::fs::symlink("libcuda.so.1", folder.path().join("libcuda.so")).unwrap();
        folder
    });
    folder.path().to_path_buf()
}

/// What `task` says in a process with that libcuda: `ok: ...` or the error.
fn said(task: &str, stub: &str, folder: Option<&Path>) -> String {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--ignored", "--exact", "driver::in_a_process_of_its_own", "--nocapture"]);
    process.env("TASK", task).env("STUB", stub);
    // The compiler that scripts/fetch-nvrtc.sh fetched is not found, because compiling all kernels takes minutes.
    process.env("XDG_CACHE_HOME", std::env::temp_dir().join("epicker-tests-without-compiler"));
    match folder {
        Some(folder) => process.env("LD_LIBRARY_PATH", folder),
        None => process.env_remove("LD_LIBRARY_PATH"),
    };
    let output = process.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once("said: "));
    line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr))).1.to_string()
}

#[test]
#[ignore = "the other tests run it, each with another libcuda"]
fn in_a_process_of_its_own() {
    let task = match std::env::var("TASK").as_deref() {
        Ok("open") => Cuda::open(0).map(|cuda| cuda.info().name),
        Ok("open the second") => Cuda::open(1).map(|cuda| cuda.info().name),
        Ok("list") => cuda::devices().map(|devices| format!("{devices:?}")),
        Ok("allocate") => Cuda::open(0).and_then(|cuda| cuda.allocate(5 << 29)).map(|_| String::new()),
        Ok("allocate pinned") => Cuda::open(0).and_then(|cuda| cuda.allocate_pinned(3 << 20)).map(|_| String::new()),
        Ok("load") => Cuda::open(0).and_then(|cuda| cuda.load(b".version 99.0\0")).map(|_| String::new()),
        Ok("open with kernels") => cuda::open(0).map(|(gpu, how)| format!("{}, {how}", gpu.info().name)),
        Ok("load nothing") => Cuda::open(0).and_then(|cuda| cuda.load(b"neither")).map(|_| String::new()),
        Ok("work") => work(),
        _ => return, // `cargo test -- --ignored` runs it without a task
    };
    let lost = |error: &anyhow::Error| if means(error, Meaning::Lost) { "lost: " } else { "" };
    println!("\nsaid: {}", task.map_or_else(|error| format!("{}{error:#}", lost(&error)), |words| format!("ok: {words}")));
}

#[test]
fn no_driver_is_said_in_words() {
    let words = said("open", "", None);
    if !words.starts_with("no NVIDIA driver") {
        println!("this machine has a driver, so its absence was not seen: {words}");
        return;
    }
    assert_eq!(
        words,
        "no NVIDIA driver: libcuda.so.1 was not found; expected the driver's library; install the NVIDIA driver, or use the CPU"
    );
}

#[test]
fn the_program_starts_without_a_driver() {
    let output = Command::new(env!("CARGO_BIN_EXE_epicker")).arg("--version").env_remove("LD_LIBRARY_PATH").output().unwrap();
    assert!(output.status.success());
    let program = std::fs::read(env!("CARGO_BIN_EXE_epicker")).unwrap();
    // A library that the loader wants at the start stands in the table of dynamic names with a version.
    let name = b"\0libcuda.so.1\0";
    assert!(!program.windows(name.len()).any(|part| part == name), "the program is linked with libcuda");
}

#[test]
fn a_stub_is_called_a_stub() {
    let words = said("open", "stub", Some(&library(false)));
    assert!(words.contains("libcuda.so is the toolkit's stub") && words.contains("34"), "{words}");
    let words = said("open", "works", Some(&library(true)));
    assert!(words.contains("has no cuGraphLaunch, so it is a stub or older than 470"), "{words}");
}

#[test]
fn a_driver_without_a_gpu_says_so() {
    for task in ["open", "list"] {
        let words = said(task, "no-device", Some(&library(false)));
        assert!(words.starts_with("NVIDIA driver, start: there is no GPU that this process may use"), "{words}");
        assert!(words.ends_with("(CUDA_ERROR_NO_DEVICE, 100)"), "{words}");
    }
}

#[test]
fn a_gpu_that_was_asked_for_must_be_there_and_otherwise_nobody_is_told_of_drivers() {
    let folder = tempfile::tempdir().unwrap();
    let epicker = |options: &[&str]| {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/trained.pth");
        let bench = ["bench", "--load_model", model, "--frame", "64", "--runs", "1"];
        let mut program = Command::new(env!("CARGO_BIN_EXE_epicker"));
        program.args(bench).args(options).env("LD_LIBRARY_PATH", library(false)).env("STUB", "no-device").current_dir(folder.path());
        let output = program.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for asked in ["0", "0,1", "3"] {
        let (status, stdout, stderr) = epicker(&["--gpus", asked]);
        assert_eq!((status, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.starts_with("error: --gpus") && stderr.contains("-1 is the CPU") && stderr.contains("there is no GPU"), "{stderr}");
    }
    for options in [&[][..], &["--gpus", "-1"]] {
        let (status, stdout, stderr) = epicker(options);
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{options:?}");
        assert!(stdout.contains("CPU") && !stdout.contains("driver"), "{stdout}");
    }
}

#[test]
fn a_gpu_that_is_taken_or_not_there_is_named() {
    let words = said("open", "taken", Some(&library(false)));
    assert!(words.starts_with("GPU 0 (GPU of tests): ") && words.contains("another process has the GPU for itself"), "{words}");
    let words = said("open the second", "works", Some(&library(false)));
    assert_eq!(words, "GPU 1: the driver sees 1; expected a number from 0 to 0");
}

#[test]
fn a_driver_that_is_too_old_is_told_which_would_do() {
    let words = said("open", "old", Some(&library(false)));
    assert_eq!(words, "NVIDIA driver: it serves CUDA 10.2; expected 11.4 or later; install driver 470 or later, or use the CPU");
}

#[test]
fn refused_memory_says_how_much_there_is() {
    let words = said("allocate", "full", Some(&library(false)));
    assert_eq!(
        words,
        "GPU of tests: asked for 2.5 GiB; 1.0 GiB of 8.0 GiB are free; use a smaller batch or frame, or a GPU with more memory"
    );
    let words = said("allocate pinned", "full", Some(&library(false)));
    assert!(words.starts_with("asked for 3.0 MiB of pinned host memory: "), "{words}");
}

#[test]
fn kernels_that_cannot_be_loaded_bring_the_drivers_words() {
    let words = said("load", "old-ptx", Some(&library(false)));
    assert!(
        words.starts_with("NVIDIA driver, load kernels: ptxas fatal: version 99.0: the driver is older than the kernels' PTX"),
        "{words}"
    );
    let words = said("load nothing", "works", Some(&library(false)));
    assert_eq!(words, "a kernel image is neither machine code nor PTX that ends in NUL");
}

#[test]
fn a_form_of_the_kernels_that_the_driver_does_not_take_leaves_the_next_one() {
    // What the tests' driver says of its GPU, and of itself.
    let (gpu, driver) = (Capability { major: 8, minor: 6 }, CudaVersion { major: 12, minor: 4 });
    let forms = Images::of_program().unwrap().choices(gpu, driver).unwrap();
    let [machine_code @ Choice::Cubin(_), ptx @ Choice::Ptx(_), Choice::Source] = &forms[..] else {
        println!("this program has no machine code or no PTX for this GPU, so there is nothing to refuse: {forms:?}");
        return;
    };
    let opened = |stub: &str| said("open with kernels", stub, Some(&library(false)));
    assert_eq!(opened("works"), format!("ok: GPU of tests, {machine_code}"));
    let words = format!("ok: GPU of tests, {ptx} (the driver does not take {machine_code})");
    assert_eq!(opened("no-cubin"), words);
    // If nothing is taken, the first refusal is told.
    let words = opened("no-image");
    assert!(words.contains("the kernels are for another GPU") && words.ends_with("(CUDA_ERROR_OTHER, 209)"), "{words}");
}

#[test]
fn an_error_after_which_the_gpu_does_nothing_more_says_so() {
    let words = said("work", "timeout", Some(&library(false)));
    let expected = "lost: kernel add: NVIDIA driver, launch 3 x 2 x 1 blocks of 64 threads: a kernel ran longer than a GPU may";
    assert!(words.starts_with(expected), "{words}");
}

#[test]
fn gpus_are_listed_with_what_they_are() {
    let words = said("list", "works", Some(&library(false)));
    for part in [
        "GPU of tests",
        "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
        "capability: [8, 6]",
        "memory: 8589934592",
        "multiprocessors: 108",
        "clock: 1410000000",
        "memory_bandwidth: 1555200000000",
        "driver_version: 12040",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
}

#[test]
fn memory_streams_events_kernels_and_graphs_reach_the_driver() {
    assert_eq!(said("work", "works", Some(&library(false))), "ok: [11.0, 12.0, 13.0] after 1.5 ms");
}

/// Everything that the trait has, once, through the GPU of the engine; on two threads.
fn work() -> Result<String> {
    let gpu = Gpu::new(Cuda::open(0)?, &[b"any text as an image\0"])?;
    let mut memory = Memory::new(&gpu, 24)?;
    let start = gpu.record()?;
    memory.upload(&gpu, 0, bytemuck::bytes_of(&[1.0f64, 2.0, 3.0]))?;
    let args = [Arg::address(memory.address()), Arg::value(3u32), Arg::value(3.0f64)];
    // SAFETY: the kernel of tests/libcuda takes these arguments.
    let launch = || unsafe { gpu.launch("add", Grid([3, 2, 1]), 64, &args) };
    launch()?;
    let graph = gpu.capture(launch)?;
    // SAFETY: the memory is still there.
    (0..2).try_for_each(|_| unsafe { graph.launch() })?;
    // SAFETY: there is no such kernel, so nothing is launched.
    let unknown = unsafe { gpu.launch("unknown", Grid([1, 1, 1]), 64, &[]) };
    ensure!(unknown.is_err_and(|error| error.to_string().contains("none of that name")), "an unknown kernel was launched");
    let end = gpu.record()?;
    gpu.wait_for(&end)?;
    end.synchronize()?;
    // Another thread, which has no context yet.
    let on_a_thread = std::thread::scope(|scope| scope.spawn(|| Memory::new(&gpu, 24)).join());
    let mut copied = on_a_thread.map_err(|_| anyhow::anyhow!("the thread died"))??;
    copied.clear(&gpu, 0, 24)?;
    // SAFETY: both hold 24 bytes.
    unsafe { gpu.driver().copy(copied.address(), memory.address(), 24, gpu.stream())? };
    let mut values = [0.0f64; 3];
    copied.download(&gpu, 0, bytemuck::bytes_of_mut(&mut values))?;
    let mut pinned = Pinned::new(&gpu, 24)?;
    pinned.bytes_mut().copy_from_slice(bytemuck::bytes_of(&values));
    ensure!(pinned.bytes() == bytemuck::bytes_of(&values), "pinned memory does not keep what is written");
    ensure!(gpu.driver().memory_info()? == [1 << 30, 8 << 30], "memory info");
    values.iter_mut().for_each(|value| *value += 1.0);
    Ok(format!("{values:?} after {} ms", end.ms_since(&start)?))
}

/// Picks of the sample micrograph on a device, as the program writes them; the folder has what was asked for before.
fn picked_by_the_program(folder: &Path, gpu: &str, library: &Path) -> String {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/blobs_1100x1000.mrc.gz");
    let output = folder.join(gpu);
    let mut program = Command::new(env!("CARGO_BIN_EXE_epicker"));
    program.args(["pick", "--frame", "256", "--conv", "native", "--output_type", "star", "--load_model", "particle", "--gpus", gpu]);
    program.arg("--data").arg(at);
    program.arg("--output").arg(&output).env("LD_LIBRARY_PATH", library).env("XDG_CACHE_HOME", folder);
    let result = program.output().unwrap();
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    let text = String::from_utf8_lossy(&result.stdout).into_owned();
    assert_eq!(text.contains("GPU 0: GPU that executes PTX (sm_80, 16.0 GiB), kernels as PTX for compute_80"), gpu == "0", "{text}");
    std::fs::read_to_string(output.join("blobs_1100x1000.star")).unwrap()
}

/// The program as a user has it, from its command line to its files, through the calls of the driver, on the PTX that it carries.
#[test]
fn the_program_picks_on_a_gpu_that_executes_ptx() {
    // `cargo test` builds the library, and `cargo test --test gpu` does not.
    let library = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/libcuda_ptx.so");
    if !library.exists() || ptxgpu::images(80).unwrap().is_none() {
        println!("{} is not there, or no PTX is in the program: `cargo build --example cuda_ptx` makes the library", library.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&library, folder.path().join("libcuda.so.1")).unwrap();
    std::os::unix::fs::symlink(&library, folder.path().join("libcuda.so")).unwrap();
    let numbers = |text: &str| -> Vec<Vec<f64>> {
        let rows = text.lines().map(|line| line.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>());
        rows.filter_map(Result::ok).filter(|row| row.len() > 2).collect()
    };
    let [cpu, gpu] = ["-1", "0"].map(|gpu| numbers(&picked_by_the_program(folder.path(), gpu, folder.path())));
    assert!(cpu.len() > 3 && cpu.len() == gpu.len(), "{} and {} picks", cpu.len(), gpu.len());
    for row in &cpu {
        let near = |other: &&Vec<f64>| (other[0] - row[0]).abs() <= 1.0 && (other[1] - row[1]).abs() <= 1.0;
        assert!(gpu.iter().any(|other| near(&other)), "{row:?} was not picked");
    }
}
