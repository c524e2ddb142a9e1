//! What a training will do, settled before it begins and never changed afterwards.
//!
//! Some of it is on the command line. More comes from the micrographs, from the model that the training starts with, and from
//! the checkpoint of an interrupted training. The rest are defaults. All of that meets here, so that no later code has to ask
//! what an option that was not given means. Nothing has been written yet, so whatever is refused here is wrong usage.

use super::args::{NormStatistics, TrainArgs};
use super::start::{Start, interrupted_training};
use super::{folder, parts};
use crate::cli::status::Usage;
use crate::compat::{Compat, Fault};
use crate::device::Collective;
use crate::device::team::block_of;
use crate::formats::coordinates::Kind;
use crate::formats::state_dict::ModelFacts;
use crate::io::model_source::ModelSource;
use crate::net::Architecture;
use crate::ops::Compute;
use crate::ops::losses::HeatMapLoss;
use crate::pick::filter::DISTANCE_SIDES;
use crate::preprocess::Normalisation;
use crate::preprocess::ground::Ground;
use crate::preprocess::scale::{Diameter, Scale};
use crate::train::augment::CornersD;
use crate::train::checkpoint::{Resumed, Terms};
use crate::train::data::{DataOptions, TrainingImage};
use crate::train::exemplar::Exemplar;
use crate::train::labels::{
    self, BoxSide, Gathered, Labelled, ORIGINAL_SIDE_H_PX, boxes_d, gather_judged, marks_d, reference, rejected_at_labels,
};
use crate::train::run::RunOptions;
use crate::train::schedule::{self, Asked, Beginning, GUIDE_RATE, Order, Recipe, Replay, Schedule};
use crate::train::split::{Shares, Split, split};
use crate::train::{Continual, FeatureScale, LossWeights, TrainerOptions, Trainers, TrainingMemory, augment};
use crate::words::counted;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::sync::Arc;

/// Box of the particles that a new network learns, heat-map pixels: that of the general models, 24 pixels of the image.
const NEW_SIDE_H_PX: f64 = 6.0;
/// The number of particles that find room side by side in a crop. They are enough for a network to see that particles keep
/// apart, and few enough for a step to be short.
const PARTICLES_ACROSS: f64 = 10.6;
/// The smallest and the largest side of crops if the command line gives none, pixels of frame N.
const CROPS: [usize; 2] = [256, 512];
/// The step between the sides of such crops.
const CROP_STEP: f64 = 64.0;
/// While it learns, a network is judged on no more micrographs than these, unless the length is given in epochs.
const MOST_JUDGED: usize = 20;
/// If the length is not given in epochs, judging may take at most this share of the time that the steps take.
const JUDGING_SHARE: f64 = 0.25;
/// Judging a pixel takes this share of the time that learning from it takes.
pub(super) const JUDGING_COST: f64 = 0.35;
/// The fewest and the most epochs into which a training is cut if its length is not given in epochs.
const EPOCHS: [usize; 2] = [4, 20];

/// What a training will do.
pub(super) struct Settings {
    /// Where the files of this training go.
    pub(super) folder: PathBuf,
    pub(super) kind: Kind,
    pub(super) compat: Compat,
    pub(super) seed: u64,
    /// Width of frame D.
    pub(super) frame: usize,
    /// How large the boxes of particles are.
    pub(super) side: BoxSide,
    pub(super) diameter_angstrom: Option<f64>,
    /// True if the model says how large its particles are, and false if it says the frame it was trained with.
    pub(super) tells_size: bool,
    /// In judging, as in picking, a pick that is nearer than this many diameters to a better one is dropped.
    pub(super) distance_sides: Option<f64>,
    /// The micrographs and their labels.
    pub(super) gathered: Gathered,
    /// Which micrographs train, validate and test.
    pub(super) parts: Split,
    /// The training part, in the order of `parts.train`.
    pub(super) training: Vec<TrainingImage>,
    /// The network that the training starts with.
    pub(super) start: Start,
    /// Exemplars of earlier data sets, where they are to be replayed.
    pub(super) exemplars: Option<Exemplar>,
    pub(super) continual: Option<Continual>,
    /// What is done about the ground of micrographs.
    pub(super) ground: Ground,
    /// Images of a step.
    pub(super) batch: usize,
    pub(super) replay: Replay,
    pub(super) trainer: TrainerOptions,
    pub(super) data: DataOptions,
    pub(super) memory: TrainingMemory,
    /// What the user is told about these settings, a line each.
    pub(super) lines: Vec<String>,
    /// What may be wrong, a line each.
    pub(super) warnings: Vec<String>,
    length: Length,
}

