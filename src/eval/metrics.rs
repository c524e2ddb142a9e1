//! Precision and recall over all thresholds, pooled over micrographs.
//!
//! Picks of equal score enter together, so the numbers do not depend on the order of a file.

use crate::random::Random;
use rayon::prelude::*;

/// A pick that counts, right or wrong; ignored picks are left out before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// Its score.
    pub score: f32,
    /// True if it found a label.
    pub hit: bool,
    /// The number of the micrograph in which it lies.
    pub micrograph: usize,
}

/// Precision and recall if only picks of at least this score are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The lowest score that is kept.
    pub score: f32,
    /// How many picks are kept.
    pub picks: f64,
    /// How many of the kept picks found a label.
    pub hits: f64,
    /// Share of the picks that found a label.
    pub precision: f64,
    /// Share of the labels that were found.
    pub recall: f64,
}

impl Point {
    /// The harmonic mean of precision and recall.
    pub fn f1(&self) -> f64 {
        let sum = self.precision + self.recall;
        if sum > 0.0 { 2.0 * self.precision * self.recall / sum } else { 0.0 }
    }
}

/// The judged picks of all micrographs, best first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pooled {
    judged: Vec<Judged>,
    /// How many labels of each micrograph count.
    labels: Vec<usize>,
}

impl Pooled {
    /// Pools the picks of all micrographs; `labels` says how many labels of each micrograph count.
    pub fn new(mut judged: Vec<Judged>, labels: Vec<usize>) -> Self {
        judged.sort_by(|a, b| b.score.total_cmp(&a.score));
        Pooled { judged, labels }
    }

    /// The picks, best first.
    pub fn judged(&self) -> &[Judged] {
        &self.judged
    }

    /// How many labels count, in all micrographs.
    pub fn labels(&self) -> usize {
        self.labels.iter().sum()
    }

    /// How many micrographs there are.
    pub fn micrographs(&self) -> usize {
        self.labels.len()
    }

    /// The curve, from the best score down; empty without labels.
    pub fn curve(&self) -> Vec<Point> {
        self.weighted_curve(&vec![1.0; self.labels.len()])
    }

    /// The curve where micrograph i counts `weights[i]` times.
    fn weighted_curve(&self, weights: &[f64]) -> Vec<Point> {
        let total: f64 = self.labels.iter().zip(weights).map(|(labels, weight)| *labels as f64 * weight).sum();
        let mut curve = Vec::new();
        if total == 0.0 {
            return curve;
        }
        let (mut picks, mut hits) = (0.0, 0.0);
        for (i, one) in self.judged.iter().enumerate() {
            let weight = weights[one.micrograph];
            picks += weight;
            hits += if one.hit { weight } else { 0.0 };
            let is_last_of_score = self.judged.get(i + 1).is_none_or(|next| next.score != one.score);
            if is_last_of_score && picks > 0.0 {
                curve.push(Point { score: one.score, picks, hits, precision: hits / picks, recall: hits / total });
            }
        }
        curve
    }

    /// Precision and recall of the picks above a threshold (strictly).
    pub fn at(&self, threshold: f32) -> Point {
        let kept = self.judged.iter().take_while(|one| one.score > threshold);
        let (picks, hits) = kept.fold((0.0, 0.0), |(picks, hits), one| (picks + 1.0, hits + f64::from(u8::from(one.hit))));
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        Point { score: threshold, picks, hits, precision: share(hits, picks), recall: share(hits, self.labels() as f64) }
    }

    /// Precision and recall of the `count` best picks, or of all if there are fewer. Where only some of several picks with
    /// equal scores fit, each of them counts for an equal share: the average over every order that they could have.
    pub fn best_picks(&self, count: usize) -> Point {
        let count = count.min(self.judged.len());
        let score = count.checked_sub(1).map_or(f32::INFINITY, |last| self.judged[last].score);
        let hits = |judged: &[Judged]| judged.iter().filter(|one| one.hit).count() as f64;
        let above = self.judged.partition_point(|one| one.score > score);
        let equal = self.judged.partition_point(|one| one.score >= score) - above;
        let share = if equal > 0 { (count - above) as f64 / equal as f64 } else { 0.0 };
        let hits = hits(&self.judged[..above]) + share * hits(&self.judged[above..above + equal]);
        let picks = count as f64;
        Point { score, picks, hits, precision: hits / picks.max(1.0), recall: hits / self.labels().max(1) as f64 }
    }

    /// The largest recall with at most this many false picks per micrograph on average.
    pub fn recall_at_false_picks(&self, per_micrograph: f64) -> f64 {
        let most = per_micrograph * self.micrographs() as f64;
        self.curve().iter().take_while(|point| point.picks - point.hits <= most).last().map_or(0.0, |point| point.recall)
    }

