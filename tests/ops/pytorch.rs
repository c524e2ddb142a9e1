//! Single operations and their gradients against PyTorch's in f64 (tests/golden/README.md): the references to 1e-12, the
//! ops in f32 to 1e-5, both of the largest value.

use epicker::device::tensor::Layout;
use epicker::device::{Device, Team, Tensor, TensorMut, TensorRef};
use epicker::ops::adam::{self, AdamStep};
use epicker::ops::batch_norm::{self, Norm, RunningStatistics};
use epicker::ops::conv::{self, Algorithms, ConvShape, Epilogue};
use epicker::ops::deform_conv::{self, DeformConvShape, Gradients};
use epicker::ops::losses::{self, HeatMapLoss};
use epicker::ops::max_pool::{self, MaxPoolShape};
use epicker::ops::up_conv::{self, UpConvShape};
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::path::PathBuf;

const EXACT: f64 = 1e-12;
const SINGLE: f64 = 1e-5;

/// A tensor of a file: shape and values, in the file's order.
#[derive(Clone)]
struct Stored {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Stored {
    /// (n, c, h, w) to (n, h, w, c).
    fn channels_last(&self) -> Vec<f64> {
        let [n, c, h, w] = self.extents();
        let at = |i: usize| (((i / (h * w * c)) * c + i % c) * h + i / (w * c) % h) * w + i / c % w;
        (0..n * h * w * c).map(|i| self.values[at(i)]).collect()
    }

    fn extents(&self) -> [usize; 4] {
        self.shape.clone().try_into().unwrap()
    }
}

fn load(name: &str) -> HashMap<String, Stored> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/train/ops/{name}.safetensors"));
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let read = |view: &safetensors::tensor::TensorView| {
        let data = view.data();
        let values = match view.dtype() {
            safetensors::Dtype::F64 => data.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            safetensors::Dtype::I64 => data.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
            safetensors::Dtype::U8 => data.iter().map(|&b| f64::from(b)).collect(),
            other => panic!("{other:?}"),
        };
        Stored { shape: view.shape().to_vec(), values }
    };
    file.tensors().iter().map(|(name, view)| (name.clone(), read(view))).collect()
}

/// The names before the first dot.
fn cases(file: &HashMap<String, Stored>) -> Vec<String> {
    let mut names: Vec<String> = file.keys().filter_map(|key| Some(key.split_once('.')?.0.to_string())).collect();
    names.sort();
    names.dedup();
    names
}

