//! What is minimised: values and gradients of all losses. They are small beside the network, so there is one body for
//! every type, which computes in f64 and in one order.
//!
//! ```text
//! p = clamp(sigmoid(z), 1e-4, 1 - 1e-4), y the target, positives y = 1, N their number, w = (1 - y)^4
//! focal            -( sum over positives (1-p)^2 ln p + sum over others w p^2 ln(1-p) ) / N
//! sparse-original  -( sum over positives (1-p)^2 ln p + 0.01 sum over others w (p > 0.7 ? ln p : ln(1-p)) ) / N
//!                  without positives: of the second sums, undivided, those with ln(1-p)
//! sparse           as focal, with another w: losses/sparse.rs
//! L1               sum over objects (|a0 - t0| + |a1 - t1|) / (2 objects + 1e-4), a at the object's pixel
//! distillation     weight * sum (a - b)^2          pull towards earlier parameters: the same
//! ```
//! Source: Lin et al. 2017, arXiv:1708.02002, as in Law, Deng 2018, arXiv:1808.01244, section 3.2; Li, Hoiem 2016,
//! arXiv:1606.09282; docs/network.md, sections 3.1 and 3.2.

use super::{Agreement, Real, backward as testing, in_value_type, noise, real::convert};
use crate::device::gpu::{Arg, Gpu, Grid, Memory};
use crate::device::{Device, Tensor, TensorMut, TensorRef};
use anyhow::Result;

mod sparse;

pub use sparse::SparseShape;

/// How the heat map is compared with its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum HeatMapLoss {
    /// Every object is labelled.
    #[default]
    Focal,
    /// Some objects are labelled: what looks like an object and is none by the labels counts for one.
    SparseOriginal,
    /// Some objects are labelled: what scores as labelled objects do is no background.
    Sparse(SparseShape),
}

impl HeatMapLoss {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            HeatMapLoss::Focal => "focal",
            HeatMapLoss::SparseOriginal => "sparse-original",
            HeatMapLoss::Sparse(_) => "sparse",
        }
    }

    /// The same for heat maps of these rows and columns, with Gaussians of this radius.
    pub fn for_maps(self, extents: [usize; 2], radius: usize) -> Self {
        match self {
            HeatMapLoss::Sparse(_) => HeatMapLoss::Sparse(SparseShape { extents, radius }),
            other => other,
        }
    }
}

impl std::str::FromStr for HeatMapLoss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [HeatMapLoss::Focal, HeatMapLoss::SparseOriginal, HeatMapLoss::Sparse(SparseShape::default())];
        let found = known.into_iter().find(|loss| loss.name() == text);
        found.ok_or_else(|| format!("'{text}'; expected {}", known.map(HeatMapLoss::name).join(", ")))
    }
}

/// The sigmoid is kept this far from 0 and 1.
const CLAMP: f64 = 1e-4;
/// Above this score an unlabelled pixel counts as an object.
const SPARSE_THRESHOLD: f64 = 0.7;
/// Weight of unlabelled pixels.
const SPARSE_WEIGHT: f64 = 0.01;

/// The focal term of a positive with the score p, and its slope by the logit.
fn found(p: f64) -> (f64, f64) {
    ((1.0 - p).powi(2) * p.ln(), (1.0 - p).powi(3) - 2.0 * p * (1.0 - p).powi(2) * p.ln())
}

/// The focal term of background with the score p, and its slope by the logit.
fn left_out(p: f64) -> (f64, f64) {
    (p * p * (1.0 - p).ln(), 2.0 * p * p * (1.0 - p) * (1.0 - p).ln() - p.powi(3))
}

