//! Options that commands with labels share: what the labels are, and how large their boxes are. Here is also what these
//! commands tell about the labels.

use super::status;
use super::values;
use crate::formats::coordinates::Kind;
use crate::formats::state_dict::ModelFacts;
use crate::preprocess::scale::{Diameter, Scale};
use crate::train::labels::{self, BoxSide, Gathered, ORIGINAL_SIDE_H_PX, reference};
use anyhow::{Context, Result};

/// What labels are, and how large their boxes are.
#[derive(Clone, Debug, clap::Args)]
pub struct LabelArgs {
    /// particle, vesicle or fiber
    #[arg(long = "mode", value_name = "MODE", default_value = "particle")]
    pub mode: Kind,
    /// Diameter of the particles, angstrom
    #[arg(long = "diameter", value_name = "ANGSTROM", value_parser = values::positive)]
    pub diameter: Option<f64>,
    /// Pixel size, angstrom, whatever the micrographs say
    #[arg(long = "angpix", value_name = "ANGSTROM", value_parser = values::positive)]
    pub angpix: Option<f64>,
    /// Box of the particles, heat-map pixels
    #[arg(long = "particle_size", value_name = "PIXELS", default_value_t = ORIGINAL_SIDE_H_PX, value_parser = values::positive)]
    pub particle_size: f64,
    /// Width of the pictures [default: as a training with this model chooses its frame, else 1024]
    #[arg(long = "frame", value_name = "PIXELS", value_parser = values::frame)]
    pub frame: Option<usize>,
}

impl LabelArgs {
    /// How large the boxes are.
    pub fn side(&self) -> BoxSide {
        self.diameter.map_or(BoxSide::HeatMapPixels(self.particle_size), BoxSide::Angstrom)
    }

    /// One frame for all pictures, as `epicker train` chooses it.
    ///
    /// Errors: a diameter that a model needs, but no pixel size; or a frame beyond all bounds.
    pub fn frame(&self, gathered: &Gathered, of_model: &ModelFacts) -> Result<usize> {
        let (size, pixel_size) = reference(gathered).map_or(([0; 2], None), |one| (one.size, one.pixel_size_angstrom));
        let scale = Scale::choose(self.frame, self.diameter.map(Diameter::Angstrom), of_model, pixel_size.is_some());
        scale.frame(size, pixel_size).context("--diameter")
    }
}

/// Tells what was gathered: the matches, the names that match nothing, warnings, and micrographs that could not be read.
pub fn tell(gathered: &Gathered, say: &dyn Fn(&str)) {
    say(&labels::summary(gathered));
    gathered.notes.iter().for_each(|note| say(note));
    gathered.warnings.iter().chain(&labels::leftovers(gathered)).for_each(|warning| status::tell(&format!("warning: {warning}")));
    gathered.unreadable.iter().for_each(|error| status::tell(&format!("error: {error}")));
}
