//! Topaz tables: one row per particle with the name of its image, all micrographs in one file.
//! Source: docs/formats.md, "Topaz tables".

use super::coordinates::{Content, Coordinate, Integers, Kind, Set, Warnings};
use super::text;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;

/// One table for all micrographs, full-size pixels, whole numbers; the score column only where there are scores.
///
/// Errors: a set without the name of its micrograph.
/// Source: docs/formats.md, "Topaz tables".
pub fn write(sets: &[Set], integers: Integers) -> Result<String> {
    let has_scores = sets.iter().any(|set| set.coordinates.points.iter().any(|point| point.score.is_some()));
    let mut out = String::from(if has_scores { "image_name\tx_coord\ty_coord\tscore\n" } else { "image_name\tx_coord\ty_coord\n" });
    for set in sets {
        let name = set.micrograph.as_deref().context("a set of coordinates without a micrograph; expected a name for each")?;
        for point in &set.coordinates.points {
            out.push_str(&format!("{name}\t{}\t{}", integers.of(point.x), integers.of(point.y)));
            if has_scores {
                out.push_str(&point.score.map_or("\tnan".to_owned(), |score| format!("\t{score:.6}")));
            }
            out.push('\n');
        }
    }
    Ok(out)
}

/// Reads a table; coordinates are multiplied by `scale` (Topaz often works on downscaled images).
///
/// Errors: no header with `image_name`, `x_coord`, `y_coord`; a row that does not fit it; a scale that is not positive.
/// Source: docs/formats.md, "Topaz tables".
pub fn read(text: &str, scale: f64) -> Result<(Content, Warnings)> {
    ensure!(scale > 0.0 && scale.is_finite(), "scale {scale}; expected more than 0; give it with --scale");
    let mut warnings = Warnings::default();
    let mut lines = text::lines(text).filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let Some((line, header)) = lines.next() else {
        warnings.note(0, "the file is empty; taken as a file without coordinates");
        return Ok((Content::one(Kind::Particle, Vec::new()), warnings));
    };
    let by_tabs = header.contains('\t'); // then names may hold blanks
    let labels = columns(header, by_tabs);
    let find = |name: &str| labels.iter().position(|label| label.eq_ignore_ascii_case(name));
    let need = |name: &str| {
        find(name).with_context(|| format!("line {line}: no column {name}; expected image_name x_coord y_coord; correct the header"))
    };
    let (name, x, y) = (need("image_name")?, need("x_coord")?, need("y_coord")?);
    let (score, z) = (find("score"), find("z_coord"));
    let mut sets: Vec<Set> = Vec::new();
    let mut places = HashMap::new();
    for (line, row) in lines {
        let tokens = columns(row, by_tabs);
        ensure!(
            tokens.len() == labels.len(),
            "line {line}: {} columns; expected {} as in the header; complete the row",
            tokens.len(),
            labels.len()
        );
        if tokens[name].is_empty() {
            bail!("line {line}: no image name; expected one in column {}; complete the row", name + 1);
        }
        let place = *places.entry(tokens[name]).or_insert_with(|| {
            sets.push(Set { micrograph: Some(tokens[name].to_owned()), ..Set::default() });
            sets.len() - 1
        });
        let mut point =
            Coordinate::at(text::pixels(tokens[x], line, "x_coord")? * scale, text::pixels(tokens[y], line, "y_coord")? * scale);
        ensure!(
            point.x.abs() <= f64::from(i32::MAX) && point.y.abs() <= f64::from(i32::MAX),
            "line {line}: beyond every micrograph after scaling; expected a sensible factor; correct --scale"
        );
        if let Some(column) = score {
            point.score = text::score(tokens[column], line)?;
        }
        if let Some(column) = z.filter(|column| !text::is_absent(tokens[*column])) {
            point.z = Some(text::pixels(tokens[column], line, "z_coord")?);
        }
        sets[place].coordinates.points.push(point);
    }
    Ok((Content::Coordinates(sets), warnings))
}

/// True if this line is the header of a Topaz table.
pub fn is_header(line: &str) -> bool {
    let labels: Vec<String> = line.split_whitespace().map(str::to_ascii_lowercase).collect();
    ["image_name", "x_coord", "y_coord"].iter().all(|name| labels.iter().any(|label| label == name))
}

fn columns(line: &str, by_tabs: bool) -> Vec<&str> {
    if by_tabs { line.trim_end_matches('\t').split('\t').map(str::trim).collect() } else { line.split_whitespace().collect() }
}
