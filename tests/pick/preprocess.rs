//! From a micrograph to the network's input, against what the original's own code makes of the same micrographs.

use epicker::compat::{Compat, Fault};
use epicker::formats::image::{Micrograph, Pixels};
use epicker::net::formula::fnv1a64;
use epicker::preprocess::fourier_crop::crop;
use epicker::preprocess::geometry::Geometry;
use epicker::preprocess::ground::Ground;
use epicker::preprocess::{
    Normalisation, Prepared, equalise, equalise_table, letterbox, normalise, normalise_table, preprocess, quantise, warp_affine,
};
use epicker::random::splitmix64;
use safetensors::SafeTensors;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

const FRAME: usize = 1024;

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/preprocess").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn f64s(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

// The micrographs are made by formula (tests/golden/README.md), so that none has to be stored.

/// Noise of four random bytes per pixel, 60 dark paraboloids, and a slope along x.
fn integer_image(name: &str, w: usize, h: usize) -> Vec<i64> {
    let base = fnv1a64(name);
    let noise = |i: usize| splitmix64(base.wrapping_add(i as u64)).to_le_bytes()[..4].iter().map(|&byte| i64::from(byte)).sum();
    let mut image: Vec<i64> = (0..w * h).map(noise).collect();
    let blobs = fnv1a64(&format!("{name}/blob"));
    for k in 0..60 {
        let q = [0, 1, 2, 3].map(|j| splitmix64(blobs.wrapping_add(4 * k + j)));
        let (cx, cy) = ((q[0] % w as u64) as i64, (q[1] % h as u64) as i64);
        let (radius, depth) = (12 + (q[2] % 29) as i64, 200 + (q[3] % 401) as i64);
        for y in (cy - radius).max(0)..=(cy + radius).min(h as i64 - 1) {
            for x in (cx - radius).max(0)..=(cx + radius).min(w as i64 - 1) {
                let inside = radius * radius - (x - cx).pow(2) - (y - cy).pow(2);
                if inside > 0 {
                    image[y as usize * w + x as usize] -= depth * inside / (radius * radius);
                }
            }
        }
    }
    for row in image.chunks_exact_mut(w) {
        row.iter_mut().enumerate().for_each(|(x, value)| *value += 200 * x as i64 / w as i64);
    }
    image
}

fn noise_f32(name: &str, w: usize, h: usize) -> Vec<f32> {
    integer_image(name, w, h).iter().map(|&value| (value - 512) as f32 / 64.0).collect()
}

fn case_pixels(name: &str, case: &Value) -> Pixels {
    let [w, h, nz] = ["W", "H", "nz"].map(|key| case[key].as_u64().unwrap() as usize);
    let integers = |convert: fn(i64) -> i64| integer_image(name, w, h).into_iter().map(convert);
    match case["kind"].as_str().unwrap() {
        "const" => Pixels::F32(vec![3.5; w * h].into()),
        _ if nz > 1 => {
            let slices: Vec<Vec<i64>> = (0..nz).map(|z| integer_image(&format!("{name}/{z}"), w, h)).collect();
            let mean = |i: usize| slices.iter().map(|slice| (slice[i] - 512) as f64).sum::<f64>() / nz as f64;
            Pixels::F64((0..w * h).map(mean).collect::<Vec<f64>>().into())
        }
        "f32" => Pixels::F32(noise_f32(name, w, h).into()),
        "int16" => Pixels::I16(integers(|v| v - 512).map(|v| v as i16).collect::<Vec<_>>().into()),
        "int16wide" => Pixels::I16(integers(|v| (40 * v - 25000).clamp(-32768, 32767)).map(|v| v as i16).collect::<Vec<_>>().into()),
        "uint16" => Pixels::U16(integers(|v| 4 * v + 6000).map(|v| v as u16).collect::<Vec<_>>().into()),
        "int8" => Pixels::I8(integers(|v| ((v >> 5) - 16).clamp(-128, 127)).map(|v| v as i8).collect::<Vec<_>>().into()),
        "int8wide" => Pixels::I8(integers(|v| ((v >> 2) - 128).clamp(-128, 127)).map(|v| v as i8).collect::<Vec<_>>().into()),
        kind => panic!("{kind}"),
    }
}

