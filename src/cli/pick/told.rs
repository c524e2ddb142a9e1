//! Who hears of a run of `epicker pick`: the terminal, a program that reads `--json`, and the record in the output folder.

use super::batch::Batch;
use super::{Asked, PickArgs};
use crate::cli::device::{Chosen, in_words};
use crate::cli::progress::Progress;
use crate::cli::settle::Voice;
use crate::formats::coordinates::Kind;
use crate::pick::output::{Helix, what_is_lost};
use crate::pick::run::{Found, Job, Seen, Told};
use crate::pick::seek_threshold::Threshold;
use crate::pick::settings::Settings;
use crate::words::{agreeing, counted};
use anyhow::Result;
use serde_json::json;
use std::collections::HashSet;
use std::path::PathBuf;

/// The progress of a run, and what is to be told at its end.
pub struct Teller {
    progress: Progress,
    is_fiber: bool,
    /// `--K`, the most peaks that are taken from a micrograph.
    k: usize,
    /// Outputs that were written.
    pub finished: HashSet<PathBuf>,
    /// Outputs of the micrographs that failed.
    pub failed: HashSet<PathBuf>,
    picks: usize,
    without_picks: usize,
    cut_by_k: usize,
    failures: Vec<String>,
    /// Width of the last micrograph's frame: why it has its width is told again only when it changes.
    frame_told: Option<usize>,
}

impl Told for Teller {
    fn finished(&mut self, job: &Job, seen: &Seen, found: &Found) {
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
        self.progress.step(name, &counted(found.picks, "pick"));
        self.picks += found.picks;
        self.without_picks += usize::from(found.picks == 0);
        self.cut_by_k += usize::from(found.is_cut_by_k);
        self.finished.insert(job.output.clone());
    }

    fn failed(&mut self, job: &Job, error: &anyhow::Error) {
        let message = format!("{error:#}");
        self.progress.error(&job.input.name, &message);
        self.progress.step(&job.input.name, "failed");
        self.failures.push(message);
        self.failed.insert(job.output.clone());
    }
}

impl Voice for Teller {
    fn say(&self, line: &str) {
        self.progress.say(line);
    }

    fn warn(&self, line: &str) {
        self.progress.warn(line);
    }
}

impl Teller {
    /// Begins to tell about a batch.
    pub fn new(args: &PickArgs, batch: &Batch) -> Self {
        let micrographs = batch.jobs.len();
        Teller {
            progress: Progress::new(micrographs, args.json),
            is_fiber: false,
            k: args.limits.k(),
            finished: HashSet::new(),
            failed: HashSet::new(),
            picks: 0,
            without_picks: 0,
            cut_by_k: 0,
            failures: Vec::new(),
            frame_told: None,
        }
    }

    /// Says what is about to happen, and what the user should know.
    pub fn beginning(&mut self, args: &PickArgs, asked: &Asked, batch: &Batch, chosen: &[Chosen]) {
        let (model, kind) = (asked.of_model.model, asked.of_model.kind);
        self.is_fiber = kind == Kind::Fiber;
        let progress = &self.progress;
        chosen.iter().flat_map(|chosen| &chosen.lines).for_each(|line| progress.say(line));
        chosen.iter().flat_map(|chosen| &chosen.warnings).for_each(|warning| progress.warn(warning));
        args.limits.warnings().iter().chain(&batch.warnings).for_each(|warning| progress.warn(warning));
        let keeps_path = matches!(asked.rule.helix, Helix::Segments(_)); // segments follow the bends of a fiber
        if let Some(lost) = what_is_lost(kind, asked.rule.output_type).filter(|_| !keeps_path) {
            progress.warn(&format!("{} files cannot hold {lost}", asked.rule.output_type.name()));
        }
        if let Some(of_model) = model.facts().mode.as_deref().filter(|of_model| *of_model != kind.name()) {
            progress.warn(&format!("--mode {kind}: the model was trained for {of_model}"));
        }
        let (device, precision) = (in_words(chosen), args.precision.name());
        let given = args.limits.vis_thresh;
        let known = given.and_then(Threshold::score).unwrap_or(asked.of_model.usual_threshold());
        let vis_thresh = asked.of_model.noise_share(given).is_none().then_some(known);
        let threshold = match (vis_thresh, given, model.facts().threshold) {
            (None, ..) => "to be sought".to_string(),
            (_, None, Some(_)) => format!("{known} (the model's own)"),
            _ => known.to_string(),
        };
        let threads = rayon::current_num_threads();
        let counts = format!("{}, {} done before", counted(batch.jobs.len(), "micrograph"), batch.skipped);
        progress.say(&format!(
            "model {}, mode {kind}, threshold {threshold}, {precision}, {device}, {}; {counts}",
            model.name(),
            counted(threads, "thread"),
        ));
        if batch.replaced > 0 {
            let (outputs, are) = (counted(batch.replaced, "output"), agreeing(batch.replaced, "is", "are"));
            progress.say(&format!("{outputs} of an earlier run {are} replaced"));
        }
        let fields = json!({
            "micrographs": batch.jobs.len(),
            "skipped": batch.skipped,
            "model": model.name(),
            "sha256": model.sha256(),
            "mode": kind.name(),
            "threshold": vis_thresh,
            "precision": precision,
            "device": device,
            "threads": threads,
            "output": batch.folder,
        });
        progress.event("start", fields);
    }

    /// Is called when the micrographs are done; everything that follows is told line by line. Returns how many micrographs were
    /// worked on, with the failures.
    pub fn micrographs_end(&self, settings: &Settings) -> usize {
        self.progress.finish();
        self.question(settings).iter().for_each(|question| self.progress.warn(question));
        self.finished.len() + self.failed.len()
    }

    /// What is suspicious about the numbers of picks. If the scale is wrong, it shows in most micrographs.
    fn question(&self, settings: &Settings) -> Option<String> {
        let all = self.finished.len();
        let is_most = |count: usize| all >= FEWEST_JUDGED && 2 * count > all;
        // If --K cuts off peaks, that may be the reason why no pick is left, because the best peaks can all lie at the border.
        // So it is told first.
        let what = match (is_most(self.cut_by_k), is_most(self.without_picks)) {
            (true, _) => format!("{} of {all} micrographs have as many peaks above the threshold as --K takes, {}", self.cut_by_k, self.k),
            (_, true) => format!("{} of {all} micrographs have no pick", self.without_picks),
            _ => return None,
        };
        let scale = match settings.scale.diameter() {
            Some(diameter) => format!("a diameter of {diameter}"),
            None => self.frame_told.map_or("the frame".to_string(), |frame| format!("a frame of {frame} pixels")),
        };
        Some(format!(
            "{what}: the scale may be wrong, which is that of {scale}; check --diameter (in angstrom, not in nm) and --angpix, look at a \
             picture (--visual), and if the scale is right give another --vis_thresh or model"
        ))
    }

    /// The result of something that belongs to no micrograph; an error is told, and counts as a failure.
    pub fn judge(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.progress.error("", &format!("{error:#}"));
            self.failures.push(format!("{error:#}"));
        }
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

/// Fewer micrographs than this say nothing about the scale: any one of them may be empty.
const FEWEST_JUDGED: usize = 3;
