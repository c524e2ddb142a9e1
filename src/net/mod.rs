//! The network, written once, and what is made of it.
//!
//! `dla` writes DLA-34 with deformable convolutions as a list of nodes (`graph`). The naive f64 walk over that list
//! (`reference`) is the truth; `plan` makes the inference order of it: norms folded, readers fused, concatenations
//! aliased, dead branches dropped, everything at a fixed place of one arena. `model` is a network with weights,
//! `picker` the plan with the peaks behind it.

pub mod arena; //     lifetimes to offsets
pub mod dla; //       the network as a list of nodes
pub mod engine; //    what a training plan computes with
pub mod formula; //   weights by formula, for tests and speed
pub mod fresh; //     weights of a new network
pub mod graph; //     nodes and what they compute
pub mod lower; //     nodes to fused steps
pub mod model; //     a network with weights, read from a file
pub mod parameters; // all weights in one block
pub mod picker; //    image to peaks
pub mod pickers; //   one for each frame
pub mod plan; //      steps at fixed places, and running them
pub mod reference; // the naive walk
pub mod tiles; //     a frame in overlapping squares
pub mod train_plan; // steps forward and backward at fixed places
pub mod train_run; //  running them
pub mod train_steps; // nodes to the steps of training

pub use dla::Architecture;
pub use model::{Mode, Model};
pub use picker::{Picker, PickerOptions};
pub use pickers::Pickers;
