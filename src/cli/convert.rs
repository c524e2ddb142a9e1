//! `epicker convert`: turns a model file into one of another format, and describes what it holds.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::print;
use super::status::{DONE, OrUsage, Usage};
use crate::formats::model_file::{ModelFormat, load_checkpoint_file, sha256_of_file};
use crate::formats::pth::{self, Checkpoint, WriteOptions};
use crate::formats::safetensors_file;
use crate::formats::state_dict::{ModelFacts, StateDict};
use crate::io::write::write_whole;
use crate::net::Views;
use crate::preprocess::ground::Ground;

/// Converts a model between PyTorch's .pth and .safetensors, and says what it holds
#[derive(clap::Args, Debug, Clone, Default)]
pub struct ConvertArgs {
    /// Model to read; its kind is seen from its content
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// File to write, .pth or .safetensors; without it the model is only described
    #[arg(value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Store weights as 16-bit floats: half the size, enough to pick with; the optimiser's state is left out
    #[arg(long)]
    pub half: bool,
    /// Write a .pth that is the state dict alone, without epoch, optimiser and metadata
    #[arg(long)]
    pub bare: bool,
    /// Score above which peaks are picks unless `pick --vis_thresh` says otherwise, 0 to 1: kept in the model
    #[arg(long, value_name = "SCORE", value_parser = super::values::score)]
    pub threshold: Option<f32>,
    /// The model's micrographs lose their uneven ground: what a Gaussian of this deviation, pixels of the network's image, leaves of
    /// them; 0 leaves them as they are. Kept in the model
    #[arg(long, value_name = "PIXELS", value_parser = super::values::length)]
    pub ground: Option<f64>,
    /// Views of each micrograph that are averaged unless `pick --average` says otherwise: 1, 2 or 4. Kept in the model
    #[arg(long, value_name = "VIEWS", value_parser = super::values::views)]
    pub average: Option<Views>,
    /// The threshold is sought on the data unless `pick --vis_thresh` says one: this share of the picks may be found in noise, above 0
    #[arg(long, value_name = "SHARE", value_parser = super::values::positive)]
    pub noise_share: Option<f64>,
    /// Leave OUT alone if it exists
    #[arg(long)]
    pub no_clobber: bool,
}

/// Runs the command: the model is read and described, and written if there is a name to write it to. Returns the exit
/// status.
///
/// Errors: the input cannot be read or is no model, or the output cannot be written.
pub fn run(args: &ConvertArgs) -> Result<u8> {
    let format = args.output.as_deref().map(format_to_write).transpose().or_usage()?;
    if args.bare && format == Some(ModelFormat::Safetensors) {
        return Err(Usage::because("--bare: OUT is a .safetensors; expected a .pth, which can hold more than tensors; leave it out").into());
    }
    if let Some(output) = args.output.as_deref().filter(|output| args.no_clobber && output.exists()) {
        return Err(
            Usage::because(format!("{}: exists; expected no file because of --no-clobber; choose another name", output.display())).into()
        );
    }
    let mut checkpoint = load_checkpoint_file(&args.input, true)?;
    print::text(&describe(&args.input, &checkpoint)?);

    let (Some(output), Some(format)) = (args.output.as_deref(), format) else { return Ok(DONE) };
    if args.half {
        checkpoint.state = checkpoint.state.to_half().with_context(|| args.input.display().to_string())?;
        checkpoint.optimizer = None;
    }
    let asked = ModelFacts {
        average: args.average.map(Views::count),
        noise_share: args.noise_share,
        threshold: args.threshold.map(f64::from),
        ..ModelFacts::default()
    };
    asked.write_to(&mut checkpoint.state.metadata);
    if let Some(ground) = args.ground {
        ModelFacts::set_ground(Ground::of(Some(ground)).sigma_px(), &mut checkpoint.state.metadata);
    }
    let bytes = match format {
        ModelFormat::Safetensors => safetensors_file::write(&checkpoint.state)?,
        ModelFormat::Pth => {
            let options = WriteOptions { bare: args.bare, epoch: checkpoint.epoch, optimizer: checkpoint.optimizer.as_ref() };
            pth::write(&checkpoint.state, &options)?
        }
    };
    write_whole(output, &bytes)?;
    print::print(&format!("{}: written, {} bytes, SHA-256 {}", output.display(), bytes.len(), sha256_of_file(output)?));
    if checkpoint.has_optimizer && (args.half || args.bare || format == ModelFormat::Safetensors) {
        print::print("  without the optimiser's state: a training cannot be resumed from it");
    }
    Ok(DONE)
}

impl ConvertArgs {
    /// True if the model is only described.
    pub fn is_only_text(&self) -> bool {
        self.output.is_none()
    }
}

/// The format a file name asks for.
fn format_to_write(path: &Path) -> Result<ModelFormat> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "pth" | "pt" => Ok(ModelFormat::Pth),
        "safetensors" => Ok(ModelFormat::Safetensors),
        _ => bail!("{}: the name says no format; expected .pth or .safetensors; choose one of them", path.display()),
    }
}

/// What a model file holds, in lines.
fn describe(path: &Path, checkpoint: &Checkpoint) -> Result<String> {
    let state = &checkpoint.state;
    let mut text = String::new();
    writeln!(text, "{}: {} tensors, {} values ({})", path.display(), state.tensors.len(), state.float_count(), types_of(state))?;
    writeln!(text, "  SHA-256 of the file    {}", sha256_of_file(path)?)?;
    writeln!(text, "  SHA-256 of the tensors {}", state.sha256())?;
    if let Some(adam) = &checkpoint.optimizer {
        let steps = adam.moments.iter().map(|moments| moments.step).max().unwrap_or(0);
        writeln!(
            text,
            "  optimiser Adam: learning rate {}, {steps} steps, moments of {} parameters",
            adam.learning_rate,
            adam.moments.len()
        )?;
    }
    if !checkpoint.ignored.is_empty() {
        writeln!(text, "  left out, as the network does not use it: {}", checkpoint.ignored.join(", "))?;
    }
    for (key, value) in &state.metadata {
        writeln!(text, "  {key}: {}", value.replace(char::is_control, " "))?;
    }
    Ok(text)
}

/// How many tensors of each type there are: `343 F32, 55 I64`.
fn types_of(state: &StateDict) -> String {
    let count = |name: &str| state.tensors.iter().filter(|tensor| tensor.values.type_name() == name).count();
    let counts = ["F64", "F32", "F16", "I64"].map(|name| (count(name), name));
    counts.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}
