//! Micrographs and their coordinate files: which file belongs to which micrograph, and which boxes train the network.
//!
//! The labels of a training, the labels of an evaluation and the picks that are evaluated are all found here.

use super::augment::CornersD;
use super::data::MarksD;
use crate::compat::{Compat, Fault};
use crate::formats::coordinates::{Coordinate, Coordinates, Kind, Warnings};
use crate::formats::detect::CoordinateFormat;
use crate::formats::image;
use crate::formats::label_file;
use crate::formats::marks::{Item, Marks, Shape};
use crate::formats::pixel_size::Evidence;
use crate::formats::regular;
use crate::io::find::find_micrographs;
use crate::io::pairing::{Name, distinct, match_names, refuse_twins};
use crate::io::sources::{self, Source, Unreadable};
use crate::ops::heat_map;
use crate::preprocess::geometry::Geometry;
use crate::words::{agreeing, counted};
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// How coordinate files are found and read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How they are read; a named family also says which files of a folder are meant.
    pub label: label_file::ReadOptions,
    /// How micrographs are read.
    pub image: image::ReadOptions,
    /// Leaves out entries of a list of micrographs for which there is no file.
    pub skip_missing: bool,
    /// Pixel size of all micrographs, angstrom, whatever the files say.
    pub pixel_size_angstrom: Option<f64>,
    /// Leaves out micrographs that cannot be read, and names them in [`Gathered::unreadable`].
    pub leave_out_unreadable: bool,
}

impl Options {
    /// These options, with what the mode says about labels. It says what rows of four columns without a header are. If fibers
    /// are wanted, it also says that rows of STAR files without tube ids are pairs of start and end.
    pub fn in_mode(mut self, mode: Kind) -> Self {
        self.label.kind = Some(mode).filter(|mode| *mode != Kind::Particle);
        self.label.star.fibers = mode == Kind::Fiber;
        self
    }
}

/// A micrograph with its coordinates.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// The file.
    pub path: PathBuf,
    /// Names by which coordinates are paired with it.
    pub name: Name,
    /// What outputs and messages call it: its stem, with folders in front where several have the same.
    pub stem: String,
    /// Columns and rows.
    pub size: [usize; 2],
    /// Angstrom per pixel.
    pub pixel_size_angstrom: Option<f64>,
    /// The coordinate file.
    pub label: PathBuf,
    /// Its format.
    pub format: CoordinateFormat,
    /// The points, without those that lie outside of the micrograph by more than half their box.
    pub coordinates: Coordinates,
    /// How many points have their centre outside of the image, whether they were dropped or not.
    pub outside: usize,
    /// What the file of marks beside the coordinates says; none where there is no such file.
    pub marks: Option<Marks>,
    /// Places of picks that somebody has rejected, micrograph pixels.
    pub rejected: Vec<[f64; 2]>,
}

impl Labelled {
    /// Drops the points that lie in an area that is left out, labels and picks alike, so that neither counts. Fibers stay as they are,
    /// because a part of one is another fiber.
    pub fn leave_out_areas(&self, coordinates: &mut Coordinates) {
        if let Some(marks) = self.marks.as_ref().filter(|_| coordinates.kind != Kind::Fiber) {
            coordinates.points.retain(|point| !marks.items.iter().any(|item| item.shape.holds([point.x, point.y])));
        }
    }
}

/// What was found, and what there is to say about it.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// Micrographs with coordinates (which may be none: an empty file), in the order of the micrographs.
    pub labelled: Vec<Labelled>,
    /// Stems of micrographs that have no coordinate file and are left out.
    pub lone_micrographs: Vec<String>,
    /// Coordinate files without a micrograph.
    pub lone_labels: Vec<String>,
    /// Stems of micrographs that their marks exclude.
    pub excluded: Vec<String>,
    /// For each micrograph that was left out because it cannot be read: a line that says why.
    pub unreadable: Vec<String>,
    /// How names were matched, and other things to know, a line each.
    pub notes: Vec<String>,
    /// What may be wrong, a line each.
    pub warnings: Vec<String>,
}

