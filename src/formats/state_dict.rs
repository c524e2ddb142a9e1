//! Named tensors in memory: what a checkpoint holds, whatever its container.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, ensure};
use half::f16;

/// Key of the epochs trained, in every container.
pub const METADATA_EPOCH: &str = "epoch";

/// The numbers of one tensor, contiguous and row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// 32-bit floats, the usual case.
    F32(Vec<f32>),
    /// 16-bit floats.
    F16(Vec<f16>),
    /// 64-bit floats.
    F64(Vec<f64>),
    /// 64-bit integers: the counters of batch norm.
    I64(Vec<i64>),
}

/// One tensor of a checkpoint. Shapes are as PyTorch writes them: weights are [out, in / groups, kh, kw].
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Name without a leading `module.`.
    pub name: String,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The numbers.
    pub values: Values,
}

/// A model's parameters and statistics in file order, with what else its file says of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    /// Tensors in file order.
    pub tensors: Vec<NamedTensor>,
    /// Facts beside the tensors: `epoch` of a `.pth`, metadata of a `.safetensors` (`epicker.version`, `mode`, ...).
    pub metadata: BTreeMap<String, String>,
}

impl Values {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(v) => v.len(),
            Values::F16(v) => v.len(),
            Values::F64(v) => v.len(),
            Values::I64(v) => v.len(),
        }
    }

    /// True if there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of one value in a file.
    pub fn bytes_per_value(&self) -> usize {
        match self {
            Values::F16(_) => 2,
            Values::F32(_) => 4,
            Values::F64(_) | Values::I64(_) => 8,
        }
    }

    /// The type as safetensors spells it: `F32`, `F16`, `F64` or `I64`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Values::F32(_) => "F32",
            Values::F16(_) => "F16",
            Values::F64(_) => "F64",
            Values::I64(_) => "I64",
        }
    }

    /// The values as they lie in a file.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        match self {
            Values::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Values::F16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Values::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Values::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    /// The values as f32, converted where they are stored in another type.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Values::F32(v) => v.clone(),
            Values::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Values::F64(v) => v.iter().map(|&x| x as f32).collect(),
            Values::I64(v) => v.iter().map(|&x| x as f32).collect(),
        }
    }
}

impl StateDict {
    /// The tensor of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<&NamedTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// Number of values that are learnt or measured: all but the integer counters.
    pub fn float_count(&self) -> usize {
        self.tensors.iter().filter(|tensor| !matches!(tensor.values, Values::I64(_))).map(|tensor| tensor.values.len()).sum()
    }

    /// The model with its weights as 16-bit floats. Tensors of one extent (biases and batch norm) stay as they are:
    /// they are a thousandth of the file, and running variances leave the range of 16 bits.
    ///
    /// Errors: a weight lies beyond 65504, the largest 16-bit float.
    pub fn to_half(&self) -> Result<StateDict> {
        let mut half = self.clone();
        for tensor in half.tensors.iter_mut().filter(|tensor| tensor.shape.len() > 1) {
            let floats = match &tensor.values {
                Values::F32(_) | Values::F64(_) => tensor.values.to_f32(),
                Values::F16(_) | Values::I64(_) => continue,
            };
            let beyond = floats.iter().find(|x| x.is_finite() && f16::from_f32(**x).is_infinite());
            ensure!(
                beyond.is_none(),
                "{}: value {} does not fit 16 bits; expected at most 65504; store it without --half",
                tensor.name,
                beyond.unwrap_or(&0.0)
            );
            tensor.values = Values::F16(floats.into_iter().map(f16::from_f32).collect());
        }
        Ok(half)
    }
}

