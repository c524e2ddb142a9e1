//! Adam: each parameter moves against the running mean of its gradient, divided by the root of the running mean of the
//! gradient's square.
//!
//! ```text
//! m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2
//! p = p - lr / (1 - b1^t) * m / ( sqrt(v) / sqrt(1 - b2^t) + eps )         b1 = 0.9, b2 = 0.999, eps = 1e-8
//! ```
//! Source: Kingma, Ba 2015, arXiv:1412.6980, algorithm 1, with the corrections placed as in PyTorch.

use super::{Agreement, Real, in_value_type, launch::lanes, noise, real::convert};
use crate::device::gpu::{Arg, Gpu, Grid};
use crate::device::{Device, Tensor, TensorMut, TensorRef, cpu::InstructionSet};
use anyhow::Result;
use rayon::prelude::*;

/// Decay of the first and of the second moment.
pub const BETAS: [f64; 2] = [0.9, 0.999];
/// Added to the root of the second moment.
pub const EPSILON: f64 = 1e-8;

/// One step of Adam.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Steps taken, this one included: from 1.
    pub count: u64,
}

/// Factors of a step: learning rate over the first correction, and the root of the second.
impl AdamStep {
    fn factors(&self) -> [f64; 2] {
        let correction = |beta: f64| 1.0 - beta.powf(self.count as f64);
        [self.learning_rate / correction(BETAS[0]), correction(BETAS[1]).sqrt()]
    }
}

/// Moves the parameters `p` with the gradients `g`, and their moments `m` and `v`.
///
/// Shapes: all alike, flat, f32.
/// Errors: the launch fails on the device. Lengths that differ are a programming error and panic.
/// Source: the formula above.
pub fn step<T: Real>(
    device: &Device,
    step: AdamStep,
    p: &mut TensorMut<T>,
    g: TensorRef<T>,
    m: &mut TensorMut<T>,
    v: &mut TensorMut<T>,
) -> Result<()> {
    assert!(p.len() == g.len() && p.len() == m.len() && p.len() == v.len(), "{} {} {} {}", p.len(), g.len(), m.len(), v.len());
    match device {
        Device::Cpu => {
            const PART: usize = 1 << 14;
            let (mut p, g, mut m, mut v) = (p.as_f32_mut(), g.as_f32(), m.as_f32_mut(), v.as_f32_mut());
            let (p, g, m, v) = (p.as_mut_slice(), g.as_slice(), m.as_mut_slice(), v.as_mut_slice());
            p.par_chunks_mut(PART).zip(g.par_chunks(PART)).zip(m.par_chunks_mut(PART)).zip(v.par_chunks_mut(PART)).for_each(
                |(((p, g), m), v)| {
                    crate::dispatch!(InstructionSet::detect(), step_part(step: AdamStep, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]));
                },
            );
        }
        Device::Gpu(gpu) => launch_step(gpu, step, p, g, m, v)?,
        Device::Reference => reference(step, p.as_mut_slice(), g.as_slice(), m.as_mut_slice(), v.as_mut_slice()),
    }
    Ok(())
}

/// Threads of a block, as the KERNEL line says.
const THREADS: u32 = 256;

fn launch_step<T: Real>(
    gpu: &Gpu,
    step: AdamStep,
    p: &mut TensorMut<T>,
    g: TensorRef<T>,
    m: &mut TensorMut<T>,
    v: &mut TensorMut<T>,
) -> Result<()> {
    let group = lanes(4, &[p.as_ref(), g, m.as_ref(), v.as_ref()]);
    let grid = Grid::over(g.len().div_ceil(group as usize), THREADS)?;
    let [rate, root] = step.factors().map(Arg::value);
    let ([beta_first, beta_second], epsilon) = (BETAS.map(Arg::value), Arg::value(EPSILON));
    let (count, group) = (Arg::value(g.len() as u32), Arg::value(group));
    let args = [count, group, rate, root, beta_first, beta_second, epsilon, p.arg(), g.arg(), m.arg(), v.arg()];
    // SAFETY: the arguments of the KERNEL line, in its order; all four lists have this length.
    unsafe { gpu.launch("adam_step", grid, THREADS, &args) }
}

#[inline(always)]
fn step_part(step: AdamStep, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    reference(step, p, g, m, v);
}

/// Adam by its formula. The CPU runs the same code, in vectors and on all threads, because nothing else would make it faster.
#[inline(always)]
pub fn reference<T: Real>(step: AdamStep, p: &mut [T], g: &[T], m: &mut [T], v: &mut [T]) {
    let [rate, root] = step.factors().map(T::from_f64);
    let [b1, b2] = BETAS.map(T::from_f64);
    let [c1, c2] = BETAS.map(|beta| T::from_f64(1.0 - beta));
    let epsilon = T::from_f64(EPSILON);
    for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        *m = b1 * *m + c1 * g;
        *v = b2 * *v + c2 * (g * g);
        *p = *p - rate * (*m / (v.sqrt() / root + epsilon));
    }
}

/// Numbers of parameters: one, one past a register, and more than one task.
pub const CASES: [usize; 3] = [1, 17, 40_000];

/// Five steps on a device against the f64 reference.
///
/// Errors: as `step`.
pub fn compare(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_as)
}

fn compare_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for len in CASES {
        let start = noise(len, 1);
        let list = |values: &[f32]| Tensor::flat_on(device, convert::<T>(values));
        let mut found = [list(&start)?, list(&vec![0.0; len])?, list(&vec![0.0; len])?];
        let mut plain = [start.clone(), vec![0.0; len], vec![0.0; len]];
        let mut exact = [convert::<f64>(&start), vec![0.0; len], vec![0.0; len]];
        for count in 1..=5 {
            let adam = AdamStep { learning_rate: 1e-2, count };
            let g = noise(len, 10 + count);
            let [p, m, v] = &mut found;
            step(device, adam, &mut p.view_mut(), list(&g)?.view(), &mut m.view_mut(), &mut v.view_mut())?;
            let [p, m, v] = &mut plain;
            reference(adam, p, &g, m, v);
            let [p, m, v] = &mut exact;
            reference(adam, p, &convert(&g), m, v);
        }
        for (i, what) in ["parameters", "first moments", "second moments"].into_iter().enumerate() {
            agreements.push(Agreement::of(format!("{what} of {len}"), &found[i].to_vec()?, &plain[i], &exact[i]));
        }
    }
    Ok(agreements)
}
