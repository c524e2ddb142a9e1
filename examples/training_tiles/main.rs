//! Makes training images of labelled micrographs: it brings particles to about one size, cuts the micrographs into square tiles,
//! and makes each tile worse in ways in which micrographs differ: noise, blur, an uneven ground, clipped grey levels. The
//! general models are trained on such tiles (weights/README.md).
//!
//! `--contrast 1.05,2.6` brings each tile to a contrast between these by noise: the variance of the pixels at particles over that of the
//! pixels between them (examples/contrast.rs measures it). `--decoys 0.5` draws dirt into half of the tiles.
//!
//! ```text
//! cargo run --release --example training_tiles -- MICROGRAPHS OUTPUT [--labels FOLDER] [--diameter PIXELS --to 17,32] ...
//! ```
//!
//! The same options make the same bytes. Without `--diameter` the micrographs keep their scale. Files are
//! `NAME_VERSION_TILE.mrc` with `.thi` (vesicles, fibers) or `.star` beside them. Micrographs smaller than a tile are
//! continued by their mirror images, and so are their labels.

mod decoys;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use epicker::formats::coordinates::{Coordinate, Coordinates, Kind, Size};
use epicker::formats::image::{Micrograph, read_micrograph};
use epicker::formats::mrc_write::{self, PixelType};
use epicker::formats::thi;
use epicker::preprocess::fourier_crop;
use epicker::preprocess::geometry::Geometry;
use epicker::random::Random;
use epicker::simulate::spectrum;
use epicker::train::labels::{self, Labelled};
use rayon::prelude::*;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Make training images of labelled micrographs
#[derive(Debug, Parser)]
struct Args {
    /// Micrographs: a folder or a list
    micrographs: PathBuf,
    /// Where the files go; made with its parents
    output: PathBuf,
    /// Labels [default: beside the micrographs]
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Diameter of the particles, micrograph pixels
    #[arg(long, requires = "to")]
    diameter: Option<f64>,
    /// Least and largest diameter in the tiles, pixels
    #[arg(long, requires = "diameter", value_delimiter = ',')]
    to: Option<Vec<f64>>,
    /// Side of the tiles, pixels
    #[arg(long, default_value_t = 512)]
    tile: usize,
    /// Versions of each micrograph, each at its own size; every tile is in a condition of its own
    #[arg(long, default_value_t = 1)]
    versions: u64,
    /// Least and largest contrast of a tile, instead of any amount of noise; takes labels with sizes, or --diameter
    #[arg(long, value_delimiter = ',')]
    contrast: Option<Vec<f64>>,
    /// Share of the tiles that get decoys; takes labels with sizes, or --diameter
    #[arg(long, default_value_t = 0.0)]
    decoys: f64,
    /// Leave pixels as they are
    #[arg(long)]
    plain: bool,
    /// The same seed makes the same tiles
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.tile >= 64 && args.tile.is_multiple_of(32), "--tile {}: expected a multiple of 32, 64 or more", args.tile);
    let range = |to: &Vec<f64>| to.len() == 2 && to[0] >= 4.0 && to[0] <= to[1];
    ensure!(args.to.as_ref().is_none_or(range), "--to {:?}: expected the least and the largest diameter, pixels", args.to);
    let contrast = |range: &Vec<f64>| range.len() == 2 && range[0] > 1.0 && range[0] <= range[1];
    ensure!(args.contrast.as_ref().is_none_or(contrast), "--contrast {:?}: expected two numbers above 1", args.contrast);
    let gathered = labels::gather(&args.micrographs, args.labels.as_ref().unwrap_or(&args.micrographs), &labels::Options::default())?;
    std::fs::create_dir_all(&args.output).with_context(|| format!("{}: cannot be made", args.output.display()))?;
    let counts: Vec<[usize; 2]> =
        gathered.labelled.par_iter().enumerate().map(|(i, one)| tiles(&args, i as u64, one)).collect::<Result<_>>()?;
    let sum = |which: usize| counts.iter().map(|count| count[which]).sum::<usize>();
    println!("{}: {} tiles, {} labels", args.output.display(), sum(0), sum(1));
    Ok(())
}

/// Writes all tiles of one micrograph; returns how many tiles and how many labels there are.
fn tiles(args: &Args, index: u64, one: &Labelled) -> Result<[usize; 2]> {
    let micrograph = read_micrograph(&one.path, &Default::default())?;
    let mut count = [0; 2];
    for version in 0..args.versions {
        let mut random = Random::new(args.seed, &[index, version]);
        let image = Image::of(&micrograph, one, args, &mut random)?;
        for (number, (corner, mut tile)) in image.cut(args.tile).into_iter().enumerate() {
            if !args.plain {
                worsen(&mut tile, args, &mut random).with_context(|| format!("{}: tile at {corner:?}", one.path.display()))?;
            }
            let stem = args.output.join(format!("{}_{version}_{number}", one.stem));
            tile.save(&stem, args.tile).with_context(|| format!("{}: tile at {corner:?}", one.path.display()))?;
            count = [count[0] + 1, count[1] + tile.truth.points.len()];
        }
    }
    Ok(count)
}

