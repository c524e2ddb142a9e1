//! A filament in the plane of the ice: a smooth random path, and its helix along it.

use super::density::Density;
use crate::random::Random;
use std::f64::consts::TAU;

/// A path in the plane, angstrom: points at equal steps, with the direction at each.
#[derive(Clone, Debug)]
pub struct Path {
    /// Places, angstrom.
    pub points: Vec<[f64; 2]>,
    /// Directions, radian.
    pub angles: Vec<f64>,
    /// Way from one point to the next, angstrom.
    pub step_angstrom: f64,
}

impl Path {
    /// A path through `start` that goes on in both directions until it leaves the field or has its length.
    /// Directions change as a worm-like chain of this persistence length does, smoothed over a fifth of it.
    /// Source: Kratky, Porod 1949, doi:10.1002/recl.19490681203.
    pub fn draw(field: [f64; 2], length_angstrom: f64, persistence_angstrom: f64, random: &mut Random) -> Path {
        const STEP: f64 = 10.0;
        let start = [field[0] * random.unit(), field[1] * random.unit()];
        let first = TAU * random.unit();
        let margin = 200.0;
        let half = |sign: f64, random: &mut Random| {
            let mut points = Vec::new();
            let (mut at, mut angle, mut bend) = (start, first, 0.0_f64);
            let smooth = (STEP / (0.2 * persistence_angstrom)).min(1.0);
            // The bend is an Ornstein-Uhlenbeck process: its integral over long ways has the chain's variance.
            let kick = (2.0 * STEP / persistence_angstrom).sqrt() * smooth;
            let mut walked = 0.0;
            while walked < length_angstrom / 2.0 && at.iter().zip(field).all(|(&x, extent)| x > -margin && x < extent + margin) {
                bend += -smooth * bend + kick * random.normal();
                angle += bend;
                at = [at[0] + sign * STEP * angle.cos(), at[1] + sign * STEP * angle.sin()];
                points.push((at, angle));
                walked += STEP;
            }
            points
        };
        let (forward, back) = (half(1.0, random), half(-1.0, random));
        let all: Vec<([f64; 2], f64)> = back.into_iter().rev().chain([(start, first)]).chain(forward).collect();
        Path { points: all.iter().map(|(at, _)| *at).collect(), angles: all.iter().map(|(_, angle)| *angle).collect(), step_angstrom: STEP }
    }

    /// Place and direction at a distance along the path; none beyond its end.
    fn at(&self, way: f64) -> Option<([f64; 2], f64)> {
        let i = (way / self.step_angstrom).floor();
        let (t, i) = (way / self.step_angstrom - i, i as usize);
        let (a, b) = (self.points.get(i)?, self.points.get(i + 1)?);
        let angle = self.angles[i] + t * (self.angles[i + 1] - self.angles[i]);
        Some(([a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])], angle))
    }

    /// Length, angstrom.
    pub fn length_angstrom(&self) -> f64 {
        self.step_angstrom * self.points.len().saturating_sub(1) as f64
    }

    /// The pieces of the path within the field, as vertices about `spacing_angstrom` apart.
    pub fn pieces(&self, field: [f64; 2], spacing_angstrom: f64) -> Vec<Vec<[f64; 2]>> {
        let inside = |p: &[f64; 2]| p.iter().zip(field).all(|(&x, extent)| x >= 0.0 && x < extent);
        let every = (spacing_angstrom / self.step_angstrom).round().max(1.0) as usize;
        let mut pieces = Vec::new();
        for piece in self.points.split(|p| !inside(p)) {
            // At least two vertices, the last of the piece among them.
            if (piece.len() - 1.min(piece.len())) < every.max(1) {
                continue;
            }
            let mut vertices: Vec<[f64; 2]> = piece.iter().step_by(every).copied().collect();
            if !(piece.len() - 1).is_multiple_of(every) {
                let last = piece[piece.len() - 1];
                if (piece.len() - 1) % every > every / 2 {
                    vertices.push(last)
                } else if let Some(end) = vertices.last_mut() {
                    *end = last
                }
            }
            pieces.push(vertices);
        }
        pieces
    }

    /// Projected beads of the filament: place in angstrom, and electrons.
    pub fn project(&self, unit: &Density, random: &mut Random) -> Vec<([f32; 2], f32)> {
        let Some(helix) = unit.helix else { return Vec::new() };
        let phase = 360.0 * random.unit();
        let copies = (self.length_angstrom() / helix.rise_angstrom) as usize;
        let mut beads = Vec::with_capacity(copies * unit.beads.len());
        for copy in 0..copies {
            let Some((at, angle)) = self.at(copy as f64 * helix.rise_angstrom) else { break };
            let (s, c) = ((phase + copy as f64 * helix.twist_degrees).to_radians()).sin_cos();
            let (ts, tc) = angle.sin_cos();
            for bead in &unit.beads {
                let [x, y, z] = bead.at.map(f64::from);
                let across = c * x - s * y;
                let place = [at[0] + tc * z - ts * across, at[1] + ts * z + tc * across];
                beads.push((place.map(|x| x as f32), bead.electrons));
            }
        }
        beads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stiff_path_is_straight_and_its_pieces_stay_inside() {
        let field = [4000.0, 3000.0];
        for seed in 0..20 {
            let path = Path::draw(field, 1e5, 1e9, &mut Random::new(seed, &[]));
            let (first, last) = (path.points[0], path.points[path.points.len() - 1]);
            let chord = (last[0] - first[0]).hypot(last[1] - first[1]);
            assert!((chord / path.length_angstrom() - 1.0).abs() < 1e-3, "seed {seed}: {chord} of {}", path.length_angstrom());
            for piece in path.pieces(field, 50.0) {
                assert!(piece.len() >= 2);
                assert!(piece.iter().all(|p| p[0] >= 0.0 && p[0] < 4000.0 && p[1] >= 0.0 && p[1] < 3000.0));
            }
        }
    }
}