/// How long a training is and how fast it learns, before the number of images is known.
struct Length {
    asked: Asked,
    /// True if the length is that of the guide, or given in epochs.
    is_in_passes: bool,
    /// True if the guide's rate is taken where the command line gives none.
    has_guides_rate: bool,
    /// The schedule of the interrupted training, if the command line asks for no other.
    recorded: Option<Schedule>,
    beginning: Beginning,
}

/// How large particles and images are.
struct Sizes {
    frame: usize,
    side_n: usize,
    side: BoxSide,
    diameter_angstrom: Option<f64>,
    tells_size: bool,
}

/// What each device needs for its share of a batch.
///
/// Errors: one has not as much.
fn memory_of_a_device(
    devices: &[Compute],
    members: usize,
    architecture: Architecture,
    options: &TrainerOptions,
    is_continual: bool,
) -> Result<TrainingMemory> {
    let available = devices.iter().map(|compute| compute.device.available_memory().unwrap_or(usize::MAX)).min().unwrap_or(usize::MAX);
    let check = |options: &TrainerOptions| TrainingMemory::check(&devices[0], architecture, options, is_continual, available);
    match members {
        0 | 1 => check(options),
        count => check(&TrainerOptions { batch: block_of(options.batch, count), ..options.clone() })
            .with_context(|| format!("each of {count} devices takes a share of --batch_size {}", options.batch)),
    }
}

impl Settings {
    /// The network in training, on devices that share the images of each step; those of other processes are among them if there are
    /// any.
    ///
    /// Errors: as `Trainers::new`, or another process has failed.
    pub(super) fn trainers(&self, devices: &[Compute], processes: Option<&Arc<dyn Collective>>) -> Result<Trainers> {
        let (architecture, state, continual) = (self.start.architecture, &self.start.state, self.continual.as_ref());
        match processes {
            Some(processes) => Trainers::of_process(&devices[0], processes.clone(), architecture, state, &self.trainer, continual),
            None => Trainers::new(devices, architecture, state, &self.trainer, continual),
        }
    }

