//! The device without a driver's trait around it: memory, modules, launches, counters.

use crate::block::Launch;
use crate::code::{Parameter, Program};
use crate::counters::Counters;
use crate::global::Space;
use crate::{forms, launch, parse};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the device pretends to be, and how closely it looks.
#[derive(Clone, Debug)]
pub struct Options {
    /// Compute capability.
    pub capability: [u32; 2],
    /// Which PTX of the program it gets: 52 of `compute_52`.
    pub arch: u32,
    /// Multiprocessors that it says it has. Some kernels are chosen by their number.
    pub multiprocessors: u32,
    /// Bytes of memory; more is refused.
    pub memory: u64,
    /// Threads of this machine; 0 for all cores.
    pub threads: usize,
    /// True to look for everything that hardware would not forgive; false, for speed, only for what would harm the host.
    pub checks: bool,
    /// True to count sectors and passes of memory; instructions are always counted.
    pub counts: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { capability: [8, 0], arch: 80, multiprocessors: 2, memory: 64 << 30, threads: 0, checks: true, counts: true }
    }
}

/// An argument of a launch.
#[derive(Clone, Debug)]
pub struct Argument {
    /// Its bytes.
    pub value: Vec<u8>,
    /// True for an address.
    pub is_address: bool,
}

/// A launch that has been found to suit its kernel.
#[derive(Clone, Debug)]
pub struct Prepared {
    program: Arc<Program>,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
    parameters: Vec<u8>,
    /// (number, address) of the arguments that are addresses.
    addresses: Vec<(usize, u64)>,
}

/// The device.
pub struct Device {
    /// What it pretends to be.
    pub options: Options,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    space: Space,
    modules: HashMap<u64, Vec<Arc<Program>>>,
    next_module: u64,
    functions: Vec<Arc<Program>>,
    counters: HashMap<String, Counters>,
    launches: u32,
}

/// Kernels of images that were read before: every test has a device of its own, with the same images.
static READ: Mutex<Option<HashMap<Vec<u8>, Known>>> = Mutex::new(None);

/// The architecture that an image asks for, and its kernels.
type Known = (u32, Vec<Arc<Program>>);

