//! Reads the text of a PTX module into kernels. What is not known here is an error that names the line: an executor that
//! guesses proves nothing. Which instructions there are is not this file's business but that of `forms`.
//!
//! Source: NVIDIA, Parallel Thread Execution ISA, chapters "Syntax" and "Directives".

use crate::tokens::{Token, Tokens, tokenize};
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;

/// A module: the text that one image of PTX holds.
#[derive(Debug)]
pub struct Module {
    /// Version of the language, major then minor.
    pub version: [u32; 2],
    /// The least architecture: 80 of `sm_80`.
    pub target: u32,
    /// Its kernels, in the order of the text.
    pub kernels: Vec<Kernel>,
}

/// A kernel as the text declares it.
#[derive(Debug, Default)]
pub struct Kernel {
    /// Name of the entry.
    pub name: String,
    /// Parameters in their order.
    pub parameters: Vec<Parameter>,
    /// Bytes of all parameters with the gaps between them.
    pub parameter_bytes: u32,
    /// Most threads of a block, by `.maxntid`.
    pub max_threads: Option<u32>,
    /// Threads of every block, by `.reqntid`.
    pub required_threads: Option<u32>,
    /// Variables in shared memory.
    pub shared: Vec<Shared>,
    /// Bytes of the shared variables whose size is known.
    pub shared_bytes: u32,
    /// True once a variable is used that has what the launch adds.
    shared_is_open: bool,
    /// Registers, those of inner scopes too.
    pub registers: Vec<Register>,
    /// Instructions in their order.
    pub instructions: Vec<Instruction>,
}

/// A parameter of a kernel.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in the text.
    pub name: String,
    /// Where it lies in the block of all parameters.
    pub offset: u32,
    /// Its length.
    pub bytes: u32,
    /// False for a struct or an array.
    pub is_scalar: bool,
}

/// A variable in shared memory.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Its name in the text.
    pub name: String,
    /// First byte.
    pub offset: u32,
}

/// How wide a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A predicate; takes one byte.
    Predicate,
    /// 16 bits.
    B16,
    /// 32 bits.
    B32,
    /// 64 bits.
    B64,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 4] = [Class::Predicate, Class::B16, Class::B32, Class::B64];

    /// Bytes of one lane.
    pub fn bytes(self) -> usize {
        1 << self as usize
    }
}

/// A register.
#[derive(Debug)]
pub struct Register {
    /// Its name in the text.
    pub name: String,
    /// Its width.
    pub class: Class,
}

/// An instruction.
#[derive(Debug)]
pub struct Instruction {
    /// Line of the text, from 1.
    pub line: u32,
    /// The instruction as it stands there.
    pub text: String,
    /// The predicate that decides whether it is executed, and true if it must be false for that.
    pub guard: Option<(usize, bool)>,
    /// The name and what follows it after dots: `ld`, `global`, `nc`, `f32`.
    pub words: Vec<String>,
    /// The operands, the target first.
    pub operands: Vec<Operand>,
}

/// A number that the hardware gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    /// Index of the thread in its block.
    Thread(u8),
    /// Threads of the block.
    Threads(u8),
    /// Index of the block in the grid.
    Block(u8),
    /// Blocks of the grid.
    Blocks(u8),
    /// Index of the thread in its warp.
    Lane,
    /// Index of the warp in its block.
    Warp,
}

/// What an address counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The value of a register.
    Register(usize),
    /// The beginning of shared memory; the variable's place is in the offset.
    Shared,
    /// A parameter.
    Parameter(usize),
}

/// An operand.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A register.
    Register(usize),
    /// A number that the hardware gives.
    Special(Special),
    /// A whole number.
    Integer(i128),
    /// The bits of an f32.
    F32(u32),
    /// The bits of an f64.
    F64(u64),
    /// Several operands in braces.
    Vector(Vec<Operand>),
    /// Two registers with a bar between them.
    Pair(Box<[Operand; 2]>),
    /// A place in memory.
    Address(Base, i64),
    /// The address of a shared variable.
    SharedAddress(u32),
    /// A place in the code: the number of an instruction.
    Target(usize),
    /// `_`: what would be written there is thrown away.
    Sink,
    /// A name that is not resolved yet; none is left when parsing has ended.
    Name(String),
}

