//! Reading micrographs: every kind of MRC, TIFF and PNG, what is refused, and which files a path means.

use crate::common::image_files::{Layout, Mrc, TiffPage, bzip2, compressed_tiff, gzip, png, tiff};
use epicker::formats::image::{
    FileBytes, Micrograph, Mode0, Orientation, Pixels, ReadOptions, Sections, info_of_bytes, read_bytes, read_info, read_micrograph,
};
use epicker::io::find::find_micrographs;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn golden_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images")
}

fn read_with(bytes: &[u8], options: &ReadOptions) -> anyhow::Result<Micrograph> {
    read_bytes(Arc::new(FileBytes::Owned(bytes.to_vec())), options)
}

fn read(bytes: &[u8]) -> Micrograph {
    read_with(bytes, &ReadOptions::default()).unwrap()
}

fn values(micrograph: &Micrograph) -> Vec<f32> {
    assert_eq!(micrograph.pixels.len(), micrograph.nx * micrograph.ny);
    micrograph.pixels.to_f32()
}

/// The message of the refusal; it has one line, and says what was expected or what to do.
fn refusal(bytes: &[u8], options: &ReadOptions) -> String {
    let message = format!("{:#}", read_with(bytes, options).expect_err("the file is refused"));
    assert!(!message.contains('\n') && !message.ends_with('.') && message.contains("; "), "{message}");
    message
}

fn refused(bytes: &[u8], says: &str) {
    let message = refusal(bytes, &ReadOptions::default());
    assert!(message.contains(says), "'{message}' does not say '{says}'");
}

fn one_warning(micrograph: &Micrograph, says: &str) {
    assert!(micrograph.warnings.len() == 1 && micrograph.warnings[0].contains(says), "{:?}", micrograph.warnings);
}

#[test]
fn stored_mrc_files_of_every_kind_have_the_values_they_were_written_with() {
    let bytes = std::fs::read(golden_folder().join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let options = ReadOptions::default();
    for name in expected.names() {
        let tensor = expected.tensor(name).unwrap();
        let numbers: Vec<f32> = match tensor.dtype() {
            Dtype::F32 => tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::I32 => tensor.data().chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as f32).collect(),
            Dtype::I16 => tensor.data().chunks(2).map(|b| f32::from(i16::from_le_bytes(b.try_into().unwrap()))).collect(),
            Dtype::I8 => tensor.data().iter().map(|&b| f32::from(b as i8)).collect(),
            other => panic!("{name}: {other:?}"),
        };
        let micrograph = read_micrograph(&golden_folder().join(name), &options).unwrap();
        assert_eq!((micrograph.nx, micrograph.ny), (24, 20), "{name}");
        if let &[sections, ny, nx] = tensor.shape() {
            let mean: Vec<f32> = (0..ny * nx)
                .map(|i| ((0..sections).map(|z| f64::from(numbers[z * ny * nx + i])).sum::<f64>() / sections as f64) as f32)
                .collect();
            assert_eq!(values(&micrograph), mean, "{name}");
            assert!(matches!(micrograph.pixels, Pixels::F64(_)), "means are kept in 64 bits");
        } else {
            assert_eq!(values(&micrograph), numbers, "{name}");
        }
    }
    for (name, says) in [
        ("f32_truncated.mrc", "truncated: the file has 2936 of 2944 bytes"),
        ("short_header.mrc", "expected at least 1024"),
        ("rgb_mode16.mrc", "colour"),
    ] {
        let message = format!("{:#}", read_micrograph(&golden_folder().join(name), &options).unwrap_err());
        assert!(message.contains(says) && message.contains(name), "{message}");
    }
}

