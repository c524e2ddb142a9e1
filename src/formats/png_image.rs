//! Micrographs as PNG: 8 or 16 bits, grey or colour. Row 0 is the top row; no gamma, no scaling.
//!
//! Source: docs/formats.md, "PNG".

use crate::formats::image::{ImageInfo, Micrograph, Orientation, Pixels};
use anyhow::{Result, anyhow, bail, ensure};
use png::{BitDepth, ColorType, Decoder, Limits, Reader, Transformations};
use std::io::Cursor;

/// Deflate makes at most 1032 bytes out of one. A file that claims to hold more is damaged or hostile.
const DEFLATE_RATIO: u64 = 1032;

/// Reads a PNG image.
///
/// Errors: damaged, 1 bit per pixel, animated, or larger than its bytes can hold.
pub fn read(bytes: &[u8]) -> Result<Micrograph> {
    let mut reader = open(bytes)?;
    let info = reader.info();
    let (nx, ny, interlaced) = (info.width as usize, info.height as usize, info.interlaced);
    let (colour, depth) = reader.output_color_type();
    let mut image = Builder::new(colour, depth)?;
    let broken = |error: png::DecodingError| anyhow!("pixels: {error}; expected a whole PNG; write the file again");
    if interlaced {
        // The rows of an interlaced image come out of order, so it is decoded whole; `open` has checked its size.
        let len = reader.output_buffer_size().ok_or_else(|| anyhow!("header: the image is too large for this machine"))?;
        let mut buffer = vec![0; len];
        reader.next_frame(&mut buffer).map_err(broken)?;
        image.push(&buffer);
    } else {
        while let Some(row) = reader.next_row().map_err(broken)? {
            image.push(row.data());
        }
    }
    let pixels = image.finish();
    ensure!(pixels.len() == nx * ny, "pixels: {} of {} are there; expected a whole PNG; write the file again", pixels.len(), nx * ny);
    Ok(Micrograph { nx, ny, sections: 1, pixels, pixel_size_angstrom: None, orientation: Orientation::PngTop, warnings: Vec::new() })
}

/// What the header of a PNG says.
///
/// Errors: as `read`, as far as the header shows it.
pub fn info(bytes: &[u8]) -> Result<ImageInfo> {
    let reader = open(bytes)?;
    let info = reader.info();
    Ok(ImageInfo {
        format: "PNG",
        nx: info.width as usize,
        ny: info.height as usize,
        sections: 1,
        pixel_size_angstrom: None,
        orientation: Orientation::PngTop,
    })
}

fn open(bytes: &[u8]) -> Result<Reader<Cursor<&[u8]>>> {
    // This limits the data beside the pixels (profiles, texts); the pixels are checked below.
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: 1 << 23 });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let broken = |error: png::DecodingError| anyhow!("header: {error}; expected a whole PNG; write the file again");
    let info = decoder.read_header_info().map_err(broken)?;
    let [nx, ny] = [info.width, info.height];
    ensure!(
        nx > 0 && ny > 0 && nx <= 131_072 && ny <= 131_072,
        "header: {nx} columns, {ny} rows; expected 1 to 131072 of each; the header is damaged"
    );
    ensure!(info.bit_depth != BitDepth::One, "header: 1 bit per pixel; expected 8 or 16; give the micrograph itself");
    let stored = u64::from(nx) * u64::from(ny) * (info.color_type.samples() * info.bit_depth as usize) as u64 / 8;
    ensure!(
        stored / DEFLATE_RATIO <= bytes.len() as u64,
        "header: {nx} x {ny} pixels; expected what {} bytes can hold; the file is cut off or damaged",
        bytes.len()
    );
    let reader = decoder.read_info().map_err(broken)?;
    if let Some(animation) = reader.info().animation_control()
        && animation.num_frames > 1
    {
        bail!("header: an animation of {} frames; expected one image; give one frame as PNG or a stack as MRC", animation.num_frames);
    }
    Ok(reader)
}

/// Turns decoded bytes into pixels as they come.
struct Builder {
    channels: usize,
    wide: bool,
    colour: bool,
    bytes: Vec<u8>,
    words: Vec<u16>,
    luma: Vec<f32>,
}

impl Builder {
    fn new(colour: ColorType, depth: BitDepth) -> Result<Builder> {
        let wide = match depth {
            BitDepth::Eight => false,
            BitDepth::Sixteen => true,
            _ => bail!("header: {depth:?} bits per pixel; expected 8 or 16; convert the file"),
        };
        let colours = match colour {
            ColorType::Grayscale | ColorType::GrayscaleAlpha => false,
            ColorType::Rgb | ColorType::Rgba => true,
            ColorType::Indexed => bail!("header: colours of a palette that is missing; expected a whole PNG; write the file again"),
        };
        Ok(Builder { channels: colour.samples(), wide, colour: colours, bytes: Vec::new(), words: Vec::new(), luma: Vec::new() })
    }

    fn push(&mut self, data: &[u8]) {
        if self.wide {
            let word = |pixel: &[u8], channel: usize| u16::from_be_bytes([pixel[2 * channel], pixel[2 * channel + 1]]);
            let pixels = data.chunks_exact(2 * self.channels);
            if self.colour {
                self.luma.extend(pixels.map(|pixel| luma([0, 1, 2].map(|channel| f64::from(word(pixel, channel))))));
            } else {
                self.words.extend(pixels.map(|pixel| word(pixel, 0)));
            }
        } else {
            let pixels = data.chunks_exact(self.channels);
            if self.colour {
                self.luma.extend(pixels.map(|pixel| luma([0, 1, 2].map(|channel| f64::from(pixel[channel])))));
            } else {
                self.bytes.extend(pixels.map(|pixel| pixel[0]));
            }
        }
    }

    fn finish(self) -> Pixels {
        match (self.colour, self.wide) {
            (true, _) => Pixels::F32(self.luma.into()),
            (false, true) => Pixels::U16(self.words.into()),
            (false, false) => Pixels::U8(self.bytes.into()),
        }
    }
}

/// Brightness of a colour. Source: Rec. ITU-R BT.601, section 2.5.1.
pub(crate) fn luma([red, green, blue]: [f64; 3]) -> f32 {
    (0.299 * red + 0.587 * green + 0.114 * blue) as f32
}
