//! `epicker plan`: the network's steps, their shapes, operations and bytes, and the memory that a run needs.

use super::{status, status::OrUsage, values};
use crate::net::{Architecture, Model, Picker, PickerOptions, formula};
use anyhow::Result;
use std::path::PathBuf;

/// Print the network's layers, shapes, operations, bytes and the peak of memory
#[derive(clap::Args, Clone, Debug)]
pub struct PlanArgs {
    /// Model to plan; without one the original's widths
    #[arg(long, value_name = "FILE")]
    pub load_model: Option<PathBuf>,
    /// Rows and columns of the image that the network sees: a multiple of 32
    #[arg(long, value_name = "PIXELS", default_value_t = 1024, value_parser = values::frame)]
    pub frame: usize,
    /// Peaks to take from the heat map
    #[arg(long = "K", value_name = "COUNT", default_value_t = 2000, value_parser = values::count)]
    pub k: usize,
    /// Evaluate the size head as well, as for vesicles
    #[arg(long)]
    pub sizes: bool,
}

/// Prints the plan; returns the exit status.
///
/// Errors: the model cannot be read.
pub fn run(args: &PlanArgs) -> Result<u8> {
    let model = match &args.load_model {
        Some(path) => Model::load(path).or_usage()?,
        None => formula::model(Architecture::DLA34)?,
    };
    let picker = Picker::new(&model, PickerOptions { frame: args.frame, sizes: args.sizes, k: args.k })?;
    print!("{}", text(&picker, &model, args.frame));
    Ok(status::DONE)
}

fn text(picker: &Picker, model: &Model, frame: usize) -> String {
    let plan = picker.plan();
    let steps = plan.summary();
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let mut text =
        format!("DLA-34 of widths {:?}, head {}, image {frame} x {frame}\n\n", model.architecture().channels, model.architecture().head);
    text += &format!(
        "{:>4}  {:<44} {:<24} {:>22} {:>9} {:>9} {:>9}\n",
        "step", "layer", "operation", "map (n, h, w, c)", "GMAC", "map MiB", "wts MiB"
    );
    for (i, step) in steps.iter().enumerate() {
        let [n, h, w, c] = step.output;
        text += &format!(
            "{:>4}  {:<44} {:<24} {:>22} {:>9.3} {:>9.2} {:>9.2}\n",
            i + 1,
            step.name,
            step.operation,
            format!("{n} x {h} x {w} x {c}"),
            step.multiply_adds as f64 * 1e-9,
            mib(step.output_bytes),
            mib(step.weight_bytes)
        );
    }
    let weights: usize = steps.iter().map(|step| step.weight_bytes).sum();
    text += &format!(
        "\n{} steps, {:.3} G multiply-adds, weights {:.1} MiB\npeak of the maps {:.1} MiB (alive together at the worst step: {:.1} MiB)\n",
        steps.len(),
        plan.multiply_adds() as f64 * 1e-9,
        mib(weights),
        mib(plan.arena_bytes()),
        mib(plan.lower_bound_bytes())
    );
    text
}
