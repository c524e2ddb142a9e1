//! What lies in an output folder: the work of one run, or of many that went on with it or ran side by side.
//!
//! Every micrograph has files of its own, and each appears whole under its name. So whoever looks into the folder sees
//! what is done, however many runs have written there: candidates say how a micrograph was picked, and the scale that was
//! sought is kept for all that follow. Source: docs/output.md.

use crate::formats::candidates::{Facts, key, read_facts};
use crate::formats::coordinates::Kind;
use crate::io::lists::{self, Listed};
use crate::io::write::temporary_in;
use crate::pick::output::OutputType;
use crate::pick::report::Part;
use crate::pick::seek_scale::Sought;
use crate::pick::seek_threshold;
use crate::pick::settings::{ModelName, Settings};
use crate::preprocess::geometry::Geometry;
use crate::preprocess::scale::Diameter;
use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A micrograph that was picked into a folder, as its candidates tell.
#[derive(Clone, Debug)]
pub struct Picked {
    /// Its candidates file.
    pub candidates: PathBuf,
    /// The micrograph as it was named.
    pub micrograph: PathBuf,
    /// Its output file, which may have been removed since.
    pub output: PathBuf,
    /// The type of its output file.
    pub output_type: OutputType,
    /// Its part of the page of `--report`, which may not be there.
    pub entry: PathBuf,
    /// The micrograph's file when it was read; none in the candidates of older versions.
    state: Option<FileState>,
    size: [usize; 2],
    pixel_size_angstrom: Option<f64>,
    frame: usize,
    diameter: Option<String>,
    model: ModelName,
    kind: Kind,
    average: usize,
    k: usize,
    vis_thresh: f32,
    edge: f64,
    min_distance: f64,
}

/// What tells whether a file is still the one that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Its length.
    pub bytes: u64,
    /// When it was last written: seconds since 1970, with all digits that the file system has.
    pub time: String,
}

impl FileState {
    /// The state of a file; none if it cannot be seen.
    pub fn of(path: &Path) -> Option<FileState> {
        let metadata = std::fs::metadata(path).ok()?;
        let time = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        Some(FileState { bytes: metadata.len(), time: format!("{}.{:09}", time.as_secs(), time.subsec_nanos()) })
    }
}

/// Everything that was picked into a folder, in the order of the candidates' paths. Candidates that cannot be read stand for
/// nothing: their micrograph counts as not picked.
///
/// Errors: a folder cannot be listed.
pub fn picked_into(folder: &Path) -> Result<Vec<Picked>> {
    let candidates = folder.join("candidates");
    if !candidates.is_dir() {
        return Ok(Vec::new());
    }
    let files = lists::files_below(&candidates, "star")?;
    let picked = |file: &PathBuf| {
        let facts = read_facts(BufReader::with_capacity(2048, std::fs::File::open(file).ok()?)).ok()?;
        Picked::of(&facts, file, folder).ok()
    };
    Ok(files.par_iter().filter_map(picked).collect())
}

/// The part of the page of `--report` that belongs to candidates of a folder.
pub fn entry_of(candidates: &Path, folder: &Path) -> PathBuf {
    beside(candidates, folder, &folder.join("report"), ".json")
}

/// A file of the candidates' name with another ending, below `base` as the candidates are below their own folder.
fn beside(candidates: &Path, folder: &Path, base: &Path, ending: &str) -> PathBuf {
    let below = candidates.strip_prefix(folder.join("candidates")).unwrap_or(candidates);
    // The candidates' own name may hold dots, so the ending is added to the text.
    let stem = below.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = stem.strip_suffix(".star").unwrap_or(&stem);
    base.join(below.parent().unwrap_or(Path::new(""))).join(format!("{stem}{ending}"))
}

