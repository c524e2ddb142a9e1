//! Loads, stores and atomics.

use super::{Builder, Lowered};
use crate::block::Block;
use crate::code::{Effect, Lanes, Op, Row};
use crate::counters;
use crate::fault::Fault;
use crate::global::{SHARED_WINDOW, View, WINDOW_BYTES, nowhere};
use crate::parse::{Base, Class, Instruction, Operand};
use crate::shared::Access;
use anyhow::{Result, bail, ensure};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Which memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The device's.
    Global,
    /// The block's.
    Shared,
    /// Either, as the address says.
    Generic,
}

/// An address: the value of a register and a number.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub base: Option<(Row, Class)>,
    pub offset: i64,
}

impl Place {
    /// Of an operand in brackets.
    pub fn of(b: &mut Builder, operand: &Operand, room: Room) -> Result<Place> {
        match operand {
            Operand::Address(Base::Register(register), offset) => {
                let register = Operand::Register(*register);
                let class = b.class_of(&register).filter(|class| matches!(class, Class::B32 | Class::B64));
                let Some(class) = class else { bail!("an address in a register of {class:?}") };
                if room != Room::Shared {
                    b.used_as_address(&register);
                }
                Ok(Place { base: Some((b.read(&register, class)?, class)), offset: *offset })
            }
            Operand::Address(Base::Shared, offset) if room == Room::Shared => Ok(Place { base: None, offset: *offset }),
            other => bail!("{other:?} is no address of {room:?} memory"),
        }
    }

    /// Works out the address of each thread.
    #[inline(always)]
    pub fn find(&self, block: &mut Block, lanes: Lanes) {
        let offset = self.offset as u64;
        // SAFETY: a row of the program, of this width; there is an address for each thread.
        unsafe {
            let addresses = block.addresses.as_mut_ptr();
            match self.base {
                None => lanes.list.iter().for_each(|&lane| *addresses.add(usize::from(lane)) = offset),
                Some((row, Class::B64)) => {
                    let base = block.row::<u64>(row);
                    if lanes.all {
                        (0..lanes.list.len()).for_each(|lane| *addresses.add(lane) = (*base.add(lane)).wrapping_add(offset));
                    } else {
                        lanes
                            .list
                            .iter()
                            .map(|&lane| usize::from(lane))
                            .for_each(|lane| *addresses.add(lane) = (*base.add(lane)).wrapping_add(offset));
                    }
                }
                Some((row, _)) => {
                    let base = block.row::<u32>(row);
                    lanes
                        .list
                        .iter()
                        .map(|&lane| usize::from(lane))
                        .for_each(|lane| *addresses.add(lane) = u64::from(*base.add(lane)).wrapping_add(offset));
                }
            }
        }
    }
}

/// Sees to it that all addresses of global memory lie in one allocation at multiples of `bytes`, and gives it; none if they
/// lie in several, each of which is found for itself by `view_of`.
#[inline(always)]
fn common_view(block: &mut Block, lanes: Lanes, bytes: u64) -> Option<View> {
    let view = *block.launch.views.get(block.found[block.place] as usize)?;
    let inside = |address: u64| {
        let offset = address.wrapping_sub(view.start);
        offset <= view.bytes.wrapping_sub(bytes) && view.bytes >= bytes && address & (bytes - 1) == 0
    };
    let holds = if lanes.all {
        block.addresses[..lanes.list.len()].iter().fold(true, |all, &address| all & inside(address))
    } else {
        lanes.list.iter().all(|&lane| inside(block.addresses[usize::from(lane)]))
    };
    holds.then_some(view)
}

/// The allocation that holds `bytes` bytes at the address of a thread.
///
/// Errors: there is none, or the address is no multiple of `bytes`.
#[inline(never)]
pub fn view_of(block: &mut Block, lane: usize, bytes: u64, does: &str) -> Result<View, Box<Fault>> {
    let address = block.addresses[lane];
    let views = block.launch.views;
    let at = views.partition_point(|view| view.start <= address);
    let Some(view) = views[..at].last().filter(|view| address - view.start < view.bytes) else {
        return Err(block.fault(lane, format!("{does} {bytes} bytes: {}", nowhere(address, views))));
    };
    let offset = address - view.start;
    if offset + bytes > view.bytes {
        let what = format!("{does} bytes {offset} to {} of {view}", offset + bytes - 1);
        return Err(block.fault(lane, what));
    }
    if !address.is_multiple_of(bytes) {
        return Err(block.fault(lane, format!("{does} {bytes} bytes at byte {offset} of {view}, which is no multiple of {bytes}")));
    }
    block.found[block.place] = at as u32 - 1;
    Ok(*view)
}

