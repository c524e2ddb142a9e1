//! Convolutions by cuDNN: what it is told, with a library of the tests' own (tests/libcudnn); which of its algorithms are
//! taken, what is kept of that, and what happens where it refuses or is wrong, with one that computes on the host executor.

#![cfg(target_os = "linux")]

use anyhow::{Result, bail};
use epicker::device::gpu::Gpu;
use epicker::device::gpu::driver::{Driver, Meaning, Stream, means};
use epicker::device::{Device, Tensor};
use epicker::doctor::compute::{Chosen, Conv, choose_library, examined};
use epicker::doctor::examine_library;
use epicker::io::kept::Kept;
use epicker::io::model_source::ModelSource;
use epicker::net::Model;
use epicker::net::inference::plan::Plan;
use epicker::ops::conv::cudnn::Cudnn;
use epicker::ops::conv::library::{Dnn, Library, LibraryAlgorithm, Operands, Product};
use epicker::ops::conv::{self, ConvShape, Epilogue, Pass, reference, reference_backward};
use epicker::ops::{Compute, largest_difference};
use epicker::random::noise;
use hostgpu::{Build, HostGpu, Options};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The tests' libcudnn, compiled with a flag.
fn library(folder: &Path, flag: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libcudnn/libcudnn.c");
    let path = folder.join(format!("libcudnn{flag}.so"));
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&path).arg(source);
    if !flag.is_empty() {
        compiler.arg(format!("-D{flag}"));
    }
    let output = compiler.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    path
}

fn product(pass: Pass, shape: ConvShape, gaps: [usize; 2]) -> Product {
    Product { pass, shape, pixel_strides: [shape.ci + gaps[0], shape.co + gaps[1]], residual_stride: None, relu: false }
}

/// Values with `gap` values of another kind behind each pixel's channels, and without them.
fn with_gaps(values: &[f32], channels: usize, gap: usize) -> Vec<f32> {
    values.chunks_exact(channels).flat_map(|pixel| pixel.iter().copied().chain(vec![7.0; gap])).collect()
}
fn without_gaps(values: &[f32], channels: usize, gap: usize) -> Vec<f32> {
    values.chunks_exact(channels + gap).flat_map(|pixel| pixel[..channels].to_vec()).collect()
}

#[track_caller]
fn near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0_f32, |most, x| most.max(x.abs()));
    assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-5 * scale), "{found:?}, expected {expected:?}");
}

#[test]
fn cudnn_is_told_what_a_convolution_is() {
    let folder = tempfile::tempdir().unwrap();
    let cudnn = Cudnn::load(&library(folder.path(), "")).unwrap();
    assert_eq!(cudnn.name(), "cuDNN 9.1.2");
    let shapes = [[2, 9, 8, 5, 7, 3, 1], [1, 11, 17, 1, 8, 7, 2], [1, 8, 10, 4, 6, 3, 2], [3, 4, 5, 6, 2, 1, 1]];
    let mut workspace = [0_u64; 16];
    let room = (workspace.as_mut_ptr() as u64, 128);
    let stream = Stream(0x77); // what the library expects
    for (i, [n, h, w, ci, co, kernel, stride]) in shapes.into_iter().enumerate() {
        let (shape, gaps) = (ConvShape { n, h, w, ci, co, kernel, stride }, [i % 3, 2 * i]);
        let (inp, weights, bias) = (noise(n * h * w * ci, 1), noise(shape.weights_len(), 2), noise(co, 3));
        let mut plain_weights = weights.clone();
        let out_len: usize = shape.out().iter().product();
        let (residual, dout) = (noise(out_len, 4), noise(out_len, 5));
        let mut inp_gaps = with_gaps(&inp, ci, gaps[0]);
        let operands = |inp: &mut [f32], weights: &mut [f32], out: &mut [f32], residual: &[f32]| Operands {
            inp: inp.as_mut_ptr() as u64,
            weights: weights.as_mut_ptr() as u64,
            out: out.as_mut_ptr() as u64,
            bias: bias.as_ptr() as u64,
            residual: residual.as_ptr() as u64,
        };
        for (with_residual, relu) in [(false, false), (true, true), (false, true)] {
            let forward = Product { residual_stride: with_residual.then_some(co + 3), relu, ..product(Pass::Forward, shape, gaps) };
            let mut out = with_gaps(&vec![f32::NAN; out_len], co, gaps[1]);
            let beside = with_gaps(&residual, co, 3);
            let operands = operands(&mut inp_gaps, &mut plain_weights, &mut out, &beside);
            // SAFETY: host memory of the sizes that the product says; the library runs on the host.
            unsafe { cudnn.run(&forward, 1, &operands, room, stream) }.unwrap();
            let exact = reference::<f32>(shape, &inp, &weights, &bias, with_residual.then_some(&residual[..]), relu);
            near(&without_gaps(&out, co, gaps[1]), &exact);
            assert!(out.chunks_exact(co + gaps[1]).all(|pixel| pixel[co..].iter().all(|x| *x == 7.0)), "written between the pixels");
        }
        let (dinp, dweights, _) = reference_backward::<f32>(shape, &inp, &weights, &dout);
        let plus = |values: &[f32], more: &[f32]| values.iter().zip(more).map(|(a, b)| a + b).collect::<Vec<f32>>();
        let (mut found_dinp, mut dout_gaps) = (inp_gaps.clone(), with_gaps(&dout, co, gaps[1]));
        let all = operands(&mut found_dinp, &mut plain_weights, &mut dout_gaps, &[]);
        // SAFETY: as above.
        unsafe { cudnn.run(&product(Pass::Data, shape, gaps), 1, &all, room, stream) }.unwrap();
        near(&without_gaps(&found_dinp, ci, gaps[0]), &plus(&inp, &dinp));
        let mut found_dweights = weights.clone();
        let all = operands(&mut inp_gaps, &mut found_dweights, &mut dout_gaps, &[]);
        // SAFETY: as above.
        unsafe { cudnn.run(&product(Pass::Weights, shape, gaps), 1, &all, room, stream) }.unwrap();
        near(&found_dweights, &plus(&weights, &dweights));
    }
}

