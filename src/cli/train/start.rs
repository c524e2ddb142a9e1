//! The network that a training starts with: a new one, a model, or that of an interrupted training.

use super::args::TrainArgs;
use crate::formats::state_dict::{ModelFacts, StateDict, Values};
use crate::io::model_source::ModelSource;
use crate::net::{Architecture, Model};
use crate::train::checkpoint::{self, Resumed};
use anyhow::{Context, Result, ensure};

/// What the history of a model says of a training that began with a new network.
const FROM_NOTHING: &str = "nothing";

/// The network that a training starts with.
pub(super) struct Start {
    pub(super) state: StateDict,
    pub(super) architecture: Architecture,
    /// The interrupted training, if this one goes on with it.
    pub(super) resumed: Option<Resumed>,
    /// The model that was loaded, for continual learning.
    pub(super) earlier: Option<StateDict>,
    /// True if every tensor is that of a model, and none starts anew.
    pub(super) is_whole_model: bool,
    /// What the model, or the interrupted training, says of itself.
    pub(super) facts: ModelFacts,
    /// SHA-256 of the model's file, or the word `nothing`.
    pub(super) from: String,
    /// What the model is called in messages.
    pub(super) name: Option<String>,
}

/// The checkpoint that `--resume` means. It is the last model. If there is none, a training was killed after it had written its
/// first best model and before it had written the last one; then it is the best model, which is of the same step and says the
/// same.
///
/// Errors: neither is there, or it cannot be read.
pub(super) fn interrupted_training(args: &TrainArgs) -> Result<Option<Resumed>> {
    if !args.resume {
        return Ok(None);
    }
    let [last, best] = [checkpoint::LAST, checkpoint::BEST_NAME].map(|name| args.exp_id.join(format!("{name}.pth")));
    let path = if best.is_file() && !last.is_file() { best } else { last };
    ensure!(path.is_file(), "{}: cannot be found; expected the checkpoint to go on from; check --exp_id", path.display());
    checkpoint::load(&path).map(Some)
}

impl Start {
    /// Loads the network. `lines` tell what was taken of a model.
    ///
    /// Errors: a model cannot be read, or nothing of it fits.
    pub(super) fn load(
        args: &TrainArgs,
        source: Option<ModelSource>,
        interrupted: Option<Resumed>,
        lines: &mut Vec<String>,
    ) -> Result<Start> {
        let loaded = match &source {
            Some(source) => Some(source.checkpoint(false).context("without --from-scratch a training starts from a model")?.state),
            None => None,
        };
        let from = match &source {
            Some(source) => source.sha256()?,
            None => FROM_NOTHING.to_owned(),
        };
        if let Some(resumed) = interrupted {
            let architecture = Model::from_state(&resumed.state, checkpoint::LAST.to_owned(), String::new())?.architecture();
            let facts = ModelFacts::from_metadata(&resumed.state.metadata)?;
            return Ok(Start {
                state: resumed.state.clone(),
                architecture,
                earlier: loaded,
                is_whole_model: true,
                facts,
                resumed: Some(resumed),
                from,
                name: None,
            });
        }
        let Some((source, loaded)) = source.zip(loaded) else {
            let architecture = args.architecture();
            lines.push(format!("a new network of widths {:?}, head {}", architecture.channels, architecture.head));
            let state = crate::net::fresh::state_dict(architecture, args.seed);
            let facts = ModelFacts::default();
            return Ok(Start { state, architecture, resumed: None, earlier: None, is_whole_model: false, facts, from, name: None });
        };
        let name = source.to_string();
        // A whole model says its own widths. If the file holds only a part of a network, that part goes into a new network of
        // the widths that are asked for.
        let whole = Model::from_state(&loaded, name.clone(), String::new());
        let architecture = whole.map_or_else(|_| args.architecture(), |model| model.architecture());
        let mut state = crate::net::fresh::state_dict(architecture, args.seed);
        let is_whole_model = take_matching(&mut state, &loaded, &name, lines)?;
        let facts = ModelFacts::from_metadata(&loaded.metadata)?;
        let name = match source {
            ModelSource::General(name) => format!("the general model {name}"),
            ModelSource::File(_) => name,
        };
        Ok(Start { state, architecture, resumed: None, earlier: Some(loaded), is_whole_model, facts, from, name: Some(name) })
    }

    /// True if this training began with a new network, which knew nothing.
    pub(super) fn is_from_nothing(&self) -> bool {
        match self.resumed {
            None => self.earlier.is_none(),
            Some(_) => self.facts.history.len() == 1 && self.facts.history[0].ends_with(&format!("from {FROM_NOTHING}")),
        }
    }
}

/// Puts every tensor of `loaded` that fits into `state`, and says which ones do not fit. Returns true if all do.
///
/// Errors: none fits.
fn take_matching(state: &mut StateDict, loaded: &StateDict, name: &str, lines: &mut Vec<String>) -> Result<bool> {
    let (mut taken, mut missing, mut other) = (0, Vec::new(), Vec::new());
    for tensor in &mut state.tensors {
        match loaded.get(&tensor.name) {
            Some(found) if found.shape == tensor.shape => {
                tensor.values = match (&found.values, &tensor.values) {
                    (Values::I64(counts), _) => Values::I64(counts.clone()),
                    (values, _) => Values::F32(values.to_f32()),
                };
                taken += 1;
            }
            Some(found) => other.push(format!("{} {:?} for {:?}", tensor.name, found.shape, tensor.shape)),
            None if tensor.name.ends_with(".num_batches_tracked") => {} // has no effect
            None => missing.push(tensor.name.clone()),
        }
    }
    ensure!(taken > 0, "{name}: none of its {} tensors fits; expected a model of this family; is it one?", loaded.tensors.len());
    let unknown: Vec<&str> = loaded.tensors.iter().map(|tensor| tensor.name.as_str()).filter(|name| state.get(name).is_none()).collect();
    lines.push(format!("{name}: {taken} of {} tensors taken", state.tensors.len()));
    let mut tell = |what: &str, names: &[String]| {
        if !names.is_empty() {
            let dots = if names.len() > 3 { ", ..." } else { "" };
            lines.push(format!("  {} {what}: {}{dots}", names.len(), names[..names.len().min(3)].join(", ")));
        }
    };
    tell("start anew, as the model lacks them", &missing);
    tell("start anew, as the model's have another shape", &other);
    tell("of the model are not used", &unknown.into_iter().map(str::to_owned).collect::<Vec<_>>());
    Ok(missing.is_empty() && other.is_empty())
}
