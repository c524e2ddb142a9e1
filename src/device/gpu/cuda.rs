//! CUDA's driver behind the trait: each call is one call of libcuda, which is loaded when a GPU is asked for. It takes no
//! decisions; what it adds are words for errors.
//!
//! Source: NVIDIA, CUDA Driver API reference.

use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use cudarc::driver::{result::DriverError, sys};

use super::Gpu;
use super::driver::{self, DeviceInfo, Driver, Event, Failure, Function, Graph, Meaning, Module, RawArgument, Stream};
use super::images::{Capability, Choice, CudaVersion, Images, OLDEST_DRIVER};
use super::pack::Form;

/// Every call that is made here. A library without one of them is a stub or too old, which is better said before than
/// found out in the middle: cudarc panics when it looks up a name in vain.
const CALLS: [&str; 42] = [
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetUuid_v2",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

/// A GPU through CUDA's driver. Holds the device's primary context, and makes it the calling thread's before each call.
#[derive(Debug)]
pub struct Cuda {
    device: sys::CUdevice,
    context: sys::CUcontext,
    info: DeviceInfo,
}

// SAFETY: the context is a handle that the driver lets any thread use; it is made current before each call.
unsafe impl Send for Cuda {}
// SAFETY: as above; the driver's calls may come from several threads at a time.
unsafe impl Sync for Cuda {}

/// Opens GPU number `index` with the kernels of this program, in the form that suits it.
///
/// Returns: the device, and how it got its kernels, for the log.
/// Errors: no driver, no such GPU, a GPU or driver too old, or the kernels cannot be loaded.
pub fn open(index: usize) -> Result<(Gpu, String)> {
    open_as(index, None)
}

/// The same, with the kernels in one form alone, if one is given: to find out whether it works.
///
/// Returns and errors: as `open`.
pub fn open_as(index: usize, form: Option<Form>) -> Result<(Gpu, String)> {
    let cuda = Cuda::open(index)?;
    let images = Images::of_program()?;
    let [major, minor] = cuda.info.capability;
    let gpu = Capability { major, minor };
    let mut refused: Option<(Choice, anyhow::Error)> = None;
    let choices = images.choices(gpu, version(cuda.info.driver_version))?;
    for choice in choices.into_iter().filter(|choice| form.is_none_or(|form| choice.form() == form)) {
        let opened = images.load(choice, gpu).and_then(|loaded| {
            let bytes: Vec<&[u8]> = loaded.iter().map(|(_, bytes)| bytes.as_slice()).collect();
            Gpu::new(cuda.clone(), &bytes)
        });
        match (opened, refused) {
            (Ok(gpu), None) => return Ok((gpu, choice.to_string())),
            (Ok(gpu), Some((first, _))) => return Ok((gpu, format!("{choice} (the driver does not take {first})"))),
            // It is not stated everywhere which machine code a GPU for embedded systems takes, so the next form is tried.
            (Err(error), None) if driver::means(&error, Meaning::NoImage) => refused = Some((choice, error)),
            (Err(error), None) => return Err(error),
            (Err(_), first) => refused = first,
        }
    }
    Err(refused.map_or_else(|| anyhow!("no form of the kernels that was asked for is for this GPU"), |(_, error)| error))
}

/// What GPUs there are, in the driver's order.
///
/// Errors: no driver, or one that is too old. No GPU at all is an error too: the driver says so itself.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    let version = start()?;
    (0..count()?).map(|index| info(device(index)?, version)).collect()
}

