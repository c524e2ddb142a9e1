//! From a micrograph (frame M) to the network's input (frame N), stage by stage:
//! **adjust -> crop -> level -> quantise -> equalise -> letterbox -> normalise**.
//!
//! Every stage gives the bits that the original gives with NumPy 1 and OpenCV 4.5, because published models were trained
//! on them. To level is ours alone: it is done for models that ask for it. Source: docs/formats.md, "Frames".

pub mod fourier_crop; // frame M to frame D
pub mod geometry; //   the frames M, D, N, H and their sizes
mod glance; //         what the crop sees of the pixels by the way
pub mod gpu; //        the same stages on a GPU
pub mod ground; //     carbon, thick ice and whatever else lies under the particles
pub mod scale; //      how wide the image is that the network sees
mod widen; //          pixels of any type as f64

use crate::compat::{Compat, Fault};
use crate::device::cpu::InstructionSet;
use crate::formats::image::{Micrograph, Pixels, Sample};
use crate::preprocess::fourier_crop::{Adjust, crop, crop_while};
use crate::preprocess::geometry::Geometry;
use crate::preprocess::glance::Glance;
use crate::preprocess::ground::Ground;
use crate::preprocess::widen::Widen;
use crate::with_pixels;
use anyhow::{Result, ensure};
use rayon::prelude::*;

/// A micrograph, ready for the network.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Sizes of all frames.
    pub geometry: Geometry,
    /// Frame N, frame x frame values of one channel, row after row; the network's three channels are equal.
    pub image: Vec<f32>,
    /// Frame D after equalising, frame x height_d grey levels: what pictures are drawn on.
    pub equalised: Vec<u8>,
    /// All pixels are equal: there is nothing to pick.
    pub constant: bool,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
}

impl Prepared {
    /// The place of a micrograph that a GPU is still preparing: only its sizes are known.
    pub(crate) fn to_come(geometry: Geometry) -> Self {
        Prepared { geometry, image: Vec::new(), equalised: Vec::new(), constant: false, warnings: Vec::new() }
    }
}

/// Mean and deviation that grey levels are normalised with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Normalisation {
    /// The pair with which the original picks, in f64. This program trains with it, too, so that a network sees the same in both.
    #[default]
    Picking,
    /// The pair with which the original trains, in f32 (`--compat train-norm`).
    Training,
}

impl Normalisation {
    /// The mean and the deviation.
    pub const fn pair(self) -> [f64; 2] {
        match self {
            Normalisation::Picking => [0.502256, 0.289417],
            Normalisation::Training => [0.508145, 0.288813],
        }
    }
}

/// Prepares a micrograph for the network.
///
/// Shapes: nx x ny pixels of frame M into `frame` x `frame` of frame N.
/// Errors: 1 % or more of the pixels are no numbers, or the micrograph is more than 32 times as high as wide, or so
/// low that frame D has no row.
pub fn preprocess(micrograph: &Micrograph, frame: usize, ground: Ground, compat: &Compat) -> Result<Prepared> {
    let geometry = Geometry::new(micrograph.nx, micrograph.ny, frame);
    let mut warnings = Vec::new();
    let cropped = match crop_at_a_glance(&micrograph.pixels, &geometry, compat) {
        Some(image_d) => Some(image_d),
        None => {
            let Survey { adjust, constant } = survey(&micrograph.pixels, !compat.has(Fault::HotPixel), &mut warnings)?;
            let whole = || crop(&micrograph.pixels, &geometry, adjust, compat.has(Fault::Narrow));
            (!constant).then(whole).transpose()?
        }
    };
    let constant = cropped.is_none();
    let quantised = if let Some(mut image_d) = cropped {
        if let Ground::Levelled { sigma_px } = ground {
            ground::level(&mut image_d, frame, sigma_px);
        }
        quantise(&image_d, &micrograph.pixels, compat.has(Fault::IntCast))
    } else {
        warnings.push(CONSTANT_WARNING.to_owned());
        vec![0; frame * geometry.height_d]
    };
    let equalised = equalise(&quantised);
    let image = network_input(&equalised, &geometry);
    Ok(Prepared { geometry, image, equalised, constant, warnings })
}

