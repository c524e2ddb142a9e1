//! Training from end to end: when is replayed, saved and stopped; going on bit by bit; the command.

use crate::common::labelled::{write_mrc, write_thi};
use crate::common::program::{epicker, is_refused, wait_until};
use epicker::compat::Compat;
use epicker::device::Device;
use epicker::formats::coordinates::Kind;
use epicker::formats::pth::Adam;
use epicker::formats::state_dict::StateDict;
use epicker::net::engine::DeviceEngine;
use epicker::net::{Architecture, Model, fresh};
use epicker::preprocess::Normalisation;
use epicker::train::cache::{ImageCache, grey_png};
use epicker::train::checkpoint;
use epicker::train::data::{Data, DataOptions, TrainingImage};
use epicker::train::run::{End, EpochReport, Hooks, Learner, Position, Replay, RunOptions, Schedule, Snapshot, StepReport, run};
use epicker::train::{Losses, Targets, Trainer, TrainerOptions, augment};
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const SIDE: usize = 64;

fn options(seed: u64) -> DataOptions {
    DataOptions {
        frame: SIDE,
        side_n: SIDE,
        augment: augment::Options::default(),
        clip: false,
        normalisation: Normalisation::Picking,
        seed,
    }
}

/// Pictures as micrographs: the reader takes PNG.
fn data(folder: &Path, count: usize, seed: u64) -> Data {
    let image = |i: usize| {
        let path = folder.join(format!("m{i}.png"));
        let levels: Vec<u8> = epicker::random::noise(SIDE * SIDE, i as u64).iter().map(|x| (128.0 + 200.0 * x) as u8).collect();
        std::fs::write(&path, grey_png(&levels, [SIDE, SIDE]).unwrap()).unwrap();
        let at = 8.0 + 5.0 * i as f32;
        TrainingImage { path, boxes: vec![[at, at, at + 19.0, at + 19.0]] }
    };
    let cache = ImageCache::new(None, 0, SIDE, Default::default(), Compat::default()).unwrap();
    Data::of_micrographs((0..count).map(image).collect(), cache, options(seed))
}

/// Remembers what it was asked, and learns nothing.
#[derive(Default)]
struct Parrot {
    calls: Vec<(usize, bool, f64)>,
    /// Sums of the images of each call, and whether each is an exemplar.
    seen: Vec<Vec<(bool, f32)>>,
    nan_at: Option<usize>,
}

impl Learner for Parrot {
    fn step(&mut self, images: &[f32], targets: &Targets, exemplar: &[bool], learning_rate: f64) -> anyhow::Result<Losses> {
        assert_eq!(images.len(), exemplar.len() * SIDE * SIDE);
        assert_eq!(targets.heat_map.len(), exemplar.len() * (SIDE / 4) * (SIDE / 4));
        assert!(targets.objects.iter().all(|object| object.image < exemplar.len()));
        self.calls.push((exemplar.len(), exemplar[0], learning_rate));
        let sums = images.chunks(SIDE * SIDE).map(|image| image.iter().sum());
        self.seen.push(exemplar.iter().copied().zip(sums).collect());
        let heat_map = if Some(self.calls.len()) == self.nan_at { f64::NAN } else { 1.0 };
        Ok(Losses { total: heat_map + 1.0, heat_map, offset: 1.0, ..Losses::default() })
    }

    fn state_dict(&self) -> anyhow::Result<StateDict> {
        Ok(StateDict::default())
    }

    fn adam(&self, learning_rate: f64) -> anyhow::Result<Adam> {
        Ok(Adam { learning_rate, betas: (0.9, 0.999).into(), eps: 1e-8, weight_decay: 0.0, moments: Vec::new() })
    }
}

/// Keeps everything, and raises the flag when asked to.
struct Watch<'a> {
    steps: Vec<StepReport>,
    epochs: Vec<EpochReport>,
    saved: Vec<Snapshot>,
    scores: Vec<f64>,
    stop_after: Option<usize>,
    stop: &'a AtomicBool,
}

