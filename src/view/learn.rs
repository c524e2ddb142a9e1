//! Learning from what has been labelled so far.
//!
//! A fifth of the labels is held back. The rest trains the model that the workbench began with (`epicker train`: the sparse loss where
//! micrographs are not finished, areas that are left out, and places where nothing is, as the marks say). Twenty labels can spoil what
//! a general model knows, so a mixture is tried, too, whose weights are moved only a quarter of the way to what was learnt: it keeps what
//! was known, and has half of what is new (docs/workbench.md has the numbers). The labels that were held back say which of the three
//! picks: the model to begin with, the mixture, or what was learnt.
//! Source of the mixture: Wortsman et al. 2022, arXiv:2109.01903.

use super::Workbench;
use super::hands::{Phase, Picker, pick_into};
use super::picks::{Found, rounded};
use super::run::Running;
use super::sheets::coordinates_of_shapes;
use crate::eval::fiber::{self, Lengths};
use crate::formats::coordinates::{Coordinates, Kind};
use crate::formats::marks::{Item, Marks, Shape};
use crate::formats::safetensors_file;
use crate::formats::star::write as star;
use crate::formats::state_dict::{StateDict, Values};
use crate::io::model_source::ModelSource;
use crate::io::write::write_whole;
use crate::pick::output::Pick;
use crate::random::Random;
use crate::words::counted;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The fewest labels to learn from. A fiber is many points of one.
pub fn least_labels(kind: Kind) -> usize {
    if kind == Kind::Fiber { 3 } else { 10 }
}

/// The share of the labels that judge.
const HELD_BACK: f64 = 0.2;
/// Steps of a training, where nobody says how many. docs/workbench.md has what was tried.
pub const USUAL_STEPS: usize = 60;
/// How far the mixture's weights are moved to what was learnt.
const MIXTURE: f64 = 0.25;
/// Micrographs that are picked with a new model at once, besides those with labels.
const MOST_PICKED: usize = 24;

/// The three that are judged, in the order of [`choose`].
const CANDIDATES: [&str; 3] = ["the model to begin with", "the mixture", "what was learnt"];

/// What lies in the folder of a learnt model.
const MODEL_FILE: &str = "model.safetensors";
/// What a training leaves in its folder.
const LEARNT_FILE: &str = "run/model_last.safetensors";
const ABOUT_FILE: &str = "about.json";

fn folder_of(workbench: &Path, name: &str) -> PathBuf {
    workbench.join("models").join(name)
}

/// True if a model of this name has been learnt.
pub fn is_there(workbench: &Path, name: &str) -> bool {
    !name.contains(['/', '\\', '.']) && folder_of(workbench, name).join(MODEL_FILE).is_file()
}

/// What is known of a learnt model.
fn about(workbench: &Path, name: &str) -> Option<Value> {
    let text = std::fs::read_to_string(folder_of(workbench, name).join(ABOUT_FILE)).ok()?;
    is_there(workbench, name).then(|| serde_json::from_str(&text).ok())?
}

/// A learnt model, with the threshold that fits the labels it has learnt from.
pub fn picker(workbench: &Path, name: &str) -> Picker {
    let threshold = about(workbench, name).and_then(|about| about["threshold"].as_f64());
    let model = folder_of(workbench, name).join(MODEL_FILE).display().to_string();
    Picker { model, threshold: threshold.map(|threshold| threshold as f32) }
}

/// All models that have been learnt, the first one first, with what is known of each.
pub fn history(workbench: &Path) -> Vec<Value> {
    (1..next_number(workbench)).filter_map(|number| about(workbench, &format!("learnt-{number}"))).collect()
}

fn next_number(workbench: &Path) -> usize {
    (1..).find(|number| !folder_of(workbench, &format!("learnt-{number}")).exists()).unwrap_or(usize::MAX)
}

/// Marks that judge, of one micrograph.
#[derive(Clone, Debug, Default)]
struct HeldBack {
    micrograph: usize,
    labels: Vec<Shape>,
    nothing: Vec<[f64; 2]>,
}