/// The heat map's loss; adds `weight` times its gradient to `dlogits`.
///
/// Shapes: `logits`, `targets` and `dlogits` alike, all images of the batch.
pub fn heat_map<T: Real, Y: Real>(kind: HeatMapLoss, logits: &[T], targets: &[Y], weight: f64, dlogits: &mut [T]) -> f64 {
    assert!(logits.len() == targets.len() && dlogits.len() == logits.len(), "{} {} {}", logits.len(), targets.len(), dlogits.len());
    if let HeatMapLoss::Sparse(shape) = kind {
        return sparse::sparse(shape, logits, targets, weight, dlogits);
    }
    let positives = targets.iter().filter(|y| y.to_f64() == 1.0).count();
    let scale = 1.0 / positives.max(1) as f64;
    let mut sum = 0.0;
    for ((z, &y), dz) in logits.iter().zip(targets).zip(dlogits) {
        let raw = 1.0 / (1.0 + (-z.to_f64()).exp());
        let p = raw.clamp(CLAMP, 1.0 - CLAMP);
        let y = y.to_f64();
        let far = (1.0 - y).powi(4);
        let (value, slope) = if y == 1.0 {
            found(p)
        } else {
            match kind {
                HeatMapLoss::Focal | HeatMapLoss::Sparse(_) => {
                    let (value, slope) = left_out(p);
                    (far * value, far * slope)
                }
                HeatMapLoss::SparseOriginal if p > SPARSE_THRESHOLD => {
                    let counts = if positives > 0 { SPARSE_WEIGHT * far } else { 0.0 };
                    (counts * p.ln(), counts * (1.0 - p))
                }
                HeatMapLoss::SparseOriginal => (SPARSE_WEIGHT * far * (1.0 - p).ln(), -SPARSE_WEIGHT * far * p),
            }
        };
        sum -= value;
        if (CLAMP..=1.0 - CLAMP).contains(&raw) {
            *dz += T::from_f64(-slope * scale * weight);
        }
    }
    sum * scale
}

/// The L1 loss of two channels at the objects' pixels; adds `weight` times its gradient to `dmap`.
///
/// Shapes: `map` and `dmap` (pixels of all images, 2); `objects` are pairs of a pixel, counted through all images, and
/// the two values wanted there.
pub fn l1<T: Real>(map: &[T], objects: &[(usize, [f32; 2])], weight: f64, dmap: &mut [T]) -> f64 {
    let scale = 1.0 / (2.0 * objects.len() as f64 + 1e-4);
    let mut sum = 0.0;
    for &(pixel, wanted) in objects {
        for (axis, wanted) in wanted.into_iter().enumerate() {
            let difference = map[2 * pixel + axis].to_f64() - f64::from(wanted);
            sum += difference.abs();
            if difference != 0.0 {
                dmap[2 * pixel + axis] += T::from_f64(difference.signum() * scale * weight);
            }
        }
    }
    sum * scale
}

/// `weight` times the squared distance of `a` from `b`; adds its gradient to `da`.
pub fn squared_distance<T: Real>(a: &[T], b: &[T], weight: f64, da: &mut [T]) -> f64 {
    assert!(a.len() == b.len() && da.len() == a.len(), "{} {} {}", a.len(), b.len(), da.len());
    let mut sum = 0.0;
    for ((a, b), da) in a.iter().zip(b).zip(da) {
        let difference = a.to_f64() - b.to_f64();
        sum += difference * difference;
        *da += T::from_f64(2.0 * weight * difference);
    }
    weight * sum
}

/// `heat_map` of tensors on a device; waits for the result.
///
/// Shapes: as there; maps that lie in one piece.
/// Errors: the launch fails on the device.
pub fn heat_map_on<T: Real>(
    device: &Device,
    kind: HeatMapLoss,
    logits: TensorRef<T>,
    targets: TensorRef<T>,
    weight: f64,
    dlogits: &mut TensorMut<T>,
) -> Result<f64> {
    match device {
        Device::Cpu => Ok(heat_map(kind, logits.as_slice(), targets.as_slice(), weight, dlogits.as_mut_slice())),
        Device::Gpu(gpu) => launch_heat_map(gpu, kind, logits, targets, weight, dlogits),
    }
}

