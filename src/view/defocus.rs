//! Defocus of micrographs, from the list that a CTF estimation leaves.

use crate::formats::coordinates::Warnings;
use crate::formats::{regular, star};
use crate::io::pairing::{Name, match_names};
use anyhow::{Context, Result};
use std::path::Path;

/// The defocus of each micrograph, angstrom: the mean of `rlnDefocusU` and `rlnDefocusV` in a table that names micrographs.
///
/// Errors: the file cannot be read, or holds no such table.
pub fn read(path: &Path, micrographs: &[Name]) -> Result<Vec<Option<f64>>> {
    let bytes = regular::read(path)?;
    let told = || path.display().to_string();
    let text = std::str::from_utf8(&bytes).context("not text; expected a STAR file").with_context(told)?;
    let blocks = star::parse(text, &mut Warnings::default()).with_context(told)?;
    let columns = |table: &star::Table| ["rlnMicrographName", "rlnDefocusU", "rlnDefocusV"].map(|label| table.column(label));
    let found = blocks.iter().flat_map(|block| &block.tables).find_map(|table| match columns(table) {
        [Some(name), Some(u), Some(v)] => Some((table, [name, u, v])),
        _ => None,
    });
    let (table, [name, u, v]) = found
        .context("no table with rlnMicrographName, rlnDefocusU and rlnDefocusV; expected that of a CTF estimation")
        .with_context(told)?;
    let number = |row: &[&str], column: usize| row.get(column).and_then(|text| text.parse::<f64>().ok());
    let rows: Vec<(&str, f64)> =
        table.rows().filter_map(|(_, row)| Some((*row.get(name)?, (number(row, u)? + number(row, v)?) / 2.0))).collect();
    let names: Vec<Name> = rows.iter().map(|(name, _)| Name::in_table(name)).collect();
    let mut defocus = vec![None; micrographs.len()];
    for (i, row) in match_names(micrographs, &names)?.pairs {
        defocus[i] = Some(rows[row].1);
    }
    Ok(defocus)
}
