//! Decode: peaks of the heat map (frame H) become candidates on the micrograph (frame M).
//!
//! Two paths lead there. [`candidates`] computes in f64 and rounds once; picks and candidates files hold its values.
//! [`boxes_d`] repeats the original's f32 steps through frame D bit by bit; only `--compat all` takes it.
//! Source: docs/formats.md, "Frames".

use crate::compat::{Compat, Fault};
use crate::formats::candidates::Candidate;
use crate::ops::heat_map::{self, Peak};
use crate::preprocess::geometry::Geometry;

/// A detection of frame D with the original's f32 values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxD {
    /// Left, top, right and bottom, D pixels.
    pub corners: [f32; 4],
    /// Score, 0..1.
    pub score: f32,
}

/// The affine map from frame H to frame D: D = scale * H + shift, one scale for both axes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct HeatMapToD {
    scale: f64,
    shift: [f64; 2],
}

impl HeatMapToD {
    /// N = (D - c) F/S + F/2 with c the centre of D, and N = STRIDE H; both solved for D.
    fn new(geometry: &Geometry) -> Self {
        let frame = geometry.frame as f64;
        let stride = heat_map::STRIDE as f64;
        let scale = stride * geometry.square_d() as f64 / frame;
        let centre_d = [frame / 2.0, geometry.height_d as f64 / 2.0];
        HeatMapToD { scale, shift: centre_d.map(|centre| centre - scale * frame / (2.0 * stride)) }
    }

    fn point(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.scale * x + self.shift[0], self.scale * y + self.shift[1]]
    }
}

/// M pixels per D pixel along x and y. The original used the x factor for both (`--compat y-scale`).
fn scale_d_to_m(geometry: &Geometry, compat: &Compat) -> [f64; 2] {
    let x = geometry.nx as f64 / geometry.frame as f64;
    let y = if compat.has(Fault::YScale) || geometry.height_d == 0 { x } else { geometry.ny as f64 / geometry.height_d as f64 };
    [x, y]
}

/// Side of a box of `side_n_px` network pixels in micrograph pixels.
///
/// The network sees a portrait micrograph shrunk, so the same box covers more of it there.
pub fn side_n_to_m(side_n_px: f64, geometry: &Geometry) -> f64 {
    let frame = geometry.frame as f64;
    side_n_px * (geometry.square_d() as f64 / frame) * (geometry.nx as f64 / frame)
}

/// Candidates of frame M, in the order of the peaks.
///
/// `compat`: only `y-scale` matters here.
pub fn candidates(peaks: &[Peak], geometry: &Geometry, compat: &Compat) -> Vec<Candidate> {
    let width_h = (geometry.frame / heat_map::STRIDE).max(1) as u32;
    let to_d = HeatMapToD::new(geometry);
    let to_m = scale_d_to_m(geometry, compat);
    let place = |peak: &Peak| {
        let [column, row] = [peak.index % width_h, peak.index / width_h].map(f64::from);
        let [x_d, y_d] = to_d.point([column + f64::from(peak.offset[0]), row + f64::from(peak.offset[1])]);
        let size = peak
            .size
            .map(|[width, height]| [(f64::from(width) * to_d.scale * to_m[0]) as f32, (f64::from(height) * to_d.scale * to_m[1]) as f32]);
        Candidate { x: (x_d * to_m[0]) as f32, y: (y_d * to_m[1]) as f32, score: peak.score, size }
    };
    peaks.iter().map(place).collect()
}

/// The original's boxes of frame D, f32 step by f32 step, in the order of the peaks.
///
/// `side_h_px` is the box of particles and fibers (4.75 heat-map pixels unless asked otherwise); a peak with a size
/// has its own.
pub fn boxes_d(peaks: &[Peak], side_h_px: f32, geometry: &Geometry) -> Vec<BoxD> {
    let width_h = (geometry.frame / heat_map::STRIDE).max(1) as u32;
    let place = |peak: &Peak| {
        let x = (peak.index % width_h) as f32 + peak.offset[0];
        let y = (peak.index / width_h) as f32 + peak.offset[1];
        let [width, height] = peak.size.unwrap_or([side_h_px; 2]);
        let corners_h = [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0];
        BoxD { corners: corners_h_to_d(corners_h, geometry), score: peak.score }
    };
    peaks.iter().map(place).collect()
}

