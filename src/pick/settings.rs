//! The settings of a batch: made once, before the first micrograph, and the same for all of them.

use crate::compat::{Compat, Fault};
use crate::formats::candidates::{Facts, key};
use crate::formats::image::ReadOptions;
use crate::net::Views;
use crate::pick::decode::side_n_to_m;
use crate::pick::filter::{Limits, sides_as_distance};
use crate::pick::output::{self, OutputRule};
use crate::preprocess::geometry::Geometry;
use crate::preprocess::ground::Ground;
use crate::preprocess::scale::Scale;
use anyhow::{Context, Result};

/// What holds for every micrograph of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What a pick must pass.
    pub limits: Limits,
    /// The least distance of two picks, in sides of the constant box; where it is given, it replaces that of `limits`.
    pub distance_sides: Option<f64>,
    /// Distances that were given in angstrom, which replace those of `limits`.
    pub in_angstrom: InAngstrom,
    /// How picks are written.
    pub rule: OutputRule,
    /// Text before the extension of output files; candidates repeat it, so that `rethreshold` finds the names again.
    pub suffix: String,
    /// What gives the frame of a micrograph: the width of D, and width and height of N.
    pub scale: Scale,
    /// Side of the constant box, network pixels.
    pub side_n_px: f64,
    /// Side of the boxes that are written.
    pub written_side: WrittenSide,
    /// How micrographs are read.
    pub read: ReadOptions,
    /// What is done about the ground of micrographs, as the model wants it.
    pub ground: Ground,
    /// Candidates at this score or below are not kept.
    pub floor: f32,
    /// The most peaks that the network is asked for.
    pub cap: usize,
    /// How many views of each micrograph are averaged.
    pub views: Views,
    /// The model, as candidates name it.
    pub model: ModelName,
    /// True if somebody will look at the micrographs: then a GPU brings the small image back, too.
    pub is_shown: bool,
    /// How many micrographs of this run the page of `--report` will show; none without a page.
    pub report: Option<usize>,
}

/// Distances in angstrom: how many pixels they are is known only of a micrograph.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InAngstrom {
    /// Clear margin between a pick's box and the border.
    pub edge: Option<f64>,
    /// The least distance of two picks.
    pub min_distance: Option<f64>,
}

impl InAngstrom {
    /// These limits for a micrograph of `nx` columns, whose distances are counted in pixels of the 1024-wide image.
    ///
    /// Errors: a distance in angstrom, and the pixel size is unknown.
    pub fn replace_in(&self, limits: Limits, nx: usize, pixel_size_angstrom: Option<f64>) -> Result<Limits> {
        if self == &InAngstrom::default() {
            return Ok(limits);
        }
        let pixel_size = pixel_size_angstrom
            .context("pixel size unknown, which a distance in angstrom needs; expected one in the header; give it with --angpix")?;
        let in_pixels = |angstrom: f64| sides_as_distance(1.0, angstrom / pixel_size, nx);
        Ok(Limits {
            edge: self.edge.map_or(limits.edge, in_pixels),
            min_distance: self.min_distance.map_or(limits.min_distance, in_pixels),
            ..limits
        })
    }
}

/// A model as files name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelName {
    /// The file's name, or that of a general model.
    pub name: String,
    /// SHA-256 of the file, lower-case hexadecimal: two files of one name may be two models.
    pub sha256: String,
}

/// Side of the boxes that are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WrittenSide {
    /// Micrograph pixels.
    Pixels(f64),
    /// A diameter that was asked for. A micrograph without a pixel size fails, because the boxes would be wrong.
    Asked {
        /// Angstrom.
        diameter_angstrom: f64,
    },
    /// The model's own diameter. Nobody asked for it, so without a pixel size the network's box serves.
    OfModel {
        /// Angstrom.
        diameter_angstrom: f64,
    },
    /// The network's box.
    OfNetwork,
}

/// Sides of the constant box, micrograph pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sides {
    /// In the border test.
    pub test_m_px: f64,
    /// In files and pictures.
    pub written_m_px: f64,
}

