//! Draw: the picture of `--visual`, picks on the equalised image (frame D).
//!
//! Particles and vesicles are circles of their written size, coloured by score from blue (0) over green to red (1);
//! fibers are lines two pixels wide, each in the next colour of a fixed palette.

use crate::formats::coordinates::{Coordinates, Kind};
use crate::preprocess::geometry::Geometry;
use anyhow::{Context, Result, ensure};

type Rgb = [u8; 3];

/// Colours that tell neighbouring fibers apart on grey. Source: Okabe and Ito 2008, Color Universal Design.
const PALETTE: [Rgb; 7] = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];

/// An 8-bit RGB picture as PNG.
///
/// `grey`: the equalised image, geometry.frame columns and geometry.height_d rows, row 0 on top.
///
/// Errors: `grey` has another size, or the picture cannot be encoded.
pub fn picture(grey: &[u8], coordinates: &Coordinates, geometry: &Geometry) -> Result<Vec<u8>> {
    let [width, height] = [geometry.frame, geometry.height_d];
    ensure!(grey.len() == width * height, "picture: {} pixels; expected {width} x {height}", grey.len());
    let mut canvas = Canvas { pixels: grey.iter().flat_map(|&v| [v; 3]).collect(), width, height };
    let to_d = [width as f64 / geometry.nx as f64, height as f64 / geometry.ny as f64];
    let place = |x: f64, y: f64| [x * to_d[0], y * to_d[1]];
    match coordinates.kind {
        Kind::Fiber => {
            for (i, fiber) in coordinates.fibers()?.into_iter().enumerate() {
                let path: Vec<[f64; 2]> = fiber.into_iter().map(|i| place(coordinates.points[i].x, coordinates.points[i].y)).collect();
                path.windows(2).for_each(|ends| canvas.line(ends[0], ends[1], PALETTE[i % PALETTE.len()]));
            }
        }
        // The best is drawn last, on top.
        _ => coordinates.points.iter().rev().for_each(|point| {
            let radius_m_px = point.size.map_or(0.0, |size| size.radius());
            canvas.circle(place(point.x, point.y), radius_m_px * to_d[0], score_colour(point.score.unwrap_or(0.0)));
        }),
    }
    canvas.into_png()
}

/// Blue at 0, green at 0.5, red at 1.
fn score_colour(score: f32) -> Rgb {
    let score = score.clamp(0.0, 1.0);
    let byte = |share: f32| (share.clamp(0.0, 1.0) * 255.0).round() as u8;
    [byte(2.0 * score - 0.5), byte(1.5 - (4.0 * score - 2.0).abs()), byte(1.5 - 2.0 * score)]
}

struct Canvas {
    pixels: Vec<u8>,
    width: usize,
    height: usize,
}

impl Canvas {
    fn set(&mut self, x: i64, y: i64, colour: Rgb) {
        if (0..self.width as i64).contains(&x) && (0..self.height as i64).contains(&y) {
            let start = 3 * (y as usize * self.width + x as usize);
            self.pixels[start..start + 3].copy_from_slice(&colour);
        }
    }

    fn circle(&mut self, [x, y]: [f64; 2], radius: f64, colour: Rgb) {
        // Radii beyond the picture draw nothing visible; the cap only bounds the work.
        let radius = radius.clamp(0.0, 4.0 * self.width.max(self.height) as f64);
        let steps = (8.0 * radius).ceil().max(8.0) as u32;
        for i in 0..steps {
            let angle = std::f64::consts::TAU * f64::from(i) / f64::from(steps);
            let (dx, dy) = (radius * angle.cos(), radius * angle.sin());
            self.set((x + dx).round() as i64, (y + dy).round() as i64, colour);
        }
    }

    fn line(&mut self, from: [f64; 2], to: [f64; 2], colour: Rgb) {
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let longest = 4.0 * self.width.max(self.height) as f64;
        let steps = (2.0 * dx.hypot(dy)).ceil().clamp(1.0, 2.0 * longest) as u32;
        for i in 0..=steps {
            let along = f64::from(i) / f64::from(steps);
            let [x, y] = [from[0] + along * dx, from[1] + along * dy].map(|v| v.floor() as i64);
            for (right, down) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                self.set(x + right, y + down, colour);
            }
        }
    }

    fn into_png(self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, u32::try_from(self.width)?, u32::try_from(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        let mut writer = encoder.write_header().context("picture: cannot be encoded")?;
        writer.write_image_data(&self.pixels).context("picture: cannot be encoded")?;
        writer.finish().context("picture: cannot be encoded")?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::coordinates::{Coordinate, Size};

    fn decode(bytes: &[u8]) -> (Vec<u8>, [u32; 2]) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (pixels, [info.width, info.height])
    }

    #[test]
    fn circles_have_the_size_and_the_colour_of_their_pick() {
        let geometry = Geometry::new(2048, 1024, 1024);
        let point = |x, y, score| Coordinate { score: Some(score), size: Some(Size::square(80.0)), ..Coordinate::at(x, y) };
        let coordinates = Coordinates { kind: Kind::Particle, points: vec![point(1000.0, 500.0, 1.0), point(100.0, 100.0, 0.0)] };
        let grey = vec![7; 1024 * 512];
        let (pixels, size) = decode(&picture(&grey, &coordinates, &geometry).unwrap());
        assert_eq!(size, [1024, 512]);
        let at = |x: usize, y: usize| &pixels[3 * (y * 1024 + x)..][..3];
        // Radius 40 of the micrograph is 20 here, around (500, 250).
        for (x, y) in [(520, 250), (480, 250), (500, 270), (500, 230)] {
            assert_eq!(at(x, y), [255, 0, 0], "({x}, {y})");
        }
        assert_eq!(at(70, 50), [0, 0, 255]);
        assert_eq!(at(500, 250), [7; 3], "the particle itself stays visible");
    }

    #[test]
    fn picks_outside_the_picture_do_no_harm() {
        let geometry = Geometry::new(64, 64, 64);
        let points = [-1e9, 1e9, 63.9].map(|x| Coordinate { size: Some(Size::square(1e12)), ..Coordinate::at(x, x) });
        let mut coordinates = Coordinates { kind: Kind::Particle, points: points.to_vec() };
        assert!(picture(&[0; 64 * 64], &coordinates, &geometry).is_ok());
        coordinates.kind = Kind::Fiber;
        coordinates.points.iter_mut().for_each(|point| point.group = Some(1));
        assert!(picture(&[0; 64 * 64], &coordinates, &geometry).is_ok());
        assert!(picture(&[0; 5], &coordinates, &geometry).is_err());
    }
}