/// `l1` of a map on a device; waits for the result.
///
/// Shapes: as there; maps that lie in one piece.
/// Errors: the launch fails on the device.
pub fn l1_on<T: Real>(
    device: &Device,
    map: TensorRef<T>,
    objects: &[(usize, [f32; 2])],
    weight: f64,
    dmap: &mut TensorMut<T>,
) -> Result<f64> {
    match device {
        Device::Cpu => Ok(l1(map.as_slice(), objects, weight, dmap.as_mut_slice())),
        Device::Gpu(gpu) => launch_l1(gpu, map, objects, weight, dmap),
    }
}

/// `squared_distance` of tensors on a device; waits for the result.
///
/// Shapes: as there; tensors that lie in one piece.
/// Errors: the launch fails on the device.
pub fn squared_distance_on<T: Real>(device: &Device, a: TensorRef<T>, b: TensorRef<T>, weight: f64, da: &mut TensorMut<T>) -> Result<f64> {
    let in_one_piece = [a.layout(), b.layout(), da.layout()].iter().all(|layout| layout.buffer_len() == layout.len());
    assert!(in_one_piece, "{:?} {:?} {:?}", a.layout(), b.layout(), da.layout());
    match device {
        Device::Cpu => Ok(squared_distance(a.as_slice(), b.as_slice(), weight, da.as_mut_slice())),
        Device::Gpu(gpu) => launch_squared_distance(gpu, a, b, weight, da),
    }
}

/// Threads of a block, as the KERNEL lines say, and most blocks of a sum.
const THREADS: u32 = 256;
const MOST_PARTS: usize = 256;

/// Blocks over `count` values, whose sums are added afterwards.
fn parts(count: usize) -> usize {
    count.div_ceil(4 * THREADS as usize).clamp(1, MOST_PARTS)
}

fn blocks(count: usize) -> Grid {
    Grid([count as u32, 1, 1])
}

/// Where a loss is summed: the loss, three counts, then the parts of the sums.
struct Sums(Memory);

impl Sums {
    fn new(gpu: &Gpu, values: usize) -> Result<Self> {
        Ok(Sums(Memory::new(gpu, 8 * (4 + values))?))
    }

    fn loss(&self) -> Arg {
        Arg::address(self.0.address())
    }

    fn counts(&self) -> Arg {
        Arg::address(self.0.address() + 8)
    }

    fn partial(&self) -> Arg {
        Arg::address(self.0.address() + 32)
    }

    fn read(&self, gpu: &Gpu) -> Result<f64> {
        let mut loss = 0.0_f64;
        self.0.download(gpu, 0, bytemuck::bytes_of_mut(&mut loss))?;
        Ok(loss)
    }
}

fn launch_heat_map<T: Real>(
    gpu: &Gpu,
    kind: HeatMapLoss,
    logits: TensorRef<T>,
    targets: TensorRef<T>,
    weight: f64,
    dlogits: &mut TensorMut<T>,
) -> Result<f64> {
    assert!(logits.len() == targets.len() && dlogits.len() == logits.len(), "{} {} {}", logits.len(), targets.len(), dlogits.len());
    let kind: u32 = match kind {
        HeatMapLoss::Focal => 0,
        HeatMapLoss::SparseOriginal => 1,
        HeatMapLoss::Sparse(shape) => return launch_sparse(gpu, shape, logits, targets, weight, dlogits),
    };
    let (parts, [count, kind, stride]) = (parts(logits.len()), [logits.len() as u32, kind, 1].map(Arg::value));
    let sums = Sums::new(gpu, 3 * parts)?;
    let args = [count, kind, logits.arg(), stride, targets.arg(), sums.partial()];
    // SAFETY: the arguments of the KERNEL line, in its order; the maps have as many values, and the sums as many parts.
    unsafe { gpu.launch("losses_heat_map_sums", blocks(parts), THREADS, &args) }?;
    let args = [Arg::value(parts as u32), sums.partial(), sums.loss(), sums.counts()];
    // SAFETY: as above.
    unsafe { gpu.launch("losses_heat_map_total", blocks(1), THREADS, &args) }?;
    let args = [count, kind, Arg::value(weight), logits.arg(), stride, targets.arg(), sums.counts(), dlogits.arg(), stride];
    // SAFETY: as above.
    unsafe { gpu.launch("losses_heat_map_gradient", Grid::over(logits.len(), THREADS)?, THREADS, &args) }?;
    sums.read(gpu)
}

