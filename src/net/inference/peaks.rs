//! From an image to peaks: the plan, the peaks of its heat map, and the other heads evaluated at the peaks alone.

use super::plan::Plan;
use crate::device::cpu::within_pool;
use crate::device::gpu::{CapturedGraph, Gpu, Moment, Pinned};
use crate::device::tensor::Layout;
use crate::device::{Buffer, Device, Tensor, TensorMut, TensorRef};
use crate::net::graph::Graph;
use crate::net::model::Model;
use crate::ops::conv::{self, ConvShape, Epilogue};
use crate::ops::heat_map::{self, Peak, PeakMemory};
use crate::ops::map::{self, Turn};
use crate::ops::{Compute, gather};
use anyhow::{Context, Result, ensure};

/// What a peak finder is made for.
#[derive(Clone, Copy, Debug)]
pub struct PeakFinderOptions {
    /// Rows and columns of the image: a multiple of 32.
    pub frame: usize,
    /// True if peaks get a size (vesicles).
    pub sizes: bool,
    /// Most peaks of an image.
    pub k: usize,
    /// How many views of the image are averaged.
    pub views: Views,
}

/// Views of an image whose heat maps are averaged. A network finds a particle and its mirror image alike, but for chance; the mean of
/// what it says of several views depends less on chance. Sizes and offsets are those of the image as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Views {
    /// The image as it is.
    #[default]
    One,
    /// And turned by half a turn.
    Two,
    /// And both of its mirror images besides.
    Four,
}

impl Views {
    /// The turns, the image as it is last: its maps are then still there for the other heads.
    fn turns(self) -> &'static [Turn] {
        const ALL: [Turn; 4] =
            [Turn { rows: true, columns: false }, Turn { rows: false, columns: true }, Turn { rows: true, columns: true }, Turn::NONE];
        match self {
            Views::One => &ALL[3..],
            Views::Two => &ALL[2..],
            Views::Four => &ALL,
        }
    }

    /// By their number: 1, 2 or 4.
    pub fn of(count: usize) -> Option<Views> {
        [Views::One, Views::Two, Views::Four].into_iter().find(|views| views.count() == count)
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.turns().len()
    }
}

/// What several views are averaged in.
struct Averaging {
    /// The image as it is.
    image: Tensor,
    /// The mean of the logits.
    logits: Tensor,
}

/// Peaks that go through a head at once: bounds the memory whatever K is.
const CHUNK: usize = 2048;

/// A head evaluated at chosen pixels: the 3x3 neighbourhood through two small products.
struct HeadAtPeaks {
    hidden: conv::Weights,
    last: conv::Weights,
}

/// A part of the work for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A step of the network, by its place in the plan's summary: of steps that are done together the last. Every view takes all of them.
    Step(usize),
    /// A view was turned, or its heat map turned back and added.
    Turn,
    /// The peaks of the heat map.
    Peaks,
    /// The heads that are evaluated at the peaks alone.
    Heads,
}

/// A network that finds the peaks of images of one size.
pub struct PeakFinder {
    // This field stands first, so that it is dropped before the memory that its captured work uses.
    gpu: Option<GpuWork>,
    graph: Graph,
    plan: Plan,
    k: usize,
    views: Views,
    /// Where there are several views.
    averaging: Option<Averaging>,
    offset: HeadAtPeaks,
    size: Option<HeadAtPeaks>,
    neighbourhoods: Tensor,
    hidden: Tensor,
    last: Tensor,
}

