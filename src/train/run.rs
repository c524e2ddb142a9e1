//! The training itself: epochs of steps, replay of exemplars, and when to save.
//!
//! What is drawn depends on seed, epoch and image alone, and a checkpoint holds weights, statistics, Adam's moments and
//! the place where the training stood; so a training that was interrupted, even within an epoch, goes on bit by bit as
//! one that was not.

use super::data::{Batch, Data};
use super::step::{Losses, Trainer};
use super::targets::Targets;
use crate::ahead::ahead;
use crate::device::cpu::within_pool;
use crate::formats::pth::Adam;
use crate::formats::state_dict::{StateDict, Values};
use crate::net::engine::Engine;
use anyhow::{Result, bail, ensure};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A network that learns.
pub trait Learner {
    /// One step: losses, gradients, Adam.
    ///
    /// Shapes: `images` (n, h, w), one channel; n is the length of `exemplar`.
    /// Errors: the batch does not fit, or the device fails.
    fn step(&mut self, images: &[f32], targets: &Targets, exemplar: &[bool], learning_rate: f64) -> Result<Losses>;

    /// The network as it is.
    ///
    /// Errors: the device fails.
    fn state_dict(&self) -> Result<StateDict>;

    /// What the optimiser remembers.
    ///
    /// Errors: the device fails.
    fn adam(&self, learning_rate: f64) -> Result<Adam>;
}

impl<E: Engine + Send> Learner for Trainer<E> {
    fn step(&mut self, images: &[f32], targets: &Targets, exemplar: &[bool], learning_rate: f64) -> Result<Losses> {
        within_pool(|| Trainer::step(self, images, targets, exemplar, learning_rate))
    }

    fn state_dict(&self) -> Result<StateDict> {
        Trainer::state_dict(self)
    }

    fn adam(&self, learning_rate: f64) -> Result<Adam> {
        Trainer::adam(self, learning_rate)
    }
}

fn add_losses(sum: &mut Losses, losses: &Losses, weight: f64) {
    sum.total += weight * losses.total;
    sum.heat_map += weight * losses.heat_map;
    sum.offset += weight * losses.offset;
    sum.size += weight * losses.size;
    sum.exemplar += weight * losses.exemplar;
}

fn named(losses: &Losses) -> [(&'static str, f64); 5] {
    [
        ("total", losses.total),
        ("heat map", losses.heat_map),
        ("offset", losses.offset),
        ("size", losses.size),
        ("exemplar", losses.exemplar),
    ]
}

/// How fast it learns, and how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Adam's step in the first epochs.
    pub learning_rate: f64,
    /// After each of these epochs the step is a tenth.
    pub drops: Vec<u32>,
    /// Epochs in all.
    pub epochs: u32,
}

/// The guide's epochs and drops.
const EPOCHS: u32 = 140;
const DROPS: [u32; 2] = [70, 90];

impl Schedule {
    /// The schedule that options mean: the guide's 140 epochs with drops after 70 and 90. Where only the number of
    /// epochs is given, the drops move with it, and a line says so.
    ///
    /// Errors: drops that do not increase.
    pub fn from_options(learning_rate: f64, drops: Option<Vec<u32>>, epochs: Option<u32>) -> Result<(Schedule, Option<String>)> {
        let epochs_now = epochs.unwrap_or(EPOCHS);
        let (drops, note) = match drops {
            Some(drops) => {
                ensure!(drops.windows(2).all(|pair| pair[0] < pair[1]), "--lr_step {drops:?}: expected epochs in ascending order");
                (drops, None)
            }
            None if epochs_now == EPOCHS => (DROPS.to_vec(), None),
            None => {
                let scaled = |drop: u32| ((u64::from(drop) * u64::from(epochs_now) + u64::from(EPOCHS) / 2) / u64::from(EPOCHS)) as u32;
                let mut drops: Vec<u32> = DROPS.map(|drop| scaled(drop).max(1)).to_vec();
                drops.dedup();
                let told: Vec<String> = drops.iter().map(u32::to_string).collect();
                let note = format!("learning rate drops after epoch {} (70 and 90 of 140, scaled with --num_epoch)", told.join(" and "));
                (drops, Some(note))
            }
        };
        Ok((Schedule { learning_rate, drops, epochs: epochs_now }, note))
    }

