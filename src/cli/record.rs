//! The record of a run, which lies beside its outputs: enough to say how they were made, and to make them again.

use crate::io::write::write_whole;
use crate::pick::report::shell_word;
use anyhow::{Context, Result};
use std::fmt::Display;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The command line of a run, and what the run settled.
#[derive(Clone, Debug)]
pub struct Record {
    lines: Vec<(String, String)>,
    name: String,
}

impl Record {
    /// The record of this process: its command line, the folder it was started in, the program.
    pub fn new() -> Self {
        let stamp = stamp(SystemTime::now());
        let words: Vec<String> = std::env::args_os().map(|word| shell_word(&word.to_string_lossy())).collect();
        let mut record = Record { lines: Vec::new(), name: format!("{stamp}-{}.txt", std::process::id()) };
        record.add("command", words.join(" "));
        record
            .add("started in", std::env::current_dir().map_or("a folder that is gone".to_string(), |folder| folder.display().to_string()));
        record.add("started at", format!("{stamp} (universal time)"));
        record.add("program", concat!("epicker ", env!("CARGO_PKG_VERSION")));
        // The build script tells a release build its commit.
        record.add("commit", super::commit());
        record
    }

    /// Adds a line.
    pub fn add(&mut self, key: &str, value: impl Display) {
        self.lines.push((key.to_string(), value.to_string()));
    }

    /// The record as it is written: a key and its value on each line.
    pub fn text(&self) -> String {
        let width = self.lines.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
        self.lines.iter().map(|(key, value)| format!("{key:width$}  {value}\n")).collect()
    }

    /// Writes the record into a folder, under a name that no other record has. So each run leaves one, also if it goes on with
    /// an earlier run.
    ///
    /// Errors: the folder cannot be made, or the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        write_whole(&folder.join(&self.name), self.text().as_bytes())
    }
}

impl Default for Record {
    fn default() -> Self {
        Record::new()
    }
}

/// A time in the form that names of files have: 20261129T204201Z, universal time.
/// Source: Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
fn stamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let hour = crate::train::exemplar::hour_stamp(time);
    let (date, hour) = hour.split_at(8);
    format!("{date}T{hour}{:02}{:02}Z", seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_is_written_to_the_second() {
        // date -u -d 2026-11-29T20:42:01 +%s
        assert_eq!(stamp(UNIX_EPOCH + Duration::from_secs(1_795_984_921)), "20261129T204201Z");
    }

    #[test]
    fn a_record_names_command_program_and_what_was_settled() {
        let mut record = Record::new();
        record.add("model", "particle");
        let text = record.text();
        let keys: Vec<&str> = text.lines().map(|line| line.split("  ").next().unwrap_or_default()).collect();
        assert_eq!(keys, ["command", "started in", "started at", "program", "commit", "model"], "{text}");
    }
}