impl PeakFinder {
    /// Plans the model for square images on a device.
    ///
    /// Errors: the frame is no multiple of 32, the model lacks a tensor, or the device has not as much memory.
    pub fn new(compute: impl Into<Compute>, model: &Model, options: PeakFinderOptions) -> Result<Self> {
        let compute = compute.into();
        let device = &compute.device;
        let PeakFinderOptions { frame, sizes, k, views } = options;
        ensure!(k > 0, "no peak is asked for (K is 0); expected at least 1");
        let graph = model.architecture().graph();
        let outputs = graph.outputs();
        let plan = Plan::new(&compute, &graph, model, 1, [frame, frame], &[outputs.heat_map, outputs.up])?;
        let (c, head) = (graph.node(outputs.up).channels, model.architecture().head);
        let rows = k.min(CHUNK);
        let tensor = |c: usize| Tensor::on(device, [1, 1, rows, c], vec![0.0; rows * c]);
        let map = |side: usize| Tensor::on(device, [1, side, side, 1], vec![0.0; side * side]);
        let averaging = match views {
            Views::One => None,
            Views::Two | Views::Four => Some(Averaging { image: map(frame)?, logits: map(frame / heat_map::STRIDE)? }),
        };
        let gpu = match device {
            Device::Cpu | Device::Reference => None,
            Device::Gpu(gpu) => Some(GpuWork::new(gpu, [frame / heat_map::STRIDE; 2], k, sizes, frame * frame)?),
        };
        Ok(PeakFinder {
            gpu,
            plan,
            k,
            views,
            averaging,
            offset: HeadAtPeaks::new(&compute, model, "reg", c, rows)?,
            size: if sizes { Some(HeadAtPeaks::new(&compute, model, "wh", c, rows)?) } else { None },
            neighbourhoods: tensor(9 * c)?,
            hidden: tensor(head)?,
            last: tensor(2)?,
            graph,
        })
    }

    /// The peaks of one image, by score descending, then index ascending.
    ///
    /// Shapes: `image` (frame, frame), row-major, normalised.
    /// Errors: a launch fails on the device.
    pub fn run(&mut self, image: &[f32]) -> Result<Vec<Peak>> {
        match &mut self.gpu {
            None => within_pool(|| self.run_on_cpu(image)),
            Some(gpu) => {
                gpu.upload(&mut self.plan, image)?;
                let under_way = self.launch_on_gpu()?;
                self.landed(under_way)
            }
        }
    }

    fn run_on_cpu(&mut self, image: &[f32]) -> Result<Vec<Peak>> {
        self.plan.image_mut().as_mut_slice().copy_from_slice(image);
        self.find_on_cpu(&mut |_| Ok(()))
    }

    /// The peaks of the image that lies in the plan; says after each part which it was.
    fn find_on_cpu(&mut self, after: &mut dyn FnMut(Part) -> Result<()>) -> Result<Vec<Peak>> {
        let device = &self.plan.device().clone();
        self.run_views(device, after)?;
        let outputs = self.graph.outputs();
        let found = heat_map::peaks(device, self.logits(), self.k)?;
        after(Part::Peaks)?;
        let mut peaks: Vec<Peak> = found.iter().map(|&(index, score)| Peak { index, score, offset: [0.0; 2], size: None }).collect();
        let up = self.plan.map(outputs.up);
        for chunk in peaks.chunks_mut(CHUNK) {
            let indices: Vec<u32> = chunk.iter().map(|peak| peak.index).collect();
            gather::forward(device, up, TensorRef::flat(&indices), &mut self.neighbourhoods.view_mut())?;
            self.offset.run(device, self.neighbourhoods.view(), &mut self.hidden, &mut self.last.view_mut())?;
            for (peak, offset) in chunk.iter_mut().zip(self.last.values().chunks_exact(2)) {
                peak.offset = [offset[0], offset[1]];
            }
            if let Some(size) = &self.size {
                size.run(device, self.neighbourhoods.view(), &mut self.hidden, &mut self.last.view_mut())?;
                for (peak, size) in chunk.iter_mut().zip(self.last.values().chunks_exact(2)) {
                    peak.size = Some([size[0], size[1]]);
                }
            }
        }
        after(Part::Heads)?;
        Ok(peaks)
    }

