//! The GPU device: its memory, and launches of kernels by name. It knows no op and no maker of GPUs: those are behind
//! `Driver`.

pub mod cuda;
pub mod driver;
pub mod images;
mod launch;
mod memory;
pub mod nvrtc;
pub mod pack;
pub mod paper;
pub mod predict;

pub use launch::{Arg, Grid};
pub use memory::{GrowingMemory, Memory, Pinned};

use anyhow::{Context, Result, bail};
use driver::{DeviceInfo, Driver, Event, Function, Graph, Module, RawArgument, Stream};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// A GPU in use, and the stream that work goes to. Clones share the device.
#[derive(Clone)]
pub struct Gpu {
    device: Arc<Shared>,
    stream: Stream,
}

/// What all clones of a GPU share.
struct Shared {
    driver: Arc<dyn Driver>,
    info: DeviceInfo,
    modules: Vec<Module>,
    functions: RwLock<HashMap<&'static str, Function>>,
    stream: Stream,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.driver.destroy_stream(self.stream);
        self.modules.iter().for_each(|&module| self.driver.unload(module));
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({}, {:?})", self.device.info.name, self.stream)
    }
}

impl Gpu {
    /// A device with its kernels: the images in which they are looked up.
    ///
    /// Errors: an image cannot be loaded, or the device refuses.
    pub fn new(driver: Arc<dyn Driver>, images: &[&[u8]]) -> Result<Self> {
        let info = driver.info();
        let stream = driver.create_stream()?;
        let mut shared = Shared { driver, info, modules: Vec::new(), functions: RwLock::default(), stream };
        for image in images {
            let module = shared.driver.load(image).with_context(|| format!("kernels for {}", shared.info.name))?;
            shared.modules.push(module);
        }
        Ok(Gpu { device: Arc::new(shared), stream })
    }

    /// Name for the log.
    pub fn describe(&self) -> String {
        let DeviceInfo { name, capability: [major, minor], memory, .. } = &self.device.info;
        format!("{name} (sm_{major}{minor}, {:.1} GiB)", *memory as f64 / f64::from(1 << 30))
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        &self.device.info
    }

    /// The driver.
    pub fn driver(&self) -> &dyn Driver {
        &*self.device.driver
    }

    /// Bytes of a value of the kernels: 4, or 8 in a proof of indices.
    pub fn value_bytes(&self) -> usize {
        self.device.driver.value_bytes()
    }

    /// The stream that work goes to.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// The same device with another stream, which the caller has made and ends.
    pub fn on_stream(&self, stream: Stream) -> Self {
        Gpu { stream, ..self.clone() }
    }

    /// Launches a kernel. For an empty grid there is nothing to do.
    ///
    /// Errors: there is no such kernel, an argument does not suit it, or the launch fails.
    ///
    /// # Safety
    /// `args` are those of the KERNEL line, in its order; what they point to is as large as the kernel needs, and no other
    /// work of another stream touches it meanwhile.
    pub unsafe fn launch(&self, name: &'static str, grid: Grid, threads: u32, args: &[Arg]) -> Result<()> {
        if grid.blocks() == 0 {
            return Ok(());
        }
        for (i, arg) in args.iter().enumerate() {
            if let Some(bytes) = arg.value_bytes().filter(|&bytes| bytes != self.value_bytes()) {
                bail!("kernel {name}, argument {i}: points to values of {bytes} bytes; the kernels here have {}", self.value_bytes());
            }
        }
        let arguments: Vec<RawArgument> = args.iter().map(Arg::raw).collect();
        let function = self.function(name)?;
        // SAFETY: passed on from the caller.
        unsafe { self.device.driver.launch(function, grid.0, threads, 0, self.stream, &arguments) }
            .with_context(|| format!("kernel {name}"))
    }

    /// A kernel by its name: looked up once.
    fn function(&self, name: &'static str) -> Result<Function> {
        let known = self.device.functions.read().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        if let Some(function) = known {
            return Ok(function);
        }
        for &module in &self.device.modules {
            if let Some(function) = self.device.driver.function(module, name)? {
                self.device.functions.write().unwrap_or_else(PoisonError::into_inner).insert(name, function);
                return Ok(function);
            }
        }
        bail!("kernel {name}: there is none of that name in the kernels for {}", self.device.info.name)
    }

    /// Waits until all work of the stream is done. Errors: some of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.device.driver.synchronize(self.stream)
    }

    /// Captures what `work` puts into the stream, to be launched as a whole.
    ///
    /// Errors: those of `work`, or something in it cannot be captured.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<CapturedGraph> {
        self.device.driver.begin_capture(self.stream)?;
        let worked = work();
        // The capture is ended even if the work failed, so that the stream can be used again.
        let graph = self.device.driver.end_capture(self.stream);
        match worked {
            Ok(()) => Ok(CapturedGraph { gpu: self.clone(), graph: graph? }),
            Err(error) => {
                if let Ok(graph) = graph {
                    self.device.driver.destroy_graph(graph);
                }
                Err(error)
            }
        }
    }

    /// Marks this moment in the stream.
    pub fn record(&self) -> Result<Moment> {
        let moment = Moment { gpu: self.clone(), event: self.device.driver.create_event()? };
        self.device.driver.record(moment.event, self.stream)?;
        Ok(moment)
    }

    /// Moves a mark to this moment in the stream.
    pub fn record_again(&self, moment: &Moment) -> Result<()> {
        self.device.driver.record(moment.event, self.stream)
    }

    /// What is put into this stream from now on starts after `moment`.
    pub fn wait_for(&self, moment: &Moment) -> Result<()> {
        self.device.driver.wait(self.stream, moment.event)
    }
}

/// Work that is launched as a whole.
#[derive(Debug)]
pub struct CapturedGraph {
    gpu: Gpu,
    graph: Graph,
}

impl CapturedGraph {
    /// Launches it.
    ///
    /// # Safety
    /// The memory that the captured work uses is still there.
    pub unsafe fn launch(&self) -> Result<()> {
        // SAFETY: passed on from the caller.
        unsafe { self.gpu.driver().launch_graph(self.graph, self.gpu.stream) }
    }
}

impl Drop for CapturedGraph {
    fn drop(&mut self) {
        self.gpu.driver().destroy_graph(self.graph);
    }
}

/// A moment in a stream.
#[derive(Debug)]
pub struct Moment {
    gpu: Gpu,
    event: Event,
}

impl Moment {
    /// Waits on the host until the moment has come.
    pub fn synchronize(&self) -> Result<()> {
        self.gpu.driver().synchronize_event(self.event)
    }

    /// Milliseconds from an earlier moment to this one; both have come.
    pub fn ms_since(&self, earlier: &Moment) -> Result<f32> {
        self.gpu.driver().elapsed_ms(earlier.event, self.event)
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        self.gpu.driver().destroy_event(self.event);
    }
}
