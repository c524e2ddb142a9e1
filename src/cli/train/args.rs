//! The options of `epicker train`, and what they mean before any file is read.

use crate::cli::values;
use crate::compat::{Compat, Fault};
use crate::convolutions::Conv;
use crate::formats::coordinates::Kind;
use crate::formats::label_file::Family;
use crate::formats::state_dict::ModelFacts;
use crate::io::model_source::ModelSource;
use crate::net::Architecture;
use crate::ops::losses::HeatMapLoss;
use crate::preprocess::Normalisation;
use crate::preprocess::scale::{Diameter, ORIGINAL_FRAME, Scale};
use crate::train::data::DataOptions;
use crate::train::labels::{BoxSide, Gathered, Labelled, ORIGINAL_SIDE_H_PX, reference};
use crate::train::run::Replay;
use crate::train::{Continual, LossWeights, TrainerOptions, augment};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The command line of `epicker train`.
#[derive(Clone, Debug, clap::Args)]
pub struct TrainArgs {
    /// Micrographs: a folder or a list
    #[arg(long = "data", value_name = "PATH", required = true)]
    pub(super) data: PathBuf,
    /// Labels, any format [default: beside the micrographs]
    #[arg(long = "label", value_name = "PATH")]
    pub(super) label: Option<PathBuf>,
    /// Format of the labels [default: told by the content]
    #[arg(long = "label_type", value_name = "FORMAT")]
    pub(super) label_type: Option<Family>,
    /// Folder of this training: models, logs, curves
    #[arg(long = "exp_id", value_name = "FOLDER", default_value = "default")]
    pub(super) exp_id: PathBuf,
    /// particle, vesicle or fiber
    #[arg(long = "mode", value_name = "MODE", default_value = "particle")]
    pub(super) mode: Kind,
    /// Model to start from, a file or the general model particle, vesicle or fiber: all tensors that fit are taken
    #[arg(long = "load_model", value_name = "MODEL")]
    pub(super) load_model: Option<ModelSource>,
    /// Go on with an interrupted training: EXP_ID/model_last.pth, bit by bit as if it had not been
    #[arg(long = "resume")]
    pub(super) resume: bool,
    /// Width of a new network: 1, 0.5 or 0.25 of the usual channels
    #[arg(long = "width", value_name = "SHARE", default_value = "1", value_parser = ["1", "0.5", "0.25"])]
    pub(super) width: String,
    /// Fewest channels of a new network at any level: what a narrow one needs most at fine resolution
    #[arg(long = "min_channels", value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(super) min_channels: u16,
    /// Learning rate
    #[arg(long = "lr", value_name = "RATE", default_value_t = 1e-4, value_parser = values::positive)]
    pub(super) lr: f64,
    /// Epochs after which the learning rate is a tenth [default: 70,90, scaled with --num_epoch]
    #[arg(long = "lr_step", value_name = "EPOCHS", value_delimiter = ',')]
    pub(super) lr_step: Option<Vec<u32>>,
    /// Images of a step
    #[arg(long = "batch_size", value_name = "COUNT", default_value_t = 4, value_parser = values::count)]
    pub(super) batch_size: usize,
    /// Epochs [default: 140]
    #[arg(long = "num_epochs", alias = "num_epoch", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) num_epochs: Option<u32>,
    /// Most steps of an epoch; -1 for all
    #[arg(long = "num_iters", value_name = "COUNT", default_value_t = -1)]
    pub(super) num_iters: i64,
    /// Share of the images to train on, percent [default: 80]
    #[arg(long = "train_pct", value_name = "PERCENT")]
    pub(super) train_pct: Option<u32>,
    /// Share to choose the best model with, percent [default: 0]
    #[arg(long = "val_pct", value_name = "PERCENT")]
    pub(super) val_pct: Option<u32>,
    /// Share for the evaluation at the end, percent [default: what is left, at most 20]
    #[arg(long = "test_pct", value_name = "PERCENT")]
    pub(super) test_pct: Option<u32>,
    /// Only some of the particles are labelled
    #[arg(long = "sparse_anno")]
    pub(super) sparse_anno: bool,
    /// How the heat map is compared with the labels: focal, sparse-original or sparse [default: focal; with --sparse_anno
    /// sparse]
    #[arg(long = "heat_map_loss", value_name = "NAME")]
    pub(super) heat_map_loss: Option<HeatMapLoss>,
    /// Diameter of the particles, angstrom: sets their boxes, and with --load_model the scale
    #[arg(long = "diameter", value_name = "ANGSTROM", value_parser = values::positive)]
    pub(super) diameter: Option<f64>,
    /// Box of the particles, heat-map pixels; given, it is the size by which the model knows particles [default: 4.75]
    #[arg(long = "particle_size", value_name = "PIXELS", value_parser = values::positive)]
    pub(super) particle_size: Option<f64>,
    /// Pixel size, angstrom, whatever the micrographs say
    #[arg(long = "angpix", value_name = "ANGSTROM", value_parser = values::positive)]
    pub(super) angpix: Option<f64>,
    /// Learn without forgetting: replays exemplars of earlier data sets, and keeps new ones at the end
    #[arg(long = "continual")]
    pub(super) continual: bool,
    /// Exemplars of earlier data sets
    #[arg(long = "load_exemplar", value_name = "FOLDER", default_value = "./exemplar_dataset")]
    pub(super) load_exemplar: PathBuf,
    /// Where exemplars are kept
    #[arg(long = "output_exemplar", value_name = "FOLDER", default_value = "./exemplar_dataset")]
    pub(super) output_exemplar: PathBuf,
    /// Labels to keep; whole images are kept, so it is the least
    #[arg(long = "sampling_size", value_name = "COUNT", default_value_t = 200, value_parser = values::count)]
    pub(super) sampling_size: usize,
    /// Share of exemplars in the images of each step of a continual training; 0 replays them in steps of their own after
    /// every eighth, as the original does
    #[arg(long = "replay_share", value_name = "SHARE", default_value_t = 0.25, value_parser = share)]
    pub(super) replay_share: f64,
    /// Weight of the distance of the exemplars' features from the earlier network's
    #[arg(long = "feature_weight", value_name = "WEIGHT", default_value_t = Continual::FEATURE_WEIGHT, value_parser = values::distance)]
    pub(super) feature_weight: f64,
    /// Weight of the distance from the earlier network's parameters
    #[arg(long = "pull_weight", value_name = "WEIGHT", default_value_t = Continual::PULL_WEIGHT, value_parser = values::distance)]
    pub(super) pull_weight: f64,
    /// Width of the downscaled micrographs [default: what makes particles of --diameter as large as the model of --load_model
    /// knows them, or the frame it was trained with; else 1024]
    #[arg(long = "frame", value_name = "PIXELS", value_parser = values::frame)]
    pub(super) frame: Option<usize>,
    /// Side of the crops to train on, at the downscaled micrographs' own scale; -1 for the frame [default: -1; where the
    /// frame follows from --diameter at most 512]
    #[arg(long = "input_res", value_name = "PIXELS", allow_hyphen_values = true)]
    pub(super) input_res: Option<i64>,
    /// Probability of mirroring in x
    #[arg(long = "flip", value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    pub(super) flip: f64,
    /// Probability of mirroring in y
    #[arg(long = "flip_y", value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    pub(super) flip_y: f64,
    /// Probability of a quarter turn
    #[arg(long = "turn", value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    pub(super) turn: f64,
    /// Largest change of contrast
    #[arg(long = "contrast", value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    pub(super) contrast: f64,
    /// No random crop: every sample is the whole image
    #[arg(long = "not_rand_crop")]
    pub(super) not_rand_crop: bool,
    /// Weight of the heat map's loss
    #[arg(long = "hm_weight", value_name = "WEIGHT", default_value_t = 1.0, value_parser = values::distance)]
    pub(super) hm_weight: f64,
    /// Weight of the offset's loss
    #[arg(long = "off_weight", value_name = "WEIGHT", default_value_t = 1.0, value_parser = values::distance)]
    pub(super) off_weight: f64,
    /// Weight of the size's loss
    #[arg(long = "wh_weight", value_name = "WEIGHT", default_value_t = 0.1, value_parser = values::distance)]
    pub(super) wh_weight: f64,
    /// Seed of all that is random
    #[arg(long = "seed", value_name = "NUMBER", default_value_t = 317)]
    pub(super) seed: u64,
    /// Devices; there is one: the first is used
    #[arg(long = "gpus", value_name = "IDS", value_parser = values::devices, allow_hyphen_values = true)]
    pub(super) gpus: Option<values::Devices>,
    /// Who computes convolutions on a GPU: auto (cuDNN where there is one that computes what it should), cudnn or native
    #[arg(long = "conv", value_name = "WHO", default_value = "auto")]
    pub(super) conv: Conv,
    /// Keep the model of every fifth epoch
    #[arg(long = "save_all")]
    pub(super) save_all: bool,
    /// Keep the prepared images
    #[arg(long = "save_debug_files")]
    pub(super) save_debug_files: bool,
    /// Most bytes of prepared images on disk, GB; 0 keeps none
    #[arg(long = "cache", value_name = "GB", default_value_t = 20.0, value_parser = values::distance)]
    pub(super) cache: f64,
    /// Compute maps twice rather than keep them: less memory, more time, the same result
    #[arg(long = "checkpoint-activations")]
    pub(super) checkpoint_activations: bool,
    /// Repeat faults of the original: all, or names parted by commas (docs/options.md)
    #[arg(long = "compat", value_name = "NAMES", default_value = "")]
    pub(super) compat: Compat,
    /// Leaves out entries of a list that do not exist
    #[arg(long = "skip-missing")]
    pub(super) skip_missing: bool,
    /// Threads [default: all cores]
    #[arg(long = "threads", value_name = "COUNT", value_parser = values::count)]
    pub(super) threads: Option<usize>,
    /// One JSON object per line on standard output; text goes to standard error
    #[arg(long = "json")]
    pub(super) json: bool,
}

