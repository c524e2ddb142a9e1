//! Names: what outputs are called, and which label belongs to which micrograph.

use epicker::io::endings::{without_picking, without_processing, without_unique_id};
use epicker::io::names::{OutputNames, label_stem, micrograph_stem};
use epicker::io::pairing::{Matching, Name, distinct, match_names, refuse_twins};
use std::path::{Path, PathBuf};

fn micrographs(paths: &[&str]) -> Vec<Name> {
    paths.iter().map(|path| Name::of_micrograph(path, Path::new(path))).collect()
}

/// Coordinate files, each of one micrograph.
fn files(paths: &[&str]) -> Vec<Name> {
    paths.iter().map(|path| Name::of_file(Path::new(path))).collect()
}

/// Rows of a table that names its micrographs.
fn rows(paths: &[&str]) -> Vec<Name> {
    paths.iter().map(|path| Name::in_table(path)).collect()
}

fn matched(micrographs: &[Name], labels: &[Name]) -> Matching {
    match_names(micrographs, labels).unwrap()
}

/// What this thread has worked so far.
#[cfg(target_os = "linux")]
fn processor_seconds() -> f64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    statistics.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1e-9
}

fn refusal(micrographs: &[Name], labels: &[Name]) -> String {
    match_names(micrographs, labels).unwrap_err().to_string()
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
    let found = matched(&micrographs(&["m/b.mrc", "m/a.mrc", "m/c.mrc"]), &files(&["l/a.star", "l/b.star", "l/x.star"]));
    assert_eq!(found.pairs, [(0, 1), (1, 0)]);
    assert_eq!((found.lone_micrographs, found.lone_labels, found.notes.len()), (vec![2], vec![2], 0));
}

#[test]
fn endings_uids_and_processing_are_left_out_step_by_step() {
    for (micrograph, label, word) in [
        ("a", "a_autopick", "picking"),
        ("a", "a_manualpick", "picking"),
        ("a", "a_info", "picking"),
        ("20170629_00021_frameImage", "20170629_00021_frameImage_topazpicks", "picking"),
        ("20170629_00021_frameImage", "20170629_00021_frameImage_automatch", "picking"),
        ("a", "a_BoxNet2_20180602", "picking"),
        ("a", "a_AUTOPICK", "picking"),
        ("012345678901234567890_a", "a", "unique id"),
        ("a", "012345678901234567890_a_autopick", "unique id"),
        ("a_DW", "a", "_DW"),
        ("a", "a_patch_aligned_doseweighted", "_DW"),
        ("012345678901234567890_a_DW", "a_autopick", "_DW"),
        ("014226145210432415842_FoilHole_1_Data_2_fractions_rigid_aligned", "FoilHole_1_Data_2_fractions", "_DW"),
        ("014226145210432415842_FoilHole_1_Data_2_Fractions_patch_aligned_doseweighted", "FoilHole_1_Data_2_fractions", "_DW"),
        ("FoilHole_1_Data_2_Fractions", "FoilHole_1_Data_2", "_DW"),
        ("FoilHole_1_Data_2_EER", "FoilHole_1_Data_2_autopick", "_DW"),
        ("a-a-DW", "a", "_DW"),
        ("a", "a_DW_automatch", "_DW"),
        ("VSM_345_Nov03_10_45_24", "VSM_345_Nov03_10.45.24_autopick", "dots"),
    ] {
        let found = matched(&micrographs(&[&format!("m/{micrograph}.mrc")]), &files(&[&format!("l/{label}.star")]));
        assert_eq!(found.pairs, [(0, 0)], "{micrograph} {label}");
        assert!(found.notes.len() == 1 && found.notes[0].contains(word), "{:?}", found.notes);
    }
    for (micrograph, label) in
        [("20240101_a", "a"), ("a_picked", "a"), ("a", "ab"), ("a_DW", "a_autopicked"), ("a_X+1Y-1-1", "a"), ("a_frameImage", "a")]
    {
        let found = matched(&micrographs(&[&format!("{micrograph}.mrc")]), &files(&[&format!("{label}.star")]));
        assert!(found.pairs.is_empty(), "a date is no id, and a micrograph's own ending counts: {micrograph} {label}");
    }
}

