//! `epicker pick` as an External job of RELION.

use crate::common::micrographs::small;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/trained.pth");

/// A project with two micrographs of one name in two folders of a job.
struct Project {
    folder: TempDir,
}

impl Project {
    fn new(pipeline: Option<&str>) -> Self {
        let project = Project { folder: tempfile::tempdir().unwrap() };
        let mut star =
            "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnMicrographPixelSize #3\nopticsGroup1 1 1.5\n\n\
                        data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
                .to_string();
        for name in ["grid1/mic.mrc", "grid2/mic.mrc"] {
            let path = format!("MotionCorr/job002/{name}");
            fs::create_dir_all(project.path(&path).parent().unwrap()).unwrap();
            fs::write(project.path(&path), small(name, [300, 260])).unwrap();
            star += &format!("{path} 1\n");
        }
        fs::create_dir_all(project.path("CtfFind/job003")).unwrap();
        fs::write(project.path("CtfFind/job003/micrographs_ctf.star"), star + "\n").unwrap();
        if let Some(text) = pipeline {
            fs::write(project.path("default_pipeline.star"), text).unwrap();
        }
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The command as RELION builds it.
    fn run(&self, options: &[&str]) -> Output {
        let base = ["pick", "--o", "External/job007/", "--in_mics", "CtfFind/job003/micrographs_ctf.star"];
        let more = ["--load_model", MODEL, "--frame", "256", "--j", "2", "--pipeline_control", "External/job007/"];
        let args = [&base[..], &more, options].concat();
        Command::new(env!("CARGO_BIN_EXE_epicker")).args(args).current_dir(self.folder.path()).output().unwrap()
    }

    fn endings(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("External/job007")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("RELION_JOB_")).collect()
    }
}

const PIPELINE_3: &str =
    "data_pipeline_nodes\n\nloop_\n_rlnPipeLineNodeName #1\n_rlnPipeLineNodeType #2\nCtfFind/job003/micrographs_ctf.star 1\n";
const PIPELINE_4: &str = "data_pipeline_nodes\n\nloop_\n_rlnPipeLineNodeName #1\n_rlnPipeLineNodeTypeLabel #2\n_rlnPipeLineNodeTypeLabelDepth #3\n\
                          CtfFind/job003/micrographs_ctf.star MicrographsData.star.relion.ctf 1\n";
const PIPELINE_5: &str = "data_pipeline_nodes\n\nloop_\n_rlnPipeLineNodeName #1\n_rlnPipeLineNodeTypeLabel #2\n_rlnPipeLineNodeTypeLabelDepth #3\n\
                          CtfFind/job003/micrographs_ctf.star MicrographGroupMetadata.star.relion.ctf 1\n";

#[test]
fn a_job_leaves_what_each_relion_expects() {
    let label = "_rlnPipeLineNodeTypeLabel";
    let cases = [
        (Some(PIPELINE_3), "_rlnPipeLineNodeType", "coords_suffix_autopick.star", "2"),
        (Some(PIPELINE_4), label, "autopick.star", "MicrographsCoords.star.relion.autopick"),
        (Some(PIPELINE_5), label, "autopick.star", "MicrographCoordsGroup.star.relion.autopick"),
        (None, label, "autopick.star", "MicrographCoordsGroup.star.relion.autopick"),
    ];
    for (pipeline, column, node, kind) in cases {
        let project = Project::new(pipeline);
        let result = project.run(&[]);
        assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
        assert_eq!(project.endings(), ["RELION_JOB_EXIT_SUCCESS"]);
        for grid in ["grid1", "grid2"] {
            let star = project.text(&format!("External/job007/{grid}/mic_autopick.star"));
            assert!(star.starts_with("data_\n\nloop_\n_rlnCoordinateX #1\n") && star.lines().count() > 10, "{star}");
            assert!(project.text(&format!("External/job007/candidates/{grid}/mic_autopick.star")).contains("PixelSize 1.5"));
        }
        let nodes = format!("data_output_nodes\n\nloop_\n_rlnPipeLineNodeName #1\n{column} #2\nExternal/job007/{node} {kind}\n");
        assert_eq!(project.text("External/job007/RELION_OUTPUT_NODES.star"), nodes);
        let list = project.text(&format!("External/job007/{node}"));
        if node == "autopick.star" {
            let rows =
                ["grid1", "grid2"].map(|grid| format!("MotionCorr/job002/{grid}/mic.mrc\tExternal/job007/{grid}/mic_autopick.star\n"));
            let head = "data_coordinate_files\n\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n";
            assert_eq!(list, format!("{head}{}", rows.concat()));
        } else {
            assert_eq!(list, "CtfFind/job003/micrographs_ctf.star\n");
        }
    }
}

