//! What the inner loops of the hot kernels are made of, from the machine code: a share of multiply-adds, loads of 16 bytes,
//! and no local memory. The instructions of sm_75, sm_80 and sm_90 are told apart by their bits, so no tool is needed.
//!
//! Source: the encodings that nvdisasm prints for these architectures (16 bytes an instruction, the operation in the low
//! 12 bits); `scripts/kernel-inner-loops.py` does the same with nvdisasm's text.

use std::ops::RangeInclusive;

use crate::cubin;
use epicker::device::gpu::images::{Capability, Choice, Images};
use epicker::device::gpu::predict::INNER_LOOPS;

/// The least part of the loads from shared memory that take 16 bytes, in percent, of a kernel whose source has no others. It is
/// one in 25 short of all, because NVRTC's machine code depends a little on where its memory lies, and not every system lets
/// the build fix that (build/apart.rs). Of 24 compilations of every file with random addresses, some had one further load of 4
/// bytes in the inner loop of `conv_weights_128x32`, and so had one of `deform_conv_backward_samples_64x64` on another machine: one
/// more among 336 instructions. Everything else in the table was the same in all of them.
const WIDE: usize = 95;

/// (kernel, least share of multiply-adds in percent, least part of the loads from shared memory that take 16 bytes).
const HOT: [(&str, usize, usize); 16] = [
    ("conv_windows_128x64", 80, WIDE),
    ("conv_windows_64x64", 75, WIDE),
    ("conv_windows_128x32", 75, WIDE),
    ("conv_windows_256x16", 70, WIDE),
    ("conv_windows_any_128x64", 70, WIDE),
    ("conv_windows_7x7", 85, 90),
    ("conv_weights_128x64", 80, WIDE),
    ("conv_weights_128x32", 70, WIDE),
    ("conv_weights_to_any_128x32", 70, WIDE),
    ("conv_weights_7x7", 75, 80),
    ("deform_conv_forward_64x64", 70, WIDE),
    // Their loop goes over all taps, so it holds where the next tap is sampled, too; a round of it in ci / 8 does that.
    ("deform_conv_forward_128x32", 45, WIDE),
    ("deform_conv_forward_128x16", 33, WIDE),
    ("deform_conv_backward_samples_64x64", 70, WIDE),
    ("deform_conv_weights_64x64", 70, 85),
    ("preprocess_product", 70, WIDE),
];

/// Architectures whose instructions this file reads.
const ARCHS: [u32; 3] = [75, 80, 90];

/// One instruction: 16 bytes.
#[derive(Clone, Copy)]
struct Instruction {
    low: u64,
    high: u64,
}

impl Instruction {
    /// The operation, whatever kind of operands it has.
    fn operation(self) -> u64 {
        self.low & 0x1ff
    }
    fn is_multiply_add(self) -> bool {
        self.operation() == 0x023 // FFMA
    }
    fn is_shared_load(self) -> bool {
        self.operation() == 0x184 // LDS
    }
    fn is_global_load(self) -> bool {
        self.operation() == 0x181 // LDG
    }
    fn is_local(self) -> bool {
        self.operation() == 0x183 || self.operation() == 0x187 // LDL, STL
    }
    fn is_matrix_product(self) -> bool {
        self.operation() == 0x03c // HMMA
    }
    fn is_matrix_load(self) -> bool {
        self.operation() == 0x03b // LDSM
    }
    fn is_nothing(self) -> bool {
        self.operation() == 0x118 // NOP
    }
    fn takes_16_bytes(self) -> bool {
        self.high >> 9 & 7 == 6
    }

    /// Where a branch goes, in instructions from the next one; none if it is no branch.
    fn branch(self, arch: u32) -> Option<i64> {
        if self.low & 0xfff != 0x947 {
            return None; // BRA
        }
        // Bits 34 to 81 count fours of bytes; from 9.0 on they count 256 of these, and bits 16 to 23 the rest.
        let field = (u128::from(self.high) << 64 | u128::from(self.low)) >> 34;
        let upper = ((field as u64) << 16).cast_signed() >> 16; // 48 bits with their sign
        let fours = if arch >= 90 { upper << 8 | (self.low >> 16 & 0xff) as i64 } else { upper };
        Some(fours * 4 / 16)
    }
}

fn instructions(code: &[u8]) -> Vec<Instruction> {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    code.chunks_exact(16).map(|bytes| Instruction { low: word(&bytes[..8]), high: word(&bytes[8..]) }).collect()
}

/// Of the loops that hold no other loop of multiply-adds, the one with the most: from a branch's target to the branch.
fn inner_loop(code: &[Instruction], arch: u32) -> Option<RangeInclusive<usize>> {
    const WORTH_A_LINE: usize = 32;
    let count = |range: &RangeInclusive<usize>| code[range.clone()].iter().filter(|i| i.is_multiply_add()).count();
    let mut loops = Vec::new();
    for (at, instruction) in code.iter().enumerate() {
        let target = instruction.branch(arch).map(|distance| at as i64 + 1 + distance);
        if let Some(start) = target.and_then(|target| usize::try_from(target).ok()).filter(|start| *start <= at) {
            loops.push(start..=at);
        }
    }
    loops.retain(|range| count(range) >= WORTH_A_LINE);
    let holds = |a: &RangeInclusive<usize>, b: &RangeInclusive<usize>| a != b && a.contains(b.start()) && a.contains(b.end());
    let inner = loops.iter().filter(|a| !loops.iter().any(|b| holds(a, b)));
    inner.max_by_key(|range| count(range)).cloned()
}

