//! The device behind epicker's `Driver`. Its streams work within the call; a captured stream keeps its work for the graph.

use crate::device::{Argument, Device, Options, Prepared};
use crate::launch::shared_limits;
use anyhow::{Result, bail, ensure};
use epicker::device::gpu::Gpu;
use epicker::device::gpu::driver::{DeviceInfo, Driver, Event, Function, Graph, Module, RawArgument, Stream};
use epicker::device::gpu::images::{Capability, Choice, Images};
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;

/// Calls of the driver since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Memory asked for.
    pub allocations: u64,
    /// Launches outside of graphs.
    pub launches: u64,
    /// Launches of graphs.
    pub graph_launches: u64,
    /// Copies to the device.
    pub uploads: u64,
    /// Copies from the device.
    pub downloads: u64,
    /// Waits for a stream or an event.
    pub synchronisations: u64,
}

/// A GPU that executes PTX.
pub struct PtxGpu {
    device: Device,
    state: Mutex<State>,
    counts: [AtomicU64; 6],
}

#[derive(Default)]
struct State {
    pinned: HashMap<usize, Vec<u64>>,
    next_handle: u64,
    /// What was captured; while a capture is under way it is the last one.
    graphs: HashMap<u64, Vec<Work>>,
    capturing: Option<(Stream, u64)>,
    /// Who captures: other threads go on as before.
    capturer: Option<ThreadId>,
    events: HashMap<u64, Option<Instant>>,
}

/// What a stream does.
#[derive(Clone)]
enum Work {
    Launch(Box<Prepared>),
    Upload { to: u64, from: usize, bytes: usize },
    Download { to: usize, from: u64, bytes: usize },
    Copy { to: u64, from: u64, bytes: usize },
    SetBytes { to: u64, value: u8, bytes: usize },
}

impl fmt::Debug for PtxGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PtxGpu({:?})", self.device.options)
    }
}

impl Deref for PtxGpu {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.device
    }
}

