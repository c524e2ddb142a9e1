//! Learning from labelled images: labels, samples, targets, losses, steps.

pub mod augment; // which part of an image a step sees, and how it is turned
pub mod cache; //   prepared images on disk
pub mod checkpoint; // saving, and going on
pub mod data; //    batches
pub mod exemplar; // images of earlier data sets
pub mod labels; //  micrographs and their coordinate files
pub mod memory; //  how much a training needs
pub mod mirror; //  whether labels lie on something
pub mod options; // what a training is made for
pub mod run; //     epochs, replay, when to save
pub mod schedule; // how fast and how long, and which images a step sees
pub mod split; //   which images train, validate, test
pub mod step; //    one step: losses, gradients, Adam
pub mod targets; // what the network is to answer
pub mod team; //    devices that share the images of a batch

pub use memory::TrainingMemory;
pub use options::{Compared, Continual, FeatureScale, LossWeights, Losses, TrainerOptions};
pub use step::Trainer;
pub use targets::{Object, Targets};
pub use team::Trainers;
