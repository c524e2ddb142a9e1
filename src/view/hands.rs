//! What is done in the background: micrographs are picked as they are looked at, and a model learns when it is asked to. One thing at a
//! time, because each uses all cores.

use super::run::Running;
use super::{Workbench, learn};
use crate::words::counted;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Micrographs that are picked by one command while somebody waits for the first of them.
const TOGETHER: usize = 4;

/// What is done at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Phase {
    /// Nothing, or picking of what is looked at.
    #[default]
    Idle,
    /// Labels are dealt out and written.
    Preparing,
    /// The network learns.
    Training,
    /// Micrographs are picked with what was learnt.
    Picking,
    /// A model has been learnt.
    Done,
    /// It did not work.
    Failed,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Preparing => "preparing",
            Phase::Training => "training",
            Phase::Picking => "picking",
            Phase::Done => "done",
            Phase::Failed => "failed",
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What is done.
    pub phase: Phase,
    /// Which share of it is done.
    pub share: f64,
    /// A line for the user.
    pub line: String,
    /// Why it failed.
    pub error: Option<String>,
    begun: Option<Instant>,
}

impl Progress {
    fn to_json(&self) -> Value {
        let left = self.begun.filter(|_| self.share > 0.03).map(|begun| begun.elapsed().as_secs_f64() * (1.0 - self.share) / self.share);
        json!({
            "phase": self.phase.name(),
            "share": self.share,
            "seconds_left": left.map(f64::round),
            "line": self.line,
            "error": self.error,
        })
    }
}

#[derive(Debug, Default)]
struct Wanted {
    learns: bool,
    picks_all: bool,
    /// Micrographs that somebody looks at, the last one first.
    looked_at: Vec<usize>,
    /// Micrographs that could not be picked, with why, so that nobody tries them again and again.
    failed: BTreeSet<usize>,
    running: Option<Arc<Running>>,
    is_over: bool,
}

/// What is to be done, and how far it is.
#[derive(Debug, Default)]
pub struct Hands {
    wanted: Mutex<Wanted>,
    has_work: Condvar,
    progress: Mutex<Progress>,
    score: Mutex<Option<Value>>,
    notices: Mutex<Vec<String>>,
}

impl Hands {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a training. Returns false if one is under way.
    pub fn learn(&self) -> bool {
        let mut wanted = self.wanted();
        if wanted.learns || self.is_busy() {
            return false;
        }
        wanted.learns = true;
        self.tell(Phase::Preparing, 0.0, "dealing out the labels");
        self.has_work.notify_all();
        true
    }

    /// Asks for the picks of all micrographs. Returns false if something is under way.
    pub fn pick_all(&self) -> bool {
        let mut wanted = self.wanted();
        if wanted.picks_all || wanted.learns || self.is_busy() {
            return false;
        }
        wanted.picks_all = true;
        self.tell(Phase::Picking, 0.0, "picking all micrographs");
        self.has_work.notify_all();
        true
    }

    fn is_busy(&self) -> bool {
        matches!(self.progress().phase, Phase::Preparing | Phase::Training | Phase::Picking)
    }

    /// Asks for the picks of a micrograph that somebody looks at.
    pub fn look_at(&self, i: usize) {
        let mut wanted = self.wanted();
        if !wanted.failed.contains(&i) {
            wanted.looked_at.retain(|one| *one != i);
            wanted.looked_at.insert(0, i);
            wanted.looked_at.truncate(TOGETHER);
            self.has_work.notify_all();
        }
    }

    /// Stops what is under way.
    pub fn stop(&self) {
        let mut wanted = self.wanted();
        (wanted.learns, wanted.picks_all) = (false, false);
        wanted.running.iter().for_each(|running| running.stop());
    }

    /// Stops everything for good: the server ends.
    pub fn end(&self) {
        self.stop();
        self.wanted().is_over = true;
        self.has_work.notify_all();
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says how far it is.
    pub fn tell(&self, phase: Phase, share: f64, line: &str) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = progress.phase == phase;
        let begun = if is_same { progress.begun } else { Some(Instant::now()) };
        *progress = Progress { phase, share: share.clamp(0.0, 1.0), line: line.to_owned(), error: None, begun };
    }

    fn fail(&self, error: &anyhow::Error) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        *progress = Progress { phase: Phase::Failed, error: Some(format!("{error:#}")), ..Progress::default() };
    }

    /// Keeps what a model is worth, for the page.
    pub fn judge(&self, score: Value) {
        *self.score.lock().unwrap_or_else(PoisonError::into_inner) = Some(score);
    }

    /// Adds a line for the user that does not go away by itself.
    pub fn notice(&self, line: String) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if !notices.contains(&line) {
            notices.push(line);
        }
    }

    /// What a window is told, with the rest of the state.
    pub fn to_json(&self) -> (Value, Value, Vec<String>) {
        let score = self.score.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.progress().to_json(), score.unwrap_or(Value::Null), notices)
    }
}

