//! Every op's kernels, executed on the host, against the f64 reference: in f32 within the op's bound, with double for
//! float to 1e-9 (gradients 1e-7), and with every access to memory checked. Made from the one list of ops.

use epicker::device::Device;
use epicker::ops::Agreement;
use hostgpu::{Build, HostGpu, Options};

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

mod forward {
    epicker::for_each_op!(forward_tests);
}
mod backward {
    epicker::for_each_differentiable_op!(backward_tests);
}
