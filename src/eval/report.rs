//! All numbers of one evaluation: computed from picks and labels by micrograph, told as text and JSON.

use super::coco::{self, Boxes};
use super::fiber::{self, Lengths};
use super::matching::{Candidate, Disc, Matched, Outcome, Rule, match_picks};
use super::metrics::{Intervals, Judged, Point, Pooled, average_precision, best_f1, median, threshold_of};
use crate::formats::coordinates::{Coordinates, Kind};
use crate::ops::heat_map;
use crate::preprocess::geometry::Geometry;
use crate::preprocess::scale::ORIGINAL_FRAME;
use crate::random::Random;
use crate::words::counted;
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::fmt::Write;

/// One micrograph to be judged.
#[derive(Clone, Debug)]
pub struct Item {
    /// The micrograph's name.
    pub stem: String,
    /// Columns and rows, where they are known: without them no border is ignored.
    pub size: Option<[usize; 2]>,
    /// Angstrom per pixel, where it is known.
    pub pixel_size_angstrom: Option<f64>,
    /// Width of the frame in which a model saw it; without one it is the original's.
    pub frame: Option<usize>,
    /// The labels: what should be found.
    pub labels: Coordinates,
    /// The picks: what was found. A pick without a score counts as one with score 1.
    pub picks: Coordinates,
}

/// Where the size of the particles comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SizeSource {
    /// Diameter as asked for, angstrom.
    pub diameter_angstrom: Option<f64>,
    /// Diameter as asked for, micrograph pixels.
    pub diameter_px: Option<f64>,
    /// Diameter that the model was trained on, angstrom.
    pub model_diameter_angstrom: Option<f64>,
    /// Box that the model was trained with, heat-map pixels.
    pub model_side_h_px: Option<f64>,
    /// Vesicles: every label has its own size, which comes before all others.
    pub own_first: bool,
}

/// What is asked of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How picks are matched.
    pub rule: Rule,
    /// Where the size of the particles comes from, the first that is known.
    pub size: SizeSource,
    /// The threshold with which a user gets the picks: only those with a score above it.
    pub shipped_threshold: Option<f32>,
    /// Rounds of the bootstrap; 0 leaves it out.
    pub bootstrap: usize,
    /// Seed of bootstrap and random picks.
    pub seed: u64,
    /// Whether the average precision by the overlap of boxes is computed too.
    pub coco: bool,
    /// Numbers of best picks, over all micrographs, for which precision and recall are told. Without any they are half the
    /// number of labels that count, that number, and twice that number.
    pub at_picks: Option<Vec<usize>>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            rule: Rule::default(),
            size: SizeSource::default(),
            shipped_threshold: None,
            bootstrap: 1000,
            seed: 317,
            coco: false,
            at_picks: None,
        }
    }
}

/// Numbers of false picks per micrograph for which the recall is told.
pub const FALSE_PICKS: [f64; 5] = [1.0, 5.0, 10.0, 20.0, 50.0];
/// How many sets of random picks are drawn; their mean is the baseline.
const RANDOM_SETS: u64 = 5;

/// All numbers of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Micrographs judged.
    pub micrographs: usize,
    /// Labels that count.
    pub labels: usize,
    /// Picks that count.
    pub picks: usize,
    /// How many labels and how many picks were left out because they lie near the border.
    pub ignored: [usize; 2],
    /// Average precision; `None` without labels.
    pub ap: Option<f64>,
    /// The point of the best F1, and the threshold that gives it.
    pub best: Option<(Point, f32)>,
    /// The threshold with which a user gets the picks, and the precision and recall that it gives.
    pub shipped: (f32, Point),
    /// Recall at [`FALSE_PICKS`].
    pub recall_at_false_picks: [f64; 5],
    /// Precision and recall at equal numbers of picks, whatever their scores.
    pub at_picks: Vec<Point>,
    /// Median distance between the centres of a pick and of the label that it found, in micrograph pixels and in angstrom.
    pub centre_error: [Option<f64>; 2],
    /// How many picks lie on a label that a better pick had found.
    pub duplicates: usize,
    /// Average precision and best F1 that as many picks at random places would have.
    pub random: [f64; 2],
    /// The intervals that resampling the micrographs gives.
    pub intervals: Option<Intervals>,
    /// Median error of the radius of vesicles: micrograph pixels, and as a share of the radius.
    pub radius_error: Option<[f64; 2]>,
    /// How well fibers were found, by their lengths.
    pub lengths: Option<Lengths>,
    /// Average precision by the overlap of boxes, with the boxes of the original.
    pub coco_ap: Option<f64>,
    /// Precision and recall over all thresholds.
    pub curve: Vec<Point>,
    /// For each micrograph its name, and its labels, picks and hits at the best threshold.
    pub by_micrograph: Vec<(String, usize, usize, usize)>,
}

