//! Grids and arguments of launches.

use super::driver::RawArgument;
use anyhow::{Result, ensure};
use bytemuck::Pod;

/// Blocks of a launch, in up to three dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid(pub [u32; 3]);

impl Grid {
    /// Enough blocks of `threads` threads for FOR_EACH over `count` things. Where there are very many, each thread takes several.
    ///
    /// Errors: there are 2^31 things or more, which the indices of kernels do not hold.
    pub fn over(count: usize, threads: u32) -> Result<Self> {
        const MOST: usize = 1 << 16;
        ensure!(count < 1 << 31, "{count} values in one launch; expected less than 2^31: use a smaller frame or batch");
        Ok(Grid([count.div_ceil(threads as usize).min(MOST) as u32, 1, 1]))
    }

    /// Enough blocks of `threads` threads for `count` things in each of some rows: x counts along a row, y counts rows.
    ///
    /// Errors: there are more rows than a grid has.
    pub fn of_rows(rows: usize, count: usize, threads: u32) -> Result<Self> {
        ensure!(rows < 1 << 16, "{rows} rows in one launch; expected less than 65536: use a smaller frame or batch");
        Ok(Grid([count.div_ceil(threads as usize) as u32, rows as u32, 1]))
    }

    /// Blocks in a row.
    pub fn of(blocks: usize) -> Result<Self> {
        ensure!(blocks < 1 << 31, "{blocks} blocks in one launch; expected less than 2^31: use a smaller frame or batch");
        Ok(Grid([blocks as u32, 1, 1]))
    }

    /// All blocks.
    pub fn blocks(&self) -> u64 {
        self.0.iter().map(|&extent| u64::from(extent)).product()
    }
}

/// A shape struct of a kernel as an argument of its launch: the struct's name in the .cu, and its fields in their order, all
/// of four bytes. `tests/tidy.rs` holds them against the .cu.
#[macro_export]
macro_rules! kernel_struct {
    ($name:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        $crate::device::gpu::Arg::value([$($crate::kernel_struct!(@value $field $($value)?) as u32),*])
    };
    (@value $field:ident) => { $field };
    (@value $field:ident $value:expr) => { $value };
}

/// An argument of a kernel: a number, a shape struct, or an address. Holds its value.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    value: [u64; Arg::MOST / 8],
    bytes: usize,
    is_address: bool,
    value_bytes: Option<usize>,
}

impl Arg {
    /// Most bytes of a shape struct.
    const MOST: usize = 128;

    /// A u32, i32, f64, or shape struct. Panics above 128 bytes: a programming error.
    pub fn value<T: Pod>(value: T) -> Self {
        let mut arg = Arg { value: [0; Arg::MOST / 8], bytes: size_of::<T>(), is_address: false, value_bytes: None };
        bytemuck::cast_slice_mut::<u64, u8>(&mut arg.value)[..arg.bytes].copy_from_slice(bytemuck::bytes_of(&value));
        arg
    }

    /// An address of something that is no value of the network, such as an index; 0 for an argument that is not used.
    pub fn address(address: u64) -> Self {
        Arg { is_address: true, ..Arg::value(address) }
    }

    /// An address of values of `bytes` bytes, which must be what the kernels were compiled for.
    pub(crate) fn values_at(address: u64, bytes: usize) -> Self {
        Arg { value_bytes: Some(bytes), ..Arg::address(address) }
    }

    /// No values, for an argument that is not used, such as an `Option` that is none.
    pub fn null() -> Self {
        Arg::address(0)
    }

    pub(super) fn value_bytes(&self) -> Option<usize> {
        self.value_bytes
    }

    pub(super) fn raw(&self) -> RawArgument {
        RawArgument { pointer: self.value.as_ptr().cast(), bytes: self.bytes, is_address: self.is_address }
    }
}
