//! Atomics of whole numbers. Their sums and extremes do not depend on the order; where the value that was found is used, or the
//! last one wins, blocks run one after the other. Sums of floats depend on the order and are no instruction here.

use super::memory::{Does, Place, Room, look_at_global, shared_fault, shared_offset, view_of};
use super::{Builder, Lowered};
use crate::block::Block;
use crate::code::{Effect, Lanes, Op, Row};
use crate::counters;
use crate::fault::Fault;
use crate::parse::{Class, Instruction, Operand};
use crate::shared::Access;
use anyhow::ensure;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Changes a value in memory, and says what was there.
type Change = unsafe fn(memory: *mut u8, a: u64, b: u64) -> u64;

macro_rules! change {
    ($atomic:ident, $type:ident, $f:expr) => {{
        /// Safety: a value of this size at a multiple of it, touched as atomics alone.
        unsafe fn run(memory: *mut u8, a: u64, b: u64) -> u64 {
            let f: fn(&$atomic, $type, $type) -> $type = $f;
            // SAFETY: passed on.
            f(unsafe { &*memory.cast::<$atomic>() }, a as $type, b as $type) as u64
        }
        run as Change
    }};
}

fn change(name: &str, kind: &str) -> Option<Change> {
    Some(match (name, kind) {
        ("add", "u32" | "s32") => change!(AtomicU32, u32, |to, a, _| to.fetch_add(a, Relaxed)),
        ("add", "u64" | "s64") => change!(AtomicU64, u64, |to, a, _| to.fetch_add(a, Relaxed)),
        ("max", "u32") => change!(AtomicU32, u32, |to, a, _| to.fetch_max(a, Relaxed)),
        ("max", "u64") => change!(AtomicU64, u64, |to, a, _| to.fetch_max(a, Relaxed)),
        ("min", "u32") => change!(AtomicU32, u32, |to, a, _| to.fetch_min(a, Relaxed)),
        ("min", "u64") => change!(AtomicU64, u64, |to, a, _| to.fetch_min(a, Relaxed)),
        ("and", "b32") => change!(AtomicU32, u32, |to, a, _| to.fetch_and(a, Relaxed)),
        ("or", "b32") => change!(AtomicU32, u32, |to, a, _| to.fetch_or(a, Relaxed)),
        ("xor", "b32") => change!(AtomicU32, u32, |to, a, _| to.fetch_xor(a, Relaxed)),
        ("exch", "b32") => change!(AtomicU32, u32, |to, a, _| to.swap(a, Relaxed)),
        ("exch", "b64") => change!(AtomicU64, u64, |to, a, _| to.swap(a, Relaxed)),
        ("cas", "b32") => change!(AtomicU32, u32, |to, a, b| to.compare_exchange(a, b, Relaxed, Relaxed).unwrap_or_else(|found| found)),
        ("cas", "b64") => change!(AtomicU64, u64, |to, a, b| to.compare_exchange(a, b, Relaxed, Relaxed).unwrap_or_else(|found| found)),
        _ => return None,
    })
}

struct Atomic {
    room: Room,
    place: Place,
    to: Option<Row>,
    from: [Row; 2],
    class: Class,
    change: Change,
}

impl Effect for Atomic {
    fn run(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        self.place.find(block, lanes);
        let bytes = self.class.bytes();
        for &lane in lanes.list {
            let lane = usize::from(lane);
            let memory = if self.room == Room::Shared {
                let offset = shared_offset(block, lane, bytes, "changes")?;
                if let Err(what) = block.shared.check(offset, bytes, lane, Access::Atomic) {
                    return Err(shared_fault(block, lane, offset, &what));
                }
                block.shared.memory().wrapping_add(offset)
            } else {
                let view = view_of(block, lane, bytes as u64, "changes")?;
                let offset = (block.addresses[lane] - view.start) as usize;
                look_at_global(block, &view, lane, offset, bytes, Does::Atomic)?;
                view.data.wrapping_add(offset)
            };
            // SAFETY: the value lies there at a multiple of its size; rows of the program, of this width.
            unsafe {
                let value = |row: Row| match self.class {
                    Class::B64 => *block.row::<u64>(row).add(lane),
                    _ => u64::from(*block.row::<u32>(row).add(lane)),
                };
                let found = (self.change)(memory, value(self.from[0]), value(self.from[1]));
                match (self.to, self.class) {
                    (Some(to), Class::B64) => *block.row::<u64>(to).add(lane) = found,
                    (Some(to), _) => *block.row::<u32>(to).add(lane) = found as u32,
                    (None, _) => {}
                }
            }
        }
        if block.launch.counts {
            match self.room {
                Room::Shared => block.counts.shared_stores.add(counters::passes(&block.addresses, lanes, bytes)),
                _ => block.counts.stores.add(counters::traffic(&block.addresses, lanes, bytes)),
            }
        }
        Ok(())
    }
}

pub fn lower(b: &mut Builder, i: &Instruction, words: &[&str]) -> Lowered {
    let (room, name, kind) = match words {
        [_, "global", name, kind] => (Room::Global, *name, *kind),
        [_, "shared" | "shared::cta", name, kind] => (Room::Shared, *name, *kind),
        _ => return Ok(None),
    };
    let Some(change) = change(name, kind) else { return Ok(None) };
    let class = if kind.ends_with("64") { Class::B64 } else { Class::B32 };
    let has_target = words[0] == "atom";
    let operands = &i.operands[usize::from(has_target)..];
    let sources = if name == "cas" { 2 } else { 1 };
    ensure!(operands.len() == 1 + sources, "{} operands; expected {}", i.operands.len(), 1 + sources + usize::from(has_target));
    let first = b.read(&operands[1], class)?;
    let second = if sources == 2 { b.read(&operands[2], class)? } else { first };
    let to = if has_target { Some(b.write(&i.operands[0], class)?) } else { None };
    let place = Place::of(b, &operands[0], room)?;
    if room == Room::Global {
        b.writes_global = true;
        let is_used = match i.operands.first() {
            Some(Operand::Register(register)) if has_target => b.is_read(*register),
            _ => false,
        };
        b.is_ordered |= is_used || matches!(name, "exch" | "cas");
    } else {
        b.smallest_shared = b.smallest_shared.min(class.bytes() as u32);
    }
    Ok(Some(Op::Effect(Box::new(Atomic { room, place, to, from: [first, second], class, change }))))
}
