//! The values all coordinate formats share: points of one micrograph, in its own frame.

use super::pixel_size::Stated;
use anyhow::{Result, bail, ensure};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// What is looked for in a micrograph, and what a set of coordinates therefore describes. Its name is the value of
/// `--mode`, and the word in model files and candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// Centres of particles, all of one size.
    #[default]
    Particle,
    /// Centres and radii of vesicles.
    Vesicle,
    /// Vertices of fibers, in path order, with the same `group` for one fiber.
    Fiber,
}

impl Kind {
    /// All kinds, in the order in which help texts name them.
    pub const ALL: [Kind; 3] = [Kind::Particle, Kind::Vesicle, Kind::Fiber];

    /// The word on the command line, in model files and in candidates.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Particle => "particle",
            Kind::Vesicle => "vesicle",
            Kind::Fiber => "fiber",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| format!("unknown mode '{text}'; expected particle, vesicle or fiber"))
    }
}

/// Width and height of a box, in pixels of the micrograph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Full width in micrograph pixels.
    pub width: f64,
    /// Full height in micrograph pixels.
    pub height: f64,
}

impl Size {
    /// A square of side `side` (micrograph pixels).
    pub fn square(side: f64) -> Self {
        Size { width: side, height: side }
    }

    /// Radius of the vesicle this box encloses: (width + height) / 4.
    pub fn radius(self) -> f64 {
        (self.width + self.height) / 4.0
    }
}

/// One coordinate. Frame M: x is the column, y the row in file order, integers are pixel centres.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Coordinate {
    /// Column of the centre, micrograph pixels.
    pub x: f64,
    /// Row of the centre, micrograph pixels.
    pub y: f64,
    /// Score, if the file gives one. Ours are in 0..1; those of other programs are kept as they are.
    pub score: Option<f32>,
    /// Box around the centre, if the file gives one. (The box of a vesicle of radius r is a square of side 2r.)
    pub size: Option<Size>,
    /// Size of the object itself where the file gives it beside the box (the estimate of a CBOX file).
    pub estimated_size: Option<Size>,
    /// Slice of a tomogram that the point lies in, if the file names one. Points of a micrograph have none.
    pub z: Option<f64>,
    /// Fiber that the point belongs to. Points with the same number are one fiber, and its path follows the order of the rows.
    pub group: Option<u32>,
}

impl Coordinate {
    /// A point with nothing but its place.
    pub fn at(x: f64, y: f64) -> Self {
        Coordinate { x, y, ..Coordinate::default() }
    }

    /// Radius of the vesicle (micrograph pixels): from the estimated size, else from the box.
    pub fn radius(&self) -> Option<f64> {
        self.estimated_size.or(self.size).map(Size::radius)
    }
}

/// All coordinates of one micrograph.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Coordinates {
    /// What the points are.
    pub kind: Kind,
    /// The points, in the order of the file.
    pub points: Vec<Coordinate>,
}

/// A refined shift that is still to be taken from a point: the particle lies at the coordinate minus the shift.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shift {
    /// In angstrom.
    Angstrom([f64; 2]),
    /// In pixels of the particle's image, whose size the file does not state.
    ParticlePixels([f64; 2]),
}

/// The coordinates of one micrograph, with what else its file says of it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Set {
    /// The micrograph as the file names it; `None` where only the file's own name tells which micrograph it is.
    pub micrograph: Option<String>,
    /// The points as the file has them. [`Set::take_shifts`] is to be called before they are used.
    pub coordinates: Coordinates,
    /// The refined shift of each point, or nothing. A coordinate file does not tell for certain how large the pixels of
    /// the micrograph are, so its reader leaves the shifts to whoever knows the micrograph too.
    pub shifts: Vec<Shift>,
    /// What the file says of pixel sizes.
    pub pixel_size: Stated,
}

