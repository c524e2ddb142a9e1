//! The command line as users type it: what is understood, what is said of what is not, and how much is told.

use crate::common::labelled::write_thi;
use crate::common::micrographs::small;
use crate::common::program::{epicker, is_refused};
use epicker::cli::check_command_line;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/trained.pth");

/// A folder as docs/usage-errors.md supposes it: two micrographs in mics/, their labels in labels/, a model.
fn place() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    ["mics", "labels"].iter().for_each(|name| fs::create_dir(at(name)).unwrap());
    for name in ["a", "b"] {
        fs::write(at(&format!("mics/{name}.mrc")), small(name, [300, 260])).unwrap();
        write_thi(&at(&format!("labels/{name}.thi")), &[[24, 24], [72, 72]]);
    }
    fs::copy(MODEL, at("model.pth")).unwrap();
    folder
}

fn run(folder: &Path, line: &str) -> Output {
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[0], "epicker", "{line}");
    Command::new(env!("CARGO_BIN_EXE_epicker")).args(&words[1..]).current_dir(folder).output().unwrap()
}

fn stdout(result: &Output) -> String {
    String::from_utf8_lossy(&result.stdout).into_owned()
}

fn stderr(result: &Output) -> String {
    String::from_utf8_lossy(&result.stderr).into_owned()
}

/// Whether a command line can be understood, and what is said if not.
fn understood(line: &str) -> Result<(), String> {
    check_command_line(line.split_whitespace().map(Into::into).collect()).map_err(|error| format!("{error:#}"))
}

