//! epicker finds particles, vesicles and filaments in cryo-EM micrographs with a small neural network,
//! and learns new ones from labelled micrographs without forgetting the old.
//!
//! The modules stand in the order in which data flows: **read -> preprocess -> network -> decode -> filter -> write**.
//! ARCHITECTURE.md has the map, the ways of a micrograph and of a label, and the invariants.

// The macros that print panic on a closed pipe and on a full disk; `cli::print` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

// A command settles what is to be done.
pub mod cli; // one file a command: its arguments, and its story on one screen

// Read.
pub mod io; // finding micrographs, pairing names, where a model comes from, writing whole files or none

pub mod formats; // bytes to values and back; knows no network and no device

// Preprocess.
pub mod preprocess; // micrograph (frame M) to the network's input (frame N)

// Network.
pub mod net; // the network, written once, and the plans made of it

pub mod ops; // one room an operation: shape, CPU code, launchers, reference, cases

pub mod device; // memory, threads and instruction sets; the only place that knows the hardware

// Decode, filter, write.
pub mod pick; // from the heat map's peaks to picks and their files; batches

// Learning, judging, and micrographs whose truth is known.
pub mod train; // labels, targets, augmentation, steps, checkpoints

pub mod eval; // picks against labels

pub mod simulate; // micrographs with known truth

pub mod view; // a workbench in the browser: label, correct, learn

// What several of them need.
pub mod ahead; // the next one is prepared while this one is worked on
pub mod compat; // the original's faults that can be asked for by name
pub mod doctor; // does a device compute what it should, and which one does the work?
pub mod random; // the one source of chance: a seed, a stream and a counter
pub mod words; // words of messages: plurals, names in a row, the name that was meant
