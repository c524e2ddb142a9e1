//! From micrographs to files against the original's pick script: all of its stored runs, and each mend with both sides.

use crate::common::fixtures::{Run, golden, runs};
use crate::common::micrographs;
use epicker::compat::{Compat, FAULTS, Fault};
use epicker::device::Device;
use epicker::formats::coordinates::Kind;
use epicker::formats::image::{ReadOptions, Sections};
use epicker::io::model_source::ModelSource;
use epicker::net::{Model, PeakFinder, PeakFinderOptions};
use epicker::ops::heat_map::Peak;
use epicker::pick::filter::Limits;
use epicker::pick::output::{Helix, OutputRule, OutputType, Tracer};
use epicker::pick::run::{Input, Job, Ready, finish, prepare};
use epicker::pick::settings::{Settings, WrittenSide};
use epicker::preprocess::scale::{FixedBy, Scale};
use sha2::Digest;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A micrograph that went through the network once; the runs differ only in what follows.
struct Picked {
    ready: Ready,
    peaks: Vec<Peak>,
}

fn job(path: PathBuf, output: PathBuf) -> Job {
    let name = path.display().to_string();
    Job {
        input: Input { path, name, sections: Sections::Mean, known: Default::default() },
        output,
        candidates: None,
        picture: None,
        entry: None,
        outdated: Vec::new(),
    }
}

fn settings(run: &Run, compat: Compat) -> Settings {
    let value = |name: &str, default: f64| run.value(name).map_or(default, |text| text.parse().unwrap());
    Settings {
        ground: Default::default(),
        views: Default::default(),
        limits: Limits {
            k: value("--K", 2000.0) as usize,
            vis_thresh: value("--vis_thresh", 0.0) as f32,
            edge: value("--edge", 25.0),
            min_distance: value("--min_distance", 0.0),
        },
        rule: OutputRule {
            kind: run.value("--mode").map_or(Kind::Particle, |mode| mode.parse::<Kind>().unwrap()),
            output_type: run.value("--output_type").unwrap_or("thi").parse().unwrap(),
            subpixel: false,
            ang_thresh_rad: value("--ang_thresh", 0.3),
            tracer: Tracer::Legacy,
            helix: Helix::StartEnd,
            compat,
        },
        distance_sides: None,
        in_angstrom: Default::default(),
        scale: Scale::Fixed { frame: 1024, by: FixedBy::User },
        side_n_px: 19.0,
        written_side: WrittenSide::OfNetwork,
        read: ReadOptions::default(),
        floor: 0.0,
        cap: 4000,
        suffix: String::new(),
        model: Default::default(),
        is_shown: false,
        report: None,
    }
}

/// The four micrographs as the original saw them.
fn picked() -> &'static BTreeMap<String, Picked> {
    static PICKED: OnceLock<BTreeMap<String, Picked>> = OnceLock::new();
    PICKED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let model = ModelSource::file(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/trained.pth")))
            .load(Model::from_state)
            .unwrap();
        let mut picker =
            PeakFinder::new(&Device::Cpu, &model, PeakFinderOptions { frame: 1024, sizes: true, k: 2000, views: Default::default() })
                .unwrap();
        let any_run = runs().runs.values().next().unwrap();
        let pick = |(letter, recipe): (&String, &crate::common::fixtures::MicrographRecipe)| {
            let bytes = micrographs::of_recipe(recipe);
            let sha256: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(sha256, recipe.sha256, "the formula makes another micrograph {letter}");
            let path = folder.path().join(format!("{}.mrc", recipe.name));
            std::fs::write(&path, bytes).unwrap();
            let ready = prepare(&job(path, PathBuf::new()).input, settings(any_run, Compat::all()).sight(), None).unwrap();
            let mut peaks = picker.run(ready.image()).unwrap();
            if letter != "c" {
                peaks.iter_mut().for_each(|peak| peak.size = None); // only c is for vesicles
            }
            (letter.clone(), Picked { ready, peaks })
        };
        runs().micrographs.iter().map(pick).collect()
    })
}

/// The text that a run writes for a micrograph.
fn text_of(letter: &str, settings: &Settings) -> String {
    let folder = tempfile::tempdir().unwrap();
    let Picked { ready, peaks } = &picked()[letter];
    let output = folder.path().join("out");
    finish(&job(PathBuf::from(letter), output.clone()), ready, peaks, settings).unwrap();
    std::fs::read_to_string(output).unwrap()
}

