//! Candidates: everything that the network found on one micrograph, kept so that thresholds can be chosen later without the
//! network.
//!
//! A STAR file that RELION and any STAR reader open: facts in `#epk Key value` lines, then one table of X, Y and
//! score (and width and height for vesicles), best first. Numbers are f32 of frame M in the shortest form that reads
//! back to the same bits. Source: docs/formats.md, "Candidates".

use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write;
use std::io::BufRead;

/// One candidate of frame M.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Column of the centre, micrograph pixels.
    pub x: f32,
    /// Row of the centre, micrograph pixels.
    pub y: f32,
    /// Score, 0..1.
    pub score: f32,
    /// Width and height in micrograph pixels as the network gave them (vesicles); may be negative.
    pub size: Option<[f32; 2]>,
}

/// What else the file says: the micrograph, the model, and how the picks beside it were made.
///
/// Values are kept as text, in the order of the file; unknown keys are carried along.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    entries: Vec<(String, String)>,
}

/// The version of the layout this program writes and reads.
const FORMAT: &str = "1";
/// What every line of facts begins with.
const MARK: &str = "#epk ";

impl Facts {
    /// Adds or replaces a fact. `key` is one word.
    pub fn set(&mut self, key: &str, value: impl ToString) {
        let value = value.to_string();
        match self.entries.iter_mut().find(|(known, _)| known == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key.to_string(), value)),
        }
    }

    /// Adds all facts of `others`.
    pub fn extend(&mut self, others: &Facts) {
        others.entries.iter().for_each(|(key, value)| self.set(key, value));
    }

    /// The value of a fact.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    fn is_of_this_version(&self) -> Result<()> {
        match self.get("Format") {
            Some(FORMAT) => Ok(()),
            Some(other) => bail!("fact Format is {other}; this program reads {FORMAT}; use the program that wrote it"),
            None => bail!("no line '#epk Format'; expected a candidates file of epicker"),
        }
    }

    /// The value of a fact that must be there and be of type `T`.
    ///
    /// Errors: the fact is missing or cannot be read as a `T`.
    pub fn need<T: std::str::FromStr>(&self, key: &str) -> Result<T> {
        let Some(text) = self.get(key) else { bail!("fact {key} is missing; pick again to write it") };
        text.parse().ok().with_context(|| format!("fact {key} is '{text}', which cannot be read; pick again"))
    }
}

/// How much of a file is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// The most rows that are read.
    pub rows: usize,
    /// Only rows with a score above this one are read.
    pub above: f32,
}

/// Keys that other modules read, so that both sides spell them alike.
pub mod key {
    /// Path of the micrograph as it was given.
    pub const MICROGRAPH: &str = "Micrograph";
    /// Bytes of its file.
    pub const MICROGRAPH_BYTES: &str = "MicrographBytes";
    /// When its file was last written, seconds since 1970.
    pub const MICROGRAPH_TIME: &str = "MicrographTime";
    /// Columns of the micrograph.
    pub const SIZE_X: &str = "SizeX";
    /// Rows of the micrograph.
    pub const SIZE_Y: &str = "SizeY";
    /// Pixel size of the micrograph, angstrom, or `none`.
    pub const PIXEL_SIZE: &str = "PixelSize";
    /// Columns of the downscaled image: the frame.
    pub const NET_SIZE_X: &str = "NetSizeX";
    /// The diameter of the particles, with its unit. It is there only if the frame was chosen by it.
    pub const DIAMETER: &str = "Diameter";
    /// particle, vesicle or fiber.
    pub const MODE: &str = "Mode";
    /// Side of the constant box, network pixels.
    pub const BOX_NET: &str = "BoxNet";
    /// Side of the written boxes, micrograph pixels.
    pub const BOX_WRITTEN: &str = "BoxWritten";
    /// The model's name.
    pub const MODEL_NAME: &str = "ModelName";
    /// The model's fingerprint.
    pub const MODEL_SHA256: &str = "ModelSha256";
    /// How many views of the micrograph were averaged; absent for one.
    pub const AVERAGE: &str = "Average";
    /// Candidates at this score or below were not kept.
    pub const FLOOR: &str = "Floor";
    /// 1 if the network may have found more candidates than were kept.
    pub const CAPPED: &str = "Capped";
    /// Number of rows.
    pub const ROWS: &str = "Rows";
    /// `--K` of the run.
    pub const K: &str = "K";
    /// `--vis_thresh` of the run.
    pub const VIS_THRESH: &str = "VisThresh";
    /// `--edge` of the run.
    pub const EDGE: &str = "Edge";
    /// `--min_distance` of the run.
    pub const MIN_DISTANCE: &str = "MinDistance";
    /// `--ang_thresh` of the run.
    pub const ANG_THRESH: &str = "AngThresh";
    /// `--tracer` of the run.
    pub const TRACER: &str = "Tracer";
    /// `--output_type` of the run.
    pub const OUTPUT_TYPE: &str = "OutputType";
    /// 1 with `--subpixel`.
    pub const SUBPIXEL: &str = "Subpixel";
    /// `--suffix` of the run.
    pub const SUFFIX: &str = "Suffix";
    /// `--compat` of the run.
    pub const COMPAT: &str = "Compat";
}

