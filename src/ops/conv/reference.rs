//! The slow and obvious convolution that every other one is compared with.

use super::ConvShape;
use crate::ops::Real;
use rayon::prelude::*;

/// Convolution by its formula: `inp` (n, h, w, ci), `weights` [co][ci][k][k], `bias` [co] or empty, `residual` as the
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
