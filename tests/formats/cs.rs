//! Tables of cryoSPARC: what its own package reads from them, we read.

use epicker::formats::coordinates::{Content, Kind, Set, Shift};
use epicker::formats::cs;
use epicker::formats::detect::CoordinateFormat;
use epicker::formats::label_file::{Family, ReadOptions, read, read_path};
use epicker::formats::pixel_size::Stated;
use epicker::io::find::find_micrographs;
use epicker::io::pairing::{Name, match_names};
use epicker::io::sources::read_sources;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats/cryosparc").join(name)
}

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(golden(name)).unwrap()
}

/// What cryosparc-tools reads from a file.
fn expected(name: &str) -> Vec<serde_json::Value> {
    let all: serde_json::Value = serde_json::from_slice(&bytes_of("expected.json")).unwrap();
    all[name].as_array().unwrap().clone()
}

/// A number, which stands there as text so that no digit of it is lost.
fn number(value: &serde_json::Value) -> f64 {
    value.as_str().unwrap().parse().unwrap()
}

fn sets_of(bytes: &[u8]) -> Vec<Set> {
    match cs::read(bytes, false).unwrap() {
        (Content::Coordinates(sets), _) => sets,
        (other, _) => panic!("no coordinates: {other:?}"),
    }
}

fn error_of(bytes: &[u8]) -> String {
    format!("{:#}", cs::read(bytes, false).expect_err("it was read"))
}

#[test]
fn particles_have_the_coordinates_that_cryosparcs_own_code_reads() {
    for name in ["picks.cs", "picks_stream.cs", "selected.cs", "selected_stream.cs"] {
        let file = read_path(&golden(name), &ReadOptions::default()).unwrap();
        assert_eq!(file.format, CoordinateFormat::Cs);
        let sets = sets_of(&bytes_of(name));
        assert_eq!(file.content, Content::Coordinates(sets.clone()));
        let wanted = expected(name);
        assert_eq!(sets.iter().map(|set| set.coordinates.points.len()).sum::<usize>(), wanted.len(), "{name}");
        for set in &sets {
            let micrograph = set.micrograph.as_deref().unwrap();
            let rows: Vec<_> = wanted.iter().filter(|row| row["micrograph"] == micrograph).collect();
            assert_eq!(rows.len(), set.coordinates.points.len(), "{name}: {micrograph}");
            assert_eq!(set.coordinates.kind, Kind::Particle);
            assert_eq!(set.pixel_size.micrograph, Some(f64::from(0.83f32)));
            for (i, (point, row)) in set.coordinates.points.iter().zip(rows).enumerate() {
                assert_eq!([point.x, point.y], [number(&row["x"]), number(&row["y"])], "{name}");
                assert_eq!(point.score.map(f64::from), Some(number(&row["score"])));
                let shift = row.get("shift_A").map(|shift| [0, 1].map(|axis| number(&shift[axis])));
                assert_eq!(set.shifts.get(i).copied(), shift.map(Shift::Angstrom), "{name}");
            }
        }
    }
    let (without, _) = cs::read(&bytes_of("selected.cs"), true).unwrap();
    let Content::Coordinates(without) = without else { panic!("{without:?}") };
    assert!(without.iter().all(|set| set.shifts.is_empty()), "--no-shifts");
}

#[test]
fn exposures_are_a_list_of_micrographs() {
    let wanted = expected("exposures.cs");
    let (content, warnings) = cs::read(&bytes_of("exposures.cs"), false).unwrap();
    let Content::Micrographs(micrographs) = content else { panic!("{content:?}") };
    assert!(warnings.into_messages().is_empty());
    assert_eq!(micrographs.len(), 3);
    for (ours, theirs) in micrographs.iter().zip(&wanted) {
        assert_eq!(Some(ours.path.as_str()), theirs["path"].as_str(), "without its >");
        assert_eq!(ours.pixel_size, Stated::micrograph(Some(number(&theirs["psize_A"]))));
    }
    // The paths start at the project's folder, in which the job's folder lies.
    let project = tempfile::tempdir().unwrap();
    let at = |path: &str| project.path().join(path);
    std::fs::create_dir_all(at("J5/motioncorrected")).unwrap();
    std::fs::copy(golden("exposures.cs"), at("J5/J5_passthrough_exposures.cs")).unwrap();
    for one in &micrographs {
        std::fs::write(at(&one.path), b"").unwrap();
    }
    let found = find_micrographs(&at("J5/J5_passthrough_exposures.cs"), false).unwrap();
    assert_eq!(found.micrographs.len(), 3);
    assert_eq!(found.micrographs[1].pixel_size, Stated::micrograph(Some(f64::from(0.83f32))));
    assert!(found.micrographs[1].path.is_file());
}

