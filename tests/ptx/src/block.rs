//! Executes one block of a launch: all its threads together, one instruction after the other. Where threads go different ways,
//! those that are least far in the code go on, until they meet the others.

use crate::code::{Code, Lanes, Mark, Op, Program, Row};
use crate::copies::Copies;
use crate::counters::Counts;
use crate::fault::Fault;
use crate::global::View;
use crate::parse::{Class, Special};
use crate::shared::Shared;

/// A launch that blocks are executed of.
pub struct Launch<'a> {
    /// The kernel.
    pub program: &'a Program,
    /// All memory of the device.
    pub views: &'a [View],
    /// The block of parameters.
    pub parameters: &'a [u8],
    /// Blocks of the grid.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of shared memory, those of the launch included.
    pub shared_bytes: usize,
    /// Its number, which no other launch of the device has.
    pub number: u32,
    /// False to look only at what would harm the host.
    pub checks: bool,
    /// False to count only instructions.
    pub counts: bool,
}

/// A place in the code that no instruction has: the thread has ended.
const ENDED: u32 = u32::MAX;

/// What executes blocks, one after the other.
pub struct Block<'a> {
    pub launch: &'a Launch<'a>,
    pub program: &'a Program,
    /// The rows of all registers, at a multiple of 64.
    rows: *mut u8,
    /// What they lie in.
    _store: Vec<[u64; 8]>,
    pub shared: Shared,
    pub copies: Copies,
    pub counts: Counts,
    /// The block's place in the grid.
    pub index: [u32; 3],
    /// The instruction that is being executed.
    pub place: usize,
    /// An address for each thread.
    pub addresses: Vec<u64>,
    /// The allocation in which each instruction found an address last.
    pub found: Vec<u32>,
    /// Where each thread is, where they are not all at one place.
    places: Vec<u32>,
    waiting: Vec<bool>,
    everybody: Vec<u16>,
}

impl<'a> Block<'a> {
    /// An executor with rows of its own.
    pub fn new(launch: &'a Launch<'a>) -> Self {
        let program = launch.program;
        let mut store = vec![[0_u64; 8]; program.store_bytes.div_ceil(64) + 1];
        let skip = store.as_ptr().cast::<u8>().align_offset(64);
        let rows = store.as_mut_ptr().cast::<u8>().wrapping_add(skip);
        let warps = launch.threads.div_ceil(32);
        let mut block = Block {
            launch,
            program,
            rows,
            _store: store,
            shared: Shared::new(launch.shared_bytes, warps, program.granule, launch.checks),
            copies: Copies::new(launch.threads),
            counts: Counts::new(program.code.len()),
            index: [0; 3],
            place: 0,
            addresses: vec![0; launch.threads.next_multiple_of(32)],
            found: vec![0; program.code.len()],
            places: vec![0; launch.threads],
            waiting: vec![false; launch.threads],
            everybody: (0..launch.threads as u16).collect(),
        };
        for &(row, class, value) in &program.constants {
            block.fill(row, class, |_| value);
        }
        block
    }

    /// The value of a register in each thread.
    ///
    /// Safety: the row is one of the program's, of this type; its lanes are below the capacity.
    #[inline(always)]
    pub fn row<T>(&self, row: Row) -> *mut T {
        self.rows.wrapping_add(row as usize).cast()
    }

    fn fill(&mut self, row: Row, class: Class, value: impl Fn(usize) -> u64) {
        for lane in 0..self.program.capacity {
            let value = value(lane);
            // SAFETY: a row of the program has as many lanes, and each this width.
            unsafe {
                match class {
                    Class::Predicate => *self.row::<u8>(row).add(lane) = value as u8,
                    Class::B16 => *self.row::<u16>(row).add(lane) = value as u16,
                    Class::B32 => *self.row::<u32>(row).add(lane) = value as u32,
                    Class::B64 => *self.row::<u64>(row).add(lane) = value,
                }
            }
        }
    }

    /// A report of the thread at the present instruction.
    #[cold]
    pub fn fault(&self, thread: usize, what: impl Into<String>) -> Box<Fault> {
        self.fault_at(self.place, thread, what)
    }

    #[cold]
    fn fault_at(&self, place: usize, thread: usize, what: impl Into<String>) -> Box<Fault> {
        let said = &self.program.said[place];
        let (kernel, text) = (self.program.name.clone(), said.text.clone());
        Box::new(Fault { kernel, line: said.line, text, block: self.index, thread: thread as u32, what: what.into() })
    }

