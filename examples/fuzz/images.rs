//! Targets: micrographs.

#[path = "../../tests/common/image_files.rs"]
pub mod image_files;

use crate::Target;
use epicker::formats::detect;
use epicker::formats::image::{FileBytes, ReadOptions, Sections, info_of_bytes, read_bytes};
use image_files::{Layout, Mrc, TiffPage, bzip2, compressed_tiff, gzip, png, tiff};
use std::sync::Arc;

/// The image readers. Compressed images may take as much memory as their compression can give: deflate 1032 bytes for one
/// (twice that while a buffer grows, and four times for colours of one byte that become floats), LZW 1400; bzip2 is
/// without bound in theory (a block of 900 kB of one value takes some 40 bytes).
pub const TARGETS: &[Target] = &[
    Target { name: "image_magic", run: image_magic, seeds: magic_seeds, text: false, memory_factor: 64 },
    Target { name: "mrc", run: read, seeds: mrc_seeds, text: false, memory_factor: 64 },
    Target {
        name: "mrc_gzip",
        run: read,
        seeds: || mrc_seeds().iter().map(|bytes| gzip(bytes)).collect(),
        text: false,
        memory_factor: 2064,
    },
    Target {
        name: "mrc_bzip2",
        run: read,
        seeds: || mrc_seeds().iter().map(|bytes| bzip2(bytes)).collect(),
        text: false,
        memory_factor: 50_000,
    },
    Target { name: "png", run: read_png, seeds: png_seeds, text: false, memory_factor: 4128 },
    Target { name: "tiff", run: read, seeds: tiff_seeds, text: false, memory_factor: 2800 },
];

/// Reads with options that depend on the length, so that all are met and every run is the same.
fn read(bytes: &[u8]) {
    let sections = [Sections::Mean, Sections::First, Sections::Refuse, Sections::One(1)][bytes.len() % 4];
    let options = ReadOptions { sections, tiff_top_down: bytes.len() % 2 == 1, ..ReadOptions::default() };
    let bytes = Arc::new(FileBytes::Owned(bytes.to_vec()));
    let _ = info_of_bytes(&bytes, &options);
    if let Ok(micrograph) = read_bytes(bytes, &options) {
        assert_eq!(micrograph.pixels.len(), micrograph.nx * micrograph.ny);
    }
}

/// Reads as `read` does, but half of the files get correct checksums first; otherwise nearly all would end at the first chunk.
fn read_png(bytes: &[u8]) {
    let mut file = bytes.to_vec();
    if bytes.len().is_multiple_of(2) {
        let mut at = 8;
        while let Some(length) = file.get(at..at + 4) {
            let end = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize + at + 8;
            if end + 4 > file.len() {
                break;
            }
            let checksum = crc32(&file[at + 4..end]);
            file[end..end + 4].copy_from_slice(&checksum.to_be_bytes());
            at = end + 4;
        }
    }
    read(&file);
}

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

fn mrc_seeds() -> Vec<Vec<u8>> {
    let base = Mrc::default();
    let ramp: Vec<u8> = (0..96).map(|i| (i * 37) as u8).collect();
    let mut files = Vec::new();
    for (mode, len) in [(0, 12), (1, 24), (2, 48), (6, 24), (12, 24), (101, 6)] {
        for big_endian in [false, true] {
            let stamp = if big_endian { [0x11, 0x11, 0, 0] } else { base.stamp };
            files.push(Mrc { mode, big_endian, stamp, data: ramp[..len].to_vec(), ..base.clone() });
        }
    }
    files.push(Mrc { nz: 3, mode: 1, data: ramp[..72].to_vec(), ..base.clone() });
    files.push(Mrc { nz: 0, ..base.clone() });
    files.push(Mrc { tag: false, stamp: [0; 4], ..base.clone() });
    files.push(Mrc { mode: 0, imod_flags: Some(1), data: ramp[..12].to_vec(), ..base.clone() });
    files.push(Mrc { mode: 0, nx: 2, imod_flags: Some(16), data: ramp[..6].to_vec(), ..base.clone() });
    files.push(Mrc { extended: vec![7; 80], exttyp: *b"CCP4", ..base.clone() });
    files.push(Mrc { extended: vec![0x40; 768], exttyp: *b"FEI1", cell: [0.0; 2], ..base.clone() });
    files.push(Mrc { axes: [1, -2, 3], ..base.clone() });
    files.iter().map(Mrc::bytes).collect()
}

fn png_seeds() -> Vec<Vec<u8>> {
    use ::png::{BitDepth, ColorType};
    let ramp: Vec<u8> = (0..20 * 9 * 8).map(|i| (i * 37 % 251) as u8).collect();
    let kinds = [
        (ColorType::Grayscale, BitDepth::Eight, 1),
        (ColorType::Grayscale, BitDepth::Sixteen, 2),
        (ColorType::GrayscaleAlpha, BitDepth::Eight, 2),
        (ColorType::Rgb, BitDepth::Eight, 3),
        (ColorType::Rgb, BitDepth::Sixteen, 6),
        (ColorType::Rgba, BitDepth::Eight, 4),
        (ColorType::Indexed, BitDepth::Eight, 1),
    ];
    let mut files: Vec<Vec<u8>> = kinds.iter().map(|&(colour, depth, bytes)| png(20, 9, colour, depth, &ramp[..20 * 9 * bytes])).collect();
    files.push(png(20, 9, ColorType::Grayscale, BitDepth::Four, &ramp[..10 * 9]));
    files.push(png(20, 9, ColorType::Grayscale, BitDepth::Two, &ramp[..5 * 9]));
    // The header says that the data are interlaced, but they are not: the first passes decode, and then the data end.
    let mut interlaced = files[0].clone();
    interlaced[28] = 1;
    let checksum = crc32(&interlaced[12..29]);
    interlaced[29..33].copy_from_slice(&checksum.to_be_bytes());
    files.push(interlaced);
    files
}

/// The checksum of a PNG chunk. Source: PNG specification (ISO/IEC 15948), annex D.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())))
}

fn tiff_seeds() -> Vec<Vec<u8>> {
    let ramp: Vec<u8> = (0..40 * 21 * 8).map(|i| (i * 37 % 251) as u8).collect();
    let page = |bits: u16, sample_format: u16, layout: Layout| TiffPage {
        nx: 40,
        ny: 21,
        bits,
        sample_format,
        photometric: 1,
        compression: 1,
        layout,
        resolution: Some((50_000_000, 3)),
        data: ramp[..40 * 21 * usize::from(bits) / 8].to_vec(),
    };
    let mut files = Vec::new();
    for (bits, format) in [(8, 1), (8, 2), (16, 1), (16, 2), (32, 1), (32, 3), (64, 3)] {
        files.push(tiff(&[page(bits, format, Layout::Strips(8))], false, false));
    }
    files.push(tiff(&[page(16, 1, Layout::Strips(21))], true, false));
    files.push(tiff(&[page(16, 1, Layout::Tiles(16))], false, false));
    files.push(tiff(&[page(8, 1, Layout::Tiles(32))], true, true));
    files.push(tiff(&[page(32, 3, Layout::Strips(8)), page(32, 3, Layout::Strips(8))], false, true));
    files.push(tiff(&[TiffPage { photometric: 0, ..page(8, 1, Layout::Strips(8)) }], false, false));
    use ::tiff::encoder::Compression;
    for compression in [Compression::Lzw, Compression::Packbits, Compression::Deflate(Default::default())] {
        files.push(compressed_tiff(40, 21, &ramp[..40 * 21], compression));
    }
    files
}
