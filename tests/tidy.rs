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

/// A whole number as C++ or Rust writes it, where it is written out: `16`, `0xffff_ffff`, `1 << 11`.
fn number(text: &str) -> Option<u64> {
    let text = text.trim().replace('_', "");
    let one = |text: &str| match text.trim().strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None if text.trim() == "u32::MAX" => Some(u64::from(u32::MAX)),
        None => text.trim().parse().ok(),
    };
    match text.split_once("<<") {
        Some((left, right)) => Some(one(left)? << one(right)?),
        None => one(&text),
    }
}

#[test]
fn numbers_that_host_and_kernels_share_are_equal() {
    // (file of kernels, name, value): those at the file's own level, outside of functions.
    let mut of_kernels: Vec<(String, String, u64)> = Vec::new();
    let mut flags: Vec<String> = Vec::new();
    for path in files("kernels", &[".cu", ".h"]) {
        let (stem, text) = (path.file_stem().unwrap().to_string_lossy().into_owned(), without_comments(&read(&path)));
        for part in text.split("\nconstexpr u32 ").skip(1) {
            for one in part.split(';').next().unwrap().split(',') {
                let Some((name, value)) = one.split_once('=') else { continue };
                of_kernels.extend(number(value).map(|value| (stem.clone(), name.trim().to_string(), value)));
            }
        }
        let names = text.split("flags & ").skip(1).map(|part| part.split(|c| !is_word(c)).next().unwrap().to_string());
        flags.extend(names.filter(|name| !name.is_empty()));
    }
    flags.sort();
    flags.dedup();
    // What the host has: (file, name, value).
    let mut of_host: Vec<(String, String, u64)> = Vec::new();
    for path in files("src", &[".rs"]) {
        let (file, code) = (from_root(&path), code_of(&read(&path)));
        for part in code.split("const ").skip(1) {
            let Some((name, rest)) = part.split_once(": u32 = ").filter(|(name, _)| name.chars().all(is_word)) else { continue };
            of_host.extend(number(rest.split(';').next().unwrap()).map(|value| (file.clone(), name.to_string(), value)));
        }
    }
    // A room and its kernels have one name, and the kernels' constants that name or none before their own:
    // `BATCH_NORM_THREADS` of batch_norm.cu is `THREADS` of src/ops/batch_norm.
    let mut compared = 0;
    for (stem, theirs, expected) in &of_kernels {
        for (file, name, value) in &of_host {
            let mut parts = file.trim_end_matches(".rs").split('/');
            let is_room = parts.any(|part| stem == part || stem.strip_prefix(part).is_some_and(|rest| rest.starts_with('_')));
            let prefixed = theirs.strip_prefix(&stem.to_uppercase()).and_then(|rest| rest.strip_prefix('_'));
            if is_room && (theirs == name || prefixed == Some(name)) {
                assert_eq!(value, expected, "{file}: {name}; then {theirs} of kernels/{stem}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 9, "{compared} of {of_host:?}"); // without the flags, which are held below
    // Flags are shared between rooms, so they are the same everywhere.
    assert!(flags.len() >= 5, "{flags:?}");
    for name in &flags {
        let kernels: Vec<_> = of_kernels.iter().filter(|(_, theirs, _)| theirs == name).collect();
        let host: Vec<_> = of_host.iter().filter(|(_, ours, _)| ours == name).collect();
        assert!(!kernels.is_empty() && !host.is_empty(), "flag {name}: kernels {kernels:?}, host {host:?}");
        let all = kernels.iter().chain(&host).map(|(.., value)| value);
        assert!(all.clone().all(|value| value == &kernels[0].2), "flag {name}: kernels {kernels:?}, host {host:?}");
    }
}

/// Rust without what is not code: comments are left out, and what stands between quotation marks. Lines stay lines.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut code, mut at) = (String::new(), 0);
    let lines_of = |part: &str| "\n".repeat(part.matches('\n').count());
    while at < bytes.len() {
        let rest = &text[at..];
        let after_word = code.chars().last().is_some_and(is_word);
        let raw = rest.trim_start_matches('b').strip_prefix('r').filter(|_| !after_word);
        let hashes = raw.map_or(0, |raw| raw.len() - raw.trim_start_matches('#').len());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if raw.is_some_and(|raw| raw[hashes..].starts_with('"')) {
            let start = rest.find('"').unwrap() + 1;
            let end = format!("\"{}", "#".repeat(hashes));
            start + rest[start..].find(&end).unwrap() + end.len()
        } else if rest.starts_with('"') {
            let (mut end, inside) = (1, rest.as_bytes());
            while inside[end] != b'"' {
                end += if inside[end] == b'\\' { 2 } else { 1 };
            }
            end + 1
        } else if rest.starts_with("'\\") {
            rest[3..].find('\'').unwrap() + 4
        } else if rest.starts_with('\'') && rest.chars().nth(2) == Some('\'') {
            rest.char_indices().nth(3).map_or(rest.len(), |(end, _)| end)
        } else {
            let c = rest.chars().next().unwrap();
            code.push(c);
            at += c.len_utf8();
            continue;
        };
        code.push_str(&lines_of(&rest[..length]));
        code.push(' ');
        at += length;
    }
    code
}

/// Words and signs of code, each with its line: `a::b` is a word, the sign `::`, and a word.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let (mut word, mut signs) = (String::new(), text.chars().peekable());
        while let Some(c) = signs.next() {
            if is_word(c) {
                word.push(c);
            }
            if (!is_word(c) || signs.peek().is_none_or(|next| !is_word(*next))) && !word.is_empty() {
                found.push((line + 1, std::mem::take(&mut word)));
            }
            if c == ':' && signs.peek() == Some(&':') {
                signs.next();
                found.push((line + 1, "::".to_string()));
            } else if !is_word(c) && !c.is_whitespace() {
                found.push((line + 1, c.to_string()));
            }
        }
    }
    found
}

/// The modules at the root of the crate that a file names, each with its line: by `crate::a`, `crate::{a, b}`, and as many
/// `super` as lead to the root.
fn modules_named(path: &Path, code: &str) -> Vec<(usize, String)> {
    let inside = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut place: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if ["mod", "lib", "main"].contains(&place.last().unwrap().as_str()) {
        place.pop();
    }
    let tokens = tokens(code);
    let word = |at: usize| tokens.get(at).map_or("", |(_, word)| word.as_str());
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (mut ups, mut end) = (0, at);
        while word(end) == "super" && word(end + 1) == "::" {
            (ups, end) = (ups + 1, end + 2);
        }
        let from_root = if ups == 0 {
            end += 2;
            ["crate", "epicker"].contains(&word(at)) && word(at + 1) == "::"
        } else {
            // Modules within a file make `super` shorter by one, which can only name a module that is not at the root.
            ups == place.len()
        };
        if !from_root {
            at = if ups == 0 { at + 1 } else { end };
            continue;
        }
        if word(end) == "{" {
            let (mut depth, mut first) = (0, true);
            loop {
                match word(end) {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    "," if depth == 1 => first = true,
                    name if depth == 1 && first => {
                        found.push((tokens[end].0, name.to_string()));
                        first = false;
                    }
                    _ => {}
                }
                end += 1;
                if depth == 0 {
                    break;
                }
            }
        } else {
            found.push((tokens[end].0, word(end).to_string()));
        }
        at = end.max(at + 1);
    }
    found
}

