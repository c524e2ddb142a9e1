//! Launchers of the batch norm. Kernels: kernels/batch_norm.cu.

use super::{EPSILON, Forward, Gradients, Kept, MOMENTUM, Norm, RunningStatistics};
use crate::device::gpu::{Arg, Gpu, Grid};
use crate::device::{TensorMut, TensorRef};
use crate::kernel_struct;
use crate::ops::Real;
use crate::ops::launch::{doubles, doubles_len, lanes};
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

    /// The threads of a sum: each adds at least 16 values in f32 before it goes on in f64.
    fn for_sums(shape: [usize; 4], group: u32) -> Self {
        Self::new(shape, group, 16, MOST_SUMS)
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

    fn grid(&self) -> Grid {
        Grid([self.parts as u32, (self.c / self.group as usize).div_ceil(self.columns) as u32, 1])
    }
}

/// A flag as an argument of a kernel.
fn flag(set: bool) -> Arg {
    Arg::value(u32::from(set))
}

/// A grid of one block for each channel.
fn per_channel(c: usize) -> Grid {
    Grid([c as u32, 1, 1])
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

/// Values that training, forward or backward, needs to work with for maps of this shape: parts of two sums, and two means.
pub(super) fn scratch_len<T: Real>(shape: [usize; 4]) -> usize {
    let parts = [1, 4].map(|group| Spread::for_sums(shape, group).parts);
    2 * shape[3] + doubles_len::<T>(2 * shape[3] * parts[0].max(parts[1]))
}

pub(super) fn launch_train_forward<T: Real>(
    gpu: &Gpu,
    norm: Norm,
    read: Forward<T>,
    saved: &mut TensorMut<T>,
    out: &mut TensorMut<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let Forward { inp, gamma, beta, running: RunningStatistics { mut mean, mut variance }, again, residual } = read;
    let (shape, c) = (inp.shape(), inp.shape()[3]);
    if !again {
        let (mean, variance) = (mean.arg(), variance.arg());
        if norm.frozen {
            let args = [Arg::value(c as u32), Arg::value(EPSILON), mean, variance, saved.arg()];
            // SAFETY: the arguments of the KERNEL line, in its order; all lists are of these channels.
            unsafe { gpu.launch("batch_norm_keep", Grid::over(c, PARTS_THREADS)?, PARTS_THREADS, &args) }?;
        } else {
            let spread = Spread::for_sums(shape, lanes(c, &[inp]));
            let partial = doubles(scratch, 2 * c, 2 * c * spread.parts);
            let args = [spread.shape(), spread.group(), inp.arg(), inp.stride_arg(), partial];
            // SAFETY: as above; the parts of the sums fit into the scratch memory.
            unsafe { gpu.launch("batch_norm_sums", spread.grid(), THREADS, &args) }?;
            let (momentum, epsilon) = (Arg::value(MOMENTUM), Arg::value(EPSILON));
            let args = [spread.shape(), momentum, epsilon, inp.arg(), partial, mean, variance, saved.arg()];
            // SAFETY: as above.
            unsafe { gpu.launch("batch_norm_statistics", per_channel(c), PARTS_THREADS, &args) }?;
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
    unsafe { gpu.launch("batch_norm_train_forward", spread.grid(), THREADS, &args) }
}

pub(super) fn launch_backward<T: Real>(
    gpu: &Gpu,
    norm: Norm,
    Kept { inp, out, gamma, saved }: Kept<T>,
    dout: TensorRef<T>,
    Gradients { dinp, dresidual, dgamma, dbeta }: Gradients<T>,
    scratch: &mut TensorMut<T>,
) -> Result<()> {
    let (shape, c) = (inp.shape(), inp.shape()[3]);
    let maps = [inp.arg(), inp.stride_arg(), out.arg(), out.stride_arg(), dout.arg(), dout.stride_arg()];
    let spread = Spread::for_sums(shape, lanes(c, &[inp, out, dout]));
    let (means, partial) = (scratch.arg(), doubles(scratch, 2 * c, 2 * c * spread.parts));
    let args = [&[spread.shape(), spread.group(), flag(norm.relu)], &maps[..], &[saved.arg(), partial]].concat();
    // SAFETY: the arguments of the KERNEL line, in its order; all maps have this shape, and the parts fit into the scratch
    // memory behind the means.
    unsafe { gpu.launch("batch_norm_gradient_sums", spread.grid(), THREADS, &args) }?;
    let args = [spread.shape(), flag(norm.frozen), partial, dgamma.arg(), dbeta.arg(), means];
    // SAFETY: as above; all lists are of these channels.
    unsafe { gpu.launch("batch_norm_parameter_gradients", per_channel(c), PARTS_THREADS, &args) }?;

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
    unsafe { gpu.launch("batch_norm_backward", spread.grid(), THREADS, &args) }
}
