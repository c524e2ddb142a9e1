//! Micrographs as TIFF or BigTIFF: grey, one sample per pixel, in strips or tiles.
//!
//! The last row of the file becomes row 0, whatever the Orientation tag says. RELION, IMOD, EMAN2 and MotionCor2 read it so
//! too, and coordinates fit theirs. This file reads the directories itself, because a file that must be refused has to be known
//! before anything is decoded; the `tiff` crate decodes the pixels. Source: docs/formats.md, "TIFF"; TIFF 6.0 (Adobe, 1992).

use crate::formats::image::{
    ImageInfo, Micrograph, Orientation, Pixels, ReadOptions, SectionMean, Sections, believable_pixel_size, judge_sections,
};
use anyhow::{Result, anyhow, bail, ensure};
use half::f16;
use std::collections::HashSet;
use std::io::{Cursor, Read, Seek, SeekFrom};
use tiff::decoder::{ChunkType, Decoder, DecodingResult, Limits};

const LARGEST_SIDE: u64 = 131_072;
const MOST_PAGES: usize = 1_000_000;
/// Tags above this one are private: they are registered for single programs.
const LAST_PUBLIC_TAG: u64 = 32767;

/// Sizes (and those of the camera turned) of 8-bit files that hold two 4-bit pixels per byte along x: K2 and K3 cameras,
/// plain and super-resolution. Read as bytes they would give a picture of half the width that looks nearly right.
const PACKED_SIZES: [[u64; 2]; 8] =
    [[1919, 3710], [1855, 3838], [3838, 7420], [3710, 7676], [2880, 4092], [2046, 5760], [5760, 8184], [4092, 11520]];

/// Reads a TIFF image; several pages are treated as sections.
///
/// Errors: damaged, not grey, a compression that is not read, or larger than its bytes can hold.
pub fn read(bytes: &[u8], options: &ReadOptions) -> Result<Micrograph> {
    let pages = pages(bytes)?;
    let note = judge_sections(pages.len(), "TIFF", options.sections)?;
    let first = &pages[0];
    let (nx, ny) = (first.nx as usize, first.ny as usize);
    let wanted = match options.sections {
        Sections::Mean => 0..pages.len(),
        Sections::One(index) => index..index + 1,
        _ => 0..1,
    };
    let limits = limits(&pages, wanted.clone(), bytes.len())?;
    let mut patches: Vec<usize> = pages.iter().filter(|page| page.white_is_zero).filter_map(|page| page.photometric_at).collect();
    patches.sort_unstable();
    let source = BlackIsZero { bytes: Cursor::new(bytes), patches, big_endian: bytes.starts_with(b"M") };
    let mut decoder = Decoder::new(source).map_err(|error| broken(0, error))?.with_limits(limits);
    if wanted.start > 0 {
        decoder.seek_to_image(wanted.start).map_err(|error| broken(wanted.start, error))?;
    }
    let mut mean = SectionMean::default();
    let mut only = None;
    for index in wanted.clone() {
        if index > wanted.start {
            decoder.next_image().map_err(|error| broken(index, error))?;
        }
        let page = &pages[index];
        ensure!(
            wanted.len() == 1 || [page.nx, page.ny] == [first.nx, first.ny],
            "page {}: {} x {} pixels; expected {nx} x {ny} as on the first page; give --sections first",
            index + 1,
            page.nx,
            page.ny
        );
        let pixels = decode(&mut decoder, page, index, bytes.len(), !options.tiff_top_down)?;
        if wanted.len() == 1 { only = Some(pixels) } else { mean.add(&pixels) }
    }
    let (nx, ny) = (pages[wanted.start].nx as usize, pages[wanted.start].ny as usize);
    Ok(Micrograph {
        nx,
        ny,
        sections: pages.len(),
        pixels: only.unwrap_or_else(|| mean.finish()),
        pixel_size_angstrom: first.pixel_size_angstrom,
        orientation: orientation(options),
        warnings: note.into_iter().collect(),
    })
}

