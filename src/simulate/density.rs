//! Where the electrons of a particle are: a cloud of beads, each with a number of electrons. Read from PDB, mmCIF, bead
//! lists and density maps, or made by `shapes`.

use crate::formats::image::{FileBytes, ReadOptions};
use crate::formats::mrc;
use crate::formats::regular;
use crate::random::Random;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Electrons of protein in a cubic angstrom: 1.35 g/cm^3 at 1.87 Da an electron.
pub const PROTEIN_ELECTRONS: f64 = 0.435;
/// Potential beyond that of the ice it displaces, volt angstrom^3 an electron: 8.0 V of protein less 4.7 V of ice.
/// Source: Vulovic et al. 2013, doi:10.1016/j.jsb.2013.05.008, table 1.
pub const VOLT_ANGSTROM3_PER_ELECTRON: f64 = 3.3 / PROTEIN_ELECTRONS;
/// Most beads of a particle; larger files are thinned out, and the beads that stay count for those that go.
const MOST_BEADS: usize = 40_000;
/// Bytes that a packed file may unpack to. What lies behind them is not read, so a larger file is refused as one cut off.
const LARGEST_UNPACKED: u64 = 1 << 30;

/// One bead: angstrom, and electrons.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bead {
    /// Place, angstrom.
    pub at: [f32; 3],
    /// Electrons.
    pub electrons: f32,
}

/// How the copies of a subunit follow one another along a filament.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Helix {
    /// Turn about the axis from one copy to the next, degrees.
    pub twist_degrees: f64,
    /// Way along the axis from one copy to the next, angstrom.
    pub rise_angstrom: f64,
}

/// A cloud of beads around the origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Density {
    /// What it is, for logs.
    pub name: String,
    /// The beads; their centre of electrons is the origin (of a filament: its axis is z).
    pub beads: Vec<Bead>,
    /// Standard deviation of the Gaussian that every bead stands for, angstrom.
    pub spread_angstrom: f64,
    /// How the copies follow one another, where the beads are one subunit of a filament; none for a particle.
    pub helix: Option<Helix>,
}

impl Density {
    /// Beads as a particle: moved to their centre, thinned out where they are too many.
    ///
    /// Errors: there is no bead, or a number is not finite.
    pub fn new(name: &str, beads: Vec<Bead>, spread_angstrom: f64) -> Result<Density> {
        let mut density = Density { name: name.to_string(), beads, spread_angstrom, helix: None };
        density.check()?;
        density.centre();
        density.thin();
        Ok(density)
    }

    fn check(&self) -> Result<()> {
        let total: f64 = self.beads.iter().map(|bead| f64::from(bead.electrons)).sum();
        let sound = |bead: &Bead| bead.at.iter().all(|x| x.abs() < 1e5) && (0.0..1e9).contains(&bead.electrons);
        ensure!(
            self.beads.iter().all(sound),
            "{}: a bead has no finite place or no weight; expected angstrom below 100000 and electrons of 0 or more",
            self.name
        );
        ensure!(total > 0.0, "{}: no atoms are found; expected a PDB, mmCIF, bead list or density map", self.name);
        Ok(())
    }

    fn centre(&mut self) {
        let total: f64 = self.beads.iter().map(|bead| f64::from(bead.electrons)).sum();
        for axis in 0..3 {
            let sum: f64 = self.beads.iter().map(|bead| f64::from(bead.electrons) * f64::from(bead.at[axis])).sum();
            self.beads.iter_mut().for_each(|bead| bead.at[axis] -= (sum / total) as f32);
        }
    }

    fn thin(&mut self) {
        if self.beads.len() <= MOST_BEADS {
            return;
        }
        let share = self.beads.len() as f64 / MOST_BEADS as f64;
        let mut random = Random::new(1, &[self.beads.len() as u64]);
        random.shuffle(&mut self.beads);
        self.beads.truncate(MOST_BEADS);
        self.beads.iter_mut().for_each(|bead| bead.electrons *= share as f32);
        // Fewer beads stand for more volume each.
        self.spread_angstrom *= share.cbrt();
    }

    /// Electrons of all beads together.
    pub fn electrons(&self) -> f64 {
        self.beads.iter().map(|bead| f64::from(bead.electrons)).sum()
    }

    /// Diameter of the smallest ball around the origin that holds 98 % of the electrons, angstrom: what a user would
    /// measure. (Of a filament: of the cylinder around its axis.)
    pub fn diameter_angstrom(&self) -> f64 {
        let axes = if self.helix.is_some() { 2 } else { 3 };
        let distance = |bead: &Bead| bead.at[..axes].iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let mut far: Vec<(f64, f64)> = self.beads.iter().map(|bead| (distance(bead), f64::from(bead.electrons))).collect();
        far.sort_by(|a, b| a.0.total_cmp(&b.0));
        let wanted = 0.98 * self.electrons();
        let mut sum = 0.0;
        for (distance, electrons) in &far {
            sum += electrons;
            if sum >= wanted {
                return 2.0 * distance + 2.0 * self.spread_angstrom;
            }
        }
        far.last().map_or(0.0, |(distance, _)| 2.0 * distance + 2.0 * self.spread_angstrom)
    }

