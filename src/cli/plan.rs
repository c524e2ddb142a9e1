//! `epicker plan`: the network's steps, their shapes, operations, algorithms and bytes, and the memory that a run or a training
//! needs.

use super::{device, print, status, status::OrUsage, values};
use crate::device::Device;
use crate::device::gpu::paper::Paper;
use crate::device::gpu::predict::{Known, Predicted};
use crate::doctor::Way;
use crate::doctor::compute::Conv;
use crate::formats::coordinates::Kind;
use crate::io::model_source::ModelSource;
use crate::net::inference::peaks::Part;
use crate::net::{Architecture, Model, PeakFinder, PeakFinderOptions, formula};
use crate::ops::{Compute, Precision};
use crate::pick::parts;
use crate::preprocess::ground::Ground;
use crate::train::{TrainerOptions, TrainingMemory};
use anyhow::Result;

/// Print the network's layers, shapes, operations, bytes and the peak of memory
#[derive(clap::Args, Clone, Debug)]
pub struct PlanArgs {
    /// Model to plan, a file or the name of a general one; without one the original's widths
    #[arg(long, value_name = "MODEL")]
    pub load_model: Option<ModelSource>,
    /// Rows and columns of the image that the network sees: a multiple of 32
    #[arg(long, value_name = "PIXELS", default_value_t = 1024, value_parser = values::frame)]
    pub frame: usize,
    /// Peaks to take from the heat map
    #[arg(long = "K", value_name = "COUNT", default_value_t = 2000, value_parser = values::count)]
    pub k: usize,
    /// Evaluate the size head as well, as for vesicles
    #[arg(long)]
    pub sizes: bool,
    /// Print the memory that a training needs instead
    #[arg(long)]
    pub train: bool,
    /// Images of a step of training
    #[arg(long = "batch_size", value_name = "COUNT", default_value_t = 4, value_parser = values::count)]
    pub batch_size: usize,
    /// The training is continual: the earlier network is kept beside the new one
    #[arg(long)]
    pub continual: bool,
    /// GPU, or -1 for the CPU [default: the first GPU, the CPU where there is none]
    #[arg(long = "gpus", value_name = "IDS", value_parser = values::devices, allow_hyphen_values = true)]
    pub gpus: Option<values::Devices>,
    /// Who computes convolutions on a GPU: auto (cuDNN where there is one that computes what it should), cudnn or native
    #[arg(long = "conv", value_name = "WHO", default_value = "auto")]
    pub conv: Conv,
    /// What numbers products are multiplied in: fp32, tf32 or fp16, as in `epicker pick`
    #[arg(long = "precision", value_name = "NAME", default_value = "fp32", value_parser = values::precision)]
    pub precision: Precision,
    /// Plan for this GPU, which need not be here, and print how long a model says that each step takes: titan-x, p100, 2080-ti, a100
    /// or h200
    #[arg(long = "gpu-model", value_name = "NAME", value_parser = values::gpu_model, conflicts_with_all = ["gpus", "conv", "train"])]
    pub gpu_model: Option<&'static Known>,
    /// With --gpu-model, columns and rows of the micrographs
    #[arg(long, value_name = "COLUMNSxROWS", default_value = "4096x4096", value_parser = values::extent, requires = "gpu_model")]
    pub micrograph: [usize; 2],
}

/// Prints the plan; returns the exit status.
///
/// Errors: the model cannot be read, or the GPU that was asked for cannot be used.
pub fn run(args: &PlanArgs) -> Result<u8> {
    let model = match &args.load_model {
        Some(source) => source.load(Model::from_state).or_usage()?,
        None => formula::model(Architecture::DLA34)?,
    };
    let options = PeakFinderOptions { frame: args.frame, sizes: args.sizes, k: args.k, views: Default::default() };
    if let Some(known) = args.gpu_model {
        device::refuse_precision(args.precision, &known.info()).or_usage()?;
        print::text(&predicted_text(known, args, &model, options)?);
        return Ok(status::DONE);
    }
    let chosen = device::choose_in(args.precision, args.gpus.as_ref(), args.conv, Way::Pick)?;
    chosen.warnings.iter().for_each(|line| status::tell(&format!("warning: {line}")));
    chosen.lines.iter().for_each(|line| status::say(line, true));
    if args.train {
        print::text(&training_text(&chosen.compute, args, model.architecture())?);
        return Ok(status::DONE);
    }
    let finder = PeakFinder::new(&chosen.compute, &model, options)?;
    print::text(&text(&finder, &model, args.frame, &[]));
    Ok(status::DONE)
}

