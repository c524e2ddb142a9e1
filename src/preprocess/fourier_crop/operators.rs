//! The Fourier crop as matrices, for devices that multiply faster than they transform.
//!
//! ```text
//! D = Re(R) X Re(C)' - Im(R) X Im(C)'
//! R[p, y] = 1/ny sum over the rows k that are kept of     exp(2 pi i k (p/h - y/ny))
//! C[q, x] = 1/nx sum over the columns l that are kept of w_l exp(2 pi i l (q/F - x/nx))
//! ```
//! with w = 1 for l = 0 and for the highest frequency where it stands for both signs, else 2. The rows kept pair up as k
//! and -k but for one (even h) or two (odd h), so Im(R) is the sum of at most two products u v'. The sums have closed
//! forms; angles are reduced as whole numbers, so nothing is lost near the zeros of the denominators.
//! Source: the sums of `crop`; Dirichlet's kernel.

use crate::ops::Real;
use crate::preprocess::geometry::Geometry;
use rayon::prelude::*;
use std::f64::consts::PI;

/// The matrices of one geometry: D = rows [X columns_re ; (vectors X) columns_im], the two blocks one above the other.
#[derive(Clone, Debug)]
pub struct Operators<T> {
    /// (h, ny + 2): Re(R), then the two -u.
    pub rows: Vec<T>,
    /// (nx, F): Re(C), transposed.
    pub columns_re: Vec<T>,
    /// (nx, F): Im(C), transposed.
    pub columns_im: Vec<T>,
    /// (2, ny): the two v.
    pub vectors: Vec<T>,
}

/// How many products Im(R) is the sum of.
pub const RANK: usize = 2;

impl<T: Real> Operators<T> {
    /// Computes them in f64.
    pub fn new(geometry: &Geometry) -> Self {
        let Geometry { nx, ny, frame, height_d: h } = *geometry;
        // The highest column stands for both signs if it is that of the output, or that of a narrow image of even width.
        let highest = (frame / 2).min(nx / 2);
        let single = highest == frame / 2 || nx.is_multiple_of(2);
        let columns = |part: fn(Angle, u64) -> f64, rest: fn(Angle) -> f64| -> Vec<T> {
            let mut values = vec![T::default(); nx * frame];
            values.par_chunks_mut(frame).enumerate().for_each(|(x, to)| {
                for (q, to) in to.iter_mut().enumerate() {
                    let angle = Angle::between([q, frame], [x, nx]);
                    let once = if single { rest(angle.times(highest as u64)) } else { 0.0 };
                    *to = T::from_f64((part(angle, highest as u64) - once) / nx as f64);
                }
            });
            values
        };
        let (row_vectors, vectors) = imaginary_rows(h, ny);
        let mut rows = vec![T::default(); h * (ny + RANK)];
        rows.par_chunks_mut(ny + RANK).enumerate().for_each(|(p, to)| {
            for (y, to) in to[..ny].iter_mut().enumerate() {
                *to = T::from_f64(real_rows(h, ny, Angle::between([p, h], [y, ny])) / ny as f64);
            }
            for (to, u) in to[ny..].iter_mut().zip(row_vectors(p)) {
                *to = T::from_f64(-u / ny as f64);
            }
        });
        Operators {
            rows,
            columns_re: columns(Angle::sum_of_cosines, Angle::cos),
            columns_im: columns(Angle::sum_of_sines, Angle::sin),
            vectors: vectors.into_iter().map(T::from_f64).collect(),
        }
    }
}

/// ny Re(R) at an angle.
fn real_rows(h: usize, ny: usize, angle: Angle) -> f64 {
    let cos = |k: usize| angle.times(k as u64).cos();
    if h <= ny && !h.is_multiple_of(2) {
        // From -(h+1)/2 to (h-3)/2: see `resize_column`.
        let k = (h - 1) / 2;
        angle.sum_of_cosines(k as u64) - cos(k) + cos(k + 1)
    } else {
        let k = h.min(ny) / 2;
        angle.sum_of_cosines(k as u64) - if h.min(ny).is_multiple_of(2) { cos(k) } else { 0.0 }
    }
}

