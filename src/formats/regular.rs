//! Opens files, and refuses paths that lead to something else. Opening a named pipe waits until somebody writes to it, which
//! may never happen, and a device may have no end. If there is such a thing among a thousand micrographs, it is passed over,
//! and nobody waits for it.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::Path;

/// What a path leads to, if that is neither a file nor a folder: `a named pipe`, `a socket` or `a device`.
pub fn special(path: &Path) -> Option<&'static str> {
    // Links are followed. If the path does not exist or cannot be examined, whoever opens it says so.
    special_type(std::fs::metadata(path).ok()?.file_type())
}

#[cfg(unix)]
fn special_type(kind: std::fs::FileType) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_fifo() => Some("a named pipe"),
        kind if kind.is_socket() => Some("a socket"),
        kind if kind.is_block_device() || kind.is_char_device() => Some("a device"),
        _ => None,
    }
}

#[cfg(not(unix))]
fn special_type(_: std::fs::FileType) -> Option<&'static str> {
    None
}

/// Opens a file for reading.
///
/// Errors: the path leads to a named pipe, a socket or a device, or it cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    if let Some(what) = special(path) {
        bail!("{}: is {what}; expected a file; leave it out, or copy what comes from it into a file", path.display());
    }
    File::open(path).with_context(|| format!("{}: cannot be opened", path.display()))
}

/// The bytes of a file.
///
/// Errors: as [`open`], or the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut file = open(path)?;
    let mut bytes = Vec::with_capacity(file.metadata().map_or(0, |metadata| metadata.len() as usize));
    file.read_to_end(&mut bytes).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(bytes)
}
