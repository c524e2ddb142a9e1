//! Peaks of the heat map: found on logits, sorted, cut at K, and only then given their scores.
//!
//! A pixel is a peak if no neighbour in its 3x3 window is larger (outside counts as minus infinity; all pixels of a
//! plateau are peaks). The K largest are kept, ordered by (score descending, index ascending).
//! score = 1 / (1 + exp(-logit)). The sigmoid is monotone, so peaks and their order are those of the scores, except
//! that f32 scores merge large logits that differ; order and equality are decided on the score, as in the original.
//! There is no backward pass, because nothing is learnt through the peaks.
//! Source: Zhou, Wang, Kraehenbuehl 2019, Objects as Points, arXiv:1904.07850, section 4; docs/network.md, section 1.4.

use super::{Agreement, Real, in_value_type, noise, real::convert};
use crate::device::gpu::{Arg, Gpu, Grid, Memory};
use crate::device::{Device, Tensor, TensorRef};
use crate::kernel_struct;
use anyhow::Result;

/// Rows and columns of the network's image for each row and column of the heat map, and of the other maps of the heads.
pub const STRIDE: usize = 4;

/// A peak of the heat map, with what the heads say of it. Frame H.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Row-major index in the heat map.
    pub index: u32,
    /// Score in 0..1.
    pub score: f32,
    /// Offset of the centre from the pixel, x then y, heat map pixels.
    pub offset: [f32; 2],
    /// Width and height, heat map pixels, where the mode has a size head.
    pub size: Option<[f32; 2]>,
}

/// The score of a logit.
#[inline]
pub fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// The at most `k` highest peaks of a map of logits: (index, score), by score descending, then index.
///
/// Shapes: `logits` (1, h, w, 1), f32. NaN is never a peak.
/// Errors: the launch fails on the device.
/// Source: the text above.
pub fn peaks<T: Real>(device: &Device, logits: TensorRef<T>, k: usize) -> Result<Vec<(u32, f32)>> {
    let [n, h, w, c] = logits.shape();
    assert!(n == 1 && c == 1 && h * w <= u32::MAX as usize, "heat map of {:?}", logits.shape());
    match device {
        Device::Cpu => Ok(peaks_cpu(logits.as_f32(), [h, w], k)),
        Device::Gpu(gpu) => launch_peaks(gpu, logits, [h, w], k),
        Device::Reference => {
            let found = reference(&logits.to_vec(), [h, w], k);
            Ok(found.into_iter().map(|(index, score)| (index, score.to_f64() as f32)).collect())
        }
    }
}

fn launch_peaks<T: Real>(gpu: &Gpu, logits: TensorRef<T>, extent: [usize; 2], k: usize) -> Result<Vec<(u32, f32)>> {
    let mut memory = PeakMemory::new(gpu, extent, k)?;
    memory.find(gpu, logits)?;
    memory.read(gpu)
}

/// Side of the tiles whose peaks the kernels collect, and threads of their blocks and of the one that sorts.
const TILE: usize = 16;
const THREADS: u32 = 256;
const SORTERS: u32 = 1024;

/// Memory in which peaks are found on a GPU, and where they lie afterwards.
#[derive(Debug)]
pub struct PeakMemory {
    extent: [usize; 2],
    k: usize,
    /// Peaks of each tile: their number, and the keys by which they are sorted.
    counts: Memory,
    keys: Memory,
    /// Where more keys are sorted than shared memory holds.
    space: Memory,
    /// The number of peaks, k indices, k scores: 4 bytes each.
    found: Memory,
}

impl PeakMemory {
    /// For maps of [h, w] and at most `k` peaks.
    ///
    /// Errors: the device has not as much memory.
    pub fn new(gpu: &Gpu, extent: [usize; 2], k: usize) -> Result<Self> {
        let (tiles, k) = (Self::tiles(extent), k.min(extent[0] * extent[1]));
        Ok(PeakMemory {
            extent,
            k,
            counts: Memory::new(gpu, 4 * tiles)?,
            keys: Memory::new(gpu, 8 * TILE * TILE * tiles)?,
            space: Memory::new(gpu, 8 * k.next_power_of_two())?,
            found: Memory::new(gpu, 4 * (1 + 2 * k))?,
        })
    }

    fn tiles([h, w]: [usize; 2]) -> usize {
        h.div_ceil(TILE) * w.div_ceil(TILE)
    }

    /// Finds the peaks of a map of logits; they stay on the GPU.
    ///
    /// Shapes: `logits` (1, h, w, 1), f32.
    /// Errors: the launch fails.
    /// Source: the text above.
    pub fn find<T: Real>(&mut self, gpu: &Gpu, logits: TensorRef<T>) -> Result<()> {
        let [h, w] = self.extent;
        assert_eq!(logits.shape(), [1, h, w, 1], "heat map");
        let shape = kernel_struct!(HeatMapShape { h, w, k: self.k });
        let (counts, keys) = (Arg::address(self.counts.address()), Arg::address(self.keys.address()));
        let grid = Grid([w.div_ceil(TILE) as u32, h.div_ceil(TILE) as u32, 1]);
        let args = [shape, logits.arg(), logits.stride_arg(), counts, keys];
        // SAFETY: the arguments of the KERNEL line, in its order; the memory is for this map.
        unsafe { gpu.launch("heat_map_peaks", grid, THREADS, &args) }?;
        let (tiles, space) = (Arg::value(Self::tiles(self.extent) as u32), Arg::address(self.space.address()));
        let scores = Arg::address(self.found.address() + 4 * (1 + self.k as u64));
        let args = [shape, tiles, counts, keys, space, self.count_arg(), self.indices_arg(), scores];
        // SAFETY: as above; there is room for k peaks.
        unsafe { gpu.launch("heat_map_select", Grid([1, 1, 1]), SORTERS, &args) }
    }