impl Set {
    /// Subtracts the refined shifts from the points. `size` is the pixel size of the micrograph, angstrom.
    ///
    /// Errors: a shift leads off every micrograph.
    /// Source: RELION's autopicker.cpp, `getMDtrainFromParticleStar`, without its rounding to whole pixels.
    pub fn take_shifts(&mut self, size: Option<f64>, warnings: &mut Warnings) -> Result<()> {
        let mut is_taken = false;
        for (point, shift) in self.coordinates.points.iter_mut().zip(std::mem::take(&mut self.shifts)) {
            let [x, y] = match (shift, size) {
                (Shift::Angstrom([0.0, 0.0]) | Shift::ParticlePixels([0.0, 0.0]), _) => continue,
                (Shift::Angstrom(shift), Some(size)) => shift.map(|angstrom| angstrom / size),
                (Shift::Angstrom(_), None) => {
                    warnings.count(
                        1,
                        "of the refined shifts had to be left out, because the pixel size of the micrographs is unknown; give it with --angpix",
                    );
                    continue;
                }
                (Shift::ParticlePixels(shift), _) => {
                    warnings.note(
                        0,
                        "refined shifts are in pixels of the particles, and the file does not say how large those are; they are taken as \
                         pixels of the micrograph, which is wrong if particles were rescaled",
                    );
                    shift
                }
            };
            let [x, y] = [point.x - x, point.y - y];
            ensure!(
                x.abs() < f64::from(i32::MAX) && y.abs() < f64::from(i32::MAX),
                "a refined shift leads off every micrograph; expected a sensible pixel size; give it with --angpix"
            );
            (point.x, point.y) = (x, y);
            is_taken = true;
        }
        if is_taken {
            warnings.note(0, "refined shifts are applied to the coordinates; --no-shifts leaves them out");
        }
        Ok(())
    }

    /// Scales everything from a downscaled micrograph to one that is `factor` times as large.
    pub fn scale(&mut self, factor: f64) {
        let scaled = |size: Option<Size>| size.map(|size| Size { width: size.width * factor, height: size.height * factor });
        for point in &mut self.coordinates.points {
            (point.x, point.y) = (point.x * factor, point.y * factor);
            (point.size, point.estimated_size) = (scaled(point.size), scaled(point.estimated_size));
        }
        for shift in &mut self.shifts {
            if let Shift::ParticlePixels(pixels) = shift {
                *pixels = pixels.map(|value| value * factor);
            }
        }
        self.pixel_size.micrograph = self.pixel_size.micrograph.map(|angstrom| angstrom / factor);
    }
}

/// Which slices of a tomogram are wanted. A micrograph has one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Slices {
    /// The coordinates are those of a micrograph, so points of several slices are an error.
    #[default]
    One,
    /// All of them, as if they were one.
    All,
    /// Those from the first number to the second, both included.
    Range([f64; 2]),
}

impl Set {
    /// Keeps the points of the slices that are wanted.
    ///
    /// Errors: points of several slices, where one micrograph was expected.
    pub fn choose_slices(&mut self, slices: Slices, warnings: &mut Warnings) -> Result<()> {
        let is_within = |z: f64| match slices {
            Slices::One | Slices::All => true,
            Slices::Range([from, to]) => z >= from && z <= to,
        };
        warnings.count(self.retain(|point| point.z.is_none_or(is_within)), "of the points are not in the slices of --z and were left out");
        let of_slices = |points: &[Coordinate]| {
            points
                .iter()
                .filter_map(|point| point.z)
                .fold(None, |range: Option<[f64; 2]>, z| Some(range.map_or([z, z], |[low, high]| [low.min(z), high.max(z)])))
        };
        if let Some([low, high]) = of_slices(&self.coordinates.points).filter(|[low, high]| high > low) {
            ensure!(
                slices != Slices::One,
                "z goes from {low} to {high}, so these are points of a tomogram; expected points of one micrograph; choose slices with \
                 epicker coords --z {low}:{high}, or take all as one with --z all"
            );
            warnings.note(0, "points of several slices of a tomogram are taken as those of one micrograph; their z is lost");
        }
        Ok(())
    }

