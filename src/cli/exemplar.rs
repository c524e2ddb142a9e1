//! `epicker exemplar` keeps labelled images for later trainings: it makes, lists and thins out folders of them.

use super::label_args::{LabelArgs, tell};
use super::status::{self, OrUsage, Usage};
use super::values;
use crate::compat::{Compat, Fault};
use crate::eval::features::select_by_features;
use crate::formats::label_file::Family;
use crate::io::model_source::ModelSource;
use crate::net::model::Model;
use crate::preprocess::ground::Ground;
use crate::train::cache::ImageCache;
use crate::train::exemplar::{Exemplar, Origin, hour_stamp, select_by_coverage, select_first};
use crate::train::labels::{self, boxes_d, gather};
use crate::words::counted;
use anyhow::{Result, bail};
use std::collections::HashSet;
use std::path::PathBuf;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Choose images of --data and --label and add them
    Create,
    /// Tell what is there
    List,
    /// Remove images: those named with --drop, or all but --keep labels
    Prune,
}

/// The command line of `epicker exemplar`.
#[derive(Debug, clap::Args)]
pub struct ExemplarArgs {
    /// What is to be done
    #[arg(value_enum, value_name = "ACTION")]
    action: Action,
    /// The exemplar folder
    #[arg(value_name = "FOLDER", default_value = "./exemplar_dataset")]
    folder: PathBuf,
    /// create: micrographs
    #[arg(long = "data", value_name = "PATH")]
    data: Option<PathBuf>,
    /// create: labels, any format [default: beside the micrographs]
    #[arg(long = "label", value_name = "PATH")]
    label: Option<PathBuf>,
    /// create: format of the labels [default: told by the content]
    #[arg(long = "label_type", value_name = "FORMAT")]
    label_type: Option<Family>,
    /// create: labels wanted; whole images are taken, so it is the least
    #[arg(long = "sampling_size", value_name = "COUNT", default_value_t = 200, value_parser = values::count)]
    sampling_size: usize,
    #[command(flatten)]
    labels: LabelArgs,
    /// create: the model that was trained with the images: those are taken that look different to it, and the manifest
    /// names it
    #[arg(long = "load_model", value_name = "MODEL")]
    load_model: Option<ModelSource>,
    /// Seed of the choice
    #[arg(long = "seed", value_name = "NUMBER", default_value_t = 317)]
    seed: u64,
    /// create: exemplar-first takes the first images of the list, as the original does
    #[arg(long = "compat", value_name = "NAMES", default_value = "")]
    compat: Compat,
    /// prune: labels that stay at least
    #[arg(long = "keep", value_name = "COUNT", value_parser = values::count)]
    keep: Option<usize>,
    /// prune: stems or pictures that go
    #[arg(long = "drop", value_name = "NAME", num_args = 1..)]
    drop: Vec<String>,
}

impl ExemplarArgs {
    /// True if the command only tells what is in the folder.
    pub fn is_only_text(&self) -> bool {
        self.action == Action::List
    }
}

/// Runs the command; returns the exit status.
///
/// Errors: the folder is broken, nothing is found, or a file cannot be written.
pub fn run(args: &ExemplarArgs) -> Result<u8> {
    match args.action {
        Action::Create => create(args),
        Action::List => {
            list(&Exemplar::read(&args.folder).or_usage()?);
            Ok(status::DONE)
        }
        Action::Prune => prune(args),
    }
}