/// Pixels, and the labels of what they show.
struct Image {
    pixels: Vec<f32>,
    size: [usize; 2],
    pixel_size_angstrom: f64,
    truth: Coordinates,
}

impl Image {
    /// Diameter of the particles, pixels of this image; none where no label has a size.
    fn diameter(&self) -> Option<f64> {
        let sizes: Vec<f64> = self.truth.points.iter().filter_map(|point| point.size).map(|size| size.width.max(size.height)).collect();
        (!sizes.is_empty()).then(|| sizes.iter().sum::<f64>() / sizes.len() as f64)
    }

    /// The micrograph at the size that is drawn for this version.
    fn of(micrograph: &Micrograph, one: &Labelled, args: &Args, random: &mut Random) -> Result<Image> {
        let pixel_size = one.pixel_size_angstrom.unwrap_or(1.0);
        let truth = one.coordinates.clone();
        let (Some(diameter), Some(to)) = (args.diameter, &args.to) else {
            let pixels = micrograph.pixels.to_f32();
            return Ok(Image { pixels, size: [micrograph.ny, micrograph.nx], pixel_size_angstrom: pixel_size, truth });
        };
        // The size is drawn evenly in the logarithm, so twice as large is as likely as half as large.
        let wanted = (to[0].ln() + random.unit() * (to[1] / to[0]).ln()).exp();
        let frame = ((micrograph.nx as f64 * wanted / diameter / 32.0).round() as usize).max(2) * 32;
        let geometry = Geometry::new(micrograph.nx, micrograph.ny, frame);
        let pixels = fourier_crop::crop(&micrograph.pixels, &geometry, None, false)?;
        let scale = frame as f64 / micrograph.nx as f64;
        let moved = |point: &Coordinate| {
            let [x, y] = geometry.m_to_d([point.x, point.y]);
            let size = Some(Size { width: diameter * scale, height: diameter * scale });
            Coordinate { x, y, size, estimated_size: None, ..*point }
        };
        Ok(Image {
            pixels: pixels.iter().map(|&value| value as f32).collect(),
            size: [geometry.height_d, frame],
            pixel_size_angstrom: pixel_size / scale,
            truth: Coordinates { kind: truth.kind, points: truth.points.iter().map(moved).collect() },
        })
    }

    /// As few tiles as are needed to cover the image; a small image is mirrored at its lower and right border.
    fn cut(&self, side: usize) -> Vec<([usize; 2], Image)> {
        let [height, width] = self.size;
        let starts = |length: usize| {
            let count = length.div_ceil(side);
            let last = length.saturating_sub(side);
            (0..count).map(move |i| if count == 1 { 0 } else { i * last / (count - 1) })
        };
        let mirrored = |at: usize, length: usize| {
            let at = at % (2 * length);
            if at < length { at } else { 2 * length - 1 - at }
        };
        // A label and its mirror images, as far as they can lie in a tile.
        let copies = |at: f64, length: usize| {
            let period = 2.0 * length as f64;
            (0..=side / (2 * length)).flat_map(move |i| [at + i as f64 * period, (i + 1) as f64 * period - 1.0 - at])
        };
        let mut out = Vec::new();
        for y0 in starts(height) {
            for x0 in starts(width) {
                let rows = (y0..y0 + side).flat_map(|y| (x0..x0 + side).map(move |x| [mirrored(y, height), mirrored(x, width)]));
                let pixels = rows.map(|[y, x]| self.pixels[y * width + x]).collect();
                let inside = |value: f64| (0.0..side as f64).contains(&value);
                let points = self.truth.points.iter().flat_map(|point| {
                    let ys = copies(point.y, height).map(|y| y - y0 as f64).filter(|&y| inside(y));
                    ys.flat_map(|y| copies(point.x, width).map(move |x| [x - x0 as f64, y]))
                        .filter(|&[x, _]| inside(x))
                        .map(|[x, y]| Coordinate { x, y, ..*point })
                });
                let truth = Coordinates { kind: self.truth.kind, points: points.collect() };
                out.push(([x0, y0], Image { pixels, size: [side; 2], pixel_size_angstrom: self.pixel_size_angstrom, truth }));
            }
        }
        out
    }

    /// Writes `STEM.mrc` and its labels.
    fn save(&self, stem: &Path, side: usize) -> Result<()> {
        let write = |ending: &str, bytes: &[u8]| {
            let path = PathBuf::from(format!("{}.{ending}", stem.display()));
            std::fs::write(&path, bytes).with_context(|| format!("{}: cannot be written", path.display()))
        };
        write("mrc", &mrc_write::bytes(&self.pixels, [side; 2], self.pixel_size_angstrom, PixelType::F16)?)?;
        if self.truth.kind != Kind::Particle {
            return write("thi", thi::write(&self.truth, &thi::WriteOptions::default())?.as_bytes());
        }
        let mut star = String::from("\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n");
        for point in &self.truth.points {
            writeln!(star, "{:.2} {:.2}", point.x, point.y)?;
        }
        write("star", star.as_bytes())
    }
}

