//! Training from end to end: when is replayed, saved and stopped; going on bit by bit; the command.

use crate::common::labelled::{write_mrc, write_thi};
use crate::common::program::{epicker, is_refused, wait_until};
use epicker::compat::Compat;
use epicker::device::Device;
use epicker::formats::coordinates::Kind;
use epicker::formats::pth::Adam;
use epicker::formats::state_dict::StateDict;
use epicker::io::model_source::ModelSource;
use epicker::net::{Architecture, Model, fresh};
use epicker::preprocess::Normalisation;
use epicker::preprocess::ground::Ground;
use epicker::train::cache::{ImageCache, grey_png};
use epicker::train::checkpoint;
use epicker::train::data::{Data, DataOptions, Draw, TrainingImage};
use epicker::train::run::{Best, End, EpochReport, Hooks, Learner, Position, RunOptions, Score, Snapshot, Standing, StepReport, run};
use epicker::train::schedule::{Asked, Beginning, Fall, Order, Recipe, Replay, Schedule};
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
        TrainingImage { path, boxes: vec![[at, at, at + 19.0, at + 19.0]], marks: Default::default() }
    };
    let cache = ImageCache::new(None, 0, SIDE, Default::default(), Ground::Kept, Compat::default()).unwrap();
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
    /// What judging says, in turn; the first is that of the start where the start is judged.
    scores: Vec<Score>,
    starts: Vec<Score>,
    stop_after: Option<usize>,
    stop: &'a AtomicBool,
}

impl<'a> Watch<'a> {
    fn new(stop: &'a AtomicBool) -> Self {
        Watch { steps: Vec::new(), epochs: Vec::new(), saved: Vec::new(), scores: Vec::new(), starts: Vec::new(), stop_after: None, stop }
    }
}

impl Hooks for Watch<'_> {
    fn start(&mut self, score: &Score) -> anyhow::Result<()> {
        self.starts.push(*score);
        Ok(())
    }

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

    fn validate(&mut self, _: &StateDict) -> anyhow::Result<Option<Score>> {
        Ok(self.scores.get(self.starts.len() + self.epochs.len()).copied())
    }

    fn save(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        self.saved.push(snapshot.clone());
        Ok(())
    }
}

/// Passes over `images` images, `new_images` of them in a step of `batch`; the rate falls after the first epoch.
fn passes(images: usize, new_images: usize, batch: usize, epochs: u32, replay: Replay) -> RunOptions {
    let asked = Asked { learning_rate: Some(1e-3), drops: Some(vec![1]), epochs: Some(epochs), ..Asked::default() };
    RunOptions { batch, schedule: asked.in_passes(1.0, images, new_images).0, replay, judges_start: false }
}

fn run_options(images: usize, batch: usize, epochs: u32) -> RunOptions {
    passes(images, batch, batch, epochs, Replay::Apart)
}

/// From the first step, without a best network.
fn run_all(learner: &mut dyn Learner, data: &Data, replay: Option<&Data>, options: &RunOptions, watch: &mut Watch) -> (End, Standing) {
    let stop = watch.stop;
    run(learner, data, replay, options, Standing::default(), watch, stop).unwrap()
}

#[test]
fn the_guides_schedule_falls_after_its_epochs_and_moves_with_their_number() {
    let of = |drops: Option<Vec<u32>>, epochs| Asked { drops, epochs, ..Asked::default() }.in_passes(1e-4, 9, 4);
    let (guide, note) = of(None, None);
    assert_eq!((guide.epochs, guide.epoch_steps, guide.steps(), note), (140, 3, 420, None), "nine images in steps of four");
    assert_eq!((guide.fall.clone(), guide.warm_up, guide.order), (Fall::Tenths(vec![210, 270]), 0, Order::Passes));
    // The last step before each drop has the old rate, the first after it the new one.
    let rates = [0, 209, 210, 269, 270, 419].map(|step| guide.rate(step));
    for (rate, expected) in rates.iter().zip([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6]) {
        assert!((rate / expected - 1.0).abs() < 1e-12);
    }
    let (short, note) = of(None, Some(14));
    assert_eq!(short.fall, Fall::Tenths(vec![21, 27]));
    assert!(note.unwrap().contains("after epoch 7 and 9"));
    assert_eq!(of(None, Some(1)).0.fall, Fall::Tenths(vec![3]));
    let (given, note) = of(Some(vec![5]), Some(14));
    assert_eq!((given.fall, given.epochs, note), (Fall::Tenths(vec![15]), 14, None));
    assert_eq!(Asked { most_steps: Some(2), ..Asked::default() }.in_passes(1e-4, 9, 4).0.epoch_steps, 2);
    assert!(Asked { drops: Some(vec![9, 7]), ..Asked::default() }.check().is_err());
    assert!(Asked { epochs: Some(9), steps: Some(9), ..Asked::default() }.check().unwrap_err().to_string().contains("--steps"));
}

