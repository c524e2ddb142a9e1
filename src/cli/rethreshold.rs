//! `epicker rethreshold` writes the outputs of an earlier run again, from its candidates, with other limits.
//!
//! Options that are not given stay as they were in that run. Neither the network nor the micrographs are needed.

use super::limits::{DEFAULT_LIMITS, LimitArgs, default_rule};
use super::progress::Progress;
use super::status::{self, OrUsage, Usage};
use super::values;
use crate::compat::Fault;
use crate::formats::candidates::{self, Facts, Wanted, key};
use crate::formats::regular;
use crate::io::lists::{self, Listed};
use crate::io::write::write_whole_unsynced;
use crate::pick::decode::side_n_to_m;
use crate::pick::filter::Limits;
use crate::pick::output::{self, OutputRule, OutputType, Tracer};
use crate::pick::run::picks_of;
use crate::pick::seek_threshold::Threshold;
use crate::pick::settings::Sides;
use crate::preprocess::geometry::Geometry;
use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// The command line of `epicker rethreshold`.
#[derive(Debug, clap::Args)]
pub struct RethresholdArgs {
    /// Output folder of an earlier `epicker pick`
    #[arg(long = "data", value_name = "FOLDER", required = true)]
    data: PathBuf,
    /// Folder for the new outputs [default: the same]
    #[arg(long = "output", short = 'o', value_name = "FOLDER")]
    output: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Refuse to replace files
    #[arg(long = "no-clobber")]
    no_clobber: bool,
    /// Threads [default: all cores]
    #[arg(long = "threads", value_name = "COUNT", value_parser = values::count)]
    threads: Option<usize>,
    /// One JSON object per line on standard output
    #[arg(long = "json")]
    json: bool,
}

/// One candidates file and what becomes of it.
struct Task {
    source: PathBuf,
    output: PathBuf,
    micrograph: String,
    limits: Limits,
    rule: OutputRule,
    size: [usize; 2],
    sides: Sides,
    side_n_px: f64,
    pixel_size_angstrom: Option<f64>,
}

/// Runs the command; returns the exit status.
///
/// Errors: wrong usage, before any file is written.
pub fn run(args: &RethresholdArgs) -> Result<u8> {
    if args.limits.vis_thresh == Some(Threshold::Auto) {
        let reason = "--vis_thresh auto: is found by looking at micrographs; expected a score; epicker pick takes auto";
        return Err(Usage::because(reason.to_string()).into());
    }
    super::threads::start(args.threads)?;
    let folder = args.data.join("candidates");
    let sources = lists::files_below(&folder, "star")
        .with_context(|| format!("{}: expected the output folder of an earlier run of epicker pick", args.data.display()));
    let sources = sources.or_usage()?;
    if sources.is_empty() {
        return Err(Usage::because(format!("{}: no candidates in it; expected *.star; pick again", folder.display())).into());
    }
    let output = args.output.as_deref().unwrap_or(&args.data);
    let progress = Progress::quiet(sources.len(), args.json);
    args.limits.warnings().iter().for_each(|warning| progress.warn(warning));
    let checked: Vec<Result<(Task, Facts)>> = sources.par_iter().map(|source| task(source, &folder, output, args)).collect();
    let (tasks, facts): (Vec<Task>, Vec<Facts>) = checked.into_iter().collect::<Result<Vec<_>>>().or_usage()?.into_iter().unzip();
    warn_of_changes(&facts, &progress);
    if args.no_clobber
        && let Some(task) = tasks.iter().find(|task| task.output.exists())
    {
        return Err(Usage::because(format!("{}: exists already; expected no file with --no-clobber", task.output.display())).into());
    }
    std::fs::create_dir_all(output).with_context(|| format!("{}: cannot be made", output.display())).or_usage()?;
    let counts: Vec<Result<usize>> = tasks.par_iter().map(rewrite).collect();
    let (mut picks, mut failures, mut listed) = (0, 0, Vec::new());
    for (task, count) in tasks.iter().zip(counts) {
        match count {
            Ok(count) => {
                picks += count;
                progress.event("image", serde_json::json!({ "micrograph": task.micrograph, "output": task.output, "picks": count }));
                listed.push(Listed { micrograph: PathBuf::from(&task.micrograph), coordinates: task.output.clone() });
            }
            Err(error) => {
                failures += 1;
                progress.error(&task.micrograph, &format!("{error:#}"));
            }
        }
    }
    let is_star = tasks.iter().any(|task| task.rule.output_type == OutputType::Star);
    let star_list = if is_star { lists::write_coordinate_files(output, &listed) } else { Ok(()) };
    for error in [lists::write_merge_results(output, &listed), star_list].into_iter().filter_map(Result::err) {
        failures += 1;
        progress.error("", &format!("{error:#}"));
    }
    progress.summary(listed.len(), picks, failures, 0);
    Ok(if failures == 0 { status::DONE } else { status::FAILED })
}

