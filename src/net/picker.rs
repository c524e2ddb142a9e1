//! From an image to peaks: the plan, the peaks of its heat map, and the other heads evaluated at the peaks alone.

use super::graph::Graph;
use super::model::Model;
use super::plan::Plan;
use crate::device::{Device, Tensor, TensorRef};
use crate::ops::conv::{self, ConvShape, Epilogue, Panels};
use crate::ops::{gather, heat_map, heat_map::Peak};
use anyhow::{Result, ensure};

/// What the picker is made for.
#[derive(Clone, Copy, Debug)]
pub struct PickerOptions {
    /// Rows and columns of the image: a multiple of 32.
    pub frame: usize,
    /// True if peaks get a size (vesicles).
    pub sizes: bool,
    /// Most peaks of an image.
    pub k: usize,
}

/// Peaks that go through a head at once: bounds the memory whatever K is.
const CHUNK: usize = 2048;

/// A head evaluated at chosen pixels: the 3x3 neighbourhood through two small products.
struct HeadAtPeaks {
    hidden: Panels,
    last: Panels,
}

/// A network ready to pick.
pub struct Picker {
    graph: Graph,
    plan: Plan,
    device: Device,
    k: usize,
    offset: HeadAtPeaks,
    size: Option<HeadAtPeaks>,
    neighbourhoods: Tensor,
    hidden: Tensor,
    last: Tensor,
}

impl Picker {
    /// Plans the model for square images.
    ///
    /// Errors: the frame is no multiple of 32, or the model lacks a tensor.
    pub fn new(model: &Model, options: PickerOptions) -> Result<Self> {
        let PickerOptions { frame, sizes, k } = options;
        ensure!(k > 0, "no peak is asked for (K is 0); expected at least 1");
        let graph = model.architecture().graph();
        let outputs = graph.outputs();
        let plan = Plan::new(&graph, model, 1, [frame, frame], &[outputs.heat_map, outputs.up])?;
        let (c, head) = (graph.node(outputs.up).channels, model.architecture().head);
        let rows = k.min(CHUNK);
        Ok(Picker {
            plan,
            device: Device::Cpu,
            k,
            offset: HeadAtPeaks::new(model, "reg", c)?,
            size: if sizes { Some(HeadAtPeaks::new(model, "wh", c)?) } else { None },
            neighbourhoods: Tensor::zeros([1, 1, rows, 9 * c]),
            hidden: Tensor::zeros([1, 1, rows, head]),
            last: Tensor::zeros([1, 1, rows, 2]),
            graph,
        })
    }

    /// The peaks of one image, by score descending, then index ascending.
    ///
    /// Shapes: `image` (frame, frame), row-major, normalised.
    /// Errors: a launch fails on the device.
    pub fn run(&mut self, image: &[f32]) -> Result<Vec<Peak>> {
        self.plan.run(&self.device, image)?;
        let outputs = self.graph.outputs();
        let found = heat_map::peaks(&self.device, self.plan.map(outputs.heat_map), self.k)?;
        let mut peaks: Vec<Peak> = found.iter().map(|&(index, score)| Peak { index, score, offset: [0.0; 2], size: None }).collect();
        let up = self.plan.map(outputs.up);
        for chunk in peaks.chunks_mut(CHUNK) {
            let indices: Vec<u32> = chunk.iter().map(|peak| peak.index).collect();
            gather::forward(&self.device, up, TensorRef::flat(&indices), &mut self.neighbourhoods.view_mut())?;
            self.offset.run(&self.device, self.neighbourhoods.view(), &mut self.hidden, &mut self.last)?;
            for (peak, offset) in chunk.iter_mut().zip(self.last.values().chunks_exact(2)) {
                peak.offset = [offset[0], offset[1]];
            }
            if let Some(size) = &self.size {
                size.run(&self.device, self.neighbourhoods.view(), &mut self.hidden, &mut self.last)?;
                for (peak, size) in chunk.iter_mut().zip(self.last.values().chunks_exact(2)) {
                    peak.size = Some([size[0], size[1]]);
                }
            }
        }
        Ok(peaks)
    }

    /// The plan, for its summary.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl HeadAtPeaks {
    fn new(model: &Model, name: &str, c: usize) -> Result<Self> {
        let head = model.architecture().head;
        let device = &Device::Cpu;
        let hidden = gather::as_pointwise(head, c, model.tensor(&format!("{name}.0.weight"))?);
        Ok(HeadAtPeaks {
            hidden: Panels::for_device(device, 9 * c, head, 1, &hidden, model.tensor(&format!("{name}.0.bias"))?)?,
            last: Panels::for_device(
                device,
                head,
                2,
                1,
                model.tensor(&format!("{name}.2.weight"))?,
                model.tensor(&format!("{name}.2.bias"))?,
            )?,
        })
    }

    fn run(&self, device: &Device, neighbourhoods: TensorRef, hidden: &mut Tensor, last: &mut Tensor) -> Result<()> {
        let [n, h, w, ci] = neighbourhoods.shape();
        let shape = |ci: usize, co: usize| ConvShape { n, h, w, ci, co, kernel: 1, stride: 1 };
        let head = self.hidden.co();
        conv::forward(
            device,
            shape(ci, head),
            neighbourhoods,
            &self.hidden,
            Epilogue { residual: None, relu: true },
            &mut hidden.view_mut(),
        )?;
        conv::forward(device, shape(head, 2), hidden.view(), &self.last, Epilogue::default(), &mut last.view_mut())
    }
}
