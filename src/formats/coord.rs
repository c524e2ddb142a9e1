//! Plain coordinates: rows of x and y, as `.coord`, RELION's `.txt` and XIMDISP's `.coords`.
//! Source: docs/formats.md, "Plain coordinates".

use super::coordinates::{Coordinates, Integers};

/// Two whole numbers a row, the centre; tabs.
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
    /// What the original writes third: the side of the constant box in D pixels, or the radius of a vesicle.
    pub size: f64,
    /// The score, of which only the whole part is written.
    pub score: f32,
}

/// Four columns as the original wrote them: x, y, size and score, all cut to whole numbers.
pub fn write_four_columns(rows: impl IntoIterator<Item = FourColumns>) -> String {
    let cut = |value: f64| Integers::Truncate.of(value);
    rows.into_iter().map(|row| format!("{}\t{}\t{}\t{}\n", cut(row.x), cut(row.y), cut(row.size), cut(f64::from(row.score)))).collect()
}
