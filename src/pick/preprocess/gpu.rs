//! Pre-processing on a GPU: from the pixels in their file's own type to the network's input, without waiting on the way.
//! Kernels: kernels/preprocess.cu.
//!
//! What the GPU does not do (averaged stacks in f64, and the original's faults with integers and narrow micrographs) stays
//! with the CPU: `suits` says which. Grey levels are those of the CPU but for values within rounding of a level's border:
//! the crop is in f32, less the mean.

use super::{CONSTANT_WARNING, Normalisation, Prepared, clip_warning, letterbox_positions, normalise_table, warn_of_bad};
use crate::device::gpu::{Arg, Gpu, Grid, Memory};
use crate::device::{Buffer, Device, TensorRef, tensor::Layout};
use crate::formats::image::{Micrograph, Pixels};
use crate::ops::Real;
use crate::pick::compat::{Compat, Fault};
use crate::pick::fourier_crop::operators::{Operators, RANK};
use crate::pick::geometry::Geometry;
use anyhow::{Result, ensure};
use std::sync::{Arc, Mutex, PoisonError};

/// Threads of a block, as the KERNEL lines say.
const THREADS: u32 = 256;
/// Side of the tiles of a product.
const TILE: usize = 128;
/// Rows of a part of a sum over rows.
const PART_ROWS: usize = 64;
/// Most blocks of a sum over pixels.
const MOST_PARTS: usize = 512;
/// Rounds of leaving out what is far out.
const ROUNDS: usize = 4;
/// Numbers of a survey, and where some of them stand.
const SURVEY: usize = 17;
const COUNT: usize = 3;
const CLIP_LOW: usize = 11;
const CLIP_HIGH: usize = 12;
const CLIPPED: usize = 14;
const CONSTANT: usize = 15;
/// Geometries whose operators are kept.
const CACHED: usize = 4;

/// True if the GPU prepares such pixels as the CPU does.
pub fn suits(pixels: &Pixels, compat: &Compat) -> bool {
    let integers = pixels.is_integer() && compat.has(Fault::IntCast);
    !matches!(pixels, Pixels::F64(_)) && !integers && !compat.has(Fault::Narrow)
}

/// The kernels' number of a type, and the bytes.
fn words(pixels: &Pixels) -> Option<(u32, &[u8])> {
    Some(match pixels {
        Pixels::I8(values) => (0, bytemuck::cast_slice(values)),
        Pixels::U8(values) => (1, &values[..]),
        Pixels::I16(values) => (2, bytemuck::cast_slice(values)),
        Pixels::U16(values) => (3, bytemuck::cast_slice(values)),
        Pixels::F16(values) => (4, bytemuck::cast_slice(values)),
        Pixels::F32(values) => (5, bytemuck::cast_slice(values)),
        Pixels::F64(_) => return None,
    })
}

/// What depends on the geometry alone.
#[derive(Debug)]
struct Fixed<T: Real> {
    geometry: Geometry,
    rows: Buffer<T>,
    columns_re: Buffer<T>,
    columns_im: Buffer<T>,
    vectors: Buffer<T>,
    /// Where the columns and rows of frame N lie in frame D, i32.
    columns_n: Memory,
    rows_n: Memory,
}

impl<T: Real> Fixed<T> {
    fn new(gpu: &Gpu, geometry: Geometry) -> Result<Self> {
        let Operators { rows, columns_re, columns_im, vectors } = Operators::new(&geometry);
        let on = |values: Vec<T>| Buffer::of(&Device::Gpu(gpu.clone()), values);
        let list = |values: Vec<i32>| -> Result<Memory> {
            let mut memory = Memory::new(gpu, 4 * values.len())?;
            memory.upload(gpu, 0, bytemuck::cast_slice(&values))?;
            Ok(memory)
        };
        let [columns_n, rows_n] = letterbox_positions(&geometry);
        Ok(Fixed {
            geometry,
            rows: on(rows)?,
            columns_re: on(columns_re)?,
            columns_im: on(columns_im)?,
            vectors: on(vectors)?,
            columns_n: list(columns_n)?,
            rows_n: list(rows_n)?,
        })
    }
}

/// Memory that grows, and keeps nothing when it does.
#[derive(Debug)]
struct Room(Option<Memory>);

impl Room {
    fn of(&mut self, gpu: &Gpu, bytes: usize) -> Result<Arg> {
        if self.0.as_ref().is_none_or(|memory| memory.bytes() < bytes) {
            self.0 = None; // the old block is freed before the new one is asked for
            self.0 = Some(Memory::new(gpu, bytes)?);
        }
        Ok(Arg::address(self.0.as_ref().map_or(0, Memory::address)))
    }
}

