//! The workbench as a person uses it, in a real browser, where Chromium is installed: labels are clicked, dragged, undone, saved and
//! learnt from, the threshold is moved, and all of it can be done by keyboard.
//!
//! `study` is run by hand: it makes the table of docs/workbench.md from real micrographs.

use crate::common::chromium::{self, Browser};
use crate::common::drawn::{Drawing, Shape};
use crate::common::micrographs::mrc;
use crate::common::program::epicker;
use crate::common::served::Served;
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
    browser.open(&served.page());
    browser.picture("open");
    browser.value("document.getElementById('card').hidden || document.getElementById('card-close').click()");
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
    browser.open(&served.page());
    browser.value("document.getElementById('card').hidden || document.getElementById('card-close').click()");
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
    browser.open(&served.page());
    browser.value("document.getElementById('card').hidden || document.getElementById('card-close').click()");
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

/// One row of the table: labels are clicked from the truth with a pixel of jitter, `learn` is pressed, and the micrographs that nobody
/// has labelled judge; then ten places that the model is least sure of are answered by the truth, and all is done again.
struct Case {
    data: PathBuf,
    /// Diameter, pixels, for `eval`.
    diameter_px: f64,
    /// How the command line says it.
    options: Vec<String>,
}

/// Runs by hand: `EPICKER_STUDY=DATA cargo test --release --test cli browser::study -- --ignored --nocapture`.
#[test]
#[ignore = "takes half an hour, and needs real micrographs"]
fn study() {
    let data = PathBuf::from(std::env::var_os("EPICKER_STUDY").unwrap());
    let case = |name: &str, diameter_px: f64| Case {
        data: data.join(name),
        diameter_px,
        options: ["--angpix", "1", "--diameter", &diameter_px.to_string()].map(str::to_owned).to_vec(),
    };
    let cases = [
        case("apoferritin-10146", 84.0),
        case("betagal-10017", 40.5),
        case("proteasome20s-mm", 21.5),
        case("trpv1-10059", 28.5),
        case("viral-10947", 60.0),
    ];
    println!("| micrographs | general model | after 20 labels | picks | after ten corrections | seconds of learning |");
    for case in cases {
        println!("{}", case.row());
    }
}

impl Case {
    fn row(&self) -> String {
        let folder = tempfile::tempdir().unwrap();
        let mut all: Vec<PathBuf> = fs::read_dir(&self.data).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.retain(|path| path.extension().is_some_and(|extension| extension == "mrc"));
        all.sort();
        for part in ["mics", "judge"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        // The first two are shown; the others judge.
        for (i, path) in all.iter().enumerate() {
            let link = |part: &str, path: &Path| {
                std::os::unix::fs::symlink(path, folder.path().join(part).join(path.file_name().unwrap())).unwrap()
            };
            if i < 2 {
                link("mics", path);
            } else {
                link("judge", path);
                link("judge", &path.with_extension("star"));
            }
        }
        let truth: Vec<Vec<[f64; 2]>> = all[..2].iter().map(|path| truth_of(&path.with_extension("star"))).collect();
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let served = Served::start(folder.path(), &[&["mics"][..], &options].concat());
        let mut browser = Browser::start(&chromium::found().unwrap(), [1280, 900]);
        browser.open(&served.page());
        browser.value("document.getElementById('card').hidden || document.getElementById('card-close').click()");
        let mut random = Random::new(1, &[]);
        for (i, truth) in truth.iter().enumerate() {
            browser.value(&format!("workbench.open({i})"));
            browser.wait(&format!("workbench.state.open === {i} && workbench.document.fresh"));
            browser.value("workbench.chooseTool('particle')");
            let mut order: Vec<usize> = (0..truth.len()).collect();
            random.shuffle(&mut order);
            for &k in &order[..10] {
                let mut jitter = || 2.0 * random.unit() - 1.0;
                let at = [truth[k][0] + jitter(), truth[k][1] + jitter()];
                let place = browser.place(at);
                browser.click(place);
            }
            browser.value("workbench.idle().then(() => true)");
        }
        let mut cells = vec![self.judged(&folder, "particle", None)];
        let mut seconds = Vec::new();
        for round in 0..2 {
            if round == 1 {
                self.correct(&mut browser, &truth);
            }
            let start = Instant::now();
            browser.press("learn");
            browser.wait("['done', 'failed'].includes(workbench.state.learn.phase)");
            seconds.push(format!("{:.0}", start.elapsed().as_secs_f64()));
            let models = served.get("/api/models").json();
            let present = models["present"].as_str().unwrap().to_owned();
            let threshold = served.get("/api/session").json()["threshold"].as_f64();
            let model = match present.as_str() {
                "general" => "particle".to_owned(),
                name => folder.path().join(format!("workbench/models/{name}/model.safetensors")).display().to_string(),
            };
            browser.picture(&format!("{}-{round}", self.data.file_name().unwrap().to_string_lossy()));
            cells.push(format!("{} ({present})", self.judged(&folder, &model, threshold.filter(|_| present != "general"))));
        }
        format!("| {} | {} | {} |", self.data.file_name().unwrap().to_string_lossy(), cells.join(" | "), seconds.join(", "))
    }

    /// Ten places that the model is least sure of are answered.
    fn correct(&self, browser: &mut Browser, truth: &[Vec<[f64; 2]>]) {
        browser.press("unsure");
        for _ in 0..10 {
            browser.wait("workbench.walk.place && workbench.state.open === workbench.walk.place.micrograph && workbench.document.fresh");
            let place = browser.value("workbench.walk.place");
            let [x, y] = ["x", "y"].map(|key| place[key].as_f64().unwrap());
            let is_particle = truth[place["micrograph"].as_u64().unwrap() as usize]
                .iter()
                .any(|at| (at[0] - x).hypot(at[1] - y) < self.diameter_px / 4.0);
            let before = place.to_string();
            browser.press(if is_particle { "walk-yes" } else { "walk-no" });
            browser.wait(&format!("JSON.stringify(workbench.walk.place) !== JSON.stringify({before})"));
            browser.value("workbench.idle().then(() => true)");
            if browser.value("!workbench.walk.place") == json!(true) {
                break;
            }
        }
    }

    /// F1 and AP on the micrographs that judge: at the threshold that would be used, and at the best one.
    fn judged(&self, folder: &TempDir, model: &str, threshold: Option<f64>) -> String {
        let judge = folder.path().join("judge").display().to_string();
        let (diameter, threshold) = (self.diameter_px.to_string(), threshold.map_or("auto".to_owned(), |threshold| threshold.to_string()));
        let result = epicker(&[
            "eval",
            "--data",
            &judge,
            "--label",
            &judge,
            "--load_model",
            model,
            "--diameter_px",
            &diameter,
            "--vis_thresh",
            &threshold,
            "--bootstrap",
            "0",
            "--average",
            "2",
            "--json",
        ]);
        let text = String::from_utf8_lossy(&result.stdout).into_owned();
        let value: Value = serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{result:?}"));
        let number = |key: &str| value[key].as_f64().unwrap();
        format!("{:.3} (best {:.3}, AP {:.3})", number("f1_shipped"), number("f1_best"), number("ap"))
    }
}

fn truth_of(star: &Path) -> Vec<[f64; 2]> {
    let text = fs::read_to_string(star).unwrap();
    let numbers = |line: &str| -> Option<[f64; 2]> {
        let mut columns = line.split_whitespace().map(str::parse);
        Some([columns.next()?.ok()?, columns.next()?.ok()?])
    };
    text.lines().filter_map(numbers).collect()
}
