//! The network as a list of nodes, each computing one map from earlier ones.

/// Index of a node in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// What a node computes. Parameters are those of the checkpoint whose names begin with the node's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeOp {
    /// The image: three equal channels.
    Input,
    /// Convolution, `weight` and, if `bias`, `bias`.
    Conv {
        /// Rows and columns of the kernel.
        kernel: usize,
        /// Step in input pixels.
        stride: usize,
        /// True if there is a bias.
        bias: bool,
    },
    /// Batch norm: `weight`, `bias`, `running_mean`, `running_var`.
    Norm,
    /// max(x, 0).
    Relu,
    /// Sum of two maps.
    Add,
    /// Maximum of windows.
    MaxPool {
        /// Side of the window, and the step.
        window: usize,
    },
    /// Channels of all inputs, one after the other.
    Concat,
    /// Modulated deformable convolution of input 0 with the offsets of input 1: `weight`, `bias`.
    DeformConv,
    /// Depth-wise transposed convolution: `weight`.
    UpConv {
        /// How many times larger the output is.
        factor: usize,
    },
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it computes.
    pub op: NodeOp,
    /// Module name as in the checkpoint; for nodes without parameters a name for people.
    pub name: String,
    /// The maps it reads.
    pub inputs: Vec<NodeId>,
    /// Channels of its map.
    pub channels: usize,
    /// Its map has (h >> level) rows and (w >> level) columns of an h x w image.
    pub level: u32,
}

/// The maps that leave the network. All but `level5` have a quarter of the image's rows and columns.
#[derive(Clone, Copy, Debug)]
pub struct Outputs {
    /// Logits of the heat map, one channel.
    pub heat_map: NodeId,
    /// Width and height, two channels.
    pub size: NodeId,
    /// Offset of the centre, two channels.
    pub offset: NodeId,
    /// Deepest map of the backbone: the first feature of continual learning.
    pub level5: NodeId,
    /// The map that feeds the heads: the second feature.
    pub up: NodeId,
}

/// A network as a list of nodes in an order in which they can be computed.
#[derive(Clone, Debug)]
pub struct Graph {
    nodes: Vec<Node>,
    outputs: Outputs,
}

impl Graph {
    /// A graph of these nodes.
    pub fn new(nodes: Vec<Node>, outputs: Outputs) -> Self {
        debug_assert!(nodes.iter().enumerate().all(|(i, node)| node.inputs.iter().all(|input| input.0 < i)));
        Graph { nodes, outputs }
    }

    /// All nodes, inputs before their readers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The maps that leave the network.
    pub fn outputs(&self) -> Outputs {
        self.outputs
    }

    /// Which nodes the `wanted` ones need, themselves included.
    pub fn needed_for(&self, wanted: &[NodeId]) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        wanted.iter().for_each(|id| needed[id.0] = true);
        for i in (0..self.nodes.len()).rev() {
            if needed[i] {
                self.nodes[i].inputs.iter().for_each(|input| needed[input.0] = true);
            }
        }
        needed
    }

    /// Rows and columns of a node's map for an image of `[h, w]`.
    pub fn extent(&self, id: NodeId, [h, w]: [usize; 2]) -> [usize; 2] {
        let level = self.node(id).level;
        [h >> level, w >> level]
    }
}
