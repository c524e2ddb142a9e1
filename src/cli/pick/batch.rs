//! What `epicker pick` is going to do: its micrographs, the names of its outputs, and what is done already.

use super::PickArgs;
use crate::formats::candidates::{Facts, key};
use crate::formats::image::{Sections, read_info};
use crate::io::find::{Found, find_micrographs};
use crate::io::lists::Listed;
use crate::io::names::{OutputNames, micrograph_stem};
use crate::net::Model;
use crate::pick::output::OutputType;
use crate::pick::relion::RelionJob;
use crate::pick::run::{Job, Settings, WrittenSide};
use crate::pick::seek_scale::sample_indices;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// The work of a run.
pub struct Batch {
    /// Micrographs to pick.
    pub jobs: Vec<Job>,
    /// Micrographs left alone because they are done.
    pub skipped: usize,
    /// Outputs of an earlier run that will be replaced.
    pub replaced: usize,
    /// Micrographs to try scales on: of all, whether they are done or not, so that a batch that goes on finds the same scale.
    pub samples: Vec<Job>,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
    /// Every micrograph with its output, in order, and which job it is, if it is one.
    all: Vec<(Listed, Option<usize>)>,
}

impl Batch {
    /// Micrographs that have an output now, in the order they were given.
    pub fn listed(&self, finished: &[bool]) -> Vec<Listed> {
        let is_done = |job: &Option<usize>| job.is_none_or(|job| finished[job]);
        self.all.iter().filter(|(_, job)| is_done(job)).map(|(listed, _)| listed.clone()).collect()
    }

    /// The folder that the outputs go to.
    pub fn folder<'a>(&self, output: &'a Path, relion: Option<&'a RelionJob>) -> &'a Path {
        relion.map_or(output, |job| &job.folder)
    }
}

/// Makes the output folder and sees whether it can be written to.
///
/// Errors: it cannot.
pub fn make_folder(folder: &Path) -> Result<()> {
    let name = || format!("--output {}: cannot be written to; expected a folder with rights to write", folder.display());
    std::fs::create_dir_all(folder).with_context(name)?;
    tempfile::Builder::new().prefix(".epicker-").tempfile_in(folder).with_context(name)?;
    Ok(())
}

/// Finds the micrographs and names their outputs. Writes nothing.
///
/// Errors: no micrograph, two with one name, files that must not be replaced, or an unknown pixel size where one is
/// needed.
pub fn batch(args: &PickArgs, settings: &Settings, relion: Option<&RelionJob>) -> Result<Batch> {
    let data = args.in_mics.as_ref().or(args.data.as_ref()).context("--data: missing; expected a path")?;
    let found = find_micrographs(data, args.skip_missing)?;
    let mut warnings = found.warnings;
    let jobs = jobs(args, settings, &found.micrographs, relion, &mut warnings)?;
    need_pixel_size(args, settings, &found.micrographs)?;
    let samples = sample_indices(jobs.len()).into_iter().map(|i| jobs[i].clone()).collect();
    let (mut skipped, mut replaced, mut clobbered) = (0, 0, None);
    let (mut todo, mut all) = (Vec::new(), Vec::new());
    for job in jobs {
        let exists = job.output.exists();
        let is_done = args.skip_done && exists && is_complete(&job.output, settings.rule.output_type);
        let listed = Listed { micrograph: PathBuf::from(&job.name), coordinates: job.output.clone() };
        if is_done {
            skipped += 1;
            all.push((listed, None));
            continue;
        }
        replaced += usize::from(exists);
        let files = [Some(&job.output), job.candidates.as_ref(), job.picture.as_ref()];
        clobbered = clobbered.or_else(|| files.into_iter().flatten().find(|file| file.exists()).cloned());
        all.push((listed, Some(todo.len())));
        todo.push(job);
    }
    if let (true, Some(file)) = (args.no_clobber, clobbered) {
        anyhow::bail!("{}: exists already; expected no file with --no-clobber; give another --output", file.display());
    }
    Ok(Batch { jobs: todo, skipped, replaced, samples, warnings, all })
}

