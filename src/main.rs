//! The command line program: parse, call, print the error, exit status; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    epicker::cli::run()
}
