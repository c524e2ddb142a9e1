//! cryoSPARC's `.cs`: one table, whose fields are called `SLOT/WHAT`. Only read.
//!
//! This file knows what the fields mean; [`table`] is a table in memory, [`numpy`] and [`stream`] are the two ways in which
//! it lies in a file. A job writes several such files, and particles may be shared out among two of them: the fields that
//! the job changed, and the passthrough file with those that it handed on.
//! Source: docs/formats.md, "cryoSPARC"; the two containers as Dataset.load and Dataset.save of cryosparc-tools 5.0 have them.

pub mod numpy; //  a numpy array of records, the default of Dataset.save
pub mod stream; // its compressed stream, CSDAT
pub mod table; //  fields, and their values by row

use super::coordinates::{Content, Coordinate, Coordinates, Kind, ListedMicrograph, Set, Shift, Warnings};
use super::fiber_order;
use super::pixel_size::Stated;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use table::{Column, Table};

/// Positions beyond this are no pixels of any micrograph, as in `text::pixels`.
const LARGEST_COORDINATE: f64 = 2_147_483_647.0;

/// True for bytes that begin as one of the two containers does.
pub fn is_cs(bytes: &[u8]) -> bool {
    bytes.starts_with(numpy::MAGIC) || bytes.starts_with(stream::MAGIC)
}

/// Reads particles with their places, or a list of micrographs (exposures).
///
/// Particles whose micrograph or whose micrograph's size is not stated are left out, and a warning counts them.
/// Errors: the bytes are no table of records; it has neither places of particles nor micrographs; a place is no number.
/// Source: docs/formats.md, "cryoSPARC".
pub fn read(bytes: &[u8], ignore_shifts: bool) -> Result<(Content, Warnings)> {
    let table = table_of(bytes)?;
    let mut warnings = Warnings::default();
    let has = |name: &str| table.has(name);
    if has_places(&table) {
        let sets = read_particles(&Joined { own: &table, rest: None }, ignore_shifts, &mut warnings)?;
        return Ok((Content::Coordinates(sets), warnings));
    }
    for blob in ["micrograph_blob", "micrograph_blob_non_dw"] {
        if let Some(paths) = table.column(&format!("{blob}/path"))? {
            let sizes = table.column(&format!("{blob}/psize_A"))?;
            return Ok((Content::Micrographs(read_exposures(&table, &paths, sizes.as_ref(), &mut warnings)?), warnings));
        }
    }
    if has("movie_blob/path") {
        bail!(
            "these are exposures with nothing but movies (movie_blob); expected micrographs; give the file of a job after motion correction"
        );
    }
    if is_of_particles(&table) {
        bail!(
            "these particles have no places (no field location/center_x_frac); expected places on micrographs; the file of the same job \
             with passthrough in its name has them"
        );
    }
    let found: Vec<&str> = table.names().take(5).collect();
    bail!(
        "neither places of particles (location/center_x_frac) nor micrographs (micrograph_blob/path) among its fields ({}); expected \
         particles or exposures; give another file of the job",
        found.join(", ")
    )
}

fn table_of(bytes: &[u8]) -> Result<Table<'_>> {
    if bytes.starts_with(stream::MAGIC) { stream::read(bytes) } else { numpy::read(bytes) }
}

fn has_places(table: &Table) -> bool {
    table.has("location/center_x_frac") && table.has("location/center_y_frac")
}

/// True for particles whose places are in another file of their job.
pub fn are_without_places(bytes: &[u8]) -> bool {
    is_cs(bytes) && table_of(bytes).is_ok_and(|table| is_of_particles(&table) && !has_places(&table))
}

fn is_of_particles(table: &Table) -> bool {
    ["blob/path", "alignments2D/shift", "alignments3D/shift"].into_iter().any(|name| table.has(name))
}

/// Reads particles whose places are in `rest`, the passthrough file of their job, where they have the same unique ids. `None`
/// if that file has not the places of all of them.
///
/// Errors: as [`read`].
pub fn read_with(bytes: &[u8], rest: &[u8], ignore_shifts: bool) -> Result<Option<(Content, Warnings)>> {
    let (own, rest) = (table_of(bytes)?, table_of(rest)?);
    let (Some(ids), Some(ids_of_rest)) = (own.column("uid")?, rest.column("uid")?) else { return Ok(None) };
    let by_id: HashMap<u64, usize> = (0..rest.rows()).filter_map(|row| Some((ids_of_rest.whole(row)?, row))).collect();
    let rows: Option<Vec<usize>> = (0..own.rows()).map(|row| by_id.get(&ids.whole(row)?).copied()).collect();
    let Some(rows) = rows.filter(|_| has_places(&rest)) else { return Ok(None) };
    let mut warnings = Warnings::default();
    let sets = read_particles(&Joined { own: &own, rest: Some((&rest, &rows)) }, ignore_shifts, &mut warnings)?;
    Ok(Some((Content::Coordinates(sets), warnings)))
}

