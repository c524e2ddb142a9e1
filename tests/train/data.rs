//! Labels and micrographs before training: matching, boxes, cache, exemplars, and the look that `epicker check` takes.

use crate::common::drawn::{Drawing, Shape};
use crate::common::labelled::{write_mrc, write_thi};
use crate::common::program::{epicker, is_refused};
use epicker::compat::{Compat, Fault};
use epicker::formats::coordinates::{Coordinate, Coordinates, Kind, Size};
use epicker::formats::label_file;
use epicker::formats::safetensors_file;
use epicker::io::pairing::Name;
use epicker::net::{Architecture, fresh};
use epicker::preprocess::ground::Ground;
use epicker::train::augment::CornersD;
use epicker::train::cache::{ImageCache, grey_png, read_grey};
use epicker::train::exemplar::Exemplar;
use epicker::train::labels::{self, BoxSide, Labelled, ORIGINAL_SIDE_H_PX, along_fibers, boxes_d, gather, leftovers};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The original's box.
const ORIGINAL_SIDE: BoxSide = BoxSide::HeatMapPixels(ORIGINAL_SIDE_H_PX);

/// Labels of a golden file, as those of a micrograph of the size that its name says.
fn labelled_of(name: &str) -> Labelled {
    let file = label_file::read_path(&golden(&format!("formats/labels/{name}")), &label_file::ReadOptions::default()).unwrap();
    let epicker::formats::coordinates::Content::Coordinates(mut sets) = file.content else { panic!("{name} is a list") };
    let size = if name.starts_with("m3838") { [3838, 3710] } else { [4096, 4096] };
    Labelled {
        path: PathBuf::from("m.mrc"),
        name: Name::of_micrograph("m.mrc", Path::new("m.mrc")),
        stem: "m".to_owned(),
        size,
        pixel_size_angstrom: Some(1.5),
        label: PathBuf::from(name),
        format: file.format,
        coordinates: sets.remove(0).coordinates,
        outside: 0,
        marks: None,
        rejected: Vec::new(),
    }
}

fn centre([x1, y1, x2, y2]: CornersD) -> [f64; 2] {
    [f64::from(x1 + x2) / 2.0, f64::from(y1 + y2) / 2.0]
}

#[test]
fn label_boxes_are_the_originals_where_it_is_right_and_mended_where_not() {
    let expected: Value = serde_json::from_slice(&std::fs::read(golden("train_data/label_boxes.json")).unwrap()).unwrap();
    let mut seen = 0;
    for (name, expected) in expected.as_object().unwrap() {
        let bbox: Vec<[f64; 4]> = serde_json::from_value(expected["bbox"].clone()).unwrap();
        let places: Vec<[f64; 2]> = serde_json::from_value(
            expected["downsampled"].as_array().unwrap().iter().map(|row| Value::from(vec![row[0].clone(), row[1].clone()])).collect(),
        )
        .unwrap();
        let one = labelled_of(name);
        let boxes = |faults: &[Fault]| boxes_d(&one, Kind::Particle, 1024, ORIGINAL_SIDE, &Compat::only(faults)).unwrap();
        let mut old = boxes(&[Fault::LabelTrunc, Fault::ClipCentre]);
        let mut truncated = boxes(&[Fault::LabelTrunc]);
        if name.ends_with(".star") {
            // The original sorts these by the whole part of x.
            let mut order: Vec<usize> = (0..old.len()).collect();
            order.sort_by_key(|&i| one.coordinates.points[i].x as i64);
            old = order.iter().map(|&i| old[i]).collect();
            truncated = order.iter().map(|&i| truncated[i]).collect();
        }
        if name.ends_with(".box") {
            // The original takes the corner for the centre, so its boxes lie half a box off; here the centre is right.
            let exact = boxes(&[]);
            for (ours, corner) in exact.iter().zip(&places) {
                let [x, y] = centre(*ours);
                assert!((x - corner[0] - 10.5).abs() < 1.5 && (y - corner[1] - 10.5).abs() < 1.5, "{name}: {x} {y} {corner:?}");
            }
            seen += 1;
            continue;
        }
        assert_eq!(old.len(), bbox.len(), "{name}");
        for ((ours, theirs), place) in old.iter().zip(&bbox).zip(&places) {
            let theirs = [theirs[0], theirs[1], theirs[0] + theirs[2], theirs[1] + theirs[3]].map(|value| value as f32);
            assert_eq!(*ours, theirs, "{name}");
            assert!(place[0] >= 10.5 && place[1] >= 10.5 || centre(*ours) != *place, "{name}: only near the border is a centre moved");
        }
        for (ours, place) in truncated.iter().zip(&places) {
            assert_eq!(centre(*ours), *place, "{name}: without clip-centre the box stays around its label");
        }
        // Mended: the fractions are kept, up to one pixel of D per truncation.
        for (ours, point) in boxes(&[]).iter().zip(&one.coordinates.points) {
            let [x, y] = centre(*ours);
            let [nx, ny] = one.size.map(|size| size as f64);
            let height_d = if nx == 3838.0 { 989.0 } else { 1024.0 };
            assert!((x - point.x * 1024.0 / nx).abs() < 1e-3 && (y - point.y * height_d / ny).abs() < 1e-3, "{name}");
        }
        seen += 1;
    }
    assert_eq!(seen, 12);
}