fn create(args: &ExemplarArgs) -> Result<u8> {
    let Some(data) = &args.data else {
        return Err(Usage::because("--data: missing; expected the micrographs to choose from; give their folder").into());
    };
    let mut options = labels::Options { leave_out_unreadable: true, pixel_size_angstrom: args.labels.angpix, ..Default::default() };
    options.label.family = args.label_type;
    options = options.in_mode(args.labels.mode);
    let folder = data.parent().filter(|_| !data.is_dir()).unwrap_or(data);
    let gathered = gather(data, args.label.as_deref().unwrap_or(folder), &options).or_usage()?;
    tell(&gathered, &|line: &str| status::print(line));
    labels::refuse_without_labels(&gathered).or_usage()?;
    let mut exemplar = if Exemplar::is_in(&args.folder) { Exemplar::read(&args.folder).or_usage()? } else { Exemplar::empty(&args.folder) };
    exemplar.check_mode(args.labels.mode.name()).or_usage()?;
    let model = args.load_model.as_ref().map(|source| source.load(Model::from_state)).transpose().or_usage()?;
    let facts = model.as_ref().map(|model| model.facts().clone()).unwrap_or_default();
    let (side, frame) = (args.labels.side(), args.labels.frame(&gathered, &facts).or_usage()?);
    let boxes = |i: usize| boxes_d(&gathered.labelled[i], args.labels.mode, frame, side, &args.compat);
    let cache = ImageCache::new(None, 0, frame, Default::default(), Ground::of(facts.ground_px), args.compat.clone())?;
    let image = |i: usize| cache.get(&gathered.labelled[i].path, &mut Vec::new());
    let counts: Vec<usize> = gathered.labelled.iter().map(|one| one.coordinates.points.len()).collect();
    let chosen = match &model {
        _ if args.compat.has(Fault::ExemplarFirst) => select_first(&counts, args.sampling_size),
        None => select_by_coverage(&counts, args.sampling_size, args.seed, None),
        Some(model) => {
            let shown = |i: usize| Ok((image(i)?, boxes(i)?));
            select_by_features(model, frame, &counts, args.sampling_size, args.seed, shown)?
        }
    };
    let found: usize = chosen.iter().map(|&i| counts[i]).sum();
    if found < args.sampling_size {
        status::print(&format!("all {found} labels are fewer than --sampling_size {}; all are taken", args.sampling_size));
    }
    let model_sha256 = model.as_ref().map(|model| model.sha256().to_owned());
    let hour = hour_stamp(std::time::SystemTime::now());
    let mut added = 0;
    for i in chosen {
        let one = &gathered.labelled[i];
        let corners = boxes(i).or_usage()?;
        let boxes_d = corners.iter().map(|[x1, y1, x2, y2]| [*x1, *y1, x2 - x1, y2 - y1].map(f64::from)).collect();
        let origin = Origin {
            micrograph: Some(one.path.display().to_string()),
            mode: Some(args.labels.mode.name().to_owned()),
            diameter_angstrom: args.labels.diameter,
            model_sha256: model_sha256.clone(),
        };
        if exemplar.add(&one.stem, &image(i)?, boxes_d, origin, &hour)? {
            added += 1;
            status::print(&format!("{}: {}", one.stem, counted(counts[i], "label")));
        } else {
            status::tell(&format!("warning: {}: an image of this name is there already; it stays as it is", one.stem));
        }
    }
    exemplar.write()?;
    status::print(&format!(
        "{}: {} added, {} with {}",
        args.folder.display(),
        counted(added, "image"),
        counted(exemplar.entries.len(), "image"),
        counted(exemplar.labels(), "label")
    ));
    Ok(if gathered.unreadable.is_empty() { status::DONE } else { status::FAILED })
}

fn list(exemplar: &Exemplar) {
    for entry in &exemplar.entries {
        let Origin { micrograph, mode, diameter_angstrom, model_sha256 } = &entry.origin;
        let mut facts = vec![counted(entry.boxes.len(), "label"), format!("{} x {}", entry.size[1], entry.size[0])];
        facts.extend(mode.clone());
        facts.extend(diameter_angstrom.map(|diameter| format!("{diameter} angstrom")));
        facts.extend(model_sha256.as_ref().map(|hash| format!("model {}", hash.chars().take(12).collect::<String>())));
        facts.extend(micrograph.as_ref().map(|path| format!("from {path}")));
        status::print(&format!("{}: {}", entry.file, facts.join(", ")));
    }
    let (images, labels) = (counted(exemplar.entries.len(), "image"), counted(exemplar.labels(), "label"));
    status::print(&format!("{}: {images} with {labels}", exemplar.folder.display()));
}

fn prune(args: &ExemplarArgs) -> Result<u8> {
    let mut exemplar = Exemplar::read(&args.folder).or_usage()?;
    if args.drop.is_empty() && args.keep.is_none() {
        return Err(Usage::because("neither --drop nor --keep; expected what is to go or how much stays; give one").into());
    }
    for name in &args.drop {
        if !exemplar.entries.iter().any(|entry| entry.stem() == name || entry.file == *name) {
            let unknown = || -> Result<u8> { bail!("--drop {name}: no such image; expected a name that epicker exemplar list tells") };
            return unknown().or_usage();
        }
    }
    let mut gone = exemplar.remove(|entry| args.drop.iter().any(|name| entry.stem() == name || entry.file == *name))?;
    if let Some(keep) = args.keep {
        let counts: Vec<usize> = exemplar.entries.iter().map(|entry| entry.boxes.len()).collect();
        let chosen = select_by_coverage(&counts, keep, args.seed, None);
        let kept: HashSet<u64> = chosen.iter().map(|&i| exemplar.entries[i].id).collect();
        gone += exemplar.remove(|entry| !kept.contains(&entry.id))?;
    }
    status::print(&format!("{} removed", counted(gone, "image")));
    list(&exemplar);
    Ok(status::DONE)
}
