//! Signals that ask the program to stop: Ctrl-C (SIGINT), SIGTERM (a scheduler such as Slurm, or `kill`) and SIGHUP (the
//! terminal went away).
//!
//! A command that has something worth finishing says so with [`finishing`], and asks between two pieces of its work
//! whether it was told to stop. All other work ends at once: files appear whole or not at all, so nothing is torn. Either
//! way the exit status is 128 and the signal's number, as a shell would count it: 130, 143 or 129.
//! docs/recovery.md tells what each command leaves behind, and how to go on.

use super::status::tell;
use anyhow::Result;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

/// Exit status after Ctrl-C, and of a job that was told to stop in another way than by a signal.
pub const INTERRUPTED: u8 = 130;

/// True once a signal has asked the program to stop.
static ASKED: AtomicBool = AtomicBool::new(false);
/// The exit status that the signal asks for.
static STATUS: AtomicU8 = AtomicU8::new(INTERRUPTED);
/// What is finished before the program stops, if a command has anything to finish.
static WORK: Mutex<Option<Work>> = Mutex::new(None);

/// What a command finishes before it stops, and what it does if it is not allowed to.
struct Work {
    what_is_finished: &'static str,
    last_act: Option<Box<dyn Fn() + Send>>,
}

/// A command's claim to finish what it has in hand. It ends when this value is dropped; from then on signals end the
/// program at once.
#[must_use = "signals end the program at once as soon as this value is dropped"]
pub struct Finishing {
    outer: Option<Work>,
}

/// From now on the first signal only sets a flag, and says what is done before the program stops (`finishing ...`). A
/// second signal ends the program at once.
pub fn finishing(what_is_finished: &'static str) -> Finishing {
    Finishing { outer: work().replace(Work { what_is_finished, last_act: None }) }
}

/// As [`finishing`], but `last_act` is done before a second signal ends the program. It must be short, because a scheduler that
/// has waited long enough kills the program.
pub fn finishing_or(what_is_finished: &'static str, last_act: impl Fn() + Send + 'static) -> Finishing {
    Finishing { outer: work().replace(Work { what_is_finished, last_act: Some(Box::new(last_act)) }) }
}

/// True if a signal has asked the program to stop.
pub fn is_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// The exit status of work that was stopped: 128 and the number of the signal, or 130 if no signal came.
pub fn status() -> u8 {
    STATUS.load(Ordering::Relaxed)
}

/// The flag that a signal sets, for functions that take a flag.
impl Deref for Finishing {
    type Target = AtomicBool;

    fn deref(&self) -> &AtomicBool {
        &ASKED
    }
}

impl Drop for Finishing {
    fn drop(&mut self) {
        *work() = self.outer.take();
    }
}

fn work() -> std::sync::MutexGuard<'static, Option<Work>> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to listen for signals, on a thread of its own. The program calls it once, before any command runs.
///
/// Errors: the signals cannot be caught, or the thread cannot be started.
#[cfg(unix)]
pub fn listen() -> Result<()> {
    use anyhow::Context;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    let mut caught = vec![SIGINT, SIGTERM];
    // Whoever starts us with nohup wants us to outlive the terminal. (A script's background jobs are born with Ctrl-C
    // ignored, too, but who sends one of them a SIGINT means it.)
    if !is_ignored(SIGHUP) {
        caught.push(SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(caught).context("signals cannot be caught")?;
    let listening = move || {
        let mut first = None;
        signals.forever().for_each(|signal| on_signal(signal, &mut first));
    };
    std::thread::Builder::new().name("signals".to_string()).spawn(listening).context("no thread to listen for signals")?;
    Ok(())
}

/// Where there are no such signals, the system ends the program as it likes.
///
/// Errors: none.
#[cfg(not(unix))]
pub fn listen() -> Result<()> {
    Ok(())
}

/// Programs that pass a signal on deliver it twice: `timeout` signals its child and then its whole group, and a shell
/// repeats the SIGHUP that the terminal has sent already. Within this time that is one request, not two.
#[cfg(unix)]
const ONE_REQUEST: std::time::Duration = std::time::Duration::from_millis(200);

#[cfg(unix)]
fn on_signal(signal: i32, first: &mut Option<std::time::Instant>) {
    use signal_hook::consts::{SIGHUP, SIGINT};

    let name = match signal {
        SIGINT => "Ctrl-C",
        SIGHUP => "SIGHUP",
        _ => "SIGTERM",
    };
    if signal != SIGINT && first.is_some_and(|first| first.elapsed() < ONE_REQUEST) {
        return;
    }
    let is_first = first.replace(std::time::Instant::now()).is_none();
    // The status comes before the flag, so that whoever sees the flag finds the status.
    STATUS.store(128 + signal as u8, Ordering::SeqCst);
    ASKED.store(true, Ordering::SeqCst);
    let work = work();
    match work.as_ref() {
        Some(work) if is_first => tell(&format!("interrupted by {name}: {}; once more to stop at once", work.what_is_finished)),
        unfinished => {
            if let Some(last_act) = unfinished.and_then(|work| work.last_act.as_ref()) {
                last_act();
            }
            tell(&format!("interrupted by {name}: stopped at once"));
            // This skips the clean-up of a usual exit, which would wait for threads that are in the middle of their work.
            signal_hook::low_level::exit(128 + signal);
        }
    }
}

/// True if whoever started this program wanted the signal to be ignored.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // Linux tells the ignored signals as a mask; where there is no such file, none counts as ignored.
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = text.lines().find_map(|line| line.strip_prefix("SigIgn:")).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
