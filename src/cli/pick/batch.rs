//! What `epicker pick` is going to do: which micrographs it picks, what their files are called, and which of them are done
//! already.

use super::{Asked, PickArgs};
use crate::cli::settle::Looking;
use crate::formats::image::{Sections, read_info};
use crate::formats::pixel_size::{Evidence, PixelSize, Source};
use crate::io::find::{Found, MicrographList, find_all};
use crate::io::lists::Listed;
use crate::io::names::{OutputNames, micrograph_stem};
use crate::io::write::{remove_leftovers, temporary_in};
use crate::pick::folder::{Covered, Picked, entry_of, picked_into};
use crate::pick::output::{Helix, OutputType};
use crate::pick::relion::RelionJob;
use crate::pick::run::{Input, Job};
use crate::pick::settings::{InAngstrom, Settings, WrittenSide};
use crate::words::counted;
use anyhow::{Context, Result, ensure};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The work of a run.
pub struct Batch {
    /// The folder that the outputs go to.
    pub folder: PathBuf,
    /// Micrographs to pick.
    pub jobs: Vec<Job>,
    /// All micrographs, those that are done among them.
    pub inputs: Vec<Input>,
    /// Micrographs that are left alone because they are done.
    pub skipped: usize,
    /// Outputs of an earlier run that will be replaced.
    pub replaced: usize,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
    /// Every micrograph of this run, in order.
    own: Vec<Own>,
    /// The outputs in the folder that do not belong to this run.
    others: Vec<Picked>,
    output_type: OutputType,
}

/// A micrograph of this run.
struct Own {
    covered: Covered,
    candidates: PathBuf,
    /// True if it is still to be picked.
    is_to_do: bool,
    /// What the folder says about the micrograph from an earlier run.
    earlier: Option<Picked>,
    pixel_size_angstrom: Option<f64>,
}

/// The names of a micrograph's files.
struct Names {
    output: PathBuf,
    candidates: PathBuf,
    picture: PathBuf,
}

impl Batch {
    /// Finds the micrographs and names their outputs. Writes nothing.
    ///
    /// Errors: no micrograph, two with one name, files that must not be replaced, or an unknown pixel size where one is
    /// needed.
    pub fn find(args: &PickArgs, asked: &Asked, relion: Option<&RelionJob>) -> Result<Batch> {
        let data: Vec<PathBuf> = args.relion.in_mics.iter().chain(&args.micrographs).chain(&args.data).cloned().collect();
        ensure!(!data.is_empty(), "--data: missing; expected micrographs: a file, a folder or a list");
        Batch::of(args, asked, relion, find_all(&data, args.skip_missing)?)
    }

    /// The same for micrographs that have been found.
    ///
    /// Errors: as [`Batch::find`].
    pub fn of(args: &PickArgs, asked: &Asked, relion: Option<&RelionJob>, found: MicrographList) -> Result<Batch> {
        let folder = relion.map_or(&args.output, |job| &job.folder).clone();
        let mut batch = Batch {
            jobs: Vec::new(),
            inputs: Vec::new(),
            skipped: 0,
            replaced: 0,
            warnings: found.warnings,
            own: Vec::new(),
            others: Vec::new(),
            output_type: asked.rule.output_type,
            folder,
        };
        let jobs = batch.jobs(args, asked, &found.micrographs, relion)?;
        let doubt = need_pixel_size(args, asked, &jobs)?;
        batch.warnings.extend(doubt);
        batch.sort_out(jobs, args)?;
        Ok(batch)
    }

    /// Separates the micrographs that are still to be picked from those that are done.
    fn sort_out(&mut self, jobs: Vec<(Job, PathBuf)>, args: &PickArgs) -> Result<()> {
        let mut picked: HashMap<PathBuf, Picked> =
            picked_into(&self.folder)?.into_iter().map(|picked| (picked.candidates.clone(), picked)).collect();
        let (mut clobbered, mut changed, mut unknown) = (None, 0, 0);
        for (job, candidates) in jobs {
            // The scale is that of all micrographs, so that every share comes to the same.
            self.inputs.push(job.input.clone());
            if args.shard.is_some_and(|shard| !shard.holds(&micrograph_stem(&job.input.path).text)) {
                continue;
            }
            let exists = job.output.exists();
            let earlier = picked.remove(&candidates);
            let mut is_done = args.skip_done && exists && is_complete(&job.output, self.output_type);
            if is_done && earlier.as_ref().is_some_and(|earlier| earlier.has_changed(&job.input.path)) {
                changed += 1;
                is_done = false;
            }
            if is_done && earlier.is_none() {
                // If the file of candidates is there but could not be read, it was damaged, so the micrograph is picked again.
                is_done = !candidates.exists();
                unknown += usize::from(is_done);
            }
            let listed = Listed { micrograph: PathBuf::from(&job.input.name), coordinates: job.output.clone() };
            self.own.push(Own {
                covered: Covered { listed, entry: entry_of(&candidates, &self.folder) },
                candidates,
                is_to_do: !is_done,
                earlier,
                pixel_size_angstrom: job.input.stated_pixel_size_angstrom(),
            });
            if is_done {
                self.skipped += 1;
                continue;
            }
            self.replaced += usize::from(exists);
            let files = [Some(&job.output), job.candidates.as_ref(), job.picture.as_ref()];
            clobbered = clobbered.or_else(|| files.into_iter().flatten().find(|file| file.exists()).cloned());
            self.jobs.push(job);
        }
        if let (true, Some(file)) = (args.no_clobber, clobbered) {
            anyhow::bail!("{}: exists already; expected no file with --no-clobber; give another --output", file.display());
        }
        if changed > 0 {
            let have = if changed == 1 { "has" } else { "have" };
            self.warnings
                .push(format!("{} {have} changed since the last run, so the picks are made again", counted(changed, "micrograph")));
        }
        if unknown > 0 {
            let have = if unknown == 1 { "has" } else { "have" };
            self.warnings.push(format!(
                "{} {have} no candidates that say how it was made; --skip-done leaves the file alone all the same",
                counted(unknown, "output")
            ));
        }
        self.others = picked.into_values().filter(|picked| picked.output.exists()).collect();
        self.others.sort_by(|a, b| a.candidates.cmp(&b.candidates));
        Ok(())
    }

