//! Targets: coordinate files. The coordinates that a reader returns go through every writer that can hold them, and every file
//! that a writer writes must be readable again.

use crate::Target;
use epicker::formats::coordinates::{Content, Coordinate, Coordinates, Integers, Kind, Set, Warnings};
use epicker::formats::label_file::{BoxStyle, FAMILIES, ReadOptions, read};
use epicker::formats::star::write::{SegmentSteps, Style};
use epicker::formats::{box_file, cbox, coord, cs, detect, eman_json, star, text, thi, topaz};

/// The coordinate readers, each alone, and the choice between them.
pub const TARGETS: &[Target] = &[
    Target { name: "thi", run: run_thi, seeds: thi_seeds, text: true, memory_factor: 64 },
    Target { name: "star", run: run_star, seeds: star_seeds, text: true, memory_factor: 64 },
    Target { name: "box", run: run_box, seeds: box_seeds, text: true, memory_factor: 64 },
    Target { name: "coord", run: run_coord, seeds: coord_seeds, text: true, memory_factor: 64 },
    Target { name: "cbox", run: run_cbox, seeds: cbox_seeds, text: true, memory_factor: 64 },
    Target { name: "topaz", run: run_topaz, seeds: topaz_seeds, text: true, memory_factor: 64 },
    Target { name: "eman_json", run: run_eman_json, seeds: json_seeds, text: true, memory_factor: 64 },
    Target { name: "cs", run: run_cs, seeds: cs_seeds, text: false, memory_factor: 600 }, // LZ4 packs 255 bytes into one
    Target { name: "detect", run: run_detect, seeds: all_seeds, text: true, memory_factor: 64 },
];

fn run_thi(bytes: &[u8]) {
    let Ok(text) = text::decode(bytes) else { return };
    for hint in [None, Some(Kind::Vesicle), Some(Kind::Fiber)] {
        if let Ok((content, _)) = thi::read(&text, hint) {
            write_and_read(&content);
        }
    }
}

fn run_star(bytes: &[u8]) {
    let Ok(text) = text::decode(bytes) else { return };
    for start_end in [false, true] {
        let options = star::read::ReadOptions { start_end, ..Default::default() };
        if let Ok((content, _)) = star::read::read(&text, &options) {
            write_and_read(&content);
        }
    }
}

fn run_box(bytes: &[u8]) {
    let Ok(text) = text::decode(bytes) else { return };
    let readers: [fn(&str, &mut Warnings) -> anyhow::Result<Content>; 4] =
        [|text, w| box_file::read(text, true, w), box_file::read_corners, box_file::read_helix, box_file::read_helicon];
    for reader in readers {
        if let Ok(content) = reader(&text, &mut Warnings::default()) {
            write_and_read(&content);
        }
    }
}

fn run_coord(bytes: &[u8]) {
    let Ok(text) = text::decode(bytes) else { return };
    if let Ok(content) = coord::read(&text, false, &mut Warnings::default()) {
        write_and_read(&content);
    }
}

fn run_cbox(bytes: &[u8]) {
    let Ok(text) = text::decode(bytes) else { return };
    if let Ok((content, _)) = cbox::read(&text) {
        write_and_read(&content);
    }
    if let Ok(content) = cbox::read_old(&text, &mut Warnings::default()) {
        write_and_read(&content);
    }
}

fn run_topaz(bytes: &[u8]) {
    let Ok(text) = text::decode(bytes) else { return };
    if let Ok((content, _)) = topaz::read(&text, 2.5) {
        write_and_read(&content);
    }
}

fn run_eman_json(bytes: &[u8]) {
    let Ok(text) = text::decode(bytes) else { return };
    if let Ok((content, _)) = eman_json::read(&text) {
        write_and_read(&content);
    }
}

fn run_cs(bytes: &[u8]) {
    for ignore_shifts in [false, true] {
        if let Ok((content, _)) = cs::read(bytes, ignore_shifts) {
            write_and_read(&content);
        }
    }
}

