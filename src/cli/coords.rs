//! `epicker coords`: coordinate files from any format to any other.
//!
//! The story: find the files, read them, bring the points into the wanted frame, settle all names, and only then write.

use super::interrupt;
use super::print::{print, tell};
use super::status::{self, OrUsage};
use super::values;
use crate::formats::coordinates::{Integers, Kind, ListedPair, Set, Size, Slices, Warnings};
use crate::formats::image::{self, ImageInfo};
use crate::formats::label_file::{BoxStyle, Family, ReadOptions};
use crate::formats::pixel_size::{self, Evidence, PixelSize, Stated};
use crate::formats::{box_file, cbox, coord, star, thi, topaz};
use crate::io::find::{self, Found};
use crate::io::names::{self, OutputNames, folders_below_shared};
use crate::io::pairing::{Name, match_names};
use crate::io::sources::{Source, read_sources};
use crate::io::write::{write_many_whole, write_whole};
use crate::words::counted;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// The number of files that are written together. A signal may end the work after each such group; the list then names the
/// files that are there.
const IN_HAND: usize = 256;

/// Where a format holds edges, vertices of a fiber that lie nearer to its path than this are left out. No tracing is exact to
/// half a pixel.
const STRAIGHT_PX: f64 = 0.5;

/// Convert coordinate files from any format to any other
#[derive(clap::Args, Debug)]
pub struct CoordsArgs {
    /// Coordinate files, folders of them, or lists of them
    #[arg(required = true, value_name = "FILE|FOLDER")]
    inputs: Vec<PathBuf>,
    /// Format to write
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: To,
    /// Format to read; auto tells it by the content
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = parse_from)]
    from: FromFormat,
    /// Folder for the results, made if missing; for one merged table also its name (.star, .txt)
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    /// Micrographs that the coordinates belong to: names and sizes are taken from them
    #[arg(long, value_name = "FILE|FOLDER")]
    data: Option<PathBuf>,
    /// Mirror y, for files that count rows from the bottom; needs --ny or --data
    #[arg(long = "flip-y", alias = "flip_y")]
    flip_y: bool,
    /// Rows of the micrographs, for --flip-y
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..))]
    ny: Option<u32>,
    /// Multiply positions and sizes, from downscaled images to full micrographs
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = values::positive)]
    scale: f64,
    /// Pixel size of the micrographs in angstrom, where the files do not say it
    #[arg(long, value_name = "ANGSTROM", value_parser = values::positive)]
    angpix: Option<f64>,
    /// Distance of helical segments in angstrom, for --to segments
    #[arg(long, value_name = "ANGSTROM", value_parser = values::positive)]
    step: Option<f64>,
    /// Side of every written box in pixels, instead of each point's own
    #[arg(long = "box_size", alias = "box-size", value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    box_size: Option<u32>,
    /// Write the score as a fifth column of box files
    #[arg(long = "box-score", alias = "box_score")]
    box_score: bool,
    /// What the four columns of the box files read are, if the content is not to decide
    #[arg(long = "box-style", alias = "box_style", value_enum, value_name = "STYLE")]
    box_style: Option<Style>,
    /// What the rows of the STAR files read are, where nothing in the file says it
    #[arg(long, value_enum, value_name = "ROWS")]
    helix: Option<Helix>,
    /// What THI files without a header, contours of IMOD and STAR files without tube ids hold, whose columns do not tell:
    /// particle, vesicle or fiber
    #[arg(long, value_name = "MODE")]
    mode: Option<Kind>,
    /// Slices to take from coordinates of a tomogram, from the first to the last number; all takes them as one micrograph
    #[arg(long = "z", value_name = "FROM:TO|all", value_parser = parse_slices, allow_hyphen_values = true)]
    slices: Option<Slices>,
    /// What to do with points whose centre is outside of their micrograph, for which RELION's Extract gives up; sizes come
    /// from --data, and below 0 is outside of all
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    outside: Doubtful,
    /// What to do with points that are equal to another one of their micrograph, as symmetry expansion writes them
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    equal: Doubtful,
    /// Leave out the refined shifts of STAR and .cs files
    #[arg(long = "no-shifts", alias = "no_shifts")]
    no_shifts: bool,
    /// One table for all micrographs (star, topaz and cryosparc; the last two always)
    #[arg(long)]
    merge: bool,
    /// Inserted before the extension of each output, such as _autopick
    #[arg(long, value_name = "TEXT", default_value = "")]
    suffix: String,
    /// Keep the folders of the inputs below the one they share, in a merged table in the micrographs' names
    #[arg(long = "keep-dirs", alias = "keep_dirs")]
    keep_dirs: bool,
    /// Refuse to overwrite files
    #[arg(long = "no-clobber", alias = "no_clobber")]
    no_clobber: bool,
}