#[test]
fn a_vesicles_box_is_its_own_radius() {
    let one = labelled_of("m4096x4096_vesicle.thi");
    let boxes = boxes_d(&one, Kind::Vesicle, 1024, ORIGINAL_SIDE, &Compat::default()).unwrap();
    assert!(!boxes.is_empty());
    for (corners, point) in boxes.iter().zip(&one.coordinates.points) {
        let radius = point.radius().unwrap();
        assert!((f64::from(corners[2] - corners[0]) - 2.0 * radius / 4.0).abs() < 1e-3);
    }
    let without = labelled_of("m4096x4096_particle.thi");
    let error = boxes_d(&without, Kind::Vesicle, 1024, ORIGINAL_SIDE, &Compat::default()).unwrap_err().to_string();
    assert!(error.contains("without radius") && error.contains("m4096x4096_particle.thi"), "{error}");
}

#[test]
fn fibers_become_one_point_per_cell_with_every_vertex_once() {
    let one = labelled_of("m4096x4096_fiber.thi");
    assert_eq!(one.coordinates.kind, Kind::Fiber);
    let boxes = boxes_d(&one, Kind::Fiber, 1024, ORIGINAL_SIDE, &Compat::default()).unwrap();
    let centres: Vec<[f64; 2]> = boxes.iter().map(|corners| centre(*corners)).collect();
    for point in &one.coordinates.points {
        let place = [point.x / 4.0, point.y / 4.0];
        let near = |other: &&[f64; 2]| (other[0] - place[0]).hypot(other[1] - place[1]) < 1e-3;
        assert_eq!(centres.iter().filter(near).count(), 1, "{place:?}"); // also of the vertex that the file holds twice
    }
    // A cell is 4 D pixels; the original places a point every 5 M pixels.
    let placed = labelled_of("m4096x4096_fiber_placed.thi").coordinates.points.len();
    assert!(boxes.len() * 2 < placed, "{} {placed}", boxes.len());
    let mut path = Coordinates { kind: Kind::Fiber, points: Vec::new() };
    path.points =
        [[0.0, 0.0], [10.0, 0.0], [10.0, 0.0], [10.0, 7.0]].map(|[x, y]| Coordinate { group: Some(1), ..Coordinate::at(x, y) }).to_vec();
    let places: Vec<[f64; 2]> = along_fibers(&path, 4.0).unwrap().iter().map(|point| [point.x, point.y]).collect();
    assert_eq!(places.len(), 1 + 3 + 2);
    assert_eq!((places[3], places[5]), ([10.0, 0.0], [10.0, 7.0]));
}

#[test]
fn a_diameter_makes_the_box() {
    let one = labelled_of("m4096x4096_particle.thi");
    let side = |side: BoxSide| {
        let boxes = boxes_d(&one, Kind::Particle, 1024, side, &Compat::default()).unwrap();
        f64::from(boxes[0][2] - boxes[0][0])
    };
    assert!((side(ORIGINAL_SIDE) - 19.0).abs() < 1e-3);
    assert!((side(BoxSide::Angstrom(180.0)) - 30.0).abs() < 1e-3); // 120 pixels of M, 30 of D
    let unknown = Labelled { pixel_size_angstrom: None, ..one };
    let error = format!("{:#}", boxes_d(&unknown, Kind::Particle, 1024, BoxSide::Angstrom(180.0), &Compat::default()).unwrap_err());
    assert!(error.contains("--angpix") && error.contains("m.mrc"), "{error}");
}

