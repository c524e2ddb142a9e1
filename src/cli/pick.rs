//! `epicker pick`: find particles, vesicles or fibers in micrographs.

mod batch; // which micrographs, and where their files go
mod told; //  who hears of the run
mod watch; // a folder that grows

use super::device::{self, Chosen};
use super::interrupt;
use super::limits::{LimitArgs, default_rule, limits_at};
use super::record::Record;
use super::relion::{self, RelionArgs};
use super::settle::{self, Voice};
use super::status::{self, OrUsage, Usage};
use super::{threads, values};
use crate::doctor::Way;
use crate::doctor::compute::Conv;
use crate::formats::coordinates::Kind;
use crate::formats::image::{Mode0, ReadOptions, Sections};
use crate::io::lists::{self, Listed};
use crate::io::model_source::ModelSource;
use crate::io::shard::Shard;
use crate::net::{Model, Views};
use crate::ops::{Precision, heat_map};
use crate::pick::filter::Limits;
use crate::pick::folder::{Covered, write_covering};
use crate::pick::output::{OutputRule, OutputType};
use crate::pick::relion::{Ending, RelionJob};
use crate::pick::report::{self, Heading};
use crate::pick::run::{self, Source};
use crate::pick::settings::{ModelName, Settings, WrittenSide};
use crate::pick::workers::Workers;
use crate::preprocess::ground::Ground;
use crate::preprocess::scale::{Diameter, Scale};
use crate::train::labels::ORIGINAL_SIDE_H_PX;
use crate::words::counted;
use anyhow::{Context, Result, anyhow};
use batch::Batch;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use told::Teller;

/// The command line of `epicker pick`.
#[derive(Debug, clap::Args)]
pub struct PickArgs {
    /// Micrographs, as --data takes them
    #[arg(value_name = "MICROGRAPHS", conflicts_with = "in_mics")]
    micrographs: Vec<PathBuf>,
    /// Micrographs: files, folders (their .mrc files), or lists ending in .thi or .star
    #[arg(long = "data", value_name = "PATH", num_args = 1.., conflicts_with = "in_mics")]
    data: Vec<PathBuf>,
    /// Model: a .pth or .safetensors, or the general model particle, vesicle or fiber [default: the general model of --mode]
    #[arg(long = "load_model", value_name = "MODEL")]
    load_model: Option<ModelSource>,
    /// What to look for: particle, vesicle or fiber [default: the model's own, else particle]
    #[arg(long = "mode", value_name = "MODE")]
    mode: Option<Kind>,
    /// Output folder, made if it is not there
    #[arg(long = "output", short = 'o', value_name = "FOLDER", default_value = "./output")]
    output: PathBuf,
    #[command(flatten)]
    watch: watch::WatchArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Write a picture of each micrograph with its picks, NAME.png in the output folder
    #[arg(long = "visual")]
    visual: bool,
    /// Write one page to look at, report.html in the output folder: all micrographs of the folder with their picks, and a threshold
    /// to move
    #[arg(long = "report")]
    report: bool,
    /// GPUs, such as 0 or 0,1, which share the micrographs; all for every GPU, or -1 for the CPU [default: the first GPU, the CPU
    /// where there is none]
    #[arg(long = "gpus", value_name = "IDS", value_parser = values::devices, allow_hyphen_values = true)]
    gpus: Option<values::Devices>,
    /// Who computes convolutions on a GPU: auto (cuDNN where there is one that computes what it should), cudnn or native
    #[arg(long = "conv", value_name = "WHO", default_value = "auto")]
    conv: Conv,
    /// What numbers products are multiplied in: fp32, tf32 or fp16. On the CPU the last two round every map and weight, to show what
    /// that costs, and save no time
    #[arg(long = "precision", value_name = "NAME", default_value = "fp32", value_parser = values::precision)]
    precision: Precision,
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
    /// Views of each micrograph whose heat maps are averaged: 1, 2 (and turned by half a turn) or 4 (and mirrored); each takes the
    /// network's time once more [default: the model's, else 1]
    #[arg(long = "average", value_name = "VIEWS", value_parser = values::views)]
    average: Option<Views>,
    /// Threads; the result is the same for every number [default: all cores]
    #[arg(long = "threads", value_name = "COUNT", value_parser = values::count)]
    threads: Option<usize>,
    /// Pick only a share of the micrographs: K/N, such as 2/4, or slurm, which asks the job array or srun. Which share a micrograph
    /// belongs to follows from its name alone
    #[arg(long = "shard", value_name = "SHARE", value_parser = values::shard)]
    shard: Option<Shard>,
    /// Go on with a batch: leave micrographs alone whose output is there, complete, and made as this run would make it
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
    #[command(flatten)]
    relion: RelionArgs,
}