#[test]
fn particles_find_micrographs_without_the_leading_unique_id() {
    let sources = read_sources(&[golden("selected.cs")], &ReadOptions::default()).unwrap();
    assert!(sources.faults.is_empty() && sources.sources.len() == 3);
    let labels: Vec<Name> = sources.sources.iter().map(|source| source.name.clone()).collect();
    let names = |format: fn(usize) -> String| -> Vec<Name> {
        (1..=3).map(|i| PathBuf::from(format(i))).map(|path| Name::of_micrograph(&path.display().to_string(), &path)).collect()
    };
    for format in [|i| format!("raw/FoilHole_{i}_patch_aligned_doseweighted.mrc"), |i| format!("relion/FoilHole_{i}.mrc")] {
        let matching = match_names(&names(format), &labels).unwrap();
        assert_eq!(matching.pairs.len(), 3, "{matching:?}");
        for (micrograph, label) in matching.pairs {
            assert!(labels[label].stem.contains(&format!("FoilHole_{}", micrograph + 1)));
        }
    }
}

#[test]
fn a_selection_of_classes_gets_its_places_from_the_passthrough_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::copy(golden("without_places.cs"), at("particles_selected.cs")).unwrap();
    std::fs::copy(golden("exposures.cs"), at("J25_passthrough_exposures.cs")).unwrap();
    let named = |name: &str| read_sources(&[at(name)], &ReadOptions::default()).unwrap();
    let alone = named("particles_selected.cs");
    assert!(alone.sources.is_empty() && format!("{:#}", alone.faults[0].error).contains("passthrough"), "{alone:?}");
    // The picks hold twice as many particles, in another order than that of the selection.
    std::fs::copy(golden("picks_stream.cs"), at("J25_passthrough_particles_selected.cs")).unwrap();
    let joined = named("particles_selected.cs");
    assert!(joined.faults.is_empty() && joined.warnings[0].contains("J25_passthrough_particles_selected.cs"), "{joined:?}");
    let whole = sets_of(&bytes_of("selected.cs"));
    let sets: Vec<Set> = joined.sources.into_iter().map(|source| source.set).collect();
    assert_eq!(sets, whole, "as if all fields stood in one file");
}

#[test]
fn filaments_are_paths_in_order() {
    let sets = sets_of(&bytes_of("filaments.cs"));
    assert_eq!((sets.len(), sets[0].coordinates.kind), (1, Kind::Fiber));
    let points = &sets[0].coordinates.points;
    let x: Vec<f64> = points.iter().map(|point| point.x.round()).collect();
    assert_eq!(x, [200.0, 400.0, 600.0, 1000.0, 1200.0, 1400.0], "the track lengths give the order");
    assert_eq!(points.iter().map(|point| point.group).collect::<Vec<_>>(), [1, 1, 1, 2, 2, 2].map(Some));
}

#[test]
fn files_without_places_say_which_file_has_them() {
    assert!(error_of(&bytes_of("without_places.cs")).contains("passthrough"));
    assert!(error_of(&bytes_of("movies.cs")).contains("movies"));
    for name in ["empty.cs", "empty_stream.cs"] {
        let sets = sets_of(&bytes_of(name));
        assert_eq!((sets.len(), sets[0].coordinates.points.len()), (1, 0), "{name}");
    }
    let asked = |family| read(&bytes_of("picks.cs"), "cs", &ReadOptions { family: Some(family), ..ReadOptions::default() });
    assert!(asked(Family::Cs).is_ok());
    assert!(format!("{:#}", asked(Family::Star).unwrap_err()).contains("looks like a .cs file of cryoSPARC; expected star"));
    let text = read(b"1 2\n", "cs", &ReadOptions { family: Some(Family::Cs), ..ReadOptions::default() });
    assert!(format!("{:#}", text.unwrap_err()).contains("expected cs"));
}

/// The bytes of `numpy.save` for records.
fn npy(version: u8, descr: &str, rows: usize, records: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': ({rows},), }}\n");
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    match version {
        1 => bytes.extend((header.len() as u16).to_le_bytes()),
        _ => bytes.extend((header.len() as u32).to_le_bytes()),
    }
    bytes.extend(header.bytes());
    bytes.extend(records);
    bytes
}

const PLACES: &str = "[('location/micrograph_path', '|S5'), ('location/micrograph_shape', '>u2', (2,)), \
                      ('location/center_x_frac', '<f8'), ('location/center_y_frac', '>f4')]";

fn record(path: &[u8; 5], shape: [u16; 2], x: f64, y: f32) -> Vec<u8> {
    [path.as_slice(), &shape[0].to_be_bytes(), &shape[1].to_be_bytes(), &x.to_le_bytes(), &y.to_be_bytes()].concat()
}

