//! `epicker train`: a network learns from labelled micrographs.
//!
//! The story: settle what will be done and say it, read every micrograph once, train and save after every epoch, say how good the
//! result is, judge it on the test part, and with `--continual` keep exemplars for the next time.

mod args;
mod curves;
mod folder;
mod forecast;
mod hooks;
mod nodes;
mod parts;
mod relion;
mod settings;
mod start;
mod verdict;

use super::device::{self, Chosen};
use super::interrupt;
use super::relion::stop_flag;
use super::status::{self, OrUsage, Usage};
use crate::device::Collective;
use crate::doctor::Way;
use crate::eval::chart::pr_chart;
use crate::formats::state_dict::StateDict;
use crate::io::write::write_whole;
use crate::ops::{Compute, Precision};
use crate::pick::relion::RelionJob;
use crate::train::cache::ImageCache;
use crate::train::checkpoint;
use crate::train::data::Data;
use crate::train::run::{End, EpochReport, Hooks, Score, Snapshot, Standing, StepReport, run as train};
use crate::train::schedule::Replay;
use crate::train::split::Split;
use anyhow::Result;
pub use args::TrainArgs;
use hooks::TrainHooks;
use parts::{Readable, keep_exemplars, read_all};
use settings::Settings;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use verdict::Verdict;

/// Runs the command; returns the exit status.
///
/// Errors: wrong usage or data that nothing can be learnt from, before any file is written; later a file that cannot be
/// written, or a loss that is no number.
pub fn run(args: &TrainArgs) -> Result<u8> {
    let (args, job) = args.of_relion();
    let stop = stop_flag("saving after the step in hand", job.as_ref());
    if let Some(job) = &job {
        job.begin().or_usage()?;
    }
    let trained = run_job(&args, &stop, &|| job.as_ref().is_some_and(RelionJob::is_to_stop));
    if let Some(job) = &job {
        // RELION waits for the mark; without one it would take the job for a running one for ever.
        match &trained {
            Ok(trained) => relion::end(job, Some(&trained.model), trained.is_stopped)?,
            Err(_) => relion::end(job, None, false)?,
        }
    }
    trained.map(|trained| trained.status)
}

/// What a training came to.
struct Trained {
    status: u8,
    model: PathBuf,
    is_stopped: bool,
}

