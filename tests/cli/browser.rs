//! The workbench as a person uses it, in a real browser, where Chromium is installed: labels are clicked, dragged, undone, saved and
//! learnt from, the threshold is moved, and all of it can be done by keyboard.
//!
//! `study` is run by hand: it makes the table of docs/workbench.md from real micrographs.

use crate::common::chromium::{self, Browser};
use crate::common::drawn::{Drawing, Shape};
use crate::common::micrographs::mrc;
use crate::common::program::epicker;
use crate::common::served::Served;
use epicker::formats::coordinates::{Coordinate, Coordinates, Kind, Size};
use epicker::formats::image::{ReadOptions, read_micrograph};
use epicker::formats::{mrc_write, thi};
use epicker::random::Random;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;

/// A folder with `mics/m0.mrc` and so on, and where the particles of each are.
fn drawn(count: u64) -> (TempDir, Vec<Vec<[f64; 2]>>) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("mics")).unwrap();
    let truths = (0..count).map(|seed| {
        let drawing = Drawing { shape: Shape::Disc, size: [640, 512], diameters_px: [36.0, 36.0], particles: 40, contrast: 1.2, seed };
        let drawn = drawing.draw();
        let pixels: Vec<u8> = drawn.pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
        fs::write(folder.path().join(format!("mics/m{seed}.mrc")), mrc([640, 512], 2, 5.0, &pixels)).unwrap();
        drawn.truth.points.iter().map(|point| [point.x, point.y]).collect()
    });
    let truths = truths.collect();
    (folder, truths)
}

fn labels_of(served: &Served, i: usize) -> Vec<Value> {
    served.get(&format!("/api/labels/{i}")).json()["items"].as_array().unwrap().clone()
}

/// Opens the page, and closes the card of a first visit.
fn open(browser: &mut Browser, served: &Served) {
    browser.open(&served.page());
    browser.picture("open");
    browser.value("document.getElementById('card').hidden || document.getElementById('card-close').click()");
}

/// The browser, if there is one; a machine without it says so.
fn browser() -> Option<Browser> {
    let found = chromium::found();
    if found.is_none() {
        eprintln!("no Chromium: the workbench was not looked at");
    }
    found.map(|path| Browser::start(&path, [1280, 720]))
}

