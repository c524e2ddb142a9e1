//! From nodes to the steps of training. A norm takes in the sum and the ReLU that follow it, an enlargement the sum, and equal
//! poolings are shared; nothing is folded. The same steps run forward and, in reverse order, backward.

use crate::net::graph::{Graph, NodeId, NodeOp};
use crate::net::lowering::{Lowering, Parts};
use crate::net::parameters::ParameterLayout;
use crate::ops::Compute;
use crate::ops::batch_norm::Norm;
use crate::ops::conv::{self, ConvShape};
use crate::ops::deform_conv::{self, DeformConvShape};
use crate::ops::max_pool::MaxPoolShape;
use crate::ops::up_conv::UpConvShape;
use std::ops::Range;

/// What a step computes. Parameters are indices into the layout's list.
#[derive(Clone, Debug)]
pub enum TrainOp {
    /// Convolution, bias, ReLU.
    Conv {
        /// Extents.
        shape: ConvShape,
        /// Who computes it and its gradients.
        algorithms: conv::Algorithms,
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
        /// Who computes it and its gradients.
        algorithm: deform_conv::Algorithm,
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
        /// Where the gradient finds what it needs of the statistics, in a block of its own: three vectors.
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
    /// The steps, in order.
    pub steps: Vec<TrainStep>,
    /// The maps that are parts of a concatenation.
    pub parts: Parts,
    /// Values that the norms keep for the gradients.
    pub saved_len: usize,
}

/// The steps for the `wanted` maps of `n` images of `[h, w]`. With frozen statistics these are only the steps that the maps need;
/// otherwise also the norms that nothing reads, because their statistics move.
pub fn train_steps(
    compute: &Compute,
    graph: &Graph,
    layout: &ParameterLayout,
    n: usize,
    extent: [usize; 2],
    wanted: &[NodeId],
    frozen: bool,
) -> TrainSteps {
    let flows = graph.needed_for(wanted);
    let mut computed = wanted.to_vec();
    if !frozen {
        computed.extend((0..graph.nodes().len()).map(NodeId).filter(|&id| graph.node(id).op == NodeOp::Norm));
    }
    let mut walk = Lowering::new(graph, graph.needed_for(&computed), wanted);
    let (mut steps, mut saved_len) = (Vec::new(), 0);
    for (i, node) in graph.nodes().iter().enumerate() {
        let id = NodeId(i);
        if !walk.is_open(id) {
            continue;
        }
        let mut output = id;
        let parameter = |suffix: &str| layout.parameter(&format!("{}.{suffix}", node.name));
        let shape_of = |id: NodeId| {
            let [h, w] = graph.extent(id, extent);
            [h, w, graph.node(id).channels]
        };
        let mut addend = None;
        let op = match node.op {
            NodeOp::Input => continue,
            NodeOp::Concat => {
                walk.join(id);
                continue;
            }
            NodeOp::Conv { kernel, stride, bias } => {
                let [h, w, ci] = shape_of(node.inputs[0]);
                let copies = if graph.node(node.inputs[0]).op == NodeOp::Input { ci } else { 1 };
                let relu = walk.take(id, &mut output, NodeOp::Relu).is_some();
                let shape = ConvShape { n, h, w, ci: ci / copies, co: node.channels, kernel, stride };
                TrainOp::Conv {
                    shape,
                    algorithms: conv::Algorithms::choose(compute, shape),
                    weights: parameter("weight"),
                    bias: bias.then(|| parameter("bias")),
                    relu,
                    copies,
                }
            }
            NodeOp::DeformConv => {
                let [h, w, ci] = shape_of(node.inputs[0]);
                let shape = DeformConvShape { n, h, w, ci, co: node.channels };
                let algorithm = deform_conv::algorithm::choose(compute, shape);
                TrainOp::DeformConv { shape, algorithm, weights: parameter("weight"), bias: parameter("bias") }
            }
            NodeOp::Norm => {
                addend = walk.take(id, &mut output, NodeOp::Add).and_then(|(_, other)| other);
                let relu = walk.take(id, &mut output, NodeOp::Relu).is_some();
                let statistic = |suffix: &str| layout.statistic(&format!("{}.{suffix}", node.name));
                let [h, w, c] = shape_of(id);
                let saved = saved_len..saved_len + 3 * c;
                saved_len = saved.end;
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
                addend = walk.take(id, &mut output, NodeOp::Add).and_then(|(_, other)| other);
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
        steps.push(TrainStep { name: node.name.clone(), op, inputs: walk.inputs(node), addend, output, has_gradient: flows[i] });
    }
    TrainSteps { steps, parts: walk.parts, saved_len }
}
