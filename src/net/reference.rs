//! The naive walk: every node is computed by its formula in f64 (or f32), and nothing is folded, fused or left out. Plans are held
//! to what it gives.

use super::graph::{Graph, NodeId, NodeOp};
use super::model::Model;
use crate::ops::conv::ConvShape;
use crate::ops::deform_conv::DeformConvShape;
use crate::ops::max_pool::MaxPoolShape;
use crate::ops::up_conv::UpConvShape;
use crate::ops::{Real, batch_norm, conv, deform_conv, max_pool, real::convert, up_conv};
use anyhow::Result;

/// Every map of the network, in evaluation mode, for `n` images of `[h, w]`.
///
/// Shapes: `image` (n, h, w), one channel that stands for the three equal ones; the maps are (n, h', w', c) in the order
/// of the graph's nodes.
/// Errors: the model lacks a tensor.
pub fn forward<T: Real>(graph: &Graph, model: &Model, image: &[T], n: usize, [h, w]: [usize; 2]) -> Result<Vec<Vec<T>>> {
    let mut maps: Vec<Vec<T>> = Vec::with_capacity(graph.nodes().len());
    for (i, node) in graph.nodes().iter().enumerate() {
        let tensor = |suffix: &str| model.tensor(&format!("{}.{suffix}", node.name)).map(convert::<T>);
        let input = |k: usize| node.inputs[k];
        let inp = |k: usize| maps[input(k).0].as_slice();
        let map = match node.op {
            NodeOp::Input => image.iter().flat_map(|&value| [value; 3]).collect(),
            NodeOp::Conv { kernel, stride, bias } => {
                let [h, w] = graph.extent(input(0), [h, w]);
                let shape = ConvShape { n, h, w, ci: graph.node(input(0)).channels, co: node.channels, kernel, stride };
                let bias = if bias { tensor("bias")? } else { Vec::new() };
                conv::reference(shape, inp(0), &tensor("weight")?, &bias, None, false)
            }
            NodeOp::Norm => batch_norm::reference(
                inp(0),
                &tensor("weight")?,
                &tensor("bias")?,
                &tensor("running_mean")?,
                &tensor("running_var")?,
                false,
            ),
            NodeOp::Relu => inp(0).iter().map(|&x| if x < T::default() { T::default() } else { x }).collect(),
            NodeOp::Add => inp(0).iter().zip(inp(1)).map(|(&a, &b)| a + b).collect(),
            NodeOp::MaxPool { window } => {
                let [h, w] = graph.extent(input(0), [h, w]);
                max_pool::reference(MaxPoolShape { n, h, w, c: node.channels, window }, inp(0))
            }
            NodeOp::Concat => {
                let [h, w] = graph.extent(NodeId(i), [h, w]);
                let mut joined = Vec::with_capacity(n * h * w * node.channels);
                for pixel in 0..n * h * w {
                    for &input in &node.inputs {
                        let c = graph.node(input).channels;
                        joined.extend_from_slice(&maps[input.0][pixel * c..(pixel + 1) * c]);
                    }
                }
                joined
            }
            NodeOp::DeformConv => {
                let [h, w] = graph.extent(input(0), [h, w]);
                let shape = DeformConvShape { n, h, w, ci: graph.node(input(0)).channels, co: node.channels };
                deform_conv::reference(shape, inp(0), inp(1), &tensor("weight")?, &tensor("bias")?, false)
            }
            NodeOp::UpConv { factor } => {
                let [h, w] = graph.extent(input(0), [h, w]);
                up_conv::reference(UpConvShape { n, h, w, c: node.channels, factor }, inp(0), &tensor("weight")?, None)
            }
        };
        maps.push(map);
    }
    Ok(maps)
}