/// The crop of a micrograph in which nothing has to be adjusted, as is seen on the way; None where only the survey can tell.
fn crop_at_a_glance(pixels: &Pixels, geometry: &Geometry, compat: &Compat) -> Option<Vec<f64>> {
    let glance = Glance::new(pixels, geometry.nx, !compat.has(Fault::HotPixel))?;
    let image_d = crop_while(pixels, geometry, compat.has(Fault::Narrow), &|row| glance.see(row)).ok()??;
    glance.shows_nothing_to_adjust(pixels.len()).then_some(image_d)
}

/// What a look at all pixels says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Survey {
    /// What has to be done to some pixels before the crop, if anything.
    pub adjust: Option<Adjust>,
    /// All pixels that are numbers are equal.
    pub constant: bool,
}

/// Share of pixels that may be no numbers.
const LARGEST_BAD_SHARE: f64 = 0.01;
/// Pixels farther out than this many standard deviations are clipped to it.
const CLIP_SIGMAS: f64 = 20.0;
/// The standard deviation is that of the pixels within this many.
const INNER_SIGMAS: f64 = 5.0;
/// Rounds in which pixels that are far out are left out of the deviation. One is enough unless outliers of very different sizes hide
/// each other.
const CLIP_ROUNDS: usize = 4;
const SURVEY_BLOCK: usize = 1 << 16;

/// Finds pixels that are no numbers, and hot ones (if asked to).
///
/// Nothing is adjusted if nothing lies more than 20 standard deviations out, so ordinary micrographs keep their bits.
/// Errors: 1 % or more of the pixels are no numbers.
pub fn survey(pixels: &Pixels, clip_hot: bool, warnings: &mut Vec<String>) -> Result<Survey> {
    let all = measure(pixels, f64::MIN, f64::MAX);
    let bad = pixels.len() - all.count;
    warn_of_bad(bad, pixels.len(), warnings)?;
    let constant = all.min == all.max;
    let (mut low, mut high, mut replacement) = (all.min, all.max, all.mean());
    if clip_hot && !constant {
        let mut inner = all;
        for _ in 0..CLIP_ROUNDS {
            let (mean, reach) = (inner.mean(), INNER_SIGMAS * inner.deviation());
            if inner.min >= mean - reach && inner.max <= mean + reach {
                break;
            }
            let next = measure(pixels, mean - reach, mean + reach);
            if next.count == 0 || next.min == next.max {
                break; // the pixels hold hardly more than two values, so their deviation says nothing
            }
            let settled = next.deviation() > 0.5 * inner.deviation();
            inner = next;
            if settled {
                break;
            }
        }
        let (mean, reach) = (inner.mean(), CLIP_SIGMAS * inner.deviation());
        if reach > 0.0 && (all.min < mean - reach || all.max > mean + reach) {
            (low, high, replacement) = (low.max(mean - reach), high.min(mean + reach), mean);
            warnings.push(clip_warning(low, high));
        }
    }
    let adjust = (bad > 0 || low > all.min || high < all.max).then_some(Adjust { low, high, replacement });
    Ok(Survey { adjust, constant })
}

fn warn_of_bad(bad: usize, pixels: usize, warnings: &mut Vec<String>) -> Result<()> {
    ensure!(
        (bad as f64) < LARGEST_BAD_SHARE * pixels as f64 || bad == 0,
        "pixels: {bad} of {pixels} are NaN or infinite; expected less than 1 %; write the micrograph again"
    );
    if bad > 0 {
        warnings.push(format!("{bad} pixels are NaN or infinite; replaced by the mean of the others"));
    }
    Ok(())
}

