//! How fast a network learns and for how long, and which images each step sees.
//!
//! A training is a row of steps, and the learning rate depends on the number of the step. An epoch is only the stretch of
//! steps after which the network is judged and saved. Where the command line gives epochs, as the original does, an epoch is one
//! pass over the images; otherwise it is a fixed number of steps, because five micrographs in steps of four images would be judged
//! after every second step, and five hundred only after every hundred and twenty-fifth.

use super::data::{Data, Draw};
use anyhow::{Result, ensure};

/// How the learning rate falls.
#[derive(Clone, Debug, PartialEq)]
pub enum Fall {
    /// To a tenth after each of these numbers of steps, as the original does.
    Tenths(Vec<usize>),
    /// Along half a period of a cosine, from the full rate to a hundredth of it at the last step.
    /// Source: Loshchilov, Hutter 2017, arXiv:1608.03983, equation 5, with one cycle.
    Cosine,
}

/// In which order the images are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// An epoch shows every image once, and its last step may have fewer images than the others.
    Passes,
    /// The images come in one endless row of shuffled passes, from which every step takes a full batch. A step may see two
    /// crops of one image where there are fewer images than a batch holds.
    Endless,
}

/// How fast a network learns, and how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Adam's highest rate.
    pub learning_rate: f64,
    /// The number of steps over which the rate rises evenly to the highest.
    pub warm_up: usize,
    /// How the rate falls from there.
    pub fall: Fall,
    /// In which order the images are shown.
    pub order: Order,
    /// Steps of an epoch.
    pub epoch_steps: usize,
    /// Epochs in all.
    pub epochs: u32,
}

impl Schedule {
    /// Steps in all.
    pub fn steps(&self) -> usize {
        self.epoch_steps * self.epochs as usize
    }

    /// The learning rate of a step, counted from 0 over the whole training.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warm_up {
            return self.learning_rate * (step + 1) as f64 / self.warm_up as f64;
        }
        match &self.fall {
            Fall::Tenths(drops) => self.learning_rate * 0.1f64.powi(drops.iter().filter(|drop| **drop <= step).count() as i32),
            Fall::Cosine => {
                let length = self.steps().saturating_sub(self.warm_up + 1).max(1);
                let passed = ((step - self.warm_up) as f64 / length as f64).min(1.0);
                let share = 0.5 * (1.0 + (std::f64::consts::PI * passed).cos());
                self.learning_rate * (LEAST_SHARE + (1.0 - LEAST_SHARE) * share)
            }
        }
    }
}

impl Schedule {
    /// The schedule for a checkpoint, as words with blanks between them: rate, steps of the warm-up, `cosine` or the drops,
    /// `passes` or `endless`, steps of an epoch, epochs.
    pub fn to_text(&self) -> String {
        let fall = match &self.fall {
            Fall::Cosine => "cosine".to_owned(),
            Fall::Tenths(drops) => format!("tenths:{}", drops.iter().map(usize::to_string).collect::<Vec<_>>().join(",")),
        };
        let order = if self.order == Order::Passes { "passes" } else { "endless" };
        // A float in debug form is the shortest text that reads back to the same bits.
        format!("{:?} {} {fall} {order} {} {}", self.learning_rate, self.warm_up, self.epoch_steps, self.epochs)
    }

    /// Reads a schedule that [`Schedule::to_text`] wrote. Returns none if the text is anything else.
    pub fn from_text(text: &str) -> Option<Schedule> {
        let words: Vec<&str> = text.split(' ').collect();
        let [rate, warm_up, fall, order, epoch_steps, epochs] = words.as_slice() else { return None };
        let fall = match fall.strip_prefix("tenths:") {
            Some(drops) => Fall::Tenths(drops.split(',').filter(|drop| !drop.is_empty()).map(str::parse).collect::<Result<_, _>>().ok()?),
            None => (*fall == "cosine").then_some(Fall::Cosine)?,
        };
        let order = match *order {
            "passes" => Order::Passes,
            "endless" => Order::Endless,
            _ => return None,
        };
        let epoch_steps = epoch_steps.parse().ok().filter(|steps| *steps > 0)?;
        let (learning_rate, warm_up, epochs) = (rate.parse().ok()?, warm_up.parse().ok()?, epochs.parse().ok()?);
        Some(Schedule { learning_rate, warm_up, fall, order, epoch_steps, epochs })
    }
}

/// The share of the highest learning rate that a cosine falls to.
const LEAST_SHARE: f64 = 0.01;

/// What the command line says about the schedule. A field is none if the command line does not say it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// `--lr`.
    pub learning_rate: Option<f64>,
    /// `--lr_step`: after these epochs the rate is a tenth.
    pub drops: Option<Vec<u32>>,
    /// `--num_epochs`.
    pub epochs: Option<u32>,
    /// `--num_iters`: the most steps of an epoch.
    pub most_steps: Option<usize>,
    /// `--steps`: steps in all.
    pub steps: Option<usize>,
}