    /// The learning rate within an epoch, counted from 1.
    pub fn rate(&self, epoch: u32) -> f64 {
        let passed = self.drops.iter().filter(|drop| **drop < epoch).count();
        self.learning_rate * 0.1f64.powi(passed as i32)
    }
}

/// Where a training stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Epochs done.
    pub epoch: u32,
    /// Steps done of the next one.
    pub step: usize,
}

/// How a training runs.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// Most images of a step.
    pub batch: usize,
    /// Learning rates and epochs.
    pub schedule: Schedule,
    /// Most steps of an epoch.
    pub most_steps: Option<usize>,
    /// When exemplars are replayed, where there are any.
    pub replay: Replay,
}

/// When the exemplars of earlier data sets are replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Replay {
    /// As the original does: in steps of their own, all of them after every eighth step.
    #[default]
    Apart,
    /// In every step: so many of its images are exemplars, and come first.
    Mixed(usize),
}

impl Replay {
    /// Every step shares its images between new ones and exemplars: at least one of each. Steps of one image cannot, and
    /// replay apart.
    pub fn of_share(share: f64, batch: usize) -> Self {
        match batch {
            0 | 1 => Replay::Apart,
            _ => Replay::Mixed(((share * batch as f64).round() as usize).clamp(1, batch - 1)),
        }
    }
}

/// A step, told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The epoch, from 1.
    pub epoch: u32,
    /// The step within it, from 1.
    pub step: usize,
    /// Steps of the epoch.
    pub steps: usize,
    /// Images of the step.
    pub images: usize,
    /// How many of them are exemplars.
    pub exemplars: usize,
    /// Its losses.
    pub losses: Losses,
    /// True for a step of the replay.
    pub replay: bool,
}

/// An epoch, told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochReport {
    /// The epoch, from 1.
    pub epoch: u32,
    /// Means of its losses over images, those of the replay left out.
    pub losses: Losses,
    /// Mean of the total over the images of the replay.
    pub replay_loss: Option<f64>,
    /// Learning rate.
    pub learning_rate: f64,
    /// Score on the validation part, if there is one.
    pub validation: Option<f64>,
    /// True if no epoch before had a better score.
    pub is_best: bool,
    /// Images a second.
    pub images_per_second: f64,
    /// Seconds it took.
    pub seconds: f64,
}

/// What is to be saved.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The network.
    pub state: StateDict,
    /// The optimiser.
    pub adam: Adam,
    /// Where the training stands.
    pub position: Position,
    /// The best score so far.
    pub best: Option<f64>,
    /// True if this is the network of the best score.
    pub is_best: bool,
}

/// What surrounds a training: telling, judging, saving.
pub trait Hooks {
    /// A step is done.
    fn step(&mut self, report: &StepReport);

    /// An epoch is done.
    ///
    /// Errors: a log cannot be written.
    fn epoch(&mut self, report: &EpochReport) -> Result<()>;

    /// The score of the network on the validation part; `None` without one.
    ///
    /// Errors: an image cannot be read, or the network fails.
    fn validate(&mut self, state: &StateDict) -> Result<Option<f64>>;

    /// Saves, whole or not at all.
    ///
    /// Errors: a file cannot be written.
    fn save(&mut self, snapshot: &Snapshot) -> Result<()>;
}

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All epochs are done.
    Done,
    /// It was asked to stop, and saved.
    Stopped,
}

/// After so many steps the exemplars are replayed; epochs of no more steps replay them after the first.
const REPLAY_EVERY: usize = 8;

