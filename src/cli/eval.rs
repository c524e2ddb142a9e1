//! `epicker eval`: picks against labels, in numbers and as a curve.
//!
//! The story: find micrographs, labels and picks (of a model or from files of any program), match them, count, and tell the
//! numbers. With `--against` the same is done for an earlier model or earlier picks, and the difference is told.

mod page;

use super::device::{Chosen, choose_every, named};
use super::label_args::tell;
use super::settle::{self, Asked, Looking, Voice};
use super::status::{self, OrUsage, Usage};
use super::values;
use crate::compat::Compat;
use crate::doctor::Way;
use crate::doctor::compute::Conv;
use crate::eval::chart::pr_chart;
use crate::eval::matching::Rule;
use crate::eval::report::{Item, Report, Settings, SizeSource, evaluate};
use crate::eval::with_model::{Options as ModelOptions, picks_of_peaks};
use crate::formats::coordinates::{Coordinates, Kind, Warnings};
use crate::formats::detect::CoordinateFormat;
use crate::formats::image::ReadOptions;
use crate::formats::label_file::Family;
use crate::formats::pixel_size::{Evidence, Stated};
use crate::io::model_source::ModelSource;
use crate::io::pairing::{Name, distinct, refuse_twins};
use crate::io::sources::Source;
use crate::io::write::write_whole;
use crate::net::{Model, Views};
use crate::ops::Precision;
use crate::pick::run::{Input, Seen, Source as Micrographs};
use crate::pick::seek_threshold::Threshold;
use crate::pick::settings::Sight;
use crate::pick::workers::{Workers, each};
use crate::preprocess::ground::Ground;
use crate::preprocess::scale::{Diameter, Scale};
use crate::train::labels::{self, Gathered, Labelled, ORIGINAL_SIDE_H_PX, gather, pair, read_sources};
use crate::words::counted;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The command line of `epicker eval`.
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// Micrographs of each data set: folders, lists or files; with --picks they may be left out
    #[arg(long = "data", value_name = "PATH", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Labels of each data set, any format
    #[arg(long = "label", value_name = "PATH", num_args = 1.., required = true)]
    label: Vec<PathBuf>,
    /// Picks of each data set, of any program; instead of a model
    #[arg(long = "picks", value_name = "PATH", num_args = 1..)]
    picks: Vec<PathBuf>,
    /// Model that picks, .pth or .safetensors, or the general model particle, vesicle or fiber; instead of --picks
    #[arg(long = "load_model", value_name = "MODEL", conflicts_with = "picks")]
    load_model: Option<ModelSource>,
    /// What to compare with: an earlier model, or earlier picks of each data set
    #[arg(long = "against", value_name = "PATH", num_args = 1..)]
    against: Vec<PathBuf>,
    /// With --against: how many of the data sets are old, the first ones given; forgetting is counted over them [default: all but
    /// the last of several]
    #[arg(long = "old", value_name = "COUNT", requires = "against", value_parser = values::count)]
    old: Option<usize>,
    /// Format of the picks: thi, star, box, coord, cbox, topaz, json or helicon [default: told by the content]
    #[arg(long = "format", value_name = "FORMAT")]
    format: Option<Family>,
    /// Format of the labels [default: told by the content]
    #[arg(long = "label_type", value_name = "FORMAT")]
    label_type: Option<Family>,
    /// Factor from the pixels of a Topaz table of picks to those of the micrographs
    #[arg(long = "scale", value_name = "FACTOR", value_parser = values::positive)]
    scale: Option<f64>,
    /// particle, vesicle or fiber [default: the model's, else what the labels are]
    #[arg(long = "mode", value_name = "MODE")]
    mode: Option<Kind>,
    /// Diameter of the particles, angstrom: one for all data sets, or one for each
    #[arg(long = "diameter", value_name = "ANGSTROM", num_args = 1.., value_parser = values::positive)]
    diameter: Vec<f64>,
    /// Diameter of the particles, micrograph pixels: one for all data sets, or one for each
    #[arg(long = "diameter_px", value_name = "PIXELS", num_args = 1.., value_parser = values::positive)]
    diameter_px: Vec<f64>,
    /// Pixel size, angstrom, whatever the micrographs say
    #[arg(long = "angpix", value_name = "ANGSTROM", value_parser = values::positive)]
    angpix: Option<f64>,
    /// A pick finds a label within this many radii
    #[arg(long = "match", value_name = "RADII", default_value_t = 0.5, value_parser = values::positive)]
    reach: f64,
    /// Labels and picks within this many radii of the border do not count
    #[arg(long = "ignore-border", value_name = "RADII", default_value_t = 1.0, value_parser = values::distance)]
    ignore_border: f64,
    /// Threshold with which the picks are shipped; auto, for a model: as epicker pick would seek it [default: the model's, else 0]
    #[arg(long = "vis_thresh", visible_alias = "threshold", value_name = "SCORE")]
    vis_thresh: Option<Threshold>,
    /// Rounds of resampling the micrographs for the intervals; 0 leaves them out
    #[arg(long = "bootstrap", value_name = "ROUNDS", default_value_t = 1000)]
    bootstrap: usize,
    /// Seed of the intervals and of the random picks
    #[arg(long = "seed", value_name = "NUMBER", default_value_t = 317)]
    seed: u64,
    /// Precision and recall of so many best picks over all micrographs [default: half, as many, twice as many as the labels]
    #[arg(long = "at_picks", value_name = "COUNT", value_delimiter = ',', value_parser = values::count)]
    at_picks: Option<Vec<usize>>,
    /// Adds AP at IoU 0.5 with the original's boxes
    #[arg(long = "coco")]
    coco: bool,
    /// Most picks of a micrograph that a model gives
    #[arg(long = "K", value_name = "COUNT", default_value_t = 4000, value_parser = values::count)]
    k: usize,
    /// Width of the network's input [default: as in epicker pick]
    #[arg(long = "frame", value_name = "PIXELS", value_parser = values::frame)]
    frame: Option<usize>,
    /// Repeat faults of the original (docs/options.md)
    #[arg(long = "compat", value_name = "NAMES", default_value = "")]
    compat: Compat,
    /// Folder for eval.json, pr.csv and PR.svg
    #[arg(long = "output", short = 'o', value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Write one page to look at, report.html in the output folder: all micrographs with right and false picks and missed
    /// labels, and precision, recall and F1 at a threshold to move
    #[arg(long = "report", requires_all = ["output", "data"])]
    report: bool,
    /// Leaves out entries of a list that do not exist
    #[arg(long = "skip-missing")]
    skip_missing: bool,
    /// GPUs that pick for --load_model, such as 0 or 0,1; all for every GPU, or -1 for the CPU [default: the first GPU, the CPU where
    /// there is none]
    #[arg(long = "gpus", value_name = "IDS", value_parser = values::devices, allow_hyphen_values = true)]
    gpus: Option<values::Devices>,
    /// Who computes convolutions on a GPU: auto (cuDNN where there is one that computes what it should), cudnn or native
    #[arg(long = "conv", value_name = "WHO", default_value = "auto")]
    conv: Conv,
    /// What numbers products are multiplied in: fp32, tf32 or fp16. On the CPU the last two round every map and weight, to show what
    /// that costs, and save no time
    #[arg(long = "precision", value_name = "NAME", default_value = "fp32", value_parser = values::precision)]
    precision: Precision,
    /// Views of each micrograph whose heat maps are averaged: 1, 2 (and turned by half a turn) or 4 (and mirrored) [default: the
    /// model's, else 1]
    #[arg(long = "average", value_name = "VIEWS", value_parser = values::views)]
    average: Option<Views>,
    /// Threads [default: all cores]
    #[arg(long = "threads", value_name = "COUNT", value_parser = values::count)]
    threads: Option<usize>,
    /// The numbers as one JSON object, the last line of standard output; text goes to standard error
    #[arg(long = "json")]
    json: bool,
}

