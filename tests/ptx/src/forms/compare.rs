//! Comparisons, and choices by them.

use super::{Builder, Lowered};
use crate::parse::Instruction;

/// Comparisons of whole numbers; `lo`, `ls`, `hi`, `hs` are those without a sign by other names.
macro_rules! of_integers {
    ($b:expr, $i:expr, $comparison:expr, $type:ident) => {
        match $comparison {
            "eq" => $b.map2($i, |a: $type, b: $type| u8::from(a == b)),
            "ne" => $b.map2($i, |a: $type, b: $type| u8::from(a != b)),
            "lt" | "lo" => $b.map2($i, |a: $type, b: $type| u8::from(a < b)),
            "le" | "ls" => $b.map2($i, |a: $type, b: $type| u8::from(a <= b)),
            "gt" | "hi" => $b.map2($i, |a: $type, b: $type| u8::from(a > b)),
            "ge" | "hs" => $b.map2($i, |a: $type, b: $type| u8::from(a >= b)),
            _ => Ok(None),
        }
    };
}

/// Comparisons of floats: with a NaN the plain ones are false, and those that end in u are true.
macro_rules! of_floats {
    ($b:expr, $i:expr, $comparison:expr, $type:ident) => {
        match $comparison {
            "eq" => $b.map2($i, |a: $type, b: $type| u8::from(a == b)),
            "ne" => $b.map2($i, |a: $type, b: $type| u8::from(a != b) & u8::from(!a.is_nan() & !b.is_nan())),
            "lt" => $b.map2($i, |a: $type, b: $type| u8::from(a < b)),
            "le" => $b.map2($i, |a: $type, b: $type| u8::from(a <= b)),
            "gt" => $b.map2($i, |a: $type, b: $type| u8::from(a > b)),
            "ge" => $b.map2($i, |a: $type, b: $type| u8::from(a >= b)),
            "equ" => $b.map2($i, |a: $type, b: $type| u8::from(a == b) | u8::from(a.is_nan() | b.is_nan())),
            "neu" => $b.map2($i, |a: $type, b: $type| u8::from(a != b)),
            "ltu" => $b.map2($i, |a: $type, b: $type| 1 - u8::from(a >= b)),
            "leu" => $b.map2($i, |a: $type, b: $type| 1 - u8::from(a > b)),
            "gtu" => $b.map2($i, |a: $type, b: $type| 1 - u8::from(a <= b)),
            "geu" => $b.map2($i, |a: $type, b: $type| 1 - u8::from(a < b)),
            "num" => $b.map2($i, |a: $type, b: $type| u8::from(!a.is_nan() && !b.is_nan())),
            "nan" => $b.map2($i, |a: $type, b: $type| u8::from(a.is_nan() || b.is_nan())),
            _ => Ok(None),
        }
    };
}

pub fn lower(b: &mut Builder, i: &Instruction, words: &[&str]) -> Lowered {
    match words {
        ["setp", comparison @ ("eq" | "ne"), "b16"] => of_integers!(b, i, *comparison, u16),
        ["setp", comparison @ ("eq" | "ne"), "b32"] => of_integers!(b, i, *comparison, u32),
        ["setp", comparison @ ("eq" | "ne"), "b64"] => of_integers!(b, i, *comparison, u64),
        ["setp", comparison, "u16"] => of_integers!(b, i, *comparison, u16),
        ["setp", comparison, "u32"] => of_integers!(b, i, *comparison, u32),
        ["setp", comparison, "u64"] => of_integers!(b, i, *comparison, u64),
        ["setp", "lo" | "ls" | "hi" | "hs", _] => Ok(None),
        ["setp", comparison, "s16"] => of_integers!(b, i, *comparison, i16),
        ["setp", comparison, "s32"] => of_integers!(b, i, *comparison, i32),
        ["setp", comparison, "s64"] => of_integers!(b, i, *comparison, i64),
        ["setp", comparison, "f32"] => of_floats!(b, i, *comparison, f32),
        ["setp", comparison, "f64"] => of_floats!(b, i, *comparison, f64),
        ["selp", "b16" | "u16" | "s16"] => b.map3(i, |a: u16, b: u16, first: u8| if first != 0 { a } else { b }),
        ["selp", "b32" | "u32" | "s32" | "f32"] => b.map3(i, |a: u32, b: u32, first: u8| if first != 0 { a } else { b }),
        ["selp", "b64" | "u64" | "s64" | "f64"] => b.map3(i, |a: u64, b: u64, first: u8| if first != 0 { a } else { b }),
        _ => Ok(None),
    }
}
