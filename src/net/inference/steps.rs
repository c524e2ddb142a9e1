//! From nodes to the steps of inference. Branches that no wanted map needs are dropped, equal poolings are shared, norms are folded
//! into the convolution before them, a single reader is fused into the step that it reads, and a concatenation is a place alone.

use crate::net::graph::{Graph, NodeId, NodeOp};
use crate::net::lowering::{Lowering, Parts};
use crate::net::model::Model;
use crate::ops::batch_norm::{Statistics, fold};
use anyhow::Result;

/// What a step computes, with its weights in PyTorch's order.
#[derive(Clone, Debug)]
pub enum LoweredOp {
    /// Convolution, residual added, ReLU.
    Conv {
        /// Channels of the input.
        ci: usize,
        /// Rows and columns of the kernel.
        kernel: usize,
        /// Step in input pixels.
        stride: usize,
        /// `[co][ci][k][k]`.
        weights: Vec<f32>,
        /// `[co]`, or empty.
        bias: Vec<f32>,
        /// True if a ReLU follows.
        relu: bool,
    },
    /// Deformable convolution of the first input by the second, ReLU.
    DeformConv {
        /// Channels of the input.
        ci: usize,
        /// `[co][ci][3][3]`.
        weights: Vec<f32>,
        /// `[co]`.
        bias: Vec<f32>,
        /// True if a ReLU follows.
        relu: bool,
    },
    /// Maximum of windows.
    MaxPool {
        /// Side of the window, and the step.
        window: usize,
    },
    /// Enlargement, and the sum with the addend.
    UpConv {
        /// How many times larger the output is.
        factor: usize,
        /// `[c][1][2f][2f]`.
        weights: Vec<f32>,
    },
}

/// One step: reads the maps of some nodes, writes that of another.
#[derive(Clone, Debug)]
pub struct LoweredStep {
    /// Module name of the first node that it does the work of.
    pub name: String,
    /// What it computes.
    pub op: LoweredOp,
    /// The maps it reads.
    pub inputs: Vec<NodeId>,
    /// A map that is added at the end.
    pub addend: Option<NodeId>,
    /// The node whose map it writes: the last of those it does the work of.
    pub output: NodeId,
}

/// The steps, and which maps are parts of larger ones.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// Steps in order.
    pub steps: Vec<LoweredStep>,
    /// The maps that are parts of a concatenation.
    pub parts: Parts,
}

/// Lowers what the `wanted` maps need. The image has one channel, which stands for three equal ones.
///
/// Errors: the model lacks a tensor.
pub fn lower(graph: &Graph, model: &Model, wanted: &[NodeId]) -> Result<Lowered> {
    let mut walk = Lowering::new(graph, graph.needed_for(wanted), wanted);
    let mut steps = Vec::new();
    for (i, node) in graph.nodes().iter().enumerate() {
        let id = NodeId(i);
        if !walk.is_open(id) {
            continue;
        }
        let mut output = id;
        let mut addend = None;
        let tensor = |name: &str, suffix: &str| model.tensor(&format!("{name}.{suffix}"));
        let statistics = |norm: NodeId| -> Result<Statistics> {
            let name = &graph.node(norm).name;
            let [gamma, beta] = [tensor(name, "weight")?, tensor(name, "bias")?];
            Ok(Statistics { gamma, beta, mean: tensor(name, "running_mean")?, variance: tensor(name, "running_var")? })
        };
        let op = match node.op {
            NodeOp::Input => continue,
            NodeOp::Concat => {
                walk.join(id);
                continue;
            }
            NodeOp::Conv { kernel, stride, bias } => {
                let mut weights = tensor(&node.name, "weight")?.to_vec();
                let mut bias = if bias { tensor(&node.name, "bias")?.to_vec() } else { Vec::new() };
                let mut ci = graph.node(node.inputs[0]).channels;
                if graph.node(node.inputs[0]).op == NodeOp::Input {
                    weights = sum_over_inputs(&weights, ci, kernel);
                    ci = 1;
                }
                if let Some((norm, _)) = walk.take(id, &mut output, NodeOp::Norm) {
                    bias = fold(statistics(norm)?, &mut weights, &bias);
                }
                addend = walk.take(id, &mut output, NodeOp::Add).and_then(|(_, other)| other);
                let relu = walk.take(id, &mut output, NodeOp::Relu).is_some();
                LoweredOp::Conv { ci, kernel, stride, weights, bias, relu }
            }
            NodeOp::DeformConv => {
                let mut weights = tensor(&node.name, "weight")?.to_vec();
                let mut bias = tensor(&node.name, "bias")?.to_vec();
                if let Some((norm, _)) = walk.take(id, &mut output, NodeOp::Norm) {
                    bias = fold(statistics(norm)?, &mut weights, &bias);
                }
                let relu = walk.take(id, &mut output, NodeOp::Relu).is_some();
                LoweredOp::DeformConv { ci: graph.node(node.inputs[0]).channels, weights, bias, relu }
            }
            NodeOp::UpConv { factor } => {
                addend = walk.take(id, &mut output, NodeOp::Add).and_then(|(_, other)| other);
                LoweredOp::UpConv { factor, weights: tensor(&node.name, "weight")?.to_vec() }
            }
            NodeOp::MaxPool { window } => LoweredOp::MaxPool { window },
            NodeOp::Norm | NodeOp::Relu | NodeOp::Add => {
                unreachable!("{}: every norm, ReLU and sum of this network follows a convolution that nobody else reads", node.name)
            }
        };
        steps.push(LoweredStep { name: node.name.clone(), op, inputs: walk.inputs(node), addend, output });
    }
    Ok(Lowered { steps, parts: walk.parts })
}

/// Weights for one channel that stands for `ci` equal ones: summed in f64, rounded once.
fn sum_over_inputs(weights: &[f32], ci: usize, kernel: usize) -> Vec<f32> {
    let taps = kernel * kernel;
    let sum = |o: usize, tap: usize| (0..ci).map(|c| f64::from(weights[(o * ci + c) * taps + tap])).sum::<f64>() as f32;
    (0..weights.len() / ci).map(|i| sum(i / taps, i % taps)).collect()
}
