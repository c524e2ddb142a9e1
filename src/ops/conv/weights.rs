//! Weights in the order in which an algorithm reads them.

use super::cpu_winograd;
use super::gpu::GpuPanels;
use crate::device::cpu::{InstructionSet, tile_product};
use crate::device::{Device, TensorMut, TensorRef};
use crate::ops::{Real, real::convert};
use anyhow::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Most input channels that are summed in one go under several taps; also the pixel stride of the tiles that are made of wider inputs.
pub const CHUNK: usize = 64;

/// Most lanes of a panel: two of the widest registers.
pub(crate) const MOST_LANES: usize = 32;

/// The order in which an algorithm reads its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As they lie in a model: `[co][ci][k][k]`.
    Plain,
    /// In panels for an instruction set of the CPU.
    Cpu(InstructionSet),
    /// In the same panels, at the points of Winograd's way.
    CpuPoints(InstructionSet),
    /// In rows for the kernels of a GPU.
    Gpu {
        /// True if they are wanted as they lie in a model as well, for a library.
        with_plain: bool,
    },
}

impl Packing {
    /// Values of scratch memory that weights on a device are packed into: none on the host.
    pub fn scratch_len<T: Real>(self, extents: [usize; 3]) -> usize {
        match self {
            Packing::Plain | Packing::Cpu(_) | Packing::CpuPoints(_) => 0,
            Packing::Gpu { .. } => GpuPanels::<T>::scratch_len(extents),
        }
    }
}

/// Weights and bias of one convolution, packed for an algorithm.
#[derive(Debug)]
pub struct Packed<A, T: Real = f32> {
    algorithm: A,
    extents: [usize; 3],
    panels: Panels<T>,
}

#[derive(Debug)]
enum Panels<T: Real> {
    Plain { weights: Vec<T>, bias: Vec<T> },
    Cpu(CpuPanels),
    Gpu(GpuPanels<T>),
}

impl<A, T: Real> Packed<A, T>
where
    for<'a> Packing: From<&'a A>,
{
    /// Packs `weights` `[co][ci][k][k]` and `bias` `[co]` (or empty: zeros) of `extents` [ci, co, k] for an algorithm of a device.
    ///
    /// Errors: the device has not as much memory.
    pub fn pack(device: &Device, algorithm: A, extents: [usize; 3], weights: &[f32], bias: &[f32]) -> Result<Self> {
        let [ci, co, kernel] = extents;
        let panels = match Packing::from(&algorithm) {
            Packing::Plain => Panels::Plain { weights: convert(weights), bias: convert(bias) },
            Packing::Cpu(set) => Panels::Cpu(CpuPanels::pack(ci, co, kernel, weights, bias, set)),
            Packing::CpuPoints(set) => Panels::Cpu(cpu_winograd::pack([ci, co], weights, bias, set)),
            Packing::Gpu { with_plain } => {
                Panels::Gpu(GpuPanels::pack(device.gpu(), extents, &convert(weights), &convert(bias), with_plain)?)
            }
        };
        Ok(Packed { algorithm, extents, panels })
    }

    /// Packs weights that lie on the device: on a GPU into `scratch`, which holds `Packing::scratch_len` values and has to live
    /// as long as the result.
    ///
    /// Shapes: `weights` `[co][ci][k][k]` and `bias` `[co]` (or empty), flat.
    /// Errors: the launch fails on the device.
    pub fn pack_there(
        device: &Device,
        algorithm: A,
        extents: [usize; 3],
        weights: TensorRef<T>,
        bias: TensorRef<T>,
        scratch: &mut TensorMut<T>,
    ) -> Result<Self> {
        let [ci, co, kernel] = extents;
        let panels = match Packing::from(&algorithm) {
            Packing::Plain => Panels::Plain { weights: weights.to_vec(), bias: bias.to_vec() },
            Packing::Cpu(set) => Panels::Cpu(CpuPanels::pack(ci, co, kernel, weights.as_f32().as_slice(), bias.as_f32().as_slice(), set)),
            Packing::CpuPoints(set) => {
                Panels::Cpu(cpu_winograd::pack([ci, co], weights.as_f32().as_slice(), bias.as_f32().as_slice(), set))
            }
            Packing::Gpu { with_plain } => Panels::Gpu(GpuPanels::pack_into(device.gpu(), extents, weights, bias, with_plain, scratch)?),
        };
        Ok(Packed { algorithm, extents, panels })
    }
}

