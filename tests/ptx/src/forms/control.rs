//! Where threads go, and where they wait.

use super::{Builder, Lowered};
use crate::code::Op;
use crate::parse::{Instruction, Operand};
use anyhow::{bail, ensure};

pub fn lower(b: &mut Builder, i: &Instruction, words: &[&str]) -> Lowered {
    match (words, &i.operands[..]) {
        (["bra"], [Operand::Target(place)]) => Ok(Some(Op::Branch(*place as u32))),
        (["bra", "uni"], [Operand::Target(place)]) => Ok(Some(Op::Branch(*place as u32))),
        // All barriers are one: two of different numbers at once would be a divergence, and are reported as such.
        (["bar", "sync"], [Operand::Integer(0..16)]) => Ok(Some(Op::Barrier)),
        (["bar", "warp", "sync"], [Operand::Integer(mask)]) => {
            ensure!(*mask == -1 || *mask == 0xffff_ffff, "a barrier of a part of a warp");
            Ok(Some(Op::WarpBarrier))
        }
        (["bar", "warp", "sync"], [operand @ Operand::Register(_)]) => {
            bail!("a barrier whose mask {:?} is known only at run time", b.class_of(operand))
        }
        (["ret"] | ["exit"], []) => Ok(Some(Op::Return)),
        _ => Ok(None),
    }
}
