//! Writing a file whole or not at all, and clearing away what a killed run could not finish.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Beginning and end of the names of temporary files. They are hidden, and do not end as any file that we write.
const TEMPORARY: [&str; 2] = [".epicker-", ".part"];

/// Writes `bytes` to `path` so that a reader sees the old file or the new one, never a part.
///
/// The temporary file lies in the same folder, and its name does not end in `path`'s extension, because callers
/// count finished files by extension while we work.
///
/// Errors: the folder is not writable, the disk is full, or the file cannot be renamed; the temporary file is removed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, true, |file| file.write_all(bytes))
}

/// As [`write_whole`], but without waiting for the disk. It is for files that can be made again in a moment: after a loss of
/// power such a file may be old, empty or new.
///
/// Errors: as [`write_whole`].
pub fn write_whole_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, false, |file| file.write_all(bytes))
}

/// As [`write_whole`] for each of many files; the results are in their order.
///
/// The function waits for the disk only after it has handed over all files. The disk then writes them together, which for
/// thousands of small files takes much less time than waiting after each of them.
pub fn write_many_whole(files: &[(&Path, String)]) -> Vec<Result<()>> {
    // Every file stays open until it has its name, and a process may have about a thousand open.
    const TOGETHER: usize = 256;
    let mut results = Vec::with_capacity(files.len());
    for files in files.chunks(TOGETHER) {
        let begun: Vec<io::Result<NamedTempFile>> =
            files.iter().map(|(path, text)| begin(path, |file| file.write_all(text.as_bytes()))).collect();
        let synced: Vec<io::Result<NamedTempFile>> =
            begun.into_iter().map(|file| file.and_then(|file| file.as_file().sync_all().map(|()| file))).collect();
        results.extend(
            synced
                .into_iter()
                .zip(files)
                .map(|(file, (path, _))| file.and_then(|file| name(file, path)).with_context(|| not_written(path))),
        );
    }
    results
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
                Err(io::ErrorKind::Other.into())
            }
        }
    });
    match failed {
        // The error that `fill` met says more than that the file could not be filled.
        Some(error) => Err(error.context(format!("{}: cannot be written", path.display()))),
        None => written,
    }
}

fn write(path: &Path, sync: bool, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let write = || -> io::Result<()> {
        let file = begin(path, fill)?;
        if sync {
            file.as_file().sync_all()?;
        }
        name(file, path)
    };
    write().with_context(|| not_written(path))
}

fn not_written(path: &Path) -> String {
    format!("{}: cannot be written; check the folder's rights and the free space", path.display())
}

/// The temporary file of `path`, with its content.
fn begin(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<NamedTempFile> {
    let mut file = temporary_in(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    fill(file.as_file_mut())?;
    Ok(file)
}

/// An empty temporary file in a folder, which [`remove_leftovers`] spares for as long as this process has it open.
///
/// Errors: the folder cannot be written to.
pub fn temporary_in(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY[0]).suffix(TEMPORARY[1]);
    #[cfg(unix)]
    {
        // These are the usual rights of a new file, less the umask. A temporary file would have 0600.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    loop {
        let file = builder.tempfile_in(folder)?;
        // The lock says that somebody is still writing; it ends with the process, however that ends. A file system without
        // locks is no reason to fail: there nothing is ever cleared away.
        let is_locked = file.as_file().lock().is_ok();
        if !is_locked || file.path().exists() {
            return Ok(file);
        }
        // Before the file was locked, another run took it for a leftover and removed it, so a new one is made.
    }
}

fn name(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist(path).map(|_| ()).map_err(|error| error.error)
}

/// Writes files that belong together, the last of which stands for all. Whatever happens, that one never lies beside others that are
/// not its own: an earlier one is removed before the first of the others appears, and so are the files of `outdated`. Until all are
/// on the disk under temporary names, everything stays as it was.
///
/// Errors: as [`write_whole`], or an earlier file cannot be removed.
pub fn write_set_whole(files: &[(&Path, &[u8])], outdated: &[PathBuf]) -> Result<()> {
    let begun = files.iter().map(|(path, bytes)| {
        let file = begin(path, |file| file.write_all(bytes)).and_then(|file| file.as_file().sync_all().map(|()| file));
        file.with_context(|| not_written(path))
    });
    let begun = begun.collect::<Result<Vec<NamedTempFile>>>()?;
    for path in files.last().iter().map(|(path, _)| *path).chain(outdated.iter().map(PathBuf::as_path)) {
        remove_earlier(path)?;
    }
    begun.into_iter().zip(files).try_for_each(|(file, (path, _))| name(file, path).with_context(|| not_written(path)))
}

/// Removes a file that an earlier run has left, if there is one.
///
/// Errors: it is there and cannot be removed.
pub fn remove_earlier(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed; check the folder's rights", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes from a folder the temporary files of runs that were killed while they wrote. Files of runs that still write, here or
/// on another machine, are locked and stay; so do files that cannot be removed.
pub fn remove_leftovers(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_temporary = name.to_str().is_some_and(|name| name.starts_with(TEMPORARY[0]) && name.ends_with(TEMPORARY[1]));
        // The lock is held until the file is gone. A run that has just made the file waits for the lock, sees that the file is
        // gone, and makes another.
        if is_temporary
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