fn close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "{what}, value {i}: {a}, expected {b}");
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn convolutions_and_their_gradients_are_pytorchs() {
    let file = load("conv");
    for case in cases(&file) {
        let get = |name: &str| file.get(&format!("{case}.{name}"));
        let [x, w, y, gy, gx, gw] = ["x", "w", "y", "gy", "gx", "gw"].map(|name| get(name).unwrap());
        let ([n, ci, h, width], [co, _, kernel, _]) = (x.extents(), w.extents());
        let stride = if case.contains("s2") { 2 } else { 1 };
        let shape = ConvShape { n, h, w: width, ci, co, kernel, stride };
        let bias = get("b").map_or(Vec::new(), |b| b.values.clone());
        let (inp, dout) = (x.channels_last(), gy.channels_last());
        close(&case, &conv::reference(shape, &inp, &w.values, &bias, None, false), &y.channels_last(), EXACT);
        let (dinp, dweights, dbias) = conv::reference_backward(shape, &inp, &w.values, &dout);
        close(&case, &dinp, &gx.channels_last(), EXACT);
        close(&case, &dweights, &gw.values, EXACT);
        let device = Device::Cpu;
        let (inp, weights) = (Tensor::from_values([n, h, width, ci], narrow(&inp)), narrow(&w.values));
        let dout = Tensor::from_values(shape.out(), narrow(&dout));
        let packed = conv::prepare(&(&device).into(), shape, &weights, &narrow(&bias)).unwrap();
        let mut out = Tensor::zeros(shape.out());
        conv::forward(&device, shape, inp.view(), &packed, Epilogue::default(), &mut out.view_mut()).unwrap();
        close(&case, &wide(out.values()), &y.channels_last(), SINGLE);
        let mut dinp = Tensor::zeros([n, h, width, ci]);
        let algorithms = Algorithms::choose(&(&device).into(), shape);
        let mut scratch = vec![0.0; conv::scratch_len(&algorithms, shape)];
        let scratch = &mut TensorMut::flat(&mut scratch);
        let (flat, to) = (TensorRef::flat(&weights), &mut dinp.view_mut());
        conv::backward_data(&device, shape, &algorithms.data, flat, dout.view(), to, scratch).unwrap();
        close(&case, &wide(dinp.values()), &gx.channels_last(), SINGLE);
        let (mut dweights, mut found_dbias) = (vec![0.0; weights.len()], vec![0.0; co]);
        let (to, to_bias) = (&mut TensorMut::flat(&mut dweights), &mut TensorMut::flat(&mut found_dbias));
        let gradients = conv::Gradients { dweights: to, dbias: Some(to_bias) };
        conv::backward_weights(&device, shape, &algorithms.weights, inp.view(), dout.view(), gradients, scratch).unwrap();
        close(&case, &wide(&dweights), &gw.values, SINGLE);
        if let Some(gb) = get("gb") {
            close(&case, &dbias, &gb.values, EXACT);
            close(&case, &wide(&found_dbias), &gb.values, SINGLE);
        }
    }
}

#[test]
fn enlargements_and_their_gradients_are_pytorchs() {
    let file = load("conv_transpose");
    for case in cases(&file) {
        let [x, w, y, gy, gx, gw] = ["x", "w", "y", "gy", "gx", "gw"].map(|name| &file[&format!("{case}.{name}")]);
        let ([n, c, h, width], [.., kernel]) = (x.extents(), w.extents());
        let shape = UpConvShape { n, h, w: width, c, factor: kernel / 2 };
        let (inp, dout) = (x.channels_last(), gy.channels_last());
        close(&case, &up_conv::reference(shape, &inp, &w.values, None), &y.channels_last(), EXACT);
        let (dinp, dweights) = up_conv::reference_backward(shape, &inp, &w.values, &dout);
        close(&case, &dinp, &gx.channels_last(), EXACT);
        close(&case, &dweights, &gw.values, EXACT);
        let weights = narrow(&w.values);
        let (inp, dout) = (Tensor::from_values([n, h, width, c], narrow(&inp)), Tensor::from_values(shape.out(), narrow(&dout)));
        let (mut dinp, mut dweights) = (Tensor::zeros(inp.shape()), vec![0.0; weights.len()]);
        let gradients = up_conv::Gradients { dinp: &mut dinp.view_mut(), dweights: &mut TensorMut::flat(&mut dweights) };
        let mut scratch = vec![0.0; up_conv::scratch_len(&Device::Cpu, shape)];
        let (flat, scratch) = (TensorRef::flat(&weights), &mut TensorMut::flat(&mut scratch));
        up_conv::backward(&Device::Cpu, shape, inp.view(), flat, dout.view(), gradients, scratch).unwrap();
        close(&case, &wide(dinp.values()), &gx.channels_last(), SINGLE);
        close(&case, &wide(&dweights), &gw.values, SINGLE);
    }
}

#[test]
fn poolings_and_their_gradients_are_pytorchs() {
    let file = load("maxpool2");
    for case in cases(&file) {
        let [x, y, gy, gx] = ["x", "y", "gy", "gx"].map(|name| &file[&format!("{case}.{name}")]);
        let [n, c, h, w] = x.extents();
        let shape = MaxPoolShape { n, h, w, c, window: 2 };
        let (inp, dout) = (x.channels_last(), gy.channels_last());
        close(&case, &max_pool::reference(shape, &inp), &y.channels_last(), EXACT);
        close(&case, &max_pool::reference_backward(shape, &inp, &dout), &gx.channels_last(), EXACT);
        let (inp, dout) = (Tensor::from_values([n, h, w, c], narrow(&inp)), Tensor::from_values(shape.out(), narrow(&dout)));
        let mut dinp = Tensor::zeros(inp.shape());
        max_pool::backward(&Device::Cpu, shape, inp.view(), dout.view(), &mut dinp.view_mut()).unwrap();
        close(&case, &wide(dinp.values()), &gx.channels_last(), SINGLE);
    }
}