impl Cuda {
    /// Opens GPU number `index`, as the driver counts them (`CUDA_VISIBLE_DEVICES` changes that).
    ///
    /// Errors: no driver, one that is too old, or no such GPU, or it is taken.
    pub fn open(index: usize) -> Result<Arc<Cuda>> {
        let version = start()?;
        let count = count()?;
        ensure!(index < count, "GPU {index}: the driver sees {count}; expected a number from 0 to {}", count.saturating_sub(1));
        let device = device(index)?;
        let info = info(device, version)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: `device` came from the driver; one place for one handle.
        check("open the GPU", unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) })
            .with_context(|| format!("GPU {index} ({})", info.name))?;
        Ok(Arc::new(Cuda { device, context, info }))
    }

    /// The error of a request for memory: how much there is.
    fn refused(&self, error: anyhow::Error, result: sys::CUresult, bytes: usize) -> anyhow::Error {
        match self.memory_info() {
            Ok([free, total]) if result == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => anyhow!(
                "{}: asked for {}; {} of {} are free; use a smaller batch or frame, or a GPU with more memory",
                self.info.name,
                size(bytes as u64),
                size(free),
                size(total)
            ),
            _ => error,
        }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // SAFETY: retained once in `open`. At the end of the process the driver may be gone already: nothing to do then.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

impl Driver for Cuda {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn bind(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        check("use the GPU", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    fn memory_info(&self) -> Result<[u64; 2]> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: two places for two numbers.
        check("ask for free memory", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok([free as u64, total as u64])
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        let mut address = 0;
        // SAFETY: one place for one address.
        let result = unsafe { sys::cuMemAlloc_v2(&mut address, bytes) };
        check("allocate", result).map_err(|error| self.refused(error, result, bytes))?;
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        // An error here is one of earlier work, which another call reports.
        if self.bind().is_ok() {
            // SAFETY: passed on from the caller. The call waits for the work that uses the memory.
            let _ = unsafe { sys::cuMemFree_v2(address) };
        }
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8> {
        self.bind()?;
        let mut pointer: *mut c_void = std::ptr::null_mut();
        // Flags 0: write-combined memory would be slow to read.
        // SAFETY: one place for one pointer.
        check("allocate pinned memory", unsafe { sys::cuMemHostAlloc(&mut pointer, bytes, 0) })
            .with_context(|| format!("asked for {} of pinned host memory", size(bytes as u64)))?;
        Ok(pointer.cast())
    }

    unsafe fn free_pinned(&self, pointer: *mut u8) {
        if self.bind().is_ok() {
            // SAFETY: passed on from the caller.
            let _ = unsafe { sys::cuMemFreeHost(pointer.cast()) };
        }
    }

    unsafe fn upload(&self, to: u64, from: *const u8, bytes: usize, stream: Stream) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: passed on from the caller. Memory that is not pinned is copied aside before the call returns.
        check("copy to the GPU", unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, pointer(stream.0)) })
    }

    unsafe fn download(&self, to: *mut u8, from: u64, bytes: usize, stream: Stream) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: passed on from the caller.
        check("copy from the GPU", unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, pointer(stream.0)) })
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, stream: Stream) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: passed on from the caller.
        check("copy on the GPU", unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, pointer(stream.0)) })
    }

    unsafe fn set_bytes(&self, to: u64, value: u8, bytes: usize, stream: Stream) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: passed on from the caller.
        check("clear memory", unsafe { sys::cuMemsetD8Async(to, value, bytes, pointer(stream.0)) })
    }

    fn create_stream(&self) -> Result<Stream> {
        self.bind()?;
        let mut stream = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32; // it never waits for the default stream
        // SAFETY: one place for one handle.
        check("make a stream", unsafe { sys::cuStreamCreate(&mut stream, flags) })?;
        Ok(Stream(stream as u64))
    }

    fn destroy_stream(&self, stream: Stream) {
        if self.bind().is_ok() {
            // The driver would return at once, and pinned memory may be given back next.
            // SAFETY: made by `create_stream`.
            let _ = unsafe { sys::cuStreamSynchronize(pointer(stream.0)) };
            // SAFETY: as above.
            let _ = unsafe { sys::cuStreamDestroy_v2(pointer(stream.0)) };
        }
    }

    fn synchronize(&self, stream: Stream) -> Result<()> {
        self.bind()?;
        // SAFETY: made by `create_stream`.
        check("wait for the GPU", unsafe { sys::cuStreamSynchronize(pointer(stream.0)) })
    }

    fn create_event(&self) -> Result<Event> {
        self.bind()?;
        let mut event = std::ptr::null_mut();
        // SAFETY: one place for one handle.
        check("make an event", unsafe { sys::cuEventCreate(&mut event, sys::CUevent_flags::CU_EVENT_DEFAULT as u32) })?;
        Ok(Event(event as u64))
    }

    fn destroy_event(&self, event: Event) {
        if self.bind().is_ok() {
            // SAFETY: made by `create_event`.
            let _ = unsafe { sys::cuEventDestroy_v2(pointer(event.0)) };
        }
    }

    fn record(&self, event: Event, stream: Stream) -> Result<()> {
        self.bind()?;
        // SAFETY: both were made by this driver.
        check("record an event", unsafe { sys::cuEventRecord(pointer(event.0), pointer(stream.0)) })
    }

    fn wait(&self, stream: Stream, event: Event) -> Result<()> {
        self.bind()?;
        // SAFETY: both were made by this driver.
        check("let a stream wait", unsafe { sys::cuStreamWaitEvent(pointer(stream.0), pointer(event.0), 0) })
    }

    fn synchronize_event(&self, event: Event) -> Result<()> {
        self.bind()?;
        // SAFETY: made by `create_event`.
        check("wait for an event", unsafe { sys::cuEventSynchronize(pointer(event.0)) })
    }

    fn elapsed_ms(&self, from: Event, to: Event) -> Result<f32> {
        self.bind()?;
        let mut milliseconds = 0.0;
        // SAFETY: both were made by `create_event`; one place for one number.
        check("measure time", unsafe { sys::cuEventElapsedTime(&mut milliseconds, pointer(from.0), pointer(to.0)) })?;
        Ok(milliseconds)
    }

    fn load(&self, image: &[u8]) -> Result<Module> {
        let is_elf = image.starts_with(b"\x7fELF");
        ensure!(is_elf || image.last() == Some(&0), "a kernel image is neither machine code nor PTX that ends in NUL");
        self.bind()?;
        let mut module = std::ptr::null_mut();
        // What the driver's own compiler says about PTX.
        let mut log = [0u8; 2048];
        let mut options = [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len())];
        // SAFETY: the image is whole (an ELF file states its own length, PTX ends in NUL), and the two options have their
        // two values: a buffer and its length.
        let result = unsafe { sys::cuModuleLoadDataEx(&mut module, image.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
        let said = log.split(|byte| *byte == 0).next().unwrap_or_default();
        let said = String::from_utf8_lossy(said).trim().replace('\n', " ");
        let what = if said.is_empty() { "load kernels".to_string() } else { format!("load kernels: {said}") };
        check(&what, result)?;
        Ok(Module(module as u64))
    }

    fn unload(&self, module: Module) {
        if self.bind().is_ok() {
            // SAFETY: loaded by `load`.
            let _ = unsafe { sys::cuModuleUnload(pointer(module.0)) };
        }
    }

    fn function(&self, module: Module, name: &str) -> Result<Option<Function>> {
        self.bind()?;
        let name_c = CString::new(name).with_context(|| format!("kernel {name:?}: a name with a zero byte"))?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module was loaded by `load`; the name ends in NUL; one place for one handle.
        match unsafe { sys::cuModuleGetFunction(&mut function, pointer(module.0), name_c.as_ptr()) } {
            sys::CUresult::CUDA_ERROR_NOT_FOUND => Ok(None),
            result => check(&format!("look up kernel {name}"), result).map(|()| Some(Function(function as u64))),
        }
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
        self.bind()?;
        if shared > 48 << 10 {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was given out by `function`.
            check("allow shared memory", unsafe { sys::cuFuncSetAttribute(pointer(function.0), attribute, shared as c_int) })?;
        }
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(|argument| argument.pointer.cast_mut()).collect();
        let ([x, y, z], none) = (grid, std::ptr::null_mut());
        // SAFETY: passed on from the caller; the driver reads the arguments before it returns.
        let result = unsafe {
            let (function, stream) = (pointer(function.0), pointer(stream.0));
            sys::cuLaunchKernel(function, x, y, z, threads, 1, 1, shared, stream, pointers.as_mut_ptr(), none)
        };
        check(&format!("launch {x} x {y} x {z} blocks of {threads} threads"), result)
    }

    fn begin_capture(&self, stream: Stream) -> Result<()> {
        self.bind()?;
        // Relaxed: a kernel that is looked up for the first time is loaded then and there (the driver loads lazily), and
        // other threads go on allocating and copying. No stream here waits for the default stream, so nothing is unsafe.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: made by `create_stream`.
        check("begin to capture", unsafe { sys::cuStreamBeginCapture_v2(pointer(stream.0), mode) })
    }

    fn end_capture(&self, stream: Stream) -> Result<Graph> {
        self.bind()?;
        let mut graph = std::ptr::null_mut();
        // SAFETY: made by `create_stream`; one place for one handle.
        check("end the capture", unsafe { sys::cuStreamEndCapture(pointer(stream.0), &mut graph) })?;
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph was just captured; one place for one handle.
        let result = unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0) };
        // SAFETY: captured above; the executable form does not need it any more.
        let _ = unsafe { sys::cuGraphDestroy(graph) };
        check("prepare what was captured", result)?;
        Ok(Graph(executable as u64))
    }

    unsafe fn launch_graph(&self, graph: Graph, stream: Stream) -> Result<()> {
        self.bind()?;
        // SAFETY: passed on from the caller.
        check("launch what was captured", unsafe { sys::cuGraphLaunch(pointer(graph.0), pointer(stream.0)) })
    }

    fn destroy_graph(&self, graph: Graph) {
        if self.bind().is_ok() {
            // SAFETY: made by `end_capture`.
            let _ = unsafe { sys::cuGraphExecDestroy(pointer(graph.0)) };
        }
    }
}