#[test]
fn names_match_with_the_endings_of_other_programs_and_leftovers_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let [data, label] = ["data", "label"].map(|name| folder.path().join(name));
    [&data, &label].into_iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
    for stem in ["a", "b_DW", "c_doseweighted", "012345678901234567890_d", "lonely", "negative"] {
        write_mrc(&data.join(format!("{stem}.mrc")), [64, 48], &[]);
    }
    for stem in ["a_autopick", "b_manualpick", "c", "d", "nobody"] {
        write_thi(&label.join(format!("{stem}.thi")), &[[10, 10], [63, 47]]);
    }
    std::fs::write(label.join("negative.thi"), "").unwrap();
    std::fs::write(label.join("merge_results.thi"), "[File List: Filename]\nx.mrc\n[End]\n").unwrap();
    let gathered = gather(&data, &label, &labels::Options::default()).unwrap();
    let stems: Vec<&str> = gathered.labelled.iter().map(|one| one.stem.as_str()).collect();
    assert_eq!(stems, ["012345678901234567890_d", "a", "b_DW", "c_doseweighted", "negative"]);
    assert!(gathered.labelled[4].coordinates.points.is_empty(), "an empty file is a negative example");
    assert_eq!(gathered.labelled[0].pixel_size_angstrom, Some(2.0));
    assert_eq!((gathered.lone_micrographs.clone(), gathered.lone_labels.clone()), (vec!["lonely".to_owned()], vec!["nobody".to_owned()]));
    assert_eq!(gathered.notes.len(), 3, "{:?}", gathered.notes);
    let told = leftovers(&gathered).join("\n");
    assert!(told.contains("1 micrograph has no label file and is left out: lonely") && told.contains("nobody"), "{told}");
}

#[test]
fn labels_outside_are_counted_and_those_far_outside_dropped() {
    let folder = tempfile::tempdir().unwrap();
    write_mrc(&folder.path().join("a.mrc"), [64, 48], &[]);
    std::fs::write(folder.path().join("a.box"), "50 30 10 10\n60 20 10 10\n90 20 10 10\n").unwrap();
    let gathered = gather(folder.path(), folder.path(), &labels::Options::default()).unwrap();
    let one = &gathered.labelled[0];
    assert_eq!((one.outside, one.coordinates.points.len()), (2, 2));
    assert_eq!(one.coordinates.points[0].size, Some(Size::square(10.0)));
    assert!(leftovers(&gathered)[0].contains("2 labels lie outside"));
}

#[test]
fn bad_data_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let [data, label, empty] = ["data", "label", "empty"].map(|name| folder.path().join(name));
    [&data, &label, &empty].into_iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
    write_mrc(&data.join("a.mrc"), [64, 48], &[]);
    write_thi(&label.join("b.thi"), &[[1, 1]]);
    let message = |label: &Path| format!("{:#}", gather(&data, label, &labels::Options::default()).unwrap_err());
    assert!(message(&label).contains("expected equal names"), "{}", message(&label));
    assert!(message(&empty).contains("no coordinate file"), "{}", message(&empty));
    assert!(message(&folder.path().join("nowhere")).contains("cannot be found"));
    write_thi(&label.join("a.thi"), &[]);
    std::fs::write(label.join("a.box"), "1 1 4 4\n").unwrap();
    assert!(message(&label).contains("both are called a"), "{}", message(&label));
    std::fs::remove_file(label.join("a.box")).unwrap();
    let gathered = gather(&data, &label, &labels::Options::default()).unwrap();
    let error = labels::refuse_without_labels(&gathered).unwrap_err().to_string();
    assert!(error.contains("label files are empty"), "{error}");
    std::fs::write(label.join("a.thi"), "[Particle Coordinates: X Y Value]\n1\tx\n").unwrap();
    assert!(message(&label).contains("line 2"), "{}", message(&label));
}

