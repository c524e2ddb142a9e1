//! The device's memory: addresses that mean nothing to the host, so that mixing them up is noticed.

use super::Found;
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The first address of the first device: beyond everything that a processor of today can address.
const FIRST: u64 = 0x4000_0000_0000_0000;
/// Between the first addresses of two devices, so that memory of one is not taken for memory of the other.
const OF_A_DEVICE: u64 = 1 << 44;
/// Between two allocations nothing lies.
const GAP: u64 = 4096;

pub struct Space {
    blocks: BTreeMap<u64, Block>,
    next: u64,
    used: u64,
}

impl Default for Space {
    fn default() -> Self {
        static DEVICES: AtomicU64 = AtomicU64::new(0);
        let device = DEVICES.fetch_add(1, Ordering::Relaxed) % 4096;
        Space { blocks: BTreeMap::new(), next: FIRST + device * OF_A_DEVICE, used: 0 }
    }
}

struct Block {
    memory: Vec<u128>,
    bytes: usize,
    /// A flag for each byte that somebody has written; empty where nothing is checked.
    written: Vec<u8>,
    /// Who wrote and who read each four bytes; empty where nothing is checked.
    words: Vec<[u64; 2]>,
}

/// A multiple of 256, as CUDA's addresses are.
fn padding(memory: &[u128]) -> usize {
    memory.as_ptr().align_offset(256)
}

impl Block {
    fn data(&mut self) -> *mut u8 {
        let skip = padding(&self.memory);
        self.memory.as_mut_ptr().wrapping_add(skip).cast()
    }
}

impl Space {
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Memory that holds bytes which are a NaN in every type, so that whoever reads them without writing is noticed.
    pub fn allocate(&mut self, bytes: usize, checked: bool) -> u64 {
        let address = self.next;
        self.next += (bytes as u64).next_multiple_of(256) + GAP;
        self.used += bytes as u64;
        let memory = vec![u128::MAX; bytes.div_ceil(16) + 16];
        let checked_bytes = if checked { bytes } else { 0 };
        let (written, words) = (vec![0; checked_bytes], vec![[0; 2]; checked_bytes.div_ceil(4)]);
        self.blocks.insert(address, Block { memory, bytes, written, words });
        address
    }

    pub fn free(&mut self, address: u64) {
        if let Some(block) = self.blocks.remove(&address) {
            self.used -= block.bytes as u64;
        }
    }

    /// The allocation in which an address lies; its end counts, for tensors without values.
    pub fn find(&mut self, address: u64) -> Option<Found> {
        let (&first, block) = self.blocks.range_mut(..=address).next_back()?;
        let offset = address - first;
        if offset > block.bytes as u64 {
            return None;
        }
        let written = if block.written.is_empty() { std::ptr::null_mut() } else { block.written.as_mut_ptr() };
        let words = if block.words.is_empty() { std::ptr::null_mut() } else { block.words.as_mut_ptr() };
        Some(Found { data: block.data(), offset, bytes: block.bytes as u64, written, words })
    }

    /// The bytes from `address` on, and their flags.
    fn place(&mut self, address: u64, bytes: usize, what: &str) -> Result<Found> {
        if bytes == 0 {
            let (data, written, words) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
            return Ok(Found { data, offset: 0, bytes: 0, written, words });
        }
        let Some(mut found) = self.find(address) else { bail!("{what}: address {address:#x} lies in no memory of the device") };
        if found.offset + bytes as u64 > found.bytes {
            bail!("{what}: bytes {} to {} of an allocation of {} bytes", found.offset, found.offset + bytes as u64 - 1, found.bytes);
        }
        let offset = found.offset as usize;
        found.data = found.data.wrapping_add(offset);
        if !found.written.is_null() {
            found.written = found.written.wrapping_add(offset);
        }
        Ok(found)
    }

    fn mark(found: Found, bytes: usize) {
        if !found.written.is_null() {
            // SAFETY: there is a flag for each byte of the place.
            unsafe { found.written.write_bytes(1, bytes) };
        }
    }

    /// Safety: `from` holds as many bytes.
    pub unsafe fn write(&mut self, to: u64, from: *const u8, bytes: usize) -> Result<()> {
        let found = self.place(to, bytes, "upload")?;
        if bytes > 0 {
            // SAFETY: both places hold as many bytes.
            unsafe { std::ptr::copy_nonoverlapping(from, found.data, bytes) };
            Self::mark(found, bytes);
        }
        Ok(())
    }

    /// Safety: `to` holds as many bytes.
    pub unsafe fn read(&mut self, to: *mut u8, from: u64, bytes: usize) -> Result<()> {
        let found = self.place(from, bytes, "download")?;
        if bytes > 0 {
            // SAFETY: both places hold as many bytes.
            unsafe { std::ptr::copy_nonoverlapping(found.data, to, bytes) };
        }
        Ok(())
    }

    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<()> {
        let source = self.place(from, bytes, "copy from")?;
        let target = self.place(to, bytes, "copy to")?;
        if bytes > 0 {
            // SAFETY: both places hold as many bytes, and flags where there are any.
            unsafe {
                std::ptr::copy(source.data, target.data, bytes);
                if !target.written.is_null() && !source.written.is_null() {
                    std::ptr::copy(source.written, target.written, bytes);
                }
            }
        }
        Ok(())
    }

    pub fn set(&mut self, to: u64, value: u8, bytes: usize) -> Result<()> {
        let found = self.place(to, bytes, "memset")?;
        if bytes > 0 {
            // SAFETY: the place holds as many bytes.
            unsafe { found.data.write_bytes(value, bytes) };
            Self::mark(found, bytes);
        }
        Ok(())
    }
}
