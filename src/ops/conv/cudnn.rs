//! cuDNN, loaded from a shared library: the calls that compute a convolution and its gradients.
//!
//! Maps are described by their strides, channels last; filters as they lie in a model, `[co][ci][k][k]`, which all
//! algorithms chosen here take. Products are f32 by fused multiply-adds: no TensorFloat-32. Winograd's and Fourier's ways
//! are left out, because they round more than the bounds of the ops allow.
//! Source: NVIDIA, cuDNN API reference (8.9 and 9), the legacy convolution calls.

use super::library::{Dnn, LibraryAlgorithm, Operands, Product};
use super::{ConvShape, Pass};
use crate::device::gpu::driver::Stream;
use anyhow::{Context, Result, anyhow, ensure};
use libloading::Library;
use std::ffi::{CStr, c_char, c_float, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

type Status = c_int;
type Object = *mut c_void;

/// Every call that this file makes. A library that lacks one of them is not used.
const CALLS: [&CStr; 24] = [
    c"cudnnGetVersion",
    c"cudnnGetErrorString",
    c"cudnnCreate",
    c"cudnnDestroy",
    c"cudnnSetStream",
    c"cudnnCreateTensorDescriptor",
    c"cudnnSetTensor4dDescriptorEx",
    c"cudnnDestroyTensorDescriptor",
    c"cudnnCreateFilterDescriptor",
    c"cudnnSetFilter4dDescriptor",
    c"cudnnDestroyFilterDescriptor",
    c"cudnnCreateConvolutionDescriptor",
    c"cudnnSetConvolution2dDescriptor",
    c"cudnnSetConvolutionMathType",
    c"cudnnDestroyConvolutionDescriptor",
    c"cudnnCreateActivationDescriptor",
    c"cudnnSetActivationDescriptor",
    c"cudnnDestroyActivationDescriptor",
    c"cudnnGetConvolutionForwardAlgorithm_v7",
    c"cudnnGetConvolutionBackwardDataAlgorithm_v7",
    c"cudnnGetConvolutionBackwardFilterAlgorithm_v7",
    c"cudnnConvolutionBiasActivationForward",
    c"cudnnConvolutionBackwardData",
    c"cudnnConvolutionBackwardFilter",
];

// Numbers of cudnn.h.
const FLOAT: c_int = 0;
const NCHW: c_int = 0;
const CROSS_CORRELATION: c_int = 1;
const DEFAULT_MATH: c_int = 0;
const FMA_MATH: c_int = 3;
const DETERMINISTIC: c_int = 1;
const RELU: c_int = 1;
const IDENTITY: c_int = 5;
const PROPAGATE_NAN: c_int = 1;
/// IMPLICIT_GEMM, IMPLICIT_PRECOMP_GEMM, GEMM. Without an activation cuDNN fuses bias and sum with the second alone.
const FORWARD: [c_int; 3] = [0, 1, 2];
const PRECOMPUTED: c_int = 1;
/// ALGO_1 of the gradient of the input, and of that of the filter: deterministic, by products of matrices.
const BACKWARD: [c_int; 1] = [1];
/// Room for the answer of cuDNN, which has fewer algorithms than this.
const MOST_ALGORITHMS: usize = 16;

/// `cudnnConvolutionFwdAlgoPerf_t`, and those of the other two products: they are laid out alike.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Performance {
    algorithm: c_int,
    status: Status,
    time: c_float,
    memory: usize,
    determinism: c_int,
    math: c_int,
    reserved: [c_int; 3],
}

/// cuDNN, with a handle of its own.
#[derive(Debug)]
pub struct Cudnn {
    library: Library,
    path: PathBuf,
    version: usize,
    /// The lock lets one call at a time use the handle.
    handle: Mutex<Handle>,
}

#[derive(Debug)]
struct Handle(Object);

// SAFETY: a handle may be used by any thread, one at a time: it is locked.
unsafe impl Send for Handle {}

/// The descriptors of one product, which are given back when this is dropped.
struct Descriptors<'a> {
    cudnn: &'a Cudnn,
    made: Vec<(Object, &'static CStr)>,
    inp: Object,
    out: Object,
    residual: Object,
    bias: Object,
    filter: Object,
    convolution: Object,
    activation: Object,
}

