//! What is done with a micrograph: **read -> preprocess** before the network sees it, and **decode -> filter -> write** after it. The
//! loop over a batch, which does all of this at once for several micrographs, is in `workers.rs`.

use crate::compat::Compat;
use crate::formats::candidates::{self, Candidate, Facts, key};
use crate::formats::image::{Micrograph, ReadOptions, Sections, read_micrograph};
use crate::formats::pixel_size::{Evidence, PixelSize};
use crate::io::write::write_set_whole;
use crate::net::PeakFinder;
use crate::net::inference::frames::{ALWAYS_WHOLE, FramePeakFinder, most_peaks};
use crate::net::inference::peaks::UnderWay;
use crate::ops::heat_map::{self, Peak};
use crate::pick::decode::{boxes_d, candidates as candidates_of};
use crate::pick::draw;
use crate::pick::filter::{Limits, filter, filter_d};
use crate::pick::folder::FileState;
use crate::pick::output::{self, Pick};
use crate::pick::report::Entry;
use crate::pick::settings::{Settings, Sides, Sight};
use crate::pick::slots::{InSlot, Slots};
use crate::pick::workers::{Workers, each};
use crate::preprocess::geometry::Geometry;
use crate::preprocess::gpu::suits;
use crate::preprocess::{Prepared, preprocess};
use crate::with_pixels;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// A micrograph to read.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// The file.
    pub path: PathBuf,
    /// Its name as the user gave it.
    pub name: String,
    /// Which section of the file is meant.
    pub sections: Sections,
    /// What is said of its pixel size besides its header.
    pub known: Evidence,
}

impl Input {
    /// Pixel size of the micrograph, angstrom, where `header` is what its header says.
    pub fn pixel_size_angstrom(&self, header: Option<f64>) -> Option<f64> {
        Evidence { header, ..self.known }.angstrom()
    }

    /// The pixel size that the user or the list of micrographs states, angstrom: the header's does not matter then.
    pub fn stated_pixel_size_angstrom(&self) -> Option<f64> {
        self.known.decide().filter(PixelSize::is_certain).map(|size| size.angstrom)
    }
}

/// A micrograph to pick, and where its files go.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The micrograph.
    pub input: Input,
    /// Its output file.
    pub output: PathBuf,
    /// Its candidates file, if one is wanted.
    pub candidates: Option<PathBuf>,
    /// Its picture, if one is wanted.
    pub picture: Option<PathBuf>,
    /// Where its part of the page of `--report` goes, if there is a page.
    pub entry: Option<PathBuf>,
    /// Where an earlier run would have left what this one does not make: it tells of other picks, so it is removed.
    pub outdated: Vec<PathBuf>,
}

impl AsRef<Input> for Input {
    fn as_ref(&self) -> &Input {
        self
    }
}

impl AsRef<Input> for Job {
    fn as_ref(&self) -> &Input {
        &self.input
    }
}

/// Where the micrographs of a run come from.
pub struct Source<'a, J> {
    /// Asked for the next micrograph only when its turn to be read has come. It must not wait, because the devices ask one at a time.
    pub jobs: Box<dyn Iterator<Item = J> + Send + 'a>,
    /// Asked before every micrograph. Once it says yes, the micrograph in hand is finished and no other is begun.
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
}

impl<'a, J: Clone + Sync> Source<'a, J> {
    /// The micrographs of a list, in its order.
    pub fn list(jobs: &'a [J], is_stopped: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Source { jobs: Box::new(jobs.iter().cloned()), is_stopped }
    }
}

/// A micrograph that the network has seen.
#[derive(Debug)]
pub struct Seen {
    /// The micrograph.
    pub ready: Ready,
    /// Its peaks, in descending order of score.
    pub peaks: Vec<Peak>,
    /// Seconds that the network took.
    pub network_seconds: f64,
}

/// What one micrograph gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Found {
    /// Picks that passed.
    pub picks: usize,
    /// True if there were more peaks above the threshold than `--K` takes, or as many.
    pub is_cut_by_k: bool,
    /// In fiber mode, the fibers that they make.
    pub fibers: usize,
    /// Seconds that finding and writing took after the network.
    pub write_seconds: f64,
}

