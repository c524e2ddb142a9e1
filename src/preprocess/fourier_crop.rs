//! Fourier crop: a micrograph (frame M) scaled to frame D by keeping the low frequencies of its spectrum.
//!
//! ```text
//! X = rfft2(M);  D = irfft2(the rows and columns kept) * F h / (nx ny)
//! ```
//!
//! In f64, because a 32-bit transform moves grey levels. Of the spectrum only the F/2 + 1 columns that are kept are
//! ever stored. Rows and columns are transformed one by one, so the number of threads cannot change a bit.
//! Source: docs/formats.md, "Frames"; Cooley and Tukey 1965 through the crates rustfft and realfft.

pub mod operators;

use crate::formats::image::Pixels;
use crate::preprocess::geometry::Geometry;
use crate::preprocess::widen::Widen;
use crate::with_pixels;
use anyhow::{Result, anyhow, ensure};
use rayon::prelude::*;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What is done to pixels on their way into the transform.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adjust {
    /// Values below become this.
    pub low: f64,
    /// Values above become this.
    pub high: f64,
    /// Values that are no numbers, or infinite, become this.
    pub replacement: f64,
}

/// How many rows or columns one task transforms: enough to use whole cache lines when the layout turns.
const BLOCK: usize = 8;
const CACHED_PLANS: usize = 8;

/// Scales `pixels` to frame D.
///
/// Shapes: nx x ny pixels of frame M into frame x height_d values of frame D.
/// Columns beyond those of a narrow micrograph are zero, so it is interpolated; with `narrow_as_original` the rows of
/// its spectrum are put where the 2022 source puts them, which is wrong.
/// Errors: the sizes do not fit, or frame D would be empty or more than 32 frames high.
pub fn crop(pixels: &Pixels, geometry: &Geometry, adjust: Option<Adjust>, narrow_as_original: bool) -> Result<Vec<f64>> {
    Ok(crop_seen(pixels, geometry, adjust, narrow_as_original, &|_| true)?.unwrap_or_default())
}

/// As `crop`, with nothing adjusted; shows each row, in any order, to somebody who may end it: then there is no image.
///
/// Errors: as `crop`.
pub fn crop_while(
    pixels: &Pixels,
    geometry: &Geometry,
    narrow_as_original: bool,
    go_on: &(dyn Fn(&[f64]) -> bool + Sync),
) -> Result<Option<Vec<f64>>> {
    crop_seen(pixels, geometry, None, narrow_as_original, go_on)
}

fn crop_seen(
    pixels: &Pixels,
    geometry: &Geometry,
    adjust: Option<Adjust>,
    narrow_as_original: bool,
    go_on: &(dyn Fn(&[f64]) -> bool + Sync),
) -> Result<Option<Vec<f64>>> {
    let Geometry { nx, ny, frame, height_d } = *geometry;
    ensure!(
        frame >= 32 && frame.is_multiple_of(32) && nx > 0 && pixels.len() == nx * ny,
        "crop: {} pixels for {nx} x {ny}, frame {frame}; expected a frame that is a multiple of 32",
        pixels.len()
    );
    ensure!(
        height_d >= 1 && height_d <= 32 * frame,
        "crop: {nx} x {ny} pixels become {frame} x {height_d}; expected 1 to {} rows; cut the micrograph into squarer pieces",
        32 * frame
    );
    let plans = plans(geometry);
    let kept = (frame / 2 + 1).min(nx / 2 + 1);
    let plan = plans.row_forward.as_ref();
    let Some(spectrum) = with_pixels!(pixels, values => transform_rows(values, nx, kept, adjust, plan, go_on)) else { return Ok(None) };
    let columns = resize_columns(&spectrum, kept, geometry, narrow_as_original, &plans);
    drop(spectrum);
    transform_back(&columns, kept, geometry, narrow_as_original, plans.row_inverse.as_ref()).map(Some)
}