#[test]
fn hot_kernels_multiply_and_add_in_their_inner_loops() {
    let images = Images::of_program().unwrap();
    let mut broken = Vec::new();
    let mut found = Vec::new();
    println!("| sm | kernel | instructions | multiply-adds | share | global loads (16 bytes) | shared loads (16 bytes) |");
    for arch in images.cubin_archs().into_iter().filter(|arch| ARCHS.contains(arch)) {
        for (_, bytes) in images.load(Choice::Cubin(arch), Capability { major: arch / 10, minor: arch % 10 }).unwrap() {
            for kernel in cubin::kernels(&bytes).unwrap() {
                let code = instructions(&bytes[kernel.code.clone()]);
                let Some(range) = inner_loop(&code, arch) else { continue };
                let body: Vec<Instruction> = code[range].iter().copied().filter(|i| !i.is_nothing()).collect();
                let count = |is: fn(Instruction) -> bool| body.iter().filter(|i| is(**i)).count();
                let wide = |is: fn(Instruction) -> bool| body.iter().filter(|i| is(**i) && i.takes_16_bytes()).count();
                let (multiplied, shared) = (count(Instruction::is_multiply_add), count(Instruction::is_shared_load));
                let (share, wide_shared) = (100 * multiplied / body.len(), wide(Instruction::is_shared_load));
                let (global, wide_global) = (count(Instruction::is_global_load), wide(Instruction::is_global_load));
                let (name, length) = (&kernel.name, body.len());
                println!("| {arch} | {name} | {length} | {multiplied} | {share} % | {global} ({wide_global}) | {shared} ({wide_shared}) |");
                let Some((_, least, least_wide)) = HOT.iter().find(|(hot, ..)| hot == name) else { continue };
                found.push((arch, name.clone()));
                let told = INNER_LOOPS.iter().find(|(told, _)| told == name).map(|(_, percent)| *percent as usize);
                if told.is_some_and(|told| told.abs_diff(share) > 2) {
                    broken.push(format!("{name}, sm_{arch}: {share} % multiply-adds; predict.rs says {told:?}"));
                }
                if share < *least || wide_shared * 100 < least_wide * shared || shared == 0 || count(Instruction::is_local) > 0 {
                    broken.push(format!("{name}, sm_{arch}: {share} % multiply-adds, {wide_shared} of {shared} shared loads by 16 bytes"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let archs = images.cubin_archs().into_iter().filter(|arch| ARCHS.contains(arch)).count();
    assert_eq!(found.len(), archs * HOT.len(), "hot kernels with an inner loop: {found:?}");
}

/// Of each kernel for tensor cores, the products of a round of its loop, by each warp: (pieces of rows, pieces of columns, depth / 8).
const ON_TENSOR_CORES: [(&str, [usize; 3]); 7] = [
    ("conv_windows_tf32_128x64", [4, 4, 2]),
    ("conv_windows_tf32_64x64", [2, 4, 2]),
    ("conv_windows_tf32_128x32", [2, 4, 2]),
    ("conv_windows_tf32_128x16", [2, 2, 2]),
    ("deform_conv_forward_tf32_128x64", [4, 4, 1]),
    ("deform_conv_forward_tf32_128x32", [2, 4, 1]),
    ("deform_conv_forward_tf32_128x16", [2, 2, 1]),
];

#[test]
fn kernels_for_tensor_cores_use_them() {
    let images = Images::of_program().unwrap();
    for arch in images.cubin_archs().into_iter().filter(|arch| [80, 90].contains(arch)) {
        let mut found = 0;
        for (_, bytes) in images.load(Choice::Cubin(arch), Capability { major: arch / 10, minor: arch % 10 }).unwrap() {
            for kernel in cubin::kernels(&bytes).unwrap() {
                let Some((name, [rows, columns, depth])) = ON_TENSOR_CORES.iter().find(|(name, _)| *name == kernel.name) else { continue };
                let code = instructions(&bytes[kernel.code.clone()]);
                let count = |is: fn(Instruction) -> bool| code.iter().filter(|i| is(**i)).count();
                let wide = code.iter().filter(|i| i.is_global_load() && i.takes_16_bytes()).count();
                println!(
                    "{arch} {name}: {} HMMA, {} LDSM, {wide} of {} LDG by 16 bytes",
                    count(Instruction::is_matrix_product),
                    count(Instruction::is_matrix_load),
                    count(Instruction::is_global_load)
                );
                assert_eq!(count(Instruction::is_matrix_product), rows * columns * depth, "{name}, sm_{arch}: products");
                assert_eq!(count(Instruction::is_matrix_load), rows * depth, "{name}, sm_{arch}: loads of pieces");
                assert!(wide >= 4 && count(Instruction::is_local) == 0, "{name}, sm_{arch}: loads by 16 bytes, local memory");
                found += 1;
            }
        }
        assert_eq!(found, ON_TENSOR_CORES.len(), "sm_{arch}");
    }
}

#[test]
fn branches_and_widths_are_read_as_nvdisasm_reads_them() {
    let instruction = |low, high| Instruction { low, high };
    // 0x06d0: @P2 BRA 0x1b0, on sm_80; BRA to itself, on sm_80 and on sm_90; LDG.E.CONSTANT R27, [R26.64]
    assert_eq!(instruction(0xfffffad000002947, 0x000fea000383ffff).branch(80), Some(-0x53));
    assert_eq!(instruction(0xfffffff000007947, 0x000fc0000383ffff).branch(80), Some(-1));
    assert_eq!(instruction(0xfffffffc00fc7947, 0x000fc0000383ffff).branch(90), Some(-1));
    let load = instruction(0x000000081a1b7981, 0x0000a2000c1e9900);
    assert!(load.is_global_load() && !load.takes_16_bytes() && load.branch(80).is_none());
}