    /// Settles everything.
    ///
    /// Errors: wrong usage, or data that nothing can be learnt from.
    pub(super) fn settle(args: &TrainArgs, devices: &[Compute]) -> Result<Settings> {
        let asked = args.asked();
        asked.check()?;
        let shares = Shares::from_options(args.train_pct, args.val_pct, args.test_pct)?;
        folder::refuse_a_model(args)?;
        let (mut lines, mut warnings) = (Vec::new(), Vec::new());
        let gathered = args.gather(&mut lines, &mut warnings)?;
        let interrupted = interrupted_training(args)?;
        let source = args.source(interrupted.as_ref(), &mut lines)?;
        let sizes = args.sizes(&gathered, source.as_ref(), interrupted.as_ref(), &mut lines, &mut warnings)?;
        let parts = split(gathered.labelled.len(), shares, args.seed);
        let boxes = parts::boxes(&gathered, &parts.train, |one| boxes_d(one, args.mode, sizes.frame, sizes.side, &args.compat))?;
        let image = |(&i, boxes): (&usize, Vec<CornersD>)| {
            let one = &gathered.labelled[i];
            TrainingImage { path: one.path.clone(), marks: marks_d(one, sizes.frame, &boxes), boxes }
        };
        let training: Vec<TrainingImage> = parts.train.iter().zip(boxes).map(image).collect();
        let rejected = |(&i, image): (&usize, &TrainingImage)| rejected_at_labels(&gathered.labelled[i], &image.marks);
        let at_labels: usize = parts.train.iter().zip(&training).map(rejected).sum();
        if at_labels > 0 {
            lines.push(format!(
                "{} at a selected one, nearer than half its size, and not taken for rejected",
                counted(at_labels, "rejected pick")
            ));
        }

        let start = Start::load(args, source, interrupted, &mut lines)?;
        let recorded = start.resumed.as_ref().and_then(|resumed| resumed.terms.as_ref());
        let batch = args.batch_size.or(recorded.and_then(|terms| terms.batch)).unwrap_or(schedule::BATCH);
        let exemplars = args.exemplars(&start, sizes.frame, batch, &mut warnings)?;
        let continual = args.continual_terms(&start, exemplars.is_some());
        let keeps_statistics = args.keeps_statistics(&start);
        if keeps_statistics {
            lines.push("the norms keep the model's statistics; --norm_statistics move lets them follow the crops".to_owned());
        }
        let unfinished = args.unfinished(&gathered);
        if unfinished > 0 {
            let micrographs = counted(unfinished, "micrograph");
            lines.push(format!(
                "{micrographs} not marked as finished, so what has no label there may be a particle (--heat_map_loss sparse)"
            ));
        }
        let trainer = args.trainer_options(sizes.side_n, batch, keeps_statistics, unfinished > 0);
        let members = args.team.as_ref().map_or(devices.len(), |place| place.size);
        let memory = memory_of_a_device(devices, members, start.architecture, &trainer, continual.is_some())?;
        let recorded = recorded.and_then(|terms| terms.schedule.clone());
        let length = Length {
            is_in_passes: args.guide || asked.is_in_epochs(),
            has_guides_rate: args.guide,
            beginning: if start.is_from_nothing() { Beginning::Nothing } else { Beginning::Model },
            asked: Asked { learning_rate: args.lr.or(recorded.as_ref().map(|recorded| recorded.learning_rate)), ..asked.clone() },
            recorded: recorded.filter(|_| asked == Asked::default()),
        };
        let kind = args.mode;
        Ok(Settings {
            folder: args.exp_id.clone(),
            kind,
            compat: args.compat.clone(),
            seed: args.seed,
            frame: sizes.frame,
            side: sizes.side,
            diameter_angstrom: sizes.diameter_angstrom,
            tells_size: sizes.tells_size,
            distance_sides: (kind == Kind::Particle && sizes.tells_size).then_some(DISTANCE_SIDES),
            replay: args.replay_rule(batch),
            data: args.data_options(sizes.frame, sizes.side_n),
            gathered,
            parts,
            training,
            ground: Ground::of(args.ground.or(start.facts.ground_px)),
            start,
            exemplars,
            continual,
            batch,
            trainer,
            memory,
            lines,
            warnings,
            length,
        })
    }

    /// How the training runs with `images` training images, if it is judged on `judged` others. The line that is returned tells
    /// the user about a choice that was not asked for.
    pub(super) fn run_options(&self, images: usize, judged: usize) -> (RunOptions, Option<String>) {
        let (schedule, note) = self.schedule(images, judged);
        // A new network knows nothing, so it need not be judged: it only has to beat random picks.
        let judges_start = !self.start.is_from_nothing() && judged > 0;
        (RunOptions { batch: self.batch, schedule, replay: self.replay, judges_start }, note)
    }

    fn schedule(&self, images: usize, judged: usize) -> (Schedule, Option<String>) {
        let Length { asked, is_in_passes, has_guides_rate, recorded, beginning } = &self.length;
        if let Some(recorded) = recorded {
            return (recorded.clone(), None);
        }
        let deepest = self.start.architecture.channels.into_iter().max().unwrap_or(0);
        let recipe = Recipe::of(*beginning, deepest, images);
        if *is_in_passes {
            let exemplars = self.exemplars.as_ref().map_or(0, |exemplar| exemplar.entries.len());
            let rate = if *has_guides_rate { GUIDE_RATE } else { recipe.learning_rate };
            return asked.in_passes(rate, images, self.batch - self.replay.in_each_step(exemplars, self.batch));
        }
        let steps = asked.steps.unwrap_or(recipe.steps);
        let learnt_px = (steps * self.batch * self.data.side_n * self.data.side_n) as f64;
        let judged_px = (judged * self.frame * self.frame) as f64;
        let affordable = JUDGING_SHARE * learnt_px / (JUDGING_COST * judged_px).max(1.0);
        (asked.in_steps(&recipe, (affordable as usize).clamp(EPOCHS[0], EPOCHS[1])), None)
    }

