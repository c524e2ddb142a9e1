//! Picks: what a model found on the micrographs, down to a low score, as the candidates of an output folder tell.
//!
//! Raising the threshold only drops picks, because the better of two that are too near each other stays whatever the threshold is. So a
//! micrograph is filtered once, at the lowest score that was kept, and every threshold follows from that by counting.

use crate::formats::candidates::{self, Wanted, key};
use crate::formats::coordinates::Kind;
use crate::formats::regular;
use crate::io::lists::Listed;
use crate::pick::decode::side_n_to_m;
use crate::pick::filter::Limits;
use crate::pick::folder::picked_into;
use crate::pick::output::{OutputRule, OutputType, Pick, Traced, Tracer, trace};
use crate::pick::run::picks_of;
use crate::pick::settings::Sides;
use crate::preprocess::geometry::Geometry;
use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bins of the histograms of scores.
pub const BINS: usize = 100;
/// Micrographs whose candidates are read before anybody is told.
const TOGETHER: usize = 32;

/// Everything that a model found on one micrograph.
#[derive(Clone, Debug)]
pub struct Found {
    /// Picks, best first, down to the lowest score that was kept.
    pub picks: Vec<Pick>,
    /// How fibers are traced.
    rule: OutputRule,
    /// Columns of the micrograph.
    nx: usize,
    /// The threshold of the run.
    pub threshold: f32,
    /// The model's name.
    pub model: String,
}

impl Found {
    /// Reads a candidates file.
    ///
    /// Errors: it cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Found> {
        Found::of(&regular::read(path)?).with_context(|| path.display().to_string())
    }

    fn of(bytes: &[u8]) -> Result<Found> {
        let (facts, rows) = candidates::read(bytes, Wanted { rows: usize::MAX, above: 0.0 })?;
        let kind: Kind = facts.need(key::MODE)?;
        let limits = Limits {
            k: facts.need(key::K)?,
            vis_thresh: facts.need(key::FLOOR)?,
            edge: facts.need(key::EDGE)?,
            min_distance: facts.need(key::MIN_DISTANCE)?,
        };
        let size: [usize; 2] = [facts.need(key::SIZE_X)?, facts.need(key::SIZE_Y)?];
        let geometry = Geometry::new(size[0], size[1], facts.need(key::NET_SIZE_X)?);
        ensure!(size.iter().all(|side| *side > 0) && geometry.frame > 0, "a micrograph without pixels; pick again");
        let test_m_px = side_n_to_m(facts.need(key::BOX_NET)?, &geometry);
        let written_m_px = facts.get(key::BOX_WRITTEN).and_then(|text| text.parse().ok()).unwrap_or(test_m_px);
        let compat = facts.get(key::COMPAT).unwrap_or_default().parse().map_err(anyhow::Error::msg)?;
        let tracer = facts.get(key::TRACER).unwrap_or(Tracer::Legacy.name()).parse().map_err(anyhow::Error::msg)?;
        let ang_thresh_rad = facts.get(key::ANG_THRESH).and_then(|text| text.parse().ok()).unwrap_or(0.3);
        let picks = picks_of(&rows, &limits, size, Sides { test_m_px, written_m_px }, &compat);
        let (output_type, helix) = (OutputType::Thi, Default::default());
        let rule = OutputRule { kind, output_type, subpixel: true, ang_thresh_rad, tracer, helix, compat };
        let (threshold, model) = (facts.need(key::VIS_THRESH)?, facts.get(key::MODEL_NAME).unwrap_or_default().to_owned());
        Ok(Found { picks, rule, nx: size[0], threshold, model })
    }

    /// Picks at a threshold or above.
    pub fn above(&self, threshold: f32) -> &[Pick] {
        &self.picks[..self.picks.partition_point(|pick| pick.score > threshold)]
    }

    /// What a threshold leaves, traced; without what lies where `counts` says no.
    pub fn traced(&self, threshold: f32, counts: impl Fn([f64; 2]) -> bool) -> Traced {
        let picks: Vec<Pick> = self.above(threshold).iter().filter(|pick| counts(pick.centre)).copied().collect();
        trace(&picks, &self.rule, self.nx)
    }

    /// Fibers at a threshold, as paths.
    fn paths(&self, threshold: f32) -> Vec<Vec<[f64; 2]>> {
        if self.rule.kind != Kind::Fiber {
            return Vec::new();
        }
        let traced = self.traced(threshold, |_| true);
        let mut paths: Vec<Vec<[f64; 2]>> = vec![Vec::new(); traced.fibers];
        for point in &traced.coordinates.points {
            if let Some(path) = point.group.and_then(|group| paths.get_mut(group as usize - 1)) {
                path.push([point.x, point.y]);
            }
        }
        paths
    }

    /// What a window is told.
    pub fn to_json(&self, threshold: f32, revision: u64) -> Value {
        let row = |pick: &Pick| {
            let tenth = |value: f64| (value * 10.0).round() / 10.0;
            let radius = (pick.size[0] + pick.size[1]) / 4.0;
            json!([tenth(pick.centre[0]), tenth(pick.centre[1]), tenth(radius), rounded(pick.score)])
        };
        let picks: Vec<Value> = self.picks.iter().map(row).collect();
        json!({ "rev": revision, "picks": picks, "paths": self.paths(threshold), "threshold": rounded(threshold) })
    }

    fn histogram(&self) -> [u32; BINS] {
        let mut bins = [0; BINS];
        for pick in &self.picks {
            bins[((pick.score * BINS as f32) as usize).min(BINS - 1)] += 1;
        }
        bins
    }
}

