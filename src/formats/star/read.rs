//! What the tables of a STAR file mean: coordinates, lists of micrographs, lists of coordinate files.

use super::{Block, Table};
use crate::formats::coordinates::{
    Content, Coordinate, Coordinates, Kind, ListedMicrograph, ListedPair, Set, Size, Warnings, number_fibers,
};
use crate::formats::text;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;

/// How [`read`] reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// Leaves refined shifts (`rlnOriginXAngst`) out of account.
    pub ignore_shifts: bool,
    /// Pixel size of the micrographs, angstrom per pixel; overrides what the file says.
    pub pixel_size_angstrom: Option<f64>,
    /// Rows are pairs, start and end of a straight piece of a fiber. Nothing in such a file says so.
    pub start_end: bool,
}

/// Reads STAR text of any role: coordinates of one or many micrographs, or a list.
///
/// Errors: the text is no STAR file, or it holds neither coordinates nor a list; a value is not a number.
/// Source: docs/formats.md, "STAR".
pub fn read(text: &str, options: &ReadOptions) -> Result<(Content, Warnings)> {
    let mut warnings = Warnings::default();
    let blocks = super::parse(text, &mut warnings)?;
    ensure!(!blocks.is_empty(), "line 1: no data_ block; expected STAR text; correct the file or name its format");
    let optics = Optics::of(&blocks, options)?;
    if let Some(table) = coordinate_table(&blocks) {
        let sets = read_coordinates(table, &optics, options, &mut warnings)?;
        return Ok((Content::Coordinates(sets), warnings));
    }
    let tables = || blocks.iter().flat_map(|block| block.tables.iter().map(move |table| (block.name, table)));
    if let Some((_, table)) = tables().find(|(_, table)| table.column("rlnMicrographCoordinates").is_some()) {
        let [name, file] = ["rlnMicrographName", "rlnMicrographCoordinates"].map(|label| table.column(label));
        let name = name.context("a table with rlnMicrographCoordinates has no rlnMicrographName; expected both; correct the file")?;
        let pair = |row: &[&str]| ListedPair { micrograph: row[name].to_owned(), coordinates: row[file.unwrap_or(name)].to_owned() };
        return Ok((Content::Pairs(table.rows().map(|(_, row)| pair(row)).collect()), warnings));
    }
    let listed = |(block, table): &(&str, &Table)| *block != "optics" && table.column("rlnMicrographName").is_some();
    if let Some((_, table)) = tables().find(|entry| entry.0 == "micrographs" && listed(entry)).or_else(|| tables().find(listed)) {
        let name = table.column("rlnMicrographName").unwrap_or_default();
        let sizes = PixelSizes::of(table, &optics);
        let micrographs = table
            .rows()
            .map(|(line, row)| Ok(ListedMicrograph { path: row[name].to_owned(), pixel_size_angstrom: sizes.micrograph(row, line)? }))
            .collect::<Result<_>>()?;
        return Ok((Content::Micrographs(micrographs), warnings));
    }
    if tables().any(|(_, table)| table.column("rlnMicrographMovieName").is_some()) {
        bail!("this STAR file lists movies; expected micrographs or coordinates; give the micrographs made of them");
    }
    let found: Vec<String> = blocks.iter().map(|block| format!("data_{}", text::excerpt(block.name))).take(5).collect();
    bail!(
        "no rlnCoordinateX and rlnCoordinateY in its blocks ({}); expected coordinates or a list of micrographs; give another file",
        found.join(", ")
    )
}

/// The table with coordinates: of `particles`, else of the unnamed block, else of `images`, else the first.
fn coordinate_table<'b, 'a>(blocks: &'b [Block<'a>]) -> Option<&'b Table<'a>> {
    let rank = |name: &str| ["particles", "", "images"].iter().position(|known| name == *known).unwrap_or(3);
    blocks
        .iter()
        .flat_map(|block| block.tables.iter().map(move |table| (rank(block.name), table)))
        .filter(|(_, table)| table.column("rlnCoordinateX").is_some() && table.column("rlnCoordinateY").is_some())
        .min_by_key(|(rank, _)| *rank) // the first of equals
        .map(|(_, table)| table)
}

