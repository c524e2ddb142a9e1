//! The network in use: from an image to the peaks of its heat map.

pub mod bands; //  a chain of convolutions, some rows at a time
pub mod frames; // a peak finder for each frame
pub mod peaks; //  image to peaks
pub mod plan; //   steps at fixed places, and running them
pub mod steps; //  nodes to fused steps
pub mod tiles; //  a frame in overlapping squares
