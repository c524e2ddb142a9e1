//! The state of PyTorch's Adam optimiser in a checkpoint.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::container::{Budget, Storages};
use super::pickle::{Id, Value, Values};
use crate::formats::state_dict;

/// State of the optimiser Adam, with parameters by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate of the next step.
    pub learning_rate: f64,
    /// Decay of the first and of the second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay (0 in the original).
    pub weight_decay: f64,
    /// Moments of the parameters that were stepped at least once, in the order of the model.
    pub moments: Vec<Moments>,
}

/// What Adam remembers of one parameter; arrays are row-major in the parameter's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Name of the parameter, without a leading `module.`.
    pub name: String,
    /// Steps taken.
    pub step: u64,
    /// Running mean of the gradient (`exp_avg`).
    pub first: Vec<f32>,
    /// Running mean of its square (`exp_avg_sq`).
    pub second: Vec<f32>,
}

/// A parameter of the model as the optimiser counts them: name, shape, and whether it is kept.
pub(super) struct Parameter<'a> {
    pub(super) name: &'a str,
    pub(super) extents: &'a [u64],
    pub(super) kept: bool,
}

/// Reads the optimiser's dict. The optimiser knows parameters by number, in the order of the model.
///
/// Errors: another optimiser than Adam, or one that does not fit the parameters.
pub(super) fn read(values: &Values, optimizer: Id, parameters: &[Parameter], storages: &mut Storages, budget: &mut Budget) -> Result<Adam> {
    let groups = values.entry(optimizer, "param_groups").and_then(|id| values.entries(id)).ok_or_else(|| anyhow!("no param_groups"))?;
    let first = *groups.first().ok_or_else(|| anyhow!("param_groups is empty"))?;
    let number = |key: &str| {
        values
            .entry(first, key)
            .and_then(|id| values.number(id))
            .filter(|value| value.is_finite())
            .ok_or_else(|| anyhow!("no number {key}; expected Adam"))
    };
    let betas = values.entry(first, "betas").and_then(|id| values.entries(id)).unwrap_or_default();
    let betas: Vec<f64> = betas.iter().filter_map(|&beta| values.number(beta)).collect();
    let betas: [f64; 2] = betas.try_into().map_err(|_| anyhow!("no pair betas; expected Adam"))?;

    // Before PyTorch 1.4 the numbers of parameters were the addresses of tensors, so only their order in the groups counts.
    let mut numbers = Vec::new();
    for &group in groups {
        let list = values.entry(group, "params").and_then(|id| values.entries(id)).ok_or_else(|| anyhow!("a group without params"))?;
        numbers.extend_from_slice(list);
    }
    ensure!(numbers.len() == parameters.len(), "{} parameters; expected {}, as many as in state_dict", numbers.len(), parameters.len());

    let state = values.entry(optimizer, "state").and_then(|id| values.dict(id)).ok_or_else(|| anyhow!("no state"))?;
    let mut state_of = HashMap::new();
    for &(key, entry) in state {
        state_of.insert(values.count(key)?, entry);
    }
    let mut moments = Vec::new();
    for (parameter, &number) in parameters.iter().zip(&numbers) {
        let Some(&entry) = state_of.get(&values.count(number)?) else { continue };
        if parameter.kept {
            moments
                .push(read_moments(values, entry, parameter, storages, budget).with_context(|| format!("parameter {}", parameter.name))?);
        }
    }
    Ok(Adam { learning_rate: number("lr")?, betas, eps: number("eps")?, weight_decay: number("weight_decay").unwrap_or(0.0), moments })
}

fn read_moments(values: &Values, entry: Id, parameter: &Parameter, storages: &mut Storages, budget: &mut Budget) -> Result<Moments> {
    let mut floats = |key: &str| -> Result<Vec<f32>> {
        let tensor = values.entry(entry, key).and_then(|id| values.tensor(id)).ok_or_else(|| anyhow!("no tensor {key}; expected Adam"))?;
        ensure!(tensor.extents == parameter.extents, "{key} has shape {:?}; expected {:?}", tensor.extents, parameter.extents);
        Ok(match storages.read(tensor, budget)? {
            state_dict::Values::F32(floats) => floats,
            other => other.to_f32(),
        })
    };
    let (first, second) = (floats("exp_avg")?, floats("exp_avg_sq")?);
    let step = values.entry(entry, "step").ok_or_else(|| anyhow!("no step"))?;
    let step = match values.get(step) {
        // The step is a tensor since PyTorch 1.12, and was a number before.
        Value::Tensor(tensor) => {
            ensure!(tensor.numel()? == 1, "step has shape {:?}; expected one number", tensor.extents);
            storages.read(tensor, budget)?.to_f32().first().copied().map(f64::from)
        }
        _ => values.number(step),
    };
    match step {
        Some(step) if step >= 0.0 && step.fract() == 0.0 && step < 1e15 => {
            Ok(Moments { name: parameter.name.to_owned(), step: step as u64, first, second })
        }
        Some(step) => bail!("step is {step}; expected a count"),
        None => bail!("step is no number"),
    }
}
