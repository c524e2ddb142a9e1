//! What a kernel's machine code asks of a GPU, read from the ELF file that holds it: registers, shared and local memory.
//!
//! Source: the ELF64 layout (System V gABI, chapter 4); the sections that NVIDIA adds (`.text.KERNEL`, `.nv.info`,
//! `.nv.shared.KERNEL`) as `ptxas -v` and `cuobjdump -elf` show them.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

/// What one kernel asks of a multiprocessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelUse {
    /// The kernel's name.
    pub name: String,
    /// 32-bit registers of a thread.
    pub registers: u32,
    /// Shared memory of a block that is known at compile time, bytes.
    pub shared_bytes: u32,
    /// Local memory of a thread, bytes: what did not fit into registers (spills), and arrays indexed at run time.
    pub local_bytes: u32,
    /// Threads of a block by `__launch_bounds__`; 0 where the kernel states none.
    pub block_threads: u32,
    /// Size in bytes of each parameter, in order.
    pub parameter_bytes: Vec<u32>,
    /// Where the kernel's instructions are in the file.
    pub code: Range<usize>,
}

const SECTION_NOTHING_STORED: u32 = 8; // SHT_NOBITS
// Attributes of .nv.info: a format byte, an attribute byte, two bytes that are a length if the format says so.
const FORMAT_WITH_LENGTH: u8 = 4;
const MAX_THREADS: u8 = 0x05;
const FRAME_SIZE: u8 = 0x11;
const PARAMETER: u8 = 0x17;
const REGISTER_COUNT: u8 = 0x2f;

struct Section<'a> {
    name: &'a str,
    kind: u32,
    link: u32,
    info: u32,
    size: usize,
    range: Range<usize>,
}

/// The kernels of a cubin, in order of name.
///
/// Errors: the bytes are no ELF file of a GPU, or are cut off.
pub fn kernels(cubin: &[u8]) -> Result<Vec<KernelUse>> {
    let sections = sections(cubin)?;
    let mut found = Vec::new();
    for section in &sections {
        let Some(name) = section.name.strip_prefix(".text.") else { continue };
        let Some(info) = sections.iter().find(|other| other.name.strip_prefix(".nv.info.") == Some(name)) else { continue };
        let shared = sections.iter().find(|other| other.name.strip_prefix(".nv.shared.") == Some(name));
        let mut kernel = KernelUse {
            name: name.to_string(),
            registers: section.info >> 24,
            shared_bytes: u32::try_from(shared.map_or(0, |shared| shared.size)).context("cubin: shared memory beyond 4 GiB")?,
            local_bytes: 0,
            block_threads: 0,
            parameter_bytes: Vec::new(),
            code: section.range.clone(),
        };
        let mut parameters = Vec::new();
        for (attribute, value) in attributes(cubin.get(info.range.clone()).unwrap_or_default())? {
            match attribute {
                MAX_THREADS => kernel.block_threads = word(value, 0)? * word(value, 4)? * word(value, 8)?,
                // index, position and offset, size in the upper 14 bits of the last word
                PARAMETER => parameters.push((word(value, 4)? & 0xffff, word(value, 8)? >> 18)),
                _ => {}
            }
        }
        parameters.sort_unstable();
        kernel.parameter_bytes = parameters.into_iter().map(|(_, bytes)| bytes).collect();
        found.push(kernel);
    }
    if let Some(info) = sections.iter().find(|section| section.name == ".nv.info") {
        for (attribute, value) in attributes(cubin.get(info.range.clone()).unwrap_or_default())? {
            if attribute != REGISTER_COUNT && attribute != FRAME_SIZE {
                continue;
            }
            let name = symbol_name(cubin, &sections, word(value, 0)?)?;
            if let Some(kernel) = found.iter_mut().find(|kernel| kernel.name == name) {
                match attribute {
                    REGISTER_COUNT => kernel.registers = word(value, 4)?,
                    _ => kernel.local_bytes = word(value, 4)?,
                }
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn sections(elf: &[u8]) -> Result<Vec<Section<'_>>> {
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "cubin: does not begin as a 64-bit little-endian ELF file");
    ensure!(half(elf, 18)? == 190, "cubin: ELF machine {}; expected 190 (CUDA)", half(elf, 18)?);
    let (offset, entry, count, names) = (long(elf, 40)?, half(elf, 58)?, half(elf, 60)?, half(elf, 62)?);
    ensure!(entry >= 64, "cubin: section headers of {entry} bytes; expected 64");
    let header = |index: u32| -> Result<&[u8]> {
        let start = offset.checked_add(index as usize * entry as usize).context("cubin: the section table lies outside")?;
        elf.get(start..).and_then(|rest| rest.get(..64)).context("cubin: the section table is cut off")
    };
    let range = |header: &[u8]| -> Result<Range<usize>> {
        let (start, size) = (long(header, 24)?, long(header, 32)?);
        let stored = if word(header, 4)? == SECTION_NOTHING_STORED { 0 } else { size };
        let end = start.checked_add(stored).filter(|end| *end <= elf.len()).context("cubin: a section lies outside the file")?;
        Ok(start.min(end)..end)
    };
    let name_table = range(header(names)?)?;
    let mut found = Vec::new();
    for index in 0..count {
        let header = header(index)?;
        let name = text(&elf[name_table.clone()], word(header, 0)?)?;
        let (kind, link, info) = (word(header, 4)?, word(header, 40)?, word(header, 44)?);
        found.push(Section { name, kind, link, info, size: long(header, 32)?, range: range(header)? });
    }
    Ok(found)
}

fn symbol_name<'a>(elf: &'a [u8], sections: &[Section], index: u32) -> Result<&'a str> {
    const SYMBOL_TABLE: u32 = 2; // SHT_SYMTAB
    let table = sections.iter().find(|section| section.kind == SYMBOL_TABLE).context("cubin: no symbol table")?;
    let names = sections.get(table.link as usize).context("cubin: the symbol table has no names")?;
    let symbol = elf[table.range.clone()].get(index as usize * 24..).context("cubin: a symbol lies outside its table")?;
    text(&elf[names.range.clone()], word(symbol, 0)?)
}

