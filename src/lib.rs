//! epicker finds particles, vesicles and filaments in cryo-EM micrographs with a small neural network,
//! and learns new ones from labelled micrographs without forgetting the old.
//!
//! The modules, in the order in which data flows: **read -> preprocess -> network -> decode -> filter -> write**.
//! ARCHITECTURE.md has the map and the invariants.

pub mod ahead; //   the next one is prepared while this one is worked on
pub mod cli; //     the commands: arguments, and the story of each on one screen
pub mod compat; //  the original's faults that can be asked for by name
pub mod convolutions; // --conv: cuDNN or this program's own kernels
pub mod device; //  memory, threads and instruction sets; the only place that knows the hardware
pub mod doctor; //  does a device compute what it should?
pub mod eval; //    picks against truth
pub mod formats; // bytes to values and back; knows no network and no device
pub mod io; //      finding micrographs, pairing names, reading ahead, writing whole files or none
pub mod net; //     the network, written once, and the plans made of it
pub mod ops; //     one room per operation: shape, CPU code, reference, cases
pub mod pick; //    from micrograph to picks, around the network
pub mod preprocess; // micrograph (frame M) to the network's input (frame N)
pub mod random; //  the one source of chance: a seed, a stream and a counter
pub mod simulate; // micrographs with known truth
pub mod train; //   labels, targets, augmentation, steps, checkpoints