#[test]
fn every_wrong_command_line_of_the_documentation_gets_the_help_that_it_says() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/usage-errors.md")).unwrap();
    let rows: Vec<[&str; 3]> = text
        .lines()
        .filter(|line| line.starts_with("| `epicker"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>().try_into().unwrap())
        .collect();
    assert!(rows.len() >= 40, "{} rows", rows.len());
    let has_gpu = epicker::device::gpu::cuda::devices().is_ok_and(|devices| !devices.is_empty());
    for [line, _, now] in rows {
        let line = line.trim_matches('`');
        if line.ends_with("--gpus 0") && has_gpu {
            println!("this machine has a GPU, so its absence was not told");
            continue;
        }
        let folder = place();
        let before = listing(folder.path());
        let result = run(folder.path(), line);
        assert_eq!(stderr(&result).trim_end(), format!("error: {}", now.replace("\\|", "|")), "{line}");
        assert_eq!(result.status.code(), Some(2), "{line}");
        assert_eq!(listing(folder.path()), before, "{line}: files were made");
    }
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn short_forms_reach_the_option_that_is_meant() {
    let folder = place();
    let pick = "epicker pick --load_model model.pth --frame 256 --gpus -1 --quiet";
    // RELION's --o and --j belong to a job of RELION; the original's --dataset is hidden behind --data.
    for (i, options) in
        ["--data mics --output", "--dat mics --outp", "--dat=mics --out", "-o", "--da mics --o", "--th 0.3 --o", "--thresh 0.3 --o"]
            .into_iter()
            .enumerate()
    {
        let data = if options.contains("mics") { "" } else { "--data mics " };
        let result = run(folder.path(), &format!("{pick} {data}{options} picks{i}"));
        if options.starts_with("--th ") {
            is_refused(&result, "--th: ambiguous; expected one of --threshold, --threads");
            continue;
        }
        assert_eq!(result.status.code(), Some(0), "{options}: {}", stderr(&result));
        assert!(folder.path().join(format!("picks{i}/b.thi")).is_file(), "{options}");
    }
    let of = |options: &str| {
        let result = run(folder.path(), &format!("{pick} --data mics -o {options}"));
        assert_eq!(result.status.code(), Some(0), "{}", stderr(&result));
        fs::read(folder.path().join(options.split(' ').next().unwrap()).join("a.thi")).unwrap()
    };
    assert_eq!(of("x --threshold 0.01"), of("y --vis_thresh 0.01"));
    assert_ne!(of("x --threshold 0.01"), of("z --vis_thresh 0"));
}

#[test]
fn output_is_never_mistaken_in_any_command() {
    for (command, rest) in [
        ("pick", "--data mics"),
        ("rethreshold", "--data picks"),
        ("coords", "labels --to box"),
        ("eval", "--label labels --picks picks"),
        ("check", "--data mics"),
        ("demo", ""),
        ("simulate", ""),
        ("train", "--data mics"),
    ] {
        for option in ["-o", "--out", "--outp", "--outpu", "--output"] {
            assert_eq!(understood(&format!("epicker {command} {rest} {option} results")), Ok(()), "{command} {option}");
        }
    }
    // In a training --output is its folder, and not the exemplars'.
    let folder = place();
    let result = run(
        folder.path(),
        "epicker train --data mics --label labels --output mine --train_pct 1 --num_epoch 1 --gpus -1 --val_pct 99 --test_pct 1",
    );
    is_refused(&result, "--train_pct");
    let help = stdout(&run(folder.path(), "epicker train --help"));
    assert!(help.contains("-o, --exp_id <FOLDER>") && help.contains("[alias: --output]"), "{help}");
}

#[test]
fn what_the_original_knows_is_still_understood() {
    for line in [
        "epicker pick --data mics --load_model m.pth --output picks --task ctdet --arch dla_34 --down_ratio 4 --debug 0 --num_workers 4",
        "epicker pick --data=mics --load_model=m.pth --output_type=box --K 500 --vis_t 0.1 --edge 0 --gpus 0,1 --dataset x",
        "epicker train --exp_id e --data d --label d --train_pct 100 --gpus 0 --sparse_anno --lr 1e-4 --batch_size 4 --num_epoch 60",
        "epicker train --data d --continual --load_exemplar e --output_exemplar o --sampling_size 200 --hide_data_time --input_res 512",
        "epicker pick --o External/job001/ --in_mics CtfFind/job003/micrographs_ctf.star --j 4 --pipeline_control External/job001/",
    ] {
        assert_eq!(understood(line), Ok(()), "{line}");
    }
}

#[test]
fn help_is_where_it_is_looked_for() {
    for (line, other) in
        [("epicker help", "epicker"), ("epicker help pick", "epicker pick --help"), ("epicker help coords", "epicker coords --help")]
    {
        let [asked, usual] = [line, other].map(|line| run(Path::new("."), line));
        assert_eq!((asked.status.code(), stderr(&asked).as_str()), (Some(0), ""), "{line}");
        assert!(stdout(&asked).contains("Usage:"), "{line}");
        assert_eq!(stdout(&asked), stdout(&usual), "{line}");
    }
    assert!(stdout(&run(Path::new("."), "epicker --help")).contains("epicker help COMMAND"));
}

#[test]
fn quiet_commands_tell_nothing_but_what_json_asks_for() {
    let folder = place();
    let label = "--data mics --label labels --diameter 30 --frame 64";
    for line in [
        "epicker pick --data mics --load_model model.pth --frame 256 --output picks --report --visual",
        "epicker rethreshold --data picks --vis_thresh 0.1",
        "epicker coords labels --to star --output stars",
        "epicker eval --data mics --label labels --picks labels --diameter 30 --output judged",
        &format!("epicker check {label}"),
        &format!("epicker exemplar create kept {label}"),
        "epicker exemplar list kept",
        "epicker exemplar prune kept --keep 1",
        &format!("epicker train {label} --load_model model.pth --exp_id mine --num_epoch 1 --batch_size 1 --train_pct 100 --gpus -1"),
        "epicker convert model.pth copy.safetensors",
        "epicker simulate --count 1 --size 128 --clean --output made",
        "epicker bench --load_model model.pth --frame 64 --runs 1",
        "epicker plan --load_model model.pth --frame 64",
    ] {
        for quiet in ["--quiet", "-q"] {
            // Twice into the same folders, where that is allowed.
            let line = line.replace("--exp_id mine", &format!("--exp_id mine{quiet}"));
            let again = if line.contains("simulate") { "--overwrite" } else { "" };
            let result = run(folder.path(), &format!("{line} {again} {quiet}"));
            assert_eq!(result.status.code(), Some(0), "{line}: {}", stderr(&result));
            assert_eq!(stdout(&result), "", "{line}");
            assert!(stderr(&result).lines().all(|line| line.starts_with("warning: ")), "{line}: {}", stderr(&result));
        }
    }
    let result = run(folder.path(), "epicker --quiet pick --data mics --load_model model.pth --frame 256 --json");
    let events: Vec<serde_json::Value> = stdout(&result).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.iter().map(|event| event["event"].as_str().unwrap()).collect::<Vec<_>>(), ["start", "image", "image", "done"]);
    assert_eq!(stderr(&result), "");
    // What went wrong is told all the same.
    fs::write(folder.path().join("mics/a.mrc"), "broken").unwrap();
    let result = run(folder.path(), "epicker pick --data mics --load_model model.pth --frame 256 -q");
    assert_eq!((result.status.code(), stdout(&result).as_str()), (Some(1), ""));
    assert!(stderr(&result).contains("error: ") && stderr(&result).contains("a.mrc"), "{}", stderr(&result));
}

