//! Which form of the kernels a GPU gets, and what is said where none fits.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use epicker::device::gpu::images::{Capability, Choice, CudaVersion, Images};
use epicker::device::gpu::nvrtc;
use epicker::device::gpu::pack::{self, Form};

fn packed(compiler: &str, cubins: &[u32], ptx: &[u32]) -> Vec<u8> {
    let image = |form, arch: u32| {
        let bytes = format!("{form:?} {arch}").into_bytes();
        (form, arch, "ops".to_string(), bytes.len(), pack::compress(&bytes).unwrap())
    };
    let mut images: Vec<_> = cubins.iter().map(|arch| image(Form::Cubin, *arch)).collect();
    images.extend(ptx.iter().map(|arch| image(Form::Ptx, *arch)));
    images.push(image(Form::Source, 0));
    pack::write(compiler, &images)
}

fn release() -> Vec<u8> {
    packed("NVRTC 12.9.86", &[52, 60, 61, 70, 75, 80, 86, 89, 90, 100, 120], &[52, 80])
}

fn gpu(major: u32, minor: u32) -> Capability {
    Capability { major, minor }
}

fn cuda(major: u32, minor: u32) -> CudaVersion {
    CudaVersion { major, minor }
}

#[test]
fn a_gpu_gets_machine_code_of_its_major_version() {
    let packed = release();
    let images = Images::read(&packed).unwrap();
    let expected = [((5, 2), 52), ((5, 3), 52), ((6, 0), 60), ((6, 1), 61), ((7, 0), 70), ((7, 5), 75), ((8, 0), 80), ((8, 6), 86)];
    for ((major, minor), arch) in expected.into_iter().chain([((8, 7), 86), ((8, 9), 89), ((9, 0), 90), ((10, 3), 100), ((12, 1), 120)]) {
        assert_eq!(images.choices(gpu(major, minor), cuda(12, 9)).unwrap()[0], Choice::Cubin(arch), "{major}.{minor}");
    }
}

#[test]
fn a_gpu_newer_than_the_program_gets_the_newest_ptx() {
    let packed = release();
    let images = Images::read(&packed).unwrap();
    assert_eq!(images.choices(gpu(11, 0), cuda(13, 0)).unwrap()[0], Choice::Ptx(80));
    assert_eq!(images.choices(gpu(13, 0), cuda(14, 0)).unwrap()[0], Choice::Ptx(80));
}

#[test]
fn a_driver_too_old_for_machine_code_gets_ptx() {
    let packed = release();
    let images = Images::read(&packed).unwrap();
    assert_eq!(images.choices(gpu(8, 6), cuda(12, 0)).unwrap()[0], Choice::Cubin(86));
    assert_eq!(images.choices(gpu(8, 6), cuda(11, 8)).unwrap()[0], Choice::Ptx(80));
    assert_eq!(images.choices(gpu(7, 5), cuda(11, 4)).unwrap()[0], Choice::Ptx(52));
    assert_eq!(images.oldest_driver(Choice::Cubin(90)), cuda(12, 0));
    assert_eq!(images.oldest_driver(Choice::Cubin(120)), cuda(12, 8));
    assert_eq!(images.oldest_driver(Choice::Ptx(80)), cuda(11, 4));
}

#[test]
fn where_nothing_fits_the_sources_are_compiled() {
    let one = packed("NVRTC 12.9.86", &[90], &[90]);
    assert_eq!(Images::read(&one).unwrap().choices(gpu(8, 0), cuda(12, 9)).unwrap(), [Choice::Source]);
    let none = packed("", &[], &[]);
    let images = Images::read(&none).unwrap();
    assert_eq!(images.choices(gpu(8, 0), cuda(12, 9)).unwrap()[0], Choice::Source);
    assert_eq!(images.describe(), "kernels as sources only: the build had no CUDA compiler, or was told to make no machine code");
}

