//! Draw: the picture of `--visual`, picks on the equalised image (frame D), at least 1024 pixels wide.
//!
//! Particles and vesicles are circles of their written size in the colour of their score (viridis); fibers are lines, each
//! in the next colour of a fixed palette. All have a halo, so that they show on any grey.

use crate::formats::coordinates::{Coordinates, Kind};
use crate::pick::colour::{PALETTE, Rgb, halo, of_score};
use crate::preprocess::geometry::Geometry;
use anyhow::{Context, Result, ensure};

/// A smaller image is enlarged to this width: circles of few pixels say little.
const LEAST_WIDTH: usize = 1024;
/// Half the width of a line, and of its halo, where the picture has its least width.
const LINE: f64 = 1.25;
const HALO: f64 = 2.6;

/// An 8-bit RGB picture as PNG.
///
/// `grey`: the equalised image, geometry.frame columns and geometry.height_d rows, row 0 on top.
///
/// Errors: `grey` has another size, or the picture cannot be encoded.
pub fn picture(grey: &[u8], coordinates: &Coordinates, geometry: &Geometry) -> Result<Vec<u8>> {
    let [columns, rows] = [geometry.frame, geometry.height_d];
    ensure!(grey.len() == columns * rows, "picture: {} pixels; expected {columns} x {rows}", grey.len());
    let width = columns.max(LEAST_WIDTH);
    let height = (rows * width).div_ceil(columns.max(1));
    let mut canvas = Canvas { pixels: enlarged(grey, [columns, rows], [width, height]), width, height };
    let to_picture = [width as f64 / geometry.nx as f64, height as f64 / geometry.ny as f64];
    let place = |x: f64, y: f64| [x * to_picture[0], y * to_picture[1]];
    let shapes: Vec<(Shape, Rgb)> = match coordinates.kind {
        Kind::Fiber => {
            let path = |fiber: Vec<usize>| {
                Shape::Path(fiber.into_iter().map(|i| place(coordinates.points[i].x, coordinates.points[i].y)).collect())
            };
            coordinates.fibers()?.into_iter().enumerate().map(|(i, fiber)| (path(fiber), PALETTE[i % PALETTE.len()])).collect()
        }
        // The best is drawn last, on top.
        _ => {
            let circle = |point: &crate::formats::coordinates::Coordinate| {
                let radius_m_px = point.size.map_or(0.0, |size| size.radius());
                let shape = Shape::Circle(place(point.x, point.y), radius_m_px * to_picture[0]);
                (shape, of_score(point.score.unwrap_or(0.0)))
            };
            coordinates.points.iter().rev().map(circle).collect()
        }
    };
    // All halos come first: none of them may cut through a neighbour's line.
    let unit = width as f64 / LEAST_WIDTH as f64;
    shapes.iter().for_each(|(shape, colour)| canvas.draw(shape, HALO * unit, halo(*colour), 0.6));
    shapes.iter().for_each(|(shape, colour)| canvas.draw(shape, LINE * unit, *colour, 1.0));
    canvas.into_png()
}

/// Grey levels as RGB, enlarged by linear interpolation between the centres of pixels.
fn enlarged(grey: &[u8], [columns, rows]: [usize; 2], [width, height]: [usize; 2]) -> Vec<u8> {
    if [columns, rows] == [width, height] {
        return grey.iter().flat_map(|&value| [value; 3]).collect();
    }
    let source = |i: usize, count: usize, whole: usize| {
        let at = ((i as f64 + 0.5) * count as f64 / whole as f64 - 0.5).clamp(0.0, count as f64 - 1.0);
        (at as usize, (at as usize + 1).min(count - 1), at.fract())
    };
    let across: Vec<(usize, usize, f64)> = (0..width).map(|x| source(x, columns, width)).collect();
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        let (above, below, down) = source(y, rows, height);
        for &(left, right, aside) in &across {
            let row = |row: usize| {
                let [left, right] = [grey[row * columns + left], grey[row * columns + right]].map(f64::from);
                left + aside * (right - left)
            };
            let value = (row(above) + down * (row(below) - row(above))).round() as u8;
            pixels.extend([value; 3]);
        }
    }
    pixels
}

/// What is drawn, in pixels of the picture.
enum Shape {
    /// Centre and radius.
    Circle([f64; 2], f64),
    /// Vertices.
    Path(Vec<[f64; 2]>),
}

struct Canvas {
    pixels: Vec<u8>,
    width: usize,
    height: usize,
}