/// What the directories of a TIFF say.
///
/// Errors: as `read`, as far as the directories show it.
pub fn info(bytes: &[u8], options: &ReadOptions) -> Result<ImageInfo> {
    let pages = pages(bytes)?;
    let first = &pages[0];
    first.check(0, bytes.len())?;
    Ok(ImageInfo {
        format: "TIFF",
        nx: first.nx as usize,
        ny: first.ny as usize,
        sections: pages.len(),
        pixel_size_angstrom: first.pixel_size_angstrom,
        orientation: orientation(options),
    })
}

/// Limits for the decoder: as many bytes as the bytes of the file can become at most. (Padded tiles are stored with their
/// padding, so they stay within this limit too.)
fn limits(pages: &[Page], wanted: std::ops::Range<usize>, file_len: usize) -> Result<Limits> {
    let mut largest = 0;
    for index in wanted {
        pages[index].check(index, file_len)?;
        largest = largest.max(pages[index].compression_ratio(index)?.saturating_mul(file_len as u64));
    }
    let mut limits = Limits::default();
    limits.decoding_buffer_size = largest as usize;
    limits.intermediate_buffer_size = largest as usize;
    limits.ifd_value_size = file_len;
    Ok(limits)
}

fn orientation(options: &ReadOptions) -> Orientation {
    if options.tiff_top_down { Orientation::Array } else { Orientation::TiffFlipped }
}

fn broken(page: usize, error: tiff::TiffError) -> anyhow::Error {
    anyhow!("page {}: {error}; expected a whole grey TIFF; write the file again", page + 1)
}

/// The entries of one directory that matter here.
#[derive(Clone, Debug, Default)]
struct Page {
    nx: u64,
    ny: u64,
    bits: u64,
    samples: u64,
    compression: u64,
    /// Where the two bytes of PhotometricInterpretation lie.
    photometric_at: Option<usize>,
    white_is_zero: bool,
    pixel_size_angstrom: Option<f64>,
}

/// Reads the numbers of a file in its byte order; beyond its end there are none.
#[derive(Clone, Copy)]
struct Fields<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Fields<'_> {
    fn number(self, at: usize, size: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at.checked_add(size)?)?;
        let add = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        Some(if self.big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
    }
}

/// Walks all directories.
fn pages(bytes: &[u8]) -> Result<Vec<Page>> {
    let fields = Fields { bytes, big_endian: bytes.starts_with(b"M") };
    let cut_off = || anyhow!("directory: cut off at byte {}; expected a whole TIFF; copy the file again", bytes.len());
    let big = fields.number(2, 2) == Some(43);
    // Sizes of the count of entries, of an entry, of an offset.
    let (count_len, entry_len, offset_len) = if big { (8, 20, 8) } else { (2, 12, 4) };
    let mut offset = fields.number(if big { 8 } else { 4 }, offset_len).ok_or_else(cut_off)?;
    let mut seen = HashSet::new();
    let mut pages = Vec::new();
    while offset != 0 {
        ensure!(
            seen.insert(offset) && pages.len() < MOST_PAGES,
            "directory: page {} points back; expected a chain of pages; write the file again",
            pages.len()
        );
        let start = usize::try_from(offset).ok().and_then(|start| start.checked_add(count_len)).ok_or_else(cut_off)?;
        let count = fields.number(start - count_len, count_len).ok_or_else(cut_off)?;
        let end = usize::try_from(count).ok().and_then(|count| count.checked_mul(entry_len)).and_then(|len| start.checked_add(len));
        let end = end.filter(|&end| end <= bytes.len()).ok_or_else(cut_off)?;
        pages.push(page(fields, (start..end).step_by(entry_len), offset_len, pages.len())?);
        // Some writers leave out the last link, but the pages before it are good.
        offset = fields.number(end, offset_len).unwrap_or(0);
    }
    ensure!(!pages.is_empty(), "directory: no page; expected one; write the file again");
    Ok(pages)
}

