//! Picking on GPUs made of the host's processor: what the run asks of one, and how several share the work.

use super::network::{device, golden, host};
use anyhow::Context;
use epicker::ahead::ahead;
use epicker::compat::Compat;
use epicker::device::Device;
use epicker::formats::candidates::Candidate;
use epicker::formats::coordinates::Kind;
use epicker::formats::image::{ReadOptions, Sections};
use epicker::io::model_source::ModelSource;
use epicker::net::{Model, PeakFinder, PeakFinderOptions};
use epicker::ops::Compute;
use epicker::pick::decode::candidates;
use epicker::pick::filter::Limits;
use epicker::pick::output::{Helix, OutputRule, OutputType, Tracer};
use epicker::pick::run::{self, Found, Input, Job, Seen, Source, Told};
use epicker::pick::settings::{Settings, WrittenSide};
use epicker::pick::slots::Slots;
use epicker::pick::workers::{Named, Workers};
use epicker::preprocess::ground::Ground;
use epicker::preprocess::scale::{FixedBy, Scale};
use hostgpu::{Build, Calls, HostGpu};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn with_loaders<'a>(loaders: usize, devices: &[&Device], model: &'a Model) -> Workers<'a> {
    let named: Vec<Named> = devices.iter().enumerate().map(|(i, device)| (format!("GPU {i}"), Compute::from(*device))).collect();
    Workers::with_loaders(loaders, &named, model, true, 100).unwrap()
}

/// Small micrographs of several types and shapes; one of equal pixels, one of NaN.
fn micrographs(folder: &Path) -> Vec<Job> {
    let pixels = |size: [usize; 2]| crate::common::micrographs::small_pixels("gpu", size);
    let of_f32 = |pixels: Vec<f32>| pixels.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let of_i16 = |pixels: Vec<f32>| pixels.iter().flat_map(|x| ((100.0 * x) as i16).to_le_bytes()).collect::<Vec<u8>>();
    let mut hot = pixels([170, 200]);
    (hot[77], hot[20_000]) = (1e6, f32::NAN);
    let files = [
        ("floats", [200, 170], 2, of_f32(pixels([200, 170]))),
        ("words", [200, 170], 1, of_i16(pixels([200, 170]))),
        ("equal", [64, 64], 2, of_f32(vec![3.5; 64 * 64])),
        ("hot", [170, 200], 2, of_f32(hot)),
        ("nan", [64, 64], 2, of_f32(vec![f32::NAN; 64 * 64])),
        ("again", [200, 170], 2, of_f32(pixels([200, 170]))),
    ];
    let job = |(name, size, mode, bytes): (&str, [usize; 2], i32, Vec<u8>)| {
        let path = folder.join(format!("{name}.mrc"));
        std::fs::write(&path, crate::common::micrographs::mrc(size, mode, 1.5, &bytes)).unwrap();
        let (name, output) = (name.to_string(), folder.join(format!("{name}.thi")));
        Job {
            input: Input { path, name, sections: Sections::Mean, known: Default::default() },
            output,
            candidates: None,
            picture: None,
            entry: None,
            outdated: Vec::new(),
        }
    };
    files.into_iter().map(job).collect()
}

const PICK_FRAME: usize = 256;

fn settings() -> Settings {
    let limits = Limits { k: 500, vis_thresh: 0.3, edge: 0.0, min_distance: 0.0 };
    let rule = OutputRule {
        kind: Kind::Particle,
        output_type: OutputType::Thi,
        subpixel: true,
        ang_thresh_rad: 0.3,
        tracer: Tracer::default(),
        helix: Helix::StartEnd,
        compat: Compat::default(),
    };
    Settings {
        ground: Ground::Levelled { sigma_px: 24.0 },
        views: Default::default(),
        limits,
        distance_sides: None,
        in_angstrom: Default::default(),
        rule,
        scale: Scale::Fixed { frame: PICK_FRAME, by: FixedBy::User },
        side_n_px: 19.0,
        written_side: WrittenSide::OfNetwork,
        read: ReadOptions::default(),
        floor: 0.3,
        cap: 500,
        suffix: String::new(),
        model: Default::default(),
        is_shown: false,
        report: None,
    }
}

