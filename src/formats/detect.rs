//! Which format these bytes are: decided by content, never by the name.
//!
//! Images first: every image format but MRC has magic bytes; MRC has the letters `MAP` at byte 208, or nothing.
//! Source: docs/formats.md, "Micrographs".

/// What the first bytes of a file say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// `MAP` at byte 208.
    Mrc,
    /// PNG.
    Png,
    /// TIFF or BigTIFF.
    Tiff,
    /// A gzip stream; what is inside is not known yet.
    Gzip,
    /// A bzip2 stream; what is inside is not known yet.
    Bzip2,
    /// A known format that is not read: its name, and what to do about it.
    Refused(&'static str, &'static str),
    /// Text: coordinates, a list, a pointer.
    Text,
    /// No magic: an MRC file of before 2000, or anything.
    Unknown,
}

/// Bytes that are enough for `image_format`: the length of an MRC header.
pub const HEAD_LEN: usize = 1024;

const TO_MRC: &str = "convert it to MRC or TIFF, for example with EMAN2's e2proc2d.py";

/// The format of a file that starts with `head` (its first 1024 bytes, or all of them if it is shorter).
pub fn image_format(head: &[u8]) -> ImageFormat {
    // An MRC header may begin with any bytes: NX = 35615 is gzip's magic. So its own tag goes first.
    if head.get(208..211) == Some(b"MAP") {
        return ImageFormat::Mrc;
    }
    let is = |magic: &[u8]| head.starts_with(magic);
    if is(b"\x89PNG\r\n\x1a\n") {
        ImageFormat::Png
    } else if is(b"II*\0") || is(b"MM\0*") || is(b"II+\0") || is(b"MM\0+") {
        ImageFormat::Tiff
    } else if is(b"\x1f\x8b\x08") {
        ImageFormat::Gzip
    } else if is(b"BZh") && head.get(3).is_some_and(u8::is_ascii_digit) {
        ImageFormat::Bzip2
    } else if is(b"\xfd7zXZ\0") {
        ImageFormat::Refused("xz-compressed", "unpack it first: xz -d FILE")
    } else if is(b"\x28\xb5\x2f\xfd") {
        ImageFormat::Refused("Zstandard-compressed", "unpack it first: zstd -d FILE")
    } else if is(b"PK\x03\x04") {
        ImageFormat::Refused("a zip archive (a PyTorch model is one too)", "give the micrograph itself")
    } else if is(b"\x89HDF") {
        ImageFormat::Refused("HDF5 (EMAN2 .hdf)", "convert it to MRC with e2proc2d.py")
    } else if is(b"\x93NUMPY") {
        ImageFormat::Refused("NumPy (.npy, cryoSPARC .cs)", "give the micrograph itself")
    } else if is(b"\xff\xd8\xff") {
        ImageFormat::Refused("JPEG", "its losses harm picking: use the original, or convert it to PNG")
    } else if is(b"GIF8") {
        ImageFormat::Refused("GIF", TO_MRC)
    } else if is_dm(head) {
        ImageFormat::Refused("Digital Micrograph (DM3/DM4)", "convert it to MRC with IMOD's dm2mrc or EMAN2's e2proc2d.py")
    } else if is_text(head) {
        ImageFormat::Text
    } else {
        ImageFormat::Unknown
    }
}

/// DM3/DM4: version 3 or 4 big-endian, and a byte-order flag of 0 or 1 behind the file length (4 or 8 bytes).
/// A big-endian MRC image 3 or 4 pixels wide begins alike, but has more than 1 section or mode there only by chance.
fn is_dm(head: &[u8]) -> bool {
    let flag_at = match head.get(..4) {
        Some([0, 0, 0, 3]) => 8,
        Some([0, 0, 0, 4]) => 12,
        _ => return false,
    };
    // The first tag directory follows: sorted and open flags, each 0 or 1.
    matches!(head.get(flag_at..flag_at + 6), Some([0, 0, 0, 0 | 1, 0 | 1, 0 | 1]))
}

/// True if all bytes are printable or white space. An MRC header always holds zero bytes: its sizes are below 2^24.
fn is_text(head: &[u8]) -> bool {
    !head.is_empty() && head.iter().all(|&byte| byte >= 0x20 && byte != 0x7f || matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c))
}
