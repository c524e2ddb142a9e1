//! Writes a model of the true widths whose weights come from a formula: for benchmarks, where their values do not matter,
//! and for comparing two programs, where both can make the same ones.
//!
//! ```text
//! cargo run --release --example formula_model -- MODEL.safetensors
//! ```
//!
//! For value i of the tensor called n, u is the upper 24 bits of splitmix64(FNV-1a(n) + i), divided by 2^24. The kinds of
//! tensors take from u what keeps activations of all layers near 1 and sampling offsets near half a pixel: see `value`.
//! `benches/peers/onnx.py` has the same formula, and prints the same fingerprint of the parameters.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use epicker::formats::safetensors_file;
use epicker::formats::state_dict::{ModelFacts, NamedTensor, StateDict, Values};
use sha2::{Digest, Sha256};

const CHANNELS: [usize; 6] = [16, 32, 64, 128, 256, 512];
const HEAD_WIDTH: usize = 256;
/// Of all parameters and running statistics in order, as little-endian f32.
const FINGERPRINT: &str = "7635cce57596d811f3c6e0b4212d12ab058e0d499e3956c24368e457b6eedd54";

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("no file named; usage: formula_model MODEL.safetensors");
        return ExitCode::from(2);
    };
    match write_model(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write_model(path: &str) -> Result<()> {
    let mut names = Names::default();
    names.network();
    let mut state = StateDict::default();
    let mut hash = Sha256::new();
    for (name, shape) in names.list {
        let values = if shape.is_empty() {
            Values::I64(vec![0])
        } else {
            let count = shape.iter().product();
            let first = fnv1a(&name);
            let values = Values::F32((0..count).map(|i| value(&name, &shape, i, splitmix(first.wrapping_add(i as u64))) as f32).collect());
            hash.update(values.to_le_bytes());
            values
        };
        state.tensors.push(NamedTensor { name, shape, values });
    }
    let fingerprint: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(fingerprint == FINGERPRINT, "parameters have SHA-256 {fingerprint}; expected {FINGERPRINT}");
    let facts = ModelFacts {
        mode: Some("particle".into()),
        channels: Some(CHANNELS.to_vec()),
        head_width: Some(HEAD_WIDTH),
        history: vec!["weights by formula: nothing was learnt".into()],
        ..ModelFacts::default()
    };
    facts.write_to(&mut state.metadata);
    std::fs::write(path, safetensors_file::write(&state)?).with_context(|| path.to_owned())?;
    println!("{path}: {} tensors, parameters have SHA-256 {fingerprint}", state.tensors.len());
    Ok(())
}

/// FNV-1a of 64 bits.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A number in 0..1. Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
fn splitmix(state: u64) -> f64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ z >> 31) >> 40) as f64 / 16_777_216.0
}