/// The offset of a thread's access to shared memory.
///
/// Errors: it lies outside, or is no multiple of `bytes`.
#[inline(always)]
pub fn shared_offset(block: &Block, lane: usize, bytes: usize, does: &str) -> Result<usize, Box<Fault>> {
    let address = block.addresses[lane];
    let size = block.shared.bytes() as u64;
    if address > size.wrapping_sub(bytes as u64) || size < bytes as u64 || address & (bytes as u64 - 1) != 0 {
        return Err(wrong_shared(block, lane, bytes, does));
    }
    Ok(address as usize)
}

#[cold]
fn wrong_shared(block: &Block, lane: usize, bytes: usize, does: &str) -> Box<Fault> {
    let (address, size) = (block.addresses[lane], block.shared.bytes());
    if (-65536..0).contains(&(address as i64)) {
        return block.fault(lane, format!("{does} shared memory at byte {}", address as i64));
    }
    if address >= SHARED_WINDOW {
        let kind =
            if address < SHARED_WINDOW + WINDOW_BYTES { "a generic address of shared memory" } else { "an address of another memory" };
        return block.fault(lane, format!("{does} shared memory at {address:#x}, which is {kind}"));
    }
    if address + bytes as u64 > size as u64 {
        return block
            .fault(lane, format!("{does} shared memory at bytes {address} to {}; the block has {size}", address + bytes as u64 - 1));
    }
    block.fault(lane, format!("{does} {bytes} bytes of shared memory at byte {address}, which is no multiple of {bytes}"))
}

/// What is wrong with an access to shared memory, and to which variable it is.
#[cold]
pub fn shared_fault(block: &Block, lane: usize, offset: usize, what: &str) -> Box<Fault> {
    let before = block.program.shared.partition_point(|(first, _)| *first as usize <= offset);
    let place = match block.program.shared[..before].last() {
        Some((first, name)) => format!("byte {} of `{name}`", offset - *first as usize),
        None => format!("byte {offset}"),
    };
    block.fault(lane, format!("shared memory, {place}: {what}"))
}

/// Looks at a thread's access to global memory that lies within an allocation, and remembers it.
#[inline(always)]
pub fn look_at_global(block: &Block, view: &View, lane: usize, offset: usize, bytes: usize, does: Does) -> Result<(), Box<Fault>> {
    if !block.launch.checks {
        return Ok(());
    }
    // SAFETY: the access lies within the allocation; where there are checks there are flags and notes.
    unsafe {
        if does != Does::Store && !view.is_written(offset, bytes) {
            let what = format!("reads bytes {offset} to {} of {view}, which nobody has written", offset + bytes - 1);
            return Err(block.fault(lane, what));
        }
        if does != Does::Load && does != Does::LoadCached {
            view.set_written(offset, bytes);
        }
        if block.program.compares_cached_reads
            && does != Does::Load
            && view.note(offset, bytes, block.launch.number, does != Does::LoadCached)
        {
            let what = match does {
                Does::LoadCached => "reads by the cache that sees no writes what the same launch has written",
                _ => "writes what the same launch has read by the cache that sees no writes",
            };
            return Err(block.fault(lane, format!("{what}: bytes {offset} to {} of {view}", offset + bytes - 1)));
        }
    }
    Ok(())
}

/// What an access to global memory does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    Load,
    /// `ld.global.nc`.
    LoadCached,
    Store,
    Atomic,
}

/// Takes values between memory and the rows of threads: the widths of both are fixed when the kernel is made executable. Each
/// thread's bytes lie behind `memory` by as much as its address is above `start`.
type Transfer = unsafe fn(memory: *mut u8, start: u64, block: &Block, rows: &[Row; 4], lanes: Lanes);

