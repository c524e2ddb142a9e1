//! Micrographs with known truth, from first principles: where every electron of a specimen is, what the lens makes of
//! it, and which electrons the detector counts.
//!
//! ```text
//! V(x, y)  projected potential of everything in the ice beyond that of the ice, volt angstrom    (field, shapes, dirt)
//! I(k)     = dose * ( delta(k) - 2 sigma V(k) (sqrt(1 - a^2) sin chi + a cos chi) E(k) )          (optics)
//! image    = MTF( Poisson(I * transmission) )
//! ```
//! Everything is in angstrom, volt and electrons, so contrast and noise follow from dose, defocus and thickness, not
//! from a chosen ratio. What it leaves out (multiple scattering, motion, charging, the fine structure of real ice and of
//! real dirt) makes simulated micrographs easier than real ones.
//! Source: Vulovic et al. 2013, doi:10.1016/j.jsb.2013.05.008; Baxter et al. 2009, doi:10.1016/j.jsb.2009.02.012.

pub mod density; //  where the electrons of a particle are, from a file
pub mod dirt; //     carbon, crystals, droplets, gold
pub mod field; //    what lies where in a micrograph
pub mod filament;
pub mod optics; //   lens, electrons, detector
pub mod preset; //   what is drawn: kinds, crowds, microscopes
pub mod scene; //    a specimen before any electron has seen it
pub mod shapes; //   built-in particles, thousands of kinds
pub mod spectrum; // Fourier transforms of images
pub mod vesicle;

use crate::formats::coordinates::Coordinates;
use crate::random::Random;
use anyhow::Result;

pub use preset::{Recipe, Specimen};

/// A micrograph and what is in it.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// (ny, nx) electrons per pixel, row by row.
    pub pixels: Vec<f32>,
    /// Columns.
    pub nx: usize,
    /// Rows.
    pub ny: usize,
    /// Angstrom per pixel.
    pub pixel_size_angstrom: f64,
    /// Everything a picker should find, frame M.
    pub truth: Coordinates,
    /// Diameter of the particles or filaments, mean of the vesicles, angstrom.
    pub diameter_angstrom: f64,
    /// What was drawn, for the log: the kind, and the microscope's settings.
    pub remarks: Vec<(&'static str, String)>,
}

/// Simulates micrograph `index` of a recipe: the same for the same recipe, whatever else is simulated.
///
/// Errors: the micrograph would have no pixels, or more than fit.
pub fn simulate(recipe: &Recipe, index: usize) -> Result<Simulated> {
    let mut random = Random::new(recipe.seed, &[0, index as u64]);
    let scene = field::draw(recipe, index, &mut random)?;
    let optics = optics::Optics::draw(&recipe.microscope, &mut random);
    let pixels = optics.expose(&scene, recipe.seed, index)?;
    let mut remarks = scene.remarks;
    remarks.extend(optics.remarks());
    Ok(Simulated {
        pixels,
        nx: scene.nx,
        ny: scene.ny,
        pixel_size_angstrom: scene.pixel_size_angstrom,
        truth: scene.truth,
        diameter_angstrom: scene.diameter_angstrom,
        remarks,
    })
}