/// Finds the micrographs of `data` and their coordinates in `labels`: a folder, a table of many micrographs, a list of
/// files, or one file.
///
/// Errors: nothing is found, nothing matches, a name fits several, or a file cannot be read.
pub fn gather(data: &Path, labels: &Path, options: &Options) -> Result<Gathered> {
    gather_judged(data, labels, None, options)
}

/// The same with picks that somebody has rejected, such as those in the classes that were not selected: what lies there is not looked
/// for, unless it is a label, too. A micrograph of which all picks were rejected has no labels.
///
/// Errors: as `gather`.
pub fn gather_judged(data: &Path, labels: &Path, rejected: Option<&Path>, options: &Options) -> Result<Gathered> {
    let found = find_micrographs(data, options.skip_missing)?;
    let mut gathered = Gathered { warnings: found.warnings, ..Gathered::default() };
    let sources = read_sources(labels, options, &mut gathered.warnings)?;
    let names: Vec<Name> = found.micrographs.iter().map(|one| Name::of_micrograph(&one.name, &one.path)).collect();
    refuse_twins(&names, |i| found.micrographs[i].path.display().to_string())?;
    let stems = distinct(&names);
    let pairs = pair(&names, &sources, &mut gathered)?;
    let rejected = rejected.map(|path| read_rejected(path, &names, options, &mut gathered)).transpose()?.unwrap_or_default();
    ensure!(
        !pairs.is_empty(),
        "{}: none of its {} coordinate files fits one of the {} micrographs of {} (for example {} and {}); expected equal names; rename them",
        labels.display(),
        sources.len(),
        stems.len(),
        data.display(),
        sources.first().map_or("", |source| source.name.stem.as_str()),
        stems.first().map_or("", String::as_str),
    );
    let mut remarks = Warnings::default();
    // The labels of each micrograph, and its rejected picks.
    let mut judged: BTreeMap<usize, [Option<&Source>; 2]> = BTreeMap::new();
    pairs.iter().for_each(|&(i, source)| judged.entry(i).or_default()[0] = Some(&sources[source]));
    rejected.iter().for_each(|(i, source)| judged.entry(*i).or_default()[1] = Some(source));
    for (i, [labels, rejected]) in judged {
        let one = &found.micrographs[i];
        let Some(source) = labels.or(rejected) else { continue };
        let info = match image::read_info(&one.path, &options.image) {
            Err(error) if options.leave_out_unreadable => {
                gathered.unreadable.push(format!("{error:#}"));
                continue;
            }
            info => info?,
        };
        let evidence = Evidence {
            given: options.pixel_size_angstrom,
            label: source.set.pixel_size,
            list: one.pixel_size,
            header: info.pixel_size_angstrom,
        };
        let marks = marks_beside(&source.path)?;
        if marks.as_ref().is_some_and(|marks| marks.excluded) {
            gathered.excluded.push(stems[i].clone());
            continue;
        }
        let mut coordinates = match labels {
            Some(labels) => labels.placed(&evidence, &mut remarks)?,
            None => Coordinates { points: Vec::new(), ..source.set.coordinates.clone() },
        };
        let rejected = match rejected {
            Some(rejected) => rejected.placed(&evidence, &mut remarks)?.points.iter().map(|at| [at.x, at.y]).collect(),
            None => Vec::new(),
        };
        let outside = drop_outside(&mut coordinates, [info.nx, info.ny])?;
        gathered.labelled.push(Labelled {
            path: one.path.clone(),
            name: names[i].clone(),
            stem: stems[i].clone(),
            size: [info.nx, info.ny],
            pixel_size_angstrom: evidence.angstrom(),
            label: source.path.clone(),
            format: source.format,
            coordinates,
            outside,
            marks,
            rejected,
        });
    }
    ensure!(
        !gathered.labelled.is_empty() || !gathered.unreadable.is_empty(),
        "{}: all micrographs with coordinates are marked as excluded; expected one that is not; take the mark away",
        data.display()
    );
    ensure!(
        !gathered.labelled.is_empty(),
        "{}: none of the {} micrographs with coordinates can be read; the first: {}",
        data.display(),
        gathered.unreadable.len(),
        gathered.unreadable.first().map_or("", String::as_str)
    );
    gathered.warnings.extend(remarks.into_messages());
    Ok(gathered)
}