#[test]
fn what_cudnn_says_of_its_algorithms_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let cudnn = Cudnn::load(&library(folder.path(), "")).unwrap();
    let shape = ConvShape { n: 1, h: 4, w: 4, ci: 4, co: 4, kernel: 3, stride: 1 };
    for pass in [Pass::Forward, Pass::Data, Pass::Weights] {
        // A transform is left out by its number.
        let algorithm = |workspace, is_deterministic, is_fp32| LibraryAlgorithm { number: 1, workspace, is_deterministic, is_fp32 };
        let expected = [algorithm(0, false, true), algorithm(1 << 40, true, true), algorithm(64, true, false), algorithm(128, true, true)];
        assert_eq!(cudnn.algorithms(&product(pass, shape, [0; 2])).unwrap(), expected);
        let refused = cudnn.algorithms(&product(pass, ConvShape { ci: 13, ..shape }, [0; 2])).unwrap_err();
        assert!(format!("{refused:#}").ends_with("Algorithm_v7: CUDNN_STATUS_NOT_SUPPORTED"), "{refused:#}");
        let huge = ConvShape { n: 64, h: 4096, w: 4096, ..shape };
        assert!(format!("{:#}", cudnn.algorithms(&product(pass, huge, [0; 2])).unwrap_err()).contains("expected less than 2^31"));
    }
}

#[test]
fn a_library_that_will_not_do_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| format!("{:#}", Cudnn::load(path).unwrap_err());
    assert!(error(&library(folder.path(), "OLD")).ends_with("libcudnnOLD.so: cuDNN 7605; expected 8 or later"));
    assert!(error(&library(folder.path(), "INCOMPLETE")).contains("libcudnnINCOMPLETE.so: has no cudnnConvolutionBackwardFilter"));
    assert!(error(Path::new("libcudnn-of-nobody.so")).starts_with("libcudnn-of-nobody.so: cannot be loaded"));
}

/// A library on the host executor, and how it behaves.
#[derive(Debug)]
struct HostDnn {
    host: Arc<HostGpu>,
    behaviour: Behaviour,
    asked: AtomicUsize,
    computed: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Behaviour {
    /// Computes everything but 3 x 3 from five channels.
    Right,
    /// Adds something.
    Wrong,
    /// Has no algorithm that gives the same bits each time.
    Random,
    /// Promises, and fails.
    Failing,
    /// Makes the GPU fail for good.
    Fatal,
}

impl HostDnn {
    fn read(&self, address: u64, len: usize) -> Result<Vec<f32>> {
        let mut values = vec![0.0_f32; len];
        // SAFETY: the executor checks the address, and is done when it returns.
        unsafe { self.host.download(values.as_mut_ptr().cast(), address, 4 * len, Stream(0)) }?;
        Ok(values)
    }