/// The fields of particles: those of their own file, and the others from the passthrough file of the job.
struct Joined<'a> {
    own: &'a Table<'a>,
    /// The other table, and its row for each row.
    rest: Option<(&'a Table<'a>, &'a [usize])>,
}

impl<'a> Joined<'a> {
    fn rows(&self) -> usize {
        self.own.rows()
    }

    fn column(&self, name: &str) -> Result<Option<Values<'a>>> {
        if let Some(column) = self.own.column(name)? {
            return Ok(Some(Values { column, rows: None }));
        }
        let Some((rest, rows)) = self.rest else { return Ok(None) };
        Ok(rest.column(name)?.map(|column| Values { column, rows: Some(rows) }))
    }
}

/// The values of a field by the rows of [`Joined`].
struct Values<'a> {
    column: Column<'a>,
    rows: Option<&'a [usize]>,
}

impl Values<'_> {
    fn row(&self, row: usize) -> usize {
        self.rows.map_or(row, |rows| rows[row])
    }

    fn number(&self, row: usize, i: usize) -> Option<f64> {
        self.column.number(self.row(row), i)
    }

    fn whole(&self, row: usize) -> Option<u64> {
        self.column.whole(self.row(row))
    }

    fn positive(&self, row: usize) -> Option<f64> {
        positive(&self.column, self.row(row))
    }
}

/// The micrographs of exposures. An exposure without a path is left out.
fn read_exposures(table: &Table, paths: &Column, sizes: Option<&Column>, warnings: &mut Warnings) -> Result<Vec<ListedMicrograph>> {
    let mut micrographs = Vec::new();
    let mut nameless = 0;
    for row in 0..table.rows() {
        let path = path_of(paths, row)?;
        if path.is_empty() {
            nameless += 1;
            continue;
        }
        micrographs.push(ListedMicrograph { path, pixel_size: Stated::micrograph(sizes.and_then(|sizes| positive(sizes, row))) });
    }
    warnings.count(nameless, "of the exposures have no micrograph and are left out");
    Ok(micrographs)
}

/// A path as cryoSPARC writes it, relative to the project. A `>` in front says that it is relative.
fn path_of(paths: &Column, row: usize) -> Result<String> {
    let path = paths.text(row)?;
    Ok(path.strip_prefix('>').unwrap_or(&path).to_owned())
}

fn positive(column: &Column, row: usize) -> Option<f64> {
    column.number(row, 0).filter(|value| *value > 0.0 && value.is_finite())
}

/// The particles of one micrograph while they are gathered.
struct Gathered {
    set: Set,
    /// Numbers of the fibers by their unique ids.
    fibers: HashMap<u64, u32>,
    tracks: Vec<Option<f64>>,
}

