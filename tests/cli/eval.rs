//! Evaluation: matching and average precision against other programs and against plain loops, and the command.

use crate::common::labelled::{self, write_mrc};
use crate::common::program::{epicker, is_refused};
use epicker::eval::chart::{Axis, Chart, Series, ticks};
use epicker::eval::coco::{self, Boxes};
use epicker::eval::fiber;
use epicker::eval::matching::{Candidate, Disc, Outcome, Rule, match_picks};
use epicker::eval::metrics::{Judged, Pooled, average_precision, best_f1, threshold_of};
use epicker::eval::report::{Item, Settings, SizeSource, evaluate};
use epicker::formats::coordinates::{Coordinate, Coordinates, Kind, Size};
use epicker::random::Random;
use serde_json::Value;
use std::path::Path;

#[test]
fn average_precision_by_overlap_is_that_of_pycocotools() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/eval/coco.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 24);
    for (i, case) in cases.iter().enumerate() {
        let image = |image: &Value| Boxes {
            labels: serde_json::from_value(image["labels"].clone()).unwrap(),
            picks: serde_json::from_value(image["picks"].clone()).unwrap(),
        };
        let images: Vec<Boxes> = case["images"].as_array().unwrap().iter().map(image).collect();
        let found = coco::average_precision(&images, case["overlap"].as_f64().unwrap(), case["most_picks"].as_u64().unwrap() as usize);
        let expected = case["ap"].as_f64().unwrap();
        assert!((found.unwrap() - expected).abs() < 1e-12, "case {i}: {found:?}, expected {expected}");
    }
    assert_eq!(coco::average_precision(&[Boxes::default()], 0.5, 1000), None);
}

/// Random labels and picks, some of equal score, crowded enough that picks compete.
fn random_case(seed: u64) -> (Vec<Disc>, Vec<Candidate>) {
    let mut random = Random::new(seed, &[]);
    let labels: Vec<Disc> = (0..random.below(25))
        .map(|_| Disc { x: random.unit() * 200.0, y: random.unit() * 150.0, radius: 5.0 + 20.0 * random.unit() })
        .collect();
    let mut picks = Vec::new();
    for _ in 0..random.below(60) {
        let around = labels.get(random.below(labels.len() + 3));
        let [x, y] = around.map_or([200.0, 150.0].map(|side| random.unit() * side), |disc| [disc.x, disc.y]);
        let [dx, dy] = [random.unit(), random.unit()].map(|unit| 16.0 * (unit - 0.5));
        let score = (random.unit() * 20.0).floor() as f32 / 20.0;
        picks.push(Candidate { x: x + dx, y: y + dy, score, radius: None });
    }
    (labels, picks)
}

/// All pairs within reach, sorted as the rule says, taken one after the other: a different way to the same matches.
fn match_by_sorting(labels: &[Disc], picks: &[Candidate], reach: f64) -> Vec<Option<usize>> {
    let mut pairs = Vec::new();
    for (p, pick) in picks.iter().enumerate() {
        for (l, label) in labels.iter().enumerate() {
            let distance = ((pick.x - label.x).powi(2) + (pick.y - label.y).powi(2)).sqrt();
            if distance <= reach * label.radius {
                pairs.push((p, l, distance));
            }
        }
    }
    pairs.sort_by(|a, b| picks[b.0].score.total_cmp(&picks[a.0].score).then(a.0.cmp(&b.0)).then(a.2.total_cmp(&b.2)).then(a.1.cmp(&b.1)));
    let mut found = vec![None; picks.len()];
    for (p, l, _) in pairs {
        if found[p].is_none() && !found.contains(&Some(l)) {
            found[p] = Some(l);
        }
    }
    found
}

#[test]
fn matching_by_distance_is_that_of_a_plain_matcher() {
    let mut hits = 0;
    for seed in 0..400 {
        let (labels, picks) = random_case(seed);
        for reach in [0.2, 0.5, 1.0] {
            let rule = Rule { reach, border: 0.0 };
            let matched = match_picks(&labels, &picks, None, 10.0, &rule);
            let expected = match_by_sorting(&labels, &picks, reach);
            for (outcome, expected) in matched.outcomes.iter().zip(&expected) {
                match outcome {
                    Outcome::Hit { label, .. } => assert_eq!(Some(*label), *expected, "seed {seed}"),
                    Outcome::Miss { .. } => assert_eq!(None, *expected, "seed {seed}"),
                    Outcome::Ignored => panic!("no band, nothing ignored"),
                }
            }
            hits += expected.iter().flatten().count();
            assert_eq!(matched.labels, labels.len());
        }
    }
    assert!(hits > 2000, "{hits}");
}

