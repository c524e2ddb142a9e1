//! Seeking the threshold: how high scores must be to mean something depends on the data, and no score says so by itself. So the
//! network is shown, beside a few micrographs, copies of them in which nothing can be seen: with the same power at every frequency,
//! the phases drawn anew. What it finds there is noise, and of the same kind as the micrographs' own.
//!
//! ```text
//! threshold = the least t such that at every score from t on, the copies have at most `share` as many picks as the micrographs
//! ```
//! Few particles among much noise give a high threshold, many faint ones a low one. The copies still hold the particles' power, as
//! a texture, so they show more than the noise between particles does: a share well above the share of false picks is right.
//! docs/options.md, "Threshold", says how the share was chosen.
//! Source of the copies: Theiler et al. 1992, doi:10.1016/0167-2789(92)90102-S (surrogate data). Source of the count: Elias, Gygi
//! 2007, doi:10.1038/nmeth1019 (target and decoy).

use crate::compat::Compat;
use crate::formats::image::{Micrograph, ReadOptions, read_micrograph};
use crate::net::PeakFinders;
use crate::pick::run::Input;
use crate::pick::seek_scale::{sample_indices, scores_of};
use crate::preprocess::ground::Ground;
use crate::preprocess::scale::Scale;
use crate::preprocess::{equalise, network_input, preprocess, quantise_f32};
use crate::random::Random;
use anyhow::{Context, Result};
use rustfft::FftPlanner;
use rustfft::num_complex::Complex;
use std::str::FromStr;

/// The most micrographs that are looked at, spread evenly.
pub const MOST_SAMPLES: usize = 8;
/// Thresholds that are tried: steps of this, down to the least and up to the most.
const STEP: f64 = 0.005;
const LEAST: f64 = 0.05;
const MOST: f64 = 0.9;
/// Fewer picks of the copies than this say nothing.
const FEWEST: usize = 3;
/// The share that serves where a model says none.
pub const USUAL_SHARE: f64 = 0.7;
/// The noise is the same in every run.
const SEED: u64 = 317;

/// A threshold as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// It is sought.
    Auto,
    /// A score.
    Score(f32),
}