/// Trains from `start` to the last epoch. `stop` ends it after the step in hand. `best` is the best score before.
///
/// Errors: an image cannot be read, a loss is no number (the last checkpoint stays as it was), or saving fails.
pub fn run(
    learner: &mut dyn Learner,
    data: &Data,
    replay: Option<&Data>,
    options: &RunOptions,
    start: Position,
    mut best: Option<f64>,
    hooks: &mut dyn Hooks,
    stop: &AtomicBool,
) -> Result<End> {
    ensure!(!data.is_empty(), "no image to train on; expected at least one with labels; check --data and --train_pct");
    let replay = replay.filter(|replay| !replay.is_empty());
    let mut first = start.step;
    for epoch in start.epoch + 1..=options.schedule.epochs {
        let learning_rate = options.schedule.rate(epoch);
        let begun = Instant::now();
        let work = epoch_work(data, replay, options, epoch, first);
        let mut sums = Sums::default();
        let stopped = with_batches(&work, data, replay, epoch, |work, batch| {
            let exemplar: Vec<bool> = (0..batch.n).map(|i| i < work.exemplars.len()).collect();
            let losses = learner.step(&batch.images, &batch.targets, &exemplar, learning_rate)?;
            let report = StepReport {
                epoch,
                step: work.step + 1,
                steps: work.steps,
                images: batch.n,
                exemplars: work.exemplars.len(),
                losses,
                replay: work.images.is_empty(),
            };
            refuse_nan(&report, learner)?;
            sums.add(&report);
            hooks.step(&report);
            Ok(work.is_last_of_step && stop.load(Ordering::Relaxed))
        })?;
        if let Some(step) = stopped {
            let is_whole = step + 1 == work.last().map_or(0, |work| work.steps);
            if !is_whole {
                let position = Position { epoch: epoch - 1, step: step + 1 };
                let (state, adam) = (learner.state_dict()?, learner.adam(learning_rate)?);
                hooks.save(&Snapshot { state, adam, position, best, is_best: false })?;
                return Ok(End::Stopped);
            }
        }
        first = 0;
        let seconds = begun.elapsed().as_secs_f64();
        let state = learner.state_dict()?;
        let validation = hooks.validate(&state)?;
        let is_best = validation.is_some_and(|score| best.is_none_or(|best| score > best));
        if is_best {
            best = validation;
        }
        let report = EpochReport {
            epoch,
            losses: sums.mean(),
            replay_loss: sums.replay_mean(),
            learning_rate,
            validation,
            is_best,
            images_per_second: sums.images / seconds.max(1e-9),
            seconds,
        };
        hooks.epoch(&report)?;
        let position = Position { epoch, step: 0 };
        hooks.save(&Snapshot { state, adam: learner.adam(learning_rate)?, position, best, is_best })?;
        if stop.load(Ordering::Relaxed) && epoch < options.schedule.epochs {
            return Ok(End::Stopped);
        }
    }
    Ok(End::Done)
}

/// One call of the network.
#[derive(Default)]
struct Work {
    /// The step of the epoch that it belongs to, from 0; a replay belongs to the step before it.
    step: usize,
    /// Steps of the epoch.
    steps: usize,
    /// The new images.
    images: Vec<usize>,
    /// The exemplars, which come first.
    exemplars: Vec<usize>,
    /// Tells several samples of one exemplar within an epoch apart.
    pass: u64,
    /// A training may stop only here, so that a replay is never cut in two.
    is_last_of_step: bool,
}

fn epoch_work(data: &Data, replay: Option<&Data>, options: &RunOptions, epoch: u32, first: usize) -> Vec<Work> {
    let mixed = match (replay, options.replay) {
        (Some(replay), Replay::Mixed(count)) => Some((replay, count.min(replay.len()).min(options.batch.saturating_sub(1)))),
        _ => None,
    };
    let mut steps = data.steps(u64::from(epoch), 0, options.batch - mixed.map_or(0, |(_, count)| count));
    steps.truncate(options.most_steps.unwrap_or(usize::MAX).max(1));
    let count = steps.len();
    let mut all = Vec::new();
    let mut drawn = mixed.map(|(replay, count)| drawn_exemplars(replay, count, u64::from(epoch)));
    for (step, images) in steps.into_iter().enumerate() {
        let pass = step as u64 + 1;
        let exemplars = drawn.as_mut().and_then(Iterator::next).unwrap_or_default();
        all.push(Work { step, steps: count, images, exemplars, pass, is_last_of_step: true });
        let is_replayed = if count > REPLAY_EVERY { (step + 1) % REPLAY_EVERY == 0 } else { step == 0 };
        let Some(replay) = replay.filter(|_| is_replayed && mixed.is_none()) else { continue };
        if let Some(last) = all.last_mut() {
            last.is_last_of_step = false;
        }
        for exemplars in replay.steps(u64::from(epoch), pass, options.batch.min(replay.len())) {
            all.push(Work { step, steps: count, exemplars, pass, ..Work::default() });
        }
        if let Some(last) = all.last_mut() {
            last.is_last_of_step = true;
        }
    }
    all.retain(|work| work.step >= first);
    all
}