#[test]
fn the_cache_gives_the_same_image_and_stays_below_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    let micrographs: Vec<PathBuf> = (0..3).map(|i| folder.path().join(format!("m{i}.mrc"))).collect();
    for (i, path) in micrographs.iter().enumerate() {
        write_mrc(path, [80 + i, 60], &[[30, 30]]);
    }
    let cache = |cap, compat: &str| {
        ImageCache::new(Some(kept.clone()), cap, 64, Default::default(), Ground::Kept, compat.parse().unwrap()).unwrap()
    };
    let without = ImageCache::new(None, 0, 64, Default::default(), Ground::Kept, Compat::default()).unwrap();
    let mut warnings = Vec::new();
    let files = || std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let size = || files().iter().map(|file| std::fs::metadata(file).unwrap().len()).sum::<u64>();
    for path in &micrographs {
        let made = cache(1 << 20, "").get(path, &mut warnings).unwrap();
        assert_eq!(made, without.get(path, &mut warnings).unwrap());
        assert_eq!(made, cache(1 << 20, "").get(path, &mut warnings).unwrap());
        assert_eq!(made.size[1], 64);
    }
    assert_eq!(files().len(), 3);
    // What depends on other options or other pixels is another image.
    cache(1 << 20, "hot-pixel").get(&micrographs[0], &mut warnings).unwrap();
    assert_eq!(files().len(), 4);
    write_mrc(&micrographs[0], [90, 60], &[]);
    let changed = cache(1 << 20, "").get(&micrographs[0], &mut warnings).unwrap();
    assert_eq!(changed, without.get(&micrographs[0], &mut warnings).unwrap());
    // A damaged file is made again; foreign files are left alone.
    files().iter().for_each(|file| std::fs::write(file, b"broken").unwrap());
    assert_eq!(changed, cache(1 << 20, "").get(&micrographs[0], &mut warnings).unwrap());
    std::fs::write(kept.join("notes.png"), b"mine").unwrap();
    let cap = size() + 4000;
    for i in 0..6 {
        let path = folder.path().join(format!("n{i}.mrc"));
        write_mrc(&path, [100 + i, 100], &[]);
        cache(cap, "").get(&path, &mut warnings).unwrap();
        assert!(size() <= cap + 4, "{} {cap}", size());
    }
    assert_eq!(std::fs::read(kept.join("notes.png")).unwrap(), b"mine");
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn grey_pictures_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let levels: Vec<u8> = (0..=255).collect();
    let path = folder.path().join("a.png");
    std::fs::write(&path, grey_png(&levels, [8, 32]).unwrap()).unwrap();
    assert_eq!(read_grey(&path).unwrap().levels, levels);
    assert!(grey_png(&levels, [8, 31]).is_err());
}

#[test]
fn check_draws_counts_and_sees_mirrored_labels() {
    let folder = tempfile::tempdir().unwrap();
    let [data, right, mirrored, out] = ["data", "right", "mirrored", "out"].map(|name| folder.path().join(name));
    [&data, &right, &mirrored].into_iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
    let [nx, ny] = [256, 200];
    let discs: Vec<[usize; 2]> = (0..30).map(|i| [20 + 37 * i % 217, 15 + (53 * i + i * i) % 170]).collect();
    write_mrc(&data.join("a.mrc"), [nx, ny], &discs);
    write_thi(&right.join("a.thi"), &discs);
    write_thi(&mirrored.join("a.thi"), &discs.iter().map(|[x, y]| [*x, ny - 1 - y]).collect::<Vec<_>>());
    let check = |label: &Path| {
        let result = epicker(&[
            "check",
            "--data",
            &text(&data),
            "--label",
            &text(label),
            "--output",
            &text(&out),
            "--json",
            "--diameter",
            "24",
            "--frame",
            "256",
        ]);
        assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
        let stdout = String::from_utf8(result.stdout).unwrap();
        serde_json::from_str::<Value>(stdout.lines().last().unwrap()).unwrap()
    };
    let json = check(&right);
    assert_eq!((&json["labels"], &json["micrographs"], &json["mirrored"]), (&30.into(), &1.into(), &false.into()), "{json}");
    assert!(json["contrast"].as_f64().unwrap() < 0.0, "the discs are dark");
    let picture = read_grey(&out.join("a.png")).unwrap();
    assert_eq!(picture.size, [800, 1024], "a small image is enlarged");
    let json = check(&mirrored);
    assert_eq!(json["mirrored"], true, "{json}");
    is_refused(&epicker(&["check", "--data", &text(&data), "--label", "nowhere"]), "nowhere");
    is_refused(&epicker(&["check", "--data", &text(&folder.path().join("right"))]), "no file ending in .mrc");
}

