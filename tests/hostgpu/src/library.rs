//! One build of the kernels: a shared object that is opened at run time, so that several can be used side by side.

use super::Found;
use anyhow::{Context, Result, bail, ensure};
use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Mutex;

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
}
/// RTLD_NOW | RTLD_LOCAL.
const NOW: c_int = 2;

/// As in host_interface.h.
#[repr(C)]
pub struct RawKernel {
    name: *const c_char,
    invoke: *const c_void,
    threads: u32,
    parameters: u32,
    sizes: *const u32,
    pointers: *const u8,
    names: *const c_char,
    next: *const RawKernel,
}

/// As in host_interface.h.
#[repr(C)]
pub struct Parameter {
    value: *const c_void,
    data: *mut u8,
    offset: u64,
    bytes: u64,
    written: *mut u8,
    words: *mut [u64; 2],
}

impl Parameter {
    /// An argument's bytes, which have to live as long as the parameter is used.
    pub fn of(value: &[u8]) -> Self {
        let (data, written, words) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        Parameter { value: value.as_ptr().cast(), data, offset: 0, bytes: 0, written, words }
    }

    /// Where its address points to.
    pub fn place(&mut self, found: Found) {
        (self.data, self.offset, self.bytes) = (found.data, found.offset, found.bytes);
        (self.written, self.words) = (found.written, found.words);
    }
}

/// As in executor.cpp.
#[repr(C)]
struct RawJob {
    kernel: *const RawKernel,
    parameters: *const Parameter,
    grid: [u32; 3],
    shared_limit: u32,
    launch: u32,
    seed: u64,
    next_block: u64,
    failed: u32,
    error: [u8; 512],
}

/// A launch that workers share.
pub struct Job<'a> {
    raw: UnsafeCell<RawJob>,
    _parameters: &'a [Parameter],
}

// SAFETY: workers touch it through atomics, and `error` is written by the one that sets `failed`.
unsafe impl Sync for Job<'_> {}

impl<'a> Job<'a> {
    pub fn new(kernel: *const RawKernel, parameters: &'a [Parameter], grid: [u32; 3], shared_limit: u32, launch: u32, seed: u64) -> Self {
        let parameter = parameters.as_ptr();
        let raw = RawJob { kernel, parameters: parameter, grid, shared_limit, launch, seed, next_block: 0, failed: 0, error: [0; 512] };
        Job { raw: UnsafeCell::new(raw), _parameters: parameters }
    }

    /// What went wrong. After all workers have returned.
    pub fn report(self) -> Option<String> {
        let raw = self.raw.into_inner();
        let text = CStr::from_bytes_until_nul(&raw.error).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
        (raw.failed != 0).then_some(text)
    }
}

/// A kernel as it is launched.
pub struct Kernel {
    pub raw: *const RawKernel,
    pub name: String,
    pub threads: u32,
    pub sizes: Vec<usize>,
    pub is_pointer: Vec<bool>,
    pub names: Vec<String>,
}

pub struct Library {
    pub kernels: Vec<Kernel>,
    new_worker: unsafe extern "C" fn() -> *mut c_void,
    delete_worker: unsafe extern "C" fn(*mut c_void),
    run: unsafe extern "C" fn(*mut c_void, *mut RawJob),
}

// SAFETY: the table of kernels is never written after the library was opened.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

/// The fibers of one thread of the operating system; used by one thread at a time. Each fiber takes two of the mappings of
/// memory that a process may have, so they are given back with the GPU.
pub struct Worker {
    pointer: *mut c_void,
    delete: unsafe extern "C" fn(*mut c_void),
}

// SAFETY: no fiber runs between launches, so any thread may run the next one.
unsafe impl Send for Worker {}
// SAFETY: `run` is called by the one thread that a launch gives the worker to.
unsafe impl Sync for Worker {}

impl Worker {
    /// Runs blocks until none is left. One thread at a time.
    pub fn run(&self, library: &Library, job: &Job) {
        // SAFETY: the worker came from this library's `new_worker`, and the job lives until all workers have returned.
        unsafe { (library.run)(self.pointer, job.raw.get()) };
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: the library made it, and stays open; no launch has it any more.
        unsafe { (self.delete)(self.pointer) };
    }
}

impl Library {
    /// Opens a build. It stays open: threads may still have its variables.
    pub fn open(file: &str) -> Result<Self> {
        ensure!(
            env!("HOSTGPU_BUILT") == "yes",
            "{} was not found when this was built, and without it kernels cannot run on the host; install g++ and build again",
            env!("HOSTGPU_COMPILER")
        );
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock();
        let path = CString::new(format!("{}/{file}", env!("HOSTGPU_FOLDER")))?;
        // SAFETY: a path that ends in NUL.
        let library = unsafe { dlopen(path.as_ptr(), NOW) };
        if library.is_null() {
            // SAFETY: after an error there is a text.
            let error = unsafe { CStr::from_ptr(dlerror()) };
            bail!("{}: {}", path.to_string_lossy(), error.to_string_lossy());
        }
        let symbol = |name: &CStr| {
            // SAFETY: the library is open, and the name ends in NUL.
            let pointer = unsafe { dlsym(library, name.as_ptr()) };
            (!pointer.is_null()).then_some(pointer).with_context(|| format!("{file} has no {}", name.to_string_lossy()))
        };
        // SAFETY: these are the functions of executor.cpp, with these types.
        let (kernels, new_worker, delete_worker, run) = unsafe {
            (
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *const RawKernel>(symbol(c"hostgpu_kernels")?),
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *mut c_void>(symbol(c"hostgpu_worker_new")?),
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void)>(symbol(c"hostgpu_worker_delete")?),
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void, *mut RawJob)>(symbol(c"hostgpu_run")?),
            )
        };
        let mut found = Vec::new();
        // SAFETY: the list of the library's static table.
        let mut next = unsafe { kernels() };
        // SAFETY: as above: each entry is static.
        while let Some(kernel) = unsafe { next.as_ref() } {
            // SAFETY: the texts end in NUL; there are as many sizes and flags as parameters.
            unsafe {
                let count = kernel.parameters as usize;
                let text = |text: *const c_char| CStr::from_ptr(text).to_string_lossy().into_owned();
                found.push(Kernel {
                    raw: next,
                    name: text(kernel.name),
                    threads: kernel.threads,
                    sizes: std::slice::from_raw_parts(kernel.sizes, count).iter().map(|&size| size as usize).collect(),
                    is_pointer: std::slice::from_raw_parts(kernel.pointers, count).iter().map(|&flag| flag != 0).collect(),
                    names: text(kernel.names).split(',').map(str::to_string).collect(),
                });
            }
            next = kernel.next;
        }
        Ok(Library { kernels: found, new_worker, delete_worker, run })
    }

    pub fn worker(&self) -> Worker {
        // SAFETY: it makes a worker of its own.
        Worker { pointer: unsafe { (self.new_worker)() }, delete: self.delete_worker }
    }
}
