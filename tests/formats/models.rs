//! Model files: PyTorch checkpoints of both containers, safetensors, and what is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use epicker::cli::convert::{ConvertArgs, run};
use epicker::cli::status::{WRONG_USAGE, status_of};
use epicker::formats::model_file::{ModelFormat, load_checkpoint_file, load_model_file, read_checkpoint, sha256};
use epicker::formats::pth::{self, Adam, Checkpoint, Moments, WriteOptions};
use epicker::formats::safetensors_file;
use epicker::formats::state_dict::{ModelFacts, NamedTensor, StateDict, Values};
use epicker::net::dla::Architecture;
use half::f16;
use proptest::prelude::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(name)
}

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(golden(name)).unwrap()
}

fn error_of(bytes: &[u8]) -> String {
    format!("{:#}", read_checkpoint(bytes, true).unwrap_err())
}

#[test]
fn a_trained_checkpoint_of_pytorch_is_read_whole() {
    let checkpoint = load_checkpoint_file(&golden("trained.pth"), true).unwrap();
    let tiny = load_model_file(&golden("tiny.safetensors")).unwrap();
    assert_eq!(checkpoint.state.tensors.len(), 398);
    assert_eq!(checkpoint.state.tensors[0].name, "base.base_layer.0.weight");
    assert_eq!(checkpoint.state.tensors[397].name, "reg.2.bias");
    for tensor in &checkpoint.state.tensors {
        assert_eq!(tiny.get(&tensor.name).unwrap().shape, tensor.shape, "{}", tensor.name);
    }
    assert_eq!(checkpoint.state.float_count(), 230_121);
    assert!(checkpoint.ignored.is_empty() && !checkpoint.has_optimizer && checkpoint.optimizer.is_none());
}

#[test]
fn strides_views_types_and_empty_tensors_come_out_contiguous_from_both_containers() {
    let expected = load_model_file(&golden("odd_tensors_expected.safetensors")).unwrap();
    for name in ["odd_tensors.pth", "odd_tensors_legacy.pth"] {
        let checkpoint = load_checkpoint_file(&golden(name), false).unwrap();
        let state = checkpoint.state;
        assert_eq!(checkpoint.epoch, Some(1), "{name}");
        assert_eq!(state.tensors.len(), 11, "{name}");
        for tensor in &expected.tensors {
            let found = state.get(&tensor.name).unwrap();
            // numpy, which wrote the expected values, made the one scalar a row of one.
            let shape = if tensor.name.ends_with("num_batches_tracked") { &[] } else { tensor.shape.as_slice() };
            assert_eq!(found.shape, shape, "{name} {}", tensor.name);
            assert_eq!(found.values.to_f32(), tensor.values.to_f32(), "{name} {}", tensor.name);
        }
        let type_of = |tensor: &str| state.get(tensor).unwrap().values.type_name();
        assert_eq!([type_of("half"), type_of("dbl"), type_of("i64"), type_of("view")], ["F16", "F64", "I64", "F32"]);
        let empty = state.get("empty").unwrap();
        assert_eq!((empty.shape.as_slice(), empty.values.len()), ([0, 3].as_slice(), 0));
    }
}