#[test]
fn sources_are_compiled_where_there_is_an_nvrtc() {
    let text = |form, file: &str, text: &str| (form, 0, file.to_string(), text.len(), pack::compress(text.as_bytes()).unwrap());
    let kernel = "#include \"twice.h\"\nextern \"C\" __global__ void double_it(float* x) { x[threadIdx.x] *= TWO; }\n";
    let sources = pack::write("", &[text(Form::Header, "twice.h", "#define TWO 2\n"), text(Form::Source, "ops", kernel)]);
    let images = Images::read(&sources).unwrap();
    assert_eq!(images.choices(gpu(8, 6), cuda(12, 9)).unwrap()[0], Choice::Source);
    match images.load(Choice::Source, gpu(8, 6)) {
        Ok(loaded) => {
            let [(file, cubin)] = &loaded[..] else { panic!("{} files", loaded.len()) };
            let kernels = crate::cubin::kernels(cubin).unwrap();
            assert_eq!((file.as_str(), kernels[0].name.as_str(), &kernels[0].parameter_bytes), ("ops", "double_it", &vec![8]));
            let broken = pack::write("", &[text(Form::Source, "ops", "no kernel\n")]);
            let error = Images::read(&broken).unwrap().load(Choice::Source, gpu(8, 6)).unwrap_err();
            assert!(format!("{error:#}").starts_with("kernels/ops.cu: "), "{error:#}");
            let unknown = images.load(Choice::Source, gpu(99, 0)).unwrap_err().to_string();
            assert!(unknown.contains("compute capability 99.0: NVRTC") && unknown.contains("set NVRTC_LIB"), "{unknown}");
        }
        Err(error) => {
            println!("no NVRTC here: {error:#}");
            assert!(format!("{error:#}").contains("no NVRTC was found to compile them; set NVRTC_LIB to a libnvrtc.so"), "{error:#}");
        }
    }
}

#[test]
fn an_old_gpu_and_an_old_driver_are_refused_in_words() {
    let packed = release();
    let images = Images::read(&packed).unwrap();
    let old_gpu = images.choices(gpu(3, 5), cuda(11, 4)).unwrap_err().to_string();
    assert_eq!(old_gpu, "GPU of compute capability 3.5: the kernels are written for 5.2 and later; use another GPU or the CPU");
    let old_driver = images.choices(gpu(7, 0), cuda(10, 2)).unwrap_err().to_string();
    assert!(old_driver.starts_with("the NVIDIA driver serves CUDA 10.2; expected 11.4 or later; install driver 470"), "{old_driver}");
}

#[test]
fn images_come_out_as_they_went_in() {
    let packed = release();
    let images = Images::read(&packed).unwrap();
    assert_eq!(images.load(Choice::Cubin(61), gpu(6, 1)).unwrap(), [("ops".to_string(), b"Cubin 61".to_vec())]);
    assert_eq!(images.load(Choice::Ptx(80), gpu(8, 0)).unwrap(), [("ops".to_string(), b"Ptx 80\0".to_vec())]);
    assert_eq!((images.files(), images.source("ops").unwrap()), (vec!["ops"], "Source 0".to_string()));
    assert!(images.load(Choice::Cubin(62), gpu(6, 2)).is_err());
}

#[test]
fn a_damaged_set_is_refused() {
    let packed = release();
    for length in 0..packed.len() {
        assert!(Images::read(&packed[..length]).is_err(), "cut off at {length}");
    }
    let mut longer = packed.clone();
    longer.push(0);
    assert!(Images::read(&longer).is_err());
    let mut other = packed.clone();
    let last = other.len() - 1;
    other[last] ^= 0xff;
    assert!(Images::read(&other).unwrap().source("ops").is_err());
}

#[test]
fn the_program_carries_the_kernels_sources() {
    let images = Images::of_program().unwrap();
    assert!(images.files().contains(&"max_pool"));
    assert!(images.source("max_pool").unwrap().contains("max_pool_forward"));
    assert!(images.source("kernel.h").unwrap().contains("#define KERNEL"));
}

#[test]
fn drivers_are_called_by_their_numbers() {
    assert_eq!([cuda(11, 0), cuda(11, 4), cuda(12, 0), cuda(12, 7), cuda(12, 8)].map(CudaVersion::driver), [450, 470, 525, 560, 570]);
    assert_eq!(CudaVersion::from_number(12080), cuda(12, 8));
    assert_eq!(CudaVersion::from_number(11040).to_string(), "11.4");
}