/// Pixel sizes by optics group.
struct Optics<'a> {
    stated: Option<f64>,
    groups: HashMap<&'a str, f64>,
}

impl<'a> Optics<'a> {
    fn of(blocks: &[Block<'a>], options: &ReadOptions) -> Result<Self> {
        let mut groups = HashMap::new();
        for block in blocks.iter().filter(|block| block.name == "optics") {
            for table in &block.tables {
                let sizes = ["rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnImagePixelSize"];
                let Some(group) = table.column("rlnOpticsGroup") else { continue };
                let Some(size) = sizes.iter().find_map(|label| table.column(label)) else { continue };
                for (line, row) in table.rows() {
                    if text::is_absent(row[size]) {
                        continue;
                    }
                    let value = text::number(row[size], line, "the pixel size")?;
                    ensure!(value > 0.0, "line {line}: the pixel size is {value}; expected more than 0; correct it or give --angpix");
                    groups.insert(row[group], value);
                }
            }
        }
        Ok(Optics { stated: options.pixel_size_angstrom, groups })
    }
}

/// Where a table says something about pixel sizes; found once, asked for every row.
struct PixelSizes<'o, 'a> {
    optics: &'o Optics<'a>,
    group: Option<usize>,
    own: Option<usize>,
    detector: Option<(usize, usize)>,
}

impl<'o, 'a> PixelSizes<'o, 'a> {
    fn of(table: &Table, optics: &'o Optics<'a>) -> Self {
        PixelSizes {
            optics,
            group: table.column("rlnOpticsGroup"),
            own: table.column("rlnMicrographPixelSize").or_else(|| table.column("rlnMicrographOriginalPixelSize")),
            detector: table.column("rlnDetectorPixelSize").zip(table.column("rlnMagnification")),
        }
    }

    /// Pixel size of the micrograph of a row: as given, from the optics table, or by RELION 3.0's two columns.
    fn micrograph(&self, row: &[&str], line: usize) -> Result<Option<f64>> {
        if self.optics.stated.is_some() {
            return Ok(self.optics.stated);
        }
        if let Some(size) = self.group.and_then(|column| self.optics.groups.get(row[column])) {
            return Ok(Some(*size));
        }
        let size = match self.own {
            Some(column) if text::is_absent(row[column]) => None,
            Some(column) => Some(text::number(row[column], line, "the pixel size")?),
            None => self.particle(row, line)?,
        };
        Ok(size.filter(|size| *size > 0.0 && size.is_finite()))
    }

    /// RELION 3.0: pixel size of the particles, angstrom, from detector and magnification.
    fn particle(&self, row: &[&str], line: usize) -> Result<Option<f64>> {
        let Some((detector, magnification)) = self.detector else { return Ok(None) };
        if text::is_absent(row[detector]) || text::is_absent(row[magnification]) {
            return Ok(None);
        }
        let detector_um = text::number(row[detector], line, "rlnDetectorPixelSize")?;
        let magnification = text::number(row[magnification], line, "rlnMagnification")?;
        Ok((magnification > 0.0).then(|| detector_um * 1e4 / magnification))
    }
}

/// One micrograph's rows while they are gathered.
#[derive(Default)]
struct Gathered<'a> {
    name: Option<&'a str>,
    points: Vec<Coordinate>,
    tubes: Vec<&'a str>,
    lines: Vec<usize>,
    pixel_size_angstrom: Option<f64>,
}

