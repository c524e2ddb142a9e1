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

    /// A point of D in N, which the letterbox shifts or shrinks.
    pub fn d_to_n(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let (half, scale) = (self.frame as f64 / 2.0, self.frame as f64 / self.square_d() as f64);
        [(x - half) * scale + half, (y - self.height_d as f64 / 2.0) * scale + half]
    }

    /// A point of M in D; x and y have scales of their own, because the height of D is a whole number.
    pub fn m_to_d(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [x * self.frame as f64 / self.nx as f64, y * self.height_d as f64 / self.ny as f64]
    }
}