/// Runs the command; returns the exit status.
///
/// Errors: wrong usage, before any file is written.
pub fn run(args: PickArgs) -> Result<u8> {
    let relion = args.relion_job()?;
    let stop = relion::stop_flag("finishing the micrograph in hand", relion.as_ref());
    if let Some(folder) = args.watch.watch.clone() {
        return watch::watch(args, &folder, &stop);
    }
    if let Some(job) = &relion {
        job.begin().or_usage()?;
    }
    let result = pick(&args, relion.as_ref(), &stop);
    // RELION waits for the mark; without one it would take the job for a running one for ever.
    if let (Err(_), Some(job)) = (&result, &relion) {
        job.end(Ending::Failure)?;
    }
    result
}

fn pick(args: &PickArgs, relion: Option<&RelionJob>, stop: &AtomicBool) -> Result<u8> {
    threads::start(args.threads.or(args.relion.j))?;
    let model = args.model().load(Model::from_state).context("--load_model").or_usage()?;
    let asked = args.asked(&model, relion.is_some()).or_usage()?;
    let batch = Batch::find(args, &asked, relion).or_usage()?;
    let chosen = device::choose_every(args.precision, args.gpus.as_ref(), args.conv, Way::Pick)?;
    let workers = Workers::new(&device::named(&chosen), &model, asked.rule.kind == Kind::Vesicle, asked.cap).or_usage()?;
    let mut workers = workers.averaging(asked.of_model.views());
    let looking = batch.looking(&asked);
    let given = asked.of_model.scale_given(looking, &mut workers).or_usage()?;
    batch.make_folder().or_usage()?;

    let mut told = Teller::new(args, &batch);
    told.beginning(args, &asked, &batch, &chosen);
    let settings = settled(args, &asked, given, &batch, &mut workers, &told)?;
    batch.refuse_mixture(&settings).or_usage()?;
    told.judge(write_record(&settings, &batch));
    let is_stopped = || stop.load(Ordering::Relaxed) || relion.is_some_and(RelionJob::is_to_stop);
    let all_begun = run::run(Source::list(&batch.jobs, &is_stopped), &mut workers, &settings, &mut told);

    let is_lost = all_begun.is_err();
    let stopped = told.micrographs_end(&settings) < batch.jobs.len() && !is_lost;
    told.judge(all_begun.map_err(|error| anyhow!("{error:#}; with --skip-done, what is finished is left alone")));
    workers.take_losses().iter().for_each(|loss| told.warn(loss));
    chosen.iter().flat_map(Chosen::keep).for_each(|line| told.say(&line));
    let look = || batch.covered(&told.finished, &told.failed, &settings);
    let written = write_covering(look, |covered| write_lists(covered, &settings, relion, &batch.folder));
    told.judge(written);
    if args.report {
        told.judge(write_report(args, &settings, &batch, &told));
    }
    let nothing_failed = told.end(batch.skipped);
    if let Some(job) = relion {
        let has_output = told.finished.len() + batch.skipped > 0 || batch.jobs.is_empty();
        job.end(Ending::of(stopped, has_output && !is_lost))?;
    }
    Ok(match (stopped, nothing_failed) {
        (true, _) => interrupt::status(),
        (false, true) => status::DONE,
        (false, false) => status::FAILED,
    })
}