    /// Executes the block at a place of the grid.
    pub fn run(&mut self, index: [u32; 3]) -> Result<(), Box<Fault>> {
        self.index = index;
        for &(row, special) in &self.program.specials {
            let (threads, grid) = (self.launch.threads as u32, self.launch.grid);
            self.fill(row, Class::B32, |lane| {
                u64::from(match special {
                    Special::Thread(0) => lane as u32,
                    Special::Thread(_) => 0,
                    Special::Threads(0) => threads,
                    Special::Threads(_) => 1,
                    Special::Block(axis) => index[usize::from(axis)],
                    Special::Blocks(axis) => grid[usize::from(axis)],
                    Special::Lane => lane as u32 % 32,
                    Special::Warp => lane as u32 / 32,
                })
            });
        }
        for &(mark, row, class) in &self.program.marks {
            self.fill(mark, Class::Predicate, |_| 0);
            self.fill(row, class, |_| u64::MAX);
        }
        self.shared.begin_block();
        self.copies.clear();
        // The list of all threads is taken out while instructions may change everything else.
        let everybody = std::mem::take(&mut self.everybody);
        let done = self.together(&everybody);
        self.everybody = everybody;
        done
    }

    /// All threads are at one place; executes them so until they part or end.
    fn together(&mut self, everybody: &[u16]) -> Result<(), Box<Fault>> {
        let program = self.program;
        let lanes = Lanes { list: everybody, all: true };
        let mut scratch = Vec::with_capacity(everybody.len());
        let mut place = 0;
        loop {
            let Some(code) = program.code.get(place) else { return Err(self.ran_out(place)) };
            self.counts.whole[place] += 1;
            match &code.op {
                Op::Pure(run, rows) if code.guard.is_none() && code.reads.is_empty() => {
                    // SAFETY: the rows are those of the program, made for this function.
                    unsafe { run(self.rows, rows, lanes) };
                    self.mark(code, lanes);
                    place += 1;
                }
                Op::Pure(..) | Op::Effect(_) => {
                    self.place = place;
                    self.execute(code, lanes, &mut scratch)?;
                    place += 1;
                }
                Op::Branch(target) => {
                    self.place = place;
                    self.look_at_guard(code, lanes)?;
                    let Some(guard) = code.guard else {
                        place = *target as usize;
                        continue;
                    };
                    match self.agreed(guard.row, lanes) {
                        Some(value) => place = if value != guard.negated { *target as usize } else { place + 1 },
                        None => {
                            for &lane in everybody {
                                let taken = self.predicate(guard.row, lane) != guard.negated;
                                self.places[usize::from(lane)] = if taken { *target } else { place as u32 + 1 };
                            }
                            self.waiting.fill(false);
                            match self.apart(everybody)? {
                                Some(met) => place = met,
                                None => return Ok(()),
                            }
                        }
                    }
                }
                Op::Barrier if code.guard.is_none() => {
                    self.shared.barrier();
                    place += 1;
                }
                Op::WarpBarrier if code.guard.is_none() => {
                    self.warp_barriers(lanes);
                    place += 1;
                }
                Op::Return if code.guard.is_none() => return Ok(()),
                Op::Return | Op::Barrier | Op::WarpBarrier => {
                    self.places.fill(place as u32);
                    self.waiting.fill(false);
                    match self.apart(everybody)? {
                        Some(met) => place = met,
                        None => return Ok(()),
                    }
                }
            }
        }
    }

    /// Threads are at several places. Returns the place at which all of them have met again, or none if all have ended.
    fn apart(&mut self, everybody: &[u16]) -> Result<Option<usize>, Box<Fault>> {
        let mut active: Vec<u16> = Vec::with_capacity(everybody.len());
        let mut scratch: Vec<u16> = Vec::with_capacity(everybody.len());
        loop {
            let (mut least, mut is_waiting, mut has_ended) = (ENDED, false, false);
            for (place, waiting) in self.places.iter().zip(&self.waiting) {
                match (*place, waiting) {
                    (ENDED, _) => has_ended = true,
                    (_, true) => is_waiting = true,
                    (place, false) => least = least.min(place),
                }
            }
            if least == ENDED {
                if !is_waiting {
                    return Ok(None);
                }
                self.release(has_ended)?;
                return Ok(Some(self.places[0] as usize));
            }
            active.clear();
            let mut others = ENDED;
            for &lane in everybody {
                let i = usize::from(lane);
                if self.places[i] == least && !self.waiting[i] {
                    active.push(lane);
                } else if !self.waiting[i] {
                    others = others.min(self.places[i]);
                }
            }
            if active.len() == everybody.len() && !self.is_partly(least as usize) {
                return Ok(Some(least as usize));
            }
            self.advance(&active, &mut scratch, least, others)?;
        }
    }

