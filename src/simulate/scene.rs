//! What field.rs draws and optics.rs exposes, so that neither of them has to know the other.

use crate::formats::coordinates::Coordinates;

/// A specimen, before any electron has seen it.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Columns.
    pub nx: usize,
    /// Rows.
    pub ny: usize,
    /// Angstrom per pixel.
    pub pixel_size_angstrom: f64,
    /// (ny, nx) projected potential beyond that of even ice, volt angstrom.
    pub potential: Vec<f32>,
    /// (ny, nx) share of electrons that come through.
    pub transmission: Vec<f32>,
    /// Standard deviation, angstrom, of the Gaussian by which the potential has still to be blurred; the optics do it in one
    /// transform with their own.
    pub spread_angstrom: f64,
    /// What should be found.
    pub truth: Coordinates,
    /// Diameter of what should be found, angstrom.
    pub diameter_angstrom: f64,
    /// What was drawn, as names and values for the log.
    pub remarks: Vec<(&'static str, String)>,
}
