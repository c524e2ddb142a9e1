//! The losses of a step on a device: their launches, and the one place where their values are added up and read together,
//! so that a step of training waits once.

use super::{HeatMapLoss, SparseShape, heat_map, l1, squared_distance};
use crate::device::gpu::{Arg, Gpu, Grid, GrowingMemory, Memory};
use crate::device::{Device, Team, TensorMut, TensorRef};
use crate::kernel_struct;
use crate::ops::Real;
use anyhow::Result;
use std::ops::Range;

/// Which loss a value is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Of the heat map.
    HeatMap,
    /// L1 of the offsets.
    Offset,
    /// L1 of the sizes.
    Size,
    /// All squared distances together.
    Distance,
}

/// Number of losses that have one value each.
const LOSSES: usize = Loss::Distance as usize;
/// Threads of a block, as the KERNEL lines say, and most blocks of a sum.
const THREADS: u32 = 256;
const MOST_PARTS: usize = 256;
/// Most parameters of a block.
const PIECE: usize = 1 << 13;

/// The values of the losses on the device that computes them. All that the calls have put into a GPU's stream is done when `read`
/// returns.
#[derive(Debug)]
pub struct LossValues {
    /// The losses, and behind them the squared distances: those of parameters, and those of maps for each place of an image.
    on_host: Vec<f64>,
    gpu: Option<GpuSums>,
}

/// Maps of an image whose squared distances are told apart.
pub const DISTANCES: usize = 2;

#[derive(Debug)]
struct GpuSums {
    gpu: Gpu,
    values: Memory,
    /// Three counts and then the parts of the sums of the loss in hand, which one launch leaves here for the next ones.
    sums: GrowingMemory,
    pixels: GrowingMemory,
    cells: GrowingMemory,
    wanted: GrowingMemory,
}

/// Ranges of parameters, cut into the pieces that a block takes.
#[derive(Debug)]
pub struct Ranges {
    ranges: Vec<Range<usize>>,
    pieces: usize,
    memory: Option<Memory>,
}

impl Ranges {
    /// Ranges that do not overlap, known to the device.
    ///
    /// Errors: the device has not as much memory.
    pub fn new(device: &Device, ranges: Vec<Range<usize>>) -> Result<Self> {
        let piece = |range: &Range<usize>, first: usize| [first as u32, PIECE.min(range.end - first) as u32];
        let cut = |range: &Range<usize>| range.clone().step_by(PIECE).map(|first| piece(range, first)).collect::<Vec<[u32; 2]>>();
        let pieces: Vec<[u32; 2]> = ranges.iter().flat_map(cut).collect();
        let memory = match device {
            Device::Cpu | Device::Reference => None,
            Device::Gpu(gpu) => {
                let mut memory = Memory::new(gpu, 8 * pieces.len())?;
                memory.upload(gpu, 0, bytemuck::cast_slice(&pieces))?;
                Some(memory)
            }
        };
        Ok(Ranges { ranges, pieces: pieces.len(), memory })
    }
}

/// Objects in memory of a GPU.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// How many entries there are; some of them may hold no object.
    pub count: usize,
    /// u32 each: the pixel, counted through all images, or 2^32 - 1 for none.
    pub cells: Arg,
    /// Four f32 each: offset and size, x before y.
    pub wanted: Arg,
}

impl LossValues {
    /// Values of 0, for a batch that has so many places for images.
    ///
    /// Errors: the device has not as much memory.
    pub fn new(device: &Device, places: usize) -> Result<Self> {
        let count = LOSSES + 1 + DISTANCES * places;
        let gpu = match device {
            Device::Cpu | Device::Reference => None,
            Device::Gpu(gpu) => Some(GpuSums {
                gpu: gpu.clone(),
                values: Memory::new(gpu, 8 * count)?,
                sums: GrowingMemory::default(),
                pixels: GrowingMemory::default(),
                cells: GrowingMemory::default(),
                wanted: GrowingMemory::default(),
            }),
        };
        let mut values = LossValues { on_host: vec![0.0; count], gpu };
        values.clear()?;
        Ok(values)
    }

    /// Makes all values 0.
    ///
    /// Errors: the device fails.
    pub fn clear(&mut self) -> Result<()> {
        self.on_host.fill(0.0);
        match &mut self.gpu {
            None => Ok(()),
            Some(on) => on.values.clear(&on.gpu, 0, size_of_val(&*self.on_host)),
        }
    }

