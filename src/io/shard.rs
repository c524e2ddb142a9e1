//! A share of a batch, for runs that work on one batch together: on several nodes, or as tasks of Slurm.
//!
//! Which share a micrograph belongs to follows from its name alone, so every run comes to the same answer, in whatever order
//! micrographs are listed or arrive. Shares are about equally large.

use crate::random::splitmix64;
use anyhow::{Context, Result, ensure};
use std::fmt;
use std::str::FromStr;

/// One of several shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which one, from 0.
    index: u64,
    /// How many there are.
    count: u64,
}

impl Shard {
    /// True if a micrograph of this name belongs to the share.
    pub fn holds(&self, name: &str) -> bool {
        let hash = name.bytes().fold(0, |hash, byte| splitmix64(hash ^ u64::from(byte)));
        hash % self.count == self.index
    }

    /// The share of a task of Slurm: of a job array, of the tasks that srun starts, or of both.
    ///
    /// Errors: `variable` says of neither.
    /// Source: the manual pages of sbatch and srun, "OUTPUT ENVIRONMENT VARIABLES".
    pub fn of_slurm(variable: impl Fn(&str) -> Option<String>) -> Result<Shard> {
        let number = |name: &str| -> Result<Option<u64>> {
            variable(name)
                .map(|text| text.trim().parse().with_context(|| format!("{name} is {text:?}; expected a whole number")))
                .transpose()
        };
        let array = match (number("SLURM_ARRAY_TASK_ID")?, number("SLURM_ARRAY_TASK_COUNT")?) {
            (Some(task), Some(count)) => {
                let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
                let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
                Some((task.saturating_sub(first) / step, count))
            }
            _ => None,
        };
        let tasks = number("SLURM_PROCID")?.zip(number("SLURM_NTASKS")?).filter(|(_, count)| *count > 1);
        ensure!(
            array.is_some() || tasks.is_some(),
            "Slurm says of no share (neither SLURM_ARRAY_TASK_ID nor SLURM_PROCID is set); expected a job array or several tasks of srun; give \
             --shard K/N"
        );
        let ((array, arrays), (task, tasks)) = (array.unwrap_or((0, 1)), tasks.unwrap_or((0, 1)));
        Shard { index: array * tasks + task, count: arrays * tasks }.checked()
    }

    fn checked(self) -> Result<Shard> {
        ensure!(self.index < self.count, "share {} of {}; expected 1 to as many as there are", self.index + 1, self.count);
        Ok(self)
    }
}

impl FromStr for Shard {
    type Err = anyhow::Error;

    /// `2/4`, the second of four, or `slurm`.
    fn from_str(text: &str) -> Result<Shard> {
        if text == "slurm" {
            return Shard::of_slurm(|name| std::env::var(name).ok());
        }
        let numbers = text.split_once('/').and_then(|(one, all)| Some((one.trim().parse().ok()?, all.trim().parse().ok()?)));
        let (one, count): (u64, u64) = numbers.filter(|(one, _)| *one > 0).context("expected K/N, such as 1/4, or slurm")?;
        Shard { index: one - 1, count }.checked()
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_belongs_to_one_share_of_about_the_same_size() {
        let shards: Vec<Shard> = (1..=4).map(|one| format!("{one}/4").parse().unwrap()).collect();
        let mut sizes = [0; 4];
        for name in (0..4000).map(|i| format!("FoilHole_{i:05}_Data")) {
            let holders: Vec<usize> = (0..4).filter(|&i| shards[i].holds(&name)).collect();
            assert_eq!(holders.len(), 1, "{name}");
            sizes[holders[0]] += 1;
        }
        assert!(sizes.iter().all(|size| (900..1100).contains(size)), "{sizes:?}");
        assert!((0..100).all(|i| "1/1".parse::<Shard>().unwrap().holds(&i.to_string())));
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for text in ["", "1", "0/4", "5/4", "1/0", "a/b", "1/4/2", "-1/4"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
        assert_eq!("2/4".parse::<Shard>().unwrap().to_string(), "2/4");
    }

    #[test]
    fn slurm_says_which_share_a_task_is() {
        let of = |variables: &[(&str, &str)]| {
            Shard::of_slurm(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        let array =
            [("SLURM_ARRAY_TASK_ID", "7"), ("SLURM_ARRAY_TASK_MIN", "3"), ("SLURM_ARRAY_TASK_STEP", "2"), ("SLURM_ARRAY_TASK_COUNT", "4")];
        assert_eq!(of(&array).unwrap().to_string(), "3/4");
        let srun = [("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2")];
        assert_eq!(of(&srun).unwrap().to_string(), "2/2");
        assert_eq!(of(&[&array[..], &srun].concat()).unwrap().to_string(), "6/8");
        // A batch script alone is one task.
        assert!(of(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")]).is_err());
        assert!(of(&[]).unwrap_err().to_string().contains("--shard K/N"));
        assert!(of(&[("SLURM_ARRAY_TASK_ID", "x"), ("SLURM_ARRAY_TASK_COUNT", "4")]).is_err());
        assert!(of(&[("SLURM_ARRAY_TASK_ID", "9"), ("SLURM_ARRAY_TASK_COUNT", "4")]).is_err());
    }
}