#[test]
fn average_precision_is_the_area_found_by_trying_every_threshold() {
    for seed in 0..200 {
        let mut random = Random::new(seed, &[7]);
        let micrographs = 1 + random.below(4);
        let labels: Vec<usize> = (0..micrographs).map(|_| 1 + random.below(12)).collect();
        let mut left = labels.clone();
        let judged: Vec<Judged> = (0..random.below(40))
            .map(|_| {
                let micrograph = random.below(micrographs);
                let hit = random.chance(0.5) && left[micrograph] > 0;
                left[micrograph] -= usize::from(hit);
                Judged { score: random.below(15) as f32 / 15.0, hit, micrograph }
            })
            .collect();
        let total: usize = labels.iter().sum();
        // Every threshold by itself, over all picks.
        let mut scores: Vec<f32> = judged.iter().map(|one| one.score).collect();
        scores.sort_by(f32::total_cmp);
        scores.dedup();
        let at = |threshold: f32| {
            let kept: Vec<&Judged> = judged.iter().filter(|one| one.score >= threshold).collect();
            let hits = kept.iter().filter(|one| one.hit).count() as f64;
            [hits / total as f64, hits / kept.len() as f64]
        };
        let points: Vec<[f64; 2]> = scores.iter().map(|score| at(*score)).collect();
        // Precision at a recall: the best of all thresholds that reach it. The area is summed over one label at a time.
        let precision_at = |recall: f64| points.iter().filter(|point| point[0] >= recall - 1e-9).map(|point| point[1]).fold(0.0, f64::max);
        let area: f64 = (1..=total).map(|hits| precision_at(hits as f64 / total as f64) / total as f64).sum();

        let pooled = Pooled::new(judged.clone(), labels);
        let curve = pooled.curve();
        assert!((average_precision(&curve) - area).abs() < 1e-12, "seed {seed}: {} {area}", average_precision(&curve));
        // At a number of picks: a pick takes part with the probability that a random order of its equals gives it.
        for count in 0..judged.len() + 2 {
            let chance = |one: &Judged| {
                let above = judged.iter().filter(|other| other.score > one.score).count() as f64;
                let equal = judged.iter().filter(|other| other.score == one.score).count() as f64;
                ((count as f64 - above) / equal).clamp(0.0, 1.0)
            };
            let hits: f64 = judged.iter().filter(|one| one.hit).map(chance).sum();
            let found = pooled.best_picks(count);
            assert_eq!(found.picks, count.min(judged.len()) as f64);
            assert!((found.hits - hits).abs() < 1e-9 && (found.recall - hits / total as f64).abs() < 1e-9, "seed {seed}, {count}");
            assert!((found.precision * found.picks - hits).abs() < 1e-9);
        }
        // The best threshold, applied as picking applies it, gives the best F1.
        if let Some(best) = best_f1(&curve) {
            let f1 = |[recall, precision]: [f64; 2]| {
                if recall + precision > 0.0 { 2.0 * recall * precision / (recall + precision) } else { 0.0 }
            };
            let most = points.iter().map(|point| f1(*point)).fold(0.0, f64::max);
            assert!((best.f1() - most).abs() < 1e-12);
            assert_eq!(pooled.at(threshold_of(&curve, &best)).picks, best.picks);
        }
    }
}

#[test]
fn the_band_along_the_border_counts_neither_way() {
    let disc = |x, y| Disc { x, y, radius: 10.0 };
    let pick = |x, y, score| Candidate { x, y, score, radius: None };
    let labels = [disc(5.0, 50.0), disc(11.0, 80.0), disc(50.0, 50.0)];
    let picks = [
        pick(5.0, 50.0, 0.9),   // on a label in the band
        pick(8.0, 80.0, 0.8),   // in the band, on a label outside of it
        pick(12.0, 51.0, 0.75), // outside the band, on nothing
        pick(50.0, 53.0, 0.7),  // a hit
        pick(50.0, 48.0, 0.6),  // the same label again
        pick(96.0, 50.0, 0.5),  // in the band, on nothing
        pick(70.0, 20.0, 0.4),  // on nothing
    ];
    let matched = match_picks(&labels, &picks, Some([100, 100]), 10.0, &Rule::default());
    assert_eq!(matched.labels, 2);
    let miss = |duplicate| Outcome::Miss { duplicate };
    let expected = [
        Outcome::Ignored,
        Outcome::Hit { label: 1, distance: 3.0 },
        miss(false),
        Outcome::Hit { label: 2, distance: 3.0 },
        miss(true),
        Outcome::Ignored,
        miss(false),
    ];
    assert_eq!(matched.outcomes, expected);
    let no_band = match_picks(&labels, &picks, Some([100, 100]), 10.0, &Rule { border: 0.0, ..Rule::default() });
    assert_eq!(no_band.labels, 3);
}

