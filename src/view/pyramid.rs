//! A micrograph at every zoom: its pixels, and smaller and smaller means of them, from which tiles are drawn.
//!
//! Level 0 has the file's own pixels, and a pixel of each further level is the mean of 2 x 2 of the level before. Values are kept as 16
//! bits over the range that nearly all pixels lie in, so a micrograph takes 8/3 bytes a pixel in memory, whatever its file holds.

use crate::formats::image::{Micrograph, Sample};
use crate::with_pixels;
use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Side of a tile, pixels.
pub const TILE: usize = 256;
/// Looks that are remembered, so that a slider which is moved for hours fills no memory.
const MOST_RANGES: usize = 1000;
/// Values that are looked at to find the range of a micrograph, or what becomes black and white.
const SAMPLES: usize = 100_000;
/// A low-pass is computed where its Gaussian has at most this deviation, pixels of the level; coarser levels serve for wider ones.
const WIDEST_BLUR_PX: f64 = 3.0;
/// The uneven ground is what is seen of a micrograph in an image of at most this width, pixels: each is wider than a particle.
const GROUND_WIDTH: usize = 12;
/// Tiles along each axis that are looked at to find what becomes black and white.
const LOOKED_AT: usize = 3;

/// How tiles are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Resolution that a low-pass leaves, micrograph pixels; 0 leaves all.
    pub low_pass_px: f64,
    /// Percentiles that become black and white.
    pub percentiles: [f64; 2],
    /// True if the uneven ground is taken away.
    pub flat: bool,
}

/// One level.
#[derive(Debug)]
struct Level {
    nx: usize,
    ny: usize,
    pixels: Vec<u16>,
}

impl Level {
    /// The pixel at a place; beyond the border the nearest one.
    fn at(&self, x: isize, y: isize) -> f32 {
        let [x, y] = [x.clamp(0, self.nx as isize - 1) as usize, y.clamp(0, self.ny as isize - 1) as usize];
        f32::from(self.pixels[y * self.nx + x])
    }

    /// The mean of 2 x 2 pixels of another level.
    fn halved(&self) -> Level {
        let [nx, ny] = [self.nx.div_ceil(2), self.ny.div_ceil(2)];
        let mut pixels = vec![0; nx * ny];
        pixels.par_chunks_mut(nx).enumerate().for_each(|(y, out)| {
            let row = |y: usize| &self.pixels[y.min(self.ny - 1) * self.nx..][..self.nx];
            let (above, below) = (row(2 * y), row(2 * y + 1));
            for (x, out) in out.iter_mut().enumerate() {
                let (left, right) = (2 * x, (2 * x + 1).min(self.nx - 1));
                let sum = u32::from(above[left]) + u32::from(above[right]) + u32::from(below[left]) + u32::from(below[right]);
                *out = ((sum + 2) / 4) as u16;
            }
        });
        Level { nx, ny, pixels }
    }

    /// The value between pixels; beyond the border it goes on as straight as it came.
    fn between(&self, x: f64, y: f64) -> f32 {
        let place = |at: f64, n: usize| {
            let first = at.floor().clamp(0.0, n.saturating_sub(2) as f64);
            (first as isize, if n > 1 { (at - first) as f32 } else { 0.0 })
        };
        let ((x0, fx), (y0, fy)) = (place(x, self.nx), place(y, self.ny));
        let row = |y: isize| self.at(x0, y) * (1.0 - fx) + self.at(x0 + 1, y) * fx;
        row(y0) * (1.0 - fy) + row(y0 + 1) * fy
    }
}

/// A level, and the bits of a look.
type RangeKey = (usize, bool, [u64; 3]);

/// A micrograph at every zoom.
#[derive(Debug)]
pub struct Pyramid {
    levels: Vec<Level>,
    /// What is seen of the micrograph where nothing but its uneven ground is left, and how many times it was halved.
    ground: (Level, usize),
    /// Angstrom per pixel, if the file says so.
    pub pixel_size_angstrom: Option<f64>,
    /// What becomes black and white, by level and look.
    ranges: Mutex<HashMap<RangeKey, [f32; 2]>>,
}

