//! The weights that a training from nothing starts with. Every number is a hash of the seed, the tensor's name and its
//! index, so they do not depend on an order.
//!
//! | tensors | value |
//! |---|---|
//! | convolutions, and the bias of the heat map's hidden layer | uniform within 1 / sqrt(fan in) |
//! | deformable convolutions | uniform within 1 / sqrt(9 ci), bias 0 |
//! | offsets | 0, so every sample lies on its pixel and every mask is 0.5 |
//! | enlargements | bilinear interpolation |
//! | gamma, running variance; beta, running mean | 1; 0 |
//! | hm.2.bias; other biases of the heads | -2.19, a score of 0.1; 0 |
//!
//! Source: He et al. 2015, arXiv:1502.01852, with a = sqrt 5 as PyTorch has it; docs/network.md, section 3.4.

use super::dla::Architecture;
use crate::formats::state_dict::{NamedTensor, StateDict, Values};
use crate::net::formula::fnv1a64;
use crate::random::splitmix64;

/// A new network of these widths.
pub fn state_dict(architecture: Architecture, seed: u64) -> StateDict {
    let tensors = architecture.tensor_shapes().into_iter().map(|(name, shape)| {
        let values = if name.ends_with(".num_batches_tracked") {
            Values::I64(vec![0])
        } else {
            Values::F32(values(architecture, &name, &shape, seed))
        };
        NamedTensor { name, shape, values }
    });
    StateDict { tensors: tensors.collect(), ..StateDict::default() }
}

fn values(architecture: Architecture, name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let len: usize = shape.iter().product();
    let key = splitmix64(splitmix64(seed) ^ fnv1a64(name));
    let uniform = |bound: f64| -> Vec<f32> {
        let unit = |i: usize| (splitmix64(key.wrapping_add(i as u64)) >> 40) as f64 / 16_777_216.0;
        (0..len).map(|i| (bound * (2.0 * unit(i) - 1.0)) as f32).collect()
    };
    match shape {
        _ if name.contains("conv_offset_mask") => vec![0.0; len],
        [_, 1, k, _] if name.contains(".up_") => {
            let f = *k as f64 / 2.0;
            let centre = (2.0 * f - 1.0 - f % 2.0) / (2.0 * f);
            let t = |i: usize| 1.0 - (i as f64 / f - centre).abs();
            (0..len).map(|i| (t(i / k % k) * t(i % k)) as f32).collect()
        }
        [_, ci, kh, kw] => uniform(1.0 / ((ci * kh * kw) as f64).sqrt()),
        _ if name == "hm.2.bias" => vec![-2.19; len],
        // The fan in of its weights: a 3x3 window of the map that feeds the heads, as wide as level 2.
        _ if name == "hm.0.bias" => uniform(1.0 / ((9 * architecture.channels[2]) as f64).sqrt()),
        _ if name.ends_with(".weight") || name.ends_with(".running_var") => vec![1.0; len],
        _ => vec![0.0; len],
    }
}
