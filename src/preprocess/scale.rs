//! Scale: how wide the image is that the network sees of a micrograph.
//!
//! A network knows particles of the size that it was trained with. Where that size and the particle's diameter are known,
//! the frame is chosen so that the particles have it; otherwise the frame is that of the training, of the command line, or
//! the original's 1024. Every command asks here. Source: docs/options.md, "Scale".

use crate::formats::state_dict::ModelFacts;
use crate::ops::heat_map;
use anyhow::{Context, Result};
use std::fmt;

/// The original's frame.
pub const ORIGINAL_FRAME: usize = 1024;
/// Frames are multiples of this: the network halves its input five times.
pub const FRAME_STEP: usize = 32;
/// The narrowest frame that is chosen.
pub const LEAST_FRAME: usize = 64;
/// The widest frame there is.
pub const MOST_FRAME: usize = 16_384;

/// The diameter of a particle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Diameter {
    /// Angstrom.
    Angstrom(f64),
    /// Micrograph pixels.
    Pixels(f64),
}

impl fmt::Display for Diameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Diameter::Angstrom(diameter) => write!(f, "{diameter} angstrom"),
            Diameter::Pixels(diameter) => write!(f, "{diameter} micrograph pixels"),
        }
    }
}

impl Diameter {
    /// In micrograph pixels.
    ///
    /// Errors: angstrom without a pixel size.
    pub fn m_px(self, pixel_size_angstrom: Option<f64>) -> Result<f64> {
        match self {
            Diameter::Pixels(diameter) => Ok(diameter),
            Diameter::Angstrom(diameter) => pixel_size_angstrom
                .map(|size| diameter / size)
                .context("pixel size unknown, which a diameter in angstrom needs; expected one in the header; give it with --angpix"),
        }
    }
}

/// How frames are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// One frame for all micrographs.
    Fixed {
        /// Width of D.
        frame: usize,
        /// Who said so.
        by: FixedBy,
    },
    /// Particles have the size that the network knows.
    OfParticles {
        /// That size, pixels of frame N.
        side_n_px: f64,
        /// The size of the particles.
        diameter: Diameter,
    },
}

/// Who chose a frame that is the same for all micrographs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FixedBy {
    /// The command line.
    User,
    /// The model was trained with it.
    Model,
    /// Nobody: it is the original's.
    Default,
    /// Nobody, although the model knows the size of its particles: their diameter is missing, so the scale has to be sought, and
    /// until then the frame is the original's.
    WantOfDiameter,
    /// Nobody, because the network saw nothing at any of the scales that were tried: it is the original's.
    NothingSeen,
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scale::Fixed { frame, .. } => write!(f, "a frame of {frame} pixels for every micrograph"),
            Scale::OfParticles { side_n_px, diameter } => write!(f, "particles of {diameter} are {side_n_px} pixels to the network"),
        }
    }
}

impl Scale {
    /// The scale that follows from what is known. The first of these that is there decides: the `frame` of the command line; the
    /// frame that the model was trained with; the size at which the model knows its particles, together with a `diameter` or
    /// else with the model's own diameter, which counts only if pixel sizes are known (`has_pixel_size`); the original's frame.
    pub fn choose(frame: Option<usize>, diameter: Option<Diameter>, facts: &ModelFacts, has_pixel_size: bool) -> Scale {
        if let Some(frame) = frame {
            return Scale::Fixed { frame, by: FixedBy::User };
        }
        if let Some(frame) = facts.frame {
            return Scale::Fixed { frame, by: FixedBy::Model };
        }
        let Some(side_h_px) = facts.particle_size_h_px else {
            return Scale::Fixed { frame: ORIGINAL_FRAME, by: FixedBy::Default };
        };
        let of_model = facts.diameter_angstrom.filter(|_| has_pixel_size).map(Diameter::Angstrom);
        match diameter.or(of_model) {
            Some(diameter) => Scale::OfParticles { side_n_px: heat_map::STRIDE as f64 * side_h_px, diameter },
            None => Scale::Fixed { frame: ORIGINAL_FRAME, by: FixedBy::WantOfDiameter },
        }
    }

    /// The frame of a micrograph of `size` (columns, rows).
    ///
    /// Errors: a diameter in angstrom, and the pixel size is unknown; or the frame would be wider than 16384.
    pub fn frame(&self, size: [usize; 2], pixel_size_angstrom: Option<f64>) -> Result<usize> {
        match *self {
            Scale::Fixed { frame, .. } => Ok(frame),
            Scale::OfParticles { side_n_px, diameter } => {
                let diameter_m_px = diameter.m_px(pixel_size_angstrom)?;
                let frame = frame_for(side_n_px, diameter_m_px, size);
                anyhow::ensure!(
                    frame <= MOST_FRAME,
                    "a diameter of {diameter_m_px:.2} of {} pixels needs a frame of {frame}; expected at most {MOST_FRAME}; check --diameter \
                     and --angpix",
                    size[0].max(size[1])
                );
                Ok(frame)
            }
        }
    }

