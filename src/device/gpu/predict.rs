//! What a launch should take on a GPU, by a model: the longest of what its arithmetic, the device's memory, the shared memory and
//! the launch itself take. It is no measurement. It leaves out how long a value is waited for where too few warps hide that, what
//! first-level caches keep, what a map costs that is still in the second-level cache, and clocks that fall under load.
//!
//! What a block of a kernel costs (instructions, sectors of 32 bytes, passes through the banks of shared memory) was counted while
//! its PTX was executed on a host; costs.txt has the numbers. `EPICKER_WRITE_COSTS=1 cargo test --test gpu predicted` writes that file,
//! and without the variable the test holds it against the kernels.
//!
//! Sources: NVIDIA, CUDA C++ Programming Guide, throughput of native arithmetic instructions (results a clock and
//! multiprocessor); Jia et al. 2018, arXiv:1804.06826, and 2019, arXiv:1903.07486 (bytes a clock from the second-level cache).

use super::driver::DeviceInfo;
use super::paper::Launch;
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::OnceLock;

/// What is counted. Instructions are those of warps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Multiplications and additions in f32.
    pub single: f64,
    /// Everything in f64.
    pub double: f64,
    /// Integers, logic, comparisons.
    pub integer: f64,
    /// Reciprocals, roots, exponentials, conversions.
    pub special: f64,
    /// Loads and stores of any memory.
    pub memory: f64,
    /// Branches and barriers.
    pub control: f64,
    /// Products of 16 x 8 and 8 x 8 values on tensor cores.
    pub matrix: f64,
    /// Sectors of 32 bytes of the device's memory.
    pub sectors: f64,
    /// Passes through the banks of shared memory.
    pub passes: f64,
}

impl Counts {
    /// Names of the fields, in their order.
    pub const NAMES: [&str; 9] = ["single", "double", "integer", "special", "memory", "control", "matrix", "sectors", "passes"];

    /// From the fields in their order.
    pub fn from_array([single, double, integer, special, memory, control, matrix, sectors, passes]: [f64; 9]) -> Self {
        Counts { single, double, integer, special, memory, control, matrix, sectors, passes }
    }

    /// The fields in their order.
    pub fn to_array(self) -> [f64; 9] {
        let Counts { single, double, integer, special, memory, control, matrix, sectors, passes } = self;
        [single, double, integer, special, memory, control, matrix, sectors, passes]
    }

    /// All instructions.
    fn instructions(&self) -> f64 {
        self.single + self.double + self.integer + self.special + self.memory + self.control + self.matrix
    }
}

/// What the work of a launch grows with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factor {
    /// The blocks.
    Blocks,
    /// A number of four bytes among the arguments: that of an argument, and of a field of it.
    Word(usize, usize),
}

/// What a kernel costs: so much a block, and so much for each unit of its work, which is a product of factors.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// The factors; none for a kernel of which every block does the same.
    pub work: Vec<Factor>,
    /// For each block.
    pub per_block: Counts,
    /// For each unit of work.
    pub per_work: Counts,
}

impl Cost {
    /// Units of work of a launch.
    ///
    /// Errors: the launch lacks an argument.
    pub fn work(factors: &[Factor], launch: &Launch) -> Result<f64> {
        let factor = |factor: &Factor| match *factor {
            Factor::Blocks => Ok(launch.blocks() as f64),
            Factor::Word(argument, i) => {
                let word =
                    launch.word(argument, i).with_context(|| format!("kernel {}: no field {i} of argument {argument}", launch.kernel));
                word.map(f64::from)
            }
        };
        if factors.is_empty() {
            return Ok(0.0);
        }
        factors.iter().map(factor).product()
    }

    /// What a launch costs.
    ///
    /// Errors: the launch lacks an argument.
    pub fn of(&self, launch: &Launch) -> Result<Counts> {
        let (blocks, work) = (launch.blocks() as f64, Self::work(&self.work, launch)?);
        let (per_block, per_work) = (self.per_block.to_array(), self.per_work.to_array());
        Ok(Counts::from_array(std::array::from_fn(|i| blocks * per_block[i] + work * per_work[i])))
    }

