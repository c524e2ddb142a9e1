//! `epicker rethreshold`: new outputs from candidates, as a user runs it.

use crate::common::program::{epicker, epicker_timed, is_refused};
use epicker::formats::candidates::{self, Candidate, Facts, key};
use std::fs;
use std::path::Path;

fn facts(micrograph: &str) -> Facts {
    let mut facts = Facts::default();
    let all = [
        (key::MICROGRAPH, micrograph),
        (key::SIZE_X, "2048"),
        (key::SIZE_Y, "1024"),
        (key::PIXEL_SIZE, "1.5"),
        (key::NET_SIZE_X, "1024"),
        (key::MODE, "particle"),
        (key::BOX_NET, "19"),
        (key::FLOOR, "0.01"),
        (key::CAPPED, "1"),
        (key::K, "2"),
        (key::VIS_THRESH, "0.1"),
        (key::MODEL_SHA256, "aa"),
    ];
    all.into_iter().for_each(|(key, value)| facts.set(key, value));
    facts
}

fn rows() -> Vec<Candidate> {
    let row = |x, y, score| Candidate { x, y, score, size: None };
    vec![row(500.5, 500.0, 0.9), row(40.0, 500.0, 0.5), row(510.0, 500.0, 0.3), row(900.0, 300.25, 0.05)]
}

fn put(folder: &Path, stem: &str, facts: &Facts, rows: &[Candidate]) {
    fs::create_dir_all(folder.join("candidates")).unwrap();
    fs::write(folder.join(format!("candidates/{stem}.star")), candidates::write(facts, rows)).unwrap();
}

#[test]
fn what_is_not_given_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "a.b", &facts("mics/a.b.mrc"), &rows());
    let out = folder.path().join("a.b.thi");
    let run = |options: &[&str]| {
        let all = [&["rethreshold", "--data", folder.path().to_str().unwrap()], options].concat();
        let result = epicker(&all);
        assert!(result.status.success(), "{result:?}");
        fs::read_to_string(&out).unwrap()
    };
    // K is 2, and the second lies within the margin of 25 + 9.5 pixels.
    assert_eq!(run(&[]), "[Particle Coordinates: X Y Value]\n501\t500\t0.900000\n[End]\n");
    let with_edge = run(&["--edge", "0"]);
    assert_eq!(with_edge, "[Particle Coordinates: X Y Value]\n501\t500\t0.900000\n40\t500\t0.500000\n[End]\n");
    assert!(run(&["--K=3"]).contains("510\t500\t0.300000"));
    assert!(!run(&["--K=3", "--min_distance", "4.75"]).contains("510\t500"));
    assert!(run(&["--K", "4", "--vis-thresh", "0.01"]).contains("900\t300\t0.050000"));
    assert_eq!(run(&["--subpixel"]), "[Particle Coordinates: X Y Value]\n500.50\t500.00\t0.900000\n[End]\n");
    let merged = fs::read_to_string(folder.path().join("merge_results.thi")).unwrap();
    let expected = format!("{}/mics/a.b.mrc {}\n", std::env::current_dir().unwrap().display(), out.display());
    assert!(merged.ends_with(&expected), "{merged}");
}

#[test]
fn every_output_type_comes_from_the_same_candidates() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "a", &facts("mics/a.mrc"), &rows());
    let run = |options: &[&str]| {
        let result = epicker(&[&["rethreshold", "--data", folder.path().to_str().unwrap()], options].concat());
        assert!(result.status.success(), "{result:?}");
    };
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    run(&["--output_type", "star"]);
    assert!(text("a.star").ends_with("#5\n500.50\t500.00\t0\t0.0\t0.900000\n"));
    assert!(text("autopick.star").contains("mics/a.mrc\t"));
    run(&["--output_type", "box"]);
    assert_eq!(text("a.box"), "482\t481\t38\t38\n");
    run(&["--output_type", "box", "--box_size", "100"]);
    assert_eq!(text("a.box"), "451\t450\t100\t100\n");
    run(&["--output_type", "box", "--compat", "box-corners,trunc"]);
    assert_eq!(text("a.box"), "481\t481\t519\t519\n");
    run(&["--output_type", "coord", "--suffix", "_new"]);
    assert_eq!(text("a_new.coord"), "501\t500\n");
    run(&["--output_type", "coord", "--compat", "coord4"]);
    assert_eq!(text("a.coord"), "501\t500\t19\t0\n");
}

