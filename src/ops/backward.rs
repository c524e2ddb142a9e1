//! How gradients are tested: against the f64 reference on a device, and the reference against finite differences.

use super::{Agreement, Real, noise, real::convert};
use crate::device::tensor::Layout;
use crate::device::{Device, Tensor, TensorMut};
use anyhow::Result;

/// Compares a gradient that an op adds to a tensor with the f64 reference `exact`, and the naive f32 `plain` with it.
///
/// `add` is called with a tensor of this shape on the device that holds noise, which has to stay in it. Where f64 is
/// computed in, the bound is 1e-7 of the largest value.
///
/// Errors: those of `add`.
pub fn agree<T: Real>(
    device: &Device,
    case: String,
    shape: [usize; 4],
    plain: &[f32],
    exact: &[f64],
    mut add: impl FnMut(&mut TensorMut<T>) -> Result<()>,
) -> Result<Agreement> {
    let before = noise(exact.len(), 77);
    let mut found = Tensor::on(device, shape, convert::<T>(&before))?;
    add(&mut found.view_mut())?;
    let plus = |values: &[f32]| -> Vec<f32> { values.iter().zip(&before).map(|(value, before)| value + before).collect() };
    let exact: Vec<f64> = exact.iter().zip(&before).map(|(value, &before)| value + f64::from(before)).collect();
    let agreement = Agreement::of(case, &found.to_vec()?, &plus(plain), &exact);
    Ok(if size_of::<T>() == 8 { Agreement { bound: 100.0 * agreement.bound, ..agreement } } else { agreement })
}

/// The shape of a list of values.
pub fn list(values: usize) -> [usize; 4] {
    Layout::flat(values).shape
}

/// Compares gradients with central differences of `forward` along random directions, in f64.
///
/// Each argument comes with its gradient for the gradient `dout` of the result; the result is contracted with `dout`.
/// The bound allows for the rounding of a difference quotient with steps of 1e-6, and for its third-order term.
pub fn differences<const N: usize>(
    case: String,
    arguments: [(Vec<f64>, Vec<f64>); N],
    dout: &[f64],
    forward: impl Fn([&[f64]; N]) -> Vec<f64>,
) -> Agreement {
    const STEP: f64 = 1e-6;
    let value = |shifted: &[f64], which: usize| -> f64 {
        let values = std::array::from_fn(|i| if i == which { shifted } else { arguments[i].0.as_slice() });
        forward(values).iter().zip(dout).map(|(out, dout)| out * dout).sum()
    };
    let (mut error, mut bound) = (0.0_f64, f64::INFINITY);
    for (which, (argument, gradient)) in arguments.iter().enumerate() {
        let direction: Vec<f64> = noise(argument.len(), 500 + which as u64).iter().map(|&x| f64::from(x)).collect();
        let moved = |step: f64| -> Vec<f64> { argument.iter().zip(&direction).map(|(x, d)| x + step * d).collect() };
        let slope = (value(&moved(STEP), which) - value(&moved(-STEP), which)) / (2.0 * STEP);
        let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let size: f64 = gradient.iter().zip(&direction).map(|(g, d)| (g * d).abs()).sum();
        let relative = (slope - expected).abs() / size.max(1.0);
        error = if relative.is_nan() { f64::INFINITY } else { error.max(relative) };
        bound = 1e-7;
    }
    Agreement { case: format!("differences of {case}"), error, bound, bits: 0 }
}
