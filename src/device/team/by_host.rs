//! Collectives that work on memory of the host, for members on any device: what lies on a GPU is copied down and up again.

use super::Collective;
use crate::device::Device;
use anyhow::Result;
use std::fmt::Debug;

/// How members exchange memory of the host.
pub(super) trait HostExchange: Debug + Send + Sync {
    fn rank(&self) -> usize;

    fn size(&self) -> usize;

    /// `Collective::gather`.
    ///
    /// # Safety
    /// As there, of memory of the host.
    unsafe fn gather(&self, memory: *mut u8, bytes: usize) -> Result<()>;

    /// `Collective::exchange`.
    ///
    /// # Safety
    /// As there, of memory of the host.
    unsafe fn exchange(&self, from: *const u8, to: *mut u8, bytes: usize) -> Result<()>;

    fn leave(&self);
}

/// A member that does everything by way of the host's memory.
#[derive(Debug)]
pub(super) struct ByHost<H>(pub(super) H);

impl<H: HostExchange> Collective for ByHost<H> {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    unsafe fn gather(&self, device: &Device, memory: *mut u8, bytes: usize) -> Result<()> {
        let Device::Gpu(gpu) = device else {
            // SAFETY: passed on from the caller.
            return unsafe { self.0.gather(memory, bytes) };
        };
        let mut all = vec![0_u8; bytes * self.size()];
        let own = self.rank() * bytes;
        // SAFETY: the caller promises so many bytes on the GPU, and the copy is waited for before its bytes are read or dropped.
        unsafe {
            gpu.driver().download(all[own..].as_mut_ptr(), memory as u64 + own as u64, bytes, gpu.stream())?;
            gpu.synchronize()?;
            self.0.gather(all.as_mut_ptr(), bytes)?;
            gpu.driver().upload(memory as u64, all.as_ptr(), all.len(), gpu.stream())
        }
    }

    unsafe fn exchange(&self, device: &Device, from: *const u8, to: *mut u8, bytes: usize) -> Result<()> {
        let Device::Gpu(gpu) = device else {
            // SAFETY: passed on from the caller.
            return unsafe { self.0.exchange(from, to, bytes) };
        };
        let mut shown = vec![0_u8; bytes * self.size()];
        let mut got = shown.clone();
        // SAFETY: as in `gather`.
        unsafe {
            gpu.driver().download(shown.as_mut_ptr(), from as u64, shown.len(), gpu.stream())?;
            gpu.synchronize()?;
            self.0.exchange(shown.as_ptr(), got.as_mut_ptr(), bytes)?;
            gpu.driver().upload(to as u64, got.as_ptr(), got.len(), gpu.stream())
        }
    }

    fn leave(&self) {
        self.0.leave();
    }
}

/// Asserts of a member that parts come to their places; all members of its team do the same.
#[cfg(test)]
pub(super) fn assert_exchanges(member: &dyn Collective) {
    let (rank, size) = (member.rank(), member.size());
    let mut all = vec![0_u8; 3 * size];
    all[3 * rank..][..3].fill(rank as u8 + 1);
    // SAFETY: there are three bytes for each member.
    unsafe { member.gather(&Device::Cpu, all.as_mut_ptr(), 3) }.unwrap();
    assert_eq!(all, (0..3 * size).map(|i| (i / 3 + 1) as u8).collect::<Vec<_>>());
    let from: Vec<u8> = (0..2 * size).map(|i| (10 * rank + i / 2) as u8).collect();
    let mut to = vec![0_u8; 2 * size];
    // SAFETY: there are two bytes for each member.
    unsafe { member.exchange(&Device::Cpu, from.as_ptr(), to.as_mut_ptr(), 2) }.unwrap();
    assert_eq!(to, (0..2 * size).map(|i| (10 * (i / 2) + rank) as u8).collect::<Vec<_>>());
}