/// Candidates and warnings of a micrograph, or what is wrong with it.
type Picked = Result<(Vec<Candidate>, Vec<String>), String>;

/// What every micrograph gives above 0.3, the way of `epicker pick`.
fn picked(device: &Device, jobs: &[Job]) -> Vec<Picked> {
    let model = ModelSource::file(golden("models/trained.pth")).load(Model::from_state).unwrap();
    let mut picker =
        PeakFinder::new(device, &model, PeakFinderOptions { frame: PICK_FRAME, sizes: false, k: 500, views: Default::default() }).unwrap();
    let slots = picker.gpu().map(|gpu| Slots::new(gpu, 2).unwrap());
    let (settings, mut all) = (settings(), Vec::new());
    ahead(
        jobs,
        1,
        |job| run::prepare(&job.input, settings.sight(), slots.as_ref()),
        |next| {
            let Some((job, ready)) = next else { return ControlFlow::<()>::Continue(()) };
            let one = ready.and_then(|mut ready| {
                let peaks = ready.peaks(&mut picker).with_context(|| job.input.path.display().to_string())?;
                run::finish(job, &ready, &peaks, &settings)?;
                let found = candidates(&peaks, &ready.geometry(), &Compat::default());
                Ok((found.into_iter().filter(|pick| pick.score > 0.3).collect(), ready.warnings))
            });
            all.push(one.map_err(|error: anyhow::Error| format!("{error:#}")));
            ControlFlow::Continue(())
        },
    );
    all
}

#[test]
fn picks_of_micrographs_that_the_gpu_prepares_are_the_cpus() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = micrographs(folder.path());
    let (expected, found) = (picked(&Device::Cpu, &jobs), picked(&device(Build::Fast), &jobs));
    assert_eq!(found.len(), jobs.len());
    for ((job, expected), found) in jobs.iter().zip(&expected).zip(&found) {
        let ((expected, said), (found, found_said)) = match (expected, found) {
            (Ok(expected), Ok(found)) => (expected, found),
            (expected, found) => {
                assert_eq!(found.as_ref().err(), expected.as_ref().err(), "{}", job.input.name);
                assert_eq!(job.input.name, "nan");
                continue;
            }
        };
        assert_eq!(found_said, said, "{}", job.input.name);
        assert_eq!(expected.is_empty(), job.input.name == "equal", "{}: {} picks", job.input.name, expected.len());
        assert_eq!(found.len(), expected.len(), "{}", job.input.name);
        for pick in expected {
            let near = |other: &&Candidate| (other.x - pick.x).abs() <= 0.5 && (other.y - pick.y).abs() <= 0.5;
            let other = found.iter().find(near).unwrap_or_else(|| panic!("{}: {pick:?} was not picked", job.input.name));
            assert!((other.score - pick.score).abs() <= 1e-3, "{}: {other:?}, expected {pick:?}", job.input.name);
        }
    }
    // A stopped batch leaves no place taken: whoever waits for one goes on.
    let model = ModelSource::file(golden("models/trained.pth")).load(Model::from_state).unwrap();
    let picker = PeakFinder::new(
        &device(Build::Fast),
        &model,
        PeakFinderOptions { frame: PICK_FRAME, sizes: false, k: 500, views: Default::default() },
    )
    .unwrap();
    let slots = Slots::new(picker.gpu().unwrap(), 2).unwrap();
    let prepare = |job: &Job| run::prepare(&job.input, settings().sight(), Some(&slots)).map(|_| ());
    ahead(&jobs, 1, |job| prepare(job), |next| if next.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
    let kept = |job: &Job| run::prepare(&job.input, settings().sight(), Some(&slots));
    ahead(&jobs, 1, |job| kept(job), |next| if next.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
}

/// Keeps what it is told, after `look` was called with the number of micrographs that were finished before.
struct Looking<F: FnMut(usize)> {
    look: F,
    told: Vec<String>,
}

impl<F: FnMut(usize)> Told for Looking<F> {
    fn finished(&mut self, job: &Job, _: &Seen, _: &Found) {
        (self.look)(self.told.len());
        self.told.push(format!("{} is finished", job.input.name));
    }

    fn failed(&mut self, job: &Job, error: &anyhow::Error) {
        self.told.push(format!("{}: {error:#}", job.input.name));
    }
}

/// Micrographs, without the one that cannot be picked, some times over.
fn many(folder: &Path, times: usize) -> Vec<Job> {
    let jobs: Vec<Job> = micrographs(folder).into_iter().filter(|job| job.input.name != "nan").collect();
    jobs.iter().cycle().take(times * jobs.len()).cloned().collect()
}

#[test]
fn a_gpu_that_fails_for_good_ends_a_batch_after_one_failure() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = many(folder.path(), 3);
    for loaders in [1, 4] {
        let (device, host) = host(Build::Fast);
        let model = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
        let mut workers = with_loaders(loaders, &[&device], &model);
        let mut told = Looking { look: |_| (), told: Vec::new() };
        // It fails while the sixth micrograph is put on its way, and some of those before may be under way.
        let failing = jobs.iter().cloned().enumerate().inspect(|(i, _)| {
            if *i == 5 {
                host.fail("an illegal address")
            }
        });
        let source = Source { jobs: Box::new(failing.map(|(_, job)| job)), is_stopped: &|| false };
        let end = run::run(source, &mut workers, &settings(), &mut told);
        let (last, before) = told.told.split_last().unwrap();
        assert!(before.len() <= 5 && before.iter().all(|line| line.ends_with("is finished")), "{:?}", told.told);
        assert!(last.ends_with("the device has failed before: an illegal address"), "{last}");
        let end = format!("{:#}", end.unwrap_err());
        assert!(end.starts_with("the GPU has failed, and nothing can be done with it in this run"), "{end}");
    }
}

