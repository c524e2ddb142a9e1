//! Contours of an IMOD model as `model2point` prints them: `contour x y z` (`-Contour`), or `object contour x y z` (`-Object`).
//! Objects and contours are numbered from 1, or from 0. This format is only read.
//!
//! The number of the contour must not be taken for an x, as a reader of boxes or of coordinates would do.
//! Source: docs/formats.md, "Contours of IMOD".

use super::coordinates::{Content, Coordinate, Kind, Warnings};
use super::text::{self, NumberRow};
use anyhow::Result;

/// True if rows of four or five numbers begin with numbers of contours. These are whole numbers, in order and without a gap.
pub fn are_contours(rows: &[NumberRow]) -> bool {
    let Some(count) = rows.first().map(|row| row.values.len()).filter(|count| matches!(count, 4 | 5)) else { return false };
    let is_first = |value: f64| value == 0.0 || value == 1.0;
    let goes_on = |before: f64, after: f64| after == before || after == before + 1.0;
    let number = |row: &NumberRow, column: usize| row.values[column];
    let in_order = |column: usize| {
        is_first(number(&rows[0], column)) && rows.windows(2).all(|pair| goes_on(number(&pair[0], column), number(&pair[1], column)))
    };
    if count == 4 {
        return in_order(0);
    }
    // The contours of each object are numbered anew.
    let begins_anew = |pair: &[NumberRow]| number(&pair[0], 0) != number(&pair[1], 0) && is_first(number(&pair[1], 1));
    in_order(0)
        && is_first(number(&rows[0], 1))
        && rows.windows(2).all(|pair| begins_anew(pair) || goes_on(number(&pair[0], 1), number(&pair[1], 1)))
}

/// Reads contours: each is a fiber if the user works on fibers, and else just points.
///
/// Errors: rows of another length, or not of numbers.
pub fn read(text: &str, kind: Option<Kind>, warnings: &mut Warnings) -> Result<Content> {
    let rows = text::number_rows(text, warnings)?;
    text::check_counts(&rows, &[4, 5])?;
    let is_fiber = kind == Some(Kind::Fiber);
    warnings.note(
        0,
        if is_fiber {
            "taken as contours of IMOD; each contour is a fiber"
        } else {
            "taken as contours of IMOD, and their points as particles; --mode fiber takes each contour as a fiber"
        },
    );
    let mut group = 0;
    let mut before: Option<&[f64]> = None;
    let mut points = Vec::with_capacity(rows.len());
    for row in &rows {
        let (numbers, place) = row.values.split_at(row.values.len() - 3);
        group += u32::from(before.replace(numbers) != Some(numbers));
        points.push(Coordinate { z: Some(place[2]), group: is_fiber.then_some(group), ..Coordinate::at(place[0], place[1]) });
    }
    Ok(Content::one(if is_fiber { Kind::Fiber } else { Kind::Particle }, points))
}
