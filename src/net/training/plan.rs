//! The training plan: the forward steps, the same backwards, and for every map and every gradient a place in one arena,
//! found from lifetimes. The plan is static: nothing is allocated while it runs, and its memory is known before the first
//! byte is asked for.
//!
//! A gradient's buffer is cleared before the first step that adds to it. To save memory (`recompute`) the maps that
//! are read only within their own section of the network are dropped after the forward pass, and the section is
//! computed once more before its backward steps: the norms with the statistics they kept, so all bits are the same.

use super::steps::{TrainOp, TrainStep, TrainSteps, train_steps};
use crate::device::tensor::Layout;
use crate::device::{Device, Team};
use crate::net::arena::{Lifetimes, Place, Placed};
use crate::net::graph::{Graph, NodeId};
use crate::net::parameters::ParameterLayout;
use crate::ops::conv::{self, Packing};
use crate::ops::{Compute, Real, batch_norm, deform_conv, up_conv};
use anyhow::{Result, ensure};
use std::collections::HashMap;

/// What a training plan is made for.
#[derive(Clone, Debug)]
pub struct TrainPlanOptions {
    /// The images of a step, and which of them this device has.
    pub team: Team,
    /// Rows and columns of the image: multiples of 32.
    pub extent: [usize; 2],
    /// Maps that losses read; gradients start from them.
    pub wanted: Vec<NodeId>,
    /// True if the norms take the running statistics, which then stay as they are.
    pub frozen: bool,
    /// False if the plan goes forward only.
    pub backward: bool,
    /// True if maps are computed twice rather than kept.
    pub recompute: bool,
}

impl TrainPlanOptions {
    /// Images that this device works on: one that has none works on one all the same, which does not count.
    pub fn batch(&self) -> usize {
        self.team.own().len().max(1)
    }
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Run a step.
    Forward(usize),
    /// Run a step again for its gradient. Running statistics have moved the first time and stay now.
    Again(usize),
    /// All wanted maps are there: compute the losses and their gradients.
    Losses,
    /// Add a step's gradients.
    Backward(usize),
}

/// What an action works with.
#[derive(Clone, Debug)]
pub struct Work {
    /// What to do.
    pub action: Action,
    /// The maps of the step's inputs.
    pub inputs: Vec<Place>,
    /// The map that is added.
    pub addend: Option<Place>,
    /// The step's own map.
    pub output: Place,
    /// Gradients of the inputs; none for the image.
    pub dinputs: Vec<Option<Place>>,
    /// Gradient of the addend.
    pub daddend: Option<Place>,
    /// Gradient of the step's own map.
    pub doutput: Option<Place>,
    /// Gradients that are cleared before.
    pub clear: Vec<Place>,
    /// First value of the scratch memory, and how much.
    pub scratch: [usize; 2],
}

/// Steps, schedule and places.
#[derive(Clone, Debug)]
pub struct TrainPlan {
    /// The images of a step, and which of them this device has.
    pub team: Team,
    /// What is computed.
    pub steps: TrainSteps,
    /// The schedule.
    pub work: Vec<Work>,
    /// Where the image goes, (n, h, w, 1).
    pub image: Place,
    /// The wanted maps, and their gradients, at `Action::Losses`.
    pub wanted: HashMap<NodeId, (Place, Option<Place>)>,
    /// Values of the arena.
    pub arena_len: usize,
    /// Values that are alive together at the worst action.
    pub lower_bound: usize,
}

/// A buffer: the map of a node, of its second computation, or its gradient; or an action's scratch memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Buffer {
    Map(NodeId),
    Again(NodeId),
    Gradient(NodeId),
    Scratch(Action),
}