    /// The micrographs on which the network is judged while it learns: those of the validation part, or of the test part if
    /// there is no validation part. If the length is not given in epochs, only some of them are taken, evenly spread.
    pub(super) fn judged(&self, parts: &Split) -> Vec<usize> {
        let part = if parts.validation.is_empty() { &parts.test } else { &parts.validation };
        let is_in_passes = self.length.recorded.as_ref().map_or(self.length.is_in_passes, |recorded| recorded.order == Order::Passes);
        let count = if is_in_passes { part.len() } else { part.len().min(MOST_JUDGED) };
        (0..count).map(|i| part[i * part.len() / count]).collect()
    }

    /// What a resumed training must have in common with this one.
    pub(super) fn terms(&self, parts: &Split, schedule: &Schedule) -> Terms {
        let stems: Vec<&str> = parts.train.iter().map(|&i| self.gathered.labelled[i].stem.as_str()).collect();
        let rates = match schedule.order {
            // A training in passes over the images may be given more epochs later, so their number is left out.
            Order::Passes => {
                format!("{} {:?} {:?}", schedule.learning_rate, self.length.asked.drops, self.length.asked.most_steps)
            }
            Order::Endless => schedule.to_text(),
        };
        let mut text = format!("{:?} {:?} {stems:?} {rates}", self.data, self.trainer);
        if self.ground != Ground::Kept {
            text.push_str(&format!(" {:?}", self.ground));
        }
        if let Some(continual) = &self.continual {
            text.push_str(&format!(" {:?} {} {}", self.replay, continual.feature_weight, continual.pull_weight));
        }
        let fingerprint = crate::formats::model_file::sha256(text.as_bytes());
        Terms {
            fingerprint,
            frame: self.frame,
            side_n: self.data.side_n,
            batch: Some(self.batch),
            schedule: Some(schedule.clone()),
            keeps_statistics: self.trainer.frozen_statistics,
        }
    }

    /// What the models of this training say of themselves.
    pub(super) fn facts(&self, parts: &Split) -> ModelFacts {
        let labels: usize = parts.train.iter().map(|&i| self.gathered.labelled[i].coordinates.points.len()).sum();
        let mut history = self.start.facts.history.clone();
        if self.start.resumed.is_none() || history.is_empty() {
            history.push(format!(
                "epicker {}: mode {}, {} micrographs, {labels} labels, seed {}, from {}",
                env!("CARGO_PKG_VERSION"),
                self.kind.name(),
                parts.train.len(),
                self.seed,
                self.start.from
            ));
        }
        ModelFacts {
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            mode: Some(self.kind.name().to_owned()),
            channels: Some(self.start.architecture.channels.to_vec()),
            head_width: Some(self.start.architecture.head),
            particle_size_h_px: parts::side_h_px(self.side, &self.gathered, self.frame),
            normalisation: Some(self.data.normalisation.pair()),
            diameter_angstrom: self.diameter_angstrom,
            frame: (!self.tells_size).then_some(self.frame),
            ground_px: self.ground.sigma_px(),
            average: None,
            noise_share: None,
            threshold: None,
            history,
        }
    }
}

impl TrainArgs {
    fn gather(&self, lines: &mut Vec<String>, warnings: &mut Vec<String>) -> Result<Gathered> {
        let mut options = labels::Options {
            skip_missing: self.skip_missing,
            pixel_size_angstrom: self.angpix,
            leave_out_unreadable: true,
            ..Default::default()
        };
        options.label.family = self.label_type;
        options = options.in_mode(self.mode);
        let data = self.data.as_deref().context("--data: missing; expected micrographs: a folder or a list")?;
        let folder = data.parent().filter(|_| !data.is_dir()).unwrap_or(data);
        let labels = self.label.as_deref().or(self.selected.as_deref()).unwrap_or(folder);
        let gathered = gather_judged(data, labels, self.rejected.as_deref(), &options)?;
        lines.push(labels::summary(&gathered));
        lines.extend(gathered.notes.iter().cloned());
        warnings.extend(gathered.warnings.iter().cloned().chain(labels::leftovers(&gathered)));
        labels::refuse_without_labels(&gathered)?;
        Ok(gathered)
    }

