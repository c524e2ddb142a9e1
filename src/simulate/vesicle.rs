//! Vesicles: closed membranes, one or several inside each other, not quite round.

use crate::random::Random;
use std::f64::consts::TAU;

/// Layers of a membrane: distance of the layer's middle from the membrane's, thickness, volt beyond that of ice.
/// Source: the profile of Heberle et al. 2020, doi:10.1073/pnas.2002200117, coarsened to heads and tails.
const LAYERS: [(f64, f64, f64); 3] = [(-18.0, 9.0, 3.5), (0.0, 26.0, 0.4), (18.0, 9.0, 3.5)];

/// A vesicle seen in projection.
#[derive(Clone, Debug)]
pub struct Vesicle {
    /// Centre, angstrom.
    pub centre: [f64; 2],
    /// Mean radius of the outer membrane's outside, angstrom.
    pub radius_angstrom: f64,
    /// Radii of the membranes' middles.
    membranes: Vec<f64>,
    /// Amplitude and phase of the deformations with 2, 3 and 4 waves around the vesicle.
    waves: [[f64; 2]; 3],
    /// Potential of what fills the vesicle, volt beyond that of ice.
    lumen: f64,
}

impl Vesicle {
    /// Draws a vesicle; `lamellar`: the probability of another membrane inside.
    pub fn draw(centre: [f64; 2], radius_angstrom: f64, deformed: f64, lamellar: f64, random: &mut Random) -> Vesicle {
        let outside = LAYERS[2].0 + LAYERS[2].1 / 2.0;
        let mut membranes = vec![radius_angstrom - outside];
        while membranes.len() < 5 && random.chance(lamellar) {
            let next = membranes[membranes.len() - 1] - 55.0 - 60.0 * random.unit();
            if next < 60.0 {
                break;
            }
            membranes.push(next);
        }
        let mut waves = [[0.0; 2]; 3];
        for (i, wave) in waves.iter_mut().enumerate() {
            *wave = [deformed * random.normal().clamp(-2.0, 2.0) / (1.0 + i as f64), TAU * random.unit()];
        }
        Vesicle { centre, radius_angstrom, membranes, waves, lumen: if random.chance(0.4) { 0.25 * random.unit() } else { 0.0 } }
    }

    /// The radius in a direction, as a multiple of the mean radius.
    pub fn form(&self, angle: f64) -> f64 {
        1.0 + self.waves.iter().enumerate().map(|(i, [amplitude, phase])| amplitude * ((i + 2) as f64 * angle + phase).cos()).sum::<f64>()
    }

    /// Projected potential at a place, volt angstrom.
    pub fn potential(&self, at: [f64; 2]) -> f64 {
        let [x, y] = [at[0] - self.centre[0], at[1] - self.centre[1]];
        let r = x.hypot(y) / self.form(y.atan2(x));
        // The way through a ball of radius b, at distance r from its middle.
        let chord = |b: f64| 2.0 * (b * b - r * r).max(0.0).sqrt();
        let shells = self.membranes.iter().flat_map(|middle| {
            LAYERS
                .iter()
                .map(move |&(offset, thickness, volt)| (middle + offset - thickness / 2.0, middle + offset + thickness / 2.0, volt))
        });
        let sum: f64 = shells.map(|(inner, outer, volt)| volt * (chord(outer) - chord(inner.max(0.0)))).sum();
        sum + self.lumen * chord(self.membranes[0] - 25.0)
    }

    /// Furthest extent from the centre, angstrom.
    pub fn reach_angstrom(&self) -> f64 {
        self.radius_angstrom * (1.0 + self.waves.iter().map(|[amplitude, _]| amplitude.abs()).sum::<f64>()) + 10.0
    }
}
