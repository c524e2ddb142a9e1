//! Places in one block of memory: every buffer has a size and a lifetime, and buffers that are alive at the same time
//! do not overlap.

use crate::device::tensor::Layout;
use std::collections::HashMap;
use std::hash::Hash;

/// A tensor's place in the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First value of its buffer.
    pub offset: usize,
    /// How it lies in the buffer.
    pub layout: Layout,
}

/// The lifetimes of buffers that are told apart by `K`, found by walking over the steps that touch them.
pub struct Lifetimes<K> {
    found: Vec<Lifetime>,
    index: HashMap<K, usize>,
}

/// Where the buffers lie.
pub struct Placed<K> {
    /// First value of each buffer.
    pub offsets: HashMap<K, usize>,
    /// Values of the whole block.
    pub len: usize,
    /// Values that are alive together at the worst step: no block could be smaller.
    pub lower_bound: usize,
}

impl<K> Default for Lifetimes<K> {
    fn default() -> Self {
        Lifetimes { found: Vec::new(), index: HashMap::new() }
    }
}

impl<K: Eq + Hash> Lifetimes<K> {
    /// A step touches a buffer of `len` values.
    pub fn touch(&mut self, buffer: K, len: usize, step: usize) {
        let found = &mut self.found;
        let i = *self.index.entry(buffer).or_insert_with(|| {
            found.push(Lifetime { len, first: step, last: step });
            found.len() - 1
        });
        self.found[i].last = step;
    }

    /// True if a step has touched a buffer.
    pub fn contains(&self, buffer: &K) -> bool {
        self.index.contains_key(buffer)
    }

    /// Places all buffers.
    pub fn place(self) -> Placed<K> {
        let (offsets, len) = place(&self.found);
        let offsets = self.index.into_iter().map(|(buffer, i)| (buffer, offsets[i])).collect();
        Placed { offsets, len, lower_bound: lower_bound(&self.found) }
    }
}

/// A buffer to be placed.
#[derive(Clone, Copy, Debug)]
struct Lifetime {
    /// Values it needs.
    len: usize,
    /// First step that writes it.
    first: usize,
    /// Last step that touches it.
    last: usize,
}

/// Offsets (in values, multiples of 16, so 64 bytes) and the length of the whole.
///
/// The largest buffer is placed first, and each takes the lowest gap that the buffers alive with it leave. That is simple and
/// deterministic, and comes within a few percent of the lower bound for networks like this one.
fn place(buffers: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(buffers[i].len), i));
    let mut offsets = vec![0; buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut total = 0;
    for &i in &order {
        let buffer = buffers[i];
        let mut rivals: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&j| buffers[j].first <= buffer.last && buffer.first <= buffers[j].last)
            .map(|&j| (offsets[j], offsets[j] + buffers[j].len.next_multiple_of(16)))
            .collect();
        rivals.sort_unstable();
        let mut offset = 0;
        for (start, end) in rivals {
            if offset + buffer.len <= start {
                break;
            }
            offset = offset.max(end);
        }
        offsets[i] = offset;
        placed.push(i);
        total = total.max(offset + buffer.len.next_multiple_of(16));
    }
    (offsets, total)
}

/// The number of values that are alive together at the worst step: no placement needs fewer.
fn lower_bound(buffers: &[Lifetime]) -> usize {
    let last = buffers.iter().map(|buffer| buffer.last).max().unwrap_or(0);
    (0..=last)
        .map(|step| buffers.iter().filter(|b| b.first <= step && step <= b.last).map(|b| b.len.next_multiple_of(16)).sum())
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::splitmix64;

    #[test]
    fn buffers_alive_together_never_overlap() {
        for seed in 0..200 {
            let random = |i: u64, below: u64| (splitmix64(seed * 1000 + i) % below) as usize;
            let buffers: Vec<Lifetime> = (0..40)
                .map(|i| {
                    let first = random(3 * i, 30);
                    Lifetime { len: 1 + random(3 * i + 1, 500), first, last: first + random(3 * i + 2, 8) }
                })
                .collect();
            let (offsets, total) = place(&buffers);
            for (i, a) in buffers.iter().enumerate() {
                assert!(offsets[i] % 16 == 0 && offsets[i] + a.len <= total);
                for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    assert!(!together || offsets[i] + a.len <= offsets[j] || offsets[j] + b.len <= offsets[i], "{i} and {j}");
                }
            }
            assert!(total >= lower_bound(&buffers));
        }
    }
}
