//! Checkpoints: `model_last.pth` with the optimiser and the place where the training stands, `.safetensors` beside it
//! to pick with, `model_best` of the best score. Each is written whole or not at all.

use super::run::{Position, Snapshot};
use crate::formats::model_file::load_checkpoint_file;
use crate::formats::pth::{self, Adam, WriteOptions};
use crate::formats::safetensors_file;
use crate::formats::state_dict::{ModelFacts, StateDict};
use crate::io::write::write_whole;
use anyhow::{Context, Result};
use std::path::Path;

const STEP: &str = "epicker.train.step";
const BEST: &str = "epicker.train.best";
const OPTIONS: &str = "epicker.train.options";

/// What a resumed training must have in common with the interrupted one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Options and data, as a fingerprint.
    pub fingerprint: String,
    /// Width of frame D.
    pub frame: usize,
    /// Side of the crops, pixels of frame N.
    pub side_n: usize,
}

impl Terms {
    fn text(&self) -> String {
        format!("{} {} {}", self.fingerprint, self.frame, self.side_n)
    }

    fn read(text: &str) -> Option<Terms> {
        let mut words = text.split(' ');
        let (fingerprint, frame, side_n) = (words.next()?, words.next()?, words.next()?);
        Some(Terms { fingerprint: fingerprint.to_owned(), frame: frame.parse().ok()?, side_n: side_n.parse().ok()? })
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
    state.metadata.insert(STEP.to_owned(), snapshot.position.step.to_string());
    state.metadata.insert(OPTIONS.to_owned(), terms.text());
    if let Some(best) = snapshot.best {
        state.metadata.insert(BEST.to_owned(), format!("{best:?}")); // the shortest text that reads back to the same bits
    }
    let epoch = Some(u64::from(snapshot.position.epoch));
    let write = WriteOptions { bare: false, epoch, optimizer: Some(&snapshot.adam) };
    write_whole(&folder.join(format!("{name}.pth")), &pth::write(&state, &write)?)?;
    write_whole(&folder.join(format!("{name}.safetensors")), &plain)
}

/// A checkpoint to go on from.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The network.
    pub state: StateDict,
    /// The optimiser.
    pub adam: Adam,
    /// Where the training stood.
    pub position: Position,
    /// The best score so far.
    pub best: Option<f64>,
    /// The terms it ran on; none of checkpoints of the original.
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
    let step = state.metadata.remove(STEP).and_then(|text| text.parse().ok()).unwrap_or(0);
    let best = state.metadata.remove(BEST).and_then(|text| text.parse().ok());
    let terms = state.metadata.remove(OPTIONS).and_then(|text| Terms::read(&text));
    let epoch = u32::try_from(checkpoint.epoch.unwrap_or(0)).with_context(|| format!("{}: epoch", path.display()))?;
    Ok(Resumed { state, adam, position: Position { epoch, step }, best, terms })
}
