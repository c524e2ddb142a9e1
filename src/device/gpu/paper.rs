//! A GPU on paper: it computes nothing, has no memory, and takes note of every launch. What a plan would launch on a GPU that is
//! not here is found out by running the plan on such a device.

use super::Gpu;
use super::driver::{DeviceInfo, Driver, Event, Function, Graph, Module, RawArgument, Stream};
use anyhow::{Result, ensure};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A launch of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks in three dimensions.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// The bytes of each argument.
    pub arguments: Vec<Vec<u8>>,
}

impl Launch {
    /// All blocks.
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&extent| u64::from(extent)).product()
    }

    /// The i-th number of four bytes of an argument, as a shape struct has its fields; none if the argument is shorter.
    pub fn word(&self, argument: usize, i: usize) -> Option<u32> {
        let bytes = self.arguments.get(argument)?.get(4 * i..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    }
}

/// The device. What is read from it is zeros.
#[derive(Debug)]
pub struct Paper {
    info: DeviceInfo,
    /// Addresses and handles are never given out twice.
    next: AtomicU64,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    /// Kernels that were looked up; a function is a place in this list.
    kernels: Vec<String>,
    launches: Vec<Launch>,
    pinned: HashMap<usize, Vec<u64>>,
}

impl Paper {
    /// A device in use, and the paper, to ask for the launches.
    ///
    /// Errors: none; the type is that of other devices.
    pub fn gpu(info: DeviceInfo) -> Result<(Gpu, Arc<Paper>)> {
        let paper = Arc::new(Paper { info, next: AtomicU64::new(1 << 32), noted: Mutex::default() });
        Ok((Gpu::new(paper.clone(), &[b"paper"])?, paper))
    }

    /// The launches since the last look, those that were captured among them.
    pub fn take_launches(&self) -> Vec<Launch> {
        std::mem::take(&mut self.noted().launches)
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, bytes: usize) -> u64 {
        self.next.fetch_add((bytes as u64).next_multiple_of(256) + 256, Ordering::Relaxed)
    }
}

impl Driver for Paper {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn memory_info(&self) -> Result<[u64; 2]> {
        Ok([self.info.memory; 2])
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        Ok(self.handle(bytes))
    }

    unsafe fn free(&self, _: u64) {}

    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8> {
        let mut block = vec![0_u64; bytes.div_ceil(8)];
        let pointer: *mut u8 = block.as_mut_ptr().cast();
        self.noted().pinned.insert(pointer as usize, block);
        Ok(pointer)
    }

    unsafe fn free_pinned(&self, pointer: *mut u8) {
        self.noted().pinned.remove(&(pointer as usize));
    }

    unsafe fn upload(&self, _: u64, _: *const u8, _: usize, _: Stream) -> Result<()> {
        Ok(())
    }

    unsafe fn download(&self, to: *mut u8, _: u64, bytes: usize, _: Stream) -> Result<()> {
        if bytes > 0 {
            // SAFETY: the caller has as many bytes there.
            unsafe { to.write_bytes(0, bytes) };
        }
        Ok(())
    }

    unsafe fn copy(&self, _: u64, _: u64, _: usize, _: Stream) -> Result<()> {
        Ok(())
    }

    unsafe fn set_bytes(&self, _: u64, _: u8, _: usize, _: Stream) -> Result<()> {
        Ok(())
    }

    fn create_stream(&self) -> Result<Stream> {
        Ok(Stream(self.handle(0)))
    }

    fn destroy_stream(&self, _: Stream) {}

    fn synchronize(&self, _: Stream) -> Result<()> {
        Ok(())
    }

    fn create_event(&self) -> Result<Event> {
        Ok(Event(self.handle(0)))
    }

    fn destroy_event(&self, _: Event) {}

    fn record(&self, _: Event, _: Stream) -> Result<()> {
        Ok(())
    }

    fn wait(&self, _: Stream, _: Event) -> Result<()> {
        Ok(())
    }

    fn synchronize_event(&self, _: Event) -> Result<()> {
        Ok(())
    }

    fn elapsed_ms(&self, _: Event, _: Event) -> Result<f32> {
        Ok(0.0)
    }

    fn load(&self, _: &[u8]) -> Result<Module> {
        Ok(Module(self.handle(0)))
    }

    fn unload(&self, _: Module) {}

    fn function(&self, _: Module, name: &str) -> Result<Option<Function>> {
        let mut noted = self.noted();
        noted.kernels.push(name.to_owned());
        Ok(Some(Function(noted.kernels.len() as u64 - 1)))
    }

    unsafe fn launch(&self, function: Function, grid: [u32; 3], threads: u32, _: u32, _: Stream, arguments: &[RawArgument]) -> Result<()> {
        // SAFETY: an argument holds as many bytes as it says.
        let bytes = |argument: &RawArgument| unsafe { std::slice::from_raw_parts(argument.pointer.cast::<u8>(), argument.bytes) }.to_vec();
        let mut noted = self.noted();
        ensure!((function.0 as usize) < noted.kernels.len(), "a launch of a kernel that was never looked up");
        let kernel = noted.kernels[function.0 as usize].clone();
        noted.launches.push(Launch { kernel, grid, threads, arguments: arguments.iter().map(bytes).collect() });
        Ok(())
    }

    fn begin_capture(&self, _: Stream) -> Result<()> {
        Ok(())
    }

    fn end_capture(&self, _: Stream) -> Result<Graph> {
        Ok(Graph(self.handle(0)))
    }

    unsafe fn launch_graph(&self, _: Graph, _: Stream) -> Result<()> {
        Ok(())
    }

    fn destroy_graph(&self, _: Graph) {}
}
