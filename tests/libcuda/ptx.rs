//! A libcuda.so.1 whose GPU executes PTX (tests/ptx): with it the program as it is shipped runs on a machine without a GPU, the calls
//! of the driver included. scripts/gpu-check.sh is tried with it before anybody carries it to a GPU:
//!
//! ```sh
//! cargo build --example cuda_ptx
//! ln -sf "$PWD/target/debug/examples/libcuda_ptx.so" "$FOLDER/libcuda.so.1"
//! LD_LIBRARY_PATH=$FOLDER epicker doctor --gpus 0
//! ```
//!
//! It refuses machine code, so the program falls back to its PTX for compute_80. `PTX_CHECKS=1` lets it look at every access, which takes
//! three times as long. `PTX_GPUS=4` makes four of it. What is wrong is told on standard error, and the GPU is lost after it.
//!
//! Source: NVIDIA, CUDA Driver API reference.

#![allow(non_snake_case, reason = "the driver's names")]
#![allow(clippy::missing_safety_doc, reason = "the driver's reference says what each call needs")]

use epicker::device::gpu::driver::{Driver, Event, Function, Graph, Module, RawArgument, Stream};
use ptxgpu::{Options, PtxGpu};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

const INVALID_VALUE: c_int = 1;
const OUT_OF_MEMORY: c_int = 2;
const NO_BINARY_FOR_GPU: c_int = 209;
const INVALID_PTX: c_int = 218;
const NOT_FOUND: c_int = 500;
const ILLEGAL_ADDRESS: c_int = 700;

/// The handle of a GPU's context is this and the GPU's number.
const CONTEXT: usize = 0x1000;

/// A GPU of this library.
struct Fake {
    gpu: PtxGpu,
    /// True once something went wrong: nothing works after that.
    is_lost: AtomicBool,
    /// Launches that are left until it fails.
    launches: Option<AtomicI64>,
}

/// As many as `PTX_GPUS` says, one without it. `PTX_FAILS=1:200` lets GPU 1 fail at its two-hundredth launch.
static GPUS: LazyLock<Vec<Fake>> = LazyLock::new(|| {
    let said = |name: &str| std::env::var(name).unwrap_or_default();
    let fails: Option<(usize, i64)> =
        said("PTX_FAILS").split_once(':').and_then(|(gpu, launches)| Some((gpu.parse().ok()?, launches.parse().ok()?)));
    let options = || Options { checks: said("PTX_CHECKS") == "1", counts: false, memory: 16 << 30, ..Options::default() };
    let fake = |i| Fake {
        gpu: PtxGpu::new(options()),
        is_lost: AtomicBool::new(false),
        launches: fails.filter(|(gpu, _)| *gpu == i).map(|(_, launches)| AtomicI64::new(launches)),
    };
    (0..said("PTX_GPUS").parse().unwrap_or(1)).map(fake).collect()
});

thread_local! {
    /// The GPU whose context this thread has made current.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

fn now() -> &'static Fake {
    &GPUS[CURRENT.get()]
}

/// The driver's number for what came of a call: `fault` if it failed, and then the GPU is lost unless the fault is one of a request.
fn answer<T>(result: anyhow::Result<T>, fault: c_int, take: impl FnOnce(T)) -> c_int {
    match result {
        _ if now().is_lost.load(Ordering::Relaxed) => ILLEGAL_ADDRESS,
        Ok(value) => {
            take(value);
            0
        }
        Err(error) => {
            eprintln!("GPU that executes PTX: {error:#}");
            if fault == ILLEGAL_ADDRESS {
                now().is_lost.store(true, Ordering::Relaxed);
            }
            fault
        }
    }
}

fn handle(number: u64) -> *mut c_void {
    number as usize as *mut c_void
}

fn number(handle: *mut c_void) -> u64 {
    handle as usize as u64
}

/// The driver's calls: each writes what it gives to where the caller says, and returns a number.
macro_rules! calls {
    ($($name:ident($($argument:ident: $type:ty),*) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
            // SAFETY: the caller passes what the driver's reference asks for.
            #[allow(unused_unsafe, reason = "some calls need none")]
            unsafe { $body }
        }
    )*};
}

