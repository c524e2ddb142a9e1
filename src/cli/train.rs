//! `epicker train`: a network learns from labelled micrographs.
//!
//! The story: match micrographs and labels, part them, choose the weights to start with, train, save after every epoch,
//! judge on the test part, and with `--continual` keep exemplars for the next time.

mod args;
mod hooks;
mod parts;

use super::device;
use super::label_args::tell;
use super::status::{self, OrUsage, Usage};
use crate::compat::Fault;
use crate::eval::chart::pr_chart;
use crate::formats::coordinates::Kind;
use crate::formats::state_dict::{ModelFacts, StateDict};
use crate::io::model_source::ModelSource;
use crate::io::write::write_whole;
use crate::net::engine::DeviceEngine;
use crate::net::{Architecture, Model};
use crate::train::cache::ImageCache;
use crate::train::checkpoint::{self, Resumed, Terms};
use crate::train::data::{Data, TrainingImage};
use crate::train::exemplar::Exemplar;
use crate::train::labels::{self, Gathered, boxes_d, gather};
use crate::train::run::{End, Position, Replay, RunOptions, Schedule, run as train};
use crate::train::split::{Shares, Split, split};
use crate::train::{Continual, FeatureScale, Trainer, TrainingMemory};
use anyhow::{Context, Result, ensure};
pub use args::TrainArgs;
use hooks::TrainHooks;

/// The weights that a training starts with.
struct Start {
    state: StateDict,
    architecture: Architecture,
    resumed: Option<Resumed>,
    /// The model that was loaded, for continual learning.
    earlier: Option<StateDict>,
    facts: ModelFacts,
}

