//! Running this program's own commands beside the server: training and picking are done by `epicker train` and `epicker pick`, so what is
//! learnt here is what the command line would learn, and a failure there does no harm here.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Lines of a failed command that are repeated.
const LAST_LINES: usize = 4;

/// A command that runs, and can be stopped from another thread.
#[derive(Debug, Default)]
pub struct Running {
    child: Mutex<Option<Child>>,
    is_stopped: AtomicBool,
}

impl Running {
    /// Runs a command of this program with `--json` and gives every object that it prints to `hear`.
    ///
    /// Errors: it cannot be started, it failed (the error has its last words), or it was stopped.
    pub fn run(&self, program: &PathBuf, args: &[String], mut hear: impl FnMut(&Value)) -> Result<()> {
        if self.is_stopped() {
            bail!(STOPPED);
        }
        let mut command = Command::new(program);
        command.args(args).arg("--json").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{}: cannot be started", program.display()))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let last = std::thread::scope(|scope| {
            let last = scope.spawn(move || {
                let mut last = VecDeque::new();
                for line in err.into_iter().flat_map(|err| BufReader::new(err).lines().map_while(Result::ok)) {
                    last.push_back(line);
                    if last.len() > LAST_LINES {
                        last.pop_front();
                    }
                }
                last
            });
            for line in out.into_iter().flat_map(|out| BufReader::new(out).lines().map_while(Result::ok)) {
                if let Ok(value) = serde_json::from_str(&line) {
                    hear(&value);
                }
            }
            last.join().unwrap_or_default()
        });
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        let status = child.context("a command that was waited for twice")?.wait()?;
        if self.is_stopped() {
            bail!(STOPPED);
        }
        // Errors come last, and say what to do.
        let error = last.iter().rev().find(|line| line.starts_with("error: ")).or(last.back());
        match status.success() {
            true => Ok(()),
            false => bail!("{}", error.map_or("it failed without a word", |line| line.trim_start_matches("error: "))),
        }
    }

    /// Stops the command that runs, if one does, and all that would follow.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        if let Some(child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // It may have ended by itself meanwhile.
            let _ = child.kill();
        }
    }

    /// True once it has been stopped.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }
}

const STOPPED: &str = "stopped";