    /// Refuses a run that would leave picks of another model, scale or threshold among its own.
    ///
    /// Errors: there are such picks; the message says what to do.
    pub fn refuse_mixture(&self, settings: &Settings) -> Result<()> {
        for own in self.own.iter().filter(|own| !own.is_to_do) {
            own.earlier.iter().try_for_each(|earlier| earlier.refuse_to_skip(settings, own.pixel_size_angstrom, &self.folder))?;
        }
        self.others.iter().try_for_each(|other| other.refuse_other_scale(settings, None))
    }

    /// The micrographs that the scale of the run is for.
    pub fn looking<'a>(&'a self, asked: &'a Asked) -> Looking<'a> {
        Looking {
            inputs: &self.inputs,
            read: &asked.read,
            compat: &asked.rule.compat,
            folder: Some(&self.folder),
            may_try: !self.jobs.is_empty(),
        }
    }

    /// Makes the output folder, sees whether it can be written to, and clears away what a killed run left in it.
    ///
    /// Errors: it cannot.
    pub fn make_folder(&self) -> Result<()> {
        let name = || format!("--output {}: cannot be written to; expected a folder with rights to write", self.folder.display());
        std::fs::create_dir_all(&self.folder).with_context(name)?;
        temporary_in(&self.folder).with_context(name)?;
        // A killed run may have left half a file in the folders of candidates and of the report, too.
        [self.folder.clone(), self.folder.join("candidates"), self.folder.join("report")]
            .iter()
            .for_each(|folder| remove_leftovers(folder));
        Ok(())
    }

    /// Every micrograph that has an output in the folder now, whichever run made it. `finished` are the outputs that this run
    /// wrote. The micrographs are in the order in which they were given. If there are others from earlier runs, all are in the
    /// order of their names.
    ///
    /// Errors: the folder cannot be listed.
    pub fn covered(&self, finished: &HashSet<PathBuf>, failed: &HashSet<PathBuf>, settings: &Settings) -> Result<Vec<Covered>> {
        let stands = |own: &&Own| {
            let is_as_asked = |earlier: &Picked| earlier.refuse_to_skip(settings, own.pixel_size_angstrom, &self.folder).is_ok();
            let output = &own.covered.listed.coordinates;
            // An interrupted run has not come to all micrographs. Outputs that an earlier run made of the others still count if
            // they were made as this run would make them.
            let is_left = || !failed.contains(output) && output.exists() && own.earlier.as_ref().is_some_and(is_as_asked);
            !own.is_to_do || finished.contains(output) || is_left()
        };
        let mut covered: Vec<Covered> = self.own.iter().filter(stands).map(|own| own.covered.clone()).collect();
        let own: HashSet<&PathBuf> = self.own.iter().map(|own| &own.candidates).collect();
        let others = picked_into(&self.folder)?.into_iter().filter(|picked| !own.contains(&picked.candidates));
        let others: Vec<Picked> = others.filter(|picked| picked.output_type == self.output_type && picked.output.exists()).collect();
        if !others.is_empty() {
            covered.extend(others.into_iter().map(Covered::from));
            covered.sort_by(|a, b| (&a.listed.micrograph, &a.listed.coordinates).cmp(&(&b.listed.micrograph, &b.listed.coordinates)));
        }
        Ok(covered)
    }

