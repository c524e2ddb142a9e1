//! How gradients are tested: against the f64 reference on a device, and the reference against finite differences.

use super::{Agreement, noise};
use anyhow::Result;

/// Compares a gradient that an op adds to a buffer with the f64 reference `exact`, and the naive f32 `plain` with it.
///
/// `add` is called with a buffer that holds noise, which has to stay in it.
///
/// Errors: those of `add`.
pub fn agree(case: String, plain: &[f32], exact: &[f64], mut add: impl FnMut(&mut [f32]) -> Result<()>) -> Result<Agreement> {
    let before = noise(exact.len(), 77);
    let mut found = before.clone();
    add(&mut found)?;
    let plus = |values: &[f32]| -> Vec<f32> { values.iter().zip(&before).map(|(value, before)| value + before).collect() };
    let exact: Vec<f64> = exact.iter().zip(&before).map(|(value, &before)| value + f64::from(before)).collect();
    Ok(Agreement::of(case, &found, &plus(plain), &exact))
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