#[test]
fn the_gpu_goes_on_while_files_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = many(folder.path(), 3);
    let (device, host) = host(Build::Fast);
    let model = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
    let mut workers = with_loaders(2, &[&device], &model);
    let mut launched = 0;
    // While the files of the fourth micrograph are still being written, the graphs of two more are launched: the test waits for them.
    let look = |finished: usize| {
        for _ in 0..if finished == 3 { 60_000 } else { 1 } {
            launched += host.take_calls().graph_launches;
            if launched >= 5 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // The first image of a network runs step by step.
        assert!(finished != 3 || launched >= 5, "{launched} graphs after a minute");
    };
    let mut told = Looking { look, told: Vec::new() };
    run::run(Source::list(&jobs, &|| false), &mut workers, &settings(), &mut told).unwrap();
    let expected: Vec<String> = jobs.iter().map(|job| format!("{} is finished", job.input.name)).collect();
    assert_eq!(told.told, expected);
}

#[test]
fn picks_are_the_same_for_every_number_of_loaders() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = many(folder.path(), 1);
    let model = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
    let files = |device: &Device, loaders: usize| -> Vec<Vec<u8>> {
        let mut workers = with_loaders(loaders, &[device], &model);
        let mut told = Looking { look: |_| (), told: Vec::new() };
        run::run(Source::list(&jobs, &|| false), &mut workers, &settings(), &mut told).unwrap();
        jobs.iter().map(|job| std::fs::read(&job.output).unwrap()).collect()
    };
    for device in [Device::Cpu, device(Build::Fast)] {
        let one = files(&device, 1);
        assert!(one.iter().any(|file| !file.is_empty()) && one == files(&device, 5), "{device:?}");
    }
}