/// Corners from frame H to frame D: the map in f64, the result in f32.
pub fn corners_h_to_d(corners_h: [f32; 4], geometry: &Geometry) -> [f32; 4] {
    let to_d = HeatMapToD::new(geometry);
    let [x1, y1, x2, y2] = corners_h.map(f64::from);
    let ([x1, y1], [x2, y2]) = (to_d.point([x1, y1]), to_d.point([x2, y2]));
    [x1 as f32, y1 as f32, x2 as f32, y2 as f32]
}

impl BoxD {
    /// Centre in frame M as the original computes it: the sum in f32, the rest in f64, nx/F along both axes.
    pub fn centre_m(&self, geometry: &Geometry) -> [f64; 2] {
        let [x1, y1, x2, y2] = self.corners;
        [x1 + x2, y1 + y2].map(|sum| f64::from(sum) / 2.0 * geometry.nx as f64 / geometry.frame as f64)
    }

    /// Corners in frame M as the original computes them, nx/F along both axes.
    pub fn corners_m(&self, geometry: &Geometry) -> [f64; 4] {
        self.corners.map(|corner| f64::from(corner) * geometry.nx as f64 / geometry.frame as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peak(column: u32, row: u32, offset: [f32; 2], size: Option<[f32; 2]>) -> Peak {
        Peak { index: row * 256 + column, score: 0.5, offset, size }
    }

    #[test]
    fn both_paths_put_a_peak_on_the_same_place() {
        for (nx, ny) in [(5760, 4092), (3838, 3710), (1050, 1250), (4096, 4096), (512, 300)] {
            let geometry = Geometry::new(nx, ny, 1024);
            let peaks = [peak(3, 30, [0.25, 0.75], None), peak(250, 200, [0.9, -0.1], Some([7.0, 9.0]))];
            let ours = candidates(&peaks, &geometry, &Compat::only(&[Fault::YScale]));
            for (candidate, detection) in ours.iter().zip(boxes_d(&peaks, 4.75, &geometry)) {
                let [x, y] = detection.centre_m(&geometry);
                // Frame D has 1024 columns, so f32 corners are good to 6e-5 there, their sum to 1.2e-4.
                let rounding = 2e-4 * nx as f64 / 1024.0;
                assert!((f64::from(candidate.x) - x).abs() < rounding, "{nx} x {ny}: {} is not {x}", candidate.x);
                assert!((f64::from(candidate.y) - y).abs() < rounding, "{nx} x {ny}: {} is not {y}", candidate.y);
                let [x1, y1, x2, y2] = detection.corners_m(&geometry);
                let side = side_n_to_m(19.0, &geometry);
                let [width, height] = candidate.size.map_or([side; 2], |size| size.map(f64::from));
                assert!((width - (x2 - x1)).abs() < rounding && (height - (y2 - y1)).abs() < rounding);
            }
        }
    }

    #[test]
    fn y_is_scaled_by_the_height_the_image_really_has() {
        // 3838 x 3710: D has 989 rows of 989.85, so the original's y is 3.2 px short at the bottom.
        let geometry = Geometry::new(3838, 3710, 1024);
        let bottom = [peak(128, 251, [0.0, 0.0], None)];
        let [ours, original] =
            [Compat::default(), Compat::only(&[Fault::YScale])].map(|compat| f64::from(candidates(&bottom, &geometry, &compat)[0].y));
        let y_d = 4.0 * 251.0 - (512.0 - 989.0 / 2.0);
        assert!((ours - y_d * 3710.0 / 989.0).abs() < 1e-3);
        assert!((original - y_d * 3838.0 / 1024.0).abs() < 1e-3);
        assert!((ours - original - 3.15).abs() < 0.05, "{ours} and {original}");
    }

    #[test]
    fn a_larger_frame_means_the_same_place() {
        // The same place of the micrograph, seen at twice the resolution.
        let small = Peak { index: 100 * 256 + 60, ..peak(0, 0, [0.0; 2], None) };
        let large = Peak { index: 200 * 512 + 120, ..small };
        let place = |peak, frame| candidates(&[peak], &Geometry::new(4096, 4096, frame), &Compat::default())[0];
        assert_eq!(place(small, 1024), place(large, 2048));
    }
}
