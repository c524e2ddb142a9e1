//! One step of training: the network forward, the losses, the network backward, Adam.

pub use super::options::{Compared, Continual, FeatureScale, LossWeights, Losses, TrainerOptions};
use super::targets::gpu::DeviceTargets;
use super::targets::{Object, Targets};
use super::team::{Shares, WholeMaps};
use crate::device::tensor::Layout;
use crate::device::{Buffer, Collective, Device, Team, TensorMut, TensorRef};
use crate::formats::coordinates::Kind;
use crate::formats::pth::{Adam, Moments};
use crate::formats::state_dict::StateDict;
use crate::net::Architecture;
use crate::net::graph::{Graph, NodeId};
use crate::net::parameters::{NetworkMemory, NetworkState, ParameterLayout};
use crate::net::training::plan::{TrainPlan, TrainPlanOptions};
use crate::net::training::run::{self as training_run, Arena, WantedMaps};
use crate::ops::adam::{self, AdamStep};
use crate::ops::losses::{Loss, LossValues, Ranges};
use crate::ops::real::convert;
use crate::ops::{Compute, Real, heat_map, map};
use anyhow::{Result, ensure};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// A loss of a map. Besides its value it computes its gradient, which it adds to that of the map.
type MapLoss<'a, T> = &'a dyn Fn(&mut LossValues, TensorRef<T>, &mut TensorMut<T>) -> Result<()>;

/// The earlier network of a continual training.
struct Teacher<T> {
    state: NetworkMemory<T>,
    batch_statistics: bool,
    scale: FeatureScale,
    feature_weight: f64,
    pull_weight: f64,
    compared: Compared,
    /// The parameters that are pulled towards it.
    pulled: Ranges,
    /// The two feature maps that the earlier network makes of the images in hand.
    features: [Buffer<T>; 2],
}

/// A network in training.
pub struct Trainer<T: Real = f32> {
    compute: Compute,
    options: TrainerOptions,
    graph: Graph,
    layout: ParameterLayout,
    state: NetworkMemory<T>,
    gradients: Buffer<T>,
    /// True for each parameter that has a gradient from the last step.
    active: Vec<bool>,
    moments: [Buffer<T>; 2],
    /// Steps that Adam took with each parameter.
    counts: Vec<u64>,
    teacher: Option<Teacher<T>>,
    arena: Arena<T>,
    /// The targets on the device: copied, or drawn there.
    targets: Buffer<T>,
    drawn: Option<DeviceTargets<T>>,
    losses: LossValues,
    plans: HashMap<(PlanKind, usize), TrainPlan>,
    /// What joins this network with those on other devices, which learn the same from other images of each batch.
    member: Option<Member<T>>,
}

/// A member of a team.
struct Member<T> {
    collective: Arc<dyn Collective>,
    whole: WholeMaps<T>,
    shares: Shares<T>,
}

/// The targets of a step, on the host and on the device.
struct Answers<'a, T: Real> {
    targets: &'a Targets,
    copied: &'a Buffer<T>,
    /// The targets that were drawn on the device. They count if the targets have labels and there is a GPU.
    drawn: Option<&'a DeviceTargets<T>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PlanKind {
    Student { features: bool },
    Teacher,
}

pub(super) fn student_plan<T: Real>(
    compute: &Compute,
    graph: &Graph,
    layout: &ParameterLayout,
    options: &TrainerOptions,
    team: Team,
    features: bool,
) -> Result<TrainPlan> {
    let plan = TrainPlanOptions {
        team,
        extent: options.frame,
        wanted: wanted(graph, options.mode, features),
        frozen: options.frozen_statistics,
        backward: true,
        recompute: options.checkpoint_activations,
    };
    TrainPlan::new::<T>(compute, graph, layout, &plan)
}

/// The maps that the losses of a mode read.
fn wanted(graph: &Graph, mode: Kind, features: bool) -> Vec<NodeId> {
    let outputs = graph.outputs();
    let mut wanted = vec![outputs.heat_map, outputs.offset];
    if mode == Kind::Vesicle {
        wanted.push(outputs.size);
    }
    if features {
        wanted.extend([outputs.level5, outputs.up]);
    }
    wanted
}

