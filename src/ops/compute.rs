//! Who computes, and how: one value, chosen once before work begins and handed to everything that makes a plan.

use super::conv::Library;
use crate::device::Device;
use std::sync::Arc;

/// What numbers products are multiplied in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32, summed in f32.
    #[default]
    F32,
}

/// A device, and how it computes. Several devices are a list of these.
#[derive(Clone, Debug)]
pub struct Compute {
    /// The device.
    pub device: Device,
    /// What its products are multiplied in.
    pub precision: Precision,
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
}

impl From<&Device> for Compute {
    /// The device with this program's own code alone, in f32.
    fn from(device: &Device) -> Self {
        Compute { device: device.clone(), precision: Precision::default(), library: None }
    }
}

impl From<&Compute> for Compute {
    fn from(compute: &Compute) -> Self {
        compute.clone()
    }
}
