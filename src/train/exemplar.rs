//! Exemplars: labelled images of earlier data sets, kept so that a network that learns new particles is reminded of the
//! old ones.
//!
//! A folder holds `exemplar.json` (COCO: images, annotations, categories), the images as `STEM_YYYYMMDDHH.png` (frame D after
//! equalising), and `manifest.json`, which says where each image came from. Folders of the original have no manifest, and are
//! read without one. The original's program reads our folders. Source: docs/formats.md, "Exemplars".

use super::cache::{ImageD, grey_png, read_grey};
use crate::formats::regular;
use crate::io::write::write_whole;
use crate::random::Random;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Where an exemplar came from. For exemplars that the original made nothing of it is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origin {
    /// The micrograph, as it was named.
    pub micrograph: Option<String>,
    /// particle, vesicle or fiber.
    pub mode: Option<String>,
    /// Diameter of the particles, angstrom.
    pub diameter_angstrom: Option<f64>,
    /// SHA-256 of the model that was trained with it.
    pub model_sha256: Option<String>,
}

/// One image and its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Number within the folder.
    pub id: u64,
    /// Name of the picture in the folder.
    pub file: String,
    /// Rows and columns of the picture, frame D.
    pub size: [usize; 2],
    /// Boxes of the labels: left, top, width and height, D pixels.
    pub boxes: Vec<[f64; 4]>,
    /// Where it came from.
    pub origin: Origin,
}

impl Entry {
    /// The micrograph's stem: the picture's name without the time and the extension.
    pub fn stem(&self) -> &str {
        stem_of(&self.file)
    }

    /// Corners of the labels, D pixels.
    pub fn corners(&self) -> Vec<[f32; 4]> {
        self.boxes.iter().map(|[x, y, w, h]| [*x, *y, x + w, y + h].map(|value| value as f32)).collect()
    }
}

/// The stem of a picture's name: `STEM` of `STEM_YYYYMMDDHH.png`, and of any other name all but the extension.
fn stem_of(file: &str) -> &str {
    let stem = file.strip_suffix(".png").unwrap_or(file);
    match stem.rsplit_once('_') {
        Some((stem, time)) if time.len() == 10 && time.bytes().all(|byte| byte.is_ascii_digit()) => stem,
        _ => stem,
    }
}

/// A folder of exemplars.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// The folder.
    pub folder: PathBuf,
    /// The images, in the order of the file.
    pub entries: Vec<Entry>,
    /// The stems of the images. With this set, adding an image does not take a look through all the others.
    stems: HashSet<String>,
    /// The number of the next image. No image has this number or a higher one.
    next_id: u64,
}

const LABELS: &str = "exemplar.json";
const MANIFEST: &str = "manifest.json";

impl Exemplar {
    /// A folder in which there is nothing yet.
    pub fn empty(folder: &Path) -> Self {
        Exemplar::of(folder, Vec::new())
    }

    fn of(folder: &Path, entries: Vec<Entry>) -> Self {
        let stems = entries.iter().map(|entry| entry.stem().to_owned()).collect();
        let next_id = entries.iter().map(|entry| entry.id.saturating_add(1)).max().unwrap_or(0);
        Exemplar { folder: folder.to_owned(), entries, stems, next_id }
    }

    fn push(&mut self, entry: Entry) {
        self.stems.insert(entry.stem().to_owned());
        self.entries.push(Entry { id: self.next_id, ..entry });
        self.next_id = self.next_id.saturating_add(1);
    }

