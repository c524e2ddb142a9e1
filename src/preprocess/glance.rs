//! One look at a micrograph while its rows go into the crop: enough to know that nothing has to be adjusted, which is so for most. Then
//! the survey, which goes through all pixels twice before the crop does, is not needed, and nothing else changes.

use super::{CLIP_SIGMAS, INNER_SIGMAS};
use crate::device::cpu::InstructionSet;
use crate::formats::image::{Pixels, Sample};
use crate::with_pixels;
use std::sync::{Mutex, PoisonError};

/// Rows that are looked at before the others, to know about how large the values are.
const SAMPLED_ROWS: usize = 64;
/// Values farther out than this many deviations of the sample are counted: fewer than the survey's, because a sample is not exact.
const FAR_SIGMAS: f64 = 0.9 * INNER_SIGMAS;
/// Beyond this many of them it is surely the survey's turn.
const HOPELESS_SIGMAS: f64 = 1.25 * CLIP_SIGMAS;
const LANES: usize = 8;

/// What was seen of some rows: sums over values less the pivot, side by side, so that vector instructions may add them up.
#[derive(Clone, Copy)]
struct Seen {
    sum: [f64; LANES],
    squares: [f64; LANES],
    far: [f64; LANES],
    min: [f64; LANES],
    max: [f64; LANES],
}

impl Seen {
    const NOTHING: Seen =
        Seen { sum: [0.0; LANES], squares: [0.0; LANES], far: [0.0; LANES], min: [f64::INFINITY; LANES], max: [f64::NEG_INFINITY; LANES] };

    fn add(&mut self, other: &Seen) {
        for lane in 0..LANES {
            self.sum[lane] += other.sum[lane];
            self.squares[lane] += other.squares[lane];
            self.far[lane] += other.far[lane];
            self.min[lane] = self.min[lane].min(other.min[lane]);
            self.max[lane] = self.max[lane].max(other.max[lane]);
        }
    }

    /// The least and the largest value less the pivot.
    fn range(&self) -> [f64; 2] {
        [self.min.iter().copied().fold(f64::INFINITY, f64::min), self.max.iter().copied().fold(f64::NEG_INFINITY, f64::max)]
    }

    /// True if all values are numbers: the square of any other is none, either.
    fn is_finite(&self) -> bool {
        self.squares.iter().sum::<f64>().is_finite()
    }
}

/// A look at all rows, one after the other.
pub(super) struct Glance {
    pivot: f64,
    deviation: f64,
    clip_hot: bool,
    seen: Mutex<Seen>,
}

impl Glance {
    /// Looks at some rows of a micrograph. None if they are all alike, or hold something that is no number: then only the survey knows.
    pub fn new(pixels: &Pixels, nx: usize, clip_hot: bool) -> Option<Glance> {
        if nx == 0 || pixels.len() < nx {
            return None;
        }
        let (mean, deviation) = with_pixels!(pixels, values => {
            let rows = values.chunks_exact(nx).step_by((values.len() / nx).div_ceil(SAMPLED_ROWS));
            let (mut count, mut sum, mut squares, pivot) = (0.0, 0.0, 0.0, values.first()?.to_f64());
            for value in rows.flatten() {
                let offset = value.to_f64() - pivot;
                count += 1.0;
                sum += offset;
                squares += offset * offset;
            }
            (pivot + sum / count, f64::sqrt(squares / count - (sum / count) * (sum / count)))
        });
        (mean.is_finite() && deviation > 0.0 && deviation.is_finite()).then(|| Glance {
            pivot: mean,
            deviation,
            clip_hot,
            seen: Mutex::new(Seen::NOTHING),
        })
    }