impl Picked {
    fn of(facts: &Facts, file: &Path, folder: &Path) -> Result<Picked> {
        let text = |key: &str| facts.get(key).unwrap_or_default().to_string();
        let output_type: OutputType = facts.need(key::OUTPUT_TYPE)?;
        let suffix = text(key::SUFFIX);
        let time = facts.get(key::MICROGRAPH_TIME);
        let state =
            time.map(|time| Ok::<_, anyhow::Error>(FileState { bytes: facts.need(key::MICROGRAPH_BYTES)?, time: time.to_string() }));
        Ok(Picked {
            candidates: file.to_path_buf(),
            micrograph: facts.need(key::MICROGRAPH)?,
            output: beside(file, folder, folder, &format!("{suffix}.{}", output_type.name())),
            output_type,
            entry: entry_of(file, folder),
            state: state.transpose()?,
            size: [facts.need(key::SIZE_X)?, facts.need(key::SIZE_Y)?],
            pixel_size_angstrom: facts.get(key::PIXEL_SIZE).and_then(|text| text.parse().ok()),
            frame: facts.need(key::NET_SIZE_X)?,
            diameter: facts.get(key::DIAMETER).map(str::to_string),
            model: ModelName { name: text(key::MODEL_NAME), sha256: facts.need(key::MODEL_SHA256)? },
            kind: facts.need(key::MODE)?,
            average: facts.get(key::AVERAGE).map_or(Ok(1), |_| facts.need(key::AVERAGE))?,
            k: facts.need(key::K)?,
            vis_thresh: facts.need(key::VIS_THRESH)?,
            edge: facts.need(key::EDGE)?,
            min_distance: facts.need(key::MIN_DISTANCE)?,
        })
    }

    /// True if the micrograph's file is not the one that was picked: another length, or written since. Candidates of older
    /// versions do not say, so theirs counts as the same.
    pub fn has_changed(&self, micrograph: &Path) -> bool {
        let now = FileState::of(micrograph);
        self.state.as_ref().zip(now.as_ref()).is_some_and(|(then, now)| then != now)
    }

    /// What was looked for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The model's name.
    pub fn model_name(&self) -> &str {
        &self.model.name
    }

    /// The threshold of the picks.
    pub fn threshold(&self) -> f32 {
        self.vis_thresh
    }

    /// Refuses to join these picks with others that were made in another way.
    ///
    /// Errors: model, mode, views, limits or the type of the output differ.
    pub fn refuse_another_way(&self, other: &Picked) -> Result<()> {
        let of = |picked: &Picked| -> [String; 7] {
            let model = format!("model {} ({:.12})", picked.model.name, picked.model.sha256);
            let output = format!("--output_type {}", picked.output_type.name());
            let (threshold, k) = (format!("--vis_thresh {}", picked.vis_thresh), format!("--K {}", picked.k));
            let (average, edge) = (format!("--average {}", picked.average), format!("--edge {}", picked.edge));
            [model, format!("mode {}", picked.kind), output, threshold, k, average, edge]
        };
        let (own, others) = (of(self), of(other));
        if let Some((own, others)) = own.iter().zip(&others).find(|(own, others)| own != others) {
            bail!(
                "{} was picked with {own}, and {} with {others}; expected one way in a folder; pick again, or write all anew with                  epicker rethreshold",
                self.micrograph.display(),
                other.micrograph.display()
            );
        }
        Ok(())
    }

    /// Refuses to leave these picks beside those of a run with such settings, because one folder has one scale.
    ///
    /// Errors: the run would show this micrograph to the network at another scale.
    pub fn refuse_other_scale(&self, settings: &Settings, pixel_size_angstrom: Option<f64>) -> Result<()> {
        let pixel_size = pixel_size_angstrom.or(self.pixel_size_angstrom);
        // Without a pixel size the micrograph itself would fail, so there is nothing to compare.
        let Ok(frame) = settings.scale.frame(self.size, pixel_size) else { return Ok(()) };
        if frame == self.frame {
            return Ok(());
        }
        let (then, give) = match &self.diameter {
            Some(diameter) => (format!("a diameter of {diameter} (frame {})", self.frame), format!("--diameter {}", number_of(diameter))),
            None => (format!("a frame of {}", self.frame), format!("--frame {}", self.frame)),
        };
        let now =
            settings.scale.diameter().map_or(format!("a frame of {frame}"), |diameter| format!("a diameter of {diameter} (frame {frame})"));
        bail!(
            "{}: was picked for {then} and would lie beside picks for {now}; expected one scale in a folder; give {give} as before, or \
             another --output",
            self.micrograph.display()
        )
    }

