//! The host executor reports what hardware would not forgive: kernels with one planted fault each
//! (tests/hostgpu/faults), and their sound twins.

use epicker::device::gpu::{Arg, Gpu, Grid};
use epicker::device::{Device, Tensor};
use hostgpu::{Build, HostGpu, Options};

const SOUND: u32 = 1;
const FAULTY: u32 = 0;

fn gpu() -> Gpu {
    HostGpu::gpu(Options { build: Build::Faults, ..Options::default() }).unwrap().0
}

fn shape(count: u32, flags: u32) -> Arg {
    Arg::value([count, flags])
}

/// Launches one block with a shape, if there is one, then inp and out of these lengths.
fn launch(name: &'static str, head: &[Arg], inp: Option<usize>, out: usize) -> Result<(), String> {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let inp = inp.map(|len| Tensor::flat_on(&device, vec![0.5_f32; len]).unwrap());
    let mut out = Tensor::flat_on(&device, vec![0.0_f32; out]).unwrap();
    let mut args = head.to_vec();
    args.extend(inp.as_ref().map(|inp| inp.view().arg()));
    args.push(out.view_mut().arg());
    // SAFETY: the executor checks all of it; that is what is tested.
    unsafe { gpu.launch(name, Grid([1, 1, 1]), 64, &args) }.map_err(|error| format!("{error:#}"))
}

#[track_caller]
fn reported(found: Result<(), String>, words: &[&str]) {
    let report = found.unwrap_err();
    for word in words {
        assert!(report.contains(word), "`{report}` does not say `{word}`");
    }
}

#[test]
fn an_overrun_of_global_memory_is_reported() {
    assert_eq!(launch("fault_copy", &[shape(40, 0)], Some(40), 40), Ok(()));
    let read = launch("fault_copy", &[shape(40, 0)], Some(39), 40);
    reported(
        read,
        &["fault_copy", "thread 39 of block (0, 0, 0)", "reads parameter 1 (`inp`) at index 39", "bytes 156 to 159", "156 bytes"],
    );
    reported(launch("fault_copy", &[shape(40, 0)], Some(40), 39), &["writes parameter 2 (`out`) at index 39"]);
    reported(launch("fault_before", &[], None, 4), &["writes parameter 0 (`out`) at index -1", "bytes -4 to -1"]);
}

#[test]
fn a_missing_barrier_is_reported() {
    assert_eq!(launch("fault_reverse", &[shape(64, SOUND)], Some(64), 64), Ok(()));
    // Seen as a race, or as a read of what is not written yet: threads run in some order.
    let report = launch("fault_reverse", &[shape(64, FAULTY)], Some(64), 64).unwrap_err();
    assert!(report.contains("shared memory `tile`"), "{report}");
    assert_eq!(launch("fault_two_tiles", &[shape(64, SOUND)], Some(128), 64), Ok(()));
    reported(launch("fault_two_tiles", &[shape(64, FAULTY)], Some(128), 64), &["race", "shared memory `tile`", "before the next barrier"]);
}

#[test]
fn two_writers_of_one_shared_value_are_reported() {
    assert_eq!(launch("fault_two_writers", &[shape(0, SOUND)], None, 1), Ok(()));
    reported(
        launch("fault_two_writers", &[shape(0, FAULTY)], None, 1),
        &["race: writes shared memory `tile` at index 0", "thread 0 writes"],
    );
}

/// Launches three blocks on values of 0.
fn launch_blocks(name: &'static str, flags: u32) -> Result<(), String> {
    let gpu = gpu();
    let mut out = Tensor::flat_on(&Device::Gpu(gpu.clone()), vec![0.0_f32; 64]).unwrap();
    for _ in 0..2 {
        // SAFETY: the executor checks all of it; that is what is tested.
        unsafe { gpu.launch(name, Grid([3, 1, 1]), 64, &[shape(64, flags), out.view_mut().arg()]) }
            .map_err(|error| format!("{error:#}"))?;
    }
    Ok(())
}

#[test]
fn blocks_that_touch_one_value_of_global_memory_are_reported() {
    // The second launch touches what the first one did: launches are in order.
    assert_eq!(launch_blocks("fault_two_blocks", SOUND), Ok(()));
    let writes = launch_blocks("fault_two_blocks", FAULTY);
    reported(writes, &["race: writes parameter 1 (`out`) at index 0", "of the grid writes in the same launch"]);
    assert_eq!(launch_blocks("fault_count", SOUND), Ok(()));
    reported(launch_blocks("fault_read_of_a_block", FAULTY), &["race: ", "parameter 1 (`out`) at index ", "in the same launch"]);
}

#[test]
fn threads_that_touch_one_value_of_global_memory_between_two_barriers_are_reported() {
    assert_eq!(launch("fault_global_reverse", &[shape(64, SOUND)], None, 64), Ok(()));
    let report = launch("fault_global_reverse", &[shape(64, FAULTY)], None, 64);
    reported(report, &["race: ", "parameter 1 (`out`)", "before the next barrier"]);
    assert_eq!(launch("fault_count", &[shape(64, SOUND)], None, 64), Ok(()));
    reported(
        launch("fault_count", &[shape(64, FAULTY)], None, 64),
        &["race: ", "parameter 1 (`out`) at index 0", "before the next barrier"],
    );
}

#[test]
fn an_overrun_of_shared_memory_is_reported() {
    assert_eq!(launch("fault_shared_overrun", &[shape(0, SOUND)], None, 1), Ok(()));
    reported(launch("fault_shared_overrun", &[shape(0, FAULTY)], None, 1), &["writes shared memory `tile` at index 64 of 64"]);
}

