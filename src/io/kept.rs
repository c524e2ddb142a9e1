//! What the program found out about a machine is kept for the next run, in small files in the user's cache folder. Where
//! nothing can be kept, each run finds it out again.

use super::write::write_whole_unsynced;
use std::path::{Path, PathBuf};

/// A folder for such files, or none.
#[derive(Clone, Debug)]
pub struct Kept(Option<PathBuf>);

impl Kept {
    /// The user's cache folder; none if there is no home.
    pub fn of_user() -> Self {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
        Kept(folder.map(|folder| folder.join("epicker")))
    }

    /// This folder, or none.
    pub fn within(folder: Option<&Path>) -> Self {
        Kept(folder.map(Path::to_path_buf))
    }

    /// What was kept under a name.
    pub fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.0.as_ref()?.join(name)).ok()
    }

    /// Keeps a text under a name.
    pub fn write(&self, name: &str, text: &str) {
        if let Some(folder) = &self.0 {
            let _ = std::fs::create_dir_all(folder);
            let _ = write_whole_unsynced(&folder.join(name), text.as_bytes());
        }
    }
}