/// Reads one directory. Lists of values must lie within the file: the decoder reserves room for as many as are promised.
fn page(fields: Fields<'_>, entries: impl Iterator<Item = usize>, offset_len: usize, index: usize) -> Result<Page> {
    let mut page = Page { bits: 1, samples: 1, compression: 1, ..Page::default() };
    let mut resolution = None;
    let mut unit = 2; // inch, if the tag is missing
    for at in entries {
        let (Some(tag), Some(kind), Some(count)) = (fields.number(at, 2), fields.number(at + 2, 2), fields.number(at + 4, offset_len))
        else {
            continue;
        };
        let size = match kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 | 17 | 18 => 8,
            _ => continue,
        };
        let inline_at = at + 4 + offset_len;
        let len = count.saturating_mul(size as u64);
        let value_at = if len <= offset_len as u64 { Some(inline_at as u64) } else { fields.number(inline_at, offset_len) };
        let value_at = value_at.filter(|at| at.checked_add(len).is_some_and(|end| end <= fields.bytes.len() as u64));
        let Some(value_at) = value_at else {
            // Private tags may be broken, because nobody reads them here.
            ensure!(
                tag > LAST_PUBLIC_TAG,
                "page {}: tag {tag} promises {count} values; expected what the file holds; it is cut off or damaged",
                index + 1
            );
            continue;
        };
        let value_at = value_at as usize;
        let value = fields.number(value_at, size);
        match (tag, value.filter(|_| matches!(kind, 3 | 4 | 16))) {
            (256, Some(value)) => page.nx = value,
            (257, Some(value)) => page.ny = value,
            (258, Some(value)) => page.bits = value,
            (259, Some(value)) => page.compression = value,
            (262, Some(value)) => {
                page.white_is_zero = value == 0;
                page.photometric_at = (kind == 3).then_some(value_at);
            }
            (277, Some(value)) => page.samples = value,
            (282, _) if kind == 5 => {
                let parts = (fields.number(value_at, 4), value_at.checked_add(4).and_then(|at| fields.number(at, 4)));
                if let (Some(above), Some(below)) = parts {
                    resolution = Some(above as f64 / below as f64);
                }
            }
            (296, Some(value)) => unit = value,
            _ => {}
        }
    }
    let angstrom_per_unit = match unit {
        2 => Some(2.54e8),
        3 => Some(1e8),
        _ => None,
    };
    page.pixel_size_angstrom = resolution.zip(angstrom_per_unit).and_then(|(resolution, unit)| believable_pixel_size(unit / resolution));
    Ok(page)
}

impl Page {
    /// The most bytes that one byte of a strip can become. Refuses compressions that are not read.
    fn compression_ratio(&self, index: usize) -> Result<u64> {
        let page = index + 1;
        Ok(match self.compression {
            1 => 1,
            5 => 1400, // LZW: codes of 12 bits for up to 4096 strings, each one byte longer than the last
            8 | 32946 => 1032,
            32773 => 64,
            65000..=65002 => bail!(
                "page {page}: an EER movie of electron events; expected an image; sum it to MRC, for example with RELION or MotionCor"
            ),
            compression => bail!(
                "page {page}: compression {compression}{}; expected none, LZW, deflate or PackBits; rewrite the file, for example with tiffcp -c lzw",
                match compression {
                    2..=4 => " (fax)",
                    6 | 7 | 34892 => " (JPEG)",
                    50000 => " (Zstandard)",
                    50001 => " (WebP)",
                    _ => "",
                }
            ),
        })
    }

    /// True if `nx` x `ny` pixels can come out of a file of this length.
    fn fits(&self, nx: u64, ny: u64, ratio: u64, file_len: usize) -> bool {
        nx.checked_mul(ny).and_then(|len| len.checked_mul(self.bits / 8)).is_some_and(|len| len / ratio <= file_len as u64)
    }