    /// Refuses to leave these picks as they are among those of a run with such settings.
    ///
    /// Errors: the run has another model, mode, scale or threshold.
    pub fn refuse_to_skip(&self, settings: &Settings, pixel_size_angstrom: Option<f64>, folder: &Path) -> Result<()> {
        let name = self.micrograph.display();
        let again = "or give another --output, or leave --skip-done out, so that all are picked again";
        ensure!(
            self.model.sha256 == settings.model.sha256,
            "{name}: was picked with the model {} ({:.12}), which is not that of this run, {} ({:.12}); expected one model in a folder; \
             give the earlier one, {again}",
            self.model.name,
            self.model.sha256,
            settings.model.name,
            settings.model.sha256
        );
        let kind = settings.rule.kind;
        ensure!(
            self.kind == kind,
            "{name}: was picked with --mode {}, not {kind}; expected one mode in a folder; {}",
            self.kind,
            &again[3..]
        );
        ensure!(
            self.average == settings.views.count(),
            "{name}: was picked with --average {}, not {}; expected the same for all in a folder; {}",
            self.average,
            settings.views.count(),
            &again[3..]
        );
        self.refuse_other_scale(settings, pixel_size_angstrom)?;
        let limits =
            settings.limits_of(&Geometry::new(self.size[0], self.size[1], self.frame), pixel_size_angstrom.or(self.pixel_size_angstrom))?;
        let differ =
            |option: &str, then: String, now: String| (then != now).then(|| (format!("--{option} {then}"), format!("--{option} {now}")));
        let other = [
            differ("vis_thresh", self.vis_thresh.to_string(), limits.vis_thresh.to_string()),
            differ("K", self.k.to_string(), limits.k.to_string()),
            differ("edge", self.edge.to_string(), limits.edge.to_string()),
            differ("min_distance", self.min_distance.to_string(), limits.min_distance.to_string()),
        ];
        let (then, now): (Vec<String>, Vec<String>) = other.into_iter().flatten().unzip();
        ensure!(
            then.is_empty(),
            "{name}: was picked with {}, not {}; expected the same for all in a folder; go on with {0}, and then write all anew with \
             epicker rethreshold --data {} {}",
            then.join(" "),
            now.join(" "),
            crate::pick::report::shell_word(&folder.display().to_string()),
            now.join(" ")
        );
        Ok(())
    }
}

fn number_of(diameter: &str) -> &str {
    diameter.split(' ').next().unwrap_or(diameter)
}

/// The file that keeps the scale of a folder.
const SCALE_FILE: &str = "scale.json";

/// The scale that a folder keeps, once a run had to seek it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeptScale {
    /// The diameter that was found; none if nothing was seen at any, so that the original's frame serves.
    pub diameter: Option<Diameter>,
}

impl KeptScale {
    /// What a folder keeps; none if no run has sought a scale for it.
    ///
    /// Errors: the file cannot be read, or holds something else.
    pub fn read(folder: &Path) -> Result<Option<KeptScale>> {
        let path = folder.join(SCALE_FILE);
        let Some(text) = kept(&path)? else { return Ok(None) };
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let number = |key: &str| value[key].as_f64().filter(|number| number.is_finite() && *number > 0.0);
        let diameter = number("diameter_angstrom").map(Diameter::Angstrom).or(number("diameter_px").map(Diameter::Pixels));
        let is_nothing = value["nothing_seen"] == json!(true);
        ensure!(
            diameter.is_some() || is_nothing,
            "{}: holds no diameter_angstrom and no diameter_px; expected what a search for the scale left there; remove it, or give --diameter",
            path.display()
        );
        Ok(Some(KeptScale { diameter }))
    }

    /// Keeps what was found for all later runs into the folder, unless another run has kept its own meanwhile. What the folder
    /// keeps then is returned, so that runs that began at the same time agree: the first to end its search decides.
    ///
    /// Errors: the file cannot be written.
    pub fn keep(folder: &Path, sought: Option<&Sought>) -> Result<KeptScale> {
        let path = folder.join(SCALE_FILE);
        keep_first(folder, &path, &kept_text(sought))?;
        KeptScale::read(folder)?.with_context(|| was_removed(&path))
    }
}

/// The text of a file that a folder keeps; none if it is not there.
fn kept(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{}: cannot be read", path.display())),
    }
}

/// Writes a file that a folder keeps, unless it is there already.
fn keep_first(folder: &Path, path: &Path, value: &Value) -> Result<()> {
    let name = || format!("{}: cannot be written; check the folder's rights and the free space", path.display());
    let mut file = temporary_in(folder).with_context(name)?;
    file.write_all(format!("{value:#}\n").as_bytes()).and_then(|()| file.as_file().sync_all()).with_context(name)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error).with_context(name),
    }
}

fn was_removed(path: &Path) -> String {
    format!("{}: was removed while this run was reading it; start it again", path.display())
}

/// The file that keeps the threshold of a folder.
const THRESHOLD_FILE: &str = "threshold.json";