#[test]
fn labels_are_clicked_dragged_undone_and_saved() {
    let Some(mut browser) = browser() else { return };
    let (folder, truths) = drawn(2);
    let served = Served::start(folder.path(), &["mics", "--diameter", "180"]);
    open(&mut browser, &served);
    browser.press("tool-particle");
    for at in &truths[0][..5] {
        let place = browser.place(*at);
        browser.click(place);
    }
    browser.value("workbench.idle().then(() => true)");
    let labels = labels_of(&served, 0);
    assert_eq!(labels.len(), 5);
    for (label, at) in labels.iter().zip(&truths[0]) {
        let far = (label["x"].as_f64().unwrap() - at[0]).hypot(label["y"].as_f64().unwrap() - at[1]);
        assert!(far < 2.0, "{label} is not at {at:?}");
    }
    // One is dragged, which is taken back, and done again.
    let x = |served: &Served| labels_of(served, 0)[0]["x"].as_f64().unwrap();
    let (from, to) = (browser.place(truths[0][0]), browser.place([truths[0][0][0] + 30.0, truths[0][0][1]]));
    let before = x(&served);
    browser.drag(from, to);
    browser.value("workbench.idle().then(() => true)");
    assert!((x(&served) - before - 30.0).abs() < 3.0, "{before} {}", x(&served));
    browser.key("z", true);
    browser.value("workbench.idle().then(() => true)");
    assert!((x(&served) - before).abs() < 0.01);
    browser.key("y", true);
    browser.value("workbench.idle().then(() => true)");
    assert!((x(&served) - before - 30.0).abs() < 3.0);
    browser.key("z", true);
    // The last click is taken back.
    browser.key("z", true);
    browser.value("workbench.idle().then(() => true)");
    assert_eq!(labels_of(&served, 0).len(), 4);
    assert_eq!(browser.text("saved"), "saved");
    browser.picture("labels");
    // All is there after the page is loaded anew, and the file has what the page shows.
    browser.open(&served.page());
    assert_eq!(browser.value("workbench.document.items.size"), json!(4));
    let file = fs::read_to_string(folder.path().join("workbench/labels/m0.star")).unwrap();
    assert_eq!(file.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count(), 4);
    // Another window's label appears, and its user is told.
    let act = json!({ "op": "add", "item": { "id": "other1", "kind": "particle", "x": 300.0, "y": 200.0 } });
    served.post("/api/labels/0", &json!({ "window": "other", "seen": 0, "ops": [act] }));
    browser.wait("workbench.document.items.size === 5");
    browser.wait("document.getElementById('toasts').textContent.length > 0");
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[test]
fn a_keyboard_is_enough() {
    let Some(mut browser) = browser() else { return };
    let (folder, _) = drawn(2);
    let served = Served::start(folder.path(), &["mics", "--diameter", "180"]);
    open(&mut browser, &served);
    browser.value("document.getElementById('marks').focus()");
    for _ in 0..3 {
        browser.key("ArrowRight", false);
    }
    browser.key("p", false);
    browser.key("Enter", false);
    browser.value("workbench.idle().then(() => true)");
    assert_eq!(labels_of(&served, 0).len(), 1);
    for key in ["ArrowDown", "ArrowDown", "x", "Enter"] {
        browser.key(key, false);
    }
    browser.value("workbench.idle().then(() => true)");
    let kinds: Vec<Value> = labels_of(&served, 0).iter().map(|item| item["kind"].clone()).collect();
    assert_eq!(kinds, ["particle", "nothing"]);
    browser.key("d", false);
    browser.value("workbench.idle().then(() => true)");
    assert_eq!(served.get("/api/labels/0").json()["finished"], true);
    // Every control has a name that is read aloud.
    let nameless = "[...document.querySelectorAll('button, input, select')].filter((one) => !(one.labels?.length || one.textContent.trim() \
                    || one.getAttribute('aria-label') || one.getAttribute('aria-labelledby') || one.title)).map((one) => one.id || one.outerHTML)";
    assert_eq!(browser.value(nameless), json!([]));
    browser.resize([3840, 2160], 1.0);
    browser.value("workbench.idle().then(() => true)");
    browser.picture("4k");
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[test]
fn the_page_learns_and_the_threshold_is_moved() {
    let Some(mut browser) = browser() else { return };
    let (folder, truths) = drawn(3);
    let served = Served::start(folder.path(), &["mics", "--diameter", "180", "--steps", "4"]);
    open(&mut browser, &served);
    browser.press("tool-particle");
    for at in &truths[0][..20] {
        let place = browser.place(*at);
        browser.click(place);
    }
    browser.value("workbench.idle().then(() => true)");
    browser.press("learn");
    browser.wait("['done', 'failed'].includes(workbench.state.learn.phase)");
    assert_eq!(browser.value("workbench.state.learn.error"), Value::Null);
    let score = browser.value("workbench.state.score");
    assert!(score["of"].as_u64().unwrap() > 0 && score["text"].as_str().unwrap().contains("held back"), "{score}");
    let models = served.get("/api/models").json();
    assert_eq!(models["models"][1]["labels"], 20, "{models}");
    // Whichever model picks, there are picks, and the slider counts them without asking the server.
    browser.wait("workbench.document.picks && workbench.document.picks.length > 0");
    browser.wait("workbench.state.scores && workbench.state.scores.loaded > 0");
    browser.picture("learnt");
    let counts = |browser: &mut Browser, threshold: f64| {
        // The page draws with the screen's next frame.
        let drawn = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))";
        browser.value(&format!("(workbench.setThreshold({threshold}), {drawn})"));
        browser.text("threshold-counts")
    };
    assert_ne!(counts(&mut browser, 0.02), counts(&mut browser, 0.9));
    counts(&mut browser, 0.1);
    browser.press("apply");
    browser.wait("document.getElementById('threshold-line').textContent.includes('written')");
    // What the model is least sure of is offered, and each answer is a label.
    let before = labels_of(&served, 0).len() + labels_of(&served, 1).len() + labels_of(&served, 2).len();
    browser.press("unsure");
    browser.wait("!document.getElementById('walk').hidden && workbench.walk.place");
    browser.value("workbench.idle().then(() => true)");
    browser.picture("least-sure");
    browser.press("walk-no");
    browser.value("workbench.idle().then(() => true)");
    let after = labels_of(&served, 0).len() + labels_of(&served, 1).len() + labels_of(&served, 2).len();
    assert_eq!(after, before + 1);
    assert_eq!(browser.errors, Vec::<String>::new());
}

