//! What a training is made for, and what its steps tell.

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
    /// Width and height: in mode vesicle alone.
    pub size: f64,
}

impl Default for LossWeights {
    fn default() -> Self {
        LossWeights { heat_map: 1.0, offset: 1.0, size: 0.1 }
    }
}

/// By what the squared distances of the features are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FeatureScale {
    /// By the size of each map of one image.
    #[default]
    Actual,
    /// By 512*32*32 and 256*256*64, as the original does whatever the image and the widths: the same for a 1024 x 1024
    /// image and the full network.
    Original,
}

/// What keeps a network from forgetting what it learnt earlier.
#[derive(Clone, Debug)]
pub struct Continual {
    /// The network as it was before this training. It never learns.
    pub earlier: StateDict,
    /// True: it normalises by the batch, and its running statistics move, as in the original.
    pub batch_statistics: bool,
    /// Scale of the distance between its features and the new ones.
    pub feature_scale: FeatureScale,
    /// Weight of that distance; 0 spares the earlier network's work.
    pub feature_weight: f64,
    /// Weight of the squared distance of the parameters.
    pub pull_weight: f64,
    /// Which images of a batch that has an exemplar are compared with the earlier network.
    pub compared: Compared,
}

/// Which images of a batch that has an exemplar are compared with the earlier network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compared {
    /// The exemplars: of new images the earlier network knows nothing that should be kept.
    #[default]
    Exemplars,
    /// All, as the original's formula has it. It makes no batches of both.
    Batch,
}

impl Continual {
    /// The original's weights.
    pub const FEATURE_WEIGHT: f64 = 0.1;
    /// The original's weights.
    pub const PULL_WEIGHT: f64 = 0.01;

    /// What the original does, but that the earlier network is used as it was, and at the maps' own scale.
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
    /// Compute maps twice rather than keep them: less memory, more time, the same bits.
    pub checkpoint_activations: bool,
    /// True: norms by running statistics, which stay as they are.
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
