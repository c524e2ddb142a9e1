//! What is no particle but looks a little like one: balls of ice, flakes and dirt of about a particle's size, filaments. They are
//! drawn into tiles, over particles whose labels are then taken away, so that a network learns to leave such things alone. Heaps
//! of particles are not among them: a network that learnt to leave these alone found fewer particles in crowds. All lengths are in
//! pixels of the tile, all strengths in standard deviations of its pixels.

use super::Image;
use anyhow::Result;
use epicker::random::Random;
use epicker::simulate::spectrum;
use std::f64::consts::TAU;

/// Radii of balls, in radii of a particle.
const RADII: [f64; 2] = [0.3, 2.6];
/// Most balls in a tile of 256 pixels. Most tiles have far fewer, because their number is drawn evenly in the logarithm.
const BALLS: f64 = 24.0;
/// Strength of what is drawn.
const STRENGTHS: [f64; 2] = [0.4, 4.0];

/// A number between two, drawn evenly in the logarithm: twice as much is as likely as half as much.
pub fn evenly_in_logarithm([low, high]: [f64; 2], random: &mut Random) -> f64 {
    low * (high / low).powf(random.unit())
}

/// Draws decoys into a tile whose particles have this diameter, and takes away the labels of what they hide.
///
/// Errors: a Fourier transform fails.
pub fn draw(image: &mut Image, diameter: f64, random: &mut Random) -> Result<()> {
    balls(image, diameter, random)?;
    if random.chance(0.25) {
        filaments(image, diameter, random);
    }
    Ok(())
}

/// An outline that is not quite round.
struct Outline {
    centre: [f64; 2],
    radius: f64,
    /// (how often around, share of the radius, phase).
    waves: Vec<[f64; 3]>,
    /// How much longer it is than wide, and which way it lies.
    stretch: f64,
    turn: [f64; 2],
}

impl Outline {
    fn drawn(centre: [f64; 2], radius: f64, rough: f64, random: &mut Random) -> Outline {
        let waves = (2..8).map(|around| [f64::from(around), rough * random.normal() / f64::from(around).sqrt(), TAU * random.unit()]);
        let waves = waves.collect();
        let angle = TAU * random.unit();
        Outline { centre, radius, waves, stretch: 1.0 + 0.8 * random.unit().powi(2), turn: [angle.sin(), angle.cos()] }
    }

    /// Distance from the centre in radii: 1 at the border.
    fn distance(&self, at: [f64; 2]) -> f64 {
        let [x, y] = [at[0] - self.centre[0], at[1] - self.centre[1]];
        let [s, c] = self.turn;
        let [along, across] = [(c * x + s * y) / self.stretch, c * y - s * x];
        let angle = across.atan2(along);
        let form = 1.0 + self.waves.iter().map(|[around, share, phase]| share * (around * angle + phase).cos()).sum::<f64>();
        along.hypot(across) / (self.radius * form.max(0.4))
    }
}

/// Balls, flakes and crumbs: filled or hollow, dark or light, smooth or of a texture of their own.
fn balls(image: &mut Image, diameter: f64, random: &mut Random) -> Result<()> {
    let [height, width] = image.size;
    let area = (height * width) as f64 / 65536.0;
    let count = (evenly_in_logarithm([0.6, BALLS * area.max(0.1)], random)).round() as usize;
    // The dirt of one micrograph is of one kind, so what is common to its pieces is drawn once.
    let usual = evenly_in_logarithm(RADII, random);
    let spread = 0.1 + 0.5 * random.unit();
    let (rough, rim, width_of_rim) = (0.02 + 0.25 * random.unit().powi(2), 2.5 * random.unit() - 1.0, 0.06 + 0.2 * random.unit());
    let (solid, bulge) = (if random.chance(0.75) { random.unit() } else { 0.0 }, 0.2 + random.unit());
    let sign = if random.chance(0.75) { -1.0 } else { 1.0 };
    let texture = if random.chance(0.6) { 1.5 * random.unit() } else { 0.0 };
    let grain = evenly_in_logarithm([0.7, 4.0], random);
    let mut grains: Vec<f32> = Vec::new();
    if texture > 0.0 && count > 0 {
        grains = (0..height * width).map(|_| random.normal() as f32).collect();
        spectrum::filter(&mut grains, image.size, |kx, ky| super::gaussian(kx, ky, grain))?;
        super::standard(&mut grains);
    }
    for _ in 0..count {
        let radius = diameter / 2.0 * (usual * (spread * random.normal()).exp()).clamp(RADII[0], RADII[1]);
        let centre = [width as f64 * random.unit(), height as f64 * random.unit()];
        let outline = Outline::drawn(centre, radius, rough, random);
        let strength = evenly_in_logarithm(STRENGTHS, random);
        let reach = 2.2 * radius * outline.stretch;
        let rows = (centre[1] - reach).max(0.0) as usize..((centre[1] + reach).max(0.0) as usize).min(height);
        for y in rows {
            for x in (centre[0] - reach).max(0.0) as usize..((centre[0] + reach).max(0.0) as usize).min(width) {
                let distance = outline.distance([x as f64, y as f64]);
                let inside = 1.0 - distance * distance;
                let ring = |at: f64| (-((distance - at) / width_of_rim).powi(2)).exp();
                let mut value =
                    solid * inside.max(0.0).powf(bulge) + rim * (ring(1.0 - width_of_rim) - 0.4 * ring(1.0 + 1.2 * width_of_rim));
                let soft = ((1.0 - distance) / 0.15).clamp(0.0, 1.0);
                if texture > 0.0 {
                    value += texture * soft * f64::from(grains[y * width + x]);
                }
                image.pixels[y * width + x] += (sign * strength * value) as f32;
            }
        }
        // A particle of which a little can still be seen would be a lie either way.
        image.truth.points.retain(|point| outline.distance([point.x, point.y]) * radius > radius + 0.2 * diameter);
    }
    Ok(())
}

/// Filaments across the tile: thin, a little bent, plain or with two rails.
fn filaments(image: &mut Image, diameter: f64, random: &mut Random) {
    let [height, width] = image.size;
    let thickness = diameter * evenly_in_logarithm([0.08, 0.5], random);
    let strength = evenly_in_logarithm([0.3, 2.0], random) * if random.chance(0.8) { -1.0 } else { 1.0 };
    let has_rails = random.chance(0.4);
    for _ in 0..1 + random.below(3) {
        let start = [width as f64 * random.unit(), height as f64 * random.unit()];
        let (s, c) = (TAU * random.unit()).sin_cos();
        let bend = 0.4 * random.normal() / width.max(height) as f64;
        // Along the filament, and how far beside it: the axis is a parabola.
        let beside = |x: f64, y: f64| {
            let [dx, dy] = [x - start[0], y - start[1]];
            let along = c * dx + s * dy;
            c * dy - s * dx - bend * along * along
        };
        for (i, pixel) in image.pixels.iter_mut().enumerate() {
            let off = beside((i % width) as f64, (i / width) as f64).abs() / (thickness / 2.0);
            let body = (-off.powi(4)).exp();
            let value = if has_rails { (-((off - 0.9) / 0.35).powi(2)).exp() } else { body };
            *pixel += (strength * value) as f32;
        }
        image.truth.points.retain(|point| beside(point.x, point.y).abs() > thickness / 2.0 + 0.25 * diameter);
    }
}
