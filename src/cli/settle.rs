//! What `pick` and `eval` settle before they begin, in one place: what is looked for, and at which scale.
//!
//! Nothing of it is changed while the micrographs are worked on, so all micrographs of a run are treated alike.

use crate::compat::Compat;
use crate::formats::coordinates::Kind;
use crate::formats::image::{ImageInfo, ReadOptions, read_info};
use crate::net::{Model, Views};
use crate::ops::heat_map;
use crate::pick::filter::DISTANCE_SIDES;
use crate::pick::folder::{KeptScale, KeptThreshold};
use crate::pick::run::Input;
use crate::pick::seek_scale::{Sought, samples, seek};
use crate::pick::seek_threshold::{self, How, Threshold, USUAL_SHARE};
use crate::pick::workers::Workers;
use crate::preprocess::ground::Ground;
use crate::preprocess::scale::{Diameter, Scale};
use crate::train::labels::ORIGINAL_SIDE_H_PX;
use anyhow::Result;
use std::path::Path;

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
    /// Views that are averaged, if the command line says how many.
    pub views: Option<Views>,
}

/// The micrographs that a scale is for, and how they are read.
#[derive(Clone, Copy)]
pub struct Looking<'a> {
    /// All micrographs of the batch, whether they are still to be picked or not.
    pub inputs: &'a [Input],
    /// How they are read.
    pub read: &'a ReadOptions,
    /// Faults of the original to repeat.
    pub compat: &'a Compat,
    /// The output folder, which keeps a scale that had to be sought for all later runs into it.
    pub folder: Option<&'a Path>,
    /// False if nothing is left to do, so that it is not worth while to try scales.
    pub may_try: bool,
}

/// Who hears of what is found out about the scale.
pub trait Voice {
    /// A line for the log.
    fn say(&self, line: &str);
    /// A warning.
    fn warn(&self, line: &str);
}

/// What is looked for: what the command line says, else what the model was trained for.
///
/// Errors: the model names a kind that this program does not know.
pub fn kind(mode: Option<Kind>, model: &Model) -> Result<Option<Kind>> {
    let of_model = model.facts().mode.as_deref().map(str::parse).transpose().map_err(anyhow::Error::msg)?;
    Ok(mode.or(of_model))
}

/// Particles of fewer micrograph pixels than this can hardly be seen. A diameter that was given in nm by mistake looks like
/// that.
const LEAST_DIAMETER_PX: f64 = 15.0;
/// Particles of a larger share of the micrograph's shorter side than this are hardly ever recorded.
const MOST_DIAMETER_SHARE: f64 = 1.0 / 3.0;
/// A frame that is wider than the micrograph by more than this factor shows nothing but enlarged noise.
const MOST_ENLARGED: usize = 2;
/// If trying scales finds a diameter that differs by no more than this factor from the one that was given, the two agree.
const MOST_OFF: f64 = 1.5;