    /// Runs the network on all views of the image that lies in the plan.
    fn run_views(&mut self, device: &Device, after: &mut dyn FnMut(Part) -> Result<()>) -> Result<()> {
        let heat_map = self.graph.outputs().heat_map;
        let Some(Averaging { image, logits }) = &mut self.averaging else {
            return self.plan.run_each(|i| after(Part::Step(i)));
        };
        map::turn(device, Turn::NONE, 1.0, false, self.plan.image_mut().as_ref(), &mut image.view_mut())?;
        let share = 1.0 / self.views.count() as f32;
        for (i, &turn) in self.views.turns().iter().enumerate() {
            map::turn(device, turn, 1.0, false, image.view(), &mut self.plan.image_mut())?;
            after(Part::Turn)?;
            self.plan.run_each(|i| after(Part::Step(i)))?;
            map::turn(device, turn, share, i > 0, self.plan.map(heat_map), &mut logits.view_mut())?;
            after(Part::Turn)?;
        }
        Ok(())
    }

    /// The logits that peaks are found in.
    fn logits(&self) -> TensorRef<'_> {
        match &self.averaging {
            Some(averaging) => averaging.logits.view(),
            None => self.plan.map(self.graph.outputs().heat_map),
        }
    }

    /// Puts the work for an image into the stream of the finder's GPU; the image is there when the stream comes to it. Nobody waits:
    /// `landed` does. Two images may be under way at a time, so that the GPU goes on while the host takes what the first one gave.
    /// Panics on the CPU: a programming error.
    ///
    /// Shapes: `image` (1, frame, frame, 1), normalised.
    /// Errors: a launch fails on the device, or two images are under way.
    pub fn launch(&mut self, image: TensorRef) -> Result<UnderWay> {
        let Some(gpu) = self.gpu().cloned() else { panic!("an image of a GPU on the CPU") };
        let to = self.plan.image_mut();
        assert_eq!(to.shape(), image.shape());
        // SAFETY: both places hold as many values, and what the last image is read for stands before this in the stream.
        unsafe { gpu.driver().copy(to.pixel_ptr(0) as u64, image.pixel_ptr(0) as u64, 4 * image.len(), gpu.stream()) }?;
        self.launch_on_gpu()
    }

    /// The peaks of an image that is under way, once they are there.
    ///
    /// Errors: its work failed on the device, or work before it did.
    pub fn landed(&mut self, under_way: UnderWay) -> Result<Vec<Peak>> {
        let Some(on) = &mut self.gpu else { panic!("an image of a GPU on the CPU") };
        let landing = &mut on.landings[under_way.0];
        landing.is_taken = false;
        landing.done.synchronize()?;
        Ok(on.peaks(under_way.0, self.size.is_some()))
    }

    /// The work for the image that lies where `image_mut` says: one launch of all of it, and a mark behind the copy back.
    ///
    /// Errors: a launch fails on the device, or two images are under way. On the CPU a programming error and a panic.
    fn launch_on_gpu(&mut self) -> Result<UnderWay> {
        let Some(mut on) = self.gpu.take() else { panic!("a peak finder without a GPU") };
        let launched = self.put_on_gpu(&mut on);
        self.gpu = Some(on);
        launched
    }

    fn put_on_gpu(&mut self, on: &mut GpuWork) -> Result<UnderWay> {
        let gpu = on.gpu.clone();
        let place = on.landings.iter().position(|landing| !landing.is_taken).context("two images are under way")?;
        match &on.landings[place].captured {
            // SAFETY: what the graph's work uses is owned by this finder, which drops the graph first.
            Some(captured) => unsafe { captured.launch() }?,
            // The first image goes step by step, so that everything is loaded before work is captured.
            None if !on.warm => {
                self.put_work(&gpu, on, place, &mut |_| Ok(()))?;
                on.warm = true;
            }
            None => {
                let captured = gpu.capture(|| self.put_work(&gpu, on, place, &mut |_| Ok(())))?;
                // SAFETY: as above.
                unsafe { captured.launch() }?;
                on.landings[place].captured = Some(captured);
            }
        }
        let landing = &mut on.landings[place];
        gpu.record_again(&landing.done)?;
        landing.is_taken = true;
        Ok(UnderWay(place))
    }

    /// Does the work for the image that lies there, on a GPU by putting it into the stream, and says after each part which it was, so that
    /// somebody may look at a clock or at what was launched.
    ///
    /// Errors: a launch fails on the device, or `after` does.
    pub fn put_parts(&mut self, after: &mut dyn FnMut(Part) -> Result<()>) -> Result<()> {
        let Some(mut on) = self.gpu.take() else { return self.find_on_cpu(after).map(drop) };
        let gpu = on.gpu.clone();
        let put = self.put_work(&gpu, &mut on, 0, after);
        self.gpu = Some(on);
        put
    }

    /// Network, peaks, heads at the peaks, and the copy of what was found.
    fn put_work(&mut self, gpu: &Gpu, on: &mut GpuWork, place: usize, after: &mut dyn FnMut(Part) -> Result<()>) -> Result<()> {
        let device = Device::Gpu(gpu.clone());
        self.run_views(&device, after)?;
        let up = self.plan.map(self.graph.outputs().up);
        on.peaks.find(gpu, self.logits())?;
        after(Part::Peaks)?;
        let k = on.peaks.k();
        for first in (0..k).step_by(CHUNK) {
            let rows = CHUNK.min(k - first);
            gather::forward_at_peaks(gpu, up, &on.peaks, first, &mut self.neighbourhoods.view_mut())?;
            let layout = Layout::packed([1, 1, rows, 2]);
            self.offset.run(&device, self.neighbourhoods.view(), &mut self.hidden, &mut on.values.at_mut(2 * first, layout))?;
            if let Some(size) = &self.size {
                size.run(&device, self.neighbourhoods.view(), &mut self.hidden, &mut on.values.at_mut(2 * (k + first), layout))?;
            }
        }
        after(Part::Heads)?;
        // SAFETY: the pinned memory is dropped after the graph, and read after the stream was waited for.
        unsafe { on.peaks.found().put_download(gpu, on.peaks.found().bytes(), &mut on.landings[place].found) }?;
        if let Some(memory) = on.values.memory() {
            // SAFETY: as above.
            unsafe { memory.put_download(gpu, memory.bytes(), &mut on.landings[place].read) }?;
        }
        Ok(())
    }

    /// The plan, for its summary.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The GPU it runs on, with its stream; none on the CPU.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref().map(|on| &on.gpu)
    }
}

