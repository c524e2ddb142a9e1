//! The page of `eval --report`: every micrograph with its picks and what they should have been.

use super::{DataSet, EvalArgs, JudgedSet};
use crate::cli::status;
use crate::eval::page::{Shown, shown};
use crate::formats::coordinates::Kind;
use crate::pick::report::{self, Entry, Heading, Part};
use crate::preprocess::geometry::Geometry;
use crate::preprocess::ground::Ground;
use crate::preprocess::scale::{Diameter, Scale};
use crate::train::cache::ImageCache;
use crate::train::labels::Labelled;
use anyhow::{Context, Result};
use rayon::prelude::*;
use std::path::Path;

/// Width of the image that pictures are made of. It does not depend on what the network sees.
const SHOWN_WIDTH: usize = 1024;

/// Writes a page for each data set: `report.html`, or `report_1.html` and so on where there are several.
///
/// Errors: a micrograph cannot be read, or a page cannot be written.
pub(super) fn write(args: &EvalArgs, data_sets: &[DataSet], judged: &[JudgedSet], say: &(dyn Fn(&str) + Sync)) -> Result<()> {
    let Some(folder) = &args.output else { return Ok(()) };
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made; check the rights above it", folder.display()))?;
    for (i, (data_set, judged)) in data_sets.iter().zip(judged).enumerate() {
        let name = if data_sets.len() == 1 { "report.html".to_string() } else { format!("report_{}.html", i + 1) };
        let path = folder.join(name);
        let all = judged.items.iter().map(|item| shown(item, &judged.settings)).collect::<Result<Vec<Shown>>>()?;
        let range = range_of(&all);
        let micrographs: Vec<&Labelled> = judged.judged.iter().map(|&j| &data_set.micrographs[j]).collect();
        let mut parts = parts(args, &micrographs, &all, range)?;
        report::write(&path, &heading(args, i, data_set, judged, range), true, &mut parts)?;
        say(&format!("a page to look at: {}", path.display()));
    }
    Ok(())
}

/// Pictures and picks of a data set. The micrographs are read once more, two at a time and only when the page comes to them, so
/// that memory does not grow with their number.
fn parts<'a>(
    args: &EvalArgs,
    micrographs: &'a [&'a Labelled],
    all: &'a [Shown],
    range: [f32; 2],
) -> Result<impl Iterator<Item = Result<Part>>> {
    let cache = ImageCache::new(None, 0, SHOWN_WIDTH, Default::default(), Ground::Kept, args.compat.clone())?;
    let count = micrographs.len();
    let part = move |(one, shown): (&&Labelled, &Shown)| -> Result<Part> {
        let image = cache.get(&one.path, &mut Vec::new()).context("--report")?; // its warnings were told before
        let geometry = Geometry::new(one.size[0], one.size[1], SHOWN_WIDTH);
        let entry = Entry::judged(&one.stem, &image.levels, &geometry, (&shown.marks, &shown.truth), range, count)?;
        Ok(entry.to_part(true))
    };
    let pairs = micrographs.chunks(2).zip(all.chunks(2));
    Ok(pairs.flat_map(move |(few, shown)| few.par_iter().zip(shown).map(&part).collect::<Vec<Result<Part>>>()))
}

/// The lowest and the highest score of the page. They are 0 and 1 if all scores lie between these, as this program's do; scores
/// of other programs may have another range.
fn range_of(all: &[Shown]) -> [f32; 2] {
    let scores = || all.iter().flat_map(|shown| shown.marks.iter().map(|mark| mark.score)).filter(|score| score.is_finite());
    let (low, high) = scores().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), score| (low.min(score), high.max(score)));
    if !(low < 0.0 || high > 1.0) {
        return [0.0, 1.0];
    }
    // A pick is shown if its score is above the threshold, so there must be room below the lowest score.
    let room = 0.02 * (high - low).max(1.0);
    [low - room, high]
}

