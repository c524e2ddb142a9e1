//! The inference plan: steps at fixed places of one arena. Nothing is allocated while it runs, and its memory is known
//! before the first byte is asked for.

use super::bands::{Link, Schedule};
use super::steps::{Lowered, LoweredOp, LoweredStep, lower};
use crate::device::tensor::Layout;
use crate::device::{Buffer, Device, TensorMut, TensorRef, second_level_cache};
use crate::net::arena::{Lifetimes, Place, Placed};
use crate::net::graph::{Graph, NodeId};
use crate::net::model::Model;
use crate::ops::Compute;
use crate::ops::conv::{self, ConvShape, Epilogue, Pass};
use crate::ops::deform_conv::{self, DeformConvShape};
use crate::ops::max_pool::{self, MaxPoolShape};
use crate::ops::up_conv::{self, UpConvShape};
use anyhow::{Result, ensure};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::Ordering;

enum Work {
    Conv { shape: ConvShape, weights: conv::Weights, relu: bool },
    DeformConv { shape: DeformConvShape, weights: deform_conv::Weights, relu: bool },
    MaxPool { shape: MaxPoolShape },
    UpConv { shape: UpConvShape, weights: Buffer },
}

struct Step {
    name: String,
    work: Work,
    inputs: Vec<Place>,
    addend: Option<Place>,
    output: Place,
    /// True if another step multiplies or adds what this one writes, so that it is rounded where maps are: offsets and logits are not.
    is_rounded: bool,
}

/// One line of `epicker plan`.
#[derive(Clone, Debug)]
pub struct StepSummary {
    /// Module name.
    pub name: String,
    /// The operation, with what is fused into it.
    pub operation: String,
    /// The algorithm of a convolution; empty for an operation that has only one way.
    pub algorithm: String,
    /// Shape of the map, (n, h, w, c).
    pub output: [usize; 4],
    /// Multiply-adds.
    pub multiply_adds: u64,
    /// Bytes of the maps that are read.
    pub input_bytes: usize,
    /// Bytes of the map, as much of it as is held.
    pub output_bytes: usize,
    /// Bytes of the weights as they lie in memory.
    pub weight_bytes: usize,
}

/// Least rows of a segment of a chain: with fewer of them too many rows are computed for two segments.
const LEAST_ROWS: usize = 8;

/// Steps that are computed in bands: convolutions that follow one another.
struct Chain {
    steps: Range<usize>,
    schedule: Schedule,
}

impl Chain {
    /// All chains of a network for one image on the CPU. Elsewhere maps are computed whole.
    fn all(compute: &Compute, lowered: &Lowered, layout: impl Fn(NodeId) -> Layout, wanted: &[NodeId]) -> Vec<Chain> {
        if !matches!(compute.device, Device::Cpu) || compute.tried_precision().is_some() || layout(NodeId(0)).shape[0] != 1 {
            return Vec::new();
        }
        let steps = &lowered.steps;
        let reads = |step: &LoweredStep, id: NodeId| step.inputs.contains(&id) || step.addend == Some(id);
        let link = |step: &LoweredStep| {
            let LoweredOp::Conv { ci, kernel, stride, .. } = step.op else { return None };
            let shape = conv_shape([ci, kernel, stride], layout(step.inputs[0]), layout(step.output));
            let rows_together = conv::algorithm::choose(compute, Pass::Forward, shape).rows_together()?;
            step.addend.is_none().then_some(Link { shape, rows_together })
        };
        // Nobody but the next step reads what a step writes.
        let goes_on = |i: usize| {
            let map = steps[i].output;
            let readers = steps.iter().filter(|step| reads(step, map)).count();
            readers == 1 && reads(&steps[i + 1], map) && lowered.parts.owner(map) == map && !wanted.contains(&map)
        };
        let mut chains = Vec::new();
        let mut first = 0;
        while first < steps.len() {
            let mut links: Vec<Link> = link(&steps[first]).into_iter().collect();
            let mut end = first + 1;
            while let Some(next) = steps.get(end).filter(|_| !links.is_empty() && goes_on(end - 1)).and_then(link) {
                links.push(next);
                end += 1;
            }
            // Two segments for each thread, so that none waits long for another. Where they would be only a few rows high, there are so
            // many threads that whole maps fit into their caches.
            let segments = 2 * rayon::current_num_threads();
            let rows = links.last().map_or(0, |link| link.shape.out()[1]);
            if links.len() > 1 && rows >= LEAST_ROWS * segments {
                // Each leaves half of a cache to weights.
                let most = second_level_cache() / 2 / size_of::<f32>();
                chains.push(Chain { steps: first..end, schedule: Schedule::new(&links, segments, most) });
            }
            first = end;
        }
        chains
    }
}