#[test]
fn what_candidates_cannot_tell_is_refused_before_any_file_is_written() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "a", &facts("mics/a.mrc"), &rows());
    let data = folder.path().to_str().unwrap();
    let refuse = |options: &[&str], word: &str| {
        is_refused(&epicker(&[&["rethreshold", "--data", data], options].concat()), word);
        assert!(!folder.path().join("a.thi").exists());
    };
    refuse(&["--vis_thresh", "0.001"], "above 0.01");
    refuse(&["--K", "5"], "best 4");
    refuse(&["--compat", "y-scale"], "y-scale");
    refuse(&["--compat", "nonsense"], "nonsense");
    refuse(&["--edge", "-1"], "0 to 511");
    refuse(&["--helix", "segments"], "--spacing");
    let mut all = facts("mics/b.mrc");
    all.set(key::COMPAT, "all");
    put(folder.path(), "b", &all, &rows());
    refuse(&[], "--compat all");
    fs::write(folder.path().join("candidates/b.star"), "data_\n").unwrap();
    refuse(&[], "#epk Format");
    is_refused(&epicker(&["rethreshold", "--data", "/nowhere"]), "/nowhere");
}

#[test]
fn a_changed_micrograph_and_mixed_models_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let micrograph = folder.path().join("a.mrc");
    fs::write(&micrograph, "12345").unwrap();
    let mut changed = facts(micrograph.to_str().unwrap());
    changed.set(key::MICROGRAPH_BYTES, 4);
    put(folder.path(), "a", &changed, &rows());
    let mut other = facts("mics/b.mrc");
    other.set(key::MODEL_SHA256, "bb");
    put(folder.path(), "b", &other, &rows());
    let result = epicker(&["rethreshold", "--data", folder.path().to_str().unwrap()]);
    assert!(result.status.success());
    let text = String::from_utf8(result.stderr).unwrap();
    assert!(text.contains("has changed") && text.contains("2 models"), "{text}");
}

#[test]
fn no_clobber_leaves_files_alone() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "a", &facts("mics/a.mrc"), &rows());
    fs::write(folder.path().join("a.thi"), "mine").unwrap();
    is_refused(&epicker(&["rethreshold", "--data", folder.path().to_str().unwrap(), "--no_clobber"]), "a.thi");
    assert_eq!(fs::read_to_string(folder.path().join("a.thi")).unwrap(), "mine");
}

#[test]
fn a_thousand_files_take_seconds_and_not_minutes() {
    let folder = tempfile::tempdir().unwrap();
    let many: Vec<Candidate> = (0..4000_u16)
        .map(|i| {
            let i = f32::from(i);
            Candidate { x: i * 0.37 + 40.123, y: i * 0.21 + 40.77, score: 0.95 - i * 0.00023, size: None }
        })
        .collect();
    let text = candidates::write(&facts("a.mrc"), &many);
    fs::create_dir_all(folder.path().join("candidates")).unwrap();
    for i in 0..200 {
        fs::write(folder.path().join(format!("candidates/m{i:04}.star")), &text).unwrap();
    }
    let data = folder.path().to_str().unwrap();
    let (result, seconds) = epicker_timed(&["rethreshold", "--data", data, "--K", "2000", "--vis_thresh", "0.3"]);
    assert!(result.status.success(), "{result:?}");
    // A fifth of the files; the bound is loose, because a processor that does other things too is slower.
    assert!(seconds < 4.0, "{seconds} s of processor time for 200 files");
    // The margin of (25 + 9.5) x 2 pixels takes the first 135, up to y = 69.
    assert_eq!(fs::read_to_string(folder.path().join("m0199.thi")).unwrap().lines().count(), 1 + (2000 - 135) + 1);
}
