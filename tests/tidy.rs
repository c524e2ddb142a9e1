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

/// Text without comments that begin with `//`.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<&str>>().join("\n")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The fields of all structs of kernels that are numbers of four bytes: (name, fields).
fn structs_of_kernels() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for path in files("kernels", &[".cu"]) {
        let text = without_comments(&read(&path));
        // What stands in the parameters of a KERNEL, those in macros among them.
        let parameters: String = text.split("KERNEL(").skip(1).map(|part| part.split('{').next().unwrap()).collect();
        for part in text.split("\nstruct ").skip(1) {
            let (name, rest) = part.split_once(" {").unwrap();
            if !parameters.split(|c| !is_word(c)).any(|word| word == name) {
                continue;
            }
            let mut fields = Vec::new();
            for line in rest.split_once("};").unwrap().0.split(';').map(str::trim).filter(|line| !line.is_empty()) {
                let (kind, names) = line.split_once(' ').unwrap();
                assert!(kind == "u32" || kind == "i32", "{}: struct {name}: a field of {kind}", path.display());
                fields.extend(names.split(',').map(|name| name.trim().to_string()));
            }
            found.push((name.to_string(), fields));
        }
    }
    found
}

#[test]
fn structs_that_kernels_take_are_those_that_launches_give() {
    let mut given: Vec<(String, Vec<String>)> = Vec::new();
    for path in files("src", &[".rs"]) {
        for part in without_comments(&read(&path)).split("kernel_struct!(").skip(1) {
            let Some((name, rest)) = part.split_once('{').filter(|(name, _)| name.trim().chars().all(is_word)) else { continue };
            // Values hold neither braces nor commas outside of parentheses.
            let (mut depth, mut fields) = (0, vec![String::new()]);
            for c in rest.split_once('}').unwrap().0.chars() {
                match c {
                    '(' | '[' => depth += 1,
                    ')' | ']' => depth -= 1,
                    ',' if depth == 0 => fields.push(String::new()),
                    _ => fields.last_mut().unwrap().push(c),
                }
            }
            let names = fields.iter().map(|field| field.split(':').next().unwrap().trim().to_string());
            given.push((name.trim().to_string(), names.filter(|name| !name.is_empty()).collect()));
        }
    }
    let structs = structs_of_kernels();
    assert!(structs.len() >= 13, "{structs:?}");
    for (name, fields) in &structs {
        let launches: Vec<_> = given.iter().filter(|(given, _)| given == name).collect();
        assert!(!launches.is_empty(), "struct {name} of kernels: no launch gives it with kernel_struct!");
        for (_, given) in launches {
            assert_eq!(given, fields, "struct {name}: the launch's fields, then the kernel's");
        }
    }
    for (name, _) in &given {
        assert!(structs.iter().any(|(known, _)| known == name), "kernel_struct!({name}): no kernel takes it");
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
