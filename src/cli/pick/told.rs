//! Who hears of a run of `epicker pick`: the terminal, a program that reads `--json`, and the page of `--report`.

use super::batch::Batch;
use super::{Asked, PickArgs};
use crate::cli::device::Chosen;
use crate::cli::progress::Progress;
use crate::device::Device;
use crate::formats::coordinates::Kind;
use crate::pick::output::what_is_lost;
use crate::pick::report::{Entry, Heading};
use crate::pick::run::{Found, Job, Seen, Told};
use crate::pick::settings::Settings;
use anyhow::Result;
use serde_json::json;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The progress of a run, and what is to be told at its end.
pub struct Teller {
    progress: Progress,
    is_fiber: bool,
    /// Output files that were written.
    pub finished: HashSet<PathBuf>,
    /// Parts of the page of `--report`.
    pub entries: Vec<Entry>,
    picks: usize,
    failures: Vec<String>,
    /// Width of the last micrograph's frame: why it has its width is told again only when it changes.
    frame_told: Option<usize>,
}

impl Told for Teller {
    fn finished(&mut self, job: &Job, seen: &Seen, found: Found) {
        let (ready, name) = (&seen.ready, &job.input.name);
        if self.frame_told.replace(ready.frame()) != Some(ready.frame()) {
            ready.reason.iter().for_each(|reason| self.progress.say(&format!("{reason} ({name})")));
        }
        ready.warnings.iter().for_each(|warning| self.progress.warn(warning));
        let fields = json!({
            "micrograph": name,
            "output": job.output,
            "frame": ready.frame(),
            "picks": found.picks,
            "fibers": self.is_fiber.then_some(found.fibers),
            "seconds": { "read": ready.seconds, "network": seen.network_seconds, "write": found.write_seconds },
        });
        self.progress.event("image", fields);
        self.progress.step(name, &format!("{} picks", found.picks));
        self.picks += found.picks;
        self.finished.insert(job.output.clone());
        self.entries.extend(found.entry);
    }

    fn failed(&mut self, job: &Job, error: &anyhow::Error) {
        let message = format!("{error:#}");
        self.progress.error(&job.input.name, &message);
        self.progress.step(&job.input.name, "failed");
        self.failures.push(message);
    }
}

impl Teller {
    /// Tells of so many micrographs, as plain text or as JSON.
    pub fn new(micrographs: usize, kind: Kind, json: bool) -> Self {
        Teller {
            progress: Progress::new(micrographs, json),
            is_fiber: kind == Kind::Fiber,
            finished: HashSet::new(),
            entries: Vec::new(),
            picks: 0,
            failures: Vec::new(),
            frame_told: None,
        }
    }

    /// A line of plain text.
    pub fn say(&self, line: &str) {
        self.progress.say(line);
    }

    /// Says what is about to happen, and what the user should know.
    pub fn beginning(&self, args: &PickArgs, asked: &Asked, batch: &Batch, chosen: &Chosen) {
        let progress = &self.progress;
        chosen.lines.iter().for_each(|line| progress.say(line));
        chosen.warnings.iter().for_each(|warning| progress.warn(warning));
        args.limits.warnings().iter().chain(&batch.warnings).for_each(|warning| progress.warn(warning));
        let (model, kind) = (asked.of_model.model, asked.of_model.kind);
        if let Some(lost) = what_is_lost(kind, asked.rule.output_type) {
            progress.warn(&format!("{} files cannot hold {lost}", asked.rule.output_type.name()));
        }
        if let Some(of_model) = model.facts().mode.as_deref().filter(|of_model| *of_model != kind.name()) {
            progress.warn(&format!("--mode {kind}: the model was trained for {of_model}"));
        }
        let device = match &chosen.device {
            Device::Cpu => "CPU".to_string(),
            Device::Gpu(gpu) => gpu.describe(),
        };
        let threshold = match (args.limits.vis_thresh, model.facts().threshold) {
            (None, Some(_)) => " (the model's own)",
            _ => "",
        };
        let (threads, vis_thresh) = (rayon::current_num_threads(), args.limits.vis_thresh.unwrap_or(asked.of_model.threshold()));
        let counts = format!("{} micrographs, {} done before", batch.jobs.len(), batch.skipped);
        progress.say(&format!(
            "model {}, mode {kind}, threshold {vis_thresh}{threshold}, fp32, {device}, {threads} threads; {counts}",
            model.name(),
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
            "precision": args.precision,
            "device": device,
            "threads": threads,
            "output": args.o.as_ref().unwrap_or(&args.output),
        });
        progress.event("start", fields);
    }

    /// How many micrographs were worked on, whether they failed or not.
    pub fn count(&self) -> usize {
        self.finished.len() + self.failures.len()
    }

    /// The result of something that belongs to no micrograph; an error is told, and counts as a failure.
    pub fn judge(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.progress.error("", &format!("{error:#}"));
            self.failures.push(format!("{error:#}"));
        }
    }

    /// The micrographs are done; what follows is told line by line.
    pub fn finish_bar(&self) {
        self.progress.finish();
    }

    /// The last word. True if nothing failed.
    pub fn end(&self, skipped: usize) -> bool {
        self.progress.summary(self.finished.len(), self.picks, self.failures.len(), skipped);
        if self.failures.len() > 1 {
            self.progress.warn(&format!("{} failures:", self.failures.len()));
            self.failures.iter().for_each(|message| self.progress.warn(&format!("  {message}")));
        }
        self.failures.is_empty()
    }
}

/// What the page of `--report` says above the micrographs.
pub fn heading(args: &PickArgs, settings: &Settings, folder: &Path, micrographs: usize) -> Heading {
    let (kind, model) = (settings.rule.kind, &settings.model.name);
    let about = format!("{micrographs} micrographs, mode {kind}, model {model}, epicker {}", env!("CARGO_PKG_VERSION"));
    let mut note = "Circles have the written size; blue is a low score, red a high one. The files change only by the command.".to_string();
    if kind == Kind::Fiber {
        note.push_str(" Circles are the points that fibers are traced through.");
    }
    if args.no_candidates {
        note.push_str(" This run kept no candidates (--no-candidates), so the command needs another run.");
    }
    let folder = folder.display().to_string();
    let command = ["epicker", "rethreshold", "--data", &folder, "--vis_thresh"].map(str::to_string).to_vec();
    Heading { about, note, command, threshold: Some(settings.limits.vis_thresh), ..Heading::default() }
}
