//! The training itself: epochs of steps, replay of exemplars, and when to save.
//!
//! Everything that is drawn depends on the seed, the epoch and the image alone, and a checkpoint holds the weights, the
//! statistics, Adam's moments and the place where the training stood. So a training that was interrupted, even within an epoch,
//! goes on with the same bits as one that was not.

use super::data::{Batch, Data};
use super::schedule::{Fall, Replay, Schedule, Work, work_of_epoch};
use super::step::{Losses, Trainer};
use super::targets::Targets;
use crate::ahead::ahead;
use crate::device::cpu::within_pool;
use crate::formats::pth::Adam;
use crate::formats::state_dict::{StateDict, Values};
use crate::ops::Real;
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

    /// Whether the training ends now: where several processes train together, they agree on it. `asked`: this one is to stop.
    ///
    /// Errors: another process has failed.
    fn ends_now(&mut self, asked: bool) -> Result<bool> {
        Ok(asked)
    }

    /// The network as it is.
    ///
    /// Errors: the device fails.
    fn state_dict(&self) -> Result<StateDict>;

    /// What the optimiser remembers.
    ///
    /// Errors: the device fails.
    fn adam(&self, learning_rate: f64) -> Result<Adam>;
}

impl<T: Real> Learner for Trainer<T> {
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

/// Where a training stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Epochs done.
    pub epoch: u32,
    /// Steps done of the next one.
    pub step: usize,
}

/// How good a network is on the micrographs that judge it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Average precision, or F1 by length if fibers are learnt.
    pub value: f64,
    /// The same number for as many picks at random places; 0 where that is not computed.
    pub random: f64,
}

/// From the score of random picks up to 1 there is something to gain. A network that gains less than this share of it counts as
/// no better than random picks. Peaks of a heat map keep apart from each other, so even a network that has learnt nothing finds
/// a little more than random picks, which may lie on one another.
const LEAST_GAIN: f64 = 0.05;

impl Score {
    /// True if the network finds more than random picks do.
    pub fn is_better_than_random(&self) -> bool {
        self.value - self.random > LEAST_GAIN * (1.0 - self.random)
    }
}

/// The best network so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// After which epoch it was saved; 0 is the network that the training started with.
    pub epoch: u32,
    /// Its score.
    pub value: f64,
    /// The highest score of all that were the best, which is never far above this one's.
    pub highest: f64,
}

/// A network of the cosine takes the place of an earlier one if its score is no further than this below the highest.
///
/// The early networks of a training are saved while the rate is high, and one of them may be ahead by a hair on the few micrographs
/// that choose, and behind on all others: of three trainings from nothing on apoferritin the highest score gave an F1 of 0.978, 0.959
/// and 0.933, and this rule, which took the last network each time, 0.974, 0.975 and 0.965. Three others, which the rule was not made
/// on, gave 0.981, 0.963 and 0.980, and 0.984, 0.971 and 0.979 (docs/training.md).
const NEAR: f64 = 0.005;

/// Whether a network takes the place of the best. It has to beat the one that the training started with.
fn takes_over(score: Score, standing: &Standing, fall: &Fall) -> bool {
    let least = |best: Best| best.highest - if *fall == Fall::Cosine { NEAR } else { 0.0 };
    score.is_better_than_random()
        && standing.best.is_none_or(|best| score.value > least(best))
        && standing.start.is_none_or(|start| score.value > start)
}

/// All that a training which is resumed has to know about the steps before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Standing {
    /// Where it stands.
    pub position: Position,
    /// The score of the network that it started with, if that network was judged.
    pub start: Option<f64>,
    /// The best network so far; none while no network is better than random picks.
    pub best: Option<Best>,
}

/// How a training runs.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// Most images of a step.
    pub batch: usize,
    /// Learning rates and steps.
    pub schedule: Schedule,
    /// When exemplars are replayed, where there are any.
    pub replay: Replay,
    /// Judges the network that the training starts with, as epoch 0: it stays the best until another one is better.
    pub judges_start: bool,
}

/// What is reported about a step.
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

/// What is reported about an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochReport {
    /// The epoch, from 1.
    pub epoch: u32,
    /// Means of its losses over the images. Images of the replay are left out.
    pub losses: Losses,
    /// Mean of the total over the images of the replay.
    pub replay_loss: Option<f64>,
    /// Learning rate.
    pub learning_rate: f64,
    /// Score on the micrographs that judge, if there are any.
    pub validation: Option<Score>,
    /// True if the network is better than random picks, and better than every network before it, also than the one that the
    /// training started with.
    pub is_best: bool,
    /// Images a second.
    pub images_per_second: f64,
    /// Seconds that its steps took.
    pub seconds: f64,
    /// Seconds until the last epoch is done and judged, if all further epochs take as long as those so far.
    pub seconds_left: f64,
}

/// Everything that a checkpoint saves.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The network.
    pub state: StateDict,
    /// The optimiser.
    pub adam: Adam,
    /// Where the training stands, and how good it was so far.
    pub standing: Standing,
    /// True if this is the network of the best score.
    pub is_best: bool,
}

/// The work around a training: reporting, judging and saving.
pub trait Hooks {
    /// The network that the training starts with was judged.
    ///
    /// Errors: a log cannot be written.
    fn start(&mut self, score: &Score) -> Result<()>;

    /// A step is done.
    fn step(&mut self, report: &StepReport);

    /// An epoch is done.
    ///
    /// Errors: a log cannot be written.
    fn epoch(&mut self, report: &EpochReport) -> Result<()>;

    /// The score of the network on the micrographs that judge; `None` without any.
    ///
    /// Errors: an image cannot be read, or the network fails.
    fn validate(&mut self, state: &StateDict) -> Result<Option<Score>>;

