//! `epicker pick`: find particles, vesicles or fibers in micrographs.

mod batch;

use super::device::{self, Chosen};
use super::limits::{DEFAULT_LIMITS, LIMITS_OF_PARTICLES, LimitArgs, default_rule};
use super::progress::Progress;
use super::status::{self, OrUsage, Usage};
use super::{threads, values};
use crate::ahead::ahead;
use crate::convolutions::Conv;
use crate::device::Device;
use crate::formats::coordinates::Kind;
use crate::formats::image::{Mode0, ReadOptions, Sections};
use crate::io::lists::{self, Listed};
use crate::io::model_source::ModelSource;
use crate::net::{Model, PeakFinders};
use crate::pick::filter::{DISTANCE_SIDES, Limits};
use crate::pick::output::{OutputType, what_is_lost};
use crate::pick::relion::{Ending, RelionJob, Version};
use crate::pick::report::{self, Heading};
use crate::pick::run::{self, Job, Settings, WrittenSide};
use crate::pick::seek_scale::seek;
use crate::pick::slots::Slots;
use crate::preprocess::scale::{Chosen as ByWhom, Diameter, ORIGINAL_FRAME, Scale};
use crate::train::labels::ORIGINAL_SIDE_H_PX;
use anyhow::{Context, Result};
use batch::Batch;
use serde_json::json;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// The command line of `epicker pick`.
#[derive(Debug, clap::Args)]
pub struct PickArgs {
    /// Micrographs: one file, a folder (its .mrc files), or a list ending in .thi or .star
    #[arg(long = "data", value_name = "PATH", required_unless_present = "in_mics")]
    data: Option<PathBuf>,
    /// Model: a .pth or .safetensors, or the general model particle, vesicle or fiber [default: the general model of --mode]
    #[arg(long = "load_model", value_name = "MODEL")]
    load_model: Option<ModelSource>,
    /// What to look for: particle, vesicle or fiber [default: the model's own, else particle]
    #[arg(long = "mode", value_name = "MODE")]
    mode: Option<Kind>,
    /// Output folder, made if it is not there
    #[arg(long = "output", value_name = "FOLDER", default_value = "./output")]
    output: PathBuf,
    #[command(flatten)]
    limits: LimitArgs,
    /// Write a picture of each micrograph with its picks, <output>/<name>.png
    #[arg(long = "visual")]
    visual: bool,
    /// Write one page to look at, <output>/report.html: all micrographs of this run with their picks, and a threshold to move
    #[arg(long = "report")]
    report: bool,
    /// GPU, or -1 for the CPU [default: the first GPU, the CPU where there is none]
    #[arg(long = "gpus", value_name = "IDS", value_parser = values::devices, allow_hyphen_values = true)]
    gpus: Option<values::Devices>,
    /// Who computes convolutions on a GPU: auto (cuDNN where there is one that computes what it should), cudnn or native
    #[arg(long = "conv", value_name = "WHO", default_value = "auto")]
    conv: Conv,
    /// Side of the box of the border test, heat-map pixels (a quarter of network pixels) [default: the model's own, else 4.75]
    #[arg(long = "particle_size", value_name = "PIXELS", value_parser = values::positive)]
    particle_size: Option<f64>,
    /// Kind of the files of a folder: mrc
    #[arg(long = "data_type", value_name = "TYPE", value_parser = ["mrc"], default_value = "mrc")]
    data_type: String,
    /// Particle diameter: sets the scale, where the model says for which size of particles it is; the written boxes and the
    /// circles [default: the model's own]
    #[arg(long = "diameter", value_name = "ANGSTROM", value_parser = values::positive)]
    diameter: Option<f64>,
    /// Pixel size, angstrom per pixel [default: the header's]
    #[arg(long = "angpix", value_name = "ANGSTROM", value_parser = values::positive)]
    angpix: Option<f64>,
    /// Width of the image the network sees, a multiple of 32 [default: what makes the particles as large as the model knows
    /// them, where it says so; else 1024]
    #[arg(long = "frame", value_name = "PIXELS", value_parser = values::frame)]
    frame: Option<usize>,
    /// Threads; the result is the same for every number [default: all cores]
    #[arg(long = "threads", value_name = "COUNT", value_parser = values::count)]
    threads: Option<usize>,
    /// Arithmetic of the network: fp32
    #[arg(long = "precision", value_name = "NAME", value_parser = ["fp32"], default_value = "fp32")]
    precision: String,
    /// Go on with a batch: leave micrographs alone whose output is there and complete
    #[arg(long = "skip-done")]
    skip_done: bool,
    /// Refuse to replace files
    #[arg(long = "no-clobber")]
    no_clobber: bool,
    /// Keep no candidates for `epicker rethreshold`
    #[arg(long = "no-candidates")]
    no_candidates: bool,
    /// Keep the folders of the micrographs below the one they share
    #[arg(long = "keep-dirs")]
    keep_dirs: bool,
    /// Go on without the files of a list that are not there
    #[arg(long = "skip-missing")]
    skip_missing: bool,
    /// Files of several sections: mean, first, each or refuse
    #[arg(long = "sections", value_name = "WHAT", value_parser = ["mean", "first", "each", "refuse"], default_value = "mean")]
    sections: String,
    /// MRC bytes (mode 0): auto, signed or unsigned
    #[arg(long = "mode0", value_name = "SIGN", value_parser = ["auto", "signed", "unsigned"], default_value = "auto")]
    mode0: String,
    /// The first row of a TIFF is row 0
    #[arg(long = "tiff-top-down")]
    tiff_top_down: bool,
    /// One JSON object per line on standard output, plain text on standard error
    #[arg(long = "json")]
    json: bool,
    /// RELION External job: STAR file with the micrographs
    #[arg(long = "in_mics", value_name = "FILE", conflicts_with = "data", requires = "o")]
    in_mics: Option<PathBuf>,
    /// RELION External job: folder of the job
    #[arg(long = "o", value_name = "FOLDER", requires = "in_mics")]
    o: Option<PathBuf>,
    /// RELION External job: threads
    #[arg(long = "j", value_name = "COUNT", value_parser = values::count)]
    j: Option<usize>,
    /// RELION External job: folder of the job, again
    #[arg(long = "pipeline_control", value_name = "FOLDER")]
    pipeline_control: Option<PathBuf>,
    /// RELION External job: 3.1, 4.0 or 5.0 [default: what the project's pipeline says]
    #[arg(long = "relion_version", value_name = "VERSION")]
    relion_version: Option<Version>,
}

