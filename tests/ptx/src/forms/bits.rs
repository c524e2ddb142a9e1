//! Logic and shifts.

use super::{Builder, Lowered};
use crate::code::Op;
use crate::lanewise;
use crate::parse::{Class, Instruction, Operand};
use anyhow::{Result, bail, ensure};

/// Places of a field of `bits` bits: all set from `position` on, `length` of them.
fn field(position: u32, length: u32, bits: u32) -> u64 {
    let (position, length) = (position & 255, length & 255);
    let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let all = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    if position >= bits { 0 } else { ones << position & all }
}

fn insert(a: u64, b: u64, position: u32, length: u32, bits: u32) -> u64 {
    let mask = field(position, length, bits);
    let shifted = if position & 255 >= bits { 0 } else { a << (position & 255) };
    b & !mask | shifted & mask
}

fn extract(a: u64, position: u32, length: u32, bits: u32) -> u64 {
    let (position, length) = (position & 255, length & 255);
    let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    if position >= bits { 0 } else { a >> position & ones }
}

/// Of a number with a sign, which fills what lies above the field.
fn extract_signed(a: i64, position: u32, length: u32, bits: u32) -> i64 {
    let (position, length) = (position & 255, length & 255);
    if length == 0 {
        return 0;
    }
    // The sign stands at the field's end, or at the number's.
    let end = (position + length).min(bits);
    if position >= bits {
        return if a < 0 { -1 } else { 0 };
    }
    a << (64 - end) >> (64 - end + position)
}

/// `prmt`: four bytes of the eight of a and b. A selector's upper bit asks for the sign of its byte.
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = |i: u32| {
        let nibble = selector >> (4 * i) & 15;
        let byte = bytes[nibble as usize & 7];
        u32::from(if nibble & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 }) << (8 * i)
    };
    pick(0) | pick(1) | pick(2) | pick(3)
}

fn look_up(a: u32, b: u32, c: u32, table: u32) -> u32 {
    (0..8).filter(|i| table >> i & 1 == 1).fold(0, |bits, i| {
        let [x, y, z] = [(a, 4), (b, 2), (c, 1)].map(|(value, bit)| if i & bit != 0 { value } else { !value });
        bits | x & y & z
    })
}

macro_rules! logic {
    ($b:expr, $i:expr, $name:expr, $type:ident) => {
        match $name {
            "and" => $b.map2($i, |a: $type, b: $type| a & b),
            "or" => $b.map2($i, |a: $type, b: $type| a | b),
            "xor" => $b.map2($i, |a: $type, b: $type| a ^ b),
            _ => Ok(None),
        }
    };
}

macro_rules! shift {
    ($b:expr, $i:expr, left $type:ident) => {
        $b.map2($i, |a: $type, by: u32| if by < $type::BITS { a << by } else { 0 })
    };
    ($b:expr, $i:expr, right $type:ident) => {
        $b.map2($i, |a: $type, by: u32| if by < $type::BITS { a >> by } else { 0 })
    };
    ($b:expr, $i:expr, signed $type:ident) => {
        $b.map2($i, |a: $type, by: u32| a >> by.min($type::BITS - 1))
    };
}

pub fn lower(b: &mut Builder, i: &Instruction, words: &[&str]) -> Lowered {
    match words {
        [name @ ("and" | "or" | "xor"), "pred"] => logic!(b, i, *name, u8),
        [name @ ("and" | "or" | "xor"), "b16"] => logic!(b, i, *name, u16),
        [name @ ("and" | "or" | "xor"), "b32"] => logic!(b, i, *name, u32),
        [name @ ("and" | "or" | "xor"), "b64"] => logic!(b, i, *name, u64),
        ["not", "pred"] => b.map1(i, |a: u8| a ^ 1),
        ["not", "b16"] => b.map1(i, |a: u16| !a),
        ["not", "b32"] => b.map1(i, |a: u32| !a),
        ["not", "b64"] => b.map1(i, |a: u64| !a),
        ["shl", "b16"] => shift!(b, i, left u16),
        ["shl", "b32"] => shift!(b, i, left u32),
        ["shl", "b64"] => shift!(b, i, left u64),
        ["shr", "b16" | "u16"] => shift!(b, i, right u16),
        ["shr", "b32" | "u32"] => shift!(b, i, right u32),
        ["shr", "b64" | "u64"] => shift!(b, i, right u64),
        ["shr", "s16"] => shift!(b, i, signed i16),
        ["shr", "s32"] => shift!(b, i, signed i32),
        ["shr", "s64"] => shift!(b, i, signed i64),
        ["bfe", "u32"] => b.map3(i, |a: u32, position: u32, length: u32| extract(a.into(), position, length, 32) as u32),
        ["bfe", "s32"] => b.map3(i, |a: i32, position: u32, length: u32| extract_signed(a.into(), position, length, 32) as i32),
        ["bfe", "u64"] => b.map3(i, |a: u64, position: u32, length: u32| extract(a, position, length, 64)),
        ["bfe", "s64"] => b.map3(i, |a: i64, position: u32, length: u32| extract_signed(a, position, length, 64)),
        ["bfi", "b32"] => b.map4(i, |a: u32, b: u32, position: u32, length: u32| insert(a.into(), b.into(), position, length, 32) as u32),
        ["bfi", "b64"] => b.map4(i, |a: u64, b: u64, position: u32, length: u32| insert(a, b, position, length, 64)),
        ["popc", "b32"] => b.map1(i, |a: u32| a.count_ones()),
        ["popc", "b64"] => b.map1(i, |a: u64| a.count_ones()),
        ["clz", "b32"] => b.map1(i, |a: u32| a.leading_zeros()),
        ["clz", "b64"] => b.map1(i, |a: u64| a.leading_zeros()),
        ["brev", "b32"] => b.map1(i, |a: u32| a.reverse_bits()),
        ["brev", "b64"] => b.map1(i, |a: u64| a.reverse_bits()),
        ["prmt", "b32"] => b.map3(i, permute),
        ["lop3", "b32"] => b.map4(i, look_up),
        ["shf", direction @ ("l" | "r"), mode @ ("wrap" | "clamp"), "b32"] => funnel(b, i, direction, mode).map(Some),
        _ => Ok(None),
    }
}

fn joined(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// A shift of the 64 bits of two operands, the lower half first.
fn funnel(b: &mut Builder, i: &Instruction, direction: &str, mode: &str) -> Result<Op> {
    let run = match (direction, mode) {
        ("l", "wrap") => lanewise::map3(|a: u32, b: u32, by: u32| (joined(a, b) << (by & 31) >> 32) as u32),
        ("l", "clamp") => lanewise::map3(|a: u32, b: u32, by: u32| (joined(a, b) << by.min(32) >> 32) as u32),
        ("r", "wrap") => lanewise::map3(|a: u32, b: u32, by: u32| (joined(a, b) >> (by & 31)) as u32),
        ("r", "clamp") => lanewise::map3(|a: u32, b: u32, by: u32| (joined(a, b) >> by.min(32)) as u32),
        _ => bail!("a shift of this kind"),
    };
    ensure!(!matches!(i.operands.first(), Some(Operand::Vector(_))), "a shift into several registers");
    match b.lanewise(i, run, Class::B32, &[Class::B32; 3])? {
        Some(op) => Ok(op),
        None => bail!("a shift of this kind"),
    }
}
