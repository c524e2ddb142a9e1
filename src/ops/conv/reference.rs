//! The slow and obvious convolution that every other one is compared with, and its gradients.

use super::ConvShape;
use crate::ops::Real;
use rayon::prelude::*;

/// Convolution by its formula: `inp` (n, h, w, ci), `weights` `[co][ci][k][k]`, `bias` `[co]` or empty, `residual` as the
/// result, which is (n, h', w', co).
pub fn reference<T: Real>(shape: ConvShape, inp: &[T], weights: &[T], bias: &[T], residual: Option<&[T]>, relu: bool) -> Vec<T> {
    let ConvShape { h, w, ci, co, kernel, stride, .. } = shape;
    let [n, oh, ow, _] = shape.out();
    let pad = (kernel / 2) as isize;
    // Weights turned to [ky][kx][c][o]: the same products, with the innermost loop over neighbouring values.
    let mut turned = vec![T::default(); weights.len()];
    for o in 0..co {
        for c in 0..ci {
            for tap in 0..kernel * kernel {
                turned[(tap * ci + c) * co + o] = weights[(o * ci + c) * kernel * kernel + tap];
            }
        }
    }
    let mut out = vec![T::default(); n * oh * ow * co];
    out.par_chunks_mut(co).enumerate().for_each(|(pixel, sums)| {
        let (image, y, x) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
        if !bias.is_empty() {
            sums.copy_from_slice(bias);
        }
        for ky in 0..kernel {
            for kx in 0..kernel {
                let (iy, ix) = ((y * stride + ky) as isize - pad, (x * stride + kx) as isize - pad);
                if iy < 0 || ix < 0 || iy >= h as isize || ix >= w as isize {
                    continue;
                }
                let values = &inp[((image * h + iy as usize) * w + ix as usize) * ci..][..ci];
                for (c, &value) in values.iter().enumerate() {
                    let row = &turned[((ky * kernel + kx) * ci + c) * co..][..co];
                    for (sum, &weight) in sums.iter_mut().zip(row) {
                        *sum += value * weight;
                    }
                }
            }
        }
        for (o, sum) in sums.iter_mut().enumerate() {
            if let Some(residual) = residual {
                *sum += residual[pixel * co + o];
            }
            if relu && *sum < T::default() {
                *sum = T::default();
            }
        }
    });
    out
}

/// Where output pixel `at` and tap k meet the input along one axis of this extent.
fn meets(shape: ConvShape, at: usize, k: usize, extent: usize) -> Option<usize> {
    (at * shape.stride + k).checked_sub(shape.kernel / 2).filter(|&i| i < extent)
}

/// Gradients of input, weights and bias for the gradient `dout` of the result (before residual and ReLU).
pub fn reference_backward<T: Real>(shape: ConvShape, inp: &[T], weights: &[T], dout: &[T]) -> (Vec<T>, Vec<T>, Vec<T>) {
    let dweights = reference_backward_weights(shape, inp, dout);
    (reference_backward_data(shape, weights, dout), dweights, reference_backward_bias(shape.co, dout))
}

/// The gradient of the input alone.
pub fn reference_backward_data<T: Real>(shape: ConvShape, weights: &[T], dout: &[T]) -> Vec<T> {
    let ConvShape { n, h, w, ci, co, kernel, .. } = shape;
    let [_, oh, ow, _] = shape.out();
    let taps = kernel * kernel;
    let mut turned = vec![T::default(); weights.len()]; // [tap][o][c]
    for (i, &weight) in weights.iter().enumerate() {
        turned[(i % taps * co + i / (ci * taps)) * ci + i / taps % ci] = weight;
    }
    let mut dinp = vec![T::default(); n * h * w * ci];
    dinp.par_chunks_mut(h * w * ci).enumerate().for_each(|(image, dinp)| {
        for (y, x, tap) in (0..oh * ow * taps).map(|i| (i / (ow * taps), i / taps % ow, i % taps)) {
            let (Some(iy), Some(ix)) = (meets(shape, y, tap / kernel, h), meets(shape, x, tap % kernel, w)) else { continue };
            let sums = &mut dinp[(iy * w + ix) * ci..][..ci];
            for (o, &gradient) in dout[((image * oh + y) * ow + x) * co..][..co].iter().enumerate() {
                for (sum, &weight) in sums.iter_mut().zip(&turned[(tap * co + o) * ci..][..ci]) {
                    *sum += gradient * weight;
                }
            }
        }
    });
    dinp
}

/// The gradient of the weights alone.
pub fn reference_backward_weights<T: Real>(shape: ConvShape, inp: &[T], dout: &[T]) -> Vec<T> {
    let ConvShape { n, h, w, ci, co, kernel, .. } = shape;
    let [_, oh, ow, _] = shape.out();
    let taps = kernel * kernel;
    let mut sums = vec![T::default(); shape.weights_len()]; // [tap][o][c]
    sums.par_chunks_mut(co * ci).enumerate().for_each(|(tap, sums)| {
        for (image, y, x) in (0..n * oh * ow).map(|i| (i / (oh * ow), i / ow % oh, i % ow)) {
            let (Some(iy), Some(ix)) = (meets(shape, y, tap / kernel, h), meets(shape, x, tap % kernel, w)) else { continue };
            let values = &inp[((image * h + iy) * w + ix) * ci..][..ci];
            for (sums, &gradient) in sums.chunks_exact_mut(ci).zip(&dout[((image * oh + y) * ow + x) * co..][..co]) {
                for (sum, &value) in sums.iter_mut().zip(values) {
                    *sum += gradient * value;
                }
            }
        }
    });
    (0..sums.len()).map(|i| sums[(i % taps * co + i / (ci * taps)) * ci + i / taps % ci]).collect()
}

/// The gradient of the bias of `co` channels alone.
pub fn reference_backward_bias<T: Real>(co: usize, dout: &[T]) -> Vec<T> {
    let mut dbias = vec![T::default(); co];
    for gradients in dout.chunks_exact(co) {
        dbias.iter_mut().zip(gradients).for_each(|(sum, &gradient)| *sum += gradient);
    }
    dbias
}
