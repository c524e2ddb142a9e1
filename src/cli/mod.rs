//! The commands: arguments, and the story of each on one screen.

pub mod convert; // model files from one format to the other

use std::process::ExitCode;

/// Runs the program with the process's arguments; returns the exit status
/// (0 done, 1 something failed, 2 wrong usage, 130 interrupted).
pub fn run() -> ExitCode {
    ExitCode::SUCCESS
}
