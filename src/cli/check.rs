//! `epicker check`: a look at labels before anybody trains.
//!
//! It tells which labels match which micrographs, how many labels there are and how many lie outside. It draws them on the
//! micrographs, and says whether they look mirrored in y.

use super::label_args::{LabelArgs, tell};
use super::status::{self, OrUsage};
use crate::compat::Compat;
use crate::formats::coordinates::{Kind, Size};
use crate::formats::label_file::Family;
use crate::formats::state_dict::ModelFacts;
use crate::io::write::write_whole;
use crate::pick::draw;
use crate::preprocess::geometry::Geometry;
use crate::preprocess::ground::Ground;
use crate::train::cache::ImageCache;
use crate::train::labels::{self, Labelled, gather};
use crate::train::mirror::{MirrorTest, Verdict};
use crate::words::counted;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::PathBuf;

/// The command line of `epicker check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Micrographs: a folder, a list or a file
    #[arg(long = "data", value_name = "PATH", required = true)]
    data: PathBuf,
    /// Labels, any format [default: beside the micrographs]
    #[arg(long = "label", value_name = "PATH")]
    label: Option<PathBuf>,
    /// Format of the labels [default: told by the content]
    #[arg(long = "label_type", value_name = "FORMAT")]
    label_type: Option<Family>,
    #[command(flatten)]
    labels: LabelArgs,
    /// Folder for the pictures
    #[arg(long = "output", short = 'o', value_name = "FOLDER", default_value = "./check")]
    output: PathBuf,
    /// Draws no pictures
    #[arg(long = "no-pictures")]
    no_pictures: bool,
    /// Leaves out entries of a list that do not exist
    #[arg(long = "skip-missing")]
    skip_missing: bool,
    /// The numbers as one JSON object, the last line of standard output; text goes to standard error
    #[arg(long = "json")]
    json: bool,
}

/// Runs the command; returns the exit status: 1 if a micrograph could not be read.
///
/// Errors: nothing matches, or a label file cannot be read.
pub fn run(args: &CheckArgs) -> Result<u8> {
    let say = |line: &str| status::say(line, args.json);
    let mut options = labels::Options {
        skip_missing: args.skip_missing,
        leave_out_unreadable: true,
        pixel_size_angstrom: args.labels.angpix,
        ..Default::default()
    };
    options.label.family = args.label_type;
    options = options.in_mode(args.labels.mode);
    let folder = args.data.parent().filter(|_| !args.data.is_dir()).unwrap_or(&args.data);
    let gathered = gather(&args.data, args.label.as_deref().unwrap_or(folder), &options).or_usage()?;
    tell(&gathered, &say);
    if !args.no_pictures {
        let failed = || format!("{}: the folder cannot be made; check the rights above it", args.output.display());
        std::fs::create_dir_all(&args.output).with_context(failed).or_usage()?;
    }
    let frame = args.labels.frame(&gathered, &ModelFacts::default()).or_usage()?;
    let cache = ImageCache::new(None, 0, frame, Default::default(), Ground::Kept, Compat::default())?;
    let mut test = MirrorTest::default();
    let mut failures = gathered.unreadable.len();
    for one in &gathered.labelled {
        if let Err(error) = check_one(one, args, frame, &cache, &mut test, &say) {
            failures += 1;
            status::tell(&format!("error: {error:#}"));
        }
    }
    let [at_labels, at_mirrors] = test.contrasts();
    say(&format!(
        "contrast at the labels {:.2} grey levels ({:.1} standard errors), at their mirror images in y {:.2} ({:.1})",
        at_labels.mean, at_labels.strength, at_mirrors.mean, at_mirrors.strength
    ));
    let verdict = test.verdict();
    say(match verdict {
        Verdict::Right => "the labels lie on particles",
        Verdict::Mirrored => "the labels look mirrored in y: their mirror images lie on particles; turn them with epicker coords --flip-y",
        Verdict::Undecided => "neither labels nor mirror images stand out; look at the pictures",
    });
    if let Err(error) = labels::refuse_without_labels(&gathered) {
        status::tell(&format!("warning: {error}"));
    }
    if args.json {
        let points = |count: fn(&Labelled) -> usize| gathered.labelled.iter().map(count).sum::<usize>();
        let object = json!({
            "micrographs": gathered.labelled.len(),
            "labels": points(|one| one.coordinates.points.len()),
            "empty": points(|one| usize::from(one.coordinates.points.is_empty())),
            "outside": points(|one| one.outside),
            "micrographs_without_labels": gathered.lone_micrographs,
            "labels_without_micrograph": gathered.lone_labels,
            "contrast": at_labels.mean,
            "contrast_errors": at_labels.strength,
            "contrast_mirrored": at_mirrors.mean,
            "contrast_mirrored_errors": at_mirrors.strength,
            "mirrored": match verdict { Verdict::Right => Some(false), Verdict::Mirrored => Some(true), Verdict::Undecided => None },
            "failures": failures,
        });
        status::print_json(&object);
    }
    Ok(if failures == 0 { status::DONE } else { status::FAILED })
}

fn check_one(one: &Labelled, args: &CheckArgs, frame: usize, cache: &ImageCache, test: &mut MirrorTest, say: &impl Fn(&str)) -> Result<()> {
    let [nx, ny] = one.size;
    let geometry = Geometry::new(nx, ny, frame);
    let side_d_px = args.labels.side().d_px(&geometry, one.pixel_size_angstrom).with_context(|| one.path.display().to_string())?;
    let mut warnings = Vec::new();
    let image = cache.get(&one.path, &mut warnings)?;
    warnings.iter().for_each(|warning| status::tell(&format!("warning: {warning}")));
    let to_m = nx as f64 / frame as f64;
    let mut drawn = one.coordinates.clone();
    let mut discs = Vec::with_capacity(drawn.points.len());
    for point in &mut drawn.points {
        point.score = Some(1.0);
        let has_own = args.labels.mode == Kind::Vesicle || drawn.kind == Kind::Vesicle;
        if !has_own || point.size.is_none() {
            point.size = Some(Size::square(side_d_px * to_m));
        }
        let radius_d_px = point.size.map_or(side_d_px / 2.0, |size| size.radius() / to_m);
        discs.push((geometry.m_to_d([point.x, point.y]), radius_d_px));
    }
    test.add(&image, &discs);
    let outside = if one.outside > 0 { format!(", {} outside", one.outside) } else { String::new() };
    say(&format!("{} ({nx} x {ny}): {}{outside} of {}", one.stem, counted(drawn.points.len(), "label"), one.label.display()));
    if !args.no_pictures {
        let picture = args.output.join(format!("{}.png", one.stem));
        if let Some(folder) = picture.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        }
        write_whole(&picture, &draw::picture(&image.levels, &drawn, &geometry)?)?;
    }
    Ok(())
}