/// Formats to write.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// EPicker's own text: particles, vesicles or helices
    Thi,
    /// RELION, one file per micrograph
    Star,
    /// RELION, fibers as pairs of start and end
    Startend,
    /// RELION, fibers as helical segments
    Segments,
    /// EMAN boxes: corner and size
    Box,
    /// EMAN helix boxes
    Helixbox,
    /// EMAN2 helicon text
    Helicon,
    /// Plain x and y
    Coord,
    /// crYOLO boxes
    Cbox,
    /// Topaz, one table
    Topaz,
    /// cryoSPARC, one table
    Cryosparc,
    /// RELION, STAR files and the list autopick.star of them
    #[value(name = "coordinate_files", alias = "coordinate-files")]
    CoordinateFiles,
}

impl To {
    fn extension(self) -> &'static str {
        match self {
            To::Thi => "thi",
            To::Star | To::Startend | To::Segments | To::Cryosparc | To::CoordinateFiles => "star",
            To::Box | To::Helixbox => "box",
            To::Coord => "coord",
            To::Cbox => "cbox",
            To::Helicon | To::Topaz => "txt",
        }
    }

    /// True for formats that hold fibers and nothing else.
    fn needs_fibers(self) -> bool {
        matches!(self, To::Startend | To::Segments | To::Helixbox | To::Helicon)
    }
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Style {
    /// Corner and size
    Eman,
    /// Two corners
    Corners,
}

/// What to do with points that look wrong.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Doubtful {
    /// Leave them out, and say how many there were
    #[default]
    Drop,
    /// Write them like all others
    Keep,
    /// Refuse the micrograph
    Refuse,
}