fn clip_warning(low: f64, high: f64) -> String {
    format!("pixels beyond 20 standard deviations clipped to {low:.4} .. {high:.4}")
}

const CONSTANT_WARNING: &str = "all pixels are equal; no picks";

/// Sums over the pixels that are numbers within a range.
#[derive(Clone, Copy, Debug)]
struct Measure {
    /// Sums are of `value - pivot`: squares of large values would drown small differences.
    pivot: f64,
    count: usize,
    sum: f64,
    squares: f64,
    min: f64,
    max: f64,
}

impl Measure {
    fn mean(&self) -> f64 {
        self.pivot + self.sum / self.count.max(1) as f64
    }

    fn deviation(&self) -> f64 {
        let count = self.count.max(1) as f64;
        (self.squares / count - (self.sum / count).powi(2)).max(0.0).sqrt()
    }
}

/// Measures in blocks of fixed size, added in their order: the same bits for any number of threads.
fn measure(pixels: &Pixels, low: f64, high: f64) -> Measure {
    with_pixels!(pixels, values => {
        let pivot = values.iter().map(|value| value.to_f64()).find(|value| value.is_finite()).unwrap_or(0.0);
        let blocks: Vec<Measure> = values.par_chunks(SURVEY_BLOCK).map(|block| measure_block(block, pivot, low, high)).collect();
        let start = Measure { pivot, count: 0, sum: 0.0, squares: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };
        blocks.iter().fold(start, |a, b| Measure {
            pivot,
            count: a.count + b.count,
            sum: a.sum + b.sum,
            squares: a.squares + b.squares,
            min: a.min.min(b.min),
            max: a.max.max(b.max),
        })
    })
}

/// Sums that are added up side by side, so that vector instructions may.
#[derive(Clone, Copy)]
struct Lanes {
    count: [f64; LANES],
    sum: [f64; LANES],
    squares: [f64; LANES],
    min: [f64; LANES],
    max: [f64; LANES],
}

const LANES: usize = 8;

fn measure_block<T: Widen>(block: &[T], pivot: f64, low: f64, high: f64) -> Measure {
    /// Values that are converted together; a multiple of the lanes.
    const PART: usize = 512;
    let mut lanes = Lanes {
        count: [0.0; LANES],
        sum: [0.0; LANES],
        squares: [0.0; LANES],
        min: [f64::INFINITY; LANES],
        max: [f64::NEG_INFINITY; LANES],
    };
    let (mut converted, range, set, to) = ([0.0; PART], [low, high], InstructionSet::detect(), &mut lanes);
    let is_all = low == f64::MIN && high == f64::MAX;
    for part in block.chunks(PART) {
        T::widen(part, &mut converted);
        let values = &converted[..part.len()];
        if let (groups, []) = values.as_chunks::<LANES>()
            && is_all
        {
            // Most parts hold nothing but numbers, and of these all are in range. Where one holds something else, its sum is no number.
            let before = *to;
            crate::dispatch!(set, add_numbers(groups: &[[f64; LANES]], pivot: f64, to: &mut Lanes));
            if to.squares.iter().sum::<f64>().is_finite() {
                continue;
            }
            *to = before;
        }
        crate::dispatch!(set, add_values(values: &[f64], pivot: f64, range: [f64; 2], to: &mut Lanes));
    }
    Measure {
        pivot,
        count: lanes.count.iter().sum::<f64>() as usize,
        sum: lanes.sum.iter().sum(),
        squares: lanes.squares.iter().sum(),
        min: lanes.min.iter().copied().fold(f64::INFINITY, f64::min),
        max: lanes.max.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    }
}