fn item(labels: Vec<Coordinate>, picks: Vec<Coordinate>) -> Item {
    let all = |points| Coordinates { kind: Kind::Particle, points };
    Item {
        stem: "a".to_owned(),
        size: Some([400, 300]),
        pixel_size_angstrom: Some(2.0),
        frame: None,
        labels: all(labels),
        picks: all(picks),
    }
}

fn scored(x: f64, y: f64, score: f32) -> Coordinate {
    Coordinate { score: Some(score), ..Coordinate::at(x, y) }
}

#[test]
fn perfect_and_worthless_picks_get_one_and_zero() {
    let places: Vec<[f64; 2]> =
        (0..5).flat_map(|i| (0..4).map(move |j| [50.0 + 70.0 * f64::from(i), 50.0 + 60.0 * f64::from(j)])).collect();
    let labels: Vec<Coordinate> = places.iter().map(|[x, y]| Coordinate::at(*x, *y)).collect();
    let settings = Settings { size: SizeSource { diameter_angstrom: Some(40.0), ..Default::default() }, coco: true, ..Default::default() };
    let right = places.iter().enumerate().map(|(i, [x, y])| scored(*x, y + 3.0, 0.9 - 0.01 * i as f32)).collect();
    let report = evaluate(&[item(labels.clone(), right)], &settings).unwrap();
    assert_eq!(report.ap, Some(1.0));
    assert_eq!(report.best.unwrap().0.f1(), 1.0);
    assert_eq!(report.shipped.1.recall, 1.0);
    assert_eq!(report.centre_error, [Some(3.0), Some(6.0)]);
    assert_eq!((report.labels, report.picks, report.duplicates), (20, 20, 0));
    assert!(report.random[0] < 0.5, "random picks: {:?}", report.random);
    // 3 of 400 pixels are 7.7 of the 1024-wide image: more than the original's boxes of 19 allow.
    assert_eq!(report.coco_ap, Some(0.0));

    let wrong = places.iter().map(|[x, y]| scored(x + 30.0, y + 30.0, 0.5)).collect();
    let report = evaluate(&[item(labels.clone(), wrong)], &settings).unwrap();
    assert_eq!((report.ap, report.best.unwrap().0.f1()), (Some(0.0), 0.0));
    let none = evaluate(&[item(labels.clone(), Vec::new())], &settings).unwrap();
    assert_eq!((none.ap, none.best), (Some(0.0), None));
    assert_eq!(none.json()["recall_shipped"], 0.0);

    let unknown = evaluate(&[item(labels, Vec::new())], &Settings::default()).unwrap_err().to_string();
    assert!(unknown.contains("--diameter") && unknown.contains("--diameter_px"), "{unknown}");
}

#[test]
fn vesicles_are_matched_by_their_own_radius_and_judged_by_it() {
    let vesicle = |x: f64, radius: f64, score| Coordinate { size: Some(Size::square(2.0 * radius)), ..scored(x, 150.0, score) };
    let mut one =
        item(vec![vesicle(100.0, 40.0, 1.0), vesicle(250.0, 10.0, 1.0)], vec![vesicle(115.0, 44.0, 0.9), vesicle(258.0, 10.0, 0.8)]);
    one.labels.kind = Kind::Vesicle;
    let size = SizeSource { own_first: true, ..Default::default() };
    let report = evaluate(&[one], &Settings { size, ..Default::default() }).unwrap();
    // 15 is within half of 40, 8 is not within half of 10.
    assert_eq!(report.ap, Some(0.5));
    let [pixels, share] = report.radius_error.unwrap();
    assert!((pixels - 4.0).abs() < 1e-9 && (share - 0.1).abs() < 1e-9);
}