    /// Looks at a row. False if the survey is needed in any case, so that nobody need go on.
    pub fn see(&self, row: &[f64]) -> bool {
        let (pivot, far, mut of_row) = (self.pivot, FAR_SIGMAS * self.deviation, Seen::NOTHING);
        let to = &mut of_row;
        crate::dispatch!(InstructionSet::detect(), add_row(row: &[f64], pivot: f64, far: f64, to: &mut Seen));
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).add(&of_row);
        let ([min, max], reach) = (of_row.range(), HOPELESS_SIGMAS * self.deviation);
        of_row.is_finite() && (!self.clip_hot || (max <= reach && min >= -reach))
    }

    /// True if the survey of all `pixels`, which have been seen, would find that they differ, that all are numbers, and that none lies so
    /// far out that it has to be clipped. False says nothing.
    ///
    /// The survey's deviation is that of the pixels within 5 of all pixels'. What it leaves out is among the far ones here, and if these
    /// have hardly a share in the sum of squares, its deviation is at least 0.97 times that of all, and its mean the same but for 0.03.
    pub fn shows_nothing_to_adjust(&self, pixels: usize) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let ([min, max], count) = (seen.range(), pixels as f64);
        if !seen.is_finite() || min >= max || !self.clip_hot {
            return seen.is_finite() && min < max;
        }
        let mean = seen.sum.iter().sum::<f64>() / count;
        let variance = seen.squares.iter().sum::<f64>() / count - mean * mean;
        let (far, reach) = (seen.far.iter().sum::<f64>(), (max - mean).max(mean - min));
        let includes_all = FAR_SIGMAS * self.deviation + mean.abs() <= INNER_SIGMAS * variance.sqrt();
        let has_no_share = far <= 0.01 * count && far * reach * reach <= 0.05 * count * variance;
        includes_all && has_no_share && reach <= 0.95 * CLIP_SIGMAS * variance.sqrt()
    }
}

#[inline(always)]
fn add_row(row: &[f64], pivot: f64, far: f64, to: &mut Seen) {
    // Sums of their own, and loops of a fixed length, become vector instructions.
    let Seen { mut sum, mut squares, far: mut count, mut min, mut max } = Seen::NOTHING;
    let (groups, rest) = row.as_chunks::<LANES>();
    for group in groups {
        for lane in 0..LANES {
            let offset = group[lane] - pivot;
            sum[lane] += offset;
            squares[lane] += offset * offset;
            count[lane] += if offset.abs() > far { 1.0 } else { 0.0 };
            min[lane] = if offset < min[lane] { offset } else { min[lane] };
            max[lane] = if offset > max[lane] { offset } else { max[lane] };
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        let offset = value - pivot;
        sum[lane] += offset;
        squares[lane] += offset * offset;
        count[lane] += if offset.abs() > far { 1.0 } else { 0.0 };
        min[lane] = if offset < min[lane] { offset } else { min[lane] };
        max[lane] = if offset > max[lane] { offset } else { max[lane] };
    }
    *to = Seen { sum, squares, far: count, min, max };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::{Survey, survey};
    use crate::random::Random;

    /// What a glance says of pixels, and the survey.
    fn said(values: Vec<f32>, nx: usize) -> (bool, Option<Survey>) {
        let pixels = Pixels::F32(values.into());
        let glance = Glance::new(&pixels, nx, true);
        let Pixels::F32(values) = &pixels else { unreachable!("these are f32") };
        let all = |glance: &Glance| {
            values.chunks_exact(nx).all(|row| glance.see(&row.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>()))
        };
        let says = glance.is_some_and(|glance| all(&glance) && glance.shows_nothing_to_adjust(pixels.len()));
        (says, survey(&pixels, true, &mut Vec::new()).ok())
    }

    #[test]
    fn a_glance_never_says_what_the_survey_denies() {
        let nothing = Some(Survey { adjust: None, constant: false });
        for seed in 0..300 {
            let mut random = Random::new(2, &[seed]);
            let (nx, ny) = (100 + seed as usize % 7, 90);
            let mut values: Vec<f32> = (0..nx * ny).map(|_| 50.0 + 3.0 * random.normal() as f32).collect();
            // Some pixels lie out, by anything from a little to far too much.
            let (count, reach) = (seed as usize % 5 * (seed as usize % 13), 3.0 * 10f64.powf(2.5 * random.unit()));
            for _ in 0..count {
                let at = (random.unit() * (nx * ny) as f64) as usize;
                values[at.min(nx * ny - 1)] += reach as f32;
            }
            let (says, survey) = said(values, nx);
            assert!(!says || survey == nothing, "seed {seed}: {count} pixels {reach:.0} out, {survey:?}");
            assert!(says || count > 0, "seed {seed}: the survey is not needed for noise alone");
        }
    }

    #[test]
    fn it_leaves_what_is_not_plain_to_the_survey() {
        let noise = |seed| {
            let mut random = Random::new(3, &[seed]);
            (0..64 * 64).map(move |_| random.normal() as f32).collect::<Vec<f32>>()
        };
        assert!(!said(vec![1.0; 64 * 64], 64).0, "pixels that are all equal");
        let (mut with_nan, mut with_hot) = (noise(1), noise(2));
        with_nan[1000] = f32::NAN;
        with_hot[1000] = 30.0;
        assert!(!said(with_nan, 64).0 && !said(with_hot, 64).0 && said(noise(3), 64).0);
    }
}