#[test]
fn exemplars_are_kept_listed_and_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let [data, kept] = ["data", "kept"].map(|name| folder.path().join(name));
    std::fs::create_dir(&data).unwrap();
    for i in 0..6 {
        write_mrc(&data.join(format!("m{i}.mrc")), [100, 80], &[[30, 30]]);
        write_thi(&data.join(format!("m{i}.thi")), &[[30, 30], [50, 60]]);
    }
    let run = |args: &[&str]| {
        let result = epicker(&[&["exemplar"], args].concat());
        let stdout = String::from_utf8(result.stdout.clone()).unwrap();
        (result, stdout)
    };
    let create = ["create", &text(&kept), "--data", &text(&data), "--sampling_size", "5", "--diameter", "24"];
    let (result, stdout) = run(&create);
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
    assert!(stdout.contains("3 images with 6 labels"), "{stdout}");
    let exemplar = Exemplar::read(&kept).unwrap();
    assert_eq!((exemplar.entries.len(), exemplar.labels()), (3, 6));
    let entry = &exemplar.entries[0];
    assert_eq!((entry.origin.mode.as_deref(), entry.origin.diameter_angstrom), (Some("particle"), Some(24.0)));
    let [x, y, w, h] = entry.boxes[0];
    // 24 angstrom are 12 of 100 pixels; the picture is 1024 wide and 819 high.
    assert!((w - 122.88).abs() < 0.01 && (h - 122.88).abs() < 0.01, "{w} {h}");
    assert!((x + w / 2.0 - 307.2).abs() < 0.01 && (y + h / 2.0 - 30.0 * 819.0 / 80.0).abs() < 0.01);
    assert_eq!(exemplar.image(entry).unwrap().size, [819, 1024]);

    let (again, stdout) = run(&create);
    assert_eq!(again.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&again.stderr).contains("there already") && stdout.contains("0 images added"), "{stdout}");
    is_refused(&run(&[&create[..], &["--mode", "vesicle"]].concat()).0, "mode particle; expected mode vesicle");
    is_refused(&run(&["create", &text(&kept)]).0, "--data");
    is_refused(&run(&["list", &text(&data)]).0, "exemplar.json");
    is_refused(&run(&["prune", &text(&kept)]).0, "--keep");
    is_refused(&run(&["prune", &text(&kept), "--drop", "x"]).0, "--drop x");
    let (_, listed) = run(&["list", &text(&kept)]);
    assert!(listed.contains("24 angstrom") && listed.lines().count() == 4, "{listed}");
    let (_, pruned) = run(&["prune", &text(&kept), "--keep", "2"]);
    assert!(pruned.contains("2 images removed") && pruned.contains("1 image with 2 labels"), "{pruned}");
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 3, "labels, manifest and one picture");

    let (_, stdout) =
        run(&["create", &text(&folder.path().join("first")), "--data", &text(&data), "--sampling_size", "2", "--compat", "exemplar-first"]);
    assert!(stdout.contains("m0: 2 labels\nm1: 2 labels\n") && stdout.contains("2 images with 4 labels"), "{stdout}");
    let (_, stdout) = run(&["create", &text(&folder.path().join("few")), "--data", &text(&data), "--sampling_size", "500"]);
    assert!(stdout.contains("all 12 labels are fewer than --sampling_size 500"), "{stdout}");
}

