//! `epicker simulate`: micrographs with known truth.

use super::interrupt;
use super::progress::Progress;
use super::status::{self, OrUsage, Usage};
use super::values;
use crate::formats::coordinates::Kind;
use crate::formats::mrc_write::{self, PixelType};
use crate::formats::{box_file, star, thi};
use crate::io::write::{remove_earlier, write_whole, write_whole_unsynced};
use crate::simulate::density;
use crate::simulate::dirt::Dirtiness;
use crate::simulate::preset::{PRESETS, Recipe, Scale};
use crate::simulate::shapes::{FILAMENTS, SHAPES};
use crate::simulate::{Simulated, simulate};
use crate::words::{counted, did_you_mean, row};
use anyhow::{Context, Result};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// The command line of `epicker simulate`.
#[derive(Debug, clap::Args)]
pub struct SimulateArgs {
    /// Folder for micrographs; their truth goes into its folders truth/thi, truth/star and truth/box
    #[arg(long = "output", short = 'o', value_name = "FOLDER")]
    output: PathBuf,
    /// Ready recipe: particle, vesicle, fiber, or easy (one kind of large particle in clean ice, far from focus)
    #[arg(long = "preset", value_name = "NAME", default_value = "particle")]
    preset: String,
    /// How many micrographs are made
    #[arg(long = "count", value_name = "COUNT", default_value_t = 10, value_parser = values::count)]
    count: usize,
    /// Columns and rows, pixels: one number, or two parted by a comma [default: 4096]
    #[arg(long = "size", value_name = "PIXELS", value_parser = extent)]
    size: Option<[usize; 2]>,
    /// Pixel size, angstrom [default: 1, for vesicles 2.5]
    #[arg(long = "angpix", value_name = "ANGSTROM", value_parser = values::positive)]
    angpix: Option<f64>,
    /// Pixels across a particle, instead of a pixel size: one number, or the least and the most
    #[arg(long = "particle_pixels", value_name = "PIXELS", value_parser = range, conflicts_with = "angpix")]
    particle_pixels: Option<[f64; 2]>,
    /// How many kinds of particle or filament: micrographs show them in turn
    #[arg(long = "kinds", value_name = "COUNT", value_parser = values::count)]
    kinds: Option<usize>,
    /// Built-in particles (barrel, rings, shell, domains, oligomer, membrane) or filaments (tube, two-stranded, rod,
    /// ribbon), parted by commas [default: all]
    #[arg(long = "shape", value_name = "NAMES", value_delimiter = ',')]
    shape: Vec<String>,
    /// Structures to show instead, in turn: .pdb, .cif, .xyz (x y z electrons), .mrc, plain or with .gz
    #[arg(long = "structure", value_name = "FILE", num_args = 1..)]
    structure: Vec<PathBuf>,
    /// Diameter of built-in particles, filaments and vesicles, angstrom: one number, or the least and the most
    #[arg(long = "diameter", value_name = "ANGSTROM", value_parser = range)]
    diameter: Option<[f64; 2]>,
    /// Share of the area that is covered, 0 to 0.5: one number, or the least and the most
    #[arg(long = "crowding", value_name = "SHARE", value_parser = share)]
    crowding: Option<[f64; 2]>,
    /// Defocus, angstrom: one number, or the least and the most
    #[arg(long = "defocus", value_name = "ANGSTROM", value_parser = range)]
    defocus: Option<[f64; 2]>,
    /// Dose, electrons per square angstrom: one number, or the least and the most
    #[arg(long = "dose", value_name = "ELECTRONS", value_parser = range)]
    dose: Option<[f64; 2]>,
    /// Thickness of the ice, angstrom, at least a particle's: one number, or the least and the most
    #[arg(long = "ice", value_name = "ANGSTROM", value_parser = range)]
    ice: Option<[f64; 2]>,
    /// Even ice with nothing else in it
    #[arg(long = "clean")]
    clean: bool,
    /// 16-bit floats (MRC mode 12) of mean 0 and deviation 1 instead of electrons as 32-bit floats
    #[arg(long = "half")]
    half: bool,
    /// Seed of all that is random
    #[arg(long = "seed", value_name = "NUMBER", default_value_t = 317)]
    seed: u64,
    /// Number of the first micrograph: the same micrographs in several runs
    #[arg(long = "first", value_name = "NUMBER", default_value_t = 1, value_parser = values::count)]
    first: usize,
    /// Write over micrographs that are there
    #[arg(long = "overwrite")]
    overwrite: bool,
    /// Threads [default: all cores]
    #[arg(long = "threads", value_name = "COUNT", value_parser = values::count)]
    threads: Option<usize>,
    /// One JSON object per line on standard output; text goes to standard error
    #[arg(long = "json")]
    json: bool,
}

