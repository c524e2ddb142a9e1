//! Fourier transforms of whole images, in f32: a filter is a real factor for every frequency.

use anyhow::{Result, anyhow};
use rayon::prelude::*;
use realfft::RealFftPlanner;
use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

/// Multiplies the spectrum of a real image by `factor(kx, ky)`, cycles per pixel, and transforms back.
///
/// Shapes: `image` (ny, nx), row by row; `kx` in 0..=0.5, `ky` in -0.5..0.5.
/// Errors: a transform fails, which it cannot for lengths that the plans were made for.
pub fn filter(image: &mut [f32], [ny, nx]: [usize; 2], factor: impl Fn(f64, f64) -> f64 + Sync) -> Result<()> {
    let mut real = RealFftPlanner::<f32>::new();
    let mut complex = FftPlanner::<f32>::new();
    let (forward, back) = (real.plan_fft_forward(nx), real.plan_fft_inverse(nx));
    let (down, up) = (complex.plan_fft_forward(ny), complex.plan_fft_inverse(ny));
    let kept = nx / 2 + 1;

    let mut rows = vec![Complex::<f32>::default(); ny * kept];
    let failed = |error: realfft::FftError| anyhow!("Fourier transform of {nx} x {ny} pixels: {error}");
    rows.par_chunks_mut(kept).zip(image.par_chunks_mut(nx)).try_for_each(|(out, row)| forward.process(row, out).map_err(failed))?;

    let mut columns = transposed(&rows, [ny, kept]);
    let scale = 1.0 / (nx as f64 * ny as f64);
    columns.par_chunks_mut(ny).enumerate().for_each_init(
        || vec![Complex::<f32>::default(); down.get_inplace_scratch_len().max(up.get_inplace_scratch_len())],
        |scratch, (x, column)| {
            down.process_with_scratch(column, scratch);
            let kx = x as f64 / nx as f64;
            for (y, value) in column.iter_mut().enumerate() {
                let ky = if 2 * y < ny { y as f64 } else { y as f64 - ny as f64 } / ny as f64;
                *value *= (factor(kx, ky) * scale) as f32;
            }
            up.process_with_scratch(column, scratch);
        },
    );

    let mut rows = transposed(&columns, [kept, ny]);
    rows.par_chunks_mut(kept).zip(image.par_chunks_mut(nx)).try_for_each(|(values, row)| {
        // A real image has real values here; rounding leaves a rest that the transform would refuse.
        values[0].im = 0.0;
        if nx % 2 == 0 {
            values[kept - 1].im = 0.0;
        }
        back.process(values, row).map_err(failed)
    })
}

/// (rows, columns) into (columns, rows), by tiles that stay in the cache.
fn transposed(values: &[Complex<f32>], [rows, columns]: [usize; 2]) -> Vec<Complex<f32>> {
    const TILE: usize = 16;
    let mut out = vec![Complex::default(); values.len()];
    out.par_chunks_mut(TILE * rows).enumerate().for_each(|(block, out)| {
        for first in (0..rows).step_by(TILE) {
            for (i, out) in out.chunks_mut(rows).enumerate() {
                for row in first..(first + TILE).min(rows) {
                    out[row] = values[row * columns + block * TILE + i];
                }
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_ones_changes_nothing_and_a_shift_of_phase_is_a_cosine() {
        for extent in [[12, 10], [7, 9], [33, 64]] {
            let [ny, nx] = extent;
            let image: Vec<f32> = (0..ny * nx).map(|i| (i * 7 % 13) as f32 - 5.0).collect();
            let mut same = image.clone();
            filter(&mut same, extent, |_, _| 1.0).unwrap();
            assert!(image.iter().zip(&same).all(|(a, b)| (a - b).abs() < 1e-4), "{extent:?}");
            // Keeping the mean alone leaves the mean.
            let mean = image.iter().sum::<f32>() / image.len() as f32;
            let mut flat = image;
            filter(&mut flat, extent, |kx, ky| f64::from(u8::from(kx == 0.0 && ky == 0.0))).unwrap();
            assert!(flat.iter().all(|value| (value - mean).abs() < 1e-4), "{extent:?}");
        }
    }
}