#[test]
fn fibers_are_judged_by_length() {
    let path = |points: &[[f64; 2]], group: u32| -> Vec<Coordinate> {
        points.iter().map(|[x, y]| Coordinate { group: Some(group), ..Coordinate::at(*x, *y) }).collect()
    };
    let fibers = |points: Vec<Coordinate>| Coordinates { kind: Kind::Fiber, points };
    let labels = fibers(path(&[[0.0, 0.0], [100.0, 0.0]], 1));
    // The first half is found, and as much elsewhere is picked.
    let picks = fibers([path(&[[0.0, 3.0], [50.0, 3.0]], 1), path(&[[0.0, 90.0], [50.0, 90.0]], 2)].concat());
    let lengths = fiber::compare(&labels, &picks, 5.0).unwrap();
    assert!((lengths.labelled - 100.0).abs() < 1e-9 && (lengths.picked - 100.0).abs() < 1e-9);
    assert!((lengths.precision() - 0.5).abs() < 1e-9, "{}", lengths.precision());
    assert!((lengths.recall() - 0.5).abs() < 0.05, "{}", lengths.recall());
    let all = fiber::compare(&labels, &labels, 5.0).unwrap();
    assert_eq!([all.precision(), all.recall(), all.f1()], [1.0; 3]);
    let none = fiber::compare(&labels, &fibers(Vec::new()), 5.0).unwrap();
    assert_eq!([none.precision(), none.recall(), none.f1()], [0.0; 3]);
}

#[test]
fn intervals_hold_the_value_and_repeat_with_the_seed() {
    let mut random = Random::new(3, &[]);
    let judged: Vec<Judged> =
        (0..300).map(|i| Judged { score: random.unit() as f32, hit: random.chance(0.6), micrograph: i % 10 }).collect();
    let pooled = Pooled::new(judged, vec![30; 10]);
    let ap = average_precision(&pooled.curve());
    let intervals = pooled.bootstrap(300, 1).unwrap();
    assert!(intervals.ap[0] < ap && ap < intervals.ap[1] && intervals.ap[1] - intervals.ap[0] < 0.3, "{intervals:?} {ap}");
    let precision = &intervals.precision;
    assert!(precision.len() > 30 && precision.iter().all(|[_, low, high]| low <= high && *high <= 1.0), "{precision:?}");
    // Of all picks three of five are right, and so they are at every recall but the lowest.
    assert!(precision[20..].iter().all(|[_, low, high]| *low < 0.65 && 0.55 < *high && high - low < 0.5), "{precision:?}");
    assert_eq!(pooled.bootstrap(300, 1).as_ref(), Some(&intervals));
    assert_ne!(pooled.bootstrap(300, 2), Some(intervals));
    assert_eq!(Pooled::new(Vec::new(), vec![3]).bootstrap(300, 1), None, "one micrograph says nothing about others");
    assert_eq!(pooled.recall_at_false_picks(1e9), pooled.at(-1.0).recall);
    assert!(pooled.recall_at_false_picks(1.0) < pooled.recall_at_false_picks(5.0));
}

#[test]
fn charts_are_text_that_says_what_it_shows() {
    let series = Series {
        name: "a < b".to_owned(),
        points: vec![[0.0, 1.0], [0.5, 0.5], [1.0, f64::NAN]],
        band: vec![[0.0, 0.9, 1.0], [0.5, 0.4, 0.6]],
        marks: vec![([0.5, 0.5], "threshold 0.35".to_owned())],
    };
    let axes = [Axis::of_shares("recall"), Axis::of_shares("precision")];
    let [x, y] = axes;
    let chart = Chart { title: "t & u".to_owned(), x, y, series: vec![series], rules: vec![(0.25, "rate 1e-5".to_owned())] };
    let svg = chart.svg();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("a &lt; b") && !svg.contains("NaN"));
    assert!(svg.contains("role=\"img\"") && svg.contains("<title id=\"title\">t &amp; u</title>"), "{svg}");
    let told = "precision over recall. a &lt; b: from 1.000 at 0.000 to NaN";
    assert!(!svg.contains(told), "what is no number is not told");
    for part in
        ["threshold 0.35: 0.500 at 0.500.", "rate 1e-5 at 0.2.", "<polygon class=\"band c0\"", "<circle class=\"mark c0\"", ">0.4</text>"]
    {
        assert!(svg.contains(part), "{part}: {svg}");
    }
    assert!(svg.contains("prefers-color-scheme:dark"));
}

