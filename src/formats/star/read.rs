//! What the tables of a STAR file mean: coordinates, lists of micrographs, lists of coordinate files.

use super::{Block, Table};
use crate::formats::coordinates::{
    Content, Coordinate, Coordinates, Kind, ListedMicrograph, ListedPair, Set, Shift, Size, Warnings, number_fibers,
};
use crate::formats::fiber_order;
use crate::formats::pixel_size::Stated;
use crate::formats::text;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;

/// How [`read`] reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// Ignores refined shifts (`rlnOriginXAngst`).
    pub ignore_shifts: bool,
    /// Rows are pairs: the start and the end of a straight piece of a fiber. Nothing in such a file says so, so the user has
    /// to.
    pub start_end: bool,
    /// The user works on fibers. The rows of a table without tube ids and priors are then pairs, because RELION knows no other
    /// fibers of that kind.
    pub fibers: bool,
}

/// Reads STAR text of any role: coordinates of one or many micrographs, or a list.
///
/// Errors: the text is no STAR file, or it holds neither coordinates nor a list; a value is not a number.
/// Source: docs/formats.md, "STAR".
pub fn read(text: &str, options: &ReadOptions) -> Result<(Content, Warnings)> {
    let mut warnings = Warnings::default();
    let blocks = super::parse(text, &mut warnings)?;
    ensure!(!blocks.is_empty(), "line 1: no data_ block; expected STAR text; correct the file or name its format");
    let optics = Optics::of(&blocks)?;
    if let Some(table) = coordinate_table(&blocks, &mut warnings) {
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
        let sizes = RowSizes::of(table, &optics);
        let mut micrographs = Vec::with_capacity(table.len());
        for (line, row) in table.rows() {
            let pixel_size = sizes.of_row(row, line, &mut warnings)?.in_list_of_micrographs();
            micrographs.push(ListedMicrograph { path: row[name].to_owned(), pixel_size });
        }
        return Ok((Content::Micrographs(micrographs), warnings));
    }
    if tables().any(|(_, table)| table.column("rlnMicrographMovieName").is_some()) {
        bail!("this STAR file lists movies; expected micrographs or coordinates; give the micrographs made of them");
    }
    if tables().any(|(_, table)| table.column("rlnCenteredCoordinateXAngst").is_some()) {
        bail!(
            "this STAR file holds particles of tomograms (rlnCenteredCoordinateXAngst); expected coordinates of micrographs; give another file"
        );
    }
    let found: Vec<String> = blocks.iter().map(|block| format!("data_{}", text::excerpt(block.name))).take(5).collect();
    bail!(
        "no rlnCoordinateX and rlnCoordinateY in its blocks ({}); expected coordinates or a list of micrographs; give another file",
        found.join(", ")
    )
}

/// The table with coordinates: that of the block `particles`, else of the unnamed block, else of `images`, else the first one.
/// Other tables are not read, and a warning says so.
fn coordinate_table<'b, 'a>(blocks: &'b [Block<'a>], warnings: &mut Warnings) -> Option<&'b Table<'a>> {
    let rank = |name: &str| ["particles", "", "images"].iter().position(|known| name == *known).unwrap_or(3);
    let all: Vec<(&str, &Table)> = blocks
        .iter()
        .flat_map(|block| block.tables.iter().map(move |table| (block.name, table)))
        .filter(|(_, table)| table.column("rlnCoordinateX").is_some() && table.column("rlnCoordinateY").is_some())
        .collect();
    let chosen = all.iter().enumerate().min_by_key(|(_, (name, _))| rank(name)).map(|(i, _)| i)?; // the first of equals
    let (name, table) = all[chosen];
    let unread: usize = all.iter().enumerate().filter(|(i, _)| *i != chosen).map(|(_, (_, table))| table.len()).sum();
    if unread > 0 {
        warnings.note(
            0,
            &format!(
                "{} tables hold coordinates; only that of data_{name} is read, and {unread} rows of the others are not; put them into \
                 files of their own",
                all.len()
            ),
        );
    }
    Some(table)
}

/// The pixel sizes that a row states, angstrom per pixel. Each field says what has pixels of that size.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    /// `rlnMicrographPixelSize`.
    micrograph: Option<f64>,
    /// `rlnMicrographOriginalPixelSize`: the movie, before it was binned.
    movie: Option<f64>,
    /// `rlnImagePixelSize`: the particle's image.
    image: Option<f64>,
    /// RELION 3.0's `rlnDetectorPixelSize` and `rlnMagnification`: the images that the table lists.
    detector: Option<f64>,
    /// `rlnPixelSize`: references, and the particles that were compared with them.
    model: Option<f64>,
}

impl Sizes {
    fn or(self, more: Sizes) -> Sizes {
        Sizes {
            micrograph: self.micrograph.or(more.micrograph),
            movie: self.movie.or(more.movie),
            image: self.image.or(more.image),
            detector: self.detector.or(more.detector),
            model: self.model.or(more.model),
        }
    }

