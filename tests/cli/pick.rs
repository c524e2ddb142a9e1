//! `epicker pick` as a user or another program runs it: options, files, exit status, bad input.

use crate::common::micrographs::{mrc, small, small_pixels};
use crate::common::program::{epicker, is_refused, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/trained.pth");

/// A folder with micrographs, and where its outputs go.
struct Place {
    folder: TempDir,
}

impl Place {
    /// Micrographs of these names, 300 x 260.
    fn with(names: &[&str]) -> Self {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path("mics")).unwrap();
        names.iter().for_each(|name| place.put(name, &small(name, [300, 260])));
        place
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path("mics").join(name), bytes).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn names(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(name)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.collect();
        names.sort();
        names
    }

    /// Picks the folder with a small frame: the same code, a sixteenth of the work.
    fn pick(&self, options: &[&str]) -> Output {
        self.pick_plainly(&[&["--frame", "256"], options].concat())
    }

    fn pick_plainly(&self, options: &[&str]) -> Output {
        let (data, output) = (self.path("mics"), self.path("out"));
        let base = ["pick", "--data", data.to_str().unwrap(), "--load_model", MODEL, "--output", output.to_str().unwrap()];
        epicker(&[&base, options].concat())
    }
}

fn stderr(result: &Output) -> String {
    String::from_utf8_lossy(&result.stderr).into_owned()
}

fn stdout(result: &Output) -> String {
    String::from_utf8_lossy(&result.stdout).into_owned()
}

fn is_done(result: &Output) {
    assert_eq!(result.status.code(), Some(0), "{}{}", stdout(result), stderr(result));
}

#[test]
fn a_folder_gives_a_file_each_candidates_and_a_list() {
    let place = Place::with(&["b.MRC", "a.mrc", "ignored.txt"]);
    is_done(&place.pick(&["--edge", "0"]));
    assert_eq!(place.names("out"), ["a.thi", "b.thi", "candidates", "merge_results.thi", "runs"]);
    assert_eq!(place.names("out/candidates"), ["a.star", "b.star"]);
    let thi = place.text("out/a.thi");
    assert!(thi.starts_with("[Particle Coordinates: X Y Value]\n") && thi.ends_with("[End]\n") && thi.lines().count() > 3, "{thi}");
    let (mics, out) = (place.path("mics"), place.path("out"));
    let rows = ["a.mrc", "b.MRC"].map(|name| format!("{}/{name} {}/{}.thi\n", mics.display(), out.display(), &name[..1])).concat();
    let head = "[Micrograph Particle coordinate:\n #0:MICROGRAPH_PATH    STRING\n #1:PARTICLE_PATH    STRING]\n";
    assert_eq!(place.text("out/merge_results.thi"), format!("{head}{rows}"));
}

#[test]
fn rethresholding_without_options_writes_the_same_bytes() {
    for options in
        [&["--mode", "vesicle", "--vis_thresh", "0.002"][..], &["--mode", "fiber"], &["--diameter", "60", "--output_type", "box"]]
    {
        let place = Place::with(&["a.mrc", "b.mrc"]);
        is_done(&place.pick(options));
        let ending = if options.contains(&"box") { "box" } else { "thi" };
        let before = ["a", "b"].map(|stem| place.text(&format!("out/{stem}.{ending}")));
        let merged = place.text("out/merge_results.thi");
        ["a", "b"].iter().for_each(|stem| fs::remove_file(place.path(&format!("out/{stem}.{ending}"))).unwrap());
        is_done(&epicker(&["rethreshold", "--data", place.path("out").to_str().unwrap()]));
        assert_eq!(["a", "b"].map(|stem| place.text(&format!("out/{stem}.{ending}"))), before, "{options:?}");
        assert_eq!(place.text("out/merge_results.thi"), merged);
    }
}

#[test]
fn picking_and_rethresholding_agree_on_other_limits() {
    let place = Place::with(&["a.mrc"]);
    let limits = ["--K", "60", "--vis_thresh", "0.0004", "--edge", "3.5", "--min_distance", "40.25"];
    is_done(&place.pick(&limits));
    let picked = place.text("out/a.thi");
    assert!(picked.lines().count() > 4, "{picked}");
    is_done(&place.pick(&[]));
    assert_ne!(place.text("out/a.thi"), picked);
    is_done(&epicker(&[&["rethreshold", "--data", place.path("out").to_str().unwrap()], &limits[..]].concat()));
    assert_eq!(place.text("out/a.thi"), picked);
}

