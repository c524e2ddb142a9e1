//! From nodes to the steps of inference: dead branches dropped, equal poolings shared, norms folded, single readers
//! fused, concatenations turned into places.

use crate::net::graph::{Graph, NodeId, NodeOp};
use crate::net::model::Model;
use crate::ops::batch_norm::{Statistics, fold};
use anyhow::Result;
use std::collections::HashMap;

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
        /// [co][ci][k][k].
        weights: Vec<f32>,
        /// [co], or empty.
        bias: Vec<f32>,
        /// True if a ReLU follows.
        relu: bool,
    },
    /// Deformable convolution of the first input by the second, ReLU.
    DeformConv {
        /// Channels of the input.
        ci: usize,
        /// [co][ci][3][3].
        weights: Vec<f32>,
        /// [co].
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
        /// [c][1][2f][2f].
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
    /// Map of a concatenation and first channel in it, for each map that is a part of one.
    pub parts: HashMap<NodeId, (NodeId, usize)>,
}

/// Lowers what the `wanted` maps need. The image has one channel, which stands for three equal ones.
///
/// Errors: the model lacks a tensor.
pub fn lower(graph: &Graph, model: &Model, wanted: &[NodeId]) -> Result<Lowered> {
    let needed = graph.needed_for(wanted);
    let same = shared_pools(graph);
    let canonical = |id: NodeId| same.get(&id).copied().unwrap_or(id);
    // How many readers each map has; a wanted map is read by the caller as well.
    let mut readers: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    for (i, node) in graph.nodes().iter().enumerate().filter(|(i, _)| needed[*i] && canonical(NodeId(*i)) == NodeId(*i)) {
        node.inputs.iter().for_each(|&input| readers.entry(canonical(input)).or_default().push(NodeId(i)));
    }
    let only_reader = |id: NodeId| match readers.get(&id).map(Vec::as_slice) {
        Some(&[reader]) if !wanted.contains(&id) => Some(reader),
        _ => None,
    };

    let mut done = vec![false; graph.nodes().len()];
    let mut steps = Vec::new();
    let mut parts = HashMap::new();
    for i in 0..graph.nodes().len() {
        let id = NodeId(i);
        if !needed[i] || done[i] || canonical(id) != id {
            continue;
        }
        let node = graph.node(id);
        let mut output = id;
        let mut addend = None;
        // Takes the only reader of what has been computed so far into this step, if it is of the right kind.
        let mut take = |output: &mut NodeId, wanted_op: NodeOp| {
            let reader = only_reader(*output).filter(|&reader| graph.node(reader).op == wanted_op)?;
            let others: Vec<NodeId> =
                graph.node(reader).inputs.iter().map(|&input| canonical(input)).filter(|input| input != output).collect();
            if others.iter().any(|other| other.0 > i) {
                return None; // not computed yet
            }
            done[reader.0] = true;
            *output = reader;
            Some((reader, others.first().copied()))
        };
        let tensor = |name: &str, suffix: &str| model.tensor(&format!("{name}.{suffix}"));
        let statistics = |norm: NodeId| -> Result<Statistics> {
            let name = &graph.node(norm).name;
            let [gamma, beta] = [tensor(name, "weight")?, tensor(name, "bias")?];
            Ok(Statistics { gamma, beta, mean: tensor(name, "running_mean")?, variance: tensor(name, "running_var")? })
        };
        let op = match node.op {
            NodeOp::Input => continue,
            NodeOp::Concat => {
                let mut channel = 0;
                for &input in &node.inputs {
                    let earlier = parts.insert(canonical(input), (id, channel));
                    assert!(earlier.is_none(), "{} is part of two concatenations", graph.node(input).name);
                    channel += graph.node(input).channels;
                }
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
                if let Some((norm, _)) = take(&mut output, NodeOp::Norm) {
                    bias = fold(statistics(norm)?, &mut weights, &bias);
                }
                addend = take(&mut output, NodeOp::Add).and_then(|(_, other)| other);
                let relu = take(&mut output, NodeOp::Relu).is_some();
                LoweredOp::Conv { ci, kernel, stride, weights, bias, relu }
            }
            NodeOp::DeformConv => {
                let mut weights = tensor(&node.name, "weight")?.to_vec();
                let mut bias = tensor(&node.name, "bias")?.to_vec();
                if let Some((norm, _)) = take(&mut output, NodeOp::Norm) {
                    bias = fold(statistics(norm)?, &mut weights, &bias);
                }
                let relu = take(&mut output, NodeOp::Relu).is_some();
                LoweredOp::DeformConv { ci: graph.node(node.inputs[0]).channels, weights, bias, relu }
            }
            NodeOp::UpConv { factor } => {
                addend = take(&mut output, NodeOp::Add).and_then(|(_, other)| other);
                LoweredOp::UpConv { factor, weights: tensor(&node.name, "weight")?.to_vec() }
            }
            NodeOp::MaxPool { window } => LoweredOp::MaxPool { window },
            NodeOp::Norm | NodeOp::Relu | NodeOp::Add => {
                unreachable!("{}: every norm, ReLU and sum of this network follows a convolution that nobody else reads", node.name)
            }
        };
        let inputs = node.inputs.iter().map(|&input| canonical(input)).collect();
        steps.push(LoweredStep { name: node.name.clone(), op, inputs, addend, output });
    }
    Ok(Lowered { steps, parts })
}

/// Poolings of the same map with the same window, each mapped to the first of them.
pub(in crate::net) fn shared_pools(graph: &Graph) -> HashMap<NodeId, NodeId> {
    let mut first: HashMap<(NodeOp, &[NodeId]), NodeId> = HashMap::new();
    let mut same = HashMap::new();
    for (i, node) in graph.nodes().iter().enumerate() {
        if matches!(node.op, NodeOp::MaxPool { .. }) {
            let representative = *first.entry((node.op, node.inputs.as_slice())).or_insert(NodeId(i));
            if representative != NodeId(i) {
                same.insert(NodeId(i), representative);
            }
        }
    }
    same
}

/// Weights for one channel that stands for `ci` equal ones: summed in f64, rounded once.
fn sum_over_inputs(weights: &[f32], ci: usize, kernel: usize) -> Vec<f32> {
    let taps = kernel * kernel;
    let sum = |o: usize, tap: usize| (0..ci).map(|c| f64::from(weights[(o * ci + c) * taps + tap])).sum::<f64>() as f32;
    (0..weights.len() / ci).map(|i| sum(i / taps, i % taps)).collect()
}