fn jobs(
    args: &PickArgs,
    settings: &Settings,
    micrographs: &[Found],
    relion: Option<&RelionJob>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Job>> {
    let paths: Vec<PathBuf> = micrographs.iter().map(|found| found.path.clone()).collect();
    let suffix = args.limits.suffix.as_deref().unwrap_or_default();
    let stem = |path: &Path| micrograph_stem(path).text;
    for path in paths.iter().filter(|path| !micrograph_stem(path).is_known) {
        warnings.push(format!("{}: its extension is none of an image; it is kept in the names of outputs", path.display()));
    }
    let name_all = |folder: &Path, suffix: &str, extension: &str| {
        OutputNames { folder, suffix, extension, keep_dirs: args.keep_dirs }.outputs(&paths, stem)
    };
    let (outputs, candidates, pictures) = match relion {
        Some(job) => {
            let names: Vec<String> = micrographs.iter().map(|found| found.name.clone()).collect();
            let outputs = job.outputs(&names)?;
            let below = |path: &PathBuf| path.strip_prefix(&job.folder).unwrap_or(path).to_path_buf();
            let candidates = outputs.iter().map(|path| job.folder.join("candidates").join(below(path))).collect();
            let pictures = outputs.iter().map(|path| path.with_extension("png")).collect();
            (outputs, candidates, pictures)
        }
        None => {
            let extension = settings.rule.output_type.name();
            let outputs = name_all(&args.output, suffix, extension)?;
            (outputs, name_all(&args.output.join("candidates"), "", "star")?, name_all(&args.output, suffix, "png")?)
        }
    };
    let mut jobs = Vec::with_capacity(micrographs.len());
    for (i, found) in micrographs.iter().enumerate() {
        let job = Job {
            path: found.path.clone(),
            output: outputs[i].clone(),
            candidates: (!args.no_candidates).then(|| candidates[i].clone()),
            picture: args.visual.then(|| pictures[i].clone()),
            sections: settings.read.sections,
            name: found.name.clone(),
            pixel_size_angstrom: args.angpix.or(found.pixel_size_angstrom),
        };
        if let Some(picture) = job.picture.as_ref().filter(|picture| paths.contains(picture)) {
            anyhow::bail!("{}: --visual would replace this micrograph; give another --output", picture.display());
        }
        // A file that cannot be read fails when its turn comes.
        let count = if args.sections == "each" { read_info(&job.path, &settings.read).map_or(1, |info| info.sections) } else { 1 };
        if count > 1 {
            jobs.extend((0..count).map(|section| one_section(&job, section, count)));
        } else {
            jobs.push(job);
        }
    }
    Ok(jobs)
}

/// The job of one section: `_z01` and so on at the end of the names of its files.
fn one_section(job: &Job, section: usize, count: usize) -> Job {
    let digits = count.to_string().len().max(2);
    let number = section + 1;
    let with_number = |path: &PathBuf| {
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        path.with_file_name(format!("{stem}_z{number:0digits$}.{extension}"))
    };
    Job {
        output: with_number(&job.output),
        candidates: job.candidates.as_ref().map(with_number),
        picture: job.picture.as_ref().map(with_number),
        sections: Sections::One(section),
        ..job.clone()
    }
}

/// Looks into the first header, so that a missing `--angpix` is told before the network runs.
fn need_pixel_size(args: &PickArgs, settings: &Settings, micrographs: &[Found]) -> Result<()> {
    let needed = match (settings.written_side, settings.rule.helix) {
        (WrittenSide::Asked { .. }, _) => "--diameter",
        (_, crate::pick::output::Helix::Segments(_)) => "--helix segments",
        _ => return Ok(()),
    };
    let Some(first) = micrographs.first() else { return Ok(()) };
    // A first file that cannot be read fails later, alone.
    let is_unknown = read_info(&first.path, &settings.read).is_ok_and(|info| info.pixel_size_angstrom.is_none());
    ensure!(
        args.angpix.or(first.pixel_size_angstrom).is_some() || !is_unknown,
        "{}: pixel size unknown, which {needed} needs; expected one in the header; give it with --angpix",
        first.path.display()
    );
    Ok(())
}

/// Pixel size of a job's micrograph, where it is known: as given, else that of the header.
pub fn pixel_size(job: &Job, settings: &Settings) -> Option<f64> {
    // A file that cannot be read fails when its turn comes.
    job.pixel_size_angstrom.or_else(|| read_info(&job.path, &settings.read).ok().and_then(|info| info.pixel_size_angstrom))
}

/// True if an output was written to its end. Files appear under their name only when they are whole; the end mark also
/// tells those of other programs.
fn is_complete(output: &Path, output_type: OutputType) -> bool {
    match output_type {
        OutputType::Thi => std::fs::read(output).is_ok_and(|bytes| bytes.trim_ascii_end().ends_with(b"[End]")),
        _ => output.is_file(),
    }
}

/// Facts that are the same in every candidates file of a run.
pub fn facts(settings: &Settings, model: &Model, args: &PickArgs) -> Facts {
    let (limits, rule) = (&settings.limits, &settings.rule);
    let mut facts = Facts::default();
    facts.set(key::MODE, rule.kind);
    facts.set(key::BOX_NET, settings.side_n_px);
    facts.set(key::MODEL_SHA256, model.sha256());
    facts.set("ModelName", model.name());
    facts.set(key::FLOOR, settings.floor);
    facts.set("Cap", settings.cap);
    facts.set(key::K, limits.k);
    facts.set(key::VIS_THRESH, limits.vis_thresh);
    facts.set(key::EDGE, limits.edge);
    facts.set(key::MIN_DISTANCE, limits.min_distance);
    facts.set(key::ANG_THRESH, rule.ang_thresh_rad);
    facts.set(key::TRACER, rule.tracer.name());
    facts.set(key::OUTPUT_TYPE, rule.output_type.name());
    facts.set(key::SUBPIXEL, u8::from(rule.subpixel));
    facts.set(key::SUFFIX, args.limits.suffix.as_deref().unwrap_or_default());
    facts.set(key::COMPAT, rule.compat.names());
    facts.set("Program", concat!("epicker ", env!("CARGO_PKG_VERSION")));
    facts
}
