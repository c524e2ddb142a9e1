//! The simulator: same seed, same bits; truth where the particles are; physics as it should be.

use epicker::formats::coordinates::Kind;
use epicker::simulate::dirt::Dirtiness;
use epicker::simulate::preset::{PRESETS, Recipe, Scale};
use epicker::simulate::{Simulated, simulate};

fn small(name: &str) -> Recipe {
    let mut recipe = Recipe::preset(name).unwrap();
    recipe.extent = [384, 512];
    recipe.scale = Scale::PixelSize(6.0);
    recipe
}

/// Mean of the pixels within `radius` of a place, if it is not cut by the border.
fn mean_within(simulated: &Simulated, [x, y]: [f64; 2], radius: f64) -> Option<f64> {
    let inside = x >= radius && y >= radius && x < simulated.nx as f64 - radius && y < simulated.ny as f64 - radius;
    let reach = radius.ceil() as i64;
    let offsets = (-reach..=reach)
        .flat_map(|dy| (-reach..=reach).map(move |dx| (dx, dy)))
        .filter(|(dx, dy)| (dx * dx + dy * dy) as f64 <= radius * radius);
    inside.then(|| {
        let values: Vec<f64> = offsets
            .map(|(dx, dy)| f64::from(simulated.pixels[(y.round() as i64 + dy) as usize * simulated.nx + (x.round() as i64 + dx) as usize]))
            .collect();
        values.iter().sum::<f64>() / values.len() as f64
    })
}

#[test]
fn the_same_seed_gives_the_same_bits_whatever_the_number_of_threads() {
    for name in PRESETS {
        let recipe = Recipe { extent: [96, 128], ..small(name) };
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| simulate(&recipe, 3).unwrap())
        };
        let (one, three) = (with(1), with(3));
        assert!(one.pixels.iter().zip(&three.pixels).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
        assert_eq!(one.truth, three.truth, "{name}");
        let other = simulate(&Recipe { seed: recipe.seed + 1, ..recipe.clone() }, 3).unwrap();
        assert_ne!(one.pixels, other.pixels, "{name}: another seed");
        assert_ne!(one.pixels, simulate(&recipe, 4).unwrap().pixels, "{name}: another micrograph");
    }
}

#[test]
fn particles_are_dark_where_the_truth_says_they_are() {
    for name in ["particle", "easy"] {
        let mut recipe = small(name);
        recipe.dirtiness = Dirtiness::none();
        recipe.microscope.defocus_angstrom = [25_000.0, 30_000.0];
        let simulated = simulate(&recipe, 0).unwrap();
        assert!(simulated.truth.points.len() > 20, "{name}: {} particles", simulated.truth.points.len());
        let overall = simulated.pixels.iter().map(|&value| f64::from(value)).sum::<f64>() / simulated.pixels.len() as f64;
        let radius = 0.3 * simulated.diameter_angstrom / simulated.pixel_size_angstrom;
        let means: Vec<f64> =
            simulated.truth.points.iter().filter_map(|point| mean_within(&simulated, [point.x, point.y], radius)).collect();
        let darker = means.iter().filter(|mean| **mean < overall).count();
        assert!(darker as f64 > 0.9 * means.len() as f64, "{name}: {darker} of {} are darker than the mean", means.len());
    }
}

#[test]
fn empty_ice_has_the_noise_of_its_dose() {
    let mut recipe = small("particle");
    recipe.dirtiness = Dirtiness::none();
    recipe.specimen.crowding = [0.0, 0.0];
    recipe.ice_angstrom = [1.0, 1.0];
    recipe.microscope.dose = [40.0, 40.0];
    recipe.microscope.mtf_at_nyquist = 1.0;
    let simulated = simulate(&recipe, 0).unwrap();
    assert!(simulated.truth.points.is_empty());
    let count = simulated.pixels.len() as f64;
    let mean = simulated.pixels.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let variance = simulated.pixels.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
    let expected = 40.0 * 36.0; // electrons of a pixel of 6 angstrom
    assert!((mean / expected - 1.0).abs() < 1e-3, "mean {mean}");
    // The ice is as thick as a particle, which adds a few percent; Poisson alone would give exactly 1.
    assert!((0.98..1.35).contains(&(variance / expected)), "variance {variance}");
}

