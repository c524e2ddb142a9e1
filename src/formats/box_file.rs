//! Box files: EMAN's corner and size, the original's two corners, and the helix variants of both EMANs.
//! Source: docs/formats.md, "Box files".

use super::coordinates::{Content, Coordinate, Coordinates, Integers, Kind, Set, Size, Warnings};
use super::text;
use anyhow::{Context, Result, bail, ensure};
use std::fmt::Write;

/// How [`write()`] and [`write_helix`] write.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// How positions become whole numbers.
    pub integers: Integers,
    /// Side of every box in micrograph pixels. Without it each point has its own box, whose sides are rounded to even numbers.
    pub size_px: Option<u32>,
    /// Adds the score as a fifth column (1 where a point has none).
    pub score: bool,
}

/// Boxes as corner and size: `x y w h`, tabs, whole numbers.
///
/// The corner is the rounded centre minus `w div 2`, so that a reader's integer arithmetic returns the rounded centre.
///
/// Errors: a point has no box and `size_px` is not given.
/// Source: docs/formats.md, "Box files".
pub fn write(coordinates: &Coordinates, options: &WriteOptions) -> Result<String> {
    let mut out = String::new();
    for (i, point) in coordinates.points.iter().enumerate() {
        let [w, h] = sides(point, i, options)?;
        let [x, y] = corner(point, [w, h], options.integers);
        write!(out, "{x}\t{y}\t{w}\t{h}")?;
        if options.score {
            write!(out, "\t{:.6}", f64::from(point.score.unwrap_or(1.0)))?;
        }
        out.push('\n');
    }
    Ok(out)
}

/// Boxes as the original wrote them: two corners, `x1 y1 x2 y2`, from the corners themselves (frame M).
pub fn write_corners(corners: impl IntoIterator<Item = [f64; 4]>, integers: Integers) -> String {
    let mut out = String::new();
    for corners in corners {
        let [x1, y1, x2, y2] = corners.map(|value| integers.of(value));
        out.push_str(&format!("{x1}\t{y1}\t{x2}\t{y2}\n"));
    }
    out
}

/// Fibers as EMAN helix boxes. Each edge of a path has two rows: its start, marked `-1`, and its end, marked `-2`.
///
/// Errors: a point belongs to no fiber, or has no box and `size_px` is not given.
/// Source: docs/formats.md, "Box files".
pub fn write_helix(coordinates: &Coordinates, options: &WriteOptions) -> Result<String> {
    let mut out = String::new();
    for fiber in coordinates.fibers()? {
        let Some(&first) = fiber.first() else { continue };
        // A whole fiber has one width, because readers require that both ends of an edge have the same.
        let [w, _] = sides(&coordinates.points[first], first, options)?;
        for edge in fiber.windows(2) {
            for (&i, mark) in edge.iter().zip([-1, -2]) {
                let [x, y] = corner(&coordinates.points[i], [w, w], options.integers);
                writeln!(out, "{x}\t{y}\t{w}\t{w}\t{mark}")?;
            }
        }
    }
    Ok(out)
}

/// Fibers as EMAN2's helicon text: a `#helix` line with both ends of each edge of a path, then its vertices.
///
/// Errors: a point belongs to no fiber, or has no box and `size_px` is not given.
/// Source: docs/formats.md, "Box files".
pub fn write_helicon(micrograph: &str, coordinates: &Coordinates, options: &WriteOptions) -> Result<String> {
    let fibers = coordinates.fibers()?;
    let mut text = String::new();
    let mut widest = 0;
    for fiber in fibers {
        let Some(&first) = fiber.first() else { continue };
        let [w, _] = sides(&coordinates.points[first], first, options)?;
        widest = widest.max(w);
        for edge in fiber.windows(2) {
            let [a, b] = [&coordinates.points[edge[0]], &coordinates.points[edge[1]]];
            writeln!(text, "#helix: ({}, {}),({}, {}),{w}\n{}\t{}\n{}\t{}", a.x, a.y, b.x, b.y, a.x, a.y, b.x, b.y)?;
        }
    }
    Ok(format!("#micrograph: {micrograph}\n#segment length: {widest}\n#segment width: {widest}\n{text}"))
}

