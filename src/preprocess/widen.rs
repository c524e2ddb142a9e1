//! Pixels of any type as f64, many at a time: what every pixel of a micrograph goes through twice, for the survey and for the crop.

use crate::device::cpu::InstructionSet;
use crate::formats::image::Sample;
use half::f16;

/// A type of pixels that vector instructions convert.
pub trait Widen: Sample {
    /// The values, as many as both lists have; exact for every type.
    fn widen(values: &[Self], to: &mut [f64]);
}

macro_rules! widen {
    ($($type:ty)*) => {$(
        impl Widen for $type {
            fn widen(values: &[Self], to: &mut [f64]) {
                #[inline(always)]
                fn all(values: &[$type], to: &mut [f64]) {
                    to.iter_mut().zip(values).for_each(|(to, &value)| *to = f64::from(value));
                }
                crate::dispatch!(InstructionSet::detect(), all(values: &[$type], to: &mut [f64]));
            }
        }
    )*};
}

widen!(i8 u8 i16 u16 f16 f32 f64);
