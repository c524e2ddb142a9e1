//! Runs a training plan: forward, losses, backward, each step through an engine.

use super::plan::{Action, Place, TrainPlan, Work, summed_len};
use super::steps::TrainOp;
use crate::device::tensor::Layout;
use crate::device::{Buffer, Device, TensorMut, TensorRef};
use crate::net::engine::Engine;
use crate::net::graph::NodeId;
use crate::net::parameters::{Entry, NetworkMemory, ParameterLayout};
use crate::ops::batch_norm::RunningStatistics;
use crate::ops::deform_conv::Gradients;
use crate::ops::{Real, map};
use anyhow::Result;
use std::marker::PhantomData;
use std::ops::Range;

/// The wanted maps, at the moment when the losses are computed.
pub struct WantedMaps<'a, T> {
    plan: &'a TrainPlan,
    arena: &'a mut Buffer<T>,
}

impl<T: Real> WantedMaps<'_, T> {
    /// A map, where the engine computes, and its gradient, to add to. Panics if the map is not wanted, or the plan goes
    /// forward only: a programming error.
    pub fn with_gradient(&mut self, id: NodeId) -> (TensorRef<'_, T>, TensorMut<'_, T>) {
        let (map, Some(gradient)) = self.plan.wanted[&id] else { panic!("the plan goes forward only") };
        let views = Views::of(self.arena);
        (views.read(&map), views.write(&gradient))
    }

    /// A map, where the engine computes. Panics if it is not wanted: a programming error.
    pub fn map(&self, id: NodeId) -> TensorRef<'_, T> {
        let Place { offset, layout } = self.plan.wanted[&id].0;
        self.arena.at(offset, layout)
    }
}

/// The memory a plan runs in; grown when a larger plan asks for it.
#[derive(Debug)]
pub struct Arena<T> {
    device: Device,
    values: Buffer<T>,
    saved: Buffer<T>,
}

impl<T: Real> Arena<T> {
    /// An empty one.
    ///
    /// Errors: the device fails.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Arena { device: device.clone(), values: Buffer::zeros(device, 0)?, saved: Buffer::zeros(device, 0)? })
    }

    /// Makes room for a plan.
    ///
    /// Errors: the device has not as much memory.
    pub fn reserve(&mut self, plan: &TrainPlan) -> Result<()> {
        if self.values.len() < plan.arena_len {
            self.values = Buffer::zeros(&self.device, 0)?; // the old block is freed before the new one is asked for
            self.values = Buffer::zeros(&self.device, plan.arena_len)?;
        }
        if self.saved.len() < plan.steps.saved_len {
            self.saved = Buffer::zeros(&self.device, plan.steps.saved_len)?;
        }
        Ok(())
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of::<T>() * (self.values.len() + self.saved.len())
    }
}

/// Runs a plan on `image`, (n, h, w) of one channel. `losses` is called once all wanted maps are there, and adds their
/// gradients if the plan goes backward. Gradients of parameters are added to `gradients`.
///
/// Errors: an op fails on the device, or `losses` does. An image of another size is a programming error and panics.
pub fn run<E: Engine>(
    engine: &E,
    plan: &TrainPlan,
    layout: &ParameterLayout,
    arena: &mut Arena<E::Value>,
    state: &mut NetworkMemory<E::Value>,
    gradients: &mut Buffer<E::Value>,
    image: &[f32],
    mut losses: impl FnMut(&mut WantedMaps<E::Value>) -> Result<()>,
) -> Result<()> {
    arena.reserve(plan)?;
    let Place { offset, layout: image_layout } = plan.image;
    assert_eq!(image.len(), image_layout.buffer_len(), "images of {:?}", image_layout.shape);
    arena.values.write(offset, &crate::ops::real::convert(image))?;
    for work in &plan.work {
        for place in &work.clear {
            arena.values.clear(place.offset..place.offset + place.layout.buffer_len())?;
        }
        match work.action {
            Action::Losses => losses(&mut WantedMaps { plan, arena: &mut arena.values })?,
            Action::Forward(step) => forward(engine, plan, layout, step, work, arena, state, false)?,
            Action::Again(step) => forward(engine, plan, layout, step, work, arena, state, true)?,
            Action::Backward(step) => backward(engine, plan, layout, step, work, arena, state, gradients)?,
        }
    }
    Ok(())
}