/// Reads rejected picks as labels are read: those of each micrograph that has some, by its index.
///
/// Errors: nothing is there, a file cannot be read, a name fits several, or none of the micrographs has any.
fn read_rejected(path: &Path, names: &[Name], options: &Options, gathered: &mut Gathered) -> Result<Vec<(usize, Source)>> {
    let sources = read_sources(path, options, &mut gathered.warnings)?;
    let mut of_rejected = Gathered::default();
    let pairs = pair(names, &sources, &mut of_rejected)?;
    ensure!(
        !pairs.is_empty(),
        "{}: none of the micrographs has one of these rejected particles (they are of {}, for example); expected equal names",
        path.display(),
        sources.first().map_or("no micrograph", |source| source.name.stem.as_str())
    );
    // A micrograph that has nothing but rejected particles takes part all the same.
    let stems = distinct(names);
    let has_some: HashSet<&String> = pairs.iter().map(|(i, _)| &stems[*i]).collect();
    gathered.lone_micrographs.retain(|stem| !has_some.contains(stem));
    gathered.lone_labels.extend(of_rejected.lone_labels);
    Ok(pairs.into_iter().map(|(i, source)| (i, sources[source].clone())).collect())
}

/// The marks that lie beside a coordinate file.
///
/// Errors: there is such a file, but it cannot be read or understood.
pub fn marks_beside(coordinates: &Path) -> Result<Option<Marks>> {
    let path = Marks::beside(coordinates);
    if !path.is_file() {
        return Ok(None);
    }
    let name = || path.display().to_string();
    let bytes = regular::read(&path)?;
    let text = std::str::from_utf8(&bytes).context("not text; expected marks of epicker view").with_context(name)?;
    Marks::read(text).map(Some).with_context(name)
}

/// Pairs micrographs with coordinates; returns the indices of both, in the order of the micrographs. `gathered` learns what is
/// left over and how the names were matched.
///
/// Errors: a name fits several.
pub fn pair(micrographs: &[Name], sources: &[Source], gathered: &mut Gathered) -> Result<Vec<(usize, usize)>> {
    let labels: Vec<Name> = sources.iter().map(|source| source.name.clone()).collect();
    refuse_twins(&labels, |i| sources[i].path.display().to_string())?;
    let matching = match_names(micrographs, &labels)?;
    let (stems, label_stems) = (distinct(micrographs), distinct(&labels));
    gathered.lone_micrographs = matching.lone_micrographs.iter().map(|&i| stems[i].clone()).collect();
    gathered.lone_labels = matching.lone_labels.iter().map(|&i| label_stems[i].clone()).collect();
    gathered.notes.extend(matching.notes);
    Ok(matching.pairs)
}

/// Reads all coordinates of a folder, a table, a list or a file. There is a warning about files that a list names and that are
/// not there, because their micrographs have no labels.
///
/// Errors: nothing is there, or a file cannot be read. A `.txt` or `.json` of a folder may be something else, so if it cannot
/// be read, there is only a warning.
pub fn read_sources(labels: &Path, options: &Options, warnings: &mut Vec<String>) -> Result<Vec<Source>> {
    let read = sources::read_sources(&[labels.to_owned()], &options.label)?;
    warnings.extend(read.warnings);
    for Unreadable { error, may_be_else } in read.faults {
        if !may_be_else {
            return Err(error);
        }
        warnings.push(format!("{error:#}; passed over"));
    }
    ensure!(
        !read.sources.is_empty() || read.missing.is_empty(),
        "{}; expected them in the working directory, beside the list or in a folder above it",
        read.missing.join("; ")
    );
    warnings.extend(read.missing);
    Ok(read.sources)
}