#[test]
fn batch_norms_and_their_gradients_are_pytorchs() {
    let file = load("batchnorm");
    for case in cases(&file) {
        let get = |name: &str| &file[&format!("{case}.{name}")];
        let norm = Norm { frozen: case.ends_with("eval"), relu: false };
        let [n, c, h, w] = get("x").extents();
        let (inp, dout) = (get("x").channels_last(), get("gy").channels_last());
        let (gamma, beta) = (&get("gamma").values, &get("beta").values);
        let (mut mean, mut variance) = (get("rmean_in").values.clone(), get("rvar_in").values.clone());
        let running = RunningStatistics::of(&mut mean, &mut variance);
        let (out, saved) = batch_norm::reference_training(norm, &inp, gamma, beta, running, None);
        let (dinp, _, dgamma, dbeta) = batch_norm::reference_backward(norm, &inp, &out, &dout, gamma, &saved);
        // A mean of 1000 costs the f64 sums three digits as well, in another order than PyTorch's.
        let exact = if case.starts_with("shifted") { 1e-9 } else { EXACT };
        let expected = |name: &str| {
            let stored = get(name);
            if stored.shape.len() == 4 { stored.channels_last() } else { stored.values.clone() }
        };
        let found = [("y", out), ("gx", dinp), ("ggamma", dgamma), ("gbeta", dbeta), ("rmean_out", mean), ("rvar_out", variance)];
        for (name, found) in &found {
            close(&format!("{case}.{name}"), found, &expected(name), exact);
        }

        let layout = Layout::packed([n, h, w, c]);
        let (inp, dout, gamma, beta) = (narrow(&inp), narrow(&dout), narrow(gamma), narrow(beta));
        let (mut mean, mut variance) = (narrow(&get("rmean_in").values), narrow(&get("rvar_in").values));
        let running = RunningStatistics::of(&mut mean, &mut variance);
        let (mut out, mut saved) = (Tensor::zeros([n, h, w, c]), vec![0.0; 3 * c]);
        let inp = TensorRef::new(&inp, layout);
        let (gamma, beta) = (TensorRef::flat(&gamma), TensorRef::flat(&beta));
        let (to, to_saved, scratch) = (&mut out.view_mut(), &mut TensorMut::flat(&mut saved), &mut TensorMut::flat(&mut []));
        let team = &Team::alone(n);
        let read = batch_norm::Forward { team, inp, gamma, beta, running, again: false, residual: None };
        batch_norm::train_forward(&Device::Cpu, norm, read, to_saved, to, scratch).unwrap();
        let (mut dinp, mut dgamma, mut dbeta) = (Tensor::zeros([n, h, w, c]), vec![0.0; c], vec![0.0; c]);
        let dout = TensorRef::new(&dout, layout);
        let kept = batch_norm::Kept { team, inp, out: out.view(), gamma, saved: TensorRef::flat(&saved) };
        let (dinp_view, dgamma_view, dbeta_view) =
            (&mut dinp.view_mut(), &mut TensorMut::flat(&mut dgamma), &mut TensorMut::flat(&mut dbeta));
        let gradients = batch_norm::Gradients { dinp: dinp_view, dresidual: None, dgamma: dgamma_view, dbeta: dbeta_view };
        batch_norm::backward(&Device::Cpu, norm, kept, dout, gradients, scratch).unwrap();
        // Values near 1000 are themselves rounded to 3e-5 of their deviation.
        let single = if case.starts_with("shifted") { 20.0 * SINGLE } else { SINGLE };
        let found = [
            ("y", out.values()),
            ("gx", dinp.values()),
            ("ggamma", &dgamma),
            ("gbeta", &dbeta),
            ("rmean_out", &mean),
            ("rvar_out", &variance),
        ];
        for (name, found) in found {
            close(&format!("{case}.{name} in f32"), &wide(found), &expected(name), single);
        }
    }
}

