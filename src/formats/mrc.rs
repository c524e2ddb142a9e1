//! MRC / CCP4 images: all pixel types that micrographs come in, both byte orders, plain or compressed.
//!
//! The header has 1024 bytes, and an extended header of NSYMBT bytes may follow. Then come NX * NY * NZ pixels, beginning with
//! the first row. Nothing is flipped. Source: docs/formats.md, "MRC"; www.ccpem.ac.uk/mrc_format/mrc2014.php.

use crate::formats::detect::{ImageFormat, image_format};
use crate::formats::image::{
    FileBytes, ImageInfo, Micrograph, Mode0, Orientation, Pixels, ReadOptions, Samples, SectionMean, Sections, believable_pixel_size,
    judge_sections,
};
use anyhow::{Result, anyhow, bail, ensure};
use std::io::Read;
use std::sync::Arc;

/// Length of the main header in bytes.
pub const HEADER_LEN: usize = 1024;

const LARGEST_SIDE: i32 = 131_072;
const MOST_SECTIONS: i32 = 1_000_000;
const KNOWN_MODES: [i32; 9] = [0, 1, 2, 3, 4, 6, 12, 16, 101];
/// As many bytes after the last pixel are normal, because some programs fill the last block.
const SURPLUS_WITHOUT_WARNING: u64 = 4096;
/// A section of a compressed file has to fit into memory whole. A file with larger sections can be mapped after it has been
/// unpacked.
const LARGEST_COMPRESSED_SECTION: u64 = 4 << 30;
/// Only this part of an extended header is looked at: one FEI record.
const FEI_RECORD: usize = 768;

/// How one pixel is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    I8,
    U8,
    I16,
    U16,
    F16,
    F32,
    /// Two pixels in a byte, the left one in the low half.
    Nibbles,
}

/// What the header says, checked.
#[derive(Debug)]
struct Header {
    nx: usize,
    ny: usize,
    /// 0 means that the number of sections is to be derived from the length of the file.
    nz: usize,
    stored: Stored,
    /// True if only MRC2014's rule says whether bytes are signed. That is worth a warning if any byte is 128 or more.
    sign_guessed: bool,
    big_endian: bool,
    has_tag: bool,
    extended_len: u64,
    volume: bool,
    pixel_size_angstrom: Option<f64>,
    warnings: Vec<String>,
}

/// Reads an uncompressed MRC file.
///
/// Errors: not MRC, cut off, or a mode that is no micrograph.
pub fn read(bytes: &Arc<FileBytes>, options: &ReadOptions) -> Result<Micrograph> {
    let mut header = parse(bytes, Some(bytes.len() as u64), options)?;
    let section_len = header.section_len() as usize; // fits: `check_length` compared it with the file's length
    header.nz = header.check_length(bytes.len() as u64)?;
    let note = judge_sections(header.nz, header.noun(), options.sections)?;
    let start = HEADER_LEN + header.extended_len as usize;
    let section = |index: usize| header.pixels(bytes, start + index * section_len);
    let pixels = match options.sections {
        Sections::Mean if header.nz > 1 => {
            let mut mean = SectionMean::default();
            (0..header.nz).for_each(|index| mean.add(&section(index)));
            mean.finish()
        }
        Sections::One(index) => section(index),
        _ => section(0),
    };
    Ok(header.micrograph(pixels, note))
}

/// Reads a gzip-compressed MRC file, a section at a time.
///
/// Errors: as `read`; the data are damaged; a section is larger than 4 GiB.
pub fn read_gzip(bytes: &FileBytes, options: &ReadOptions) -> Result<Micrograph> {
    read_stream(flate2::read::MultiGzDecoder::new(&bytes[..]), options)
}

/// Reads a bzip2-compressed MRC file, a section at a time.
///
/// Errors: as `read_gzip`.
pub fn read_bzip2(bytes: &FileBytes, options: &ReadOptions) -> Result<Micrograph> {
    read_stream(bzip2::read::MultiBzDecoder::new(&bytes[..]), options)
}

/// What the header of an uncompressed file says.
///
/// Errors: as `read`.
pub fn info(bytes: &[u8], options: &ReadOptions) -> Result<ImageInfo> {
    let mut header = parse(bytes, Some(bytes.len() as u64), options)?;
    header.nz = header.check_length(bytes.len() as u64)?;
    Ok(header.info("MRC"))
}

