//! Devices that train together: what they tell each other in a step (maps that a loss reads as a whole, and gradients), and the trainers
//! of all of them.

use super::options::{Continual, Losses, TrainerOptions};
use super::run::Learner;
use super::step::Trainer;
use super::targets::Targets;
use crate::device::cpu::within_pool;
use crate::device::team::{ANOTHER_FAILED, answers, join, join_processes};
use crate::device::tensor::Layout;
use crate::device::{Buffer, Collective, Device, Team, TensorMut, TensorRef};
use crate::formats::pth::Adam;
use crate::formats::state_dict::StateDict;
use crate::net::Architecture;
use crate::ops::{Compute, Real, images, map};
use anyhow::{Context, Result};
use std::cell::Cell;
use std::panic::resume_unwind;
use std::sync::Arc;

/// Memory for maps of all images of a batch: their values, and their gradients.
#[derive(Debug)]
pub(super) struct WholeMaps<T> {
    device: Device,
    values: Buffer<T>,
    gradients: Buffer<T>,
}

impl<T: Real> WholeMaps<T> {
    /// No memory yet.
    ///
    /// Errors: the device fails.
    pub(super) fn new(device: &Device) -> Result<Self> {
        Ok(WholeMaps { device: device.clone(), values: Buffer::zeros(device, 0)?, gradients: Buffer::zeros(device, 0)? })
    }

    /// Lets a loss read the maps of all images, and adds the gradients of this device's images to `dmap`. So every device computes the
    /// loss of the whole batch.
    ///
    /// Errors: the device, another one or the loss fails.
    pub(super) fn with_all(
        &mut self,
        team: &Team,
        map: TensorRef<T>,
        dmap: &mut TensorMut<T>,
        loss: impl FnOnce(TensorRef<T>, &mut TensorMut<T>) -> Result<()>,
    ) -> Result<()> {
        let WholeMaps { device, values, gradients } = self;
        let [_, h, w, c] = map.shape();
        let (each, own) = (h * w * c, team.own());
        for buffer in [&mut *values, gradients] {
            if buffer.len() < team.places() * each {
                *buffer = Buffer::zeros(device, team.places() * each)?;
            } else {
                buffer.clear(0..team.places() * each)?;
            }
        }
        let one = Layout::packed([1, h, w, c]);
        for (i, image) in own.clone().enumerate() {
            map::add(device, map.image(i), &mut values.at_mut(image * each, one))?;
        }
        // SAFETY: the buffer has a place for each image, and is borrowed mutably.
        unsafe { team.gather(device, values.base_mut().cast(), each * size_of::<T>()) }?;
        let all = Layout::packed([team.images(), h, w, c]);
        loss(values.at(0, all), &mut gradients.at_mut(0, all))?;
        for (i, image) in own.enumerate() {
            map::add(device, gradients.at(image * each, one), &mut dmap.image_mut(i))?;
        }
        Ok(())
    }
}

/// Gradients that all members add up.
#[derive(Debug)]
pub(super) struct Shares<T> {
    device: Device,
    /// What each member has for this one's share.
    got: Buffer<T>,
}

/// Shares begin at multiples of so many values.
const PIECE: usize = 64;

impl<T: Real> Shares<T> {
    /// Values of a share of `len` gradients, and of all shares together.
    pub(super) fn lengths(len: usize, members: usize) -> [usize; 2] {
        let share = len.div_ceil(members).next_multiple_of(PIECE);
        [share, share * members]
    }

    /// Memory for the shares of so many gradients.
    ///
    /// Errors: the device has not as much memory.
    pub(super) fn new(device: &Device, len: usize, members: usize) -> Result<Self> {
        Ok(Shares { device: device.clone(), got: Buffer::zeros(device, Self::lengths(len, members)[1])? })
    }

    /// Adds up the gradients of all members: each member adds a share of them, in the order of `ops/images.rs`, and gives the sums to the
    /// others. `gradients` has room for all shares.
    ///
    /// Errors: the device or another one fails.
    pub(super) fn add_up(&mut self, team: &Team, gradients: &mut Buffer<T>) -> Result<()> {
        let Some(collective) = team.collective() else { return Ok(()) };
        let Shares { device, got } = self;
        let share = got.len() / collective.size();
        assert!(gradients.len() == got.len(), "{} gradients in {} shares", gradients.len(), collective.size());
        let bytes = share * size_of::<T>();
        // SAFETY: both buffers have so many bytes for each member, and are borrowed mutably.
        unsafe { collective.exchange(device, gradients.base().cast(), got.base_mut().cast(), bytes) }?;
        let mut rest = got.part_mut(0..got.len());
        let mut parts = Vec::new();
        // Members without images have nothing to add.
        for _ in 0..team.images().div_ceil(team.block()) {
            let [part, others] = rest.into_split(share);
            parts.push(part);
            rest = others;
        }
        let sum = sum_of(device, parts)?;
        let own = collective.rank() * share..(collective.rank() + 1) * share;
        gradients.clear(own.clone())?;
        map::add(device, sum.as_ref(), &mut gradients.part_mut(own))?;
        // SAFETY: as above.
        unsafe { collective.gather(device, gradients.base_mut().cast(), bytes) }
    }
}