impl TrainPlan {
    /// Plans the network for values of type `T`.
    ///
    /// Errors: the image's sides are not multiples of 32.
    pub fn new<T: Real>(compute: &Compute, graph: &Graph, layout: &ParameterLayout, options: &TrainPlanOptions) -> Result<Self> {
        let [h, w] = options.extent;
        ensure!(
            options.team.images() > 0 && h > 0 && w > 0 && h % 32 == 0 && w % 32 == 0,
            "{} images of {w} x {h} pixels; expected at least one, and sides that are multiples of 32",
            options.team.images()
        );
        let steps = train_steps(compute, graph, layout, options.batch(), options.extent, &options.wanted, options.frozen);
        let maps = Maps { graph, options, steps: &steps };
        let dropped = if options.recompute && options.backward { maps.dropped() } else { HashMap::new() };

        let mut work: Vec<Work> = Vec::new();
        let mut lifetimes = Lifetimes::default();
        // The image is there before the first action.
        let image = NodeId(0);
        lifetimes.touch(Buffer::Map(image), maps.layout(image).buffer_len(), 0);
        let schedule = maps.schedule(&dropped);
        let scratch = |step: usize, backward: bool| {
            let op = &steps.steps[step].op;
            scratch_len::<T>(&compute.device, op, options.team.places(), backward) + summed_len(op) * if backward { 2 } else { 1 }
        };
        let lengths = |buffer: Buffer| match buffer {
            Buffer::Map(id) | Buffer::Again(id) | Buffer::Gradient(id) => maps.layout(id).buffer_len(),
            Buffer::Scratch(Action::Forward(step) | Action::Again(step)) => scratch(step, false),
            Buffer::Scratch(Action::Backward(step)) => scratch(step, true),
            Buffer::Scratch(Action::Losses) => 0,
        };
        // The first pass finds which buffer is alive when.
        let mut cleared: Vec<Vec<NodeId>> = Vec::new();
        for (at, &action) in schedule.iter().enumerate() {
            let mut clear = Vec::new();
            for buffer in maps.touched(action, &dropped) {
                if let (Buffer::Gradient(id), false) = (buffer, lifetimes.contains(&buffer)) {
                    clear.push(id);
                }
                if lengths(buffer) > 0 {
                    lifetimes.touch(buffer, lengths(buffer), at);
                }
            }
            cleared.push(clear);
        }
        let Placed { offsets, len: arena_len, lower_bound } = lifetimes.place();
        // The second pass gives every action its places.
        let offset = |buffer: Buffer| offsets.get(&buffer).copied().unwrap_or(0);
        let gradient = |id: NodeId| {
            let buffer = Buffer::Gradient(maps.owner(id));
            offsets.get(&buffer).map(|&offset| Place { offset, layout: maps.layout(id) })
        };
        for (&action, clear) in schedule.iter().zip(cleared) {
            let clear = clear.into_iter().map(|id| Place { offset: offset(Buffer::Gradient(id)), layout: maps.layout(id) }).collect();
            let map = |id: NodeId| Place { offset: offset(maps.map(id, action, &dropped)), layout: maps.layout(id) };
            let empty = Work {
                action,
                inputs: Vec::new(),
                addend: None,
                output: map(image),
                dinputs: Vec::new(),
                daddend: None,
                doutput: None,
                clear,
                scratch: [0, 0],
            };
            work.push(match action {
                Action::Losses => empty,
                Action::Forward(i) | Action::Again(i) | Action::Backward(i) => {
                    let step = &steps.steps[i];
                    let back = matches!(action, Action::Backward(_));
                    let gradient = |id: NodeId| gradient(id).filter(|_| back);
                    Work {
                        inputs: step.inputs.iter().map(|&id| map(id)).collect(),
                        addend: step.addend.map(map),
                        output: map(step.output),
                        dinputs: step.inputs.iter().map(|&id| gradient(id)).collect(),
                        daddend: step.addend.and_then(gradient),
                        doutput: gradient(step.output),
                        scratch: [offset(Buffer::Scratch(action)), lengths(Buffer::Scratch(action))],
                        ..empty
                    }
                }
            });
        }
        let place = |id: NodeId| Place { offset: offset(Buffer::Map(maps.owner(id))), layout: maps.layout(id) };
        let wanted = options.wanted.iter().map(|&id| (id, (place(id), gradient(id)))).collect();
        Ok(TrainPlan { team: options.team.clone(), work, image: place(image), wanted, arena_len, lower_bound, steps })
    }
}

/// Values, at the start of a step's scratch memory, in which the weights of equal channels are summed (and, backward,
/// behind them as many for their gradients): rounded up, so that what follows starts as the arena does.
pub fn summed_len(op: &TrainOp) -> usize {
    match op {
        TrainOp::Conv { shape, copies, .. } if *copies > 1 => shape.weights_len().next_multiple_of(16),
        _ => 0,
    }
}

/// Values that a step, or its gradient, needs to work with.
fn scratch_len<T: Real>(device: &Device, op: &TrainOp, places: usize, backward: bool) -> usize {
    match op {
        TrainOp::Conv { shape, algorithms, .. } if backward => conv::scratch_len(algorithms, *shape),
        TrainOp::Conv { shape, algorithms, .. } => Packing::from(&algorithms.forward).scratch_len::<T>(shape.extents()),
        TrainOp::DeformConv { shape, algorithm, .. } if backward => deform_conv::scratch_len::<T>(algorithm, *shape),
        TrainOp::DeformConv { shape, algorithm, .. } => Packing::from(algorithm).scratch_len::<T>(shape.extents()),
        TrainOp::Norm { shape, .. } => batch_norm::scratch_len::<T>(device, *shape, places),
        TrainOp::UpConv { shape, .. } if backward => up_conv::scratch_len(device, *shape),
        TrainOp::MaxPool { .. } | TrainOp::UpConv { .. } => 0,
    }
}

/// Questions about the maps of a plan.
struct Maps<'a> {
    graph: &'a Graph,
    options: &'a TrainPlanOptions,
    steps: &'a TrainSteps,
}