#[test]
fn without_epochs_the_schedule_counts_steps_whatever_the_number_of_micrographs() {
    let of = |beginning, images| Recipe::of(beginning, 128, images);
    for beginning in [Beginning::Nothing, Beginning::Model] {
        let [five, fifty, many] = [5, 50, 500].map(|images| of(beginning, images));
        assert_eq!(five.steps, fifty.steps, "five micrographs take as many steps as fifty");
        assert!(five.steps >= 200 && many.steps >= five.steps, "{five:?} {many:?}");
        // Every one of five hundred is shown eight times in steps of four.
        assert!(many.steps * 4 >= 8 * 500, "{many:?}");
    }
    assert!(of(Beginning::Nothing, 5).steps > of(Beginning::Model, 5).steps);
    assert!(of(Beginning::Nothing, 5).learning_rate > of(Beginning::Model, 5).learning_rate);
    // A full network takes smaller steps than a narrow one.
    assert!(Recipe::of(Beginning::Nothing, 512, 5).learning_rate < of(Beginning::Nothing, 5).learning_rate);

    let recipe = Recipe { learning_rate: 1e-3, warm_up: 10, steps: 110 };
    let schedule = Asked::default().in_steps(&recipe, 11);
    assert_eq!((schedule.epochs, schedule.epoch_steps, schedule.steps(), schedule.order), (11, 10, 110, Order::Endless));
    // Up to the full rate with the tenth step, down to a hundredth of it at the last, in between half of it at half way.
    for (step, expected) in [(0, 1e-4), (4, 5e-4), (9, 1e-3), (10, 1e-3), (109, 1e-5)] {
        assert!((schedule.rate(step) / expected - 1.0).abs() < 1e-9, "step {step}: {} for {expected}", schedule.rate(step));
    }
    let half_way = (schedule.rate(59) + schedule.rate(60)) / 2.0;
    assert!((half_way / (1e-3 * (0.01 + 0.99 / 2.0)) - 1.0).abs() < 1e-3, "{half_way}");
    assert!((10..109).all(|step| schedule.rate(step + 1) < schedule.rate(step)));
    // What is asked for is taken, the rest is the recipe's.
    let asked = Asked { steps: Some(30), learning_rate: Some(7e-4), ..Asked::default() }.in_steps(&recipe, 4);
    assert_eq!((asked.learning_rate, asked.warm_up, asked.epochs, asked.epoch_steps), (7e-4, 6, 4, 8));
    for schedule in [schedule, asked, Asked::default().in_passes(1e-4, 9, 4).0] {
        assert_eq!(Schedule::from_text(&schedule.to_text()), Some(schedule));
    }
    assert_eq!(Schedule::from_text("0.1 0 cosine endless 0 3"), None);
}

#[test]
fn an_endless_row_shows_every_image_equally_often_in_full_steps_and_goes_on_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let few = data(folder.path(), 3, 1);
    let stop = AtomicBool::new(false);
    let schedule = Asked::default().in_steps(&Recipe { learning_rate: 1e-3, warm_up: 0, steps: 9 }, 3);
    let options = RunOptions { batch: 4, schedule, replay: Replay::Apart, judges_start: false };
    let go = |standing: Standing| {
        let (mut parrot, mut watch) = (Parrot::default(), Watch::new(&stop));
        run(&mut parrot, &few, None, &options, standing, &mut watch, &stop).unwrap();
        parrot.seen
    };
    let seen = go(Standing::default());
    assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), [4; 9], "more images in a step than there are");
    let draws = few.endless(0..36);
    assert!((0..3).all(|image| draws.iter().filter(|draw| draw.image == image).count() == 12), "{draws:?}");
    assert_eq!([few.endless(0..10), few.endless(10..36)].concat(), draws);
    // No two of them are the same sample, not even those of one image in one step.
    let mut sums: Vec<u32> = seen.iter().flatten().map(|(_, sum)| sum.to_bits()).collect();
    sums.sort_unstable();
    sums.dedup();
    assert_eq!(sums.len(), 36);
    let position = Position { epoch: 1, step: 2 };
    assert_eq!(go(Standing { position, ..Standing::default() }), seen[5..]);
}