/// Runs the command; returns the exit status.
///
/// Errors: wrong usage, before any file is written.
pub fn run(args: PickArgs) -> Result<u8> {
    let relion = args.relion_job()?;
    if let Some(job) = &relion {
        job.begin().or_usage()?;
    }
    let result = pick(&args, relion.as_ref());
    // RELION waits for the mark; without one it would take the job for a running one for ever.
    if let (Err(_), Some(job)) = (&result, &relion) {
        job.end(Ending::Failure)?;
    }
    result
}

/// Marks a RELION job as failed whose command line could not be understood; does nothing for other command lines.
pub fn mark_failed_job(args: &[OsString]) {
    let value_of = |name: &str| {
        let is_it = |arg: &OsString| arg.to_str().is_some_and(|arg| arg.replace('-', "_") == name.replace('-', "_"));
        args.iter().position(is_it).and_then(|i| args.get(i + 1)).map(PathBuf::from)
    };
    if args.get(1).is_none_or(|command| command != "pick") || value_of("--in_mics").is_none() {
        return;
    }
    if let Some(folder) = value_of("--o").filter(|folder| folder.is_dir()) {
        // The error itself has been told already.
        let _ = crate::pick::relion::mark(&folder, Ending::Failure);
    }
}

fn pick(args: &PickArgs, relion: Option<&RelionJob>) -> Result<u8> {
    threads::start(args.threads.or(args.j))?;
    let model = Model::from_source(&args.model()).context("--load_model").or_usage()?;
    let mut settings = args.settings(&model, relion.is_some()).or_usage()?;
    let batch = batch::batch(args, &settings, relion).or_usage()?;
    settings.report = args.report.then_some(batch.jobs.len());
    let chosen = device::choose(args.gpus.as_ref(), args.conv)?;
    let mut pickers = PeakFinders::new(&chosen.device, &model, settings.rule.kind == Kind::Vesicle, settings.cap);
    settings.scale = args.scale(&model, &batch, &settings);
    if let Scale::Fixed { frame, .. } = settings.scale {
        pickers.get(frame).or_usage()?;
    }
    let slots = match &chosen.device {
        Device::Cpu => None,
        Device::Gpu(gpu) => Some(Slots::new(gpu).or_usage()?),
    };
    batch::make_folder(batch.folder(&args.output, relion)).or_usage()?;

    let mut progress = Progress::new(batch.jobs.len(), args.json);
    args.tell(&model, &settings, &batch, &chosen, &progress);
    if settings.scale.is_to_be_sought() && !batch.jobs.is_empty() {
        let side_n_px = 4.0 * model.facts().particle_size_h_px.unwrap_or(ORIGINAL_SIDE_H_PX);
        let sought = seek(&mut pickers, &run::samples(&batch.samples, &settings), side_n_px, &settings.rule.compat)?;
        sought.iter().for_each(|sought| progress.say(&sought.text()));
        settings.scale = settings.scale.or_sought(sought.as_ref(), side_n_px);
    }
    args.set_limits(&mut settings, &model);
    let settings = settings;
    let interrupt = status::on_ctrl_c("finishing the micrograph in hand")?;
    let is_aborted = || relion.is_some_and(RelionJob::is_to_stop);
    let (mut picks, mut failures, mut entries) = (0, Vec::new(), Vec::new());
    let mut finished = vec![false; batch.jobs.len()];
    let (mut next, mut told) = (0, None);
    let is_stopped = || interrupt.load(Ordering::Relaxed) || is_aborted();
    ahead(
        batch.jobs.iter().take_while(|_| !is_stopped()),
        |job| run::prepare(job, &settings, slots.as_ref()),
        |job, ready| {
            if is_stopped() {
                return ControlFlow::Break(());
            }
            if let Ok(ready) = &ready
                && told != Some(ready.frame())
            {
                told = Some(ready.frame());
                ready.reason.iter().for_each(|reason| progress.say(&format!("{reason} ({})", job.name)));
            }
            match pick_one(job, ready, &mut pickers, &settings, &progress) {
                Ok(found) => {
                    picks += found.picks;
                    finished[next] = true;
                    progress.step(&job.name, &format!("{} picks", found.picks));
                    entries.extend(found.entry);
                }
                Err(error) => {
                    let message = format!("{error:#}");
                    progress.error(&job.name, &message);
                    progress.step(&job.name, "failed");
                    failures.push(message);
                }
            }
            next += 1;
            ControlFlow::Continue(())
        },
    );
    progress.finish();
    chosen.keep().iter().for_each(|line| progress.say(line));

    let done = batch.jobs.iter().zip(&finished).filter(|(_, finished)| **finished).count();
    if let Err(error) = write_lists(&batch, &finished, &settings, relion, args) {
        progress.error("", &format!("{error:#}"));
        failures.push(format!("{error:#}"));
    }
    if args.report {
        let folder = batch.folder(&args.output, relion);
        let path = folder.join("report.html");
        match report::write(&path, &args.heading(&model, &settings, folder, entries.len()), &entries) {
            Ok(()) => progress.say(&format!("a page to look at: {}", path.display())),
            Err(error) => {
                progress.error("", &format!("{error:#}"));
                failures.push(format!("{error:#}"));
            }
        }
    }
    progress.summary(done, picks, failures.len(), batch.skipped);
    if failures.len() > 1 {
        progress.warn(&format!("{} failures:", failures.len()));
        failures.iter().for_each(|message| progress.warn(&format!("  {message}")));
    }
    let stopped = next < batch.jobs.len();
    if let Some(job) = relion {
        job.end(match (stopped, done + batch.skipped > 0 || batch.jobs.is_empty()) {
            (true, _) => Ending::Aborted,
            (false, true) => Ending::Success,
            (false, false) => Ending::Failure,
        })?;
    }
    Ok(match (stopped, failures.is_empty()) {
        (true, _) => status::INTERRUPTED,
        (false, true) => status::DONE,
        (false, false) => status::FAILED,
    })
}