    /// The model that the training starts from. There is none for a new network, and for an interrupted training that needs no
    /// other model.
    fn source(&self, interrupted: Option<&Resumed>, lines: &mut Vec<String>) -> Result<Option<ModelSource>> {
        if self.load_model.is_some() {
            return Ok(self.load_model.clone());
        }
        let general = ModelSource::from(std::ffi::OsString::from(self.mode.name()));
        if let Some(interrupted) = interrupted {
            // The model that the interrupted training began with is needed only in a continual training, to keep the network
            // from forgetting.
            let history = ModelFacts::from_metadata(&interrupted.state.metadata)?.history;
            let began_with = |sha256: String| history.last().is_some_and(|last| last.ends_with(&format!("from {sha256}")));
            return Ok(Some(general).filter(|general| self.continual && general.sha256().is_ok_and(began_with)));
        }
        if self.from_scratch || self.guide {
            return Ok(None);
        }
        if self.width.is_some() || self.min_channels.is_some() {
            lines.push("--width and --min_channels ask for a new network, so this training starts from nothing".to_owned());
            return Ok(None);
        }
        Ok(Some(general))
    }

    /// How large particles and images are. The command line comes first, then the interrupted training, then the model, and
    /// last the defaults.
    ///
    /// Errors: a diameter without a pixel size, a frame beyond all bounds, or a crop that does not fit into the frame.
    fn sizes(
        &self,
        gathered: &Gathered,
        source: Option<&ModelSource>,
        interrupted: Option<&Resumed>,
        lines: &mut Vec<String>,
        warnings: &mut Vec<String>,
    ) -> Result<Sizes> {
        let side = |diameter: Option<f64>| {
            diameter.map_or(BoxSide::HeatMapPixels(self.particle_size.unwrap_or(ORIGINAL_SIDE_H_PX)), BoxSide::Angstrom)
        };
        if let Some((of_model, terms)) = interrupted.and_then(|resumed| Some((&resumed.state.metadata, resumed.terms.as_ref()?))) {
            let of_model = ModelFacts::from_metadata(of_model)?;
            let frame = self.frame.unwrap_or(terms.frame);
            let diameter_angstrom = self.diameter.or(of_model.diameter_angstrom.filter(|_| self.particle_size.is_none()));
            return Ok(Sizes {
                frame,
                side_n: checked_crop(self.input_res.unwrap_or(terms.side_n as i64), frame)?,
                side: side(diameter_angstrom),
                diameter_angstrom,
                tells_size: diameter_angstrom.is_some() || self.particle_size.is_some() || of_model.frame.is_none(),
            });
        }
        let Some(one) = reference(gathered) else { anyhow::bail!("no micrograph; expected at least one; check --data") };
        let of_model = match source {
            Some(source) => ModelFacts::from_metadata(&source.checkpoint(false)?.state.metadata).with_context(|| source.to_string())?,
            None if interrupted.is_some() => {
                ModelFacts::from_metadata(interrupted.map_or(&Default::default(), |resumed| &resumed.state.metadata))?
            }
            None if self.guide => ModelFacts::default(),
            None => ModelFacts { particle_size_h_px: Some(self.particle_size.unwrap_or(NEW_SIDE_H_PX)), ..ModelFacts::default() },
        };
        let of_labels = if self.mode == Kind::Vesicle && !self.guide { diameter_of_labels(gathered) } else { None };
        let scale =
            Scale::choose(self.frame, self.diameter.map(Diameter::Angstrom).or(of_labels), &of_model, one.pixel_size_angstrom.is_some());
        let frame = scale.frame(one.size, one.pixel_size_angstrom).with_context(|| one.path.display().to_string())?;
        lines.extend(scale.reason(frame, one.size, one.pixel_size_angstrom).map(|reason| format!("{reason} ({})", one.stem)));
        if scale.is_to_be_sought() && self.mode == Kind::Particle {
            warnings.push(format!(
                "without --diameter the micrographs are {frame} pixels wide to the network, whatever the size of the particles; a network \
                 learns particles of a known size sooner, so give --diameter"
            ));
        }
        let diameter_angstrom = match (self.diameter, scale) {
            (None, Scale::OfParticles { diameter: Diameter::Angstrom(diameter), .. }) if self.particle_size.is_none() => {
                let whose = if of_labels.is_some() { "labels" } else { "model" };
                lines.push(format!("the diameter, {diameter:.0} angstrom, is that of the {whose}; give another with --diameter"));
                Some(diameter)
            }
            (given, _) => given,
        };
        if scale.is_of_particles() {
            let far = |one: &&Labelled| {
                let own = scale.frame(one.size, one.pixel_size_angstrom).unwrap_or(frame);
                own.abs_diff(frame) * 10 > frame
            };
            let others = gathered.labelled.iter().filter(far).count();
            if others > 0 {
                warnings.push(format!(
                    "{others} of {} micrographs would need other frames than {frame} for particles of the same size, by more than a tenth",
                    gathered.labelled.len()
                ));
            }
        }
        let side_n = match (self.input_res, scale) {
            (Some(asked), _) => checked_crop(asked, frame)?,
            (None, Scale::OfParticles { .. }) if self.guide => frame.min(CROPS[1]),
            (None, Scale::OfParticles { side_n_px, .. }) => {
                let wanted = (PARTICLES_ACROSS * side_n_px / CROP_STEP).round() * CROP_STEP;
                (wanted as usize).clamp(CROPS[0], CROPS[1]).min(frame)
            }
            (None, Scale::Fixed { .. }) if self.guide => frame,
            (None, Scale::Fixed { .. }) => frame.min(CROPS[1]),
        };
        let tells_size = diameter_angstrom.is_some() || self.particle_size.is_some();
        Ok(Sizes { frame, side_n, side: side(diameter_angstrom), diameter_angstrom, tells_size })
    }

