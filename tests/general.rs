//! General models: named instead of a file, and shown every micrograph at the scale of their particles.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use common::micrographs::small;
use common::program::is_refused;
use epicker::formats::safetensors_file;
use epicker::formats::state_dict::ModelFacts;
use epicker::net::{Architecture, formula};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A narrow network by formula, which finds something everywhere.
const NARROW: Architecture = Architecture { channels: [4, 4, 8, 8, 8, 16], head: 8 };

/// A program of its own with models beside it, and micrographs.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        // Below target/, so that the program can be linked instead of copied.
        let place = Place { folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        ["bin", "mics", "share/epicker/weights"].iter().for_each(|name| fs::create_dir_all(place.path(name)).unwrap());
        fs::hard_link(env!("CARGO_BIN_EXE_epicker"), place.path("bin/epicker")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn micrograph(&self, name: &str, size: [usize; 2]) {
        fs::write(self.path("mics").join(name), small(name, size)).unwrap();
    }

    /// Puts a model where `--load_model NAME` finds it.
    fn general(&self, name: &str, facts: &ModelFacts) {
        write_model(&self.path("share/epicker/weights").join(format!("{name}.safetensors")), facts);
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(self.path("bin/epicker")).args(args).current_dir(self.folder.path()).output().unwrap()
    }

    fn pick(&self, args: &[&str]) -> Output {
        let _ = fs::remove_dir_all(self.path("output"));
        self.run(&[&["pick", "--gpus", "-1", "--data", "mics"], args].concat())
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

fn write_model(path: &Path, facts: &ModelFacts) {
    let mut state = formula::state_dict(NARROW);
    facts.write_to(&mut state.metadata);
    fs::write(path, safetensors_file::write(&state).unwrap()).unwrap();
}

fn facts(mode: &str) -> ModelFacts {
    ModelFacts { mode: Some(mode.to_owned()), ..ModelFacts::default() }
}

fn told(result: &Output) -> String {
    String::from_utf8_lossy(&result.stderr).into_owned() + &String::from_utf8_lossy(&result.stdout)
}

fn is_done(result: &Output) -> String {
    assert_eq!(result.status.code(), Some(0), "{}", told(result));
    told(result)
}

#[test]
fn a_general_model_goes_by_its_name_and_that_of_the_mode_is_the_default() {
    let place = Place::new();
    place.micrograph("a.mrc", [160, 128]);
    for mode in ["particle", "vesicle", "fiber"] {
        place.general(mode, &facts(mode));
    }
    let frame = ["--frame", "64"];
    assert!(is_done(&place.pick(&frame)).contains("model particle, mode particle"));
    let picks = place.text("output/a.thi");
    assert!(is_done(&place.pick(&[&frame[..], &["--mode", "fiber"]].concat())).contains("model fiber, mode fiber"));
    assert!(is_done(&place.pick(&[&frame[..], &["--load_model", "vesicle"]].concat())).contains("model vesicle, mode vesicle"));
    // A file of the same bytes gives the same; the name goes before a file of that name in the working directory.
    fs::write(place.path("particle"), "no model").unwrap();
    is_done(&place.pick(&[&frame[..], &["--load_model", "share/epicker/weights/particle.safetensors"]].concat()));
    assert_eq!(place.text("output/a.thi"), picks);
    is_done(&place.pick(&[&frame[..], &["--load_model", "particle"]].concat()));
    assert_eq!(place.text("output/a.thi"), picks);
    is_refused(&place.pick(&[&frame[..], &["--load_model", "./particle"]].concat()), "./particle");
}

#[test]
fn a_general_model_serves_every_command() {
    let place = Place::new();
    place.micrograph("a.mrc", [160, 128]);
    place.general("particle", &facts("particle"));
    is_done(&place.run(&["bench", "--gpus", "-1", "--load_model", "particle", "--frame", "64", "--runs", "1"]));
    is_done(&place.run(&["plan", "--load_model", "particle", "--frame", "64"]));
    fs::create_dir(place.path("labels")).unwrap();
    fs::write(place.path("labels/a.box"), "40\t40\t20\t20\n90\t60\t20\t20\n").unwrap();
    let of_labels = ["--data", "mics", "--label", "labels", "--frame", "64", "--gpus", "-1"];
    is_done(&place.run(&[&["eval", "--load_model", "particle", "--against", "particle"], &of_labels[..]].concat()));
    let training = ["--num_epochs", "1", "--num_iters", "1", "--batch_size", "1", "--train_pct", "100", "--exp_id", "mine"];
    let told = is_done(&place.run(&[&["train", "--load_model", "particle"], &of_labels[..], &training].concat()));
    assert!(told.contains("particle: 374 of 374 tensors taken"), "{told}");
}
