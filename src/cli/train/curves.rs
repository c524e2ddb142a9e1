//! The curves of a training, `loss.svg` and `AP.svg`: drawn anew after each epoch, also from the log of an earlier run.

use crate::eval::chart::{Axis, Chart, Series};
use crate::io::write::write_whole;
use crate::train::schedule::{Fall, Schedule};
use anyhow::Result;
use serde_json::Value;
use std::path::Path;

/// What is known of an epoch. Epoch 0 is the network that the training starts with, which has no loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Epoch {
    pub(super) number: f64,
    pub(super) loss: Option<f64>,
    pub(super) score: Option<f64>,
    /// Its network was better than all before it.
    pub(super) is_best: bool,
}

/// Epochs of an earlier log; lines that are cut off are passed over.
pub(super) fn earlier(log: &Path) -> Vec<Epoch> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut curve: Vec<Epoch> = Vec::new();
    for line in text.lines() {
        let Ok(json) = serde_json::from_str::<Value>(line) else { continue };
        if let (Some("start" | "epoch"), Some(number)) = (json["event"].as_str(), json["epoch"].as_f64()) {
            curve.retain(|known| known.number < number); // of an epoch that was trained twice, the second time counts
            let is_best = json["is_best"].as_bool().unwrap_or(false);
            curve.push(Epoch { number, loss: json["loss"].as_f64(), score: json["validation"].as_f64(), is_best });
        }
    }
    curve
}

/// Draws the curves into the folder of a training.
///
/// Errors: a file cannot be written.
pub(super) fn draw(folder: &Path, curve: &[Epoch], schedule: &Schedule) -> Result<()> {
    let best = curve.iter().rev().find(|epoch| epoch.is_best);
    let one = |name: &str, title: &str, value: fn(&Epoch) -> Option<f64>, is_share: bool| -> Result<()> {
        let point = |epoch: &Epoch| value(epoch).map(|value| [epoch.number, value]);
        let points: Vec<[f64; 2]> = curve.iter().filter_map(point).collect();
        if points.is_empty() {
            return Ok(());
        }
        let marks = best.and_then(point).map(|at| (at, format!("best: epoch {}", at[0])));
        let x = Axis::of_counts("epoch", points.iter().map(|point| point[0]));
        let y = if is_share { Axis::of_shares(name) } else { Axis::from_zero(name, points.iter().map(|point| point[1])) };
        let rules = drops(schedule).filter(|(at, _)| (x.range[0]..=x.range[1]).contains(at)).collect();
        let series = vec![Series { name: name.to_owned(), points, marks: marks.into_iter().collect(), ..Series::default() }];
        let chart = Chart { title: title.to_owned(), x, y, series, rules };
        write_whole(&folder.join(format!("{name}.svg")), chart.svg().as_bytes())
    };
    one("loss", "Loss over the epochs", |epoch| epoch.loss, false)?;
    one("AP", "Score over the epochs", |epoch| epoch.score, true)
}

/// After which epochs the learning rate falls at once, and how low. A cosine has no such place.
fn drops(schedule: &Schedule) -> impl Iterator<Item = (f64, String)> {
    let steps = match &schedule.fall {
        Fall::Tenths(steps) => steps.as_slice(),
        Fall::Cosine => &[],
    };
    steps.iter().map(|step| (*step as f64 / schedule.epoch_steps.max(1) as f64, format!("rate {:.0e}", schedule.rate(*step))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::schedule::Order;

    #[test]
    fn curves_mark_the_best_epoch_and_where_the_rate_falls() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.jsonl");
        let epoch = |number: u32, loss: f64, is_best: bool| {
            let validation = 0.1 * f64::from(number);
            let line = serde_json::json!({ "event": "epoch", "epoch": number, "loss": loss, "validation": validation, "is_best": is_best });
            format!("{line}\n")
        };
        let start = "{\"event\":\"start\",\"epoch\":0,\"validation\":0.05,\"is_best\":true}\n";
        // The second epoch was trained twice, and the last line is cut off.
        let lines = [start, &epoch(1, 3.7, false), &epoch(2, 9.0, true), &epoch(2, 2.0, true), &epoch(3, 1.5, false), "{\"event\":"];
        std::fs::write(&log, lines.concat()).unwrap();
        let curve = earlier(&log);
        assert_eq!(curve.iter().map(|epoch| epoch.loss).collect::<Vec<_>>(), [None, Some(3.7), Some(2.0), Some(1.5)]);
        let fall = Fall::Tenths(vec![20, 90]);
        let schedule = Schedule { learning_rate: 1e-4, warm_up: 0, fall, order: Order::Passes, epoch_steps: 10, epochs: 9 };
        draw(folder.path(), &curve, &schedule).unwrap();
        let [loss, ap] = ["loss", "AP"].map(|name| std::fs::read_to_string(folder.path().join(format!("{name}.svg"))).unwrap());
        for svg in [&loss, &ap] {
            assert!(svg.contains("best: epoch 2</text>") && svg.contains("rate 1e-5</text>"), "{svg}");
            assert!(!svg.contains("rate 1e-6"), "the ninth epoch was not trained yet");
        }
        assert!(loss.contains("best: epoch 2: 2.000 at 2.000.") && ap.contains(": from 0.050 at 0.000 to 0.300 at 3.000."), "{loss} {ap}");
        assert!(loss.contains(">4</text>"), "the axis ends at a round number");
    }
}
