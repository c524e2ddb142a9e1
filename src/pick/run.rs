//! A batch: the next micrographs are read and preprocessed while the network works on this one, and every
//! micrograph's files are written as it is finished.
//!
//! **read -> preprocess -> network -> decode -> filter -> write**

use crate::compat::{Compat, Fault};
use crate::formats::candidates::{self, Candidate, Facts, key};
use crate::formats::image::{ReadOptions, Sections, read_micrograph};
use crate::io::write::write_whole;
use crate::net::PeakFinder;
use crate::net::inference::frames::{ALWAYS_WHOLE, FramePeakFinder, most_peaks};
use crate::ops::heat_map::Peak;
use crate::pick::decode::{boxes_d, candidates as candidates_of, side_n_to_m};
use crate::pick::draw;
use crate::pick::filter::{Limits, filter, filter_d, sides_as_distance};
use crate::pick::output::{self, OutputRule, Pick};
use crate::pick::report::Entry;
use crate::pick::seek_scale::Sample;
use crate::pick::slots::{OnGpu, Slots};
use crate::preprocess::geometry::Geometry;
use crate::preprocess::gpu::suits;
use crate::preprocess::scale::Scale;
use crate::preprocess::{Prepared, preprocess};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// One micrograph to pick, and where its files go.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The file.
    pub path: PathBuf,
    /// Its output file.
    pub output: PathBuf,
    /// Its candidates file, if one is wanted.
    pub candidates: Option<PathBuf>,
    /// Its picture, if one is wanted.
    pub picture: Option<PathBuf>,
    /// Which section of it.
    pub sections: Sections,
    /// Its name as the user gave it.
    pub name: String,
    /// Pixel size that overrides the header's, angstrom.
    pub pixel_size_angstrom: Option<f64>,
}

/// Side of the boxes that are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WrittenSide {
    /// Micrograph pixels.
    Pixels(f64),
    /// A diameter that was asked for: without a pixel size the micrograph fails.
    Asked {
        /// Angstrom.
        diameter_angstrom: f64,
    },
    /// The model's diameter: without a pixel size the network's box serves.
    OfModel {
        /// Angstrom.
        diameter_angstrom: f64,
    },
    /// The network's box.
    OfNetwork,
}

/// What holds for every micrograph of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What a pick must pass.
    pub limits: Limits,
    /// Least distance of picks in sides of the constant box, in place of that of `limits`.
    pub distance_sides: Option<f64>,
    /// How picks are written.
    pub rule: OutputRule,
    /// What gives the frame: width of D; width and height of N.
    pub scale: Scale,
    /// Side of the constant box, network pixels.
    pub side_n_px: f64,
    /// Side of the boxes that are written.
    pub written_side: WrittenSide,
    /// How micrographs are read.
    pub read: ReadOptions,
    /// Candidates at this score or below are not kept.
    pub floor: f32,
    /// Most peaks that the network is asked for.
    pub cap: usize,
    /// Facts that are the same in every candidates file.
    pub facts: Facts,
    /// How many micrographs the page of --report will show; none: no page.
    pub report: Option<usize>,
}

/// What one micrograph gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Picks that passed.
    pub picks: usize,
    /// Fibers they make, in fiber mode.
    pub fibers: usize,
    /// Its place on the page of --report, if one is wanted.
    pub entry: Option<Entry>,
}

/// Picks of candidates: what passes the limits, best first.
///
/// `side_test_m_px`: the constant box of the border test, `side_written_m_px`: that of the files, micrograph pixels.
pub fn picks_of(candidates: &[Candidate], limits: &Limits, size: [usize; 2], sides: Sides, compat: &Compat) -> Vec<Pick> {
    let kept = filter(candidates, limits, size, sides.test_m_px, compat);
    kept.into_iter().map(|i| Pick::from_candidate(&candidates[i], sides.written_m_px)).collect()
}

/// Sides of the constant box, micrograph pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sides {
    /// In the border test.
    pub test_m_px: f64,
    /// In files and pictures.
    pub written_m_px: f64,
}

impl Settings {
    /// What a pick of this micrograph must pass.
    pub fn limits_of(&self, geometry: &Geometry) -> Limits {
        let in_sides = |sides: f64| sides_as_distance(sides, side_n_to_m(self.side_n_px, geometry), geometry.nx);
        Limits { min_distance: self.distance_sides.map_or(self.limits.min_distance, in_sides), ..self.limits }
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
        // The original writes its box as it tests it; ours are even, so that they have a centre pixel.
        let as_original = self.rule.compat.has(Fault::BoxCorners);
        let written_m_px = if as_original { written_m_px } else { output::even(written_m_px).max(2.0) };
        Ok(Sides { test_m_px, written_m_px })
    }
}

