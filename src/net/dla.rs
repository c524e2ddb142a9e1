//! DLA-34 with deformable up-sampling and three heads, as a list of nodes. This is the only place where the network is written.
//!
//! ```text
//! shapes at 1024 x 1024, true widths        base_layer 16 x 1024^2, level0 16 x 1024^2, level1 32 x 512^2,
//! level2 64 x 256^2, level3 128 x 128^2, level4 256 x 64^2, level5 512 x 32^2,
//! dla_up.ida_0 256 x 64^2, ida_1 128 x 128^2, ida_2 64 x 256^2, ida_up 64 x 256^2, heads 1 + 2 + 2 x 256^2
//! ```
//! Source: Yu, Wang, Shelhamer, Darrell 2018, arXiv:1707.06484; Zhou, Wang, Kraehenbuehl 2019, arXiv:1904.07850;
//! docs/network.md.

use super::graph::{Graph, Node, NodeId, NodeOp, Outputs};

/// The widths of a network; everything else of its shape is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// Channels of levels 0 to 5.
    pub channels: [usize; 6],
    /// Channels of the hidden layer of each head.
    pub head: usize,
}

impl Architecture {
    /// The widths of the original.
    pub const DLA34: Architecture = Architecture { channels: [16, 32, 64, 128, 256, 512], head: 256 };

    /// The network of these widths.
    pub fn graph(&self) -> Graph {
        let c = self.channels;
        let mut b = Builder { nodes: Vec::new() };
        let image = b.push(NodeOp::Input, "image".into(), &[], 3, 0);
        let base_layer = b.conv_norm_relu("base.base_layer", image, c[0], 7, 1);
        let level0 = b.conv_norm_relu("base.level0", base_layer, c[0], 3, 1);
        let level1 = b.conv_norm_relu("base.level1", level0, c[1], 3, 2);
        let level2 = b.tree("base.level2", level1, c[2], 2, None, false);
        let level3 = b.deep_tree("base.level3", level2, c[3]);
        let level4 = b.deep_tree("base.level4", level3, c[4]);
        let level5 = b.tree("base.level5", level4, c[5], 2, None, true);
        // An aggregation brings all its maps to the resolution of the first one, and the last of them goes on.
        let mut levels = [level2, level3, level4, level5];
        b.aggregate("dla_up.ida_0", &mut levels[2..], c[4], &[2]);
        let a16 = levels[3];
        b.aggregate("dla_up.ida_1", &mut levels[1..], c[3], &[2, 2]);
        let a8 = levels[3];
        b.aggregate("dla_up.ida_2", &mut levels[0..], c[2], &[2, 2, 2]);
        let a4 = levels[3];
        let mut maps = [a4, a8, a16];
        b.aggregate("ida_up", &mut maps, c[2], &[2, 4]);
        let up = maps[2];
        let outputs = Outputs {
            heat_map: b.head("hm", up, self.head, 1),
            size: b.head("wh", up, self.head, 2),
            offset: b.head("reg", up, self.head, 2),
            level5,
            up,
        };
        Graph::new(b.nodes, outputs)
    }

    /// Names and shapes of all tensors of a checkpoint, in PyTorch's order and with its counters.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let graph = self.graph();
        let mut shapes = Vec::new();
        for node in graph.nodes() {
            let c = node.channels;
            let ci = node.inputs.first().map_or(0, |&input| graph.node(input).channels);
            let mut tensor = |suffix: &str, shape: &[usize]| shapes.push((format!("{}.{suffix}", node.name), shape.to_vec()));
            match node.op {
                NodeOp::Conv { kernel, bias, .. } => {
                    tensor("weight", &[c, ci, kernel, kernel]);
                    if bias {
                        tensor("bias", &[c]);
                    }
                }
                NodeOp::Norm => {
                    ["weight", "bias", "running_mean", "running_var"].iter().for_each(|suffix| tensor(suffix, &[c]));
                    tensor("num_batches_tracked", &[]);
                }
                NodeOp::DeformConv => {
                    tensor("weight", &[c, ci, 3, 3]);
                    tensor("bias", &[c]);
                }
                NodeOp::UpConv { factor } => tensor("weight", &[c, 1, 2 * factor, 2 * factor]),
                NodeOp::Input | NodeOp::Relu | NodeOp::Add | NodeOp::MaxPool { .. } | NodeOp::Concat => {}
            }
        }
        // PyTorch lists the parts of a module as its constructor names them, not as data flows through them; its
        // optimisers number parameters in this order.
        shapes.sort_by_cached_key(|(name, _)| name.split('.').map(place_in_module).collect::<Vec<_>>());
        shapes
    }
}