#[test]
fn threads_never_change_a_bit() {
    let place = Place::with(&["a.mrc"]);
    let all = ["1", "2", "3"].map(|threads| {
        is_done(&place.pick(&["--threads", threads, "--visual"]));
        ["a.thi", "candidates/a.star", "a.png"].map(|name| fs::read(place.path("out").join(name)).unwrap())
    });
    assert!(all[0] == all[1] && all[0] == all[2]);
}

#[test]
fn options_are_understood_as_callers_spell_them() {
    let place = Place::with(&["a.mrc"]);
    let spellings: [&[&str]; 7] = [
        &["--vis_thresh=0.2", "--output_type=coord"],
        &["--vis-thresh", "0.2", "--output-type", "coord"],
        &["--vis_", "0.2", "--output_t", "coord"],
        &["--vis_thresh", "0.9", "--vis_thresh", "0.2", "--output_type", "star", "--output_type=coord"],
        &["--vis_thresh", "0.2", "--output_type", "coord", "--gpus", "-1"],
        &["--vis_thresh", "0.2", "--output_type", "coord", "--gpus=-1"],
        &["--vis_thresh", "0.2", "--output_type", "coord", "--task", "ctdet", "--arch=dla_34", "--num_workers", "4", "--debug", "1"],
    ];
    let mut texts = Vec::new();
    for options in spellings {
        let result = place.pick(options);
        is_done(&result);
        texts.push(place.text("out/a.coord"));
        fs::remove_dir_all(place.path("out")).unwrap();
        if options.contains(&"--task") {
            let warnings: Vec<String> = stderr(&result).lines().filter(|line| line.contains("ignored")).map(str::to_string).collect();
            assert_eq!(warnings, ["warning: --task, --arch, --num_workers, --debug: no meaning here; ignored"]);
        }
        if options.contains(&"--gpus=-1") {
            assert!(stdout(&result).contains("CPU"), "{}", stdout(&result));
        }
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
}

#[test]
fn wrong_usage_is_told_in_one_line_before_any_file_is_written() {
    let place = Place::with(&["a.mrc"]);
    let cases: [(&[&str], &str); 34] = [
        (&["--vis", "0.1"], "ambiguous; expected one of --vis_thresh, --visual"),
        (&["--nonsense"], "--nonsense"),
        (&["--vis_thresh", "1.5"], "--vis_thresh"),
        (&["--vis_thresh", "nan"], "0 to 1"),
        (&["--vis_thresh", "-0.1"], "0 to 1"),
        (&["--edge", "-1"], "0 to 511"),
        (&["--min_distance", "-2"], "at least 0"),
        (&["--ang_thresh", "1.58"], "1.57"),
        (&["--K", "0"], "--K"),
        (&["--K", "2.5"], "from 1"),
        (&["--mode", "cells"], "particle, vesicle or fiber"),
        (&["--output_type", "json"], "thi, star, box or coord"),
        (&["--gpus", "a"], "device numbers"),
        (&["--gpus", "-2"], "device numbers"),
        (&["--particle_size", "0"], "above 0"),
        (&["--data_type", "png"], "mrc"),
        (&["--frame", "1000"], "multiple of 32"),
        (&["--task", "other"], "--task other"),
        (&["--arch", "resnet"], "dla_34"),
        (&["--down_ratio", "2"], "expected 4"),
        (&["--keep_res"], "not supported"),
        (&["--flip_test"], "not supported"),
        (&["--test_scales", "1,2"], "not supported"),
        (&["--input_res", "512"], "--frame"),
        (&["--precision", "half"], "expected fp32, tf32 or fp16"),
        (&["--compat", "nothing"], "nothing"),
        (&["--load_model", "/nowhere.pth"], "/nowhere.pth"),
        (&["--data", "/nowhere"], "/nowhere"),
        (&["--output", "/dev/null/x"], "/dev/null/x"),
        (&["--suffix", "a/b"], "suffix"),
        (&["--helix", "segments"], "--spacing"),
        (&["--mode", "fiber", "--output_type", "star", "--helix", "startend", "--spacing", "30"], "leave one"),
        (&["--mode", "fiber", "--spacing", "30"], "--output_type star"),
        (&["--in_mics", "a.star"], "--in_mics"),
    ];
    for (options, word) in cases {
        is_refused(&place.pick_plainly(options), word);
        assert!(!place.path("out").exists(), "{options:?}");
    }
    is_refused(&epicker(&["pick", "--load_model", MODEL]), "--data");
    is_refused(&epicker(&["dance"]), "dance");
}

#[test]
fn no_arguments_mean_help() {
    for args in [&[][..], &["pick"], &["rethreshold"], &["convert"], &["pick", "--help"]] {
        let result = epicker(args);
        is_done(&result);
        assert!(stdout(&result).contains("Usage:") && stderr(&result).is_empty(), "{args:?}");
    }
}

#[test]
fn k_beyond_the_heat_map_is_clamped_with_a_warning() {
    let place = Place::with(&["a.mrc"]);
    let result = place.pick(&["--K", "100000"]);
    is_done(&result);
    assert!(stderr(&result).contains("65536"), "{}", stderr(&result));
}

#[test]
fn nothing_found_is_a_valid_file_and_no_failure() {
    let place = Place::with(&["a.mrc"]);
    for (mode, header) in [
        ("particle", "[Particle Coordinates: X Y Value]"),
        ("vesicle", "[Vesicle Coordinates: X Y Radius Value]"),
        ("fiber", "[Helix Coordinates: X Y Group Value]"),
    ] {
        is_done(&place.pick(&["--vis_thresh", "1", "--mode", mode]));
        assert_eq!(place.text("out/a.thi"), format!("{header}\n[End]\n"));
    }
    is_done(&place.pick(&["--edge", "511", "--output_type", "star"]));
    assert!(place.text("out/a.star").ends_with("#5\n\n"));
    is_done(&place.pick(&["--edge", "511", "--mode", "fiber", "--compat", "all"]));
    assert_eq!(place.text("out/a.thi"), "[Helix Coordinates: X Y Group Value]\n[End]");
}

#[test]
fn one_bad_micrograph_does_not_end_the_batch() {
    let place = Place::with(&["a.mrc", "z.mrc"]);
    let good = small("b", [300, 260]);
    let with = |at: usize, value: i32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let filled = |value: f32| mrc([300, 260], 2, 1.5, &value.to_le_bytes().repeat(300 * 260));
    place.put("b_empty.mrc", b"");
    place.put("c_short.mrc", &good[..good.len() / 2]);
    place.put("d_header.mrc", &good[..700]);
    place.put("e_nx0.mrc", &with(0, 0));
    place.put("f_negative.mrc", &with(4, -5));
    place.put("g_huge.mrc", &with(0, 100_000));
    place.put("h_mode.mrc", &with(12, 4));
    place.put("i_nan.mrc", &filled(f32::NAN));
    place.put("j_text.mrc", b"[Particle Coordinates: X Y Value]\n1\t2\t0.5\n[End]\n");
    fs::create_dir(place.path("mics").join("k_folder.mrc")).unwrap();
    let result = place.pick(&["--json"]);
    assert_eq!(result.status.code(), Some(1), "{}", stderr(&result));
    let events: Vec<serde_json::Value> = stdout(&result).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    assert_eq!((of("start").len(), of("image").len(), of("error").len(), of("done").len()), (1, 2, 9, 1));
    assert!(of("error").iter().all(|event| {
        let (name, message) = (event["micrograph"].as_str().unwrap(), event["message"].as_str().unwrap());
        message.contains(Path::new(name).file_name().unwrap().to_str().unwrap()) && !message.contains('\n')
    }));
    assert_eq!((of("done")[0]["micrographs"].as_u64(), of("done")[0]["failures"].as_u64()), (Some(2), Some(9)));
    assert!(of("image")[0]["picks"].as_u64().unwrap() > 0 && of("image")[0]["seconds"]["network"].as_f64().unwrap() > 0.0);
    assert_eq!(place.names("out"), ["a.thi", "candidates", "merge_results.thi", "runs", "z.thi"]);
    assert_eq!(place.text("out/merge_results.thi").lines().count(), 3 + 2);
}

#[test]
fn some_bad_pixels_and_constant_images_are_warned_of() {
    let place = Place::with(&[]);
    let mut pixels = small_pixels("a", [300, 260]);
    pixels[1000] = f32::NAN;
    pixels[70_000] = f32::INFINITY;
    place.put("a.mrc", &mrc([300, 260], 2, 1.5, &pixels.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()));
    place.put("flat.mrc", &mrc([300, 260], 2, 1.5, &7.5_f32.to_le_bytes().repeat(300 * 260)));
    let result = place.pick(&[]);
    is_done(&result);
    assert!(place.text("out/a.thi").lines().count() > 3);
    assert_eq!(place.text("out/flat.thi"), "[Particle Coordinates: X Y Value]\n[End]\n");
    let text = stderr(&result);
    assert!(text.lines().any(|line| line.contains("a.mrc")) && text.lines().any(|line| line.contains("flat.mrc")), "{text}");
}

#[test]
fn folders_without_micrographs_and_equal_names_are_refused() {
    let place = Place::with(&["notes.txt"]);
    is_refused(&place.pick(&[]), "no file ending in .mrc");
    let place = Place::with(&["a.mrc"]);
    fs::create_dir(place.path("more")).unwrap();
    fs::write(place.path("more/A.mrc"), small("a", [300, 260])).unwrap();
    let list = format!("[File List: Filename]\n{0}/mics/a.mrc\n\n{0}/more/A.mrc\n[End]\n", place.folder.path().display());
    fs::write(place.path("list.thi"), list).unwrap();
    let list = place.path("list.thi");
    let result = place.pick(&["--data", list.to_str().unwrap()]);
    is_refused(&result, "mics/a.mrc");
    is_refused(&result, "more/A.mrc");
    assert!(!place.path("out").exists());
    is_done(&place.pick(&["--data", list.to_str().unwrap(), "--keep-dirs"]));
    assert_eq!((place.names("out/mics"), place.names("out/more")), (vec!["a.thi".to_string()], vec!["A.thi".to_string()]));
    assert_eq!(place.names("out/candidates"), ["mics", "more"]);
}

#[test]
fn models_that_are_none_are_refused() {
    let place = Place::with(&["a.mrc"]);
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models");
    for (name, word) in [
        ("bad_foreign_global.pth", "bad_foreign_global.pth"),
        ("bad_truncated_zip.pth", "bad_truncated_zip.pth"),
        ("bad_wrong_size.pth", "bad_wrong_size.pth"),
        ("odd_tensors_expected.safetensors", "odd_tensors_expected.safetensors"),
        ("../README.md", "README.md"),
    ] {
        is_refused(&place.pick(&["--load_model", &format!("{models}/{name}")]), word);
        assert!(!place.path("out").exists());
    }
}

#[test]
fn angstroms_need_a_pixel_size() {
    let place = Place::with(&[]);
    let pixels: Vec<u8> = small_pixels("a", [300, 260]).iter().flat_map(|v| v.to_le_bytes()).collect();
    place.put("a.mrc", &mrc([300, 260], 2, 0.0, &pixels));
    is_refused(&place.pick(&["--diameter", "90"]), "--angpix");
    is_refused(&place.pick(&["--mode", "fiber", "--output_type", "star", "--helix_step", "30"]), "--angpix");
    is_refused(&place.pick(&["--mode", "fiber", "--output_type", "star", "--helix", "segments", "--spacing", "30"]), "--angpix");
    is_done(&place.pick(&["--diameter", "90", "--angpix", "3", "--output_type", "box"]));
    let boxes = place.text("out/a.box");
    assert!(boxes.lines().count() > 3 && boxes.lines().all(|line| line.ends_with("\t30\t30")), "{boxes}");
    // A diameter never changes what is picked.
    let picked = boxes.lines().count();
    is_done(&place.pick(&["--output_type", "box"]));
    assert_eq!(place.text("out/a.box").lines().count(), picked);
}

#[test]
fn a_killed_batch_goes_on() {
    let place = Place::with(&["a.mrc", "b.mrc", "c.mrc"]);
    is_done(&place.pick(&[]));
    let whole = place.text("out/b.thi");
    fs::write(place.path("out/a.thi"), "[Particle Coordinates: X Y Value]\n1\t2\t0.5\n").unwrap(); // cut off
    fs::write(place.path("out/b.thi"), "mine\n[End]").unwrap(); // complete, of another program
    fs::remove_file(place.path("out/c.thi")).unwrap();
    let result = place.pick(&["--skip-done"]);
    is_done(&result);
    assert!(stdout(&result).contains("1 done before"), "{}", stdout(&result));
    assert_eq!(place.text("out/b.thi"), "mine\n[End]");
    assert!(place.text("out/a.thi").ends_with("[End]\n") && place.path("out/c.thi").exists());
    assert_eq!(place.text("out/merge_results.thi").lines().count(), 3 + 3, "those done before are listed too");
    let result = place.pick(&[]);
    assert!(stdout(&result).contains("3 outputs of an earlier run are replaced"), "{}", stdout(&result));
    assert_eq!(place.text("out/b.thi"), whole);
    fs::write(place.path("out/b.thi"), "mine").unwrap();
    is_refused(&place.pick(&["--no-clobber"]), "--no-clobber");
    assert_eq!(place.text("out/b.thi"), "mine");
}

#[test]
fn what_is_killed_while_it_replaces_picks_is_not_done() {
    let place = Place::with(&["a.mrc"]);
    is_done(&place.pick(&["--visual"]));
    // Another micrograph under the same name; and the run gets as far as the picture, where a folder stands.
    fs::write(place.path("mics/a.mrc"), small("another", [280, 260])).unwrap();
    fs::remove_file(place.path("out/a.png")).unwrap();
    fs::create_dir_all(place.path("out/a.png/x")).unwrap();
    assert_eq!(place.pick(&["--visual"]).status.code(), Some(1));
    assert!(!place.path("out/a.thi").exists(), "the old picks lie beside the new candidates");
    fs::remove_dir_all(place.path("out/a.png")).unwrap();
    let result = place.pick(&["--visual", "--skip-done"]);
    is_done(&result);
    assert!(stdout(&result).contains("1 micrograph,"), "{}", stdout(&result));
    let went_on = place.text("out/a.thi");
    is_done(&place.pick(&["--visual"]));
    assert_eq!(place.text("out/a.thi"), went_on);
    // Candidates and parts of the page that a run does not make are those of other picks, and go.
    is_done(&place.pick(&["--report"]));
    assert!(place.path("out/report/a.json").exists());
    is_done(&place.pick(&["--no-candidates"]));
    assert!(!place.path("out/candidates/a.star").exists() && !place.path("out/report/a.json").exists());
}

#[test]
fn a_file_that_cannot_be_written_fails_alone() {
    let place = Place::with(&["a.mrc", "b.mrc"]);
    // A folder stands where the output should go.
    fs::create_dir_all(place.path("out/a.thi/x")).unwrap();
    let result = place.pick(&[]);
    assert_eq!(result.status.code(), Some(1));
    assert!(stderr(&result).contains("a.thi: cannot be removed"), "{}", stderr(&result));
    assert!(place.text("out/b.thi").ends_with("[End]\n"));
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_no_part_of_a_file() {
    let place = Place::with(&["a.mrc"]);
    let (mics, out) = (place.path("mics"), place.path("out"));
    // No file may grow beyond 1 block: what a full disk does, without one.
    let script = format!(
        "trap '' XFSZ; ulimit -f 1; exec '{}' pick --frame 256 --data '{}' --load_model '{MODEL}' --output '{}'",
        env!("CARGO_BIN_EXE_epicker"),
        mics.display(),
        out.display()
    );
    let result = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(result.status.code(), Some(1), "{}", stderr(&result));
    assert!(stderr(&result).contains("free space"), "{}", stderr(&result));
    assert!(!place.path("out/a.thi").exists());
    assert!(place.names("out/candidates").is_empty(), "{:?}", place.names("out/candidates"));
    // What is said cannot be written down: the status tells so, and the files are there all the same.
    let script = script.replace("trap '' XFSZ; ulimit -f 1; ", "") + " --json >/dev/full 2>/dev/full";
    assert_eq!(Command::new("sh").args(["-c", &script]).status().unwrap().code(), Some(1));
    assert!(place.text("out/a.thi").ends_with("[End]\n"));
}

#[test]
#[cfg(target_os = "linux")]
fn ctrl_c_finishes_the_micrograph_in_hand() {
    // So many that none is left over only if this process is kept from looking for minutes: names of one file cost nothing.
    const COUNT: usize = 3000;
    let place = Place::with(&["m0000.mrc"]);
    (1..COUNT).for_each(|i| fs::hard_link(place.path("mics/m0000.mrc"), place.path(&format!("mics/m{i:04}.mrc"))).unwrap());
    let (mics, out) = (place.path("mics"), place.path("out"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_epicker"))
        .args(["pick", "--frame", "256", "--data", mics.to_str().unwrap(), "--load_model", MODEL, "--output", out.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let done = || {
        fs::read_dir(&out)
            .map_or(0, |entries| entries.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "thi")).count())
    };
    wait_until(|| done() > 0);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let finished: Vec<String> =
        place.names("out").into_iter().filter(|name| name.starts_with('m') && name != "merge_results.thi").collect();
    assert!(!finished.is_empty() && finished.len() < COUNT);
    assert!(finished.iter().all(|name| place.text(&format!("out/{name}")).ends_with("[End]\n")));
    assert_eq!(place.text("out/merge_results.thi").lines().count(), 3 + finished.len());
    assert!(place.names("out").iter().all(|name| !name.ends_with(".part")));
}

#[test]
#[cfg(unix)]
fn the_wrappers_pass_on_arguments_with_blanks() {
    let place = Place::with(&["a b.mrc"]);
    let folder = place.path("my programs");
    fs::create_dir(&folder).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/bin/epicker.sh");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_epicker"), folder.join("epicker")).unwrap();
    fs::copy(script, folder.join("epicker.sh")).unwrap();
    std::os::unix::fs::symlink("my programs/epicker.sh", place.path("link to it")).unwrap();
    let data = format!("--data={}", place.path("mics/a b.mrc").display());
    let result = Command::new(place.path("link to it"))
        .args([&data, "--load_model", MODEL, "--output", "out put/*", "--frame", "256"])
        .current_dir(place.folder.path())
        .output()
        .unwrap();
    is_done(&result);
    assert!(place.text("out put/*/a b.thi").ends_with("[End]\n"));
    let usage = Command::new(folder.join("epicker.sh")).output().unwrap();
    assert!(usage.status.success() && stdout(&usage).contains("--vis_thresh"));
}

#[test]
fn sections_mixed_sizes_and_pictures_work() {
    let place = Place::with(&["wide.mrc"]);
    let [nx, ny] = [160, 200];
    let mut stack = mrc([nx, ny], 2, 1.5, &[]);
    stack[8..12].copy_from_slice(&2_i32.to_le_bytes());
    stack[36..40].copy_from_slice(&2_i32.to_le_bytes());
    for name in ["first", "second"] {
        stack.extend(small_pixels(name, [nx, ny]).iter().flat_map(|v| v.to_le_bytes()));
    }
    place.put("stack.mrc", &stack);
    let result = place.pick(&["--visual", "--sections", "each", "--mode", "fiber"]);
    is_done(&result);
    assert_eq!(
        place.names("out"),
        [
            "candidates",
            "merge_results.thi",
            "runs",
            "stack_z01.png",
            "stack_z01.thi",
            "stack_z02.png",
            "stack_z02.thi",
            "wide.png",
            "wide.thi"
        ]
    );
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(place.path("out/wide.png")).unwrap()));
    let reader = decoder.read_info().unwrap();
    let rows = 256 * 260 / 300;
    assert_eq!((reader.info().width, reader.info().height), (1024, rows * 1024 / 256), "a small image is enlarged");
    let result = place.pick(&[]);
    assert!(stderr(&result).contains("stack.mrc"), "the mean of sections is worth a warning: {}", stderr(&result));
}

