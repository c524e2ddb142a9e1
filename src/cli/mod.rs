//! The commands: arguments, and the story of each on one screen.

pub mod bench;
pub mod check; //       labels on micrographs: a look before anybody trains
pub mod convert; //     model files from one format to the other
pub mod coords; //      coordinate files from any format to any other
pub mod demo; //        simulate, pick, eval: what this program does
pub mod device; //      --gpus: which device works
pub mod doctor; //      what this machine computes with
pub mod eval; //        picks against labels
pub mod exemplar; //    labelled images kept for later trainings
pub mod interrupt; //   Ctrl-C, SIGTERM and SIGHUP
pub mod label_args; // options shared by `check` and `exemplar`
pub mod limits; //      options shared by `pick` and `rethreshold`
pub mod merge; //       what several runs picked into one folder
pub mod pick;
pub mod plan; //        the network's layers, shapes, operations and memory
pub mod print; //       lines on standard output and standard error, without a panic
pub mod progress; //    a bar on a terminal, plain lines otherwise, --json lines for programs
pub mod record; //      the record of a run, beside its outputs
pub mod relion; //      options shared by `pick` and `train`: an External job
pub mod rethreshold;
pub mod settle; //      what `pick` and `eval` settle before they begin: what is looked for, and its scale
pub mod simulate; //    micrographs with known truth
pub mod spelling; //    what a command line means: short forms, names of the original, and what was meant by a wrong one
pub mod status; //      exit status
pub mod threads; //     how many
pub mod train;
pub mod values; //      numbers with their allowed range
pub mod view; //        the workbench in a browser

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use status::{Usage, status_of};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::LazyLock;

/// Finds particles, vesicles and filaments in cryo-EM micrographs
#[derive(Parser)]
#[command(name = "epicker", version, disable_help_subcommand = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What `epicker --help` ends with.
const AFTER_HELP: &str = "epicker help COMMAND tells the options of a command.";

/// What `--version` tells: the version, the commit, and the GPUs for which the program has machine code. `-V` tells the first.
static VERSION_IN_FULL: LazyLock<String> = LazyLock::new(|| {
    let kernels = crate::doctor::kernels().unwrap_or_else(|error| format!("kernels: {error:#}"));
    format!("{}\ncommit {}\n{kernels}", env!("CARGO_PKG_VERSION"), commit())
});

/// The commit that the program was made from.
pub fn commit() -> &'static str {
    option_env!("EPICKER_COMMIT").unwrap_or("unknown, a build for development or without git")
}

#[derive(Subcommand)]
enum Command {
    /// Show what this program does: simulate micrographs, pick them, compare with the truth
    Demo(demo::DemoArgs),
    /// Find particles, vesicles or fibers in micrographs
    Pick(Box<pick::PickArgs>),
    /// Write the outputs of an earlier run again with other thresholds, without the network
    Rethreshold(Box<rethreshold::RethresholdArgs>),
    /// Join what several runs picked into one folder: lists, the page, and what is missing
    Merge(merge::MergeArgs),
    /// Convert coordinate files from any format to any other
    Coords(Box<coords::CoordsArgs>),
    /// Label and correct micrographs in a browser, and learn from that
    View(Box<view::ViewArgs>),
    /// Compare picks with labels: average precision, recall, centre error, and more
    Eval(Box<eval::EvalArgs>),
    /// Look at labels before training: matches, counts, pictures, and whether y is mirrored
    Check(Box<check::CheckArgs>),
    /// Keep labelled images for later trainings: create, list or prune
    Exemplar(Box<exemplar::ExemplarArgs>),
    /// Teach a network to find what is labelled, from nothing or from a model
    Train(Box<train::TrainArgs>),
    /// Tell what this machine computes with, and whether it computes what it should
    Doctor(doctor::DoctorArgs),
    /// Measure how fast this machine picks
    Bench(bench::BenchArgs),
    /// Convert a model between PyTorch's .pth and .safetensors, and say what it holds
    Convert(convert::ConvertArgs),
    /// Make micrographs with known truth: particles, vesicles or filaments in ice
    Simulate(Box<simulate::SimulateArgs>),
    /// Print the network's layers, shapes, operations, bytes and the peak of memory
    Plan(plan::PlanArgs),
}

