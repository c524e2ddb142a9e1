//! What the microscope makes of a specimen: phase contrast through an imperfect lens, counted electrons, a detector that
//! blurs.
//!
//! ```text
//! chi(k) = pi lambda k^2 (defocus + astigmatism/2 cos 2(angle - axis)) - pi/2 Cs lambda^3 k^4
//! ```
//! Source: Reimer, Kohl 2008, Transmission Electron Microscopy, sections 2.3 and 6.2; Vulovic et al. 2013,
//! doi:10.1016/j.jsb.2013.05.008.

use super::scene::Scene;
use super::spectrum::filter;
use crate::random::Random;
use anyhow::Result;
use rayon::prelude::*;
use std::f64::consts::PI;

/// The ranges that a micrograph's settings are drawn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Microscope {
    /// Acceleration, kilovolt.
    pub kilovolt: f64,
    /// Spherical aberration, mm.
    pub cs_mm: f64,
    /// Share of amplitude contrast.
    pub amplitude_contrast: f64,
    /// Least and most defocus (positive: underfocus), angstrom.
    pub defocus_angstrom: [f64; 2],
    /// Most astigmatism, angstrom.
    pub astigmatism_angstrom: f64,
    /// Least and most dose, electrons per square angstrom.
    pub dose: [f64; 2],
    /// Least and most B factor of what blurs besides (motion, damage, coherence), square angstrom.
    pub b_factor: [f64; 2],
    /// Modulation transfer at the Nyquist frequency.
    pub mtf_at_nyquist: f64,
}

impl Default for Microscope {
    /// A 300 kV microscope with a counting detector.
    fn default() -> Self {
        Microscope {
            kilovolt: 300.0,
            cs_mm: 2.7,
            amplitude_contrast: 0.07,
            defocus_angstrom: [8_000.0, 28_000.0],
            astigmatism_angstrom: 600.0,
            dose: [25.0, 60.0],
            b_factor: [60.0, 250.0],
            mtf_at_nyquist: 0.45,
        }
    }
}

/// The settings of one micrograph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optics {
    wavelength_angstrom: f64,
    /// Phase for one volt angstrom, radian.
    interaction: f64,
    cs_angstrom: f64,
    amplitude_contrast: f64,
    defocus_angstrom: f64,
    astigmatism_angstrom: f64,
    axis: f64,
    dose: f64,
    b_factor: f64,
    mtf_at_nyquist: f64,
}

/// Wavelength in angstrom and phase per volt angstrom in radian, of electrons of so many kilovolt.
/// Source: Reimer, Kohl 2008, equations 2.12 and 3.4 (relativistic).
pub fn electrons_of(kilovolt: f64) -> [f64; 2] {
    let volt = kilovolt * 1e3;
    let wavelength = 12.264_3 / (volt + 0.978_476e-6 * volt * volt).sqrt();
    let rest = 510_998.95;
    let interaction = 2.0 * PI / (wavelength * volt) * (rest + volt) / (2.0 * rest + volt);
    [wavelength, interaction]
}

impl Optics {
    /// Draws the settings of a micrograph.
    pub fn draw(microscope: &Microscope, random: &mut Random) -> Optics {
        let [wavelength_angstrom, interaction] = electrons_of(microscope.kilovolt);
        Optics {
            wavelength_angstrom,
            interaction,
            cs_angstrom: microscope.cs_mm * 1e7,
            amplitude_contrast: microscope.amplitude_contrast,
            defocus_angstrom: random.between(microscope.defocus_angstrom),
            astigmatism_angstrom: random.between([0.0, microscope.astigmatism_angstrom]),
            axis: random.between([0.0, PI]),
            dose: random.between(microscope.dose),
            b_factor: random.between(microscope.b_factor),
            mtf_at_nyquist: microscope.mtf_at_nyquist,
        }
    }

    /// The settings, for the log.
    pub fn remarks(&self) -> Vec<(&'static str, String)> {
        vec![
            ("defocus_angstrom", format!("{:.0}", self.defocus_angstrom)),
            ("astigmatism_angstrom", format!("{:.0}", self.astigmatism_angstrom)),
            ("dose_per_square_angstrom", format!("{:.1}", self.dose)),
            ("b_factor_square_angstrom", format!("{:.0}", self.b_factor)),
        ]
    }

    /// Contrast transfer at a frequency, cycles per angstrom, without envelope: what a weak phase of 1 radian takes from
    /// the intensity. Positive: dark.
    pub fn contrast_transfer(&self, kx: f64, ky: f64) -> f64 {
        let k2 = kx * kx + ky * ky;
        let angle = ky.atan2(kx);
        let defocus = self.defocus_angstrom + 0.5 * self.astigmatism_angstrom * (2.0 * (angle - self.axis)).cos();
        let chi = PI * self.wavelength_angstrom * defocus * k2 - 0.5 * PI * self.cs_angstrom * self.wavelength_angstrom.powi(3) * k2 * k2;
        let a = self.amplitude_contrast;
        2.0 * ((1.0 - a * a).sqrt() * chi.sin() + a * chi.cos())
    }