/// Sides of crops where nobody asks: a step of more pixels takes long on a CPU, and particles of a known size need no more.
const MOST_CROP: usize = 512;

fn share(text: &str) -> Result<f64, String> {
    values::number_in(text, 0.0..=1.0)
}

impl TrainArgs {
    pub(super) fn side_n(&self) -> Result<usize> {
        let (frame, asked) = (self.frame(), self.input_res.unwrap_or(-1));
        if asked == -1 {
            return Ok(frame);
        }
        let side = usize::try_from(asked).ok().filter(|side| (32..=frame).contains(side) && side % 32 == 0);
        side.with_context(|| format!("--input_res {asked}: expected a multiple of 32 from 32 to {frame}, or -1"))
    }

    /// Width of frame D; [`TrainArgs::settled`] has chosen it.
    pub(super) fn frame(&self) -> usize {
        self.frame.unwrap_or(ORIGINAL_FRAME)
    }

    /// The same with all that was not given and follows from the micrographs and from the model to start with: the frame,
    /// the side of the crops, and a diameter that only the model knows.
    ///
    /// Errors: a diameter, but no pixel size; or a frame beyond all bounds.
    pub(super) fn settled(&self, gathered: &Gathered, of_model: &ModelFacts, say: &impl Fn(&str), warn: &impl Fn(&str)) -> Result<Self> {
        let Some(one) = reference(gathered) else { return Ok(self.clone()) };
        let asked = self.diameter.map(Diameter::Angstrom);
        let scale = Scale::choose(self.frame, asked, of_model, one.pixel_size_angstrom.is_some());
        let frame = scale.frame(one.size, one.pixel_size_angstrom).with_context(|| one.path.display().to_string())?;
        let mut args = TrainArgs { frame: Some(frame), ..self.clone() };
        scale.reason(frame, one.size, one.pixel_size_angstrom).iter().for_each(|reason| say(&format!("{reason} ({})", one.stem)));
        if !scale.is_of_particles() {
            return Ok(args);
        }
        if self.diameter.is_none() && self.particle_size.is_none() {
            args.diameter = of_model.diameter_angstrom;
            say("the diameter is that of the model; give another with --diameter");
        }
        args.input_res = self.input_res.or(i64::try_from(frame.min(MOST_CROP)).ok());
        let far = |one: &&Labelled| {
            let own = scale.frame(one.size, one.pixel_size_angstrom).unwrap_or(frame);
            own.abs_diff(frame) * 10 > frame
        };
        let others = gathered.labelled.iter().filter(far).count();
        if others > 0 {
            warn(&format!(
                "{others} of {} micrographs would need other frames than {frame} for particles of the same size, by more than a tenth",
                gathered.labelled.len()
            ));
        }
        Ok(args)
    }

