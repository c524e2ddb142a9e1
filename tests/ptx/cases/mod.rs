//! Small kernels written by hand: what they count, what they are told, what they compute.

mod computed;
mod counted;
mod floats;
mod matrices;
mod reported;

use ptxgpu::{Argument, Device, Options};

/// What begins every module.
const HEAD: &str = ".version 7.0\n.target sm_80\n.address_size 64\n";

/// A kernel `k` with pointers as parameters `p0`, `p1` ... whose addresses are in %rd0, %rd1 ... and registers of all kinds. Its
/// thread is in %r0.
fn kernel(pointers: usize, threads: u32, shared: &str, body: &str) -> String {
    let parameters: Vec<String> = (0..pointers).map(|i| format!(".param .u64 p{i}")).collect();
    let mut text = format!(
        "{HEAD}{shared}\n.visible .entry k({})\n.maxntid {threads}, 1, 1\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %rs<8>;\n.reg .b32 %r<64>;\n.reg .f32 %f<64>;\n.reg .b64 %rd<32>;\n.reg .f64 %fd<8>;\n",
        parameters.join(", ")
    );
    for i in 0..pointers {
        text.push_str(&format!("ld.param.u64 %rd{i}, [p{i}];\ncvta.to.global.u64 %rd{i}, %rd{i};\n"));
    }
    text.push_str("mov.u32 %r0, %tid.x;\n");
    text.push_str(body);
    text.push_str("\nret;\n}\n");
    text
}

/// A device on which one module is executed.
struct Bench {
    device: Device,
    module: u64,
    addresses: Vec<u64>,
    lengths: Vec<usize>,
}

impl Bench {
    fn new(text: &str) -> Self {
        Bench::with(text, Options { threads: 1, ..Options::default() })
    }

    fn with(text: &str, options: Options) -> Self {
        let device = Device::new(options);
        let module = device.load(text.as_bytes()).unwrap_or_else(|error| panic!("{error:#}"));
        Bench { device, module, addresses: Vec::new(), lengths: Vec::new() }
    }

    /// Memory that the next parameter points to.
    fn give<T: Copy>(mut self, values: &[T]) -> Self {
        let bytes = size_of_val(values);
        self = self.unset(bytes);
        // SAFETY: the values have as many bytes.
        unsafe { self.device.upload(*self.addresses.last().unwrap(), values.as_ptr().cast(), bytes) }.unwrap();
        self
    }

    /// The same, with nothing written there.
    fn unset(mut self, bytes: usize) -> Self {
        self.addresses.push(self.device.allocate(bytes).unwrap());
        self.lengths.push(bytes);
        self
    }

    fn launch(&self, grid: [u32; 3], threads: u32, shared: u32) -> Result<(), String> {
        let arguments: Vec<Argument> =
            self.addresses.iter().map(|address| Argument { value: address.to_le_bytes().to_vec(), is_address: true }).collect();
        let function = self.device.function(self.module, "k").unwrap();
        let prepared = self.device.prepare(function, grid, threads, shared, &arguments).map_err(|error| format!("{error:#}"))?;
        self.device.launch(&prepared).map_err(|error| format!("{error:#}"))
    }

    /// One block.
    fn run(&self, threads: u32) -> Result<(), String> {
        self.launch([1, 1, 1], threads, 0)
    }

    fn read<T: Copy + Default>(&self, parameter: usize) -> Vec<T> {
        let mut values = vec![T::default(); self.lengths[parameter] / size_of::<T>()];
        // SAFETY: the values have as many bytes.
        unsafe { self.device.download(values.as_mut_ptr().cast(), self.addresses[parameter], self.lengths[parameter]) }.unwrap();
        values
    }
}