/// (file, PTX that ends in NUL) of the program's kernels for an architecture; none where the build had no compiler, or was told
/// to make no such PTX.
///
/// Errors: the program's file is damaged.
pub fn images(arch: u32) -> Result<Option<Vec<(String, Vec<u8>)>>> {
    let images = Images::of_program()?;
    if !images.ptx_archs().contains(&arch) {
        return Ok(None);
    }
    images.load(Choice::Ptx(arch), Capability { major: arch / 10, minor: arch % 10 }).map(Some)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PtxGpu {
    /// A device with nothing in its memory.
    pub fn new(options: Options) -> Self {
        PtxGpu { device: Device::new(options), state: Mutex::default(), counts: Default::default() }
    }

    /// The device in use by epicker with the program's kernels, and the driver, to ask for what it counted.
    ///
    /// Errors: the program has no PTX for the architecture, or something in it is not known.
    pub fn gpu(options: Options) -> Result<(Gpu, Arc<PtxGpu>)> {
        let arch = options.arch;
        let Some(images) = images(arch)? else {
            bail!("this program has no PTX for compute_{arch}; it has {}", Images::of_program()?.describe())
        };
        PtxGpu::with(options, &images)
    }

    /// The same with other kernels: those of [`images`] after a test has changed their text.
    ///
    /// Errors: one is missing, or something in them is not known.
    pub fn with(options: Options, images: &[(String, Vec<u8>)]) -> Result<(Gpu, Arc<PtxGpu>)> {
        let driver = Arc::new(PtxGpu::new(options));
        let images: Vec<&[u8]> = images.iter().map(|(_, image)| &image[..]).collect();
        Ok((Gpu::new(driver.clone(), &images)?, driver))
    }

    /// Calls since the last time this was asked.
    pub fn take_calls(&self) -> Calls {
        let [allocations, launches, graph_launches, uploads, downloads, synchronisations] =
            self.counts.each_ref().map(|count| count.swap(0, Ordering::Relaxed));
        Calls { allocations, launches, graph_launches, uploads, downloads, synchronisations }
    }

    fn count(&self, which: usize) {
        self.counts[which].fetch_add(1, Ordering::Relaxed);
    }

    /// Does it, or captures it.
    fn put(&self, stream: Stream, work: Work) -> Result<()> {
        let mut state = locked(&self.state);
        if let Some((capturing, graph)) = state.capturing
            && capturing == stream
        {
            state.graphs.entry(graph).or_default().push(work);
            return Ok(());
        }
        drop(state);
        self.run(&work)
    }

    fn run(&self, work: &Work) -> Result<()> {
        match work {
            Work::Launch(prepared) => self.device.launch(prepared),
            // SAFETY: who put it into the stream vouched for the host's places until the work is done.
            Work::Upload { to, from, bytes } => unsafe { self.device.upload(*to, *from as *const u8, *bytes) },
            // SAFETY: as above.
            Work::Download { to, from, bytes } => unsafe { self.device.download(*to as *mut u8, *from, *bytes) },
            Work::Copy { to, from, bytes } => self.device.copy(*to, *from, *bytes),
            Work::SetBytes { to, value, bytes } => self.device.set_bytes(*to, *value, *bytes),
        }
    }
}

impl Driver for PtxGpu {
    fn info(&self) -> DeviceInfo {
        let options = &self.device.options;
        DeviceInfo {
            name: format!("executor of PTX for compute_{}", options.arch),
            capability: options.capability,
            memory: options.memory,
            multiprocessors: options.multiprocessors,
            block_threads: 1024,
            block_shared_bytes: shared_limits(options.capability)[0],
            ..DeviceInfo::default()
        }
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn memory_info(&self) -> Result<[u64; 2]> {
        let memory = self.device.options.memory;
        Ok([memory - self.memory_in_use(), memory])
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.count(0);
        let state = locked(&self.state);
        let captures = state.capturing.is_some() && state.capturer == Some(std::thread::current().id());
        ensure!(!captures, "memory is asked for while work is captured");
        self.device.allocate(bytes)
    }

    unsafe fn free(&self, address: u64) {
        self.device.free(address);
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8> {
        self.count(0);
        let mut block = vec![0u64; bytes.div_ceil(8)];
        let pointer: *mut u8 = block.as_mut_ptr().cast();
        locked(&self.state).pinned.insert(pointer as usize, block);
        Ok(pointer)
    }

    unsafe fn free_pinned(&self, pointer: *mut u8) {
        locked(&self.state).pinned.remove(&(pointer as usize));
    }

    unsafe fn upload(&self, to: u64, from: *const u8, bytes: usize, stream: Stream) -> Result<()> {
        self.count(3);
        self.put(stream, Work::Upload { to, from: from as usize, bytes })
    }

    unsafe fn download(&self, to: *mut u8, from: u64, bytes: usize, stream: Stream) -> Result<()> {
        self.count(4);
        self.put(stream, Work::Download { to: to as usize, from, bytes })
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, stream: Stream) -> Result<()> {
        self.put(stream, Work::Copy { to, from, bytes })
    }

    unsafe fn set_bytes(&self, to: u64, value: u8, bytes: usize, stream: Stream) -> Result<()> {
        self.put(stream, Work::SetBytes { to, value, bytes })
    }

    fn create_stream(&self) -> Result<Stream> {
        let mut state = locked(&self.state);
        state.next_handle += 1;
        Ok(Stream(state.next_handle))
    }

    fn destroy_stream(&self, _: Stream) {}

    fn synchronize(&self, stream: Stream) -> Result<()> {
        self.count(5);
        let capturing = locked(&self.state).capturing;
        ensure!(capturing.is_none_or(|(captured, _)| captured != stream), "a wait for a stream whose work is captured");
        Ok(())
    }

    fn create_event(&self) -> Result<Event> {
        let mut state = locked(&self.state);
        state.next_handle += 1;
        let handle = state.next_handle;
        state.events.insert(handle, None);
        Ok(Event(handle))
    }

    fn destroy_event(&self, event: Event) {
        locked(&self.state).events.remove(&event.0);
    }

    fn record(&self, event: Event, _: Stream) -> Result<()> {
        locked(&self.state).events.insert(event.0, Some(Instant::now()));
        Ok(())
    }

    fn wait(&self, _: Stream, _: Event) -> Result<()> {
        Ok(()) // everything is done when its call returns
    }

    fn synchronize_event(&self, _: Event) -> Result<()> {
        self.count(5);
        Ok(())
    }

    fn elapsed_ms(&self, from: Event, to: Event) -> Result<f32> {
        let state = locked(&self.state);
        let [Some(Some(from)), Some(Some(to))] = [from, to].map(|event| state.events.get(&event.0).copied()) else {
            bail!("an event that was never recorded");
        };
        Ok(to.duration_since(from).as_secs_f32() * 1e3)
    }

    fn load(&self, image: &[u8]) -> Result<Module> {
        Ok(Module(self.device.load(image)?))
    }

    fn unload(&self, module: Module) {
        self.device.unload(module.0);
    }

    fn function(&self, module: Module, name: &str) -> Result<Option<Function>> {
        Ok(self.device.function(module.0, name).map(Function))
    }

    unsafe fn launch(
        &self,
        function: Function,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        stream: Stream,
        arguments: &[RawArgument],
    ) -> Result<()> {
        self.count(1);
        let mut values = Vec::new();
        for argument in arguments {
            // SAFETY: the argument holds as many bytes.
            let value = unsafe { std::slice::from_raw_parts(argument.pointer.cast::<u8>(), argument.bytes) }.to_vec();
            values.push(Argument { value, is_address: argument.is_address });
        }
        let prepared = self.device.prepare(function.0, grid, threads, shared, &values)?;
        self.put(stream, Work::Launch(Box::new(prepared)))
    }

    fn begin_capture(&self, stream: Stream) -> Result<()> {
        let mut state = locked(&self.state);
        ensure!(state.capturing.is_none(), "a capture within a capture");
        state.next_handle += 1;
        let graph = state.next_handle;
        state.graphs.insert(graph, Vec::new());
        state.capturing = Some((stream, graph));
        state.capturer = Some(std::thread::current().id());
        Ok(())
    }

    fn end_capture(&self, stream: Stream) -> Result<Graph> {
        let mut state = locked(&self.state);
        match state.capturing.take() {
            Some((captured, graph)) if captured == stream => Ok(Graph(graph)),
            _ => bail!("the end of a capture that was not begun"),
        }
    }

    unsafe fn launch_graph(&self, graph: Graph, _: Stream) -> Result<()> {
        self.count(2);
        let Some(work) = locked(&self.state).graphs.get(&graph.0).cloned() else { bail!("a graph that is no more") };
        work.iter().try_for_each(|work| self.run(work))
    }

    fn destroy_graph(&self, graph: Graph) {
        locked(&self.state).graphs.remove(&graph.0);
    }
}