    /// Leaves out points that lie exactly where an earlier point lies; a point of a fiber is compared only with points of the
    /// same fiber. Of equal points the best score stays. Returns how many points were left out. The shifts must have been taken
    /// before.
    pub fn drop_equal(&mut self) -> usize {
        let mut best: HashMap<(u64, u64, Option<u32>), usize> = HashMap::new();
        let points = &self.coordinates.points;
        let mut is_kept = vec![true; points.len()];
        for (i, point) in points.iter().enumerate() {
            // 0.0 and -0.0 are one place, but have different bits; adding 0.0 makes them equal.
            let key = ((point.x + 0.0).to_bits(), (point.y + 0.0).to_bits(), point.group);
            if let Some(&first) = best.get(&key) {
                let is_better = point.score > points[first].score;
                is_kept[if is_better { first } else { i }] = false;
                if !is_better {
                    continue;
                }
            }
            best.insert(key, i);
        }
        let mut kept = is_kept.iter();
        self.coordinates.points.retain(|_| kept.next() != Some(&false));
        is_kept.len() - self.coordinates.points.len()
    }

    /// Keeps the points whose centre lies on a micrograph of these columns and rows, and the pieces of fibers that lie on it. A
    /// side of the micrograph that is not known has no limit. Returns how many points lay outside.
    pub fn keep_inside(&mut self, size: [Option<usize>; 2]) -> Result<usize> {
        if self.coordinates.kind != Kind::Fiber {
            return Ok(self.retain(|point| is_inside(point, size)));
        }
        let gone = self.coordinates.points.iter().filter(|point| !is_inside(point, size)).count();
        if gone > 0 {
            self.coordinates = self.coordinates.clipped(size)?;
        }
        Ok(gone)
    }
}

/// True if the centre lies on a pixel of a micrograph of these columns and rows. A side that is not known has no limit.
pub fn is_inside(point: &Coordinate, size: [Option<usize>; 2]) -> bool {
    let is_within = |value: f64, extent: Option<usize>| value >= -0.5 && extent.is_none_or(|extent| value <= extent as f64 - 0.5);
    is_within(point.x, size[0]) && is_within(point.y, size[1])
}

impl Set {
    /// Keeps the points that `keep` accepts; returns how many were left out.
    pub fn retain(&mut self, keep: impl Fn(&Coordinate) -> bool) -> usize {
        let before = self.coordinates.points.len();
        let kept: Vec<bool> = self.coordinates.points.iter().map(keep).collect();
        let mut kept_shifts = kept.iter();
        self.shifts.retain(|_| kept_shifts.next() != Some(&false));
        let mut kept = kept.into_iter();
        self.coordinates.points.retain(|_| kept.next() != Some(false));
        before - self.coordinates.points.len()
    }
}

/// A micrograph in a list of micrographs.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedMicrograph {
    /// Path as written in the list.
    pub path: String,
    /// What the list says of pixel sizes.
    pub pixel_size: Stated,
}

impl ListedMicrograph {
    /// An entry of a list that says nothing but where the micrograph is.
    pub fn at(path: impl Into<String>) -> Self {
        ListedMicrograph { path: path.into(), pixel_size: Stated::default() }
    }
}

/// A micrograph and its coordinate file, in a list of pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedPair {
    /// Path of the micrograph as written in the list.
    pub micrograph: String,
    /// Path of the coordinate file as written in the list.
    pub coordinates: String,
}

/// What a coordinate file turned out to hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Coordinates, of one micrograph or of several.
    Coordinates(Vec<Set>),
    /// A list of micrographs.
    Micrographs(Vec<ListedMicrograph>),
    /// A list of micrographs, each with its coordinate file.
    Pairs(Vec<ListedPair>),
}

impl Content {
    /// Coordinates of the micrograph that the file itself is named after.
    pub fn one(kind: Kind, points: Vec<Coordinate>) -> Self {
        Content::Coordinates(vec![Set { coordinates: Coordinates { kind, points }, ..Set::default() }])
    }
}

/// What a reader wants to say without refusing the file. A remark that is made again is counted, not repeated.
#[derive(Clone, Debug, Default)]
pub struct Warnings {
    remarks: Vec<Remark>,
}

#[derive(Clone, Debug)]
struct Remark {
    /// What stands before the message, such as the name of a file.
    before: String,
    text: String,
    /// The first line that the remark is about; 0 is the whole file.
    line: usize,
    /// How many more lines the remark is about. For a remark that counts things, it is the number of things.
    count: usize,
    /// True if the text begins with the count.
    is_of_things: bool,
}

