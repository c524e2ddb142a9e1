//! Which format a file has. Its content decides, and its name only where the content could be several things.
//!
//! The first part is about images: every image format but MRC has magic bytes; MRC has the letters `MAP` at byte 208, or
//! nothing.
//! The second part is about coordinate files. They are told by their first signs (`[`, `data_`, `{`, a header), and bare
//! numbers by their columns.
//! Source: docs/formats.md, "Micrographs" and "Which format a coordinate file has".

use super::coordinates::Warnings;
use super::{imod, text, topaz};
use anyhow::{Result, ensure};

/// What the first bytes of a file say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// `MAP` at byte 208.
    Mrc,
    /// PNG.
    Png,
    /// TIFF or BigTIFF.
    Tiff,
    /// A gzip stream; what is inside is not known yet.
    Gzip,
    /// A bzip2 stream; what is inside is not known yet.
    Bzip2,
    /// A known format that is not read: its name, and what to do about it.
    Refused(&'static str, &'static str),
    /// Text: coordinates, a list, a pointer.
    Text,
    /// No magic: an MRC file of before 2000, or anything.
    Unknown,
}

/// Bytes that are enough for `image_format`: the length of an MRC header.
pub const HEAD_LEN: usize = 1024;

const TO_MRC: &str = "convert it to MRC or TIFF, for example with EMAN2's e2proc2d.py";

/// The format of a file that starts with `head` (its first 1024 bytes, or all of them if it is shorter).
pub fn image_format(head: &[u8]) -> ImageFormat {
    // An MRC header may begin with any bytes: NX = 35615 is gzip's magic. So its own tag goes first.
    if head.get(208..211) == Some(b"MAP") {
        return ImageFormat::Mrc;
    }
    let is = |magic: &[u8]| head.starts_with(magic);
    if is(b"\x89PNG\r\n\x1a\n") {
        ImageFormat::Png
    } else if is(b"II*\0") || is(b"MM\0*") || is(b"II+\0") || is(b"MM\0+") {
        ImageFormat::Tiff
    } else if is(b"\x1f\x8b\x08") {
        ImageFormat::Gzip
    } else if is(b"BZh") && head.get(3).is_some_and(u8::is_ascii_digit) {
        ImageFormat::Bzip2
    } else if is(b"\xfd7zXZ\0") {
        ImageFormat::Refused("xz-compressed", "unpack it first: xz -d FILE")
    } else if is(b"\x28\xb5\x2f\xfd") {
        ImageFormat::Refused("Zstandard-compressed", "unpack it first: zstd -d FILE")
    } else if is(b"PK\x03\x04") {
        ImageFormat::Refused("a zip archive (a PyTorch model is one too)", "give the micrograph itself")
    } else if is(b"\x89HDF") {
        ImageFormat::Refused("HDF5 (EMAN2 .hdf)", "convert it to MRC with e2proc2d.py")
    } else if is(b"\x93NUMPY") || is(b"\x95CSDAT") {
        ImageFormat::Refused(
            "NumPy (.npy, cryoSPARC .cs)",
            "give the micrograph itself; a list of micrographs (exposures) has to end in .cs",
        )
    } else if is(b"\xff\xd8\xff") {
        ImageFormat::Refused("JPEG", "its losses harm picking: use the original, or convert it to PNG")
    } else if is(b"GIF8") {
        ImageFormat::Refused("GIF", TO_MRC)
    } else if is_dm(head) {
        ImageFormat::Refused("Digital Micrograph (DM3/DM4)", "convert it to MRC with IMOD's dm2mrc or EMAN2's e2proc2d.py")
    } else if is_text(head) {
        ImageFormat::Text
    } else {
        ImageFormat::Unknown
    }
}

/// True for DM3 and DM4. They begin with the version, 3 or 4, as a big-endian number; then come the file length (4 or 8 bytes)
/// and a byte-order flag of 0 or 1. A big-endian MRC image without `MAP` that is 3 or 4 pixels wide may begin in the same way,
/// but no micrograph is so narrow.
fn is_dm(head: &[u8]) -> bool {
    let flag_at = match head.get(..4) {
        Some([0, 0, 0, 3]) => 8,
        Some([0, 0, 0, 4]) => 12,
        _ => return false,
    };
    // The byte-order flag is followed by two flags of the first tag directory, sorted and open, each 0 or 1.
    matches!(head.get(flag_at..flag_at + 6), Some([0, 0, 0, 0 | 1, 0 | 1, 0 | 1]))
}

