//! Faults of the original. They are mended here, and `--compat NAME[,NAME...]` brings them back one by one.
//!
//! Each name has a test that shows what happens with the fault and without it. `all` means "pick as the 2022 source did".

use std::collections::BTreeSet;
use std::str::FromStr;

/// A fault of the original, which is mended here unless the user asks for it. Each one says what the original does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Micrographs narrower than the frame: rows of the spectrum put at the wrong frequencies.
    Narrow,
    /// Integer micrographs: the crop truncated to the integer type, differences wrapping.
    IntCast,
    /// Grey levels reach from the lowest pixel to the highest, so that one hot pixel leaves few levels for all others.
    HotPixel,
    /// The edge margin in y multiplied by ny/nx.
    EdgeY,
    /// y coordinates scaled back with nx/1024 instead of ny/h.
    YScale,
    /// Written coordinates truncated instead of rounded.
    Trunc,
    /// Box files with two corners instead of corner and size.
    BoxCorners,
    /// Coord files with four columns: x, y, size in network pixels, 0.
    Coord4,
    /// Fibers with the constant score 1.0, and without the last line end.
    FiberOnes,
    /// Labels truncated twice on their way to the downscaled image.
    LabelTrunc,
    /// A clipped label box moves its centre.
    ClipCentre,
    /// Training normalises with another mean and deviation than picking.
    TrainNorm,
    /// The losses that keep a network from forgetting are used in particle mode only.
    DistillParticle,
    /// The earlier network, which should stay as it is, runs in training mode.
    TeacherBn,
    /// The distance of the features is divided by the map sizes of a 1024x1024 image, whatever the size of the image.
    DistillSize,
    /// The original's positive-unlabelled loss.
    SparseOriginal,
    /// Exemplars are the first images of the list.
    ExemplarFirst,
}

/// Names as they are written on the command line, in the order of the documentation.
pub const FAULTS: [(&str, Fault); 17] = [
    ("narrow", Fault::Narrow),
    ("int-cast", Fault::IntCast),
    ("hot-pixel", Fault::HotPixel),
    ("edge-y", Fault::EdgeY),
    ("y-scale", Fault::YScale),
    ("trunc", Fault::Trunc),
    ("box-corners", Fault::BoxCorners),
    ("coord4", Fault::Coord4),
    ("fiber-ones", Fault::FiberOnes),
    ("label-trunc", Fault::LabelTrunc),
    ("clip-centre", Fault::ClipCentre),
    ("train-norm", Fault::TrainNorm),
    ("distill-particle", Fault::DistillParticle),
    ("teacher-bn", Fault::TeacherBn),
    ("distill-size", Fault::DistillSize),
    ("sparse-original", Fault::SparseOriginal),
    ("exemplar-first", Fault::ExemplarFirst),
];

/// The faults that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compat {
    faults: BTreeSet<Fault>,
    all: bool,
}

impl Compat {
    /// Everything as the original did it.
    pub fn all() -> Self {
        Compat { faults: FAULTS.iter().map(|(_, fault)| *fault).collect(), all: true }
    }

    /// Only these faults.
    pub fn only(faults: &[Fault]) -> Self {
        Compat { faults: faults.iter().copied().collect(), all: false }
    }

    /// The names as `--compat` takes them; empty without any.
    pub fn names(&self) -> String {
        if self.all {
            return "all".to_string();
        }
        let asked: Vec<&str> = FAULTS.iter().filter(|(_, fault)| self.has(*fault)).map(|(name, _)| *name).collect();
        asked.join(",")
    }

    /// True if this fault was asked for.
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// True if `all` was asked for: the tests then run on frame D in f32, as in the original.
    pub fn is_all(&self) -> bool {
        self.all
    }
}

impl FromStr for Compat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut compat = Compat::default();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name == "all" {
                compat = Compat::all();
            } else if let Some((_, fault)) = FAULTS.iter().find(|(known, _)| *known == name) {
                compat.faults.insert(*fault);
            } else {
                let known: Vec<&str> = FAULTS.iter().map(|(known, _)| *known).collect();
                return Err(format!("unknown name '{name}'; expected all or some of {}", known.join(", ")));
            }
        }
        Ok(compat)
    }
}