/// Deals out the labels: what trains, and what judges, of which there is at least one. A label that is held back becomes an area that does
/// not count, or it would teach that nothing is there.
fn deal(sheets: &[(usize, Marks)], radius_px: impl Fn(usize) -> f64, seed: u64) -> (Vec<(usize, Marks)>, Vec<HeldBack>) {
    let mut random = Random::new(seed, &[0x6465_616c]);
    let items = || sheets.iter().flat_map(|(_, marks)| &marks.items);
    let mut is_held: Vec<bool> =
        items().map(|item| (item.shape.is_label() || matches!(item.shape, Shape::Nothing(_))) && random.chance(HELD_BACK)).collect();
    let labels: Vec<usize> = items().enumerate().filter(|(_, item)| item.shape.is_label()).map(|(i, _)| i).collect();
    if !labels.is_empty() && !labels.iter().any(|&i| is_held[i]) {
        is_held[labels[random.below(labels.len())]] = true;
    }
    let mut is_held = is_held.into_iter();
    let (mut training, mut judging) = (Vec::new(), Vec::new());
    for (i, marks) in sheets {
        let mut held = HeldBack { micrograph: *i, ..HeldBack::default() };
        let mut kept = Marks { items: Vec::new(), ..marks.clone() };
        for item in &marks.items {
            if is_held.next() != Some(true) {
                kept.items.push(item.clone());
                continue;
            }
            let area = match &item.shape {
                Shape::Particle(at) | Shape::Nothing(at) => Shape::Brush(radius_px(*i), vec![*at]),
                Shape::Vesicle(at, radius) => Shape::Brush(*radius, vec![*at]),
                Shape::Fiber(path) => Shape::Brush(radius_px(*i), path.clone()),
                other => other.clone(),
            };
            kept.items.push(Item { id: item.id.clone(), shape: area });
            match &item.shape {
                Shape::Nothing(at) => held.nothing.push(*at),
                label => held.labels.push(label.clone()),
            }
        }
        training.push((*i, kept));
        judging.push(held);
    }
    (training, judging)
}

/// What a model is worth by the marks that were held back.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Worth {
    /// Labels that were found; of fibers, pieces.
    found: usize,
    /// Labels, or pieces, that were held back.
    labels: usize,
    /// Picks where nothing is.
    wrong: usize,
    /// Places where nothing is.
    nothing: usize,
}

/// Widths of a fiber in a piece of it. A few fibers say little as wholes, and neighbouring places of one say the same.
const WIDTHS_OF_PIECE: f64 = 10.0;

/// Judges picks by what was held back: those above a threshold, of each micrograph. A fiber counts by its length, in pieces.
fn judge(held: &[HeldBack], picks_of: impl Fn(usize) -> Coordinates, radius_px: impl Fn(usize) -> f64) -> Worth {
    let mut worth = Worth::default();
    for one in held {
        let picks = picks_of(one.micrograph);
        let radius = radius_px(one.micrograph);
        let near = |[x, y]: [f64; 2], reach: f64| picks.points.iter().any(|pick| (pick.x - x).hypot(pick.y - y) <= reach);
        for shape in &one.labels {
            let [found, of] = match shape {
                Shape::Vesicle(at, radius) => [usize::from(near(*at, radius / 2.0)), 1],
                Shape::Fiber(_) => {
                    let lengths = lengths([shape], &picks, radius);
                    let pieces = (lengths.labelled / (2.0 * radius * WIDTHS_OF_PIECE)).round().max(1.0);
                    [lengths.recall() * pieces, pieces].map(|pieces| pieces.round() as usize)
                }
                Shape::Particle(at) => [usize::from(near(*at, radius / 2.0)), 1],
                _ => [0, 0],
            };
            worth.found += found;
            worth.labels += of;
        }
        worth.wrong += one.nothing.iter().filter(|at| near(**at, radius / 2.0)).count();
        worth.nothing += one.nothing.len();
    }
    worth
}

/// How much of fibers that were drawn was picked, by length. A path that is drawn by hand lies up to half a width beside its fiber, so
/// that a whole width away still counts.
fn lengths<'a>(drawn: impl IntoIterator<Item = &'a Shape>, picks: &Coordinates, radius_px: f64) -> Lengths {
    let labels = coordinates_of_shapes(drawn, Kind::Fiber);
    fiber::compare(&labels, picks, 2.0 * radius_px).unwrap_or_default()
}

/// The 95 % interval of a share of which `found` of `of` were seen. Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
fn wilson(found: usize, of: usize) -> [f64; 2] {
    if of == 0 {
        return [0.0, 1.0];
    }
    const Z: f64 = 1.96;
    let (n, p) = (of as f64, found as f64 / of as f64);
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [(middle - half).max(0.0), (middle + half).min(1.0)]
}