#[test]
fn the_bench_tells_milliseconds_and_operations() {
    let place = Place::with(&["a.mrc"]);
    let mics = place.path("mics");
    let result = epicker(&["bench", "--load_model", MODEL, "--frame", "128", "--runs", "2", "--json", "--data", mics.to_str().unwrap()]);
    is_done(&result);
    let report: serde_json::Value = serde_json::from_str(&stdout(&result)).unwrap();
    for key in ["network_ms", "multiply_adds", "gflop_per_second", "micrograph_ms"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report}");
    }
}

fn data_of_report(page: &str) -> serde_json::Value {
    let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    serde_json::from_str(data).unwrap()
}

/// 16-bit numbers as a page holds them: four letters for three bytes.
fn numbers(letters: &serde_json::Value) -> Vec<u16> {
    let letters: Vec<u8> = letters.as_str().unwrap().bytes().filter(|&letter| letter != b'=').collect();
    let bytes: Vec<u8> = letters.chunks(4).flat_map(bytes_of_letters).collect();
    bytes.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect()
}

/// The scores on a page of --report, micrograph by micrograph, as shares of 65535.
fn scores_of_report(page: &str) -> Vec<(String, Vec<u16>)> {
    // Four 16-bit numbers for each peak, the score last.
    let scores = |entry: &serde_json::Value| numbers(&entry["picks"]).chunks_exact(4).map(|peak| peak[3]).collect();
    let data = data_of_report(page);
    data["micrographs"].as_array().unwrap().iter().map(|entry| (entry["name"].as_str().unwrap().to_string(), scores(entry))).collect()
}