    pub(super) fn side(&self) -> BoxSide {
        self.diameter.map_or(BoxSide::HeatMapPixels(self.particle_size.unwrap_or(ORIGINAL_SIDE_H_PX)), BoxSide::Angstrom)
    }

    pub(super) fn architecture(&self) -> Architecture {
        let divisor = match self.width.as_str() {
            "0.5" => 2,
            "0.25" => 4,
            _ => 1,
        };
        let full = Architecture::DLA34;
        Architecture { channels: full.channels.map(|c| (c / divisor).max(self.min_channels.into())), head: full.head / divisor }
    }

    pub(super) fn trainer_options(&self, side_n: usize) -> TrainerOptions {
        TrainerOptions {
            heat_map_loss: self.heat_map_loss.unwrap_or(match (self.sparse_anno, self.compat.has(Fault::SparseOriginal)) {
                (false, _) => HeatMapLoss::Focal,
                (true, true) => HeatMapLoss::SparseOriginal,
                (true, false) => HeatMapLoss::Sparse(Default::default()),
            }),
            weights: LossWeights { heat_map: self.hm_weight, offset: self.off_weight, size: self.wh_weight },
            checkpoint_activations: self.checkpoint_activations,
            ..TrainerOptions::new(self.mode, self.batch_size, [side_n; 2])
        }
    }

    pub(super) fn data_options(&self, side_n: usize) -> DataOptions {
        DataOptions {
            frame: self.frame(),
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

    pub(super) fn replay_rule(&self) -> Replay {
        if self.replay_share == 0.0 { Replay::Apart } else { Replay::of_share(self.replay_share, self.batch_size) }
    }

    /// Where the files of this training go.
    pub(super) fn folder(&self) -> &Path {
        &self.exp_id
    }
}
