//! Built-in particles and filaments, drawn by parameters so that thousands of kinds exist. Each is a density in space,
//! filled with beads. They resemble what proteins look like at low resolution and are copies of none.

use super::density::{Bead, Density, Helix, PROTEIN_ELECTRONS};
use crate::random::Random;
use anyhow::Result;
use std::f64::consts::{PI, TAU};

/// Families of built-in particles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A hollow cylinder with waists, such as a proteasome or a chaperonin.
    Barrel,
    /// One to four rings of subunits.
    RingStack,
    /// A hollow or filled shell with the corners of an icosahedron.
    IcosahedralShell,
    /// Blobs in no order.
    MultiDomain,
    /// Copies of one blob about one axis, or about an axis and a dyad.
    Oligomer,
    /// Helices through a belt of detergent, with domains above and below.
    MembraneProtein,
}

/// All families, with their words on the command line.
pub const SHAPES: [(Shape, &str); 6] = [
    (Shape::Barrel, "barrel"),
    (Shape::RingStack, "rings"),
    (Shape::IcosahedralShell, "shell"),
    (Shape::MultiDomain, "domains"),
    (Shape::Oligomer, "oligomer"),
    (Shape::MembraneProtein, "membrane"),
];

impl Shape {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        SHAPES.iter().find(|(shape, _)| *shape == self).map_or("", |(_, name)| name)
    }

    /// Diameters that are usual for the family, angstrom.
    pub fn usual_diameters(self) -> [f64; 2] {
        match self {
            Shape::Barrel => [120.0, 240.0],
            Shape::RingStack => [90.0, 220.0],
            Shape::IcosahedralShell => [150.0, 450.0],
            Shape::MultiDomain => [90.0, 220.0],
            Shape::Oligomer => [90.0, 250.0],
            Shape::MembraneProtein => [90.0, 200.0],
        }
    }
}

type Point = [f64; 3];

fn length(p: Point) -> f64 {
    (p[0] * p[0] + p[1] * p[1] + p[2] * p[2]).sqrt()
}

/// A ball stretched along its own axes.
#[derive(Clone, Copy)]
struct Blob {
    centre: Point,
    radii: Point,
    /// Turn about z, and about x after that.
    turn: [f64; 2],
}

impl Blob {
    fn holds(&self, p: Point) -> bool {
        let [x, y, z] = [p[0] - self.centre[0], p[1] - self.centre[1], p[2] - self.centre[2]];
        let (s, c) = self.turn[0].sin_cos();
        let [x, y] = [c * x + s * y, c * y - s * x];
        let (s, c) = self.turn[1].sin_cos();
        let [y, z] = [c * y + s * z, c * z - s * y];
        (x / self.radii[0]).powi(2) + (y / self.radii[1]).powi(2) + (z / self.radii[2]).powi(2) < 1.0
    }

    fn drawn(centre: Point, radius: f64, random: &mut Random) -> Blob {
        let mut stretch = || radius * (0.75 + 0.5 * random.unit());
        let radii = [stretch(), stretch(), stretch()];
        Blob { centre, radii, turn: [TAU * random.unit(), TAU * random.unit()] }
    }
}

/// Density at a point of the unit ball, protein being 1.
type Field = Box<dyn Fn(Point) -> f64>;

fn union(blobs: Vec<Blob>) -> Field {
    Box::new(move |p| f64::from(u8::from(blobs.iter().any(|blob| blob.holds(p)))))
}

/// A kind of this family: the same for the same seed. `diameter_angstrom` is what `Density::diameter_angstrom` gives.
///
/// Errors: the diameter is not a number; nothing else can fail.
pub fn draw(shape: Shape, seed: u64, diameter_angstrom: f64) -> Result<Density> {
    let mut random = Random::new(seed, &[2, shape as u64]);
    let field = match shape {
        Shape::Barrel => barrel(&mut random),
        Shape::RingStack => ring_stack(&mut random),
        Shape::IcosahedralShell => shell(&mut random),
        Shape::MultiDomain => multi_domain(&mut random),
        Shape::Oligomer => oligomer(&mut random),
        Shape::MembraneProtein => membrane_protein(&mut random),
    };
    let name = format!("{} {seed}", shape.name());
    // Beads are found in the unit ball, then scaled, so a kind keeps its form whatever its size.
    let density = filled(&name, field.as_ref(), &mut random)?;
    let factor = diameter_angstrom / density.diameter_angstrom();
    Ok(density.scaled(factor))
}

