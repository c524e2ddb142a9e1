//! Products of small matrices by a warp: fragments of 16 bits from shared memory, and `mma.sync`.
//!
//! The products are summed in f64 and rounded once. The order in which the hardware adds is not told, so only where every
//! partial sum is exact, as with small whole numbers, are the bits the hardware's.
//!
//! Source: PTX ISA, sections "ldmatrix" and "Matrix fragments for mma.m16n8k8" and the following ones.

use super::memory::{Place, Room, shared_fault, shared_offset};
use super::{Builder, Lowered};
use crate::block::Block;
use crate::code::{Effect, Lanes, Op, Row};
use crate::counters::{Passes, passes_of};
use crate::fault::Fault;
use crate::float::{f32_of_bf16, f32_of_f16, f32_of_tf32};
use crate::parse::{Class, Instruction, Operand};
use crate::shared::Access;
use anyhow::{Result, ensure};

pub fn lower(b: &mut Builder, i: &Instruction, words: &[&str]) -> Lowered {
    match words {
        ["ldmatrix", "sync", "aligned", "m8n8", count @ ("x1" | "x2" | "x4"), "shared" | "shared::cta", "b16"] => load(b, i, count, false),
        ["ldmatrix", "sync", "aligned", "m8n8", count @ ("x1" | "x2" | "x4"), "trans", "shared" | "shared::cta", "b16"] => {
            load(b, i, count, true)
        }
        ["mma", "sync", "aligned", shape, "row", "col", "f32", left, right, "f32"] if left == right => {
            let (kind, depth, registers) = match (*left, *shape) {
                ("f16", "m16n8k8") => (Kind::F16, 8, [2, 1]),
                ("f16", "m16n8k16") => (Kind::F16, 16, [4, 2]),
                ("bf16", "m16n8k8") => (Kind::Bf16, 8, [2, 1]),
                ("bf16", "m16n8k16") => (Kind::Bf16, 16, [4, 2]),
                ("tf32", "m16n8k4") => (Kind::Tf32, 4, [2, 1]),
                ("tf32", "m16n8k8") => (Kind::Tf32, 8, [4, 2]),
                _ => return Ok(None),
            };
            ensure!(i.operands.len() == 4, "{} operands; expected 4", i.operands.len());
            let parts = |k: usize, count: usize| -> Result<&[Operand]> {
                let parts = match &i.operands[k] {
                    Operand::Vector(parts) => &parts[..],
                    operand => std::slice::from_ref(operand),
                };
                ensure!(parts.len() == count, "operand {k} has {} registers; expected {count}", parts.len());
                Ok(parts)
            };
            let mut multiply = Multiply { kind, depth, to: [0; 4], left: [0; 4], right: [0; 2], sums: [0; 4] };
            for (row, part) in multiply.to.iter_mut().zip(parts(0, 4)?) {
                *row = b.write(part, Class::B32)?;
            }
            for (row, part) in multiply.left.iter_mut().zip(parts(1, registers[0])?) {
                *row = b.read(part, Class::B32)?;
            }
            for (row, part) in multiply.right.iter_mut().zip(parts(2, registers[1])?) {
                *row = b.read(part, Class::B32)?;
            }
            for (row, part) in multiply.sums.iter_mut().zip(parts(3, 4)?) {
                *row = b.read(part, Class::B32)?;
            }
            Ok(Some(Op::Effect(Box::new(multiply))))
        }
        _ => Ok(None),
    }
}

fn load(b: &mut Builder, i: &Instruction, count: &str, transposed: bool) -> Lowered {
    let count = match count {
        "x1" => 1,
        "x2" => 2,
        _ => 4,
    };
    ensure!(i.operands.len() == 2, "{} operands; expected 2", i.operands.len());
    let targets = match &i.operands[0] {
        Operand::Vector(targets) => &targets[..],
        target => std::slice::from_ref(target),
    };
    ensure!(targets.len() == count, "{} registers; expected {count}", targets.len());
    let to = targets.iter().map(|target| b.write(target, Class::B32)).collect::<Result<Vec<Row>>>()?;
    // Pairs of bytes are what it moves, whoever wrote them.
    b.smallest_shared = b.smallest_shared.min(16);
    Ok(Some(Op::Effect(Box::new(LoadMatrix { to, place: Place::of(b, &i.operands[1], Room::Shared)?, transposed }))))
}

/// `ldmatrix`: matrix m has its rows of 8 values at the addresses of threads 8m to 8m + 7. A thread gets two neighbours of a
/// row: thread t those of row t / 4 from column 2 (t % 4) on; or, transposed, of a column.
struct LoadMatrix {
    to: Vec<Row>,
    place: Place,
    transposed: bool,
}

