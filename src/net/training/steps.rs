//! From nodes to the steps of training: norms take in the sum and the ReLU that follow, enlargements the sum, equal
//! poolings are shared. Nothing is folded. The same steps run forward and, in reverse, backward.

use crate::net::graph::{Graph, NodeId, NodeOp};
use crate::net::inference::steps::shared_pools;
use crate::net::parameters::ParameterLayout;
use crate::ops::batch_norm::Norm;
use crate::ops::conv::ConvShape;
use crate::ops::deform_conv::DeformConvShape;
use crate::ops::max_pool::MaxPoolShape;
use crate::ops::up_conv::UpConvShape;
use std::collections::HashMap;
use std::ops::Range;

/// What a step computes. Parameters are indices into the layout's list.
#[derive(Clone, Debug)]
pub enum TrainOp {
    /// Convolution, bias, ReLU.
    Conv {
        /// Extents.
        shape: ConvShape,
        /// Weights.
        weights: usize,
        /// Bias, if there is one.
        bias: Option<usize>,
        /// True if a ReLU follows.
        relu: bool,
        /// How many equal channels the one channel of the input stands for: 3 for the image, else 1.
        copies: usize,
    },
    /// Deformable convolution of the first input by the second.
    DeformConv {
        /// Extents.
        shape: DeformConvShape,
        /// Weights.
        weights: usize,
        /// Bias.
        bias: usize,
    },
    /// Batch norm, sum with the addend, ReLU.
    Norm {
        /// Statistics and ReLU.
        norm: Norm,
        /// (n, h, w, c).
        shape: [usize; 4],
        /// Scale.
        gamma: usize,
        /// Shift.
        beta: usize,
        /// Running mean and variance in the block of statistics.
        running: [Range<usize>; 2],
        /// What the gradient needs of the statistics, in a block of its own: three vectors.
        saved: Range<usize>,
    },
    /// Maximum of windows.
    MaxPool {
        /// Extents.
        shape: MaxPoolShape,
    },
    /// Enlargement, sum with the addend.
    UpConv {
        /// Extents.
        shape: UpConvShape,
        /// Weights.
        weights: usize,
    },
}

/// One step.
#[derive(Clone, Debug)]
pub struct TrainStep {
    /// Module name of the first node that it does the work of.
    pub name: String,
    /// What it computes.
    pub op: TrainOp,
    /// The maps it reads.
    pub inputs: Vec<NodeId>,
    /// A map that is added.
    pub addend: Option<NodeId>,
    /// The map it writes.
    pub output: NodeId,
    /// False for steps that only move running statistics: nothing flows back through them.
    pub has_gradient: bool,
}

impl TrainStep {
    /// Indices of the parameters it works with.
    pub fn parameters(&self) -> impl Iterator<Item = usize> + use<> {
        let [a, b] = match self.op {
            TrainOp::Conv { weights, bias, .. } => [Some(weights), bias],
            TrainOp::DeformConv { weights, bias, .. } => [Some(weights), Some(bias)],
            TrainOp::Norm { gamma, beta, .. } => [Some(gamma), Some(beta)],
            TrainOp::UpConv { weights, .. } => [Some(weights), None],
            TrainOp::MaxPool { .. } => [None, None],
        };
        a.into_iter().chain(b)
    }
}

/// The steps, which maps are parts of larger ones, and how many values the norms keep.
#[derive(Clone, Debug)]
pub struct TrainSteps {
    /// In order.
    pub steps: Vec<TrainStep>,
    /// Map of a concatenation and first channel in it, for each map that is a part of one.
    pub parts: HashMap<NodeId, (NodeId, usize)>,
    /// Values that the norms keep for the gradients.
    pub saved_len: usize,
}