#[test]
fn deformable_convolutions_and_their_gradients_are_the_originals() {
    for case in ["batch2", "big16x12", "c1x1", "integer", "leave", "odd7x9", "zero_offset", "zeromask"] {
        let file = load(&format!("deform_{case}"));
        let ([n, ci, h, w], co) = (file["x"].extents(), file["bias"].values.len());
        let shape = DeformConvShape { n, h, w, ci, co };
        let (inp, dout, weights) = (file["x"].channels_last(), file["grad_out"].channels_last(), &file["weight"].values);
        let (offset, mask) = (file["offset"].channels_last(), file["mask"].channels_last());
        // The op takes logits; a mask of 0 is that of a very negative one.
        let logit = |m: f64| if m == 0.0 { -1e3 } else { (m / (1.0 - m)).ln() };
        let offsets: Vec<f64> = (0..n * h * w)
            .flat_map(|p| [offset[18 * p..][..18].to_vec(), mask[9 * p..][..9].iter().map(|&m| logit(m)).collect()])
            .flatten()
            .collect();
        // Likewise its gradient is that of the logits; where the mask is 0 both vanish.
        let (d_offset, d_mask) = (file["grad_offset"].channels_last(), file["grad_mask"].channels_last());
        let dlogit = |i: usize| d_mask[i] * mask[i] * (1.0 - mask[i]);
        let d_offsets: Vec<f64> =
            (0..n * h * w).flat_map(|p| [d_offset[18 * p..][..18].to_vec(), (9 * p..9 * p + 9).map(dlogit).collect()]).flatten().collect();
        let expected = [&file["grad_x"].channels_last(), &d_offsets, &file["grad_weight"].values, &file["grad_bias"].values];
        let bias = &file["bias"].values;
        close(case, &deform_conv::reference(shape, &inp, &offsets, weights, bias, false), &file["out"].channels_last(), 1e-11);
        let found = deform_conv::reference_backward(shape, &inp, &offsets, weights, &dout);
        // The logit and its sigmoid cost a digit.
        for (found, expected) in [found.0, found.1, found.2, found.3].iter().zip(expected) {
            close(case, found, expected, 1e-11);
        }

        let layouts = [ci, 27, co].map(|c| Layout::packed([n, h, w, c]));
        let (inp, offsets, weights, dout) = (narrow(&inp), narrow(&offsets), narrow(weights), narrow(&dout));
        let mut found = [vec![0.0; inp.len()], vec![0.0; offsets.len()], vec![0.0; weights.len()], vec![0.0; co]];
        let [dinp, doffsets, dweights, dbias] = &mut found;
        let (mut dinp, mut doffsets) = (TensorMut::new(dinp, layouts[0]), TensorMut::new(doffsets, layouts[1]));
        let (dweights, dbias) = (&mut TensorMut::flat(dweights), &mut TensorMut::flat(dbias));
        let gradients = Gradients { dinp: &mut dinp, doffsets: &mut doffsets, dweights, dbias };
        let [inp, offsets, dout] = [(&inp, 0), (&offsets, 1), (&dout, 2)].map(|(values, i)| TensorRef::new(values, layouts[i]));
        let algorithm = deform_conv::algorithm::choose(&(&Device::Cpu).into(), shape);
        let mut scratch = vec![0.0; deform_conv::scratch_len::<f32>(&algorithm, shape)];
        let (kept, scratch) = (deform_conv::Kept { inp, offsets, weights: TensorRef::flat(&weights) }, &mut TensorMut::flat(&mut scratch));
        deform_conv::backward(&Device::Cpu, shape, &algorithm, kept, dout, gradients, scratch).unwrap();
        for (found, expected) in found.iter().zip(expected) {
            close(&format!("{case} in f32"), &wide(found), expected, SINGLE);
        }
    }
}

