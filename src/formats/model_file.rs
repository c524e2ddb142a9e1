//! Model files of any kind: which kind a file is, how it is read, and its fingerprint.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::pth::{self, Checkpoint};
use super::regular;
use super::safetensors_file;
use super::state_dict::{METADATA_EPOCH, StateDict};

/// The kinds of model files, told apart by their first bytes and not by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelFormat {
    /// PyTorch's checkpoint, in either container.
    Pth,
    /// safetensors.
    Safetensors,
}

impl ModelFormat {
    /// The kind of model file that these bytes are, if they begin as one does.
    pub fn of(bytes: &[u8]) -> Option<ModelFormat> {
        if pth::is_pth(bytes) {
            Some(ModelFormat::Pth)
        } else if safetensors_file::is_safetensors(bytes) {
            Some(ModelFormat::Safetensors)
        } else {
            None
        }
    }
}

/// Reads the tensors and metadata of a `.pth` or `.safetensors`, whatever its name.
///
/// Errors: the file cannot be read, is damaged, or is no model; the message names it.
pub fn load_model_file(path: &Path) -> Result<StateDict> {
    Ok(load_checkpoint_file(path, false)?.state)
}

/// Like [`load_model_file`], but with all that a checkpoint holds: the epoch, the names of tensors that were left out, and on
/// request the state of the optimiser.
///
/// Errors: as [`load_model_file`].
pub fn load_checkpoint_file(path: &Path, with_optimizer: bool) -> Result<Checkpoint> {
    with_bytes(path, |bytes| read_checkpoint(bytes, with_optimizer))
}

/// Reads a model file in memory.
///
/// Errors: the bytes are damaged or no model.
pub fn read_checkpoint(bytes: &[u8], with_optimizer: bool) -> Result<Checkpoint> {
    match ModelFormat::of(bytes) {
        Some(ModelFormat::Pth) => pth::read(bytes, with_optimizer),
        Some(ModelFormat::Safetensors) => {
            let state = safetensors_file::read(bytes)?;
            let epoch = state.metadata.get(METADATA_EPOCH).and_then(|epoch| epoch.parse().ok());
            Ok(Checkpoint { state, epoch, ..Checkpoint::default() })
        }
        None => bail!(
            "{} bytes that begin as no model does; expected a .pth or .safetensors; the file is damaged or something else",
            bytes.len()
        ),
    }
}

/// SHA-256 of a file in hexadecimal digits, as `sha256sum` prints it.
///
/// Errors: the file cannot be read.
pub fn sha256_of_file(path: &Path) -> Result<String> {
    with_bytes(path, |bytes| Ok(sha256(bytes)))
}

/// SHA-256 of bytes in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

impl StateDict {
    /// Fingerprint of the model: SHA-256 over its tensors, the same in every container and for every order and metadata.
    ///
    /// For each tensor by ascending name: the name, a zero byte, the type (`F32`), a zero byte, the number of extents
    /// and the extents (u64), the values; all little-endian.
    pub fn sha256(&self) -> String {
        let mut tensors: Vec<_> = self.tensors.iter().collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let mut hash = Sha256::new();
        for tensor in tensors {
            for text in [tensor.name.as_str(), tensor.values.type_name()] {
                hash.update(text.as_bytes());
                hash.update([0]);
            }
            hash.update((tensor.shape.len() as u64).to_le_bytes());
            tensor.shape.iter().for_each(|&extent| hash.update((extent as u64).to_le_bytes()));
            hash.update(tensor.values.to_le_bytes());
        }
        hexadecimal(&hash.finalize())
    }
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Maps a file and hands its bytes to `use_bytes`. Errors get the name of the file.
fn with_bytes<T>(path: &Path, use_bytes: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
    let name = || path.display().to_string();
    let file = regular::open(path)?;
    if file.metadata().with_context(name)?.len() == 0 {
        // An empty file cannot be mapped.
        return use_bytes(&[]).with_context(name);
    }
    // SAFETY: the map is read only while this function runs, and everything kept is copied out of it. A file that
    // another program shortens meanwhile ends this program by a signal, as with every mapped file.
    let map = unsafe { memmap2::Mmap::map(&file) }.with_context(name)?;
    use_bytes(&map).with_context(name)
}
