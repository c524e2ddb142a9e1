//! One step of training: the network forward, the losses, the network backward, Adam.

pub use super::options::{Compared, Continual, FeatureScale, LossWeights, Losses, TrainerOptions};
use super::targets::Targets;
use crate::device::{TensorMut, TensorRef};
use crate::formats::pth::{Adam, Moments};
use crate::formats::state_dict::StateDict;
use crate::net::engine::{DeviceEngine, Engine};
use crate::net::graph::{Graph, NodeId};
use crate::net::parameters::{NetworkState, ParameterLayout};
use crate::net::train_plan::{TrainPlan, TrainPlanOptions};
use crate::net::train_run::{self, Arena, WantedMaps};
use crate::net::{Architecture, Mode};
use crate::ops::Real;
use crate::ops::adam::{self, AdamStep};
use crate::ops::losses;
use anyhow::{Result, ensure};
use std::collections::HashMap;

/// The earlier network of a continual training.
struct Teacher<T> {
    state: NetworkState<T>,
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
    state: NetworkState<E::Value>,
    gradients: Vec<E::Value>,
    /// Which parameters the last gradients are of.
    active: Vec<bool>,
    moments: [Vec<E::Value>; 2],
    /// Steps that Adam took with each parameter.
    counts: Vec<u64>,
    teacher: Option<Teacher<E::Value>>,
    arena: Arena<E::Value>,
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
        let network = NetworkState::from_state_dict(&layout, state)?;
        let teacher = match continual {
            Some(Continual { earlier, batch_statistics, feature_scale: scale, feature_weight, pull_weight, compared }) => {
                let state = NetworkState::from_state_dict(&layout, &earlier)?;
                Some(Teacher { state, batch_statistics, scale, feature_weight, pull_weight, compared })
            }
            None => None,
        };
        let zeros = vec![E::Value::default(); layout.parameter_len()];
        let mut trainer = Trainer {
            gradients: zeros.clone(),
            active: vec![false; layout.parameters().len()],
            counts: vec![0; layout.parameters().len()],
            moments: [zeros.clone(), zeros],
            arena: Arena::default(),
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
        trainer.arena.reserve(&trainer.plans[&kind]);
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
        let kind = self.plan(PlanKind::Student { features: features.is_some() }, n)?;
        let plan = &self.plans[&kind];
        self.gradients.fill(E::Value::default());
        self.active.fill(false);
        for step in plan.steps.steps.iter().filter(|step| step.has_gradient) {
            step.parameters().for_each(|i| self.active[i] = true);
        }
        let outputs = self.graph.outputs();
        let (options, teacher) = (&self.options, self.teacher.as_ref().map(|teacher| (teacher.scale, teacher.feature_weight)));
        let mut found = Losses::default();
        train_run::run(
            &self.engine,
            plan,
            &self.layout,
            &mut self.arena,
            &mut self.state,
            &mut self.gradients,
            images,
            |maps: &mut WantedMaps<E::Value>| {
                found = Self::map_losses(options, &self.graph, targets, maps, true);
                let Some((earlier, (scale, weight))) = features.as_ref().zip(teacher) else { return Ok(()) };
                for (id, (earlier, original)) in
                    [outputs.level5, outputs.up].into_iter().zip(earlier.iter().zip([512 * 32 * 32, 256 * 256 * 64]))
                {
                    let map = maps.map(id);
                    let len = map.len() / n;
                    let weight = weight / if scale == FeatureScale::Original { original } else { len } as f64;
                    let mut gradient = vec![E::Value::default(); map.len()];
                    for (&image, earlier) in compared.iter().zip(earlier.chunks(len)) {
                        let range = image * len..(image + 1) * len;
                        found.exemplar += losses::squared_distance(&map[range.clone()], earlier, weight, &mut gradient[range]);
                    }
                    maps.add_gradient(id, &gradient);
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
                let (now, earlier) = (&self.state.parameters[range.clone()], &teacher.state.parameters[range.clone()]);
                found.exemplar += losses::squared_distance(now, earlier, teacher.pull_weight, &mut self.gradients[range]);
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
        for (i, entry) in self.layout.parameters().iter().enumerate().filter(|(i, _)| self.active[*i]) {
            self.counts[i] += 1;
            let step = AdamStep { learning_rate, count: self.counts[i] };
            let range = entry.range.clone();
            let flat = TensorMut::flat;
            let (p, g) = (&mut flat(&mut self.state.parameters[range.clone()]), TensorRef::flat(&self.gradients[range.clone()]));
            self.engine.adam(step, p, g, &mut flat(&mut first[range.clone()]), &mut flat(&mut second[range]))?;
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
        let mut found = Losses::default();
        train_run::run(
            &self.engine,
            &self.plans[&kind],
            &self.layout,
            &mut self.arena,
            &mut self.state,
            &mut self.gradients,
            images,
            |maps| {
                found = Self::map_losses(&self.options, &self.graph, targets, maps, false);
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Losses of the heads, and, with `backward`, their gradients.
    fn map_losses(options: &TrainerOptions, graph: &Graph, targets: &Targets, maps: &mut WantedMaps<E::Value>, backward: bool) -> Losses {
        let outputs = graph.outputs();
        let [h, w] = options.frame.map(|extent| extent / 4);
        let weights = options.weights;
        let logits = maps.map(outputs.heat_map);
        let mut gradient = vec![E::Value::default(); logits.len()];
        let mut found = Losses {
            heat_map: losses::heat_map(options.heat_map_loss, &logits, &targets.heat_map, weights.heat_map, &mut gradient),
            ..Losses::default()
        };
        if backward {
            maps.add_gradient(outputs.heat_map, &gradient);
        }
        let mut distance = |id: NodeId, weight: f64, wanted: &dyn Fn(&super::targets::Object) -> [f32; 2]| {
            let map = maps.map(id);
            let objects: Vec<(usize, [f32; 2])> =
                targets.objects.iter().map(|object| (object.image * h * w + object.index, wanted(object))).collect();
            let mut gradient = vec![E::Value::default(); map.len()];
            let loss = losses::l1(&map, &objects, weight, &mut gradient);
            if backward {
                maps.add_gradient(id, &gradient);
            }
            loss
        };
        found.offset = distance(outputs.offset, weights.offset, &|object| object.offset);
        if options.mode == Mode::Vesicle {
            found.size = distance(outputs.size, weights.size, &|object| object.size);
        }
        found.total = weights.heat_map * found.heat_map + weights.offset * found.offset;
        if options.mode == Mode::Vesicle {
            found.total += weights.size * found.size;
        }
        found
    }

    /// Images whose features are compared with the earlier network's.
    fn compared(&self, exemplar: &[bool]) -> Vec<usize> {
        let Some(teacher) = self.teacher.as_ref().filter(|teacher| teacher.feature_weight > 0.0) else { return Vec::new() };
        let all = teacher.compared == Compared::Batch && exemplar.contains(&true);
        (0..exemplar.len()).filter(|&image| all || exemplar[image]).collect()
    }

    /// The two feature maps of the earlier network, for some of `n` images.
    fn earlier_features(&mut self, images: &[f32], n: usize, wanted: &[usize]) -> Result<[Vec<E::Value>; 2]> {
        let kind = self.plan(PlanKind::Teacher, wanted.len())?;
        let len = images.len() / n;
        let images: Vec<f32> = wanted.iter().flat_map(|&image| &images[image * len..(image + 1) * len]).copied().collect();
        let Some(teacher) = &mut self.teacher else { return Ok([Vec::new(), Vec::new()]) };
        let outputs = self.graph.outputs();
        let mut found = [Vec::new(), Vec::new()];
        train_run::run(
            &self.engine,
            &self.plans[&kind],
            &self.layout,
            &mut self.arena,
            &mut teacher.state,
            &mut self.gradients,
            &images,
            |maps| {
                found = [maps.map(outputs.level5), maps.map(outputs.up)];
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
    pub fn state_dict(&self) -> StateDict {
        self.state.to_state_dict(&self.layout)
    }

    /// The values of the network, in this engine's type.
    pub fn state(&self) -> &NetworkState<E::Value> {
        &self.state
    }

    /// The earlier network of a continual training.
    pub fn earlier(&self) -> Option<&NetworkState<E::Value>> {
        self.teacher.as_ref().map(|teacher| &teacher.state)
    }

    /// Where every tensor lies in `state` and `gradients`.
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// The last gradient of a parameter of the layout's list; none if it took no part in the losses.
    pub fn gradient(&self, parameter: usize) -> Option<&[E::Value]> {
        self.active[parameter].then(|| &self.gradients[self.layout.parameters()[parameter].range.clone()])
    }

    /// What Adam remembers: of the parameters that were stepped at least once.
    pub fn adam(&self, learning_rate: f64) -> Adam {
        let narrow = |values: &[E::Value]| values.iter().map(|x| x.to_f64() as f32).collect();
        let moments = self.layout.parameters().iter().zip(&self.counts).filter(|(_, count)| **count > 0).map(|(entry, &step)| Moments {
            name: entry.name.clone(),
            step,
            first: narrow(&self.moments[0][entry.range.clone()]),
            second: narrow(&self.moments[1][entry.range.clone()]),
        });
        Adam { learning_rate, betas: adam::BETAS, eps: adam::EPSILON, weight_decay: 0.0, moments: moments.collect() }
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
        self.moments.iter_mut().for_each(|moments| moments.fill(E::Value::default()));
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
                moments[range.clone()].iter_mut().zip(found).for_each(|(to, &x)| *to = E::Value::from_f64(f64::from(x)));
            }
        }
        Ok(())
    }

    /// Bytes held: maps, parameters, gradients, moments.
    pub fn bytes(&self) -> usize {
        let state = |state: &NetworkState<E::Value>| state.parameters.len() + state.statistics.len();
        let values = self.gradients.len() + 2 * self.moments[0].len() + state(&self.state);
        self.arena.bytes() + size_of::<E::Value>() * (values + self.teacher.as_ref().map_or(0, |teacher| state(&teacher.state)))
    }
}
