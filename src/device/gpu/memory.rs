//! Memory of the GPU, and host memory that copies reach directly. Both are given back when they are dropped.

use super::{Arg, Gpu};
use anyhow::{Context, Result};

/// Memory of the GPU.
#[derive(Debug)]
pub struct Memory {
    gpu: Gpu,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// Memory that holds whatever it held before.
    ///
    /// Errors: there is not as much.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Self> {
        // The length is never 0: an address that belongs to nobody else is worth the 256 bytes that it takes.
        let address = gpu.driver().allocate(bytes.max(1)).with_context(|| format!("{bytes} bytes of memory on {}", gpu.info().name))?;
        Ok(Memory { gpu: gpu.clone(), address, bytes })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Its first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies bytes to `offset` on the stream of `gpu`. Panics if they do not fit: a programming error.
    pub fn upload(&mut self, gpu: &Gpu, offset: usize, from: &[u8]) -> Result<()> {
        assert!(offset + from.len() <= self.bytes, "{offset} + {} of {} bytes", from.len(), self.bytes);
        // SAFETY: both places hold as much; a slice is not pinned, so it may change when the call returns.
        unsafe { gpu.driver().upload(self.address + offset as u64, from.as_ptr(), from.len(), gpu.stream()) }
    }

    /// Copies bytes from `offset`, and waits for them. Panics if there are not as many: a programming error.
    pub fn download(&self, gpu: &Gpu, offset: usize, to: &mut [u8]) -> Result<()> {
        assert!(offset + to.len() <= self.bytes, "{offset} + {} of {} bytes", to.len(), self.bytes);
        // SAFETY: both places hold as much, and `to` is borrowed until the stream has been waited for.
        unsafe { gpu.driver().download(to.as_mut_ptr(), self.address + offset as u64, to.len(), gpu.stream()) }?;
        gpu.synchronize()
    }

    /// Copies the first `bytes` bytes into pinned memory, when the stream comes to it. Panics if there are not as many: a
    /// programming error.
    ///
    /// # Safety
    /// `to` lives, and is not touched, until the stream has been waited for.
    pub unsafe fn put_download(&self, gpu: &Gpu, bytes: usize, to: &mut Pinned) -> Result<()> {
        assert!(bytes <= self.bytes && bytes <= to.bytes, "{bytes} of {} bytes into {}", self.bytes, to.bytes);
        // SAFETY: both places hold as much; the caller keeps `to`.
        unsafe { gpu.driver().download(to.pointer, self.address, bytes, gpu.stream()) }
    }

    /// Copies the first `bytes` bytes of pinned memory here, when the stream comes to it. Panics if there are not as many: a
    /// programming error.
    ///
    /// # Safety
    /// `from` stays as it is until the stream has been waited for.
    pub unsafe fn put_upload(&mut self, gpu: &Gpu, bytes: usize, from: &Pinned) -> Result<()> {
        assert!(bytes <= self.bytes && bytes <= from.bytes, "{bytes} of {} bytes into {}", from.bytes, self.bytes);
        // SAFETY: both places hold as much; the caller keeps `from`.
        unsafe { gpu.driver().upload(self.address, from.pointer, bytes, gpu.stream()) }
    }

    /// Sets `bytes` bytes from `offset` on to 0. Panics if there are not as many: a programming error.
    pub fn clear(&mut self, gpu: &Gpu, offset: usize, bytes: usize) -> Result<()> {
        assert!(offset + bytes <= self.bytes, "{offset} + {bytes} of {} bytes", self.bytes);
        // SAFETY: the bytes lie in this memory.
        unsafe { gpu.driver().set_bytes(self.address + offset as u64, 0, bytes, gpu.stream()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated by this driver, and nobody has its address any more; the driver waits for work.
        unsafe { self.gpu.driver().free(self.address) };
    }
}

/// Memory that is replaced by a larger piece when more is asked for. What it held is lost then.
#[derive(Debug, Default)]
pub struct GrowingMemory(Option<Memory>);

impl GrowingMemory {
    /// Memory of at least this many bytes.
    ///
    /// Errors: there is not as much.
    pub fn of(&mut self, gpu: &Gpu, bytes: usize) -> Result<&mut Memory> {
        let memory = match self.0.take() {
            Some(memory) if memory.bytes >= bytes => memory,
            old => {
                drop(old); // freed before the new one is asked for
                Memory::new(gpu, bytes)?
            }
        };
        Ok(self.0.insert(memory))
    }

    /// The memory; none before it was first asked for.
    pub fn memory(&self) -> Option<&Memory> {
        self.0.as_ref()
    }

    /// The first byte, as an argument of a kernel.
    pub fn arg(&self) -> Arg {
        Arg::address(self.0.as_ref().map_or(0, Memory::address))
    }
}

/// Host memory that copies reach directly.
#[derive(Debug)]
pub struct Pinned {
    gpu: Gpu,
    pointer: *mut u8,
    bytes: usize,
}

// SAFETY: it owns its memory, as a Vec does; the driver may be called from any thread.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Pinned memory of zeros.
    ///
    /// Errors: there is not as much.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Self> {
        let pointer = gpu.driver().allocate_pinned(bytes.max(1)).with_context(|| format!("{bytes} bytes of pinned memory"))?;
        // SAFETY: as many bytes were just allocated.
        unsafe { pointer.write_bytes(0, bytes) };
        Ok(Pinned { gpu: gpu.clone(), pointer, bytes })
    }

    /// Sees to it that `place` holds at least `bytes` bytes, and leaves it alone if it does already.
    ///
    /// Errors: there is not as much.
    pub fn grown<'a>(place: &'a mut Option<Pinned>, gpu: &Gpu, bytes: usize) -> Result<&'a mut Pinned> {
        let pinned = match place.take() {
            Some(pinned) if pinned.bytes >= bytes => pinned,
            old => {
                drop(old); // freed before the new one is asked for
                Pinned::new(gpu, bytes)?
            }
        };
        Ok(place.insert(pinned))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with this length, and zeroed.
        unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) }
    }

    /// Its bytes, to write while no copy is under way.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: it was allocated by this driver; whoever started a copy has waited for it.
        unsafe { self.gpu.driver().free_pinned(self.pointer) };
    }
}
