//! Signals as schedulers, terminals and users send them, and named pipes among the files: a run that nobody watches ends
//! in order, and says so by its exit status.
#![cfg(unix)]

use crate::common::labelled::{write_mrc, write_thi};
use crate::common::micrographs::folder_of as with_micrographs;
use crate::common::program::Running;
use std::fs;
use std::path::Path;
use std::process::Command;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/trained.pth");

/// Names of the files of a folder that end so, in order.
fn names(folder: &Path, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter(|name| name.ends_with(ending)).collect();
    names.sort();
    names
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// True if this test was started by `nohup` or its like: children then ignore SIGHUP too, as they should.
fn ignores_sighup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}

const PICK: [&str; 10] = ["pick", "--data", "mics", "--load_model", MODEL, "--frame", "256", "--gpus", "-1", "--report"];

#[test]
fn each_signal_ends_a_batch_in_order_and_has_its_own_exit_status() {
    for (signal, name, status) in [("INT", "Ctrl-C", 130), ("TERM", "SIGTERM", 143), ("HUP", "SIGHUP", 129)] {
        if signal == "HUP" && ignores_sighup() {
            continue;
        }
        let folder = with_micrographs(80);
        let out = folder.path().join("output");
        let mut run = Running::start(folder.path(), &[&PICK[..], &["--output_type", "star"]].concat());
        run.wait_for("(1 of 80");
        run.signal(signal);
        assert_eq!(run.end(), Some(status), "{:#?}", run.told);
        let told = format!("interrupted by {name}: finishing the micrograph in hand; once more to stop at once");
        assert!(run.told.contains(&told), "{:#?}", run.told);
        let finished: Vec<String> = names(&out, ".star").into_iter().filter(|name| name != "autopick.star").collect();
        assert!(!finished.is_empty() && finished.len() < 80, "{}", finished.len());
        // Lists and report are those of what was finished, and nothing half-written lies about.
        let rows = |name: &str| fs::read_to_string(out.join(name)).unwrap().lines().filter(|line| line.contains(".mrc")).count();
        assert_eq!([rows("autopick.star"), rows("merge_results.thi")], [finished.len(); 2]);
        assert!(fs::read_to_string(out.join("report.html")).unwrap().trim_end().ends_with("</html>"));
        assert_eq!(names(&out, ".part"), Vec::<String>::new());
    }
}

#[test]
fn a_signal_that_is_delivered_twice_is_one_request() {
    let folder = with_micrographs(80);
    let mut run = Running::start(folder.path(), &PICK);
    run.wait_for("(1 of 80");
    run.signal("TERM");
    run.signal("TERM"); // as `timeout` does
    assert_eq!(run.end(), Some(143), "{:#?}", run.told);
    let out = folder.path().join("output");
    let finished = names(&out, ".thi").len() - 1;
    assert_eq!(fs::read_to_string(out.join("merge_results.thi")).unwrap().lines().count(), 3 + finished);
}

#[test]
fn a_run_under_nohup_outlives_its_terminal() {
    let folder = with_micrographs(3);
    let script = format!("trap '' HUP; exec '{}' \"$@\"", env!("CARGO_BIN_EXE_epicker"));
    let mut run = Running::of(Command::new("sh").args(["-c", &script, "sh"]).args(PICK).current_dir(folder.path()));
    run.wait_for("(1 of 3");
    run.signal("HUP");
    assert_eq!(run.end(), Some(0), "{:#?}", run.told);
    assert_eq!(names(&folder.path().join("output"), ".thi").len(), 4, "three and the list");
}

#[test]
fn a_second_signal_ends_a_job_of_relion_at_once_and_marks_it() {
    let folder = with_micrographs(3);
    fs::write(folder.path().join("mics.star"), "data_\n\nloop_\n_rlnMicrographName #1\nmics/m000.mrc\nmics/m001.mrc\nmics/m002.mrc\n")
        .unwrap();
    // A large image, so that a micrograph is in hand long enough. Once the first is told of, the network works on the second.
    let args = ["pick", "--in_mics", "mics.star", "--o", "External/job007", "--load_model", MODEL, "--frame", "2048", "--gpus", "-1"];
    let mut run = Running::start(folder.path(), &args);
    run.wait_for("(1 of 3");
    run.signal("TERM");
    run.wait_for("interrupted by SIGTERM: finishing");
    run.signal("INT");
    assert_eq!(run.end(), Some(130), "{:#?}", run.told);
    assert!(run.told.contains(&"interrupted by Ctrl-C: stopped at once".to_string()), "{:#?}", run.told);
    let job = folder.path().join("External/job007");
    assert_eq!(
        names(&job, "").into_iter().filter(|name| name.starts_with("RELION_JOB_EXIT")).collect::<Vec<_>>(),
        ["RELION_JOB_EXIT_ABORTED"]
    );
}

