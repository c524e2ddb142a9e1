//! All parameters of a network in one block of memory, and all its running statistics in another: what training reads,
//! moves and writes. The order and the shapes are those of the checkpoint.

use super::dla::Architecture;
use crate::device::{Buffer, Device};
use crate::formats::state_dict::{NamedTensor, StateDict, Values};
use crate::ops::Real;
use anyhow::{Result, bail, ensure};
use std::collections::HashMap;
use std::ops::Range;

/// One tensor's place.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name in the checkpoint.
    pub name: String,
    /// Extents in the checkpoint.
    pub shape: Vec<usize>,
    /// Where its values lie: in the block of parameters, or in that of statistics.
    pub range: Range<usize>,
}

/// Where every tensor of a network lies.
#[derive(Clone, Debug)]
pub struct ParameterLayout {
    architecture: Architecture,
    parameters: Vec<Entry>,
    statistics: Vec<Entry>,
    index: HashMap<String, usize>,
}

impl ParameterLayout {
    /// The places for a network of these widths.
    pub fn new(architecture: Architecture) -> Self {
        let (mut parameters, mut statistics): (Vec<Entry>, Vec<Entry>) = (Vec::new(), Vec::new());
        let mut index = HashMap::new();
        for (name, shape) in architecture.tensor_shapes() {
            if name.ends_with(".num_batches_tracked") {
                continue;
            }
            let is_statistic = name.ends_with(".running_mean") || name.ends_with(".running_var");
            let entries = if is_statistic { &mut statistics } else { &mut parameters };
            let start = entries.last().map_or(0, |entry| entry.range.end);
            let len: usize = shape.iter().product();
            index.insert(name.clone(), entries.len());
            entries.push(Entry { name, shape, range: start..start + len });
        }
        ParameterLayout { architecture, parameters, statistics, index }
    }

    /// What is learnt, in the checkpoint's order.
    pub fn parameters(&self) -> &[Entry] {
        &self.parameters
    }

    /// Running means and variances, in the checkpoint's order.
    pub fn statistics(&self) -> &[Entry] {
        &self.statistics
    }

    /// Number of values that are learnt.
    pub fn parameter_len(&self) -> usize {
        self.parameters.last().map_or(0, |entry| entry.range.end)
    }

    /// Number of running statistics.
    pub fn statistic_len(&self) -> usize {
        self.statistics.last().map_or(0, |entry| entry.range.end)
    }

    /// Index of a parameter.
    ///
    /// Panics if there is none of that name: the names come from the same architecture.
    pub fn parameter(&self, name: &str) -> usize {
        let i = self.index[name];
        assert!(self.parameters[i].name == name, "{name} is no parameter");
        i
    }

    /// Where a running statistic lies. Panics if there is none of that name, as above.
    pub fn statistic(&self, name: &str) -> Range<usize> {
        let entry = &self.statistics[self.index[name]];
        assert!(entry.name == name, "{name} is no running statistic");
        entry.range.clone()
    }
}

/// The values of a network in training.
#[derive(Clone, Debug)]
pub struct NetworkState<T> {
    /// What is learnt.
    pub parameters: Vec<T>,
    /// Running means and variances.
    pub statistics: Vec<T>,
    /// Batches seen, for the counters of the checkpoint.
    pub batches: i64,
}

/// The values of a network in training, on the device that trains it.
#[derive(Debug)]
pub struct NetworkMemory<T> {
    /// What is learnt.
    pub parameters: Buffer<T>,
    /// Running means and variances.
    pub statistics: Buffer<T>,
    /// Batches seen.
    pub batches: i64,
}

impl<T: Real> NetworkMemory<T> {
    /// Copies these values to a device.
    ///
    /// Errors: the device has not as much memory.
    pub fn new(device: &Device, state: NetworkState<T>) -> Result<Self> {
        let NetworkState { parameters, statistics, batches } = state;
        Ok(NetworkMemory { parameters: Buffer::of(device, parameters)?, statistics: Buffer::of(device, statistics)?, batches })
    }

    /// A copy of the values.
    ///
    /// Errors: the device fails.
    pub fn read(&self) -> Result<NetworkState<T>> {
        let all = |buffer: &Buffer<T>| buffer.read(0..buffer.len());
        Ok(NetworkState { parameters: all(&self.parameters)?, statistics: all(&self.statistics)?, batches: self.batches })
    }
}

impl<T: Real> NetworkState<T> {
    /// The values of a checkpoint.
    ///
    /// Errors: a tensor is missing or has another shape.
    pub fn from_state_dict(layout: &ParameterLayout, state: &StateDict) -> Result<Self> {
        let by_name: HashMap<&str, &NamedTensor> = state.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let read = |entries: &[Entry]| -> Result<Vec<T>> {
            let mut all = Vec::with_capacity(entries.last().map_or(0, |entry| entry.range.end));
            for entry in entries {
                let Some(tensor) = by_name.get(entry.name.as_str()) else {
                    bail!("tensor {} is missing; expected {:?}", entry.name, entry.shape);
                };
                ensure!(tensor.shape == entry.shape, "tensor {} is {:?}; expected {:?}", entry.name, tensor.shape, entry.shape);
                match &tensor.values {
                    Values::F64(values) => all.extend(values.iter().map(|&x| T::from_f64(x))),
                    values => all.extend(values.to_f32().iter().map(|&x| T::from_f64(f64::from(x)))),
                }
            }
            Ok(all)
        };
        let batches = state.tensors.iter().find_map(|tensor| match &tensor.values {
            Values::I64(counts) if tensor.name.ends_with(".num_batches_tracked") => counts.first().copied(),
            _ => None,
        });
        Ok(NetworkState { parameters: read(layout.parameters())?, statistics: read(layout.statistics())?, batches: batches.unwrap_or(0) })
    }

    /// A checkpoint of these values, in f32, with all counters.
    pub fn to_state_dict(&self, layout: &ParameterLayout) -> StateDict {
        let narrow = |values: &[T]| Values::F32(values.iter().map(|x| x.to_f64() as f32).collect());
        let tensors = layout.architecture.tensor_shapes().into_iter().map(|(name, shape)| {
            let values = if name.ends_with(".num_batches_tracked") {
                Values::I64(vec![self.batches])
            } else if name.ends_with(".running_mean") || name.ends_with(".running_var") {
                narrow(&self.statistics[layout.statistic(&name)])
            } else {
                narrow(&self.parameters[layout.parameters[layout.parameter(&name)].range.clone()])
            };
            NamedTensor { name, shape, values }
        });
        StateDict { tensors: tensors.collect(), ..StateDict::default() }
    }
}
