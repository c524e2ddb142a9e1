//! `epicker bench`: how fast this machine picks.

use super::interrupt;
use super::print::print;
use super::status::{self, OrUsage};
use super::{threads, values};
use crate::ahead::ahead;
use crate::device::cpu::InstructionSet;
use crate::doctor::Way;
use crate::doctor::compute::Conv;
use crate::formats::coordinates::Kind;
use crate::io::find::find_micrographs;
use crate::io::model_source::ModelSource;
use crate::net::inference::frames::most_peaks;
use crate::net::{Model, PeakFinder, PeakFinderOptions};
use crate::pick::run::{self, Input, Job};
use crate::pick::settings::{Settings, WrittenSide};
use crate::pick::slots::Slots;
use crate::preprocess::scale::{FixedBy, Scale};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The command line of `epicker bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Model: .pth or .safetensors, or the general model particle, vesicle or fiber
    #[arg(long = "load_model", value_name = "MODEL", required = true)]
    load_model: ModelSource,
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
    let model = args.load_model.load(Model::from_state).context("--load_model").or_usage()?;
    let chosen = super::device::choose(args.gpus.as_ref(), args.conv, Way::Pick)?;
    chosen.warnings.iter().for_each(|line| status::tell(&format!("warning: {line}")));
    chosen.lines.iter().for_each(|line| status::say(line, true));
    let frame = Scale::choose(args.frame, None, model.facts(), false).frame([0; 2], None)?;
    let k = most_peaks(4000, frame);
    let mut finder = PeakFinder::new(&chosen.compute, &model, PeakFinderOptions { frame, sizes: false, k }).or_usage()?;
    let network_ms = network_ms(&mut finder, frame, args.runs)?;
    let multiply_adds = finder.plan().multiply_adds();
    // A multiplication and an addition are two operations.
    let gflop_per_second = 2.0 * multiply_adds as f64 / (network_ms * 1e6);
    // The outputs go to a temporary folder, which would stay behind if a signal ended the program at once.
    let stop = interrupt::finishing("finishing the micrograph in hand");
    let pipeline = args.data.is_some().then(|| pipeline(&mut finder, args, frame)).transpose()?;
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
            "arena_bytes": finder.plan().arena_bytes(),
            "micrographs": pipeline.as_ref().map(|pipeline| pipeline.micrographs),
            "micrograph_ms": pipeline.as_ref().map(|pipeline| pipeline.micrograph_ms),
        });
        status::print_json(&report);
        return Ok(status);
    }
    print(&format!("model {}, frame {frame}, {}", model.name(), chosen.compute.device.describe()));
    print(&format!("network and peaks  {network_ms:.1} ms (median of {})", args.runs));
    print(&format!("multiply-adds      {:.2} G, {gflop_per_second:.1} GFLOP/s", multiply_adds as f64 / 1e9));
    print(&format!("arena              {:.1} MiB", finder.plan().arena_bytes() as f64 / f64::from(1 << 20)));
    if let Some(Pipeline { micrographs, micrograph_ms, .. }) = pipeline {
        print(&format!("whole way          {micrograph_ms:.1} ms per micrograph ({micrographs} of them)"));
    }
    Ok(status)
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

/// Times the whole way of `epicker pick`, from reading to writing. The outputs go to a folder that is removed afterwards.
fn pipeline(finder: &mut PeakFinder, args: &BenchArgs, frame: usize) -> Result<Pipeline> {
    let data = args.data.as_deref().unwrap_or(".".as_ref());
    let found = find_micrographs(data, false).or_usage()?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let job = |(i, found): (usize, &crate::io::find::Found)| Job {
        input: Input { path: found.path.clone(), name: found.name.clone(), sections: Default::default(), known: Default::default() },
        output: folder.path().join(format!("{i}.thi")),
        candidates: Some(folder.path().join(format!("{i}.star"))),
        picture: None,
        entry: None,
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
        floor: 0.0,
        cap: most_peaks(4000, frame),
        suffix: String::new(),
        model: Default::default(),
        is_shown: false,
        report: None,
    };
    let slots = finder.gpu().map(Slots::new).transpose()?;
    let mut failures = 0;
    let start = Instant::now();
    ahead(
        jobs.iter().take_while(|_| !interrupt::is_asked()),
        |job| run::prepare(&job.input, settings.sight(), slots.as_ref()),
        |job, ready| {
            let one = ready.and_then(|mut ready| {
                let peaks = ready.peaks(finder)?;
                run::finish(job, &ready, &peaks, &settings)
            });
            if let Err(error) = one {
                failures += 1;
                status::tell(&format!("error: {error:#}"));
            }
            ControlFlow::<()>::Continue(())
        },
    );
    let micrographs = jobs.len() - failures;
    ensure!(micrographs > 0, "{}: none of its micrographs could be picked; the errors above say why", data.display());
    Ok(Pipeline { micrographs, failures, micrograph_ms: start.elapsed().as_secs_f64() * 1e3 / micrographs as f64 })
}
