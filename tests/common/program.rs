//! The program, run as a user runs it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The program: the one that was built with the tests, or, for a study, the one that `EPICKER` names.
pub fn program() -> OsString {
    std::env::var_os("EPICKER").unwrap_or_else(|| env!("CARGO_BIN_EXE_epicker").into())
}

/// Runs `epicker` with these arguments.
pub fn epicker(args: &[&str]) -> Output {
    Command::new(program()).args(args).output().unwrap()
}

/// Asserts wrong usage: exit status 2, and one line on standard error that has `word` in it.
pub fn is_refused(result: &Output, word: &str) {
    let text = String::from_utf8_lossy(&result.stderr);
    assert_eq!(result.status.code(), Some(2), "{text}");
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert!(text.lines().all(|line| line.starts_with("error: ") || line.starts_with("warning: ")), "{text}");
    assert!(errors[0].contains(word), "'{}' lacks '{word}'", errors[0]);
}

/// Waits until something that another process does has happened. The hour is for a process that does not do it at all: a
/// busy machine takes as long as it takes.
pub fn wait_until(mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(3600), "nothing happened for an hour");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `epicker` with these arguments, and tells how many seconds of processor time it took: what other programs do
/// meanwhile changes that little, and the time on the clock much.
pub fn epicker_timed(args: &[&str]) -> (Output, f64) {
    // `times` of a shell prints its own time in its first line and, in its second, that of what it ran.
    let script = "\"$0\" \"$@\" >&2; status=$?; times; exit $status";
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_epicker")]).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let of_child = text.lines().nth(1).unwrap_or_else(|| panic!("no second line in '{text}'"));
    let seconds = |time: &str| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').unwrap();
        60.0 * minutes.parse::<f64>().unwrap() + seconds.parse::<f64>().unwrap()
    };
    (output, of_child.split_whitespace().map(seconds).sum())
}

/// `epicker` under way: its lines can be waited for, and it can be sent signals.
pub struct Running {
    child: Child,
    /// Lines of standard output and of standard error, as they come.
    lines: Receiver<String>,
    /// All lines so far.
    pub told: Vec<String>,
}

impl Running {
    /// Starts `epicker` with these arguments in a folder.
    pub fn start(folder: &Path, args: &[&str]) -> Running {
        Running::of(Command::new(program()).args(args).current_dir(folder))
    }

    /// Starts a command.
    pub fn of(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] = [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let send = send.clone();
            std::thread::spawn(move || BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        }
        Running { child, lines, told: Vec::new() }
    }

    /// Waits until a line with `word` has been told.
    pub fn wait_for(&mut self, word: &str) {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("nothing says '{word}': {:#?}", self.told));
            self.told.push(line);
            if self.told.last().unwrap().contains(word) {
                return;
            }
        }
    }

    /// Sends a signal: `INT`, `TERM`, `HUP` or `KILL`.
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap().success());
    }

    /// KiB of memory that the program has in use, where the system tells it.
    pub fn memory_kib(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse().ok()
    }

    /// Waits for the end; the exit status.
    pub fn end(&mut self) -> Option<i32> {
        // Until both streams are closed, which is when the program ends.
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.told.push(line);
        }
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of a test that failed; otherwise the program has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Longer than any step of the tests takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