/// An image whose work is in the stream of a GPU: where its peaks will land.
#[derive(Debug)]
pub struct UnderWay(usize);

/// What a peak finder has on a GPU: where peaks are found, and memory that copies reach directly.
struct GpuWork {
    // This field stands first, so that its graphs are dropped before the memory that their work uses.
    landings: [Landing; 2],
    gpu: Gpu,
    warm: bool,
    peaks: PeakMemory,
    /// The offsets of all peaks, and behind them the sizes.
    values: Buffer,
    image: Pinned,
}

/// Where the peaks of an image land on the host, and the work that ends there.
struct Landing {
    // This field stands first, so that it is dropped before the memory that its work uses.
    captured: Option<CapturedGraph>,
    found: Pinned,
    read: Pinned,
    /// The peaks are there.
    done: Moment,
    /// True while an image is under way to here.
    is_taken: bool,
}

impl Drop for Landing {
    fn drop(&mut self) {
        if self.is_taken {
            // Copies may still write to its memory. A device that fails here has been told of, or will be.
            let _ = self.done.synchronize();
        }
    }
}

impl GpuWork {
    fn new(gpu: &Gpu, extent: [usize; 2], k: usize, sizes: bool, pixels: usize) -> Result<Self> {
        let peaks = PeakMemory::new(gpu, extent, k)?;
        let values = if sizes { 4 * peaks.k() } else { 2 * peaks.k() };
        let landing = || -> Result<Landing> {
            let (found, read) = (Pinned::new(gpu, peaks.found().bytes())?, Pinned::new(gpu, 4 * values)?);
            Ok(Landing { captured: None, found, read, done: gpu.record()?, is_taken: false })
        };
        Ok(GpuWork {
            landings: [landing()?, landing()?],
            warm: false,
            values: Buffer::zeros(&Device::Gpu(gpu.clone()), values)?,
            image: Pinned::new(gpu, 4 * pixels)?,
            peaks,
            gpu: gpu.clone(),
        })
    }