/// Reads rows of EMAN boxes: corner and size. There may be a fifth column, which is a score if `has_score` is true.
///
/// Errors: a row has not 4 or 5 numbers, or not as many as the first row.
/// Source: docs/formats.md, "Box files".
pub fn read(text: &str, has_score: bool, warnings: &mut Warnings) -> Result<Content> {
    let rows = text::number_rows(text, warnings)?;
    text::check_counts(&rows, &[4, 5])?;
    let point = |row: &text::NumberRow| {
        let [x, y, w, h] = [row.values[0], row.values[1], row.values[2], row.values[3]];
        let mut point = Coordinate::at(x + w / 2.0, y + h / 2.0);
        point.size = (w > 0.0 && h > 0.0).then_some(Size { width: w, height: h });
        point.score = row.values.get(4).filter(|_| has_score).map(|score| *score as f32);
        point
    };
    Ok(Content::one(Kind::Particle, rows.iter().map(point).collect()))
}

/// Reads rows of two corners, as the original wrote them.
///
/// Errors: a row that is not of 4 numbers.
pub fn read_corners(text: &str, warnings: &mut Warnings) -> Result<Content> {
    let rows = text::number_rows(text, warnings)?;
    text::check_counts(&rows, &[4])?;
    let point = |row: &text::NumberRow| {
        let [x1, y1, x2, y2] = [row.values[0], row.values[1], row.values[2], row.values[3]];
        let size = Some(Size { width: x2 - x1, height: y2 - y1 }).filter(|size| size.width > 0.0 && size.height > 0.0);
        Coordinate { size, ..Coordinate::at((x1 + x2) / 2.0, (y1 + y2) / 2.0) }
    };
    Ok(Content::one(Kind::Particle, rows.iter().map(point).collect()))
}

/// Reads EMAN helix boxes: pairs of rows, marked -1 and -2. A pair that begins where the pair before it ended continues the
/// same fiber.
///
/// Errors: a row that is not of 5 numbers, marks that do not alternate, a pair of different widths.
pub fn read_helix(text: &str, warnings: &mut Warnings) -> Result<Content> {
    let rows = text::number_rows(text, warnings)?;
    text::check_counts(&rows, &[5])?;
    let mut fibers = Fibers::default();
    for pair in rows.chunks(2) {
        let [start, end] = pair else {
            bail!("line {}: a start without its end; expected rows in pairs marked -1 and -2; complete the pair", pair[0].line);
        };
        for (row, mark) in [(start, -1.0), (end, -2.0)] {
            ensure!(
                row.values[4] == mark,
                "line {}: the fifth column is {}; expected {mark}, as rows come in pairs; correct the row",
                row.line,
                row.values[4]
            );
        }
        ensure!(
            start.values[2] == end.values[2],
            "line {}: a box of width {} after one of {}; expected equal widths of both ends; correct the row",
            end.line,
            end.values[2],
            start.values[2]
        );
        let centre = |row: &text::NumberRow| {
            let [x, y, w, h] = [row.values[0], row.values[1], row.values[2], row.values[3]];
            let size = Some(Size { width: w, height: h }).filter(|_| w > 0.0 && h > 0.0);
            Coordinate { size, ..Coordinate::at(x + w / 2.0, y + h / 2.0) }
        };
        fibers.add(vec![centre(start), centre(end)]);
    }
    Ok(Content::one(Kind::Fiber, fibers.points))
}