/// Runs the command; returns the exit status.
///
/// Errors: wrong usage or data that nothing can be learnt from, before any file is written; later a file that cannot be
/// read or written, or a loss that is no number.
pub fn run(args: &TrainArgs) -> Result<u8> {
    super::threads::start(args.threads)?;
    let say = |line: &str| if args.json { status::tell(line) } else { status::print(line) };
    let warn = |line: &str| status::tell(&format!("warning: {line}"));
    let (schedule, note) = Schedule::from_options(args.lr, args.lr_step.clone(), args.num_epochs).or_usage()?;
    note.iter().for_each(|note| say(note));
    let shares = Shares::from_options(args.train_pct, args.val_pct, args.test_pct).or_usage()?;
    let chosen = device::choose(args.gpus.as_ref(), args.conv)?;
    chosen.warnings.iter().for_each(|line| warn(line));
    chosen.lines.iter().for_each(|line| say(line));
    say(&format!("training on {}", chosen.device.describe()));

    let gathered = args.gather(&say).or_usage()?;
    let args = &match args.resumed().or_usage()? {
        Some(args) => args,
        None => args.settled(&gathered, &args.facts_before().or_usage()?, &say, &warn).or_usage()?,
    };
    let side_n = args.side_n().or_usage()?;
    let parts = split(gathered.labelled.len(), shares, args.seed);
    let boxes = parts::boxes(&gathered, &parts.train, |one| boxes_d(one, args.mode, args.frame(), args.side(), &args.compat)).or_usage()?;
    say(&format!("{} micrographs train, {} validate, {} test", parts.train.len(), parts.validation.len(), parts.test.len()));
    let start = args.start(&say).or_usage()?;
    let replay = args.replay(&start, &warn).or_usage()?;
    let options = args.trainer_options(side_n);
    let continual = args.continual_terms(&start, replay.is_some());
    let available = chosen.device.available_memory().unwrap_or(usize::MAX);
    let memory = TrainingMemory::check(start.architecture, &options, continual.is_some(), available).or_usage()?;
    say(&format!("{:.1} GiB of memory for the training", memory.total() as f64 / (1u64 << 30) as f64));

    std::fs::create_dir_all(args.exp_id.join("logs"))
        .with_context(|| format!("{}: the folder cannot be made; check the rights above it", args.exp_id.display()))
        .or_usage()?;
    let images = args.exp_id.join("images");
    let cache = || ImageCache::new(Some(images.clone()), (args.cache * 1e9) as u64, args.frame(), Default::default(), args.compat.clone());
    let data_options = args.data_options(side_n);
    let training_images =
        parts.train.iter().zip(boxes).map(|(&i, boxes)| TrainingImage { path: gathered.labelled[i].path.clone(), boxes }).collect();
    let data = Data::of_micrographs(training_images, cache()?, data_options);
    let replay = replay.map(|exemplar| Data::of_exemplars(exemplar, data_options));
    let replay_rule = args.replay_rule();
    if let Some(replay) = &replay {
        say(&match replay_rule {
            Replay::Mixed(count) => {
                let count = count.min(replay.len());
                format!("{} exemplars: {count} of the {} images of each step are of them", replay.len(), args.batch_size)
            }
            Replay::Apart => format!("{} exemplars, replayed after every eighth step, or once an epoch", replay.len()),
        });
    }

    let mut trainer = Trainer::new(DeviceEngine::<f32>::on(chosen.device.clone()), start.architecture, &start.state, options, continual)?;
    let (mut position, mut best) = (Position::default(), None);
    let terms = args.terms(&gathered, &parts, side_n);
    if let Some(resumed) = &start.resumed {
        trainer.set_adam(&resumed.adam)?;
        (position, best) = (resumed.position, resumed.best);
        say(&format!("going on after epoch {}, step {}", position.epoch, position.step));
        if resumed.terms.as_ref().is_some_and(|of_interrupted| *of_interrupted != terms) {
            warn("the options or the data are not those of the interrupted training, so the result is not that of an unbroken one");
        }
        if position.epoch >= schedule.epochs {
            warn(&format!("all {} epochs are done already; raise --num_epoch to train on", schedule.epochs));
        }
    }
    let stop = status::on_ctrl_c("saving after the step in hand")?;
    let judged = if parts.validation.is_empty() { &parts.test } else { &parts.validation };
    say(match (parts.validation.is_empty(), parts.test.is_empty()) {
        (false, _) => "the best model is chosen on the validation part",
        (true, false) => "there is no validation part, so the best model is chosen on the test part",
        (true, true) => "there is neither a validation nor a test part, so there is no best model and no AP curve",
    });
    let facts = args.facts(&start, &gathered, &parts);
    let mut hooks = TrainHooks::new(args, &chosen.device, &gathered, judged, cache()?, facts, terms, data.len())?;
    let run_options = RunOptions {
        batch: args.batch_size,
        schedule,
        most_steps: usize::try_from(args.num_iters).ok().filter(|&count| count > 0),
        replay: replay_rule,
    };
    let ended = train(&mut trainer, &data, replay.as_ref(), &run_options, position, best, &mut hooks, &stop);
    hooks.finish();
    chosen.keep().iter().for_each(|line| say(line));
    let ended = ended?;
    if ended == End::Stopped {
        say(&format!("stopped and saved; go on with --exp_id {} --resume", args.exp_id.display()));
        return Ok(status::INTERRUPTED);
    }
    let best = args.exp_id.join(format!("{}.safetensors", checkpoint::BEST_NAME));
    let last = args.exp_id.join(format!("{}.safetensors", checkpoint::LAST));
    let model = if best.is_file() && hooks.has_best() { best } else { last };
    if parts.test.is_empty() {
        say("there is no test part, so there is no evaluation at the end");
    } else {
        let report = hooks.evaluate_file(&model, &gathered, &parts.test)?;
        say(&format!("{} on the test part:", model.display()));
        say(report.text().trim_end());
        write_whole(&args.exp_id.join("eval.json"), format!("{:#}\n", report.json()).as_bytes())?;
        let chart = pr_chart([("test", &report)].into_iter(), None);
        write_whole(&args.exp_id.join("PR.svg"), chart.svg().as_bytes())?;
        write_whole(&args.exp_id.join("PR.png"), &chart.png()?)?;
    }
    if args.continual {
        parts::keep_exemplars(args, &gathered, &parts, &model, &cache()?, &say)?;
    }
    if !args.save_debug_files {
        cache()?.clear();
    }
    Ok(status::DONE)
}

/// What a model's history says of a training that began with no model.
const FROM_NOTHING: &str = "nothing";

