//! Draws micrographs of dark shapes in noise, with the true coordinates beside them. They serve studies of training that must
//! not depend on anybody's data.
//!
//! ```text
//! cargo run --release --example draw_micrographs -- SHAPE FOLDER [--count 4] [--seed 1] [--diameter 60] [--largest 60] ...
//! ```
//!
//! The same options draw the same bytes. The files are `SHAPE_SEED_NUMBER.mrc` with `.thi`, `.star` or `.box`; a vesicle's
//! radius is in its THI file, its box in the box file, and STAR holds none.

#[path = "../tests/common/drawn.rs"]
mod drawn;
#[path = "../tests/common/image_files.rs"]
#[allow(dead_code, reason = "of the files that the tests make, this one needs MRC")]
mod image_files;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use drawn::{Drawing, Shape};
use epicker::formats::coordinates::Coordinates;
use epicker::formats::{box_file, thi};
use image_files::Mrc;
use std::fmt::Write;
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Labels {
    Thi,
    Star,
    Box,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Depth {
    Int8,
    F32,
}

/// Draw micrographs with known coordinates
#[derive(Debug, Parser)]
struct Args {
    /// What is drawn
    #[arg(value_enum)]
    shape: Shape,
    /// Where the files go; made with its parents
    folder: PathBuf,
    /// Micrographs
    #[arg(long, default_value_t = 4)]
    count: u64,
    /// The same seed draws the same micrographs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Columns and rows
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Diameter of the particles, pixels
    #[arg(long, default_value_t = 60.0)]
    diameter: f64,
    /// Largest diameter, pixels; those in between are drawn as often [default: all the same]
    #[arg(long)]
    largest: Option<f64>,
    /// Particles in a micrograph, where there is room
    #[arg(long, default_value_t = 80)]
    particles: usize,
    /// Depth of the particles in standard deviations of the noise
    #[arg(long, default_value_t = 1.0)]
    contrast: f64,
    /// Pixel size in the header, angstrom
    #[arg(long, default_value_t = 2.0)]
    angpix: f64,
    /// Format of the coordinates
    #[arg(long, value_enum, default_value = "thi")]
    labels: Labels,
    /// Stored pixels
    #[arg(long, value_enum, default_value = "int8")]
    depth: Depth,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let largest = args.largest.unwrap_or(args.diameter);
    ensure!((32..=16_384).contains(&args.size), "--size {}: expected 32 to 16384", args.size);
    ensure!(
        args.diameter >= 4.0 && largest >= args.diameter && largest < args.size as f64 / 2.0,
        "--diameter {} to {largest}: expected 4 or more, ascending, and less than half of --size",
        args.diameter
    );
    std::fs::create_dir_all(&args.folder).with_context(|| format!("{}: cannot be made", args.folder.display()))?;
    for i in 0..args.count {
        let drawing = Drawing {
            shape: args.shape,
            size: [args.size; 2],
            diameters_px: [args.diameter, largest],
            particles: args.particles,
            contrast: args.contrast,
            seed: args.seed.wrapping_mul(1_000_003).wrapping_add(i),
        };
        let drawn = drawing.draw();
        let stem = format!("{:?}_{}_{i:03}", args.shape, args.seed).to_lowercase();
        let write = |ending: &str, bytes: &[u8]| {
            let path = args.folder.join(format!("{stem}.{ending}"));
            std::fs::write(&path, bytes).with_context(|| format!("{}: cannot be written", path.display()))
        };
        write("mrc", &mrc(&args, &drawn.pixels))?;
        match args.labels {
            Labels::Thi => write("thi", thi::write(&drawn.truth, &thi::WriteOptions::default())?.as_bytes())?,
            Labels::Box => write("box", box_file::write(&drawn.truth, &box_file::WriteOptions::default())?.as_bytes())?,
            Labels::Star => write("star", star(&drawn.truth)?.as_bytes())?,
        }
        println!("{stem}: {} particles", drawn.truth.points.len());
    }
    Ok(())
}

fn mrc(args: &Args, pixels: &[f32]) -> Vec<u8> {
    // A deviation has 25 grey levels, so the noise is never cut off, and the rounding to 8 bits is small beside it.
    let byte = |value: &f32| (25.0 * value).round().clamp(-128.0, 127.0) as i8 as u8;
    let (mode, data) = match args.depth {
        Depth::Int8 => (0, pixels.iter().map(byte).collect()),
        Depth::F32 => (2, pixels.iter().flat_map(|value| value.to_le_bytes()).collect()),
    };
    let side = args.size as i32;
    let cell = [(args.size as f64 * args.angpix) as f32; 2];
    Mrc { nx: side, ny: side, mode, cell, grid: [side, side, 1], data, ..Mrc::default() }.bytes()
}

/// Writes the centres alone, with their fractions, because STAR files have no radius.
fn star(truth: &Coordinates) -> Result<String> {
    let mut out = String::from("\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n");
    for point in &truth.points {
        writeln!(out, "{:.2} {:.2}", point.x, point.y)?;
    }
    Ok(out)
}