#[test]
fn every_type_is_read_from_both_containers() {
    for name in ["types.pth", "types_legacy.pth"] {
        let state = load_model_file(&golden(name)).unwrap();
        let ramp = |shape: &[usize], value: &dyn Fn(usize) -> i64| (shape.to_vec(), Values::I64((0..12).map(value).collect()));
        let found = |tensor: &str| {
            let tensor = state.get(tensor).unwrap();
            (tensor.shape.clone(), tensor.values.clone())
        };
        assert_eq!(found("i32"), ramp(&[3, 4], &|i| i as i64 * 100_003 - 500_000), "{name}");
        assert_eq!(found("i16"), ramp(&[3, 4], &|i| i as i64 * 1001 - 5000), "{name}");
        assert_eq!(found("i8"), ramp(&[3, 4], &|i| i as i64 * 20 - 100), "{name}");
        assert_eq!(found("u8"), ramp(&[3, 4], &|i| i as i64 * 20), "{name}");
        assert_eq!(found("bool"), ramp(&[3, 4], &|i| i64::from(i % 3 == 0)), "{name}");
        assert_eq!(found("parameter"), (vec![3, 4], Values::F32((0..12).map(|i| i as f32 / 7.0).collect())), "{name}");
        assert_eq!(found("shared"), (vec![2, 2], Values::I64(vec![-99_988, 100_018, 300_024, 500_030])), "{name}");
        let transposed = (0..12).map(|i| f64::from(i % 3 * 4 + i / 3) / 7.0).collect();
        assert_eq!(found("transposed"), (vec![4, 3], Values::F64(transposed)), "{name}");
        assert_eq!(found("expanded"), (vec![3], Values::F32(vec![2.5; 3])), "{name}");
        assert_eq!(found("scalar"), (vec![], Values::F16(vec![f16::from_f32(-1.25)])), "{name}");
        let nearest_bf16 = |x: f32| f32::from_bits((x.to_bits() + 0x7fff + (x.to_bits() >> 16 & 1)) & 0xffff_0000);
        let bf16 = (0..12).map(|i| nearest_bf16(i as f32 * 0.3 - 1.0)).collect();
        assert_eq!(found("bf16"), (vec![3, 4], Values::F32(bf16)), "{name}");
    }
}

#[test]
fn names_lose_their_module_and_the_classifier_and_adam_knows_its_parameters() {
    let expected = load_model_file(&golden("module_adam_fc_expected.safetensors")).unwrap();
    for name in ["module_adam_fc.pth", "module_adam_fc_legacy.pth"] {
        let checkpoint = load_checkpoint_file(&golden(name), true).unwrap();
        assert_eq!(checkpoint.epoch, Some(41));
        assert_eq!(checkpoint.ignored, ["base.fc.weight", "base.fc.bias"]);
        assert_eq!(checkpoint.state.tensors.len(), 10);
        for tensor in &checkpoint.state.tensors {
            assert_eq!(Some(tensor), expected.get(&tensor.name), "{name}");
        }
        let adam = checkpoint.optimizer.unwrap();
        assert_eq!((adam.learning_rate, adam.betas, adam.eps, adam.weight_decay), (1e-4, [0.9, 0.999], 1e-8, 0.0));
        // those of base.fc and of the layer that nothing reads were never stepped
        let names: Vec<_> = adam.moments.iter().map(|moments| moments.name.as_str()).collect();
        assert_eq!(names, ["base.base_layer.0.weight", "base.base_layer.1.weight", "base.base_layer.1.bias", "hm.0.weight", "hm.0.bias"]);
        for moments in adam.moments {
            assert_eq!(moments.step, 3);
            assert_eq!(moments.first, expected.get(&format!("first/{}", moments.name)).unwrap().values.to_f32());
            assert_eq!(moments.second, expected.get(&format!("second/{}", moments.name)).unwrap().values.to_f32());
        }
    }
}

#[test]
fn a_foreign_name_is_refused_by_name() {
    for name in ["bad_foreign_global.pth", "bad_foreign_global_legacy.pth"] {
        let error = format!("{:#}", load_model_file(&golden(name)).unwrap_err());
        assert!(error.contains("`posix.system`") && error.contains("nothing was run") && error.contains(name), "{error}");
    }
}