    fn write(&self, address: u64, values: &[f32]) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.host.upload(address, values.as_ptr().cast(), 4 * values.len(), Stream(0)) }
    }

    fn map(&self, address: u64, pixels: usize, channels: usize, stride: usize) -> Result<Vec<f32>> {
        let values = self.read(address, (pixels - 1) * stride + channels)?;
        Ok(values.chunks(stride).flat_map(|pixel| pixel[..channels].to_vec()).collect())
    }

    fn write_map(&self, address: u64, channels: usize, stride: usize, values: &[f32]) -> Result<()> {
        values.chunks(channels).enumerate().try_for_each(|(i, pixel)| self.write(address + (4 * i * stride) as u64, pixel))
    }
}

impl Dnn for HostDnn {
    fn name(&self) -> String {
        "a library of the tests 1.0".into()
    }

    fn algorithms(&self, product: &Product) -> Result<Vec<LibraryAlgorithm>> {
        self.asked.fetch_add(1, Relaxed);
        assert!(self.host.is_current(), "asked while the thread works with another device");
        if product.shape.ci == 5 {
            bail!("five channels");
        }
        let is_deterministic = self.behaviour != Behaviour::Random;
        Ok(vec![LibraryAlgorithm { number: 3, workspace: 40 + product.shape.ci, is_deterministic, is_fp32: true }])
    }

    unsafe fn run(&self, product: &Product, algorithm: i32, operands: &Operands, workspace: (u64, usize), _: Stream) -> Result<()> {
        assert_eq!((algorithm, workspace.1), (3, 40 + product.shape.ci));
        assert!(self.host.is_current(), "run while the thread works with another device");
        self.read(workspace.0, workspace.1 / 4)?; // it is there
        if self.behaviour == Behaviour::Fatal {
            self.host.fail("an illegal address");
        }
        if self.behaviour == Behaviour::Failing {
            bail!("it failed");
        }
        self.computed.fetch_add(1, Relaxed);
        let Product { shape, pixel_strides: [from, to], .. } = *product;
        let (ConvShape { n, h, w, ci, co, .. }, [_, oh, ow, _]) = (shape, shape.out());
        let (pixels, out_pixels) = (n * h * w, n * oh * ow);
        let inp = || self.map(operands.inp, pixels, ci, from);
        let weights = || self.read(operands.weights, shape.weights_len());
        let plus = |values: Vec<f32>, more: Vec<f64>| values.iter().zip(more).map(|(a, b)| a + b as f32).collect::<Vec<f32>>();
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        if product.pass == Pass::Forward {
            let residual = product.residual_stride.map(|stride| self.map(operands.residual, out_pixels, co, stride)).transpose()?;
            let bias = self.read(operands.bias, co)?;
            let mut out = reference::<f32>(shape, &inp()?, &weights()?, &bias, residual.as_deref(), product.relu);
            if self.behaviour == Behaviour::Wrong {
                out[0] += 1.0;
            }
            return self.write_map(operands.out, co, to, &out);
        }
        let dout = wide(&self.map(operands.out, out_pixels, co, to)?);
        let (dinp, dweights, _) = reference_backward::<f64>(shape, &wide(&inp()?), &wide(&weights()?), &dout);
        match product.pass {
            Pass::Data => self.write_map(operands.inp, ci, from, &plus(inp()?, dinp)),
            _ => self.write(operands.weights, &plus(weights()?, dweights)),
        }
    }
}

fn host_dnn(behaviour: Behaviour) -> (Gpu, Arc<HostDnn>) {
    let (gpu, host) = HostGpu::gpu(Options { build: Build::Fast, ..Options::default() }).unwrap();
    (gpu, Arc::new(HostDnn { host, behaviour, asked: AtomicUsize::new(0), computed: AtomicUsize::new(0) }))
}

/// A GPU whose convolutions the library computes, and one by its own kernels.
fn with_library(gpu: &Gpu, library: Arc<Library>) -> Compute {
    Compute::with_library(&Device::Gpu(gpu.clone()), library)
}
fn native(gpu: &Gpu) -> Compute {
    Compute::from(&Device::Gpu(gpu.clone()))
}

/// One convolution, from `ci` channels.
fn convolved(compute: &Compute, ci: usize) -> Vec<f32> {
    try_convolved(compute, ci).unwrap()
}

