//! `--threads`: how many threads work. Results never depend on it.

use super::status::OrUsage;
use anyhow::{Context, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// Sets the number of threads; without one, all cores work. If a command runs other commands, the number that it has set holds
/// for them.
///
/// Errors: the threads cannot be started.
pub fn start(threads: Option<usize>) -> Result<()> {
    static IS_STARTED: AtomicBool = AtomicBool::new(false);
    if IS_STARTED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = threads {
        pool = pool.num_threads(threads);
    }
    pool.build_global().context("--threads: cannot be started; expected a number this machine can run; give fewer").or_usage()
}