#[test]
fn every_mode_is_read_in_both_byte_orders() {
    type Value<'a> = &'a dyn Fn(usize) -> f32;
    let number = |i: usize| i as i16 * 100 - 500;
    for big_endian in [false, true] {
        let stamp = if big_endian { [0x11, 0x11, 0, 0] } else { [0x44, 0x41, 0, 0] };
        let order = |mut bytes: Vec<u8>| {
            if big_endian {
                bytes.reverse();
            }
            bytes
        };
        let data = |bytes: &dyn Fn(usize) -> Vec<u8>| (0..12).flat_map(|i| order(bytes(i))).collect::<Vec<u8>>();
        let cases: [(i32, Vec<u8>, Value<'_>); 5] = [
            (0, data(&|i| vec![(i as i8 - 6) as u8]), &|i| i as f32 - 6.0),
            (1, data(&|i| number(i).to_le_bytes().to_vec()), &|i| f32::from(number(i))),
            (2, data(&|i| (i as f32 * 0.37).to_le_bytes().to_vec()), &|i| i as f32 * 0.37),
            (6, data(&|i| (i as u16 * 5000).to_le_bytes().to_vec()), &|i| i as f32 * 5000.0),
            (12, data(&|i| half::f16::from_f32(i as f32 * 0.25).to_le_bytes().to_vec()), &|i| i as f32 * 0.25),
        ];
        for (mode, data, value) in cases {
            let micrograph = read(&Mrc { mode, big_endian, stamp, data, min_max: [-6.0, 5.0], ..Mrc::default() }.bytes());
            assert_eq!(values(&micrograph), (0..12).map(value).collect::<Vec<f32>>(), "mode {mode}, big endian {big_endian}");
            assert!(micrograph.warnings.is_empty(), "{:?}", micrograph.warnings);
            assert_eq!(micrograph.pixel_size_angstrom, Some(1.5));
            assert_eq!(micrograph.orientation, Orientation::Array);
        }
    }
}

#[test]
fn pixels_that_lie_at_odd_bytes_are_read() {
    let file = Mrc { extended: vec![1, 2, 3], ..Mrc::default() };
    assert_eq!(values(&read(&file.bytes())), (0..12).map(|i| i as f32).collect::<Vec<f32>>());
}

#[test]
fn four_bit_pixels_have_the_left_one_in_the_low_half() {
    let packed = Mrc { mode: 101, nx: 4, ny: 1, data: vec![0xa3, 0x1f], ..Mrc::default() };
    assert_eq!(values(&read(&packed.bytes())), [3.0, 10.0, 15.0, 1.0]);
    // IMOD's way: mode 0, a flag, and half the columns in the header.
    let imod = Mrc { mode: 0, nx: 2, ny: 1, imod_flags: Some(16), data: vec![0xa3, 0x1f], ..Mrc::default() };
    let micrograph = read(&imod.bytes());
    assert_eq!((micrograph.nx, values(&micrograph)), (4, vec![3.0, 10.0, 15.0, 1.0]));
    refused(&Mrc { mode: 101, nx: 3, ny: 2, data: vec![0; 4], ..Mrc::default() }.bytes(), "3 columns of 4 bits");
}

#[test]
fn the_sign_of_bytes_is_judged_as_imod_does() {
    let read_sign = |imod_flags, min_max, data: &[u8], mode0| {
        let file = Mrc { mode: 0, nx: 2, ny: 1, imod_flags, min_max, data: data.to_vec(), ..Mrc::default() };
        let micrograph = read_with(&file.bytes(), &ReadOptions { mode0, ..ReadOptions::default() }).unwrap();
        (matches!(micrograph.pixels, Pixels::I8(_)), micrograph.warnings.len())
    };
    let high = [5, 200];
    for (flags, min_max, signed, warnings) in [
        (Some(1), [0.0, 255.0], true, 0),
        (Some(0), [-5.0, 20.0], false, 0),
        (None, [-5.0, 20.0], true, 0),
        (None, [0.0, 200.0], false, 0),
        (None, [-100.0, 130.0], true, 0),
        (None, [-5.0, 250.0], false, 0),
        (None, [0.0, 100.0], true, 1),
        (None, [0.0, 0.0], true, 1),
        (None, [1.0, -1.0], true, 1),
        (None, [f32::NAN, 5.0], true, 1),
    ] {
        assert_eq!(read_sign(flags, min_max, &high, Mode0::Auto), (signed, warnings), "{flags:?} {min_max:?}");
    }
    assert_eq!(read_sign(None, [0.0, 0.0], &[5, 100], Mode0::Auto), (true, 0), "no byte in doubt, no warning");
    assert_eq!(read_sign(Some(1), [-5.0, 20.0], &high, Mode0::Unsigned), (false, 0));
    assert_eq!(read_sign(Some(0), [0.0, 255.0], &high, Mode0::Signed), (true, 0));
}

#[test]
fn a_wrong_machine_stamp_is_told_and_survived() {
    let big = Mrc { big_endian: true, data: (0..12).flat_map(|i| (i as f32).to_be_bytes()).collect(), ..Mrc::default() };
    for (stamp, file) in [([0x44, 0x44, 0, 0], &big), ([0x11, 0x11, 0, 0], &Mrc::default()), ([0, 0, 0x44, 0x44], &big)] {
        let micrograph = read(&Mrc { stamp, ..file.clone() }.bytes());
        assert_eq!(values(&micrograph)[11], 11.0);
        one_warning(&micrograph, "machine stamp");
    }
    let unset = read(&Mrc { stamp: [0; 4], ..big }.bytes());
    assert!(unset.warnings.is_empty() && values(&unset)[3] == 3.0);
}

#[test]
fn sizes_are_compared_with_the_length() {
    let file = Mrc::default().bytes();
    refused(&file[..file.len() - 1], "truncated: the file has 1071 of 1072 bytes (99.9 %)");
    let longer = |by: usize| [&file[..], &vec![0; by]].concat();
    assert!(read(&longer(4096)).warnings.is_empty());
    one_warning(&read(&longer(4097)), "more bytes follow");
    // Without MAP only a file of exactly the right length is believed.
    let old = Mrc { tag: false, stamp: [0; 4], ..Mrc::default() }.bytes();
    assert_eq!(values(&read(&old))[5], 5.0);
    refused(&[&old[..], &[0]].concat(), "not an MRC file");
    // A header that promises more than any machine holds costs nothing.
    refused(&Mrc { nx: 131_072, ny: 131_072, nz: 1_000_000, ..Mrc::default() }.bytes(), "truncated");
    let unset = read(&Mrc { nz: 0, ..Mrc::default() }.bytes());
    assert_eq!(unset.sections, 1);
    one_warning(&unset, "NZ = 0");
    refused(&Mrc { nz: 0, ny: 100, ..Mrc::default() }.bytes(), "truncated");
}

#[test]
fn what_is_no_micrograph_is_refused_by_name() {
    let with = |change: fn(&mut Mrc)| {
        let mut file = Mrc::default();
        change(&mut file);
        file.bytes()
    };
    refused(&with(|file| file.mode = 4), "Fourier transform");
    refused(&with(|file| file.mode = 3), "Fourier transform");
    refused(&with(|file| file.mode = 16), "colour");
    refused(&with(|file| file.mode = 7), "mode is 7 (117440512 in the other byte order)");
    refused(&with(|file| file.axes = [2, 1, 3]), "transposed");
    refused(&with(|file| file.axes = [3, 2, 1]), "axes 3 2 1");
    refused(&with(|file| file.axes = [9, 2, 3]), "axes 9 2 3");
    refused(&with(|file| file.ny = -1), "-1 rows");
    refused(&[&b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"[..]].concat(), "git lfs pull");
    refused(b"[Particle Coordinates: X Y Value]\n1 2 0.5\n[End]\n", "coordinate file");
    refused(&[0, 1, 2], "3 bytes");
    refused(&[7; 2000], "not an MRC file");
    for (magic, says) in [
        (&b"\xfd7zXZ\0"[..], "xz"),
        (b"\x28\xb5\x2f\xfd", "Zstandard"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY", "NumPy"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"PK\x03\x04", "zip"),
        (b"\0\0\0\x03\0\0\x10\0\0\0\0\x01\x01\0", "DM3"),
        (b"\0\0\0\x04\0\0\0\0\0\0\x10\0\0\0\0\x01\x01\0", "DM3/DM4"),
    ] {
        refused(&[magic, &[0; 2000]].concat(), says);
    }
    let upside_down = read(&with(|file| file.axes = [1, -2, 3]));
    assert_eq!(values(&upside_down)[1], 1.0, "rows stay in file order");
    one_warning(&upside_down, "MAPR = -2");
    assert!(read(&with(|file| file.axes = [0; 3])).warnings.is_empty());
}

#[test]
fn an_mrc_header_that_begins_like_another_format_is_read() {
    // 35615 columns are gzip's first two bytes, and 3 big-endian columns those of Digital Micrograph.
    let gzip_like = Mrc { nx: 0x0008_8b1f_u32 as i32 & 0x1ffff, ny: 1, mode: 0, data: vec![1; 0x0008_8b1f & 0x1ffff], ..Mrc::default() };
    assert_eq!(read(&gzip_like.bytes()).nx, 0x08b1f);
    let dm_like = Mrc { nx: 3, ny: 4, big_endian: true, stamp: [0x11, 0x11, 0, 0], mode: 0, data: vec![1; 12], ..Mrc::default() };
    assert_eq!(read(&dm_like.bytes()).nx, 3);
}

#[test]
fn several_sections_are_averaged_picked_or_refused() {
    let data: Vec<u8> = (0..36i16).flat_map(|i| (i * i).to_le_bytes()).collect();
    let stack = Mrc { nz: 3, mode: 1, data, ..Mrc::default() };
    let square = |i: usize| (i * i) as f32;
    for file in [stack.bytes(), gzip(&stack.bytes()), bzip2(&stack.bytes())] {
        let with = |sections| read_with(&file, &ReadOptions { sections, ..ReadOptions::default() });
        let mean = with(Sections::Mean).unwrap();
        let expected: Vec<f32> = (0..12).map(|i| ((square(i) + square(i + 12) + square(i + 24)) as f64 / 3.0) as f32).collect();
        assert_eq!((values(&mean), mean.sections), (expected, 3));
        one_warning(&mean, "stack of 3 sections");
        assert_eq!(values(&with(Sections::First).unwrap())[11], square(11));
        let second = with(Sections::One(1)).unwrap();
        assert_eq!(values(&second)[0], square(12));
        assert!(second.warnings.is_empty(), "asked for by number, nothing to warn of");
        assert!(format!("{:#}", with(Sections::One(3)).unwrap_err()).contains("section 3 (from 0)"));
        assert!(format!("{:#}", with(Sections::Refuse).unwrap_err()).contains("3 sections"));
    }
    for (ispg, grid) in [(1, [4, 3, 3]), (401, [4, 3, 1])] {
        one_warning(&read(&Mrc { ispg, grid, ..stack.clone() }.bytes()), "volume of 3 sections");
    }
}

#[test]
fn compressed_files_are_read_and_their_limits_kept() {
    let file = Mrc { extended: vec![9; 2000], ..Mrc::default() };
    for pack in [gzip, bzip2] {
        let packed = pack(&file.bytes());
        let micrograph = read(&packed);
        assert_eq!((values(&micrograph)[11], micrograph.pixel_size_angstrom), (11.0, Some(1.5)));
        assert_eq!(info_of_bytes(&FileBytes::Owned(packed.clone()), &ReadOptions::default()).unwrap().nx, 4);
        refused(&packed[..packed.len() - 10], "compressed data: ");
        refused(&pack(&file.bytes()[..3050]), "truncated: 26 of 48 bytes");
        refused(&pack(&file.bytes()[..2000]), "truncated");
        refused(&pack(b"data_\nloop_\n"), "not an MRC file inside");
        refused(&pack(&Mrc { nx: 131_072, ny: 131_072, ..Mrc::default() }.bytes()), "at most 4 GiB");
        refused(&pack(&Mrc { nz: 0, ..Mrc::default() }.bytes()), "NZ = 0");
        one_warning(&read(&pack(&[file.bytes(), vec![0; 5000]].concat())), "more bytes follow");
    }
    // A header of 20000 x 20000 pixels over a few bytes ends with the data, not with 1.6 GB.
    refused(&gzip(&Mrc { nx: 20_000, ny: 20_000, ..Mrc::default() }.bytes()), "truncated: 48 of 1600000000 bytes");
}

#[test]
fn the_pixel_size_is_told_where_it_is_believable() {
    let of = |change: fn(&mut Mrc)| {
        let mut file = Mrc::default();
        change(&mut file);
        let micrograph = read(&file.bytes());
        (micrograph.pixel_size_angstrom, micrograph.warnings.len())
    };
    assert_eq!(of(|file| file.cell = [8.0, 6.0]), (Some(2.0), 0));
    assert_eq!(of(|file| file.cell = [0.0, 0.0]), (None, 0));
    assert_eq!(of(|file| file.grid = [0, 0, 0]), (None, 0));
    assert_eq!(of(|file| file.cell = [f32::NAN, f32::INFINITY]), (None, 0));
    assert_eq!(of(|file| file.cell = [4000.0, 3000.0]), (None, 0));
    assert_eq!(of(|file| file.cell = [8.0, 7.0]), (Some(2.0), 1));
    // The record of an FEI microscope is in metres, and only asked where the cell says nothing.
    let mut record = vec![0; 768];
    record[8..12].copy_from_slice(&(3u32 << 14).to_le_bytes());
    record[156..164].copy_from_slice(&1.06e-10f64.to_le_bytes());
    let fei = Mrc { extended: record, exttyp: *b"FEI1", cell: [0.0; 2], ..Mrc::default() };
    assert!((read(&fei.bytes()).pixel_size_angstrom.unwrap() - 1.06).abs() < 1e-9);
    assert!((read(&gzip(&fei.bytes())).pixel_size_angstrom.unwrap() - 1.06).abs() < 1e-9);
    assert_eq!(read(&Mrc { exttyp: *b"SERI", ..fei.clone() }.bytes()).pixel_size_angstrom, None);
    assert_eq!(read(&Mrc { cell: [8.0, 6.0], ..fei }.bytes()).pixel_size_angstrom, Some(2.0));
}

fn tiff_page(bits: u16, sample_format: u16, layout: Layout, data: Vec<u8>) -> TiffPage {
    TiffPage { nx: 20, ny: 21, bits, sample_format, photometric: 1, compression: 1, layout, resolution: None, data }
}

/// Rows upside down.
fn flipped<T: Copy>(values: &[T], nx: usize) -> Vec<T> {
    values.chunks(nx).rev().flatten().copied().collect()
}

#[test]
fn tiff_of_every_type_and_layout_is_read_from_its_last_row() {
    let numbers: Vec<i32> = (0..20 * 21).map(|i| i * 7 % 256 - 100).collect();
    for big_endian in [false, true] {
        let order = |mut bytes: Vec<u8>| {
            if big_endian {
                bytes.reverse();
            }
            bytes
        };
        let data = |bytes: &dyn Fn(i32) -> Vec<u8>| numbers.iter().flat_map(|&number| order(bytes(number))).collect::<Vec<u8>>();
        let cases: [(u16, u16, Vec<u8>, f32); 8] = [
            (8, 1, data(&|v| vec![(v + 100) as u8]), 100.0),
            (8, 2, data(&|v| vec![(v / 2) as i8 as u8]), f32::NAN),
            (16, 1, data(&|v| ((v + 100) as u16).to_le_bytes().to_vec()), 100.0),
            (16, 2, data(&|v| (v as i16).to_le_bytes().to_vec()), 0.0),
            (32, 1, data(&|v| ((v + 100) as u32).to_le_bytes().to_vec()), 100.0),
            (32, 2, data(&|v| v.to_le_bytes().to_vec()), 0.0),
            (32, 3, data(&|v| (v as f32).to_le_bytes().to_vec()), 0.0),
            (64, 3, data(&|v| f64::from(v).to_le_bytes().to_vec()), 0.0),
        ];
        for (bits, format, data, offset) in cases {
            let expected: Vec<f32> = numbers.iter().map(|&v| if offset.is_nan() { (v / 2) as f32 } else { v as f32 + offset }).collect();
            for layout in [Layout::Strips(21), Layout::Strips(8), Layout::Tiles(16)] {
                for big_tiff in [false, true] {
                    let file = tiff(&[tiff_page(bits, format, layout, data.clone())], big_endian, big_tiff);
                    let micrograph = read(&file);
                    assert_eq!(values(&micrograph), flipped(&expected, 20), "{bits} bits, format {format}, big endian {big_endian}");
                    assert_eq!(micrograph.orientation, Orientation::TiffFlipped);
                    let top_down = read_with(&file, &ReadOptions { tiff_top_down: true, ..ReadOptions::default() }).unwrap();
                    assert_eq!((values(&top_down), top_down.orientation), (expected.clone(), Orientation::Array));
                }
            }
        }
    }
}

#[test]
fn compressed_tiff_is_read() {
    use ::tiff::encoder::Compression;
    let data: Vec<u8> = (0..20 * 21).map(|i| (i / 7) as u8).collect();
    for compression in [Compression::Uncompressed, Compression::Lzw, Compression::Packbits, Compression::Deflate(Default::default())] {
        assert_eq!(
            values(&read(&compressed_tiff(20, 21, &data, compression))),
            flipped(&data, 20).iter().map(|&v| f32::from(v)).collect::<Vec<_>>()
        );
    }
}

#[test]
fn white_is_zero_is_turned_without_loss() {
    let tiny: Vec<f32> = (0..20 * 21).map(|i| i as f32 * 1e-12).collect();
    let page = tiff_page(32, 3, Layout::Strips(8), tiny.iter().flat_map(|v| v.to_le_bytes()).collect());
    let micrograph = read(&tiff(&[TiffPage { photometric: 0, ..page }], false, false));
    assert_eq!(values(&micrograph), flipped(&tiny, 20).iter().map(|v| -v).collect::<Vec<f32>>());
    for (bits, format) in [(8, 1), (8, 2), (16, 2)] {
        for big_endian in [false, true] {
            let page = tiff_page(bits, format, Layout::Tiles(16), (0..20 * 21 * usize::from(bits / 8)).map(|i| (i * 31) as u8).collect());
            let plain = read(&tiff(std::slice::from_ref(&page), big_endian, false));
            let turned = read(&tiff(&[TiffPage { photometric: 0, ..page }], big_endian, false));
            let top = if format == 1 { 255.0 } else { -1.0 };
            assert_eq!(values(&turned), values(&plain).iter().map(|v| top - v).collect::<Vec<f32>>(), "{bits} {format}");
        }
    }
}

#[test]
fn pages_of_a_tiff_are_sections() {
    let page = |add: u8| tiff_page(8, 1, Layout::Strips(8), (0..20 * 21).map(|i| (i % 100) as u8 + add).collect());
    let file = tiff(&[page(0), page(50), page(100)], false, false);
    let with = |sections| read_with(&file, &ReadOptions { sections, ..ReadOptions::default() }).unwrap();
    let mean = with(Sections::Mean);
    assert_eq!(values(&mean), flipped(&(0..20 * 21).map(|i| (i % 100) as f32 + 50.0).collect::<Vec<_>>(), 20));
    one_warning(&mean, "TIFF of 3 sections");
    assert_eq!(values(&with(Sections::One(2)))[400], 100.0);
    assert_eq!(values(&with(Sections::First))[400], 0.0);
    let uneven = TiffPage { ny: 20, data: vec![0; 400], ..page(0) };
    refused(&tiff(&[page(0), uneven], false, false), "page 2: 20 x 20 pixels; expected 20 x 21");
}

#[test]
fn tiff_tells_the_pixel_size() {
    let page = |resolution| TiffPage { resolution, ..tiff_page(8, 1, Layout::Strips(8), vec![1; 420]) };
    let of = |resolution| read(&tiff(&[page(resolution)], false, false)).pixel_size_angstrom;
    assert_eq!(of(Some((50_000_000, 3))), Some(2.0));
    assert!((of(Some((254_000_000, 2))).unwrap() - 1.0).abs() < 1e-12);
    assert_eq!(of(Some((72, 2))), None, "72 dots per inch say nothing");
    assert_eq!((of(Some((0, 3))), of(None)), (None, None));
}

#[test]
fn tiff_that_is_no_grey_image_is_refused() {
    let page = tiff_page(8, 1, Layout::Strips(8), vec![1; 420]);
    let with = |change: fn(&mut TiffPage)| {
        let mut page = page.clone();
        change(&mut page);
        tiff(&[page], false, false)
    };
    refused(&with(|page| page.compression = 65001), "EER");
    refused(&with(|page| page.compression = 7), "JPEG");
    refused(&with(|page| page.compression = 3), "fax");
    refused(&with(|page| page.bits = 4), "two 4-bit pixels");
    refused(&with(|page| page.bits = 1), "1 bits per pixel");
    refused(&with(|page| (page.nx, page.ny) = (3838, 7420)), "two 4-bit pixels per byte (3838 x 7420)");
    refused(&with(|page| page.ny = 100_000), "expected what");
    refused(&with(|page| page.ny = 0), "0 rows");
    refused(&with(|_| ())[..100], "cut off at byte 100");
    refused(b"II*\0\x08\0\0\0", "cut off");
    refused(b"II*\0\0\0\0\0", "no page");
}

#[test]
fn png_of_every_kind_is_read_from_the_top() {
    use ::png::{BitDepth, ColorType};
    let bytes: Vec<u8> = (0..120).map(|i| (i * 37 % 256) as u8).collect();
    let grey = read(&png(5, 4, ColorType::Grayscale, BitDepth::Eight, &bytes[..20]));
    assert_eq!(values(&grey), bytes[..20].iter().map(|&v| f32::from(v)).collect::<Vec<_>>());
    assert_eq!((grey.orientation, grey.pixel_size_angstrom), (Orientation::PngTop, None));
    let wide = read(&png(5, 4, ColorType::Grayscale, BitDepth::Sixteen, &bytes[..40]));
    assert_eq!(values(&wide), bytes[..40].chunks(2).map(|v| f32::from(u16::from_be_bytes([v[0], v[1]]))).collect::<Vec<_>>());
    let alpha = read(&png(5, 4, ColorType::GrayscaleAlpha, BitDepth::Eight, &bytes[..40]));
    assert_eq!(values(&alpha), bytes[..40].chunks(2).map(|v| f32::from(v[0])).collect::<Vec<_>>());
    let luma = |red: f64, green: f64, blue: f64| (0.299 * red + 0.587 * green + 0.114 * blue) as f32;
    for (colour, channels) in [(ColorType::Rgb, 3), (ColorType::Rgba, 4)] {
        let picture = read(&png(5, 4, colour, BitDepth::Eight, &bytes[..20 * channels]));
        let expected: Vec<f32> = bytes[..20 * channels].chunks(channels).map(|v| luma(v[0].into(), v[1].into(), v[2].into())).collect();
        assert_eq!(values(&picture), expected);
    }
    let picture = read(&png(5, 4, ColorType::Indexed, BitDepth::Eight, &bytes[..20]));
    assert_eq!(values(&picture)[1], luma(37.0, 218.0, 18.0));
    let narrow = read(&png(6, 1, ColorType::Grayscale, BitDepth::Four, &[0x0f, 0x12, 0x30]));
    assert_eq!(values(&narrow), [0.0, 255.0, 17.0, 34.0, 51.0, 0.0]);
}

#[test]
fn interlaced_png_is_read() {
    // 5x4 pixels counting up from 0, written interlaced by another program's rules: seven passes, none filtered.
    let starts = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)];
    let mut raw = Vec::new();
    for (x0, y0, dx, dy) in starts {
        for y in (y0..4).step_by(dy) {
            let row: Vec<u8> = (x0..5).step_by(dx).map(|x| (y * 5 + x) as u8).collect();
            if !row.is_empty() {
                raw.push(0);
                raw.extend(row);
            }
        }
    }
    use std::io::Write;
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(&raw).unwrap();
    let chunk = |name: &[u8; 4], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(name);
        crc.update(data);
        [&(data.len() as u32).to_be_bytes()[..], name, data, &crc.sum().to_be_bytes()].concat()
    };
    let header = [&5u32.to_be_bytes()[..], &4u32.to_be_bytes(), &[8, 0, 0, 0, 1]].concat();
    let file =
        [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &zlib.finish().unwrap()), chunk(b"IEND", &[])].concat();
    assert_eq!(values(&read(&file)), (0..20).map(|i| i as f32).collect::<Vec<f32>>());
}