/// One positive number, or the least and the most.
fn range(text: &str) -> Result<[f64; 2], String> {
    let numbers: Result<Vec<f64>, String> = text.split(',').map(values::positive).collect();
    match numbers?.as_slice() {
        [one] => Ok([*one; 2]),
        [low, high] if low <= high => Ok([*low, *high]),
        _ => Err("expected one number, or the least and the most parted by a comma".to_string()),
    }
}

/// A share of an area, or the least and the most; particles that must not overlap cover at most half of it.
fn share(text: &str) -> Result<[f64; 2], String> {
    range(text)?
        .map(|value| if value <= 0.5 { Ok(value) } else { Err("expected shares up to 0.5".to_string()) })
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map(|values| [values[0], values[1]])
}

/// Columns and rows.
fn extent(text: &str) -> Result<[usize; 2], String> {
    let sides: Result<Vec<usize>, String> = text.split(',').map(values::count).collect();
    match sides?.as_slice() {
        [one] => Ok([*one; 2]),
        [columns, rows] => Ok([*columns, *rows]),
        _ => Err("expected one number, or columns and rows parted by a comma".to_string()),
    }
}

/// Runs the command; returns the exit status.
///
/// Errors: wrong usage, a structure that cannot be read, or a file that cannot be written.
pub fn run(args: &SimulateArgs) -> Result<u8> {
    super::threads::start(args.threads)?;
    let recipe = recipe(args)?;
    let stem = |number: usize| format!("{}_{number:04}", args.preset);
    let numbers: Vec<usize> = (args.first..args.first + args.count).collect();
    let there = numbers.iter().map(|&number| args.output.join(format!("{}.mrc", stem(number)))).find(|path| path.exists());
    if let (Some(path), false) = (there, args.overwrite) {
        return Err(Usage::because(format!("{}: is there already; give another --output, or --overwrite", path.display())).into());
    }
    for folder in ["thi", "star", "box"] {
        let folder = args.output.join("truth").join(folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("{}: cannot be made", folder.display())).or_usage()?;
    }
    let stop = interrupt::finishing("finishing the micrograph in hand");
    let mut progress = Progress::new(numbers.len(), args.json);
    let mut lines = String::new();
    let (mut points, mut is_stopped) = (0, false);
    for number in numbers {
        is_stopped = stop.load(Ordering::Relaxed);
        if is_stopped {
            break;
        }
        let simulated = simulate(&recipe, number - 1).or_usage()?;
        write_one(&args.output, &stem(number), &simulated, args.half)?;
        let fields = remarks(&stem(number), &simulated);
        lines.push_str(&format!("{fields}\n"));
        progress.event("micrograph", fields);
        points += simulated.truth.points.len();
        progress.step(&stem(number), &told(&simulated)?);
    }
    progress.finish();
    write_whole(&args.output.join(format!("{}_{:04}.jsonl", args.preset, args.first)), lines.as_bytes())?;
    let labels = counted(points, "label");
    progress.say(&format!("{labels}, {:.1} seconds; truth in {}", progress.seconds(), args.output.join("truth").display()));
    Ok(if is_stopped { interrupt::status() } else { status::DONE })
}

fn recipe(args: &SimulateArgs) -> Result<Recipe> {
    let Some(mut recipe) = Recipe::preset(&args.preset) else {
        let hint = did_you_mean(&args.preset, PRESETS);
        return Err(Usage::because(format!("--preset {}: is no preset; expected {}{hint}", args.preset, row(&PRESETS, "or"))).into());
    };
    recipe.seed = args.seed;
    if let Some([columns, rows]) = args.size {
        recipe.extent = [rows, columns];
    }
    if let Some(pixel) = args.angpix {
        recipe.scale = Scale::PixelSize(pixel);
    }
    if let Some(pixels) = args.particle_pixels {
        recipe.scale = Scale::ParticlePixels(pixels);
    }
    let specimen = &mut recipe.specimen;
    specimen.structures = args.structure.iter().map(|path| density::read(path)).collect::<Result<Vec<_>>>().or_usage()?;
    if let (Kind::Fiber, Some(straight)) = (specimen.kind, specimen.structures.iter().find(|structure| structure.helix.is_none())) {
        let reason =
            format!("--structure: {} is no filament; expected a remark HELIX with twist_deg, rise_A and beads_per_copy", straight.name);
        return Err(Usage::because(reason).into());
    }
    specimen.kinds = args.kinds.unwrap_or(specimen.structures.len().max(specimen.kinds));
    specimen.diameter_angstrom = args.diameter.or(specimen.diameter_angstrom);
    specimen.crowding = args.crowding.unwrap_or(specimen.crowding);
    match specimen.kind {
        _ if args.shape.is_empty() => {}
        Kind::Fiber => specimen.filaments = named(&FILAMENTS, args)?,
        _ => specimen.shapes = named(&SHAPES, args)?,
    }
    recipe.microscope.defocus_angstrom = args.defocus.unwrap_or(recipe.microscope.defocus_angstrom);
    recipe.microscope.dose = args.dose.unwrap_or(recipe.microscope.dose);
    recipe.ice_angstrom = args.ice.unwrap_or(recipe.ice_angstrom);
    if args.clean {
        recipe.dirtiness = Dirtiness::none();
    }
    Ok(recipe)
}

