//! A kernel in the form in which it is executed: instructions that know the rows of their operands. A row has one value of a
//! register for every thread of a block, so that one instruction is a loop over neighbouring values.

use crate::block::Block;
use crate::fault::Fault;
use crate::parse::{Class, Special};

/// Where a row begins in the store of a block: a byte.
pub type Row = u32;

/// The threads that an instruction is executed for.
#[derive(Clone, Copy)]
pub struct Lanes<'a> {
    /// Their indices in the block, ascending.
    pub list: &'a [u16],
    /// True if these are all threads of the block.
    pub all: bool,
}

/// The rows of an instruction that computes each lane by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows {
    pub to: Row,
    pub from: [Row; 4],
}

/// An instruction that computes each lane by itself and cannot fail.
///
/// Safety: the rows lie in the store, and are of the types that the function was made for.
pub type Pure = unsafe fn(store: *mut u8, rows: &Rows, lanes: Lanes);

/// An instruction that touches more than rows.
pub trait Effect: Send + Sync {
    /// Executes it.
    fn run(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>>;
}

/// What an instruction does.
pub enum Op {
    Pure(Pure, Rows),
    Effect(Box<dyn Effect>),
    /// Goes to another place: always, or where the instruction's predicate says so.
    Branch(u32),
    /// Waits for all threads of the block.
    Barrier,
    /// Waits for the threads of the warp.
    WarpBarrier,
    Return,
}

/// A predicate that must hold for an instruction to be executed.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    pub row: Row,
    pub negated: bool,
}

/// A register that may be read before it was written: a row of marks, and its name.
#[derive(Clone, Debug)]
pub struct Mark {
    pub row: Row,
    pub name: String,
}

/// An instruction.
pub struct Code {
    pub op: Op,
    pub guard: Option<Guard>,
    /// Its predicate, if that may not have been written.
    pub guard_mark: Option<Mark>,
    /// Other registers that it reads and that may not have been written.
    pub reads: Box<[Mark]>,
    /// Marks of the registers that it writes.
    pub writes: Box<[Row]>,
}

/// What counters call an instruction.
#[derive(Clone, Debug)]
pub struct Said {
    /// Line of the text.
    pub line: u32,
    /// The instruction as it stands there.
    pub text: String,
    /// Its name without what follows after dots.
    pub name: String,
    /// What it keeps busy; none if a compiler makes nothing of it, as of a copy between registers.
    pub kind: Option<Kind>,
}

/// What instructions keep busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Multiplications and additions in f32.
    Single,
    /// Everything in f64.
    Double,
    /// Integers, logic, comparisons.
    Integer,
    /// Reciprocals, roots, exponentials, conversions of floats.
    Special,
    /// Loads and stores of any memory, and exchanges within a warp.
    Memory,
    /// Branches and barriers.
    Control,
    /// Products of matrices.
    Matrix,
}

impl Kind {
    /// Of an instruction by its words, such as `fma`, `rn`, `f32`.
    pub fn of(words: &[String]) -> Option<Kind> {
        let has = |word: &str| words.iter().any(|other| other == word);
        match words.first()?.as_str() {
            "mov" | "cvta" => None,
            "ld" if has("param") => None,
            "ld" | "st" | "atom" | "red" | "cp" | "ldmatrix" | "shfl" => Some(Kind::Memory),
            "bra" | "bar" | "barrier" | "ret" => Some(Kind::Control),
            "mma" => Some(Kind::Matrix),
            _ if has("f64") => Some(Kind::Double),
            "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "div" if has("f32") => Some(Kind::Special),
            "cvt" if words.iter().any(|word| word.starts_with('f') || word.starts_with("bf")) => Some(Kind::Special),
            "fma" | "add" | "sub" | "mul" if has("f32") => Some(Kind::Single),
            _ => Some(Kind::Integer),
        }
    }
}

/// A parameter of a kernel, as launches are compared with it.
#[derive(Clone, Debug)]
pub struct Parameter {
    pub offset: u32,
    pub bytes: u32,
    /// True if its value is used as an address, false if it is not or cannot be one; none if nobody uses it.
    pub is_address: Option<bool>,
}

/// A kernel that can be executed.
pub struct Program {
    pub name: String,
    pub code: Vec<Code>,
    pub said: Vec<Said>,
    pub parameters: Vec<Parameter>,
    pub parameter_bytes: u32,
    pub max_threads: Option<u32>,
    pub required_threads: Option<u32>,
    /// Bytes of shared memory that it declares.
    pub shared_bytes: u32,
    /// Names and first bytes of its shared variables, ascending.
    pub shared: Vec<(u32, String)>,
    /// Lanes of a row.
    pub capacity: usize,
    /// Bytes of all rows.
    pub store_bytes: usize,
    /// Rows whose values never change.
    pub constants: Vec<(Row, Class, u64)>,
    /// Rows that the hardware fills.
    pub specials: Vec<(Row, Special)>,
    /// Rows of marks, and rows whose marks they are with their width.
    pub marks: Vec<(Row, Row, Class)>,
    /// True if it reads by `ld.global.nc` and writes global memory, so that both are compared.
    pub compares_cached_reads: bool,
    /// True if blocks must run one after the other: what an atomic found is used.
    pub is_ordered: bool,
    /// Bytes of its smallest access to shared memory, four at most, as a power of two.
    pub granule: u32,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Program({}, {} instructions, {} bytes of rows)", self.name, self.code.len(), self.store_bytes)
    }
}