#[test]
fn every_type_and_byte_order_of_numpy_is_read() {
    let records = [record(b"a.mrc", [10, 20], 0.25, 0.5), record(b"b\0\0\0\0", [100, 200], 1.0, 1.5)].concat();
    for version in [1, 2, 3] {
        let sets = sets_of(&npy(version, PLACES, 2, &records));
        let told: Vec<_> =
            sets.iter().map(|set| (set.micrograph.as_deref(), set.coordinates.points[0].x, set.coordinates.points[0].y)).collect();
        assert_eq!(told, [(Some("a.mrc"), 5.0, 5.0), (Some("b"), 200.0, 150.0)]);
    }
    let descr = "[('location/micrograph_path', '<U2'), ('x', '|V3'), ('location/micrograph_shape', '<i8', 2), \
                 ('location/center_x_frac', '<f2'), ('location/center_y_frac', '|i1'), ('flag', '|b1')]";
    let record =
        [&[0x6d, 0, 0, 0, 0xe9, 0, 0, 0][..], b"xyz", &7i64.to_le_bytes(), &8i64.to_le_bytes(), &[0x00, 0x38], &[0xff], &[1]].concat();
    let set = sets_of(&npy(1, descr, 1, &record)).remove(0);
    assert_eq!((set.micrograph.as_deref(), set.coordinates.points[0].x, set.coordinates.points[0].y), (Some("m\u{e9}"), 4.0, -7.0));
}

#[test]
fn particles_without_their_micrograph_are_left_out_and_counted() {
    let good = record(b"a.mrc", [10, 20], 0.25, 0.5);
    let nameless = record(&[0; 5], [10, 20], 0.25, 0.5);
    let sizeless = record(b"b.mrc", [0, 0], 0.25, 0.5);
    let (content, warnings) = cs::read(&npy(1, PLACES, 3, &[good, nameless.clone(), sizeless.clone()].concat()), false).unwrap();
    let Content::Coordinates(sets) = content else { panic!("{content:?}") };
    assert_eq!((sets.len(), sets[0].coordinates.points.len()), (1, 1));
    let warnings = warnings.into_messages();
    assert!(warnings.len() == 2 && warnings[0].starts_with("1 of the particles name no micrograph"), "{warnings:?}");
    assert!(error_of(&npy(1, PLACES, 2, &[nameless, sizeless].concat())).contains("none of the 2 particles"));
}

#[test]
fn broken_files_are_refused_with_the_reason() {
    let good = record(b"a.mrc", [10, 20], 0.25, 0.5);
    let huge = usize::MAX;
    for (bytes, wanted) in [
        (npy(1, PLACES, 2, &good), "2 records of 21 bytes are stated, but 21 bytes follow"),
        (npy(1, PLACES, huge, &good), "are stated"),
        (npy(1, "[('a', '<f8', (18446744073709551615,))]", 1, &good), "no file is so long"),
        (npy(1, "[('a', '<f4', (4294967296, 4294967296))]", 1, &good), "no such shape"),
        (npy(1, "'<f4'", 1, &good), "plain array"),
        (npy(1, "[('a', '|O')]", 1, &good), "objects of Python"),
        (npy(1, "[('a', [('b', '<f4')])]", 1, &good), "records in a record"),
        (npy(1, "[('a', 'q4')]", 1, &good), "type 'q4'"),
        (npy(1, "[('a', '<f4'), ('c', '<f8')]", 1, &good), "(a, c)"),
        (npy(9, PLACES, 1, &good), "version 9"),
        (npy(1, PLACES, 1, &record(b"a.mrc", [10, 20], f64::NAN, 0.5)), "row 1: location/center_x_frac is NaN"),
        (npy(1, PLACES, 1, &record(b"a\nmrc", [10, 20], 0.5, 0.5)), "is no text"),
        (b"\x93NUMPY\x01\x00\xff\xff{".to_vec(), "cut off"),
        (b"\x95CSDAT\xff\xff\xff\xff{}".to_vec(), "cut off"),
        (b"\x95CSDAT\x02\x00\x00\x00{}".to_vec(), "no length"),
    ] {
        let message = error_of(&bytes);
        assert!(message.contains(wanted), "{message}");
    }
    let stream = |header: &str| [b"\x95CSDAT".as_slice(), &(header.len() as u32).to_le_bytes(), header.as_bytes(), &[0; 64]].concat();
    let many = "{\"length\": 1000000000000, \"dtype\": [[\"uid\", \"<u8\"]], \"compression\": null, \"compressed_fields\": []}";
    assert!(error_of(&stream(many)).contains("more than a file of"));
    assert!(error_of(&stream(&many.replace("null", "\"zstd\""))).contains("more than a file of"));
    assert!(error_of(&stream(&many.replace("1000000000000", "1").replace("null", "\"zstd\""))).contains("zstd"));
}

#[test]
fn files_that_are_cut_off_never_panic() {
    for name in ["picks.cs", "picks_stream.cs", "selected_stream.cs", "exposures.cs", "filaments.cs"] {
        let bytes = bytes_of(name);
        for end in 0..bytes.len() {
            let _ = cs::read(&bytes[..end], false);
        }
    }
    // The texts of a stream stand last. Indices that lead beyond them, or into the middle of one, are refused.
    let bytes = bytes_of("picks_stream.cs");
    assert!(error_of(&bytes[..bytes.len() - 200]).contains("is no text"));
}
