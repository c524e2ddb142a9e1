//! The compressed stream of a `.cs` file: magic, a header in JSON, the fields one after the other, and last the texts.
//!
//! ```text
//! \x95CSDAT  u32 length of the header  header  { u32 length of a field  its values }...  texts, a zero after each
//! ```
//! Numbers are little-endian. Fields that the header calls compressed are blocks of LZ4.
//! Source: Dataset.stream of cryosparc-tools 5.0; the LZ4 block format description (Collet).

use super::table::{Field, Place, Table, Type};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The first bytes.
pub const MAGIC: &[u8] = b"\x95CSDAT";
/// The shortest row: the unique id, which is never compressed. Thus a file states no more rows than it can hold.
const SHORTEST_ROW: usize = 8;
/// One byte of an LZ4 block stands for at most 255 bytes.
const MOST_PER_BYTE: usize = 255;

/// Reads the stream. Its fields stay compressed until they are asked for.
///
/// Errors: the file is cut off, or its header is not that of a data set.
pub fn read(bytes: &[u8]) -> Result<Table<'_>> {
    let mut rest = bytes.strip_prefix(MAGIC).context("byte 0: no stream of cryoSPARC; expected \\x95CSDAT; give another file")?;
    let header = take_counted(&mut rest).context("its header")?;
    let header: Value = serde_json::from_slice(header)
        .map_err(|error| anyhow::anyhow!("its header is no JSON ({error}); the file is damaged; copy it again"))?;
    let stated = |name: &str| header.get(name).with_context(|| format!("its header has no {name}; the file is damaged; copy it again"));
    let rows = stated("length")?.as_u64().and_then(|rows| usize::try_from(rows).ok()).unwrap_or(usize::MAX);
    ensure!(
        rows <= bytes.len() / SHORTEST_ROW,
        "its header states {rows} rows, more than a file of {} bytes can hold; the file is damaged; copy it again",
        bytes.len()
    );
    let compression = stated("compression")?;
    ensure!(
        compression.is_null() || compression == "lz4",
        "its fields are compressed by {compression}; expected lz4; save it with Dataset.save of cryosparc-tools, as a numpy array"
    );
    let names = |value: &'_ Value| -> Vec<String> {
        value.as_array().map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect()).unwrap_or_default()
    };
    let compressed: std::collections::HashSet<String> = names(stated("compressed_fields")?).into_iter().collect();
    let described = stated("dtype")?.as_array().context("its header has no list dtype; the file is damaged; copy it again")?;
    let mut fields = Vec::with_capacity(described.len());
    for field in described {
        let text = |i: usize| field.get(i).and_then(Value::as_str);
        let (Some(name), Some(of)) = (text(0), text(1)) else {
            bail!("its header describes a field by {field}; expected name and type; the file is damaged; copy it again")
        };
        let width = match field.get(2) {
            None => Some(1),
            Some(shape) => {
                let extents = shape.as_array().map(Vec::as_slice).unwrap_or_default();
                extents.iter().try_fold(1usize, |width, extent| width.checked_mul(usize::try_from(extent.as_u64()?).ok()?))
            }
        };
        let width = width.with_context(|| format!("field {name}: no such shape; the file is damaged; copy it again"))?;
        let of = Type::of_numpy(of, width).with_context(|| format!("field {name}"))?;
        // A table without rows has no fields in its body.
        let values = if rows == 0 { &[] } else { take_counted(&mut rest).with_context(|| format!("field {name}"))? };
        let place = if rows > 0 && compressed.contains(name) { Place::Packed(values) } else { Place::Plain(values) };
        fields.push(Field { name: name.to_owned(), of, place });
    }
    Table::of_columns(rows, fields, rest)
}

/// Takes a length of four bytes and as many bytes as it says.
fn take_counted<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>().context("the file is cut off here; copy it again")?;
    let length = u32::from_le_bytes(*length) as usize;
    ensure!(length <= after.len(), "{length} bytes are stated, but {} follow; the file is cut off; copy it again", after.len());
    let (taken, after) = after.split_at(length);
    *rest = after;
    Ok(taken)
}

/// No block of `packed` bytes becomes longer than this.
pub fn most_unpacked(packed: usize) -> usize {
    packed.saturating_mul(MOST_PER_BYTE)
}

/// Unpacks a block of LZ4 that holds exactly `length` bytes.
///
/// Errors: the block is broken, or it holds more or fewer bytes.
/// Source: the LZ4 block format description (Collet): sequences of literals and of copies of what came before.
pub fn unpack(packed: &[u8], length: usize) -> Result<Vec<u8>> {
    ensure!(length <= most_unpacked(packed.len()), "{length} bytes in a block of {}; the file is damaged; copy it again", packed.len());
    let broken = "a broken block of LZ4; the file is damaged; copy it again";
    let mut out = Vec::with_capacity(length);
    let mut at = 0;
    // A count of 15 goes on in further bytes, of which all but the last are 255.
    let count = |first: u8, at: &mut usize| -> Result<usize> {
        let mut count = usize::from(first);
        let mut last = if first == 15 { 255 } else { 0 };
        while last == 255 {
            last = *packed.get(*at).context(broken)?;
            *at += 1;
            count += usize::from(last);
        }
        Ok(count)
    };
    while let Some(&token) = packed.get(at) {
        at += 1;
        let literals = count(token >> 4, &mut at)?;
        let copied = packed.get(at..at + literals).filter(|_| literals <= length - out.len()).context(broken)?;
        out.extend_from_slice(copied);
        at += literals;
        if at == packed.len() {
            break; // the last sequence has no copy
        }
        let offset = packed.get(at..at + 2).context(broken)?;
        let offset = usize::from(u16::from_le_bytes([offset[0], offset[1]]));
        at += 2;
        let copies = count(token & 15, &mut at)? + 4;
        ensure!(offset > 0 && offset <= out.len() && copies <= length - out.len(), broken);
        // A copy may reach into itself, so that it repeats.
        let from = out.len() - offset;
        for i in from..from + copies {
            out.push(out[i]);
        }
    }
    ensure!(out.len() == length, "{} bytes in a block; expected {length}; the file is damaged; copy it again", out.len());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_unpacked_as_the_format_describes_them() {
        assert_eq!(unpack(b"\x30abc", 3).unwrap(), b"abc");
        // Three literals, a copy of 4 + 5 from three bytes before, and a last literal.
        assert_eq!(unpack(b"\x35abc\x03\x00\x10z", 13).unwrap(), b"abcabcabcabcz");
        // A run: one literal, then 15 + 255 + 2 + 4 copies from one byte before.
        let mut run = b"\x1fa\x01\x00\xff\x02".to_vec();
        run.push(0); // no literals at the end
        assert_eq!(unpack(&run, 277).unwrap(), vec![b'a'; 277]);
        for (block, length) in [
            (&b"\x30ab"[..], 3),           // cut off
            (b"\x30abc", 4),               // shorter than stated
            (b"\x30abc", 2),               // longer than stated
            (b"\x35abc\x04\x00\x10z", 13), // a copy from before the beginning
            (b"\x35abc\x00\x00\x10z", 13), // from nowhere
            (b"\xf0\xff\xff", 3),          // a count without an end
            (b"", 1),
        ] {
            assert!(unpack(block, length).is_err(), "{block:?}");
        }
        assert!(unpack(b"\x30abc", usize::MAX).is_err());
    }
}