#[test]
fn the_same_way_is_reported_once_for_all_pairs() {
    let names = |ending: &str| (0..50).map(|i| format!("m{i}{ending}")).collect::<Vec<String>>();
    let (micrograph_names, label_names) = (names(".mrc"), names("_autopick.star"));
    let strs = |names: &'_ [String]| names.iter().map(String::as_str).map(str::to_owned).collect::<Vec<_>>();
    let micrographs: Vec<Name> = strs(&micrograph_names).iter().map(|name| Name::of_micrograph(name, Path::new(name))).collect();
    let labels: Vec<Name> = strs(&label_names).iter().map(|name| Name::of_file(Path::new(name))).collect();
    let found = matched(&micrographs, &labels);
    assert_eq!((found.pairs.len(), found.notes.len()), (50, 1));
    assert!(found.notes[0].starts_with("50 labels"), "{:?}", found.notes);
}

#[test]
fn several_partners_are_refused_with_the_list() {
    let message = refusal(&micrographs(&["a_DW.mrc", "a_noDW.mrc"]), &files(&["a.star"]));
    assert!(message.contains("a_DW.mrc, a_noDW.mrc"), "{message}");
    let message = refusal(&micrographs(&["a.mrc"]), &files(&["a_autopick.star", "a_manualpick.star"]));
    assert!(message.contains("a_autopick.star, a_manualpick.star"), "{message}");
}

#[test]
fn an_exact_partner_is_not_given_away_later() {
    let found = matched(&micrographs(&["a.mrc", "a_DW.mrc"]), &files(&["a.star", "a_DW.star"]));
    assert_eq!(found.pairs, [(0, 0), (1, 1)]);
    let found = matched(&micrographs(&["a.mrc"]), &files(&["a_autopick.star", "a.star"]));
    assert_eq!((found.pairs, found.lone_labels), (vec![(0, 1)], vec![0]));
    // The picks of `a` are not those of `a_DW`, although `a` has better labels.
    let found = matched(&micrographs(&["a.mrc", "a_DW.mrc"]), &files(&["a.star", "a_autopick.star"]));
    assert_eq!((found.pairs, found.lone_micrographs, found.lone_labels), (vec![(0, 0)], vec![1], vec![1]));
}

#[test]
fn whole_paths_go_first_then_the_longest_common_tail() {
    let two = micrographs(&["MotionCorr/job002/grid1/m.mrc", "MotionCorr/job002/grid2/m.mrc"]);
    let found = matched(&two, &rows(&["MotionCorr/job002/grid2/m.mrc", "MotionCorr/job002/grid1/m.mrc"]));
    assert_eq!((found.pairs, found.notes.len()), (vec![(0, 1), (1, 0)], 0));
    // The same tail on other disks, in another job, and with the names that programs made of them.
    let found = matched(&two, &rows(&["/data/p/MotionCorr/job002/grid2/m.mrc", "MotionCorr/job009/grid1/m.mrc"]));
    assert_eq!((found.pairs, found.notes.len()), (vec![(0, 1), (1, 0)], 0));
    let found = matched(&two, &files(&["AutoPick/job005/grid2/m_autopick.star", "AutoPick/job005/grid1/m_autopick.star"]));
    assert_eq!(found.pairs, [(0, 1), (1, 0)]);
    // One folder within the other: both tails fit, the whole path decides.
    let nested = micrographs(&["g/m.mrc", "x/g/m.mrc"]);
    assert_eq!(matched(&nested, &rows(&["x/g/m.mrc", "g/m.mrc"])).pairs, [(0, 1), (1, 0)]);
    assert_eq!(matched(&nested, &rows(&["g/m.mrc"])).pairs, [(0, 0)]);
    // Names of Windows, doubled and dotted separators.
    assert_eq!(matched(&two, &rows(&["D:\\x\\grid2\\m.mrc"])).pairs, [(1, 0)]);
    assert_eq!(matched(&two, &rows(&["MotionCorr/job002//./grid2/m.mrc"])).pairs, [(1, 0)]);
}