#[test]
fn a_micrograph_costs_a_graph_an_upload_and_one_wait() {
    let folder = tempfile::tempdir().unwrap();
    let job = &micrographs(folder.path())[0];
    let (device, host) = host(Build::Fast);
    let model = ModelSource::file(golden("models/tiny.safetensors")).load(Model::from_state).unwrap();
    let mut picker =
        PeakFinder::new(&device, &model, PeakFinderOptions { frame: PICK_FRAME, sizes: false, k: 100, views: Default::default() }).unwrap();
    let slots = Slots::new(picker.gpu().unwrap(), 2).unwrap();
    let mut one = || {
        let mut ready = run::prepare(&job.input, settings().sight(), Some(&slots)).unwrap();
        let prepared = host.take_calls();
        let peaks = ready.peaks(&mut picker).unwrap();
        (prepared, host.take_calls(), peaks)
    };
    // Both places, and the network step by step, then captured.
    let first = one().2;
    (0..3).for_each(|_| drop(one()));
    let (prepared, picked, peaks) = one();
    // The file's pixels go up, and nobody waits for what is done with them.
    assert_eq!(prepared, Calls { uploads: 1, launches: prepared.launches, ..Calls::default() });
    assert!((20..40).contains(&prepared.launches), "{} launches", prepared.launches);
    // The survey comes back beside what the graph brings.
    assert_eq!(picked, Calls { graph_launches: 1, downloads: 1, synchronisations: 1, ..Calls::default() });
    assert!(!peaks.is_empty() && peaks == first);
}

/// The files of some micrographs, coordinates and candidates, and what was told of them and of lost devices.
#[derive(Debug, PartialEq)]
struct Files {
    bytes: Vec<[Vec<u8>; 2]>,
    told: Vec<String>,
}

fn small_model() -> Model {
    ModelSource::file(golden("models/trained.pth")).load(Model::from_state).unwrap()
}

/// Picks the micrographs on so many GPUs; `look` is asked before each micrograph is dealt out.
fn shared(kind: Kind, times: usize, gpus: usize, look: impl Fn(usize, &[Arc<HostGpu>]) + Sync) -> (Files, Vec<String>, anyhow::Result<()>) {
    let folder = tempfile::tempdir().unwrap();
    let candidates = |job: Job| Job { candidates: Some(job.output.with_extension("star")), ..job };
    let jobs: Vec<Job> = micrographs(folder.path()).into_iter().map(candidates).collect();
    // Each micrograph some times over, under names of its own.
    let numbered = |(i, job): (usize, &Job)| {
        let own = |path: &Path| path.with_file_name(format!("{i}-{}", path.file_name().unwrap().display()));
        Job { output: own(&job.output), candidates: job.candidates.as_deref().map(own), ..job.clone() }
    };
    let jobs: Vec<Job> = jobs.iter().cycle().take(times * jobs.len()).enumerate().map(numbered).collect();
    let (devices, hosts): (Vec<Device>, Vec<Arc<HostGpu>>) = (0..gpus).map(|_| host(Build::Fast)).unzip();
    let model = small_model();
    let mut workers = with_loaders(2, &devices.iter().collect::<Vec<_>>(), &model);
    let base = settings();
    let settings = Settings { rule: OutputRule { kind, ..base.rule.clone() }, ..base };
    let mut told = Looking { look: |_| (), told: Vec::new() };
    let dealt = jobs.iter().cloned().enumerate().inspect(|(i, _)| look(*i, &hosts)).map(|(_, job)| job);
    let end = run::run(Source { jobs: Box::new(dealt), is_stopped: &|| false }, &mut workers, &settings, &mut told);
    let bytes = |job: &Job| [Some(&job.output), job.candidates.as_ref()].map(|path| std::fs::read(path.unwrap()).unwrap_or_default());
    // Temporary folders have names of their own.
    let name = folder.path().display().to_string();
    let told = told.told.into_iter().map(|line| line.replace(&name, "FOLDER")).collect();
    let without = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&name, "FOLDER").into_bytes();
    let timeless = |bytes: Vec<u8>| {
        let text = String::from_utf8(without(bytes)).unwrap();
        text.lines().filter(|line| !line.contains("MicrographTime")).collect::<Vec<_>>().join("\n").into_bytes()
    };
    let bytes = jobs.iter().map(bytes).map(|[picks, candidates]| [without(picks), timeless(candidates)]).collect();
    (Files { bytes, told }, workers.take_losses(), end)
}

