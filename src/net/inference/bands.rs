//! Convolutions that follow one another, computed in bands of rows: of the maps between them a few rows are held, which stay in the
//! cache, and the arena needs no more.
//!
//! The last map is cut into segments, some for each thread. A thread computes a segment band by band, some rows of the last map at a
//! time: before that every map before it gets the rows that are still missing, and its rows that nobody reads any more make room. So
//! within a segment no row is computed twice, and the bits are those of whole maps.

use crate::ops::conv::ConvShape;
use std::ops::Range;

/// A convolution of the chain.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Its extents, of one image.
    pub shape: ConvShape,
    /// Rows of its output that are computed together.
    pub rows_together: usize,
}

impl Link {
    fn rows(&self) -> usize {
        self.shape.out()[1]
    }

    /// Values of a row of its output.
    fn row_values(&self) -> usize {
        let [_, _, w, c] = self.shape.out();
        w * c
    }

    /// These rows, and those that are computed together with them.
    fn whole(&self, rows: Range<usize>) -> Range<usize> {
        rows.start / self.rows_together * self.rows_together..rows.end.next_multiple_of(self.rows_together).min(self.rows())
    }
}

/// What is done for a link in a band.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Rows of its map that are there, and are still read: they move to the beginning of its buffer. None of the last map.
    pub kept: Range<usize>,
    /// The rows that are computed.
    pub rows: Range<usize>,
}

/// Some rows of the last map: for each band the turn of each link.
pub type Segment = Vec<Vec<Turn>>;

/// How a chain of convolutions is computed.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// They share no rows of the last map, and need not wait for one another.
    pub segments: Vec<Segment>,
    /// Rows that a segment holds of each map but the last.
    pub held: Vec<usize>,
}

impl Schedule {
    /// At most so many segments, of bands as high as `most` values allow that a segment holds.
    pub fn new(links: &[Link], segments: usize, most: usize) -> Self {
        let last = links[links.len() - 1];
        let blocks = last.rows().div_ceil(last.rows_together);
        let values = |schedule: &Schedule| schedule.held.iter().zip(links).map(|(rows, link)| rows * link.row_values()).sum::<usize>();
        // The highest bands that fit; if none do, the lowest there are.
        let lowest = Schedule::of(links, segments, 1);
        (2..=blocks)
            .map(|band| Schedule::of(links, segments, band))
            .take_while(|schedule| values(schedule) <= most)
            .last()
            .unwrap_or(lowest)
    }

    /// With bands of so many blocks of rows that are computed together.
    fn of(links: &[Link], segments: usize, band: usize) -> Self {
        let last = links[links.len() - 1];
        let blocks = last.rows().div_ceil(last.rows_together);
        let segments = segments.clamp(1, blocks);
        let row = |block: usize| (block * last.rows_together).min(last.rows());
        let rows = |i: usize| row(i * blocks / segments)..row((i + 1) * blocks / segments);
        let mut held = vec![0; links.len() - 1];
        let segment = |i: usize| segment(links, rows(i), band * last.rows_together, &mut held);
        let segments = (0..segments).map(segment).collect();
        Schedule { segments, held }
    }
}

/// The bands of some rows of the last map. `held` grows to what is held of each map before it.
fn segment(links: &[Link], rows: Range<usize>, height: usize, held: &mut [usize]) -> Segment {
    let last = links.len() - 1;
    // Up to where each map has been computed: at first, up to where somebody will begin to read.
    let mut done = vec![rows.start; links.len()];
    for i in (0..last).rev() {
        done[i] = links[i].whole(links[i + 1].shape.rows_read(done[i + 1]..rows.end)).start;
    }
    let mut bands = Vec::new();
    while done[last] < rows.end {
        let mut band = vec![Turn { kept: 0..0, rows: done[last]..(done[last] + height).min(rows.end) }];
        for i in (0..last).rev() {
            let read = links[i + 1].shape.rows_read(band[0].rows.clone());
            // A band may need no new rows; those that are there stay until somebody has read them.
            let end = links[i].whole(read.clone()).end.max(done[i]);
            let kept = read.start.min(done[i])..done[i];
            held[i] = held[i].max(end - kept.start);
            band.insert(0, Turn { kept, rows: done[i]..end });
        }
        done = band.iter().map(|turn| turn.rows.end).collect();
        bands.push(band);
    }
    bands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(h: usize, kernel: usize, stride: usize, rows_together: usize) -> Link {
        Link { shape: ConvShape { n: 1, h, w: 8, ci: 2, co: 2, kernel, stride }, rows_together }
    }

    /// Computes a segment on paper; returns the rows of the last map.
    fn rows_of(links: &[Link; 3], segment: &Segment, held: &[usize]) -> Range<usize> {
        // Rows in the buffers of the maps between the links: none at first.
        let mut there = [None, None].map(|none: Option<Range<usize>>| none);
        let (mut first, mut end) = (usize::MAX, 0);
        for band in segment {
            for (i, turn) in band.iter().enumerate() {
                assert!(turn.rows.is_empty() || turn.rows.start.is_multiple_of(links[i].rows_together), "{turn:?} of link {i}");
                if i > 0 && !turn.rows.is_empty() {
                    let (read, there) = (links[i].shape.rows_read(turn.rows.clone()), there[i - 1].clone().unwrap_or(0..0));
                    assert!(there.start <= read.start && read.end <= there.end, "{read:?} of {there:?}");
                }
                if i == 2 {
                    assert!(first == usize::MAX || turn.rows.start == end, "{turn:?} after {end}");
                    (first, end) = (first.min(turn.rows.start), turn.rows.end);
                    continue;
                }
                // Each row is computed once, after those that are there.
                let before = there[i].clone().unwrap_or(turn.rows.start..turn.rows.start);
                assert!(
                    before.start <= turn.kept.start && turn.kept.end == before.end && turn.rows.start == before.end,
                    "{turn:?}, {before:?}"
                );
                assert!(turn.rows.end - turn.kept.start <= held[i], "{turn:?} of {held:?}");
                there[i] = Some(turn.kept.start..turn.rows.end);
            }
        }
        first..end
    }

    #[test]
    fn every_row_comes_from_rows_that_are_there() {
        for h in [1, 2, 5, 31, 32, 33, 64, 97] {
            for together in [[1, 4, 1], [4, 4, 4], [1, 1, 1]] {
                for (segments, most) in [(1, 0), (3, 200), (2, 1000), (100, 0), (1, 100_000)] {
                    let links = [link(h, 7, 1, together[0]), link(h, 3, 1, together[1]), link(h, 3, 2, together[2])];
                    let schedule = Schedule::new(&links, segments, most);
                    let mut end = 0;
                    for segment in &schedule.segments {
                        let rows = rows_of(&links, segment, &schedule.held);
                        assert_eq!(rows.start, end, "{h} rows, {segments} segments");
                        end = rows.end;
                    }
                    assert_eq!(end, h.div_ceil(2));
                    let values: usize = schedule.held.iter().zip(&links).map(|(rows, link)| rows * link.row_values()).sum();
                    let lowest = schedule.segments.iter().flatten().all(|band| band[2].rows.len() <= together[2]);
                    assert!(values <= most || lowest, "{values} of {most}");
                }
            }
        }
    }
}