fn launch_sparse<T: Real>(
    gpu: &Gpu,
    SparseShape { extents: [h, w], radius }: SparseShape,
    logits: TensorRef<T>,
    targets: TensorRef<T>,
    weight: f64,
    dlogits: &mut TensorMut<T>,
) -> Result<f64> {
    let count = logits.len();
    assert!(h * w > 0 && count.is_multiple_of(h * w), "{count} values in maps of {h} x {w}");
    let (shape, parts) = (Arg::value([count / (h * w), h, w, radius].map(|extent| extent as u32)), parts(count));
    let sums = Sums::new(gpu, parts)?;
    // Four values of every pixel, then the number of positives.
    let mut pixels = Memory::new(gpu, 8 * (4 * count + 1))?;
    pixels.clear(gpu, 32 * count, 8)?;
    let [scores, labelled, guesses, weights, found] = [0, 1, 2, 3, 4].map(|i| Arg::address(pixels.address() + 8 * i * count as u64));
    let (grid, part_count) = (Grid::over(count, THREADS)?, Arg::value(parts as u32));
    let (logits, targets, counts, partial) = (logits.arg(), targets.arg(), sums.counts(), sums.partial());
    let launch = |name: &'static str, grid: Grid, args: &[Arg]| {
        // SAFETY: the arguments of the KERNEL line, in its order; the maps have as many values, and the sums as many parts.
        unsafe { gpu.launch(name, grid, THREADS, args) }
    };
    launch("losses_sparse_scores", grid, &[shape, logits, targets, scores, labelled, found])?;
    launch("losses_sparse_guess", blocks(parts), &[shape, targets, scores, labelled, found, guesses, partial])?;
    launch("losses_sparse_share", blocks(1), &[part_count, partial, found, counts])?;
    launch("losses_sparse_sums", blocks(parts), &[shape, targets, scores, guesses, counts, weights, partial])?;
    launch("losses_sparse_total", blocks(1), &[part_count, partial, counts, sums.loss()])?;
    launch("losses_sparse_gradient", grid, &[shape, Arg::value(weight), logits, targets, counts, weights, dlogits.arg()])?;
    sums.read(gpu)
}

fn launch_l1<T: Real>(gpu: &Gpu, map: TensorRef<T>, objects: &[(usize, [f32; 2])], weight: f64, dmap: &mut TensorMut<T>) -> Result<f64> {
    assert!(map.len() == dmap.len() && objects.iter().all(|object| 2 * object.0 + 1 < map.len()), "{} {}", map.len(), dmap.len());
    let cells: Vec<u32> = objects.iter().map(|&(pixel, _)| pixel as u32).collect();
    let wanted: Vec<[f32; 4]> = objects.iter().map(|&(_, [x, y])| [x, y, 0.0, 0.0]).collect();
    let (mut cell_memory, mut wanted_memory) = (Memory::new(gpu, 4 * cells.len())?, Memory::new(gpu, 16 * cells.len())?);
    cell_memory.upload(gpu, 0, bytemuck::cast_slice(&cells))?;
    wanted_memory.upload(gpu, 0, bytemuck::cast_slice(&wanted))?;
    let labels = Labels { count: cells.len(), cells: Arg::address(cell_memory.address()), wanted: Arg::address(wanted_memory.address()) };
    l1_of_labels(gpu, map, labels, false, weight, dmap)
}

/// Objects in memory of a GPU.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// How many; some may be none.
    pub count: usize,
    /// u32 each: the pixel, counted through all images, or 2^32 - 1 for none.
    pub cells: Arg,
    /// Four f32 each: offset and size, x before y.
    pub wanted: Arg,
}

