//! What a network sees in an image: the mean of the map that feeds its heads, over the labels. Images whose vectors lie
//! far apart look different to the network.

use crate::device::Device;
use crate::net::graph::Graph;
use crate::net::inference::plan::Plan;
use crate::net::model::Model;
use crate::ops::heat_map;
use crate::preprocess::geometry::Geometry;
use crate::preprocess::network_input;
use crate::train::augment::CornersD;
use crate::train::cache::ImageD;
use crate::train::exemplar::select_by_coverage;
use anyhow::Result;

/// How many images are shown to a network, at most, before some are chosen among them.
const MOST_SHOWN: usize = 100;

/// Chooses images that look different to a network, until they hold `wanted` labels; `counts` are the labels by image, and
/// `image` gives an image with its boxes. Of a large data set the network sees only a part, spread evenly over the list.
/// The same seed gives the same choice.
///
/// Errors: the model lacks a tensor, an image cannot be had, or the network cannot run.
pub fn select_by_features(
    model: &Model,
    frame: usize,
    counts: &[usize],
    wanted: usize,
    seed: u64,
    image: impl Fn(usize) -> Result<(ImageD, Vec<CornersD>)>,
) -> Result<Vec<usize>> {
    let with_labels = counts.iter().filter(|count| **count > 0).count();
    let share = if with_labels > MOST_SHOWN { counts.iter().sum::<usize>() * MOST_SHOWN / with_labels } else { usize::MAX };
    let shown = select_by_coverage(counts, share.max(wanted), seed, None);
    let mut network = Features::new(model, frame)?;
    let features = shown
        .iter()
        .map(|&i| {
            let (image, boxes) = image(i)?;
            network.of(&image, &boxes)
        })
        .collect::<Result<Vec<_>>>()?;
    let shown_counts: Vec<usize> = shown.iter().map(|&i| counts[i]).collect();
    let chosen = select_by_coverage(&shown_counts, wanted, seed, Some(&features));
    Ok(chosen.into_iter().map(|k| shown[k]).collect())
}

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
        let plan = Plan::new(&Device::Cpu, &graph, model, 1, [frame, frame], &[graph.outputs().up])?;
        Ok(Features { graph, plan, frame })
    }

    /// The vector of an image with these labels; of the whole image if none is inside.
    ///
    /// Errors: the network cannot run.
    pub fn of(&mut self, image: &ImageD, boxes: &[CornersD]) -> Result<Vec<f32>> {
        let [height_d, width_d] = image.size;
        // Only frame D matters here, so the geometry is that of a micrograph which is frame D itself.
        let geometry = Geometry { nx: width_d, ny: height_d, frame: self.frame, height_d };
        self.plan.run(&network_input(&image.levels, &geometry))?;
        let map = self.plan.map(self.graph.outputs().up);
        let [_, h, w, _] = map.shape();
        let cell = |corners: &CornersD| {
            let centre = [f64::from(corners[0] + corners[2]) / 2.0, f64::from(corners[1] + corners[3]) / 2.0];
            let [x, y] = geometry.d_to_n(centre).map(|value| value / heat_map::STRIDE as f64);
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