fn heading(args: &EvalArgs, i: usize, data_set: &DataSet, judged: &JudgedSet, range: [f32; 2]) -> Heading {
    let report = &judged.report;
    let kind = judged.items.iter().find(|item| !item.labels.points.is_empty()).map_or(Kind::Particle, |item| item.labels.kind);
    let data = args.data[i].display().to_string();
    let whose = match &args.load_model {
        Some(model) => format!("model {model}"),
        None => format!("picks {}", args.picks[i].display()),
    };
    let about =
        format!("{} micrographs, mode {}, {whose}, data {data}, epicker {}", report.micrographs, kind.name(), env!("CARGO_PKG_VERSION"));
    let mut note = match kind {
        Kind::Fiber => {
            "Precision and recall are shares of length: a piece of a picked fiber is right if a labelled one is near.".to_string()
        }
        _ => format!(
            "A pick is right if it is within {} radii of a label that no better pick has found; what is near the border does not count.",
            args.reach
        ),
    };
    if let (Some(ap), Some((best, threshold))) = (report.ap, report.best) {
        note.push_str(&format!(" Average precision {ap:.3}; best F1 {:.3} at threshold {threshold:.3}.", best.f1()));
    }
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_string()).collect::<Vec<_>>();
    let command = match &args.load_model {
        Some(model) => {
            let mut command = words(&["epicker", "pick", "--data", &data, "--load_model", &model.to_string()]);
            command.extend(repeated(args, data_set, judged));
            command.push("--vis_thresh".to_string());
            command
        }
        None => match folder_of_candidates(&args.picks[i]) {
            Some(folder) => words(&["epicker", "rethreshold", "--data", &folder.display().to_string(), "--vis_thresh"]),
            None => Vec::new(),
        },
    };
    // Without a threshold of their own, picks are shown at the best one.
    let threshold = judged.settings.shipped_threshold.filter(|threshold| *threshold > range[0]);
    if judged.items.iter().any(|item| item.picks.points.iter().any(|pick| pick.score.is_none())) {
        status::tell("warning: --report: picks without a score count as 1, so the threshold of the page moves nothing");
    }
    let band = report.intervals.as_ref().map_or(Vec::new(), |intervals| intervals.precision.clone());
    Heading { about, note, command, threshold, range, kind, band }
}

/// The options with which `epicker pick` picks as this evaluation did: the same mode, scale and pixel size.
fn repeated(args: &EvalArgs, data_set: &DataSet, judged: &JudgedSet) -> Vec<String> {
    let mut options = Vec::new();
    let mut add = |name: &str, value: Option<String>| options.extend(value.into_iter().flat_map(|value| [name.to_string(), value]));
    add("--mode", args.mode.map(|mode| mode.to_string()));
    add("--angpix", args.angpix.map(|size| size.to_string()));
    let first = judged.judged.first().map(|&j| &data_set.micrographs[j]);
    match judged.scale {
        Some(Scale::OfParticles { diameter: Diameter::Angstrom(diameter), .. }) => add("--diameter", Some(diameter.to_string())),
        // `epicker pick` takes a diameter in angstrom only. Without a pixel size the frame is given in its place.
        Some(Scale::OfParticles { diameter: Diameter::Pixels(diameter), .. }) => match first.and_then(|one| one.pixel_size_angstrom) {
            Some(pixel_size) => add("--diameter", Some((diameter * pixel_size).to_string())),
            None => add("--frame", judged.items.first().and_then(|item| item.frame).map(|frame| frame.to_string())),
        },
        Some(Scale::Fixed { frame, .. }) => add("--frame", Some(frame.to_string())),
        None => {}
    }
    options
}

/// The output folder of `epicker pick` that the picks come from. The user has given either this folder or its folder of
/// candidates.
fn folder_of_candidates(picks: &Path) -> Option<&Path> {
    match picks.file_name() {
        Some(name) if name == "candidates" => picks.parent().filter(|folder| !folder.as_os_str().is_empty()),
        _ => picks.join("candidates").is_dir().then_some(picks),
    }
}
