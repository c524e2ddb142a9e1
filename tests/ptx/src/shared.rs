//! The shared memory of one block: its bytes, which of them were written, and who touched what since the last barrier.

use std::ops::Range;

/// Two accesses by different threads to the same value are a race unless a barrier lies between them, or both only read, or
/// both are atomic. A mark remembers the last access: epoch of the block in the upper half, then epoch of the warp, a bit for
/// atomics, and who it was.
type Mark = u64;
const ATOMIC: u64 = 1 << 15;
const WHO: u64 = 0xfff;
/// Who, if it was more than one thread of this warp, or threads of more than one warp.
const SEVERAL_OF_WARP: u64 = 1024;
const SEVERAL: u64 = WHO;

/// What a granule holds.
const UNSET: u8 = 0;
const WRITTEN: u8 = 1;
/// An asynchronous copy has begun and was not waited for.
const PENDING: u8 = 2;

/// Bytes that nobody has written: a NaN in every type.
const POISON: u8 = 0xff;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Atomic,
    /// An asynchronous copy begins here.
    CopyBegins,
    /// An asynchronous copy has arrived here.
    CopyLands,
}

/// The shared memory of a block.
#[derive(Debug, Default)]
pub struct Shared {
    memory: Vec<u128>,
    bytes: usize,
    /// A state for each granule; empty where nothing is checked.
    states: Vec<u8>,
    /// Who wrote and who read each granule; empty where nothing is checked.
    marks: Vec<[Mark; 2]>,
    /// Bytes of a granule, as a power of two: the smallest access of the kernel.
    granule: u32,
    epoch: u64,
    warp_epochs: Vec<u64>,
}

impl Shared {
    /// Memory of `bytes` bytes for blocks of `warps` warps.
    pub fn new(bytes: usize, warps: usize, granule: u32, checked: bool) -> Self {
        let granules = if checked { bytes.div_ceil(1 << granule) } else { 0 };
        let (states, marks) = (vec![UNSET; granules], vec![[0; 2]; granules]);
        Shared { memory: vec![u128::MAX; bytes.div_ceil(16)], bytes, states, marks, granule, epoch: 1, warp_epochs: vec![0; warps] }
    }

    /// For the next block nothing is written.
    pub fn begin_block(&mut self) {
        self.barrier();
        // SAFETY: all bytes of the vector.
        unsafe { self.memory.as_mut_ptr().cast::<u8>().write_bytes(POISON, self.memory.len() * 16) };
        self.states.fill(UNSET);
    }

    /// All threads have come to a barrier.
    pub fn barrier(&mut self) {
        self.epoch += 1;
    }