/// Learns from all labels, picks with the new model, and takes it if it is better.
///
/// Errors: too few labels, or a command fails.
pub fn learn(workbench: &Workbench, running: &Running) -> Result<()> {
    let (fixed, hands) = (&workbench.fixed, &workbench.hands);
    let sheets = workbench.sheets.each(|sheet| sheet.marks.clone());
    let is_of_use = |(_, marks): &(usize, Marks)| !marks.excluded && (marks.finished || !marks.items.is_empty());
    let sheets: Vec<(usize, Marks)> = sheets.into_iter().enumerate().filter(is_of_use).collect();
    let labels: usize = sheets.iter().map(|(_, marks)| marks.labels().count()).sum();
    let least = least_labels(fixed.kind);
    ensure!(labels >= least, "{labels} labels; expected at least {least}; add some");
    ensure!(
        fixed.kind != Kind::Particle || workbench.session().size.is_some(),
        "nobody has said how large the particles are; enter the diameter"
    );
    let number = next_number(&fixed.folder);
    let name = format!("learnt-{number}");
    let folder = folder_of(&fixed.folder, &name);
    let radius = |i: usize| workbench.diameter_px(i) / 2.0;
    let (training, judging) = deal(&sheets, radius, number as u64);
    let held: usize = judging.iter().map(|one| one.labels.len()).sum();
    hands.tell(Phase::Preparing, 0.5, &format!("{labels} labels, {held} of them held back"));
    let of_training = folder.join("labels");
    for (i, marks) in &training {
        workbench.sheets.write(&of_training, *i, marks)?;
    }
    let rows = training.iter().map(|(i, _)| star::quoted(&fixed.path(*i).display().to_string()));
    let list = folder.join("micrographs.star");
    write_whole(&list, star::table("micrographs", &["rlnMicrographName"], rows).as_bytes())?;

    train(workbench, (&folder, &list, &of_training), running)?;
    let learnt = folder.join(LEARNT_FILE);
    let mixture = folder.join("mixture.safetensors");
    write_whole(&mixture, &safetensors_file::write(&mixed(&fixed.model, &learnt)?)?)?;

    // All three pick the same micrographs, so that they are judged alike.
    let labelled: Vec<usize> = sheets.iter().map(|(i, _)| *i).collect();
    let picks = fixed.folder.join("picks");
    let size = workbench.session().size.map(|size| size.for_a_name()).unwrap_or_default();
    let after = picks.join(format!("{name}{size}"));
    let folders = [picks.join(format!("general{size}")), folder.join("picks-mixture"), folder.join("picks-learnt")];
    let models = [fixed.model.clone(), mixture.display().to_string(), learnt.display().to_string()];
    for (k, (into, model)) in folders.iter().zip(&models).enumerate() {
        let hear = |share: f64| hands.tell(Phase::Picking, (k as f64 + share) * 0.15, "picking what is labelled, to judge");
        let picker = Picker { model: model.clone(), threshold: None };
        pick_into(workbench, (into, &picker), &labelled, running, hear)?;
    }
    let fitting = folders.each_ref().map(|folder| threshold_of(workbench, folder, &sheets));
    let worths = compare(workbench, &folders, &judging, fitting[1]);
    let chosen = choose(worths);
    let text = verdict(fixed.kind, worths[chosen], worths[0], chosen);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let threshold = fitting[chosen].map(rounded);
    let about =
        json!({ "name": name, "when": seconds, "labels": labels, "text": text, "threshold": threshold, "chosen": CANDIDATES[chosen] });
    let [low, high] = wilson(worths[chosen].found, worths[chosen].labels);
    hands.judge(json!({
        "text": text, "found": worths[chosen].found, "of": worths[chosen].labels, "low": low, "high": high, "before": worths[0].found
    }));
    // What was learnt is kept even if it does not pick, for whoever wants to look.
    let kept = if chosen == 1 { &mixture } else { &learnt };
    std::fs::copy(kept, folder.join(MODEL_FILE)).with_context(|| format!("{}: cannot be written", folder.join(MODEL_FILE).display()))?;
    write_whole(&folder.join(ABOUT_FILE), format!("{about:#}\n").as_bytes())?;
    if chosen == 0 {
        hands.tell(Phase::Done, 1.0, &text);
        return Ok(());
    }
    let shown = shown_first(workbench, &labelled);
    let hear = |share: f64| hands.tell(Phase::Picking, 0.45 + 0.55 * share, "picking with the new model");
    pick_into(workbench, (&after, &picker(&fixed.folder, &name)), &shown, running, hear)?;
    workbench.change(|session| (session.model, session.threshold) = (Some(name.clone()), None))?;
    workbench.look_at(&after)?;
    hands.tell(Phase::Done, 1.0, &text);
    Ok(())
}

