//! Reading a coordinate file of any format: bytes in, coordinates or a list out.
//!
//! `train`, `eval` and `coords` read labels through this; the formats themselves have their own files.

use super::coordinates::{Content, Kind, Slices, Warnings};
use super::detect::{CoordinateFormat, coordinate_format};
use super::{box_file, cbox, coord, cs, eman_json, imod, regular, star, text, thi, topaz};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::str::FromStr;

/// A family of formats, as a user names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// EPicker's own text.
    Thi,
    /// RELION's tables.
    Star,
    /// Corner and size, two corners, helix boxes.
    Box,
    /// Plain x and y.
    Coord,
    /// crYOLO's boxes, new and old.
    Cbox,
    /// Topaz tables.
    Topaz,
    /// EMAN2's info files.
    Json,
    /// EMAN2's helicon text.
    Helicon,
    /// cryoSPARC's tables.
    Cs,
}

/// Names of the families on the command line.
pub const FAMILIES: [(&str, Family); 9] = [
    ("thi", Family::Thi),
    ("star", Family::Star),
    ("box", Family::Box),
    ("coord", Family::Coord),
    ("cbox", Family::Cbox),
    ("topaz", Family::Topaz),
    ("json", Family::Json),
    ("helicon", Family::Helicon),
    ("cs", Family::Cs),
];

impl FromStr for Family {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || FAMILIES.map(|(known, _)| known).join(", ");
        FAMILIES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, family)| *family)
            .ok_or_else(|| format!("unknown format '{name}'; expected {}", known()))
    }
}

/// How the four columns of a box file are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoxStyle {
    /// Corner and size.
    Eman,
    /// Two corners, as the original wrote them.
    Corners,
}

/// How [`read`] reads. By default it finds out everything from the content of the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// The format as the user named it; content that contradicts it is refused.
    pub family: Option<Family>,
    /// What the columns of a box file are.
    pub box_style: Option<BoxStyle>,
    /// What the rows of a THI file without a header are, and what contours of IMOD are.
    pub kind: Option<Kind>,
    /// Factor from the pixels of a Topaz table to those of the micrograph; `None` is 1.
    pub topaz_scale: Option<f64>,
    /// Which slices are wanted, if the file is of a tomogram.
    pub slices: Slices,
    /// What to do with shifts and with pairs in STAR files.
    pub star: star::read::ReadOptions,
}

/// A coordinate file as read.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelFile {
    /// The format that was found.
    pub format: CoordinateFormat,
    /// What it holds.
    pub content: Content,
    /// What the user should know: one line each, without the name of the file.
    pub warnings: Vec<String>,
}

/// Reads the bytes of a coordinate file; `extension` is lower case, without the dot.
///
/// Errors: an image or another binary file, no known format, or a fault in the file, with its line.
/// Source: docs/formats.md, "Which format a coordinate file has".
pub fn read(bytes: &[u8], extension: &str, options: &ReadOptions) -> Result<LabelFile> {
    if cs::is_cs(bytes) {
        ensure_family(CoordinateFormat::Cs, options.family.is_none_or(|family| family == Family::Cs), options.family)?;
        let (content, warnings) = cs::read(bytes, options.star.ignore_shifts)?;
        return Ok(LabelFile { format: CoordinateFormat::Cs, content, warnings: warnings.into_messages() });
    }
    refuse_images(bytes)?;
    let text = &*text::decode(bytes)?;
    let mut warnings = Warnings::default();
    let format = choose_format(text, extension, options, &mut warnings)?;
    let (mut content, mut more) = match format {
        CoordinateFormat::Thi => thi::read(text, options.kind)?,
        CoordinateFormat::Star => star::read::read(text, &options.star)?,
        CoordinateFormat::Cbox => cbox::read(text)?,
        CoordinateFormat::Topaz => topaz::read(text, options.topaz_scale.unwrap_or(1.0))?,
        CoordinateFormat::EmanJson => eman_json::read(text)?,
        CoordinateFormat::Cs => cs::read(bytes, options.star.ignore_shifts)?,
        numbers => {
            let mut more = Warnings::default();
            let content = match numbers {
                CoordinateFormat::EmanBox(has_score) => box_file::read(text, has_score, &mut more)?,
                CoordinateFormat::CornerBox => box_file::read_corners(text, &mut more)?,
                CoordinateFormat::HelixBox => box_file::read_helix(text, &mut more)?,
                CoordinateFormat::Helicon => box_file::read_helicon(text, &mut more)?,
                CoordinateFormat::CboxOld => cbox::read_old(text, &mut more)?,
                CoordinateFormat::ImodContours => imod::read(text, options.kind, &mut more)?,
                _ => coord::read(text, options.slices != Slices::One, &mut more)?,
            };
            (content, more)
        }
    };
    if let Content::Coordinates(sets) = &mut content {
        for set in sets {
            let chosen = set.choose_slices(options.slices, &mut more);
            chosen.with_context(|| set.micrograph.clone().unwrap_or_else(|| "its points".to_owned()))?;
        }
    }
    let mut messages = warnings.into_messages();
    messages.extend(more.into_messages());
    if text.trim().is_empty() {
        messages = vec!["the file is empty; taken as a file without coordinates".to_owned()];
    }
    messages.dedup(); // detection and reader may have said the same
    Ok(LabelFile { format, content, warnings: messages })
}

