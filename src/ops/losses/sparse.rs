//! The heat map's loss where only some of the objects are labelled.
//!
//! A peak of the scores far from every label may be an object without a label. How likely it is one, the labelled objects
//! say: q is the share of them that score no higher. Around such a peak a target of height q is drawn as around a label,
//! and only what it leaves over counts as background; and all background counts less, by the share of the objects that
//! have a label, so that it weighs against the few labels as it would against all objects:
//!
//! ```text
//! s_1 .. s_N       scores p of the positives of the batch (without any: one of 1/2)
//! q                of a pixel with y = 0 and no larger neighbour: the share of the s_i that are no larger than its p
//! g                the largest q exp(-d^2 / (2 sigma^2)) of the peaks at most `radius` rows and columns away; d the distance,
//!                  sigma = (2 radius + 1) / 6 as in the targets
//! c                N / (N + sum of the q): the share of the objects that have a label
//! m                c (1 - g)^4 where y = 0, (1 - y)^4 (1 - g)^4 where y > 0
//! sparse           -( sum over positives (1-p)^2 ln p + sum over others m p^2 ln(1-p) ) / N
//! ```
//!
//! q, g and c change in steps, so the gradient is that of the two sums with m held.
//! Source: Liu, Lee, Yu, Li 2002, Partially Supervised Classification of Text Documents (labelled examples as spies among
//! the unlabelled); Elkan, Noto 2008, doi:10.1145/1401890.1401920 (c); otherwise as in losses.rs.

use super::{CLAMP, Real};

/// What the loss must know of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SparseShape {
    /// Rows and columns of the heat map of one image.
    pub extents: [usize; 2],
    /// Radius of the Gaussians of the targets, heat-map pixels.
    pub radius: usize,
}

/// What of the unlabelled pixels counts as background: m, 0 at positives.
fn background(scores: &[f64], targets: &[f64], shape: SparseShape) -> Vec<f64> {
    let [h, w] = shape.extents;
    let mut labelled: Vec<f64> = scores.iter().zip(targets).filter(|(_, y)| **y == 1.0).map(|(p, _)| *p).collect();
    if labelled.is_empty() {
        labelled.push(0.5);
    }
    labelled.sort_by(f64::total_cmp);
    let count = labelled.len() as f64;
    let likely = |p: f64| labelled.partition_point(|s| *s <= p) as f64 / count;
    let sigma = (2 * shape.radius + 1) as f64 / 6.0;
    let mut guessed = vec![0.0_f64; scores.len()];
    let mut unlabelled_objects = 0.0;
    for image in 0..scores.len() / (h * w).max(1) {
        let at = |row: usize, column: usize| (image * h + row) * w + column;
        let around = |row: usize, column: usize, by: usize| {
            let rows = row.saturating_sub(by)..(row + by + 1).min(h);
            rows.flat_map(move |y| (column.saturating_sub(by)..(column + by + 1).min(w)).map(move |x| (y, x)))
        };
        for (row, column) in (0..h).flat_map(|row| (0..w).map(move |column| (row, column))) {
            let here = at(row, column);
            let q = likely(scores[here]);
            if targets[here] > 0.0 || q == 0.0 || around(row, column, 1).any(|(y, x)| scores[at(y, x)] > scores[here]) {
                continue;
            }
            unlabelled_objects += q;
            for (y, x) in around(row, column, shape.radius) {
                let (dx, dy) = (x as f64 - column as f64, y as f64 - row as f64);
                let cell = &mut guessed[at(y, x)];
                *cell = cell.max(q * (-(dx * dx + dy * dy) / (2.0 * sigma * sigma)).exp());
            }
        }
    }
    let share = count / (count + unlabelled_objects);
    let weight = |(y, g): (&f64, &f64)| (1.0 - y).powi(4) * (1.0 - g).powi(4) * if *y == 0.0 { share } else { 1.0 };
    targets.iter().zip(&guessed).map(weight).collect()
}

/// The loss; adds `weight` times its gradient to `dlogits`.
///
/// Shapes: `logits`, `targets` and `dlogits` alike: (images, rows, columns).
pub(super) fn sparse<T: Real, Y: Real>(shape: SparseShape, logits: &[T], targets: &[Y], weight: f64, dlogits: &mut [T]) -> f64 {
    let cells = shape.extents[0] * shape.extents[1];
    assert!(cells > 0 && logits.len().is_multiple_of(cells), "{} values in maps of {:?}", logits.len(), shape.extents);
    let raw: Vec<f64> = logits.iter().map(|z| 1.0 / (1.0 + (-z.to_f64()).exp())).collect();
    let scores: Vec<f64> = raw.iter().map(|p| p.clamp(CLAMP, 1.0 - CLAMP)).collect();
    let targets: Vec<f64> = targets.iter().map(|y| y.to_f64()).collect();
    let background = background(&scores, &targets, shape);
    let positives = targets.iter().filter(|y| **y == 1.0).count();
    let scale = 1.0 / positives.max(1) as f64;
    let mut sum = 0.0;
    for (i, dz) in dlogits.iter_mut().enumerate() {
        let p = scores[i];
        let (value, slope) = if targets[i] == 1.0 { super::found(p) } else { super::left_out(p) };
        let m = if targets[i] == 1.0 { 1.0 } else { background[i] };
        sum -= m * value;
        if (CLAMP..=1.0 - CLAMP).contains(&raw[i]) {
            *dz += T::from_f64(-m * slope * scale * weight);
        }
    }
    sum * scale
}