impl<'a> Watch<'a> {
    fn new(stop: &'a AtomicBool) -> Self {
        Watch { steps: Vec::new(), epochs: Vec::new(), saved: Vec::new(), scores: Vec::new(), stop_after: None, stop }
    }
}

impl Hooks for Watch<'_> {
    fn step(&mut self, report: &StepReport) {
        self.steps.push(*report);
        if Some(self.steps.len()) == self.stop_after {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn epoch(&mut self, report: &EpochReport) -> anyhow::Result<()> {
        self.epochs.push(*report);
        Ok(())
    }

    fn validate(&mut self, _: &StateDict) -> anyhow::Result<Option<f64>> {
        Ok(self.scores.get(self.epochs.len()).copied())
    }

    fn save(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        self.saved.push(snapshot.clone());
        Ok(())
    }
}

fn run_options(batch: usize, epochs: u32) -> RunOptions {
    let schedule = Schedule { learning_rate: 1e-3, drops: vec![1], epochs };
    RunOptions { batch, schedule, most_steps: None, replay: Replay::Apart }
}

#[test]
fn the_schedule_is_the_guides_and_moves_with_the_epochs() {
    let of = |drops: Option<Vec<u32>>, epochs| Schedule::from_options(1e-4, drops, epochs).unwrap();
    let (guide, note) = of(None, None);
    assert_eq!((guide.epochs, guide.drops.clone(), note), (140, vec![70, 90], None));
    let rates = [1, 70, 71, 90, 91, 140].map(|epoch| guide.rate(epoch));
    for (rate, expected) in rates.iter().zip([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6]) {
        assert!((rate / expected - 1.0).abs() < 1e-12);
    }
    let (short, note) = of(None, Some(14));
    assert_eq!(short.drops, [7, 9]);
    assert!(note.unwrap().contains("after epoch 7 and 9"));
    assert_eq!(of(None, Some(1)).0.drops, [1]);
    assert_eq!(of(Some(vec![5]), Some(14)), (Schedule { learning_rate: 1e-4, drops: vec![5], epochs: 14 }, None));
    assert!(Schedule::from_options(1e-4, Some(vec![9, 7]), None).is_err());
}

#[test]
fn exemplars_are_replayed_after_every_eighth_step_or_after_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let (many, few, old) = (data(folder.path(), 17, 1), data(folder.path(), 3, 1), data(folder.path(), 3, 2));
    let stop = AtomicBool::new(false);
    let calls = |data: &Data, replay: Option<&Data>| {
        let (mut parrot, mut watch) = (Parrot::default(), Watch::new(&stop));
        let end = run(&mut parrot, data, replay, &run_options(1, 1), Position::default(), None, &mut watch, &stop).unwrap();
        assert_eq!(end, End::Done);
        parrot.calls.iter().map(|(_, replay, _)| if *replay { 'r' } else { '.' }).collect::<String>()
    };
    assert_eq!(calls(&many, Some(&old)), "........rrr........rrr.");
    assert_eq!(calls(&few, Some(&old)), ".rrr..");
    assert_eq!(calls(&few, None), "...");
    // Batches are never mixed, and no larger than the exemplars are many.
    let (mut parrot, mut watch) = (Parrot::default(), Watch::new(&stop));
    run(&mut parrot, &many, Some(&old), &run_options(8, 2), Position::default(), None, &mut watch, &stop).unwrap();
    let sizes: Vec<(usize, bool)> = parrot.calls.iter().map(|(n, replay, _)| (*n, *replay)).collect();
    assert_eq!(sizes[..4], [(8, false), (3, true), (8, false), (1, false)], "the last short batch is kept");
    let rates: Vec<f64> = parrot.calls.iter().map(|(_, _, rate)| *rate).collect();
    assert_eq!((rates[0], rates[4]), (1e-3, 1e-3 * 0.1));
    assert_eq!((watch.epochs[0].losses.total, watch.epochs[0].replay_loss), (2.0, Some(2.0)));
}

