//! Writing a file whole or not at all.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes `bytes` to `path` so that a reader sees the old file or the new one, never a part.
///
/// The temporary file lies in the same folder, and its name does not end in `path`'s extension, because callers
/// count finished files by extension while we work.
///
/// Errors: the folder is not writable, the disk is full, or the file cannot be renamed; the temporary file is removed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, true, |file| file.write_all(bytes))
}

/// As [`write_whole`], without waiting for the disk: for files that a moment's work makes again. After a loss of power
/// such a file may be old, empty or new.
///
/// Errors: as [`write_whole`].
pub fn write_whole_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, false, |file| file.write_all(bytes))
}

/// As [`write_whole`], for a file that is too large to be put together in memory: `fill` writes it piece by piece.
///
/// Errors: as [`write_whole`], or those of `fill`.
pub fn write_whole_by(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut failed = None;
    let written = write(path, true, |file| {
        let mut out = BufWriter::new(file);
        match fill(&mut out) {
            Ok(()) => out.flush(),
            Err(error) => {
                failed = Some(error);
                Err(std::io::ErrorKind::Other.into())
            }
        }
    });
    match failed {
        // What `fill` met says more than that the file could not be filled.
        Some(error) => Err(error.context(format!("{}: cannot be written", path.display()))),
        None => written,
    }
}

fn write(path: &Path, sync: bool, fill: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let write = move || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".epicker-").suffix(".part");
        #[cfg(unix)]
        {
            // The usual rights of a new file (less the umask); a temporary file's own are 0600.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(folder)?;
        fill(file.as_file_mut())?;
        if sync {
            file.as_file().sync_all()?;
        }
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().with_context(|| format!("{}: cannot be written; check the folder's rights and the free space", path.display()))
}