    /// Exposes a scene: electrons counted in each pixel, (ny, nx).
    ///
    /// Errors: as the transforms.
    pub fn expose(&self, scene: &Scene, seed: u64, index: usize) -> Result<Vec<f32>> {
        let (pixel, extent) = (scene.pixel_size_angstrom, [scene.ny, scene.nx]);
        // A transform takes the image for periodic; mirrored beyond its borders it has no edges there to make fringes.
        let margin = ((FRINGES_ANGSTROM / pixel) as usize).min(scene.nx.min(scene.ny) / 2);
        let (mut image, padded) = mirrored(&scene.potential, extent, margin);
        let spread = scene.spread_angstrom;
        filter(&mut image, padded, |kx, ky| {
            let [kx, ky] = [kx / pixel, ky / pixel];
            let k2 = kx * kx + ky * ky;
            let envelope = (-(self.b_factor / 4.0 + 2.0 * PI * PI * spread * spread) * k2).exp();
            if k2 == 0.0 { 0.0 } else { -self.interaction * self.contrast_transfer(kx, ky) * envelope }
        })?;
        let mut image = inner(&image, padded, margin);
        let electrons = self.dose * pixel * pixel;
        image.par_chunks_mut(scene.nx).zip(scene.transmission.par_chunks(scene.nx)).enumerate().for_each(|(row, (image, transmission))| {
            // A stream for each row: the same noise whatever the number of threads.
            let mut random = Random::new(seed, &[1, index as u64, row as u64]);
            for (value, &transmission) in image.iter_mut().zip(transmission) {
                let expected = electrons * f64::from(transmission) * (1.0 + f64::from(*value)).max(0.02);
                *value = poisson(expected, &mut random) as f32;
            }
        });
        let fall = -self.mtf_at_nyquist.ln() / 0.25;
        filter(&mut image, extent, |kx, ky| (-fall * (kx * kx + ky * ky)).exp())?;
        Ok(image)
    }
}

/// How far the fringes of an edge reach that are seen.
const FRINGES_ANGSTROM: f64 = 400.0;

/// An image continued by its mirror image, `margin` pixels on each side, and its rows and columns.
fn mirrored(image: &[f32], [ny, nx]: [usize; 2], margin: usize) -> (Vec<f32>, [usize; 2]) {
    let [rows, columns] = [ny + 2 * margin, nx + 2 * margin];
    let inside = |at: usize, extent: usize| {
        let at = at as i64 - margin as i64;
        (if at < 0 {
            -1 - at
        } else if at >= extent as i64 {
            2 * extent as i64 - 1 - at
        } else {
            at
        }) as usize
    };
    let mut out = vec![0.0; rows * columns];
    out.par_chunks_mut(columns).enumerate().for_each(|(y, row)| {
        let from = &image[inside(y, ny) * nx..][..nx];
        row.iter_mut().enumerate().for_each(|(x, value)| *value = from[inside(x, nx)]);
    });
    (out, [rows, columns])
}

/// The image without its margin.
fn inner(image: &[f32], [rows, columns]: [usize; 2], margin: usize) -> Vec<f32> {
    image.chunks(columns).skip(margin).take(rows - 2 * margin).flat_map(|row| &row[margin..columns - margin]).copied().collect()
}

/// A count with this expectation. Exact below 30; above, the rounded normal of the same mean and variance, whose
/// skewness is missed by less than 0.2.
/// Source: Knuth 1997, The Art of Computer Programming 2, section 3.4.1.
fn poisson(expected: f64, random: &mut Random) -> f64 {
    if expected > 30.0 {
        return (expected + expected.sqrt() * random.normal()).round().max(0.0);
    }
    let limit = (-expected).exp();
    let mut product = random.unit();
    let mut count = 0.0;
    while product > limit {
        product *= random.unit();
        count += 1.0;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn electrons_have_the_wavelengths_of_the_textbook() {
        for (kilovolt, wavelength, interaction) in [(100.0, 0.037_01, 9.244e-4), (200.0, 0.025_08, 7.288e-4), (300.0, 0.019_69, 6.526e-4)] {
            let [found, phase] = electrons_of(kilovolt);
            assert!((found - wavelength).abs() < 2e-5, "{kilovolt} kV: {found}");
            assert!((phase - interaction).abs() < 1e-6, "{kilovolt} kV: {phase}");
        }
    }

    #[test]
    fn a_mirrored_image_has_itself_inside() {
        let image: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let (padded, extent) = mirrored(&image, [3, 4], 1);
        assert_eq!(extent, [5, 6]);
        assert_eq!(padded[..6], [0.0, 0.0, 1.0, 2.0, 3.0, 3.0]);
        assert_eq!(padded[24..], [8.0, 8.0, 9.0, 10.0, 11.0, 11.0]);
        assert_eq!(inner(&padded, extent, 1), image);
    }

    #[test]
    fn counts_have_their_mean_and_variance() {
        for expected in [0.3, 7.0, 29.0, 80.0] {
            let mut random = Random::new(3, &[]);
            let counts: Vec<f64> = (0..40_000).map(|_| poisson(expected, &mut random)).collect();
            let mean = counts.iter().sum::<f64>() / 40_000.0;
            let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 40_000.0;
            // Five deviations of the mean; of the variance, whose own is about expected * sqrt(2 / n) + sqrt(expected / n).
            assert!((mean - expected).abs() < 5.0 * (expected / 40_000.0_f64).sqrt(), "{expected}: mean {mean}");
            assert!(
                (variance - expected).abs() < 5.0 * (expected * 0.0071 + (expected / 40_000.0_f64).sqrt()) + 0.09,
                "{expected}: variance {variance}"
            );
        }
    }
}
