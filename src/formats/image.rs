//! A micrograph in memory, and reading one of any format.
//!
//! Pixels stay in the type of the file, and the file is mapped into memory where that is possible: a 4096x4096 micrograph of
//! 32-bit floats is then never copied. Source: docs/formats.md, "Micrographs".

use crate::formats::detect::{HEAD_LEN, ImageFormat, image_format};
use crate::formats::{mrc, png_image, regular, tiff_image};
use anyhow::{Context, Result, anyhow, bail, ensure};
use half::f16;
use memmap2::Mmap;
use std::fmt;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// The bytes of a file: mapped, or read.
#[derive(Debug)]
pub enum FileBytes {
    /// A view of the file itself.
    Mapped(Mmap),
    /// A copy.
    Owned(Vec<u8>),
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(map) => map,
            FileBytes::Owned(bytes) => bytes,
        }
    }
}

impl FileBytes {
    /// Maps the file, or reads it where that cannot be done.
    ///
    /// Errors: the file is missing, unreadable or empty, or the path is that of a folder, a named pipe or a device.
    pub fn open(path: &Path) -> Result<FileBytes> {
        let mut file = regular::open(path)?;
        let metadata = file.metadata().with_context(|| format!("{}: cannot be examined", path.display()))?;
        ensure!(!metadata.is_dir(), "{}: is a folder; expected a micrograph", path.display());
        if metadata.is_file() && metadata.len() > 0 {
            // SAFETY: the map is only read. Another program that shortens the file meanwhile would end this one
            // with a bus error, as with every mapped file; micrographs are written once.
            if let Ok(map) = unsafe { Mmap::map(&file) } {
                return Ok(FileBytes::Mapped(map));
            }
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| format!("{}: cannot be read", path.display()))?;
        ensure!(!bytes.is_empty(), "{}: the file is empty; expected a micrograph", path.display());
        Ok(FileBytes::Owned(bytes))
    }
}

/// A type that pixels have in a file.
pub trait Sample: bytemuck::Pod + Send + Sync + fmt::Debug {
    /// The value; exact for every type.
    fn to_f64(self) -> f64;
    /// The value with the order of its bytes reversed.
    fn swapped(self) -> Self;
}

macro_rules! sample {
    ($($type:ty, $swap:expr);* $(;)?) => {$(
        impl Sample for $type {
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn swapped(self) -> Self {
                $swap(self)
            }
        }
    )*};
}

sample! {
    i8, |v| v;
    u8, |v| v;
    i16, i16::swap_bytes;
    u16, u16::swap_bytes;
    f16, |v: f16| f16::from_bits(v.to_bits().swap_bytes());
    f32, |v: f32| f32::from_bits(v.to_bits().swap_bytes());
    f64, |v: f64| f64::from_bits(v.to_bits().swap_bytes());
}

/// Values of one type: a view into the bytes of a file, or owned.
#[derive(Clone)]
pub struct Samples<T> {
    store: Store<T>,
}

#[derive(Clone)]
enum Store<T> {
    Owned(Vec<T>),
    // Invariant: `start` is aligned for T and `start + len * size_of::<T>()` lies within the bytes, which never change.
    Shared { bytes: Arc<FileBytes>, start: usize, len: usize },
}

impl<T: Sample> Samples<T> {
    /// `len` values from byte `start` on. They are a view if they can be used as they lie in the file, else a converted copy.
    ///
    /// Errors: none. Callers have checked that the bytes are there; a request that reaches beyond them gives an empty list.
    pub fn from_bytes(bytes: &Arc<FileBytes>, start: usize, len: usize, swap: bool) -> Samples<T> {
        let end = len.checked_mul(size_of::<T>()).and_then(|size| size.checked_add(start));
        let Some(raw) = end.and_then(|end| bytes.get(start..end)) else {
            return Samples::from(Vec::new());
        };
        if !swap && bytemuck::try_cast_slice::<u8, T>(raw).is_ok() {
            return Samples { store: Store::Shared { bytes: Arc::clone(bytes), start, len } };
        }
        let value = |chunk: &[u8]| bytemuck::pod_read_unaligned::<T>(chunk);
        let chunks = raw.chunks_exact(size_of::<T>());
        Samples::from(if swap { chunks.map(|chunk| value(chunk).swapped()).collect::<Vec<T>>() } else { chunks.map(value).collect() })
    }
}

impl<T> From<Vec<T>> for Samples<T> {
    fn from(values: Vec<T>) -> Self {
        Samples { store: Store::Owned(values) }
    }
}

impl<T: Sample> Deref for Samples<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.store {
            Store::Owned(values) => values,
            Store::Shared { bytes, start, len } => bytemuck::cast_slice(&bytes[*start..*start + len * size_of::<T>()]),
        }
    }
}

impl<T: Sample> fmt::Debug for Samples<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} values]", self.len())
    }
}

