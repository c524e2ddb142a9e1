//! Options shared by `epicker pick` and `epicker rethreshold`: what a pick must pass, and how picks are written.

use super::values;
use crate::compat::Compat;
use crate::formats::coordinates::Kind;
use crate::pick::filter::Limits;
use crate::pick::output::{Helix, OutputRule, OutputType, Tracer};
use crate::pick::seek_threshold::Threshold;
use crate::pick::settings::InAngstrom;
use crate::preprocess::scale::Scale;
use anyhow::{Result, ensure};

/// Most peaks that are ever taken from a 256 x 256 heat map.
const MOST_PEAKS: usize = 65_536;

/// A distance as it is given on the command line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Pixels of the 1024-wide image.
    Pixels(f64),
    /// Angstrom.
    Angstrom(f64),
}

impl Length {
    fn pixels(self) -> Option<f64> {
        if let Length::Pixels(pixels) = self { Some(pixels) } else { None }
    }

    fn angstrom(self) -> Option<f64> {
        if let Length::Angstrom(angstrom) = self { Some(angstrom) } else { None }
    }
}

/// The number before a unit of angstrom, if there is one.
fn before_angstrom(text: &str) -> Option<&str> {
    ["angstrom", "\u{c5}", "\u{212b}", "A"].iter().find_map(|unit| text.trim().strip_suffix(unit)).map(str::trim_end)
}

fn edge(text: &str) -> Result<Length, String> {
    match before_angstrom(text) {
        Some(number) => values::distance(number).map(Length::Angstrom),
        None => values::edge(text).map(Length::Pixels),
    }
}

fn min_distance(text: &str) -> Result<Length, String> {
    match before_angstrom(text) {
        Some(number) => values::distance(number).map(Length::Angstrom),
        None => values::distance(text).map(Length::Pixels),
    }
}

/// What a pick must pass, and how picks are written. None: not given.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LimitArgs {
    /// Peaks taken from the heat map before any other test, 1 to 65536 [default: 2000]
    #[arg(long = "K", value_name = "COUNT", value_parser = values::count)]
    pub k: Option<usize>,
    /// Keep picks with a score above it, 0 to 1; auto looks for it on a few micrographs [default: auto where the model says so, else
    /// the model's own, else 0]
    #[arg(long = "vis_thresh", visible_alias = "threshold", value_name = "SCORE")]
    pub vis_thresh: Option<Threshold>,
    /// Clear margin between a pick's box and the border, pixels of the 1024-wide image, 0 to 511, or angstrom as in 30A [default: 25;
    /// 0 where the scale is that of the particles]
    #[arg(long = "edge", value_name = "PIXELS", value_parser = edge)]
    pub edge: Option<Length>,
    /// Picks at this distance or less from a better one are dropped, pixels of the 1024-wide image, or angstrom as in 80A [default:
    /// 0; half a particle where the scale is that of the particles]
    #[arg(long = "min_distance", value_name = "PIXELS", value_parser = min_distance)]
    pub min_distance: Option<Length>,
    /// Fibers: largest turn per step, 0 to 1.57 radians [default: 0.3]
    #[arg(long = "ang_thresh", value_name = "RADIANS", value_parser = values::bend)]
    pub ang_thresh: Option<f64>,
    /// Fibers: graph links points by the lines around them, legacy as the original does [default: graph]
    #[arg(long = "tracer", value_name = "NAME")]
    pub tracer: Option<Tracer>,
    /// File type: thi, star, box or coord [default: thi]
    #[arg(long = "output_type", value_name = "TYPE")]
    pub output_type: Option<OutputType>,
    /// Side of the written boxes, micrograph pixels
    #[arg(long = "box_size", value_name = "PIXELS", value_parser = values::positive)]
    pub box_size: Option<f64>,
    /// Two decimals in thi, box and coord files; some readers drop rows that are not whole numbers
    #[arg(long = "subpixel")]
    pub subpixel: bool,
    /// Fibers in STAR files: startend or segments [default: segments with --spacing, else startend]
    #[arg(long = "helix", value_name = "KIND", value_parser = ["startend", "segments"])]
    pub helix: Option<String>,
    /// Fibers in STAR files: segments at this distance along their path
    #[arg(long = "spacing", alias = "helix_step", value_name = "ANGSTROM", value_parser = values::positive)]
    pub spacing: Option<f64>,
    /// Put this before the extension of output files, for example _autopick
    #[arg(long = "suffix", value_name = "TEXT")]
    pub suffix: Option<String>,
    /// Repeat faults of the original: all, or names parted by commas (docs/options.md)
    #[arg(long = "compat", value_name = "NAMES")]
    pub compat: Option<Compat>,
}