/// A picture of grey levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grey {
    /// Columns.
    pub nx: usize,
    /// Rows.
    pub ny: usize,
    /// nx * ny levels.
    pub levels: Vec<u8>,
}

impl Pyramid {
    /// All levels of a micrograph.
    pub fn new(micrograph: &Micrograph) -> Pyramid {
        let [nx, ny] = [micrograph.nx, micrograph.ny];
        let [low, high] = with_pixels!(&micrograph.pixels, values => {
            let step = (values.len() / SAMPLES).max(1);
            usual_range(values.iter().step_by(step).map(|&value| value.to_f64() as f32))
        });
        let scale = 65535.0 / (high - low);
        let middle = 32768;
        let pixels = with_pixels!(&micrograph.pixels, values => {
            let mut pixels = vec![0_u16; nx * ny];
            pixels.par_chunks_mut(nx.max(1)).enumerate().for_each(|(y, out)| {
                for (out, &value) in out.iter_mut().zip(values[y * nx..][..nx].iter()) {
                    let value = (value.to_f64() as f32 - low) * scale;
                    *out = if value.is_finite() { value.round().clamp(0.0, 65535.0) as u16 } else { middle };
                }
            });
            pixels
        });
        let mut levels = vec![Level { nx, ny, pixels }];
        while let Some(last) = levels.last()
            && last.nx.max(last.ny) > TILE
        {
            let next = last.halved();
            levels.push(next);
        }
        let mut ground = levels[levels.len() - 1].halved();
        let mut halved = levels.len();
        while ground.nx.max(ground.ny) > GROUND_WIDTH {
            ground = ground.halved();
            halved += 1;
        }
        Pyramid { levels, ground: (ground, halved), pixel_size_angstrom: micrograph.pixel_size_angstrom, ranges: Mutex::default() }
    }

    /// Number of levels; the last one fits into one tile.
    pub fn levels(&self) -> usize {
        self.levels.len()
    }

    /// Columns and rows of the micrograph.
    pub fn size(&self) -> [usize; 2] {
        [self.levels[0].nx, self.levels[0].ny]
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.levels.iter().map(|level| 2 * level.pixels.len()).sum()
    }

    /// One tile.
    ///
    /// Errors: there is no such tile.
    pub fn tile(&self, level: usize, [column, row]: [usize; 2], look: &Look) -> Result<Grey> {
        let of = self.levels.get(level).with_context(|| format!("no level {level}; expected less than {}", self.levels.len()))?;
        let [x0, y0] = [column.saturating_mul(TILE), row.saturating_mul(TILE)];
        ensure!(x0 < of.nx && y0 < of.ny, "no tile {column}, {row} at level {level}");
        let [nx, ny] = [(of.nx - x0).min(TILE), (of.ny - y0).min(TILE)];
        let values = self.seen(level, [x0, y0], [nx, ny], look);
        let [black, white] = self.range(level, look);
        let grey = |value: &f32| (((value - black) / (white - black)) * 255.0).round().clamp(0.0, 255.0) as u8;
        Ok(Grey { nx, ny, levels: values.iter().map(grey).collect() })
    }

    /// A part of a level as a look shows it, before it becomes grey.
    fn seen(&self, level: usize, origin: [usize; 2], size: [usize; 2], look: &Look) -> Vec<f32> {
        // A half of the amplitude is left at the resolution that was asked for.
        let sigma_m_px = look.low_pass_px.max(0.0) * (std::f64::consts::LN_2 / 2.0).sqrt() / std::f64::consts::PI;
        let source = self.level_for(level, sigma_m_px);
        let mut values = self.blurred(source, level, origin, size, sigma_m_px / (1_u64 << source) as f64);
        if look.flat {
            self.take_ground(level, origin, size, &mut values);
        }
        values
    }

