//! `cp.async`: copies from the device's memory to the block's that go on beside the code.

use super::memory::{Does, Place, Room, look_at_global, shared_fault, shared_offset, view_of};
use super::{Builder, Lowered};
use crate::block::Block;
use crate::code::{Effect, Lanes, Op, Row};
use crate::copies::Begun;
use crate::counters;
use crate::fault::Fault;
use crate::parse::{Class, Instruction, Operand};
use crate::shared::Access;
use anyhow::ensure;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Begins a copy.
struct Begin {
    to: Place,
    from: Place,
    bytes: usize,
    /// Bytes that are read, where these may be fewer.
    read: Option<Row>,
}

impl Effect for Begin {
    fn run(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        self.to.find(block, lanes);
        for &lane in lanes.list {
            let lane = usize::from(lane);
            let offset = shared_offset(block, lane, self.bytes, "copies to")?;
            if let Err(what) = block.shared.check(offset, self.bytes, lane, Access::CopyBegins) {
                return Err(shared_fault(block, lane, offset, &what));
            }
            // SAFETY: the bytes lie in the block's memory.
            unsafe { block.shared.memory().add(offset).write_bytes(0xff, self.bytes) };
            block.copies.targets[lane] = offset as u64;
        }
        self.from.find(block, lanes);
        block.copies.readers.clear();
        for &lane in lanes.list {
            let at = usize::from(lane);
            // SAFETY: a row of the program, of this width.
            let read = self.read.map_or(self.bytes, |row| unsafe { *block.row::<u32>(row).add(at) } as usize);
            if read > self.bytes {
                return Err(block.fault(at, format!("reads {read} bytes of {}", self.bytes)));
            }
            if !block.addresses[at].is_multiple_of(self.bytes as u64) {
                let what = format!("copies {} bytes from address {:#x}, which is no multiple of that", self.bytes, block.addresses[at]);
                return Err(block.fault(at, what));
            }
            if read > 0 {
                readable(block, at, read)?;
                block.copies.readers.push(lane);
            }
            let (to, from) = (block.copies.targets[at] as usize, block.addresses[at]);
            block.copies.begin(at, to, from, self.bytes, read);
        }
        if block.launch.counts {
            let readers = Lanes { list: &block.copies.readers, all: false };
            let traffic = counters::traffic(&block.addresses, readers, self.bytes);
            block.counts.loads.add(traffic);
            block.counts.shared_stores.add(counters::passes(&block.copies.targets, lanes, self.bytes));
        }
        Ok(())
    }
}

/// Sees to it that a thread can read so many bytes at its address: one after the other, since they may be any number.
fn readable(block: &mut Block, lane: usize, bytes: usize) -> Result<(), Box<Fault>> {
    let first = block.addresses[lane];
    for i in 0..bytes {
        block.addresses[lane] = first + i as u64;
        let view = view_of(block, lane, 1, "copies")?;
        look_at_global(block, &view, lane, (first - view.start) as usize + i, 1, Does::Load)?;
    }
    block.addresses[lane] = first;
    Ok(())
}

/// The copies that a thread has begun become a group.
struct Commit;

impl Effect for Commit {
    fn run(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        lanes.list.iter().for_each(|&lane| block.copies.commit(usize::from(lane)));
        Ok(())
    }
}

/// Waits until no more than `kept` groups of a thread are under way.
struct Wait {
    kept: u32,
    /// True for all copies, those of no group too.
    all: bool,
}

impl Effect for Wait {
    fn run(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        for &lane in lanes.list {
            let lane = usize::from(lane);
            if self.all {
                block.copies.commit(lane);
            }
            while let Some(copy) = block.copies.land(lane, self.kept) {
                land(block, lane, &copy)?;
            }
        }
        Ok(())
    }
}

fn land(block: &mut Block, lane: usize, copy: &Begun) -> Result<(), Box<Fault>> {
    let mut bytes = [0_u8; 16];
    if copy.read > 0 {
        block.addresses[lane] = copy.from;
        let view = view_of(block, lane, 1, "copies")?;
        let offset = (copy.from - view.start) as usize;
        for (i, byte) in bytes.iter_mut().enumerate().take(copy.read) {
            // SAFETY: when the copy began these bytes lay in the allocation.
            *byte = unsafe { &*view.data.add(offset + i).cast::<AtomicU8>() }.load(Relaxed);
        }
    }
    if let Err(what) = block.shared.check(copy.to, copy.bytes, lane, Access::CopyLands) {
        return Err(shared_fault(block, lane, copy.to, &what));
    }
    // SAFETY: the target lies in the block's memory.
    unsafe { block.shared.memory().add(copy.to).copy_from_nonoverlapping(bytes.as_ptr(), copy.bytes) };
    Ok(())
}

pub fn lower(b: &mut Builder, i: &Instruction, words: &[&str]) -> Lowered {
    match (words, &i.operands[..]) {
        (["cp", "async", "commit_group"], []) => Ok(Some(Op::Effect(Box::new(Commit)))),
        (["cp", "async", "wait_all"], []) => Ok(Some(Op::Effect(Box::new(Wait { kept: 0, all: true })))),
        (["cp", "async", "wait_group"], [Operand::Integer(kept)]) => {
            Ok(Some(Op::Effect(Box::new(Wait { kept: u32::try_from(*kept)?, all: false }))))
        }
        (
            ["cp", "async", cache @ ("ca" | "cg"), "shared" | "shared::cta", "global", hint @ ..],
            [to, from, Operand::Integer(bytes @ (4 | 8 | 16)), rest @ ..],
        ) => {
            if !matches!(hint, [] | ["L2::64B"] | ["L2::128B"] | ["L2::256B"]) {
                return Ok(None);
            }
            ensure!(*cache == "ca" || *bytes == 16, "past the nearest cache go 16 bytes at once");
            let read = match rest {
                [] => None,
                [read] => Some(b.read(read, Class::B32)?),
                _ => return Ok(None),
            };
            b.smallest_shared = b.smallest_shared.min(*bytes as u32);
            let (to, from) = (Place::of(b, to, Room::Shared)?, Place::of(b, from, Room::Global)?);
            Ok(Some(Op::Effect(Box::new(Begin { to, from, bytes: *bytes as usize, read }))))
        }
        _ => Ok(None),
    }
}