fn original(name: &str, letter: &str, run: &Run) -> String {
    let stem = &runs().micrographs[letter].name;
    let bytes = golden(&format!("out/{name}/{stem}.{}", run.value("--output_type").unwrap_or("thi")));
    String::from_utf8(bytes).unwrap()
}

/// The rows of numbers.
fn rows(text: &str) -> Vec<Vec<f64>> {
    let numbers = |line: &str| line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<f64>>>();
    text.lines().filter_map(numbers).filter(|row| row.len() > 1).collect()
}

/// Rows of either list that have no partner in the other: coordinates within `px`, scores within 1e-3.
fn unmatched(ours: &[Vec<f64>], theirs: &[Vec<f64>], px: f64, has_score: bool) -> Vec<Vec<f64>> {
    let fits = |a: &Vec<f64>, b: &Vec<f64>| {
        let places = a.len() - usize::from(has_score);
        (0..places).all(|i| (a[i] - b[i]).abs() <= px) && a[places..].iter().zip(&b[places..]).all(|(a, b)| (a - b).abs() <= 1e-3)
    };
    // A pick at the very limit of what is compared may have its partner just below it.
    let counts = |row: &&Vec<f64>| !has_score || row[row.len() - 1] > 0.101;
    let lone = |from: &[Vec<f64>], others: &[Vec<f64>]| -> Vec<Vec<f64>> {
        from.iter().filter(counts).filter(|row| !others.iter().any(|other| fits(row, other))).cloned().collect()
    };
    [lone(ours, theirs), lone(theirs, ours)].concat()
}

#[test]
fn picks_above_a_tenth_are_the_originals() {
    for (name, run) in runs().runs.iter().filter(|(_, run)| run.value("--mode") != Some("fiber")) {
        for letter in &run.micrographs {
            let (ours, theirs) = (text_of(letter, &settings(run, Compat::all())), original(name, letter, run));
            let has_score = matches!(run.value("--output_type"), None | Some("thi" | "star"));
            let (ours, theirs) = (rows(&ours), rows(&theirs));
            assert!(theirs.len() > 20);
            assert_eq!(unmatched(&ours, &theirs, 1.0, has_score), Vec::<Vec<f64>>::new(), "{name} {letter}");
        }
    }
}