/// Drops points that lie outside of the micrograph by more than half their box, and the parts of fibers that lie outside.
/// Returns how many centres lie outside at all.
fn drop_outside(coordinates: &mut Coordinates, [nx, ny]: [usize; 2]) -> Result<usize> {
    let beyond = |value: f64, size: usize| (-0.5 - value).max(value - (size as f64 - 0.5));
    let outside = coordinates.points.iter().filter(|point| beyond(point.x, nx) > 0.0 || beyond(point.y, ny) > 0.0).count();
    if coordinates.kind == Kind::Fiber && outside > 0 {
        *coordinates = coordinates.clipped([Some(nx), Some(ny)])?;
        return Ok(outside);
    }
    coordinates.points.retain(|point| {
        let [half_x, half_y] = point.size.map_or([0.0; 2], |size| [size.width / 2.0, size.height / 2.0]);
        beyond(point.x, nx) <= half_x && beyond(point.y, ny) <= half_y
    });
    Ok(outside)
}

/// How large a label's box is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BoxSide {
    /// Heat-map pixels of an image that is not shrunk; each has 4 D pixels. The original's boxes have 4.75 of them.
    HeatMapPixels(f64),
    /// The diameter of the particle, angstrom.
    Angstrom(f64),
}

/// Side of the original's box, heat-map pixels: 19 D pixels.
pub const ORIGINAL_SIDE_H_PX: f64 = 4.75;

impl BoxSide {
    /// The side in D pixels.
    ///
    /// Errors: angstrom without a pixel size.
    pub fn d_px(self, geometry: &Geometry, pixel_size_angstrom: Option<f64>) -> Result<f64> {
        let to_d = geometry.frame as f64 / geometry.nx as f64;
        match self {
            BoxSide::HeatMapPixels(side) => Ok(heat_map::STRIDE as f64 * side),
            BoxSide::Angstrom(diameter) => match pixel_size_angstrom {
                Some(pixel_size) => Ok(diameter / pixel_size * to_d),
                None => bail!("no pixel size, so a diameter in angstrom has no size in pixels; expected one in the header; give --angpix"),
            },
        }
    }
}

/// The boxes of a micrograph's labels in frame D.
///
/// All particles have one size, and each vesicle has its own; a fiber becomes points along its path, one in each cell of the
/// heat map. With `--compat label-trunc` positions are cut to whole pixels as the original does, and with `clip-centre` boxes
/// are kept off the upper and left border.
///
/// Errors: vesicles without radius, or a diameter without pixel size; the message names the label file.
pub fn boxes_d(labelled: &Labelled, mode: Kind, frame: usize, side: BoxSide, compat: &Compat) -> Result<Vec<CornersD>> {
    let [nx, ny] = labelled.size;
    let geometry = Geometry::new(nx, ny, frame);
    let name = || labelled.label.display().to_string();
    let side_d_px = match mode {
        Kind::Vesicle => 0.0,
        _ => side.d_px(&geometry, labelled.pixel_size_angstrom).with_context(|| labelled.path.display().to_string())?,
    };
    let cell_m_px = heat_map::STRIDE as f64 * geometry.square_d() as f64 / frame as f64 * nx as f64 / frame as f64;
    let points = match (mode, labelled.coordinates.kind) {
        (Kind::Fiber, Kind::Fiber) => along_fibers(&labelled.coordinates, cell_m_px).with_context(name)?,
        _ => labelled.coordinates.points.clone(),
    };
    let truncate = compat.has(Fault::LabelTrunc);
    let whole_in_m = truncate && matches!(labelled.format, CoordinateFormat::Star | CoordinateFormat::Coord);
    let corner = |point: &Coordinate| -> Result<CornersD> {
        let place = if whole_in_m { [point.x.trunc(), point.y.trunc()] } else { [point.x, point.y] };
        let place = if truncate {
            // The original multiplies by the rounded scale. Where a product is close to a whole number, this rounding decides
            // to which pixel it is cut.
            let [x, y] = place;
            [x * (frame as f64 / nx as f64), y * (geometry.height_d as f64 / ny as f64)].map(f64::trunc)
        } else {
            geometry.m_to_d(place)
        };
        let [width, height] = match mode {
            Kind::Vesicle => {
                let Some(radius) = point.radius().filter(|radius| *radius > 0.0) else {
                    bail!("{}: a vesicle without radius; expected a radius or a box for each; use THI, box or CBOX files", name());
                };
                [2.0 * radius * frame as f64 / nx as f64; 2]
            }
            _ => [side_d_px; 2],
        };
        let mut corner = [place[0] - width / 2.0, place[1] - height / 2.0];
        if compat.has(Fault::ClipCentre) {
            corner = corner.map(|value| value.max(1.0));
        }
        Ok([corner[0], corner[1], corner[0] + width, corner[1] + height].map(|value| value as f32))
    };
    points.iter().map(corner).collect()
}

