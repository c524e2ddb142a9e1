//! Runs a training plan on a device: forward, losses, backward.

use super::plan::{Action, TrainPlan, Work, summed_len};
use super::steps::TrainOp;
use crate::device::tensor::Layout;
use crate::device::{Buffer, Device, TensorMut, TensorRef};
use crate::net::arena::Place;
use crate::net::graph::NodeId;
use crate::net::parameters::{Entry, NetworkMemory, ParameterLayout};
use crate::ops::batch_norm::RunningStatistics;
use crate::ops::conv::Epilogue;
use crate::ops::{Real, batch_norm, conv, deform_conv, map, max_pool, relu, up_conv};
use anyhow::Result;
use std::marker::PhantomData;
use std::ops::Range;

/// The wanted maps, at the moment when the losses are computed.
pub struct WantedMaps<'a, T> {
    plan: &'a TrainPlan,
    arena: &'a mut Buffer<T>,
}

impl<T: Real> WantedMaps<'_, T> {
    /// A map, on the device, and its gradient, to add to. Panics if the map is not wanted, or the plan goes
    /// forward only: a programming error.
    pub fn with_gradient(&mut self, id: NodeId) -> (TensorRef<'_, T>, TensorMut<'_, T>) {
        let (map, Some(gradient)) = self.plan.wanted[&id] else { panic!("the plan goes forward only") };
        let views = Views::of(self.arena);
        (views.read(&map), views.write(&gradient))
    }

    /// A map, on the device. Panics if it is not wanted: a programming error.
    pub fn map(&self, id: NodeId) -> TensorRef<'_, T> {
        let Place { offset, layout } = self.plan.wanted[&id].0;
        self.arena.at(offset, layout)
    }
}

/// The memory that a plan runs in. It grows when a larger plan asks for more.
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
pub fn run<T: Real>(
    plan: &TrainPlan,
    layout: &ParameterLayout,
    arena: &mut Arena<T>,
    state: &mut NetworkMemory<T>,
    gradients: &mut Buffer<T>,
    image: &[f32],
    mut losses: impl FnMut(&mut WantedMaps<T>) -> Result<()>,
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
            Action::Forward(step) => forward(plan, layout, step, work, arena, state, false)?,
            Action::Again(step) => forward(plan, layout, step, work, arena, state, true)?,
            Action::Backward(step) => backward(plan, layout, step, work, arena, state, gradients)?,
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

    /// A view of entries of a layout, of which no two share a value.
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

fn forward<T: Real>(
    plan: &TrainPlan,
    layout: &ParameterLayout,
    step: usize,
    work: &Work,
    arena: &mut Arena<T>,
    state: &mut NetworkMemory<T>,
    again: bool,
) -> Result<()> {
    let device = &arena.device;
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
        TrainOp::Conv { shape, algorithms, weights, bias, relu, copies } => {
            let bias = bias.map_or(state.parameters.part(0..0), parameter);
            let weights = if *copies > 1 {
                map::sum_copies(device, parameter(*weights), [*copies, shape.kernel * shape.kernel], &mut summed)?;
                summed.as_ref()
            } else {
                parameter(*weights)
            };
            let weights = conv::Weights::pack_there(device, algorithms.forward.clone(), shape.extents(), weights, bias, scratch)?;
            conv::forward(device, *shape, inp, &weights, Epilogue { residual: None, relu: *relu }, out)
        }
        TrainOp::DeformConv { shape, algorithm, weights, bias } => {
            let (weights, bias) = (parameter(*weights), parameter(*bias));
            let weights = deform_conv::Weights::pack_there(device, algorithm.clone(), shape.extents(), weights, bias, scratch)?;
            deform_conv::forward(device, *shape, inp, views.read(&work.inputs[1]), &weights, false, out)
        }
        TrainOp::Norm { norm, gamma, beta, running, saved, .. } => {
            let statistics = Views::of(&mut state.statistics);
            let [mean, variance] = running.clone().map(|range| statistics.list(range));
            let running = RunningStatistics { mean, variance };
            let saved = &mut arena.saved.part_mut(saved.clone());
            let (gamma, beta) = (parameter(*gamma), parameter(*beta));
            let read = batch_norm::Forward { team: &plan.team, inp, gamma, beta, running, again, residual: addend };
            batch_norm::train_forward(device, *norm, read, saved, out, scratch)
        }
        TrainOp::MaxPool { shape } => max_pool::forward(device, *shape, inp, out),
        TrainOp::UpConv { shape, weights } => up_conv::forward(device, *shape, inp, parameter(*weights), addend, out),
    }
}

