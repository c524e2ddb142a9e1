//! A network whose weights follow a formula: the same on every machine, so that tests and speed measurements of the
//! full network need no model file. It picks nothing sensible.
//!
//! With u in 0..1 from 24 bits of a hash of a tensor's name and row-major index, and fan = all extents but the first:
//!
//! | tensors | value |
//! |---|---|
//! | convolutions, also of the heads' hidden layers | sqrt(3 / fan) * 1.2 * (2u - 1) |
//! | heads' last layers; deformable; offsets | the same with 1.0; 2.0; 0.2 |
//! | bias of the offsets | 0.5 (2u - 1) |
//! | enlargements, f = kernel / 2, t(a) = 1 - abs(a / f - (2f - 1 - f mod 2) / (2f)) | t(row) t(column) (1 + 0.2 (2u - 1)) |
//! | gamma, running variance | 0.5 + u |
//! | all other biases, beta, running mean | 0.1 (2u - 1), of `hm.2.bias` 2.19 less |

use super::dla::Architecture;
use super::model::Model;
use crate::formats::state_dict::{NamedTensor, StateDict, Values};
use crate::random::splitmix64;
use anyhow::Result;

/// FNV-1a of a text. Source: Fowler, Noll, Vo; draft-eastlake-fnv.
pub fn fnv1a64(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The network of these widths, as a checkpoint.
pub fn state_dict(architecture: Architecture) -> StateDict {
    let tensors = architecture.tensor_shapes().into_iter().map(|(name, shape)| {
        let values = if name.ends_with(".num_batches_tracked") { Values::I64(vec![0]) } else { Values::F32(values_of(&name, &shape)) };
        NamedTensor { name, shape, values }
    });
    StateDict { tensors: tensors.collect(), ..StateDict::default() }
}

/// The network of these widths.
///
/// Errors: none in practice; those of a checkpoint that does not fit.
pub fn model(architecture: Architecture) -> Result<Model> {
    Model::from_state(&state_dict(architecture), "formula".into(), String::new())
}

fn values_of(name: &str, shape: &[usize]) -> Vec<f32> {
    let seed = fnv1a64(name);
    let len: usize = shape.iter().product();
    let fan: usize = shape.iter().skip(1).product();
    let last_of_head = ["hm.2.weight", "wh.2.weight", "reg.2.weight"].contains(&name);
    let is_offset = name.contains("conv_offset_mask");
    let is_deformable = !is_offset && name.ends_with(".conv.weight") && (name.contains(".proj_") || name.contains(".node_"));
    let value = |i: usize| -> f64 {
        let u = (splitmix64(seed.wrapping_add(i as u64)) >> 40) as f64 / 16_777_216.0;
        if shape.len() == 4 && name.contains(".up_") {
            let (k, f) = (shape[3], shape[3] as f64 / 2.0);
            let centre = (2.0 * f - 1.0 - f % 2.0) / (2.0 * f);
            let t = |a: usize| 1.0 - (a as f64 / f - centre).abs();
            (t(i / k % k) * t(i % k)) * (1.0 + 0.2 * (2.0 * u - 1.0))
        } else if shape.len() == 4 {
            let gain = match () {
                () if last_of_head => 1.0,
                () if is_offset => 0.2,
                () if is_deformable => 2.0,
                () => 1.2,
            };
            ((3.0 / fan as f64).sqrt() * gain) * (2.0 * u - 1.0)
        } else if is_offset {
            0.5 * (2.0 * u - 1.0)
        } else if name.ends_with("running_var") || name.ends_with(".weight") {
            0.5 + u
        } else if name == "hm.2.bias" {
            -2.19 + 0.1 * (2.0 * u - 1.0)
        } else {
            0.1 * (2.0 * u - 1.0)
        }
    };
    (0..len).map(|i| value(i) as f32).collect()
}
