//! THI, EPicker's own coordinate files: a header in brackets, rows, `[End]`.
//!
//! Particles, vesicles and helices, lists of micrographs, and the `merge_results.thi` of a run.
//! Source: docs/formats.md, "THI".

use super::coordinates::{Content, Coordinate, Coordinates, Integers, Kind, ListedMicrograph, ListedPair, Size, Warnings, number_fibers};
use super::text;
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write;

/// How [`write()`] writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// Rule for the integer columns X, Y and Radius.
    pub integers: Integers,
    /// Helices as the original wrote them: the constant score 1.0 and no line end after `[End]`.
    pub fiber_ones: bool,
}

/// The coordinates of one micrograph as THI text, in the order of the points; helices one after the other.
///
/// A point without a score gets 1, because callers expect the column. Columns X and Y are whole numbers, which
/// callers rely on too.
///
/// Errors: a vesicle without a radius, a helix vertex without a fiber.
/// Source: docs/formats.md, "THI".
pub fn write(coordinates: &Coordinates, options: &WriteOptions) -> Result<String> {
    let int = |value| options.integers.of(value);
    let mut out = String::from(header(coordinates.kind));
    let score = |point: &Coordinate| f64::from(point.score.unwrap_or(1.0));
    match coordinates.kind {
        Kind::Particle => {
            for point in &coordinates.points {
                writeln!(out, "{}\t{}\t{:.6}", int(point.x), int(point.y), score(point))?;
            }
        }
        Kind::Vesicle => {
            for (i, point) in coordinates.points.iter().enumerate() {
                let radius = point.radius().with_context(|| no_radius(i))?;
                writeln!(out, "{}\t{}\t{}\t{:.6}", int(point.x), int(point.y), int(radius), score(point))?;
            }
        }
        Kind::Fiber => {
            for (fiber, indices) in coordinates.fibers()?.into_iter().enumerate() {
                for point in indices.into_iter().map(|i| &coordinates.points[i]) {
                    let value = if options.fiber_ones { "1.0".to_owned() } else { format!("{:.6}", score(point)) };
                    writeln!(out, "{} {} {} {value}", int(point.x), int(point.y), fiber + 1)?;
                }
            }
        }
    }
    out.push_str("[End]");
    if !(options.fiber_ones && coordinates.kind == Kind::Fiber) {
        out.push('\n');
    }
    Ok(out)
}

/// `merge_results.thi`: which coordinate file belongs to which micrograph, in the layout of the original
/// (a header over three lines, absolute paths with one blank between them, no end mark).
pub fn write_merge_results(pairs: &[ListedPair]) -> String {
    let mut out = String::from("[Micrograph Particle coordinate:\n #0:MICROGRAPH_PATH    STRING\n #1:PARTICLE_PATH    STRING]\n");
    for pair in pairs {
        out.push_str(&format!("{} {}\n", pair.micrograph, pair.coordinates));
    }
    out
}

/// A list of micrographs as THI text.
pub fn write_file_list(paths: &[String]) -> String {
    let rows: String = paths.iter().map(|path| format!("{path}\n")).collect();
    format!("[File List: Filename]\n{rows}[End]\n")
}

/// Reads THI text of any kind. `hint` says what rows of four columns mean if the header is missing.
///
/// Errors: an unknown header, a row that does not fit it, four columns without header and hint.
/// Source: docs/formats.md, "THI".
pub fn read(text: &str, hint: Option<Kind>) -> Result<(Content, Warnings)> {
    let mut warnings = Warnings::default();
    let mut lines = text::lines(text).filter(|(_, line)| !is_skipped(line)).peekable();
    let header = match lines.peek() {
        None => {
            warnings.note(0, "the file is empty; taken as a file without coordinates");
            return Ok((Content::one(hint.unwrap_or_default(), Vec::new()), warnings));
        }
        Some((_, line)) if line.trim_start().starts_with('[') => Header::read(&mut lines, &mut warnings)?,
        Some((number, line)) => {
            let header = Header::guessed(line.split_whitespace().count(), *number, hint)?;
            warnings.note(*number, "the header is missing; columns are taken as X Y and a value");
            header
        }
    };
    let mut rows = Vec::new();
    while let Some((number, line)) = lines.next() {
        let row = line.trim();
        if row.starts_with('[') {
            if is_end(row) {
                if let Some((number, _)) = lines.next() {
                    warnings.note(number, "text after [End] is ignored");
                }
                break;
            }
            ensure!(
                collapsed(row) == header.text,
                "line {number}: a second header '{}'; expected rows or [End]; put each kind into a file of its own",
                text::excerpt(row)
            );
            warnings.note(number, "the header is repeated; ignored");
            continue;
        }
        rows.push((number, row));
    }
    let content = match header.layout {
        Layout::FileList => {
            let listed = |(_, row): (usize, &str)| ListedMicrograph::at(unquoted(row));
            Content::Micrographs(rows.into_iter().map(listed).collect())
        }
        Layout::Merge => Content::Pairs(rows.into_iter().map(|(number, row)| read_pair(row, number)).collect::<Result<_>>()?),
        Layout::Points(columns) => read_points(&rows, &columns, &mut warnings)?,
    };
    Ok((content, warnings))
}

