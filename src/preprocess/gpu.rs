//! Pre-processing on a GPU: from the pixels in their file's own type to the network's input, without waiting on the way.
//! Kernels: kernels/preprocess.cu.
//!
//! Some micrographs stay with the CPU: averaged stacks in f64, and those for which the original's faults with integers and narrow
//! micrographs were asked for; `suits` says which. The crop is computed in f32 from pixels less their mean, so a grey level
//! differs from the CPU's only where a value lies within rounding of the border between two levels.

use super::{CONSTANT_WARNING, Normalisation, Prepared, clip_warning, letterbox_positions, normalise_table, warn_of_bad};
use crate::compat::{Compat, Fault};
use crate::device::gpu::{Arg, Gpu, Grid, GrowingMemory, Memory, Pinned};
use crate::device::{Buffer, Device, TensorRef, tensor::Layout};
use crate::formats::image::{Micrograph, Pixels};
use crate::kernel_struct;
use crate::ops::Real;
use crate::preprocess::fourier_crop::operators::{Operators, RANK};
use crate::preprocess::geometry::Geometry;
use crate::preprocess::ground::{self, CELL, Ground};
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

/// What depends on the geometry and on the model alone.
#[derive(Debug)]
struct Fixed<T: Real> {
    geometry: Geometry,
    ground: Ground,
    /// Weights of the Gaussian that leaves the ground, where it is taken away.
    weights: Option<Buffer<T>>,
    rows: Buffer<T>,
    columns_re: Buffer<T>,
    columns_im: Buffer<T>,
    vectors: Buffer<T>,
    /// Where the columns and rows of frame N lie in frame D, i32.
    columns_n: Memory,
    rows_n: Memory,
}

impl<T: Real> Fixed<T> {
    fn new(gpu: &Gpu, geometry: Geometry, ground: Ground) -> Result<Self> {
        let Operators { rows, columns_re, columns_im, vectors } = Operators::new(&geometry);
        let on = |values: Vec<T>| Buffer::of(&Device::Gpu(gpu.clone()), values);
        let list = |values: Vec<i32>| -> Result<Memory> {
            let mut memory = Memory::new(gpu, 4 * values.len())?;
            memory.upload(gpu, 0, bytemuck::cast_slice(&values))?;
            Ok(memory)
        };
        let [columns_n, rows_n] = letterbox_positions(&geometry);
        let weights = ground.sigma_px().map(|sigma| ground::weights(sigma).into_iter().map(T::from_f64).collect());
        Ok(Fixed {
            geometry,
            ground,
            weights: weights.map(on).transpose()?,
            rows: on(rows)?,
            columns_re: on(columns_re)?,
            columns_im: on(columns_im)?,
            vectors: on(vectors)?,
            columns_n: list(columns_n)?,
            rows_n: list(rows_n)?,
        })
    }
}

/// Pre-processing on a GPU, for micrographs one after the other. Several of them share the operators.
#[derive(Debug)]
pub struct Preprocessor<T: Real = f32> {
    fixed: Arc<Mutex<Vec<Arc<Fixed<T>>>>>,
    /// The geometry of the micrograph in hand, and its number of pixels.
    current: Option<Arc<Fixed<T>>>,
    /// Pixels of the file; the matrix X; products; parts of sums of vectors.
    file: GrowingMemory,
    x: GrowingMemory,
    middle: GrowingMemory,
    parts: GrowingMemory,
    /// Frame D, before and after equalising.
    image_d: GrowingMemory,
    /// Means of cells of frame D, and these blurred.
    cells: GrowingMemory,
    levels: GrowingMemory,
    equalised: GrowingMemory,
    /// The survey, the range, and parts of sums: f64.
    numbers: Memory,
    /// Histogram, u32, and the table of levels, u8.
    histogram: Memory,
    inputs: Memory,
    image: Buffer<T>,
    /// Host memory on the way to the device and back: the file's pixels; the survey; what is shown of frame D.
    staging: Option<Pinned>,
    survey: Pinned,
    shown: Option<Pinned>,
    /// True while the work of the micrograph in hand has not been waited for; and true if frame D will come back with the survey.
    is_under_way: bool,
    with_shown: bool,
}