/// The peak of a training, as it is and with maps computed twice.
fn training_text(compute: &Compute, args: &PlanArgs, architecture: Architecture) -> Result<String> {
    let mode = if args.sizes { Kind::Vesicle } else { Kind::Particle };
    let kept = TrainerOptions::new(mode, args.batch_size, [args.frame; 2]);
    let checkpointed = TrainerOptions { checkpoint_activations: true, ..kept.clone() };
    let memory = |options| TrainingMemory::of(compute, architecture, options, args.continual);
    Ok(format!(
        "training {} images of {1} x {1} in a step\n{2:<26}{3}\n{4:<26}{5}\n",
        args.batch_size,
        args.frame,
        "as it is:",
        memory(&kept)?,
        "--checkpoint-activations:",
        memory(&checkpointed)?
    ))
}

/// The plan on a GPU that need not be here, with times by a model.
fn predicted_text(known: &Known, args: &PlanArgs, model: &Model, options: PeakFinderOptions) -> Result<String> {
    let (info, [nx, ny]) = (known.info(), args.micrograph);
    let parts = parts::predicted(&info, args.precision, model, options)?;
    let preparation =
        parts::predicted_by_kernel(&info, &parts::preparation(args.micrograph, args.frame, Ground::wanted_by(model.facts()))?)?;
    let compute = Compute { precision: args.precision, ..Compute::from(&Device::Gpu(Paper::gpu(info)?.0)) };
    let finder = PeakFinder::new(&compute, model, options)?;
    let steps: Vec<Predicted> = parts.iter().filter(|(part, _)| matches!(part, Part::Step(_))).map(|(_, predicted)| *predicted).collect();
    let mut text = text(&finder, model, args.frame, &steps);
    let ms = |predicted: &mut dyn Iterator<Item = Predicted>| 1e3 * predicted.map(|predicted| predicted.seconds).sum::<f64>();
    let mut line = |what: &str, milliseconds: f64| text += &format!("{what:<44} {milliseconds:>9.3} ms\n");
    line("\nnetwork", ms(&mut steps.iter().copied()));
    line("peaks, and heads at the peaks", ms(&mut parts[steps.len()..].iter().map(|(_, predicted)| *predicted)));
    line(&format!("copy of a micrograph of {nx} x {ny} x 4 bytes"), 1e3 * known.copy(4 * nx * ny));
    line("its preparation", ms(&mut preparation.iter().map(|(.., predicted)| *predicted)));
    for (kernel, launches, predicted) in &preparation {
        line(&format!("    {kernel}, {launches} launch{}", if *launches == 1 { "" } else { "es" }), 1e3 * predicted.seconds);
    }
    text += &format!(
        "\nTimes on {} are predicted by a model (the longest of arithmetic, memory, shared memory and launch, from what the kernels' \
         PTX was counted to do). They are no measurements; docs/gpu.md says what the model leaves out.\n",
        known.title
    );
    Ok(text)
}

fn text(finder: &PeakFinder, model: &Model, frame: usize, predicted: &[Predicted]) -> String {
    let plan = finder.plan();
    let steps = plan.summary();
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let mut text =
        format!("DLA-34 of widths {:?}, head {}, image {frame} x {frame}\n\n", model.architecture().channels, model.architecture().head);
    text += &format!(
        "{:>4}  {:<44} {:<24} {:<24} {:>22} {:>9} {:>9} {:>9}{}\n",
        "step",
        "layer",
        "operation",
        "algorithm",
        "map (n, h, w, c)",
        "GMAC",
        "map MiB",
        "wts MiB",
        if predicted.is_empty() { "" } else { " model ms  bound by" }
    );
    for (i, step) in steps.iter().enumerate() {
        let [n, h, w, c] = step.output;
        text += &format!(
            "{:>4}  {:<44} {:<24} {:<24} {:>22} {:>9.3} {:>9.2} {:>9.2}{}\n",
            i + 1,
            step.name,
            step.operation,
            step.algorithm,
            format!("{n} x {h} x {w} x {c}"),
            step.multiply_adds as f64 * 1e-9,
            mib(step.output_bytes),
            mib(step.weight_bytes),
            predicted.get(i).map_or_else(String::new, |one| format!(" {:>8.4}  {}", 1e3 * one.seconds, one.bound))
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
