//! From the bytes of a storage to the numbers of a tensor.

use anyhow::{Result, anyhow, ensure};
use half::{bf16, f16};

use crate::formats::state_dict::Values;

/// Type of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    /// The element type of `torch.FloatStorage` and its kind.
    pub(super) fn of_storage(name: &str) -> Option<Dtype> {
        Some(match name {
            "DoubleStorage" => Dtype::F64,
            "FloatStorage" => Dtype::F32,
            "HalfStorage" => Dtype::F16,
            "BFloat16Storage" => Dtype::Bf16,
            "LongStorage" => Dtype::I64,
            "IntStorage" => Dtype::I32,
            "ShortStorage" => Dtype::I16,
            "CharStorage" => Dtype::I8,
            "ByteStorage" => Dtype::U8,
            "BoolStorage" => Dtype::Bool,
            _ => return None,
        })
    }

    /// `torch.float32` and its kind, by the part after the point.
    pub(super) fn of_name(name: &str) -> Option<Dtype> {
        Some(match name {
            "float64" | "double" => Dtype::F64,
            "float32" | "float" => Dtype::F32,
            "float16" | "half" => Dtype::F16,
            "bfloat16" => Dtype::Bf16,
            "int64" | "long" => Dtype::I64,
            "int32" | "int" => Dtype::I32,
            "int16" | "short" => Dtype::I16,
            "int8" => Dtype::I8,
            "uint8" => Dtype::U8,
            "bool" => Dtype::Bool,
            _ => return None,
        })
    }

    /// Bytes of one element.
    pub(super) fn size(self) -> u64 {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    /// Bytes of one element in memory, once read.
    pub(super) fn size_in_memory(self) -> u64 {
        match self {
            Dtype::F32 | Dtype::Bf16 => 4,
            Dtype::F16 => 2,
            _ => 8,
        }
    }
}

/// A storage as the pickle describes it: elements in a row, which are found under `key`.
#[derive(Clone, Debug)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    /// Type of the elements. None for a storage of bytes, where each tensor says of which type it is.
    pub(super) dtype: Option<Dtype>,
    /// Number of elements, or of bytes if the storage has no type.
    pub(super) numel: u64,
    /// First element and number of elements, if this is only a part of the storage under that key.
    pub(super) view: Option<(u64, u64)>,
}

impl Storage<'_> {
    /// Bytes of the whole storage.
    pub(super) fn byte_length(&self) -> Result<u64> {
        self.numel.checked_mul(self.dtype.map_or(1, Dtype::size)).ok_or_else(|| anyhow!("storage {}: {} elements", self.key, self.numel))
    }
}

/// A tensor as the pickle describes it: a strided view of a storage.
#[derive(Clone, Debug)]
pub(super) struct TensorRef<'a> {
    pub(super) storage: Storage<'a>,
    pub(super) dtype: Dtype,
    /// First element, counted in elements of `dtype`.
    pub(super) offset: u64,
    pub(super) extents: Vec<u64>,
    pub(super) strides: Vec<u64>,
}

