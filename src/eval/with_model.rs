//! Picks of a model for an evaluation: everything it finds, without threshold, border or distance test.

use crate::compat::Compat;
use crate::formats::candidates::Candidate;
use crate::formats::coordinates::{Coordinate, Coordinates, Kind, Size};
use crate::net::inference::frames::PeakFinders;
use crate::net::model::Model;
use crate::ops::Compute;
use crate::ops::heat_map::Peak;
use crate::pick::decode::{candidates, side_n_to_m};
use crate::pick::filter::{Limits, filter, sides_as_distance};
use crate::pick::output::{Helix, OutputRule, OutputType, trace};
use crate::pick::run::picks_of;
use crate::pick::settings::Sides;
use crate::preprocess::geometry::Geometry;
use crate::preprocess::network_input;
use crate::train::cache::ImageD;
use anyhow::Result;

/// What is asked of a model.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most picks of a micrograph.
    pub k: usize,
    /// Whether the picks are particles, vesicles or fibers.
    pub kind: Kind,
    /// For fibers: the score above which points are linked.
    pub fiber_threshold: f32,
    /// Side of the box of particles, pixels of frame N.
    pub side_n_px: f64,
    /// Particles at this distance or less from a better one are dropped, in sides of the box, as picking does it. Without
    /// it all are kept.
    pub distance_sides: Option<f64>,
    /// Faults of the original to repeat.
    pub compat: Compat,
}

/// A model that is evaluated.
pub struct ModelPicks<'a> {
    pickers: PeakFinders<'a>,
    options: Options,
}

impl<'a> ModelPicks<'a> {
    /// A model on a device; its network is planned when the first image of a frame comes.
    pub fn new(compute: impl Into<Compute>, model: &'a Model, options: Options) -> Self {
        ModelPicks { pickers: PeakFinders::new(compute, model, options.kind == Kind::Vesicle, options.k), options }
    }

    /// Picks of an image (frame D, as wide as the frame) of a micrograph of `size` (columns, rows), best first, in frame M.
    ///
    /// Errors: the frame is no multiple of 32, the model does not fit, or the network cannot run.
    pub fn picks(&mut self, image: &ImageD, size: [usize; 2]) -> Result<Coordinates> {
        let frame = image.size[1];
        let geometry = Geometry::new(size[0], size[1], frame);
        if image.levels.iter().all(|level| *level == image.levels[0]) {
            // Nothing can be in a constant image, and picking finds nothing in it either.
            return Ok(Coordinates { kind: self.options.kind, points: Vec::new() });
        }
        let peaks = self.pickers.get(frame)?.run(&network_input(&image.levels, &geometry))?;
        Ok(picks_of_peaks(&peaks, &geometry, &self.options))
    }
}

/// Picks of the peaks that a model found in a micrograph, best first, in frame M.
pub fn picks_of_peaks(peaks: &[Peak], geometry: &Geometry, options: &Options) -> Coordinates {
    let found = candidates(peaks, geometry, &options.compat);
    options.picks(found, geometry)
}

impl Options {
    fn picks(&self, found: Vec<Candidate>, geometry: &Geometry) -> Coordinates {
        if self.kind == Kind::Fiber {
            return self.fibers(&found, geometry);
        }
        let point = |candidate: &Candidate| Coordinate {
            score: Some(candidate.score),
            size: candidate.size.map(|[width, height]| Size { width: f64::from(width), height: f64::from(height) }),
            ..Coordinate::at(f64::from(candidate.x), f64::from(candidate.y))
        };
        let found = self.apart(found, geometry);
        Coordinates { kind: self.kind, points: found.iter().filter(|candidate| candidate.score > 0.0).map(point).collect() }
    }

    /// Candidates without those that lie too near to a better one.
    fn apart(&self, found: Vec<Candidate>, geometry: &Geometry) -> Vec<Candidate> {
        let Some(sides) = self.distance_sides else { return found };
        let side_m_px = side_n_to_m(self.side_n_px, geometry);
        let min_distance = sides_as_distance(sides, side_m_px, geometry.nx);
        let limits = Limits { k: found.len(), vis_thresh: 0.0, edge: f64::NEG_INFINITY, min_distance };
        let kept = filter(&found, &limits, [geometry.nx, geometry.ny], side_m_px, &self.compat);
        kept.into_iter().map(|i| found[i]).collect()
    }

    fn fibers(&self, found: &[Candidate], geometry: &Geometry) -> Coordinates {
        let limits = Limits { k: self.k, vis_thresh: self.fiber_threshold, edge: 0.0, min_distance: 0.0 };
        let side_m_px = side_n_to_m(self.side_n_px, geometry);
        let sides = Sides { test_m_px: side_m_px, written_m_px: side_m_px };
        let rule = OutputRule {
            kind: Kind::Fiber,
            output_type: OutputType::Thi,
            subpixel: true,
            ang_thresh_rad: 0.3,
            tracer: Default::default(),
            helix: Helix::StartEnd,
            compat: self.compat.clone(),
        };
        let picks = picks_of(found, &limits, [geometry.nx, geometry.ny], sides, &self.compat);
        trace(&picks, &rule, geometry.nx).coordinates
    }
}