/// The threshold that a folder keeps, once a run had to seek it. It belongs to one model, so another model seeks its own.
#[derive(Clone, Copy, Debug)]
pub struct KeptThreshold<'a> {
    /// The output folder.
    pub folder: &'a Path,
    /// The model's fingerprint.
    pub model_sha256: &'a str,
    /// How many views are averaged.
    pub views: usize,
    /// The share of noise that is allowed.
    pub share: f64,
}

impl KeptThreshold<'_> {
    fn path(&self) -> PathBuf {
        self.folder.join(THRESHOLD_FILE)
    }

    /// What the folder keeps for this model; none if no run has sought a threshold for it.
    ///
    /// Errors: the file cannot be read.
    pub fn read(&self) -> Result<Option<f32>> {
        let Some(text) = kept(&self.path())? else { return Ok(None) };
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let is_ours = value["model_sha256"] == json!(self.model_sha256)
            && value["average"] == json!(self.views)
            && value["noise_share"] == json!(self.share);
        let threshold = value["threshold"].as_f64().filter(|threshold| (0.0..=1.0).contains(threshold));
        Ok(threshold.filter(|_| is_ours).map(|threshold| threshold as f32))
    }

    /// Keeps what was found for all later runs into the folder, unless another run has kept its own meanwhile. What the folder keeps
    /// then is returned.
    ///
    /// Errors: the file cannot be written.
    pub fn keep(&self, sought: &seek_threshold::Sought) -> Result<f32> {
        let path = self.path();
        if self.read()?.is_none() {
            // What another model left there is of no use any more.
            let _ = std::fs::remove_file(&path);
        }
        let about = "The threshold that epicker pick sought for this folder. Later runs into it with the same model take the same; remove \
                     the file to have it sought again.";
        let seek_threshold::Sought { threshold, picks, of_noise, samples } = sought;
        let value = json!({
            "about": about,
            "threshold": (f64::from(*threshold) * 1e3).round() / 1e3,
            "noise_share": self.share,
            "model_sha256": self.model_sha256,
            "average": self.views,
            "samples": samples,
            "picks": picks,
            "picks_of_noise": of_noise,
        });
        keep_first(self.folder, &path, &value)?;
        self.read()?.with_context(|| was_removed(&path))
    }
}

fn kept_text(sought: Option<&Sought>) -> Value {
    let about =
        "The scale that epicker pick sought for this folder. Later runs into it take the same; remove the file to have it sought again.";
    let Some(sought) = sought else {
        return json!({ "about": about, "nothing_seen": true });
    };
    let tried: Vec<Value> = sought.tried.iter().map(|(diameter, score)| json!([diameter, score])).collect();
    match sought.diameter {
        Diameter::Angstrom(diameter) => json!({ "about": about, "diameter_angstrom": diameter, "samples": sought.samples, "tried": tried }),
        Diameter::Pixels(diameter) => json!({ "about": about, "diameter_px": diameter, "samples": sought.samples, "tried": tried }),
    }
}

/// A micrograph that has an output in a folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Covered {
    /// Its name, and its output.
    pub listed: Listed,
    /// Its part of the page of `--report`, which may not be there.
    pub entry: PathBuf,
}

impl Covered {
    /// Its part of the page of `--report`.
    ///
    /// Errors: the file cannot be read, or holds something else.
    pub fn part(&self) -> Result<Part> {
        let text = std::fs::read_to_string(&self.entry).context("cannot be read");
        text.and_then(Part::parse).with_context(|| self.entry.display().to_string())
    }
}

impl From<Picked> for Covered {
    fn from(picked: Picked) -> Self {
        Covered { listed: Listed { micrograph: picked.micrograph, coordinates: picked.output }, entry: picked.entry }
    }
}

/// Rounds in which what covers a folder is written again because the folder changed meanwhile.
const MOST_ROUNDS: usize = 4;

/// Writes what covers a whole folder, and looks again afterwards: another run may have ended meanwhile and have written the
/// same files without what this one did, so that the last look has to find what was written.
///
/// Errors: as `look` and `write`.
pub fn write_covering(look: impl Fn() -> Result<Vec<Covered>>, mut write: impl FnMut(&[Covered]) -> Result<()>) -> Result<()> {
    let mut covered = look()?;
    for _ in 0..MOST_ROUNDS {
        write(&covered)?;
        let now = look()?;
        if now == covered {
            break;
        }
        covered = now;
    }
    Ok(())
}