#[test]
fn every_preset_has_truth_inside_the_micrograph_with_sizes() {
    for (name, kind) in [("particle", Kind::Particle), ("vesicle", Kind::Vesicle), ("fiber", Kind::Fiber), ("easy", Kind::Particle)] {
        let simulated = simulate(&small(name), 1).unwrap();
        assert_eq!(simulated.truth.kind, kind, "{name}");
        assert!(!simulated.truth.points.is_empty(), "{name}: nothing to find");
        for point in &simulated.truth.points {
            assert!(point.x >= 0.0 && point.y >= 0.0 && point.x <= 511.0 && point.y <= 383.0, "{name}: {point:?}");
            assert!(point.radius().is_some_and(|radius| radius > 1.0), "{name}: {point:?}");
        }
        if kind == Kind::Fiber {
            let fibers = simulated.truth.fibers().unwrap();
            assert!(fibers.iter().all(|fiber| fiber.len() >= 2), "{name}");
        }
        assert!(simulated.pixels.iter().all(|value| value.is_finite()), "{name}");
    }
}

#[test]
fn a_field_too_small_for_its_specimen_is_simulated_without_it() {
    for name in PRESETS {
        let mut recipe = Recipe::preset(name).unwrap();
        (recipe.extent, recipe.scale) = ([64, 64], Scale::PixelSize(0.2));
        recipe.dirtiness = Dirtiness::none();
        let simulated = simulate(&recipe, 0).unwrap();
        assert!(simulated.truth.points.len() < 3 && simulated.pixels.iter().all(|value| value.is_finite()), "{name}");
    }
    assert!(simulate(&Recipe { extent: [63, 64], ..small("easy") }, 0).is_err());
}

#[test]
fn thousands_of_kinds_differ_and_have_the_size_asked_for() {
    use epicker::simulate::shapes::{FILAMENTS, SHAPES, draw, draw_filament};
    for (shape, name) in SHAPES {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..6 {
            let density = draw(shape, seed, 150.0).unwrap();
            assert!((density.diameter_angstrom() - 150.0).abs() < 0.5, "{name} {seed}: {}", density.diameter_angstrom());
            let kilodalton = density.electrons() * 1.87 / 1000.0;
            assert!((60.0..2500.0).contains(&kilodalton), "{name} {seed}: {kilodalton} kDa");
            assert!(seen.insert(density.electrons().to_bits()), "{name} {seed}: seen before");
        }
    }
    for (filament, name) in FILAMENTS {
        let unit = draw_filament(filament, 1, 120.0).unwrap();
        assert!((unit.diameter_angstrom() - 120.0).abs() < 30.0, "{name}: {}", unit.diameter_angstrom());
    }
}

#[test]
fn structures_are_read_from_every_kind_of_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let atom = |serial: u32, name: &str, x: f64, b: f64, element: &str| {
        format!("ATOM  {serial:>5} {name:^4} ALA A{serial:>4}    {x:>8.3}{:>8.3}{:>8.3}  1.00{b:>6.2}          {element:>2}\n", 0.0, 0.0)
    };
    let pdb = write("atoms.pdb", &format!("{}{}END\n", atom(1, "N", -10.0, 99.0, "N"), atom(2, "N", 10.0, 99.0, "N")));
    let found = epicker::simulate::density::read(&pdb).unwrap();
    assert_eq!((found.beads.len(), found.electrons()), (2, 16.0));
    let beads = format!("REMARK beads 2 residues_per_bead 1\n{}{}", atom(1, "CA", 0.0, 60.0, ""), atom(2, "CA", 30.0, 30.0, ""));
    let found = epicker::simulate::density::read(&write("beads.pdb", &beads)).unwrap();
    assert_eq!(found.electrons(), 90.0);
    assert_eq!(found.beads[0].at[0], -10.0); // the centre of electrons is the origin

    let cif = "data_x\nloop_\n_atom_site.group_PDB\n_atom_site.type_symbol\n_atom_site.label_comp_id\n_atom_site.Cartn_x\n_atom_site.Cartn_y\n_atom_site.Cartn_z\nATOM S CYS 1.0 2.0 3.0\nHETATM O HOH 0 0 0\n";
    assert_eq!(epicker::simulate::density::read(&write("one.cif", cif)).unwrap().electrons(), 16.5);

    let helix = "# HELIX twist_deg 30 rise_A 10 copies 2 beads_per_copy 1\n20 0 -5 50\n17 10 5 50\n";
    let found = epicker::simulate::density::read(&write("rod.xyz", helix)).unwrap();
    assert_eq!((found.beads.len(), found.helix.unwrap().rise_angstrom), (1, 10.0));
    assert_eq!(found.beads[0].at, [20.0, 0.0, 0.0]);

    for (name, text, wanted) in [("bad.xyz", "1 2 3\n", "line 1"), ("none.pdb", "END\n", "no atoms"), ("what.txt", "", ".pdb")] {
        let error = format!("{:#}", epicker::simulate::density::read(&write(name, text)).unwrap_err());
        assert!(error.contains(wanted) && error.contains(name), "{error}");
    }
}