/// The marks of a micrograph in frame D, where there are any; `boxes` are those of its labels.
pub fn marks_d(labelled: &Labelled, frame: usize, boxes: &[CornersD]) -> MarksD {
    let rejected = rejected_d(labelled, frame, boxes);
    if labelled.marks.is_none() && rejected.is_empty() {
        return MarksD::default();
    }
    let geometry = Geometry::new(labelled.size[0], labelled.size[1], frame);
    let to_d = frame as f64 / labelled.size[0] as f64;
    let all = |points: &[[f64; 2]]| points.iter().map(|point| geometry.m_to_d(*point)).collect();
    let area = |item: &Item| match &item.shape {
        Shape::Region(outline) => Some(Shape::Region(all(outline))),
        Shape::Brush(half_width, path) => Some(Shape::Brush(half_width * to_d, all(path))),
        _ => None,
    };
    let nothing = |item: &Item| match item.shape {
        Shape::Nothing(at) => Some(geometry.m_to_d(at)),
        _ => None,
    };
    let items = labelled.marks.as_ref().map_or(&[][..], |marks| &marks.items);
    // Nobody has looked at what was never picked.
    let is_finished = rejected.is_empty() && labelled.marks.as_ref().is_some_and(|marks| marks.finished);
    let nothing: Vec<[f64; 2]> = items.iter().filter_map(nothing).chain(rejected).collect();
    let focus = if is_finished { Vec::new() } else { boxes.iter().map(middle).chain(nothing.iter().copied()).collect() };
    MarksD { areas: items.iter().filter_map(area).collect(), nothing, focus }
}

/// The rejected picks of a micrograph in frame D, without those that lie at a label: nearer to its middle than half its box. So a list of
/// all picks may be given for the rejected ones, and a particle that was picked twice is still a particle.
fn rejected_d(labelled: &Labelled, frame: usize, boxes: &[CornersD]) -> Vec<[f64; 2]> {
    let geometry = Geometry::new(labelled.size[0], labelled.size[1], frame);
    let is_at = |[x, y]: [f64; 2], corners: &CornersD| {
        let ([middle_x, middle_y], half) = (middle(corners), f64::from(corners[2] - corners[0]) / 2.0);
        (middle_x - x).hypot(middle_y - y) < half
    };
    let places = labelled.rejected.iter().map(|at| geometry.m_to_d(*at));
    places.filter(|at| !boxes.iter().any(|corners| is_at(*at, corners))).collect()
}

/// How many of the rejected picks of a micrograph lie at one of its labels, so that they are not among its marks.
pub fn rejected_at_labels(labelled: &Labelled, marks: &MarksD) -> usize {
    let is_nothing = |item: &&Item| matches!(item.shape, Shape::Nothing(_));
    let marked = labelled.marks.iter().flat_map(|marks| &marks.items).filter(is_nothing).count();
    marked + labelled.rejected.len() - marks.nothing.len()
}

fn middle([x1, y1, x2, y2]: &CornersD) -> [f64; 2] {
    [f64::from(x1 + x2) / 2.0, f64::from(y1 + y2) / 2.0]
}

/// Points along each fiber that are no farther apart than `step_m_px` (micrograph pixels). Every vertex is among them once.
///
/// Errors: a point belongs to no fiber.
pub fn along_fibers(coordinates: &Coordinates, step_m_px: f64) -> Result<Vec<Coordinate>> {
    const MOST_PER_EDGE: f64 = 1e6; // an edge is never longer than the largest micrograph
    let mut out: Vec<Coordinate> = Vec::new();
    for fiber in coordinates.fibers()? {
        let vertices: Vec<&Coordinate> = fiber.iter().map(|&i| &coordinates.points[i]).collect();
        out.extend(vertices.first().map(|first| **first));
        for edge in vertices.windows(2) {
            let (dx, dy) = (edge[1].x - edge[0].x, edge[1].y - edge[0].y);
            let length = dx.hypot(dy);
            if length == 0.0 {
                continue;
            }
            let steps = (length / step_m_px).ceil().clamp(1.0, MOST_PER_EDGE) as usize;
            out.extend((1..=steps).map(|i| {
                let along = i as f64 / steps as f64;
                Coordinate { x: edge[0].x + along * dx, y: edge[0].y + along * dy, ..*edge[1] }
            }));
        }
    }
    Ok(out)
}