/// Place of a part among its neighbours in a module of the original.
fn place_in_module(part: &str) -> usize {
    const PARTS: [&str; 28] = [
        "base",
        "dla_up",
        "ida_up",
        "hm",
        "wh",
        "reg",
        "base_layer",
        "level0",
        "level1",
        "level2",
        "level3",
        "level4",
        "level5",
        "tree1",
        "tree2",
        "root",
        "project",
        "actf",
        "conv1",
        "bn1",
        "conv2",
        "bn2",
        "conv",
        "bn",
        "weight",
        "bias",
        "conv_offset_mask",
        "running_mean",
    ];
    let numbered = part.rsplit_once('_').and_then(|(kind, i)| Some((kind, i.parse::<usize>().ok()?)));
    match (numbered, part) {
        (Some(("proj", i)), _) => 3 * i,
        (Some(("up", i)), _) => 3 * i + 1,
        (Some(("node", i)), _) => 3 * i + 2,
        (Some(("ida", i)), _) => i,
        (_, "running_var") => PARTS.len(),
        (_, "num_batches_tracked") => PARTS.len() + 1,
        (_, part) => PARTS.iter().position(|known| *known == part).or(part.parse().ok()).unwrap_or(usize::MAX),
    }
}

struct Builder {
    nodes: Vec<Node>,
}

impl Builder {
    fn push(&mut self, op: NodeOp, name: String, inputs: &[NodeId], channels: usize, level: u32) -> NodeId {
        self.nodes.push(Node { op, name, inputs: inputs.to_vec(), channels, level });
        NodeId(self.nodes.len() - 1)
    }

    fn channels(&self, id: NodeId) -> usize {
        self.nodes[id.0].channels
    }

    fn level(&self, id: NodeId) -> u32 {
        self.nodes[id.0].level
    }

    fn conv(&mut self, name: String, inp: NodeId, channels: usize, kernel: usize, stride: usize, bias: bool) -> NodeId {
        let level = self.level(inp) + stride.ilog2();
        self.push(NodeOp::Conv { kernel, stride, bias }, name, &[inp], channels, level)
    }

    /// A node that keeps its first input's shape.
    fn same(&mut self, op: NodeOp, name: String, inputs: &[NodeId]) -> NodeId {
        let (channels, level) = (self.channels(inputs[0]), self.level(inputs[0]));
        self.push(op, name, inputs, channels, level)
    }

    fn conv_norm_relu(&mut self, name: &str, inp: NodeId, channels: usize, kernel: usize, stride: usize) -> NodeId {
        let conv = self.conv(format!("{name}.0"), inp, channels, kernel, stride, false);
        let norm = self.same(NodeOp::Norm, format!("{name}.1"), &[conv]);
        self.same(NodeOp::Relu, format!("{name}.relu"), &[norm])
    }

    /// relu(norm(conv(relu(norm(conv inp)))) + residual).
    fn basic_block(&mut self, name: &str, inp: NodeId, residual: NodeId, channels: usize, stride: usize) -> NodeId {
        let conv1 = self.conv(format!("{name}.conv1"), inp, channels, 3, stride, false);
        let norm1 = self.same(NodeOp::Norm, format!("{name}.bn1"), &[conv1]);
        let relu1 = self.same(NodeOp::Relu, format!("{name}.relu1"), &[norm1]);
        let conv2 = self.conv(format!("{name}.conv2"), relu1, channels, 3, 1, false);
        let norm2 = self.same(NodeOp::Norm, format!("{name}.bn2"), &[conv2]);
        let add = self.same(NodeOp::Add, format!("{name}.add"), &[norm2, residual]);
        self.same(NodeOp::Relu, format!("{name}.relu2"), &[add])
    }

