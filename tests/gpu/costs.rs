//! What the hot kernels cost where nobody has a clock: sectors of memory and passes of shared memory, counted while the PTX that
//! the program carries is executed at shapes of the network, against what the same bytes would cost at best.
//!
//! tests/kernels/budgets.txt says what they may cost. `EPICKER_WRITE_COSTS=1 cargo test --test gpu costs` writes docs/gpu-costs.txt.

use super::stages::values;
use epicker::compat::Compat;
use epicker::device::gpu::Gpu;
use epicker::device::{Device, Tensor};
use epicker::formats::image::{Micrograph, Pixels, Samples};
use epicker::ops::conv::{self, ConvShape, Epilogue, Pass, algorithm};
use epicker::ops::deform_conv::{self, DeformConvShape, OFFSET_CHANNELS};
use epicker::ops::{Compute, Precision};
use epicker::preprocess::gpu::Preprocessor;
use epicker::preprocess::ground::Ground;
use epicker::random::noise;
use ptxgpu::{Counters, Options, Passes, PtxGpu, Traffic};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// A kernel at a shape, and what it cost there.
struct Cost {
    kernel: String,
    shape: String,
    counters: Counters,
}

fn ratio(found: u64, ideal: u64) -> Option<f64> {
    (ideal > 0).then(|| found as f64 / ideal as f64)
}

impl Cost {
    /// Sectors of loads and of stores, and passes of shared loads and of shared stores, each over the ideal; none where there is
    /// no such access.
    fn ratios(&self) -> [Option<f64>; 4] {
        let Counters { loads, stores, shared_loads, shared_stores, .. } = &self.counters;
        let [loads, stores] = [loads, stores].map(|traffic: &Traffic| ratio(traffic.sectors, traffic.ideal));
        let [shared_loads, shared_stores] = [shared_loads, shared_stores].map(|passes: &Passes| ratio(passes.passes, passes.ideal));
        [loads, stores, shared_loads, shared_stores]
    }

    /// All sectors, and all passes, over the ideal.
    fn sums(&self) -> [Option<f64>; 2] {
        let Counters { loads, stores, shared_loads, shared_stores, .. } = &self.counters;
        [
            ratio(loads.sectors + stores.sectors, loads.ideal + stores.ideal),
            ratio(shared_loads.passes + shared_stores.passes, shared_loads.ideal + shared_stores.ideal),
        ]
    }
}

/// What has been launched since the last look.
fn taken(driver: &PtxGpu, shape: &str, costs: &mut Vec<Cost>) {
    for kernel in driver.launched() {
        let counters = driver.take_counters(&kernel).unwrap();
        costs.push(Cost { kernel, shape: shape.to_string(), counters });
    }
}

/// Convolutions of the network, by every tile that takes them.
fn convolutions(gpu: &Gpu, driver: &PtxGpu, costs: &mut Vec<Cost>) {
    let device = Device::Gpu(gpu.clone());
    let compute = Compute { precision: Precision::Tf32, ..Compute::from(&device) };
    let of = |ci, co, kernel, stride, side| ConvShape { n: 1, h: side, w: side, ci, co, kernel, stride };
    let shapes = [
        of(64, 64, 3, 1, 32),
        of(32, 32, 3, 1, 32),
        of(16, 16, 3, 1, 64),
        of(1, 16, 7, 1, 64),
        of(64, OFFSET_CHANNELS, 3, 1, 32),
        of(64, 128, 3, 2, 32),
        of(128, 64, 1, 1, 32),
    ];
    for shape in shapes {
        let (inp, weights, bias) = (noise(shape.h * shape.w * shape.ci, 1), noise(shape.weights_len(), 2), noise(shape.co, 3));
        let inp = Tensor::on(&device, [1, shape.h, shape.w, shape.ci], inp).unwrap();
        let [n, h, w, c] = shape.out();
        let mut out = Tensor::on(&device, [n, h, w, c], vec![0.0_f32; n * h * w * c]).unwrap();
        for algorithm in algorithm::all(&compute, Pass::Forward, shape) {
            let packed = conv::Weights::pack(&device, algorithm, shape.extents(), &weights, &bias).unwrap();
            taken(driver, "", &mut Vec::new()); // packing happens once
            conv::forward(&device, shape, inp.view(), &packed, Epilogue { residual: None, relu: true }, &mut out.view_mut()).unwrap();
            let ConvShape { ci, co, kernel, stride, .. } = shape;
            taken(driver, &format!("{ci} to {co}, {kernel}x{kernel} /{stride}, {w} x {h}"), costs);
        }
    }
}

