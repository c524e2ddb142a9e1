//! What several test files share.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part, and may panic")]

pub mod chromium;
pub mod drawn;
pub mod fixtures;
pub mod image_files;
pub mod labelled;
pub mod micrographs;
pub mod program;
pub mod served;