fn micrograph(nx: usize, ny: usize, pixels: Pixels) -> Micrograph {
    assert_eq!(pixels.len(), nx * ny);
    Micrograph::of_pixels(nx, ny, pixels)
}

fn prepare_f32(nx: usize, ny: usize, values: Vec<f32>, compat: &[Fault]) -> Prepared {
    preprocess(&micrograph(nx, ny, Pixels::F32(values.into())), FRAME, Ground::Kept, &Compat::only(compat)).unwrap()
}

/// The values of `image` (FRAME wide) at every `step`th row and column.
fn at_steps<T: Copy>(image: &[T], step: usize, [h, w]: [usize; 2]) -> Vec<T> {
    (0..h * w).map(|i| image[i / w * step * FRAME + i % w * step]).collect()
}

struct Cases {
    cases: serde_json::Map<String, Value>,
    points: Vec<u8>,
}

impl Cases {
    fn load() -> Cases {
        let Ok(Value::Object(cases)) = serde_json::from_slice(&golden("cases.json")) else { panic!("cases.json is no object") };
        Cases { cases, points: golden("points.safetensors") }
    }

    fn points(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.points).unwrap()
    }

    fn crop_error(&self, key: &str, image_d: &[f64], step: usize) -> f64 {
        let points = self.points();
        let tensor = points.tensor(key).unwrap();
        let ours = at_steps(image_d, step, [tensor.shape()[0], tensor.shape()[1]]);
        ours.iter().zip(f64s(tensor.data())).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    }

    /// Pixels that differ at the stored points, and their number.
    fn levels_differing(&self, key: &str, image: &[u8], step: usize) -> (Vec<i16>, usize) {
        let points = self.points();
        let tensor = points.tensor(key).unwrap();
        let ours = at_steps(image, step, [tensor.shape()[0], tensor.shape()[1]]);
        let differences = ours.iter().zip(tensor.data()).map(|(&a, &b)| i16::from(a) - i16::from(b));
        (differences.filter(|&difference| difference != 0).collect(), ours.len())
    }
}

#[test]
fn every_stage_equals_the_original() {
    let cases = Cases::load();
    let mut equal_to_the_bit = 0;
    for (name, case) in &cases.cases {
        let pixels = case_pixels(name, case);
        let geometry = Geometry::new(case["W"].as_u64().unwrap() as usize, case["H"].as_u64().unwrap() as usize, FRAME);
        assert_eq!(geometry.height_d as u64, case["target_h"].as_u64().unwrap(), "{name}");
        let image_d = crop(&pixels, &geometry, None, true).unwrap();
        let kind = case["kind"].as_str().unwrap();
        if kind != "const" {
            let deviation = case["crop_std"].as_f64().unwrap();
            for (key, step) in [("crop_f64_corner", 4), ("crop_f64_strided", 48)] {
                let error = cases.crop_error(&format!("{name}/{key}"), &image_d, step);
                assert!(error <= 1e-11 * deviation, "{name} {key}: {error} of {deviation}");
            }
        }
        // Integers at their own size: the crop changes nothing, and truncation takes off 1 at random.
        if name == "p_i16_1024x1000" {
            continue;
        }
        let quantised = quantise(&image_d, &pixels, true);
        if name == "p_i16_1023x700" {
            // The same in column 0 alone, and in whatever the histogram makes of it afterwards.
            let (points, beyond) = (cases.points(), |(i, _): &(usize, i16)| i % FRAME.div_ceil(16) != 0);
            let stored = points.tensor(&format!("{name}/quant_strided")).unwrap();
            let ours = at_steps(&quantised, 16, [stored.shape()[0], stored.shape()[1]]);
            let differences = ours.iter().zip(stored.data()).map(|(&a, &b)| i16::from(a) - i16::from(b)).enumerate();
            assert_eq!(differences.filter(beyond).filter(|(_, d)| *d != 0).count(), 0, "{name}");
            continue;
        }
        let (differing, of) = cases.levels_differing(&format!("{name}/quant_strided"), &quantised, 16);
        assert!(differing.len() * 10_000 <= of && differing.iter().all(|&d| d.abs() == 1), "{name}: {differing:?} of {of}");
        let is = |key: &str, bytes: &[u8]| case[key].as_str() == Some(&sha256(bytes));
        if is("sha256_quant", &quantised) {
            equal_to_the_bit += 1;
            let equalised = equalise(&quantised);
            assert!(is("sha256_equal", &equalised), "{name}: equalise");
            let image_n = letterbox(&equalised, &geometry);
            assert!(is("sha256_warp", &image_n), "{name}: letterbox");
            let image = normalise(&image_n, Normalisation::Picking);
            assert!(is("sha256_norm_f32", bytemuck::cast_slice(&image)), "{name}: normalise");
            let whole = Compat::only(&[Fault::Narrow, Fault::IntCast, Fault::HotPixel]);
            let prepared = preprocess(&micrograph(geometry.nx, geometry.ny, pixels), FRAME, Ground::Kept, &whole).unwrap();
            assert_eq!(prepared.image, image, "{name}: all stages together");
            assert_eq!(prepared.constant, kind == "const", "{name}");
        }
    }
    // A transform that rounds elsewhere may move a grey level here and there, but not everywhere.
    assert!(equal_to_the_bit >= 10, "only {equal_to_the_bit} of 13 cases are equal to the bit");
}

