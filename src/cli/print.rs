//! Standard output and standard error: the one place through which lines leave the program.
//!
//! Rust's own macros (`println!`, `eprintln!`) panic where a reader has closed the pipe and where the disk is full, so the
//! library forbids them (lib.rs). What is written here never panics and never stops the work, because the files are what
//! counts: whether standard output took everything is remembered, and judged once at the end by [`conclude`].

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Exit status of a command that had nothing to make but text, and whose reader went away: 128 and the number of SIGPIPE,
/// as a shell reports it for programs which that signal ends.
pub const READER_GONE: u8 = 141;

/// Why standard output did not take everything.
enum Lost {
    /// The reader closed the pipe, as `head` does when it has seen enough.
    ReaderGone,
    /// Anything else, such as a full disk.
    Fault(io::Error),
}

static LOST: Mutex<Option<Lost>> = Mutex::new(None);

/// True if only warnings and errors are to be told.
static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// From now on only warnings and errors are told (`--quiet`), and what `--json` asks for.
pub fn be_quiet() {
    IS_QUIET.store(true, Ordering::Relaxed);
}

/// True if only warnings and errors are to be told.
pub fn is_quiet() -> bool {
    IS_QUIET.load(Ordering::Relaxed)
}

/// A line of the story that a command tells, on standard output; nothing with `--quiet`.
pub fn print(line: &str) {
    if !is_quiet() {
        write_line(line);
    }
}

/// A line of the story: on standard error where standard output belongs to the objects of `--json`.
pub fn say(line: &str, is_json: bool) {
    match is_json {
        _ if is_quiet() => {}
        true => tell(line),
        false => write_line(line),
    }
}

/// An object that `--json` asks for, on a line of standard output; also with `--quiet`.
pub fn print_json(object: &serde_json::Value) {
    write_line(&object.to_string());
}

fn write_line(line: &str) {
    let mut out = io::stdout().lock();
    note(writeln!(out, "{line}").and_then(|()| out.flush()));
}

/// A text that has its own line ends, on standard output; nothing with `--quiet`.
pub fn text(text: &str) {
    if is_quiet() {
        return;
    }
    let mut out = io::stdout().lock();
    note(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// A line on standard error. There is nobody left to whom a failure to write it could be told.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Remembers the first failure of standard output; for what others write there, such as the help text.
pub fn note(result: io::Result<()>) {
    let Err(error) = result else { return };
    let lost = if error.kind() == io::ErrorKind::BrokenPipe { Lost::ReaderGone } else { Lost::Fault(error) };
    LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(lost);
}

/// The exit status, once it is known whether standard output took everything.
///
/// A closed pipe is no fault: a command that made files has made them and keeps its status, and one whose text was all
/// there is (`is_only_text`) ends with [`READER_GONE`]. Any other failure is told, and makes of success a failure.
pub fn conclude(status: u8, is_only_text: bool) -> u8 {
    let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner).take();
    match lost {
        None => status,
        Some(Lost::ReaderGone) => {
            if status == super::status::DONE && is_only_text {
                READER_GONE
            } else {
                status
            }
        }
        Some(Lost::Fault(error)) => {
            tell(&format!("error: standard output: a part of the text could not be written ({error}); check where it goes"));
            if status == super::status::DONE { super::status::FAILED } else { status }
        }
    }
}
