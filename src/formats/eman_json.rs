//! EMAN2's `info/NAME_info.json`: boxes as a list of x, y, how they came about, and perhaps a score. Only read.
//! Source: docs/formats.md, "EMAN2 info files".

use super::coordinates::{Content, Coordinate, Kind, Warnings};
use super::text;
use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Reads the boxes of an info file. Boxes that teach EMAN2 what is no particle (`refbad`, `refbg`) are left out.
///
/// Errors: the text is no JSON, has no list `boxes`, or an entry of it is not x and y.
/// Source: docs/formats.md, "EMAN2 info files".
pub fn read(text: &str) -> Result<(Content, Warnings)> {
    let mut warnings = Warnings::default();
    let value: Value = serde_json::from_str(text).map_err(|error| {
        anyhow::anyhow!("line {}: {}; expected JSON as EMAN2 writes it; correct the file", error.line(), text::excerpt(&error.to_string()))
    })?;
    if value.get("boxes").is_none() && value.get("boxes_3d").is_some() {
        bail!("\"boxes_3d\" are particles of a tomogram; expected \"boxes\" of a micrograph; give another file");
    }
    let boxes = value
        .get("boxes")
        .context("no list \"boxes\"; expected an info file of EMAN2 with boxes; pick in EMAN2 first or give another file")?;
    let Value::Array(boxes) = boxes else { bail!("\"boxes\" is no list; expected [[x, y, \"manual\"], ...]; correct the file") };
    let mut points = Vec::with_capacity(boxes.len());
    for (i, entry) in boxes.iter().enumerate() {
        let number = |k: usize| entry.get(k).and_then(Value::as_f64).filter(|value| value.abs() <= f64::from(i32::MAX));
        let (Some(x), Some(y)) = (number(0), number(1)) else {
            bail!("boxes, entry {}: {}; expected [x, y, \"manual\"]; correct the file", i + 1, text::excerpt(&entry.to_string()));
        };
        let how = entry.get(2).and_then(Value::as_str).unwrap_or_default();
        if how == "refbad" || how == "refbg" {
            warnings.note(0, "boxes that are references of bad particles or background are left out");
            continue;
        }
        points.push(Coordinate { score: number(3).map(|score| score as f32), ..Coordinate::at(x, y) });
    }
    Ok((Content::one(Kind::Particle, points), warnings))
}
