//! Checkpoints. `model_last.pth` holds the network, the optimiser and the place where the training stands; a `.safetensors`
//! beside it is for picking; `model_best` is the network of the best score. Each file is written whole or not at all.

use super::run::{Best, Position, Snapshot, Standing};
use super::schedule::Schedule;
use crate::formats::model_file::load_checkpoint_file;
use crate::formats::pth::{self, Adam, WriteOptions};
use crate::formats::safetensors_file;
use crate::formats::state_dict::{ModelFacts, StateDict};
use crate::io::write::write_whole;
use anyhow::{Context, Result};
use std::path::Path;

const STEP: &str = "epicker.train.step";
const START: &str = "epicker.train.start";
const BEST: &str = "epicker.train.best";
const BEST_EPOCH: &str = "epicker.train.best_epoch";
const HIGHEST: &str = "epicker.train.highest";
const OPTIONS: &str = "epicker.train.options";

/// What a resumed training must have in common with the interrupted one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// Options and data, as a fingerprint.
    pub fingerprint: String,
    /// Width of frame D.
    pub frame: usize,
    /// Side of the crops, pixels of frame N.
    pub side_n: usize,
    /// Images of a step. Older checkpoints do not have it.
    pub batch: Option<usize>,
    /// Learning rates and steps. Older checkpoints do not have them.
    pub schedule: Option<Schedule>,
    /// True if batch norms keep the statistics of the model that the training started with. In older checkpoints they moved.
    pub keeps_statistics: bool,
}

/// The last word of terms whose norms keep their statistics.
const KEPT: &str = " kept";

impl Terms {
    /// The terms as words with blanks between them: fingerprint, frame, side, batch, the words of the schedule, and
    /// `kept` if the norms keep their statistics.
    fn text(&self) -> String {
        let mut text = format!("{} {} {}", self.fingerprint, self.frame, self.side_n);
        if let (Some(batch), Some(schedule)) = (self.batch, &self.schedule) {
            text.push_str(&format!(" {batch} {}", schedule.to_text()));
        }
        if self.keeps_statistics {
            text.push_str(KEPT);
        }
        text
    }

    fn read(text: &str) -> Option<Terms> {
        let (text, keeps_statistics) = text.strip_suffix(KEPT).map_or((text, false), |text| (text, true));
        let words: Vec<&str> = text.splitn(5, ' ').collect();
        Some(Terms {
            fingerprint: (*words.first()?).to_owned(),
            frame: words.get(1)?.parse().ok()?,
            side_n: words.get(2)?.parse().ok()?,
            batch: words.get(3).and_then(|word| word.parse().ok()),
            schedule: words.get(4).and_then(|text| Schedule::from_text(text)),
            keeps_statistics,
        })
    }
}

/// Name of the last model without extension.
pub const LAST: &str = "model_last";
/// Name of the best model without extension.
pub const BEST_NAME: &str = "model_best";

/// Writes a snapshot as `NAME.pth` (with the optimiser) and `NAME.safetensors` into the folder. `terms` are what a
/// resumed training must have in common with this one.
///
/// Errors: a file cannot be written; the earlier one is then still there.
pub fn save(folder: &Path, name: &str, snapshot: &Snapshot, facts: &ModelFacts, terms: &Terms) -> Result<()> {
    let mut state = snapshot.state.clone();
    facts.write_to(&mut state.metadata);
    let plain = safetensors_file::write(&state)?;
    // A threshold applies to .safetensors alone: callers of the original expect every peak of a .pth.
    state.metadata.remove("epicker.threshold");
    let Standing { position, start, best } = snapshot.standing;
    let mut note = |key: &str, value: String| state.metadata.insert(key.to_owned(), value);
    note(STEP, position.step.to_string());
    note(OPTIONS, terms.text());
    // A float in debug form is the shortest text that reads back to the same bits.
    if let Some(start) = start {
        note(START, format!("{start:?}"));
    }
    if let Some(best) = best {
        note(BEST, format!("{:?}", best.value));
        note(BEST_EPOCH, best.epoch.to_string());
        note(HIGHEST, format!("{:?}", best.highest));
    }
    let epoch = Some(u64::from(position.epoch));
    let write = WriteOptions { bare: false, epoch, optimizer: Some(&snapshot.adam) };
    // The .pth says where the training stands, so it is written last. A training that is killed between the two files goes on
    // from the .pth before, and writes both again.
    write_whole(&folder.join(format!("{name}.safetensors")), &plain)?;
    write_whole(&folder.join(format!("{name}.pth")), &pth::write(&state, &write)?)
}

/// A checkpoint to go on from.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The network.
    pub state: StateDict,
    /// The optimiser.
    pub adam: Adam,
    /// Where the training stood, and how good it was so far.
    pub standing: Standing,
    /// The terms that the training ran on. Checkpoints of the original have none.
    pub terms: Option<Terms>,
}

/// Reads a checkpoint of ours or of the original.
///
/// Errors: the file cannot be read, or holds no optimiser.
pub fn load(path: &Path) -> Result<Resumed> {
    let checkpoint = load_checkpoint_file(path, true)?;
    let adam = checkpoint.optimizer.with_context(|| {
        format!("{}: no optimiser in it; expected a checkpoint of a training; start from it with --load_model instead", path.display())
    })?;
    let mut state = checkpoint.state;
    let mut text = |key: &str| state.metadata.remove(key);
    let step = text(STEP).and_then(|text| text.parse().ok()).unwrap_or(0);
    let start = text(START).and_then(|text| text.parse().ok());
    let best_epoch = text(BEST_EPOCH).and_then(|text| text.parse().ok()).unwrap_or(0);
    let highest = text(HIGHEST).and_then(|text| text.parse().ok());
    let best = text(BEST).and_then(|text| text.parse().ok());
    let best = best.map(|value| Best { epoch: best_epoch, value, highest: highest.unwrap_or(value) });
    let terms = text(OPTIONS).and_then(|text| Terms::read(&text));
    let epoch = u32::try_from(checkpoint.epoch.unwrap_or(0)).with_context(|| format!("{}: epoch", path.display()))?;
    Ok(Resumed { state, adam, standing: Standing { position: Position { epoch, step }, start, best }, terms })
}
