//! Seeking the scale: where no diameter is known, several are tried on a few micrographs.
//!
//! The criterion is the weighted score S3 / (1 + S2), with S2 and S3 the sums of the squares and cubes of the picks' scores
//! over all samples: the mean score, each weighted by its square. At the right scale most picks are sure; at wrong ones the
//! network is in doubt everywhere. The 1 keeps a single lucky pick from deciding. It needs no threshold and hardly depends on
//! how many particles there are. Picks nearer than half a supposed diameter to a better one do not count.
//! Source: docs/options.md, "Scale".

use crate::compat::Compat;
use crate::formats::image::{Micrograph, ReadOptions, read_micrograph};
use crate::net::PeakFinders;
use crate::pick::decode::{candidates, side_n_to_m};
use crate::pick::filter::{DISTANCE_SIDES, Limits, filter, sides_as_distance};
use crate::pick::run::Input;
use crate::preprocess::geometry::Geometry;
use crate::preprocess::ground::Ground;
use crate::preprocess::preprocess;
use crate::preprocess::scale::{Diameter, FixedBy, ORIGINAL_FRAME, Scale};
use anyhow::{Context, Result};

/// Frames of the first sample that are tried: steps of a square root of two, as near as multiples of 32 come.
const FRAMES: [usize; 9] = [96, 128, 192, 256, 352, 512, 704, 1024, 1408];
/// This frame is tried only if the widest of `FRAMES` is the best, because it takes as long as all of them together.
const WIDEST: usize = 2048;
/// The widest frame that is tried, in widths of the micrograph: a wider one would only enlarge it.
const MOST_ENLARGED: usize = 2;
/// A weighted score below this says that the network saw nothing.
const LEAST_SCORE: f64 = 0.02;
/// The most micrographs that scales are tried on: a few agree with all, and each takes as long as several picks.
pub const MOST_SAMPLES: usize = 3;

/// A micrograph to try scales on.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What was recorded.
    pub micrograph: Micrograph,
    /// Angstrom per pixel, where it is known.
    pub pixel_size_angstrom: Option<f64>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Sought {
    /// The diameter at which the weighted score is largest.
    pub diameter: Diameter,
    /// Diameters that were tried, ascending, with their weighted scores.
    pub tried: Vec<(f64, f64)>,
    /// How many samples there were.
    pub samples: usize,
}

impl Sought {
    /// What was tried and what was taken, as a line for the user.
    pub fn text(&self) -> String {
        let (unit, diameter) = match self.diameter {
            Diameter::Angstrom(diameter) => ("angstrom", diameter),
            Diameter::Pixels(diameter) => ("micrograph pixels", diameter),
        };
        let tried: Vec<String> = self.tried.iter().map(|(diameter, score)| format!("{diameter:.0} ({score:.3})")).collect();
        format!(
            "no diameter is known: tried {} {unit} on {} micrographs and takes {diameter:.0}, where picks are surest (their weighted \
             scores in brackets); give --diameter if you know better",
            tried.join(", "),
            self.samples
        )
    }
}

impl Scale {
    /// The scale that is left when seeking it is over: that of the diameter found, else the original's.
    pub fn sought(found: Option<Diameter>, side_n_px: f64) -> Scale {
        let nothing = Scale::Fixed { frame: ORIGINAL_FRAME, by: FixedBy::NothingSeen };
        found.map_or(nothing, |diameter| Scale::OfParticles { side_n_px, diameter })
    }
}

/// Which of `count` micrographs are samples, at most so many: spread evenly.
pub fn sample_indices(count: usize, most: usize) -> Vec<usize> {
    let samples = count.min(most);
    (0..samples).map(|i| (2 * i + 1) * count / (2 * samples)).collect()
}

/// Micrographs that are tried in place of a sample that is of no use.
const MOST_TRIED: usize = 8;

/// Micrographs to try scales on, spread evenly. One that cannot be read, that cannot be prepared or in which all pixels are
/// equal tells nothing of the scale, so the next one stands in for it. It fails, if it fails, when its turn to be picked comes.
pub fn samples(inputs: &[Input], read: &ReadOptions, compat: &Compat) -> Vec<Sample> {
    let sample = |input: &Input| {
        let micrograph = read_micrograph(&input.path, &ReadOptions { sections: input.sections, ..*read }).ok()?;
        let prepared = preprocess(&micrograph, FRAMES[0], Ground::Kept, compat).ok()?;
        let pixel_size_angstrom = input.pixel_size_angstrom(micrograph.pixel_size_angstrom);
        (!prepared.constant).then_some(Sample { micrograph, pixel_size_angstrom })
    };
    let places = sample_indices(inputs.len(), MOST_SAMPLES);
    let ends = places.iter().skip(1).copied().chain([inputs.len()]);
    places.iter().zip(ends).filter_map(|(&from, end)| inputs[from..end].iter().take(MOST_TRIED).find_map(sample)).collect()
}

