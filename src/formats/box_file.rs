//! Box files: EMAN's corner and size, the original's two corners, and the helix variants of both EMANs.
//! Source: docs/formats.md, "Box files".

use super::coordinates::{Coordinate, Coordinates, Integers, Size};
use anyhow::{Context, Result, ensure};
use std::fmt::Write;

/// How [`write`] and [`write_helix`] write.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// Rule for the integers.
    pub integers: Integers,
    /// Side of every box in micrograph pixels; else each point's own box, rounded to even sides.
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

/// Fibers as EMAN helix boxes: for each edge of a path two rows, `-1` at its start and `-2` at its end.
///
/// Errors: a point belongs to no fiber, or has no box and `size_px` is not given.
/// Source: docs/formats.md, "Box files".
pub fn write_helix(coordinates: &Coordinates, options: &WriteOptions) -> Result<String> {
    let mut out = String::new();
    for fiber in coordinates.fibers()? {
        let Some(&first) = fiber.first() else { continue };
        // One width per fiber: readers require equal widths of both ends.
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

/// Sides of a point's box in whole pixels; even where they come from the point.
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
