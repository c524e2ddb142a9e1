//! Learning from labelled images: labels, samples, targets, losses, steps.

pub mod augment; // which part of an image a step sees, and how it is turned
pub mod cache; //   prepared images on disk
pub mod checkpoint; // saving, and going on
pub mod data; //    batches
pub mod exemplar; // images of earlier data sets
pub mod labels; //  micrographs and their coordinate files
pub mod mirror; //  whether labels lie on something
pub mod random; //  the one source of chance: a seed and a counter
pub mod run; //     epochs, replay, when to save
pub mod split; //   which images train, validate, test
pub mod step; //    one step: losses, gradients, Adam
pub mod targets; // what the network is to answer

pub use step::{Continual, FeatureScale, LossWeights, Losses, Trainer, TrainerOptions, TrainingMemory};
pub use targets::{Object, Targets};