/// What the header of a gzip-compressed file says.
///
/// Errors: as `read_gzip`, as far as the header shows it.
pub fn info_gzip(bytes: &[u8], options: &ReadOptions) -> Result<ImageInfo> {
    Ok(stream_header(&mut flate2::read::MultiGzDecoder::new(bytes), options)?.info("MRC (gzip)"))
}

/// What the header of a bzip2-compressed file says.
///
/// Errors: as `read_bzip2`, as far as the header shows it.
pub fn info_bzip2(bytes: &[u8], options: &ReadOptions) -> Result<ImageInfo> {
    Ok(stream_header(&mut bzip2::read::MultiBzDecoder::new(bytes), options)?.info("MRC (bzip2)"))
}

/// Reads the numbers of a header in one byte order.
#[derive(Clone, Copy)]
struct Fields<'a> {
    head: &'a [u8],
    big_endian: bool,
}

impl Fields<'_> {
    fn bytes<const N: usize>(self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        if let Some(found) = self.head.get(at..at + N) {
            bytes.copy_from_slice(found);
        }
        if self.big_endian {
            bytes.reverse();
        }
        bytes
    }

    fn i32(self, at: usize) -> i32 {
        i32::from_le_bytes(self.bytes(at))
    }

    fn f32(self, at: usize) -> f32 {
        f32::from_le_bytes(self.bytes(at))
    }

    fn f64(self, at: usize) -> f64 {
        f64::from_le_bytes(self.bytes(at))
    }

    fn axes(self) -> [i32; 3] {
        [self.i32(64), self.i32(68), self.i32(72)]
    }

    fn sizes_plausible(self) -> bool {
        let [nx, ny, nz] = [self.i32(0), self.i32(4), self.i32(8)];
        (1..=LARGEST_SIDE).contains(&nx) && (1..=LARGEST_SIDE).contains(&ny) && (0..=MOST_SECTIONS).contains(&nz)
    }

    fn plausible(self, file_len: Option<u64>) -> bool {
        let extended_len = self.i32(92);
        self.sizes_plausible()
            && KNOWN_MODES.contains(&self.i32(12))
            && extended_len >= 0
            && file_len.is_none_or(|len| (extended_len as u64) < len)
            && self.axes().iter().all(|&axis| (0..=3).contains(&axis) || axis == -2)
    }
}

/// Reads the header and the first record of the extended header, if there is one. The length of the file is not known inside a
/// compressed stream.
fn parse(bytes: &[u8], file_len: Option<u64>, options: &ReadOptions) -> Result<Header> {
    ensure!(
        bytes.len() >= HEADER_LEN,
        "header: the file has {} bytes; expected at least {HEADER_LEN}, the length of an MRC header; it is cut off or no micrograph",
        bytes.len()
    );
    let mut warnings = Vec::new();
    let fields = byte_order(bytes, file_len, &mut warnings)?;
    match fields.axes() {
        [1, 2, 3] | [0, 0, 0] => {}
        [1, -2, 3] => warnings.push("the header marks the rows as upside down (MAPR = -2); they are kept in file order".to_owned()),
        [2, 1, 3] => bail!(
            "bytes 64-75: transposed axes (MAPC MAPR MAPS = 2 1 3); expected 1 2 3; rewrite the file, for example with IMOD's newstack"
        ),
        [c, r, s] => bail!("bytes 64-75: axes {c} {r} {s}; expected 1 2 3; a map whose axes are permuted is no micrograph"),
    }
    let [mut nx, ny, nz] = [fields.i32(0), fields.i32(4), fields.i32(8)].map(|size| size as usize);
    let imod_flags = if fields.i32(152) == i32::from_le_bytes(*b"IMOD") { Some(fields.i32(156)) } else { None };
    let mut sign_guessed = false;
    let mut halved_in_header = false;
    let stored = match fields.i32(12) {
        0 if imod_flags.is_some_and(|flags| flags & 16 != 0) => {
            nx *= 2;
            halved_in_header = true;
            Stored::Nibbles
        }
        0 => match options.mode0 {
            Mode0::Signed => Stored::I8,
            Mode0::Unsigned => Stored::U8,
            Mode0::Auto => {
                let signed = imod_flags.map(|flags| flags & 1 != 0).or_else(|| sign_by_statistics(fields));
                sign_guessed = signed.is_none();
                if signed.unwrap_or(true) { Stored::I8 } else { Stored::U8 }
            }
        },
        1 => Stored::I16,
        2 => Stored::F32,
        6 => Stored::U16,
        12 => Stored::F16,
        101 => {
            ensure!(
                nx.is_multiple_of(2),
                "bytes 0-3: {nx} columns of 4 bits; expected an even number, as the padding of odd rows differs between programs; unpack the file"
            );
            Stored::Nibbles
        }
        mode @ (3 | 4) => bail!(
            "bytes 12-15: mode {mode} is a Fourier transform, not an image; expected mode 0, 1, 2, 6, 12 or 101; give the micrograph itself"
        ),
        _ => bail!("bytes 12-15: mode 16 is a colour image; expected mode 0, 1, 2, 6, 12 or 101; give the micrograph itself"),
    };
    let [mz, ispg] = [fields.i32(36), fields.i32(88)];
    let mut header = Header {
        nx,
        ny,
        nz,
        stored,
        sign_guessed,
        big_endian: fields.big_endian,
        has_tag: has_tag(bytes),
        extended_len: fields.i32(92) as u64,
        volume: (ispg == 1 && mz > 1 && mz as usize == nz) || (401..=630).contains(&ispg),
        pixel_size_angstrom: None,
        warnings,
    };
    header.pixel_size_angstrom = header.pixel_size(fields, halved_in_header);
    Ok(header)
}

