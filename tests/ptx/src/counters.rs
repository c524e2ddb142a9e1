//! What executed kernels cost, in things that do not depend on a clock: instructions, sectors of memory, passes of shared
//! memory.

use crate::code::{Kind, Lanes, Said};
use epicker::random::splitmix64;
use std::collections::BTreeMap;
use std::fmt;

/// Executions of an instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// By warps, whole or in part.
    pub warps: u64,
    /// By threads.
    pub lanes: u64,
}

/// Traffic with the device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that threads asked for.
    pub bytes: u64,
    /// Sectors of 32 bytes that the instructions of warps touched.
    pub sectors: u64,
    /// Sectors that would hold the same bytes if they lay side by side.
    pub ideal: u64,
}

/// Accesses to shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// Passes through its 32 banks of 4 bytes. A pass takes one word of each bank; 8 bytes a thread go by half warps, 16 bytes
    /// by quarters.
    pub passes: u64,
    /// Passes if no two words lay in one bank.
    pub ideal: u64,
}

/// What launches of a kernel cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Launches.
    pub launches: u64,
    /// Blocks of all launches.
    pub blocks: u64,
    /// Instructions by their name without what follows after dots, but for those that begin with `cp.async`.
    pub instructions: BTreeMap<String, Executed>,
    /// Instructions by what they keep busy, by warps.
    pub kinds: BTreeMap<Kind, u64>,
    /// Loads from the device's memory, those of asynchronous copies too.
    pub loads: Traffic,
    /// Stores to it, and atomics.
    pub stores: Traffic,
    /// Loads from shared memory, `ldmatrix` too.
    pub shared_loads: Passes,
    /// Stores to it, atomics, and asynchronous copies.
    pub shared_stores: Passes,
    /// A fingerprint of all that was multiplied with matrices at each line of the PTX, in which order ever. Where a line of
    /// another text of the kernel has another one, that line is the first to have got other fragments.
    pub multiplied: BTreeMap<u32, u64>,
}

impl Counters {
    /// Executions of an instruction by its name.
    pub fn of(&self, name: &str) -> Executed {
        self.instructions.get(name).copied().unwrap_or_default()
    }

    /// Multiplications of matrices, by warps.
    pub fn mma(&self) -> u64 {
        self.of("mma").warps
    }

    /// Loads of fragments of matrices, by warps.
    pub fn ldmatrix(&self) -> u64 {
        self.of("ldmatrix").warps
    }

    /// Asynchronous copies, by warps.
    pub fn cp_async(&self) -> u64 {
        self.of("cp.async").warps
    }

    /// All instructions.
    pub fn all(&self) -> Executed {
        self.instructions
            .values()
            .fold(Executed::default(), |sum, one| Executed { warps: sum.warps + one.warps, lanes: sum.lanes + one.lanes })
    }

    /// Executions by warps of the instructions that keep something busy.
    pub fn of_kind(&self, kind: Kind) -> u64 {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }

    /// Adds what other launches cost.
    pub fn add(&mut self, other: &Counters) {
        self.launches += other.launches;
        self.blocks += other.blocks;
        for (name, executed) in &other.instructions {
            let sum = self.instructions.entry(name.clone()).or_default();
            sum.warps += executed.warps;
            sum.lanes += executed.lanes;
        }
        for (&kind, warps) in &other.kinds {
            *self.kinds.entry(kind).or_default() += warps;
        }
        for (sum, other) in [(&mut self.loads, other.loads), (&mut self.stores, other.stores)] {
            sum.add(other);
        }
        for (sum, other) in [(&mut self.shared_loads, other.shared_loads), (&mut self.shared_stores, other.shared_stores)] {
            sum.add(other);
        }
        for (&line, fingerprint) in &other.multiplied {
            add_fingerprint(&mut self.multiplied, line, *fingerprint);
        }
    }
}

fn add_fingerprint(fingerprints: &mut BTreeMap<u32, u64>, line: u32, fingerprint: u64) {
    let sum = fingerprints.entry(line).or_default();
    *sum = sum.wrapping_add(fingerprint);
}

impl Traffic {
    /// Adds other traffic.
    pub fn add(&mut self, other: Traffic) {
        self.bytes += other.bytes;
        self.sectors += other.sectors;
        self.ideal += other.ideal;
    }
}

impl Passes {
    /// Adds other accesses.
    pub fn add(&mut self, other: Passes) {
        self.passes += other.passes;
        self.ideal += other.ideal;
    }
}

fn ratio(found: u64, ideal: u64) -> f64 {
    if ideal == 0 { 1.0 } else { found as f64 / ideal as f64 }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all();
        writeln!(f, "{} launches, {} blocks, {} instructions of warps, {} of threads", self.launches, self.blocks, all.warps, all.lanes)?;
        for (name, traffic) in [("global loads", self.loads), ("global stores", self.stores)] {
            let Traffic { bytes, sectors, ideal } = traffic;
            writeln!(f, "{name:<14} {bytes} bytes, {sectors} sectors, {:.2} times the ideal {ideal}", ratio(sectors, ideal))?;
        }
        for (name, passes) in [("shared loads", self.shared_loads), ("shared stores", self.shared_stores)] {
            let Passes { passes, ideal } = passes;
            writeln!(f, "{name:<14} {passes} passes, {:.2} times the ideal {ideal}", ratio(passes, ideal))?;
        }
        let mut names: Vec<(&String, &Executed)> = self.instructions.iter().collect();
        names.sort_by_key(|(name, executed)| (std::cmp::Reverse(executed.warps), name.as_str()));
        for (name, Executed { warps, lanes }) in names {
            writeln!(f, "{name:<14} {warps} by warps, {lanes} by threads")?;
        }
        Ok(())
    }
}