/// Calls for each thread with where its bytes lie.
#[inline(always)]
fn each(memory: *mut u8, start: u64, block: &Block, lanes: Lanes, mut f: impl FnMut(usize, *mut u8)) {
    let mut one = |lane: usize| f(lane, memory.wrapping_add((block.addresses[lane] - start) as usize));
    if lanes.all {
        (0..lanes.list.len()).for_each(&mut one);
    } else {
        lanes.list.iter().for_each(|&lane| one(usize::from(lane)));
    }
}

/// Safety: each thread has `N` values of type `M` at a multiple of their size, touched as atomics alone; the rows are of type `R`.
unsafe fn load<M: Atomic, R: Filled<M::Value>, const N: usize>(memory: *mut u8, start: u64, block: &Block, rows: &[Row; 4], lanes: Lanes) {
    let rows = rows.map(|row| block.row::<R>(row));
    each(memory, start, block, lanes, |lane, from| {
        for (k, row) in rows.iter().enumerate().take(N) {
            // SAFETY: passed on.
            unsafe { *row.add(lane) = R::filled(M::get(from, k)) };
        }
    });
}

/// Safety: as `load`.
unsafe fn store<M: Atomic, R: Copy + Low<M::Value>, const N: usize>(
    memory: *mut u8,
    start: u64,
    block: &Block,
    rows: &[Row; 4],
    lanes: Lanes,
) {
    let rows = rows.map(|row| block.row::<R>(row));
    each(memory, start, block, lanes, |lane, to| {
        for (k, row) in rows.iter().enumerate().take(N) {
            // SAFETY: passed on.
            unsafe { M::put(to, k, (*row.add(lane)).low()) };
        }
    });
}

trait Atomic {
    type Value;
    /// Safety: the value lies in memory that is touched as atomics alone, at a multiple of its size.
    unsafe fn get(memory: *mut u8, k: usize) -> Self::Value;
    /// Safety: as `get`.
    unsafe fn put(memory: *mut u8, k: usize, value: Self::Value);
}
macro_rules! atomics {
    ($($atomic:ident $value:ident)*) => {$(
        impl Atomic for $atomic {
            type Value = $value;
            #[inline(always)]
            unsafe fn get(memory: *mut u8, k: usize) -> $value {
                // SAFETY: passed on.
                unsafe { &*memory.cast::<$atomic>().add(k) }.load(Relaxed)
            }
            #[inline(always)]
            unsafe fn put(memory: *mut u8, k: usize, value: $value) {
                // SAFETY: passed on.
                unsafe { &*memory.cast::<$atomic>().add(k) }.store(value, Relaxed)
            }
        }
    )*};
}
atomics!(AtomicU8 u8 AtomicU16 u16 AtomicU32 u32 AtomicU64 u64);

/// Widening into a register.
trait Filled<V> {
    fn filled(value: V) -> Self;
}
/// The low part of a register.
trait Low<V> {
    fn low(self) -> V;
}
macro_rules! widths {
    ($($memory:ident $register:ident)*) => {$(
        impl Filled<$memory> for $register {
            #[inline(always)]
            fn filled(value: $memory) -> $register {
                value as $register
            }
        }
        impl Low<$memory> for $register {
            #[inline(always)]
            fn low(self) -> $memory {
                self as $memory
            }
        }
    )*};
}
widths!(u8 u16 u8 u32 u8 u64 u16 u16 u16 u32 u16 u64 u32 u32 u32 u64 u64 u64);

/// Registers that a load with a sign fills.
#[repr(transparent)]
struct Signed<R>(R);
macro_rules! signed {
    ($($memory:ident $as:ident $register:ident)*) => {$(
        impl Filled<$memory> for Signed<$register> {
            #[inline(always)]
            fn filled(value: $memory) -> Self {
                Signed(value as $as as $register)
            }
        }
    )*};
}
signed!(u8 i8 u16 u8 i8 u32 u8 i8 u64 u16 i16 u32 u16 i16 u64 u32 i32 u64);

