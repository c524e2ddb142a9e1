//! Times of every op on a layer of the real network at 1024 x 1024, forward and backward: `cargo bench-op NAME`, or all
//! without a name.
//!
//! A line says the op, its shape, the median of the runs, and the share of what this machine can do: of the fastest
//! multiply-add loop (a 256-channel convolution) or of copying memory, whichever bounds the op. The machine's two
//! figures are measured first; compare shares, and times only in pairs on one machine.
//!
//! `--csv FILE` adds a line for each to a file, with the time of every run; scripts/bench.sh keeps it. `--tiny` runs each once.

use epicker::device::cpu::InstructionSet;
use epicker::device::{Device, Team, Tensor, TensorMut, TensorRef};
use epicker::ops::conv::{self, Algorithm, ConvShape, Epilogue, Pass};
use epicker::ops::deform_conv::{self, DeformConvShape};
use epicker::ops::losses::{self, HeatMapLoss};
use epicker::ops::max_pool::{self, MaxPoolShape};
use epicker::ops::up_conv::{self, UpConvShape};
use epicker::ops::{Compute, adam, batch_norm, gather, heat_map, map, relu};
use epicker::random::noise;
use std::time::Instant;

const RUNS: usize = 9;

/// What bounds an op.
enum Work {
    MultiplyAdds(u64),
    Bytes(usize),
}

struct Bench {
    multiply_adds_per_second: f64,
    bytes_per_second: f64,
    runs: usize,
    /// Where the times of every run go, too.
    csv: Option<std::path::PathBuf>,
}

/// Seconds of `count` runs, after one that is not counted.
fn seconds(count: usize, mut run: impl FnMut()) -> Vec<f64> {
    run();
    let timed = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..count).map(timed).collect()
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

impl Bench {
    fn new(runs: usize, csv: Option<std::path::PathBuf>) -> Self {
        let (from, mut to) = (vec![1.0f32; 1 << 25], vec![0.0f32; 1 << 25]);
        let copied = median(&seconds(RUNS, || to.copy_from_slice(std::hint::black_box(&from))));
        let shape = ConvShape { n: 1, h: 64, w: 64, ci: 256, co: 256, kernel: 3, stride: 1 };
        let product = median(&seconds(RUNS, conv_run(shape, Algorithm::CpuTiles(InstructionSet::detect()))));
        let bench = Bench {
            multiply_adds_per_second: shape.multiply_adds() as f64 / product,
            bytes_per_second: 2.0 * 4.0 * from.len() as f64 / copied,
            runs,
            csv,
        };
        println!(
            "machine: {}, {:.0} GFLOP/s in a 3x3 convolution of 256 channels by tiles, {:.1} GB/s copying",
            Device::Cpu.describe(),
            2e-9 * bench.multiply_adds_per_second,
            1e-9 * bench.bytes_per_second
        );
        bench
    }

    fn line(&self, name: &str, shape: &str, work: Work, run: impl FnMut()) {
        let times = seconds(self.runs, run);
        let seconds = median(&times);
        let (share, roof) = match work {
            Work::MultiplyAdds(count) => (count as f64 / seconds / self.multiply_adds_per_second, "multiply-add"),
            Work::Bytes(count) => (count as f64 / seconds / self.bytes_per_second, "memory"),
        };
        println!("{name:<22} {shape:<48} {:>9.3} ms  {:>3.0} % of {roof} roof", 1e3 * seconds, 100.0 * share);
        if let Some(csv) = &self.csv {
            let every: Vec<String> = times.iter().map(|time| format!("{:.4}", 1e3 * time)).collect();
            let row = format!("{name},{},ms,{:.4},{}\n", shape.replace(',', ""), 1e3 * seconds, every.join(" "));
            let file = std::fs::OpenOptions::new().create(true).append(true).open(csv);
            must(file.and_then(|mut file| std::io::Write::write_all(&mut file, row.as_bytes())).map_err(Into::into));
        }
    }
}

fn cpu() -> Compute {
    Compute::from(&Device::Cpu)
}