/// Pre-processing on a GPU, for micrographs one after the other. Several of them share the operators.
#[derive(Debug)]
pub struct Preprocessor<T: Real = f32> {
    frame: usize,
    fixed: Arc<Mutex<Vec<Arc<Fixed<T>>>>>,
    /// The geometry of the micrograph in hand, and its number of pixels.
    current: Option<Arc<Fixed<T>>>,
    /// Pixels of the file; the matrix X; products; parts of sums of vectors.
    file: Room,
    x: Room,
    middle: Room,
    parts: Room,
    /// Frame D, before and after equalising.
    image_d: Room,
    levels: Room,
    equalised: Room,
    /// The survey, the range, and parts of sums: f64.
    numbers: Memory,
    /// Histogram, u32, and the table of levels, u8.
    histogram: Memory,
    inputs: Memory,
    image: Buffer<T>,
}

impl<T: Real> Preprocessor<T> {
    /// For frames of `frame` x `frame`.
    ///
    /// Errors: the device has not as much memory.
    pub fn new(gpu: &Gpu, frame: usize) -> Result<Self> {
        let mut inputs = Memory::new(gpu, 4 * 256)?;
        inputs.upload(gpu, 0, bytemuck::cast_slice(&normalise_table(Normalisation::Picking)))?;
        let room = || Room(None);
        Ok(Preprocessor {
            frame,
            fixed: Arc::default(),
            current: None,
            file: room(),
            x: room(),
            middle: room(),
            parts: room(),
            image_d: room(),
            levels: room(),
            equalised: room(),
            numbers: Memory::new(gpu, 8 * (SURVEY + 3 + 5 * MOST_PARTS))?,
            histogram: Memory::new(gpu, 4 * 256 + 256)?,
            inputs,
            image: Buffer::unset(&Device::Gpu(gpu.clone()), frame * frame)?,
        })
    }

    /// Another one, for the micrograph after the one in hand; it shares the operators.
    ///
    /// Errors: the device has not as much memory.
    pub fn another(&self, gpu: &Gpu) -> Result<Self> {
        Ok(Preprocessor { fixed: Arc::clone(&self.fixed), ..Self::new(gpu, self.frame)? })
    }

