//! The device's memory: addresses that mean nothing to the host, with nothing between two allocations, so that mixing them up
//! is noticed.

use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// The first address: beyond everything that a processor of today can address, and with something in both halves.
const FIRST: u64 = 0x4000_0000_1000_0000;
/// Between two allocations nothing lies.
const GAP: u64 = 4096;
/// Where shared memory lies in the space of all addresses.
pub const SHARED_WINDOW: u64 = 0x2000_0000_0000_0000;
/// Bytes of that window.
pub const WINDOW_BYTES: u64 = 1 << 24;

/// All allocations.
#[derive(Default)]
pub struct Space {
    blocks: BTreeMap<u64, Block>,
    next: u64,
    used: u64,
}

struct Block {
    memory: Vec<u128>,
    bytes: usize,
    /// A flag for each byte that somebody has written; empty where nothing is checked. Aligned as the memory is.
    written: Vec<u128>,
    /// What the last launch that touched it did to each four bytes; empty where nothing is checked.
    touched: Vec<u64>,
}

/// An allocation as launches see it. Kernels touch it through atomics, so that a race of theirs is none of Rust.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Its address.
    pub start: u64,
    /// Its length.
    pub bytes: u64,
    /// Its memory.
    pub data: *mut u8,
    /// A flag for each byte; null where nothing is checked.
    pub written: *mut u8,
    /// What a launch did to each four bytes; null where nothing is checked.
    pub touched: *mut u64,
}

// SAFETY: the memory is touched through atomics alone while a launch has the view.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an allocation of {} bytes at {:#x}", self.bytes, self.start)
    }
}

/// A multiple of 256, as CUDA's addresses are.
fn padding(memory: &[u128]) -> usize {
    memory.as_ptr().align_offset(256)
}

fn vector(bytes: usize, value: u128) -> Vec<u128> {
    vec![value; bytes.div_ceil(16) + 16]
}

impl Block {
    fn view(&mut self, start: u64) -> View {
        let pointer = |memory: &mut Vec<u128>| match memory.is_empty() {
            true => std::ptr::null_mut(),
            false => memory.as_mut_ptr().wrapping_add(padding(memory)).cast(),
        };
        let touched = if self.touched.is_empty() { std::ptr::null_mut() } else { self.touched.as_mut_ptr() };
        View { start, bytes: self.bytes as u64, data: pointer(&mut self.memory), written: pointer(&mut self.written), touched }
    }
}

impl Space {
    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Memory that holds bytes which are a NaN in every type, so that whoever reads them without writing is noticed.
    pub fn allocate(&mut self, bytes: usize, checked: bool) -> u64 {
        let address = FIRST + self.next;
        self.next += (bytes as u64).next_multiple_of(256) + GAP;
        self.used += bytes as u64;
        let (written, touched) = if checked { (vector(bytes, 0), vec![0; bytes.div_ceil(4) + 1]) } else { Default::default() };
        self.blocks.insert(address, Block { memory: vector(bytes, u128::MAX), bytes, written, touched });
        address
    }

    /// Gives memory back.
    pub fn free(&mut self, address: u64) {
        if let Some(block) = self.blocks.remove(&address) {
            self.used -= block.bytes as u64;
        }
    }

    /// All allocations, ascending.
    pub fn views(&mut self) -> Vec<View> {
        self.blocks.iter_mut().map(|(&start, block)| block.view(start)).collect()
    }

    /// True if an address lies in an allocation; its end counts, for tensors without values.
    pub fn has(&self, address: u64) -> bool {
        self.blocks.range(..=address).next_back().is_some_and(|(start, block)| address - start <= block.bytes as u64)
    }

    /// The allocation and the first byte in it of a place of `bytes` bytes.
    fn place(&mut self, address: u64, bytes: usize, what: &str) -> Result<(View, usize)> {
        let Some((&start, block)) = self.blocks.range_mut(..=address).next_back() else { bail!("{what}: {}", nowhere(address, &[])) };
        let offset = address - start;
        if offset + bytes as u64 > block.bytes as u64 {
            bail!("{what}: bytes {offset} to {} of an allocation of {} bytes", offset + bytes as u64 - 1, block.bytes);
        }
        Ok((block.view(start), offset as usize))
    }

    fn mark(view: &View, offset: usize, bytes: usize) {
        if !view.written.is_null() {
            // SAFETY: there is a flag for each byte of the place.
            unsafe { view.written.add(offset).write_bytes(1, bytes) };
        }
    }

    /// Copies from the host. Safety: `from` holds as many bytes.
    pub unsafe fn write(&mut self, to: u64, from: *const u8, bytes: usize) -> Result<()> {
        if bytes > 0 {
            let (view, offset) = self.place(to, bytes, "upload")?;
            // SAFETY: both places hold as many bytes.
            unsafe { std::ptr::copy_nonoverlapping(from, view.data.add(offset), bytes) };
            Self::mark(&view, offset, bytes);
        }
        Ok(())
    }

    /// Copies to the host. Safety: `to` holds as many bytes.
    pub unsafe fn read(&mut self, to: *mut u8, from: u64, bytes: usize) -> Result<()> {
        if bytes > 0 {
            let (view, offset) = self.place(from, bytes, "download")?;
            // SAFETY: both places hold as many bytes.
            unsafe { std::ptr::copy_nonoverlapping(view.data.add(offset), to, bytes) };
        }
        Ok(())
    }