/// One data set.
struct DataSet {
    name: String,
    micrographs: Vec<Labelled>,
    /// False if there are no micrographs, only labels: then sizes are unknown.
    has_images: bool,
    /// Micrographs that could not be read and are not among the others.
    unreadable: usize,
}

/// A data set that was judged: what was compared, by which rules, and the numbers that came out.
struct JudgedSet {
    /// Which micrographs of the data set were judged; those that could not be picked are not among them.
    judged: Vec<usize>,
    /// At which scale a model picked them.
    scale: Option<Scale>,
    items: Vec<Item>,
    settings: Settings,
    report: Report,
}

/// Whose picks are judged.
enum Whose<'a> {
    /// The picks of a model, which picks on devices.
    Model(&'a Model, &'a [Chosen]),
    /// The picks in files: one path for each data set, and the format if one is given.
    Files(&'a [PathBuf], Option<Family>),
}

fn reports_of(judged: Vec<JudgedSet>) -> Vec<Report> {
    judged.into_iter().map(|one| one.report).collect()
}

/// Runs the command; returns the exit status: 1 if a micrograph could not be picked.
///
/// Errors: wrong usage, no label, nothing matches, or a label file cannot be read.
pub fn run(args: &EvalArgs) -> Result<u8> {
    if args.vis_thresh == Some(Threshold::Auto) && args.load_model.is_none() {
        return Err(Usage::because("--vis_thresh auto: is sought with a model; expected --load_model, or a score".to_string()).into());
    }
    super::threads::start(args.threads)?;
    args.check().or_usage()?;
    let say: &(dyn Fn(&str) + Sync) = &|line| status::say(line, args.json);
    let data_sets = (0..args.label.len()).map(|i| args.data_set(i, say)).collect::<Result<Vec<_>>>().or_usage()?;
    let [model, earlier] = args.models().or_usage()?;
    let chosen = if model.is_some() || earlier.is_some() { args.devices(say)? } else { Vec::new() };
    let (judged, mut failures) =
        args.reports(&data_sets, &whose(&model, &chosen).unwrap_or(Whose::Files(&args.picks, args.format)), say)?;
    let before = match (whose(&earlier, &chosen), args.against.as_slice()) {
        (None, []) => None,
        // The format that is asked for is that of --picks. The earlier picks may come from another program.
        (whose, picks) => Some(args.reports(&data_sets, &whose.unwrap_or(Whose::Files(picks, None)), say)?),
    };
    failures += data_sets.iter().map(|data_set| data_set.unreadable).sum::<usize>();
    let before = before.map(|(judged, failed)| {
        failures += failed;
        reports_of(judged)
    });
    chosen.iter().flat_map(Chosen::keep).for_each(|line| say(&line));
    if args.report {
        page::write(args, &data_sets, &judged, say)?;
    }
    let now = reports_of(judged);
    for (data_set, report) in data_sets.iter().zip(&now) {
        if data_sets.len() > 1 {
            say(&format!("{}:", data_set.name));
        }
        say(report.text().trim_end());
    }
    if let Some(before) = &before {
        say(table(&data_sets, before, &now, args.old()).trim_end());
    }
    let json = summary(&data_sets, &now, before.as_deref(), args.old());
    if let Some(folder) = &args.output {
        write_output(folder, &data_sets, &now, before.as_deref(), &json)?;
    }
    if args.json {
        status::print_json(&json);
    }
    if failures > 0 {
        status::tell(&format!("warning: {} could not be picked, and nothing above counts them", counted(failures, "micrograph")));
    }
    Ok(if failures == 0 { status::DONE } else { status::FAILED })
}

