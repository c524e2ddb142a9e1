//! A training as an External job of RELION: what RELION says on the command line, and by what it sees that the job has ended.

use super::args::TrainArgs;
use crate::cli::interrupt::{self, Finishing};
use crate::cli::values;
use crate::pick::relion::{Ending, RelionJob, Version, mark, version_of_project};
use crate::train::checkpoint;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Options that RELION passes to an External job.
#[derive(Clone, Debug, clap::Args)]
pub struct RelionArgs {
    /// RELION External job: STAR file with the micrographs
    #[arg(long = "in_mics", value_name = "FILE", requires = "o", conflicts_with = "data")]
    in_mics: Option<PathBuf>,
    /// RELION External job: STAR file with the coordinates to learn
    #[arg(long = "in_coords", value_name = "FILE", requires = "in_mics", conflicts_with_all = ["in_parts", "label"])]
    in_coords: Option<PathBuf>,
    /// RELION External job: STAR file with the particles to learn, such as those of selected classes
    #[arg(long = "in_parts", value_name = "FILE", requires = "in_mics", conflicts_with = "label")]
    in_parts: Option<PathBuf>,
    /// RELION External job: folder of the job
    #[arg(long = "o", value_name = "FOLDER", requires = "in_mics")]
    o: Option<PathBuf>,
    /// RELION External job: threads
    #[arg(long = "j", value_name = "COUNT", value_parser = values::count)]
    j: Option<usize>,
    /// RELION External job: folder of the job, again
    #[arg(long = "pipeline_control", value_name = "FOLDER")]
    pipeline_control: Option<PathBuf>,
    /// RELION External job: 3.1, 4.0 or 5.0 [default: what the project's pipeline says]
    #[arg(long = "relion_version", value_name = "VERSION")]
    relion_version: Option<Version>,
}

impl TrainArgs {
    /// The command line with what RELION says in its place, and the job, if it is one. A job that RELION continues goes on with the
    /// training in its folder.
    pub(super) fn of_relion(&self) -> (TrainArgs, Option<RelionJob>) {
        let RelionArgs { in_mics, in_coords, in_parts, o, j, relion_version, .. } = &self.relion;
        let (Some(micrographs), Some(folder)) = (in_mics, o) else { return (self.clone(), None) };
        let goes_on = folder.join(format!("{}.pth", checkpoint::LAST)).is_file() && !self.overwrite;
        let args = TrainArgs {
            data: Some(micrographs.clone()),
            label: in_coords.as_ref().or(in_parts.as_ref()).or(self.label.as_ref()).cloned(),
            exp_id: folder.clone(),
            threads: self.threads.or(*j),
            resume: self.resume || goes_on,
            ..self.clone()
        };
        let version = relion_version.unwrap_or_else(|| version_of_project(".".as_ref()));
        (args, Some(RelionJob { folder: folder.clone(), micrographs: micrographs.clone(), version }))
    }
}

/// The flag that a signal sets; a job is marked, whatever ends it.
pub(super) fn stop_flag(job: Option<&RelionJob>) -> Finishing {
    let what = "saving after the step in hand";
    match job {
        None => interrupt::finishing(what),
        Some(job) => {
            let folder = job.folder.clone();
            // There is nobody left to tell that the mark cannot be written.
            interrupt::finishing_or(what, move || drop(mark(&folder, Ending::Aborted)))
        }
    }
}

/// Tells RELION what the training has made, and how it ended.
///
/// Errors: a file cannot be written.
pub(super) fn end(job: &RelionJob, model: Option<&Path>, stopped: bool) -> Result<()> {
    if let Some(model) = model {
        // As RELION calls the models that it trains for Topaz: ParamsData.sav.topaz.model (pipeline_jobs.h).
        job.write_nodes(&[(model.to_owned(), "ParamsData.safetensors.epicker.model")])?;
    }
    job.end(Ending::of(stopped, model.is_some()))
}