    /// True if a block goes through a depth that others go through, too: what they read lies in the second-level cache.
    fn reads_again(&self) -> bool {
        self.work.contains(&Factor::Blocks)
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Factor::Blocks => f.write_str("blocks"),
            Factor::Word(argument, i) => write!(f, "{argument}.{i}"),
        }
    }
}

/// The costs of kernels as a file has them.
pub fn write_costs(costs: &[(String, Cost)]) -> String {
    let mut text = String::new();
    let _ = write!(text, "{:<30} {:<22}", "kernel", "work");
    Counts::NAMES.iter().for_each(|name| _ = write!(text, " {name:>16}"));
    text.push('\n');
    for (kernel, cost) in costs {
        let factors: Vec<String> = cost.work.iter().map(Factor::to_string).collect();
        let work = if factors.is_empty() { "-".to_string() } else { factors.join("*") };
        let _ = write!(text, "{kernel:<30} {work:<22}");
        for (block, work) in cost.per_block.to_array().into_iter().zip(cost.per_work.to_array()) {
            let both = if cost.work.is_empty() { short(block) } else { format!("{};{}", short(block), short(work)) };
            let _ = write!(text, " {both:>16}");
        }
        text.push('\n');
    }
    text
}

/// A number in four digits or so.
fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".to_string(); // and no -0
    }
    let digits = (3 - value.abs().log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// The costs of kernels from the text of a file.
///
/// Errors: a line that is no such line; it is named.
pub fn read_costs(text: &str) -> Result<HashMap<String, Cost>> {
    let mut costs = HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("kernel ")) {
        let cost = cost_of(line).with_context(|| format!("costs of kernels: `{line}`"))?;
        costs.insert(line.split_whitespace().next().unwrap_or_default().to_owned(), cost);
    }
    Ok(costs)
}

fn cost_of(line: &str) -> Result<Cost> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    ensure!(fields.len() == 2 + Counts::NAMES.len(), "{} fields; expected {}", fields.len(), 2 + Counts::NAMES.len());
    let factor = |text: &str| match text.split_once('.') {
        Some((argument, i)) => Ok(Factor::Word(argument.parse()?, i.parse()?)),
        None => {
            ensure!(text == "blocks", "a factor `{text}`");
            Ok(Factor::Blocks)
        }
    };
    let work = if fields[1] == "-" { Vec::new() } else { fields[1].split('*').map(factor).collect::<Result<_>>()? };
    let (mut per_block, mut per_work) = ([0.0; 9], [0.0; 9]);
    for (i, field) in fields[2..].iter().enumerate() {
        let (block, work) = field.split_once(';').unwrap_or((field, "0"));
        (per_block[i], per_work[i]) = (block.parse()?, work.parse()?);
    }
    Ok(Cost { work, per_block: Counts::from_array(per_block), per_work: Counts::from_array(per_work) })
}

/// The costs of this program's kernels.
///
/// Errors: the program's own file is damaged.
pub fn costs() -> Result<&'static HashMap<String, Cost>> {
    static COSTS: OnceLock<Result<HashMap<String, Cost>, String>> = OnceLock::new();
    let read = COSTS.get_or_init(|| read_costs(include_str!("costs.txt")).map_err(|error| format!("{error:#}")));
    read.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// Multiply-adds in percent of the instructions in a kernel's inner loop, by the machine code of sm_75, sm_80 and sm_90, which differ
/// by a point at most (tests/kernels/inner_loops.rs reads them). The text that is executed on a host has other instructions beside
/// the multiply-adds than a driver's compiler makes of it, so these kernels are predicted by what the machine code has.
pub const INNER_LOOPS: [(&str, u32); 7] = [
    ("conv_windows_128x64", 85),
    ("conv_windows_64x64", 79),
    ("conv_windows_128x32", 77),
    ("conv_windows_256x16", 73),
    ("conv_windows_any_128x64", 77),
    ("conv_windows_7x7", 90),
    ("deform_conv_forward_64x64", 80),
];

