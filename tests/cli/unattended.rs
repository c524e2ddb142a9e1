//! `epicker pick` when nobody watches: batches that go on, shards that share a folder, scales that are wrong, files that
//! prepare a run and are broken.

use super::general::{Place, facts, is_done, knows_size, told};
use crate::common::micrographs::{mrc, small, small_pixels};
use crate::common::program::is_refused;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// A model that knows particles of 24 network pixels, and micrographs of 160 x 128 pixels of 1.5 angstrom.
fn place_with(names: &[&str]) -> Place {
    let place = Place::new();
    place.general("particle", &knows_size());
    names.iter().for_each(|name| place.micrograph(name, [160, 128]));
    place
}

/// Picks the folder `mics` into `output`, and leaves alone what is there.
fn pick(place: &Place, args: &[&str]) -> std::process::Output {
    place.run(&[&["pick", "--gpus", "-1", "--data", "mics"], args].concat())
}

const SIZE: [&str; 4] = ["--diameter", "80", "--angpix", "2"];

/// Every file of an output folder that does not tell when and by which command it was made, with its bytes.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !name.starts_with("runs/") && name != "merge_results.thi" {
                all.push((name, fs::read(path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

/// The micrographs that a list of results names.
fn listed(place: &Place, name: &str) -> Vec<String> {
    let lines = place.text(name);
    let stems = lines.lines().filter_map(|line| line.split_once(".mrc")).map(|(path, _)| path.rsplit('/').next().unwrap().to_owned());
    stems.collect()
}

#[test]
fn a_broken_sample_or_first_file_does_not_end_the_batch() {
    let nan = mrc([160, 128], 2, 1.5, &f32::NAN.to_le_bytes().repeat(160 * 128));
    let low = mrc([256, 1], 2, 1.5, &small_pixels("low", [256, 1]).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    let cases: [(&str, &[u8]); 3] = [("NaN", &nan), ("256 x 1", &low), ("corrupt", b"no micrograph")];
    let healthy = place_with(&["b.mrc", "c.mrc", "d.mrc", "e.mrc"]);
    // Of five micrographs the samples are the first, the third and the last.
    for (what, bytes) in cases {
        for broken in [&["a.mrc"][..], &["a.mrc", "b1.mrc"]] {
            let place = place_with(&["b.mrc", "c.mrc", "d.mrc", "e.mrc"]);
            broken.iter().for_each(|name| fs::write(place.path("mics").join(name), bytes).unwrap());
            let result = pick(&place, &[]);
            let text = told(&result);
            // Whether a micrograph of one row has a row left depends on the frame that was found.
            let fails = |name: &&&str| !place.path(&format!("output/{}", name.replace(".mrc", ".thi"))).exists();
            let failed: Vec<&&str> = broken.iter().filter(fails).collect();
            assert!(what == "256 x 1" || failed.len() == broken.len(), "{what}: {text}");
            assert_eq!(result.status.code(), Some(i32::from(!failed.is_empty())), "{what}: {text}");
            assert!(failed.iter().all(|name| text.contains(&format!("error: mics/{name}"))), "{what}: {text}");
            assert!(text.contains("no diameter is known: tried"), "{what}: {text}");
            ["b", "c", "d", "e"].iter().for_each(|name| assert!(place.path(&format!("output/{name}.thi")).exists(), "{what}: {text}"));
        }
    }
    // A first file that is broken does not hide that the others have pixel sizes: the model's own diameter gives the scale.
    let place = place_with(&["b.mrc"]);
    place.general("particle", &epicker::formats::state_dict::ModelFacts { diameter_angstrom: Some(60.0), ..knows_size() });
    fs::write(place.path("mics/a.mrc"), "no micrograph").unwrap();
    let result = pick(&place, &[]);
    assert_eq!(result.status.code(), Some(1));
    assert!(told(&result).contains("particles of 60 angstrom"), "{}", told(&result));
    // And one that is broken does not hide that the others have none.
    let pixels: Vec<u8> = small_pixels("c", [160, 128]).iter().flat_map(|v| v.to_le_bytes()).collect();
    fs::write(place.path("mics/b.mrc"), mrc([160, 128], 2, 0.0, &pixels)).unwrap();
    is_refused(&pick(&place, &["--diameter", "60"]), "mics/b.mrc: pixel size unknown");
    // Judging goes on, too, without the micrograph that cannot be picked.
    fs::create_dir(healthy.path("labels")).unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        fs::write(healthy.path(&format!("labels/{name}.box")), "40\t40\t20\t20\n90\t60\t20\t20\n").unwrap();
    }
    fs::write(healthy.path("mics/a.mrc"), &nan).unwrap();
    let result = healthy.run(&["eval", "--data", "mics", "--label", "labels", "--gpus", "-1", "--load_model", "particle", "--json"]);
    assert_eq!(result.status.code(), Some(1), "{}", told(&result));
    assert!(told(&result).contains("error: mics/a.mrc") && told(&result).contains("1 micrograph could not be picked"), "{}", told(&result));
    let numbers: serde_json::Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!((numbers["micrographs"].as_u64(), numbers["labels"].as_u64()), (Some(4), Some(8)));
    // So do the commands that only look at labels or measure, where not even a header can be read.
    fs::write(healthy.path("mics/a.mrc"), "no micrograph").unwrap();
    let labels = ["--data", "mics", "--label", "labels"];
    for command in [
        &["check", "--no-pictures"][..],
        &["exemplar", "create", "kept", "--sampling_size", "2"],
        &["eval", "--picks", "labels", "--frame", "64"],
        &["bench", "--load_model", "particle", "--frame", "64", "--runs", "1", "--gpus", "-1"],
    ] {
        let data = if command[0] == "bench" { &labels[..2] } else { &labels[..] };
        let result = healthy.run(&[command, data].concat());
        assert_eq!(result.status.code(), Some(1), "{command:?}: {}", told(&result));
        assert!(told(&result).contains("error: mics/a.mrc"), "{command:?}: {}", told(&result));
    }
}

#[test]
fn skip_done_refuses_what_another_model_scale_or_threshold_made() {
    let place = place_with(&["a.mrc", "b.mrc"]);
    is_done(&pick(&place, &SIZE));
    let before = contents(&place.path("output"));
    fs::remove_file(place.path("output/b.thi")).unwrap();
    let again = |args: &[&str]| pick(&place, &[&SIZE[..], &["--skip-done"], args].concat());
    is_refused(&again(&["--diameter", "160"]), "give --diameter 80 as before");
    is_refused(&again(&["--frame", "128"]), "one scale in a folder");
    is_refused(&again(&["--vis_thresh", "0.2"]), "epicker rethreshold --data ./output --vis_thresh 0.2");
    is_refused(&again(&["--K", "7"]), "--K 2000");
    is_refused(&again(&["--mode", "vesicle", "--load_model", "particle"]), "--mode particle");
    place.general("other", &facts("particle"));
    is_refused(&again(&["--frame", "96", "--load_model", "share/epicker/weights/other.safetensors"]), "one model in a folder");
    assert!(!place.path("output/b.thi").exists());
    // As before, the batch goes on, and ends as if nothing had been missing.
    is_done(&again(&[]));
    assert_eq!(contents(&place.path("output")), before);
}

#[test]
fn a_micrograph_that_changed_is_picked_again() {
    let place = place_with(&["a.mrc", "b.mrc", "c.mrc"]);
    is_done(&pick(&place, &SIZE));
    let picks = ["a", "b", "c"].map(|name| place.text(&format!("output/{name}.thi")));
    // Of the same length, so that only the time tells.
    fs::write(place.path("mics/b.mrc"), small("another", [160, 128])).unwrap();
    let later = SystemTime::now() + Duration::from_secs(10);
    fs::File::options().append(true).open(place.path("mics/b.mrc")).unwrap().set_modified(later).unwrap();
    let text = is_done(&pick(&place, &[&SIZE[..], &["--skip-done"]].concat()));
    assert!(text.contains("1 micrograph has changed") && text.contains("2 done before"), "{text}");
    assert_ne!(place.text("output/b.thi"), picks[1]);
    assert_eq!([place.text("output/a.thi"), place.text("output/c.thi")], [picks[0].clone(), picks[2].clone()]);
    // Candidates that were damaged stand for nothing, so their micrograph is picked again.
    fs::write(place.path("output/candidates/a.star"), "#epk Format 1\n").unwrap();
    assert!(is_done(&pick(&place, &[&SIZE[..], &["--skip-done"]].concat())).contains("2 done before"));
    assert!(place.text("output/candidates/a.star").contains("#epk Rows"));
}

#[test]
fn a_file_that_is_still_being_copied_is_told() {
    let place = place_with(&[]);
    let mut pixels = small_pixels("a", [160, 128]);
    let bytes = |pixels: &[f32]| mrc([160, 128], 2, 1.5, &pixels.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    // Three rows of 128 may be a masked border; a tenth of them is not.
    pixels[160 * 125..].fill(0.0);
    fs::write(place.path("mics/a.mrc"), bytes(&pixels)).unwrap();
    assert!(!is_done(&pick(&place, &SIZE)).contains("being copied"));
    pixels[160 * 115..].fill(0.0);
    fs::write(place.path("mics/a.mrc"), bytes(&pixels)).unwrap();
    let text = is_done(&pick(&place, &SIZE));
    assert!(text.contains("mics/a.mrc: 13 of 128 rows hold a single value each"), "{text}");
}

#[test]
fn shards_and_restarts_share_one_scale_and_give_the_bytes_of_one_run() {
    let names: Vec<String> = (0..12).map(|i| format!("m{i:02}.mrc")).collect();
    let place = place_with(&names.iter().map(String::as_str).collect::<Vec<_>>());
    // Micrographs of another size in the last shard: alone it would find another diameter.
    names[9..].iter().for_each(|name| place.micrograph(name, [320, 256]));
    let lists: Vec<String> = (0..4).map(|shard| format!("shard{shard}.thi")).collect();
    for (shard, list) in lists.iter().enumerate() {
        let rows: String = names[3 * shard..3 * shard + 3].iter().map(|name| format!("mics/{name}\n")).collect();
        fs::write(place.path(list), format!("[File List: Filename]\n{rows}[End]\n")).unwrap();
    }
    let command = |data: &str, output: &str, more: &[&str]| {
        let mut command = Command::new(place.path("bin/epicker"));
        command.args(["pick", "--gpus", "-1", "--threads", "1", "--data", data, "--output", output, "--report"]).args(more);
        command.current_dir(place.path("")).stdout(std::process::Stdio::null());
        command
    };
    // Four shards at once, each with its own samples; whichever ends its search first decides.
    let shards: Vec<_> = lists.iter().map(|list| command(list, "shards", &[]).spawn().unwrap()).collect();
    shards.into_iter().for_each(|mut shard| assert!(shard.wait().unwrap().success()));
    // One run into a folder that keeps the same scale gives the same.
    fs::create_dir(place.path("one")).unwrap();
    fs::copy(place.path("shards/scale.json"), place.path("one/scale.json")).unwrap();
    assert!(command("mics", "one", &[]).status().unwrap().success());
    let one = contents(&place.path("one"));
    let differing = |other: &[(String, Vec<u8>)]| {
        let names = |all: &[(String, Vec<u8>)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(other), names(&one));
        let page = |name: &str| name == "report.html"; // its heading names the folder
        one.iter().zip(other).filter(|(a, b)| a != b && !page(&a.0)).map(|(a, _)| a.0.clone()).collect::<Vec<_>>()
    };
    assert_eq!(differing(&contents(&place.path("shards"))), [""; 0]);
    // What was lost is made again with the scale that is kept, three times.
    for lost in [&["m00", "m11"][..], &["m05"], &["m03", "m04", "m09"]] {
        for name in lost {
            fs::remove_file(place.path(&format!("shards/{name}.thi"))).unwrap();
            fs::remove_file(place.path(&format!("shards/candidates/{name}.star"))).unwrap();
        }
        assert!(command("mics", "shards", &["--skip-done"]).status().unwrap().success());
        assert_eq!(differing(&contents(&place.path("shards"))), [""; 0], "{lost:?}");
    }
    // The lists and the page cover the folder, not the run that came last.
    let stems: Vec<String> = names.iter().map(|name| name.replace(".mrc", "")).collect();
    assert_eq!(listed(&place, "shards/merge_results.thi"), stems);
    let last = command("shard1.thi", "shards", &[]).output().unwrap();
    assert!(last.status.success(), "{}", told(&last));
    assert_eq!(listed(&place, "shards/merge_results.thi"), stems);
    let page = place.text("shards/report.html");
    assert!(stems.iter().all(|stem| page.contains(&format!("mics/{stem}.mrc"))) && page.contains("12 micrographs"));
    // Another scale beside it is refused, whether the micrographs are the same or others.
    let other = command("shard0.thi", "shards", &["--frame", "512"]).output().unwrap();
    is_refused(&other, "one scale in a folder");
}

/// Four shares of a folder, by number and by Slurm's variables; one is killed in the middle and started again. What is joined is
/// what one run writes.
#[test]
fn shares_of_a_batch_are_joined_to_what_one_run_writes() {
    let names: Vec<String> = (0..16).map(|i| format!("m{i:02}.mrc")).collect();
    let place = place_with(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let pick = |output: &str, more: &[&str]| {
        let mut command = Command::new(place.path("bin/epicker"));
        command.args(["pick", "--gpus", "-1", "--threads", "1", "--data", "mics", "--output", output, "--report"]).args(SIZE).args(more);
        command.current_dir(place.path("")).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command
    };
    assert!(pick("run_alone", &[]).status().unwrap().success());
    let by_number = ["1/4", "2/4", "3/4"].map(|shard| pick("run_joined", &["--shard", shard]).spawn().unwrap());
    by_number.into_iter().for_each(|mut run| assert!(run.wait().unwrap().success()));
    let before = listed(&place, "run_joined/merge_results.thi");
    assert!(before.len() > 6 && before.len() < 16, "{before:?}");
    // What is missing is said by name, with status 1.
    let incomplete = place.run(&["merge", "run_joined", "--data", "mics"]);
    assert_eq!(incomplete.status.code(), Some(1));
    let missing: Vec<&String> = names.iter().filter(|name| !before.contains(&name.replace(".mrc", ""))).collect();
    assert!(missing.iter().all(|name| told(&incomplete).contains(&format!("mics/{name}"))), "{}", told(&incomplete));

    let array = [("SLURM_ARRAY_TASK_ID", "13"), ("SLURM_ARRAY_TASK_MIN", "10"), ("SLURM_ARRAY_TASK_COUNT", "4")];
    let mut last = pick("run_joined", &["--shard", "slurm"]).envs(array).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    let _ = last.kill();
    let _ = last.wait();
    assert!(pick("run_joined", &["--shard", "slurm", "--skip-done"]).envs(array).status().unwrap().success());
    // A killed run writes no lists; merge does, from what lies there.
    for name in ["merge_results.thi", "report.html"] {
        fs::remove_file(place.path("run_joined").join(name)).unwrap();
    }
    let text = is_done(&place.run(&["merge", "run_joined", "--data", "mics"]));
    assert!(text.contains("run_joined: lists of 16 micrographs") && !text.contains("missing"), "{text}");
    let of_page = |name: &str| place.text(&format!("{name}/report.html")).replace(name, "FOLDER");
    assert!(of_page("run_joined") == of_page("run_alone"), "the pages differ");
    let but_page = |folder: &str| -> Vec<(String, Vec<u8>)> {
        contents(&place.path(folder)).into_iter().filter(|(name, _)| name != "report.html").collect()
    };
    assert!(but_page("run_joined") == but_page("run_alone"));

    // Picks of two ways are not joined.
    assert!(pick("run_joined", &["--shard", "1/4", "--vis_thresh", "0.5"]).status().unwrap().success());
    is_refused(&place.run(&["merge", "run_joined"]), "expected one way in a folder");
    is_refused(&place.run(&["merge", "mics"]), "nothing was picked into it");
    is_refused(&place.run(&["pick", "--data", "mics", "--shard", "5/4"]), "share 5 of 4");
    is_refused(&place.run(&["pick", "--data", "mics", "--shard", "slurm"]), "Slurm says of no share");
}

/// The threshold is sought where the model says so or where it is asked for; the folder keeps it, for this model alone.
#[test]
fn a_threshold_is_sought_on_the_data_and_kept_by_the_folder() {
    let place = place_with(&["a.mrc", "b.mrc", "c.mrc"]);
    let model = place.path("share/epicker/weights/particle.safetensors").display().to_string();
    is_done(&place.run(&["convert", &model, "auto.safetensors", "--noise_share", "0.7"]));
    let with = |more: &[&str]| is_done(&pick(&place, &[&SIZE[..], more].concat()));
    let kept = || -> serde_json::Value { serde_json::from_str(&place.text("output/threshold.json")).unwrap() };
    let of_run = || {
        let text = place.text("output/candidates/a.star");
        let line = text.lines().find(|line| line.contains("VisThresh")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let text = with(&["--load_model", "auto.safetensors"]);
    assert!(
        text.contains("threshold to be sought") && text.contains("sought on 3 micrographs and copies of them in which nothing can be seen"),
        "{text}"
    );
    let first = kept();
    assert!((of_run() - first["threshold"].as_f64().unwrap()).abs() < 1e-6 && first["samples"] == 3, "{first}");
    // A later run takes what the folder keeps, whichever micrographs it has, and on any number of threads.
    fs::write(
        place.path("output/threshold.json"),
        place.text("output/threshold.json").replace(&format!("\"threshold\": {}", first["threshold"]), "\"threshold\": 0.123"),
    )
    .unwrap();
    let text = with(&["--load_model", "auto.safetensors"]);
    assert!(text.contains("threshold 0.123, which an earlier run sought") && (of_run() - 0.123).abs() < 1e-6, "{text}");
    for threads in ["1", "2"] {
        fs::remove_file(place.path("output/threshold.json")).unwrap();
        with(&["--load_model", "auto.safetensors", "--threads", threads]);
        assert_eq!(kept(), first);
    }
    // A score that is given is taken, and auto works for any model, whose threshold replaces that of another.
    with(&["--load_model", "auto.safetensors", "--vis_thresh", "0.25"]);
    assert_eq!(of_run(), 0.25);
    with(&["--vis_thresh", "auto"]);
    assert_ne!(kept()["model_sha256"], first["model_sha256"]);
    is_refused(&place.run(&["rethreshold", "--data", "output", "--vis_thresh", "auto"]), "is found by looking at micrographs");
    is_refused(&pick(&place, &["--vis_thresh", "automatic"]), "expected a number from 0 to 1, or auto");

    // An evaluation ships with what picking would take.
    fs::create_dir(place.path("labels")).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(place.path(&format!("labels/{name}.box")), "40\t40\t20\t20\n90\t60\t20\t20\n").unwrap();
    }
    let eval =
        ["eval", "--data", "mics", "--label", "labels", "--gpus", "-1", "--diameter", "80", "--angpix", "2", "--bootstrap", "0", "--json"];
    let judged = place.run(&[&eval[..], &["--load_model", "auto.safetensors"]].concat());
    let json: serde_json::Value =
        serde_json::from_slice(judged.stdout.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert!((json["threshold_shipped"].as_f64().unwrap() - first["threshold"].as_f64().unwrap()).abs() < 1e-6, "{json}");
    is_refused(&place.run(&["eval", "--label", "labels", "--picks", "labels", "--vis_thresh", "auto"]), "--load_model");
}

/// Views are averaged as asked for, else as the model says, and one folder has one number of them.
#[test]
fn views_are_as_many_as_asked_for_else_as_the_model_says() {
    let place = place_with(&["a.mrc"]);
    let with = |more: &[&str]| is_done(&pick(&place, &[&SIZE[..], more].concat())).len();
    let picks = || place.text("output/a.thi");
    let candidates = || place.text("output/candidates/a.star");
    with(&[]);
    let one = picks();
    assert!(!candidates().contains("Average"));
    with(&["--average", "4"]);
    let four = picks();
    assert!(four != one && candidates().contains("Average 4"), "{}", candidates());
    is_refused(&pick(&place, &[&SIZE[..], &["--skip-done"]].concat()), "was picked with --average 4, not 1");
    let model = place.path("share/epicker/weights/particle.safetensors").display().to_string();
    is_done(&place.run(&["convert", &model, "turned.safetensors", "--average", "4"]));
    with(&["--load_model", "turned.safetensors"]);
    assert_eq!(picks(), four);
    with(&["--load_model", "turned.safetensors", "--average", "1"]);
    assert_eq!(picks(), one);
    is_refused(&pick(&place, &["--average", "3"]), "expected 1, 2 or 4");
}

#[test]
fn a_report_covers_what_was_picked_with_it_and_says_what_was_not() {
    let place = place_with(&["a.mrc", "b.mrc"]);
    is_done(&pick(&place, &[&SIZE[..], &["--report"]].concat()));
    // Picked again without a page, a micrograph has no part of it any more: the old one shows other picks.
    is_done(&place.run(&[&["pick", "mics/a.mrc", "--gpus", "-1"][..], &SIZE, &["--vis_thresh", "0"]].concat()));
    place.micrograph("c.mrc", [160, 128]);
    let text = is_done(&pick(&place, &[&SIZE[..], &["--report", "--skip-done"]].concat()));
    assert!(text.contains("1 micrograph of the folder"), "{text}");
    let page = place.text("output/report.html");
    assert!(!page.contains("mics/a.mrc") && page.contains("mics/b.mrc") && page.contains("mics/c.mrc"), "{text}");
    assert_eq!(listed(&place, "output/merge_results.thi"), ["a", "b", "c"]);
}

#[test]
fn a_wrong_scale_is_questioned() {
    let place = place_with(&["a.mrc", "b.mrc", "c.mrc"]);
    let warnings = |args: &[&str]| {
        let text = is_done(&pick(&place, args));
        let _ = fs::remove_dir_all(place.path("output"));
        text.lines().filter(|line| line.starts_with("warning: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    // 40 pixels of 160 are nothing to wonder at.
    assert_eq!(warnings(&SIZE), [""; 0]);
    // Nanometres for angstrom: 4 pixels, and a frame six times as wide as the micrograph.
    let asked = warnings(&["--diameter", "8", "--angpix", "2"]);
    assert!(asked.len() == 1 && asked[0].contains("a diameter of 8 angstrom is 4.0 pixels of mics/a.mrc"), "{asked:?}");
    assert!(asked[0].contains("trying scales on it finds") && asked[0].contains("not in nm") && asked[0].contains("--angpix"), "{asked:?}");
    // A particle of more than a third of the micrograph.
    let asked = warnings(&["--diameter", "160", "--angpix", "2"]);
    assert!(asked.len() == 1 && asked[0].contains("is 80.0 pixels of mics/a.mrc, which has 160 x 128"), "{asked:?}");
    // A header that says 1 because nobody knew better. A diameter that trying finds too is none to wonder at.
    let pixels: Vec<u8> = small_pixels("a", [160, 128]).iter().flat_map(|v| v.to_le_bytes()).collect();
    fs::write(place.path("mics/a.mrc"), mrc([160, 128], 2, 1.0, &pixels)).unwrap();
    let text = is_done(&place.run(&["pick", "mics/a.mrc", "--gpus", "-1", "-o", "sought"]));
    let sought: f64 = text.split(" and takes ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    assert_eq!(warnings(&["--diameter", &sought.to_string()]), [""; 0]);
    let other = if sought < 26.0 { "41" } else { "16" };
    let asked = warnings(&["--diameter", other]);
    assert!(asked.len() == 1 && asked[0].contains("mics/a.mrc: its header says 1 angstrom per pixel"), "{asked:?}");
    assert_eq!(warnings(&["--diameter", other, "--angpix", "1"]), [""; 0], "a pixel size that is given is meant");
    // Most micrographs without any pick, or with as many as may be.
    let asked = warnings(&[&SIZE[..], &["--vis_thresh", "1"]].concat());
    assert!(asked.len() == 1 && asked[0].contains("3 of 3 micrographs have no pick"), "{asked:?}");
    let asked = warnings(&[&SIZE[..], &["--K", "3", "--edge", "0", "--min_distance", "0"]].concat());
    assert!(asked.len() == 1 && asked[0].contains("as many peaks above the threshold as --K takes, 3"), "{asked:?}");
}

#[test]
fn a_run_leaves_a_record_that_repeats_it() {
    let place = place_with(&["a.mrc"]);
    is_done(&pick(&place, &[&SIZE[..], &["--vis_thresh", "0.01"]].concat()));
    let record = |n: usize| {
        let mut files: Vec<_> = fs::read_dir(place.path("output/runs")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), n);
        fs::read_to_string(&files[0]).unwrap()
    };
    let text = record(1);
    let value = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {text}"))[key.len()..].trim();
    for key in ["started in", "started at", "program", "commit", "model", "scale", "threshold", "edge", "least distance", "output type"] {
        assert!(!value(key).is_empty(), "{key}");
    }
    assert!(value("model").len() > 64 && value("scale").contains("80"), "{text}");
    // The command is one that a shell takes.
    let picks = place.text("output/a.thi");
    fs::remove_file(place.path("output/a.thi")).unwrap();
    assert!(Command::new("sh").args(["-c", value("command")]).current_dir(place.path("")).output().unwrap().status.success());
    assert_eq!(place.text("output/a.thi"), picks);
    record(2);
}

#[test]
fn the_command_line_takes_micrographs_as_a_shell_gives_them() {
    let place = place_with(&["a.mrc", "b.mrc", "c.mrc"]);
    is_done(&pick(&place, &SIZE));
    let picks = |folder: &str| ["a", "b", "c"].map(|name| place.text(&format!("{folder}/{name}.thi")));
    is_done(&place.run(&[&["pick", "mics/a.mrc", "mics/b.mrc", "mics/c.mrc", "--gpus", "-1", "-o", "shell"][..], &SIZE].concat()));
    assert_eq!(picks("shell"), picks("output"));
    is_done(&place.run(&[&["pick", "--data", "mics/a.mrc", "mics", "--gpus", "-1", "-o", "several"][..], &SIZE].concat()));
    assert_eq!(picks("several"), picks("output"));
    is_refused(&place.run(&["pick", "--gpus", "-1"]), "--data");
    // A threshold by its plain name; nothing is said but what is wrong.
    let result = place.run(&[&["pick", "mics/a.mrc", "--gpus", "-1", "-o", "quiet", "--quiet", "--threshold", "1"][..], &SIZE].concat());
    assert_eq!((is_done(&result), place.text("quiet/a.thi").lines().count()), (String::new(), 2));
    assert!(
        is_done(&place.run(&[&["pick", "mics/a.mrc", "--gpus", "-1", "-o", "one"][..], &SIZE].concat())).contains("; 1 micrograph, 0 done")
    );
}

#[test]
fn distances_may_be_given_in_angstrom() {
    let place = place_with(&["a.mrc"]);
    // 1 angstrom is half a pixel here, and 160 pixels are 1024 of the limits: 3.2 of them.
    is_done(&pick(&place, &[&SIZE[..], &["--edge", "32", "--min_distance", "64"]].concat()));
    let picks = place.text("output/a.thi");
    is_done(&pick(&place, &[&SIZE[..], &["--edge", "10A", "--min_distance", "20 A"]].concat()));
    assert_eq!(place.text("output/a.thi"), picks);
    assert!(place.text("output/candidates/a.star").contains("#epk Edge 32\n"));
    is_done(&pick(&place, &SIZE));
    assert_ne!(place.text("output/a.thi"), picks);
    is_done(&place.run(&["rethreshold", "--data", "output", "-o", "again", "--edge", "10A", "--min_distance", "20A"]));
    assert_eq!(place.text("again/a.thi"), picks);
    // Without a pixel size an angstrom has no length.
    let pixels: Vec<u8> = small_pixels("a", [160, 128]).iter().flat_map(|v| v.to_le_bytes()).collect();
    fs::write(place.path("mics/a.mrc"), mrc([160, 128], 2, 0.0, &pixels)).unwrap();
    is_refused(&pick(&place, &["--frame", "96", "--edge", "10A"]), "a distance in angstrom needs");
    is_refused(&pick(&place, &["--frame", "96", "--edge", "xA"]), "at least 0");
}

#[test]
fn an_evaluation_has_a_diameter_for_each_set_and_its_command_repeats_it() {
    let place = place_with(&["a.mrc"]);
    fs::create_dir_all(place.path("labels")).unwrap();
    fs::write(place.path("labels/a.box"), "40\t40\t20\t20\n90\t60\t20\t20\n").unwrap();
    let sets = ["--data", "mics", "mics", "--label", "labels", "labels", "--gpus", "-1", "--angpix", "2", "--load_model", "particle"];
    let eval = |args: &[&str]| place.run(&[&["eval"], &sets[..], args].concat());
    let text = is_done(&eval(&["--diameter", "80", "60", "--output", "judged", "--report"]));
    assert!(text.contains("particles of 80 angstrom") && text.contains("particles of 60 angstrom"), "{text}");
    for (page, diameter) in [("judged/report_1.html", "80"), ("judged/report_2.html", "60")] {
        let command = format!("epicker pick --data mics --load_model particle --angpix 2 --diameter {diameter} --vis_thresh");
        assert!(place.text(page).contains(&command), "{page}");
    }
    is_done(&eval(&["--frame", "96", "--diameter", "80", "--output", "judged", "--report"]));
    assert!(place.text("judged/report_1.html").contains("--frame 96 --vis_thresh"));
    is_refused(&eval(&["--diameter", "80", "60", "70"]), "--diameter: 3 diameters for 2");
    // A set that is new cannot have been forgotten: of two the first is old, unless it is said otherwise.
    let forgetting = |args: &[&str]| {
        let result = eval(&[&["--frame", "96", "--diameter", "80", "--json", "--against", "picks", "none"], args].concat());
        let all: serde_json::Value = serde_json::from_str(String::from_utf8_lossy(&result.stdout).lines().last().unwrap()).unwrap();
        let lost: Vec<f64> = (0..2).map(|i| -all["data_sets"][i]["points"].as_f64().unwrap()).collect();
        (all["forgetting_points"].as_f64().unwrap(), lost)
    };
    for (folder, place_of_pick) in [("picks", "100\t20"), ("none", "50\t50\t0.9\n100\t70")] {
        fs::create_dir_all(place.path(folder)).unwrap();
        fs::write(place.path(&format!("{folder}/a.thi")), format!("[Particle Coordinates: X Y Value]\n{place_of_pick}\t0.9\n[End]\n"))
            .unwrap();
    }
    let (over_old, lost) = forgetting(&[]);
    let (over_all, _) = forgetting(&["--old", "2"]);
    assert!(lost[1] > 0.0, "the earlier picks of the second set were better: {lost:?}");
    assert!(
        (over_old - lost[0].max(0.0)).abs() < 1e-9 && (over_all - (lost[0].max(0.0) + lost[1]) / 2.0).abs() < 1e-9,
        "{over_old} {over_all} {lost:?}"
    );
}