    /// True for what `together` leaves to `apart`: an end or a barrier of only some threads.
    fn is_partly(&self, place: usize) -> bool {
        let is_end = |code: &Code| matches!(code.op, Op::Return | Op::Barrier | Op::WarpBarrier) && code.guard.is_some();
        self.program.code.get(place).is_some_and(is_end)
    }

    /// Executes some threads from `place` on until they part, wait, end, or come to where others are.
    fn advance(&mut self, active: &[u16], scratch: &mut Vec<u16>, place: u32, others: u32) -> Result<(), Box<Fault>> {
        let program = self.program;
        let lanes = Lanes { list: active, all: active.len() == self.launch.threads };
        let mut place = place as usize;
        loop {
            let Some(code) = program.code.get(place) else { return Err(self.ran_out(place)) };
            self.place = place;
            self.counts.part(place, active);
            match &code.op {
                Op::Pure(..) | Op::Effect(_) => self.execute(code, lanes, scratch)?,
                Op::Branch(target) => {
                    self.look_at_guard(code, lanes)?;
                    let agreed = code.guard.map_or(Some(true), |guard| Some(self.agreed(guard.row, lanes)? != guard.negated));
                    match agreed {
                        Some(true) => {
                            place = *target as usize;
                            if place as u32 >= others {
                                break;
                            }
                            continue;
                        }
                        Some(false) => {}
                        None => {
                            for &lane in active {
                                let taken = code.guard.is_none_or(|guard| self.predicate(guard.row, lane) != guard.negated);
                                self.places[usize::from(lane)] = if taken { *target } else { place as u32 + 1 };
                            }
                            return Ok(());
                        }
                    }
                }
                Op::Barrier | Op::WarpBarrier | Op::Return => {
                    self.look_at_guard(code, lanes)?;
                    let stays = |lane: u16| code.guard.is_none_or(|guard| self.predicate(guard.row, lane) != guard.negated);
                    scratch.clear();
                    scratch.extend(active.iter().filter(|&&lane| stays(lane)));
                    if matches!(code.op, Op::WarpBarrier) {
                        self.whole_warps(Lanes { list: scratch, all: false }, u32::MAX)?;
                        self.warp_barriers(Lanes { list: scratch, all: false });
                        scratch.clear();
                    }
                    for &lane in active {
                        self.places[usize::from(lane)] = place as u32 + 1;
                    }
                    for &lane in scratch.iter() {
                        let is_end = matches!(code.op, Op::Return);
                        self.places[usize::from(lane)] = if is_end { ENDED } else { place as u32 };
                        self.waiting[usize::from(lane)] = !is_end;
                    }
                    return Ok(());
                }
            }
            place += 1;
            if place as u32 >= others {
                break;
            }
        }
        for &lane in active {
            self.places[usize::from(lane)] = place as u32;
        }
        Ok(())
    }

    /// Executes an instruction for those threads whose predicate holds.
    fn execute(&mut self, code: &Code, lanes: Lanes, scratch: &mut Vec<u16>) -> Result<(), Box<Fault>> {
        let mut lanes = lanes;
        if let Some(guard) = code.guard {
            self.look_at_guard(code, lanes)?;
            match self.agreed(guard.row, lanes) {
                Some(value) if value != guard.negated => {}
                Some(_) => return Ok(()),
                None => {
                    scratch.clear();
                    scratch.extend(lanes.list.iter().filter(|&&lane| self.predicate(guard.row, lane) != guard.negated));
                    lanes = Lanes { list: scratch, all: false };
                }
            }
        }
        self.look(code, lanes)?;
        match &code.op {
            // SAFETY: the rows are those of the program, made for this function.
            Op::Pure(run, rows) => unsafe { run(self.rows, rows, lanes) },
            Op::Effect(effect) => effect.run(self, lanes)?,
            _ => {}
        }
        self.mark(code, lanes);
        Ok(())
    }

    /// Reports a register that was never written. Only those are marked that some way through the code leaves unwritten.
    #[inline(always)]
    fn look(&self, code: &Code, lanes: Lanes) -> Result<(), Box<Fault>> {
        if code.reads.is_empty() || !self.launch.checks {
            return Ok(());
        }
        code.reads.iter().try_for_each(|mark| self.look_at_mark(mark, lanes))
    }