impl Warnings {
    /// Notes a remark about a line (0: about the whole file).
    pub fn note(&mut self, line: usize, remark: &str) {
        match self.remarks.iter_mut().find(|known| !known.is_of_things && known.before.is_empty() && known.text == remark) {
            Some(known) => known.count += 1,
            None => self.remarks.push(Remark { before: String::new(), text: remark.to_owned(), line, count: 0, is_of_things: false }),
        }
    }

    /// Notes that `remark` holds for `count` more things. The message begins with the number of all these things.
    pub fn count(&mut self, count: usize, remark: &str) {
        match self.remarks.iter_mut().find(|known| known.is_of_things && known.before.is_empty() && known.text == remark) {
            Some(known) => known.count += count,
            None if count == 0 => {}
            None => self.remarks.push(Remark { before: String::new(), text: remark.to_owned(), line: 0, count, is_of_things: true }),
        }
    }

    /// Adds the remarks of `others`, each with `before` in front.
    pub fn append(&mut self, others: Warnings, before: &str) {
        for remark in others.remarks {
            let before = format!("{before}{}", remark.before);
            let is_same =
                |known: &&mut Remark| known.before == before && known.text == remark.text && known.is_of_things == remark.is_of_things;
            match self.remarks.iter_mut().find(is_same) {
                Some(known) => known.count += remark.count + usize::from(!remark.is_of_things),
                None => self.remarks.push(Remark { before, ..remark }),
            }
        }
    }

    /// The remarks as messages, one line each.
    pub fn into_messages(self) -> Vec<String> {
        let message = |Remark { before, text, line, count, is_of_things }: Remark| match (line, count) {
            (_, count) if is_of_things => format!("{before}{count} {text}"),
            (0, _) => format!("{before}{text}"),
            (_, 0) => format!("{before}line {line}: {text}"),
            _ => format!("{before}line {line} and {count} more: {text}"),
        };
        self.remarks.into_iter().map(message).collect()
    }
}

/// Numbers for the names of fibers. If all names are whole numbers, these are taken; else the fibers are numbered 1, 2, ... in
/// the order in which they first appear.
pub fn number_fibers(names: &[&str]) -> Vec<u32> {
    let whole = |name: &&str| {
        let value = name.parse::<f64>().ok()?;
        (value >= 0.0 && value <= f64::from(u32::MAX) && value.fract() == 0.0).then_some(value as u32)
    };
    if let Some(numbers) = names.iter().map(whole).collect::<Option<Vec<u32>>>() {
        return numbers;
    }
    let mut known = std::collections::HashMap::new();
    let mut number_of = |name| {
        let next = known.len() as u32 + 1;
        *known.entry(name).or_insert(next)
    };
    names.iter().map(|name| number_of(*name)).collect()
}

/// How a real position becomes an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Integers {
    /// To the nearest integer, and halves up: floor(v + 0.5). That is the pixel in whose area the position lies.
    #[default]
    Round,
    /// Toward zero, as the original does. The result is half a pixel too small on average.
    Truncate,
}

impl Integers {
    /// The integer of `value`. NaN gives 0, values beyond 64 bit the nearest 64-bit integer.
    pub fn of(self, value: f64) -> i64 {
        match self {
            Integers::Round => (value + 0.5).floor() as i64,
            Integers::Truncate => value as i64,
        }
    }
}

impl Coordinates {
    /// The fibers, in the order of their first points. Each one is the indices of its points in the order of its path.
    ///
    /// Errors: a point belongs to no fiber.
    pub fn fibers(&self) -> Result<Vec<Vec<usize>>> {
        let mut place = std::collections::HashMap::new();
        let mut fibers: Vec<Vec<usize>> = Vec::new();
        for (i, point) in self.points.iter().enumerate() {
            let Some(group) = point.group else {
                bail!("point {}: it belongs to no fiber; expected points with a fiber number; choose a format for points", i + 1);
            };
            let fiber = *place.entry(group).or_insert_with(|| {
                fibers.push(Vec::new());
                fibers.len() - 1
            });
            fibers[fiber].push(i);
        }
        Ok(fibers)
    }

