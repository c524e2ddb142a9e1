//! One step of training: the network forward, the losses, the network backward, Adam.

pub use super::options::{Compared, Continual, FeatureScale, LossWeights, Losses, TrainerOptions};
use super::targets::Targets;
use crate::device::tensor::Layout;
use crate::device::{Buffer, Device, TensorMut, TensorRef};
use crate::formats::pth::{Adam, Moments};
use crate::formats::state_dict::StateDict;
use crate::net::engine::{DeviceEngine, Engine};
use crate::net::graph::{Graph, NodeId};
use crate::net::parameters::{NetworkMemory, NetworkState, ParameterLayout};
use crate::net::train_plan::{TrainPlan, TrainPlanOptions};
use crate::net::train_run::{self, Arena, WantedMaps};
use crate::net::{Architecture, Mode};
use crate::ops::adam::{self, AdamStep};
use crate::ops::real::convert;
use crate::ops::{Real, losses, map};
use anyhow::{Result, ensure};
use std::collections::HashMap;
use std::ops::Range;

/// A loss of a map, which adds its gradient.
type MapLoss<'a, T> = &'a dyn Fn(TensorRef<T>, &mut TensorMut<T>) -> Result<f64>;

/// The earlier network of a continual training.
struct Teacher<T> {
    state: NetworkMemory<T>,
    batch_statistics: bool,
    scale: FeatureScale,
    feature_weight: f64,
    pull_weight: f64,
    compared: Compared,
}

/// A network in training.
pub struct Trainer<E: Engine = DeviceEngine> {
    engine: E,
    options: TrainerOptions,
    graph: Graph,
    layout: ParameterLayout,
    state: NetworkMemory<E::Value>,
    gradients: Buffer<E::Value>,
    /// Which parameters the last gradients are of.
    active: Vec<bool>,
    moments: [Buffer<E::Value>; 2],
    /// Steps that Adam took with each parameter.
    counts: Vec<u64>,
    teacher: Option<Teacher<E::Value>>,
    arena: Arena<E::Value>,
    /// The targets of the heat map, and a gradient that nobody wants, where the engine computes.
    targets: Buffer<E::Value>,
    spare: Buffer<E::Value>,
    plans: HashMap<(PlanKind, usize), TrainPlan>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PlanKind {
    Student { features: bool },
    Teacher,
    Evaluation,
}

pub(super) fn student_plan<E: Engine>(
    engine: &E,
    graph: &Graph,
    layout: &ParameterLayout,
    options: &TrainerOptions,
    batch: usize,
    features: bool,
) -> Result<TrainPlan> {
    let plan = TrainPlanOptions {
        batch,
        extent: options.frame,
        wanted: wanted(graph, options.mode, features),
        frozen: options.frozen_statistics,
        backward: true,
        recompute: options.checkpoint_activations,
    };
    TrainPlan::new(graph, layout, &plan, |op, backward| engine.scratch_len(op, backward))
}

/// The maps that the losses of a mode read.
fn wanted(graph: &Graph, mode: Mode, features: bool) -> Vec<NodeId> {
    let outputs = graph.outputs();
    let mut wanted = vec![outputs.heat_map, outputs.offset];
    if mode == Mode::Vesicle {
        wanted.push(outputs.size);
    }
    if features {
        wanted.extend([outputs.level5, outputs.up]);
    }
    wanted
}

/// Whether the pull towards the earlier network acts on a parameter: on weights, but for the norms in the blocks.
pub fn is_pulled(name: &str) -> bool {
    let has = |component: &str| name.split('.').any(|part| part == component);
    has("weight") && !has("bn1") && !has("bn2")
}

impl<E: Engine> Trainer<E> {
    /// A training that starts with the weights of `state`, of a network of these widths.
    ///
    /// Errors: a tensor is missing or has another shape, or the frame's sides are not multiples of 32.
    pub fn new(
        engine: E,
        architecture: Architecture,
        state: &StateDict,
        options: TrainerOptions,
        continual: Option<Continual>,
    ) -> Result<Self> {
        let (graph, layout) = (architecture.graph(), ParameterLayout::new(architecture));
        let device = engine.device().clone();
        let network = NetworkMemory::new(&device, NetworkState::from_state_dict(&layout, state)?)?;
        let teacher = match continual {
            Some(Continual { earlier, batch_statistics, feature_scale: scale, feature_weight, pull_weight, compared }) => {
                let state = NetworkMemory::new(&device, NetworkState::from_state_dict(&layout, &earlier)?)?;
                Some(Teacher { state, batch_statistics, scale, feature_weight, pull_weight, compared })
            }
            None => None,
        };
        let zeros = || Buffer::zeros(&device, layout.parameter_len());
        let mut trainer = Trainer {
            gradients: zeros()?,
            active: vec![false; layout.parameters().len()],
            counts: vec![0; layout.parameters().len()],
            moments: [zeros()?, zeros()?],
            arena: Arena::new(&device)?,
            targets: Buffer::zeros(&device, 0)?,
            spare: Buffer::zeros(&device, 0)?,
            plans: HashMap::new(),
            state: network,
            engine,
            options,
            graph,
            layout,
            teacher,
        };
        // The largest plan now: whether it fits is known before the first image is read.
        let features = trainer.teacher.is_some();
        let kind = trainer.plan(PlanKind::Student { features }, trainer.options.batch)?;
        trainer.arena.reserve(&trainer.plans[&kind])?;
        Ok(trainer)
    }

