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
    let words: Vec<String> = std::iter::once("coords".to_owned()).chain(words.split(' ').map(path)).collect();
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