fn conv_run(shape: ConvShape, algorithm: Algorithm) -> impl FnMut() {
    let ConvShape { n, h, w, ci, .. } = shape;
    let inp = Tensor::from_values([n, h, w, ci], noise(n * h * w * ci, 1));
    let weights = conv::Weights::pack(&Device::Cpu, algorithm, shape.extents(), &noise(shape.weights_len(), 2), &[]);
    let weights = weights.unwrap_or_else(|error| panic!("{error:#}"));
    let mut out = Tensor::zeros(shape.out());
    move || must(conv::forward(&Device::Cpu, shape, inp.view(), &weights, Epilogue { residual: None, relu: true }, &mut out.view_mut()))
}

/// A CPU op cannot fail.
fn must(result: anyhow::Result<()>) {
    if let Err(error) = result {
        panic!("{error:#}");
    }
}

mod op {
    use super::*;

    pub fn conv(bench: &Bench) {
        for [h, ci, co, kernel, stride] in [
            [1024, 1, 16, 7, 1],
            [1024, 16, 16, 3, 1],
            [1024, 16, 32, 3, 2],
            [256, 64, 64, 3, 1],
            [256, 64, 27, 3, 1],
            [128, 128, 128, 3, 1],
            [32, 512, 512, 3, 1],
            [64, 896, 256, 1, 1],
        ] {
            let shape = ConvShape { n: 1, h, w: h, ci, co, kernel, stride };
            for algorithm in conv::algorithm::all(&cpu(), Pass::Forward, shape) {
                let text = format!("1x{h}x{h}x{ci} to {co}, {kernel}x{kernel} /{stride}, {algorithm}");
                bench.line("conv", &text, Work::MultiplyAdds(shape.multiply_adds()), conv_run(shape, algorithm));
            }
        }
    }

    pub fn deform_conv(bench: &Bench) {
        for [h, ci, co] in [[256, 64, 64], [128, 128, 128], [32, 512, 256]] {
            let shape = DeformConvShape { n: 1, h, w: h, ci, co };
            let inp = Tensor::from_values([1, h, h, ci], noise(h * h * ci, 1));
            let offsets = Tensor::from_values([1, h, h, 27], noise(h * h * 27, 2));
            let mut out = Tensor::zeros([1, h, h, co]);
            for algorithm in deform_conv::algorithm::all(&cpu(), shape) {
                let text = format!("1x{h}x{h}x{ci} to {co}, {algorithm}");
                let weights = deform_conv::Weights::pack(&Device::Cpu, algorithm, shape.extents(), &noise(ci * co * 9, 3), &[]);
                let weights = weights.unwrap_or_else(|error| panic!("{error:#}"));
                bench.line("deform_conv", &text, Work::MultiplyAdds(shape.multiply_adds()), || {
                    must(deform_conv::forward(&Device::Cpu, shape, inp.view(), offsets.view(), &weights, true, &mut out.view_mut()));
                });
            }
        }
    }

    pub fn max_pool(bench: &Bench) {
        let shape = MaxPoolShape { n: 1, h: 256, w: 256, c: 64, window: 2 };
        let inp = Tensor::from_values([1, 256, 256, 64], noise(256 * 256 * 64, 1));
        let mut out = Tensor::zeros(shape.out());
        bench.line("max_pool", "1x256x256x64", Work::Bytes(5 * 256 * 256 * 64), || {
            must(max_pool::forward(&Device::Cpu, shape, inp.view(), &mut out.view_mut()));
        });
    }

    pub fn up_conv(bench: &Bench) {
        let shape = UpConvShape { n: 1, h: 128, w: 128, c: 64, factor: 2 };
        let inp = Tensor::from_values([1, 128, 128, 64], noise(128 * 128 * 64, 1));
        let skip = Tensor::from_values(shape.out(), noise(256 * 256 * 64, 2));
        let weights = noise(64 * 16, 3);
        let mut out = Tensor::zeros(shape.out());
        bench.line("up_conv", "1x128x128x64 x2 + add", Work::Bytes(9 * 256 * 256 * 64), || {
            must(up_conv::forward(&Device::Cpu, shape, inp.view(), TensorRef::flat(&weights), Some(skip.view()), &mut out.view_mut()));
        });
    }