/// What a model says of itself beside its tensors; each is absent if nothing is known.
///
/// In a file these are text under `epicker.*` keys: docs/formats.md, "Model files".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelFacts {
    /// Version of the program that wrote the file (`epicker.version`).
    pub version: Option<String>,
    /// `particle`, `vesicle` or `fiber` (`epicker.mode`).
    pub mode: Option<String>,
    /// Channels of levels 0 to 5 (`epicker.channels`).
    pub channels: Option<Vec<usize>>,
    /// Channels between the two convolutions of a head (`epicker.head_width`).
    pub head_width: Option<usize>,
    /// Side of a particle's box in heat-map pixels (`epicker.particle_size`).
    pub particle_size_h_px: Option<f64>,
    /// Mean and standard deviation that images are normalised with (`epicker.normalisation`).
    pub normalisation: Option<[f64; 2]>,
    /// Diameter of the particles it was trained on (`epicker.diameter_angstrom`).
    pub diameter_angstrom: Option<f64>,
    /// Frame it was trained with, where the particles' size is not known (`epicker.frame`).
    pub frame: Option<usize>,
    /// Uneven ground is taken away from its images: the deviation of the Gaussian that leaves the ground, pixels of frame D
    /// (`epicker.ground_px`).
    pub ground_px: Option<f64>,
    /// How many views of an image are averaged, unless the command line says otherwise: 1, 2 or 4 (`epicker.average`).
    pub average: Option<usize>,
    /// Score above which peaks are picks, unless the command line says otherwise (`epicker.threshold`).
    pub threshold: Option<f64>,
    /// The threshold is sought: picks of copies without particles that are allowed, as a share of those of micrographs
    /// (`epicker.noise_share`).
    pub noise_share: Option<f64>,
    /// One line for each training, oldest first (`epicker.history`).
    pub history: Vec<String>,
}

const VERSION: &str = "epicker.version";
const MODE: &str = "epicker.mode";
const CHANNELS: &str = "epicker.channels";
const HEAD_WIDTH: &str = "epicker.head_width";
const PARTICLE_SIZE: &str = "epicker.particle_size";
const NORMALISATION: &str = "epicker.normalisation";
const DIAMETER: &str = "epicker.diameter_angstrom";
const FRAME: &str = "epicker.frame";
const GROUND: &str = "epicker.ground_px";
const AVERAGE: &str = "epicker.average";
const THRESHOLD: &str = "epicker.threshold";
const NOISE_SHARE: &str = "epicker.noise_share";
const HISTORY: &str = "epicker.history";