/// The radius of each label of a micrograph.
///
/// Errors: nothing says the size; the message names the options.
fn radii(item: &Item, source: &SizeSource) -> Result<Vec<f64>> {
    let in_pixels = |angstrom: Option<f64>| angstrom.zip(item.pixel_size_angstrom).map(|(diameter, pixel)| diameter / pixel);
    if source.diameter_angstrom.is_some() && item.pixel_size_angstrom.is_none() {
        bail!("{}: no pixel size for --diameter; expected one in the header; give --angpix or --diameter_px", item.stem);
    }
    let asked = source.diameter_px.or_else(|| in_pixels(source.diameter_angstrom));
    let model_box = source.model_side_h_px.zip(item.size).map(|(side, [nx, ny])| {
        let geometry = Geometry::new(nx, ny, item.frame.unwrap_or(ORIGINAL_FRAME));
        crate::pick::decode::side_n_to_m(heat_map::STRIDE as f64 * side, &geometry)
    });
    let shared = asked.or_else(|| in_pixels(source.model_diameter_angstrom)).or(model_box);
    let radius = |own: Option<f64>| {
        let own = own.filter(|radius| *radius > 0.0);
        let shared = shared.map(|diameter| diameter / 2.0);
        if source.own_first { own.or(shared) } else { shared.or(own) }
    };
    let radii: Option<Vec<f64>> = item.labels.points.iter().map(|point| radius(point.radius())).collect();
    match radii {
        Some(radii) => Ok(radii),
        None => bail!("{}: nothing says how large the particles are; expected a diameter; give --diameter or --diameter_px", item.stem),
    }
}

/// The picks and labels of one micrograph in the form in which they were compared, and what became of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Matching {
    /// The labels.
    pub discs: Vec<Disc>,
    /// The picks, in the order in which the item has them.
    pub picks: Vec<Candidate>,
    /// The radius of picks that have none of their own, micrograph pixels.
    pub typical: f64,
    /// Which pick found which label.
    pub matched: Matched,
}

/// Matches picks and labels of one micrograph of particles or vesicles.
///
/// Errors: the size of the particles is unknown.
pub fn match_item(item: &Item, settings: &Settings) -> Result<Matching> {
    let radii = radii(item, &settings.size)?;
    let discs: Vec<Disc> =
        item.labels.points.iter().zip(&radii).map(|(point, radius)| Disc { x: point.x, y: point.y, radius: *radius }).collect();
    let typical = typical_radius(&radii, item, &settings.size);
    let candidate = |point: &crate::formats::coordinates::Coordinate| Candidate {
        x: point.x,
        y: point.y,
        score: point.score.unwrap_or(1.0),
        radius: point.radius().filter(|_| settings.size.own_first),
    };
    let picks: Vec<Candidate> = item.picks.points.iter().map(candidate).collect();
    let matched = match_picks(&discs, &picks, item.size, typical, &settings.rule);
    Ok(Matching { discs, picks, typical, matched })
}

