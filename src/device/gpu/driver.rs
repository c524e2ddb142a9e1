//! What this program needs of a GPU's driver, and no more. There are two implementations: CUDA's driver, and the host
//! executor of the tests, which runs the same kernels on the processor. All host code of the GPU path is above this
//! trait, so it is tested on any machine.

use anyhow::Result;
use std::ffi::c_void;
use std::fmt::{self, Debug};

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub u64);
    )*};
}
handles! {
    /// A queue of work. The work that is put into one queue runs in order.
    Stream
    /// A moment in a stream.
    Event
    /// A loaded image of machine code.
    Module
    /// A kernel of a module.
    Function
    /// Work that was captured from a stream and is launched as a whole.
    Graph
}

/// What an error of a driver means to the program, where that is more than its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// There is no GPU here: no driver, or a driver without a device. That is no fault, because the CPU can do the work.
    Absent,
    /// An image holds nothing that this GPU and its driver take. Another form of the kernels may do.
    NoImage,
    /// The GPU has failed, and every later call of this process fails as well.
    Lost,
}

/// An error of a driver with a meaning.
#[derive(Debug)]
pub struct Failure {
    /// What it means.
    pub meaning: Meaning,
    /// What happened, and what to do.
    pub words: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Failure {}

/// True for an error that a driver gave with this meaning, whatever was said about it since.
pub fn means(error: &anyhow::Error, meaning: Meaning) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|failure| failure.meaning == meaning)
}

/// What a device is and can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name, such as `NVIDIA A100-SXM4-80GB`.
    pub name: String,
    /// The number that this GPU, or part of a GPU, has and no other: 32 hexadecimal digits, empty where there is none.
    pub uuid: String,
    /// Compute capability, major then minor.
    pub capability: [u32; 2],
    /// Bytes of memory.
    pub memory: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// The highest clock of the multiprocessors, in Hz; 0 where nobody says.
    pub clock: u64,
    /// Bytes a second that go to and from the memory at most; 0 where nobody says.
    pub memory_bandwidth: u64,
    /// Version of the driver's interface, such as 12090 for CUDA 12.9; 0 where there is none.
    pub driver_version: u32,
    /// What the system says of the driver's release; empty where it says nothing.
    pub driver_release: String,
    /// Most threads of a block.
    pub block_threads: u32,
    /// Most bytes of shared memory that a block may declare.
    pub block_shared_bytes: u32,
}

/// One argument of a launch: where it lies and how long it is.
#[derive(Clone, Copy, Debug)]
pub struct RawArgument {
    /// The value; read before the launch returns.
    pub pointer: *const c_void,
    /// Bytes of the value.
    pub bytes: usize,
    /// True for an address of device memory.
    pub is_address: bool,
}

/// A GPU through its driver. Addresses are device addresses, never read on the host.
///
/// Work on one stream runs in order; calls with a stream return before the work is done, and an error of that work may
/// come out of a later call, at the latest of `synchronize`. All calls may come from any thread.
pub trait Driver: Debug + Send + Sync {
    /// What the device is.
    fn info(&self) -> DeviceInfo;

    /// Bytes of a value of the kernels: 4; 8 where they are compiled with double for float, which proves indices.
    fn value_bytes(&self) -> usize {
        4
    }

    /// True for an executor that looks at every access: comparisons leave out their large cases.
    fn is_slow(&self) -> bool {
        false
    }

    /// Makes the device the one that the calling thread works with, for a library of the GPU's maker, which is called beside the
    /// driver. The driver's own calls need no preparation.
    fn bind(&self) -> Result<()> {
        Ok(())
    }

    /// Free and total bytes of memory.
    fn memory_info(&self) -> Result<[u64; 2]>;

    /// Memory with whatever it held before; the address is a multiple of 256. Errors: there is not as much.
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Gives memory back, after all work that uses it.
    ///
    /// # Safety
    /// `address` came from `allocate` and is not used any more.
    unsafe fn free(&self, address: u64);

    /// Host memory that copies reach directly.
    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8>;

    /// Gives pinned memory back.
    ///
    /// # Safety
    /// `pointer` came from `allocate_pinned` and is not used any more.
    unsafe fn free_pinned(&self, pointer: *mut u8);

    /// Copies to the device. Memory that is not pinned may be changed when the call returns; pinned memory when the work
    /// is done.
    ///
    /// # Safety
    /// `from` holds `bytes` bytes, and so does device memory at `to`.
    unsafe fn upload(&self, to: u64, from: *const u8, bytes: usize, stream: Stream) -> Result<()>;

    /// Copies from the device. Into memory that is not pinned the call may wait until the work is done.
    ///
    /// # Safety
    /// `to` holds `bytes` bytes until the stream was waited for, and so does device memory at `from`.
    unsafe fn download(&self, to: *mut u8, from: u64, bytes: usize, stream: Stream) -> Result<()>;

    /// Copies on the device.
    ///
    /// # Safety
    /// Both places hold `bytes` bytes and do not overlap.
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, stream: Stream) -> Result<()>;

    /// Sets `bytes` bytes of device memory to one value.
    ///
    /// # Safety
    /// Device memory at `to` holds `bytes` bytes.
    unsafe fn set_bytes(&self, to: u64, value: u8, bytes: usize, stream: Stream) -> Result<()>;

    /// A new stream.
    fn create_stream(&self) -> Result<Stream>;

    /// Waits for the work of a stream, and ends it.
    fn destroy_stream(&self, stream: Stream);

    /// Waits until the work of a stream is done. Errors: some of it failed.
    fn synchronize(&self, stream: Stream) -> Result<()>;

    /// A new event, which measures time.
    fn create_event(&self) -> Result<Event>;

    /// Ends an event.
    fn destroy_event(&self, event: Event);

    /// Puts an event into a stream.
    fn record(&self, event: Event, stream: Stream) -> Result<()>;

    /// What is put into `stream` from now on starts after `event`.
    fn wait(&self, stream: Stream, event: Event) -> Result<()>;

    /// Waits on the host until an event has happened.
    fn synchronize_event(&self, event: Event) -> Result<()>;

    /// Milliseconds between two events that have happened.
    fn elapsed_ms(&self, from: Event, to: Event) -> Result<f32>;

    /// Loads an image: machine code, or PTX that ends in NUL. Errors: it is not for this device or driver.
    fn load(&self, image: &[u8]) -> Result<Module>;

    /// Ends a module.
    fn unload(&self, module: Module);

    /// A kernel of a module; none if it holds none of that name.
    fn function(&self, module: Module, name: &str) -> Result<Option<Function>>;

    /// Launches a kernel in blocks of `threads` threads, with `shared` bytes of shared memory beside what it declares.
    ///
    /// # Safety
    /// The arguments are those of the kernel, in its order, and what they point to is as large as the kernel needs.
    unsafe fn launch(
        &self,
        function: Function,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        stream: Stream,
        arguments: &[RawArgument],
    ) -> Result<()>;

    /// From now on what is put into the stream is captured instead of run.
    fn begin_capture(&self, stream: Stream) -> Result<()>;

    /// Ends the capture.
    fn end_capture(&self, stream: Stream) -> Result<Graph>;

    /// Runs what was captured, with the arguments of then.
    ///
    /// # Safety
    /// The memory that the captured work uses is still there.
    unsafe fn launch_graph(&self, graph: Graph, stream: Stream) -> Result<()>;

    /// Ends a graph.
    fn destroy_graph(&self, graph: Graph);
}
