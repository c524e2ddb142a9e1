//! Batches: images and targets in the form that a step takes. What is drawn for a batch depends on the seed, the epoch and the
//! image alone.

use super::augment::{self, CornersD, Crop, Sample};
use super::cache::{ImageCache, ImageD};
use super::exemplar::Exemplar;
use super::targets::{Mark, Targets};
use crate::formats::marks::Shape;
use crate::ops::heat_map;
use crate::preprocess::{Normalisation, normalise};
use crate::random::Random;
use anyhow::{Context, Result};
use rayon::prelude::*;
use std::path::PathBuf;

/// An image with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingImage {
    /// The micrograph, or the picture of an exemplar.
    pub path: PathBuf,
    /// Boxes of the labels, frame D.
    pub boxes: Vec<CornersD>,
    /// What else is known of it.
    pub marks: MarksD,
}

/// What is known of an image beside its labels. Frame D.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MarksD {
    /// Areas that are left out: neither what is found there nor what is missed counts.
    pub areas: Vec<Shape>,
    /// Places where nothing is that is looked for.
    pub nothing: Vec<[f64; 2]>,
    /// Where samples are drawn, if not everywhere: around what somebody has looked at, in an image that is not finished.
    pub focus: Vec<[f64; 2]>,
}

impl MarksD {
    /// Draws the marks into the targets of a sample whose heat map has `side_h` rows; `radius_d` is that of the labels.
    fn draw(&self, targets: &mut Targets, side_h: usize, to_h: &dyn Fn([f64; 2]) -> [f64; 2], (radius_d, scale_h): (f64, f64)) {
        let all = |points: &[[f64; 2]]| points.iter().map(|point| to_h(*point)).collect();
        for at in &self.nothing {
            targets.mark(0, [side_h; 2], &Shape::Brush((radius_d * scale_h).max(1.0), vec![to_h(*at)]), Mark::Nothing);
        }
        for area in &self.areas {
            let area = match area {
                Shape::Region(outline) => Shape::Region(all(outline)),
                Shape::Brush(half_width, path) => Shape::Brush(half_width * scale_h, all(path)),
                other => other.clone(),
            };
            targets.mark(0, [side_h; 2], &area, Mark::LeftOut);
        }
    }
}

/// How samples are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DataOptions {
    /// Width of frame D.
    pub frame: usize,
    /// Side of the samples, frame N: a multiple of 32.
    pub side_n: usize,
    /// How far samples may differ from the images.
    pub augment: augment::Options,
    /// True if boxes are cut at the border, as the original does.
    pub clip: bool,
    /// Mean and deviation of the grey levels.
    pub normalisation: Normalisation,
    /// Seed of all that is drawn.
    pub seed: u64,
}

/// Where the images come from.
#[derive(Debug)]
enum Source {
    Micrographs(ImageCache),
    Exemplars(Exemplar),
}

/// A data set.
#[derive(Debug)]
pub struct Data {
    images: Vec<TrainingImage>,
    source: Source,
    options: DataOptions,
}

/// The images and targets of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// (n, side_n, side_n), one channel, normalised.
    pub images: Vec<f32>,
    /// What the network should answer.
    pub targets: Targets,
    /// Number of images.
    pub n: usize,
}

impl Batch {
    /// The images of this batch, then those of another.
    pub fn followed_by(mut self, other: Batch) -> Batch {
        self.images.extend(other.images);
        self.targets.followed_by(self.n, other.targets);
        self.n += other.n;
        self
    }
}

/// One image as one step sees it: which image it is, and the two numbers that decide how it is cropped and turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Index of the image.
    pub image: usize,
    /// The epoch, or the round in an endless row of images.
    pub epoch: u64,
    /// Tells several samples of one image within an epoch apart.
    pub pass: u64,
}

impl Draw {
    /// Draws of several images in one pass of an epoch.
    pub fn of(images: &[usize], epoch: u64, pass: u64) -> Vec<Draw> {
        images.iter().map(|&image| Draw { image, epoch, pass }).collect()
    }
}

const ORDER: u64 = 0x6f72_6465;
const SAMPLE: u64 = 0x7361_6d70;