#[test]
fn mixed_replay_puts_exemplars_into_every_step_and_takes_all_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    let (new, old) = (data(folder.path(), 7, 1), data(folder.path(), 5, 2));
    let stop = AtomicBool::new(false);
    let go = |replay: Replay, position: Position| {
        let (mut parrot, mut watch) = (Parrot::default(), Watch::new(&stop));
        let options = RunOptions { replay, ..run_options(4, 1) };
        run(&mut parrot, &new, Some(&old), &options, position, None, &mut watch, &stop).unwrap();
        (parrot.seen, watch.steps)
    };
    let (seen, steps) = go(Replay::Mixed(2), Position::default());
    let kinds: Vec<Vec<bool>> = seen.iter().map(|step| step.iter().map(|(exemplar, _)| *exemplar).collect()).collect();
    let whole = vec![true, true, false, false];
    assert_eq!(kinds, [whole.clone(), whole.clone(), whole, vec![true, true, false]]);
    assert!(steps.iter().all(|step| step.exemplars == 2 && !step.replay && step.steps == 4));
    // Eight draws of five exemplars: each once before any comes again, and then in another sample of it.
    let mut sums: Vec<u32> = seen.iter().flatten().filter(|(exemplar, _)| *exemplar).map(|(_, sum)| sum.to_bits()).collect();
    sums.sort_unstable();
    sums.dedup();
    assert_eq!(sums.len(), 8);
    assert_eq!(go(Replay::Mixed(2), Position { epoch: 0, step: 2 }).0, seen[2..], "steps depend on their number alone");
    // There are never more exemplars in a step than there are, and one image at least is new.
    assert_eq!(go(Replay::Mixed(9), Position::default()).1.iter().map(|step| step.exemplars).collect::<Vec<_>>(), [3; 7]);
    assert_eq!([0.0, 0.3, 0.5, 1.0].map(|share| Replay::of_share(share, 4)), [1, 1, 2, 3].map(Replay::Mixed));
    assert_eq!(Replay::of_share(0.5, 1), Replay::Apart);
}

#[test]
fn the_best_is_kept_and_a_nan_ends_it_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path(), 2, 1);
    let stop = AtomicBool::new(false);
    let mut watch = Watch::new(&stop);
    watch.scores = vec![0.3, 0.5, 0.5, 0.4];
    run(&mut Parrot::default(), &data, None, &run_options(2, 4), Position::default(), None, &mut watch, &stop).unwrap();
    assert_eq!(watch.saved.iter().map(|saved| saved.is_best).collect::<Vec<_>>(), [true, true, false, false]);
    assert_eq!(watch.saved[3].best, Some(0.5));
    assert_eq!(watch.saved[3].position, Position { epoch: 4, step: 0 });

    let mut broken = Parrot { nan_at: Some(3), ..Parrot::default() };
    let mut watch = Watch::new(&stop);
    let error = run(&mut broken, &data, None, &run_options(1, 4), Position::default(), None, &mut watch, &stop).unwrap_err().to_string();
    assert!(error.contains("epoch 2, step 1 of 2") && error.contains("--lr") && error.contains("--resume"), "{error}");
    assert_eq!(watch.saved.len(), 1, "the checkpoint of the first epoch stays the last");
}

#[test]
fn batches_depend_on_seed_epoch_and_image_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b, other) = (data(folder.path(), 5, 1), data(folder.path(), 5, 1), data(folder.path(), 5, 2));
    assert_eq!(a.steps(3, 0, 2), b.steps(3, 0, 2));
    assert_eq!(a.steps(3, 0, 2).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_ne!(a.steps(3, 0, 2), a.steps(4, 0, 2));
    let both = a.batch(&[1, 4], 3, 0).unwrap();
    let alone = b.batch(&[4], 3, 0).unwrap();
    assert_eq!(both.images[SIDE * SIDE..], alone.images[..]);
    assert_eq!(both.targets.heat_map[(SIDE / 4).pow(2)..], alone.targets.heat_map[..]);
    assert_ne!(alone, a.batch(&[4], 4, 0).unwrap());
    assert_ne!(alone, other.batch(&[4], 3, 0).unwrap());
}

/// A network so narrow that a step takes milliseconds.
const TINY: Architecture = Architecture { channels: [4, 4, 8, 8, 16, 16], head: 8 };