fn parse_slices(text: &str) -> Result<Slices, String> {
    if text == "all" {
        return Ok(Slices::All);
    }
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    let (from, to) = text.split_once(':').unwrap_or((text, text));
    match (number(from), number(to)) {
        (Some(from), Some(to)) if from <= to => Ok(Slices::Range([from, to])),
        _ => Err("expected two numbers such as 10:20, one number, or all".to_owned()),
    }
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Helix {
    /// Pairs of start and end
    Startend,
    /// Points along the tubes that the file numbers
    Segments,
}

/// The value of `--from`: a family of formats, or none for `auto`.
#[derive(Clone, Copy, Debug)]
struct FromFormat(Option<Family>);

fn parse_from(text: &str) -> Result<FromFormat, String> {
    if text == "auto" {
        return Ok(FromFormat(None));
    }
    text.parse().map(|family| FromFormat(Some(family))).map_err(|error| format!("{error}, or auto"))
}

/// The coordinates of one micrograph on their way from a file to another.
struct Item {
    /// Names by which their micrograph is found.
    name: Name,
    /// The file that the coordinates came from.
    source: PathBuf,
    /// The path that outputs are named after: the micrograph if it is known, else the source.
    named_after: PathBuf,
    /// The micrograph, as an index into those of `--data`.
    micrograph: Option<usize>,
    set: Set,
    /// What the list of micrographs says of pixel sizes.
    listed: Stated,
    /// Pixel size of the micrograph, once it is settled.
    pixel_size: Option<PixelSize>,
}

impl From<Source> for Item {
    fn from(source: Source) -> Item {
        let named_after = source.set.micrograph.as_ref().map_or_else(|| source.path.clone(), |name| name.replace('\\', "/").into());
        Item {
            name: source.name,
            source: source.path,
            named_after,
            micrograph: None,
            set: source.set,
            listed: Stated::default(),
            pixel_size: None,
        }
    }
}

/// The number of failures so far. Each is reported when it happens, and counted for the exit status.
#[derive(Default)]
struct Failures(usize);

impl Failures {
    fn report(&mut self, error: &anyhow::Error) {
        tell(&format!("error: {error:#}"));
        self.0 += 1;
    }
}

/// Runs `epicker coords`; returns the exit status: 0 if all is done, 1 if some file failed, or that of a signal.
///
/// Errors: wrong usage, before any file is written.
pub fn run(args: &CoordsArgs) -> Result<u8> {
    let mut failures = Failures::default();
    let written = convert(args, &mut failures).or_usage()?;
    print(&format!("{} written to {}", counted(written, "file"), args.output.display()));
    Ok(match failures.0 {
        _ if interrupt::is_asked() => interrupt::status(),
        0 => status::DONE,
        _ => status::FAILED,
    })
}

/// Converts the files. An error is always one of usage, and nothing has been written then.
fn convert(args: &CoordsArgs, failures: &mut Failures) -> Result<usize> {
    check_usage(args)?;
    let read = read_sources(&args.inputs, &read_options(args))?;
    read.warnings.iter().for_each(|warning| tell(&format!("warning: {warning}")));
    read.faults.iter().for_each(|fault| failures.report(&fault.error));
    read.missing.into_iter().for_each(|line| failures.report(&anyhow!(line)));
    let mut items: Vec<Item> = read.sources.into_iter().map(Item::from).collect();
    let micrographs = Micrographs::of(args)?;
    micrographs.name(&mut items)?;
    let mut ready = Vec::with_capacity(items.len());
    let mut remarks = Warnings::default();
    for mut item in items {
        match to_frame_m(&mut item, &micrographs, args, &mut remarks) {
            Ok(()) => ready.push(item),
            Err(error) => failures.report(&error),
        }
    }
    remarks.into_messages().iter().for_each(|remark| tell(&format!("warning: {remark}")));
    warn_topaz_scale(&ready, &micrographs, args);
    if args.merge || matches!(args.to, To::Topaz | To::Cryosparc) {
        write_merged(ready, args, failures)
    } else {
        write_each(ready, args, failures)
    }
}

fn check_usage(args: &CoordsArgs) -> Result<()> {
    ensure!(
        !args.merge || matches!(args.to, To::Star | To::Topaz | To::Cryosparc),
        "--merge with {:?}: that format holds one micrograph; expected star, topaz or cryosparc; leave out --merge",
        args.to
    );
    ensure!(
        !args.flip_y || args.ny.is_some() || args.data.is_some(),
        "--flip-y: the number of rows is unknown; expected --ny or --data; give one of them"
    );
    ensure!(
        args.step.is_some() || args.to != To::Segments,
        "--to segments: the distance of segments is missing; expected angstrom; give it with --step"
    );
    ensure!(
        args.helix != Some(Helix::Startend) || matches!(args.from.0, None | Some(Family::Star)),
        "--helix startend with --from {:?}: only STAR files hold such pairs; leave out one of them",
        args.from.0
    );
    if args.output.is_file() {
        let is_table = args.merge || matches!(args.to, To::Topaz | To::Cryosparc);
        ensure!(is_table, "--output {}: this is a file; expected a folder; give another name", args.output.display());
    }
    Ok(())
}

fn read_options(args: &CoordsArgs) -> ReadOptions {
    ReadOptions {
        family: args.from.0,
        box_style: args.box_style.map(|style| match style {
            Style::Eman => BoxStyle::Eman,
            Style::Corners => BoxStyle::Corners,
        }),
        kind: args.mode.or(args.to.needs_fibers().then_some(Kind::Fiber)),
        topaz_scale: None, // --scale is for all formats alike
        slices: args.slices.unwrap_or_default(),
        star: star::read::ReadOptions {
            ignore_shifts: args.no_shifts,
            start_end: args.helix == Some(Helix::Startend),
            fibers: args.mode == Some(Kind::Fiber) && args.helix.is_none(),
        },
    }
}

/// The micrographs of `--data`.
struct Micrographs {
    found: Vec<Found>,
}

impl Micrographs {
    fn of(args: &CoordsArgs) -> Result<Micrographs> {
        let found = match &args.data {
            Some(data) => {
                let list = find::find_micrographs(data, false)?;
                list.warnings.iter().for_each(|warning| tell(&format!("warning: {warning}")));
                list.micrographs
            }
            None => Vec::new(),
        };
        Ok(Micrographs { found })
    }

    /// Names items after their micrographs, if `--data` gives any.
    fn name(&self, items: &mut [Item]) -> Result<()> {
        if self.found.is_empty() {
            return Ok(());
        }
        let micrographs: Vec<Name> = self.found.iter().map(|found| Name::of_micrograph(&found.name, &found.path)).collect();
        let labels: Vec<Name> = items.iter().map(|item| item.name.clone()).collect();
        let matching = match_names(&micrographs, &labels)?;
        matching.notes.iter().for_each(|note| tell(&format!("note: {note}")));
        for (micrograph, label) in matching.pairs {
            let found = &self.found[micrograph];
            let item = &mut items[label];
            item.named_after = found.path.clone();
            item.micrograph = Some(micrograph);
            item.set.micrograph = Some(found.name.clone());
            item.listed = found.pixel_size;
        }
        for label in matching.lone_labels {
            tell(&format!("warning: {}: no micrograph in --data is called {}", items[label].source.display(), labels[label].stem));
        }
        Ok(())
    }

    /// What the header of an item's micrograph says.
    fn info(&self, item: &Item) -> Result<ImageInfo> {
        ensure!(
            item.micrograph.is_some(),
            "{}: its micrograph is not in --data, so its rows are unknown; expected one of that name; give --ny or the right --data",
            item.source.display()
        );
        image::read_info(&item.named_after, &image::ReadOptions::default())
    }
}

/// Brings the points to the pixels and rows of the full micrograph.
fn to_frame_m(item: &mut Item, micrographs: &Micrographs, args: &CoordsArgs, remarks: &mut Warnings) -> Result<()> {
    let top = match (args.flip_y, args.ny) {
        (false, _) => None,
        (true, Some(ny)) => Some(f64::from(ny) - 1.0),
        (true, None) => Some(micrographs.info(item)?.ny as f64 - 1.0),
    };
    item.set.scale(args.scale);
    let name = item.source.display().to_string();
    let evidence = evidence(item, micrographs, args)?;
    let mut doubts = Warnings::default();
    evidence.doubt().filter(|_| args.to == To::Segments || !item.set.shifts.is_empty()).iter().for_each(|doubt| doubts.note(0, doubt));
    item.pixel_size = evidence.decide();
    item.set.take_shifts(item.pixel_size.map(|size| size.angstrom), &mut doubts).with_context(|| name.clone())?;
    for point in &mut item.set.coordinates.points {
        ensure!(
            point.x.abs() <= f64::from(i32::MAX) && point.y.abs() <= f64::from(i32::MAX),
            "{}: a point beyond every micrograph; expected a sensible factor; correct --scale",
            item.source.display()
        );
        if let Some(top) = top {
            point.y = top - point.y;
        }
    }
    judge(item, micrographs, args, &mut doubts).with_context(|| name.clone())?;
    // Remarks are gathered, so that a table of a thousand micrographs gives each of them once.
    remarks.append(doubts, &format!("{name}: "));
    let coordinates = &mut item.set.coordinates;
    if let (To::Thi, Kind::Vesicle, Some(side)) = (args.to, coordinates.kind, args.box_size) {
        coordinates.points.iter_mut().for_each(|point| point.size = point.size.or(Some(Size::square(f64::from(side)))));
    }
    if coordinates.kind == Kind::Fiber && (args.to == To::Thi || args.to.needs_fibers()) {
        let lone = coordinates.drop_lone_vertices();
        if lone > 0 {
            tell(&format!("warning: {}: {lone} fibers of a single point have no direction; left out", item.source.display()));
        }
    }
    ensure!(
        !args.to.needs_fibers() || coordinates.kind == Kind::Fiber || coordinates.points.is_empty(),
        "{}: points without fibers; expected fibers for this format; choose --to star, or say --helix startend if rows are pairs",
        item.source.display()
    );
    Ok(())
}

/// Judges the points before other programs get them, because these programs stop at points outside of a micrograph, and take
/// equal points for several particles.
fn judge(item: &mut Item, micrographs: &Micrographs, args: &CoordsArgs, remarks: &mut Warnings) -> Result<()> {
    let mut judged = item.set.clone();
    let equal = if args.equal == Doubtful::Keep { 0 } else { judged.drop_equal() };
    ensure!(
        equal == 0 || args.equal != Doubtful::Refuse,
        "{equal} of the points are equal to another one of their micrograph; expected none with --equal refuse; choose --equal drop or keep"
    );
    remarks.count(
        equal,
        "of the points were equal to another one of their micrograph, as after symmetry expansion, and were left out; --equal keep writes them",
    );
    let size = match item.micrograph.is_some().then(|| micrographs.info(item)) {
        _ if args.outside == Doubtful::Keep => None,
        Some(Ok(info)) => Some([Some(info.nx), Some(info.ny)]),
        Some(Err(error)) => {
            remarks.note(0, &format!("{error:#}; so it is not known which points lie outside of it"));
            Some([None, None])
        }
        None => Some([None, args.ny.map(|ny| ny as usize)]),
    };
    let outside = size.map_or(Ok(0), |size| judged.keep_inside(size))?;
    ensure!(
        outside == 0 || args.outside != Doubtful::Refuse,
        "{outside} of the points lie outside of their micrograph; expected none with --outside refuse; choose --outside drop or keep"
    );
    remarks.count(outside, "of the points lay outside of their micrograph and were left out; --outside keep writes them");
    item.set = judged;
    Ok(())
}

/// What is said of the pixel size of an item's micrograph; headers are read only where that matters.
fn evidence(item: &Item, micrographs: &Micrographs, args: &CoordsArgs) -> Result<Evidence> {
    let evidence = Evidence { given: args.angpix, label: item.set.pixel_size, list: item.listed, header: None };
    let is_needed = args.to == To::Segments || !item.set.shifts.is_empty();
    if is_needed && item.micrograph.is_some() && evidence.decide().is_none_or(|size| !size.is_certain()) {
        return Ok(Evidence { header: micrographs.info(item)?.pixel_size_angstrom, ..evidence });
    }
    Ok(evidence)
}

/// Warns of a forgotten `--scale`. Topaz picks downscaled images, so if all points lie in the first quarter of every
/// micrograph, they were most likely not scaled up.
fn warn_topaz_scale(items: &[Item], micrographs: &Micrographs, args: &CoordsArgs) {
    if args.from.0 != Some(Family::Topaz) || args.scale != 1.0 || micrographs.found.is_empty() {
        return;
    }
    let mut count = 0;
    for item in items {
        let Ok(ImageInfo { nx, ny, .. }) = micrographs.info(item) else { return };
        if item.set.coordinates.points.iter().any(|point| point.x > nx as f64 / 2.0 || point.y > ny as f64 / 2.0) {
            return;
        }
        count += item.set.coordinates.points.len();
    }
    if count > 0 {
        tell(&format!("warning: all {count} points lie in the first half of x and y; if Topaz worked on downscaled images, give --scale"));
    }
}

/// One file per micrograph, and for `coordinate_files` the list of them.
fn write_each(items: Vec<Item>, args: &CoordsArgs, failures: &mut Failures) -> Result<usize> {
    let mut sources: HashMap<&Path, &Path> = HashMap::new();
    for item in &items {
        if let Some(other) = sources.insert(&item.named_after, &item.source).filter(|_| item.set.micrograph.is_some()) {
            bail!(
                "{} and {}: both hold coordinates of {}; expected one file per micrograph; leave one out",
                other.display(),
                item.source.display(),
                item.named_after.display()
            );
        }
    }
    let rule = OutputNames { folder: &args.output, suffix: &args.suffix, extension: args.to.extension(), keep_dirs: args.keep_dirs };
    let inputs: Vec<PathBuf> = items.iter().map(|item| item.named_after.clone()).collect();
    let is_source: HashMap<&Path, bool> = items.iter().map(|item| (item.named_after.as_path(), item.set.micrograph.is_none())).collect();
    let stem = |path: &Path| if is_source.get(path) == Some(&true) { names::label_stem(path) } else { names::micrograph_stem(path).text };
    let outputs = rule.outputs(&inputs, stem)?;
    let list = args.output.join("autopick.star");
    let mut planned: Vec<&Path> = outputs.iter().map(PathBuf::as_path).collect();
    planned.extend((args.to == To::CoordinateFiles).then_some(list.as_path()));
    check_outputs(&planned, &items, args)?;
    make_folders(&planned)?;
    let mut lost_fibers = false;
    let mut ready: Vec<(usize, String)> = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        lost_fibers |= item.set.coordinates.kind == Kind::Fiber && !args.to.needs_fibers() && !matches!(args.to, To::Thi | To::Cbox);
        match text_of(item, args).with_context(|| item.source.display().to_string()) {
            Ok(text) => ready.push((i, text)),
            Err(error) => failures.report(&error),
        }
    }
    let files: Vec<(&Path, String)> = ready.iter_mut().map(|(i, text)| (outputs[*i].as_path(), std::mem::take(text))).collect();
    let mut pairs = Vec::with_capacity(items.len());
    let stop = interrupt::finishing("finishing the files in hand");
    for (ready, files) in ready.chunks(IN_HAND).zip(files.chunks(IN_HAND)) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        for ((i, _), result) in ready.iter().zip(write_many_whole(files)) {
            match result {
                Ok(()) => {
                    let coordinates = outputs[*i].to_string_lossy().into_owned();
                    pairs.push(ListedPair { micrograph: micrograph_name(&items[*i]), coordinates });
                }
                Err(error) => failures.report(&error),
            }
        }
    }
    if args.to == To::CoordinateFiles && items.iter().any(|item| item.set.micrograph.is_none()) {
        tell("warning: micrograph names are made of the files' names; RELION needs them exactly: name the micrographs with --data");
    }
    if lost_fibers {
        tell("warning: this format has no place for fibers; their points are written one by one");
    }
    let mut written = pairs.len();
    if args.to == To::CoordinateFiles {
        match write_whole(&list, star::write::coordinate_files(&pairs).as_bytes()) {
            Ok(()) => written += 1,
            Err(error) => failures.report(&error),
        }
    }
    Ok(written)
}