/// A GPU that is known by name.
#[derive(Debug)]
pub struct Known {
    /// What `--gpu-model` calls it.
    pub name: &'static str,
    /// What it is.
    pub title: &'static str,
    capability: [u32; 2],
    multiprocessors: u32,
    megahertz: u64,
    /// GB (10^9 bytes) a second from and to its memory, and from the host.
    gigabytes: [u64; 2],
    gibibytes: u64,
}

/// GPUs of five generations, by their makers' figures: boost clock, bandwidth of the memory, and what a PCI Express slot of their
/// generation carries in practice.
pub const KNOWN: [Known; 5] = [
    Known {
        name: "titan-x",
        title: "Titan X (Maxwell)",
        capability: [5, 2],
        multiprocessors: 24,
        megahertz: 1075,
        gigabytes: [336, 12],
        gibibytes: 12,
    },
    Known {
        name: "p100",
        title: "Tesla P100 (PCIe)",
        capability: [6, 0],
        multiprocessors: 56,
        megahertz: 1303,
        gigabytes: [732, 12],
        gibibytes: 16,
    },
    Known {
        name: "2080-ti",
        title: "RTX 2080 Ti",
        capability: [7, 5],
        multiprocessors: 68,
        megahertz: 1545,
        gigabytes: [616, 12],
        gibibytes: 11,
    },
    Known {
        name: "a100",
        title: "A100 (40 GB)",
        capability: [8, 0],
        multiprocessors: 108,
        megahertz: 1410,
        gigabytes: [1555, 24],
        gibibytes: 40,
    },
    Known { name: "h200", title: "H200", capability: [9, 0], multiprocessors: 132, megahertz: 1980, gigabytes: [4800, 50], gibibytes: 141 },
];

impl Known {
    /// The GPU of that name, whatever its capitals are.
    pub fn of(name: &str) -> Option<&'static Known> {
        KNOWN.iter().find(|known| known.name.eq_ignore_ascii_case(name))
    }

    /// As a driver would say it.
    pub fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: self.title.to_owned(),
            capability: self.capability,
            memory: self.gibibytes << 30,
            multiprocessors: self.multiprocessors,
            clock: self.megahertz * 1_000_000,
            memory_bandwidth: self.gigabytes[0] * 1_000_000_000,
            block_threads: 1024,
            block_shared_bytes: 48 << 10,
            ..DeviceInfo::default()
        }
    }

    /// Seconds that bytes take from the host's pinned memory.
    pub fn copy(&self, bytes: usize) -> f64 {
        bytes as f64 / (self.gigabytes[1] as f64 * 1e9)
    }
}

/// What a multiprocessor does in a clock.
struct Widths {
    /// Threads whose instruction of a kind is done.
    single: f64,
    double: f64,
    integer: f64,
    special: f64,
    /// Multiply-adds of tensor cores that read TensorFloat-32.
    matrix: f64,
    /// Warps that get an instruction.
    issued: f64,
    /// Bytes from the second-level cache, as measured.
    level_2: f64,
    /// Seconds from one kernel of a graph to the next.
    launch: f64,
}

/// Of an architecture later than those that are known, as of the last one.
fn widths(capability: [u32; 2]) -> Widths {
    let [single, double, integer, special, matrix, issued, level_2, launch] = match capability {
        [..=5, _] => [128.0, 4.0, 128.0, 32.0, 0.0, 4.0, 24.0, 4e-6],
        [6, 0] => [64.0, 32.0, 64.0, 16.0, 0.0, 2.0, 22.0, 4e-6],
        [6, _] => [128.0, 4.0, 128.0, 32.0, 0.0, 4.0, 22.0, 4e-6],
        [7, ..5] => [64.0, 32.0, 64.0, 16.0, 0.0, 4.0, 20.0, 2.5e-6],
        [7, _] => [64.0, 2.0, 64.0, 16.0, 0.0, 4.0, 20.0, 2.5e-6],
        [8, 0] => [64.0, 32.0, 64.0, 16.0, 512.0, 4.0, 28.0, 2e-6],
        [8, _] => [128.0, 2.0, 64.0, 16.0, 128.0, 4.0, 28.0, 2e-6],
        [9 | 10, _] => [128.0, 64.0, 64.0, 16.0, 1024.0, 4.0, 28.0, 1.5e-6],
        _ => [128.0, 2.0, 64.0, 16.0, 128.0, 4.0, 28.0, 1.5e-6],
    };
    Widths { single, double, integer, special, matrix, issued, level_2, launch }
}

