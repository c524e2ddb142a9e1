//! Times of every op on a layer of the real network at 1024 x 1024: `cargo bench-op NAME`, or all without a name.
//!
//! A line says the op, its shape, the median of the runs, and the share of what this machine can do: of the fastest
//! multiply-add loop (a 256-channel convolution) or of copying memory, whichever bounds the op. The machine's two
//! figures are measured first; compare shares, and times only in pairs on one machine.

use epicker::device::{Device, Tensor, TensorMut, TensorRef};
use epicker::ops::conv::{self, Algorithm, ConvShape, Epilogue, Pass};
use epicker::ops::deform_conv::{self, DeformConvShape};
use epicker::ops::max_pool::{self, MaxPoolShape};
use epicker::ops::up_conv::{self, UpConvShape};
use epicker::ops::{Compute, adam, batch_norm, gather, heat_map, map};
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
}

/// Median seconds of a run, after one that is not counted.
fn median(mut run: impl FnMut()) -> f64 {
    run();
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}

impl Bench {
    fn new() -> Self {
        let (from, mut to) = (vec![1.0f32; 1 << 25], vec![0.0f32; 1 << 25]);
        let copied = median(|| to.copy_from_slice(std::hint::black_box(&from)));
        let shape = ConvShape { n: 1, h: 64, w: 64, ci: 256, co: 256, kernel: 3, stride: 1 };
        let product = median(conv_run(shape, conv::algorithm::choose(&cpu(), Pass::Forward, shape)));
        let bench = Bench {
            multiply_adds_per_second: shape.multiply_adds() as f64 / product,
            bytes_per_second: 2.0 * 4.0 * from.len() as f64 / copied,
        };
        println!(
            "machine: {}, {:.0} GFLOP/s in a 3x3 convolution of 256 channels, {:.1} GB/s copying",
            Device::Cpu.describe(),
            2e-9 * bench.multiply_adds_per_second,
            1e-9 * bench.bytes_per_second
        );
        bench
    }

    fn line(&self, name: &str, shape: &str, work: Work, run: impl FnMut()) {
        let seconds = median(run);
        let (share, roof) = match work {
            Work::MultiplyAdds(count) => (count as f64 / seconds / self.multiply_adds_per_second, "multiply-add"),
            Work::Bytes(count) => (count as f64 / seconds / self.bytes_per_second, "memory"),
        };
        println!("{name:<12} {shape:<48} {:>9.3} ms  {:>3.0} % of {roof} roof", 1e3 * seconds, 100.0 * share);
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

macro_rules! run_wanted {
    ($($op:ident)*) => {
        fn run(bench: &Bench, wanted: &[String]) {
            $(if wanted.is_empty() || wanted.iter().any(|name| name == stringify!($op)) {
                op::$op(bench);
            })*
        }
    };
}
epicker::for_each_op!(run_wanted);

fn main() {
    // Cargo passes --bench; what is left are names of ops.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    run(&Bench::new(), &wanted);
}