#[test]
fn png_that_is_no_micrograph_is_refused() {
    use ::png::{BitDepth, ColorType};
    refused(&png(8, 4, ColorType::Grayscale, BitDepth::One, &[0xaa; 4]), "1 bit per pixel");
    let file = png(50, 40, ColorType::Grayscale, BitDepth::Eight, &(0..2000).map(|i| (i * i % 251) as u8).collect::<Vec<u8>>());
    refused(&file[..file.len() / 2], "whole PNG");
    let mut animated = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut animated, 4, 4);
    encoder.set_animated(2, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    (0..2).for_each(|_| writer.write_image_data(&[0; 16]).unwrap());
    writer.finish().unwrap();
    refused(&animated, "animation of 2 frames");
    // A header of 100000 x 100000 pixels in a hundred bytes.
    let mut bomb = file;
    bomb[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let mut crc = flate2::Crc::new();
    crc.update(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    refused(&bomb, "100000 x 100000 pixels; expected what");
}

#[test]
fn files_are_mapped_and_errors_name_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mrc");
    std::fs::write(&path, Mrc::default().bytes()).unwrap();
    let options = ReadOptions::default();
    assert_eq!(values(&read_micrograph(&path, &options).unwrap())[7], 7.0);
    let info = read_info(&path, &options).unwrap();
    assert_eq!((info.format, info.nx, info.ny, info.sections, info.pixel_size_angstrom), ("MRC", 4, 3, 1, Some(1.5)));
    std::fs::write(&path, b"").unwrap();
    let message = format!("{:#}", read_micrograph(&path, &options).unwrap_err());
    assert!(message.contains("a.mrc") && message.contains("empty"), "{message}");
    assert!(format!("{:#}", read_micrograph(folder.path(), &options).unwrap_err()).contains("is a folder"));
    assert!(format!("{:#}", read_micrograph(&folder.path().join("b.mrc"), &options).unwrap_err()).contains("b.mrc: cannot be opened"));
    std::fs::write(&path, &Mrc::default().bytes()[..1050]).unwrap();
    let message = format!("{:#}", read_micrograph(&path, &options).unwrap_err());
    assert!(message.contains("a.mrc, header: truncated"), "{message}");
}

fn names(data: &Path, skip_missing: bool) -> anyhow::Result<Vec<String>> {
    let found = find_micrographs(data, skip_missing)?;
    Ok(found.micrographs.iter().map(|found| found.path.file_name().unwrap().to_string_lossy().into_owned()).collect())
}

#[test]
fn a_folder_means_its_mrc_files_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.mrc", "a.MRC", "c.mrc.gz", "d.Mrc.bz2", "e.mrcs", "f.tif", "g.txt", ".hidden.mrc", "B.mrc", "é.mrc"] {
        std::fs::write(folder.path().join(name), b"x").unwrap();
    }
    std::fs::create_dir(folder.path().join("z.mrc")).unwrap();
    std::fs::write(folder.path().join("z.mrc/inside.mrc"), b"x").unwrap();
    assert_eq!(names(folder.path(), false).unwrap(), ["B.mrc", "a.MRC", "b.mrc", "c.mrc.gz", "d.Mrc.bz2", "é.mrc"]);
    assert_eq!(names(&folder.path().join("f.tif"), false).unwrap(), ["f.tif"], "a file is itself, whatever its name");
    let empty = tempfile::tempdir().unwrap();
    std::fs::write(empty.path().join("a.tif"), b"x").unwrap();
    let message = format!("{:#}", names(empty.path(), false).unwrap_err());
    assert!(message.contains("no file ending in .mrc") && message.contains("1 other images"), "{message}");
    assert!(format!("{:#}", names(&empty.path().join("nothing"), false).unwrap_err()).contains("cannot be found"));
}

