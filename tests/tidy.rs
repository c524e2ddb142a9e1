//! What a machine can check of the house's order: paths, words, and that every op and format is where it is looked for.
#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All text files of the repository below `folder` with one of the endings.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", ".git", ".local", "golden"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

macro_rules! op_names {
    ($($op:ident)*) => { [$(stringify!($op)),*] };
}

#[test]
fn every_op_has_its_room() {
    let names = epicker::for_each_op!(op_names);
    for name in names {
        let (file, folder) = (root().join(format!("src/ops/{name}.rs")), root().join(format!("src/ops/{name}/mod.rs")));
        let path = if file.exists() { file } else { folder };
        let text = read(&path);
        for word in ["pub const CASES", "pub fn compare", "Shapes:", "Errors:", "Source:"] {
            assert!(text.contains(word), "{}: has no `{word}`", path.display());
        }
    }
}

#[test]
fn no_file_names_a_machine() {
    // Written in two parts, so that this file does not find itself.
    let words = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("../sha", "red")];
    for path in files(".", &[".rs", ".md", ".toml", ".sh", ".py", ".cu", ".h"]) {
        let text = read(&path);
        for word in words {
            assert!(!text.contains(word), "{} contains {word}", path.display());
        }
    }
}

#[test]
fn every_source_file_opens_with_what_it_is() {
    for path in files("src", &[".rs"]) {
        let text = read(&path);
        assert!(text.starts_with("//! ") && !text.starts_with("//! (to be"), "{} does not open with a sentence", path.display());
    }
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = read(&root().join("Cargo.toml"));
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let lines: Vec<&str> = section.lines().filter(|line| line.contains('=')).collect();
    assert!(lines.len() <= 26, "{} direct dependencies", lines.len());
    for line in lines {
        assert!(line.contains("# "), "{line}: has no reason");
    }
}
