//! Launchers of the batch norm. Kernels: kernels/batch_norm.cu.

use super::{EPSILON, Forward, Gradients, Kept, MOMENTUM, Norm, RunningStatistics};
use crate::device::gpu::{Arg, Gpu, Grid};
use crate::device::{Device, Team, TensorMut, TensorRef};
use crate::kernel_struct;
use crate::ops::Real;
use crate::ops::launch::{doubles_at, doubles_len, lanes};
use anyhow::Result;

/// Threads of a block, and of a block that adds the parts of a sum, as the KERNEL lines say.
const THREADS: u32 = 256;
const PARTS_THREADS: u32 = 128;
/// Most groups of channels side by side in a block.
const MOST_COLUMNS: usize = 32;
/// Most parts of a sum, and most of a map that is only gone through.
const MOST_SUMS: usize = 256;
const MOST_PARTS: usize = 4096;

/// How the threads of a launch lie on a map: the kernels' shape struct, and the grid.
struct Spread {
    pixels: usize,
    c: usize,
    columns: usize,
    parts: usize,
    group: u32,
}

impl Spread {
    /// A block for `each` pixels of a thread, at most `most` blocks side by side.
    fn new([n, h, w, c]: [usize; 4], group: u32, each: usize, most: usize) -> Self {
        let (pixels, groups) = (n * h * w, c / group as usize);
        let columns = groups.next_power_of_two().min(MOST_COLUMNS);
        let rows = THREADS as usize / columns;
        Spread { pixels, c, columns, parts: pixels.div_ceil(rows * each).clamp(1, most), group }
    }

    /// The threads of the sum of an image: each adds at least 16 values in f32 before it goes on in f64.
    fn for_sums([_, h, w, c]: [usize; 4], group: u32) -> Self {
        Self::new([1, h, w, c], group, 16, MOST_SUMS)
    }

    fn for_map(shape: [usize; 4], group: u32) -> Self {
        Self::new(shape, group, 4, MOST_PARTS)
    }

    fn shape(&self) -> Arg {
        kernel_struct!(BatchNormShape { pixels: self.pixels, c: self.c, columns: self.columns, parts: self.parts })
    }

    fn group(&self) -> Arg {
        Arg::value(self.group)
    }

    fn grid(&self, images: usize) -> Grid {
        Grid([self.parts as u32, (self.c / self.group as usize).div_ceil(self.columns) as u32, images as u32])
    }
}

/// A flag as an argument of a kernel.
fn flag(set: bool) -> Arg {
    Arg::value(u32::from(set))
}

/// A grid of one block for each channel of each image.
fn per_channel(c: usize, images: usize) -> Grid {
    Grid([c as u32, images as u32, 1])
}

/// What lies in the scratch memory behind the two means: the parts of the two sums of this device's images, and both sums of all images
/// of the batch.
struct Sums {
    partial: Arg,
    /// The address of the sums of all images.
    found: u64,
}

impl Sums {
    fn len([n, _, _, c]: [usize; 4], parts: usize, places: usize) -> usize {
        2 * c * (n * parts + places)
    }

    fn of<T: Real>(scratch: &TensorMut<T>, shape: [usize; 4], parts: usize, places: usize) -> Self {
        let [n, _, _, c] = shape;
        let first = doubles_at(scratch, 2 * c, Self::len(shape, parts, places));
        Sums { partial: Arg::address(first), found: first + 8 * (2 * c * n * parts) as u64 }
    }

    /// The sums of this device's images, and those of all.
    fn found(&self, team: &Team, c: usize) -> [Arg; 2] {
        [team.own().start, 0].map(|image| Arg::address(self.found + 16 * (image * c) as u64))
    }

    /// Brings together the sums of all devices.
    fn gather(&self, gpu: &Gpu, team: &Team, c: usize) -> Result<()> {
        // SAFETY: there is a place of this many bytes for each image, and nothing else is done with them in the stream meanwhile.
        unsafe { team.gather(&Device::Gpu(gpu.clone()), self.found as *mut u8, 16 * c) }
    }
}

pub(super) fn launch_forward<T: Real>(
    gpu: &Gpu,
    inp: TensorRef<T>,
    scale: TensorRef<T>,
    shift: TensorRef<T>,
    relu: bool,
    out: &mut TensorMut<T>,
) -> Result<()> {
    let spread = Spread::for_map(inp.shape(), 1);
    let (inp_at, inp_stride, out_stride) = (inp.arg(), inp.stride_arg(), out.stride_arg());
    let args = [spread.shape(), flag(relu), inp_at, inp_stride, scale.arg(), shift.arg(), out.arg(), out_stride];
    // SAFETY: the arguments of the KERNEL line, in its order; both maps have this shape, and the lists its channels.
    unsafe { gpu.launch("batch_norm_forward", Grid::over(inp.len(), THREADS)?, THREADS, &args) }
}

/// Values that training, forward or backward, needs to work with for maps of this shape: two means, and parts of two sums.
pub(super) fn scratch_len<T: Real>(shape: [usize; 4], places: usize) -> usize {
    let parts = [1, 4].map(|group| Spread::for_sums(shape, group).parts);
    2 * shape[3] + doubles_len::<T>(Sums::len(shape, parts[0].max(parts[1]), places))
}

