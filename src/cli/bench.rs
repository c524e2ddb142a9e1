//! `epicker bench`: how fast this machine picks.

use super::interrupt;
use super::print::print;
use super::status::{self, OrUsage};
use super::{threads, values};
use crate::device::cpu::InstructionSet;
use crate::device::gpu::predict;
use crate::doctor::Way;
use crate::doctor::compute::Conv;
use crate::formats::coordinates::Kind;
use crate::io::find::find_micrographs;
use crate::io::model_source::ModelSource;
use crate::net::inference::frames::most_peaks;
use crate::net::inference::peaks::Part;
use crate::net::inference::plan::StepSummary;
use crate::net::{Architecture, Model, PeakFinder, PeakFinderOptions, Views, formula};
use crate::ops::{Compute, Precision};
use crate::pick::parts;
use crate::pick::run::{self, Found, Input, Job, Seen, Source, Told};
use crate::pick::settings::{Settings, WrittenSide};
use crate::pick::workers::Workers;
use crate::preprocess::ground::Ground;
use crate::preprocess::scale::{FixedBy, Scale};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The command line of `epicker bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Model: .pth or .safetensors, or the general model particle, vesicle or fiber [default: the original's widths, which has learnt
    /// nothing]
    #[arg(long = "load_model", value_name = "MODEL")]
    load_model: Option<ModelSource>,
    /// Width of the image the network sees, a multiple of 32 [default: that with which the model was trained, where it says so;
    /// else 1024]
    #[arg(long = "frame", value_name = "PIXELS", value_parser = values::frame)]
    frame: Option<usize>,
    /// Threads [default: all cores]
    #[arg(long = "threads", value_name = "COUNT", value_parser = values::count)]
    threads: Option<usize>,
    /// GPU, or -1 for the CPU [default: the first GPU, the CPU where there is none]
    #[arg(long = "gpus", value_name = "IDS", value_parser = values::devices, allow_hyphen_values = true)]
    gpus: Option<values::Devices>,
    /// Who computes convolutions on a GPU: auto (cuDNN where there is one that computes what it should), cudnn or native
    #[arg(long = "conv", value_name = "WHO", default_value = "auto")]
    conv: Conv,
    /// What numbers products are multiplied in: fp32, tf32 or fp16. On the CPU the last two round every map and weight, to show what
    /// that costs, and save no time
    #[arg(long = "precision", value_name = "NAME", default_value = "fp32", value_parser = values::precision)]
    precision: Precision,
    /// Runs to take the median of, after one that is not counted
    #[arg(long = "runs", value_name = "COUNT", value_parser = values::count, default_value_t = 5)]
    runs: usize,
    /// Also measure the whole way from these micrographs to their files: one file, a folder, or a list
    #[arg(long = "data", value_name = "PATH")]
    data: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long = "json")]
    json: bool,
}

/// Runs the command; returns the exit status.
///
/// Errors: wrong usage, or no micrograph could be picked.
pub fn run(args: &BenchArgs) -> Result<u8> {
    threads::start(args.threads)?;
    let model = match &args.load_model {
        Some(source) => source.load(Model::from_state).context("--load_model").or_usage()?,
        None => formula::model(Architecture::DLA34)?,
    };
    let chosen = super::device::choose_in(args.precision, args.gpus.as_ref(), args.conv, Way::Pick)?;
    chosen.warnings.iter().for_each(|line| status::tell(&format!("warning: {line}")));
    chosen.lines.iter().for_each(|line| status::say(line, true));
    let frame = Scale::choose(args.frame, None, model.facts(), false).frame([0; 2], None)?;
    let k = most_peaks(4000, frame);
    let options = PeakFinderOptions { frame, sizes: false, k, views: Default::default() };
    let mut finder = PeakFinder::new(&chosen.compute, &model, options).or_usage()?;
    let network_ms = network_ms(&mut finder, frame, args.runs)?;
    let parts = part_times(&mut finder, args.precision, &model, options, args.runs)?;
    let (multiply_adds, arena_bytes) = (finder.plan().multiply_adds(), finder.plan().arena_bytes());
    drop(finder); // the pipeline plans a network of its own
    // A multiplication and an addition are two operations.
    let gflop_per_second = 2.0 * multiply_adds as f64 / (network_ms * 1e6);
    // The outputs go to a temporary folder, which would stay behind if a signal ended the program at once.
    let stop = interrupt::finishing("finishing the micrograph in hand");
    let pipeline = args.data.is_some().then(|| pipeline(&chosen.compute, &model, args, frame)).transpose()?;
    if stop.load(Ordering::Relaxed) {
        return Ok(interrupt::status());
    }
    chosen.keep().iter().for_each(|line| status::say(line, true));
    let status = if pipeline.as_ref().is_some_and(|pipeline| pipeline.failures > 0) { status::FAILED } else { status::DONE };
    let (threads, set) = (rayon::current_num_threads(), InstructionSet::detect().name());
    if args.json {
        let report = json!({
            "model": model.name(),
            "frame": frame,
            "threads": threads,
            "instruction_set": set,
            "device": chosen.compute.device.describe(),
            "runs": args.runs,
            "network_ms": network_ms,
            "multiply_adds": multiply_adds,
            "gflop_per_second": gflop_per_second,
            "parts": parts.iter().map(PartTime::to_json).collect::<Vec<_>>(),
            "arena_bytes": arena_bytes,
            "micrographs": pipeline.as_ref().map(|pipeline| pipeline.micrographs),
            "micrograph_ms": pipeline.as_ref().map(|pipeline| pipeline.micrograph_ms),
        });
        status::print_json(&report);
        return Ok(status);
    }
    print(&format!("model {}, frame {frame}, {}", model.name(), chosen.compute.device.describe()));
    print(&format!("network and peaks  {network_ms:.1} ms (median of {})", args.runs));
    print(&format!("multiply-adds      {:.2} G, {gflop_per_second:.1} GFLOP/s", multiply_adds as f64 / 1e9));
    print(&format!("arena              {:.1} MiB", arena_bytes as f64 / f64::from(1 << 20)));
    if let Some(Pipeline { micrographs, micrograph_ms, .. }) = pipeline {
        print(&format!("whole way          {micrograph_ms:.1} ms per micrograph ({micrographs} of them)"));
    }
    if !parts.is_empty() {
        print(&parts_text(&parts));
    }
    Ok(status)
}

/// How long a part of the work takes on a GPU.
struct PartTime {
    name: String,
    algorithm: String,
    multiply_adds: u64,
    measured_ms: f64,
    /// By the model, where it knows the GPU's clock and memory.
    predicted: Option<predict::Predicted>,
}

impl PartTime {
    fn to_json(&self) -> serde_json::Value {
        json!({
            "part": self.name,
            "algorithm": self.algorithm,
            "multiply_adds": self.multiply_adds,
            "measured_ms": self.measured_ms,
            "model_ms": self.predicted.map(|predicted| 1e3 * predicted.seconds),
            "model_bound": self.predicted.map(|predicted| predicted.bound.to_string()),
        })
    }
}

/// The time of every part of the network, on a GPU beside what a model says that our own kernels take.
fn part_times(
    finder: &mut PeakFinder,
    precision: Precision,
    model: &Model,
    options: PeakFinderOptions,
    runs: usize,
) -> Result<Vec<PartTime>> {
    let steps = finder.plan().summary();
    let predicted = match finder.gpu() {
        Some(gpu) if predict::can_predict(gpu.info()) => parts::predicted(gpu.info(), precision, model, options)?,
        _ => Vec::new(),
    };
    let measured = parts::measured(finder, runs)?;
    let part_time = |(i, (part, measured_ms)): (usize, (Part, f64))| {
        let (name, algorithm, multiply_adds) = match part {
            Part::Step(i) => of_steps(&steps[finder.plan().done_with(i)]),
            Part::Turn => ("view turned".to_string(), String::new(), 0),
            Part::Peaks => ("peaks".to_string(), String::new(), 0),
            Part::Heads => ("heads at the peaks".to_string(), String::new(), 0),
        };
        PartTime { name, algorithm, multiply_adds, measured_ms, predicted: predicted.get(i).map(|(_, predicted)| *predicted) }
    };
    Ok(measured.into_iter().enumerate().map(part_time).collect())
}

/// Name, algorithm and multiply-adds of steps that are done together: they have the name of the first, and that of the last besides.
fn of_steps(steps: &[StepSummary]) -> (String, String, u64) {
    let multiply_adds = steps.iter().map(|step| step.multiply_adds).sum();
    match steps {
        [first, .., last] => (format!("{} to {}", first.name, last.name), "in bands".to_string(), multiply_adds),
        [step] => (step.name.clone(), step.algorithm.clone(), multiply_adds),
        [] => unreachable!("a part without a step"),
    }
}

/// The parts as a table: beside each time its multiply-adds a second (those of the formula, whatever the algorithm saves), and what the
/// model says, if there is one.
fn parts_text(parts: &[PartTime]) -> String {
    let has_model = parts.iter().any(|part| part.predicted.is_some());
    let mut text = format!("\n{:<44} {:<24} {:>11} {:>9}", "part", "algorithm", "measured ms", "GFLOP/s");
    if has_model {
        text += &format!(" {:>9} {:>9}  {}", "model ms", "times", "model's bound");
    }
    text.push('\n');
    let mut line = |name: &str, algorithm: &str, measured: f64, multiply_adds: u64, model: Option<(f64, String)>| {
        let speed = if multiply_adds > 0 { format!("{:.1}", 2e-6 * multiply_adds as f64 / measured) } else { String::new() };
        text += &format!("{name:<44} {algorithm:<24} {measured:>11.4} {speed:>9}");
        if let Some((model, bound)) = model {
            text += &format!(" {model:>9.4} {:>9.2}  {bound}", measured / model);
        }
        text.push('\n');
    };
    for part in parts {
        let model = part.predicted.map(|predicted| (1e3 * predicted.seconds, predicted.bound.to_string()));
        line(&part.name, &part.algorithm, part.measured_ms, part.multiply_adds, model);
    }
    let model = parts.iter().map(|part| part.predicted.map(|predicted| 1e3 * predicted.seconds)).sum::<Option<f64>>();
    let sum = parts.iter().map(|part| part.measured_ms).sum();
    line("all", "", sum, parts.iter().map(|part| part.multiply_adds).sum(), model.map(|model| (model, String::new())));
    if has_model {
        text += "The model is of this program's own kernels; docs/gpu.md says what it leaves out. Parts are timed one by one, so their sum is \
                 more than the network takes as a whole.";
    }
    text
}

/// Milliseconds from an image to its peaks, as the median of several runs. A run before them warms up caches and pages and
/// is not counted.
fn network_ms(finder: &mut PeakFinder, frame: usize, runs: usize) -> Result<f64> {
    // The numbers may be any of the usual size, because no step of the network takes longer for some of them than for others.
    let image: Vec<f32> = (0..frame * frame).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
    finder.run(&image)?;
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let start = Instant::now();
        std::hint::black_box(finder.run(&image)?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[(times.len() - 1) / 2] + times[times.len() / 2]) / 2.0)
}

struct Pipeline {
    micrographs: usize,
    /// Micrographs that could not be picked, whose time is not counted.
    failures: usize,
    micrograph_ms: f64,
}

/// Counts the micrographs that could not be picked.
struct Failures(usize);

impl Told for Failures {
    fn finished(&mut self, _: &Job, _: &Seen, _: &Found) {}

    fn failed(&mut self, _: &Job, error: &anyhow::Error) {
        self.0 += 1;
        status::tell(&format!("error: {error:#}"));
    }
}

/// Times the whole way of `epicker pick`, from reading to writing. The outputs go to a folder that is removed afterwards.
fn pipeline(compute: &Compute, model: &Model, args: &BenchArgs, frame: usize) -> Result<Pipeline> {
    let data = args.data.as_deref().unwrap_or(".".as_ref());
    let found = find_micrographs(data, false).or_usage()?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let job = |(i, found): (usize, &crate::io::find::Found)| Job {
        input: Input { path: found.path.clone(), name: found.name.clone(), sections: Default::default(), known: Default::default() },
        output: folder.path().join(format!("{i}.thi")),
        candidates: Some(folder.path().join(format!("{i}.star"))),
        picture: None,
        entry: None,
        outdated: Vec::new(),
    };
    let jobs: Vec<Job> = found.micrographs.iter().enumerate().map(job).collect();
    let settings = Settings {
        limits: super::limits::DEFAULT_LIMITS,
        rule: super::limits::default_rule(Kind::Particle),
        distance_sides: None,
        in_angstrom: Default::default(),
        scale: Scale::Fixed { frame, by: FixedBy::User },
        side_n_px: 19.0,
        written_side: WrittenSide::OfNetwork,
        read: Default::default(),
        ground: Ground::wanted_by(model.facts()),
        views: Views::One,
        floor: 0.0,
        cap: most_peaks(4000, frame),
        suffix: String::new(),
        model: Default::default(),
        is_shown: false,
        report: None,
    };
    let mut workers = Workers::one(compute, model, false, settings.cap)?;
    workers.plan(frame)?;
    let (mut failures, is_stopped) = (Failures(0), interrupt::is_asked);
    let start = Instant::now();
    run::run(Source::list(&jobs, &is_stopped), &mut workers, &settings, &mut failures)?;
    let failures = failures.0;
    let micrographs = jobs.len() - failures;
    ensure!(micrographs > 0, "{}: none of its micrographs could be picked; the errors above say why", data.display());
    Ok(Pipeline { micrographs, failures, micrograph_ms: start.elapsed().as_secs_f64() * 1e3 / micrographs as f64 })
}