#[test]
fn ticks_are_round_and_axes_end_at_them() {
    let told = |range: [f64; 2], whole: bool| ticks(range, whole).into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" ");
    assert_eq!(told([0.0, 1.0], false), "0.0 0.2 0.4 0.6 0.8 1.0");
    assert_eq!(told([1.0, 3.0], true), "1 2 3");
    assert_eq!(told([1.0, 87.0], true), "20 40 60 80");
    assert_eq!(told([0.0, 0.0031], false), "0.000 0.001 0.002 0.003");
    assert_eq!(told([-0.3, 0.3], false), "-0.3 -0.2 -0.1 0.0 0.1 0.2 0.3");
    assert_eq!(told([2.0, 2.0], false), "2");
    assert_eq!(told([0.0, f64::NAN], false), "0");
    assert_eq!(Axis::from_zero("loss", [3.7, f64::INFINITY, 1.2].into_iter()).range, [0.0, 4.0]);
    assert_eq!(Axis::from_zero("loss", std::iter::empty()).range, [0.0, 1.0]);
    assert_eq!(Axis::of_counts("epoch", [1.0, 9.0].into_iter()).range, [1.0, 9.0]);
    assert_eq!(Axis::of_counts("epoch", std::iter::empty()).range, [0.0, 1.0]);
    assert_eq!(Axis::of_counts("epoch", std::iter::once(1.0)).range, [0.0, 2.0]);
}

/// Labels as THI, and picks of the same names.
fn write_thi(folder: &Path, stem: &str, rows: &[(f64, f64, f64)]) {
    let rows: String = rows.iter().map(|(x, y, score)| format!("{x}\t{y}\t{score}\n")).collect();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(format!("{stem}.thi")), format!("[Particle Coordinates: X Y Value]\n{rows}[End]\n")).unwrap();
}

