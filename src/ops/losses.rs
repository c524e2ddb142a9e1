//! What is minimised: values and gradients of all losses. They are small beside the network, so there is one body for
//! every type, which computes in f64 and in one order.
//!
//! ```text
//! p = clamp(sigmoid(z), 1e-4, 1 - 1e-4), y the target, positives y = 1, N their number, w = (1 - y)^4
//! focal            -( sum over positives (1-p)^2 ln p + sum over others w p^2 ln(1-p) ) / N
//! sparse-original  -( sum over positives (1-p)^2 ln p + 0.01 sum over others w (p > 0.7 ? ln p : ln(1-p)) ) / N
//!                  without positives: of the second sums, undivided, those with ln(1-p)
//! sparse           as focal, with another w: losses/sparse.rs
//! L1               sum over objects (|a0 - t0| + |a1 - t1|) / (2 objects + 1e-4), a at the object's pixel
//! distillation     weight * sum (a - b)^2          pull towards earlier parameters: the same
//! ```
//! Source: Lin et al. 2017, arXiv:1708.02002, as in Law, Deng 2018, arXiv:1808.01244, section 3.2; Li, Hoiem 2016,
//! arXiv:1606.09282; docs/network.md, sections 3.1 and 3.2.

use super::{Agreement, Real, in_value_type, noise, proof, real::convert};
use crate::device::{Device, Tensor, TensorMut};
use anyhow::Result;

mod sparse;
mod values;

pub use sparse::SparseShape;
pub use values::{Labels, Loss, LossValues, Ranges};

/// How the heat map is compared with its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum HeatMapLoss {
    /// Every object is labelled.
    #[default]
    Focal,
    /// Only some objects are labelled. A pixel that looks like an object and has no label counts as an object.
    SparseOriginal,
    /// Only some objects are labelled. A pixel that scores as the labelled objects do does not count as background.
    Sparse(SparseShape),
}

impl HeatMapLoss {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            HeatMapLoss::Focal => "focal",
            HeatMapLoss::SparseOriginal => "sparse-original",
            HeatMapLoss::Sparse(_) => "sparse",
        }
    }

    /// The same for heat maps of these rows and columns, with Gaussians of this radius.
    pub fn for_maps(self, extents: [usize; 2], radius: usize) -> Self {
        match self {
            HeatMapLoss::Sparse(_) => HeatMapLoss::Sparse(SparseShape { extents, radius }),
            other => other,
        }
    }
}

impl std::str::FromStr for HeatMapLoss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [HeatMapLoss::Focal, HeatMapLoss::SparseOriginal, HeatMapLoss::Sparse(SparseShape::default())];
        let found = known.into_iter().find(|loss| loss.name() == text);
        found.ok_or_else(|| format!("'{text}'; expected {}", known.map(HeatMapLoss::name).join(", ")))
    }
}

/// The sigmoid is kept this far from 0 and 1.
const CLAMP: f64 = 1e-4;
/// Above this score an unlabelled pixel counts as an object.
const SPARSE_THRESHOLD: f64 = 0.7;
/// Weight of unlabelled pixels.
const SPARSE_WEIGHT: f64 = 0.01;

/// The focal term of a positive with the score p, and its slope by the logit.
fn found(p: f64) -> (f64, f64) {
    ((1.0 - p).powi(2) * p.ln(), (1.0 - p).powi(3) - 2.0 * p * (1.0 - p).powi(2) * p.ln())
}

/// The focal term of background with the score p, and its slope by the logit.
fn left_out(p: f64) -> (f64, f64) {
    (p * p * (1.0 - p).ln(), 2.0 * p * p * (1.0 - p) * (1.0 - p).ln() - p.powi(3))
}

/// The heat map's loss; adds `weight` times its gradient to `dlogits`.
///
/// Shapes: `logits`, `targets` and `dlogits` alike, all images of the batch.
pub fn heat_map<T: Real, Y: Real>(kind: HeatMapLoss, logits: &[T], targets: &[Y], weight: f64, dlogits: &mut [T]) -> f64 {
    assert!(logits.len() == targets.len() && dlogits.len() == logits.len(), "{} {} {}", logits.len(), targets.len(), dlogits.len());
    if let HeatMapLoss::Sparse(shape) = kind {
        return sparse::sparse(shape, logits, targets, weight, dlogits);
    }
    let positives = targets.iter().filter(|y| y.to_f64() == 1.0).count();
    let scale = 1.0 / positives.max(1) as f64;
    let mut sum = 0.0;
    for ((z, &y), dz) in logits.iter().zip(targets).zip(dlogits) {
        let raw = 1.0 / (1.0 + (-z.to_f64()).exp());
        let p = raw.clamp(CLAMP, 1.0 - CLAMP);
        let y = y.to_f64();
        let far = (1.0 - y).powi(4);
        let (value, slope) = if y == 1.0 {
            found(p)
        } else {
            match kind {
                HeatMapLoss::Focal | HeatMapLoss::Sparse(_) => {
                    let (value, slope) = left_out(p);
                    (far * value, far * slope)
                }
                HeatMapLoss::SparseOriginal if p > SPARSE_THRESHOLD => {
                    let counts = if positives > 0 { SPARSE_WEIGHT * far } else { 0.0 };
                    (counts * p.ln(), counts * (1.0 - p))
                }
                HeatMapLoss::SparseOriginal => (SPARSE_WEIGHT * far * (1.0 - p).ln(), -SPARSE_WEIGHT * far * p),
            }
        };
        sum -= value;
        if (CLAMP..=1.0 - CLAMP).contains(&raw) {
            *dz += T::from_f64(-slope * scale * weight);
        }
    }
    sum * scale
}

