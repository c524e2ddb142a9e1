//! Parsers of the numbers that options take. Each says the allowed range when it refuses a value; the unit stands in the
//! option's name for its value (`--diameter <ANGSTROM>`), which the message repeats.

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

/// Device numbers, such as `3` or `0,1`; `-1` is the CPU.
pub fn devices(text: &str) -> Result<Devices, String> {
    let ids: Option<Vec<i32>> = text.split(',').map(|id| id.trim().parse().ok().filter(|&id: &i32| id >= -1)).collect();
    ids.map(Devices).ok_or_else(|| "expected device numbers such as 0 or 0,1, or -1 for the CPU".to_string())
}

/// Device numbers as given with `--gpus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices(pub Vec<i32>);
