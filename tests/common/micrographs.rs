//! Micrographs made by formula, and the MRC files around them.

use super::fixtures::MicrographRecipe;
use epicker::net::formula::fnv1a64;
use epicker::random::splitmix64;

/// Noise, 0..1020: the sum of four bytes of a hash.
pub fn noise(name: &str, i: u64) -> i64 {
    splitmix64(fnv1a64(name).wrapping_add(i)).to_le_bytes()[..4].iter().map(|&byte| i64::from(byte)).sum()
}

/// The MRC file of a micrograph of the original's runs.
pub fn of_recipe(recipe: &MicrographRecipe) -> Vec<u8> {
    let [nx, ny] = recipe.size;
    let mut values: Vec<i64> = (0..nx * ny).map(|i| noise(&recipe.name, i as u64) >> 1).collect();
    for &[x, y, radius, amplitude] in &recipe.blobs {
        for row in (y - radius).max(0)..(y + radius + 1).min(ny as i64) {
            for column in (x - radius).max(0)..(x + radius + 1).min(nx as i64) {
                let distance2 = (column - x).pow(2) + (row - y).pow(2);
                if distance2 < radius * radius {
                    let depth = (amplitude * (radius * radius - distance2)).div_euclid(radius * radius);
                    values[row as usize * nx + column as usize] -= depth;
                }
            }
        }
    }
    let (mode, bytes): (i32, Vec<u8>) = match recipe.kind.as_str() {
        "int8" => (0, values.iter().map(|&v| (v >> 4).clamp(-128, 127) as i8 as u8).collect()),
        "int16" => (1, values.iter().flat_map(|&v| (v as i16).to_le_bytes()).collect()),
        "f32" => (2, values.iter().flat_map(|&v| (v as f32 / 64.0).to_le_bytes()).collect()),
        other => panic!("unknown kind {other}"),
    };
    mrc([nx, ny], mode, 1.0, &bytes)
}

/// An MRC file of one section with this pixel size (0: none).
pub fn mrc([nx, ny]: [usize; 2], mode: i32, pixel_size_angstrom: f32, pixels: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 1024];
    let mut put = |at: usize, bytes: [u8; 4]| header[at..at + 4].copy_from_slice(&bytes);
    let size = [nx as i32, ny as i32, 1];
    for (i, extent) in size.into_iter().enumerate() {
        put(4 * i, extent.to_le_bytes());
        put(28 + 4 * i, extent.to_le_bytes());
        put(40 + 4 * i, (extent as f32 * pixel_size_angstrom).to_le_bytes());
        put(52 + 4 * i, 90.0_f32.to_le_bytes());
        put(64 + 4 * i, (i as i32 + 1).to_le_bytes());
    }
    put(12, mode.to_le_bytes());
    put(208, *b"MAP ");
    put(212, [0x44, 0x44, 0, 0]);
    header.extend(pixels);
    header
}

/// An MRC file of noise with some dark discs, f32, 1.5 A per pixel.
pub fn small(name: &str, size: [usize; 2]) -> Vec<u8> {
    mrc(size, 2, 1.5, &small_pixels(name, size).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

/// A folder with `mics/m000.mrc` and so on, 300 x 260.
pub fn folder_of(count: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("mics")).unwrap();
    let bytes = small("m", [300, 260]);
    (0..count).for_each(|i| std::fs::write(folder.path().join(format!("mics/m{i:03}.mrc")), &bytes).unwrap());
    folder
}

/// The pixels of [`small`].
pub fn small_pixels(name: &str, [nx, ny]: [usize; 2]) -> Vec<f32> {
    let value = |i: usize| {
        let (x, y) = ((i % nx) as i64, (i / nx) as i64);
        let is_disc = (x % 48 - 24).pow(2) + (y % 48 - 24).pow(2) < 64;
        noise(name, i as u64) as f32 / 64.0 - if is_disc { 6.0 } else { 0.0 }
    };
    (0..nx * ny).map(value).collect()
}