/// True if a parameter is pulled towards the earlier network. All weights are, except those of the norms in the blocks.
pub fn is_pulled(name: &str) -> bool {
    let has = |component: &str| name.split('.').any(|part| part == component);
    has("weight") && !has("bn1") && !has("bn2")
}

impl<T: Real> Trainer<T> {
    /// A training that starts with the weights of `state`, of a network of these widths. Panics if the device computes in
    /// another type, which would be a programming error.
    ///
    /// Errors: a tensor is missing or has another shape, or the frame's sides are not multiples of 32.
    pub fn new(
        compute: impl Into<Compute>,
        architecture: Architecture,
        state: &StateDict,
        options: TrainerOptions,
        continual: Option<Continual>,
    ) -> Result<Self> {
        Self::member(compute, architecture, state, options, continual, None)
    }

    /// The same for a member of a team, which shares the images of each batch with the others. `options.batch` is that of all members
    /// together, and every member is given the same batches and learns the same, bit by bit, as one device that has all of the images.
    ///
    /// Errors: as `new`.
    pub fn member(
        compute: impl Into<Compute>,
        architecture: Architecture,
        state: &StateDict,
        options: TrainerOptions,
        continual: Option<Continual>,
        collective: Option<Arc<dyn Collective>>,
    ) -> Result<Self> {
        let (graph, layout) = (architecture.graph(), ParameterLayout::new(architecture));
        let compute = compute.into();
        let device = compute.device.clone();
        assert!(device.value_bytes() == size_of::<T>(), "{} bytes a value on {}", size_of::<T>(), device.describe());
        let network = NetworkMemory::new(&device, NetworkState::from_state_dict(&layout, state)?)?;
        let teacher = match continual {
            Some(Continual { earlier, batch_statistics, feature_scale: scale, feature_weight, pull_weight, compared }) => {
                let state = NetworkMemory::new(&device, NetworkState::from_state_dict(&layout, &earlier)?)?;
                let pulled = layout.parameters().iter().filter(|entry| is_pulled(&entry.name));
                let pulled = Ranges::new(&device, pulled.map(|entry| entry.range.clone()).collect())?;
                let features = [Buffer::zeros(&device, 0)?, Buffer::zeros(&device, 0)?];
                Some(Teacher { state, batch_statistics, scale, feature_weight, pull_weight, compared, pulled, features })
            }
            None => None,
        };
        let (len, places) = (layout.parameter_len(), Team::of(collective.clone(), options.batch).places());
        let zeros = || Buffer::zeros(&device, len);
        let members = collective.as_ref().map_or(1, |collective| collective.size());
        let mut trainer = Trainer {
            gradients: Buffer::zeros(&device, if members > 1 { Shares::<T>::lengths(len, members)[1] } else { len })?,
            active: vec![false; layout.parameters().len()],
            counts: vec![0; layout.parameters().len()],
            moments: [zeros()?, zeros()?],
            arena: Arena::new(&device)?,
            targets: Buffer::zeros(&device, 0)?,
            drawn: match &device {
                Device::Cpu | Device::Reference => None,
                Device::Gpu(gpu) => Some(DeviceTargets::new(gpu)?),
            },
            losses: LossValues::new(&device, places)?,
            plans: HashMap::new(),
            member: match collective.filter(|_| members > 1) {
                Some(collective) => {
                    Some(Member { collective, whole: WholeMaps::new(&device)?, shares: Shares::new(&device, len, members)? })
                }
                None => None,
            },
            state: network,
            compute,
            options,
            graph,
            layout,
            teacher,
        };
        // The largest plan is made now, so that it is known before the first image is read whether it fits.
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

    /// Computes losses and gradients of a batch. The running statistics move.
    ///
    /// Shapes: as `step`.
    /// Errors: images or targets do not fit the frame, or the device fails.
    /// Source: docs/network.md, sections 3.1 and 3.2.
    pub fn compute_gradients(&mut self, images: &[f32], targets: &Targets, exemplar: &[bool]) -> Result<Losses> {
        let n = exemplar.len();
        self.check(images, targets, n)?;
        let team = self.team(n);
        let (own, len) = (team.own(), images.len() / n);
        let compared = self.compared(exemplar);
        let pulled = exemplar.first() == Some(&true);
        let features = !compared.is_empty();
        // An earlier network that normalises by its batch has to see all of the batch's images; otherwise this device's are enough.
        let sees_all = self.teacher.as_ref().is_some_and(|teacher| teacher.batch_statistics);
        let compared: Vec<usize> = compared.into_iter().filter(|image| sees_all || own.contains(image)).collect();
        if !compared.is_empty() {
            self.set_earlier_features(images, n, &compared)?;
        }
        self.set_targets(targets, n)?;
        self.losses.clear()?;
        let kind = self.plan(PlanKind::Student { features }, n)?;
        let plan = &self.plans[&kind];
        self.gradients.clear(0..self.gradients.len())?;
        self.active.fill(false);
        for step in plan.steps.steps.iter().filter(|step| step.has_gradient) {
            step.parameters().for_each(|i| self.active[i] = true);
        }
        let outputs = self.graph.outputs();
        let teacher = self.teacher.as_ref();
        let answers = Answers { targets, copied: &self.targets, drawn: self.drawn.as_ref() };
        let (values, mut whole) = (&mut self.losses, self.member.as_mut().map(|member| &mut member.whole));
        // A device without images works on one all the same, because the others wait for it at every norm.
        let shown = if own.is_empty() { &images[..len] } else { &images[own.start * len..own.end * len] };
        training_run::run(plan, &self.layout, &mut self.arena, &mut self.state, &mut self.gradients, shown, |maps: &mut WantedMaps<T>| {
            Self::map_losses(values, &self.options, &self.graph, &answers, (&team, whole.as_deref_mut()), maps)?;
            let Some(teacher) = teacher.filter(|_| features) else { return Ok(()) };
            for (which, (id, (earlier, original))) in
                [outputs.level5, outputs.up].into_iter().zip(teacher.features.iter().zip([512 * 32 * 32, 256 * 256 * 64])).enumerate()
            {
                let (map, mut gradient) = maps.with_gradient(id);
                let len = map.len() / map.shape()[0];
                let weight = teacher.feature_weight / if teacher.scale == FeatureScale::Original { original } else { len } as f64;
                for (i, &image) in compared.iter().enumerate().filter(|(_, image)| own.contains(image)) {
                    let (now, then) = (map.image(image - own.start), earlier.part(i * len..(i + 1) * len));
                    values.squared_distance([image, which], now, then, weight, &mut gradient.image_mut(image - own.start))?;
                }
            }
            Ok(())
        })?;
        if !self.options.frozen_statistics {
            self.state.batches += 1;
        }
        if let Some(member) = &mut self.member {
            if own.is_empty() {
                self.gradients.clear(0..self.gradients.len())?;
            }
            member.shares.add_up(&team, &mut self.gradients)?;
            self.losses.gather_distances(&team)?;
        }
        if let Some(teacher) = self.teacher.as_ref().filter(|teacher| pulled && teacher.pull_weight > 0.0) {
            let (now, earlier) = (self.state.parameters.view(), teacher.state.parameters.view());
            let gradients = &mut self.gradients.part_mut(0..self.layout.parameter_len());
            self.losses.parameter_distance(&teacher.pulled, now, earlier, teacher.pull_weight, gradients)?;
            for (active, entry) in self.active.iter_mut().zip(self.layout.parameters()) {
                *active |= is_pulled(&entry.name);
            }
        }
        self.found_losses()
    }

    /// What joins this trainer with others, if it is a member of a team.
    pub fn collective(&self) -> Option<Arc<dyn Collective>> {
        self.member.as_ref().map(|member| member.collective.clone())
    }

    /// The images of a batch, and which of them are this device's.
    fn team(&self, images: usize) -> Team {
        Team::of(self.collective(), images)
    }

    /// The losses of the step in hand. Reading them is the only time in a step that the host waits for the device.
    fn found_losses(&self) -> Result<Losses> {
        let value = self.losses.read()?;
        let (weights, vesicles) = (self.options.weights, self.options.mode == Kind::Vesicle);
        let mut found = Losses {
            heat_map: value(Loss::HeatMap),
            offset: value(Loss::Offset),
            size: value(Loss::Size),
            exemplar: value(Loss::Distance),
            ..Losses::default()
        };
        found.total = weights.heat_map * found.heat_map + weights.offset * found.offset;
        if vesicles {
            found.total += weights.size * found.size;
        }
        found.total += found.exemplar;
        Ok(found)
    }

    /// One step of Adam with the last gradients. Only parameters that have such a gradient move.
    ///
    /// Errors: the device fails.
    pub fn apply(&mut self, learning_rate: f64) -> Result<()> {
        let [first, second] = &mut self.moments;
        // Neighbouring parameters that took the same number of steps are stepped together, because on a GPU each step is a
        // launch.
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
            adam::step(&self.compute.device, AdamStep { learning_rate, count }, p, g, m, v)?;
        }
        Ok(())
    }

