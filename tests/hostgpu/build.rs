//! Compiles kernels/*.cu with g++ into shared objects: in f32, in f64, and in f32 with every access checked; and the
//! kernels with planted faults, checked. Without g++ the crate builds and says so when it is used.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;

/// What the shared objects are called, and how each is compiled.
const BUILDS: [(&str, &[&str]); 4] = [
    ("fast_f32", &["-O2"]),
    ("fast_f64", &["-O2", "-DVALUES_ARE_F64"]),
    ("checked_f32", &["-O1", "-DHOST_CHECKED"]),
    ("faults", &["-O1", "-DHOST_CHECKED"]),
];

/// Contractions are off, so that a multiply-add is one only where a kernel says so.
const FLAGS: [&str; 8] = [
    "-std=c++17",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-Wno-unknown-pragmas",
    "-Wno-return-type-c-linkage",
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let (kernels, faults, csrc) = (here.join("../../kernels"), here.join("faults"), here.join("csrc"));
    for folder in [&kernels, &faults, &csrc] {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    println!("cargo:rerun-if-env-changed=CXX");
    println!("cargo:rerun-if-env-changed=HOSTGPU_SANITIZE");
    // address or thread: scripts/kernel-sanitizers.sh.
    let sanitizer = std::env::var("HOSTGPU_SANITIZE").unwrap_or_default();
    println!("cargo:rustc-env=HOSTGPU_SANITIZER={sanitizer}");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    println!("cargo:rustc-env=HOSTGPU_FOLDER={}", out.display());
    println!("cargo:rustc-env=HOSTGPU_COMPILER={compiler}");
    let Ok(version) = Command::new(&compiler).arg("--version").output() else {
        println!("cargo:warning={compiler} was not found: kernels cannot run on the host; install g++");
        println!("cargo:rustc-env=HOSTGPU_BUILT=no");
        return Ok(());
    };
    println!("cargo:rustc-env=HOSTGPU_BUILT=yes");
    let mut headers = version.stdout;
    for header in [kernels.join("kernel.h"), csrc.join("host_kernel.h"), csrc.join("host_interface.h")] {
        headers.extend(read(&header)?);
    }
    let native: &[&str] = if variable("CARGO_CFG_TARGET_ARCH")? == "x86_64" { &["-march=native"] } else { &[] };

    let is_sanitized = |name: &str| !sanitizer.is_empty() && ["fast_f32", "faults"].contains(&name);

    // Every object that has changed, on all cores.
    let mut work: Vec<Object> = Vec::new();
    let mut builds: Vec<(&str, Vec<PathBuf>)> = Vec::new();
    for (name, options) in BUILDS {
        let mut objects = Vec::new();
        let folder = if name == "faults" { &faults } else { &kernels };
        let mut sources = files(folder, "cu")?;
        sources.push(csrc.join("executor.cpp"));
        for source in sources {
            let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let object = out.join(format!("{name}_{stem}.o"));
            let mut options: Vec<String> = FLAGS.iter().chain(native).chain(options).map(|option| option.to_string()).collect();
            options.extend([&kernels, &csrc].map(|folder| format!("-I{}", folder.display())));
            if is_sanitized(name) {
                // A sanitizer looks at what the kernels do, not at the checks: the planted faults are for it, then.
                options.retain(|option| option != "-DHOST_CHECKED");
                options.extend(sanitize(&sanitizer, stem == "executor"));
            }
            objects.push(object.clone());
            work.push(Object { source, object, options });
        }
        builds.push((name, objects));
    }
    let queue = Mutex::new(work.into_iter());
    let next = || queue.lock().map_err(|error| error.to_string()).map(|mut queue| queue.next());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<Result<(), String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    while let Some(object) = next()? {
                        object.compile(&compiler, &headers)?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread of the build panicked".into()))).collect()
    });
    results.into_iter().collect::<Result<Vec<()>, String>>()?;
    for (name, objects) in builds {
        let library = out.join(format!("{name}.so"));
        let mut link = Command::new(&compiler);
        if is_sanitized(name) {
            link.arg(format!("-fsanitize={sanitizer}"));
        }
        run(link.args(["-shared", "-Wl,-Bsymbolic", "-o"]).arg(library).args(objects))?;
    }
    Ok(())
}

