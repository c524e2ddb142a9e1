//! The STAR tables that other programs expect of a picker.

use crate::formats::coordinates::{Coordinate, Coordinates, Integers, ListedPair, Set};
use anyhow::{Result, ensure};
use std::fmt::Write;

/// Score of a point that has none: RELION's filler.
const NO_SCORE: f64 = -999.0;

/// How [`particles`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Style {
    /// Positions have two decimals. Columns that a picker cannot know hold the dummies that RELION itself writes.
    #[default]
    Relion,
    /// As the original wrote it: truncated positions, -999 as dummies, two blanks before `#5`, and empty lines around the
    /// table.
    Original,
}

/// The coordinates of one micrograph: RELION's `*_autopick.star`, rows in the order of the points.
///
/// Radii and fibers have no column here.
/// Source: docs/formats.md, "STAR".
pub fn particles(coordinates: &Coordinates, style: Style) -> String {
    let labels = ["rlnCoordinateX", "rlnCoordinateY", "rlnClassNumber", "rlnAnglePsi", "rlnAutopickFigureOfMerit"];
    if style == Style::Original {
        let mut out = format!("\n{}", head("", &labels)).replace("Merit #5", "Merit  #5");
        for point in &coordinates.points {
            let [x, y] = [point.x, point.y].map(|v| Integers::Truncate.of(v));
            out.push_str(&format!("{x}.0\t{y}.0\t-999\t-999.0\t{:.6}\n", score(point)));
        }
        out.push('\n');
        return out;
    }
    let row = |point: &Coordinate| format!("{:.2}\t{:.2}\t0\t0.0\t{:.6}", point.x, point.y, score(point));
    table("", &labels, coordinates.points.iter().map(row))
}

/// Fibers as pairs of rows: the start and the end of each edge of the path. The tube id keeps the edges of one fiber together.
///
/// RELION starts the track length anew at each pair.
///
/// Errors: a point belongs to no fiber.
/// Source: docs/formats.md, "STAR".
pub fn start_end(coordinates: &Coordinates) -> Result<String> {
    let labels = ["rlnCoordinateX", "rlnCoordinateY", "rlnClassNumber", "rlnAnglePsi", "rlnAutopickFigureOfMerit", "rlnHelicalTubeID"];
    let mut rows = Vec::new();
    for (tube, fiber) in coordinates.fibers()?.into_iter().enumerate() {
        for edge in fiber.windows(2) {
            for point in edge.iter().map(|&i| &coordinates.points[i]) {
                rows.push(format!("{:.2}\t{:.2}\t0\t0.0\t{:.6}\t{}", point.x, point.y, score(point), tube + 1));
            }
        }
    }
    Ok(table("", &labels, rows))
}

/// Distances for [`segments`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SegmentSteps {
    /// Distance of neighbouring segments along the fiber, angstrom.
    pub step_angstrom: f64,
    /// Pixel size of the micrograph, angstrom per pixel.
    pub pixel_size_angstrom: f64,
}