fn has_tag(bytes: &[u8]) -> bool {
    bytes.get(208..211) == Some(b"MAP")
}

/// The byte order that the machine stamp names, if the header makes sense in that order; else the order in which it makes
/// sense.
fn byte_order<'a>(head: &'a [u8], file_len: Option<u64>, warnings: &mut Vec<String>) -> Result<Fields<'a>> {
    let [little, big] = [false, true].map(|big_endian| Fields { head, big_endian });
    let stamped = match (head[212], head[213]) {
        (0x44, 0x44 | 0x41) => Some(little),
        (0x11, 0x11) => Some(big),
        _ => None,
    };
    if let Some(fields) = stamped.filter(|fields| fields.plausible(file_len)) {
        return Ok(fields);
    }
    for fields in [little, big] {
        if fields.plausible(file_len) {
            if has_tag(head) && head[212..216] != [0; 4] {
                warnings.push(format!(
                    "machine stamp {:02x} {:02x} {:02x} {:02x} does not fit; the header makes sense as {}-endian",
                    head[212],
                    head[213],
                    head[214],
                    head[215],
                    if fields.big_endian { "big" } else { "little" }
                ));
            }
            return Ok(fields);
        }
    }
    ensure!(
        has_tag(head),
        "header: not an MRC file (neither byte order gives sizes and a mode that make sense); expected MRC, TIFF or PNG; check the file"
    );
    let fields = stamped.unwrap_or(little);
    let mode = fields.i32(12);
    ensure!(
        KNOWN_MODES.contains(&mode),
        "bytes 12-15: mode is {mode} ({} in the other byte order); expected 0, 1, 2, 6, 12 or 101; convert the file",
        mode.swap_bytes()
    );
    ensure!(
        fields.sizes_plausible(),
        "bytes 0-11: {} columns, {} rows, {} sections; expected 1 to {LARGEST_SIDE} columns and rows; the header is damaged",
        fields.i32(0),
        fields.i32(4),
        fields.i32(8)
    );
    let [c, r, s] = fields.axes();
    ensure!(
        !(0..=file_len.unwrap_or(u64::MAX) as i128).contains(&i128::from(fields.i32(92))),
        "bytes 64-75: axes {c} {r} {s}; expected 1 2 3; the header is damaged"
    );
    Err(anyhow!("bytes 92-95: the extended header has {} bytes; expected less than the file; the header is damaged", fields.i32(92)))
}

/// Whether bytes are signed, judged as IMOD does by the header's minimum and maximum; `None` if these fit both or are not set.
fn sign_by_statistics(fields: Fields<'_>) -> Option<bool> {
    let (min, max) = (fields.f32(76), fields.f32(80));
    if !(min.is_finite() && max.is_finite()) || max < min || (min == 0.0 && max == 0.0) {
        return None;
    }
    match (min < 0.0, max < 128.0) {
        (true, true) => Some(true),
        (false, false) => Some(false),
        (true, false) => Some(-min > max - 128.0),
        (false, true) => None,
    }
}

