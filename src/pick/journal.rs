//! The journal of a watched folder: one line for each micrograph that was picked or has failed, appended when its files are written.
//!
//! It outlives the run. The next one reads it to know which files have failed and need not be tried again, and to go on counting. A line
//! that a killed run could not finish says nothing.

use crate::pick::folder::FileState;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The file's name in the output folder.
pub const FILE: &str = "journal.jsonl";

/// What became of a micrograph.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When, seconds since 1970.
    pub time: f64,
    /// The micrograph.
    pub micrograph: PathBuf,
    /// The file that was read.
    pub state: FileState,
    /// Seconds from the file's last change to its coordinates.
    pub latency: f64,
    /// What it gave.
    pub outcome: Outcome,
}

/// What a micrograph gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Picks, and the mean of their scores.
    Picked(usize, Option<f64>),
    /// Why there are none.
    Failed(String),
}

/// The journal, open for more.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Entry {
    fn to_json(&self) -> Value {
        let mut object = json!({
            "time": (self.time * 1e3).round() / 1e3,
            "micrograph": self.micrograph.display().to_string(),
            "bytes": self.state.bytes,
            "modified": self.state.time,
            "latency": (self.latency * 1e3).round() / 1e3,
        });
        match &self.outcome {
            Outcome::Picked(picks, score) => {
                object["picks"] = json!(picks);
                object["mean_score"] = json!(score.map(|score| (score * 1e4).round() / 1e4));
            }
            Outcome::Failed(error) => object["error"] = json!(error),
        }
        object
    }

    fn of_json(value: &Value) -> Option<Entry> {
        let outcome = match (value["picks"].as_u64(), value["error"].as_str()) {
            (Some(picks), _) => Outcome::Picked(picks as usize, value["mean_score"].as_f64()),
            (None, Some(error)) => Outcome::Failed(error.to_owned()),
            (None, None) => return None,
        };
        Some(Entry {
            time: value["time"].as_f64()?,
            micrograph: PathBuf::from(value["micrograph"].as_str()?),
            state: FileState { bytes: value["bytes"].as_u64()?, time: value["modified"].as_str()?.to_owned() },
            latency: value["latency"].as_f64()?,
            outcome,
        })
    }
}

impl Journal {
    /// Opens the journal of an output folder, and reads what earlier runs have written.
    ///
    /// Errors: the file cannot be read or written.
    pub fn open(folder: &Path) -> Result<(Journal, Vec<Entry>)> {
        let path = folder.join(FILE);
        let told = || format!("{}: cannot be written; check the folder's rights and the free space", path.display());
        let mut file = File::options().append(true).read(true).create(true).open(&path).with_context(told)?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).with_context(told)?;
        if bytes.last().is_some_and(|last| *last != b'\n') {
            // Half a line of a killed run is ended, so that the next one stands for itself.
            file.write_all(b"\n").with_context(told)?;
        }
        let text = String::from_utf8_lossy(&bytes);
        let entries = text.lines().filter_map(|line| Entry::of_json(&serde_json::from_str(line).ok()?)).collect();
        Ok((Journal { path, file }, entries))
    }

    /// Adds a line, and waits until it is on the disk.
    ///
    /// Errors: the disk is full.
    pub fn add(&mut self, entry: &Entry) -> Result<()> {
        let line = format!("{}\n", entry.to_json());
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("{}: cannot be written; check the free space", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_read_again_and_half_a_line_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let state = FileState { bytes: 7, time: "12.000000001".to_owned() };
        let entry = |outcome| Entry { time: 1.5, micrograph: PathBuf::from("a \"b\".mrc"), state: state.clone(), latency: 0.25, outcome };
        let all = [entry(Outcome::Picked(12, Some(0.5))), entry(Outcome::Picked(0, None)), entry(Outcome::Failed("cut off".to_owned()))];
        let (mut journal, before) = Journal::open(folder.path()).unwrap();
        assert_eq!(before, []);
        all[..2].iter().for_each(|entry| journal.add(entry).unwrap());
        let path = folder.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{{\"time\": 3, \"micro")).unwrap();
        let (mut journal, before) = Journal::open(folder.path()).unwrap();
        assert_eq!(before, all[..2]);
        journal.add(&all[2]).unwrap();
        assert_eq!(Journal::open(folder.path()).unwrap().1, all);
    }
}