fn read_particles(table: &Joined, ignore_shifts: bool, warnings: &mut Warnings) -> Result<Vec<Set>> {
    let needed = |name: &str| {
        table.column(name)?.with_context(|| {
            format!("no field {name} beside location/center_x_frac; expected all of location/...; give another file of the job")
        })
    };
    let [x, y] = [needed("location/center_x_frac")?, needed("location/center_y_frac")?];
    let [paths, shapes] = [needed("location/micrograph_path")?, needed("location/micrograph_shape")?];
    ensure!(
        shapes.column.width() == 2,
        "location/micrograph_shape has {} values in a row; expected 2, rows and columns",
        shapes.column.width()
    );
    let score = table.column("pick_stats/ncc_score")?;
    let micrograph_size = table.column("location/micrograph_psize_A")?;
    let particle_size = table.column("blob/psize_A")?;
    let shifts = if ignore_shifts { None } else { Shifts::of(table)? };
    let fibers = table.column("filament/filament_uid")?.filter(|ids| (0..table.rows()).any(|row| ids.whole(row).unwrap_or(0) > 0));
    let track = table.column("filament/position_A")?;
    let kind = if fibers.is_some() { Kind::Fiber } else { Kind::Particle };

    let mut gathered: Vec<Gathered> = Vec::new();
    let mut places: HashMap<&[u8], Option<usize>> = HashMap::new();
    let (mut nameless, mut sizeless) = (0, 0);
    for row in 0..table.rows() {
        let key = paths.column.raw(paths.row(row));
        let place = match places.get(key) {
            Some(place) => *place,
            None => {
                let path = path_of(&paths.column, paths.row(row))?;
                let place = (!path.is_empty()).then(|| {
                    let coordinates = Coordinates { kind, points: Vec::new() };
                    let set = Set { micrograph: Some(path), coordinates, ..Set::default() };
                    gathered.push(Gathered { set, fibers: HashMap::new(), tracks: Vec::new() });
                    gathered.len() - 1
                });
                places.insert(key, place);
                place
            }
        };
        let Some(place) = place else {
            nameless += 1;
            continue;
        };
        let one = &mut gathered[place];
        let [rows, columns] = [0, 1].map(|i| shapes.number(row, i).filter(|size| *size > 0.0));
        let (Some(rows), Some(columns)) = (rows, columns) else {
            sizeless += 1;
            continue;
        };
        let pixels = |column: &Values, size: f64, what: &str| {
            let share = column.number(row, 0).unwrap_or(f64::NAN);
            let pixels = share * size;
            ensure!(pixels.abs() <= LARGEST_COORDINATE, "row {}: {what} is {share}; expected a share of the micrograph", row + 1);
            Ok(pixels)
        };
        let mut point = Coordinate::at(pixels(&x, columns, "location/center_x_frac")?, pixels(&y, rows, "location/center_y_frac")?);
        point.score = score.as_ref().and_then(|score| score.number(row, 0)).filter(|score| score.is_finite()).map(|score| score as f32);
        if let Some(ids) = &fibers {
            let next = one.fibers.len() as u32 + 1;
            point.group = Some(*one.fibers.entry(ids.whole(row).unwrap_or(0)).or_insert(next));
            one.tracks.push(track.as_ref().and_then(|track| track.number(row, 0)).filter(|track| track.is_finite()));
        }
        let of_particle = particle_size.as_ref().and_then(|sizes| sizes.positive(row));
        if let Some(shifts) = &shifts {
            one.set.shifts.push(shifts.read(row, of_particle)?);
        }
        let stated = Stated {
            micrograph: micrograph_size.as_ref().and_then(|sizes| sizes.positive(row)),
            other: of_particle.map(|size| (size, "blob/psize_A")),
        };
        one.set.pixel_size = one.set.pixel_size.or(stated);
        one.set.coordinates.points.push(point);
    }
    warnings.count(nameless, "of the particles name no micrograph and are left out");
    warnings.count(sizeless, "of the particles do not state the size of their micrograph (location/micrograph_shape) and are left out");
    ensure!(
        nameless + sizeless < table.rows() || table.rows() == 0,
        "none of the {} particles states its micrograph and the micrograph's size, as after an import of a stack without its exposures; \
         expected location/micrograph_path and location/micrograph_shape; give the file of a job before the import",
        table.rows()
    );
    gathered.retain(|one| !one.set.coordinates.points.is_empty());
    let mut sets: Vec<Set> = gathered.into_iter().map(|one| in_order(one, kind, warnings)).collect();
    if sets.is_empty() {
        sets.push(Set::default());
    }
    Ok(sets)
}

/// The set with the points of each fiber in the order of its path.
fn in_order(gathered: Gathered, kind: Kind, warnings: &mut Warnings) -> Set {
    let Gathered { mut set, tracks, .. } = gathered;
    if kind == Kind::Fiber {
        let order = fiber_order::of_fibers(&set.coordinates.points, &tracks, warnings);
        set.coordinates.points = order.iter().map(|&i| set.coordinates.points[i]).collect();
        if !set.shifts.is_empty() {
            set.shifts = order.iter().map(|&i| set.shifts[i]).collect();
        }
    }
    set
}

/// The refined shifts of particles: those of the 3-D refinement if there was one, else those of the 2-D classification.
struct Shifts<'a> {
    shift: Values<'a>,
    /// Size of the pixels in which the shift is stated.
    size: Option<Values<'a>>,
    name: &'static str,
}

impl<'a> Shifts<'a> {
    fn of(table: &Joined<'a>) -> Result<Option<Shifts<'a>>> {
        for (name, size) in [("alignments3D/shift", "alignments3D/psize_A"), ("alignments2D/shift", "alignments2D/psize_A")] {
            if let Some(shift) = table.column(name)?.filter(|shift| shift.column.width() == 2) {
                return Ok(Some(Shifts { shift, size: table.column(size)?, name }));
            }
        }
        Ok(None)
    }

    fn read(&self, row: usize, particle: Option<f64>) -> Result<Shift> {
        let shift = [0, 1].map(|i| self.shift.number(row, i).unwrap_or(f64::NAN));
        ensure!(
            shift.iter().all(|value| value.abs() <= LARGEST_COORDINATE),
            "row {}: {} is {shift:?}; expected pixels of the particle's image",
            row + 1,
            self.name
        );
        let size = self.size.as_ref().and_then(|sizes| sizes.positive(row)).or(particle);
        Ok(match size {
            Some(size) => Shift::Angstrom(shift.map(|pixels| pixels * size)),
            None => Shift::ParticlePixels(shift),
        })
    }
}
