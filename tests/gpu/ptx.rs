//! The PTX that the program carries, executed and checked (tests/ptx): the ops, what surrounds the network, and the tiny network
//! forward, backward and through a step of training, within the bounds of the host executor. What g++ makes of the kernels'
//! sources is not what a GPU runs; this is nearer.

use crate::{network, ops, stages};
use epicker::device::Device;
use epicker::device::gpu::Gpu;
use epicker::doctor::stages::{compare_batch, compare_preprocess, compare_targets};
use epicker::net::Views;
use epicker::ops::conv::TF32_FROM;
use epicker::ops::largest_difference;
use hostgpu::HostGpu;
use ptxgpu::{Options, PtxGpu};
use std::sync::Arc;

/// The architectures whose PTX a program carries.
const ARCHS: [u32; 2] = [52, 80];

/// A device for each architecture of which this build has PTX; says so where it has none.
fn gpus() -> Vec<(String, Gpu, Arc<PtxGpu>)> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for arch in ARCHS {
        if ptxgpu::images(arch).unwrap().is_none() {
            missing.push(arch);
            continue;
        }
        let options = Options { capability: [arch / 10, arch % 10], arch, ..Options::default() };
        let (gpu, driver) = PtxGpu::gpu(options).unwrap();
        found.push((format!("compute_{arch}"), gpu, driver));
    }
    if !missing.is_empty() {
        println!("this build has no PTX for {missing:?}, so none of these is executed");
    }
    found
}

fn for_each_device(run: impl Fn(&str, &Device)) {
    for (name, gpu, _) in gpus() {
        run(&name, &Device::Gpu(gpu));
    }
}

fn host() -> Gpu {
    HostGpu::gpu(hostgpu::Options::default()).unwrap().0
}

fn all_hold(run: ops::Compare) {
    for_each_device(|name, device| drop(ops::holds(name, device, run)));
}

mod forward {
    epicker::for_each_op!(forward_tests);
}
mod backward {
    epicker::for_each_differentiable_op!(backward_tests);
}

#[test]
fn tensor_cores_give_the_bits_of_the_formula_for_integers() {
    for (name, gpu, driver) in gpus().into_iter().filter(|(_, gpu, _)| gpu.info().capability >= TF32_FROM) {
        driver.launched().iter().for_each(|kernel| drop(driver.take_counters(kernel)));
        ops::integers_are_exact(&name, &Device::Gpu(gpu));
        let kernels = driver.launched();
        assert_eq!(kernels.len(), 7, "{kernels:?}");
        for kernel in kernels {
            let counters = driver.take_counters(&kernel).unwrap();
            // Of the multiply-adds none is left to the other units: what they do is to sample.
            assert!(counters.mma() > 0 && counters.ldmatrix() > 0, "{kernel}: {counters}");
            assert!(kernel.starts_with("deform") || counters.of("fma").warps == 0, "{kernel}: {counters}");
        }
    }
}