impl Asked<'_> {
    /// The size at which the network knows its particles, network pixels.
    pub fn side_n_px(&self) -> f64 {
        heat_map::STRIDE as f64 * self.model.facts().particle_size_h_px.unwrap_or(ORIGINAL_SIDE_H_PX)
    }

    /// The views of each micrograph that are averaged: as many as are asked for, else as the model wants.
    pub fn views(&self) -> Views {
        self.views.or_else(|| self.model.facts().average.and_then(Views::of)).unwrap_or_default()
    }

    /// The model's own threshold, else 0, which every pick passes.
    pub fn usual_threshold(&self) -> f32 {
        self.model.facts().threshold.map_or(0.0, |threshold| threshold as f32)
    }

    /// The share of noise with which the threshold is sought, if it is to be sought: because it is asked for, or because the model says
    /// so and no score is given.
    pub fn noise_share(&self, given: Option<Threshold>) -> Option<f64> {
        let of_model = self.model.facts().noise_share;
        match given {
            Some(Threshold::Score(_)) => None,
            Some(Threshold::Auto) => Some(of_model.unwrap_or(USUAL_SHARE)),
            None => of_model,
        }
    }

    /// The threshold of the whole run: the one that is given, or the model's own; or, where it is to be sought, the one that the
    /// output folder keeps from an earlier run, or the one that a look at a few micrographs finds.
    ///
    /// Errors: the network cannot run, or what the folder keeps cannot be read or written.
    pub fn threshold(
        &self,
        given: Option<Threshold>,
        scale: &Scale,
        looking: Looking,
        workers: &mut Workers,
        voice: &dyn Voice,
    ) -> Result<f32> {
        let usual = given.and_then(Threshold::score).unwrap_or(self.usual_threshold());
        let Some(share) = self.noise_share(given) else { return Ok(usual) };
        let (model_sha256, views) = (self.model.sha256(), self.views().count());
        let kept = looking.folder.map(|folder| KeptThreshold { folder, model_sha256, views, share });
        if let Some(kept) = &kept
            && let Some(threshold) = kept.read()?
        {
            voice.say(&format!("{}: threshold {threshold:.3}, which an earlier run sought", kept.folder.display()));
            return Ok(threshold);
        }
        if !looking.may_try {
            return Ok(usual);
        }
        let ground = Ground::wanted_by(self.model.facts());
        let how = How { read: looking.read, scale, side_n_px: self.side_n_px(), ground, compat: looking.compat, share };
        let Some(sought) = seek_threshold::seek(workers.finders(), looking.inputs, &how)? else { return Ok(usual) };
        voice.say(&sought.text());
        match kept {
            Some(kept) => kept.keep(&sought),
            None => Ok(sought.threshold),
        }
    }

    /// The scale as far as it is known without trying: that of the command line, else that of the model. If the frame is the
    /// same for all micrographs, the network is planned for it at once, so that a frame that is too large for the memory is
    /// refused before any work.
    ///
    /// Errors: the network cannot be planned for the frame.
    pub fn scale_given(&self, looking: Looking, workers: &mut Workers) -> Result<Scale> {
        let has_pixel_size = looking.first().is_some_and(|first| first.pixel_size_angstrom.is_some());
        let scale = Scale::choose(self.frame, self.diameter, self.model.facts(), has_pixel_size);
        if let Scale::Fixed { frame, .. } = scale {
            workers.plan(frame)?;
        }
        Ok(scale)
    }

    /// The scale of the whole run. It is `given`, if that says one, and the user is warned if it looks odd. Else it is the
    /// scale that the output folder keeps from an earlier run, or the one that trying finds.
    ///
    /// Errors: the network cannot run, or what the folder keeps cannot be read or written.
    pub fn scale(&self, given: Scale, looking: Looking, workers: &mut Workers, voice: &dyn Voice) -> Result<Scale> {
        if !given.is_to_be_sought() {
            if looking.may_try {
                self.question(&given, looking, workers)?.iter().for_each(|question| voice.warn(question));
            }
            return Ok(given);
        }
        let side_n_px = self.side_n_px();
        let kept = looking.folder.map(KeptScale::read).transpose()?.flatten();
        if let (Some(kept), Some(folder)) = (kept, looking.folder) {
            let found = kept.diameter.map_or("the original's frame".to_string(), |diameter| format!("a diameter of {}", rounded(diameter)));
            voice.say(&format!("{}: {found}, which an earlier run sought; give --diameter if you know better", folder.display()));
            return Ok(Scale::sought(kept.diameter, side_n_px));
        }
        if !looking.may_try {
            return Ok(given);
        }
        let sought = seek(
            workers.finders(),
            &samples(looking.inputs, looking.read, looking.compat),
            side_n_px,
            Ground::wanted_by(self.model.facts()),
            looking.compat,
        )?;
        sought.iter().for_each(|sought| voice.say(&sought.text()));
        let own = sought.as_ref().map(|sought| sought.diameter);
        let Some(folder) = looking.folder else { return Ok(Scale::sought(own, side_n_px)) };
        let kept = KeptScale::keep(folder, sought.as_ref())?.diameter;
        if kept.map(rounded) != own.map(rounded) {
            let kept = kept.map_or("the original's frame".to_string(), |diameter| format!("a diameter of {}", rounded(diameter)));
            voice.say(&format!("{}: another run was the first to seek the scale; {kept} is taken, as it found", folder.display()));
        }
        Ok(Scale::sought(kept, side_n_px))
    }

    /// What is suspicious about a scale that was given, and what to do about it; none if nothing is suspicious. One micrograph
    /// is looked at, and scales are tried on it if the model can tell them apart.
    fn question(&self, scale: &Scale, looking: Looking, workers: &mut Workers) -> Result<Option<String>> {
        let Some(first) = looking.first() else { return Ok(None) };
        let First { input, info, pixel_size_angstrom } = &first;
        let Some(diameter) = scale.diameter().or(self.diameter) else { return Ok(None) };
        let Ok(diameter_px) = diameter.m_px(*pixel_size_angstrom) else { return Ok(None) };
        let (longer, shorter) = (info.nx.max(info.ny), info.nx.min(info.ny));
        let frame = scale.frame([info.nx, info.ny], *pixel_size_angstrom).unwrap_or(usize::MAX);
        let is_enlarged = scale.is_of_particles() && frame > MOST_ENLARGED * longer;
        let name = input.path.display();
        let is_one = matches!(diameter, Diameter::Angstrom(_))
            && input.stated_pixel_size_angstrom().is_none()
            && info.pixel_size_angstrom == Some(1.0);
        let what = match () {
            () if diameter_px < LEAST_DIAMETER_PX || diameter_px > MOST_DIAMETER_SHARE * shorter as f64 => {
                format!("a diameter of {diameter} is {diameter_px:.1} pixels of {name}, which has {} x {}", info.nx, info.ny)
            }
            () if is_enlarged => {
                format!("a diameter of {diameter} makes a frame of {frame} of {name}, which has only {} x {} pixels", info.nx, info.ny)
            }
            () if is_one => format!("{name}: its header says 1 angstrom per pixel, as files do whose pixel size nobody knew"),
            () => return Ok(None),
        };
        let sought = if scale.is_of_particles() { self.try_one(input, looking, workers)? } else { None };
        let found_px = sought.as_ref().and_then(|sought| sought.diameter.m_px(*pixel_size_angstrom).ok());
        if found_px.is_some_and(|found| (found / diameter_px).max(diameter_px / found) <= MOST_OFF) {
            return Ok(None); // the scale looks odd, but the network finds the same
        }
        let found = sought.map_or(String::new(), |sought| format!("; trying scales on it finds particles of {}", rounded(sought.diameter)));
        Ok(Some(format!(
            "{what}{found}; expected the diameter of the particles in angstrom (not in nm) and the pixel size of these micrographs; check \
             --diameter and --angpix"
        )))
    }

    fn try_one(&self, input: &Input, looking: Looking, workers: &mut Workers) -> Result<Option<Sought>> {
        let one = samples(std::slice::from_ref(input), looking.read, looking.compat);
        seek(workers.finders(), &one, self.side_n_px(), Ground::wanted_by(self.model.facts()), looking.compat)
    }

    /// The least distance of two particles, in sides of their box. It is known only if the scale is that of the particles: then
    /// two picks that are nearer to each other than half a particle are one. There is none for vesicles, which overlap, and for
    /// fibers, whose points are near each other.
    pub fn distance_sides(&self, scale: &Scale) -> Option<f64> {
        (scale.is_of_particles() && self.kind == Kind::Particle).then_some(DISTANCE_SIDES)
    }
}

/// The first micrograph of a batch that can be read.
struct First<'a> {
    input: &'a Input,
    info: ImageInfo,
    pixel_size_angstrom: Option<f64>,
}

impl<'a> Looking<'a> {
    /// A file that cannot be read fails when its turn comes, and says nothing about the others: the next one is looked at.
    fn first(&self) -> Option<First<'a>> {
        self.inputs.iter().find_map(|input| {
            let info = read_info(&input.path, self.read).ok()?;
            let pixel_size_angstrom = input.pixel_size_angstrom(info.pixel_size_angstrom);
            Some(First { input, info, pixel_size_angstrom })
        })
    }
}

/// A diameter as people want to read it.
fn rounded(diameter: Diameter) -> String {
    match diameter {
        Diameter::Angstrom(diameter) => format!("{diameter:.0} angstrom"),
        Diameter::Pixels(diameter) => format!("{diameter:.0} micrograph pixels"),
    }
}
