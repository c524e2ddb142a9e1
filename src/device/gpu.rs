//! The seat of the GPU. There is no GPU code yet, so the type has no value: every `match device` names the case
//! already, and the compiler knows that it cannot happen.

/// A GPU in use. Uninhabited until the kernels arrive.
#[derive(Debug)]
pub enum Gpu {}

impl Gpu {
    /// Name for the log.
    pub fn describe(&self) -> String {
        match *self {}
    }
}