/// Fibers as segments, with the priors that RELION needs. There is a segment every `step_angstrom` along the path, from its
/// start on.
///
/// Errors: a point belongs to no fiber; step or pixel size are not positive; there would be more than a million segments.
/// Source: docs/formats.md, "STAR".
pub fn segments(coordinates: &Coordinates, steps: SegmentSteps) -> Result<String> {
    const MOST_SEGMENTS: f64 = 1e6; // a step of 0.001 A is a slip of the hand, not a wish
    let SegmentSteps { step_angstrom, pixel_size_angstrom } = steps;
    ensure!(step_angstrom > 0.0 && step_angstrom.is_finite(), "step {step_angstrom} A; expected more than 0; give it with --step");
    ensure!(
        pixel_size_angstrom > 0.0 && pixel_size_angstrom.is_finite(),
        "pixel size {pixel_size_angstrom} A; expected more than 0; give it with --angpix"
    );
    let labels = [
        "rlnCoordinateX",
        "rlnCoordinateY",
        "rlnAutopickFigureOfMerit",
        "rlnHelicalTubeID",
        "rlnAngleTiltPrior",
        "rlnAnglePsiPrior",
        "rlnHelicalTrackLengthAngst",
        "rlnAnglePsiFlipRatio",
        "rlnAngleRotFlipRatio",
    ];
    let step_px = step_angstrom / pixel_size_angstrom;
    let mut rows = Vec::new();
    for (tube, fiber) in coordinates.fibers()?.into_iter().enumerate() {
        let mut edge_start_px = 0.0; // track length at the start of the edge
        let mut next = 0u64; // number of the next segment
        for edge in fiber.windows(2) {
            let [a, b] = [&coordinates.points[edge[0]], &coordinates.points[edge[1]]];
            let (dx, dy) = (b.x - a.x, b.y - a.y);
            let length_px = dx.hypot(dy);
            if length_px == 0.0 {
                continue;
            }
            ensure!(
                length_px / step_px + rows.len() as f64 <= MOST_SEGMENTS,
                "fiber {}: more than a million segments; expected a step of some angstrom; give a larger --step",
                tube + 1
            );
            while next as f64 * step_px <= edge_start_px + length_px {
                let along = (next as f64 * step_px - edge_start_px) / length_px;
                let (x, y) = (a.x + along * dx, a.y + along * dy);
                let value = score(a) + along * (score(b) - score(a));
                // The minus sign belongs there: RELION's angle runs against the rows of the array.
                let psi = -dy.atan2(dx).to_degrees();
                let track_angstrom = next as f64 * step_angstrom;
                rows.push(format!(
                    "{x:.2}\t{y:.2}\t{value:.6}\t{}\t90.000000\t{psi:.6}\t{track_angstrom:.6}\t0.500000\t0.500000",
                    tube + 1
                ));
                next += 1;
            }
            edge_start_px += length_px;
        }
    }
    Ok(table("", &labels, rows))
}

/// `autopick.star`: which coordinate file belongs to which micrograph. RELION looks micrographs up by exactly
/// these names, relative to the project folder.
pub fn coordinate_files(pairs: &[ListedPair]) -> String {
    let row = |pair: &ListedPair| format!("{}\t{}", quoted(&pair.micrograph), quoted(&pair.coordinates));
    table("coordinate_files", &["rlnMicrographName", "rlnMicrographCoordinates"], pairs.iter().map(row))
}

/// One table for all micrographs, as cryoSPARC's particle import reads it. Each set must name its micrograph.
///
/// Errors: a set has no micrograph name.
pub fn merged(sets: &[Set]) -> Result<String> {
    let labels = ["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit"];
    let mut rows = Vec::new();
    for set in sets {
        let Some(name) = &set.micrograph else {
            anyhow::bail!("a set of coordinates without a micrograph; expected a name for each; name the micrographs");
        };
        let name = quoted(name);
        rows.extend(set.coordinates.points.iter().map(|p| format!("{name}\t{:.2}\t{:.2}\t{:.6}", p.x, p.y, score(p))));
    }
    Ok(table("", &labels, rows))
}

/// A block with one table. If the table has no row, an empty line ends it, and the block must be the last one of its file,
/// because RELION would take the lines that follow for rows.
pub fn table(block: &str, labels: &[&str], rows: impl IntoIterator<Item = String>) -> String {
    let mut out = head(block, labels);
    let before = out.len();
    for row in rows {
        out.push_str(&row);
        out.push('\n');
    }
    if out.len() == before {
        out.push('\n');
    }
    out
}

/// A value as it may stand in a row: in quotes if it has blanks or begins like a keyword, a comment or a quote.
pub fn quoted(value: &str) -> String {
    let keyword = ["data_", "loop_", "_", "#", ";", "\"", "'"].iter().any(|start| value.starts_with(start));
    if value.is_empty() || keyword || value.contains(char::is_whitespace) {
        let mark = if value.contains('"') { '\'' } else { '"' };
        return format!("{mark}{value}{mark}");
    }
    value.to_owned()
}

fn head(block: &str, labels: &[&str]) -> String {
    let mut out = format!("data_{block}\n\nloop_\n");
    for (i, label) in labels.iter().enumerate() {
        let _ = writeln!(out, "_{label} #{}", i + 1); // a String never fails
    }
    out
}

fn score(point: &Coordinate) -> f64 {
    point.score.map_or(NO_SCORE, f64::from)
}