impl<A, T: Real> Packed<A, T> {
    /// The algorithm that they are packed for.
    pub fn algorithm(&self) -> &A {
        &self.algorithm
    }

    /// Channels of the input and of the output, rows (and columns) of the kernel.
    pub fn extents(&self) -> [usize; 3] {
        self.extents
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::Plain { weights, bias } => size_of::<T>() * (weights.len() + bias.len()),
            Panels::Cpu(panels) => panels.bytes(),
            Panels::Gpu(panels) => panels.bytes(),
        }
    }

    /// Weights and bias as they lie in a model. Panics if they are packed otherwise: a programming error.
    pub(crate) fn plain(&self) -> (&[T], &[T]) {
        let Panels::Plain { weights, bias } = &self.panels else { panic!("weights in another order for the reference") };
        (weights, bias)
    }

    /// Those of the CPU. Panics if they are packed otherwise: a programming error.
    pub(crate) fn cpu(&self) -> &CpuPanels {
        let Panels::Cpu(panels) = &self.panels else { panic!("weights in another order for the CPU") };
        panels
    }

    /// Those of a GPU. Panics if they are packed otherwise: a programming error.
    pub(crate) fn gpu(&self) -> &GpuPanels<T> {
        let Panels::Gpu(panels) = &self.panels else { panic!("weights in another order for a GPU") };
        panels
    }
}

/// Channels of the narrowest plane of a chunk that is copied in planes: those of the widest register.
const LEAST_PLANE: usize = 16;

/// Fills the weights of one input channel, `[tap][lane]`, from a function of an output channel, an input channel and a tap.
fn fill_by(taps: usize, weight: impl Fn(usize, usize, usize) -> f32 + Sync) -> impl Fn(usize, Range<usize>, &mut [f32]) + Sync {
    move |c: usize, outputs: Range<usize>, values: &mut [f32]| {
        let lanes = values.len() / taps;
        // The loop over the taps is the inner one, because taps are neighbours where the weights come from.
        for (lane, o) in outputs.enumerate() {
            for tap in 0..taps {
                values[tap * lanes + lane] = weight(o, c, tap);
            }
        }
    }
}

/// Weights of one convolution cut into panels of output channels, as wide as two vector registers (the last may have
/// one) and filled up with zeros, and chunks of input channels: `[chunk][panel][ky][kx][channel][lane]`.
#[derive(Clone, Debug)]
pub struct CpuPanels {
    set: InstructionSet,
    ci: usize,
    co: usize,
    taps: usize,
    /// Input channels of a chunk; the last one may have fewer.
    chunk: usize,
    /// First output channel of each panel, and the end.
    starts: Vec<usize>,
    values: Vec<f32>,
    bias: Vec<f32>,
}

impl CpuPanels {
    /// Packs `weights` `[co][ci][k][k]` and `bias` `[co]` (or empty: zeros) for an instruction set.
    pub fn pack(ci: usize, co: usize, kernel: usize, weights: &[f32], bias: &[f32], set: InstructionSet) -> Self {
        let taps = kernel * kernel;
        assert!(weights.len() == co * ci * taps && (bias.is_empty() || bias.len() == co), "weights of {co} x {ci} x {kernel} x {kernel}");
        // Under one tap all channels are summed in one go, so that sums need not be put aside; they are copied in planes of a whole number
        // of registers.
        let chunk = if taps == 1 && ci.is_multiple_of(LEAST_PLANE) { ci } else { CHUNK };
        let weight = |o: usize, c: usize, tap: usize| weights[(o * ci + c) * taps + tap];
        Self::pack_chunks(ci, co, taps, chunk, fill_by(taps, weight), bias, set)
    }

    /// Channels of a plane in which a task copies its input where a chunk has more than a tile's pixel.
    pub(crate) fn plane(&self) -> usize {
        [CHUNK, CHUNK / 2].into_iter().find(|plane| self.ci.is_multiple_of(*plane)).unwrap_or(LEAST_PLANE)
    }