impl Effect for LoadMatrix {
    fn run(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        block.whole_warps(lanes, u32::MAX)?;
        self.place.find(block, lanes);
        for warp in lanes.list.chunk_by(|a, b| a / 32 == b / 32) {
            let first = usize::from(warp[0]);
            full(block, warp)?;
            let mut matrices = [[[0_u16; 8]; 8]; 4];
            for (m, matrix) in matrices.iter_mut().enumerate().take(self.to.len()) {
                for (r, row) in matrix.iter_mut().enumerate() {
                    let lane = first + 8 * m + r;
                    let offset = shared_offset(block, lane, 16, "reads")?;
                    if block.launch.checks
                        && let Err(what) = block.shared.check(offset, 16, lane, Access::Read)
                    {
                        return Err(shared_fault(block, lane, offset, &what));
                    }
                    // SAFETY: 16 bytes of the block's memory.
                    *row = unsafe { block.shared.memory().add(offset).cast::<[u16; 8]>().read() };
                }
                if block.launch.counts {
                    let lanes = first + 8 * m..first + 8 * m + 8;
                    let passes = passes_of(lanes.map(|lane| block.addresses[lane]), 16);
                    block.counts.shared_loads.add(Passes { passes, ideal: 1 });
                }
            }
            for (matrix, &to) in matrices.iter().zip(&self.to) {
                for lane in 0..32 {
                    let (r, c) = (lane / 4, lane % 4 * 2);
                    let [low, high] = if self.transposed { [matrix[c][r], matrix[c + 1][r]] } else { [matrix[r][c], matrix[r][c + 1]] };
                    // SAFETY: a row of the program, of this width.
                    unsafe { *block.row::<u32>(to).add(first + lane) = u32::from(high) << 16 | u32::from(low) };
                }
            }
        }
        Ok(())
    }
}

/// A warp that takes part in these has 32 threads.
fn full(block: &Block, warp: &[u16]) -> Result<(), Box<Fault>> {
    if warp.len() == 32 {
        return Ok(());
    }
    Err(block.fault(usize::from(warp[0]), format!("a warp of {} threads; it takes 32", warp.len())))
}

/// What the sources hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F16,
    Bf16,
    Tf32,
}

/// `mma.sync`: 16 x `depth` times `depth` x 8.
struct Multiply {
    kind: Kind,
    depth: usize,
    to: [Row; 4],
    left: [Row; 4],
    right: [Row; 2],
    sums: [Row; 4],
}

impl Multiply {
    /// Registers of the left and of the right fragment.
    fn registers(&self) -> [usize; 2] {
        let values = if self.kind == Kind::Tf32 { 1 } else { 2 };
        [self.depth / 2 / values, self.depth / 4 / values]
    }

    fn pair(&self, bits: u32) -> [f64; 2] {
        match self.kind {
            Kind::F16 => [bits as u16, (bits >> 16) as u16].map(|half| f64::from(f32_of_f16(half))),
            _ => [bits as u16, (bits >> 16) as u16].map(|half| f64::from(f32_of_bf16(half))),
        }
    }
}

impl Effect for Multiply {
    fn run(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        block.whole_warps(lanes, u32::MAX)?;
        for warp in lanes.list.chunk_by(|a, b| a / 32 == b / 32) {
            full(block, warp)?;
            let first = usize::from(warp[0]);
            // SAFETY: rows of the program, of this width; the warp has 32 lanes.
            let value = |row: Row, lane: usize| unsafe { *block.row::<u32>(row).add(first + lane) };
            let mut left = [[0.0_f64; 16]; 16];
            let mut right = [[0.0_f64; 8]; 16];
            let mut sums = [[0.0_f64; 8]; 16];
            let [of_left, of_right] = self.registers();
            for lane in 0..32 {
                let (group, within) = (lane / 4, lane % 4);
                if self.kind == Kind::Tf32 {
                    for (k, &row) in self.left.iter().enumerate().take(of_left) {
                        left[group + k % 2 * 8][within + k / 2 * 4] = f32_of_tf32(value(row, lane)).into();
                    }
                    for (k, &row) in self.right.iter().enumerate().take(of_right) {
                        right[within + 4 * k][group] = f32_of_tf32(value(row, lane)).into();
                    }
                } else {
                    for (k, &row) in self.left.iter().enumerate().take(of_left) {
                        let column = 2 * within + k / 2 * 8;
                        let [low, high] = self.pair(value(row, lane));
                        (left[group + k % 2 * 8][column], left[group + k % 2 * 8][column + 1]) = (low, high);
                    }
                    for (k, &row) in self.right.iter().enumerate().take(of_right) {
                        let [low, high] = self.pair(value(row, lane));
                        (right[2 * within + 8 * k][group], right[2 * within + 8 * k + 1][group]) = (low, high);
                    }
                }
                for (k, &row) in self.sums.iter().enumerate() {
                    sums[group + k / 2 * 8][2 * within + k % 2] = f32::from_bits(value(row, lane)).into();
                }
            }
            let words: Vec<u32> = if block.launch.counts {
                let rows = self.left[..of_left].iter().chain(&self.right[..of_right]);
                rows.flat_map(|&row| (0..32).map(move |lane| value(row, lane))).collect()
            } else {
                Vec::new()
            };
            if !words.is_empty() {
                block.counts.multiplies(block.place, &words);
            }
            for (sums, left) in sums.iter_mut().zip(&left) {
                for (left, right) in left.iter().zip(&right).take(self.depth) {
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum += left * right;
                    }
                }
            }
            for lane in 0..32 {
                let (group, within) = (lane / 4, lane % 4);
                for (k, &row) in self.to.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { *block.row::<f32>(row).add(first + lane) = sums[group + k / 2 * 8][2 * within + k % 2] as f32 };
                }
            }
        }
        Ok(())
    }
}
