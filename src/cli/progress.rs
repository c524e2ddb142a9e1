//! Telling how far a run is: a bar with rate and time left on a terminal, plain lines otherwise, and with `--json`
//! one object per line on standard output for programs.

use super::print::{print, tell};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::io::IsTerminal;
use std::time::Instant;

/// Says how a run of `total` micrographs goes.
pub struct Progress {
    json: bool,
    /// Only warnings and errors are told; programs that read `--json` still get all of it.
    silent: bool,
    bar: Option<ProgressBar>,
    total: usize,
    done: usize,
    start: Instant,
}

impl Progress {
    /// Begins to tell of `total` micrographs.
    pub fn new(total: usize, json: bool) -> Self {
        let bar = (!json && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
            let shape = "{bar:30} {pos}/{len} micrographs, {per_sec}, {eta} left  {msg}";
            bar.with_style(ProgressStyle::with_template(shape).unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Progress { json, silent: false, bar, total, done: 0, start: Instant::now() }
    }

    /// Tells only of failures, and of the end.
    pub fn quiet(total: usize, json: bool) -> Self {
        Progress { json, silent: false, bar: None, total, done: 0, start: Instant::now() }
    }

    /// Tells only of warnings and errors.
    pub fn silent(total: usize, json: bool) -> Self {
        Progress { silent: true, ..Progress::quiet(total, json) }
    }

    /// The last word: micrographs done, picks, failures, and micrographs left alone because they were done before.
    pub fn summary(&self, done: usize, picks: usize, failures: usize, skipped: usize) {
        let seconds = self.seconds();
        let before = if skipped > 0 { format!(", {skipped} done before") } else { String::new() };
        let [done_text, picks_text, failures_text] = [counted(done, "micrograph"), counted(picks, "pick"), counted(failures, "failure")];
        self.say(&format!("{done_text}{before}, {picks_text}, {seconds:.2} seconds, {failures_text}"));
        let fields = serde_json::json!({
            "micrographs": done, "skipped": skipped, "picks": picks, "failures": failures, "seconds": seconds,
        });
        self.event("done", fields);
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// A line of plain text: standard output, or standard error with `--json`.
    pub fn say(&self, line: &str) {
        if self.silent {
            return;
        }
        if self.json { self.line_to_stderr(line) } else { self.with_bar_hidden(|| print(line)) }
    }

    /// A warning on standard error.
    pub fn warn(&self, line: &str) {
        self.line_to_stderr(&format!("warning: {line}"));
    }

    /// An error on standard error, and as an object with `--json`.
    pub fn error(&self, micrograph: &str, message: &str) {
        self.line_to_stderr(&format!("error: {message}"));
        self.event("error", serde_json::json!({ "micrograph": micrograph, "message": message }));
    }

    /// An object on standard output, with `--json` only. `fields` is an object.
    pub fn event(&self, name: &str, fields: Value) {
        if !self.json {
            return;
        }
        let mut object = serde_json::Map::new();
        object.insert("event".to_string(), Value::from(name));
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        print(&Value::Object(object).to_string());
    }

    /// Another micrograph is done; `what` says how.
    pub fn step(&mut self, micrograph: &str, what: &str) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{micrograph}: {what}"));
            bar.inc(1);
            return;
        }
        let per_second = self.done as f64 / self.seconds().max(1e-9);
        let left = (self.total.saturating_sub(self.done) as f64 / per_second).round() as u64;
        let rate = format!("{} of {}, {per_second:.2} per second, {} left", self.done, self.total, clock(left));
        self.say(&format!("{micrograph}: {what} ({rate})"));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line_to_stderr(&self, line: &str) {
        self.with_bar_hidden(|| tell(line));
    }

    fn with_bar_hidden(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// A count with its noun: `1 micrograph`, `2 micrographs`.
pub fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn clock(seconds: u64) -> String {
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}
