//! Targets: what the network should answer to an image. They are drawn on the heat map (frame H) from the image's labels.
//!
//! Each label leaves a Gaussian of height 1 in the heat map, and an object, which says where the label's centre lies within its
//! cell and how large its box is. Source: Zhou et al. 2019, arXiv:1904.07850, section 3.

pub mod gpu;

use crate::formats::marks::Shape;

/// One labelled object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// Which image of the batch.
    pub image: usize,
    /// Row-major index of the cell that holds its centre, in the heat map of that image.
    pub index: usize,
    /// Offset of its centre from that cell, x then y, heat-map pixels, 0..1.
    pub offset: [f32; 2],
    /// Width and height of its box, heat-map pixels.
    pub size: [f32; 2],
}

/// The targets of a batch. Frame H.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Targets {
    /// (n, h, w): 1 exactly at the objects' cells, a Gaussian around each, 0 elsewhere.
    pub heat_map: Vec<f32>,
    /// All objects of all images; several may share a cell.
    pub objects: Vec<Object>,
    /// The labels of all objects, if all targets were drawn from labels. A GPU then draws the targets itself.
    pub labels: Option<Labels>,
}

/// What is said of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It does not count, whatever the network says there.
    LeftOut,
    /// Nothing is there that is looked for.
    Nothing,
}

/// The target of cells that do not count. All losses weigh a cell below 1 by (1 - y)^4, so that what is just below 1 weighs nothing.
const LEFT_OUT: f32 = 1.0 - f32::EPSILON;
/// The target of cells where nothing is. It weighs as 0 does; but where some objects have no label, the sparse loss takes a high score at
/// 0 for one of these, and not here.
const SURELY_NOTHING: f32 = 1e-6;

/// A box on the heat map: left, top, right and bottom, heat-map pixels.
pub type CornersH = [f32; 4];

/// Labels of a batch.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Labels {
    /// Which image of the batch, and the box.
    pub boxes: Vec<(usize, CornersH)>,
    /// As in `Targets::add`.
    pub clip: bool,
}

impl Targets {
    /// Images without labels.
    pub fn new([n, h, w]: [usize; 3]) -> Self {
        Targets { heat_map: vec![0.0; n * h * w], objects: Vec::new(), labels: Some(Labels::default()) }
    }

    /// Draws a label into an image of the batch, whose heat map is `[h, w]`. Returns false if the label lies outside.
    ///
    /// With `clip` the box is first cut at the border as the original does, which moves its centre (`--compat clip-centre`).
    /// Without `clip` the label counts if its centre is inside, and keeps its centre and size.
    pub fn add(&mut self, image: usize, [h, w]: [usize; 2], corners: CornersH, clip: bool) -> bool {
        let [mut x1, mut y1, mut x2, mut y2] = corners;
        let label = Labels { boxes: vec![(image, corners)], clip };
        if clip {
            let limit = |value: f32, cells: usize| value.clamp(0.0, cells.saturating_sub(1) as f32);
            (x1, y1, x2, y2) = (limit(x1, w), limit(y1, h), limit(x2, w), limit(y2, h));
        }
        let size = [x2 - x1, y2 - y1];
        let centre = [(x1 + x2) / 2.0, (y1 + y2) / 2.0];
        // This is written so that a NaN counts as outside.
        let is_inside = size[0] > 0.0 && size[1] > 0.0 && (0.0..w as f32).contains(&centre[0]) && (0.0..h as f32).contains(&centre[1]);
        if !is_inside {
            return false;
        }
        let [column, row] = [centre[0] as usize, centre[1] as usize];
        let radius = radius_of(size);
        draw_gaussian(&mut self.heat_map[image * h * w..(image + 1) * h * w], [h, w], [column, row], radius);
        let offset = [centre[0] - column as f32, centre[1] - row as f32];
        self.objects.push(Object { image, index: row * w + column, offset, size });
        self.add_labels(Some(label));
        true
    }

