//! The work around a training: the progress bar, the logs, judging and saving.

use super::args::TrainArgs;
use super::curves::{self, Epoch};
use super::forecast::duration;
use super::settings::Settings;
use crate::cli::status;
use crate::eval::report::{Item, Report, Settings as ReportSettings, SizeSource, evaluate};
use crate::eval::with_model::{ModelPicks, Options};
use crate::formats::coordinates::Kind;
use crate::formats::state_dict::{ModelFacts, StateDict};
use crate::io::model_source::ModelSource;
use crate::io::write::write_whole;
use crate::net::Model;
use crate::ops::{Compute, heat_map};
use crate::train::cache::ImageCache;
use crate::train::checkpoint::{self, BEST_NAME, LAST, Terms};
use crate::train::labels::{Labelled, ORIGINAL_SIDE_H_PX};
use crate::train::run::{EpochReport, Hooks, Score, Snapshot, StepReport};
use crate::train::schedule::Schedule;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Tells, judges and saves.
pub(super) struct TrainHooks<'a> {
    settings: &'a Settings,
    is_json: bool,
    saves_all: bool,
    compute: Compute,
    judged: Vec<Labelled>,
    cache: ImageCache,
    facts: ModelFacts,
    terms: Terms,
    schedule: Schedule,
    bar: Option<ProgressBar>,
    log: File,
    lines: File,
    curve: Vec<Epoch>,
    threshold: Option<f64>,
    /// The last score.
    last: Option<Score>,
    epoch: u32,
    epoch_begun: Instant,
    images_seen: usize,
    /// Asked after each step whether the training is to stop, and the flag that stops it.
    stops_if: Option<(&'a dyn Fn() -> bool, &'a AtomicBool)>,
}

const JSON_LOG: &str = "log.jsonl";
/// Most picks of a micrograph that are judged.
const MOST_PICKS: usize = 4000;

