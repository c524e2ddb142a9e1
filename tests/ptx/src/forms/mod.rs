//! Turns the instructions of a kernel into what is executed. Each file has the instructions of one kind, each form of an
//! instruction written out with all its words; a form that stands nowhere is an error.
//!
//! Source: NVIDIA, Parallel Thread Execution ISA, chapter "Instruction Set".

mod atomic;
mod bits;
mod compare;
mod control;
mod convert;
mod copies;
mod integer;
mod matrix;
mod memory;
mod real;
mod warp;

use crate::code::{Code, Guard, Kind, Mark, Op, Parameter, Program, Pure, Row, Rows, Said};
use crate::flow::{Flow, flow};
use crate::lanewise::{self, Value};
use crate::parse::{Base, Class, Instruction, Kernel, Operand, Special};
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;

/// Makes a kernel executable.
///
/// Errors: an instruction or an operand is not known; the error names its line.
pub fn compile(kernel: &Kernel) -> Result<Program> {
    let mut builder = Builder::new(kernel);
    let mut code = Vec::new();
    for (place, instruction) in kernel.instructions.iter().enumerate() {
        let one = builder.code(place, instruction);
        code.push(one.with_context(|| format!("kernel {}, PTX line {}: `{}`", kernel.name, instruction.line, instruction.text))?);
    }
    Ok(builder.program(code))
}

/// What the words of an instruction say; none if they are not known.
type Lowered = Result<Option<Op>>;

/// What is known of a kernel while its instructions are made executable.
pub struct Builder<'k> {
    pub kernel: &'k Kernel,
    flow: Flow,
    capacity: usize,
    /// First row of each class.
    begins: [usize; 4],
    /// Bytes of rows so far.
    bytes: usize,
    constants: HashMap<(Class, u64), Row>,
    specials: HashMap<Special, Row>,
    marks: HashMap<usize, Row>,
    sinks: HashMap<Class, Row>,
    /// Registers that hold a parameter's value.
    holds: HashMap<usize, usize>,
    is_address: Vec<Option<bool>>,
    reads_cached: bool,
    writes_global: bool,
    is_ordered: bool,
    /// Which registers some instruction reads.
    is_read: Vec<bool>,
    /// Bytes of the smallest access to shared memory.
    smallest_shared: u32,
}

impl<'k> Builder<'k> {
    fn new(kernel: &'k Kernel) -> Self {
        let flow = flow(kernel);
        let capacity = kernel.required_threads.or(kernel.max_threads).unwrap_or(1024).next_multiple_of(32) as usize;
        let (mut begins, mut bytes) = ([0; 4], 0_usize);
        for class in Class::ALL {
            begins[class as usize] = bytes;
            bytes += flow.row_counts[class as usize] as usize * capacity * class.bytes();
        }
        let mut builder = Builder {
            kernel,
            flow,
            capacity,
            begins,
            bytes,
            constants: HashMap::new(),
            specials: HashMap::new(),
            marks: HashMap::new(),
            sinks: HashMap::new(),
            holds: HashMap::new(),
            is_address: vec![None; kernel.parameters.len()],
            reads_cached: false,
            writes_global: false,
            is_ordered: false,
            smallest_shared: 16,
            is_read: vec![false; kernel.registers.len()],
        };
        builder.flow.steps.iter().flat_map(|step| &step.reads).for_each(|&register| builder.is_read[register] = true);
        for (_, register) in builder.flow.unsure.clone() {
            if !builder.marks.contains_key(&register) {
                let row = builder.new_row(Class::Predicate);
                builder.marks.insert(register, row);
            }
        }
        builder
    }

    fn program(self, code: Vec<Code>) -> Program {
        let kernel = self.kernel;
        let said = |instruction: &Instruction| {
            let name = match instruction.words[0].as_str() {
                "cp" if instruction.words.iter().any(|word| word.starts_with("shared")) => "cp.async".to_string(),
                "cp" => instruction.words.join("."),
                word => word.to_string(),
            };
            Said { line: instruction.line, text: instruction.text.clone(), name, kind: Kind::of(&instruction.words) }
        };
        let parameter = |(i, parameter): (usize, &crate::parse::Parameter)| Parameter {
            offset: parameter.offset,
            bytes: parameter.bytes,
            is_address: if parameter.is_scalar && parameter.bytes == 8 { self.is_address[i] } else { Some(false) },
        };
        let mut shared: Vec<(u32, String)> = kernel.shared.iter().map(|variable| (variable.offset, variable.name.clone())).collect();
        shared.sort();
        let mark = |(&register, &mark): (&usize, &Row)| Some((mark, self.row_of(register)?, kernel.registers[register].class));
        Program {
            name: kernel.name.clone(),
            said: kernel.instructions.iter().map(said).collect(),
            code,
            parameters: kernel.parameters.iter().enumerate().map(parameter).collect(),
            parameter_bytes: kernel.parameter_bytes,
            max_threads: kernel.max_threads,
            required_threads: kernel.required_threads,
            shared_bytes: kernel.shared_bytes,
            shared,
            capacity: self.capacity,
            store_bytes: self.bytes,
            constants: self.constants.iter().map(|(&(class, value), &row)| (row, class, value)).collect(),
            specials: self.specials.iter().map(|(&special, &row)| (row, special)).collect(),
            marks: self.marks.iter().filter_map(mark).collect(),
            compares_cached_reads: self.reads_cached && self.writes_global,
            is_ordered: self.is_ordered,
            granule: self.smallest_shared.min(4).ilog2(),
        }
    }