/// The number of epochs in the guide, and the epochs after which its rate falls.
const EPOCHS: u32 = 140;
const DROPS: [u32; 2] = [70, 90];

impl Asked {
    /// True if the length of the training is given in epochs, which are then passes over the images.
    pub fn is_in_epochs(&self) -> bool {
        self.drops.is_some() || self.epochs.is_some() || self.most_steps.is_some()
    }

    /// Refuses a schedule that contradicts itself.
    ///
    /// Errors: the drops do not increase, or the length is given both in steps and in epochs.
    pub fn check(&self) -> Result<()> {
        if let Some(drops) = &self.drops {
            ensure!(drops.windows(2).all(|pair| pair[0] < pair[1]), "--lr_step {drops:?}: expected epochs in ascending order");
        }
        ensure!(
            self.steps.is_none() || !self.is_in_epochs(),
            "--steps: the length is given in epochs too; expected either --steps, or --num_epochs with --lr_step and --num_iters; leave \
             one out"
        );
        Ok(())
    }

    /// The schedule in passes over `images` images, of which each step takes `new_images`. By default these are the guide's 140
    /// epochs, with drops after 70 and 90. If the number of epochs is given without the drops, the drops move with it, and the
    /// line that is returned says so.
    pub fn in_passes(&self, learning_rate: f64, images: usize, new_images: usize) -> (Schedule, Option<String>) {
        let epochs = self.epochs.unwrap_or(EPOCHS);
        let epoch_steps = images.div_ceil(new_images.max(1)).min(self.most_steps.unwrap_or(usize::MAX)).max(1);
        let (drops, note) = match &self.drops {
            Some(drops) => (drops.clone(), None),
            None if epochs == EPOCHS => (DROPS.to_vec(), None),
            None => {
                let scaled = |drop: u32| ((u64::from(drop) * u64::from(epochs) + u64::from(EPOCHS) / 2) / u64::from(EPOCHS)) as u32;
                let mut drops: Vec<u32> = DROPS.map(|drop| scaled(drop).max(1)).to_vec();
                drops.dedup();
                let told: Vec<String> = drops.iter().map(u32::to_string).collect();
                (
                    drops,
                    Some(format!("the learning rate falls after epoch {} (70 and 90 of 140, scaled with --num_epoch)", told.join(" and "))),
                )
            }
        };
        let drops = drops.into_iter().map(|epoch| epoch as usize * epoch_steps).collect();
        let schedule = Schedule {
            learning_rate: self.learning_rate.unwrap_or(learning_rate),
            warm_up: 0,
            fall: Fall::Tenths(drops),
            order: Order::Passes,
            epoch_steps,
            epochs,
        };
        (schedule, note)
    }

    /// The schedule in steps, cut into about this many epochs. The recipe gives everything that the command line does not say.
    pub fn in_steps(&self, recipe: &Recipe, epochs: usize) -> Schedule {
        let steps = self.steps.unwrap_or(recipe.steps).max(1);
        let epoch_steps = steps.div_ceil(epochs.max(1));
        let epochs = steps.div_ceil(epoch_steps);
        Schedule {
            learning_rate: self.learning_rate.unwrap_or(recipe.learning_rate),
            warm_up: recipe.warm_up.min(steps / 5),
            fall: Fall::Cosine,
            order: Order::Endless,
            epoch_steps,
            epochs: u32::try_from(epochs).unwrap_or(u32::MAX),
        }
    }
}

/// What a training begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// A new network, which knows nothing.
    Nothing,
    /// A network that has learnt before.
    Model,
}

/// The learning rate and the length of a training for which the command line gives none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Adam's highest rate.
    pub learning_rate: f64,
    /// The number of steps over which the rate rises.
    pub warm_up: usize,
    /// Steps in all.
    pub steps: usize,
}

/// Images of a step where the command line does not say how many. The guide has the same number.
pub const BATCH: usize = 4;
/// The guide's learning rate.
pub const GUIDE_RATE: f64 = 1e-4;

impl Recipe {
    /// The recipe for a network whose deepest level has `deepest` channels, and for this many training images.
    ///
    /// docs/training.md tells how the numbers for narrow networks were chosen. Those for wide ones were not tried: a wide network
    /// takes smaller steps, because a pixel of its maps is a sum over all channels, which grows with their number. Every image is
    /// shown at least eight times, unless that takes too many steps, and a network that knows nothing needs its steps however few
    /// images there are.
    pub fn of(beginning: Beginning, deepest: usize, images: usize) -> Recipe {
        let is_narrow = deepest <= 256;
        let (learning_rate, steps) = match (beginning, is_narrow) {
            (Beginning::Nothing, true) => (2e-3, 500),
            (Beginning::Nothing, false) => (5e-4, 500),
            (Beginning::Model, true) => (5e-4, 200),
            (Beginning::Model, false) => (1e-4, 200),
        };
        let shown_eight_times = (8 * images).div_ceil(BATCH);
        Recipe { learning_rate, warm_up: 25, steps: shown_eight_times.clamp(steps, MOST_STEPS) }
    }
}