fn whose<'a>(model: &'a Option<Model>, chosen: &'a [Chosen]) -> Option<Whose<'a>> {
    model.as_ref().map(|model| Whose::Model(model, chosen))
}

fn is_model(path: &Path) -> bool {
    matches!(model_of(path), ModelSource::General(_))
        || path.extension().is_some_and(|extension| ["pth", "pt", "safetensors"].iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

fn model_of(path: &Path) -> ModelSource {
    path.as_os_str().to_owned().into()
}

/// Tells what is found out about a scale, line by line.
struct Lines<'a>(&'a (dyn Fn(&str) + Sync));

impl Voice for Lines<'_> {
    fn say(&self, line: &str) {
        self.0(line);
    }

    fn warn(&self, line: &str) {
        status::tell(&format!("warning: {line}"));
    }
}

/// The picks of a micrograph.
struct Picked {
    picks: Coordinates,
    /// The frame in which a model found them.
    frame: Option<usize>,
}

/// What a model found in a data set.
struct OfModel {
    /// None for a micrograph that failed.
    found: Vec<Option<Picked>>,
    kind: Kind,
    scale: Scale,
    /// The threshold with which `epicker pick` would ship.
    threshold: f32,
}

impl EvalArgs {
    fn check(&self) -> Result<()> {
        ensure!(
            self.load_model.is_some() || !self.picks.is_empty(),
            "neither --load_model nor --picks; expected one of them; say whose picks are judged"
        );
        let count = self.label.len();
        let fits = |option: &str, paths: &[PathBuf]| -> Result<()> {
            ensure!(
                paths.is_empty() || paths.len() == count,
                "{option}: {} paths for {count} of --label; expected one for each data set; add the others",
                paths.len()
            );
            Ok(())
        };
        let one_or_each = |option: &str, given: usize| -> Result<()> {
            ensure!(
                given <= 1 || given == count,
                "{option}: {given} diameters for {count} of --label; expected one for all data sets, or one for each"
            );
            Ok(())
        };
        one_or_each("--diameter", self.diameter.len())?;
        one_or_each("--diameter_px", self.diameter_px.len())?;
        if let Some(old) = self.old {
            ensure!(old <= count, "--old {old}: there are {count} data sets; expected at most as many");
        }
        fits("--data", &self.data)?;
        fits("--picks", &self.picks)?;
        if !matches!(self.against.as_slice(), [one] if is_model(one)) {
            fits("--against", &self.against)?;
        }
        if self.data.is_empty() {
            let with_model = self.load_model.is_some() || self.against.iter().any(|path| is_model(path));
            ensure!(!with_model, "--data: missing; expected the micrographs that the model picks; give their folder");
            ensure!(!self.coco, "--data: missing; expected the micrographs, whose size --coco needs; give their folder");
        }
        Ok(())
    }

