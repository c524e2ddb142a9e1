//! `--watch`: micrographs are picked as they arrive in a folder.
//!
//! The folder is looked at every few seconds, because network file systems tell nobody of new files. What has come to rest is picked like
//! a batch of its own into the same output folder, so all that holds for a batch holds here: one scale, one threshold, files that are
//! whole, and lists of the whole folder. A journal says what became of each file, so a run that was killed goes on where it was.

use super::batch::Batch;
use super::told::Teller;
use super::{PickArgs, settled, write_lists, write_record, write_report};
use crate::cli::settle::Voice;
use crate::cli::status::OrUsage;
use crate::cli::{device, interrupt, status, threads, values};
use crate::doctor::Way;
use crate::formats::coordinates::Kind;
use crate::formats::image::read_info;
use crate::io::find::{Found as Micrograph, MicrographList};
use crate::io::write::write_whole_unsynced;
use crate::net::Model;
use crate::pick::arrivals::{Arrivals, Look};
use crate::pick::folder::{FileState, write_covering};
use crate::pick::journal::{Entry, Journal, Outcome};
use crate::pick::run::{self, Found, Job, Seen, Source, Told};
use crate::pick::settings::Settings;
use crate::pick::workers::Workers;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Options of `--watch`.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    /// Pick micrographs as they arrive in this folder, until Ctrl-C, a file `stop` in the output folder, or --stop-after
    #[arg(long = "watch", value_name = "FOLDER", conflicts_with_all = ["micrographs", "data", "in_mics", "shard", "no_clobber", "no_candidates"])]
    pub watch: Option<PathBuf>,
    /// With --watch: seconds between two looks at the folder
    #[arg(long = "poll", value_name = "SECONDS", default_value = "5", value_parser = values::positive, requires = "watch")]
    poll: f64,
    /// With --watch: seconds for which a file has to stay as it is before it is picked
    #[arg(long = "rest", value_name = "SECONDS", default_value = "10", value_parser = values::positive, requires = "watch")]
    rest: f64,
    /// With --watch: seconds between two writings of the lists and the page
    #[arg(long = "lists-every", value_name = "SECONDS", default_value = "60", value_parser = values::positive, requires = "watch")]
    lists_every: f64,
    /// With --watch: end after so many seconds without a new micrograph
    #[arg(long = "stop-after", value_name = "SECONDS", value_parser = values::positive, requires = "watch")]
    stop_after: Option<f64>,
}

/// The file in the output folder that ends a watch.
const STOP_FILE: &str = "stop";
/// The file in the output folder that says how a watch goes.
const STATUS_FILE: &str = "status.json";
/// How long somebody waits who may be asked to stop.
const BEAT: Duration = Duration::from_millis(100);
/// Micrographs that status.json tells the trend of, and that it names.
const TREND: usize = 100;
const NAMED: usize = 10;

