//! CBOX, crYOLO's boxes: today's STAR-like form, and the old bare columns.
//! Source: docs/formats.md, "CBOX".

use super::coordinates::{Content, Coordinate, Coordinates, Kind, Size, Warnings, number_fibers};
use super::{fiber_order, star, text};
use anyhow::{Context, Result, ensure};
use std::fmt::Write;

/// How [`write()`] writes.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// Side of every box in micrograph pixels. Without it each point has its own box.
    pub size_px: Option<u32>,
}

/// Boxes as CBOX of version 1.0: lower corner and size, the estimated size where there is one, the score as confidence (1 where
/// a point has no score), and the fiber.
///
/// Errors: a point has no box and `size_px` is not given.
/// Source: docs/formats.md, "CBOX".
pub fn write(coordinates: &Coordinates, options: &WriteOptions) -> Result<String> {
    let is_fiber = coordinates.kind == Kind::Fiber;
    let mut labels = vec![
        "CoordinateX",
        "CoordinateY",
        "CoordinateZ",
        "Width",
        "Height",
        "Depth",
        "EstWidth",
        "EstHeight",
        "Confidence",
        "NumBoxes",
        "Angle",
    ];
    labels.extend(is_fiber.then_some("filamentid"));
    let mut rows = Vec::with_capacity(coordinates.points.len());
    for (i, point) in coordinates.points.iter().enumerate() {
        let size = options.size_px.map(|side| Size::square(f64::from(side))).or(point.size);
        let Size { width, height } =
            size.with_context(|| format!("point {}: it has no box; expected a size for every point; give it with --box_size", i + 1))?;
        let estimate = point.estimated_size.or(point.size.filter(|_| coordinates.kind == Kind::Vesicle));
        let estimate = estimate.map_or("<NA> <NA>".to_owned(), |size| format!("{:?} {:?}", size.width, size.height));
        let [x, y] = [point.x - width / 2.0, point.y - height / 2.0];
        let confidence = point.score.unwrap_or(1.0);
        let mut row = format!("{x:?} {y:?} <NA> {width:?} {height:?} <NA> {estimate} {confidence:?} <NA> <NA>");
        if is_fiber {
            write!(row, " {}", point.group.map_or("<NA>".to_owned(), |group| group.to_string()))?;
        }
        rows.push(row);
    }
    let boxes = star::write::table("cryolo", &labels, rows);
    Ok(format!("\ndata_global\n\n_cbox_format_version 1.0\n\n{boxes}\ndata_cryolo_include\n\nloop_\n_slice_index #1\n"))
}

/// Reads CBOX of version 1.0.
///
/// Errors: no block `data_cryolo` with corner and size; values that are no numbers.
/// Source: docs/formats.md, "CBOX".
pub fn read(text: &str) -> Result<(Content, Warnings)> {
    let mut warnings = Warnings::default();
    let blocks = star::parse(text, &mut warnings)?;
    let version = blocks.iter().find(|block| block.name == "global").and_then(|block| block.value("cbox_format_version"));
    if version.is_some_and(|version| version.parse::<f64>() != Ok(1.0)) {
        warnings.note(0, "the CBOX version is not 1.0; read as if it were");
    }
    let table = blocks.iter().find(|block| block.name == "cryolo").and_then(|block| block.tables.first());
    let table = table.context("no table in a block data_cryolo; expected a CBOX file; correct the file or name its format")?;
    let need = |label: &str| {
        table
            .column(label)
            .with_context(|| format!("data_cryolo has no column _{label}; expected corner and size of boxes; correct the file"))
    };
    let (x, y, width, height) = (need("CoordinateX")?, need("CoordinateY")?, need("Width")?, need("Height")?);
    let estimate = table.column("EstWidth").zip(table.column("EstHeight"));
    let [z, confidence, filament] = ["CoordinateZ", "Confidence", "filamentid"].map(|label| table.column(label));
    let mut points = Vec::with_capacity(table.len());
    let mut filaments = Vec::new();
    for (line, row) in table.rows() {
        let number = |column: usize, what| text::pixels(row[column], line, what);
        let size = Size { width: number(width, "the width")?, height: number(height, "the height")? };
        ensure!(
            size.width >= 0.0 && size.height >= 0.0,
            "line {line}: a box of {} x {}; expected sides of 0 or more; correct the row",
            size.width,
            size.height
        );
        let mut point = Coordinate::at(number(x, "x")? + size.width / 2.0, number(y, "y")? + size.height / 2.0);
        point.size = Some(size).filter(|size| size.width > 0.0 && size.height > 0.0);
        if let Some((width, height)) = estimate.filter(|(w, h)| !text::is_absent(row[*w]) && !text::is_absent(row[*h])) {
            let size = Size { width: number(width, "the estimated width")?, height: number(height, "the estimated height")? };
            point.estimated_size = Some(size).filter(|size| size.width > 0.0 && size.height > 0.0);
        }
        if let Some(column) = confidence {
            point.score = text::score(row[column], line)?;
        }
        if let Some(token) = z.map(|column| row[column]).filter(|token| !text::is_absent(token)) {
            point.z = Some(text::pixels(token, line, "z")?.trunc()); // a box belongs to the slice in which it begins
        }
        filaments.extend(filament.map(|column| row[column]));
        points.push(point);
    }
    let is_fiber = !filaments.is_empty() && !filaments.iter().all(|name| text::is_absent(name));
    if is_fiber {
        for (point, group) in points.iter_mut().zip(number_fibers(&filaments)) {
            point.group = Some(group);
        }
        // crYOLO's boxes overlap along a filament. Boxes that do not overlap may be the vertices of a path, and then nothing
        // but their order tells how the path goes, so it is kept.
        if fiber_order::are_dense(&points) {
            let order = fiber_order::of_fibers(&points, &[], &mut warnings);
            points = order.into_iter().map(|i| points[i]).collect();
        }
    }
    Ok((Content::one(if is_fiber { Kind::Fiber } else { Kind::Particle }, points), warnings))
}

/// Reads old CBOX: bare columns x, y, w, h, confidence, and perhaps the estimated width and height. x and y are the corner of
/// the box.
///
/// Errors: rows of another number of columns, or not of numbers.
pub fn read_old(text: &str, warnings: &mut Warnings) -> Result<Content> {
    let rows = text::number_rows(text, warnings)?;
    text::check_counts(&rows, &[5, 7])?;
    let point = |row: &text::NumberRow| {
        let [x, y, w, h, confidence] = [row.values[0], row.values[1], row.values[2], row.values[3], row.values[4]];
        let size = |width: f64, height: f64| Some(Size { width, height }).filter(|_| width > 0.0 && height > 0.0);
        let estimated_size = row.values.get(5).zip(row.values.get(6)).and_then(|(w, h)| size(*w, *h));
        Coordinate { score: Some(confidence as f32), size: size(w, h), estimated_size, ..Coordinate::at(x + w / 2.0, y + h / 2.0) }
    };
    Ok(Content::one(Kind::Particle, rows.iter().map(point).collect()))
}