fn try_convolved(compute: &Compute, ci: usize) -> Result<Vec<f32>> {
    let device = &compute.device;
    let shape = ConvShape { n: 1, h: 6, w: 7, ci, co: 4, kernel: 3, stride: 1 };
    let (inp, weights, bias) = (noise(6 * 7 * ci, 1), noise(shape.weights_len(), 2), noise(4, 3));
    let packed = conv::prepare(compute, shape, &weights, &bias)?;
    let inp = Tensor::on(device, [1, 6, 7, ci], inp)?;
    let mut out = Tensor::on(device, shape.out(), vec![f32::NAN; 6 * 7 * 4])?;
    conv::forward(device, shape, inp.view(), &packed, Epilogue { residual: None, relu: true }, &mut out.view_mut())?;
    out.to_vec()
}

#[test]
fn a_library_computes_the_cases_and_the_network() {
    let (gpu, library) = host_dnn(Behaviour::Right);
    let with = with_library(&gpu, Arc::new(Library::load(&gpu, || Ok(library.clone())).unwrap()));
    examine_library(&with).unwrap();
    assert!(library.computed.load(Relaxed) > 50, "{} products", library.computed.load(Relaxed));
    // In the network: into parts of wider maps, with sums, with and without ReLU.
    let model = ModelSource::file(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/tiny.safetensors"))
        .load(Model::from_state)
        .unwrap();
    let graph = model.architecture().graph();
    let o = graph.outputs();
    let maps = |compute: &Compute| {
        let mut plan = Plan::new(compute, &graph, &model, 1, [64, 64], &[o.heat_map, o.up]).unwrap();
        plan.run(&noise(64 * 64, 5)).unwrap();
        [o.heat_map, o.up].map(|id| plan.read(id).unwrap())
    };
    let before = library.computed.swap(0, Relaxed);
    let (found, expected) = (maps(&with), maps(&(&Device::Cpu).into()));
    assert!(before > 0 && library.computed.load(Relaxed) > 20, "{} products", library.computed.load(Relaxed));
    for (found, expected) in found.iter().zip(&expected) {
        let scale = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-4 * scale));
    }
}

#[test]
fn what_a_library_refuses_is_computed_by_the_kernels_and_said_once() {
    for (behaviour, words) in
        [(Behaviour::Right, "five channels"), (Behaviour::Random, "no deterministic algorithm"), (Behaviour::Failing, "it failed")]
    {
        let (gpu, library) = host_dnn(behaviour);
        let convolutions = Arc::new(Library::load(&gpu, || Ok(library.clone())).unwrap());
        let with = with_library(&gpu, convolutions.clone());
        let ci = if behaviour == Behaviour::Right { 5 } else { 8 };
        for _ in 0..3 {
            assert!(convolved(&with, ci) == convolved(&native(&gpu), ci), "{behaviour:?}");
        }
        convolved(&with, ci + 1);
        assert_eq!(library.asked.load(Relaxed), 2, "{behaviour:?}: chosen once for each product");
        let notes = convolutions.take_notes();
        assert!(notes.len() == 1 && notes[0].contains(words) && notes[0].contains("own kernels"), "{behaviour:?}: {notes:?}");
        assert!(convolutions.take_notes().is_empty());
        let kept = convolutions.choices().unwrap();
        assert_eq!(kept.contains("native"), behaviour != Behaviour::Failing, "{kept}");
        assert_eq!(kept.contains("algorithm 3"), behaviour == Behaviour::Right, "{kept}");
    }
}

/// One product: the cases of the doctor take long by the references.
fn examine(compute: &Compute) -> Result<()> {
    let (found, expected) = (try_convolved(compute, 8)?, try_convolved(&(&compute.device).into(), 8)?);
    let error = largest_difference(&found, &expected);
    if error > 1e-5 { bail!("error {error:.1e}") } else { Ok(()) }
}

fn choose(gpu: &Gpu, conv: Conv, library: &Arc<HostDnn>, folder: Option<&Path>) -> Chosen {
    let library: Arc<dyn Dnn> = library.clone();
    choose_library(gpu, conv, || Ok(library), &examine, Kept::within(folder)).unwrap()
}

