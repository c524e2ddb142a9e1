//! `epicker coords`, as a user runs it.

use crate::common::image_files::Mrc;
use crate::common::program::{epicker, is_refused};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

const POINTS: &str = "10\t20\n30\t40\n";

/// A folder to work in: labels, and micrographs of 64 rows.
fn workplace(labels: &[(&str, &str)], micrographs: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in labels {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    for name in micrographs {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mrc = Mrc { nx: 32, ny: 64, grid: [32, 64, 1], cell: [64.0, 128.0], mode: 0, data: vec![1; 32 * 64], ..Mrc::default() };
        fs::write(path, mrc.bytes()).unwrap();
    }
    folder
}

/// Runs `coords` in the folder: words with `@` in front are paths in it.
fn coords(folder: &Path, words: &str) -> Output {
    let path = |word: &str| word.strip_prefix('@').map_or(word.to_owned(), |name| folder.join(name).display().to_string());
    let words: Vec<String> = std::iter::once("coords".to_owned()).chain(words.split_whitespace().map(path)).collect();
    epicker(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn done(result: &Output) {
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
}

fn stderr(result: &Output) -> String {
    String::from_utf8_lossy(&result.stderr).into_owned()
}

fn text(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn a_folder_becomes_one_file_per_micrograph() {
    let place = workplace(&[("in/a.coord", POINTS), ("in/b.b.coord", "1 2\n"), ("in/notes.md", "x")], &[]);
    let result = coords(place.path(), "@in --to box --box_size 8 --output @out");
    done(&result);
    assert_eq!(String::from_utf8_lossy(&result.stdout), format!("2 files written to {}\n", place.path().join("out").display()));
    assert_eq!(files(&place.path().join("out")).len(), 2);
    assert_eq!(text(place.path(), "out/a.box"), "6\t16\t8\t8\n26\t36\t8\t8\n");
    assert_eq!(text(place.path(), "out/b.b.box"), "-3\t-2\t8\t8\n");
}

#[test]
fn every_format_is_written_and_read_again() {
    let helix = "[Helix Coordinates: X Y Group Value]\n10 20 1 0.5\n30 40 1 0.25\n[End]\n";
    let place = workplace(&[("a.thi", helix)], &[]);
    for to in
        ["thi", "star", "startend", "segments", "box", "helixbox", "helicon", "coord", "cbox", "topaz", "cryosparc", "coordinate_files"]
    {
        done(&coords(place.path(), &format!("@a.thi --to {to} --output @{to} --box_size 8 --step 4 --angpix 2")));
        let written = files(&place.path().join(to)).remove(0);
        let written = if to == "coordinate_files" { written.with_file_name("autopick.star") } else { written };
        let back = format!("{} --to coord --output @{to}-back", written.display());
        done(&coords(place.path(), &back));
        let points = fs::read_to_string(files(&place.path().join(format!("{to}-back"))).remove(0)).unwrap();
        assert!(points.starts_with("10\t20\n") && (to == "segments" || points.ends_with("30\t40\n")), "{to}: {points}");
    }
}

#[test]
fn y_is_mirrored_about_the_middle_row() {
    let place = workplace(&[("a_manualpick.coord", "10\t0\n10\t63\n")], &["m/a.mrc"]);
    done(&coords(place.path(), "@a_manualpick.coord --to coord --output @one --flip-y --ny 64"));
    assert_eq!(text(place.path(), "one/a_manualpick.coord"), "10\t63\n10\t0\n");
    // With micrographs the rows come from their headers, and the outputs are called after them.
    let result = coords(place.path(), "@a_manualpick.coord --to coord --output @two --flip_y --data @m");
    done(&result);
    assert!(stderr(&result).contains("1 label paired by leaving out the ending"), "{}", stderr(&result));
    assert_eq!(text(place.path(), "two/a.coord"), "10\t63\n10\t0\n");
    is_refused(&coords(place.path(), "@a_manualpick.coord --to coord --output @three --flip-y"), "--ny");
    let other = workplace(&[("b.coord", POINTS), ("a.coord", POINTS)], &["m/a.mrc"]);
    let result = coords(other.path(), "@a.coord @b.coord --to coord --output @out --flip-y --data @m");
    assert_eq!(result.status.code(), Some(1), "one file has no micrograph, the other is done");
    assert!(stderr(&result).contains("b.coord") && other.path().join("out/a.coord").exists());
}

#[test]
fn scale_takes_positions_and_boxes_along() {
    let place = workplace(&[("a.box", "10 20 8 8\n30 40 8 8\n")], &[]);
    done(&coords(place.path(), "@a.box --to box --output @out --scale 2.5"));
    assert_eq!(text(place.path(), "out/a.box"), "25\t50\t20\t20\n75\t100\t20\t20\n");
    is_refused(&coords(place.path(), "@a.box --to box --output @out --scale 0"), "above 0");
}

#[test]
fn a_bad_file_is_reported_and_the_rest_go_on() {
    let place = workplace(&[("in/a.coord", POINTS), ("in/b.coord", "1 2\n3 x\n"), ("in/c.coord", POINTS)], &[]);
    let result = coords(place.path(), "@in --to star --output @out");
    assert_eq!(result.status.code(), Some(1));
    assert!(stderr(&result).contains("b.coord: line 2: column 2 is 'x'"), "{}", stderr(&result));
    assert_eq!(files(&place.path().join("out")).len(), 2);
}

#[test]
fn wrong_usage_writes_nothing() {
    let place = workplace(&[("a.coord", POINTS), ("d/a.coord", POINTS), ("autopick.coord", POINTS), ("empty/readme", "")], &[]);
    for (words, wanted) in [
        ("@a.coord @d/a.coord --to star --output @out", "--keep-dirs"),
        ("@autopick.coord --to star --output @out", "our list"),
        ("@nothing.coord --to star --output @out", "cannot be found"),
        ("@empty --to star --output @out", "no coordinate files"),
        ("@a.coord --to nonsense --output @out", "nonsense"),
        ("@a.coord --to thi --merge --output @out", "--merge"),
        ("@a.coord --to segments --output @out", "--step"),
        ("@a.coord --to star --output @a.coord", "this is a file"),
        ("@a.coord --to star", "--output"),
        ("@a.coord --from xyz --to star --output @out", "unknown format"),
        ("@a.coord --to coord --output @.", "over the file it is made of"),
        ("@a.coord --to box --box_size 0 --output @out", "box_size"),
        ("@a.coord --from box --helix startend --to startend --output @out", "only STAR"),
    ] {
        is_refused(&coords(place.path(), words), wanted);
        assert!(!place.path().join("out").exists(), "{words}");
        assert_eq!(text(place.path(), "a.coord"), POINTS, "{words}");
    }
}

#[test]
fn the_list_of_a_run_beside_its_files_names_nothing_twice() {
    let list = "[Micrograph Particle coordinate:\n #0:MICROGRAPH_PATH    STRING\n #1:PARTICLE_PATH    STRING]\na.mrc a.thi\nb.mrc b.thi\n";
    let folder = workplace(&[("picks/a.thi", POINTS), ("picks/b.thi", POINTS), ("picks/merge_results.thi", list)], &[]);
    done(&coords(folder.path(), "@picks/a.thi @picks/b.thi @picks/merge_results.thi --to box --box_size 8 --output @boxes"));
    assert_eq!(files(&folder.path().join("boxes")).len(), 2);
}

#[test]
fn folders_are_kept_when_asked_for() {
    let place = workplace(&[("g1/a.coord", POINTS), ("g2/a.coord", POINTS)], &[]);
    done(&coords(place.path(), "@g1 @g2 --to thi --output @out --keep-dirs --suffix _picked"));
    assert!(place.path().join("out/g1/a_picked.thi").exists() && place.path().join("out/g2/a_picked.thi").exists());
}

#[test]
fn existing_files_stay_with_no_clobber() {
    let place = workplace(&[("a.coord", POINTS), ("out/a.star", "old")], &[]);
    is_refused(&coords(place.path(), "@a.coord --to star --output @out --no-clobber"), "exists already");
    assert_eq!(text(place.path(), "out/a.star"), "old");
    done(&coords(place.path(), "@a.coord --to star --output @out"));
    assert!(text(place.path(), "out/a.star").starts_with("data_"));
}

#[test]
fn merged_tables_name_their_micrographs() {
    let place = workplace(&[("in/a.coord", POINTS), ("in/b.coord", "5 6\n")], &["m/a_DW.mrc", "m/b_DW.mrc"]);
    done(&coords(place.path(), "@in --to cryosparc --output @out --data @m"));
    let table = text(place.path(), "out/particles.star");
    assert!(
        table.ends_with("a_DW.mrc\t10.00\t20.00\t-999.000000\na_DW.mrc\t30.00\t40.00\t-999.000000\nb_DW.mrc\t5.00\t6.00\t-999.000000\n"),
        "{table}"
    );
    done(&coords(place.path(), "@in --to topaz --output @picks.txt"));
    assert_eq!(text(place.path(), "picks.txt"), "image_name\tx_coord\ty_coord\na\t10\t20\na\t30\t40\nb\t5\t6\n");
    done(&coords(place.path(), "@in --to star --merge --output @merged"));
    done(&coords(place.path(), "@merged/particles.star --to coord --output @apart"));
    assert_eq!(text(place.path(), "apart/a.coord"), POINTS);
}

#[test]
fn relion_gets_a_list_of_coordinate_files() {
    let place = workplace(&[("in/a.coord", POINTS)], &["m/a.mrc"]);
    done(&coords(place.path(), "@in --to coordinate_files --suffix _autopick --output @out --data @m"));
    let list = text(place.path(), "out/autopick.star");
    let row = format!("{}\t{}\n", place.path().join("m/a.mrc").display(), place.path().join("out/a_autopick.star").display());
    assert!(list.starts_with("data_coordinate_files\n") && list.ends_with(&row), "{list}");
    // A list in a folder of labels is no label.
    done(&coords(place.path(), "@out --to coord --output @back"));
    assert_eq!(files(&place.path().join("back")).len(), 1);
}

#[test]
fn fibers_are_asked_for_where_a_format_needs_them() {
    let pairs = "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n30 40\n5 6\n70 80\n";
    let place = workplace(&[("a.star", pairs)], &[]);
    let result = coords(place.path(), "@a.star --to helixbox --box_size 2 --output @out");
    assert!(result.status.code() == Some(1) && stderr(&result).contains("--helix startend"), "{}", stderr(&result));
    done(&coords(place.path(), "@a.star --to thi --helix startend --output @out"));
    assert!(text(place.path(), "out/a.thi").contains("30 40 1 1.000000\n5 6 2 1.000000\n"));
    let dense = workplace(&[("a.thi", "[Helix Coordinates: X Y Group Value]\n0 0 1 1\n10 0 1 1\n20 0 1 1\n20 10 1 1\n")], &[]);
    done(&coords(dense.path(), "@a.thi --to startend --output @out"));
    assert_eq!(text(dense.path(), "out/a.star").lines().filter(|line| line.ends_with("\t1")).count(), 4, "straight pieces are one edge");
}

#[test]
fn corner_boxes_are_read_when_told() {
    let place = workplace(&[("a.box", "100 200 120 220\n")], &[]);
    done(&coords(place.path(), "@a.box --to coord --box-style corners --output @out"));
    assert_eq!(text(place.path(), "out/a.coord"), "110\t210\n");
}

#[test]
fn four_columns_without_a_header_need_the_mode() {
    let place = workplace(&[("a.thi", "10 20 30 0.5\n")], &[]);
    let result = coords(place.path(), "@a.thi --to thi --output @out");
    assert!(result.status.code() == Some(1) && stderr(&result).contains("give the mode"), "{}", stderr(&result));
    done(&coords(place.path(), "@a.thi --to thi --mode vesicle --output @out"));
    assert_eq!(text(place.path(), "out/a.thi"), "[Vesicle Coordinates: X Y Radius Value]\n10\t20\t30\t0.500000\n[End]\n");
}

#[test]
fn a_name_that_several_micrographs_fit_is_refused() {
    let place = workplace(&[("a.coord", POINTS)], &["m/a_DW.mrc", "m/a_noDW.mrc"]);
    is_refused(&coords(place.path(), "@a.coord --to star --output @out --data @m"), "a_noDW.mrc");
}

// ---- points that look wrong

#[test]
fn points_outside_are_left_out_and_told_or_kept_or_refused() {
    // RELION's Extract ends with an error at the first particle that lies completely outside.
    let points = "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\nm/a.mrc -700 10\nm/a.mrc 10 9000\nm/a.mrc 31.4 63.4\nm/a.mrc 10 10\n";
    let place = workplace(&[("points.star", points)], &["m/a.mrc"]);
    let rows = |folder: &str| text(place.path(), &format!("{folder}/a.star")).lines().filter(|line| line.contains('\t')).count();
    let result = coords(place.path(), "@points.star --data @m --to coordinate_files --output @drop");
    done(&result);
    assert!(stderr(&result).contains("2 of the points lay outside of their micrograph") && rows("drop") == 2, "{}", stderr(&result));
    let result = coords(place.path(), "@points.star --to star --output @blind");
    done(&result);
    assert!(
        stderr(&result).contains("1 of the points lay outside") && rows("blind") == 3,
        "below 0 is outside of any: {}",
        stderr(&result)
    );
    done(&coords(place.path(), "@points.star --data @m --to star --output @keep --outside keep"));
    assert_eq!(rows("keep"), 4);
    let result = coords(place.path(), "@points.star --data @m --to star --output @refuse --outside refuse");
    assert!(result.status.code() == Some(1) && stderr(&result).contains("2 of the points lie outside"), "{}", stderr(&result));
    assert!(!place.path().join("refuse/a.star").exists());
    let fiber = "[Helix Coordinates: X Y Group Value]\n10 10 1 0.5\n50 10 1 0.5\n[End]\n";
    let place = workplace(&[("a.thi", fiber)], &["m/a.mrc"]);
    done(&coords(place.path(), "@a.thi --data @m --to startend --output @out"));
    assert!(text(place.path(), "out/a.star").contains("\n31.50\t10.00\t"), "a fiber ends at the border of its 32 columns");
}

#[test]
fn equal_points_are_taken_once_and_told_or_kept_or_refused() {
    // Symmetry expansion repeats the rows of a particle with other angles.
    let head = "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOriginXAngst\n_rlnOriginYAngst\n_rlnAngleRot\n";
    let rows = "m/a.mrc 10 20 4 0 0\nm/a.mrc 10 20 4 0 90\nm/a.mrc 10 20 4 0 180\nm/a.mrc 10 20 6 0 270\nm/b.mrc 10 20 4 0 0\n";
    let points = format!("{head}{rows}");
    let place = workplace(&[("points.star", &points)], &[]);
    let xs = |folder: &str| {
        text(place.path(), &format!("{folder}/a.coord")).lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let result = coords(place.path(), "@points.star --to coord --output @drop --angpix 2");
    done(&result);
    assert!(stderr(&result).contains("2 of the points were equal"), "{}", stderr(&result));
    assert_eq!(xs("drop"), ["8", "7"], "another shift is another point");
    done(&coords(place.path(), "@points.star --to coord --output @keep --angpix 2 --equal keep"));
    assert_eq!(xs("keep"), ["8", "8", "8", "7"]);
    let result = coords(place.path(), "@points.star --to coord --output @refuse --angpix 2 --equal refuse");
    assert!(
        result.status.code() == Some(1) && !place.path().join("refuse/a.coord").exists() && place.path().join("refuse/b.coord").exists()
    );
}

#[test]
fn slices_of_a_tomogram_are_chosen() {
    let points = "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\nt.mrc 10 20 5\nt.mrc 30 40 9\n";
    let place = workplace(&[("points.star", points)], &[]);
    let result = coords(place.path(), "@points.star --to coord --output @no");
    assert!(result.status.code() == Some(1) && stderr(&result).contains("t.mrc: z goes from 5 to 9"), "{}", stderr(&result));
    for (slices, wanted) in [("9", "30\t40\n"), ("0:5.5", "10\t20\n"), ("all", "10\t20\n30\t40\n")] {
        done(&coords(place.path(), &format!("@points.star --to coord --output @{slices} --z {slices}")));
        assert_eq!(text(place.path(), &format!("{slices}/t.coord")), wanted);
    }
    is_refused(&coords(place.path(), "@points.star --to coord --output @no --z 9:5"), "10:20");
}

// ---- pixel sizes

/// A header, optics and particles of RELION 3.1 and later: what RELION leaves of a project in super-resolution (movies
/// of 0.415 A, micrographs of 0.83 A, particles of 3.32 A), and the micrographs with their list.
struct Project {
    place: tempfile::TempDir,
}

impl Project {
    /// `optics` and `columns` are labels with the values of the one optics group and of each row.
    fn new(optics: &[(&str, &str)], columns: &[(&str, [&str; 2])], listed: Option<&str>, header: f32) -> Project {
        let place = tempfile::tempdir().unwrap();
        let labels = |names: &[&str]| names.iter().map(|name| format!("_{name}\n")).collect::<String>();
        let names: Vec<&str> = optics.iter().map(|(name, _)| *name).collect();
        let values: Vec<&str> = optics.iter().map(|(_, value)| *value).collect();
        let mut table = String::new();
        if !optics.is_empty() {
            table.push_str(&format!("data_optics\n\nloop_\n_rlnOpticsGroup\n{}1 {}\n\n\n", labels(&names), values.join(" ")));
        }
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        table.push_str("data_particles\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n_rlnCoordinateX\n_rlnCoordinateY\n");
        table.push_str(&labels(&names));
        for (i, place) in ["m/a.mrc 1 256 200", "m/b.mrc 1.0 100 300"].into_iter().enumerate() {
            let values: Vec<&str> = columns.iter().map(|(_, values)| values[i]).collect();
            table.push_str(&format!("{place} {}\n", values.join(" ")));
        }
        fs::write(place.path().join("particles.star"), table).unwrap();
        fs::create_dir(place.path().join("m")).unwrap();
        for name in ["m/a.mrc", "m/b.mrc"] {
            let grid = [512, 512, 1];
            let mrc = Mrc { nx: 512, ny: 512, grid, cell: [512.0 * header; 2], mode: 0, data: vec![1; 512 * 512], ..Mrc::default() };
            fs::write(place.path().join(name), mrc.bytes()).unwrap();
        }
        if let Some(listed) = listed {
            let list = format!(
                "data_optics\n\n_rlnOpticsGroup 1\n{listed}\n\ndata_micrographs\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n\
                 m/a.mrc 1\nm/b.mrc 1\n"
            );
            fs::write(place.path().join("micrographs.star"), list).unwrap();
        }
        Project { place }
    }

    /// Where `coords` puts the particles of both micrographs, and what it says of that.
    fn places(&self, words: &str) -> (Vec<[f64; 2]>, String) {
        let result = coords(self.place.path(), &format!("@particles.star --to star --output @out {words}"));
        done(&result);
        let place = |name: &str| {
            let text = text(self.place.path(), name);
            let row = text.lines().find(|line| line.contains('\t')).unwrap().to_owned();
            let numbers: Vec<f64> = row.split('\t').take(2).map(|number| number.parse().unwrap()).collect();
            [numbers[0], numbers[1]]
        };
        (vec![place("out/a.star"), place("out/b.star")], stderr(&result))
    }

    /// The same by starfile and numpy, where Python has them.
    fn places_by_python(&self, list: &str, angpix: &str, header: &str) -> Option<Vec<[f64; 2]>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/pixel_sizes.py");
        let path = |name: &str| if name == "-" { PathBuf::from("-") } else { self.place.path().join(name) };
        let result =
            std::process::Command::new("python3").arg(script).arg(path("particles.star")).arg(path(list)).args([angpix, header]).output();
        let result = match result {
            Ok(result) if !String::from_utf8_lossy(&result.stderr).contains("ModuleNotFoundError") => result,
            _ => {
                println!("skipped: python3 with starfile and numpy is not there");
                return None;
            }
        };
        assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
        let rows: Vec<(String, f64, f64)> = serde_json::from_slice(&result.stdout).unwrap();
        Some(rows.into_iter().map(|(_, x, y)| [x, y]).collect())
    }
}

fn assert_near(found: &[[f64; 2]], wanted: &[[f64; 2]]) {
    let near = |a: &[f64; 2], b: &[f64; 2]| (a[0] - b[0]).abs() < 0.006 && (a[1] - b[1]).abs() < 0.006;
    assert!(found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| near(a, b)), "{found:?}; expected {wanted:?}");
}

const SUPER_RESOLUTION: [(&str, &str); 2] = [("rlnMicrographOriginalPixelSize", "0.415"), ("rlnImagePixelSize", "3.32")];
const SHIFTS: [(&str, [&str; 2]); 2] = [("rlnOriginXAngst", ["16.6", "0"]), ("rlnOriginYAngst", ["-8.3", "4.15"])];

#[test]
fn shifts_are_divided_by_the_pixel_size_of_the_micrograph_whoever_states_it() {
    let own = [SHIFTS[0], SHIFTS[1], ("rlnMicrographPixelSize", ["0.83", "0.83"])];
    let optics = [SUPER_RESOLUTION[0], SUPER_RESOLUTION[1], ("rlnMicrographPixelSize", "0.83")];
    let list = "_rlnMicrographOriginalPixelSize 0.415\n_rlnMicrographPixelSize 0.83";
    // 16.6 A are 20 pixels of 0.83 A, -8.3 A are -10, 4.15 A are 5.
    let right = [[236.0, 210.0], [100.0, 295.0]];
    for (project, words, [listed, angpix, header]) in [
        (Project::new(&SUPER_RESOLUTION, &SHIFTS, Some(list), 1.0), "--data @micrographs.star", ["micrographs.star", "-", "-"]),
        (Project::new(&SUPER_RESOLUTION, &SHIFTS, None, 0.83), "--data @m", ["-", "-", "0.83"]),
        (Project::new(&SUPER_RESOLUTION, &SHIFTS, None, 1.0), "--angpix 0.83", ["-", "0.83", "-"]),
        (Project::new(&optics, &SHIFTS, None, 1.0), "", ["-", "-", "-"]),
        (Project::new(&SUPER_RESOLUTION, &own, None, 3.32), "--data @m", ["-", "-", "3.32"]),
        // What stands earlier in the order wins.
        (Project::new(&optics, &SHIFTS, None, 3.32), "--data @m", ["-", "-", "3.32"]),
        (Project::new(&SUPER_RESOLUTION, &SHIFTS, Some(list), 0.415), "--data @micrographs.star", ["micrographs.star", "-", "0.415"]),
        (Project::new(&[("rlnMicrographPixelSize", "9")], &SHIFTS, None, 5.0), "--data @m --angpix 0.83", ["-", "0.83", "5.0"]),
    ] {
        let (found, told) = project.places(words);
        assert_near(&found, &right);
        assert!(told.contains("refined shifts are applied") && !told.contains("nothing states"), "{told}");
        if let Some(wanted) = project.places_by_python(listed, angpix, header) {
            assert_near(&found, &wanted);
        }
    }
    let (unmoved, _) = Project::new(&optics, &SHIFTS, None, 1.0).places("--no-shifts");
    assert_near(&unmoved, &[[256.0, 200.0], [100.0, 300.0]]);
}

#[test]
fn shifts_of_relion_3_0_are_in_pixels_of_the_particle() {
    // As csparc2star.py --relion2 writes it: particles of 4 A, of micrographs of 1.06 A.
    let columns = [
        ("rlnOriginX", ["3", "0"]),
        ("rlnOriginY", ["-2", "1.5"]),
        ("rlnDetectorPixelSize", ["4.0", "4.0"]),
        ("rlnMagnification", ["10000", "10000"]),
    ];
    let project = Project::new(&[], &columns, None, 1.06);
    let (found, _) = project.places("--data @m");
    assert_near(&found, &[[256.0 - 3.0 * 4.0 / 1.06, 200.0 + 2.0 * 4.0 / 1.06], [100.0, 300.0 - 1.5 * 4.0 / 1.06]]);
    if let Some(wanted) = project.places_by_python("-", "-", "1.06") {
        assert_near(&found, &wanted);
    }
    // The particles' size is all there is: it is taken for the micrographs', and said.
    let (found, told) = project.places("");
    assert_near(&found, &[[253.0, 202.0], [100.0, 298.5]]);
    assert!(told.contains("nothing states the pixel size") && told.contains("rlnDetectorPixelSize"), "{told}");
}

#[test]
fn a_pixel_size_of_something_else_is_named_and_a_contradiction_is_told() {
    let (found, told) = Project::new(&SUPER_RESOLUTION[1..], &SHIFTS, None, 1.0).places("--data @m");
    assert_near(&found, &[[251.0, 202.5], [100.0, 298.75]]); // 16.6 / 3.32 and so on
    assert!(told.contains("3.32 A of rlnImagePixelSize") && told.contains("--angpix"), "{told}");
    let list = Some("_rlnMicrographPixelSize 1.66");
    let (found, told) = Project::new(&[("rlnMicrographPixelSize", "0.83")], &SHIFTS, list, 1.0).places("--data @micrographs.star");
    assert_near(&found, &[[236.0, 210.0], [100.0, 295.0]]);
    assert!(told.contains("0.83 A per pixel, their list says 1.66 A"), "{told}");
}

#[test]
fn coordinates_of_downscaled_micrographs_take_their_pixel_size_along() {
    // Picked on micrographs of 1.66 A that were made half as large as those of 0.83 A.
    let project = Project::new(&[("rlnMicrographPixelSize", "1.66")], &SHIFTS, None, 1.0);
    let (found, _) = project.places("--scale 2");
    assert_near(&found, &[[512.0 - 20.0, 400.0 + 10.0], [200.0, 600.0 - 5.0]]);
}

#[test]
fn segments_are_spaced_by_the_micrographs_pixel_size() {
    let helix = "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnImagePixelSize\nm/a.mrc 0 10 8\nm/a.mrc 30 10 8\n";
    let place = workplace(&[("a.star", helix)], &["m/a.mrc"]); // headers of 2 A
    let rows = |words: &str| {
        let result = coords(place.path(), &format!("@a.star --to segments --helix startend --step 20 --output @out {words}"));
        done(&result);
        (text(place.path(), "out/a.star").lines().filter(|line| line.contains('\t')).count(), stderr(&result))
    };
    assert_eq!(rows("--data @m").0, 4, "30 pixels of 2 A: segments at 0, 20, 40 and 60 A");
    let (count, told) = rows("");
    assert!(count == 13 && told.contains("8 A of rlnImagePixelSize"), "30 pixels of 8 A: {count} segments, {told}");
}
