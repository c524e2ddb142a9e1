//! Exit status: 0 done, 1 something failed, 2 wrong usage (found before any file is written), 128 and the number of a
//! signal that stopped the work (interrupt.rs).

use std::fmt;

pub use super::print::{be_quiet, is_quiet, print, print_json, say, tell};

/// Everything was done.
pub const DONE: u8 = 0;
/// Something failed; what could be done was done.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const WRONG_USAGE: u8 = 2;

/// The command line, or a file that it names, cannot be used: exit status 2.
#[derive(Debug)]
pub struct Usage(String);

impl Usage {
    /// Wrong usage with this reason, one line.
    pub fn because(reason: impl fmt::Display) -> Self {
        Usage(reason.to_string())
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Turns any error into one of wrong usage.
pub trait OrUsage<T> {
    /// The same result; its error ends the program with exit status 2.
    fn or_usage(self) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrUsage<T> for Result<T, E> {
    fn or_usage(self) -> anyhow::Result<T> {
        self.map_err(|error| Usage::because(format!("{:#}", error.into())).into())
    }
}

/// Exit status of a command that ended with this error.
pub fn status_of(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Usage>().is_some() { WRONG_USAGE } else { FAILED }
}