/// `count` exemplars for each step of an epoch: all in random order, then all again in another.
fn drawn_exemplars(replay: &Data, count: usize, epoch: u64) -> impl Iterator<Item = Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    let mut round = 0;
    std::iter::from_fn(move || {
        while order.len() < count {
            round += 1;
            order.extend(replay.steps(epoch, round, replay.len()).into_iter().flatten());
        }
        Some(order.drain(..count).collect())
    })
}

/// Calls `each` with every piece of work and its batch, the next batch being made meanwhile; ends early where it says
/// so and returns the step.
fn with_batches(
    work: &[Work],
    data: &Data,
    replay: Option<&Data>,
    epoch: u32,
    mut each: impl FnMut(&Work, &Batch) -> Result<bool>,
) -> Result<Option<usize>> {
    let make = |one: &Work| -> Result<Batch> {
        let exemplars = match replay {
            Some(replay) => replay.batch(&one.exemplars, u64::from(epoch), one.pass)?,
            None => Batch::default(),
        };
        Ok(exemplars.followed_by(data.batch(&one.images, u64::from(epoch), 0)?))
    };
    let stopped = ahead(
        work,
        |one| make(one),
        |one, batch| match batch.and_then(|batch| each(one, &batch)) {
            Ok(false) => ControlFlow::Continue(()),
            Ok(true) => ControlFlow::Break(Ok(one.step)),
            Err(error) => ControlFlow::Break(Err(error)),
        },
    );
    stopped.transpose()
}

/// Errors: a loss is no number. The message names the step, what is broken, and what to try.
fn refuse_nan(report: &StepReport, learner: &dyn Learner) -> Result<()> {
    let broken = named(&report.losses).into_iter().find(|(_, value)| !value.is_finite());
    let Some((name, value)) = broken else { return Ok(()) };
    let state = learner.state_dict()?;
    let has_nan = |values: &Values| match values {
        Values::F64(values) => values.iter().any(|value| !value.is_finite()),
        _ => values.to_f32().iter().any(|value| !value.is_finite()),
    };
    let tensor = state.tensors.iter().find(|tensor| has_nan(&tensor.values)).map_or("no tensor yet", |tensor| tensor.name.as_str());
    bail!(
        "epoch {}, step {} of {}: the {name} loss is {value}, first broken tensor: {tensor}; expected numbers; \
         try a smaller --lr, look at the labels with epicker check, and go on from the last checkpoint with --resume",
        report.epoch,
        report.step,
        report.steps
    );
}

#[derive(Default)]
struct Sums {
    losses: Losses,
    images: f64,
    counted: f64,
    replay: [f64; 2],
}

impl Sums {
    fn add(&mut self, report: &StepReport) {
        let images = report.images as f64;
        self.images += images;
        if report.replay {
            self.replay = [self.replay[0] + images * report.losses.total, self.replay[1] + images];
        } else {
            add_losses(&mut self.losses, &report.losses, images);
            self.counted += images;
        }
    }

    fn mean(&self) -> Losses {
        let mut mean = Losses::default();
        add_losses(&mut mean, &self.losses, 1.0 / self.counted.max(1.0));
        mean
    }

    fn replay_mean(&self) -> Option<f64> {
        (self.replay[1] > 0.0).then(|| self.replay[0] / self.replay[1])
    }
}