/// network -> decode -> filter -> write; the number of picks.
fn pick_one(
    job: &Job,
    ready: Result<run::Ready>,
    pickers: &mut PeakFinders,
    settings: &Settings,
    progress: &Progress,
) -> Result<run::Found> {
    let mut ready = ready?;
    let start = std::time::Instant::now();
    let peaks = pickers.get(ready.frame()).and_then(|picker| ready.peaks_of_frame(picker)).with_context(|| job.name.clone())?;
    ready.warnings.iter().for_each(|warning| progress.warn(warning));
    let network_seconds = start.elapsed().as_secs_f64();
    let found = run::finish(job, &ready, &peaks, settings)?;
    let fields = json!({
        "micrograph": job.name,
        "output": job.output,
        "frame": ready.frame(),
        "picks": found.picks,
        "fibers": (settings.rule.kind == Kind::Fiber).then_some(found.fibers),
        "seconds": {
            "read": ready.seconds,
            "network": network_seconds,
            "write": start.elapsed().as_secs_f64() - network_seconds,
        },
    });
    progress.event("image", fields);
    Ok(found)
}

/// The model's own threshold, else that of a run without options.
fn threshold_of(model: &Model) -> f32 {
    model.facts().threshold.map_or(DEFAULT_LIMITS.vis_thresh, |threshold| threshold as f32)
}