fn load_transfer(bytes: usize, class: Class, count: usize, signed: bool) -> Option<Transfer> {
    Some(match (bytes, class, count, signed) {
        (4, Class::B32, 1, _) => load::<AtomicU32, u32, 1>,
        (4, Class::B32, 2, _) => load::<AtomicU32, u32, 2>,
        (4, Class::B32, 4, _) => load::<AtomicU32, u32, 4>,
        (8, Class::B64, 1, _) => load::<AtomicU64, u64, 1>,
        (8, Class::B64, 2, _) => load::<AtomicU64, u64, 2>,
        (2, Class::B16, 1, _) => load::<AtomicU16, u16, 1>,
        (2, Class::B16, 2, _) => load::<AtomicU16, u16, 2>,
        (2, Class::B16, 4, _) => load::<AtomicU16, u16, 4>,
        (1, Class::B16, 1, false) => load::<AtomicU8, u16, 1>,
        (1, Class::B16, 2, false) => load::<AtomicU8, u16, 2>,
        (1, Class::B16, 4, false) => load::<AtomicU8, u16, 4>,
        (1, Class::B32, 1, false) => load::<AtomicU8, u32, 1>,
        (2, Class::B32, 1, false) => load::<AtomicU16, u32, 1>,
        (4, Class::B64, 1, false) => load::<AtomicU32, u64, 1>,
        (1, Class::B64, 1, false) => load::<AtomicU8, u64, 1>,
        (2, Class::B64, 1, false) => load::<AtomicU16, u64, 1>,
        (1, Class::B16, 1, true) => load::<AtomicU8, Signed<u16>, 1>,
        (1, Class::B32, 1, true) => load::<AtomicU8, Signed<u32>, 1>,
        (1, Class::B64, 1, true) => load::<AtomicU8, Signed<u64>, 1>,
        (2, Class::B32, 1, true) => load::<AtomicU16, Signed<u32>, 1>,
        (2, Class::B64, 1, true) => load::<AtomicU16, Signed<u64>, 1>,
        (4, Class::B64, 1, true) => load::<AtomicU32, Signed<u64>, 1>,
        _ => return None,
    })
}

fn store_transfer(bytes: usize, class: Class, count: usize) -> Option<Transfer> {
    Some(match (bytes, class, count) {
        (4, Class::B32, 1) => store::<AtomicU32, u32, 1>,
        (4, Class::B32, 2) => store::<AtomicU32, u32, 2>,
        (4, Class::B32, 4) => store::<AtomicU32, u32, 4>,
        (8, Class::B64, 1) => store::<AtomicU64, u64, 1>,
        (8, Class::B64, 2) => store::<AtomicU64, u64, 2>,
        (2, Class::B16, 1) => store::<AtomicU16, u16, 1>,
        (2, Class::B16, 2) => store::<AtomicU16, u16, 2>,
        (2, Class::B16, 4) => store::<AtomicU16, u16, 4>,
        (1, Class::B16, 1) => store::<AtomicU8, u16, 1>,
        (1, Class::B32, 1) => store::<AtomicU8, u32, 1>,
        (1, Class::B64, 1) => store::<AtomicU8, u64, 1>,
        (2, Class::B32, 1) => store::<AtomicU16, u32, 1>,
        (2, Class::B64, 1) => store::<AtomicU16, u64, 1>,
        (4, Class::B64, 1) => store::<AtomicU32, u64, 1>,
        _ => return None,
    })
}

/// A load or a store.
struct Move {
    room: Room,
    place: Place,
    rows: [Row; 4],
    bytes: usize,
    does: Does,
    /// Where the parts begin whose registers somebody reads, and their length; none if all are read. A compiler may load more than
    /// the source asks for, and what lies there is nobody's business then.
    parts: Option<(Vec<usize>, usize)>,
    transfer: Transfer,
}

impl Effect for Move {
    fn run(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        self.place.find(block, lanes);
        match self.room {
            Room::Shared => self.shared(block, lanes),
            Room::Global => self.global(block, lanes),
            Room::Generic => {
                let (shared, global): (Vec<u16>, Vec<u16>) = lanes
                    .list
                    .iter()
                    .partition(|&&lane| (SHARED_WINDOW..SHARED_WINDOW + WINDOW_BYTES).contains(&block.addresses[usize::from(lane)]));
                shared.iter().for_each(|&lane| block.addresses[usize::from(lane)] -= SHARED_WINDOW);
                self.shared(block, Lanes { list: &shared, all: false })?;
                self.global(block, Lanes { list: &global, all: false })
            }
        }
    }
}