    /// The size of the pixels of a particle's image.
    fn particle(self) -> Option<f64> {
        self.image.or(self.detector).or(self.model)
    }

    /// What a table of particles says of the micrographs' pixel size. Only one label speaks of micrographs.
    fn in_table_of_particles(self) -> Stated {
        let others = [
            (self.movie, "rlnMicrographOriginalPixelSize"),
            (self.image, "rlnImagePixelSize"),
            (self.detector, "rlnDetectorPixelSize and rlnMagnification"),
            (self.model, "rlnPixelSize"),
        ];
        let other = others.into_iter().find_map(|(size, label)| Some((size?, label)));
        Stated { micrograph: self.micrograph, other }
    }

    /// What a list of micrographs says of their pixel size. In such a list RELION also takes the size of images, and the size
    /// as RELION 3.0 wrote it, for that of the micrographs.
    /// Source: RELION's star_converter.cpp, `unifyPixelSize`, and obs_model.cpp, `loadSafely`.
    fn in_list_of_micrographs(self) -> Stated {
        let other = self.movie.map(|size| (size, "rlnMicrographOriginalPixelSize"));
        Stated { micrograph: self.micrograph.or(self.detector).or(self.image), other }
    }
}

/// The columns of a table that state pixel sizes.
struct SizeColumns {
    sizes: [Option<usize>; 4],
    detector: Option<[usize; 2]>,
}

impl SizeColumns {
    fn of(table: &Table) -> Self {
        let labels = ["rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnImagePixelSize", "rlnPixelSize"];
        let [detector, magnification] = ["rlnDetectorPixelSize", "rlnMagnification"].map(|label| table.column(label));
        SizeColumns { sizes: labels.map(|label| table.column(label)), detector: detector.zip(magnification).map(<[usize; 2]>::from) }
    }

    fn read(&self, row: &[&str], line: usize) -> Result<Sizes> {
        let number = |column: usize, what| -> Result<Option<f64>> {
            if text::is_absent(row[column]) || row[column].is_empty() { Ok(None) } else { text::number(row[column], line, what).map(Some) }
        };
        let size = |i: usize| -> Result<Option<f64>> {
            let Some(column) = self.sizes[i] else { return Ok(None) };
            let size = number(column, "the pixel size")?;
            ensure!(
                size.is_none_or(|size| size > 0.0),
                "line {line}: the pixel size is {}; expected more than 0; correct it or give --angpix",
                row[column]
            );
            Ok(size)
        };
        let detector = match self.detector {
            // The pixel of the camera in micrometers, divided by the magnification.
            Some([detector, magnification]) => {
                let sizes = number(detector, "rlnDetectorPixelSize")?.zip(number(magnification, "rlnMagnification")?);
                sizes.map(|(detector_um, magnification)| detector_um * 1e4 / magnification).filter(|size| *size > 0.0 && size.is_finite())
            }
            None => None,
        };
        Ok(Sizes { micrograph: size(0)?, movie: size(1)?, image: size(2)?, model: size(3)?, detector })
    }
}

/// The name of an optics group. RELION reads it as a whole number, so `1` and `1.0`, as pandas writes it, are the same group.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Group<'a> {
    Number(i64),
    Name(&'a str),
}

impl<'a> Group<'a> {
    fn of(token: &'a str) -> Self {
        let number = token.parse::<f64>().ok().filter(|number| number.abs() < 1e15 && number.fract() == 0.0);
        number.map_or(Group::Name(token), |number| Group::Number(number as i64))
    }
}

/// Pixel sizes by optics group.
struct Optics<'a> {
    groups: HashMap<Group<'a>, Sizes>,
}

impl<'a> Optics<'a> {
    fn of(blocks: &[Block<'a>]) -> Result<Self> {
        let mut groups = HashMap::new();
        for table in blocks.iter().filter(|block| block.name == "optics").flat_map(|block| &block.tables) {
            let Some(group) = table.column("rlnOpticsGroup") else { continue };
            let columns = SizeColumns::of(table);
            for (line, row) in table.rows() {
                groups.insert(Group::of(row[group]), columns.read(row, line)?);
            }
        }
        Ok(Optics { groups })
    }
}

/// The columns and groups that say something about the pixel sizes of a table. They are looked up once, and read for every row.
struct RowSizes<'o, 'a> {
    optics: &'o Optics<'a>,
    group: Option<usize>,
    own: SizeColumns,
}

impl<'o, 'a> RowSizes<'o, 'a> {
    fn of(table: &Table, optics: &'o Optics<'a>) -> Self {
        RowSizes { optics, group: table.column("rlnOpticsGroup"), own: SizeColumns::of(table) }
    }