/// The pixels of a micrograph in the type of its file, row after row in file order.
#[derive(Clone, Debug)]
pub enum Pixels {
    /// Signed bytes.
    I8(Samples<i8>),
    /// Unsigned bytes, also for unpacked 4-bit values.
    U8(Samples<u8>),
    /// Signed 16-bit integers.
    I16(Samples<i16>),
    /// Unsigned 16-bit integers.
    U16(Samples<u16>),
    /// 16-bit floats.
    F16(Samples<f16>),
    /// 32-bit floats, also for 32-bit integers and the luma of colours.
    F32(Samples<f32>),
    /// 64-bit floats: the mean of several sections.
    F64(Samples<f64>),
}

/// Runs an expression with `values` bound to the slice of whatever type the pixels have.
#[macro_export]
macro_rules! with_pixels {
    ($pixels:expr, $values:ident => $body:expr) => {
        match $pixels {
            $crate::formats::image::Pixels::I8($values) => $body,
            $crate::formats::image::Pixels::U8($values) => $body,
            $crate::formats::image::Pixels::I16($values) => $body,
            $crate::formats::image::Pixels::U16($values) => $body,
            $crate::formats::image::Pixels::F16($values) => $body,
            $crate::formats::image::Pixels::F32($values) => $body,
            $crate::formats::image::Pixels::F64($values) => $body,
        }
    };
}

impl Pixels {
    /// Number of pixels.
    pub fn len(&self) -> usize {
        with_pixels!(self, values => values.len())
    }

    /// True if there is no pixel.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type's name, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Pixels::I8(_) => "i8",
            Pixels::U8(_) => "u8",
            Pixels::I16(_) => "i16",
            Pixels::U16(_) => "u16",
            Pixels::F16(_) => "f16",
            Pixels::F32(_) => "f32",
            Pixels::F64(_) => "f64",
        }
    }

    /// True for integers.
    pub fn is_integer(&self) -> bool {
        matches!(self, Pixels::I8(_) | Pixels::U8(_) | Pixels::I16(_) | Pixels::U16(_))
    }

    /// All values, converted.
    pub fn to_f32(&self) -> Vec<f32> {
        with_pixels!(self, values => values.iter().map(|&value| value.to_f64() as f32).collect())
    }
}

/// Which end of the file is row 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    /// Rows as they are stored.
    Array,
    /// The last row of the TIFF is row 0, as RELION, IMOD, EMAN2 and MotionCor2 read TIFF.
    TiffFlipped,
    /// The top row of the PNG is row 0.
    PngTop,
}

impl Orientation {
    /// The word that the outputs use.
    pub fn as_str(self) -> &'static str {
        match self {
            Orientation::Array => "array",
            Orientation::TiffFlipped => "tiff-flipped",
            Orientation::PngTop => "png-top",
        }
    }
}

impl fmt::Display for Orientation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A micrograph as recorded. Frame M: x is the column, y the row in file order.
#[derive(Clone, Debug)]
pub struct Micrograph {
    /// Columns.
    pub nx: usize,
    /// Rows.
    pub ny: usize,
    /// Sections (pages of a TIFF) of the file. `pixels` is always one image, however many sections there are.
    pub sections: usize,
    /// nx * ny values.
    pub pixels: Pixels,
    /// Angstrom per pixel, if the file says so believably.
    pub pixel_size_angstrom: Option<f64>,
    /// How rows were ordered.
    pub orientation: Orientation,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
}

impl Micrograph {
    /// A micrograph of one section of which only the pixels are known, nx * ny of them.
    pub fn of_pixels(nx: usize, ny: usize, pixels: Pixels) -> Self {
        let (sections, pixel_size_angstrom, orientation) = (1, None, Orientation::Array);
        Micrograph { nx, ny, sections, pixels, pixel_size_angstrom, orientation, warnings: Vec::new() }
    }
}

/// What a file says of itself; known without reading the pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageInfo {
    /// The format's name: `MRC`, `MRC (gzip)`, `MRC (bzip2)`, `PNG`, `TIFF`.
    pub format: &'static str,
    /// Columns.
    pub nx: usize,
    /// Rows.
    pub ny: usize,
    /// Sections or pages.
    pub sections: usize,
    /// Angstrom per pixel, if the file says so believably.
    pub pixel_size_angstrom: Option<f64>,
    /// How rows are ordered.
    pub orientation: Orientation,
}

/// What to do with a file of several sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Sections {
    /// Their mean: right for the frames of a movie.
    #[default]
    Mean,
    /// Only the first.
    First,
    /// An error.
    Refuse,
    /// Only this one, counted from 0.
    One(usize),
}

/// Whether bytes are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode0 {
    /// What the header says, signed if it says nothing.
    #[default]
    Auto,
    /// Signed, as MRC2014 says.
    Signed,
    /// Unsigned.
    Unsigned,
}

/// How micrographs are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// Files of several sections.
    pub sections: Sections,
    /// Sign of MRC mode 0.
    pub mode0: Mode0,
    /// Row 0 is the first row of a TIFF instead of the last.
    pub tiff_top_down: bool,
}

