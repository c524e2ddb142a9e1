//! How an op is proven: on a device against its f64 reference, and the gradients of the reference against finite
//! differences of its forward pass.

use super::{Compute, Precision, Real, noise, real::convert, splitmix64};
use crate::device::tensor::Layout;
use crate::device::{Device, Tensor, TensorMut};
use anyhow::Result;

/// How far an op on a device is from its f64 reference, for one of its CASES.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// The case, as text.
    pub case: String,
    /// Largest difference from the f64 reference.
    pub error: f64,
    /// What it may be: twice the error of the plain f32 way plus a few roundings of the largest value.
    pub bound: f64,
    /// Hash of all bits that were found: the same on every run, whatever the number of threads.
    pub bits: u64,
}

impl Agreement {
    /// Compares `found` with the f64 reference `exact`, and the naive f32 result `plain` with it.
    ///
    /// The bound is twice the plain way's largest error, plus four units in the last place of the largest value
    /// (so that a lucky plain result does not fail a result as good as rounding allows). Where f64 was computed in, the
    /// bound is 1e-9 of the largest value, far above rounding and far below a wrong index.
    pub fn of<T: Real>(case: String, found: &[T], plain: &[f32], exact: &[f64]) -> Self {
        assert!(found.len() == exact.len() && plain.len() == exact.len(), "{case}: {} {} {}", found.len(), plain.len(), exact.len());
        let scale = exact.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        let bits = found.iter().fold(0, |hash, value| splitmix64(hash ^ value.to_f64().to_bits()));
        let bound =
            if size_of::<T>() == 8 { 1e-9 * scale } else { 2.0 * largest_difference(plain, exact) + 4.0 * f64::from(f32::EPSILON) * scale };
        Agreement { case, error: largest_difference(found, exact), bound, bits }
    }

    /// The same with another bound for f32, if one follows from how numbers are rounded on the way.
    pub fn within<T: Real>(self, bound: Option<f64>) -> Self {
        Agreement { bound: bound.filter(|_| size_of::<T>() == 4).unwrap_or(self.bound), ..self }
    }

    /// True if the op is as exact as asked.
    pub fn holds(&self) -> bool {
        self.error <= self.bound
    }
}

/// The largest difference between two lists of values; infinite where one is not a number. Memory that nobody has written holds
/// such values, and `max` would drop them.
pub fn largest_difference<T: Real, U: Real>(found: &[T], exact: &[U]) -> f64 {
    found.iter().zip(exact).fold(0.0_f64, |most, (&found, &exact)| {
        let difference = (found.to_f64() - exact.to_f64()).abs();
        if difference.is_nan() { f64::INFINITY } else { most.max(difference) }
    })
}

/// Calls a function that is generic in the type of values with the type that a device computes in.
macro_rules! in_value_type {
    ($device:expr, $function:ident) => {
        if $device.value_bytes() == 8 { $function::<f64>($device) } else { $function::<f32>($device) }
    };
}
pub(crate) use in_value_type;

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

/// Compares an op in f32, and by what multiplies in tf32, where a device has that.
///
/// Errors: those of `compare`.
pub fn in_each_precision(device: &Device, compare: impl Fn(&Compute) -> Result<Vec<Agreement>>) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for precision in [Precision::F32, Precision::Tf32] {
        agreements.extend(compare(&Compute { precision, ..device.into() })?);
    }
    Ok(agreements)
}
