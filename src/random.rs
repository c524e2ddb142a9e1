//! The one source of chance in the whole program: a seed, a stream and a counter.
//!
//! A value depends on these three alone, so neither threads nor an interrupted run can change what is drawn.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    key: u64,
    counter: u64,
}

impl Random {
    /// The stream of a seed that belongs to `stream`, such as [purpose, epoch, image].
    pub fn new(seed: u64, stream: &[u64]) -> Self {
        let key = stream.iter().fold(splitmix64(seed), |key, part| splitmix64(key ^ splitmix64(part.wrapping_add(1))));
        Random { key, counter: 0 }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.counter += 1;
        splitmix64(self.key.wrapping_add(self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// A number in 0..1, the 1 excluded.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number between two, the greater excluded.
    pub fn between(&mut self, [low, high]: [f64; 2]) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A whole number in 0..n, the n excluded; 0 if n is 0.
    pub fn below(&mut self, n: usize) -> usize {
        // Taking the high half of the product needs no division, and its bias is below n / 2^64.
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// True with probability `share`.
    pub fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// A number with the normal distribution of mean 0 and deviation 1. Source: Box, Muller 1958,
    /// doi:10.1214/aoms/1177706645; the second of its two numbers is thrown away, so that draws do not depend on history.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.unit()).cos()
    }

    /// Puts values into random order.
    /// Source: Durstenfeld 1964, doi:10.1145/364520.364540.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last + 1));
        }
    }
}

/// Noise in -0.5..0.5 for tests and benches. [`splitmix64`] makes each value from the seed and the value's index.
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    (0..len as u64).map(|i| ((splitmix64(seed.wrapping_mul(0x9e37_79b9).wrapping_add(i)) >> 40) as f32) / 16_777_216.0 - 0.5).collect()
}

/// One step of the SplitMix64 generator, used as a hash. Source: Steele, Lea, Flood 2014, doi:10.1145/2714064.2660195.
pub fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, stream: &[u64]| {
            let mut random = Random::new(seed, stream);
            (0..4).map(|_| random.bits()).collect::<Vec<_>>()
        };
        assert_eq!(draw(317, &[1, 2]), draw(317, &[1, 2]));
        assert_ne!(draw(317, &[1, 2]), draw(317, &[2, 1]));
        assert_ne!(draw(317, &[1]), draw(318, &[1]));
        assert_ne!(draw(317, &[0]), draw(317, &[]));
    }

    #[test]
    fn every_number_below_comes_about_equally_often() {
        let mut random = Random::new(1, &[]);
        let mut counts = [0; 7];
        (0..70_000).for_each(|_| counts[random.below(7)] += 1);
        // Each is expected 10 000 times, with a standard deviation of 93; five of them are allowed.
        assert!(counts.iter().all(|count| (9_535..10_465).contains(count)), "{counts:?}");
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn a_shuffle_keeps_every_value() {
        let mut values: Vec<usize> = (0..100).collect();
        Random::new(5, &[]).shuffle(&mut values);
        assert_ne!(values, (0..100).collect::<Vec<_>>());
        values.sort_unstable();
        assert_eq!(values, (0..100).collect::<Vec<_>>());
    }
}