    /// Draws an area of an image of the batch, whose heat map is `[h, w]`; the area is in frame H. Cells of labels stay as they are, and
    /// what is left out stays left out.
    pub fn mark(&mut self, image: usize, [h, w]: [usize; 2], area: &Shape, mark: Mark) {
        let map = &mut self.heat_map[image * h * w..(image + 1) * h * w];
        for (i, cell) in map.iter_mut().enumerate() {
            // A cell is asked by its middle.
            let middle = [(i % w) as f64 + 0.5, (i / w) as f64 + 0.5];
            let is_free = match mark {
                Mark::LeftOut => *cell != 1.0,
                Mark::Nothing => *cell < SURELY_NOTHING,
            };
            if is_free && area.holds(middle) {
                *cell = if mark == Mark::LeftOut { LEFT_OUT } else { SURELY_NOTHING };
            }
        }
        // A GPU draws labels alone, so these targets go there as they are.
        self.labels = None;
    }

    /// Appends the targets of another batch. `n` is the number of images that the targets so far belong to.
    pub fn followed_by(&mut self, n: usize, other: Targets) {
        self.heat_map.extend(other.heat_map);
        self.objects.extend(other.objects.into_iter().map(|object| Object { image: n + object.image, ..object }));
        let moved = |(image, corners)| (n + image, corners);
        let labels = other.labels.map(|labels| Labels { boxes: labels.boxes.into_iter().map(moved).collect(), ..labels });
        if n == 0 { self.labels = labels } else { self.add_labels(labels) }
    }

    /// Appends the labels of another batch. Labels that are clipped and labels that are not cannot be drawn together, so then
    /// none are kept.
    fn add_labels(&mut self, other: Option<Labels>) {
        self.labels = match (self.labels.take(), other) {
            (Some(these), Some(other)) if other.boxes.is_empty() => Some(these),
            (Some(these), Some(other)) if these.boxes.is_empty() => Some(other),
            (Some(mut these), Some(other)) if these.clip == other.clip => {
                these.boxes.extend(other.boxes);
                Some(these)
            }
            _ => None,
        };
    }

    /// The middle radius of the objects' Gaussians. Without objects it is 1, as for the original's boxes.
    pub fn typical_radius(&self) -> usize {
        let mut radii: Vec<usize> = self.objects.iter().map(|object| radius_of(object.size)).collect();
        radii.sort_unstable();
        radii.get(radii.len() / 2).copied().unwrap_or(1)
    }
}

/// Radius of the Gaussian for a box of this width and height.
fn radius_of([width, height]: [f32; 2]) -> usize {
    gaussian_radius([height.ceil(), width.ceil()].map(f64::from))
}

/// The overlap with the true box that a box keeps if its corners move by the radius.
const MIN_OVERLAP: f64 = 0.7;

/// Radius of the Gaussian for a box of `h` x `w` heat-map pixels: whole pixels, rounded down.
///
/// Source: Law and Deng 2018, arXiv:1808.01244, section 3.2, as their program computes it: the roots are not divided by
/// twice the leading coefficient, so the radius differs from the paper's. Models are trained with it.
pub fn gaussian_radius(size: [f64; 2]) -> usize {
    radius_exact(size).max(0.0) as usize
}

fn radius_exact([h, w]: [f64; 2]) -> f64 {
    let o = MIN_OVERLAP;
    let root = |b: f64, four_ac: f64| (b + (b * b - four_ac).sqrt()) / 2.0;
    let touching = root(h + w, 4.0 * (w * h * (1.0 - o) / (1.0 + o)));
    let inside = root(2.0 * (h + w), 4.0 * 4.0 * ((1.0 - o) * w * h));
    let outside = root(-2.0 * o * (h + w), 4.0 * (4.0 * o) * ((o - 1.0) * w * h));
    touching.min(inside).min(outside)
}

/// Draws a Gaussian of height 1 and deviation (2 radius + 1) / 6. Where values are there already, the greater one stays. The
/// Gaussian ends `radius` cells from its centre.
///
/// Shapes: `map` (h, w); `centre` column and row inside of it.
pub fn draw_gaussian(map: &mut [f32], [h, w]: [usize; 2], [x, y]: [usize; 2], radius: usize) {
    let sigma = (2 * radius + 1) as f64 / 6.0;
    for row in y.saturating_sub(radius)..(y + radius + 1).min(h) {
        for column in x.saturating_sub(radius)..(x + radius + 1).min(w) {
            let (dx, dy) = (column.abs_diff(x) as f64, row.abs_diff(y) as f64);
            let value = (-(dx * dx + dy * dy) / (2.0 * sigma * sigma)).exp();
            if value >= f64::EPSILON {
                let cell = &mut map[row * w + column];
                *cell = cell.max(value as f32);
            }
        }
    }
}