/// Where all maps lie.
struct Arrangement {
    places: HashMap<NodeId, Place>,
    total: usize,
    lower_bound: usize,
    chains: Vec<Chain>,
}

impl Arrangement {
    fn of(compute: &Compute, graph: &Graph, lowered: &Lowered, n: usize, extent: [usize; 2], wanted: &[NodeId]) -> Self {
        let parts = &lowered.parts;
        let whole = |id: NodeId| parts.layout(graph, id, n, extent);
        let chains = Chain::all(compute, lowered, whole, wanted);
        // A map between the links of a chain has as many rows as all segments hold.
        let mut held = HashMap::new();
        for Chain { steps, schedule: Schedule { segments, held: of_segment } } in &chains {
            held.extend(lowered.steps[steps.clone()].iter().zip(of_segment).map(|(step, rows)| (step.output, segments.len() * rows)));
        }
        let layout = |id: NodeId| {
            let Layout { shape: [n, h, w, c], .. } = whole(id);
            Layout { shape: [n, held.get(&id).copied().unwrap_or(h), w, c], ..whole(id) }
        };
        let mut lifetimes = Lifetimes::default();
        let mut touch = |id: NodeId, step: usize| lifetimes.touch(parts.owner(id), layout(parts.owner(id)).buffer_len(), step);
        let image_id = NodeId(0);
        touch(image_id, 0);
        for (i, step) in lowered.steps.iter().enumerate() {
            // The links of a chain take turns, so whatever one of them touches is there from the first to the last.
            let chain = chains.iter().find(|chain| chain.steps.contains(&i));
            let (first, last) = chain.map_or((i, i), |chain| (chain.steps.start, chain.steps.end - 1));
            for &id in step.inputs.iter().chain(&step.addend).chain([&step.output]) {
                touch(id, first);
                touch(id, last);
            }
        }
        wanted.iter().for_each(|&id| touch(id, lowered.steps.len()));
        let Placed { offsets, len: total, lower_bound } = lifetimes.place();
        let place = |id: NodeId| (id, Place { offset: offsets[&parts.owner(id)], layout: layout(id) });
        let of_step =
            |step: &LoweredStep| -> Vec<NodeId> { step.inputs.iter().chain(&step.addend).chain([&step.output]).copied().collect() };
        let used = lowered.steps.iter().flat_map(of_step).chain(wanted.iter().copied()).chain([image_id]);
        Arrangement { places: used.map(place).collect(), total, lower_bound, chains }
    }
}

/// Steps at fixed places, and the memory they work in.
pub struct Plan {
    steps: Vec<Step>,
    chains: Vec<Chain>,
    image: Place,
    wanted: HashMap<NodeId, Place>,
    compute: Compute,
    arena: Buffer,
    lower_bound: usize,
}

impl Plan {
    /// Plans the network for `n` images of `[h, w]` on a device; the maps in `wanted` can be read after a run.
    ///
    /// Errors: the image's sides are not multiples of 32, the model lacks a tensor, or the device has not as much memory.
    pub fn new(compute: impl Into<Compute>, graph: &Graph, model: &Model, n: usize, [h, w]: [usize; 2], wanted: &[NodeId]) -> Result<Self> {
        let compute = compute.into();
        let device = &compute.device;
        ensure!(n > 0 && h > 0 && w > 0 && h % 32 == 0 && w % 32 == 0, "an image of {w} x {h} pixels; expected multiples of 32");
        let lowered = lower(graph, wanted);
        let Arrangement { places, total, lower_bound, chains } = Arrangement::of(&compute, graph, &lowered, n, [h, w], wanted);
        let place = |id: NodeId| places[&id];
        let layout = |id: NodeId| lowered.parts.layout(graph, id, n, [h, w]);
        let steps = lowered.steps.iter().map(|step| {
            let inputs: Vec<Place> = step.inputs.iter().map(|&id| place(id)).collect();
            let output = place(step.output);
            let work = work(&compute, model, step, layout(step.inputs[0]), layout(step.output))?;
            // A concatenation is read as the whole of which the output is a part.
            let is_output = |id: NodeId| lowered.parts.owner(id) == lowered.parts.owner(step.output);
            let is_rounded = lowered.steps.iter().any(|reader| is_output(reader.inputs[0]) || reader.addend.is_some_and(is_output));
            Ok(Step { name: step.name.clone(), work, inputs, addend: step.addend.map(place), output, is_rounded })
        });
        Ok(Plan {
            steps: steps.collect::<Result<_>>()?,
            chains,
            image: place(NodeId(0)),
            wanted: wanted.iter().map(|&id| (id, place(id))).collect(),
            lower_bound,
            arena: Buffer::zeros(device, total)?,
            compute: compute.clone(),
        })
    }

