//! What a command line means, however its commands and options are spelt, and what to say if they mean nothing.
//!
//! Programs that call the original rely on a parser that takes hyphens for underscores and any unique beginning of a name, and
//! they pass options that mean nothing here. All of that is understood. Users mistype, carry over names from other programs,
//! and copy commands out of documents that turn hyphens into dashes. They are told what they probably meant.

use super::status::Usage;
use crate::words::{did_you_mean, meant, row};
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Names that the original knows and that mean nothing here, and whether a value follows.
const IGNORED: [(&str, bool); 19] = [
    ("task", true),
    ("dataset", true),
    ("arch", true),
    ("down_ratio", true),
    ("debug", true),
    ("num_workers", true),
    ("debugger_theme", true),
    ("hide_data_time", false),
    ("print_iter", true),
    ("metric", true),
    ("not_cuda_benchmark", false),
    ("master_batch_size", true),
    ("val_intervals", true),
    ("demo", true),
    ("split", true),
    ("target_size", true),
    ("input_res", true),
    ("input_h", true),
    ("input_w", true),
];

/// Names that are ignored only with one of these values. The last part says what is expected where the value is another one.
const ONLY_VALUES: [(&str, &[&str], &str); 6] = [
    ("task", &["ctdet"], "ctdet"),
    ("arch", &["dla_34"], "dla_34"),
    ("down_ratio", &["4"], "4"),
    ("input_res", &["-1", "1024"], "1024; give other sizes with --frame"),
    ("input_h", &["-1", "1024"], "1024; give other sizes with --frame"),
    ("input_w", &["-1", "1024"], "1024; give other sizes with --frame"),
];

/// Names of the original's picking that are refused.
const REFUSED: [&str; 5] = ["keep_res", "flip_test", "test_scales", "nms", "not_reg_offset"];

/// What other programs call our options. These names are not understood on a command line. They only serve to say which option
/// was probably meant, in the commands that have it.
const ELSEWHERE: [(&str, &str); 47] = [
    ("i", "data"),
    ("j", "threads"),
    ("m", "load_model"),
    ("input", "data"),
    ("micrographs", "data"),
    ("mics", "data"),
    ("images", "data"),
    ("folder", "data"),
    ("model", "load_model"),
    ("weights", "load_model"),
    ("checkpoint", "load_model"),
    ("out", "output"),
    ("output_dir", "output"),
    ("outdir", "output"),
    ("out_dir", "output"),
    ("dest", "output"),
    ("output_dir", "exp_id"),
    ("outdir", "exp_id"),
    ("name", "exp_id"),
    ("apix", "angpix"),
    ("pixel_size", "angpix"),
    ("pixelsize", "angpix"),
    ("particle_diameter", "diameter"),
    ("radius", "diameter"),
    ("min_score", "vis_thresh"),
    ("cutoff", "vis_thresh"),
    ("score", "vis_thresh"),
    ("confidence", "vis_thresh"),
    ("distance", "min_distance"),
    ("nms_distance", "min_distance"),
    ("border", "edge"),
    ("format", "output_type"),
    ("type", "output_type"),
    ("format", "to"),
    ("output_type", "to"),
    ("jobs", "threads"),
    ("nproc", "threads"),
    ("num_threads", "threads"),
    ("cpus", "threads"),
    ("device", "gpus"),
    ("cpu", "gpus"),
    ("cuda", "gpus"),
    ("epochs", "num_epoch"),
    ("learning_rate", "lr"),
    ("labels", "label"),
    ("annotations", "label"),
    ("force", "overwrite"),
];

/// The arguments, with every command and option spelt as `commands` knows it. Options that are ignored are left out; their
/// names are returned second.
///
/// `args[0]` is the program, `args[1]` the command. `help NAME` becomes `NAME --help`. A command that needs arguments and has
/// none asks for help, too, because the callers' wrappers show the usage in that case.
///
/// Errors: an unknown command, an unknown or ambiguous name, a name that is not supported, a value where none belongs.
pub fn canonical(mut args: Vec<OsString>, commands: &clap::Command) -> Result<(Vec<OsString>, Vec<String>), Usage> {
    let is_quiet = |arg: &OsString| arg == "--quiet" || arg == "-q";
    // Options that every command has may stand before the command.
    let before = args.iter().skip(1).take_while(|arg| is_quiet(arg)).count();
    args[1..].rotate_left(before);
    let Some(word) = args.get(1).filter(|_| args.len() > before + 1) else { return Ok((with_help(&args[..1]), Vec::new())) };
    if word == "help" {
        return Ok((help(&args, commands)?, Vec::new()));
    }
    if ["--help", "-h", "--version", "-V"].iter().any(|known| word == known) {
        return Ok((args, Vec::new()));
    }
    let Some(command) = commands.find_subcommand(word) else { return Err(unknown_command(word, commands)) };
    let needs_more = command.get_arguments().any(clap::Arg::is_required_set) || command.get_name() == "pick";
    if needs_more && args.len() == 2 + before {
        return Ok((with_help(&args[..2]), Vec::new()));
    }
    options(args, command)
}

