//! Writes a checkpoint that `torch.load(path, weights_only=True)` reads: a zip archive of stored entries, each
//! beginning at a multiple of 64 bytes, with a pickle of protocol 2.

use std::collections::HashMap;
use std::io::{Cursor, Write};

use anyhow::{Context, Result, anyhow, ensure};
use zip::write::SimpleFileOptions;

use super::adam::Adam;
use super::{OUR_METADATA, is_parameter};
use crate::formats::state_dict::{METADATA_EPOCH, StateDict, Values};

/// Folder of the archive; PyTorch accepts any.
const FOLDER: &str = "archive";
/// PyTorch begins every entry at a multiple of this, for readers that map the file.
const ALIGNMENT: u16 = 64;

/// What goes beside the tensors.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions<'a> {
    /// Write the state dict alone, without epoch, optimiser and metadata.
    pub bare: bool,
    /// Epochs trained. Without it the metadata says how many, else it is 0.
    pub epoch: Option<u64>,
    /// State of the optimiser, for resuming the training.
    pub optimizer: Option<&'a Adam>,
}

/// The bytes of a `.pth`: `{'epoch', 'state_dict', 'optimizer', 'epicker'}`. The last two are there only if there is something
/// to say.
///
/// Errors: the optimiser does not fit the tensors, or a tensor's values do not fill its shape.
pub fn write(state: &StateDict, options: &WriteOptions) -> Result<Vec<u8>> {
    let mut pickle = Pickler::default();
    if options.bare {
        pickle.state_dict(state)?;
    } else {
        let stated = state.metadata.get(METADATA_EPOCH).and_then(|epoch| epoch.parse().ok());
        pickle.dict(|pickle| {
            pickle.text("epoch");
            pickle.int(i64::try_from(options.epoch.or(stated).unwrap_or(0))?);
            pickle.text("state_dict");
            pickle.state_dict(state)?;
            if let Some(adam) = options.optimizer {
                pickle.text("optimizer");
                pickle.adam(state, adam).context("optimizer")?;
            }
            let facts: Vec<_> = state.metadata.iter().filter(|(key, _)| *key != METADATA_EPOCH).collect();
            if !facts.is_empty() {
                pickle.text(OUR_METADATA);
                pickle.dict(|pickle| {
                    for (key, value) in facts {
                        pickle.text(key);
                        pickle.text(value);
                    }
                    Ok(())
                })?;
            }
            Ok(())
        })?;
    }
    pickle.out.push(b'.');
    archive(&pickle.out, &pickle.storages)
}

fn archive(pickle: &[u8], storages: &[Vec<u8>]) -> Result<Vec<u8>> {
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored).with_alignment(ALIGNMENT);
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let mut entry = |name: &str, bytes: &[u8]| -> Result<()> {
        zip.start_file(format!("{FOLDER}/{name}"), stored.large_file(bytes.len() > u32::MAX as usize))?;
        zip.write_all(bytes)?;
        Ok(())
    };
    entry("data.pkl", &[&[0x80, 2], pickle].concat())?;
    entry("byteorder", b"little")?;
    for (key, bytes) in storages.iter().enumerate() {
        entry(&format!("data/{key}"), bytes)?;
    }
    entry("version", b"3\n")?;
    Ok(zip.finish()?.into_inner())
}

/// Writes pickle instructions. `storages` are the bytes that the instructions refer to by number.
#[derive(Default)]
struct Pickler {
    out: Vec<u8>,
    storages: Vec<Vec<u8>>,
    /// Names already written, and where in the memo they are.
    memo: HashMap<&'static str, u8>,
}

impl Pickler {
    fn text(&mut self, text: &str) {
        self.out.push(b'X');
        self.out.extend((text.len() as u32).to_le_bytes());
        self.out.extend(text.as_bytes());
    }

    fn int(&mut self, value: i64) {
        match value {
            0..=0xff => self.out.extend([b'K', value as u8]),
            0x100..=0xffff => {
                self.out.push(b'M');
                self.out.extend((value as u16).to_le_bytes());
            }
            _ => match i32::try_from(value) {
                Ok(value) => {
                    self.out.push(b'J');
                    self.out.extend(value.to_le_bytes());
                }
                Err(_) => {
                    self.out.extend([0x8a, 8]);
                    self.out.extend(value.to_le_bytes());
                }
            },
        }
    }

    fn float(&mut self, value: f64) {
        self.out.push(b'G');
        self.out.extend(value.to_be_bytes());
    }

    /// `module` and `name`, with a line break between them.
    fn global(&mut self, name: &'static str) {
        if let Some(&index) = self.memo.get(name) {
            self.out.extend([b'h', index]);
        } else {
            let index = self.memo.len() as u8;
            self.memo.insert(name, index);
            self.out.push(b'c');
            self.out.extend(name.as_bytes());
            self.out.extend([b'\n', b'q', index]);
        }
    }

