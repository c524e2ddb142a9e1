//! Weights as safetensors: a JSON header with names, types, shapes and metadata, then the numbers.
//!
//! The numbers lie with the widest type first, so that each tensor is aligned for readers that map the file; the header
//! lists the tensors in the order of the model, and that order is what a reader gets.
//! Source: docs/formats.md, "Model files".

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::state_dict::{NamedTensor, StateDict, Values};

/// The longest header that is read. The network's header takes 50 kB.
const LONGEST_HEADER: u64 = 16 << 20;

/// True if the bytes begin as a safetensors file does: the length of a header that fits the file, and its brace.
pub fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return false };
    u64::from_le_bytes(*length) <= rest.len() as u64 && rest.first() == Some(&b'{')
}

/// Reads a state dict and its metadata. Integers and truth values become I64, bfloat16 becomes F32 (exactly).
///
/// Errors: not a safetensors file, damaged, or with a type that a model of ours cannot have.
pub fn read(bytes: &[u8]) -> Result<StateDict> {
    let header = header(bytes)?;
    let (_, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| anyhow!("safetensors header: {error}; the file is damaged; copy it again"))?;
    let file = SafeTensors::deserialize(bytes).map_err(|error| anyhow!("safetensors: {error}; the file is damaged; copy it again"))?;
    let place: HashMap<String, usize> = names_in_order(header)?.into_iter().enumerate().map(|(place, name)| (name, place)).collect();

    let mut state = StateDict::default();
    for (name, view) in file.tensors() {
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F64 => Values::F64(each(data, f64::from_le_bytes)),
            Dtype::F32 => Values::F32(each(data, f32::from_le_bytes)),
            Dtype::F16 => Values::F16(each(data, f16::from_le_bytes)),
            Dtype::BF16 => Values::F32(each(data, |bytes| bf16::from_le_bytes(bytes).to_f32())),
            Dtype::I64 => Values::I64(each(data, i64::from_le_bytes)),
            Dtype::I32 => Values::I64(each(data, |bytes| i32::from_le_bytes(bytes).into())),
            Dtype::I16 => Values::I64(each(data, |bytes| i16::from_le_bytes(bytes).into())),
            Dtype::I8 => Values::I64(each(data, |bytes| i8::from_le_bytes(bytes).into())),
            Dtype::U32 => Values::I64(each(data, |bytes| u32::from_le_bytes(bytes).into())),
            Dtype::U16 => Values::I64(each(data, |bytes| u16::from_le_bytes(bytes).into())),
            Dtype::U8 => Values::I64(each(data, |bytes| u8::from_le_bytes(bytes).into())),
            Dtype::BOOL => Values::I64(each(data, |[byte]: [u8; 1]| i64::from(byte != 0))),
            other => bail!("{name} has type {other:?}; expected floats of 16 to 64 bits or integers"),
        };
        state.tensors.push(NamedTensor { name, shape: view.shape().to_vec(), values });
    }
    ensure!(!state.tensors.is_empty(), "a safetensors file without tensors; expected the tensors of a model");
    state.tensors.sort_by_key(|tensor| place.get(&tensor.name).copied().unwrap_or(usize::MAX));
    state.metadata = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok(state)
}

/// The bytes of a safetensors file.
///
/// Errors: a tensor's values do not fill its shape, two tensors have one name.
pub fn write(state: &StateDict) -> Result<Vec<u8>> {
    let mut by_width: Vec<usize> = (0..state.tensors.len()).collect();
    by_width.sort_by_key(|&i| std::cmp::Reverse(state.tensors[i].values.bytes_per_value()));
    let mut begin_of = vec![0; state.tensors.len()];
    let mut total = 0;
    for &i in &by_width {
        begin_of[i] = total;
        total += state.tensors[i].values.len() * state.tensors[i].values.bytes_per_value();
    }

    let mut entries = Vec::new();
    if !state.metadata.is_empty() {
        entries.push(format!("\"__metadata__\":{}", serde_json::to_string(&state.metadata)?));
    }
    let mut seen = std::collections::HashSet::new();
    for (tensor, begin) in state.tensors.iter().zip(begin_of) {
        let NamedTensor { name, shape, values } = tensor;
        ensure!(seen.insert(name) && name != "__metadata__", "two tensors are named {name}; expected each name once");
        ensure!(shape.iter().product::<usize>() == values.len(), "{name}: {} values; shape {shape:?} has another number", values.len());
        let dtype = match values {
            Values::F32(_) => "F32",
            Values::F16(_) => "F16",
            Values::F64(_) => "F64",
            Values::I64(_) => "I64",
        };
        let end = begin + values.len() * values.bytes_per_value();
        entries.push(format!(
            "{}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}",
            serde_json::to_string(name)?
        ));
    }
    let mut header = format!("{{{}}}", entries.join(","));
    // Blanks fill the header, so that the numbers begin at a multiple of eight.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));

    let mut out = Vec::with_capacity(8 + header.len() + total);
    out.extend((header.len() as u64).to_le_bytes());
    out.extend(header.as_bytes());
    by_width.iter().for_each(|&i| out.extend(state.tensors[i].values.to_le_bytes()));
    Ok(out)
}

/// The JSON of the header, its length checked.
fn header(bytes: &[u8]) -> Result<&str> {
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| anyhow!("{} bytes; expected a safetensors file", bytes.len()))?;
    let length = u64::from_le_bytes(*length);
    ensure!(
        length <= LONGEST_HEADER,
        "byte 0: a header of {length} bytes; expected at most {LONGEST_HEADER}; the file is damaged or something else"
    );
    let header = rest
        .get(..length as usize)
        .ok_or_else(|| anyhow!("byte 0: a header of {length} bytes in a file of {}; the file is cut short", bytes.len()))?;
    std::str::from_utf8(header).context("header that is no UTF-8")
}

/// Keys of the outermost object in the order of the text, which is valid JSON already.
fn names_in_order(header: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut expects_name = false;
    let mut at = 0;
    while let Some(byte) = header.as_bytes().get(at) {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                expects_name = depth == 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => expects_name = depth == 1,
            b'"' => {
                let length = string_length(&header.as_bytes()[at..]).ok_or_else(|| anyhow!("header byte {at}: text without end"))?;
                if expects_name {
                    names.push(serde_json::from_str(&header[at..at + length]).context("name in the header")?);
                    expects_name = false;
                }
                at += length - 1;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(names)
}

/// Bytes of a JSON string with its quotation marks.
fn string_length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn each<T, const N: usize>(data: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|&bytes| convert(bytes)).collect()
}