struct Plans {
    row_forward: Arc<dyn RealToComplex<f64>>,
    column_forward: Arc<dyn Fft<f64>>,
    column_inverse: Arc<dyn Fft<f64>>,
    row_inverse: Arc<dyn ComplexToReal<f64>>,
}

/// The transforms for these sizes; those of the last few shapes are kept.
fn plans(geometry: &Geometry) -> Arc<Plans> {
    static CACHE: Mutex<Vec<(Geometry, Arc<Plans>)>> = Mutex::new(Vec::new());
    let mut cache = CACHE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((_, plans)) = cache.iter().find(|(known, _)| known == geometry) {
        return Arc::clone(plans);
    }
    let mut real = RealFftPlanner::<f64>::new();
    let mut complex = FftPlanner::<f64>::new();
    let plans = Arc::new(Plans {
        row_forward: real.plan_fft_forward(geometry.nx),
        column_forward: complex.plan_fft_forward(geometry.ny),
        column_inverse: complex.plan_fft_inverse(geometry.height_d),
        row_inverse: real.plan_fft_inverse(geometry.frame),
    });
    if cache.len() == CACHED_PLANS {
        cache.remove(0);
    }
    cache.push((*geometry, Arc::clone(&plans)));
    plans
}

/// Transforms every row and keeps its first `kept` frequencies. Shapes: (ny, nx) into (ny rounded up to blocks, kept), in blocks of
/// `BLOCK` rows: `[block][column][row]`. A column then lies in pieces as long as a line of the cache or longer. None if somebody who is
/// shown the rows does not want to go on.
fn transform_rows<T: Widen>(
    values: &[T],
    nx: usize,
    kept: usize,
    adjust: Option<Adjust>,
    plan: &dyn RealToComplex<f64>,
    go_on: &(dyn Fn(&[f64]) -> bool + Sync),
) -> Option<Vec<Complex<f64>>> {
    let is_over = AtomicBool::new(false);
    let mut spectrum = vec![Complex::default(); (values.len() / nx).next_multiple_of(BLOCK) * kept];
    spectrum.par_chunks_mut(BLOCK * kept).zip(values.par_chunks(BLOCK * nx)).for_each_init(
        || (plan.make_input_vec(), plan.make_output_vec(), plan.make_scratch_vec()),
        |(row, transformed, scratch), (out, values)| {
            for (i, values) in values.chunks_exact(nx).enumerate() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                T::widen(values, row);
                if !go_on(row) {
                    is_over.store(true, Ordering::Relaxed);
                }
                if let Some(Adjust { low, high, replacement }) = adjust {
                    row.iter_mut().for_each(|value| *value = if value.is_finite() { value.clamp(low, high) } else { replacement });
                }
                // The only error is a wrong length, and the plan made the buffers.
                let done = plan.process_with_scratch(row, transformed, scratch);
                debug_assert!(done.is_ok());
                out[i..].iter_mut().step_by(BLOCK).zip(&transformed[..kept]).for_each(|(out, value)| *out = *value);
            }
        },
    );
    (!is_over.into_inner()).then_some(spectrum)
}

/// Transforms every column, keeps or adds rows, and transforms back. Shapes: blocks of (ny, kept) into (kept, height_d).
fn resize_columns(
    spectrum: &[Complex<f64>],
    kept: usize,
    geometry: &Geometry,
    narrow_as_original: bool,
    plans: &Plans,
) -> Vec<Complex<f64>> {
    let (ny, h) = (geometry.ny, geometry.height_d);
    let scratch_len = plans.column_forward.get_inplace_scratch_len().max(plans.column_inverse.get_inplace_scratch_len());
    let mut columns = vec![Complex::default(); kept * h];
    columns.par_chunks_mut(BLOCK * h).enumerate().for_each_init(
        || (vec![Complex::default(); BLOCK * ny], vec![Complex::default(); scratch_len]),
        |(gathered, scratch), (block, out)| {
            let first = block * BLOCK;
            let count = out.len() / h;
            for (rows, y) in spectrum.chunks_exact(BLOCK * kept).zip((0..ny).step_by(BLOCK)) {
                let height = BLOCK.min(ny - y);
                for (i, column) in rows[first * BLOCK..(first + count) * BLOCK].chunks_exact(BLOCK).enumerate() {
                    gathered[i * ny + y..][..height].copy_from_slice(&column[..height]);
                }
            }
            for (column, out) in gathered.chunks_exact_mut(ny).zip(out.chunks_exact_mut(h)) {
                plans.column_forward.process_with_scratch(column, scratch);
                resize_column(column, out, narrow_as_original);
                plans.column_inverse.process_with_scratch(out, scratch);
            }
        },
    );
    columns
}