impl<T: Real> Preprocessor<T> {
    /// A preprocessor with the memory that every micrograph needs.
    ///
    /// Errors: the device has not as much memory.
    pub fn new(gpu: &Gpu) -> Result<Self> {
        let mut inputs = Memory::new(gpu, 4 * 256)?;
        inputs.upload(gpu, 0, bytemuck::cast_slice(&normalise_table(Normalisation::Picking)))?;
        Ok(Preprocessor {
            fixed: Arc::default(),
            current: None,
            file: GrowingMemory::default(),
            x: GrowingMemory::default(),
            middle: GrowingMemory::default(),
            parts: GrowingMemory::default(),
            image_d: GrowingMemory::default(),
            cells: GrowingMemory::default(),
            levels: GrowingMemory::default(),
            equalised: GrowingMemory::default(),
            numbers: Memory::new(gpu, 8 * (SURVEY + 3 + 5 * MOST_PARTS))?,
            histogram: Memory::new(gpu, 4 * 256 + 256)?,
            inputs,
            image: Buffer::unset(&Device::Gpu(gpu.clone()), 0)?,
            staging: None,
            survey: Pinned::new(gpu, 8 * SURVEY)?,
            shown: None,
            is_under_way: false,
            with_shown: false,
        })
    }

    /// Another preprocessor, for the micrograph after the one in hand. Both share the operators.
    ///
    /// Errors: the device has not as much memory.
    pub fn another(&self, gpu: &Gpu) -> Result<Self> {
        Ok(Preprocessor { fixed: Arc::clone(&self.fixed), ..Self::new(gpu)? })
    }

