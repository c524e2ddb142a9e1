//! Files that are written whole or not at all, and what a killed run leaves behind.

use epicker::io::write::{remove_leftovers, write_many_whole, write_whole, write_whole_unsynced};
use std::fs::File;

#[test]
fn what_a_killed_run_left_goes_and_what_is_being_written_stays() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in [".epicker-dead.part", ".epicker-live.part", ".epicker-notes", "a.part", "a.thi"] {
        std::fs::write(at(name), "x").unwrap();
    }
    let live = File::open(at(".epicker-live.part")).unwrap();
    live.lock().unwrap();
    remove_leftovers(folder.path());
    let is_there = |name: &str| at(name).exists();
    assert!(!is_there(".epicker-dead.part"));
    assert!([".epicker-live.part", ".epicker-notes", "a.part", "a.thi"].iter().all(|name| is_there(name)));
    drop(live);
    remove_leftovers(folder.path());
    assert!(!is_there(".epicker-live.part"));
    remove_leftovers(&at("nowhere"));
}

#[test]
fn a_written_file_is_whole_has_the_usual_rights_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.thi");
    write_whole(&path, b"old").unwrap();
    write_whole_unsynced(&path, b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let message = format!("{:#}", write_whole(&folder.path().join("none/a.thi"), b"").unwrap_err());
    assert!(message.contains("none/a.thi: cannot be written"), "{message}");
}

#[test]
fn many_files_are_each_written_whole_and_one_that_cannot_be_keeps_no_other_back() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<std::path::PathBuf> =
        (0..600).map(|i| folder.path().join(if i == 300 { "none/x".to_owned() } else { format!("{i}.coord") })).collect();
    let files: Vec<(&std::path::Path, String)> = paths.iter().enumerate().map(|(i, path)| (path.as_path(), i.to_string())).collect();
    let results = write_many_whole(&files);
    assert!(results.iter().enumerate().all(|(i, result)| result.is_ok() == (i != 300)));
    assert!((0..600).all(|i| i == 300 || std::fs::read_to_string(&paths[i]).unwrap() == i.to_string()));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 599);
}
