//! The command line of `epicker train`. An option that is not given stays `None`, and settings.rs settles what that means.

use super::nodes::Place;
use super::relion::LearnArgs;
use crate::cli::values;
use crate::compat::Compat;
use crate::doctor::compute::Conv;
use crate::formats::coordinates::Kind;
use crate::formats::label_file::Family;
use crate::io::model_source::ModelSource;
use crate::ops::losses::HeatMapLoss;
use crate::train::Continual;
use crate::train::schedule::Asked;
use std::path::PathBuf;

/// The command line of `epicker train`.
#[derive(Clone, Debug, clap::Args)]
pub struct TrainArgs {
    /// Micrographs: a folder or a list
    #[arg(long = "data", value_name = "PATH", required_unless_present = "in_mics", conflicts_with = "in_mics")]
    pub(super) data: Option<PathBuf>,
    /// Labels, any format [default: beside the micrographs]
    #[arg(long = "label", value_name = "PATH")]
    pub(super) label: Option<PathBuf>,
    /// In place of --label: picks that were kept, such as the particles of the 2-D classes that were selected (STAR or .cs). What was
    /// never picked may be a particle or not
    #[arg(long = "selected", value_name = "PATH", conflicts_with_all = ["label", "in_coords", "in_parts"])]
    pub(super) selected: Option<PathBuf>,
    /// With --selected: picks that were thrown away, or all picks; what lies there, but not at a selected one, is not looked for
    #[arg(long = "rejected", value_name = "PATH", requires = "selected")]
    pub(super) rejected: Option<PathBuf>,
    /// Format of the labels [default: told by the content]
    #[arg(long = "label_type", value_name = "FORMAT")]
    pub(super) label_type: Option<Family>,
    /// Folder of this training: models, logs, curves
    #[arg(long = "exp_id", short = 'o', visible_alias = "output", value_name = "FOLDER", default_value = "default")]
    pub(super) exp_id: PathBuf,
    /// particle, vesicle or fiber
    #[arg(long = "mode", value_name = "MODE", default_value = "particle")]
    pub(super) mode: Kind,
    /// Model to start from, a file or the general model particle, vesicle or fiber: all tensors that fit are taken [default:
    /// the general model of the mode]
    #[arg(long = "load_model", value_name = "MODEL", conflicts_with = "from_scratch")]
    pub(super) load_model: Option<ModelSource>,
    /// Start with a new network, which knows nothing
    #[arg(long = "from-scratch")]
    pub(super) from_scratch: bool,
    /// What is not given is as in EPicker's guide: a new network of full width, 140 epochs, rate 1e-4, whole images 1024 pixels
    /// wide; epicker_train.sh passes this
    #[arg(long = "guide")]
    pub(super) guide: bool,
    /// Go on with an interrupted training: EXP_ID/model_last.pth, bit by bit as if it had not been
    #[arg(long = "resume")]
    pub(super) resume: bool,
    /// Replace the models and logs of an earlier training in EXP_ID
    #[arg(long = "overwrite", conflicts_with = "resume")]
    pub(super) overwrite: bool,
    /// Width of a new network: 1, 0.5 or 0.25 of the usual channels; asks for one [default: 0.25, that of the general models]
    #[arg(long = "width", value_name = "SHARE", value_parser = ["1", "0.5", "0.25"])]
    pub(super) width: Option<String>,
    /// Fewest channels of a new network at any level: what a narrow one needs most at fine resolution; asks for a new network
    /// [default: 1; of a new network whose width is not given 16]
    #[arg(long = "min_channels", value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(super) min_channels: Option<u16>,
    /// Steps in all, the rate rising at first and then falling along a cosine [default: by what the training starts with and by
    /// the number of micrographs]
    #[arg(long = "steps", value_name = "COUNT", value_parser = values::count)]
    pub(super) steps: Option<usize>,
    /// Learning rate [default: by what the training starts with]
    #[arg(long = "lr", value_name = "RATE", value_parser = values::positive)]
    pub(super) lr: Option<f64>,
    /// In place of --steps: epochs after which the learning rate is a tenth [default: 70,90, scaled with --num_epoch]
    #[arg(long = "lr_step", value_name = "EPOCHS", value_delimiter = ',')]
    pub(super) lr_step: Option<Vec<u32>>,
    /// Images of a step [default: 4]
    #[arg(long = "batch_size", value_name = "COUNT", value_parser = values::count)]
    pub(super) batch_size: Option<usize>,
    /// In place of --steps: passes over the images [default with --lr_step or --num_iters: 140]
    #[arg(long = "num_epochs", alias = "num_epoch", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) num_epochs: Option<u32>,
    /// Most steps of such an epoch; -1 for all
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
    /// How the heat map is compared with the labels: focal, sparse-original or sparse [default: focal; with --sparse_anno or
    /// --selected sparse]
    #[arg(long = "heat_map_loss", value_name = "NAME")]
    pub(super) heat_map_loss: Option<HeatMapLoss>,
    /// What batch norms do with the running statistics of the model that the training starts from: keep (use them as they are)
    /// or move (use each batch's own, and let the running ones follow) [default: keep; with --guide, --continual or a new
    /// network move]
    #[arg(long = "norm_statistics", value_name = "WHAT")]
    pub(super) norm_statistics: Option<NormStatistics>,
    /// Diameter of the particles, angstrom: sets their boxes and the scale
    #[arg(long = "diameter", value_name = "ANGSTROM", value_parser = values::positive)]
    pub(super) diameter: Option<f64>,
    /// Box of the particles, heat-map pixels; given, it is the size by which the model knows particles [default: 4.75]
    #[arg(long = "particle_size", value_name = "PIXELS", value_parser = values::positive)]
    pub(super) particle_size: Option<f64>,
    /// Take the uneven ground away from micrographs: what a Gaussian of this deviation, pixels of the network's image, leaves of
    /// them, say three particles' diameters; 0 leaves it. Kept in the model [default: as in the model that the training starts
    /// from, else 0]
    #[arg(long = "ground", value_name = "PIXELS", value_parser = values::length)]
    pub(super) ground: Option<f64>,
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
    /// Width of the downscaled micrographs [default: what makes particles of --diameter as large as the model that the training
    /// starts from knows them, a new network 24 pixels; or the frame that model was trained with; else 1024]
    #[arg(long = "frame", value_name = "PIXELS", value_parser = values::frame)]
    pub(super) frame: Option<usize>,
    /// Side of the crops to train on, at the downscaled micrographs' own scale; -1 for the frame [default: some ten particles,
    /// 256 to 512 pixels]
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
    /// GPUs, such as 0 or 0,1, which share the images of each step; all for every GPU, or -1 for the CPU [default: the first GPU, the
    /// CPU where there is none]
    #[arg(long = "gpus", value_name = "IDS", value_parser = values::devices, allow_hyphen_values = true)]
    pub(super) gpus: Option<values::Devices>,
    /// This is one of several processes that train one network together, each with one device: which of how many, such as 1/4, or slurm
    /// where srun says so
    #[arg(long = "team", value_name = "K/N")]
    pub(super) team: Option<Place>,
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
    #[command(flatten)]
    pub(super) relion: LearnArgs,
}

/// What batch norms do with their running statistics.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormStatistics {
    Keep,
    Move,
}

fn share(text: &str) -> Result<f64, String> {
    values::number_in(text, 0.0..=1.0)
}

impl TrainArgs {
    /// What the command line says about the learning rate and the length.
    pub(super) fn asked(&self) -> Asked {
        Asked {
            learning_rate: self.lr,
            drops: self.lr_step.clone(),
            epochs: self.num_epochs,
            most_steps: usize::try_from(self.num_iters).ok().filter(|&count| count > 0),
            steps: self.steps,
        }
    }
}