#[test]
fn a_read_of_memory_that_nobody_has_written_is_reported() {
    assert_eq!(launch("fault_shared_unwritten", &[shape(0, SOUND)], None, 64), Ok(()));
    let shared = launch("fault_shared_unwritten", &[shape(0, FAULTY)], None, 64);
    reported(shared, &["reads shared memory `tile` at index ", "nobody has written"]);
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let inp = epicker::device::Buffer::<f32>::unset(&device, 8).unwrap();
    let mut out = Tensor::flat_on(&device, vec![0.0_f32; 8]).unwrap();
    let args = [shape(8, 0), inp.view().arg(), out.view_mut().arg()];
    // SAFETY: as above.
    let found = unsafe { gpu.launch("fault_copy", Grid([1, 1, 1]), 64, &args) }.map_err(|error| format!("{error:#}"));
    reported(found, &["reads parameter 1 (`inp`) at index 0", "nobody has written"]);
}

#[test]
fn barriers_that_not_all_threads_reach_are_reported() {
    assert_eq!(launch("fault_half_barrier", &[shape(0, SOUND)], None, 64), Ok(()));
    reported(
        launch("fault_half_barrier", &[shape(0, FAULTY)], None, 64),
        &["divergence", "32 of 64 threads wait at a barrier", "32 have ended"],
    );
    reported(launch("fault_two_barriers", &[], None, 64), &["divergence", "barrier of line"]);
    assert_eq!(launch("fault_half_shuffle", &[shape(0, SOUND)], None, 64), Ok(()));
    reported(launch("fault_half_shuffle", &[shape(0, FAULTY)], None, 64), &["divergence", "shuffle"]);
}

#[test]
fn four_values_from_a_crooked_address_are_reported() {
    assert_eq!(launch("fault_misaligned", &[shape(0, SOUND)], Some(16), 8), Ok(()));
    reported(launch("fault_misaligned", &[shape(0, FAULTY)], Some(16), 8), &["`inp`", "byte 8 is no multiple of 16"]);
}

#[test]
fn arguments_of_another_number_size_or_kind_are_reported() {
    reported(launch("fault_copy", &[Arg::value(64_u32)], Some(64), 64), &["argument 0 (`s`) has 4 bytes; the parameter has 8"]);
    reported(launch("fault_copy", &[], Some(64), 64), &["2 arguments; it has 3 parameters"]);
    reported(launch("fault_copy", &[Arg::address(0)], Some(64), 64), &["argument 0 (`s`) is an address"]);
    reported(launch("fault_copy", &[shape(64, 0), Arg::value(0_u64)], None, 64), &["argument 1 (`inp`) is a number or struct"]);
    let host = vec![0.0_f32; 64];
    reported(
        launch("fault_copy", &[shape(64, 0), Arg::address(host.as_ptr() as u64)], None, 64),
        &["`inp`", "lies in no memory of the device"],
    );
    reported(launch("fault_none", &[], None, 64), &["there is none of that name"]);
}

#[test]
fn too_many_threads_and_too_much_shared_memory_are_reported() {
    let gpu = gpu();
    let mut out = Tensor::flat_on(&Device::Gpu(gpu.clone()), vec![0.0_f32; 2048]).unwrap();
    // SAFETY: as above.
    let many = unsafe { gpu.launch("fault_many_threads", Grid([1, 1, 1]), 2048, &[out.view_mut().arg()]) };
    reported(many.map_err(|error| format!("{error:#}")), &["2048 threads in a block; sm_60 takes 1024"]);
    // SAFETY: as above.
    let other = unsafe { gpu.launch("fault_before", Grid([1, 1, 1]), 128, &[out.view_mut().arg()]) };
    reported(other.map_err(|error| format!("{error:#}")), &["128 threads in a block; its KERNEL line says 64"]);
    reported(launch("fault_much_shared", &[], None, 64), &["49168 bytes", "declares `other`", "the architecture has 49152"]);
}

#[test]
fn memory_that_is_refused_and_copies_that_do_not_fit_are_reported() {
    let (gpu, host) = HostGpu::gpu(Options { memory: 1000, ..Options::default() }).unwrap();
    let device = Device::Gpu(gpu);
    let refused = Tensor::flat_on(&device, vec![0.0_f32; 251]).unwrap_err();
    assert!(format!("{refused:#}").contains("out of memory: 1004 bytes asked for, 1000 of 1000 are free"), "{refused:#}");
    let tensor = Tensor::flat_on(&device, vec![0.0_f32; 250]).unwrap();
    assert_eq!(host.memory_in_use(), 1000);
    drop(tensor);
    assert_eq!(host.memory_in_use(), 0);
}

#[test]
#[ignore = "a sanitizer has to report it: scripts/kernel-sanitizers.sh"]
fn planted_race() {
    assert_eq!(launch("fault_two_tiles", &[shape(64, FAULTY)], Some(128), 64), Ok(()));
}

#[test]
#[ignore = "a sanitizer has to report it: scripts/kernel-sanitizers.sh"]
fn planted_overrun() {
    assert_eq!(launch("fault_copy", &[shape(4000, 0)], Some(40), 4000), Ok(()));
}

#[test]
#[ignore = "no sanitizer may report it: scripts/kernel-sanitizers.sh"]
fn sound_twins() {
    assert_eq!(launch("fault_two_tiles", &[shape(64, SOUND)], Some(128), 64), Ok(()));
    assert_eq!(launch("fault_copy", &[shape(40, 0)], Some(40), 40), Ok(()));
}