impl Header {
    fn noun(&self) -> &'static str {
        if self.volume { "volume" } else { "stack" }
    }

    fn section_len(&self) -> u64 {
        let pixels = self.nx as u64 * self.ny as u64;
        match self.stored {
            Stored::Nibbles => pixels / 2,
            Stored::I8 | Stored::U8 => pixels,
            Stored::I16 | Stored::U16 | Stored::F16 => pixels * 2,
            Stored::F32 => pixels * 4,
        }
    }

    /// The pixel size: the cell length divided by the grid size. Where the header has none, the record of an FEI microscope may
    /// state it.
    fn pixel_size(&mut self, fields: Fields<'_>, halved_in_header: bool) -> Option<f64> {
        let along = |cell_at: usize, grid_at: usize| {
            let (cell, grid) = (f64::from(fields.f32(cell_at)), fields.i32(grid_at));
            if grid > 0 { believable_pixel_size(cell / f64::from(grid)) } else { None }
        };
        // If pixels are packed, the columns of the header are pairs of pixels, and nothing says whether the grid in x counts
        // pixels or pairs. So only y is used.
        let (x, y) = if halved_in_header { (along(44, 32), None) } else { (along(40, 28), along(44, 32)) };
        if let (Some(x), Some(y)) = (x, y)
            && (x - y).abs() > 0.01 * x
        {
            self.warnings.push(format!("pixel size {x:.4} angstrom in x, but {y:.4} in y; that of x is used; check with --angpix"));
        }
        x.or_else(|| self.fei_pixel_size(fields))
    }

    /// FEI1 and FEI2 records hold the pixel size in metres at byte 156, valid if bit 14 of the mask at byte 8 is set.
    fn fei_pixel_size(&self, fields: Fields<'_>) -> Option<f64> {
        let is_fei = matches!(fields.head.get(104..108), Some(b"FEI1" | b"FEI2"));
        if !is_fei || self.extended_len < FEI_RECORD as u64 || fields.head.len() < HEADER_LEN + FEI_RECORD {
            return None;
        }
        let valid = fields.i32(HEADER_LEN + 8) & (1 << 14) != 0;
        if valid { believable_pixel_size(fields.f64(HEADER_LEN + 156) * 1e10) } else { None }
    }

    /// Compares the file's length with what the header promises, and returns the number of sections.
    fn check_length(&mut self, file_len: u64) -> Result<usize> {
        let section = self.section_len();
        let start = HEADER_LEN as u64 + self.extended_len;
        let mut nz = self.nz as u64;
        if nz == 0 {
            nz = file_len.saturating_sub(start) / section;
            self.warnings.push(format!("the header names no sections (NZ = 0); the length fits {nz}"));
            nz = nz.clamp(1, MOST_SECTIONS as u64);
        }
        let need = start + section * nz;
        ensure!(
            file_len >= need,
            "header: truncated: the file has {file_len} of {need} bytes ({:.1} %); copy it again",
            100.0 * file_len as f64 / need as f64
        );
        self.judge_surplus(file_len - need)?;
        Ok(nz as usize)
    }

    fn judge_surplus(&mut self, surplus: u64) -> Result<()> {
        ensure!(
            self.has_tag || surplus == 0,
            "header: not an MRC file (no MAP tag at byte 208, and the length does not fit the sizes); expected MRC, TIFF or PNG; check the file"
        );
        if surplus > SURPLUS_WITHOUT_WARNING {
            self.warnings.push("more bytes follow the pixels than the header accounts for; they are ignored".to_owned());
        }
        Ok(())
    }

    /// The section that starts at this byte; its length has been checked.
    fn pixels(&self, bytes: &Arc<FileBytes>, start: usize) -> Pixels {
        let len = self.nx * self.ny;
        let swap = self.big_endian != cfg!(target_endian = "big");
        match self.stored {
            Stored::I8 => Pixels::I8(Samples::from_bytes(bytes, start, len, false)),
            Stored::U8 => Pixels::U8(Samples::from_bytes(bytes, start, len, false)),
            Stored::I16 => Pixels::I16(Samples::from_bytes(bytes, start, len, swap)),
            Stored::U16 => Pixels::U16(Samples::from_bytes(bytes, start, len, swap)),
            Stored::F16 => Pixels::F16(Samples::from_bytes(bytes, start, len, swap)),
            Stored::F32 => Pixels::F32(Samples::from_bytes(bytes, start, len, swap)),
            Stored::Nibbles => {
                let packed = bytes.get(start..start + len / 2).unwrap_or_default();
                Pixels::U8(packed.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect::<Vec<u8>>().into())
            }
        }
    }

    fn micrograph(mut self, pixels: Pixels, note: Option<String>) -> Micrograph {
        if self.sign_guessed
            && let Pixels::I8(values) = &pixels
            && values.iter().any(|&value| value < 0)
        {
            self.warnings.push(
                "bytes of 128 and more, and the header does not say whether they are signed; read as signed; check with --mode0 signed|unsigned"
                    .to_owned(),
            );
        }
        self.warnings.extend(note);
        Micrograph {
            nx: self.nx,
            ny: self.ny,
            sections: self.nz,
            pixels,
            pixel_size_angstrom: self.pixel_size_angstrom,
            orientation: Orientation::Array,
            warnings: self.warnings,
        }
    }

    fn info(&self, format: &'static str) -> ImageInfo {
        ImageInfo {
            format,
            nx: self.nx,
            ny: self.ny,
            sections: self.nz,
            pixel_size_angstrom: self.pixel_size_angstrom,
            orientation: Orientation::Array,
        }
    }
}