/// What decides how the network sees a micrograph.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// How the file is read.
    pub read: &'a ReadOptions,
    /// What gives its frame.
    pub scale: &'a Scale,
    /// What is done about the ground.
    pub ground: Ground,
    /// Faults of the original to repeat.
    pub compat: &'a Compat,
    /// True if somebody will look at the small image.
    pub is_shown: bool,
}

impl Settings {
    /// The part that decides how the network sees a micrograph.
    pub fn sight(&self) -> Sight<'_> {
        Sight { read: &self.read, scale: &self.scale, ground: self.ground, compat: &self.rule.compat, is_shown: self.is_shown }
    }

    /// What a pick of this micrograph must pass.
    ///
    /// Errors: a distance was given in angstrom, and the pixel size is unknown.
    pub fn limits_of(&self, geometry: &Geometry, pixel_size_angstrom: Option<f64>) -> Result<Limits> {
        let in_sides = |sides: f64| sides_as_distance(sides, side_n_to_m(self.side_n_px, geometry), geometry.nx);
        let limits = Limits { min_distance: self.distance_sides.map_or(self.limits.min_distance, in_sides), ..self.limits };
        self.in_angstrom.replace_in(limits, geometry.nx, pixel_size_angstrom)
    }

    /// Sides of the constant box on this micrograph.
    ///
    /// Errors: a diameter was asked for, and the pixel size is unknown.
    pub fn sides(&self, geometry: &Geometry, pixel_size_angstrom: Option<f64>) -> Result<Sides> {
        let test_m_px = side_n_to_m(self.side_n_px, geometry);
        let written_m_px = match (self.written_side, pixel_size_angstrom) {
            (WrittenSide::Pixels(side), _) => side,
            (WrittenSide::Asked { diameter_angstrom } | WrittenSide::OfModel { diameter_angstrom }, Some(pixel_size)) => {
                diameter_angstrom / pixel_size
            }
            (WrittenSide::Asked { .. }, None) => {
                anyhow::bail!("pixel size unknown, which --diameter needs; expected one in the header; give it with --angpix")
            }
            (WrittenSide::OfModel { .. } | WrittenSide::OfNetwork, None) | (WrittenSide::OfNetwork, Some(_)) => test_m_px,
        };
        // The original writes its box as it tests it. Ours have an even side, so that a box has a centre pixel.
        let as_original = self.rule.compat.has(Fault::BoxCorners);
        let written_m_px = if as_original { written_m_px } else { output::even(written_m_px).max(2.0) };
        Ok(Sides { test_m_px, written_m_px })
    }

    /// The facts that are the same in every candidates file of a batch.
    pub fn facts(&self) -> Facts {
        let Settings { limits, rule, .. } = self;
        let mut facts = Facts::default();
        facts.set(key::MODE, rule.kind);
        facts.set(key::BOX_NET, self.side_n_px);
        facts.set(key::MODEL_SHA256, &self.model.sha256);
        facts.set(key::MODEL_NAME, &self.model.name);
        self.scale.diameter().iter().for_each(|diameter| facts.set(key::DIAMETER, diameter));
        if self.views != Views::One {
            facts.set(key::AVERAGE, self.views.count());
        }
        facts.set(key::FLOOR, self.floor);
        facts.set("Cap", self.cap);
        facts.set(key::K, limits.k);
        facts.set(key::VIS_THRESH, limits.vis_thresh);
        facts.set(key::EDGE, limits.edge);
        facts.set(key::MIN_DISTANCE, limits.min_distance);
        facts.set(key::ANG_THRESH, rule.ang_thresh_rad);
        facts.set(key::TRACER, rule.tracer.name());
        facts.set(key::OUTPUT_TYPE, rule.output_type.name());
        facts.set(key::SUBPIXEL, u8::from(rule.subpixel));
        facts.set(key::SUFFIX, &self.suffix);
        facts.set(key::COMPAT, rule.compat.names());
        facts.set("Program", concat!("epicker ", env!("CARGO_PKG_VERSION")));
        facts
    }
}
