//! What the program computes on: memory, instruction sets, threads. The only place that knows the hardware.
//!
//! An op's host function has one `match device`; everything else in the program passes the device on.

pub mod cpu;
pub mod gpu;
pub mod tensor;

pub use tensor::{Tensor, TensorMut, TensorRef};

/// The device an op runs on.
#[derive(Debug)]
pub enum Device {
    /// All cores of this machine, through the threads of the surrounding pool.
    Cpu,
    /// An NVIDIA GPU.
    Gpu(gpu::Gpu),
}

impl Device {
    /// Name for the log, such as `CPU (avx512, 2 threads)`.
    pub fn describe(&self) -> String {
        match self {
            Device::Cpu => format!("CPU ({}, {} threads)", cpu::InstructionSet::detect().name(), rayon::current_num_threads()),
            Device::Gpu(gpu) => gpu.describe(),
        }
    }
}