    /// The job of every micrograph, and the path of its candidates, even if none are kept.
    fn jobs(&mut self, args: &PickArgs, asked: &Asked, micrographs: &[Found], relion: Option<&RelionJob>) -> Result<Vec<(Job, PathBuf)>> {
        let paths: HashSet<&PathBuf> = micrographs.iter().map(|found| &found.path).collect();
        let names = self.names(args, micrographs, relion)?;
        let mut jobs = Vec::with_capacity(micrographs.len());
        for (found, names) in micrographs.iter().zip(names) {
            let input = Input {
                path: found.path.clone(),
                name: found.name.clone(),
                sections: asked.read.sections,
                known: Evidence { given: args.angpix, list: found.pixel_size, ..Evidence::default() },
            };
            if args.visual && paths.contains(&names.picture) {
                anyhow::bail!("{}: --visual would replace this micrograph; give another --output", names.picture.display());
            }
            // A file that cannot be read fails when its turn comes.
            let count = if args.sections == "each" { read_info(&input.path, &asked.read).map_or(1, |info| info.sections) } else { 1 };
            let mut job = |input: Input, names: Names| {
                let entry = entry_of(&names.candidates, &self.folder);
                let mut outdated = Vec::new();
                let mut made = |path: PathBuf, is_made: bool| {
                    if !is_made {
                        outdated.push(path.clone());
                    }
                    is_made.then_some(path)
                };
                let candidates = made(names.candidates.clone(), !args.no_candidates);
                let entry = made(entry, args.report);
                let picture = args.visual.then_some(names.picture);
                let job = Job { input, output: names.output, candidates, picture, entry, outdated };
                jobs.push((job, names.candidates));
            };
            if count <= 1 {
                job(input, names);
                continue;
            }
            for section in 0..count {
                job(Input { sections: Sections::One(section), ..input.clone() }, names.of_section(section, count));
            }
        }
        Ok(jobs)
    }

    fn names(&mut self, args: &PickArgs, micrographs: &[Found], relion: Option<&RelionJob>) -> Result<Vec<Names>> {
        let paths: Vec<PathBuf> = micrographs.iter().map(|found| found.path.clone()).collect();
        let suffix = args.limits.suffix.as_deref().unwrap_or_default();
        let stem = |path: &Path| micrograph_stem(path).text;
        for path in paths.iter().filter(|path| !micrograph_stem(path).is_known) {
            self.warnings.push(format!("{}: its extension is none of an image; it is kept in the names of outputs", path.display()));
        }
        let kept = self.folder.join("candidates");
        if let Some(job) = relion {
            let names: Vec<String> = micrographs.iter().map(|found| found.name.clone()).collect();
            let names_of = |output: PathBuf| Names {
                candidates: kept.join(output.strip_prefix(&job.folder).unwrap_or(&output)),
                picture: output.with_extension("png"),
                output,
            };
            return Ok(job.outputs(&names)?.into_iter().map(names_of).collect());
        }
        let name_all = |folder: &Path, suffix: &str, extension: &str| {
            OutputNames { folder, suffix, extension, keep_dirs: args.keep_dirs }.outputs(&paths, stem)
        };
        let outputs = name_all(&self.folder, suffix, self.output_type.name())?;
        let (candidates, pictures) = (name_all(&kept, "", "star")?, name_all(&self.folder, suffix, "png")?);
        let names = outputs.into_iter().zip(candidates).zip(pictures);
        Ok(names.map(|((output, candidates), picture)| Names { output, candidates, picture }).collect())
    }
}

impl Names {
    /// The names of one section: they end in `_z01` and so on.
    fn of_section(&self, section: usize, count: usize) -> Names {
        let digits = count.to_string().len().max(2);
        let number = section + 1;
        let with_number = |path: &Path| {
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            path.with_file_name(format!("{stem}_z{number:0digits$}.{extension}"))
        };
        Names { output: with_number(&self.output), candidates: with_number(&self.candidates), picture: with_number(&self.picture) }
    }
}

/// Looks into the first header that can be read, so that a missing `--angpix` is told before the network runs. A file that
/// cannot be read fails alone when its turn comes, and says nothing about the others. Returns a warning if the pixel size may
/// be that of something else.
fn need_pixel_size(args: &PickArgs, asked: &Asked, jobs: &[(Job, PathBuf)]) -> Result<Option<String>> {
    let needed = match (asked.written_side, asked.rule.helix) {
        (WrittenSide::Asked { .. }, _) => "--diameter",
        (_, Helix::Segments(_)) => "--helix segments",
        _ if args.limits.in_angstrom() != InAngstrom::default() => "a distance in angstrom",
        _ => return Ok(None),
    };
    if args.angpix.is_some() {
        return Ok(None);
    }
    let first = jobs.iter().find_map(|(job, _)| Some((job, read_info(&job.input.path, &asked.read).ok()?)));
    let Some((job, info)) = first else { return Ok(None) };
    let size = Evidence { header: info.pixel_size_angstrom, ..job.input.known }.decide();
    ensure!(
        size.is_some(),
        "{}: pixel size unknown, which {needed} needs; expected one in the header; give it with --angpix",
        job.input.path.display()
    );
    let is_of_others = |size: &PixelSize| matches!(size.source, Source::Other(_));
    Ok(size.filter(is_of_others).and_then(|size| size.doubt()))
}

/// True if an output was written to its end. Our files appear under their name only when they are whole; the end mark shows it
/// for files of other programs, too.
fn is_complete(output: &Path, output_type: OutputType) -> bool {
    match output_type {
        OutputType::Thi => std::fs::read(output).is_ok_and(|bytes| bytes.trim_ascii_end().ends_with(b"[End]")),
        _ => output.is_file(),
    }
}
