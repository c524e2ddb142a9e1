//! Every kernel on every architecture that this build made machine code for: within its budget, launchable, and as the
//! checked-in table says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cubin::{self, KernelUse};
use epicker::device::gpu::images::{Capability, Choice, Images};

/// Kernel name -> architecture -> what it takes.
type Table = BTreeMap<String, BTreeMap<u32, KernelUse>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn capability(arch: u32) -> Capability {
    Capability { major: arch / 10, minor: arch % 10 }
}

/// All kernels in this program's machine code; empty, said aloud, where the build had no compiler.
fn built() -> (Images<'static>, Table) {
    let images = Images::of_program().unwrap();
    let mut table = Table::new();
    for arch in images.cubin_archs() {
        for (file, bytes) in images.load(Choice::Cubin(arch), capability(arch)).unwrap() {
            for kernel in cubin::kernels(&bytes).unwrap_or_else(|error| panic!("{file}, sm_{arch}: {error:#}")) {
                let before = table.entry(kernel.name.clone()).or_default().insert(arch, kernel);
                assert!(before.is_none(), "{}: two kernels of one name", before.unwrap().name);
            }
        }
    }
    if table.is_empty() {
        println!("this build has no machine code, so there is nothing to look at: {}", images.describe());
    }
    (images, table)
}

/// (pattern, registers, local bytes) of tests/kernels/budgets.txt.
fn budgets() -> Vec<(String, u32, u32)> {
    let text = std::fs::read_to_string(root().join("tests/kernels/budgets.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // The others are read by tests/gpu/costs.rs.
            let ([pattern, registers, local] | [pattern, registers, local, _, _]) = fields[..] else {
                panic!("tests/kernels/budgets.txt: `{line}` has neither three nor five fields")
            };
            (pattern.to_string(), registers.parse().unwrap(), local.parse().unwrap())
        })
        .collect()
}