/// The steps for the `wanted` maps of `n` images of `[h, w]`. With frozen statistics only what these need; otherwise
/// also the norms that nothing reads, because their statistics move.
pub fn train_steps(graph: &Graph, layout: &ParameterLayout, n: usize, extent: [usize; 2], wanted: &[NodeId], frozen: bool) -> TrainSteps {
    let flows = graph.needed_for(wanted);
    let mut computed = wanted.to_vec();
    if !frozen {
        computed.extend((0..graph.nodes().len()).map(NodeId).filter(|&id| graph.node(id).op == NodeOp::Norm));
    }
    let needed = graph.needed_for(&computed);
    let same = shared_pools(graph);
    let canonical = |id: NodeId| same.get(&id).copied().unwrap_or(id);
    let mut readers: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    for (i, node) in graph.nodes().iter().enumerate().filter(|(i, _)| needed[*i] && canonical(NodeId(*i)) == NodeId(*i)) {
        node.inputs.iter().for_each(|&input| readers.entry(canonical(input)).or_default().push(NodeId(i)));
    }
    let mut done = vec![false; graph.nodes().len()];
    let mut found = TrainSteps { steps: Vec::new(), parts: HashMap::new(), saved_len: 0 };
    for i in 0..graph.nodes().len() {
        let id = NodeId(i);
        if !needed[i] || done[i] || canonical(id) != id {
            continue;
        }
        let node = graph.node(id);
        let mut output = id;
        // Takes the only reader of what this step has computed so far into it, if it is of the right kind.
        let mut take = |output: &mut NodeId, wanted_op: NodeOp| {
            let Some(&[reader]) = readers.get(output).map(Vec::as_slice) else { return None };
            if wanted.contains(output) || graph.node(reader).op != wanted_op {
                return None;
            }
            let other = graph.node(reader).inputs.iter().map(|&input| canonical(input)).find(|input| input != output);
            if other.is_some_and(|other| other.0 > i) {
                return None; // not computed yet
            }
            done[reader.0] = true;
            *output = reader;
            Some(other)
        };
        let parameter = |suffix: &str| layout.parameter(&format!("{}.{suffix}", node.name));
        let shape_of = |id: NodeId| {
            let [h, w] = graph.extent(id, extent);
            [h, w, graph.node(id).channels]
        };
        let mut addend = None;
        let op = match node.op {
            NodeOp::Input => continue,
            NodeOp::Concat => {
                let mut channel = 0;
                for &input in &node.inputs {
                    let earlier = found.parts.insert(canonical(input), (id, channel));
                    assert!(earlier.is_none(), "{} is part of two concatenations", graph.node(input).name);
                    channel += graph.node(input).channels;
                }
                continue;
            }
            NodeOp::Conv { kernel, stride, bias } => {
                let [h, w, ci] = shape_of(node.inputs[0]);
                let copies = if graph.node(node.inputs[0]).op == NodeOp::Input { ci } else { 1 };
                let relu = take(&mut output, NodeOp::Relu).is_some();
                TrainOp::Conv {
                    shape: ConvShape { n, h, w, ci: ci / copies, co: node.channels, kernel, stride },
                    weights: parameter("weight"),
                    bias: bias.then(|| parameter("bias")),
                    relu,
                    copies,
                }
            }
            NodeOp::DeformConv => {
                let [h, w, ci] = shape_of(node.inputs[0]);
                let shape = DeformConvShape { n, h, w, ci, co: node.channels };
                TrainOp::DeformConv { shape, weights: parameter("weight"), bias: parameter("bias") }
            }
            NodeOp::Norm => {
                addend = take(&mut output, NodeOp::Add).flatten();
                let relu = take(&mut output, NodeOp::Relu).is_some();
                let statistic = |suffix: &str| layout.statistic(&format!("{}.{suffix}", node.name));
                let [h, w, c] = shape_of(id);
                let saved = found.saved_len..found.saved_len + 3 * c;
                found.saved_len = saved.end;
                TrainOp::Norm {
                    norm: Norm { frozen, relu },
                    shape: [n, h, w, c],
                    gamma: parameter("weight"),
                    beta: parameter("bias"),
                    running: [statistic("running_mean"), statistic("running_var")],
                    saved,
                }
            }
            NodeOp::UpConv { factor } => {
                addend = take(&mut output, NodeOp::Add).flatten();
                let [h, w, c] = shape_of(node.inputs[0]);
                TrainOp::UpConv { shape: UpConvShape { n, h, w, c, factor }, weights: parameter("weight") }
            }
            NodeOp::MaxPool { window } => {
                let [h, w, c] = shape_of(node.inputs[0]);
                TrainOp::MaxPool { shape: MaxPoolShape { n, h, w, c, window } }
            }
            NodeOp::Relu | NodeOp::Add => {
                unreachable!("{}: every ReLU and sum of this network follows a norm, an enlargement or a head's layer", node.name)
            }
        };
        let inputs = node.inputs.iter().map(|&input| canonical(input)).collect();
        found.steps.push(TrainStep { name: node.name.clone(), op, inputs, addend, output, has_gradient: flows[i] });
    }
    found
}
