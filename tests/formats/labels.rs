//! Coordinate files: what is read from them, what is written to them, and that both agree.

use epicker::formats::coordinates::{Content, Coordinate, Coordinates, Integers, Kind, ListedPair, Set, Size, Slices, Warnings};
use epicker::formats::detect::CoordinateFormat;
use epicker::formats::label_file::{BoxStyle, Family, LabelFile, ReadOptions, read};
use epicker::formats::pixel_size::{Evidence, Stated};
use epicker::formats::star::write::{SegmentSteps, Style};
use epicker::formats::{box_file, cbox, coord, star, thi, topaz};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats").join(name)
}

fn text_of(name: &str) -> String {
    std::fs::read_to_string(golden(name)).unwrap()
}

fn read_as(text: &str, extension: &str) -> LabelFile {
    read(text.as_bytes(), extension, &ReadOptions::default()).unwrap_or_else(|error| panic!("{text}: {error:#}"))
}

fn error_of(text: &str, extension: &str) -> String {
    format!("{:#}", read(text.as_bytes(), extension, &ReadOptions::default()).expect_err(text))
}

fn sets(content: Content) -> Vec<Set> {
    match content {
        Content::Coordinates(sets) => sets,
        other => panic!("no coordinates: {other:?}"),
    }
}

fn one(content: Content) -> Coordinates {
    let mut all = sets(content);
    assert_eq!(all.len(), 1);
    all.remove(0).coordinates
}

fn positions(coordinates: &Coordinates) -> Vec<[f64; 2]> {
    coordinates.points.iter().map(|point| [point.x, point.y]).collect()
}

fn numbers(value: &serde_json::Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(|row| row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()).collect()
}

// ---- reading: what the original read, we read