/// The output folder that is looked at, and what is known of it.
#[derive(Debug, Default)]
struct Looked {
    folder: Option<PathBuf>,
    revision: u64,
    /// Candidates of each micrograph that was picked.
    files: HashMap<usize, PathBuf>,
    histograms: HashMap<usize, [u32; BINS]>,
    threshold: Option<f32>,
    of_run: Option<f32>,
}

/// The picks of all micrographs.
#[derive(Debug)]
pub struct Picks {
    /// Index of each micrograph, by its path and by its name without extension.
    by_path: HashMap<PathBuf, usize>,
    by_name: HashMap<String, usize>,
    looked: Mutex<Looked>,
}

impl Picks {
    /// No picks yet. `paths` and `names` are those of the micrographs.
    pub fn new(paths: &[PathBuf], names: &[String]) -> Picks {
        let by_path = paths.iter().enumerate().map(|(i, path)| (whole(path), i)).collect();
        let by_name = names.iter().enumerate().map(|(i, name)| (name.clone(), i)).collect();
        Picks { by_path, by_name, looked: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder that is looked at.
    pub fn folder(&self) -> Option<PathBuf> {
        self.lock().folder.clone()
    }

    /// Grows whenever there is something new.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// The present threshold: the one that was chosen, else that of the run.
    pub fn threshold(&self) -> Option<f32> {
        let looked = self.lock();
        looked.threshold.or(looked.of_run)
    }

    /// Chooses a threshold. Returns the number of picks above it, as far as they are known.
    pub fn choose(&self, threshold: f32) -> u64 {
        let mut looked = self.lock();
        looked.threshold = Some(threshold);
        looked.histograms.values().map(|bins| above(bins, threshold)).sum()
    }

    /// Looks at another folder, or again at the same one because more was picked into it, and reads all of its candidates in the
    /// background.
    ///
    /// Errors: the folder cannot be listed.
    pub fn look_at(self: &Arc<Self>, folder: &Path) -> Result<()> {
        let picked = picked_into(folder)?;
        let mut files = HashMap::new();
        for one in &picked {
            let by_name = || self.by_name.get(one.candidates.file_stem()?.to_str()?);
            if let Some(&i) = self.by_path.get(&whole(&one.micrograph)).or_else(by_name) {
                files.insert(i, one.candidates.clone());
            }
        }
        let mut looked = self.lock();
        if looked.folder.as_deref() != Some(folder) {
            (looked.threshold, looked.folder) = (None, Some(folder.to_owned()));
            looked.histograms.clear();
        }
        looked.of_run = picked.first().map(|one| one.threshold());
        looked.files = files;
        looked.revision += 1;
        let revision = looked.revision;
        drop(looked);
        let own = Arc::clone(self);
        std::thread::spawn(move || own.read_all(revision));
        Ok(())
    }

    fn read_all(&self, revision: u64) {
        let mut files: Vec<(usize, PathBuf)> = {
            let looked = self.lock();
            looked.files.iter().filter(|(i, _)| !looked.histograms.contains_key(i)).map(|(i, path)| (*i, path.clone())).collect()
        };
        files.sort();
        for files in files.chunks(TOGETHER) {
            let read = |(i, path): &(usize, PathBuf)| Some((*i, Found::read(path).ok()?.histogram()));
            let histograms: Vec<_> = files.par_iter().filter_map(read).collect();
            let mut looked = self.lock();
            if looked.revision != revision {
                return; // somebody looks at another folder by now
            }
            looked.histograms.extend(histograms);
        }
    }

    /// What was found on a micrograph; none while it is not picked.
    ///
    /// Errors: the candidates cannot be read.
    pub fn of(&self, i: usize) -> Result<Option<Found>> {
        let path = self.lock().files.get(&i).cloned();
        path.map(|path| Found::read(&path)).transpose()
    }

    /// The micrographs that are picked.
    pub fn picked(&self) -> Vec<usize> {
        let mut all: Vec<usize> = self.lock().files.keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// Number of picks on each micrograph at the present threshold; none where that is not known.
    pub fn counts(&self, micrographs: usize) -> Vec<Option<u64>> {
        let looked = self.lock();
        let threshold = looked.threshold.or(looked.of_run).unwrap_or(0.0);
        (0..micrographs).map(|i| looked.histograms.get(&i).map(|bins| above(bins, threshold))).collect()
    }

    /// All that was picked but some micrographs, as lists name it.
    ///
    /// Errors: there is no folder, or it cannot be listed.
    pub fn listed_but(&self, some: &BTreeSet<usize>) -> Result<(Vec<Listed>, bool)> {
        let folder = self.folder().context("nothing is picked yet")?;
        let left_out: Vec<PathBuf> = self.lock().files.iter().filter(|(i, _)| some.contains(i)).map(|(_, path)| path.clone()).collect();
        let picked = picked_into(&folder)?;
        let is_star = picked.iter().any(|one| one.output_type == OutputType::Star);
        let listed = picked.into_iter().filter(|one| !left_out.contains(&one.candidates));
        Ok((listed.map(|one| Listed { micrograph: one.micrograph, coordinates: one.output }).collect(), is_star))
    }

    /// The histograms of scores of all micrographs.
    pub fn scores(&self) -> Value {
        let looked = self.lock();
        let mut rows: Vec<(&usize, &[u32; BINS])> = looked.histograms.iter().collect();
        rows.sort();
        let rows: Vec<Value> = rows.into_iter().map(|(i, bins)| json!([i, bins[..]])).collect();
        json!({
            "loaded": rows.len(),
            "all": looked.files.len(),
            "bins": BINS,
            "auto": looked.of_run.map(rounded),
            "threshold": looked.threshold.or(looked.of_run).map(rounded),
            "rows": rows,
        })
    }
}

/// The number of picks above a threshold.
fn above(bins: &[u32; BINS], threshold: f32) -> u64 {
    let first = (threshold * BINS as f32).ceil() as usize;
    bins.iter().skip(first).map(|count| u64::from(*count)).sum()
}

/// A score as it is told: an f32 has more digits than it means.
pub fn rounded(score: f32) -> f64 {
    (f64::from(score) * 1e4).round() / 1e4
}

/// A path that does not depend on where the program was started.
fn whole(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