#[test]
fn damaged_files_are_named_in_the_error() {
    for name in ["bad_truncated_zip.pth", "bad_truncated_legacy.pth", "bad_wrong_size.pth", "absent.pth"] {
        let error = format!("{:#}", load_model_file(&golden(name)).unwrap_err());
        assert!(error.contains(name) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn every_shortened_file_is_an_error() {
    let safetensors = safetensors_file::write(&load_model_file(&golden("small_ok.pth")).unwrap()).unwrap();
    for file in [bytes_of("small_ok.pth"), bytes_of("odd_tensors_legacy.pth"), safetensors] {
        assert!(read_checkpoint(&file, true).is_ok());
        for length in 0..file.len() {
            assert!(read_checkpoint(&file[..length], true).is_err(), "{length} of {} bytes", file.len());
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let mut state = load_model_file(&golden("trained.pth")).unwrap();
    state.metadata.insert("somebody.else".into(), "keeps \"this\"\n".into());
    let pth = pth::write(&state, &WriteOptions::default()).unwrap();
    assert_eq!(pth::read(&pth, false).unwrap().state, state);
    let safetensors = safetensors_file::write(&state).unwrap();
    assert_eq!(safetensors_file::read(&safetensors).unwrap(), state); // the order of the tensors too
    assert_eq!((ModelFormat::of(&pth), ModelFormat::of(&safetensors)), (Some(ModelFormat::Pth), Some(ModelFormat::Safetensors)));

    let bare = pth::read(&pth::write(&state, &WriteOptions { bare: true, ..WriteOptions::default() }).unwrap(), false).unwrap();
    assert_eq!((bare.state.tensors, bare.epoch), (state.tensors, None));
}

#[test]
fn adam_survives_the_way_through_a_pth() {
    let state = load_model_file(&golden("small_ok.pth")).unwrap();
    let moments = |name: &str, step| {
        let count = state.get(name).unwrap().values.len();
        let ramp: Vec<f32> = (0..count).map(|i| (i as f32 - 3.5) * 1e-3).collect();
        Moments { name: name.into(), step, second: ramp.iter().map(|x| x * x).collect(), first: ramp }
    };
    let adam = Adam {
        learning_rate: 1e-5,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.0,
        moments: vec![moments("base.base_layer.0.weight", 70_000), moments("base.base_layer.1.bias", 3)],
    };
    let file = pth::write(&state, &WriteOptions { epoch: Some(300), optimizer: Some(&adam), bare: false }).unwrap();
    let read = pth::read(&file, true).unwrap();
    assert_eq!((read.epoch, read.has_optimizer), (Some(300), true));
    assert_eq!(read.optimizer.as_ref(), Some(&adam));
    let without = pth::read(&file, false).unwrap();
    assert_eq!((without.optimizer, without.has_optimizer), (None, true));

    let mut stranger = adam.clone();
    stranger.moments[0].name = "base.base_layer.1.running_mean".into();
    let error = pth::write(&state, &WriteOptions { optimizer: Some(&stranger), ..WriteOptions::default() }).unwrap_err();
    assert!(format!("{error:#}").contains("running_mean is no parameter"), "{error:#}");
}

#[test]
fn half_the_bits_are_the_nearest_half_floats_and_leave_batch_norm_alone() {
    let state = load_model_file(&golden("small_ok.pth")).unwrap();
    let half = state.to_half().unwrap();
    for (full, half) in state.tensors.iter().zip(&half.tensors) {
        if full.shape.len() < 2 {
            assert_eq!(full, half);
            continue;
        }
        let Values::F16(values) = &half.values else { panic!("{} is not of 16 bits", half.name) };
        for (x, y) in full.values.to_f32().iter().zip(values) {
            // half a step of a 16-bit float: 2^-11 of the value, 2^-25 below the smallest normal one
            assert!((x - y.to_f32()).abs() <= (x.abs() * 2_f32.powi(-11)).max(2_f32.powi(-25)), "{x} became {y}");
        }
    }
    let large = StateDict { tensors: vec![tensor("w", &[1, 2], Values::F32(vec![65504.0, -7e4]))], ..StateDict::default() };
    let error = large.to_half().unwrap_err().to_string();
    assert!(error.contains("w: value -70000"), "{error}");
}

#[test]
fn the_fingerprint_is_of_the_tensors_and_not_of_their_container() {
    let state = load_model_file(&golden("trained.pth")).unwrap();
    let mut shuffled = safetensors_file::read(&safetensors_file::write(&state).unwrap()).unwrap();
    shuffled.tensors.reverse();
    shuffled.metadata.clear();
    assert_eq!(shuffled.sha256(), state.sha256());
    assert_eq!(state.sha256().len(), 64);
    let mut other = state.clone();
    other.tensors[5].name.push('x');
    assert_ne!(other.sha256(), state.sha256());
    if let Values::F32(values) = &mut shuffled.tensors[0].values {
        values[0] = -values[0];
    }
    assert_ne!(shuffled.sha256(), state.sha256());
}

#[test]
fn the_facts_of_a_model_survive_and_nonsense_is_refused() {
    let facts = ModelFacts {
        version: Some("0.1.0".into()),
        mode: Some("vesicle".into()),
        channels: Some(vec![8, 8, 12, 16, 24, 32]),
        head_width: Some(16),
        particle_size_h_px: Some(4.75),
        normalisation: Some([0.502256, 0.289417]),
        diameter_angstrom: Some(152.5),
        frame: Some(768),
        ground_px: Some(72.0),
        average: Some(2),
        noise_share: Some(0.7),
        threshold: Some(0.3),
        history: vec!["2026-01-02 particle, 12 micrographs".into(), "quotes \" and, commas".into()],
    };
    let mut metadata = BTreeMap::from([("other".to_owned(), "kept".to_owned())]);
    facts.write_to(&mut metadata);
    assert_eq!(metadata["epicker.channels"], "8,8,12,16,24,32");
    assert_eq!(metadata["other"], "kept");
    assert_eq!(ModelFacts::from_metadata(&metadata).unwrap(), facts);
    assert_eq!(ModelFacts::from_metadata(&BTreeMap::new()).unwrap(), ModelFacts::default());
    for (key, text) in [
        ("epicker.mode", "particles"),
        ("epicker.channels", "8,,8"),
        ("epicker.head_width", "-1"),
        ("epicker.normalisation", "0.5"),
        ("epicker.normalisation", "0.5,0"),
        ("epicker.threshold", "NaN"),
        ("epicker.particle_size", "0"),
        ("epicker.diameter_angstrom", "-3"),
        ("epicker.frame", "1000"),
        ("epicker.ground_px", "-1"),
        ("epicker.average", "3"),
        ("epicker.history", "[1]"),
    ] {
        let error = ModelFacts::from_metadata(&BTreeMap::from([(key.to_owned(), text.to_owned())])).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
}

fn tensor(name: &str, shape: &[usize], values: Values) -> NamedTensor {
    NamedTensor { name: name.into(), shape: shape.to_vec(), values }
}

/// A bare checkpoint with one tensor `w` on a storage of four floats: shape, strides and the rest as pickle text.
fn one_tensor(offset: &str, shape: &str, strides: &str) -> Vec<u8> {
    let pickle = format!(
        "}}Vw\nctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQ{offset}{shape}{strides}I00\n}}tRs."
    );
    archive(&[("data.pkl", pickle.as_bytes()), ("data/0", bytemuck::cast_slice(&[1.0_f32, 2.0, 3.0, 4.0]))], zip::CompressionMethod::Stored)
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let tensor = "ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQI0\n))I00\n}tR";
    let pickle = format!("}}(Vmodule.w\n{tensor}Vw\n{tensor}u.");
    let file = archive(&[("data.pkl", pickle.as_bytes()), ("data/0", &[0; 16])], zip::CompressionMethod::Stored);
    assert!(error_of(&file).contains("two tensors are named w"), "{}", error_of(&file));
}

fn archive(entries: &[(&str, &[u8])], method: zip::CompressionMethod) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(format!("made/{name}"), zip::write::SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn a_view_is_read_and_one_beyond_its_storage_is_refused() {
    let read = |file: &[u8]| read_checkpoint(file, false).unwrap().state.tensors[0].values.to_f32();
    assert_eq!(read(&one_tensor("I0\n", "(I2\nI2\nt", "(I1\nI2\nt")), [1.0, 3.0, 2.0, 4.0]);
    assert_eq!(read(&one_tensor("I1\n", "(I3\nt", "(I0\nt")), [2.0, 2.0, 2.0]);
    assert_eq!(read(&one_tensor("I1\n", "(I1\nI3\nI1\nt", "(I99\nI1\nI7\nt")), [2.0, 3.0, 4.0]);
    assert_eq!(read(&one_tensor("I3\n", ")", ")")), [4.0]);
    for (offset, shape, strides) in [
        ("I4\n", "(I1\nt", "(I1\nt"),
        ("I0\n", "(I5\nt", "(I1\nt"),
        ("I0\n", "(I2\nI2\nt", "(I3\nI1\nt"),
        ("I0\n", "(I2\nt", "(I9223372036854775807\nt"),
        ("I9223372036854775807\n", "(I2\nt", "(I1\nt"),
        ("I-1\n", "(I1\nt", "(I1\nt"),
        ("I1\n", "(I2\nt", "(I-1\nt"),
        ("I0\n", "(I2\nt", "(I1\nI1\nt"),
    ] {
        let error = error_of(&one_tensor(offset, shape, strides));
        assert!(error.contains("beyond storage") || error.contains("count is expected") || error.contains("strides"), "{error}");
    }
}

#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    // one number, repeated by strides of 0
    assert!(error_of(&one_tensor("I0\n", "(I1000000\nI1000000\nt", "(I0\nI0\nt")).contains("more than 32 times"));
    assert!(error_of(&one_tensor("I0\n", "(I9223372036854775807\nI9\nt", "(I0\nI0\nt")).contains("overflows"));
    // a storage of zeros that deflate shrinks a thousand times
    let zeros = vec![0; 40 << 20];
    let pickle =
        "}Vw\nctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nByteStorage\nV0\nVcpu\nI41943040\ntQI0\n(I1\nt(I1\ntI00\n}tRs.";
    let bomb = archive(&[("data.pkl", pickle.as_bytes()), ("data/0", &zeros)], zip::CompressionMethod::Deflated);
    assert!(bomb.len() < 100_000 && error_of(&bomb).contains("more than 32 times"));
    // marks without end
    let mut pickle = b"(".repeat(100_000);
    pickle.push(b'.');
    assert!(error_of(&archive(&[("data.pkl", &pickle)], zip::CompressionMethod::Stored)).contains("marks are open"));
}

#[test]
fn a_deflated_archive_is_read() {
    use std::io::Read;
    let stored = bytes_of("odd_tensors.pth");
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(&stored)).unwrap();
    let mut entries = Vec::new();
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        entries.push((entry.name().unwrap().split_once('/').unwrap().1.to_owned(), bytes));
    }
    let entries: Vec<(&str, &[u8])> = entries.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let deflated = archive(&entries, zip::CompressionMethod::Deflated);
    assert!(deflated.len() < stored.len());
    assert_eq!(read_checkpoint(&deflated, false).unwrap(), read_checkpoint(&stored, false).unwrap());
}

#[test]
fn a_changed_byte_of_a_zip_is_noticed_by_its_checksum() {
    let mut file = bytes_of("small_ok.pth");
    let place = file.windows(4).rposition(|window| window == [0xfc, 0x9c, 0x46, 0xf9]).unwrap_or(2000);
    file[place] ^= 1; // within the first storage
    let error = error_of(&file);
    assert!(error.contains("data/0") && error.contains("damaged"), "{error}");
}

#[test]
fn containers_that_are_no_checkpoint_are_named() {
    let script = archive(&[("data.pkl", b"}."), ("constants.pkl", b"}.")], zip::CompressionMethod::Stored);
    assert!(error_of(&script).contains("TorchScript"));
    assert!(error_of(&archive(&[("letter.txt", b"hello")], zip::CompressionMethod::Stored)).contains("without data.pkl"));
    assert!(error_of(&archive(&[("data.pkl", b"].")], zip::CompressionMethod::Stored)).contains("a list without state_dict"));
    let module = b"(Vmodule\nVNet\nVnet.py\nVsource\nI1\ntQ.";
    assert!(error_of(&archive(&[("data.pkl", module)], zip::CompressionMethod::Stored)).contains("whole pickled module"));
    let odd = b"}(Va\nu.";
    assert!(error_of(&archive(&[("data.pkl", odd)], zip::CompressionMethod::Stored)).contains("pickle byte 5: a key without a value"));
    for bytes in [b"".as_slice(), b"PK", b"not a model at all", b"\x89HDF\r\n\x1a\n"] {
        assert!(error_of(bytes).contains("begin as no model"));
    }
}

fn any_values(count: usize) -> impl Strategy<Value = Values> {
    prop_oneof![
        prop::collection::vec(any::<f32>(), count).prop_map(Values::F32),
        prop::collection::vec(any::<f64>(), count).prop_map(Values::F64),
        prop::collection::vec(any::<i64>(), count).prop_map(Values::I64),
        prop::collection::vec(any::<u16>(), count)
            .prop_map(|bits| Values::F16(bits.into_iter().map(f16::from_bits).filter(|x| !x.is_nan()).collect()))
            .prop_filter("NaN is not equal to itself", move |values| values.len() == count),
    ]
}

fn any_state() -> impl Strategy<Value = StateDict> {
    let any_tensor = prop::collection::vec(0_usize..4, 0..4)
        .prop_flat_map(|shape| any_values(shape.iter().product()).prop_map(move |values| (shape.clone(), values)));
    let name = "[a-z]{1,8}(\\.[a-z0-9\"\\\\é]{1,6}){0,3}";
    let tensors = prop::collection::btree_map(name, any_tensor, 1..8);
    (tensors, prop::collection::btree_map("[a-z.]{1,9}", "[ -~é\n]{0,30}", 0..4)).prop_map(|(tensors, metadata)| StateDict {
        tensors: tensors.into_iter().rev().map(|(name, (shape, values))| NamedTensor { name, shape, values }).collect(),
        metadata: metadata.into_iter().filter(|(key, _)| key != "epoch").collect(),
    })
}

proptest! {
    #[test]
    fn any_state_dict_survives_both_formats(state in any_state()) {
        prop_assert_eq!(&safetensors_file::read(&safetensors_file::write(&state).unwrap()).unwrap(), &state);
        let file = pth::write(&state, &WriteOptions { epoch: Some(12), ..WriteOptions::default() }).unwrap();
        let Checkpoint { state: mut read, epoch, .. } = pth::read(&file, true).unwrap();
        prop_assert_eq!((read.metadata.remove("epoch"), epoch), (Some("12".to_owned()), Some(12)));
        prop_assert_eq!(read, state);
    }

    #[test]
    fn changed_bytes_never_panic(place in 0_usize..7314, byte: u8, cut in 0_usize..7314) {
        for name in ["small_ok.pth", "odd_tensors_legacy.pth"] {
            let mut file = bytes_of(name);
            file[place] = byte;
            let _ = read_checkpoint(&file, true);
            file.drain(cut..(cut + usize::from(byte)).min(file.len()));
            let _ = read_checkpoint(&file, true);
        }
    }
}

#[test]
fn convert_goes_both_ways_and_keeps_what_the_format_can_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let convert = |input: PathBuf, output: &str| run(&ConvertArgs { input, output: Some(path(output)), ..ConvertArgs::default() });

    assert_eq!(convert(golden("module_adam_fc.pth"), "a.safetensors").unwrap(), 0);
    assert_eq!(convert(path("a.safetensors"), "b.pth").unwrap(), 0);
    assert_eq!(convert(golden("module_adam_fc.pth"), "c.pth").unwrap(), 0);
    let original = load_checkpoint_file(&golden("module_adam_fc.pth"), true).unwrap();
    for (name, optimizer) in [("a.safetensors", None), ("b.pth", None), ("c.pth", original.optimizer.clone())] {
        let converted = load_checkpoint_file(&path(name), true).unwrap();
        assert_eq!((&converted.state, converted.epoch, converted.optimizer), (&original.state, Some(41), optimizer), "{name}");
    }

    let args = ConvertArgs { input: golden("trained.pth"), output: Some(path("a.safetensors")), half: true, ..ConvertArgs::default() };
    let error = run(&ConvertArgs { no_clobber: true, ..args.clone() }).unwrap_err().to_string();
    assert!(error.contains("a.safetensors: exists"), "{error}");
    assert_eq!(run(&args).unwrap(), 0);
    assert_eq!(load_model_file(&path("a.safetensors")).unwrap(), load_model_file(&golden("trained.pth")).unwrap().to_half().unwrap());
    assert!(
        std::fs::metadata(path("a.safetensors")).unwrap().len() < std::fs::metadata(golden("tiny.safetensors")).unwrap().len() * 6 / 10
    );

    let usage = convert(golden("trained.pth"), "weights.onnx").unwrap_err();
    assert_eq!((status_of(&usage), path("weights.onnx").exists()), (WRONG_USAGE, false));
    let bare = run(&ConvertArgs { half: false, bare: true, ..args }).unwrap_err();
    assert!(bare.to_string().contains("--bare"), "{bare}");
    assert_eq!(run(&ConvertArgs { input: golden("trained.pth"), ..ConvertArgs::default() }).unwrap(), 0);
}

/// What tests/python/read_pth.py says of a file; None where there is no Python, which is said aloud.
fn read_by_python(file: &Path) -> Option<serde_json::Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/read_pth.py");
    match std::process::Command::new("python3").arg(script).arg(file).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(serde_json::from_slice(&output.stdout).unwrap())
        }
        Err(error) => {
            println!("skipped: python3 does not start ({error})");
            None
        }
    }
}