    /// Bytes of the arena of one square image of `frame` pixels a side on a device, without asking for them.
    pub fn arena_bytes_for(compute: &Compute, graph: &Graph, frame: usize, wanted: &[NodeId]) -> usize {
        4 * Arrangement::of(compute, graph, &lower(graph, wanted), 1, [frame, frame], wanted).total
    }

    /// Runs all steps on `image`, (n, h, w) of one channel, row-major.
    ///
    /// Errors: a launch fails on the device. An image of another size is a programming error and panics.
    pub fn run(&mut self, image: &[f32]) -> Result<()> {
        let Place { offset, layout } = self.image;
        assert_eq!(image.len(), layout.buffer_len(), "an image of {:?}", layout.shape);
        self.arena.write(offset, image)?;
        self.run_steps()
    }

    /// Where the image goes before `run_steps`, (n, h, w, 1).
    pub fn image_mut(&mut self) -> TensorMut<'_> {
        let Place { offset, layout } = self.image;
        self.arena.at_mut(offset, layout)
    }

    /// Runs all steps on the image that is there.
    ///
    /// Errors: a launch fails on the device.
    pub fn run_steps(&mut self) -> Result<()> {
        self.run_each(|_| Ok(()))
    }

    /// Runs all steps on the image that is there, and says after each which it was: its place in `summary`. Of steps that are computed
    /// together, in bands, it names the last.
    ///
    /// Errors: a launch fails on the device, or `after` does.
    pub fn run_each(&mut self, mut after: impl FnMut(usize) -> Result<()>) -> Result<()> {
        let base = self.arena.base_mut();
        // SAFETY: the image's place lies in the arena, which is borrowed mutably; this is the only view.
        round(&self.compute, &unsafe { TensorMut::from_raw(base.wrapping_add(self.image.offset), self.image.layout) });
        let mut i = 0;
        while i < self.steps.len() {
            match self.chains.iter().find(|chain| chain.steps.start == i) {
                Some(chain) => {
                    // SAFETY: `base` is the arena, which is borrowed mutably.
                    unsafe { self.run_in_bands(chain, base) };
                    i = chain.steps.end;
                }
                None => {
                    // SAFETY: as above.
                    unsafe { self.run_step(&self.steps[i], base) }?;
                    i += 1;
                }
            }
            after(i - 1)?;
        }
        Ok(())
    }

    /// # Safety
    /// `base` is the arena, and nobody else has a view of it.
    unsafe fn run_step(&self, step: &Step, base: *mut f32) -> Result<()> {
        let device = &self.compute.device;
        // SAFETY: every place lies in the arena (`place` gave the offsets and the length), the arena is borrowed
        // mutably for as long as the views live, and maps that are alive together share no value: those a step
        // reads and the one it writes are, because their lifetimes meet in this step.
        let read = |place: &Place| unsafe { TensorRef::from_raw(base.wrapping_add(place.offset), place.layout) };
        // SAFETY: as above; one view of the output at a time.
        let mut out = unsafe { TensorMut::from_raw(base.wrapping_add(step.output.offset), step.output.layout) };
        let inp = read(&step.inputs[0]);
        let addend = step.addend.as_ref().map(read);
        match &step.work {
            Work::Conv { shape, weights, relu } => {
                conv::forward(device, *shape, inp, weights, Epilogue { residual: addend, relu: *relu }, &mut out)?;
            }
            Work::DeformConv { shape, weights, relu } => {
                deform_conv::forward(device, *shape, inp, read(&step.inputs[1]), weights, *relu, &mut out)?;
            }
            Work::MaxPool { shape } => max_pool::forward(device, *shape, inp, &mut out)?,
            Work::UpConv { shape, weights } => up_conv::forward(device, *shape, inp, weights.view(), addend, &mut out)?,
        }
        if step.is_rounded {
            round(&self.compute, &out);
        }
        Ok(())
    }

    /// # Safety
    /// `base` is the arena, and nobody else has a view of it.
    unsafe fn run_in_bands(&self, chain: &Chain, base: *mut f32) {
        let steps = &self.steps[chain.steps.clone()];
        let base = base as usize; // an address may go to other threads
        chain.schedule.segments.par_iter().enumerate().for_each(|(segment, bands)| {
            // Where each buffer of this segment lies, and the row that it begins with.
            let buffer = |i: usize| {
                let Step { output: Place { offset, layout }, .. } = &steps[i];
                let row = layout.shape[2] * layout.pixel_stride;
                ((base as *mut f32).wrapping_add(offset + segment * chain.schedule.held[i] * row), row)
            };
            let mut origins: Vec<usize> = bands[0].iter().map(|turn| turn.kept.start).collect();
            for (i, turn) in bands.iter().flat_map(|band| band.iter().enumerate()) {
                let Step { work: Work::Conv { shape, weights, relu }, inputs, output, .. } = &steps[i] else {
                    unreachable!("{} in a chain of convolutions", steps[i].name)
                };
                // A view of a whole map, of which only some rows are there: those from its origin on.
                let from_origin = |i: usize, origin: usize| {
                    let (buffer, row) = buffer(i);
                    buffer.wrapping_sub(origin * row)
                };
                let to = if i + 1 < steps.len() {
                    let (buffer, row) = buffer(i);
                    // SAFETY: these rows lie in the segment's buffer, which has room for those that are kept.
                    unsafe { std::ptr::copy(buffer.add((turn.kept.start - origins[i]) * row), buffer, turn.kept.len() * row) };
                    origins[i] = turn.kept.start;
                    from_origin(i, origins[i])
                } else {
                    (base as *mut f32).wrapping_add(output.offset)
                };
                let from = if i == 0 { (base as *mut f32).wrapping_add(inputs[0].offset) } else { from_origin(i - 1, origins[i - 1]) };
                // SAFETY: the rows that are read lie in the arena (the schedule sees to it). No other map that is alive shares a value,
                // and no other segment writes there.
                let inp = unsafe { TensorRef::from_raw(from, Layout { shape: shape.inp(), ..inputs[0].layout }) };
                // SAFETY: as above, of the rows that are written.
                let mut out = unsafe { TensorMut::from_raw(to, Layout { shape: shape.out(), ..output.layout }) };
                conv::forward_rows(*shape, turn.rows.clone(), inp, weights, Epilogue { residual: None, relu: *relu }, &mut out);
            }
        });
    }

    /// A wanted map, on the device, after a run. Panics if it was not wanted: a programming error.
    pub fn map(&self, id: NodeId) -> TensorRef<'_> {
        let Place { offset, layout } = self.wanted[&id];
        self.arena.at(offset, layout)
    }

    /// The values of a wanted map, (n, h, w, c), after a run. Panics if it was not wanted: a programming error.
    ///
    /// Errors: the device fails.
    pub fn read(&self, id: NodeId) -> Result<Vec<f32>> {
        self.compute.device.read(self.map(id))
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.compute.device
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        4 * self.arena.len()
    }

    /// Bytes that are alive together at the worst step: no arena could be smaller.
    pub fn lower_bound_bytes(&self) -> usize {
        4 * self.lower_bound
    }

    /// What each step does.
    pub fn summary(&self) -> Vec<StepSummary> {
        self.steps.iter().map(Step::summary).collect()
    }

    /// The steps, by their places in `summary`, that `run_each` says it has done when it names this one.
    pub fn done_with(&self, step: usize) -> Range<usize> {
        let chain = self.chains.iter().find(|chain| chain.steps.end == step + 1);
        chain.map_or(step..step + 1, |chain| chain.steps.clone())
    }

    /// Multiply-adds of a run.
    pub fn multiply_adds(&self) -> u64 {
        self.steps.iter().map(|step| step.summary().multiply_adds).sum()
    }
}

