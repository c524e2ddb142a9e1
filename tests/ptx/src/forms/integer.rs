//! Arithmetic of whole numbers. A division by zero gives what the hardware leaves open: all bits set, and as a remainder the
//! dividend.

use super::{Builder, Lowered};
use crate::parse::Instruction;

macro_rules! signed_and_unsigned {
    ($b:expr, $i:expr, $name:expr, $kind:expr, { $($word:literal $type:ident),* }) => {
        match ($name, $kind) {
            $(
                ("div", $word) => $b.map2($i, |a: $type, b: $type| if b == 0 { !0 } else { a.wrapping_div(b) }),
                ("rem", $word) => $b.map2($i, |a: $type, b: $type| if b == 0 { a } else { a.wrapping_rem(b) }),
                ("min", $word) => $b.map2($i, |a: $type, b: $type| a.min(b)),
                ("max", $word) => $b.map2($i, |a: $type, b: $type| a.max(b)),
            )*
            _ => Ok(None),
        }
    };
}

/// The low half of products and sums is the same for numbers with and without a sign.
macro_rules! of_width {
    ($b:expr, $i:expr, $words:expr, { $($unsigned:literal $signed:literal $type:ident $of_signed:ident),* }) => {
        match $words {
            $(
                ["add", $unsigned | $signed] => $b.map2($i, |a: $type, b: $type| a.wrapping_add(b)),
                ["sub", $unsigned | $signed] => $b.map2($i, |a: $type, b: $type| a.wrapping_sub(b)),
                ["mul", "lo", $unsigned | $signed] => $b.map2($i, |a: $type, b: $type| a.wrapping_mul(b)),
                ["mad", "lo", $unsigned | $signed] => $b.map3($i, |a: $type, b: $type, c: $type| a.wrapping_mul(b).wrapping_add(c)),
                ["neg", $signed] => $b.map1($i, |a: $type| a.wrapping_neg()),
                ["abs", $signed] => $b.map1($i, |a: $of_signed| a.wrapping_abs()),
            )*
            _ => Ok(None),
        }
    };
}

pub fn lower(b: &mut Builder, i: &Instruction, words: &[&str]) -> Lowered {
    match words {
        ["mul", "wide", "u16"] => b.map2(i, |a: u16, b: u16| u32::from(a) * u32::from(b)),
        ["mul", "wide", "s16"] => b.map2(i, |a: i16, b: i16| i32::from(a) * i32::from(b)),
        ["mul", "wide", "u32"] => b.map2(i, |a: u32, b: u32| u64::from(a) * u64::from(b)),
        ["mul", "wide", "s32"] => b.map2(i, |a: i32, b: i32| i64::from(a) * i64::from(b)),
        ["mad", "wide", "u16"] => b.map3(i, |a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c)),
        ["mad", "wide", "s16"] => b.map3(i, |a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c)),
        ["mad", "wide", "u32"] => b.map3(i, |a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c)),
        ["mad", "wide", "s32"] => b.map3(i, |a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c)),
        ["mul", "hi", "u32"] => b.map2(i, |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        ["mul", "hi", "s32"] => b.map2(i, |a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32),
        ["mul", "hi", "u64"] => b.map2(i, |a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        ["mul", "hi", "s64"] => b.map2(i, |a: i64, b: i64| ((i128::from(a) * i128::from(b)) >> 64) as i64),
        ["mad", "hi", "u32"] => b.map3(i, |a: u32, b: u32, c: u32| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)),
        [name @ ("div" | "rem" | "min" | "max"), kind] => signed_and_unsigned!(b, i, *name, *kind, {
            "u16" u16, "s16" i16, "u32" u32, "s32" i32, "u64" u64, "s64" i64
        }),
        words => of_width!(b, i, words, { "u16" "s16" u16 i16, "u32" "s32" u32 i32, "u64" "s64" u64 i64 }),
    }
}