fn with_help(args: &[OsString]) -> Vec<OsString> {
    args.iter().cloned().chain([OsString::from("-h")]).collect()
}

/// `help`, `help pick`.
fn help(args: &[OsString], commands: &clap::Command) -> Result<Vec<OsString>, Usage> {
    let Some(word) = args.get(2) else { return Ok(with_help(&args[..1])) };
    match commands.find_subcommand(word) {
        Some(_) => Ok(vec![args[0].clone(), word.clone(), "--help".into()]),
        None => Err(unknown_command(word, commands)),
    }
}

fn unknown_command(word: &OsStr, commands: &clap::Command) -> Usage {
    let text = word.to_string_lossy();
    let names: Vec<&str> = commands.get_subcommands().map(clap::Command::get_name).collect();
    if let Some(option) = text.strip_prefix('-') {
        let after = if option.is_empty() { "--data".into() } else { text };
        return Usage::because(format!(
            "{after}: no command stands before it; the command comes first, for example epicker pick {after} ..."
        ));
    }
    if Path::new(word).exists() {
        return Usage::because(format!(
            "{text}: is a path, not a command; the command comes first, for example epicker pick --data {text}"
        ));
    }
    let hint = did_you_mean(&text, names.iter().copied());
    Usage::because(format!("{text}: unknown command; expected {}{hint}", row(&names, "or")))
}

/// The options of one command's arguments.
fn options(args: Vec<OsString>, command: &clap::Command) -> Result<(Vec<OsString>, Vec<String>), Usage> {
    let known = Names::of(command, &args);
    let mut ignored: Vec<String> = Vec::new();
    let mut rest = args.into_iter().peekable();
    let mut out: Vec<OsString> = rest.by_ref().take(2).collect();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            out.push(arg);
            break;
        }
        let Some((name, value)) = split(&arg) else {
            known.check_short(&arg)?;
            let takes_value = known.short_takes_value(&arg);
            out.push(arg);
            out.extend(rest.next_if(|next| takes_value && !is_option(next)));
            continue;
        };
        match known.find(&name)? {
            Known::Option { spelt, takes_value } => {
                let mut full = OsString::from(format!("--{spelt}"));
                if let Some(value) = &value {
                    if !takes_value {
                        let value = value.to_string_lossy();
                        return Err(Usage::because(format!("--{spelt}={value}: this option takes no value; leave out ={value}")));
                    }
                    full.push("=");
                    full.push(value);
                }
                out.push(full);
                // A value is not looked at: -1 is one, and a file may be called anything.
                out.extend(rest.next_if(|next| takes_value && value.is_none() && !is_option(next)));
            }
            Known::Ignored { spelt, takes_value } => {
                let value = if takes_value { value.or_else(|| rest.next()) } else { None };
                check_value(spelt, value.as_deref())?;
                let spelt = format!("--{spelt}");
                if !ignored.contains(&spelt) {
                    ignored.push(spelt);
                }
            }
            Known::Refused(spelt) => {
                return Err(Usage::because(format!("--{spelt}: not supported; leave it out")));
            }
        }
    }
    out.extend(rest);
    Ok((out, ignored))
}

/// True for what cannot be the value of an option.
fn is_option(arg: &OsStr) -> bool {
    arg.as_encoded_bytes().starts_with(b"--")
}

