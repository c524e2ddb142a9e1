//! Files and their names: coordinates, images, models, and which label file belongs to which micrograph.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[path = "../common/mod.rs"]
mod common;

mod cs;
mod images;
mod labels;
mod models;
mod names;
mod whole_files;
