//! What a training will do, in one line, before it begins: what it learns from, how long it takes, how much memory it needs.
//!
//! The time is measured on a step of another network, which is then thrown away, so that measuring changes no result.

use super::settings::{JUDGING_COST, Settings};
use crate::device::Collective;
use crate::ops::{Compute, heat_map};
use crate::train::Targets;
use crate::train::run::Learner;
use crate::train::schedule::{Order, Schedule};
use crate::words::counted;
use anyhow::Result;
use std::sync::Arc;
use std::time::Instant;

/// A first step is slower than the others, because memory is touched for the first time; where it took no longer than this, a
/// second one is measured.
const SHORT_SECONDS: f64 = 2.0;

impl Settings {
    /// Seconds of a step.
    ///
    /// Errors: the device fails.
    pub(super) fn seconds_of_a_step(&self, devices: &[Compute], processes: Option<&Arc<dyn Collective>>) -> Result<f64> {
        let mut trainer = self.trainers(devices, processes)?;
        let (batch, side) = (self.batch, self.data.side_n);
        let images = crate::random::noise(batch * side * side, 1);
        let targets = Targets::new([batch, side / heat_map::STRIDE, side / heat_map::STRIDE]);
        let exemplars = self.exemplars.as_ref().map_or(0, |exemplar| self.replay.in_each_step(exemplar.entries.len(), batch));
        let is_exemplar: Vec<bool> = (0..batch).map(|i| i < exemplars).collect();
        let mut measured = || -> Result<f64> {
            let begun = Instant::now();
            Learner::step(&mut trainer, &images, &targets, &is_exemplar, 0.0)?;
            Ok(begun.elapsed().as_secs_f64())
        };
        let first = measured()?;
        // Processes that train together make the same steps.
        if first > SHORT_SECONDS && processes.is_none() { Ok(first) } else { measured() }
    }

    /// The line that says what this training will do.
    pub(super) fn headline(&self, schedule: &Schedule, judged: usize, seconds_of_a_step: f64) -> String {
        let labels: usize = self.parts.train.iter().map(|&i| self.gathered.labelled[i].coordinates.points.len()).sum();
        let what = match (&self.start.resumed, &self.start.name) {
            (Some(resumed), _) => {
                format!("goes on with the training in {} after epoch {}", self.folder.display(), resumed.standing.position.epoch)
            }
            (None, Some(name)) => format!("trains {name} further"),
            (None, None) => "trains a new network, which knows nothing,".to_owned(),
        };
        let (batch, side) = (self.batch as f64, self.data.side_n as f64);
        let learnt_px = batch * side * side;
        let judged_px = (judged * self.frame * self.frame) as f64;
        let epoch = seconds_of_a_step * (schedule.epoch_steps as f64 + JUDGING_COST * judged_px / learnt_px);
        let an_epoch = match schedule.order {
            Order::Passes => format!("an epoch, which is one pass over them in {},", counted(schedule.epoch_steps, "step")),
            Order::Endless => format!("an epoch of {}", counted(schedule.epoch_steps, "step")),
        };
        format!(
            "{what} on {} with {}: {} of {} of {side} x {side} pixels; {an_epoch} takes about {}, all {} \
             about {}; {:.1} GiB of memory",
            counted(self.parts.train.len(), "micrograph"),
            counted(labels, "label"),
            counted(schedule.steps(), "step"),
            counted(self.batch, "crop"),
            duration(epoch),
            schedule.epochs,
            duration(epoch * f64::from(schedule.epochs)),
            self.memory.total() as f64 / f64::from(1 << 30)
        )
    }
}

/// Seconds in the unit that a reader wants.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => "a second".to_owned(),
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} minutes", s / 60.0),
        s => format!("{:.1} hours", s / 3600.0),
    }
}