#[derive(Clone, Debug, PartialEq)]
enum Known {
    Option { spelt: String, takes_value: bool },
    Ignored { spelt: &'static str, takes_value: bool },
    Refused(&'static str),
}

impl Known {
    fn told(&self) -> String {
        match self {
            Known::Option { spelt, .. } => format!("--{spelt}"),
            Known::Ignored { spelt, .. } | Known::Refused(spelt) => format!("--{spelt}"),
        }
    }
}

/// The option names of a command, with hyphens, and what each stands for.
struct Names {
    command: String,
    /// Names that --help shows.
    shown: Vec<(String, Known)>,
    /// Names that --help does not show: other spellings of options, and names of the original. A beginning of a name means one
    /// of them only if no shown name begins so.
    hidden: Vec<(String, Known)>,
    /// Options of one letter: the letter, the option that it stands for, and whether a value follows.
    short: Vec<(char, String, bool)>,
}

/// Options that RELION passes to an External job, and what else their names may mean. Without a list of micrographs from RELION
/// they are not options of such a job.
const OF_RELION: [(&str, &str); 2] = [("o", "output"), ("j", "threads")];

impl Names {
    fn of(command: &clap::Command, args: &[OsString]) -> Names {
        let flag = |name: &str| Known::Option { spelt: name.to_string(), takes_value: false };
        let mut names = Names {
            command: command.get_name().to_string(),
            shown: vec![("help".to_string(), flag("help"))],
            hidden: Vec::new(),
            short: vec![('h', "help".to_string(), false)],
        };
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            let takes_value = arg.get_action().takes_values();
            let known = Known::Option { spelt: long.to_string(), takes_value };
            names.shown.push((hyphens(long), known.clone()));
            names.shown.extend(arg.get_visible_aliases().unwrap_or_default().iter().map(|name| (hyphens(name), known.clone())));
            names.hidden.extend(arg.get_aliases().unwrap_or_default().iter().map(|name| (hyphens(name), known.clone())));
            names.short.extend(arg.get_short().map(|short| (short, long.to_string(), takes_value)));
        }
        let is_of_relion = args.iter().filter_map(|arg| split(arg)).any(|(name, _)| hyphens(&name) == "in-mics");
        if matches!(command.get_name(), "pick" | "train") && !is_of_relion {
            for (name, meaning) in OF_RELION {
                if let Some((_, known)) = names.shown.iter().find(|(shown, _)| shown == meaning).cloned() {
                    names.shown.iter_mut().filter(|(shown, _)| shown == name).for_each(|(_, meant)| *meant = known.clone());
                }
            }
        }
        if matches!(command.get_name(), "pick" | "train") {
            let ignored = IGNORED.map(|(spelt, takes_value)| (spelt, Known::Ignored { spelt, takes_value }));
            let refused = REFUSED.map(|spelt| (spelt, Known::Refused(spelt)));
            for (name, meaning) in ignored.into_iter().chain(refused) {
                if !names.all().any(|(other, _)| *other == hyphens(name)) {
                    names.hidden.push((hyphens(name), meaning));
                }
            }
        }
        names
    }

    fn all(&self) -> impl Iterator<Item = &(String, Known)> {
        self.shown.iter().chain(&self.hidden)
    }

    /// What a name means: itself, or the one option that begins so.
    ///
    /// Errors: several options begin so, or none.
    fn find(&self, name: &str) -> Result<Known, Usage> {
        let wanted = hyphens(name);
        if let Some((_, exact)) = self.all().find(|(name, _)| *name == wanted) {
            return Ok(exact.clone());
        }
        // Somebody who writes `--k 500` means --K, and not --keep-dirs.
        if let Some((_, other)) = self.all().find(|(known, _)| known.eq_ignore_ascii_case(&wanted)) {
            return Err(self.unknown(name, &format!("; did you mean {}?", other.told())));
        }
        // Everybody means --output by --out, even if the command has other options that begin so, as coords has --outside.
        if wanted.len() >= 3
            && "output".starts_with(&wanted)
            && let Some((_, output)) = self.all().find(|(known, _)| *known == "output")
        {
            return Ok(output.clone());
        }
        for names in [&self.shown, &self.hidden] {
            let begun: Vec<&(String, Known)> = names.iter().filter(|(full, _)| full.starts_with(&wanted) && !wanted.is_empty()).collect();
            // --outp is --output, although --output_type begins so, too. If one name is the beginning of all others, that one
            // is meant.
            let first = begun.iter().min_by_key(|(full, _)| full.len());
            let Some((shortest, meaning)) = first else { continue };
            if begun.iter().all(|(full, other)| full.starts_with(shortest.as_str()) || other == meaning) {
                return Ok(meaning.clone());
            }
            // An option is told by the one of its names that begins so.
            let named = |(full, known): &&(String, Known)| match known.told() {
                told if hyphens(&told[2..]).starts_with(&wanted) => told,
                _ => format!("--{full}"),
            };
            let mut told: Vec<String> = begun.iter().map(named).collect();
            told.dedup();
            return Err(Usage::because(format!("--{name}: ambiguous; expected one of {}", told.join(", "))));
        }
        Err(self.unknown(name, &self.hint(&wanted)))
    }

    fn unknown(&self, name: &str, hint: &str) -> Usage {
        let hint =
            if hint.is_empty() { format!("; expected one of those that epicker help {} lists", self.command) } else { hint.to_string() };
        Usage::because(format!("--{name}: unknown option{hint}"))
    }

    /// What was probably meant by an unknown name.
    fn hint(&self, wanted: &str) -> String {
        let near = || {
            let name = meant(wanted, self.shown.iter().map(|(name, _)| name.as_str()))?;
            self.told(name)
        };
        match self.hint_of_elsewhere(wanted).or_else(near) {
            Some(option) if option == "--gpus" && wanted == "cpu" => "; did you mean --gpus -1?".to_string(),
            Some(option) => format!("; did you mean {option}?"),
            None => String::new(),
        }
    }

    /// How a shown name is told: `--load_model`.
    fn told(&self, name: &str) -> Option<String> {
        self.shown.iter().find(|(known, _)| *known == hyphens(name)).map(|(_, known)| known.told())
    }

    /// The option of this command that has this name in other programs.
    fn hint_of_elsewhere(&self, wanted: &str) -> Option<String> {
        ELSEWHERE.iter().filter(|(other, _)| hyphens(other) == wanted).find_map(|(_, ours)| self.told(ours))
    }

    /// Refuses words with one hyphen that are not options of one letter, and dashes in the place of hyphens.
    fn check_short(&self, arg: &OsStr) -> Result<(), Usage> {
        let Some(text) = arg.to_str() else { return Ok(()) };
        if text.starts_with(['\u{2010}', '\u{2011}', '\u{2012}', '\u{2013}', '\u{2014}', '\u{2212}']) && !Path::new(arg).exists() {
            let name = text.trim_start_matches(|c: char| !c.is_ascii()).trim_start_matches('-');
            return Err(Usage::because(format!(
                "{text}: begins with a dash, not with hyphens, as copied from a document; did you mean --{name}?"
            )));
        }
        let Some(word) = text.strip_prefix('-').filter(|word| !word.is_empty() && word.parse::<f64>().is_err()) else { return Ok(()) };
        let name = word.split('=').next().unwrap_or(word);
        // Without this, `-outdir picks` would mean `-o utdir`, and write into a folder called utdir.
        let name_meant = if name.starts_with("out") { "output" } else { name };
        let long = if name.len() > 1 { self.find(name_meant).ok() } else { None };
        if let Some(long) = long {
            return Err(Usage::because(format!(
                "-{name}: options of more than a letter begin with two hyphens; did you mean {}?",
                long.told()
            )));
        }
        if self.short.iter().any(|(short, _, _)| word.starts_with(*short)) {
            return Ok(());
        }
        let elsewhere = self.hint_of_elsewhere(name);
        let letter = name.chars().count() == 1 && elsewhere.is_none();
        let begun: Vec<&str> = self.shown.iter().map(|(full, _)| full.as_str()).filter(|full| letter && full.starts_with(name)).collect();
        let hint = match begun.as_slice() {
            [only] => format!("; did you mean --{only}?"),
            _ if elsewhere.is_some() => format!("; did you mean {}?", elsewhere.unwrap_or_default()),
            _ => format!("; expected one of those that epicker help {} lists", self.command),
        };
        Err(Usage::because(format!("-{name}: unknown option{hint}")))
    }

    fn short_takes_value(&self, arg: &OsStr) -> bool {
        let is_it = |short: char| arg.to_str().is_some_and(|text| text == format!("-{short}"));
        self.short.iter().any(|(short, _, takes_value)| *takes_value && is_it(*short))
    }
}

fn hyphens(name: &str) -> String {
    name.replace('_', "-")
}

/// Name and value of `--name` or `--name=value`; none for anything else.
fn split(arg: &OsStr) -> Option<(String, Option<OsString>)> {
    if let Some(text) = arg.to_str() {
        let option = text.strip_prefix("--").filter(|option| !option.is_empty())?;
        return Some(match option.split_once('=') {
            Some((name, value)) => (name.to_string(), Some(value.into())),
            None => (option.to_string(), None),
        });
    }
    split_bytes(arg)
}

/// The same as [`split`] for a value that is not UTF-8, because a path may hold any bytes.
#[cfg(unix)]
fn split_bytes(arg: &OsStr) -> Option<(String, Option<OsString>)> {
    use std::os::unix::ffi::OsStrExt;
    let option = arg.as_bytes().strip_prefix(b"--")?;
    let end = option.iter().position(|&byte| byte == b'=')?;
    let name = std::str::from_utf8(&option[..end]).ok()?.to_string();
    Some((name, Some(OsStr::from_bytes(&option[end + 1..]).to_os_string())))
}

#[cfg(not(unix))]
fn split_bytes(_: &OsStr) -> Option<(String, Option<OsString>)> {
    None
}

/// Refuses a value of an ignored option that asks for something else than what is done.
fn check_value(name: &str, value: Option<&OsStr>) -> Result<(), Usage> {
    let Some((_, allowed, expected)) = ONLY_VALUES.iter().find(|(only, _, _)| *only == name) else { return Ok(()) };
    let text = value.map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
    if allowed.contains(&text.as_str()) {
        return Ok(());
    }
    Err(Usage::because(format!("--{name} {text}: not supported; expected {expected}")))
}

/// Clap's message about wrong usage on one line, with what was probably meant. `command` is the one that was called.
pub fn one_line(error: &clap::Error, command: Option<&clap::Command>) -> String {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    match (error.kind(), error.get(ContextKind::InvalidArg), command) {
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing)), Some(command)) => {
            let told: Vec<String> = missing.iter().map(|missing| told_missing(missing, command)).collect();
            return told.join(", ");
        }
        (ErrorKind::UnknownArgument, Some(ContextValue::String(word)), Some(command)) if !word.starts_with('-') => {
            let has_data = command.get_arguments().any(|arg| arg.get_long() == Some("data"));
            let hint = if has_data { format!("; did you mean --data {word}?") } else { String::new() };
            return format!("{word}: belongs to no option of epicker {}{hint}", command.get_name());
        }
        _ => {}
    }
    let text = error.render().to_string();
    let message = text.split("\n\nUsage:").next().unwrap_or_default();
    let message = message.split("\n\nFor more information").next().unwrap_or_default();
    // Clap's own hint stands in a paragraph of its own.
    let message = message.split("\n\n  tip:").next().unwrap_or_default();
    let words = message.strip_prefix("error: ").unwrap_or(message).split_whitespace();
    let mut line = words.collect::<Vec<_>>().join(" ");
    if let Some((start, values)) = line.strip_suffix(']').and_then(|line| line.split_once(" [possible values: ")) {
        let values: Vec<&str> = values.split(", ").collect();
        line = format!("{start}: expected {}", row(&values, "or"));
    }
    for (of_library, ours) in OF_LIBRARY {
        line = line.replace(of_library, ours);
    }
    format!("{line}{}", hint_of_value(error, &line))
}

