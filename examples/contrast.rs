//! Measures how micrographs look to a picker, in two numbers, so that simulated micrographs can be compared with real ones.
//!
//! ```text
//! cargo run --release --example contrast -- MICROGRAPHS LABELS DIAMETER_ANGSTROM
//! ```
//!
//! Every micrograph is shrunk until a particle spans 28 pixels. `variance` is the variance of the pixels within the labelled
//! discs over that of the pixels farther than 1.2 radii from every label; it is 1 where particles change nothing. `slope` is the
//! slope of the logarithm of the power spectrum over the logarithm of the frequency, averaged over directions, between two
//! particle diameters and a quarter of one.

use anyhow::{Context, Result, ensure};
use epicker::formats::image::{ReadOptions, read_micrograph};
use epicker::preprocess::fourier_crop::crop;
use epicker::preprocess::geometry::Geometry;
use epicker::preprocess::survey;
use epicker::train::labels::{Options, gather};
use rustfft::FftPlanner;
use rustfft::num_complex::Complex;
use std::path::Path;

/// How many pixels a particle spans once the micrograph is shrunk.
const ACROSS: f64 = 28.0;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [micrographs, labels, diameter] = args.as_slice() else {
        anyhow::bail!("expected three words: the folders of micrographs and labels, and a diameter in angstrom")
    };
    let diameter: f64 = diameter.parse().context("the diameter is no number")?;
    let (mut variances, mut slopes) = (Vec::new(), Vec::new());
    for one in gather(Path::new(micrographs), Path::new(labels), &Options::default())?.labelled {
        let micrograph = read_micrograph(&one.path, &ReadOptions::default())?;
        let pixel = micrograph.pixel_size_angstrom.with_context(|| format!("{}: no pixel size", one.stem))?;
        let frame = ACROSS * micrograph.nx as f64 * pixel / diameter;
        let frame = ((frame / 32.0).round() as usize * 32).max(64);
        let geometry = Geometry::new(micrograph.nx, micrograph.ny, frame);
        ensure!(geometry.height_d > 64, "{}: too low", one.stem);
        let adjust = survey(&micrograph.pixels, true, &mut Vec::new())?.adjust;
        let image = crop(&micrograph.pixels, &geometry, adjust, false)?;
        let places: Vec<[f64; 2]> = one.coordinates.points.iter().map(|point| geometry.m_to_d([point.x, point.y])).collect();
        let radius = diameter / pixel / 2.0 * frame as f64 / micrograph.nx as f64;
        let (variance, slope) = (variance_ratio(&image, frame, &places, radius), slope(&image, frame, 4.0 * radius, 0.5 * radius));
        println!("{}: {} labels, variance {variance:.2}, slope {slope:.2}", one.stem, places.len());
        variances.push(variance);
        slopes.push(slope);
    }
    for (name, mut values) in [("variance", variances), ("slope", slopes)] {
        values.retain(|value: &f64| value.is_finite());
        values.sort_by(f64::total_cmp);
        ensure!(!values.is_empty(), "no micrograph with labels");
        println!("{name}: {:.2} to {:.2}, median {:.2}", values[0], values[values.len() - 1], values[values.len() / 2]);
    }
    Ok(())
}

fn variance_ratio(image: &[f64], width: usize, places: &[[f64; 2]], radius: f64) -> f64 {
    let (mut within, mut outside) = (Vec::new(), Vec::new());
    for (i, &value) in image.iter().enumerate() {
        let (x, y) = ((i % width) as f64, (i / width) as f64);
        let nearest = places.iter().map(|[px, py]| (px - x).hypot(py - y)).fold(f64::INFINITY, f64::min);
        if nearest <= radius {
            within.push(value);
        } else if nearest > 1.2 * radius {
            outside.push(value);
        }
    }
    variance(&within) / variance(&outside)
}

fn variance(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64
}

/// The slope of the power spectrum between the wavelengths `long` and `short`, in pixels. Only the middle square of the image is
/// taken, with its edges faded out.
fn slope(image: &[f64], width: usize, long: f64, short: f64) -> f64 {
    let side = width.min(image.len() / width);
    let mean = image.iter().sum::<f64>() / image.len() as f64;
    let fade: Vec<f64> = (0..side).map(|i| (std::f64::consts::PI * (i as f64 + 0.5) / side as f64).sin()).collect();
    let mut values: Vec<Complex<f64>> = (0..side * side)
        .map(|i| Complex::new((image[i / side * width + i % side] - mean) * fade[i % side] * fade[i / side], 0.0))
        .collect();
    let plan = FftPlanner::new().plan_fft_forward(side);
    for _ in 0..2 {
        values.chunks_mut(side).for_each(|row| plan.process(row));
        values = (0..side * side).map(|i| values[i % side * side + i / side]).collect();
    }
    let bins = 24;
    let mut sums = vec![(0.0, 0.0); bins];
    let (low, high) = ((1.0 / long).ln(), (1.0 / short).ln());
    let frequency = |i: usize| if 2 * i < side { i as f64 } else { i as f64 - side as f64 } / side as f64;
    for (i, value) in values.iter().enumerate() {
        let share = (frequency(i % side).hypot(frequency(i / side)).ln() - low) / (high - low);
        if (0.0..1.0).contains(&share) {
            let bin = &mut sums[(share * bins as f64) as usize];
            *bin = (bin.0 + value.norm_sqr(), bin.1 + 1.0);
        }
    }
    let points: Vec<(f64, f64)> = sums
        .iter()
        .enumerate()
        .filter(|(_, (_, count))| *count > 0.0)
        .map(|(i, (sum, count))| (low + (high - low) * (i as f64 + 0.5) / bins as f64, (sum / count).ln()))
        .collect();
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let (above, below) = points.iter().fold((0.0, 0.0), |(a, b), point| (a + (point.0 - x) * (point.1 - y), b + (point.0 - x).powi(2)));
    above / below
}
