//! Every op on every device against its f64 reference, the references against finite differences, and both against
//! PyTorch: made from the one list of ops, and from tests/golden/train/ops.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod pytorch;

use epicker::device::Device;
use epicker::ops::Agreement;

fn all_hold(agreements: Vec<Agreement>) {
    assert!(!agreements.is_empty());
    for agreement in agreements {
        assert!(agreement.holds(), "{}: error {:.3e}, bound {:.3e}", agreement.case, agreement.error, agreement.bound);
    }
}

macro_rules! agreement_tests {
    ($($op:ident)*) => {$(
        #[test]
        fn $op() {
            all_hold(epicker::ops::$op::compare(&Device::Cpu).unwrap());
        }
    )*};
}
epicker::for_each_op!(agreement_tests);

/// Gradients, added to what is there, against the f64 reference.
mod backward {
    macro_rules! backward_tests {
        ($($op:ident)*) => {$(
            #[test]
            fn $op() {
                super::all_hold(epicker::ops::$op::compare_backward(&epicker::device::Device::Cpu).unwrap());
            }
        )*};
    }
    epicker::for_each_differentiable_op!(backward_tests);
}

/// The f64 references of the gradients against finite differences of the forward references.
mod differences {
    macro_rules! difference_tests {
        ($($op:ident)*) => {$(
            #[test]
            fn $op() {
                super::all_hold(epicker::ops::$op::differences());
            }
        )*};
    }
    epicker::for_each_differentiable_op!(difference_tests);
}

/// The same bits on every run and with any number of threads.
mod bits {
    use super::{Agreement, Device};

    fn bits(threads: usize, run: fn(&Device) -> anyhow::Result<Vec<Agreement>>) -> Vec<u64> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&Device::Cpu).unwrap()).iter().map(|agreement| agreement.bits).collect()
    }

    macro_rules! bit_tests {
        ($($op:ident)*) => {$(
            #[test]
            fn $op() {
                let one = bits(1, epicker::ops::$op::compare_backward);
                assert!(one == bits(5, epicker::ops::$op::compare_backward), "five threads differ from one");
            }
        )*};
    }
    epicker::for_each_differentiable_op!(bit_tests);
}
