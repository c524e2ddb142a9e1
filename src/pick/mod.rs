//! From a micrograph to picks, around the network: **(preprocess -> network) -> decode -> filter -> link**.

pub mod arrivals; //   micrographs that arrive in a folder, and which of them have come to rest
pub mod colour; //     colours of scores, and halos around them
pub mod decode; //     peaks of the heat map (frame H) to detections in frames D and M
pub mod draw; //       the picture of --visual
pub mod fiber; //      picks linked to fibers
pub mod filter; //     threshold, border and distance tests
pub mod folder; //     what lies in an output folder: the work of one run or of many
pub mod journal; //    what became of each micrograph of a watched folder
pub mod output; //     picks as the text of a coordinate file
pub mod parts; //      how long each part takes on a GPU, by a model and by the clock
pub mod queue; //      micrographs dealt out to several devices, and their order afterwards
pub mod relion; //     an External job of RELION
pub mod report; //     the page of --report
pub mod run; //        a micrograph before the network and after it, with all of its files
pub mod seek_scale; // which scale, where no diameter is known
pub mod seek_threshold; // how high a score must be, by what noise of the same kind gets
pub mod settings; //   what holds for every micrograph of a batch
pub mod slots; //      micrographs on their way through a GPU
pub mod trace; //      picks linked to fibers by the lines around them
pub mod workers; //    the devices of a run, and the loop that keeps them busy