    /// The operators of a geometry: those of the last few are kept.
    fn fixed(&self, gpu: &Gpu, geometry: Geometry, ground: Ground) -> Result<Arc<Fixed<T>>> {
        let mut cache = self.fixed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fixed) = cache.iter().find(|fixed| fixed.geometry == geometry && fixed.ground == ground) {
            return Ok(Arc::clone(fixed));
        }
        if cache.len() == CACHED {
            cache.remove(0);
        }
        let fixed = Arc::new(Fixed::new(gpu, geometry, ground)?);
        cache.push(Arc::clone(&fixed));
        Ok(fixed)
    }

    /// Puts all work for a micrograph into the stream of `gpu`; `image` is there when it is done.
    ///
    /// Shapes: nx x ny pixels of frame M into `frame` x `frame` of frame N.
    /// Errors: the micrograph does not suit the GPU (see `suits`), its sizes do not fit, or a launch fails.
    pub fn start(&mut self, gpu: &Gpu, micrograph: &Micrograph, frame: usize, ground: Ground, compat: &Compat) -> Result<()> {
        if self.is_under_way {
            gpu.synchronize()?; // the pinned memory is written below
        }
        let geometry = Geometry::new(micrograph.nx, micrograph.ny, frame);
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
        let fixed = self.fixed(gpu, geometry, ground)?;
        let staging = Pinned::grown(&mut self.staging, gpu, bytes.len())?;
        staging.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        self.is_under_way = true;
        // SAFETY: the pinned memory is written again after a wait.
        unsafe { self.file.of(gpu, bytes.len().next_multiple_of(4))?.put_upload(gpu, bytes.len(), staging) }?;
        let file = self.file.arg();
        let work = Work { gpu, pixels, kind, file, numbers: self.numbers.address() };
        work.survey(!compat.has(Fault::HotPixel))?;
        let value = size_of::<T>();
        let x = argument(self.x.of(gpu, value * pixels)?, 0);
        let args = [count(pixels), Arg::value(kind), file, work.number(0), x];
        // SAFETY: the arguments of the KERNEL line, in its order; the memory holds as many pixels.
        unsafe { gpu.launch("preprocess_adjust", Grid::over(pixels, THREADS)?, THREADS, &args) }?;

        let middle = self.middle.of(gpu, value * (ny + RANK) * frame)?;
        let (middle, middle_end) = (argument(middle, 0), argument(middle, value * ny * frame));
        let most_parts = ny.max(nx).div_ceil(PART_ROWS) * RANK * nx.max(frame);
        let parts = self.parts.of(gpu, value * (most_parts + RANK * nx))?;
        let (parts, sums) = (argument(parts, 0), argument(parts, value * most_parts));
        work.product([ny, frame, nx], x, fixed.columns_re.view().arg(), middle)?;
        work.vectors([nx, ny], fixed.vectors.view().arg(), x, parts, sums)?;
        work.vectors([frame, nx], sums, fixed.columns_im.view().arg(), parts, middle_end)?;
        let image_d = argument(self.image_d.of(gpu, value * height_d * frame)?, 0);
        work.product([height_d, frame, ny + RANK], fixed.rows.view().arg(), middle, image_d)?;

        if let Some(weights) = &fixed.weights {
            let cells = height_d.div_ceil(CELL) * frame.div_ceil(CELL);
            let ground = self.cells.of(gpu, 2 * value * cells)?;
            let (ground, blurred) = (argument(ground, 0), argument(ground, value * cells));
            work.level([height_d, frame], weights, image_d, [ground, blurred])?;
        }
        let cells = height_d * frame;
        let (levels, equalised) = (argument(self.levels.of(gpu, cells)?, 0), argument(self.equalised.of(gpu, cells)?, 0));
        let (histogram, table) = (argument(&self.histogram, 0), argument(&self.histogram, 4 * 256));
        work.quantise(cells, image_d, levels, histogram)?;
        // SAFETY: the arguments of the KERNEL lines, in their order; frame D has this many levels.
        unsafe {
            gpu.launch("preprocess_equalise_table", Grid([1, 1, 1]), 32, &[histogram, table])?;
            gpu.launch("preprocess_equalise", Grid::over(cells, THREADS)?, THREADS, &[count(cells), table, levels, equalised])?;
        }
        if self.image.len() < frame * frame {
            self.image = Buffer::unset(&Device::Gpu(gpu.clone()), frame * frame)?;
        }
        let (columns_n, rows_n) = (Arg::address(fixed.columns_n.address()), Arg::address(fixed.rows_n.address()));
        let (shape, inputs) = (kernel_struct!(PreprocessFrame { frame, height: height_d }), Arg::address(self.inputs.address()));
        let args = [shape, equalised, columns_n, rows_n, inputs, self.image.view_mut().arg()];
        // SAFETY: as above; the lists have a value for each column and row of frame N.
        unsafe { gpu.launch("preprocess_letterbox", Grid::over(frame * frame, THREADS)?, THREADS, &args) }?;
        self.current = Some(fixed);
        Ok(())
    }

    /// Sizes of all frames of the micrograph in hand.
    pub fn geometry(&self) -> Option<Geometry> {
        self.current.as_ref().map(|fixed| fixed.geometry)
    }

    /// The network's input, (1, frame, frame, 1), once the work is done.
    pub fn image(&self) -> TensorRef<'_, T> {
        let frame = self.geometry().map_or(0, |geometry| geometry.frame);
        self.image.at(0, Layout::packed([1, frame, frame, 1]))
    }

    /// Waits, and says of the micrograph in hand what `preprocess` says; the image stays on the GPU, so `image` is empty.
    ///
    /// Errors: as `prepared`.
    pub fn finish(&mut self, gpu: &Gpu) -> Result<Prepared> {
        self.put_read_back(gpu, true)?;
        gpu.synchronize()?;
        self.prepared()
    }

    /// Puts the copies of what `prepared` says into the stream of `gpu`, which has waited for the work; those of frame D after
    /// equalising only if it is to be shown.
    ///
    /// Errors: the device fails.
    pub fn put_read_back(&mut self, gpu: &Gpu, shown: bool) -> Result<()> {
        self.with_shown = shown;
        // SAFETY: the pinned memory is read after a wait, and written again only then.
        unsafe { self.numbers.put_download(gpu, 8 * SURVEY, &mut self.survey) }?;
        let cells = self.cells();
        if let Some(memory) = self.equalised.memory().filter(|_| shown) {
            // SAFETY: as above.
            unsafe { memory.put_download(gpu, cells, Pinned::grown(&mut self.shown, gpu, cells)?) }?;
        }
        Ok(())
    }

    /// What `preprocess` says of the micrograph in hand, after `put_read_back` and a wait; the image stays on the GPU, so
    /// `image` is empty, and so is what is not to be shown.
    ///
    /// Errors: 1 % or more of the pixels are no numbers, or no micrograph was started.
    pub fn prepared(&mut self) -> Result<Prepared> {
        let Some(geometry) = self.geometry() else { anyhow::bail!("no micrograph was started") };
        self.is_under_way = false;
        let survey: &[f64] = bytemuck::cast_slice(self.survey.bytes());
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
        let shown = self.shown.as_ref().filter(|_| self.with_shown);
        let equalised = shown.map_or_else(Vec::new, |shown| shown.bytes()[..self.cells()].to_vec());
        Ok(Prepared { geometry, image: Vec::new(), equalised, constant, warnings })
    }

    /// The grey levels of frame D before they are equalised.
    ///
    /// Errors: the work failed.
    pub fn levels(&self, gpu: &Gpu) -> Result<Vec<u8>> {
        let mut levels = vec![0; self.cells()];
        if let Some(memory) = self.levels.memory() {
            memory.download(gpu, 0, &mut levels)?;
        }
        Ok(levels)
    }

    /// Pixels of frame D.
    fn cells(&self) -> usize {
        self.geometry().map_or(0, |geometry| geometry.frame * geometry.height_d)
    }
}