    fn code(&mut self, place: usize, instruction: &Instruction) -> Result<Code> {
        let words: Vec<&str> = instruction.words.iter().map(String::as_str).collect();
        let op = match words[0] {
            "add" | "sub" | "mul" | "mad" | "div" | "rem" | "abs" | "neg" | "min" | "max" => {
                match integer::lower(self, instruction, &words)? {
                    Some(op) => Some(op),
                    None => real::lower(self, instruction, &words)?,
                }
            }
            "fma" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" => real::lower(self, instruction, &words)?,
            "and" | "or" | "xor" | "not" | "shl" | "shr" | "bfe" | "bfi" | "popc" | "clz" | "brev" | "prmt" | "lop3" | "shf" => {
                bits::lower(self, instruction, &words)?
            }
            "setp" | "selp" => compare::lower(self, instruction, &words)?,
            "mov" | "cvt" | "cvta" => convert::lower(self, instruction, &words)?,
            "ld" | "st" => memory::lower(self, instruction, &words)?,
            "atom" | "red" => atomic::lower(self, instruction, &words)?,
            "shfl" | "vote" => warp::lower(self, instruction, &words)?,
            "ldmatrix" | "mma" => matrix::lower(self, instruction, &words)?,
            "cp" => copies::lower(self, instruction, &words)?,
            "bra" | "bar" | "ret" | "exit" => control::lower(self, instruction, &words)?,
            _ => None,
        };
        let op = op.context("this form of an instruction is not known here")?;
        let guard =
            instruction.guard.map(|(register, negated)| Ok::<Guard, anyhow::Error>(Guard { row: self.register(register)?, negated }));
        let unsure = self.flow.unsure.iter().filter(|(at, _)| *at == place).map(|&(_, register)| register);
        let (mut reads, mut guard_mark) = (Vec::new(), None);
        for register in unsure {
            let mark = Mark { row: self.marks[&register], name: self.kernel.registers[register].name.clone() };
            if instruction.guard.is_some_and(|(predicate, _)| predicate == register) {
                guard_mark = Some(mark);
            } else {
                reads.push(mark);
            }
        }
        let writes = self.flow.steps[place].writes.iter().filter_map(|register| self.marks.get(register).copied()).collect();
        Ok(Code { op, guard: guard.transpose()?, guard_mark, reads: reads.into(), writes })
    }

    fn new_row(&mut self, class: Class) -> Row {
        self.bytes = self.bytes.next_multiple_of(64);
        let row = self.bytes as Row;
        self.bytes += self.capacity * class.bytes();
        row
    }

    fn row_of(&self, register: usize) -> Option<Row> {
        let class = self.kernel.registers[register].class;
        let row = self.flow.rows[register]? as usize;
        Some((self.begins[class as usize] + row * self.capacity * class.bytes()) as Row)
    }

    /// The row of a register that something touches.
    fn register(&self, register: usize) -> Result<Row> {
        self.row_of(register).context("a register that nothing touches")
    }

    /// The width of a register operand.
    pub fn class_of(&self, operand: &Operand) -> Option<Class> {
        match operand {
            Operand::Register(register) => Some(self.kernel.registers[*register].class),
            _ => None,
        }
    }

    /// A row whose values are all the same.
    pub fn constant(&mut self, class: Class, value: u64) -> Row {
        if let Some(&row) = self.constants.get(&(class, value)) {
            return row;
        }
        let row = self.new_row(class);
        self.constants.insert((class, value), row);
        row
    }