#[test]
fn exemplars_are_replayed_after_every_eighth_step_or_after_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let (many, few, old) = (data(folder.path(), 17, 1), data(folder.path(), 3, 1), data(folder.path(), 3, 2));
    let stop = AtomicBool::new(false);
    let calls = |data: &Data, replay: Option<&Data>| {
        let (mut parrot, mut watch) = (Parrot::default(), Watch::new(&stop));
        let (end, _) = run_all(&mut parrot, data, replay, &run_options(data.len(), 1, 1), &mut watch);
        assert_eq!(end, End::Done);
        parrot.calls.iter().map(|(_, replay, _)| if *replay { 'r' } else { '.' }).collect::<String>()
    };
    assert_eq!(calls(&many, Some(&old)), "........rrr........rrr.");
    assert_eq!(calls(&few, Some(&old)), ".rrr..");
    assert_eq!(calls(&few, None), "...");
    // Batches are never mixed, and no larger than the exemplars are many.
    let (mut parrot, mut watch) = (Parrot::default(), Watch::new(&stop));
    run_all(&mut parrot, &many, Some(&old), &run_options(17, 8, 2), &mut watch);
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
        let options = passes(7, 4 - replay.in_each_step(5, 4), 4, 1, replay);
        run(&mut parrot, &new, Some(&old), &options, Standing { position, ..Standing::default() }, &mut watch, &stop).unwrap();
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

/// Scores where as many random picks reach 0.1.
fn scores(values: &[f64]) -> Vec<Score> {
    values.iter().map(|&value| Score { value, random: 0.1 }).collect()
}

#[test]
fn the_best_is_kept_and_a_nan_ends_it_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path(), 2, 1);
    let stop = AtomicBool::new(false);
    let mut watch = Watch::new(&stop);
    watch.scores = scores(&[0.3, 0.5, 0.5, 0.4]);
    let (_, standing) = run_all(&mut Parrot::default(), &data, None, &run_options(2, 2, 4), &mut watch);
    assert_eq!(watch.saved.iter().map(|saved| saved.is_best).collect::<Vec<_>>(), [true, true, false, false]);
    assert_eq!(standing.best, Some(Best { epoch: 2, value: 0.5, highest: 0.5 }));
    assert_eq!(standing.position, Position { epoch: 4, step: 0 });
    assert_eq!(watch.saved[3].standing, standing);

    let mut broken = Parrot { nan_at: Some(3), ..Parrot::default() };
    let mut watch = Watch::new(&stop);
    let error = run(&mut broken, &data, None, &run_options(2, 1, 4), Standing::default(), &mut watch, &stop).unwrap_err().to_string();
    assert!(error.contains("epoch 2, step 1 of 2") && error.contains("--lr") && error.contains("--resume"), "{error}");
    assert_eq!(watch.saved.len(), 1, "the checkpoint of the first epoch stays the last");
}

#[test]
fn a_later_network_of_the_cosine_is_the_best_if_its_score_is_near_the_highest() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path(), 2, 1);
    let stop = AtomicBool::new(false);
    let go = |values: &[f64], judges_start: bool| {
        let mut watch = Watch::new(&stop);
        watch.scores = scores(values);
        let options = run_options(2, 2, 4);
        let options = RunOptions { judges_start, schedule: Schedule { fall: Fall::Cosine, ..options.schedule }, ..options };
        let (_, standing) = run(&mut Parrot::default(), &data, None, &options, Standing::default(), &mut watch, &stop).unwrap();
        standing.best.map(|best| (best.epoch, best.value, best.highest)).unwrap()
    };
    // What is near is measured from the highest, so that many small steps do not lead down.
    assert_eq!(go(&[0.3, 0.996, 0.993, 0.9905], false), (3, 0.993, 0.996));
    assert_eq!(go(&[0.3, 0.996, 0.98, 0.97], false), (2, 0.996, 0.996));
    // Near the start is not enough.
    assert_eq!(go(&[0.9, 0.899, 0.9, 0.896, 0.8], true), (0, 0.9, 0.9));
    assert_eq!(go(&[0.9, 0.901, 0.904, 0.9005, 0.8], true), (3, 0.9005, 0.904));
}