impl Cudnn {
    /// Loads the library that `CUDNN_LIB` names, else cuDNN 9 or 8 where the system finds libraries. The GPU's context is the
    /// calling thread's.
    ///
    /// Errors: none of them can be loaded or used.
    pub fn find() -> Result<Self> {
        if let Some(path) = std::env::var_os("CUDNN_LIB").filter(|path| !path.is_empty()) {
            return Self::load(Path::new(&path));
        }
        let named = |name: &str| Self::load(Path::new(name));
        named("libcudnn.so.9").or_else(|_| named("libcudnn.so.8")).context("no cuDNN 9 or 8 was found; CUDNN_LIB may name one")
    }

    /// Loads the library at `path`; a bare name is looked for where the system looks for libraries.
    ///
    /// Errors: it cannot be loaded, lacks a call, is older than 8, or does not start.
    pub fn load(path: &Path) -> Result<Self> {
        // SAFETY: loading runs the library's initialisers; a libcudnn has none that matter to us.
        let library = unsafe { Library::new(path) }.with_context(|| format!("{}: cannot be loaded", path.display()))?;
        let mut cudnn = Cudnn { library, path: path.to_path_buf(), version: 0, handle: Mutex::new(Handle(std::ptr::null_mut())) };
        for name in CALLS {
            cudnn.call::<unsafe extern "C" fn()>(name)?;
        }
        // SAFETY: the call has no arguments.
        cudnn.version = unsafe { cudnn.call::<unsafe extern "C" fn() -> usize>(c"cudnnGetVersion")?() };
        ensure!(cudnn.version >= 8000, "{}: cuDNN {}; expected 8 or later", path.display(), cudnn.version);
        let mut handle = std::ptr::null_mut();
        let create: unsafe extern "C" fn(*mut Object) -> Status = cudnn.call(c"cudnnCreate")?;
        // SAFETY: one place for one handle.
        cudnn.check(c"cudnnCreate", unsafe { create(&mut handle) })?;
        cudnn.handle = Mutex::new(Handle(handle));
        Ok(cudnn)
    }

    fn call<F: Copy>(&self, name: &CStr) -> Result<F> {
        // SAFETY: every caller writes the type that cudnn.h gives for this name; the library lives as long as `self`.
        let symbol = unsafe { self.library.get::<F>(name.to_bytes_with_nul()) };
        Ok(*symbol.with_context(|| format!("{}: has no {}", self.path.display(), name.to_string_lossy()))?)
    }

    fn check(&self, what: &CStr, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        let words: unsafe extern "C" fn(Status) -> *const c_char = self.call(c"cudnnGetErrorString")?;
        // SAFETY: the call gives a text that lives as long as the library, for any number.
        let words = unsafe { CStr::from_ptr(words(status)) };
        Err(anyhow!("{}: {}", what.to_string_lossy(), words.to_string_lossy()))
    }

    /// Which algorithms may compute a product.
    fn allowed(product: &Product) -> &'static [c_int] {
        match product.pass {
            Pass::Forward if product.relu => &FORWARD,
            Pass::Forward => &[PRECOMPUTED],
            Pass::Data | Pass::Weights => &BACKWARD,
        }
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        let Handle(handle) = *self.handle.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let (false, Ok(destroy)) = (handle.is_null(), self.call::<unsafe extern "C" fn(Object) -> Status>(c"cudnnDestroy")) {
            // SAFETY: made by `load`, used for the last time.
            unsafe { destroy(handle) };
        }
    }
}

