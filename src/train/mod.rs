//! Learning from labelled images: labels, samples, targets, losses, steps.

pub mod augment; // which part of an image a step sees, and how it is turned
pub mod random; //  the one source of chance: a seed and a counter
pub mod targets;

pub use targets::{Object, Targets};
