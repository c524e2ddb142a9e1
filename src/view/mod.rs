//! The workbench: label and correct micrographs in a browser, and learn from that.
//!
//! A small server in this program shows micrographs and keeps what is said of them. `http.rs` lets nobody in but the page that was
//! opened with its token; `routes.rs` says what may be asked; behind it stand the micrographs at every zoom (`pyramid.rs`), what was
//! said of each (`sheets.rs`), what a model found (`picks.rs`), and the work that is done in the background by this program's own
//! commands (`hands.rs`, `learn.rs`, `run.rs`). The page itself is `page/`.
//!
//! Everything is kept in one folder: `labels` (which `train`, `eval` and `coords` read as they are), `models` and `picks`.

pub mod defocus;
pub mod hands;
pub mod http;
pub mod learn;
mod page;
pub mod picks;
pub mod pyramid;
pub mod routes;
pub mod run;
pub mod session;
pub mod sheets;
mod shown;
pub mod windows;

pub use shown::Shown;

use crate::formats::coordinates::Kind;
use crate::formats::image::{ReadOptions, read_info};
use crate::formats::pixel_size::Evidence;
use crate::io::lists;
use crate::words::counted;
use anyhow::{Context, Result, ensure};
use hands::{Hands, Picker};
use picks::Picks;
use session::{Fixed, ParticleSize, Session};
use sheets::Sheets;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use windows::Windows;

/// Everything that the server knows.
#[derive(Debug)]
pub struct Workbench {
    /// What was settled at the start.
    pub fixed: Fixed,
    /// What a user changes besides marks.
    session: Mutex<Session>,
    /// The micrographs.
    pub shown: Shown,
    /// What was said of each.
    pub sheets: Sheets,
    /// What was found on each.
    pub picks: Arc<Picks>,
    /// What is being done.
    pub hands: Hands,
    /// Who looks on.
    pub windows: Windows,
}

impl Workbench {
    /// Opens a workbench: finds what was kept in its folder.
    ///
    /// Errors: the folder cannot be made or read.
    pub fn open(fixed: Fixed) -> Result<(Arc<Workbench>, Vec<String>)> {
        let folder = &fixed.folder;
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made; check the folder's rights", folder.display()))?;
        let session = Session::read(folder, &fixed)?;
        let names = fixed.names();
        let labels = fixed.labels.as_deref();
        let (sheets, said) = Sheets::open(&folder.join("labels"), labels, fixed.kind, names.clone(), &fixed.paired)?;
        let paths: Vec<PathBuf> = fixed.micrographs.iter().map(|one| one.path.clone()).collect();
        let picks = Arc::new(Picks::new(&paths, &names));
        let shown = Shown::new(paths);
        let workbench =
            Workbench { fixed, session: Mutex::new(session), shown, sheets, picks, hands: Hands::default(), windows: Windows::default() };
        let workbench = Arc::new(workbench);
        if let Some(folder) = workbench.folder_of_picks().filter(|folder| folder.is_dir()) {
            workbench.look_at(&folder)?;
        }
        hands::start(&workbench);
        Ok((workbench, said))
    }