/// One row of the table: labels are clicked from the truth with a pixel of jitter, `learn` is pressed, and what nobody has labelled judges;
/// then ten places that the model is least sure of are answered by the truth, and all is done again.
struct Case {
    name: &'static str,
    kind: Kind,
    /// Diameter, pixels; vesicles have their own.
    diameter_px: Option<f64>,
}

/// Labels that are clicked.
const CLICKED: usize = 20;

/// Runs by hand: `EPICKER=target/release/epicker EPICKER_STUDY=DATA cargo test --test cli browser::study -- --ignored --nocapture`.
#[test]
#[ignore = "takes half an hour, and needs real micrographs"]
fn study() {
    let data = PathBuf::from(std::env::var_os("EPICKER_STUDY").unwrap());
    let only = std::env::var("EPICKER_STUDY_OF").unwrap_or_default();
    let particle = |name, diameter_px| Case { name, kind: Kind::Particle, diameter_px: Some(diameter_px) };
    let cases = [
        particle("apoferritin-10146", 84.0),
        particle("betagal-10017", 40.5),
        particle("proteasome20s-mm", 21.5),
        particle("trpv1-10059", 28.5),
        particle("viral-10947", 60.0),
        Case { name: "vesicles-240", kind: Kind::Vesicle, diameter_px: None },
        Case { name: "filaments-actin", kind: Kind::Fiber, diameter_px: Some(8.7) },
    ];
    println!("| micrographs | general model | 20 labels | plain train | ten corrections more | seconds of learning |");
    for case in cases.iter().filter(|case| only.is_empty() || case.name == only) {
        println!("{}", case.row(&data));
    }
}

/// A micrograph with its truth: a path for each label, of one point but for fibers; and the radii of vesicles.
struct Known {
    labels: Vec<(Vec<[f64; 2]>, f64)>,
}

/// A path with points on both sides of where it crosses a column, so that cutting it there loses nothing.
fn with_crossings(path: &[[f64; 2]], column: f64) -> Vec<[f64; 2]> {
    let mut all = Vec::new();
    for (i, &[x, y]) in path.iter().enumerate() {
        if let Some(&[before_x, before_y]) = i.checked_sub(1).map(|before| &path[before])
            && (before_x < column) != (x < column)
        {
            let at = before_y + (y - before_y) * (column - before_x) / (x - before_x);
            let sides = if before_x < column { [column - 0.5, column] } else { [column, column - 0.5] };
            all.extend(sides.map(|side| [side, at]));
        }
        all.push([x, y]);
    }
    all
}

/// Distance of a place from a path, or from its only point.
fn distance(path: &[[f64; 2]], [x, y]: [f64; 2]) -> f64 {
    let steps = |edge: &[[f64; 2]]| {
        let [from, to] = [edge[0], edge[1]];
        (0..=100).map(move |step| [0, 1].map(|k| from[k] + (to[k] - from[k]) * f64::from(step) / 100.0))
    };
    let places = path.windows(2).flat_map(steps).chain(path.first().copied());
    places.map(|at| (at[0] - x).hypot(at[1] - y)).fold(f64::INFINITY, f64::min)
}

