//! Small micrographs with dark discs, and label files.

use std::path::Path;

/// An MRC file of 8-bit pixels of 2 angstrom, background 100 with a little noise, dark discs of radius 6 at `discs`.
pub fn write_mrc(path: &Path, [nx, ny]: [usize; 2], discs: &[[usize; 2]]) {
    let mut header = vec![0u8; 1024];
    let mut put = |at: usize, bytes: [u8; 4]| header[at..at + 4].copy_from_slice(&bytes);
    for (at, value) in [(0, nx as i32), (4, ny as i32), (8, 1), (28, nx as i32), (32, ny as i32), (36, 1), (64, 1), (68, 2), (72, 3)] {
        put(at, value.to_le_bytes());
    }
    for (at, value) in [(40, 2.0 * nx as f32), (44, 2.0 * ny as f32), (48, 2.0), (52, 90.0), (56, 90.0), (60, 90.0)] {
        put(at, value.to_le_bytes());
    }
    put(208, *b"MAP ");
    put(212, [0x44, 0x44, 0, 0]);
    let noise = epicker::random::noise(nx * ny, nx as u64);
    let pixel = |i: usize| {
        let [x, y] = [i % nx, i / nx];
        let is_dark = discs.iter().any(|[cx, cy]| x.abs_diff(*cx).pow(2) + y.abs_diff(*cy).pow(2) < 36);
        (100.0 + 40.0 * noise[i] - if is_dark { 50.0 } else { 0.0 }) as i8 as u8
    };
    header.extend((0..nx * ny).map(pixel));
    std::fs::write(path, header).unwrap();
}

/// Labels as a caller of the original writes them: two columns.
pub fn write_thi(path: &Path, points: &[[usize; 2]]) {
    let rows: String = points.iter().map(|[x, y]| format!("{x}\t{y}\n")).collect();
    std::fs::write(path, format!("[Particle Coordinates: X Y Value]\n{rows}[End]\n")).unwrap();
}