    /// The diameter of the particles of a data set, angstrom and micrograph pixels, as far as it is given.
    fn diameters(&self, data_set: usize) -> [Option<f64>; 2] {
        [&self.diameter, &self.diameter_px].map(|given| given.get(data_set).or(given.first()).copied())
    }

    /// How many of the data sets are old, counted from the first. A later model may have forgotten these.
    fn old(&self) -> usize {
        self.old.unwrap_or(match self.label.len() {
            1 => 1,
            several => several - 1,
        })
    }

    /// The model whose picks are judged, and the one that it is compared with, where there are such models.
    fn models(&self) -> Result<[Option<Model>; 2]> {
        let earlier = match self.against.as_slice() {
            [one] if is_model(one) => Some(model_of(one)),
            _ => None,
        };
        let load = |source: Option<&ModelSource>| source.map(|source| source.load(Model::from_state)).transpose();
        Ok([load(self.load_model.as_ref())?, load(earlier.as_ref())?])
    }

    fn devices(&self, say: &(dyn Fn(&str) + Sync)) -> Result<Vec<Chosen>> {
        let chosen = choose_every(self.precision, self.gpus.as_ref(), self.conv, Way::Pick)?;
        chosen.iter().flat_map(|chosen| &chosen.warnings).for_each(|line| status::tell(&format!("warning: {line}")));
        chosen.iter().flat_map(|chosen| &chosen.lines).for_each(|line| say(line));
        Ok(chosen)
    }

    fn label_options(&self) -> labels::Options {
        let mut options = labels::Options {
            skip_missing: self.skip_missing,
            leave_out_unreadable: true,
            pixel_size_angstrom: self.angpix,
            ..Default::default()
        };
        options.label.family = self.label_type;
        if let Some(mode) = self.mode {
            options = options.in_mode(mode);
        }
        options
    }