fn backward<T: Real>(
    plan: &TrainPlan,
    layout: &ParameterLayout,
    step: usize,
    work: &Work,
    arena: &mut Arena<T>,
    state: &NetworkMemory<T>,
    gradients: &mut Buffer<T>,
) -> Result<()> {
    let device = &arena.device;
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
        (TrainOp::Conv { shape, algorithms, weights, bias, relu, copies }, dinp) => {
            if *relu {
                relu::backward(device, out, &mut views.write(doutput))?;
            }
            let (mut dweights, extents) = (gradient(*weights), [*copies, shape.kernel * shape.kernel]);
            let weights = if *copies > 1 {
                map::sum_copies(device, parameter(*weights), extents, &mut summed)?;
                device.clear(&mut found)?;
                summed.as_ref()
            } else {
                parameter(*weights)
            };
            if let Some(dinp) = dinp {
                conv::backward_data(device, *shape, &algorithms.data, weights, dout, dinp, scratch)?;
            }
            let mut dbias = bias.map(gradient);
            let dsummed = if *copies > 1 { &mut found } else { &mut dweights };
            let gradients = conv::Gradients { dweights: dsummed, dbias: dbias.as_mut() };
            conv::backward_weights(device, *shape, &algorithms.weights, inp, dout, gradients, scratch)?;
            if *copies > 1 { map::spread_copies(device, found.as_ref(), extents, &mut dweights) } else { Ok(()) }
        }
        (TrainOp::DeformConv { shape, algorithm, weights, bias }, Some(dinp)) => {
            let Some(doffsets) = &work.dinputs[1] else { return Ok(()) };
            let (doffsets, dweights, dbias) = (&mut views.write(doffsets), &mut gradient(*weights), &mut gradient(*bias));
            let gradients = deform_conv::Gradients { dinp, doffsets, dweights, dbias };
            let kept = deform_conv::Kept { inp, offsets: views.read(&work.inputs[1]), weights: parameter(*weights) };
            deform_conv::backward(device, *shape, algorithm, kept, dout, gradients, scratch)
        }
        (TrainOp::Norm { norm, gamma, beta, saved, .. }, Some(dinp)) => {
            let (dgamma, dbeta) = (&mut gradient(*gamma), &mut gradient(*beta));
            let kept = batch_norm::Kept { team: &plan.team, inp, out, gamma: parameter(*gamma), saved: arena.saved.part(saved.clone()) };
            let gradients = batch_norm::Gradients { dinp, dresidual: daddend.as_mut(), dgamma, dbeta };
            batch_norm::backward(device, *norm, kept, dout, gradients, scratch)
        }
        (TrainOp::MaxPool { shape }, Some(dinp)) => max_pool::backward(device, *shape, inp, dout, dinp),
        (TrainOp::UpConv { shape, weights }, Some(dinp)) => {
            if let Some(dskip) = &mut daddend {
                map::add(device, dout, dskip)?;
            }
            let gradients = up_conv::Gradients { dinp, dweights: &mut gradient(*weights) };
            up_conv::backward(device, *shape, inp, parameter(*weights), dout, gradients, scratch)
        }
        (_, None) => unreachable!("only the first convolution reads the image"),
    }
}