/// Reads a module.
///
/// Errors: something in the text is not known; the error names its line.
pub fn parse(text: &str) -> Result<Module> {
    let mut tokens = tokenize(text)?;
    let mut module = Module { version: [0; 2], target: 0, kernels: Vec::new() };
    let mut shared: Vec<(String, u32, Option<u32>)> = Vec::new();
    while let Some(token) = tokens.take() {
        let line = token.line;
        match token.text {
            ".version" => {
                let word = tokens.word()?;
                let numbers = word.split_once('.').and_then(|(major, minor)| Some([major.parse().ok()?, minor.parse().ok()?]));
                module.version = numbers.with_context(|| format!("PTX line {line}: version `{word}`"))?;
            }
            ".target" => {
                let word = tokens.word()?;
                let arch = word.strip_prefix("sm_").and_then(|arch| arch.trim_end_matches(['a', 'f']).parse().ok());
                module.target = arch.with_context(|| format!("PTX line {line}: target `{word}`; expected `sm_` and a number"))?;
            }
            ".address_size" => {
                let word = tokens.word()?;
                ensure!(word == "64", "PTX line {line}: addresses of {word} bits; expected 64");
            }
            ".visible" | ".weak" => {}
            ".global" | ".const" => module_variable(&mut tokens)?,
            ".extern" => {
                tokens.expect(".shared")?;
                shared.push(shared_variable(&mut tokens)?);
            }
            ".shared" => shared.push(shared_variable(&mut tokens)?),
            ".entry" => {
                let name = tokens.word()?.to_string();
                let what = format!("kernel {name}");
                let kernel = Kernel { name, ..Kernel::default() };
                let scopes = vec![Scope::default()];
                let reader = Reader { text, tokens: &mut tokens, kernel, outer: &shared, scopes, labels: HashMap::new() };
                module.kernels.push(reader.read().context(what)?);
            }
            other => bail!("PTX line {line}: `{other}` is no directive that is known here"),
        }
    }
    ensure!(module.target > 0, "PTX without a line .target");
    Ok(module)
}

/// A constant of the source that got an address. Nothing uses it; who does so finds its name unknown.
fn module_variable(tokens: &mut Tokens) -> Result<()> {
    while let Some(token) = tokens.take() {
        if token.text == ";" {
            return Ok(());
        }
    }
    bail!("PTX ends within the declaration of a variable")
}

/// Name, alignment, and bytes (none where the launch decides) of a declaration behind `.shared`.
fn shared_variable(tokens: &mut Tokens) -> Result<(String, u32, Option<u32>)> {
    let (align, element) = alignment_and_type(tokens)?;
    let name = tokens.word()?.to_string();
    let bytes = match array_length(tokens)? {
        Some(0) => None,
        Some(length) => Some(length * element),
        None => Some(element),
    };
    tokens.expect(";")?;
    Ok((name, align.unwrap_or(element), bytes))
}

/// `.align 16 .b8`: the alignment, if there is one, and the bytes of the type.
fn alignment_and_type(tokens: &mut Tokens) -> Result<(Option<u32>, u32)> {
    let mut align = None;
    loop {
        let Token { text, line } = tokens.need()?;
        if text == ".align" {
            align = Some(tokens.number()?);
            continue;
        }
        let bytes = match text {
            ".b8" | ".u8" | ".s8" => 1,
            ".b16" | ".u16" | ".s16" | ".f16" => 2,
            ".b32" | ".u32" | ".s32" | ".f32" => 4,
            ".b64" | ".u64" | ".s64" | ".f64" => 8,
            other => bail!("PTX line {line}: `{other}`; expected a type"),
        };
        ensure!(align.is_none_or(u32::is_power_of_two), "PTX line {line}: an alignment that is no power of two");
        return Ok((align, bytes));
    }
}

/// `[12]`; 0 for `[]`, none where there are no brackets.
fn array_length(tokens: &mut Tokens) -> Result<Option<u32>> {
    if !tokens.take_if("[") {
        return Ok(None);
    }
    if tokens.take_if("]") {
        return Ok(Some(0));
    }
    let length = tokens.number()?;
    tokens.expect("]")?;
    Ok(Some(length))
}

/// Names of registers: those of a family `%r<12>` by prefix, others by their whole name.
#[derive(Default)]
struct Scope<'a> {
    families: HashMap<&'a str, (usize, usize)>,
    names: HashMap<&'a str, usize>,
}