/// Fills a field in the ball of radius 1.2 with beads on a jittered grid.
fn filled(name: &str, field: &dyn Fn(Point) -> f64, random: &mut Random) -> Result<Density> {
    const CELLS: i32 = 22;
    let cell = 1.2 / f64::from(CELLS);
    // Domains differ in how densely they pack: a slow variation of 15 %.
    let waves: Vec<[f64; 4]> =
        (0..6).map(|_| [8.0 * random.normal(), 8.0 * random.normal(), 8.0 * random.normal(), TAU * random.unit()]).collect();
    let mut beads = Vec::new();
    for (z, y, x) in (-CELLS..CELLS).flat_map(|z| (-CELLS..CELLS).flat_map(move |y| (-CELLS..CELLS).map(move |x| (z, y, x)))) {
        let p = [x, y, z].map(|i| (f64::from(i) + random.unit()) * cell);
        let density = field(p);
        if density > 0.0 {
            let wave: f64 = waves.iter().map(|[a, b, c, phase]| (a * p[0] + b * p[1] + c * p[2] + phase).sin()).sum();
            let electrons = density * (1.0 + 0.15 * wave / 6.0_f64.sqrt()) * PROTEIN_ELECTRONS * cell.powi(3);
            beads.push(Bead { at: p.map(|x| x as f32), electrons: electrons as f32 });
        }
    }
    Density::new(name, beads, 0.6 * cell)
}

fn barrel(random: &mut Random) -> Field {
    let height = 0.65 + 0.3 * random.unit(); // half
    let radius = (1.0 - height * height).sqrt().max(0.35) * (0.85 + 0.3 * random.unit());
    let hole = radius * (0.3 + 0.3 * random.unit());
    let layers = 2 + random.below(5);
    let waist = 0.1 + 0.15 * random.unit();
    let fold = (5 + random.below(5)) as f64;
    let closed = random.chance(0.4);
    Box::new(move |[x, y, z]| {
        let r = x.hypot(y);
        let layer = (z / height * layers as f64 * PI / 2.0).cos().abs();
        let teeth = 0.04 * (fold * y.atan2(x) + z * 2.0).cos();
        let outer = radius * (1.0 - waist * (1.0 - layer) + teeth);
        let lid = closed && z.abs() > 0.8 * height;
        f64::from(u8::from(z.abs() < height && r < outer && (r > hole || lid)))
    })
}

fn ring_stack(random: &mut Random) -> Field {
    let rings = 1 + random.below(4);
    let copies = 5 + random.below(9);
    let big = 0.6 + 0.2 * random.unit();
    let small = (PI * big / copies as f64).min(0.35) * (1.1 + 0.3 * random.unit());
    let gap = small * (1.2 + 0.5 * random.unit());
    let turn = random.unit();
    let mut blobs = Vec::new();
    for ring in 0..rings {
        let z = (ring as f64 - (rings as f64 - 1.0) / 2.0) * gap;
        let unit = Blob::drawn([0.0; 3], small, &mut Random::new(7, &[rings as u64, copies as u64]));
        for copy in 0..copies {
            let angle = TAU * (copy as f64 + turn * ring as f64) / copies as f64;
            blobs.push(Blob { centre: [big * angle.cos(), big * angle.sin(), z], turn: [angle, unit.turn[1]], ..unit });
        }
    }
    union(blobs)
}

/// The twelve corners of an icosahedron, unit vectors.
fn corners() -> Vec<Point> {
    let golden = (1.0 + 5.0_f64.sqrt()) / 2.0;
    let scale = (1.0 + golden * golden).sqrt();
    let mut corners = Vec::new();
    for (a, b) in [(1.0, golden), (1.0, -golden), (-1.0, golden), (-1.0, -golden)] {
        corners.extend([[0.0, a, b], [a, b, 0.0], [b, 0.0, a]].map(|p| p.map(|x: f64| x / scale)));
    }
    corners
}

fn shell(random: &mut Random) -> Field {
    let thickness = 0.08 + 0.17 * random.unit();
    let angular = 0.5 * random.unit(); // how flat the faces are
    let spikes = if random.chance(0.4) { 0.05 + 0.15 * random.unit() } else { 0.0 };
    let fill = if random.chance(0.5) { 0.5 + 0.6 * random.unit() } else { 0.0 };
    let corners = corners();
    Box::new(move |p| {
        let r = length(p);
        let toward = corners.iter().map(|c| (c[0] * p[0] + c[1] * p[1] + c[2] * p[2]) / r.max(1e-9)).fold(-1.0, f64::max);
        // Halfway between corners `toward` is 0.79; at a corner 1.
        let outer = 1.0 - 0.2 * angular * (1.0 - toward) / 0.2;
        let spike = spikes * ((toward - 0.95) / 0.05).clamp(0.0, 1.0);
        if r > outer + spike {
            0.0
        } else if r > outer - thickness {
            1.0
        } else if r < outer - thickness - 0.04 {
            fill
        } else {
            0.0
        }
    })
}

