//! Arithmetic of floats. Where a word says how to round, that is exact; `.approx` is computed in f64 and rounded once, which is
//! nearer than the hardware comes. `add` and `mul` without a word may be fused by the assembler; here they are rounded to
//! nearest.

use super::{Builder, Lowered};
use crate::float::{Round, add_f32, flushed, fma_f32, max_f32, max_f64, min_f32, min_f64, mul_f32, reciprocal_of_upper};
use crate::parse::Instruction;

/// An approximation, computed in f64.
macro_rules! approximate {
    ($b:expr, $i:expr, $flush:expr, $f:expr) => {
        match $flush {
            true => $b.map1($i, |a: f32| flushed(($f)(f64::from(flushed(a))) as f32)),
            false => $b.map1($i, |a: f32| ($f)(f64::from(a)) as f32),
        }
    };
}

pub fn lower(b: &mut Builder, i: &Instruction, words: &[&str]) -> Lowered {
    match words {
        ["add", "f32"] | ["add", "rn", "f32"] => b.map2(i, |a: f32, b: f32| a + b),
        ["add", "rm", "f32"] => b.map2(i, |a: f32, b: f32| add_f32(a, b, Round::Down)),
        ["add", "rp", "f32"] => b.map2(i, |a: f32, b: f32| add_f32(a, b, Round::Up)),
        ["add", "rz", "f32"] => b.map2(i, |a: f32, b: f32| add_f32(a, b, Round::Zero)),
        ["sub", "f32"] | ["sub", "rn", "f32"] => b.map2(i, |a: f32, b: f32| a - b),
        ["sub", "rm", "f32"] => b.map2(i, |a: f32, b: f32| add_f32(a, -b, Round::Down)),
        ["sub", "rp", "f32"] => b.map2(i, |a: f32, b: f32| add_f32(a, -b, Round::Up)),
        ["sub", "rz", "f32"] => b.map2(i, |a: f32, b: f32| add_f32(a, -b, Round::Zero)),
        ["mul", "f32"] | ["mul", "rn", "f32"] => b.map2(i, |a: f32, b: f32| a * b),
        ["mul", "rm", "f32"] => b.map2(i, |a: f32, b: f32| mul_f32(a, b, Round::Down)),
        ["mul", "rp", "f32"] => b.map2(i, |a: f32, b: f32| mul_f32(a, b, Round::Up)),
        ["mul", "rz", "f32"] => b.map2(i, |a: f32, b: f32| mul_f32(a, b, Round::Zero)),
        ["fma", "rn", "f32"] => b.map3(i, |a: f32, b: f32, c: f32| a.mul_add(b, c)),
        ["fma", "rm", "f32"] => b.map3(i, |a: f32, b: f32, c: f32| fma_f32(a, b, c, Round::Down)),
        ["fma", "rp", "f32"] => b.map3(i, |a: f32, b: f32, c: f32| fma_f32(a, b, c, Round::Up)),
        ["fma", "rz", "f32"] => b.map3(i, |a: f32, b: f32, c: f32| fma_f32(a, b, c, Round::Zero)),
        ["div", "rn", "f32"] => b.map2(i, |a: f32, b: f32| a / b),
        ["div", "approx" | "full", "f32"] => b.map2(i, |a: f32, b: f32| a / b),
        ["div", "approx" | "full", "ftz", "f32"] => b.map2(i, |a: f32, b: f32| flushed(flushed(a) / flushed(b))),
        ["rcp", "rn", "f32"] => b.map1(i, |a: f32| 1.0 / a),
        ["sqrt", "rn", "f32"] => b.map1(i, |a: f32| a.sqrt()),
        ["rcp", "approx", rest @ .., "f32"] if is_flush(rest) => approximate!(b, i, !rest.is_empty(), |a: f64| 1.0 / a),
        ["sqrt", "approx", rest @ .., "f32"] if is_flush(rest) => approximate!(b, i, !rest.is_empty(), |a: f64| a.sqrt()),
        ["rsqrt", "approx", rest @ .., "f32"] if is_flush(rest) => approximate!(b, i, !rest.is_empty(), |a: f64| 1.0 / a.sqrt()),
        ["ex2", "approx", rest @ .., "f32"] if is_flush(rest) => approximate!(b, i, !rest.is_empty(), |a: f64| a.exp2()),
        ["lg2", "approx", rest @ .., "f32"] if is_flush(rest) => approximate!(b, i, !rest.is_empty(), |a: f64| a.log2()),
        ["neg", "f32"] => b.map1(i, |a: f32| -a),
        ["abs", "f32"] => b.map1(i, |a: f32| a.abs()),
        ["min", "f32"] => b.map2(i, min_f32),
        ["max", "f32"] => b.map2(i, max_f32),

        ["add", "f64"] | ["add", "rn", "f64"] => b.map2(i, |a: f64, b: f64| a + b),
        ["sub", "f64"] | ["sub", "rn", "f64"] => b.map2(i, |a: f64, b: f64| a - b),
        ["mul", "f64"] | ["mul", "rn", "f64"] => b.map2(i, |a: f64, b: f64| a * b),
        ["fma", "rn", "f64"] => b.map3(i, |a: f64, b: f64, c: f64| a.mul_add(b, c)),
        ["div", "rn", "f64"] => b.map2(i, |a: f64, b: f64| a / b),
        ["rcp", "rn", "f64"] => b.map1(i, |a: f64| 1.0 / a),
        ["rcp", "approx", "ftz", "f64"] => b.map1(i, reciprocal_of_upper),
        ["sqrt", "rn", "f64"] => b.map1(i, |a: f64| a.sqrt()),
        ["neg", "f64"] => b.map1(i, |a: f64| -a),
        ["abs", "f64"] => b.map1(i, |a: f64| a.abs()),
        ["min", "f64"] => b.map2(i, min_f64),
        ["max", "f64"] => b.map2(i, max_f64),
        _ => Ok(None),
    }
}

/// Nothing, or the word for flushing subnormal values.
fn is_flush(words: &[&str]) -> bool {
    matches!(words, [] | ["ftz"])
}