    /// All values; waits for them. Distances are added in the order of the maps, for each map in that of the images, and those of
    /// parameters last.
    ///
    /// Errors: the device fails, or work before this did.
    pub fn read(&self) -> Result<impl Fn(Loss) -> f64 + use<>> {
        let mut values = self.on_host.clone();
        if let Some(on) = &self.gpu {
            on.values.download(&on.gpu, 0, bytemuck::cast_slice_mut(&mut values))?;
        }
        let (parameters, of_maps) =
            values.split_off(LOSSES).split_first().map(|(first, others)| (*first, others.to_vec())).unwrap_or_default();
        let of_map = |map: usize| of_maps.iter().skip(map).step_by(DISTANCES);
        let distance = (0..DISTANCES).flat_map(of_map).fold(0.0, |sum, value| sum + value) + parameters;
        values.push(distance);
        Ok(move |loss: Loss| values[loss as usize])
    }

    /// Brings together the distances of the maps that each device of a team has found for its images.
    ///
    /// Errors: as `Collective::gather`. Panics if there are not as many places: a programming error.
    pub fn gather_distances(&mut self, team: &Team) -> Result<()> {
        let (first, per_image) = (LOSSES + 1, 8 * DISTANCES);
        assert!(self.on_host.len() >= first + DISTANCES * team.places(), "{} values for {} images", self.on_host.len(), team.places());
        let (device, memory) = match &self.gpu {
            None => (Device::Cpu, self.on_host[first..].as_mut_ptr().cast::<u8>()),
            Some(on) => (Device::Gpu(on.gpu.clone()), (on.values.address() + 8 * first as u64) as *mut u8),
        };
        // SAFETY: there are as many values behind the first one, and they are this struct's own.
        unsafe { team.gather(&device, memory, per_image) }
    }

    /// `heat_map` of tensors on the device.
    ///
    /// Shapes: as there; maps that lie in one piece.
    /// Errors: a launch fails.
    pub fn heat_map<T: Real>(
        &mut self,
        kind: HeatMapLoss,
        logits: TensorRef<T>,
        targets: TensorRef<T>,
        weight: f64,
        dlogits: &mut TensorMut<T>,
    ) -> Result<()> {
        let Some(on) = &mut self.gpu else {
            self.on_host[Loss::HeatMap as usize] = heat_map(kind, logits.as_slice(), targets.as_slice(), weight, dlogits.as_mut_slice());
            return Ok(());
        };
        assert!(logits.len() == targets.len() && dlogits.len() == logits.len(), "{} {} {}", logits.len(), targets.len(), dlogits.len());
        match kind {
            HeatMapLoss::Focal => on.heat_map(0, logits, targets, weight, dlogits),
            HeatMapLoss::SparseOriginal => on.heat_map(1, logits, targets, weight, dlogits),
            HeatMapLoss::Sparse(shape) => on.sparse(shape, logits, targets, weight, dlogits),
        }
    }

    /// `l1` of a map on the device.
    ///
    /// Shapes: as there; maps that lie in one piece.
    /// Errors: a launch fails.
    pub fn l1<T: Real>(
        &mut self,
        loss: Loss,
        map: TensorRef<T>,
        objects: &[(usize, [f32; 2])],
        weight: f64,
        dmap: &mut TensorMut<T>,
    ) -> Result<()> {
        let Some(on) = &mut self.gpu else {
            self.on_host[loss as usize] = l1(map.as_slice(), objects, weight, dmap.as_mut_slice());
            return Ok(());
        };
        assert!(map.len() == dmap.len() && objects.iter().all(|object| 2 * object.0 + 1 < map.len()), "{} {}", map.len(), dmap.len());
        let cells: Vec<u32> = objects.iter().map(|&(pixel, _)| pixel as u32).collect();
        let wanted: Vec<[f32; 4]> = objects.iter().map(|&(_, [x, y])| [x, y, 0.0, 0.0]).collect();
        on.cells.of(&on.gpu, 4 * cells.len())?.upload(&on.gpu, 0, bytemuck::cast_slice(&cells))?;
        on.wanted.of(&on.gpu, 16 * cells.len())?.upload(&on.gpu, 0, bytemuck::cast_slice(&wanted))?;
        let labels = Labels { count: cells.len(), cells: on.cells.arg(), wanted: on.wanted.arg() };
        on.l1(loss, map, labels, 0, weight, dmap)
    }

