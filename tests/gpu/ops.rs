//! Every op's kernels, executed on the host, against the f64 reference: in f32 within the op's bound, with double for
//! float to 1e-9 (gradients 1e-7), and with every access to memory checked. Made from the one list of ops.

use epicker::device::{Device, Tensor};
use epicker::ops::conv::{self, ConvShape, Epilogue, Pass};
use epicker::ops::deform_conv::{self, DeformConvShape, OFFSET_CHANNELS};
use epicker::ops::{Agreement, Compute, Precision};
use epicker::random::splitmix64;
use hostgpu::{Build, HostGpu, Options};
use std::collections::BTreeSet;

/// What compares an op on a device with its reference.
pub type Compare = fn(&Device) -> anyhow::Result<Vec<Agreement>>;

fn device(build: Build, seed: u64) -> Device {
    Device::Gpu(HostGpu::gpu(Options { build, seed, ..Options::default() }).unwrap().0)
}

/// Every case is within its bound on this device.
pub fn holds(what: &str, device: &Device, run: Compare) -> Vec<Agreement> {
    let agreements = run(device).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    assert!(!agreements.is_empty());
    for agreement in &agreements {
        let Agreement { case, error, bound, .. } = agreement;
        assert!(agreement.holds(), "{what} {case}: error {error:.3e}, bound {bound:.3e}");
    }
    agreements
}

fn all_hold(run: Compare) {
    // A sanitizer sees the fast build alone.
    let builds: &[Build] = if hostgpu::sanitizer().is_some() { &[Build::Fast] } else { &[Build::Fast, Build::F64, Build::Checked] };
    for &build in builds {
        let agreements = holds(&format!("{build:?}"), &device(build, 0), run);
        if build == Build::Fast {
            // The same bits, whatever the order in which threads and blocks run.
            let bits = |agreements: &[Agreement]| agreements.iter().map(|agreement| agreement.bits).collect::<Vec<u64>>();
            assert!(bits(&agreements) == bits(&run(&device(build, 7)).unwrap()), "another order of threads, other bits");
        }
    }
}

/// Products by tensor cores, with every access checked: a tile of a warp is held by all its threads together.
#[test]
fn tensor_cores_are_fed_as_they_want_it() {
    let device = Device::Gpu(HostGpu::gpu(Options { build: Build::Checked, capability: [8, 0], ..Options::default() }).unwrap().0);
    let of = |agreements: Vec<Agreement>| agreements.iter().filter(|agreement| agreement.case.contains("tf32")).count();
    assert!(of(holds("checked", &device, epicker::ops::conv::compare)) >= 12);
    assert!(of(holds("checked", &device, epicker::ops::deform_conv::compare)) >= 9);
    integers_are_exact("checked", &device);
}

/// Small integers have no rounding in any order of summing, so tensor cores give the bits of the formula.
pub fn integers_are_exact(what: &str, device: &Device) {
    let wrong = kernels_that_miss_the_formula(device);
    assert!(wrong.is_empty(), "{what}: {wrong:?}");
}

/// The algorithms of tensor cores that do not give the formula's bits for small integers.
pub fn kernels_that_miss_the_formula(device: &Device) -> BTreeSet<String> {
    let integers = |count: usize, most: u64, seed: u64| -> Vec<f32> {
        (0..count as u64).map(|i| (splitmix64(seed + i) % (2 * most + 1)) as f32 - most as f32).collect()
    };
    let compute = Compute { precision: Precision::Tf32, ..Compute::from(device) };
    let (mut kernels, mut wrong) = (BTreeSet::new(), BTreeSet::new());
    for (co, side, kernel) in [(64, 16, 3), (27, 16, 3), (16, 17, 3), (48, 13, 1)] {
        let shape = ConvShape { n: 1, h: side, w: side, ci: 32, co, kernel, stride: 1 };
        let (inp, weights, bias) =
            (integers(side * side * 32, 8, 1), integers(shape.weights_len(), 4, 1 << 20), integers(co, 100, 2 << 20));
        let expected = conv::reference::<f32>(shape, &inp, &weights, &bias, None, false);
        let inp = Tensor::on(device, [1, side, side, 32], inp).unwrap();
        for algorithm in conv::algorithm::all(&compute, Pass::Forward, shape) {
            if algorithm.precision() == Precision::Tf32 {
                kernels.insert(algorithm.to_string());
                let packed = conv::Weights::pack(device, algorithm.clone(), shape.extents(), &weights, &bias).unwrap();
                let mut out = Tensor::on(device, shape.out(), vec![f32::NAN; expected.len()]).unwrap();
                conv::forward(device, shape, inp.view(), &packed, Epilogue::default(), &mut out.view_mut()).unwrap();
                if out.to_vec().unwrap() != expected {
                    wrong.insert(algorithm.to_string());
                }
            }
        }
    }
    for co in [64, 32, 20] {
        // Whole pixels beside each pixel, and masks of a half: samples are integers of two.
        let shape = DeformConvShape { n: 1, h: 13, w: 12, ci: 16, co };
        let mut offsets = integers(13 * 12 * OFFSET_CHANNELS, 2, 3 << 20);
        offsets.chunks_exact_mut(OFFSET_CHANNELS).for_each(|pixel| pixel[18..].fill(0.0));
        let (inp, weights, bias) = (integers(13 * 12 * 16, 8, 4 << 20), integers(9 * 16 * co, 4, 5 << 20), integers(co, 100, 6 << 20));
        let expected = deform_conv::reference::<f32>(shape, &inp, &offsets, &weights, &bias, false);
        let (inp, offsets) = (Tensor::on(device, [1, 13, 12, 16], inp).unwrap(), Tensor::on(device, [1, 13, 12, 27], offsets).unwrap());
        for algorithm in deform_conv::algorithm::all(&compute, shape) {
            if algorithm.precision() == Precision::Tf32 {
                kernels.insert(algorithm.to_string());
                let packed = deform_conv::Weights::pack(device, algorithm.clone(), [16, co, 3], &weights, &bias).unwrap();
                let mut out = Tensor::on(device, [1, 13, 12, co], vec![f32::NAN; expected.len()]).unwrap();
                deform_conv::forward(device, shape, inp.view(), offsets.view(), &packed, false, &mut out.view_mut()).unwrap();
                if out.to_vec().unwrap() != expected {
                    wrong.insert(algorithm.to_string());
                }
            }
        }
    }
    assert_eq!(kernels.len(), 7, "{kernels:?}");
    wrong
}

mod forward {
    epicker::for_each_op!(forward_tests);
}
mod backward {
    epicker::for_each_differentiable_op!(backward_tests);
}
