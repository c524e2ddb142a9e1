//! Tells how far a run is. On a terminal a bar shows the rate and the time that is left; elsewhere each micrograph gets a
//! plain line. With `--json` programs read one object per line on standard output, and people read standard error.

use super::status;
use crate::words::counted;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::io::IsTerminal;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Tells a user and other programs how a run goes.
pub struct Progress {
    json: bool,
    bar: Option<ProgressBar>,
    total: usize,
    done: usize,
    start: Instant,
}

impl Progress {
    /// Begins to tell about a run of `total` micrographs. With `json` standard output belongs to objects for programs.
    pub fn new(total: usize, json: bool) -> Self {
        let bar = (!json && !status::is_quiet() && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
            let shape = "{bar:30} {pos}/{len} micrographs, {per_sec}, {eta} left  {msg}";
            bar.with_style(ProgressStyle::with_template(shape).unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Progress { json, bar, total, done: 0, start: Instant::now() }
    }

    /// Begins to tell about a run that is too quick for a bar: it tells its failures and its end.
    pub fn quiet(total: usize, json: bool) -> Self {
        Progress { json, bar: None, total, done: 0, start: Instant::now() }
    }

    /// The last line of a run: how many micrographs were done, how many picks were found, how many failures there were, and
    /// how many micrographs were left alone because they had been done before.
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

    /// Seconds since the run began.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// A line of plain text: standard output, or standard error with `--json`; nothing with `--quiet`.
    pub fn say(&self, line: &str) {
        self.with_bar_hidden(|| status::say(line, self.json));
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

    /// Writes an object on standard output, if the user asked for them with `--json`. `fields` is a JSON object; the event's
    /// name goes before them.
    pub fn event(&self, name: &str, fields: Value) {
        if !self.json {
            return;
        }
        let mut object = serde_json::Map::new();
        object.insert("event".to_string(), Value::from(name));
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        object.insert("time".to_string(), Value::from((time * 1e3).round() / 1e3));
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        status::print_json(&Value::Object(object));
    }

    /// Another micrograph is done; `what` says what came of it.
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

    /// Takes the bar away, so that the lines that follow stand where it was.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line_to_stderr(&self, line: &str) {
        self.with_bar_hidden(|| status::tell(line));
    }

    fn with_bar_hidden(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// `4:05` or `1:04:05`.
fn clock(seconds: u64) -> String {
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}