fn bytes_of_letters(four: &[u8]) -> Vec<u8> {
    let digit = |&letter: &u8| "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".find(char::from(letter)).unwrap();
    let bits = four.iter().map(digit).fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - four.len()));
    [bits >> 16, bits >> 8 & 255, bits & 255].into_iter().take(four.len() - 1).map(|byte| byte as u8).collect()
}

#[test]
fn a_report_counts_the_same_picks_as_the_files() {
    let place = Place::with(&["a.mrc", "b.mrc"]);
    is_done(&place.pick(&["--edge", "0", "--report", "--vis_thresh", "0.01"]));
    let all = scores_of_report(&place.text("out/report.html"));
    let middle = f64::from(all[0].1[all[0].1.len() / 2]) / 65535.0;
    is_done(&place.pick(&["--edge", "0", "--report", "--vis_thresh", &middle.to_string()]));
    let found = scores_of_report(&place.text("out/report.html"));
    assert_eq!(found, all, "the page holds what is below the threshold, too");
    for ((path, scores), name) in found.iter().zip(["a", "b"]) {
        assert!(path.ends_with(&format!("{name}.mrc")), "{path}");
        assert!(scores.is_sorted_by(|a, b| a >= b), "best first");
        let above = scores.iter().filter(|score| f64::from(**score) > middle * 65535.0).count();
        let written = place.text(&format!("out/{name}.thi")).lines().count() - 2;
        // Scores of the page are rounded down to 16 bits: one that lies within a step of the threshold may differ.
        assert!(above.abs_diff(written) <= 1, "{name}: {above} on the page, {written} in the file");
    }
    assert!(all[0].1.len() > 4, "{}", all[0].1.len());
}