    /// The level at which a blur is computed: that of the tile, or a coarser one.
    fn level_for(&self, level: usize, sigma_m_px: f64) -> usize {
        let mut source = level;
        while source + 1 < self.levels.len() && sigma_m_px / (1_u64 << source) as f64 > WIDEST_BLUR_PX {
            source += 1;
        }
        source
    }

    /// A part of a level, blurred by a Gaussian that is given in pixels of the level `source`.
    fn blurred(&self, source: usize, level: usize, [x0, y0]: [usize; 2], [nx, ny]: [usize; 2], sigma_px: f64) -> Vec<f32> {
        let from = &self.levels[source];
        if sigma_px < 0.2 && source == level {
            let row = |y: usize| &from.pixels[(y0 + y) * from.nx + x0..][..nx];
            return (0..ny).flat_map(|y| row(y).iter().map(|&value| f32::from(value))).collect();
        }
        // The window of the source that the tile sees, with a margin for the blur and for the places between pixels.
        let ratio = 1.0 / (1_u64 << (source - level)) as f64;
        let to_source = |at: f64| (at + 0.5) * ratio - 0.5;
        let weights = gaussian(sigma_px);
        let margin = weights.len() / 2 + 1;
        let first = |at: usize| to_source(at as f64).floor() as isize - margin as isize;
        let count = |at: usize, n: usize| (to_source((at + n) as f64).ceil() as isize + margin as isize - first(at) + 1) as usize;
        let ([left, top], [width, height]) = ([first(x0), first(y0)], [count(x0, nx), count(y0, ny)]);
        let half = (weights.len() / 2) as isize;
        let mut rows = vec![0.0_f32; width * height];
        rows.par_chunks_mut(width).enumerate().for_each(|(y, out)| {
            let line: Vec<f32> = (-half..width as isize + half).map(|x| from.at(left + x, top + y as isize)).collect();
            for (x, out) in out.iter_mut().enumerate() {
                *out = weights.iter().zip(&line[x..]).map(|(weight, value)| weight * value).sum();
            }
        });
        let mut window = vec![0.0_f32; width * height];
        window.par_chunks_mut(width).enumerate().for_each(|(y, out)| {
            for (i, weight) in weights.iter().enumerate() {
                let from = (y as isize + i as isize - half).clamp(0, height as isize - 1) as usize;
                out.iter_mut().zip(&rows[from * width..][..width]).for_each(|(out, value)| *out += weight * value);
            }
        });
        let at = |x: f64, y: f64| {
            let [x, y] = [x - left as f64, y - top as f64];
            let ([x0, y0], [fx, fy]) = ([x as usize, y as usize], [(x - x.floor()) as f32, (y - y.floor()) as f32]);
            let row = |y: usize| window[y * width + x0] * (1.0 - fx) + window[y * width + (x0 + 1).min(width - 1)] * fx;
            row(y0) * (1.0 - fy) + row((y0 + 1).min(height - 1)) * fy
        };
        let mut out = vec![0.0_f32; nx * ny];
        out.par_chunks_mut(nx).enumerate().for_each(|(y, out)| {
            let y = to_source((y0 + y) as f64);
            out.iter_mut().enumerate().for_each(|(x, out)| *out = at(to_source((x0 + x) as f64), y));
        });
        out
    }

    /// Takes from values what a very coarse level shows, and adds the middle of the range.
    fn take_ground(&self, level: usize, [x0, y0]: [usize; 2], [nx, ny]: [usize; 2], values: &mut [f32]) {
        let (coarse, halved) = &self.ground;
        let ratio = 2.0_f64.powi(level as i32 - *halved as i32);
        let to_coarse = |at: usize| (at as f64 + 0.5) * ratio - 0.5;
        values.par_chunks_mut(nx).take(ny).enumerate().for_each(|(y, out)| {
            let y = to_coarse(y0 + y);
            out.iter_mut().enumerate().for_each(|(x, out)| *out += 32768.0 - coarse.between(to_coarse(x0 + x), y));
        });
    }

