//! Every op on every device against its f64 reference: made from the one list of ops.

use epicker::device::Device;

macro_rules! agreement_tests {
    ($($op:ident)*) => {$(
        #[test]
        fn $op() {
            let agreements = epicker::ops::$op::compare(&Device::Cpu).unwrap();
            assert!(!agreements.is_empty());
            for agreement in agreements {
                assert!(agreement.holds(), "{}: error {:.3e}, bound {:.3e}", agreement.case, agreement.error, agreement.bound);
            }
        }
    )*};
}
epicker::for_each_op!(agreement_tests);
