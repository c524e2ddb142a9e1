//! Micrographs of drawn particles whose places are known: dark shapes in noise. Shared with examples/draw_micrographs.rs.
//!
//! A drawing, not physics: no contrast transfer, no structure. Enough to ask what a training learns and forgets.

use epicker::formats::coordinates::{Coordinate, Coordinates, Kind, Size};
use epicker::random::Random;

/// A shape, of diameter 1 where it is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// A filled circle.
    Disc,
    /// The outer fifth of a disc.
    Ring,
    /// A rod, a quarter as wide as long, turned at random.
    Rod,
    /// Two rods across each other.
    Cross,
    /// Three discs at the corners of a triangle.
    Triple,
    /// A membrane, as thick whatever the diameter; it has a radius of its own.
    Vesicle,
}

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawing {
    /// The shape of the particles.
    pub shape: Shape,
    /// Columns and rows.
    pub size: [usize; 2],
    /// Smallest and largest diameter, pixels.
    pub diameters_px: [f64; 2],
    /// How many are drawn, where there is room.
    pub particles: usize,
    /// How dark they are, in standard deviations of the noise.
    pub contrast: f64,
    /// The same seed draws the same micrograph.
    pub seed: u64,
}

/// A drawn micrograph.
pub struct Drawn {
    /// Pixels, row after row: noise of deviation 1 around a slowly changing level.
    pub pixels: Vec<f32>,
    /// Where the particles are, with their diameters as boxes.
    pub truth: Coordinates,
}

const MEMBRANE_PX: f64 = 10.0;
/// Over so many pixels an edge goes from dark to light.
const EDGE_PX: f64 = 3.0;
/// Neighbours are at least so many diameters apart.
const APART: f64 = 1.1;

impl Shape {
    /// How far a point lies outside (positive) or inside (negative), pixels; the shape has its middle at 0, 0.
    fn distance_px(self, diameter: f64, [x, y]: [f64; 2]) -> f64 {
        let disc = |at: [f64; 2], radius: f64| (x - at[0]).hypot(y - at[1]) - radius;
        let shell = |thickness: f64| ((x.hypot(y) - (diameter - thickness) / 2.0).abs()) - thickness / 2.0;
        let rod = |along: f64, across: f64| {
            let radius = diameter / 8.0;
            (along - along.clamp(radius - diameter / 2.0, diameter / 2.0 - radius)).hypot(across) - radius
        };
        match self {
            Shape::Disc => disc([0.0; 2], diameter / 2.0),
            Shape::Ring => shell(diameter / 5.0),
            Shape::Rod => rod(x, y),
            Shape::Cross => rod(x, y).min(rod(y, x)),
            Shape::Triple => {
                let corner = |i: f64| {
                    let (sin, cos) = (i * std::f64::consts::TAU / 3.0).sin_cos();
                    disc([cos * diameter / 3.0, sin * diameter / 3.0], diameter / 6.0)
                };
                corner(0.0).min(corner(1.0)).min(corner(2.0))
            }
            Shape::Vesicle => shell(MEMBRANE_PX),
        }
    }
}

impl Drawing {
    /// The micrograph.
    pub fn draw(&self) -> Drawn {
        let mut random = Random::new(self.seed, &[0x6472_6177]);
        let mut pixels = self.ice(&mut random);
        let points = self.places(&mut random);
        for point in &points {
            let diameter = 2.0 * point.radius().unwrap_or(0.0);
            let (sin, cos) = (random.unit() * std::f64::consts::TAU).sin_cos();
            let depth = self.contrast * (0.8 + 0.4 * random.unit());
            let reach = diameter / 2.0 + EDGE_PX;
            let span = |centre: f64, extent: usize| (centre - reach).max(0.0) as usize..((centre + reach + 1.0) as usize).min(extent);
            for row in span(point.y, self.size[1]) {
                for column in span(point.x, self.size[0]) {
                    let (dx, dy) = (column as f64 - point.x, row as f64 - point.y);
                    let outside_px = self.shape.distance_px(diameter, [cos * dx + sin * dy, cos * dy - sin * dx]);
                    pixels[row * self.size[0] + column] -= (depth * (0.5 - outside_px / EDGE_PX).clamp(0.0, 1.0)) as f32;
                }
            }
        }
        let kind = if self.shape == Shape::Vesicle { Kind::Vesicle } else { Kind::Particle };
        Drawn { pixels, truth: Coordinates { kind, points } }
    }

    /// Noise, and ice that is thicker here and thinner there.
    fn ice(&self, random: &mut Random) -> Vec<f32> {
        let [nx, ny] = self.size;
        let waves: [[f64; 3]; 3] = std::array::from_fn(|_| [random.unit() * 3.0, random.unit() * 3.0, random.unit()]);
        let level = |x: f64, y: f64| {
            let wave = |[u, v, phase]: &[f64; 3]| ((u * x + v * y + phase) * std::f64::consts::TAU).cos();
            0.2 * waves.iter().map(wave).sum::<f64>()
        };
        // Four uniform numbers have a variance of a third together, and nobody sees that their sum is not quite normal.
        let mut noise = || ((0..4).map(|_| random.unit()).sum::<f64>() - 2.0) * 3f64.sqrt();
        (0..nx * ny).map(|i| (noise() + level((i % nx) as f64 / nx as f64, (i / nx) as f64 / ny as f64)) as f32).collect()
    }

    fn places(&self, random: &mut Random) -> Vec<Coordinate> {
        const TRIES: usize = 200;
        let mut points: Vec<Coordinate> = Vec::new();
        for _ in 0..self.particles {
            for _ in 0..TRIES {
                let diameter = self.diameters_px[0] + random.unit() * (self.diameters_px[1] - self.diameters_px[0]);
                let mut within = |extent: usize| diameter / 2.0 + random.unit() * (extent as f64 - diameter);
                let point = Coordinate { size: Some(Size::square(diameter)), ..Coordinate::at(within(self.size[0]), within(self.size[1])) };
                let is_free = points.iter().all(|other| {
                    let room = APART * (diameter / 2.0 + other.radius().unwrap_or(0.0));
                    (point.x - other.x).hypot(point.y - other.y) >= room
                });
                if is_free {
                    points.push(point);
                    break;
                }
            }
        }
        points
    }
}
