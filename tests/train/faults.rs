//! Trainings to which something happens: killed, a full disk, checkpoints that cannot be read, and data with faults.

use crate::common::labelled::{write_mrc, write_thi};
use crate::common::program::{epicker, is_refused, wait_until};
use epicker::train::checkpoint;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A folder of micrographs with dark discs, and trainings of it.
struct Bench {
    folder: tempfile::TempDir,
}

/// What a command told.
struct Told {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

const DISCS: [[usize; 2]; 3] = [[20, 30], [70, 25], [50, 75]];

impl Bench {
    fn new(micrographs: usize) -> Self {
        let bench = Bench { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(bench.data()).unwrap();
        for i in 0..micrographs {
            write_mrc(&bench.data().join(format!("m{i}.mrc")), [96, 96], &DISCS);
            write_thi(&bench.data().join(format!("m{i}.thi")), &DISCS);
        }
        bench
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arguments(&self, exp_id: &str, more: &[&str]) -> Vec<String> {
        let (data, exp_id) = (text(&self.data()), text(&self.path(exp_id)));
        let common = ["train", "--data", &data, "--exp_id", &exp_id, "--frame", "64", "--width", "0.25", "--lr_step", "70"];
        [&common[..], &["--train_pct", "100", "--batch_size", "2"], more].concat().into_iter().map(str::to_owned).collect()
    }

    fn train(&self, exp_id: &str, more: &[&str]) -> Told {
        let arguments = self.arguments(exp_id, more);
        told(&epicker(&arguments.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    fn last(&self, exp_id: &str) -> PathBuf {
        self.path(exp_id).join("model_last.pth")
    }

    /// Every bit of weights, statistics and optimiser.
    fn bytes(&self, exp_id: &str) -> Vec<u8> {
        std::fs::read(self.last(exp_id)).unwrap()
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn told(result: &std::process::Output) -> Told {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Told { status: result.status.code(), stdout: text(&result.stdout), stderr: text(&result.stderr) }
}

#[cfg(unix)]
#[test]
fn killed_and_resumed_gives_the_bits_of_an_unbroken_training() {
    let bench = Bench::new(4);
    let mut child = Command::new(env!("CARGO_BIN_EXE_epicker"))
        .args(bench.arguments("killed", &["--num_epoch", "100000"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let epochs_done = || checkpoint::load(&bench.last("killed")).map_or(0, |checkpoint| checkpoint.standing.position.epoch);
    wait_until(|| epochs_done() >= 2);
    child.kill().unwrap(); // SIGKILL: nothing can be saved any more
    assert_eq!(child.wait().unwrap().code(), None, "ended by the signal");
    let half = epochs_done();
    assert!(half >= 2);
    let epochs = (2 * half).to_string();
    let resumed = bench.train("killed", &["--num_epoch", &epochs, "--resume"]);
    assert_eq!(resumed.status, Some(0), "{}", resumed.stderr);
    assert!(resumed.stdout.contains(&format!("going on after epoch {half}, step 0")), "{}", resumed.stdout);
    let unbroken = bench.train("unbroken", &["--num_epoch", &epochs]);
    assert_eq!(unbroken.status, Some(0), "{}", unbroken.stderr);
    assert!(bench.bytes("killed") == bench.bytes("unbroken"), "{epochs} epochs, killed after {half}");
}

#[test]
fn the_same_seed_gives_the_same_bits_with_one_thread_and_with_two() {
    let bench = Bench::new(3);
    let train = |exp_id: &str, seed: &str, threads: &str| {
        let told = bench.train(exp_id, &["--num_epoch", "2", "--seed", seed, "--threads", threads]);
        assert_eq!(told.status, Some(0), "{}", told.stderr);
        bench.bytes(exp_id)
    };
    let first = train("first", "1", "2");
    assert!(first == train("again", "1", "2"), "the same seed twice");
    assert!(first == train("one", "1", "1"), "one thread against two");
    assert!(first != train("other", "2", "2"), "another seed");
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_one_clear_line_and_leaves_the_checkpoint_as_it_was() {
    let bench = Bench::new(2);
    assert_eq!(bench.train("exp", &["--num_epoch", "1"]).status, Some(0));
    let files = || {
        let mut names: Vec<String> =
            std::fs::read_dir(bench.path("exp")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let (before, files_before) = (bench.bytes("exp"), files());
    // No file may grow beyond so many blocks of 512 bytes, which a checkpoint needs and a log does not.
    assert!(before.len() > 1_000_000);
    let quoted: Vec<String> =
        bench.arguments("exp", &["--num_epoch", "2", "--resume"]).iter().map(|argument| format!("'{argument}'")).collect();
    let script = format!("trap '' XFSZ; ulimit -f 1000; exec '{}' {}", env!("CARGO_BIN_EXE_epicker"), quoted.join(" "));
    let full = told(&Command::new("sh").args(["-c", &script]).output().unwrap());
    assert_eq!(full.status, Some(1), "{}", full.stderr);
    let errors: Vec<&str> = full.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains("model_last.safetensors") && errors[0].contains("free space"), "{}", full.stderr);
    assert!(bench.bytes("exp") == before, "the checkpoint of the first epoch is still there");
    assert_eq!(files().iter().filter(|name| name.ends_with(".part")).count(), 0, "{:?}, before {files_before:?}", files());
    // With room again it goes on as if nothing had been.
    assert_eq!(bench.train("exp", &["--num_epoch", "2", "--resume"]).status, Some(0));
    assert_eq!(bench.train("unbroken", &["--num_epoch", "2"]).status, Some(0));
    assert!(bench.bytes("exp") == bench.bytes("unbroken"));
}

#[test]
fn an_unreadable_checkpoint_is_refused_and_stays() {
    let bench = Bench::new(2);
    assert_eq!(bench.train("exp", &["--num_epoch", "1"]).status, Some(0));
    let whole = bench.bytes("exp");
    let bare = std::fs::read(bench.path("exp").join("model_last.safetensors")).unwrap();
    let mut flipped = whole.clone();
    let among_weights = flipped.len() / 8; // weights come first, then two moments of each
    flipped[among_weights] ^= 0x10;
    let cases: [(&str, &[u8]); 5] = [
        ("cut off", &whole[..whole.len() / 2]),
        ("one bit wrong", &flipped),
        ("empty", b""),
        ("no model", b"hello"),
        ("no optimiser", &bare),
    ];
    for (case, bytes) in cases {
        std::fs::write(bench.last("exp"), bytes).unwrap();
        let arguments = bench.arguments("exp", &["--num_epoch", "2", "--resume"]);
        let result = epicker(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        is_refused(&result, "model_last.pth");
        assert!(std::fs::read(bench.last("exp")).unwrap() == bytes, "{case}: the file is as it was");
        if case != "no optimiser" {
            let broken = text(&bench.last("exp"));
            let arguments = bench.arguments("other", &["--num_epoch", "1", "--load_model", &broken]);
            is_refused(&epicker(&arguments.iter().map(String::as_str).collect::<Vec<_>>()), "model_last.pth");
            assert!(!bench.path("other").exists(), "{case}: nothing was written");
        }
    }
}

#[test]
fn labels_outside_and_files_without_partner_are_told_and_the_rest_trains() {
    let bench = Bench::new(3);
    write_thi(&bench.data().join("m0.thi"), &[[20, 30], [500, 30], [20, 4000]]);
    write_mrc(&bench.data().join("lonely.mrc"), [96, 96], &[]);
    write_thi(&bench.data().join("nobody.thi"), &DISCS);
    let told = bench.train("exp", &["--num_epoch", "1"]);
    assert_eq!(told.status, Some(0), "{}", told.stderr);
    assert!(told.stdout.contains("3 micrographs with labels, 7 labels"), "{}", told.stdout);
    assert!(told.stderr.contains("2 labels lie outside of their micrograph, most of them of m0"), "{}", told.stderr);
    assert!(told.stderr.contains("1 micrograph has no label file and is left out: lonely"), "{}", told.stderr);
    assert!(told.stderr.contains("1 label file has no micrograph: nobody"), "{}", told.stderr);
    assert!(bench.last("exp").is_file());
}

#[test]
fn every_loss_trains_by_its_name() {
    let bench = Bench::new(2);
    let train = |exp_id: &str, more: &[&str]| {
        let told = bench.train(exp_id, &[&["--num_epoch", "1"], more].concat());
        assert_eq!(told.status, Some(0), "{}", told.stderr);
        bench.bytes(exp_id)
    };
    let [focal, original, sparse] = ["focal", "sparse-original", "sparse"].map(|name| train(name, &["--heat_map_loss", name]));
    assert!(focal != original && original != sparse && sparse != focal);
    assert!(bench.train("none", &["--heat_map_loss", "sparser"]).stderr.contains("expected focal, sparse-original, sparse"));
    // The optimiser's file holds the options' fingerprint, so that only the weights are compared.
    let weights = |exp_id: &str| std::fs::read(bench.path(exp_id).join("model_last.safetensors")).unwrap();
    train("default", &[]);
    train("anno", &["--sparse_anno"]);
    train("as before", &["--sparse_anno", "--compat", "sparse-original"]);
    assert!(weights("default") == weights("focal") && weights("anno") == weights("sparse"));
    assert!(weights("as before") == weights("sparse-original"));
}

#[test]
fn one_image_trains_and_a_batch_may_be_larger_than_the_set() {
    let bench = Bench::new(1);
    for (exp_id, more) in [("one", &["--num_epoch", "1"][..]), ("large", &["--num_epoch", "1", "--batch_size", "7"])] {
        let told = bench.train(exp_id, more);
        assert_eq!(told.status, Some(0), "{}", told.stderr);
        assert!(told.stdout.contains("1 micrographs train, 0 validate, 0 test"), "{}", told.stdout);
        assert!(told.stdout.contains("epoch 1: loss") || told.stderr.contains("epoch 1, step 1 of 1"), "{} {}", told.stdout, told.stderr);
    }
    // Also with the default shares: one image is trained on, none is left to judge.
    let data = text(&bench.data());
    let exp_id = text(&bench.path("default"));
    let result = epicker(&["train", "--data", &data, "--exp_id", &exp_id, "--frame", "64", "--width", "0.25", "--num_epoch", "1"]);
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
}