/// The mixture of the model to begin with and what was learnt from it.
///
/// Errors: one of them cannot be read, or they are not alike.
fn mixed(general: &str, learnt: &Path) -> Result<StateDict> {
    let general = ModelSource::from(OsString::from(general)).checkpoint(false)?.state;
    let mut mixed = ModelSource::file(learnt).checkpoint(false)?.state;
    for tensor in &mut mixed.tensors {
        if matches!(tensor.values, Values::I64(_)) {
            continue; // counters
        }
        let from = general.get(&tensor.name).filter(|from| from.shape == tensor.shape);
        let from = from.with_context(|| format!("{}: is not alike in both models", tensor.name))?.values.to_f32();
        let to = tensor.values.to_f32();
        let between = |(from, to): (&f32, &f32)| (f64::from(*from) + MIXTURE * (f64::from(*to) - f64::from(*from))) as f32;
        tensor.values = Values::F32(from.iter().zip(&to).map(between).collect());
    }
    Ok(mixed)
}

/// Which of the three picks. The mixture does not spoil anything, so it needs no proof, but may not be worse; what was learnt may be worse
/// elsewhere, so it has to be better than the mixture.
fn choose(worths: [Worth; 3]) -> usize {
    let [general, mixture, learnt] = worths.map(|worth| worth.found as i64 - worth.wrong as i64);
    match () {
        () if learnt > mixture && learnt > general => 2,
        () if mixture >= general => 1,
        () => 0,
    }
}

/// Trains, and tells how far it is.
fn train(workbench: &Workbench, (folder, list, labels): (&Path, &Path, &Path), running: &Running) -> Result<()> {
    let (fixed, hands) = (&workbench.fixed, &workbench.hands);
    let text = |path: &Path| path.display().to_string();
    let mut args: Vec<String> =
        ["train", "--mode", fixed.kind.name(), "--load_model", &fixed.model, "--seed", "1"].iter().map(|text| text.to_string()).collect();
    args.extend(["--steps".to_owned(), fixed.steps.to_string()]);
    args.extend(["--data".to_owned(), text(list), "--label".to_owned(), text(labels), "--exp_id".to_owned(), text(&folder.join("run"))]);
    args.extend(["--train_pct", "100", "--val_pct", "0", "--test_pct", "0"].map(str::to_owned));
    args.extend(workbench.options_of_size());
    if let Some(exemplars) = &fixed.exemplars {
        args.extend(["--continual".to_owned(), "--load_exemplar".to_owned(), text(exemplars)]);
        args.extend(["--output_exemplar".to_owned(), text(&folder.join("exemplars"))]);
    }
    hands.tell(Phase::Training, 0.0, "reading the micrographs");
    let mut step = 0;
    running.run(&fixed.program, &args, |event| {
        if event["event"] == "step" && event["replay"] != true {
            step += 1;
            let loss = event["loss"].as_f64().unwrap_or_default();
            hands.tell(Phase::Training, step as f64 / fixed.steps as f64, &format!("step {step} of {}, loss {loss:.2}", fixed.steps));
        }
    })
}

/// The micrographs that are picked first with a new model: those with labels, and some others, evenly spread.
fn shown_first(workbench: &Workbench, labelled: &[usize]) -> Vec<usize> {
    let all = workbench.fixed.micrographs.len();
    let excluded = workbench.sheets.excluded();
    let others: Vec<usize> = (0..all).filter(|i| !labelled.contains(i) && !excluded.contains(i)).collect();
    let count = others.len().min(MOST_PICKED);
    labelled.iter().copied().chain((0..count).map(|k| others[k * others.len() / count])).collect()
}