    /// The widths of a new network.
    pub(super) fn architecture(&self) -> Architecture {
        let usual = if self.guide || self.load_model.is_some() { "1" } else { "0.25" };
        let divisor = match self.width.as_deref().unwrap_or(usual) {
            "0.5" => 2,
            "0.25" => 4,
            _ => 1,
        };
        let is_of_general_models = self.width.is_none() && divisor == 4;
        let least = self.min_channels.map_or(if is_of_general_models { 16 } else { 1 }, usize::from);
        let full = Architecture::DLA34;
        Architecture { channels: full.channels.map(|c| (c / divisor).max(least)), head: full.head / divisor }
    }

    /// Whether norms keep the running statistics that they come with.
    ///
    /// The statistics of four small crops are so unlike those of whole micrographs that a network which learns by the former is
    /// at first much worse at the latter: on TRPV1 the average precision fell from 0.47 to 0.14 within forty steps and came
    /// back to 0.44 at most, while with the model's own statistics it rose from the first epoch on (docs/training.md). A new
    /// network has no statistics to keep. The original lets them move, so what repeats it does too.
    fn keeps_statistics(&self, start: &Start) -> bool {
        match (self.norm_statistics, &start.resumed) {
            (Some(asked), _) => asked == NormStatistics::Keep,
            (None, Some(resumed)) => resumed.terms.as_ref().is_some_and(|terms| terms.keeps_statistics),
            (None, None) => start.is_whole_model && !self.guide && !self.continual,
        }
    }

    /// How many micrographs are marked, but not as finished, where the command line does not say how the heat map is compared.
    fn unfinished(&self, gathered: &Gathered) -> usize {
        let is_unfinished = |one: &&Labelled| one.marks.as_ref().is_some_and(|marks| !marks.finished);
        if self.heat_map_loss.is_some() || self.is_sparse() { 0 } else { gathered.labelled.iter().filter(is_unfinished).count() }
    }

    /// True if the command line says that only some of the particles have a label.
    fn is_sparse(&self) -> bool {
        self.sparse_anno || self.selected.is_some()
    }

    fn trainer_options(&self, side_n: usize, batch: usize, keeps_statistics: bool, is_unfinished: bool) -> TrainerOptions {
        let is_sparse = self.is_sparse() || is_unfinished;
        TrainerOptions {
            heat_map_loss: self.heat_map_loss.unwrap_or(match (is_sparse, self.compat.has(Fault::SparseOriginal)) {
                (false, _) => HeatMapLoss::Focal,
                (true, true) => HeatMapLoss::SparseOriginal,
                (true, false) => HeatMapLoss::Sparse(Default::default()),
            }),
            weights: LossWeights { heat_map: self.hm_weight, offset: self.off_weight, size: self.wh_weight },
            checkpoint_activations: self.checkpoint_activations,
            frozen_statistics: keeps_statistics,
            ..TrainerOptions::new(self.mode, batch, [side_n; 2])
        }
    }