impl Canvas {
    /// Draws a line of this half width along a shape; its edge is as soft as a pixel is wide.
    fn draw(&mut self, shape: &Shape, half: f64, colour: Rgb, opacity: f64) {
        let reach = half + 0.5;
        match shape {
            Shape::Circle([x, y], radius) => {
                let [outer, inner] = [radius + reach, radius - reach];
                for row in self.within(y - outer, y + outer, self.height) {
                    let down = row as f64 - y;
                    let chord = |radius: f64| if radius > down.abs() { (radius * radius - down * down).sqrt() } else { 0.0 };
                    let (wide, narrow) = (chord(outer), chord(inner));
                    // Both spans would share the middle where the line covers all of the chord.
                    let spans = if narrow > 1.0 { vec![[-wide, -narrow], [narrow, wide]] } else { vec![[-wide, wide]] };
                    for [from, to] in spans {
                        for column in self.within(x + from, x + to, self.width) {
                            let distance = ((column as f64 - x).hypot(down) - radius).abs();
                            self.blend(column, row, colour, opacity * (reach - distance).clamp(0.0, 1.0));
                        }
                    }
                }
            }
            Shape::Path(vertices) => {
                for ends in vertices.windows(2) {
                    let [a, b] = [ends[0], ends[1]];
                    let [dx, dy] = [b[0] - a[0], b[1] - a[1]];
                    let length = (dx * dx + dy * dy).max(f64::MIN_POSITIVE);
                    for row in self.within(a[1].min(b[1]) - reach, a[1].max(b[1]) + reach, self.height) {
                        for column in self.within(a[0].min(b[0]) - reach, a[0].max(b[0]) + reach, self.width) {
                            let [x, y] = [column as f64 - a[0], row as f64 - a[1]];
                            let along = ((x * dx + y * dy) / length).clamp(0.0, 1.0);
                            let distance = (x - along * dx).hypot(y - along * dy);
                            self.blend(column, row, colour, opacity * (reach - distance).clamp(0.0, 1.0));
                        }
                    }
                }
            }
        }
    }

    /// The pixels between two places that lie in the picture.
    fn within(&self, from: f64, to: f64, count: usize) -> std::ops::Range<usize> {
        let bound = |value: f64| value.clamp(0.0, count as f64) as usize;
        bound(from.ceil())..bound(to.floor() + 1.0)
    }

    fn blend(&mut self, x: usize, y: usize, colour: Rgb, share: f64) {
        let start = 3 * (y * self.width + x);
        for (value, wanted) in self.pixels[start..start + 3].iter_mut().zip(colour) {
            *value = (f64::from(*value) + share * (f64::from(wanted) - f64::from(*value))).round() as u8;
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
    fn circles_have_the_size_the_colour_and_the_halo_of_their_pick() {
        let point = |x, y, score| Coordinate { score: Some(score), size: Some(Size::square(80.0)), ..Coordinate::at(x, y) };
        let coordinates = Coordinates { kind: Kind::Particle, points: vec![point(1000.0, 500.0, 1.0), point(100.0, 100.0, 0.0)] };
        // A small image is enlarged, so that both pictures are the same but for the borders of pixels.
        for frame in [1024, 256] {
            let geometry = Geometry::new(2048, 1024, frame);
            let grey = vec![127; frame * frame / 2];
            let (pixels, size) = decode(&picture(&grey, &coordinates, &geometry).unwrap());
            assert_eq!(size, [1024, 512]);
            let at = |x: usize, y: usize| &pixels[3 * (y * 1024 + x)..][..3];
            // Radius 40 of the micrograph is 20 here, around (500, 250).
            for (x, y) in [(520, 250), (480, 250), (500, 270), (500, 230)] {
                assert_eq!(at(x, y), [253, 231, 37], "({x}, {y})");
            }
            assert_eq!(at(70, 50), [68, 1, 84]);
            assert!(at(522, 250)[0] < 60 && at(72, 50)[0] > 190, "dark around yellow, light around violet");
            assert_eq!(at(500, 250), [127; 3], "the particle itself stays visible");
        }
    }

    #[test]
    fn fibers_are_lines_with_a_halo() {
        let geometry = Geometry::new(1024, 512, 1024);
        let points = [[100.0, 100.0], [300.0, 100.0], [300.0, 300.0]].map(|[x, y]| Coordinate { group: Some(1), ..Coordinate::at(x, y) });
        let coordinates = Coordinates { kind: Kind::Fiber, points: points.to_vec() };
        let (pixels, _) = decode(&picture(&vec![127; 1024 * 512], &coordinates, &geometry).unwrap());
        let at = |x: usize, y: usize| &pixels[3 * (y * 1024 + x)..][..3];
        assert_eq!([at(200, 100), at(300, 200)], [PALETTE[0]; 2]);
        assert!(at(200, 102)[0] < 60 && at(200, 110) == [127; 3]);
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