/// The settings of a run: its scale and its threshold are those that are given, kept or, where nobody knows them, sought.
fn settled(args: &PickArgs, asked: &Asked, given: Scale, batch: &Batch, workers: &mut Workers, told: &Teller) -> Result<Settings> {
    let looking = batch.looking(asked);
    let scale = asked.of_model.scale(given, looking, workers, told)?;
    let threshold = asked.of_model.threshold(args.limits.vis_thresh, &scale, looking, workers, told)?;
    Ok(args.settings(asked, (scale, threshold), batch))
}

/// Writes the lists of all micrographs that have an output in the folder.
fn write_lists(covered: &[Covered], settings: &Settings, relion: Option<&RelionJob>, folder: &Path) -> Result<()> {
    let listed: Vec<Listed> = covered.iter().map(|covered| covered.listed.clone()).collect();
    if let Some(job) = relion {
        return job.write_lists(&listed, settings.rule.writes_start_end());
    }
    lists::write_lists(folder, &listed, settings.rule.output_type == OutputType::Star)
}

/// Writes the page of all micrographs of the folder that have a part of it.
fn write_report(args: &PickArgs, settings: &Settings, batch: &Batch, told: &Teller) -> Result<()> {
    let path = batch.folder.join("report.html");
    let look = || batch.covered(&told.finished, &told.failed, settings);
    write_covering(look, |covered| {
        let (with, without): (Vec<_>, Vec<_>) = covered.iter().partition(|covered| covered.entry.is_file());
        let parts = with.iter().map(|covered| covered.part());
        report::write(&path, &heading(args, settings, &batch.folder, with.len()), false, parts)?;
        if !without.is_empty() {
            let (was, is) = if without.len() == 1 { ("was", "is") } else { ("were", "are") };
            let count = counted(without.len(), "micrograph");
            told.say(&format!("{count} of the folder {was} picked without --report, and {is} not on the page"));
        }
        Ok(())
    })?;
    told.say(&format!("a page to look at: {}", path.display()));
    Ok(())
}

/// What the page of `--report` says above the micrographs.
fn heading(args: &PickArgs, settings: &Settings, folder: &Path, micrographs: usize) -> Heading {
    let mut heading = Heading::of_picks(folder, settings.rule.kind, &settings.model.name, settings.limits.vis_thresh, micrographs);
    if args.no_candidates {
        heading.note.push_str(" This run kept no candidates (--no-candidates), so the command needs another run.");
    }
    heading
}

/// Leaves a record of this run in the folder: its command line, and what was settled.
fn write_record(settings: &Settings, batch: &Batch) -> Result<()> {
    let Settings { limits, in_angstrom, rule, .. } = settings;
    let length = |pixels: f64, angstrom: Option<f64>| match angstrom {
        Some(angstrom) => format!("{angstrom} angstrom"),
        None => format!("{pixels} pixels of the 1024-wide image"),
    };
    let least = match settings.distance_sides {
        Some(sides) => format!("{sides} boxes"),
        None => length(limits.min_distance, in_angstrom.min_distance),
    };
    let mut record = Record::new();
    record.add("model", format!("{}, SHA-256 {}", settings.model.name, settings.model.sha256));
    record.add("micrographs", format!("{} to pick, {} done before", batch.jobs.len(), batch.skipped));
    record.add("mode", rule.kind);
    record.add("scale", settings.scale);
    record.add("average", settings.views.count());
    record.add("K", limits.k);
    record.add("threshold", limits.vis_thresh);
    record.add("edge", length(limits.edge, in_angstrom.edge));
    record.add("least distance", least);
    record.add("border box", format!("{} network pixels", settings.side_n_px));
    record.add("output type", rule.output_type.name());
    record.add("faults repeated", if rule.compat.names().is_empty() { "none".to_string() } else { rule.compat.names() });
    record.write(&batch.folder.join("runs"))
}