/// A micrograph, ready for the network, with what its outputs need.
#[derive(Debug)]
pub struct Ready {
    prepared: Prepared,
    /// A GPU prepares it: what it finds is in `prepared` after `peaks`.
    on_gpu: Option<OnGpu>,
    pixel_size_angstrom: Option<f64>,
    /// What only this micrograph's candidates file says.
    facts: Facts,
    /// The file's name, for messages.
    name: String,
    /// What the user should know, one line each; complete after `peaks`.
    pub warnings: Vec<String>,
    /// Why the frame is what it is, where that was chosen.
    pub reason: Option<String>,
    /// Seconds that reading and preprocessing took.
    pub seconds: f64,
}

impl Ready {
    /// network -> decode: the peaks, in descending order of score; none where all pixels are equal.
    ///
    /// Errors: the device fails; or 1 % or more of the pixels are no numbers, where a GPU was to prepare them.
    pub fn peaks(&mut self, picker: &mut PeakFinder) -> Result<Vec<Peak>> {
        let Some(on_gpu) = self.on_gpu.take() else {
            return if self.is_constant() { Ok(Vec::new()) } else { picker.run(self.image()) };
        };
        let (prepared, peaks) = on_gpu.peaks(picker)?;
        self.warnings.extend(prepared.warnings.iter().map(|text| format!("{}: {text}", self.name)));
        self.prepared = prepared;
        Ok(peaks)
    }

    /// The same, of a frame that may be cut into tiles.
    ///
    /// Errors: as [`Ready::peaks`].
    pub fn peaks_of_frame(&mut self, picker: &mut FramePeakFinder) -> Result<Vec<Peak>> {
        match picker.whole() {
            Some(whole) => self.peaks(whole),
            None if self.on_gpu.is_some() => anyhow::bail!("{}: prepared on a GPU, for a frame that is cut into tiles", self.name),
            None if self.is_constant() => Ok(Vec::new()),
            None => picker.run(self.image()),
        }
    }

    /// The network's input: frame x frame values, row after row; empty where a GPU has it.
    pub fn image(&self) -> &[f32] {
        &self.prepared.image
    }

    /// Sizes of all frames.
    pub fn geometry(&self) -> Geometry {
        self.prepared.geometry
    }

    /// Width of D; width and height of N.
    pub fn frame(&self) -> usize {
        self.prepared.geometry.frame
    }

    /// True if there is nothing to pick: all pixels are equal.
    pub fn is_constant(&self) -> bool {
        self.prepared.constant
    }
}

/// read -> preprocess; with `slots` on a GPU where it can, without waiting for it.
///
/// Errors: the micrograph cannot be read or used; the message names it.
pub fn prepare(job: &Job, settings: &Settings, slots: Option<&Arc<Slots>>) -> Result<Ready> {
    let start = Instant::now();
    let name = || job.path.display().to_string();
    let read = ReadOptions { sections: job.sections, ..settings.read };
    let micrograph = read_micrograph(&job.path, &read)?;
    let pixel_size_angstrom = job.pixel_size_angstrom.or(micrograph.pixel_size_angstrom);
    let size = [micrograph.nx, micrograph.ny];
    let frame = settings.scale.frame(size, pixel_size_angstrom).with_context(name)?;
    let reason = settings.scale.reason(frame, size, pixel_size_angstrom);
    let (compat, is_shown) = (&settings.rule.compat, job.picture.is_some() || settings.report.is_some());
    // Tiles are cut from an image of the host.
    let on_gpu = match slots.filter(|_| frame <= ALWAYS_WHOLE && suits(&micrograph.pixels, compat)) {
        Some(slots) => Some(slots.prepare(&micrograph, frame, compat, is_shown).with_context(name)?),
        None => None,
    };
    let prepared = match &on_gpu {
        Some(on_gpu) => Prepared::to_come(on_gpu.geometry()),
        None => preprocess(&micrograph, frame, compat).with_context(name)?,
    };
    let mut facts = Facts::default();
    facts.set(key::MICROGRAPH, &job.name);
    facts.set(key::MICROGRAPH_BYTES, std::fs::metadata(&job.path).map_or(0, |metadata| metadata.len()));
    facts.set(key::SIZE_X, micrograph.nx);
    facts.set(key::SIZE_Y, micrograph.ny);
    facts.set("Sections", sections_text(job.sections, micrograph.sections));
    facts.set(key::PIXEL_SIZE, pixel_size_angstrom.map_or("none".to_string(), |size| size.to_string()));
    facts.set("Frame", micrograph.orientation);
    facts.set(key::NET_SIZE_X, prepared.geometry.frame);
    facts.set("NetSizeY", prepared.geometry.height_d);
    let warnings = micrograph.warnings.iter().chain(&prepared.warnings).map(|text| format!("{}: {text}", name())).collect();
    Ok(Ready { prepared, on_gpu, name: name(), pixel_size_angstrom, facts, warnings, reason, seconds: start.elapsed().as_secs_f64() })
}

