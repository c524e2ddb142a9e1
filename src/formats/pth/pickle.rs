//! A pickle machine that can only build data.
//!
//! Python's pickle is a small program. This machine knows the instructions that tensors, numbers, text and containers
//! of them need, and a fixed list of names (`Global`); any other name is refused where it stands, before anything is
//! built from it. Nothing is ever called: the few constructors on the list are carried out here.
//! Values lie in one list and refer to each other by index, so neither sharing nor cycles nor depth can hurt.
//! Source: docs/formats.md, "Model files"; the instructions are those of Python's `pickletools` module.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::tensor::{Dtype, Storage, TensorRef};

/// The most values, stack entries and memo entries. A checkpoint of the network with its optimiser needs 30 000.
const MOST_VALUES: usize = 4_000_000;
/// The most marks that may be open. A checkpoint nests 6 deep.
const MOST_MARKS: usize = 1000;
/// Most extents of a tensor, as in PyTorch.
const MOST_EXTENTS: usize = 64;

/// Index of a value in `Values`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(u32);

/// One value of a pickle.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    None,
    Bool,
    Int(i64),
    Float(f64),
    Text(&'a str),
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// A `dict` or an `OrderedDict`: pairs in the order of the file. If a key is there twice, the last one counts.
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// Index in `Values::storages`.
    Storage(u32),
    Tensor(Box<TensorRef<'a>>),
}

impl Value<'_> {
    /// What the value is, for error messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool => "a truth value",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::Bytes => "bytes",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dict",
            Value::Global(_) => "a name",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

/// The names a pickle may ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    RebuildParameterWithState,
    Size,
    /// `torch.FloatStorage` and its kind: the type of the elements is part of the name.
    TypedStorage(Dtype),
    /// A storage of bytes. The tensors that use it say of which type they are.
    UntypedStorage,
    /// `torch.float32` and its kind.
    Dtype(Dtype),
}

impl Global {
    fn of(module: &str, name: &str) -> Option<Global> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensorV2,
            ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch._utils", "_rebuild_parameter_with_state") => Global::RebuildParameterWithState,
            ("torch", "Size") => Global::Size,
            ("torch.storage", "UntypedStorage" | "_UntypedStorage") | ("torch", "UntypedStorage") => Global::UntypedStorage,
            ("torch" | "torch.cuda", _) if name.ends_with("Storage") => Global::TypedStorage(Dtype::of_storage(name)?),
            ("torch", _) => Global::Dtype(Dtype::of_name(name)?),
            _ => return None,
        })
    }
}

/// All values of one pickle.
#[derive(Debug)]
pub(super) struct Values<'a> {
    list: Vec<Value<'a>>,
    /// Every storage the pickle spoke of, in order of appearance.
    pub(super) storages: Vec<Storage<'a>>,
}