#[test]
fn narrow_micrographs_are_interpolated_unless_the_original_is_asked_for() {
    let cases = Cases::load();
    let narrow: Vec<_> = cases.cases.iter().filter(|(_, case)| case.get("zeropad").is_some()).collect();
    assert_eq!(narrow.len(), 4);
    for (name, case) in narrow {
        let (nx, ny) = (case["W"].as_u64().unwrap() as usize, case["H"].as_u64().unwrap() as usize);
        let (pixels, geometry) = (case_pixels(name, case), Geometry::new(nx, ny, FRAME));
        let image_d = crop(&pixels, &geometry, None, false).unwrap();
        let deviation = case["zeropad"]["crop_std"].as_f64().unwrap();
        for (key, step) in [("zeropad_f64_corner", 4), ("zeropad_f64_strided", 48)] {
            let error = cases.crop_error(&format!("{name}/{key}"), &image_d, step);
            assert!(error <= 1e-11 * deviation, "{name} {key}: {error} of {deviation}");
        }
        let quantised = quantise(&image_d, &pixels, false);
        let (differing, of) = cases.levels_differing(&format!("{name}/zeropad_quant_strided"), &quantised, 16);
        assert!(differing.len() * 10_000 <= of, "{name}: {differing:?} of {of}");
        let micrograph = micrograph(nx, ny, pixels);
        let mended = preprocess(&micrograph, FRAME, Ground::Kept, &Compat::default()).unwrap();
        assert_eq!(mended.equalised, equalise(&quantised), "{name}: the mended way is the default");
        // 1023 columns and 700 rows become 1024 x 700: the rows stay, and both ways agree.
        if name != "p_i16_1023x700" {
            let original = preprocess(&micrograph, FRAME, Ground::Kept, &Compat::only(&[Fault::Narrow])).unwrap();
            assert_ne!(mended.equalised, original.equalised, "{name}");
        }
    }
}