/// Puts the frequencies of a column of one length into a column of another. `out` holds zeros.
fn resize_column(column: &[Complex<f64>], out: &mut [Complex<f64>], narrow_as_original: bool) {
    let (ny, h) = (column.len(), out.len());
    if h <= ny || narrow_as_original {
        // The first h/2 rows and the last of the rest. For odd h the row that is read back as frequency +(h-1)/2 holds
        // -(h+1)/2: a fault of the original that every published model was trained with. With more rows wanted than
        // there are, the original's two slices overlap and leave the end empty.
        let top = (h / 2).min(ny);
        let bottom = h.div_ceil(2).min(ny).min(h - top);
        let last = h.div_ceil(2).min(ny);
        out[..top].copy_from_slice(&column[..top]);
        out[top..top + bottom].copy_from_slice(&column[ny - last..ny - last + bottom]);
    } else {
        let positive = ny.div_ceil(2);
        out[..positive].copy_from_slice(&column[..positive]);
        let negative = (ny - 1) / 2;
        out[h - negative..].copy_from_slice(&column[ny - negative..]);
        if ny.is_multiple_of(2) {
            // The highest frequency of an even length stands for both signs; now there is room for both.
            let half = column[ny / 2] * 0.5;
            out[ny / 2] = half;
            out[h - ny / 2] = half;
        }
    }
}

/// Transforms rows back to real values. Shapes: (kept, height_d) into (height_d, frame).
fn transform_back(
    columns: &[Complex<f64>],
    kept: usize,
    geometry: &Geometry,
    narrow_as_original: bool,
    plan: &dyn ComplexToReal<f64>,
) -> Result<Vec<f64>> {
    let Geometry { nx, ny, frame, height_d: h } = *geometry;
    // The transforms do not divide by their lengths: (F h / (nx ny)) / (F h) remains.
    let scale = 1.0 / (nx as f64 * ny as f64);
    let split_highest = nx < frame && nx.is_multiple_of(2) && !narrow_as_original;
    let mut image = vec![0.0; frame * h];
    image.par_chunks_mut(BLOCK * frame).enumerate().for_each_init(
        || (vec![Complex::default(); BLOCK * (frame / 2 + 1)], plan.make_scratch_vec()),
        |(rows, scratch), (block, out)| {
            let first = block * BLOCK;
            let count = out.len() / frame;
            rows.fill(Complex::default()); // the transform uses its input as scratch
            for (x, column) in columns.chunks_exact(h).enumerate() {
                for (i, &value) in column[first..first + count].iter().enumerate() {
                    rows[i * (frame / 2 + 1) + x] = value * scale;
                }
            }
            for (row, out) in rows.chunks_exact_mut(frame / 2 + 1).zip(out.chunks_exact_mut(frame)) {
                if split_highest {
                    row[kept - 1] *= 0.5;
                }
                row[0].im = 0.0;
                row[frame / 2].im = 0.0;
                let done = plan.process_with_scratch(row, out, scratch);
                debug_assert!(done.is_ok());
            }
        },
    );
    if image.iter().all(|value| value.is_finite()) {
        Ok(image)
    } else {
        Err(anyhow!("crop: values too large to be transformed; expected less than 1e300; scale the micrograph down"))
    }
}