impl Case {
    /// Deals out the micrographs: two are shown, the others judge. A single one is cut into halves.
    fn deal(&self, data: &Path, folder: &Path) -> Vec<Known> {
        let data = data.join(self.name);
        let mut all: Vec<PathBuf> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.retain(|path| path.extension().is_some_and(|ending| ending == "mrc") && !path.display().to_string().contains("unlabelled"));
        all.sort();
        for part in ["mics", "judge"] {
            fs::create_dir(folder.join(part)).unwrap();
        }
        let mut shown = Vec::new();
        for (i, path) in all.iter().enumerate() {
            let labels = self.labels_of(path);
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            if all.len() > 1 {
                let part = if i < 2 { "mics" } else { "judge" };
                std::os::unix::fs::symlink(path, folder.join(part).join(path.file_name().unwrap())).unwrap();
                match part {
                    "mics" => shown.push(Known { labels }),
                    _ => self.write_truth(&folder.join(part).join(format!("{name}.thi")), &labels),
                }
                continue;
            }
            let micrograph = read_micrograph(path, &ReadOptions::default()).unwrap();
            let (nx, half) = (micrograph.nx, micrograph.nx / 2);
            let pixels = micrograph.pixels.to_f32();
            for (k, part) in ["mics", "judge"].into_iter().enumerate() {
                let values: Vec<f32> = pixels.chunks(nx).flat_map(|row| row[k * half..][..half].to_vec()).collect();
                let pixel_size = micrograph.pixel_size_angstrom.unwrap_or(1.0);
                let bytes = mrc_write::bytes(&values, [micrograph.ny, half], pixel_size, mrc_write::PixelType::F32).unwrap();
                let name = format!("{name}-{k}");
                fs::write(folder.join(part).join(format!("{name}.mrc")), bytes).unwrap();
                let inside = |[x, _]: [f64; 2]| x >= (k * half) as f64 && x < ((k + 1) * half) as f64;
                let moved = |(path, radius): &(Vec<[f64; 2]>, f64)| {
                    let path = with_crossings(path, half as f64);
                    let path: Vec<[f64; 2]> = path.into_iter().filter(|at| inside(*at)).map(|[x, y]| [x - (k * half) as f64, y]).collect();
                    (path, *radius)
                };
                let least = if self.kind == Kind::Fiber { 2 } else { 1 };
                let own: Vec<_> = labels.iter().map(moved).filter(|(path, _)| path.len() >= least).collect();
                match part {
                    "mics" => shown.push(Known { labels: own }),
                    _ => self.write_truth(&folder.join(part).join(format!("{name}.thi")), &own),
                }
            }
        }
        shown
    }

    fn labels_of(&self, path: &Path) -> Vec<(Vec<[f64; 2]>, f64)> {
        let rows = |path: &Path, separator: fn(char) -> bool| -> Vec<Vec<f64>> {
            let text = fs::read_to_string(path).unwrap();
            let numbers = |line: &str| line.split(separator).filter(|word| !word.is_empty()).map(|word| word.parse().ok()).collect();
            text.lines().filter_map(numbers).filter(|row: &Vec<f64>| row.len() > 1).collect()
        };
        match self.kind {
            Kind::Particle => {
                rows(&path.with_extension("star"), char::is_whitespace).iter().map(|row| (vec![[row[0], row[1]]], 0.0)).collect()
            }
            Kind::Vesicle => {
                let of = |row: &Vec<f64>| (vec![[row[0] + row[2] / 2.0, row[1] + row[3] / 2.0]], (row[2] + row[3]) / 4.0);
                rows(&path.with_extension("box"), char::is_whitespace).iter().map(of).collect()
            }
            Kind::Fiber => {
                let csv = path.display().to_string().replace(".mrc", "_polylines.csv");
                let mut fibers: Vec<(Vec<[f64; 2]>, f64)> = Vec::new();
                for row in rows(Path::new(&csv), |letter| letter == ',') {
                    fibers.resize(fibers.len().max(row[0] as usize), (Vec::new(), 0.0));
                    fibers[row[0] as usize - 1].0.push([row[1], row[2]]);
                }
                fibers
            }
        }
    }

