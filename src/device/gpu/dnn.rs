//! Convolutions by a library of the GPU's maker: what the engine needs of cuDNN, and no more. There are two implementations:
//! cuDNN, and one of the tests, which computes on the host. What the library is asked for, what it may do, and what happens
//! where it refuses, is above the trait: then the program's own kernels do the work.

use super::driver::Stream;
use super::{Gpu, Memory};
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which of a convolution's three products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// out = relu(bias + residual + inp * weights)
    Forward,
    /// inp += the gradient of the input; `out` is that of the output.
    Data,
    /// weights += the gradient of the weights; `out` is the gradient of the output.
    Weights,
}

/// One product. Maps are channels last with a pixel stride, f32; weights [co][ci][kernel][kernel]; padding kernel / 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Which.
    pub pass: Pass,
    /// Images.
    pub n: usize,
    /// Rows and columns of the input.
    pub inp: [usize; 2],
    /// Rows and columns of the output.
    pub out: [usize; 2],
    /// Channels of the input, and of the output.
    pub channels: [usize; 2],
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Step between output pixels.
    pub stride: usize,
    /// Values from one pixel to the next, of the input and of the output.
    pub pixel_strides: [usize; 2],
    /// The same of the residual, if there is one. Forward.
    pub residual_stride: Option<usize>,
    /// Negative values become 0. Forward.
    pub relu: bool,
}

/// One line of the file in which choices are kept, without spaces at its ends.
impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Product { pass, n, inp: [h, w], channels: [ci, co], kernel, stride, pixel_strides: [from, to], .. } = self;
        write!(f, "{pass:?} {n}x{h}x{w}x{ci} to {co}, kernel {kernel}, stride {stride}, pixels {from} and {to}")?;
        self.residual_stride.map_or(Ok(()), |residual| write!(f, ", residual {residual}"))?;
        if self.relu { write!(f, ", relu") } else { Ok(()) }
    }
}

/// Where the values lie: device addresses. What a pass does not need is 0.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// The input, or its gradient.
    pub inp: u64,
    /// The weights, or their gradient.
    pub weights: u64,
    /// The output, or its gradient.
    pub out: u64,
    /// The bias, [co].
    pub bias: u64,
    /// The residual.
    pub residual: u64,
}

/// A way in which the library can compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithm {
    /// Its number.
    pub number: i32,
    /// Bytes that it works in.
    pub workspace: usize,
    /// The same bits each time.
    pub is_deterministic: bool,
    /// Multiplies in f32 and nothing less.
    pub is_fp32: bool,
}

/// The library.
pub trait Dnn: Debug + Send + Sync {
    /// Its name and version, such as `cuDNN 9.1.0`.
    fn name(&self) -> String;

    /// How a product can be computed, what the library thinks best first.
    ///
    /// Errors: the library does not take such a product.
    fn algorithms(&self, product: &Product) -> Result<Vec<Algorithm>>;

    /// Puts a product into a stream. `workspace`: address and bytes, at least as many as the algorithm asked for.
    ///
    /// Errors: the library refuses; nothing was put into the stream then.
    ///
    /// # Safety
    /// The operands are as large as the product says, and the workspace is used by no other work of another stream.
    unsafe fn run(&self, product: &Product, algorithm: i32, operands: &Operands, workspace: (u64, usize), stream: Stream) -> Result<()>;
}

/// Most bytes of a workspace: what needs more is not worth it beside a network of 300 MiB.
const MOST_WORKSPACE: usize = 256 << 20;

/// What was decided for a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Library {
        algorithm: i32,
        workspace: usize,
    },
    /// The library has no algorithm that would do.
    Native,
    /// The library failed in this run: native, and not to be remembered.
    Failed,
}

/// A library in use: which algorithm computes which product, found once.
#[derive(Debug)]
pub struct Convolutions {
    library: Arc<dyn Dnn>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    choices: BTreeMap<String, Choice>,
    is_fresh: bool,
    notes: Vec<String>,
    was_refused: bool,
    /// The latest is the largest. Earlier ones stay: captured work has their addresses.
    workspaces: Vec<Memory>,
}

impl Convolutions {
    /// With nothing chosen.
    pub fn new(library: Arc<dyn Dnn>) -> Self {
        Convolutions { library, state: Mutex::default() }
    }

