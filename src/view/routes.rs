//! What may be asked of the server. docs/workbench.md has the list for those who write programs of their own.

use super::learn;
use super::picks::rounded;
use super::pyramid::{Look, TILE};
use super::session::ParticleSize;
use super::{Workbench, hands::Phase};
use crate::formats::marks::Shape;
use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// A request that was let in.
#[derive(Debug)]
pub struct Asked {
    /// True for what changes something.
    pub is_post: bool,
    /// The path, beginning with `/`.
    pub path: String,
    /// What stands behind `?`.
    pub query: String,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// What it is.
    pub content_type: &'static str,
    /// The answer itself.
    pub bytes: Vec<u8>,
    /// For the page: what its own scripts and styles are known by.
    pub nonce: Option<String>,
}

impl Answer {
    fn json(value: &Value) -> Answer {
        Answer { status: 200, content_type: "application/json", bytes: value.to_string().into_bytes(), nonce: None }
    }

    /// An error, which the page shows.
    pub fn error(status: u16, text: &str) -> Answer {
        Answer { status, ..Answer::json(&json!({ "error": text })) }
    }
}

/// The value of a parameter of a query, as it stands there: numbers and words alone are asked for.
pub fn value_of<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// What went wrong, and whose fault it is.
struct Wrong {
    status: u16,
    error: anyhow::Error,
}

impl From<anyhow::Error> for Wrong {
    fn from(error: anyhow::Error) -> Self {
        // What the disk refuses today it may take tomorrow, so the page tries again; what cannot be understood never will be.
        let is_of_disk = error.chain().any(|cause| cause.is::<std::io::Error>());
        Wrong { status: if is_of_disk { 500 } else { 400 }, error }
    }
}

fn wrong(status: u16, text: &str) -> Wrong {
    Wrong { status, error: anyhow!("{text}") }
}

/// Answers a request.
pub fn answer(workbench: &Arc<Workbench>, asked: &Asked) -> Answer {
    let parts: Vec<&str> = asked.path.split('/').skip(1).collect();
    if parts == [""] && !asked.is_post {
        return page();
    }
    let answered = match (asked.is_post, parts.as_slice()) {
        (false, ["api", "tile", id, level, column, row]) => tile(workbench, asked, [id, level, column, row]).map_err(not_found),
        _ => value(workbench, asked, &parts).map(|value| Answer::json(&value)),
    };
    answered.unwrap_or_else(|Wrong { status, error }| Answer::error(status, &format!("{error:#}")))
}

fn not_found(error: anyhow::Error) -> Wrong {
    Wrong { status: 404, error }
}

fn value(workbench: &Arc<Workbench>, asked: &Asked, parts: &[&str]) -> Result<Value, Wrong> {
    let body = || -> Result<Value> { serde_json::from_slice(&asked.body).context("the body is no JSON") };
    Ok(match (asked.is_post, parts) {
        (false, ["api", "session"]) => session(workbench),
        (true, ["api", "session"]) => {
            let body = body()?;
            let number = |key: &str| body[key].as_f64().filter(|number| (0.01..1e6).contains(number));
            let size = number("diameter_angstrom").map(ParticleSize::Angstrom).or(number("diameter_px").map(ParticleSize::Pixels));
            let size = size.context("expected a diameter, more than 0")?;
            workbench.resize(size)?;
            session(workbench)
        }
        (false, ["api", "micrographs"]) => micrographs(workbench),
        (false, ["api", "micrograph", id]) => micrograph(workbench, index(workbench, id)?).map_err(not_found)?,
        (false, ["api", "picks", id]) => picks(workbench, index(workbench, id)?)?,
        (false, ["api", "labels", id]) => {
            let i = index(workbench, id)?;
            // Asked for first: an act in between is then seen twice, and not missed.
            let revision = workbench.sheets.revision();
            workbench.sheets.get(i).context("no such micrograph")?.to_json(revision)
        }
        (true, ["api", "labels", id]) => {
            let body = body()?;
            let acts = body["ops"].as_array().context("\"ops\": expected a list")?;
            let (window, seen) = (body["window"].as_str().unwrap_or_default(), body["seen"].as_u64().unwrap_or(0));
            let outcome = workbench.sheets.act(index(workbench, id)?, window, seen, acts)?;
            json!({ "rev": outcome.revision, "others": outcome.others })
        }
        (false, ["api", "state"]) => state(workbench, &asked.query),
        (true, ["api", "learn"]) => {
            let labels: usize = workbench.sheets.each(|sheet| sheet.marks.labels().count()).iter().sum();
            let least = learn::least_labels(workbench.fixed.kind);
            if labels < least {
                return Err(wrong(409, &format!("{labels} labels so far; expected at least {least}; add some")));
            }
            if !workbench.hands.learn() {
                return Err(wrong(409, "it is learning or picking already"));
            }
            json!({ "phase": "preparing" })
        }
        (true, ["api", "learn", "stop"]) => {
            workbench.hands.stop();
            workbench.hands.tell(Phase::Idle, 0.0, "stopped");
            json!({ "phase": "idle" })
        }
        (true, ["api", "pick"]) => {
            if !workbench.hands.pick_all() {
                return Err(wrong(409, "it is learning or picking already"));
            }
            json!({ "phase": "picking" })
        }
        (false, ["api", "unsure"]) => {
            let count = value_of(&asked.query, "count").and_then(|text| text.parse().ok()).unwrap_or(10_usize).min(100);
            json!({ "places": unsure(workbench, count)? })
        }
        (false, ["api", "scores"]) => workbench.picks.scores(),
        (true, ["api", "threshold"]) => {
            let body = body()?;
            let threshold = body["threshold"].as_f64().filter(|number| (0.0..=1.0).contains(number));
            let threshold = threshold.context("\"threshold\": expected a number from 0 to 1")? as f32;
            let picks = workbench.choose(threshold)?;
            let line = if body["write"] == json!(true) { Some(workbench.apply(threshold)?) } else { None };
            json!({ "picks": picks, "line": line })
        }
        (false, ["api", "models"]) => models(workbench),
        (true, ["api", "models"]) => {
            let body = body()?;
            learn::take(workbench, body["use"].as_str().unwrap_or_default())?;
            models(workbench)
        }
        _ => return Err(wrong(404, "there is nothing of this name")),
    })
}