pub(super) fn launch_train_forward<T: Real>(
    gpu: &Gpu,
    norm: Norm,
    read: Forward<T>,
    saved: &mut TensorMut<T>,
    out: &mut TensorMut<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let Forward { team, inp, gamma, beta, running: RunningStatistics { mut mean, mut variance }, again, residual } = read;
    let (shape, c) = (inp.shape(), inp.shape()[3]);
    if !again {
        let (mean, variance) = (mean.arg(), variance.arg());
        if norm.frozen {
            let args = [Arg::value(c as u32), Arg::value(EPSILON), mean, variance, saved.arg()];
            // SAFETY: the arguments of the KERNEL line, in its order; all lists are of these channels.
            unsafe { gpu.launch("batch_norm_keep", Grid::over(c, PARTS_THREADS)?, PARTS_THREADS, &args) }?;
        } else {
            let (spread, own) = (Spread::for_sums(shape, lanes(c, &[inp])), team.own().len());
            let sums = Sums::of(scratch, shape, spread.parts, team.places());
            let [found, of_all] = sums.found(team, c);
            let args = [spread.shape(), spread.group(), inp.arg(), inp.stride_arg(), sums.partial];
            // SAFETY: as above; the parts of the sums fit into the scratch memory.
            unsafe { gpu.launch("batch_norm_sums", spread.grid(own), THREADS, &args) }?;
            let args = [spread.shape(), inp.arg(), inp.stride_arg(), sums.partial, found];
            // SAFETY: as above; there is a place for each image.
            unsafe { gpu.launch("batch_norm_image", per_channel(c, own), PARTS_THREADS, &args) }?;
            sums.gather(gpu, team, c)?;
            let (images, momentum, epsilon) = (Arg::value(team.images() as u32), Arg::value(MOMENTUM), Arg::value(EPSILON));
            let args = [spread.shape(), images, momentum, epsilon, of_all, mean, variance, saved.arg()];
            // SAFETY: as above.
            unsafe { gpu.launch("batch_norm_statistics", Grid::over(c, PARTS_THREADS)?, PARTS_THREADS, &args) }?;
        }
    }
    let spread = Spread::for_map(shape, lanes(c, &[inp, out.as_ref(), residual.unwrap_or(inp)]));
    let (residual_at, residual_stride) =
        residual.map_or((Arg::null(), Arg::value(0_u32)), |residual| (residual.arg(), residual.stride_arg()));
    let args = [
        spread.shape(),
        spread.group(),
        flag(norm.relu),
        inp.arg(),
        inp.stride_arg(),
        gamma.arg(),
        beta.arg(),
        saved.arg(),
        flag(residual.is_some()),
        residual_at,
        residual_stride,
        out.arg(),
        out.stride_arg(),
    ];
    // SAFETY: as above; all maps have this shape.
    unsafe { gpu.launch("batch_norm_train_forward", spread.grid(1), THREADS, &args) }
}

pub(super) fn launch_backward<T: Real>(
    gpu: &Gpu,
    norm: Norm,
    Kept { team, inp, out, gamma, saved }: Kept<T>,
    dout: TensorRef<T>,
    Gradients { dinp, dresidual, dgamma, dbeta }: Gradients<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let (shape, c) = (inp.shape(), inp.shape()[3]);
    let maps = [inp.arg(), inp.stride_arg(), out.arg(), out.stride_arg(), dout.arg(), dout.stride_arg()];
    let (spread, own) = (Spread::for_sums(shape, lanes(c, &[inp, out, dout])), team.own().len());
    let (means, sums) = (scratch.arg(), Sums::of(scratch, shape, spread.parts, team.places()));
    let [found, of_all] = sums.found(team, c);
    let args = [&[spread.shape(), spread.group(), flag(norm.relu)], &maps[..], &[saved.arg(), sums.partial]].concat();
    // SAFETY: the arguments of the KERNEL line, in its order; all maps have this shape, and the parts fit into the scratch
    // memory behind the means.
    unsafe { gpu.launch("batch_norm_gradient_sums", spread.grid(own), THREADS, &args) }?;
    // SAFETY: as above; there is a place for each image.
    unsafe { gpu.launch("batch_norm_image_gradients", per_channel(c, own), PARTS_THREADS, &[spread.shape(), sums.partial, found])? };
    sums.gather(gpu, team, c)?;
    let (images, adds) = (Arg::value(team.images() as u32), flag(team.is_first()));
    let args = [spread.shape(), images, flag(norm.frozen), adds, of_all, dgamma.arg(), dbeta.arg(), means];
    // SAFETY: as above; all lists are of these channels.
    unsafe { gpu.launch("batch_norm_parameter_gradients", Grid::over(c, PARTS_THREADS)?, PARTS_THREADS, &args) }?;

    let group = match &dresidual {
        Some(dresidual) => lanes(c, &[inp, out, dout, dinp.as_ref(), dresidual.as_ref()]),
        None => lanes(c, &[inp, out, dout, dinp.as_ref()]),
    };
    let (spread, has_residual) = (Spread::for_map(shape, group), dresidual.is_some());
    let (residual_at, residual_stride) =
        dresidual.map_or((Arg::null(), Arg::value(0_u32)), |dresidual| (dresidual.arg(), dresidual.stride_arg()));
    let lists = [gamma.arg(), saved.arg(), means, dinp.arg(), dinp.stride_arg(), flag(has_residual), residual_at, residual_stride];
    let args = [&[spread.shape(), spread.group(), flag(norm.relu)], &maps[..], &lists].concat();
    // SAFETY: as above.
    unsafe { gpu.launch("batch_norm_backward", spread.grid(1), THREADS, &args) }
}
