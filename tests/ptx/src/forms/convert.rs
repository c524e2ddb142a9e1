//! Moves and conversions.

use super::{Builder, Lowered};
use crate::block::Block;
use crate::code::{Effect, Lanes, Op, Row};
use crate::fault::Fault;
use crate::float::{bf16_of_f32, f16_of_f32, f32_of_bf16, f32_of_f16, tf32_of_f32};
use crate::global::SHARED_WINDOW;
use crate::parse::{Class, Instruction, Operand};
use anyhow::ensure;

pub fn lower(b: &mut Builder, i: &Instruction, words: &[&str]) -> Lowered {
    match (words, &i.operands[..]) {
        (["mov", "b32"], [Operand::Vector(to), from]) => unpack(b, to, from, Class::B16, Class::B32),
        (["mov", "b64"], [Operand::Vector(to), from]) => unpack(b, to, from, Class::B32, Class::B64),
        (["mov", "b32"], [_, Operand::Vector(from)]) => {
            pack(b, i, from, |b, i| b.map2(i, |low: u16, high: u16| u32::from(high) << 16 | u32::from(low)))
        }
        (["mov", "b64"], [_, Operand::Vector(from)]) => {
            pack(b, i, from, |b, i| b.map2(i, |low: u32, high: u32| u64::from(high) << 32 | u64::from(low)))
        }
        (["mov", "pred"], _) => b.map1(i, |a: u8| a),
        (["mov", "b16" | "u16" | "s16"], _) => b.map1(i, |a: u16| a),
        (["mov", "b32" | "u32" | "s32" | "f32"], _) => b.map1(i, |a: u32| a),
        (["mov", "b64" | "u64" | "s64" | "f64"], _) => b.map1(i, |a: u64| a),
        (["cvta", "to", "global", "u64"], [_, from]) => {
            b.used_as_address(from);
            b.map1(i, |a: u64| a)
        }
        (["cvta", "global", "u64"], _) => b.map1(i, |a: u64| a),
        (["cvta", "to", "shared", "u64"], _) => b.map1(i, |a: u64| a.wrapping_sub(SHARED_WINDOW)),
        (["cvta", "shared", "u64"], _) => b.map1(i, |a: u64| a.wrapping_add(SHARED_WINDOW)),
        (["cvt", rest @ ..], _) => convert(b, i, rest),
        _ => Ok(None),
    }
}

macro_rules! from_integer {
    ($b:expr, $i:expr, $to:expr, $type:ident, $read:ident) => {
        match $to {
            ["u16"] => $b.map1($i, |a: $read| a as $type as u16),
            ["s16"] => $b.map1($i, |a: $read| a as $type as i16),
            ["u32"] => $b.map1($i, |a: $read| a as $type as u32),
            ["s32"] => $b.map1($i, |a: $read| a as $type as i32),
            ["u64"] => $b.map1($i, |a: $read| a as $type as u64),
            ["s64"] => $b.map1($i, |a: $read| a as $type as i64),
            ["rn", "f32"] => $b.map1($i, |a: $read| a as $type as f32),
            ["rn", "f64"] => $b.map1($i, |a: $read| a as $type as f64),
            _ => Ok(None),
        }
    };
}

/// A float becomes a whole number: values beyond its range become the last one of it. What a NaN becomes is in the table of
/// `cvt`: zero if neither side has 64 bits, else the highest bit alone.
macro_rules! to_integer {
    ($b:expr, $i:expr, $round:ident, $to:expr, $from:ident) => {
        match $to {
            "u16" => $b.map1($i, |a: $from| if a.is_nan() { ((size_of::<$from>() == 8) as u16) << 15 } else { a.$round() as u16 }),
            "s16" => $b.map1($i, |a: $from| if a.is_nan() { ((size_of::<$from>() == 8) as i16) << 15 } else { a.$round() as i16 }),
            "u32" => $b.map1($i, |a: $from| if a.is_nan() { ((size_of::<$from>() == 8) as u32) << 31 } else { a.$round() as u32 }),
            "s32" => $b.map1($i, |a: $from| if a.is_nan() { ((size_of::<$from>() == 8) as i32) << 31 } else { a.$round() as i32 }),
            "u64" => $b.map1($i, |a: $from| if a.is_nan() { 1 << 63 } else { a.$round() as u64 }),
            "s64" => $b.map1($i, |a: $from| if a.is_nan() { i64::MIN } else { a.$round() as i64 }),
            _ => Ok(None),
        }
    };
}

macro_rules! rounded {
    ($b:expr, $i:expr, $round:expr, $to:expr, $from:ident) => {
        match $round {
            "rzi" => to_integer!($b, $i, trunc, $to, $from),
            "rni" => to_integer!($b, $i, round_ties_even, $to, $from),
            "rmi" => to_integer!($b, $i, floor, $to, $from),
            "rpi" => to_integer!($b, $i, ceil, $to, $from),
            _ => Ok(None),
        }
    };
}

macro_rules! whole_float {
    ($b:expr, $i:expr, $round:expr, $type:ident) => {
        match $round {
            "rzi" => $b.map1($i, |a: $type| a.trunc()),
            "rni" => $b.map1($i, |a: $type| a.round_ties_even()),
            "rmi" => $b.map1($i, |a: $type| a.floor()),
            "rpi" => $b.map1($i, |a: $type| a.ceil()),
            _ => Ok(None),
        }
    };
}