/// Loads the driver and starts it; its version.
fn start() -> Result<i32> {
    // SAFETY: opens libraries by the driver's names, as every program for GPUs does.
    if !unsafe { sys::is_culib_present() } {
        let what = "no NVIDIA driver: libcuda.so.1 was not found; expected the driver's library; install the NVIDIA driver, or use the CPU";
        return Err(Failure { meaning: Meaning::Absent, words: what.to_string() }.into());
    }
    // SAFETY: it is there.
    let library = unsafe { sys::culib() };
    // SAFETY: the names are looked up, nothing is called.
    let lacking = CALLS.iter().find(|name| unsafe { library.get::<*const c_void>(name.as_bytes()) }.is_err());
    if let Some(name) = lacking {
        bail!(
            "NVIDIA driver: libcuda.so.1 has no {name}, so it is a stub or older than {}; expected a driver of CUDA {OLDEST_DRIVER} or later; \
             install one, or use the CPU",
            OLDEST_DRIVER.driver()
        );
    }
    let mut number = 0;
    // SAFETY: one place for one number; the call may come before cuInit.
    check("ask for its version", unsafe { sys::cuDriverGetVersion(&mut number) })?;
    // A stub answers with version 0, and cuInit says that it is one.
    ensure!(
        number == 0 || CudaVersion::from_number(number) >= OLDEST_DRIVER,
        "NVIDIA driver: it serves CUDA {}; expected {OLDEST_DRIVER} or later; install driver {} or later, or use the CPU",
        CudaVersion::from_number(number),
        OLDEST_DRIVER.driver()
    );
    // SAFETY: the flags are 0, as they have to be.
    check("start", unsafe { sys::cuInit(0) })?;
    Ok(number)
}

