//! Option names: hyphens or underscores, unique prefixes, and names of the original that mean nothing here.
//!
//! Callers rely on all of it: they were written for a parser that accepts unique prefixes.

use super::status::Usage;
use std::ffi::{OsStr, OsString};

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

/// Ignored only with one of these values.
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

/// The arguments with every option spelt as `commands` knows it, less the ignored ones, whose names come second.
///
/// `args[0]` is the program, `args[1]` the command.
///
/// Errors: an unknown or ambiguous name, a name that is not supported.
pub fn canonical(args: Vec<OsString>, commands: &clap::Command) -> Result<(Vec<OsString>, Vec<String>), Usage> {
    let Some(command) = args.get(1).and_then(|name| commands.find_subcommand(name)) else {
        return Ok((args, Vec::new())); // a wrong command is clap's to tell
    };
    let takes_original_names = matches!(command.get_name(), "pick" | "train");
    let known = known_names(command, takes_original_names);
    let mut ignored: Vec<String> = Vec::new();
    let mut rest = args.into_iter();
    let mut out: Vec<OsString> = rest.by_ref().take(2).collect();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            out.push(arg);
            break;
        }
        let Some((name, value)) = split(&arg) else {
            out.push(arg);
            continue;
        };
        match find(&name, &known)? {
            Known::Option(spelt) => {
                let mut full = OsString::from(format!("--{spelt}"));
                if let Some(value) = value {
                    full.push("=");
                    full.push(value);
                }
                out.push(full);
            }
            Known::Ignored(spelt, has_value) => {
                let value = if has_value { value.or_else(|| rest.next()) } else { None };
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

#[derive(Clone, Debug, PartialEq)]
enum Known {
    Option(String),
    Ignored(&'static str, bool),
    Refused(&'static str),
}

/// Every name (with hyphens) and what it stands for.
fn known_names(command: &clap::Command, with_originals: bool) -> Vec<(String, Known)> {
    let mut known = vec![("help".to_string(), Known::Option("help".to_string()))];
    for arg in command.get_arguments() {
        let Some(long) = arg.get_long() else { continue };
        let names = arg.get_all_aliases().unwrap_or_default().into_iter().chain([long]);
        known.extend(names.map(|name| (hyphens(name), Known::Option(long.to_string()))));
    }
    if with_originals {
        let is_new = |known: &[(String, Known)], name: &str| known.iter().all(|(other, _)| *other != hyphens(name));
        for (name, has_value) in IGNORED {
            if is_new(&known, name) {
                known.push((hyphens(name), Known::Ignored(name, has_value)));
            }
        }
        for name in REFUSED {
            if is_new(&known, name) {
                known.push((hyphens(name), Known::Refused(name)));
            }
        }
    }
    known
}

fn hyphens(name: &str) -> String {
    name.replace('_', "-")
}

/// Name and value of `--name` or `--name=value`; none for anything else.
fn split(arg: &OsStr) -> Option<(String, Option<OsString>)> {
    if let Some(text) = arg.to_str() {
        let option = text.strip_prefix("--")?;
        return Some(match option.split_once('=') {
            Some((name, value)) => (name.to_string(), Some(value.into())),
            None => (option.to_string(), None),
        });
    }
    split_bytes(arg)
}

/// The same for a value that is not UTF-8: a path may be anything.
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

fn find(name: &str, known: &[(String, Known)]) -> Result<Known, Usage> {
    let wanted = hyphens(name);
    if let Some((_, exact)) = known.iter().find(|(name, _)| *name == wanted) {
        return Ok(exact.clone());
    }
    let mut meanings: Vec<Known> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for (full, meaning) in known.iter().filter(|(full, _)| full.starts_with(&wanted)) {
        if !meanings.contains(meaning) {
            meanings.push(meaning.clone());
            names.push(match meaning {
                Known::Option(spelt) => format!("--{spelt}"),
                _ => format!("--{full}"),
            });
        }
    }
    match (meanings.pop(), names.len()) {
        (Some(only), 1) => Ok(only),
        (Some(_), _) => Err(Usage::because(format!("--{name}: ambiguous; expected one of {}", names.join(", ")))),
        (None, _) => Err(Usage::because(format!("--{name}: unknown option; expected one of those that --help lists"))),
    }
}

fn check_value(name: &str, value: Option<&OsStr>) -> Result<(), Usage> {
    let Some((_, allowed, expected)) = ONLY_VALUES.iter().find(|(only, _, _)| *only == name) else { return Ok(()) };
    let text = value.map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
    if allowed.contains(&text.as_str()) {
        return Ok(());
    }
    Err(Usage::because(format!("--{name} {text}: not supported; expected {expected}")))
}
