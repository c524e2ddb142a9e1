//! Micrographs of one name in several folders, points that name none, and lists of coordinate files: as a user meets them.

use crate::common::labelled::write_mrc;
use crate::common::program::epicker_timed;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// A RELION project with `grid1/m.mrc` and `grid2/m.mrc`, a table of both, and particles of both. In grid1 they lie at
/// (20, 20), in grid2 at (50, 40) and (60, 20).
fn two_grids() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (grid, discs) in [("grid1", &[[20, 20]][..]), ("grid2", &[[50, 40], [60, 20]])] {
        fs::create_dir_all(at(&format!("MotionCorr/job002/{grid}"))).unwrap();
        write_mrc(&at(&format!("MotionCorr/job002/{grid}/m.mrc")), [96, 80], discs);
    }
    let head = "data_\n\nloop_\n_rlnMicrographName #1\n";
    let [one, two] = ["MotionCorr/job002/grid1/m.mrc", "MotionCorr/job002/grid2/m.mrc"];
    fs::write(at("micrographs.star"), format!("{head}{one}\n{two}\n")).unwrap();
    let rows = format!("{two} 50 40\n{one} 20 20\n{two} 60 20\n");
    fs::write(at("particles.star"), format!("{head}_rlnCoordinateX #2\n_rlnCoordinateY #3\n{rows}")).unwrap();
    folder
}

/// Runs the program in a folder.
fn run(folder: &Path, words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_epicker")).current_dir(folder).args(words.split(' ')).output().unwrap()
}

fn stderr(result: &Output) -> String {
    String::from_utf8_lossy(&result.stderr).into_owned()
}

fn has_status(result: &Output, status: i32) {
    assert_eq!(result.status.code(), Some(status), "{}{}", String::from_utf8_lossy(&result.stdout), stderr(result));
}