#[test]
fn the_start_is_judged_as_epoch_0_and_stays_the_best_until_something_beats_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path(), 2, 1);
    let stop = AtomicBool::new(false);
    let go = |values: &[f64], standing: Standing| {
        let mut watch = Watch::new(&stop);
        watch.scores = scores(values);
        let options = RunOptions { judges_start: true, ..run_options(2, 2, 2) };
        let (_, standing) = run(&mut Parrot::default(), &data, None, &options, standing, &mut watch, &stop).unwrap();
        (watch, standing)
    };
    let (watch, standing) = go(&[0.6, 0.4, 0.6], Standing::default());
    assert_eq!(
        (standing.start, standing.best),
        (Some(0.6), Some(Best { epoch: 0, value: 0.6, highest: 0.6 })),
        "an equal score beats nobody"
    );
    assert_eq!(watch.starts, scores(&[0.6]));
    assert_eq!(watch.saved.iter().map(|saved| saved.is_best).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(watch.saved[0].standing.position, Position::default());

    let (_, standing) = go(&[0.6, 0.4, 0.7], Standing::default());
    assert_eq!((standing.start, standing.best), (Some(0.6), Some(Best { epoch: 2, value: 0.7, highest: 0.7 })));

    // A training that goes on has its start behind it.
    let (watch, _) = go(&[0.9], Standing { position: Position { epoch: 1, step: 0 }, ..standing });
    assert!(watch.starts.is_empty() && watch.epochs.len() == 1);
}

#[test]
fn nothing_is_called_the_best_that_is_no_better_than_random_picks() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path(), 2, 1);
    let stop = AtomicBool::new(false);
    let mut watch = Watch::new(&stop);
    // Random picks reach 0.1; of the 0.9 that are left a twentieth is the least that counts.
    watch.scores = scores(&[0.1, 0.05, 0.144, 0.146]);
    let (_, standing) = run_all(&mut Parrot::default(), &data, None, &run_options(2, 2, 4), &mut watch);
    assert_eq!(watch.epochs.iter().map(|epoch| epoch.is_best).collect::<Vec<_>>(), [false, false, false, true]);
    assert_eq!(standing.best, Some(Best { epoch: 4, value: 0.146, highest: 0.146 }));
}

#[test]
fn batches_depend_on_seed_epoch_and_image_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b, other) = (data(folder.path(), 5, 1), data(folder.path(), 5, 1), data(folder.path(), 5, 2));
    assert_eq!(a.steps(3, 0, 2), b.steps(3, 0, 2));
    assert_eq!(a.steps(3, 0, 2).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_ne!(a.steps(3, 0, 2), a.steps(4, 0, 2));
    let both = a.batch(&Draw::of(&[1, 4], 3, 0)).unwrap();
    let alone = b.batch(&Draw::of(&[4], 3, 0)).unwrap();
    assert_eq!(both.images[SIDE * SIDE..], alone.images[..]);
    assert_eq!(both.targets.heat_map[(SIDE / 4).pow(2)..], alone.targets.heat_map[..]);
    assert_ne!(alone, a.batch(&Draw::of(&[4], 4, 0)).unwrap());
    assert_ne!(alone, other.batch(&Draw::of(&[4], 3, 0)).unwrap());
}

/// A network so narrow that a step takes milliseconds.
const TINY: Architecture = Architecture { channels: [4, 4, 8, 8, 16, 16], head: 8 };

fn trainer(state: &StateDict) -> Trainer {
    Trainer::new(&Device::Cpu, TINY, state, TrainerOptions::new(Kind::Particle, 2, [SIDE; 2]), None).unwrap()
}

