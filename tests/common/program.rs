//! The program, run as a user runs it.

use std::process::{Command, Output};

/// Runs `epicker` with these arguments.
pub fn epicker(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_epicker")).args(args).output().unwrap()
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