    fn dict(&mut self, fill: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.out.extend(b"}(");
        fill(self)?;
        self.out.push(b'u');
        Ok(())
    }

    fn tuple(&mut self, entries: impl IntoIterator<Item = usize>) -> Result<()> {
        self.out.push(b'(');
        for entry in entries {
            self.int(i64::try_from(entry)?);
        }
        self.out.push(b't');
        Ok(())
    }

    fn ordered_dict(&mut self) {
        self.global("collections\nOrderedDict");
        self.out.extend(b")R");
    }

    fn state_dict(&mut self, state: &StateDict) -> Result<()> {
        self.ordered_dict();
        self.out.push(b'(');
        for tensor in &state.tensors {
            self.text(&tensor.name);
            self.tensor(&tensor.shape, &tensor.values).with_context(|| tensor.name.clone())?;
        }
        self.out.push(b'u');
        Ok(())
    }

    /// torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)
    fn tensor(&mut self, shape: &[usize], values: &Values) -> Result<()> {
        ensure!(shape.iter().product::<usize>() == values.len(), "{} values; shape {shape:?} has another number", values.len());
        self.global("torch._utils\n_rebuild_tensor_v2");
        self.out.extend(b"((");
        self.text("storage");
        self.global(match values {
            Values::F32(_) => "torch\nFloatStorage",
            Values::F16(_) => "torch\nHalfStorage",
            Values::F64(_) => "torch\nDoubleStorage",
            Values::I64(_) => "torch\nLongStorage",
        });
        self.text(&self.storages.len().to_string());
        self.text("cpu");
        self.int(i64::try_from(values.len())?);
        self.out.extend(b"tQ");
        self.int(0);
        self.tuple(shape.iter().copied())?;
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis].max(1);
        }
        self.tuple(strides)?;
        self.out.push(0x89);
        self.ordered_dict();
        self.out.extend(b"tR");
        self.storages.push(values.to_le_bytes());
        Ok(())
    }

    fn adam(&mut self, state: &StateDict, adam: &Adam) -> Result<()> {
        let parameters: Vec<_> = state.tensors.iter().filter(|tensor| is_parameter(&tensor.name)).collect();
        let number_of: HashMap<&str, usize> =
            parameters.iter().enumerate().map(|(number, tensor)| (tensor.name.as_str(), number)).collect();
        self.dict(|pickle| {
            pickle.text("state");
            pickle.dict(|pickle| {
                for moments in &adam.moments {
                    let number =
                        *number_of.get(moments.name.as_str()).ok_or_else(|| anyhow!("{} is no parameter of the model", moments.name))?;
                    pickle.int(i64::try_from(number)?);
                    pickle.dict(|pickle| {
                        pickle.text("step");
                        pickle.tensor(&[], &Values::F32(vec![moments.step as f32]))?;
                        for (key, values) in [("exp_avg", &moments.first), ("exp_avg_sq", &moments.second)] {
                            pickle.text(key);
                            pickle.tensor(&parameters[number].shape, &Values::F32(values.clone())).with_context(|| moments.name.clone())?;
                        }
                        Ok(())
                    })?;
                }
                Ok(())
            })?;
            pickle.text("param_groups");
            pickle.out.push(b']');
            pickle.adam_group(adam, parameters.len())?;
            pickle.out.push(b'a');
            Ok(())
        })
    }

    /// The options of PyTorch's Adam. Options that this program does not have are at their defaults.
    fn adam_group(&mut self, adam: &Adam, parameters: usize) -> Result<()> {
        const NONE: u8 = b'N';
        const FALSE: u8 = 0x89;
        self.dict(|pickle| {
            pickle.text("lr");
            pickle.float(adam.learning_rate);
            pickle.text("betas");
            adam.betas.iter().for_each(|&beta| pickle.float(beta));
            pickle.out.push(0x86);
            pickle.text("eps");
            pickle.float(adam.eps);
            pickle.text("weight_decay");
            pickle.float(adam.weight_decay);
            for (key, value) in [
                ("amsgrad", FALSE),
                ("maximize", FALSE),
                ("foreach", NONE),
                ("capturable", FALSE),
                ("differentiable", FALSE),
                ("fused", NONE),
            ] {
                pickle.text(key);
                pickle.out.push(value);
            }
            pickle.text("params");
            pickle.out.extend(b"](");
            for number in 0..parameters {
                pickle.int(i64::try_from(number)?);
            }
            pickle.out.push(b'e');
            Ok(())
        })
    }
}