impl ModelFacts {
    /// Reads the facts out of a file's metadata.
    ///
    /// Errors: a fact that is there but makes no sense, by its key.
    pub fn from_metadata(metadata: &BTreeMap<String, String>) -> Result<ModelFacts> {
        let number = |key: &str| -> Result<Option<f64>> {
            let parse = |text: &String| text.trim().parse::<f64>().ok().filter(|value| value.is_finite());
            metadata.get(key).map(|text| parse(text).ok_or_else(|| wrong(key, text, "a number"))).transpose()
        };
        let numbers = |key: &str| -> Result<Option<Vec<f64>>> {
            let parse = |text: &String| {
                text.split(',').map(|part| part.trim().parse::<f64>().ok().filter(|value| value.is_finite())).collect::<Option<Vec<_>>>()
            };
            metadata.get(key).map(|text| parse(text).ok_or_else(|| wrong(key, text, "numbers with commas between"))).transpose()
        };
        let count = |key: &str, text: &str| text.trim().parse::<usize>().map_err(|_| wrong(key, text, "a count"));
        let mode = metadata.get(MODE).cloned();
        if let Some(mode) = &mode {
            ensure!(["particle", "vesicle", "fiber"].contains(&mode.as_str()), wrong(MODE, mode, "particle, vesicle or fiber"));
        }
        let channels =
            metadata.get(CHANNELS).map(|text| text.split(',').map(|part| count(CHANNELS, part)).collect::<Result<Vec<_>>>()).transpose()?;
        let normalisation = match numbers(NORMALISATION)? {
            None => None,
            Some(pair) => Some(
                pair.as_slice()
                    .try_into()
                    .ok()
                    .filter(|[_, deviation]: &[f64; 2]| *deviation > 0.0)
                    .ok_or_else(|| wrong(NORMALISATION, &join(&pair), "a mean and a standard deviation above 0"))?,
            ),
        };
        let above_0 = |key: &str| -> Result<Option<f64>> {
            let value = number(key)?;
            ensure!(value.is_none_or(|value| value > 0.0), wrong(key, &metadata[key], "a number above 0"));
            Ok(value)
        };
        let frame = metadata.get(FRAME).map(|text| count(FRAME, text)).transpose()?;
        if let Some(frame) = frame {
            let is_frame = (32..=16_384).contains(&frame) && frame.is_multiple_of(32);
            ensure!(is_frame, wrong(FRAME, &metadata[FRAME], "a multiple of 32 from 32 to 16384"));
        }
        let average = metadata.get(AVERAGE).map(|text| count(AVERAGE, text)).transpose()?;
        ensure!(average.is_none_or(|views| [1, 2, 4].contains(&views)), wrong(AVERAGE, &metadata[AVERAGE], "1, 2 or 4"));
        let history =
            metadata.get(HISTORY).map(|text| serde_json::from_str(text).with_context(|| format!("metadata {HISTORY}"))).transpose()?;
        Ok(ModelFacts {
            version: metadata.get(VERSION).cloned(),
            mode,
            channels,
            head_width: metadata.get(HEAD_WIDTH).map(|text| count(HEAD_WIDTH, text)).transpose()?,
            particle_size_h_px: above_0(PARTICLE_SIZE)?,
            normalisation,
            diameter_angstrom: above_0(DIAMETER)?,
            frame,
            ground_px: above_0(GROUND)?,
            average,
            threshold: number(THRESHOLD)?,
            noise_share: above_0(NOISE_SHARE)?,
            history: history.unwrap_or_default(),
        })
    }

    /// Puts the deviation that leaves the ground into a file's metadata, or takes it out.
    pub fn set_ground(sigma_px: Option<f64>, metadata: &mut BTreeMap<String, String>) {
        metadata.remove(GROUND);
        ModelFacts { ground_px: sigma_px, ..ModelFacts::default() }.write_to(metadata);
    }

    /// Puts the facts into a file's metadata; other keys, and facts that are absent here, stay as they are.
    pub fn write_to(&self, metadata: &mut BTreeMap<String, String>) {
        let mut put = |key: &str, text: Option<String>| {
            if let Some(text) = text {
                metadata.insert(key.to_owned(), text);
            }
        };
        put(VERSION, self.version.clone());
        put(MODE, self.mode.clone());
        put(CHANNELS, self.channels.as_deref().map(join));
        put(HEAD_WIDTH, self.head_width.map(|width| width.to_string()));
        put(PARTICLE_SIZE, self.particle_size_h_px.map(|size| size.to_string()));
        put(NORMALISATION, self.normalisation.as_ref().map(|pair| join(pair)));
        put(DIAMETER, self.diameter_angstrom.map(|diameter| diameter.to_string()));
        put(FRAME, self.frame.map(|frame| frame.to_string()));
        put(GROUND, self.ground_px.map(|sigma| sigma.to_string()));
        put(AVERAGE, self.average.map(|views| views.to_string()));
        put(THRESHOLD, self.threshold.map(|threshold| threshold.to_string()));
        put(NOISE_SHARE, self.noise_share.map(|share| share.to_string()));
        put(HISTORY, Some(&self.history).filter(|lines| !lines.is_empty()).map(|lines| serde_json::Value::from(lines.clone()).to_string()));
    }
}

fn wrong(key: &str, found: &str, expected: &str) -> anyhow::Error {
    anyhow!("metadata {key}: {found:?}; expected {expected}")
}

fn join<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}