    /// The operators of a geometry: those of the last few are kept.
    fn fixed(&self, gpu: &Gpu, geometry: Geometry) -> Result<Arc<Fixed<T>>> {
        let mut cache = self.fixed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fixed) = cache.iter().find(|fixed| fixed.geometry == geometry) {
            return Ok(Arc::clone(fixed));
        }
        if cache.len() == CACHED {
            cache.remove(0);
        }
        let fixed = Arc::new(Fixed::new(gpu, geometry)?);
        cache.push(Arc::clone(&fixed));
        Ok(fixed)
    }

    /// Puts all work for a micrograph into the stream of `gpu`; `image` is there when it is done.
    ///
    /// Shapes: nx x ny pixels of frame M into `frame` x `frame` of frame N.
    /// Errors: the micrograph does not suit the GPU (see `suits`), its sizes do not fit, or a launch fails.
    pub fn start(&mut self, gpu: &Gpu, micrograph: &Micrograph, compat: &Compat) -> Result<()> {
        let geometry = Geometry::new(micrograph.nx, micrograph.ny, self.frame);
        let Geometry { nx, ny, frame, height_d } = geometry;
        let pixels = nx * ny;
        ensure!(
            height_d >= 1 && height_d <= 32 * frame && micrograph.pixels.len() == pixels && pixels < 1 << 31,
            "crop: {nx} x {ny} pixels become {frame} x {height_d}; expected 1 to {} rows; cut the micrograph into squarer pieces",
            32 * frame
        );
        let Some((kind, bytes)) = words(&micrograph.pixels).filter(|_| suits(&micrograph.pixels, compat)) else {
            anyhow::bail!("pixels of {}: not prepared on the GPU; expected what `suits` says", micrograph.pixels.type_name());
        };
        let fixed = self.fixed(gpu, geometry)?;
        let file = self.file.of(gpu, bytes.len().next_multiple_of(4))?;
        if let Some(memory) = &mut self.file.0 {
            memory.upload(gpu, 0, bytes)?;
        }
        let work = Work { gpu, pixels, kind, file, numbers: self.numbers.address() };
        work.survey(!compat.has(Fault::HotPixel))?;
        let value = size_of::<T>();
        let x = self.x.of(gpu, value * pixels)?;
        let args = [count(pixels), Arg::value(kind), file, work.number(0), x];
        // SAFETY: the arguments of the KERNEL line, in its order; the memory holds as many pixels.
        unsafe { gpu.launch("preprocess_adjust", Grid::over(pixels, THREADS)?, THREADS, &args) }?;

        let middle = self.middle.of(gpu, value * (ny + RANK) * frame)?;
        let middle_end = Arg::address(self.middle.0.as_ref().map_or(0, Memory::address) + (value * ny * frame) as u64);
        let most_parts = ny.max(nx).div_ceil(PART_ROWS) * RANK * nx.max(frame);
        let parts = self.parts.of(gpu, value * (most_parts + RANK * nx))?;
        let sums = Arg::address(self.parts.0.as_ref().map_or(0, Memory::address) + (value * most_parts) as u64);
        work.product([ny, frame, nx], x, fixed.columns_re.view().arg(), middle)?;
        work.vectors([nx, ny], fixed.vectors.view().arg(), x, parts, sums)?;
        work.vectors([frame, nx], sums, fixed.columns_im.view().arg(), parts, middle_end)?;
        let image_d = self.image_d.of(gpu, value * height_d * frame)?;
        work.product([height_d, frame, ny + RANK], fixed.rows.view().arg(), middle, image_d)?;

        let cells = height_d * frame;
        let (levels, equalised) = (self.levels.of(gpu, cells)?, self.equalised.of(gpu, cells)?);
        let (histogram, table) = (Arg::address(self.histogram.address()), Arg::address(self.histogram.address() + 4 * 256));
        work.quantise(cells, image_d, levels, histogram)?;
        // SAFETY: the arguments of the KERNEL lines, in their order; frame D has this many levels.
        unsafe {
            gpu.launch("preprocess_equalise_table", Grid([1, 1, 1]), 32, &[histogram, table])?;
            gpu.launch("preprocess_equalise", Grid::over(cells, THREADS)?, THREADS, &[count(cells), table, levels, equalised])?;
        }
        let (columns_n, rows_n) = (Arg::address(fixed.columns_n.address()), Arg::address(fixed.rows_n.address()));
        let (shape, inputs) = (Arg::value([frame as u32, height_d as u32]), Arg::address(self.inputs.address()));
        let args = [shape, equalised, columns_n, rows_n, inputs, self.image.view_mut().arg()];
        // SAFETY: as above; the lists have a value for each column and row of frame N.
        unsafe { gpu.launch("preprocess_letterbox", Grid::over(frame * frame, THREADS)?, THREADS, &args) }?;
        self.current = Some(fixed);
        Ok(())
    }

    /// The network's input, (1, frame, frame, 1), once the work is done.
    pub fn image(&self) -> TensorRef<'_, T> {
        self.image.at(0, Layout::packed([1, self.frame, self.frame, 1]))
    }

    /// Waits, and says of the micrograph in hand what `preprocess` says; the image stays on the GPU, so `image` is empty.
    ///
    /// Errors: 1 % or more of the pixels are no numbers, or the work failed.
    pub fn finish(&self, gpu: &Gpu) -> Result<Prepared> {
        let Some(fixed) = &self.current else { anyhow::bail!("no micrograph was started") };
        let geometry = fixed.geometry;
        let mut survey = [0.0_f64; SURVEY];
        self.numbers.download(gpu, 0, bytemuck::cast_slice_mut(&mut survey))?;
        let mut warnings = Vec::new();
        let pixels = geometry.nx * geometry.ny;
        warn_of_bad(pixels - survey[COUNT] as usize, pixels, &mut warnings)?;
        if survey[CLIPPED] == 1.0 {
            warnings.push(clip_warning(survey[CLIP_LOW], survey[CLIP_HIGH]));
        }
        let constant = survey[CONSTANT] == 1.0;
        if constant {
            warnings.push(CONSTANT_WARNING.to_owned());
        }
        let equalised = self.read(gpu, &self.equalised)?;
        Ok(Prepared { geometry, image: Vec::new(), equalised, constant, warnings })
    }

    /// The grey levels of frame D before they are equalised.
    ///
    /// Errors: the work failed.
    pub fn levels(&self, gpu: &Gpu) -> Result<Vec<u8>> {
        self.read(gpu, &self.levels)
    }

    fn read(&self, gpu: &Gpu, room: &Room) -> Result<Vec<u8>> {
        let cells = self.current.as_ref().map_or(0, |fixed| fixed.geometry.frame * fixed.geometry.height_d);
        let mut levels = vec![0; cells];
        if let Some(memory) = &room.0 {
            memory.download(gpu, 0, &mut levels)?;
        }
        Ok(levels)
    }
}