#[test]
fn a_list_means_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("mics")).unwrap();
    for name in ["mics/a b.mrc", "mics/c.mrc", "d.tif"] {
        std::fs::write(at(name), b"x").unwrap();
    }
    let absolute = at("mics/c.mrc").display().to_string();
    let write = |name: &str, text: &str| std::fs::write(at(name), text).unwrap();
    // Relative to the list's folder; blanks and quotes; blank lines; line ends of Windows.
    write("list.thi", &format!("[File List: Filename]\r\nmics/a b.mrc\r\n\r\n\"d.tif\"\r\n{absolute}\r\n[End]\r\n"));
    assert_eq!(names(&at("list.thi"), false).unwrap(), ["a b.mrc", "d.tif", "c.mrc"]);
    write("bare.THI", "mics/c.mrc\nmics/a b.mrc\n");
    assert_eq!(names(&at("bare.THI"), false).unwrap(), ["c.mrc", "a b.mrc"]);
    let header = "[Micrograph Particle coordinate:\n #0:MICROGRAPH_PATH    STRING\n #1:PARTICLE_PATH    STRING]\n";
    write("merge.thi", &format!("{header}{absolute} {}\n", at("c.thi").display()));
    assert_eq!(names(&at("merge.thi"), false).unwrap(), ["c.mrc"]);
    write("mics/list.star", "data_\n\nloop_\n_rlnMicrographName #1\nmics/c.mrc\nd.tif\nmics/c.mrc\n");
    assert_eq!(names(&at("mics/list.star"), false).unwrap(), ["c.mrc", "d.tif"], "names of a STAR list start at the project's folder");
    assert!(find_micrographs(&at("mics/list.star"), false).unwrap().warnings[0].contains("1 entries are listed more than once"));
    write("coordinates.thi", "[Particle Coordinates: X Y Value]\n1 2 0.5\n[End]\n");
    assert!(format!("{:#}", names(&at("coordinates.thi"), false).unwrap_err()).contains("lists coordinates, not files"));
    write("empty.thi", "[File List: Filename]\n[End]\n");
    assert!(format!("{:#}", names(&at("empty.thi"), false).unwrap_err()).contains("no micrograph"));
}

#[test]
fn missing_files_of_a_list_are_told_together() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("there.mrc"), b"x").unwrap();
    let list = folder.path().join("list.thi");
    std::fs::write(&list, "[File List: Filename]\ngone_1.mrc\nthere.mrc\ngone_2.mrc\n[End]\n").unwrap();
    let message = format!("{:#}", find_micrographs(&list, false).unwrap_err());
    assert!(message.contains("2 of 3 micrographs are missing: gone_1.mrc, gone_2.mrc"), "{message}");
    let found = find_micrographs(&list, true).unwrap();
    assert_eq!((found.micrographs.len(), found.missing.len(), found.warnings.len()), (1, 2, 1));
    assert_eq!(found.micrographs[0].name, "there.mrc");
}
