//! The network in training: its steps forward, and the same steps backward.

pub mod plan; //  steps forward and backward at fixed places
pub mod run; //   running them
pub mod steps; // nodes to the steps of training
