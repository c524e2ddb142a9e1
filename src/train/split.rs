//! Which images train the network, which ones choose the best model, and which ones are kept for the evaluation at the end.

use crate::random::Random;
use anyhow::{Result, ensure};

/// Shares of the images in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// For training.
    pub train: u32,
    /// For choosing the best model.
    pub validation: u32,
    /// For the evaluation at the end.
    pub test: u32,
}

impl Shares {
    /// The shares that the options mean. Where none is given, they are those of the guide: 80, 0 and 20. If the test share
    /// alone is not given, the test part takes what the others leave, but no more than 20.
    ///
    /// Errors: more than 100 percent, or nothing to train on.
    pub fn from_options(train: Option<u32>, validation: Option<u32>, test: Option<u32>) -> Result<Shares> {
        let (train, validation) = (train.unwrap_or(80), validation.unwrap_or(0));
        let given = u64::from(train) + u64::from(validation) + u64::from(test.unwrap_or(0));
        ensure!(
            given <= 100,
            "--train_pct {train}, --val_pct {validation}, --test_pct {}: {given} percent together; expected at most 100; lower one",
            test.unwrap_or(0)
        );
        ensure!(train > 0, "--train_pct 0: nothing to train on; expected 1 to 100; raise it");
        Ok(Shares { train, validation, test: test.unwrap_or((100 - train - validation).min(20)) })
    }
}

/// The parts, as indices of the images in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// For training; never empty if there is an image.
    pub train: Vec<usize>,
    /// For choosing the best model.
    pub validation: Vec<usize>,
    /// For the evaluation at the end.
    pub test: Vec<usize>,
}

const STREAM: u64 = 0x73706c6974; // "split"

/// Divides `count` images at random; the same seed gives the same parts. Shares that add up to 100 percent leave no image out.
pub fn split(count: usize, shares: Shares, seed: u64) -> Split {
    let mut order: Vec<usize> = (0..count).collect();
    Random::new(seed, &[STREAM]).shuffle(&mut order);
    let until = |percent: u32| (count as u128 * u128::from(percent) / 100) as usize;
    let first = until(shares.train).max(count.min(1));
    let second = until(shares.train + shares.validation).max(first);
    let third = until(shares.train + shares.validation + shares.test).max(second);
    let part = |range: std::ops::Range<usize>| {
        let mut part = order[range].to_vec();
        part.sort_unstable();
        part
    };
    Split { train: part(0..first), validation: part(first..second), test: part(second..third) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(train: Option<u32>, validation: Option<u32>, test: Option<u32>) -> [u32; 3] {
        let Shares { train, validation, test } = Shares::from_options(train, validation, test).unwrap();
        [train, validation, test]
    }

    #[test]
    fn documented_defaults_work() {
        assert_eq!(shares(None, None, None), [80, 0, 20]); // the guide
        assert_eq!(shares(Some(70), Some(20), Some(10)), [70, 20, 10]); // the wrapper's text
        assert_eq!(shares(Some(100), None, None), [100, 0, 0]); // a caller that names only the first
        assert_eq!(shares(Some(90), Some(5), None), [90, 5, 5]);
        assert_eq!(shares(Some(50), None, None), [50, 0, 20]);
    }

    #[test]
    fn shares_over_100_percent_or_without_training_are_refused() {
        let message = |a, b, c| Shares::from_options(a, b, c).unwrap_err().to_string();
        assert!(message(Some(80), Some(20), Some(20)).contains("120 percent"));
        assert!(message(None, Some(21), None).contains("101 percent"));
        assert!(message(Some(0), None, None).contains("nothing to train on"));
        assert!(message(Some(u32::MAX), Some(u32::MAX), None).contains("percent together"));
    }

    #[test]
    fn every_image_is_in_one_part_and_there_is_always_one_to_train_on() {
        for count in 0..50 {
            for [train, validation, test] in [[80, 0, 20], [70, 20, 10], [29, 30, 41], [1, 98, 1], [100, 0, 0], [29, 0, 0]] {
                let parts = split(count, Shares { train, validation, test }, 317);
                let mut all = [parts.train.clone(), parts.validation.clone(), parts.test.clone()].concat();
                all.sort_unstable();
                if train + validation + test == 100 {
                    assert_eq!(all, (0..count).collect::<Vec<_>>());
                }
                all.dedup();
                assert_eq!(all.len(), parts.train.len() + parts.validation.len() + parts.test.len());
                assert!(count == 0 || !parts.train.is_empty());
            }
        }
        // 29 % of 100 are 29: no rounding loses one.
        assert_eq!(split(100, Shares { train: 29, validation: 0, test: 0 }, 1).train.len(), 29);
    }

    #[test]
    fn the_seed_decides() {
        let parts = |seed| split(40, Shares { train: 50, validation: 25, test: 25 }, seed);
        assert_eq!(parts(1), parts(1));
        assert_ne!(parts(1), parts(2));
    }
}
