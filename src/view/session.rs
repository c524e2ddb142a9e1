//! What a workbench was opened with, and what its user chooses: the size of particles, and which model picks.

use crate::formats::coordinates::Kind;
use crate::io::find::Found;
use crate::io::pairing::{Name, distinct};
use crate::io::write::write_whole;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What does not change while the server runs.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// This program, whose commands do the work.
    pub program: PathBuf,
    /// What the micrographs were called on the command line.
    pub data: PathBuf,
    /// The micrographs.
    pub micrographs: Vec<Found>,
    /// Names by which coordinates are paired with them.
    pub paired: Vec<Name>,
    /// Where everything is kept.
    pub folder: PathBuf,
    /// Labels to begin with, of any format.
    pub labels: Option<PathBuf>,
    /// Picks to begin with: an output folder of `epicker pick`.
    pub picks: Option<PathBuf>,
    /// What is looked for.
    pub kind: Kind,
    /// The model to begin with: a file, or the name of a general model.
    pub model: String,
    /// Pixel size of all micrographs, angstrom, whatever their files say.
    pub angpix: Option<f64>,
    /// Size of the particles, if the command line says it.
    pub size: Option<ParticleSize>,
    /// Defocus of each micrograph, angstrom, where a list tells it.
    pub defocus: Vec<Option<f64>>,
    /// Steps of a training.
    pub steps: usize,
    /// Exemplars of earlier data sets, which are not to be forgotten.
    pub exemplars: Option<PathBuf>,
}

impl Fixed {
    /// The path of a micrograph, which does not depend on where the program was started.
    pub fn path(&self, i: usize) -> PathBuf {
        let path = &self.micrographs[i].path;
        std::path::absolute(path).unwrap_or_else(|_| path.clone())
    }

    /// What the files of the micrographs are called, without extension.
    pub fn names(&self) -> Vec<String> {
        distinct(&self.paired).into_iter().map(|name| name.replace(['/', '\\'], "_")).collect()
    }
}

/// How large particles are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParticleSize {
    /// Diameter in angstrom.
    Angstrom(f64),
    /// Diameter in pixels of micrographs whose pixel size nobody knows.
    Pixels(f64),
}

impl ParticleSize {
    /// The options that tell a command so. A command knows diameters in angstrom only, so where the pixel size is unknown a pixel
    /// counts as one.
    pub fn options(self) -> Vec<String> {
        match self {
            ParticleSize::Angstrom(diameter) => vec!["--diameter".to_owned(), diameter.to_string()],
            ParticleSize::Pixels(diameter) => ["--diameter", &diameter.to_string(), "--angpix", "1"].map(str::to_owned).to_vec(),
        }
    }

    /// The diameter in micrograph pixels.
    pub fn px(self, pixel_size_angstrom: Option<f64>) -> Option<f64> {
        match self {
            ParticleSize::Angstrom(diameter) => pixel_size_angstrom.map(|pixel_size| diameter / pixel_size),
            ParticleSize::Pixels(diameter) => Some(diameter),
        }
    }

    /// As a part of a folder's name, because picks of another size lie in another folder.
    pub fn for_a_name(self) -> String {
        match self {
            ParticleSize::Angstrom(diameter) => format!("-{diameter}A"),
            ParticleSize::Pixels(diameter) => format!("-{diameter}px"),
        }
    }
}

/// What a user chooses; kept in `session.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// How large particles are, once that is known.
    pub size: Option<ParticleSize>,
    /// The learnt model that picks; none for the one that the workbench began with.
    pub model: Option<String>,
    /// The threshold that was chosen; none for that of the run.
    pub threshold: Option<f32>,
}

const FILE: &str = "session.json";

impl Session {
    /// What was chosen when the folder was last open, or what the command line says.
    ///
    /// Errors: the file cannot be read.
    pub fn read(folder: &Path, fixed: &Fixed) -> Result<Session> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("{}: cannot be read", path.display())),
        };
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let number = |key: &str| value[key].as_f64().filter(|number| *number > 0.0);
        let kept = number("diameter_angstrom").map(ParticleSize::Angstrom).or(number("diameter_px").map(ParticleSize::Pixels));
        let model = value["model"].as_str().filter(|name| super::learn::is_there(folder, name)).map(str::to_owned);
        let threshold = value["threshold"].as_f64().filter(|number| (0.0..=1.0).contains(number)).map(|number| number as f32);
        Ok(Session { size: fixed.size.or(kept), model, threshold })
    }

    /// Keeps what was chosen.
    ///
    /// Errors: the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let [mut angstrom, mut px] = [None, None];
        match self.size {
            Some(ParticleSize::Angstrom(diameter)) => angstrom = Some(diameter),
            Some(ParticleSize::Pixels(diameter)) => px = Some(diameter),
            None => {}
        }
        let value = json!({ "diameter_angstrom": angstrom, "diameter_px": px, "model": self.model, "threshold": self.threshold });
        write_whole(&folder.join(FILE), format!("{value:#}\n").as_bytes())
    }
}