/// The kernels of an image, which may end in NUL.
///
/// Errors: it is no text, or something in it is not known.
pub fn kernels(image: &[u8]) -> Result<(u32, Vec<Program>)> {
    let text = std::str::from_utf8(image.strip_suffix(&[0]).unwrap_or(image)).context("PTX that is not text")?;
    let module = parse::parse(text)?;
    let programs = module.kernels.iter().map(forms::compile).collect::<Result<Vec<Program>>>()?;
    Ok((module.target, programs))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// A device with nothing in its memory.
    pub fn new(options: Options) -> Self {
        Device { options, state: Mutex::default() }
    }

    /// Bytes of memory in use.
    pub fn memory_in_use(&self) -> u64 {
        locked(&self.state).space.used()
    }

    /// Memory that nobody has written.
    ///
    /// Errors: there is not as much.
    pub fn allocate(&self, bytes: usize) -> Result<u64> {
        let mut state = locked(&self.state);
        let free = self.options.memory - state.space.used();
        ensure!(bytes as u64 <= free, "out of memory: {bytes} bytes asked for, {free} of {} are free", self.options.memory);
        Ok(state.space.allocate(bytes, self.options.checks))
    }

    /// Gives memory back.
    pub fn free(&self, address: u64) {
        locked(&self.state).space.free(address);
    }

    /// Copies to the device.
    ///
    /// # Safety
    /// `from` holds as many bytes.
    pub unsafe fn upload(&self, to: u64, from: *const u8, bytes: usize) -> Result<()> {
        // SAFETY: passed on.
        unsafe { locked(&self.state).space.write(to, from, bytes) }
    }

    /// Copies from the device.
    ///
    /// # Safety
    /// `to` holds as many bytes.
    pub unsafe fn download(&self, to: *mut u8, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: passed on.
        unsafe { locked(&self.state).space.read(to, from, bytes) }
    }

    /// Copies on the device.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        locked(&self.state).space.copy(to, from, bytes)
    }

    /// Sets bytes of the device.
    pub fn set_bytes(&self, to: u64, value: u8, bytes: usize) -> Result<()> {
        locked(&self.state).space.set(to, value, bytes)
    }

    /// Loads an image of PTX, and gives its number.
    ///
    /// Errors: it is for a later architecture, or something in it is not known.
    pub fn load(&self, image: &[u8]) -> Result<u64> {
        let known = locked(&READ).get_or_insert_default().get(image).cloned();
        let (target, programs) = match known {
            Some(known) => known,
            None => {
                let (target, programs) = kernels(image)?;
                let known: Known = (target, programs.into_iter().map(Arc::new).collect());
                locked(&READ).get_or_insert_default().insert(image.to_vec(), known.clone());
                known
            }
        };
        let [major, minor] = self.options.capability;
        ensure!(target <= major * 10 + minor, "PTX for sm_{target}; the device is of {major}.{minor}");
        let mut state = locked(&self.state);
        state.next_module += 1;
        let number = state.next_module;
        state.modules.insert(number, programs);
        Ok(number)
    }

    /// Ends a module.
    pub fn unload(&self, module: u64) {
        locked(&self.state).modules.remove(&module);
    }

    /// The number of a kernel of a module.
    pub fn function(&self, module: u64, name: &str) -> Option<u64> {
        let mut state = locked(&self.state);
        let program = state.modules.get(&module)?.iter().find(|program| program.name == name)?.clone();
        state.functions.push(program);
        Some(state.functions.len() as u64 - 1)
    }

    /// Compares a launch with its kernel, and keeps its arguments.
    ///
    /// Errors: they do not suit each other.
    pub fn prepare(&self, function: u64, grid: [u32; 3], threads: u32, shared: u32, arguments: &[Argument]) -> Result<Prepared> {
        let program = locked(&self.state).functions.get(function as usize).cloned().context("a kernel that was never looked up")?;
        launch::check_shape(&program, self.options.capability, grid, threads, shared)?;
        let expected = program.parameters.len();
        ensure!(arguments.len() == expected, "{} arguments; it has {expected} parameters", arguments.len());
        let mut parameters = vec![0; program.parameter_bytes as usize];
        let mut addresses = Vec::new();
        for (i, (argument, parameter)) in arguments.iter().zip(&program.parameters).enumerate() {
            let (bytes, size) = (argument.value.len(), parameter.bytes as usize);
            ensure!(bytes == size, "argument {i} has {bytes} bytes; the parameter has {size}");
            let word = |is_address: bool| if is_address { "an address" } else { "a number or struct" };
            if let Some(is_address) = parameter.is_address {
                ensure!(
                    argument.is_address == is_address,
                    "argument {i} is {}; the parameter is {}",
                    word(argument.is_address),
                    word(is_address)
                );
            }
            parameters[parameter.offset as usize..][..size].copy_from_slice(&argument.value);
            if argument.is_address {
                addresses.push((i, u64::from_le_bytes(argument.value[..8].try_into()?)));
            }
        }
        Ok(Prepared { program, grid, threads, shared, parameters, addresses })
    }

    /// (bytes, whether it is an address) of a kernel's parameters, in order; none if there is no such kernel. What nobody uses is taken
    /// for no address, since nothing can be asked of it.
    pub fn parameters(&self, function: u64) -> Option<Vec<(usize, bool)>> {
        let program = locked(&self.state).functions.get(usize::try_from(function).ok()?)?.clone();
        let parameter = |parameter: &Parameter| (parameter.bytes as usize, parameter.is_address.unwrap_or(false));
        Some(program.parameters.iter().map(parameter).collect())
    }

    /// Executes a launch.
    ///
    /// Errors: an argument points nowhere, or a thread did something wrong.
    pub fn launch(&self, prepared: &Prepared) -> Result<()> {
        let Prepared { program, grid, threads, shared, parameters, addresses } = prepared;
        let (views, number) = {
            let mut state = locked(&self.state);
            if let Some((i, address)) = addresses.iter().find(|(_, address)| *address != 0 && !state.space.has(*address)) {
                bail!("argument {i}: {}", crate::global::nowhere(*address, &state.space.views()));
            }
            state.launches += 1;
            (state.space.views(), state.launches)
        };
        let launch = Launch {
            program,
            views: &views,
            parameters,
            grid: *grid,
            threads: *threads as usize,
            shared_bytes: (program.shared_bytes + shared) as usize,
            number,
            checks: self.options.checks,
            counts: self.options.counts,
        };
        let all = if self.options.threads > 0 { self.options.threads } else { std::thread::available_parallelism().map_or(1, usize::from) };
        match launch::run(&launch, all) {
            Ok(counters) => {
                locked(&self.state).counters.entry(program.name.clone()).or_default().add(&counters);
                Ok(())
            }
            Err(mut fault) => {
                // An allocation is known to the reader by the parameters that point into it.
                for view in &views {
                    let inside = |address: u64| (view.start..=view.start + view.bytes).contains(&address);
                    let numbers: Vec<String> =
                        addresses.iter().filter(|(_, address)| inside(*address)).map(|(i, _)| i.to_string()).collect();
                    if !numbers.is_empty() {
                        let place = format!("at {:#x}", view.start);
                        fault.what = fault.what.replace(&place, &format!("{place} (of parameter {})", numbers.join(", ")));
                    }
                }
                Err(anyhow!(*fault))
            }
        }
    }

    /// What all launches of a kernel have cost; none if it was not launched.
    pub fn counters(&self, kernel: &str) -> Option<Counters> {
        locked(&self.state).counters.get(kernel).cloned()
    }

    /// The same, and from now on the count begins anew: asked after each launch, it is the cost of that launch.
    pub fn take_counters(&self, kernel: &str) -> Option<Counters> {
        locked(&self.state).counters.remove(kernel)
    }

    /// Names of the kernels that were launched.
    pub fn launched(&self) -> Vec<String> {
        let mut names: Vec<String> = locked(&self.state).counters.keys().cloned().collect();
        names.sort();
        names
    }
}