fn count() -> Result<usize> {
    let mut count = 0;
    // SAFETY: one place for one number.
    check("count GPUs", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    usize::try_from(count).context("NVIDIA driver: a negative number of GPUs")
}

fn device(index: usize) -> Result<sys::CUdevice> {
    let mut device = 0;
    // SAFETY: one place for one handle.
    check("look up a GPU", unsafe { sys::cuDeviceGet(&mut device, c_int::try_from(index).context("number of a GPU")?) })?;
    Ok(device)
}

fn info(device: sys::CUdevice, driver_version: i32) -> Result<DeviceInfo> {
    use sys::CUdevice_attribute as Attribute;
    let attribute = |attribute: Attribute| -> Result<u32> {
        let mut value = 0;
        // SAFETY: one place for one number; the device came from the driver.
        check("ask about a GPU", unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })?;
        u32::try_from(value).with_context(|| format!("NVIDIA driver: {attribute:?} is {value}"))
    };
    let mut name = [0u8; 256];
    // SAFETY: as many bytes as are stated.
    check("ask for a GPU's name", unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast::<c_char>(), name.len() as c_int, device) })?;
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: one place for one number of 16 bytes.
    check("ask for a GPU's UUID", unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, device) })?;
    let mut memory = 0;
    // SAFETY: one place for one number.
    check("ask for a GPU's memory", unsafe { sys::cuDeviceTotalMem_v2(&mut memory, device) })?;
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // Clocks in kHz, and the bits of a word of memory: only predicted times need them, so a driver may refuse to tell. Memory sends
    // two words a clock.
    let rate = |asked: Attribute| attribute(asked).map_or(0, u64::from);
    let width = rate(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
    Ok(DeviceInfo {
        name: String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned(),
        uuid: uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect(),
        capability: [major, minor],
        memory: memory as u64,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        clock: 1000 * rate(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
        memory_bandwidth: 2 * 1000 * rate(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE) * width / 8,
        driver_version: driver_version.max(0) as u32,
        driver_release: release(),
        block_threads: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        block_shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK)?,
    })
}