impl Threshold {
    /// The score, if it is one.
    pub fn score(self) -> Option<f32> {
        match self {
            Threshold::Auto => None,
            Threshold::Score(score) => Some(score),
        }
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Threshold, String> {
        let score = || text.trim().parse().ok().filter(|score| (0.0..=1.0).contains(score)).map(Threshold::Score);
        if text == "auto" { Ok(Threshold::Auto) } else { score().ok_or_else(|| "expected a number from 0 to 1, or auto".to_string()) }
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sought {
    /// The threshold.
    pub threshold: f32,
    /// Picks above it on the samples, and on their copies.
    pub picks: usize,
    /// Those on the copies.
    pub of_noise: usize,
    /// How many samples there were.
    pub samples: usize,
}

impl Sought {
    /// What was found, as a line for the user.
    pub fn text(&self) -> String {
        let Sought { threshold, picks, samples, .. } = self;
        let on =
            if *samples == 1 { "a micrograph and a copy of it".to_string() } else { format!("{samples} micrographs and copies of them") };
        let hardly = if *picks < 2 * samples { "; there seem to be no particles here, or hardly any" } else { "" };
        format!("threshold {threshold:.3}, sought on {on} in which nothing can be seen{hardly}; give --vis_thresh if you know better")
    }
}

/// How samples are looked at.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    /// How micrographs are read.
    pub read: &'a ReadOptions,
    /// What gives their frame.
    pub scale: &'a Scale,
    /// Side of the constant box, network pixels.
    pub side_n_px: f64,
    /// What is done about the ground.
    pub ground: Ground,
    /// Faults of the original to repeat.
    pub compat: &'a Compat,
    /// The most picks of the copies, as a share of those of the micrographs.
    pub share: f64,
}

/// The threshold for a batch; none if no sample can be read.
///
/// Deterministic: the same micrographs in the same order give the same threshold.
/// Errors: the network cannot run.
/// Source: the formula above.
pub fn seek(pickers: &mut PeakFinders, inputs: &[Input], how: &How) -> Result<Option<Sought>> {
    let (mut picks, mut of_noise, mut samples) = (Vec::new(), Vec::new(), 0);
    for place in sample_indices(inputs.len(), MOST_SAMPLES) {
        let input = &inputs[place];
        // A micrograph that cannot be used fails when its turn comes.
        let Ok(micrograph) = read_micrograph(&input.path, &ReadOptions { sections: input.sections, ..*how.read }) else { continue };
        let pixel_size_angstrom = input.pixel_size_angstrom(micrograph.pixel_size_angstrom);
        let Micrograph { nx, ny, .. } = micrograph;
        let Ok(frame) = how.scale.frame([nx, ny], pixel_size_angstrom) else { continue };
        let Ok(prepared) = preprocess(&micrograph, frame, how.ground, how.compat) else { continue };
        drop(micrograph);
        if prepared.constant {
            continue;
        }
        let geometry = &prepared.geometry;
        let mut random = Random::new(SEED, &[place as u64]);
        let copy = with_other_phases(&prepared.equalised, [geometry.height_d, geometry.frame], &mut random);
        let copy = network_input(&equalise(&quantise_f32(&copy)), geometry);
        let mut scores = |image: &[f32]| scores_of(pickers, image, geometry, how.side_n_px, how.compat).context("seeking the threshold");
        picks.extend(scores(&prepared.image)?);
        of_noise.extend(scores(&copy)?);
        samples += 1;
    }
    Ok((samples > 0).then(|| {
        let threshold = least_threshold(&picks, &of_noise, how.share);
        let above = |scores: &[f32]| scores.iter().filter(|score| **score > threshold).count();
        Sought { threshold, picks: above(&picks), of_noise: above(&of_noise), samples }
    }))
}

/// The least threshold by the formula above.
fn least_threshold(picks: &[f32], of_noise: &[f32], share: f64) -> f32 {
    let steps = ((MOST - LEAST) / STEP).round() as usize;
    let mut found = MOST;
    for step in 0..=steps {
        let threshold = MOST - step as f64 * STEP;
        let above = |scores: &[f32]| scores.iter().filter(|score| f64::from(**score) >= threshold).count();
        let noise = above(of_noise);
        if noise >= FEWEST && noise as f64 > share * above(picks) as f64 {
            break;
        }
        found = threshold;
    }
    // Rounded, so that it reads as it is kept.
    ((found * 1e3).round() / 1e3) as f32
}

/// An image of the same power at every frequency, with the phases of noise.
///
/// Shapes: `levels` (height, width), row after row; the result likewise, of mean 0.
fn with_other_phases(levels: &[u8], [height, width]: [usize; 2], random: &mut Random) -> Vec<f32> {
    let mean = levels.iter().map(|&level| f64::from(level)).sum::<f64>() / levels.len() as f64;
    // The image is the real part and the noise the imaginary part, so one transform gives the spectra of both.
    let mut values: Vec<Complex<f32>> =
        levels.iter().map(|&level| Complex::new((f64::from(level) - mean) as f32, random.normal() as f32)).collect();
    transform(&mut values, [height, width], false);
    let spectrum = values.clone();
    for (i, value) in values.iter_mut().enumerate() {
        let (y, x) = (i / width, i % width);
        let opposite = spectrum[(height - y) % height * width + (width - x) % width].conj();
        let (image, noise) = ((spectrum[i] + opposite) * 0.5, (spectrum[i] - opposite) * Complex::new(0.0, -0.5));
        let size = noise.norm();
        *value = if size > 0.0 { noise * (image.norm() / size) } else { Complex::default() };
    }
    transform(&mut values, [height, width], true);
    let scale = 1.0 / values.len() as f32;
    values.into_iter().map(|value| value.re * scale).collect()
}

/// The Fourier transform in two dimensions, not scaled.
fn transform(values: &mut [Complex<f32>], [height, width]: [usize; 2], inverse: bool) {
    let mut planner = FftPlanner::<f32>::new();
    let mut plan = |length: usize| if inverse { planner.plan_fft_inverse(length) } else { planner.plan_fft_forward(length) };
    let (along, down) = (plan(width), plan(height));
    along.process(values);
    let mut columns: Vec<Complex<f32>> = (0..values.len()).map(|i| values[i % height * width + i / height]).collect();
    down.process(&mut columns);
    values.iter_mut().enumerate().for_each(|(i, value)| *value = columns[i % width * height + i / width]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::splitmix64;

    #[test]
    fn copies_have_the_power_of_the_image_and_nothing_of_its_form() {
        let size = [48, 60];
        // A square on noise.
        let is_square = |i: usize| (20..32).contains(&(i / 60)) && (10..22).contains(&(i % 60));
        let level = |i: usize| if is_square(i) { 220 } else { (splitmix64(i as u64) % 90) as u8 };
        let levels: Vec<u8> = (0..size[0] * size[1]).map(level).collect();
        let copy = with_other_phases(&levels, size, &mut Random::new(1, &[]));
        let power = |values: Vec<f32>| -> Vec<f32> {
            let mut values: Vec<Complex<f32>> = values.into_iter().map(|value| Complex::new(value, 0.0)).collect();
            transform(&mut values, size, false);
            values.into_iter().map(|value| value.norm()).collect()
        };
        let mean = levels.iter().map(|&level| f32::from(level)).sum::<f32>() / levels.len() as f32;
        let image: Vec<f32> = levels.iter().map(|&level| f32::from(level) - mean).collect();
        let (expected, found) = (power(image.clone()), power(copy.clone()));
        let most = expected.iter().copied().fold(0.0, f32::max);
        // Where the image has no mean, the copy has none.
        assert!(expected.iter().zip(&found).skip(1).all(|(a, b)| (a - b).abs() < 1e-4 * most));
        let likeness = image.iter().zip(&copy).map(|(a, b)| a * b).sum::<f32>() / image.iter().map(|a| a * a).sum::<f32>();
        assert!(likeness.abs() < 0.5, "{likeness}");
        assert!(copy == with_other_phases(&levels, size, &mut Random::new(1, &[])));
        assert!(copy != with_other_phases(&levels, size, &mut Random::new(2, &[])));
    }

    #[test]
    fn the_threshold_is_the_least_at_which_noise_has_its_share_or_less() {
        // Scores of particles from .4 on, of noise up to .5.
        let particles: Vec<f32> = (0..30).map(|i| 0.4025 + 0.005 * i as f32).collect();
        let noise: Vec<f32> = (0..100).map(|i| 0.0025 + 0.005 * i as f32).collect();
        let both = [&particles[..], &noise].concat();
        let threshold = least_threshold(&both, &noise, 0.7);
        let above = |scores: &[f32]| scores.iter().filter(|score| **score >= threshold).count() as f64;
        assert!(above(&noise) <= 0.7 * above(&both), "{threshold}");
        let below = threshold - STEP as f32;
        let then = |scores: &[f32]| scores.iter().filter(|score| **score >= below).count() as f64;
        assert!(then(&noise) > 0.7 * then(&both), "{threshold}");
        // Nothing but noise: nothing passes but chance. No noise: everything does.
        assert!(least_threshold(&noise, &noise, 0.7) > 0.48);
        assert_eq!(least_threshold(&particles, &[], 0.7), LEAST as f32);
        assert_eq!("auto".parse(), Ok(Threshold::Auto));
        assert_eq!("0.25".parse(), Ok(Threshold::Score(0.25)));
        for text in ["", "1.1", "-0.1", "NaN", "automatic"] {
            assert!(text.parse::<Threshold>().is_err(), "{text}");
        }
    }
}
