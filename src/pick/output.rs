//! Output: the picks of one micrograph as the text of a coordinate file, every type in every mode.

use crate::compat::{Compat, Fault};
use crate::formats::candidates::Candidate;
use crate::formats::coordinates::{Coordinate, Coordinates, Integers, Kind, Size};
use crate::formats::{box_file, coord, star, thi};
use crate::pick::decode::BoxD;
use crate::pick::{fiber, trace as graph};
use crate::preprocess::geometry::Geometry;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::str::FromStr;

/// A file type that `--output_type` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputType {
    /// EPicker's own.
    Thi,
    /// RELION's.
    Star,
    /// EMAN's boxes.
    Box,
    /// Plain centres.
    Coord,
}

impl OutputType {
    /// The name, which is the extension too.
    pub fn name(self) -> &'static str {
        match self {
            OutputType::Thi => "thi",
            OutputType::Star => "star",
            OutputType::Box => "box",
            OutputType::Coord => "coord",
        }
    }
}

impl FromStr for OutputType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [OutputType::Thi, OutputType::Star, OutputType::Box, OutputType::Coord];
        all.into_iter().find(|one| one.name() == text).ok_or_else(|| "expected thi, star, box or coord".to_string())
    }
}

/// How fibers are written to STAR files.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Helix {
    /// Start and end of each straight piece.
    #[default]
    StartEnd,
    /// Segments at this distance along the path, angstrom.
    Segments(f64),
}

/// How picks are linked to fibers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tracer {
    /// By the lines around them (`trace`).
    #[default]
    Graph,
    /// As the original does, from the best to the nearest (`fiber`).
    Legacy,
}

impl Tracer {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Tracer::Graph => "graph",
            Tracer::Legacy => "legacy",
        }
    }
}

impl FromStr for Tracer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Tracer::Graph, Tracer::Legacy]
            .into_iter()
            .find(|tracer| tracer.name() == text)
            .ok_or_else(|| "expected graph or legacy".to_string())
    }
}

/// How picks are written.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputRule {
    /// What the picks are.
    pub kind: Kind,
    /// The file type.
    pub output_type: OutputType,
    /// Two decimals where the type usually has whole numbers.
    pub subpixel: bool,
    /// Largest turn of a fiber per step, radians.
    pub ang_thresh_rad: f64,
    /// How fibers are linked; `--compat all` links as the original.
    pub tracer: Tracer,
    /// STAR files of fibers.
    pub helix: Helix,
    /// Which of the original's faults to repeat.
    pub compat: Compat,
}

impl OutputRule {
    /// True if what is written are pairs of start and end, and neither points nor segments.
    pub fn writes_start_end(&self) -> bool {
        self.kind == Kind::Fiber && self.output_type == OutputType::Star && self.helix == Helix::StartEnd && !self.compat.is_all()
    }
}

/// A pick, ready to be written. Frame M.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    /// Centre (x, y), micrograph pixels.
    pub centre: [f64; 2],
    /// Left, top, right and bottom of its box, micrograph pixels.
    pub corners: [f64; 4],
    /// Width and height it is written with, micrograph pixels.
    pub size: [f64; 2],
    /// Score, 0..1.
    pub score: f32,
}

impl Pick {
    /// From a candidate; one without a size gets a box of side `side_m_px`.
    pub fn from_candidate(candidate: &Candidate, side_m_px: f64) -> Self {
        let [x, y] = [candidate.x, candidate.y].map(f64::from);
        let size = candidate.size.map_or([side_m_px; 2], |size| size.map(f64::from));
        let [half_width, half_height] = size.map(|side| side / 2.0);
        let corners = [x - half_width, y - half_height, x + half_width, y + half_height];
        Pick { centre: [x, y], corners, size, score: candidate.score }
    }

    /// From a box of frame D with the original's arithmetic.
    pub fn from_box_d(detection: &BoxD, geometry: &Geometry) -> Self {
        let [x1, y1, x2, y2] = detection.corners;
        let to_m = geometry.nx as f64 / geometry.frame as f64;
        Pick {
            centre: detection.centre_m(geometry),
            corners: detection.corners_m(geometry),
            size: [x2 - x1, y2 - y1].map(|side| f64::from(side) * to_m),
            score: detection.score,
        }
    }