    /// Saves a snapshot, whole or not at all.
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

/// Trains from the position in `standing` to the last epoch, and returns the standing that is reached. Setting `stop` ends the
/// training after the step in hand.
///
/// Errors: an image cannot be read, a loss is no number (the last checkpoint stays as it was), or saving fails.
pub fn run(
    learner: &mut dyn Learner,
    data: &Data,
    replay: Option<&Data>,
    options: &RunOptions,
    mut standing: Standing,
    hooks: &mut dyn Hooks,
    stop: &AtomicBool,
) -> Result<(End, Standing)> {
    ensure!(!data.is_empty(), "no image to train on; expected at least one with labels; check --data and --train_pct");
    let replay = replay.filter(|replay| !replay.is_empty());
    let schedule = &options.schedule;
    if options.judges_start && standing.position == Position::default() {
        judge_start(learner, schedule, &mut standing, hooks)?;
    }
    let (begun, begun_at) = (Instant::now(), standing.position);
    let mut first = begun_at.step;
    for epoch in begun_at.epoch + 1..=schedule.epochs {
        let steps_before = (epoch as usize - 1) * schedule.epoch_steps;
        let epoch_begun = Instant::now();
        let work = work_of_epoch(data, replay, (options.replay, options.batch, schedule), epoch, first);
        let mut sums = Sums::default();
        let stopped = with_batches(&work, data, replay, |work, batch| {
            let exemplar: Vec<bool> = (0..batch.n).map(|i| i < work.exemplars.len()).collect();
            let losses = learner.step(&batch.images, &batch.targets, &exemplar, schedule.rate(steps_before + work.step))?;
            let report = StepReport {
                epoch,
                step: work.step + 1,
                steps: schedule.epoch_steps,
                images: batch.n,
                exemplars: work.exemplars.len(),
                losses,
                replay: work.images.is_empty(),
            };
            refuse_nan(&report, learner)?;
            sums.add(&report);
            hooks.step(&report);
            Ok(work.is_last_of_step && learner.ends_now(stop.load(Ordering::Relaxed))?)
        })?;
        if let Some(step) = stopped.filter(|step| step + 1 < schedule.epoch_steps) {
            standing.position = Position { epoch: epoch - 1, step: step + 1 };
            let (state, adam) = (learner.state_dict()?, learner.adam(schedule.rate(steps_before + step))?);
            hooks.save(&Snapshot { state, adam, standing, is_best: false })?;
            return Ok((End::Stopped, standing));
        }
        first = 0;
        let seconds = epoch_begun.elapsed().as_secs_f64();
        let learning_rate = schedule.rate(steps_before + schedule.epoch_steps - 1);
        let state = learner.state_dict()?;
        let validation = hooks.validate(&state)?;
        let is_best = validation.is_some_and(|score| takes_over(score, &standing, &schedule.fall));
        if let Some(Score { value, .. }) = validation.filter(|_| is_best) {
            let highest = standing.best.map_or(value, |best| best.highest.max(value));
            standing.best = Some(Best { epoch, value, highest });
        }
        standing.position = Position { epoch, step: 0 };
        let steps_done = epoch as usize * schedule.epoch_steps - (begun_at.epoch as usize * schedule.epoch_steps + begun_at.step);
        let steps_left = (schedule.epochs - epoch) as usize * schedule.epoch_steps;
        let report = EpochReport {
            epoch,
            losses: sums.mean(),
            replay_loss: sums.replay_mean(),
            learning_rate,
            validation,
            is_best,
            images_per_second: sums.images / seconds.max(1e-9),
            seconds,
            seconds_left: begun.elapsed().as_secs_f64() / steps_done.max(1) as f64 * steps_left as f64,
        };
        hooks.epoch(&report)?;
        hooks.save(&Snapshot { state, adam: learner.adam(learning_rate)?, standing, is_best })?;
        if epoch < schedule.epochs && learner.ends_now(stop.load(Ordering::Relaxed))? {
            return Ok((End::Stopped, standing));
        }
    }
    Ok((End::Done, standing))
}

/// Judges the network before its first step, and saves it, because it is the best until another one is better.
fn judge_start(learner: &dyn Learner, schedule: &Schedule, standing: &mut Standing, hooks: &mut dyn Hooks) -> Result<()> {
    let state = learner.state_dict()?;
    let Some(score) = hooks.validate(&state)? else { return Ok(()) };
    standing.start = Some(score.value);
    let is_best = score.is_better_than_random();
    standing.best = is_best.then_some(Best { epoch: 0, value: score.value, highest: score.value });
    hooks.start(&score)?;
    hooks.save(&Snapshot { state, adam: learner.adam(schedule.rate(0))?, standing: *standing, is_best })
}

/// Calls `each` with every piece of work and its batch, while the next batch is being made. If `each` breaks off with a step,
/// the work ends early and that step is returned.
fn with_batches(
    work: &[Work],
    data: &Data,
    replay: Option<&Data>,
    mut each: impl FnMut(&Work, &Batch) -> Result<bool>,
) -> Result<Option<usize>> {
    let make = |one: &Work| -> Result<Batch> {
        let exemplars = match replay {
            Some(replay) => replay.batch(&one.exemplars)?,
            None => Batch::default(),
        };
        Ok(exemplars.followed_by(data.batch(&one.images)?))
    };
    let stopped = ahead(
        work,
        1,
        |one| make(one),
        |next| {
            let Some((one, batch)) = next else { return ControlFlow::Continue(()) };
            match batch.and_then(|batch| each(one, &batch)) {
                Ok(false) => ControlFlow::Continue(()),
                Ok(true) => ControlFlow::Break(Ok(one.step)),
                Err(error) => ControlFlow::Break(Err(error)),
            }
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
