//! The number type of the naive references: f64 for the truth, f32 for the error that plain rounding makes.

use std::ops::{Add, AddAssign, Div, Mul, Sub};

/// f32 or f64.
pub trait Real:
    bytemuck::Pod
    + Default
    + PartialOrd
    + Send
    + Sync
    + std::fmt::Debug
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
{
    /// Rounded from f64.
    fn from_f64(x: f64) -> Self;
    /// Widened (or kept).
    fn to_f64(self) -> f64;
    /// e to the power of x.
    fn exp(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Largest integer not above x.
    fn floor(self) -> Self;
}

macro_rules! real {
    ($t:ty) => {
        impl Real for $t {
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn exp(self) -> Self {
                <$t>::exp(self)
            }
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            fn floor(self) -> Self {
                <$t>::floor(self)
            }
        }
    };
}
real!(f32);
real!(f64);

/// f32 values in another type.
pub fn convert<T: Real>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&x| T::from_f64(f64::from(x))).collect()
}