    fn pooled(&mut self, name: &str, inp: NodeId, stride: usize) -> NodeId {
        if stride == 1 {
            return inp;
        }
        let (channels, level) = (self.channels(inp), self.level(inp) + stride.ilog2());
        self.push(NodeOp::MaxPool { window: stride }, format!("{name}.downsample"), &[inp], channels, level)
    }

    fn projected(&mut self, name: &str, inp: NodeId, channels: usize) -> NodeId {
        if self.channels(inp) == channels {
            return inp;
        }
        let conv = self.conv(format!("{name}.project.0"), inp, channels, 1, 1, false);
        self.same(NodeOp::Norm, format!("{name}.project.1"), &[conv])
    }

    /// Two blocks and their root; `before` are the maps that the root sees after those of the blocks, and with
    /// `level_root` the pooled input comes first among them.
    fn tree(&mut self, name: &str, inp: NodeId, channels: usize, stride: usize, before: Option<&[NodeId]>, level_root: bool) -> NodeId {
        let bottom = self.pooled(name, inp, stride);
        let residual = self.projected(name, bottom, channels);
        let x1 = self.basic_block(&format!("{name}.tree1"), inp, residual, channels, stride);
        let x2 = self.basic_block(&format!("{name}.tree2"), x1, x1, channels, 1);
        let mut inputs = vec![x2, x1];
        inputs.extend(level_root.then_some(bottom));
        inputs.extend(before.unwrap_or_default());
        let total = inputs.iter().map(|&id| self.channels(id)).sum();
        let level = self.level(x2);
        let concat = self.push(NodeOp::Concat, format!("{name}.root.concat"), &inputs, total, level);
        let conv = self.conv(format!("{name}.root.conv"), concat, channels, 1, 1, false);
        let norm = self.same(NodeOp::Norm, format!("{name}.root.bn"), &[conv]);
        self.same(NodeOp::Relu, format!("{name}.root.relu"), &[norm])
    }

    /// A tree of two trees; the root of the second one also sees the pooled input and the first one's result. The
    /// original evaluates a projection here that nothing reads; it is kept because its statistics move in training.
    fn deep_tree(&mut self, name: &str, inp: NodeId, channels: usize) -> NodeId {
        let bottom = self.pooled(name, inp, 2);
        self.projected(name, bottom, channels);
        let x1 = self.tree(&format!("{name}.tree1"), inp, channels, 2, None, false);
        self.tree(&format!("{name}.tree2"), x1, channels, 1, Some(&[bottom, x1]), false)
    }

    /// relu(norm(deformable convolution)).
    fn deform(&mut self, name: &str, inp: NodeId, channels: usize) -> NodeId {
        let offsets = self.conv(format!("{name}.conv.conv_offset_mask"), inp, crate::ops::deform_conv::OFFSET_CHANNELS, 3, 1, true);
        let level = self.level(inp);
        let conv = self.push(NodeOp::DeformConv, format!("{name}.conv"), &[inp, offsets], channels, level);
        let norm = self.same(NodeOp::Norm, format!("{name}.actf.0"), &[conv]);
        self.same(NodeOp::Relu, format!("{name}.actf.1"), &[norm])
    }

    /// Iterative deep aggregation: every map is projected, enlarged, and joined with the one before it.
    fn aggregate(&mut self, name: &str, maps: &mut [NodeId], channels: usize, factors: &[usize]) {
        for i in 1..maps.len() {
            let factor = factors[i - 1];
            let projected = self.deform(&format!("{name}.proj_{i}"), maps[i], channels);
            let level = self.level(projected) - factor.ilog2();
            let up = self.push(NodeOp::UpConv { factor }, format!("{name}.up_{i}"), &[projected], channels, level);
            let add = self.same(NodeOp::Add, format!("{name}.add_{i}"), &[up, maps[i - 1]]);
            maps[i] = self.deform(&format!("{name}.node_{i}"), add, channels);
        }
    }

    fn head(&mut self, name: &str, inp: NodeId, hidden: usize, channels: usize) -> NodeId {
        let conv = self.conv(format!("{name}.0"), inp, hidden, 3, 1, true);
        let relu = self.same(NodeOp::Relu, format!("{name}.1"), &[conv]);
        self.conv(format!("{name}.2"), relu, channels, 1, 1, true)
    }
}