    fn data_set(&self, i: usize, say: &(dyn Fn(&str) + Sync)) -> Result<DataSet> {
        let (labels, options) = (&self.label[i], self.label_options());
        let Some(data) = self.data.get(i) else {
            let (mut warnings, mut remarks) = (Vec::new(), Warnings::default());
            let sources = read_sources(labels, &options, &mut warnings)?;
            let names: Vec<Name> = sources.iter().map(|source| source.name.clone()).collect();
            refuse_twins(&names, |i| sources[i].path.display().to_string())?;
            let stems = distinct(&names);
            let all = sources.into_iter().zip(stems);
            let micrographs = all.map(|(source, stem)| without_image(source, stem, self.angpix, &mut remarks)).collect::<Result<_>>()?;
            warnings.extend(remarks.into_messages());
            warnings.iter().for_each(|warning| status::tell(&format!("warning: {warning}")));
            say(&format!("{}: no micrographs, so no border is left out", labels.display()));
            return Ok(DataSet { name: labels.display().to_string(), micrographs, has_images: false, unreadable: 0 });
        };
        let gathered = gather(data, labels, &options)?;
        tell(&gathered, say);
        let (name, unreadable) = (data.display().to_string(), gathered.unreadable.len());
        Ok(DataSet { name, micrographs: gathered.labelled, has_images: true, unreadable })
    }

    /// The reports of all data sets, and how many micrographs could not be picked.
    fn reports(&self, data_sets: &[DataSet], whose: &Whose, say: &(dyn Fn(&str) + Sync)) -> Result<(Vec<JudgedSet>, usize)> {
        let (mut reports, mut failures) = (Vec::with_capacity(data_sets.len()), 0);
        for (i, data_set) in data_sets.iter().enumerate() {
            let (found, kind, model, settled) = match whose {
                Whose::Model(model, devices) => {
                    let OfModel { found, kind, scale, threshold } = self.picks_of_model(model, devices, (i, data_set), say)?;
                    (found, Some(kind), Some(*model), Some((scale, threshold)))
                }
                Whose::Files(picks, format) => {
                    let found = self.picks_of_files(&picks[i], *format, data_set, say).or_usage()?;
                    let picked = |picks| Some(Picked { picks, frame: None });
                    (found.into_iter().map(picked).collect(), self.mode, None, None)
                }
            };
            if self.mode.is_none() && kind == Some(Kind::Fiber) {
                refuse_points_of_star(data_set).or_usage()?;
            }
            let (mut judged, mut items) = (Vec::new(), Vec::new());
            for (j, picked) in found.into_iter().enumerate() {
                match picked {
                    Some(picked) => {
                        judged.push(j);
                        items.push(data_set.item(&data_set.micrographs[j], picked, kind));
                    }
                    None => failures += 1,
                }
            }
            ensure!(!items.is_empty(), "{}: none of its micrographs could be picked; the errors above say why", data_set.name);
            if !items.iter().any(|item| !item.labels.points.is_empty()) {
                let empty = format!("{}: all labels are empty; expected at least one; check --label", self.label[i].display());
                return Err(Usage::because(empty).into());
            }
            let (scale, threshold) = settled.unzip();
            let threshold = threshold.or(self.vis_thresh.and_then(Threshold::score));
            let settings = self.settings(i, model, threshold, &items);
            let report = evaluate(&items, &settings).or_usage()?;
            reports.push(JudgedSet { judged, scale, items, settings, report });
        }
        Ok((reports, failures))
    }