/// Reads the header of a compressed stream and goes to the first pixel.
fn stream_header(stream: &mut impl Read, options: &ReadOptions) -> Result<Header> {
    let mut head = Vec::new();
    read_up_to(stream, HEADER_LEN as u64, &mut head)?;
    if let ImageFormat::Png | ImageFormat::Tiff | ImageFormat::Text | ImageFormat::Refused(..) = image_format(&head) {
        bail!("compressed data: not an MRC file inside; expected MRC; unpack the file and give what it holds");
    }
    let extended_len = parse(&head, None, options)?.extended_len;
    read_up_to(stream, extended_len.min(FEI_RECORD as u64), &mut head)?;
    let header = parse(&head, None, options)?;
    let skip = extended_len.saturating_sub(FEI_RECORD as u64);
    let skipped = std::io::copy(&mut stream.take(skip), &mut std::io::sink()).map_err(damaged)?;
    ensure!(skipped == skip && head.len() as u64 >= HEADER_LEN as u64 + extended_len.min(FEI_RECORD as u64), truncated(&header, 0));
    ensure!(header.nz > 0, "bytes 8-11: no sections (NZ = 0); expected at least 1 in a compressed file; unpack it");
    ensure!(
        header.section_len() <= LARGEST_COMPRESSED_SECTION,
        "bytes 0-11: a section of {} x {} pixels; expected at most 4 GiB in a compressed file; unpack it",
        header.nx,
        header.ny
    );
    Ok(header)
}

fn read_stream(mut stream: impl Read, options: &ReadOptions) -> Result<Micrograph> {
    let mut header = stream_header(&mut stream, options)?;
    let note = judge_sections(header.nz, header.noun(), options.sections)?;
    let wanted = match options.sections {
        Sections::Mean => 0..header.nz,
        Sections::One(index) => index..index + 1,
        _ => 0..1,
    };
    let section_len = header.section_len();
    let mut mean = SectionMean::default();
    let mut only = None;
    // All sections are read, even those that are not wanted, because otherwise a file that is cut off or has a wrong checksum
    // would go unnoticed.
    for index in 0..header.nz {
        let got = if wanted.contains(&index) {
            let mut bytes = Vec::new();
            let got = read_up_to(&mut stream, section_len, &mut bytes)?;
            if got == section_len {
                let pixels = header.pixels(&Arc::new(FileBytes::Owned(bytes)), 0);
                if wanted.len() > 1 { mean.add(&pixels) } else { only = Some(pixels) }
            }
            got
        } else {
            std::io::copy(&mut (&mut stream).take(section_len), &mut std::io::sink()).map_err(damaged)?
        };
        ensure!(got == section_len, truncated(&header, index as u64 * section_len + got));
    }
    let surplus = std::io::copy(&mut (&mut stream).take(SURPLUS_WITHOUT_WARNING + 1), &mut std::io::sink()).map_err(damaged)?;
    header.judge_surplus(surplus)?;
    let pixels = only.unwrap_or_else(|| mean.finish());
    Ok(header.micrograph(pixels, note))
}

/// Appends up to `len` bytes; the buffer grows with what really comes, not with what was promised.
fn read_up_to(stream: &mut impl Read, len: u64, out: &mut Vec<u8>) -> Result<u64> {
    let got = stream.take(len).read_to_end(out).map_err(damaged)?;
    Ok(got as u64)
}

fn damaged(error: std::io::Error) -> anyhow::Error {
    anyhow!("compressed data: {error}; expected a whole file; copy it again")
}

fn truncated(header: &Header, pixel_bytes: u64) -> String {
    let need = header.section_len() * header.nz as u64;
    format!("compressed data: truncated: {pixel_bytes} of {need} bytes of pixels are there; copy the file again")
}