/// Rounds a map to the precision that products are multiplied in, if that is not f32. A map with a number beyond what can be stored
/// stays as it is, and is counted.
fn round(compute: &Compute, map: &TensorMut) {
    let Some(precision) = compute.tried_precision() else { return };
    let pixels = map.layout().pixels();
    // SAFETY: one task for each pixel, and the caller has the only view of the map.
    let of_pixel = |pixel: usize| unsafe { map.pixel_mut(pixel) };
    if (0..pixels).into_par_iter().any(|pixel| of_pixel(pixel).iter().any(|value| precision.overflows(*value))) {
        compute.overflows.fetch_add(1, Ordering::Relaxed);
        return;
    }
    (0..pixels).into_par_iter().for_each(|pixel| of_pixel(pixel).iter_mut().for_each(|value| *value = precision.rounded(*value)));
}

/// Weights as the precision has them.
fn rounded<'a>(compute: &Compute, weights: &'a [f32]) -> Cow<'a, [f32]> {
    compute.tried_precision().map_or(Cow::Borrowed(weights), |precision| Cow::Owned(precision.all_rounded(weights)))
}

/// The extents of a convolution between two maps.
fn conv_shape([ci, kernel, stride]: [usize; 3], inp: Layout, out: Layout) -> ConvShape {
    let ([n, h, w, _], [_, _, _, co]) = (inp.shape, out.shape);
    ConvShape { n, h, w, ci, co, kernel, stride }
}