#[test]
fn plain_python_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("written.pth");
    let read = load_checkpoint_file(&golden("module_adam_fc.pth"), true).unwrap();
    let (mut state, adam) = (read.state, read.optimizer.unwrap());
    state.metadata.insert("epicker.mode".into(), "particle".into());
    state.tensors.push(tensor("extra.half", &[2, 1, 3], Values::F16([1.5_f32, -2.0, 0.1, 7.0, 0.0, -0.5].map(f16::from_f32).to_vec())));
    state.tensors.push(tensor("extra.double", &[0, 3], Values::F64(vec![])));
    std::fs::write(&path, pth::write(&state, &WriteOptions { epoch: Some(70_000), optimizer: Some(&adam), bare: false }).unwrap()).unwrap();

    let kind = |values: &Values| match values {
        Values::F32(_) => "Float",
        Values::F16(_) => "Half",
        Values::F64(_) => "Double",
        Values::I64(_) => "Long",
    };
    let described = |shape: &[usize], values: &Values| serde_json::json!([kind(values), shape, sha256(&values.to_le_bytes())]);
    let Some(found) = read_by_python(&path) else { return };
    assert_eq!(found["epoch"], 70_000);
    assert_eq!(found["epicker"], serde_json::json!({"epicker.mode": "particle"}));
    assert_eq!(found["state_dict"].as_object().unwrap().len(), state.tensors.len());
    for NamedTensor { name, shape, values } in &state.tensors {
        assert_eq!(found["state_dict"][name], described(shape, values), "{name}");
    }
    let optimizer = &found["optimizer"];
    assert_eq!(optimizer["state"].as_object().unwrap().len(), adam.moments.len());
    // without base.fc, hm.0.weight is the fourth parameter of the model
    let (moments, shape) = (&adam.moments[3], &state.get("hm.0.weight").unwrap().shape);
    assert_eq!(optimizer["state"]["3"]["exp_avg"], described(shape, &Values::F32(moments.first.clone())));
    assert_eq!(optimizer["state"]["3"]["exp_avg_sq"], described(shape, &Values::F32(moments.second.clone())));
    assert_eq!(optimizer["state"]["3"]["step"], described(&[], &Values::F32(vec![3.0])));
    let group = &optimizer["param_groups"][0];
    assert_eq!(group["params"], serde_json::json!([0, 1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!((&group["lr"], &group["betas"], &group["amsgrad"]), (&1e-4.into(), &serde_json::json!([0.9, 0.999]), &false.into()));

    std::fs::write(&path, pth::write(&state, &WriteOptions { bare: true, ..WriteOptions::default() }).unwrap()).unwrap();
    let found = read_by_python(&path).unwrap();
    let NamedTensor { name, shape, values } = &state.tensors[0];
    assert_eq!(found[name], described(shape, values));
}

#[test]
fn the_network_lists_its_tensors_as_pytorch_does() {
    // Optimisers number parameters by this order, so a checkpoint of another one would resume with the wrong moments.
    let trained = load_model_file(&golden("trained.pth")).unwrap();
    let listed = Architecture { channels: [8, 8, 12, 16, 24, 32], head: 16 }.tensor_shapes();
    for (listed, NamedTensor { name, shape, .. }) in listed.iter().zip(&trained.tensors) {
        assert_eq!((&listed.0, &listed.1), (name, shape));
    }
    assert_eq!(listed.len(), trained.tensors.len());
}