impl Move {
    fn words(&self) -> &'static str {
        if self.does == Does::Store { "writes" } else { "reads" }
    }

    fn global(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        let bytes = self.bytes as u64;
        match common_view(block, lanes, bytes) {
            Some(view) => {
                self.look(block, &view, lanes)?;
                // SAFETY: all bytes lie in the allocation at a multiple of their number.
                unsafe { (self.transfer)(view.data, view.start, block, &self.rows, lanes) };
            }
            None => {
                for lane in lanes.list.chunks(1) {
                    let view = view_of(block, usize::from(lane[0]), bytes, self.words())?;
                    let lane = Lanes { list: lane, all: false };
                    self.look(block, &view, lane)?;
                    // SAFETY: as above.
                    unsafe { (self.transfer)(view.data, view.start, block, &self.rows, lane) };
                }
            }
        }
        if block.launch.counts {
            let traffic = counters::traffic(&block.addresses, lanes, self.bytes);
            let sum = if self.does == Does::Store { &mut block.counts.stores } else { &mut block.counts.loads };
            sum.add(traffic);
        }
        Ok(())
    }

    fn look(&self, block: &Block, view: &View, lanes: Lanes) -> Result<(), Box<Fault>> {
        if !block.launch.checks {
            return Ok(());
        }
        lanes.list.iter().map(|&lane| usize::from(lane)).try_for_each(|lane| {
            let offset = (block.addresses[lane] - view.start) as usize;
            match &self.parts {
                None => look_at_global(block, view, lane, offset, self.bytes, self.does),
                Some((parts, bytes)) => {
                    parts.iter().try_for_each(|part| look_at_global(block, view, lane, offset + part, *bytes, self.does))
                }
            }
        })
    }

    fn shared(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        let access = if self.does == Does::Store { Access::Write } else { Access::Read };
        for &lane in lanes.list {
            let lane = usize::from(lane);
            let offset = shared_offset(block, lane, self.bytes, self.words())?;
            if !block.launch.checks {
                continue;
            }
            let looked = match &self.parts {
                None => block.shared.check(offset, self.bytes, lane, access),
                Some((parts, bytes)) => parts.iter().try_for_each(|part| block.shared.check(offset + part, *bytes, lane, access)),
            };
            if let Err(what) = looked {
                return Err(shared_fault(block, lane, offset, &what));
            }
        }
        let memory = block.shared.memory();
        // SAFETY: all bytes lie in the block's memory, at a multiple of their number.
        unsafe { (self.transfer)(memory, 0, block, &self.rows, lanes) };
        if block.launch.counts {
            let passes = counters::passes(&block.addresses, lanes, self.bytes);
            let sum = if self.does == Does::Store { &mut block.counts.shared_stores } else { &mut block.counts.shared_loads };
            sum.add(passes);
        }
        Ok(())
    }
}

/// A parameter's value, which is the same for all threads.
struct LoadParameter {
    offset: usize,
    bytes: usize,
    signed: bool,
    to: Row,
    class: Class,
}

impl Effect for LoadParameter {
    fn run(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        let mut raw = [0; 8];
        raw[..self.bytes].copy_from_slice(&block.launch.parameters[self.offset..self.offset + self.bytes]);
        let mut value = u64::from_le_bytes(raw);
        if self.signed {
            let above = 64 - 8 * self.bytes as u32;
            value = ((value << above) as i64 >> above) as u64;
        }
        for &lane in lanes.list {
            let lane = usize::from(lane);
            // SAFETY: a row of the program, of this width.
            unsafe {
                match self.class {
                    Class::Predicate | Class::B16 => *block.row::<u16>(self.to).add(lane) = value as u16,
                    Class::B32 => *block.row::<u32>(self.to).add(lane) = value as u32,
                    Class::B64 => *block.row::<u64>(self.to).add(lane) = value,
                }
            }
        }
        Ok(())
    }
}

/// Bytes of a type, and whether it has a sign.
fn of_type(word: &str) -> Option<(usize, bool)> {
    Some(match word {
        "b8" | "u8" => (1, false),
        "s8" => (1, true),
        "b16" | "u16" => (2, false),
        "s16" => (2, true),
        "b32" | "u32" | "f32" => (4, false),
        "s32" => (4, true),
        "b64" | "u64" | "f64" => (8, false),
        "s64" => (8, true),
        _ => return None,
    })
}

