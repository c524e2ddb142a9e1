//! Exit status: 0 done, 1 something failed, 2 wrong usage (found before any file is written), 130 interrupted.

use anyhow::Context;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use super::print::{print, tell};

/// Everything was done.
pub const DONE: u8 = 0;
/// Something failed; what could be done was done.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const WRONG_USAGE: u8 = 2;
/// Ctrl-C.
pub const INTERRUPTED: u8 = 130;

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

/// Makes any error one of usage.
pub trait OrUsage<T> {
    /// The same result; its error ends the program with exit status 2.
    fn or_usage(self) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrUsage<T> for Result<T, E> {
    fn or_usage(self) -> anyhow::Result<T> {
        self.map_err(|error| Usage::because(format!("{:#}", error.into())).into())
    }
}

/// A flag that Ctrl-C sets, which also says what is done before the program stops (`finishing ...`); a second Ctrl-C
/// ends it at once. A command that runs others has one flag for all; what is said is the last one's.
///
/// Errors: the signal cannot be caught.
pub fn on_ctrl_c(what_is_finished: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    static CAUGHT: Mutex<Option<(Arc<AtomicBool>, &str)>> = Mutex::new(None);
    let mut caught = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((flag, what)) = caught.as_mut() {
        *what = what_is_finished;
        return Ok(Arc::clone(flag));
    }
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let handler = move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        let what = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or("", |(_, what)| *what);
        tell(&format!("interrupted: {what}; once more to stop at once"));
    };
    ctrlc::set_handler(handler).context("Ctrl-C cannot be caught")?;
    *caught = Some((Arc::clone(&flag), what_is_finished));
    Ok(flag)
}

/// Exit status of a command that ended with this error.
pub fn status_of(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Usage>().is_some() { WRONG_USAGE } else { FAILED }
}

/// Clap's message on one line, without the usage that follows it.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let message = text.split("\n\nUsage:").next().unwrap_or_default();
    let message = message.split("\n\nFor more information").next().unwrap_or_default();
    let words = message.strip_prefix("error: ").unwrap_or(message).split_whitespace();
    words.collect::<Vec<_>>().join(" ")
}