impl<'a> Descriptors<'a> {
    fn new(cudnn: &'a Cudnn, product: &Product) -> Result<Self> {
        let null = std::ptr::null_mut();
        let (inp, out, residual, bias, filter, convolution, activation) = (null, null, null, null, null, null, null);
        let mut all = Descriptors { cudnn, made: Vec::new(), inp, out, residual, bias, filter, convolution, activation };
        let Product { shape, pixel_strides: [from, to], residual_stride, .. } = *product;
        let (ConvShape { n, h, w, ci, co, kernel, stride }, [_, oh, ow, _]) = (shape, shape.out());
        all.inp = all.map(n, [h, w], ci, from)?;
        all.out = all.map(n, [oh, ow], co, to)?;
        // The call always reads a residual. Where there is none it reads the output, times 0.
        all.residual = all.map(n, [oh, ow], co, residual_stride.unwrap_or(to))?;
        all.bias = all.map(1, [1, 1], co, co)?;

        all.filter = all.make(c"cudnnCreateFilterDescriptor", c"cudnnDestroyFilterDescriptor")?;
        let set: unsafe extern "C" fn(Object, c_int, c_int, c_int, c_int, c_int, c_int) -> Status =
            cudnn.call(c"cudnnSetFilter4dDescriptor")?;
        let [ci, co, kernel] = [ci, co, kernel].map(|extent| extent as c_int);
        // SAFETY: made above; numbers otherwise.
        cudnn.check(c"cudnnSetFilter4dDescriptor", unsafe { set(all.filter, FLOAT, NCHW, co, ci, kernel, kernel) })?;

        all.convolution = all.make(c"cudnnCreateConvolutionDescriptor", c"cudnnDestroyConvolutionDescriptor")?;
        type SetConvolution = unsafe extern "C" fn(Object, c_int, c_int, c_int, c_int, c_int, c_int, c_int, c_int) -> Status;
        let set: SetConvolution = cudnn.call(c"cudnnSetConvolution2dDescriptor")?;
        let (pad, step) = (kernel / 2, stride as c_int);
        // SAFETY: as above.
        cudnn.check(c"cudnnSetConvolution2dDescriptor", unsafe {
            set(all.convolution, pad, pad, step, step, 1, 1, CROSS_CORRELATION, FLOAT)
        })?;
        let set: unsafe extern "C" fn(Object, c_int) -> Status = cudnn.call(c"cudnnSetConvolutionMathType")?;
        // SAFETY: as above.
        cudnn.check(c"cudnnSetConvolutionMathType", unsafe { set(all.convolution, FMA_MATH) })?;

        all.activation = all.make(c"cudnnCreateActivationDescriptor", c"cudnnDestroyActivationDescriptor")?;
        let set: unsafe extern "C" fn(Object, c_int, c_int, f64) -> Status = cudnn.call(c"cudnnSetActivationDescriptor")?;
        let mode = if product.relu { RELU } else { IDENTITY };
        // SAFETY: as above.
        cudnn.check(c"cudnnSetActivationDescriptor", unsafe { set(all.activation, mode, PROPAGATE_NAN, 0.0) })?;
        Ok(all)
    }

    fn make(&mut self, create: &'static CStr, destroy: &'static CStr) -> Result<Object> {
        let call: unsafe extern "C" fn(*mut Object) -> Status = self.cudnn.call(create)?;
        let mut object = std::ptr::null_mut();
        // SAFETY: one place for one descriptor.
        self.cudnn.check(create, unsafe { call(&mut object) })?;
        self.made.push((object, destroy));
        Ok(object)
    }

    /// A map, channels last.
    fn map(&mut self, n: usize, [h, w]: [usize; 2], c: usize, pixel_stride: usize) -> Result<Object> {
        type Set = unsafe extern "C" fn(Object, c_int, c_int, c_int, c_int, c_int, c_int, c_int, c_int, c_int) -> Status;
        ensure!(
            n * h * w * pixel_stride < 1 << 31,
            "a map of {n} x {h} x {w} pixels, {pixel_stride} apart; expected less than 2^31 values"
        );
        let object = self.make(c"cudnnCreateTensorDescriptor", c"cudnnDestroyTensorDescriptor")?;
        let set: Set = self.cudnn.call(c"cudnnSetTensor4dDescriptorEx")?;
        let [image, row, pixel] = [h * w * pixel_stride, w * pixel_stride, pixel_stride].map(|stride| stride as c_int);
        let [n, c, h, w] = [n, c, h, w].map(|extent| extent as c_int);
        // SAFETY: made above; numbers otherwise.
        self.cudnn.check(c"cudnnSetTensor4dDescriptorEx", unsafe { set(object, FLOAT, n, c, h, w, image, 1, row, pixel) })?;
        Ok(object)
    }
}

impl Drop for Descriptors<'_> {
    fn drop(&mut self) {
        for (object, destroy) in self.made.drain(..) {
            if let Ok(call) = self.cudnn.call::<unsafe extern "C" fn(Object) -> Status>(destroy) {
                // SAFETY: made by `make`, used for the last time.
                unsafe { call(object) };
            }
        }
    }
}

impl Dnn for Cudnn {
    fn name(&self) -> String {
        let (major, rest) = if self.version >= 90_000 {
            (self.version / 10_000, self.version % 10_000)
        } else {
            (self.version / 1000, self.version % 1000)
        };
        format!("cuDNN {major}.{}.{}", rest / 100, rest % 100)
    }