#[test]
fn sigterm_marks_a_job_of_relion_as_aborted() {
    let folder = with_micrographs(40);
    let rows: String = (0..40).map(|i| format!("mics/m{i:03}.mrc\n")).collect();
    fs::write(folder.path().join("mics.star"), format!("data_\n\nloop_\n_rlnMicrographName #1\n{rows}")).unwrap();
    let args = ["pick", "--in_mics", "mics.star", "--o", "External/job007", "--load_model", MODEL, "--frame", "256", "--gpus", "-1"];
    let mut run = Running::start(folder.path(), &args);
    run.wait_for("(1 of 40");
    run.signal("TERM");
    assert_eq!(run.end(), Some(143), "{:#?}", run.told);
    let job = folder.path().join("External/job007");
    assert!(job.join("RELION_JOB_EXIT_ABORTED").is_file() && job.join("RELION_OUTPUT_NODES.star").is_file());
}

#[test]
fn sigterm_saves_a_training_which_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mics = folder.path().join("mics");
    fs::create_dir(&mics).unwrap();
    for i in 0..3 {
        let discs = [[20 + 3 * i, 30], [70, 20 + 5 * i], [50, 75]];
        write_mrc(&mics.join(format!("m{i}.mrc")), [96, 96], &discs);
        write_thi(&mics.join(format!("m{i}.thi")), &discs);
    }
    let common = ["train", "--data", "mics", "--exp_id", "exp", "--load_model", MODEL, "--frame", "64", "--gpus", "-1"];
    let mut run =
        Running::start(folder.path(), &[&common[..], &["--num_epoch", "100000", "--lr_step", "70", "--train_pct", "100"]].concat());
    run.wait_for("epoch 1:");
    run.signal("TERM");
    assert_eq!(run.end(), Some(143), "{:#?}", run.told);
    assert!(run.told.iter().any(|line| line.contains("go on with --exp_id exp --resume")), "{:#?}", run.told);
    assert!(folder.path().join("exp/model_last.pth").is_file());
    assert_eq!(names(&folder.path().join("exp"), ".part"), Vec::<String>::new());
}

#[test]
fn a_simulation_stops_after_the_micrograph_in_hand_and_a_demo_takes_no_further_step() {
    let folder = tempfile::tempdir().unwrap();
    let size = ["--size", "256", "--count", "500"];
    let mut run = Running::start(folder.path(), &[&["simulate", "--output", "made", "--clean"], &size[..]].concat());
    run.wait_for("(1 of 500");
    run.signal("TERM");
    assert_eq!(run.end(), Some(143), "{:#?}", run.told);
    let made = folder.path().join("made");
    let count = names(&made, ".mrc").len();
    assert!((1..500).contains(&count));
    assert_eq!(fs::read_to_string(made.join("particle_0001.jsonl")).unwrap().lines().count(), count);

    let mut run = Running::start(folder.path(), &[&["demo", "--output", "shown", "--gpus", "-1"], &size[..]].concat());
    run.wait_for("(1 of 500");
    let (signal, status) = if ignores_sighup() { ("TERM", 143) } else { ("HUP", 129) };
    run.signal(signal);
    assert_eq!(run.end(), Some(status), "{:#?}", run.told);
    assert!(!run.told.iter().any(|line| line.contains("2. Picking")), "{:#?}", run.told);
}

#[test]
fn an_evaluation_ends_at_once_and_leaves_nothing() {
    let folder = with_micrographs(80);
    (0..80).for_each(|i| write_thi(&folder.path().join(format!("mics/m{i:03}.thi")), &[[24, 24], [72, 72]]));
    let args = ["eval", "--data", "mics", "--label", "mics", "--load_model", MODEL, "--frame", "256", "--gpus", "-1", "--output", "out"];
    let mut run = Running::start(folder.path(), &args);
    run.wait_for("80");
    run.signal("TERM");
    assert_eq!(run.end(), Some(143), "{:#?}", run.told);
    assert!(run.told.contains(&"interrupted by SIGTERM: stopped at once".to_string()), "{:#?}", run.told);
    assert!(!folder.path().join("out").exists());
}

