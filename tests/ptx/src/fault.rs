//! What an executed kernel did wrong, and where.

use std::fmt;

/// A report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kernel.
    pub kernel: String,
    /// Line of its PTX.
    pub line: u32,
    /// The instruction as it stands there.
    pub text: String,
    /// The block in the grid.
    pub block: [u32; 3],
    /// The thread in the block.
    pub thread: u32,
    /// What it did.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { kernel, line, text, block: [x, y, z], thread, what } = self;
        write!(f, "{kernel}, line {line} of its PTX, `{text}`, thread {thread} of block ({x}, {y}, {z}): {what}")
    }
}

impl std::error::Error for Fault {}