impl Start {
    /// True if the interrupted training began with a new network, so that there is no earlier one.
    fn began_anew(&self) -> bool {
        self.facts.history.len() == 1 && self.facts.history[0].ends_with(&format!("from {FROM_NOTHING}"))
    }
}

impl TrainArgs {
    fn gather(&self, say: &impl Fn(&str)) -> Result<Gathered> {
        let mut options = labels::Options { skip_missing: self.skip_missing, pixel_size_angstrom: self.angpix, ..Default::default() };
        options.label.family = self.label_type;
        options.label.star.pixel_size_angstrom = self.angpix;
        options.label.kind = Some(self.mode).filter(|_| self.mode != Kind::Particle);
        let folder = self.data.parent().filter(|_| !self.data.is_dir()).unwrap_or(&self.data);
        let gathered = gather(&self.data, self.label.as_deref().unwrap_or(folder), &options)?;
        tell(&gathered, say);
        labels::refuse_without_labels(&gathered)?;
        Ok(gathered)
    }

    /// The same with the frame, the crops and the diameter of the interrupted training, where they are not given; none if
    /// there is no such training.
    fn resumed(&self) -> Result<Option<TrainArgs>> {
        let path = self.exp_id.join(format!("{}.pth", checkpoint::LAST));
        if !self.resume || !path.is_file() {
            return Ok(None);
        }
        let resumed = checkpoint::load(&path)?;
        let Some(terms) = resumed.terms else { return Ok(None) };
        let of_model = ModelFacts::from_metadata(&resumed.state.metadata)?;
        Ok(Some(TrainArgs {
            frame: self.frame.or(Some(terms.frame)),
            input_res: self.input_res.or(i64::try_from(terms.side_n).ok()),
            diameter: self.diameter.or(of_model.diameter_angstrom.filter(|_| self.particle_size.is_none())),
            ..self.clone()
        }))
    }

    /// What is said of the model that this training starts with.
    fn facts_before(&self) -> Result<ModelFacts> {
        let Some(source) = &self.load_model else { return Ok(ModelFacts::default()) };
        ModelFacts::from_metadata(&source.checkpoint(false)?.state.metadata).with_context(|| source.to_string())
    }

    fn start(&self, say: &impl Fn(&str)) -> Result<Start> {
        let loaded = self.load_model.as_ref().map(|source| source.checkpoint(false)).transpose()?.map(|found| found.state);
        let resumed = if self.resume {
            let path = self.exp_id.join(format!("{}.pth", checkpoint::LAST));
            ensure!(path.is_file(), "{}: cannot be found; expected the checkpoint to go on from; check --exp_id", path.display());
            Some(checkpoint::load(&path)?)
        } else {
            None
        };
        let name = self.load_model.as_ref().map(ModelSource::to_string).unwrap_or_default();
        if let Some(resumed) = resumed {
            let architecture = Model::from_state(&resumed.state, checkpoint::LAST.to_owned(), String::new())?.architecture();
            let facts = ModelFacts::from_metadata(&resumed.state.metadata)?;
            return Ok(Start { state: resumed.state.clone(), architecture, earlier: loaded, facts, resumed: Some(resumed) });
        }
        let Some(loaded) = loaded else {
            let architecture = self.architecture();
            say(&format!("a new network of widths {:?}, head {}", architecture.channels, architecture.head));
            let state = crate::net::fresh::state_dict(architecture, self.seed);
            return Ok(Start { state, architecture, resumed: None, earlier: None, facts: ModelFacts::default() });
        };
        // A whole model says its widths; what holds only a part goes into a new network of the width asked for.
        let whole = Model::from_state(&loaded, name.clone(), String::new());
        let architecture = whole.map_or_else(|_| self.architecture(), |model| model.architecture());
        let mut state = crate::net::fresh::state_dict(architecture, self.seed);
        parts::take_matching(&mut state, &loaded, &name, say)?;
        let facts = ModelFacts::from_metadata(&loaded.metadata)?;
        Ok(Start { state, architecture, resumed: None, earlier: Some(loaded), facts })
    }

