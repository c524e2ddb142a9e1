//! `epicker view`: the workbench in a browser.

use super::interrupt;
use super::status::{self, OrUsage, Usage};
use super::{threads, values};
use crate::formats::coordinates::Kind;
use crate::io::find::find_all;
use crate::io::model_source::ModelSource;
use crate::io::pairing::{Name, refuse_twins};
use crate::view::http::{Door, greeting, serve};
use crate::view::learn::USUAL_STEPS;
use crate::view::session::{Fixed, ParticleSize};
use crate::view::{Workbench, defocus};
use anyhow::{Context, Result};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// The command line of `epicker view`.
#[derive(Debug, clap::Args)]
pub struct ViewArgs {
    /// Micrographs: files, folders (their .mrc files), or lists ending in .thi or .star
    #[arg(value_name = "MICROGRAPHS", required = true)]
    data: Vec<PathBuf>,
    /// Folder of the workbench, made if it is not there: labels, models and picks
    #[arg(long = "output", short = 'o', value_name = "FOLDER", default_value = "./workbench")]
    output: PathBuf,
    /// Labels to begin with, any format; they are taken over, and never changed
    #[arg(long = "label", value_name = "PATH")]
    label: Option<PathBuf>,
    /// Picks to begin with: an output folder of `epicker pick`
    #[arg(long = "picks", value_name = "FOLDER")]
    picks: Option<PathBuf>,
    /// What is looked for: particle, vesicle or fiber
    #[arg(long = "mode", value_name = "MODE", default_value = "particle")]
    mode: Kind,
    /// Model to begin with: a file, or the general model particle, vesicle or fiber [default: the general model of --mode]
    #[arg(long = "load_model", value_name = "MODEL")]
    load_model: Option<ModelSource>,
    /// Diameter of the particles; can be entered in the browser, too
    #[arg(long = "diameter", value_name = "ANGSTROM", value_parser = values::positive)]
    diameter: Option<f64>,
    /// Pixel size, angstrom per pixel [default: the header's]
    #[arg(long = "angpix", value_name = "ANGSTROM", value_parser = values::positive)]
    angpix: Option<f64>,
    /// Table of a CTF estimation (STAR), for the defocus of the micrographs
    #[arg(long = "ctf", value_name = "FILE")]
    ctf: Option<PathBuf>,
    /// Steps of a training in the browser [default: 60]
    #[arg(long = "steps", value_name = "COUNT", value_parser = values::count)]
    steps: Option<usize>,
    /// Exemplars of earlier data sets (`epicker train --continual` keeps them), which a model that learns here does not forget
    #[arg(long = "load_exemplar", value_name = "FOLDER")]
    load_exemplar: Option<PathBuf>,
    /// Address to listen on; another than this machine's own lets others in who know the token
    #[arg(long = "host", value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on [default: 8470, or any that is free]
    #[arg(long = "port", value_name = "NUMBER")]
    port: Option<u16>,
    /// Go on without the files of a list that are not there
    #[arg(long = "skip-missing")]
    skip_missing: bool,
    /// Threads [default: all cores]
    #[arg(long = "threads", value_name = "COUNT", value_parser = values::count)]
    threads: Option<usize>,
}

/// The port that is tried first.
const USUAL_PORT: u16 = 8470;

/// Runs the command; returns the exit status.
///
/// Errors: wrong usage, before any file is written.
pub fn run(args: &ViewArgs) -> Result<u8> {
    threads::start(args.threads)?;
    let fixed = args.settle().or_usage()?;
    let micrographs = fixed.micrographs.len();
    let _lock = lock(&fixed.folder).or_usage()?;
    let (workbench, said) = Workbench::open(fixed)?;
    said.iter().for_each(|line| status::tell(&format!("warning: {line}")));
    let listener = args.listen().or_usage()?;
    let address = listener.local_addr().context("the server has no address")?;
    let door = Door::new(address.ip())?;
    if !address.ip().is_loopback() {
        status::tell(&format!(
            "warning: {address}: other machines can reach this server; whoever knows the token can use it, and can hear it"
        ));
    }
    greeting(&door, address, micrographs, &host_name()).iter().for_each(|line| status::say(line, false));
    status::say(&format!("labels are kept in {}; Ctrl-C ends", workbench.sheets.folder().display()), false);
    let stop = interrupt::finishing("everything is saved");
    serve(&workbench, listener, door, &|| stop.load(Ordering::Relaxed))?;
    Ok(interrupt::status())
}

/// Holds the folder for this server. Two of them would not see each other's work.
fn lock(folder: &Path) -> Result<File> {
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made; check the folder's rights", folder.display()))?;
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("{}: cannot be written; check the folder's rights", path.display()))?;
    // A file system without locks is no reason to fail.
    if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
        let text =
            format!("{}: is open in another epicker view; open its address in the browser, or give another --output", folder.display());
        return Err(Usage::because(text).into());
    }
    Ok(file)
}

/// This machine's name, for the line that says how to reach it.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "THIS_MACHINE".to_owned() } else { name.trim().to_owned() }
}

impl ViewArgs {
    fn settle(&self) -> Result<Fixed> {
        let found = find_all(&self.data, self.skip_missing)?;
        found.warnings.iter().for_each(|warning| status::tell(&format!("warning: {warning}")));
        let paired: Vec<Name> = found.micrographs.iter().map(|one| Name::of_micrograph(&one.name, &one.path)).collect();
        refuse_twins(&paired, |i| found.micrographs[i].path.display().to_string())?;
        let defocus = self.ctf.as_ref().map(|path| defocus::read(path, &paired)).transpose().context("--ctf")?;
        let model = self.load_model.clone().unwrap_or(ModelSource::General(self.mode.name()));
        let model = match &model {
            ModelSource::General(name) => (*name).to_owned(),
            file => {
                file.checkpoint(false).context("--load_model")?;
                let path = PathBuf::from(file.to_string());
                std::path::absolute(&path).unwrap_or(path).display().to_string()
            }
        };
        Ok(Fixed {
            program: std::env::current_exe().context("this program does not know where it is")?,
            data: self.data.first().cloned().unwrap_or_default(),
            defocus: defocus.unwrap_or_else(|| vec![None; found.micrographs.len()]),
            micrographs: found.micrographs,
            paired,
            folder: self.output.clone(),
            labels: self.label.clone(),
            picks: self.picks.clone(),
            kind: self.mode,
            model,
            angpix: self.angpix,
            size: self.diameter.map(ParticleSize::Angstrom),
            steps: self.steps.unwrap_or(USUAL_STEPS),
            exemplars: self.load_exemplar.clone(),
        })
    }

    /// Listens on the port that was asked for, else on the usual one, else on any.
    fn listen(&self) -> Result<TcpListener> {
        let at = |port: u16| SocketAddr::new(self.host, port);
        let busy = |port: u16| format!("--port {port}: cannot be listened on; expected a free one; leave the option out");
        match self.port {
            Some(port) => TcpListener::bind(at(port)).with_context(|| busy(port)),
            None => TcpListener::bind(at(USUAL_PORT))
                .or_else(|_| TcpListener::bind(at(0)))
                .with_context(|| format!("--host {}: is no address of this machine; expected {}", self.host, Ipv4Addr::LOCALHOST)),
        }
    }
}
