//! A numpy array of records, as `numpy.save` writes it: magic, version, a header that is a literal of Python, the records.
//! Source: numpy.lib.format, versions 1.0 to 3.0.

use super::table::{Field, Place, Table, Type};
use anyhow::{Context, Result, bail, ensure};

/// The first bytes.
pub const MAGIC: &[u8] = b"\x93NUMPY";
/// Lists in lists in lists: as deep as a header may be. A description of records has four levels.
const DEEPEST: usize = 16;

/// Reads the header and finds the fields in the records.
///
/// Errors: the file is cut off; it is no list of records; objects of Python are in it, which only Python can read.
pub fn read(bytes: &[u8]) -> Result<Table<'_>> {
    let cut_off = "the file is cut off within its header; copy it again";
    let rest = bytes.strip_prefix(MAGIC).context("byte 0: no numpy array; expected \\x93NUMPY; give another file")?;
    let (version, rest) = rest.split_first_chunk::<2>().context(cut_off)?;
    let (length, rest) = match version[0] {
        1 => rest.split_first_chunk::<2>().map(|(length, rest)| (usize::from(u16::from_le_bytes(*length)), rest)),
        2 | 3 => rest.split_first_chunk::<4>().map(|(length, rest)| (u32::from_le_bytes(*length) as usize, rest)),
        other => bail!("byte 6: version {other} of the numpy format; expected 1 to 3; save it anew with cryosparc-tools"),
    }
    .context(cut_off)?;
    ensure!(length <= rest.len(), cut_off);
    let (header, records) = rest.split_at(length);
    let header = String::from_utf8_lossy(header);
    let header = Literal::parse(&header).context("its header; expected {'descr': [...], 'shape': (...,)}")?;
    let stated = |name: &str| header.get(name).with_context(|| format!("its header has no {name}; the file is damaged; copy it again"));
    let Literal::List(described) = stated("descr")? else {
        bail!("this is a plain array of numpy; expected the records of a .cs file of cryoSPARC; give another file")
    };
    let rows = match stated("shape")? {
        Literal::List(shape) => match shape.as_slice() {
            [Literal::Whole(rows)] => *rows,
            [] => 1,
            _ => bail!("its records have several directions; expected a list of records; give another file"),
        },
        other => bail!("its shape is {other:?}; expected a tuple; the file is damaged; copy it again"),
    };
    let mut fields = Vec::with_capacity(described.len());
    let mut stride = 0usize;
    for field in described {
        let Literal::List(parts) = field else { bail!("its header describes a field by {field:?}; expected name and type") };
        // A field with a title is called (title, name).
        let name = match parts.first() {
            Some(Literal::Text(name)) => name,
            Some(Literal::List(names)) if matches!(names.as_slice(), [_, Literal::Text(_)]) => match &names[1] {
                Literal::Text(name) => name,
                _ => bail!("its header has a field without a name"),
            },
            _ => bail!("its header has a field without a name; the file is damaged; copy it again"),
        };
        let Some(Literal::Text(of)) = parts.get(1) else {
            bail!("field {name}: records in a record; expected numbers and text; give another file")
        };
        let width = match parts.get(2) {
            None => Some(1),
            Some(Literal::Whole(width)) => Some(*width),
            Some(Literal::List(extents)) => extents.iter().try_fold(1usize, |width, extent| match extent {
                Literal::Whole(extent) => width.checked_mul(*extent),
                _ => None,
            }),
            Some(_) => None,
        };
        let width = width.with_context(|| format!("field {name}: no such shape; the file is damaged; copy it again"))?;
        ensure!(
            !of.ends_with('O'),
            "field {name} holds objects of Python, which only Python can read; expected numbers and text; save it with Dataset.save of \
             cryosparc-tools"
        );
        let of = Type::of_numpy(of, width).with_context(|| format!("field {name}"))?;
        fields.push(Field { name: name.clone(), of, place: Place::Record(stride) });
        let next = of.row_size().and_then(|size| stride.checked_add(size));
        stride = next.with_context(|| format!("field {name}: no file is so long; the file is damaged; copy it again"))?;
    }
    Table::of_records(rows, fields, records, stride)
}

/// A literal of Python, as far as headers have them.
#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Text(String),
    Whole(usize),
    /// True, False, None.
    Word,
    /// A list or a tuple.
    List(Vec<Literal>),
    Dict(Vec<(Literal, Literal)>),
}