    /// The same particle, `factor` times as large. Its number of electrons grows with its volume.
    pub fn scaled(mut self, factor: f64) -> Density {
        for bead in &mut self.beads {
            bead.at.iter_mut().for_each(|x| *x *= factor as f32);
            bead.electrons *= factor.powi(3) as f32;
        }
        self.spread_angstrom *= factor;
        self
    }
}

/// Reads a particle or a filament: `.pdb`, `.ent`, `.cif`, `.xyz`, `.mrc`, `.map`, each also with `.gz`.
///
/// Errors: the file cannot be read, is of another kind, or holds no atoms.
pub fn read(path: &Path) -> Result<Density> {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let read = || -> Result<Density> {
        let bytes = FileBytes::Owned(regular::read(path)?);
        match name.strip_suffix(".gz") {
            Some(plain) => {
                let mut unpacked = Vec::new();
                flate2::read::MultiGzDecoder::new(&bytes[..])
                    .take(LARGEST_UNPACKED)
                    .read_to_end(&mut unpacked)
                    .context("cannot be unpacked")?;
                read_bytes(plain, FileBytes::Owned(unpacked))
            }
            None => read_bytes(&name, bytes),
        }
    };
    read().with_context(|| path.display().to_string())
}

/// Reads what `read` reads, from the bytes of a file and its name in lower case.
///
/// Errors: those of `read`, without the file's name.
pub fn read_bytes(name: &str, bytes: FileBytes) -> Result<Density> {
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let text = || String::from_utf8_lossy(&bytes);
    match extension {
        "pdb" | "ent" => from_pdb(stem, &text()),
        "cif" | "mmcif" => from_mmcif(stem, &text()),
        "xyz" => from_list(stem, &text()),
        "mrc" | "map" => from_map(stem, &Arc::new(bytes)),
        _ => bail!("is no structure by its name; expected .pdb, .ent, .cif, .xyz, .mrc or .map, plain or with .gz"),
    }
}

/// Electrons of an atom with the hydrogens it usually carries.
fn electrons_of(element: &str) -> f32 {
    match element.trim().to_ascii_uppercase().as_str() {
        "C" => 7.3,
        "N" => 8.0,
        "O" => 8.4,
        "S" => 16.5,
        "P" => 15.0,
        "H" | "D" => 0.0, // counted with the atom it hangs on
        "FE" => 26.0,
        "ZN" => 30.0,
        "MG" => 12.0,
        "CA" => 20.0,
        _ => 8.0,
    }
}

/// Electrons of a residue that is one bead.
const RESIDUE_ELECTRONS: f32 = 59.0;

/// The spread of one atom, and of a bead that stands for about a residue, angstrom.
const ATOM_SPREAD: f64 = 1.0;
const RESIDUE_SPREAD: f64 = 2.5;

fn from_pdb(name: &str, text: &str) -> Result<Density> {
    // Beads of the form written by coarse-graining programs carry their electrons where B factors usually are.
    let weighted = text.lines().any(|line| line.starts_with("REMARK") && line.contains("residues_per_bead"));
    let mut beads = Vec::new();
    let mut alpha = 0;
    for (i, line) in text.lines().enumerate() {
        if line.starts_with("ENDMDL") {
            break;
        }
        if !(line.starts_with("ATOM  ") || line.starts_with("HETATM")) {
            continue;
        }
        let field = |from: usize, to: usize| line.get(from..to.min(line.len())).unwrap_or("").trim();
        if matches!(field(17, 20), "HOH" | "WAT" | "DOD") || !matches!(field(16, 17), "" | "A") {
            continue;
        }
        let number = |from: usize, to: usize| {
            field(from, to)
                .parse::<f32>()
                .map_err(|_| anyhow!("line {}: {:?} in columns {}-{to}; expected a number", i + 1, field(from, to), from + 1))
        };
        let atom = field(12, 16);
        let element = match field(76, 78) {
            "" => atom.trim_start_matches(|c: char| c.is_ascii_digit()).get(..1).unwrap_or("C"),
            element => element,
        };
        alpha += usize::from(atom == "CA" || atom == "P");
        let electrons = if weighted { number(60, 66)? } else { electrons_of(element) };
        beads.push(Bead { at: [number(30, 38)?, number(38, 46)?, number(46, 54)?], electrons });
    }
    let coarse = weighted || alpha == beads.len();
    if coarse && !weighted {
        beads.iter_mut().for_each(|bead| bead.electrons = RESIDUE_ELECTRONS);
    }
    finish(name, beads, text, if coarse { RESIDUE_SPREAD } else { ATOM_SPREAD })
}