    fn settings(&self, data_set: usize, model: Option<&Model>, shipped_threshold: Option<f32>, items: &[Item]) -> Settings {
        let facts = model.map(|model| model.facts().clone()).unwrap_or_default();
        let [diameter_angstrom, diameter_px] = self.diameters(data_set);
        let asked = diameter_angstrom.is_some() || diameter_px.is_some();
        let is_vesicle = items.iter().any(|item| item.labels.kind == Kind::Vesicle);
        // The label's own box says more than the box that all models of the original were trained with.
        let has_own = items.iter().all(|item| item.labels.points.iter().all(|label| label.radius().is_some()));
        let model_side = model
            .map(|_| facts.particle_size_h_px.unwrap_or(ORIGINAL_SIDE_H_PX))
            .filter(|_| facts.particle_size_h_px.is_some() || !has_own);
        Settings {
            rule: Rule { reach: self.reach, border: self.ignore_border },
            size: SizeSource {
                diameter_angstrom,
                diameter_px,
                model_diameter_angstrom: facts.diameter_angstrom,
                model_side_h_px: model_side,
                own_first: is_vesicle && !asked,
            },
            shipped_threshold,
            bootstrap: self.bootstrap,
            seed: self.seed,
            coco: self.coco,
            at_picks: self.at_picks.clone(),
        }
    }