/// Five micrographs look alike and one does not: with a model the odd one is always taken, whatever the seed.
#[test]
fn with_a_model_exemplars_are_those_that_look_different_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let places: Vec<[usize; 2]> = (1..4).flat_map(|i| (1..4).map(move |j| [32 * i, 32 * j])).collect();
    for i in 0..6 {
        // The odd one is crowded between its labels too.
        let crowd: Vec<[usize; 2]> = (1..16).flat_map(|i| (1..16).map(move |j| [8 * i, 8 * j])).collect();
        write_mrc(&data.join(format!("m{i}.mrc")), [128, 128], if i == 4 { &crowd } else { &places });
        write_thi(&data.join(format!("m{i}.thi")), &places);
    }
    let architecture = Architecture { channels: [4, 8, 16, 32, 64, 128], head: 64 };
    let model = folder.path().join("model.safetensors");
    std::fs::write(&model, safetensors_file::write(&fresh::state_dict(architecture, 1)).unwrap()).unwrap();
    let chosen = |name: &str, seed: &str, more: &[&str]| {
        let kept = folder.path().join(name);
        let shared = ["--data", &text(&data), "--sampling_size", "18", "--frame", "128", "--seed", seed];
        let result = epicker(&[&["exemplar", "create", &text(&kept)], &shared[..], more].concat());
        assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
        let entries = Exemplar::read(&kept).unwrap().entries;
        assert!(entries.iter().all(|entry| entry.origin.model_sha256.is_some() != more.is_empty()));
        entries.iter().map(|entry| entry.stem().to_owned()).collect::<Vec<_>>()
    };
    let with_model = ["--load_model", &text(&model)];
    for seed in ["1", "2", "3"] {
        let stems = chosen(&format!("model{seed}"), seed, &with_model);
        assert!(stems.len() == 2 && stems.contains(&"m4".to_owned()), "{stems:?}");
        assert_eq!(chosen(&format!("again{seed}"), seed, &with_model), stems);
    }
    assert!((1..4).any(|seed| !chosen(&format!("spread{seed}"), &seed.to_string(), &[]).contains(&"m4".to_owned())));
}

/// As the original writes it: no manifest, ids from 0, further keys, hour in the name.
#[test]
fn folders_of_the_original_are_read_as_they_are_and_broken_ones_refused() {
    let folder = tempfile::tempdir().unwrap();
    let labels = folder.path().join("exemplar.json");
    std::fs::write(folder.path().join("a_b_2022010911.png"), grey_png(&[7; 32 * 16], [16, 32]).unwrap()).unwrap();
    let json = |file: &str, image_id: &str, bbox: &str| {
        format!(
            r#"{{"info": {{}}, "licenses": [], "images": [{{"file_name": "{file}", "height": 16, "width": 32, "id": 0}}],
            "categories": [{{"supercategory": "", "id": 1, "name": "Particle"}}],
            "annotations": [{{"id": 0, "category_id": 1, "bbox": {bbox}, "segmentation": [[]], "area": 361.0, "iscrowd": 0, "image_id": {image_id}}}]}}"#
        )
    };
    std::fs::write(&labels, json("a_b_2022010911.png", "0", "[1.0, 2.0, 19.0, 19.0]")).unwrap();
    let exemplar = Exemplar::read(folder.path()).unwrap();
    assert_eq!(exemplar.entries[0].stem(), "a_b");
    assert_eq!(exemplar.entries[0].corners(), [[1.0, 2.0, 20.0, 21.0]]);
    assert_eq!(exemplar.entries[0].origin, Default::default());
    assert_eq!(exemplar.image(&exemplar.entries[0]).unwrap().levels, [7; 32 * 16]);
    exemplar.check_mode("vesicle").unwrap();
    exemplar.write().unwrap();
    assert_eq!(Exemplar::read(folder.path()).unwrap(), exemplar);

    let refused = |text: &str, word: &str| {
        std::fs::write(&labels, text).unwrap();
        let error = format!("{:#}", Exemplar::read(folder.path()).unwrap_err());
        assert!(error.contains("exemplar.json") && error.contains(word), "{error}");
    };
    refused("{", "no JSON");
    refused("{}", "images");
    refused(&json("../a_b_2022010911.png", "0", "[1, 2, 3, 4]"), "without folders");
    refused(&json("other_2022010911.png", "0", "[1, 2, 3, 4]"), "is missing");
    refused(&json("a_b_2022010911.png", "5", "[1, 2, 3, 4]"), "image_id is 5");
    refused(&json("a_b_2022010911.png", "0", "[1, 2, -3, 4]"), "bbox");
    refused(&json("a_b_2022010911.png", "0", "[1, 2, 3]"), "bbox");
}