impl TensorRef<'_> {
    /// Number of elements.
    pub(super) fn numel(&self) -> Result<u64> {
        if self.extents.contains(&0) {
            return Ok(0);
        }
        let product = self.extents.iter().try_fold(1_u64, |product, &extent| product.checked_mul(extent));
        product.ok_or_else(|| anyhow!("shape {:?} overflows; the file is damaged", self.extents))
    }

    /// The shape, checked to fit this machine.
    pub(super) fn shape(&self) -> Result<Vec<usize>> {
        self.extents.iter().map(|&extent| usize::try_from(extent).map_err(|_| anyhow!("extent {extent}"))).collect()
    }

    /// The numbers in row-major order. `bytes` is the whole storage.
    ///
    /// Errors: the view reaches beyond its storage.
    pub(super) fn read(&self, bytes: &[u8], big_endian: bool) -> Result<Values> {
        let walk = self.walk(bytes)?;
        let at = Source { bytes, big_endian };
        Ok(match self.dtype {
            Dtype::F64 => Values::F64(walk.map(|i| f64::from_le_bytes(at.element(i))).collect()),
            Dtype::F32 => Values::F32(walk.map(|i| f32::from_le_bytes(at.element(i))).collect()),
            Dtype::F16 => Values::F16(walk.map(|i| f16::from_le_bytes(at.element(i))).collect()),
            Dtype::Bf16 => Values::F32(walk.map(|i| bf16::from_le_bytes(at.element(i)).to_f32()).collect()),
            Dtype::I64 => Values::I64(walk.map(|i| i64::from_le_bytes(at.element(i))).collect()),
            Dtype::I32 => Values::I64(walk.map(|i| i32::from_le_bytes(at.element(i)).into()).collect()),
            Dtype::I16 => Values::I64(walk.map(|i| i16::from_le_bytes(at.element(i)).into()).collect()),
            Dtype::I8 => Values::I64(walk.map(|i| i8::from_le_bytes(at.element(i)).into()).collect()),
            Dtype::U8 => Values::I64(walk.map(|i| u8::from_le_bytes(at.element(i)).into()).collect()),
            Dtype::Bool => Values::I64(walk.map(|i| i64::from(at.element::<1>(i)[0] != 0)).collect()),
        })
    }

    /// Indices of the elements in the storage, in row-major order of the tensor, all within `bytes`.
    fn walk(&self, bytes: &[u8]) -> Result<Walk> {
        let beyond = || {
            let Storage { key, numel, .. } = &self.storage;
            let (shape, strides, offset) = (&self.extents, &self.strides, self.offset);
            anyhow!(
                "shape {shape:?}, strides {strides:?} and offset {offset} reach beyond storage {key} of {numel} elements; the file is damaged"
            )
        };
        ensure!(self.extents.len() == self.strides.len(), "{} extents and {} strides", self.extents.len(), self.strides.len());
        let numel = self.numel()?;
        let stored = bytes.len() as u64 / self.dtype.size();
        let (first_of_view, length) = self.storage.view.unwrap_or((0, stored));
        let end_of_view = first_of_view.checked_add(length).filter(|&end| end <= stored).ok_or_else(beyond)?;
        let first = first_of_view.checked_add(self.offset).ok_or_else(beyond)?;
        if numel > 0 {
            let reach = self
                .extents
                .iter()
                .zip(&self.strides)
                .try_fold(first, |last, (extent, stride)| last.checked_add((extent - 1).checked_mul(*stride)?));
            ensure!(reach.ok_or_else(beyond)? < end_of_view, beyond());
        }
        let axes = self.extents.iter().copied().zip(self.strides.iter().copied()).filter(|(extent, _)| *extent != 1);
        Ok(Walk::new(axes, first, numel))
    }
}

/// The elements of a storage.
struct Source<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Source<'_> {
    /// Bytes of one element, the least significant first.
    fn element<const N: usize>(&self, index: u64) -> [u8; N] {
        let mut element = [0; N];
        element.copy_from_slice(&self.bytes[index as usize * N..][..N]);
        if self.big_endian {
            element.reverse();
        }
        element
    }
}

/// Counts through the positions of a tensor, the last axis fastest.
struct Walk {
    /// Extent, stride and position of each axis, outermost first. Neighbouring axes whose elements lie in one row are joined to
    /// one axis.
    axes: Vec<[u64; 3]>,
    index: u64,
    left: u64,
}

impl Walk {
    fn new(extents_and_strides: impl Iterator<Item = (u64, u64)>, first: u64, numel: u64) -> Walk {
        let mut axes: Vec<[u64; 3]> = Vec::new();
        for (extent, stride) in extents_and_strides {
            match axes.last_mut() {
                Some([outer_extent, outer_stride, _]) if stride.checked_mul(extent) == Some(*outer_stride) => {
                    *outer_extent = outer_extent.saturating_mul(extent); // at most numel, which did not overflow, unless numel is 0
                    *outer_stride = stride;
                }
                _ => axes.push([extent, stride, 0]),
            }
        }
        Walk { axes, index: first, left: numel }
    }
}

impl Iterator for Walk {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let index = self.index;
        for [extent, stride, position] in self.axes.iter_mut().rev() {
            *position += 1;
            // The addition may wrap, because a step beyond the last element is taken back before it is used.
            self.index = self.index.wrapping_add(*stride);
            if *position < *extent {
                break;
            }
            self.index = self.index.wrapping_sub(stride.wrapping_mul(*extent));
            *position = 0;
        }
        Some(index)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}