/// The text of a candidates file. `rows` are in descending order of score; all carry a size, or none.
pub fn write(facts: &Facts, rows: &[Candidate]) -> String {
    let with_size = rows.first().map_or(facts.get(key::MODE) == Some("vesicle"), |row| row.size.is_some());
    let mut text = format!("{MARK}Format {FORMAT}\n");
    for (key, value) in &facts.entries {
        text.push_str(&format!("{MARK}{key} {}\n", encode(value)));
    }
    text.push_str(&format!("{MARK}{} {}\n\ndata_\n\nloop_\n", key::ROWS, rows.len()));
    text.push_str("_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit #3\n");
    if with_size {
        text.push_str("_epkWidth #4\n_epkHeight #5\n");
    }
    text.reserve(rows.len() * 32);
    for Candidate { x, y, score, size } in rows {
        // Writing to a String cannot fail.
        let _ = match size {
            Some([width, height]) => writeln!(text, "{x} {y} {score} {width} {height}"),
            None => writeln!(text, "{x} {y} {score}"),
        };
    }
    text.push('\n');
    text
}

/// The facts of a candidates file, without reading its rows: they come first, so a few kilobytes are enough.
///
/// Errors: the text cannot be read, is no candidates file, or is one of another version.
pub fn read_facts(text: impl BufRead) -> Result<Facts> {
    let mut facts = Facts::default();
    for line in text.lines() {
        let line = line.context("cannot be read")?;
        let Some(fact) = line.strip_prefix(MARK) else { break };
        let (key, value) = fact.split_once(' ').unwrap_or((fact, ""));
        facts.entries.push((key.to_string(), decode(value)?));
    }
    facts.is_of_this_version()?;
    Ok(facts)
}

/// Facts and rows of a candidates file.
///
/// Rows are in descending order of their scores, so reading stops at the first row that is not wanted.
///
/// Errors: not a candidates file, another version, a row that is not numbers, rows out of order, or a file cut short.
pub fn read(bytes: &[u8], wanted: Wanted) -> Result<(Facts, Vec<Candidate>)> {
    let text = std::str::from_utf8(bytes).ok().context("not text; expected a candidates file")?;
    let mut lines = text.lines().enumerate();
    let mut facts = Facts::default();
    let mut labels = Vec::new();
    let mut rows: Vec<Candidate> = Vec::new();
    let mut complete = false;
    for (i, line) in lines.by_ref() {
        if let Some((key, value)) = line.strip_prefix(MARK).map(|fact| fact.split_once(' ').unwrap_or((fact, ""))) {
            let value = decode(value).with_context(|| format!("line {}", i + 1))?;
            facts.entries.push((key.to_string(), value));
        } else if line.starts_with('_') {
            labels.push(line.split_ascii_whitespace().next().unwrap_or_default());
        } else if line.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            match push_row(line, labels.len(), wanted, &mut rows).with_context(|| format!("line {}", i + 1))? {
                true => {}
                false => {
                    complete = true;
                    break;
                }
            }
            break;
        } else if !(line.trim().is_empty() || line.starts_with('#') || line == "data_" || line == "loop_") {
            bail!("line {}: found '{}'; expected a candidates file of epicker", i + 1, shorten(line));
        }
    }
    facts.is_of_this_version()?;
    let expected = ["_rlnCoordinateX", "_rlnCoordinateY", "_rlnAutopickFigureOfMerit", "_epkWidth", "_epkHeight"];
    ensure!(
        labels == expected[..3] || labels == expected,
        "columns are {}; expected {}, or these less the last two",
        labels.join(" "),
        expected.join(" ")
    );
    if !complete {
        for (i, line) in lines {
            if line.is_empty() {
                break;
            }
            if !push_row(line, labels.len(), wanted, &mut rows).with_context(|| format!("line {}", i + 1))? {
                complete = true;
                break;
            }
        }
    }
    let promised: usize = facts.need(key::ROWS)?;
    let kept_all = complete || rows.len() == promised;
    ensure!(kept_all, "holds {} rows; its facts promise {promised}; the file was cut short, pick again", rows.len());
    Ok((facts, rows))
}

/// Adds a row; false if neither it nor any later one is wanted.
fn push_row(line: &str, columns: usize, wanted: Wanted, rows: &mut Vec<Candidate>) -> Result<bool> {
    let mut fields = line.split_ascii_whitespace();
    let mut number = || -> Result<f32> {
        let field = fields.next().with_context(|| format!("fewer than {columns} numbers; pick again"))?;
        let value: f32 = field.parse().ok().with_context(|| format!("'{field}' is no number; pick again"))?;
        ensure!(value.is_finite(), "'{field}' is not finite; pick again");
        Ok(value)
    };
    let (x, y, score) = (number()?, number()?, number()?);
    let size = if columns > 3 { Some([number()?, number()?]) } else { None };
    ensure!(fields.next().is_none(), "more than {columns} numbers; pick again");
    ensure!(
        rows.last().is_none_or(|last| last.score >= score),
        "score {score} after a lower one; rows must be in descending order; pick again"
    );
    if rows.len() >= wanted.rows || score <= wanted.above {
        return Ok(false);
    }
    rows.push(Candidate { x, y, score, size });
    Ok(true)
}