/// Who is informed while a batch runs: the terminal, a program that reads JSON, the page of `--report`, RELION.
pub trait Told {
    /// All files of this micrograph are written.
    fn finished(&mut self, job: &Job, seen: &Seen, found: &Found);
    /// This micrograph failed; the batch goes on.
    fn failed(&mut self, job: &Job, error: &anyhow::Error);
}

/// Picks every micrograph of a source and writes its files. One that fails does not end the batch.
///
/// Errors: as `each`.
pub fn run(source: Source<Job>, workers: &mut Workers, settings: &Settings, told: &mut (dyn Told + Send)) -> Result<()> {
    each(source, workers, settings.sight(), |job, seen| {
        let done = seen.and_then(|seen| finish(&job, &seen.ready, &seen.peaks, settings).map(|found| (seen, found)));
        match done {
            Ok((seen, found)) => told.finished(&job, &seen, &found),
            Err(error) => told.failed(&job, &error),
        }
    })
}

/// What becomes of a micrograph at once.
pub(super) enum Begun {
    /// Its peaks are there.
    Found(Vec<Peak>),
    /// A GPU works on it.
    UnderWay(UnderWay),
}

/// Picks of candidates: those that pass the limits, best first.
pub fn picks_of(candidates: &[Candidate], limits: &Limits, size: [usize; 2], sides: Sides, compat: &Compat) -> Vec<Pick> {
    let kept = filter(candidates, limits, size, sides.test_m_px, compat);
    kept.into_iter().map(|i| Pick::from_candidate(&candidates[i], sides.written_m_px)).collect()
}

/// A micrograph that is ready for the network, with all that its outputs need.
#[derive(Debug)]
pub struct Ready {
    prepared: Prepared,
    /// Set while a GPU prepares the micrograph; what the GPU finds is in `prepared` after `peaks`.
    in_slot: Option<InSlot>,
    pixel_size_angstrom: Option<f64>,
    /// The facts that only this micrograph's candidates file says.
    facts: Facts,
    /// The file's name, for messages.
    name: String,
    /// What the user should know, one line each. The list is complete after `peaks`.
    pub warnings: Vec<String>,
    /// Why the frame has its width, where somebody chose it.
    pub reason: Option<String>,
    /// Seconds that reading and preprocessing took.
    pub seconds: f64,
}

impl Ready {
    /// network -> decode: the peaks, in descending order of score. An image whose pixels are all equal has none.
    ///
    /// Errors: the device fails; or 1 % or more of the pixels are no numbers, where a GPU was to prepare them.
    pub fn peaks(&mut self, finder: &mut PeakFinder) -> Result<Vec<Peak>> {
        let Some(in_slot) = self.in_slot.take() else {
            return if self.is_constant() { Ok(Vec::new()) } else { finder.run(self.image()) };
        };
        let landed = in_slot.peaks(finder)?;
        Ok(self.take_over(landed))
    }

    /// The same for a frame that may be cut into tiles, without waiting for a GPU that has prepared the micrograph.
    ///
    /// Errors: as [`Ready::peaks`].
    pub(super) fn begin(&mut self, finder: &mut FramePeakFinder) -> Result<Begun> {
        let Some(in_slot) = &mut self.in_slot else {
            return Ok(Begun::Found(if self.is_constant() { Vec::new() } else { finder.run(self.image())? }));
        };
        match finder.whole() {
            Some(whole) => in_slot.launch(whole).map(Begun::UnderWay),
            None => anyhow::bail!("{}: prepared on a GPU, for a frame that is cut into tiles", self.name),
        }
    }

    /// Waits for the GPU that works on the micrograph: its peaks.
    ///
    /// Errors: as [`Ready::peaks`].
    pub(super) fn landed(&mut self, finder: &mut FramePeakFinder, under_way: UnderWay) -> Result<Vec<Peak>> {
        let (Some(whole), Some(in_slot)) = (finder.whole(), self.in_slot.take()) else {
            anyhow::bail!("{}: no GPU works on it", self.name);
        };
        let landed = in_slot.landed(whole, under_way)?;
        Ok(self.take_over(landed))
    }

