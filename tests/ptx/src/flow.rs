//! Where the values of registers live: which registers are read before anything was surely written to them, and a row of
//! memory for each register, shared by registers that do not live at the same time. PTX has thousands of registers, each
//! written once; in few rows they stay in the processor's nearest memory.
//!
//! Both hold for each thread by itself, because a thread goes along the edges of the code whatever the others do.

use crate::parse::{Base, Class, Instruction, Kernel, Operand};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What one instruction does to registers, and where a thread may go from it.
#[derive(Debug, Default)]
pub struct Step {
    /// Registers that it writes.
    pub writes: Vec<usize>,
    /// Registers that it reads.
    pub reads: Vec<usize>,
    /// True if what was in the targets before may stay there.
    is_partial: bool,
    falls_through: bool,
    target: Option<usize>,
}

/// The result.
#[derive(Debug)]
pub struct Flow {
    /// What each instruction does.
    pub steps: Vec<Step>,
    /// The row of each register among those of its class; none for registers that nothing touches.
    pub rows: Vec<Option<u32>>,
    /// Rows of each class, in the order of `Class::ALL`.
    pub row_counts: [u32; 4],
    /// (instruction, register): a read that some way through the code reaches without a write.
    pub unsure: Vec<(usize, usize)>,
}

/// True if the first operand of an instruction is read like all others.
pub fn writes_nothing(word: &str) -> bool {
    matches!(word, "st" | "bra" | "bar" | "ret" | "exit" | "cp" | "red")
}

fn registers(operand: &Operand, found: &mut Vec<usize>) {
    match operand {
        Operand::Register(register) | Operand::Address(Base::Register(register), _) => found.push(*register),
        Operand::Vector(parts) => parts.iter().for_each(|part| registers(part, found)),
        Operand::Pair(parts) => parts.iter().for_each(|part| registers(part, found)),
        _ => {}
    }
}

impl Step {
    fn of(instruction: &Instruction) -> Step {
        let name = instruction.words[0].as_str();
        let mut step = Step { falls_through: true, ..Step::default() };
        for (i, operand) in instruction.operands.iter().enumerate() {
            let is_target = i == 0 && !writes_nothing(name);
            registers(operand, if is_target { &mut step.writes } else { &mut step.reads });
            if let Operand::Target(place) = operand {
                step.target = Some(*place);
            }
        }
        if let Some((predicate, _)) = instruction.guard {
            step.reads.push(predicate);
            step.is_partial = true;
        } else if matches!(name, "bra" | "ret" | "exit") {
            step.falls_through = false;
        }
        step
    }

    fn successors(&self, place: usize, count: usize) -> impl Iterator<Item = usize> {
        let next = (self.falls_through && place + 1 < count).then_some(place + 1);
        next.into_iter().chain(self.target)
    }
}

/// A set of registers.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn new(count: usize, full: bool) -> Set {
        Set(vec![if full { u64::MAX } else { 0 }; count.div_ceil(64)])
    }

    fn has(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }

    fn add(&mut self, i: usize) {
        self.0[i / 64] |= 1 << (i % 64);
    }

    fn remove(&mut self, i: usize) {
        self.0[i / 64] &= !(1 << (i % 64));
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let bits = |(word, &bits): (usize, &u64)| (0..64).filter(move |i| bits >> i & 1 == 1).map(move |i| word * 64 + i);
        self.0.iter().enumerate().flat_map(bits)
    }

    /// Combines word by word; true if something changed.
    fn combine(&mut self, other: &Set, combine: impl Fn(u64, u64) -> u64) -> bool {
        let mut changed = false;
        for (a, &b) in self.0.iter_mut().zip(&other.0) {
            let combined = combine(*a, b);
            changed |= combined != *a;
            *a = combined;
        }
        changed
    }
}

/// A run of instructions that is entered only at its beginning and left only at its end.
struct Run {
    begin: usize,
    end: usize,
    next: Vec<usize>,
    before: Vec<usize>,
}

fn runs(steps: &[Step]) -> Vec<Run> {
    let count = steps.len();
    let mut begins = vec![false; count + 1];
    begins[0] = true;
    for (i, step) in steps.iter().enumerate() {
        if let Some(target) = step.target {
            begins[target] = true;
        }
        if step.target.is_some() || !step.falls_through {
            begins[i + 1] = true;
        }
    }
    let starts: Vec<usize> = (0..count).filter(|&i| begins[i]).collect();
    let run_at = |place: usize| starts.partition_point(|&start| start <= place) - 1;
    let mut runs: Vec<Run> = Vec::new();
    for (i, &begin) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(count);
        let next = steps[end - 1].successors(end - 1, count).map(run_at).collect();
        runs.push(Run { begin, end, next, before: Vec::new() });
    }
    for i in 0..runs.len() {
        for k in runs[i].next.clone() {
            runs[k].before.push(i);
        }
    }
    runs
}

