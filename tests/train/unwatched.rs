//! Trainings as they come, and trainings that nobody watches: what they start with, what they say of their result, and that they
//! destroy nothing.

use crate::common::labelled::{write_mrc, write_thi};
use crate::common::program::{epicker, is_refused};
use epicker::formats::safetensors_file;
use epicker::train::checkpoint;
use epicker::train::schedule::{Fall, GUIDE_RATE, Order};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder for one test.
struct Place {
    folder: tempfile::TempDir,
}

/// What a command told.
struct Told {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Told {
    fn from(output: Output) -> Told {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Told { status: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Told {
    #[track_caller]
    fn ended_with(self, status: i32) -> Told {
        assert_eq!(self.status, Some(status), "{}{}", self.stdout, self.stderr);
        self
    }
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.path("discs")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Micrographs of 96 x 96 pixels of 2 angstrom with dark discs of 24 angstrom.
    fn with_discs(count: usize) -> Place {
        let place = Place::new();
        for i in 0..count {
            let discs = [[20 + 3 * i, 30], [70, 20 + 5 * i], [50, 75]];
            write_mrc(&place.path(&format!("discs/m{i}.mrc")), [96, 96], &discs);
            write_thi(&place.path(&format!("discs/m{i}.thi")), &discs);
        }
        place
    }

    /// Simulated micrographs of 256 x 256 pixels with particles of 24 pixels, which the general model knows.
    fn with_particles(count: &str) -> Place {
        let place = Place::new();
        let particles = ["--preset", "easy", "--shape", "barrel", "--diameter", "96", "--angpix", "4"];
        let files = ["simulate", "--output", "mics", "--size", "256", "--seed", "5", "--count", count];
        place.run(&[&files[..], &particles].concat()).ended_with(0);
        place
    }

    fn run(&self, args: &[&str]) -> Told {
        Command::new(env!("CARGO_BIN_EXE_epicker")).args(args).current_dir(self.folder.path()).output().unwrap().into()
    }

    /// Trains a new, narrow network on the discs.
    fn train(&self, exp_id: &str, more: &[&str]) -> Told {
        let common = ["train", "--data", "discs", "--exp_id", exp_id, "--frame", "64", "--from-scratch", "--diameter", "24"];
        self.run(&[&common[..], more].concat())
    }

    /// Trains the general model on the simulated particles.
    fn train_further(&self, exp_id: &str, more: &[&str]) -> Told {
        let common = ["train", "--data", "mics", "--label", "mics/truth/star", "--exp_id", exp_id, "--diameter", "96"];
        self.run(&[&common[..], more].concat())
    }

    /// Every file below a folder, by name, with its bytes.
    fn files(&self, folder: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.path(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                } else {
                    files.insert(entry.clone(), std::fs::read(entry).unwrap());
                }
            }
        }
        files
    }
}

/// The weights of a model, by name, without what it says of itself.
fn weights_as_f32(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let state = safetensors_file::read(&std::fs::read(path).unwrap()).unwrap();
    let tensors = state.tensors.into_iter().filter(|tensor| !tensor.name.ends_with(".num_batches_tracked"));
    tensors.map(|tensor| (tensor.name.clone(), tensor.values.to_f32())).collect()
}

#[test]
fn a_folder_that_holds_a_model_is_refused_unless_it_is_said_what_becomes_of_it() {
    let place = Place::with_discs(2);
    let short = ["--train_pct", "100", "--steps", "2", "--batch_size", "1"];
    place.train("exp", &short).ended_with(0);
    let before = place.files("exp");
    let args = ["train", "--data", "discs", "--exp_id", "exp", "--frame", "64", "--from-scratch", "--diameter", "24", "--steps", "2"];
    let arguments: Vec<String> = args.iter().map(|argument| argument.replace("discs", place.path("discs").to_str().unwrap())).collect();
    let arguments: Vec<String> = arguments
        .iter()
        .map(|argument| if argument == "exp" { place.path("exp").display().to_string() } else { argument.clone() })
        .collect();
    let refused = epicker(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    is_refused(&refused, "--resume");
    is_refused(&refused, "--overwrite");
    assert!(place.files("exp") == before, "nothing was touched");
    // A model of any epoch, also a lone one, is a model.
    std::fs::create_dir(place.path("lone")).unwrap();
    std::fs::write(place.path("lone/model_35.pth"), "days of work").unwrap();
    assert!(place.train("lone", &short).ended_with(2).stderr.contains("model_35.pth"));
    assert_eq!(place.text("lone/model_35.pth"), "days of work");

    // Replacing leaves nothing of the earlier training that could be taken for a part of the later one.
    std::fs::write(place.path("exp/model_best.safetensors"), "of the earlier training").unwrap();
    place.train("exp", &[&short[..], &["--overwrite", "--seed", "2"]].concat()).ended_with(0);
    assert!(!place.path("exp/model_best.safetensors").exists());
    assert!(place.files("exp")[&place.path("exp/model_last.pth")] != before[&place.path("exp/model_last.pth")]);
    is_refused(&epicker(&["train", "--data", "x", "--resume", "--overwrite"]), "--overwrite");
}

#[test]
fn training_starts_from_the_general_model_and_says_first_what_it_will_do() {
    let place = Place::with_particles("3");
    let told = place.train_further("exp", &["--steps", "4", "--batch_size", "1"]).ended_with(0);
    let first = told.stdout.lines().next().unwrap();
    for word in ["the general model particle", "2 micrographs", "4 steps", "256 x 256", "an epoch of 1 step takes about", "GiB of memory"] {
        assert!(first.contains(word), "'{first}' lacks '{word}'");
    }
    assert!(told.stdout.contains("frame 256: particles of 96 angstrom"), "{}", told.stdout);
    let start = told.stdout.lines().find_map(|line| line.strip_prefix("epoch 0: the model that the training starts with, AP "));
    let ap: Option<f64> = start.and_then(|ap| ap.parse().ok());
    assert!(ap.is_some_and(|ap| (0.0..=1.0).contains(&ap)), "{}", told.stdout);
    let log = place.text("exp/logs/log.txt");
    assert!(log.starts_with(first), "the log begins with the same line: {log}");
    // The rate of a fine-tuning, which rises at first, and the guide's batch where it is not given.
    let terms = checkpoint::load(&place.path("exp/model_last.pth")).unwrap().terms.unwrap();
    let schedule = terms.schedule.unwrap();
    assert_eq!((schedule.order, schedule.fall, terms.batch), (Order::Endless, Fall::Cosine, Some(1)));
    // The split names its micrographs, in lists that every command takes.
    assert!(log.contains("test (test.thi): "), "{log}");
    let listed = |list: &str| place.text(list).lines().filter(|line| line.ends_with(".mrc")).count();
    assert_eq!((listed("exp/train.thi"), listed("exp/test.thi")), (2, 1));
    assert!(!place.path("exp/validation.thi").exists());
    let data = ["eval", "--data", "exp/test.thi", "--label", "mics/truth/star", "--diameter", "96"];
    let judged = place.run(&[&data[..], &["--load_model", "exp/model_last.safetensors", "--bootstrap", "0"]].concat()).ended_with(0);
    assert!(judged.stdout.contains("1 micrograph, "), "{}", judged.stdout);
    // The norms keep the statistics that they come with, unless the command line says otherwise; a training that goes on keeps
    // what it began with.
    let statistics = |model: &Path| {
        let is_one = |name: &String| name.ends_with("running_mean") || name.ends_with("running_var");
        weights_as_f32(model).into_iter().filter(|(name, _)| is_one(name)).collect::<BTreeMap<_, _>>()
    };
    let general = statistics(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/particle.safetensors")));
    assert!(terms.keeps_statistics && !general.is_empty() && statistics(&place.path("exp/model_last.safetensors")) == general);
    assert!(told.stdout.contains("the norms keep the model's statistics"), "{}", told.stdout);
    let moving = ["--steps", "1", "--batch_size", "1", "--norm_statistics", "move"];
    let told = place.train_further("moving", &moving).ended_with(0);
    assert!(statistics(&place.path("moving/model_last.safetensors")) != general && !told.stdout.contains("the norms keep"));
    assert!(!checkpoint::load(&place.path("moving/model_last.pth")).unwrap().terms.unwrap().keeps_statistics);
    // A new network is not asked for together with a model.
    is_refused(&epicker(&["train", "--data", "mics", "--from-scratch", "--load_model", "particle"]), "--load_model");
}

#[test]
fn a_start_that_nothing_beats_stays_the_best_and_is_called_so() {
    let place = Place::with_particles("2");
    // A rate that destroys what the general model knows.
    let told = place.train_further("exp", &["--steps", "4", "--batch_size", "1", "--lr", "0.05"]).ended_with(0);
    assert!(told.stderr.contains("warning: no epoch was better than the model that the training started with"), "{}", told.stderr);
    assert!(!told.stdout.contains("(best)"), "{}", told.stdout);
    let general = concat!(env!("CARGO_MANIFEST_DIR"), "/weights/particle.safetensors");
    let [start, best, last] =
        [Path::new(general), &place.path("exp/model_best.safetensors"), &place.path("exp/model_last.safetensors")].map(weights_as_f32);
    assert!(best == start && last != start);
    let eval: Value = serde_json::from_str(&place.text("exp/eval.json")).unwrap();
    assert_eq!(eval["verdict"]["verdict"], "no better than the start");
    assert_eq!(eval["verdict"]["best_epoch"], 0);
    assert!(eval["ap"].as_f64().unwrap() > 0.8, "the start was judged: {eval}");
    // The best model says with which threshold it was best, and picks.
    let picked = ["pick", "--data", "mics", "--load_model", "exp/model_best.safetensors", "--output", "picks"];
    place.run(&picked).ended_with(0);
}

#[test]
fn a_result_no_better_than_random_picks_is_said_and_fails() {
    // Labels that lie on nothing: what is learnt from them finds no others.
    let place = Place::new();
    for i in 0..3 {
        let nowhere: Vec<[usize; 2]> = (0..20).map(|k| [16 + 16 * (k % 5), 12 + 20 * (k / 5) + 2 * i]).collect();
        write_mrc(&place.path(&format!("discs/m{i}.mrc")), [96, 96], &[]);
        write_thi(&place.path(&format!("discs/m{i}.thi")), &nowhere);
    }
    let told = place.train("exp", &["--steps", "2", "--batch_size", "1", "--lr", "1e-6"]).ended_with(1);
    assert!(told.stderr.contains("warning: no epoch was better than as many picks at random places (AP 0."), "{}", told.stderr);
    assert!(told.stdout.contains("no better than random picks, which reach 0."), "{}", told.stdout);
    assert!(!told.stdout.contains("(best)") && !place.path("exp/model_best.safetensors").exists(), "{}", told.stdout);
    assert!(place.path("exp/model_last.safetensors").is_file());
    let eval: Value = serde_json::from_str(&place.text("exp/eval.json")).unwrap();
    assert_eq!(eval["verdict"]["verdict"], "no better than random picks");
    assert!(eval["ap"].as_f64().unwrap() < eval["ap_random"].as_f64().unwrap() + 0.05, "{eval}");
}

#[test]
fn micrographs_that_cannot_be_read_are_named_and_the_others_train() {
    let place = Place::with_discs(5);
    // The first has no pixels, the second no header, the third not one number; one of two rows is no micrograph either.
    let whole = std::fs::read(place.path("discs/m0.mrc")).unwrap();
    std::fs::write(place.path("discs/m0.mrc"), &whole[..2000]).unwrap();
    std::fs::write(place.path("discs/m1.mrc"), "not a micrograph").unwrap();
    let mut numbers = whole[..1024].to_vec();
    numbers[12..16].copy_from_slice(&2_i32.to_le_bytes());
    numbers.extend((0..96 * 96).flat_map(|_| f32::NAN.to_le_bytes()));
    std::fs::write(place.path("discs/m2.mrc"), numbers).unwrap();
    let told = place.train("exp", &["--train_pct", "100", "--steps", "2", "--batch_size", "1"]).ended_with(1);
    for name in ["m0.mrc", "m1.mrc", "m2.mrc"] {
        assert!(told.stderr.lines().any(|line| line.starts_with("warning: ") && line.contains(name)), "{name}: {}", told.stderr);
    }
    assert!(told.stdout.contains("2 micrographs train"), "{}", told.stdout);
    assert!(told.stderr.contains("warning: 3 micrographs could not be read and were left out"), "{}", told.stderr);
    assert!(place.path("exp/model_last.safetensors").is_file());
    // Where none is left, nothing is learnt.
    for i in 3..5 {
        std::fs::write(place.path(&format!("discs/m{i}.mrc")), "not a micrograph either").unwrap();
    }
    assert!(!place.train("none", &["--train_pct", "100", "--steps", "2"]).stderr.contains("panicked"));
    assert!(!place.path("none/model_last.pth").exists());
}

#[test]
fn marks_beside_labels_are_obeyed() {
    let place = Place::with_discs(4);
    let mark = |name: &str, finished: bool, excluded: bool| {
        let nothing = r#"{ "id": "n1", "kind": "nothing", "x": 10.0, "y": 80.0 }"#;
        let area = r#"{ "id": "b1", "kind": "brush", "r": 9.0, "points": [[90, 90], [60, 90]] }"#;
        let text = format!(r#"{{ "format": 1, "finished": {finished}, "excluded": {excluded}, "items": [{nothing}, {area}] }}"#);
        std::fs::write(place.path(&format!("discs/{name}.marks")), text).unwrap();
    };
    let train = |exp_id: &str, more: &[&str]| place.train(exp_id, &[&["--train_pct", "100", "--steps", "1"], more].concat());
    mark("m0", true, false);
    let told = train("finished", &[]).ended_with(0);
    assert!(told.stdout.contains("4 micrographs train") && !told.stdout.contains("finished,"), "{}", told.stdout);
    // Where somebody has not finished, what has no label may be a particle, unless the command line knows better.
    mark("m1", false, false);
    mark("m2", false, true);
    let told = train("some", &[]).ended_with(0);
    assert!(told.stdout.contains("1 micrograph not marked as finished"), "{}", told.stdout);
    assert!(told.stdout.contains("3 micrographs train"), "{}", told.stdout);
    assert!(told.stderr.contains("1 micrograph marked as excluded and left out: m2"), "{}", told.stderr);
    let told = train("focal", &["--heat_map_loss", "focal"]).ended_with(0);
    assert!(!told.stdout.contains("not marked as finished"), "{}", told.stdout);
    // The marks change what is learnt.
    let weights = |name: &str| std::fs::read(place.path(&format!("{name}/model_last.safetensors"))).unwrap();
    assert_ne!(weights("finished"), weights("focal"));
    std::fs::write(place.path("discs/m0.marks"), "{").unwrap();
    let told = train("broken", &[]).ended_with(2);
    assert!(told.stderr.contains("m0.marks: line 1"), "{}", told.stderr);
}

#[test]
fn picks_that_were_kept_and_picks_that_were_thrown_away_are_learnt_from() {
    let place = Place::with_discs(4);
    let table = |name: &str, rows: &[(usize, [usize; 2])]| {
        let rows: String = rows.iter().map(|(i, [x, y])| format!("mics/m{i}.mrc {x} {y}\n")).collect();
        let head = "data_particles\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n";
        std::fs::write(place.path(name), format!("{head}{rows}")).unwrap();
    };
    table("kept.star", &[(0, [20, 20]), (0, [60, 50]), (1, [30, 30])]);
    table("thrown-away.star", &[(1, [70, 70]), (2, [10, 80]), (2, [80, 10])]);
    table("all.star", &[(0, [21, 20]), (0, [60, 50]), (1, [30, 30]), (1, [70, 70]), (2, [10, 80]), (2, [80, 10])]);
    table("of-others.star", &[(9, [70, 70])]);
    let train = |exp_id: &str, more: &[&str]| {
        let data = ["train", "--data", "discs", "--selected", "kept.star", "--exp_id", exp_id, "--frame", "64"];
        place.run(&[&data[..], &["--from-scratch", "--diameter", "24", "--train_pct", "100", "--steps", "1"], more].concat())
    };
    // The micrograph that has nothing but thrown away picks takes part, and the one that has none at all is left out.
    let told = train("both", &["--rejected", "thrown-away.star"]).ended_with(0);
    assert!(told.stdout.contains("3 micrographs with labels, 3 labels, 1 of the micrographs without any"), "{}", told.stdout);
    assert!(
        told.stdout.contains("without any (negative examples), 3 rejected") && !told.stdout.contains("at a selected one"),
        "{}",
        told.stdout
    );
    assert!(told.stderr.contains("1 micrograph has no label file and is left out: m3"), "{}", told.stderr);
    let told = train("kept", &[]).ended_with(0);
    assert!(told.stdout.contains("2 micrographs with labels, 3 labels") && !told.stdout.contains("rejected"), "{}", told.stdout);
    // What was never picked may be a particle, unless the command line knows better.
    train("focal", &["--heat_map_loss", "focal"]).ended_with(0);
    let weights = |name: &str| std::fs::read(place.path(&format!("{name}/model_last.safetensors"))).unwrap();
    assert_ne!(weights("kept"), weights("both"));
    assert_ne!(weights("kept"), weights("focal"));
    // A list of all picks says the same as the thrown away ones alone.
    let told = train("all", &["--rejected", "all.star"]).ended_with(0);
    assert!(told.stdout.contains("6 rejected") && told.stdout.contains("3 rejected picks at a selected one"), "{}", told.stdout);
    assert!(weights("all") == weights("both"));
    // Those of other micrographs are a mistake, and so are rejected ones alone.
    let told = train("others", &["--rejected", "of-others.star"]).ended_with(2);
    assert!(told.stderr.contains("none of the micrographs has one of these rejected particles"), "{}", told.stderr);
    let told = place.train("alone", &["--rejected", "thrown-away.star"]).ended_with(2);
    assert!(told.stderr.contains("--selected"), "{}", told.stderr);
}

#[test]
fn a_training_goes_on_with_its_own_schedule_where_none_is_given() {
    let place = Place::with_discs(2);
    let options = ["--train_pct", "100", "--steps", "8", "--batch_size", "3", "--lr", "1e-3"];
    place.train("whole", &options).ended_with(0);
    // A training that stood after its second epoch: all files of the first four of eight steps.
    place.train("parts", &options).ended_with(0);
    let whole = checkpoint::load(&place.path("whole/model_last.pth")).unwrap();
    assert_eq!(whole.terms.as_ref().unwrap().batch, Some(3));
    let told = place.train("parts", &["--train_pct", "100", "--resume"]).ended_with(0);
    assert!(!told.stderr.contains("not those of the interrupted training"), "{}", told.stderr);
    assert!(told.stderr.contains("epochs are done already"), "{}", told.stderr);
    assert!(told.stdout.contains("8 steps of 3 crops"), "{}", told.stdout);
}

#[test]
fn a_training_killed_between_its_first_two_checkpoints_goes_on_to_the_same_bits() {
    let place = Place::with_particles("2");
    let options = ["--steps", "4", "--batch_size", "1", "--lr", "0.05"];
    place.train_further("whole", &options).ended_with(0);
    // The best model is written before the last one; at the start both are the model that the training starts with.
    std::fs::create_dir(place.path("cut")).unwrap();
    std::fs::copy(place.path("whole/model_best.pth"), place.path("cut/model_best.pth")).unwrap();
    place.train_further("cut", &options).ended_with(2);
    let told = place.train_further("cut", &[&options[..], &["--resume"]].concat()).ended_with(0);
    assert!(told.stdout.contains("going on after epoch 0, step 0") && !told.stderr.contains("not those of"), "{}", told.stderr);
    for name in ["model_last.safetensors", "model_best.safetensors"] {
        let [whole, cut] = ["whole", "cut"].map(|exp_id| std::fs::read(place.path(&format!("{exp_id}/{name}"))).unwrap());
        assert!(whole == cut, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn the_wrapper_means_what_the_guide_means() {
    let place = Place::with_discs(2);
    let wrapper = concat!(env!("CARGO_MANIFEST_DIR"), "/bin/epicker_train.sh");
    std::fs::copy(wrapper, place.path("epicker_train.sh")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_epicker"), place.path("epicker")).unwrap();
    let run = |exp_id: &str, more: &[&str]| {
        let mut command = Command::new(place.path("epicker_train.sh"));
        command.args(["--data", "discs", "--exp_id", exp_id, "--frame", "64", "--gpus", "-1", "--train_pct", "100"]).args(more);
        command.current_dir(place.folder.path());
        command
    };
    // From nothing, of full width, 140 epochs: one step of the two images each.
    let mut child = run("guide", &[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = told.next().unwrap();
    let widths = told.find(|line| line.starts_with("a new network")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(first.contains("a new network") && first.contains("140 steps of 4 crops of 64 x 64") && first.contains("all 140"), "{first}");
    assert!(widths.contains("[16, 32, 64, 128, 256, 512], head 256"), "{widths}");
    // What is given is taken, and the rest is the guide's: its rate, its batch.
    Told::from(run("given", &["--num_epoch", "1", "--width", "0.25"]).output().unwrap()).ended_with(0);
    let terms = checkpoint::load(&place.path("given/model_last.pth")).unwrap().terms.unwrap();
    let schedule = terms.schedule.unwrap();
    assert_eq!((schedule.learning_rate, schedule.order, schedule.warm_up, terms.batch), (GUIDE_RATE, Order::Passes, 0, Some(4)));
    // A model that is given is started from.
    let told = Told::from(run("more", &["--num_epoch", "1", "--load_model", "particle"]).output().unwrap()).ended_with(0);
    assert!(told.stdout.contains("trains the general model particle further"), "{}", told.stdout);
}
