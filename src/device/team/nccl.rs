//! NCCL, loaded from a shared library: members on GPUs exchange memory without the host, each call in its place of the device's stream.
//!
//! Nothing but copies is asked of it, so it rounds nothing.
//! Source: NVIDIA, NCCL user guide, API; nccl.h.

use super::Collective;
use crate::device::Device;
use crate::device::gpu::Gpu;
use anyhow::{Context, Result, anyhow, bail, ensure};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

type Status = c_int;
type Communicator = *mut c_void;
type Stream = *mut c_void;

/// Bytes, as nccl.h numbers types.
const BYTES: c_int = 0;
/// The oldest version that is used: send and receive came with it.
const OLDEST: c_int = 2700;

/// By which the members of a team find each other: `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(pub [u8; 128]);

/// The calls that this file makes, as nccl.h gives them.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "NCCL's names")]
pub struct Calls {
    pub get_version: unsafe extern "C" fn(*mut c_int) -> Status,
    pub get_error_string: unsafe extern "C" fn(Status) -> *const c_char,
    pub get_unique_id: unsafe extern "C" fn(*mut Id) -> Status,
    pub comm_init_rank: unsafe extern "C" fn(*mut Communicator, c_int, Id, c_int) -> Status,
    pub comm_destroy: unsafe extern "C" fn(Communicator) -> Status,
    pub comm_abort: unsafe extern "C" fn(Communicator) -> Status,
    pub all_gather: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Communicator, Stream) -> Status,
    pub send: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Communicator, Stream) -> Status,
    pub recv: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Communicator, Stream) -> Status,
    pub group_start: unsafe extern "C" fn() -> Status,
    pub group_end: unsafe extern "C" fn() -> Status,
}

/// NCCL.
pub struct Nccl {
    calls: Calls,
    /// The library that the calls are of, if they were loaded.
    _library: Option<Library>,
}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("NCCL")
    }
}

impl Nccl {
    /// NCCL where the system finds libraries, or the one that `NCCL_LIB` names.
    ///
    /// Errors: there is none, it is too old, or it lacks a call.
    pub fn find() -> Result<Arc<Self>> {
        let named = std::env::var_os("NCCL_LIB").filter(|path| !path.is_empty());
        let path = named.unwrap_or_else(|| "libnccl.so.2".into());
        let path = std::path::Path::new(&path);
        // SAFETY: loading runs the library's initialisers; NCCL's have none that matter to us.
        let library = unsafe { Library::new(path) }.with_context(|| format!("{}: cannot be loaded", path.display()))?;
        macro_rules! call {
            ($name:literal) => {
                // SAFETY: `Calls` gives the type that nccl.h gives for this name; the library lives as long as the calls.
                *unsafe { library.get($name) }
                    .with_context(|| format!("{}: has no {}", path.display(), String::from_utf8_lossy($name).trim_end_matches('\0')))?
            };
        }
        let calls = Calls {
            get_version: call!(b"ncclGetVersion\0"),
            get_error_string: call!(b"ncclGetErrorString\0"),
            get_unique_id: call!(b"ncclGetUniqueId\0"),
            comm_init_rank: call!(b"ncclCommInitRank\0"),
            comm_destroy: call!(b"ncclCommDestroy\0"),
            comm_abort: call!(b"ncclCommAbort\0"),
            all_gather: call!(b"ncclAllGather\0"),
            send: call!(b"ncclSend\0"),
            recv: call!(b"ncclRecv\0"),
            group_start: call!(b"ncclGroupStart\0"),
            group_end: call!(b"ncclGroupEnd\0"),
        };
        let nccl = Nccl { calls, _library: Some(library) };
        let version = nccl.version()?;
        ensure!(version >= OLDEST, "{}: NCCL {version}; expected {OLDEST} or later", path.display());
        Ok(Arc::new(nccl))
    }

    /// NCCL by these calls.
    ///
    /// # Safety
    /// They do what NCCL's do.
    pub unsafe fn of_calls(calls: Calls) -> Arc<Self> {
        Arc::new(Nccl { calls, _library: None })
    }

    /// Its version, such as 22304 for 2.23.4.
    ///
    /// Errors: it does not say.
    pub fn version(&self) -> Result<c_int> {
        let mut version = 0;
        // SAFETY: one place for one number.
        self.check("ncclGetVersion", unsafe { (self.calls.get_version)(&mut version) })?;
        Ok(version)
    }

    fn check(&self, call: &str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the call gives a text that lives as long as the library, for any number.
        let words = unsafe { CStr::from_ptr((self.calls.get_error_string)(status)) };
        Err(anyhow!("NCCL, {call}: {}", words.to_string_lossy()))
    }

    /// A name by which members find each other; one of them asks for it and tells the others.
    ///
    /// Errors: NCCL's.
    pub fn new_id(&self) -> Result<Id> {
        let mut id = Id([0; 128]);
        // SAFETY: one place for one name.
        self.check("ncclGetUniqueId", unsafe { (self.calls.get_unique_id)(&mut id) })?;
        Ok(id)
    }

