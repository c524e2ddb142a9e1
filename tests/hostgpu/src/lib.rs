//! A GPU made of the host's processor, for tests: the kernels of kernels/*.cu compiled by g++ and executed block by block
//! with real barriers, behind epicker's `Driver`. It checks what hardware would not forgive, and says what it found.
//!
//! Three builds of the kernels: fast in f32; fast with double for float, which proves indices, strides and launches; and
//! checked, where every access to memory is looked at. Launches are checked in all of them: the arguments' number, sizes
//! and addresses, the threads, and the limits of an architecture.
//!
//! Work is done inside the call that asks for it, unless `Options::order` is given: then streams are queues, and work waits
//! until somebody waits for it (streams.rs).

mod library;
mod memory;
mod streams;

use anyhow::{Result, bail, ensure};
use epicker::device::gpu::Gpu;
use epicker::device::gpu::driver::{DeviceInfo, Driver, Event, Failure, Function, Graph, Meaning, Module, RawArgument, Stream};
use library::{Job, Library, Parameter, Worker};
use memory::Space;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;
use streams::{Goal, Streams};

/// Which build of the kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Build {
    /// f32, nothing checked but launches.
    #[default]
    Fast,
    /// f64 where kernels say f32.
    F64,
    /// f32, every access checked.
    Checked,
    /// The kernels with planted faults (tests/hostgpu/faults), checked.
    Faults,
}

impl Build {
    fn file(self) -> &'static str {
        match self {
            Build::Fast => "fast_f32.so",
            Build::F64 => "fast_f64.so",
            Build::Checked => "checked_f32.so",
            Build::Faults => "faults.so",
        }
    }
}

/// What the device pretends to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which build of the kernels.
    pub build: Build,
    /// Compute capability.
    pub capability: [u32; 2],
    /// Bytes of memory; more is refused.
    pub memory: u64,
    /// Draws the order of threads and blocks; 0 is the natural one.
    pub seed: u64,
    /// Threads of the operating system; 0 for all cores.
    pub threads: usize,
    /// Multiprocessors that the device says it has; 0 for as many as the host has cores.
    pub multiprocessors: u32,
    /// True for the kernels, by their names, that do nothing: a planted fault.
    pub skips: fn(&str) -> bool,
    /// Draws the order in which the work of all streams is done, as late as it may be; none: at once.
    pub order: Option<u64>,
    /// The wait that is left out, counted from 0, of those for a stream or an event on the host or in a stream: a planted fault.
    pub left_out_wait: Option<u64>,
}

/// The sanitizer that the fast build of the kernels was compiled for (scripts/kernel-sanitizers.sh): address, thread, or none.
pub fn sanitizer() -> Option<&'static str> {
    option_env!("HOSTGPU_SANITIZER").filter(|name| !name.is_empty())
}

impl Default for Options {
    fn default() -> Self {
        // The thread sanitizer knows the executor's fibers, but not what starts and ends threads in Rust.
        let threads = if sanitizer() == Some("thread") { 1 } else { 0 };
        Options { build: Build::Fast, capability: [6, 0], memory: 64 << 30, seed: 0, threads, multiprocessors: 0, skips: |_| false, order: None, left_out_wait: None }
    }
}

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

/// The image that stands for the kernels: `Gpu::new` loads it.
pub const IMAGE: &[u8] = b"hostgpu";

/// A GPU made of the host's processor.
pub struct HostGpu {
    options: Options,
    library: Library,
    state: Mutex<State>,
    workers: Mutex<Vec<Worker>>,
    counts: [AtomicU64; 6],
    /// Launches so far, those of graphs included.
    launches: AtomicU32,
    /// Waits so far.
    waits: AtomicU64,
    /// Held by the thread that does the work of streams.
    working: Mutex<()>,
    /// A number that no other device has.
    number: u64,
}