impl Scope<'_> {
    fn find(&self, name: &str) -> Option<usize> {
        if let Some(&register) = self.names.get(name) {
            return Some(register);
        }
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let &(first, count) = self.families.get(prefix)?;
        let index: usize = name[prefix.len()..].parse().ok()?;
        (index < count).then_some(first + index)
    }
}

/// Reads one kernel.
struct Reader<'a, 't> {
    text: &'a str,
    tokens: &'t mut Tokens<'a>,
    kernel: Kernel,
    /// Shared variables of the module.
    outer: &'t [(String, u32, Option<u32>)],
    scopes: Vec<Scope<'a>>,
    labels: HashMap<&'a str, usize>,
}

impl<'a> Reader<'a, '_> {
    fn read(mut self) -> Result<Kernel> {
        self.parameters()?;
        loop {
            let Token { text, line } = self.tokens.need()?;
            match text {
                "{" => break,
                ".maxntid" => self.kernel.max_threads = Some(self.extents()?),
                ".reqntid" => self.kernel.required_threads = Some(self.extents()?),
                // How many blocks should fit is between the compiler and the assembler.
                ".minnctapersm" | ".maxnreg" => {
                    self.tokens.number()?;
                }
                other => bail!("PTX line {line}: `{other}` is no directive of a kernel that is known here"),
            }
        }
        // What the launch adds lies behind all that has a size, so these have their places first.
        for variable in self.outer.iter().filter(|(_, _, bytes)| bytes.is_some()) {
            if self.tokens.are_there(&variable.0) {
                self.add_shared(variable)?;
            }
        }
        self.body()?;
        self.resolve()?;
        Ok(self.kernel)
    }

    fn parameters(&mut self) -> Result<()> {
        if !self.tokens.take_if("(") || self.tokens.take_if(")") {
            return Ok(());
        }
        loop {
            self.tokens.expect(".param")?;
            let (align, element) = alignment_and_type(self.tokens)?;
            let name = self.tokens.word()?.to_string();
            let length = array_length(self.tokens)?;
            let offset = self.kernel.parameter_bytes.next_multiple_of(align.unwrap_or(element));
            let bytes = length.unwrap_or(1) * element;
            self.kernel.parameter_bytes = offset + bytes;
            self.kernel.parameters.push(Parameter { name, offset, bytes, is_scalar: length.is_none() });
            let Token { text, line } = self.tokens.need()?;
            match text {
                "," => {}
                ")" => break,
                other => bail!("PTX line {line}: `{other}` behind a parameter"),
            }
        }
        ensure!(self.kernel.parameter_bytes <= 4096, "{} bytes of parameters; 4096 are allowed", self.kernel.parameter_bytes);
        Ok(())
    }

    /// `256, 1, 1`: the threads of all dimensions. The dialect of the kernels has one dimension.
    fn extents(&mut self) -> Result<u32> {
        let mut threads = self.tokens.number()?;
        while self.tokens.take_if(",") {
            threads *= self.tokens.number()?;
        }
        Ok(threads)
    }

    fn body(&mut self) -> Result<()> {
        let mut depth = 1;
        while depth > 0 {
            let token = self.tokens.need()?;
            match token.text {
                "{" => {
                    depth += 1;
                    self.scopes.push(Scope::default());
                }
                "}" => {
                    depth -= 1;
                    self.scopes.pop();
                }
                ".reg" => self.registers()?,
                ".shared" => {
                    let variable = shared_variable(self.tokens)?;
                    self.add_shared(&variable)?;
                }
                ".pragma" => {
                    let Token { text, line } = self.tokens.need()?;
                    ensure!(text == "\"nounroll\"", "PTX line {line}: pragma {text} is not known here");
                    self.tokens.expect(";")?;
                }
                _ if self.tokens.take_if(":") => {
                    let place = self.kernel.instructions.len();
                    ensure!(self.labels.insert(token.text, place).is_none(), "PTX line {}: `{}` twice", token.line, token.text);
                }
                text if text.starts_with('.') => bail!("PTX line {}: `{text}` is no directive that is known here", token.line),
                _ => self.instruction(token)?,
            }
        }
        Ok(())
    }

    fn registers(&mut self) -> Result<()> {
        let Token { text, line } = self.tokens.need()?;
        let class = match text {
            ".pred" => Class::Predicate,
            ".b16" | ".u16" | ".s16" | ".f16" => Class::B16,
            ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" => Class::B32,
            ".b64" | ".u64" | ".s64" | ".f64" => Class::B64,
            other => bail!("PTX line {line}: registers of type `{other}`"),
        };
        loop {
            let name = self.tokens.word()?;
            let first = self.kernel.registers.len();
            let scope = self.scopes.last_mut().context("registers outside of a body")?;
            if self.tokens.take_if("<") {
                let count = self.tokens.number()? as usize;
                self.tokens.expect(">")?;
                ensure!(count <= 1 << 20, "PTX line {line}: {count} registers");
                scope.families.insert(name, (first, count));
                self.kernel.registers.extend((0..count).map(|i| Register { name: format!("{name}{i}"), class }));
            } else {
                scope.names.insert(name, first);
                self.kernel.registers.push(Register { name: name.to_string(), class });
            }
            let Token { text, line } = self.tokens.need()?;
            match text {
                "," => {}
                ";" => return Ok(()),
                other => bail!("PTX line {line}: `{other}` behind a register"),
            }
        }
    }

    fn add_shared(&mut self, (name, align, bytes): &(String, u32, Option<u32>)) -> Result<Shared> {
        let offset = self.kernel.shared_bytes.next_multiple_of(*align);
        ensure!(!self.kernel.shared_is_open, "shared variable `{name}` stands behind the use of one without a size");
        self.kernel.shared_is_open = bytes.is_none();
        self.kernel.shared_bytes = offset + bytes.unwrap_or(0);
        let variable = Shared { name: name.clone(), offset };
        self.kernel.shared.push(variable.clone());
        Ok(variable)
    }

    fn register(&self, name: &str) -> Option<usize> {
        self.scopes.iter().rev().find_map(|scope| scope.find(name))
    }

    fn instruction(&mut self, first: Token<'a>) -> Result<()> {
        let (line, begin) = (first.line, self.tokens.offset_of_last());
        let mut name = first;
        let mut guard = None;
        if name.text == "@" {
            let negated = self.tokens.take_if("!");
            let predicate = self.tokens.word()?;
            let found = self.register(predicate).filter(|&register| self.kernel.registers[register].class == Class::Predicate);
            guard = Some((found.with_context(|| format!("PTX line {line}: `{predicate}` is no predicate"))?, negated));
            name = self.tokens.need()?;
        }
        let words: Vec<String> = name.text.split('.').map(str::to_string).collect();
        let mut operands = Vec::new();
        if !self.tokens.take_if(";") {
            loop {
                operands.push(self.operand()?);
                let Token { text, line } = self.tokens.need()?;
                match text {
                    "," => {}
                    ";" => break,
                    other => bail!("PTX line {line}: `{other}` behind an operand"),
                }
            }
        }
        let text = self.text[begin..self.tokens.offset_of_last()].split_whitespace().collect::<Vec<&str>>().join(" ");
        self.kernel.instructions.push(Instruction { line, text, guard, words, operands });
        Ok(())
    }

    fn operand(&mut self) -> Result<Operand> {
        let Token { text, line } = self.tokens.need()?;
        match text {
            "[" => return self.address(),
            "{" => {
                let mut parts = vec![self.operand()?];
                while self.tokens.take_if(",") {
                    parts.push(self.operand()?);
                }
                self.tokens.expect("}")?;
                return Ok(Operand::Vector(parts));
            }
            "-" => return Ok(Operand::Integer(-i128::from(integer(self.tokens.word()?, line)?))),
            "_" => return Ok(Operand::Sink),
            _ => {}
        }
        let operand = self.word(text, line)?;
        if self.tokens.take_if("|") {
            let second = self.tokens.need()?;
            let second = if second.text == "_" { Operand::Sink } else { self.word(second.text, second.line)? };
            return Ok(Operand::Pair(Box::new([operand, second])));
        }
        Ok(operand)
    }

    fn word(&self, text: &str, line: u32) -> Result<Operand> {
        let bits = |digits: &str| u64::from_str_radix(digits, 16).with_context(|| format!("PTX line {line}: number `{text}`"));
        match text.as_bytes() {
            [b'%', ..] => match self.register(text) {
                Some(register) => Ok(Operand::Register(register)),
                None => Ok(Operand::Special(special(text).with_context(|| format!("PTX line {line}: `{text}` is no register"))?)),
            },
            [b'0', b'f' | b'F', digits @ ..] if digits.len() == 8 => Ok(Operand::F32(bits(&text[2..])? as u32)),
            [b'0', b'd' | b'D', digits @ ..] if digits.len() == 16 => Ok(Operand::F64(bits(&text[2..])?)),
            [b'0'..=b'9', ..] => Ok(Operand::Integer(integer(text, line)?.into())),
            _ if self.register(text).is_some() => Ok(Operand::Register(self.register(text).unwrap_or_default())),
            [b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$', ..] => Ok(Operand::Name(text.to_string())),
            _ => bail!("PTX line {line}: `{text}` is no operand that is known here"),
        }
    }

    /// What stands behind `[`.
    fn address(&mut self) -> Result<Operand> {
        let Token { text, line } = self.tokens.need()?;
        let base = match self.word(text, line)? {
            Operand::Register(register) => Base::Register(register),
            Operand::Name(name) => match self.kernel.parameters.iter().position(|parameter| parameter.name == name) {
                Some(parameter) => Base::Parameter(parameter),
                None => {
                    let variable = self.shared(&name)?.with_context(|| format!("PTX line {line}: `{name}` is no variable"))?;
                    let offset = i64::from(variable.offset) + self.offset()?;
                    return Ok(Operand::Address(Base::Shared, offset));
                }
            },
            _ => bail!("PTX line {line}: an address of `{text}`"),
        };
        Ok(Operand::Address(base, self.offset()?))
    }

    /// The rest of an address: `+8]`, `+-8]`, or `]`.
    fn offset(&mut self) -> Result<i64> {
        let mut offset = 0;
        if self.tokens.take_if("+") {
            let negative = self.tokens.take_if("-");
            let Token { text, line } = self.tokens.need()?;
            let number = i64::try_from(integer(text, line)?).with_context(|| format!("PTX line {line}: an offset of {text}"))?;
            offset = if negative { -number } else { number };
        }
        self.tokens.expect("]")?;
        Ok(offset)
    }

    /// A shared variable of the kernel, or one of the module, which becomes the kernel's when it is used.
    fn shared(&mut self, name: &str) -> Result<Option<Shared>> {
        if let Some(known) = self.kernel.shared.iter().find(|variable| variable.name == name) {
            return Ok(Some(known.clone()));
        }
        match self.outer.iter().find(|(known, ..)| known == name) {
            Some(outer) => self.add_shared(outer).map(Some),
            None => Ok(None),
        }
    }

    /// Gives every name that was left its meaning.
    fn resolve(&mut self) -> Result<()> {
        let mut instructions = std::mem::take(&mut self.kernel.instructions);
        let count = instructions.len();
        for instruction in &mut instructions {
            for operand in &mut instruction.operands {
                let Operand::Name(name) = operand else { continue };
                let label = self.labels.get(name.as_str()).copied();
                *operand = match (label, self.shared(name)?) {
                    (Some(place), _) if place < count => Operand::Target(place),
                    (_, Some(variable)) => Operand::SharedAddress(variable.offset),
                    _ => bail!("PTX line {}: `{name}` is neither a label nor a shared variable", instruction.line),
                };
            }
        }
        self.kernel.instructions = instructions;
        Ok(())
    }
}

fn integer(text: &str, line: u32) -> Result<u64> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.with_context(|| format!("PTX line {line}: `{text}` is no number"))
}

fn special(name: &str) -> Option<Special> {
    let axis = |text: &str| ["x", "y", "z"].iter().position(|axis| *axis == text).map(|axis| axis as u8);
    match name.strip_prefix('%')?.split_once('.') {
        Some(("tid", rest)) => axis(rest).map(Special::Thread),
        Some(("ntid", rest)) => axis(rest).map(Special::Threads),
        Some(("ctaid", rest)) => axis(rest).map(Special::Block),
        Some(("nctaid", rest)) => axis(rest).map(Special::Blocks),
        None if name == "%laneid" => Some(Special::Lane),
        None if name == "%warpid" => Some(Special::Warp),
        _ => None,
    }
}