    /// The sizes that the row's optics group states, and those that only the row itself states. The group comes first, because
    /// RELION reads nothing but the groups.
    fn of_row(&self, row: &[&str], line: usize, warnings: &mut Warnings) -> Result<Sizes> {
        let own = self.own.read(row, line)?;
        let groups = &self.optics.groups;
        let group = match self.group {
            Some(column) => groups.get(&Group::of(row[column])),
            None => groups.values().next().filter(|_| groups.len() == 1), // the row can belong to no other
        };
        let Some(group) = group else {
            if self.group.is_some() && !groups.is_empty() {
                warnings.note(line, "this optics group is not in data_optics, so nothing that is said there is known of the row");
            }
            return Ok(own);
        };
        if let (Some(group), Some(own)) = (group.micrograph, own.micrograph)
            && group != own
        {
            warnings.note(line, "rlnMicrographPixelSize of the row is not that of its optics group; the group's is taken, as RELION does");
        }
        Ok(group.or(own))
    }
}

/// One row of a table of coordinates.
struct Row<'a> {
    line: usize,
    point: Coordinate,
    tube: Option<&'a str>,
    shift: Option<Shift>,
    /// Distance from the start of the fiber, angstrom or (RELION 3.0) pixels.
    track: Option<f64>,
}

/// The rows of one micrograph while they are gathered.
#[derive(Default)]
struct Gathered<'a> {
    name: Option<&'a str>,
    rows: Vec<Row<'a>>,
    pixel_size: Stated,
}

fn read_coordinates(table: &Table, optics: &Optics, options: &ReadOptions, warnings: &mut Warnings) -> Result<Vec<Set>> {
    let column = |label| table.column(label);
    let (x, y) = (column("rlnCoordinateX").unwrap_or_default(), column("rlnCoordinateY").unwrap_or_default());
    let names = MicrographNames::of(table, warnings);
    let [z, score, tube] = ["rlnCoordinateZ", "rlnAutopickFigureOfMerit", "rlnHelicalTubeID"].map(column);
    let track = column("rlnHelicalTrackLengthAngst").or_else(|| column("rlnHelicalTrackLength"));
    let size = column("epkWidth").zip(column("epkHeight"));
    let is_of_segments = column("rlnAnglePsiPrior").is_some() || track.is_some();
    let shifts = ShiftColumns::of(table, options);
    let sizes = RowSizes::of(table, optics);
    let pairs_without_tubes = options.fibers && tube.is_none() && !is_of_segments && size.is_none();
    let is_of_pairs = options.start_end || pairs_without_tubes;

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
        let optional = |column: Option<usize>, what| -> Result<Option<f64>> {
            let token = column.map(|column| row[column]).filter(|token| !text::is_absent(token));
            token.map(|token| text::number(token, line, what)).transpose()
        };
        let mut point = Coordinate::at(text::pixels(row[x], line, "x")?, text::pixels(row[y], line, "y")?);
        point.z = optional(z, "z")?;
        let sizes = sizes.of_row(row, line, warnings)?;
        let shift = shifts.as_ref().map(|shifts| shifts.read(row, line, sizes.particle())).transpose()?;
        if let Some(column) = score {
            point.score = text::score(row[column], line)?;
        }
        if let Some((width, height)) = size {
            let side = |column: usize, what| text::pixels(row[column], line, what);
            point.size = Some(Size { width: side(width, "the width")?, height: side(height, "the height")? });
        }
        let set = &mut gathered[place];
        set.pixel_size = set.pixel_size.or(sizes.in_table_of_particles());
        let track = optional(track, "the track length")?;
        set.rows.push(Row { line, point, tube: tube.map(|column| row[column]), shift, track });
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
    let kind = match (is_of_pairs || tube.is_some(), size) {
        (true, _) => Kind::Fiber,
        (false, Some(_)) => Kind::Vesicle,
        (false, None) => Kind::Particle,
    };
    let mut sets = Vec::with_capacity(gathered.len());
    for mut set in gathered {
        if is_of_pairs {
            group_pairs(&mut set.rows)?;
        } else {
            let tubes: Vec<&str> = set.rows.iter().filter_map(|row| row.tube).collect();
            set.rows.iter_mut().zip(number_fibers(&tubes)).for_each(|(row, tube)| row.point.group = Some(tube));
        }
        if pairs_without_tubes && !set.rows.is_empty() {
            warnings.note(
                0,
                "rows are taken as pairs, start and end of a straight piece of fiber, as RELION reads fibers without rlnHelicalTubeID; if \
                 they are points along fibers, number the fibers in that column",
            );
        }
        if kind == Kind::Fiber && !is_of_segments {
            // Where pairs make one path, the end of a pair is the start of the next pair of the same tube.
            let same = |a: &Row, b: &Row| a.point.group == b.point.group && a.point.x == b.point.x && a.point.y == b.point.y;
            let pairs: Vec<&[Row]> = set.rows.chunks(2).collect();
            let is_pair = |pair: &&[Row]| pair.len() == 2 && pair[0].point.group == pair[1].point.group;
            // The pairs of one tube make a chain, and another tube begins another chain.
            let goes_on = |two: &[&[Row]]| same(&two[0][1], &two[1][0]) || two[0][1].point.group != two[1][0].point.group;
            let is_chain = pairs.iter().all(is_pair) && pairs.windows(2).all(goes_on);
            set.rows.dedup_by(|next, last| same(next, last));
            if !is_of_pairs && !is_chain {
                order_fibers(&mut set.rows, warnings);
            }
        } else if kind == Kind::Fiber {
            order_fibers(&mut set.rows, warnings);
        }
        sets.push(Set {
            micrograph: set.name.map(str::to_owned),
            shifts: set.rows.iter().filter_map(|row| row.shift).collect(),
            coordinates: Coordinates { kind, points: set.rows.into_iter().map(|row| row.point).collect() },
            pixel_size: set.pixel_size,
        });
    }
    Ok(sets)
}

