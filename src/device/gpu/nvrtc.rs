//! NVIDIA's run-time compiler, loaded from a shared library: the calls that make machine code of a kernel source.
//!
//! The build script compiles this file too (`#[path]`), so it uses nothing of the crate.
//! Source of the calls: NVIDIA, NVRTC User Guide (CUDA 12.9), sections 2 and 3.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use libloading::Library;

/// The release that `scripts/fetch-nvrtc.sh` fetches, and whose compiler the table of kernels was made with.
pub const FETCHED_VERSION: &str = "12.9.86";

type Program = *mut c_void;
type Status = c_int;

/// A loaded libnvrtc. Its calls may come from several threads.
pub struct Nvrtc {
    library: Library,
    path: PathBuf,
    version: (i32, i32),
}

/// What one compilation gives.
pub struct Compiled {
    /// Machine code (an ELF file); empty for a virtual architecture such as `compute_80`.
    pub cubin: Vec<u8>,
    /// PTX text as the compiler wrote it, without the closing NUL.
    pub ptx: String,
    /// What the compiler said; warnings among it.
    pub log: String,
}

/// Where `scripts/fetch-nvrtc.sh` puts the library: a folder of the user's cache.
pub fn fetched_library() -> Option<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from(std::env::var_os("HOME")?).join(".cache"),
    };
    let library = cache.join(format!("epicker/nvrtc-{FETCHED_VERSION}/libnvrtc.so.12"));
    library.is_file().then_some(library)
}

impl Nvrtc {
    /// Loads the library at `path`; a bare name is looked for where the system looks for libraries.
    ///
    /// Errors: it cannot be loaded, lacks a call, or is older than 11.1 (which gave no machine code).
    pub fn load(path: &Path) -> Result<Nvrtc> {
        // SAFETY: loading runs the library's initialisers; a libnvrtc has none that matter to us, and nothing else is loaded by these names.
        let library = unsafe { Library::new(path) }.with_context(|| format!("{}: cannot be loaded", path.display()))?;
        let mut loaded = Nvrtc { library, path: path.to_path_buf(), version: (0, 0) };
        let (mut major, mut minor) = (0, 0);
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status = loaded.call(c"nvrtcVersion")?;
        // SAFETY: two places for two numbers, as nvrtcVersion asks for.
        loaded.check("nvrtcVersion", unsafe { version(&mut major, &mut minor) })?;
        ensure!((major, minor) >= (11, 1), "{}: NVRTC {major}.{minor}; expected 11.1 or later", path.display());
        loaded.version = (major, minor);
        Ok(loaded)
    }

    /// Major and minor version, such as (12, 9).
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// The file (or bare name) that was loaded.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Architectures that this release compiles for, ascending: 80 is `sm_80`.
    pub fn architectures(&self) -> Result<Vec<u32>> {
        let count: unsafe extern "C" fn(*mut c_int) -> Status = self.call(c"nvrtcGetNumSupportedArchs")?;
        let list: unsafe extern "C" fn(*mut c_int) -> Status = self.call(c"nvrtcGetSupportedArchs")?;
        let mut found = 0;
        // SAFETY: one place for one number.
        self.check("nvrtcGetNumSupportedArchs", unsafe { count(&mut found) })?;
        let mut archs = vec![0; usize::try_from(found).context("nvrtcGetNumSupportedArchs gave a negative number")?];
        // SAFETY: as many places as the library said it fills.
        self.check("nvrtcGetSupportedArchs", unsafe { list(archs.as_mut_ptr()) })?;
        let mut archs: Vec<u32> = archs.into_iter().filter_map(|arch| u32::try_from(arch).ok()).collect();
        archs.sort_unstable();
        Ok(archs)
    }