/// What takes the time of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Instructions.
    Arithmetic,
    /// The device's memory, or its second-level cache.
    Memory,
    /// Shared memory.
    Shared,
    /// The launch itself.
    Launch,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bound::Arithmetic => "arithmetic",
            Bound::Memory => "memory",
            Bound::Shared => "shared memory",
            Bound::Launch => "launch",
        })
    }
}

/// A predicted time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Predicted {
    /// Seconds.
    pub seconds: f64,
    /// What takes the most of it.
    pub bound: Bound,
}

/// True if enough is known of a GPU to predict times on it.
pub fn can_predict(info: &DeviceInfo) -> bool {
    info.clock > 0 && info.memory_bandwidth > 0 && info.multiprocessors > 0
}

/// The time of a launch. `bytes`: what at least has to go to and from the device's memory, where it is known.
///
/// Errors: nobody has counted what the kernel costs.
pub fn of_launch(info: &DeviceInfo, launch: &Launch, bytes: Option<u64>) -> Result<Predicted> {
    let cost = costs()?.get(&launch.kernel).with_context(|| format!("kernel {}: nobody has counted what it costs", launch.kernel))?;
    let (counts, widths) = (cost.of(launch)?, widths(info.capability));
    let multiprocessors = f64::from(info.multiprocessors);
    // The last blocks leave some multiprocessors idle.
    let blocks = launch.blocks() as f64;
    let rounds = (blocks / multiprocessors).ceil() * multiprocessors / blocks.max(1.0);
    let seconds = |clocks: f64| clocks * rounds / (multiprocessors * info.clock as f64);
    let share = INNER_LOOPS.iter().find(|(kernel, _)| *kernel == launch.kernel).map(|(_, percent)| f64::from(*percent) / 100.0);
    let issued = share.map_or(counts.instructions(), |share| counts.single / share);
    let busy = [
        32.0 * counts.single / widths.single,
        32.0 * counts.double / widths.double,
        // Where the machine code is known, the integers are among what is issued.
        if share.is_some() { 0.0 } else { 32.0 * counts.integer / widths.integer },
        32.0 * counts.special / widths.special,
        if counts.matrix > 0.0 { f64::from(16 * 8 * 8) * counts.matrix / widths.matrix } else { 0.0 },
        issued / widths.issued,
    ];
    let arithmetic = seconds(busy.into_iter().fold(0.0, f64::max));
    let level_2 = 32.0 * counts.sectors / (widths.level_2 * multiprocessors * info.clock as f64);
    let moved = bytes.map_or(if cost.reads_again() { 0.0 } else { 32.0 * counts.sectors }, |bytes| bytes as f64);
    let memory = level_2.max(moved / info.memory_bandwidth as f64);
    let all =
        [(arithmetic, Bound::Arithmetic), (memory, Bound::Memory), (seconds(counts.passes), Bound::Shared), (widths.launch, Bound::Launch)];
    let (seconds, bound) = all.into_iter().fold((0.0, Bound::Launch), |most, one| if one.0 > most.0 { one } else { most });
    Ok(Predicted { seconds, bound })
}

/// The time of launches one after the other; the bound is that of the longest. `bytes` are those of all of them.
///
/// Errors: as `of_launch`.
pub fn of_launches(info: &DeviceInfo, all: &[Launch], bytes: Option<u64>) -> Result<Predicted> {
    let (mut sum, mut longest) = (0.0, Predicted { seconds: 0.0, bound: Bound::Launch });
    for one in all {
        let predicted = of_launch(info, one, bytes.filter(|_| all.len() == 1))?;
        sum += predicted.seconds;
        if predicted.seconds > longest.seconds {
            longest = predicted;
        }
    }
    Ok(Predicted { seconds: sum, ..longest })
}