fn write_lists(batch: &Batch, finished: &[bool], settings: &Settings, relion: Option<&RelionJob>, args: &PickArgs) -> Result<()> {
    let listed: Vec<Listed> = batch.listed(finished);
    match relion {
        Some(job) => job.write_lists(&listed, settings.rule.kind == Kind::Fiber),
        None => {
            if settings.rule.output_type == OutputType::Star {
                lists::write_coordinate_files(&args.output, &listed)?;
            }
            lists::write_merge_results(&args.output, &listed)
        }
    }
}

impl PickArgs {
    /// The model that is asked for: without --load_model the general one of the mode.
    fn model(&self) -> ModelSource {
        let general = || ModelSource::General(self.mode.unwrap_or_default().name());
        self.load_model.clone().unwrap_or_else(general)
    }

    fn relion_job(&self) -> Result<Option<RelionJob>> {
        let (Some(folder), Some(micrographs)) = (&self.o, &self.in_mics) else { return Ok(None) };
        if self.limits.output_type.is_some_and(|kind| kind != OutputType::Star) {
            return Err(Usage::because("--output_type: RELION reads star only; leave it out").into());
        }
        let version = self.relion_version.unwrap_or_else(|| crate::pick::relion::version_of_project(".".as_ref()));
        Ok(Some(RelionJob { folder: folder.clone(), micrographs: micrographs.clone(), version }))
    }

    fn settings(&self, model: &Model, is_relion: bool) -> Result<Settings> {
        let of_model = model.facts();
        let model_kind = of_model.mode.as_deref().map(str::parse).transpose().map_err(anyhow::Error::msg)?;
        let kind = self.mode.or(model_kind).unwrap_or_default();
        let limits = self.limits.limits(Limits { vis_thresh: threshold_of(model), ..DEFAULT_LIMITS });
        let mut base = default_rule(kind);
        if is_relion {
            base.output_type = OutputType::Star;
        }
        let rule = self.limits.rule(kind, &base)?;
        let side_n_px = 4.0 * self.particle_size.or(of_model.particle_size_h_px).unwrap_or(ORIGINAL_SIDE_H_PX);
        let written_side = match (self.limits.box_size, self.diameter, of_model.diameter_angstrom) {
            (Some(side), _, _) => WrittenSide::Pixels(side),
            (None, Some(diameter_angstrom), _) => WrittenSide::Asked { diameter_angstrom },
            (None, None, Some(diameter_angstrom)) => WrittenSide::OfModel { diameter_angstrom },
            (None, None, None) => WrittenSide::OfNetwork,
        };
        let cap = if self.no_candidates { limits.k } else { limits.k.saturating_mul(2).max(4000) };
        let read = ReadOptions {
            sections: match self.sections.as_str() {
                "first" => Sections::First,
                "refuse" => Sections::Refuse,
                _ => Sections::Mean,
            },
            mode0: match self.mode0.as_str() {
                "signed" => Mode0::Signed,
                "unsigned" => Mode0::Unsigned,
                _ => Mode0::Auto,
            },
            tiff_top_down: self.tiff_top_down,
        };
        Ok(Settings {
            limits,
            distance_sides: None,
            rule,
            // Chosen once the micrographs are known.
            scale: Scale::Fixed { frame: ORIGINAL_FRAME, by: ByWhom::ByDefault },
            side_n_px,
            written_side,
            read,
            floor: limits.vis_thresh.min(0.01),
            cap,
            facts: Default::default(),
            report: None,
        })
    }