    /// The members of a team of this process, one for each GPU.
    ///
    /// Errors: NCCL's, of any member.
    pub fn in_process(self: &Arc<Self>, gpus: &[Gpu]) -> Result<Vec<Arc<dyn Collective>>> {
        let (id, size) = (self.new_id()?, gpus.len());
        let joined: Vec<Result<usize>> = std::thread::scope(|scope| {
            let join = |(rank, gpu): (usize, &Gpu)| self.communicator(gpu, id, rank, size);
            let threads: Vec<_> = gpus.iter().enumerate().map(|one| scope.spawn(move || join(one))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("NCCL: a thread died")))).collect()
        });
        let communicators = joined.into_iter().collect::<Result<Vec<usize>>>()?;
        let group = Arc::new(Group { nccl: self.clone(), communicators, is_over: Mutex::new(false) });
        Ok((0..size).map(|rank| Arc::new(Member { group: group.clone(), place: rank, rank, size }) as Arc<dyn Collective>).collect())
    }

    /// The only member of this process in a team of so many processes.
    ///
    /// Errors: NCCL's.
    pub fn of_process(self: &Arc<Self>, gpu: &Gpu, id: Id, rank: usize, size: usize) -> Result<Arc<dyn Collective>> {
        let communicators = vec![self.communicator(gpu, id, rank, size)?];
        let group = Arc::new(Group { nccl: self.clone(), communicators, is_over: Mutex::new(false) });
        Ok(Arc::new(Member { group, place: 0, rank, size }))
    }

    /// Waits until all members of a team have come.
    fn communicator(&self, gpu: &Gpu, id: Id, rank: usize, size: usize) -> Result<usize> {
        // NCCL takes the GPU whose context is the thread's, which a call of the driver makes it.
        gpu.driver().memory_info()?;
        let mut communicator: Communicator = std::ptr::null_mut();
        // SAFETY: one place for one communicator; every member joins from a thread of its own.
        let status = unsafe { (self.calls.comm_init_rank)(&mut communicator, size as c_int, id, rank as c_int) };
        self.check("ncclCommInitRank", status)?;
        Ok(communicator as usize)
    }
}

/// The members of one process. A communicator is used by its member's thread alone, until the end.
#[derive(Debug)]
struct Group {
    nccl: Arc<Nccl>,
    communicators: Vec<usize>,
    /// True once the communicators have been given up.
    is_over: Mutex<bool>,
}

#[derive(Debug)]
struct Member {
    group: Arc<Group>,
    /// Which of the group's communicators is this member's.
    place: usize,
    rank: usize,
    size: usize,
}

impl Group {
    fn end(&self, call: unsafe extern "C" fn(Communicator) -> Status) {
        let mut is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *is_over, true) {
            for &communicator in &self.communicators {
                // SAFETY: made by `in_process`, and used for the last time. Nothing can be done if it fails.
                unsafe { call(communicator as Communicator) };
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end(self.nccl.calls.comm_destroy);
    }
}

impl Member {
    /// Calls of NCCL with this member's communicator and its GPU's stream.
    fn call(&self, device: &Device, calls: impl FnOnce(&Nccl, Communicator, Stream) -> Result<()>) -> Result<()> {
        let Device::Gpu(gpu) = device else { bail!("NCCL: memory of {}", device.describe()) };
        if *self.group.is_over.lock().unwrap_or_else(PoisonError::into_inner) {
            bail!("{}", super::ANOTHER_FAILED);
        }
        calls(&self.group.nccl, self.group.communicators[self.place] as Communicator, gpu.stream().0 as Stream)
    }
}

impl Collective for Member {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    unsafe fn gather(&self, device: &Device, memory: *mut u8, bytes: usize) -> Result<()> {
        self.call(device, |nccl, communicator, stream| {
            let own = memory.wrapping_add(self.rank * bytes);
            // SAFETY: the caller promises so many bytes for each member; the own part lies where NCCL wants it for working in place.
            let status = unsafe { (nccl.calls.all_gather)(own.cast(), memory.cast(), bytes, BYTES, communicator, stream) };
            nccl.check("ncclAllGather", status)
        })
    }

    unsafe fn exchange(&self, device: &Device, from: *const u8, to: *mut u8, bytes: usize) -> Result<()> {
        self.call(device, |nccl, communicator, stream| {
            let calls = &nccl.calls;
            // SAFETY: no arguments.
            nccl.check("ncclGroupStart", unsafe { (calls.group_start)() })?;
            for member in 0..self.size() {
                let (from, to, peer) = (from.wrapping_add(member * bytes), to.wrapping_add(member * bytes), member as c_int);
                // SAFETY: the caller promises so many bytes for each member, in both.
                nccl.check("ncclSend", unsafe { (calls.send)(from.cast(), bytes, BYTES, peer, communicator, stream) })?;
                // SAFETY: as above.
                nccl.check("ncclRecv", unsafe { (calls.recv)(to.cast(), bytes, BYTES, peer, communicator, stream) })?;
            }
            // SAFETY: no arguments.
            nccl.check("ncclGroupEnd", unsafe { (calls.group_end)() })
        })
    }

    fn leave(&self) {
        // Whoever waits on a GPU for this member is let go.
        self.group.end(self.group.nccl.calls.comm_abort);
    }
}