fn multi_domain(random: &mut Random) -> Field {
    let count = 3 + random.below(6);
    let mut blobs: Vec<Blob> = Vec::new();
    for i in 0..count {
        let radius = 0.2 + 0.2 * random.unit();
        let centre = if i == 0 {
            [0.0; 3]
        } else {
            let from = blobs[random.below(i)];
            let direction = direction(random);
            let step = 0.85 * (from.radii[0] + radius);
            [0, 1, 2].map(|axis| from.centre[axis] + step * direction[axis])
        };
        blobs.push(Blob::drawn(centre, radius, random));
    }
    let most = blobs.iter().map(|blob| length(blob.centre) + blob.radii[0]).fold(0.0, f64::max);
    let shrink = (1.0 / most).min(1.0);
    for blob in &mut blobs {
        blob.centre = blob.centre.map(|x| x * shrink);
        blob.radii = blob.radii.map(|x| x * shrink);
    }
    union(blobs)
}

fn oligomer(random: &mut Random) -> Field {
    let fold = 2 + random.below(6);
    let dihedral = random.chance(0.5);
    let domains = 1 + random.below(3);
    let radius = 0.22 + 0.14 * random.unit();
    let distance = radius / (PI / fold as f64).sin().max(0.5) * (0.85 + 0.25 * random.unit());
    let height = if dihedral { radius * (0.6 + 0.5 * random.unit()) } else { 0.0 };
    let unit: Vec<Blob> = (0..domains)
        .map(|i| {
            let offset = if i == 0 { [0.0; 3] } else { direction(random).map(|x| 1.1 * radius * x) };
            Blob::drawn([distance + offset[0], offset[1], height + offset[2]], radius * (1.0 - 0.2 * i as f64), random)
        })
        .collect();
    let twist = PI / fold as f64 * random.unit();
    let mut blobs = Vec::new();
    for copy in 0..fold {
        for blob in &unit {
            let sides: &[f64] = if dihedral { &[1.0, -1.0] } else { &[1.0] };
            for &side in sides {
                let angle = TAU * copy as f64 / fold as f64 + if side < 0.0 { twist } else { 0.0 };
                let (s, c) = angle.sin_cos();
                // The dyad turns y and z over, and with them the sense of both turns.
                let [x, y, z] = [blob.centre[0], side * blob.centre[1], side * blob.centre[2]];
                blobs.push(Blob {
                    centre: [c * x - s * y, s * x + c * y, z],
                    radii: blob.radii,
                    turn: [angle + side * blob.turn[0], side * blob.turn[1]],
                });
            }
        }
    }
    union(blobs)
}

fn membrane_protein(random: &mut Random) -> Field {
    let fold = 1 + random.below(5);
    let core = 0.3 + 0.15 * random.unit();
    let belt = core + 0.22 + 0.1 * random.unit();
    let half = 0.2 + 0.06 * random.unit();
    let hole = if fold > 2 { 0.25 * core } else { 0.0 };
    let mut domains = Vec::new();
    for side in [1.0, -1.0] {
        if random.chance(if side > 0.0 { 0.9 } else { 0.4 }) {
            let radius = 0.15 + 0.15 * random.unit();
            let blob = Blob::drawn([core * 0.8 * f64::from(u8::from(fold > 1)), 0.0, side * (half + 0.8 * radius)], radius, random);
            for copy in 0..fold {
                let angle = TAU * copy as f64 / fold as f64;
                let centre = [blob.centre[0] * angle.cos(), blob.centre[0] * angle.sin(), blob.centre[2]];
                domains.push(Blob { centre, turn: [blob.turn[0] + angle, blob.turn[1]], ..blob });
            }
        }
    }
    Box::new(move |p| {
        let r = p[0].hypot(p[1]);
        let scallop = core * (1.0 + 0.1 * (fold as f64 * p[1].atan2(p[0])).cos());
        if domains.iter().any(|blob| blob.holds(p)) || (r < scallop && r > hole && p[2].abs() < half * 1.15) {
            1.0
        } else if r < belt && p[2].abs() < half * (1.0 - 0.3 * (r / belt).powi(4)) {
            // Heads of detergent outside, tails inside: weaker than protein.
            if p[2].abs() > 0.7 * half { 0.7 } else { 0.25 }
        } else {
            0.0
        }
    })
}

/// A direction, all equally likely.
fn direction(random: &mut Random) -> Point {
    let z = 2.0 * random.unit() - 1.0;
    let (s, c) = (TAU * random.unit()).sin_cos();
    let r = (1.0 - z * z).sqrt();
    [r * c, r * s, z]
}