/// Changes an image into one that another camera, program or condition might have given.
fn worsen(image: &mut Image, args: &Args, random: &mut Random) -> Result<()> {
    let spread = standard(&mut image.pixels);
    ensure!(spread > 0.0, "all pixels are equal; nothing can be learnt from that");
    let is_soiled = random.chance(args.decoys);
    // Contrast is measured before dirt makes every variance large.
    let noise = noise_for_contrast(image, args, random);
    if is_soiled && let Some(diameter) = image.diameter().or(args.to.as_ref().map(|to| to[0])) {
        decoys::draw(image, diameter, random)?;
    }
    finish(image, noise, random)
}

/// The deviation of the noise that gives the tile a contrast drawn from the wanted range; none where there are no particles, nothing
/// between them, or less contrast already, or where no range is wanted.
fn noise_for_contrast(image: &Image, args: &Args, random: &mut Random) -> Option<f64> {
    let range = args.contrast.as_ref()?;
    let wanted = decoys::evenly_in_logarithm([range[0], range[1]], random);
    let radius = image.diameter()? / 2.0;
    let [height, width] = image.size;
    // How far the nearest particle is, as far as that matters, in its radii.
    let mut nearest = vec![f64::INFINITY; width * height];
    let reach = 1.2 * radius;
    for point in &image.truth.points {
        let rows = (point.y - reach).max(0.0) as usize..((point.y + reach + 1.0).max(0.0) as usize).min(height);
        for y in rows {
            for x in (point.x - reach).max(0.0) as usize..((point.x + reach + 1.0).max(0.0) as usize).min(width) {
                let distance = (point.x - x as f64).hypot(point.y - y as f64);
                nearest[y * width + x] = nearest[y * width + x].min(distance);
            }
        }
    }
    let those = |holds: &dyn Fn(f64) -> bool| -> Vec<f32> {
        image.pixels.iter().zip(&nearest).filter(|(_, distance)| holds(**distance)).map(|(value, _)| *value).collect()
    };
    let (mut within, mut between) = (those(&|distance| distance <= radius), those(&|distance| distance > reach));
    let enough = |values: &[f32]| values.len() >= 200;
    if !enough(&within) || !enough(&between) {
        return None;
    }
    let (at, beside) = (standard(&mut within).powi(2), standard(&mut between).powi(2));
    // (at + noise) / (beside + noise) is what is wanted.
    let noise = (at - wanted * beside) / (wanted - 1.0);
    (noise > 0.0).then(|| noise.sqrt().min(LARGEST_NOISE))
}

/// Deviations of the tile. A tile of which more noise were asked shows nothing at all.
const LARGEST_NOISE: f64 = 6.0;

/// Noise of this deviation or, if none is told, of any; blur, an uneven ground, clipped grey levels.
fn finish(image: &mut Image, noise: Option<f64>, random: &mut Random) -> Result<()> {
    if let Some(deviation) = noise {
        let colour = 0.9 * random.unit();
        let mut noise: Vec<f32> = (0..image.pixels.len()).map(|_| random.normal() as f32).collect();
        spectrum::filter(&mut noise, image.size, |kx, ky| gaussian(kx, ky, colour))?;
        standard(&mut noise);
        image.pixels.iter_mut().zip(noise).for_each(|(value, noise)| *value += deviation as f32 * noise);
    } else if random.chance(0.5) {
        // The noise that is added has up to eight times the variance of the image.
        let noise = 2.8 * random.unit();
        image.pixels.iter_mut().for_each(|value| *value += (noise * random.normal()) as f32);
    }
    if random.chance(0.5) {
        // Denoising and binning leave no detail finer than this, in pixels.
        let blur = 0.4 + 1.8 * random.unit();
        spectrum::filter(&mut image.pixels, image.size, |kx, ky| gaussian(kx, ky, blur))?;
    }
    if random.chance(0.4) {
        // It is drawn evenly in the logarithm. The finest values leave little of a solid particle but its outline, as a strong filter does.
        let ground = 5.0 * 12.0_f64.powf(random.unit());
        let kept = random.unit();
        spectrum::filter(&mut image.pixels, image.size, |kx, ky| 1.0 - (1.0 - kept) * gaussian(kx, ky, ground))?;
    }
    standard(&mut image.pixels);
    let clip = (2.0 + 5.0 * random.unit()) as f32;
    let levels = 127.0 / clip;
    image.pixels.iter_mut().for_each(|value| *value = (value.clamp(-clip, clip) * levels).round());
    Ok(())
}

/// Transfer of a Gaussian blur of `sigma` pixels.
fn gaussian(kx: f64, ky: f64, sigma: f64) -> f64 {
    (-2.0 * (std::f64::consts::PI * sigma).powi(2) * (kx * kx + ky * ky)).exp()
}

/// Shifts to a mean of 0 and scales to a standard deviation of 1; returns what it was.
fn standard(pixels: &mut [f32]) -> f64 {
    let count = pixels.len() as f64;
    let mean = pixels.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let spread = (pixels.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count).sqrt();
    if spread > 0.0 {
        pixels.iter_mut().for_each(|value| *value = ((f64::from(*value) - mean) / spread) as f32);
    }
    spread
}