/// The options of a sanitizer. The executor itself stays out of the thread sanitizer's sight: it tells it which threads
/// there are, and what its barriers order.
fn sanitize(sanitizer: &str, is_executor: bool) -> Vec<String> {
    let options: &[&str] = match (sanitizer, is_executor) {
        ("", _) => &[],
        ("thread", true) => &["-g", "-DHOST_TSAN"],
        ("thread", false) => &["-g", "-O1", "-fsanitize=thread"],
        _ => &["-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address"],
    };
    options.iter().map(|option| option.to_string()).collect()
}

struct Object {
    source: PathBuf,
    object: PathBuf,
    options: Vec<String>,
}

impl Object {
    /// Compiles it unless source, headers and options are those of the last time.
    fn compile(&self, compiler: &str, headers: &[u8]) -> Result<(), String> {
        let mut hasher = DefaultHasher::new();
        (read(&self.source)?, headers, &self.options).hash(&mut hasher);
        let (key, stamp) = (hasher.finish().to_string(), self.object.with_extension("key"));
        if self.object.exists() && std::fs::read_to_string(&stamp).is_ok_and(|old| old == key) {
            return Ok(());
        }
        let mut source = self.source.clone();
        if source.extension().is_some_and(|ending| ending == "cu") {
            let mut text = format!("#include \"{}\"\n", source.display());
            for Kernel { name, threads, parameters } in self.kernels(compiler)? {
                text.push_str(&format!("HOST_KERNEL({name}, ({threads}), \"{}\")\n", parameters.join(",")));
            }
            source = self.object.with_extension("cpp");
            std::fs::write(&source, text).map_err(|error| format!("{}: {error}", source.display()))?;
        }
        run(Command::new(compiler).args(&self.options).arg("-c").arg(&source).arg("-o").arg(&self.object))?;
        std::fs::write(&stamp, key).map_err(|error| format!("{}: {error}", stamp.display()))
    }

    /// The kernels of a file: the KERNEL lines as the preprocessor leaves them, those that macros make among them.
    fn kernels(&self, compiler: &str) -> Result<Vec<Kernel>, String> {
        let arguments = ["-x", "c++", "-E", "-P", "-DHOST_SCAN"];
        let text = run(Command::new(compiler).args(&self.options).args(arguments).arg(&self.source))?;
        let mut found = Vec::new();
        for part in text.split("HOST_SCAN_KERNEL <|").skip(1) {
            let kernel = || -> Option<Kernel> {
                let (threads, rest) = part.split_once("|>")?;
                let (name, rest) = rest.split_once('(')?;
                Some(Kernel { name: name.trim().into(), threads: threads.trim().into(), parameters: parameter_names(rest) })
            };
            found.push(kernel().ok_or_else(|| format!("{}: a KERNEL line that is none", self.source.display()))?);
        }
        Ok(found)
    }
}

struct Kernel {
    name: String,
    threads: String,
    parameters: Vec<String>,
}

/// The names of the parameters, from the text behind the opening parenthesis.
fn parameter_names(text: &str) -> Vec<String> {
    let (mut names, mut depth, mut last) = (Vec::new(), 0, String::new());
    let mut word = String::new();
    for c in text.chars() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            last = std::mem::take(&mut word);
        }
        match c {
            '(' | '<' | '[' => depth += 1,
            ')' if depth == 0 => break,
            ')' | '>' | ']' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut last)),
            _ => {}
        }
    }
    names.push(last);
    names
}

fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut found: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.extension().is_some_and(|e| e == ending)).collect();
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|error| format!("{name}: {error}"))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}\n{}", String::from_utf8_lossy(&output.stderr)))
}