/// The content decides on the format. Every extension and option takes its turn, which follows from the length of the input, so
/// that a replay does the same.
fn run_detect(bytes: &[u8]) {
    let turn = bytes.len();
    let extension = ["", "thi", "star", "box", "cbox", "coord", "txt", "json"][turn % 8];
    if let Ok(text) = text::decode(bytes) {
        let _ = detect::coordinate_format(&text, extension, &mut Warnings::default());
    }
    let options = ReadOptions {
        family: (turn.is_multiple_of(3)).then(|| FAMILIES[turn % FAMILIES.len()].1),
        box_style: [None, Some(BoxStyle::Eman), Some(BoxStyle::Corners)][turn % 3],
        ..ReadOptions::default()
    };
    if let Ok(file) = read(bytes, extension, &options) {
        assert!(file.warnings.iter().all(|warning| !warning.contains('\n')), "a message of several lines");
        write_and_read(&file.content);
    }
}

fn write_and_read(content: &Content) {
    let sets = match content {
        Content::Coordinates(sets) => sets,
        Content::Micrographs(_) => return,
        Content::Pairs(pairs) => {
            let _ = thi::write_merge_results(pairs);
            let _ = star::write::coordinate_files(pairs);
            return;
        }
    };
    // Far away from every micrograph the limits of the formats differ: a corner or a width may lie where no centre may lie.
    let sizes = |point: &Coordinate| [point.size, point.estimated_size].into_iter().flatten().flat_map(|size| [size.width, size.height]);
    let is_far = |point: &Coordinate| [point.x, point.y].into_iter().chain(sizes(point)).any(|value| value.abs() > 1e8);
    if sets.iter().any(|set| set.coordinates.points.iter().any(is_far)) {
        return;
    }
    for set in sets.iter().take(4) {
        write_one(&set.coordinates);
    }
    let named: Vec<Set> = sets.iter().map(|set| Set { micrograph: Some("a.mrc".to_owned()), ..set.clone() }).collect();
    let merged = star::write::merged(&named).map(|text| count(star::read::read(&text, &Default::default()).map(|(content, _)| content)));
    let points = |sets: &[Set]| sets.iter().map(|set| set.coordinates.points.len()).sum::<usize>();
    assert_eq!(merged.ok(), Some(points(sets)), "the merged table");
    let _ = topaz::write(&named, Integers::Round);
}

fn write_one(coordinates: &Coordinates) {
    let all = coordinates.points.len();
    if let Ok(text) = thi::write(coordinates, &thi::WriteOptions::default()) {
        // In this format a fiber needs two vertices; in the other formats a tube may well have a single segment.
        let mut kept = coordinates.clone();
        let lone = if coordinates.kind == Kind::Fiber { kept.drop_lone_vertices() } else { 0 };
        assert_eq!(count(thi::read(&text, None).map(|(content, _)| content)), all - lone, "THI");
    }
    let text = star::write::particles(coordinates, Style::Relion);
    assert_eq!(count(star::read::read(&text, &Default::default()).map(|(content, _)| content)), all, "STAR");
    let _ = star::write::particles(coordinates, Style::Original);
    let text = coord::write(coordinates, Integers::Round);
    assert_eq!(count(coord::read(&text, false, &mut Warnings::default())), all, "coord");
    let boxes = box_file::WriteOptions { size_px: Some(100), ..Default::default() };
    let text = box_file::write(coordinates, &boxes).unwrap_or_default();
    assert_eq!(count(box_file::read(&text, false, &mut Warnings::default())), all, "box");
    let _ = box_file::write(coordinates, &box_file::WriteOptions::default());
    if let Ok(text) = cbox::write(coordinates, &cbox::WriteOptions { size_px: Some(100) }) {
        assert_eq!(count(cbox::read(&text).map(|(content, _)| content)), all, "CBOX");
    }
    let _ = coordinates.straightened(0.5);
    let _ = star::write::start_end(coordinates);
    if all < 100 {
        let _ = star::write::segments(coordinates, SegmentSteps { step_angstrom: 1e7, pixel_size_angstrom: 1.0 });
    }
    let _ = box_file::write_helix(coordinates, &boxes);
    let _ = box_file::write_helicon("a.mrc", coordinates, &boxes);
}

