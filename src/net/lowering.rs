//! From nodes to steps, as far as inference and training share it: which nodes get a step of their own, which are taken into
//! the step of a node before them, and which maps are parts of a concatenation.

use super::graph::{Graph, Node, NodeId, NodeOp};
use crate::device::tensor::Layout;
use std::collections::HashMap;

/// Which maps are parts of larger ones: map of a concatenation and first channel in it, for each map that is a part of one.
#[derive(Clone, Debug, Default)]
pub struct Parts(HashMap<NodeId, (NodeId, usize)>);

impl Parts {
    /// The map whose buffer holds this one.
    pub fn owner(&self, id: NodeId) -> NodeId {
        self.0.get(&id).map_or(id, |&(whole, _)| whole)
    }

    /// How a map of `n` images of `extent` lies in its buffer. The image has one channel, which stands for three equal ones.
    pub fn layout(&self, graph: &Graph, id: NodeId, n: usize, extent: [usize; 2]) -> Layout {
        let ([h, w], node) = (graph.extent(id, extent), graph.node(id));
        let shape = [n, h, w, if node.op == NodeOp::Input { 1 } else { node.channels }];
        match self.0.get(&id) {
            Some(&(whole, channel_offset)) => Layout { shape, pixel_stride: graph.node(whole).channels, channel_offset },
            None => Layout::packed(shape),
        }
    }
}

/// A walk over the nodes of a graph, inputs before their readers.
pub(super) struct Lowering<'a> {
    graph: &'a Graph,
    wanted: &'a [NodeId],
    needed: Vec<bool>,
    /// Nodes that a step before them has taken in.
    done: Vec<bool>,
    /// Poolings of the same map with the same window, each mapped to the first of them.
    same: HashMap<NodeId, NodeId>,
    readers: HashMap<NodeId, Vec<NodeId>>,
    /// The maps that are parts of a concatenation.
    pub parts: Parts,
}

impl<'a> Lowering<'a> {
    /// Over the `needed` nodes. The maps in `wanted` are read by the caller as well.
    pub fn new(graph: &'a Graph, needed: Vec<bool>, wanted: &'a [NodeId]) -> Self {
        let (done, same) = (vec![false; graph.nodes().len()], shared_pools(graph));
        let mut walk = Lowering { graph, wanted, needed, done, same, readers: HashMap::new(), parts: Parts::default() };
        for (i, node) in graph.nodes().iter().enumerate() {
            if walk.needed[i] && walk.canonical(NodeId(i)) == NodeId(i) {
                for input in walk.inputs(node) {
                    walk.readers.entry(input).or_default().push(NodeId(i));
                }
            }
        }
        walk
    }

    fn canonical(&self, id: NodeId) -> NodeId {
        self.same.get(&id).copied().unwrap_or(id)
    }

    /// The maps that a node reads, where equal poolings are one.
    pub fn inputs(&self, node: &Node) -> Vec<NodeId> {
        node.inputs.iter().map(|&input| self.canonical(input)).collect()
    }

    /// True if a node gets a step of its own.
    pub fn is_open(&self, id: NodeId) -> bool {
        self.needed[id.0] && !self.done[id.0] && self.canonical(id) == id
    }

    /// Takes the only reader of `output` into the step that began with the node `first`, if it is of this kind and what else it
    /// reads has been computed by then. Then its map is the output; returns it, and what else it reads.
    pub fn take(&mut self, first: NodeId, output: &mut NodeId, op: NodeOp) -> Option<(NodeId, Option<NodeId>)> {
        let &[reader] = self.readers.get(output)?.as_slice() else { return None };
        if self.wanted.contains(output) || self.graph.node(reader).op != op {
            return None;
        }
        let other = self.inputs(self.graph.node(reader)).into_iter().find(|input| input != output);
        if other.is_some_and(|other| other > first) {
            return None;
        }
        self.done[reader.0] = true;
        *output = reader;
        Some((reader, other))
    }

    /// Makes the inputs of a concatenation parts of its map: it needs no step.
    pub fn join(&mut self, id: NodeId) {
        let mut channel = 0;
        for &input in &self.graph.node(id).inputs {
            let earlier = self.parts.0.insert(self.canonical(input), (id, channel));
            assert!(earlier.is_none(), "{} is part of two concatenations", self.graph.node(input).name);
            channel += self.graph.node(input).channels;
        }
    }
}

fn shared_pools(graph: &Graph) -> HashMap<NodeId, NodeId> {
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