    /// The diameter that gives the frames, if one does.
    pub fn diameter(&self) -> Option<Diameter> {
        match self {
            Scale::OfParticles { diameter, .. } => Some(*diameter),
            Scale::Fixed { .. } => None,
        }
    }

    /// True if only trying can tell.
    pub fn is_to_be_sought(&self) -> bool {
        matches!(self, Scale::Fixed { by: FixedBy::WantOfDiameter, .. })
    }

    /// True if particles have the size that the network knows.
    pub fn is_of_particles(&self) -> bool {
        matches!(self, Scale::OfParticles { .. })
    }

    /// A line that says why a micrograph has this frame; none where nothing was chosen.
    pub fn reason(&self, frame: usize, size: [usize; 2], pixel_size_angstrom: Option<f64>) -> Option<String> {
        match *self {
            Scale::Fixed { by: FixedBy::User | FixedBy::Default, .. } => None,
            Scale::Fixed { by: FixedBy::Model, .. } => Some(format!("frame {frame}: the model was trained with it")),
            Scale::Fixed { by: FixedBy::WantOfDiameter | FixedBy::NothingSeen, .. } => {
                Some(format!("frame {frame}: the particles' diameter is not known; give it with --diameter"))
            }
            Scale::OfParticles { diameter, .. } => {
                let diameter_m_px = diameter.m_px(pixel_size_angstrom).ok()?;
                let seen_n_px = diameter_m_px * frame as f64 / size[0].max(size[1]) as f64;
                let what = match diameter {
                    Diameter::Angstrom(diameter) => format!("{diameter:.0} angstrom, {diameter_m_px:.1} pixels of the micrograph"),
                    Diameter::Pixels(diameter) => format!("{diameter:.1} pixels of the micrograph"),
                };
                Some(format!("frame {frame}: particles of {what}, are {seen_n_px:.1} pixels to the network"))
            }
        }
    }
}

/// The frame in which a particle of `diameter_m_px` micrograph pixels is nearest to `side_n_px` network pixels: a multiple of
/// 32, at least 64. The longer side of a micrograph fills the frame.
pub fn frame_for(side_n_px: f64, diameter_m_px: f64, [nx, ny]: [usize; 2]) -> usize {
    let frame = side_n_px * nx.max(ny) as f64 / diameter_m_px;
    // A cast of a float saturates.
    ((frame / FRAME_STEP as f64).round() as usize).saturating_mul(FRAME_STEP).max(LEAST_FRAME)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot go on may panic
    use super::*;

    fn facts(particle_size_h_px: Option<f64>, diameter_angstrom: Option<f64>, frame: Option<usize>) -> ModelFacts {
        ModelFacts { particle_size_h_px, diameter_angstrom, frame, ..ModelFacts::default() }
    }

    fn frame_of(scale: Scale) -> usize {
        scale.frame([1240, 1200], Some(1.5)).unwrap()
    }

    #[test]
    fn what_is_known_decides_in_its_order() {
        let asked = Some(Diameter::Angstrom(126.0));
        let choose = |frame, diameter, facts: &ModelFacts| Scale::choose(frame, diameter, facts, true);
        let all = facts(Some(6.0), Some(63.0), Some(512));
        assert_eq!(frame_of(choose(Some(96), asked, &all)), 96);
        assert_eq!(frame_of(choose(None, asked, &all)), 512);
        let general = facts(Some(6.0), Some(63.0), None);
        assert_eq!(frame_of(choose(None, asked, &general)), 352, "24 * 1240 * 1.5 / 126 = 354.3");
        assert_eq!(frame_of(choose(None, None, &general)), 704, "24 * 1240 * 1.5 / 63 = 708.6");
        assert_eq!(frame_of(choose(None, asked, &facts(None, Some(63.0), None))), 1024, "the original's models know no size");
        assert_eq!(frame_of(choose(None, Some(Diameter::Pixels(84.0)), &general)), 352);
        let missing = choose(None, None, &facts(Some(6.0), None, None));
        assert_eq!(missing, Scale::Fixed { frame: 1024, by: FixedBy::WantOfDiameter });
        // Without pixel sizes a model's diameter says nothing.
        assert_eq!(Scale::choose(None, None, &general, false), missing);
    }

    #[test]
    fn the_longer_side_fills_the_frame() {
        assert_eq!(frame_for(24.0, 96.0, [4096, 4096]), 1024);
        assert_eq!(frame_for(24.0, 96.0, [5760, 4092]), 1440);
        assert_eq!(frame_for(24.0, 96.0, [4092, 5760]), 1440);
        assert_eq!(frame_for(24.0, 4000.0, [4096, 4096]), 64);
        let tiny = Scale::OfParticles { side_n_px: 24.0, diameter: Diameter::Pixels(0.1) };
        assert!(tiny.frame([4096, 4096], None).unwrap_err().to_string().contains("16384"));
    }
}
