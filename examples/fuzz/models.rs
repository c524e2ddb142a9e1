//! Targets: model files.

use std::io::{Cursor, Write};

use epicker::formats::pth::{self, Adam, Moments, WriteOptions};
use epicker::formats::safetensors_file;
use epicker::formats::state_dict::{ModelFacts, NamedTensor, StateDict, Values};
use half::f16;

use crate::Target;

/// The readers of checkpoints and of safetensors. Values of a pickle take 32 bytes each, and a list of them doubles.
pub const TARGETS: &[Target] = &[
    Target { name: "pickle", run: pickle, seeds: pickle_seeds, text: false, memory_factor: 256 },
    Target { name: "pth_stream", run: pth, seeds: stream_seeds, text: false, memory_factor: 256 },
    Target { name: "pth_zip", run: pth, seeds: zip_seeds, text: false, memory_factor: 256 },
    Target { name: "safetensors", run: safetensors, seeds: safetensors_seeds, text: false, memory_factor: 64 },
];

fn pth(bytes: &[u8]) {
    if let Ok(checkpoint) = pth::read(bytes, true) {
        // A model that was read can be written, and reads as the same model again.
        let options = WriteOptions { bare: false, epoch: checkpoint.epoch, optimizer: checkpoint.optimizer.as_ref() };
        let written = pth::write(&checkpoint.state, &options);
        if let Ok(written) = written {
            assert!(pth::read(&written, true).is_ok(), "what was written is not read");
        }
    }
}

/// Puts the bytes as the pickle into a stream that has the storages of `STORAGES`, so that every input gets to the pickle machine.
fn pickle(bytes: &[u8]) {
    pth(&stream(bytes));
}

fn safetensors(bytes: &[u8]) {
    if let Ok(state) = safetensors_file::read(bytes) {
        let _ = ModelFacts::from_metadata(&state.metadata);
    }
}

/// Elements of the storages `0`, `1`, ...: of `with_adam`, the weights, then for one of them step and moments.
const STORAGES: [u8; 5] = [4, 4, 1, 4, 4];

fn stream(pickle: &[u8]) -> Vec<u8> {
    let mut stream = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.M\xe9\x03.}.".to_vec();
    // The storages are named and dropped again, because a reader refuses storages that no pickle mentions.
    for (key, count) in STORAGES.iter().enumerate() {
        stream.extend(format!("(Vstorage\nctorch\nFloatStorage\nV{key}\nVcpu\nI{count}\ntQ0").as_bytes());
    }
    stream.extend(pickle);
    stream.extend(b"](");
    (0..STORAGES.len()).for_each(|key| stream.extend(format!("V{key}\n").as_bytes()));
    stream.extend(b"e.");
    for count in STORAGES {
        stream.extend(u64::from(count).to_le_bytes());
        (0..count).for_each(|i| stream.extend(f32::from(i).to_le_bytes()));
    }
    stream
}

fn pickle_seeds() -> Vec<Vec<u8>> {
    let tensor = |key: &str, shape: &str, strides: &str| {
        let storage = format!("(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0{key}X\x03\0\0\0cpuK\x04tQ");
        format!("ctorch._utils\n_rebuild_tensor_v2\n({storage}K\0({shape}t({strides}tNccollections\nOrderedDict\n)RtR")
    };
    let (square, row) = (tensor("0", "K\x02K\x02", "K\x02K\x01"), tensor("1", "K\x04", "K\x01"));
    let bare = format!("}}q\0(X\x08\0\0\0module.wq\x01{square}q\x02X\x01\0\0\0bh\x02u.");
    let moments = format!("}}(X\x04\0\0\0stepK\x03X\x07\0\0\0exp_avg{square}X\x0a\0\0\0exp_avg_sq{square}u");
    let group = "}(X\x02\0\0\0lrF1e-4\nX\x05\0\0\0betas(F0.9\nF0.999\ntX\x03\0\0\0epsK\0X\x06\0\0\0params](K\0eu";
    let whole = format!(
        "}}(X\x05\0\0\0epochK\x07X\x0a\0\0\0state_dictccollections\nOrderedDict\n)R(Vw\n{square}uX\x09\0\0\0optimizer}}(X\x05\0\0\0state}}(K\0{moments}uX\x0c\0\0\0param_groups]{group}auu."
    );
    let parameter = format!("}}(Vw\nctorch._utils\n_rebuild_parameter\n({row}NNtRVv\nctorch\nSize\n((K\x01K\x02ttRu.");
    let texts = [bare.as_str(), &whole, &parameter];
    let mut seeds: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    seeds.push(
        b"\x80\x04\x95\x40\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94]\x94(I01\nL5L\nF1.5\n\x8a\x01\xffJ\xff\xff\xff\xffM\x01\x02C\x01\xffeu."
            .to_vec(),
    );
    seeds.push(b"}(\x8c\x01a\x88\x89\x86\x8c\x01b\x8b\x01\0\0\0\x05\x8c\x01c\x8c\x0bcollections\x8c\x0bOrderedDict\x93)R}bu.".to_vec());
    seeds.push(entry_of(&with_adam(&plain_state()), "archive/data.pkl"));
    seeds
}