calls! {
    cuDriverGetVersion(version: *mut c_int) { *version = 12_040; 0 }
    cuInit(_flags: c_uint) { 0 }
    cuGetErrorName(_error: c_int, name: *mut *const c_char) { *name = c"CUDA_ERROR_OF_TESTS".as_ptr(); 0 }
    cuGetErrorString(_error: c_int, words: *mut *const c_char) { *words = c"the words above say what happened".as_ptr(); 0 }
    cuDeviceGetCount(count: *mut c_int) { *count = GPUS.len() as c_int; 0 }
    cuDeviceGet(device: *mut c_int, index: c_int) { *device = index; if (0..GPUS.len() as c_int).contains(&index) { 0 } else { INVALID_VALUE } }
    cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) {
        let words = c"GPU that executes PTX".to_bytes_with_nul();
        std::ptr::copy_nonoverlapping(words.as_ptr().cast(), name, words.len().min(length as usize));
        0
    }
    cuDeviceGetUuid_v2(uuid: *mut u8, device: c_int) { uuid.write_bytes(0x5a + device as u8, 16); 0 }
    cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) { *bytes = GPUS[device as usize].gpu.options.memory as usize; 0 }
    cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) {
        let info = GPUS[device as usize].gpu.info();
        // Threads and shared memory of a block, clock, multiprocessors, clock and width of the memory, compute capability.
        *value = match attribute {
            1 => info.block_threads as c_int,
            8 => info.block_shared_bytes as c_int,
            13 => 1_410_000,
            16 => info.multiprocessors as c_int,
            36 => 1_215_000,
            37 => 5120,
            75 => info.capability[0] as c_int,
            76 => info.capability[1] as c_int,
            _ => return INVALID_VALUE,
        };
        0
    }
    cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) { *context = (CONTEXT + device as usize) as *mut c_void; 0 }
    cuDevicePrimaryCtxRelease_v2(_device: c_int) { 0 }
    cuCtxSetCurrent(context: *mut c_void) { CURRENT.set(context as usize - CONTEXT); 0 }
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        answer(now().gpu.memory_info(), INVALID_VALUE, |[of_free, of_total]| (*free, *total) = (of_free as usize, of_total as usize))
    }
    cuMemAlloc_v2(address: *mut u64, bytes: usize) { answer(now().gpu.allocate(bytes), OUT_OF_MEMORY, |given| *address = given) }
    cuMemFree_v2(address: u64) { now().gpu.free(address); 0 }
    cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        answer(now().gpu.allocate_pinned(bytes), OUT_OF_MEMORY, |given| *pointer = given.cast())
    }
    cuMemFreeHost(pointer: *mut c_void) { now().gpu.free_pinned(pointer.cast()); 0 }
    cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: *mut c_void) {
        answer(Driver::upload(&now().gpu, to, from.cast(), bytes, Stream(number(stream))), ILLEGAL_ADDRESS, |()| ())
    }
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: *mut c_void) {
        answer(Driver::download(&now().gpu, to.cast(), from, bytes, Stream(number(stream))), ILLEGAL_ADDRESS, |()| ())
    }
    cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) {
        answer(Driver::copy(&now().gpu, to, from, bytes, Stream(number(stream))), ILLEGAL_ADDRESS, |()| ())
    }
    cuMemsetD8Async(to: u64, value: u8, bytes: usize, stream: *mut c_void) {
        answer(Driver::set_bytes(&now().gpu, to, value, bytes, Stream(number(stream))), ILLEGAL_ADDRESS, |()| ())
    }
    cuStreamCreate(stream: *mut *mut c_void, _flags: c_uint) {
        answer(now().gpu.create_stream(), INVALID_VALUE, |given| *stream = handle(given.0))
    }
    cuStreamDestroy_v2(stream: *mut c_void) { now().gpu.destroy_stream(Stream(number(stream))); 0 }
    cuStreamSynchronize(stream: *mut c_void) { answer(now().gpu.synchronize(Stream(number(stream))), ILLEGAL_ADDRESS, |()| ()) }
    cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _flags: c_uint) {
        answer(now().gpu.wait(Stream(number(stream)), Event(number(event))), INVALID_VALUE, |()| ())
    }
    cuEventCreate(event: *mut *mut c_void, _flags: c_uint) { answer(now().gpu.create_event(), INVALID_VALUE, |given| *event = handle(given.0)) }
    cuEventDestroy_v2(event: *mut c_void) { now().gpu.destroy_event(Event(number(event))); 0 }
    cuEventRecord(event: *mut c_void, stream: *mut c_void) {
        answer(now().gpu.record(Event(number(event)), Stream(number(stream))), INVALID_VALUE, |()| ())
    }
    cuEventSynchronize(event: *mut c_void) { answer(now().gpu.synchronize_event(Event(number(event))), ILLEGAL_ADDRESS, |()| ()) }
    cuEventElapsedTime(milliseconds: *mut f32, from: *mut c_void, to: *mut c_void) {
        answer(now().gpu.elapsed_ms(Event(number(from)), Event(number(to))), INVALID_VALUE, |given| *milliseconds = given)
    }
    cuModuleLoadDataEx(module: *mut *mut c_void, image: *const c_char, _count: c_uint, _options: *mut c_int, _values: *mut *mut c_void) {
        let text = CStr::from_ptr(image).to_bytes_with_nul();
        if text.starts_with(b"\x7fELF") {
            return NO_BINARY_FOR_GPU;
        }
        answer(Driver::load(&now().gpu, text), INVALID_PTX, |given| *module = handle(given.0))
    }
    cuModuleUnload(module: *mut c_void) { Driver::unload(&now().gpu, Module(number(module))); 0 }
    cuModuleGetFunction(function: *mut *mut c_void, module: *mut c_void, name: *const c_char) {
        let name = CStr::from_ptr(name).to_string_lossy();
        match Driver::function(&now().gpu, Module(number(module)), &name) {
            Ok(Some(given)) => { *function = handle(given.0); 0 }
            _ => NOT_FOUND,
        }
    }
    cuFuncSetAttribute(_function: *mut c_void, _attribute: c_int, _value: c_int) { 0 }
    cuLaunchKernel(function: *mut c_void, x: c_uint, y: c_uint, z: c_uint, threads: c_uint, threads_y: c_uint, threads_z: c_uint,
                   shared: c_uint, stream: *mut c_void, parameters: *mut *mut c_void, extra: *mut *mut c_void) {
        let Some(known) = now().gpu.parameters(number(function)) else { return INVALID_VALUE };
        if [threads_y, threads_z] != [1, 1] || !extra.is_null() {
            return INVALID_VALUE;
        }
        let argument = |(i, &(bytes, is_address)): (usize, &(usize, bool))| RawArgument { pointer: *parameters.add(i), bytes, is_address };
        let arguments: Vec<RawArgument> = known.iter().enumerate().map(argument).collect();
        if now().launches.as_ref().is_some_and(|left| left.fetch_sub(1, Ordering::Relaxed) <= 1) {
            return answer(Err::<(), _>(anyhow::anyhow!("it fails as PTX_FAILS says")), ILLEGAL_ADDRESS, |()| ());
        }
        let launched = Driver::launch(&now().gpu, Function(number(function)), [x, y, z], threads, shared, Stream(number(stream)), &arguments);
        answer(launched, ILLEGAL_ADDRESS, |()| ())
    }
    cuStreamBeginCapture_v2(stream: *mut c_void, _mode: c_int) { answer(now().gpu.begin_capture(Stream(number(stream))), INVALID_VALUE, |()| ()) }
    cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) {
        answer(now().gpu.end_capture(Stream(number(stream))), INVALID_VALUE, |given| *graph = handle(given.0))
    }
    // A graph is its own executable.
    cuGraphInstantiateWithFlags(executable: *mut *mut c_void, graph: *mut c_void, _flags: u64) { *executable = graph; 0 }
    cuGraphDestroy(_graph: *mut c_void) { 0 }
    cuGraphExecDestroy(executable: *mut c_void) { now().gpu.destroy_graph(Graph(number(executable))); 0 }
    cuGraphLaunch(executable: *mut c_void, stream: *mut c_void) {
        answer(now().gpu.launch_graph(Graph(number(executable)), Stream(number(stream))), ILLEGAL_ADDRESS, |()| ())
    }
}
