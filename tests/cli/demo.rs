//! `epicker demo`, smaller than a user runs it: what it finds, what it writes, and that it overwrites nothing.

use crate::common::program::{epicker, is_refused};
use serde_json::Value;

#[test]
fn the_demo_finds_particles_it_has_never_seen_and_shows_them() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("shown");
    let result = epicker(&["demo", "--count", "2", "--size", "2048", "--gpus", "-1", "--output", output.to_str().unwrap()]);
    let told = String::from_utf8(result.stdout).unwrap();
    assert_eq!(result.status.code(), Some(0), "{told}{}", String::from_utf8_lossy(&result.stderr));

    let report: Value = serde_json::from_slice(&std::fs::read(output.join("eval/eval.json")).unwrap()).unwrap();
    let number = |key: &str| report[key].as_f64().unwrap();
    assert_eq!(number("micrographs"), 2.0);
    assert!(number("labels") > 20.0, "{report}");
    // An upper bound of what to expect from real micrographs: these are simulated, as those of the training were.
    assert!(number("f1_shipped") > LEAST_F1, "F1 {}: {report}", number("f1_shipped"));
    assert!(number("f1_shipped") > 3.0 * number("f1_random"), "{report}");
    let f1 = format!("F1 {:.3} at the model's threshold", number("f1_shipped"));
    assert!(told.contains(&f1) && told.contains("Go on with your own micrographs"), "{told}");

    // Every file that the summary names, or that stands for many.
    for name in [
        "eval/report.html",
        "eval/PR.svg",
        "eval/pr.csv",
        "picks/report.html",
        "picks/particle_0001.png",
        "picks/particle_0002.thi",
        "micrographs/particle_0002.mrc",
        "micrographs/truth/star/particle_0001.star",
    ] {
        assert!(output.join(name).metadata().unwrap().len() > 100, "{name}");
    }
    for line in told.lines().filter(|line| line.starts_with(&format!("  {}/", output.display()))) {
        let name = line.split_whitespace().next().unwrap();
        assert!(std::path::Path::new(name).exists(), "{name} is told of and not there");
    }

    let again = epicker(&["demo", "--output", output.to_str().unwrap()]);
    is_refused(&again, "is there already");
}

/// What is asserted of the F1 of two micrographs.
const LEAST_F1: f64 = 0.8;
