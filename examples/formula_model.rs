//! Writes a model of the true widths whose weights follow a formula. `benches/peers/onnx.py` builds the same model, so that
//! two programs can be timed on one network.
//!
//! ```text
//! cargo run --release --example formula_model -- MODEL.safetensors
//! ```

use std::process::ExitCode;

use anyhow::{Result, ensure};
use epicker::formats::safetensors_file;
use epicker::formats::state_dict::ModelFacts;
use epicker::io::write::write_whole;
use epicker::net::dla::Architecture;
use epicker::net::formula;

/// SHA-256 of the tensors (`StateDict::sha256`), by which a benchmark notices if it has other weights.
const FINGERPRINT: &str = "887396f0914f0d032fee58cdc952e052230883c909b2208ce5248221055ff95e";

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("no file named; usage: formula_model MODEL.safetensors");
        return ExitCode::from(2);
    };
    match write_model(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write_model(path: &str) -> Result<()> {
    let architecture = Architecture::DLA34;
    let mut state = formula::state_dict(architecture);
    let fingerprint = state.sha256();
    ensure!(fingerprint == FINGERPRINT, "the tensors have SHA-256 {fingerprint}; expected {FINGERPRINT}");
    let facts = ModelFacts {
        mode: Some("particle".into()),
        channels: Some(architecture.channels.to_vec()),
        head_width: Some(architecture.head),
        history: vec!["weights by formula: nothing was learnt".into()],
        ..ModelFacts::default()
    };
    facts.write_to(&mut state.metadata);
    write_whole(path.as_ref(), &safetensors_file::write(&state)?)?;
    println!("{path}: {} tensors, SHA-256 {fingerprint}", state.tensors.len());
    Ok(())
}