impl Data {
    /// Labelled micrographs; prepared images are kept in the cache.
    pub fn of_micrographs(images: Vec<TrainingImage>, cache: ImageCache, options: DataOptions) -> Self {
        Data { images, source: Source::Micrographs(cache), options }
    }

    /// The exemplars of earlier data sets.
    pub fn of_exemplars(exemplar: Exemplar, options: DataOptions) -> Self {
        let image = |entry: &super::exemplar::Entry| TrainingImage {
            path: entry.file.clone().into(),
            boxes: entry.corners(),
            marks: MarksD::default(),
        };
        Data { images: exemplar.entries.iter().map(image).collect(), source: Source::Exemplars(exemplar), options }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// True if there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The images of each step of an epoch, in random order. The last step may have fewer images than the others. `pass` tells
    /// several passes of one epoch apart.
    pub fn steps(&self, epoch: u64, pass: u64, batch: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.images.len()).collect();
        Random::new(self.options.seed, &[ORDER, epoch, pass]).shuffle(&mut order);
        order.chunks(batch.max(1)).map(<[usize]>::to_vec).collect()
    }

    /// A stretch of the endless row of images. The row has all images in random order, then all of them again in another order,
    /// and so on. The place of a draw in the row decides everything about it, so a training may go on anywhere.
    pub fn endless(&self, stretch: std::ops::Range<usize>) -> Vec<Draw> {
        let count = self.images.len().max(1);
        let mut draws = Vec::with_capacity(stretch.len());
        for round in stretch.start / count..stretch.end.div_ceil(count) {
            let order = self.steps(round as u64 + 1, 0, count).into_iter().flatten();
            let within = order.enumerate().filter(|(i, _)| stretch.contains(&(round * count + i)));
            draws.extend(within.map(|(_, image)| Draw { image, epoch: round as u64 + 1, pass: 0 }));
        }
        draws
    }

    /// The samples of a step.
    ///
    /// Errors: an image cannot be read.
    pub fn batch(&self, draws: &[Draw]) -> Result<Batch> {
        let DataOptions { side_n, normalisation, clip, .. } = self.options;
        let side_h = side_n / heat_map::STRIDE;
        let sampled: Vec<(Vec<f32>, Targets)> = draws
            .par_iter()
            .map(|&Draw { image: i, epoch, pass }| {
                let image = self.image(i)?;
                let crop = Crop::new(image.size, self.options.frame, side_n);
                let mut random = Random::new(self.options.seed, &[SAMPLE, epoch, pass, i as u64]);
                let mut sample = Sample::draw(&mut random, image.size, &self.options.augment);
                let TrainingImage { boxes, marks, .. } = &self.images[i];
                sample.focus(&mut random, &marks.focus, side_n as f64 / crop.scale / 4.0);
                let input = normalise(&crop.image(&image.levels, image.size, &sample), normalisation);
                let mut targets = Targets::new([1, side_h, side_h]);
                for corners in boxes {
                    targets.add(0, [side_h; 2], crop.corners_h(*corners, image.size, &sample), clip);
                }
                let to_h = |[x, y]: [f64; 2]| {
                    let [x, y, ..] = crop.corners_h([x as f32, y as f32, x as f32, y as f32], image.size, &sample);
                    [f64::from(x), f64::from(y)]
                };
                let radius_d = boxes.first().map_or(0.0, |[x1, _, x2, _]| f64::from(x2 - x1) / 4.0);
                marks.draw(&mut targets, side_h, &to_h, (radius_d, crop.scale / heat_map::STRIDE as f64));
                Ok((input, targets))
            })
            .collect::<Result<_>>()?;
        let one = |(images, targets)| Batch { images, targets, n: 1 };
        Ok(sampled.into_iter().map(one).fold(Batch::default(), Batch::followed_by))
    }

    fn image(&self, i: usize) -> Result<ImageD> {
        let path = &self.images[i].path;
        match &self.source {
            // The warnings about a micrograph were given when it was first read.
            Source::Micrographs(cache) => cache.get(path, &mut Vec::new()),
            Source::Exemplars(exemplar) => {
                let entry = exemplar.entries.get(i).with_context(|| format!("{}: no such exemplar", path.display()))?;
                exemplar.image(entry)
            }
        }
    }
}