pub fn lower(b: &mut Builder, i: &Instruction, words: &[&str]) -> Lowered {
    let (room, does, rest) = match words {
        ["ld", "param", kind] => return load_parameter(b, i, kind),
        ["ld", "global", "nc", rest @ ..] => (Room::Global, Does::LoadCached, rest),
        ["ld", "global", rest @ ..] => (Room::Global, Does::Load, rest),
        ["ld", "shared" | "shared::cta", rest @ ..] => (Room::Shared, Does::Load, rest),
        ["st", "global", rest @ ..] => (Room::Global, Does::Store, rest),
        ["st", "shared" | "shared::cta", rest @ ..] => (Room::Shared, Does::Store, rest),
        ["ld", rest @ ..] => (Room::Generic, Does::Load, rest),
        ["st", rest @ ..] => (Room::Generic, Does::Store, rest),
        _ => return Ok(None),
    };
    let (count, kind) = match rest {
        [kind] => (1, kind),
        ["v2", kind] => (2, kind),
        ["v4", kind] => (4, kind),
        _ => return Ok(None),
    };
    let Some((size, signed)) = of_type(kind) else { return Ok(None) };
    ensure!(size * count <= 16, "an access of {} bytes", size * count);
    ensure!(i.operands.len() == 2, "{} operands; expected 2", i.operands.len());
    let (value, address) = if does == Does::Store { (&i.operands[1], &i.operands[0]) } else { (&i.operands[0], &i.operands[1]) };
    let values = match value {
        Operand::Vector(values) => &values[..],
        value => std::slice::from_ref(value),
    };
    ensure!(values.len() == count, "{} registers; expected {count}", values.len());
    let own = if size == 8 {
        Class::B64
    } else if size == 4 {
        Class::B32
    } else {
        Class::B16
    };
    let class = values.iter().find_map(|value| b.class_of(value)).unwrap_or(own);
    let mut rows = [0; 4];
    for (row, value) in rows.iter_mut().zip(values) {
        *row = if does == Does::Store { b.read(value, class)? } else { b.write(value, class)? };
    }
    let transfer = if does == Does::Store { store_transfer(size, class, count) } else { load_transfer(size, class, count, signed) };
    let Some(transfer) = transfer else { return Ok(None) };
    b.reads_cached |= does == Does::LoadCached;
    b.writes_global |= does == Does::Store && room != Room::Shared;
    if room != Room::Global {
        b.smallest_shared = b.smallest_shared.min(size as u32);
    }
    let place = Place::of(b, address, room)?;
    let is_read = |value: &Operand| !matches!(value, Operand::Register(register) if !b.is_read(*register));
    let read: Vec<usize> = values.iter().enumerate().filter(|(_, value)| is_read(value)).map(|(k, _)| k * size).collect();
    let parts = (does != Does::Store && count > 1 && read.len() < count).then_some((read, size));
    Ok(Some(Op::Effect(Box::new(Move { room, place, rows, bytes: size * count, does, parts, transfer }))))
}

fn load_parameter(b: &mut Builder, i: &Instruction, kind: &str) -> Lowered {
    let Some((bytes, signed)) = of_type(kind) else { return Ok(None) };
    let [to, Operand::Address(Base::Parameter(parameter), inside)] = &i.operands[..] else { bail!("no register and parameter") };
    let known = &b.kernel.parameters[*parameter];
    let fits = *inside >= 0 && (*inside as usize).is_multiple_of(bytes) && *inside as usize + bytes <= known.bytes as usize;
    ensure!(fits, "bytes {inside} and on of a parameter of {} bytes", known.bytes);
    let offset = (i64::from(known.offset) + inside) as usize;
    let Some(class) = b.class_of(to).filter(|class| *class != Class::Predicate && class.bytes() >= bytes) else { return Ok(None) };
    if bytes == 8 {
        b.hold(to, *parameter);
    }
    Ok(Some(Op::Effect(Box::new(LoadParameter { offset, bytes, signed, to: b.write(to, class)?, class }))))
}