/// Families of built-in filaments, with their words on the command line.
pub const FILAMENTS: [(Filament, &str); 4] =
    [(Filament::Tube, "tube"), (Filament::TwoStranded, "two-stranded"), (Filament::Rod, "rod"), (Filament::Ribbon, "ribbon")];

/// Families of built-in filaments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filament {
    /// Subunits around a hole, such as a microtubule.
    Tube,
    /// Two strands around each other, such as actin.
    TwoStranded,
    /// A helix of subunits without a hole.
    Rod,
    /// Flat and slowly twisted, such as an amyloid.
    Ribbon,
}

impl Filament {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        FILAMENTS.iter().find(|(filament, _)| *filament == self).map_or("", |(_, name)| name)
    }

    /// Diameters that are usual for the family, angstrom.
    pub fn usual_diameters(self) -> [f64; 2] {
        match self {
            Filament::Tube => [180.0, 300.0],
            Filament::TwoStranded => [60.0, 110.0],
            Filament::Rod => [70.0, 200.0],
            Filament::Ribbon => [70.0, 140.0],
        }
    }
}

/// A kind of filament: one copy of its helix.
///
/// Errors: the diameter is not a number; nothing else can fail.
pub fn draw_filament(filament: Filament, seed: u64, diameter_angstrom: f64) -> Result<Density> {
    let mut random = Random::new(seed, &[3, filament as u64]);
    let radius = diameter_angstrom / 2.0;
    // The balls of one copy, each with its place in the cross-section and its radius in angstrom.
    let (balls, helix): (Vec<(Point, f64)>, Helix) = match filament {
        Filament::Tube => {
            let copies = (9 + random.below(8)) as f64;
            let ball = (PI * radius / copies).min(0.3 * radius);
            let ring = radius - ball;
            let balls = (0..copies as usize).map(|i| {
                let angle = TAU * i as f64 / copies;
                ([ring * angle.cos(), ring * angle.sin(), 3.0 * ball * i as f64 / copies], ball)
            });
            (balls.collect(), Helix { twist_degrees: 2.0 * random.unit(), rise_angstrom: 2.0 * ball })
        }
        Filament::TwoStranded => {
            let ball = 0.55 * radius;
            let centre = [radius - ball, 0.0, 0.0];
            let balls = vec![(centre, ball), ([centre[0] * 0.4, 0.3 * ball, 0.5 * ball], 0.7 * ball)];
            (balls, Helix { twist_degrees: 180.0 - 20.0 * random.unit() - 5.0, rise_angstrom: 0.9 * ball })
        }
        Filament::Rod => {
            let ball = radius * (0.45 + 0.1 * random.unit());
            let balls = vec![([radius - ball, 0.0, 0.0], ball), ([0.3 * ball, 0.0, 0.0], 0.5 * ball)];
            let per_turn = 3.0 + 4.0 * random.unit();
            (balls, Helix { twist_degrees: 360.0 / per_turn, rise_angstrom: 1.6 * ball / per_turn })
        }
        Filament::Ribbon => {
            let ball = radius * (0.25 + 0.15 * random.unit());
            let count = (radius / ball).ceil() as i32;
            let balls = (-count..=count).map(|i| ([f64::from(i) / f64::from(count) * (radius - ball), 0.0, 0.0], ball));
            (balls.collect(), Helix { twist_degrees: 0.3 + 3.0 * random.unit(), rise_angstrom: 4.8 })
        }
    };
    // Beads at random places in each ball, all of the same number of electrons.
    let mut beads = Vec::new();
    const PER_BALL: usize = 60;
    for (centre, ball) in balls {
        let electrons = PROTEIN_ELECTRONS * 4.0 / 3.0 * PI * ball.powi(3) / PER_BALL as f64 * share(filament);
        for _ in 0..PER_BALL {
            let (p, r) = (direction(&mut random), ball * random.unit().cbrt());
            beads.push(Bead { at: [0, 1, 2].map(|axis| (centre[axis] + r * p[axis]) as f32), electrons: electrons as f32 });
        }
    }
    let mut density = Density { name: format!("{} {seed}", filament.name()), beads, spread_angstrom: 4.0, helix: None };
    density.helix = Some(helix);
    Ok(density)
}

/// The share of its electrons that a ball counts for: the balls of neighbouring copies overlap, and what two of them hold
/// must not be counted twice.
fn share(filament: Filament) -> f64 {
    match filament {
        Filament::Tube => 0.8,
        Filament::TwoStranded => 0.6,
        Filament::Rod => 0.35,
        Filament::Ribbon => 0.15,
    }
}
