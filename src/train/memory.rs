//! How much memory a training needs, known before the first byte is asked for.

use super::options::TrainerOptions;
use super::step::student_plan;
use crate::device::Team;
use crate::net::Architecture;
use crate::net::parameters::ParameterLayout;
use crate::ops::Compute;
use anyhow::{Result, bail};

/// Bytes that a training needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingMemory {
    /// Maps and their gradients.
    pub arena: usize,
    /// The bytes of the maps that are needed at the same time, where these are most. No arena could be smaller.
    pub arena_lower_bound: usize,
    /// Parameters, their gradients, two moments, running statistics; for a continual training also the earlier network.
    pub parameters: usize,
}

impl std::fmt::Display for TrainingMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let [arena, parameters, total] = [self.arena, self.parameters, self.total()].map(gib);
        write!(f, "maps and their gradients {arena}, parameters with gradients and moments {parameters}, in all {total}")
    }
}

fn gib(bytes: usize) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

impl TrainingMemory {
    /// All bytes together.
    pub fn total(&self) -> usize {
        self.arena + self.parameters
    }

    /// What a training of a network of these widths needs where it is computed, without allocating it: kernels of a GPU work in
    /// more scratch memory than the CPU.
    ///
    /// Errors: the frame's sides are not multiples of 32.
    pub fn of(compute: impl Into<Compute>, architecture: Architecture, options: &TrainerOptions, continual: bool) -> Result<Self> {
        let (graph, layout) = (architecture.graph(), ParameterLayout::new(architecture));
        let plan = student_plan::<f32>(&compute.into(), &graph, &layout, options, Team::alone(options.batch), continual)?;
        let networks = if continual { 5 } else { 4 };
        let statistics = if continual { 2 } else { 1 } * layout.statistic_len();
        Ok(TrainingMemory {
            arena: 4 * (plan.arena_len + plan.steps.saved_len),
            arena_lower_bound: 4 * plan.lower_bound,
            parameters: 4 * (networks * layout.parameter_len() + statistics),
        })
    }

    /// Checks that a training fits into `available` bytes.
    ///
    /// Errors: it does not; the message says which option makes it fit, if one does.
    pub fn check(
        compute: impl Into<Compute>,
        architecture: Architecture,
        options: &TrainerOptions,
        continual: bool,
        available: usize,
    ) -> Result<Self> {
        let compute = compute.into();
        let of = |options: &TrainerOptions| Self::of(&compute, architecture, options, continual);
        let needed = of(options)?;
        if needed.total() <= available {
            return Ok(needed);
        }
        let mut other = TrainerOptions { checkpoint_activations: true, ..options.clone() };
        let mut advice = None;
        while advice.is_none() && other.batch > 0 {
            let total = of(&other)?.total();
            if total <= available {
                let batch = if other.batch < options.batch { format!("--batch_size {}", other.batch) } else { String::new() };
                let checkpoint = if options.checkpoint_activations { "" } else { "--checkpoint-activations" };
                advice = Some(format!("{} needs {}", [checkpoint, &batch].join(" ").trim(), gib(total)));
            }
            other.batch -= 1;
        }
        let advice = advice.unwrap_or_else(|| "no batch fits; use a smaller --frame".into());
        let [h, w] = options.frame;
        bail!(
            "training {} images of {w} x {h} pixels needs {}; expected at most {}; {advice}",
            options.batch,
            gib(needed.total()),
            gib(available)
        );
    }
}