/// Two rows of a fragment change places at one line of a kernel. The comparison with integers names the kernel, and what was
/// multiplied at each line names the line.
#[test]
fn swapped_rows_of_a_fragment_are_found_by_kernel_and_line() {
    let Some(images) = ptxgpu::images(80).unwrap() else {
        return println!("this build has no PTX for compute_80");
    };
    let options = Options { capability: [8, 0], arch: 80, ..Options::default() };
    let (gpu, sound) = PtxGpu::with(options.clone(), &images).unwrap();
    ops::integers_are_exact("sound", &Device::Gpu(gpu));
    let mut seen = 0;
    for (file, image) in &images {
        let text = String::from_utf8(image.strip_suffix(&[0]).unwrap_or(image).to_vec()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let begins = |line: &str| line.split_once(".entry ").map(|(_, rest)| rest.trim_end_matches(['(', ')']).to_string());
        let starts: Vec<(usize, String)> = lines.iter().enumerate().filter_map(|(i, line)| Some((i, begins(line)?))).collect();
        for (k, (start, kernel)) in starts.iter().enumerate() {
            let end = starts.get(k + 1).map_or(lines.len(), |(next, _)| *next);
            let products: Vec<usize> = (*start..end).filter(|&i| lines[i].trim_start().starts_with("mma.")).collect();
            let Some(&planted) = products.get(products.len() / 2) else { continue };
            // The second of four sources' groups: rows 8 to 15 of the left fragment before rows 0 to 7.
            let groups: Vec<&str> = lines[planted].split(['{', '}']).collect();
            let registers: Vec<&str> = groups[3].split(", ").collect();
            let swapped = [1, 0, 3, 2].map(|i| registers[i]).join(", ");
            let mut changed = lines.clone();
            let line = lines[planted].replacen(groups[3], &swapped, 1);
            changed[planted] = &line;
            let mut images = images.clone();
            images.iter_mut().find(|(name, _)| name == file).unwrap().1 = (changed.join("\n") + "\n\0").into_bytes();
            let (gpu, driver) = PtxGpu::with(options.clone(), &images).unwrap();
            let wrong = ops::kernels_that_miss_the_formula(&Device::Gpu(gpu));
            println!("{kernel}, line {}: {wrong:?}", planted + 1);
            assert!(wrong.len() == 1, "{kernel}: {wrong:?}");
            let [expected, found] = [&sound, &driver].map(|driver| driver.counters(kernel).unwrap().multiplied);
            assert_eq!(expected.len(), products.len());
            let other: Vec<u32> = expected.iter().filter(|(line, bits)| found[line] != **bits).map(|(line, _)| *line).collect();
            assert_eq!(other, [planted as u32 + 1], "{kernel}");
            for name in driver.launched().iter().filter(|name| *name != kernel) {
                assert!(driver.counters(name).unwrap().multiplied == sound.counters(name).unwrap().multiplied, "{name}");
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 7);
}

#[test]
fn micrographs_of_every_type_are_prepared_as_on_the_cpu() {
    gpus().iter().for_each(|(name, gpu, _)| stages::holds(compare_preprocess::<f32>(gpu), name));
}

#[test]
fn peaks_are_those_of_the_host_executor_bit_by_bit() {
    let expected = stages::peaks_as_the_cpu::<f32>(&host(), "host");
    for (name, gpu, _) in gpus() {
        assert!(stages::peaks_as_the_cpu::<f32>(&gpu, &name) == expected, "{name}");
    }
}

#[test]
fn a_batch_on_two_streams_and_a_graph_is_that_of_one_step_after_the_other() {
    gpus().iter().for_each(|(name, gpu, _)| stages::holds(compare_batch(gpu), name));
}

#[test]
fn targets_are_drawn_as_on_the_cpu() {
    gpus().iter().for_each(|(name, gpu, _)| stages::holds(compare_targets::<f32>(gpu), name));
}

#[test]
fn maps_and_copies_add_up() {
    for_each_device(|_, device| stages::adds_maps_up(device));
}

#[test]
fn the_inference_plan_gives_the_cpus_maps() {
    for_each_device(|_, device| network::plan_gives_the_cpus_maps(device));
}

#[test]
fn the_full_networks_maps_are_the_cpus() {
    for_each_device(|_, device| network::full_plan_gives_the_cpus_maps(device));
}

#[test]
fn picked_peaks_are_the_cpus_and_a_graph_finds_them_again() {
    for_each_device(|name, device| {
        let (mut finder, image, first) = network::finds_the_cpus_peaks(device, Views::Two);
        // Step by step, then captured, then as a graph.
        for _ in 0..2 {
            assert!(finder.run(&image).unwrap() == first, "{name}");
        }
    });
}

#[test]
fn a_steps_gradients_are_the_references_as_far_as_rounding_allows() {
    for_each_device(|_, device| network::gradients_are_the_references(device));
}

#[test]
fn a_step_of_training_is_that_of_the_host_executor() {
    let (loss, parameters) = network::step(&Device::Gpu(host()));
    for_each_device(|name, device| {
        let (found_loss, found) = network::step(device);
        assert!((found_loss - loss).abs() <= 1e-4 * loss.abs(), "{name}: {found_loss}, expected {loss}");
        // Adam divides by the gradient's size, so where rounding decides a sign a parameter goes the other way, by the step's size.
        let most = largest_difference(&found, &parameters);
        assert!(most <= 2.1e-3, "{name}: {most}");
        let moved = found.iter().zip(&parameters).filter(|(a, b)| (*a - *b).abs() > 2e-4).count();
        assert!(moved * 20 <= found.len(), "{name}: {moved} of {} parameters", found.len());
    });
}

/// Prints what each kernel of the convolutions costs (`--nocapture` shows it).
#[test]
fn products_load_shared_memory_without_bank_conflicts() {
    for (name, gpu, driver) in gpus() {
        let device = Device::Gpu(gpu);
        let compared: [ops::Compare; 4] = [
            epicker::ops::conv::compare,
            epicker::ops::conv::compare_backward,
            epicker::ops::deform_conv::compare,
            epicker::ops::deform_conv::compare_backward,
        ];
        compared.into_iter().for_each(|run| drop(ops::holds(&name, &device, run)));
        for kernel in driver.launched() {
            let counters = driver.counters(&kernel).unwrap();
            println!("{name} {kernel}: {counters}");
            let loads = counters.shared_loads;
            if kernel.starts_with("conv_windows_") && kernel != "conv_windows_7x7" {
                assert!(loads.ideal > 0 && loads.passes as f64 <= 1.05 * loads.ideal as f64, "{name} {kernel}: {loads:?}");
            }
        }
    }
}