fn fits(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

#[test]
fn every_kernel_keeps_its_budget() {
    let (_, table) = built();
    let budgets = budgets();
    let mut broken = Vec::new();
    for (name, archs) in &table {
        let budget = budgets.iter().filter(|(pattern, ..)| fits(pattern, name)).max_by_key(|(pattern, ..)| pattern.len());
        let (pattern, registers, local) = budget.unwrap_or_else(|| panic!("{name}: no line of tests/kernels/budgets.txt fits"));
        for (arch, kernel) in archs {
            if kernel.registers > *registers || kernel.local_bytes > *local {
                let (has, spilt) = (kernel.registers, kernel.local_bytes);
                broken.push(format!("{name}, sm_{arch}: {has} registers, {spilt} bytes local; `{pattern}` allows {registers} and {local}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    for (pattern, ..) in budgets {
        assert!(table.is_empty() || table.keys().any(|name| fits(&pattern, name)), "tests/kernels/budgets.txt: no kernel fits `{pattern}`");
    }
}

#[test]
fn every_kernel_states_its_block_and_fits_on_a_multiprocessor() {
    let (_, table) = built();
    for (name, archs) in &table {
        for (arch, kernel) in archs {
            assert!(kernel.block_threads > 0, "{name}: no threads by KERNEL(threads, blocks)");
            assert!(kernel.block_threads <= 1024 && kernel.block_threads % 32 == 0, "{name}: {} threads", kernel.block_threads);
            assert!(kernel.registers > 0 && kernel.registers <= 255, "{name}, sm_{arch}: {} registers", kernel.registers);
            assert!(kernel.shared_bytes <= 48 * 1024, "{name}, sm_{arch}: {} bytes of shared memory", kernel.shared_bytes);
            assert!(cubin::occupancy(*arch, kernel, kernel.block_threads).is_some(), "{name}, sm_{arch}: {kernel:?} fits nowhere");
            assert_eq!(archs.values().next().unwrap().parameter_bytes, kernel.parameter_bytes, "{name}: parameters by architecture");
            assert!(kernel.parameter_bytes.iter().sum::<u32>() <= 4096, "{name}: more than 4096 bytes of parameters");
        }
    }
}

#[test]
fn every_architecture_has_every_kernel() {
    let (images, table) = built();
    for (name, archs) in &table {
        // Tensor cores read TensorFloat-32 from sm_80 on.
        let expected: Vec<u32> = images.cubin_archs().into_iter().filter(|&arch| arch >= 80 || !name.contains("_tf32_")).collect();
        assert_eq!(archs.keys().copied().collect::<Vec<u32>>(), expected, "{name}");
    }
}

fn written(images: &Images, table: &Table) -> String {
    let archs = images.cubin_archs();
    let mut text = format!(
        "# Kernels by {}: registers / theoretical occupancy in percent [/ bytes of local memory, where there are any].\n\
         # scripts/kernel-table.sh writes this file, tests/kernels/budgets.rs compares it with the build.\n\
         # shared: bytes of a block, the most over all architectures\n",
        images.compiler()
    );
    let head = archs.iter().map(|arch| format!("{:>11}", format!("sm_{arch}"))).collect::<String>();
    text.push_str(&format!("{:<44}{:>8}{:>8}{head}\n", "kernel", "threads", "shared"));
    for (name, uses) in table {
        let (threads, shared) =
            (uses.values().map(|kernel| kernel.block_threads).max(), uses.values().map(|kernel| kernel.shared_bytes).max());
        text.push_str(&format!("{name:<44}{:>8}{:>8}", threads.unwrap(), shared.unwrap()));
        for arch in &archs {
            let Some(kernel) = uses.get(arch) else {
                text.push_str(&format!("{:>11}", "-"));
                continue;
            };
            let (_, percent) = cubin::occupancy(*arch, kernel, kernel.block_threads).unwrap_or((0, 0));
            let local = if kernel.local_bytes > 0 { format!("/{}", kernel.local_bytes) } else { String::new() };
            text.push_str(&format!("{:>11}", format!("{}/{percent}{local}", kernel.registers)));
        }
        text.push('\n');
    }
    text
}

/// Only a build with every architecture can say it, so a build for development leaves it to CI.
#[test]
fn the_table_of_kernels_is_up_to_date() {
    let (images, table) = built();
    let path = root().join("docs/gpu-kernels.txt");
    let now = written(&images, &table);
    if std::env::var_os("EPICKER_WRITE_KERNEL_TABLE").is_some() {
        assert!(images.cubin_archs().len() >= 10, "{}", images.describe());
        std::fs::write(&path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    let first = |text: &str| text.lines().next().map(str::to_string);
    let archs = |text: &str| text.lines().find(|line| line.starts_with("kernel ")).map(|line| line.matches("sm_").count());
    assert!(archs(&kept) >= Some(10), "{}: not a table of all architectures", path.display());
    if first(&kept) != first(&now) || archs(&kept) != archs(&now) {
        println!("not compared: the table is of another compiler or of other architectures than this build");
        return;
    }
    let advice = "docs/gpu-kernels.txt: run scripts/kernel-table.sh and read the difference";
    assert_eq!(kept.lines().count(), now.lines().count(), "{advice}");
    for (kept, now) in kept.lines().zip(now.lines()).filter(|(line, _)| !line.starts_with('#')) {
        let (kept, now): (Vec<&str>, Vec<&str>) = (kept.split_whitespace().collect(), now.split_whitespace().collect());
        assert_eq!(kept[..3], now[..3], "{advice}");
        // The compiler's optimiser walks some of its sets in the order of addresses, so that registers vary by a few
        // from run to run. Spills are the budget's business.
        let registers = |cell: &str| cell.split('/').next().and_then(|word| word.parse::<i32>().ok());
        for (kept_cell, now_cell) in kept[3..].iter().zip(&now[3..]) {
            if let (Some(kept_count), Some(now_count)) = (registers(kept_cell), registers(now_cell)) {
                assert!((kept_count - now_count).abs() <= 8, "{}: {now_cell} instead of {kept_cell}; {advice}", now[0]);
            }
        }
    }
}

/// The build script writes an older version of PTX into it than the compiler did; an assembler says whether it is true.
#[test]
fn ptx_is_of_the_version_that_it_states() {
    let images = Images::of_program().unwrap();
    let search =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|folder| folder.join("ptxas")).collect::<Vec<_>>();
    let named = std::env::var_os("PTXAS").map(PathBuf::from);
    let Some(ptxas) = named.into_iter().chain(search).find(|path| path.is_file()) else {
        println!("no ptxas (PATH, PTXAS), so PTX was not assembled");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for arch in images.ptx_archs() {
        for (file, bytes) in images.load(Choice::Ptx(arch), capability(arch)).unwrap() {
            assert_eq!(bytes.last(), Some(&0), "{file}: the driver reads PTX up to a NUL");
            let path = folder.path().join(format!("{file}.ptx"));
            std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
            let mut run = Command::new(&ptxas);
            let run = run.arg(format!("-arch=sm_{arch}")).arg(&path).arg("-o").arg(folder.path().join("out.cubin"));
            let output = run.output().unwrap();
            assert!(output.status.success(), "{file}, compute_{arch}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