/// Reads EMAN2's helicon text: a `#helix` line for each fiber, then the centres of its segments. A fiber without centres is the
/// line between its two ends.
///
/// Errors: a `#helix` line without two points, a row before the first of them, a row that is not two numbers.
/// Source: docs/formats.md, "Box files".
pub fn read_helicon(text: &str, warnings: &mut Warnings) -> Result<Content> {
    let mut micrograph = None;
    let mut fibers = Fibers::default();
    let mut current: Option<(Vec<Coordinate>, Vec<Coordinate>)> = None; // ends, centres
    let finish = |fiber: Option<(Vec<Coordinate>, Vec<Coordinate>)>, fibers: &mut Fibers| {
        if let Some((ends, centres)) = fiber {
            fibers.add(if centres.len() < 2 { ends } else { centres });
        }
    };
    for (line, row) in text::lines(text).map(|(line, row)| (line, row.trim())).filter(|(_, row)| !row.is_empty()) {
        if let Some(comment) = row.strip_prefix('#') {
            let (key, value) = comment.split_once(':').unwrap_or((comment, ""));
            match key.trim().to_ascii_lowercase().as_str() {
                "micrograph" => micrograph = Some(value.trim()).filter(|name| !name.is_empty()),
                "helix" => {
                    finish(current.take(), &mut fibers);
                    current = Some((helix_ends(value, line)?, Vec::new()));
                }
                _ => {}
            }
            continue;
        }
        let tokens: Vec<&str> = row.split_whitespace().collect();
        ensure!(tokens.len() >= 2, "line {line}: one column; expected x and y; complete the row");
        let mut point = Coordinate::at(text::pixels(tokens[0], line, "x")?, text::pixels(tokens[1], line, "y")?);
        let Some((ends, centres)) = &mut current else {
            bail!("line {line}: a row before the first #helix line; expected #helix: (x1, y1),(x2, y2),width; correct the file");
        };
        if tokens.len() > 2 {
            warnings.note(line, "columns after x and y are ignored");
        }
        point.size = ends[0].size;
        centres.push(point);
    }
    finish(current, &mut fibers);
    let coordinates = Coordinates { kind: Kind::Fiber, points: fibers.points };
    Ok(Content::Coordinates(vec![Set { micrograph: micrograph.map(str::to_owned), coordinates, ..Set::default() }]))
}

/// `(x1, y1),(x2, y2),width` in round or square brackets.
fn helix_ends(value: &str, line: usize) -> Result<Vec<Coordinate>> {
    let numbers = value
        .split(['(', ')', '[', ']', ',', ' ', '\t'])
        .filter(|token| !token.is_empty())
        .map(|token| text::pixels(token, line, "a number of #helix"))
        .collect::<Result<Vec<f64>>>()?;
    let (ends, width) = match *numbers {
        [x1, y1, x2, y2] => ([[x1, y1], [x2, y2]], 0.0),
        [x1, y1, x2, y2, width] => ([[x1, y1], [x2, y2]], width),
        _ => bail!("line {line}: {} numbers after #helix; expected (x1, y1),(x2, y2),width; correct the line", numbers.len()),
    };
    let size = (width > 0.0).then(|| Size::square(width));
    Ok(ends.iter().map(|[x, y]| Coordinate { size, ..Coordinate::at(*x, *y) }).collect())
}

/// Fibers while they are read piece by piece.
#[derive(Default)]
struct Fibers {
    points: Vec<Coordinate>,
    count: u32,
}

impl Fibers {
    /// Adds a piece. A piece that begins exactly where the last one ended continues its fiber.
    fn add(&mut self, piece: Vec<Coordinate>) {
        let joint = self.points.last().zip(piece.first()).is_some_and(|(last, first)| last.x == first.x && last.y == first.y);
        if !joint {
            self.count += 1;
        }
        let group = Some(self.count);
        self.points.extend(piece.into_iter().skip(usize::from(joint)).map(|point| Coordinate { group, ..point }));
    }
}

/// Sides of a point's box in whole pixels. Sides that come from the point itself are even.
fn sides(point: &Coordinate, i: usize, options: &WriteOptions) -> Result<[i64; 2]> {
    if let Some(side) = options.size_px {
        return Ok([i64::from(side); 2]);
    }
    let Size { width, height } =
        point.size.with_context(|| format!("point {}: it has no box; expected a size for every point; give it with --box_size", i + 1))?;
    let sides = [width, height].map(|side| 2 * Integers::Round.of(side / 2.0));
    ensure!(sides.iter().all(|&side| side >= 0), "point {}: a box of {width} x {height}; expected sides above 0; give --box_size", i + 1);
    Ok(sides)
}

fn corner(point: &Coordinate, [w, h]: [i64; 2], integers: Integers) -> [i64; 2] {
    [integers.of(point.x).saturating_sub(w / 2), integers.of(point.y).saturating_sub(h / 2)]
}
