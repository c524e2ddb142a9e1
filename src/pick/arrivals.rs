//! Micrographs that arrive in a folder: which of them have come to rest, and may be picked.
//!
//! A file is taken when neither its length nor its time has changed for a while, and what its header announces is there. One whose header
//! announces more than there is may still be written by somebody who pauses, so it is given ten times as long before it counts as broken.
//! A file that changes after it was taken is taken again.

use crate::formats::image::{ReadOptions, read_info};
use crate::io::find::micrographs_of_folder;
use crate::io::names::micrograph_stem;
use crate::pick::folder::FileState;
use anyhow::Result;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How much longer a file may take whose header announces more than there is.
const PATIENCE_WITH_PARTS: u32 = 10;

/// A file that is watched.
#[derive(Clone, Debug)]
struct Watched {
    state: FileState,
    /// When it was first seen like that.
    since: Instant,
    is_taken: bool,
}

/// The files of a folder.
#[derive(Debug)]
pub struct Arrivals {
    folder: PathBuf,
    rest: Duration,
    watched: HashMap<PathBuf, Watched>,
    /// The file that the outputs of a name belong to.
    named: HashMap<String, PathBuf>,
}

/// What a look at the folder has shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Files that may be picked now, in the order of their names, each as it has come to rest.
    pub ready: Vec<(PathBuf, FileState)>,
    /// Files that have not come to rest.
    pub unrested: usize,
    /// Files that cannot be told apart from another one by the names of their outputs, each with that other one.
    pub twins: Vec<(PathBuf, PathBuf)>,
}

impl Arrivals {
    /// A folder, and how long a file has to rest.
    pub fn new(folder: &Path, rest: Duration) -> Arrivals {
        Arrivals { folder: folder.to_owned(), rest, watched: HashMap::new(), named: HashMap::new() }
    }

    /// Says that a file in this state was picked by an earlier run, or has failed in it.
    pub fn is_done(&mut self, path: PathBuf, state: FileState) {
        self.named.insert(micrograph_stem(&path).text, path.clone());
        self.watched.insert(path, Watched { state, since: Instant::now(), is_taken: true });
    }

    /// Looks at the folder.
    ///
    /// Errors: the folder cannot be listed.
    pub fn look(&mut self, now: Instant) -> Result<Look> {
        let mut look = Look::default();
        for path in micrographs_of_folder(&self.folder)? {
            // One that vanishes between two looks was never there.
            let Some(state) = FileState::of(&path) else { continue };
            let watched = self.watched.entry(path.clone()).or_insert_with(|| Watched { state: state.clone(), since: now, is_taken: false });
            if watched.state != state {
                *watched = Watched { state, since: now, is_taken: false };
            }
            if watched.is_taken {
                continue;
            }
            let rested = now.saturating_duration_since(watched.since);
            let is_whole = || read_info(&path, &ReadOptions::default()).is_ok();
            if rested < self.rest || (rested < self.rest * PATIENCE_WITH_PARTS && !is_whole()) {
                look.unrested += 1;
                continue;
            }
            watched.is_taken = true;
            match self.named.entry(micrograph_stem(&path).text).or_insert_with(|| path.clone()) {
                own if *own == path => look.ready.push((path, watched.state.clone())),
                other => look.twins.push((path.clone(), other.clone())),
            }
        }
        Ok(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::mrc_write::{PixelType, bytes};

    fn whole() -> Vec<u8> {
        bytes(&[0.0; 64 * 64], [64, 64], 1.0, PixelType::F32).unwrap()
    }

    fn names(files: &[(PathBuf, FileState)]) -> Vec<&str> {
        files.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect()
    }

    #[test]
    fn files_are_taken_once_they_rest_and_again_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let mut arrivals = Arrivals::new(folder.path(), Duration::from_secs(10));
        assert_eq!(arrivals.look(start).unwrap(), Look::default(), "an empty folder is no error");
        std::fs::write(at("b.mrc"), whole()).unwrap();
        std::fs::write(at("a.mrc"), &whole()[..5000]).unwrap();
        std::fs::write(at(".c.mrc.part"), whole()).unwrap();
        std::fs::write(at("notes.txt"), "x").unwrap();
        assert_eq!(arrivals.look(after(1)).unwrap().unrested, 2);
        assert_eq!(arrivals.look(after(10)).unwrap().ready.len(), 0);
        // One has rested; the other announces more than there is.
        let look = arrivals.look(after(12)).unwrap();
        assert_eq!((names(&look.ready), look.unrested), (vec!["b.mrc"], 1));
        std::fs::write(at("a.mrc"), whole()).unwrap();
        assert_eq!(arrivals.look(after(20)).unwrap().unrested, 1);
        assert_eq!(names(&arrivals.look(after(31)).unwrap().ready), ["a.mrc"]);
        assert_eq!(arrivals.look(after(40)).unwrap(), Look::default());
        // It is replaced by another of another length; and a part stays a part.
        std::fs::write(at("a.mrc"), [whole(), vec![0; 4]].concat()).unwrap();
        std::fs::write(at("d.mrc"), &whole()[..5000]).unwrap();
        assert_eq!(arrivals.look(after(50)).unwrap().unrested, 2);
        assert_eq!(names(&arrivals.look(after(61)).unwrap().ready), ["a.mrc"]);
        assert_eq!(names(&arrivals.look(after(151)).unwrap().ready), ["d.mrc"]);
    }

    #[test]
    fn what_an_earlier_run_has_done_is_left_alone_and_twins_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a.mrc"), whole()).unwrap();
        let mut arrivals = Arrivals::new(folder.path(), Duration::ZERO);
        arrivals.is_done(at("a.mrc"), FileState::of(&at("a.mrc")).unwrap());
        std::fs::write(at("a.mrc.gz"), "x").unwrap();
        let look = arrivals.look(Instant::now()).unwrap();
        assert_eq!((look.ready, look.twins), (vec![], vec![(at("a.mrc.gz"), at("a.mrc"))]));
    }
}