fn work(compute: &Compute, model: &Model, step: &LoweredStep, inp: Layout, out: Layout) -> Result<Work> {
    let ([n, h, w, c], [_, _, _, co]) = (inp.shape, out.shape);
    Ok(match &step.op {
        LoweredOp::Conv { ci, kernel, stride, parameters, relu } => {
            let (weights, bias) = parameters.of(model)?;
            let shape = conv_shape([*ci, *kernel, *stride], inp, out);
            Work::Conv { shape, weights: conv::prepare(compute, shape, &rounded(compute, &weights), &bias)?, relu: *relu }
        }
        LoweredOp::DeformConv { ci, parameters, relu } => {
            let (weights, bias) = parameters.of(model)?;
            let shape = DeformConvShape { n, h, w, ci: *ci, co };
            Work::DeformConv { shape, weights: deform_conv::prepare(compute, shape, &rounded(compute, &weights), &bias)?, relu: *relu }
        }
        LoweredOp::MaxPool { window } => Work::MaxPool { shape: MaxPoolShape { n, h, w, c, window: *window } },
        LoweredOp::UpConv { factor, parameters } => Work::UpConv {
            shape: UpConvShape { n, h, w, c, factor: *factor },
            weights: Buffer::of(&compute.device, rounded(compute, &parameters.of(model)?.0).into_owned())?,
        },
    })
}

impl Step {
    fn summary(&self) -> StepSummary {
        // Of a map that is computed in bands some rows are held.
        let held: usize = self.output.layout.shape.iter().product();
        let output = if let Work::Conv { shape, .. } = &self.work { shape.out() } else { self.output.layout.shape };
        let values: usize = output.iter().product();
        let relu = |relu: bool| if relu { " + relu" } else { "" };
        let add = if self.addend.is_some() { " + add" } else { "" };
        let (operation, multiply_adds, weight_bytes) = match &self.work {
            Work::Conv { shape, weights, relu: r } => {
                let stride = if shape.stride > 1 { format!(" /{}", shape.stride) } else { String::new() };
                (format!("conv {0}x{0}{stride}{add}{1}", shape.kernel, relu(*r)), shape.multiply_adds(), weights.bytes())
            }
            Work::DeformConv { shape, weights, relu: r } => {
                (format!("deform_conv 3x3{}", relu(*r)), shape.multiply_adds(), weights.bytes())
            }
            Work::MaxPool { shape } => (format!("max_pool {0}x{0}", shape.window), 0, 0),
            Work::UpConv { shape, weights } => (format!("up_conv x{}{add}", shape.factor), 4 * values as u64, 4 * weights.len()),
        };
        let algorithm = match &self.work {
            Work::Conv { weights, .. } => weights.algorithm().to_string(),
            Work::DeformConv { weights, .. } => weights.algorithm().to_string(),
            Work::MaxPool { .. } | Work::UpConv { .. } => String::new(),
        };
        let read = self.inputs.iter().chain(&self.addend).map(|place| place.layout.shape.iter().product::<usize>());
        StepSummary {
            name: self.name.clone(),
            operation,
            algorithm,
            output,
            multiply_adds,
            input_bytes: 4 * read.sum::<usize>(),
            output_bytes: 4 * held,
            weight_bytes,
        }
    }
}
