//! Text as coordinate files have it: any encoding of the last forty years, any line end, numbers in the C locale.

use super::coordinates::Warnings;
use anyhow::{Result, bail};
use std::borrow::Cow;

/// Coordinates beyond this are not pixels of any micrograph (sizes in image headers are 32-bit integers).
const LARGEST_COORDINATE: f64 = 2_147_483_647.0;

/// The bytes of a text file as text: UTF-8, or Latin-1 where they are not UTF-8; a byte order mark is left out.
///
/// Errors: there is a zero byte, so this is not text of a kind that we read.
pub fn decode(bytes: &[u8]) -> Result<Cow<'_, str>> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        bail!("byte 0: this is UTF-16 text; expected UTF-8 or Latin-1; save it as UTF-8");
    }
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        bail!("byte {at}: a zero byte, so this is binary data; expected a text file with coordinates; convert it first");
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    Ok(match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(bytes.iter().map(|&byte| char::from(byte)).collect()),
    })
}

/// The lines of a text with their numbers from 1; LF, CR LF and a lone CR end a line.
pub fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> + Clone {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        if text.is_empty() {
            return None;
        }
        match text.find(['\n', '\r']) {
            Some(end) => {
                let width = if text[end..].starts_with("\r\n") { 2 } else { 1 };
                rest = Some(&text[end + width..]);
                Some(&text[..end])
            }
            None => {
                rest = None;
                Some(text)
            }
        }
    })
    .enumerate()
    .map(|(i, line)| (i + 1, line))
}

/// A finite number; `what` names it in the message.
///
/// Errors: the token is no number in the C locale, or it is not finite.
pub fn number(token: &str, line: usize, what: &str) -> Result<f64> {
    match token.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) => bail!("line {line}: {what} is '{token}'; expected a finite number; remove the row"),
        Err(_) if token.contains(',') => {
            bail!(
                "line {line}: {what} is '{}'; expected a number with a point and columns separated by blanks; replace the commas",
                excerpt(token)
            )
        }
        Err(_) => bail!("line {line}: {what} is '{}'; expected a number; correct the row or choose the format by name", excerpt(token)),
    }
}

/// A coordinate in pixels: a finite number of a size that a micrograph can have.
///
/// Errors: as [`number`], or the value is beyond every micrograph.
pub fn pixels(token: &str, line: usize, what: &str) -> Result<f64> {
    let value = number(token, line, what)?;
    if value.abs() > LARGEST_COORDINATE {
        bail!("line {line}: {what} is {token}; expected pixels of a micrograph; correct the row");
    }
    Ok(value)
}

/// A score; `<NA>`, `nan`, `None`, `.`, `?` and -999 mean that there is none.
///
/// Errors: anything else that is not a finite number.
pub fn score(token: &str, line: usize) -> Result<Option<f32>> {
    if is_absent(token) {
        return Ok(None);
    }
    let value = number(token, line, "the score")?;
    Ok((value != -999.0).then_some(value as f32).filter(|score| score.is_finite()))
}

/// True for the marks that programs write where a table has no value.
pub fn is_absent(token: &str) -> bool {
    matches!(token, "<NA>" | "NA" | "nan" | "NaN" | "NAN" | "-nan" | "None" | "none" | "." | "?" | "null")
}

/// A row of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberRow {
    /// Line in the file, from 1.
    pub line: usize,
    /// Its columns.
    pub values: Vec<f64>,
}

/// The rows of a file of numbers. Empty lines and comments (`#`, `;`) are left out, and so is, with a remark, a
/// first line of words.
///
/// Errors: a token that is not a number.
pub fn number_rows(text: &str, warnings: &mut Warnings) -> Result<Vec<NumberRow>> {
    let mut rows = Vec::new();
    let mut is_first = true;
    for (line, row) in lines(text) {
        let row = row.trim();
        if row.is_empty() || row.starts_with('#') || row.starts_with(';') {
            continue;
        }
        if std::mem::take(&mut is_first) && !row.contains(',') && row.split_whitespace().all(|token| token.parse::<f64>().is_err()) {
            warnings.note(line, "the first line holds words; taken as a header");
            continue;
        }
        let values = row.split_whitespace().enumerate().map(|(i, token)| pixels(token, line, &format!("column {}", i + 1)));
        rows.push(NumberRow { line, values: values.collect::<Result<_>>()? });
    }
    Ok(rows)
}

/// Refuses rows that have another number of columns than the first row, and a number of columns that is not among `expected`.
pub fn check_counts(rows: &[NumberRow], expected: &[usize]) -> Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    let count = first.values.len();
    if !expected.contains(&count) {
        let expected: Vec<String> = expected.iter().map(usize::to_string).collect();
        bail!("line {}: {count} columns; expected {}; name the right format", first.line, expected.join(" or "));
    }
    match rows.iter().find(|row| row.values.len() != count) {
        Some(odd) => bail!(
            "line {}: {} columns; expected {count} as in line {}; complete the row or remove it",
            odd.line,
            odd.values.len(),
            first.line
        ),
        None => Ok(()),
    }
}

/// The start of a piece of a file for a message: one line, at most 40 characters, no control characters.
pub fn excerpt(text: &str) -> String {
    let mut short: String = text.trim().chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().chars().count() > 40 {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_end_ends_one_line() {
        let all: Vec<_> = lines("a\nb\r\nc\rd\n\ne").collect();
        assert_eq!(all, [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, ""), (6, "e")]);
        assert_eq!(lines("").count(), 0);
        assert_eq!(lines("a\n").count(), 1);
    }

    #[test]
    fn latin_1_and_byte_order_marks_are_read() {
        assert_eq!(decode(b"\xef\xbb\xbfa").unwrap(), "a");
        assert_eq!(decode(b"caf\xe9").unwrap(), "caf\u{e9}");
        assert!(decode(b"a\0b").is_err() && decode(b"\xff\xfea").is_err());
    }

    #[test]
    fn a_decimal_comma_is_refused_by_name() {
        let message = number("1,5", 3, "x").unwrap_err().to_string();
        assert!(message.contains("line 3") && message.contains("comma"), "{message}");
        assert!(number("inf", 1, "x").is_err() && number("nan", 1, "x").is_err());
        assert_eq!(number("1e-3", 1, "x").unwrap(), 0.001);
    }
}
