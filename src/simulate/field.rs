//! What lies where in a micrograph: particles, vesicles or filaments at random places of the ice, between the dirt, and
//! their projected potential.

use super::density::{Density, VOLT_ANGSTROM3_PER_ELECTRON};
use super::dirt::Dirt;
use super::filament::Path;
use super::preset::{Recipe, Scale};
use super::scene::Scene;
use super::shapes;
use super::vesicle::Vesicle;
use crate::formats::coordinates::{Coordinate, Coordinates, Kind, Size};
use crate::random::Random;
use anyhow::{Result, ensure};
use rayon::prelude::*;
use std::f64::consts::{PI, TAU};

/// Molecules of water in a cubic angstrom of ice, volt angstrom^3 of each, and the structure factor at low frequencies:
/// how much more even ice is than molecules thrown at random.
/// Source: Vulovic et al. 2013, doi:10.1016/j.jsb.2013.05.008, section 2.2; Amann-Winkel et al. 2016,
/// doi:10.1103/RevModPhys.88.011002.
const WATER: [f64; 3] = [0.0314, 150.0, 0.06];

/// Side of the largest micrograph.
const LARGEST_SIDE: usize = 32_768;

/// Draws the scene of micrograph `index`.
///
/// Errors: no pixels or too many; a built-in kind cannot be made.
pub fn draw(recipe: &Recipe, index: usize, random: &mut Random) -> Result<Scene> {
    let [ny, nx] = recipe.extent;
    ensure!(
        (64..=LARGEST_SIDE).contains(&nx) && (64..=LARGEST_SIDE).contains(&ny),
        "{nx} x {ny} pixels; expected 64 to {LARGEST_SIDE} each way"
    );
    let specimen = &recipe.specimen;
    let kind = index % specimen.kinds.max(1);
    let mut of_kind = Random::new(recipe.seed, &[4, kind as u64]);

    let unit = match specimen.kind {
        Kind::Vesicle => None,
        _ if !specimen.structures.is_empty() => Some(specimen.structures[kind % specimen.structures.len()].clone()),
        Kind::Particle => {
            let shape = specimen.shapes[of_kind.below(specimen.shapes.len())];
            let diameter = of_kind.between(specimen.diameter_angstrom.unwrap_or(shape.usual_diameters()));
            Some(shapes::draw(shape, of_kind.bits() % 1_000_000, diameter)?)
        }
        Kind::Fiber => {
            let filament = specimen.filaments[of_kind.below(specimen.filaments.len())];
            let diameter = of_kind.between(specimen.diameter_angstrom.unwrap_or(filament.usual_diameters()));
            Some(shapes::draw_filament(filament, of_kind.bits() % 1_000_000, diameter)?)
        }
    };
    let vesicle_diameters = specimen.diameter_angstrom.unwrap_or([250.0, 1400.0]);
    let diameter = unit.as_ref().map_or((vesicle_diameters[0] * vesicle_diameters[1]).sqrt(), Density::diameter_angstrom);
    ensure!(diameter.is_finite() && diameter > 1.0, "a diameter of {diameter} angstrom; expected more than 1");
    let pixel = match recipe.scale {
        Scale::PixelSize(pixel) => pixel,
        Scale::ParticlePixels(pixels) => diameter / random.between(pixels),
    };
    let field = [nx as f64 * pixel, ny as f64 * pixel];
    let ice = random.between(recipe.ice_angstrom).max(if specimen.kind == Kind::Vesicle { 0.0 } else { 1.1 * diameter });
    let crowding = random.between(specimen.crowding);
    let dirt = Dirt::draw(&recipe.dirtiness, field, random);

    let mut potential = vec![0.0_f32; nx * ny];
    let mut transmission = vec![1.0_f32; nx * ny];
    let grain = WATER[1] * (WATER[2] * WATER[0] * ice).sqrt() / pixel;
    potential.par_chunks_mut(nx).zip(transmission.par_chunks_mut(nx)).enumerate().for_each(|(row, (potential, transmission))| {
        let mut noise = Random::new(recipe.seed, &[5, index as u64, row as u64]);
        let soiled = dirt.row(row as f64 * pixel, (0..nx).map(|x| x as f64 * pixel));
        for ((potential, transmission), soiled) in potential.iter_mut().zip(transmission).zip(soiled) {
            *potential = (soiled.potential + soiled.grain * grain * noise.normal()) as f32;
            *transmission = soiled.transmission as f32;
        }
    });

    let mut canvas = Canvas { nx, ny, pixel, potential };
    let (truth, name) = match (&unit, specimen.kind) {
        (Some(unit), Kind::Particle) => (particles(&mut canvas, unit, crowding, specimen.broken, &dirt, random), unit.name.clone()),
        (Some(unit), _) => (fibers(&mut canvas, unit, crowding, random), unit.name.clone()),
        (None, _) => (vesicles(&mut canvas, vesicle_diameters, crowding, &dirt, random), "vesicles".to_string()),
    };
    let spread_angstrom = unit.as_ref().map_or(2.0, |unit| unit.spread_angstrom);
    let remarks = vec![
        ("kind", name),
        ("diameter_angstrom", format!("{diameter:.1}")),
        ("pixel_size_angstrom", format!("{pixel:.4}")),
        ("ice_angstrom", format!("{ice:.0}")),
        ("dirt", dirt.describe()),
    ];
    let truth = Coordinates { kind: specimen.kind, points: truth };
    Ok(Scene {
        nx,
        ny,
        pixel_size_angstrom: pixel,
        potential: canvas.potential,
        transmission,
        spread_angstrom,
        truth,
        diameter_angstrom: diameter,
        remarks,
    })
}

