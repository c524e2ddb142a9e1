//! Augmentation: which part of an image (frame D) a step sees, how it is turned, and where the labels go with it.
//!
//! A sample is cut out around a random centre, at the image's own scale. It is mirrored and turned by quarters, and its
//! contrast is changed a little. With the options of the original (a random centre, and mirroring in x) samples have the same
//! bits as the original's.

use super::targets::CornersH;
use crate::ops::heat_map;
use crate::preprocess::warp_affine;
use crate::random::Random;

/// One of the eight ways to lay an image on itself: transpose first, then mirror.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Symmetry {
    /// Rows become columns.
    pub transpose: bool,
    /// Mirrors in x.
    pub flip_x: bool,
    /// Mirrors in y.
    pub flip_y: bool,
}

/// A box in frame D: left, top, right and bottom, D pixels.
pub type CornersD = [f32; 4];

impl Symmetry {
    /// Rows and columns of the turned image.
    pub fn size(self, [h, w]: [usize; 2]) -> [usize; 2] {
        if self.transpose { [w, h] } else { [h, w] }
    }

    /// The turned image.
    ///
    /// Shapes: [h, w] into [`Symmetry::size`].
    pub fn image(self, image: &[u8], [h, w]: [usize; 2]) -> Vec<u8> {
        let [out_h, out_w] = self.size([h, w]);
        let mut out = Vec::with_capacity(image.len());
        for row in 0..out_h {
            let y = if self.flip_y { out_h - 1 - row } else { row };
            let source = |column: usize| {
                let x = if self.flip_x { out_w - 1 - column } else { column };
                if self.transpose { image[x * w + y] } else { image[y * w + x] }
            };
            out.extend((0..out_w).map(source));
        }
        out
    }

    /// Where a point of the image of [h, w] goes.
    pub fn point(self, [x, y]: [f64; 2], size: [usize; 2]) -> [f64; 2] {
        let [out_h, out_w] = self.size(size);
        let [x, y] = if self.transpose { [y, x] } else { [x, y] };
        [if self.flip_x { out_w as f64 - x - 1.0 } else { x }, if self.flip_y { out_h as f64 - y - 1.0 } else { y }]
    }

    /// Where a box goes, in the original's f32 steps.
    pub fn corners(self, corners: CornersD, size: [usize; 2]) -> CornersD {
        let [out_h, out_w] = self.size(size);
        let [mut x1, mut y1, mut x2, mut y2] = corners;
        if self.transpose {
            (x1, y1, x2, y2) = (y1, x1, y2, x2);
        }
        if self.flip_x {
            (x1, x2) = (out_w as f32 - x2 - 1.0, out_w as f32 - x1 - 1.0);
        }
        if self.flip_y {
            (y1, y2) = (out_h as f32 - y2 - 1.0, out_h as f32 - y1 - 1.0);
        }
        [x1, y1, x2, y2]
    }
}

/// How far samples may differ from the images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Probability of mirroring in x.
    pub flip_x: f64,
    /// Probability of mirroring in y.
    pub flip_y: f64,
    /// Probability of a quarter turn. With both mirrors an image is laid on itself in all eight ways.
    pub turn: f64,
    /// How much the contrast changes: it is multiplied by a factor from 1 - `contrast` to 1 + `contrast`, and grey levels shift
    /// by at most 0.5 * `contrast` * 255.
    pub contrast: f64,
    /// True if samples are drawn around a random centre, false if around the centre of the image.
    pub random_centre: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { flip_x: 0.5, flip_y: 0.5, turn: 0.5, contrast: 0.1, random_centre: true }
    }
}

/// What is drawn for one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Point of the image (frame D, before it is turned) that becomes the centre of the sample.
    pub centre_d: [f64; 2],
    /// How the image is turned.
    pub symmetry: Symmetry,
    /// Grey levels are multiplied by the first number around the middle grey, and the second is added.
    pub contrast: Option<[f32; 2]>,
}

impl Sample {
    /// The whole image as it is: for validation.
    pub fn whole([h, w]: [usize; 2]) -> Self {
        Sample { centre_d: [w as f64 / 2.0, h as f64 / 2.0], symmetry: Symmetry::default(), contrast: None }
    }

    /// Draws a sample of an image of [h, w].
    pub fn draw(random: &mut Random, [h, w]: [usize; 2], options: &Options) -> Self {
        let mut sample = Sample::whole([h, w]);
        // The same numbers are always drawn in the same order, so that one option does not change what another one draws.
        let [x, y] = [random.unit(), random.unit()];
        if options.random_centre {
            sample.centre_d = [within_margin(x, w), within_margin(y, h)];
        }
        let mut chance = |share| random.chance(share);
        sample.symmetry = Symmetry { flip_x: chance(options.flip_x), flip_y: chance(options.flip_y), transpose: chance(options.turn) };
        let [gain, shift] = [random.unit(), random.unit()].map(|unit| 2.0 * unit - 1.0);
        if options.contrast > 0.0 {
            sample.contrast = Some([1.0 + options.contrast * gain, 0.5 * options.contrast * shift * 255.0].map(|value| value as f32));
        }
        sample
    }
}

impl Sample {
    /// Moves the centre of the sample to one of these places, frame D, and from there by at most `reach` pixels along each axis. Without a
    /// place the sample stays where it is, and nothing is drawn.
    pub fn focus(&mut self, random: &mut Random, places: &[[f64; 2]], reach: f64) {
        if places.is_empty() {
            return;
        }
        let place = places[((random.unit() * places.len() as f64) as usize).min(places.len() - 1)];
        self.centre_d = place.map(|at| at + (2.0 * random.unit() - 1.0) * reach);
    }
}