/// What the standard library says about text that is not a number, and what the user is told instead.
const OF_LIBRARY: [(&str, &str); 5] = [
    ("invalid digit found in string", "expected a whole number"),
    ("cannot parse integer from empty string", "expected a whole number"),
    ("number too large to fit in target type", "expected a smaller number"),
    ("invalid float literal", "expected a number"),
    ("cannot parse float from empty string", "expected a number"),
];

/// `--label <PATH>...: missing; expected labels of each data set, any format`
fn told_missing(missing: &str, command: &clap::Command) -> String {
    let name = missing.split([' ', '=']).next().unwrap_or_default();
    // The message names an option by its long name, and any other argument by the name of its values.
    let is_it = |arg: &&clap::Arg| match (arg.get_long(), arg.get_value_names()) {
        (Some(long), _) => name.strip_prefix("--") == Some(long),
        (None, Some([value, ..])) => missing.contains(value.as_str()),
        (None, _) => false,
    };
    let Some(help) = command.get_arguments().find(is_it).and_then(clap::Arg::get_help) else { return format!("{missing}: missing") };
    let help = help.to_string();
    let is_word = help.chars().nth(1).is_some_and(char::is_lowercase); // and not a name such as GPU
    let help = if is_word { help[..1].to_lowercase() + &help[1..] } else { help };
    format!("{missing}: missing; expected {}", help.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The allowed value that is nearest to the one given, where the message lists the allowed ones.
fn hint_of_value(error: &clap::Error, line: &str) -> String {
    use clap::error::{ContextKind, ContextValue};
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidValue) else { return String::new() };
    if let Some(ContextValue::Strings(allowed)) = error.get(ContextKind::ValidValue) {
        return did_you_mean(given, allowed.iter().map(String::as_str));
    }
    // Messages of our own parsers end in `expected thi, star, box or coord`. A part with blanks in it describes values and is
    // not a value.
    let listed = line.rsplit_once("expected ").map_or("", |(_, listed)| listed).split(';').next().unwrap_or_default();
    let allowed: Vec<&str> = listed.split(", ").flat_map(|part| part.split(" or ")).filter(|name| !name.contains(' ')).collect();
    if allowed.len() < 2 { String::new() } else { did_you_mean(given, allowed) }
}
