//! What launchers of several ops share: how many channels a thread takes, how scratch memory is given away, and the sum of
//! a map over its pixels.

use super::Real;
use crate::device::gpu::{Arg, Gpu, Grid};
use crate::device::{TensorMut, TensorRef};
use anyhow::{Result, ensure};

/// Flags of the kernels that convolve: what follows the sums, and with BACKWARD, that they are added to what is there. As in
/// kernels/conv.cu and kernels/deform_conv.cu.
pub(crate) const WITH_BIAS: u32 = 1;
pub(crate) const WITH_RESIDUAL: u32 = 2;
pub(crate) const WITH_RELU: u32 = 4;
pub(crate) const BACKWARD: u32 = 8;
/// The map that is written, and the residual, take four values at once.
pub(crate) const OUT_BY_FOUR: u32 = 16;

/// Threads of a block of the kernels that move or add values, as their KERNEL lines say.
pub(crate) const MOVERS: u32 = 256;

/// Channels that a thread of a kernel takes at once: 4 where their number and all maps (or lists) allow it, else 1.
pub(crate) fn lanes<T: Real>(channels: usize, maps: &[TensorRef<T>]) -> u32 {
    let allows = |map: &TensorRef<T>| {
        let strides = map.layout().pixels() == 1 || map.pixel_stride().is_multiple_of(4);
        strides && (map.pixel_ptr(0) as usize).is_multiple_of(4 * size_of::<T>())
    };
    if channels.is_multiple_of(4) && maps.iter().all(allows) { 4 } else { 1 }
}

/// Values of scratch memory that hold `count` f64, wherever the memory begins.
pub(crate) fn doubles_len<T: Real>(count: usize) -> usize {
    (8 * count).div_ceil(size_of::<T>()) + 8 / size_of::<T>() - 1
}

/// The address of `count` f64 in scratch memory, behind its first `skipped` values. Panics if it has no room for them: a
/// programming error.
pub(crate) fn doubles_at<T: Real>(scratch: &TensorMut<T>, skipped: usize, count: usize) -> u64 {
    assert!(scratch.len() >= skipped + doubles_len::<T>(count), "{} values of scratch memory, {skipped} and {count} f64", scratch.len());
    let first = scratch.pixel_ptr(0) as u64 + (skipped * size_of::<T>()) as u64;
    first.next_multiple_of(8)
}

/// An address of values as an argument of a kernel.
pub(crate) fn values_at<T>(address: u64) -> Arg {
    Arg::values_at(address, size_of::<T>())
}

/// Scratch memory that is given away piece by piece.
pub(crate) struct ScratchPieces {
    next: u64,
    end: u64,
    value_bytes: usize,
}

impl ScratchPieces {
    /// Pieces begin at multiples of this many values.
    const PIECE: usize = 64;

    /// All of `scratch`, of which nothing has been given away yet.
    pub(crate) fn of<T: Real>(scratch: &mut TensorMut<T>) -> Self {
        let next = scratch.pixel_ptr(0) as u64;
        ScratchPieces { next, end: next + (scratch.len() * size_of::<T>()) as u64, value_bytes: size_of::<T>() }
    }

    /// Values of memory that hold pieces of these lengths, wherever the memory begins.
    pub(crate) fn len(pieces: &[usize]) -> usize {
        Self::PIECE + pieces.iter().map(|len| len.next_multiple_of(Self::PIECE)).sum::<usize>()
    }

    /// The address of `len` values, a multiple of four of them. Panics if there are not as many: a programming error.
    ///
    /// Errors: the memory begins where four values cannot be written at once.
    pub(crate) fn take(&mut self, len: usize) -> Result<u64> {
        let bytes = self.value_bytes as u64;
        ensure!(self.next.is_multiple_of(bytes), "scratch memory at {:#x}; expected a multiple of {bytes} bytes", self.next);
        let address = self.next.next_multiple_of(4 * bytes);
        self.next = address + len as u64 * bytes;
        assert!(self.next <= self.end, "{} bytes of scratch memory too few", self.next - self.end.min(self.next));
        Ok(address)
    }
}

/// True if four neighbouring channels can be read or written at once.
pub(crate) fn by_four<T: Real>(map: TensorRef<T>) -> bool {
    map.pixel_stride().is_multiple_of(4) && (map.pixel_ptr(0) as usize).is_multiple_of(4 * size_of::<T>())
}

/// Errors: the kernels' indices do not hold a map's places, which are counted in `unit` values.
pub(crate) fn check_places<T: Real>(map: TensorRef<T>, unit: usize) -> Result<()> {
    let places = map.layout().buffer_len() / unit;
    ensure!(
        places < 1 << 31 && map.layout().pixels() < 1 << 31,
        "a map of {places} places; expected less than 2^31: use a smaller frame or batch"
    );
    Ok(())
}

/// How the sum over all pixels is cut into parts: by the shape alone.
pub(crate) struct PixelParts {
    count: usize,
    pixels: usize,
    channels: usize,
}

impl PixelParts {
    /// The parts of a map of this shape (n, h, w, c).
    pub(crate) fn of([n, h, w, channels]: [usize; 4]) -> Self {
        let pixels = n * h * w;
        let part = pixels.div_ceil((pixels / 1024).clamp(1, 256));
        PixelParts { count: pixels.div_ceil(part), pixels: part, channels }
    }

    /// Values of the sums of all parts.
    pub(crate) fn len(&self) -> usize {
        self.count * self.channels
    }

    /// Adds the sum over all pixels of `values` to each channel of `sums`, by way of the parts.
    pub(crate) fn add<T: Real>(&self, gpu: &Gpu, values: TensorRef<T>, parts: u64, sums: &mut TensorMut<T>) -> Result<()> {
        let [pixels, channels, part] = [values.layout().pixels(), self.channels, self.pixels].map(|x| Arg::value(x as u32));
        let grid = Grid([self.channels.div_ceil(32) as u32, self.count as u32, 1]);
        let args = [pixels, channels, part, values.arg(), values.stride_arg(), values_at::<T>(parts)];
        // SAFETY: the arguments of the KERNEL line, in its order; there is room for all parts.
        unsafe { gpu.launch("conv_bias_parts", grid, MOVERS, &args) }?;
        let args = [channels, Arg::value(self.count as u32), values_at::<T>(parts), sums.arg()];
        // SAFETY: as above; there is a sum for each channel.
        unsafe { gpu.launch("conv_add_bias", Grid::over(self.channels, MOVERS)?, MOVERS, &args) }
    }
}