/// What models are worth, all with equally many picks: as many as the first one has at its own threshold, or, if that is more, as many as
/// the mixture has at the threshold that fits the labels, because a model that hardly sees anything has hardly any picks.
fn compare(workbench: &Workbench, folders: &[PathBuf; 3], held: &[HeldBack], fitting: Option<f32>) -> [Worth; 3] {
    let names = workbench.fixed.names();
    let found = |folder: &Path, i: usize| Found::read(&folder.join("candidates").join(format!("{}.star", names[i]))).ok();
    let of = |folder: &PathBuf| -> BTreeMap<usize, Found> {
        held.iter().filter_map(|one| Some((one.micrograph, found(folder, one.micrograph)?))).collect()
    };
    let all = folders.each_ref().map(of);
    let own: usize = all[0].values().map(|found| found.above(found.threshold).len()).sum();
    let fitted = |threshold: f32| all[1].values().map(|found| found.above(threshold).len()).sum();
    let count = own.max(fitting.map_or(0, fitted));
    let worth = |all: BTreeMap<usize, Found>| {
        // The score of the last pick that counts, over all micrographs.
        let mut scores: Vec<f32> = all.values().flat_map(|found| &found.picks).map(|pick| pick.score).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        let above = scores.get(count).copied().unwrap_or(0.0);
        let picks = |i: usize| all.get(&i).map(|found| found.traced(above, |_| true).coordinates).unwrap_or_default();
        judge(held, picks, |i| workbench.diameter_px(i) / 2.0)
    };
    all.map(worth)
}

/// How many times as many picks are taken as labels say, which score a little too high where they were learnt from.
const MORE: f64 = 1.1;

/// The threshold that fits the labels, where some of the particles have one. r^2 / n, where r is the share of the labels that are found and
/// n the number of picks, grows with precision times recall, whatever the number of particles. A few more picks ([`MORE`]) are taken than
/// where that is largest. None if no label is found. `labels`: for each, the score of the best pick that finds it; `picks`: the scores of
/// all picks.
/// Source: Lee and Liu 2003, Learning with Positive and Unlabeled Examples Using Weighted Logistic Regression, section 4.
fn fitting_threshold(labels: &[Option<f32>], picks: &[f32]) -> Option<f32> {
    let mut found: Vec<f32> = labels.iter().copied().flatten().collect();
    let mut picks = picks.to_vec();
    [&mut found, &mut picks].into_iter().for_each(|scores| scores.sort_by(|a, b| b.total_cmp(a)));
    let worth = |(i, score): (usize, &f32)| {
        let r = found.partition_point(|label| label >= score) as f64 / labels.len() as f64;
        (i + 1, r * r / (i + 1) as f64)
    };
    let (count, _) = picks.iter().enumerate().map(worth).filter(|(_, worth)| *worth > 0.0).max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let last = ((MORE * count as f64) as usize).min(picks.len()) - 1;
    // Picks are above the threshold, not at it; hundredths are enough.
    Some(((picks[last] * 100.0).ceil() - 1.0).max(1.0) / 100.0)
}

/// The same for fibers, where r is the share of the labelled length that is found, and n the length of all paths. Where points end, a
/// path has a gap, so the paths themselves decide. `at`: the lengths at a threshold.
fn fitting_threshold_of_paths(at: impl Fn(f32) -> Lengths) -> Option<f32> {
    let mut tried: Vec<(f32, Lengths)> = Vec::new();
    let worth = |lengths: &Lengths| if lengths.picked > 0.0 { lengths.recall().powi(2) / lengths.picked } else { 0.0 };
    for threshold in (1..100).rev().map(|hundredths| hundredths as f32 / 100.0) {
        let best = tried.iter().map(|(_, lengths)| worth(lengths)).fold(0.0, f64::max);
        // Paths only grow, and r is 1 at most.
        if tried.last().is_some_and(|(_, lengths)| best * lengths.picked > MORE) {
            break;
        }
        tried.push((threshold, at(threshold)));
    }
    let (_, best) = tried.iter().filter(|(_, lengths)| worth(lengths) > 0.0).max_by(|(_, a), (_, b)| worth(a).total_cmp(&worth(b)))?;
    tried.iter().rev().find(|(_, lengths)| lengths.picked <= MORE * best.picked).map(|(threshold, _)| *threshold)
}