/// Judges the picks of all micrographs.
///
/// Errors: the size of the particles is unknown, or fibers are mixed with points.
pub fn evaluate(items: &[Item], settings: &Settings) -> Result<Report> {
    let mut judged = Vec::new();
    let mut label_counts = Vec::new();
    let (mut distances, mut distances_angstrom, mut radius_errors, mut radius_shares) = (vec![], vec![], vec![], vec![]);
    let (mut duplicates, mut ignored, mut picks_seen) = (0, [0, 0], 0);
    let mut random_judged: Vec<Vec<Judged>> = vec![Vec::new(); RANDOM_SETS as usize];
    let mut lengths: Option<Lengths> = None;
    let mut by_item = Vec::new();
    for (micrograph, item) in items.iter().enumerate() {
        if item.labels.kind == Kind::Fiber {
            // A fiber has no centre to be found, so only lengths count.
            let reach = fiber_reach(item, settings);
            lengths.get_or_insert_default().add(fiber::compare(&item.labels, &item.picks, reach)?);
            label_counts.push(0);
            continue;
        }
        let Matching { discs, picks, typical, matched } = match_item(item, settings)?;
        let start = judged.len();
        for (pick, outcome) in picks.iter().zip(&matched.outcomes) {
            match outcome {
                Outcome::Hit { label, distance } => {
                    distances.push(*distance);
                    distances_angstrom.extend(item.pixel_size_angstrom.map(|pixel| pixel * distance));
                    if let (Some(found), Some(true)) = (pick.radius, item.labels.points[*label].radius().map(|radius| radius > 0.0)) {
                        let error = (found - discs[*label].radius).abs();
                        radius_errors.push(error);
                        radius_shares.push(error / discs[*label].radius);
                    }
                }
                Outcome::Miss { duplicate } => duplicates += usize::from(*duplicate),
                Outcome::Ignored => {
                    ignored[1] += 1;
                    continue;
                }
            }
            judged.push(Judged { score: pick.score, hit: matches!(outcome, Outcome::Hit { .. }), micrograph });
        }
        by_item.push((item.stem.clone(), matched.labels, judged[start..].to_vec()));
        picks_seen += judged.len() - start;
        ignored[0] += discs.len() - matched.labels;
        label_counts.push(matched.labels);
        for (set, random_judged) in random_judged.iter_mut().enumerate() {
            let random = random_picks(item, picks.len(), Random::new(settings.seed, &[0x7269_636b, set as u64, micrograph as u64]));
            let matched = match_picks(&discs, &random, item.size, typical, &settings.rule);
            let counted = random.iter().zip(&matched.outcomes).filter(|(_, outcome)| **outcome != Outcome::Ignored);
            random_judged.extend(counted.map(|(pick, outcome)| Judged {
                score: pick.score,
                hit: matches!(outcome, Outcome::Hit { .. }),
                micrograph,
            }));
        }
    }
    let pooled = Pooled::new(judged, label_counts.clone());
    let curve = pooled.curve();
    let best = best_f1(&curve).map(|point| (point, threshold_of(&curve, &point)));
    // A set of picks without a threshold is one of which the user gets all.
    let lowest = pooled.judged().last().map_or(0.0, |one| one.score);
    let shipped_threshold = settings.shipped_threshold.unwrap_or(if lowest > 0.0 { 0.0 } else { lowest - 1.0 });
    let random: Vec<[f64; 2]> = random_judged
        .into_iter()
        .map(|judged| {
            let curve = Pooled::new(judged, label_counts.clone()).curve();
            [average_precision(&curve), best_f1(&curve).map_or(0.0, |point| point.f1())]
        })
        .collect();
    let mean = |k: usize| random.iter().map(|one| one[k]).sum::<f64>() / random.len() as f64;
    let threshold = best.map_or(0.0, |(_, threshold)| threshold);
    let labels = pooled.labels();
    let at_picks = settings.at_picks.clone().unwrap_or_else(|| vec![labels / 2, labels, 2 * labels]);
    let count_of = |(stem, labels, judged): (String, usize, Vec<Judged>)| {
        let kept = judged.iter().filter(|one| one.score > threshold);
        (stem, labels, kept.clone().count(), kept.filter(|one| one.hit).count())
    };
    Ok(Report {
        micrographs: items.len(),
        labels: pooled.labels(),
        picks: picks_seen,
        ignored,
        ap: (pooled.labels() > 0).then(|| average_precision(&curve)),
        best,
        shipped: (shipped_threshold, pooled.at(shipped_threshold)),
        recall_at_false_picks: FALSE_PICKS.map(|count| pooled.recall_at_false_picks(count)),
        at_picks: at_picks.into_iter().filter(|count| *count > 0 && labels > 0).map(|count| pooled.best_picks(count)).collect(),
        centre_error: [median(distances), median(distances_angstrom)],
        duplicates,
        random: [mean(0), mean(1)],
        intervals: pooled.bootstrap(settings.bootstrap, settings.seed),
        radius_error: median(radius_errors).zip(median(radius_shares)).map(|(pixels, share)| [pixels, share]),
        lengths,
        coco_ap: if settings.coco { coco_ap(items)? } else { None },
        curve,
        by_micrograph: by_item.into_iter().map(count_of).collect(),
    })
}