    /// Half the mean of width and height, micrograph pixels; never negative.
    fn radius(&self) -> f64 {
        ((self.size[0] + self.size[1]) / 4.0).max(0.0)
    }
}

/// Picks as coordinates, for the writers of files and for the picture. `fibers` is 0 in all modes but that of fibers.
#[derive(Clone, Debug, Default)]
pub struct Traced {
    /// Centres, or vertices of fibers.
    pub coordinates: Coordinates,
    /// Number of fibers.
    pub fibers: usize,
}

/// Links fibers, and gives vesicles the square that encloses their circle.
///
/// `nx`: columns of the micrograph; a tenth of it is the longest gap in a fiber.
pub fn trace(picks: &[Pick], rule: &OutputRule, nx: usize) -> Traced {
    let point = |pick: &Pick| Coordinate {
        score: Some(pick.score),
        size: Some(match rule.kind {
            Kind::Vesicle => Size::square(2.0 * pick.radius()),
            _ => Size { width: pick.size[0], height: pick.size[1] },
        }),
        ..Coordinate::at(pick.centre[0], pick.centre[1])
    };
    // The original traces for THI only and writes the bare detections otherwise.
    let as_points = rule.compat.is_all() && rule.output_type != OutputType::Thi;
    if rule.kind != Kind::Fiber || as_points {
        let kind = if rule.kind == Kind::Fiber { Kind::Particle } else { rule.kind };
        return Traced { coordinates: Coordinates { kind, points: picks.iter().map(point).collect() }, fibers: 0 };
    }
    let places: Vec<[f64; 2]> = picks.iter().map(|pick| pick.centre).collect();
    let link = match rule.tracer {
        Tracer::Graph if !rule.compat.is_all() => graph::link,
        _ => fiber::link,
    };
    let fibers = link(&places, nx as f64 / 10.0, rule.ang_thresh_rad);
    let mut points = Vec::new();
    for (group, fiber) in fibers.iter().enumerate() {
        let sum: f64 = fiber.points.iter().map(|&i| f64::from(picks[i].score)).sum();
        let mean = (sum / fiber.points.len().max(1) as f64) as f32;
        let vertex = |&i: &usize| Coordinate { score: Some(mean), group: Some(group as u32 + 1), ..point(&picks[i]) };
        points.extend(fiber.vertices.iter().map(vertex));
    }
    Traced { coordinates: Coordinates { kind: Kind::Fiber, points }, fibers: fibers.len() }
}