/// The fitting threshold of the picks in a folder, by all labels of some micrographs.
fn threshold_of(workbench: &Workbench, folder: &Path, sheets: &[(usize, Marks)]) -> Option<f32> {
    let names = workbench.fixed.names();
    let found = |i: usize| Found::read(&folder.join("candidates").join(format!("{}.star", names[i]))).ok();
    let found: Vec<(&Marks, f64, Found)> =
        sheets.iter().filter_map(|(i, marks)| Some((marks, workbench.diameter_px(*i) / 2.0, found(*i)?))).collect();
    let counts = |marks: &Marks, at: [f64; 2]| !marks.items.iter().any(|item| item.shape.holds(at));
    if workbench.fixed.kind == Kind::Fiber {
        return fitting_threshold_of_paths(|threshold| {
            let mut all = Lengths::default();
            for (marks, radius, found) in &found {
                let picks = found.traced(threshold, |at| counts(marks, at)).coordinates;
                all.add(lengths(marks.labels().map(|item| &item.shape), &picks, *radius));
            }
            all
        });
    }
    let (mut labels, mut scores) = (Vec::new(), Vec::new());
    for (marks, radius, found) in &found {
        let best = |[x, y]: [f64; 2], reach: f64| {
            let near = |pick: &&Pick| (pick.centre[0] - x).hypot(pick.centre[1] - y) <= reach;
            found.picks.iter().find(near).map(|pick| pick.score)
        };
        for item in marks.labels() {
            match &item.shape {
                Shape::Vesicle(at, radius) => labels.push(best(*at, radius / 2.0)),
                Shape::Particle(at) => labels.push(best(*at, radius / 2.0)),
                _ => {}
            }
        }
        scores.extend(found.picks.iter().filter(|pick| counts(marks, pick.centre)).map(|pick| pick.score));
    }
    fitting_threshold(&labels, &scores)
}

/// What is said of the model that was chosen, by its place among the three.
fn verdict(kind: Kind, now: Worth, then: Worth, chosen: usize) -> String {
    if now.labels == 0 {
        return "no label was held back, so nothing can be said of the new model; label more".to_owned();
    }
    let labels = match kind {
        Kind::Fiber => format!("{} of fibers", counted(now.labels, "piece")),
        Kind::Particle | Kind::Vesicle => counted(now.labels, "label"),
    };
    if chosen == 0 {
        return format!(
            "what was learnt finds fewer of {labels} held back than the model to begin with, so nothing is changed; label more"
        );
    }
    let [low, high] = wilson(now.found, now.labels).map(|share| 100.0 * share);
    let mut text = format!(
        "the new model finds {} of {labels} held back ({low:.0} to {high:.0} %), the model to begin with {} with as many picks",
        now.found, then.found
    );
    if now.nothing > 0 {
        let places = counted(now.nothing, "place");
        text.push_str(&format!("; of {places} where nothing is it picks {}, the one to begin with {}", now.wrong, then.wrong));
    }
    text
}

