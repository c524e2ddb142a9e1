//! Tells whether labels lie on particles. It compares the contrast at the labels with that at their mirror images in y.
//!
//! Some programs count rows from the top of an image, others from the bottom. Labels that are read the wrong way round do not
//! lie on particles, and a network that is trained with them learns nothing. The particles themselves tell which way is right,
//! because they differ from their surroundings.

use super::cache::ImageD;

/// The contrast of a set of places: its mean, and how many standard errors the mean is from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Contrast {
    /// Mean difference of grey between a place and its surroundings.
    pub mean: f64,
    /// That mean over its standard error.
    pub strength: f64,
}

/// What the contrasts say about the labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The labels lie on particles.
    Right,
    /// The mirror images of the labels lie on particles, the labels do not.
    Mirrored,
    /// Neither the labels nor their mirror images stand out.
    Undecided,
}

/// Contrasts at labels and at their mirror images, of all images so far.
#[derive(Clone, Debug, Default)]
pub struct MirrorTest {
    at_labels: Vec<f64>,
    at_mirrors: Vec<f64>,
}

/// A mean this many standard errors from 0 is no accident.
const CLEAR: f64 = 4.0;

impl MirrorTest {
    /// Adds the labels of an image: centres in frame D, each with its radius in D pixels.
    pub fn add(&mut self, image: &ImageD, labels_d: &[([f64; 2], f64)]) {
        let sums = Sums::new(image);
        let [h, _] = image.size;
        for ([x, y], radius_d_px) in labels_d {
            self.at_labels.extend(sums.contrast([*x, *y], *radius_d_px));
            self.at_mirrors.extend(sums.contrast([*x, h as f64 - 1.0 - y], *radius_d_px));
        }
    }

    /// Contrasts at the labels and at their mirror images.
    pub fn contrasts(&self) -> [Contrast; 2] {
        [&self.at_labels, &self.at_mirrors].map(|values| {
            let count = values.len() as f64;
            if count < 2.0 {
                return Contrast::default();
            }
            let mean = values.iter().sum::<f64>() / count;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
            Contrast { mean, strength: if variance > 0.0 { mean / (variance / count).sqrt() } else { 0.0 } }
        })
    }

    /// What they say.
    pub fn verdict(&self) -> Verdict {
        let [labels, mirrors] = self.contrasts().map(|contrast| contrast.strength.abs());
        match () {
            () if labels >= CLEAR && labels >= 2.0 * mirrors => Verdict::Right,
            () if mirrors >= CLEAR && mirrors >= 2.0 * labels => Verdict::Mirrored,
            () => Verdict::Undecided,
        }
    }
}

/// For each pixel, the sum over the rectangle from the upper left corner to it. The mean of any rectangle then takes four
/// reads.
struct Sums {
    size: [usize; 2],
    sums: Vec<u64>,
}

impl Sums {
    fn new(image: &ImageD) -> Self {
        let [h, w] = image.size;
        let mut sums = vec![0u64; (h + 1) * (w + 1)];
        for y in 0..h {
            let mut row = 0;
            for x in 0..w {
                row += u64::from(image.levels[y * w + x]);
                sums[(y + 1) * (w + 1) + x + 1] = sums[y * (w + 1) + x + 1] + row;
            }
        }
        Sums { size: [h, w], sums }
    }

    /// Sum and number of pixels of the square around a point, as far as it is inside.
    fn square(&self, [x, y]: [f64; 2], half: f64) -> [f64; 2] {
        let [h, w] = self.size;
        let end = |value: f64, size: usize| value.round().clamp(0.0, size as f64) as usize;
        let [x1, x2] = [end(x - half, w), end(x + half + 1.0, w)];
        let [y1, y2] = [end(y - half, h), end(y + half + 1.0, h)];
        if x1 >= x2 || y1 >= y2 {
            return [0.0, 0.0];
        }
        let at = |x: usize, y: usize| self.sums[y * (w + 1) + x];
        let sum = at(x2, y2) + at(x1, y1) - at(x1, y2) - at(x2, y1);
        [sum as f64, ((x2 - x1) * (y2 - y1)) as f64]
    }

    /// The mean grey within the radius, less the mean grey around it; `None` outside of the image.
    fn contrast(&self, centre: [f64; 2], radius: f64) -> Option<f64> {
        let radius = radius.max(2.0);
        let [inner, inner_count] = self.square(centre, 0.7 * radius);
        let [outer, outer_count] = self.square(centre, 1.6 * radius);
        let around = outer_count - inner_count;
        (inner_count > 0.0 && around > 0.0).then(|| inner / inner_count - (outer - inner) / around)
    }
}