#[test]
fn a_report_of_fibers_has_the_traces_that_were_written() {
    let place = Place::with(&[]);
    let row = |left: usize, top: usize, count: usize| (0..count).map(move |i| [left + 20 * i, top + i]);
    let discs: Vec<[usize; 2]> = row(100, 40, 21).chain(row(600, 70, 15)).collect();
    crate::common::labelled::write_mrc(&place.path("mics/a.mrc"), [1024, 128], &discs);
    crate::common::labelled::write_mrc(&place.path("mics/b.mrc"), [1024, 128], &[]);
    is_done(&place.pick_plainly(&["--frame", "1024", "--edge", "0", "--mode", "fiber", "--report", "--vis_thresh", "0.1"]));
    let data = data_of_report(&place.text("out/report.html"));
    assert_eq!(data["fibers"], true);
    let mut fibers = 0;
    for (entry, name) in data["micrographs"].as_array().unwrap().iter().zip(["a", "b"]) {
        assert!((entry["traced_at"].as_f64().unwrap() - 0.1).abs() < 1e-6);
        let traces = numbers(&entry["traces"]);
        let (mut at, mut points) = (0, Vec::new());
        while at < traces.len() {
            let end = at + 2 + 2 * usize::from(traces[at]);
            points.extend(
                traces[at + 2..end].chunks(2).map(|point| [f64::from(point[0]) / 65535.0 * 1024.0, f64::from(point[1]) / 65535.0 * 128.0]),
            );
            (at, fibers) = (end, fibers + 1);
        }
        let written = place.text(&format!("out/{name}.thi"));
        let rows: Vec<Vec<f64>> = written
            .lines()
            .filter(|line| !line.starts_with('['))
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        assert_eq!(rows.len(), points.len(), "{name}: {written}");
        for (row, point) in rows.iter().zip(&points) {
            assert!((row[0] - point[0]).abs() <= 1.0 && (row[1] - point[1]).abs() <= 1.0, "{name}: {row:?} {point:?}");
        }
    }
    assert_eq!(fibers, 2);
}