    pub fn batch_norm(bench: &Bench) {
        let inp = Tensor::from_values([1, 256, 256, 64], noise(256 * 256 * 64, 1));
        let (scale, shift) = (noise(64, 2), noise(64, 3));
        let mut out = Tensor::zeros([1, 256, 256, 64]);
        bench.line("batch_norm", "1x256x256x64, running statistics", Work::Bytes(8 * 256 * 256 * 64), || {
            must(batch_norm::forward(
                &Device::Cpu,
                inp.view(),
                TensorRef::flat(&scale),
                TensorRef::flat(&shift),
                true,
                &mut out.view_mut(),
            ));
        });
    }

    pub fn heat_map(bench: &Bench) {
        let logits = Tensor::from_values([1, 256, 256, 1], noise(256 * 256, 1));
        bench.line("heat_map", "1x256x256x1, 2000 peaks", Work::Bytes(4 * 256 * 256), || {
            must(heat_map::peaks(&Device::Cpu, logits.view(), 2000).map(drop));
        });
    }

    pub fn gather(bench: &Bench) {
        let inp = Tensor::from_values([1, 256, 256, 64], noise(256 * 256 * 64, 1));
        let indices: Vec<u32> = (0..2000).map(|i| i * 32).collect();
        let mut out = Tensor::zeros([1, 1, 2000, 576]);
        bench.line("gather", "2000 of 1x256x256x64", Work::Bytes(8 * 2000 * 576), || {
            must(gather::forward(&Device::Cpu, inp.view(), TensorRef::flat(&indices), &mut out.view_mut()));
        });
    }

    pub fn map(bench: &Bench) {
        let inp = Tensor::from_values([1, 256, 256, 64], noise(256 * 256 * 64, 1));
        let mut out = Tensor::zeros(inp.shape());
        bench.line("map", "1x256x256x64 + add", Work::Bytes(12 * 256 * 256 * 64), || {
            must(map::add(&Device::Cpu, inp.view(), &mut out.view_mut()));
        });
    }

    pub fn adam(bench: &Bench) {
        let len = 19_655_589;
        let gradient = noise(len, 1);
        let (mut parameters, mut first, mut second) = (noise(len, 2), vec![0.0; len], vec![0.0; len]);
        bench.line("adam", "19 655 589 parameters", Work::Bytes(28 * len), || {
            let step = adam::AdamStep { learning_rate: 1e-4, count: 1 };
            let [p, m, v] = &mut [&mut parameters, &mut first, &mut second].map(|values| TensorMut::flat(values));
            must(adam::step(&Device::Cpu, step, p, TensorRef::flat(&gradient), m, v));
        });
    }
}

/// The same for gradients. Backward adds, so every run adds to what the one before has left.
mod backward {
    use super::*;

    fn filled(shape: [usize; 4], seed: u64) -> Tensor {
        Tensor::from_values(shape, noise(shape.iter().product(), seed))
    }

