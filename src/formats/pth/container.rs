//! The two containers of PyTorch: the zip archive of 1.6 and later, and the stream before it.

use std::collections::HashMap;
use std::io::{Cursor, Read};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::pickle::{self, Id, Value, Values};
use super::tensor::{Storage, TensorRef};
use crate::formats::state_dict;

/// First bytes of a stream: a pickle of protocol 2 with PyTorch's magic number 0x1950a86a20f9469cfc6c.
pub(super) const LEGACY_START: &[u8] = &[0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
/// First bytes of a zip archive.
pub(super) const ZIP_START: &[u8] = b"PK\x03\x04";
/// The unpacked pickle of an archive may be longer than the file by at most this. The pickle may be deflated, but the file also
/// holds the tensors, so only a small pickle is longer than its file.
const SMALL_PICKLE: u64 = 64 << 10;
/// The most bytes that one byte of a file may become. Weights hardly shrink when they are deflated, by a tenth; this leaves
/// room for the zeros of a fresh optimiser, but not for a zip bomb.
const MOST_EXPANSION: u64 = 32;

/// How many bytes may still be made out of a file.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
}

impl Budget {
    pub(super) fn of(file: &[u8]) -> Budget {
        Budget { left: (file.len() as u64).saturating_mul(MOST_EXPANSION).saturating_add(1 << 20) }
    }

    fn spend(&mut self, bytes: u64) -> Result<()> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| {
            anyhow!("the tensors would take more than {MOST_EXPANSION} times the bytes of the file; expected a checkpoint; the file is damaged or hostile")
        })?;
        Ok(())
    }
}

/// Where the bytes of the storages come from.
pub(super) enum Storages<'a> {
    Zip(Archive<'a>),
    /// The storages of a stream: the bytes of each by its key.
    Legacy(HashMap<String, &'a [u8]>),
}

impl<'a> Storages<'a> {
    /// The numbers of a tensor, within the budget.
    pub(super) fn read(&mut self, tensor: &TensorRef, budget: &mut Budget) -> Result<state_dict::Values> {
        budget.spend(tensor.numel()?.saturating_mul(tensor.dtype.size_in_memory()))?;
        match self {
            Storages::Zip(archive) => {
                let big_endian = archive.big_endian;
                tensor.read(archive.storage(&tensor.storage, budget)?, big_endian)
            }
            Storages::Legacy(map) => {
                let bytes = map.get(tensor.storage.key).ok_or_else(|| anyhow!("storage {} is not in the file", tensor.storage.key))?;
                tensor.read(bytes, false)
            }
        }
    }
}

/// An open zip archive.
pub(super) struct Archive<'a> {
    zip: zip::ZipArchive<Cursor<&'a [u8]>>,
    /// Folder all entries lie in, with its slash.
    folder: String,
    big_endian: bool,
    /// Storages already read: several tensors may share one.
    read: HashMap<String, Vec<u8>>,
    file_length: u64,
}

