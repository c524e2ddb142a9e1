//! Parts of `epicker train` that depend on nothing else: boxes, the micrographs that can be read, and the exemplars that are
//! kept at the end.

use super::args::TrainArgs;
use super::settings::Settings;
use crate::compat::Fault;
use crate::eval::features::select_by_features;
use crate::formats::model_file::sha256_of_file;
use crate::io::model_source::ModelSource;
use crate::net::Model;
use crate::ops::heat_map;
use crate::preprocess::geometry::Geometry;
use crate::train::augment::CornersD;
use crate::train::cache::ImageCache;
use crate::train::data::TrainingImage;
use crate::train::exemplar::{Exemplar, Origin, hour_stamp, select_first};
use crate::train::labels::{BoxSide, Gathered, Labelled, boxes_d, reference};
use crate::train::split::Split;
use anyhow::{Result, ensure};
use rayon::prelude::*;
use std::path::Path;

/// The boxes of the images of a part.
///
/// Errors: as `of`, or no image of the part has a box.
pub(super) fn boxes(gathered: &Gathered, part: &[usize], of: impl Fn(&Labelled) -> Result<Vec<CornersD>>) -> Result<Vec<Vec<CornersD>>> {
    let boxes = part.iter().map(|&i| of(&gathered.labelled[i])).collect::<Result<Vec<_>>>()?;
    ensure!(
        boxes.iter().any(|boxes| !boxes.is_empty()),
        "none of the {} micrographs of the training part has a label; expected at least one; raise --train_pct or change --seed",
        part.len()
    );
    Ok(boxes)
}

/// The box that the network learns, heat-map pixels, on the micrograph that decides the scale.
pub(super) fn side_h_px(side: BoxSide, gathered: &Gathered, frame: usize) -> Option<f64> {
    let one = reference(gathered)?;
    let geometry = Geometry::new(one.size[0], one.size[1], frame);
    let side_d_px = side.d_px(&geometry, one.pixel_size_angstrom).ok()?;
    match side {
        BoxSide::HeatMapPixels(side) => Some(side),
        _ => Some(side_d_px / heat_map::STRIDE as f64 * frame as f64 / geometry.square_d() as f64),
    }
}

/// The micrographs that can be read, and why others cannot.
pub(super) struct Readable {
    /// The parts, without micrographs that cannot be read.
    pub(super) parts: Split,
    /// The training part, in the order of `parts.train`.
    pub(super) training: Vec<TrainingImage>,
    /// Why micrographs were left out, a line each.
    pub(super) left_out: Vec<String>,
    /// Other remarks about the pixels of micrographs, a line each.
    pub(super) warnings: Vec<String>,
}

/// Reads and prepares every micrograph once, before anything is learnt. A micrograph that cannot be read is left out now, and
/// so does not end the training in its middle. The cache keeps the prepared images.
///
/// Errors: no micrograph with a label is left to train on.
pub(super) fn read_all(settings: &Settings, cache: &ImageCache) -> Result<Readable> {
    let parts = &settings.parts;
    let mut used: Vec<usize> = [&parts.train[..], &parts.validation, &parts.test].concat();
    used.sort_unstable();
    let read = |&i: &usize| {
        let mut warnings = Vec::new();
        let result = cache.get(&settings.gathered.labelled[i].path, &mut warnings);
        (i, result.err().map(|error| format!("{error:#}")), warnings)
    };
    let mut left_out = settings.gathered.unreadable.clone();
    let (mut failed, mut warnings) = (Vec::new(), Vec::new());
    for (i, error, warned) in used.par_iter().map(read).collect::<Vec<_>>() {
        if let Some(error) = error {
            failed.push(i);
            left_out.push(error);
        }
        warnings.extend(warned);
    }
    let kept = |part: &[usize]| -> Vec<usize> { part.iter().copied().filter(|i| !failed.contains(i)).collect() };
    let kept_images = parts.train.iter().zip(&settings.training).filter(|(i, _)| !failed.contains(i));
    let training: Vec<TrainingImage> = kept_images.map(|(_, image)| image.clone()).collect();
    ensure!(
        training.iter().any(|image| !image.boxes.is_empty()),
        "none of the training micrographs that have labels can be read; the first: {}",
        left_out.first().map_or("", String::as_str)
    );
    let parts = Split { train: kept(&parts.train), validation: kept(&parts.validation), test: kept(&parts.test) };
    Ok(Readable { parts, training, left_out, warnings })
}

/// Keeps labelled images of the training part for later trainings, together with the exemplars that were replayed.
///
/// Errors: a file cannot be read or written.
pub(super) fn keep_exemplars(
    args: &TrainArgs,
    settings: &Settings,
    parts: &Split,
    model: &Path,
    cache: &ImageCache,
    say: &impl Fn(&str),
) -> Result<()> {
    let folder = &args.output_exemplar;
    let mut exemplar = if Exemplar::is_in(folder) { Exemplar::read(folder)? } else { Exemplar::empty(folder) };
    exemplar.check_mode(settings.kind.name())?;
    if settings.start.earlier.is_some() && Exemplar::is_in(&args.load_exemplar) {
        let copied = exemplar.add_all(&Exemplar::read(&args.load_exemplar)?)?;
        if copied > 0 {
            say(&format!("{copied} exemplars of {} taken over", args.load_exemplar.display()));
        }
    }
    let labelled: Vec<&Labelled> = parts.train.iter().map(|&i| &settings.gathered.labelled[i]).collect();
    let counts: Vec<usize> = labelled.iter().map(|one| one.coordinates.points.len()).collect();
    let chosen = match settings.compat.has(Fault::ExemplarFirst) {
        true => select_first(&counts, args.sampling_size),
        false => {
            let boxes = |one: &Labelled| boxes_d(one, settings.kind, settings.frame, settings.side, &settings.compat);
            let image = |i: usize| Ok((cache.get(&labelled[i].path, &mut Vec::new())?, boxes(labelled[i])?));
            select_by_features(
                &ModelSource::file(model).load(Model::from_state)?,
                settings.frame,
                &counts,
                args.sampling_size,
                settings.seed,
                image,
            )?
        }
    };
    let found: usize = chosen.iter().map(|&i| counts[i]).sum();
    if found < args.sampling_size {
        say(&format!("all {found} labels are fewer than --sampling_size {}; all are kept", args.sampling_size));
    }
    let hour = hour_stamp(std::time::SystemTime::now());
    let model_sha256 = sha256_of_file(model)?;
    for one in chosen.into_iter().map(|i| labelled[i]) {
        let corners = boxes_d(one, settings.kind, settings.frame, settings.side, &settings.compat)?;
        let boxes = corners.iter().map(|[x1, y1, x2, y2]| [*x1, *y1, x2 - x1, y2 - y1].map(f64::from)).collect();
        let origin = Origin {
            micrograph: Some(one.path.display().to_string()),
            mode: Some(settings.kind.name().to_owned()),
            diameter_angstrom: settings.diameter_angstrom,
            model_sha256: Some(model_sha256.clone()),
        };
        if !exemplar.add(&one.stem, &cache.get(&one.path, &mut Vec::new())?, boxes, origin, &hour)? {
            say(&format!("{}: an exemplar of this name is there already; it stays as it is", one.stem));
        }
    }
    exemplar.write()?;
    say(&format!("{}: {} exemplars with {} labels", folder.display(), exemplar.entries.len(), exemplar.labels()));
    Ok(())
}