    /// The library's name and version.
    pub fn name(&self) -> String {
        self.library.name()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes choices of earlier runs, as `choices` gave them; what is no such line counts for nothing.
    pub fn remember(&self, text: &str) {
        let mut state = self.state();
        for line in text.lines() {
            let Some((product, choice)) = line.split_once(": ") else { continue };
            let choice = match choice.split(' ').collect::<Vec<&str>>()[..] {
                ["native"] => Choice::Native,
                ["algorithm", algorithm, workspace] => match (algorithm.parse(), workspace.parse()) {
                    (Ok(algorithm), Ok(workspace)) if workspace <= MOST_WORKSPACE => Choice::Library { algorithm, workspace },
                    _ => continue,
                },
                _ => continue,
            };
            state.choices.insert(product.to_string(), choice);
        }
    }

    /// All choices, a line each, if there are any that were not remembered.
    pub fn choices(&self) -> Option<String> {
        let state = self.state();
        let line = |(product, choice): (&String, &Choice)| match choice {
            Choice::Library { algorithm, workspace } => Some(format!("{product}: algorithm {algorithm} {workspace}\n")),
            Choice::Native => Some(format!("{product}: native\n")),
            Choice::Failed => None,
        };
        state.is_fresh.then(|| state.choices.iter().filter_map(line).collect())
    }

    /// How many products the library computes, and how many it refused.
    pub fn counts(&self) -> [usize; 2] {
        let state = self.state();
        let by_library = state.choices.values().filter(|choice| matches!(choice, Choice::Library { .. })).count();
        [by_library, state.choices.len() - by_library]
    }

    /// What the user should know and was not told yet: the first refusal since the last time.
    pub fn take_notes(&self) -> Vec<String> {
        let mut state = self.state();
        state.was_refused = false;
        std::mem::take(&mut state.notes)
    }

    /// Puts a product into the stream of `gpu`; false if the program's own kernels have to.
    ///
    /// # Safety
    /// As `Dnn::run`.
    pub unsafe fn run(&self, gpu: &Gpu, product: &Product, operands: &Operands) -> bool {
        let mut state = self.state();
        let key = product.to_string();
        let choice = match state.choices.get(&key).copied() {
            Some(choice) => choice,
            None => {
                let choice = self.choose(&mut state, product);
                state.choices.insert(key.clone(), choice);
                state.is_fresh = true;
                choice
            }
        };
        let Choice::Library { algorithm, workspace } = choice else { return false };
        let room = match state.workspace(gpu, workspace) {
            Ok(address) => (address, workspace),
            Err(error) => return state.failed(key, product, &error),
        };
        // SAFETY: passed on from the caller; the workspace serves one product after the other of one stream.
        match unsafe { self.library.run(product, algorithm, operands, room, gpu.stream()) } {
            Ok(()) => true,
            Err(error) => state.failed(key, product, &error),
        }
    }

    /// The first algorithm of the library's list that gives the same bits each time, in f32, in bounded memory.
    fn choose(&self, state: &mut State, product: &Product) -> Choice {
        let will_do = |one: &Algorithm| one.is_deterministic && one.is_fp32 && one.workspace <= MOST_WORKSPACE;
        match self.library.algorithms(product) {
            Ok(list) => match list.into_iter().find(will_do) {
                Some(Algorithm { number: algorithm, workspace, .. }) => return Choice::Library { algorithm, workspace },
                None => state.note(product, "no deterministic algorithm in f32"),
            },
            Err(error) => state.note(product, &format!("{error:#}")),
        }
        Choice::Native
    }
}

impl State {
    /// Says the first refusal; the others would say the same.
    fn note(&mut self, product: &Product, words: &str) {
        if !std::mem::replace(&mut self.was_refused, true) {
            self.notes.push(format!("convolution {product}: {words}; it and others like it are computed by this program's own kernels"));
        }
    }

    fn failed(&mut self, key: String, product: &Product, error: &anyhow::Error) -> bool {
        self.note(product, &format!("{error:#}"));
        self.choices.insert(key, Choice::Failed);
        false
    }

    /// The address of at least as many bytes.
    fn workspace(&mut self, gpu: &Gpu, bytes: usize) -> Result<u64> {
        if bytes > 0 && self.workspaces.last().is_none_or(|memory| memory.bytes() < bytes) {
            // Without the library, or each would keep the other alive.
            self.workspaces.push(Memory::new(&gpu.without_convolutions(), bytes)?);
        }
        Ok(self.workspaces.last().map_or(0, Memory::address))
    }
}