    fn data_options(&self, frame: usize, side_n: usize) -> DataOptions {
        DataOptions {
            frame,
            side_n,
            augment: augment::Options {
                flip_x: self.flip,
                flip_y: self.flip_y,
                turn: self.turn,
                contrast: self.contrast,
                random_centre: !self.not_rand_crop,
            },
            clip: self.compat.has(Fault::ClipCentre),
            normalisation: if self.compat.has(Fault::TrainNorm) { Normalisation::Training } else { Normalisation::Picking },
            seed: self.seed,
        }
    }

    fn replay_rule(&self, batch: usize) -> Replay {
        if self.replay_share == 0.0 { Replay::Apart } else { Replay::of_share(self.replay_share, batch) }
    }

    /// The exemplars to replay, if this training is to do so.
    fn exemplars(&self, start: &Start, frame: usize, batch: usize, warnings: &mut Vec<String>) -> Result<Option<Exemplar>> {
        if !self.continual {
            return Ok(None);
        }
        let folder = self.load_exemplar.display();
        if start.earlier.is_none() {
            if start.resumed.is_some() && !start.is_from_nothing() {
                return Err(
                    Usage::because("--continual --resume: no --load_model; expected the model this training began with; give it").into()
                );
            }
            warnings.push("--continual with a new network: there is nothing to forget yet, so this only keeps exemplars".to_owned());
            return Ok(None);
        }
        if !Exemplar::is_in(&self.load_exemplar) {
            warnings.push(format!("{folder}: no exemplars; fine-tuning, which may forget what the model knew"));
            return Ok(None);
        }
        let exemplar = Exemplar::read(&self.load_exemplar)?;
        exemplar.check_mode(self.mode.name())?;
        if exemplar.entries.is_empty() {
            warnings.push(format!("{folder}: the exemplar folder is empty; fine-tuning"));
            return Ok(None);
        }
        if self.replay_rule(batch) == Replay::Apart && exemplar.entries.len() < batch {
            warnings
                .push(format!("{folder}: {} exemplars, fewer than a batch; they are replayed in steps of as many", exemplar.entries.len()));
        }
        let others = exemplar.entries.iter().filter(|entry| entry.size[1] != frame).count();
        if others > 0 {
            warnings.push(format!(
                "{folder}: {others} pictures are not {frame} wide as this training's; they are resampled, which costs detail"
            ));
        }
        Ok(Some(exemplar))
    }

    fn continual_terms(&self, start: &Start, has_exemplars: bool) -> Option<Continual> {
        let only_particles = self.compat.has(Fault::DistillParticle) && self.mode != Kind::Particle;
        let earlier = start.earlier.clone().filter(|_| has_exemplars && !only_particles)?;
        let feature_scale = if self.compat.has(Fault::DistillSize) { FeatureScale::Original } else { FeatureScale::Actual };
        Some(Continual {
            batch_statistics: self.compat.has(Fault::TeacherBn),
            feature_scale,
            feature_weight: self.feature_weight,
            pull_weight: self.pull_weight,
            ..Continual::new(earlier)
        })
    }
}

/// Checks the side of crops that the command line asks for.
///
/// Errors: the side is no multiple of 32 within the frame.
fn checked_crop(asked: i64, frame: usize) -> Result<usize> {
    if asked == -1 {
        return Ok(frame);
    }
    let side = usize::try_from(asked).ok().filter(|side| (32..=frame).contains(side) && side % 32 == 0);
    side.with_context(|| format!("--input_res {asked}: expected a multiple of 32 from 32 to {frame}, or -1"))
}

/// The median diameter of labels that have one of their own: vesicles, whose labels say how large they are.
fn diameter_of_labels(gathered: &Gathered) -> Option<Diameter> {
    let in_angstrom = gathered.labelled.iter().all(|one| one.pixel_size_angstrom.is_some());
    let of_one = |one: &Labelled| -> Vec<f64> {
        let unit = one.pixel_size_angstrom.filter(|_| in_angstrom).unwrap_or(1.0);
        one.coordinates.points.iter().filter_map(|point| point.radius()).map(|radius| 2.0 * radius * unit).collect()
    };
    let mut diameters: Vec<f64> = gathered.labelled.iter().flat_map(of_one).filter(|diameter| *diameter > 0.0).collect();
    diameters.sort_by(f64::total_cmp);
    let median = *diameters.get(diameters.len() / 2)?;
    Some(if in_angstrom { Diameter::Angstrom(median) } else { Diameter::Pixels(median) })
}
