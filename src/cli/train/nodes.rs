//! `--team`: processes that train one network together, each with a device of its own, on one node or on many. They find each other by a
//! file in the folder of the training, which all of them see.

use crate::cli::status;
use crate::device::Collective;
use crate::device::team::sockets::{self, Token};
use crate::io::write::write_whole;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::net::{TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Which of how many processes this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 0.
    pub rank: usize,
    /// Processes of the team.
    pub size: usize,
    /// The run that they belong to, where a scheduler names it.
    run: String,
}

/// How long a process waits for the others.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it looks for them.
const BEAT: Duration = Duration::from_millis(100);

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let variable = |name: &str| std::env::var(name).ok();
        if text == "slurm" {
            let number = |name: &str| variable(name).and_then(|value| value.parse().ok());
            let (Some(rank), Some(size)) = (number("SLURM_PROCID"), number("SLURM_NTASKS")) else {
                return Err("SLURM_PROCID and SLURM_NTASKS are not set; expected to be started by srun".to_owned());
            };
            let run = ["SLURM_JOB_ID", "SLURM_STEP_ID"].map(|name| variable(name).unwrap_or_default()).join(".");
            return Place { rank, size, run }.checked();
        }
        let numbers = text.split_once('/').and_then(|(rank, size)| Some((rank.trim().parse::<usize>().ok()?, size.trim().parse().ok()?)));
        match numbers {
            Some((rank @ 1.., size)) => Place { rank: rank - 1, size, run: String::new() }.checked(),
            _ => Err("expected which of how many processes this is, such as 1/4, or slurm".to_owned()),
        }
    }
}

impl Place {
    fn checked(self) -> Result<Self, String> {
        if self.rank < self.size { Ok(self) } else { Err(format!("process {} of {}", self.rank + 1, self.size)) }
    }

    /// The file in which the first process says where it is.
    fn file(&self, folder: &Path) -> PathBuf {
        folder.join(if self.run.is_empty() { ".team".to_owned() } else { format!(".team-{}", self.run) })
    }

    /// Waits for all processes of the team.
    ///
    /// Errors: the folder cannot be written to, or the others do not come.
    pub fn join(&self, folder: &Path) -> Result<Arc<dyn Collective>> {
        let file = self.file(folder);
        let begun = Instant::now();
        if self.rank > 0 {
            return loop {
                match self.knock(&file) {
                    Ok(member) => break Ok(member),
                    // The file may be one that a killed run has left, until the first process writes its own.
                    Err(error) if begun.elapsed() > PATIENCE => {
                        break Err(error.context(format!("--team: the first of {} processes does not come", self.size)));
                    }
                    Err(_) => std::thread::sleep(BEAT),
                }
            };
        }
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: the folder cannot be made; check the rights above it", folder.display()))?;
        let listener = TcpListener::bind("0.0.0.0:0").context("--team: no socket can be opened")?;
        let token: Token = random_token()?;
        let hex: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        let said = json!({ "host": host(), "port": listener.local_addr()?.port(), "token": hex });
        write_whole(&file, format!("{said}\n").as_bytes())?;
        status::tell(&format!("waiting for {} other processes of the team", self.size - 1));
        let member = sockets::first(&listener, self.size, token, || {
            ensure!(
                begun.elapsed() < PATIENCE,
                "--team: not all of {} processes came within {} minutes",
                self.size,
                PATIENCE.as_secs() / 60
            );
            ensure!(!crate::cli::interrupt::is_asked(), "--team: stopped while it waited for the others");
            Ok(())
        });
        // Nobody else is to come.
        let _ = std::fs::remove_file(&file);
        member
    }

    fn knock(&self, file: &Path) -> Result<Arc<dyn Collective>> {
        let text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?;
        let said: Value = serde_json::from_str(&text).with_context(|| format!("{}: no such file of a team", file.display()))?;
        let (Some(of_first), Some(port), Some(hex)) = (said["host"].as_str(), said["port"].as_u64(), said["token"].as_str()) else {
            bail!("{}: no such file of a team", file.display());
        };
        let mut token = Token::default();
        ensure!(hex.len() == 2 * token.len() && hex.is_ascii(), "{}: no such file of a team", file.display());
        for (i, byte) in token.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16)?;
        }
        let name = if of_first == host() { "127.0.0.1" } else { of_first };
        let address = (name, u16::try_from(port)?).to_socket_addrs()?.next().with_context(|| format!("{name}: has no address"))?;
        sockets::other(address, self.rank, self.size, token, PATIENCE)
    }
}

/// This node's name, by which other nodes reach it.
fn host() -> String {
    let of_system = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "localhost".to_owned()).trim().to_owned();
    std::env::var("SLURMD_NODENAME").unwrap_or_else(|_| of_system())
}

/// What nobody can guess.
fn random_token() -> Result<Token> {
    let mut token = Token::default();
    getrandom::fill(&mut token).map_err(|error| anyhow::anyhow!("no random numbers for a token: {error}"))?;
    Ok(token)
}