    /// Refuses pages of a kind that is not read, and pages that are larger than a file of this length can hold.
    fn check(&self, index: usize, file_len: usize) -> Result<()> {
        let page = index + 1;
        let ratio = self.compression_ratio(index)?;
        let [nx, ny] = [self.nx, self.ny];
        ensure!(
            (1..=LARGEST_SIDE).contains(&nx) && (1..=LARGEST_SIDE).contains(&ny),
            "page {page}: {nx} columns, {ny} rows; expected 1 to {LARGEST_SIDE} of each; the file is damaged"
        );
        ensure!(self.samples == 1, "page {page}: {} values per pixel; expected 1 (grey); convert the file", self.samples);
        let packed = self.bits == 4 || (self.bits == 8 && PACKED_SIZES.contains(&[nx, ny]));
        ensure!(
            !packed,
            "page {page}: two 4-bit pixels per byte ({nx} x {ny}); expected whole bytes; unpack it, for example with IMOD's newstack"
        );
        ensure!(
            matches!(self.bits, 8 | 16 | 32 | 64),
            "page {page}: {} bits per pixel; expected 8, 16, 32 or 64; convert the file",
            self.bits
        );
        ensure!(
            self.fits(nx, ny, ratio, file_len),
            "page {page}: {nx} x {ny} pixels of {} bits; expected what {file_len} bytes can hold; the file is cut off or damaged",
            self.bits
        );
        Ok(())
    }
}

/// The file, with every PhotometricInterpretation of 0 (white is zero) read as 1.
///
/// The decoder would invert such pixels itself, but it turns a float v into 1 - v, which costs small values their digits, and
/// it leaves signed integers as they are. Pixels that are inverted after decoding stay exact.
struct BlackIsZero<'a> {
    bytes: Cursor<&'a [u8]>,
    /// Where the 2-byte values of the tag lie, in ascending order.
    patches: Vec<usize>,
    big_endian: bool,
}

impl Read for BlackIsZero<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let start = self.bytes.position();
        let len = self.bytes.read(buffer)?;
        let from = self.patches.partition_point(|&at| (at as u64 + 2) <= start);
        for &at in self.patches[from..].iter().take_while(|&&at| (at as u64) < start + len as u64) {
            let one_at = (at + usize::from(self.big_endian)) as u64;
            if let Some(byte) = one_at.checked_sub(start).and_then(|i| buffer[..len].get_mut(i as usize)) {
                *byte = 1;
            }
        }
        Ok(len)
    }
}

impl Seek for BlackIsZero<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.bytes.seek(to)
    }
}