#[test]
fn the_command_judges_files_of_any_program_and_compares_two_sets() {
    let folder = tempfile::tempdir().unwrap();
    let [labels, good, bad, out] = ["labels", "good", "bad", "out"].map(|name| folder.path().join(name));
    for stem in ["a", "b"] {
        write_thi(&labels, stem, &[(100.0, 100.0, 1.0), (200.0, 100.0, 1.0), (300.0, 100.0, 1.0), (400.0, 200.0, 1.0)]);
        write_thi(&bad, stem, &[(100.0, 100.0, 0.9), (150.0, 400.0, 0.8)]);
    }
    // A Topaz table of images downscaled by 4, all micrographs in one file.
    std::fs::create_dir_all(&good).unwrap();
    let mut table = "image_name\tx_coord\ty_coord\tscore\n".to_owned();
    for stem in ["a", "b"] {
        for (x, y, score) in [(25, 25, 5.0), (50, 25, 3.0), (75, 25, -1.5), (10, 90, -4.0)] {
            table.push_str(&format!("{stem}\t{x}\t{y}\t{score}\n"));
        }
    }
    let table_path = good.join("topaz.txt");
    std::fs::write(&table_path, table).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let result = epicker(&[
        "eval",
        "--label",
        &text(&labels),
        "--picks",
        &text(&table_path),
        "--format",
        "topaz",
        "--scale",
        "4",
        "--diameter_px",
        "40",
        "--against",
        &text(&bad),
        "--json",
        "--output",
        &text(&out),
        "--bootstrap",
        "50",
    ]);
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
    let stdout = String::from_utf8(result.stdout).unwrap();
    let json: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(json["ap"], 0.75);
    assert_eq!(json["before"]["ap"], 0.25);
    assert_eq!(json["points"], 50.0);
    assert_eq!(json["forgetting_points"], 0.0);
    assert_eq!((&json["labels"], &json["picks"], &json["micrographs"]), (&8.into(), &8.into(), &2.into()));
    assert_eq!((&json["precision"], &json["recall"]), (&1.0.into(), &0.75.into()));
    assert_eq!(json["precision_shipped"], 0.75, "scores below 0 are shipped too where no threshold is given");
    let at_picks: Vec<[f64; 3]> = json["at_picks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| ["picks", "precision", "recall"].map(|key| point[key].as_f64().unwrap()))
        .collect();
    assert_eq!(at_picks, [[4.0, 1.0, 0.5], [8.0, 0.75, 0.75], [8.0, 0.75, 0.75]], "half, as many and twice as many as the labels");
    let f1 = 2.0 * 0.75 / 1.75;
    assert!((json["f1_best"].as_f64().unwrap() - f1).abs() < 1e-12);
    let threshold = json["threshold_best"].as_f64().unwrap();
    assert!((-4.0..-1.5).contains(&threshold), "{threshold}");
    let whole: Value = serde_json::from_slice(&std::fs::read(out.join("eval.json")).unwrap()).unwrap();
    let rows = &whole["by_micrograph_at_threshold_best"][0]["micrographs"];
    assert_eq!((&rows[1]["micrograph"], &rows[1]["labels"], &rows[1]["hits"]), (&"b".into(), &4.into(), &3.into()));
    for name in ["eval.json", "pr.csv", "PR.svg"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let svg = std::fs::read_to_string(out.join("PR.svg")).unwrap();
    assert!(svg.contains("labels: AP 0.750 [0.750, 0.750]") && svg.contains("labels before: AP 0.250"), "{svg}");
    assert!(svg.contains(">all picks<") && svg.contains("Shaded: 95 %"), "{svg}");
}

/// The data of a page of --report.
fn data_of_page(page: &str) -> Value {
    let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    serde_json::from_str(data).unwrap()
}

/// RFC 4648, section 4.
fn bytes_of(letters: &Value) -> Vec<u8> {
    const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u8> =
        letters.as_str().unwrap().trim_end_matches('=').chars().map(|letter| LETTERS.find(letter).unwrap() as u8).collect();
    let four = |four: &[u8]| {
        let bits = four.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    digits.chunks(4).flat_map(four).collect()
}

/// Right and wrong picks, found and wanted labels above a threshold, as the page counts them.
fn counts_of_page(data: &Value, threshold: f64) -> [usize; 4] {
    let range: [f64; 2] = serde_json::from_value(data["range"].clone()).unwrap();
    let limit = (threshold - range[0]) / (range[1] - range[0]) * 65535.0;
    let mut sum = [0; 4];
    for one in data["micrographs"].as_array().unwrap() {
        let numbers = |key: &str| bytes_of(&one[key]).chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect::<Vec<_>>();
        let (picks, labels, fates) = (numbers("picks"), numbers("labels"), bytes_of(&one["fates"]));
        assert_eq!(picks.len(), 4 * fates.len());
        for (pick, fate) in picks.chunks(4).zip(&fates).filter(|(pick, _)| f64::from(pick[3]) > limit) {
            assert!(pick[2] > 0);
            match fate {
                1 => sum[0] += 1,
                0 => sum[1] += 1,
                _ => {}
            }
        }
        for label in labels.chunks(5).filter(|label| label[4] < 2) {
            sum[2] += usize::from(label[4] == 1 && f64::from(label[3]) > limit);
            sum[3] += 1;
        }
    }
    sum
}

#[test]
fn the_page_counts_at_any_threshold_what_the_evaluation_counts() {
    let folder = tempfile::tempdir().unwrap();
    let [data, labels, picks, out] = ["data", "labels", "picks", "out"].map(|name| folder.path().join(name));
    std::fs::create_dir_all(&data).unwrap();
    let mut random = Random::new(3, &[]);
    for stem in ["a", "b", "c"] {
        crate::common::labelled::write_mrc(&data.join(format!("{stem}.mrc")), [320, 256], &[[40, 50]]);
        let truth: Vec<(f64, f64, f64)> = (0..40).map(|_| (320.0 * random.unit(), 256.0 * random.unit(), 1.0)).collect();
        let mut found: Vec<(f64, f64, f64)> =
            truth.iter().map(|(x, y, _)| (x + 3.0 * random.normal(), y + 3.0 * random.normal(), random.unit())).collect();
        found.extend((0..20).map(|_| (320.0 * random.unit(), 256.0 * random.unit(), 0.6 * random.unit())));
        write_thi(&labels, stem, &truth);
        write_thi(&picks, stem, &found);
    }
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    for threshold in ["0.1", "0.35", "0.8"] {
        let (data, labels, picks, out) = (text(&data), text(&labels), text(&picks), text(&out));
        let words = ["eval", "--data", &data, "--label", &labels, "--picks", &picks, "--diameter_px", "14", "--vis_thresh", threshold];
        let result = epicker(&[words.as_slice(), &["--output", &out, "--report", "--json", "--bootstrap", "0"]].concat());
        assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
        let json: Value = serde_json::from_str(String::from_utf8(result.stdout).unwrap().lines().last().unwrap()).unwrap();
        let page = std::fs::read_to_string(Path::new(&out).join("report.html")).unwrap();
        assert!(!page.contains("http://") && !page.contains("https://"), "nothing is fetched");
        let page = data_of_page(&page);
        assert_eq!(page["threshold"].as_f64().unwrap() as f32, threshold.parse::<f32>().unwrap());
        let [right, wrong, found, wanted] = counts_of_page(&page, threshold.parse().unwrap()).map(|count| count as f64);
        assert!(right > 5.0 && wrong > 5.0 && wanted > 60.0, "{right} {wrong} {wanted}");
        assert_eq!(right, found);
        let number = |key: &str| json[key].as_f64().unwrap();
        assert_eq!(number("labels"), wanted);
        assert!((number("precision_shipped") - right / (right + wrong)).abs() < 1e-9, "{threshold}: {right} {wrong}");
        assert!((number("recall_shipped") - right / wanted).abs() < 1e-9, "{threshold}: {right} {wanted}");
    }
}

#[test]
fn the_page_of_fibers_counts_their_length() {
    let line = |y: f64, score: Option<f32>| {
        (0..11).map(move |i| Coordinate { group: Some(0), score, ..Coordinate::at(100.0 + 100.0 * f64::from(i), y) }).collect::<Vec<_>>()
    };
    let fibers = |points: Vec<Coordinate>| Coordinates { kind: Kind::Fiber, points };
    let item = Item {
        stem: "a".to_owned(),
        size: Some([2048, 2048]),
        frame: None,
        pixel_size_angstrom: None,
        labels: fibers(line(500.0, None)),
        picks: fibers(line(510.0, Some(0.7)).into_iter().take(6).collect()),
    };
    let shown = epicker::eval::page::shown(&item, &Settings::default()).unwrap();
    let found = shown.truth.labels.iter().filter(|label| label.found_by == Some(0.7)).count() as f64;
    let share = found / shown.truth.labels.len() as f64;
    assert!((share - 0.5).abs() < 0.03, "{share} of the length");
    assert!(shown.truth.fates.iter().all(|fate| *fate == epicker::pick::report::Fate::Right));
    let places: Vec<[u16; 2]> = shown.marks.iter().map(|mark| mark.along.unwrap()).collect();
    assert!(places.iter().enumerate().all(|(i, along)| *along == [1, i as u16]), "the points of one fiber, in order: {places:?}");
}

#[test]
fn bad_input_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let [labels, other, empty] = ["labels", "other", "empty"].map(|name| folder.path().join(name));
    write_thi(&labels, "a", &[(10.0, 10.0, 1.0)]);
    write_thi(&other, "somewhere", &[(10.0, 10.0, 1.0)]);
    write_thi(&empty, "a", &[]);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let [labels, other, empty] = [labels, other, empty].map(|path| text(&path));
    is_refused(&epicker(&["eval", "--label", &labels]), "--picks");
    is_refused(&epicker(&["eval", "--label", &labels, "--picks", &labels]), "--diameter");
    is_refused(&epicker(&["eval", "--label", &labels, "--picks", &other, "--diameter_px", "9"]), "expected equal names");
    is_refused(&epicker(&["eval", "--label", &empty, "--picks", &labels, "--diameter_px", "9"]), "all labels are empty");
    is_refused(&epicker(&["eval", "--label", &labels, "--picks", "nowhere", "--diameter_px", "9"]), "nowhere");
    is_refused(&epicker(&["eval", "--label", &labels, &labels, "--picks", &labels, "--diameter_px", "9"]), "--picks");
    is_refused(&epicker(&["eval", "--label", &labels, "--picks", &labels, "--diameter", "90"]), "--angpix");
    is_refused(&epicker(&["eval", "--label", &labels, "--load_model", "x.pth"]), "--data");
    is_refused(&epicker(&["eval", "--label", &labels, "--picks", &labels, "--diameter_px", "-9"]), "above 0");
    is_refused(&epicker(&["eval", "--label", &labels, "--picks", &labels, "--diameter_px", "9", "--coco"]), "--coco");
}

/// A model of the original, trained on synthetic blobs, finds them: 163 of 170 have a score above 0.3 by its own script.
#[test]
fn a_model_is_judged_on_micrographs() {
    let folder = tempfile::tempdir().unwrap();
    let runs = crate::common::fixtures::runs();
    let blobs: Vec<(f64, f64, f64)> = runs.micrographs["a"].blobs.iter().map(|[x, y, _, _]| (*x as f64, *y as f64, 1.0)).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let micrograph = folder.path().join("blobs.mrc.gz");
    std::fs::copy(root.join("tests/samples/blobs_1100x1000.mrc.gz"), &micrograph).unwrap();
    write_thi(&folder.path().join("labels"), "blobs", &blobs);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let result = epicker(&[
        "eval",
        "--data",
        &text(&micrograph),
        "--label",
        &text(&folder.path().join("labels")),
        "--load_model",
        &text(&root.join("tests/golden/models/trained.pth")),
        "--diameter_px",
        "20",
        "--vis_thresh",
        "0.3",
        "--coco",
        "--json",
    ]);
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
    let stdout = String::from_utf8(result.stdout).unwrap();
    let json: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let number = |key: &str| json[key].as_f64().unwrap();
    assert!(number("ap") > 0.9 && number("coco_ap") > 0.9 && number("ap_random") < 0.1, "{json}");
    assert!(number("recall_shipped") > 0.93 && number("precision_shipped") > 0.9, "{json}");
    assert!(number("centre_error_px") < 2.0, "{json}");
    assert_eq!(json["ap_interval"], Value::Null, "one micrograph says nothing about others");
}

#[test]
fn refined_picks_are_judged_where_they_lie_on_the_micrograph() {
    // Picks whose shifts have to be divided by the list's 0.5 A: 10 A are 20 pixels, and not 2.5 (4 A, of the particles).
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    crate::common::labelled::write_mrc(&path("a.mrc"), [400, 300], &[]);
    let list = "data_optics\n\n_rlnOpticsGroup 1\n_rlnMicrographPixelSize 0.5\n\ndata_micrographs\n\n_rlnMicrographName a.mrc\n_rlnOpticsGroup 1\n";
    std::fs::write(path("micrographs.star"), list).unwrap();
    let picks = "data_particles\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOriginXAngst\n_rlnOriginYAngst\n_rlnImagePixelSize\n\
         _rlnAutopickFigureOfMerit\na.mrc 120 100 10 0 4 0.5\na.mrc 120 100 10 0 4 0.5\na.mrc 200 130 0 15 4 0.4\n";
    std::fs::write(path("particles.star"), picks).unwrap();
    write_thi(&path("labels"), "a", &[(100.0, 100.0, 1.0), (200.0, 100.0, 1.0)]);
    let result = epicker(&[
        "eval",
        "--data",
        &text("micrographs.star"),
        "--label",
        &text("labels"),
        "--picks",
        &text("particles.star"),
        "--diameter_px",
        "20",
        "--json",
        "--bootstrap",
        "0",
    ]);
    let told = String::from_utf8_lossy(&result.stderr).into_owned();
    assert_eq!(result.status.code(), Some(0), "{told}");
    let json: Value = serde_json::from_str(String::from_utf8(result.stdout).unwrap().lines().last().unwrap()).unwrap();
    assert_eq!((&json["picks"], &json["recall"], &json["precision"]), (&2.into(), &1.0.into(), &1.0.into()), "{told}");
    assert!(told.contains("1 of the points were equal"), "{told}");
    // The other way round: the picks are plain, the labels refined, and there is no micrograph but --angpix.
    write_thi(&path("plain"), "a", &[(100.0, 100.0, 0.9), (200.0, 100.0, 0.8)]);
    let result = epicker(&[
        "eval",
        "--label",
        &text("particles.star"),
        "--picks",
        &text("plain"),
        "--diameter_px",
        "20",
        "--angpix",
        "0.5",
        "--json",
        "--bootstrap",
        "0",
    ]);
    let json: Value = serde_json::from_str(String::from_utf8(result.stdout).unwrap().lines().last().unwrap()).unwrap();
    assert_eq!((&json["labels"], &json["recall"]), (&2.into(), &1.0.into()));
}

#[test]
fn nothing_counts_in_an_area_that_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for part in ["mics", "labels", "picks"] {
        std::fs::create_dir(path(part)).unwrap();
    }
    let places = [[40, 40], [90, 50], [150, 150]];
    write_mrc(Path::new(&path("mics/m.mrc")), [200, 200], &places);
    labelled::write_thi(Path::new(&path("labels/m.thi")), &places);
    // One label is missed and one pick is wrong, both in the lower right corner.
    std::fs::write(path("picks/m.thi"), "[Particle Coordinates: X Y Value]\n40 40 0.9\n170 130 0.8\n90 50 0.7\n[End]\n").unwrap();
    let judge = || -> Value {
        let (mics, labels, picks) = (path("mics"), path("labels"), path("picks"));
        let args = ["eval", "--data", &mics, "--label", &labels, "--picks", &picks, "--diameter_px", "20", "--json", "--bootstrap", "0"];
        let result = epicker(&args);
        assert!(result.status.success(), "{result:?}");
        serde_json::from_str(String::from_utf8_lossy(&result.stdout).lines().last().unwrap()).unwrap()
    };
    let before = judge();
    assert_eq!((before["labels"].as_u64(), before["picks"].as_u64()), (Some(3), Some(3)), "{before}");
    assert!(before["ap"].as_f64().unwrap() < 0.7);
    let corner =
        r#"{ "format": 1, "items": [{ "id": "r", "kind": "region", "points": [[110, 110], [199, 110], [199, 199], [110, 199]] }] }"#;
    std::fs::write(path("labels/m.marks"), corner).unwrap();
    let after = judge();
    assert_eq!((after["labels"].as_u64(), after["picks"].as_u64()), (Some(2), Some(2)), "{after}");
    assert_eq!(after["ap"].as_f64(), Some(1.0));
}