/// The text of one output file.
fn text_of(item: &Item, args: &CoordsArgs) -> Result<String> {
    // These formats hold edges. With a point in the middle of a straight piece there would be two edges, and each would start
    // the track anew.
    let edges = matches!(args.to, To::Startend | To::Helixbox | To::Helicon).then(|| item.set.coordinates.straightened(STRAIGHT_PX));
    let edges = edges.transpose()?;
    let coordinates = edges.as_ref().unwrap_or(&item.set.coordinates);
    let boxes = box_file::WriteOptions { integers: Integers::Round, size_px: args.box_size, score: args.box_score };
    match args.to {
        To::Thi => thi::write(coordinates, &thi::WriteOptions::default()),
        To::Star | To::CoordinateFiles | To::Cryosparc | To::Topaz => Ok(star::write::particles(coordinates, star::write::Style::Relion)),
        To::Startend => star::write::start_end(coordinates),
        To::Segments => {
            // Track lengths in angstrom would all be wrong by an unknown factor if a header's 1 were believed.
            let size = item.pixel_size.filter(|size| size.source != pixel_size::Source::HeaderOfOne);
            let size = size.context("the pixel size is unknown; expected it for --to segments; give it with --angpix")?;
            star::write::segments(
                coordinates,
                star::write::SegmentSteps { step_angstrom: args.step.unwrap_or_default(), pixel_size_angstrom: size.angstrom },
            )
        }
        To::Box => box_file::write(coordinates, &boxes),
        To::Helixbox => box_file::write_helix(coordinates, &boxes),
        To::Helicon => box_file::write_helicon(&micrograph_name(item), coordinates, &boxes),
        To::Coord => Ok(coord::write(coordinates, Integers::Round)),
        To::Cbox => cbox::write(coordinates, &cbox::WriteOptions { size_px: args.box_size }),
    }
}

