//! From nodes to the steps of inference. Branches that no wanted map needs are dropped, equal poolings are shared, norms are folded
//! into the convolution before them, a single reader is fused into the step that it reads, and a concatenation is a place alone.

use crate::net::graph::{Graph, NodeId, NodeOp};
use crate::net::lowering::{Lowering, Parts};
use crate::net::model::Model;
use crate::ops::batch_norm::{Statistics, fold};
use anyhow::Result;

/// What a step computes.
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
        /// Weights `[co][ci][k][k]`, and a bias.
        parameters: Parameters,
        /// True if a ReLU follows.
        relu: bool,
    },
    /// Deformable convolution of the first input by the second, ReLU.
    DeformConv {
        /// Channels of the input.
        ci: usize,
        /// Weights `[co][ci][3][3]`, and a bias.
        parameters: Parameters,
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
        /// Weights `[c][1][2f][2f]`.
        parameters: Parameters,
    },
}

/// The tensors of a model that make a step's weights and bias, which are found only when they are packed: so a step's copies are gone
/// before those of the next are made.
#[derive(Clone, Debug)]
pub struct Parameters {
    name: String,
    has_bias: bool,
    /// The norm that is folded into them.
    norm: Option<String>,
    /// Equal channels of the input that became one, and taps.
    summed: Option<[usize; 2]>,
}

impl Parameters {
    /// Weights in PyTorch's order, and the bias `[co]`, or empty.
    ///
    /// Errors: the model lacks a tensor.
    pub fn of(&self, model: &Model) -> Result<(Vec<f32>, Vec<f32>)> {
        let tensor = |name: &str, suffix: &str| model.tensor(&format!("{name}.{suffix}"));
        let weights = tensor(&self.name, "weight")?;
        let mut weights = match self.summed {
            Some([ci, taps]) => sum_over_inputs(weights, ci, taps),
            None => weights.to_vec(),
        };
        let mut bias = if self.has_bias { tensor(&self.name, "bias")?.to_vec() } else { Vec::new() };
        if let Some(norm) = &self.norm {
            let [gamma, beta] = [tensor(norm, "weight")?, tensor(norm, "bias")?];
            let (mean, variance) = (tensor(norm, "running_mean")?, tensor(norm, "running_var")?);
            bias = fold(Statistics { gamma, beta, mean, variance }, &mut weights, &bias);
        }
        Ok((weights, bias))
    }
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
pub fn lower(graph: &Graph, wanted: &[NodeId]) -> Lowered {
    let mut walk = Lowering::new(graph, graph.needed_for(wanted), wanted);
    let mut steps = Vec::new();
    for (i, node) in graph.nodes().iter().enumerate() {
        let id = NodeId(i);
        if !walk.is_open(id) {
            continue;
        }
        let mut output = id;
        let mut addend = None;
        let mut parameters = Parameters { name: node.name.clone(), has_bias: false, norm: None, summed: None };
        let op = match node.op {
            NodeOp::Input => continue,
            NodeOp::Concat => {
                walk.join(id);
                continue;
            }
            NodeOp::Conv { kernel, stride, bias } => {
                parameters.has_bias = bias;
                let mut ci = graph.node(node.inputs[0]).channels;
                if graph.node(node.inputs[0]).op == NodeOp::Input {
                    parameters.summed = Some([ci, kernel * kernel]);
                    ci = 1;
                }
                parameters.norm = walk.take(id, &mut output, NodeOp::Norm).map(|(norm, _)| graph.node(norm).name.clone());
                addend = walk.take(id, &mut output, NodeOp::Add).and_then(|(_, other)| other);
                let relu = walk.take(id, &mut output, NodeOp::Relu).is_some();
                LoweredOp::Conv { ci, kernel, stride, parameters, relu }
            }
            NodeOp::DeformConv => {
                parameters.has_bias = true;
                parameters.norm = walk.take(id, &mut output, NodeOp::Norm).map(|(norm, _)| graph.node(norm).name.clone());
                let relu = walk.take(id, &mut output, NodeOp::Relu).is_some();
                LoweredOp::DeformConv { ci: graph.node(node.inputs[0]).channels, parameters, relu }
            }
            NodeOp::UpConv { factor } => {
                addend = walk.take(id, &mut output, NodeOp::Add).and_then(|(_, other)| other);
                LoweredOp::UpConv { factor, parameters }
            }
            NodeOp::MaxPool { window } => LoweredOp::MaxPool { window },
            NodeOp::Norm | NodeOp::Relu | NodeOp::Add => {
                unreachable!("{}: every norm, ReLU and sum of this network follows a convolution that nobody else reads", node.name)
            }
        };
        steps.push(LoweredStep { name: node.name.clone(), op, inputs: walk.inputs(node), addend, output });
    }
    Lowered { steps, parts: walk.parts }
}

/// Weights for one channel that stands for `ci` equal ones: summed in f64, rounded once.
fn sum_over_inputs(weights: &[f32], ci: usize, taps: usize) -> Vec<f32> {
    let sum = |o: usize, tap: usize| (0..ci).map(|c| f64::from(weights[(o * ci + c) * taps + tap])).sum::<f64>() as f32;
    (0..weights.len() / ci).map(|i| sum(i / taps, i % taps)).collect()
}