/// The first line of what Linux's module of the driver says of itself: several of its releases serve the same version of CUDA.
fn release() -> String {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn version(number: u32) -> CudaVersion {
    CudaVersion::from_number(i32::try_from(number).unwrap_or(0))
}

/// A handle of the driver as the pointer that it is.
fn pointer<T>(handle: u64) -> *mut T {
    handle as *mut T
}

/// An error of the driver in words: what was to be done, what came of it, what to do.
fn check(what: &str, result: sys::CUresult) -> Result<()> {
    use sys::CUresult as E;
    let advice = match result {
        E::CUDA_SUCCESS => return Ok(()),
        E::CUDA_ERROR_STUB_LIBRARY => {
            "libcuda.so is the toolkit's stub and no driver; take the folder `stubs` out of LD_LIBRARY_PATH, or install the NVIDIA driver"
        }
        E::CUDA_ERROR_NO_DEVICE => {
            "there is no GPU that this process may use; look at nvidia-smi and CUDA_VISIBLE_DEVICES, ask for a GPU in the batch job or \
             container, or use the CPU"
        }
        E::CUDA_ERROR_DEVICE_UNAVAILABLE => "another process has the GPU for itself; wait, or choose another with --gpus",
        E::CUDA_ERROR_OUT_OF_MEMORY => "out of memory; use a smaller batch or frame, or a GPU with more free memory",
        E::CUDA_ERROR_NO_BINARY_FOR_GPU => "the kernels are for another GPU; build for this one (EPICKER_CUDA_ARCHS), or use the CPU",
        E::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => "the driver is older than the kernels' PTX; install a later driver, or use the CPU",
        E::CUDA_ERROR_INVALID_PTX => "the driver does not understand the kernels' PTX; install a later driver, or use the CPU",
        E::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => {
            "the driver's compiler for PTX is missing (libnvidia-ptxjitcompiler); install it, or a program with machine code for this GPU"
        }
        E::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "the driver's library and its kernel module are of different versions; restart the machine, or the container with the host's driver"
        }
        E::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "a forward-compatibility libcuda does not serve this GPU; take it out of LD_LIBRARY_PATH, or update the driver"
        }
        E::CUDA_ERROR_ILLEGAL_ADDRESS
        | E::CUDA_ERROR_MISALIGNED_ADDRESS
        | E::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | E::CUDA_ERROR_INVALID_PC
        | E::CUDA_ERROR_HARDWARE_STACK_ERROR
        | E::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | E::CUDA_ERROR_LAUNCH_FAILED => {
            "a kernel failed, which is a fault of this program: nothing computed since the last picks counts; use the CPU, and report it"
        }
        E::CUDA_ERROR_LAUNCH_TIMEOUT => {
            "a kernel ran longer than a GPU may that draws a screen, too; use one without a screen, a smaller frame or batch, or the CPU"
        }
        E::CUDA_ERROR_ECC_UNCORRECTABLE => "the GPU's memory has an error that it cannot correct; use another GPU",
        E::CUDA_ERROR_UNKNOWN => "the driver does not say why; look at the system's log (dmesg), restart the driver or the machine",
        _ => "",
    };
    let error = DriverError(result);
    let name = error.error_name().map_or("unknown error".into(), |name| name.to_string_lossy());
    let words = match advice {
        "" => error.error_string().map_or_else(|_| "unknown error".to_string(), |words| words.to_string_lossy().into_owned()),
        advice => advice.to_string(),
    };
    let told = format!("NVIDIA driver, {what}: {words} ({name}, {})", result as u32);
    match meaning(result) {
        Some(meaning) => Err(Failure { meaning, words: told }.into()),
        None => Err(anyhow::Error::msg(told)),
    }
}

/// What an error means to the program. The last group are those of which the driver's reference says that the process has to be
/// ended before the GPU can be used again.
fn meaning(result: sys::CUresult) -> Option<Meaning> {
    use sys::CUresult as E;
    match result {
        E::CUDA_ERROR_NO_DEVICE | E::CUDA_ERROR_STUB_LIBRARY => Some(Meaning::Absent),
        E::CUDA_ERROR_NO_BINARY_FOR_GPU
        | E::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | E::CUDA_ERROR_INVALID_PTX
        | E::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => Some(Meaning::NoImage),
        E::CUDA_ERROR_ILLEGAL_ADDRESS
        | E::CUDA_ERROR_LAUNCH_TIMEOUT
        | E::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | E::CUDA_ERROR_ASSERT
        | E::CUDA_ERROR_HARDWARE_STACK_ERROR
        | E::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | E::CUDA_ERROR_MISALIGNED_ADDRESS
        | E::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | E::CUDA_ERROR_INVALID_PC
        | E::CUDA_ERROR_LAUNCH_FAILED
        | E::CUDA_ERROR_ECC_UNCORRECTABLE
        | E::CUDA_ERROR_NVLINK_UNCORRECTABLE => Some(Meaning::Lost),
        _ => None,
    }
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    let (gib, mib) = (bytes as f64 / (1u64 << 30) as f64, bytes as f64 / (1u64 << 20) as f64);
    if gib >= 1.0 { format!("{gib:.1} GiB") } else { format!("{mib:.1} MiB") }
}