    fn algorithms(&self, product: &Product) -> Result<Vec<LibraryAlgorithm>> {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let of = Descriptors::new(self, product)?;
        type Ask = unsafe extern "C" fn(Object, Object, Object, Object, Object, c_int, *mut c_int, *mut Performance) -> Status;
        // Input, filter and output in the order of each call.
        let (name, first, second, third) = match product.pass {
            Pass::Forward => (c"cudnnGetConvolutionForwardAlgorithm_v7", of.inp, of.filter, of.out),
            Pass::Data => (c"cudnnGetConvolutionBackwardDataAlgorithm_v7", of.filter, of.out, of.inp),
            Pass::Weights => (c"cudnnGetConvolutionBackwardFilterAlgorithm_v7", of.inp, of.out, of.filter),
        };
        // The convolution stands before the map or filter that is written.
        let ask: Ask = self.call(name)?;
        let (mut found, mut count) = ([Performance::default(); MOST_ALGORITHMS], 0);
        // SAFETY: the handle and the descriptors are alive; as many places as the call is told.
        self.check(name, unsafe {
            ask(handle.0, first, second, of.convolution, third, MOST_ALGORITHMS as c_int, &mut count, found.as_mut_ptr())
        })?;
        let usable = |one: &&Performance| one.status == 0 && Self::allowed(product).contains(&one.algorithm);
        let algorithm = |one: &Performance| LibraryAlgorithm {
            number: one.algorithm,
            workspace: one.memory,
            is_deterministic: one.determinism == DETERMINISTIC,
            is_fp32: one.math == DEFAULT_MATH || one.math == FMA_MATH,
        };
        Ok(found[..count.clamp(0, MOST_ALGORITHMS as c_int) as usize].iter().filter(usable).map(algorithm).collect())
    }

    unsafe fn run(
        &self,
        product: &Product,
        algorithm: i32,
        operands: &Operands,
        (workspace, workspace_bytes): (u64, usize),
        stream: Stream,
    ) -> Result<()> {
        ensure!(Self::allowed(product).contains(&algorithm), "algorithm {algorithm} of {product}: expected {:?}", Self::allowed(product));
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let of = Descriptors::new(self, product)?;
        let set_stream: unsafe extern "C" fn(Object, Object) -> Status = self.call(c"cudnnSetStream")?;
        // SAFETY: the handle is alive, and the stream is the caller's.
        self.check(c"cudnnSetStream", unsafe { set_stream(handle.0, stream.0 as Object) })?;
        let [inp, weights, out, bias, residual, room] =
            [operands.inp, operands.weights, operands.out, operands.bias, operands.residual, workspace].map(|address| address as Object);
        let (one, zero) = (1.0_f32, 0.0_f32);
        let scale = |value: &f32| std::ptr::from_ref(value).cast::<c_void>();
        match product.pass {
            Pass::Forward => {
                type Run = unsafe extern "C" fn(
                    Object,
                    *const c_void,
                    Object,
                    Object,
                    Object,
                    Object,
                    Object,
                    c_int,
                    Object,
                    usize,
                    *const c_void,
                    Object,
                    Object,
                    Object,
                    Object,
                    Object,
                    Object,
                    Object,
                ) -> Status;
                let name = c"cudnnConvolutionBiasActivationForward";
                let run: Run = self.call(name)?;
                let (of_residual, residual) = if product.residual_stride.is_some() { (&one, residual) } else { (&zero, out) };
                // SAFETY: the arguments of cudnn.h, in its order; the descriptors say how large the operands are, which the
                // caller vouches for.
                self.check(name, unsafe {
                    run(
                        handle.0,
                        scale(&one),
                        of.inp,
                        inp,
                        of.filter,
                        weights,
                        of.convolution,
                        algorithm,
                        room,
                        workspace_bytes,
                        scale(of_residual),
                        of.residual,
                        residual,
                        of.bias,
                        bias,
                        of.activation,
                        of.out,
                        out,
                    )
                })
            }
            Pass::Data | Pass::Weights => {
                type Run = unsafe extern "C" fn(
                    Object,
                    *const c_void,
                    Object,
                    Object,
                    Object,
                    Object,
                    Object,
                    c_int,
                    Object,
                    usize,
                    *const c_void,
                    Object,
                    Object,
                ) -> Status;
                // Both calls add to what the memory holds.
                let (name, first, second, written) = match product.pass {
                    Pass::Data => (c"cudnnConvolutionBackwardData", (of.filter, weights), (of.out, out), (of.inp, inp)),
                    _ => (c"cudnnConvolutionBackwardFilter", (of.inp, inp), (of.out, out), (of.filter, weights)),
                };
                let run: Run = self.call(name)?;
                // SAFETY: as above.
                self.check(name, unsafe {
                    run(
                        handle.0,
                        scale(&one),
                        first.0,
                        first.1,
                        second.0,
                        second.1,
                        of.convolution,
                        algorithm,
                        room,
                        workspace_bytes,
                        scale(&one),
                        written.0,
                        written.1,
                    )
                })
            }
        }
    }
}
