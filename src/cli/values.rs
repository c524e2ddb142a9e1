//! Parsers of the numbers that options take. Each says the allowed range when it refuses a value; the unit stands in the
//! option's name for its value (`--diameter <ANGSTROM>`), which the message repeats.

use crate::device::gpu::pack::Form;
use crate::device::gpu::predict::{KNOWN, Known};
pub use crate::doctor::compute::Devices;
use crate::io::shard::Shard;
use crate::net::Views;
use crate::ops::Precision;

/// A number in a range. NaN lies in no range, so it is refused, too.
pub fn number_in(text: &str, range: std::ops::RangeInclusive<f64>) -> Result<f64, String> {
    let value: Option<f64> = text.trim().parse().ok();
    let (low, high) = (range.start(), range.end());
    value.filter(|value| range.contains(value)).ok_or_else(|| match *high < f64::MAX {
        true => format!("expected a number from {low} to {high}"),
        false => format!("expected a number of at least {low}"),
    })
}

/// A score, from 0 to 1.
pub fn score(text: &str) -> Result<f32, String> {
    number_in(text, 0.0..=1.0)?;
    // The text is parsed again as an f32, because rounding twice could give another number than a file's 0.1 is read as.
    text.trim().parse().map_err(|_| "expected a number from 0 to 1".to_string())
}

/// A clear margin to the border, in pixels of the 1024-wide image.
pub fn edge(text: &str) -> Result<f64, String> {
    number_in(text, 0.0..=511.0)
}

/// A distance between picks, in pixels of the 1024-wide image.
pub fn distance(text: &str) -> Result<f64, String> {
    number_in(text, 0.0..=f64::MAX)
}

/// The angle of a bend, from 0 to 1.57 radians.
pub fn bend(text: &str) -> Result<f64, String> {
    number_in(text, 0.0..=1.57)
}

/// A length or a pixel size, which must be above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.trim().parse().ok();
    value.filter(|value| *value > 0.0 && value.is_finite()).ok_or_else(|| "expected a number above 0".to_string())
}

/// A length that may be 0.
pub fn length(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.trim().parse().ok();
    value.filter(|value| *value >= 0.0 && value.is_finite()).ok_or_else(|| "expected 0 or a number above it".to_string())
}

/// A share of a batch.
pub fn shard(text: &str) -> Result<Shard, String> {
    text.parse().map_err(|error| format!("{error:#}"))
}

/// How many views of a micrograph are averaged.
pub fn views(text: &str) -> Result<Views, String> {
    text.trim().parse().ok().and_then(Views::of).ok_or_else(|| "expected 1, 2 or 4".to_string())
}

/// A whole number of at least 1.
pub fn count(text: &str) -> Result<usize, String> {
    text.trim().parse().ok().filter(|&value| value >= 1).ok_or_else(|| "expected a whole number from 1".to_string())
}

/// The width and height of the network's input. Five levels halve it, so it must be a multiple of 32.
pub fn frame(text: &str) -> Result<usize, String> {
    let value: Option<usize> = text.trim().parse().ok();
    value
        .filter(|value| (32..=16_384).contains(value) && value % 32 == 0)
        .ok_or_else(|| "expected a multiple of 32 from 32 to 16384".to_string())
}

/// Columns and rows of a micrograph, such as `4096x4096`.
pub fn extent(text: &str) -> Result<[usize; 2], String> {
    let sides: Option<Vec<usize>> =
        text.split('x').map(|side| side.trim().parse().ok().filter(|side| (32..=32_768).contains(side))).collect();
    let both = sides.and_then(|sides| <[usize; 2]>::try_from(sides).ok());
    both.ok_or_else(|| "expected columns and rows such as 4096x4096, each from 32 to 32768".to_string())
}

/// The name of a GPU whose times can be predicted.
pub fn gpu_model(text: &str) -> Result<&'static Known, String> {
    let names: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
    Known::of(text.trim()).ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

/// A form of a GPU's kernels.
pub fn form(text: &str) -> Result<Form, String> {
    match text.trim() {
        "machine-code" => Ok(Form::Cubin),
        "ptx" => Ok(Form::Ptx),
        "sources" => Ok(Form::Source),
        _ => Err("expected machine-code, ptx or sources".to_string()),
    }
}

/// What numbers products are multiplied in.
pub fn precision(text: &str) -> Result<Precision, String> {
    let all = [Precision::F32, Precision::Tf32, Precision::F16];
    all.into_iter().find(|precision| precision.name() == text.trim()).ok_or_else(|| "expected fp32, tf32 or fp16".to_string())
}

/// Devices of `--gpus`.
pub fn devices(text: &str) -> Result<Devices, String> {
    text.parse()
}