/// Deformable convolutions, sampled near their pixels, as a trained network does.
fn deformable_convolutions(gpu: &Gpu, driver: &PtxGpu, costs: &mut Vec<Cost>) {
    let device = Device::Gpu(gpu.clone());
    for (ci, co) in [(64, 64), (32, 32), (16, 16)] {
        let shape = DeformConvShape { n: 1, h: 32, w: 32, ci, co };
        let on = |channels: usize, seed: u64| Tensor::on(&device, [1, 32, 32, channels], noise(32 * 32 * channels, seed)).unwrap();
        let (inp, offsets, mut out) = (on(ci, 1), on(OFFSET_CHANNELS, 2), on(co, 3));
        for algorithm in deform_conv::algorithm::all(&Compute { precision: Precision::Tf32, ..Compute::from(&device) }, shape) {
            if algorithm.to_string().contains("any") {
                continue; // the network's channels are fours
            }
            let packed = deform_conv::Weights::pack(&device, algorithm, [ci, co, 3], &noise(9 * ci * co, 4), &noise(co, 5)).unwrap();
            taken(driver, "", &mut Vec::new());
            deform_conv::forward(&device, shape, inp.view(), offsets.view(), &packed, true, &mut out.view_mut()).unwrap();
            taken(driver, &format!("{ci} to {co}, 32 x 32"), costs);
        }
    }
}

/// A micrograph whose extents suit nobody in particular.
fn preprocessing(gpu: &Gpu, driver: &PtxGpu, costs: &mut Vec<Cost>) {
    let mut preprocessor = Preprocessor::<f32>::new(gpu).unwrap();
    let micrograph = Micrograph::of_pixels(576, 409, Pixels::F32(Samples::from(values(576, 409, 1))));
    taken(driver, "", &mut Vec::new());
    preprocessor.start(gpu, &micrograph, 256, Ground::Levelled { sigma_px: 24.0 }, &Compat::default()).unwrap();
    taken(driver, "576 x 409 to 256", costs);
}

/// (pattern, most sectors over the ideal, most passes over the ideal) of tests/kernels/budgets.txt.
fn budgets() -> Vec<(String, f64, f64)> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/budgets.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let budget = |line: &str| match line.split_whitespace().collect::<Vec<&str>>()[..] {
        [pattern, _, _, sectors, passes] => Some((pattern.to_string(), sectors.parse().unwrap(), passes.parse().unwrap())),
        _ => None,
    };
    lines.filter_map(budget).collect()
}

fn written(costs: &[Cost]) -> String {
    let mut text = "# What hot kernels cost over what the same bytes would cost at best, counted while PTX for compute_80 was executed on a host:\n\
                    # 32-byte sectors of loads and stores, and passes through the banks of shared memory. EPICKER_WRITE_COSTS=1 cargo test\n\
                    # --test gpu costs writes this file; tests/kernels/budgets.txt has what is allowed.\n"
        .to_string();
    let row = |text: &mut String, fields: [&str; 6]| {
        let [kernel, shape, loads, stores, shared_loads, shared_stores] = fields;
        writeln!(text, "{kernel:<32}{shape:<30}{loads:>8}{stores:>8}{shared_loads:>14}{shared_stores:>15}").unwrap();
    };
    row(&mut text, ["kernel", "shape", "loads", "stores", "shared loads", "shared stores"]);
    for cost in costs {
        let [loads, stores, shared_loads, shared_stores] =
            cost.ratios().map(|ratio| ratio.map_or_else(|| "-".to_string(), |ratio| format!("{ratio:.2}")));
        row(&mut text, [&cost.kernel, &cost.shape, &loads, &stores, &shared_loads, &shared_stores]);
    }
    text
}

#[test]
fn hot_kernels_keep_their_budgets_of_memory() {
    if ptxgpu::images(80).unwrap().is_none() {
        println!("this build has no PTX for compute_80, so nothing is counted");
        return;
    }
    let (gpu, driver): (Gpu, Arc<PtxGpu>) = PtxGpu::gpu(Options { checks: false, ..Options::default() }).unwrap();
    let mut costs = Vec::new();
    convolutions(&gpu, &driver, &mut costs);
    deformable_convolutions(&gpu, &driver, &mut costs);
    preprocessing(&gpu, &driver, &mut costs);
    let (now, path) = (written(&costs), Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gpu-costs.txt"));
    if std::env::var_os("EPICKER_WRITE_COSTS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let fits = |pattern: &str, kernel: &str| pattern.strip_suffix('*').map_or(pattern == kernel, |start| kernel.starts_with(start));
    let (budgets, mut broken) = (budgets(), Vec::new());
    for cost in &costs {
        let budget = budgets.iter().filter(|(pattern, ..)| fits(pattern, &cost.kernel)).max_by_key(|(pattern, ..)| pattern.len());
        let Some((pattern, sectors, passes)) = budget else { continue };
        for ((ratio, most), what) in cost.sums().into_iter().zip([sectors, passes]).zip(["sectors", "passes of shared memory"]) {
            if let Some(ratio) = ratio.filter(|ratio| ratio > most) {
                broken.push(format!("{}, {}: {ratio:.2} times the ideal {what}; `{pattern}` allows {most}", cost.kernel, cost.shape));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    for (pattern, ..) in &budgets {
        assert!(costs.iter().any(|cost| fits(pattern, &cost.kernel)), "tests/kernels/budgets.txt: nothing was counted of `{pattern}`");
    }
}
