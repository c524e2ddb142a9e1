//! Short floats, and floats that are rounded in a direction.

use ptxgpu::float::{
    Round, add_f32, bf16_of_f32, f16_of_f32, f32_of_f16, fma_f32, max_f32, max_f64, min_f32, min_f64, mul_f32, tf32_of_f32,
};

#[test]
fn halves_go_there_and_back() {
    for bits in 0..=u16::MAX {
        let value = f32_of_f16(bits);
        let exponent = bits >> 10 & 31;
        let fraction = f64::from(bits & 1023);
        if exponent == 31 {
            assert_eq!((value.is_nan(), value.is_infinite()), (fraction != 0.0, fraction == 0.0));
            continue;
        }
        let scale = 2_f64.powi(i32::from(exponent.max(1)) - 25);
        let exact = scale * (fraction + if exponent > 0 { 1024.0 } else { 0.0 });
        assert_eq!(f64::from(value.abs()), exact);
        assert_eq!(f16_of_f32(value, false), bits);
        assert_eq!(f16_of_f32(value, true), bits);
    }
}

#[test]
fn a_half_is_the_nearest_one_with_ties_to_even() {
    for bits in 0..0x7bff_u16 {
        let [low, high] = [bits, bits + 1].map(f32_of_f16);
        let middle = (f64::from(low) + f64::from(high)) / 2.0;
        let middle = middle as f32;
        assert_eq!(f16_of_f32(middle, false), bits + (bits & 1), "{bits}");
        assert_eq!(f16_of_f32(middle.next_down(), false), bits, "{bits}");
        assert_eq!(f16_of_f32(middle.next_up(), false), bits + 1, "{bits}");
        assert_eq!(f16_of_f32(-high.next_down(), true), bits | 0x8000, "{bits}");
    }
    assert_eq!([65519.9, 65520.0, 1e9].map(|x| f16_of_f32(x, false)), [0x7bff, 0x7c00, 0x7c00]);
    assert_eq!([65520.0, f32::INFINITY, f32::NAN].map(|x| f16_of_f32(x, true)), [0x7bff, 0x7c00, 0x7fff]);
    assert_eq!(f16_of_f32(2.0_f32.powi(-25), false), 0);
    assert_eq!(f16_of_f32(2.0_f32.powi(-25).next_up(), false), 1);
}

#[test]
fn other_short_floats_are_rounded_as_the_isa_says() {
    assert_eq!(bf16_of_f32(1.0 + 1.0 / 256.0, false), 0x3f80); // half a place: to even
    assert_eq!(bf16_of_f32(1.0 + 3.0 / 256.0, false), 0x3f82);
    assert_eq!(bf16_of_f32(1.0 + 3.0 / 256.0, true), 0x3f81);
    assert_eq!(tf32_of_f32(1.0 + 1.0 / 2048.0), (1.0 + 1.0 / 1024.0_f32).to_bits()); // half a place: away from zero
    assert_eq!(tf32_of_f32(-1.0 - 1.0 / 4096.0), (-1.0_f32).to_bits());
}

#[test]
fn a_direction_of_rounding_brackets_the_exact_value() {
    let values = [0.0, -0.0, 1.0, -1.5, 3.1e-39, 1e-45, 16_777_215.0, f32::MAX, -0.1, 7.3e20, 1.0 + f32::EPSILON];
    for a in values {
        for b in values {
            for c in values {
                let nearest = a.mul_add(b, c);
                let [down, up, zero] = [Round::Down, Round::Up, Round::Zero].map(|round| fma_f32(a, b, c, round));
                if nearest.is_infinite() {
                    assert!(down == f32::MAX || up == f32::MIN, "{a} {b} {c}: {down} {up}");
                    continue;
                }
                assert!(down <= nearest && nearest <= up && (nearest == down || nearest == up), "{a} {b} {c}: {down} {nearest} {up}");
                assert!(up == down || up == down.next_up(), "{a} {b} {c}: {down} {up}");
                assert_eq!(zero, if nearest > 0.0 || down >= 0.0 { down } else { up }, "{a} {b} {c}");
            }
        }
    }
    assert_eq!(fma_f32(0.1, 10.0, -1.0, Round::Down), 0.1_f32.mul_add(10.0, -1.0));
    assert_eq!(add_f32(1.0, 1e-30, Round::Up), 1.0 + f32::EPSILON);
    assert_eq!(add_f32(1.0, -1e-30, Round::Zero), 1.0_f32.next_down());
    assert_eq!(add_f32(1.0, -1.0, Round::Down).to_bits(), (-0.0_f32).to_bits());
    assert_eq!(mul_f32(-0.0, 3.0, Round::Up).to_bits(), (-0.0_f32).to_bits());
}

#[test]
fn smaller_and_larger_prefer_numbers_and_know_zeros_apart() {
    assert_eq!(min_f32(f32::NAN, 2.0), 2.0);
    assert_eq!(max_f32(2.0, f32::NAN), 2.0);
    assert_eq!(min_f32(0.0, -0.0).to_bits(), (-0.0_f32).to_bits());
    assert_eq!(max_f32(-0.0, 0.0).to_bits(), 0);
    assert_eq!((min_f64(1.0, 2.0), max_f64(1.0, 2.0)), (1.0, 2.0));
}