    pub fn conv(bench: &Bench) {
        for [h, ci, co, kernel, stride] in [[256, 64, 64, 3, 1], [128, 128, 128, 3, 1], [32, 512, 512, 3, 1], [256, 64, 128, 3, 2]] {
            let shape = ConvShape { n: 1, h, w: h, ci, co, kernel, stride };
            let text = format!("1x{h}x{h}x{ci} to {co}, {kernel}x{kernel} /{stride}");
            let algorithms = conv::algorithm::Algorithms::choose(&cpu(), shape);
            let mut scratch = vec![0.0; conv::scratch_len(&algorithms, shape)];
            let (inp, dout) = (filled([1, h, h, ci], 1), filled(shape.out(), 2));
            let weights = noise(shape.weights_len(), 3);
            let mut dinp = Tensor::zeros([1, h, h, ci]);
            bench.line("conv backward data", &text, Work::MultiplyAdds(shape.multiply_adds()), || {
                let (weights, scratch) = (TensorRef::flat(&weights), &mut TensorMut::flat(&mut scratch));
                let (dinp, data) = (&mut dinp.view_mut(), &algorithms.data);
                must(conv::backward_data(&Device::Cpu, shape, data, weights, dout.view(), dinp, scratch));
            });
            let (mut dweights, mut dbias) = (vec![0.0; shape.weights_len()], vec![0.0; co]);
            bench.line("conv backward weights", &text, Work::MultiplyAdds(shape.multiply_adds()), || {
                let [dweights, dbias, scratch] = &mut [&mut dweights, &mut dbias, &mut scratch].map(|values| TensorMut::flat(values));
                let gradients = conv::Gradients { dweights, dbias: Some(dbias) };
                must(conv::backward_weights(&Device::Cpu, shape, &algorithms.weights, inp.view(), dout.view(), gradients, scratch));
            });
        }
    }

    pub fn deform_conv(bench: &Bench) {
        for [h, ci, co] in [[256, 64, 64], [128, 128, 128], [32, 512, 256]] {
            let shape = DeformConvShape { n: 1, h, w: h, ci, co };
            let algorithm = deform_conv::algorithm::choose(&cpu(), shape);
            let mut scratch = vec![0.0; deform_conv::scratch_len::<f32>(&algorithm, shape)];
            let (inp, offsets, dout) = (filled([1, h, h, ci], 1), filled([1, h, h, 27], 2), filled([1, h, h, co], 3));
            let weights = noise(co * ci * 9, 4);
            let (mut dinp, mut doffsets) = (Tensor::zeros([1, h, h, ci]), Tensor::zeros([1, h, h, 27]));
            let (mut dweights, mut dbias) = (vec![0.0; co * ci * 9], vec![0.0; co]);
            // The gradients of samples and of weights are a product each.
            let work = Work::MultiplyAdds(2 * shape.multiply_adds());
            bench.line("deform_conv backward", &format!("1x{h}x{h}x{ci} to {co}"), work, || {
                let kept = deform_conv::Kept { inp: inp.view(), offsets: offsets.view(), weights: TensorRef::flat(&weights) };
                let [dweights, dbias, scratch] = &mut [&mut dweights, &mut dbias, &mut scratch].map(|values| TensorMut::flat(values));
                let (dinp, doffsets) = (&mut dinp.view_mut(), &mut doffsets.view_mut());
                let gradients = deform_conv::Gradients { dinp, doffsets, dweights, dbias };
                must(deform_conv::backward(&Device::Cpu, shape, &algorithm, kept, dout.view(), gradients, scratch));
            });
        }
    }

    pub fn max_pool(bench: &Bench) {
        let shape = MaxPoolShape { n: 1, h: 256, w: 256, c: 64, window: 2 };
        let (inp, dout, mut dinp) = (filled([1, 256, 256, 64], 1), filled(shape.out(), 2), Tensor::zeros([1, 256, 256, 64]));
        bench.line("max_pool backward", "1x256x256x64", Work::Bytes(13 * 256 * 256 * 64), || {
            must(max_pool::backward(&Device::Cpu, shape, inp.view(), dout.view(), &mut dinp.view_mut()));
        });
    }

    pub fn up_conv(bench: &Bench) {
        let shape = UpConvShape { n: 1, h: 128, w: 128, c: 64, factor: 2 };
        let (inp, dout, weights) = (filled([1, 128, 128, 64], 1), filled(shape.out(), 2), noise(64 * 16, 3));
        let (mut dinp, mut dweights) = (Tensor::zeros([1, 128, 128, 64]), vec![0.0; 64 * 16]);
        let mut scratch = vec![0.0; up_conv::scratch_len(&Device::Cpu, shape)];
        bench.line("up_conv backward", "1x128x128x64 x2", Work::Bytes(7 * 256 * 256 * 64), || {
            let [dweights, scratch] = &mut [&mut dweights, &mut scratch].map(|values| TensorMut::flat(values));
            let gradients = up_conv::Gradients { dinp: &mut dinp.view_mut(), dweights };
            must(up_conv::backward(&Device::Cpu, shape, inp.view(), TensorRef::flat(&weights), dout.view(), gradients, scratch));
        });
    }

