//! PyTorch checkpoints (`.pth`): read through an allow-list, written so that PyTorch reads them.
//!
//! A checkpoint is a pickle that describes tensors, and the bytes of their storages. Both lie together in a zip archive
//! (PyTorch 1.6 and later) or in a stream. `pickle` runs the pickle, `container` finds the bytes, `tensor` makes numbers of
//! them, `adam` reads the optimiser's state, and `write` goes the other way.
//! Source: docs/formats.md, "Model files".

mod adam;
mod container;
mod pickle;
mod tensor;
mod write;

use std::collections::HashSet;

use anyhow::{Context, Result, anyhow, bail, ensure};

pub use adam::{Adam, Moments};
pub use write::{WriteOptions, write};

use crate::formats::state_dict::{METADATA_EPOCH, NamedTensor, StateDict};
use container::{Archive, Budget, LEGACY_START, Storages, ZIP_START, read_legacy};
use pickle::{Id, Value, Values};

/// Key of the dict with our own metadata, beside `state_dict`.
const OUR_METADATA: &str = "epicker";

/// What a model file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Parameters and statistics.
    pub state: StateDict,
    /// Epochs trained, if the file says so.
    pub epoch: Option<u64>,
    /// State of the optimiser, if it was asked for and is there.
    pub optimizer: Option<Adam>,
    /// True if the file has an optimiser's state, asked for or not.
    pub has_optimizer: bool,
    /// Names of tensors that are in the file but not in `state`: the classifier `base.fc` of the ImageNet backbone.
    pub ignored: Vec<String>,
}

/// True if the bytes begin as a checkpoint of PyTorch does.
pub fn is_pth(bytes: &[u8]) -> bool {
    bytes.starts_with(ZIP_START) || bytes.starts_with(LEGACY_START)
}

/// Reads a checkpoint: `{'epoch', 'state_dict', 'optimizer'}` or a bare state dict. The optimiser is read only on request.
///
/// `module.` is taken off the names, `base.fc.*` is left out and listed in `ignored`. Integers and truth values become
/// I64, bfloat16 becomes F32 (exactly); views come out contiguous.
/// Errors: another format, a name outside the allow-list, a file cut short, tensors larger than the file can hold.
pub fn read(bytes: &[u8], with_optimizer: bool) -> Result<Checkpoint> {
    if bytes.starts_with(ZIP_START) {
        let mut archive = Archive::open(bytes)?;
        let pickle = archive.pickle()?;
        let (values, root, _) = pickle::run(&pickle).context("data.pkl")?;
        read_root(&values, root, Storages::Zip(archive), Budget::of(bytes), with_optimizer)
    } else if bytes.starts_with(LEGACY_START) {
        let (values, root, storages) = read_legacy(bytes)?;
        read_root(&values, root, storages, Budget::of(bytes), with_optimizer)
    } else {
        ensure!(
            bytes.get(257..262) != Some(b"ustar".as_slice()),
            "a tar archive of PyTorch before 0.2; expected a later checkpoint; save it again"
        );
        bail!(
            "{} bytes that begin as no checkpoint does; expected a .pth of torch.save; the file is damaged or something else",
            bytes.len()
        )
    }
}

/// True if the tensor of this name is learnt. PyTorch's optimisers number only these tensors, and not running statistics and
/// counters.
pub fn is_parameter(name: &str) -> bool {
    !["running_mean", "running_var", "num_batches_tracked"].iter().any(|buffer| name.ends_with(buffer))
}

fn read_root(values: &Values, root: Id, mut storages: Storages, mut budget: Budget, with_optimizer: bool) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::default();
    let dict = match values.entry(root, "state_dict") {
        Some(dict) => {
            read_facts(values, root, &mut checkpoint)?;
            dict
        }
        None if values.holds_tensors(root) => root,
        None => bail!("{} without state_dict and without tensors; expected a checkpoint of a model", values.get(root).kind()),
    };
    let pairs = values.dict(dict).ok_or_else(|| anyhow!("state_dict is {}; expected a dict", values.get(dict).kind()))?;

    let mut seen = HashSet::new();
    let mut parameters = Vec::new();
    for &(name, tensor) in pairs {
        let name = values.text(name).ok_or_else(|| anyhow!("a tensor's name is {}; expected text", values.get(name).kind()))?;
        let name = name.strip_prefix("module.").unwrap_or(name);
        let tensor = match values.get(tensor) {
            Value::Tensor(tensor) => tensor,
            other => bail!("{name} is {}; expected a tensor", other.kind()),
        };
        ensure!(seen.insert(name), "two tensors are named {name}; expected each name once");
        let kept = !name.starts_with("base.fc.");
        if is_parameter(name) {
            parameters.push(adam::Parameter { name, extents: &tensor.extents, kept });
        }
        if kept {
            let numbers = storages.read(tensor, &mut budget).with_context(|| name.to_owned())?;
            checkpoint.state.tensors.push(NamedTensor { name: name.to_owned(), shape: tensor.shape()?, values: numbers });
        } else {
            checkpoint.ignored.push(name.to_owned());
        }
    }
    ensure!(!checkpoint.state.tensors.is_empty(), "state_dict is empty; expected the tensors of a model");

    if let Some(optimizer) = values.entry(root, "optimizer").filter(|_| dict != root) {
        checkpoint.has_optimizer = true;
        if with_optimizer {
            checkpoint.optimizer = Some(adam::read(values, optimizer, &parameters, &mut storages, &mut budget).context("optimizer")?);
        }
    }
    Ok(checkpoint)
}

/// The epoch, and our own metadata.
fn read_facts(values: &Values, root: Id, checkpoint: &mut Checkpoint) -> Result<()> {
    if let Some(epoch) = values.entry(root, "epoch") {
        let epoch = values.count(epoch).context("epoch")?;
        checkpoint.epoch = Some(epoch);
        checkpoint.state.metadata.insert(METADATA_EPOCH.to_owned(), epoch.to_string());
    }
    for &(key, value) in values.entry(root, OUR_METADATA).and_then(|id| values.dict(id)).unwrap_or_default() {
        if let (Some(key), Some(value)) = (values.text(key), values.text(value)) {
            checkpoint.state.metadata.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(())
}