#[test]
fn warping_equals_opencv() {
    let bytes = golden("warp.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (case, picture) in
        [("pt200x300_c77x111_noflip", "pt200x300"), ("ls256x240_c100x90_noflip", "ls256x240"), ("ls256x240_val", "ls256x240")]
    {
        let image = epicker::formats::png_image::read(&golden(&format!("{picture}.png"))).unwrap();
        let Pixels::U8(pixels) = &image.pixels else { panic!("{picture} has 8 bits") };
        let matrix = f64s(tensors.tensor(&format!("{case}/trans_input")).unwrap().data());
        let matrix = [[matrix[0], matrix[1], matrix[2]], [matrix[3], matrix[4], matrix[5]]];
        let warped = warp_affine(pixels, [image.ny, image.nx], &matrix, [256, 256]);
        assert_eq!(warped, tensors.tensor(&format!("{case}/warped_u8")).unwrap().data(), "{case}");
    }
}

#[test]
fn points_of_frame_d_go_to_the_heat_map() {
    let cases = Cases::load();
    let points = cases.points();
    for (name, case) in &cases.cases {
        let geometry = Geometry::new(case["W"].as_u64().unwrap() as usize, case["H"].as_u64().unwrap() as usize, FRAME);
        let [from, to] = ["pts", "pts_mapped"].map(|key| f64s(points.tensor(&format!("{name}/{key}")).unwrap().data()));
        for (h, d) in from.chunks(2).zip(to.chunks(2)) {
            // The original goes from the heat map to D, after it has rounded the points to f32.
            let n = [h[0], h[1]].map(|value| 4.0 * f64::from(value as f32));
            let ours = geometry.d_to_n([d[0], d[1]]);
            let unit = FRAME as f64 / geometry.square_d() as f64; // pixels of N that are one of D
            assert!((ours[0] - n[0]).abs() < 1e-3 * unit && (ours[1] - n[1]).abs() < 1e-3 * unit, "{name}: {ours:?} is not {n:?}");
        }
    }
}

#[test]
fn integers_lose_nothing_unless_the_original_is_asked_for() {
    // Counts near zero: the original's u16 wraps below zero, and hardly any grey level is left.
    let counts: Vec<u16> = integer_image("int-cast", 1100, 1050).iter().map(|&value| (value.clamp(0, 1020) / 200) as u16).collect();
    let image = micrograph(1100, 1050, Pixels::U16(counts.clone().into()));
    let levels = |prepared: &Prepared| {
        let mut seen = [false; 256];
        prepared.equalised.iter().for_each(|&level| seen[usize::from(level)] = true);
        seen.iter().filter(|&&seen| seen).count()
    };
    let mended = preprocess(&image, FRAME, Ground::Kept, &Compat::default()).unwrap();
    let original = preprocess(&image, FRAME, Ground::Kept, &Compat::only(&[Fault::IntCast])).unwrap();
    assert!(levels(&mended) > 100, "{}", levels(&mended));
    assert!(levels(&original) < 10, "{}", levels(&original));
    // Mended, integers are what the same values as floats are.
    let floats = prepare_f32(1100, 1050, counts.iter().map(|&value| f32::from(value)).collect(), &[]);
    assert_eq!(mended.equalised, floats.equalised);
}

#[test]
fn a_hot_pixel_takes_no_grey_levels_unless_the_original_is_asked_for() {
    let clean = noise_f32("hot-pixel", 1100, 1000);
    let mut hot = clean.clone();
    hot[1100 * 400 + 300] = 2000.0; // some 800 standard deviations
    let distinct = |prepared: &Prepared| {
        let mut levels = prepared.equalised.clone();
        levels.sort_unstable();
        levels.dedup();
        levels.len()
    };
    let reference = prepare_f32(1100, 1000, clean.clone(), &[]);
    let mended = prepare_f32(1100, 1000, hot.clone(), &[]);
    let original = prepare_f32(1100, 1000, hot, &[Fault::HotPixel]);
    // Clipped to 20 standard deviations, the pixel leaves the noise (9 of some 27 standard deviations) a third of 256 levels
    // at most; unclipped a hundredth.
    assert!(distinct(&mended) > 45 && distinct(&original) < 6, "{} and {}", distinct(&mended), distinct(&original));
    assert_eq!(mended.warnings.len(), 1, "{:?}", mended.warnings);
    // An ordinary micrograph keeps its bits.
    assert!(reference.warnings.is_empty());
    assert_eq!(reference.image, prepare_f32(1100, 1000, clean, &[Fault::HotPixel]).image);
}

#[test]
fn hot_pixels_of_very_different_size_do_not_hide_each_other() {
    let mut values = noise_f32("hot-pixel", 1100, 1000);
    values[77] = 1e30;
    (0..100).for_each(|i| values[5000 + 997 * i] = 1e6);
    let prepared = prepare_f32(1100, 1000, values, &[]);
    let mut levels = prepared.equalised;
    levels.sort_unstable();
    levels.dedup();
    assert!(levels.len() > 45, "{} grey levels left", levels.len());
}

#[test]
fn a_constant_added_changes_hardly_a_grey_level() {
    let values = noise_f32("offset", 1100, 1000);
    let offset = 250.0; // 100 standard deviations; a multiple of the values' step, so the sums are exact
    let shifted: Vec<f32> = values.iter().map(|value| value + offset).collect();
    let geometry = Geometry::new(1100, 1000, FRAME);
    let [plain, moved] = [values, shifted].map(|values| {
        let pixels = Pixels::F32(values.into());
        quantise(&crop(&pixels, &geometry, None, false).unwrap(), &pixels, false)
    });
    let differing = plain.iter().zip(&moved).filter(|(a, b)| a != b).count();
    // 32 bits resolve 3e-5 at 250, a grey level is 0.1: 1 pixel in 3000 may fall on the other side.
    assert!(differing * 3000 <= plain.len(), "{differing} of {}", plain.len());
    assert!(plain.iter().zip(&moved).all(|(&a, &b)| a.abs_diff(b) <= 1));
}

#[test]
fn a_few_bad_pixels_become_the_mean_and_many_are_refused() {
    let mut values = noise_f32("nan", 1100, 1000);
    values[5] = f32::NAN;
    values[6000] = f32::INFINITY;
    let prepared = prepare_f32(1100, 1000, values.clone(), &[]);
    assert_eq!(prepared.warnings, ["2 pixels are NaN or infinite; replaced by the mean of the others"]);
    let mut sorted = prepared.equalised;
    sorted.sort_unstable();
    sorted.dedup();
    assert!(sorted.len() > 50 && prepared.image.iter().all(|value| value.is_finite()));
    values[..11_000].fill(f32::NAN);
    let error = preprocess(&micrograph(1100, 1000, Pixels::F32(values.into())), FRAME, Ground::Kept, &Compat::default()).unwrap_err();
    // Pixel 5 and pixel 6000 lie among them.
    assert!(error.to_string().starts_with("pixels: 11000 of 1100000 are NaN or infinite; expected less than 1 %"), "{error}");
}

#[test]
fn a_constant_micrograph_is_told_and_black() {
    for pixels in [Pixels::F64(vec![0.1; 1100 * 50].into()), Pixels::U8(vec![7; 1100 * 50].into())] {
        let prepared = preprocess(&micrograph(1100, 50, pixels), FRAME, Ground::Kept, &Compat::default()).unwrap();
        assert!(prepared.constant);
        assert_eq!(prepared.warnings, ["all pixels are equal; no picks"]);
        let black = normalise_table(Normalisation::Picking)[0];
        assert!(prepared.image.iter().all(|&value| value == black) && prepared.equalised.iter().all(|&level| level == 0));
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let values = noise_f32("threads", 1203, 907);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| prepare_f32(1203, 907, values.clone(), &[]).image)
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}

#[test]
fn frames_of_other_sizes_and_odd_shapes_work() {
    for (frame, nx, ny) in
        [(256, 300, 200), (256, 100, 77), (512, 2000, 1999), (2048, 700, 500), (64, 1, 2), (96, 97, 2), (1024, 256, 1), (32, 1, 32)]
    {
        let values: Vec<f32> = integer_image("shape", nx, ny).iter().map(|&value| value as f32).collect();
        let prepared = preprocess(&micrograph(nx, ny, Pixels::F32(values.into())), frame, Ground::Kept, &Compat::default()).unwrap();
        assert_eq!(prepared.image.len(), frame * frame);
        assert_eq!(prepared.equalised.len(), frame * (frame * ny / nx));
        assert!(prepared.image.iter().all(|value| value.is_finite()), "{frame} {nx} {ny}");
    }
}

#[test]
fn shapes_that_leave_nothing_are_refused() {
    for (nx, ny) in [(5000, 4), (1, 40)] {
        let pixels = Pixels::U8((0..nx * ny).map(|i| i as u8).collect::<Vec<u8>>().into());
        let error = preprocess(&micrograph(nx, ny, pixels), FRAME, Ground::Kept, &Compat::default()).unwrap_err().to_string();
        assert!(error.starts_with("crop: ") && error.contains("expected 1 to"), "{error}");
    }
}

#[test]
fn interpolation_goes_through_the_pixels() {
    // At twice the size every second value is a pixel of the micrograph.
    let values = noise_f32("through", 512, 300);
    let pixels = Pixels::F32(values.clone().into());
    let image_d = crop(&pixels, &Geometry::new(512, 300, FRAME), None, false).unwrap();
    for (i, &value) in values.iter().enumerate() {
        let ours = image_d[i / 512 * 2 * FRAME + i % 512 * 2];
        assert!((ours - f64::from(value)).abs() < 1e-11, "pixel {i}: {ours} is not {value}");
    }
}

#[test]
fn equalising_keeps_one_level_and_spreads_two() {
    assert_eq!(equalise(&[9; 5]), [9; 5]);
    assert_eq!(equalise(&[9, 9, 200, 9]), [0, 0, 255, 0]);
    let mut histogram = [0; 256];
    (histogram[10], histogram[20], histogram[30]) = (2, 1, 1);
    let table = equalise_table(&histogram);
    assert_eq!((table[10], table[20], table[30]), (0, 128, 255)); // 127.5 goes to the even neighbour
}

#[test]
fn training_may_normalise_as_the_original_does() {
    let (picking, training) = (normalise_table(Normalisation::Picking), normalise_table(Normalisation::Training));
    assert_eq!(picking[0], -1.735_405_9);
    assert_eq!(training[255], (1.0 - 0.508145_f32) / 0.288813);
    assert_eq!(training[0], -0.508145_f32 / 0.288813);
}

#[test]
fn beside_a_film_the_hole_keeps_its_grey_levels_without_the_ground() {
    // A slope and a carbon film beside a hole, far darker than what lies in the hole.
    let (nx, ny) = (2 * FRAME, 2 * FRAME);
    let values: Vec<f32> = epicker::random::noise(nx * ny, 7)
        .iter()
        .enumerate()
        .map(|(i, x)| x - if i % nx < nx * 2 / 3 { 12.0 } else { 0.0 } + 0.01 * (i / nx) as f32)
        .collect();
    let image = micrograph(nx, ny, Pixels::F32(values.into()));
    // The share of grey levels that the pixels far inside the hole have between their lower and their upper tenth.
    let spread = |ground: Ground| {
        let Prepared { equalised, .. } = preprocess(&image, FRAME, ground, &Compat::default()).unwrap();
        let inside = |(i, level): (usize, &u8)| (i % FRAME > FRAME - 30).then_some(*level);
        let mut levels: Vec<u8> = equalised.iter().enumerate().filter_map(inside).collect();
        levels.sort();
        (levels[levels.len() * 9 / 10] - levels[levels.len() / 10]) as f64 / 255.0
    };
    let (kept, levelled) = (spread(Ground::Kept), spread(Ground::Levelled { sigma_px: 24.0 }));
    assert!(kept < 0.5 && levelled > 0.75, "{kept}, {levelled}");
    // What is equal everywhere stays a micrograph without picks.
    let flat = micrograph(nx, ny, Pixels::F32(vec![3.0; nx * ny].into()));
    assert!(preprocess(&flat, FRAME, Ground::Levelled { sigma_px: 24.0 }, &Compat::default()).unwrap().constant);
}
