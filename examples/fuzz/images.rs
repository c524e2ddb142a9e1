//! Targets: micrographs.

use crate::Target;
use epicker::formats::detect;

/// The image readers.
pub const TARGETS: &[Target] = &[Target { name: "image_magic", run: image_magic, seeds: magic_seeds, text: false, memory_factor: 64 }];

fn image_magic(bytes: &[u8]) {
    let _ = detect::image_format(bytes);
}

fn magic_seeds() -> Vec<Vec<u8>> {
    [&b"\x1f\x8b\x08\0"[..], b"BZh9", b"II*\0", b"MM\0*", b"\x89PNG\r\n\x1a\n", b"\0\0\0\x03\0\0\0\0\0\0\0\x01\x01\0", b"data_\n"]
        .iter()
        .map(|magic| {
            let mut bytes = magic.to_vec();
            bytes.resize(1024, 0);
            bytes
        })
        .collect()
}