    /// `l1` of objects that lie on the GPU: of their offsets (`Loss::Offset`), or of their sizes. Panics on the CPU: a
    /// programming error.
    ///
    /// Shapes: as there.
    /// Errors: a launch fails.
    pub fn l1_of_labels<T: Real>(
        &mut self,
        loss: Loss,
        map: TensorRef<T>,
        labels: Labels,
        weight: f64,
        dmap: &mut TensorMut<T>,
    ) -> Result<()> {
        let Some(on) = &mut self.gpu else { panic!("labels of a GPU on the CPU") };
        on.l1(loss, map, labels, if loss == Loss::Size { 2 } else { 0 }, weight, dmap)
    }

    /// `squared_distance` of a map of an image, by the places of the image in the batch and of the map among `DISTANCES`.
    ///
    /// Shapes: as there; tensors that lie in one piece.
    /// Errors: a launch fails.
    pub fn squared_distance<T: Real>(
        &mut self,
        [image, map]: [usize; 2],
        a: TensorRef<T>,
        b: TensorRef<T>,
        weight: f64,
        da: &mut TensorMut<T>,
    ) -> Result<()> {
        let place = LOSSES + 1 + DISTANCES * image + map;
        assert!(map < DISTANCES && place < self.on_host.len(), "map {map} of image {image}");
        let in_one_piece = [a.layout(), b.layout(), da.layout()].iter().all(|layout| layout.buffer_len() == layout.len());
        assert!(in_one_piece, "{:?} {:?} {:?}", a.layout(), b.layout(), da.layout());
        let Some(on) = &mut self.gpu else {
            self.on_host[place] += squared_distance(a.as_slice(), b.as_slice(), weight, da.as_mut_slice());
            return Ok(());
        };
        assert!(a.len() == b.len() && da.len() == a.len(), "{} {} {}", a.len(), b.len(), da.len());
        let (parts, [pixels, c, stride]) = (parts(a.len()), [a.len() as u32, 1, 1].map(Arg::value));
        let [_, partial] = on.sums(parts)?;
        let args = [pixels, c, Arg::value(weight), a.arg(), stride, b.arg(), stride, da.arg(), stride, partial];
        on.launch("losses_map_distance", blocks(parts), &args)?;
        on.add_distance(place, parts, weight, partial)
    }

    /// The same for ranges of parameters: all values of `a`, `b` and `da` that lie in them.
    ///
    /// Shapes: `a`, `b` and `da` alike, flat.
    /// Errors: a launch fails.
    pub fn parameter_distance<T: Real>(
        &mut self,
        ranges: &Ranges,
        a: TensorRef<T>,
        b: TensorRef<T>,
        weight: f64,
        da: &mut TensorMut<T>,
    ) -> Result<()> {
        assert!(a.len() == b.len() && da.len() == a.len(), "{} {} {}", a.len(), b.len(), da.len());
        assert!(ranges.ranges.iter().all(|range| range.end <= a.len()), "a range beyond {} values", a.len());
        match (&mut self.gpu, &ranges.memory) {
            (Some(on), Some(memory)) => {
                let [_, partial] = on.sums(ranges.pieces)?;
                let args = [Arg::value(weight), Arg::address(memory.address()), a.arg(), b.arg(), da.arg(), partial];
                on.launch("losses_parameter_distance", Grid::of(ranges.pieces)?, &args)?;
                on.add_distance(LOSSES, ranges.pieces, weight, partial)
            }
            _ => {
                let (a, b, da) = (a.as_slice(), b.as_slice(), da.as_mut_slice());
                for range in &ranges.ranges {
                    let (now, earlier, gradient) = (&a[range.clone()], &b[range.clone()], &mut da[range.clone()]);
                    self.on_host[LOSSES] += squared_distance(now, earlier, weight, gradient);
                }
                Ok(())
            }
        }
    }
}

/// Blocks over `count` values, whose sums are added afterwards.
fn parts(count: usize) -> usize {
    count.div_ceil(4 * THREADS as usize).clamp(1, MOST_PARTS)
}

fn blocks(count: usize) -> Grid {
    Grid([count as u32, 1, 1])
}

impl GpuSums {
    /// Launches a kernel of this room. Every caller passes the arguments of its KERNEL line, in its order, of maps that
    /// have as many values as it says, and of sums that have as many parts.
    fn launch(&self, name: &'static str, grid: Grid, args: &[Arg]) -> Result<()> {
        // SAFETY: see above; the maps are borrowed by the caller, and the rest is this struct's own.
        unsafe { self.gpu.launch(name, grid, THREADS, args) }
    }