/// Percent-encodes the characters of a value that a reader could take for STAR: `#`, control characters, and the underscore of
/// `data_` and `loop_`; and `%` itself.
fn encode(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for (i, c) in value.char_indices() {
        let before = &value.as_bytes()[i.saturating_sub(4)..i];
        let opens_block = c == '_' && (before.eq_ignore_ascii_case(b"data") || before.eq_ignore_ascii_case(b"loop"));
        if c == '%' || c == '#' || c.is_ascii_control() || opens_block {
            text.push_str(&format!("%{:02X}", c as u32));
        } else {
            text.push(c);
        }
    }
    text
}

/// The reverse of [`encode`].
fn decode(text: &str) -> Result<String> {
    if !text.contains('%') {
        return Ok(text.to_string());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = tail;
            continue;
        }
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.and_then(|hex| u8::from_str_radix(hex, 16).ok()).context("'%' without two hex digits")?;
        bytes.push(code);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok().context("not UTF-8 after decoding")
}

fn shorten(line: &str) -> String {
    line.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Wanted = Wanted { rows: usize::MAX, above: f32::NEG_INFINITY };

    fn sample() -> (Facts, Vec<Candidate>) {
        let mut facts = Facts::default();
        facts.set("Micrograph", "my data_1/100% #loop_\n.mrc");
        facts.set("SizeX", 5760);
        let row = |x: f32, score: f32| Candidate { x, y: 0.1 + x, score, size: None };
        (facts, vec![row(1243.27, 0.431_089_85), row(-0.3, 0.012), row(1e-7, 1e-9)])
    }

    #[test]
    fn every_bit_of_a_candidate_survives_the_file() {
        let (facts, mut rows) = sample();
        for with_size in [false, true] {
            if with_size {
                rows.iter_mut().for_each(|row| row.size = Some([row.x * 0.37, -2.5]));
            }
            let text = write(&facts, &rows);
            let (facts_read, rows_read) = read(text.as_bytes(), ALL).unwrap();
            assert_eq!(rows_read, rows);
            assert_eq!(facts_read.get("Micrograph"), facts.get("Micrograph"));
            assert_eq!(facts_read.need::<usize>("SizeX").unwrap(), 5760);
        }
    }

    #[test]
    fn a_path_never_opens_a_block() {
        let (facts, rows) = sample();
        let text = write(&facts, &rows);
        assert_eq!(text.matches("data_").count(), 1, "{text}");
        assert_eq!(text.matches("loop_").count(), 1, "{text}");
        assert!(text.lines().take_while(|line| line.starts_with("#epk")).count() == 4);
    }

    #[test]
    fn only_the_wanted_rows_are_read() {
        let (facts, rows) = sample();
        let text = write(&facts, &rows);
        let some = |rows, above| read(text.as_bytes(), Wanted { rows, above }).unwrap().1;
        assert_eq!(some(2, -1.0), rows[..2]);
        assert_eq!(some(9, 0.012), rows[..1], "the threshold is strict");
        assert_eq!(some(9, 0.9), []);
        assert_eq!(some(0, -1.0), []);
    }

    #[test]
    fn an_empty_table_is_a_valid_file() {
        let (facts, _) = sample();
        let text = write(&facts, &[]);
        assert_eq!(read(text.as_bytes(), ALL).unwrap().1, []);
        assert!(text.ends_with("Merit #3\n\n"));
    }

    #[test]
    fn damage_is_told_with_its_line() {
        let (facts, rows) = sample();
        let text = write(&facts, &rows);
        let cut = &text[..text.rfind("0.1000001").unwrap()];
        let cases = [
            (String::new(), "#epk Format"),
            ("data_\n\nloop_\n_rlnCoordinateX #1\n".into(), "#epk Format"),
            ("[Particle Coordinates: X Y Value]\n".into(), "line 1"),
            (text.replace("Format 1", "Format 2"), "Format is 2"),
            (text.replace("0.012", "0.9"), "descending"),
            (text.replace("0.012", "abc"), "line 13: 'abc'"),
            (text.replace("0.012", "NaN"), "not finite"),
            (text.replace(" 0.012", ""), "fewer"),
            (text.replace("0.012", "0.012 5"), "more than 3"),
            (text.replace("_rlnCoordinateY #2\n", ""), "columns"),
            (cut.to_string(), "line 14"),
            (text[..text.rfind("0.0000001").unwrap()].to_string(), "cut short"),
        ];
        for (bad, word) in cases {
            let message = format!("{:#}", read(bad.as_bytes(), ALL).unwrap_err());
            assert!(message.contains(word), "'{message}' lacks '{word}'");
        }
    }
}