/// (attribute, value) of one `.nv.info` section; attributes without a length have no value here.
fn attributes(info: &[u8]) -> Result<Vec<(u8, &[u8])>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at + 4 <= info.len() {
        let (format, attribute) = (info[at], info[at + 1]);
        let length = if format == FORMAT_WITH_LENGTH { half(info, at + 2)? as usize } else { 0 };
        let Some(value) = info.get(at + 4..at + 4 + length) else { bail!("cubin: .nv.info is cut off at byte {at}") };
        found.push((attribute, value));
        at += 4 + length;
    }
    Ok(found)
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Result<[u8; N]> {
    let part = from.get(at..).and_then(|rest| rest.first_chunk::<N>());
    part.copied().context("cubin: a number lies outside the file")
}

fn half(from: &[u8], at: usize) -> Result<u32> {
    Ok(u16::from_le_bytes(bytes(from, at)?).into())
}

fn word(from: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(from, at)?))
}

fn long(from: &[u8], at: usize) -> Result<usize> {
    usize::try_from(u64::from_le_bytes(bytes(from, at)?)).context("cubin: a number beyond this machine's memory")
}

fn text(table: &[u8], at: u32) -> Result<&str> {
    let rest = table.get(at as usize..).context("cubin: a name lies outside its table")?;
    let end = rest.iter().position(|byte| *byte == 0).context("cubin: a name without an end")?;
    std::str::from_utf8(&rest[..end]).context("cubin: a name is not text")
}

/// What a multiprocessor of one architecture holds.
struct Multiprocessor {
    arch: u32,
    warps: u32,
    blocks: u32,
    shared_kib: u32,
    /// Parts among which registers are split.
    parts: u32,
}

// Source: NVIDIA, CUDA C++ Programming Guide 12.9, table "Technical Specifications per Compute Capability".
const MULTIPROCESSORS: [Multiprocessor; 11] = [
    Multiprocessor { arch: 52, warps: 64, blocks: 32, shared_kib: 96, parts: 4 },
    Multiprocessor { arch: 60, warps: 64, blocks: 32, shared_kib: 64, parts: 2 },
    Multiprocessor { arch: 61, warps: 64, blocks: 32, shared_kib: 96, parts: 4 },
    Multiprocessor { arch: 70, warps: 64, blocks: 32, shared_kib: 96, parts: 4 },
    Multiprocessor { arch: 75, warps: 32, blocks: 16, shared_kib: 64, parts: 4 },
    Multiprocessor { arch: 80, warps: 64, blocks: 32, shared_kib: 164, parts: 4 },
    Multiprocessor { arch: 86, warps: 48, blocks: 16, shared_kib: 100, parts: 4 },
    Multiprocessor { arch: 89, warps: 48, blocks: 24, shared_kib: 100, parts: 4 },
    Multiprocessor { arch: 90, warps: 64, blocks: 32, shared_kib: 228, parts: 4 },
    Multiprocessor { arch: 100, warps: 64, blocks: 32, shared_kib: 228, parts: 4 },
    Multiprocessor { arch: 120, warps: 48, blocks: 24, shared_kib: 100, parts: 4 },
];

/// Blocks of `threads` that a multiprocessor holds at a time, and the share of its warps that they fill, in percent.
///
/// Returns: None for an architecture without a row in the table, and for a block that does not fit at all.
/// Source: NVIDIA, `cuda_occupancy.h` of CUDA 12: registers go to warps in units of 256, split among the parts of a
/// multiprocessor; shared memory goes to blocks in units of 256 bytes, from 8.0 on of 128, with 1 KiB kept for the system.
pub fn occupancy(arch: u32, kernel: &KernelUse, threads: u32) -> Option<(u32, u32)> {
    let place = MULTIPROCESSORS.iter().find(|place| place.arch == arch)?;
    let warps = threads.div_ceil(32).max(1);
    let registers_of_warp = (kernel.registers.max(1) * 32).next_multiple_of(256);
    let by_registers = 65536 / place.parts / registers_of_warp * place.parts / warps;
    let (unit, kept) = if arch >= 80 { (128, 1024) } else { (256, 0) };
    let shared = (kernel.shared_bytes + kept).next_multiple_of(unit);
    let by_shared = (place.shared_kib * 1024).checked_div(shared).unwrap_or(u32::MAX);
    let blocks = place.blocks.min(place.warps / warps).min(by_registers).min(by_shared);
    (blocks > 0).then_some((blocks, blocks * warps * 100 / place.warps))
}