    /// What becomes black and white at a level: the percentiles of some tiles that lie evenly spread.
    fn range(&self, level: usize, look: &Look) -> [f32; 2] {
        let [low, high] = look.percentiles;
        let key = (level, look.flat, [look.low_pass_px, low, high].map(f64::to_bits));
        if let Some(range) = self.ranges.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return *range;
        }
        let of = &self.levels[level];
        let mut values = Vec::new();
        let spread = |n: usize| {
            let tiles = n.div_ceil(TILE);
            let count = tiles.min(LOOKED_AT);
            (0..count).map(move |k| (2 * k + 1) * tiles / (2 * count) * TILE)
        };
        for y0 in spread(of.ny) {
            for x0 in spread(of.nx) {
                let size = [(of.nx - x0).min(TILE), (of.ny - y0).min(TILE)];
                let seen = self.seen(level, [x0, y0], size, look);
                values.extend(seen.iter().step_by((seen.len() * LOOKED_AT * LOOKED_AT / SAMPLES).max(1)));
            }
        }
        values.sort_by(f32::total_cmp);
        let at = |percent: f64| values[((percent.clamp(0.0, 100.0) / 100.0) * (values.len() - 1) as f64).round() as usize];
        let [black, white] = [low, high].map(at);
        let range = [black, white.max(black + 1.0)];
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        if ranges.len() >= MOST_RANGES {
            ranges.clear();
        }
        ranges.insert(key, range);
        range
    }
}

/// The range that nearly all values lie in, and half as much on each side.
fn usual_range(values: impl Iterator<Item = f32>) -> [f32; 2] {
    let mut values: Vec<f32> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f32::total_cmp);
    if values.is_empty() {
        return [0.0, 1.0];
    }
    let at = |share: f64| values[(share * (values.len() - 1) as f64).round() as usize];
    let (low, high) = (at(0.001), at(0.999));
    let more = if high > low { 0.5 * (high - low) } else { 0.5 };
    [low - more, high + more]
}

