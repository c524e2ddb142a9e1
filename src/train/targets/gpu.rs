//! Targets drawn on a GPU, where the losses read them. Kernels: kernels/targets.cu.

use super::{CornersH, Object, Targets};
use crate::device::gpu::{Arg, Gpu, Grid, Memory};
use crate::device::{Buffer, Device, TensorRef, tensor::Layout};
use crate::ops::Real;
use crate::ops::losses::Labels;
use anyhow::{Result, ensure};

/// Threads of a block, as the KERNEL lines say, and the side of the tiles that are drawn by one.
const THREADS: u32 = 256;
const TILE: usize = 16;
/// The cell of a label that is no object.
const NO_OBJECT: u32 = u32::MAX;

/// The targets of a batch on a GPU. Frame H.
#[derive(Debug)]
pub struct DeviceTargets<T: Real = f32> {
    shape: [usize; 3],
    heat_map: Buffer<T>,
    images: Vec<u32>,
    /// Of each label: its cell, counted through all images; offset and size of its object; the Gaussian around it.
    cells: Memory,
    wanted: Memory,
    discs: Memory,
}

impl<T: Real> DeviceTargets<T> {
    /// Draws the labels of `n` images, each with the image that it is of, into heat maps of (n, h, w). `clip` as in
    /// `Targets::add`.
    ///
    /// Errors: a label is of an image that there is not, the device has not as much memory, or a launch fails.
    pub fn draw(gpu: &Gpu, [n, h, w]: [usize; 3], labels: &[(usize, CornersH)], clip: bool) -> Result<Self> {
        if let Some((image, _)) = labels.iter().find(|(image, _)| *image >= n) {
            anyhow::bail!("a label of image {image}; expected {n} images");
        }
        ensure!(n * h * w < 1 << 31 && labels.len() < 1 << 31, "{n} x {h} x {w} cells, {} labels; expected less than 2^31", labels.len());
        let count = labels.len();
        let list = |bytes: usize| Memory::new(gpu, bytes * count);
        let (mut images, mut corners) = (list(4)?, list(16)?);
        let (of_images, of_corners): (Vec<u32>, Vec<CornersH>) = labels.iter().map(|&(image, corners)| (image as u32, corners)).unzip();
        images.upload(gpu, 0, bytemuck::cast_slice(&of_images))?;
        corners.upload(gpu, 0, bytemuck::cast_slice(&of_corners))?;
        let mut targets = DeviceTargets {
            shape: [n, h, w],
            heat_map: Buffer::unset(&Device::Gpu(gpu.clone()), n * h * w)?,
            images: of_images,
            cells: list(4)?,
            wanted: list(16)?,
            discs: list(12)?,
        };
        let shape = Arg::value([n, h, w, count, usize::from(clip)].map(|extent| extent as u32));
        let [images, corners, cells, wanted, discs] =
            [&images, &corners, &targets.cells, &targets.wanted, &targets.discs].map(|memory| Arg::address(memory.address()));
        let args = [shape, images, corners, cells, wanted, discs];
        // SAFETY: the arguments of the KERNEL line, in its order; the lists have a place for each label.
        unsafe { gpu.launch("targets_objects", Grid::over(count, THREADS)?, THREADS, &args) }?;
        let grid = Grid([w.div_ceil(TILE) as u32, h.div_ceil(TILE) as u32, n as u32]);
        // SAFETY: as above; the map has n images of h x w.
        unsafe { gpu.launch("targets_draw", grid, THREADS, &[shape, images, cells, discs, targets.heat_map.view_mut().arg()]) }?;
        // The lists that only the drawing reads are given back after it.
        gpu.synchronize()?;
        Ok(targets)
    }

    /// The heat map, (n, h, w, 1).
    pub fn heat_map(&self) -> TensorRef<'_, T> {
        let [n, h, w] = self.shape;
        self.heat_map.at(0, Layout::packed([n, h, w, 1]))
    }

    /// The objects, for `losses::l1_of_labels`.
    pub fn labels(&self) -> Labels {
        Labels { count: self.images.len(), cells: Arg::address(self.cells.address()), wanted: Arg::address(self.wanted.address()) }
    }

    /// The same targets on the host.
    ///
    /// Errors: the copy, or work before it, fails.
    pub fn to_host(&self, gpu: &Gpu) -> Result<Targets> {
        let [_, h, w] = self.shape;
        let (mut cells, mut wanted) = (vec![0_u32; self.images.len()], vec![[0.0_f32; 4]; self.images.len()]);
        self.cells.download(gpu, 0, bytemuck::cast_slice_mut(&mut cells))?;
        self.wanted.download(gpu, 0, bytemuck::cast_slice_mut(&mut wanted))?;
        let heat_map = self.heat_map.read(0..self.heat_map.len())?.into_iter().map(|x| x.to_f64() as f32).collect();
        let objects = cells.iter().zip(&wanted).filter(|(cell, _)| **cell != NO_OBJECT);
        let objects = objects.map(|(&cell, &[x, y, width, height])| {
            let cell = cell as usize;
            Object { image: cell / (h * w), index: cell % (h * w), offset: [x, y], size: [width, height] }
        });
        Ok(Targets { heat_map, objects: objects.collect() })
    }
}
