//! One peak finder for each frame: the micrographs of a batch may need networks of different extents, and some frames are too large
//! to be shown to a network in one piece.

use super::peaks::{PeakFinder, PeakFinderOptions, Views};
use super::plan::Plan;
use super::tiles::{OVERLAP, Tiles};
use crate::net::model::Model;
use crate::ops::Compute;
use crate::ops::heat_map::{self, Peak};
use anyhow::Result;

/// At most this many peak finders are kept, because each has an arena of its own, and a batch rarely holds micrographs of more than
/// two sizes.
const MOST_KEPT: usize = 3;
/// The widest frame that is never cut: smaller tiles would consist of overlaps.
pub const ALWAYS_WHOLE: usize = 2048;
/// The widest frame that is not cut however large the memory is: indices into its maps stay far from 32 bits.
pub const MOST_WHOLE: usize = 4096;

/// The peak finders of one model. They are made when they are needed; to make room, the one that was used longest ago is dropped.
pub struct PeakFinders<'a> {
    compute: Compute,
    model: &'a Model,
    sizes: bool,
    k: usize,
    views: Views,
    most_whole: Option<usize>,
    /// By frame, the latest last.
    kept: Vec<(usize, FramePeakFinder)>,
}

impl<'a> PeakFinders<'a> {
    /// Peak finders of a model on a device. `sizes`: peaks get a size; `k`: most peaks of an image.
    pub fn new(compute: impl Into<Compute>, model: &'a Model, sizes: bool, k: usize) -> Self {
        PeakFinders { compute: compute.into(), model, sizes, k, views: Views::One, most_whole: None, kept: Vec::new() }
    }

    /// The same, cutting every frame that is wider than this into tiles, whatever the memory.
    pub fn cutting_above(self, most_whole: usize) -> Self {
        PeakFinders { most_whole: Some(most_whole), ..self }
    }

    /// The same with several views of each image, whose heat maps are averaged.
    pub fn averaging(self, views: Views) -> Self {
        PeakFinders { views, ..self }
    }

    /// The peak finder for a frame.
    ///
    /// Errors: as [`PeakFinder::new`].
    pub fn get(&mut self, frame: usize) -> Result<&mut FramePeakFinder> {
        let place = match self.kept.iter().position(|(of, _)| *of == frame) {
            Some(place) => place,
            None => {
                if self.kept.len() == MOST_KEPT {
                    self.kept.remove(0); // before the new one asks for memory
                }
                let tiles = Tiles::new(frame, self.most_whole(frame)?, OVERLAP);
                let side = tiles.as_ref().map_or(frame, Tiles::side);
                let options = PeakFinderOptions { frame: side, sizes: self.sizes, k: most_peaks(self.k, side), views: self.views };
                let finder = PeakFinder::new(&self.compute, self.model, options)?;
                self.kept.push((frame, FramePeakFinder { finder, tiles, k: most_peaks(self.k, frame) }));
                self.kept.len() - 1
            }
        };
        let latest = self.kept.remove(place);
        self.kept.push(latest);
        let last = self.kept.len() - 1;
        Ok(&mut self.kept[last].1)
    }

    /// The widest frame that needs no more than half of the memory that is free now.
    fn most_whole(&self, frame: usize) -> Result<usize> {
        if let Some(asked) = self.most_whole {
            return Ok(asked);
        }
        if frame <= ALWAYS_WHOLE {
            return Ok(frame);
        }
        let Some(available) = self.compute.device.available_memory() else { return Ok(MOST_WHOLE) };
        let graph = self.model.architecture().graph();
        let outputs = graph.outputs();
        let bytes = Plan::arena_bytes_for(&self.compute, &graph, ALWAYS_WHOLE, &[outputs.heat_map, outputs.up]);
        let share = available as f64 / 2.0 / bytes as f64;
        let side = (ALWAYS_WHOLE as f64 * share.sqrt()) as usize;
        Ok(((side / 32) * 32).clamp(ALWAYS_WHOLE, MOST_WHOLE))
    }
}

/// `k`, or as many as a heat map of this frame has pixels.
pub fn most_peaks(k: usize, frame: usize) -> usize {
    k.min((frame / heat_map::STRIDE).pow(2))
}

/// A peak finder for images of one frame, in one piece or in tiles.
pub struct FramePeakFinder {
    finder: PeakFinder,
    tiles: Option<Tiles>,
    k: usize,
}

impl FramePeakFinder {
    /// The peaks of one image, by score descending, then index ascending, whether it is cut or not.
    ///
    /// Shapes: `image` (frame, frame), row-major, normalised.
    /// Errors: a launch fails on the device.
    pub fn run(&mut self, image: &[f32]) -> Result<Vec<Peak>> {
        let Some(tiles) = &self.tiles else { return self.finder.run(image) };
        let mut peaks = Vec::new();
        for tile in tiles.all() {
            let cut = tiles.cut(image, &tile);
            // The black beside a micrograph has no peaks, so a tile without contrast is not shown to the network.
            if cut.iter().any(|value| *value != cut[0]) {
                // Any of the best k of the whole is among the best k of its tile.
                peaks.extend(tiles.of_core(self.finder.run(&cut)?, &tile));
            }
        }
        peaks.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.index.cmp(&b.index)));
        peaks.truncate(self.k);
        Ok(peaks)
    }

    /// The finder of the whole frame, if it is not cut.
    pub fn whole(&mut self) -> Option<&mut PeakFinder> {
        self.tiles.is_none().then_some(&mut self.finder)
    }

    /// How the frame is cut, if it is.
    pub fn tiles(&self) -> Option<&Tiles> {
        self.tiles.as_ref()
    }
}
