//! Plain coordinates: rows of x and y, as `.coord`, RELION's `.txt` and XIMDISP's `.coords`.
//! Source: docs/formats.md, "Plain coordinates".

use super::coordinates::{Content, Coordinate, Coordinates, Integers, Kind, Warnings};
use super::text;
use anyhow::Result;

/// Reads rows of 2, 3 or 4 numbers. The first two are x and y. The third is a score if it lies in 0..1 in all rows, unless it
/// is 0 in all of them: then it is the z of a micrograph. With `third_is_z` it is the slice of a tomogram. The fourth is
/// ignored.
///
/// Errors: a row of another length, or not of numbers.
/// Source: docs/formats.md, "Plain coordinates".
pub fn read(text: &str, third_is_z: bool, warnings: &mut Warnings) -> Result<Content> {
    let rows = text::number_rows(text, warnings)?;
    text::check_counts(&rows, &[2, 3, 4])?;
    let is_score = !third_is_z
        && rows.iter().all(|row| row.values.len() == 3 && (0.0..=1.0).contains(&row.values[2]))
        && rows.iter().any(|row| row.values[2] != 0.0);
    let third = |row: &text::NumberRow| row.values.get(2).copied();
    if !is_score && !third_is_z && rows.iter().any(|row| row.values.len() > 2) {
        let differs = rows[0].values.len() == 3 && rows.iter().any(|row| third(row) != third(&rows[0]));
        warnings.note(
            rows[0].line,
            if differs {
                "columns after x and y are ignored, though the third differs from row to row; if it is the z of a tomogram, choose slices \
                 with epicker coords --z"
            } else {
                "columns after x and y are ignored"
            },
        );
    }
    let point = |row: &text::NumberRow| Coordinate {
        z: third(row).filter(|_| third_is_z),
        score: row.values.get(2).filter(|_| is_score).map(|score| *score as f32),
        ..Coordinate::at(row.values[0], row.values[1])
    };
    Ok(Content::one(Kind::Particle, rows.iter().map(point).collect()))
}

/// One row for each point: the centre as two whole numbers with a tab between them.
pub fn write(coordinates: &Coordinates, integers: Integers) -> String {
    coordinates.points.iter().map(|point| format!("{}\t{}\n", integers.of(point.x), integers.of(point.y))).collect()
}

/// One row of [`write_four_columns`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FourColumns {
    /// Column of the centre, micrograph pixels.
    pub x: f64,
    /// Row of the centre, micrograph pixels.
    pub y: f64,
    /// The third column of the original: the side of the constant box in D pixels, or the radius of a vesicle.
    pub size: f64,
    /// The score, of which only the whole part is written.
    pub score: f32,
}

/// Four columns as the original wrote them: x, y, size and score, all cut to whole numbers.
pub fn write_four_columns(rows: impl IntoIterator<Item = FourColumns>) -> String {
    let cut = |value: f64| Integers::Truncate.of(value);
    rows.into_iter().map(|row| format!("{}\t{}\t{}\t{}\n", cut(row.x), cut(row.y), cut(row.size), cut(f64::from(row.score)))).collect()
}