    #[inline(always)]
    fn look_at_guard(&self, code: &Code, lanes: Lanes) -> Result<(), Box<Fault>> {
        match &code.guard_mark {
            Some(mark) if self.launch.checks => self.look_at_mark(mark, lanes),
            _ => Ok(()),
        }
    }

    #[cold]
    fn look_at_mark(&self, mark: &Mark, lanes: Lanes) -> Result<(), Box<Fault>> {
        match lanes.list.iter().find(|&&lane| !self.predicate(mark.row, lane)) {
            Some(&lane) => Err(self.fault(usize::from(lane), format!("reads register {}, to which it has never written", mark.name))),
            None => Ok(()),
        }
    }

    #[inline(always)]
    fn mark(&mut self, code: &Code, lanes: Lanes) {
        for &row in &code.writes {
            for &lane in lanes.list {
                // SAFETY: a row of marks of the program.
                unsafe { *self.row::<u8>(row).add(usize::from(lane)) = 1 };
            }
        }
    }

    #[inline(always)]
    fn predicate(&self, row: Row, lane: u16) -> bool {
        // SAFETY: a row of predicates of the program.
        unsafe { *self.row::<u8>(row).add(usize::from(lane)) != 0 }
    }

    /// What a predicate is in all of the threads; none if it is not the same.
    fn agreed(&self, row: Row, lanes: Lanes) -> Option<bool> {
        let count = lanes.list.len();
        let sum = if lanes.all {
            // SAFETY: a row of predicates of the program, each 0 or 1.
            let values = unsafe { std::slice::from_raw_parts(self.row::<u8>(row), count) };
            values.iter().map(|&value| u32::from(value)).sum::<u32>() as usize
        } else {
            lanes.list.iter().filter(|&&lane| self.predicate(row, lane)).count()
        };
        (sum == 0 || sum == count).then_some(sum > 0)
    }

    /// Everybody who has not ended waits at a barrier.
    fn release(&mut self, has_ended: bool) -> Result<(), Box<Fault>> {
        let first = self.places.iter().position(|&place| place != ENDED).unwrap_or_default();
        let place = self.places[first];
        let waits = self.places.iter().filter(|&&other| other == place).count();
        if has_ended {
            let ended = self.places.iter().position(|&place| place == ENDED).unwrap_or_default();
            let count = self.places.iter().filter(|&&place| place == ENDED).count();
            let what = format!(
                "divergent barrier: {waits} of {} threads wait here, and {count} have returned, thread {ended} among them",
                self.launch.threads
            );
            return Err(self.fault_at(place as usize, first, what));
        }
        if let Some(other) = self.places.iter().position(|&other| other != place) {
            let there = &self.program.said[self.places[other] as usize];
            let what = format!(
                "divergent barrier: {waits} of {} threads wait here, but thread {other} at line {}, `{}`",
                self.launch.threads, there.line, there.text
            );
            return Err(self.fault_at(place as usize, first, what));
        }
        self.shared.barrier();
        self.waiting.fill(false);
        self.places.fill(place + 1);
        Ok(())
    }

    /// Calls for each warp of the threads.
    fn warp_barriers(&mut self, lanes: Lanes) {
        lanes.list.chunk_by(|a, b| a / 32 == b / 32).for_each(|warp| self.shared.warp_barrier(usize::from(warp[0] / 32)));
    }

    /// Sees to it that every thread that a mask names takes part, in each warp that takes part at all. Threads that the block
    /// does not have are not missed.
    pub fn whole_warps(&self, lanes: Lanes, mask: u32) -> Result<(), Box<Fault>> {
        if lanes.all {
            return Ok(());
        }
        for warp in lanes.list.chunk_by(|a, b| a / 32 == b / 32) {
            let present = warp.iter().fold(0_u32, |bits, lane| bits | 1 << (lane % 32));
            let first = usize::from(warp[0] / 32) * 32;
            let exist = self.launch.threads - first;
            let wanted = mask & if exist >= 32 { u32::MAX } else { (1 << exist) - 1 };
            let missing = wanted & !present;
            if missing != 0 {
                let absent = missing.trailing_zeros();
                let what = format!(
                    "divergence: {} of the {} threads of warp {} that must take part are here; thread {} is missing",
                    (wanted & present).count_ones(),
                    wanted.count_ones(),
                    first / 32,
                    first + absent as usize
                );
                return Err(self.fault(usize::from(warp[0]), what));
            }
        }
        Ok(())
    }

    #[cold]
    fn ran_out(&self, place: usize) -> Box<Fault> {
        self.fault_at(place - 1, 0, "the code ends here without a return")
    }
}