#[test]
fn drawn_micrographs_are_dark_where_their_truth_says_and_repeat() {
    let drawing = Drawing { shape: Shape::Vesicle, size: [400, 300], diameters_px: [40.0, 60.0], particles: 12, contrast: 4.0, seed: 3 };
    let drawn = drawing.draw();
    assert_eq!((drawn.truth.kind, drawn.truth.points.len(), drawn.pixels.len()), (Kind::Vesicle, 12, 400 * 300));
    let around = |x: f64, y: f64, radius: f64| {
        let at = |i: usize| (i as f64 * std::f64::consts::TAU / 64.0).sin_cos();
        let pixel = |(sin, cos): (f64, f64)| drawn.pixels[(y + radius * sin) as usize * 400 + (x + radius * cos) as usize];
        (0..64).map(|i| f64::from(pixel(at(i)))).sum::<f64>() / 64.0
    };
    for point in &drawn.truth.points {
        let radius = point.radius().unwrap();
        assert!((20.0..30.0).contains(&radius), "{radius}");
        let (membrane, inside) = (around(point.x, point.y, radius - 5.0), around(point.x, point.y, radius / 3.0));
        assert!(inside - membrane > 2.5, "{membrane} {inside}");
    }
    for shape in [Shape::Disc, Shape::Ring, Shape::Rod, Shape::Cross, Shape::Triple] {
        let [plain, dark] = [0.0, 4.0].map(|contrast| Drawing { shape, contrast, ..drawing }.draw());
        assert_eq!(plain.truth, dark.truth);
        let covered = plain.pixels.iter().zip(&dark.pixels).filter(|(plain, dark)| *plain - *dark > 2.0).count();
        assert!((12 * 150..12 * 3000).contains(&covered), "{shape:?}: {covered}");
    }
    assert_eq!(drawing.draw().pixels, drawn.pixels);
    assert_ne!(Drawing { seed: 4, ..drawing }.draw().truth, drawn.truth);
}

/// Micrographs of 2 A by their headers, a list that says otherwise, and particles as RELION leaves them: with the size of
/// the movie and of the particle's image, and shifts in angstrom.
fn extracted(list: Option<&str>) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    write_mrc(&folder.path().join("a.mrc"), [128, 96], &[]);
    let particles = "data_optics\n\n_rlnOpticsGroup 1\n_rlnMicrographOriginalPixelSize 0.25\n_rlnImagePixelSize 4\n\n\
         data_particles\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnOpticsGroup\n_rlnOriginXAngst\n_rlnOriginYAngst\n\
         a.mrc 64 48 1 10 -5\na.mrc 64 48 1 10 -5\n";
    let labels = folder.path().join("particles.star");
    std::fs::write(&labels, particles).unwrap();
    let mut data = folder.path().join("a.mrc");
    if let Some(pixel_sizes) = list {
        data = folder.path().join("micrographs.star");
        let text =
            format!("data_optics\n\n_rlnOpticsGroup 1\n{pixel_sizes}\n\ndata_micrographs\n\n_rlnMicrographName a.mrc\n_rlnOpticsGroup 1\n");
        std::fs::write(&data, text).unwrap();
    }
    (folder, data, labels)
}