/// True if all bytes are printable or white space. An MRC header always holds zero bytes: its sizes are below 2^24.
fn is_text(head: &[u8]) -> bool {
    !head.is_empty() && head.iter().all(|&byte| byte >= 0x20 && byte != 0x7f || matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c))
}

/// Formats of coordinate files, as told by their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoordinateFormat {
    /// THI of any kind.
    Thi,
    /// STAR of any role but CBOX.
    Star,
    /// crYOLO's boxes of version 1.0.
    Cbox,
    /// crYOLO's old boxes: bare columns.
    CboxOld,
    /// EMAN boxes: corner and size; true if the fifth column is a score.
    EmanBox(bool),
    /// The original's boxes: two corners.
    CornerBox,
    /// EMAN helix boxes: pairs of rows.
    HelixBox,
    /// EMAN2's helicon text.
    Helicon,
    /// Plain x and y.
    Coord,
    /// Contours of an IMOD model, as model2point prints them.
    ImodContours,
    /// Topaz table.
    Topaz,
    /// EMAN2's info file.
    EmanJson,
    /// cryoSPARC's table.
    Cs,
}

/// The format of the text of a coordinate file. Content decides; `extension` (lower case, without the dot) only
/// where the content could be several things.
///
/// Errors: no known format; a known one that is not read, by name; rows of unequal length or not of numbers.
/// Source: docs/formats.md, "Which format a coordinate file has".
pub fn coordinate_format(text: &str, extension: &str, warnings: &mut Warnings) -> Result<CoordinateFormat> {
    let mut meaningful = text::lines(text).map(|(_, line)| line.trim_start()).filter(|line| !line.is_empty());
    let is_comment = |line: &&str| line.starts_with('#') || line.starts_with(';');
    let Some(first) = meaningful.clone().find(|line| !is_comment(line)) else {
        return Ok(format_of_empty(text, extension));
    };
    if let Some(after) = first.strip_prefix('[') {
        let is_list = after.trim_start().chars().next().is_none_or(|c| matches!(c, '[' | '{' | '"' | ']' | '-') || c.is_ascii_digit());
        ensure!(
            !is_list,
            "this is a JSON list; expected a THI header such as [Particle Coordinates: X Y Value]; convert the list to THI or STAR"
        );
        return Ok(CoordinateFormat::Thi);
    }
    // Topaz is tried before STAR, because a Topaz table of micrographs in a folder called data_... has rows that begin like a
    // block of STAR.
    if topaz::is_header(first) {
        return Ok(CoordinateFormat::Topaz);
    }
    let mut blocks = text::lines(text).map(|(_, line)| line.trim_start()).filter(|line| line.starts_with("data_")).peekable();
    if blocks.peek().is_some() {
        let is_cbox = blocks.any(|line| line.split_whitespace().next() == Some("data_cryolo"));
        return Ok(if is_cbox { CoordinateFormat::Cbox } else { CoordinateFormat::Star });
    }
    if first.starts_with('{') {
        return Ok(CoordinateFormat::EmanJson);
    }
    if meaningful.any(|line| line.starts_with("#micrograph") || line.starts_with("#helix")) {
        return Ok(CoordinateFormat::Helicon);
    }
    ensure!(
        !first.starts_with("version https://git-lfs"),
        "this is a git-LFS pointer, not the file itself; expected coordinates; fetch the file with git lfs pull"
    );
    ensure!(
        !first.contains("region_shape_attributes"),
        "this is a CSV of VIA (VGG Image Annotator); expected coordinates; write x and y as two columns"
    );
    if extension == "thi" {
        return Ok(CoordinateFormat::Thi); // without its header
    }
    ensure!(
        !["star", "json"].contains(&extension),
        "no sign of {extension}: it begins with '{}'; expected {}; correct the file or name its format",
        text::excerpt(first),
        if extension == "star" { "data_ and loop_" } else { "{\"boxes\": ...}" }
    );
    let rows = text::number_rows(text, warnings)?;
    if rows.is_empty() {
        return Ok(format_of_empty("", extension));
    }
    text::check_counts(&rows, &[2, 3, 4, 5, 7])?;
    let format = format_of_numbers(&rows, warnings);
    ensure!(
        !(format == CoordinateFormat::Coord && extension == "box" && rows[0].values.len() < 4),
        "line {}: {} columns in a box file; expected 4 or 5: x y w h and perhaps a score; correct the file or rename it to .coord",
        rows[0].line,
        rows[0].values.len()
    );
    // Five columns mean the same in a box file and in an old CBOX file, so the name of the file decides what it is called.
    Ok(if matches!(format, CoordinateFormat::EmanBox(true)) && extension == "cbox" { CoordinateFormat::CboxOld } else { format })
}