fn header(kind: Kind) -> &'static str {
    match kind {
        Kind::Particle => "[Particle Coordinates: X Y Value]\n",
        Kind::Vesicle => "[Vesicle Coordinates: X Y Radius Value]\n",
        Kind::Fiber => "[Helix Coordinates: X Y Group Value]\n",
    }
}

fn no_radius(i: usize) -> String {
    format!("point {}: it has no radius; expected a size for every vesicle; give it with --box_size", i + 1)
}

/// What the rows are.
enum Layout {
    Points(Columns),
    FileList,
    Merge,
}

/// Places of the columns of a row.
struct Columns {
    kind: Kind,
    x: usize,
    y: usize,
    z: Option<usize>,
    radius: Option<usize>,
    group: Option<usize>,
    value: Option<usize>,
    count: usize,
}

struct Header {
    layout: Layout,
    text: String,
}

impl Header {
    /// Reads the header from its `[` to its `]`, over as many lines as that takes.
    fn read<'a>(lines: &mut impl Iterator<Item = (usize, &'a str)>, warnings: &mut Warnings) -> Result<Header> {
        const MOST_LINES: usize = 20; // the longest known header has three
        let mut text = String::new();
        let mut first = 0;
        for (number, line) in lines.take(MOST_LINES) {
            first = if first == 0 { number } else { first };
            text.push_str(line.trim());
            text.push(' ');
            if let Some((_, after)) = line.split_once(']') {
                if !after.trim().is_empty() {
                    warnings.note(number, "text after the ] of the header is ignored");
                }
                return Header::parse(&text, first);
            }
        }
        bail!("line {first}: the header has no ']'; expected for example {}; correct the first line", header(Kind::Particle).trim_end())
    }

    fn parse(text: &str, line: usize) -> Result<Header> {
        let text = text.split_inclusive(']').next().unwrap_or_default();
        let all = collapsed(text);
        let inner = all.trim_start_matches('[').trim_end_matches(']').trim().to_owned();
        let (title, names) = inner.split_once(':').unwrap_or((&inner, ""));
        let (title, names) = (title.trim(), names.split_whitespace().collect::<Vec<_>>());
        let points = |kind| Columns::named(kind, &names, line).map(Layout::Points);
        let layout = match title {
            "particle coordinates" | "particle coordinate" => points(Kind::Particle)?,
            "vesicle coordinates" | "vesicle coordinate" => points(Kind::Vesicle)?,
            "helix coordinates" | "helix coordinate" | "fiber coordinates" => points(Kind::Fiber)?,
            "helix x y value" => Layout::Points(Columns::named(Kind::Particle, &["x", "y", "value"], line)?),
            "file list" => Layout::FileList,
            "micrograph particle coordinate" | "micrograph particle coordinates" => Layout::Merge,
            "end" => Layout::Points(Columns::named(Kind::Particle, &[], line)?),
            _ => bail!(
                "line {line}: the header is '{}'; expected [Particle Coordinates: X Y Value], [Vesicle Coordinates: X Y Radius Value], \
                 [Helix Coordinates: X Y Group Value] or [File List: Filename]; correct the header",
                text::excerpt(text)
            ),
        };
        Ok(Header { layout, text: all })
    }

    /// What rows of `count` columns mean without a header.
    fn guessed(count: usize, line: usize, hint: Option<Kind>) -> Result<Header> {
        let kind = match (count, hint) {
            (2 | 3, hint) => hint.filter(|kind| *kind == Kind::Vesicle && count == 3).unwrap_or_default(),
            (4, Some(kind @ (Kind::Vesicle | Kind::Fiber))) => kind,
            (4, _) => bail!(
                "line {line}: four columns and no header: the third may be a radius or a fiber; expected a header such as {}; add it, or give the mode",
                header(Kind::Vesicle).trim_end()
            ),
            _ => bail!(
                "line {line}: {count} columns and no header; expected a header such as {}; add it or name the format",
                header(Kind::Particle).trim_end()
            ),
        };
        Ok(Header { layout: Layout::Points(Columns::named(kind, &[], line)?), text: String::new() })
    }
}