#[test]
fn the_lists_are_read_exactly() {
    let expected: serde_json::Value = serde_json::from_str(&text_of("labels/expected.json")).unwrap();
    for (name, expected) in expected.as_object().unwrap() {
        let path = golden("labels").join(name);
        let file = epicker::formats::label_file::read_path(&path, &ReadOptions::default()).unwrap();
        let ours = one(file.content);
        if let Some(groups) = expected.get("groups_read") {
            // The original cuts positions to integers, and drops fibers of one vertex only later.
            let fibers = ours.fibers().unwrap();
            let cut = |i: &usize| vec![ours.points[*i].x.trunc(), ours.points[*i].y.trunc()];
            let ours: Vec<Vec<Vec<f64>>> = fibers.iter().map(|fiber| fiber.iter().map(cut).collect()).collect();
            let theirs = groups.as_object().unwrap().values().map(numbers).filter(|fiber| fiber.len() > 1).collect::<Vec<_>>();
            assert_eq!(ours, theirs, "{name}");
            continue;
        }
        let theirs = numbers(&expected["read"]);
        let ours: Vec<Vec<f64>> = match file.format {
            CoordinateFormat::EmanBox(false) => {
                // The original keeps the corner; here is the centre.
                let row = |p: &Coordinate| {
                    let size = p.size.unwrap();
                    vec![p.x - size.width / 2.0, p.y - size.height / 2.0, size.width, size.height]
                };
                ours.points.iter().map(row).collect()
            }
            CoordinateFormat::Coord => ours.points.iter().map(|p| vec![p.x.trunc(), p.y.trunc()]).collect(),
            CoordinateFormat::Star => {
                let mut rows: Vec<Vec<f64>> = ours.points.iter().map(|p| vec![p.x.trunc(), p.y.trunc()]).collect();
                rows.sort_by(|a, b| a[0].total_cmp(&b[0])); // the original sorts by x, stably
                rows
            }
            CoordinateFormat::Thi => ours.points.iter().map(|p| vec![p.x, p.y]).collect(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn resampled_fibers_are_read_as_points() {
    let file = read_as(&text_of("labels/m4096x4096_fiber_placed.thi"), "thi");
    let points = one(file.content);
    assert_eq!(
        (points.kind, points.points.len(), points.points[2]),
        (Kind::Particle, 576, Coordinate { score: Some(1.0), ..Coordinate::at(105.0, 201.0) })
    );
}

#[test]
fn radii_scores_and_decimals_are_kept() {
    let vesicles = one(read_as(&text_of("labels/m4096x4096_vesicle.thi"), "thi").content);
    assert_eq!(vesicles.kind, Kind::Vesicle);
    assert_eq!((vesicles.points[1].radius(), vesicles.points[1].score), (Some(40.0), Some(0.147_95)));
    let star = one(read_as(&text_of("labels/m4096x4096.star"), "star").content);
    assert_eq!(positions(&star)[0], [2280.550999, 3944.167743]);
    let reordered = sets(read_as(&text_of("labels/m4096x4096_reordered.star"), "star").content);
    assert_eq!(reordered[0].micrograph.as_deref(), Some("m4096x4096.mrc"));
}

#[test]
fn difficult_files_are_read_or_refused_with_the_line() {
    let read_to: &[(&str, &[[f64; 2]])] = &[
        ("blank_line.box", &[[140.0, 240.0], [8.5, 10.0]]),
        ("blank_line.coord", &[[1.0, 2.0], [3.0, 4.0]]),
        ("blank_line.thi", &[[1.0, 2.0], [3.0, 4.0]]),
        ("comment.thi", &[[1.0, 2.0]]),
        ("crlf.star", &[[10.0, 20.0]]),
        ("crlf.thi", &[[1.0, 2.0]]),
        ("empty.star", &[]),
        ("empty.thi", &[]),
        ("equal_x.star", &[[10.0, 30.0], [10.0, 20.0], [10.0, 25.0], [5.0, 1.0]]),
        ("float.box", &[[140.5, 240.5]]),
        ("header.coord", &[[1.0, 2.0]]),
        ("negative.star", &[[-3.7, 20.0], [1000.0, 250.0]]),
        ("no_end.thi", &[[1.0, 2.0]]),
        ("no_hash_numbers.star", &[[10.0, 20.0]]),
        ("no_header.thi", &[[1.5, 2.5], [3.0, 4.0]]),
        ("other_tag.star", &[[10.0, 20.0]]),
        ("multi.thi", &[[1.0, 1.0], [100.0, 1.0], [41.0, 1.0], [100.0, 50.0], [1.0, 31.0]]),
    ];
    let path = |name: &str| golden("labels/difficult").join(name);
    let options = ReadOptions::default();
    for (name, expected) in read_to {
        let file = epicker::formats::label_file::read_path(&path(name), &options).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(positions(&one(file.content)), *expected, "{name}");
    }
    let fibers = one(epicker::formats::label_file::read_path(&path("multi.thi"), &options).unwrap().content).fibers().unwrap();
    assert_eq!(fibers, [vec![0, 2, 4], vec![1, 3]], "fibers may interleave");
    let relion31 = sets(epicker::formats::label_file::read_path(&path("relion31.star"), &options).unwrap().content);
    assert_eq!(relion31[0].coordinates.points.len(), 2);
    for (name, wanted) in [
        ("comma.coord", "replace the commas"),
        ("only_xy_missing.star", "line 4: 2 values; expected 1"),
        ("three_columns.box", "3 columns in a box file"),
    ] {
        let message = format!("{:#}", epicker::formats::label_file::read_path(&path(name), &options).unwrap_err());
        assert!(message.contains(wanted) && message.contains(name), "{message}");
    }
}

#[test]
fn empty_files_hold_nothing_and_say_so() {
    for extension in ["thi", "star", "box", "coord", "cbox", "txt", ""] {
        let file = read_as("", extension);
        assert_eq!(file.warnings, ["the file is empty; taken as a file without coordinates"], "{extension}");
        assert!(one(file.content).points.is_empty());
    }
    for family in [Family::Thi, Family::Star, Family::Box, Family::Coord, Family::Cbox] {
        let options = ReadOptions { family: Some(family), ..ReadOptions::default() };
        assert!(read(b"\n", "", &options).is_ok(), "{family:?}");
    }
}

// ---- writing: the original's files, byte for byte

/// Rows of numbers of a golden file, without its comments.
fn table_of(name: &str) -> Vec<Vec<f64>> {
    let text = text_of(name);
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').map(|token| token.parse().unwrap()).collect()).collect()
}

fn picks_of(name: &str, kind: Kind) -> Coordinates {
    let point =
        |row: Vec<f64>| Coordinate { score: Some(row[3] as f32), size: Some(Size::square(2.0 * row[2])), ..Coordinate::at(row[0], row[1]) };
    Coordinates { kind, points: table_of(name).into_iter().map(point).collect() }
}

#[test]
fn the_originals_files_are_written_byte_for_byte_when_asked_for() {
    let original = thi::WriteOptions { integers: Integers::Truncate, fiber_ones: true };
    for (name, kind) in [("pb", Kind::Particle), ("pc", Kind::Vesicle)] {
        let rows = table_of(&format!("written/{name}_picks.txt"));
        let picks = picks_of(&format!("written/{name}_picks.txt"), kind);
        assert_eq!(thi::write(&picks, &original).unwrap(), text_of(&format!("written/{name}.thi")));
        assert_eq!(star::write::particles(&picks, Style::Original), text_of(&format!("written/{name}.star")));
        let corners = rows.iter().map(|row| [row[4], row[5], row[6], row[7]]);
        assert_eq!(box_file::write_corners(corners, Integers::Truncate), text_of(&format!("written/{name}.box")));
    }
    let four = picks_of("written/pb_picks.txt", Kind::Particle).points.into_iter();
    let four = four.map(|p| coord::FourColumns { x: p.x, y: p.y, size: 19.0, score: p.score.unwrap() });
    assert_eq!(coord::write_four_columns(four), text_of("written/pb.coord"));
    let vertex = |row: Vec<f64>| Coordinate { group: Some(row[2] as u32), ..Coordinate::at(row[0], row[1]) };
    let fibers = Coordinates { kind: Kind::Fiber, points: table_of("written/pd_vertices.txt").into_iter().map(vertex).collect() };
    assert_eq!(thi::write(&fibers, &original).unwrap(), text_of("written/pd.thi"));
}

#[test]
fn the_originals_files_are_read_back() {
    for (name, kind) in [("pb.thi", Kind::Particle), ("pc.thi", Kind::Vesicle), ("pd.thi", Kind::Fiber)] {
        let points = one(read_as(&text_of(&format!("written/{name}")), "thi").content);
        assert_eq!(points.kind, kind);
        let rows = text_of(&format!("written/{name}")).lines().filter(|line| !line.starts_with('[')).count();
        assert_eq!(points.points.len(), rows, "{name}");
    }
    let boxes = read_as(&text_of("written/pb.box"), "box");
    assert_eq!(boxes.format, CoordinateFormat::CornerBox);
    assert!(boxes.warnings[0].contains("two corners"), "{:?}", boxes.warnings);
    assert_eq!(positions(&one(boxes.content))[0], [184.5, 974.5]);
    assert_eq!(read_as(&text_of("written/pc.box"), "box").format, CoordinateFormat::CornerBox);
    let four = read_as(&text_of("written/pb.coord"), "coord");
    assert_eq!(positions(&one(four.content))[0], [184.0, 974.0]);
    let star = one(read_as(&text_of("written/pb.star"), "star").content);
    assert_eq!((star.points[0].x, star.points[0].score), (184.0, Some(0.914958)));
}

#[test]
fn our_files_have_the_documented_bytes() {
    let point = |x, y, score| Coordinate { score: Some(score), size: Some(Size::square(64.4)), ..Coordinate::at(x, y) };
    let mut picks = Coordinates { kind: Kind::Particle, points: vec![point(1243.0, 512.25, 0.43), point(122.5, 5122.6, 0.39)] };
    let options = thi::WriteOptions::default();
    assert_eq!(
        thi::write(&picks, &options).unwrap(),
        "[Particle Coordinates: X Y Value]\n1243\t512\t0.430000\n123\t5123\t0.390000\n[End]\n"
    );
    let star = star::write::particles(&picks, Style::Relion);
    assert_eq!(
        star,
        "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnClassNumber #3\n_rlnAnglePsi #4\n_rlnAutopickFigureOfMerit #5\n\
         1243.00\t512.25\t0\t0.0\t0.430000\n122.50\t5122.60\t0\t0.0\t0.390000\n"
    );
    assert_eq!(box_file::write(&picks, &box_file::WriteOptions::default()).unwrap(), "1211\t480\t64\t64\n91\t5091\t64\t64\n");
    let with_score = box_file::WriteOptions { size_px: Some(181), score: true, ..Default::default() };
    assert_eq!(box_file::write(&picks, &with_score).unwrap(), "1153\t422\t181\t181\t0.430000\n33\t5033\t181\t181\t0.390000\n");
    assert_eq!(coord::write(&picks, Integers::Round), "1243\t512\n123\t5123\n");
    picks.kind = Kind::Vesicle;
    assert_eq!(
        thi::write(&picks, &options).unwrap(),
        "[Vesicle Coordinates: X Y Radius Value]\n1243\t512\t32\t0.430000\n123\t5123\t32\t0.390000\n[End]\n"
    );
    let vertex = |x, y, score| Coordinate { group: Some(7), score: Some(score), ..Coordinate::at(x, y) };
    let fiber = Coordinates { kind: Kind::Fiber, points: vec![vertex(123.0, 456.0, 0.54), vertex(156.0, 499.0, 0.49)] };
    assert_eq!(
        thi::write(&fiber, &options).unwrap(),
        "[Helix Coordinates: X Y Group Value]\n123 456 1 0.540000\n156 499 1 0.490000\n[End]\n"
    );
}

#[test]
fn empty_results_are_valid_files() {
    for kind in [Kind::Particle, Kind::Vesicle, Kind::Fiber] {
        let none = Coordinates { kind, points: Vec::new() };
        let text = thi::write(&none, &thi::WriteOptions::default()).unwrap();
        assert!(text.starts_with('[') && text.ends_with("]\n[End]\n"), "{text}");
        assert_eq!(one(read_as(&text, "thi").content), none);
    }
    let none = Coordinates::default();
    let star = star::write::particles(&none, Style::Relion);
    assert!(star.ends_with("#5\n\n"), "an empty line ends the table, else RELION takes its last label for a row: {star:?}");
    assert_eq!(one(read_as(&star, "star").content), none);
    assert_eq!(box_file::write(&none, &box_file::WriteOptions::default()).unwrap(), "");
    assert!(one(read_as(&cbox::write(&none, &cbox::WriteOptions::default()).unwrap(), "cbox").content).points.is_empty());
}

#[test]
fn what_a_format_cannot_hold_is_said_not_invented() {
    let point = Coordinates { kind: Kind::Particle, points: vec![Coordinate::at(1.0, 2.0)] };
    let message = |result: anyhow::Result<String>| result.unwrap_err().to_string();
    assert!(message(box_file::write(&point, &box_file::WriteOptions::default())).contains("--box_size"));
    assert!(message(cbox::write(&point, &cbox::WriteOptions::default())).contains("--box_size"));
    assert!(message(star::write::start_end(&point)).contains("fiber"));
    assert!(message(star::write::merged(&[Set { coordinates: point.clone(), ..Set::default() }])).contains("micrograph"));
    let vesicle = Coordinates { kind: Kind::Vesicle, ..point.clone() };
    assert!(message(thi::write(&vesicle, &thi::WriteOptions::default())).contains("radius"));
    // A hand-picked point has no score: RELION's filler in STAR, 1 where a caller parses the column.
    assert!(star::write::particles(&point, Style::Relion).ends_with("1.00\t2.00\t0\t0.0\t-999.000000\n"));
    assert!(thi::write(&point, &thi::WriteOptions::default()).unwrap().contains("1\t2\t1.000000\n"));
}

// ---- THI

#[test]
fn thi_headers_may_be_sloppy_but_not_unknown() {
    let points = |text: &str| positions(&one(read_as(text, "thi").content));
    assert_eq!(points("\n  [particle   COORDINATES :Y  X value ]\n2 1 0.5\n[ end ]\n"), [[1.0, 2.0]]);
    assert_eq!(points("\u{feff}[Particle Coordinates: X Y Value]\n1\t2\n;x\n#y\n"), [[1.0, 2.0]]);
    let ended = read_as("[Particle Coordinates: X Y Value]\n1 2 0.5\n[End]\n3 4 0.5\n", "thi");
    assert_eq!((ended.warnings.len(), one(ended.content).points.len()), (1, 1));
    let extra = read_as("[Particle Coordinates: X Y Value]\n1 2 0.5 9\n1 2 0.5 9\n", "thi");
    assert_eq!(extra.warnings, ["line 2 and 1 more: more columns than the header names; the others are ignored"]);
    for (text, wanted) in [
        ("[Particles: X Y]\n1 2\n", "line 1: the header is '[Particles: X Y]'; expected [Particle Coordinates"),
        ("[Particle Coordinates: X Y Value\n1 2 0.5\n", "no ']'"),
        ("[Particle Coordinates: X Value]\n1 0.5\n", "no column Y"),
        ("[Vesicle Coordinates: X Y Radius Value]\n1 2\n", "line 2: 2 columns; expected at least 3"),
        ("[Particle Coordinates: X Y Value]\n1,2\n", "replace the commas"),
        ("[Particle Coordinates: X Y Value]\n1 nan\n", "line 2: y is 'nan'; expected a finite number"),
        ("[Particle Coordinates: X Y Value]\n1 2 1\n[Vesicle Coordinates: X Y Radius Value]\n1 2 3 4\n", "line 3: a second header"),
        ("1 2 3 4\n", "four columns and no header"),
        ("[[1, 2], [3, 4]]", "JSON list"),
    ] {
        let message = error_of(text, "thi");
        assert!(message.contains(wanted), "{message}");
    }
    let hinted = ReadOptions { kind: Some(Kind::Vesicle), ..ReadOptions::default() };
    assert_eq!(one(read(b"1 2 3 0.5\n", "thi", &hinted).unwrap().content).points[0].radius(), Some(3.0));
}

#[test]
fn thi_lists_keep_blanks_and_lose_quotes() {
    let Content::Micrographs(list) = read_as("[File List: Filename]\n  a b.mrc \n\n\"c.mrc\"\n[End]\n", "thi").content else { panic!() };
    assert_eq!(list.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["a b.mrc", "c.mrc"]);
    assert_eq!(thi::write_file_list(&["a b.mrc".into(), "c.mrc".into()]), "[File List: Filename]\na b.mrc\nc.mrc\n[End]\n");
}

#[test]
fn merge_results_are_read_back_even_with_blanks_in_the_paths() {
    let pair = |a: &str, b: &str| ListedPair { micrograph: a.into(), coordinates: b.into() };
    let pairs = vec![pair("/d/a.mrc", "/o/a.thi"), pair("/my data/b.MRC", "/my out/b.thi")];
    let text = thi::write_merge_results(&pairs);
    assert!(
        text.starts_with(
            "[Micrograph Particle coordinate:\n #0:MICROGRAPH_PATH    STRING\n #1:PARTICLE_PATH    STRING]\n/d/a.mrc /o/a.thi\n"
        )
    );
    assert_eq!(read_as(&text, "thi").content, Content::Pairs(pairs));
}

// ---- STAR

#[test]
fn star_grammar_is_relions_and_a_little_more() {
    let points = |text: &str| positions(&one(read_as(text, "star").content));
    let head = "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n";
    assert_eq!(points(&format!("# version 30001\n{head}\n# between\n1 2 # after\n3 4\n")), [[1.0, 2.0], [3.0, 4.0]]);
    assert_eq!(points("data_\nloop_   \n_RLNcoordinatex\n_CoordinateY#2\n1 2\n"), [[1.0, 2.0]]);
    let named = "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n'a b.mrc' 1 2\n\"it's.mrc\" 3 4\n";
    let names: Vec<String> = sets(read_as(named, "star").content).into_iter().filter_map(|set| set.micrograph).collect();
    assert_eq!(names, ["a b.mrc", "it's.mrc"]);
    let wrong = read_as("data_\nloop_\n_rlnCoordinateY #2\n_rlnCoordinateX #1\n1 2\n", "star");
    assert!(wrong.warnings[0].contains("the order of the labels counts"), "{:?}", wrong.warnings);
    assert_eq!(positions(&one(wrong.content)), [[2.0, 1.0]]);
    // A block with single values and a text over several lines before the table.
    let text = "data_general\n_rlnNote\n;\nloop_ data_ 'quote\n;\n_rlnSize 5\ndata_particles\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnName\n1 2 'x # y'\n";
    assert_eq!(points(text), [[1.0, 2.0]]);
    for (text, wanted) in [
        (format!("{head}1 2 3\n"), "line 5: 3 values; expected 2"),
        ("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnA\n1 2\n".into(), "line 6: 2 values; expected 3"),
        (format!("{head}1 'a\n"), "line 5: a quote ' is not closed"),
        (format!("{head}1 x\n"), "line 5: y is 'x'; expected a number"),
        (format!("{head}1 <NA>\n"), "line 5: y is '<NA>'"),
        ("data_\nloop_\n1 2\n".into(), "values after loop_ without labels"),
        ("data_\n1 2\n".into(), "outside of a loop"),
        ("data_\nloop_\n_a\n_b\n1 2\n".into(), "no rlnCoordinateX"),
        ("data_\nloop_\n_rlnMicrographMovieName\nx.tif\n".into(), "movies"),
        ("1 2\n".into(), "no sign of star"),
    ] {
        let message = error_of(&text, "star");
        assert!(message.contains(wanted), "{message}");
    }
}

#[test]
fn star_blocks_are_chosen_by_name() {
    let table = |name: &str, x: u32| format!("data_{name}\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n{x} 0\n\n");
    let x = |text: String| one(read_as(&text, "star").content).points[0].x;
    assert_eq!(x(table("images", 1) + &table("", 2) + &table("particles", 3)), 3.0);
    assert_eq!(x(table("other", 1) + &table("images", 2) + &table("", 3)), 3.0);
    assert_eq!(x(table("one", 1) + &table("two", 2)), 1.0);
}

#[test]
fn star_rows_may_begin_like_a_keyword() {
    // relion_import of data_day1/*.mrc: RELION ends a loop at an empty line only.
    let names = |text: &str| -> Vec<String> {
        let Content::Micrographs(list) = read_as(text, "star").content else { panic!("{text}") };
        list.into_iter().map(|one| one.path).collect()
    };
    let rows = "data_day1/a.mrc 1\ndata_day1/b.mrc 1\n";
    assert_eq!(
        names(&format!("data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n{rows}")),
        ["data_day1/a.mrc", "data_day1/b.mrc"]
    );
    // One column: the last row looks like a block without a table, and the blocks that follow look like rows.
    let lone = "data_x\nloop_\n_rlnMicrographName\ndata_day1/a.mrc\nloop_1/b.mrc\n_c.mrc\ndata_d.mrc\n";
    assert_eq!(names(lone), ["data_day1/a.mrc", "loop_1/b.mrc", "_c.mrc", "data_d.mrc"]);
    let pasted = "data_micrographs\nloop_\n_rlnMicrographName\ndata_day1/a.mrc\ndata_optics\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnX\n1 300 0\ndata_general\n_rlnY 1\n";
    assert_eq!(names(pasted), ["data_day1/a.mrc"], "a block that follows without an empty line begins where its labels do");
    let topaz = "image_name\tx_coord\ty_coord\ndata_1\t10\t20\n";
    assert_eq!(read_as(topaz, "txt").format, CoordinateFormat::Topaz);
}

#[test]
fn an_empty_line_ends_a_star_table_as_it_does_for_relion() {
    let head = "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n";
    let file = read_as(&format!("{head}\n1 2\n \n3 4\n5 6\n"), "star");
    assert_eq!(file.warnings.len(), 1);
    assert!(file.warnings[0].starts_with("line 8 and 1 more: this row follows an empty line"), "{:?}", file.warnings);
    assert_eq!(positions(&one(file.content)), [[1.0, 2.0]]);
    // Labels after it are pairs, another loop is another table, and another block is another block.
    let file = read_as(&format!("{head}1 2\n\n_rlnVersion 3\nloop_\n_rlnA\n7\n\ndata_\n_rlnB 1\n"), "star");
    assert_eq!((file.warnings.len(), positions(&one(file.content))), (0, vec![[1.0, 2.0]]));
}

#[test]
fn a_star_table_of_one_row_may_be_pairs_of_label_and_value() {
    let optics = "data_optics\n\n_rlnOpticsGroupName\topticsGroup1\n_rlnOpticsGroup\t1\n_rlnMicrographPixelSize\t2.5\n\n\n";
    let Content::Micrographs(list) =
        read_as(&format!("{optics}data_micrographs\n\n_rlnMicrographName\tdata_1/a.mrc # one\n_rlnOpticsGroup\t1\n"), "star").content
    else {
        panic!()
    };
    assert_eq!((list.len(), list[0].path.as_str(), list[0].pixel_size.micrograph), (1, "data_1/a.mrc", Some(2.5)));
    let particle = "data_particles\n_rlnCoordinateX 100\n_rlnCoordinateY 120\n_rlnMicrographName 'a b.mrc'\n_rlnOpticsGroup 1\n_rlnOriginXAngst 5\n_rlnOriginYAngst 0\n";
    let (sets, _) = placed(sets(read_as(&format!("{optics}{particle}"), "star").content), None);
    assert_eq!((sets[0].micrograph.as_deref(), positions(&sets[0].coordinates)), (Some("a b.mrc"), vec![[98.0, 120.0]]));
    let pair = "data_coordinate_files\n_rlnMicrographName a.mrc\n_rlnMicrographCoordinates a.star\n";
    assert_eq!(
        read_as(pair, "star").content,
        Content::Pairs(vec![ListedPair { micrograph: "a.mrc".into(), coordinates: "a.star".into() }])
    );
}

#[test]
fn optics_groups_that_are_equal_as_numbers_are_equal() {
    for (group, row) in [("1", "1.0"), ("1.0", "1"), ("01", "1"), ("1.000000", "1.0")] {
        let text = format!(
            "data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n2 9.0\n{group} 0.5\n\n\
             data_particles\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOpticsGroup\n10 20 {row}\n"
        );
        assert_eq!(sets(read_as(&text, "star").content)[0].pixel_size.micrograph, Some(0.5), "{group} and {row}");
    }
    let text = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n1 0.5\n\n\
                data_particles\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOpticsGroup\n10 20 3\n";
    let file = read_as(text, "star");
    assert!(file.warnings[0].contains("not in data_optics"), "{:?}", file.warnings);
    assert_eq!(sets(file.content)[0].pixel_size, Stated::default());
}

#[test]
fn coordinates_in_several_star_blocks_are_told() {
    let block = |name: &str, rows: &str| format!("data_{name}\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n{rows}\n");
    let file = read_as(&(block("", "1 2\n") + &block("", "3 4\n5 6\n")), "star");
    assert!(file.warnings[0].contains("2 tables hold coordinates") && file.warnings[0].contains("2 rows"), "{:?}", file.warnings);
    assert_eq!(positions(&one(file.content)), [[1.0, 2.0]], "the first, as RELION");
}

/// Which number of a table is the micrograph's pixel size, by what RELION's labels mean; the rest are told apart.
#[test]
fn every_pixel_size_of_a_table_is_known_for_what_it_is() {
    let particles = |optics: &str, labels: &str, values: &str| {
        let text = format!("{optics}data_particles\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOpticsGroup\n{labels}1 2 1 {values}\n");
        sets(read_as(&text, "star").content)[0].pixel_size
    };
    let optics = |labels: &str, values: &str| format!("data_optics\nloop_\n_rlnOpticsGroup\n{labels}1 {values}\n\n");
    let (movie, image, own) = ("_rlnMicrographOriginalPixelSize\n", "_rlnImagePixelSize\n", "_rlnMicrographPixelSize\n");
    let only = |size, label| Stated { micrograph: None, other: Some((size, label)) };
    assert_eq!(particles(&optics(&format!("{movie}{image}"), "0.415 3.32"), "", ""), only(0.415, "rlnMicrographOriginalPixelSize"));
    assert_eq!(particles(&optics(image, "3.32"), "", ""), only(3.32, "rlnImagePixelSize"));
    assert_eq!(particles("", "_rlnPixelSize\n", "1.5"), only(1.5, "rlnPixelSize"));
    assert_eq!(
        particles("", "_rlnDetectorPixelSize\n_rlnMagnification\n", "4 10000"),
        only(4.0, "rlnDetectorPixelSize and rlnMagnification")
    );
    // The row's own size of the micrograph is believed before the optics group's size of something else.
    let size = particles(&optics(&format!("{movie}{image}"), "0.415 3.32"), own, "0.83");
    assert_eq!(size.micrograph, Some(0.83));
    let lists = |labels: &str, values: &str| {
        let text = format!("data_micrographs\nloop_\n_rlnMicrographName\n{labels}a.mrc {values}\n");
        let Content::Micrographs(list) = read_as(&text, "star").content else { panic!() };
        list[0].pixel_size
    };
    // In a list of micrographs RELION takes the sizes of RELION 3.0 and of images for the micrographs'.
    assert_eq!(lists("_rlnDetectorPixelSize\n_rlnMagnification\n", "5 50000").micrograph, Some(1.0));
    assert_eq!(lists("_rlnImagePixelSize\n", "1.2").micrograph, Some(1.2));
    assert_eq!(lists("_rlnMicrographOriginalPixelSize\n", "0.415"), only(0.415, "rlnMicrographOriginalPixelSize"));
}

const PARTICLES: &str = "data_optics\nloop_\n_rlnOpticsGroup #1\n_rlnMicrographPixelSize #2\n_rlnImagePixelSize #3\n1 2.0 4.0\n2 1.0 4.0\n\n\
    data_particles\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnMicrographName #3\n_rlnOpticsGroup #4\n_rlnOriginXAngst #5\n_rlnOriginYAngst #6\n_rlnAutopickFigureOfMerit #7\n\
    100 200 m/a.mrc 1 3.0 -1.0 0.5\n10 20 m/b.mrc 2 3.0 0 -999\n101 201 m/a.mrc 1 0 0 0.25\n";

#[test]
fn merged_particles_are_grouped_and_refined_shifts_applied() {
    let file = read_as(PARTICLES, "star");
    assert_eq!(file.warnings, Vec::<String>::new());
    let sets = sets(file.content);
    assert_eq!(sets.iter().map(|set| set.micrograph.as_deref().unwrap()).collect::<Vec<_>>(), ["m/a.mrc", "m/b.mrc"]);
    assert_eq!(sets.iter().map(|set| set.pixel_size.micrograph.unwrap()).collect::<Vec<_>>(), [2.0, 1.0]);
    let (sets, warnings) = placed(sets, None);
    assert_eq!(warnings, ["refined shifts are applied to the coordinates; --no-shifts leaves them out"]);
    assert_eq!(positions(&sets[0].coordinates), [[98.5, 200.5], [101.0, 201.0]]);
    assert_eq!((positions(&sets[1].coordinates)[0], sets[1].coordinates.points[0].score), ([7.0, 20.0], None));
}

#[test]
fn shifts_can_be_left_out_and_need_a_pixel_size() {
    let mut options = ReadOptions::default();
    options.star.ignore_shifts = true;
    let file = read(PARTICLES.as_bytes(), "star", &options).unwrap();
    let (unmoved, warnings) = placed(sets(file.content), None);
    assert_eq!((positions(&unmoved[0].coordinates)[0], warnings), ([100.0, 200.0], vec![]));
    assert_eq!(positions(&placed(sets(read_as(PARTICLES, "star").content), Some(0.5)).0[0].coordinates)[0], [94.0, 202.0]);
    let file = read_as("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOriginXAngst\n_rlnOriginYAngst\n1 2 3 4\n", "star");
    let (unknown, warnings) = placed(sets(file.content), None);
    assert!(warnings[0].contains("1 of the refined shifts had to be left out") && warnings[0].contains("--angpix"), "{warnings:?}");
    assert_eq!(positions(&unknown[0].coordinates), [[1.0, 2.0]]);
    // RELION 3.0: shifts in pixels of the particles, pixel size from detector and magnification.
    let old = "data_images\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOriginX\n_rlnOriginY\n_rlnMagnification\n_rlnDetectorPixelSize\n10 20 1 -2 50000 10\n";
    let set = sets(read_as(old, "star").content).remove(0);
    assert_eq!(set.pixel_size, Stated { micrograph: None, other: Some((2.0, "rlnDetectorPixelSize and rlnMagnification")) });
    // 2 A are the particles', and the micrograph's only if nothing else is known: with 1 A the shift is twice as long.
    for (given, wanted) in [(None, [9.0, 22.0]), (Some(1.0), [8.0, 24.0])] {
        assert_eq!(positions(&placed(vec![set.clone()], given).0[0].coordinates), [wanted]);
    }
    // Without any size a pixel of the particle is taken for one of the micrograph, which is told.
    let bare = "data_images\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOriginX\n_rlnOriginY\n10 20 1 -2\n";
    let (bare, warnings) = placed(sets(read_as(bare, "star").content), Some(1.0));
    assert!(positions(&bare[0].coordinates) == [[9.0, 22.0]] && warnings[0].contains("pixels of the particles"), "{warnings:?}");
}

#[test]
fn star_lists_of_micrographs_and_of_coordinate_files_are_told_apart() {
    let text = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n1 1.25\n\ndata_micrographs\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n_rlnX\nMotionCorr/job002/a.mrc 1 0\n";
    let Content::Micrographs(list) = read_as(text, "star").content else { panic!() };
    assert_eq!((list[0].path.as_str(), list[0].pixel_size.micrograph), ("MotionCorr/job002/a.mrc", Some(1.25)));
    let pairs = vec![ListedPair { micrograph: "a b.mrc".into(), coordinates: "out/a.star".into() }];
    let text = star::write::coordinate_files(&pairs);
    assert_eq!(text, "data_coordinate_files\n\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n\"a b.mrc\"\tout/a.star\n");
    assert_eq!(read_as(&text, "star").content, Content::Pairs(pairs));
}

#[test]
fn candidates_are_read_as_coordinates_with_sizes() {
    let text = "#epk Format 1\n#epk SizeX 10\n\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit #3\n_epkWidth #4\n_epkHeight #5\n1.5 2.5 0.75 10 12\n";
    let points = one(read_as(text, "star").content);
    assert_eq!((points.kind, points.points[0].radius(), points.points[0].score), (Kind::Vesicle, Some(5.5), Some(0.75)));
}

/// The sets with their refined shifts taken, as a command does it that knows nothing but `--angpix`.
fn placed(sets: Vec<Set>, given: Option<f64>) -> (Vec<Set>, Vec<String>) {
    let mut warnings = Warnings::default();
    let place = |mut set: Set| {
        let evidence = Evidence { given, label: set.pixel_size, ..Evidence::default() };
        set.take_shifts(evidence.angstrom(), &mut warnings).unwrap();
        set
    };
    let sets = sets.into_iter().map(place).collect();
    (sets, warnings.into_messages())
}

fn fiber(points: &[[f64; 2]], group: u32) -> Vec<Coordinate> {
    points.iter().map(|[x, y]| Coordinate { group: Some(group), size: Some(Size::square(20.0)), ..Coordinate::at(*x, *y) }).collect()
}

#[test]
fn start_end_pairs_are_read_only_when_asked_for() {
    let text = "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n3 4\n5 6\n7 8\n";
    assert_eq!(one(read_as(text, "star").content).kind, Kind::Particle);
    let mut options = ReadOptions::default();
    options.star.start_end = true;
    let pairs = one(read(text.as_bytes(), "star", &options).unwrap().content);
    assert_eq!(pairs.fibers().unwrap(), [vec![0, 1], vec![2, 3]]);
    let odd = format!("{:#}", read(format!("{text}9 9\n").as_bytes(), "star", &options).unwrap_err());
    assert!(odd.contains("line 9: an odd number of rows"), "{odd}");
}

#[test]
fn rows_without_tube_ids_are_pairs_where_fibers_are_wanted() {
    // As RELION's ManualPick writes the ends of two filaments.
    let text = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnParticleSelectionType #3\n_rlnAnglePsi #4\n50 50 1 -999\n350 350 1 -999\n400 60 2 -999\n480 400 2 -999\n";
    let mut options = ReadOptions::default();
    options.star.fibers = true;
    let file = read(text.as_bytes(), "star", &options).unwrap();
    assert!(file.warnings[0].contains("pairs, start and end"), "{:?}", file.warnings);
    let pairs = one(file.content);
    assert_eq!((pairs.kind, pairs.fibers().unwrap()), (Kind::Fiber, vec![vec![0, 1], vec![2, 3]]));
    let odd = format!("{:#}", read(format!("{text}1 1 1 1\n").as_bytes(), "star", &options).unwrap_err());
    assert!(odd.contains("rlnHelicalTubeID"), "{odd}");
    // Segments have priors, and tubes have numbers: those are no pairs.
    for (label, kind) in
        [("_rlnAnglePsiPrior", Kind::Particle), ("_rlnHelicalTrackLengthAngst", Kind::Particle), ("_rlnHelicalTubeID", Kind::Fiber)]
    {
        let other = text.replace("_rlnAnglePsi ", &format!("{label} ")).replace("-999", "7");
        let file = read(other.as_bytes(), "star", &options).unwrap();
        assert!(file.warnings.iter().all(|warning| !warning.contains("pairs")), "{label}: {:?}", file.warnings);
        assert_eq!(one(file.content).kind, kind, "{label}");
    }
}

#[test]
fn segments_are_put_in_order_by_their_track_and_else_by_their_places() {
    // Two fibers whose rows come class by class, as after a selection of classes.
    let segments = [(1, 30.0), (2, 0.0), (1, 0.0), (2, 60.0), (1, 90.0), (1, 60.0), (2, 30.0)];
    let place = |tube: i32, track: f64| if tube == 1 { [100.0 + track, 50.0] } else { [20.0, 400.0 + track] };
    let table = |label: Option<(&str, f64)>| {
        let mut text = "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnHelicalTubeID\n_rlnOriginXAngst\n_rlnOriginYAngst\n".to_owned();
        text += &label.map_or(String::new(), |(label, _)| format!("_{label}\n"));
        for (i, (tube, track)) in segments.iter().enumerate() {
            let [x, y] = place(*tube, *track);
            let track = label.map_or(String::new(), |(_, unit)| (track * unit).to_string());
            text += &format!("{x} {y} {tube} {i} 0 {track}\n");
        }
        text
    };
    for label in [Some(("rlnHelicalTrackLengthAngst", 1.5)), Some(("rlnHelicalTrackLength", 1.0)), None] {
        let file = read_as(&table(label), "star");
        let how = if label.is_some() { "track lengths put them" } else { "followed by its neighbour" };
        assert!(
            file.warnings.len() == 1 && file.warnings[0].starts_with("2 of the fibers") && file.warnings[0].contains(how),
            "{:?}",
            file.warnings
        );
        let set = sets(file.content).remove(0);
        let fibers: Vec<Vec<[f64; 2]>> = set
            .coordinates
            .fibers()
            .unwrap()
            .iter()
            .map(|fiber| fiber.iter().map(|&i| [set.coordinates.points[i].x, set.coordinates.points[i].y]).collect())
            .collect();
        let path = |tube, tracks: &[f64]| tracks.iter().map(|track| place(tube, *track)).collect::<Vec<_>>();
        let right = [path(1, &[0.0, 30.0, 60.0, 90.0]), path(2, &[0.0, 30.0, 60.0])];
        let turned = [right[0].iter().rev().copied().collect::<Vec<_>>(), right[1].iter().rev().copied().collect()];
        for (i, fiber) in fibers.iter().enumerate() {
            assert!(*fiber == right[i] || (label.is_none() && *fiber == turned[i]), "{fiber:?}");
        }
        // The shift of a row goes where its point goes: each row has its own number as a shift.
        let (placed, _) = placed(vec![set.clone()], Some(1.0));
        for (before, after) in set.coordinates.points.iter().zip(&placed[0].coordinates.points) {
            let row = segments.iter().position(|(tube, track)| place(*tube, *track) == [before.x, before.y]).unwrap();
            assert_eq!(after.x, before.x - row as f64);
        }
    }
}

#[test]
fn fibers_survive_pairs_and_boxes_of_helices() {
    let mut points = fiber(&[[100.0, 100.0], [150.0, 120.0], [200.0, 110.0]], 1);
    points.extend(fiber(&[[10.0, 300.0], [50.0, 320.0]], 2));
    let fibers = Coordinates { kind: Kind::Fiber, points };
    let pairs = star::write::start_end(&fibers).unwrap();
    assert_eq!(pairs.lines().filter(|line| line.ends_with("\t1")).count(), 4, "two edges of the first fiber: {pairs}");
    for start_end in [false, true] {
        let mut options = ReadOptions::default();
        options.star.start_end = start_end;
        let back = one(read(pairs.as_bytes(), "star", &options).unwrap().content);
        assert_eq!((positions(&back), back.fibers().unwrap()), (positions(&fibers), fibers.fibers().unwrap()));
    }
    let boxes = box_file::write_helix(&fibers, &box_file::WriteOptions::default()).unwrap();
    assert!(boxes.starts_with("90\t90\t20\t20\t-1\n140\t110\t20\t20\t-2\n140\t110\t20\t20\t-1\n"), "{boxes}");
    let back = read_as(&boxes, "box");
    assert_eq!(back.format, CoordinateFormat::HelixBox);
    assert_eq!(one(back.content), fibers);
    let helicon = box_file::write_helicon("a.mrc", &fibers, &box_file::WriteOptions::default()).unwrap();
    let back = read_as(&helicon, "txt");
    assert_eq!(back.format, CoordinateFormat::Helicon);
    assert_eq!(sets(back.content)[0], Set { micrograph: Some("a.mrc".into()), coordinates: fibers, ..Set::default() });
}

#[test]
fn helical_segments_have_relions_priors() {
    let fibers = Coordinates { kind: Kind::Fiber, points: fiber(&[[123.0, 456.0], [156.0, 499.0]], 1) };
    let steps = SegmentSteps { step_angstrom: 40.0, pixel_size_angstrom: 1.5 };
    let text = star::write::segments(&fibers, steps).unwrap();
    // 54.20 px = 81.30 A long: segments at 0, 40 and 80 A. The angle has a minus sign: y counts rows.
    let rows: Vec<Vec<f64>> = text.lines().skip(12).map(|line| line.split('\t').map(|token| token.parse().unwrap()).collect()).collect();
    assert_eq!(rows.len(), 3, "{text}");
    assert_eq!(rows.iter().map(|row| row[6]).collect::<Vec<_>>(), [0.0, 40.0, 80.0]);
    assert!(rows.iter().all(|row| row[3] == 1.0 && row[4] == 90.0 && (row[5] + 52.4959).abs() < 1e-3), "{rows:?}");
    assert!((rows[2][0] - 155.47).abs() < 0.006 && (rows[2][1] - 498.31).abs() < 0.006, "{rows:?}");
    let back = one(read_as(&text, "star").content);
    assert_eq!((back.kind, back.fibers().unwrap()), (Kind::Fiber, vec![vec![0, 1, 2]]));
    // The track goes on around a corner, and a step that ends on a vertex is there once.
    let bent = Coordinates { kind: Kind::Fiber, points: fiber(&[[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]], 3) };
    let text = star::write::segments(&bent, SegmentSteps { step_angstrom: 5.0, pixel_size_angstrom: 1.0 }).unwrap();
    assert_eq!(positions(&one(read_as(&text, "star").content)), [[0.0, 0.0], [5.0, 0.0], [10.0, 0.0], [10.0, 5.0], [10.0, 10.0]]);
    for bad in [
        SegmentSteps { step_angstrom: 0.0, ..steps },
        SegmentSteps { pixel_size_angstrom: f64::NAN, ..steps },
        SegmentSteps { step_angstrom: 1e-9, ..steps },
    ] {
        assert!(star::write::segments(&fibers, bad).is_err(), "{bad:?}");
    }
}

#[test]
fn one_table_of_all_micrographs_is_read_back_in_sets() {
    let set = |name: &str, x| Set {
        micrograph: Some(name.into()),
        coordinates: Coordinates { kind: Kind::Particle, points: vec![Coordinate { score: Some(0.5), ..Coordinate::at(x, 2.0) }] },
        ..Set::default()
    };
    let all = vec![set("a.mrc", 1.0), set("b c.mrc", 3.25)];
    let text = star::write::merged(&all).unwrap();
    assert!(text.contains("_rlnAutopickFigureOfMerit #4\na.mrc\t1.00\t2.00\t0.500000\n\"b c.mrc\"\t3.25"), "{text}");
    assert_eq!(sets(read_as(&text, "star").content), all);
}

// ---- boxes, coord, CBOX, Topaz, JSON

#[test]
fn bare_numbers_are_told_apart_by_their_columns() {
    use CoordinateFormat::{CboxOld, Coord, CornerBox, EmanBox, HelixBox};
    for (text, extension, format) in [
        ("1 2\n", "", Coord),
        ("1 2 0.5\n", "", Coord),
        ("10 20 80 80\n30 40 80 80\n", "", EmanBox(false)),
        ("10 20 30 30\n30 40 31 32\n50 60 30 29\n", "", EmanBox(false)),
        ("10 20 33 43\n300 400 323 423\n", "", CornerBox),
        ("10 20 19 0\n30 40 19 0\n", "coord", Coord),
        ("100 200 123 223\n", "box", EmanBox(false)),
        ("10 20 80 80 -3\n30 40 80 80 -3\n", "", EmanBox(false)),
        ("10 20 80 80 -1\n30 40 80 80 -2\n", "", HelixBox),
        ("10 20 80 80 0.5\n30 40 80 80 1.0\n", "", EmanBox(true)),
        ("10 20 80 80 0.5\n30 40 80 80 0.75\n", "cbox", CboxOld),
        ("10 20 80 80 7.5\n30 40 80 80 -2.25\n", "", EmanBox(true)),
        ("10 20 80 80 0.5 90 91\n", "", CboxOld),
    ] {
        assert_eq!(read_as(text, extension).format, format, "{text}");
    }
    let corners = ReadOptions { box_style: Some(BoxStyle::Corners), ..ReadOptions::default() };
    let file = read(b"100 200 123 223\n", "box", &corners).unwrap();
    assert_eq!((file.warnings.len(), positions(&one(file.content))), (0, vec![[111.5, 211.5]]));
    let eman = ReadOptions { box_style: Some(BoxStyle::Eman), ..ReadOptions::default() };
    assert_eq!(positions(&one(read(b"10 20 33 43\n300 400 323 423\n", "box", &eman).unwrap().content))[0], [26.5, 41.5]);
    for (text, wanted) in [
        ("1 2 3 4 5 6\n", "6 columns; expected 2 or 3 or 4 or 5 or 7"),
        ("1 2 3 4\n1 2 3\n", "line 2: 3 columns; expected 4 as in line 1"),
        ("1 2 3 4\nx 2 3 4\n", "line 2: column 1 is 'x'"),
        ("X,Y,D\n1,2,3\n", "replace the commas"),
        ("version https://git-lfs.github.com/spec/v1\n", "git-LFS"),
    ] {
        let message = error_of(text, "");
        assert!(message.contains(wanted), "{message}");
    }
}

#[test]
fn a_format_named_by_the_user_must_fit_the_content() {
    let message = |text: &str, family| {
        let options = ReadOptions { family: Some(family), ..ReadOptions::default() };
        read(text.as_bytes(), "txt", &options).map(|_| String::new()).unwrap_or_else(|error| format!("{error:#}"))
    };
    assert!(message("1 2 80 80\n3 4 80 80\n", Family::Coord).contains("EMAN boxes"));
    assert!(message("1 2\n", Family::Box).contains("columns in a box file"));
    assert!(message("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n", Family::Thi).contains("STAR"));
    assert_eq!(message("1 2 0.5\n", Family::Thi), "");
    assert_eq!(message("1 2 80 80 0.5\n", Family::Cbox), "");
    assert!("nothing".parse::<Family>().unwrap_err().contains("expected thi, star"));
}

#[test]
fn box_corners_give_back_the_rounded_centre_in_integer_arithmetic() {
    for side in [180, 181, 1] {
        let boxes = Coordinates { kind: Kind::Particle, points: vec![Coordinate::at(2979.4, 3974.5), Coordinate::at(-3.2, 0.5)] };
        let options = box_file::WriteOptions { size_px: Some(side), ..Default::default() };
        let text = box_file::write(&boxes, &options).unwrap();
        for (row, centre) in text.lines().zip([[2979, 3975], [-3, 1]]) {
            let v: Vec<i64> = row.split('\t').map(|token| token.parse().unwrap()).collect();
            assert_eq!([v[0] + v[2] / 2, v[1] + v[3] / 2], centre, "{row}");
        }
    }
}

#[test]
fn points_of_a_tomogram_are_refused_or_chosen_by_slice_in_every_format() {
    let star = "data_particles\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n_rlnOriginXAngst\n_rlnOriginYAngst\n\
                t.mrc 10 20 5 1 0\nt.mrc 30 40 6 2 0\nt.mrc 50 60 7 3 0\n";
    let topaz = "image_name\tx_coord\ty_coord\tz_coord\nt\t10\t20\t5\nt\t30\t40\t6\nt\t50\t60\t7\n";
    let thi = "[Particle Coordinates: X Y Z Value]\n10 20 5 1\n30 40 6 1\n50 60 7 1\n[End]\n";
    let cbox = "data_cryolo\nloop_\n_CoordinateX\n_CoordinateY\n_CoordinateZ\n_Width\n_Height\n8 18 5 4 4\n28 38 6 4 4\n48 58 7 4 4\n";
    let imod = "1 10 20 5\n1 30 40 6\n2 50 60 7\n";
    for (text, extension) in [(star, "star"), (topaz, "txt"), (thi, "thi"), (cbox, "cbox"), (imod, "txt")] {
        let message = error_of(text, extension);
        assert!(message.contains("tomogram") && message.contains("--z 5:7"), "{extension}: {message}");
        let chosen = |slices| {
            let file = read(text.as_bytes(), extension, &ReadOptions { slices, ..ReadOptions::default() }).unwrap();
            let told = file.warnings.join("; ");
            (positions(&placed(sets(file.content), Some(1.0)).0[0].coordinates), told)
        };
        let (points, told) = chosen(Slices::Range([6.0, 6.5]));
        let shift = if extension == "star" { 2.0 } else { 0.0 };
        assert!(
            points == [[30.0 - shift, 40.0]] && told.contains("2 of the points are not in the slices"),
            "{extension}: {points:?} {told}"
        );
        let (points, told) = chosen(Slices::All);
        assert!(points.len() == 3 && told.contains("several slices"), "{extension}: {told}");
    }
    // One slice is a micrograph.
    assert_eq!(positions(&one(read_as(&star.replace("t.mrc 30 40 6", "t.mrc 30 40 5").replace("60 7", "60 5"), "star").content)).len(), 3);
    // A third column of plain numbers may be anything: it is told, and is z where slices are chosen.
    let file = read_as("10 20 5\n30 40 6\n", "coord");
    assert!(file.warnings[0].contains("--z"), "{:?}", file.warnings);
    let options = ReadOptions { slices: Slices::Range([6.0, 6.0]), ..ReadOptions::default() };
    assert_eq!(positions(&one(read(b"10 20 5\n30 40 6\n", "coord", &options).unwrap().content)), [[30.0, 40.0]]);
    assert!(error_of("{\"boxes_3d\": [[1, 2, 3, \"manual\"]]}", "json").contains("tomogram"));
    assert!(error_of("data_particles\nloop_\n_rlnTomoName\n_rlnCenteredCoordinateXAngst\nt 1\n", "star").contains("tomogram"));
}

#[test]
fn contours_of_imod_are_no_boxes_and_their_numbers_no_x() {
    let contours = "     1   100.50   200.50     0.00\n     1   130.50   240.50     0.00\n     2   300.50   400.50     0.00\n     2   340.50   420.50     0.00\n";
    let objects = "1 1 100.5 200.5 0\n1 1 130.5 240.5 0\n1 2 300.5 400.5 0\n2 1 340.5 420.5 0\n";
    let places = [[100.5, 200.5], [130.5, 240.5], [300.5, 400.5], [340.5, 420.5]];
    for (text, fibers) in [(contours, vec![vec![0, 1], vec![2, 3]]), (objects, vec![vec![0, 1], vec![2], vec![3]])] {
        let file = read_as(text, "txt");
        assert_eq!(file.format, CoordinateFormat::ImodContours);
        assert!(file.warnings[0].contains("contours of IMOD"), "{:?}", file.warnings);
        let points = one(file.content);
        assert_eq!((points.kind, positions(&points)), (Kind::Particle, places.to_vec()));
        let options = ReadOptions { kind: Some(Kind::Fiber), ..ReadOptions::default() };
        let paths = one(read(text.as_bytes(), "txt", &options).unwrap().content);
        assert_eq!((paths.fibers().unwrap(), positions(&paths)), (fibers, places.to_vec()));
    }
    // What only looks alike: boxes in the first column of pixels, boxes in any order of x, the original's four columns.
    for text in ["1 100 64 64\n1 300 64 64\n2 500 64 64\n", "1 100 64 64\n90 300 60 64\n2 500 64 62\n", "1 100 64 64\n"] {
        assert_eq!(read_as(text, "box").format, CoordinateFormat::EmanBox(false), "{text}");
    }
    assert_eq!(read_as("5 100 19 0\n90 300 19 0\n", "coord").format, CoordinateFormat::Coord);
}

#[test]
fn overlapping_boxes_of_a_filament_are_put_in_order_and_vertices_are_not() {
    let table = |side: f64| {
        let mut text = "data_cryolo\nloop_\n_CoordinateX\n_CoordinateY\n_Width\n_Height\n_filamentid\n".to_owned();
        [0.0, 60.0, 20.0, 40.0, 80.0].iter().for_each(|along| text += &format!("{along} 5 {side} {side} 1\n"));
        text
    };
    let xs = |file: LabelFile| one(file.content).points.iter().map(|point| point.x).collect::<Vec<_>>();
    let file = read_as(&table(30.0), "cbox");
    assert!(file.warnings[0].starts_with("1 of the fibers had points out of order"), "{:?}", file.warnings);
    assert_eq!(xs(file), [15.0, 35.0, 55.0, 75.0, 95.0]);
    assert_eq!(xs(read_as(&table(10.0), "cbox")), [5.0, 65.0, 25.0, 45.0, 85.0]);
}

#[test]
fn a_third_column_of_zeros_is_the_z_of_a_micrograph_and_no_score() {
    // model2point of an IMOD model without contours: x y z.
    assert_eq!(one(read_as("100 200 0\n130 240 0\n", "txt").content).points[1].score, None);
    assert_eq!(one(read_as("100 200 0\n130 240 0.5\n", "txt").content).points[1].score, Some(0.5));
}

fn version_of(cbox: &str) -> Vec<String> {
    read_as(cbox, "cbox").warnings
}

#[test]
fn cbox_holds_box_estimate_score_and_fiber() {
    let text = "\ndata_global\n\n_cbox_format_version 1.0\n\ndata_cryolo\n\nloop_\n_CoordinateX #1\n_CoordinateY #2\n_CoordinateZ #3\n_Width #4\n_Height #5\n_Depth #6\n_EstWidth #7\n_EstHeight #8\n_Confidence #9\n_NumBoxes #10\n_Angle #11\n\
        10.5 20.0 <NA> 200.0 200.0 <NA> 208.0 204.0 0.25 <NA> <NA>\n\ndata_cryolo_include\n\nloop_\n_slice_index #1\n";
    let boxes = one(read_as(text, "cbox").content);
    let expected = Coordinate {
        score: Some(0.25),
        size: Some(Size::square(200.0)),
        estimated_size: Some(Size { width: 208.0, height: 204.0 }),
        ..Coordinate::at(110.5, 120.0)
    };
    assert_eq!((boxes.points[0], boxes.points[0].radius()), (expected, Some(103.0)));
    assert_eq!(cbox::write(&boxes, &cbox::WriteOptions::default()).unwrap(), text);
    let fibers = text.replace("_Angle #11\n", "_Angle #11\n_filamentid #12\n").replace("<NA> <NA>\n", "<NA> <NA> 3.0\n");
    let fibers = one(read_as(&fibers, "cbox").content);
    assert_eq!((fibers.kind, fibers.points[0].group), (Kind::Fiber, Some(3)));
    let tomogram = text.replace(
        "\n\ndata_cryolo_include",
        "\n1 2 5 9 9 <NA> <NA> <NA> 1 <NA> <NA>\n1 2 6 9 9 <NA> <NA> <NA> 1 <NA> <NA>\n\ndata_cryolo_include",
    );
    assert!(error_of(&tomogram, "cbox").contains("tomogram"));
    assert!(version_of(&text.replace("_version 1.0", "_version 1")).is_empty(), "1 and 1.0 are one version");
    assert!(error_of("data_cryolo\nloop_\n_CoordinateX\n1\n", "cbox").contains("no column _CoordinateY"));
    let old = one(read_as("10\t20\t200\t200\t0.25\t208\t204\n", "cbox").content);
    assert_eq!(old.points[0], Coordinate { x: 110.0, ..expected });
}

#[test]
fn topaz_tables_are_scaled_and_grouped() {
    let text = "image_name\tx_coord\ty_coord\tscore\na b\t10\t20\t1.5\nc\t1\t2\tnan\na b\t3\t4\t0.25\n";
    let options = ReadOptions { topaz_scale: Some(8.0), ..ReadOptions::default() };
    let all = sets(read(text.as_bytes(), "txt", &options).unwrap().content);
    assert_eq!(all.iter().map(|set| set.micrograph.as_deref().unwrap()).collect::<Vec<_>>(), ["a b", "c"]);
    assert_eq!(positions(&all[0].coordinates), [[80.0, 160.0], [24.0, 32.0]]);
    assert_eq!((all[0].coordinates.points[0].score, all[1].coordinates.points[0].score), (Some(1.5), None));
    let plain = sets(read_as(text, "txt").content);
    let written = topaz::write(&plain, Integers::Round).unwrap();
    assert_eq!(written, "image_name\tx_coord\ty_coord\tscore\na b\t10\t20\t1.500000\na b\t3\t4\t0.250000\nc\t1\t2\tnan\n");
    assert!(error_of("image_name\tx_coord\ty_coord\na\t1\n", "txt").contains("line 2: 2 columns; expected 3"));
}

#[test]
fn eman2_info_files_give_their_boxes() {
    let text = "{\"ctf\": null, \"boxes\": [[19, 56.5, \"manual\"], [1, 2, \"auto_local\", 0.5], [3, 4, \"refbad\"]]}";
    let file = read_as(text, "json");
    assert_eq!(file.warnings.len(), 1);
    let points = one(file.content);
    assert_eq!(points.points, [Coordinate::at(19.0, 56.5), Coordinate { score: Some(0.5), ..Coordinate::at(1.0, 2.0) }]);
    for (text, wanted) in [
        ("{\"a\": 1}", "no list \"boxes\""),
        ("{\"boxes\": [[1]]}", "entry 1"),
        ("{\"boxes\": [", "line 1"),
        ("{\"boxes\": 3}", "is no list"),
    ] {
        let message = error_of(text, "json");
        assert!(message.contains(wanted), "{message}");
    }
}

#[test]
fn helicon_text_is_read_with_both_kinds_of_brackets() {
    let text = "#micrograph: ../m/a.mrc\n#particle length: 20\n#helix: (1, 2),(11, 2),20\n1\t2\n6\t2\n11\t2\n#helix: [1, 12],[11, 12],20\n";
    let set = sets(read_as(text, "txt").content).remove(0);
    assert_eq!(set.micrograph.as_deref(), Some("../m/a.mrc"));
    assert_eq!(set.coordinates.fibers().unwrap(), [vec![0, 1, 2], vec![3, 4]]);
    assert!(error_of("#helix: (1, 2)\n1 2\n", "txt").contains("2 numbers after #helix"));
    assert!(error_of("#micrograph: a\n1 2\n", "txt").contains("before the first #helix"));
}

#[test]
fn what_is_no_text_is_named() {
    for (bytes, wanted) in [
        (&b"\x93NUMPY\x01\x00v\x00{'descr'"[..], "cut off"),
        (b"\x89PNG\r\n\x1a\n", "this is an image"),
        (b"\x1f\x8b\x08\x00", "compressed"),
        (b"1 2\n\x00\x00", "a zero byte"),
        (b"\xff\xfe1\x002\x00", "UTF-16"),
    ] {
        let message = format!("{:#}", read(bytes, "txt", &ReadOptions::default()).unwrap_err());
        assert!(message.contains(wanted), "{message}");
    }
    assert!(read(b"[File List: Filename]\ncaf\xe9.mrc\n[End]\n", "thi", &ReadOptions::default()).is_ok(), "Latin-1");
}

// ---- round trips

fn any_points(kind: Kind) -> impl Strategy<Value = Coordinates> {
    let point = (-100.0..20000.0f64, -100.0..20000.0f64, 0.0..1.0f32, 1.0..500.0f64, 1.0..500.0f64);
    prop::collection::vec(point, 0..40).prop_map(move |rows| {
        let point = |(x, y, score, width, height): (f64, f64, f32, f64, f64)| {
            let size = if kind == Kind::Vesicle { Size::square(width) } else { Size { width, height } };
            Coordinate { x, y, score: Some(score), size: Some(size), ..Coordinate::default() }
        };
        Coordinates { kind, points: rows.into_iter().map(point).collect() }
    })
}

fn any_fibers() -> impl Strategy<Value = Coordinates> {
    prop::collection::vec(prop::collection::vec((0.0..20000.0f64, 0.0..20000.0f64, 0.0..1.0f32), 2..8), 0..6).prop_map(|fibers| {
        let vertex = |group, (x, y, score)| Coordinate {
            score: Some(score),
            group: Some(group),
            size: Some(Size::square(30.0)),
            ..Coordinate::at(x, y)
        };
        let points =
            fibers.into_iter().enumerate().flat_map(|(i, fiber)| fiber.into_iter().map(move |v| vertex(i as u32 + 1, v))).collect();
        Coordinates { kind: Kind::Fiber, points }
    })
}

/// Equal up to the digits of the format: positions to `digits_px`, scores to `score` (None: the format has none).
fn assert_same(ours: &Coordinates, back: &Coordinates, digits_px: f64, score: Option<f32>) {
    assert_eq!(ours.points.len(), back.points.len());
    for (a, b) in ours.points.iter().zip(&back.points) {
        assert!((a.x - b.x).abs() <= digits_px && (a.y - b.y).abs() <= digits_px, "{a:?} {b:?}");
        match score {
            Some(digits) => assert!((a.score.unwrap() - b.score.unwrap()).abs() <= digits, "{a:?} {b:?}"),
            None => assert_eq!(b.score, None),
        }
    }
}

// Half a unit of the last written digit, and rounding of f32 besides.
const SCORE: f32 = 0.6e-6;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn thi_particles_survive(points in any_points(Kind::Particle)) {
        let back = read_as(&thi::write(&points, &thi::WriteOptions::default()).unwrap(), "thi");
        prop_assert!(back.warnings.is_empty());
        assert_same(&points, &one(back.content), 0.5, Some(SCORE));
    }

    #[test]
    fn thi_vesicles_survive(points in any_points(Kind::Vesicle)) {
        let back = one(read_as(&thi::write(&points, &thi::WriteOptions::default()).unwrap(), "thi").content);
        assert_same(&points, &back, 0.5, Some(SCORE));
        prop_assert!(points.points.iter().zip(&back.points).all(|(a, b)| (a.radius().unwrap() - b.radius().unwrap()).abs() <= 0.5));
    }

    #[test]
    fn thi_fibers_survive(fibers in any_fibers()) {
        let back = one(read_as(&thi::write(&fibers, &thi::WriteOptions::default()).unwrap(), "thi").content);
        assert_same(&fibers, &back, 0.5, Some(SCORE));
        prop_assert_eq!(fibers.fibers().unwrap(), back.fibers().unwrap());
    }

    #[test]
    fn star_particles_survive(points in any_points(Kind::Particle)) {
        let back = one(read_as(&star::write::particles(&points, Style::Relion), "star").content);
        assert_same(&points, &back, 0.005_000_1, Some(SCORE));
    }

    #[test]
    fn star_pairs_survive(fibers in any_fibers()) {
        let back = one(read_as(&star::write::start_end(&fibers).unwrap(), "star").content);
        assert_same(&fibers, &back, 0.005_000_1, Some(SCORE));
        prop_assert_eq!(fibers.fibers().unwrap(), back.fibers().unwrap());
    }

    #[test]
    fn segments_are_evenly_spaced_and_on_the_path(fibers in any_fibers(), step in 10.0..300.0f64) {
        let text = star::write::segments(&fibers, SegmentSteps { step_angstrom: step, pixel_size_angstrom: 1.0 }).unwrap();
        let back = one(read_as(&text, "star").content);
        let length = |points: &[usize], of: &Coordinates| points.windows(2).map(|e| (of.points[e[0]].x - of.points[e[1]].x).hypot(of.points[e[0]].y - of.points[e[1]].y)).sum::<f64>();
        let back_fibers = back.fibers().unwrap();
        prop_assert_eq!(back_fibers.len(), fibers.fibers().unwrap().len());
        for (ours, theirs) in fibers.fibers().unwrap().iter().zip(&back_fibers) {
            prop_assert_eq!(theirs.len(), (length(ours, &fibers) / step).floor() as usize + 1);
        }
    }

    #[test]
    fn boxes_survive(points in any_points(Kind::Particle)) {
        let options = box_file::WriteOptions { score: true, size_px: Some(180), ..Default::default() };
        let text = box_file::write(&points, &options).unwrap();
        let back = one(read_as(&text, "box").content);
        // Scores that are all whole numbers are a constant column, not scores.
        let has_scores = back.points.iter().all(|p| p.score.is_some());
        prop_assert!(has_scores || text.lines().all(|line| line.ends_with(".000000")));
        assert_same(&points, &back, 0.5, has_scores.then_some(SCORE));
        prop_assert!(back.points.iter().all(|p| p.size == Some(Size::square(180.0))));
    }

    #[test]
    fn coord_survives(points in any_points(Kind::Particle)) {
        assert_same(&points, &one(read_as(&coord::write(&points, Integers::Round), "coord").content), 0.5, None);
    }

    #[test]
    fn cbox_survives_to_the_last_bit(points in any_points(Kind::Particle)) {
        let back = one(read_as(&cbox::write(&points, &cbox::WriteOptions::default()).unwrap(), "cbox").content);
        // Corner and back to the centre: one rounding each way.
        assert_same(&points, &back, 1e-11, Some(0.0));
        prop_assert!(points.points.iter().zip(&back.points).all(|(a, b)| a.size == b.size));
    }

    #[test]
    fn cbox_fibers_survive(fibers in any_fibers()) {
        let back = one(read_as(&cbox::write(&fibers, &cbox::WriteOptions::default()).unwrap(), "cbox").content);
        prop_assert_eq!(fibers.fibers().unwrap(), back.fibers().unwrap());
    }

    #[test]
    fn topaz_survives(points in any_points(Kind::Particle)) {
        let set = Set { micrograph: Some("a".into()), coordinates: points.clone(), ..Set::default() };
        let back = sets(read_as(&topaz::write(&[set], Integers::Round).unwrap(), "txt").content);
        prop_assert_eq!(back.len(), usize::from(!points.points.is_empty()));
        if let Some(set) = back.first() {
            assert_same(&points, &set.coordinates, 0.5, Some(SCORE));
        }
    }

    #[test]
    fn quoted_names_survive(name in "[ -~]{1,20}") {
        prop_assume!(!(name.contains('"') && name.contains('\'')) && name.trim() == name);
        let pairs = vec![ListedPair { micrograph: name, coordinates: "a.star".into() }];
        prop_assert_eq!(read_as(&star::write::coordinate_files(&pairs), "star").content, Content::Pairs(pairs));
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in "(\\[|data_|loop_|_rlnCoordinate[XY]|#|;|'|\"|[0-9.,-]|\\PC| |\t|\n|\r){0,60}", extension in "thi|star|box|cbox|json|txt") {
        let _ = read(text.as_bytes(), &extension, &ReadOptions::default());
    }
}