/// The L1 loss of two channels at the objects' pixels; adds `weight` times its gradient to `dmap`.
///
/// Shapes: `map` and `dmap` (pixels of all images, 2); `objects` are pairs of a pixel, counted through all images, and
/// the two values wanted there.
pub fn l1<T: Real>(map: &[T], objects: &[(usize, [f32; 2])], weight: f64, dmap: &mut [T]) -> f64 {
    let scale = 1.0 / (2.0 * objects.len() as f64 + 1e-4);
    let mut sum = 0.0;
    for &(pixel, wanted) in objects {
        for (axis, wanted) in wanted.into_iter().enumerate() {
            let difference = map[2 * pixel + axis].to_f64() - f64::from(wanted);
            sum += difference.abs();
            if difference != 0.0 {
                dmap[2 * pixel + axis] += T::from_f64(difference.signum() * scale * weight);
            }
        }
    }
    sum * scale
}

/// `weight` times the squared distance of `a` from `b`; adds its gradient to `da`.
pub fn squared_distance<T: Real>(a: &[T], b: &[T], weight: f64, da: &mut [T]) -> f64 {
    assert!(a.len() == b.len() && da.len() == a.len(), "{} {} {}", a.len(), b.len(), da.len());
    let mut sum = 0.0;
    for ((a, b), da) in a.iter().zip(b).zip(da) {
        let difference = a.to_f64() - b.to_f64();
        sum += difference * difference;
        *da += T::from_f64(2.0 * weight * difference);
    }
    weight * sum
}

/// Positives, ties and near misses for `len` pixels.
fn case_targets(len: usize) -> Vec<f32> {
    noise(len, 5).iter().enumerate().map(|(i, y)| if i % 7 == 3 { 1.0 } else { (y + 0.5) * 0.99 }).collect()
}

/// Maps of two images, or of one.
fn case_sparse(len: usize) -> HeatMapLoss {
    let extents = if len == 1 { [1, 1] } else { [5, len / 10] };
    HeatMapLoss::Sparse(SparseShape { extents, radius: 2 })
}

fn case_objects(pixels: usize) -> Vec<(usize, [f32; 2])> {
    (0..pixels).step_by(3).flat_map(|pixel| [(pixel, [0.25, -0.5]), (pixel / 2, [0.3, 0.1])]).collect()
}

/// The losses on a device against the same in f64: values and gradients.
///
/// Errors: a launch fails on the device.
pub fn compare_backward(device: &Device) -> Result<Vec<Agreement>> {
    in_value_type!(device, compare_backward_as)
}