    /// Compiles one source. `name` stands in messages; `headers` are (name in `#include`, text).
    ///
    /// Errors: the compiler's own words, if it refuses the source or an option.
    pub fn compile(&self, name: &str, source: &str, headers: &[(String, String)], options: &[String]) -> Result<Compiled> {
        let text = |text: &str| CString::new(text).with_context(|| format!("{name}: a text for the compiler has a zero byte"));
        let (source, name_c) = (text(source)?, text(name)?);
        let header_names = headers.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>>>()?;
        let header_texts = headers.iter().map(|(_, body)| text(body)).collect::<Result<Vec<_>>>()?;
        let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>>>()?;
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<*const c_char>>();

        type Create =
            unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> Status;
        let create: Create = self.call(c"nvrtcCreateProgram")?;
        let compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status = self.call(c"nvrtcCompileProgram")?;
        let destroy: unsafe extern "C" fn(*mut Program) -> Status = self.call(c"nvrtcDestroyProgram")?;
        let mut program: Program = std::ptr::null_mut();
        let (bodies, names) = (pointers(&header_texts), pointers(&header_names));
        // SAFETY: all texts end in NUL and outlive the call; both lists have `headers.len()` entries.
        self.check("nvrtcCreateProgram", unsafe {
            create(&mut program, source.as_ptr(), name_c.as_ptr(), headers.len() as c_int, bodies.as_ptr(), names.as_ptr())
        })?;
        // SAFETY: the program was made above; the options end in NUL and outlive the call.
        let status = unsafe { compile(program, options.len() as c_int, pointers(&options).as_ptr()) };
        let result = self.results(program, status, name);
        // SAFETY: made above, used for the last time here.
        unsafe { destroy(&mut program) };
        result
    }

    fn results(&self, program: Program, status: Status, name: &str) -> Result<Compiled> {
        let log = self.text(program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?;
        if status != 0 {
            return Err(anyhow!("{name}: {}: {}", self.words(status), log.trim_end()));
        }
        let ptx = self.text(program, c"nvrtcGetPTXSize", c"nvrtcGetPTX")?;
        Ok(Compiled { cubin: self.bytes(program, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")?, ptx, log })
    }

    fn text(&self, program: Program, size: &CStr, get: &CStr) -> Result<String> {
        let bytes = self.bytes(program, size, get)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_string())
    }

    fn bytes(&self, program: Program, size: &CStr, get: &CStr) -> Result<Vec<u8>> {
        let size_call: unsafe extern "C" fn(Program, *mut usize) -> Status = self.call(size)?;
        let get_call: unsafe extern "C" fn(Program, *mut c_char) -> Status = self.call(get)?;
        let mut length = 0;
        // SAFETY: the program is alive, and there is one place for one number.
        self.check(&size.to_string_lossy(), unsafe { size_call(program, &mut length) })?;
        let mut bytes = vec![0u8; length];
        if length > 0 {
            // SAFETY: as many bytes as the library said it writes.
            self.check(&get.to_string_lossy(), unsafe { get_call(program, bytes.as_mut_ptr().cast()) })?;
        }
        Ok(bytes)
    }

    fn call<F: Copy>(&self, name: &CStr) -> Result<F> {
        // SAFETY: every caller writes the type that NVRTC's header gives for this name; the library lives as long as `self`.
        let symbol = unsafe { self.library.get::<F>(name.to_bytes_with_nul()) };
        Ok(*symbol.with_context(|| format!("{}: has no {}", self.path.display(), name.to_string_lossy()))?)
    }

    fn check(&self, what: &str, status: Status) -> Result<()> {
        ensure!(status == 0, "{}: {what}: {}", self.path.display(), self.words(status));
        Ok(())
    }

    fn words(&self, status: Status) -> String {
        let Ok(name) = self.call::<unsafe extern "C" fn(Status) -> *const c_char>(c"nvrtcGetErrorString") else {
            return format!("error {status}");
        };
        // SAFETY: nvrtcGetErrorString gives a text that lives as long as the library, for any number.
        let text = unsafe { CStr::from_ptr(name(status)) };
        text.to_string_lossy().into_owned()
    }
}