/// `cvt`, by the words behind it.
fn convert(b: &mut Builder, i: &Instruction, words: &[&str]) -> Lowered {
    match words {
        ["rn", "f32", "f64"] => b.map1(i, |a: f64| a as f32),
        ["f64", "f32"] => b.map1(i, |a: f32| f64::from(a)),
        // A NaN becomes 0.
        ["sat", "f32", "f32"] => b.map1(i, |a: f32| if a > 0.0 { a.min(1.0) } else { 0.0 }),
        ["sat", "f64", "f64"] => b.map1(i, |a: f64| if a > 0.0 { a.min(1.0) } else { 0.0 }),
        [round, "f32", "f32"] => whole_float!(b, i, *round, f32),
        [round, "f64", "f64"] => whole_float!(b, i, *round, f64),
        ["rn", "f16", "f32"] => b.map1(i, |a: f32| f16_of_f32(a, false)),
        ["rz", "f16", "f32"] => b.map1(i, |a: f32| f16_of_f32(a, true)),
        ["f32", "f16"] => b.map1(i, f32_of_f16),
        ["rn", "bf16", "f32"] => b.map1(i, |a: f32| bf16_of_f32(a, false)),
        ["rz", "bf16", "f32"] => b.map1(i, |a: f32| bf16_of_f32(a, true)),
        ["f32", "bf16"] => b.map1(i, f32_of_bf16),
        // The first source becomes the upper half.
        ["rn", "f16x2", "f32"] => b.map2(i, |a: f32, b: f32| u32::from(f16_of_f32(a, false)) << 16 | u32::from(f16_of_f32(b, false))),
        ["rz", "f16x2", "f32"] => b.map2(i, |a: f32, b: f32| u32::from(f16_of_f32(a, true)) << 16 | u32::from(f16_of_f32(b, true))),
        ["rn", "bf16x2", "f32"] => b.map2(i, |a: f32, b: f32| u32::from(bf16_of_f32(a, false)) << 16 | u32::from(bf16_of_f32(b, false))),
        ["rz", "bf16x2", "f32"] => b.map2(i, |a: f32, b: f32| u32::from(bf16_of_f32(a, true)) << 16 | u32::from(bf16_of_f32(b, true))),
        ["rna", "tf32", "f32"] => b.map1(i, tf32_of_f32),
        [round @ ("rzi" | "rni" | "rmi" | "rpi"), to, "f32"] => rounded!(b, i, *round, *to, f32),
        [round @ ("rzi" | "rni" | "rmi" | "rpi"), to, "f64"] => rounded!(b, i, *round, *to, f64),
        // Eight bits lie in registers of sixteen.
        [to @ .., "u8"] => from_integer!(b, i, to, u8, u16),
        [to @ .., "s8"] => from_integer!(b, i, to, i8, u16),
        [to @ .., "u16"] => from_integer!(b, i, to, u16, u16),
        [to @ .., "s16"] => from_integer!(b, i, to, i16, i16),
        [to @ .., "u32"] => from_integer!(b, i, to, u32, u32),
        [to @ .., "s32"] => from_integer!(b, i, to, i32, i32),
        [to @ .., "u64"] => from_integer!(b, i, to, u64, u64),
        [to @ .., "s64"] => from_integer!(b, i, to, i64, i64),
        _ => Ok(None),
    }
}

/// Two operands in braces become one register: the move as if they stood there by themselves.
fn pack(b: &mut Builder, i: &Instruction, from: &[Operand], lower: impl Fn(&mut Builder, &Instruction) -> Lowered) -> Lowered {
    ensure!(from.len() == 2, "{} operands in braces; expected 2", from.len());
    let operands = [&i.operands[..1], from].concat();
    let (line, text, words) = (i.line, i.text.clone(), i.words.clone());
    lower(b, &Instruction { line, text, guard: i.guard, words, operands })
}

fn unpack(b: &mut Builder, to: &[Operand], from: &Operand, half: Class, whole: Class) -> Lowered {
    ensure!(to.len() == 2, "{} registers in braces; expected 2", to.len());
    let to = [b.write(&to[0], half)?, b.write(&to[1], half)?];
    Ok(Some(Op::Effect(Box::new(Unpack { from: b.read(from, whole)?, to, is_wide: whole == Class::B64 }))))
}

/// The halves of a register, the lower one first.
struct Unpack {
    from: Row,
    to: [Row; 2],
    is_wide: bool,
}

impl Effect for Unpack {
    fn run(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        for &lane in lanes.list {
            let lane = usize::from(lane);
            // SAFETY: rows of the program, of these widths.
            unsafe {
                if self.is_wide {
                    let value = *block.row::<u64>(self.from).add(lane);
                    *block.row::<u32>(self.to[0]).add(lane) = value as u32;
                    *block.row::<u32>(self.to[1]).add(lane) = (value >> 32) as u32;
                } else {
                    let value = *block.row::<u32>(self.from).add(lane);
                    *block.row::<u16>(self.to[0]).add(lane) = value as u16;
                    *block.row::<u16>(self.to[1]).add(lane) = (value >> 16) as u16;
                }
            }
        }
        Ok(())
    }
}