#[test]
fn a_name_alone_pairs_only_where_there_is_one() {
    let two = micrographs(&["grid1/m.mrc", "grid2/m.mrc"]);
    let message = refusal(&two, &rows(&["m.mrc"]));
    assert!(message.contains("grid1/m.mrc, grid2/m.mrc"), "{message}");
    let message = refusal(&micrographs(&["mics/m.mrc"]), &rows(&["grid1/m.mrc", "grid2/m.mrc"]));
    assert!(message.contains("grid1/m.mrc, grid2/m.mrc"), "{message}");
    // grid3's points are not given to grid2, for which nothing was found.
    let found = matched(&two, &rows(&["grid1/m.mrc", "grid3/m.mrc"]));
    assert_eq!((found.pairs, found.lone_micrographs, found.lone_labels), (vec![(0, 0)], vec![1], vec![1]));
    // Moved micrographs: one on either side, and it is told that only the name says so.
    let found = matched(&micrographs(&["mics/m.mrc"]), &rows(&["MotionCorr/job002/Movies/m.mrc"]));
    assert_eq!(found.pairs, [(0, 0)]);
    assert!(found.notes.len() == 1 && found.notes[0].contains("the folders differ"), "{:?}", found.notes);
}

#[test]
fn names_are_told_apart_by_as_many_folders_as_it_takes() {
    let names = micrographs(&["p/g1/a.mrc", "p/g2/a.mrc", "p/g2/b.mrc", "x/y/c.mrc", "z/y/c.mrc"]);
    assert_eq!(distinct(&names), ["g1/a", "g2/a", "b", "x/y/c", "z/y/c"]);
}

#[test]
fn two_files_of_one_folder_and_one_stem_are_refused() {
    assert!(refuse_twins(&files(&["g1/a.star", "g2/a.star"]), |i| i.to_string()).is_ok());
    let message = refuse_twins(&files(&["g1/a.star", "g1/a.box"]), |i| i.to_string()).unwrap_err().to_string();
    assert!(message.contains("0 and 1: both are called a"), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn pairing_many_names_takes_time_in_proportion_to_their_number() {
    let seconds = |count: usize| {
        let names: Vec<String> = (0..count).map(|i| format!("MotionCorr/job002/g{}/m{}.mrc", i % 7, i / 7)).collect();
        let micrographs: Vec<Name> = names.iter().map(|name| Name::of_micrograph(name, Path::new(name))).collect();
        let labels: Vec<Name> = names.iter().rev().map(|name| Name::in_table(&name.replace("MotionCorr/job002", "x"))).collect();
        let start = processor_seconds();
        assert_eq!(matched(&micrographs, &labels).pairs.len(), count);
        processor_seconds() - start
    };
    let [few, many] = [1000, 16_000].map(seconds);
    assert!(many < 64.0 * few.max(0.005), "1000 names {few:.3} s, 16000 names {many:.3} s"); // 16 times as many; a square would be 256
}

#[test]
fn endings_go_in_any_case_and_nothing_else_goes() {
    for (stem, short) in [
        ("a_Topazpicks", Some("a")),
        ("a_automatch", Some("a")),
        ("a_BoxNet2_20180602", Some("a")),
        ("a_b_BoxNet2Mask_20180918", Some("a_b")),
        ("a_BoxNet2_2018", None),
        ("BoxNet2_20180602", None),
        ("_autopick", None),
        ("autopick", None),
        ("a_autopicks", None),
        ("\u{e4}\u{f6}", None),
    ] {
        assert_eq!(without_picking(stem), short, "{stem}");
    }
    for (stem, short) in [
        ("FoilHole_1_Data_2_Fractions_patch_aligned_doseweighted", Some("FoilHole_1_Data_2")),
        ("FoilHole_1_Data_2_fractions_rigid_aligned", Some("FoilHole_1_Data_2")),
        ("x_aligned_mic_DW", Some("x")),
        ("00002esn-a-DW", Some("00002esn")),
        ("20240101_E01.frames", Some("20240101_E01")),
        ("x_EER_intg", Some("x")),
        ("20170629_00021_frameImage", None), // a camera's name for the movie, which no program leaves out
        ("x_X+1Y-1-1", None),                // SerialEM's place in the hole, which tells micrographs apart
        ("_DW", None),
    ] {
        assert_eq!(without_processing(stem), short, "{stem}");
    }
    assert_eq!(without_unique_id("014226145210432415842_a"), Some("a"));
    assert_eq!(without_unique_id("20240101123000_a"), None);
}