/// Where a table says to which micrograph a row belongs.
struct MicrographNames {
    column: Option<usize>,
    /// True if the name is that of the stack of particles, which stands behind `000001@`.
    is_stack: bool,
}

impl MicrographNames {
    /// Micrographs are told apart by `rlnMicrographName`. Without that column the stacks tell them apart, because RELION and
    /// cryoSPARC name a stack after its micrograph. If there is only one stack, it may hold particles of any number of
    /// micrographs.
    fn of(table: &Table, warnings: &mut Warnings) -> Self {
        let column = table.column("rlnMicrographName").or_else(|| table.column("rlnTomoName"));
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

    /// The micrograph of a row: `None` if the row should name one and does not, `Some(None)` if no row of the table names one.
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

/// Makes fibers of pairs: rows 1 and 2 are the first fiber, rows 3 and 4 the second. Pairs with the same tube id (that of the
/// first row counts) are one fiber.
fn group_pairs(rows: &mut [Row]) -> Result<()> {
    if rows.len() % 2 == 1 {
        let line = rows.last().map_or(0, |row| row.line);
        bail!(
            "line {line}: an odd number of rows, so they are no pairs of start and end; complete the last pair, or number fibers with \
             rlnHelicalTubeID"
        );
    }
    let tubes: Vec<&str> = rows.iter().filter_map(|row| row.tube).collect();
    let tubes = number_fibers(&tubes);
    for (i, pair) in rows.chunks_exact_mut(2).enumerate() {
        let group = tubes.get(2 * i).copied().unwrap_or(i as u32 + 1);
        pair.iter_mut().for_each(|row| row.point.group = Some(group));
    }
    Ok(())
}

/// Brings the rows of each fiber into the order of its path. Rows change places only within their fiber.
fn order_fibers(rows: &mut Vec<Row>, warnings: &mut Warnings) {
    let points: Vec<Coordinate> = rows.iter().map(|row| row.point).collect();
    let tracks: Vec<Option<f64>> = rows.iter().map(|row| row.track).collect();
    let order = fiber_order::of_fibers(&points, &tracks, warnings);
    let mut all: Vec<Option<Row>> = std::mem::take(rows).into_iter().map(Some).collect();
    rows.extend(order.into_iter().filter_map(|i| all[i].take()));
}

/// The columns of refined shifts: the particle lies at coordinate minus shift.
struct ShiftColumns {
    columns: [usize; 2],
    is_angstrom: bool,
}

impl ShiftColumns {
    fn of(table: &Table, options: &ReadOptions) -> Option<ShiftColumns> {
        if options.ignore_shifts {
            return None;
        }
        let pair = |x, y, is_angstrom| Some(ShiftColumns { columns: [table.column(x)?, table.column(y)?], is_angstrom });
        pair("rlnOriginXAngst", "rlnOriginYAngst", true).or_else(|| pair("rlnOriginX", "rlnOriginY", false))
    }

    /// The shift of a row. RELION 3.0 states it in pixels of the particle's image, whose size is `particle` angstrom.
    fn read(&self, row: &[&str], line: usize, particle: Option<f64>) -> Result<Shift> {
        let [x, y] = self.columns.map(|column| row[column]);
        if text::is_absent(x) || text::is_absent(y) {
            return Ok(Shift::Angstrom([0.0; 2]));
        }
        let shift = [text::pixels(x, line, "the shift in x")?, text::pixels(y, line, "the shift in y")?];
        Ok(match particle {
            _ if self.is_angstrom => Shift::Angstrom(shift),
            Some(particle) => Shift::Angstrom(shift.map(|pixels| pixels * particle)),
            None => Shift::ParticlePixels(shift),
        })
    }
}