#[test]
fn a_conversion_of_coordinates_lists_what_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("labels")).unwrap();
    (0..4000).for_each(|i| write_thi(&folder.path().join(format!("labels/m{i:04}.thi")), &[[24, 24]]));
    let mut run = Running::start(folder.path(), &["coords", "labels", "--to", "coordinate_files", "--output", "out"]);
    let out = folder.path().join("out");
    let start = std::time::Instant::now();
    while !out.join("m0000.star").exists() && start.elapsed().as_secs() < 300 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    run.signal("TERM");
    // On a machine that runs nothing else for a while, all files may have been written before the signal.
    let status = run.end();
    assert!([Some(143), Some(0)].contains(&status), "{:#?}", run.told);
    let written = names(&out, ".star").len() - 1;
    assert!(status == Some(143) || written == 4000, "{written}");
    let list = fs::read_to_string(out.join("autopick.star")).unwrap();
    assert_eq!(list.lines().filter(|line| line.contains(".star")).count(), written);
    assert_eq!(names(&out, ".part"), Vec::<String>::new());
}

#[test]
fn named_pipes_and_sockets_among_the_files_are_skipped_with_a_line() {
    let folder = with_micrographs(1);
    make_fifo(&folder.path().join("mics/a.mrc"));
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("mics/b.mrc")).unwrap();
    fs::write(folder.path().join("list.thi"), "mics/a.mrc\nmics/m000.mrc\n").unwrap();
    for data in ["mics", "list.thi"] {
        let mut run = Running::start(folder.path(), &[&["pick", "--data", data, "--output", "out"], &PICK[3..]].concat());
        let status = run.end();
        assert_eq!(status, Some(0), "{:#?}", run.told);
        assert!(run.told.contains(&"warning: mics/a.mrc: is a named pipe, not a file; skipped".to_string()), "{:#?}", run.told);
        let is_told = run.told.contains(&"warning: mics/b.mrc: is a socket, not a file; skipped".to_string());
        assert_eq!(is_told, data == "mics", "{:#?}", run.told);
    }
}

#[test]
fn no_command_waits_for_a_named_pipe() {
    let folder = with_micrographs(1);
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("labels")).unwrap();
    write_thi(&at("labels/m000.thi"), &[[24, 24], [72, 72]]);
    for name in ["labels/a.thi", "pipe", "pipe.thi", "pipe.star", "pipe.pdb"] {
        make_fifo(&at(name));
    }
    let cases: [(&[&str], i32, &str); 11] = [
        (&["pick", "--data", "pipe", "--load_model", MODEL], 2, "pipe: is a named pipe"),
        (&["pick", "--data", "pipe.thi", "--load_model", MODEL], 2, "pipe.thi: is a named pipe"),
        (&["pick", "--data", "mics", "--load_model", "pipe"], 2, "pipe: is a named pipe"),
        (&["pick", "--in_mics", "pipe.star", "--o", "job", "--load_model", MODEL], 2, "pipe.star: is a named pipe"),
        (&["check", "--data", "mics", "--label", "labels", "--diameter", "30"], 0, "labels/a.thi: is a named pipe, not a file; skipped"),
        (&["check", "--data", "mics", "--label", "pipe", "--diameter", "30"], 2, "pipe: is a named pipe"),
        (&["coords", "labels", "--to", "coord", "--output", "boxes"], 0, "labels/a.thi: is a named pipe, not a file; skipped"),
        (&["coords", "pipe", "labels/m000.thi", "--to", "coord", "--output", "boxes"], 1, "pipe: is a named pipe"),
        (&["eval", "--label", "labels", "--picks", "pipe", "--diameter_px", "20"], 2, "pipe: is a named pipe"),
        (&["convert", "pipe"], 1, "pipe: is a named pipe"),
        (&["simulate", "--structure", "pipe.pdb", "--output", "made"], 2, "pipe.pdb: is a named pipe"),
    ];
    for (args, status, word) in cases {
        let mut run = Running::start(folder.path(), args);
        assert_eq!(run.end(), Some(status), "{args:?}: {:#?}", run.told);
        assert!(run.told.iter().any(|line| line.contains(word)), "{args:?}: {:#?}", run.told);
    }
    assert!(at("boxes/m000.coord").is_file());
}