/// What the command line and the model say of the run, before any micrograph has been looked at.
struct Asked<'a> {
    /// What is looked for, and what is known of its size.
    of_model: settle::Asked<'a>,
    /// How picks are written.
    rule: OutputRule,
    /// Side of the constant box, network pixels.
    side_n_px: f64,
    /// Side of the boxes that are written.
    written_side: WrittenSide,
    /// How micrographs are read.
    read: ReadOptions,
    /// The most peaks that the network is asked for.
    cap: usize,
}

impl PickArgs {
    /// The model that is asked for. Without --load_model it is the general model of the mode.
    fn model(&self) -> ModelSource {
        let general = || ModelSource::General(self.mode.unwrap_or_default().name());
        self.load_model.clone().unwrap_or_else(general)
    }

    fn relion_job(&self) -> Result<Option<RelionJob>> {
        let job = self.relion.job();
        if job.is_some() && self.limits.output_type.is_some_and(|kind| kind != OutputType::Star) {
            return Err(Usage::because("--output_type: RELION reads star only; leave it out").into());
        }
        Ok(job)
    }

    fn asked<'a>(&self, model: &'a Model, is_relion: bool) -> Result<Asked<'a>> {
        let kind = settle::kind(self.mode, model)?.unwrap_or_default();
        let of_model =
            settle::Asked { model, kind, frame: self.frame, diameter: self.diameter.map(Diameter::Angstrom), views: self.average };
        let facts = model.facts();
        let base = default_rule(kind);
        let k = self.limits.k();
        Ok(Asked {
            of_model,
            rule: self
                .limits
                .rule(kind, &OutputRule { output_type: if is_relion { OutputType::Star } else { base.output_type }, ..base })?,
            side_n_px: heat_map::STRIDE as f64 * self.particle_size.or(facts.particle_size_h_px).unwrap_or(ORIGINAL_SIDE_H_PX),
            written_side: match (self.limits.box_size, self.diameter, facts.diameter_angstrom) {
                (Some(side), _, _) => WrittenSide::Pixels(side),
                (None, Some(diameter_angstrom), _) => WrittenSide::Asked { diameter_angstrom },
                (None, None, Some(diameter_angstrom)) => WrittenSide::OfModel { diameter_angstrom },
                (None, None, None) => WrittenSide::OfNetwork,
            },
            read: self.read_options(),
            cap: if self.no_candidates { k } else { k.saturating_mul(2).max(4000) },
        })
    }

    fn read_options(&self) -> ReadOptions {
        ReadOptions {
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
        }
    }

    /// The settings of the run, which nothing changes afterwards.
    fn settings(&self, asked: &Asked, (scale, threshold): (Scale, f32), batch: &Batch) -> Settings {
        let limits = self.limits.limits(Limits { vis_thresh: threshold, ..limits_at(&scale) });
        let model = asked.of_model.model;
        Settings {
            limits,
            in_angstrom: self.limits.in_angstrom(),
            distance_sides: asked.of_model.distance_sides(&scale).filter(|_| self.limits.min_distance.is_none()),
            suffix: self.limits.suffix.clone().unwrap_or_default(),
            scale,
            side_n_px: asked.side_n_px,
            written_side: asked.written_side,
            read: asked.read,
            ground: Ground::wanted_by(model.facts()),
            views: asked.of_model.views(),
            floor: limits.vis_thresh.min(0.01),
            cap: asked.cap,
            model: ModelName { name: model.name().to_string(), sha256: model.sha256().to_string() },
            is_shown: self.visual || self.report,
            report: self.report.then_some(batch.jobs.len()),
            rule: asked.rule.clone(),
        }
    }
}