/// What is to be done with a candidates file. Only the facts of the file are read for it.
fn task(source: &Path, folder: &Path, output: &Path, args: &RethresholdArgs) -> Result<(Task, Facts)> {
    let name = || source.display().to_string();
    let bytes = regular::read(source)?;
    let (facts, _) = candidates::read(&bytes, Wanted { rows: 0, above: 0.0 }).with_context(name)?;
    let task = task_of(&facts, source, folder, output, args).with_context(name)?;
    Ok((task, facts))
}

fn task_of(facts: &Facts, source: &Path, folder: &Path, output: &Path, args: &RethresholdArgs) -> Result<Task> {
    let kind = facts.get(key::MODE).unwrap_or("particle").parse().map_err(anyhow::Error::msg)?;
    let then = OutputRule {
        ang_thresh_rad: or(facts, key::ANG_THRESH, 0.3)?,
        // Candidates that do not name a tracer were written when there was only the original's.
        tracer: facts.get(key::TRACER).unwrap_or(Tracer::Legacy.name()).parse().map_err(anyhow::Error::msg)?,
        output_type: or(facts, key::OUTPUT_TYPE, default_rule(kind).output_type)?,
        subpixel: facts.get(key::SUBPIXEL) == Some("1"),
        compat: facts.get(key::COMPAT).unwrap_or_default().parse().map_err(anyhow::Error::msg)?,
        ..default_rule(kind)
    };
    let limits = args.limits.limits(Limits {
        k: or(facts, key::K, DEFAULT_LIMITS.k)?,
        vis_thresh: or(facts, key::VIS_THRESH, DEFAULT_LIMITS.vis_thresh)?,
        edge: or(facts, key::EDGE, DEFAULT_LIMITS.edge)?,
        min_distance: or(facts, key::MIN_DISTANCE, DEFAULT_LIMITS.min_distance)?,
    });
    let size: [usize; 2] = [facts.need(key::SIZE_X)?, facts.need(key::SIZE_Y)?];
    ensure!(size[0] > 0 && size[1] > 0, "a micrograph of {} x {}; expected more; pick again", size[0], size[1]);
    let pixel_size_angstrom = facts.get(key::PIXEL_SIZE).and_then(|text| text.parse().ok());
    let limits = args.limits.in_angstrom().replace_in(limits, size[0], pixel_size_angstrom)?;
    let rule = args.limits.rule(kind, &then)?;
    ensure!(!then.compat.is_all(), "was picked with --compat all, which tests values that candidates do not hold; pick again");
    let of_pixels = [Fault::Narrow, Fault::IntCast, Fault::HotPixel, Fault::YScale];
    if let Some(asked) = &args.limits.compat
        && (asked.is_all() || of_pixels.iter().any(|fault| asked.has(*fault) && !then.compat.has(*fault)))
    {
        bail!("--compat {}: holds what happens before the candidates; pick again with it", asked.names());
    }
    let (floor, rows): (f32, usize) = (facts.need(key::FLOOR)?, facts.need(key::ROWS)?);
    ensure!(
        limits.vis_thresh >= floor,
        "--vis_thresh {}: candidates were kept above {floor} only; pick again with the lower threshold",
        limits.vis_thresh
    );
    ensure!(
        limits.k <= rows || facts.get(key::CAPPED) != Some("1"),
        "--K {}: only the best {rows} candidates were kept; pick again with this K",
        limits.k
    );
    let side_n_px: f64 = facts.need(key::BOX_NET)?;
    let geometry = Geometry::new(size[0], size[1], facts.need(key::NET_SIZE_X)?);
    ensure!(geometry.frame > 0, "fact {} is 0; pick again", key::NET_SIZE_X);
    let test_m_px = side_n_to_m(side_n_px, &geometry);
    let written_m_px = args.limits.box_size.map_or_else(|| or(facts, key::BOX_WRITTEN, test_m_px), Ok)?;
    let below = source.strip_prefix(folder).unwrap_or(source).with_extension("");
    let suffix = args.limits.suffix.as_deref().or(facts.get(key::SUFFIX)).unwrap_or_default();
    ensure!(!suffix.contains(['/', '\\']), "--suffix {suffix}: holds a path; expected a part of a file name");
    // The candidates' own name may hold dots, so the extension is added to the text.
    let stem = source.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = stem.strip_suffix(".star").unwrap_or(&stem);
    let file = format!("{stem}{suffix}.{}", rule.output_type.name());
    Ok(Task {
        source: source.to_path_buf(),
        output: output.join(below.parent().unwrap_or(Path::new(""))).join(file),
        micrograph: facts.need(key::MICROGRAPH)?,
        limits,
        rule,
        size,
        sides: Sides { test_m_px, written_m_px },
        side_n_px,
        pixel_size_angstrom,
    })
}

