//! Writes what shells and `man` want to know of the program, from its own command line: `shell_files FOLDER` makes the folders
//! that stand in a prefix's `share`. A release has them in its archive (scripts/release.sh).

use anyhow::{Context, Result};
use clap_complete::{Shell, generate};
use std::path::Path;

/// The shells, and where each looks for completions below `share`.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/epicker"),
    (Shell::Zsh, "zsh/site-functions/_epicker"),
    (Shell::Fish, "fish/vendor_completions.d/epicker.fish"),
];

/// Writes the files below `share`: a man page for each command, and completions for each shell.
///
/// Errors: a file cannot be written.
pub fn write(share: &Path) -> Result<()> {
    // Which commit and which kernels it has, the program says itself.
    let mut commands = epicker::cli::commands().long_version(None::<&'static str>);
    for (shell, file) in COMPLETIONS {
        let mut text = Vec::new();
        generate(shell, &mut commands, "epicker", &mut text);
        let path = share.join(file);
        make_folder(path.parent().unwrap_or(share))?;
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    let man = share.join("man/man1");
    make_folder(&man)?;
    clap_mangen::generate_to(commands, &man).with_context(|| format!("{}: man pages", man.display()))
}

fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))
}

#[allow(dead_code, reason = "a test takes `write` from this file")]
fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).context("usage: shell_files FOLDER")?;
    write(Path::new(&folder))
}