/// The weights of a Gaussian, an odd number of them; one for a deviation of 0.
fn gaussian(sigma_px: f64) -> Vec<f32> {
    let reach = (3.0 * sigma_px).ceil() as i64;
    if sigma_px < 0.2 {
        return vec![1.0];
    }
    let weights: Vec<f64> = (-reach..=reach).map(|at| (-(at * at) as f64 / (2.0 * sigma_px * sigma_px)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| (weight / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::image::Pixels;
    use crate::random::Random;

    fn of(nx: usize, ny: usize, value: impl Fn(usize, usize) -> f32) -> Pyramid {
        let values: Vec<f32> = (0..nx * ny).map(|i| value(i % nx, i / nx)).collect();
        Pyramid::new(&Micrograph::of_pixels(nx, ny, Pixels::F32(values.into())))
    }

    const PLAIN: Look = Look { low_pass_px: 0.0, percentiles: [0.5, 99.5], flat: false };

    fn deviation(grey: &Grey) -> f64 {
        let n = grey.levels.len() as f64;
        let mean = grey.levels.iter().map(|&level| f64::from(level)).sum::<f64>() / n;
        (grey.levels.iter().map(|&level| (f64::from(level) - mean).powi(2)).sum::<f64>() / n).sqrt()
    }

    #[test]
    fn tiles_cover_a_micrograph_of_any_size_at_every_level() {
        for [nx, ny] in [[1, 1], [257, 3], [1000, 513]] {
            let pyramid = of(nx, ny, |x, y| (x + y) as f32);
            let mut size = [nx, ny];
            for level in 0..pyramid.levels() {
                let tiles = size.map(|n| n.div_ceil(TILE));
                for (column, row) in (0..tiles[0]).flat_map(|column| (0..tiles[1]).map(move |row| (column, row))) {
                    let tile = pyramid.tile(level, [column, row], &PLAIN).unwrap();
                    assert_eq!([tile.nx, tile.ny], [(size[0] - column * TILE).min(TILE), (size[1] - row * TILE).min(TILE)]);
                    assert_eq!(tile.levels.len(), tile.nx * tile.ny);
                }
                assert!(pyramid.tile(level, [tiles[0], 0], &PLAIN).is_err());
                size = size.map(|n| n.div_ceil(2));
            }
            assert!(pyramid.tile(pyramid.levels(), [0, 0], &PLAIN).is_err());
            assert_eq!(size.map(|n| n <= TILE), [true; 2]);
        }
    }

    #[test]
    fn a_ramp_goes_from_black_to_white_at_every_level_and_blurred_too() {
        let pyramid = of(600, 600, |x, _| x as f32);
        for (level, low_pass_px) in [(0, 0.0), (0, 40.0), (1, 0.0), (1, 40.0), (2, 0.0), (2, 20.0)] {
            let columns = 600_usize.div_ceil(1 << level);
            let look = Look { low_pass_px, ..PLAIN };
            let grey = |x: usize| {
                let tile = pyramid.tile(level, [x / TILE, 0], &look).unwrap();
                f64::from(tile.levels[x % TILE])
            };
            for x in [0, columns / 4, columns / 2, columns - 1] {
                let expected = 255.0 * (x as f64 + 0.5) / columns as f64;
                assert!((grey(x) - expected).abs() < 8.0, "level {level}, low-pass {low_pass_px}: {} at {x}, {expected}", grey(x));
            }
        }
    }

    #[test]
    fn a_low_pass_keeps_what_is_coarse_and_takes_what_is_fine() {
        // Waves of 100 and of 8 pixels; noise makes the range that of an ordinary micrograph.
        let wave = |length: f32| of(512, 512, move |x, _| (x as f32 * std::f32::consts::TAU / length).sin());
        let fixed = Look { low_pass_px: 30.0, percentiles: [0.0, 100.0], flat: false };
        let amplitude = |length: f32| {
            let pyramid = wave(length);
            let values = pyramid.blurred(0, 0, [128, 0], [256, 1], fixed.low_pass_px * 0.18739);
            let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
            let plain = pyramid.blurred(0, 0, [128, 0], [256, 1], 0.0);
            let (all_low, all_high) = plain.iter().fold((f32::MAX, f32::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
            (high - low) / (all_high - all_low)
        };
        assert!(amplitude(100.0) > 0.9 && amplitude(8.0) < 0.01);
        assert!((amplitude(30.0) - 0.5).abs() < 0.03, "{}", amplitude(30.0));
    }

    #[test]
    fn an_uneven_ground_is_taken_away() {
        let mut random = Random::new(1, &[]);
        let noise: Vec<f32> = (0..1024 * 1024).map(|_| random.unit() as f32).collect();
        let pyramid = of(1024, 1024, |x, y| noise[y * 1024 + x] + 0.02 * x as f32);
        let grey = |flat: bool, column: usize| pyramid.tile(0, [column, 1], &Look { flat, ..PLAIN }).unwrap();
        let mean = |grey: &Grey| grey.levels.iter().map(|&level| f64::from(level)).sum::<f64>() / grey.levels.len() as f64;
        assert!(mean(&grey(false, 3)) - mean(&grey(false, 0)) > 150.0);
        assert!((mean(&grey(true, 2)) - mean(&grey(true, 1))).abs() < 4.0);
        assert!(deviation(&grey(true, 1)) > 3.0 * deviation(&grey(false, 1)));
    }

    #[test]
    fn constant_and_broken_pixels_are_drawn() {
        let tile = of(64, 64, |_, _| 7.0).tile(0, [0, 0], &PLAIN).unwrap();
        assert!(tile.levels.iter().all(|level| *level == tile.levels[0]));
        let tile = of(64, 64, |x, _| if x == 3 { f32::NAN } else { x as f32 }).tile(0, [0, 0], &PLAIN).unwrap();
        assert_eq!(tile.levels.len(), 64 * 64);
        of(8, 8, |_, _| f32::NAN).tile(0, [0, 0], &PLAIN).unwrap();
    }
}