fn index(workbench: &Workbench, text: &str) -> Result<usize, Wrong> {
    let found = text.parse().ok().filter(|i| *i < workbench.fixed.micrographs.len());
    found.ok_or_else(|| wrong(404, "no such micrograph"))
}

/// The page, with a nonce of its own, so that nothing else can run in it.
fn page() -> Answer {
    let mut bytes = [0_u8; 16];
    let Ok(()) = getrandom::fill(&mut bytes) else { return Answer::error(500, "no random numbers") };
    let nonce: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = super::page::page(&nonce);
    Answer { status: 200, content_type: "text/html; charset=utf-8", bytes: text.into_bytes(), nonce: Some(nonce) }
}

fn session(workbench: &Workbench) -> Value {
    let (fixed, session) = (&workbench.fixed, workbench.session());
    let (angstrom, px) = match session.size {
        Some(ParticleSize::Angstrom(diameter)) => (Some(diameter), None),
        Some(ParticleSize::Pixels(diameter)) => (None, Some(diameter)),
        None => (None, None),
    };
    json!({
        "program": concat!("epicker ", env!("CARGO_PKG_VERSION")),
        "data": fixed.data,
        "labels": workbench.sheets.folder(),
        "picks": workbench.picks.folder(),
        "kind": fixed.kind.name(),
        "model": session.model.unwrap_or_else(|| fixed.model.clone()),
        "diameter_angstrom": angstrom,
        "diameter_px": px,
        "threshold": workbench.picks.threshold().map(rounded),
        "labels_needed": learn::least_labels(fixed.kind),
        "has_ctf": fixed.defocus.iter().any(Option::is_some),
        "rev": workbench.sheets.revision(),
    })
}

fn micrographs(workbench: &Workbench) -> Value {
    let fixed = &workbench.fixed;
    let counts = workbench.picks.counts(fixed.micrographs.len());
    let told = workbench.sheets.each(|sheet| {
        let nothing = sheet.marks.items.iter().filter(|item| matches!(item.shape, Shape::Nothing(_))).count();
        (sheet.marks.labels().count(), nothing, sheet.marks.finished, sheet.marks.excluded)
    });
    let names = fixed.names();
    let row = |(i, (labels, nothing, finished, excluded)): (usize, (usize, usize, bool, bool))| {
        let path = &fixed.micrographs[i].path;
        let time = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let time = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|time| time.as_secs());
        let group = path.parent().and_then(|folder| folder.file_name()).map(|name| name.to_string_lossy().into_owned());
        json!([names[i], labels, nothing, u8::from(finished), u8::from(excluded), counts[i], group, time, fixed.defocus[i], null])
    };
    let rows: Vec<Value> = told.into_iter().enumerate().map(row).collect();
    let columns = ["name", "labels", "nothing", "finished", "excluded", "picks", "group", "time", "defocus", "error"];
    json!({ "rev": workbench.sheets.revision(), "columns": columns, "rows": rows })
}

fn micrograph(workbench: &Workbench, i: usize) -> Result<Value> {
    let pyramid = workbench.shown.get(i)?;
    let [nx, ny] = pyramid.size();
    let angpix = workbench.pixel_size(i, pyramid.pixel_size_angstrom);
    Ok(json!({ "name": workbench.fixed.names()[i], "nx": nx, "ny": ny, "angpix": angpix, "levels": pyramid.levels(), "tile": TILE }))
}