/// What `add_values` does with whole groups of values that are numbers, of which none is out of range: the same sums, without asking.
#[inline(always)]
fn add_numbers(groups: &[[f64; LANES]], pivot: f64, lanes: &mut Lanes) {
    let Lanes { mut count, mut sum, mut squares, mut min, mut max } = *lanes;
    for group in groups {
        for lane in 0..LANES {
            let value = group[lane];
            let offset = value - pivot;
            sum[lane] += offset;
            squares[lane] += offset * offset;
            min[lane] = if value < min[lane] { value } else { min[lane] };
            max[lane] = if value > max[lane] { value } else { max[lane] };
        }
    }
    count.iter_mut().for_each(|count| *count += groups.len() as f64);
    *lanes = Lanes { count, sum, squares, min, max };
}

/// Adds values to the sums of the lanes in turn. NaN is in no range, and infinite values are not in the range of finite numbers.
#[inline(always)]
fn add_values(values: &[f64], pivot: f64, [low, high]: [f64; 2], lanes: &mut Lanes) {
    // Sums of their own, and a loop of fixed length for each of them, become vector instructions.
    let Lanes { mut count, mut sum, mut squares, mut min, mut max } = *lanes;
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for lane in 0..LANES {
            let value = group[lane];
            let inside = (value >= low) & (value <= high);
            let offset = if inside { value - pivot } else { 0.0 };
            sum[lane] += offset;
            squares[lane] += offset * offset;
            count[lane] += if inside { 1.0 } else { 0.0 };
            min[lane] = min[lane].min(if inside { value } else { f64::INFINITY });
            max[lane] = max[lane].max(if inside { value } else { f64::NEG_INFINITY });
        }
    }
    for (lane, &value) in rest.iter().enumerate().filter(|(_, value)| **value >= low && **value <= high) {
        let offset = value - pivot;
        sum[lane] += offset;
        squares[lane] += offset * offset;
        count[lane] += 1.0;
        min[lane] = min[lane].min(value);
        max[lane] = max[lane].max(value);
    }
    *lanes = Lanes { count, sum, squares, min, max };
}

/// Quantises frame D as the type of its pixels asks: averaged stacks in f64, all else in f32; with `int_cast`
/// (`--compat int-cast`) integers in their own type.
pub fn quantise(image_d: &[f64], pixels: &Pixels, int_cast: bool) -> Vec<u8> {
    match pixels {
        Pixels::F64(_) => quantise_f64(image_d),
        Pixels::I8(_) if int_cast => quantise_wrapped(image_d, |value| value as i64 as i8, |a, b| f64::from(a.wrapping_sub(b))),
        Pixels::U8(_) if int_cast => quantise_wrapped(image_d, |value| value as i64 as u8, |a, b| f64::from(a.wrapping_sub(b))),
        Pixels::I16(_) if int_cast => quantise_wrapped(image_d, |value| value as i64 as i16, |a, b| f64::from(a.wrapping_sub(b))),
        Pixels::U16(_) if int_cast => quantise_wrapped(image_d, |value| value as i64 as u16, |a, b| f64::from(a.wrapping_sub(b))),
        _ => quantise_f32(&image_d.iter().map(|&value| value as f32).collect::<Vec<f32>>()),
    }
}

/// Grey levels 0 to 255 between minimum and maximum, computed in f32 in the original's order; all 0 if they are equal.
pub fn quantise_f32(image: &[f32]) -> Vec<u8> {
    let min = image.iter().copied().fold(f32::INFINITY, |a, b| if b < a { b } else { a });
    let max = image.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    let range = max - min;
    if range.is_nan() || range <= 0.0 {
        return vec![0; image.len()];
    }
    image.iter().map(|&value| ((255.0 * (value - min)) / range + 0.5) as u8).collect()
}

/// As `quantise_f32`, in f64.
pub fn quantise_f64(image: &[f64]) -> Vec<u8> {
    let min = image.iter().copied().fold(f64::INFINITY, f64::min);
    let max = image.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = max - min;
    if range.is_nan() || range <= 0.0 {
        return vec![0; image.len()];
    }
    image.iter().map(|&value| ((255.0 * (value - min)) / range + 0.5) as u8).collect()
}