#[test]
fn fibers_are_start_end_pairs() {
    let project = Project::new(Some(PIPELINE_5));
    assert_eq!(project.run(&["--mode", "fiber"]).status.code(), Some(0));
    assert!(project.text("External/job007/RELION_OUTPUT_NODES.star").contains(" MicrographCoordsGroup.star.relion.helixstartend\n"));
    assert_eq!(project.run(&["--mode", "fiber", "--relion_version", "4.0"]).status.code(), Some(0));
    assert!(project.text("External/job007/RELION_OUTPUT_NODES.star").contains(" MicrographsCoords.star.relion.helixstartend\n"));
}

#[test]
fn fibers_that_are_written_as_segments_are_announced_as_relions_own() {
    // RELION's AutoPick writes segments with priors too, and its node is that of particles (pipeline_jobs.cpp).
    let project = Project::new(Some(PIPELINE_5));
    let result = project.run(&["--mode", "fiber", "--spacing", "40"]);
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
    assert!(project.text("External/job007/grid1/mic_autopick.star").contains("rlnAngleTiltPrior"));
    assert!(project.text("External/job007/RELION_OUTPUT_NODES.star").contains(" MicrographCoordsGroup.star.relion.autopick\n"));
}

#[test]
fn a_job_succeeds_if_any_micrograph_was_finished() {
    let project = Project::new(None);
    fs::write(project.path("MotionCorr/job002/grid1/mic.mrc"), "broken").unwrap();
    let result = project.run(&[]);
    assert_eq!(result.status.code(), Some(1));
    assert_eq!(project.endings(), ["RELION_JOB_EXIT_SUCCESS"]);
    assert!(String::from_utf8_lossy(&result.stderr).contains("grid1/mic.mrc"));
    assert!(!project.text("External/job007/autopick.star").contains("grid1"));
    fs::write(project.path("MotionCorr/job002/grid2/mic.mrc"), "broken").unwrap();
    assert_eq!(project.run(&[]).status.code(), Some(1));
    assert_eq!(project.endings(), ["RELION_JOB_EXIT_FAILURE"], "the mark of the run before is gone");
}

#[test]
fn wrong_usage_is_a_failed_job() {
    let project = Project::new(None);
    fs::create_dir_all(project.path("External/job007")).unwrap();
    for options in [&["--load_model", "/nowhere.pth"][..], &["--vis_thresh", "7"], &["--nonsense"], &["--output_type", "thi"]] {
        assert_eq!(project.run(options).status.code(), Some(2), "{options:?}");
        assert_eq!(project.endings(), ["RELION_JOB_EXIT_FAILURE"], "{options:?}");
        fs::remove_file(project.path("External/job007/RELION_JOB_EXIT_FAILURE")).unwrap();
    }
}