/// The diameter at which a network that knows particles of `side_n_px` sees most; none if it sees nothing at any.
///
/// Deterministic: the same samples in the same order give the same bits.
/// Errors: the network cannot run.
pub fn seek(pickers: &mut PeakFinders, samples: &[Sample], side_n_px: f64, ground: Ground, compat: &Compat) -> Result<Option<Sought>> {
    let Some(first) = samples.first() else { return Ok(None) };
    let in_angstrom = samples.iter().all(|sample| sample.pixel_size_angstrom.is_some());
    let longer = first.micrograph.nx.max(first.micrograph.ny);
    let extent = longer as f64 * first.pixel_size_angstrom.filter(|_| in_angstrom).unwrap_or(1.0);
    let of_frame = |frame: usize| side_n_px * extent / frame as f64;
    let diameter = |value: f64| if in_angstrom { Diameter::Angstrom(value) } else { Diameter::Pixels(value) };
    let mut score_of = |value: f64| -> Result<f64> {
        let scale = Scale::OfParticles { side_n_px, diameter: diameter(value) };
        let (mut squares, mut cubes) = (0.0, 0.0);
        for sample in samples {
            for score in scores(pickers, sample, &scale, side_n_px, ground, compat)? {
                squares += score * score;
                cubes += score * score * score;
            }
        }
        Ok(cubes / (1.0 + squares))
    };
    let mut tried: Vec<(f64, f64)> = Vec::new();
    for frame in FRAMES.into_iter().filter(|frame| *frame <= MOST_ENLARGED * longer) {
        tried.push((of_frame(frame), score_of(of_frame(frame))?));
    }
    if best(&tried) == Some(FRAMES.len() - 1) && WIDEST <= MOST_ENLARGED * longer {
        tried.push((of_frame(WIDEST), score_of(of_frame(WIDEST))?));
    }
    let Some(at) = best(&tried).filter(|at| tried[*at].1 > LEAST_SCORE) else { return Ok(None) };
    let found = vertex(&tried, at);
    tried.reverse(); // from small to large diameters
    Ok(Some(Sought { diameter: diameter(found), tried, samples: samples.len() }))
}

fn best(tried: &[(f64, f64)]) -> Option<usize> {
    // Of equal scores the first is taken, because its frame is the narrowest and so the cheapest.
    (0..tried.len()).reduce(|best, i| if tried[i].1 > tried[best].1 { i } else { best })
}

/// The top of the parabola through the best diameter and its neighbours, over the logarithm.
fn vertex(tried: &[(f64, f64)], at: usize) -> f64 {
    let (value, top) = tried[at];
    if at == 0 || at + 1 == tried.len() {
        return value;
    }
    let ((before, low), (after, high)) = (tried[at - 1], tried[at + 1]);
    let [a, b] = [before, after].map(|other| (other / value).ln());
    // y = top + p t + q t^2 through (a, low), (0, top), (b, high).
    let (slope_a, slope_b) = ((low - top) / a, (high - top) / b);
    let q = (slope_a - slope_b) / (a - b);
    let p = slope_a - q * a;
    if q < 0.0 { value * (-p / (2.0 * q)).clamp(a.min(b) / 2.0, a.max(b) / 2.0).exp() } else { value }
}

/// The scores of the picks that the network finds in a sample at a scale.
fn scores(pickers: &mut PeakFinders, sample: &Sample, scale: &Scale, side_n_px: f64, ground: Ground, compat: &Compat) -> Result<Vec<f64>> {
    let Micrograph { nx, ny, .. } = sample.micrograph;
    // A sample that has no frame at this scale shows nothing there.
    let Ok(frame) = scale.frame([nx, ny], sample.pixel_size_angstrom) else { return Ok(Vec::new()) };
    let Ok(prepared) = preprocess(&sample.micrograph, frame, ground, compat) else { return Ok(Vec::new()) };
    let found = scores_of(pickers, &prepared.image, &prepared.geometry, side_n_px, compat).context("seeking the scale")?;
    Ok(found.into_iter().map(f64::from).collect())
}

/// The scores of all picks that the network finds in an image, whatever their score; of picks nearer than half a particle to a better
/// one there is none.
///
/// Errors: the network cannot run.
pub fn scores_of(pickers: &mut PeakFinders, image: &[f32], geometry: &Geometry, side_n_px: f64, compat: &Compat) -> Result<Vec<f32>> {
    let peaks = pickers.get(geometry.frame)?.run(image)?;
    let found = candidates(&peaks, geometry, compat);
    let side_m_px = side_n_to_m(side_n_px, geometry);
    let min_distance = sides_as_distance(DISTANCE_SIDES, side_m_px, geometry.nx);
    let limits = Limits { k: found.len(), vis_thresh: 0.0, edge: 0.0, min_distance };
    let kept = filter(&found, &limits, [geometry.nx, geometry.ny], side_m_px, compat);
    Ok(kept.into_iter().map(|i| found[i].score).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_over_the_batch() {
        assert_eq!(sample_indices(0, MOST_SAMPLES), [0; 0]);
        assert_eq!(sample_indices(1, MOST_SAMPLES), [0]);
        assert_eq!(sample_indices(2, MOST_SAMPLES), [0, 1]);
        assert_eq!(sample_indices(3, MOST_SAMPLES), [0, 1, 2]);
        assert_eq!(sample_indices(100, MOST_SAMPLES), [16, 50, 83]);
    }

    #[test]
    fn the_best_diameter_lies_between_those_that_were_tried() {
        // A parabola over the logarithm with its top at 100.
        let tried: Vec<(f64, f64)> =
            [200.0, 140.0, 90.0, 60.0].into_iter().map(|value: f64| (value, 0.3 - 0.1 * (value / 100.0).ln().powi(2))).collect();
        assert_eq!(best(&tried), Some(2));
        assert!((vertex(&tried, 2) - 100.0).abs() < 1e-9);
        assert_eq!(vertex(&tried, 0), 200.0);
    }
}
