//! Launches: what a grid may be, and its blocks over the threads of this machine.

use crate::block::{Block, Launch};
use crate::code::Program;
use crate::counters::Counters;
use crate::fault::Fault;
use anyhow::{Result, ensure};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Shared memory that a block of an architecture may have: by declarations alone, and with what a launch asks for.
///
/// Source: NVIDIA, CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability".
pub fn shared_limits([major, minor]: [u32; 2]) -> [u32; 2] {
    let most = match (major, minor) {
        (..=6, _) => 48,
        (7, 0 | 2) => 96,
        (7, _) => 64,
        (8, 0 | 7) => 163,
        (8, _) => 99,
        (12, _) => 99,
        _ => 227,
    };
    [48 << 10, most << 10]
}

/// Sees to it that a kernel can be launched so.
///
/// Errors: it cannot; the error says which limit is broken.
pub fn check_shape(program: &Program, capability: [u32; 2], grid: [u32; 3], threads: u32, shared: u32) -> Result<()> {
    let [major, minor] = capability;
    ensure!(threads > 0 && threads <= 1024, "{threads} threads in a block; sm_{major}{minor} takes 1024");
    if let Some(required) = program.required_threads {
        ensure!(threads == required, "{threads} threads in a block; its .reqntid says {required}");
    }
    if let Some(most) = program.max_threads {
        ensure!(threads <= most, "{threads} threads in a block; its .maxntid says {most}");
    }
    let [declared, all] = shared_limits(capability);
    let (own, total) = (program.shared_bytes, program.shared_bytes + shared);
    ensure!(own <= declared, "it declares {own} bytes of shared memory; a block may declare {declared}");
    ensure!(total <= all, "{own} bytes of shared memory and {shared} of the launch; a block of sm_{major}{minor} has {all}");
    ensure!(
        grid[0] < 1 << 31 && grid[1] < 1 << 16 && grid[2] < 1 << 16,
        "a grid of {grid:?} blocks; expected at most 2^31-1, 65535, 65535"
    );
    ensure!(grid.iter().all(|&extent| extent > 0), "a grid of {grid:?} blocks");
    Ok(())
}

/// Executes all blocks of a launch on `workers` threads of this machine.
///
/// Errors: what the first block in the order of the grid did wrong, of those that were executed.
pub fn run(launch: &Launch, workers: usize) -> Result<Counters, Box<Fault>> {
    let blocks: u64 = launch.grid.iter().map(|&extent| u64::from(extent)).product();
    // Small launches are done before a thread has started.
    let is_small = blocks * (launch.threads as u64) < 4096;
    let workers = if launch.program.is_ordered || is_small { 1 } else { workers.min(blocks as usize).max(1) };
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    // What all blocks cost, and the first one that did something wrong.
    let done = Mutex::new((Counters::default(), None::<(u64, Box<Fault>)>));
    let work = || {
        let mut block = Block::new(launch);
        let mut fault = None;
        while !failed.load(Relaxed) {
            let number = next.fetch_add(1, Relaxed);
            if number >= blocks {
                break;
            }
            let [x, y, _] = launch.grid.map(u64::from);
            let index = [(number % x) as u32, (number / x % y) as u32, (number / x / y) as u32];
            if let Err(found) = block.run(index) {
                failed.store(true, Relaxed);
                fault = Some((number, found));
                break;
            }
        }
        let counters = block.counts.counters(&launch.program.said, launch.threads);
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        done.0.add(&counters);
        if let Some((number, found)) = fault
            && done.1.as_ref().is_none_or(|(other, _)| number < *other)
        {
            done.1 = Some((number, found));
        }
    };
    if workers == 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(work);
            }
        });
    }
    let (mut counters, fault) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    match fault {
        Some((_, fault)) => Err(fault),
        None => {
            (counters.launches, counters.blocks) = (1, blocks);
            Ok(counters)
        }
    }
}