#[test]
fn relion_can_stop_a_job() {
    let project = Project::new(None);
    fs::create_dir_all(project.path("External/job007")).unwrap();
    fs::write(project.path("External/job007/RELION_JOB_ABORT_NOW"), "").unwrap();
    assert_eq!(project.run(&[]).status.code(), Some(130));
    assert_eq!(project.endings(), ["RELION_JOB_EXIT_ABORTED"]);
    // Continued, the job does the rest.
    assert_eq!(project.run(&["--skip-done"]).status.code(), Some(0));
    assert_eq!(project.endings(), ["RELION_JOB_EXIT_SUCCESS"]);
}

/// A training as RELION starts it, on coordinates that lie in another job.
fn train(project: &Project, options: &[&str]) -> Output {
    let base = ["train", "--o", "External/job007/", "--in_mics", "CtfFind/job003/micrographs_ctf.star", "--in_coords"];
    let more = ["AutoPick/job005/autopick.star", "--j", "2", "--load_model", MODEL, "--frame", "128", "--batch_size", "1"];
    let short = ["--num_epochs", "2", "--train_pct", "100", "--val_pct", "0", "--test_pct", "0", "--gpus", "-1"];
    let args = [&base[..], &more, &short, options].concat();
    Command::new(env!("CARGO_BIN_EXE_epicker")).args(args).current_dir(project.folder.path()).output().unwrap()
}

/// A project with picks of an earlier job.
fn with_picks() -> Project {
    let project = Project::new(Some(PIPELINE_5));
    fs::create_dir_all(project.path("AutoPick/job005")).unwrap();
    let mut list = "data_coordinate_files\n\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n".to_owned();
    for grid in ["grid1", "grid2"] {
        let file = format!("AutoPick/job005/{grid}_autopick.star");
        fs::write(project.path(&file), "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n60 70\n150 120\n90 200\n").unwrap();
        list += &format!("MotionCorr/job002/{grid}/mic.mrc {file}\n");
    }
    fs::write(project.path("AutoPick/job005/autopick.star"), list).unwrap();
    project
}

#[test]
fn a_training_is_a_job_that_shows_its_model_and_can_be_continued() {
    let project = with_picks();
    // RELION asked it to stop before it began: it saves after its first step.
    fs::create_dir_all(project.path("External/job007")).unwrap();
    fs::write(project.path("External/job007/RELION_JOB_ABORT_NOW"), "").unwrap();
    let stopped = train(&project, &[]);
    assert_eq!(stopped.status.code(), Some(130), "{}", String::from_utf8_lossy(&stopped.stderr));
    assert_eq!(project.endings(), ["RELION_JOB_EXIT_ABORTED"]);
    // Continued, it goes on where it was.
    let continued = train(&project, &[]);
    let told = String::from_utf8_lossy(&continued.stdout).into_owned();
    assert!(told.contains("going on after epoch 0, step 1"), "{told}{}", String::from_utf8_lossy(&continued.stderr));
    assert!(told.contains("2 micrographs train"), "{told}");
    assert_eq!(project.endings(), ["RELION_JOB_EXIT_SUCCESS"]);
    let nodes = "data_output_nodes\n\nloop_\n_rlnPipeLineNodeName #1\n_rlnPipeLineNodeTypeLabel #2\n\
                 External/job007/model_last.safetensors ParamsData.safetensors.epicker.model\n";
    assert_eq!(project.text("External/job007/RELION_OUTPUT_NODES.star"), nodes);
    assert!(project.path("External/job007/model_last.safetensors").is_file());
}

#[test]
fn a_training_that_cannot_begin_is_a_job_that_failed() {
    let project = with_picks();
    fs::create_dir_all(project.path("External/job007")).unwrap();
    for options in [&["--frame", "7"][..], &["--label_type", "box"], &["--label", "elsewhere"]] {
        let result = train(&project, options);
        assert_eq!(result.status.code(), Some(2), "{}", String::from_utf8_lossy(&result.stdout));
        assert_eq!(project.endings(), ["RELION_JOB_EXIT_FAILURE"]);
        fs::remove_file(project.path("External/job007/RELION_JOB_EXIT_FAILURE")).unwrap();
    }
}