    /// All threads of a warp have.
    pub fn warp_barrier(&mut self, warp: usize) {
        self.warp_epochs[warp] = (self.warp_epochs[warp] + 1) & 0xffff;
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its bytes; of these there are `bytes`, or a few more.
    #[inline(always)]
    pub fn memory(&mut self) -> *mut u8 {
        self.memory.as_mut_ptr().cast()
    }

    /// Looks at an access that lies within the memory, and remembers it.
    ///
    /// Errors: it reads what nobody has written, or races with another thread.
    #[inline(always)]
    pub fn check(&mut self, offset: usize, bytes: usize, thread: usize, access: Access) -> Result<(), String> {
        if self.states.is_empty() {
            return Ok(());
        }
        let granules = offset >> self.granule..(offset + bytes).div_ceil(1 << self.granule);
        let me = Me { epoch: self.epoch, warp_epoch: self.warp_epochs[thread / 32], thread };
        let mut fault = None;
        for (state, marks) in self.states[granules.clone()].iter_mut().zip(&mut self.marks[granules.clone()]) {
            let is_right = match access {
                Access::Read | Access::Atomic => *state == WRITTEN,
                Access::Write | Access::CopyBegins => *state != PENDING,
                Access::CopyLands => true,
            };
            let is_race = me.touches(marks, access);
            if !is_right || is_race {
                fault = Some((is_right, *marks));
                break;
            }
            match access {
                Access::Write | Access::CopyLands => *state = WRITTEN,
                Access::CopyBegins => *state = PENDING,
                _ => {}
            }
        }
        match fault {
            None => Ok(()),
            Some((false, _)) => Err(self.wrong_state(granules, bytes, access)),
            Some((true, [write, read])) => Err(me.race(access, if me.races(write) { (write, "writes") } else { (read, "reads") })),
        }
    }

    #[cold]
    fn wrong_state(&self, granules: Range<usize>, bytes: usize, access: Access) -> String {
        let states = &self.states[granules];
        match access {
            Access::CopyBegins => "begins an asynchronous copy to where another one is under way".to_string(),
            Access::Write => "writes where an asynchronous copy is under way; wait for the copy first".to_string(),
            _ if states.contains(&PENDING) => "reads bytes of an asynchronous copy that was not waited for".to_string(),
            _ => {
                let count = states.iter().filter(|&&state| state == UNSET).count() << self.granule;
                format!("reads {bytes} bytes of which nobody has written {count}")
            }
        }
    }
}

/// A thread that touches shared memory, and when it does.
struct Me {
    epoch: u64,
    warp_epoch: u64,
    thread: usize,
}

impl Me {
    fn mark(&self) -> Mark {
        self.epoch << 32 | self.warp_epoch << 16 | self.thread as u64
    }

    /// Remembers an access. Returns true, and remembers nothing, if it is a race.
    #[inline(always)]
    fn touches(&self, marks: &mut [Mark; 2], access: Access) -> bool {
        let [write, read] = *marks;
        let mine = self.mark();
        let is_atomic = access == Access::Atomic;
        let mut several = 0;
        if write >> 32 == self.epoch && write & WHO != self.thread as u64 {
            if is_atomic && write & ATOMIC != 0 {
                several = SEVERAL;
            } else if self.races(write) {
                return true;
            }
        }
        if access == Access::Read {
            marks[1] = if read >> 32 != self.epoch || read & WHO == self.thread as u64 { mine } else { self.beside(read) };
            return false;
        }
        if self.races(read) {
            return true;
        }
        marks[0] = mine | several | if is_atomic { ATOMIC } else { 0 };
        false
    }

    /// True if a mark is of this epoch and of another thread, unless a barrier of the warp lies between.
    #[inline(always)]
    fn races(&self, mark: Mark) -> bool {
        mark >> 32 == self.epoch && mark & WHO != self.thread as u64 && !(self.is_of_warp(mark) && mark >> 16 & 0xffff != self.warp_epoch)
    }

    fn is_of_warp(&self, mark: Mark) -> bool {
        let (who, warp) = (mark & WHO, (self.thread / 32) as u64);
        who < SEVERAL_OF_WARP && who / 32 == warp || who == SEVERAL_OF_WARP + warp
    }

    /// The mark of this reader and of those before it.
    fn beside(&self, before: Mark) -> Mark {
        match self.is_of_warp(before) {
            // What the warp read before its own barrier only others can race with, and for them any of its threads will do.
            true if before >> 16 & 0xffff != self.warp_epoch => self.mark(),
            true => self.mark() & !WHO | (SEVERAL_OF_WARP + (self.thread / 32) as u64),
            false => self.mark() | SEVERAL,
        }
    }

    #[cold]
    fn race(&self, access: Access, (mark, did): (Mark, &str)) -> String {
        let other = match mark & WHO {
            SEVERAL => format!("several threads {}", did.trim_end_matches('s')),
            who if who >= SEVERAL_OF_WARP => format!("several threads of warp {} {}", who - SEVERAL_OF_WARP, did.trim_end_matches('s')),
            who => format!("thread {who} {did}"),
        };
        let does = if access == Access::Read { "reads" } else { "writes" };
        format!("race: {does} what {other} with no barrier between")
    }
}