#[test]
fn choices_are_kept_for_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("cache");
    let (gpu, library) = host_dnn(Behaviour::Right);
    let first = choose(&gpu, Conv::Auto, &library, Some(&kept));
    assert_eq!(first.lines, ["convolutions by a library of the tests 1.0, examined and right"]);
    let expected = convolved(&first.compute, 9);
    assert!(first.keep().is_empty());
    let files: Vec<PathBuf> = std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let text = std::fs::read_to_string(file).unwrap();
    let line = "Forward 1x6x7x9 to 4, kernel 3, stride 1, pixels 9 and 4, relu: algorithm 3 49";
    assert!(text.lines().any(|other| other == line), "{text}");

    // The next run neither examines nor asks.
    let asked = library.asked.swap(0, Relaxed);
    let second = choose(&gpu, Conv::Cudnn, &library, Some(&kept));
    assert!(convolved(&second.compute, 9) == expected && asked >= 2 && library.asked.load(Relaxed) == 0);
    assert!(second.lines == ["convolutions by a library of the tests 1.0"] && second.warnings.is_empty());
    // Lines that say nothing count for nothing; what they said is found out again.
    std::fs::write(file, text.replace(": algorithm 3 49", ": algorithm three 49") + "rubbish\n: \nx: algorithm 3 99999999999\n").unwrap();
    let third = choose(&gpu, Conv::Auto, &library, Some(&kept));
    assert!(convolved(&third.compute, 9) == expected && library.asked.load(Relaxed) > 0);
    third.keep();
    assert!(std::fs::read_to_string(file).unwrap().contains(line));

    // Where nothing can be kept, or nothing is to be kept, it is found out each time.
    let blocked = folder.path().join("a file");
    std::fs::write(&blocked, "").unwrap();
    for folder in [None, Some(&blocked)] {
        library.asked.store(0, Relaxed);
        let chosen = choose(&gpu, Conv::Auto, &library, folder.map(PathBuf::as_path));
        assert!(convolved(&chosen.compute, 9) == expected && library.asked.load(Relaxed) == 2);
        chosen.keep();
    }
}

#[test]
fn a_library_that_is_absent_or_wrong_leaves_the_work_to_the_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let (gpu, library) = host_dnn(Behaviour::Wrong);
    for (conv, is_warning) in [(Conv::Auto, false), (Conv::Cudnn, true)] {
        let wrong = choose(&gpu, conv, &library, Some(folder.path()));
        let said = |chosen: &Chosen| {
            assert_eq!([chosen.lines.len(), chosen.warnings.len()], if is_warning { [0, 1] } else { [1, 0] });
            [chosen.lines.clone(), chosen.warnings.clone()].concat().remove(0)
        };
        let line = said(&wrong);
        assert!(line.contains("a library of the tests 1.0 does not compute what it should: error "), "{line}");
        assert!(wrong.compute.library.is_none() && std::fs::read_dir(folder.path()).unwrap().count() == 0);
        let absent = choose_library(&gpu, conv, || bail!("no cuDNN 9 or 8 was found"), &examine, Kept::within(None)).unwrap();
        assert_eq!(said(&absent), "convolutions by this program's own kernels: no cuDNN 9 or 8 was found");
    }
    let own = choose_library(&gpu, Conv::Native, || panic!("nobody asked for it"), &examine, Kept::within(None)).unwrap();
    assert!(own.lines.is_empty() && own.warnings.is_empty() && own.compute.library.is_none());
    assert!(examined(&gpu, || Ok(library), &examine).starts_with("a library of the tests 1.0, WRONG, not used: error "));
    let (gpu, right) = host_dnn(Behaviour::Right);
    let said = examined(&gpu, || Ok(right), &examine);
    assert!(
        said.starts_with("a library of the tests 1.0, right; of the cases' products it computes ") && said.contains("refuses"),
        "{said}"
    );
}

#[test]
fn a_library_that_makes_the_gpu_fail_is_named_and_nothing_goes_on_there() {
    let (gpu, library) = host_dnn(Behaviour::Fatal);
    let error = choose_library(&gpu, Conv::Auto, || Ok(library), &examine, Kept::within(None)).unwrap_err();
    assert!(means(&error, Meaning::Lost));
    let words = format!("{error:#}");
    let expected = "a library of the tests 1.0 makes the GPU fail; use this program's own convolutions: --conv native";
    assert!(words.starts_with(expected) && words.ends_with("an illegal address"), "{words}");
}

#[test]
fn a_library_is_called_with_its_own_device_whichever_was_used_before() {
    // The library itself asserts that its device is the thread's.
    let made = [(); 2].map(|()| {
        let (gpu, library) = host_dnn(Behaviour::Right);
        let with = with_library(&gpu, Arc::new(Library::load(&gpu, || Ok(library.clone())).unwrap()));
        (library, with)
    });
    for round in 1..=2 {
        for (library, with) in &made {
            convolved(with, 8);
            assert_eq!(library.computed.load(Relaxed), round);
        }
    }
}