/// Micrographs to try scales on; those that cannot be read fail when their turn comes.
pub fn samples(jobs: &[Job], settings: &Settings) -> Vec<Sample> {
    let sample = |job: &Job| {
        let micrograph = read_micrograph(&job.path, &ReadOptions { sections: job.sections, ..settings.read }).ok()?;
        Some(Sample { pixel_size_angstrom: job.pixel_size_angstrom.or(micrograph.pixel_size_angstrom), micrograph })
    };
    jobs.iter().filter_map(sample).collect()
}

fn sections_text(which: Sections, count: usize) -> String {
    match which {
        Sections::First => format!("first of {count}"),
        Sections::One(index) => format!("{} of {count}", index + 1),
        Sections::Mean | Sections::Refuse => format!("mean of {count}"),
    }
}

/// decode -> filter -> write: all files of one micrograph. The output file comes last, so that it stands for all.
///
/// `peaks` are in descending order of score.
///
/// Errors: a pixel size is needed and unknown, or a file cannot be written.
pub fn finish(job: &Job, ready: &Ready, peaks: &[Peak], settings: &Settings) -> Result<Found> {
    let geometry = &ready.prepared.geometry;
    let compat = &settings.rule.compat;
    let name = || job.path.display().to_string();
    let sides = settings.sides(geometry, ready.pixel_size_angstrom).with_context(name)?;
    let limits = settings.limits_of(geometry);
    let mut candidates = candidates_of(peaks, geometry, compat);
    candidates.retain(|candidate| candidate.score > settings.floor);
    let picks = if compat.is_all() {
        let boxes = boxes_d(peaks, settings.side_n_px as f32 / 4.0, geometry);
        let kept = filter_d(&boxes, &limits, geometry);
        kept.into_iter().map(|i| Pick::from_box_d(&boxes[i], geometry)).collect()
    } else {
        picks_of(&candidates, &limits, [geometry.nx, geometry.ny], sides, compat)
    };
    let traced = output::trace(&picks, &settings.rule, geometry.nx);
    if let Some(path) = &job.candidates {
        let mut facts = ready.facts.clone();
        facts.extend(&settings.facts);
        facts.set(key::CAPPED, u8::from(candidates.len() >= most_peaks(settings.cap, geometry.frame)));
        facts.set(key::MIN_DISTANCE, limits.min_distance);
        facts.set(key::BOX_WRITTEN, sides.written_m_px);
        write_in_folder(path, candidates::write(&facts, &candidates).as_bytes())?;
    }
    if let Some(path) = &job.picture {
        write_in_folder(path, &draw::picture(&ready.prepared.equalised, &traced.coordinates, geometry)?)?;
    }
    let entry = |count: usize| {
        // Everything down to the lowest score kept: the page has its own threshold.
        let limits = Limits { vis_thresh: settings.floor, ..limits };
        let peaks = picks_of(&candidates, &limits, [geometry.nx, geometry.ny], sides, compat);
        Entry::new(&job.name, &ready.prepared.equalised, geometry, &peaks, count)
    };
    let entry = settings.report.map(entry).transpose()?;
    let text = output::render(&picks, &traced, &settings.rule, settings.side_n_px, ready.pixel_size_angstrom);
    write_in_folder(&job.output, text.with_context(name)?.as_bytes())?;
    Ok(Found { picks: picks.len(), fibers: traced.fibers, entry })
}

fn write_in_folder(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    }
    write_whole(path, bytes)
}
