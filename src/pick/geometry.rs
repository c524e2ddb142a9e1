//! The four frames, and the sizes that tie them together.
//!
//! | frame | size | what it is |
//! |---|---|---|
//! | M | nx x ny | micrograph, as recorded |
//! | D | F x h, h = floor(F ny / nx) | Fourier-cropped micrograph; column i sits on M column i nx / F, row j on M row j ny / h |
//! | N | F x F | network input: D letterboxed on black |
//! | H | F/4 x F/4 | heat map; index i sits on N coordinate 4 i |
//!
//! F is the frame, 1024 unless asked otherwise. Source: docs/formats.md, "Frames".

/// Sizes of one micrograph in all frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Columns of the micrograph.
    pub nx: usize,
    /// Rows of the micrograph.
    pub ny: usize,
    /// Width of D; width and height of N. A multiple of 32.
    pub frame: usize,
    /// Rows of D.
    pub height_d: usize,
}

impl Geometry {
    /// The frames of a micrograph of `nx` columns and `ny` rows.
    pub fn new(nx: usize, ny: usize, frame: usize) -> Self {
        // Exact integer arithmetic: no rounding can move the height by one.
        let height_d = (frame as u128 * ny as u128 / nx.max(1) as u128) as usize;
        Geometry { nx, ny, frame, height_d }
    }

    /// Side of the square that is letterboxed into N, in D pixels.
    pub fn square_d(&self) -> usize {
        self.frame.max(self.height_d)
    }
}