#[test]
fn a_training_stopped_within_an_epoch_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path(), 5, 1);
    let start = fresh::state_dict(TINY, 1);
    let stop = AtomicBool::new(false);
    let mut watch = Watch::new(&stop);
    let mut unbroken = trainer(&start);
    assert_eq!(run_all(&mut unbroken, &data, None, &run_options(5, 2, 3), &mut watch).0, End::Done);
    assert!(watch.epochs.iter().all(|epoch| epoch.losses.total.is_finite()));

    // Stopped after the second step of the second epoch, and after the last step of the first.
    for (stop_after, position) in [(5, Position { epoch: 1, step: 2 }), (3, Position { epoch: 1, step: 0 })] {
        stop.store(false, Ordering::Relaxed);
        let mut watch = Watch::new(&stop);
        watch.stop_after = Some(stop_after);
        let mut broken = trainer(&start);
        let (end, _) = run_all(&mut broken, &data, None, &run_options(5, 2, 3), &mut watch);
        assert_eq!((end, watch.saved.last().unwrap().standing.position), (End::Stopped, position));
        let schedule = Some(run_options(5, 2, 3).schedule);
        let terms = checkpoint::Terms {
            fingerprint: "as_before".to_owned(),
            frame: 64,
            side_n: 32,
            batch: Some(2),
            schedule,
            keeps_statistics: false,
        };
        checkpoint::save(folder.path(), checkpoint::LAST, watch.saved.last().unwrap(), &Default::default(), &terms).unwrap();

        stop.store(false, Ordering::Relaxed);
        let resumed = checkpoint::load(&folder.path().join("model_last.pth")).unwrap();
        assert_eq!((resumed.standing.position, resumed.terms.as_ref()), (position, Some(&terms)));
        let mut goes_on = trainer(&resumed.state);
        goes_on.set_adam(&resumed.adam).unwrap();
        run(&mut goes_on, &data, None, &run_options(5, 2, 3), resumed.standing, &mut Watch::new(&stop), &stop).unwrap();
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
        let common = ["train", "--data", &mics, "--exp_id", &exp_id, "--frame", "128", "--input_res", "128", "--batch_size", "2"];
        let common = [&common[..], &["--lr", "1e-4", "--lr_step", "70,90", "--diameter", "24"]].concat();
        let result = epicker(&[&common[..], more].concat());
        (result.status.code(), String::from_utf8_lossy(&result.stdout).into_owned(), String::from_utf8_lossy(&result.stderr).into_owned())
    };
    let (status, stdout, stderr) = train("whole", &["--num_epoch", "2"]);
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stdout.contains("4 micrographs train, 0 validate, 1 test"), "{stdout}");
    assert!(stdout.contains("chosen on the test part") && stdout.contains("epoch 2: loss"), "{stdout}");
    let whole = folder.path().join("whole");
    for name in ["model_last.pth", "model_last.safetensors", "model_best.pth", "eval.json", "PR.svg", "loss.svg", "AP.svg", "opt.txt"] {
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
    assert!(stdout.contains("392 of 392 tensors taken") && stdout.contains("neither a validation nor a test part"), "{stdout}");
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
    let common =
        ["train", "--data", &mics, "--exp_id", &exp_id, "--frame", "64", "--diameter", "24", "--num_epoch", "1", "--train_pct", "100"];
    let result = epicker(&[&common[..], &widths].concat());
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
    let model = ModelSource::file(exp.join("model_last.safetensors")).load(Model::from_state).unwrap();
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
    let stopped = checkpoint::load(&exp.join("model_last.pth")).unwrap().standing.position;
    let epochs = (stopped.epoch + 1).to_string();
    let result = epicker(&[&common[..], &["--num_epoch", &epochs, "--train_pct", "100", "--resume"]].concat());
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
    let told = String::from_utf8_lossy(&result.stdout).into_owned();
    assert!(told.contains(&format!("going on after epoch {}, step {}", stopped.epoch, stopped.step)), "{told}");
    assert_eq!(checkpoint::load(&exp.join("model_last.pth")).unwrap().standing.position, Position { epoch: stopped.epoch + 1, step: 0 });
}
