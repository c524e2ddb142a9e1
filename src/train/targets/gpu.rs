//! Targets drawn on a GPU, where the losses read them. Kernels: kernels/targets.cu.

use super::{CornersH, Labels, Object, Targets};
use crate::device::gpu::{Gpu, Grid, GrowingMemory};
use crate::device::{Buffer, Device, TensorRef, tensor::Layout};
use crate::kernel_struct;
use crate::ops::Real;
use crate::ops::losses;
use anyhow::{Result, ensure};

/// Threads of a block, as the KERNEL lines say, and the side of the tile that a block draws.
const THREADS: u32 = 256;
const TILE: usize = 16;
/// The cell of a label that is no object.
const NO_OBJECT: u32 = u32::MAX;

/// The targets of a batch on a GPU. Frame H. Their memory is used again for each batch, and grows if a batch needs more.
#[derive(Debug)]
pub struct DeviceTargets<T: Real = f32> {
    shape: [usize; 3],
    count: usize,
    heat_map: Buffer<T>,
    images: GrowingMemory,
    corners: GrowingMemory,
    /// These three have an entry for each label: its cell, counted through all images; the offset and size of its object; and
    /// the Gaussian around it.
    cells: GrowingMemory,
    wanted: GrowingMemory,
    discs: GrowingMemory,
}

impl<T: Real> DeviceTargets<T> {
    /// The targets of no image.
    ///
    /// Errors: the device fails.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        let room = || GrowingMemory::default();
        let heat_map = Buffer::zeros(&Device::Gpu(gpu.clone()), 0)?;
        Ok(DeviceTargets {
            shape: [0; 3],
            count: 0,
            heat_map,
            images: room(),
            corners: room(),
            cells: room(),
            wanted: room(),
            discs: room(),
        })
    }

    /// Draws the labels of `n` images into heat maps of (n, h, w), without waiting.
    ///
    /// Errors: a label is of an image that there is not, the device has not as much memory, or a launch fails.
    pub fn draw(&mut self, gpu: &Gpu, [n, h, w]: [usize; 3], labels: &Labels) -> Result<()> {
        let Labels { boxes, clip } = labels;
        if let Some((image, _)) = boxes.iter().find(|(image, _)| *image >= n) {
            anyhow::bail!("a label of image {image}; expected {n} images");
        }
        ensure!(n * h * w < 1 << 31 && boxes.len() < 1 << 31, "{n} x {h} x {w} cells, {} labels; expected less than 2^31", boxes.len());
        (self.shape, self.count) = ([n, h, w], boxes.len());
        let (images, corners): (Vec<u32>, Vec<CornersH>) = boxes.iter().map(|&(image, corners)| (image as u32, corners)).unzip();
        self.images.of(gpu, 4 * self.count)?.upload(gpu, 0, bytemuck::cast_slice(&images))?;
        self.corners.of(gpu, 16 * self.count)?.upload(gpu, 0, bytemuck::cast_slice(&corners))?;
        for (room, bytes) in [(&mut self.cells, 4), (&mut self.wanted, 16), (&mut self.discs, 12)] {
            room.of(gpu, bytes * self.count)?;
        }
        if self.heat_map.len() < n * h * w {
            self.heat_map = Buffer::unset(&Device::Gpu(gpu.clone()), n * h * w)?;
        }
        let shape = kernel_struct!(TargetsShape { n, h, w, labels: self.count, clip: *clip });
        let [images, corners, cells, wanted, discs] =
            [&self.images, &self.corners, &self.cells, &self.wanted, &self.discs].map(|room| room.arg());
        let args = [shape, images, corners, cells, wanted, discs];
        // SAFETY: the arguments of the KERNEL line, in its order; the lists have a place for each label.
        unsafe { gpu.launch("targets_objects", Grid::over(self.count, THREADS)?, THREADS, &args) }?;
        let grid = Grid([w.div_ceil(TILE) as u32, h.div_ceil(TILE) as u32, n as u32]);
        // SAFETY: as above; the map has n images of h x w.
        unsafe { gpu.launch("targets_draw", grid, THREADS, &[shape, images, cells, discs, self.heat_map.view_mut().arg()]) }
    }

    /// The heat map, (n, h, w, 1).
    pub fn heat_map(&self) -> TensorRef<'_, T> {
        let [n, h, w] = self.shape;
        self.heat_map.at(0, Layout::packed([n, h, w, 1]))
    }

    /// The objects, for `LossValues::l1_of_labels`.
    pub fn labels(&self) -> losses::Labels {
        losses::Labels { count: self.count, cells: self.cells.arg(), wanted: self.wanted.arg() }
    }

    /// The same targets on the host.
    ///
    /// Errors: the copy, or work before it, fails.
    pub fn to_host(&self, gpu: &Gpu) -> Result<Targets> {
        let [n, h, w] = self.shape;
        let (mut cells, mut wanted) = (vec![0_u32; self.count], vec![[0.0_f32; 4]; self.count]);
        for (room, to) in [(&self.cells, bytemuck::cast_slice_mut(&mut cells)), (&self.wanted, bytemuck::cast_slice_mut(&mut wanted))] {
            if let Some(memory) = room.memory() {
                memory.download(gpu, 0, to)?;
            }
        }
        let heat_map = self.heat_map.read(0..n * h * w)?.into_iter().map(|x| x.to_f64() as f32).collect();
        let objects = cells.iter().zip(&wanted).filter(|(cell, _)| **cell != NO_OBJECT);
        let objects = objects.map(|(&cell, &[x, y, width, height])| {
            let cell = cell as usize;
            Object { image: cell / (h * w), index: cell % (h * w), offset: [x, y], size: [width, height] }
        });
        Ok(Targets { heat_map, objects: objects.collect(), labels: None })
    }
}