/// `l1_on` of objects that lie on the GPU: of their offsets, or of their sizes.
///
/// Shapes: as `l1`.
/// Errors: the launch fails.
pub fn l1_of_labels<T: Real>(
    gpu: &Gpu,
    map: TensorRef<T>,
    labels: Labels,
    sizes: bool,
    weight: f64,
    dmap: &mut TensorMut<T>,
) -> Result<f64> {
    let Labels { count: objects, cells, wanted } = labels;
    let (sums, stride) = (Sums::new(gpu, 0)?, Arg::value(2_u32));
    let (count, first) = (Arg::value(objects as u32), Arg::value(if sizes { 2_u32 } else { 0 }));
    let args = [count, first, cells, wanted, map.arg(), stride, sums.loss(), sums.counts()];
    // SAFETY: the arguments of the KERNEL line, in its order; all objects lie on the map.
    unsafe { gpu.launch("losses_l1_total", blocks(1), THREADS, &args) }?;
    let args = [count, first, Arg::value(weight), cells, wanted, map.arg(), stride, sums.counts(), dmap.arg(), stride];
    // SAFETY: as above.
    unsafe { gpu.launch("losses_l1_gradient", Grid::over(objects, THREADS)?, THREADS, &args) }?;
    sums.read(gpu)
}

fn launch_squared_distance<T: Real>(gpu: &Gpu, a: TensorRef<T>, b: TensorRef<T>, weight: f64, da: &mut TensorMut<T>) -> Result<f64> {
    assert!(a.len() == b.len() && da.len() == a.len(), "{} {} {}", a.len(), b.len(), da.len());
    let (parts, [pixels, c, stride]) = (parts(a.len()), [a.len() as u32, 1, 1].map(Arg::value));
    let sums = Sums::new(gpu, parts)?;
    let args = [pixels, c, Arg::value(weight), a.arg(), stride, b.arg(), stride, da.arg(), stride, sums.partial()];
    // SAFETY: the arguments of the KERNEL line, in its order; all three have as many values, and the sums as many parts.
    unsafe { gpu.launch("losses_map_distance", blocks(parts), THREADS, &args) }?;
    let args = [Arg::value(parts as u32), Arg::value(0_u32), Arg::value(weight), sums.partial(), sums.loss()];
    // SAFETY: as above.
    unsafe { gpu.launch("losses_distance_total", blocks(1), THREADS, &args) }?;
    sums.read(gpu)
}

/// Positives, ties and near misses for `len` pixels.
fn case_targets(len: usize) -> Vec<f32> {
    noise(len, 5).iter().enumerate().map(|(i, y)| if i % 7 == 3 { 1.0 } else { (y + 0.5) * 0.99 }).collect()
}

/// Maps of two images, or of one.
fn case_sparse(len: usize) -> HeatMapLoss {
    let extents = if len == 1 { [1, 1] } else { [5, len / 10] };
    HeatMapLoss::Sparse(SparseShape { extents, radius: 2 })
}

fn case_objects(pixels: usize) -> Vec<(usize, [f32; 2])> {
    (0..pixels).step_by(3).flat_map(|pixel| [(pixel, [0.25, -0.5]), (pixel / 2, [0.3, 0.1])]).collect()
}

/// The losses on a device against the same in f64: values and gradients.
///
/// Errors: as `heat_map_on`.
pub fn compare_backward(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_backward_as)
}