/// A recipe never has more steps than this. More are made only if the command line asks for them.
const MOST_STEPS: usize = 4000;

/// When the exemplars of earlier data sets are replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Replay {
    /// Exemplars have steps of their own: all of them are replayed after every eighth step, as the original does.
    #[default]
    Apart,
    /// Every step has this many exemplars among its images, and they come first.
    Mixed(usize),
}

impl Replay {
    /// The rule for a share of exemplars in every step. Each step has at least one exemplar and at least one new image. Steps
    /// of one image cannot have both, so their exemplars are replayed apart.
    pub fn of_share(share: f64, batch: usize) -> Self {
        match batch {
            0 | 1 => Replay::Apart,
            _ => Replay::Mixed(((share * batch as f64).round() as usize).clamp(1, batch - 1)),
        }
    }

    /// How many of the `batch` images of a step are exemplars, if there are `exemplars` exemplars in all.
    pub fn in_each_step(self, exemplars: usize, batch: usize) -> usize {
        match self {
            Replay::Apart => 0,
            Replay::Mixed(count) => count.min(exemplars).min(batch.saturating_sub(1)),
        }
    }
}

/// The exemplars are replayed whenever this many steps are done. An epoch that has no more steps than this replays them after
/// its first step.
const REPLAY_EVERY: usize = 8;

/// One call of the network.
#[derive(Default)]
pub(super) struct Work {
    /// The step of the epoch that it belongs to, from 0; a replay belongs to the step before it.
    pub(super) step: usize,
    /// The new images.
    pub(super) images: Vec<Draw>,
    /// The exemplars, which come first.
    pub(super) exemplars: Vec<Draw>,
    /// True for the last call of a step. A training may stop only there, so that a replay is never cut in two.
    pub(super) is_last_of_step: bool,
}

/// All calls of the network in an epoch, from its step `first` on. Epochs are counted from 1.
pub(super) fn work_of_epoch(
    data: &Data,
    replay: Option<&Data>,
    (rule, batch, schedule): (Replay, usize, &Schedule),
    epoch: u32,
    first: usize,
) -> Vec<Work> {
    let count = replay.map_or(0, |replay| rule.in_each_step(replay.len(), batch));
    let mixed = replay.filter(|_| count > 0);
    let mut drawn = mixed.map(|replay| drawn_exemplars(replay, count, u64::from(epoch)));
    let mut all = Vec::new();
    for (step, images) in new_images(data, batch - count, schedule, epoch).into_iter().enumerate() {
        let pass = step as u64 + 1;
        let exemplars = drawn.as_mut().and_then(Iterator::next).unwrap_or_default();
        all.push(Work { step, images, exemplars: Draw::of(&exemplars, u64::from(epoch), pass), is_last_of_step: true });
        let is_replayed = if schedule.epoch_steps > REPLAY_EVERY { (step + 1) % REPLAY_EVERY == 0 } else { step == 0 };
        let Some(replay) = replay.filter(|_| is_replayed && mixed.is_none()) else { continue };
        if let Some(last) = all.last_mut() {
            last.is_last_of_step = false;
        }
        for exemplars in replay.steps(u64::from(epoch), pass, batch.min(replay.len())) {
            all.push(Work { step, exemplars: Draw::of(&exemplars, u64::from(epoch), pass), ..Work::default() });
        }
        if let Some(last) = all.last_mut() {
            last.is_last_of_step = true;
        }
    }
    all.retain(|work| work.step >= first);
    all
}

/// The new images of every step of an epoch.
fn new_images(data: &Data, a_step: usize, schedule: &Schedule, epoch: u32) -> Vec<Vec<Draw>> {
    match schedule.order {
        Order::Passes => {
            let mut steps = data.steps(u64::from(epoch), 0, a_step);
            steps.truncate(schedule.epoch_steps);
            steps.iter().map(|images| Draw::of(images, u64::from(epoch), 0)).collect()
        }
        Order::Endless => {
            let begin = (epoch as usize - 1) * schedule.epoch_steps * a_step;
            let draws: Vec<Draw> = data.endless(begin..begin + schedule.epoch_steps * a_step);
            draws.chunks(a_step).map(<[Draw]>::to_vec).collect()
        }
    }
}

/// `count` exemplars for each step of an epoch. All exemplars come in random order, then all of them again in another order,
/// and so on.
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