    /// One step: losses and gradients of a batch, then Adam.
    ///
    /// Shapes: `images` (n, h, w), one channel, normalised; n is the length of `exemplar`, which says of each image
    /// whether it is an exemplar of an earlier data set.
    /// Errors: as `compute_gradients`.
    pub fn step(&mut self, images: &[f32], targets: &Targets, exemplar: &[bool], learning_rate: f64) -> Result<Losses> {
        let losses = self.compute_gradients(images, targets, exemplar)?;
        self.apply(learning_rate)?;
        Ok(losses)
    }

    /// Losses and gradients of a batch; running statistics move.
    ///
    /// Shapes: as `step`.
    /// Errors: images or targets do not fit the frame, or the device fails.
    /// Source: docs/network.md, sections 3.1 and 3.2.
    pub fn compute_gradients(&mut self, images: &[f32], targets: &Targets, exemplar: &[bool]) -> Result<Losses> {
        let n = exemplar.len();
        self.check(images, targets, n)?;
        let compared = self.compared(exemplar);
        let pulled = exemplar.first() == Some(&true);
        let features = if compared.is_empty() { None } else { Some(self.earlier_features(images, n, &compared)?) };
        self.set_targets(targets)?;
        let kind = self.plan(PlanKind::Student { features: features.is_some() }, n)?;
        let plan = &self.plans[&kind];
        self.gradients.clear(0..self.gradients.len())?;
        self.active.fill(false);
        for step in plan.steps.steps.iter().filter(|step| step.has_gradient) {
            step.parameters().for_each(|i| self.active[i] = true);
        }
        let outputs = self.graph.outputs();
        let (options, teacher) = (&self.options, self.teacher.as_ref().map(|teacher| (teacher.scale, teacher.feature_weight)));
        let mut found = Losses::default();
        let device = self.engine.device();
        train_run::run(
            &self.engine,
            plan,
            &self.layout,
            &mut self.arena,
            &mut self.state,
            &mut self.gradients,
            images,
            |maps: &mut WantedMaps<E::Value>| {
                found = Self::map_losses(device, options, &self.graph, targets, &self.targets, maps, None)?;
                let Some((earlier, (scale, weight))) = features.as_ref().zip(teacher) else { return Ok(()) };
                for (id, (earlier, original)) in
                    [outputs.level5, outputs.up].into_iter().zip(earlier.iter().zip([512 * 32 * 32, 256 * 256 * 64]))
                {
                    let (map, mut gradient) = maps.with_gradient(id);
                    let len = map.len() / n;
                    let weight = weight / if scale == FeatureScale::Original { original } else { len } as f64;
                    for (i, &image) in compared.iter().enumerate() {
                        let (now, then) = (map.image(image), earlier.part(i * len..(i + 1) * len));
                        found.exemplar += losses::squared_distance_on(device, now, then, weight, &mut gradient.image_mut(image))?;
                    }
                }
                Ok(())
            },
        )?;
        if !self.options.frozen_statistics {
            self.state.batches += 1;
        }
        if let Some(teacher) = self.teacher.as_ref().filter(|teacher| pulled && teacher.pull_weight > 0.0) {
            for (i, entry) in self.layout.parameters().iter().enumerate().filter(|(_, entry)| is_pulled(&entry.name)) {
                let range = entry.range.clone();
                let (now, earlier) = (self.state.parameters.part(range.clone()), teacher.state.parameters.part(range.clone()));
                let gradient = &mut self.gradients.part_mut(range);
                found.exemplar += losses::squared_distance_on(device, now, earlier, teacher.pull_weight, gradient)?;
                self.active[i] = true;
            }
        }
        found.total += found.exemplar;
        Ok(found)
    }