impl Columns {
    /// Columns in the order of their names (lower case). Without names they stand in the usual order.
    fn named(kind: Kind, names: &[&str], line: usize) -> Result<Columns> {
        let usual: &[&str] = match kind {
            Kind::Particle => &["x", "y", "value"],
            Kind::Vesicle => &["x", "y", "radius", "value"],
            Kind::Fiber => &["x", "y", "group", "value"],
        };
        let names = if names.is_empty() { usual } else { names };
        let find = |wanted: &[&str]| names.iter().position(|name| wanted.contains(name));
        let need = |wanted: &str| {
            find(&[wanted]).with_context(|| {
                format!(
                    "line {line}: the header has no column {}; expected {}; correct the header",
                    wanted.to_uppercase(),
                    header(kind).trim_end()
                )
            })
        };
        Ok(Columns {
            kind,
            x: need("x")?,
            y: need("y")?,
            z: find(&["z"]),
            radius: if kind == Kind::Vesicle { Some(need("radius")?) } else { find(&["radius"]) },
            group: if kind == Kind::Fiber { Some(need("group")?) } else { None },
            value: find(&["value", "score"]),
            count: names.len(),
        })
    }
}

fn read_points(rows: &[(usize, &str)], columns: &Columns, warnings: &mut Warnings) -> Result<Content> {
    let needed = [Some(columns.x), Some(columns.y), columns.radius.filter(|_| columns.kind == Kind::Vesicle), columns.group];
    let needed = needed.into_iter().flatten().max().unwrap_or(0) + 1;
    let mut points = Vec::with_capacity(rows.len());
    let mut groups = Vec::new();
    for &(line, row) in rows {
        let tokens: Vec<&str> = row.split_whitespace().collect();
        if tokens.len() < needed {
            // A comma is the likelier fault than a missing column.
            text::number(tokens[0], line, "x")?;
            bail!("line {line}: {} columns; expected at least {needed}; complete the row or remove it", tokens.len());
        }
        if tokens.len() > columns.count {
            warnings.note(line, "more columns than the header names; the others are ignored");
        }
        let mut point = Coordinate::at(text::pixels(tokens[columns.x], line, "x")?, text::pixels(tokens[columns.y], line, "y")?);
        if let Some(token) = columns.z.and_then(|column| tokens.get(column)) {
            point.z = Some(text::pixels(token, line, "z")?);
        }
        if let Some(token) = columns.radius.and_then(|column| tokens.get(column)) {
            let radius = text::pixels(token, line, "the radius")?;
            ensure!(
                radius <= f64::from(i32::MAX) / 2.0,
                "line {line}: the radius is {radius}; expected pixels of a micrograph; correct the row"
            );
            if radius >= 0.0 {
                point.size = Some(Size::square(2.0 * radius));
            } else {
                warnings.note(line, "the radius is negative; the point is kept without it");
            }
        }
        if let Some(token) = columns.value.and_then(|column| tokens.get(column)) {
            point.score = text::score(token, line)?;
        }
        groups.extend(columns.group.map(|column| tokens[column]));
        points.push(point);
    }
    for (point, group) in points.iter_mut().zip(number_fibers(&groups)) {
        point.group = Some(group);
    }
    let mut coordinates = Coordinates { kind: columns.kind, points };
    if columns.kind == Kind::Fiber {
        for _ in 0..coordinates.drop_lone_vertices() {
            warnings.note(0, "a fiber of a single vertex has no direction; dropped");
        }
    }
    Ok(Content::one(coordinates.kind, coordinates.points))
}

/// A row of `merge_results.thi`. Paths may hold blanks: then the first path ends where an image name ends.
fn read_pair(row: &str, line: usize) -> Result<ListedPair> {
    let splits: Vec<(&str, &str)> = match row.split_once('\t') {
        Some(pair) => vec![pair],
        None => row.match_indices(' ').map(|(at, _)| (&row[..at], &row[at + 1..])).collect(),
    };
    let image_name = |(left, _): &&(&str, &str)| {
        let left = left.trim_end().to_ascii_lowercase();
        [".mrc", ".mrcs", ".map", ".st", ".rec", ".tif", ".tiff", ".png", ".gz", ".bz2"].iter().any(|ending| left.ends_with(ending))
    };
    let best = if splits.len() == 1 { splits.first() } else { splits.iter().find(image_name) };
    let Some((micrograph, coordinates)) = best.filter(|(left, right)| !left.trim().is_empty() && !right.trim().is_empty()) else {
        bail!(
            "line {line}: '{}'; expected the path of a micrograph, a blank and the path of its coordinates; correct the row",
            text::excerpt(row)
        );
    };
    Ok(ListedPair { micrograph: unquoted(micrograph.trim()).to_owned(), coordinates: unquoted(coordinates.trim()).to_owned() })
}

fn is_skipped(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || ((line.starts_with('#') || line.starts_with(';')) && !line.starts_with("#0:") && !line.starts_with("#1:"))
}

fn is_end(row: &str) -> bool {
    let inner: String = row.chars().filter(|c| !c.is_whitespace()).collect();
    inner.eq_ignore_ascii_case("[end]")
}

/// Lower case, runs of blanks as one.
fn collapsed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase()
}

fn unquoted(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}
