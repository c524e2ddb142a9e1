//! Files around the work: finding micrographs, pairing them with labels, writing whole files or none.

pub mod find; //   which micrographs a path, folder or list means
pub mod lists; //  merge_results.thi and autopick.star
pub mod model_source; // a model's file, or a general model by its name
pub mod names; //  stems, and which label belongs to which micrograph
pub mod write; //  temporary name, fsync, rename