impl Literal {
    fn parse(text: &str) -> Result<Literal> {
        let mut rest = text;
        let literal = Literal::take(&mut rest, 0)?;
        ensure!(rest.trim().is_empty(), "'{}' after its end", crate::formats::text::excerpt(rest));
        Ok(literal)
    }

    fn get(&self, name: &str) -> Option<&Literal> {
        let Literal::Dict(entries) = self else { return None };
        entries.iter().find(|(key, _)| matches!(key, Literal::Text(key) if key == name)).map(|(_, value)| value)
    }

    /// Takes a literal from the beginning of `rest`.
    fn take(rest: &mut &str, depth: usize) -> Result<Literal> {
        ensure!(depth < DEEPEST, "lists in lists, {DEEPEST} deep; expected four levels");
        *rest = rest.trim_start();
        let first = rest.chars().next().context("it ends early")?;
        match first {
            '\'' | '"' => Literal::take_text(rest, first),
            '[' | '(' => {
                let mut items = Vec::new();
                let close = if first == '[' { ']' } else { ')' };
                *rest = &rest[1..];
                while !skip(rest, close) {
                    items.push(Literal::take(rest, depth + 1)?);
                    if !skip(rest, ',') {
                        ensure!(skip(rest, close), "a list is not closed");
                        break;
                    }
                }
                Ok(Literal::List(items))
            }
            '{' => {
                let mut entries = Vec::new();
                *rest = &rest[1..];
                while !skip(rest, '}') {
                    let key = Literal::take(rest, depth + 1)?;
                    ensure!(skip(rest, ':'), "a name without its value");
                    entries.push((key, Literal::take(rest, depth + 1)?));
                    if !skip(rest, ',') {
                        ensure!(skip(rest, '}'), "a dictionary is not closed");
                        break;
                    }
                }
                Ok(Literal::Dict(entries))
            }
            '0'..='9' => {
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                let value = rest[..end].parse().ok().context("a number beyond all files")?;
                *rest = rest[end..].strip_prefix('L').unwrap_or(&rest[end..]); // Python 2 wrote an L behind it
                Ok(Literal::Whole(value))
            }
            _ => {
                let word = ["True", "False", "None"].iter().find_map(|word| rest.strip_prefix(word));
                let Some(after) = word else { bail!("'{}' is no literal of Python", crate::formats::text::excerpt(rest)) };
                *rest = after;
                Ok(Literal::Word)
            }
        }
    }

    fn take_text(rest: &mut &str, quote: char) -> Result<Literal> {
        let mut text = String::new();
        let mut letters = rest[1..].char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => text.push(letters.next().context("a text is not closed")?.1),
                _ if letter == quote => {
                    *rest = &rest[1 + at + 1..];
                    return Ok(Literal::Text(text));
                }
                _ => text.push(letter),
            }
        }
        bail!("a text is not closed")
    }
}

/// Passes over `wanted` and the blanks before it, if it is there.
fn skip(rest: &mut &str, wanted: char) -> bool {
    let after = rest.trim_start().strip_prefix(wanted);
    if let Some(after) = after {
        *rest = after;
    }
    after.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_of_python_are_read_and_broken_ones_refused() {
        let header = "{'descr': [('a', '<f4'), (\"b'c\", '|S3', (2,)), ], 'fortran_order': False, 'shape': (12L,), }   \n";
        let literal = Literal::parse(header).unwrap();
        assert_eq!(literal.get("shape"), Some(&Literal::List(vec![Literal::Whole(12)])));
        assert_eq!(literal.get("fortran_order"), Some(&Literal::Word));
        let Some(Literal::List(fields)) = literal.get("descr") else { panic!("{literal:?}") };
        let text = |text: &str| Literal::Text(text.to_owned());
        assert_eq!(fields[1], Literal::List(vec![text("b'c"), text("|S3"), Literal::List(vec![Literal::Whole(2)])]));
        for broken in ["", "{", "{'a'", "{'a':", "{'a': 1", "[1 2]", "'a", "'\\", "x", "99999999999999999999999", "1 2", &"[".repeat(1000)]
        {
            assert!(Literal::parse(broken).is_err(), "{broken}");
        }
    }
}