fn run_job(args: &TrainArgs, stop: &AtomicBool, is_to_stop: &dyn Fn() -> bool) -> Result<Trained> {
    super::threads::start(args.threads)?;
    let chosen = device::choose_every(Precision::F32, args.gpus.as_ref(), args.conv, Way::Train)?;
    let devices: Vec<Compute> = chosen.iter().map(|chosen| chosen.compute.clone()).collect();
    let settings = Settings::settle(args, &devices).or_usage()?;
    let processes = args.processes(&devices)?;
    let is_first = processes.as_ref().is_none_or(|processes| processes.rank() == 0);
    let mut said = Said { is_json: args.json, is_silent: !is_first, lines: Vec::new() };
    let (planned, note) = settings.run_options(settings.training.len(), settings.judged(&settings.parts).len());
    let seconds = settings.seconds_of_a_step(&devices, processes.as_ref())?;
    said.line(&settings.headline(&planned.schedule, settings.judged(&settings.parts).len(), seconds));
    said.line(&format!("training on {}", device::in_words(&chosen)));
    chosen.iter().flat_map(|chosen| &chosen.lines).chain(&settings.lines).chain(&note).for_each(|line| said.line(line));
    chosen.iter().flat_map(|chosen| &chosen.warnings).chain(&settings.warnings).for_each(|line| said.warning(line));

    if is_first {
        settings.make_folder(args.overwrite)?;
    }
    // The others keep images of their own, because they may come to a micrograph at the same time.
    let rank = processes.as_ref().map_or(0, |processes| processes.rank());
    let images = Some(settings.folder.join(if is_first { "images".to_owned() } else { format!("images-{rank}") }));
    let cache =
        ImageCache::new(images, (args.cache * 1e9) as u64, settings.frame, Default::default(), settings.ground, args.compat.clone())?;
    let cache = || anyhow::Ok(cache.clone());
    let Readable { parts, training, left_out, warnings } = read_all(&settings, &cache()?)?;
    warnings.iter().for_each(|line| said.warning(line));
    left_out.iter().for_each(|line| said.warning(&format!("{line}; left out")));
    let judged = settings.judged(&parts);
    let (options, _) = settings.run_options(training.len(), judged.len());
    said.parts(&settings, &parts, judged.len())?;

    let data = Data::of_micrographs(training, cache()?, settings.data);
    let replay = settings.exemplars.clone().map(|exemplar| Data::of_exemplars(exemplar, settings.data));
    said.replay(&settings, replay.as_ref());
    let mut trainer = settings.trainers(&devices, processes.as_ref())?;
    trainer.how_joined().into_iter().for_each(|line| said.line(line));
    let terms = settings.terms(&parts, &options.schedule);
    let mut standing = Standing::default();
    if let Some(resumed) = &settings.start.resumed {
        trainer.set_adam(&resumed.adam)?;
        standing = resumed.standing;
        said.resumed(&standing, resumed.terms.as_ref().is_none_or(|of_interrupted| of_interrupted.fingerprint == terms.fingerprint));
        if standing.position.epoch >= options.schedule.epochs {
            said.warning(&format!("all {} epochs are done already; raise --num_epoch or --steps to train on", options.schedule.epochs));
        }
    }
    if !is_first {
        // The first process judges, saves and tells.
        let ended = train(&mut trainer, &data, replay.as_ref(), &options, standing, &mut Silent, stop);
        cache()?.clear();
        let (end, standing) = ended?;
        let is_stopped = end == End::Stopped;
        return Ok(Trained {
            status: if is_stopped { interrupt::status() } else { status::DONE },
            model: settings.result(&standing),
            is_stopped,
        });
    }
    let mut hooks =
        TrainHooks::new(&settings, args, &devices[0], cache()?, &judged, (settings.facts(&parts), terms, options.schedule.clone()))?;
    hooks.stops_if((is_to_stop, stop));
    said.lines.iter().try_for_each(|line| hooks.note(line))?;
    let ended = train(&mut trainer, &data, replay.as_ref(), &options, standing, &mut hooks, stop);
    hooks.finish();
    chosen.iter().flat_map(Chosen::keep).try_for_each(|line| hooks.say(&line))?;
    let (end, standing) = ended?;
    if end == End::Stopped {
        hooks.say(&format!("stopped and saved; go on with --exp_id {} --resume", settings.folder.display()))?;
        let model = settings.folder.join(format!("{}.safetensors", checkpoint::LAST));
        return Ok(Trained { status: interrupt::status(), model, is_stopped: true });
    }
    let verdict = Verdict::of(&standing, hooks.last_score());
    verdict.lines().iter().try_for_each(|line| hooks.say(line))?;
    hooks.event("end", verdict.json())?;
    let model = settings.result(&standing);
    judge_at_the_end(&settings, &parts, &model, &verdict, &mut hooks)?;
    if args.continual {
        keep_exemplars(args, &settings, &parts, &model, &cache()?, &|line: &str| said.line_only(line))?;
    }
    if !args.save_debug_files {
        cache()?.clear();
    }
    if !left_out.is_empty() {
        hooks.say(&format!("warning: {} micrographs could not be read and were left out:", left_out.len()))?;
        left_out.iter().try_for_each(|line| hooks.say(&format!("warning:   {line}")))?;
    }
    let status = if left_out.is_empty() && verdict.is_of_use() { status::DONE } else { status::FAILED };
    Ok(Trained { status, model, is_stopped: false })
}

/// Judges the resulting model on the test part.
///
/// Errors: the model or a micrograph cannot be read, or a file cannot be written.
fn judge_at_the_end(settings: &Settings, parts: &Split, model: &std::path::Path, verdict: &Verdict, hooks: &mut TrainHooks) -> Result<()> {
    if parts.test.is_empty() {
        return hooks.say("there is no test part, so there is no evaluation at the end");
    }
    let report = hooks.evaluate_file(model, &parts.test)?;
    hooks.say(&format!("{} on the test part:", model.display()))?;
    hooks.say(report.text().trim_end())?;
    if parts.validation.is_empty() {
        hooks
            .say("the test part also chose the best epoch, so these numbers are a little too good; --val_pct keeps micrographs for that")?;
    }
    let mut json = report.json();
    json["verdict"] = verdict.json();
    write_whole(&settings.folder.join("eval.json"), format!("{json:#}\n").as_bytes())?;
    let chart = pr_chart([("test", &report)].into_iter(), None);
    write_whole(&settings.folder.join("PR.svg"), chart.svg().as_bytes())
}