fn compare_backward_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    for len in [1, 40, 1000] {
        let logits: Vec<f32> = noise(len, 1).iter().map(|z| 12.0 * z).collect();
        let (maps, earlier) = (noise(2 * len, 2), noise(2 * len, 3));
        let wide = |values: &[f32]| convert::<f64>(values);
        let on = |values: &[f32]| Tensor::flat_on(device, convert::<T>(values));
        let mut check = |case: String, loss: f64, exact: Vec<f64>, run: &dyn Fn(&mut TensorMut<T>) -> Result<f64>| -> Result<()> {
            let plain: Vec<f32> = exact.iter().map(|&x| x as f32).collect();
            let mut value = f64::NAN;
            let shape = testing::list(exact.len());
            agreements.push(testing::agree(device, format!("gradient of {case}"), shape, &plain, &exact, |found| {
                value = run(found)?;
                Ok(())
            })?);
            // A loss is a sum in f64 of values in T.
            let (error, bound) = ((value - loss).abs(), if size_of::<T>() == 8 { 1e-9 } else { 1e-5 } * loss.abs());
            let error = if error.is_nan() { f64::INFINITY } else { error };
            agreements.push(Agreement { case, error, bound, bits: value.to_bits() });
            Ok(())
        };
        for kind in [HeatMapLoss::Focal, HeatMapLoss::SparseOriginal, case_sparse(len)] {
            let mut exact = vec![0.0; len];
            let loss = heat_map(kind, &wide(&logits), &case_targets(len), 2.0, &mut exact);
            let (logits, targets) = (on(&logits)?, on(&case_targets(len))?);
            check(format!("{} of {len}", kind.name()), loss, exact, &|found| {
                heat_map_on(device, kind, logits.view(), targets.view(), 2.0, found)
            })?;
        }
        let (a, b) = (on(&maps)?, on(&earlier)?);
        let mut exact = vec![0.0; 2 * len];
        let loss = l1(&wide(&maps), &case_objects(len), 0.5, &mut exact);
        check(format!("l1 of {len}"), loss, exact, &|found| l1_on(device, a.view(), &case_objects(len), 0.5, found))?;
        let mut exact = vec![0.0; 2 * len];
        let loss = squared_distance(&wide(&maps), &wide(&earlier), 0.1, &mut exact);
        check(format!("squared distance of {len}"), loss, exact, &|found| squared_distance_on(device, a.view(), b.view(), 0.1, found))?;
    }
    Ok(agreements)
}

/// The gradients in f64 against finite differences.
pub fn differences() -> Vec<Agreement> {
    let len = 40;
    let logits: Vec<f64> = noise(len, 1).iter().map(|z| 12.0 * f64::from(*z)).collect();
    let (maps, earlier) = (convert::<f64>(&noise(2 * len, 2)), convert::<f64>(&noise(2 * len, 3)));
    let mut agreements = Vec::new();
    let alone: Vec<f32> = (0..len).map(|i| [0.0, 0.3, 1.0][usize::from(i == 1) + 2 * usize::from(i == 2)]).collect();
    for (kind, targets) in [
        (case_sparse(len), case_targets(len)),
        (case_sparse(len), alone),
        (case_sparse(len), vec![0.0; len]),
        (HeatMapLoss::Focal, case_targets(len)),
        (HeatMapLoss::Focal, vec![0.25; len]),
        (HeatMapLoss::SparseOriginal, case_targets(len)),
        (HeatMapLoss::SparseOriginal, vec![0.25; len]),
    ] {
        let mut dlogits = vec![0.0; len];
        heat_map(kind, &logits, &targets, 1.0, &mut dlogits);
        agreements.push(testing::differences(kind.name().into(), [(logits.clone(), dlogits)], &[1.0], |[logits]| {
            vec![heat_map(kind, logits, &targets, 1.0, &mut vec![0.0; len])]
        }));
    }
    let objects = case_objects(len);
    let mut dmap = vec![0.0; 2 * len];
    l1(&maps, &objects, 1.0, &mut dmap);
    agreements.push(testing::differences("l1".into(), [(maps.clone(), dmap)], &[1.0], |[map]| {
        vec![l1(map, &objects, 1.0, &mut vec![0.0; 2 * len])]
    }));
    let mut dmap = vec![0.0; 2 * len];
    squared_distance(&maps, &earlier, 0.1, &mut dmap);
    agreements.push(testing::differences("squared distance".into(), [(maps, dmap)], &[1.0], |[map]| {
        vec![squared_distance(map, &earlier, 0.1, &mut vec![0.0; 2 * len])]
    }));
    agreements
}