/// The format of a file without rows. Only its name tells, or the comments of helicon text.
fn format_of_empty(text: &str, extension: &str) -> CoordinateFormat {
    if text::lines(text).any(|(_, line)| line.starts_with("#micrograph") || line.starts_with("#helix")) {
        return CoordinateFormat::Helicon;
    }
    match extension {
        "thi" => CoordinateFormat::Thi,
        "box" => CoordinateFormat::EmanBox(false),
        "cbox" => CoordinateFormat::CboxOld,
        _ => CoordinateFormat::Coord, // whatever format was meant, this one reads no rows as no points
    }
}

/// The format of bare numbers, whose rows all have the same length (2, 3, 4, 5 or 7).
fn format_of_numbers(rows: &[text::NumberRow], warnings: &mut Warnings) -> CoordinateFormat {
    let column = |i: usize| rows.iter().map(move |row| row.values[i]);
    let is_constant = |i: usize| column(i).all(|value| value == rows[0].values[i]);
    let line = rows[0].line;
    match rows[0].values.len() {
        2 | 3 => CoordinateFormat::Coord,
        // If all rows end in the same size, twice, they are boxes of that size in the first columns of pixels, and not
        // contours. A single row is a contour only if it ends in a z of 0.
        4 if imod::are_contours(rows)
            && !(is_constant(2) && is_constant(3) && rows[0].values[3] > 1.0 && rows[0].values[2] == rows[0].values[3])
            && (rows.len() > 1 || rows[0].values[3] == 0.0) =>
        {
            CoordinateFormat::ImodContours
        }
        5 if rows.len() > 1 && imod::are_contours(rows) => CoordinateFormat::ImodContours,
        4 => {
            let share = |is_square: &dyn Fn(&[f64]) -> bool| rows.iter().filter(|row| is_square(&row.values)).count();
            let nearly = |w: f64, h: f64| (w - h).abs() <= f64::max(1.0, 0.2 * w);
            let sizes = share(&|v| nearly(v[2], v[3]));
            let corners = share(&|v| v[2] > v[0] && v[3] > v[1] && nearly(v[2] - v[0], v[3] - v[1]));
            if is_constant(2) && is_constant(3) && rows[0].values[2] > 1.0 && rows[0].values[3] > 1.0 {
                if rows.len() == 1 && corners > sizes {
                    warnings.note(line, "taken as corner and size, but it may be two corners; --box-style corners reads it so");
                }
                return CoordinateFormat::EmanBox(false);
            }
            if column(3).all(|value| value == 0.0 || value == 1.0) {
                return CoordinateFormat::Coord;
            }
            if corners > sizes && rows.len() > 1 {
                warnings.note(0, "columns 3 and 4 look like a second corner, so each row is taken as two corners; --box-style eman reads corner and size");
                return CoordinateFormat::CornerBox;
            }
            if corners == sizes {
                warnings.note(0, "taken as corner and size, but it may be two corners; --box-style corners reads it so");
            }
            CoordinateFormat::EmanBox(false)
        }
        5 => {
            if rows.iter().enumerate().all(|(i, row)| row.values[4] == if i % 2 == 0 { -1.0 } else { -2.0 }) {
                return CoordinateFormat::HelixBox;
            }
            let is_whole = column(4).all(|value| value.fract() == 0.0);
            if is_constant(4) && is_whole {
                return CoordinateFormat::EmanBox(false);
            }
            if !column(4).all(|value| (0.0..=1.0).contains(&value)) {
                warnings.note(0, "the fifth column is taken as a score, though it is not between 0 and 1");
            }
            CoordinateFormat::EmanBox(true)
        }
        _ => CoordinateFormat::CboxOld,
    }
}