fn count(values: usize) -> Arg {
    Arg::value(values as u32)
}

fn parts(values: usize) -> usize {
    values.div_ceil(16 * THREADS as usize).clamp(1, MOST_PARTS)
}

/// The launches for one micrograph.
struct Work<'a> {
    gpu: &'a Gpu,
    pixels: usize,
    kind: u32,
    file: Arg,
    numbers: u64,
}

impl Work<'_> {
    /// The i-th of the numbers: first the survey, then the range, then parts of sums.
    fn number(&self, i: usize) -> Arg {
        Arg::address(self.numbers + 8 * i as u64)
    }

    fn partial(&self) -> Arg {
        self.number(SURVEY + 3)
    }

    /// Measures all pixels, and those that are not far out until they settle; every decision falls on the GPU.
    fn survey(&self, clip_hot: bool) -> Result<()> {
        let parts = parts(self.pixels);
        let (pixels, kind) = (count(self.pixels), Arg::value(self.kind));
        let flag = |set: bool| Arg::value(u32::from(set));
        for round in 0..=ROUNDS {
            let first = flag(round == 0);
            let args = [pixels, kind, first, self.file, self.number(0), self.partial()];
            // SAFETY: the arguments of the KERNEL line, in its order; there is room for the parts.
            unsafe { self.gpu.launch("preprocess_measure", Grid([parts as u32, 1, 1]), THREADS, &args) }?;
            let decide = [first, flag(round == ROUNDS), flag(clip_hot), count(parts)];
            let args = [&[pixels, kind], &decide[..], &[self.file, self.partial(), self.number(0)]].concat();
            // SAFETY: as above.
            unsafe { self.gpu.launch("preprocess_survey", Grid([1, 1, 1]), THREADS, &args) }?;
        }
        Ok(())
    }

    /// out (rows, columns) = a (rows, depth) b (depth, columns).
    fn product(&self, [rows, columns, depth]: [usize; 3], a: Arg, b: Arg, out: Arg) -> Result<()> {
        let shape = Arg::value([rows, columns, depth].map(|extent| extent as u32));
        let grid = Grid([columns.div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32, 1]);
        // SAFETY: the arguments of the KERNEL line, in its order; the matrices have these extents.
        unsafe { self.gpu.launch("preprocess_product", grid, THREADS, &[shape, a, b, out]) }
    }

    /// out (2, columns) = v (2, depth) b (depth, columns), by way of parts.
    fn vectors(&self, [columns, depth]: [usize; 2], v: Arg, b: Arg, partial: Arg, out: Arg) -> Result<()> {
        let shape = Arg::value([RANK, columns, depth].map(|extent| extent as u32));
        let parts = depth.div_ceil(PART_ROWS);
        let grid = Grid([columns.div_ceil(THREADS as usize) as u32, parts as u32, 1]);
        // SAFETY: the arguments of the KERNEL lines, in their order; there is room for the parts.
        unsafe {
            self.gpu.launch("preprocess_vectors", grid, THREADS, &[shape, count(PART_ROWS), v, b, partial])?;
            let grid = Grid::over(RANK * columns, THREADS)?;
            self.gpu.launch("preprocess_add_parts", grid, THREADS, &[count(RANK * columns), count(parts), partial, out])
        }
    }

    fn quantise(&self, cells: usize, image: Arg, levels: Arg, histogram: Arg) -> Result<()> {
        let (parts, range) = (parts(cells), self.number(SURVEY));
        let grid = Grid([parts as u32, 1, 1]);
        // SAFETY: the arguments of the KERNEL lines, in their order; frame D has this many values, and there is room for the
        // parts.
        unsafe {
            self.gpu.launch("preprocess_extremes", grid, THREADS, &[count(cells), image, self.partial()])?;
            let args = [count(parts), self.partial(), range, histogram];
            self.gpu.launch("preprocess_range", Grid([1, 1, 1]), THREADS, &args)?;
            let args = [count(cells), self.number(0), range, image, levels, histogram];
            self.gpu.launch("preprocess_quantise", grid, THREADS, &args)
        }
    }
}