fn text(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The JSON object of the last line of standard output.
fn json(result: &Output) -> serde_json::Value {
    serde_json::from_str(String::from_utf8_lossy(&result.stdout).lines().last().unwrap()).unwrap()
}

#[test]
fn a_table_never_merges_micrographs_of_one_name() {
    let place = two_grids();
    for (to, table, one, two) in [
        ("cryosparc", "particles.star", "grid1/m.mrc\t20.00\t20.00", "grid2/m.mrc\t60.00\t20.00"),
        ("star --merge", "particles.star", "grid1/m.mrc\t20.00\t20.00", "grid2/m.mrc\t60.00\t20.00"),
        ("topaz", "particles.txt", "grid1/m\t20\t20", "grid2/m\t60\t20"),
    ] {
        let result = run(place.path(), &format!("coords particles.star --to {to} --output out"));
        has_status(&result, 2);
        let told = stderr(&result);
        assert!(told.contains("grid1/m.mrc") && told.contains("grid2/m.mrc") && told.contains("--keep-dirs"), "{told}");
        assert!(!place.path().join("out").exists(), "{to}");
        has_status(&run(place.path(), &format!("coords particles.star --to {to} --keep-dirs --output kept")), 0);
        let written = text(place.path(), &format!("kept/{table}"));
        assert!(written.contains(one) && written.contains(two), "{to}: {written}");
    }
    has_status(&run(place.path(), "coords particles.star --to coord --output out"), 2);
    for data in ["", " --data micrographs.star", " --data MotionCorr/job002/grid1"] {
        let output = format!("apart{}", data.len());
        has_status(&run(place.path(), &format!("coords particles.star --to coord --keep-dirs --output {output}{data}")), 0);
        let points = |grid: &str| {
            let inside = [format!("{output}/{grid}/m.coord"), format!("{output}/MotionCorr/job002/{grid}/m.coord")];
            inside.iter().find_map(|name| fs::read_to_string(place.path().join(name)).ok()).unwrap_or_default()
        };
        assert_eq!([points("grid1"), points("grid2")], ["20\t20\n", "50\t40\n60\t20\n"], "{data}");
    }
}

#[test]
fn labels_and_picks_find_their_micrograph_by_its_whole_path() {
    let place = two_grids();
    let result = run(place.path(), "check --data micrographs.star --label particles.star --output pictures --json");
    has_status(&result, 0);
    assert_eq!((json(&result)["micrographs"].as_u64(), json(&result)["labels"].as_u64()), (Some(2), Some(3)));
    assert!(place.path().join("pictures/grid1/m.png").exists() && place.path().join("pictures/grid2/m.png").exists());
    // Every pick lies on its label if, and only if, both go to the right micrograph.
    for data in ["--data micrographs.star ", ""] {
        let words = format!("eval {data}--label particles.star --picks particles.star --diameter_px 8 --json --bootstrap 0");
        let result = run(place.path(), &words);
        has_status(&result, 0);
        assert_eq!(json(&result)["recall"]["0.5"].as_f64().or(json(&result)["ap"].as_f64()), Some(1.0), "{}", json(&result));
    }
    let words = "exemplar create kept --data micrographs.star --label particles.star --frame 64 --sampling_size 3";
    has_status(&run(place.path(), words), 0);
    let listed = run(place.path(), "exemplar list kept");
    let listed = String::from_utf8_lossy(&listed.stdout);
    assert!(listed.contains("grid1_m_") && listed.contains("grid2_m_") && listed.contains("2 images with 3 labels"), "{listed}");
    // A table that names no folder fits both.
    let nameless = text(place.path(), "particles.star").replace("MotionCorr/job002/grid1/", "").replace("MotionCorr/job002/grid2/", "");
    fs::write(place.path().join("nameless.star"), nameless).unwrap();
    let result = run(place.path(), "check --data micrographs.star --label nameless.star --no-pictures");
    has_status(&result, 2);
    assert!(stderr(&result).contains("grid1/m.mrc") && stderr(&result).contains("grid2/m.mrc"), "{}", stderr(&result));
}

#[test]
fn particles_without_a_micrograph_are_told_apart_or_refused() {
    let place = tempfile::tempdir().unwrap();
    let head = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnImageName #3\n";
    let write = |name: &str, text: String| fs::write(place.path().join(name), text).unwrap();
    write("stacks.star", format!("{head}1 2 000001@Extract/a.mrcs\n3 4 000002@Extract/a.mrcs\n5 6 000001@Extract/b.mrcs\n"));
    let result = run(place.path(), "coords stacks.star --to coord --output out");
    has_status(&result, 0);
    assert!(stderr(&result).contains("no micrograph is named"), "{}", stderr(&result));
    assert_eq!([text(place.path(), "out/a.coord"), text(place.path(), "out/b.coord")], ["1\t2\n3\t4\n", "5\t6\n"]);
    write("one.star", format!("{head}1 2 000001@Extract/a.mrcs\n"));
    let result = run(place.path(), "coords one.star --to coord --output one");
    has_status(&result, 0);
    assert!(stderr(&result).contains("no micrograph is named"), "{}", stderr(&result));
    let head = format!("{head}_rlnMicrographName #4\n");
    write("none.star", format!("{head}-999 -999 000001@x.mrcs None\n-999 -999 000002@x.mrcs None\n"));
    let result = run(place.path(), "coords none.star --to coord --output none");
    has_status(&result, 1);
    assert!(stderr(&result).contains("none of the 2 particles names its micrograph"), "{}", stderr(&result));
    write("some.star", format!("{head}1 2 000001@x.mrcs a.mrc\n-999 -999 000002@x.mrcs None\n"));
    let result = run(place.path(), "coords some.star --to coord --output some");
    has_status(&result, 0);
    assert!(stderr(&result).contains("1 particles name no micrograph"), "{}", stderr(&result));
    assert_eq!(text(place.path(), "some/a.coord"), "1\t2\n");
}

/// A RELION project: two micrographs, their coordinates below AutoPick/job005, and a list of each kind.
fn project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join("p").join(name);
    ["MotionCorr/job002/Movies", "AutoPick/job005/Movies"].iter().for_each(|name| fs::create_dir_all(at(name)).unwrap());
    let [mut micrographs, mut pairs, mut merged, mut plain] = ["", "", "", ""].map(str::to_owned);
    for (name, x) in [("a", 20), ("b", 40)] {
        let micrograph = format!("MotionCorr/job002/Movies/{name}.mrc");
        let coordinates = format!("AutoPick/job005/Movies/{name}_autopick.star");
        write_mrc(&at(&micrograph), [96, 80], &[[x, 30]]);
        fs::write(at(&coordinates), format!("data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n{x} 30\n")).unwrap();
        micrographs.push_str(&format!("{micrograph}\n"));
        pairs.push_str(&format!("{micrograph} {coordinates}\n"));
        merged.push_str(&format!("{micrograph} {coordinates}\n"));
        plain.push_str(&format!("{coordinates}\n"));
    }
    let table = format!("data_micrographs\n\nloop_\n_rlnMicrographName #1\n{micrographs}");
    fs::write(at("MotionCorr/job002/corrected_micrographs.star"), table).unwrap();
    let labels = "_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n";
    fs::write(at("AutoPick/job005/autopick.star"), format!("data_coordinate_files\n\nloop_\n{labels}{pairs}")).unwrap();
    let head = "[Micrograph Particle coordinate:\n #0:MICROGRAPH_PATH    STRING\n #1:PARTICLE_PATH    STRING]\n";
    fs::write(at("AutoPick/job005/merge_results.thi"), format!("{head}{merged}")).unwrap();
    fs::write(at("AutoPick/job005/files.txt"), &plain).unwrap();
    fs::write(at("AutoPick/job005/files.thi"), format!("[File List: Filename]\n{plain}[End]\n")).unwrap();
    fs::write(at("AutoPick/job005/coords_suffix_autopick.star"), "MotionCorr/job002/corrected_micrographs.star\n").unwrap();
    fs::write(at("MotionCorr/job002/files.txt"), micrographs).unwrap();
    folder
}