impl<'a> TrainHooks<'a> {
    /// Opens the logs; a resumed training goes on with those that are there. `judged` are the micrographs on which the network is
    /// judged while it learns, as indices.
    ///
    /// Errors: a log cannot be opened.
    pub(super) fn new(
        settings: &'a Settings,
        args: &TrainArgs,
        compute: &Compute,
        cache: ImageCache,
        judged: &[usize],
        (facts, terms, schedule): (ModelFacts, Terms, Schedule),
    ) -> Result<Self> {
        let logs = settings.folder.join("logs");
        let open = |name: &str| {
            let path = logs.join(name);
            let file = if args.resume { at_line_start(&path) } else { File::create(&path) };
            file.with_context(|| format!("{}: cannot be written; check the folder's rights", path.display()))
        };
        let curve = if args.resume { curves::earlier(&logs.join(JSON_LOG)) } else { Vec::new() };
        let (log, lines) = (open("log.txt")?, open(JSON_LOG)?);
        write_whole(&settings.folder.join("opt.txt"), format!("{args:#?}\n").as_bytes())?;
        let bar = (!args.json && !status::is_quiet() && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(schedule.steps() as u64), ProgressDrawTarget::stderr());
            let shape = "{prefix} {bar:24} {pos}/{len} steps, {eta} left  {msg}";
            bar.with_style(ProgressStyle::with_template(shape).unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Ok(TrainHooks {
            settings,
            is_json: args.json,
            saves_all: args.save_all,
            compute: compute.clone(),
            judged: judged.iter().map(|&i| settings.gathered.labelled[i].clone()).collect(),
            cache,
            facts,
            terms,
            schedule,
            bar,
            log,
            lines,
            curve,
            threshold: None,
            last: None,
            epoch: 0,
            epoch_begun: Instant::now(),
            images_seen: 0,
            stops_if: None,
        })
    }

    /// From now on the training stops when the question is answered with yes: by the flag that a signal sets.
    pub(super) fn stops_if(&mut self, question_and_flag: (&'a dyn Fn() -> bool, &'a AtomicBool)) {
        self.stops_if = Some(question_and_flag);
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// The score of the last epoch that was judged.
    pub(super) fn last_score(&self) -> Option<Score> {
        self.last
    }

    /// Judges a model file on some of the micrographs.
    ///
    /// Errors: a file cannot be read, or the network fails.
    pub(super) fn evaluate_file(&self, model: &Path, part: &[usize]) -> Result<Report> {
        let labelled: Vec<Labelled> = part.iter().map(|&i| self.settings.gathered.labelled[i].clone()).collect();
        self.evaluate(&ModelSource::file(model).load(Model::from_state)?, &labelled, 1000)
    }

    fn evaluate(&self, model: &Model, labelled: &[Labelled], bootstrap: usize) -> Result<Report> {
        let kind = self.settings.kind;
        let side_h_px = self.facts.particle_size_h_px.unwrap_or(ORIGINAL_SIDE_H_PX);
        let options = Options {
            k: MOST_PICKS,
            kind,
            fiber_threshold: 0.2, // as in the original's fiber examples; a new network has no threshold of its own
            side_n_px: heat_map::STRIDE as f64 * side_h_px,
            distance_sides: self.settings.distance_sides,
            compat: self.settings.compat.clone(),
        };
        let mut picker = ModelPicks::new(&self.compute, model, options);
        let mut items = Vec::with_capacity(labelled.len());
        for one in labelled {
            let image = self.cache.get(&one.path, &mut Vec::new())?;
            let mut picks = picker.picks(&image, one.size)?;
            let mut labels = one.coordinates.clone();
            one.leave_out_areas(&mut labels);
            one.leave_out_areas(&mut picks);
            labels.kind = kind;
            if kind != Kind::Vesicle {
                labels.points.iter_mut().for_each(|point| point.size = None); // all particles have the size that was trained
            }
            if kind == Kind::Fiber && labels.points.iter().any(|point| point.group.is_none()) {
                labels.kind = Kind::Particle;
            }
            items.push(Item {
                stem: one.stem.clone(),
                size: Some(one.size),
                pixel_size_angstrom: one.pixel_size_angstrom,
                frame: Some(self.settings.frame),
                labels,
                picks,
            });
        }
        let size = SizeSource {
            diameter_angstrom: self.settings.diameter_angstrom.filter(|_| labelled.iter().all(|one| one.pixel_size_angstrom.is_some())),
            model_side_h_px: Some(side_h_px),
            own_first: kind == Kind::Vesicle,
            ..SizeSource::default()
        };
        let shipped_threshold = Some(model.facts().threshold.unwrap_or(0.0) as f32);
        evaluate(&items, &ReportSettings { size, shipped_threshold, bootstrap, seed: self.settings.seed, ..ReportSettings::default() })
    }

    /// Says a line, and keeps it in the log. Warnings go to standard error, as those of every command do.
    ///
    /// Errors: the log cannot be written.
    pub(super) fn say(&mut self, line: &str) -> Result<()> {
        self.note(line)?;
        let print = || if line.starts_with("warning: ") { status::tell(line) } else { status::say(line, self.is_json) };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
        Ok(())
    }

    /// Keeps a line in the log that was said before.
    ///
    /// Errors: the log cannot be written.
    pub(super) fn note(&mut self, line: &str) -> Result<()> {
        writeln!(self.log, "{line}").context("log.txt: cannot be written; check the free space")
    }

    /// Keeps an event in the log for programs, and prints it with `--json`.
    ///
    /// Errors: the log cannot be written.
    pub(super) fn event(&mut self, event: &str, fields: Value) -> Result<()> {
        let mut object = json!({ "event": event });
        if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
            object.extend(fields);
        }
        writeln!(self.lines, "{object}").with_context(|| format!("{JSON_LOG}: cannot be written; check the free space"))?;
        if self.is_json {
            status::print_json(&object);
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.settings.folder.join(format!("{name}.pth"))
    }
}

/// A log to go on with. A training that was killed while it wrote leaves half a line, which is ended first, so that the next
/// line stands for itself.
fn at_line_start(path: &Path) -> std::io::Result<File> {
    let mut file = File::options().append(true).read(true).create(true).open(path)?;
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(-1)).is_ok() {
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// Words that stand beside the number of a score.
fn remark(score: &Score, is_best: bool) -> String {
    match (is_best, score.is_better_than_random()) {
        (true, _) => " (best)".to_owned(),
        (false, true) => String::new(),
        (false, false) => format!(" (no better than random picks, which reach {:.4})", score.random),
    }
}

impl Hooks for TrainHooks<'_> {
    fn start(&mut self, score: &Score) -> Result<()> {
        self.say(&format!("epoch 0: the model that the training starts with, AP {:.4}{}", score.value, remark(score, false)))?;
        let is_best = score.is_better_than_random();
        self.curve.push(Epoch { number: 0.0, loss: None, score: Some(score.value), is_best });
        self.event("start", json!({ "epoch": 0, "validation": score.value, "random": score.random, "is_best": is_best }))
    }

    fn step(&mut self, report: &StepReport) {
        if let Some((is_to_stop, flag)) = self.stops_if
            && is_to_stop()
        {
            flag.store(true, Ordering::Relaxed);
        }
        let losses = &report.losses;
        let message = format!("loss {:.4} (heat map {:.4}, offset {:.4})", losses.total, losses.heat_map, losses.offset);
        if !report.replay {
            // The clock starts when the first step of an epoch is done, so that one does not count.
            if self.epoch != report.epoch {
                (self.epoch, self.epoch_begun, self.images_seen) = (report.epoch, Instant::now(), 0);
            } else {
                self.images_seen += report.images;
            }
        }
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(format!("epoch {}", report.epoch));
                bar.set_position(((report.epoch as usize - 1) * self.schedule.epoch_steps + report.step) as u64);
                bar.set_message(message);
            }
            None if report.step == report.steps || report.step.is_multiple_of(20) => {
                let rate = self.images_seen as f64 / self.epoch_begun.elapsed().as_secs_f64().max(1e-9);
                let step = format!("epoch {}, step {} of {}", report.epoch, report.step, report.steps);
                status::say(&format!("{step}: {message}, {rate:.2} images a second"), true);
            }
            None => {}
        }
        let fields = json!({
            "epoch": report.epoch, "step": report.step, "steps": report.steps, "images": report.images, "replay": report.replay,
            "loss": losses.total, "heat_map": losses.heat_map, "offset": losses.offset, "size": losses.size, "exemplar": losses.exemplar,
        });
        // A log that cannot be written shows at the end of the epoch.
        let _ = self.event("step", fields);
    }

    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        let losses = &report.losses;
        let mut line =
            format!("epoch {}: loss {:.4} (heat map {:.4}, offset {:.4}", report.epoch, losses.total, losses.heat_map, losses.offset);
        if losses.size != 0.0 {
            line.push_str(&format!(", size {:.4}", losses.size));
        }
        line.push(')');
        if let Some(replay) = report.replay_loss {
            line.push_str(&format!(", replay {replay:.4}"));
        }
        if let Some(score) = &report.validation {
            line.push_str(&format!(", AP {:.4}{}", score.value, remark(score, report.is_best)));
        }
        line.push_str(&format!(
            ", lr {:.1e}, {:.2} images a second, {} left",
            report.learning_rate,
            report.images_per_second,
            duration(report.seconds_left)
        ));
        self.say(&line)?;
        let value = report.validation.map(|score| score.value);
        self.event(
            "epoch",
            json!({
                "epoch": report.epoch, "loss": losses.total, "heat_map": losses.heat_map, "offset": losses.offset, "size": losses.size,
                "replay": report.replay_loss, "learning_rate": report.learning_rate, "validation": value,
                "random": report.validation.map(|score| score.random), "is_best": report.is_best,
                "images_per_second": report.images_per_second, "seconds": report.seconds, "seconds_left": report.seconds_left,
            }),
        )?;
        let number = f64::from(report.epoch);
        self.curve.push(Epoch { number, loss: Some(losses.total), score: value, is_best: report.is_best });
        curves::draw(&self.settings.folder, &self.curve, &self.schedule)
    }

    fn validate(&mut self, state: &StateDict) -> Result<Option<Score>> {
        if self.judged.is_empty() {
            return Ok(None);
        }
        let mut state = state.clone();
        self.facts.write_to(&mut state.metadata);
        let model = Model::from_state(&state, "the network in training".to_owned(), String::new())?;
        let report = self.evaluate(&model, &self.judged, 0)?;
        self.threshold = report.best.map(|(_, threshold)| f64::from(threshold));
        self.last = match (report.ap, report.lengths) {
            (Some(value), _) => Some(Score { value, random: report.random[0] }),
            // Picks at random places are not fibers, so they have no length in common with fibers.
            (None, Some(lengths)) => Some(Score { value: lengths.f1(), random: 0.0 }),
            (None, None) => None,
        };
        Ok(self.last)
    }

    fn save(&mut self, snapshot: &Snapshot) -> Result<()> {
        let mut facts = self.facts.clone();
        facts.threshold = self.threshold;
        // The last model knows the best score, so it comes after the best model: a training that is killed between the two
        // repeats the epoch, instead of going on with a best score that no file has.
        if snapshot.is_best {
            checkpoint::save(&self.settings.folder, BEST_NAME, snapshot, &facts, &self.terms)?;
        }
        checkpoint::save(&self.settings.folder, LAST, snapshot, &facts, &self.terms)?;
        let position = snapshot.standing.position;
        if self.saves_all && position.step == 0 && position.epoch > 0 && position.epoch.is_multiple_of(5) {
            let path = self.path(LAST);
            let bytes = std::fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
            write_whole(&self.path(&format!("model_{}", position.epoch)), &bytes)?;
        }
        Ok(())
    }
}