    fn write_truth(&self, path: &Path, labels: &[(Vec<[f64; 2]>, f64)]) {
        let point = |group: usize, [x, y]: [f64; 2], radius: f64| Coordinate {
            size: (radius > 0.0).then(|| Size::square(2.0 * radius)),
            group: (self.kind == Kind::Fiber).then_some(group as u32 + 1),
            ..Coordinate::at(x, y)
        };
        let points = labels.iter().enumerate().flat_map(|(i, (path, radius))| path.iter().map(move |at| point(i, *at, *radius)));
        let coordinates = Coordinates { kind: self.kind, points: points.collect() };
        fs::write(path, thi::write(&coordinates, &thi::WriteOptions::default()).unwrap()).unwrap();
    }

    fn row(&self, data: &Path) -> String {
        let folder = tempfile::tempdir().unwrap();
        let shown = self.deal(data, folder.path());
        let served = Served::start(folder.path(), &[&["mics", "--mode", self.kind.name()][..], &self.options()].concat());
        let mut browser = Browser::start(&chromium::found().unwrap(), [1280, 900]);
        open(&mut browser, &served);
        let mut random = Random::new(1, &[]);
        for (i, known) in shown.iter().enumerate() {
            browser.value(&format!("workbench.open({i})"));
            browser.wait(&format!("workbench.state.open === {i} && workbench.document.fresh && workbench.document.meta"));
            browser.value(&format!("workbench.chooseTool('{}')", self.kind.name()));
            browser.value("workbench.fit()");
            let mut order: Vec<usize> = (0..known.labels.len()).collect();
            random.shuffle(&mut order);
            for &k in order.iter().take(CLICKED / shown.len()) {
                let (path, radius) = &known.labels[k];
                let mut jittered = |at: [f64; 2]| at.map(|value| value + 2.0 * random.unit() - 1.0);
                let places: Vec<[f64; 2]> = path.iter().map(|at| jittered(*at)).collect();
                let on_screen: Vec<[f64; 2]> = places.iter().map(|at| browser.place(*at)).collect();
                match self.kind {
                    Kind::Particle => browser.click(on_screen[0]),
                    Kind::Vesicle => {
                        let rim = browser.place([places[0][0] + radius, places[0][1]]);
                        browser.drag(on_screen[0], rim);
                    }
                    Kind::Fiber => {
                        on_screen.iter().for_each(|at| browser.click(*at));
                        browser.key("Enter", false);
                    }
                }
            }
            browser.value("workbench.idle().then(() => true)");
        }
        browser.picture(&format!("{}-labels", self.name));
        let general = self.judged(&folder, self.kind.name(), None);
        let plain = self.plain(&folder);
        let (mut cells, mut seconds) = (vec![general], Vec::new());
        for round in 0..2 {
            if round == 1 {
                cells.push(plain.clone());
                self.correct(&mut browser, &shown);
            }
            let start = Instant::now();
            browser.press("learn");
            browser.wait("['preparing', 'training', 'picking'].includes(workbench.state.learn.phase)");
            browser.wait("['done', 'failed'].includes(workbench.state.learn.phase)");
            seconds.push(format!("{:.0}", start.elapsed().as_secs_f64()));
            assert_eq!(browser.value("workbench.state.learn.error"), Value::Null);
            let present = served.get("/api/models").json()["present"].as_str().unwrap().to_owned();
            let about = fs::read_to_string(folder.path().join(format!("workbench/models/learnt-{}/about.json", round + 1))).unwrap();
            let about: Value = serde_json::from_str(&about).unwrap();
            let model = match present.as_str() {
                "general" => self.kind.name().to_owned(),
                name => folder.path().join(format!("workbench/models/{name}/model.safetensors")).display().to_string(),
            };
            browser.value("workbench.open(0)");
            browser.wait("workbench.state.open === 0 && workbench.document.picks");
            browser.value("workbench.idle().then(() => true)");
            browser.picture(&format!("{}-learnt-{}", self.name, round + 1));
            let judged = self.judged(&folder, &model, about["threshold"].as_f64().filter(|_| present != "general"));
            cells.push(format!("{judged}, {}", about["chosen"].as_str().unwrap_or_default()));
        }
        format!("| {} | {} | {} |", self.name, cells.join(" | "), seconds.join(", "))
    }

