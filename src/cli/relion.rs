//! What `pick` and `train` share as External jobs of RELION: the options that RELION passes, and the mark of the end.

use super::interrupt::{self, Finishing};
use super::values;
use crate::pick::relion::{Ending, RelionJob, Version, mark, version_of_project};
use std::ffi::OsString;
use std::path::PathBuf;

/// Options that RELION passes to an External job.
#[derive(Clone, Debug, clap::Args)]
pub struct RelionArgs {
    /// RELION External job: STAR file with the micrographs
    #[arg(long = "in_mics", value_name = "FILE", requires = "o")]
    pub in_mics: Option<PathBuf>,
    /// RELION External job: folder of the job
    #[arg(long = "o", value_name = "FOLDER", requires = "in_mics")]
    o: Option<PathBuf>,
    /// RELION External job: threads
    #[arg(long = "j", value_name = "COUNT", value_parser = values::count)]
    pub j: Option<usize>,
    /// RELION External job: folder of the job, again
    #[arg(long = "pipeline_control", value_name = "FOLDER")]
    pipeline_control: Option<PathBuf>,
    /// RELION External job: 3.1, 4.0 or 5.0 [default: what the project's pipeline says]
    #[arg(long = "relion_version", value_name = "VERSION")]
    relion_version: Option<Version>,
}

impl RelionArgs {
    /// The job, if RELION has started one.
    pub fn job(&self) -> Option<RelionJob> {
        let (folder, micrographs) = self.o.clone().zip(self.in_mics.clone())?;
        let version = self.relion_version.unwrap_or_else(|| version_of_project(".".as_ref()));
        Some(RelionJob { folder, micrographs, version })
    }
}

/// The flag that a signal sets, and what is finished then. Signals are caught before a job begins, so that its mark is written whatever
/// ends it.
pub fn stop_flag(what: &'static str, job: Option<&RelionJob>) -> Finishing {
    match job {
        None => interrupt::finishing(what),
        Some(job) => {
            let folder = job.folder.clone();
            // There is nobody left to tell that the mark cannot be written.
            interrupt::finishing_or(what, move || drop(mark(&folder, Ending::Aborted)))
        }
    }
}

/// Marks a job as failed whose command line could not be understood; does nothing for other command lines.
pub fn mark_failed_job(args: &[OsString]) {
    let value_of = |name: &str| {
        let is_it = |arg: &OsString| arg.to_str().is_some_and(|arg| arg.replace('-', "_") == name.replace('-', "_"));
        args.iter().position(is_it).and_then(|i| args.get(i + 1)).map(PathBuf::from)
    };
    if args.get(1).is_none_or(|command| command != "pick" && command != "train") || value_of("--in_mics").is_none() {
        return;
    }
    if let Some(folder) = value_of("--o").filter(|folder| folder.is_dir()) {
        // The error itself has been told already.
        let _ = mark(&folder, Ending::Failure);
    }
}
