//! Colours of marks on grey pictures: a score's own, and a halo that keeps it visible on any grey.

/// Red, green and blue.
pub type Rgb = [u8; 3];

/// Viridis at equal steps from score 0 to score 1. Its lightness rises evenly, so it keeps its order without hues, too.
/// Source: Smith, van der Walt 2015, matplotlib's viridis (CC0).
pub const VIRIDIS: [Rgb; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];

/// Colours that tell neighbouring fibers apart on grey. Source: Okabe and Ito 2008, Color Universal Design.
pub const PALETTE: [Rgb; 7] = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]];

/// The colour of a score, from dark violet at 0 over green to yellow at 1.
pub fn of_score(score: f32) -> Rgb {
    let place = if score > 0.0 { score.min(1.0) } else { 0.0 } * (VIRIDIS.len() - 1) as f32;
    let below = (place as usize).min(VIRIDIS.len() - 2);
    let share = place - below as f32;
    std::array::from_fn(|k| {
        let [from, to] = [VIRIDIS[below][k], VIRIDIS[below + 1][k]].map(f32::from);
        (from + share * (to - from)).round() as u8
    })
}

/// Black around light colours and white around dark ones, whichever has the greater contrast.
pub fn halo(colour: Rgb) -> Rgb {
    // Where the contrasts to black and to white are equal: (L + 0.05) / 0.05 = 1.05 / (L + 0.05).
    if luminance(colour) > 0.179 { [0; 3] } else { [255; 3] }
}

/// Source: WCAG 2.1, relative luminance.
fn luminance(colour: Rgb) -> f64 {
    let linear = |value: u8| {
        let value = f64::from(value) / 255.0;
        if value <= 0.03928 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(colour[0]) + 0.7152 * linear(colour[1]) + 0.0722 * linear(colour[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_score_stands_out_from_its_halo_and_is_lighter_than_a_lower_one() {
        let mut before = 0.0;
        for i in 0..=100 {
            let colour = of_score(i as f32 / 100.0);
            let [low, high] = [luminance(colour), luminance(halo(colour))].map(|value| value + 0.05);
            assert!(low.max(high) / low.min(high) > 4.5, "{i}: {colour:?}");
            assert!(low >= before, "{i}");
            before = low;
        }
        assert_eq!([of_score(f32::NAN), of_score(0.0), of_score(2.0)], [VIRIDIS[0], VIRIDIS[0], VIRIDIS[8]]);
    }
}
