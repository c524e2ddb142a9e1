//! What the program computes on: memory, instruction sets, threads. The only place that knows the hardware.
//!
//! An op's host function has one `match device`; everything else in the program passes the device on.

pub mod cpu;
pub mod gpu;
pub mod team;
pub mod tensor;

pub use team::{Collective, Team};
pub use tensor::{Buffer, Tensor, TensorMut, TensorRef};

use anyhow::Result;
use bytemuck::Pod;
use std::sync::OnceLock;

/// Bytes of the second-level cache of a core, by which work is cut into pieces, where the system tells them: otherwise those of most
/// processors since 2017.
pub(crate) fn second_level_cache() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    let told = || {
        let text = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok()?.checked_mul(1024)
    };
    *BYTES.get_or_init(|| told().unwrap_or(512 * 1024))
}

/// The device an op runs on.
#[derive(Clone, Debug)]
pub enum Device {
    /// All cores of this machine, through the threads of the surrounding pool.
    Cpu,
    /// An NVIDIA GPU.
    Gpu(gpu::Gpu),
    /// This machine through the naive references of the ops, in f64: slow, and the truth that the others are held to.
    Reference,
}

impl Device {
    /// Name for the log, such as `CPU (avx512, 2 threads)`.
    pub fn describe(&self) -> String {
        match self {
            Device::Cpu => format!("CPU ({}, {} threads)", cpu::InstructionSet::detect().name(), rayon::current_num_threads()),
            Device::Gpu(gpu) => gpu.describe(),
            Device::Reference => "the naive references in f64".to_string(),
        }
    }

    /// The GPU. Panics if it is none: a programming error.
    pub(crate) fn gpu(&self) -> &gpu::Gpu {
        let Device::Gpu(gpu) = self else { panic!("work of a GPU on {}", self.describe()) };
        gpu
    }

    /// How many bytes of memory other programs leave, where the system tells it.
    pub fn available_memory(&self) -> Option<usize> {
        match self {
            Device::Cpu | Device::Reference => {
                let text = std::fs::read_to_string("/proc/meminfo").ok()?;
                let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
                line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
            }
            Device::Gpu(gpu) => gpu.driver().memory_info().ok().map(|[free, _]| free as usize),
        }
    }

    /// Bytes of a value of its ops: 4, or 8 for the references and on a GPU whose kernels were compiled to prove indices.
    pub fn value_bytes(&self) -> usize {
        match self {
            Device::Cpu => 4,
            Device::Gpu(gpu) => gpu.value_bytes(),
            Device::Reference => 8,
        }
    }

    /// True if comparisons leave out cases of this much work, which would take minutes on an executor that looks at every access.
    pub(crate) fn leaves_out(&self, multiply_adds: u64) -> bool {
        const MOST: u64 = 1 << 21;
        match self {
            Device::Cpu | Device::Reference => false,
            Device::Gpu(gpu) => gpu.driver().is_slow() && multiply_adds > MOST,
        }
    }

    /// All values of a view on this device, packed, in (n, h, w, c) order, after all work that was put into its stream.
    ///
    /// Errors: the copy, or work before it, fails.
    pub fn read<T: Pod>(&self, view: TensorRef<T>) -> Result<Vec<T>> {
        let gpu = match self {
            Device::Cpu | Device::Reference => return Ok(view.to_vec()),
            Device::Gpu(gpu) => gpu,
        };
        let layout = view.layout();
        // From the first channel of the first pixel to the last of the last one, with what lies between.
        let len = if view.is_empty() { 0 } else { (layout.pixels() - 1) * layout.pixel_stride + layout.shape[3] };
        let mut values = vec![T::zeroed(); len];
        // SAFETY: the view's values lie there, and `values` is not touched until the stream has been waited for.
        unsafe { gpu.driver().download(values.as_mut_ptr().cast(), view.pixel_ptr(0) as u64, len * size_of::<T>(), gpu.stream()) }?;
        gpu.synchronize()?;
        Ok(values.chunks(layout.pixel_stride.max(1)).flat_map(|pixel| &pixel[..layout.shape[3]]).copied().collect())
    }

    /// Copies values, given in (n, h, w, c) order, into a view that lies in one piece on this device. Panics if it has
    /// gaps: a programming error.
    ///
    /// Errors: the copy fails.
    pub fn write<T: Pod>(&self, view: &mut TensorMut<T>, values: &[T]) -> Result<()> {
        assert!(view.len() == values.len() && view.layout().buffer_len() == view.len(), "{} into {:?}", values.len(), view.layout());
        match self {
            Device::Cpu | Device::Reference => view.as_mut_slice().copy_from_slice(values),
            Device::Gpu(gpu) => {
                // SAFETY: the view holds as many values; a slice is not pinned, so it may change when the call returns.
                unsafe { gpu.driver().upload(view.pixel_ptr(0) as u64, values.as_ptr().cast(), size_of_val(values), gpu.stream()) }?
            }
        }
        Ok(())
    }

    /// Sets a view that lies in one piece to 0. Panics if it has gaps: a programming error.
    ///
    /// Errors: the device fails.
    pub fn clear<T: Pod>(&self, view: &mut TensorMut<T>) -> Result<()> {
        assert!(view.layout().buffer_len() == view.len(), "{:?} has gaps", view.layout());
        match self {
            Device::Cpu | Device::Reference => view.as_mut_slice().fill(T::zeroed()),
            // SAFETY: the view's values lie there.
            Device::Gpu(gpu) => unsafe { gpu.driver().set_bytes(view.pixel_ptr(0) as u64, 0, view.len() * size_of::<T>(), gpu.stream()) }?,
        }
        Ok(())
    }
}
