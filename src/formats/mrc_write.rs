//! Writing micrographs as MRC2014 files.
//! Source: docs/formats.md, "MRC"; www.ccpem.ac.uk/mrc_format/mrc2014.php.

use super::mrc::HEADER_LEN;
use anyhow::{Result, ensure};

/// How pixels are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelType {
    /// Mode 2.
    F32,
    /// Mode 12.
    F16,
}

/// The bytes of a file with one image.
///
/// Shapes: `pixels` (ny, nx), row by row, the first row first; the pixel size in angstrom.
/// Errors: the sizes do not fit, the pixel size is not more than 0, or a pixel is beyond what its type can hold.
pub fn bytes(pixels: &[f32], [ny, nx]: [usize; 2], pixel_size_angstrom: f64, pixel_type: PixelType) -> Result<Vec<u8>> {
    ensure!(nx > 0 && ny > 0 && pixels.len() == nx * ny, "{} pixels for {nx} x {ny}", pixels.len());
    ensure!(pixel_size_angstrom.is_finite() && pixel_size_angstrom > 0.0, "a pixel size of {pixel_size_angstrom}; expected more than 0");
    let count = pixels.len() as f64;
    let mean = pixels.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let variance = pixels.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
    let least = pixels.iter().fold(f32::INFINITY, |least, &value| least.min(value));
    let most = pixels.iter().fold(f32::NEG_INFINITY, |most, &value| most.max(value));

    let range = if pixel_type == PixelType::F16 { f64::from(half::f16::MAX) } else { f64::from(f32::MAX) };
    ensure!(
        f64::from(least) >= -range && f64::from(most) <= range,
        "pixels from {least} to {most}; expected -{range} to {range} for this kind of number"
    );

    let mut header = vec![0_u8; HEADER_LEN];
    let mut put = |word: usize, value: [u8; 4]| header[4 * word - 4..4 * word].copy_from_slice(&value); // words count from 1
    let mode: i32 = match pixel_type {
        PixelType::F32 => 2,
        PixelType::F16 => 12,
    };
    let (columns, rows) = (i32::try_from(nx)?, i32::try_from(ny)?);
    for (word, value) in
        [(1, columns), (2, rows), (3, 1), (4, mode), (8, columns), (9, rows), (10, 1), (17, 1), (18, 2), (19, 3), (28, 20140)]
    {
        put(word, value.to_le_bytes());
    }
    let cell = [nx as f64 * pixel_size_angstrom, ny as f64 * pixel_size_angstrom, pixel_size_angstrom];
    for (i, value) in cell.into_iter().chain([90.0; 3]).enumerate() {
        put(11 + i, (value as f32).to_le_bytes());
    }
    for (word, value) in [(20, least), (21, most), (22, mean as f32), (55, variance.sqrt() as f32)] {
        put(word, value.to_le_bytes());
    }
    put(53, *b"MAP ");
    put(54, [0x44, 0x44, 0, 0]); // little-endian
    let label = format!("epicker {}", env!("CARGO_PKG_VERSION"));
    put(56, 1_i32.to_le_bytes());
    header[224..224 + label.len()].copy_from_slice(label.as_bytes());

    let mut bytes = header;
    match pixel_type {
        PixelType::F32 => bytes.extend(pixels.iter().flat_map(|value| value.to_le_bytes())),
        PixelType::F16 => bytes.extend(pixels.iter().flat_map(|&value| half::f16::from_f32(value).to_le_bytes())),
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::image::{FileBytes, ReadOptions, read_bytes};
    use std::sync::Arc;

    #[test]
    fn what_is_written_is_read() {
        let pixels: Vec<f32> = (0..6).map(|i| i as f32 * 0.5 - 1.0).collect();
        for pixel_type in [PixelType::F32, PixelType::F16] {
            let bytes = bytes(&pixels, [2, 3], 1.25, pixel_type).unwrap();
            let micrograph = read_bytes(Arc::new(FileBytes::Owned(bytes)), &ReadOptions::default()).unwrap();
            assert_eq!((micrograph.nx, micrograph.ny, micrograph.pixel_size_angstrom), (3, 2, Some(1.25)));
            assert_eq!(micrograph.pixels.to_f32(), pixels);
            assert!(micrograph.warnings.is_empty(), "{:?}", micrograph.warnings);
        }
        assert!(bytes(&pixels, [2, 2], 1.0, PixelType::F32).is_err());
        assert!(bytes(&pixels, [2, 3], 0.0, PixelType::F32).is_err());
        assert!(bytes(&[1e5; 6], [2, 3], 1.0, PixelType::F32).is_ok());
        assert!(bytes(&[1e5; 6], [2, 3], 1.0, PixelType::F16).unwrap_err().to_string().contains("65504"));
    }
}