    /// Brings the targets to the device: on a GPU the labels alone, if the targets were drawn from labels.
    fn set_targets(&mut self, targets: &Targets, n: usize) -> Result<()> {
        let device = &self.compute.device;
        if let (Device::Gpu(gpu), Some(drawn), Some(labels)) = (device, &mut self.drawn, &targets.labels) {
            let [h, w] = self.options.frame.map(|extent| extent / heat_map::STRIDE);
            return drawn.draw(gpu, [n, h, w], labels);
        }
        if self.targets.len() < targets.heat_map.len() {
            self.targets = Buffer::zeros(device, targets.heat_map.len())?;
        }
        self.targets.write(0, &convert(&targets.heat_map))
    }

    /// Losses of the heads, and their gradients.
    fn map_losses(
        values: &mut LossValues,
        options: &TrainerOptions,
        graph: &Graph,
        answers: &Answers<T>,
        (team, mut whole): (&Team, Option<&mut WholeMaps<T>>),
        maps: &mut WantedMaps<T>,
    ) -> Result<()> {
        let outputs = graph.outputs();
        let [h, w] = options.frame.map(|extent| extent / heat_map::STRIDE);
        let (weights, targets) = (options.weights, answers.targets);
        let drawn = answers.drawn.filter(|_| targets.labels.is_some());
        let kind = options.heat_map_loss.for_maps([h, w], targets.typical_radius());
        let mut with_gradient = |id: NodeId, loss: MapLoss<T>| {
            let (map, mut gradient) = maps.with_gradient(id);
            match &mut whole {
                Some(whole) => whole.with_all(team, map, &mut gradient, |map, gradient| loss(values, map, gradient)),
                None => loss(values, map, &mut gradient),
            }
        };
        with_gradient(outputs.heat_map, &|values, logits, gradient| {
            let wanted = drawn.map_or_else(|| answers.copied.at(0, logits.layout()), DeviceTargets::heat_map);
            values.heat_map(kind, logits, wanted, weights.heat_map, gradient)
        })?;
        let mut distance = |id: NodeId, loss: Loss, weight: f64, wanted: &dyn Fn(&Object) -> [f32; 2]| {
            with_gradient(id, &|values, map, gradient| {
                if let Some(drawn) = drawn {
                    return values.l1_of_labels(loss, map, drawn.labels(), weight, gradient);
                }
                let objects: Vec<(usize, [f32; 2])> =
                    targets.objects.iter().map(|object| (object.image * h * w + object.index, wanted(object))).collect();
                values.l1(loss, map, &objects, weight, gradient)
            })
        };
        distance(outputs.offset, Loss::Offset, weights.offset, &|object| object.offset)?;
        if options.mode == Kind::Vesicle {
            distance(outputs.size, Loss::Size, weights.size, &|object| object.size)?;
        }
        Ok(())
    }