const LISTS: [&str; 5] = ["autopick.star", "merge_results.thi", "files.txt", "files.thi", "coords_suffix_autopick.star"];

#[test]
fn lists_of_coordinate_files_are_found_from_any_folder() {
    let place = project();
    for (folder, project) in [(".", "p"), ("p", "."), ("p/AutoPick", "..")] {
        for list in LISTS {
            let list = format!("{project}/AutoPick/job005/{list}");
            let out = place.path().join("out");
            has_status(&run(&place.path().join(folder), &format!("coords {list} --to coord --output {}", out.display())), 0);
            // A list that names no micrographs leaves the names of the files.
            let ending = if list.contains("files") { "_autopick" } else { "" };
            assert_eq!(text(&out, &format!("a{ending}.coord")), "20\t30\n", "{list} from {folder}");
            assert_eq!(text(&out, &format!("b{ending}.coord")), "40\t30\n", "{list} from {folder}");
            fs::remove_dir_all(&out).unwrap();
            for data in ["corrected_micrographs.star", "files.txt"] {
                let words = format!("check --data {project}/MotionCorr/job002/{data} --label {list} --no-pictures --json");
                let result = run(&place.path().join(folder), &words);
                has_status(&result, 0);
                assert_eq!(json(&result)["labels"].as_u64(), Some(2), "{list} with {data} from {folder}");
            }
        }
    }
}

#[test]
fn one_missing_file_of_a_list_is_named_and_the_others_are_done() {
    let place = project();
    fs::remove_file(place.path().join("p/AutoPick/job005/Movies/a_autopick.star")).unwrap();
    for list in LISTS {
        let result = run(place.path(), &format!("coords p/AutoPick/job005/{list} --to coord --output {list}-out"));
        // RELION 3.1 lists all micrographs, picked or not: there it is no failure.
        has_status(&result, i32::from(!list.starts_with("coords_suffix")));
        assert!(
            stderr(&result).contains("1 of its 2 coordinate files is missing") && stderr(&result).contains("a_autopick.star"),
            "{list}"
        );
        assert_eq!(fs::read_dir(place.path().join(format!("{list}-out"))).unwrap().count(), 1, "{list}");
        let words = format!("check --data p/MotionCorr/job002/files.txt --label p/AutoPick/job005/{list} --no-pictures --json");
        let result = run(place.path(), &words);
        has_status(&result, 0);
        assert!(stderr(&result).contains("a_autopick.star"), "{list}: {}", stderr(&result));
        assert_eq!(json(&result)["micrographs_without_labels"], serde_json::json!(["a"]), "{list}");
    }
    fs::remove_file(place.path().join("p/AutoPick/job005/Movies/b_autopick.star")).unwrap();
    for list in LISTS {
        let words = format!("check --data p/MotionCorr/job002/files.txt --label p/AutoPick/job005/{list} --no-pictures");
        let result = run(place.path(), &words);
        has_status(&result, 2);
        assert!(stderr(&result).contains("2 of its 2 coordinate files are missing"), "{list}: {}", stderr(&result));
    }
}

#[test]
fn the_folder_of_a_job_with_nothing_but_lists_means_the_files_that_they_name() {
    let place = project();
    let job = place.path().join("p/AutoPick/job005");
    ["files.txt", "files.thi", "coords_suffix_autopick.star"].iter().for_each(|name| fs::remove_file(job.join(name)).unwrap());
    fs::write(job.join("job.star"), "data_job\n\n_rlnJobTypeLabel relion.autopick\n").unwrap();
    let result = run(place.path(), "coords p/AutoPick/job005 --to coord --output out");
    has_status(&result, 0);
    assert!(stderr(&result).contains("its folder holds no coordinates"), "{}", stderr(&result));
    assert_eq!(fs::read_dir(place.path().join("out")).unwrap().count(), 2, "the two lists name the same files");
    let result = run(place.path(), "coords p/MotionCorr/job002/files.txt --to coord --output none");
    has_status(&result, 1);
    assert!(stderr(&result).contains("this lists micrographs"), "{}", stderr(&result));
}

#[test]
fn converting_again_takes_time_in_proportion_to_the_number_of_files() {
    let place = tempfile::tempdir().unwrap();
    let seconds = |count: usize| {
        let [folder, out] = ["in", "out"].map(|name| place.path().join(format!("{name}{count}")).display().to_string());
        fs::create_dir(&folder).unwrap();
        (0..count).for_each(|i| fs::write(Path::new(&folder).join(format!("m{i}.coord")), "1 2\n").unwrap());
        let convert = || {
            let (result, seconds) = epicker_timed(&["coords", &folder, "--to", "coord", "--output", &out]);
            has_status(&result, 0);
            seconds
        };
        convert();
        convert()
    };
    let [few, many] = [500, 2000].map(seconds);
    assert!(many < 8.0 * few.max(0.05), "500 files {few:.2} s, 2000 files {many:.2} s"); // 4 times as many; a square would be 16
}
