//! Throws broken files at every reader. This is a mutation fuzzer that runs within one process and needs no tool beside cargo.
//!
//! ```text
//! cargo run --release --example fuzz -- TARGET|all --inputs N --seed S [--seeds FOLDER]
//! ```
//!
//! A target is a function from bytes to nothing; its seeds are small valid files made in code (`--seeds` adds
//! those of a folder). Every input is a mutated seed. Three things count as a find: a panic, more memory than the
//! target's limit at any moment, and more than a second of time. A find is written to `target/fuzz-finds/`, and the
//! same command line with `--replay FILE` runs one file again. The same seed gives the same inputs.
//!
//! A new target needs a file beside this one with its functions and seeds, and a line in `TARGETS`.
//! Without `--release` overflow checks are on, so the fuzzer is slower and finds more per input.

mod densities;
mod images;
mod labels;
mod memory;
mod models;
mod mutate;

use mutate::{Pcg, mutate};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One reader under fire.
pub struct Target {
    /// The name by which the command line calls it.
    pub name: &'static str,
    /// Reads the bytes and drops the result; errors are fine, panics are not.
    pub run: fn(&[u8]),
    /// Valid files to start from, made in code.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// True for text formats, whose tokens are replaced, doubled and swapped as well.
    pub text: bool,
    /// The memory an input may take is this many times its length, and 16 MiB.
    pub memory_factor: usize,
}

/// All targets. The usual memory factor is 64: a text of one-byte tokens becomes a list of structs of some 50 bytes,
/// and a list grows by doubling. Compressed images have the greatest ratio of their compression instead.
const TARGETS: &[&[Target]] = &[images::TARGETS, models::TARGETS, labels::TARGETS, densities::TARGETS];

const FREE_MEMORY: usize = 16 << 20;
const SLOW: Duration = Duration::from_secs(1);
const FINDS: &str = "target/fuzz-finds";
const MOST_FINDS: usize = 20;

static PANIC_MESSAGE: Mutex<String> = Mutex::new(String::new());

struct Options {
    target: String,
    inputs: u64,
    seed: u64,
    seed_folder: Option<PathBuf>,
    replay: Option<PathBuf>,
}

fn main() {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}; usage: fuzz TARGET|all [--inputs N] [--seed S] [--seeds FOLDER] [--replay FILE]");
            std::process::exit(2);
        }
    };
    std::panic::set_hook(Box::new(|info| {
        if let Ok(mut message) = PANIC_MESSAGE.lock() {
            *message = info.to_string().replace('\n', " ");
        }
    }));
    let chosen: Vec<&Target> =
        TARGETS.iter().flat_map(|group| group.iter()).filter(|target| options.target == "all" || options.target == target.name).collect();
    if chosen.is_empty() {
        let known: Vec<&str> = TARGETS.iter().flat_map(|group| group.iter()).map(|target| target.name).collect();
        eprintln!("unknown target '{}'; expected all or one of {}", options.target, known.join(", "));
        std::process::exit(2);
    }
    let finds: usize = chosen.iter().map(|target| fuzz(target, &options)).sum();
    std::process::exit(i32::from(finds > 0));
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { target: String::new(), inputs: 100_000, seed: 1, seed_folder: None, replay: None };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} has no value"));
        let number = |text: String| text.replace('_', "").parse::<u64>().map_err(|_| format!("'{text}' is not a whole number"));
        match arg.as_str() {
            "--inputs" => options.inputs = number(value()?)?,
            "--seed" => options.seed = number(value()?)?,
            "--seeds" => options.seed_folder = Some(PathBuf::from(value()?)),
            "--replay" => options.replay = Some(PathBuf::from(value()?)),
            name if options.target.is_empty() && !name.starts_with('-') => options.target = name.to_owned(),
            other => return Err(format!("'{other}' is not understood")),
        }
    }
    if options.target.is_empty() { Err("no target given".to_owned()) } else { Ok(options) }
}

/// Runs one target and returns the number of finds.
fn fuzz(target: &Target, options: &Options) -> usize {
    if let Some(file) = &options.replay {
        let Ok(bytes) = std::fs::read(file) else {
            eprintln!("{}: cannot be read", file.display());
            return 1;
        };
        let fault = run_one(target, &bytes);
        println!("{} {}: {}", target.name, file.display(), fault.as_deref().unwrap_or("no find"));
        return usize::from(fault.is_some());
    }
    let mut seeds = (target.seeds)();
    seeds.extend(options.seed_folder.iter().flat_map(|folder| files_of(folder)));
    let mut finds: Vec<String> = Vec::new();
    let mut total_finds = 0;
    let start = Instant::now();
    let mut rng = Pcg::new(options.seed);
    let mut input = Vec::new();
    let mut done = 0;
    while done < options.inputs {
        input.clear();
        // The seeds themselves come first, so that a broken seed is seen at once.
        if let Some(seed) = seeds.get(done as usize) {
            input.extend_from_slice(seed);
        } else {
            mutate(&mut input, &seeds, target.text, &mut rng);
        }
        done += 1;
        if let Some(fault) = run_one(target, &input) {
            total_finds += 1;
            // Each place in the code gets one file. The first line of a panic tells the place; numbers of bytes and seconds do not matter.
            let place: String = fault.chars().filter(|c| !c.is_ascii_digit() || fault.starts_with("panic")).take(120).collect();
            if !finds.contains(&place) && finds.len() < MOST_FINDS {
                println!("{} FIND {}: {fault}", target.name, save(target.name, finds.len(), &input));
                finds.push(place);
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}: {done} inputs from {} seeds in {seconds:.1} s, {:.0} inputs/s, {total_finds} finds, largest memory {} KiB",
        target.name,
        seeds.len(),
        done as f64 / seconds.max(1e-9),
        memory::largest_peak() >> 10
    );
    total_finds
}

/// The fault that this input causes, if it causes one.
fn run_one(target: &Target, input: &[u8]) -> Option<String> {
    memory::watch(target.name, input);
    let start = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let time = start.elapsed();
    let peak = memory::peak();
    if result.is_err() {
        let message = PANIC_MESSAGE.lock().map(|message| message.clone()).unwrap_or_default();
        return Some(format!("panic: {message}"));
    }
    let limit = target.memory_factor * input.len() + FREE_MEMORY;
    if peak > limit {
        return Some(format!("memory: {peak} bytes for an input of {} bytes; at most {limit} allowed", input.len()));
    }
    // On a busy machine anything may be slow once; if an input is slow three times, that is the reader's fault.
    let again = || {
        let start = Instant::now();
        let _ = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
        start.elapsed()
    };
    (time > SLOW && again() > SLOW && again() > SLOW).then(|| format!("slow: {time:?} for an input of {} bytes", input.len()))
}

fn files_of(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        eprintln!("{}: cannot be listed", folder.display());
        std::process::exit(2);
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    // Large seeds only make every input slow, because the parts that matter lie in the first kilobytes.
    paths.iter().filter_map(|path| std::fs::read(path).ok()).filter(|bytes| bytes.len() <= 1 << 18).collect()
}

/// Writes a find and returns its path.
pub fn save(target: &str, index: usize, input: &[u8]) -> String {
    let path = format!("{FINDS}/{target}-{index}");
    let written = std::fs::create_dir_all(FINDS).and_then(|()| std::fs::write(&path, input));
    if written.is_ok() { path } else { format!("{path} (cannot be written)") }
}
