//! What a block of a kernel costs, as the program's model of a GPU's time has it: counted while the PTX that the program carries is
//! executed, and found again where nothing was fitted.
//!
//! `EPICKER_WRITE_COSTS=1 cargo test --test gpu predicted` writes src/device/gpu/costs.txt; after that
//! `EPICKER_WRITE_COSTS=1 cargo test --test gpu predicted::times` writes docs/gpu-predicted.txt from it.

use super::stages::values;
use epicker::compat::Compat;
use epicker::device::gpu::Gpu;
use epicker::device::gpu::driver::DeviceInfo;
use epicker::device::gpu::paper::{Launch, Paper};
use epicker::device::gpu::predict::{self, Cost, Counts, Factor, KNOWN, Known};
use epicker::device::{Buffer, Device, Tensor};
use epicker::formats::image::{Micrograph, Pixels, Samples};
use epicker::io::model_source::ModelSource;
use epicker::net::inference::peaks::Part;
use epicker::net::{Architecture, Model, PeakFinder, PeakFinderOptions, formula};
use epicker::ops::conv::{self, ConvShape, Epilogue, Pass, TF32_FROM, algorithm};
use epicker::ops::deform_conv::{self, DeformConvShape, OFFSET_CHANNELS};
use epicker::ops::gather;
use epicker::ops::heat_map::PeakMemory;
use epicker::ops::max_pool::{self, MaxPoolShape};
use epicker::ops::up_conv::{self, UpConvShape};
use epicker::ops::{Compute, Precision};
use epicker::pick::parts;
use epicker::preprocess::gpu::Preprocessor;
use epicker::preprocess::ground::Ground;
use epicker::random::noise;
use ptxgpu::{Counters, Kind, Options, PtxGpu};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use Factor::{Blocks, Word};

