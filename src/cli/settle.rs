//! What `pick` and `eval` settle before they begin, in one place: what is looked for, and at which scale.
//!
//! Nothing of it is changed while the micrographs are worked on, so all micrographs of a run are treated alike.

use crate::compat::Compat;
use crate::formats::coordinates::Kind;
use crate::formats::image::{ReadOptions, read_info};
use crate::net::Model;
use crate::pick::filter::DISTANCE_SIDES;
use crate::pick::run::{Input, Worker};
use crate::pick::seek_scale::{samples, seek};
use crate::preprocess::scale::{Diameter, Scale};
use crate::train::labels::ORIGINAL_SIDE_H_PX;
use anyhow::Result;

/// What the command line and the model together ask for, before any micrograph has been looked at.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The model.
    pub model: &'a Model,
    /// What is looked for.
    pub kind: Kind,
    /// Width of the network's image, if the command line gives one.
    pub frame: Option<usize>,
    /// Diameter of the particles, if the command line gives one.
    pub diameter: Option<Diameter>,
}

/// How a batch is read, and who tells what is found out about its scale.
#[derive(Clone, Copy)]
pub struct Looking<'a> {
    /// All micrographs of the batch, whether they are still to be picked or not.
    pub inputs: &'a [Input],
    /// How they are read.
    pub read: &'a ReadOptions,
    /// Faults of the original to repeat.
    pub compat: &'a Compat,
}

/// What is looked for: what the command line says, else what the model was trained for.
///
/// Errors: the model names a kind that this program does not know.
pub fn kind(mode: Option<Kind>, model: &Model) -> Result<Option<Kind>> {
    let of_model = model.facts().mode.as_deref().map(str::parse).transpose().map_err(anyhow::Error::msg)?;
    Ok(mode.or(of_model))
}

impl Asked<'_> {
    /// The size at which the network knows its particles, network pixels.
    pub fn side_n_px(&self) -> f64 {
        4.0 * self.model.facts().particle_size_h_px.unwrap_or(ORIGINAL_SIDE_H_PX)
    }

    /// The model's own threshold, else 0, which every pick passes.
    pub fn threshold(&self) -> f32 {
        self.model.facts().threshold.map_or(0.0, |threshold| threshold as f32)
    }

    /// The scale as far as it is known without trying: that of the command line, else of the model. A frame that is the same
    /// for all micrographs is planned at once, so that one that is too large for the memory is refused before any work.
    ///
    /// Errors: the network cannot be planned for the frame.
    pub fn scale_given(&self, looking: Looking, worker: &mut Worker) -> Result<Scale> {
        let scale = Scale::choose(self.frame, self.diameter, self.model.facts(), looking.has_pixel_size());
        if let Scale::Fixed { frame, .. } = scale {
            worker.finders().get(frame)?;
        }
        Ok(scale)
    }

    /// The scale of the whole run: `given`, or the one that trying finds, where only trying can tell. `say` hears what was tried.
    ///
    /// Errors: the network cannot run.
    pub fn scale(&self, given: Scale, looking: Looking, worker: &mut Worker, say: &dyn Fn(&str)) -> Result<Scale> {
        if !given.is_to_be_sought() {
            return Ok(given);
        }
        let side_n_px = self.side_n_px();
        let sought = seek(worker.finders(), &samples(looking.inputs, looking.read), side_n_px, looking.compat)?;
        sought.iter().for_each(|sought| say(&sought.text()));
        Ok(given.or_sought(sought.as_ref(), side_n_px))
    }

    /// The least distance of two particles, in sides of their box, where the scale is that of the particles: then half a
    /// particle is known, and two picks that are nearer are one. Vesicles overlap, and points of fibers are near each other.
    pub fn distance_sides(&self, scale: &Scale) -> Option<f64> {
        (scale.is_of_particles() && self.kind == Kind::Particle).then_some(DISTANCE_SIDES)
    }
}

impl Looking<'_> {
    /// True if pixel sizes are known, as the first micrograph that can be read tells for all.
    fn has_pixel_size(&self) -> bool {
        let known = |input: &Input| match input.pixel_size_angstrom {
            Some(_) => Some(true),
            // A file that cannot be read fails when its turn comes, and says nothing about the others.
            None => read_info(&input.path, self.read).ok().map(|info| info.pixel_size_angstrom.is_some()),
        };
        self.inputs.iter().find_map(known).unwrap_or(false)
    }
}
