//! Runs a training plan: forward, losses, backward, each step through an engine.

use super::engine::Engine;
use super::graph::NodeId;
use super::parameters::{Entry, NetworkState, ParameterLayout};
use super::train_plan::{Action, Place, TrainPlan, Work};
use super::train_steps::TrainOp;
use crate::device::tensor::Layout;
use crate::device::{TensorMut, TensorRef};
use crate::ops::Real;
use crate::ops::batch_norm::RunningStatistics;
use crate::ops::deform_conv::Gradients;
use anyhow::Result;
use rayon::prelude::*;
use std::ops::Range;

/// The wanted maps, at the moment when the losses are computed.
pub struct WantedMaps<'a, T> {
    plan: &'a TrainPlan,
    arena: &'a mut [T],
}

impl<T: Real> WantedMaps<'_, T> {
    /// A map, packed, (n, h, w, c).
    pub fn map(&self, id: NodeId) -> Vec<T> {
        let Place { offset, layout } = self.plan.wanted[&id].0;
        TensorRef::new(&self.arena[offset..offset + layout.buffer_len()], layout).to_vec()
    }

    /// Adds to the gradient of a map, packed. Panics if the plan goes forward only: a programming error.
    pub fn add_gradient(&mut self, id: NodeId, gradient: &[T]) {
        let Some(Place { offset, layout }) = self.plan.wanted[&id].1 else { panic!("the plan goes forward only") };
        TensorMut::new(&mut self.arena[offset..offset + layout.buffer_len()], layout).add(gradient);
    }
}

/// The memory a plan runs in; grown when a larger plan asks for it.
#[derive(Clone, Debug, Default)]
pub struct Arena<T> {
    values: Vec<T>,
    saved: Vec<T>,
}