    /// Average precision, best F1 and the curve, each with the interval that holds the middle 95 % of what resampling the
    /// micrographs gives. The same for the same seed.
    /// Source: Efron 1979, doi:10.1214/aos/1176344552 (percentile intervals).
    pub fn bootstrap(&self, rounds: usize, seed: u64) -> Option<Intervals> {
        let count = self.micrographs();
        if count < 2 || self.labels() == 0 || rounds == 0 {
            return None;
        }
        let round = |round: u64| {
            let mut random = Random::new(seed, &[0x626f_6f74, round]);
            let mut weights = vec![0.0; count];
            (0..count).for_each(|_| weights[random.below(count)] += 1.0);
            let drawn: f64 = self.labels.iter().zip(&weights).map(|(labels, weight)| *labels as f64 * weight).sum();
            let curve = self.weighted_curve(&weights);
            (drawn > 0.0).then(|| (average_precision(&curve), best_f1(&curve).map_or(0.0, |point| point.f1()), precisions(&curve)))
        };
        // Each round draws from its own stream, so threads change nothing.
        let all: Vec<(f64, f64, Vec<f64>)> = (0..rounds as u64).into_par_iter().filter_map(round).collect();
        let ap = middle(all.iter().map(|(ap, _, _)| *ap).collect());
        let f1_best = middle(all.iter().map(|(_, f1, _)| *f1).collect());
        let precision = (0..RECALLS).map_while(|i| {
            let reached: Vec<f64> = all.iter().filter_map(|(_, _, precisions)| precisions.get(i).copied()).collect();
            // Where many rounds end before this recall, the rest of them would look better than all.
            let is_enough = !reached.is_empty() && reached.len() as f64 >= 0.975 * all.len() as f64;
            let [low, high] = middle(reached);
            is_enough.then_some([recall_of(i), low, high])
        });
        Some(Intervals { ap, f1_best, precision: precision.collect() })
    }
}

/// At so many recalls the interval of the precision is known.
const RECALLS: usize = 101;

fn recall_of(i: usize) -> f64 {
    i as f64 / (RECALLS - 1) as f64
}

/// The precision at each of the recalls that the curve reaches.
fn precisions(curve: &[Point]) -> Vec<f64> {
    let at = |i: usize| curve.get(curve.partition_point(|point| point.recall < recall_of(i))).map(|point| point.precision);
    (0..RECALLS).map_while(at).collect()
}

/// Intervals of 95 %.
#[derive(Clone, Debug, PartialEq)]
pub struct Intervals {
    /// Of the average precision.
    pub ap: [f64; 2],
    /// Of the best F1.
    pub f1_best: [f64; 2],
    /// Of the precision: a recall, and the ends of the interval there; as far as nearly all resamplings come.
    pub precision: Vec<[f64; 3]>,
}

fn middle(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get((share * values.len().saturating_sub(1) as f64).round() as usize).copied().unwrap_or(0.0);
    [at(0.025), at(0.975)]
}

/// Area under the curve, precision being the best at this recall or any larger one.
///
/// Every pick counts, whatever its score, and no recall levels are sampled.
/// Source: Everingham et al. 2015, doi:10.1007/s11263-014-0733-5, section 3.5.
pub fn average_precision(curve: &[Point]) -> f64 {
    let (mut area, mut best, mut right) = (0.0, 0.0f64, None);
    for point in curve.iter().rev() {
        if let Some(right) = right {
            area += (right - point.recall) * best;
        }
        best = best.max(point.precision);
        right = Some(point.recall);
    }
    (area + right.unwrap_or(0.0) * best).min(1.0) // rounding of the sum may exceed 1
}

/// The point of the curve with the best F1. If several have it, it is the one with the highest score.
pub fn best_f1(curve: &[Point]) -> Option<Point> {
    curve.iter().copied().reduce(|best, point| if point.f1() > best.f1() { point } else { best })
}

/// A threshold that keeps what has at least the score of `point` and drops what is below: halfway to the next score.
pub fn threshold_of(curve: &[Point], point: &Point) -> f32 {
    let next = curve.iter().map(|other| other.score).find(|score| *score < point.score);
    let next = next.unwrap_or(if point.score > 0.0 { 0.0 } else { point.score - 1.0 });
    let between = next + (point.score - next) / 2.0;
    if between < point.score { between } else { next }
}

/// The middle value of the sorted values, or the mean of the two middle ones.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[half]),
        _ => Some((values[half - 1] + values[half]) / 2.0),
    }
}