/// The original's way with integers: the crop is truncated to the pixels' type and wraps around there, and so do its differences.
fn quantise_wrapped<T: Copy + Ord>(image_d: &[f64], cut: fn(f64) -> T, difference: fn(T, T) -> f64) -> Vec<u8> {
    let values: Vec<T> = image_d.iter().map(|&value| cut(value)).collect();
    let (Some(&min), Some(&max)) = (values.iter().min(), values.iter().max()) else {
        return Vec::new();
    };
    let range = difference(max, min);
    values
        .iter()
        .map(|&value| {
            let level = 255.0 * difference(value, min) / range + 0.5;
            level.clamp(0.0, 255.0) as u8 // 0 / 0, where the range wrapped to 0, becomes 0
        })
        .collect()
}

/// Equalises the histogram as OpenCV does, to the bit.
///
/// The lowest level that occurs becomes 0; an image of one level stays as it is.
/// Source: OpenCV 4.5 `equalizeHist`.
pub fn equalise(image: &[u8]) -> Vec<u8> {
    let mut histogram = [0usize; 256];
    image.iter().for_each(|&level| histogram[usize::from(level)] += 1);
    let table = equalise_table(&histogram);
    image.iter().map(|&level| table[usize::from(level)]).collect()
}

/// The new level of every level, for an image of this histogram.
pub fn equalise_table(histogram: &[usize; 256]) -> [u8; 256] {
    let total: usize = histogram.iter().sum();
    let first = histogram.iter().position(|&count| count > 0).unwrap_or(0);
    let mut table = [0u8; 256];
    if histogram[first] == total {
        table.iter_mut().enumerate().for_each(|(level, out)| *out = level as u8);
        return table;
    }
    let scale = 255.0 / (total - histogram[first]) as f32;
    let mut sum = 0usize;
    for level in first + 1..256 {
        sum += histogram[level];
        table[level] = (sum as f32 * scale).round_ties_even() as u8;
    }
    table
}

/// The network's input (frame N) of equalised grey levels (frame D), for everything that shows a network an image.
///
/// Shapes: frame x height_d levels into frame x frame values.
pub fn network_input(equalised: &[u8], geometry: &Geometry) -> Vec<f32> {
    normalise(&letterbox(equalised, geometry), Normalisation::Picking)
}

/// Frame D put into frame N on black: shifted, or shrunk where it is higher than wide.
///
/// Shapes: frame x height_d into frame x frame.
/// An odd height moves rows by half a pixel, so that each is the mean of two rows. The original picks so, and its models expect it.
pub fn letterbox(image: &[u8], geometry: &Geometry) -> Vec<u8> {
    let matrix = letterbox_matrix(geometry);
    warp_affine(image, [geometry.height_d, geometry.frame], &matrix, [geometry.frame, geometry.frame])
}

fn letterbox_matrix(geometry: &Geometry) -> [[f64; 3]; 2] {
    let (frame, square) = (geometry.frame as f64, geometry.square_d() as f64);
    let scale = frame / square;
    let centre = [frame / 2.0, geometry.height_d as f64 / 2.0];
    [[scale, 0.0, frame / 2.0 - centre[0] * scale], [0.0, scale, frame / 2.0 - centre[1] * scale]]
}

/// Where each column and each row of frame N lies in frame D, in 1/32 pixel: the positions of `warp_affine`, of which x and
/// y do not depend on each other here.
fn letterbox_positions(geometry: &Geometry) -> [Vec<i32>; 2] {
    let Some([i0, _, _, i4, b0, b1]) = inverse(&letterbox_matrix(geometry)) else { return [Vec::new(), Vec::new()] };
    let round = |value: f64| value.round_ties_even() as i64;
    let columns = |x: usize| ((round(b0 * 1024.0) + 16 + round(i0 * x as f64 * 1024.0)) >> 5) as i32;
    let rows = |y: usize| ((round((i4 * y as f64 + b1) * 1024.0) + 16) >> 5) as i32;
    [(0..geometry.frame).map(columns).collect(), (0..geometry.frame).map(rows).collect()]
}