#[test]
fn machine_code_that_is_none_is_refused() {
    use crate::cubin;
    let images = Images::of_program().unwrap();
    assert!(cubin::kernels(b"").is_err());
    assert!(cubin::kernels(b"\x7fELF\x02\x01 but no more").is_err());
    let Some(arch) = images.cubin_archs().first().copied() else { return };
    let (_, cubin) = images.load(Choice::Cubin(arch), gpu(arch / 10, arch % 10)).unwrap().swap_remove(0);
    // Cut off or with a wrong byte in the headers: an error or another answer, never a panic.
    for length in (0..cubin.len()).step_by(17) {
        let _ = cubin::kernels(&cubin[..length]);
    }
    let mut broken = cubin.clone();
    for at in (0..64).chain(cubin.len().saturating_sub(4096)..cubin.len()) {
        broken[at] ^= 0xff;
        let _ = cubin::kernels(&broken);
        broken[at] ^= 0xff;
    }
    assert_eq!(cubin::kernels(&broken).unwrap(), cubin::kernels(&cubin).unwrap());
}

/// What the build script makes of the program's largest file, in a process of its own: machine code, then PTX. `folders` is
/// LD_LIBRARY_PATH.
fn compiled_apart(program: &Path, library: &Path, environment: &str, folders: &str) -> [Vec<u8>; 2] {
    let images = Images::of_program().unwrap();
    let largest = images.files().into_iter().max_by_key(|file| images.source(file).unwrap().len()).unwrap();
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let names = std::fs::read_dir(kernels).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let packed = |form, name: String, file: &str| {
        let text = images.source(file).unwrap();
        (form, 80, name, text.len(), pack::compress(text.as_bytes()).unwrap())
    };
    let mut input: Vec<_> = names.filter(|name| name.ends_with(".h")).map(|name| packed(Form::Header, name.clone(), &name)).collect();
    input.sort_by(|a, b| a.2.cmp(&b.2));
    input.push(packed(Form::Source, format!("kernels/{largest}.cu"), largest));
    let piped = || Stdio::piped();
    let mut command = Command::new(program);
    command.arg("compile").env("LONGER", environment).env("LD_LIBRARY_PATH", folders);
    let mut process = command.stdin(piped()).stdout(piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(&pack::write(library.to_str().unwrap(), &input)).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let mut rest = &output.stdout[..];
    [(); 2].map(|()| {
        let (length, behind) = rest.split_first_chunk::<8>().unwrap();
        let (part, behind) = behind.split_at(u64::from_le_bytes(*length) as usize);
        rest = behind;
        part.to_vec()
    })
}

#[test]
fn a_kernel_compiles_to_the_same_bytes_every_time() {
    let fixed_addresses = Command::new("setarch").args(["-R", "true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    let library = std::env::var_os("NVRTC_LIB").map(Into::into).or_else(nvrtc::fetched_library);
    let (Some(library), true) = (library, fixed_addresses) else {
        println!("no NVRTC here, or no fixed addresses");
        return;
    };
    // With another environment, another path of the build script and another path of the library, too, all much longer.
    let (program, folder) = (Path::new(env!("EPICKER_BUILD_SCRIPT")), tempfile::tempdir().unwrap());
    let deep = folder.path().join("a_folder_with_quite_a_long_name/".repeat(6));
    std::fs::create_dir_all(&deep).unwrap();
    let other = deep.join("the_same_program_by_quite_another_name");
    std::fs::copy(program, &other).unwrap();
    let link = folder.path().join("the_same_library");
    std::os::unix::fs::symlink(library.parent().unwrap(), &link).unwrap();
    let other_library = link.join(library.file_name().unwrap());
    let folders = deep.display().to_string();
    let [one, two] = std::thread::scope(|scope| {
        let ways = [(program, &library, "", ""), (&other, &other_library, "and longer", &folders)];
        let started = ways.map(|(program, library, more, folders)| scope.spawn(move || compiled_apart(program, library, more, folders)));
        started.map(|thread| thread.join().unwrap())
    });
    assert!(one[0].len() > 20_000, "{} bytes of machine code", one[0].len());
    for (what, one, two) in [("machine code", &one[0], &two[0]), ("PTX", &one[1], &two[1])] {
        // If it ever fails: the first place that differs says which kernel to look at.
        let same = one.iter().zip(two).take_while(|(a, b)| a == b).count();
        assert!(one == two, "other {what} from byte {same} on: {} and {} bytes", one.len(), two.len());
    }
}
