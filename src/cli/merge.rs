//! `epicker merge` joins what several runs picked into one folder: lists and the page, and says what is missing.
//!
//! Every run writes these for the whole folder when it ends. One that was killed, or a task that was never started, does not; this
//! command needs neither the network nor, but for --data, the micrographs.

use super::status::{self, OrUsage, Usage};
use crate::io::find::find_all;
use crate::io::lists::{self, Listed};
use crate::pick::folder::{Covered, Picked, picked_into, write_covering};
use crate::pick::output::OutputType;
use crate::pick::report::{self, Heading};
use crate::words::counted;
use anyhow::Result;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The command line of `epicker merge`.
#[derive(Debug, clap::Args)]
pub struct MergeArgs {
    /// Output folder of `epicker pick`
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The micrographs that should be there: files, folders or lists, as in `epicker pick`
    #[arg(long = "data", value_name = "PATH", num_args = 1..)]
    data: Vec<PathBuf>,
    /// One JSON object, the last line of standard output
    #[arg(long = "json")]
    json: bool,
}

/// Most names of missing micrographs that are printed; JSON has all.
const MOST_NAMED: usize = 20;

/// Runs the command; returns the exit status: 1 if micrographs are missing.
///
/// Errors: the folder holds nothing that was picked, or its outputs were picked in several ways.
pub fn run(args: &MergeArgs) -> Result<u8> {
    let folder = &args.folder;
    let look = || -> Result<Vec<Picked>> {
        let mut picked: Vec<Picked> = picked_into(folder)?.into_iter().filter(|picked| picked.output.exists()).collect();
        picked.sort_by(|a, b| (&a.micrograph, &a.output).cmp(&(&b.micrograph, &b.output)));
        Ok(picked)
    };
    let picked = look().or_usage()?;
    let Some(first) = picked.first() else {
        return Err(
            Usage::because(format!("{}: nothing was picked into it; expected an output folder of epicker pick", folder.display())).into()
        );
    };
    for other in &picked {
        first.refuse_another_way(other).or_usage()?;
    }
    let expected = if args.data.is_empty() { None } else { Some(find_all(&args.data, true).or_usage()?) };
    let there: BTreeSet<&Path> = picked.iter().map(|picked| picked.micrograph.as_path()).collect();
    let absent = |name: &&String| !there.contains(Path::new(name.as_str()));
    let missing: Vec<String> = expected
        .iter()
        .flat_map(|list| list.micrographs.iter().map(|found| &found.name).chain(&list.missing))
        .filter(absent)
        .cloned()
        .collect();

    let covered = || Ok(look()?.into_iter().map(Covered::from).collect());
    let is_star = first.output_type == OutputType::Star;
    write_covering(covered, |covered| {
        let listed: Vec<Listed> = covered.iter().map(|covered| covered.listed.clone()).collect();
        lists::write_lists(folder, &listed, is_star)?;
        let parts: Vec<&Covered> = covered.iter().filter(|covered| covered.entry.is_file()).collect();
        if parts.is_empty() {
            return Ok(());
        }
        let heading = Heading::of_picks(folder, first.kind(), first.model_name(), first.threshold(), parts.len());
        report::write(&folder.join("report.html"), &heading, false, parts.iter().map(|covered| covered.part()))
    })?;

    let (count, absent) = (counted(picked.len(), "micrograph"), missing.len());
    if args.json {
        status::print_json(&serde_json::json!({ "micrographs": picked.len(), "missing": missing }));
    } else {
        status::print(&format!("{}: lists of {count}", folder.display()));
        if absent > 0 {
            let named: Vec<&str> = missing.iter().take(MOST_NAMED).map(String::as_str).collect();
            let more = if absent > MOST_NAMED { format!(", and {} more", absent - MOST_NAMED) } else { String::new() };
            status::print(&format!("{} missing: {}{more}", counted(absent, "micrograph"), named.join(", ")));
            status::print("epicker pick with --skip-done picks what is missing");
        }
    }
    Ok(if missing.is_empty() { status::DONE } else { status::FAILED })
}
