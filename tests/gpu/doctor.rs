//! The doctor finds what is right on the CPU and on kernels executed on the host, says it, and remembers it.

use crate::common::program::epicker;
use epicker::doctor::before_first_use;
use epicker::io::kept::Kept;
use hostgpu::{Build, HostGpu, Options};

fn host_gpu() -> epicker::device::gpu::Gpu {
    HostGpu::gpu(Options { build: Build::Fast, ..Options::default() }).unwrap().0
}

#[test]
fn a_gpu_is_examined_once() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("cache");
    let gpu = host_gpu();
    let kept_there = Kept::within(Some(&kept));
    let first = before_first_use(&gpu, &kept_there).unwrap().unwrap();
    assert!(first.contains("are right"), "{first}");
    assert_eq!(before_first_use(&gpu, &kept_there).unwrap(), None);
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 1);
}

#[test]
fn without_a_gpu_the_doctor_says_so_and_examines_the_cpu() {
    let result = epicker(&["doctor", "--gpus", "-1", "--json"]);
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
    let report: serde_json::Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!(report["faults"], serde_json::json!([]));
    assert!(report["devices"][0]["name"].as_str().unwrap().starts_with("CPU"));
    let ops = report["devices"][0]["ops"].as_array().unwrap();
    assert!(ops.iter().all(|op| op["holds"] == true && op["cases"].as_u64().unwrap() > 0), "{ops:?}");
    for examined in [["conv", "forward"], ["adam", "forward"], ["deform_conv", "backward"], ["losses", "backward"]] {
        assert!(ops.iter().any(|op| op["op"] == examined[0] && op["direction"] == examined[1]), "{examined:?}");
    }
    assert!(!report["driver"].as_str().unwrap().is_empty() && !report["kernels"].as_str().unwrap().is_empty());
}