impl<'a> Values<'a> {
    fn new() -> Self {
        // Constants have fixed places, because a pickle repeats them often.
        Values { list: vec![Value::None, Value::Bool, Value::Tuple(Vec::new())], storages: Vec::new() }
    }

    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        &self.list[id.0 as usize]
    }

    fn add(&mut self, value: Value<'a>) -> Result<Id> {
        ensure!(self.list.len() < MOST_VALUES, "more than {MOST_VALUES} values; expected a checkpoint");
        self.list.push(value);
        Ok(Id(self.list.len() as u32 - 1))
    }

    /// The pairs of a dict.
    pub(super) fn dict(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// The entries of a list or a tuple.
    pub(super) fn entries(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::List(entries) | Value::Tuple(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value behind a text key of a dict.
    pub(super) fn entry(&self, id: Id, key: &str) -> Option<Id> {
        let pairs = self.dict(id)?;
        pairs.iter().rev().find(|(name, _)| matches!(self.get(*name), Value::Text(text) if *text == key)).map(|&(_, value)| value)
    }

    pub(super) fn text(&self, id: Id) -> Option<&'a str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn tensor(&self, id: Id) -> Option<&TensorRef<'a>> {
        match self.get(id) {
            Value::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// A number, whether written as an integer or as a float.
    pub(super) fn number(&self, id: Id) -> Option<f64> {
        match self.get(id) {
            Value::Int(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// A whole number that is not negative, because it counts something.
    pub(super) fn count(&self, id: Id) -> Result<u64> {
        match self.get(id) {
            Value::Int(value) => u64::try_from(*value).map_err(|_| anyhow!("{value} where a count is expected")),
            other => bail!("{} where a count is expected", other.kind()),
        }
    }

    fn counts(&self, id: Id) -> Result<Vec<u64>> {
        let entries = self.entries(id).ok_or_else(|| anyhow!("{} where extents are expected", self.get(id).kind()))?;
        ensure!(entries.len() <= MOST_EXTENTS, "{} extents; expected at most {MOST_EXTENTS}", entries.len());
        entries.iter().map(|&entry| self.count(entry)).collect()
    }
}

/// Runs one pickle. Returns its values, which of them is the result, and how many bytes the pickle took.
///
/// Errors: an instruction or name outside the list, a pickle cut short, or more values than a checkpoint can need;
/// each names the byte.
pub(super) fn run(bytes: &[u8]) -> Result<(Values<'_>, Id, usize)> {
    let mut machine = Machine { bytes, at: 0, values: Values::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    loop {
        let start = machine.at;
        if let Some(result) = machine.step().with_context(|| format!("pickle byte {start}"))? {
            return Ok((machine.values, result, machine.at));
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Values<'a>,
    stack: Vec<Id>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Carries out one instruction; returns the result at the end.
    fn step(&mut self) -> Result<Option<Id>> {
        const NONE: Id = Id(0);
        const BOOL: Id = Id(1); // true or false: it never matters here
        const EMPTY: Id = Id(2);
        let instruction = self.take(1)?[0];
        match instruction {
            // frames and the end
            0x80 => {
                let version = self.take(1)?[0];
                ensure!(version <= 5, "pickle protocol {version}; expected at most 5");
            }
            0x95 => {
                self.take(8)?; // the length of a frame, which only readers of streams need
            }
            b'.' => return Ok(Some(self.pop()?)),
            // the stack
            b'(' => {
                ensure!(self.marks.len() < MOST_MARKS, "more than {MOST_MARKS} marks are open; expected a checkpoint");
                self.marks.push(self.stack.len());
            }
            b'0' => {
                // As in Python, POP takes the mark itself if nothing lies above it.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = self.top()?;
                self.push_id(top)?;
            }
            // the memo
            b'q' => {
                let index = u32::from(self.take(1)?[0]);
                self.memoise(index)?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.memoise(index)?;
            }
            0x94 => {
                let index = self.memo.len() as u32;
                self.memoise(index)?;
            }
            b'p' => {
                let index = self.line()?.parse().map_err(|_| anyhow!("memo index that is no number"))?;
                self.memoise(index)?;
            }
            b'h' => {
                let index = u32::from(self.take(1)?[0]);
                self.recall(index)?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)?;
            }
            b'g' => {
                let index = self.line()?.parse().map_err(|_| anyhow!("memo index that is no number"))?;
                self.recall(index)?;
            }
            // numbers
            b'N' => self.push_id(NONE)?,
            0x88 | 0x89 => self.push_id(BOOL)?,
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            b'K' => {
                let value = self.take(1)?[0];
                self.push(Value::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => {
                let length = self.take(1)?[0].into();
                self.long(length)?;
            }
            0x8b => {
                let length = i32::from_le_bytes(self.array()?);
                self.long(usize::try_from(length).map_err(|_| anyhow!("an integer of {length} bytes"))?)?;
            }
            b'I' => match self.line()? {
                "00" | "01" => self.push_id(BOOL)?,
                digits => {
                    let value = digits.parse().map_err(|_| anyhow!("an integer that is no number"))?;
                    self.push(Value::Int(value))?;
                }
            },
            b'L' => {
                let value = self.line()?.trim_end_matches('L').parse().map_err(|_| anyhow!("an integer that is no number"))?;
                self.push(Value::Int(value))?;
            }
            b'F' => {
                let value = self.line()?.parse().map_err(|_| anyhow!("a number that is none"))?;
                self.push(Value::Float(value))?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(value))?;
            }
            // text and bytes
            b'X' | b'T' => {
                let length = u32::from_le_bytes(self.array()?);
                self.text(length.into())?;
            }
            0x8c | b'U' => {
                let length = self.take(1)?[0].into();
                self.text(length)?;
            }
            0x8d => {
                let length = u64::from_le_bytes(self.array()?);
                self.text(length)?;
            }
            b'V' => {
                let text = self.line()?;
                ensure!(!text.contains('\\'), "escaped text of pickle protocol 0; expected protocol 2, which PyTorch writes");
                self.push(Value::Text(text))?;
            }
            b'B' | b'C' | 0x8e => {
                let length = match instruction {
                    b'B' => u32::from_le_bytes(self.array()?).into(),
                    b'C' => self.take(1)?[0].into(),
                    _ => u64::from_le_bytes(self.array()?),
                };
                self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
                self.push(Value::Bytes)?;
            }
            // containers
            b')' => self.push_id(EMPTY)?,
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b't' => {
                let entries = self.pop_to_mark()?;
                self.push(Value::Tuple(entries))?;
            }
            b'l' => {
                let entries = self.pop_to_mark()?;
                self.push(Value::List(entries))?;
            }
            b'd' => {
                let pairs = pairs_of(&self.pop_to_mark()?)?;
                self.push(Value::Dict(pairs))?;
            }
            0x85..=0x87 => {
                let count = usize::from(instruction - 0x84);
                let mut entries = vec![NONE; count];
                for entry in entries.iter_mut().rev() {
                    *entry = self.pop()?;
                }
                self.push(Value::Tuple(entries))?;
            }
            b'a' => {
                let entry = self.pop()?;
                self.append(&[entry])?;
            }
            b'e' => {
                let entries = self.pop_to_mark()?;
                self.append(&entries)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[(key, value)])?;
            }
            b'u' => {
                let pairs = pairs_of(&self.pop_to_mark()?)?;
                self.set_items(&pairs)?;
            }
            // names and what is made of them
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name)?;
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                match (self.values.text(module), self.values.text(name)) {
                    (Some(module), Some(name)) => self.global(module, name)?,
                    _ => bail!("a name that is no text"),
                }
            }
            b'R' => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                self.construct(function, arguments)?;
            }
            b'b' => {
                // This sets attributes of an object. Only an OrderedDict has any here: PyTorch gives a state dict the version
                // numbers of its modules as an attribute. They change nothing for us.
                let state = self.pop()?;
                let object = self.top()?;
                let (object, state) = (self.values.get(object), self.values.get(state));
                ensure!(
                    matches!((object, state), (Value::Dict(_), Value::Dict(_))),
                    "attributes ({}) set on {}; expected attributes of a dict only",
                    state.kind(),
                    object.kind()
                );
            }
            b'Q' => {
                let id = self.pop()?;
                self.storage(id)?;
            }
            other => bail!("instruction {other:#04x} has no place in a checkpoint; expected tensors, numbers, text, lists and dicts"),
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let left = self.bytes.len() - self.at;
        ensure!(count <= left, "{count} bytes wanted and {left} left; the file is cut short or no checkpoint");
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| anyhow!("a line without end; the file is cut short"))?;
        let line = std::str::from_utf8(&rest[..length]).map_err(|_| anyhow!("a line that is no UTF-8"))?;
        self.at += length + 1;
        Ok(line)
    }

    fn push_id(&mut self, id: Id) -> Result<()> {
        ensure!(self.stack.len() < MOST_VALUES, "more than {MOST_VALUES} values on the stack; expected a checkpoint");
        self.stack.push(id);
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        let id = self.values.add(value)?;
        self.push_id(id)
    }

    /// The height of the stack at the last open mark. Instructions may only take entries above it.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        ensure!(self.stack.len() > self.floor(), "the stack is empty; the file is damaged");
        self.stack.pop().ok_or_else(|| anyhow!("the stack is empty; the file is damaged"))
    }

    fn top(&self) -> Result<Id> {
        ensure!(self.stack.len() > self.floor(), "the stack is empty; the file is damaged");
        self.stack.last().copied().ok_or_else(|| anyhow!("the stack is empty; the file is damaged"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| anyhow!("no mark is open; the file is damaged"))?;
        Ok(self.stack.split_off(mark))
    }

    fn memoise(&mut self, index: u32) -> Result<()> {
        ensure!(self.memo.len() < MOST_VALUES, "more than {MOST_VALUES} values in the memo; expected a checkpoint");
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<()> {
        let id = *self.memo.get(&index).ok_or_else(|| anyhow!("value {index} of the memo was never put there; the file is damaged"))?;
        self.push_id(id)
    }

    /// A little-endian integer in two's complement.
    fn long(&mut self, length: usize) -> Result<()> {
        ensure!(length <= 8, "an integer of {length} bytes; expected at most 8");
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..length].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, length: u64) -> Result<()> {
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        // Python 2 wrote text and bytes with the same instruction. What is not UTF-8 is bytes.
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(Value::Text(text)),
            Err(_) => self.push(Value::Bytes),
        }
    }

    fn append(&mut self, more: &[Id]) -> Result<()> {
        let list = self.top()?;
        match &mut self.values.list[list.0 as usize] {
            Value::List(entries) => entries.extend_from_slice(more),
            other => bail!("entries appended to {}; expected a list", other.kind()),
        }
        Ok(())
    }

    fn set_items(&mut self, more: &[(Id, Id)]) -> Result<()> {
        let dict = self.top()?;
        match &mut self.values.list[dict.0 as usize] {
            Value::Dict(pairs) => pairs.extend_from_slice(more),
            other => bail!("keys set on {}; expected a dict", other.kind()),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let global = Global::of(module, name).ok_or_else(|| {
            anyhow!(
                "the file asks for `{}.{}`, which is not among the names a checkpoint needs; nothing was run; \
                 expected tensors, numbers, text and containers of them; save the model's state_dict alone",
                printable(module),
                printable(name)
            )
        })?;
        self.push(Value::Global(global))
    }

    /// What Python would get by calling one of the allowed names.
    fn construct(&mut self, function: Id, arguments: Id) -> Result<()> {
        let Value::Global(global) = *self.values.get(function) else {
            bail!("{} called; expected one of the names a checkpoint needs", self.values.get(function).kind())
        };
        let Value::Tuple(arguments) = self.values.get(arguments) else {
            bail!("{} as arguments; expected a tuple", self.values.get(arguments).kind())
        };
        let made = match (global, arguments.as_slice()) {
            (Global::OrderedDict, []) => Value::Dict(Vec::new()),
            (Global::OrderedDict, &[pairs]) => {
                let pairs = self.values.entries(pairs).ok_or_else(|| anyhow!("an OrderedDict made of no list"))?;
                let pairs: Option<Vec<_>> = pairs.iter().map(|&pair| self.values.entries(pair)?.try_into().ok()).collect();
                Value::Dict(
                    pairs.ok_or_else(|| anyhow!("an OrderedDict made of no pairs"))?.into_iter().map(|[k, v]: [Id; 2]| (k, v)).collect(),
                )
            }
            (Global::Size, &[extents]) => {
                let extents = self.values.entries(extents).ok_or_else(|| anyhow!("a torch.Size made of no tuple"))?;
                Value::Tuple(extents.to_vec())
            }
            (Global::RebuildTensor | Global::RebuildTensorV2, &[storage, offset, extents, strides, ..]) => {
                self.rebuild(storage, offset, extents, strides, None)?
            }
            (Global::RebuildTensorV3, &[storage, offset, extents, strides, _, _, dtype, ..]) => {
                self.rebuild(storage, offset, extents, strides, Some(dtype))?
            }
            (Global::RebuildParameter | Global::RebuildParameterWithState, &[tensor, ..]) => {
                let tensor = self.values.tensor(tensor).ok_or_else(|| anyhow!("a parameter made of no tensor"))?;
                Value::Tensor(Box::new(tensor.clone()))
            }
            (global, arguments) => bail!("{global:?} with {} arguments; the file is damaged", arguments.len()),
        };
        self.push(made)
    }

    fn rebuild(&self, storage: Id, offset: Id, extents: Id, strides: Id, dtype: Option<Id>) -> Result<Value<'a>> {
        let values = &self.values;
        let Value::Storage(index) = values.get(storage) else {
            bail!("a tensor made of {}; expected a storage", values.get(storage).kind())
        };
        let storage = &values.storages[*index as usize];
        let dtype = match (dtype.map(|id| values.get(id)), storage.dtype) {
            (None, Some(dtype)) => dtype,
            (Some(Value::Global(Global::Dtype(dtype))), _) => *dtype,
            _ => bail!("a tensor without a type"),
        };
        Ok(Value::Tensor(Box::new(TensorRef {
            storage: storage.clone(),
            dtype,
            offset: values.count(offset).context("offset of a tensor")?,
            extents: values.counts(extents).context("shape of a tensor")?,
            strides: values.counts(strides).context("strides of a tensor")?,
        })))
    }

    /// ('storage', type, key, location, number of elements, view or None)
    fn storage(&mut self, id: Id) -> Result<()> {
        let values = &self.values;
        let entries = values.entries(id).ok_or_else(|| anyhow!("a storage described by {}; expected a tuple", values.get(id).kind()))?;
        let kind = entries.first().and_then(|&kind| values.text(kind)).unwrap_or_default();
        ensure!(kind != "module", "the file holds a whole pickled module; expected a state_dict; save the model's state_dict alone");
        let (5 | 6, "storage") = (entries.len(), kind) else { bail!("a persistent object that is no storage; expected tensors only") };
        let dtype = match values.get(entries[1]) {
            Value::Global(Global::TypedStorage(dtype)) => Some(*dtype),
            Value::Global(Global::UntypedStorage) => None,
            other => bail!("{} as the type of a storage", other.kind()),
        };
        let key = values.text(entries[2]).ok_or_else(|| anyhow!("a storage without a key"))?;
        let numel = values.count(entries[4]).context("size of a storage")?;
        let view = match entries.get(5) {
            None => None,
            Some(&view) if matches!(values.get(view), Value::None) => None,
            Some(&view) => match values.entries(view) {
                Some(&[_, offset, size]) => Some((values.count(offset)?, values.count(size)?)),
                _ => bail!("a view of a storage that is no triple"),
            },
        };
        let index = self.values.storages.len() as u32; // fits, because there are fewer storages than values
        self.values.storages.push(Storage { key, dtype, numel, view });
        self.push(Value::Storage(index))
    }
}

fn pairs_of(flat: &[Id]) -> Result<Vec<(Id, Id)>> {
    ensure!(flat.len().is_multiple_of(2), "a key without a value; the file is damaged");
    Ok(flat.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Text from a hostile file, fit for a line of a terminal.
fn printable(text: &str) -> String {
    text.chars().take(100).map(|c| if c.is_control() { '?' } else { c }).collect()
}