    /// The picks of a model on every micrograph of a data set. A micrograph that fails is reported, and has no picks.
    fn picks_of_model(
        &self,
        model: &Model,
        devices: &[Chosen],
        (i, data_set): (usize, &DataSet),
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<OfModel> {
        let kind = settle::kind(self.mode, model).or_usage()?.unwrap_or_else(|| data_set.kind());
        let [in_angstrom, in_px] = self.diameters(i);
        let diameter = in_px.map(Diameter::Pixels).or(in_angstrom.map(Diameter::Angstrom));
        let asked = Asked { model, kind, frame: self.frame, diameter, views: self.average };
        let (inputs, read) = (data_set.inputs(), ReadOptions::default());
        let looking = Looking { inputs: &inputs, read: &read, compat: &self.compat, folder: None, may_try: true };
        let mut workers = Workers::new(&named(devices), model, kind == Kind::Vesicle, self.k)?.averaging(asked.views());
        let given = asked.scale_given(looking, &mut workers).or_usage()?;
        for one in &data_set.micrographs {
            given.frame(one.size, one.pixel_size_angstrom).with_context(|| one.stem.clone()).or_usage()?;
        }
        let scale = asked.scale(given, looking, &mut workers, &Lines(say))?;
        let threshold = asked.threshold(self.vis_thresh, &scale, looking, &mut workers, &Lines(say))?;
        let options = ModelOptions {
            k: self.k,
            kind,
            fiber_threshold: threshold,
            side_n_px: asked.side_n_px(),
            distance_sides: asked.distance_sides(&scale),
            compat: self.compat.clone(),
        };
        let sight = Sight { read: &read, scale: &scale, ground: Ground::wanted_by(model.facts()), compat: &self.compat, is_shown: false };
        let (mut told, mut all) = (None, Vec::with_capacity(inputs.len()));
        each(Micrographs::list(&inputs, &|| false), &mut workers, sight, |input, seen| match seen {
            Ok(Seen { ready, peaks, .. }) => {
                if told.replace(ready.frame()) != Some(ready.frame()) {
                    ready.reason.iter().for_each(|reason| say(&format!("{reason} ({})", input.name)));
                }
                ready.warnings.iter().for_each(|warning| status::tell(&format!("warning: {warning}")));
                let picks = picks_of_peaks(&peaks, &ready.geometry(), &options);
                say(&format!("{}: {} ({} of {})", input.name, counted(picks.points.len(), "pick"), all.len() + 1, inputs.len()));
                all.push(Some(Picked { picks, frame: Some(ready.frame()) }));
            }
            Err(error) => {
                status::tell(&format!("error: {error:#}"));
                all.push(None);
            }
        })?;
        workers.take_losses().iter().for_each(|loss| status::tell(&format!("warning: {loss}")));
        Ok(OfModel { found: all, kind, scale, threshold })
    }

    fn picks_of_files(
        &self,
        path: &Path,
        format: Option<Family>,
        data_set: &DataSet,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<Vec<Coordinates>> {
        let mut options = self.label_options();
        options.label.family = format;
        options.label.topaz_scale = self.scale;
        let mut gathered = Gathered::default();
        let sources = read_sources(path, &options, &mut gathered.warnings)?;
        let names: Vec<Name> = data_set.micrographs.iter().map(|one| one.name.clone()).collect();
        let pairs = pair(&names, &sources, &mut gathered)?;
        ensure!(
            !pairs.is_empty(),
            "{}: none of its {} coordinate files fits one of the {} labelled micrographs; expected equal names; rename them",
            path.display(),
            sources.len(),
            names.len()
        );
        let mut all = vec![Coordinates::default(); names.len()];
        let mut remarks = Warnings::default();
        for (i, source) in pairs {
            let source = &sources[source];
            let list = Stated::micrograph(data_set.micrographs[i].pixel_size_angstrom);
            let evidence = Evidence { given: self.angpix, label: source.set.pixel_size, list, header: None };
            all[i] = source.placed(&evidence, &mut remarks)?;
        }
        gathered.warnings.extend(remarks.into_messages());
        gathered.warnings.iter().for_each(|warning| status::tell(&format!("warning: {warning}")));
        gathered.notes.iter().for_each(|note| say(note));
        if !gathered.lone_micrographs.is_empty() {
            let names = gathered.lone_micrographs.join(", ");
            say(&format!("{} micrographs have no picks, and all their labels count as missed: {names}", gathered.lone_micrographs.len()));
        }
        if !gathered.lone_labels.is_empty() {
            say(&format!("{} files of picks belong to no labelled micrograph and are left out", gathered.lone_labels.len()));
        }
        Ok(all)
    }
}

impl DataSet {
    /// The micrographs, to be read.
    fn inputs(&self) -> Vec<Input> {
        let input = |one: &Labelled| Input {
            path: one.path.clone(),
            name: one.stem.clone(),
            sections: Default::default(),
            known: Evidence { given: one.pixel_size_angstrom, ..Evidence::default() },
        };
        self.micrographs.iter().map(input).collect()
    }

    fn kind(&self) -> Kind {
        let with_labels = self.micrographs.iter().find(|one| !one.coordinates.points.is_empty());
        with_labels.map_or(Kind::Particle, |one| one.coordinates.kind)
    }

    /// The labels and picks of a micrograph, to be judged. Where the mode says vesicles, labels that were read as particles
    /// with sizes are taken as vesicles, and the other way round.
    fn item(&self, one: &Labelled, Picked { picks, frame }: Picked, kind: Option<Kind>) -> Item {
        let mut labels = one.coordinates.clone();
        if labels.points.is_empty() {
            labels.kind = self.kind(); // an empty file does not say what kind of points it could hold
        }
        match (kind, labels.kind) {
            (Some(Kind::Vesicle), Kind::Particle) => labels.kind = Kind::Vesicle,
            (Some(Kind::Particle), Kind::Vesicle) => labels.kind = Kind::Particle,
            _ => {}
        }
        let mut picks = picks;
        one.leave_out_areas(&mut labels);
        one.leave_out_areas(&mut picks);
        Item {
            stem: one.stem.clone(),
            size: self.has_images.then_some(one.size),
            pixel_size_angstrom: one.pixel_size_angstrom,
            frame,
            labels,
            picks,
        }
    }
}

/// Labels whose micrograph is not there. Errors: a refined shift leads off every micrograph.
fn without_image(source: Source, stem: String, given: Option<f64>, remarks: &mut Warnings) -> Result<Labelled> {
    let evidence = Evidence { given, label: source.set.pixel_size, ..Evidence::default() };
    Ok(Labelled {
        path: PathBuf::new(),
        size: [0, 0],
        pixel_size_angstrom: evidence.angstrom(),
        coordinates: source.placed(&evidence, remarks)?,
        name: source.name,
        stem,
        label: source.path,
        format: source.format,
        outside: 0,
        marks: None,
        rejected: Vec::new(),
    })
}

/// Refuses to judge fibers by their ends alone: pairs of start and end look like points until the user says what they are.
fn refuse_points_of_star(data_set: &DataSet) -> Result<()> {
    let is_of_points = |one: &&Labelled| one.format == CoordinateFormat::Star && one.coordinates.kind == Kind::Particle;
    match data_set.micrographs.iter().filter(is_of_points).find(|one| !one.coordinates.points.is_empty()) {
        Some(one) => bail!(
            "{}: its rows have no rlnHelicalTubeID, so they may be points or pairs of start and end; expected fibers; give --mode fiber to \
             take them as pairs",
            one.label.display()
        ),
        None => Ok(()),
    }
}

/// A table of the numbers before and after, and of what was forgotten. All are points of a hundred.
fn table(data_sets: &[DataSet], before: &[Report], now: &[Report], old: usize) -> String {
    let mut out = String::from("AP before   after  points  data set\n");
    for ((data_set, before), now) in data_sets.iter().zip(before).zip(now) {
        let (before, now) = (100.0 * before.main_number(), 100.0 * now.main_number());
        let _ = writeln!(out, "{before:9.2} {now:7.2} {:+7.2}  {}", now - before, data_set.name);
    }
    let over = if old < data_sets.len() { format!(", {} as old", counted(old, "data set")) } else { String::new() };
    let _ = writeln!(out, "forgetting: {:.2} points (the mean of what was lost{over})", forgetting(before, now, old));
    out
}

/// Mean loss over the first `old` data sets, in points of a hundred. A set that gained counts as no loss. A set that is new to
/// the later model cannot have been forgotten, so it does not count.
/// Source: Chaudhry et al. 2018, arXiv:1801.10112, section 3.
fn forgetting(before: &[Report], now: &[Report], old: usize) -> f64 {
    let losses = before.iter().zip(now).take(old).map(|(before, now)| (100.0 * (before.main_number() - now.main_number())).max(0.0));
    losses.sum::<f64>() / before.len().min(old).max(1) as f64
}

fn summary(data_sets: &[DataSet], now: &[Report], before: Option<&[Report]>, old: usize) -> Value {
    let one = |i: usize| {
        let mut object = now[i].json();
        object["data"] = json!(data_sets[i].name);
        if let Some(before) = before {
            object["before"] = before[i].json();
            object["points"] = json!(100.0 * (now[i].main_number() - before[i].main_number()));
        }
        object
    };
    let mut all = if now.len() == 1 { one(0) } else { json!({ "data_sets": (0..now.len()).map(one).collect::<Vec<_>>() }) };
    if let Some(before) = before {
        all["forgetting_points"] = json!(forgetting(before, now, old));
    }
    all
}

fn write_output(folder: &Path, data_sets: &[DataSet], now: &[Report], before: Option<&[Report]>, json: &Value) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made; check the rights above it", folder.display()))?;
    let mut json = json.clone();
    let rows = |report: &Report| -> Vec<Value> {
        let row = |(stem, labels, picks, hits): &(String, usize, usize, usize)| json!({ "micrograph": stem, "labels": labels, "picks": picks, "hits": hits });
        report.by_micrograph.iter().map(row).collect()
    };
    let by_data_set: Vec<Value> =
        data_sets.iter().zip(now).map(|(data_set, report)| json!({ "data": data_set.name, "micrographs": rows(report) })).collect();
    json["by_micrograph_at_threshold_best"] = json!(by_data_set);
    write_whole(&folder.join("eval.json"), format!("{json:#}\n").as_bytes())?;
    let chart = pr_chart(data_sets.iter().zip(now).map(|(data_set, report)| (data_set.name.as_str(), report)), before);
    write_whole(&folder.join("PR.svg"), chart.svg().as_bytes())?;
    let mut csv = String::from("data,score,picks,hits,precision,recall\n");
    for (data_set, report) in data_sets.iter().zip(now) {
        let name = data_set.name.replace('"', "\"\"");
        for point in &report.curve {
            let _ = writeln!(csv, "\"{name}\",{},{},{},{},{}", point.score, point.picks, point.hits, point.precision, point.recall);
        }
    }
    write_whole(&folder.join("pr.csv"), csv.as_bytes())
}
