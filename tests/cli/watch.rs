//! `pick --watch`: a folder that grows while it is picked.

use crate::common::micrographs::small;
use crate::common::program::{Running, epicker, wait_until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/trained.pth");
const HOW: [&str; 7] = ["--load_model", MODEL, "--frame", "256", "--gpus", "-1", "--output"];

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("mics")).unwrap();
    folder
}

/// Starts to watch `mics`, with quick looks.
fn watch(folder: &Path, more: &[&str]) -> Running {
    let quick = ["pick", "--watch", "mics", "--poll", "0.1", "--rest", "0.3", "--lists-every", "0.5"];
    Running::start(folder, &[&quick[..], &HOW, &["out"], more].concat())
}

fn status(folder: &Path) -> Option<Value> {
    let text = fs::read_to_string(folder.join("out/status.json")).ok()?;
    Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// Ends a loop when the test ends, as it should or not.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Coordinates, candidates and lists: what does not depend on when something was done.
fn results(folder: &Path, output: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for (below, ending) in [("", ".thi"), ("candidates", ".star")] {
        for entry in fs::read_dir(folder.join(output).join(below)).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.display().to_string().ends_with(ending) {
                let text = fs::read_to_string(&entry).unwrap().replace(&format!("/{output}/"), "/OUT/");
                files.insert(entry.strip_prefix(folder.join(output)).unwrap().to_owned(), text.into_bytes());
            }
        }
    }
    files
}

/// Files that arrive: two dozen, or as many as are asked for, such as `EPICKER_ARRIVALS=200`.
fn arrivals() -> u64 {
    std::env::var("EPICKER_ARRIVALS").ok().and_then(|count| count.parse().ok()).unwrap_or(24)
}

#[test]
fn a_folder_that_grows_ends_as_if_it_had_been_picked_at_once() {
    const KILLS: u64 = 5;
    let (folder, files) = (folder(), arrivals());
    let at = |name: &str| folder.path().join("mics").join(name);
    let mut run = watch(folder.path(), &[]);
    run.wait_for("watching mics");
    // Whoever reads the status at any moment finds it whole.
    let (is_over, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut memory: Vec<Vec<u64>> = vec![Vec::new()];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                reads.fetch_add(u64::from(status(folder.path()).is_some()), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let _ends = Ends(&is_over);
        for i in 0..files {
            let bytes = small(&format!("m{i}"), [300, 260]);
            let name = format!("m{i:03}.mrc");
            match i % 6 {
                // In pieces, with pauses that are longer than a file usually has to rest.
                1 => {
                    fs::write(at(&name), &bytes[..3000]).unwrap();
                    std::thread::sleep(Duration::from_millis(500));
                    fs::write(at(&name), &bytes).unwrap();
                }
                // Under another name first.
                2 => {
                    fs::write(at(&format!(".{name}.part")), &bytes).unwrap();
                    fs::rename(at(&format!(".{name}.part")), at(&name)).unwrap();
                }
                // Replaced by another one after it was picked.
                3 => {
                    fs::write(at(&name), small("other", [280, 260])).unwrap();
                    let output = folder.path().join(format!("out/m{i:03}.thi"));
                    wait_until(|| output.exists());
                    fs::write(at(&name), &bytes).unwrap();
                }
                4 => fs::write(at(&name), "no micrograph at all, and shorter than any header").unwrap(),
                _ => fs::write(at(&name), &bytes).unwrap(),
            }
            memory.last_mut().unwrap().extend(run.memory_kib());
            if (i + 1) % (files / (KILLS + 1)) == 0 && memory.len() as u64 <= KILLS {
                run.signal("KILL");
                run.end();
                memory.push(Vec::new());
                run = watch(folder.path(), &[]);
            }
        }
        assert_eq!(memory.len() as u64, 1 + KILLS);
        // The broken ones fail once they have rested long enough to be no parts.
        let broken = (0..files).filter(|i| i % 6 == 4).count();
        wait_until(|| status(folder.path()).is_some_and(|status| status["waiting"] == 0 && status["failed"] == broken));
        wait_until(|| (0..files).filter(|i| i % 6 != 4).all(|i| folder.path().join(format!("out/m{i:03}.thi")).exists()));
        memory.last_mut().unwrap().extend(run.memory_kib());
        // A file ends it, and the run says that something failed.
        fs::write(folder.path().join("out/stop"), "").unwrap();
        assert_eq!(run.end(), Some(1), "{:#?}", run.told);
        let told = status(folder.path()).unwrap();
        assert_eq!((&told["state"], &told["failed"]), (&Value::from("ended"), &Value::from(broken)));
        assert!(told["picked"].as_u64().unwrap() >= files - broken as u64 && told["disk_free_bytes"].as_u64().unwrap() > 0, "{told}");
        let trend = told["trend"]["picks"].as_array().unwrap().len();
        assert_eq!(trend as u64, told["picked"].as_u64().unwrap().min(100));
    });
    // The last run had the whole journal to read, and the first one none.
    println!("{files} files, {KILLS} kills, status.json read {} times; KiB of memory, run by run: {memory:?}", reads.into_inner());

    let once = epicker(
        &[
            &["pick", "--data", &folder.path().join("mics").display().to_string()][..],
            &HOW,
            &[&folder.path().join("once").display().to_string()],
        ]
        .concat(),
    );
    assert_eq!(once.status.code(), Some(1), "{}", String::from_utf8_lossy(&once.stderr));
    let (watched, picked) = (results(folder.path(), "out"), results(folder.path(), "once"));
    assert_eq!(watched.keys().collect::<Vec<_>>(), picked.keys().collect::<Vec<_>>());
    for (name, bytes) in &picked {
        let [watched, picked] = [&watched[name], bytes].map(|bytes| {
            // The lists name micrographs as they were given: one run was started here, the other one anywhere.
            String::from_utf8_lossy(bytes).replace(&folder.path().join("mics").display().to_string(), "mics")
        });
        assert_eq!(watched, picked, "{}", name.display());
    }
}

#[test]
fn a_watch_ends_when_nothing_comes_and_goes_on_where_it_was() {
    let folder = folder();
    let write = |name: &str| fs::write(folder.path().join("mics").join(name), small(name, [300, 260])).unwrap();
    write("a.mrc");
    let mut run = watch(folder.path(), &["--stop-after", "1", "--json", "--report"]);
    assert_eq!(run.end(), Some(0), "{:#?}", run.told);
    let events: Vec<Value> = run.told.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let image = events.iter().find(|event| event["event"] == "image").unwrap();
    assert!(image["time"].as_f64().unwrap() > 1.7e9, "{image}");
    assert!(folder.path().join("out/report.html").is_file() && folder.path().join("out/merge_results.thi").is_file());
    let journal = || fs::read_to_string(folder.path().join("out/journal.jsonl")).unwrap().lines().count();
    assert_eq!(journal(), 1);
    // What is done is not done again, and another name for the same outputs is told.
    write("b.mrc");
    fs::write(folder.path().join("mics/a.mrc.gz"), "x").unwrap();
    let mut run = watch(folder.path(), &["--stop-after", "5"]);
    assert_eq!(run.end(), Some(1));
    assert!(run.told.iter().any(|line| line.contains("a.mrc.gz: its outputs would be called as those of")), "{:#?}", run.told);
    assert_eq!(journal(), 3);
    assert_eq!(status(folder.path()).unwrap()["picked"], 2);
    // Other micrographs than those of the folder cannot be asked for beside it.
    let refused = epicker(&["pick", "--watch", "mics", "--data", "mics"]);
    assert_eq!(refused.status.code(), Some(2));
}
