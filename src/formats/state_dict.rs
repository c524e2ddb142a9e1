//! Named tensors in memory: what a checkpoint holds, whatever its container.

use half::f16;

/// The numbers of one tensor, contiguous and row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// 32-bit floats, the usual case.
    F32(Vec<f32>),
    /// 16-bit floats.
    F16(Vec<f16>),
    /// 64-bit floats.
    F64(Vec<f64>),
    /// 64-bit integers: the counters of batch norm.
    I64(Vec<i64>),
}

/// One tensor of a checkpoint. Shapes are as PyTorch writes them: weights are [out, in / groups, kh, kw].
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Name without a leading `module.`.
    pub name: String,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The numbers.
    pub values: Values,
}

/// A model's parameters and statistics in file order, with what else its file says of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateDict {
    /// Tensors in file order.
    pub tensors: Vec<NamedTensor>,
    /// Facts beside the tensors: `epoch` of a `.pth`, metadata of a `.safetensors` (`epicker.version`, `mode`, ...).
    pub metadata: std::collections::BTreeMap<String, String>,
}

impl Values {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Values::F32(v) => v.len(),
            Values::F16(v) => v.len(),
            Values::F64(v) => v.len(),
            Values::I64(v) => v.len(),
        }
    }

    /// True if there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values as f32, converted where they are stored in another type.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Values::F32(v) => v.clone(),
            Values::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Values::F64(v) => v.iter().map(|&x| x as f32).collect(),
            Values::I64(v) => v.iter().map(|&x| x as f32).collect(),
        }
    }
}

impl StateDict {
    /// The tensor of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<&NamedTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}