impl Command {
    /// True for commands that make no file: their text is all there is.
    fn is_only_text(&self) -> bool {
        match self {
            Command::Doctor(_) | Command::Bench(_) | Command::Plan(_) => true,
            Command::Convert(args) => args.is_only_text(),
            Command::Exemplar(args) => args.is_only_text(),
            _ => false,
        }
    }
}

/// Runs the program with the process's arguments; returns the exit status
/// (0 done, 1 something failed, 2 wrong usage, 129, 130 or 143 stopped by a signal, 141 the reader of a text went away).
pub fn run() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let status = interrupt::listen().and_then(|()| run_with(args.clone())).unwrap_or_else(|error| {
        status::tell(&format!("error: {error:#}"));
        relion::mark_failed_job(&args);
        print::conclude(status_of(&error), false)
    });
    ExitCode::from(status)
}

fn run_with(args: Vec<OsString>) -> anyhow::Result<u8> {
    let (command, ignored) = match understand(args)? {
        Asked::Text(text) => {
            print::note(text.print());
            return Ok(print::conclude(status::DONE, true));
        }
        Asked::Command { command, ignored, is_quiet } => {
            if is_quiet {
                status::be_quiet();
            }
            (command, ignored)
        }
    };
    if !ignored.is_empty() {
        status::tell(&format!("warning: {}: no meaning here; ignored", ignored.join(", ")));
    }
    let is_only_text = command.is_only_text();
    let status = match command {
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Pick(args) => pick::run(*args),
        Command::Rethreshold(args) => rethreshold::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Coords(args) => coords::run(&args),
        Command::View(args) => view::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Exemplar(args) => exemplar::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Simulate(args) => simulate::run(&args),
    }?;
    Ok(print::conclude(status, is_only_text))
}

/// What a command line asks for.
enum Asked {
    /// Help, or the version.
    Text(clap::Error),
    /// A command.
    Command {
        command: Command,
        /// Options of the original that were left out because they mean nothing here.
        ignored: Vec<String>,
        /// True if only warnings and errors are to be told.
        is_quiet: bool,
    },
}

/// Whether a command line can be understood: the documentation's are, and a test sees to it. Looks at no file that the
/// command line names, and runs nothing.
///
/// Errors: what the program would say of the wrong usage.
pub fn check_command_line(args: Vec<OsString>) -> anyhow::Result<()> {
    understand(args).map(|_| ())
}

/// All commands and options, from which man pages and completions of shells are made.
pub fn commands() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        // Values such as -1 must not be taken for options; the allowed ranges judge them.
        command.arg(quiet_arg()).args_override_self(true).mut_args(with_negative_numbers)
    })
}

fn understand(args: Vec<OsString>) -> anyhow::Result<Asked> {
    let mut commands = commands();
    // Other command lines need not read which kernels there are.
    if args.iter().any(|arg| arg == "--version") {
        commands = commands.long_version(VERSION_IN_FULL.as_str());
    }
    let (args, ignored) = spelling::canonical(args, &commands)?;
    let called = args.get(1).and_then(|name| commands.find_subcommand(name)).cloned();
    let understood = commands.try_get_matches_from_mut(args).and_then(|matches| {
        let is_quiet = matches.subcommand().is_some_and(|(_, of_command)| of_command.get_flag(QUIET));
        Cli::from_arg_matches(&matches).map(|cli| (cli, is_quiet))
    });
    match understood {
        Ok((cli, is_quiet)) => Ok(Asked::Command { command: cli.command, ignored, is_quiet }),
        Err(asked) if !asked.use_stderr() => Ok(Asked::Text(asked)),
        Err(wrong) => Err(Usage::because(spelling::one_line(&wrong, called.as_ref())).into()),
    }
}

/// The option that every command has.
const QUIET: &str = "quiet";

fn quiet_arg() -> clap::Arg {
    let help = "Tell warnings and errors only; with --json its objects, too";
    clap::Arg::new(QUIET).long(QUIET).short('q').action(clap::ArgAction::SetTrue).help(help)
}

fn with_negative_numbers(arg: clap::Arg) -> clap::Arg {
    if arg.get_action().takes_values() { arg.allow_negative_numbers(true) } else { arg }
}
