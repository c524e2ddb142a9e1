//! What the page of `eval --report` shows of a micrograph: which picks are right, which are wrong, which labels were missed.
//!
//! Matching goes from the best score down, so what became of a pick does not depend on those below it: one matching
//! serves every threshold.

use super::fiber;
use super::matching::Outcome;
use super::report::{Item, Settings, fiber_reach, match_item};
use crate::formats::coordinates::Kind;
use crate::pick::report::{Fate, Label, Mark, Truth};
use anyhow::Result;

/// The picks of one micrograph, and the truth about them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// The picks; a fiber is judged as points along it.
    pub marks: Vec<Mark>,
    /// What should have been found, and what became of each pick.
    pub truth: Truth,
}

/// Picks and labels of one micrograph as the page shows them. Fibers become points a reach apart.
///
/// Errors: the size of the particles is unknown, or points of fibers are mixed with others.
pub fn shown(item: &Item, settings: &Settings) -> Result<Shown> {
    if item.labels.kind == Kind::Fiber {
        let reach = fiber_reach(item, settings);
        let [labels, picks] = fiber::judge(&item.labels, &item.picks, reach, reach)?;
        let fates = picks.iter().map(|pick| if pick.near.is_some() { Fate::Right } else { Fate::Wrong }).collect();
        // Points that no file links to fibers stay points on the page.
        let is_linked = |side: &[fiber::Judged]| side.iter().all(|point| point.along[0] > 0);
        let is_traced = is_linked(&labels) && is_linked(&picks);
        let along = |point: &fiber::Judged| is_traced.then_some(point.along);
        let label = |label: &fiber::Judged| Label {
            centre: label.at,
            radius: reach / 2.0,
            found_by: label.near,
            ignored: false,
            along: along(label),
        };
        let mark = |pick: &fiber::Judged| Mark { centre: pick.at, radius: reach / 2.0, score: pick.score, along: along(pick) };
        return Ok(Shown { marks: picks.iter().map(mark).collect(), truth: Truth { labels: labels.iter().map(label).collect(), fates } });
    }
    let matching = match_item(item, settings)?;
    let mut found_by = vec![None; matching.discs.len()];
    let mut fates = Vec::with_capacity(matching.picks.len());
    for (pick, outcome) in matching.picks.iter().zip(&matching.matched.outcomes) {
        fates.push(match outcome {
            Outcome::Hit { label, .. } => {
                found_by[*label] = Some(pick.score);
                Fate::Right
            }
            Outcome::Miss { .. } => Fate::Wrong,
            Outcome::Ignored => Fate::Ignored,
        });
    }
    let labels = matching.discs.iter().zip(&found_by).zip(&matching.matched.ignored);
    let label = |((disc, found_by), ignored): ((&super::matching::Disc, &Option<f32>), &bool)| Label {
        centre: [disc.x, disc.y],
        radius: disc.radius,
        found_by: *found_by,
        ignored: *ignored,
        along: None,
    };
    let own_size = settings.size.own_first;
    let mark = |pick: &super::matching::Candidate| Mark {
        centre: [pick.x, pick.y],
        radius: pick.radius.filter(|_| own_size).unwrap_or(matching.typical),
        score: pick.score,
        along: None,
    };
    Ok(Shown { marks: matching.picks.iter().map(mark).collect(), truth: Truth { labels: labels.map(label).collect(), fates } })
}
