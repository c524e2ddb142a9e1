//! Bytes of a page: the small picture of a micrograph, and numbers as letters.

use anyhow::{Context, Result};

/// Scales down by the mean of boxes, to 16 greys, as PNG.
///
/// Errors: the picture cannot be encoded.
pub(super) fn thumbnail(grey: &[u8], [width, height]: [usize; 2], wanted: usize) -> Result<Vec<u8>> {
    let rows = (height * wanted).div_ceil(width).clamp(1, 16 * wanted);
    let bounds = |i: usize, count: usize, extent: usize| (i * extent / count)..(((i + 1) * extent).div_ceil(count)).min(extent);
    let mut packed = Vec::with_capacity(rows * wanted.div_ceil(2));
    for row in 0..rows {
        let mut nibbles = (0..wanted).map(|column| {
            let (ys, xs) = (bounds(row, rows, height), bounds(column, wanted, width));
            let sum: usize = ys.clone().flat_map(|y| xs.clone().map(move |x| usize::from(grey[y * width + x]))).sum();
            // 17 grey levels of 8 bits make one of 4 bits.
            ((sum / (ys.len() * xs.len()).max(1) + 8) / 17).min(15) as u8
        });
        while let Some(left) = nibbles.next() {
            packed.push(left << 4 | nibbles.next().unwrap_or(0));
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, u32::try_from(wanted)?, u32::try_from(rows)?);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Four);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header().context("report: a picture cannot be encoded")?;
    writer.write_image_data(&packed).context("report: a picture cannot be encoded")?;
    writer.finish().context("report: a picture cannot be encoded")?;
    Ok(bytes)
}

/// Bytes as letters. Source: RFC 4648, section 4.
pub(super) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let letter = char::from(LETTERS[(bits >> (18 - 6 * i) & 63) as usize]);
            out.push(if i <= group.len() { letter } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn thumbnails_are_means_of_boxes_in_16_greys() {
        let grey: Vec<u8> = (0..64 * 32).map(|i| if i % 64 < 32 { 0 } else { 255 }).collect();
        let bytes = thumbnail(&grey, [64, 32], 8).unwrap();
        let mut decoder = png::Decoder::new(std::io::Cursor::new(&bytes));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!([info.width, info.height], [8, 4]);
        assert_eq!(pixels[..8], [0, 0, 0, 0, 255, 255, 255, 255]);
    }
}