    /// True if all channels are one chunk, and more than a tile's pixel has.
    pub(crate) fn is_deep(&self) -> bool {
        self.chunk > CHUNK
    }

    /// Packs weights that a function gives for an output channel, an input channel and a tap.
    pub(crate) fn pack_by(
        ci: usize,
        co: usize,
        taps: usize,
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
        bias: &[f32],
        set: InstructionSet,
    ) -> Self {
        Self::pack_lanes(ci, co, taps, fill_by(taps, weight), bias, set)
    }

    /// Packs weights of which a function gives those of one input channel and of some output channels, at most `MOST_LANES`:
    /// `[tap][lane]`, with zeros in lanes beyond the last output channel.
    pub(crate) fn pack_lanes(
        ci: usize,
        co: usize,
        taps: usize,
        fill: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
        bias: &[f32],
        set: InstructionSet,
    ) -> Self {
        Self::pack_chunks(ci, co, taps, CHUNK, fill, bias, set)
    }

    fn pack_chunks(
        ci: usize,
        co: usize,
        taps: usize,
        chunk: usize,
        fill: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
        bias: &[f32],
        set: InstructionSet,
    ) -> Self {
        let lanes = tile_product::sizes(set).lanes;
        let mut starts = vec![0];
        let mut end = 0;
        while end < co {
            end += if co - end > lanes { 2 * lanes } else { lanes };
            starts.push(end);
        }
        let mut values = vec![0.0; end * ci * taps];
        let mut blocks = Vec::new();
        let mut rest = values.as_mut_slice();
        for first in (0..ci).step_by(chunk) {
            let last = ci.min(first + chunk);
            for panel in starts.windows(2) {
                let (block, after) = rest.split_at_mut((last - first) * taps * (panel[1] - panel[0]));
                blocks.push((first..last, panel[0]..panel[1], block));
                rest = after;
            }
        }
        blocks.into_par_iter().for_each(|(channels, panel, block)| {
            let lanes = panel.len();
            let mut values = vec![0.0; taps * lanes];
            for (i, c) in channels.clone().enumerate() {
                fill(c, panel.start..panel.end.min(co), &mut values);
                for (tap, values) in values.chunks_exact(lanes).enumerate() {
                    block[(tap * channels.len() + i) * lanes..][..lanes].copy_from_slice(values);
                }
            }
        });
        let bias = (0..end).map(|o| bias.get(o).copied().unwrap_or(0.0)).collect();
        CpuPanels { set, ci, co, taps, chunk, starts, values, bias }
    }

    /// Channels of the input.
    pub fn ci(&self) -> usize {
        self.ci
    }

    /// Channels of the output.
    pub fn co(&self) -> usize {
        self.co
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        4 * (self.values.len() + self.bias.len())
    }

    /// The instruction set they are packed for.
    pub(crate) fn set(&self) -> InstructionSet {
        self.set
    }

    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// First output channel of a panel, and its lanes (which may reach beyond the last channel).
    pub(crate) fn lanes(&self, panel: usize) -> (usize, usize) {
        (self.starts[panel], self.starts[panel + 1] - self.starts[panel])
    }

    /// Chunks of input channels: first and length.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (ci, chunk) = (self.ci, self.chunk);
        (0..ci).step_by(chunk).map(move |first| (first, chunk.min(ci - first)))
    }

    /// Distance between the pixels of a tile's input: the first stride of the tile product that holds a chunk.
    pub(crate) fn tile_stride(&self) -> usize {
        match self.ci {
            0..=16 => 16,
            17..=32 => 32,
            _ => CHUNK,
        }
    }

    /// The weights `[ky][kx][channel][lane]` of a panel for the chunk that starts at input channel `first`.
    pub(crate) fn block(&self, first: usize, length: usize, panel: usize) -> &[f32] {
        let taps = self.taps;
        let all_lanes = self.bias.len();
        let (start, lanes) = self.lanes(panel);
        &self.values[taps * (first * all_lanes + length * start)..][..taps * length * lanes]
    }

    /// The bias of a panel's lanes.
    pub(crate) fn bias(&self, panel: usize) -> &[f32] {
        &self.bias[self.starts[panel]..self.starts[panel + 1]]
    }
}
