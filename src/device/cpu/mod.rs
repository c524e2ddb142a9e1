//! The CPU device: instruction sets found at run time, the tile product that convolutions are made of, the outer
//! product that their weight gradients are made of, Winograd's transforms, samples between pixels, sums that no number of threads changes, scratch memory.

pub mod blend;
pub mod outer_product;
pub mod tile_product;
pub mod winograd;

use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

/// The instruction sets that loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstructionSet {
    /// What every x86-64 (SSE2) or other processor has; plain Rust.
    Plain,
    /// AVX2 with FMA: Haswell (2013) and later.
    Avx2,
    /// AVX-512 F, VL, DQ and BW: Skylake-X (2017) and later.
    Avx512,
}

impl InstructionSet {
    /// The best one that this processor has.
    pub fn detect() -> Self {
        static FOUND: OnceLock<InstructionSet> = OnceLock::new();
        *FOUND.get_or_init(|| *Self::available().last().unwrap_or(&InstructionSet::Plain))
    }

    /// All that this processor has, the best last. Tests run each of them.
    pub fn available() -> Vec<Self> {
        let mut sets = vec![InstructionSet::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                sets.push(InstructionSet::Avx2);
                let all = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
                if all && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512bw") {
                    sets.push(InstructionSet::Avx512);
                }
            }
        }
        sets
    }

    /// Name for the log.
    pub fn name(self) -> &'static str {
        match self {
            InstructionSet::Plain => "plain",
            InstructionSet::Avx2 => "avx2",
            InstructionSet::Avx512 => "avx512",
        }
    }
}

/// Calls `$body` compiled for the given instruction set: the same Rust, vectorised by the compiler with other registers.
///
/// `dispatch!(set, name(args...))` expects an `#[inline(always)] fn name`.
#[macro_export]
macro_rules! dispatch {
    ($set:expr, $name:ident ( $($arg:ident : $ty:ty),* $(,)? )) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) { $name($($arg),*) }
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
            fn avx512($($arg: $ty),*) { $name($($arg),*) }
            match $set {
                // SAFETY: the instruction set was found on this processor.
                $crate::device::cpu::InstructionSet::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                $crate::device::cpu::InstructionSet::Avx2 => unsafe { avx2($($arg),*) },
                $crate::device::cpu::InstructionSet::Plain => $name($($arg),*),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = $set;
            $name($($arg),*)
        }
    }};
}

/// Runs `work` on one of the pool's threads, which may be any other than the caller's.
///
/// A parallel loop that is begun on any other thread is handed over to the pool and waited for. A step of training has hundreds of
/// loops, and on a busy machine each of them would wait for its turn.
pub fn within_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends `len` values of this thread's scratch memory, 64-byte aligned, with whatever they held before.
///
/// It grows to the largest tile ever asked for (some hundred KiB) and stays: after the first image nothing is allocated.
pub fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with(|cell| {
        // The buffer is taken out while it is in use, so that a nested call gets one of its own instead of a panic.
        let mut buffer = cell.take();
        if buffer.len() < len + 16 {
            buffer.resize(len + 16, 0.0);
        }
        let skip = buffer.as_ptr().align_offset(64).min(16);
        let result = work(&mut buffer[skip..skip + len]);
        cell.replace(buffer);
        result
    })
}

/// Sums over `pixels` things, `values` sums at once. The sum is cut into parts by the count alone; each part is summed in f32, and
/// the parts are added in their order in f64. So the number of threads changes no bit.
pub fn sum_in_parts(pixels: usize, values: usize, part: impl Fn(Range<usize>, &mut [f32]) + Sync) -> Vec<f64> {
    let parts = pixels.div_ceil(PART_PIXELS).clamp(1, MOST_PARTS);
    let partial: Vec<Vec<f32>> = (0..parts)
        .into_par_iter()
        .map(|i| {
            let mut sums = vec![0.0; values];
            part(i * pixels / parts..(i + 1) * pixels / parts, &mut sums);
            sums
        })
        .collect();
    let mut sums = vec![0.0; values];
    for part in &partial {
        sums.iter_mut().zip(part).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    sums
}

/// Pixels of a part of a sum: few enough for rounding in f32 to stay small, and enough to be worth a task.
const PART_PIXELS: usize = 512;
/// Most parts of a sum.
const MOST_PARTS: usize = 256;