/// Works out both for a kernel.
pub fn flow(kernel: &Kernel) -> Flow {
    let steps: Vec<Step> = kernel.instructions.iter().map(Step::of).collect();
    if steps.is_empty() {
        return Flow { steps, rows: vec![None; kernel.registers.len()], row_counts: [0; 4], unsure: Vec::new() };
    }
    let runs = runs(&steps);
    let unsure = unsure(&steps, &runs, kernel.registers.len());
    let lives = lives(&steps, &runs, kernel.registers.len());
    let (rows, row_counts) = rows(kernel, &lives);
    Flow { steps, rows, row_counts, unsure }
}

/// Reads that some way reaches without a write.
fn unsure(steps: &[Step], runs: &[Run], registers: usize) -> Vec<(usize, usize)> {
    let mut written = vec![Set::new(registers, true); runs.len()];
    let mut todo: Vec<usize> = (0..runs.len()).rev().collect();
    let at_begin = |run: &Run, written: &[Set]| {
        let mut sure = Set::new(registers, run.begin != 0);
        for &before in &run.before {
            sure.combine(&written[before], |a, b| a & b);
        }
        sure
    };
    while let Some(i) = todo.pop() {
        let mut sure = at_begin(&runs[i], &written);
        for step in &steps[runs[i].begin..runs[i].end] {
            step.writes.iter().filter(|_| !step.is_partial).for_each(|&register| sure.add(register));
        }
        if written[i] != sure {
            written[i] = sure;
            todo.extend(&runs[i].next);
        }
    }
    let mut found = Vec::new();
    for run in runs {
        let mut sure = at_begin(run, &written);
        for (place, step) in steps.iter().enumerate().take(run.end).skip(run.begin) {
            found.extend(step.reads.iter().filter(|&&register| !sure.has(register)).map(|&register| (place, register)));
            step.writes.iter().filter(|_| !step.is_partial).for_each(|&register| sure.add(register));
        }
    }
    found
}

/// From where to where each register lives: an instruction reads at twice its place, and writes at twice its place plus one.
fn lives(steps: &[Step], runs: &[Run], registers: usize) -> Vec<Option<(usize, usize)>> {
    // What lives at a run's begin: what it reads first, and what lives at its end and is not written in it.
    let backwards = |run: &Run, live: &mut Set| {
        for step in steps[run.begin..run.end].iter().rev() {
            if !step.is_partial {
                step.writes.iter().for_each(|&register| live.remove(register));
            }
            step.reads.iter().for_each(|&register| live.add(register));
            if step.is_partial {
                step.writes.iter().for_each(|&register| live.add(register));
            }
        }
    };
    let mut live_in = vec![Set::new(registers, false); runs.len()];
    let at_end = |run: &Run, live_in: &[Set]| {
        let mut live = Set::new(registers, false);
        for &next in &run.next {
            live.combine(&live_in[next], |a, b| a | b);
        }
        live
    };
    let mut todo: Vec<usize> = (0..runs.len()).collect();
    while let Some(i) = todo.pop() {
        let mut live = at_end(&runs[i], &live_in);
        backwards(&runs[i], &mut live);
        if live_in[i] != live {
            live_in[i] = live;
            todo.extend(&runs[i].before);
        }
    }
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; registers];
    let mut touch = |register: usize, at: usize| {
        let (from, to) = lives[register].unwrap_or((at, at));
        lives[register] = Some((from.min(at), to.max(at)));
    };
    for (i, run) in runs.iter().enumerate() {
        live_in[i].iter().for_each(|register| touch(register, 2 * run.begin));
        at_end(run, &live_in).iter().for_each(|register| touch(register, 2 * run.end - 1));
        for (place, step) in steps.iter().enumerate().take(run.end).skip(run.begin) {
            step.reads.iter().for_each(|&register| touch(register, 2 * place));
            step.writes.iter().for_each(|&register| touch(register, 2 * place + 1));
        }
    }
    lives
}

/// Gives rows in the order in which registers begin to live. A row is free again when its register has been read for the last
/// time, so that the target of an instruction may take the row of a source: all executors read a lane before they write it.
fn rows(kernel: &Kernel, lives: &[Option<(usize, usize)>]) -> (Vec<Option<u32>>, [u32; 4]) {
    let mut order: Vec<usize> = (0..lives.len()).filter(|&register| lives[register].is_some()).collect();
    order.sort_by_key(|&register| lives[register]);
    let mut rows = vec![None; lives.len()];
    let mut counts = [0; 4];
    let mut taken: [BinaryHeap<Reverse<(usize, u32)>>; 4] = Default::default();
    let mut free: [BinaryHeap<Reverse<u32>>; 4] = Default::default();
    for register in order {
        let Some((from, to)) = lives[register] else { continue };
        let class = kernel.registers[register].class as usize;
        while let Some(&Reverse((end, row))) = taken[class].peek()
            && end < from
        {
            taken[class].pop();
            free[class].push(Reverse(row));
        }
        let row = free[class].pop().map_or_else(
            || {
                counts[class] += 1;
                counts[class] - 1
            },
            |Reverse(row)| row,
        );
        taken[class].push(Reverse((to, row)));
        rows[register] = Some(row);
    }
    debug_assert!(Class::ALL.iter().all(|&class| taken[class as usize].len() <= counts[class as usize] as usize));
    (rows, counts)
}