/// One table of all micrographs.
fn write_merged(items: Vec<Item>, args: &CoordsArgs, failures: &mut Failures) -> Result<usize> {
    let is_file = args.output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(args.to.extension()));
    let output = if is_file { args.output.clone() } else { args.output.join(format!("particles{}.{}", args.suffix, args.to.extension())) };
    let names = merged_names(&items, args)?;
    check_outputs(&[&output], &items, args)?;
    make_folders(&[&output])?;
    let sets: Vec<Set> = items.into_iter().zip(names).map(|(item, name)| Set { micrograph: Some(name), ..item.set }).collect();
    let text = if args.to == To::Topaz { topaz::write(&sets, Integers::Round) } else { star::write::merged(&sets) };
    match text.and_then(|text| write_whole(&output, text.as_bytes())) {
        Ok(()) => Ok(1),
        Err(error) => {
            failures.report(&error);
            Ok(0)
        }
    }
}

/// The name of each micrograph in a merged table: the name of its file, and with `--keep-dirs` its path below the folder that
/// all share.
///
/// Errors: two micrographs would have one name, so that nobody could tell their points apart any more.
fn merged_names(items: &[Item], args: &CoordsArgs) -> Result<Vec<String>> {
    let paths: Vec<PathBuf> = items.iter().map(|item| micrograph_name(item).into()).collect();
    let folders = if args.keep_dirs { folders_below_shared(&paths) } else { vec![PathBuf::new(); paths.len()] };
    let mut by_name: HashMap<String, usize> = HashMap::new();
    let mut names = Vec::with_capacity(items.len());
    for (i, (path, folder)) in paths.iter().zip(folders).enumerate() {
        let file = match args.to {
            To::Topaz => names::micrograph_stem(path).text.into(),
            _ => path.file_name().unwrap_or_default().to_os_string(),
        };
        let name = folder.join(file).to_string_lossy().into_owned();
        if let Some(first) = by_name.insert(name.clone(), i) {
            let told = |i: usize| format!("{} of {}", paths[i].display(), items[i].source.display());
            bail!(
                "{} and {}: both would be called {name} in the table; expected each micrograph once; keep their folders with --keep-dirs, \
                 or leave one out",
                told(first),
                told(i)
            );
        }
        names.push(name);
    }
    Ok(names)
}