thread_local! {
    /// The device that this thread works with, for a library that is called beside the driver.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

#[derive(Default)]
struct State {
    space: Space,
    pinned: BTreeMap<usize, Vec<u64>>,
    next_handle: u64,
    /// What was captured; while a capture is under way it is the last one.
    graphs: HashMap<u64, Vec<Work>>,
    capturing: Option<(Stream, u64)>,
    /// Who captures: other threads go on as before.
    capturer: Option<ThreadId>,
    /// When events happened, where work is done at once.
    events: HashMap<u64, Instant>,
    streams: Option<Streams<Work>>,
    /// What work of a stream has failed with. Nothing can be done on the device after that, as on CUDA's.
    failure: Option<String>,
}

/// What a stream does.
#[derive(Clone, Debug)]
enum Work {
    Launch { function: usize, grid: [u32; 3], arguments: Vec<Vec<u8>> },
    Upload { to: u64, from: usize, bytes: usize },
    /// Of bytes that were not pinned: they are those of the time when the copy was asked for.
    UploadOf { to: u64, bytes: Vec<u8> },
    Download { to: usize, from: u64, bytes: usize },
    Copy { to: u64, from: u64, bytes: usize },
    SetBytes { to: u64, value: u8, bytes: usize },
}

impl fmt::Debug for HostGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostGpu({:?})", self.options)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Errors: the device has failed.
fn refuse_failed(state: &State) -> Result<()> {
    match &state.failure {
        Some(failure) => Err(lost(format!("the device has failed before: {failure}"))),
        None => Ok(()),
    }
}

fn lost(words: String) -> anyhow::Error {
    Failure { meaning: Meaning::Lost, words }.into()
}

/// True for a place in pinned memory.
fn is_pinned(pinned: &BTreeMap<usize, Vec<u64>>, place: usize) -> bool {
    pinned.range(..=place).next_back().is_some_and(|(&first, block)| place < first + 8 * block.len())
}

impl HostGpu {
    /// A device with nothing in its memory.
    ///
    /// Errors: g++ was not there when the crate was built.
    pub fn new(options: Options) -> Result<Self> {
        let library = Library::open(options.build.file())?;
        let state = State { streams: options.order.map(Streams::new), ..State::default() };
        static DEVICES: AtomicU64 = AtomicU64::new(1);
        Ok(HostGpu {
            options,
            library,
            state: Mutex::new(state),
            workers: Mutex::default(),
            counts: Default::default(),
            launches: AtomicU32::new(0),
            waits: AtomicU64::new(0),
            working: Mutex::default(),
            number: DEVICES.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// The device in use by epicker, and the driver, to ask for what it was called.
    ///
    /// Errors: as `new`.
    pub fn gpu(options: Options) -> Result<(Gpu, Arc<HostGpu>)> {
        let host = Arc::new(HostGpu::new(options)?);
        Ok((Gpu::new(host.clone(), &[IMAGE])?, host))
    }

    /// Calls since the last time this was asked.
    pub fn take_calls(&self) -> Calls {
        let [allocations, launches, graph_launches, uploads, downloads, synchronisations] =
            self.counts.each_ref().map(|count| count.swap(0, Ordering::Relaxed));
        Calls { allocations, launches, graph_launches, uploads, downloads, synchronisations }
    }

    /// True if this thread works with this device, as a library of a GPU's maker needs it.
    pub fn is_current(&self) -> bool {
        CURRENT.get() == self.number
    }

    /// Lets the device fail for good.
    pub fn fail(&self, words: &str) {
        let mut state = locked(&self.state);
        state.failure = Some(words.to_string());
        state.streams.iter_mut().for_each(Streams::clear);
    }

    /// Bytes of memory in use.
    pub fn memory_in_use(&self) -> u64 {
        locked(&self.state).space.used()
    }

    /// Names of the kernels.
    pub fn kernel_names(&self) -> Vec<String> {
        self.library.kernels.iter().map(|kernel| kernel.name.clone()).collect()
    }

    fn count(&self, which: usize) {
        self.counts[which].fetch_add(1, Ordering::Relaxed);
    }

    /// Waits so far, by the host or by a stream: what `Options::left_out_wait` counts.
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Does it, or captures it, or puts it into the stream.
    fn put(&self, stream: Stream, work: Work) -> Result<()> {
        let mut state = locked(&self.state);
        refuse_failed(&state)?;
        if let Some((capturing, graph)) = state.capturing
            && capturing == stream
        {
            state.graphs.entry(graph).or_default().push(work);
            return Ok(());
        }
        if let Some(streams) = &mut state.streams {
            streams.work(stream.0, work);
            return Ok(());
        }
        drop(state);
        self.run(&work)
    }

    /// Does what has to be done before a goal is reached.
    fn reach(&self, goal: impl FnOnce(&Streams<Work>) -> Goal) -> Result<()> {
        let Some(goal) = locked(&self.state).streams.as_ref().map(goal) else { return Ok(()) };
        let _alone = locked(&self.working);
        loop {
            let mut state = locked(&self.state);
            refuse_failed(&state)?;
            let Some(streams) = &mut state.streams else { return Ok(()) };
            let Some(work) = streams.next(goal)? else { return Ok(()) };
            drop(state);
            if let Err(error) = self.run(&work) {
                let words = format!("{error:#}");
                self.fail(&words);
                return Err(lost(words));
            }
        }
    }

    /// Counts a wait, and says whether it is the one to leave out.
    fn leaves_out_wait(&self) -> bool {
        self.options.left_out_wait == Some(self.waits.fetch_add(1, Ordering::Relaxed))
    }

    /// Lets copies into host memory that is not pinned come to nothing: nobody has waited for them, so the memory may belong to
    /// somebody else by now.
    fn forget_copies(&self) {
        let mut state = locked(&self.state);
        let State { streams, pinned, .. } = &mut *state;
        for work in streams.iter_mut().flat_map(Streams::waiting) {
            if let Work::Download { to, bytes, .. } = work
                && !is_pinned(pinned, *to)
            {
                *bytes = 0;
            }
        }
    }

    fn run(&self, work: &Work) -> Result<()> {
        match work {
            Work::Launch { function, grid, arguments } => self.run_kernel(*function, *grid, arguments),
            // SAFETY: who put it into the stream vouched for the host's places until the work is done.
            Work::Upload { to, from, bytes } => unsafe { locked(&self.state).space.write(*to, *from as *const u8, *bytes) },
            // SAFETY: the bytes are the work's own.
            Work::UploadOf { to, bytes } => unsafe { locked(&self.state).space.write(*to, bytes.as_ptr(), bytes.len()) },
            // SAFETY: as above.
            Work::Download { to, from, bytes } => unsafe { locked(&self.state).space.read(*to as *mut u8, *from, *bytes) },
            Work::Copy { to, from, bytes } => locked(&self.state).space.copy(*to, *from, *bytes),
            Work::SetBytes { to, value, bytes } => locked(&self.state).space.set(*to, *value, *bytes),
        }
    }

    fn run_kernel(&self, function: usize, grid: [u32; 3], arguments: &[Vec<u8>]) -> Result<()> {
        let kernel = &self.library.kernels[function];
        if (self.options.skips)(&kernel.name) {
            return Ok(());
        }
        let mut parameters = Vec::new();
        {
            let mut state = locked(&self.state);
            for (i, argument) in arguments.iter().enumerate() {
                let mut parameter = Parameter::of(argument);
                if kernel.is_pointer[i] {
                    let address = u64::from_le_bytes(argument[..8].try_into()?);
                    if address != 0 {
                        let Some(place) = state.space.find(address) else {
                            bail!("argument {i} (`{}`): address {address:#x} lies in no memory of the device", kernel.names[i]);
                        };
                        parameter.place(place);
                    }
                }
                parameters.push(parameter);
            }
        }
        let launch = self.launches.fetch_add(1, Ordering::Relaxed);
        let job = Job::new(kernel.raw, &parameters, grid, self.shared_limit(), launch, self.options.seed);
        let blocks: u64 = grid.iter().map(|&extent| u64::from(extent)).product();
        let all = if self.options.threads > 0 { self.options.threads } else { std::thread::available_parallelism().map_or(1, usize::from) };
        // Small launches are done before a thread has started.
        let workers = if blocks * u64::from(kernel.threads) < 4096 { 1 } else { all.min(blocks as usize) };
        let taken: Vec<Worker> = {
            let mut free = locked(&self.workers);
            (0..workers).map(|_| free.pop().unwrap_or_else(|| self.library.worker())).collect()
        };
        if let [worker] = taken.as_slice() {
            worker.run(&self.library, &job);
        } else {
            std::thread::scope(|scope| {
                taken.iter().for_each(|worker| {
                    scope.spawn(|| worker.run(&self.library, &job));
                });
            });
        }
        locked(&self.workers).extend(taken);
        if let Some(mut report) = job.report() {
            for (i, name) in kernel.names.iter().enumerate() {
                report = report.replace(&format!("(${i})"), &format!("(`{name}`)"));
            }
            bail!("{report}");
        }
        Ok(())
    }

    /// True if the kernels look at every access to memory.
    fn is_checked(&self) -> bool {
        matches!(self.options.build, Build::Checked | Build::Faults)
    }

    fn shared_limit(&self) -> u32 {
        // What a kernel can declare, on every architecture from sm_50 to sm_120. In f64 the same arrays are twice as
        // large, and prove nothing about limits.
        if self.options.build == Build::F64 { 96 << 10 } else { 48 << 10 }
    }
}

impl Driver for HostGpu {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: format!("host executor ({:?})", self.options.build),
            capability: self.options.capability,
            memory: self.options.memory,
            multiprocessors: match self.options.multiprocessors {
                0 => std::thread::available_parallelism().map_or(1, usize::from) as u32,
                stated => stated,
            },
            block_threads: 1024,
            block_shared_bytes: self.shared_limit(),
            ..DeviceInfo::default()
        }
    }

    fn value_bytes(&self) -> usize {
        if self.options.build == Build::F64 { 8 } else { 4 }
    }

    fn is_slow(&self) -> bool {
        self.is_checked() || sanitizer().is_some()
    }

    fn bind(&self) -> Result<()> {
        CURRENT.set(self.number);
        Ok(())
    }

    fn memory_info(&self) -> Result<[u64; 2]> {
        Ok([self.options.memory - self.memory_in_use(), self.options.memory])
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.count(0);
        let mut state = locked(&self.state);
        let captures = state.capturing.is_some() && state.capturer == Some(std::thread::current().id());
        ensure!(!captures, "memory is asked for while work is captured");
        let free = self.options.memory - state.space.used();
        ensure!(bytes as u64 <= free, "out of memory: {bytes} bytes asked for, {free} of {} are free", self.options.memory);
        Ok(state.space.allocate(bytes, self.is_checked()))
    }

    unsafe fn free(&self, address: u64) {
        // Whoever waits next is told what has failed.
        let _ = self.reach(|_| Goal::All);
        locked(&self.state).space.free(address);
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8> {
        self.count(0);
        let mut block = vec![0u64; bytes.div_ceil(8)];
        let pointer: *mut u8 = block.as_mut_ptr().cast();
        locked(&self.state).pinned.insert(pointer as usize, block);
        Ok(pointer)
    }

    unsafe fn free_pinned(&self, pointer: *mut u8) {
        let mut state = locked(&self.state);
        let block = state.pinned.remove(&(pointer as usize));
        let end = pointer as usize + block.map_or(0, |block| 8 * block.len());
        let lies_there = |place: usize| (pointer as usize..end).contains(&place);
        let State { streams, failure, .. } = &mut *state;
        let touches = |work: &mut Work| match work {
            Work::Upload { from, .. } => lies_there(*from),
            Work::Download { to, .. } => lies_there(*to),
            _ => false,
        };
        if streams.iter_mut().flat_map(Streams::waiting).any(touches) {
            failure.get_or_insert_with(|| "pinned memory is given back while a copy that reaches it has not been waited for".to_string());
            streams.iter_mut().for_each(Streams::clear);
        }
    }

    unsafe fn upload(&self, to: u64, from: *const u8, bytes: usize, stream: Stream) -> Result<()> {
        self.count(3);
        if self.options.order.is_none() || is_pinned(&locked(&self.state).pinned, from as usize) {
            return self.put(stream, Work::Upload { to, from: from as usize, bytes });
        }
        // SAFETY: the caller vouches for as many bytes.
        let bytes = unsafe { std::slice::from_raw_parts(from, bytes) }.to_vec();
        self.put(stream, Work::UploadOf { to, bytes })
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

    fn destroy_stream(&self, stream: Stream) {
        // Whoever waits next is told what has failed.
        let _ = self.reach(|streams| streams.stream(stream.0));
    }

    fn synchronize(&self, stream: Stream) -> Result<()> {
        self.count(5);
        let capturing = locked(&self.state).capturing;
        ensure!(capturing.is_none_or(|(captured, _)| captured != stream), "a wait for a stream whose work is captured");
        if self.leaves_out_wait() {
            self.forget_copies();
            return Ok(());
        }
        self.reach(|streams| streams.stream(stream.0))
    }

    fn create_event(&self) -> Result<Event> {
        let mut state = locked(&self.state);
        state.next_handle += 1;
        Ok(Event(state.next_handle))
    }

    fn destroy_event(&self, _: Event) {} // a stream may still wait for it

    fn record(&self, event: Event, stream: Stream) -> Result<()> {
        let mut state = locked(&self.state);
        refuse_failed(&state)?;
        ensure!(state.capturing.is_none_or(|(captured, _)| captured != stream), "an event in a stream whose work is captured");
        match &mut state.streams {
            Some(streams) => streams.record(stream.0, event.0),
            None => drop(state.events.insert(event.0, Instant::now())),
        }
        Ok(())
    }

    fn wait(&self, stream: Stream, event: Event) -> Result<()> {
        if self.leaves_out_wait() {
            return Ok(());
        }
        let mut state = locked(&self.state);
        refuse_failed(&state)?;
        ensure!(state.capturing.is_none_or(|(captured, _)| captured != stream), "a wait in a stream whose work is captured");
        if let Some(streams) = &mut state.streams {
            streams.wait(stream.0, event.0);
        }
        Ok(())
    }

    fn synchronize_event(&self, event: Event) -> Result<()> {
        self.count(5);
        if self.leaves_out_wait() {
            self.forget_copies();
            return Ok(());
        }
        self.reach(|streams| streams.event(event.0))
    }

    fn elapsed_ms(&self, from: Event, to: Event) -> Result<f32> {
        let state = locked(&self.state);
        let happened = |event: Event| match &state.streams {
            Some(streams) => streams.happened(event.0),
            None => state.events.get(&event.0).copied(),
        };
        let [Some(from), Some(to)] = [from, to].map(happened) else {
            bail!("an event that was never recorded, or that nobody has waited for");
        };
        Ok(to.duration_since(from).as_secs_f32() * 1e3)
    }

    fn load(&self, image: &[u8]) -> Result<Module> {
        ensure!(image == IMAGE, "an image that is not for the host executor");
        Ok(Module(1))
    }

    fn unload(&self, _: Module) {}

    fn function(&self, _: Module, name: &str) -> Result<Option<Function>> {
        Ok(self.library.kernels.iter().position(|kernel| kernel.name == name).map(|i| Function(i as u64)))
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
        let kernel = &self.library.kernels[function.0 as usize];
        ensure!(threads <= 1024, "{threads} threads in a block; sm_{}{} takes 1024", self.options.capability[0], self.options.capability[1]);
        ensure!(threads == kernel.threads, "{threads} threads in a block; its KERNEL line says {}", kernel.threads);
        ensure!(shared <= self.shared_limit(), "{shared} bytes of shared memory; expected at most {}", self.shared_limit());
        ensure!(grid[0] < 1 << 31 && grid[1] < 1 << 16 && grid[2] < 1 << 16, "a grid of {grid:?} blocks; expected at most 2^31-1, 65535, 65535");
        ensure!(grid.iter().all(|&extent| extent > 0), "a grid of {grid:?} blocks");
        let expected = kernel.sizes.len();
        ensure!(arguments.len() == expected, "{} arguments; it has {expected} parameters", arguments.len());
        let mut values = Vec::new();
        for (i, argument) in arguments.iter().enumerate() {
            let (size, name, is_pointer) = (kernel.sizes[i], &kernel.names[i], kernel.is_pointer[i]);
            ensure!(argument.bytes == size, "argument {i} (`{name}`) has {} bytes; the parameter has {size}", argument.bytes);
            let word = |is_pointer: bool| if is_pointer { "an address" } else { "a number or struct" };
            ensure!(argument.is_address == is_pointer, "argument {i} (`{name}`) is {}; the parameter is {}", word(argument.is_address), word(is_pointer));
            // SAFETY: the argument holds as many bytes.
            values.push(unsafe { std::slice::from_raw_parts(argument.pointer.cast::<u8>(), argument.bytes) }.to_vec());
        }
        self.put(stream, Work::Launch { function: function.0 as usize, grid, arguments: values })
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

    unsafe fn launch_graph(&self, graph: Graph, stream: Stream) -> Result<()> {
        self.count(2);
        let Some(work) = locked(&self.state).graphs.get(&graph.0).cloned() else { bail!("a graph that is no more") };
        work.into_iter().try_for_each(|work| self.put(stream, work))
    }

    fn destroy_graph(&self, graph: Graph) {
        locked(&self.state).graphs.remove(&graph.0);
    }
}

/// A place in memory: the allocation's first byte, the offset in it, its length, a flag for each byte, and who touched each
/// four bytes (of the allocation).
#[derive(Clone, Copy)]
struct Found {
    data: *mut u8,
    offset: u64,
    bytes: u64,
    written: *mut u8,
    words: *mut [u64; 2],
}