    /// Images whose features are compared with the earlier network's.
    fn compared(&self, exemplar: &[bool]) -> Vec<usize> {
        let Some(teacher) = self.teacher.as_ref().filter(|teacher| teacher.feature_weight > 0.0) else { return Vec::new() };
        let all = teacher.compared == Compared::Batch && exemplar.contains(&true);
        (0..exemplar.len()).filter(|&image| all || exemplar[image]).collect()
    }

    /// Keeps the two feature maps of the earlier network, for some of `n` images.
    fn set_earlier_features(&mut self, images: &[f32], n: usize, wanted: &[usize]) -> Result<()> {
        let kind = self.plan(PlanKind::Teacher, wanted.len())?;
        let len = images.len() / n;
        let images: Vec<f32> = wanted.iter().flat_map(|&image| &images[image * len..(image + 1) * len]).copied().collect();
        let Some(Teacher { state, features, .. }) = &mut self.teacher else { return Ok(()) };
        let outputs = self.graph.outputs();
        let device = &self.compute.device;
        training_run::run(&self.plans[&kind], &self.layout, &mut self.arena, state, &mut self.gradients, &images, |maps| {
            for (id, kept) in [outputs.level5, outputs.up].into_iter().zip(&mut *features) {
                let map = maps.map(id);
                if kept.len() < map.len() {
                    *kept = Buffer::zeros(device, map.len())?;
                } else {
                    kept.clear(0..map.len())?;
                }
                map::add(device, map, &mut kept.at_mut(0, Layout::packed(map.shape())))?;
            }
            Ok(())
        })
    }