/// Views of a block of memory. All places were given by one plan or one layout: those that one action touches lie in the
/// block, and share a value only where the action means to (a map and the concatenation it is part of, of which it reads
/// or writes one).
struct Views<'a, T> {
    base: *mut T,
    len: usize,
    block: PhantomData<&'a mut T>,
}

impl<'a, T: Real> Views<'a, T> {
    fn of(block: &'a mut Buffer<T>) -> Self {
        Views { base: block.base_mut(), len: block.len(), block: PhantomData }
    }

    fn read(&self, place: &Place) -> TensorRef<'a, T> {
        assert!(place.offset + place.layout.buffer_len() <= self.len);
        // SAFETY: the place lies in the block, which is borrowed for as long; see above for who shares it.
        unsafe { TensorRef::from_raw(self.base.wrapping_add(place.offset), place.layout) }
    }

    fn write(&self, place: &Place) -> TensorMut<'a, T> {
        assert!(place.offset + place.layout.buffer_len() <= self.len);
        // SAFETY: as above.
        unsafe { TensorMut::from_raw(self.base.wrapping_add(place.offset), place.layout) }
    }

    /// Of entries of a layout: no two share a value.
    fn list(&self, range: Range<usize>) -> TensorMut<'a, T> {
        self.write(&Place { offset: range.start, layout: Layout::flat(range.len()) })
    }

    /// The parts of an action's scratch memory, which the plan gave to nobody else: the weights of equal channels summed,
    /// their gradients, and the rest.
    fn scratch(&self, op: &TrainOp, [offset, len]: [usize; 2], backward: bool) -> [TensorMut<'a, T>; 3] {
        let summed = summed_len(op);
        let gradients = if backward { summed } else { 0 };
        let values = if let TrainOp::Conv { shape, .. } = op { shape.weights_len() } else { 0 };
        let part = |first: usize, len: usize| self.list(offset + first..offset + first + len);
        [part(0, values.min(summed)), part(summed, values.min(gradients)), part(summed + gradients, len - summed - gradients)]
    }
}

fn forward<E: Engine>(
    engine: &E,
    plan: &TrainPlan,
    layout: &ParameterLayout,
    step: usize,
    work: &Work,
    arena: &mut Arena<E::Value>,
    state: &mut NetworkMemory<E::Value>,
    again: bool,
) -> Result<()> {
    let views = Views::of(&mut arena.values);
    let entries: &[Entry] = layout.parameters();
    let parameter = |i: usize| state.parameters.part(entries[i].range.clone());
    let inp = views.read(&work.inputs[0]);
    let addend = work.addend.as_ref().map(|place| views.read(place));
    let out = &mut views.write(&work.output);
    let op = &plan.steps.steps[step].op;
    let [mut summed, _, mut scratch] = views.scratch(op, work.scratch, false);
    let scratch = &mut scratch;
    match op {
        TrainOp::Conv { shape, weights, bias, relu, copies } => {
            let bias = bias.map_or(state.parameters.part(0..0), parameter);
            if *copies > 1 {
                map::sum_copies(engine.device(), parameter(*weights), [*copies, shape.kernel * shape.kernel], &mut summed)?;
                engine.conv(*shape, inp, summed.as_ref(), bias, *relu, out, scratch)
            } else {
                engine.conv(*shape, inp, parameter(*weights), bias, *relu, out, scratch)
            }
        }
        TrainOp::DeformConv { shape, weights, bias } => {
            engine.deform_conv(*shape, inp, views.read(&work.inputs[1]), parameter(*weights), parameter(*bias), out, scratch)
        }
        TrainOp::Norm { norm, gamma, beta, running, saved, .. } => {
            let statistics = Views::of(&mut state.statistics);
            let [mean, variance] = running.clone().map(|range| statistics.list(range));
            let running = RunningStatistics { mean, variance };
            let saved = &mut arena.saved.part_mut(saved.clone());
            engine.norm(*norm, inp, parameter(*gamma), parameter(*beta), running, again, addend, saved, out, scratch)
        }
        TrainOp::MaxPool { shape } => engine.max_pool(*shape, inp, out),
        TrainOp::UpConv { shape, weights } => engine.up_conv(*shape, inp, parameter(*weights), addend, out),
    }
}