#[test]
fn losses_and_their_gradients_are_the_originals() {
    let file = load("losses");
    for case in ["normal", "extreme", "no_positive", "all_zero_gt"] {
        let get = |name: &str| &file[&format!("{case}.{name}")];
        let (logits, targets) = (&get("logits").values, &get("gt").values);
        for (kind, name) in [(HeatMapLoss::Focal, "focal"), (HeatMapLoss::SparseOriginal, "sparse")] {
            let mut gradient = vec![0.0; logits.len()];
            let loss = losses::heat_map(kind, logits, targets, 1.0, &mut gradient);
            close(&format!("{case} {name}"), &[loss], &get(name).values, EXACT);
            close(&format!("{case} {name}"), &gradient, &get(&format!("{name}_glogits")).values, EXACT);
            if case == "extreme" {
                continue; // there f32 decides which side of a bound a logit lies on
            }
            let mut gradient = vec![0.0_f32; logits.len()];
            let loss = losses::heat_map(kind, &narrow(logits), &narrow(targets), 1.0, &mut gradient);
            close(&format!("{case} {name} in f32"), &[loss], &get(name).values, SINGLE);
            close(&format!("{case} {name} in f32"), &wide(&gradient), &get(&format!("{name}_glogits")).values, SINGLE);
        }
    }
    let [_, _, h, w] = file["regl1.out"].extents();
    let mask = &file["regl1.mask"].values;
    let objects: Vec<(usize, [f32; 2])> = (0..mask.len())
        .filter(|&i| mask[i] > 0.0)
        .map(|i| {
            let target = &file["regl1.target"].values;
            let pixel = i / (mask.len() / 2) * h * w + file["regl1.ind"].values[i] as usize;
            (pixel, [target[2 * i] as f32, target[2 * i + 1] as f32])
        })
        .collect();
    let map = file["regl1.out"].channels_last();
    let mut gradient = vec![0.0; map.len()];
    // Targets are f32 here and f64 there.
    close("regl1", &[losses::l1(&map, &objects, 1.0, &mut gradient)], &file["regl1.loss"].values, 1e-7);
    close("regl1", &gradient, &file["regl1.gout"].channels_last(), EXACT);
    let mut gradient = vec![0.0; 18];
    assert_eq!((losses::l1(&[0.5; 18], &[], 1.0, &mut gradient), &gradient), (0.0, &vec![0.0; 18]));
}

#[test]
fn adam_moves_as_pytorchs() {
    let file = load("adam");
    let len = file["p0"].values.len();
    let mut exact = [file["p0"].values.clone(), vec![0.0; len], vec![0.0; len]];
    let mut found = [narrow(&file["p0"].values), vec![0.0; len], vec![0.0; len]];
    for k in 0..6 {
        let step = AdamStep { learning_rate: if k < 5 { 1e-4 } else { 1e-5 }, count: k as u64 + 1 };
        let g = &file["grads"].values[k * len..(k + 1) * len];
        let [p, m, v] = &mut exact;
        adam::reference(step, p, g, m, v);
        let [p, m, v] = &mut found;
        let (g, flat) = (narrow(g), TensorMut::flat);
        adam::step(&Device::Cpu, step, &mut flat(p), TensorRef::flat(&g), &mut flat(m), &mut flat(v)).unwrap();
        let expected = &file["params_after"].values[k * len..(k + 1) * len];
        close("adam", &exact[0], expected, EXACT);
        close("adam in f32", &wide(&found[0]), expected, SINGLE);
    }
    close("first moments", &exact[1], &file["exp_avg"].values, EXACT);
    close("second moments", &exact[2], &file["exp_avg_sq"].values, EXACT);
}
