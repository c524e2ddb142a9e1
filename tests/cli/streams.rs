//! Standard output and standard error that do not take what is written: a reader that went away, a disk that is full.
//!
//! No command may panic, none may lose what it makes, and only a reader that went away is no failure.

use crate::common::labelled::{write_mrc, write_thi};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/trained.pth");

/// Where a stream leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum To {
    Kept,
    NoReader,
    FullDisk,
}

fn stream(to: To) -> Stdio {
    match to {
        To::Kept => Stdio::piped(),
        To::NoReader => {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            writer.into()
        }
        To::FullDisk => fs::File::options().write(true).open("/dev/full").unwrap().into(),
    }
}

/// A folder with a micrograph, its labels, and what other commands made of them.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    ["mics", "labels"].iter().for_each(|name| fs::create_dir(at(name)).unwrap());
    write_mrc(&at("mics/a.mrc"), [96, 80], &[[30, 30], [60, 50]]);
    write_thi(&at("labels/a.thi"), &[[30, 30], [60, 50]]);
    folder
}

fn run(folder: &Path, words: &str, [out, err]: [To; 2]) -> Output {
    let words = words.split(' ').filter(|word| !word.is_empty()).map(|word| word.replace("MODEL", MODEL));
    Command::new(env!("CARGO_BIN_EXE_epicker")).current_dir(folder).args(words).stdout(stream(out)).stderr(stream(err)).output().unwrap()
}

/// Commands that make files, and one file of each.
const MAKERS: [(&str, &str); 8] = [
    ("pick --data mics --load_model MODEL --frame 64 --output picks --gpus -1", "picks/a.thi"),
    ("pick --data mics --load_model MODEL --frame 64 --output picks_json --gpus -1 --json", "picks_json/a.thi"),
    ("rethreshold --data picks --output again", "again/a.thi"),
    ("coords labels --to star --output stars", "stars/a.star"),
    ("check --data mics --label labels --output check", "check/a.png"),
    ("eval --label labels --picks labels --diameter_px 12 --output eval", "eval/eval.json"),
    ("exemplar create kept --data mics --label labels --frame 64 --sampling_size 1", "kept/exemplar.json"),
    ("simulate --count 1 --size 256 --diameter 60 --output simulated", "simulated/truth"),
];

/// Commands that only tell.
const TELLERS: [&str; 9] = [
    "",
    "--help",
    "--version",
    "pick --help",
    "coords",
    "plan --frame 64",
    "plan --frame 64 --train",
    "convert MODEL",
    "exemplar list kept",
];

#[test]
fn commands_that_make_files_make_them_whoever_reads() {
    for (out, status) in [(To::NoReader, 0), (To::FullDisk, 1)] {
        let place = workplace();
        for (words, file) in MAKERS {
            let result = run(place.path(), words, [out, To::Kept]);
            let told = String::from_utf8_lossy(&result.stderr);
            assert_eq!(result.status.code(), Some(status), "{words} {out:?}: {told}");
            assert!(place.path().join(file).exists(), "{words} {out:?}: made no {file}");
            let complaints = told.lines().filter(|line| line.contains("standard output")).count();
            assert_eq!(complaints, usize::from(out == To::FullDisk), "{words}: {told}");
        }
    }
}

#[test]
fn commands_that_only_tell_end_as_others_do() {
    let place = workplace();
    assert!(run(place.path(), MAKERS[6].0, [To::Kept; 2]).status.success());
    for words in TELLERS {
        for (out, status) in [(To::Kept, 0), (To::NoReader, 141), (To::FullDisk, 1)] {
            let result = run(place.path(), words, [out, To::Kept]);
            let told = String::from_utf8_lossy(&result.stderr);
            assert_eq!(result.status.code(), Some(status), "'{words}' {out:?}: {told}");
            assert_eq!(told.is_empty(), out != To::FullDisk, "'{words}' {out:?}: {told}");
        }
    }
}

#[test]
fn warnings_and_errors_that_nobody_takes_change_no_status() {
    for err in [To::NoReader, To::FullDisk] {
        let place = workplace();
        fs::write(place.path().join("labels/b.coord"), "1 x\n").unwrap();
        fs::write(place.path().join("labels/c.star"), "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #3\n1 2\n").unwrap();
        for (words, status) in [
            ("coords labels --to star --output stars", 1),  // a broken file, a warning of another
            ("coords nowhere --to star --output stars", 2), // an error
            ("pick --data mics --load_model MODEL --frame 64 --output p --gpus -1 --json", 0), // plain text on standard error
            ("plan --no-such-option", 2),
        ] {
            assert_eq!(run(place.path(), words, [To::Kept, err]).status.code(), Some(status), "{words} {err:?}");
        }
    }
}