    /// The fibers with only those vertices that their shape needs: no vertex that is left out lies farther than `tolerance_px`
    /// (micrograph pixels) from the path. This is for formats that hold edges rather than points.
    ///
    /// Errors: a point belongs to no fiber.
    /// Source: Douglas and Peucker 1973, Cartographica 10(2).
    pub fn straightened(&self, tolerance_px: f64) -> Result<Coordinates> {
        let mut points = Vec::new();
        for fiber in self.fibers()? {
            let mut keep = vec![false; fiber.len()];
            let mut open = vec![(0, fiber.len() - 1)];
            (keep[0], keep[fiber.len() - 1]) = (true, true);
            while let Some((from, to)) = open.pop() {
                let [a, b] = [&self.points[fiber[from]], &self.points[fiber[to]]];
                let distance = |i: usize| distance_to_edge(&self.points[fiber[i]], a, b);
                let farthest = (from + 1..to).max_by(|&i, &j| distance(i).total_cmp(&distance(j)));
                if let Some(i) = farthest.filter(|&i| distance(i) > tolerance_px) {
                    keep[i] = true;
                    open.extend([(from, i), (i, to)]);
                }
            }
            points.extend(fiber.iter().zip(keep).filter(|(_, keep)| *keep).map(|(&i, _)| self.points[i]));
        }
        Ok(Coordinates { kind: self.kind, points })
    }

    /// The fibers without those parts that lie outside of a micrograph of these columns and rows. Edges end at its border, and
    /// a fiber that leaves the micrograph and comes back becomes two fibers.
    ///
    /// Errors: a point belongs to no fiber.
    /// Source: Liang and Barsky 1984, ACM Transactions on Graphics 3(1).
    pub fn clipped(&self, size: [Option<usize>; 2]) -> Result<Coordinates> {
        let mut points: Vec<Coordinate> = Vec::new();
        let mut next_group = self.points.iter().filter_map(|point| point.group).max().unwrap_or(0);
        for fiber in self.fibers()? {
            let mut group = self.points[fiber[0]].group;
            let mut last: Option<Coordinate> = None; // the end of the piece that is being kept
            let is_used = points.len();
            for edge in fiber.windows(2) {
                let [a, b] = [self.points[edge[0]], self.points[edge[1]]];
                let Some([from, to]) = part_inside([a.x, a.y], [b.x, b.y], size) else {
                    last = None;
                    continue;
                };
                let at = |along: f64, near: Coordinate| match along {
                    0.0 => a,
                    1.0 => b,
                    _ => Coordinate { x: a.x + along * (b.x - a.x), y: a.y + along * (b.y - a.y), ..near },
                };
                if from > 0.0 || last.is_none() {
                    if points.len() > is_used {
                        next_group += 1;
                        group = Some(next_group);
                    }
                    points.push(Coordinate { group, ..at(from, a) });
                }
                points.push(Coordinate { group, ..at(to, b) });
                last = (to == 1.0).then_some(b);
            }
        }
        Ok(Coordinates { kind: self.kind, points })
    }

    /// Removes fibers of a single point, which have no direction; returns how many there were.
    pub fn drop_lone_vertices(&mut self) -> usize {
        let mut count = std::collections::HashMap::new();
        for point in &self.points {
            if let Some(group) = point.group {
                *count.entry(group).or_insert(0usize) += 1;
            }
        }
        let before = self.points.len();
        self.points.retain(|point| point.group.is_none_or(|group| count.get(&group) != Some(&1)));
        before - self.points.len()
    }
}