/// Watches a folder; returns the exit status.
///
/// Errors: wrong usage, before any file is written.
pub fn watch(mut args: PickArgs, folder: &Path, stop: &AtomicBool) -> Result<u8> {
    // What is done stays done, whoever did it.
    args.skip_done = true;
    threads::start(args.threads)?;
    let model = args.model().load(Model::from_state).context("--load_model").or_usage()?;
    let asked = args.asked(&model, false).or_usage()?;
    let chosen = device::choose_every(args.precision, args.gpus.as_ref(), args.conv, Way::Pick)?;
    let workers = Workers::new(&device::named(&chosen), &model, asked.rule.kind == Kind::Vesicle, asked.cap).or_usage()?;
    let mut workers = workers.averaging(asked.of_model.views());
    std::fs::create_dir_all(&args.output)
        .with_context(|| format!("--output {}: cannot be written to; expected a folder with rights to write", args.output.display()))
        .or_usage()?;
    let (journal, earlier) = Journal::open(&args.output).or_usage()?;
    let [poll, rest, lists_every] = [args.watch.poll, args.watch.rest, args.watch.lists_every].map(Duration::from_secs_f64);
    let mut arrivals = Arrivals::new(folder, rest);
    let mut log = Log::new(journal, folder, &args.output);
    for entry in earlier {
        arrivals.is_done(entry.micrograph.clone(), entry.state.clone());
        log.take(&entry);
    }
    let stop_file = args.output.join(STOP_FILE);
    let is_stopped = || stop.load(Ordering::Relaxed) || stop_file.exists();
    let mut settings: Option<Settings> = None;
    let (mut last_new, mut lists_due) = (Instant::now(), None);
    status::say(&format!("watching {}; Ctrl-C ends, and so does a file {}", folder.display(), stop_file.display()), args.json);
    let mut is_lost = false;
    while !is_stopped() && !is_lost {
        let look = arrivals.look(Instant::now()).or_usage()?;
        log.note(&look, "watching")?;
        let unrested = look.unrested;
        for (path, other) in &look.twins {
            log.fail(
                path,
                &format!("{}: its outputs would be called as those of {}; rename one", path.display(), other.display()),
                args.json,
            )?;
        }
        if !look.ready.is_empty() {
            last_new = Instant::now();
            lists_due.get_or_insert(Instant::now() + lists_every);
            log.states.extend(look.ready.iter().cloned());
            let mut ready = look.ready;
            if settings.is_none() {
                // What is settled for all micrographs must not fail because the first one to arrive is broken.
                let (readable, broken): (Vec<_>, Vec<_>) =
                    ready.into_iter().map(|one| (read_info(&one.0, &asked.read), one)).partition(|(info, _)| info.is_ok());
                for (info, (path, _)) in broken {
                    log.fail(&path, &info.err().map(|error| format!("{error:#}")).unwrap_or_default(), args.json)?;
                }
                ready = readable.into_iter().map(|(_, one)| one).collect();
                if ready.is_empty() {
                    continue;
                }
            }
            let batch = Batch::of(&args, &asked, None, list_of(&ready)).or_usage()?;
            batch.make_folder().or_usage()?;
            let mut told = Teller::new(&args, &batch);
            let settings = match &settings {
                Some(settings) => settings,
                None => {
                    let given = asked.of_model.scale_given(batch.looking(&asked), &mut workers).or_usage()?;
                    told.beginning(&args, &asked, &batch, &chosen);
                    let found = settled(&args, &asked, given, &batch, &mut workers, &told)?;
                    write_record(&found, &batch)?;
                    settings.insert(found)
                }
            };
            batch.refuse_mixture(settings).or_usage()?;
            let mut both = Both { told: &mut told, log: &mut log, settings, error: None };
            let all_begun = run::run(Source::list(&batch.jobs, &is_stopped), &mut workers, settings, &mut both);
            workers.take_losses().iter().for_each(|loss| both.told.warn(loss));
            if let Some(error) = both.error {
                return Err(error); // a journal that cannot be written would forget what is done
            }
            if let Err(error) = all_begun {
                status::tell(&format!("error: {error:#}"));
                is_lost = true;
            }
            log.note(&Look::default(), "watching")?;
            continue; // more may have come meanwhile
        }
        if lists_due.is_some_and(|due| Instant::now() >= due) {
            cover(&args, &asked, settings.as_ref())?;
            lists_due = None;
        }
        let is_idle = unrested == 0 && args.watch.stop_after.is_some_and(|seconds| last_new.elapsed().as_secs_f64() >= seconds);
        if is_idle {
            break;
        }
        let until = Instant::now() + poll;
        while Instant::now() < until && !is_stopped() {
            std::thread::sleep(BEAT.min(until.saturating_duration_since(Instant::now())));
        }
    }
    cover(&args, &asked, settings.as_ref())?;
    log.note(&Look::default(), "ended")?;
    status::say(&log.summary(), args.json);
    Ok(match (stop.load(Ordering::Relaxed), log.failed == 0 && !is_lost) {
        (true, _) => interrupt::status(),
        (false, true) => status::DONE,
        (false, false) => status::FAILED,
    })
}

/// Files as a list of micrographs.
fn list_of(files: &[(PathBuf, FileState)]) -> MicrographList {
    let found = |(path, _): &(PathBuf, FileState)| Micrograph {
        path: path.clone(),
        name: path.display().to_string(),
        pixel_size: Default::default(),
    };
    MicrographList { micrographs: files.iter().map(found).collect(), ..MicrographList::default() }
}

/// Writes the lists and the page of the whole folder.
fn cover(args: &PickArgs, asked: &super::Asked, settings: Option<&Settings>) -> Result<()> {
    let Some(settings) = settings else { return Ok(()) };
    let batch = Batch::of(args, asked, None, MicrographList::default())?;
    let none = Default::default();
    let look = || batch.covered(&none, &none, settings);
    write_covering(look, |covered| write_lists(covered, settings, None, &batch.folder))?;
    if args.report {
        let told = Teller::new(args, &batch);
        write_report(args, settings, &batch, &told)?;
    }
    Ok(())
}

/// Both who hear of a round: the terminal, and the journal.
struct Both<'a> {
    told: &'a mut Teller,
    log: &'a mut Log,
    settings: &'a Settings,
    error: Option<anyhow::Error>,
}

impl Told for Both<'_> {
    fn finished(&mut self, job: &Job, seen: &Seen, found: &Found) {
        self.told.finished(job, seen, found);
        let scores: Vec<f64> = seen
            .peaks
            .iter()
            .map(|peak| f64::from(peak.score))
            .filter(|score| *score > f64::from(self.settings.limits.vis_thresh))
            .collect();
        let mean = (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64);
        let added = self.log.add(&job.input.path, Outcome::Picked(found.picks, mean));
        self.error = self.error.take().or(added.err());
    }

    fn failed(&mut self, job: &Job, error: &anyhow::Error) {
        self.told.failed(job, error);
        let added = self.log.add(&job.input.path, Outcome::Failed(format!("{error:#}")));
        self.error = self.error.take().or(added.err());
    }
}

