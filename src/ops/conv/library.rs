//! Convolutions by a library of the GPU's maker: what this program needs of cuDNN, and no more. There are two implementations:
//! cuDNN, and one of the tests, which computes on the host. The code above the trait decides what the library is asked for and
//! which of its algorithms it may use. Where the library refuses a product, the program's own kernels compute it.

use super::gpu::GpuPanels;
use super::{ConvShape, Epilogue, Pass};
use crate::device::gpu::driver::Stream;
use crate::device::gpu::{Gpu, Memory};
use crate::device::{TensorMut, TensorRef};
use crate::ops::Real;
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One product. Maps are channels last with a pixel stride, f32; weights `[co][ci][kernel][kernel]`; padding kernel / 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Which of the three. The gradients are added to what is there: in `Pass::Data` to `inp`, in `Pass::Weights` to `weights`,
    /// where `out` is the gradient of the output.
    pub pass: Pass,
    /// The convolution.
    pub shape: ConvShape,
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
        let Product { pass, shape: ConvShape { n, h, w, ci, co, kernel, stride }, pixel_strides: [from, to], .. } = self;
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
    /// The bias, `[co]`.
    pub bias: u64,
    /// The residual.
    pub residual: u64,
}

/// A way in which the library can compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LibraryAlgorithm {
    /// The library's number for it.
    pub number: i32,
    /// Bytes of memory that it works in.
    pub workspace: usize,
    /// True if it gives the same bits each time.
    pub is_deterministic: bool,
    /// True if it multiplies in f32 and in nothing less.
    pub is_fp32: bool,
}

/// The calls of a library.
pub trait Dnn: Debug + Send + Sync {
    /// Its name and version, such as `cuDNN 9.1.0`.
    fn name(&self) -> String;

    /// How a product can be computed, what the library thinks best first.
    ///
    /// Errors: the library does not take such a product.
    fn algorithms(&self, product: &Product) -> Result<Vec<LibraryAlgorithm>>;

    /// Puts a product into a stream. `workspace`: address and bytes, at least as many as the algorithm asked for.
    ///
    /// Errors: the library refuses; nothing was put into the stream then.
    ///
    /// # Safety
    /// The operands are as large as the product says, and the workspace is used by no other work of another stream.
    unsafe fn run(&self, product: &Product, algorithm: i32, operands: &Operands, workspace: (u64, usize), stream: Stream) -> Result<()>;
}

/// An algorithm may work in this many bytes at most: beside a network of 300 MiB, more memory would not be worth its speed.
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
    /// The library failed in this run. This program's kernels compute the product from then on, and the next run asks again.
    Failed,
}

/// A library in use on a GPU: which algorithm computes which product, found once.
#[derive(Debug)]
pub struct Library {
    library: Arc<dyn Dnn>,
    state: Mutex<State>,
    /// The library's handle lives in the context of this device, which therefore has to outlive it: this field is dropped last.
    gpu: Gpu,
}

impl Drop for Library {
    fn drop(&mut self) {
        // The library gives back what it has on the device. If the device cannot be used any more, there is nothing to give back.
        let _ = self.gpu.driver().bind();
    }
}

#[derive(Debug, Default)]
struct State {
    choices: BTreeMap<String, Choice>,
    is_fresh: bool,
    notes: Vec<String>,
    was_refused: bool,
    /// The last one is the largest and is used. Earlier ones are kept, because work that was captured has their addresses.
    workspaces: Vec<Memory>,
}

impl Library {
    /// Loads a library for a GPU. It has chosen nothing yet.
    ///
    /// Errors: those of `load`, or the device cannot be used.
    pub fn load(gpu: &Gpu, load: impl FnOnce() -> Result<Arc<dyn Dnn>>) -> Result<Self> {
        gpu.driver().bind()?;
        Ok(Library { library: load()?, state: Mutex::default(), gpu: gpu.clone() })
    }