fn tile(workbench: &Workbench, asked: &Asked, [id, level, column, row]: [&str; 4]) -> Result<Answer> {
    let number = |text: &str| text.parse::<usize>().ok().context("expected a number");
    let asked_for = |name: &str, usual: f64| {
        let given = value_of(&asked.query, name).and_then(|text| text.parse().ok());
        given.filter(|number: &f64| number.is_finite()).unwrap_or(usual)
    };
    let i = number(id)?;
    let pyramid = workbench.shown.get(i)?;
    let unit = workbench.pixel_size(i, pyramid.pixel_size_angstrom).unwrap_or(1.0);
    let look = Look {
        low_pass_px: (asked_for("low", 0.0) / unit).clamp(0.0, 1000.0),
        percentiles: [asked_for("lo", 0.5), asked_for("hi", 99.5)],
        flat: value_of(&asked.query, "flat") == Some("1"),
    };
    let grey = pyramid.tile(number(level)?, [number(column)?, number(row)?], &look)?;
    let mut bytes = Vec::with_capacity(grey.levels.len());
    let mut encoder = png::Encoder::new(&mut bytes, grey.nx as u32, grey.ny as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    // Noise does not become smaller by trying, and the way to the browser is short.
    encoder.set_compression(png::Compression::Fastest);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&grey.levels)?;
    writer.finish()?;
    Ok(Answer { status: 200, content_type: "image/png", bytes, nonce: None })
}

fn picks(workbench: &Workbench, i: usize) -> Result<Value> {
    let revision = workbench.picks.revision();
    let is_current = workbench.picks.folder() == workbench.folder_of_picks();
    match workbench.picks.of(i)?.filter(|_| is_current) {
        Some(found) => Ok(found.to_json(workbench.picks.threshold().unwrap_or(found.threshold), revision)),
        None => {
            workbench.hands.look_at(i);
            Ok(json!({ "rev": revision, "picks": [], "paths": [], "threshold": workbench.picks.threshold().map(rounded), "pending": true }))
        }
    }
}

fn state(workbench: &Workbench, query: &str) -> Value {
    let since = value_of(query, "since").and_then(|text| text.parse().ok()).unwrap_or(0);
    let window = value_of(query, "window").unwrap_or_default();
    let (learn, score, notices) = workbench.hands.to_json();
    let labels: usize = workbench.sheets.each(|sheet| sheet.marks.labels().count()).iter().sum();
    json!({
        "rev": workbench.sheets.revision(),
        "changed": workbench.sheets.changed_since(since, window),
        "windows": workbench.windows.seen(window),
        "picks_rev": workbench.picks.revision(),
        "threshold": workbench.picks.threshold().map(rounded),
        "learn": learn,
        "score": score,
        "labels": labels,
        "notices": notices,
    })
}

/// Micrographs whose picks are looked through for what is unsure.
const MOST_LOOKED_THROUGH: usize = 60;
/// Places of one micrograph.
const MOST_OF_ONE: usize = 3;

/// The picks that the model is least sure of: those whose scores are nearest to the threshold, where nobody has said anything yet.
fn unsure(workbench: &Workbench, count: usize) -> Result<Vec<Value>> {
    let threshold = workbench.picks.threshold().context("nothing is picked yet")?;
    let logit = |score: f32| {
        let score = f64::from(score).clamp(1e-4, 1.0 - 1e-4);
        (score / (1.0 - score)).ln()
    };
    let mut places: Vec<(f64, Value)> = Vec::new();
    for i in workbench.picks.picked().into_iter().take(MOST_LOOKED_THROUGH) {
        let (Some(found), Some(sheet)) = (workbench.picks.of(i)?, workbench.sheets.get(i)) else { continue };
        if sheet.marks.finished || sheet.marks.excluded {
            continue;
        }
        let is_told =
            |at: [f64; 2], radius: f64| sheet.marks.items.iter().any(|item| item.shape.is_near(at, radius) || item.shape.holds(at));
        let mut own: Vec<(f64, Value)> = Vec::new();
        for pick in &found.picks {
            let radius = (pick.size[0] + pick.size[1]) / 4.0;
            if !is_told(pick.centre, radius) {
                let [x, y] = pick.centre;
                let doubt = (logit(pick.score) - logit(threshold)).abs();
                own.push((doubt, json!({ "micrograph": i, "x": x, "y": y, "radius": radius, "score": pick.score })));
            }
        }
        own.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        own.truncate(MOST_OF_ONE.max(count.div_ceil(MOST_LOOKED_THROUGH)));
        places.extend(own);
    }
    places.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    Ok(places.into_iter().take(count).map(|(_, place)| place).collect())
}

fn models(workbench: &Workbench) -> Value {
    let session = workbench.session();
    let first =
        json!({ "name": "general", "when": null, "labels": 0, "text": format!("the model to begin with: {}", workbench.fixed.model) });
    let models: Vec<Value> = std::iter::once(first).chain(learn::history(&workbench.fixed.folder)).collect();
    json!({ "present": session.model.as_deref().unwrap_or("general"), "models": models })
}