/// The families of a table that --shape names.
fn named<T: Copy>(families: &[(T, &str)], args: &SimulateArgs) -> Result<Vec<T>> {
    let find = |name: &String| {
        let word = name.trim().to_ascii_lowercase();
        families.iter().find(|(_, family)| *family == word).map(|(family, _)| *family).ok_or_else(|| {
            let names: Vec<&str> = families.iter().map(|(_, name)| *name).collect();
            let hint = did_you_mean(&word, names.iter().copied());
            Usage::because(format!("--shape {name}: is no shape of preset {}; expected {}{hint}", args.preset, row(&names, "or"))).into()
        })
    };
    args.shape.iter().map(find).collect()
}

/// Writes a micrograph, and before it its truth in three formats. They can be made again in seconds, so nobody waits until
/// the disk has them.
fn write_one(folder: &Path, stem: &str, simulated: &Simulated, half: bool) -> Result<()> {
    let micrograph = folder.join(format!("{stem}.mrc"));
    // An earlier one must not lie beside the truth of this one, were the run killed in between.
    remove_earlier(&micrograph)?;
    let truth = &simulated.truth;
    let boxes = box_file::WriteOptions::default();
    let (star, boxes) = match truth.kind {
        Kind::Fiber => (star::write::start_end(truth)?, box_file::write_helix(truth, &boxes)?),
        Kind::Particle | Kind::Vesicle => (star::write::particles(truth, star::write::Style::Relion), box_file::write(truth, &boxes)?),
    };
    let texts = [("thi", thi::write(truth, &thi::WriteOptions::default())?), ("star", star), ("box", boxes)];
    for (format, text) in texts {
        write_whole_unsynced(&folder.join("truth").join(format).join(format!("{stem}.{format}")), text.as_bytes())?;
    }
    let (pixels, pixel_type) = match half {
        true => (Cow::from(standardised(&simulated.pixels)), PixelType::F16),
        false => (Cow::from(&simulated.pixels), PixelType::F32),
    };
    let bytes = mrc_write::bytes(&pixels, [simulated.ny, simulated.nx], simulated.pixel_size_angstrom, pixel_type)?;
    write_whole_unsynced(&micrograph, &bytes)
}

/// The pixels brought to a mean of 0 and a standard deviation of 1, because a large pixel counts more electrons than a
/// 16-bit float can hold (65504).
fn standardised(pixels: &[f32]) -> Vec<f32> {
    let count = pixels.len() as f64;
    let mean = pixels.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let variance = pixels.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
    let scale = if variance > 0.0 { variance.sqrt().recip() } else { 1.0 };
    pixels.iter().map(|&value| ((f64::from(value) - mean) * scale) as f32).collect()
}

/// The line of the log: what a program may want to know about a micrograph.
fn remarks(stem: &str, simulated: &Simulated) -> Value {
    let mut fields = Map::new();
    fields.insert("name".to_string(), Value::from(stem));
    fields.insert("labels".to_string(), Value::from(simulated.truth.points.len()));
    for (key, value) in &simulated.remarks {
        let number: Option<f64> = value.parse().ok();
        fields.insert((*key).to_string(), number.map_or_else(|| Value::from(value.as_str()), Value::from));
    }
    Value::Object(fields)
}

/// What a user is told about a micrograph.
fn told(simulated: &Simulated) -> Result<String> {
    let what = match simulated.truth.kind {
        Kind::Particle => counted(simulated.truth.points.len(), "particle"),
        Kind::Vesicle => counted(simulated.truth.points.len(), "vesicle"),
        Kind::Fiber => counted(simulated.truth.fibers()?.len(), "filament"),
    };
    let kind = simulated.remarks.iter().find(|(key, _)| *key == "kind").map_or("", |(_, name)| name.as_str());
    Ok(format!("{what} ({kind}, {:.0} angstrom)", simulated.diameter_angstrom))
}