#[test]
fn a_constant_of_100_sigma_changes_no_pick() {
    let settings = settings(&runs().runs["vesicle_thi"], Compat::default());
    let model = ModelSource::file(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/trained.pth")))
        .load(Model::from_state)
        .unwrap();
    let mut picker =
        PeakFinder::new(&Device::Cpu, &model, PeakFinderOptions { frame: 1024, sizes: true, k: 2000, views: Default::default() }).unwrap();
    let mut bytes = micrographs::of_recipe(&runs().micrographs["c"]);
    let folder = tempfile::tempdir().unwrap();
    let mut picks = |bytes: &[u8]| {
        let job = job(folder.path().join("c.mrc"), folder.path().join("c.thi"));
        std::fs::write(&job.input.path, bytes).unwrap();
        let ready = prepare(&job.input, settings.sight(), None).unwrap();
        let peaks = picker.run(ready.image()).unwrap();
        finish(&job, &ready, &peaks, &settings).unwrap();
        rows(&std::fs::read_to_string(&job.output).unwrap())
    };
    let before = picks(&bytes);
    let values: Vec<f32> = bytes[1024..].chunks(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect();
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
    let sigma = (values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    for (to, value) in bytes[1024..].chunks_mut(4).zip(&values) {
        to.copy_from_slice(&((f64::from(*value) + 100.0 * sigma) as f32).to_le_bytes());
    }
    assert!(before.len() > 20, "{} picks", before.len());
    assert_eq!(unmatched(&before, &picks(&bytes), 1e-9, true), Vec::<Vec<f64>>::new());
}

#[test]
fn files_without_picks_in_doubt_are_equal_to_the_originals_but_for_last_digits() {
    // Scores differ in the last of six decimals, so they are cut to three.
    let cut = |text: &str| -> Vec<String> {
        let word = |word: &str| if word.starts_with("0.") { word.get(..5).unwrap_or(word).to_string() } else { word.to_string() };
        let mut lines: Vec<String> = text.lines().map(|line| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")).collect();
        lines.sort();
        lines
    };
    for name in ["particle_v03_min20", "particle_box", "particle_coord", "vesicle_box"] {
        let run = &runs().runs[name];
        for letter in &run.micrographs {
            let ours = cut(&text_of(letter, &settings(run, Compat::all())));
            let theirs = cut(&original(name, letter, run));
            let differing = ours.iter().filter(|line| !theirs.contains(line)).count();
            assert!(ours.len() == theirs.len() && differing * 50 <= ours.len(), "{name} {letter}: {differing} lines differ");
        }
    }
}

/// Points every pixel along the polylines of a fiber file.
fn along(text: &str) -> Vec<[f64; 2]> {
    let vertices = rows(text);
    let mut points = Vec::new();
    for pair in vertices.windows(2).filter(|pair| pair[0][2] == pair[1][2]) {
        let (dx, dy) = (pair[1][0] - pair[0][0], pair[1][1] - pair[0][1]);
        let steps = dx.hypot(dy).ceil().max(1.0);
        points.extend((0..steps as usize).map(|i| [pair[0][0] + dx * i as f64 / steps, pair[0][1] + dy * i as f64 / steps]));
    }
    points
}

#[test]
fn fibers_agree_along_their_length() {
    for (name, run) in runs().runs.iter().filter(|(_, run)| run.value("--mode") == Some("fiber")) {
        let (ours, theirs) = (along(&text_of("d", &settings(run, Compat::all()))), along(&original(name, "d", run)));
        assert!(theirs.len() > 500);
        for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
            let near = from.iter().filter(|a| to.iter().any(|b| (a[0] - b[0]).hypot(a[1] - b[1]) <= 3.0)).count();
            // Faint picks (score below 0.1) differ by a few, and the run without a threshold links them too.
            let share = near as f64 / from.len() as f64;
            assert!(share >= 0.95, "{name}: {share}");
        }
    }
}

#[test]
fn all_faults_by_name_are_the_same_as_all() {
    let names: Vec<Fault> = FAULTS.iter().map(|(_, fault)| *fault).collect();
    for (name, letter) in [("particle_thi_v01", "a"), ("particle_box", "b"), ("vesicle_thi", "c"), ("fiber_ang03", "d")] {
        let run = &runs().runs[name];
        let (by_name, all) = (text_of(letter, &settings(run, Compat::only(&names))), text_of(letter, &settings(run, Compat::all())));
        let (by_name, all) = (rows(&by_name), rows(&all));
        let differing = by_name.iter().filter(|row| !all.contains(row)).count();
        // The one difference that has no name: f64 and one rounding here, the original's f32 steps there.
        assert!(by_name.len() == all.len() && differing * 50 <= all.len(), "{name}: {differing} of {} differ", all.len());
    }
}

/// Rows of one run with and without one fault.
fn both_sides(name: &str, letter: &str, fault: Fault) -> [String; 2] {
    let run = &runs().runs[name];
    [Compat::default(), Compat::only(&[fault])].map(|compat| text_of(letter, &settings(run, compat)))
}

#[test]
fn edge_y_lets_picks_nearer_to_the_upper_and_lower_border() {
    // 1100 x 1000: a margin of 60 + 9.5 pixels of the 1024-wide image is 74.7 here; the original's is 5.9 less in y.
    let [ours, theirs] = both_sides("particle_edge60", "a", Fault::EdgeY).map(|text| rows(&text));
    let margin = |rows: &[Vec<f64>]| rows.iter().map(|row| row[1].min(1000.0 - row[1])).fold(f64::MAX, f64::min);
    assert!(margin(&ours) > 74.0 && (68.0..=74.0).contains(&margin(&theirs)), "{} {}", margin(&ours), margin(&theirs));
    assert!(ours.len() < theirs.len() && ours.iter().all(|row| theirs.contains(row)));
    // 1050 x 1250: here the original's is wider.
    let [ours, theirs] = both_sides("particle_edge60", "b", Fault::EdgeY).map(|text| rows(&text));
    assert!(theirs.len() < ours.len() && theirs.iter().all(|row| ours.contains(row)));
}

#[test]
fn y_scale_shortens_y() {
    // 1200 x 1024: frame D has 873 rows of 873.8, so the original's y is 0.1 % short, a pixel at the bottom.
    let run = &runs().runs["fiber_ang03"];
    let mut points = settings(run, Compat::default());
    points.rule.kind = Kind::Particle;
    points.rule.subpixel = true;
    let ours = rows(&text_of("d", &points));
    points.rule.compat = Compat::only(&[Fault::YScale]);
    let theirs = rows(&text_of("d", &points));
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours[0], theirs[0]);
        assert!((theirs[1] - ours[1] * 873.0 / (1024.0 * 1024.0 / 1200.0)).abs() < 0.02, "{ours:?} {theirs:?}");
    }
}

#[test]
fn trunc_cuts_what_is_otherwise_rounded() {
    let run = &runs().runs["particle_thi_v01"];
    let mut exact = settings(run, Compat::default());
    exact.rule.subpixel = true;
    let exact = rows(&text_of("a", &exact));
    let [ours, theirs] = both_sides("particle_thi_v01", "a", Fault::Trunc).map(|text| rows(&text));
    for ((exact, ours), theirs) in exact.iter().zip(&ours).zip(&theirs) {
        for i in 0..2 {
            // Two decimals were written of the exact value.
            assert!((exact[i] - ours[i]).abs() <= 0.51 && exact[i] - theirs[i] >= -0.01 && exact[i] - theirs[i] <= 1.01);
        }
    }
    assert!(ours.iter().zip(&theirs).any(|(ours, theirs)| ours != theirs));
}

#[test]
fn box_corners_are_two_corners_instead_of_corner_and_size() {
    let [ours, theirs] = both_sides("particle_box", "a", Fault::BoxCorners).map(|text| rows(&text));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        // 19 pixels of the 1024-wide image are 20.4 of 1100; ours are even.
        assert_eq!(ours[2..], [20.0, 20.0]);
        assert!((theirs[2] - theirs[0] - 20.0).abs() <= 1.0 && (theirs[0] - ours[0]).abs() <= 1.0);
    }
}

