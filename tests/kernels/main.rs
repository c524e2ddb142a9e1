//! The machine code of the kernels that this build made: that it is complete, packed as it should be, the same every time,
//! and as good as it was.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod budgets;
mod cubin;
mod images;
mod inner_loops;
