//! General models: named instead of a file, and shown every micrograph at the scale of their particles.

use crate::common::micrographs::small;
use crate::common::program::{epicker, is_refused};
use epicker::device::Device;
use epicker::formats::safetensors_file;
use epicker::formats::state_dict::ModelFacts;
use epicker::net::{Architecture, PeakFinders, formula};
use epicker::ops::heat_map::Peak;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A narrow network by formula, which finds something everywhere.
const NARROW: Architecture = Architecture { channels: [4, 4, 8, 8, 8, 16], head: 8 };

/// A program of its own with models beside it, and micrographs.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Self {
        // Below target/, so that the program can be linked instead of copied.
        let place = Place { folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        ["bin", "mics", "share/epicker/weights"].iter().for_each(|name| fs::create_dir_all(place.path(name)).unwrap());
        fs::hard_link(env!("CARGO_BIN_EXE_epicker"), place.path("bin/epicker")).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn micrograph(&self, name: &str, size: [usize; 2]) {
        fs::write(self.path("mics").join(name), small(name, size)).unwrap();
    }

    /// Puts a model where `--load_model NAME` finds it.
    pub fn general(&self, name: &str, facts: &ModelFacts) {
        write_model(&self.path("share/epicker/weights").join(format!("{name}.safetensors")), facts);
    }

    pub fn run(&self, args: &[&str]) -> Output {
        Command::new(self.path("bin/epicker")).args(args).current_dir(self.folder.path()).output().unwrap()
    }

    fn pick(&self, args: &[&str]) -> Output {
        let _ = fs::remove_dir_all(self.path("output"));
        self.run(&[&["pick", "--gpus", "-1", "--data", "mics"], args].concat())
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

fn write_model(path: &Path, facts: &ModelFacts) {
    let mut state = formula::state_dict(NARROW);
    facts.write_to(&mut state.metadata);
    fs::write(path, safetensors_file::write(&state).unwrap()).unwrap();
}

pub fn facts(mode: &str) -> ModelFacts {
    ModelFacts { mode: Some(mode.to_owned()), ..ModelFacts::default() }
}

pub fn told(result: &Output) -> String {
    String::from_utf8_lossy(&result.stderr).into_owned() + &String::from_utf8_lossy(&result.stdout)
}

pub fn is_done(result: &Output) -> String {
    assert_eq!(result.status.code(), Some(0), "{}", told(result));
    told(result)
}

#[test]
fn a_general_model_goes_by_its_name_and_that_of_the_mode_is_the_default() {
    let place = Place::new();
    place.micrograph("a.mrc", [160, 128]);
    for mode in ["particle", "vesicle", "fiber"] {
        place.general(mode, &facts(mode));
    }
    let frame = ["--frame", "64"];
    assert!(is_done(&place.pick(&frame)).contains("model particle, mode particle"));
    let picks = place.text("output/a.thi");
    assert!(is_done(&place.pick(&[&frame[..], &["--mode", "fiber"]].concat())).contains("model fiber, mode fiber"));
    assert!(is_done(&place.pick(&[&frame[..], &["--load_model", "vesicle"]].concat())).contains("model vesicle, mode vesicle"));
    // A file of the same bytes gives the same; the name goes before a file of that name in the working directory.
    fs::write(place.path("particle"), "no model").unwrap();
    is_done(&place.pick(&[&frame[..], &["--load_model", "share/epicker/weights/particle.safetensors"]].concat()));
    assert_eq!(place.text("output/a.thi"), picks);
    is_done(&place.pick(&[&frame[..], &["--load_model", "particle"]].concat()));
    assert_eq!(place.text("output/a.thi"), picks);
    is_refused(&place.pick(&[&frame[..], &["--load_model", "./particle"]].concat()), "./particle");
}

#[test]
fn a_general_model_serves_every_command() {
    let place = Place::new();
    place.micrograph("a.mrc", [160, 128]);
    place.general("particle", &facts("particle"));
    is_done(&place.run(&["bench", "--gpus", "-1", "--load_model", "particle", "--frame", "64", "--runs", "1"]));
    is_done(&place.run(&["plan", "--load_model", "particle", "--frame", "64"]));
    fs::create_dir(place.path("labels")).unwrap();
    fs::write(place.path("labels/a.box"), "40\t40\t20\t20\n90\t60\t20\t20\n").unwrap();
    let of_labels = ["--data", "mics", "--label", "labels", "--frame", "64", "--gpus", "-1"];
    is_done(&place.run(&[&["eval", "--load_model", "particle", "--against", "particle"], &of_labels[..]].concat()));
    let training = ["--num_epochs", "1", "--num_iters", "1", "--batch_size", "1", "--train_pct", "100", "--exp_id", "mine"];
    let told = is_done(&place.run(&[&["train", "--load_model", "particle"], &of_labels[..], &training].concat()));
    assert!(told.contains("particle: 374 of 374 tensors taken"), "{told}");
}

/// What is done about the ground stands in the model: picking looks at it, and a training passes it on unless it is told otherwise.
#[test]
fn a_models_ground_is_taken_away_and_passed_on() {
    let place = Place::new();
    place.micrograph("a.mrc", [160, 128]);
    let picks = |model: &str| {
        is_done(&place.pick(&["--load_model", model, "--frame", "128", "--vis_thresh", "0"]));
        place.text("output/a.thi")
    };
    place.general("particle", &facts("particle"));
    let kept = place.path("share/epicker/weights/particle.safetensors").display().to_string();
    is_done(&place.run(&["convert", &kept, "levelled.safetensors", "--ground", "16"]));
    is_done(&place.run(&["convert", "levelled.safetensors", "back.safetensors", "--ground", "0"]));
    let even = picks("back.safetensors");
    assert_eq!(even, picks("particle"));
    assert_ne!(even, picks("levelled.safetensors"));

    fs::create_dir(place.path("labels")).unwrap();
    fs::write(place.path("labels/a.box"), "40\t40\t20\t20\n90\t60\t20\t20\n").unwrap();
    let train = |folder: &str, more: &[&str]| {
        let of_labels = ["train", "--data", "mics", "--label", "labels", "--frame", "64", "--gpus", "-1", "--exp_id", folder];
        let short = ["--num_epochs", "1", "--num_iters", "1", "--batch_size", "1", "--train_pct", "100"];
        is_done(&place.run(&[&of_labels[..], &short, more].concat()));
        is_done(&place.run(&["convert", &format!("{folder}/model_last.safetensors")]))
    };
    assert!(train("inherits", &["--load_model", "levelled.safetensors"]).contains("epicker.ground_px: 16"));
    assert!(train("told", &["--load_model", "levelled.safetensors", "--ground", "24"]).contains("epicker.ground_px: 24"));
    assert!(!train("without", &["--load_model", "levelled.safetensors", "--ground", "0"]).contains("ground_px"));
    is_refused(&place.run(&["convert", &kept, "x.safetensors", "--ground", "-1"]), "expected 0 or a number above it");
}

/// A model that knows particles of 24 network pixels.
pub fn knows_size() -> ModelFacts {
    ModelFacts { particle_size_h_px: Some(6.0), ..facts("particle") }
}

#[test]
fn particles_get_the_size_that_the_model_knows() {
    let place = Place::new();
    place.micrograph("a.mrc", [160, 128]);
    place.general("particle", &knows_size());
    // 24 * 160 * 2 / 80 = 96.
    let told = is_done(&place.pick(&["--diameter", "80", "--angpix", "2"]));
    assert!(told.contains("frame 96: particles of 80 angstrom, 40.0 pixels of the micrograph, are 24.0 pixels to the network"), "{told}");
    let picks = place.text("output/a.thi");
    assert!(picks.lines().count() > 5, "{picks}");
    // Half a particle is 20 of 160 pixels: 128 of 1024.
    let by_hand = ["--diameter", "80", "--angpix", "2", "--frame", "96", "--edge", "0", "--min_distance", "128"];
    is_done(&place.pick(&by_hand));
    assert_eq!(place.text("output/a.thi"), picks);
    is_done(&place.pick(&["--diameter", "80", "--angpix", "2", "--min_distance", "0", "--edge", "100"]));
    assert_ne!(place.text("output/a.thi"), picks);
    // Thresholds are chosen anew from what is written there.
    is_done(&place.pick(&["--diameter", "80", "--angpix", "2"]));
    is_done(&place.run(&["rethreshold", "--data", "output", "--output", "again"]));
    assert_eq!(place.text("again/a.thi"), picks);
    is_refused(&place.pick(&["--diameter", "80", "--frame", "96", "--angpix", "0"]), "--angpix");
}

#[test]
fn each_micrograph_has_a_frame_of_its_own_whatever_the_order_and_the_threads() {
    let place = Place::new();
    let sizes = [("a.mrc", [160, 128]), ("b.mrc", [256, 192]), ("c.mrc", [128, 160]), ("d.mrc", [320, 256]), ("e.mrc", [96, 96])];
    sizes.iter().for_each(|(name, size)| place.micrograph(name, *size));
    place.general("particle", &knows_size());
    let size = ["--diameter", "80", "--angpix", "2"];
    let told = is_done(&place.pick(&[&size[..], &["--json"]].concat()));
    let frames: Vec<u64> = told
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|event| event["frame"].as_u64())
        .collect();
    assert_eq!(frames, [96, 160, 96, 192, 64]);
    let all = |folder: &str| ["a", "b", "c", "d", "e"].map(|name| place.text(&format!("{folder}/{name}.thi")));
    let picks = all("output");
    let list: String = ["d", "b", "a", "e", "c", "b"][..5].iter().map(|name| format!("mics/{name}.mrc\n")).collect();
    fs::write(place.path("list.thi"), format!("[File List: Filename]\n{list}[End]\n")).unwrap();
    is_done(&place.pick(&[&size[..], &["--data", "list.thi", "--threads", "1"]].concat()));
    assert_eq!(all("output"), picks);
}

#[test]
fn a_training_hands_its_scale_on_to_picking() {
    let place = Place::new();
    place.micrograph("a.mrc", [160, 128]);
    place.micrograph("b.mrc", [160, 128]);
    fs::create_dir(place.path("labels")).unwrap();
    for name in ["a", "b"] {
        fs::write(place.path(&format!("labels/{name}.box")), "40\t40\t20\t20\n90\t60\t20\t20\n").unwrap();
    }
    place.general("particle", &knows_size());
    let train = |exp_id: &str, args: &[&str]| {
        let shared = ["train", "--data", "mics", "--label", "labels", "--gpus", "-1", "--num_epochs", "1", "--batch_size", "1"];
        let told = is_done(&place.run(&[&shared[..], &["--train_pct", "100", "--exp_id", exp_id], args].concat()));
        (told, format!("{exp_id}/model_last.safetensors"))
    };
    let described = |model: &str| is_done(&place.run(&["convert", model]));
    // From a model that knows its size: 24 * 160 * 2 / 60 = 128.
    let size = ["--diameter", "60", "--angpix", "2"];
    let (told, fine) = train("fine", &[&size[..], &["--load_model", "particle", "--lr_step", "70,90"]].concat());
    assert!(told.contains("frame 128: particles of 60 angstrom"), "{told}");
    let facts = described(&fine);
    assert!(facts.contains("epicker.particle_size: 6\n") && facts.contains("epicker.diameter_angstrom: 60"), "{facts}");
    assert!(!facts.contains("epicker.frame"), "{facts}");
    assert!(is_done(&place.pick(&["--load_model", &fine, "--angpix", "2"])).contains("frame 128: "));
    // With a frame of its own: the same frame again without asking.
    let (_, own) = train("own", &[&size[..], &["--width", "0.25", "--frame", "192"]].concat());
    assert!(is_done(&place.pick(&["--load_model", &own, "--angpix", "2"])).contains("frame 192: particles of 60 angstrom"));
    // Without a diameter the frame itself is kept.
    let (_, blind) = train("blind", &["--width", "0.25", "--frame", "96"]);
    assert!(described(&blind).contains("epicker.frame: 96"));
    let told = is_done(&place.pick(&["--load_model", &blind, "--diameter", "60", "--angpix", "2"]));
    assert!(told.contains("frame 96: the model was trained with it"), "{told}");
    let (told, _) = train("more", &["--load_model", &blind]);
    assert!(told.contains("frame 96: the model was trained with it"), "{told}");
    // A size that is given, in place of a diameter, is what the model knows.
    let (_, sized) = train("sized", &["--width", "0.25", "--frame", "96", "--particle_size", "6"]);
    let facts = described(&sized);
    assert!(facts.contains("epicker.particle_size: 6\n") && !facts.contains("epicker.frame"), "{facts}");
    // An interrupted training goes on at its scale without being told again.
    let resumed = ["train", "--data", "mics", "--label", "labels", "--gpus", "-1", "--num_epochs", "2", "--lr_step", "70,90"];
    let more = ["--batch_size", "1", "--train_pct", "100", "--exp_id", "fine", "--resume", "--angpix", "2"];
    let told = is_done(&place.run(&[&resumed[..], &more].concat()));
    assert!(!told.contains("not those of the interrupted"), "{told}");
    assert!(is_done(&place.pick(&["--load_model", &fine, "--angpix", "2"])).contains("frame 128: "));
    // Judging asks in the same way.
    let told = is_done(
        &place.run(&[&["eval", "--data", "mics", "--label", "labels", "--gpus", "-1", "--load_model", "particle"][..], &size].concat()),
    );
    assert!(told.contains("frame 128: particles of 60 angstrom"), "{told}");
}

#[test]
fn without_a_diameter_scales_are_tried_and_the_same_is_taken_every_time() {
    let place = Place::new();
    ["a.mrc", "b.mrc", "c.mrc", "d.mrc"].iter().for_each(|name| place.micrograph(name, [160, 128]));
    place.general("particle", &knows_size());
    let told = is_done(&place.pick(&[]));
    let tried = |told: &str| told.lines().find(|line| line.contains("no diameter is known: tried")).unwrap().to_owned();
    let line = tried(&told);
    // The header says 1.5 angstrom: frames of 96, 128, 192 and 256 of 160 pixels; wider ones would only enlarge.
    assert!(line.contains("tried 22 (") && line.contains(", 60 (") && line.contains("angstrom on 3 micrographs"), "{line}");
    assert!(told.contains("frame "), "{told}");
    let all = || ["a", "b", "c", "d"].map(|name| place.text(&format!("output/{name}.thi")));
    let picks = all();
    assert_eq!(tried(&is_done(&place.pick(&["--threads", "1"]))), line);
    assert_eq!(all(), picks);
    // A batch that goes on takes the scale of the whole.
    fs::remove_file(place.path("output/d.thi")).unwrap();
    let shared = ["pick", "--gpus", "-1", "--data", "mics", "--skip-done"];
    assert!(is_done(&place.run(&shared)).contains("which an earlier run sought"), "the folder keeps its scale");
    assert_eq!(all(), picks);
    // The scale that was taken can be asked for.
    let diameter = line.split("takes ").nth(1).unwrap().split(',').next().unwrap();
    is_done(&place.pick(&["--diameter", diameter]));
    assert_eq!(all().map(|text| text.lines().count()), picks.map(|text| text.lines().count()));
}

#[test]
fn without_a_diameter_the_general_model_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let [mics, output] = ["mics", "picks"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    for (pixels, most_wrong) in [("24", 1.5), ("64", 1.5)] {
        let simulation = ["--preset", "easy", "--count", "1", "--size", "512", "--particle_pixels", pixels, "--overwrite"];
        is_done(&epicker(&[&["simulate", "--output", &mics][..], &simulation].concat()));
        let told = is_done(&epicker(&["pick", "--data", &mics, "--gpus", "-1", "--output", &output]));
        let line = told.lines().find(|line| line.contains("frame ")).unwrap();
        let found: f64 = line.split(" pixels of the micrograph").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        let ratio = found / pixels.parse::<f64>().unwrap();
        assert!(ratio < most_wrong && ratio > 1.0 / most_wrong, "{pixels}: {told}");
    }
}

#[test]
fn tiles_find_what_the_whole_frame_shows() {
    let model = formula::model(NARROW).unwrap();
    let frame = 1216;
    let image: Vec<f32> = epicker::random::noise(frame * frame, 7).into_iter().map(|value| 3.0 * value).collect();
    let k = 3000;
    let mut whole = PeakFinders::new(&Device::Cpu, &model, true, k).cutting_above(frame);
    let mut cut = PeakFinders::new(&Device::Cpu, &model, true, k).cutting_above(1184);
    let (whole, cut) = (whole.get(frame).unwrap(), cut.get(frame).unwrap());
    assert!(whole.tiles().is_none());
    assert_eq!(cut.tiles().unwrap().all().len(), 4);
    let (of_whole, of_tiles) = (whole.run(&image).unwrap(), cut.run(&image).unwrap());
    assert!(of_whole.len() > 1000, "{}", of_whole.len());
    let by_place: HashMap<u32, &Peak> = of_tiles.iter().map(|peak| (peak.index, peak)).collect();
    let (mut lost, mut score, mut offset) = (0, 0.0_f32, 0.0_f32);
    for peak in &of_whole {
        match by_place.get(&peak.index) {
            Some(other) => {
                score = score.max((peak.score - other.score).abs());
                (0..2).for_each(|axis| offset = offset.max((peak.offset[axis] - other.offset[axis]).abs()));
            }
            None => lost += 1,
        }
    }
    // Four network pixels to a pixel of the heat map: half a pixel is an eighth.
    assert!(
        score < 1e-2 && offset < 0.125 && lost * 200 < of_whole.len(),
        "{lost} of {} lost, score {score}, offset {offset}",
        of_whole.len()
    );
}