/// Begins to work in the background, until the workbench ends.
pub fn start(workbench: &Arc<Workbench>) {
    let workbench = Arc::clone(workbench);
    std::thread::spawn(move || {
        while let Some((task, running)) = next(&workbench.hands) {
            let result = match &task {
                Task::Learn => learn::learn(&workbench, &running),
                Task::PickAll => pick_all(&workbench, &running),
                Task::Pick(some) => pick_some(&workbench, some, &running),
            };
            workbench.hands.wanted().running = None;
            match (task, result) {
                (Task::Pick(some), Err(error)) => {
                    // Picking what is looked at is a courtesy: it must not look like a learning that failed.
                    workbench.hands.wanted().failed.extend(some);
                    workbench.hands.notice(format!("{error:#}"));
                }
                (_, Err(_)) if running.is_stopped() => workbench.hands.tell(Phase::Idle, 0.0, "stopped"),
                (_, Err(error)) => workbench.hands.fail(&error),
                (_, Ok(())) => {}
            }
        }
    });
}

#[derive(Debug)]
enum Task {
    Learn,
    PickAll,
    Pick(Vec<usize>),
}

/// Waits for work.
fn next(hands: &Hands) -> Option<(Task, Arc<Running>)> {
    let mut wanted = hands.wanted();
    loop {
        let task = match &mut *wanted {
            Wanted { is_over: true, .. } => return None,
            Wanted { learns, .. } if *learns => {
                *learns = false;
                Some(Task::Learn)
            }
            Wanted { picks_all, .. } if *picks_all => {
                *picks_all = false;
                Some(Task::PickAll)
            }
            Wanted { looked_at, .. } if !looked_at.is_empty() => Some(Task::Pick(std::mem::take(looked_at))),
            _ => None,
        };
        if let Some(task) = task {
            let running = Arc::new(Running::default());
            wanted.running = Some(Arc::clone(&running));
            return Some((task, running));
        }
        wanted = hands.has_work.wait(wanted).unwrap_or_else(PoisonError::into_inner);
    }
}

/// A model that picks.
#[derive(Clone, Debug)]
pub struct Picker {
    /// Its file, or the name of a general model.
    pub model: String,
    /// The threshold that fits the labels; without one the model's own.
    pub threshold: Option<f32>,
}

/// Picks micrographs into a folder; those that are done already are left alone. `hear` gets the share that is done.
///
/// Errors: as [`Running::run`].
pub fn pick_into(
    workbench: &Workbench,
    (folder, picker): (&Path, &Picker),
    some: &[usize],
    running: &Running,
    mut hear: impl FnMut(f64),
) -> Result<()> {
    let fixed = &workbench.fixed;
    let mut args: Vec<String> =
        ["pick", "--load_model", &picker.model, "--mode", fixed.kind.name(), "--output"].iter().map(|text| text.to_string()).collect();
    args.extend([folder.display().to_string(), "--skip-done".to_owned()]);
    args.extend(workbench.options_of_size());
    args.extend(picker.threshold.iter().flat_map(|threshold| ["--vis_thresh".to_owned(), threshold.to_string()]));
    args.push("--data".to_owned());
    args.extend(some.iter().map(|i| fixed.path(*i).display().to_string()));
    let mut done = 0;
    let ended = running.run(&fixed.program, &args, |event| {
        if event["event"] == "image" {
            done += 1;
            hear(done as f64 / some.len().max(1) as f64);
        }
    });
    match ended {
        // One micrograph that cannot be read does not spoil the others.
        Err(error) if done > 0 && !running.is_stopped() => {
            workbench.hands.notice(format!("{error:#}"));
            Ok(())
        }
        ended => ended,
    }
}

/// Picks what somebody looks at, if it is not picked yet.
fn pick_some(workbench: &Workbench, some: &[usize], running: &Running) -> Result<()> {
    let Some(folder) = workbench.folder_of_picks() else { return Ok(()) };
    // What was picked before the workbench was opened is somebody else's.
    if Some(&folder) == workbench.fixed.picks.as_ref() {
        return Ok(());
    }
    let known = if workbench.picks.folder().as_ref() == Some(&folder) { workbench.picks.picked() } else { Vec::new() };
    let new: Vec<usize> = some.iter().copied().filter(|i| !known.contains(i)).collect();
    if !new.is_empty() {
        pick_into(workbench, (&folder, &workbench.picker()), &new, running, |_| {})?;
    }
    if !new.is_empty() || workbench.picks.folder().as_ref() != Some(&folder) {
        workbench.look_at(&folder)?;
    }
    Ok(())
}

fn pick_all(workbench: &Workbench, running: &Running) -> Result<()> {
    let excluded = workbench.sheets.excluded();
    let all: Vec<usize> = (0..workbench.fixed.micrographs.len()).filter(|i| !excluded.contains(i)).collect();
    let folder = workbench.folder_to_pick_into()?;
    let hands = &workbench.hands;
    let hear = |share: f64| hands.tell(Phase::Picking, share, &format!("picking {}", counted(all.len(), "micrograph")));
    pick_into(workbench, (&folder, &workbench.picker()), &all, running, hear)?;
    workbench.look_at(&folder)?;
    hands.tell(Phase::Done, 1.0, &format!("{} picked into {}", counted(all.len(), "micrograph"), folder.display()));
    Ok(())
}