fn backward<E: Engine>(
    engine: &E,
    plan: &TrainPlan,
    layout: &ParameterLayout,
    step: usize,
    work: &Work,
    arena: &mut Arena<E::Value>,
    state: &NetworkMemory<E::Value>,
    gradients: &mut Buffer<E::Value>,
) -> Result<()> {
    let views = Views::of(&mut arena.values);
    let gradients = Views::of(gradients);
    let entries: &[Entry] = layout.parameters();
    let range = |i: usize| entries[i].range.clone();
    let parameter = |i: usize| state.parameters.part(range(i));
    let gradient = |i: usize| gradients.list(range(i));
    let Some(doutput) = &work.doutput else { return Ok(()) };
    let inp = views.read(&work.inputs[0]);
    let out = views.read(&work.output);
    let dout = views.read(doutput);
    let mut dinp = work.dinputs[0].as_ref().map(|place| views.write(place));
    let mut daddend = work.daddend.as_ref().map(|place| views.write(place));
    let op = &plan.steps.steps[step].op;
    let [mut summed, mut found, mut scratch] = views.scratch(op, work.scratch, true);
    let scratch = &mut scratch;
    match (op, &mut dinp) {
        (TrainOp::Conv { shape, weights, bias, relu, copies }, dinp) => {
            if *relu {
                engine.relu_backward(out, &mut views.write(doutput))?;
            }
            let (dinp, dweights) = (dinp.as_mut(), &mut gradient(*weights));
            if *copies > 1 {
                let (device, extents) = (engine.device(), [*copies, shape.kernel * shape.kernel]);
                map::sum_copies(device, parameter(*weights), extents, &mut summed)?;
                device.clear(&mut found)?;
                engine.conv_backward(*shape, inp, summed.as_ref(), dout, dinp, &mut found, None, scratch)?;
                map::spread_copies(device, found.as_ref(), extents, dweights)
            } else {
                let mut dbias = bias.map(gradient);
                engine.conv_backward(*shape, inp, parameter(*weights), dout, dinp, dweights, dbias.as_mut(), scratch)
            }
        }
        (TrainOp::DeformConv { shape, weights, bias }, Some(dinp)) => {
            let Some(doffsets) = &work.dinputs[1] else { return Ok(()) };
            let (doffsets, dweights, dbias) = (&mut views.write(doffsets), &mut gradient(*weights), &mut gradient(*bias));
            let found = Gradients { dinp, doffsets, dweights, dbias };
            engine.deform_conv_backward(*shape, inp, views.read(&work.inputs[1]), parameter(*weights), dout, found, scratch)
        }
        (TrainOp::Norm { norm, gamma, beta, saved, .. }, Some(dinp)) => {
            let (dgamma, dbeta) = (&mut gradient(*gamma), &mut gradient(*beta));
            let saved = arena.saved.part(saved.clone());
            engine.norm_backward(*norm, inp, out, dout, parameter(*gamma), saved, dinp, daddend.as_mut(), dgamma, dbeta, scratch)
        }
        (TrainOp::MaxPool { shape }, Some(dinp)) => engine.max_pool_backward(*shape, inp, dout, dinp),
        (TrainOp::UpConv { shape, weights }, Some(dinp)) => {
            if let Some(dskip) = &mut daddend {
                map::add(engine.device(), dout, dskip)?;
            }
            engine.up_conv_backward(*shape, inp, parameter(*weights), dout, dinp, &mut gradient(*weights), scratch)
        }
        (_, None) => unreachable!("only the first convolution reads the image"),
    }
}