    /// The row of an operand that is read.
    ///
    /// Errors: it has another width.
    pub fn read(&mut self, operand: &Operand, class: Class) -> Result<Row> {
        match operand {
            Operand::Register(register) => {
                let found = self.kernel.registers[*register].class;
                ensure!(found == class, "register {} is {found:?}; expected {class:?}", self.kernel.registers[*register].name);
                self.register(*register)
            }
            Operand::Special(special) => {
                ensure!(class == Class::B32, "a special register where {class:?} is expected");
                if let Some(&row) = self.specials.get(special) {
                    return Ok(row);
                }
                let row = self.new_row(class);
                self.specials.insert(*special, row);
                Ok(row)
            }
            Operand::Integer(value) => {
                let value = if class == Class::Predicate { i128::from(*value != 0) } else { *value };
                let bits = 8 * class.bytes() as u32;
                ensure!(value >= -(1 << (bits - 1)) && value < 1 << bits, "{value} does not fit into {bits} bits");
                let mask = if bits == 64 { u64::MAX } else { (1_u64 << bits) - 1 };
                Ok(self.constant(class, value as u64 & mask))
            }
            Operand::F32(bits) if class == Class::B32 => Ok(self.constant(class, u64::from(*bits))),
            Operand::F64(bits) if class == Class::B64 => Ok(self.constant(class, *bits)),
            Operand::SharedAddress(offset) if matches!(class, Class::B32 | Class::B64) => Ok(self.constant(class, u64::from(*offset))),
            other => bail!("operand {other:?} where a value of {class:?} is expected"),
        }
    }

    /// The row of an operand that is written.
    ///
    /// Errors: it is no register of this width.
    pub fn write(&mut self, operand: &Operand, class: Class) -> Result<Row> {
        match operand {
            Operand::Register(register) => {
                let found = self.kernel.registers[*register].class;
                ensure!(found == class, "register {} is {found:?}; expected {class:?}", self.kernel.registers[*register].name);
                self.register(*register)
            }
            Operand::Sink => {
                if let Some(&row) = self.sinks.get(&class) {
                    return Ok(row);
                }
                let row = self.new_row(class);
                self.sinks.insert(class, row);
                Ok(row)
            }
            other => bail!("operand {other:?} where a register of {class:?} is written"),
        }
    }

    /// An instruction that computes each lane by itself, from its operands behind the first one.
    fn lanewise(&mut self, i: &Instruction, run: Pure, to: Class, from: &[Class]) -> Lowered {
        ensure!(i.operands.len() == from.len() + 1, "{} operands; expected {}", i.operands.len(), from.len() + 1);
        let mut rows = Rows { to: self.write(&i.operands[0], to)?, ..Rows::default() };
        for (k, &class) in from.iter().enumerate() {
            rows.from[k] = self.read(&i.operands[k + 1], class)?;
        }
        Ok(Some(Op::Pure(run, rows)))
    }

    /// A function of one operand.
    pub fn map1<A: Value, D: Value, F: Fn(A) -> D + Copy + 'static>(&mut self, i: &Instruction, f: F) -> Lowered {
        self.lanewise(i, lanewise::map1(f), class::<D>(), &[class::<A>()])
    }

    /// A function of two operands.
    pub fn map2<A: Value, B: Value, D: Value, F: Fn(A, B) -> D + Copy + 'static>(&mut self, i: &Instruction, f: F) -> Lowered {
        self.lanewise(i, lanewise::map2(f), class::<D>(), &[class::<A>(), class::<B>()])
    }

    /// A function of three operands.
    pub fn map3<A: Value, B: Value, C: Value, D: Value, F: Fn(A, B, C) -> D + Copy + 'static>(&mut self, i: &Instruction, f: F) -> Lowered {
        self.lanewise(i, lanewise::map3(f), class::<D>(), &[class::<A>(), class::<B>(), class::<C>()])
    }

    /// A function of four operands.
    pub fn map4<A: Value, B: Value, C: Value, E: Value, D: Value, F: Fn(A, B, C, E) -> D + Copy + 'static>(
        &mut self,
        i: &Instruction,
        f: F,
    ) -> Lowered {
        self.lanewise(i, lanewise::map4(f), class::<D>(), &[class::<A>(), class::<B>(), class::<C>(), class::<E>()])
    }

    /// True if some instruction reads a register.
    fn is_read(&self, register: usize) -> bool {
        self.is_read[register]
    }

    /// Notes that a parameter's value is in the first operand.
    fn hold(&mut self, operand: &Operand, parameter: usize) {
        if let Operand::Register(register) = operand {
            self.holds.insert(*register, parameter);
        }
    }

    /// Notes that an operand is used as an address of the device's memory.
    fn used_as_address(&mut self, operand: &Operand) {
        if let Operand::Register(register) | Operand::Address(Base::Register(register), _) = operand
            && let Some(&parameter) = self.holds.get(register)
        {
            self.is_address[parameter] = Some(true);
        }
    }
}

/// The width of the registers that hold a type; one byte is a predicate.
fn class<T>() -> Class {
    match size_of::<T>() {
        1 => Class::Predicate,
        2 => Class::B16,
        4 => Class::B32,
        _ => Class::B64,
    }
}