/// What stands between `backquotes`.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The rows of the table of ARCHITECTURE.md that stands under a heading: the cells of each.
fn table_of_architecture(heading: &str) -> Vec<Vec<String>> {
    let text = read(&root().join("ARCHITECTURE.md"));
    let section = text.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("ARCHITECTURE.md has no `## {heading}`"));
    let lines = section.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with('|')).skip(2);
    lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect()).collect()
}

/// Path of a file from the repository's root, with `/` between its parts.
fn from_root(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/")
}

fn lies_in(file: &str, home: &str) -> bool {
    file == home || file.strip_prefix(home).is_some_and(|rest| rest.starts_with('/'))
}

#[test]
fn no_module_knows_what_the_code_map_forbids_it() {
    let map = table_of_architecture("Code map");
    let library = code_of(&read(&root().join("src/lib.rs")));
    let modules: Vec<&str> = library.split("pub mod ").skip(1).map(|part| part.split(';').next().unwrap()).collect();
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for cells in &map {
        assert_eq!(cells.len(), 3, "a row of the code map has three cells: {cells:?}");
        let forbidden: Vec<String> = quoted(&cells[2]).into_iter().map(str::to_string).collect();
        for name in &forbidden {
            assert!(modules.contains(&name.as_str()), "the code map forbids {} to know `{name}`, which is no module of lib.rs", cells[0]);
        }
        for place in quoted(&cells[0]) {
            assert!(root().join(place).exists(), "the code map has a row for {place}, which is not there");
            rows.push((place.to_string(), forbidden.clone()));
        }
    }
    let mut wrong = Vec::new();
    for path in files("src", &[".rs"]) {
        let file = from_root(&path);
        if file == "src/lib.rs" {
            continue; // it names every module, because it makes them
        }
        let Some((_, forbidden)) = rows.iter().filter(|(place, _)| lies_in(&file, place)).max_by_key(|(place, _)| place.len()) else {
            wrong.push(format!("{file}: the code map of ARCHITECTURE.md has no row for it"));
            continue;
        };
        for (line, module) in modules_named(&path, &code_of(&read(&path))) {
            if forbidden.contains(&module) {
                wrong.push(format!("{file}, line {line}: it names `{module}`, which the code map of ARCHITECTURE.md forbids it to know"));
            }
        }
    }
    for folder in ["src", "."] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = from_root(&path);
            let is_ours = path.is_dir() && !name.starts_with('.') && !["target", "dist", "src"].contains(&name.as_str());
            if is_ours && !rows.iter().any(|(place, _)| lies_in(place, &name)) {
                wrong.push(format!("{name}/: the code map of ARCHITECTURE.md has no row for it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_and_files_stay_in_their_homes() {
    let homes = table_of_architecture("Homes");
    assert!(homes.len() >= 2, "ARCHITECTURE.md, Homes: {homes:?}");
    let mut wrong = Vec::new();
    for cells in &homes {
        let (words, places) = (quoted(&cells[0]), quoted(&cells[1]));
        assert!(!words.is_empty() && !places.is_empty(), "ARCHITECTURE.md, Homes: {cells:?}");
        let mut used = vec![false; places.len()];
        for path in files("src", &[".rs"]) {
            let (file, code) = (from_root(&path), code_of(&read(&path)));
            for (line, text) in code.lines().enumerate() {
                let is_there = |word: &&&str| {
                    text.match_indices(**word).any(|(at, _)| {
                        let (before, after) = (text[..at].chars().last(), text[at + word.len()..].chars().next());
                        !before.is_some_and(is_word) && !after.is_some_and(is_word)
                    })
                };
                let Some(word) = words.iter().find(is_there) else { continue };
                match places.iter().position(|place| lies_in(&file, place)) {
                    Some(place) => used[place] = true,
                    None => wrong.push(format!("{file}, line {}: `{word}` is at home in {}", line + 1, cells[1])),
                }
            }
        }
        for (place, _) in places.iter().zip(used).filter(|(_, used)| !used) {
            wrong.push(format!("ARCHITECTURE.md, Homes: {place} has none of {}", cells[0]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
    assert!(lines.len() <= 28, "{} direct dependencies", lines.len());
    for line in lines {
        assert!(line.contains("# "), "{line}: has no reason");
    }
}

#[test]
fn the_rules_see_code_and_nothing_else() {
    let text = "//! crate::net\nuse crate::{device::Device, ops::{self, conv}};\nfn a() { let b = \"crate::io\"; c('\"', r#\"crate::cli\"#); }\n\
                /* crate::train */ use super::super::pick; fn d<'a>(e: &'a str) { super::formats::f(b'\\'') }\n";
    let named = modules_named(&root().join("src/eval/metrics.rs"), &code_of(text));
    let expected = [(2, "device"), (2, "ops"), (4, "pick")].map(|(line, name)| (line, name.to_string()));
    assert_eq!(named, expected);
    let named = modules_named(&root().join("src/eval/mod.rs"), &code_of(text));
    assert_eq!(named.last().unwrap().1, "formats", "one `super` leads from a module's own file to the root");
}

#[test]
fn lines_leave_the_program_through_one_place() {
    for path in files("src", &[".rs"]).into_iter().filter(|path| !path.ends_with("cli/print.rs")) {
        let text = without_comments(&read(&path));
        let text = text.split("#[cfg(test)]").next().unwrap().replace("io::stderr().is_terminal()", "");
        for word in ["print!(", "println!(", "dbg!(", "io::stdout()", "io::stderr()"] {
            assert!(
                !text.contains(word),
                "{}: {word}..., which panics or is not heard of where nobody reads; use cli::print",
                path.display()
            );
        }
    }
}