#[test]
fn four_gpus_write_the_files_of_one() {
    for kind in [Kind::Particle, Kind::Vesicle, Kind::Fiber] {
        let (one, _, end) = shared(kind, 1, 1, |_, _| ());
        end.unwrap();
        assert_eq!(one.told.iter().filter(|line| line.ends_with("is finished")).count(), 5, "{:?}", one.told);
        let lines = |file: &Vec<u8>| file.split(|byte| *byte == b'\n').count();
        // One micrograph has pixels of one value, so nothing but the head of its file, and one cannot be read. The little model's points
        // make no fibers.
        let has_picks = |[picks, candidates]: &&[Vec<u8>; 2]| lines(candidates) > 40 && (lines(picks) > 4 || kind == Kind::Fiber);
        assert_eq!(one.bytes.iter().filter(has_picks).count(), 4, "{kind}");
        let (four, lost, end) = shared(kind, 1, 4, |_, _| ());
        end.unwrap();
        assert!(four == one && lost.is_empty(), "{kind}: {lost:?}");
    }
}

#[test]
fn what_a_failed_gpu_leaves_is_done_by_the_others() {
    let (one, _, _) = shared(Kind::Particle, 2, 1, |_, _| ());
    let mut all_lost = Vec::new();
    for first in [0, 4] {
        // One fails when it has begun with micrographs, and another one later.
        let failing = |i: usize, hosts: &[Arc<HostGpu>]| {
            if i == first {
                hosts[1].fail("an illegal address");
            }
            if i == first + 3 {
                hosts[0].fail("it has fallen off the bus");
            }
        };
        let (three, lost, end) = shared(Kind::Particle, 2, 3, failing);
        end.unwrap();
        assert!(three == one, "{:?}", three.told);
        all_lost.extend(lost);
    }
    // Whether one that has failed gets another micrograph is a matter of chance, but not in both runs.
    for (name, why) in [("GPU 0", "it has fallen off the bus"), ("GPU 1", "an illegal address")] {
        let told = |loss: &String| loss.starts_with(&format!("{name} has failed, and the others have done")) && loss.contains(why);
        assert!(all_lost.iter().any(told), "{name}: {all_lost:?}");
    }
}

#[test]
fn a_run_ends_when_its_last_gpu_fails() {
    let failing = |i: usize, hosts: &[Arc<HostGpu>]| {
        if i == 3 || i == 9 {
            hosts[usize::from(i > 3)].fail("an illegal address");
        }
    };
    let (files, lost, end) = shared(Kind::Particle, 3, 2, failing);
    assert!(format!("{:#}", end.unwrap_err()).starts_with("the GPU has failed, and nothing can be done with it in this run"));
    assert_eq!(lost.len(), 1, "{lost:?}");
    let failed = files.told.iter().filter(|line| line.ends_with("the device has failed before: an illegal address"));
    assert_eq!(failed.count(), 1, "{:?}", files.told);
    assert!(files.told.len() < 15, "{:?}", files.told);
}

#[test]
fn several_gpus_stop_when_they_are_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = many(folder.path(), 3);
    let (devices, _hosts): (Vec<Device>, Vec<Arc<HostGpu>>) = (0..3).map(|_| host(Build::Fast)).unzip();
    let model = small_model();
    let mut workers = with_loaders(1, &devices.iter().collect::<Vec<_>>(), &model);
    let finished = AtomicUsize::new(0);
    let mut told = Looking { look: |before| finished.store(before + 1, Ordering::Relaxed), told: Vec::new() };
    let is_stopped = || finished.load(Ordering::Relaxed) >= 4;
    run::run(Source::list(&jobs, &is_stopped), &mut workers, &settings(), &mut told).unwrap();
    // Those in hand were finished, and the devices work in the next run.
    assert!((4..jobs.len()).contains(&told.told.len()), "{:?}", told.told);
    let mut again = Looking { look: |_| (), told: Vec::new() };
    run::run(Source::list(&jobs, &|| false), &mut workers, &settings(), &mut again).unwrap();
    let expected: Vec<String> = jobs.iter().map(|job| format!("{} is finished", job.input.name)).collect();
    assert_eq!(again.told, expected);
}
