//! A training as an External job of RELION: what it learns from, and what RELION shows of it.

use super::args::TrainArgs;
use crate::cli::relion::RelionArgs;
use crate::pick::relion::{Ending, RelionJob};
use crate::train::checkpoint;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Options that RELION passes to a job that learns.
#[derive(Clone, Debug, clap::Args)]
pub struct LearnArgs {
    #[command(flatten)]
    job: RelionArgs,
    /// RELION External job: STAR file with the coordinates to learn
    #[arg(long = "in_coords", value_name = "FILE", requires = "in_mics", conflicts_with_all = ["in_parts", "label"])]
    in_coords: Option<PathBuf>,
    /// RELION External job: STAR file with the particles to learn, such as those of selected classes
    #[arg(long = "in_parts", value_name = "FILE", requires = "in_mics", conflicts_with = "label")]
    in_parts: Option<PathBuf>,
}

impl TrainArgs {
    /// The command line with what RELION says in its place, and the job, if it is one. A job that RELION continues goes on with the
    /// training in its folder.
    pub(super) fn of_relion(&self) -> (TrainArgs, Option<RelionJob>) {
        let LearnArgs { job: of_job, in_coords, in_parts } = &self.relion;
        let Some(job) = of_job.job() else { return (self.clone(), None) };
        let goes_on = job.folder.join(format!("{}.pth", checkpoint::LAST)).is_file() && !self.overwrite;
        let args = TrainArgs {
            data: Some(job.micrographs.clone()),
            label: in_coords.as_ref().or(in_parts.as_ref()).or(self.label.as_ref()).cloned(),
            exp_id: job.folder.clone(),
            threads: self.threads.or(of_job.j),
            resume: self.resume || goes_on,
            ..self.clone()
        };
        (args, Some(job))
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