fn read_coordinates(table: &Table, optics: &Optics, options: &ReadOptions, warnings: &mut Warnings) -> Result<Vec<Set>> {
    let column = |label| table.column(label);
    let (x, y) = (column("rlnCoordinateX").unwrap_or_default(), column("rlnCoordinateY").unwrap_or_default());
    let names = MicrographNames::of(table, warnings);
    let score = column("rlnAutopickFigureOfMerit");
    let tube = column("rlnHelicalTubeID");
    let size = column("epkWidth").zip(column("epkHeight"));
    let has_priors = column("rlnAnglePsiPrior").is_some() || column("rlnHelicalTrackLengthAngst").is_some();
    let shifts = Shifts::of(table, options);
    let pixel_sizes = PixelSizes::of(table, optics);

    let mut gathered: Vec<Gathered> = Vec::new();
    let mut places = HashMap::new();
    let mut nameless = 0;
    for (line, row) in table.rows() {
        let micrograph = match names.of_row(row) {
            Some(micrograph) => micrograph,
            None => {
                nameless += 1;
                continue;
            }
        };
        let place = *places.entry(micrograph).or_insert_with(|| {
            gathered.push(Gathered { name: micrograph, ..Gathered::default() });
            gathered.len() - 1
        });
        let mut point = Coordinate::at(text::pixels(row[x], line, "x")?, text::pixels(row[y], line, "y")?);
        let pixel_size = pixel_sizes.micrograph(row, line)?;
        if let Some(shifts) = &shifts {
            shifts.apply(&mut point, row, line, [pixel_size, pixel_sizes.particle(row, line)?], warnings)?;
        }
        if let Some(column) = score {
            point.score = text::score(row[column], line)?;
        }
        if let Some((width, height)) = size {
            let side = |column: usize, what| text::pixels(row[column], line, what);
            point.size = Some(Size { width: side(width, "the width")?, height: side(height, "the height")? });
        }
        let set = &mut gathered[place];
        set.points.push(point);
        set.tubes.extend(tube.map(|column| row[column]));
        set.lines.push(line);
        set.pixel_size_angstrom = set.pixel_size_angstrom.or(pixel_size);
    }
    if nameless > 0 {
        ensure!(
            !gathered.is_empty(),
            "none of the {nameless} particles names its micrograph, as after an import of a stack, so nobody can say where they were; \
             expected rlnMicrographName; give the table from before the import"
        );
        warnings.note(0, &format!("{nameless} particles name no micrograph and are left out"));
    }
    if gathered.is_empty() {
        gathered.push(Gathered::default());
    }
    let kind = match (options.start_end || tube.is_some(), size) {
        (true, _) => Kind::Fiber,
        (false, Some(_)) => Kind::Vesicle,
        (false, None) => Kind::Particle,
    };
    let into_set = |mut set: Gathered| {
        if options.start_end {
            group_pairs(&mut set)?;
        } else {
            for (point, tube) in set.points.iter_mut().zip(number_fibers(&set.tubes)) {
                point.group = Some(tube);
            }
        }
        if kind == Kind::Fiber && !has_priors {
            // The end of one pair is the start of the next of the same tube.
            set.points.dedup_by(|next, last| next.group == last.group && next.x == last.x && next.y == last.y);
        }
        Ok(Set {
            micrograph: set.name.map(str::to_owned),
            coordinates: Coordinates { kind, points: set.points },
            pixel_size_angstrom: set.pixel_size_angstrom.or(optics.stated),
        })
    };
    gathered.into_iter().map(into_set).collect()
}

/// Where a table says to which micrograph a row belongs.
struct MicrographNames {
    column: Option<usize>,
    /// The name is that of the stack of particles, behind `000001@`.
    is_stack: bool,
}

impl MicrographNames {
    /// By `rlnMicrographName`. Without it the stacks tell particles of several micrographs apart, because RELION and
    /// cryoSPARC name a stack after its micrograph; one stack may hold particles of any number of them.
    fn of(table: &Table, warnings: &mut Warnings) -> Self {
        let column = table.column("rlnMicrographName");
        let stack = table.column("rlnImageName").filter(|_| column.is_none());
        let Some(stack) = stack else { return MicrographNames { column, is_stack: false } };
        let mut stacks = table.rows().map(|(_, row)| stack_of(row[stack]));
        let first = stacks.next();
        if stacks.any(|stack| Some(stack) != first) {
            warnings.note(0, "no micrograph is named; particles are told apart by the stacks of rlnImageName, and named after them");
            return MicrographNames { column: Some(stack), is_stack: true };
        }
        if first.is_some() {
            warnings.note(0, "no micrograph is named; all particles are taken as those of the one micrograph that the file is named after");
        }
        MicrographNames { column: None, is_stack: false }
    }