    /// True if the folder holds exemplars.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(LABELS).is_file()
    }

    /// Reads a folder of ours or of the original.
    ///
    /// Errors: no `exemplar.json`, one that is broken, or a picture that is missing; the message names it.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(LABELS);
        let bytes = regular::read(&path)
            .with_context(|| format!("{}: cannot be read; expected the labels of an exemplar folder; check the folder", path.display()))?;
        let name = || path.display().to_string();
        let json: Value = serde_json::from_slice(&bytes)
            .map_err(|error| anyhow::anyhow!("line {}: no JSON ({error}); expected COCO annotations", error.line()))
            .with_context(name)?;
        let mut entries = read_images(&json).with_context(name)?;
        read_annotations(&json, &mut entries).with_context(name)?;
        for entry in &entries {
            let picture = folder.join(&entry.file);
            ensure!(
                picture.is_file(),
                "{}: image {} is missing; expected it beside the labels; put it back or prune it",
                name(),
                entry.file
            );
        }
        let mut exemplar = Exemplar::of(folder, entries);
        exemplar.read_manifest()?;
        Ok(exemplar)
    }

    fn read_manifest(&mut self) -> Result<()> {
        let path = self.folder.join(MANIFEST);
        let Ok(bytes) = std::fs::read(&path) else { return Ok(()) };
        let json: Value =
            serde_json::from_slice(&bytes).with_context(|| format!("{}: no JSON; expected a manifest; remove it", path.display()))?;
        for entry in &mut self.entries {
            let facts = &json["images"][&entry.file];
            let text = |key: &str| facts[key].as_str().map(str::to_owned);
            entry.origin = Origin {
                micrograph: text("micrograph"),
                mode: text("mode"),
                diameter_angstrom: facts["diameter_angstrom"].as_f64(),
                model_sha256: text("model_sha256"),
            };
        }
        Ok(())
    }

    /// The picture of an entry.
    ///
    /// Errors: it cannot be read, or has another size than the labels say.
    pub fn image(&self, entry: &Entry) -> Result<ImageD> {
        let path = self.folder.join(&entry.file);
        let image = read_grey(&path)?;
        ensure!(
            image.size == entry.size,
            "{}: {} x {} pixels; expected {} x {} as the labels say; the picture was exchanged",
            path.display(),
            image.size[1],
            image.size[0],
            entry.size[1],
            entry.size[0]
        );
        Ok(image)
    }

    /// Adds an image and writes its picture; the labels are written by [`Exemplar::write`]. Returns false if there is an image
    /// of this stem already, which then stays as it is.
    ///
    /// Errors: the picture cannot be written.
    pub fn add(&mut self, stem: &str, image: &ImageD, boxes: Vec<[f64; 4]>, origin: Origin, hour: &str) -> Result<bool> {
        // Stems may have folders in front, which tell them apart. The picture lies in no such folder, so its name keeps them.
        let stem = stem.replace('/', "_");
        if self.stems.contains(stem.as_str()) {
            return Ok(false);
        }
        std::fs::create_dir_all(&self.folder).with_context(|| format!("{}: cannot be made", self.folder.display()))?;
        let file = format!("{stem}_{hour}.png");
        write_whole(&self.folder.join(&file), &grey_png(&image.levels, image.size)?)?;
        self.push(Entry { id: 0, file, size: image.size, boxes, origin });
        Ok(true)
    }

    /// Copies what another folder holds into this one, as [`Exemplar::add`] does; returns how many were new.
    ///
    /// Errors: a picture cannot be read or written.
    pub fn add_all(&mut self, other: &Exemplar) -> Result<usize> {
        let mut added = 0;
        for entry in &other.entries {
            if self.stems.contains(entry.stem()) {
                continue;
            }
            std::fs::create_dir_all(&self.folder).with_context(|| format!("{}: cannot be made", self.folder.display()))?;
            let bytes = std::fs::read(other.folder.join(&entry.file)).with_context(|| entry.file.clone())?;
            write_whole(&self.folder.join(&entry.file), &bytes)?;
            self.push(entry.clone());
            added += 1;
        }
        Ok(added)
    }

    /// Removes the unwanted images with their pictures; returns how many were removed. The labels are written first, so that a
    /// crash leaves a picture too many and never one too few.
    ///
    /// Errors: a file cannot be written or removed.
    pub fn remove(&mut self, is_unwanted: impl Fn(&Entry) -> bool) -> Result<usize> {
        let (gone, kept): (Vec<Entry>, Vec<Entry>) = self.entries.drain(..).partition(is_unwanted);
        *self = Exemplar::of(&self.folder, kept);
        self.write()?;
        for entry in &gone {
            let path = self.folder.join(&entry.file);
            std::fs::remove_file(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
        Ok(gone.len())
    }

    /// Writes labels and manifest, each whole or not at all.
    ///
    /// Errors: a file cannot be written.
    pub fn write(&self) -> Result<()> {
        let mut annotations = Vec::new();
        let mut origins = Map::new();
        for entry in &self.entries {
            for [x, y, w, h] in &entry.boxes {
                annotations.push(json!({
                    "id": annotations.len() + 1, "image_id": entry.id, "category_id": 1, "iscrowd": 0,
                    "bbox": [x, y, w, h], "area": w * h, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }));
            }
            let Origin { micrograph, mode, diameter_angstrom, model_sha256 } = &entry.origin;
            let facts = json!({
                "micrograph": micrograph, "mode": mode, "diameter_angstrom": diameter_angstrom, "model_sha256": model_sha256,
            });
            origins.insert(entry.file.clone(), facts);
        }
        let image = |entry: &Entry| json!({ "id": entry.id, "file_name": entry.file, "height": entry.size[0], "width": entry.size[1] });
        let labels = json!({
            "images": self.entries.iter().map(image).collect::<Vec<_>>(),
            "annotations": annotations,
            "categories": [{ "id": 1, "name": "Particle", "supercategory": "" }],
        });
        let manifest = json!({ "version": 1, "images": origins });
        write_whole(&self.folder.join(MANIFEST), format!("{manifest:#}\n").as_bytes())?;
        write_whole(&self.folder.join(LABELS), labels.to_string().as_bytes())
    }

    /// Labels of all images.
    pub fn labels(&self) -> usize {
        self.entries.iter().map(|entry| entry.boxes.len()).sum()
    }

    /// Refuses exemplars of another mode, because a vesicle to one network is background to another.
    ///
    /// Errors: an image was kept by a training in another mode.
    pub fn check_mode(&self, mode: &str) -> Result<()> {
        let other = self.entries.iter().find_map(|entry| entry.origin.mode.as_deref().filter(|of| *of != mode).map(|of| (entry, of)));
        match other {
            Some((entry, of)) => bail!(
                "{}: {} is of mode {of}; expected mode {mode}; give another exemplar folder or train in that mode",
                self.folder.display(),
                entry.file
            ),
            None => Ok(()),
        }
    }
}

fn read_images(json: &Value) -> Result<Vec<Entry>> {
    let images = json["images"].as_array().context("no list \"images\"; expected COCO annotations; check the file")?;
    let mut entries: Vec<Entry> = Vec::with_capacity(images.len());
    let (mut ids, mut files) = (HashSet::new(), HashSet::new());
    for (i, image) in images.iter().enumerate() {
        let what = || format!("images, entry {}", i + 1);
        let side = |key: &str| {
            let side = image[key].as_u64().filter(|side| (1..=131_072).contains(side));
            side.with_context(|| format!("{}: {key} is {}; expected 1 to 131072", what(), image[key]))
        };
        let file = image["file_name"].as_str().with_context(|| format!("{}: no file_name", what()))?.to_owned();
        ensure!(
            Path::new(&file).file_name().is_some_and(|name| name == file.as_str()) && !file.contains('\\'),
            "{}: file_name {file:?}; expected a name without folders; correct it",
            what()
        );
        let id = image["id"].as_u64().with_context(|| format!("{}: id is {}; expected a whole number", what(), image["id"]))?;
        ensure!(ids.insert(id) && files.insert(file.clone()), "{}: {file} (id {id}) is there twice", what());
        let size = [side("height")? as usize, side("width")? as usize];
        entries.push(Entry { id, file, size, boxes: Vec::new(), origin: Origin::default() });
    }
    Ok(entries)
}

fn read_annotations(json: &Value, entries: &mut [Entry]) -> Result<()> {
    let annotations = json["annotations"].as_array().context("no list \"annotations\"; expected COCO annotations; check the file")?;
    let places: HashMap<u64, usize> = entries.iter().enumerate().map(|(i, entry)| (entry.id, i)).collect();
    for (i, annotation) in annotations.iter().enumerate() {
        let what = || format!("annotations, entry {}", i + 1);
        let place = annotation["image_id"].as_u64().and_then(|id| places.get(&id));
        let place = *place.with_context(|| format!("{}: image_id is {}; expected the id of an image", what(), annotation["image_id"]))?;
        let bbox: Option<Vec<f64>> = annotation["bbox"].as_array().and_then(|values| values.iter().map(Value::as_f64).collect());
        let bbox: Option<[f64; 4]> = bbox.and_then(|values| values.try_into().ok());
        let bbox = bbox.filter(|[x, y, w, h]| [x, y, w, h].iter().all(|value| value.abs() < 1e6) && *w > 0.0 && *h > 0.0);
        entries[place]
            .boxes
            .push(bbox.with_context(|| format!("{}: bbox is {}; expected x, y, width, height", what(), annotation["bbox"]))?);
    }
    Ok(())
}

/// Which images become exemplars: whole images, until they hold `wanted` labels.
///
/// `counts` are the numbers of labels of the images. With `features` (a vector of the network's features for each image) each
/// image that is taken lies far from all images taken before, so that a few of them cover all. Without features the images are
/// spread evenly over the list. The same seed gives the same images. Images without labels are not taken.
/// Source: Gonzalez 1985, doi:10.1016/0304-3975(85)90224-5 (farthest first); van der Corput 1935 (even spread).
pub fn select_by_coverage(counts: &[usize], wanted: usize, seed: u64, features: Option<&[Vec<f32>]>) -> Vec<usize> {
    let mut left: Vec<usize> = (0..counts.len()).filter(|&i| counts[i] > 0).collect();
    if left.is_empty() {
        return left;
    }
    let order = match features.filter(|features| features.len() == counts.len()) {
        Some(features) => farthest_first(&left, features, |order| order.iter().map(|&i| counts[i]).sum::<usize>() >= wanted),
        None => {
            let start = Random::new(seed, &[0x6578_656d]).below(left.len());
            left.rotate_left(start);
            evenly_spread(left.len()).into_iter().map(|i| left[i]).collect()
        }
    };
    take_until(&order, counts, |labels| labels >= wanted)
}

/// The original's rule: the first images of the list, until they hold more than `wanted` labels.
pub fn select_first(counts: &[usize], wanted: usize) -> Vec<usize> {
    let all: Vec<usize> = (0..counts.len()).collect();
    take_until(&all, counts, |labels| labels > wanted)
}

fn take_until(order: &[usize], counts: &[usize], is_enough: impl Fn(usize) -> bool) -> Vec<usize> {
    let (mut taken, mut labels) = (Vec::new(), 0);
    for &i in order {
        taken.push(i);
        labels += counts[i];
        if is_enough(labels) {
            break;
        }
    }
    taken.sort_unstable();
    taken
}

/// The numbers 0..len, sorted by their reversed bits. The first few of them, however many, are spread over the whole range.
fn evenly_spread(len: usize) -> Vec<usize> {
    let bits = usize::BITS - len.saturating_sub(1).leading_zeros();
    let mut places: Vec<usize> =
        (0..1usize << bits).map(|i| if bits == 0 { 0 } else { i.reverse_bits() >> (usize::BITS - bits) }).collect();
    places.retain(|place| *place < len);
    places
}

/// The images, beginning with the most ordinary one and going on with the one that is farthest from all before it, until
/// `is_enough`.
fn farthest_first(images: &[usize], features: &[Vec<f32>], is_enough: impl Fn(&[usize]) -> bool) -> Vec<usize> {
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let len = features[images[0]].len();
    let mean: Vec<f32> = (0..len)
        .map(|k| (images.iter().map(|&i| features[i].get(k).copied().map_or(0.0, f64::from)).sum::<f64>() / images.len() as f64) as f32)
        .collect();
    // The most ordinary image is the one nearest to the mean. Of several that are equally near, the first is taken.
    let nearest = |least: usize, i: usize| if distance(&features[i], &mean) < distance(&features[least], &mean) { i } else { least };
    let mut order = vec![images.iter().copied().fold(images[0], nearest)];
    let mut nearest_taken: Vec<f64> = images.iter().map(|&i| distance(&features[i], &features[order[0]])).collect();
    let mut is_taken: Vec<bool> = images.iter().map(|&i| i == order[0]).collect();
    while order.len() < images.len() && !is_enough(&order) {
        let mut farthest: Option<usize> = None;
        for k in (0..images.len()).filter(|&k| !is_taken[k]) {
            if farthest.is_none_or(|best| nearest_taken[k] > nearest_taken[best]) {
                farthest = Some(k);
            }
        }
        let Some(farthest) = farthest else { break };
        let next = images[farthest];
        is_taken[farthest] = true;
        order.push(next);
        for (k, &i) in images.iter().enumerate() {
            nearest_taken[k] = nearest_taken[k].min(distance(&features[i], &features[next]));
        }
    }
    order
}

/// The hour as the original writes it: YYYYMMDDHH, universal time.
pub fn hour_stamp(time: std::time::SystemTime) -> String {
    let seconds = time.duration_since(std::time::SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, hour) = ((seconds / 86_400) as i64, seconds / 3600 % 24);
    // Source: Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}{hour:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn hours_are_written_as_the_original_does() {
        let at = |seconds| hour_stamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!([at(0), at(951_782_400), at(1_641_726_000)], ["1970010100", "2000022900", "2022010911"]);
    }

    #[test]
    fn stems_lose_the_hour() {
        assert_eq!([stem_of("a_b_2022010911.png"), stem_of("a_20220109.png"), stem_of("a.png")], ["a_b", "a_20220109", "a"]);
    }

    #[test]
    fn selections_cover_and_stop_when_they_are_enough() {
        assert_eq!(select_first(&[5, 0, 5, 5], 5), [0, 1, 2]);
        assert_eq!(select_first(&[5, 5], 100), [0, 1]);
        assert_eq!(evenly_spread(6), [0, 4, 2, 1, 5, 3]);
        assert_eq!((evenly_spread(1), evenly_spread(2)), (vec![0], vec![0, 1]));
        let counts = [10; 16];
        let taken = select_by_coverage(&counts, 40, 317, None);
        assert_eq!(taken.len(), 4);
        let gaps: Vec<usize> = taken.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap == 4), "{taken:?}");
        assert_eq!(taken, select_by_coverage(&counts, 40, 317, None));
        assert!((0..9).any(|seed| select_by_coverage(&counts, 40, seed, None) != taken));
        assert_eq!(select_by_coverage(&[0, 3, 0], 200, 1, None), [1]);
        assert!(select_by_coverage(&[0, 0], 200, 1, None).is_empty());
        // Three groups of images that look alike: one of each is enough.
        let features: Vec<Vec<f32>> = [0.0, 0.1, 0.2, 9.0, 9.1, -9.0].map(|x| vec![x, 1.0]).to_vec();
        let taken = select_by_coverage(&[1; 6], 3, 1, Some(&features));
        assert_eq!((taken[0] < 3, taken[1] == 3 || taken[1] == 4, taken[2]), (true, true, 5));
    }
}