#[test]
fn one_is_singular() {
    let folder = place();
    fs::remove_file(folder.path().join("mics/b.mrc")).unwrap();
    fs::remove_file(folder.path().join("labels/b.thi")).unwrap();
    for line in [
        "epicker pick --data mics --load_model model.pth --frame 256 --K 1 --edge 0 --gpus -1 --threads 1",
        "epicker coords labels --to coord --output boxes",
        "epicker check --data mics --label labels --diameter 30",
        "epicker exemplar create kept --data mics --label labels --diameter 30 --sampling_size 1",
        "epicker simulate --count 1 --size 128 --output made",
    ] {
        let result = run(folder.path(), line);
        assert_eq!(result.status.code(), Some(0), "{line}: {}", stderr(&result));
        let told = stdout(&result) + &stderr(&result);
        let words: Vec<&str> = told.split(|c: char| c.is_whitespace() || "():;".contains(c)).collect();
        let wrong = words.windows(2).find(|pair| {
            pair[0] == "1" && pair[1].trim_end_matches([',', '.', ';']).ends_with('s') && pair[1].starts_with(|c: char| c.is_lowercase())
        });
        assert_eq!(wrong, None, "{line}: {told}");
    }
}

#[test]
fn every_command_line_of_the_page_on_recovery_is_understood() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/recovery.md")).unwrap();
    // Those between backticks, and those of blocks, where a line may follow other words, such as srun's.
    let between: Vec<&str> = text.split('`').filter(|part| part.starts_with("epicker ") && !part.contains('\n')).collect();
    let in_blocks = text.split("```sh\n").skip(1).flat_map(|block| block.split("```").next().unwrap().lines());
    let in_blocks: Vec<&str> = in_blocks.filter_map(|line| line.find("epicker ").map(|at| &line[at..])).collect();
    assert!(between.len() >= 8 && in_blocks.len() >= 2, "{between:?} {in_blocks:?}");
    for line in between.iter().chain(&in_blocks) {
        let words = line.split_whitespace().take_while(|word| !["&", "|", "&&"].contains(word));
        let line = words.collect::<Vec<_>>().join(" ");
        assert_eq!(understood(&line), Ok(()), "{line}");
    }
    for command in [
        "pick",
        "rethreshold",
        "merge",
        "coords",
        "train",
        "eval",
        "check",
        "exemplar",
        "simulate",
        "demo",
        "convert",
        "bench",
        "doctor",
        "plan",
    ] {
        assert!(text.contains(&format!("| {command}")), "{command} is not told");
    }
    for status in [0, 1, 2, 129, 130, 137, 143] {
        assert!(text.contains(&format!("| {status} |")), "exit status {status} is not told");
    }
    is_refused(&epicker(&["pick", "--skip-done"]), "--data");
}

#[test]
fn a_plan_for_a_gpu_that_is_not_here_says_how_long_a_model_thinks_it_takes() {
    let folder = place();
    let told = |line: &str| {
        let result = run(folder.path(), line);
        assert_eq!(result.status.code(), Some(0), "{}", stderr(&result));
        stdout(&result)
    };
    let text = told("epicker plan --load_model particle --frame 128 --gpu-model A100 --micrograph 640x512");
    for part in
        ["model ms  bound by", "conv_windows_7x7", "preprocess_product, 2 launches", "They are no measurements", "640 x 512 x 4 bytes"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The milliseconds of a step of the full network: less on tensor cores, and less on a later GPU.
    let milliseconds = |options: &str| -> f64 {
        let text = told(&format!("epicker plan --frame 256 --micrograph 640x512 {options}"));
        let line = text.lines().find(|line| line.trim_start().starts_with("network")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let [old, new, cores] = ["--gpu-model titan-x", "--gpu-model h200", "--gpu-model h200 --precision tf32"].map(milliseconds);
    assert!(old > 2.0 * new && new > cores && cores > 0.0, "{old} {new} {cores}");
    for (line, words) in [
        ("epicker plan --gpu-model gtx", "expected one of titan-x, p100, 2080-ti, a100, h200"),
        ("epicker plan --gpu-model 2080-ti --precision tf32", "there are no such kernels for RTX 2080 Ti (compute capability 7.5)"),
        ("epicker plan --gpu-model a100 --precision fp16", "there are no such kernels for A100"),
        ("epicker plan --micrograph 640x512", "--gpu-model"),
        ("epicker plan --gpu-model a100 --micrograph 640", "expected columns and rows such as 4096x4096"),
        ("epicker doctor --form cubin", "expected machine-code, ptx or sources"),
    ] {
        let result = run(folder.path(), line);
        assert!(result.status.code() == Some(2) && stderr(&result).contains(words), "{line}: {}", stderr(&result));
    }
}
