//! The ground under the particles: carbon, the thickness of the ice, the beam. It changes slowly and by far more than
//! particles do, so equalising spends its grey levels on it: beside a carbon film the hole becomes white, and what lies in it is
//! lost. A model may ask for micrographs whose ground has been taken away.
//!
//! ```text
//! ground = the means of cells of 8 x 8 pixels, blurred by a Gaussian whose weights add up to 1 at the border, too,
//!          and between the cells' centres a plane through each four
//! image  = image - ground
//! ```
//! A Gaussian this wide needs no finer cells, and blurring them costs next to nothing. GPU: kernels/preprocess.cu.

use crate::formats::state_dict::ModelFacts;
use rayon::prelude::*;

/// What a model wants done about the ground.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Ground {
    /// Nothing: the original's way.
    #[default]
    Kept,
    /// It is taken away; it is what a Gaussian of this deviation, pixels of frame D, leaves of the image.
    Levelled {
        /// The deviation, above 0.
        sigma_px: f64,
    },
}

/// Side of a cell, pixels of frame D.
pub const CELL: usize = 8;

impl Ground {
    /// What a model asks for.
    pub fn wanted_by(facts: &ModelFacts) -> Ground {
        Ground::of(facts.ground_px)
    }

    /// The ground of this deviation; without one, or for 0, it is kept.
    pub fn of(sigma_px: Option<f64>) -> Ground {
        sigma_px.filter(|sigma| *sigma > 0.0).map_or(Ground::Kept, |sigma_px| Ground::Levelled { sigma_px })
    }

    /// The deviation as a model's file says it.
    pub fn sigma_px(self) -> Option<f64> {
        match self {
            Ground::Kept => None,
            Ground::Levelled { sigma_px } => Some(sigma_px),
        }
    }
}

/// The Gaussian's weights at a distance of 0, 1, 2 ... cells, up to three deviations.
pub fn weights(sigma_px: f64) -> Vec<f64> {
    let sigma = sigma_px / CELL as f64;
    (0..=(3.0 * sigma).ceil() as usize).map(|distance| (-0.5 * (distance as f64 / sigma).powi(2)).exp()).collect()
}

/// Takes the ground away.
///
/// Shapes: `image` has rows of `width` values of frame D.
pub fn level(image: &mut [f64], width: usize, sigma_px: f64) {
    let height = image.len() / width;
    let across = width.div_ceil(CELL);
    let weights = weights(sigma_px);
    let mut cells: Vec<f64> = image.par_chunks(CELL * width).flat_map_iter(|rows| means(rows, width)).collect();
    cells = cells.par_chunks(across).flat_map_iter(|row| blurred(row, 1, &weights)).collect();
    let columns: Vec<Vec<f64>> = (0..across).into_par_iter().map(|x| blurred(&cells[x..], across, &weights)).collect();
    let places: Vec<Place> = (0..width).map(|x| Place::of(x, across)).collect();
    let down = height.div_ceil(CELL);
    image.par_chunks_mut(width).enumerate().for_each(|(y, row)| {
        let Place { first, second, share } = Place::of(y, down);
        let at_cell: Vec<f64> = columns.iter().map(|column| column[first] + share * (column[second] - column[first])).collect();
        for (value, Place { first, second, share }) in row.iter_mut().zip(&places) {
            *value -= at_cell[*first] + share * (at_cell[*second] - at_cell[*first]);
        }
    });
}

/// The means of the cells of some rows, as many as there are.
fn means(rows: &[f64], width: usize) -> Vec<f64> {
    let mut sums = vec![(0.0, 0.0); width.div_ceil(CELL)];
    for row in rows.chunks(width) {
        for (values, (sum, count)) in row.chunks(CELL).zip(&mut sums) {
            *sum += values.iter().sum::<f64>();
            *count += values.len() as f64;
        }
    }
    sums.into_iter().map(|(sum, count)| sum / count).collect()
}

/// Values `stride` apart, each the mean of its neighbours by weight.
fn blurred(values: &[f64], stride: usize, weights: &[f64]) -> Vec<f64> {
    let count = values.len().div_ceil(stride);
    let one = |at: usize| {
        let (from, to) = (at.saturating_sub(weights.len() - 1), (at + weights.len()).min(count));
        let (mut sum, mut all) = (0.0, 0.0);
        for i in from..to {
            let weight = weights[i.abs_diff(at)];
            sum += weight * values[i * stride];
            all += weight;
        }
        sum / all
    };
    (0..count).map(one).collect()
}

/// Between which cells a pixel lies.
struct Place {
    first: usize,
    second: usize,
    /// How far it is from the centre of the first to that of the second.
    share: f64,
}

impl Place {
    fn of(pixel: usize, cells: usize) -> Place {
        let at = ((pixel as f64 + 0.5) / CELL as f64 - 0.5).clamp(0.0, cells as f64 - 1.0);
        let first = at as usize;
        Place { first, second: (first + 1).min(cells - 1), share: at - first as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::noise;

    #[test]
    fn an_even_image_becomes_zero_and_a_constant_changes_nothing() {
        let (width, height) = (53, 37);
        let mut even = vec![7.5; width * height];
        level(&mut even, width, 20.0);
        assert!(even.iter().all(|value| value.abs() < 1e-12));
        let values: Vec<f64> = noise(width * height, 3).into_iter().map(f64::from).collect();
        let (mut one, mut other) = (values.clone(), values.iter().map(|value| value + 100.0).collect::<Vec<f64>>());
        level(&mut one, width, 20.0);
        level(&mut other, width, 20.0);
        assert!(one.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-10));
    }

    #[test]
    fn slow_waves_go_and_fast_ones_stay() {
        let (width, height, sigma) = (512, 512, 24.0);
        let wave = |period: f64| -> Vec<f64> {
            (0..width * height)
                .map(|i| (std::f64::consts::TAU * (i % width) as f64 / period).sin() * ((i / width) as f64 / 90.0).cos())
                .collect()
        };
        // Far from the border a Gaussian leaves exp(-(2 pi sigma / period)^2 / 2) of a wave.
        for (period, most) in [(24.0, 0.01), (400.0, 0.02)] {
            let before = wave(period);
            let mut after = before.clone();
            level(&mut after, width, sigma);
            let gone = |period: f64| (-0.5 * (std::f64::consts::TAU * sigma / period).powi(2)).exp();
            let kept = 1.0 - gone(period) * gone(std::f64::consts::TAU * 90.0);
            for y in 200..300 {
                for x in 150..350 {
                    let i = y * width + x;
                    assert!((after[i] - kept * before[i]).abs() < most, "{period} at {x}, {y}: {} of {}", after[i], before[i]);
                }
            }
        }
    }

    #[test]
    fn the_bits_are_the_same_for_every_number_of_threads() {
        let values: Vec<f64> = noise(300 * 211, 5).into_iter().map(f64::from).collect();
        let run = |threads: usize| {
            let mut image = values.clone();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| level(&mut image, 300, 30.0));
            image
        };
        assert!(run(1) == run(3));
    }
}
