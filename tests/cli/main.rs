//! The program as a user runs it, one file for each command or page that tells a user what to type.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[path = "../common/mod.rs"]
mod common;

mod browser;
mod coords;
mod demo;
mod eval;
mod general;
mod install;
mod names_and_lists;
mod pick;
mod relion;
mod rethreshold;
mod signals;
mod simulate;
mod slurm;
#[cfg(target_os = "linux")]
mod streams;
mod tutorial;
mod unattended;
mod usage;
mod view;
mod watch;