/// The micrograph's pixels, to which the potential of one thing after the other is added.
struct Canvas {
    nx: usize,
    ny: usize,
    pixel: f64,
    potential: Vec<f32>,
}

impl Canvas {
    fn field(&self) -> [f64; 2] {
        [self.nx as f64 * self.pixel, self.ny as f64 * self.pixel]
    }

    /// Adds beads at places in angstrom, each shared out among its four pixels.
    fn add(&mut self, beads: &[([f32; 2], f32)]) {
        let volt = (VOLT_ANGSTROM3_PER_ELECTRON / (self.pixel * self.pixel)) as f32;
        let inverse = 1.0 / self.pixel as f32;
        for &(at, electrons) in beads {
            let [x, y] = at.map(|x| x * inverse);
            let (left, top) = (x.floor(), y.floor());
            let (fx, fy) = (x - left, y - top);
            for (dy, wy) in [(0, 1.0 - fy), (1, fy)] {
                for (dx, wx) in [(0, 1.0 - fx), (1, fx)] {
                    let (px, py) = (left as i64 + dx, top as i64 + dy);
                    if (0..self.nx as i64).contains(&px) && (0..self.ny as i64).contains(&py) {
                        self.potential[py as usize * self.nx + px as usize] += volt * electrons * wx * wy;
                    }
                }
            }
        }
    }

    fn holds(&self, at: [f64; 2]) -> bool {
        at[0] >= 0.0 && at[1] >= 0.0 && at[0] <= (self.nx - 1) as f64 * self.pixel && at[1] <= (self.ny - 1) as f64 * self.pixel
    }

    fn coordinate(&self, at: [f64; 2], diameter: f64) -> Coordinate {
        Coordinate { size: Some(Size::square(diameter / self.pixel)), ..Coordinate::at(at[0] / self.pixel, at[1] / self.pixel) }
    }
}

/// Places discs of these radii so that none comes nearer to another than `nearest` times the sum of their radii; those
/// that find no place are left out.
fn places(
    radii: &[f64],
    field: [f64; 2],
    margin: f64,
    nearest: f64,
    free: impl Fn([f64; 2], f64) -> bool,
    random: &mut Random,
) -> Vec<([f64; 2], f64)> {
    const TRIES: usize = 30;
    let largest = radii.iter().fold(1.0_f64, |most, &radius| most.max(radius));
    let cell = 2.0 * largest;
    let side = |extent: f64| ((extent + 2.0 * margin) / cell).ceil() as usize + 1;
    let [columns, rows] = field.map(side);
    let mut cells: Vec<Vec<usize>> = vec![Vec::new(); columns * rows];
    let mut found: Vec<([f64; 2], f64)> = Vec::new();
    for &radius in radii {
        for _ in 0..TRIES {
            let at = field.map(|extent| (extent + 2.0 * margin) * random.unit() - margin);
            let [cx, cy] = at.map(|x| ((x + margin) / cell) as usize);
            let neighbours = (cy.saturating_sub(1)..(cy + 2).min(rows))
                .flat_map(|y| (cx.saturating_sub(1)..(cx + 2).min(columns)).map(move |x| y * columns + x));
            let near = neighbours.flat_map(|cell| &cells[cell]);
            let clear = near.map(|&i| found[i]).all(|(other, r)| (other[0] - at[0]).hypot(other[1] - at[1]) >= nearest * (r + radius));
            if clear && free(at, radius) {
                cells[cy * columns + cx].push(found.len());
                found.push((at, radius));
                break;
            }
        }
    }
    found
}

