//! Learning from labelled images: targets, losses, steps.

pub mod targets;

pub use targets::{Object, Targets};