    /// Copies on the device; what was not written stays so.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<()> {
        if bytes > 0 {
            let (source, from) = self.place(from, bytes, "copy from")?;
            let (target, to) = self.place(to, bytes, "copy to")?;
            // SAFETY: both places hold as many bytes, and flags where there are any.
            unsafe {
                std::ptr::copy(source.data.add(from), target.data.add(to), bytes);
                if !target.written.is_null() {
                    std::ptr::copy(source.written.add(from), target.written.add(to), bytes);
                }
            }
        }
        Ok(())
    }

    /// Sets all bytes of a place.
    pub fn set(&mut self, to: u64, value: u8, bytes: usize) -> Result<()> {
        if bytes > 0 {
            let (view, offset) = self.place(to, bytes, "memset")?;
            // SAFETY: the place holds as many bytes.
            unsafe { view.data.add(offset).write_bytes(value, bytes) };
            Self::mark(&view, offset, bytes);
        }
        Ok(())
    }
}

impl View {
    /// True if all of these bytes were written.
    ///
    /// Safety: they lie in the allocation at a multiple of their number, a power of two, and flags are kept.
    #[inline(always)]
    pub unsafe fn is_written(&self, offset: usize, bytes: usize) -> bool {
        let flags = self.written.wrapping_add(offset);
        // SAFETY: passed on; flags are only touched as atomics while a launch runs, by accesses like those to the memory.
        unsafe {
            match bytes {
                4 => (*flags.cast::<AtomicU32>()).load(Relaxed) == 0x0101_0101,
                8 | 16 => (0..bytes / 8).all(|i| (*flags.cast::<AtomicU64>().add(i)).load(Relaxed) == 0x0101_0101_0101_0101),
                _ => (0..bytes).all(|i| (*flags.add(i).cast::<AtomicU8>()).load(Relaxed) != 0),
            }
        }
    }

    /// Notes that these bytes were written.
    ///
    /// Safety: as `is_written`.
    #[inline(always)]
    pub unsafe fn set_written(&self, offset: usize, bytes: usize) {
        let flags = self.written.wrapping_add(offset);
        // SAFETY: as above.
        unsafe {
            match bytes {
                4 => (*flags.cast::<AtomicU32>()).store(0x0101_0101, Relaxed),
                8 | 16 => (0..bytes / 8).for_each(|i| (*flags.cast::<AtomicU64>().add(i)).store(0x0101_0101_0101_0101, Relaxed)),
                _ => (0..bytes).for_each(|i| (*flags.add(i).cast::<AtomicU8>()).store(1, Relaxed)),
            }
        }
    }

    /// Notes that a launch reads these bytes through the cache that does not see its writes, or writes them. Returns true if
    /// the same launch has also done the other thing to one of them.
    ///
    /// Safety: they lie in the allocation, and notes are kept.
    #[inline(always)]
    pub unsafe fn note(&self, offset: usize, bytes: usize, launch: u32, writes: bool) -> bool {
        let mut collides = false;
        let (first, last) = (offset / 4, (offset + bytes - 1) / 4);
        for word in first..=last {
            // Which bytes of the word: those read in bits 0 to 3, those written in bits 4 to 7.
            let from = offset.saturating_sub(word * 4).min(4);
            let to = (offset + bytes - word * 4).min(4);
            let mask = ((1_u64 << to) - (1 << from)) << if writes { 4 } else { 0 };
            let other = if writes { mask >> 4 } else { mask << 4 };
            // SAFETY: passed on; notes are only touched as atomics while a launch runs.
            let note = unsafe { &*self.touched.add(word).cast::<AtomicU64>() };
            let mut before = note.load(Relaxed);
            loop {
                let kept = if before >> 8 == u64::from(launch) { before } else { u64::from(launch) << 8 };
                collides |= kept & other != 0;
                if before == kept | mask {
                    break;
                }
                match note.compare_exchange_weak(before, kept | mask, Relaxed, Relaxed) {
                    Ok(_) => break,
                    Err(now) => before = now,
                }
            }
        }
        collides
    }
}

/// What is wrong with an address that lies in no allocation.
pub fn nowhere(address: u64, views: &[View]) -> String {
    if address >> 32 == 0 {
        let low = |value: u64| value & 0xffff_ffff;
        if let Some(view) = views.iter().find(|view| (low(view.start)..low(view.start) + view.bytes.max(1)).contains(&address)) {
            return format!(
                "address {address:#x} lies in no memory of the device: the upper half of {:#x} is gone; keep addresses in 64 bits",
                view.start + (address - low(view.start))
            );
        }
    }
    if (SHARED_WINDOW..SHARED_WINDOW + WINDOW_BYTES).contains(&address) {
        return format!("address {address:#x} is one of shared memory, not of the device's");
    }
    let near = views[..views.partition_point(|view| view.start <= address)].last();
    match near.filter(|view| address - view.start < view.bytes + GAP) {
        Some(view) => {
            let offset = address - view.start;
            format!("address {address:#x} lies at byte {offset} of {view}")
        }
        None => format!("address {address:#x} lies in no memory of the device"),
    }
}