/// The sum of parts, in halves; it lies where the first part was.
fn sum_of<'a, T: Real>(device: &Device, parts: Vec<TensorMut<'a, T>>) -> Result<TensorMut<'a, T>> {
    let cells: Vec<Cell<Option<TensorMut<'a, T>>>> = parts.into_iter().map(|part| Cell::new(Some(part))).collect();
    let value = |i: usize| cells[i].take().context("a part that was added before");
    images::of_parts(0..cells.len(), &value, &|a: Result<TensorMut<'a, T>>, b: Result<TensorMut<'a, T>>| {
        let (mut a, b) = (a?, b?);
        map::add(device, b.as_ref(), &mut a)?;
        Ok(a)
    })
}

/// A network in training, on one device or on several, which share the images of every batch. All of them learn the same, bit by bit.
pub struct Trainers {
    members: Vec<Trainer>,
    joined: Option<String>,
    /// What joins this process with others, which have the other devices.
    processes: Option<Arc<dyn Collective>>,
}

impl Trainers {
    /// One trainer for each device, one at least. Panics if there is none: a programming error.
    ///
    /// Errors: as `Trainer::new`.
    pub fn new(
        devices: &[Compute],
        architecture: Architecture,
        state: &StateDict,
        options: &TrainerOptions,
        continual: Option<&Continual>,
    ) -> Result<Self> {
        assert!(!devices.is_empty(), "nothing to train on");
        if devices.len() == 1 {
            return Ok(Trainers {
                members: vec![Trainer::new(&devices[0], architecture, state, options.clone(), continual.cloned())?],
                joined: None,
                processes: None,
            });
        }
        let (collectives, how) = join(&devices.iter().map(|compute| &compute.device).collect::<Vec<_>>());
        let trainers = Self::joined(devices, collectives, architecture, state, options, continual)?;
        Ok(Trainers { joined: Some(how), ..trainers })
    }

    /// The same for devices that are joined already.
    ///
    /// Errors: as `Trainer::new`.
    pub fn joined(
        devices: &[Compute],
        collectives: Vec<Arc<dyn Collective>>,
        architecture: Architecture,
        state: &StateDict,
        options: &TrainerOptions,
        continual: Option<&Continual>,
    ) -> Result<Self> {
        let member = |(compute, collective): (&Compute, _)| {
            Trainer::member(compute, architecture, state, options.clone(), continual.cloned(), Some(collective))
        };
        Ok(Trainers { members: devices.iter().zip(collectives).map(member).collect::<Result<_>>()?, joined: None, processes: None })
    }

    /// The trainer of this process in a team of processes, each of which has one device.
    ///
    /// Errors: as `Trainer::new`, or another process has failed.
    pub fn of_process(
        device: &Compute,
        processes: Arc<dyn Collective>,
        architecture: Architecture,
        state: &StateDict,
        options: &TrainerOptions,
        continual: Option<&Continual>,
    ) -> Result<Self> {
        let (collective, how) = join_processes(&device.device, processes.clone())?;
        let trainers = Self::joined(std::slice::from_ref(device), vec![collective], architecture, state, options, continual)?;
        Ok(Trainers { joined: Some(how), processes: Some(processes), ..trainers })
    }

    /// How several devices are joined, in words.
    pub fn how_joined(&self) -> Option<&str> {
        self.joined.as_deref()
    }

    /// The trainer of the first device.
    pub fn first(&self) -> &Trainer {
        &self.members[0]
    }

    /// Goes on with what Adam remembered.
    ///
    /// Errors: as `Trainer::set_adam`.
    pub fn set_adam(&mut self, adam: &Adam) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| member.set_adam(adam))
    }
}

impl Learner for Trainers {
    fn step(&mut self, images: &[f32], targets: &Targets, exemplar: &[bool], learning_rate: f64) -> Result<Losses> {
        let run = |member: &'_ mut Trainer| -> Result<Losses> {
            let mut leaves = Leaves(member.collective());
            let losses = member.step(images, targets, exemplar, learning_rate);
            leaves.0 = leaves.0.take().filter(|_| losses.is_err());
            losses
        };
        if let [one] = &mut *self.members {
            return within_pool(|| run(one));
        }
        // Members wait for each other, so each has a thread of its own, and none is one of the pool's.
        let ends: Vec<Result<Losses>> = std::thread::scope(|scope| {
            let run = &run;
            let threads: Vec<_> = self.members.iter_mut().map(|member| scope.spawn(move || run(member))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        // The first that failed has the reason; the others say that they waited for it.
        let mut errors = Vec::new();
        let mut found = None;
        for end in ends {
            match end {
                Ok(losses) => found = found.or(Some(losses)),
                Err(error) => errors.push(error),
            }
        }
        let is_cause = |error: &anyhow::Error| !error.chain().any(|cause| cause.to_string() == ANOTHER_FAILED);
        let first = errors.iter().position(is_cause).unwrap_or(0);
        if errors.is_empty() { found.context("nothing to train on") } else { Err(errors.swap_remove(first)) }
    }

    fn ends_now(&mut self, asked: bool) -> Result<bool> {
        match &self.processes {
            Some(processes) => Ok(answers(&**processes, asked)?.contains(&true)),
            None => Ok(asked),
        }
    }

    fn state_dict(&self) -> Result<StateDict> {
        self.first().state_dict()
    }

    fn adam(&self, learning_rate: f64) -> Result<Adam> {
        self.first().adam(learning_rate)
    }
}

/// Tells the others if a member ends its step by an error or a panic.
struct Leaves(Option<Arc<dyn Collective>>);

impl Drop for Leaves {
    fn drop(&mut self) {
        if let Some(collective) = &self.0 {
            collective.leave();
        }
    }
}
