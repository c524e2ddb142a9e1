//! How many windows look at the workbench.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A window that has not asked for so long is closed.
const SILENCE: Duration = Duration::from_secs(5);
/// More windows than this are not counted.
const MOST: usize = 1000;

/// Windows, and when each has last asked.
#[derive(Debug, Default)]
pub struct Windows {
    last: Mutex<HashMap<String, Instant>>,
}

impl Windows {
    /// Notes that a window has asked, and tells how many there are.
    pub fn seen(&self, window: &str) -> usize {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|_, time| time.elapsed() < SILENCE);
        if last.len() < MOST {
            last.insert(window.chars().take(32).collect(), Instant::now());
        }
        last.len()
    }
}