    /// One step of Adam with the last gradients, on the parameters that they are of.
    ///
    /// Errors: the device fails.
    pub fn apply(&mut self, learning_rate: f64) -> Result<()> {
        let [first, second] = &mut self.moments;
        // Neighbours that were stepped as often go together: on a GPU each step is a launch.
        let mut together: Option<(Range<usize>, u64)> = None;
        let mut runs = Vec::new();
        for (i, entry) in self.layout.parameters().iter().enumerate().filter(|(i, _)| self.active[*i]) {
            self.counts[i] += 1;
            match &mut together {
                Some((range, count)) if range.end == entry.range.start && *count == self.counts[i] => range.end = entry.range.end,
                _ => runs.extend(together.replace((entry.range.clone(), self.counts[i]))),
            }
        }
        runs.extend(together);
        for (range, count) in runs {
            let (p, g) = (&mut self.state.parameters.part_mut(range.clone()), self.gradients.part(range.clone()));
            let (m, v) = (&mut first.part_mut(range.clone()), &mut second.part_mut(range));
            self.engine.adam(AdamStep { learning_rate, count }, p, g, m, v)?;
        }
        Ok(())
    }

    /// Losses of a batch by the running statistics; nothing is learnt and nothing moves.
    ///
    /// Shapes: as `step`, with `n` images.
    /// Errors: as `compute_gradients`.
    pub fn evaluate(&mut self, images: &[f32], targets: &Targets, n: usize) -> Result<Losses> {
        self.check(images, targets, n)?;
        let kind = self.plan(PlanKind::Evaluation, n)?;
        self.set_targets(targets)?;
        let mut found = Losses::default();
        let largest = 2 * targets.heat_map.len();
        if self.spare.len() < largest {
            self.spare = Buffer::zeros(self.engine.device(), largest)?;
        }
        let spare = &mut self.spare;
        train_run::run(
            &self.engine,
            &self.plans[&kind],
            &self.layout,
            &mut self.arena,
            &mut self.state,
            &mut self.gradients,
            images,
            |maps| {
                let device = self.engine.device();
                found = Self::map_losses(device, &self.options, &self.graph, targets, &self.targets, maps, Some(&mut *spare))?;
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Copies the targets of the heat map to where the engine computes.
    fn set_targets(&mut self, targets: &Targets) -> Result<()> {
        if self.targets.len() < targets.heat_map.len() {
            self.targets = Buffer::zeros(self.engine.device(), targets.heat_map.len())?;
        }
        self.targets.write(0, &convert(&targets.heat_map))
    }

    /// Losses of the heads, and their gradients; with `spare`, memory for gradients that nobody wants.
    fn map_losses(
        device: &Device,
        options: &TrainerOptions,
        graph: &Graph,
        targets: &Targets,
        heat_map: &Buffer<E::Value>,
        maps: &mut WantedMaps<E::Value>,
        mut spare: Option<&mut Buffer<E::Value>>,
    ) -> Result<Losses> {
        let outputs = graph.outputs();
        let [h, w] = options.frame.map(|extent| extent / 4);
        let weights = options.weights;
        let kind = options.heat_map_loss.for_maps([h, w], targets.typical_radius());
        let mut with_gradient = |id: NodeId, loss: MapLoss<E::Value>| {
            if let Some(spare) = &mut spare {
                let map = maps.map(id);
                return loss(map, &mut spare.at_mut(0, Layout::packed(map.shape())));
            }
            let (map, mut gradient) = maps.with_gradient(id);
            loss(map, &mut gradient)
        };
        let mut found = Losses {
            heat_map: with_gradient(outputs.heat_map, &|logits, gradient| {
                let wanted = heat_map.at(0, logits.layout());
                losses::heat_map_on(device, kind, logits, wanted, weights.heat_map, gradient)
            })?,
            ..Losses::default()
        };
        let mut distance = |id: NodeId, weight: f64, wanted: &dyn Fn(&super::targets::Object) -> [f32; 2]| {
            let objects: Vec<(usize, [f32; 2])> =
                targets.objects.iter().map(|object| (object.image * h * w + object.index, wanted(object))).collect();
            with_gradient(id, &|map, gradient| losses::l1_on(device, map, &objects, weight, gradient))
        };
        found.offset = distance(outputs.offset, weights.offset, &|object| object.offset)?;
        if options.mode == Mode::Vesicle {
            found.size = distance(outputs.size, weights.size, &|object| object.size)?;
        }
        found.total = weights.heat_map * found.heat_map + weights.offset * found.offset;
        if options.mode == Mode::Vesicle {
            found.total += weights.size * found.size;
        }
        Ok(found)
    }

    /// Images whose features are compared with the earlier network's.
    fn compared(&self, exemplar: &[bool]) -> Vec<usize> {
        let Some(teacher) = self.teacher.as_ref().filter(|teacher| teacher.feature_weight > 0.0) else { return Vec::new() };
        let all = teacher.compared == Compared::Batch && exemplar.contains(&true);
        (0..exemplar.len()).filter(|&image| all || exemplar[image]).collect()
    }

    /// The two feature maps of the earlier network, for some of `n` images.
    fn earlier_features(&mut self, images: &[f32], n: usize, wanted: &[usize]) -> Result<Vec<Buffer<E::Value>>> {
        let kind = self.plan(PlanKind::Teacher, wanted.len())?;
        let len = images.len() / n;
        let images: Vec<f32> = wanted.iter().flat_map(|&image| &images[image * len..(image + 1) * len]).copied().collect();
        let Some(teacher) = &mut self.teacher else { return Ok(Vec::new()) };
        let outputs = self.graph.outputs();
        let mut found = Vec::new();
        let device = self.engine.device();
        train_run::run(
            &self.engine,
            &self.plans[&kind],
            &self.layout,
            &mut self.arena,
            &mut teacher.state,
            &mut self.gradients,
            &images,
            |maps| {
                for id in [outputs.level5, outputs.up] {
                    let map = maps.map(id);
                    let mut copy = Buffer::zeros(device, map.len())?;
                    map::add(device, map, &mut copy.at_mut(0, Layout::packed(map.shape())))?;
                    found.push(copy);
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Makes the plan of this kind for `n` images, if there is none yet.
    fn plan(&mut self, kind: PlanKind, n: usize) -> Result<(PlanKind, usize)> {
        if !self.plans.contains_key(&(kind, n)) {
            let forward_only = |wanted: Vec<NodeId>, frozen: bool| {
                let options = TrainPlanOptions { batch: n, extent: self.options.frame, wanted, frozen, backward: false, recompute: false };
                TrainPlan::new(&self.graph, &self.layout, &options, |op, backward| self.engine.scratch_len(op, backward))
            };
            let outputs = self.graph.outputs();
            let plan = match kind {
                PlanKind::Student { features } => student_plan(&self.engine, &self.graph, &self.layout, &self.options, n, features)?,
                PlanKind::Evaluation => forward_only(wanted(&self.graph, self.options.mode, false), true)?,
                PlanKind::Teacher => {
                    let frozen = !self.teacher.as_ref().is_some_and(|teacher| teacher.batch_statistics);
                    forward_only(vec![outputs.level5, outputs.up], frozen)?
                }
            };
            self.plans.insert((kind, n), plan);
        }
        Ok((kind, n))
    }

    fn check(&self, images: &[f32], targets: &Targets, n: usize) -> Result<()> {
        let [h, w] = self.options.frame;
        let cells = h / 4 * (w / 4);
        ensure!(n > 0 && n <= self.options.batch, "{n} images in a step; expected 1 to {}", self.options.batch);
        ensure!(images.len() == n * h * w, "{} values for {n} images of {w} x {h} pixels", images.len());
        ensure!(targets.heat_map.len() == n * cells, "{} values of heat maps; expected {}", targets.heat_map.len(), n * cells);
        for object in &targets.objects {
            ensure!(
                object.image < n && object.index < cells,
                "an object at pixel {} of image {}; expected {n} images and {cells} pixels",
                object.index,
                object.image
            );
        }
        Ok(())
    }

    /// The network as it is, with all running statistics and counters.
    ///
    /// Errors: the device fails.
    pub fn state_dict(&self) -> Result<StateDict> {
        Ok(self.state()?.to_state_dict(&self.layout))
    }

    /// The values of the network, in this engine's type.
    ///
    /// Errors: the device fails.
    pub fn state(&self) -> Result<NetworkState<E::Value>> {
        self.state.read()
    }

    /// The earlier network of a continual training.
    ///
    /// Errors: the device fails.
    pub fn earlier(&self) -> Result<Option<NetworkState<E::Value>>> {
        self.teacher.as_ref().map(|teacher| teacher.state.read()).transpose()
    }

    /// Where every tensor lies in `state` and `gradients`.
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// The last gradient of a parameter of the layout's list; none if it took no part in the losses.
    ///
    /// Errors: the device fails.
    pub fn gradient(&self, parameter: usize) -> Result<Option<Vec<E::Value>>> {
        let range = self.layout.parameters()[parameter].range.clone();
        self.active[parameter].then(|| self.gradients.read(range)).transpose()
    }

    /// What Adam remembers: of the parameters that were stepped at least once.
    ///
    /// Errors: the device fails.
    pub fn adam(&self, learning_rate: f64) -> Result<Adam> {
        let [first, second] = &self.moments;
        let (first, second) = (first.read(0..first.len())?, second.read(0..second.len())?);
        let narrow = |values: &[E::Value]| values.iter().map(|x| x.to_f64() as f32).collect();
        let moments = self.layout.parameters().iter().zip(&self.counts).filter(|(_, count)| **count > 0).map(|(entry, &step)| Moments {
            name: entry.name.clone(),
            step,
            first: narrow(&first[entry.range.clone()]),
            second: narrow(&second[entry.range.clone()]),
        });
        Ok(Adam { learning_rate, betas: adam::BETAS, eps: adam::EPSILON, weight_decay: 0.0, moments: moments.collect() })
    }

    /// Goes on with what Adam remembered: with the same images every bit is as without the interruption.
    ///
    /// Errors: a parameter is unknown or has another size, or the optimiser had other settings.
    pub fn set_adam(&mut self, adam: &Adam) -> Result<()> {
        ensure!(
            adam.betas == adam::BETAS && adam.eps == adam::EPSILON && adam.weight_decay == 0.0,
            "an optimiser with betas {:?}, eps {} and weight decay {}; expected {:?}, {} and 0",
            adam.betas,
            adam.eps,
            adam.weight_decay,
            adam::BETAS,
            adam::EPSILON
        );
        self.counts.fill(0);
        self.moments.iter_mut().try_for_each(|moments| moments.clear(0..moments.len()))?;
        for found in &adam.moments {
            let Some(i) = self.layout.parameters().iter().position(|entry| entry.name == found.name) else {
                continue; // of a part of the original that takes no part in anything, such as a classifier
            };
            let range = self.layout.parameters()[i].range.clone();
            ensure!(
                found.first.len() == range.len() && found.second.len() == range.len(),
                "moments of {} have {} and {} values; expected {}",
                found.name,
                found.first.len(),
                found.second.len(),
                range.len()
            );
            self.counts[i] = found.step;
            for (moments, found) in self.moments.iter_mut().zip([&found.first, &found.second]) {
                moments.write(range.start, &convert(found))?;
            }
        }
        Ok(())
    }

    /// Bytes held: maps, parameters, gradients, moments.
    pub fn bytes(&self) -> usize {
        let state = |state: &NetworkMemory<E::Value>| state.parameters.len() + state.statistics.len();
        let values = self.gradients.len() + 2 * self.moments[0].len() + state(&self.state);
        self.arena.bytes() + size_of::<E::Value>() * (values + self.teacher.as_ref().map_or(0, |teacher| state(&teacher.state)))
    }
}