impl<T: Real> Arena<T> {
    /// Makes room for a plan.
    pub fn reserve(&mut self, plan: &TrainPlan) {
        if self.values.len() < plan.arena_len {
            self.values = Vec::new(); // the old block is freed before the new one is asked for
            self.values.resize(plan.arena_len, T::default());
        }
        if self.saved.len() < plan.steps.saved_len {
            self.saved.resize(plan.steps.saved_len, T::default());
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of::<T>() * (self.values.len() + self.saved.len())
    }
}

/// Two different places of one block.
fn pair<T>(values: &mut [T], a: Range<usize>, b: Range<usize>) -> [&mut [T]; 2] {
    assert!(a.end <= b.start || b.end <= a.start, "{a:?} and {b:?} overlap");
    if a.start < b.start {
        let (left, right) = values.split_at_mut(b.start);
        [&mut left[a], &mut right[..b.end - b.start]]
    } else {
        let (left, right) = values.split_at_mut(a.start);
        [&mut right[..a.end - a.start], &mut left[b]]
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
    state: &mut NetworkState<E::Value>,
    gradients: &mut [E::Value],
    image: &[f32],
    mut losses: impl FnMut(&mut WantedMaps<E::Value>) -> Result<()>,
) -> Result<()> {
    arena.reserve(plan);
    let Place { offset, layout: image_layout } = plan.image;
    assert_eq!(image.len(), image_layout.buffer_len(), "images of {:?}", image_layout.shape);
    arena.values[offset..offset + image.len()].iter_mut().zip(image).for_each(|(to, &x)| *to = E::Value::from_f64(f64::from(x)));
    for work in &plan.work {
        for place in &work.clear {
            let values = &mut arena.values[place.offset..place.offset + place.layout.buffer_len()];
            values.par_chunks_mut(1 << 16).for_each(|part| part.fill(E::Value::default()));
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

/// Views of an arena. All places were given by one plan: those that one action touches lie in the arena, and share a
/// value only where the action means to (a map and the concatenation it is part of, of which it reads or writes one).
struct Views<T> {
    base: *mut T,
    len: usize,
}

impl<T> Views<T> {
    fn of(values: &mut [T]) -> Self {
        Views { base: values.as_mut_ptr(), len: values.len() }
    }

    fn read<'a>(&self, place: &Place) -> TensorRef<'a, T> {
        assert!(place.offset + place.layout.buffer_len() <= self.len);
        // SAFETY: the place lies in the arena, which outlives the action; see above for who shares it.
        unsafe { TensorRef::from_raw(self.base.add(place.offset), place.layout) }
    }

    fn write<'a>(&self, place: &Place) -> TensorMut<'a, T> {
        assert!(place.offset + place.layout.buffer_len() <= self.len);
        // SAFETY: as above.
        unsafe { TensorMut::from_raw(self.base.add(place.offset), place.layout) }
    }

    /// The plan gave this action's scratch memory to nobody else.
    fn scratch<'a>(&self, [offset, len]: [usize; 2]) -> TensorMut<'a, T> {
        self.write(&Place { offset, layout: Layout::flat(len) })
    }
}

/// Weights [co][copies][k][k] for one channel that stands for `copies` equal ones: summed in f64, rounded once.
fn sum_copies<T: Real>(weights: &[T], copies: usize, taps: usize) -> Vec<T> {
    let sum = |o: usize, tap: usize| (0..copies).map(|c| weights[(o * copies + c) * taps + tap].to_f64()).sum::<f64>();
    (0..weights.len() / copies).map(|i| T::from_f64(sum(i / taps, i % taps))).collect()
}

fn forward<E: Engine>(
    engine: &E,
    plan: &TrainPlan,
    layout: &ParameterLayout,
    step: usize,
    work: &Work,
    arena: &mut Arena<E::Value>,
    state: &mut NetworkState<E::Value>,
    again: bool,
) -> Result<()> {
    let views = Views::of(&mut arena.values);
    let entries: &[Entry] = layout.parameters();
    let parameter = |i: usize| TensorRef::flat(&state.parameters[entries[i].range.clone()]);
    let inp = views.read(&work.inputs[0]);
    let addend = work.addend.as_ref().map(|place| views.read(place));
    let out = &mut views.write(&work.output);
    let scratch = &mut views.scratch(work.scratch);
    match &plan.steps.steps[step].op {
        TrainOp::Conv { shape, weights, bias, relu, copies } => {
            let bias = bias.map_or(TensorRef::flat(&[]), parameter);
            if *copies > 1 {
                let weights = sum_copies(parameter(*weights).as_slice(), *copies, shape.kernel * shape.kernel);
                engine.conv(*shape, inp, TensorRef::flat(&weights), bias, *relu, out, scratch)
            } else {
                engine.conv(*shape, inp, parameter(*weights), bias, *relu, out, scratch)
            }
        }
        TrainOp::DeformConv { shape, weights, bias } => {
            engine.deform_conv(*shape, inp, views.read(&work.inputs[1]), parameter(*weights), parameter(*bias), out, scratch)
        }
        TrainOp::Norm { norm, gamma, beta, running, saved, .. } => {
            let [mean, variance] = pair(&mut state.statistics, running[0].clone(), running[1].clone());
            let running = RunningStatistics::of(mean, variance);
            let saved = &mut TensorMut::flat(&mut arena.saved[saved.clone()]);
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
    state: &NetworkState<E::Value>,
    gradients: &mut [E::Value],
) -> Result<()> {
    let views = Views::of(&mut arena.values);
    let entries: &[Entry] = layout.parameters();
    let range = |i: usize| entries[i].range.clone();
    let parameter = |i: usize| TensorRef::flat(&state.parameters[range(i)]);
    let Some(doutput) = &work.doutput else { return Ok(()) };
    let inp = views.read(&work.inputs[0]);
    let out = views.read(&work.output);
    let dout = views.read(doutput);
    let mut dinp = work.dinputs[0].as_ref().map(|place| views.write(place));
    let mut daddend = work.daddend.as_ref().map(|place| views.write(place));
    let scratch = &mut views.scratch(work.scratch);
    match (&plan.steps.steps[step].op, &mut dinp) {
        (TrainOp::Conv { shape, weights, bias, relu, copies }, dinp) => {
            if *relu {
                engine.relu_backward(out, &mut views.write(doutput))?;
            }
            let dinp = dinp.as_mut();
            if *copies > 1 {
                let taps = shape.kernel * shape.kernel;
                let summed = sum_copies(parameter(*weights).as_slice(), *copies, taps);
                let mut found = vec![E::Value::default(); summed.len()];
                engine.conv_backward(*shape, inp, TensorRef::flat(&summed), dout, dinp, &mut TensorMut::flat(&mut found), None, scratch)?;
                // Equal channels have equal gradients.
                for (i, to) in gradients[range(*weights)].iter_mut().enumerate() {
                    *to += found[i / (copies * taps) * taps + i % taps];
                }
                Ok(())
            } else if let Some(bias) = bias {
                let [dweights, dbias] = &mut pair(gradients, range(*weights), range(*bias)).map(TensorMut::flat);
                engine.conv_backward(*shape, inp, parameter(*weights), dout, dinp, dweights, Some(dbias), scratch)
            } else {
                let dweights = &mut TensorMut::flat(&mut gradients[range(*weights)]);
                engine.conv_backward(*shape, inp, parameter(*weights), dout, dinp, dweights, None, scratch)
            }
        }
        (TrainOp::DeformConv { shape, weights, bias }, Some(dinp)) => {
            let Some(doffsets) = &work.dinputs[1] else { return Ok(()) };
            let [dweights, dbias] = &mut pair(gradients, range(*weights), range(*bias)).map(TensorMut::flat);
            let found = Gradients { dinp, doffsets: &mut views.write(doffsets), dweights, dbias };
            engine.deform_conv_backward(*shape, inp, views.read(&work.inputs[1]), parameter(*weights), dout, found, scratch)
        }
        (TrainOp::Norm { norm, gamma, beta, saved, .. }, Some(dinp)) => {
            let [dgamma, dbeta] = &mut pair(gradients, range(*gamma), range(*beta)).map(TensorMut::flat);
            let saved = TensorRef::flat(&arena.saved[saved.clone()]);
            engine.norm_backward(*norm, inp, out, dout, parameter(*gamma), saved, dinp, daddend.as_mut(), dgamma, dbeta, scratch)
        }
        (TrainOp::MaxPool { shape }, Some(dinp)) => engine.max_pool_backward(*shape, inp, dout, dinp),
        (TrainOp::UpConv { shape, weights }, Some(dinp)) => {
            if let Some(dskip) = &mut daddend {
                add_map(dout, dskip);
            }
            let dweights = &mut TensorMut::flat(&mut gradients[range(*weights)]);
            engine.up_conv_backward(*shape, inp, parameter(*weights), dout, dinp, dweights, scratch)
        }
        (_, None) => unreachable!("only the first convolution reads the image"),
    }
}

/// Adds one map to another.
fn add_map<T: Real>(from: TensorRef<T>, to: &mut TensorMut<T>) {
    let to: &TensorMut<T> = to;
    let [n, h, w, _] = from.shape();
    (0..n * h).into_par_iter().for_each(|row| {
        for pixel in row * w..(row + 1) * w {
            // SAFETY: each row belongs to one task.
            let to = unsafe { to.pixel_mut(pixel) };
            to.iter_mut().zip(from.pixel(pixel)).for_each(|(to, &value)| *to += value);
        }
    });
}