/// Reads one micrograph of any format.
///
/// Errors: the file cannot be read, is no image of a known format, is cut off, or holds something else than a micrograph.
/// Source: docs/formats.md, "Micrographs".
pub fn read_micrograph(path: &Path, options: &ReadOptions) -> Result<Micrograph> {
    read_bytes(Arc::new(FileBytes::open(path)?), options).map_err(|error| name_file(path, &error))
}

/// Reads one micrograph from the bytes of its file.
///
/// Errors: as `read_micrograph`, without the file's name.
pub fn read_bytes(bytes: Arc<FileBytes>, options: &ReadOptions) -> Result<Micrograph> {
    let micrograph = match image_format(&bytes[..bytes.len().min(HEAD_LEN)]) {
        ImageFormat::Mrc | ImageFormat::Unknown => mrc::read(&bytes, options),
        ImageFormat::Gzip => mrc::read_gzip(&bytes, options),
        ImageFormat::Bzip2 => mrc::read_bzip2(&bytes, options),
        ImageFormat::Png => png_image::read(&bytes),
        ImageFormat::Tiff => tiff_image::read(&bytes, options),
        other => Err(refusal(other, &bytes)),
    }?;
    ensure!(micrograph.pixels.len() == micrograph.nx * micrograph.ny, "pixels: fewer than {} x {}", micrograph.nx, micrograph.ny);
    Ok(micrograph)
}

/// Reads sizes, number of sections and pixel size, but no pixels (of a compressed file only its header).
///
/// Errors: as `read_micrograph`; that pixels are missing at the end of a compressed file is not noticed.
pub fn read_info(path: &Path, options: &ReadOptions) -> Result<ImageInfo> {
    info_of_bytes(&FileBytes::open(path)?, options).map_err(|error| name_file(path, &error))
}

/// As `read_info`, from the bytes of the file.
///
/// Errors: as `read_info`, without the file's name.
pub fn info_of_bytes(bytes: &FileBytes, options: &ReadOptions) -> Result<ImageInfo> {
    match image_format(&bytes[..bytes.len().min(HEAD_LEN)]) {
        ImageFormat::Mrc | ImageFormat::Unknown => mrc::info(bytes, options),
        ImageFormat::Gzip => mrc::info_gzip(bytes, options),
        ImageFormat::Bzip2 => mrc::info_bzip2(bytes, options),
        ImageFormat::Png => png_image::info(bytes),
        ImageFormat::Tiff => tiff_image::info(bytes, options),
        other => Err(refusal(other, bytes)),
    }
}

/// The pixel size, if it is believable: 0.01 to 100 angstrom.
pub(crate) fn believable_pixel_size(angstrom: f64) -> Option<f64> {
    (0.01..=100.0).contains(&angstrom).then_some(angstrom)
}

/// The warning for a file of several sections, or an error where they are refused.
pub(crate) fn judge_sections(count: usize, noun: &str, sections: Sections) -> Result<Option<String>> {
    Ok(match sections {
        Sections::One(index) => {
            ensure!(index < count, "sections: section {index} (from 0) was asked for; expected less than {count}; check --sections");
            None
        }
        _ if count <= 1 => None,
        Sections::Mean => Some(format!("{noun} of {count} sections; their mean is used; for others give --sections first, each or refuse")),
        Sections::First => Some(format!("{noun} of {count} sections; only the first is used")),
        Sections::Refuse => bail!("sections: a {noun} of {count} sections; expected one; give --sections mean, first or each"),
    })
}

/// The mean of sections, in f64 and in their order.
#[derive(Default)]
pub(crate) struct SectionMean {
    sum: Vec<f64>,
    count: usize,
}

impl SectionMean {
    pub(crate) fn add(&mut self, pixels: &Pixels) {
        if self.count == 0 {
            self.sum = with_pixels!(pixels, values => values.iter().map(|&value| value.to_f64()).collect());
        } else {
            with_pixels!(pixels, values => self.sum.iter_mut().zip(values.iter()).for_each(|(sum, &value)| *sum += value.to_f64()));
        }
        self.count += 1;
    }

    pub(crate) fn finish(mut self) -> Pixels {
        let count = self.count as f64;
        self.sum.iter_mut().for_each(|sum| *sum /= count);
        Pixels::F64(self.sum.into())
    }
}

fn name_file(path: &Path, error: &anyhow::Error) -> anyhow::Error {
    anyhow!("{}, {error:#}", path.display())
}

fn refusal(format: ImageFormat, bytes: &[u8]) -> anyhow::Error {
    match format {
        ImageFormat::Refused(name, advice) => anyhow!("start of the file: {name}; expected MRC, TIFF or PNG; {advice}"),
        _ if bytes.starts_with(b"version https://git-lfs") => {
            anyhow!("start of the file: a Git LFS pointer, not the micrograph; expected MRC, TIFF or PNG; fetch it with git lfs pull")
        }
        _ => anyhow!(
            "start of the file: text; expected MRC, TIFF or PNG; this may be a coordinate file or a list (a list's name ends in .thi or .star)"
        ),
    }
}