    /// Rows and columns of the map.
    pub fn extent(&self) -> [usize; 2] {
        self.extent
    }

    /// Most peaks.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Where the number of peaks lies, one u32.
    pub fn count_arg(&self) -> Arg {
        Arg::address(self.found.address())
    }

    /// Where the indices of the peaks lie, u32.
    pub fn indices_arg(&self) -> Arg {
        Arg::address(self.found.address() + 4)
    }

    /// The peaks, (index, score), after all work of the stream.
    ///
    /// Errors: the copy, or work before it, fails.
    pub fn read(&self, gpu: &Gpu) -> Result<Vec<(u32, f32)>> {
        let mut words = vec![0_u32; 1 + 2 * self.k];
        self.found.download(gpu, 0, bytemuck::cast_slice_mut(&mut words))?;
        Ok(self.parse(&words))
    }

    /// The memory in which they lie: the number of peaks, k indices, k scores, 4 bytes each.
    pub fn found(&self) -> &Memory {
        &self.found
    }

    /// The peaks, (index, score), of a copy of `found`.
    pub fn parse(&self, words: &[u32]) -> Vec<(u32, f32)> {
        let (indices, scores) = words[1..].split_at(self.k);
        indices.iter().zip(scores).map(|(&index, &score)| (index, f32::from_bits(score))).take(words[0] as usize).collect()
    }
}

fn peaks_cpu(logits: TensorRef, [h, w]: [usize; 2], k: usize) -> Vec<(u32, f32)> {
    let scores: Vec<f32> = (0..h * w).map(|i| sigmoid(logits.pixel(i)[0])).collect();
    let mut found = Vec::new();
    for y in 0..h {
        for x in 0..w {
            let score = scores[y * w + x];
            let (y0, y1, x0, x1) = (y.saturating_sub(1), (y + 2).min(h), x.saturating_sub(1), (x + 2).min(w));
            // Written so that a NaN here is no peak, and a NaN beside it hides no peak.
            if score.is_nan() || (y0..y1).any(|yy| scores[yy * w + x0..yy * w + x1].iter().any(|&other| other > score)) {
                continue;
            }
            found.push(((y * w + x) as u32, score));
        }
    }
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if found.len() > k && k > 0 {
        found.select_nth_unstable_by(k - 1, order);
    }
    found.truncate(k);
    found.sort_unstable_by(order);
    found
}

/// Peaks by their definition, on scores in T: all of them, sorted, cut at `k`.
pub fn reference<T: Real>(logits: &[T], [h, w]: [usize; 2], k: usize) -> Vec<(u32, T)> {
    let one = T::from_f64(1.0);
    let scores: Vec<T> = logits.iter().map(|&z| one / (one + (T::default() - z).exp())).collect();
    let at = |y: isize, x: isize| {
        if y < 0 || x < 0 || y >= h as isize || x >= w as isize { None } else { Some(scores[y as usize * w + x as usize]) }
    };
    let mut found = Vec::new();
    for (y, x) in (0..(h * w) as isize).map(|i| (i / w as isize, i % w as isize)) {
        let score = scores[y as usize * w + x as usize];
        let neighbours = (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (y + dy, x + dx)));
        if neighbours.filter_map(|(y, x)| at(y, x)).all(|other| other <= score) {
            found.push(((y as usize * w + x as usize) as u32, score));
        }
    }
    found.sort_by(|a, b| b.1.to_f64().total_cmp(&a.1.to_f64()).then(a.0.cmp(&b.0)));
    found.truncate(k);
    found
}

/// (h, w, k, step of the logits): 1x1, a row, plateaus and ties (coarse steps), more peaks than K and fewer, a real map.
pub const CASES: [(usize, usize, usize, f32); 6] =
    [(1, 1, 5, 0.0), (1, 17, 3, 0.0), (9, 11, 40, 0.25), (12, 12, 20, 0.5), (31, 33, 1000, 0.0), (256, 256, 2000, 0.0)];

/// Runs all cases on a device: indices must be those of the f32 reference (peaks are decided on f32 scores), scores
/// equal to the f64 sigmoid up to rounding.
///
/// Errors: as `peaks`.
pub fn compare(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_as)
}

fn compare_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for (i, (h, w, k, step)) in CASES.into_iter().enumerate() {
        let mut logits: Vec<f32> = noise(h * w, i as u64).iter().map(|x| 12.0 * x).collect();
        if step > 0.0 {
            logits.iter_mut().for_each(|z| *z = (*z / 6.0 / step).round() * step);
        }
        let expected = reference::<f32>(&logits, [h, w], k);
        let found = peaks(device, Tensor::on(device, [1, h, w, 1], convert::<T>(&logits))?.view(), k)?;
        let same_indices = found.len() == expected.len() && found.iter().zip(&expected).all(|(found, expected)| found.0 == expected.0);
        let error = found.iter().fold(0.0_f64, |most, &(index, score)| {
            let exact = 1.0 / (1.0 + (-f64::from(logits[index as usize])).exp());
            most.max((f64::from(score) - exact).abs())
        });
        // Three roundings of values up to 1, and the exponential's own last place.
        agreements.push(Agreement {
            case: format!("{h}x{w}, {k} peaks, step {step}"),
            error: if same_indices { error } else { f64::INFINITY },
            bound: 4.0 * f64::from(f32::EPSILON),
            bits: found
                .iter()
                .fold(0, |hash, &(index, score)| super::splitmix64(hash ^ u64::from(index) << 32 ^ u64::from(score.to_bits()))),
        });
    }
    Ok(agreements)
}