impl Maps<'_> {
    /// The map whose buffer holds this one.
    fn owner(&self, id: NodeId) -> NodeId {
        self.steps.parts.owner(id)
    }

    fn layout(&self, id: NodeId) -> Layout {
        self.steps.parts.layout(self.graph, id, self.options.batch(), self.options.extent)
    }

    /// The buffers that are dropped after the forward pass, each with its section: a buffer that is read and written in one section
    /// alone. Those of the last section stay, because its backward steps come at once.
    fn dropped(&self) -> HashMap<NodeId, usize> {
        let sections = self.sections();
        let mut of: HashMap<NodeId, Option<usize>> = HashMap::new();
        for (step, &section) in self.steps.steps.iter().zip(&sections) {
            for id in step.inputs.iter().chain(&step.addend).chain([&step.output]) {
                let seen = of.entry(self.owner(*id)).or_insert(Some(section));
                if *seen != Some(section) {
                    *seen = None;
                }
            }
        }
        for id in self.options.wanted.iter().chain([&NodeId(0)]) {
            of.insert(self.owner(*id), None);
        }
        let last = sections.last().copied().unwrap_or(0);
        of.into_iter().filter_map(|(id, section)| Some((id, section.filter(|&section| section != last)?))).collect()
    }

    /// Section of each step: a level of the backbone, a stage of an aggregation, a head.
    fn sections(&self) -> Vec<usize> {
        let mut names: Vec<String> = Vec::new();
        let section = |step: &TrainStep| {
            let parts: Vec<&str> = step.name.split('.').collect();
            let stage = |name: &str| name.rsplit('_').next().unwrap_or_default().to_string();
            let name = match parts.as_slice() {
                ["base", level, ..] => format!("base.{level}"),
                ["dla_up", ida, part, ..] => format!("dla_up.{ida}.{}", stage(part)),
                ["ida_up", part, ..] => format!("ida_up.{}", stage(part)),
                _ => parts[0].to_string(),
            };
            match names.iter().position(|known| *known == name) {
                Some(i) => i,
                None => {
                    names.push(name);
                    names.len() - 1
                }
            }
        };
        self.steps.steps.iter().map(section).collect()
    }

    fn schedule(&self, dropped: &HashMap<NodeId, usize>) -> Vec<Action> {
        let count = self.steps.steps.len();
        let mut schedule: Vec<Action> = (0..count).map(Action::Forward).collect();
        schedule.push(Action::Losses);
        if !self.options.backward {
            return schedule;
        }
        let sections = self.sections();
        let mut section = usize::MAX;
        for i in (0..count).rev().filter(|&i| self.steps.steps[i].has_gradient) {
            if sections[i] != section {
                section = sections[i];
                let again = |&j: &usize| {
                    let step = &self.steps.steps[j];
                    sections[j] == section && step.has_gradient && dropped.contains_key(&self.owner(step.output))
                };
                schedule.extend((0..count).filter(again).map(Action::Again));
            }
            schedule.push(Action::Backward(i));
        }
        schedule
    }

    /// The buffer of a map for an action: after the forward pass, dropped maps have been computed again.
    fn map(&self, id: NodeId, action: Action, dropped: &HashMap<NodeId, usize>) -> Buffer {
        let owner = self.owner(id);
        match action {
            Action::Again(_) | Action::Backward(_) if dropped.contains_key(&owner) => Buffer::Again(owner),
            _ => Buffer::Map(owner),
        }
    }

    /// All buffers that an action reads or writes.
    fn touched(&self, action: Action, dropped: &HashMap<NodeId, usize>) -> Vec<Buffer> {
        let map = |id: NodeId| self.map(id, action, dropped);
        let gradient = |id: NodeId| Buffer::Gradient(self.owner(id));
        match action {
            Action::Forward(i) | Action::Again(i) => {
                let step = &self.steps.steps[i];
                let maps = step.inputs.iter().chain(&step.addend).chain([&step.output]).map(|&id| map(id));
                maps.chain([Buffer::Scratch(action)]).collect()
            }
            Action::Losses => {
                let gradients = self.options.wanted.iter().filter(|_| self.options.backward);
                self.options.wanted.iter().map(|&id| map(id)).chain(gradients.map(|&id| gradient(id))).collect()
            }
            Action::Backward(i) => {
                let step = &self.steps.steps[i];
                let mut touched: Vec<Buffer> = vec![gradient(step.output), Buffer::Scratch(action)];
                touched.extend(step.inputs.iter().filter(|&&id| id != NodeId(0)).chain(&step.addend).map(|&id| gradient(id)));
                touched.extend(step.inputs.iter().map(|&id| map(id)));
                let reads_output = match step.op {
                    TrainOp::Conv { relu, .. } => relu,
                    TrainOp::Norm { norm, .. } => norm.relu,
                    _ => false,
                };
                touched.extend(reads_output.then(|| map(step.output)));
                touched
            }
        }
    }
}
