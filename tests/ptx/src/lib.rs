//! A GPU for tests that executes PTX: the very text that the program carries and that a driver would compile. It looks at
//! what hardware would not forgive, says what it found, and counts what a profiler would count. It knows no operation.
//!
//! A kernel's registers are rows of memory, with a value for each thread of a block, so an instruction is a loop over
//! neighbouring values; threads that go different ways are executed by turns, the one that is least far first. What is
//! compared with the kernel's text: bounds, alignment, spaces of addresses, memory and registers that nobody has written,
//! races in shared memory, barriers and warps that are not complete, reads past the writes of the same launch, asynchronous
//! copies that were not waited for, and the limits of launches.
//!
//! What it does not show: what the assembler makes of the text, how long it takes, and how hardware rounds where the
//! language leaves it open (`.approx`, sums within `mma`).

mod block;
mod code;
mod copies;
mod counters;
mod device;
mod driver;
mod fault;
pub mod float;
mod flow;
mod forms;
mod global;
mod lanewise;
mod launch;
mod parse;
mod shared;
mod tokens;

pub use code::Kind;
pub use counters::{Counters, Executed, Passes, Traffic};
pub use device::{Argument, Device, Options, Prepared, kernels};
pub use driver::{Calls, PtxGpu, images};
pub use fault::Fault;