    /// What a user has chosen.
    pub fn session(&self) -> Session {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what a user has chosen, and keeps it.
    ///
    /// Errors: it cannot be written; then nothing is changed.
    pub fn change(&self, change: impl FnOnce(&mut Session)) -> Result<()> {
        let mut session = self.locked();
        let mut changed = session.clone();
        change(&mut changed);
        changed.write(&self.fixed.folder)?;
        *session = changed;
        Ok(())
    }

    /// Where the picks of the present model lie: what was given at the start, until something has been learnt; none while nobody knows
    /// how large particles are.
    pub fn folder_of_picks(&self) -> Option<PathBuf> {
        let session = self.session();
        match (&session.model, &self.fixed.picks) {
            (None, Some(given)) => Some(given.clone()),
            (model, _) => {
                let size = match session.size {
                    Some(size) => size.for_a_name(),
                    None if self.fixed.kind == Kind::Particle => return None,
                    None => String::new(),
                };
                Some(self.fixed.folder.join("picks").join(format!("{}{size}", model.as_deref().unwrap_or("general"))))
            }
        }
    }

    /// Says how large particles are. Other sizes have other picks.
    ///
    /// Errors: it cannot be kept, or the picks of that size cannot be read.
    pub fn resize(&self, size: ParticleSize) -> Result<()> {
        self.change(|session| (session.size, session.threshold) = (Some(size), None))?;
        match self.folder_of_picks().filter(|folder| folder.is_dir()) {
            Some(folder) if self.picks.folder().as_ref() != Some(&folder) => self.look_at(&folder),
            _ => Ok(()),
        }
    }

    /// Shows the picks of a folder, at the threshold that was chosen.
    ///
    /// Errors: the folder cannot be listed.
    pub fn look_at(&self, folder: &Path) -> Result<()> {
        self.picks.look_at(folder)?;
        if let Some(threshold) = self.session().threshold {
            self.picks.choose(threshold);
        }
        Ok(())
    }

    /// Chooses a threshold, and keeps it. Returns the number of picks above it, as far as they are known.
    ///
    /// Errors: it cannot be kept.
    pub fn choose(&self, threshold: f32) -> Result<u64> {
        if self.session().threshold != Some(threshold) {
            self.change(|session| session.threshold = Some(threshold))?;
        }
        Ok(self.picks.choose(threshold))
    }

    /// Pixel size of a micrograph, angstrom, where `header` is what its file says.
    pub fn pixel_size(&self, i: usize, header: Option<f64>) -> Option<f64> {
        let list = self.fixed.micrographs.get(i).map(|one| one.pixel_size).unwrap_or_default();
        Evidence { given: self.fixed.angpix, list, header, ..Evidence::default() }.angstrom()
    }

    /// Diameter of what is looked for, pixels of a micrograph.
    pub fn diameter_px(&self, i: usize) -> f64 {
        /// Where nobody has said how large things are.
        const USUAL_PX: f64 = 40.0;
        let header = self.fixed.micrographs.get(i).and_then(|one| read_info(&one.path, &ReadOptions::default()).ok());
        let pixel_size = self.pixel_size(i, header.and_then(|info| info.pixel_size_angstrom));
        self.session().size.and_then(|size| size.px(pixel_size)).unwrap_or(USUAL_PX)
    }

    /// The options that tell a command how large particles and pixels are.
    pub fn options_of_size(&self) -> Vec<String> {
        let mut options = self.session().size.map(ParticleSize::options).unwrap_or_default();
        if let Some(angpix) = self.fixed.angpix.filter(|_| !options.iter().any(|option| option == "--angpix")) {
            options.extend(["--angpix".to_owned(), angpix.to_string()]);
        }
        options
    }

    /// The model that picks: what was learnt, or what the workbench began with.
    pub fn picker(&self) -> Picker {
        match self.session().model {
            Some(name) => learn::picker(&self.fixed.folder, &name),
            None => Picker { model: self.fixed.model.clone(), threshold: None },
        }
    }

    /// Where the present model picks into.
    ///
    /// Errors: nobody has said how large the particles are, or the picks are somebody else's.
    pub fn folder_to_pick_into(&self) -> Result<PathBuf> {
        let folder = self.folder_of_picks().context("nobody has said how large the particles are; enter the diameter")?;
        ensure!(
            Some(&folder) != self.fixed.picks.as_ref(),
            "these picks were made before; learn first, or open the workbench without --picks"
        );
        Ok(folder)
    }

    /// Chooses a threshold, and, if asked, writes all coordinate files and lists with it.
    ///
    /// Errors: there are no picks, or a file cannot be written.
    pub fn apply(&self, threshold: f32) -> Result<String> {
        let folder = self.picks.folder().context("nothing is picked yet, so there is nothing to write")?;
        let data = folder.display().to_string();
        let args = ["rethreshold", "--data", &data, "--vis_thresh", &threshold.to_string()].map(str::to_owned);
        let mut files = 0;
        run::Running::default().run(&self.fixed.program, &args, |event| files += usize::from(event["event"] == "image"))?;
        let excluded = self.sheets.excluded();
        self.look_at(&folder)?;
        let mut line = format!("{} written to {data}", counted(files, "coordinate file"));
        if !excluded.is_empty() {
            let (listed, is_star) = self.picks.listed_but(&excluded)?;
            lists::write_lists(&folder, &listed, is_star)?;
            line.push_str(&format!("; {} left out of the lists", counted(excluded.len(), "excluded micrograph")));
        }
        Ok(line)
    }
}
