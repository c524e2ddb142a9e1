//! Recipes: everything that a set of simulated micrographs is drawn from, and ready recipes by name.

use super::density::Density;
use super::dirt::Dirtiness;
use super::optics::Microscope;
use super::shapes::{FILAMENTS, Filament, SHAPES, Shape};
use crate::formats::coordinates::Kind;

/// What lies in the ice.
#[derive(Clone, Debug, PartialEq)]
pub struct Specimen {
    /// Particles, vesicles or filaments.
    pub kind: Kind,
    /// How many kinds of particle or filament there are: micrograph i shows kind i modulo this.
    pub kinds: usize,
    /// Built-in particles to draw from.
    pub shapes: Vec<Shape>,
    /// Built-in filaments to draw from.
    pub filaments: Vec<Filament>,
    /// Particles or filaments from files; if there are any, they are taken in turn, instead of built-in ones.
    pub structures: Vec<Density>,
    /// Least and most diameter, angstrom. Without it each family has the diameters that are usual for it; structures from
    /// files always keep their own.
    pub diameter_angstrom: Option<[f64; 2]>,
    /// Least and most share of the area that is covered. Filaments: of their width times their length.
    pub crowding: [f64; 2],
    /// Share of particles that are broken. A picker is not expected to find those.
    pub broken: f64,
}

/// How large a pixel is: given, or such that a particle has a given size in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Angstrom per pixel.
    PixelSize(f64),
    /// Least and most pixels across a particle; the pixel size follows.
    ParticlePixels([f64; 2]),
}

/// Everything that decides what a set of simulated micrographs looks like.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Rows and columns.
    pub extent: [usize; 2],
    /// How large things are in pixels.
    pub scale: Scale,
    /// Seed of all that is random.
    pub seed: u64,
    /// What lies in the ice.
    pub specimen: Specimen,
    /// Least and most thickness of the ice, angstrom; at least a particle's diameter.
    pub ice_angstrom: [f64; 2],
    /// Carbon, crystals and whatever else lies in the ice beside the specimen.
    pub dirtiness: Dirtiness,
    /// The ranges from which the microscope's settings are drawn for each micrograph.
    pub microscope: Microscope,
}

/// Names of the ready recipes.
pub const PRESETS: [&str; 4] = ["particle", "vesicle", "fiber", "easy"];

impl Recipe {
    /// A ready recipe: `particle`, `vesicle`, `fiber`, or `easy` (large particles of one kind in clean ice, far from
    /// focus). None for another name.
    pub fn preset(name: &str) -> Option<Recipe> {
        let specimen = Specimen {
            kind: Kind::Particle,
            kinds: 1,
            shapes: SHAPES.map(|(shape, _)| shape).to_vec(),
            filaments: FILAMENTS.map(|(filament, _)| filament).to_vec(),
            structures: Vec::new(),
            diameter_angstrom: None,
            crowding: [0.05, 0.4],
            broken: 0.04,
        };
        let recipe = Recipe {
            extent: [4096, 4096],
            scale: Scale::PixelSize(1.0),
            seed: 317,
            specimen,
            ice_angstrom: [200.0, 600.0],
            dirtiness: Dirtiness::default(),
            microscope: Microscope::default(),
        };
        match name {
            "particle" => Some(recipe),
            "vesicle" => {
                let mut recipe = Recipe { scale: Scale::PixelSize(2.5), ice_angstrom: [600.0, 1500.0], ..recipe };
                recipe.specimen.kind = Kind::Vesicle;
                recipe.specimen.diameter_angstrom = Some([250.0, 1400.0]);
                recipe.specimen.crowding = [0.03, 0.25];
                recipe.microscope.defocus_angstrom = [15_000.0, 50_000.0];
                Some(recipe)
            }
            "fiber" => {
                let mut recipe = recipe;
                recipe.specimen.kind = Kind::Fiber;
                recipe.specimen.crowding = [0.01, 0.12];
                Some(recipe)
            }
            "easy" => {
                let mut recipe = Recipe { dirtiness: Dirtiness::none(), ice_angstrom: [250.0, 300.0], ..recipe };
                recipe.specimen.shapes = vec![Shape::Barrel, Shape::IcosahedralShell];
                recipe.specimen.diameter_angstrom = Some([160.0, 220.0]);
                recipe.specimen.crowding = [0.15, 0.25];
                recipe.specimen.broken = 0.0;
                recipe.microscope.defocus_angstrom = [20_000.0, 30_000.0];
                Some(recipe)
            }
            _ => None,
        }
    }
}
