//! Devices that share the images of a batch, and what they tell each other.
//!
//! A batch is dealt out in blocks of 2^k images, as few as will do, so the last device may have fewer than the others, or none. Whatever
//! needs all images is gathered from all devices and computed by each of them in the same order. So each comes to the same bits, and
//! these are those of one device that has all images.

mod by_host;
mod meeting;
pub mod nccl;
pub mod sockets;

pub use meeting::{ANOTHER_FAILED, in_process};

use super::Device;
use anyhow::Result;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// How the members of a team exchange memory. All of them make the same calls in the same order.
///
/// Memory lies where the member's device computes: in the host's memory, or on its GPU, where a call takes its turn in the device's
/// stream.
pub trait Collective: Debug + Send + Sync {
    /// Which member this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// `memory` has a part of `bytes` for each member, in the order of their ranks, and each has filled its own. Afterwards every member
    /// has all parts.
    ///
    /// Errors: a member has failed, or what joins them.
    ///
    /// # Safety
    /// The memory holds as many bytes, and nobody else touches them meanwhile.
    unsafe fn gather(&self, device: &Device, memory: *mut u8, bytes: usize) -> Result<()>;

    /// `from` has a part of `bytes` for each member, and `to` gets what each member has for this one, both in the order of ranks.
    ///
    /// Errors: as `gather`.
    ///
    /// # Safety
    /// Both hold as many bytes, do not overlap, and nobody else touches them meanwhile.
    unsafe fn exchange(&self, device: &Device, from: *const u8, to: *mut u8, bytes: usize) -> Result<()>;

    /// Says that this member makes no other call, because it has failed: the others are told when they wait for it.
    fn leave(&self);
}

/// The images of a batch, and which of them this device has.
#[derive(Clone, Debug)]
pub struct Team {
    collective: Option<Arc<dyn Collective>>,
    images: usize,
    block: usize,
}

/// Joins devices of this process: by NCCL where all are GPUs and it is there, else by way of the host's memory. Also says how.
pub fn join(devices: &[&Device]) -> (Vec<Arc<dyn Collective>>, String) {
    let by_nccl = || -> Result<(Vec<Arc<dyn Collective>>, String)> {
        let gpu = |device: &&Device| match device {
            Device::Gpu(gpu) => Ok(gpu.clone()),
            other => anyhow::bail!("{} is no GPU", other.describe()),
        };
        let gpus = devices.iter().map(gpu).collect::<Result<Vec<_>>>()?;
        let nccl = nccl::Nccl::find()?;
        let version = nccl.version()?;
        Ok((nccl.in_process(&gpus)?, format!("the devices are joined by NCCL {version}")))
    };
    by_nccl().unwrap_or_else(|why| (in_process(devices.len()), format!("the devices are joined by way of the host's memory: {why:#}")))
}

/// Joins a device of this process with those of other processes, which `others` joins already: by NCCL where all are GPUs that have it, else
/// as they are. Also says how.
///
/// Errors: another process has failed.
pub fn join_processes(device: &Device, others: Arc<dyn Collective>) -> Result<(Arc<dyn Collective>, String)> {
    let by_sockets = |why: &str| format!("{} processes are joined by sockets: {why}", others.size());
    let found = match device {
        Device::Gpu(_) => nccl::Nccl::find(),
        other => Err(anyhow::anyhow!("{} is no GPU", other.describe())),
    };
    // All of them take the same way, and with the same name.
    let have = answers(&*others, found.is_ok())?;
    let (Device::Gpu(gpu), Ok(nccl)) = (device, &found) else {
        let why = found.err().map_or_else(|| "not all have NCCL".to_owned(), |error| format!("{error:#}"));
        let how = by_sockets(&why);
        return Ok((others, how));
    };
    if have.contains(&false) {
        let how = by_sockets("not all have NCCL");
        return Ok((others, how));
    }
    let mut ids = vec![[0_u8; 128]; others.size()];
    if others.rank() == 0 {
        ids[0] = nccl.new_id()?.0;
    }
    // SAFETY: there are 128 bytes for each member.
    unsafe { others.gather(&Device::Cpu, ids.as_mut_ptr().cast(), 128) }?;
    let how = format!("{} processes are joined by NCCL {}", others.size(), nccl.version()?);
    Ok((nccl.of_process(gpu, nccl::Id(ids[0]), others.rank(), others.size())?, how))
}

/// What each member answers to a question that is asked of all.
///
/// Errors: as `Collective::gather`.
pub fn answers(members: &dyn Collective, own: bool) -> Result<Vec<bool>> {
    let mut all = vec![0_u8; members.size()];
    all[members.rank()] = u8::from(own);
    // SAFETY: there is a byte for each member.
    unsafe { members.gather(&Device::Cpu, all.as_mut_ptr(), 1) }?;
    Ok(all.into_iter().map(|answer| answer == 1).collect())
}

/// Images that each of so many members has at most.
pub fn block_of(images: usize, members: usize) -> usize {
    images.div_ceil(members).next_power_of_two()
}

impl Team {
    /// A device that has all images.
    pub fn alone(images: usize) -> Self {
        Team { collective: None, images, block: images }
    }

    /// A member of a team that shares so many images; without one, a device that has all of them.
    pub fn of(collective: Option<Arc<dyn Collective>>, images: usize) -> Self {
        let Some(collective) = collective else { return Team::alone(images) };
        let block = block_of(images, collective.size());
        Team { collective: Some(collective), images, block }
    }

    /// What joins the members; none for a device that has all images.
    pub fn collective(&self) -> Option<&dyn Collective> {
        self.collective.as_deref()
    }

    /// Images of the whole batch.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Images that a device has at most.
    pub fn block(&self) -> usize {
        self.block
    }

    /// The images that this device has: perhaps none.
    pub fn own(&self) -> Range<usize> {
        let first = self.rank() * self.block;
        first.min(self.images)..(first + self.block).min(self.images)
    }

    /// Places for all images and for those that the last devices lack.
    pub fn places(&self) -> usize {
        self.block * self.collective().map_or(1, Collective::size)
    }

    /// True for the one member that adds what all of them have found alike.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    fn rank(&self) -> usize {
        self.collective().map_or(0, Collective::rank)
    }

    /// Brings together what each device has found of its images: `per_image` bytes for each place.
    ///
    /// Errors: as `Collective::gather`.
    ///
    /// # Safety
    /// As `Collective::gather`, for `places` times `per_image` bytes.
    pub unsafe fn gather(&self, device: &Device, memory: *mut u8, per_image: usize) -> Result<()> {
        match self.collective() {
            // SAFETY: passed on from the caller.
            Some(collective) => unsafe { collective.gather(device, memory, per_image * self.block) },
            None => Ok(()),
        }
    }

    /// The same of values on the host.
    ///
    /// Errors: as `Collective::gather`. Values that do not fit the places are a programming error and panic.
    pub fn gather_values(&self, values: &mut [f64]) -> Result<()> {
        assert!(values.len().is_multiple_of(self.places()), "{} values for {} images", values.len(), self.places());
        let per_image = size_of_val(values) / self.places();
        // SAFETY: the slice has as many bytes and is borrowed mutably.
        unsafe { self.gather(&Device::Cpu, values.as_mut_ptr().cast(), per_image) }
    }
}
