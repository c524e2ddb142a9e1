//! The commands of docs/tutorial.md, run as they stand there but for the numbers of their first line.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// In place of the tutorial's first line, which is the only one that sets numbers.
const SMALLER: &str = "COUNT=4 SIZE=512 STEPS=80 FRAME=128";

/// The lines of all fenced blocks of shell.
fn commands(text: &str) -> Vec<&str> {
    let (mut lines, mut inside) = (Vec::new(), false);
    for line in text.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => lines.push(line),
            _ => {}
        }
    }
    lines
}

#[test]
fn the_tutorials_commands_do_what_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/tutorial.md")).unwrap();
    let mut lines = commands(&text);
    assert!(lines[0].starts_with("COUNT="), "{}", lines[0]);
    assert!(lines[1..].iter().all(|line| line.starts_with("epicker ")), "{lines:?}");
    for command in ["simulate", "check", "train", "pick", "rethreshold", "coords", "eval", "exemplar"] {
        assert!(lines.iter().any(|line| line.starts_with(&format!("epicker {command} "))), "{command} is not shown");
    }
    lines[0] = SMALLER;

    let folder = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_epicker"));
    let path = std::env::join_paths(
        std::iter::once(program.parent().unwrap().to_owned()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let result =
        Command::new("sh").args(["-ec", &lines.join("\n")]).env("PATH", path.unwrap()).current_dir(folder.path()).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
    assert!(result.status.success(), "{told}");

    let files = |name: &str, extension: &str| {
        let entries = std::fs::read_dir(folder.path().join(name)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).count()
    };
    assert!(told.contains("the labels lie on particles"), "{told}");
    assert_eq!((files("check", "png"), files("picks", "thi"), files("picks", "png")), (4, 3, 2), "merge_results.thi is the third");
    assert_eq!((files("stricter", "star"), files("boxes", "box")), (3, 2), "autopick.star, the list, is the third");
    assert!(folder.path().join("picks/report.html").is_file() && folder.path().join("eval-first/report.html").is_file());
    let json =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.path().join(name).join("eval.json")).unwrap()).unwrap() };
    let first = json("eval-first");
    assert!(first["ap"].as_f64().unwrap() > 0.7, "{first}");
    let both = json("eval-both");
    let points: Vec<f64> = both["data_sets"].as_array().unwrap().iter().map(|set| set["ap"].as_f64().unwrap()).collect();
    assert!(points.len() == 2 && points.iter().all(|ap| *ap > 0.6), "{points:?}");
    assert!(both["data_sets"][1]["points"].as_f64().unwrap() > 10.0, "the second kind was learnt: {both}");
    assert!(both["forgetting_points"].as_f64().unwrap() < 20.0, "{both}");
}
