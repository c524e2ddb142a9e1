//! The file of kernel images inside the program: machine code of every architecture, PTX, and the sources, each
//! compressed by itself. The build script writes it, `images.rs` reads it.
//!
//! The build script compiles this file too (`#[path]`), so it uses nothing of the crate.
//!
//! Layout: lines of text, an empty line, then the compressed images one after the other.
//! ```text
//! epicker kernels 1
//! compiler NVRTC 12.9.86
//! cubin 80 conv 41230 201344        form, architecture, file, bytes compressed, bytes
//!
//! ...
//! ```

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Machine code for one architecture and later ones of the same major version.
    Cubin,
    /// PTX text, which the driver compiles for any later architecture.
    Ptx,
    /// The source of a kernel file.
    Source,
    /// A header that the sources include.
    Header,
}

const FORMS: [(Form, &str); 4] = [(Form::Cubin, "cubin"), (Form::Ptx, "ptx"), (Form::Source, "source"), (Form::Header, "header")];
const FIRST_LINE: &str = "epicker kernels 1";

/// One image, still compressed.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// What it is.
    pub form: Form,
    /// The architecture: 80 for `sm_80`; 0 for sources and headers.
    pub arch: u32,
    /// File name without its folder; sources without `.cu`.
    pub file: &'a str,
    /// Length when unpacked, bytes.
    pub length: usize,
    compressed: &'a [u8],
}

impl<'a> Image<'a> {
    /// The image as it lies in the file.
    pub fn compressed(&self) -> &'a [u8] {
        self.compressed
    }

    /// The image's bytes.
    ///
    /// Errors: they do not unpack to the stated length.
    pub fn unpack(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.length);
        let limit = self.length as u64 + 1;
        let what = || format!("kernel image {} of {}", self.file, self.arch);
        flate2::read::ZlibDecoder::new(self.compressed).take(limit).read_to_end(&mut bytes).with_context(what)?;
        ensure!(bytes.len() == self.length, "{}: {} bytes; expected {}", what(), bytes.len(), self.length);
        Ok(bytes)
    }
}

/// The oldest version of PTX that has what kernels for an architecture use; None where only the compiler's own will do.
///
/// Compilers stamp PTX with their own release, and drivers refuse what is newer than they are, though nothing of it is
/// used. Source: NVIDIA, PTX ISA, release notes: 6.4 has every instruction of kernels for 7.5 and below, 7.0 those for
/// 8.0, and each later architecture has a version that brought it.
pub fn oldest_ptx_version(arch: u32) -> Option<&'static str> {
    match arch {
        ..=75 => Some("6.4"),
        76..=80 => Some("7.0"),
        81..=86 => Some("7.1"),
        87..=90 => Some("7.8"),
        _ => None,
    }
}

/// Compresses one image's bytes.
pub fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// Puts compressed images together. An image is (form, architecture, file, length, compressed bytes).
pub fn write(compiler: &str, images: &[(Form, u32, String, usize, Vec<u8>)]) -> Vec<u8> {
    let mut text = format!("{FIRST_LINE}\ncompiler {compiler}\n");
    for (form, arch, file, length, compressed) in images {
        let word = FORMS.iter().find(|(known, _)| known == form).map_or("", |(_, word)| word);
        text.push_str(&format!("{word} {arch} {file} {} {length}\n", compressed.len()));
    }
    text.push('\n');
    let mut bytes = text.into_bytes();
    for (.., compressed) in images {
        bytes.extend_from_slice(compressed);
    }
    bytes
}

/// Takes a packed file apart: the compiler's name (empty where there was none) and the images in their order.
///
/// Errors: it is not such a file, or is cut off.
pub fn read(bytes: &[u8]) -> Result<(&str, Vec<Image<'_>>)> {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n").context("kernel images: the list has no end")?;
    let text = std::str::from_utf8(&bytes[..end]).context("kernel images: the list is not text")?;
    let mut rest = &bytes[end + 2..];
    let mut lines = text.lines();
    ensure!(lines.next() == Some(FIRST_LINE), "kernel images: does not begin with `{FIRST_LINE}`");
    let compiler = lines.next().and_then(|line| line.strip_prefix("compiler")).context("kernel images: no line `compiler`")?.trim();
    let mut images = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split(' ').collect();
        let [word, arch, file, packed, length] = fields[..] else { bail!("kernel images, `{line}`: expected five words") };
        let number = |text: &str| text.parse::<usize>().with_context(|| format!("kernel images, `{line}`: `{text}` is no number"));
        let (form, _) = FORMS.iter().find(|(_, known)| *known == word).with_context(|| format!("kernel images, `{line}`: unknown form"))?;
        let (compressed, behind) = rest
            .split_at_checked(number(packed)?)
            .with_context(|| format!("kernel images, `{line}`: only {} bytes are left", rest.len()))?;
        rest = behind;
        let arch = u32::try_from(number(arch)?).with_context(|| format!("kernel images, `{line}`: no architecture"))?;
        images.push(Image { form: *form, arch, file, length: number(length)?, compressed });
    }
    ensure!(rest.is_empty(), "kernel images: {} bytes behind the last image", rest.len());
    Ok((compiler, images))
}