/// Centres keep this far from the border, D pixels.
const MARGIN: usize = 128;

/// The margin for an image of `size` pixels. It is halved until something is left between the margins of both sides.
pub fn margin(size: usize) -> usize {
    let mut margin = MARGIN;
    while margin > 0 && size <= 2 * margin {
        margin /= 2;
    }
    margin
}

fn within_margin(unit: f64, size: usize) -> f64 {
    let margin = margin(size);
    (margin + (unit * (size - 2 * margin) as f64) as usize) as f64
}

/// The square of the network's input that a sample is drawn into.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crop {
    /// Side in pixels of frame N: a multiple of 32.
    pub side_n: usize,
    /// N pixels per D pixel: 1, or less where the image is higher than the frame.
    pub scale: f64,
}

impl Crop {
    /// A square of `side_n` pixels of an image of `[h, w]`, at the scale at which picking sees the image in a frame of width
    /// `frame`.
    pub fn new([h, w]: [usize; 2], frame: usize, side_n: usize) -> Self {
        Crop { side_n, scale: frame as f64 / h.max(w).max(frame) as f64 }
    }

    /// The grey levels of a sample; black outside of the image.
    ///
    /// Shapes: [h, w] of frame D into `side_n` x `side_n`.
    pub fn image(&self, image: &[u8], size: [usize; 2], sample: &Sample) -> Vec<u8> {
        let turned = if sample.symmetry == Symmetry::default() { image.to_vec() } else { sample.symmetry.image(image, size) };
        let levels = match sample.contrast {
            Some(contrast) => change_contrast(&turned, contrast),
            None => turned,
        };
        let [x, y] = sample.symmetry.point(sample.centre_d, size);
        let half = self.side_n as f64 / 2.0;
        let matrix = [[self.scale, 0.0, half - x * self.scale], [0.0, self.scale, half - y * self.scale]];
        warp_affine(&levels, sample.symmetry.size(size), &matrix, [self.side_n; 2])
    }

    /// Where a box of the image lies on the heat map of a sample. It is computed in f64, and each corner is rounded to f32, as
    /// the original does.
    pub fn corners_h(&self, corners: CornersD, size: [usize; 2], sample: &Sample) -> CornersH {
        let [x, y] = sample.symmetry.point(sample.centre_d, size);
        let side_h = (self.side_n / heat_map::STRIDE) as f64;
        let scale = self.scale * side_h / self.side_n as f64;
        let [x1, y1, x2, y2] = sample.symmetry.corners(corners, size).map(f64::from);
        let along = |value: f64, centre: f64| (scale * value + (side_h / 2.0 - scale * centre)) as f32;
        [along(x1, x), along(y1, y), along(x2, x), along(y2, y)]
    }
}

fn change_contrast(levels: &[u8], [gain, shift]: [f32; 2]) -> Vec<u8> {
    let table: Vec<u8> = (0..=255u8).map(|level| ((f32::from(level) - 127.5) * gain + 127.5 + shift).round() as u8).collect();
    levels.iter().map(|&level| table[usize::from(level)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_go_where_their_pixels_go() {
        let (h, w) = (3, 5);
        let image: Vec<u8> = (0..15).collect();
        for code in 0..8 {
            let symmetry = Symmetry { transpose: code & 1 > 0, flip_x: code & 2 > 0, flip_y: code & 4 > 0 };
            let turned = symmetry.image(&image, [h, w]);
            let [_, out_w] = symmetry.size([h, w]);
            for (i, &level) in image.iter().enumerate() {
                let [x, y] = symmetry.point([(i % w) as f64, (i / w) as f64], [h, w]);
                assert_eq!(turned[y as usize * out_w + x as usize], level, "{symmetry:?}");
                let corners = [(i % w) as f32, (i / w) as f32, (i % w) as f32 + 1.0, (i / w) as f32 + 2.0];
                let [x1, y1, x2, y2] = symmetry.corners(corners, [h, w]);
                let centre = symmetry.point([f64::from(corners[0]) + 0.5, f64::from(corners[1]) + 1.0], [h, w]);
                assert_eq!([f64::from(x1 + x2) / 2.0, f64::from(y1 + y2) / 2.0], centre);
                assert!(x2 > x1 && y2 > y1);
            }
        }
    }

    #[test]
    fn samples_stay_within_the_margin_and_use_all_eight_ways() {
        let mut ways = std::collections::BTreeSet::new();
        for i in 0..400 {
            let sample = Sample::draw(&mut Random::new(1, &[i]), [300, 1024], &Options::default());
            let [x, y] = sample.centre_d;
            assert!((128.0..896.0).contains(&x) && (128.0..172.0).contains(&y), "{sample:?}");
            let Symmetry { transpose, flip_x, flip_y } = sample.symmetry;
            ways.insert((transpose, flip_x, flip_y));
            let [gain, shift] = sample.contrast.unwrap();
            assert!((0.9..=1.1).contains(&gain) && shift.abs() <= 12.75);
        }
        assert_eq!(ways.len(), 8);
    }

    #[test]
    fn contrast_around_the_middle_leaves_black_outside_alone() {
        let sample = Sample { contrast: Some([1.0, 20.0]), ..Sample::whole([32, 64]) };
        let crop = Crop::new([32, 64], 64, 64).image(&[100; 32 * 64], [32, 64], &sample);
        assert_eq!((crop[0], crop[16 * 64]), (0, 120));
    }
}
