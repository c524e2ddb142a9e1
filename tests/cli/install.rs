//! scripts/install.sh, from a folder like the one that scripts/release.sh packs.

#![cfg(target_os = "linux")]

#[path = "../../examples/shell_files.rs"]
mod shell_files;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// The packed folder, with the program that cargo built for the tests.
fn unpacked(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::create_dir_all(folder.join("bin")).unwrap();
    fs::create_dir_all(folder.join("docs")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_epicker"), folder.join("bin/epicker")).unwrap();
    for (from, to) in [("bin/epicker.sh", "bin/epicker.sh"), ("bin/epicker_train.sh", "bin/epicker_train.sh")] {
        fs::copy(root.join(from), folder.join(to)).unwrap();
    }
    for file in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "docs/gpu.md"] {
        fs::copy(root.join(file), folder.join(file)).unwrap();
    }
    fs::copy(root.join("scripts/install.sh"), folder.join("install.sh")).unwrap();
    shell_files::write(&folder.join("share")).unwrap();
    fs::create_dir_all(folder.join("share/modulefiles/epicker")).unwrap();
    fs::copy(root.join("packaging/modulefiles/epicker"), folder.join("share/modulefiles/epicker/0.1.0")).unwrap();
    let sums = "find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS";
    assert!(Command::new("sh").args(["-c", sums]).current_dir(folder).status().unwrap().success());
}

fn install(from: &Path, arguments: &[&Path]) -> Output {
    Command::new(from.join("install.sh")).args(arguments).output().unwrap()
}

#[test]
fn a_release_installs_where_it_is_told_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("epicker with blanks"), folder.path().join("new/place"));
    unpacked(&from);
    for _ in 0..2 {
        let output = install(&from, &[&to]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.starts_with(&format!("installed epicker {}", env!("CARGO_PKG_VERSION"))), "{text}");
    }
    assert!(to.join("share/epicker/docs/gpu.md").is_file() && to.join("share/epicker/LICENSE-MIT").is_file());
    let names = fs::read_dir(to.join("bin")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert_eq!(names, ["epicker", "epicker.sh", "epicker_train.sh"]);
    let share = |file: &str| fs::read_to_string(to.join("share").join(file)).unwrap();
    assert!(share("modulefiles/epicker/0.1.0").starts_with("#%Module"));
    let page = share("man/man1/epicker-pick.1");
    assert!(page.contains(".TH") && page.contains("load_model") && !page.contains("commit"), "{page}");
    assert!(share("man/man1/epicker.1").contains("epicker\\-coords(1)") && to.join("share/man/man1/epicker-exemplar.1").is_file());
    for (file, wanted) in [
        ("bash-completion/completions/epicker", "complete -F _epicker"),
        ("zsh/site-functions/_epicker", "#compdef epicker"),
        ("fish/vendor_completions.d/epicker.fish", "complete -c epicker"),
    ] {
        let text = share(file);
        assert!(text.contains(wanted) && text.contains("load_model"), "{file}");
    }
    let bash = Command::new("bash").arg("-n").arg(to.join("share/bash-completion/completions/epicker")).status().unwrap();
    assert!(bash.success());
    let moved = folder.path().join("moved");
    fs::rename(&to, &moved).unwrap();
    let help = Command::new(moved.join("bin/epicker.sh")).arg("--help").output().unwrap();
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--load_model"));
}

#[test]
fn the_version_tells_the_commit_and_the_kernels() {
    let told = |option: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_epicker")).arg(option).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(told("-V"), format!("epicker {}\n", env!("CARGO_PKG_VERSION")));
    let full = told("--version");
    let lines: Vec<&str> = full.lines().collect();
    assert_eq!(lines[0], format!("epicker {}", env!("CARGO_PKG_VERSION")));
    assert!(lines[1].starts_with("commit ") && lines[2].starts_with("kernels ") && lines.len() == 3, "{full}");
}

#[test]
fn a_damaged_release_is_not_installed() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("epicker"), folder.path().join("place"));
    unpacked(&from);
    fs::write(from.join("README.md"), "cut off").unwrap();
    let output = install(&from, &[&to]);
    assert!(!output.status.success() && !to.exists());
    assert!(String::from_utf8_lossy(&output.stderr).contains("files are damaged or missing; unpack the archive again"));
    assert_eq!(install(&from, &[]).status.code(), Some(2));
}
