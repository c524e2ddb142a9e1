//! A table of a `.cs` file: fields with a name and a type, and their values by row. Nothing is copied until a field is asked
//! for, and then only what is compressed.

use super::stream;
use anyhow::{Result, bail, ensure};
use half::f16;
use std::borrow::Cow;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Whole number of this many bytes.
    Signed(usize),
    /// Whole number without a sign, or a truth value.
    Unsigned(usize),
    /// Floating-point number.
    Float(usize),
    /// Text of this many bytes, filled up with zeros.
    Bytes(usize),
    /// Text of this many code points, four bytes each.
    Wide(usize),
    /// Text whose place in the file's texts is an index of eight bytes.
    Indexed,
    /// Something else of this many bytes, which is never read.
    Other(usize),
}

impl Scalar {
    fn size(self) -> usize {
        match self {
            Scalar::Signed(size) | Scalar::Unsigned(size) | Scalar::Float(size) | Scalar::Bytes(size) | Scalar::Other(size) => size,
            Scalar::Wide(count) => count.saturating_mul(4),
            Scalar::Indexed => 8,
        }
    }
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type {
    /// What each value is.
    pub scalar: Scalar,
    /// True if its highest byte comes first.
    pub is_big_endian: bool,
    /// Values in a row.
    pub width: usize,
}

impl Type {
    /// The type that numpy calls `name`, such as `<f4`, with `width` values in a row.
    ///
    /// Errors: no such type is known.
    pub fn of_numpy(name: &str, width: usize) -> Result<Type> {
        let unknown = || format!("type '{}'; expected one of numpy such as <f4", name.escape_debug());
        let rest = name.trim_start_matches(['<', '>', '|', '=']);
        let mut letters = rest.chars();
        let letter = letters.next().unwrap_or_default();
        let digits: &str = letters.as_str().split('[').next().unwrap_or_default();
        let size = if digits.is_empty() { None } else { digits.parse::<usize>().ok() };
        let scalar = match (letter, size) {
            ('i', Some(size @ (1 | 2 | 4 | 8))) => Scalar::Signed(size),
            ('u', Some(size @ (1 | 2 | 4 | 8))) => Scalar::Unsigned(size),
            ('b', Some(1)) => Scalar::Unsigned(1),
            ('f', Some(size @ (2 | 4 | 8))) => Scalar::Float(size),
            ('S', Some(size)) => Scalar::Bytes(size),
            ('U', Some(count)) => Scalar::Wide(count),
            ('O', _) => Scalar::Indexed,
            ('f' | 'c' | 'V' | 'm' | 'M', Some(size)) => Scalar::Other(size),
            _ => bail!(unknown()),
        };
        Ok(Type { scalar, is_big_endian: name.starts_with('>'), width })
    }

    /// Bytes of a row; `None` if there is no such number.
    pub fn row_size(self) -> Option<usize> {
        self.scalar.size().checked_mul(self.width)
    }
}

/// Where the values of a field lie.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// In each record, at this byte.
    Record(usize),
    /// One after the other.
    Plain(&'a [u8]),
    /// One after the other, and compressed.
    Packed(&'a [u8]),
}

/// A field.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    /// Such as `location/center_x_frac`.
    pub name: String,
    /// Type of its values.
    pub of: Type,
    /// Where they are.
    pub place: Place<'a>,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table<'a> {
    rows: usize,
    fields: Vec<Field<'a>>,
    records: &'a [u8],
    stride: usize,
    texts: &'a [u8],
}

impl<'a> Table<'a> {
    /// A table of `rows` records of `stride` bytes.
    ///
    /// Errors: the bytes end before the last record; a field does not lie in a record.
    pub fn of_records(rows: usize, fields: Vec<Field<'a>>, records: &'a [u8], stride: usize) -> Result<Table<'a>> {
        let wanted = rows.checked_mul(stride);
        ensure!(
            stride > 0 && wanted.is_some_and(|wanted| wanted <= records.len()),
            "{rows} records of {stride} bytes are stated, but {} bytes follow; the file is cut off or damaged; copy it again",
            records.len()
        );
        for field in &fields {
            let end = |at: usize| field.of.row_size().and_then(|size| at.checked_add(size));
            ensure!(
                matches!(field.place, Place::Record(at) if end(at).is_some_and(|end| end <= stride)),
                "field {} lies outside of its record; the file is damaged; copy it again",
                field.name
            );
        }
        Ok(Table { rows, fields, records, stride, texts: &[] })
    }

    /// A table whose fields lie one after the other. `texts` are those that [`Scalar::Indexed`] means.
    ///
    /// Errors: a field has not as many bytes as its rows need.
    pub fn of_columns(rows: usize, fields: Vec<Field<'a>>, texts: &'a [u8]) -> Result<Table<'a>> {
        for field in &fields {
            let wanted = field.of.row_size().and_then(|size| size.checked_mul(rows));
            let fits = match field.place {
                Place::Plain(bytes) => wanted == Some(bytes.len()),
                Place::Packed(bytes) => wanted.is_some_and(|wanted| wanted <= stream::most_unpacked(bytes.len())),
                Place::Record(_) => false,
            };
            ensure!(fits, "field {} has not the bytes of its {rows} rows; the file is damaged; copy it again", field.name);
        }
        Ok(Table { rows, fields, records: &[], stride: 0, texts })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// True if there is a field of this name.
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }

