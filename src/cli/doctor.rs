//! `epicker doctor`: what this machine computes with, and whether it computes what it should.

use super::status::{self, OrUsage};
use super::{threads, values};
use crate::device::Device;
use crate::device::gpu::cuda;
use crate::device::gpu::driver::{Meaning, means};
use crate::device::gpu::pack::Form;
use crate::doctor::{self, Finding, Way, compute};
use crate::words::counted;
use anyhow::Result;
use serde_json::{Value, json};

/// The command line of `epicker doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// GPUs to examine, such as 0 or 0,1; all for every GPU, or -1 for the CPU alone [default: the CPU and every GPU]
    #[arg(long = "gpus", value_name = "IDS", value_parser = values::devices, allow_hyphen_values = true)]
    gpus: Option<values::Devices>,
    /// Kernels of a GPU in this form alone: machine-code, ptx or sources [default: the first of these that the driver takes]
    #[arg(long = "form", value_name = "FORM", value_parser = values::form)]
    form: Option<Form>,
    /// Threads [default: all cores]
    #[arg(long = "threads", value_name = "COUNT", value_parser = values::count)]
    threads: Option<usize>,
    /// One JSON object on standard output
    #[arg(long = "json")]
    json: bool,
}

/// One device, examined.
struct Examined {
    name: String,
    kernels: Option<String>,
    /// What cuDNN computes on it, if there is one.
    cudnn: Option<String>,
    findings: Vec<Finding>,
}

/// Runs the command; returns the exit status: 1 if a device is there and cannot be used, or computes what it should not.
///
/// Errors: the threads cannot be started.
pub fn run(args: &DoctorArgs) -> Result<u8> {
    threads::start(args.threads)?;
    let kernels = doctor::kernels().or_usage()?;
    let (driver, count) = match cuda::devices() {
        Ok(devices) => (Ok(devices.first().map_or(0, |device| device.driver_version)), devices.len()),
        Err(error) => (Err(error), 0),
    };
    let mut faults = Vec::new();
    if let Err(error) = &driver
        && !means(error, Meaning::Absent)
    {
        faults.push(format!("{error:#}"));
    }
    let (is_cpu_wanted, gpus) = match &args.gpus {
        None => (true, (0..count).collect()),
        Some(values::Devices::Cpu) => (true, Vec::new()),
        Some(values::Devices::All) => (false, (0..count).collect()),
        Some(values::Devices::Gpus(gpus)) => (false, gpus.clone()),
    };
    let mut examined = Vec::new();
    for id in is_cpu_wanted.then_some(None).into_iter().chain(gpus.into_iter().map(Some)) {
        let opened = match id {
            Some(index) => cuda::open_as(index, args.form).map(|(gpu, how)| (Device::Gpu(gpu), Some(how))),
            None => Ok((Device::Cpu, None)),
        };
        match opened {
            Ok((device, kernels)) => {
                let cudnn = match &device {
                    Device::Cpu | Device::Reference => None,
                    Device::Gpu(gpu) => Some(compute::examined(gpu, compute::load_cudnn, &doctor::examine_library)),
                };
                let one = Examined { name: device.describe(), kernels, cudnn, findings: doctor::examine(&device, Way::Train) };
                let closed = |finding: &Finding| match finding.needed_to {
                    Way::Pick => "",
                    Way::Train => " (picking does not need it)",
                };
                let wrong = one.findings.iter().filter(|finding| !finding.holds());
                faults.extend(wrong.map(|finding| format!("{}: {}{}", one.name, finding.told(), closed(finding))));
                examined.push(one);
            }
            Err(error) => faults.push(format!("GPU {}: {error:#}", id.unwrap_or_default())),
        }
    }
    let driver = match &driver {
        Ok(version) => format!("CUDA {}.{}, {}", version / 1000, version % 1000 / 10, counted(count, "GPU")),
        Err(error) => format!("{error:#}"),
    };
    if args.json {
        let devices: Vec<Value> = examined.iter().map(to_json).collect();
        let report = json!({
            "program": env!("CARGO_PKG_VERSION"), "kernels": kernels, "driver": driver,
            "devices": devices, "faults": faults,
        });
        status::print_json(&report);
    } else {
        tell(&kernels, &driver, &examined, &faults);
    }
    Ok(if faults.is_empty() { status::DONE } else { status::FAILED })
}

fn to_json(examined: &Examined) -> Value {
    let finding = |finding: &Finding| match &finding.worst {
        Ok(agreement) => json!({
            "op": finding.op, "direction": finding.direction, "needed_to": finding.needed_to.name(), "cases": finding.cases,
            "holds": finding.holds(),
            "error": agreement.error, "bound": agreement.bound, "case": agreement.case,
        }),
        Err(error) => {
            json!({ "op": finding.op, "direction": finding.direction, "needed_to": finding.needed_to.name(), "holds": false, "fault": error })
        }
    };
    let ops: Vec<Value> = examined.findings.iter().map(finding).collect();
    json!({ "name": examined.name, "kernels": examined.kernels, "cudnn": examined.cudnn, "ops": ops })
}

fn tell(kernels: &str, driver: &str, examined: &[Examined], faults: &[String]) {
    status::print(&format!("epicker {}", env!("CARGO_PKG_VERSION")));
    status::print(&format!("kernels      {kernels}"));
    status::print(&format!("driver       {driver}"));
    for one in examined {
        let how = one.kernels.as_ref().map_or(String::new(), |how| format!(", kernels as {how}"));
        status::print(&format!("\n{}{how}", one.name));
        one.cudnn.iter().for_each(|cudnn| status::print(&format!("  cuDNN: {cudnn}")));
        status::print("  op                     cases  largest error of what is allowed");
        for finding in &one.findings {
            let name = finding.what();
            let result = match &finding.worst {
                Ok(agreement) => {
                    let share = if agreement.error == 0.0 { 0.0 } else { agreement.error / agreement.bound };
                    format!("{:.1e}  {:>4.0} %  {}", agreement.error, 100.0 * share, if finding.holds() { "right" } else { "WRONG" })
                }
                Err(error) => format!("FAILED: {error}"),
            };
            status::print(&format!("  {name:<22} {:>5}  {result}", finding.cases));
        }
    }
    match faults {
        [] => status::print("\nEverything that is here computes what it should."),
        faults => {
            status::print("");
            let say = if status::is_quiet() { status::tell } else { status::print };
            faults.iter().for_each(|fault| say(&format!("fault: {fault}")));
            status::print("The CPU can be used in any case: --gpus -1.");
        }
    }
}