/// Reads a coordinate file from disk.
///
/// Errors: the file cannot be read, and those of [`read`]; the path comes first in the message.
pub fn read_path(path: &Path, options: &ReadOptions) -> Result<LabelFile> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let bytes = regular::read(path)?;
    read(&bytes, &extension, options).with_context(|| path.display().to_string())
}

fn choose_format(text: &str, extension: &str, options: &ReadOptions, warnings: &mut Warnings) -> Result<CoordinateFormat> {
    // A named family also settles what only the extension could settle.
    let extension = match options.family {
        Some(Family::Thi) => "thi",
        Some(Family::Box) => "box",
        Some(Family::Cbox) => "cbox",
        Some(Family::Coord) => "coord",
        _ => extension,
    };
    let mut found = coordinate_format(text, extension, warnings)?;
    if let Some(style) = options.box_style {
        found = match (found, style) {
            (CoordinateFormat::ImodContours, BoxStyle::Eman) => CoordinateFormat::EmanBox(false),
            (CoordinateFormat::ImodContours, BoxStyle::Corners) => CoordinateFormat::CornerBox,
            (CoordinateFormat::EmanBox(_) | CoordinateFormat::Coord, BoxStyle::Corners) => CoordinateFormat::CornerBox,
            (CoordinateFormat::CornerBox, BoxStyle::Eman) => CoordinateFormat::EmanBox(false),
            (other, _) => other,
        };
        *warnings = Warnings::default(); // they ask for this very option
    }
    let Some(family) = options.family else { return Ok(found) };
    let is_comment = |line: &str| line.starts_with('#') || line.starts_with(';');
    let is_empty = text::lines(text).map(|(_, line)| line.trim()).all(|line| line.is_empty() || is_comment(line));
    let fits = match found {
        CoordinateFormat::Thi => family == Family::Thi,
        CoordinateFormat::Star => family == Family::Star,
        CoordinateFormat::Cbox => family == Family::Cbox,
        CoordinateFormat::CboxOld => matches!(family, Family::Cbox | Family::Box),
        CoordinateFormat::EmanBox(_) => matches!(family, Family::Box | Family::Cbox),
        CoordinateFormat::CornerBox | CoordinateFormat::HelixBox => family == Family::Box,
        CoordinateFormat::Helicon => matches!(family, Family::Helicon | Family::Box),
        CoordinateFormat::Coord => family == Family::Coord || is_empty,
        CoordinateFormat::ImodContours => family == Family::Coord,
        CoordinateFormat::Topaz => family == Family::Topaz,
        CoordinateFormat::EmanJson => family == Family::Json,
        CoordinateFormat::Cs => family == Family::Cs,
    };
    ensure_family(found, fits, options.family)?;
    Ok(found)
}

/// Refuses a file of another format than that which was asked for.
fn ensure_family(found: CoordinateFormat, fits: bool, wanted: Option<Family>) -> Result<()> {
    let name = FAMILIES.iter().find(|(_, known)| Some(*known) == wanted).map_or("", |(name, _)| name);
    ensure!(fits, "this looks like {}; expected {name}, as asked for; leave the format out or correct it", describe(found));
    Ok(())
}

/// The name of a format for messages.
pub fn describe(format: CoordinateFormat) -> &'static str {
    match format {
        CoordinateFormat::Thi => "THI",
        CoordinateFormat::Star => "STAR",
        CoordinateFormat::Cbox => "CBOX",
        CoordinateFormat::CboxOld => "old CBOX",
        CoordinateFormat::EmanBox(false) => "EMAN boxes",
        CoordinateFormat::EmanBox(true) => "EMAN boxes with scores",
        CoordinateFormat::CornerBox => "boxes of two corners",
        CoordinateFormat::HelixBox => "EMAN helix boxes",
        CoordinateFormat::Helicon => "EMAN2 helicon text",
        CoordinateFormat::Coord => "plain coordinates",
        CoordinateFormat::ImodContours => "contours of IMOD",
        CoordinateFormat::Topaz => "a Topaz table",
        CoordinateFormat::EmanJson => "an EMAN2 info file",
        CoordinateFormat::Cs => "a .cs file of cryoSPARC",
    }
}

/// Refuses images and says what they are, before the reader of text stumbles over their bytes.
fn refuse_images(bytes: &[u8]) -> Result<()> {
    use super::detect::{HEAD_LEN, ImageFormat, image_format};
    match image_format(&bytes[..bytes.len().min(HEAD_LEN)]) {
        ImageFormat::Text | ImageFormat::Unknown => Ok(()),
        ImageFormat::Refused(name, _) => bail!("byte 0: this is {name}; expected coordinates as text; give the coordinate file itself"),
        ImageFormat::Gzip | ImageFormat::Bzip2 => bail!("byte 0: this is compressed; expected coordinates as text; unpack it first"),
        ImageFormat::Mrc | ImageFormat::Png | ImageFormat::Tiff => {
            bail!("byte 0: this is an image; expected coordinates; give micrographs with --data")
        }
    }
}