    fn options(&self) -> Vec<&'static str> {
        match self.diameter_px {
            // Leaked: a study runs once.
            Some(diameter) => vec!["--angpix", "1", "--diameter", Box::leak(diameter.to_string().into_boxed_str())],
            None => Vec::new(),
        }
    }

    /// The same labels and plain `epicker train`, which does not know that some are missing unless it is told.
    fn plain(&self, folder: &TempDir) -> String {
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::create_dir(path("plain")).unwrap();
        for entry in fs::read_dir(path("workbench/labels")).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.extension().is_some_and(|ending| ending != "marks") {
                fs::copy(&entry, folder.path().join("plain").join(entry.file_name().unwrap())).unwrap();
            }
        }
        let (mics, labels, run) = (path("mics"), path("plain"), path("plain-run"));
        let mut args = vec!["train", "--data", &mics, "--label", &labels, "--exp_id", &run, "--mode", self.kind.name(), "--sparse_anno"];
        args.extend(["--train_pct", "100", "--val_pct", "0", "--test_pct", "0"]);
        args.extend(self.options());
        let result = epicker(&args);
        assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
        self.judged(folder, &path("plain-run/model_last.safetensors"), None)
    }

    /// Ten places that the model is least sure of are answered.
    fn correct(&self, browser: &mut Browser, shown: &[Known]) {
        browser.press("unsure");
        for _ in 0..10 {
            browser.wait("workbench.walk.place && workbench.state.open === workbench.walk.place.micrograph && workbench.document.fresh");
            let place = browser.value("workbench.walk.place");
            let [x, y, radius] = ["x", "y", "radius"].map(|key| place[key].as_f64().unwrap());
            let reach = self.diameter_px.map_or(radius / 2.0, |diameter| diameter / 4.0);
            let known = &shown[place["micrograph"].as_u64().unwrap() as usize];
            let there = known.labels.iter().find(|(path, _)| distance(path, [x, y]) < reach);
            match there {
                // The page takes the path that it has found, or asks for one to be drawn.
                Some((path, _)) if self.kind == Kind::Fiber => {
                    browser.value("workbench.chooseTool('fiber')");
                    browser.value("workbench.fit()");
                    let on_screen: Vec<[f64; 2]> = path.iter().map(|at| browser.place(*at)).collect();
                    on_screen.iter().for_each(|at| browser.click(*at));
                    browser.key("Enter", false);
                    browser.press("walk-skip");
                }
                Some(_) => browser.press("walk-yes"),
                None => browser.press("walk-no"),
            }
            browser.wait(&format!("JSON.stringify(workbench.walk.place) !== JSON.stringify({place})"));
            browser.value("workbench.idle().then(() => true)");
            if browser.value("!workbench.walk.place") == json!(true) {
                break;
            }
        }
    }

    /// F1 and AP on what judges: at the threshold that would be used, and at the best one. Of fibers F1 by length.
    fn judged(&self, folder: &TempDir, model: &str, threshold: Option<f64>) -> String {
        let judge = folder.path().join("judge").display().to_string();
        let threshold = threshold.map_or("auto".to_owned(), |threshold| threshold.to_string());
        let mut args = vec!["eval", "--data", &judge, "--label", &judge, "--load_model", model, "--mode", self.kind.name()];
        args.extend(["--bootstrap", "0", "--json"]);
        // The general model has its own threshold, or its own way to find one.
        if model != self.kind.name() {
            args.extend(["--vis_thresh", &threshold]);
        }
        let diameter = self.diameter_px.map(|diameter| diameter.to_string());
        if let Some(diameter) = &diameter {
            args.extend(["--diameter_px", diameter]);
        }
        if self.kind == Kind::Particle {
            args.extend(["--average", "2"]);
        }
        let result = epicker(&args);
        let text = String::from_utf8_lossy(&result.stdout).into_owned();
        let value: Value = serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{result:?}"));
        let number = |key: &str| value[key].as_f64().unwrap_or(f64::NAN);
        match self.kind {
            Kind::Fiber => format!("{:.3}", number("length_f1")),
            _ => format!("{:.3} (best {:.3}, AP {:.3})", number("f1_shipped"), number("f1_best"), number("ap")),
        }
    }
}