    /// Makes the plan of this kind for `n` images, if there is none yet.
    fn plan(&mut self, kind: PlanKind, n: usize) -> Result<(PlanKind, usize)> {
        if !self.plans.contains_key(&(kind, n)) {
            let forward_only = |wanted: Vec<NodeId>, frozen: bool| {
                let (team, extent) = (Team::alone(n), self.options.frame);
                let options = TrainPlanOptions { team, extent, wanted, frozen, backward: false, recompute: false };
                TrainPlan::new::<T>(&self.compute, &self.graph, &self.layout, &options)
            };
            let outputs = self.graph.outputs();
            let plan = match kind {
                PlanKind::Student { features } => {
                    student_plan::<T>(&self.compute, &self.graph, &self.layout, &self.options, self.team(n), features)?
                }
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
        let cells = h / heat_map::STRIDE * (w / heat_map::STRIDE);
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

    /// The values of the network, in the type that the device computes in.
    ///
    /// Errors: the device fails.
    pub fn state(&self) -> Result<NetworkState<T>> {
        self.state.read()
    }

    /// The earlier network of a continual training.
    ///
    /// Errors: the device fails.
    pub fn earlier(&self) -> Result<Option<NetworkState<T>>> {
        self.teacher.as_ref().map(|teacher| teacher.state.read()).transpose()
    }

    /// Where every tensor lies within `state` and `gradients`.
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// The last gradient of a parameter, which is given by its place in the layout's list. None if the parameter took no part
    /// in the losses.
    ///
    /// Errors: the device fails.
    pub fn gradient(&self, parameter: usize) -> Result<Option<Vec<T>>> {
        let range = self.layout.parameters()[parameter].range.clone();
        self.active[parameter].then(|| self.gradients.read(range)).transpose()
    }

    /// What Adam remembers of the parameters that were stepped at least once.
    ///
    /// Errors: the device fails.
    pub fn adam(&self, learning_rate: f64) -> Result<Adam> {
        let [first, second] = &self.moments;
        let (first, second) = (first.read(0..first.len())?, second.read(0..second.len())?);
        let narrow = |values: &[T]| values.iter().map(|x| x.to_f64() as f32).collect();
        let moments = self.layout.parameters().iter().zip(&self.counts).filter(|(_, count)| **count > 0).map(|(entry, &step)| Moments {
            name: entry.name.clone(),
            step,
            first: narrow(&first[entry.range.clone()]),
            second: narrow(&second[entry.range.clone()]),
        });
        Ok(Adam { learning_rate, betas: adam::BETAS, eps: adam::EPSILON, weight_decay: 0.0, moments: moments.collect() })
    }

    /// Goes on with what Adam remembered. With the same images every bit is then as if there had been no interruption.
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
                continue; // a part of the original that nothing uses, such as a classifier
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
        let state = |state: &NetworkMemory<T>| state.parameters.len() + state.statistics.len();
        let values = self.gradients.len() + 2 * self.moments[0].len() + state(&self.state);
        self.arena.bytes() + size_of::<T>() * (values + self.teacher.as_ref().map_or(0, |teacher| state(&teacher.state)))
    }
}
