//! Lists that a run leaves beside its coordinate files, and finding files below a folder.

use crate::formats::coordinates::ListedPair;
use crate::formats::{star, thi};
use crate::io::write::write_whole;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// A micrograph and its coordinate file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The micrograph as it was named.
    pub micrograph: PathBuf,
    /// Its coordinate file.
    pub coordinates: PathBuf,
}

/// Writes `merge_results.thi` (absolute paths) into `folder`.
///
/// Errors: the file cannot be written, or the working folder is gone.
pub fn write_merge_results(folder: &Path, listed: &[Listed]) -> Result<()> {
    let absolute = |path: &Path| -> Result<String> {
        let path = std::path::absolute(path).with_context(|| format!("{}: no absolute path", path.display()))?;
        Ok(path.display().to_string())
    };
    let pair = |one: &Listed| -> Result<ListedPair> {
        Ok(ListedPair { micrograph: absolute(&one.micrograph)?, coordinates: absolute(&one.coordinates)? })
    };
    let pairs = listed.iter().map(pair).collect::<Result<Vec<_>>>()?;
    write_whole(&folder.join("merge_results.thi"), thi::write_merge_results(&pairs).as_bytes())
}

/// Writes `autopick.star` into `folder`, with the paths as they were given.
///
/// Errors: the file cannot be written.
pub fn write_coordinate_files(folder: &Path, listed: &[Listed]) -> Result<()> {
    let pair =
        |one: &Listed| ListedPair { micrograph: one.micrograph.display().to_string(), coordinates: one.coordinates.display().to_string() };
    let pairs: Vec<ListedPair> = listed.iter().map(pair).collect();
    write_whole(&folder.join("autopick.star"), star::write::coordinate_files(&pairs).as_bytes())
}

/// All files below a folder with this extension, by path.
///
/// Errors: a folder cannot be read.
pub fn files_below(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("{}: cannot be read", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("{}: cannot be read", folder.display()))?;
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if path.extension().is_some_and(|this| this == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
