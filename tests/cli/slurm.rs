//! `--shard slurm` and examples/slurm on a real Slurm, where one is installed: tests/slurm/start.sh makes a cluster of this machine.

use crate::common::micrographs::small;
use crate::common::program::{epicker, program, wait_until};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A cluster of one machine, which ends with the test.
struct Cluster {
    folder: PathBuf,
}

impl Cluster {
    /// None where Slurm is not installed or does not start, or this is not root.
    fn start(folder: &Path) -> Option<Cluster> {
        let is_there = |name: &str| Command::new("sh").args(["-c", &format!("command -v {name}")]).output().unwrap().status.success();
        let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.starts_with(b"0\n"));
        if !is_root || !["slurmctld", "slurmd", "munged", "mungekey", "sbatch"].into_iter().all(is_there) {
            println!("no Slurm here, or not root: Debian's slurm-wlm and munge have all that is needed");
            return None;
        }
        let cluster = Cluster { folder: folder.to_owned() };
        let started = cluster.script(&[]);
        let is_started = started.status.success();
        if !is_started {
            // A machine may keep programs from being the system's services. With EPICKER_SLURM=1 that counts as a failure.
            let told = String::from_utf8_lossy(&started.stderr).into_owned();
            assert!(std::env::var("EPICKER_SLURM").is_err(), "{told}");
            println!("Slurm is installed and does not start: {told}");
        }
        is_started.then_some(cluster)
    }

    fn script(&self, more: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/start.sh");
        Command::new(script).arg(&self.folder).args(more).output().unwrap()
    }

    fn run(&self, command: &mut Command) -> String {
        let result = command.env("SLURM_CONF", self.folder.join("slurm.conf")).output().unwrap();
        assert!(result.status.success(), "{command:?}: {}", String::from_utf8_lossy(&result.stderr));
        String::from_utf8(result.stdout).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.script(&["stop"]);
    }
}

const HOW: [&str; 4] = ["--load_model", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/trained.pth"), "--frame", "256"];

/// Coordinates, candidates and lists of an output folder.
fn results(output: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    for folder in [output.to_owned(), output.join("candidates")] {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|ending| ending == "thi" || ending == "star") {
                let text = fs::read_to_string(&path).unwrap().replace(&output.display().to_string(), "OUTPUT");
                files.insert(path.strip_prefix(output).unwrap().to_owned(), text);
            }
        }
    }
    files
}

/// The process that picks a share, if one does.
fn process_of(share: &str) -> Option<String> {
    let found = fs::read_dir("/proc").unwrap().flatten().find(|entry| {
        let text = fs::read(entry.path().join("environ")).unwrap_or_default();
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let has = |text: &[u8], word: &str| text.split(|byte| *byte == 0).any(|part| part == word.as_bytes());
        has(&text, &format!("SLURM_ARRAY_TASK_ID={share}")) && has(&line, "--shard") && line.starts_with(program().as_encoded_bytes())
    })?;
    Some(found.file_name().to_string_lossy().into_owned())
}

#[test]
fn an_array_of_jobs_with_one_killed_gives_the_files_of_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let Some(cluster) = Cluster::start(&folder.path().join("cluster")) else { return };
    let (mics, output) = (folder.path().join("mics"), folder.path().join("picks"));
    fs::create_dir(&mics).unwrap();
    for i in 0..40 {
        fs::write(mics.join(format!("m{i:02}.mrc")), small(&format!("m{i}"), [300, 260])).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/slurm/pick.sh");
    let submitted =
        cluster.run(Command::new(script).arg(&mics).arg(&output).args(HOW).args(["--output_type", "star"]).env("EPICKER", program()));
    assert!(submitted.contains("Submitted batch job 2"), "{submitted}");
    // The third task is killed in its work, as the system does it for want of memory.
    let log = || fs::read_to_string(output.join("task-3.log")).unwrap_or_default();
    wait_until(|| log().contains("picks (2 of"));
    wait_until(|| process_of("3").is_some_and(|id| Command::new("kill").args(["-9", &id]).status().unwrap().success()));
    wait_until(|| fs::read_to_string(output.join("merge.log")).is_ok_and(|text| text.contains("40 micrographs")));
    // It went on where it was.
    assert!(log().contains("0 done before") && (2..12).any(|done| log().contains(&format!("{done} done before"))), "{}", log());

    let once = folder.path().join("once");
    let [mics, to] = [&mics, &once].map(|path| path.display().to_string());
    let result = epicker(&[&["pick", "--data", &*mics, "--output_type", "star", "--output", &*to][..], &HOW].concat());
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    assert_eq!(results(&output), results(&once));
}

#[test]
fn two_tasks_train_what_one_process_trains() {
    let folder = tempfile::tempdir().unwrap();
    let Some(cluster) = Cluster::start(&folder.path().join("cluster")) else { return };
    let mics = folder.path().join("mics");
    fs::create_dir(&mics).unwrap();
    for i in 0..3 {
        fs::write(mics.join(format!("m{i}.mrc")), small(&format!("m{i}"), [300, 260])).unwrap();
        let star = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n60 70\n150 120\n90 200\n";
        fs::write(mics.join(format!("m{i}.star")), star).unwrap();
    }
    let how = ["--load_model", HOW[1], "--frame", "128", "--batch_size", "3", "--num_epochs", "3", "--train_pct", "67", "--val_pct", "33"];
    let how = [&how[..], &["--test_pct", "0"]].concat();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/slurm/train.sh");
    let team = folder.path().join("team");
    cluster.run(Command::new(script).args([&mics, &mics, &team]).args(&how).env("EPICKER", program()));
    wait_until(|| cluster.run(Command::new("squeue").arg("--noheader")).is_empty());
    let log = fs::read_to_string(team.join("train.log")).unwrap();
    assert!(log.contains("2 processes are joined by sockets") && log.contains("waiting for 1 other"), "{log}");
    let alone = folder.path().join("alone");
    let [mics, to] = [&mics, &alone].map(|path| path.display().to_string());
    let result = epicker(&[&["train", "--data", &*mics, "--exp_id", &*to, "--gpus", "-1"][..], &how].concat());
    let told = String::from_utf8_lossy(&result.stdout).into_owned() + &String::from_utf8_lossy(&result.stderr);
    let model = |folder: &Path| fs::read(folder.join("model_last.safetensors")).unwrap_or_else(|error| panic!("{error}: {told}{log}"));
    assert!(model(&team) == model(&alone), "{log}");
    // One process has written: the lines of the log stand there once, and no file of the team is left.
    assert_eq!(log.matches("epoch 3: ").count(), 1, "{log}");
    let names: Vec<String> = fs::read_dir(&team).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(!names.iter().any(|name| name.starts_with(".team") || name.starts_with("images")), "{names:?}");
}
