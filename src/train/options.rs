//! The options that a training is made for, and the losses that its steps return.

use crate::formats::coordinates::Kind;
use crate::formats::state_dict::StateDict;
use crate::ops::losses::HeatMapLoss;

/// How much each loss counts in the total.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossWeights {
    /// Heat map.
    pub heat_map: f64,
    /// Offset of the centre.
    pub offset: f64,
    /// Width and height, which only the mode vesicle learns.
    pub size: f64,
}

impl Default for LossWeights {
    fn default() -> Self {
        LossWeights { heat_map: 1.0, offset: 1.0, size: 0.1 }
    }
}

/// The numbers by which the squared distances of the features are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FeatureScale {
    /// By the size of each map of one image.
    #[default]
    Actual,
    /// By 512*32*32 and 256*256*64, as the original does for every image and every width. For a 1024 x 1024 image and the full
    /// network these are the sizes of the maps.
    Original,
}

/// The options of a continual training, which keep a network from forgetting what it learnt earlier.
#[derive(Clone, Debug)]
pub struct Continual {
    /// The network as it was before this training. It never learns.
    pub earlier: StateDict,
    /// True if the earlier network normalises by the statistics of the batch, so that its running statistics move, as in the
    /// original.
    pub batch_statistics: bool,
    /// Scale of the distance between its features and the new ones.
    pub feature_scale: FeatureScale,
    /// Weight of that distance. With a weight of 0 the earlier network need not run.
    pub feature_weight: f64,
    /// Weight of the squared distance of the parameters.
    pub pull_weight: f64,
    /// Which images of a batch that has an exemplar are compared with the earlier network.
    pub compared: Compared,
}

/// Which images of a batch that has an exemplar are compared with the earlier network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compared {
    /// The exemplars alone. What the earlier network finds in new images need not be kept.
    #[default]
    Exemplars,
    /// All images, as in the original's formula. (The original has no batches with both kinds of images.)
    Batch,
}

impl Continual {
    /// The original's weights.
    pub const FEATURE_WEIGHT: f64 = 0.1;
    /// The original's weights.
    pub const PULL_WEIGHT: f64 = 0.01;

    /// The original's options, with two exceptions: the earlier network is used as it was, and distances are divided by the
    /// sizes of the maps.
    pub fn new(earlier: StateDict) -> Self {
        Continual {
            earlier,
            batch_statistics: false,
            feature_scale: FeatureScale::default(),
            feature_weight: Self::FEATURE_WEIGHT,
            pull_weight: Self::PULL_WEIGHT,
            compared: Compared::default(),
        }
    }
}

/// What a training is made for.
#[derive(Clone, Debug)]
pub struct TrainerOptions {
    /// Selects the losses.
    pub mode: Kind,
    /// Most images of a step.
    pub batch: usize,
    /// Rows and columns of an image, frame N: multiples of 32.
    pub frame: [usize; 2],
    /// How the heat map is compared with its target.
    pub heat_map_loss: HeatMapLoss,
    /// How much each loss counts.
    pub weights: LossWeights,
    /// True if maps are computed twice rather than kept. That takes less memory and more time, and gives the same bits.
    pub checkpoint_activations: bool,
    /// True if batch norms use the running statistics, which then stay as they are.
    pub frozen_statistics: bool,
}

impl TrainerOptions {
    /// The usual options for a mode, a batch and a frame.
    pub fn new(mode: Kind, batch: usize, frame: [usize; 2]) -> Self {
        TrainerOptions {
            mode,
            batch,
            frame,
            heat_map_loss: HeatMapLoss::Focal,
            weights: LossWeights::default(),
            checkpoint_activations: false,
            frozen_statistics: false,
        }
    }
}

/// The losses of a batch; `total` is what was minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// Weighted sum.
    pub total: f64,
    /// Heat map.
    pub heat_map: f64,
    /// Offset of the centre.
    pub offset: f64,
    /// Width and height, in mode vesicle.
    pub size: f64,
    /// Distance from the earlier network: features and parameters.
    pub exemplar: f64,
}