/// The address of a byte of some memory.
fn argument(memory: &Memory, offset: usize) -> Arg {
    Arg::address(memory.address() + offset as u64)
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

    /// Measures all pixels, then those that are not far out, until these stay the same. The GPU takes every decision, so the host
    /// need not wait.
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
        let shape = kernel_struct!(PreprocessProduct { rows, columns, depth });
        let grid = Grid([columns.div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32, 1]);
        // SAFETY: the arguments of the KERNEL line, in its order; the matrices have these extents.
        unsafe { self.gpu.launch("preprocess_product", grid, THREADS, &[shape, a, b, out]) }
    }

    /// out (2, columns) = v (2, depth) b (depth, columns), by way of parts.
    fn vectors(&self, [columns, depth]: [usize; 2], v: Arg, b: Arg, partial: Arg, out: Arg) -> Result<()> {
        let shape = kernel_struct!(PreprocessProduct { rows: RANK, columns, depth });
        let parts = depth.div_ceil(PART_ROWS);
        let grid = Grid([columns.div_ceil(THREADS as usize) as u32, parts as u32, 1]);
        // SAFETY: the arguments of the KERNEL lines, in their order; there is room for the parts.
        unsafe {
            self.gpu.launch("preprocess_vectors", grid, THREADS, &[shape, count(PART_ROWS), v, b, partial])?;
            let grid = Grid::over(RANK * columns, THREADS)?;
            self.gpu.launch("preprocess_add_parts", grid, THREADS, &[count(RANK * columns), count(parts), partial, out])
        }
    }

    /// Takes the ground away from frame D. `scratch`: two memories with a value for each cell.
    fn level<T: Real>(&self, [height, width]: [usize; 2], weights: &Buffer<T>, image: Arg, scratch: [Arg; 2]) -> Result<()> {
        let (down, across) = (height.div_ceil(CELL), width.div_ceil(CELL));
        let shape = kernel_struct!(PreprocessCells { width, height, across, down, reach: weights.len() - 1 });
        let (weights, [means, blurred]) = (weights.view().arg(), scratch);
        let grid = Grid([across.div_ceil(THREADS as usize / CELL) as u32, down as u32, 1]);
        // SAFETY: the arguments of the KERNEL lines, in their order; the memories have a value for each pixel and for each cell.
        unsafe {
            self.gpu.launch("preprocess_cells", grid, THREADS, &[shape, image, means])?;
            let over = Grid::over(across * down, THREADS)?;
            self.gpu.launch("preprocess_blur", over, THREADS, &[shape, Arg::value(0_u32), weights, means, blurred])?;
            self.gpu.launch("preprocess_blur", over, THREADS, &[shape, Arg::value(1_u32), weights, blurred, means])?;
            self.gpu.launch("preprocess_take_ground", Grid::over(width * height, THREADS)?, THREADS, &[shape, means, image])
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