/// Decodes the current page of the decoder.
fn decode(decoder: &mut Decoder<BlackIsZero<'_>>, page: &Page, index: usize, file_len: usize, flip: bool) -> Result<Pixels> {
    let colour = decoder.colortype().map_err(|error| broken(index, error))?;
    let dimensions = decoder.dimensions().map_err(|error| broken(index, error))?;
    ensure!(
        matches!(colour, tiff::ColorType::Gray(8 | 16 | 32 | 64))
            && (u64::from(dimensions.0), u64::from(dimensions.1)) == (page.nx, page.ny),
        "page {}: {colour:?}; expected grey of 8 to 64 bits; convert the file",
        index + 1
    );
    let (width, height) = decoder.chunk_dimensions();
    let is_tiled = decoder.get_chunk_type() == ChunkType::Tile;
    let chunk_height = if is_tiled { u64::from(height) } else { u64::from(height).min(page.ny) };
    ensure!(
        page.fits(u64::from(width), chunk_height, page.compression_ratio(index)?, file_len),
        "page {}: parts of {width} x {height} pixels; expected what {file_len} bytes can hold; the file is damaged",
        index + 1
    );
    let first = decoder.read_chunk(0).map_err(|error| broken(index, error))?;
    let mut job = Job { decoder, page, index, flip };
    let white = page.white_is_zero;
    // Each arm is for one type. It names the type that chunk 0 decoded to, the pixels that come of it, and how a value is
    // inverted where white is zero.
    macro_rules! assemble {
        ($variant:ident, $first:expr, $pixels:ident, $type:ty, $turn:expr) => {{
            let values = |chunk| if let DecodingResult::$variant(values) = chunk { values } else { Vec::new() };
            let image: Vec<$type> = job.assemble($first, values, |value| (if white { $turn(value) } else { value }) as $type)?;
            Pixels::$pixels(image.into())
        }};
    }
    Ok(match first {
        DecodingResult::U8(values) => assemble!(U8, values, U8, u8, |v: u8| !v),
        DecodingResult::I8(values) => assemble!(I8, values, I8, i8, |v: i8| !v),
        DecodingResult::U16(values) => assemble!(U16, values, U16, u16, |v: u16| !v),
        DecodingResult::I16(values) => assemble!(I16, values, I16, i16, |v: i16| !v),
        DecodingResult::U32(values) => assemble!(U32, values, F32, f32, |v: u32| !v),
        DecodingResult::I32(values) => assemble!(I32, values, F32, f32, |v: i32| !v),
        DecodingResult::F16(values) => assemble!(F16, values, F16, f16, |v: f16| -v),
        DecodingResult::F32(values) => assemble!(F32, values, F32, f32, |v: f32| -v),
        DecodingResult::F64(values) => assemble!(F64, values, F64, f64, |v: f64| -v),
        DecodingResult::U64(_) | DecodingResult::I64(_) => {
            bail!("page {}: integers of 64 bits; expected at most 32; convert the file", index + 1)
        }
    })
}

struct Job<'a, 'b> {
    decoder: &'a mut Decoder<BlackIsZero<'b>>,
    page: &'a Page,
    index: usize,
    flip: bool,
}

impl Job<'_, '_> {
    /// Puts the strips or tiles of a page together. `first` is chunk 0; `values` gives those of another chunk.
    fn assemble<T: Copy, S: bytemuck::Pod>(
        &mut self,
        first: Vec<T>,
        values: fn(DecodingResult) -> Vec<T>,
        convert: impl Fn(T) -> S,
    ) -> Result<Vec<S>> {
        let (nx, ny) = (self.page.nx as usize, self.page.ny as usize);
        let (width, height) = self.decoder.chunk_dimensions();
        let (width, height) = (width.max(1) as usize, height.max(1) as usize);
        let across = nx.div_ceil(width);
        let mut image = vec![S::zeroed(); nx * ny];
        let mut first = Some(first);
        for chunk in 0..across * ny.div_ceil(height) {
            let (chunk_x, chunk_y) = (chunk % across * width, chunk / across * height);
            let [chunk_nx, chunk_ny] = [width.min(nx - chunk_x), height.min(ny - chunk_y)];
            let data = match first.take() {
                Some(data) => data,
                None => values(self.decoder.read_chunk(chunk as u32).map_err(|error| broken(self.index, error))?),
            };
            ensure!(
                data.len() == chunk_nx * chunk_ny,
                "page {}, part {chunk}: {} pixels; expected {chunk_nx} x {chunk_ny}; the file is damaged",
                self.index + 1,
                data.len()
            );
            for (y, row) in data.chunks_exact(chunk_nx).enumerate() {
                let row_of_file = chunk_y + y;
                let row_of_image = if self.flip { ny - 1 - row_of_file } else { row_of_file };
                let start = row_of_image * nx + chunk_x;
                image[start..start + chunk_nx].iter_mut().zip(row).for_each(|(pixel, &value)| *pixel = convert(value));
            }
        }
        Ok(image)
    }
}