    /// Copies an image to its place in the plan. No work on the last image is under way, because its peaks have been waited for.
    fn upload(&mut self, plan: &mut Plan, image: &[f32]) -> Result<()> {
        self.image.bytes_mut().copy_from_slice(bytemuck::cast_slice(image));
        let to = plan.image_mut();
        assert_eq!(to.len(), image.len(), "an image of {:?}", to.shape());
        // SAFETY: the plan's image has as many values; the pinned memory is written again after the next wait.
        unsafe { self.gpu.driver().upload(to.pixel_ptr(0) as u64, self.image.bytes().as_ptr(), 4 * image.len(), self.gpu.stream()) }
    }

    /// The peaks that have landed in a place.
    fn peaks(&self, place: usize, sizes: bool) -> Vec<Peak> {
        let Landing { found, read, .. } = &self.landings[place];
        let found = self.peaks.parse(bytemuck::cast_slice(found.bytes()));
        let values: &[f32] = bytemuck::cast_slice(read.bytes());
        let (offsets, rest) = values.split_at(2 * self.peaks.k());
        let pair = |values: &[f32], i: usize| [values[2 * i], values[2 * i + 1]];
        let peak = |(i, (index, score))| Peak { index, score, offset: pair(offsets, i), size: sizes.then(|| pair(rest, i)) };
        found.into_iter().enumerate().map(peak).collect()
    }
}

impl HeadAtPeaks {
    /// A head of a map of `c` channels, at no more than `rows` pixels at once.
    fn new(compute: &Compute, model: &Model, name: &str, c: usize, rows: usize) -> Result<Self> {
        let head = model.architecture().head;
        let tensor = |suffix: &str| model.tensor(&format!("{name}.{suffix}"));
        let hidden = gather::as_pointwise(head, c, tensor("0.weight")?);
        Ok(HeadAtPeaks {
            hidden: conv::prepare(compute, pointwise(rows, 9 * c, head), &hidden, tensor("0.bias")?)?,
            last: conv::prepare(compute, pointwise(rows, head, 2), tensor("2.weight")?, tensor("2.bias")?)?,
        })
    }

    /// Evaluates the head at as many pixels as `last` has rows.
    fn run(&self, device: &Device, neighbourhoods: TensorRef, hidden: &mut Tensor, last: &mut TensorMut) -> Result<()> {
        let rows = last.shape()[2];
        let [ci, head, _] = self.hidden.extents();
        let relu = Epilogue { residual: None, relu: true };
        conv::forward(
            device,
            pointwise(rows, ci, head),
            neighbourhoods.rows(rows),
            &self.hidden,
            relu,
            &mut hidden.view_mut().into_rows(rows),
        )?;
        conv::forward(device, pointwise(rows, head, 2), hidden.view().rows(rows), &self.last, Epilogue::default(), last)
    }
}

/// A 1x1 convolution of a row of pixels.
fn pointwise(rows: usize, ci: usize, co: usize) -> ConvShape {
    ConvShape { n: 1, h: 1, w: rows, ci, co, kernel: 1, stride: 1 }
}
