//! Pickers by frame: micrographs of one batch may need networks of different extents.

use super::model::Model;
use super::picker::{Picker, PickerOptions};
use crate::device::Device;
use anyhow::Result;

/// So many pickers are kept at most: batches rarely hold micrographs of more than two sizes, and each has an arena of its own.
const MOST_KEPT: usize = 3;

/// Pickers of one model, made as they are needed; what was used longest ago goes first.
pub struct Pickers<'a> {
    device: Device,
    model: &'a Model,
    sizes: bool,
    k: usize,
    /// By frame, the latest last.
    kept: Vec<(usize, Picker)>,
}

impl<'a> Pickers<'a> {
    /// Pickers of a model on a device. `sizes`: peaks get a size; `k`: most peaks of an image.
    pub fn new(device: &Device, model: &'a Model, sizes: bool, k: usize) -> Self {
        Pickers { device: device.clone(), model, sizes, k, kept: Vec::new() }
    }

    /// The picker for a frame.
    ///
    /// Errors: as [`Picker::new`].
    pub fn get(&mut self, frame: usize) -> Result<&mut Picker> {
        let place = match self.kept.iter().position(|(of, _)| *of == frame) {
            Some(place) => place,
            None => {
                if self.kept.len() == MOST_KEPT {
                    self.kept.remove(0); // before the new one asks for memory
                }
                let k = most_peaks(self.k, frame);
                let picker = Picker::new(&self.device, self.model, PickerOptions { frame, sizes: self.sizes, k })?;
                self.kept.push((frame, picker));
                self.kept.len() - 1
            }
        };
        let latest = self.kept.remove(place);
        self.kept.push(latest);
        let last = self.kept.len() - 1;
        Ok(&mut self.kept[last].1)
    }
}

/// `k`, or as many as a heat map of this frame has pixels.
pub fn most_peaks(k: usize, frame: usize) -> usize {
    k.min((frame / 4).pow(2))
}
