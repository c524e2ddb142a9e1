//! The verdict on a training: whether the network has learnt anything.

use crate::train::run::{Best, Score, Standing};
use serde_json::{Value, json};

/// Whether the network of a training has learnt anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Nothing judged it.
    Unjudged,
    /// No network was better than picks at random places.
    NoBetterThanRandom {
        /// The last score, if an epoch was judged in this run.
        last: Option<Score>,
    },
    /// No network was better than the one that the training started with.
    NoBetterThanStart {
        /// The score of that network.
        start: f64,
        /// The last score, if an epoch was judged in this run.
        last: Option<Score>,
    },
    /// The network has learnt something.
    Better {
        /// The best network.
        best: Best,
        /// The score of the network that it started with, if that was judged.
        start: Option<f64>,
    },
}

impl Verdict {
    /// The verdict on a training that is done. `last`: the last score of this run, if there was one.
    pub(super) fn of(standing: &Standing, last: Option<Score>) -> Verdict {
        match (standing.best, standing.start) {
            (Some(Best { epoch: 0, value: start, .. }), Some(_)) => Verdict::NoBetterThanStart { start, last },
            (Some(best), start) => Verdict::Better { best, start },
            (None, None) if last.is_none() => Verdict::Unjudged,
            (None, _) => Verdict::NoBetterThanRandom { last },
        }
    }

    /// False if the model finds no more than chance does.
    pub(super) fn is_of_use(&self) -> bool {
        !matches!(self, Verdict::NoBetterThanRandom { .. })
    }

    /// The verdict in words, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let told = |last: &Option<Score>| last.map_or(String::new(), |last| format!(", that of the last epoch {:.4}", last.value));
        match self {
            Verdict::Unjudged => Vec::new(),
            Verdict::NoBetterThanRandom { last } => {
                let scores = last.map_or(String::new(), |last| format!(" (AP {:.4}; random picks {:.4})", last.value, last.random));
                vec![
                    format!("warning: no epoch was better than as many picks at random places{scores}, so no model is called the best"),
                    "look at the labels with epicker check, give --diameter, leave out --from-scratch, or train longer with --steps"
                        .to_owned(),
                ]
            }
            Verdict::NoBetterThanStart { start, last } => vec![format!(
                "warning: no epoch was better than the model that the training started with (its AP is {start:.4}{}), so that model stays the \
                 best: model_best is the start",
                told(last)
            )],
            Verdict::Better { best, start } => {
                let before = start.map_or(String::new(), |start| format!("; the model it started with has {start:.4}"));
                vec![format!("the best is epoch {} with an AP of {:.4}{before}", best.epoch, best.value)]
            }
        }
    }

    /// The verdict for programs.
    pub(super) fn json(&self) -> Value {
        let (verdict, best, start) = match self {
            Verdict::Unjudged => ("not judged", None, None),
            Verdict::NoBetterThanRandom { .. } => ("no better than random picks", None, None),
            Verdict::NoBetterThanStart { start, .. } => ("no better than the start", Some((0, *start)), Some(*start)),
            Verdict::Better { best, start } => ("better", Some((best.epoch, best.value)), *start),
        };
        json!({ "verdict": verdict, "best_epoch": best.map(|best| best.0), "best": best.map(|best| best.1), "start": start })
    }
}