#[test]
fn coord4_has_two_more_columns() {
    let [ours, theirs] = both_sides("particle_coord", "a", Fault::Coord4).map(|text| rows(&text));
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| ours.len() == 2 && theirs[..2] == ours[..] && theirs[2..] == [19.0, 0.0]));
}

#[test]
fn fiber_ones_hides_the_scores() {
    let [ours, theirs] = both_sides("fiber_ang03", "d", Fault::FiberOnes);
    assert!(theirs.ends_with("1.0\n[End]") && ours.ends_with("[End]\n"));
    let (ours, theirs) = (rows(&ours), rows(&theirs));
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours[..3], theirs[..3]);
        assert!(theirs[3] == 1.0 && ours[3] > 0.1 && ours[3] < 1.0);
    }
}

#[test]
fn every_type_holds_what_it_can_of_every_mode() {
    for (name, letter) in [("particle_thi_v01", "a"), ("vesicle_thi", "c"), ("fiber_ang03", "d")] {
        let mut settings = settings(&runs().runs[name], Compat::default());
        let mut text = |output_type| {
            settings.rule.output_type = output_type;
            text_of(letter, &settings)
        };
        let (thi, star) = (rows(&text(OutputType::Thi)), rows(&text(OutputType::Star)));
        let (boxes, coord) = (rows(&text(OutputType::Box)), rows(&text(OutputType::Coord)));
        match name {
            "particle_thi_v01" => assert!(thi.len() == star.len() && thi.len() == boxes.len() && thi.len() == coord.len()),
            "vesicle_thi" => {
                assert!(thi.len() == star.len() && thi.len() == coord.len());
                for (thi, square) in thi.iter().zip(&boxes) {
                    assert!((square[2] - 2.0 * thi[2]).abs() <= 2.0 && square[2] == square[3], "{thi:?} {square:?}");
                }
            }
            _ => {
                let edges = thi.windows(2).filter(|pair| pair[0][2] == pair[1][2]).count();
                assert!(edges > 10 && star.len() == 2 * edges && boxes.len() == 2 * edges && coord.len() == thi.len());
                assert!(boxes.iter().map(|row| row[4]).eq((0..boxes.len()).map(|i| [-1.0, -2.0][i % 2])));
            }
        }
    }
}