/// The radius of picks that have none of their own: the median radius of the labels, else what the options say, else none.
fn typical_radius(radii: &[f64], item: &Item, source: &SizeSource) -> f64 {
    let in_pixels = source.diameter_angstrom.or(source.model_diameter_angstrom).zip(item.pixel_size_angstrom);
    let asked = source.diameter_px.or(in_pixels.map(|(diameter, pixel)| diameter / pixel));
    median(radii.to_vec()).or(asked.map(|diameter| diameter / 2.0)).unwrap_or(0.0)
}

/// How far a picked fiber may be from a labelled one, micrograph pixels: the original's 6.33 pixels of the 1024-wide
/// image where no width is known.
pub(super) fn fiber_reach(item: &Item, settings: &Settings) -> f64 {
    const REACH_D_PX: f64 = 19.0 / 3.0;
    let source = &settings.size;
    let angstrom = source.diameter_angstrom.zip(item.pixel_size_angstrom).map(|(diameter, pixel)| diameter / pixel);
    match source.diameter_px.or(angstrom) {
        Some(diameter) => settings.rule.reach * diameter / 2.0,
        None => REACH_D_PX * item.size.map_or(1.0, |[nx, _]| nx as f64 / 1024.0),
    }
}

fn random_picks(item: &Item, count: usize, mut random: Random) -> Vec<Candidate> {
    // Where the micrograph's size is unknown, the random picks lie in the area that labels and picks cover.
    let points = || item.labels.points.iter().chain(&item.picks.points);
    let [nx, ny] = match item.size {
        Some(size) => size.map(|size| size as f64),
        None => [points().map(|point| point.x).fold(0.0, f64::max), points().map(|point| point.y).fold(0.0, f64::max)],
    };
    let mut pick = || Candidate { x: random.unit() * nx, y: random.unit() * ny, score: random.unit() as f32, radius: None };
    (0..count).map(|_| pick()).collect()
}

/// AP at an overlap of one half with the original's boxes: 19 pixels of the 1024-wide image around every centre.
fn coco_ap(items: &[Item]) -> Result<Option<f64>> {
    const SIDE_D_PX: f64 = 19.0;
    let mut images = Vec::with_capacity(items.len());
    for item in items {
        let Some([nx, ny]) = item.size else {
            bail!("{}: the size of the micrograph is unknown, so --coco has no boxes; expected micrographs; give --data", item.stem);
        };
        let geometry = Geometry::new(nx, ny, 1024);
        let corner = |x: f64, y: f64| {
            let [x, y] = geometry.m_to_d([x, y]);
            [x - SIDE_D_PX / 2.0, y - SIDE_D_PX / 2.0, SIDE_D_PX, SIDE_D_PX]
        };
        images.push(Boxes {
            labels: item.labels.points.iter().map(|point| corner(point.x, point.y)).collect(),
            picks: item.picks.points.iter().map(|point| (corner(point.x, point.y), f64::from(point.score.unwrap_or(1.0)))).collect(),
        });
    }
    Ok(coco::average_precision(&images, coco::OVERLAP, coco::MOST_PICKS))
}

impl Report {
    /// What stands for a report in a table: the average precision, or for fibers the F1 by length.
    pub fn main_number(&self) -> f64 {
        self.ap.or(self.lengths.map(|lengths| lengths.f1())).unwrap_or(0.0)
    }