    /// The library's name and version.
    pub fn name(&self) -> String {
        self.library.name()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the choices of earlier runs, in the form that `choices` gives them. Lines in any other form are skipped.
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

    /// All choices, one a line, if any of them is new since `remember`.
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

    /// What the user should be told: the first product that the library has refused since this was last asked.
    pub fn take_notes(&self) -> Vec<String> {
        let mut state = self.state();
        state.was_refused = false;
        std::mem::take(&mut state.notes)
    }

    /// Lets the library compute a convolution; false if the program's own kernels have to.
    pub(super) fn forward<T: Real>(
        &self,
        gpu: &Gpu,
        shape: ConvShape,
        inp: TensorRef<T>,
        weights: &GpuPanels<T>,
        epilogue: Epilogue<T>,
        out: &TensorMut<T>,
    ) -> bool {
        let Some(plain) = weights.plain() else { return false };
        let residual_stride = epilogue.residual.map(|residual| residual.pixel_stride());
        let pixel_strides = [inp.pixel_stride(), out.pixel_stride()];
        let product = Product { pass: Pass::Forward, shape, pixel_strides, residual_stride, relu: epilogue.relu };
        let operands = Operands {
            inp: inp.pixel_ptr(0) as u64,
            weights: plain,
            out: out.pixel_ptr(0) as u64,
            bias: weights.bias_address(),
            residual: epilogue.residual.map_or(0, |residual| residual.pixel_ptr(0) as u64),
        };
        // SAFETY: the shapes of all maps were checked against the convolution's, and their strides are those of the product;
        // all work of this device goes to one stream.
        unsafe { self.run(gpu, &product, &operands) }
    }

    /// The same for one of the gradients, which is added to what is there. The maps and the weights are flat views or maps of
    /// the convolution, of which the pass writes one.
    pub(super) fn backward<T: Real>(
        &self,
        gpu: &Gpu,
        pass: Pass,
        shape: ConvShape,
        inp: TensorRef<T>,
        weights: TensorRef<T>,
        dout: TensorRef<T>,
    ) -> bool {
        let pixel_strides = [inp.pixel_stride(), dout.pixel_stride()];
        let product = Product { pass, shape, pixel_strides, residual_stride: None, relu: false };
        let [inp, weights, out] = [inp, weights, dout].map(|view| view.pixel_ptr(0) as u64);
        // SAFETY: as above.
        unsafe { self.run(gpu, &product, &Operands { inp, weights, out, bias: 0, residual: 0 }) }
    }

    /// Puts a product into the stream of `gpu`; false if the program's own kernels have to.
    ///
    /// # Safety
    /// As `Dnn::run`.
    pub unsafe fn run(&self, gpu: &Gpu, product: &Product, operands: &Operands) -> bool {
        let mut state = self.state();
        let key = product.to_string();
        // The library works with the device that is the thread's, and another device may have been used since.
        if let Err(error) = gpu.driver().bind() {
            return state.failed(key, product, &error);
        }
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
        let will_do = |one: &LibraryAlgorithm| one.is_deterministic && one.is_fp32 && one.workspace <= MOST_WORKSPACE;
        match self.library.algorithms(product) {
            Ok(list) => match list.into_iter().find(will_do) {
                Some(LibraryAlgorithm { number: algorithm, workspace, .. }) => return Choice::Library { algorithm, workspace },
                None => state.note(product, "no deterministic algorithm in f32"),
            },
            Err(error) => state.note(product, &format!("{error:#}")),
        }
        Choice::Native
    }
}

impl State {
    /// Notes the first refusal alone, because every other one would say the same.
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

    /// The address of a workspace of at least this many bytes.
    fn workspace(&mut self, gpu: &Gpu, bytes: usize) -> Result<u64> {
        if bytes > 0 && self.workspaces.last().is_none_or(|memory| memory.bytes() < bytes) {
            self.workspaces.push(Memory::new(gpu, bytes)?);
        }
        Ok(self.workspaces.last().map_or(0, Memory::address))
    }
}