/// What the work of a kernel grows with.
enum Grows {
    /// Every block does the same.
    Blocks,
    /// With a product of factors alone: FOR_EACH over values.
    With(&'static [Factor]),
    /// With the blocks, and besides with a product of factors.
    BlocksAndWith(&'static [Factor]),
}

/// Channels of the input times taps, for each block.
const DEPTH: Grows = Grows::BlocksAndWith(&[Blocks, Word(0, 3), Word(0, 4), Word(0, 5)]);

/// (kernel, what its work grows with, by how much a launch that nothing was fitted to may cost more or less).
const KERNELS: [(&str, Grows, f64); 32] = [
    ("conv_windows_128x64", DEPTH, 0.05),
    ("conv_windows_64x64", DEPTH, 0.05),
    ("conv_windows_128x32", DEPTH, 0.05),
    ("conv_windows_256x16", DEPTH, 0.05),
    ("conv_windows_tf32_128x64", DEPTH, 0.05),
    ("conv_windows_tf32_64x64", DEPTH, 0.05),
    ("conv_windows_tf32_128x32", DEPTH, 0.05),
    ("conv_windows_tf32_128x16", DEPTH, 0.05),
    ("conv_windows_any_128x64", DEPTH, 0.1),
    ("conv_windows_any_256x16", DEPTH, 0.1),
    ("conv_windows_7x7", Grows::Blocks, 0.1),
    ("deform_conv_forward_128x16", Grows::BlocksAndWith(&[Blocks, Word(0, 3)]), 0.1),
    ("deform_conv_forward_128x32", Grows::BlocksAndWith(&[Blocks, Word(0, 3)]), 0.1),
    ("deform_conv_forward_64x64", Grows::BlocksAndWith(&[Blocks, Word(0, 3)]), 0.1),
    ("deform_conv_forward_tf32_128x64", Grows::BlocksAndWith(&[Blocks, Word(0, 3)]), 0.1),
    ("deform_conv_forward_tf32_128x32", Grows::BlocksAndWith(&[Blocks, Word(0, 3)]), 0.1),
    ("deform_conv_forward_tf32_128x16", Grows::BlocksAndWith(&[Blocks, Word(0, 3)]), 0.1),
    ("max_pool_forward", Grows::With(&[Word(0, 0), Word(0, 1), Word(0, 2), Word(0, 3)]), 0.2),
    ("up_conv_forward", Grows::With(&[Word(0, 0), Word(0, 1), Word(0, 2), Word(0, 3), Word(0, 4), Word(0, 4)]), 0.2),
    ("heat_map_peaks", Grows::Blocks, 0.2),
    ("heat_map_select", Grows::BlocksAndWith(&[Word(1, 0)]), 0.5),
    ("gather_forward", Grows::With(&[Word(0, 2), Word(0, 3)]), 0.1),
    ("preprocess_measure", Grows::BlocksAndWith(&[Word(0, 0)]), 0.2),
    ("preprocess_survey", Grows::BlocksAndWith(&[Word(5, 0)]), 0.5),
    ("preprocess_adjust", Grows::With(&[Word(0, 0)]), 0.1),
    ("preprocess_product", Grows::BlocksAndWith(&[Blocks, Word(0, 2)]), 0.1),
    ("preprocess_vectors", Grows::Blocks, 0.2),
    ("preprocess_add_parts", Grows::With(&[Word(0, 0), Word(1, 0)]), 0.3),
    ("preprocess_extremes", Grows::BlocksAndWith(&[Word(0, 0)]), 0.2),
    ("preprocess_range", Grows::BlocksAndWith(&[Word(0, 0)]), 0.5),
    ("preprocess_quantise", Grows::BlocksAndWith(&[Word(0, 0)]), 0.4),
    ("preprocess_equalise_table", Grows::Blocks, 0.3),
];
/// More of them; a list of 34 in one piece would be hard to read.
const LEVELS: [(&str, Grows, f64); 5] = [
    ("preprocess_cells", Grows::BlocksAndWith(&[Word(0, 0), Word(0, 1)]), 0.3),
    // Near the border a cell has fewer neighbours.
    ("preprocess_blur", Grows::With(&[Word(0, 2), Word(0, 3), Word(0, 4)]), 0.5),
    ("preprocess_take_ground", Grows::With(&[Word(0, 0), Word(0, 1)]), 0.2),
    ("preprocess_equalise", Grows::With(&[Word(0, 0)]), 0.3),
    ("preprocess_letterbox", Grows::With(&[Word(0, 0), Word(0, 0)]), 0.2),
];

/// A device that executes PTX, and one on paper, which says what is launched.
struct Devices {
    ptx: Gpu,
    driver: Arc<PtxGpu>,
    on_paper: Gpu,
    paper: Arc<Paper>,
}

/// Launches of a kernel in one piece of work, and what they cost.
struct Sample {
    kernel: String,
    launches: Vec<Launch>,
    counts: Counts,
}

fn counts(counters: &Counters) -> Counts {
    let kinds = [Kind::Single, Kind::Double, Kind::Integer, Kind::Special, Kind::Memory, Kind::Control, Kind::Matrix];
    let [single, double, integer, special, memory, control, matrix] = kinds.map(|kind| counters.of_kind(kind) as f64);
    let sectors = (counters.loads.sectors + counters.stores.sectors) as f64;
    let passes = (counters.shared_loads.passes + counters.shared_stores.passes) as f64;
    Counts { single, double, integer, special, memory, control, matrix, sectors, passes }
}

impl Devices {
    fn new() -> Self {
        let (ptx, driver) = PtxGpu::gpu(Options { checks: false, ..Options::default() }).unwrap();
        let (on_paper, paper) = Paper::gpu(ptx.info().clone()).unwrap();
        Devices { ptx, driver, on_paper, paper }
    }

    /// The device with everything that it can.
    fn tensor_cores(&self) -> Compute {
        Compute { precision: Precision::Tf32, ..Compute::from(&Device::Gpu(self.ptx.clone())) }
    }

    /// Does some work on both; `prepare` gives what is not counted.
    fn sample<T>(&self, samples: &mut Vec<Sample>, prepare: impl Fn(&Gpu) -> T, work: impl Fn(&Gpu, &mut T)) {
        let mut prepared = prepare(&self.on_paper);
        self.paper.take_launches();
        work(&self.on_paper, &mut prepared);
        let launches = self.paper.take_launches();
        let mut prepared = prepare(&self.ptx);
        self.driver.launched().iter().for_each(|kernel| _ = self.driver.take_counters(kernel));
        work(&self.ptx, &mut prepared);
        for kernel in self.driver.launched() {
            let counters = self.driver.take_counters(&kernel).unwrap();
            let launches: Vec<Launch> = launches.iter().filter(|launch| launch.kernel == kernel).cloned().collect();
            assert_eq!(launches.len() as u64, counters.launches, "{kernel}");
            samples.push(Sample { kernel, launches, counts: counts(&counters) });
        }
    }

    /// By every algorithm, or by that of one kernel alone.
    fn convolutions(&self, samples: &mut Vec<Sample>, shape: ConvShape, kernel: &str) {
        let tensor = |gpu: &Gpu, shape: [usize; 4], seed: u64| {
            Tensor::on(&Device::Gpu(gpu.clone()), shape, noise(shape.iter().product(), seed)).unwrap()
        };
        for algorithm in algorithm::all(&self.tensor_cores(), Pass::Forward, shape) {
            if !algorithm.to_string().contains(kernel) {
                continue;
            }
            let prepare = |gpu: &Gpu| {
                let (weights, bias) = (noise(shape.weights_len(), 2), noise(shape.co, 3));
                let packed = conv::Weights::pack(&Device::Gpu(gpu.clone()), algorithm.clone(), shape.extents(), &weights, &bias).unwrap();
                (tensor(gpu, [shape.n, shape.h, shape.w, shape.ci], 1), packed, tensor(gpu, shape.out(), 4))
            };
            self.sample(samples, prepare, |gpu, (inp, packed, out)| {
                let epilogue = Epilogue { residual: None, relu: true };
                conv::forward(&Device::Gpu(gpu.clone()), shape, inp.view(), packed, epilogue, &mut out.view_mut()).unwrap();
            });
        }
    }

    /// By every algorithm that reads four channels at once.
    fn deformable_convolutions(&self, samples: &mut Vec<Sample>, shape: DeformConvShape) {
        let DeformConvShape { n, h, w, ci, co } = shape;
        let algorithms = deform_conv::algorithm::all(&self.tensor_cores(), shape);
        for algorithm in algorithms.into_iter().filter(|algorithm| !algorithm.to_string().contains("any")) {
            let prepare = |gpu: &Gpu| {
                let device = Device::Gpu(gpu.clone());
                let on = |channels: usize, seed: u64| Tensor::on(&device, [n, h, w, channels], noise(n * h * w * channels, seed)).unwrap();
                let (weights, bias) = (noise(9 * ci * co, 4), noise(co, 5));
                let packed = deform_conv::Weights::pack(&device, algorithm.clone(), [ci, co, 3], &weights, &bias).unwrap();
                (on(ci, 1), on(OFFSET_CHANNELS, 2), packed, on(co, 3))
            };
            self.sample(samples, prepare, |gpu, (inp, offsets, packed, out)| {
                let device = Device::Gpu(gpu.clone());
                deform_conv::forward(&device, shape, inp.view(), offsets.view(), packed, true, &mut out.view_mut()).unwrap();
            });
        }
    }

    fn small_ops(&self, samples: &mut Vec<Sample>, [h, w, c]: [usize; 3], factor: usize) {
        let tensor = |gpu: &Gpu, [h, w, c]: [usize; 3], seed: u64| {
            Tensor::on(&Device::Gpu(gpu.clone()), [1, h, w, c], noise(h * w * c, seed)).unwrap()
        };
        let pool = MaxPoolShape { n: 1, h, w, c, window: 2 };
        let prepare = |gpu: &Gpu| (tensor(gpu, [h, w, c], 1), tensor(gpu, [h / 2, w / 2, c], 2));
        self.sample(samples, prepare, |gpu, (inp, out)| {
            max_pool::forward(&Device::Gpu(gpu.clone()), pool, inp.view(), &mut out.view_mut()).unwrap();
        });
        let up = UpConvShape { n: 1, h: h / factor, w: w / factor, c, factor };
        let prepare = |gpu: &Gpu| {
            let weights = Buffer::of(&Device::Gpu(gpu.clone()), noise(4 * factor * factor * c, 3)).unwrap();
            (tensor(gpu, [h / factor, w / factor, c], 1), weights, tensor(gpu, [h, w, c], 4), tensor(gpu, [h, w, c], 5))
        };
        self.sample(samples, prepare, |gpu, (inp, weights, skip, out)| {
            let device = Device::Gpu(gpu.clone());
            up_conv::forward(&device, up, inp.view(), weights.view(), Some(skip.view()), &mut out.view_mut()).unwrap();
        });
    }

    fn peaks(&self, samples: &mut Vec<Sample>, side: usize, c: usize, k: usize) {
        let prepare = |gpu: &Gpu| {
            let device = Device::Gpu(gpu.clone());
            let on = |shape: [usize; 4], seed: u64| Tensor::on(&device, shape, noise(shape.iter().product(), seed)).unwrap();
            let memory = PeakMemory::new(gpu, [side; 2], k).unwrap();
            (on([1, side, side, 1], 1), on([1, side, side, c], 2), memory, on([1, 1, k, 9 * c], 3))
        };
        self.sample(samples, prepare, |gpu, (logits, features, memory, out)| {
            memory.find(gpu, logits.view()).unwrap();
            gather::forward_at_peaks(gpu, features.view(), memory, 0, &mut out.view_mut()).unwrap();
        });
    }

    fn preparation(&self, samples: &mut Vec<Sample>, [nx, ny]: [usize; 2], frame: usize) {
        let micrograph = Micrograph::of_pixels(nx, ny, Pixels::F32(Samples::from(values(nx, ny, 1))));
        let prepared = |ground: Ground| {
            let mut samples = Vec::new();
            self.sample(
                &mut samples,
                |gpu| Preprocessor::<f32>::new(gpu).unwrap(),
                |gpu, preprocessor| preprocessor.start(gpu, &micrograph, frame, ground, &Compat::default()).unwrap(),
            );
            samples
        };
        let kept = prepared(Ground::Kept);
        // What is left without the ground has other grey levels, and the kernels after it other costs.
        let of_the_ground = |sample: &Sample| kept.iter().all(|other| other.kernel != sample.kernel);
        samples.extend(prepared(Ground::Levelled { sigma_px: 24.0 }).into_iter().filter(of_the_ground));
        samples.extend(kept);
    }
}

/// Every kernel at three sizes, the one that nothing is fitted to last.
fn samples() -> Vec<Sample> {
    let (devices, mut samples) = (Devices::new(), Vec::new());
    let conv = |ci, co, kernel, side| ConvShape { n: 1, h: side, w: side, ci, co, kernel, stride: 1 };
    for shape in [conv(64, 64, 3, 32), conv(32, 64, 3, 32), conv(128, 64, 3, 16)] {
        devices.convolutions(&mut samples, shape, "");
    }
    for shape in [conv(1, 16, 7, 64), conv(1, 16, 7, 96)] {
        devices.convolutions(&mut samples, shape, "7x7");
    }
    for (ci, side) in [(64, 32), (32, 32), (128, 16)] {
        devices.deformable_convolutions(&mut samples, DeformConvShape { n: 1, h: side, w: side, ci, co: 64 });
    }
    for (extent, factor) in [([64, 64, 64], 2), ([64, 48, 32], 2), ([32, 64, 64], 4)] {
        devices.small_ops(&mut samples, extent, factor);
    }
    for (side, c, k) in [(64, 64, 500), (128, 32, 500), (96, 64, 400)] {
        devices.peaks(&mut samples, side, c, k);
    }
    for (extent, frame) in [([576, 409], 256), ([800, 700], 288), ([1000, 600], 320)] {
        devices.preparation(&mut samples, extent, frame);
    }
    samples
}

/// What a kernel costs by the samples but the last.
fn fitted(grows: &Grows, samples: &[&Sample]) -> Cost {
    let work: &[Factor] = match grows {
        Grows::Blocks => &[],
        Grows::With(factors) | Grows::BlocksAndWith(factors) => factors,
    };
    let sums = |sample: &Sample| -> [f64; 2] {
        let blocks: u64 = sample.launches.iter().map(Launch::blocks).sum();
        [blocks as f64, sample.launches.iter().map(|launch| Cost::work(work, launch).unwrap()).sum()]
    };
    let [first, second] = [samples[0], samples[1]];
    let ([a, b], [c, d]) = (sums(first), sums(second));
    let (of_first, of_second) = (first.counts.to_array(), second.counts.to_array());
    let solve = |i: usize| match grows {
        Grows::Blocks => [of_first[i] / a, 0.0],
        Grows::With(_) => [0.0, of_first[i] / b],
        Grows::BlocksAndWith(_) => {
            let determinant = a * d - b * c;
            assert!((determinant / (a * d)).abs() > 1e-3, "{}: both samples are alike", first.kernel);
            let [block, unit] = [(of_first[i] * d - b * of_second[i]) / determinant, (a * of_second[i] - of_first[i] * c) / determinant];
            if block < 0.0 {
                [0.0, of_first[i] / b]
            } else if unit < 0.0 {
                [of_first[i] / a, 0.0]
            } else {
                [block, unit]
            }
        }
    };
    let both: [[f64; 2]; 9] = std::array::from_fn(solve);
    Cost {
        work: work.to_vec(),
        per_block: Counts::from_array(both.map(|[block, _]| block)),
        per_work: Counts::from_array(both.map(|[_, unit]| unit)),
    }
}

fn instructions_sectors_passes(counts: Counts) -> [f64; 3] {
    let all = counts.to_array();
    [all[..7].iter().sum(), counts.sectors, counts.passes]
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn is_to_be_written() -> bool {
    std::env::var_os("EPICKER_WRITE_COSTS").is_some()
}

const HEAD: &str = "# What a block of a kernel costs, and a unit of its work, counted while its PTX for compute_80 was executed: instructions of warps,\n\
                    # sectors of 32 bytes of the device's memory, passes through the banks of shared memory. Work is a product of the blocks and of\n\
                    # numbers among the arguments (argument.field). EPICKER_WRITE_COSTS=1 cargo test --test gpu predicted writes this file.\n";

#[test]
fn kernels_cost_what_the_model_says() {
    if ptxgpu::images(80).unwrap().is_none() {
        println!("this build has no PTX for compute_80, so nothing is counted");
        return;
    }
    let samples = samples();
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    for (kernel, grows, tolerance) in KERNELS.iter().chain(&LEVELS) {
        let of_kernel: Vec<&Sample> = samples.iter().filter(|sample| sample.kernel == *kernel).collect();
        let Some((last, fitted_to)) = of_kernel.split_last() else { panic!("{kernel} was never launched") };
        let cost = fitted(grows, if fitted_to.len() > 1 { fitted_to } else { &of_kernel });
        let mut predicted = [0.0; 9];
        for launch in &last.launches {
            let one = cost.of(launch).unwrap().to_array();
            predicted.iter_mut().zip(one).for_each(|(sum, value)| *sum += value);
        }
        let both = [Counts::from_array(predicted), last.counts].map(instructions_sectors_passes);
        for (i, what) in ["instructions", "sectors", "passes"].into_iter().enumerate() {
            let (found, expected) = (both[0][i], both[1][i]);
            if (found - expected).abs() > tolerance * expected {
                wrong.push(format!("{kernel}: {found} {what} predicted, {expected} counted"));
            }
        }
        all.push(((*kernel).to_owned(), cost));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let path = file("src/device/gpu/costs.txt");
    if is_to_be_written() {
        std::fs::write(&path, HEAD.to_owned() + &predict::write_costs(&all)).unwrap();
        return;
    }
    // Another version of the compiler, or another place of its memory, moves an instruction here and there.
    let known = predict::costs().unwrap();
    assert_eq!(known.len(), all.len(), "kernels of src/device/gpu/costs.txt");
    for (kernel, cost) in &all {
        let known = known.get(kernel).unwrap_or_else(|| panic!("{kernel} is not in src/device/gpu/costs.txt"));
        assert_eq!(known.work, cost.work, "{kernel}");
        let pairs = [(known.per_block, cost.per_block), (known.per_work, cost.per_work)];
        for (known, found) in pairs.map(|(known, found)| (instructions_sectors_passes(known), instructions_sectors_passes(found))) {
            for (known, found) in known.into_iter().zip(found) {
                assert!(
                    (known - found).abs() <= 0.1 * known.abs() + 1e-3,
                    "{kernel}: {known} in src/device/gpu/costs.txt, {found} counted"
                );
            }
        }
    }
}

/// Group of a part, as docs/gpu-predicted.txt has them.
fn group(part: Part, finder: &PeakFinder) -> &'static str {
    let Part::Step(i) = part else { return "peaks, and heads at the peaks" };
    let steps = finder.plan().summary();
    let (name, operation) = (&steps[i].name, &steps[i].operation);
    let levels = ["7x7, level 0, level 1", "level 2", "level 3", "level 4", "level 5"];
    if let Some(rest) = name.strip_prefix("base.") {
        let level: usize = rest.strip_prefix("level").and_then(|rest| rest[..1].parse().ok()).unwrap_or(0);
        return levels[level.saturating_sub(1)];
    }
    match operation {
        _ if name.ends_with("conv_offset_mask") => "offset convolutions",
        _ if operation.starts_with("deform_conv") => "deformable convolutions",
        _ if operation.starts_with("up_conv") => "enlargements, with sums",
        _ => "hm.0, hm.2",
    }
}

/// Milliseconds on every known GPU, by group, of a model at a frame, and of the preparation of a micrograph of 4096 x 4096.
fn table(title: &str, precision: Precision, model: &Model, frame: usize) -> String {
    let options = PeakFinderOptions { frame, sizes: false, k: 2000, views: Default::default() };
    let on_paper = |info: DeviceInfo| PeakFinder::new(&Device::Gpu(Paper::gpu(info).unwrap().0), model, options).unwrap();
    let finder = on_paper(KNOWN[0].info());
    let mut rows: Vec<(&'static str, Vec<f64>)> = Vec::new();
    let mut add = |name: &'static str, gpu: usize, seconds: f64| {
        let place = rows.iter().position(|(other, _)| *other == name).unwrap_or_else(|| {
            rows.push((name, vec![0.0; KNOWN.len()]));
            rows.len() - 1
        });
        rows[place].1[gpu] += 1e3 * seconds;
    };
    let preparation = parts::preparation([4096, 4096], frame, Ground::wanted_by(model.facts())).unwrap();
    for (gpu, known) in KNOWN.iter().enumerate() {
        if precision == Precision::Tf32 && known.info().capability < TF32_FROM {
            continue;
        }
        for (part, predicted) in parts::predicted(&known.info(), precision, model, options).unwrap() {
            add(group(part, &finder), gpu, predicted.seconds);
            add("all of it", gpu, predicted.seconds);
        }
        let preparation = parts::predicted_by_kernel(&known.info(), &preparation).unwrap();
        add("a micrograph's copy", gpu, known.copy(4 * 4096 * 4096));
        add("its preparation", gpu, preparation.iter().map(|(.., predicted)| predicted.seconds).sum());
    }
    let (name, multiply_adds) = (precision.name(), finder.plan().multiply_adds() as f64 * 1e-9);
    let mut text = format!("{title}, frame {frame}, {name}: {multiply_adds:.1} G multiply-adds\n");
    let last = |name: &str| ["all of it", "a micrograph's copy", "its preparation"].iter().position(|other| *other == name);
    rows.sort_by_key(|(name, _)| last(name).map_or(0, |place| place + 1));
    for (name, times) in rows {
        write!(text, "{name:<32}").unwrap();
        for &ms in &times {
            let told = if ms > 0.0 { format!("{ms:.3}") } else { "-".to_string() };
            write!(text, " {told:>18}").unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn times_by_the_model_are_those_of_the_docs() {
    let mut text = "# Milliseconds that a model says picking takes on GPUs that nobody has tried: no measurements. For each kernel the longest of\n\
                    # arithmetic, memory, shared memory and launch, from what its PTX was counted to do (src/device/gpu/costs.txt), the machine code's\n\
                    # inner loops, and each GPU's clock and widths. Left out: how long a value is waited for where too few warps hide that, what\n\
                    # first-level caches keep, maps that are still in the second-level cache, clocks that fall under load.\n\
                    # `epicker plan --gpu-model NAME` prints it by layer; `epicker bench` on a GPU prints measured times beside it.\n\
                    # EPICKER_WRITE_COSTS=1 cargo test --test gpu predicted::times writes this file.\n"
        .to_owned();
    write!(text, "{:<32}", "").unwrap();
    KNOWN.iter().for_each(|Known { title, .. }| write!(text, " {title:>18}").unwrap());
    text.push_str("\n\n");
    let full = formula::model(Architecture::DLA34).unwrap();
    let particle: Model = ModelSource::General("particle").load(Model::from_state).unwrap();
    for precision in [Precision::F32, Precision::Tf32] {
        text += &table("full network", precision, &full, 1024);
        for frame in [576, 1024] {
            text += "\n";
            text += &table("general model of particles", precision, &particle, frame);
        }
        text += "\n";
    }
    let path = file("docs/gpu-predicted.txt");
    if is_to_be_written() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "docs/gpu-predicted.txt is not what the model says today");
}

#[test]
fn costs_are_read_as_they_were_written() {
    let counts = Counts::from_array([1.0, 0.0, 12.25, 1234.5, 0.03125, 7.0, 5.0, 2e6, 3.5]);
    let cost = Cost { work: vec![Blocks, Word(0, 3)], per_block: counts, per_work: Counts { single: 0.5, ..Counts::default() } };
    let text = predict::write_costs(&[("a_kernel".to_owned(), cost.clone())]);
    let read = predict::read_costs(&text).unwrap();
    assert_eq!(read["a_kernel"].work, cost.work);
    for (read, written) in read["a_kernel"].per_block.to_array().into_iter().zip(counts.to_array()) {
        assert!((read - written).abs() <= 1e-3 * written, "{text}");
    }
    for broken in ["a_kernel - 1 2 3", "a_kernel blocks*x 0;0 0;0 0;0 0;0 0;0 0;0 0;0 0;0 0;0", "a_kernel - 1 2 3 4 5 6 7 8 nine"] {
        assert!(format!("{:#}", predict::read_costs(broken).unwrap_err()).contains("a_kernel"), "{broken}");
    }
}

#[test]
fn a_time_is_the_longest_of_what_a_launch_does() {
    let info = Known::of("A100").unwrap().info();
    let kernel = "preprocess_adjust".to_owned();
    let pixels = 4096 * 4096_u32;
    let launch = |pixels: u32, blocks: u32| Launch {
        kernel: kernel.clone(),
        grid: [blocks, 1, 1],
        threads: 256,
        arguments: vec![pixels.to_le_bytes().to_vec()],
    };
    let all = predict::of_launch(&info, &launch(pixels, 65_536), None).unwrap();
    // 64 MiB are read and as many written, at 1555 GB a second.
    let least = f64::from(pixels) * 8.0 / 1555e9;
    assert!(all.seconds >= least && all.seconds < 10.0 * least, "{all:?}");
    let few = predict::of_launch(&info, &launch(256, 1), None).unwrap();
    assert_eq!((few.bound, few.seconds), (predict::Bound::Launch, 2e-6));
    let unknown = Launch { kernel: "nobody".to_owned(), ..launch(1, 1) };
    assert!(format!("{:#}", predict::of_launch(&info, &unknown, None).unwrap_err()).contains("kernel nobody"));
}