fn trainer(state: &StateDict) -> Trainer {
    Trainer::new(DeviceEngine::<f32>::on(Device::Cpu), TINY, state, TrainerOptions::new(Kind::Particle, 2, [SIDE; 2]), None).unwrap()
}

#[test]
fn a_training_stopped_within_an_epoch_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path(), 5, 1);
    let start = fresh::state_dict(TINY, 1);
    let stop = AtomicBool::new(false);
    let mut watch = Watch::new(&stop);
    let mut unbroken = trainer(&start);
    assert_eq!(run(&mut unbroken, &data, None, &run_options(2, 3), Position::default(), None, &mut watch, &stop).unwrap(), End::Done);
    assert!(watch.epochs.iter().all(|epoch| epoch.losses.total.is_finite()));

    // Stopped after the second step of the second epoch, and after the last step of the first.
    for (stop_after, position) in [(5, Position { epoch: 1, step: 2 }), (3, Position { epoch: 1, step: 0 })] {
        stop.store(false, Ordering::Relaxed);
        let mut watch = Watch::new(&stop);
        watch.stop_after = Some(stop_after);
        let mut broken = trainer(&start);
        let end = run(&mut broken, &data, None, &run_options(2, 3), Position::default(), None, &mut watch, &stop).unwrap();
        assert_eq!((end, watch.saved.last().unwrap().position), (End::Stopped, position));
        let terms = checkpoint::Terms { fingerprint: "as_before".to_owned(), frame: 64, side_n: 32 };
        checkpoint::save(folder.path(), checkpoint::LAST, watch.saved.last().unwrap(), &Default::default(), &terms).unwrap();

        stop.store(false, Ordering::Relaxed);
        let resumed = checkpoint::load(&folder.path().join("model_last.pth")).unwrap();
        assert_eq!((resumed.position, resumed.terms.as_ref()), (position, Some(&terms)));
        let mut goes_on = trainer(&resumed.state);
        goes_on.set_adam(&resumed.adam).unwrap();
        run(&mut goes_on, &data, None, &run_options(2, 3), resumed.position, resumed.best, &mut Watch::new(&stop), &stop).unwrap();
        assert_eq!(goes_on.state_dict().unwrap().sha256(), unbroken.state_dict().unwrap().sha256());
        assert_eq!(goes_on.adam(0.1).unwrap(), unbroken.adam(0.1).unwrap());
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Five micrographs with dark discs.
fn micrographs(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for i in 0..5 {
        let discs = [[20 + 3 * i, 30], [70, 20 + 5 * i], [50, 75]];
        write_mrc(&folder.join(format!("m{i}.mrc")), [96, 96], &discs);
        write_thi(&folder.join(format!("m{i}.thi")), &discs);
    }
}

#[test]
fn the_command_trains_resumes_to_the_same_bits_and_judges() {
    let folder = tempfile::tempdir().unwrap();
    let mics = folder.path().join("mics");
    micrographs(&mics);
    let train = |exp_id: &str, more: &[&str]| {
        let exp_id = text(&folder.path().join(exp_id));
        let mics = text(&mics);
        let common = [
            "train",
            "--data",
            &mics,
            "--exp_id",
            &exp_id,
            "--frame",
            "64",
            "--width",
            "0.25",
            "--batch_size",
            "2",
            "--lr_step",
            "70,90",
            "--diameter",
            "24",
        ];
        let result = epicker(&[&common[..], more].concat());
        (result.status.code(), String::from_utf8_lossy(&result.stdout).into_owned(), String::from_utf8_lossy(&result.stderr).into_owned())
    };
    let (status, stdout, stderr) = train("whole", &["--num_epoch", "2"]);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.contains("4 micrographs train, 0 validate, 1 test"), "{stdout}");
    assert!(stdout.contains("chosen on the test part") && stdout.contains("epoch 2: loss"), "{stdout}");
    let whole = folder.path().join("whole");
    for name in
        ["model_last.pth", "model_last.safetensors", "model_best.pth", "eval.json", "PR.svg", "PR.png", "loss.svg", "AP.svg", "opt.txt"]
    {
        assert!(whole.join(name).is_file(), "{name}");
    }
    assert!(!whole.join("images").exists(), "prepared images are removed at the end");
    let log = std::fs::read_to_string(whole.join("logs/log.jsonl")).unwrap();
    let epochs: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).filter(|line: &Value| line["event"] == "epoch").collect();
    assert_eq!(epochs.iter().map(|epoch| epoch["epoch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    assert!(epochs.iter().all(|epoch| epoch["loss"].as_f64().unwrap() > 0.0 && epoch["validation"].is_f64()), "{log}");

    let (status, _, stderr) = train("parts", &["--num_epoch", "1"]);
    assert_eq!(status, Some(0), "{stderr}");
    let (status, stdout, stderr) = train("parts", &["--num_epoch", "2", "--resume", "--threads", "1"]);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.contains("going on after epoch 1") && !stderr.contains("not those of"), "{stdout} {stderr}");
    let bytes = |exp_id: &str| std::fs::read(folder.path().join(exp_id).join("model_last.pth")).unwrap();
    assert!(bytes("whole") == bytes("parts"), "every bit of weights and optimiser");
    let (_, _, stderr) = train("parts", &["--num_epoch", "3", "--resume", "--lr", "0.01"]);
    assert!(stderr.contains("not those of the interrupted training"), "{stderr}");

    // The model says of itself what it is, and finds its way back into a training and a picking.
    let model = text(&whole.join("model_last.pth"));
    let (status, stdout, stderr) = train("again", &["--num_epoch", "1", "--load_model", &model, "--train_pct", "100"]);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.contains("398 of 398 tensors taken") && stdout.contains("neither a validation nor a test part"), "{stdout}");
    let described = epicker(&["convert", &model]);
    let described = String::from_utf8_lossy(&described.stdout).into_owned();
    assert!(described.contains("epicker.mode: particle") && described.contains("epicker.diameter_angstrom: 24"), "{described}");
    let kept = text(&folder.path().join("kept"));
    let arguments = ["--num_epoch", "1", "--continual", "--load_model", &model, "--load_exemplar", &kept, "--output_exemplar", &kept];
    let (status, stdout, stderr) = train("first", &arguments);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("no exemplars; fine-tuning") && stdout.contains("4 exemplars with 12 labels"), "{stdout} {stderr}");
    let (status, stdout, stderr) = train("second", &arguments);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.contains("4 exemplars: 1 of the 2 images of each step") && stdout.contains("there already"), "{stdout}");
}

