//! Average precision by overlap of boxes, as the COCO tools compute it: the number that the original reports.
//!
//! Source: Lin et al. 2014, arXiv:1405.0312, and pycocotools' `COCOeval` (matching at one overlap, 101 levels of recall).

/// A box: left, top, width and height.
pub type Xywh = [f64; 4];

/// The boxes of one image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Boxes {
    /// Labelled boxes.
    pub labels: Vec<Xywh>,
    /// Picked boxes with their scores.
    pub picks: Vec<(Xywh, f64)>,
}

/// The overlap from which on a pick has found a label.
pub const OVERLAP: f64 = 0.5;
/// How many picks of an image are judged, the best first; the COCO tools leave out the others.
pub const MOST_PICKS: usize = 1000;
const LEVELS: usize = 101;

/// Average precision over all images; `None` without labels.
pub fn average_precision(images: &[Boxes], overlap: f64, most_picks: usize) -> Option<f64> {
    let total: usize = images.iter().map(|image| image.labels.len()).sum();
    if total == 0 {
        return None;
    }
    let mut judged: Vec<(f64, bool)> = images.iter().flat_map(|image| judge(image, overlap, most_picks)).collect();
    judged.sort_by(|a, b| b.0.total_cmp(&a.0)); // stable, as their merge sort
    let (mut hits, mut misses) = (0.0, 0.0);
    let mut recall = Vec::with_capacity(judged.len());
    let mut precision = Vec::with_capacity(judged.len());
    for (_, hit) in judged {
        if hit {
            hits += 1.0
        } else {
            misses += 1.0
        }
        recall.push(hits / total as f64);
        precision.push(hits / (hits + misses + f64::EPSILON));
    }
    for i in (1..precision.len()).rev() {
        precision[i - 1] = precision[i - 1].max(precision[i]);
    }
    let at_level = |level: usize| {
        let level = level as f64 * 0.01;
        let place = recall.partition_point(|recall| *recall < level);
        precision.get(place).copied().unwrap_or(0.0)
    };
    Some((0..LEVELS).map(at_level).sum::<f64>() / LEVELS as f64)
}

/// The score of each pick and whether it found a label. Best first, each pick takes the label that it overlaps most of
/// those that no pick has taken yet.
fn judge(image: &Boxes, overlap: f64, most_picks: usize) -> Vec<(f64, bool)> {
    let mut picks: Vec<&(Xywh, f64)> = image.picks.iter().collect();
    picks.sort_by(|a, b| b.1.total_cmp(&a.1));
    picks.truncate(most_picks);
    let mut is_found = vec![false; image.labels.len()];
    let judge_one = |(pick, score): &(Xywh, f64)| {
        let (mut best, mut found) = (overlap.min(1.0 - 1e-10), None);
        for (i, label) in image.labels.iter().enumerate().filter(|(i, _)| !is_found[*i]) {
            let this = intersection_over_union(*pick, *label);
            if this >= best {
                (best, found) = (this, Some(i));
            }
        }
        if let Some(i) = found {
            is_found[i] = true;
        }
        (*score, found.is_some())
    };
    picks.into_iter().map(judge_one).collect()
}

/// Common area over the area of both.
pub fn intersection_over_union([ax, ay, aw, ah]: Xywh, [bx, by, bw, bh]: Xywh) -> f64 {
    let width = (ax + aw).min(bx + bw) - ax.max(bx);
    let height = (ay + ah).min(by + bh) - ay.max(by);
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let common = width * height;
    common / (aw * ah + bw * bh - common)
}
