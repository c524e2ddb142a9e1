//! The micrographs that are on the screen or next to it, in memory at every zoom.

use super::pyramid::Pyramid;
use crate::formats::image::{ReadOptions, read_micrograph};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Micrographs are kept in memory as long as all together take no more than this, bytes; the one that is looked at always is.
const MOST_BYTES: usize = 768 << 20;

/// Micrographs in memory.
#[derive(Debug)]
pub struct Shown {
    paths: Vec<PathBuf>,
    /// The last one used is the last one here.
    kept: Mutex<Vec<(usize, Arc<Pyramid>)>>,
    /// One micrograph is read at a time, so that memory stays bounded.
    reading: Mutex<()>,
}

impl Shown {
    /// None is in memory yet.
    pub fn new(paths: Vec<PathBuf>) -> Shown {
        Shown { paths, kept: Mutex::default(), reading: Mutex::default() }
    }

    /// A micrograph at every zoom; its file is read if it is not in memory.
    ///
    /// Errors: there is no such micrograph, or its file cannot be read.
    pub fn get(&self, i: usize) -> Result<Arc<Pyramid>> {
        let path = self.paths.get(i).with_context(|| format!("no micrograph {i}"))?;
        if let Some(pyramid) = self.kept_one(i) {
            return Ok(pyramid);
        }
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have read it meanwhile.
        if let Some(pyramid) = self.kept_one(i) {
            return Ok(pyramid);
        }
        let pyramid = Arc::new(Pyramid::new(&read_micrograph(path, &ReadOptions::default())?));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((i, Arc::clone(&pyramid)));
        while kept.len() > 1 && kept.iter().map(|(_, pyramid)| pyramid.bytes()).sum::<usize>() > MOST_BYTES {
            kept.remove(0);
        }
        Ok(pyramid)
    }

    fn kept_one(&self, i: usize) -> Option<Arc<Pyramid>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(one, _)| *one == i)?;
        let one = kept.remove(at);
        let pyramid = Arc::clone(&one.1);
        kept.push(one);
        Some(pyramid)
    }
}