/// A state dict with every type, a scalar and an empty tensor.
fn small_state() -> StateDict {
    let tensor = |name: &str, shape: &[usize], values| NamedTensor { name: name.to_owned(), shape: shape.to_vec(), values };
    let mut state = StateDict {
        tensors: vec![
            tensor("base.0.weight", &[2, 2], Values::F32(vec![1.0, 2.0, 3.0, 4.0])),
            tensor("base.0.bias", &[2], Values::F16([0.5, 0.25].map(f16::from_f32).to_vec())),
            tensor("base.1.running_mean", &[1], Values::F64(vec![1e-3])),
            tensor("base.1.num_batches_tracked", &[], Values::I64(vec![1234])),
            tensor("hm", &[0, 3], Values::F32(vec![])),
        ],
        ..StateDict::default()
    };
    let facts =
        ModelFacts { mode: Some("particle".into()), channels: Some(vec![8, 16]), history: vec!["once".into()], ..ModelFacts::default() };
    facts.write_to(&mut state.metadata);
    state
}

/// A state dict on storages as in `STORAGES`.
fn plain_state() -> StateDict {
    let tensor = |name: &str| NamedTensor { name: name.to_owned(), shape: vec![2, 2], values: Values::F32(vec![1.0, 2.0, 3.0, 4.0]) };
    StateDict { tensors: ["base.0.weight", "base.fc.weight"].map(tensor).to_vec(), ..StateDict::default() }
}

fn small_model() -> Vec<u8> {
    pth::write(&small_state(), &WriteOptions::default()).unwrap_or_default()
}

fn with_adam(state: &StateDict) -> Vec<u8> {
    let moments = Moments { name: "base.0.weight".into(), step: 5, first: vec![0.1; 4], second: vec![0.2; 4] };
    let adam = Adam { learning_rate: 1e-4, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, moments: vec![moments] };
    pth::write(state, &WriteOptions { optimizer: Some(&adam), ..WriteOptions::default() }).unwrap_or_default()
}

fn entry_of(file: &[u8], name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(mut zip) = zip::ZipArchive::new(Cursor::new(file))
        && let Ok(mut entry) = zip.by_name(name)
    {
        let _ = std::io::Read::read_to_end(&mut entry, &mut bytes);
    }
    bytes
}

fn stream_seeds() -> Vec<Vec<u8>> {
    pickle_seeds().iter().map(|pickle| stream(pickle)).collect()
}

fn zip_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![small_model(), with_adam(&small_state())];
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in [("data.pkl", pickle_seeds().swap_remove(0)), ("data/0", vec![0; 16]), ("byteorder", b"big".to_vec())] {
            let _ = zip.start_file(format!("a/{name}"), zip::write::SimpleFileOptions::default().compression_method(method));
            let _ = zip.write_all(&bytes);
        }
        seeds.extend(zip.finish().map(Cursor::into_inner));
    }
    seeds
}

fn safetensors_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = safetensors_file::write(&small_state()).into_iter().collect();
    for header in [
        "{\"w\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}",
        "{\"__metadata__\":{\"epoch\":\"3\"},\"a\\\"\\u00e9\":{\"dtype\":\"U8\",\"shape\":[1,4],\"data_offsets\":[0,4]}}",
        "{\"b\":{\"data_offsets\":[0,4],\"dtype\":\"BOOL\",\"shape\":[4]}}",
    ] {
        seeds.push([&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[1, 0, 0x80, 0x7f]].concat());
    }
    seeds
}