/// The part of the edge from `a` to `b` that lies on a micrograph: where it begins and where it ends, as shares of the way.
/// None if the whole edge lies outside.
fn part_inside(a: [f64; 2], b: [f64; 2], size: [Option<usize>; 2]) -> Option<[f64; 2]> {
    let [mut from, mut to] = [0.0f64, 1.0f64];
    for axis in 0..2 {
        let way = b[axis] - a[axis];
        let borders = [Some((-0.5, 1.0)), size[axis].map(|extent| (extent as f64 - 0.5, -1.0))];
        for (border, inward) in borders.into_iter().flatten() {
            // How far inside of the border the edge begins, and how much farther it gets.
            let (inside, gain) = ((a[axis] - border) * inward, way * inward);
            if gain > 0.0 {
                from = from.max(-inside / gain);
            } else if gain < 0.0 {
                to = to.min(inside / -gain);
            } else if inside < 0.0 {
                return None;
            }
        }
    }
    (from < to).then_some([from, to])
}

fn distance_to_edge(point: &Coordinate, a: &Coordinate, b: &Coordinate) -> f64 {
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    let length_2 = dx * dx + dy * dy;
    let along = if length_2 > 0.0 { (((point.x - a.x) * dx + (point.y - a.y) * dy) / length_2).clamp(0.0, 1.0) } else { 0.0 };
    (point.x - a.x - along * dx).hypot(point.y - a.y - along * dy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_points_are_taken_once_with_their_best_score() {
        let point = |x: f64, score: f32| Coordinate { score: Some(score), ..Coordinate::at(x, 5.0) };
        let points = vec![point(1.0, 0.5), point(2.0, 0.5), point(1.0, 0.9), point(1.0, 0.7), point(-0.0, 0.1), point(0.0, 0.1)];
        let mut set = Set { coordinates: Coordinates { kind: Kind::Particle, points: points.clone() }, ..Set::default() };
        assert_eq!(set.drop_equal(), 3);
        assert_eq!(set.coordinates.points, [points[1], points[2], points[4]]);
        // Two fibers may meet in a point.
        let fiber = |group| Coordinate { group: Some(group), ..Coordinate::at(1.0, 1.0) };
        let points = vec![fiber(1), fiber(2), fiber(1)];
        let mut set = Set { coordinates: Coordinates { kind: Kind::Fiber, points }, ..Set::default() };
        assert_eq!((set.drop_equal(), set.coordinates.points.len()), (1, 2));
    }

    #[test]
    fn points_outside_go_and_fibers_end_at_the_border() {
        let points = [[-0.5, 0.0], [-0.6, 0.0], [9.5, 3.0], [9.6, 3.0], [4.0, 19.4], [4.0, 20.0]];
        let all: Vec<Coordinate> = points.iter().map(|[x, y]| Coordinate::at(*x, *y)).collect();
        let set = |kind, points: &[Coordinate]| Set { coordinates: Coordinates { kind, points: points.to_vec() }, ..Set::default() };
        let mut points = set(Kind::Particle, &all);
        assert_eq!(points.keep_inside([Some(10), Some(20)]).unwrap(), 3);
        assert_eq!(points.coordinates.points, [all[0], all[2], all[4]]);
        let mut unknown = set(Kind::Particle, &all);
        assert_eq!(unknown.keep_inside([None, None]).unwrap(), 1, "below zero is outside of every micrograph");
        // A fiber that leaves a micrograph of 10 x 20 on the right and comes back.
        let vertex = |x: f64, y: f64| Coordinate { group: Some(3), ..Coordinate::at(x, y) };
        let mut fiber = set(Kind::Fiber, &[vertex(5.5, 1.0), vertex(13.5, 5.0), vertex(13.5, 9.0), vertex(5.5, 13.0), vertex(5.5, 15.0)]);
        assert_eq!(fiber.keep_inside([Some(10), Some(20)]).unwrap(), 2);
        let kept: Vec<(f64, f64, u32)> = fiber.coordinates.points.iter().map(|p| (p.x, p.y, p.group.unwrap())).collect();
        assert_eq!(kept, [(5.5, 1.0, 3), (9.5, 3.0, 3), (9.5, 11.0, 4), (5.5, 13.0, 4), (5.5, 15.0, 4)]);
        let mut gone = set(Kind::Fiber, &[vertex(-5.0, 1.0), vertex(-9.0, 1.0)]);
        assert_eq!((gone.keep_inside([None, None]).unwrap(), gone.coordinates.points.len()), (2, 0));
    }

    #[test]
    fn points_of_several_slices_are_no_micrograph() {
        let point = |z: f64| Coordinate { z: Some(z), ..Coordinate::at(1.0, 2.0) };
        let set =
            Set { coordinates: Coordinates { kind: Kind::Particle, points: vec![point(3.0), point(5.0), point(9.0)] }, ..Set::default() };
        let chosen = |slices| -> Result<(usize, usize)> {
            let (mut set, mut warnings) = (set.clone(), Warnings::default());
            set.choose_slices(slices, &mut warnings)?;
            Ok((set.coordinates.points.len(), warnings.into_messages().len()))
        };
        let refused = chosen(Slices::One).unwrap_err().to_string();
        assert!(refused.contains("tomogram") && refused.contains("--z 3:9"), "{refused}");
        assert_eq!(chosen(Slices::All).unwrap(), (3, 1));
        assert_eq!(chosen(Slices::Range([4.0, 9.0])).unwrap(), (2, 2));
        assert_eq!(chosen(Slices::Range([5.0, 5.0])).unwrap(), (1, 1));
        let mut one = Set { coordinates: Coordinates { kind: Kind::Particle, points: vec![point(4.0); 2] }, ..Set::default() };
        one.choose_slices(Slices::One, &mut Warnings::default()).unwrap();
    }

    #[test]
    fn halves_round_up_on_both_sides_of_zero() {
        assert_eq!([0.5, -0.5, 2.49, -1.5].map(|v| Integers::Round.of(v)), [1, 0, 2, -1]);
        assert_eq!([0.9, -0.9, 2.49].map(|v| Integers::Truncate.of(v)), [0, 0, 2]);
        assert_eq!(Integers::Round.of(f64::NAN), 0);
    }

    #[test]
    fn interleaved_fibers_keep_their_order() {
        let point = |x: f64, group| Coordinate { group: Some(group), ..Coordinate::at(x, 0.0) };
        let mut all = Coordinates { kind: Kind::Fiber, points: vec![point(0.0, 7), point(1.0, 2), point(2.0, 7), point(3.0, 9)] };
        assert_eq!(all.fibers().unwrap(), [vec![0, 2], vec![1], vec![3]]);
        assert_eq!(all.drop_lone_vertices(), 2);
        assert_eq!(all.fibers().unwrap(), [vec![0, 1]]);
        all.points.push(Coordinate::at(0.0, 0.0));
        assert!(all.fibers().is_err());
    }

    #[test]
    fn a_straightened_fiber_keeps_its_ends_and_corners() {
        let point = |x: f64, y: f64| Coordinate { group: Some(1), ..Coordinate::at(x, y) };
        let points = vec![point(0.0, 0.0), point(10.0, 0.4), point(20.0, 0.0), point(20.0, 10.0), point(20.3, 20.0), point(20.0, 30.0)];
        let fiber = Coordinates { kind: Kind::Fiber, points: points.clone() };
        assert_eq!(fiber.straightened(0.5).unwrap().points, [points[0], points[2], points[5]]);
        assert_eq!(fiber.straightened(0.1).unwrap().points, points);
    }

    #[test]
    fn fiber_names_keep_their_numbers_if_they_are_numbers() {
        assert_eq!(number_fibers(&["3", "0.0", "3"]), [3, 0, 3]);
        assert_eq!(number_fibers(&["b", "1", "b", "-2"]), [1, 2, 1, 3]);
    }

    #[test]
    fn equal_remarks_are_counted() {
        let mut warnings = Warnings::default();
        warnings.note(3, "a");
        warnings.note(0, "whole");
        warnings.note(4, "a");
        warnings.count(2, "of the points");
        warnings.count(0, "of nothing");
        warnings.count(3, "of the points");
        let mut all = Warnings::default();
        all.append(warnings.clone(), "f: ");
        all.append(warnings.clone(), "f: ");
        assert_eq!(warnings.into_messages(), ["line 3 and 1 more: a", "whole", "5 of the points"]);
        assert_eq!(all.into_messages(), ["f: line 3 and 3 more: a", "f: whole", "f: 10 of the points"]);
    }
}
