//! Weights in the order in which the tile product reads them.

use crate::device::cpu::{InstructionSet, tile_product};

/// Most input channels that are summed in one go; also the pixel stride of the tiles that are made of wider inputs.
pub const CHUNK: usize = 64;

/// Weights of one convolution cut into panels of output channels, as wide as two vector registers (the last may have
/// one) and filled up with zeros, and chunks of input channels: [chunk][panel][ky][kx][channel][lane].
#[derive(Clone, Debug)]
pub struct Panels {
    set: InstructionSet,
    ci: usize,
    co: usize,
    kernel: usize,
    /// First output channel of each panel, and the end.
    starts: Vec<usize>,
    values: Vec<f32>,
    bias: Vec<f32>,
}

impl Panels {
    /// Packs `weights` [co][ci][k][k] and `bias` [co] (or empty: zeros) for an instruction set.
    pub fn pack(ci: usize, co: usize, kernel: usize, weights: &[f32], bias: &[f32], set: InstructionSet) -> Self {
        let taps = kernel * kernel;
        assert!(weights.len() == co * ci * taps && (bias.is_empty() || bias.len() == co), "weights of {co} x {ci} x {kernel} x {kernel}");
        let lanes = tile_product::sizes(set).lanes;
        let mut starts = vec![0];
        let mut end = 0;
        while end < co {
            end += if co - end > lanes { 2 * lanes } else { lanes };
            starts.push(end);
        }
        let mut values = Vec::with_capacity(end * ci * taps);
        for first in (0..ci).step_by(CHUNK) {
            let last = ci.min(first + CHUNK);
            for panel in starts.windows(2) {
                for tap in 0..taps {
                    for c in first..last {
                        values.extend((panel[0]..panel[1]).map(|o| if o < co { weights[(o * ci + c) * taps + tap] } else { 0.0 }));
                    }
                }
            }
        }
        let bias = (0..end).map(|o| bias.get(o).copied().unwrap_or(0.0)).collect();
        Panels { set, ci, co, kernel, starts, values, bias }
    }

    /// Channels of the input.
    pub fn ci(&self) -> usize {
        self.ci
    }

    /// Channels of the output.
    pub fn co(&self) -> usize {
        self.co
    }

    /// Rows and columns of the kernel.
    pub fn kernel(&self) -> usize {
        self.kernel
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
        let ci = self.ci;
        (0..ci).step_by(CHUNK).map(move |first| (first, CHUNK.min(ci - first)))
    }

    /// Distance between the pixels of a tile's input: the first stride of the tile product that holds a chunk.
    pub(crate) fn tile_stride(&self) -> usize {
        match self.ci {
            0..=16 => 16,
            17..=32 => 32,
            _ => CHUNK,
        }
    }

    /// The weights [ky][kx][channel][lane] of a panel for the chunk that starts at input channel `first`.
    pub(crate) fn block(&self, first: usize, length: usize, panel: usize) -> &[f32] {
        let taps = self.kernel * self.kernel;
        let all_lanes = self.bias.len();
        let (start, lanes) = self.lanes(panel);
        &self.values[taps * (first * all_lanes + length * start)..][..taps * length * lanes]
    }

    /// The bias of a panel's lanes.
    pub(crate) fn bias(&self, panel: usize) -> &[f32] {
        &self.bias[self.starts[panel]..self.starts[panel + 1]]
    }
}