/// The value of a fact, or `otherwise` if the file does not have it.
fn or<T: std::str::FromStr>(facts: &Facts, key: &str, otherwise: T) -> Result<T> {
    if facts.get(key).is_some() { facts.need(key) } else { Ok(otherwise) }
}

/// Goes the way of one file: candidates -> filter -> write. Returns the number of picks.
fn rewrite(task: &Task) -> Result<usize> {
    let name = || task.source.display().to_string();
    let bytes = regular::read(&task.source)?;
    let wanted = Wanted { rows: task.limits.k, above: task.limits.vis_thresh };
    let (_, candidates) = candidates::read(&bytes, wanted).with_context(name)?;
    let picks = picks_of(&candidates, &task.limits, task.size, task.sides, &task.rule.compat);
    let traced = output::trace(&picks, &task.rule, task.size[0]);
    let text = output::render(&picks, &traced, &task.rule, task.side_n_px, task.pixel_size_angstrom).with_context(name)?;
    if let Some(folder) = task.output.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    }
    write_whole_unsynced(&task.output, text.as_bytes())?;
    Ok(picks.len())
}

/// Warns of micrographs whose file has changed since they were picked, and of candidates that come from several models.
fn warn_of_changes(facts: &[Facts], progress: &Progress) {
    let changed = |facts: &&Facts| {
        let then: Option<u64> = facts.get(key::MICROGRAPH_BYTES).and_then(|bytes| bytes.parse().ok());
        let now = facts.get(key::MICROGRAPH).and_then(|path| std::fs::metadata(path).ok()).map(|metadata| metadata.len());
        then.zip(now).is_some_and(|(then, now)| then != now)
    };
    let mut changed = facts.iter().filter(changed).filter_map(|facts| facts.get(key::MICROGRAPH));
    if let Some(first) = changed.next() {
        let more = changed.count();
        progress.warn(&format!("{first}: the file has changed since it was picked ({more} more like it); pick again if in doubt"));
    }
    let models: std::collections::BTreeSet<_> = facts.iter().filter_map(|facts| facts.get(key::MODEL_SHA256)).collect();
    if models.len() > 1 {
        progress.warn(&format!("these candidates come from {} models; scores may not compare", models.len()));
    }
}