/// The first of a row of continual trainings has no model to begin with; it, too, goes on where it was, to the same bits.
#[test]
fn continual_trainings_go_on_to_the_same_bits_and_the_first_needs_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let mics = folder.path().join("mics");
    std::fs::create_dir(&mics).unwrap();
    micrographs(&mics);
    let in_folder = |name: &str| text(&folder.path().join(name));
    let shared = ["--frame", "64", "--width", "0.25", "--batch_size", "3", "--lr_step", "70", "--train_pct", "100", "--diameter", "24"];
    let train = |name: &str, epochs: &str, more: &[&str]| {
        let head = ["train", "--data", &text(&mics), "--exp_id", &in_folder(name), "--continual", "--num_epoch", epochs];
        let result = epicker(&[&head[..], &shared, more].concat());
        assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
        let stderr = String::from_utf8(result.stderr).unwrap();
        assert!(!stderr.contains("not those of the interrupted training"), "{stderr}");
        stderr
    };
    let last = |name: &str| std::fs::read(folder.path().join(name).join("model_last.safetensors")).unwrap();
    let kept = in_folder("kept");
    train("first", "1", &["--output_exemplar", &kept]);
    let told = train("first", "2", &["--output_exemplar", &kept, "--resume"]);
    assert!(told.contains("nothing to forget yet"), "{told}");
    train("whole", "2", &["--output_exemplar", &in_folder("other")]);
    assert_eq!(last("first"), last("whole"));

    let model = in_folder("first/model_last.pth");
    let output = in_folder("more");
    let arguments = ["--load_model", &model, "--load_exemplar", &kept, "--output_exemplar", &output];
    train("second", "1", &arguments);
    train("second", "2", &[&arguments[..], &["--resume"]].concat());
    train("unbroken", "2", &arguments);
    assert_eq!(last("second"), last("unbroken"));
    train("apart", "2", &[&arguments[..], &["--replay_share", "0"]].concat());
    assert_ne!(last("apart"), last("unbroken"));
}