/// The number of points in a file that epicker has written itself; if it cannot be read, that is a find.
fn count(content: anyhow::Result<Content>) -> usize {
    match content {
        Ok(Content::Coordinates(sets)) => sets.iter().map(|set| set.coordinates.points.len()).sum(),
        Ok(other) => panic!("our own file holds no coordinates: {other:?}"),
        Err(error) => panic!("our own file is refused: {error:#}"),
    }
}

fn bytes_of(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn thi_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "[Particle Coordinates: X Y Value]\n1243\t512\t0.430000\n123\t5123\t0.390000\n[End]\n",
        "[Vesicle Coordinates: X Y Radius Value]\r\n10\t20\t30\t0.5\r\n40\t50\t60\t0.25\r\n[End]\r\n",
        "[Helix Coordinates: X Y Group Value]\n123 456 1 0.54\n156 499 1 0.49\n1 1 b 1.0\n2 2 b 1.0\n[End]",
        "[File List: Filename]\n a b.mrc\n\"c.mrc\"\n[End]\n",
        "[Micrograph Particle coordinate:\n #0:MICROGRAPH_PATH    STRING\n #1:PARTICLE_PATH    STRING]\n/a b.mrc /c d.thi\n",
        "1.5 2.5 0.5\n3 4\n",
    ])
}

fn star_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnClassNumber #3\n_rlnAnglePsi #4\n_rlnAutopickFigureOfMerit #5\n1243.00\t512.25\t0\t0.0\t0.43\n",
        "# version 30001\n\ndata_optics\n\nloop_ \n_rlnOpticsGroup #1 \n_rlnMicrographPixelSize #2 \n1 1.25\n\ndata_particles\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n\
         _rlnMicrographName\n_rlnOpticsGroup\n_rlnOriginXAngst\n_rlnOriginYAngst\n_rlnHelicalTubeID\n1 2 'a b.mrc' 1 3 4 1\n5 6 c.mrc 1 -3 0 2\n7 8 c.mrc 1 0 0 2\n",
        "data_images\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOriginX\n_rlnOriginY\n_rlnMagnification\n_rlnDetectorPixelSize\n10 20 1 -2 50000 10\n<NA> nan 1 -999 . ?\n",
        "data_coordinate_files\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n\"a b.mrc\" c.star\n",
        "data_micrographs\n_rlnNote\n;\ntext\n;\nloop_\n_rlnMicrographName\na.mrc # end\n",
        "#epk Format 1\n\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit #3\n_epkWidth #4\n_epkHeight #5\n1.5 2.5 0.75 10 12\n",
    ])
}

fn box_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "10\t20\t180\t180\n30\t40\t180\t180\n",
        "10.5 20 180 180 0.5\n30 40 180 180 0.25\n",
        "173\t963\t196\t986\n515\t1128\t538\t1151\n",
        "90\t90\t20\t20\t-1\n140\t110\t20\t20\t-2\n140\t110\t20\t20\t-1\n190\t100\t20\t20\t-2\n",
        "#micrograph: m/a.mrc\n#segment length: 20\n#helix: (1, 2),(11, 2),20\n1\t2\n11\t2\n#helix: [1, 12],[11, 12],20\n",
    ])
}

fn coord_seeds() -> Vec<Vec<u8>> {
    bytes_of(&["19\t56\n14\t140\n", "x y z\n19.5 56 0.5\n14 140 0.25\n", "184\t974\t19\t0\n526\t1139\t19\t0\n"])
}

fn cbox_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "data_global\n_cbox_format_version 1.0\ndata_cryolo\nloop_\n_CoordinateX\n_CoordinateY\n_CoordinateZ\n_Width\n_Height\n_Depth\n_EstWidth\n_EstHeight\n_Confidence\n\
         _NumBoxes\n_Angle\n_filamentid\n10.5 20.0 <NA> 200.0 200.0 1.0 208.0 204.0 0.25 <NA> <NA> 3.0\n1 2 <NA> 200.0 200.0 1.0 <NA> <NA> 0.5 <NA> <NA> 3.0\n\ndata_cryolo_include\nloop_\n_slice_index\n",
        "4472.0\t3834.5\t200\t200\t0.145\t208\t203\n2088.1\t3783.2\t200\t200\t0.159\t205\t206\n",
        "4472.0 3834.5 200 200 0.145\n",
    ])
}