#[test]
fn labels_of_extracted_particles_and_their_boxes_go_by_the_micrographs_pixel_size() {
    let with_angpix = labels::Options { pixel_size_angstrom: Some(2.5), ..labels::Options::default() };
    for (list, options, pixel_size) in [
        (None, labels::Options::default(), 2.0),
        (Some("_rlnMicrographOriginalPixelSize 0.25\n_rlnMicrographPixelSize 0.5"), labels::Options::default(), 0.5),
        (Some("_rlnMicrographOriginalPixelSize 0.25"), labels::Options::default(), 2.0),
        (Some("_rlnMicrographPixelSize 0.5"), with_angpix, 2.5),
    ] {
        let (_folder, data, labels) = extracted(list);
        let gathered = gather(&data, &labels, &options).unwrap();
        let one = &gathered.labelled[0];
        assert_eq!(one.pixel_size_angstrom, Some(pixel_size));
        let place = [64.0 - 10.0 / pixel_size, 48.0 + 5.0 / pixel_size];
        assert_eq!(one.coordinates.points.iter().map(|point| [point.x, point.y]).collect::<Vec<_>>(), [place]);
        let told = gathered.warnings.join("; ");
        assert!(told.contains("refined shifts are applied") && told.contains("1 of the points were equal"), "{told}");
        // 20 A are 20 / pixel size columns of the micrograph, which a frame as wide as the micrograph leaves alone.
        let boxes = boxes_d(one, Kind::Particle, 128, BoxSide::Angstrom(20.0), &Compat::default()).unwrap();
        let [x1, _, x2, _] = boxes[0];
        assert!((f64::from(x2 - x1) - 20.0 / pixel_size).abs() < 1e-4, "{boxes:?}");
    }
}

#[test]
fn pairs_of_start_and_end_train_along_their_path() {
    let folder = tempfile::tempdir().unwrap();
    write_mrc(&folder.path().join("a.mrc"), [512, 512], &[]);
    let pairs =
        "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnParticleSelectionType #3\n50 50 1\n350 350 1\n400 60 2\n480 400 2\n";
    let labels = folder.path().join("a_manualpick.star");
    std::fs::write(&labels, pairs).unwrap();
    let options = labels::Options::default().in_mode(Kind::Fiber);
    let gathered = gather(&folder.path().join("a.mrc"), &labels, &options).unwrap();
    assert!(gathered.warnings.join("; ").contains("pairs, start and end"), "{:?}", gathered.warnings);
    let boxes = boxes_d(&gathered.labelled[0], Kind::Fiber, 512, ORIGINAL_SIDE, &Compat::default()).unwrap();
    // A point for each cell of the heat map, 4 pixels, along 424.3 and 349.3 pixels.
    assert_eq!(boxes.len(), 107 + 1 + 88 + 1);
    for [x, y] in boxes.iter().map(|corners| centre(*corners)) {
        let to_first = (x - y).abs() / 2.0f64.sqrt();
        let to_second = (340.0 * (x - 400.0) - 80.0 * (y - 60.0)).abs() / 340.0f64.hypot(80.0);
        assert!(to_first < 0.01 || to_second < 0.01, "{x} {y} lies on neither fiber");
    }
    // Without fibers in mind they are points, as before.
    let points = gather(&folder.path().join("a.mrc"), &labels, &labels::Options::default()).unwrap();
    assert_eq!((points.labelled[0].coordinates.kind, points.labelled[0].coordinates.points.len()), (Kind::Particle, 4));
}

#[test]
fn the_commands_of_training_read_pairs_and_pixel_sizes_alike() {
    let (folder, data, labels) = extracted(Some("_rlnMicrographPixelSize 0.5"));
    let exemplar = folder.path().join("exemplar");
    let result = epicker(&[
        "exemplar",
        "create",
        &text(&exemplar),
        "--data",
        &text(&data),
        "--label",
        &text(&labels),
        "--diameter",
        "20",
        "--frame",
        "128",
        "--sampling_size",
        "1",
    ]);
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
    let json: Value = serde_json::from_slice(&std::fs::read(exemplar.join("exemplar.json")).unwrap()).unwrap();
    let bbox: Vec<f64> = serde_json::from_value(json["annotations"][0]["bbox"].clone()).unwrap();
    // 20 A are 40 pixels of 0.5 A, around (64 - 20, 48 + 10).
    assert!((bbox[2] - 40.0).abs() < 1e-3 && (bbox[0] - 24.0).abs() < 1e-3 && (bbox[1] - 38.0).abs() < 1e-3, "{bbox:?}");
    let result = epicker(&["check", "--data", &text(&data), "--label", &text(&labels), "--diameter", "20", "--no-pictures", "--json"]);
    assert_eq!(result.status.code(), Some(0), "{}", String::from_utf8_lossy(&result.stderr));
    let told = String::from_utf8_lossy(&result.stderr).into_owned();
    assert!(told.contains("refined shifts are applied"), "{told}");
}
