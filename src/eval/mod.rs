//! Picks against labels: matching, curves, and the numbers that come of them.

pub mod chart; //    curves as pictures, SVG and PNG
pub mod coco; //     average precision by overlap of boxes, as the COCO tools compute it
pub mod features; // what a network sees in an image
pub mod fiber; //    lengths of fibers found
pub mod matching; // which pick found which label
pub mod metrics; //  precision and recall over all thresholds
pub mod page; //     micrographs of an evaluation with picks and truth, to look at
pub mod report; //   all numbers of one evaluation, as text and JSON
pub mod with_model; // picks of a model, without threshold and border
