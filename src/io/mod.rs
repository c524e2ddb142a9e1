//! Files around the work: finding micrographs and coordinates, pairing their names, writing whole files or none.

pub mod endings; // what other programs add to names
pub mod find; //    which micrographs a path, folder or list means
pub mod kept; //    what was found out about a machine, for the next run
pub mod lists; //   lists of files: merge_results.thi, autopick.star, and where the files of a list are
pub mod model_source; // a model's file, or a general model by its name
pub mod names; //   stems, and what outputs are called
pub mod pairing; // which coordinates belong to which micrograph
pub mod shard; //   a share of a batch, for several nodes
pub mod sources; // which coordinates a path, folder or list means
pub mod write; //   temporary name, fsync, rename