    pub fn batch_norm(bench: &Bench) {
        let shape = [1, 256, 256, 64];
        let (inp, out, dout, gamma) = (filled(shape, 1), filled(shape, 2), filled(shape, 3), noise(64, 4));
        let saved: Vec<f32> = noise(3 * 64, 5).iter().map(|x| x + 1.0).collect();
        let (mut dinp, mut dgamma, mut dbeta) = (Tensor::zeros(shape), vec![0.0; 64], vec![0.0; 64]);
        let team = &Team::alone(shape[0]);
        let mut scratch = vec![0.0; batch_norm::scratch_len::<f32>(&Device::Cpu, shape, team.places())];
        bench.line("batch_norm backward", "1x256x256x64, the batch's statistics", Work::Bytes(32 * 256 * 256 * 64), || {
            let (gamma, saved) = (TensorRef::flat(&gamma), TensorRef::flat(&saved));
            let kept = batch_norm::Kept { team, inp: inp.view(), out: out.view(), gamma, saved };
            let [dgamma, dbeta, scratch] = &mut [&mut dgamma, &mut dbeta, &mut scratch].map(|values| TensorMut::flat(values));
            let gradients = batch_norm::Gradients { dinp: &mut dinp.view_mut(), dresidual: None, dgamma, dbeta };
            let norm = batch_norm::Norm { frozen: false, relu: true };
            must(batch_norm::backward(&Device::Cpu, norm, kept, dout.view(), gradients, scratch));
        });
    }

    pub fn relu(bench: &Bench) {
        let (out, mut dout) = (filled([1, 256, 256, 64], 1), filled([1, 256, 256, 64], 2));
        bench.line("relu backward", "1x256x256x64", Work::Bytes(12 * 256 * 256 * 64), || {
            must(relu::backward(&Device::Cpu, out.view(), &mut dout.view_mut()));
        });
    }

    pub fn losses(bench: &Bench) {
        let (logits, mut dlogits) = (noise(256 * 256, 1), vec![0.0f32; 256 * 256]);
        let targets: Vec<f32> = (0..256 * 256).map(|i| if i % 91 == 7 { 1.0 } else { 0.4 }).collect();
        bench.line("losses", "1x256x256x1, focal, with its gradient", Work::Bytes(16 * 256 * 256), || {
            std::hint::black_box(losses::heat_map(HeatMapLoss::Focal, &logits, &targets, 1.0, &mut dlogits));
        });
    }
}

macro_rules! run_wanted {
    ($run:ident $room:ident: $($op:ident)*) => {
        fn $run(bench: &Bench, wanted: &[String]) {
            $(if wanted.is_empty() || wanted.iter().any(|name| name == stringify!($op)) {
                $room::$op(bench);
            })*
        }
    };
}
macro_rules! run_forward {
    ($($op:ident)*) => { run_wanted!(forward op: $($op)*); };
}
macro_rules! run_backward {
    ($($op:ident)*) => { run_wanted!(gradients backward: $($op)*); };
}
epicker::for_each_op!(run_forward);
epicker::for_each_differentiable_op!(run_backward);

fn main() {
    // Cargo passes --bench; what is left beside the options are names of ops.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let csv = words.iter().position(|word| word == "--csv").and_then(|at| words.get(at + 1)).map(std::path::PathBuf::from);
    let is_name = |word: &&String| !word.starts_with("--") && csv.as_deref().is_none_or(|csv| csv != std::path::Path::new(word.as_str()));
    let wanted: Vec<String> = words.iter().filter(is_name).cloned().collect();
    let bench = Bench::new(if words.iter().any(|word| word == "--tiny") { 1 } else { RUNS }, csv);
    forward(&bench, &wanted);
    gradients(&bench, &wanted);
}
