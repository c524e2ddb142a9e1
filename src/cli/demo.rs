//! `epicker demo`: what this program does, shown on micrographs that it makes itself.
//!
//! It simulates micrographs, picks them, and compares the picks with the truth, each by the command that a user would type.
//! At the end it says what to look at, and how to go on with one's own micrographs.

use super::interrupt;
use super::status::{self, OrUsage, Usage};
use super::values;
use crate::formats::candidates::{self, Wanted, key};
use crate::words::{agreeing, counted};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The command line of `epicker demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Folder for all that is made; it must not be there yet, or be empty
    #[arg(long = "output", short = 'o', value_name = "FOLDER", default_value = "epicker-demo")]
    output: PathBuf,
    /// How many micrographs are made
    #[arg(long = "count", value_name = "COUNT", default_value_t = 6, value_parser = values::count)]
    count: usize,
    /// Columns and rows of each micrograph, pixels of 1 angstrom
    #[arg(long = "size", value_name = "PIXELS", default_value_t = 4096, value_parser = values::count)]
    size: usize,
    /// Seed: another one shows another kind of particle. None of the general model's training has the default
    #[arg(long = "seed", value_name = "NUMBER", default_value_t = 2027)]
    seed: u64,
    /// Model: a .pth or .safetensors, or a general model
    #[arg(long = "load_model", value_name = "MODEL", default_value = "particle")]
    load_model: String,
    /// GPU, or -1 for the CPU [default: the first GPU, the CPU where there is none]
    #[arg(long = "gpus", value_name = "IDS", allow_hyphen_values = true)]
    gpus: Option<String>,
    /// Threads [default: all cores]
    #[arg(long = "threads", value_name = "COUNT", value_parser = values::count)]
    threads: Option<usize>,
}

/// The diameters of the particles that are shown, angstrom. Much smaller or much larger ones would need another pixel size
/// than the demo's.
const DIAMETERS: &str = "140,200";
/// `epicker pick` keeps only candidates above this score, so no lower threshold can be asked for afterwards.
const LOWEST: &str = "0.01";

/// Runs the command; returns the exit status.
///
/// Errors: the output folder is in use, or one of the commands fails.
pub fn run(args: &DemoArgs) -> Result<u8> {
    let folder = &args.output;
    if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) || folder.is_file() {
        let reason = format!("{}: is there already; expected a new folder; remove it, or give another --output", folder.display());
        return Err(Usage::because(reason).into());
    }
    super::threads::start(args.threads)?;
    let start = Instant::now();
    let below = |name: &str| folder.join(name).display().to_string();
    let [micrographs, truth, picks, all, judged] = ["micrographs", "micrographs/truth/thi", "picks", "picks/all", "eval"].map(below);
    let (count, size, seed) = (args.count.to_string(), args.size.to_string(), args.seed.to_string());

    status::print("1. Micrographs of a kind of particle that the model has never seen, with known truth");
    let mut made = vec!["simulate", "--preset", "particle", "--diameter", DIAMETERS, "--count", &count, "--size", &size];
    made.extend(["--seed", &seed, "--half", "--output", &micrographs]);
    match command(&made)? {
        status::DONE => {}
        stopped => return Ok(stopped),
    }
    let (labels, diameter) = simulated(&folder.join("micrographs/particle_0001.jsonl"))?;
    let diameter = format!("{diameter:.0}");

    status::print("\n2. Picking: all that is told to the program is the diameter, and that a pixel is 1 angstrom");
    let mut found: Vec<&str> = vec!["pick", "--data", &micrographs, "--diameter", &diameter, "--angpix", "1"];
    found.extend(["--output", &picks, "--visual", "--report"]);
    if args.load_model != "particle" {
        found.extend(["--load_model", &args.load_model]);
    }
    if let Some(gpus) = &args.gpus {
        found.extend(["--gpus", gpus]);
    }
    let before = Instant::now();
    match command(&found)? {
        status::DONE => {}
        stopped => return Ok(stopped),
    }
    let seconds = before.elapsed().as_secs_f64();

    status::print("\n3. Picks against the truth: all down to a low score, which takes no network, so that the curve is whole");
    let threshold = threshold(&folder.join("picks/candidates"))?;
    match command(&["rethreshold", "--data", &picks, "--vis_thresh", LOWEST, "--output", &all])? {
        status::DONE => {}
        stopped => return Ok(stopped),
    }
    let mut compared = vec!["eval", "--data", &micrographs, "--label", &truth, "--picks", &all, "--diameter", &diameter];
    compared.extend(["--vis_thresh", &threshold, "--output", &judged, "--report"]);
    match command(&compared)? {
        status::DONE => {}
        stopped => return Ok(stopped),
    }

    let report = folder.join("eval/eval.json");
    let text = std::fs::read_to_string(&report).with_context(|| report.display().to_string())?;
    let report: Value = serde_json::from_str(&text).with_context(|| report.display().to_string())?;
    let summary = Summary { args, labels, diameter: &diameter, seconds, report: &report };
    status::print(&summary.text(start.elapsed().as_secs_f64()));
    Ok(status::DONE)
}

/// Runs a command of this program, after telling the user which one.
fn command(words: &[&str]) -> Result<u8> {
    let shown: Vec<String> = words.iter().map(|word| crate::pick::report::shell_word(word)).collect();
    status::print(&format!("$ epicker {}", shown.join(" ")));
    let status = super::run_with(std::iter::once("epicker").chain(words.iter().copied()).map(Into::into).collect())?;
    // A signal during the last micrograph of a step leaves that step whole, and still means that no other shall follow.
    Ok(if interrupt::is_asked() { interrupt::status() } else { status })
}

/// The log of the simulation says how many labels all micrographs have together, and how large their particles are
/// (angstrom).
fn simulated(log: &Path) -> Result<(u64, f64)> {
    let text = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
    let (mut labels, mut diameter) = (0, 0.0_f64);
    for line in text.lines() {
        let one: Value = serde_json::from_str(line).with_context(|| log.display().to_string())?;
        labels += one["labels"].as_u64().unwrap_or(0);
        diameter = diameter.max(one["diameter_angstrom"].as_f64().unwrap_or(0.0));
    }
    if labels == 0 {
        return Err(Usage::because("--size: too small, no particle came to lie in it; expected some; give more pixels")).or_usage();
    }
    Ok((labels, diameter))
}

/// The threshold of a run, which its candidates files tell.
fn threshold(folder: &Path) -> Result<String> {
    let name = || folder.display().to_string();
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(name)? {
        files.push(entry.with_context(name)?.path());
    }
    files.sort();
    let first = files.first().with_context(|| format!("{}: is empty; expected the candidates of a run", folder.display()))?;
    let bytes = std::fs::read(first).with_context(|| first.display().to_string())?;
    let (facts, _) = candidates::read(&bytes, Wanted { rows: 0, above: 0.0 }).with_context(|| first.display().to_string())?;
    Ok(facts.get(key::VIS_THRESH).unwrap_or("0").to_string())
}

struct Summary<'a> {
    args: &'a DemoArgs,
    labels: u64,
    diameter: &'a str,
    /// How long picking took.
    seconds: f64,
    report: &'a Value,
}

impl Summary<'_> {
    fn text(&self, all_seconds: f64) -> String {
        let number = |key: &str| self.report[key].as_f64().unwrap_or(0.0);
        let folder = self.args.output.display();
        let DemoArgs { count, size, .. } = self.args;
        let (particles, diameter) = (counted(self.labels as usize, "particle"), self.diameter);
        let (micrographs, were) = (counted(*count, "micrograph"), agreeing(*count, "was", "were"));
        let seconds = self.seconds / *count as f64;
        format!(
            "
What was done
  {micrographs} of {size} x {size} pixels with {particles} of {diameter} angstrom {were} simulated, picked
  ({seconds:.1} seconds each) and compared with the truth. In all {all_seconds:.0} seconds.
    F1 {f1:.3} at the model's threshold {threshold:.3} (precision {precision:.3}, recall {recall:.3}); the best is {best:.3} at {best_at:.3}
    average precision {ap:.3}, centres off by {error:.1} angstrom (median)
  Real micrographs are harder than simulated ones: weights/README.md has the scores on real ones.

Look at it
  {folder}/eval/report.html            right and false picks, missed labels, and a threshold to move: open it in a browser
  {folder}/eval/PR.svg                 precision over recall
  {folder}/picks/particle_0001.png     a micrograph with its picks
  {folder}/picks/particle_0001.thi     their coordinates
  {folder}/micrographs/truth           what should have been found (thi, star, box)

Go on with your own micrographs
  epicker pick --data FOLDER --diameter ANGSTROM --output picks --report
  epicker coords picks/*.thi --to star --output stars        or box, cbox, topaz, cryosparc
  docs/tutorial.md: train on your own labels, learn a second protein, measure",
            f1 = number("f1_shipped"),
            precision = number("precision_shipped"),
            recall = number("recall_shipped"),
            best = number("f1_best"),
            best_at = number("threshold_best"),
            threshold = number("threshold_shipped"),
            ap = number("ap"),
            error = number("centre_error_angstrom"),
        )
    }
}