    /// What gives the frames of these micrographs.
    fn scale(&self, model: &Model, batch: &Batch, settings: &Settings) -> Scale {
        let has_pixel_size = batch.jobs.first().is_some_and(|job| batch::pixel_size(job, settings).is_some());
        Scale::choose(self.frame, self.diameter.map(Diameter::Angstrom), model.facts(), has_pixel_size)
    }

    /// What picks must pass depends on whether the scale is that of the particles; the facts say what came of it.
    fn set_limits(&self, settings: &mut Settings, model: &Model) {
        if settings.scale.is_of_particles() {
            settings.limits = self.limits.limits(Limits { vis_thresh: threshold_of(model), ..LIMITS_OF_PARTICLES });
            let is_default = self.limits.min_distance.is_none() && settings.rule.kind == Kind::Particle;
            settings.distance_sides = is_default.then_some(DISTANCE_SIDES);
        }
        settings.facts = batch::facts(settings, model, self);
    }

    /// What the page of --report says above the micrographs.
    fn heading(&self, model: &Model, settings: &Settings, folder: &Path, micrographs: usize) -> Heading {
        let mode = settings.rule.kind.name();
        let about = format!("{micrographs} micrographs, mode {mode}, model {}, epicker {}", model.name(), env!("CARGO_PKG_VERSION"));
        let mut note =
            "Circles have the written size; blue is a low score, red a high one. The files change only by the command.".to_string();
        if settings.rule.kind == Kind::Fiber {
            note.push_str(" Circles are the points that fibers are traced through.");
        }
        if self.no_candidates {
            note.push_str(" This run kept no candidates (--no-candidates), so the command needs another run.");
        }
        let folder = folder.display().to_string();
        let command = ["epicker", "rethreshold", "--data", &folder, "--vis_thresh"].map(str::to_string).to_vec();
        Heading { about, note, command, threshold: Some(settings.limits.vis_thresh), ..Heading::default() }
    }

    /// Says what is about to happen, and what the user should know.
    fn tell(&self, model: &Model, settings: &Settings, batch: &Batch, chosen: &Chosen, progress: &Progress) {
        chosen.lines.iter().for_each(|line| progress.say(line));
        chosen.warnings.iter().for_each(|warning| progress.warn(warning));
        self.limits.warnings().iter().chain(&batch.warnings).for_each(|warning| progress.warn(warning));
        let kind = settings.rule.kind;
        if let Some(lost) = what_is_lost(kind, settings.rule.output_type) {
            progress.warn(&format!("{} files cannot hold {lost}", settings.rule.output_type.name()));
        }
        if let Some(of_model) = model.facts().mode.as_deref().filter(|of_model| *of_model != kind.name()) {
            progress.warn(&format!("--mode {}: the model was trained for {of_model}", kind.name()));
        }
        let device = match &chosen.device {
            Device::Cpu => "CPU".to_string(),
            Device::Gpu(gpu) => gpu.describe(),
        };
        let threshold = match (self.limits.vis_thresh, model.facts().threshold) {
            (None, Some(_)) => " (the model's own)",
            _ => "",
        };
        let (threads, vis_thresh) = (rayon::current_num_threads(), settings.limits.vis_thresh);
        let counts = format!("{} micrographs, {} done before", batch.jobs.len(), batch.skipped);
        progress.say(&format!(
            "model {}, mode {}, threshold {vis_thresh}{threshold}, fp32, {device}, {threads} threads; {counts}",
            model.name(),
            kind.name(),
        ));
        if batch.replaced > 0 {
            progress.say(&format!("{} outputs of an earlier run are replaced", batch.replaced));
        }
        let fields = json!({
            "micrographs": batch.jobs.len(),
            "skipped": batch.skipped,
            "model": model.name(),
            "sha256": model.sha256(),
            "mode": kind.name(),
            "threshold": vis_thresh,
            "precision": self.precision,
            "device": device,
            "threads": threads,
            "output": self.o.as_ref().unwrap_or(&self.output),
        });
        progress.event("start", fields);
    }
}
