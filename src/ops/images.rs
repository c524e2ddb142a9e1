//! The sum over the images of a batch of the gradients of what is learnt. It is added up in halves, so that several devices that
//! share a batch come to the same bits as one device that has all of it.
//!
//! ```text
//! sum(n images) = sum(first h) + sum(the other n - h)        h the largest power of two below n
//! ```
//! A device whose images are a block of 2^k of them has one term of that sum, and the terms of several devices are added in the same way
//! (`of_parts`).

use super::{Real, map};
use crate::device::{Device, TensorMut};
use anyhow::Result;
use std::ops::Range;

/// Buffers begin at multiples of so many values.
const PIECE: usize = 16;

/// Values of scratch memory that `add` needs for gradients of these lengths, besides what each image needs.
pub(crate) fn scratch_len<const N: usize>(images: usize, lengths: [usize; N]) -> usize {
    depth(images) * one_len(lengths)
}

/// Sums that are kept at the same time: one for each power of two, and that of the image in hand.
fn depth(images: usize) -> usize {
    if images < 2 { 0 } else { images.ilog2() as usize + 1 }
}

fn one_len<const N: usize>(lengths: [usize; N]) -> usize {
    lengths.iter().map(|len| len.next_multiple_of(PIECE)).sum()
}

/// Adds the gradients of all images to `totals`. `each` adds those of one image to what it is given, and gets the rest of the scratch
/// memory.
///
/// Shapes: `totals` flat; `scratch` at least `scratch_len`.
/// Errors: those of `each`, or the launch of an addition fails.
pub(crate) fn add<'t, T: Real + 't, const N: usize>(
    device: &Device,
    images: usize,
    mut totals: [TensorMut<'t, T>; N],
    scratch: &mut TensorMut<T>,
    mut each: impl FnMut(usize, [&mut TensorMut<T>; N], &mut TensorMut<T>) -> Result<()>,
) -> Result<()> {
    if images < 2 {
        return (0..images).try_for_each(|image| each(image, totals.each_mut(), scratch));
    }
    let lengths = totals.each_ref().map(|total| total.len());
    let mut rest = scratch.reborrow();
    let mut buffers: Vec<[TensorMut<T>; N]> = Vec::new();
    for _ in 0..depth(images) {
        let mut buffer = Vec::with_capacity(N);
        for len in lengths {
            let [piece, others] = rest.into_split(len.next_multiple_of(PIECE));
            let [piece, _] = piece.into_split(len);
            buffer.push(piece);
            rest = others;
        }
        buffers.push(buffer.try_into().expect("as many as there are lengths"));
    }
    // The first `kept` buffers hold sums of ever fewer images, as the digits of a binary counter do.
    let mut kept = 0;
    for image in 0..images {
        let [into] = &mut buffers[kept..=kept] else { unreachable!("one of the buffers") };
        into.iter_mut().try_for_each(|gradient| device.clear(gradient))?;
        each(image, into.each_mut(), &mut rest)?;
        kept += 1;
        for _ in 0..(image + 1).trailing_zeros() {
            fold(device, &mut buffers, &mut kept)?;
        }
    }
    while kept > 1 {
        fold(device, &mut buffers, &mut kept)?;
    }
    totals.iter_mut().zip(&buffers[0]).try_for_each(|(total, sum)| map::add(device, sum.as_ref(), total))
}

/// Adds the last of the sums that are kept to the one before.
fn fold<T: Real, const N: usize>(device: &Device, buffers: &mut [[TensorMut<T>; N]], kept: &mut usize) -> Result<()> {
    *kept -= 1;
    let (before, last) = buffers.split_at_mut(*kept);
    let Some(before) = before.last_mut() else { return Ok(()) };
    before.iter_mut().zip(&last[0]).try_for_each(|(before, last)| map::add(device, last.as_ref(), before))
}

/// The same sum of values that are there.
pub fn of_parts<V>(parts: Range<usize>, value: &impl Fn(usize) -> V, add: &impl Fn(V, V) -> V) -> V {
    match parts.len() {
        0 | 1 => value(parts.start),
        len => {
            let middle = parts.start + len.next_power_of_two() / 2;
            add(of_parts(parts.start..middle, value, add), of_parts(middle..parts.end, value, add))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Tensor;

    /// Which images were added to which, in words: sums in f32 would hide the order.
    fn words(images: usize) -> String {
        of_parts(0..images, &|image| image.to_string(), &|a, b| format!("({a}+{b})"))
    }

    #[test]
    fn the_sum_is_that_of_blocks_whoever_has_them() {
        assert_eq!(words(7), "(((0+1)+(2+3))+((4+5)+6))");
        assert_eq!(words(5), "(((0+1)+(2+3))+4)");
        for images in 1..20 {
            for block in [1, 2, 4, 8, 16] {
                let sum =
                    |first: usize| of_parts(first..images.min(first + block), &|image| image.to_string(), &|a, b| format!("({a}+{b})"));
                let shared = of_parts(0..images.div_ceil(block), &|part| sum(part * block), &|a, b| format!("({a}+{b})"));
                assert_eq!(shared, words(images), "{images} images in blocks of {block}");
            }
        }
    }

    #[test]
    fn buffers_are_added_in_that_order() {
        for images in 1..20_usize {
            // Values whose sum depends on the order in the last bits.
            let value = |image: usize| [1.0 / (image as f32 + 1.37), 1e4 * (image as f32).sin()];
            let add_pairs = |a: [f32; 2], b: [f32; 2]| [a[0] + b[0], a[1] + b[1]];
            let expected = of_parts(0..images, &value, &add_pairs);
            let mut totals = [Tensor::<f32>::zeros([1, 1, 1, 1]), Tensor::zeros([1, 1, 1, 1])];
            let mut scratch =
                Tensor::from_values([1, 1, 1, scratch_len(images, [1, 1]) + 3], vec![f32::NAN; scratch_len(images, [1, 1]) + 3]);
            let [mut first, mut second] = totals.each_mut().map(Tensor::view_mut);
            add(&Device::Cpu, images, [first.reborrow(), second.reborrow()], &mut scratch.view_mut(), |image, gradients, rest| {
                assert!(rest.len() == 3 || images == 1);
                gradients.into_iter().zip(value(image)).for_each(|(gradient, value)| gradient.as_mut_slice()[0] += value);
                Ok(())
            })
            .unwrap();
            assert_eq!(totals.map(|total| total.values()[0].to_bits()), expected.map(f32::to_bits), "{images} images");
        }
    }
}