/// What one executor of blocks counts.
#[derive(Debug, Default)]
pub struct Counts {
    /// Executions of each instruction by all threads of a block.
    pub whole: Vec<u64>,
    /// Executions by some of them.
    parts: Vec<Executed>,
    /// Of each instruction that multiplies matrices, what it multiplied.
    multiplied: BTreeMap<usize, u64>,
    pub loads: Traffic,
    pub stores: Traffic,
    pub shared_loads: Passes,
    pub shared_stores: Passes,
}

impl Counts {
    /// For a kernel of so many instructions.
    pub fn new(instructions: usize) -> Self {
        Counts { whole: vec![0; instructions], parts: vec![Executed::default(); instructions], ..Counts::default() }
    }

    /// Some threads execute an instruction.
    pub fn part(&mut self, place: usize, active: &[u16]) {
        let warps = active.chunk_by(|a, b| a / 32 == b / 32).count();
        let part = &mut self.parts[place];
        part.warps += warps as u64;
        part.lanes += active.len() as u64;
    }

    /// A warp multiplies these fragments; registers and lanes in one order.
    pub fn multiplies(&mut self, place: usize, fragments: &[u32]) {
        let fingerprint = fragments.iter().fold(0, |bits, &word| splitmix64(bits ^ u64::from(word)));
        let sum = self.multiplied.entry(place).or_default();
        // Warps and blocks come in any order.
        *sum = sum.wrapping_add(fingerprint);
    }

    /// The sum, by names.
    pub fn counters(&self, said: &[Said], threads: usize) -> Counters {
        let mut counters = Counters {
            loads: self.loads,
            stores: self.stores,
            shared_loads: self.shared_loads,
            shared_stores: self.shared_stores,
            ..Counters::default()
        };
        for ((said, &whole), part) in said.iter().zip(&self.whole).zip(&self.parts) {
            if whole > 0 || part.warps > 0 {
                let sum = counters.instructions.entry(said.name.clone()).or_default();
                let warps = whole * threads.div_ceil(32) as u64 + part.warps;
                sum.warps += warps;
                sum.lanes += whole * threads as u64 + part.lanes;
                if let Some(kind) = said.kind {
                    *counters.kinds.entry(kind).or_default() += warps;
                }
            }
        }
        for (&place, &fingerprint) in &self.multiplied {
            add_fingerprint(&mut counters.multiplied, said[place].line, fingerprint);
        }
        counters
    }
}

/// What an access of `bytes` bytes a thread costs in the device's memory. The addresses are multiples of `bytes`.
pub fn traffic(addresses: &[u64], lanes: Lanes, bytes: usize) -> Traffic {
    let mut traffic = Traffic::default();
    for warp in lanes.list.chunk_by(|a, b| a / 32 == b / 32) {
        let mut sorted = [0; 32];
        let sorted = &mut sorted[..warp.len()];
        let mut is_sorted = true;
        for (i, &lane) in warp.iter().enumerate() {
            sorted[i] = addresses[usize::from(lane)];
            is_sorted &= i == 0 || sorted[i - 1] <= sorted[i];
        }
        if !is_sorted {
            sorted.sort_unstable();
        }
        let (mut different, mut sectors) = (1, 1);
        for pair in sorted.windows(2) {
            different += u64::from(pair[0] != pair[1]);
            sectors += u64::from(pair[0] / 32 != pair[1] / 32);
        }
        traffic.bytes += (warp.len() * bytes) as u64;
        traffic.sectors += sectors;
        traffic.ideal += (different * bytes as u64).div_ceil(32);
    }
    traffic
}

/// What an access of `bytes` bytes a thread costs in shared memory.
pub fn passes(addresses: &[u64], lanes: Lanes, bytes: usize) -> Passes {
    let group = (128 / bytes.max(4)).min(32) as u16;
    let mut passes = Passes::default();
    for threads in lanes.list.chunk_by(|a, b| a / group == b / group) {
        passes.ideal += 1;
        passes.passes += passes_of(threads.iter().map(|&lane| addresses[usize::from(lane)]), bytes);
    }
    passes
}

/// The most different words that lie in one bank.
pub fn passes_of(addresses: impl Iterator<Item = u64>, bytes: usize) -> u64 {
    let words = bytes.div_ceil(4) as u64;
    let mut in_bank = [u64::MAX; 32];
    // Words that found another one in their bank.
    let mut beside = Vec::new();
    for address in addresses {
        for word in address / 4..address / 4 + words {
            let bank = &mut in_bank[word as usize % 32];
            if *bank == u64::MAX {
                *bank = word;
            } else if *bank != word {
                beside.push(word);
            }
        }
    }
    if beside.is_empty() {
        return 1;
    }
    beside.sort_unstable();
    beside.dedup();
    let mut most = [1; 32];
    beside.iter().for_each(|word| most[*word as usize % 32] += 1);
    most.into_iter().max().unwrap_or(1)
}