/// The micrograph's name as far as it is known; else the name that a RELION project would most likely give it.
fn micrograph_name(item: &Item) -> String {
    item.set.micrograph.clone().unwrap_or_else(|| format!("{}.mrc", names::label_stem(&item.source)))
}

/// Refuses to write over an input, and with `--no-clobber` over anything.
fn check_outputs(outputs: &[&Path], items: &[Item], args: &CoordsArgs) -> Result<()> {
    let sources: BTreeSet<&Path> = items.iter().map(|item| item.source.as_path()).collect();
    let sources: HashSet<PathBuf> = sources.into_iter().filter_map(|source| source.canonicalize().ok()).collect();
    for output in outputs {
        if args.no_clobber && output.exists() {
            bail!("{}: exists already; --no-clobber was given; choose another folder or leave --no-clobber out", output.display());
        }
        if output.canonicalize().is_ok_and(|output| sources.contains(&output)) {
            bail!("{}: would be written over the file it is made of; expected another folder; change --output", output.display());
        }
    }
    Ok(())
}

fn make_folders(outputs: &[&Path]) -> Result<()> {
    let folders: BTreeSet<&Path> = outputs.iter().filter_map(|output| output.parent()).collect();
    for folder in folders.into_iter().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made; check --output", folder.display()))?;
    }
    Ok(())
}
