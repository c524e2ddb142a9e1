//! Tiles: a frame too large for the memory is shown to the network in overlapping squares.
//!
//! Each tile answers for its core alone. The cores divide the frame along multiples of 32, the network's coarsest grid, so that the
//! maps of a tile lie on those of the whole frame. Around its core a tile has enough overlap, or the frame's own border, for the
//! network to see there what it would see of the whole frame.

use crate::ops::heat_map::{self, Peak};

/// Network pixels around a core. DLA-34's convolutions reach about 450, and trained networks use it: with 256 a cut still
/// changed scores by some hundredths.
pub const OVERLAP: usize = 512;
const STEP: usize = 32;

/// A square of the frame, and the part of it that counts; network pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// First column and row of the square.
    pub start: [usize; 2],
    /// First columns and rows of the core.
    pub core: [usize; 2],
    /// First columns and rows behind the core.
    pub end: [usize; 2],
}

/// How a frame is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiles {
    frame: usize,
    side: usize,
    overlap: usize,
}

impl Tiles {
    /// Squares of at most `most` pixels a side (a multiple of 32), or of as many as two overlaps and a core need; none if
    /// the frame is no larger.
    pub fn new(frame: usize, most: usize, overlap: usize) -> Option<Tiles> {
        let most = most.max(2 * overlap + STEP);
        if frame <= most {
            return None;
        }
        // The first and the last of n squares have an overlap on one side, the others on both.
        let count = (frame - 2 * overlap).div_ceil(most - 2 * overlap);
        let side = ((frame - 2 * overlap).div_ceil(count) + 2 * overlap).next_multiple_of(STEP);
        Some(Tiles { frame, side, overlap })
    }

    /// Rows and columns of a square.
    pub fn side(&self) -> usize {
        self.side
    }

    /// All tiles, row after row.
    pub fn all(&self) -> Vec<Tile> {
        let spans = self.spans();
        let row = |y: &[usize; 3]| {
            let y = *y;
            spans.iter().map(move |x| Tile { start: [x[0], y[0]], core: [x[1], y[1]], end: [x[2], y[2]] }).collect::<Vec<_>>()
        };
        spans.iter().flat_map(row).collect()
    }

    /// Along one axis: where each square starts, its core, and where that ends.
    fn spans(&self) -> Vec<[usize; 3]> {
        let (mut spans, mut core) = (Vec::new(), 0);
        while core < self.frame {
            let start = core.saturating_sub(self.overlap).min(self.frame - self.side);
            let is_last = start + self.side == self.frame;
            let end = if is_last { self.frame } else { start + self.side - self.overlap };
            spans.push([start, core, end]);
            core = end;
        }
        spans
    }

    /// The pixels of a tile's square.
    pub fn cut(&self, image: &[f32], tile: &Tile) -> Vec<f32> {
        let [x, y] = tile.start;
        (y..y + self.side).flat_map(|row| image[row * self.frame + x..][..self.side].iter().copied()).collect()
    }

    /// Peaks of a tile's heat map that lie in its core, with their places in that of the whole frame.
    pub fn of_core(&self, peaks: Vec<Peak>, tile: &Tile) -> impl Iterator<Item = Peak> {
        let (width, width_whole) = ((self.side / heat_map::STRIDE) as u32, (self.frame / heat_map::STRIDE) as u32);
        let [start, core, end] = [tile.start, tile.core, tile.end].map(|place| place.map(|value| (value / heat_map::STRIDE) as u32));
        peaks.into_iter().filter_map(move |peak| {
            let [x, y] = [peak.index % width + start[0], peak.index / width + start[1]];
            let is_inside = (core[0]..end[0]).contains(&x) && (core[1]..end[1]).contains(&y);
            is_inside.then_some(Peak { index: y * width_whole + x, ..peak })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test that cannot go on may panic
    use super::*;

    #[test]
    fn cores_part_the_frame_and_keep_their_distance_from_cuts() {
        assert_eq!(Tiles::new(1024, 1024, 256), None);
        for (frame, most, overlap) in
            [(1056, 1024, 256), (4352, 4096, 256), (4096, 1024, 256), (160, 96, 32), (16_384, 32, 64), (768, 640, 256)]
        {
            let tiles = Tiles::new(frame, most, overlap).unwrap();
            assert!(tiles.side() <= most.max(2 * overlap + 32) && tiles.side().is_multiple_of(32), "{tiles:?}");
            let spans = tiles.spans();
            assert_eq!((spans[0][1], spans[spans.len() - 1][2]), (0, frame), "{spans:?}");
            assert!(spans.windows(2).all(|pair| pair[0][2] == pair[1][1]), "{spans:?}");
            for [start, core, end] in spans {
                let stop = start + tiles.side();
                assert!([start, core, end].iter().all(|place| place % 32 == 0) && core < end && stop <= frame);
                assert!(start == 0 || core - start >= overlap, "{start} {core}");
                assert!(stop == frame || stop - end >= overlap, "{end} {stop}");
            }
        }
    }

    #[test]
    fn a_peak_of_a_core_keeps_its_place() {
        let tiles = Tiles::new(160, 96, 32).unwrap();
        let image: Vec<f32> = (0..160 * 160).map(|i| i as f32).collect();
        let mut seen = vec![0; 40 * 40];
        for tile in tiles.all() {
            let cut = tiles.cut(&image, &tile);
            assert_eq!(cut[0], (tile.start[1] * 160 + tile.start[0]) as f32);
            let width = (tiles.side() / 4) as u32;
            let all = (0..width * width).map(|index| Peak {
                index,
                score: cut[(index / width * 4 * 4 * width + index % width * 4) as usize],
                offset: [0.0; 2],
                size: None,
            });
            for peak in tiles.of_core(all.collect(), &tile) {
                assert_eq!(peak.score, image[(peak.index / 40 * 4 * 160 + peak.index % 40 * 4) as usize]);
                seen[peak.index as usize] += 1;
            }
        }
        assert!(seen.iter().all(|&count| count == 1));
    }
}
