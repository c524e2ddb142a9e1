//! Names: what outputs are called, and which label belongs to which micrograph.

use epicker::io::names::{OutputNames, label_stem, match_labels, micrograph_stem};
use std::path::{Path, PathBuf};

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn rule<'a>(suffix: &'a str, keep_dirs: bool) -> OutputNames<'a> {
    OutputNames { folder: Path::new("out"), suffix, extension: "thi", keep_dirs }
}

fn outputs(rule: &OutputNames, inputs: &[&str]) -> Result<Vec<String>, String> {
    let inputs: Vec<PathBuf> = inputs.iter().map(PathBuf::from).collect();
    let outputs = rule.outputs(&inputs, |path| micrograph_stem(path).text).map_err(|error| error.to_string())?;
    Ok(outputs.iter().map(|path| path.to_string_lossy().replace('\\', "/")).collect())
}

#[test]
fn stems_lose_one_extension_and_keep_their_dots() {
    for (name, stem, is_known) in [
        ("a.mrc", "a", true),
        ("d/A.MRC", "A", true),
        ("a.mrcs", "a", true),
        ("a.b.mrc", "a.b", true),
        ("a.mrc.gz", "a", true),
        ("a.MRC.BZ2", "a", true),
        ("image_arc.mrc", "image_arc", true),
        ("a_DW.tif", "a_DW", true),
        ("a.mrc.mrc", "a.mrc", true),
        ("a.jpg", "a.jpg", false),
        ("a", "a", false),
        (".mrc", ".mrc", false),
    ] {
        let found = micrograph_stem(Path::new(name));
        assert_eq!((found.text.as_str(), found.is_known), (stem, is_known), "{name}");
    }
    for (name, stem) in [("a.thi", "a"), ("d/a.b.STAR", "a.b"), ("A.MRC.thi", "A"), ("a_info.json", "a_info"), ("a.xyz", "a.xyz")] {
        assert_eq!(label_stem(Path::new(name)), stem);
    }
}

#[test]
fn outputs_are_stem_suffix_and_extension() {
    assert_eq!(outputs(&rule("", false), &["x/a.mrc", "y/b.tif"]).unwrap(), ["out/a.thi", "out/b.thi"]);
    assert_eq!(outputs(&rule("_autopick", false), &["a.b_DW.mrc"]).unwrap(), ["out/a.b_DW_autopick.thi"]);
    assert!(outputs(&rule("/x", false), &["a.mrc"]).unwrap_err().contains("holds a path"));
}

#[test]
fn two_inputs_of_one_name_are_refused_with_both_paths() {
    for pair in [["x/a.mrc", "y/a.mrc"], ["a.mrc", "a.tif"], ["a.mrc", "A.mrc"], ["a.mrc", "a.mrc.gz"]] {
        let message = outputs(&rule("", false), &pair).unwrap_err();
        assert!(pair.iter().all(|path| message.contains(path)) && message.contains("--keep-dirs"), "{message}");
    }
}

#[test]
fn names_of_our_lists_are_refused() {
    assert!(outputs(&rule("", false), &["autopick.mrc"]).unwrap_err().contains("our list"));
    assert!(outputs(&rule("", false), &["Merge_Results.mrc"]).unwrap_err().contains("our list"));
    assert!(outputs(&rule("_1", false), &["autopick.mrc"]).is_ok());
}

#[test]
fn folders_below_the_shared_one_are_mirrored() {
    let inputs = ["/data/g1/m/a.mrc", "/data/g1/a.mrc", "/data/g2/a.mrc"];
    assert_eq!(outputs(&rule("", true), &inputs).unwrap(), ["out/g1/m/a.thi", "out/g1/a.thi", "out/g2/a.thi"]);
    assert_eq!(outputs(&rule("", true), &["d/./a.mrc", "d/e/../b.mrc"]).unwrap(), ["out/a.thi", "out/b.thi"]);
    assert_eq!(outputs(&rule("", true), &["../a/x.mrc", "b/y.mrc"]).unwrap(), ["out/a/x.thi", "out/b/y.thi"], "never out of the folder");
    assert_eq!(outputs(&rule("", true), &["autopick/a.mrc", "b/autopick.mrc"]).unwrap().len(), 2, "the lists lie at the top");
}

#[test]
fn equal_names_pair_first_and_silently() {
    let found = match_labels(&strings(&["b", "a", "c"]), &strings(&["a", "b", "x"])).unwrap();
    assert_eq!(found.pairs, [(0, 1), (1, 0)]);
    assert_eq!((found.lone_micrographs, found.lone_labels, found.notes.len()), (vec![2], vec![2], 0));
}

#[test]
fn endings_uids_and_processing_are_left_out_step_by_step() {
    for (micrograph, label, word) in [
        ("a", "a_autopick", "picking"),
        ("a", "a_manualpick", "picking"),
        ("a", "a_info", "picking"),
        ("012345678901234567890_a", "a", "unique id"),
        ("a", "012345678901234567890_a_autopick", "unique id"),
        ("a_DW", "a", "_DW"),
        ("a", "a_patch_aligned_doseweighted", "_DW"),
        ("012345678901234567890_a_DW", "a_autopick", "_DW"),
    ] {
        let found = match_labels(&strings(&[micrograph]), &strings(&[label])).unwrap();
        assert_eq!(found.pairs, [(0, 0)], "{micrograph} {label}");
        assert!(found.notes.len() == 1 && found.notes[0].contains(word), "{:?}", found.notes);
    }
    for (micrograph, label) in [("20240101_a", "a"), ("a_picked", "a"), ("a", "ab"), ("a_DW", "a_autopicked")] {
        let found = match_labels(&strings(&[micrograph]), &strings(&[label])).unwrap();
        assert!(found.pairs.is_empty(), "a date is no id, and a micrograph's own ending counts: {micrograph} {label}");
    }
}

#[test]
fn the_same_way_is_reported_once_for_all_pairs() {
    let micrographs: Vec<String> = (0..50).map(|i| format!("m{i}")).collect();
    let labels: Vec<String> = (0..50).map(|i| format!("m{i}_autopick")).collect();
    let found = match_labels(&micrographs, &labels).unwrap();
    assert_eq!((found.pairs.len(), found.notes.len()), (50, 1));
    assert!(found.notes[0].starts_with("50 labels"), "{:?}", found.notes);
}

#[test]
fn several_partners_are_refused_with_the_list() {
    let message = match_labels(&strings(&["a_DW", "a_noDW"]), &strings(&["a"])).unwrap_err().to_string();
    assert!(message.contains("a_DW, a_noDW"), "{message}");
    let message = match_labels(&strings(&["a"]), &strings(&["a_autopick", "a_manualpick"])).unwrap_err().to_string();
    assert!(message.contains("a_autopick, a_manualpick"), "{message}");
}

#[test]
fn an_exact_partner_is_not_given_away_later() {
    let found = match_labels(&strings(&["a", "a_DW"]), &strings(&["a", "a_DW"])).unwrap();
    assert_eq!(found.pairs, [(0, 0), (1, 1)]);
    let found = match_labels(&strings(&["a"]), &strings(&["a_autopick", "a"])).unwrap();
    assert_eq!((found.pairs, found.lone_labels), (vec![(0, 1)], vec![0]));
}
