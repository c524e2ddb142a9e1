//! A network with weights: what a checkpoint holds, checked against the architecture that the shapes of its tensors spell.

use super::dla::Architecture;
use crate::formats::state_dict::{ModelFacts, StateDict};
use anyhow::{Result, bail, ensure};
use std::collections::HashMap;

/// A network with weights.
#[derive(Clone, Debug)]
pub struct Model {
    architecture: Architecture,
    tensors: HashMap<String, Vec<f32>>,
    facts: ModelFacts,
    name: String,
    sha256: String,
}

impl Model {
    /// Checks a checkpoint's tensors against the architecture that they spell.
    ///
    /// Errors: a tensor is missing or has another shape; all that the network needs is compared before anything is used.
    pub fn from_state(state: &StateDict, name: String, sha256: String) -> Result<Self> {
        let architecture = architecture_of(state)?;
        let mut tensors = HashMap::new();
        let mut wrong = Vec::new();
        let by_name: HashMap<&str, _> = state.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for (name, shape) in architecture.tensor_shapes() {
            if name.ends_with(".num_batches_tracked") {
                continue; // has no effect on anything computed here
            }
            match by_name.get(name.as_str()) {
                Some(tensor) if tensor.shape == shape => {
                    tensors.insert(name, tensor.values.to_f32());
                }
                Some(tensor) => wrong.push(format!("{name} is {:?}, expected {shape:?}", tensor.shape)),
                None => wrong.push(format!("{name} is missing, expected {shape:?}")),
            }
        }
        if let Some(first) = wrong.first() {
            bail!(
                "{} of the tensors do not fit a DLA-34 of widths {:?}: {first}; is this an EPicker model?",
                wrong.len(),
                architecture.channels
            );
        }
        let facts = ModelFacts::from_metadata(&state.metadata)?;
        Ok(Model { architecture, tensors, facts, name, sha256 })
    }

    /// The widths.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// A tensor's values, row-major as in the checkpoint.
    ///
    /// Errors: the architecture has no tensor of this name.
    pub fn tensor(&self, name: &str) -> Result<&[f32]> {
        match self.tensors.get(name) {
            Some(values) => Ok(values),
            None => bail!("{}: has no tensor {name}", self.name),
        }
    }

    /// What the file says of the model: mode, size of the particles, threshold.
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// Name of the file, without its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the file, lower-case hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// Reads the widths from the shapes of the tensors that spell them.
fn architecture_of(state: &StateDict) -> Result<Architecture> {
    let outputs = |name: &str| -> Result<usize> {
        let Some(tensor) = state.get(name) else {
            bail!("tensor {name} is missing; expected a DLA-34 with deformable convolutions, as EPicker writes it");
        };
        ensure!(tensor.shape.len() == 4 && tensor.shape[0] > 0, "tensor {name} is {:?}; expected four extents", tensor.shape);
        Ok(tensor.shape[0])
    };
    let channels = [
        outputs("base.base_layer.0.weight")?,
        outputs("base.level1.0.weight")?,
        outputs("base.level2.root.conv.weight")?,
        outputs("base.level3.tree2.root.conv.weight")?,
        outputs("base.level4.tree2.root.conv.weight")?,
        outputs("base.level5.root.conv.weight")?,
    ];
    let architecture = Architecture { channels, head: outputs("hm.0.weight")? };
    // A file of a few bytes may name any width. Its tensors have been read by now, so this only refuses odd numbers.
    ensure!(
        channels.iter().all(|&c| c <= 4096) && architecture.head <= 4096,
        "widths {channels:?}, head {}; expected at most 4096",
        architecture.head
    );
    Ok(architecture)
}