    /// The names of the fields.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| field.name.as_str())
    }

    /// The values of a field; `None` if there is no such field.
    ///
    /// Errors: what is compressed cannot be unpacked.
    pub fn column(&self, name: &str) -> Result<Option<Column<'a>>> {
        let Some(field) = self.fields.iter().find(|field| field.name == name) else { return Ok(None) };
        let row_size = field.of.row_size().unwrap_or(0); // it has one: the table was made with it
        let (cells, start, stride) = match field.place {
            Place::Record(at) => (Cow::Borrowed(self.records), at, self.stride),
            Place::Plain(bytes) => (Cow::Borrowed(bytes), 0, row_size),
            Place::Packed(bytes) => {
                let unpacked = stream::unpack(bytes, row_size * self.rows);
                let unpacked = unpacked.map_err(|error| error.context(format!("field {name}")))?;
                (Cow::Owned(unpacked), 0, row_size)
            }
        };
        Ok(Some(Column { name: field.name.clone(), of: field.of, cells, start, stride, row_size, texts: self.texts }))
    }
}

/// The values of a field.
#[derive(Clone, Debug)]
pub struct Column<'a> {
    name: String,
    of: Type,
    cells: Cow<'a, [u8]>,
    start: usize,
    stride: usize,
    row_size: usize,
    texts: &'a [u8],
}

impl Column<'_> {
    /// Values in a row.
    pub fn width(&self) -> usize {
        self.of.width
    }

    /// The bytes of a row. Rows with the same bytes have the same value.
    pub fn raw(&self, row: usize) -> &[u8] {
        let from = self.start + row * self.stride;
        self.cells.get(from..from + self.row_size).unwrap_or_default()
    }

    /// Value `i` of a row as a number; `None` if it is none.
    pub fn number(&self, row: usize, i: usize) -> Option<f64> {
        let bytes = self.value(row, i)?;
        let whole = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
        Some(match self.of.scalar {
            Scalar::Unsigned(_) => whole(bytes) as f64,
            Scalar::Signed(size) => {
                let unused = 64 - 8 * size as u32;
                (((whole(bytes) << unused) as i64) >> unused) as f64
            }
            Scalar::Float(2) => f16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
            Scalar::Float(4) => f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            Scalar::Float(_) => f64::from_le_bytes(bytes),
            _ => return None,
        })
    }

    /// The first value of a row as a whole number without a sign; `None` if it is none.
    pub fn whole(&self, row: usize) -> Option<u64> {
        let is_whole = matches!(self.of.scalar, Scalar::Unsigned(_) | Scalar::Signed(_));
        self.value(row, 0).filter(|_| is_whole).map(u64::from_le_bytes)
    }

    /// The bytes of a number, lowest first, filled up to eight.
    fn value(&self, row: usize, i: usize) -> Option<[u8; 8]> {
        let (Scalar::Signed(size) | Scalar::Unsigned(size) | Scalar::Float(size)) = self.of.scalar else { return None };
        let from = i.checked_mul(size)?;
        let cell = self.raw(row).get(from..from + size)?;
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(cell);
        if self.of.is_big_endian {
            bytes[..size].reverse();
        }
        Some(bytes)
    }

    /// The text of a row.
    ///
    /// Errors: the field is no text, or its text is broken.
    pub fn text(&self, row: usize) -> Result<String> {
        let cell = self.raw(row);
        let broken = || format!("row {}: {} is no text; the file is damaged; copy it again", row + 1, self.name);
        let text = match self.of.scalar {
            Scalar::Bytes(_) => {
                let end = cell.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                String::from_utf8_lossy(&cell[..end]).into_owned()
            }
            Scalar::Wide(_) => {
                let point = |bytes: &[u8]| {
                    let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
                    char::from_u32(if self.of.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
                };
                let Some(text) = cell.chunks_exact(4).map(point).collect::<Option<String>>() else { bail!(broken()) };
                text.trim_end_matches('\0').to_owned()
            }
            Scalar::Indexed => {
                let Ok(index) = <[u8; 8]>::try_from(cell) else { bail!(broken()) };
                let index = usize::try_from(u64::from_le_bytes(index)).unwrap_or(usize::MAX);
                // An index means the beginning of a text, never its middle. So the texts of all rows together are no longer
                // than the file.
                let begins = index == 0 || index.checked_sub(1).and_then(|before| self.texts.get(before)) == Some(&0);
                let Some(rest) = self.texts.get(index..).filter(|_| begins) else { bail!(broken()) };
                let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
                String::from_utf8_lossy(&rest[..end]).into_owned()
            }
            _ => bail!("{} has numbers; expected text; give another file", self.name),
        };
        ensure!(!text.contains(char::is_control), broken());
        Ok(text)
    }
}