fn from_list(name: &str, text: &str) -> Result<Density> {
    let mut beads = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')) {
        let values: Option<Vec<f32>> = line.split_whitespace().map(|value| value.parse().ok()).collect();
        let Some([x, y, z, electrons]) = values.as_deref().and_then(|values| <[f32; 4]>::try_from(values).ok()) else {
            bail!("line {}: {line:?}; expected x y z electrons", i + 1);
        };
        beads.push(Bead { at: [x, y, z], electrons });
    }
    finish(name, beads, text, RESIDUE_SPREAD)
}

/// Makes a particle of the beads, or a filament if a remark of the file says how its copies follow one another.
fn finish(name: &str, mut beads: Vec<Bead>, text: &str, spread: f64) -> Result<Density> {
    let Some(remark) = text.lines().find(|line| (line.starts_with("REMARK") || line.starts_with('#')) && line.contains("HELIX ")) else {
        return Density::new(name, beads, spread);
    };
    let words: Vec<&str> = remark.split_whitespace().collect();
    let value = |key: &str| -> Result<f64> {
        let at = words.iter().position(|word| *word == key).and_then(|i| words.get(i + 1)).and_then(|value| value.parse().ok());
        at.ok_or_else(|| anyhow!("the HELIX remark has no number {key}; expected twist_deg, rise_A and beads_per_copy"))
    };
    let helix = Helix { twist_degrees: value("twist_deg")?, rise_angstrom: value("rise_A")? };
    ensure!((0.1..1e4).contains(&helix.rise_angstrom), "rise_A is {}; expected 0.1 to 10000", helix.rise_angstrom);
    ensure!(helix.twist_degrees.is_finite(), "twist_deg is {}; expected degrees", helix.twist_degrees);
    beads.truncate(value("beads_per_copy")?.max(1.0) as usize);
    let density = Density { name: name.to_string(), beads, spread_angstrom: spread, helix: Some(helix) };
    density.check()?;
    Ok(density.moved_along_axis())
}

impl Density {
    /// Moves the centre of the subunit to height 0. Its axis stays where it is: it is the filament's.
    fn moved_along_axis(mut self) -> Density {
        let total = self.electrons();
        let height: f64 = self.beads.iter().map(|bead| f64::from(bead.electrons) * f64::from(bead.at[2])).sum::<f64>() / total;
        self.beads.iter_mut().for_each(|bead| bead.at[2] -= height as f32);
        self
    }
}

fn from_mmcif(name: &str, text: &str) -> Result<Density> {
    let mut columns: Vec<&str> = Vec::new();
    let mut beads = Vec::new();
    let mut first_model = None;
    for (i, line) in text.lines().enumerate() {
        if let Some(column) = line.trim().strip_prefix("_atom_site.") {
            columns.push(column.split_whitespace().next().unwrap_or(""));
            continue;
        }
        if columns.is_empty() || !(line.starts_with("ATOM") || line.starts_with("HETATM")) {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let word = |name: &str| columns.iter().position(|column| *column == name).and_then(|at| words.get(at).copied());
        let number = |name: &str| {
            word(name)
                .and_then(|word| word.parse::<f32>().ok())
                .ok_or_else(|| anyhow!("line {}: no number {name}; expected an atom", i + 1))
        };
        let model = word("pdbx_PDB_model_num").unwrap_or("1");
        if *first_model.get_or_insert(model) != model || matches!(word("label_comp_id"), Some("HOH" | "DOD")) {
            continue;
        }
        if !matches!(word("label_alt_id"), None | Some("." | "?" | "A")) {
            continue;
        }
        let electrons = electrons_of(word("type_symbol").unwrap_or("C"));
        beads.push(Bead { at: [number("Cartn_x")?, number("Cartn_y")?, number("Cartn_z")?], electrons });
    }
    Density::new(name, beads, ATOM_SPREAD)
}

/// Voxels above this share of the largest are taken for protein.
const MAP_THRESHOLD: f32 = 0.15;

fn from_map(name: &str, bytes: &Arc<FileBytes>) -> Result<Density> {
    let first = mrc::info(bytes, &ReadOptions::default())?;
    let pixel = first.pixel_size_angstrom.ok_or_else(|| anyhow!("has no pixel size; expected a density map with one"))?;
    ensure!(first.sections > 1, "has one section; expected a density map");
    let mut sections = Vec::new();
    for section in 0..first.sections {
        let options = ReadOptions { sections: crate::formats::image::Sections::One(section), ..Default::default() };
        sections.push(mrc::read(bytes, &options)?.pixels.to_f32());
    }
    let most = sections.iter().flatten().fold(0.0_f32, |most, &value| most.max(value));
    let voxel = pixel.powi(3) * PROTEIN_ELECTRONS;
    let mut beads = Vec::new();
    for (z, section) in sections.iter().enumerate() {
        for (i, &value) in section.iter().enumerate().filter(|(_, value)| **value > MAP_THRESHOLD * most) {
            let at = [(i % first.nx) as f32, (i / first.nx) as f32, z as f32].map(|x| x * pixel as f32);
            beads.push(Bead { at, electrons: (voxel * f64::from(value / most).sqrt()) as f32 });
        }
    }
    Density::new(name, beads, 0.5 * pixel)
}