/// (x, y) of the input from (x, y) of the output: i0 x + i1 y + b0 and i3 x + i4 y + b1, as OpenCV computes them.
fn inverse(&[[m0, m1, m2], [m3, m4, m5]]: &[[f64; 3]; 2]) -> Option<[f64; 6]> {
    let determinant = m0 * m4 - m1 * m3;
    if determinant == 0.0 {
        return None;
    }
    let d = 1.0 / determinant;
    let (i0, i1, i3, i4) = (m4 * d, -m1 * d, -m3 * d, m0 * d);
    Some([i0, i1, i3, i4, -i0 * m2 - i1 * m5, -i3 * m2 - i4 * m5])
}

/// Resamples an image by a 2x3 matrix as OpenCV 4.5 does, to the bit: bilinear at positions of 1/32 pixel, black outside.
///
/// Shapes: [h, w] into `out_size` [h, w]; the matrix maps (x, y, 1) of the input to (x, y) of the output, and must have
/// an inverse (otherwise the result is black).
/// Source: OpenCV 4.5 `warpAffine` for 8-bit images.
pub fn warp_affine(image: &[u8], [h, w]: [usize; 2], matrix: &[[f64; 3]; 2], out_size: [usize; 2]) -> Vec<u8> {
    let [out_h, out_w] = out_size;
    let mut out = vec![0u8; out_h * out_w];
    let Some([i0, i1, i3, i4, b0, b1]) = inverse(matrix).filter(|_| !out.is_empty()) else {
        return out;
    };
    let round = |value: f64| value.round_ties_even() as i64;
    let steps: Vec<[i64; 2]> = (0..out_w).map(|x| [round(i0 * x as f64 * 1024.0), round(i3 * x as f64 * 1024.0)]).collect();
    let pixel = |x: i64, y: i64| -> i64 {
        if x < 0 || y < 0 || x >= w as i64 || y >= h as i64 { 0 } else { i64::from(image[y as usize * w + x as usize]) }
    };
    out.par_chunks_mut(out_w).enumerate().for_each(|(y, row)| {
        let [x0, y0] = [round((i1 * y as f64 + b0) * 1024.0) + 16, round((i4 * y as f64 + b1) * 1024.0) + 16];
        for (out, [step_x, step_y]) in row.iter_mut().zip(&steps) {
            let (sx, sy) = ((x0 + step_x) >> 5, (y0 + step_y) >> 5);
            let (cell_x, cell_y, fx, fy) = (sx >> 5, sy >> 5, sx & 31, sy & 31);
            if cell_x < -1 || cell_y < -1 || cell_x >= w as i64 || cell_y >= h as i64 {
                continue;
            }
            let above = pixel(cell_x, cell_y) * (32 - fx) + pixel(cell_x + 1, cell_y) * fx;
            let below = pixel(cell_x, cell_y + 1) * (32 - fx) + pixel(cell_x + 1, cell_y + 1) * fx;
            *out = ((32 * (above * (32 - fy) + below * fy) + (1 << 14)) >> 15) as u8;
        }
    });
    out
}

/// Grey levels to the network's input: (level / 255 - mean) / deviation.
pub fn normalise(image: &[u8], normalisation: Normalisation) -> Vec<f32> {
    let table = normalise_table(normalisation);
    image.iter().map(|&level| table[usize::from(level)]).collect()
}

/// The input for every grey level.
pub fn normalise_table(normalisation: Normalisation) -> [f32; 256] {
    let [mean, deviation] = normalisation.pair().map(|value| value as f32);
    std::array::from_fn(|level| match normalisation {
        Normalisation::Picking => ((level as f64 / 255.0 - f64::from(mean)) / f64::from(deviation)) as f32,
        Normalisation::Training => (level as f32 / 255.0 - mean) / deviation,
    })
}