/// A rotation, all equally likely. Source: Shoemake 1992, Graphics Gems III, "Uniform random rotations".
fn rotation(random: &mut Random) -> [[f64; 3]; 3] {
    let (u, a, b) = (random.unit(), TAU * random.unit(), TAU * random.unit());
    let (r, s) = ((1.0 - u).sqrt(), u.sqrt());
    let [w, x, y, z] = [r * a.sin(), r * a.cos(), s * b.sin(), s * b.cos()];
    [
        [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - z * w), 2.0 * (x * z + y * w)],
        [2.0 * (x * y + z * w), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - x * w)],
        [2.0 * (x * z - y * w), 2.0 * (y * z + x * w), 1.0 - 2.0 * (x * x + y * y)],
    ]
}

fn product(a: [[f64; 3]; 3], b: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

/// The preferred view, tilted a little and turned by any angle in the plane of the ice.
fn near_view(view: [[f64; 3]; 3], random: &mut Random) -> [[f64; 3]; 3] {
    let (ts, tc) = (0.3 * random.normal()).sin_cos();
    let (ss, sc) = (TAU * random.unit()).sin_cos();
    let tilt = [[1.0, 0.0, 0.0], [0.0, tc, -ts], [0.0, ts, tc]];
    let spin = [[sc, -ss, 0.0], [ss, sc, 0.0], [0.0, 0.0, 1.0]];
    product(spin, product(tilt, view))
}

/// A particle's centre, its rotation, and, if it is broken, the plane at which it broke: a normal and a distance.
type Placed = ([f64; 2], [[f64; 3]; 3], Option<[f64; 4]>);

fn particles(canvas: &mut Canvas, unit: &Density, crowding: f64, broken: f64, dirt: &Dirt, random: &mut Random) -> Vec<Coordinate> {
    let (diameter, field) = (unit.diameter_angstrom(), canvas.field());
    let radius = diameter / 2.0;
    let margin = diameter;
    let area = (field[0] + 2.0 * margin) * (field[1] + 2.0 * margin);
    let count = (crowding * area / (PI * radius * radius)).round() as usize;
    // In some preparations particles keep their distance, in others they touch.
    let nearest = 0.8 + 0.3 * random.unit();
    let found = places(&vec![radius; count], field, margin, nearest, |at, radius| !dirt.covers(at, radius), random);
    // One preparation in three has a side that likes the surface of the water.
    let preferred = random.chance(0.33).then(|| (rotation(random), 0.5 + 0.4 * random.unit()));
    let drawn: Vec<Placed> = found
        .iter()
        .map(|&(at, _)| {
            let turn = match preferred {
                Some((view, share)) if random.chance(share) => near_view(view, random),
                _ => rotation(random),
            };
            // A broken one lacks what lies beyond a plane near its middle.
            let plane = random.chance(broken).then(|| {
                let [n, _, _] = rotation(random);
                [n[0], n[1], n[2], 0.25 * radius * random.normal()]
            });
            (at, turn, plane)
        })
        .collect();
    let project = |(at, turn, plane): &Placed| {
        let stays = |bead: &[f64; 3]| plane.is_none_or(|[a, b, c, d]| a * bead[0] + b * bead[1] + c * bead[2] < d);
        let beads = unit.beads.iter().map(|bead| (bead.at.map(f64::from), bead.electrons)).filter(|(place, _)| stays(place));
        beads
            .map(|([x, y, z], electrons)| {
                let place = [0, 1].map(|axis| (at[axis] + turn[axis][0] * x + turn[axis][1] * y + turn[axis][2] * z) as f32);
                (place, electrons)
            })
            .collect::<Vec<_>>()
    };
    // Particles are projected in parallel, but added in their order, so that the sums do not depend on the threads.
    for batch in drawn.chunks(32) {
        let beads: Vec<Vec<([f32; 2], f32)>> = batch.par_iter().map(project).collect();
        beads.iter().for_each(|beads| canvas.add(beads));
    }
    let whole = drawn.iter().filter(|(at, _, plane)| plane.is_none() && canvas.holds(*at));
    whole.map(|(at, ..)| canvas.coordinate(*at, diameter)).collect()
}

fn fibers(canvas: &mut Canvas, unit: &Density, crowding: f64, random: &mut Random) -> Vec<Coordinate> {
    let (diameter, field) = (unit.diameter_angstrom(), canvas.field());
    let mut points = Vec::new();
    let (mut covered, mut group) = (0.0, 0);
    let (stiff, long) = (4_000.0 * 30.0_f64.powf(random.unit()), random.chance(0.6));
    // At least one filament, where the field is large enough to hold a piece of one at all.
    const TRIES: usize = 100;
    let mut tries = 0;
    while covered < crowding * field[0] * field[1] || (group == 0 && tries < TRIES) {
        tries += 1;
        let length = if long { 1e6 } else { 600.0 + 4_000.0 * random.unit() };
        let path = Path::draw(field, length, stiff, random);
        canvas.add(&path.project(unit, random));
        covered += path.length_angstrom().max(100.0) * diameter;
        for piece in path.pieces([field[0] - canvas.pixel, field[1] - canvas.pixel], diameter.max(60.0)) {
            for at in piece {
                points.push(Coordinate { group: Some(group), ..canvas.coordinate(at, diameter) });
            }
            group += 1;
        }
    }
    points
}

fn vesicles(canvas: &mut Canvas, diameters: [f64; 2], crowding: f64, dirt: &Dirt, random: &mut Random) -> Vec<Coordinate> {
    let field = canvas.field();
    let (deformed, lamellar) = (0.06 * random.unit(), 0.4 * random.unit());
    // Each preparation has its own range of sizes around a middle that is drawn evenly in the logarithm.
    let middle = diameters[0] * (diameters[1] / diameters[0]).powf(random.unit());
    let width = 0.05 + 0.35 * random.unit();
    let mut radii = Vec::new();
    let mut covered = 0.0;
    let margin = diameters[1] / 2.0;
    let area = (field[0] + 2.0 * margin) * (field[1] + 2.0 * margin);
    while covered < crowding * area {
        let radius = (middle * (width * random.normal()).exp()).clamp(diameters[0], diameters[1]) / 2.0;
        covered += PI * radius * radius;
        radii.push(radius);
    }
    // Large vesicles are placed first, because later they would find no room.
    radii.sort_by(|a, b| b.total_cmp(a));
    let found = places(&radii, field, margin, 1.02, |at, radius| !dirt.covers(at, radius), random);
    let vesicles: Vec<Vesicle> = found.iter().map(|&(at, radius)| Vesicle::draw(at, radius, deformed, lamellar, random)).collect();
    let (nx, pixel) = (canvas.nx, canvas.pixel);
    canvas.potential.par_chunks_mut(nx).enumerate().for_each(|(row, potential)| {
        let y = row as f64 * pixel;
        for vesicle in vesicles.iter().filter(|vesicle| (vesicle.centre[1] - y).abs() < vesicle.reach_angstrom()) {
            let reach = vesicle.reach_angstrom();
            let first = ((vesicle.centre[0] - reach) / pixel).max(0.0) as usize;
            let last = ((vesicle.centre[0] + reach) / pixel).min((nx - 1) as f64);
            for (x, value) in potential.iter_mut().enumerate().take((last.max(-1.0) + 1.0) as usize).skip(first) {
                // A membrane's edge is sharper than a pixel: the mean of four places.
                let places = [[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]];
                let sum: f64 = places.iter().map(|[dx, dy]| vesicle.potential([(x as f64 + dx) * pixel, y + dy * pixel])).sum();
                *value += (sum / 4.0) as f32;
            }
        }
    });
    vesicles
        .iter()
        .filter(|vesicle| canvas.holds(vesicle.centre))
        .map(|vesicle| canvas.coordinate(vesicle.centre, 2.0 * vesicle.radius_angstrom))
        .collect()
}