impl Settings {
    /// The model file that counts: the best model, or the last one if none was saved as the best.
    fn result(&self, standing: &Standing) -> PathBuf {
        let file = |name: &str| self.folder.join(format!("{name}.safetensors"));
        Some(file(checkpoint::BEST_NAME)).filter(|best| standing.best.is_some() && best.is_file()).unwrap_or(file(checkpoint::LAST))
    }
}

impl TrainArgs {
    /// What joins this process with the others of `--team`, once they are here.
    ///
    /// Errors: wrong usage, or they do not come.
    fn processes(&self, devices: &[Compute]) -> Result<Option<Arc<dyn Collective>>> {
        let Some(place) = self.team.as_ref().filter(|place| place.size > 1) else { return Ok(None) };
        if devices.len() != 1 {
            return Err(Usage::because("--team: each process trains on one device; expected --gpus with one number, or none").into());
        }
        place.join(&self.exp_id).map(Some).or_usage()
    }
}

/// Tells nothing, judges nothing and saves nothing: another process does.
struct Silent;

impl Hooks for Silent {
    fn start(&mut self, _: &Score) -> Result<()> {
        Ok(())
    }

    fn step(&mut self, _: &StepReport) {}

    fn epoch(&mut self, _: &EpochReport) -> Result<()> {
        Ok(())
    }

    fn validate(&mut self, _: &StateDict) -> Result<Option<Score>> {
        Ok(None)
    }

    fn save(&mut self, _: &Snapshot) -> Result<()> {
        Ok(())
    }
}

/// The lines that are said before the log is open. They go into it later.
struct Said {
    is_json: bool,
    /// Another process says them.
    is_silent: bool,
    lines: Vec<String>,
}

impl Said {
    fn line(&mut self, line: &str) {
        self.line_only(line);
        self.lines.push(line.to_owned());
    }

    fn line_only(&self, line: &str) {
        if !self.is_silent {
            status::say(line, self.is_json)
        }
    }

    fn warning(&mut self, line: &str) {
        let line = format!("warning: {line}");
        if !self.is_silent {
            status::tell(&line);
        }
        self.lines.push(line);
    }

    /// Says which micrographs are in which part, and what the parts are for.
    fn parts(&mut self, settings: &Settings, parts: &Split, judged: usize) -> Result<()> {
        let [train, validation, test] = [&parts.train, &parts.validation, &parts.test].map(Vec::len);
        self.line(&format!("{train} micrographs train, {validation} validate, {test} test"));
        if !self.is_silent {
            settings.write_parts(parts)?.iter().for_each(|line| self.line(line));
        }
        let of_part = match (validation > 0, test > 0) {
            (true, _) => "the best model is chosen on the validation part",
            (false, true) => "there is no validation part, so the best model is chosen on the test part",
            (false, false) => "there is neither a validation nor a test part, so there is no best model and no AP curve",
        };
        let all = if validation > 0 { validation } else { test };
        self.line(&if judged < all { format!("{of_part}, of which {judged} micrographs are judged") } else { of_part.to_owned() });
        Ok(())
    }

    fn replay(&mut self, settings: &Settings, replay: Option<&Data>) {
        let Some(replay) = replay else { return };
        self.line(&match settings.replay {
            Replay::Mixed(_) => {
                let count = settings.replay.in_each_step(replay.len(), settings.batch);
                format!("{} exemplars: {count} of the {} images of each step are of them", replay.len(), settings.batch)
            }
            Replay::Apart => format!("{} exemplars, replayed after every eighth step, or once an epoch", replay.len()),
        });
    }

    fn resumed(&mut self, standing: &Standing, is_as_before: bool) {
        let position = standing.position;
        self.line(&format!("going on after epoch {}, step {}", position.epoch, position.step));
        if !is_as_before {
            self.warning("the options or the data are not those of the interrupted training, so the result is not that of an unbroken one");
        }
    }
}