    /// All numbers as one JSON object. A number that does not exist is null.
    pub fn json(&self) -> Value {
        let best = self.best.map(|(point, threshold)| (point, f64::from(threshold)));
        let (threshold, shipped) = self.shipped;
        let recalls: serde_json::Map<String, Value> =
            FALSE_PICKS.iter().zip(self.recall_at_false_picks).map(|(count, recall)| (count.to_string(), json!(recall))).collect();
        json!({
            "micrographs": self.micrographs,
            "labels": self.labels,
            "picks": self.picks,
            "labels_ignored": self.ignored[0],
            "picks_ignored": self.ignored[1],
            "ap": self.ap,
            "ap_interval": self.intervals.as_ref().map(|intervals| intervals.ap),
            "f1_best": best.map(|(point, _)| point.f1()),
            "f1_best_interval": self.intervals.as_ref().map(|intervals| intervals.f1_best),
            "threshold_best": best.map(|(_, threshold)| threshold),
            "precision": best.map(|(point, _)| point.precision),
            "recall": best.map(|(point, _)| point.recall),
            "f1_shipped": shipped.f1(),
            "threshold_shipped": threshold,
            "precision_shipped": shipped.precision,
            "recall_shipped": shipped.recall,
            "recall_at_false_picks": recalls,
            "at_picks": self.at_picks.iter().map(|point| json!({
                "picks": point.picks, "precision": point.precision, "recall": point.recall, "f1": point.f1(),
            })).collect::<Vec<_>>(),
            "centre_error_px": self.centre_error[0],
            "centre_error_angstrom": self.centre_error[1],
            "duplicates": self.duplicates,
            "ap_random": self.random[0],
            "f1_random": self.random[1],
            "radius_error_px": self.radius_error.map(|[pixels, _]| pixels),
            "radius_error_share": self.radius_error.map(|[_, share]| share),
            "length_precision": self.lengths.map(|lengths| lengths.precision()),
            "length_recall": self.lengths.map(|lengths| lengths.recall()),
            "length_f1": self.lengths.map(|lengths| lengths.f1()),
            "coco_ap": self.coco_ap,
        })
    }

    /// All numbers as text, one line for each.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            let _ = writeln!(out, "{text}");
        };
        line(format!(
            "{}, {}, {} ({} and {} at the border left out)",
            counted(self.micrographs, "micrograph"),
            counted(self.labels, "label"),
            counted(self.picks, "pick"),
            counted(self.ignored[0], "label"),
            counted(self.ignored[1], "pick")
        ));
        let interval = |of: fn(&Intervals) -> [f64; 2]| {
            self.intervals.as_ref().map(of).map_or(String::new(), |[low, high]| format!("  [{low:.3}, {high:.3}]"))
        };
        match (self.ap, self.best) {
            (Some(ap), Some((point, threshold))) => {
                line(format!("average precision       {ap:.4}{}   (random picks {:.4})", interval(|i| i.ap), self.random[0]));
                line(format!(
                    "best F1                 {:.4}{}   (random picks {:.4})",
                    point.f1(),
                    interval(|i| i.f1_best),
                    self.random[1]
                ));
                line(format!("  at threshold          {threshold:.4}: precision {:.4}, recall {:.4}", point.precision, point.recall));
                let (threshold, point) = self.shipped;
                line(format!(
                    "F1 as shipped           {:.4} (threshold {threshold}): precision {:.4}, recall {:.4}",
                    point.f1(),
                    point.precision,
                    point.recall
                ));
                let recalls: Vec<String> =
                    FALSE_PICKS.iter().zip(self.recall_at_false_picks).map(|(count, recall)| format!("{recall:.3} at {count}")).collect();
                line(format!("recall at false picks per micrograph: {}", recalls.join(", ")));
                for point in &self.at_picks {
                    let (precision, recall) = (point.precision, point.recall);
                    line(format!(
                        "best {:<5} picks        F1 {:.4}, precision {precision:.4}, recall {recall:.4}",
                        point.picks,
                        point.f1()
                    ));
                }
            }
            (Some(ap), None) => line(format!("average precision       {ap:.4}: there is no pick that counts")),
            (None, _) if self.lengths.is_some() => {}
            (None, _) => line("no label counts, so there is neither precision nor recall".to_owned()),
        }
        if let Some(pixels) = self.centre_error[0] {
            let angstrom = self.centre_error[1].map_or(String::new(), |angstrom| format!(", {angstrom:.2} angstrom"));
            line(format!("median centre error     {pixels:.2} pixels{angstrom}"));
        }
        line(format!("duplicates              {}", self.duplicates));
        if let Some([pixels, share]) = self.radius_error {
            line(format!("median radius error     {pixels:.2} pixels, {:.1} %", 100.0 * share));
        }
        if let Some(lengths) = self.lengths {
            line(format!(
                "fibers by length        precision {:.4}, recall {:.4}, F1 {:.4}",
                lengths.precision(),
                lengths.recall(),
                lengths.f1()
            ));
        }
        if let Some(ap) = self.coco_ap {
            line(format!("COCO AP at IoU 0.5      {ap:.4} (the original's boxes of 19 pixels)"));
        }
        out
    }
}