/// What has been done so far, and where it is written.
struct Log {
    journal: Journal,
    status: PathBuf,
    watched: PathBuf,
    started: f64,
    picked: usize,
    failed: usize,
    picks: usize,
    latencies: f64,
    last: VecDeque<Entry>,
    failures: VecDeque<Entry>,
    unrested: usize,
    /// Files as they were when they were taken: one that is replaced while it is picked is to be picked again.
    states: HashMap<PathBuf, FileState>,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

impl Log {
    fn new(journal: Journal, watched: &Path, output: &Path) -> Log {
        Log {
            journal,
            status: output.join(STATUS_FILE),
            watched: watched.to_owned(),
            started: now(),
            picked: 0,
            failed: 0,
            picks: 0,
            latencies: 0.0,
            last: VecDeque::new(),
            failures: VecDeque::new(),
            unrested: 0,
            states: HashMap::new(),
        }
    }

    /// Counts what became of a micrograph.
    fn take(&mut self, entry: &Entry) {
        // One that is picked again after it has changed counts once.
        match &entry.outcome {
            Outcome::Picked(picks, _) => {
                self.picked += 1;
                self.picks += picks;
                self.latencies += entry.latency;
                self.last.push_back(entry.clone());
            }
            Outcome::Failed(_) => {
                self.failed += 1;
                self.failures.push_back(entry.clone());
            }
        }
        for (entries, most) in [(&mut self.last, TREND), (&mut self.failures, NAMED)] {
            while entries.len() > most {
                entries.pop_front();
            }
        }
    }

    fn add(&mut self, path: &Path, outcome: Outcome) -> Result<()> {
        let state = self.states.remove(path).or_else(|| FileState::of(path));
        let state = state.unwrap_or(FileState { bytes: 0, time: "0.0".to_owned() });
        let modified: f64 = state.time.parse().unwrap_or(0.0);
        let time = now();
        let entry = Entry { time, micrograph: path.to_owned(), latency: (time - modified).max(0.0), state, outcome };
        self.journal.add(&entry)?;
        self.take(&entry);
        self.write("watching")
    }

    /// A file that cannot be picked at all.
    fn fail(&mut self, path: &Path, message: &str, is_json: bool) -> Result<()> {
        status::tell(&format!("error: {message}"));
        if is_json {
            status::print_json(&json!({ "event": "error", "micrograph": path, "message": message }));
        }
        self.add(path, Outcome::Failed(message.to_owned()))
    }

    fn note(&mut self, look: &Look, state: &str) -> Result<()> {
        self.unrested = look.unrested + look.ready.len();
        self.write(state)
    }

    /// Writes status.json, whole, so that whoever reads it sees the old one or the new one.
    fn write(&self, state: &str) -> Result<()> {
        let named = |entry: &Entry| {
            let mut object = json!({ "micrograph": entry.micrograph, "time": entry.time });
            match &entry.outcome {
                Outcome::Picked(picks, score) => (object["picks"], object["mean_score"]) = (json!(picks), json!(score)),
                Outcome::Failed(error) => object["error"] = json!(error),
            }
            object
        };
        let trend = |of: fn(&Entry) -> Value| -> Vec<Value> { self.last.iter().map(of).collect() };
        let picks = |entry: &Entry| match entry.outcome {
            Outcome::Picked(picks, _) => json!(picks),
            Outcome::Failed(_) => Value::Null,
        };
        let score = |entry: &Entry| match entry.outcome {
            Outcome::Picked(_, score) => json!(score.map(|score| (score * 1e4).round() / 1e4)),
            Outcome::Failed(_) => Value::Null,
        };
        // The rate is that of the last micrographs, so that a night without any does not count for ever.
        let span = self.last.front().zip(self.last.back()).map(|(first, last)| last.time - first.time).filter(|span| *span > 0.0);
        let rate = span.map(|span| ((self.last.len() - 1) as f64 / span * 3600.0).round());
        let value = json!({
            "state": state,
            "time": now(),
            "started": self.started,
            "watched": self.watched,
            "picked": self.picked,
            "failed": self.failed,
            "waiting": self.unrested,
            "picks": self.picks,
            "per_hour": rate,
            "latency_seconds": (self.picked > 0).then(|| json!({
                "last": self.last.back().map(|entry| entry.latency),
                "mean": self.latencies / self.picked as f64,
            })),
            "disk_free_bytes": free_bytes(&self.status),
            "last": self.last.iter().rev().take(NAMED).map(named).collect::<Vec<Value>>(),
            "failures": self.failures.iter().rev().map(named).collect::<Vec<Value>>(),
            "trend": { "picks": trend(picks), "mean_score": trend(score) },
        });
        write_whole_unsynced(&self.status, format!("{value:#}\n").as_bytes())
    }

    fn summary(&self) -> String {
        let counted = crate::words::counted;
        let [picked, picks, failures] = [counted(self.picked, "micrograph"), counted(self.picks, "pick"), counted(self.failed, "failure")];
        format!("{picked}, {picks}, {failures}")
    }
}

/// Free bytes of the file system of a file, where the system tells it.
fn free_bytes(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let of = rustix::fs::statvfs(path.parent()?).ok()?;
        Some(of.f_bavail.saturating_mul(of.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}