/// The u of each row of the output, and the v.
fn imaginary_rows(h: usize, ny: usize) -> (impl Fn(usize) -> [f64; RANK] + Sync, Vec<f64>) {
    let mut vectors = vec![0.0; RANK * ny];
    let (first, second) = vectors.split_at_mut(ny);
    let k = (h - 1) / 2;
    if h <= ny {
        for (y, (first, second)) in first.iter_mut().zip(second).enumerate() {
            let at = |k: usize| Angle::of(k as u64 * y as u64, ny as u64);
            if h.is_multiple_of(2) {
                *first = Angle::half_of(h as u64 * y as u64, ny as u64).sin();
            } else {
                *first = at(k + 1).cos() - at(k).cos();
                *second = at(k + 1).sin() + at(k).sin();
            }
        }
    }
    let rows = move |p: usize| {
        let angle = Angle::of(k as u64 * p as u64, h as u64);
        match (h <= ny, h.is_multiple_of(2)) {
            (false, _) => [0.0; RANK],
            (true, true) => [if p.is_multiple_of(2) { 1.0 } else { -1.0 }, 0.0],
            (true, false) => [angle.sin(), angle.cos()],
        }
    };
    (rows, vectors)
}

/// pi numerator / denominator, with the numerator below twice the denominator.
#[derive(Clone, Copy, Debug)]
struct Angle {
    numerator: u64,
    denominator: u64,
}

impl Angle {
    /// 2 pi a / b.
    fn of(a: u64, b: u64) -> Self {
        Self::half_of(2 * (a % b), b)
    }

    /// pi a / b.
    fn half_of(a: u64, b: u64) -> Self {
        Angle { numerator: a % (2 * b), denominator: b }
    }

    /// 2 pi (a/b - c/d).
    fn between([a, b]: [usize; 2], [c, d]: [usize; 2]) -> Self {
        let whole = (b * d) as i64;
        Self::of(((a * d) as i64 - (c * b) as i64).rem_euclid(whole) as u64, whole as u64)
    }

    fn times(self, k: u64) -> Self {
        Self::half_of(self.numerator * k, self.denominator)
    }

    fn radians(self) -> f64 {
        PI * self.numerator as f64 / self.denominator as f64
    }

    fn sin(self) -> f64 {
        self.radians().sin()
    }

    fn cos(self) -> f64 {
        self.radians().cos()
    }

    /// Half of it. The numerator of a whole angle, 2 pi a / b, is even.
    fn half(self) -> Self {
        Angle { numerator: self.numerator / 2, denominator: self.denominator }
    }

    /// 1 + 2 sum over 1 <= k <= n of cos(k angle).
    fn sum_of_cosines(self, n: u64) -> f64 {
        if self.numerator == 0 {
            return (2 * n + 1) as f64;
        }
        let half = self.half();
        half.times(2 * n + 1).sin() / half.sin()
    }

    /// 2 sum over 1 <= k <= n of sin(k angle).
    fn sum_of_sines(self, n: u64) -> f64 {
        if self.numerator == 0 {
            return 0.0;
        }
        let half = self.half();
        2.0 * half.times(n).sin() * half.times(n + 1).sin() / half.sin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::image::{Pixels, Samples};
    use crate::ops::largest_difference;
    use crate::preprocess::fourier_crop::crop;
    use crate::random::noise;

    /// Even and odd heights, equal sizes, narrow micrographs of even and odd width, and one of a column.
    #[test]
    fn the_operators_crop_as_the_transforms_do() {
        for [nx, ny, frame] in
            [[90, 70, 32], [90, 90, 64], [64, 100, 64], [130, 77, 64], [40, 50, 64], [41, 51, 96], [61, 60, 64], [1, 3, 32]]
        {
            let geometry = Geometry::new(nx, ny, frame);
            let values = noise(nx * ny, 5);
            let exact = crop(&Pixels::F32(Samples::from(values.clone())), &geometry, None, false).unwrap();
            let Operators { rows, columns_re, columns_im, vectors } = Operators::<f64>::new(&geometry);
            let x: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
            let product = |a: &[f64], b: &[f64], depth: usize| -> Vec<f64> {
                let columns = b.len() / depth;
                let at = |i: usize| (0..depth).map(|k| a[i / columns * depth + k] * b[k * columns + i % columns]).sum();
                (0..a.len() / depth * columns).map(at).collect()
            };
            let mut middle = product(&x, &columns_re, nx);
            middle.extend(product(&product(&vectors, &x, ny), &columns_im, nx));
            let found = product(&rows, &middle, ny + RANK);
            let error = largest_difference(&found, &exact);
            assert!(error < 1e-11, "{nx} x {ny} to {frame}: {error:e}");
        }
    }
}