fn topaz_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "image_name\tx_coord\ty_coord\tscore\na b\t10\t20\t1.5\nc\t1\t2\tnan\na b\t3\t4\t0.25\n",
        "image_name x_coord y_coord\na 1 2\n",
    ])
}

fn json_seeds() -> Vec<Vec<u8>> {
    bytes_of(&["{\"ctf\": null, \"boxes\": [[19, 56.5, \"manual\"], [1e3, -2, \"auto_local\", 0.5], [3, 4, \"refbad\"]]}"])
}

/// Particles as records of numpy and as a stream whose fields are blocks of LZ4, and exposures.
fn cs_seeds() -> Vec<Vec<u8>> {
    let npy = |descr: &str, rows: usize, records: Vec<u8>| {
        let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': ({rows},), }}\n");
        [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), &records].concat()
    };
    let places = "('location/micrograph_path', '|S5'), ('location/micrograph_shape', '<u4', (2,)), ('location/center_x_frac', '<f4'), \
                  ('location/center_y_frac', '<f4'), ('pick_stats/ncc_score', '<f4')";
    let place = |path: &[u8; 5], x: f32| {
        let shape = [100u32, 200].map(u32::to_le_bytes).concat();
        [path.as_slice(), &shape, &[x, 0.5, 0.75].map(f32::to_le_bytes).concat()].concat()
    };
    let more = "('alignments2D/shift', '<f4', (2,)), ('alignments2D/psize_A', '<f4'), ('filament/filament_uid', '<u8')";
    let refined = |path: &[u8; 5], x: f32, fiber: u64| {
        [place(path, x), [1.0f32, -2.0, 3.5].map(f32::to_le_bytes).concat(), fiber.to_le_bytes().to_vec()].concat()
    };
    let header = "{\"length\": 2, \"dtype\": [[\"uid\", \"<u8\"], [\"location/micrograph_path\", \"|O\"], \
                  [\"location/micrograph_shape\", \"<u4\", [2]], [\"location/center_x_frac\", \"<f4\"], \
                  [\"location/center_y_frac\", \"<f4\"]], \"compression\": \"lz4\", \"compressed_fields\": \
                  [\"location/micrograph_path\", \"location/micrograph_shape\"]}";
    let fields: [&[u8]; 5] = [
        &[7; 16],
        b"\x1f\x01\x01\x00\x00", // a run that is too long: the mutations find shorter ones
        b"\x84\x64\0\0\0\xc8\0\0\0\x08\0",
        &[0.25f32, 0.5].map(f32::to_le_bytes).concat(),
        &[0.75f32, 1.0].map(f32::to_le_bytes).concat(),
    ];
    let stream = |paths: &[u8]| {
        let mut bytes = [b"\x95CSDAT".as_slice(), &(header.len() as u32).to_le_bytes(), header.as_bytes()].concat();
        for (i, field) in fields.into_iter().enumerate() {
            let field = if i == 1 { paths } else { field };
            bytes.extend((field.len() as u32).to_le_bytes());
            bytes.extend(field);
        }
        bytes.extend(b"\0a.mrc\0");
        bytes
    };
    vec![
        npy(&format!("[{places}]"), 2, [place(b"a.mrc", 0.25), place(b"b.mrc", 0.5)].concat()),
        npy(
            &format!("[{places}, {more}]"),
            3,
            [refined(b"a.mrc", 0.25, 9), refined(b"a.mrc", 0.5, 9), refined(b"a.mrc", 0.125, 1)].concat(),
        ),
        npy(
            "[('micrograph_blob/path', '|S6'), ('micrograph_blob/psize_A', '<f4')]",
            1,
            [b">a.mrc".as_slice(), &1.5f32.to_le_bytes()].concat(),
        ),
        stream(fields[1]),
        stream(b"\xf0\x01\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0"), // two indices as literals
    ]
}

fn all_seeds() -> Vec<Vec<u8>> {
    [thi_seeds(), star_seeds(), box_seeds(), coord_seeds(), cbox_seeds(), topaz_seeds(), json_seeds()].concat()
}