    /// The exemplars to replay, if this training is to do so.
    fn replay(&self, start: &Start, warn: &impl Fn(&str)) -> Result<Option<Exemplar>> {
        if !self.continual {
            return Ok(None);
        }
        let folder = self.load_exemplar.display();
        if start.earlier.is_none() {
            if self.resume && !start.began_anew() {
                return Err(
                    Usage::because("--continual --resume: no --load_model; expected the model this training began with; give it").into()
                );
            }
            warn("--continual without --load_model: there is nothing to forget yet, so this only keeps exemplars");
            return Ok(None);
        }
        if !Exemplar::is_in(&self.load_exemplar) {
            warn(&format!("{folder}: no exemplars; fine-tuning, which may forget what the model knew"));
            return Ok(None);
        }
        let exemplar = Exemplar::read(&self.load_exemplar)?;
        exemplar.check_mode(self.mode.name())?;
        if exemplar.entries.is_empty() {
            warn(&format!("{folder}: the exemplar folder is empty; fine-tuning"));
            return Ok(None);
        }
        if self.replay_rule() == Replay::Apart && exemplar.entries.len() < self.batch_size {
            warn(&format!("{folder}: {} exemplars, fewer than a batch; they are replayed in steps of as many", exemplar.entries.len()));
        }
        let others = exemplar.entries.iter().filter(|entry| entry.size[1] != self.frame()).count();
        if others > 0 {
            warn(&format!(
                "{folder}: {others} pictures are not {} wide as this training's; they are resampled, which costs detail",
                self.frame()
            ));
        }
        Ok(Some(exemplar))
    }

    fn continual_terms(&self, start: &Start, has_exemplars: bool) -> Option<Continual> {
        let only_particles = self.compat.has(Fault::DistillParticle) && self.mode != Kind::Particle;
        let earlier = start.earlier.clone().filter(|_| has_exemplars && !only_particles)?;
        let feature_scale = if self.compat.has(Fault::DistillSize) { FeatureScale::Original } else { FeatureScale::Actual };
        Some(Continual {
            batch_statistics: self.compat.has(Fault::TeacherBn),
            feature_scale,
            feature_weight: self.feature_weight,
            pull_weight: self.pull_weight,
            ..Continual::new(earlier)
        })
    }

    /// What a resumed training must have in common with the interrupted one.
    fn terms(&self, gathered: &Gathered, parts: &Split, side_n: usize) -> Terms {
        let stems: Vec<&str> = parts.train.iter().map(|&i| gathered.labelled[i].stem.as_str()).collect();
        let text = format!("{:?} {:?} {side_n} {stems:?}", self.data_options(side_n), self.trainer_options(side_n));
        let mut rates = format!("{} {:?} {}", self.lr, self.lr_step, self.num_iters);
        if self.continual {
            rates.push_str(&format!(" {:?} {} {}", self.replay_rule(), self.feature_weight, self.pull_weight));
        }
        let fingerprint = crate::formats::model_file::sha256(format!("{text} {rates}").as_bytes());
        Terms { fingerprint, frame: self.frame(), side_n }
    }

    fn facts(&self, start: &Start, gathered: &Gathered, parts: &Split) -> ModelFacts {
        let labels: usize = parts.train.iter().map(|&i| gathered.labelled[i].coordinates.points.len()).sum();
        let mut history = start.facts.history.clone();
        if start.resumed.is_none() || history.is_empty() {
            let from = self.load_model.as_ref().map_or(FROM_NOTHING.to_owned(), |source| source.sha256().unwrap_or_default());
            history.push(format!(
                "epicker {}: mode {}, {} micrographs, {labels} labels, seed {}, from {from}",
                env!("CARGO_PKG_VERSION"),
                self.mode.name(),
                parts.train.len(),
                self.seed
            ));
        }
        ModelFacts {
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            mode: Some(self.mode.name().to_owned()),
            channels: Some(start.architecture.channels.to_vec()),
            head_width: Some(start.architecture.head),
            particle_size_h_px: parts::side_h_px(self.side(), gathered, self.frame()),
            normalisation: Some(match self.compat.has(Fault::TrainNorm) {
                true => [0.508145, 0.288813],
                false => [0.502256, 0.289417],
            }),
            diameter_angstrom: self.diameter,
            frame: (self.diameter.is_none() && self.particle_size.is_none()).then_some(self.frame()),
            threshold: None,
            history,
        }
    }
}
