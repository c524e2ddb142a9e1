//! File formats: bytes to values and back. Nothing here knows the network, a device or the command line.
//!
//! Every reader takes bytes (or a path only to map them) and returns values or an error that says where in the
//! file what was found and what was expected. No reader panics, and none allocates more than the file's length allows.
//! Source: the formats are described in docs/formats.md.

pub mod coordinates; // the values all coordinate formats share
pub mod detect; //      which format these bytes are
pub mod fiber_order; // in which order points follow each other along a fiber
pub mod label_file; //  reading a coordinate file of any format
pub mod pixel_size; //  which pixel size is the micrograph's
pub mod regular; //     opening files, but no pipes and no devices
pub mod text; //        encodings, line ends, numbers
// images
pub mod image; //       a micrograph in memory, and reading one of any format
pub mod mrc;
pub mod mrc_write;
pub mod png_image;
pub mod tiff_image;
// coordinates
pub mod box_file;
pub mod candidates; //  everything the network found on one micrograph
pub mod cbox;
pub mod coord;
pub mod cs; //          cryoSPARC's tables
pub mod eman_json;
pub mod imod; //        contours as model2point prints them
pub mod marks; //       what is left out, where nothing is, whether all is labelled
pub mod star;
pub mod thi;
pub mod topaz;
// weights
pub mod model_file; //  which kind of model file it is, reading it, its fingerprint
pub mod pth; //         PyTorch checkpoints, through an allow-list
pub mod safetensors_file;
pub mod state_dict; //  named tensors in memory, and what a model says of itself
