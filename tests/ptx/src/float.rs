//! Arithmetic that Rust does not have: sums and products rounded in a direction, short floats, and the approximations of the
//! hardware.

/// A direction of rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To minus infinity.
    Down,
    /// To plus infinity.
    Up,
    /// To zero.
    Zero,
}

/// a * b + c, rounded once in a direction.
///
/// The product of two f32 is exact in f64, and so is its sum with a third one if what the addition lost is kept beside it.
#[inline]
pub fn fma_f32(a: f32, b: f32, c: f32, round: Round) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    if !sum.is_finite() {
        return sum as f32;
    }
    let part = sum - product;
    let lost = (product - (sum - part)) + (c - part);
    if sum == 0.0 && lost == 0.0 {
        // Zeros of one sign keep it; where two values cancel, the direction decides.
        let same = product.is_sign_negative() == c.is_sign_negative();
        let negative = if same { c.is_sign_negative() } else { round == Round::Down };
        return if negative { -0.0 } else { 0.0 };
    }
    let nearest = sum as f32;
    // Both differences are exact: the first is a multiple of the last place of `sum`, the second is smaller than that.
    let over = sum - f64::from(nearest);
    let exact_is_less = over < 0.0 || over == 0.0 && lost < 0.0;
    let exact_is_more = over > 0.0 || over == 0.0 && lost > 0.0;
    match round {
        Round::Down if exact_is_less => nearest.next_down(),
        Round::Up if exact_is_more => nearest.next_up(),
        Round::Zero if exact_is_less && nearest > 0.0 => nearest.next_down(),
        Round::Zero if exact_is_more && nearest < 0.0 => nearest.next_up(),
        _ => nearest,
    }
}

/// a + b, rounded in a direction.
#[inline]
pub fn add_f32(a: f32, b: f32, round: Round) -> f32 {
    fma_f32(a, 1.0, b, round)
}

/// a * b, rounded in a direction.
#[inline]
pub fn mul_f32(a: f32, b: f32, round: Round) -> f32 {
    // A zero of the product's sign changes nothing.
    let zero = if a.is_sign_negative() != b.is_sign_negative() { -0.0 } else { 0.0 };
    fma_f32(a, b, zero, round)
}

/// The float that the bits of a half stand for. Source: IEEE 754, binary16.
#[inline]
pub fn f32_of_f16(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let rest = u32::from(half & 0x7fff) << 13;
    // The exponent is moved by a product, which makes subnormal halves normal; infinity and NaN keep theirs.
    let magnitude = if rest >= 0x7c00 << 13 { rest | 0x7f80_0000 } else { (f32::from_bits(rest) * f32::from_bits(0x7780_0000)).to_bits() };
    f32::from_bits(magnitude | sign)
}

/// The half that is nearest, or to zero. A NaN becomes 0x7fff.
#[inline]
pub fn f16_of_f32(value: f32, to_zero: bool) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return 0x7fff;
    }
    if magnitude == 0x7f80_0000 {
        return sign | 0x7c00;
    }
    // In units of the last place of the half: 2^-24 for subnormal ones.
    let exponent = (magnitude >> 23) as i32 - 127;
    let shift = if exponent < -14 { 13 + (-14 - exponent) } else { 13 };
    if shift > 24 + 1 {
        return sign;
    }
    let fraction = u64::from(magnitude & 0x7f_ffff) | if exponent < -126 { 0 } else { 1 << 23 };
    let (kept, lost) = (fraction >> shift, fraction & ((1 << shift) - 1));
    let half = 1_u64 << (shift - 1);
    let up = !to_zero && (lost > half || lost == half && kept & 1 == 1);
    // A normal half's leading one is the lowest bit of its exponent.
    let base = if exponent < -14 { 0 } else { ((exponent + 14) as u64) << 10 };
    let rounded = base + kept + u64::from(up);
    let most = if to_zero { 0x7bff } else { 0x7c00 };
    sign | rounded.min(most) as u16
}

/// The float that the bits of a bf16 stand for.
#[inline]
pub fn f32_of_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bf16 that is nearest, or to zero. A NaN becomes 0x7fff.
#[inline]
pub fn bf16_of_f32(value: f32, to_zero: bool) -> u16 {
    if value.is_nan() {
        return 0x7fff;
    }
    let bits = value.to_bits();
    let up = if to_zero { 0 } else { 0x7fff + (bits >> 16 & 1) };
    (bits.wrapping_add(up) >> 16) as u16
}

/// The value of 19 bits that is nearest, halves away from zero, as its 32 bits. A NaN becomes 0x7fffffff.
#[inline]
pub fn tf32_of_f32(value: f32) -> u32 {
    if value.is_nan() {
        return 0x7fff_ffff;
    }
    let bits = value.to_bits();
    if value.is_infinite() { bits } else { bits.wrapping_add(0x1000) & !0x1fff }
}

/// What a multiplication of matrices takes of a 32-bit value: its upper 19 bits.
#[inline]
pub fn f32_of_tf32(bits: u32) -> f32 {
    f32::from_bits(bits & !0x1fff)
}

/// A subnormal value becomes a zero of its sign.
#[inline]
pub fn flushed(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE { 0.0_f32.copysign(value) } else { value }
}

/// `rcp.approx.ftz.f64`: the upper half of the reciprocal of the upper half, from which code refines the quotient.
#[inline]
pub fn reciprocal_of_upper(value: f64) -> f64 {
    let upper = |value: f64| f64::from_bits(value.to_bits() & !0xffff_ffff);
    let flushed = |value: f64| if value.abs() < f64::MIN_POSITIVE { 0.0_f64.copysign(value) } else { value };
    upper(flushed(1.0 / flushed(upper(value))))
}

/// The smaller value: of a number and a NaN the number, of two zeros the negative one.
#[inline]
pub fn min_f32(a: f32, b: f32) -> f32 {
    let less = a < b || b.is_nan() || a == b && a.is_sign_negative();
    if less { a } else { b }
}

/// The larger value, by the same rules.
#[inline]
pub fn max_f32(a: f32, b: f32) -> f32 {
    let more = a > b || b.is_nan() || a == b && a.is_sign_positive();
    if more { a } else { b }
}

/// As `min_f32`.
#[inline]
pub fn min_f64(a: f64, b: f64) -> f64 {
    let less = a < b || b.is_nan() || a == b && a.is_sign_negative();
    if less { a } else { b }
}

/// As `max_f32`.
#[inline]
pub fn max_f64(a: f64, b: f64) -> f64 {
    let more = a > b || b.is_nan() || a == b && a.is_sign_positive();
    if more { a } else { b }
}
