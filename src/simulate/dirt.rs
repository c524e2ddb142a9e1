//! What lies in micrographs beside the specimen: the carbon film's edge, ice crystals, droplets, gold, a wedge of ice.
//! Nothing on it or under it is expected to be found.

use crate::random::Random;
use std::f64::consts::TAU;

/// How much dirt there is.
#[derive(Clone, Debug, PartialEq)]
pub struct Dirtiness {
    /// Probability that the edge of the carbon film is in view.
    pub carbon: f64,
    /// Ice crystals in a square micrometre, on average.
    pub crystals: f64,
    /// Round droplets (ethane and the like) in a square micrometre, on average.
    pub droplets: f64,
    /// Probability of gold beads; then about ten in a square micrometre.
    pub gold: f64,
    /// Largest change of the ice's thickness across the micrograph, share.
    pub wedge: f64,
}

impl Default for Dirtiness {
    fn default() -> Self {
        Dirtiness { carbon: 0.2, crystals: 3.0, droplets: 4.0, gold: 0.05, wedge: 0.4 }
    }
}

impl Dirtiness {
    /// Nothing but even ice.
    pub fn none() -> Self {
        Dirtiness { carbon: 0.0, crystals: 0.0, droplets: 0.0, gold: 0.0, wedge: 0.0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Substance {
    Crystal,
    Droplet,
    Gold,
}

#[derive(Clone, Debug)]
struct Blot {
    substance: Substance,
    centre: [f64; 2],
    radius: f64,
    waves: [[f64; 2]; 4],
    strength: f64,
}

impl Blot {
    /// Distance from the centre, 1 at the border.
    fn distance(&self, at: [f64; 2]) -> f64 {
        let [x, y] = [at[0] - self.centre[0], at[1] - self.centre[1]];
        let angle = y.atan2(x);
        let form = 1.0 + self.waves.iter().enumerate().map(|(i, [a, phase])| a * ((i + 2) as f64 * angle + phase).cos()).sum::<f64>();
        x.hypot(y) / (self.radius * form.max(0.3))
    }
}

/// The dirt of one micrograph.
#[derive(Clone, Debug)]
pub struct Dirt {
    blots: Vec<Blot>,
    /// Centre and radius of the film's hole, angstrom.
    hole: Option<([f64; 2], f64)>,
    film: f64,
    wedge: [f64; 2],
    /// Slow waves of the ice's thickness: waves across the field in x and y, phase, share.
    waves: Vec<[f64; 4]>,
    field: [f64; 2],
}

/// What dirt does at a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Soiled {
    /// Added to the projected potential, volt angstrom.
    pub potential: f64,
    /// Share of the electrons that come through.
    pub transmission: f64,
    /// Factor for the deviation of the ice's own potential.
    pub grain: f64,
}

impl Dirt {
    /// Draws the dirt of a field of so many angstrom.
    pub fn draw(dirtiness: &Dirtiness, field: [f64; 2], random: &mut Random) -> Dirt {
        let square_micrometres = field[0] * field[1] / 1e8;
        let mut blots = Vec::new();
        let mut scatter = |substance: Substance, per_area: f64, sizes: [f64; 2], rough: f64, strengths: [f64; 2], random: &mut Random| {
            let expected = per_area * square_micrometres;
            let count = (expected + expected.sqrt() * random.normal()).round().clamp(0.0, 3.0 * expected + 1.0) as usize;
            for _ in 0..count {
                let centre = [field[0] * random.unit(), field[1] * random.unit()];
                // Small ones are more common: even in the logarithm.
                let radius = sizes[0] * (sizes[1] / sizes[0]).powf(random.unit());
                let mut waves = [[0.0; 2]; 4];
                waves.iter_mut().for_each(|wave| *wave = [rough * random.normal(), TAU * random.unit()]);
                let strength = random.between(strengths);
                blots.push(Blot { substance, centre, radius, waves, strength });
            }
        };
        scatter(Substance::Crystal, dirtiness.crystals, [60.0, 500.0], 0.06, [80.0, 450.0], random);
        scatter(Substance::Droplet, dirtiness.droplets, [40.0, 350.0], 0.03, [100.0, 400.0], random);
        if random.chance(dirtiness.gold) {
            scatter(Substance::Gold, 10.0, [25.0, 55.0], 0.02, [1.0, 1.0], random);
        }
        let hole = random.chance(dirtiness.carbon).then(|| {
            let radius = 5_000.0 + 8_000.0 * random.unit();
            // The edge passes through a point of the middle half of the field.
            let through = [field[0] * (0.25 + 0.5 * random.unit()), field[1] * (0.25 + 0.5 * random.unit())];
            let (s, c) = (TAU * random.unit()).sin_cos();
            ([through[0] - radius * c, through[1] - radius * s], radius)
        });
        let waves =
            (0..8).map(|_| [3.0 * random.normal(), 3.0 * random.normal(), TAU * random.unit(), 0.08 * dirtiness.wedge * random.normal()]);
        let waves = waves.collect();
        let wedge = [dirtiness.wedge * (2.0 * random.unit() - 1.0), dirtiness.wedge * (2.0 * random.unit() - 1.0)];
        Dirt { blots, hole, film: 150.0 + 200.0 * random.unit(), wedge, waves, field }
    }

    /// True where a particle of this radius would touch the film or a blot.
    pub fn covers(&self, at: [f64; 2], radius: f64) -> bool {
        let on_film = self.hole.is_some_and(|(centre, hole)| (at[0] - centre[0]).hypot(at[1] - centre[1]) > hole - radius);
        on_film || self.blots.iter().any(|blot| (at[0] - blot.centre[0]).hypot(at[1] - blot.centre[1]) < 1.1 * blot.radius + 0.7 * radius)
    }

    /// True if there is nothing that `at` would have to be asked about but the wedge.
    fn near(&self, row: f64) -> Vec<&Blot> {
        self.blots.iter().filter(|blot| (row - blot.centre[1]).abs() < 2.0 * blot.radius).collect()
    }

    /// What the dirt does along one row: for each place of `xs`, angstrom.
    pub fn row(&self, y: f64, xs: impl Iterator<Item = f64>) -> Vec<Soiled> {
        let near = self.near(y);
        xs.map(|x| {
            let across = [x / self.field[0] - 0.5, y / self.field[1] - 0.5];
            let slow: f64 =
                self.waves.iter().map(|[a, b, phase, share]| share * (TAU * (a * across[0] + b * across[1]) + phase).sin()).sum();
            let thickness = (1.0 + self.wedge[0] * across[0] + self.wedge[1] * across[1] + slow).max(0.2);
            // A quarter of the electrons is lost in the first 800 angstrom of ice or so: the wedge shows as a gradient.
            let mut soiled = Soiled { potential: 0.0, transmission: (-0.15 * (thickness - 1.0)).exp(), grain: thickness.sqrt() };
            if let Some((centre, hole)) = self.hole {
                let depth = (x - centre[0]).hypot(y - centre[1]) - hole;
                if depth > 0.0 {
                    let edge = (depth / 30.0).min(1.0);
                    soiled.potential += 4.0 * self.film * edge;
                    soiled.transmission *= 1.0 - 0.0007 * self.film * edge;
                    soiled.grain *= 1.0 + 1.5 * edge;
                }
            }
            for blot in &near {
                let distance = blot.distance([x, y]);
                if distance < 1.0 {
                    // The height of a dome over this place.
                    let dome = (1.0 - distance * distance).sqrt();
                    match blot.substance {
                        Substance::Crystal => {
                            // Faces: the height changes in steps around the crystal, as it does from facet to facet.
                            let angle = (y - blot.centre[1]).atan2(x - blot.centre[0]);
                            let facet = 0.75 + 0.25 * (3.0 * angle + blot.waves[0][1]).sin().signum() * (1.0 - distance);
                            let height = (3.0 * dome).min(1.0) * facet;
                            soiled.potential += blot.strength * height;
                            soiled.transmission *= 1.0 - 4e-4 * blot.strength * height;
                            soiled.grain *= 1.0 + height;
                        }
                        Substance::Droplet => {
                            soiled.potential += blot.strength * dome;
                            soiled.transmission *= 1.0 - 0.15 * dome;
                        }
                        Substance::Gold => {
                            soiled.potential += 16.0 * 2.0 * blot.radius * dome;
                            soiled.transmission *= 1.0 - 0.6 * dome;
                        }
                    }
                }
            }
            soiled
        })
        .collect()
    }

    /// In words, for the log.
    pub fn describe(&self) -> String {
        format!("{} blots{}", self.blots.len(), if self.hole.is_some() { ", carbon edge" } else { "" })
    }
}