fn compare_backward_as<T: Real>(device: &Device) -> Result<Vec<Agreement>> {
    let mut agreements = Vec::new();
    type Run<'a, T> = &'a dyn Fn(&mut LossValues, &mut TensorMut<T>) -> Result<()>;
    let mut check = |case: String, which: Loss, loss: f64, exact: Vec<f64>, run: Run<T>| -> Result<()> {
        let plain: Vec<f32> = exact.iter().map(|&x| x as f32).collect();
        let (mut value, mut values) = (f64::NAN, LossValues::new(device, 1)?);
        let shape = proof::list(exact.len());
        agreements.push(proof::agree(device, format!("gradient of {case}"), shape, &plain, &exact, |found| {
            values.clear()?;
            run(&mut values, found)?;
            value = values.read()?(which);
            Ok(())
        })?);
        // A loss is a sum in f64 of values in T.
        let (error, bound) = ((value - loss).abs(), if size_of::<T>() == 8 { 1e-9 } else { 1e-5 } * loss.abs());
        let error = if error.is_nan() { f64::INFINITY } else { error };
        agreements.push(Agreement { case, error, bound, bits: value.to_bits() });
        Ok(())
    };
    for len in [1, 40, 1000] {
        let logits: Vec<f32> = noise(len, 1).iter().map(|z| 12.0 * z).collect();
        let (maps, earlier) = (noise(2 * len, 2), noise(2 * len, 3));
        let wide = |values: &[f32]| convert::<f64>(values);
        let on = |values: &[f32]| Tensor::flat_on(device, convert::<T>(values));
        for kind in [HeatMapLoss::Focal, HeatMapLoss::SparseOriginal, case_sparse(len)] {
            let mut exact = vec![0.0; len];
            let loss = heat_map(kind, &wide(&logits), &case_targets(len), 2.0, &mut exact);
            let (logits, targets) = (on(&logits)?, on(&case_targets(len))?);
            check(format!("{} of {len}", kind.name()), Loss::HeatMap, loss, exact, &|values, found| {
                values.heat_map(kind, logits.view(), targets.view(), 2.0, found)
            })?;
        }
        let (a, b) = (on(&maps)?, on(&earlier)?);
        let mut exact = vec![0.0; 2 * len];
        let loss = l1(&wide(&maps), &case_objects(len), 0.5, &mut exact);
        check(format!("l1 of {len}"), Loss::Size, loss, exact, &|values, found| {
            values.l1(Loss::Size, a.view(), &case_objects(len), 0.5, found)
        })?;
        let mut exact = vec![0.0; 2 * len];
        let loss = squared_distance(&wide(&maps), &wide(&earlier), 0.1, &mut exact);
        check(format!("squared distance of {len}"), Loss::Distance, loss, exact, &|values, found| {
            values.squared_distance([0, 0], a.view(), b.view(), 0.1, found)
        })?;
    }
    for len in [1, 700, 20_000] {
        let (now, earlier) = (noise(len, 2), noise(len, 3));
        // There are ranges with and without a gap between them, an empty one, and one that is longer than a block takes.
        let ranges = vec![0..len / 20, len / 20..len / 15, len / 10..len / 10, len / 5..len];
        let (mut loss, mut exact) = (0.0, vec![0.0; len]);
        for range in &ranges {
            let of = |values: &[f32]| convert::<f64>(&values[range.clone()]);
            loss += squared_distance(&of(&now), &of(&earlier), 0.1, &mut exact[range.clone()]);
        }
        let on = |values: &[f32]| Tensor::flat_on(device, convert::<T>(values));
        let (a, b, ranges) = (on(&now)?, on(&earlier)?, Ranges::new(device, ranges)?);
        check(format!("distance in ranges of {len}"), Loss::Distance, loss, exact, &|values, found| {
            values.parameter_distance(&ranges, a.view(), b.view(), 0.1, found)
        })?;
    }
    Ok(agreements)
}

/// The gradients in f64 against finite differences.
pub fn differences() -> Vec<Agreement> {
    let len = 40;
    let logits: Vec<f64> = noise(len, 1).iter().map(|z| 12.0 * f64::from(*z)).collect();
    let (maps, earlier) = (convert::<f64>(&noise(2 * len, 2)), convert::<f64>(&noise(2 * len, 3)));
    let mut agreements = Vec::new();
    let alone: Vec<f32> = (0..len).map(|i| [0.0, 0.3, 1.0][usize::from(i == 1) + 2 * usize::from(i == 2)]).collect();
    for (kind, targets) in [
        (case_sparse(len), case_targets(len)),
        (case_sparse(len), alone),
        (case_sparse(len), vec![0.0; len]),
        (HeatMapLoss::Focal, case_targets(len)),
        (HeatMapLoss::Focal, vec![0.25; len]),
        (HeatMapLoss::SparseOriginal, case_targets(len)),
        (HeatMapLoss::SparseOriginal, vec![0.25; len]),
    ] {
        let mut dlogits = vec![0.0; len];
        heat_map(kind, &logits, &targets, 1.0, &mut dlogits);
        agreements.push(proof::differences(kind.name().into(), [(logits.clone(), dlogits)], &[1.0], |[logits]| {
            vec![heat_map(kind, logits, &targets, 1.0, &mut vec![0.0; len])]
        }));
    }
    let objects = case_objects(len);
    let mut dmap = vec![0.0; 2 * len];
    l1(&maps, &objects, 1.0, &mut dmap);
    agreements.push(proof::differences("l1".into(), [(maps.clone(), dmap)], &[1.0], |[map]| {
        vec![l1(map, &objects, 1.0, &mut vec![0.0; 2 * len])]
    }));
    let mut dmap = vec![0.0; 2 * len];
    squared_distance(&maps, &earlier, 0.1, &mut dmap);
    agreements.push(proof::differences("squared distance".into(), [(maps, dmap)], &[1.0], |[map]| {
        vec![squared_distance(map, &earlier, 0.1, &mut vec![0.0; 2 * len])]
    }));
    agreements
}