/// Takes another model that has been learnt, or, with `general`, the one that the workbench began with.
///
/// Errors: there is no such model.
pub fn take(workbench: &Workbench, name: &str) -> Result<()> {
    let model = match name {
        "general" => None,
        name => Some(name.to_owned())
            .filter(|name| is_there(&workbench.fixed.folder, name))
            .with_context(|| format!("no model {name}"))
            .map(Some)?,
    };
    workbench.change(|session| (session.model, session.threshold) = (model, None))?;
    workbench.folder_of_picks().map_or(Ok(()), |folder| workbench.look_at(&folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::coordinates::Coordinate;

    #[test]
    fn the_mixture_picks_unless_another_one_is_better() {
        let of = |found: [usize; 3]| choose(found.map(|found| Worth { found, labels: 5, ..Worth::default() }));
        assert_eq!([of([4, 4, 4]), of([4, 5, 5]), of([3, 4, 5]), of([5, 4, 4]), of([5, 4, 5])], [1, 1, 2, 0, 0]);
        let worth = |wrong| Worth { found: 4, labels: 5, wrong, nothing: 3 };
        assert_eq!(choose([worth(2), worth(2), worth(0)]), 2);
    }

    #[test]
    fn a_fifth_judges_and_teaches_nothing() {
        let item = |i: usize| Item { id: format!("p{i}"), shape: Shape::Particle([i as f64, 0.0]) };
        let sheets = vec![(3, Marks { items: (0..500).map(item).collect(), ..Marks::default() })];
        let (training, judging) = deal(&sheets, |_| 7.0, 1);
        let held = judging[0].labels.len();
        assert!((70..=130).contains(&held), "{held}");
        assert_eq!(training[0].1.labels().count(), 500 - held);
        let areas = training[0].1.items.iter().filter(|item| matches!(&item.shape, Shape::Brush(r, path) if *r == 7.0 && path.len() == 1));
        assert_eq!(areas.count(), held);
    }

    #[test]
    fn the_threshold_that_fits_lies_where_labels_end_and_noise_begins() {
        // 100 particles score 0.9 down to 0.6, every tenth has a label; 400 picks of noise score 0.5 down to 0.1.
        let particles = (0..100).map(|i| 0.9 - 0.003 * i as f32);
        let picks: Vec<f32> = particles.clone().chain((0..400).map(|i| 0.5 - 0.001 * i as f32)).collect();
        let mut labels: Vec<Option<f32>> = particles.step_by(10).map(Some).collect();
        let threshold = fitting_threshold(&labels, &picks).unwrap();
        assert!((0.45..=0.6).contains(&threshold), "{threshold}");
        // One label in a hundred that lies among the noise does not pull it down.
        labels.push(Some(0.2));
        labels.push(None);
        assert!((0.45..=0.6).contains(&fitting_threshold(&labels, &picks).unwrap()));
        assert_eq!(fitting_threshold(&[None, None], &picks), None);
    }

    #[test]
    fn what_was_held_back_judges() {
        let labels = vec![Shape::Particle([100.0, 100.0]), Shape::Particle([200.0, 100.0]), Shape::Vesicle([50.0, 50.0], 40.0)];
        let held = [HeldBack { micrograph: 0, labels, nothing: vec![[300.0, 300.0], [10.0, 300.0]] }];
        let points = [[104.0, 100.0], [206.0, 100.0], [60.0, 60.0], [300.0, 301.0]].map(|[x, y]| Coordinate::at(x, y)).to_vec();
        let picks = Coordinates { kind: Kind::Particle, points };
        let worth = judge(&held, |_| picks.clone(), |_| 10.0);
        assert_eq!(worth, Worth { found: 2, labels: 3, wrong: 1, nothing: 2 });
        let said = verdict(Kind::Particle, worth, Worth { found: 1, ..worth }, 1);
        assert!(said.contains("finds 2 of 3 labels held back (21 to 94 %), the model to begin with 1"), "{said}");
    }

    fn path(group: u32, vertices: &[[f64; 2]]) -> Vec<Coordinate> {
        vertices.iter().map(|[x, y]| Coordinate { group: Some(group), ..Coordinate::at(*x, *y) }).collect()
    }

    #[test]
    fn a_fiber_counts_by_the_length_that_is_found() {
        let drawn = Shape::Fiber(vec![[0.0, 50.0], [1000.0, 50.0]]);
        let held = [HeldBack { micrograph: 0, labels: vec![drawn], nothing: Vec::new() }];
        // Both ends are far from any pick; what counts lies between them.
        let picks = Coordinates { kind: Kind::Fiber, points: path(1, &[[200.0, 53.0], [800.0, 53.0]]) };
        let worth = judge(&held, |_| picks.clone(), |_| 5.0);
        assert_eq!((worth.found, worth.labels), (6, 10));
        assert!(verdict(Kind::Fiber, worth, worth, 1).contains("finds 6 of 10 pieces of fibers held back"));
    }

    #[test]
    fn something_is_always_held_back() {
        for seed in 0..40 {
            let items = (0..3).map(|i| Item { id: format!("f{i}"), shape: Shape::Fiber(vec![[0.0, i as f64], [9.0, i as f64]]) }).collect();
            let (training, judging) = deal(&[(0, Marks { items, ..Marks::default() })], |_| 4.0, seed);
            assert!(!judging[0].labels.is_empty() && judging[0].labels.len() + training[0].1.labels().count() == 3);
        }
    }

    #[test]
    fn the_threshold_of_fibers_keeps_paths_whole() {
        // Ten fibers of 1000 pixels, of which four are drawn, are whole down to 0.4 and lose ends above it. Below 0.3 there is noise.
        let at = |threshold: f32| {
            let share = (1.0 - 2.0 * (f64::from(threshold) - 0.4).max(0.0)).clamp(0.0, 1.0);
            let noise = 400_000.0 * (0.3 - f64::from(threshold)).max(0.0);
            Lengths { labelled: 4000.0, found: 4000.0 * share, picked: 10_000.0 * share + noise, right: 4000.0 * share }
        };
        let threshold = fitting_threshold_of_paths(at).unwrap();
        assert!((0.28..=0.4).contains(&threshold), "{threshold}");
        assert_eq!(fitting_threshold_of_paths(|_| Lengths { labelled: 4000.0, picked: 100.0, ..Lengths::default() }), None);
    }
}