#[test]
fn wrong_trainings_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let [mics, exp_id, empty] = ["mics", "exp", "empty"].map(|name| folder.path().join(name));
    micrographs(&mics);
    std::fs::create_dir_all(&empty).unwrap();
    (0..5).for_each(|i| write_thi(&empty.join(format!("m{i}.thi")), &[]));
    let [mics, exp, empty] = [&mics, &exp_id, &empty].map(|path| text(path));
    let train = |more: &[&str]| epicker(&[&["train", "--data", &mics, "--exp_id", &exp][..], more].concat());
    is_refused(&train(&["--train_pct", "80", "--val_pct", "20", "--test_pct", "20"]), "120 percent");
    is_refused(&train(&["--train_pct", "0"]), "nothing to train on");
    is_refused(&train(&["--label", &empty]), "label files are empty");
    is_refused(&train(&["--label", "nowhere"]), "nowhere");
    is_refused(&train(&["--resume"]), "model_last.pth");
    is_refused(&train(&["--input_res", "500"]), "multiple of 32");
    is_refused(&train(&["--lr", "0"]), "above 0");
    is_refused(&train(&["--lr_step", "9,3"]), "ascending");
    is_refused(&train(&["--mode", "vesicle"]), "without radius");
    is_refused(&train(&["--load_model", &format!("{mics}/m0.thi")]), "m0.thi");
    is_refused(&train(&["--batch_size", "0"]), "from 1");
    is_refused(&train(&["--flip", "2"]), "from 0 to 1");
    assert!(!exp_id.exists());
}

#[test]
fn a_new_network_is_as_wide_as_asked_and_never_narrower_than_told() {
    let folder = tempfile::tempdir().unwrap();
    let [mics, exp] = ["mics", "exp"].map(|name| folder.path().join(name));
    micrographs(&mics);
    let [mics, exp_id] = [text(&mics), text(&exp)];
    let widths = ["--width", "0.25", "--min_channels", "12"];
    let common = ["train", "--data", &mics, "--exp_id", &exp_id, "--frame", "64", "--diameter", "24", "--num_epoch", "1"];
    let result = epicker(&[&common[..], &widths].concat());
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
    let model = Model::load(&exp.join("model_last.safetensors")).unwrap();
    assert_eq!(model.architecture(), Architecture { channels: [12, 12, 16, 32, 64, 128], head: 64 });
    let result = epicker(&[&common[..], &["--min_channels", "0"]].concat());
    assert_eq!(result.status.code(), Some(2), "{}", String::from_utf8_lossy(&result.stdout));
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_stops_and_resume_goes_on() {
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().unwrap();
    let [mics, exp] = ["mics", "exp"].map(|name| folder.path().join(name));
    micrographs(&mics);
    let [mics, exp_id] = [text(&mics), text(&exp)];
    let common =
        ["train", "--data", &mics, "--exp_id", &exp_id, "--frame", "64", "--width", "0.25", "--batch_size", "2", "--lr_step", "70"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_epicker"))
        .args(common)
        .args(["--num_epoch", "100000", "--train_pct", "100"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(|| exp.join("model_last.safetensors").is_file());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let stopped = checkpoint::load(&exp.join("model_last.pth")).unwrap().position;
    let epochs = (stopped.epoch + 1).to_string();
    let result = epicker(&[&common[..], &["--num_epoch", &epochs, "--train_pct", "100", "--resume"]].concat());
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
    let told = String::from_utf8_lossy(&result.stdout).into_owned();
    assert!(told.contains(&format!("going on after epoch {}, step {}", stopped.epoch, stopped.step)), "{told}");
    assert_eq!(checkpoint::load(&exp.join("model_last.pth")).unwrap().position, Position { epoch: stopped.epoch + 1, step: 0 });
}