/// Value `i` of a tensor from its uniform number `u`. The order of operations is part of the formula.
fn value(name: &str, shape: &[usize], i: usize, u: f64) -> f64 {
    let sign = 2.0 * u - 1.0;
    let spread = (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
    let weight = shape.len() == 4;
    if name.contains("conv_offset_mask") {
        if weight { spread * 0.2 * sign } else { 0.5 * sign }
    } else if name.contains(".up_") {
        let kernel = shape[3];
        let factor = (kernel / 2) as f64;
        let centre = (2.0 * factor - 1.0 - factor % 2.0) / (2.0 * factor);
        let ramp = |at: usize| 1.0 - (at as f64 / factor - centre).abs();
        ramp(i / kernel % kernel) * ramp(i % kernel) * (1.0 + 0.2 * sign)
    } else if weight && name.contains("_up.") {
        spread * 2.0 * sign
    } else if weight && name.contains(".2.weight") && !name.starts_with("base") {
        spread * 1.0 * sign
    } else if weight {
        spread * 1.2 * sign
    } else if name.ends_with(".weight") || name.ends_with(".running_var") {
        0.5 + u
    } else if name == "hm.2.bias" {
        -2.19 + 0.1 * sign
    } else {
        0.1 * sign
    }
}

/// Names and shapes of the network's tensors, in the order of a checkpoint.
#[derive(Default)]
struct Names {
    list: Vec<(String, Vec<usize>)>,
}

impl Names {
    fn network(&mut self) {
        let [c0, c1, c2, c3, c4, c5] = CHANNELS;
        for (name, cin, cout, kernel) in [("base_layer", 3, c0, 7), ("level0", c0, c0, 3), ("level1", c0, c1, 3)] {
            self.add(format!("base.{name}.0.weight"), &[cout, cin, kernel, kernel]);
            self.batch_norm(&format!("base.{name}.1"), cout);
        }
        self.tree("base.level2", c1, c2, 0);
        for (name, cin, cout) in [("base.level3", c2, c3), ("base.level4", c3, c4)] {
            self.tree(&format!("{name}.tree1"), cin, cout, 0);
            self.tree(&format!("{name}.tree2"), cout, cout, cin + cout);
            self.project(name, cin, cout);
        }
        self.tree("base.level5", c4, c5, c4);
        let aggregations: [(&str, usize, &[(usize, usize)]); 4] = [
            ("dla_up.ida_0", c4, &[(c5, 2)]),
            ("dla_up.ida_1", c3, &[(c4, 2), (c4, 2)]),
            ("dla_up.ida_2", c2, &[(c3, 2), (c3, 2), (c3, 2)]),
            ("ida_up", c2, &[(c3, 2), (c4, 4)]),
        ];
        for (name, width, steps) in aggregations {
            for (i, &(cin, factor)) in (1..).zip(steps) {
                self.deform_conv(&format!("{name}.proj_{i}"), cin, width);
                self.add(format!("{name}.up_{i}.weight"), &[width, 1, 2 * factor, 2 * factor]);
                self.deform_conv(&format!("{name}.node_{i}"), width, width);
            }
        }
        for (head, outputs) in [("hm", 1), ("wh", 2), ("reg", 2)] {
            self.add(format!("{head}.0.weight"), &[HEAD_WIDTH, c2, 3, 3]);
            self.add(format!("{head}.0.bias"), &[HEAD_WIDTH]);
            self.add(format!("{head}.2.weight"), &[outputs, HEAD_WIDTH, 1, 1]);
            self.add(format!("{head}.2.bias"), &[outputs]);
        }
    }

    fn add(&mut self, name: String, shape: &[usize]) {
        self.list.push((name, shape.to_vec()));
    }

    fn batch_norm(&mut self, name: &str, ch: usize) {
        for part in ["weight", "bias", "running_mean", "running_var"] {
            self.add(format!("{name}.{part}"), &[ch]);
        }
        self.add(format!("{name}.num_batches_tracked"), &[]);
    }

    fn block(&mut self, name: &str, cin: usize, cout: usize) {
        for (i, cin) in [(1, cin), (2, cout)] {
            self.add(format!("{name}.conv{i}.weight"), &[cout, cin, 3, 3]);
            self.batch_norm(&format!("{name}.bn{i}"), cout);
        }
    }

    /// A tree of one level; its root sees `children` channels beside its two branches.
    fn tree(&mut self, name: &str, cin: usize, cout: usize, children: usize) {
        self.block(&format!("{name}.tree1"), cin, cout);
        self.block(&format!("{name}.tree2"), cout, cout);
        self.add(format!("{name}.root.conv.weight"), &[cout, 2 * cout + children, 1, 1]);
        self.batch_norm(&format!("{name}.root.bn"), cout);
        if cin != cout {
            self.project(name, cin, cout);
        }
    }

    fn project(&mut self, name: &str, cin: usize, cout: usize) {
        self.add(format!("{name}.project.0.weight"), &[cout, cin, 1, 1]);
        self.batch_norm(&format!("{name}.project.1"), cout);
    }

    fn deform_conv(&mut self, name: &str, cin: usize, cout: usize) {
        self.batch_norm(&format!("{name}.actf.0"), cout);
        self.add(format!("{name}.conv.weight"), &[cout, cin, 3, 3]);
        self.add(format!("{name}.conv.bias"), &[cout]);
        self.add(format!("{name}.conv.conv_offset_mask.weight"), &[27, cin, 3, 3]);
        self.add(format!("{name}.conv.conv_offset_mask.bias"), &[27]);
    }
}
