//! An External job of RELION: where it wants the coordinates of a micrograph, and the files by which it sees that a
//! job has ended and what it made. Source: docs/formats.md, "RELION External job".

use crate::io::lists::{self, Listed, below_job};
use crate::io::write::{remove_earlier, write_whole};
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The versions that name their nodes differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 3.1 and before.
    V3,
    /// 4.0.
    V4,
    /// 5.0.
    V5,
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split('.').next() {
            Some("3") => Ok(Version::V3),
            Some("4") => Ok(Version::V4),
            Some("5") => Ok(Version::V5),
            _ => Err("expected 3.1, 4.0 or 5.0".to_string()),
        }
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At least one micrograph was finished.
    Success,
    /// None was, or the job could not begin.
    Failure,
    /// RELION asked to stop.
    Aborted,
}

impl Ending {
    /// How a job ended that RELION stopped or did not, and that has an output of at least one micrograph or has none.
    pub fn of(is_stopped: bool, has_output: bool) -> Ending {
        match (is_stopped, has_output) {
            (true, _) => Ending::Aborted,
            (false, true) => Ending::Success,
            (false, false) => Ending::Failure,
        }
    }

    fn file(self) -> &'static str {
        match self {
            Ending::Success => "RELION_JOB_EXIT_SUCCESS",
            Ending::Failure => "RELION_JOB_EXIT_FAILURE",
            Ending::Aborted => "RELION_JOB_EXIT_ABORTED",
        }
    }
}

const ENDINGS: [Ending; 3] = [Ending::Success, Ending::Failure, Ending::Aborted];
const ABORT_NOW: &str = "RELION_JOB_ABORT_NOW";
const COORDINATES_ENDING: &str = "_autopick.star";

/// An External job.
#[derive(Clone, Debug)]
pub struct RelionJob {
    /// Its folder, relative to the project as RELION gave it.
    pub folder: PathBuf,
    /// The list of micrographs it was given.
    pub micrographs: PathBuf,
    /// Which RELION.
    pub version: Version,
}

impl RelionJob {
    /// Makes the folder, and removes what an earlier run of this job said about its end.
    ///
    /// Errors: the folder cannot be made, or a mark cannot be removed.
    pub fn begin(&self) -> Result<()> {
        std::fs::create_dir_all(&self.folder).with_context(|| format!("{}: cannot be made", self.folder.display()))?;
        ENDINGS.iter().try_for_each(|ending| remove_earlier(&self.folder.join(ending.file())))
    }

    /// True if RELION wants the job to stop.
    pub fn is_to_stop(&self) -> bool {
        self.folder.join(ABORT_NOW).exists()
    }

    /// The coordinate file of each micrograph: its path below `Type/jobNNN/`, with another ending.
    ///
    /// Errors: two micrographs would have the same.
    pub fn outputs(&self, micrographs: &[String]) -> Result<Vec<PathBuf>> {
        let mut taken: HashMap<PathBuf, &str> = HashMap::new();
        let mut outputs = Vec::with_capacity(micrographs.len());
        for micrograph in micrographs {
            let output = self.folder.join(format!("{}{COORDINATES_ENDING}", below_job(micrograph).display()));
            if let Some(other) = taken.insert(output.clone(), micrograph) {
                bail!("{other} and {micrograph}: both would write {}; expected different names; rename one", output.display());
            }
            outputs.push(output);
        }
        Ok(outputs)
    }

    /// Writes the lists that RELION reads after the job. `are_start_end`: the coordinates are pairs of start and end of
    /// fibers, which the type of the node has to say. Segments with their priors have the same node as particles, as in
    /// RELION's own AutoPick (pipeline_jobs.cpp, `getCommandsAutopickJob`).
    ///
    /// Errors: a file cannot be written.
    pub fn write_lists(&self, listed: &[Listed], are_start_end: bool) -> Result<()> {
        let node = match self.version {
            Version::V3 => {
                let line = format!("{}\n", self.micrographs.display());
                write_whole(&self.folder.join("coords_suffix_autopick.star"), line.as_bytes())?;
                "coords_suffix_autopick.star"
            }
            Version::V4 | Version::V5 => {
                lists::write_coordinate_files(&self.folder, listed)?;
                "autopick.star"
            }
        };
        let ending = if are_start_end { "helixstartend" } else { "autopick" };
        let kind = match self.version {
            Version::V3 => "2".to_string(),
            Version::V4 => format!("MicrographsCoords.star.relion.{ending}"),
            Version::V5 => format!("MicrographCoordsGroup.star.relion.{ending}"),
        };
        self.write_nodes_of_kind(&[(self.folder.join(node), &kind)])
    }

    /// Writes the nodes that RELION shows, each with the label of its type. RELION 3.1 knows no labels, and its numbers have none for
    /// files of other programs, so it is told of none.
    ///
    /// Errors: the file cannot be written.
    pub fn write_nodes(&self, nodes: &[(PathBuf, &str)]) -> Result<()> {
        self.write_nodes_of_kind(if self.version == Version::V3 { &[] } else { nodes })
    }

    fn write_nodes_of_kind(&self, nodes: &[(PathBuf, &str)]) -> Result<()> {
        let label = if self.version == Version::V3 { "_rlnPipeLineNodeType" } else { "_rlnPipeLineNodeTypeLabel" };
        let rows: String = nodes.iter().map(|(node, kind)| format!("{} {kind}\n", node.display())).collect();
        let text = format!("data_output_nodes\n\nloop_\n_rlnPipeLineNodeName #1\n{label} #2\n{rows}");
        write_whole(&self.folder.join("RELION_OUTPUT_NODES.star"), text.as_bytes())
    }

    /// Marks the end of the job; nothing may be written after it.
    ///
    /// Errors: the mark cannot be written.
    pub fn end(&self, ending: Ending) -> Result<()> {
        if ending == Ending::Aborted {
            // The request has been obeyed. If its file were left, it would stop the job again when the job is continued. RELION
            // may have removed the file itself, so it does not matter if there is none.
            let _ = std::fs::remove_file(self.folder.join(ABORT_NOW));
        }
        mark(&self.folder, ending)
    }
}

/// Marks the end of the job in `folder`.
///
/// Errors: the mark cannot be written.
pub fn mark(folder: &Path, ending: Ending) -> Result<()> {
    let path = folder.join(ending.file());
    std::fs::write(&path, "").with_context(|| format!("{}: cannot be written", path.display()))
}

/// The version of RELION that works in a project folder, which the names of the nodes in its pipeline tell; the newest version where
/// they do not.
pub fn version_of_project(folder: &Path) -> Version {
    let text = std::fs::read(folder.join("default_pipeline.star")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let has_nodes = text.contains("_rlnPipeLineNodeType ") || text.contains("_rlnPipeLineNodeType\n");
    match () {
        () if text.contains("MicrographGroupMetadata") => Version::V5,
        () if text.contains("MicrographsData") => Version::V4,
        () if has_nodes && !text.contains("_rlnPipeLineNodeTypeLabel") => Version::V3,
        () => Version::V5,
    }
}