/// The text of the coordinate file.
///
/// `picks` are those that `traced` was made of. `side_n_px`: the constant box in network pixels, which the original's
/// `.coord` states. `pixel_size_angstrom` is needed for segments only.
///
/// Errors: segments without a pixel size.
pub fn render(picks: &[Pick], traced: &Traced, rule: &OutputRule, side_n_px: f64, pixel_size_angstrom: Option<f64>) -> Result<String> {
    let Traced { coordinates, .. } = traced;
    let integers = if rule.compat.has(Fault::Trunc) { Integers::Truncate } else { Integers::Round };
    match rule.output_type {
        OutputType::Thi if rule.subpixel => Ok(thi_subpixel(coordinates)),
        OutputType::Thi => {
            let fiber_ones = rule.compat.has(Fault::FiberOnes);
            thi::write(coordinates, &thi::WriteOptions { integers, fiber_ones })
        }
        OutputType::Star if rule.compat.is_all() => Ok(star::write::particles(coordinates, star::write::Style::Original)),
        OutputType::Star => match (coordinates.kind, rule.helix) {
            (Kind::Fiber, Helix::StartEnd) => star::write::start_end(coordinates),
            (Kind::Fiber, Helix::Segments(step_angstrom)) => {
                let pixel_size_angstrom =
                    pixel_size_angstrom.context("no pixel size in the header, which --helix segments needs; give it with --angpix")?;
                star::write::segments(coordinates, star::write::SegmentSteps { step_angstrom, pixel_size_angstrom })
            }
            _ => Ok(star::write::particles(coordinates, star::write::Style::Relion)),
        },
        OutputType::Box if rule.compat.has(Fault::BoxCorners) => {
            Ok(box_file::write_corners(picks.iter().map(|pick| pick.corners), integers))
        }
        OutputType::Box => {
            let options = box_file::WriteOptions { integers, ..box_file::WriteOptions::default() };
            match coordinates.kind {
                Kind::Fiber => box_file::write_helix(coordinates, &options),
                _ if rule.subpixel => Ok(box_subpixel(coordinates)),
                _ => box_file::write(coordinates, &options),
            }
        }
        OutputType::Coord if rule.compat.has(Fault::Coord4) => {
            let row = |point: &Coordinate| coord::FourColumns {
                x: integers.of(point.x) as f64,
                y: integers.of(point.y) as f64,
                size: if rule.kind == Kind::Vesicle { point.radius().unwrap_or(0.0) } else { side_n_px },
                score: point.score.unwrap_or(0.0),
            };
            Ok(coord::write_four_columns(coordinates.points.iter().map(row)))
        }
        OutputType::Coord if rule.subpixel => Ok(coord_subpixel(coordinates)),
        OutputType::Coord => Ok(coord::write(coordinates, integers)),
    }
}

/// Names the part of the picks of this mode that files of this type cannot hold, if there is one.
pub fn what_is_lost(kind: Kind, output_type: OutputType) -> Option<&'static str> {
    match (kind, output_type) {
        (_, OutputType::Thi) | (Kind::Particle, OutputType::Star) => None,
        (Kind::Fiber, OutputType::Star) => Some("bends between straight pieces (every piece is a start and an end)"),
        (Kind::Vesicle, OutputType::Star) => Some("radii"),
        (_, OutputType::Box) => Some("scores"),
        (Kind::Particle, OutputType::Coord) => Some("scores"),
        (Kind::Vesicle, OutputType::Coord) => Some("radii and scores"),
        (Kind::Fiber, OutputType::Coord) => Some("which vertices make a fiber, and scores"),
    }
}

fn thi_subpixel(coordinates: &Coordinates) -> String {
    let mut text = String::from(match coordinates.kind {
        Kind::Particle => "[Particle Coordinates: X Y Value]\n",
        Kind::Vesicle => "[Vesicle Coordinates: X Y Radius Value]\n",
        Kind::Fiber => "[Helix Coordinates: X Y Group Value]\n",
    });
    for point in &coordinates.points {
        let (x, y, score) = (point.x, point.y, point.score.unwrap_or(1.0));
        // Writing to a String cannot fail.
        let _ = match coordinates.kind {
            Kind::Particle => writeln!(text, "{x:.2}\t{y:.2}\t{score:.6}"),
            Kind::Vesicle => writeln!(text, "{x:.2}\t{y:.2}\t{:.2}\t{score:.6}", point.radius().unwrap_or(0.0)),
            Kind::Fiber => writeln!(text, "{x:.2} {y:.2} {} {score:.6}", point.group.unwrap_or(1)),
        };
    }
    text + "[End]\n"
}

fn box_subpixel(coordinates: &Coordinates) -> String {
    let row = |point: &Coordinate| {
        let Size { width, height } = point.size.unwrap_or(Size::square(0.0));
        let [width, height] = [width, height].map(even);
        format!("{:.2}\t{:.2}\t{width}\t{height}\n", point.x - width / 2.0, point.y - height / 2.0)
    };
    coordinates.points.iter().map(row).collect()
}

fn coord_subpixel(coordinates: &Coordinates) -> String {
    coordinates.points.iter().map(|point| format!("{:.2}\t{:.2}\n", point.x, point.y)).collect()
}

/// The nearest even number of pixels: sides that are written are even, so that they have a centre.
pub fn even(side_px: f64) -> f64 {
    ((side_px / 2.0).round() * 2.0).max(0.0)
}