    /// The micrograph of a row: `None` where the row should name one and does not, `Some(None)` where no row does.
    fn of_row<'a>(&self, row: &[&'a str]) -> Option<Option<&'a str>> {
        let Some(column) = self.column else { return Some(None) };
        let name = if self.is_stack { stack_of(row[column]) } else { row[column] };
        (!text::is_absent(name) && !name.is_empty()).then_some(Some(name))
    }
}

/// `Extract/job018/micA.mrcs` of `000001@Extract/job018/micA.mrcs`.
fn stack_of(image: &str) -> &str {
    image.split_once('@').map_or(image, |(_, stack)| stack)
}

/// Rows 1 and 2 are the first fiber, 3 and 4 the second; tube ids (of the first row of a pair) join pairs.
fn group_pairs(set: &mut Gathered) -> Result<()> {
    if set.points.len() % 2 == 1 {
        let line = set.lines.last().copied().unwrap_or_default();
        bail!("line {line}: an odd number of rows; expected pairs of start and end; complete the last pair or read the file as points");
    }
    let tubes = number_fibers(&set.tubes);
    for (i, pair) in set.points.chunks_exact_mut(2).enumerate() {
        let group = tubes.get(2 * i).copied().unwrap_or(i as u32 + 1);
        pair.iter_mut().for_each(|point| point.group = Some(group));
    }
    Ok(())
}

/// Refined shifts: the particle lies at coordinate minus shift.
struct Shifts {
    columns: [usize; 2],
    angstrom: bool,
}

impl Shifts {
    fn of(table: &Table, options: &ReadOptions) -> Option<Shifts> {
        if options.ignore_shifts {
            return None;
        }
        let pair = |x, y| Some([table.column(x)?, table.column(y)?]);
        let angstrom = pair("rlnOriginXAngst", "rlnOriginYAngst").map(|columns| Shifts { columns, angstrom: true });
        angstrom.or_else(|| pair("rlnOriginX", "rlnOriginY").map(|columns| Shifts { columns, angstrom: false }))
    }

    /// Moves the point; the pixel sizes are those of the micrograph and of the particle, angstrom.
    fn apply(
        &self,
        point: &mut Coordinate,
        row: &[&str],
        line: usize,
        [micrograph, particle]: [Option<f64>; 2],
        warnings: &mut Warnings,
    ) -> Result<()> {
        let [x, y] = self.columns;
        if text::is_absent(row[x]) || text::is_absent(row[y]) {
            return Ok(());
        }
        let [x, y] = [text::pixels(row[x], line, "the shift in x")?, text::pixels(row[y], line, "the shift in y")?];
        if x == 0.0 && y == 0.0 {
            return Ok(());
        }
        let unit = if self.angstrom {
            let Some(pixel_size) = micrograph else {
                warnings.note(line, "the refined shift is left out, because the pixel size is unknown; give it with --angpix");
                return Ok(());
            };
            1.0 / pixel_size
        } else {
            // Shifts of RELION 3.0 are in particle pixels, which differ from the micrograph's after rescaling.
            match (particle, micrograph) {
                (Some(particle), Some(micrograph)) => particle / micrograph,
                _ => 1.0,
            }
        };
        let (x, y) = (point.x - x * unit, point.y - y * unit);
        ensure!(
            x.abs() < f64::from(i32::MAX) && y.abs() < f64::from(i32::MAX),
            "line {line}: the refined shift leads off every micrograph; expected a sensible pixel size; give it with --angpix"
        );
        (point.x, point.y) = (x, y);
        warnings.note(0, "refined shifts are applied to the coordinates; --no-shifts leaves them out");
        Ok(())
    }
}
