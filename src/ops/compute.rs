//! Who computes, and how: one value, chosen once before work begins and handed to everything that makes a plan.

use super::conv::Library;
use crate::device::Device;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What numbers products are multiplied in. All are summed in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// TensorFloat-32: f32 with a fraction of 10 bits, as tensor cores read it.
    Tf32,
    /// 16-bit floats: 10 bits of fraction, and nothing beyond 65504.
    F16,
}

impl Precision {
    /// The name that options give it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::F16 => "fp16",
        }
    }

    /// True if who asks for this precision may get what is multiplied in that one: the same, or f32.
    pub fn allows(self, that: Precision) -> bool {
        [self, Precision::F32].contains(&that)
    }

    /// Rounds a number to the nearest that can be stored.
    ///
    /// Source: PTX ISA, `cvt.rna.tf32.f32` (ties away from zero) and `cvt.rn.f16.f32` (ties to even).
    #[inline(always)]
    pub fn rounded(self, value: f32) -> f32 {
        match self {
            Precision::F32 => value,
            Precision::Tf32 if value.is_finite() => f32::from_bits((value.to_bits() + 0x1000) & !0x1fff),
            Precision::Tf32 => value,
            Precision::F16 => half::f16::from_f32(value).to_f32(),
        }
    }

    /// All of some numbers, rounded.
    pub fn all_rounded(self, values: &[f32]) -> Vec<f32> {
        values.iter().map(|&value| self.rounded(value)).collect()
    }

    /// True if a finite number is beyond what can be stored.
    #[inline(always)]
    pub fn overflows(self, value: f32) -> bool {
        self == Precision::F16 && value.is_finite() && !half::f16::from_f32(value).is_finite()
    }
}

/// A device, and how it computes. Several devices are a list of these.
#[derive(Clone, Debug)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// What its products are multiplied in. On the CPU another one than f32 rounds every map and weight, to show what it costs: it
    /// saves no time there.
    pub precision: Precision,
    /// How many maps held a number beyond what the precision can store, and were kept in f32. Clones count together.
    pub overflows: Arc<AtomicU64>,
    /// The library that computes convolutions where it does not refuse, if one is used.
    pub library: Option<Arc<Library>>,
}

impl Compute {
    /// A GPU whose convolutions a library computes. Panics if the device's values are not of four bytes, because a library
    /// computes in f32: a programming error.
    pub fn with_library(device: &Device, library: Arc<Library>) -> Self {
        assert_eq!(device.value_bytes(), 4, "a library computes in f32");
        Compute { library: Some(library), ..Compute::from(device) }
    }

    /// The precision that is tried by rounding every map and weight: on the CPU any but f32. A GPU's kernels round by themselves.
    pub fn tried_precision(&self) -> Option<Precision> {
        (self.precision != Precision::F32 && matches!(self.device, Device::Cpu)).then_some(self.precision)
    }
}

impl From<&Device> for Compute {
    /// The device with this program's own code alone, in f32.
    fn from(device: &Device) -> Self {
        Compute { device: device.clone(), precision: Precision::default(), overflows: Arc::default(), library: None }
    }
}

impl From<&Compute> for Compute {
    fn from(compute: &Compute) -> Self {
        compute.clone()
    }
}
