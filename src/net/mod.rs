//! The network, written once, and what is made of it.
//!
//! `dla` writes DLA-34 with deformable convolutions as a list of nodes (`graph`), and `model` is such a network with
//! weights. The naive f64 walk over the list (`reference`) is the truth. `inference` makes of the list what picking
//! needs: norms are folded, readers fused, concatenations aliased and dead branches dropped, and every map has a fixed
//! place in one arena. `training` makes of it the steps forward and backward.

pub mod arena; //     lifetimes to offsets
pub mod dla; //       the network as a list of nodes
pub mod formula; //   weights by formula, for tests and speed
pub mod fresh; //     weights of a new network
pub mod graph; //     nodes and what they compute
pub mod inference; // image to peaks
pub mod lowering; // the walk from nodes to steps that inference and training share
pub mod model; //     a network with weights
pub mod parameters; // all weights in one block
pub mod reference; // the naive walk
pub mod training; //  steps forward and backward

pub use dla::Architecture;
pub use inference::frames::PeakFinders;
pub use inference::peaks::{PeakFinder, PeakFinderOptions, Views};
pub use model::Model;