impl LimitArgs {
    /// The most peaks that are taken from a heat map.
    pub fn k(&self) -> usize {
        self.k.map_or(DEFAULT_LIMITS.k, |k| k.min(MOST_PEAKS))
    }

    /// What a pick must pass. Where an option is not given, the limit of `base` holds.
    pub fn limits(&self, base: Limits) -> Limits {
        Limits {
            k: self.k.map_or(base.k, |k| k.min(MOST_PEAKS)),
            vis_thresh: self.vis_thresh.and_then(Threshold::score).unwrap_or(base.vis_thresh),
            edge: self.edge.and_then(Length::pixels).unwrap_or(base.edge),
            min_distance: self.min_distance.and_then(Length::pixels).unwrap_or(base.min_distance),
        }
    }

    /// The distances that are given in angstrom.
    pub fn in_angstrom(&self) -> InAngstrom {
        let [edge, min_distance] = [self.edge, self.min_distance].map(|length| length.and_then(Length::angstrom));
        InAngstrom { edge, min_distance }
    }

    /// What the user should know of these options, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let too_many = self.k.filter(|&k| k > MOST_PEAKS);
        too_many.map(|k| format!("--K {k}: the heat map has at most {MOST_PEAKS} peaks; using that")).into_iter().collect()
    }

    /// How fibers are written to STAR files.
    ///
    /// Errors: segments without a spacing, or a spacing without segments.
    pub fn helix(&self) -> Result<Helix> {
        match (self.helix.as_deref(), self.spacing) {
            (None | Some("segments"), Some(spacing)) => Ok(Helix::Segments(spacing)),
            (Some("segments"), None) => anyhow::bail!("--helix segments: no distance; give one with --spacing ANGSTROM"),
            (Some(_), Some(_)) => anyhow::bail!("--spacing: only --helix segments has one; leave one of the two out"),
            (_, None) => Ok(Helix::StartEnd),
        }
    }

    /// How picks are written.
    ///
    /// Errors: as [`LimitArgs::helix`], or a spacing is given for outputs that have no segments.
    pub fn rule(&self, kind: Kind, base: &OutputRule) -> Result<OutputRule> {
        let output_type = self.output_type.unwrap_or(base.output_type);
        ensure!(
            self.spacing.is_none() || (kind == Kind::Fiber && output_type == OutputType::Star),
            "--spacing: only fibers in STAR files have segments; expected --mode fiber --output_type star; add them, or leave it out"
        );
        Ok(OutputRule {
            kind,
            output_type,
            subpixel: self.subpixel || base.subpixel,
            ang_thresh_rad: self.ang_thresh.unwrap_or(base.ang_thresh_rad),
            tracer: self.tracer.unwrap_or(base.tracer),
            helix: self.helix()?,
            compat: self.compat.clone().unwrap_or_else(|| base.compat.clone()),
        })
    }
}

/// The limits of a run without options.
pub const DEFAULT_LIMITS: Limits = Limits { k: 2000, vis_thresh: 0.0, edge: 25.0, min_distance: 0.0 };

/// The limits at a scale of a run without options. Where the scale is that of the particles, the box of the border test has
/// their size and needs no margin around it, because all particles that lie wholly inside of the image are wanted.
pub fn limits_at(scale: &Scale) -> Limits {
    if scale.is_of_particles() { Limits { edge: 0.0, ..DEFAULT_LIMITS } } else { DEFAULT_LIMITS }
}

/// How picks are written in a run without options.
pub fn default_rule(kind: Kind) -> OutputRule {
    OutputRule {
        kind,
        output_type: OutputType::Thi,
        subpixel: false,
        ang_thresh_rad: 0.3,
        tracer: Tracer::default(),
        helix: Helix::StartEnd,
        compat: Compat::default(),
    }
}
