//! What a network sees in an image: the mean of the map that feeds its heads, over the labels. Images whose vectors lie
//! far apart look different to the network.

use crate::device::Device;
use crate::net::graph::Graph;
use crate::net::model::Model;
use crate::net::plan::Plan;
use crate::pick::geometry::Geometry;
use crate::pick::preprocess::{Normalisation, letterbox, normalise};
use crate::train::augment::CornersD;
use crate::train::cache::ImageD;
use anyhow::Result;

/// A network that is asked for its features.
pub struct Features {
    graph: Graph,
    plan: Plan,
    frame: usize,
}

impl Features {
    /// Plans the network for images of a frame.
    ///
    /// Errors: the frame is no multiple of 32, or the model lacks a tensor.
    pub fn new(model: &Model, frame: usize) -> Result<Self> {
        let graph = model.architecture().graph();
        let plan = Plan::new(&graph, model, 1, [frame, frame], &[graph.outputs().up])?;
        Ok(Features { graph, plan, frame })
    }

    /// The vector of an image with these labels; of the whole image if none is inside.
    ///
    /// Errors: the network cannot run.
    pub fn of(&mut self, image: &ImageD, boxes: &[CornersD]) -> Result<Vec<f32>> {
        let [height_d, width_d] = image.size;
        // Frame D is all that matters here: a geometry whose micrograph is D itself.
        let geometry = Geometry { nx: width_d, ny: height_d, frame: self.frame, height_d };
        let input = normalise(&letterbox(&image.levels, &geometry), Normalisation::Picking);
        self.plan.run(&Device::Cpu, &input)?;
        let map = self.plan.map(self.graph.outputs().up);
        let [_, h, w, _] = map.shape();
        let cell = |corners: &CornersD| {
            let centre = [f64::from(corners[0] + corners[2]) / 2.0, f64::from(corners[1] + corners[3]) / 2.0];
            let [x, y] = geometry.d_to_n(centre).map(|value| value / 4.0);
            let is_inside = (0.0..w as f64).contains(&x) && (0.0..h as f64).contains(&y);
            is_inside.then_some(y as usize * w + x as usize)
        };
        let mut cells: Vec<usize> = boxes.iter().filter_map(cell).collect();
        if cells.is_empty() {
            cells = (0..h * w).collect();
        }
        let mut sums = vec![0.0f64; map.pixel(0).len()];
        for &cell in &cells {
            sums.iter_mut().zip(map.pixel(cell)).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        Ok(sums.into_iter().map(|sum| (sum / cells.len() as f64) as f32).collect())
    }
}