    fn value(&self, loss: Loss) -> Arg {
        Arg::address(self.values.address() + 8 * loss as u64)
    }

    /// Where the counts lie, and `values` parts of sums behind them.
    fn sums(&mut self, values: usize) -> Result<[Arg; 2]> {
        let first = self.sums.of(&self.gpu, 8 * (3 + values))?.address();
        Ok([first, first + 24].map(Arg::address))
    }

    fn add_distance(&self, place: usize, parts: usize, weight: f64, partial: Arg) -> Result<()> {
        let value = Arg::address(self.values.address() + 8 * place as u64);
        let args = [Arg::value(parts as u32), Arg::value(1_u32), Arg::value(weight), partial, value];
        self.launch("losses_distance_total", blocks(1), &args)
    }

    fn heat_map<T: Real>(
        &mut self,
        kind: u32,
        logits: TensorRef<T>,
        targets: TensorRef<T>,
        weight: f64,
        dlogits: &mut TensorMut<T>,
    ) -> Result<()> {
        let (parts, [count, kind, stride]) = (parts(logits.len()), [logits.len() as u32, kind, 1].map(Arg::value));
        let [counts, partial] = self.sums(3 * parts)?;
        let args = [count, kind, logits.arg(), stride, targets.arg(), partial];
        self.launch("losses_heat_map_sums", blocks(parts), &args)?;
        let args = [Arg::value(parts as u32), partial, self.value(Loss::HeatMap), counts];
        self.launch("losses_heat_map_total", blocks(1), &args)?;
        let args = [count, kind, Arg::value(weight), logits.arg(), stride, targets.arg(), counts, dlogits.arg(), stride];
        self.launch("losses_heat_map_gradient", Grid::over(logits.len(), THREADS)?, &args)
    }

    fn sparse<T: Real>(
        &mut self,
        SparseShape { extents: [h, w], radius }: SparseShape,
        logits: TensorRef<T>,
        targets: TensorRef<T>,
        weight: f64,
        dlogits: &mut TensorMut<T>,
    ) -> Result<()> {
        let count = logits.len();
        assert!(h * w > 0 && count.is_multiple_of(h * w), "{count} values in maps of {h} x {w}");
        let (shape, parts) = (kernel_struct!(LossesSparse { images: count / (h * w), h, w, radius }), parts(count));
        let [counts, partial] = self.sums(parts)?;
        // Four values of every pixel, then the number of positives.
        let pixels = self.pixels.of(&self.gpu, 8 * (4 * count + 1))?;
        pixels.clear(&self.gpu, 32 * count, 8)?;
        let [scores, labelled, guesses, weights, found] = [0, 1, 2, 3, 4].map(|i| Arg::address(pixels.address() + 8 * i * count as u64));
        let (grid, part_count) = (Grid::over(count, THREADS)?, Arg::value(parts as u32));
        let (logits, targets, loss) = (logits.arg(), targets.arg(), self.value(Loss::HeatMap));
        self.launch("losses_sparse_scores", grid, &[shape, logits, targets, scores, labelled, found])?;
        self.launch("losses_sparse_guess", blocks(parts), &[shape, targets, scores, labelled, found, guesses, partial])?;
        self.launch("losses_sparse_share", blocks(1), &[part_count, partial, found, counts])?;
        self.launch("losses_sparse_sums", blocks(parts), &[shape, targets, scores, guesses, counts, weights, partial])?;
        self.launch("losses_sparse_total", blocks(1), &[part_count, partial, counts, loss])?;
        let args = [shape, Arg::value(weight), logits, targets, counts, weights, dlogits.arg()];
        self.launch("losses_sparse_gradient", grid, &args)
    }

    /// `first` is the place among the four wanted values at which those of this loss begin.
    fn l1<T: Real>(
        &mut self,
        loss: Loss,
        map: TensorRef<T>,
        labels: Labels,
        first: u32,
        weight: f64,
        dmap: &mut TensorMut<T>,
    ) -> Result<()> {
        let Labels { count: objects, cells, wanted } = labels;
        let [counts, _] = self.sums(0)?;
        let [count, first, stride] = [objects as u32, first, 2].map(Arg::value);
        let args = [count, first, cells, wanted, map.arg(), stride, self.value(loss), counts];
        self.launch("losses_l1_total", blocks(1), &args)?;
        let args = [count, first, Arg::value(weight), cells, wanted, map.arg(), stride, counts, dmap.arg(), stride];
        self.launch("losses_l1_gradient", Grid::over(objects, THREADS)?, &args)
    }
}