impl<'a> Archive<'a> {
    /// Opens the archive.
    ///
    /// Errors: not a zip archive, or not one of `torch.save`.
    pub(super) fn open(file: &'a [u8]) -> Result<Archive<'a>> {
        let zip = zip::ZipArchive::new(Cursor::new(file))
            .map_err(|error| anyhow!("zip archive: {error}; the file is cut short or damaged; copy it again"))?;
        ensure!(!zip.has_duplicate_names(), "zip archive: two entries have the same name; the file is damaged");
        let mut folders = zip.file_names().filter_map(|name| name.ok()?.strip_suffix("data.pkl").map(str::to_owned));
        let folder = folders.find(|folder| folder.is_empty() || folder.ends_with('/'));
        drop(folders);
        let folder = folder.ok_or_else(|| anyhow!("zip archive without data.pkl; expected a file of torch.save"))?;
        let mut archive = Archive { zip, folder, big_endian: false, read: HashMap::new(), file_length: file.len() as u64 };
        ensure!(
            archive.zip.index_for_name(&format!("{}constants.pkl", archive.folder)).is_none(),
            "a TorchScript archive; expected a checkpoint of torch.save; save the model's state_dict alone"
        );
        if let Some(order) = archive.entry("byteorder", 16)? {
            archive.big_endian = match order.as_slice() {
                b"little" => false,
                b"big" => true,
                other => bail!("byte order {:?}; expected little or big", String::from_utf8_lossy(other)),
            };
        }
        Ok(archive)
    }

    /// The pickle that says what the file holds.
    pub(super) fn pickle(&mut self) -> Result<Vec<u8>> {
        self.entry("data.pkl", self.file_length.saturating_add(SMALL_PICKLE))?.ok_or_else(|| anyhow!("zip archive without data.pkl"))
    }

    fn storage(&mut self, storage: &Storage, budget: &mut Budget) -> Result<&[u8]> {
        if !self.read.contains_key(storage.key) {
            let wanted = storage.byte_length()?;
            budget.spend(wanted)?;
            let bytes = self
                .entry(&format!("data/{}", storage.key), wanted)?
                .ok_or_else(|| anyhow!("storage {} is not in the archive", storage.key))?;
            let found = bytes.len() as u64;
            ensure!(found == wanted, "storage {}: {found} bytes; expected {wanted}", storage.key);
            self.read.insert(storage.key.to_owned(), bytes);
        }
        self.read.get(storage.key).map(Vec::as_slice).ok_or_else(|| anyhow!("storage {}", storage.key))
    }

    /// Bytes of an entry of at most `most` bytes, or None if there is none.
    fn entry(&mut self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(index) = self.zip.index_for_name(&format!("{}{name}", self.folder)) else { return Ok(None) };
        let damaged =
            |error: &dyn std::fmt::Display| anyhow!("entry {name} of the zip archive: {error}; the file is damaged; copy it again");
        let entry = self.zip.by_index(index).map_err(|error| damaged(&error))?;
        let length = entry.size();
        ensure!(length <= most, "entry {name} of the zip archive has {length} bytes; expected at most {most}");
        // Deflate makes at most 1032 bytes out of one, so a longer claim is false, and nothing is allocated for it.
        ensure!(
            length <= self.file_length.saturating_mul(1032),
            "entry {name} of the zip archive claims {length} bytes; the file is damaged"
        );
        let mut bytes = Vec::with_capacity(usize::try_from(length.min(self.file_length)).unwrap_or(0));
        entry.take(length + 1).read_to_end(&mut bytes).map_err(|error| damaged(&error))?;
        ensure!(bytes.len() as u64 == length, "entry {name} of the zip archive has {} bytes; expected {length}", bytes.len());
        Ok(Some(bytes))
    }
}

/// Reads the stream. It begins with three pickles that say what it is (the first is `LEGACY_START`), one with the object, and
/// one with the keys of the storages. Then follow, for each key, the number of elements (64 bit) and the elements.
///
/// Errors: cut short, damaged, or written by a big-endian machine before PyTorch swapped bytes.
pub(super) fn read_legacy(file: &[u8]) -> Result<(Values<'_>, Id, Storages<'_>)> {
    let mut at = LEGACY_START.len();
    let next = |at: &mut usize| -> Result<(Values<'_>, Id)> {
        let (values, id, length) = pickle::run(&file[*at..]).with_context(|| format!("pickle that begins at byte {at}"))?;
        *at += length;
        Ok((values, id))
    };
    let (values, version) = next(&mut at)?;
    let version = values.count(version).context("version of the stream")?;
    ensure!(version == 1001, "stream version {version}; expected 1001");
    next(&mut at)?; // sizes of C types on the machine that wrote it
    let (values, root) = next(&mut at)?;
    let (key_values, keys) = next(&mut at)?;
    let keys = key_values.entries(keys).ok_or_else(|| anyhow!("no list of storages; the file is damaged"))?;

    let lengths: HashMap<&str, &Storage> = values.storages.iter().map(|storage| (storage.key, storage)).collect();
    let mut storages = HashMap::new();
    for &key in keys {
        let key = key_values.text(key).ok_or_else(|| anyhow!("a storage's key is {}; expected text", key_values.get(key).kind()))?;
        let storage = lengths.get(key).ok_or_else(|| anyhow!("storage {key} belongs to no tensor; the file is damaged"))?;
        let cut_short = || anyhow!("byte {at}: storage {key} ends beyond the file; the file is cut short; copy it again");
        let header = file.get(at..at + 8).ok_or_else(cut_short)?;
        let numel = u64::from_le_bytes(header.try_into()?);
        ensure!(numel == storage.numel, "byte {at}: storage {key} has {numel} elements; expected {}", storage.numel);
        let length = usize::try_from(storage.byte_length()?)?;
        let bytes = file[at + 8..].get(..length).ok_or_else(cut_short)?;
        at += 8 + length;
        storages.insert(key.to_owned(), bytes);
    }
    Ok((values, root, Storages::Legacy(storages)))
}

impl Values<'_> {
    /// True if the value is a dict that holds at least one tensor.
    pub(super) fn holds_tensors(&self, id: Id) -> bool {
        self.dict(id).is_some_and(|pairs| pairs.iter().any(|&(_, value)| matches!(self.get(value), Value::Tensor(_))))
    }
}