    /// What a GPU found about the micrograph, and its peaks.
    fn take_over(&mut self, (prepared, peaks): (Prepared, Vec<Peak>)) -> Vec<Peak> {
        self.warnings.extend(prepared.warnings.iter().map(|text| format!("{}: {text}", self.name)));
        self.prepared = prepared;
        peaks
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

    /// True if all pixels are equal, so that there is nothing to pick.
    pub fn is_constant(&self) -> bool {
        self.prepared.constant
    }
}

/// read -> preprocess; with `slots` on a GPU where it can, without waiting for it.
///
/// Errors: the micrograph cannot be read or used; the message names it.
pub fn prepare(input: &Input, sight: Sight, slots: Option<&Arc<Slots>>) -> Result<Ready> {
    let start = Instant::now();
    let name = || input.path.display().to_string();
    let read = ReadOptions { sections: input.sections, ..*sight.read };
    // Seen before the file is read: if somebody writes to it meanwhile, it counts as changed.
    let state = FileState::of(&input.path);
    let micrograph = read_micrograph(&input.path, &read)?;
    let pixel_size_angstrom = input.pixel_size_angstrom(micrograph.pixel_size_angstrom);
    let size = [micrograph.nx, micrograph.ny];
    let frame = sight.scale.frame(size, pixel_size_angstrom).with_context(name)?;
    let reason = sight.scale.reason(frame, size, pixel_size_angstrom);
    // A frame above ALWAYS_WHOLE may be cut into tiles, and tiles are cut from an image in the host's memory.
    let in_slot = match slots.filter(|_| frame <= ALWAYS_WHOLE && suits(&micrograph.pixels, sight.compat)) {
        Some(slots) => Some(slots.prepare(&micrograph, frame, sight.ground, sight.compat, sight.is_shown).with_context(name)?),
        None => None,
    };
    let prepared = match &in_slot {
        Some(in_slot) => Prepared::to_come(in_slot.geometry()),
        None => preprocess(&micrograph, frame, sight.ground, sight.compat).with_context(name)?,
    };
    let mut facts = Facts::default();
    facts.set(key::MICROGRAPH, &input.name);
    if let Some(state) = state {
        facts.set(key::MICROGRAPH_BYTES, state.bytes);
        facts.set(key::MICROGRAPH_TIME, state.time);
    }
    facts.set(key::SIZE_X, micrograph.nx);
    facts.set(key::SIZE_Y, micrograph.ny);
    facts.set("Sections", sections_text(input.sections, micrograph.sections));
    facts.set(key::PIXEL_SIZE, pixel_size_angstrom.map_or("none".to_string(), |size| size.to_string()));
    facts.set("Frame", micrograph.orientation);
    facts.set(key::NET_SIZE_X, prepared.geometry.frame);
    facts.set("NetSizeY", prepared.geometry.height_d);
    let copied = unfinished_copy(&micrograph);
    let warnings = micrograph.warnings.iter().chain(&copied).chain(&prepared.warnings).map(|text| format!("{}: {text}", name())).collect();
    Ok(Ready { prepared, in_slot, name: name(), pixel_size_angstrom, facts, warnings, reason, seconds: start.elapsed().as_secs_f64() })
}

/// More rows of one value than this share of all are no border that was masked.
const MOST_CONSTANT_ROWS: f64 = 0.03;

/// What is told of a micrograph of which many rows hold a single value: a file that is being copied has its full length long
/// before it has all of its rows.
fn unfinished_copy(micrograph: &Micrograph) -> Option<String> {
    let (nx, ny) = (micrograph.nx, micrograph.ny);
    let constant = with_pixels!(&micrograph.pixels, values => {
        values.chunks_exact(nx.max(1)).filter(|row| row.iter().all(|value| *value == row[0])).count()
    });
    // A micrograph of one value is told elsewhere.
    let is_suspicious = constant < ny && nx > 1 && constant as f64 > MOST_CONSTANT_ROWS * ny as f64;
    is_suspicious.then(|| {
        format!(
            "{constant} of {ny} rows hold a single value each, as in a file that is still being copied; if it is, pick again with --skip-done \
             once it is whole"
        )
    })
}

fn sections_text(which: Sections, count: usize) -> String {
    match which {
        Sections::First => format!("first of {count}"),
        Sections::One(index) => format!("{} of {count}", index + 1),
        Sections::Mean | Sections::Refuse => format!("mean of {count}"),
    }
}

/// decode -> filter -> write: all files of one micrograph. The output file comes last, so that it stands for all of them.
///
/// `peaks` are in descending order of score.
///
/// Errors: a pixel size is needed and unknown, or a file cannot be written.
pub fn finish(job: &Job, ready: &Ready, peaks: &[Peak], settings: &Settings) -> Result<Found> {
    let start = Instant::now();
    let geometry = &ready.prepared.geometry;
    let compat = &settings.rule.compat;
    let name = || job.input.path.display().to_string();
    let sides = settings.sides(geometry, ready.pixel_size_angstrom).with_context(name)?;
    let limits = settings.limits_of(geometry, ready.pixel_size_angstrom).with_context(name)?;
    let mut candidates = candidates_of(peaks, geometry, compat);
    candidates.retain(|candidate| candidate.score > settings.floor);
    let is_cut_by_k = limits.k.checked_sub(1).and_then(|last| candidates.get(last)).is_some_and(|last| last.score > limits.vis_thresh);
    let picks = if compat.is_all() {
        let boxes = boxes_d(peaks, settings.side_n_px as f32 / heat_map::STRIDE as f32, geometry);
        let kept = filter_d(&boxes, &limits, geometry);
        kept.into_iter().map(|i| Pick::from_box_d(&boxes[i], geometry)).collect()
    } else {
        picks_of(&candidates, &limits, [geometry.nx, geometry.ny], sides, compat)
    };
    let traced = output::trace(&picks, &settings.rule, geometry.nx);
    // Everything is made before anything is written, so that an error leaves an earlier run's files as they are.
    let candidates_text = job.candidates.as_ref().map(|_| {
        let mut facts = ready.facts.clone();
        facts.extend(&settings.facts());
        facts.set(key::CAPPED, u8::from(candidates.len() >= most_peaks(settings.cap, geometry.frame)));
        facts.set(key::EDGE, limits.edge);
        facts.set(key::MIN_DISTANCE, limits.min_distance);
        facts.set(key::BOX_WRITTEN, sides.written_m_px);
        candidates::write(&facts, &candidates)
    });
    let shown = |_| draw::picture(&ready.prepared.equalised, &traced.coordinates, geometry);
    let picture = job.picture.as_ref().map(shown).transpose()?;
    let entry = match settings.report {
        Some(count) if job.entry.is_some() => {
            // Everything down to the lowest score that is kept, because the page has its own threshold.
            let limits = Limits { vis_thresh: settings.floor, ..limits };
            let peaks = picks_of(&candidates, &limits, [geometry.nx, geometry.ny], sides, compat);
            let written = (&traced.coordinates, settings.limits.vis_thresh);
            Some(Entry::new(&job.input.name, &ready.prepared.equalised, geometry, &peaks, written, count)?.to_part(false).json)
        }
        _ => None,
    };
    let text = output::render(&picks, &traced, &settings.rule, settings.side_n_px, ready.pixel_size_angstrom).with_context(name)?;

    let files = [
        (job.candidates.as_deref(), candidates_text.as_deref().map(str::as_bytes)),
        (job.picture.as_deref(), picture.as_deref()),
        (job.entry.as_deref(), entry.as_deref().map(str::as_bytes)),
        (Some(job.output.as_path()), Some(text.as_bytes())),
    ];
    let files: Vec<(&Path, &[u8])> = files.into_iter().filter_map(|(path, bytes)| path.zip(bytes)).collect();
    for folder in files.iter().filter_map(|(path, _)| path.parent()) {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    }
    write_set_whole(&files, &job.outdated)?;
    Ok(Found { picks: picks.len(), is_cut_by_k, fibers: traced.fibers, write_seconds: start.elapsed().as_secs_f64() })
}
