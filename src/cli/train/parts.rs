//! Parts of `epicker train` that stand for themselves: boxes, warm start, memory, and the exemplars kept at the end.

use super::TrainArgs;
use crate::compat::Fault;
use crate::eval::features::select_by_features;
use crate::formats::model_file::sha256_of_file;
use crate::formats::state_dict::StateDict;
use crate::net::Model;
use crate::preprocess::geometry::Geometry;
use crate::train::augment::CornersD;
use crate::train::cache::ImageCache;
use crate::train::exemplar::{Exemplar, Origin, hour_stamp, select_first};
use crate::train::labels::{BoxSide, Gathered, Labelled, boxes_d, reference};
use crate::train::split::Split;
use anyhow::{Result, ensure};
use std::path::Path;

/// The boxes of the images of a part.
///
/// Errors: as `of`, or there is none at all.
pub fn boxes(gathered: &Gathered, part: &[usize], of: impl Fn(&Labelled) -> Result<Vec<CornersD>>) -> Result<Vec<Vec<CornersD>>> {
    let boxes = part.iter().map(|&i| of(&gathered.labelled[i])).collect::<Result<Vec<_>>>()?;
    ensure!(
        boxes.iter().any(|boxes| !boxes.is_empty()),
        "none of the {} micrographs of the training part has a label; expected at least one; raise --train_pct or change --seed",
        part.len()
    );
    Ok(boxes)
}

/// Puts every tensor of `loaded` that fits into `state`, and says what does not.
///
/// Errors: none fits.
pub fn take_matching(state: &mut StateDict, loaded: &StateDict, name: &str, say: &impl Fn(&str)) -> Result<()> {
    let (mut taken, mut missing, mut other) = (0, Vec::new(), Vec::new());
    for tensor in &mut state.tensors {
        match loaded.get(&tensor.name) {
            Some(found) if found.shape == tensor.shape => {
                tensor.values = match (&found.values, &tensor.values) {
                    (crate::formats::state_dict::Values::I64(counts), _) => crate::formats::state_dict::Values::I64(counts.clone()),
                    (values, _) => crate::formats::state_dict::Values::F32(values.to_f32()),
                };
                taken += 1;
            }
            Some(found) => other.push(format!("{} {:?} for {:?}", tensor.name, found.shape, tensor.shape)),
            None if tensor.name.ends_with(".num_batches_tracked") => {} // has no effect
            None => missing.push(tensor.name.clone()),
        }
    }
    ensure!(taken > 0, "{name}: none of its {} tensors fits; expected a model of this family; is it one?", loaded.tensors.len());
    let unknown: Vec<&str> = loaded.tensors.iter().map(|tensor| tensor.name.as_str()).filter(|name| state.get(name).is_none()).collect();
    say(&format!("{name}: {taken} of {} tensors taken", state.tensors.len()));
    let tell = |what: &str, names: &[String]| {
        if !names.is_empty() {
            let dots = if names.len() > 3 { ", ..." } else { "" };
            say(&format!("  {} {what}: {}{dots}", names.len(), names[..names.len().min(3)].join(", ")));
        }
    };
    tell("start anew, as the model lacks them", &missing);
    tell("start anew, as the model's have another shape", &other);
    tell("of the model are not used", &unknown.into_iter().map(str::to_owned).collect::<Vec<_>>());
    Ok(())
}

/// The box that the network learns, heat-map pixels, on the micrograph by which the scale goes.
pub fn side_h_px(side: BoxSide, gathered: &Gathered, frame: usize) -> Option<f64> {
    let one = reference(gathered)?;
    let geometry = Geometry::new(one.size[0], one.size[1], frame);
    let side_d_px = side.d_px(&geometry, one.pixel_size_angstrom).ok()?;
    match side {
        BoxSide::HeatMapPixels(side) => Some(side),
        _ => Some(side_d_px / 4.0 * frame as f64 / geometry.square_d() as f64),
    }
}

/// Keeps labelled images of the training part for later, with those that were replayed.
///
/// Errors: a file cannot be read or written.
pub fn keep_exemplars(
    args: &TrainArgs,
    gathered: &Gathered,
    parts: &Split,
    model: &Path,
    cache: &ImageCache,
    say: &impl Fn(&str),
) -> Result<()> {
    let folder = &args.output_exemplar;
    let mut exemplar = if Exemplar::is_in(folder) { Exemplar::read(folder)? } else { Exemplar::empty(folder) };
    exemplar.check_mode(args.mode.name())?;
    if args.load_model.is_some() && Exemplar::is_in(&args.load_exemplar) {
        let copied = exemplar.add_all(&Exemplar::read(&args.load_exemplar)?)?;
        if copied > 0 {
            say(&format!("{copied} exemplars of {} taken over", args.load_exemplar.display()));
        }
    }
    let labelled: Vec<&Labelled> = parts.train.iter().map(|&i| &gathered.labelled[i]).collect();
    let counts: Vec<usize> = labelled.iter().map(|one| one.coordinates.points.len()).collect();
    let chosen = match args.compat.has(Fault::ExemplarFirst) {
        true => select_first(&counts, args.sampling_size),
        false => {
            let boxes = |one: &Labelled| boxes_d(one, args.mode, args.frame(), args.side(), &args.compat);
            let image = |i: usize| Ok((cache.get(&labelled[i].path, &mut Vec::new())?, boxes(labelled[i])?));
            select_by_features(&Model::load(model)?, args.frame(), &counts, args.sampling_size, args.seed, image)?
        }
    };
    let found: usize = chosen.iter().map(|&i| counts[i]).sum();
    if found < args.sampling_size {
        say(&format!("all {found} labels are fewer than --sampling_size {}; all are kept", args.sampling_size));
    }
    let hour = hour_stamp(std::time::SystemTime::now());
    let model_sha256 = sha256_of_file(model)?;
    for one in chosen.into_iter().map(|i| labelled[i]) {
        let corners = boxes_d(one, args.mode, args.frame(), args.side(), &args.compat)?;
        let boxes = corners.iter().map(|[x1, y1, x2, y2]| [*x1, *y1, x2 - x1, y2 - y1].map(f64::from)).collect();
        let origin = Origin {
            micrograph: Some(one.path.display().to_string()),
            mode: Some(args.mode.name().to_owned()),
            diameter_angstrom: args.diameter,
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