/// The micrograph that decides the scale of a training. Of the micrographs with a pixel size it is the one of middle extent; if
/// none has a pixel size, it is the first.
pub fn reference(gathered: &Gathered) -> Option<&Labelled> {
    let extent = |one: &Labelled| one.pixel_size_angstrom.map(|pixel_size| pixel_size * one.size[0].max(one.size[1]) as f64);
    let mut known: Vec<(f64, &Labelled)> = gathered.labelled.iter().filter_map(|one| Some((extent(one)?, one))).collect();
    known.sort_by(|(a, _), (b, _)| a.total_cmp(b)); // micrographs of equal extent stay in the order of their names
    let middle = known.get(known.len().saturating_sub(1) / 2).map(|(_, one)| *one);
    middle.or(gathered.labelled.first())
}

/// A line that says what was gathered.
pub fn summary(gathered: &Gathered) -> String {
    let points: usize = gathered.labelled.iter().map(|one| one.coordinates.points.len()).sum();
    let empty = gathered.labelled.iter().filter(|one| one.coordinates.points.is_empty()).count();
    let mut text = format!("{} with labels, {}", counted(gathered.labelled.len(), "micrograph"), counted(points, "label"));
    if empty > 0 {
        text.push_str(&format!(", {empty} of the micrographs without any (negative examples)"));
    }
    let rejected: usize = gathered.labelled.iter().map(|one| one.rejected.len()).sum();
    if rejected > 0 {
        text.push_str(&format!(", {rejected} rejected"));
    }
    text
}

/// Lines about names that do not match: micrographs that are left out, and label files that belong to no micrograph.
pub fn leftovers(gathered: &Gathered) -> Vec<String> {
    let told = |names: &[String]| {
        let first: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
        format!("{}{}", first.join(", "), if names.len() > 5 { ", ..." } else { "" })
    };
    let mut lines = Vec::new();
    if !gathered.lone_micrographs.is_empty() {
        let names = &gathered.lone_micrographs;
        let [has, is] = [agreeing(names.len(), "has", "have"), agreeing(names.len(), "is", "are")];
        lines.push(format!("{} {has} no label file and {is} left out: {}", counted(names.len(), "micrograph"), told(names)));
    }
    if !gathered.excluded.is_empty() {
        let names = &gathered.excluded;
        lines.push(format!("{} marked as excluded and left out: {}", counted(names.len(), "micrograph"), told(names)));
    }
    if !gathered.lone_labels.is_empty() {
        let names = &gathered.lone_labels;
        lines.push(format!(
            "{} {} no micrograph: {}",
            counted(names.len(), "label file"),
            agreeing(names.len(), "has", "have"),
            told(names)
        ));
    }
    let outside: usize = gathered.labelled.iter().map(|one| one.outside).sum();
    if outside > 0 {
        let worst = gathered.labelled.iter().max_by_key(|one| one.outside).map_or("", |one| one.stem.as_str());
        let [lies, its] = [agreeing(outside, "lies", "lie"), agreeing(outside, "its", "their")];
        let labels = counted(outside, "label");
        lines.push(format!(
            "{labels} {lies} outside of {its} micrograph, most of them of {worst}; left out unless a box reaches in; check sizes and axes"
        ));
    }
    lines
}

/// Refuses data of which nothing can be learnt.
///
/// Errors: no micrograph has a label.
pub fn refuse_without_labels(gathered: &Gathered) -> Result<()> {
    ensure!(
        gathered.labelled.iter().any(|one| !one.coordinates.points.is_empty()),
        "all {} label files are empty; expected at least one label; check --label",
        gathered.labelled.len()
    );
    Ok(())
}
