//! How the pixels of the map that is read and of the one that is written meet: in the forward pass, and in the gradient of
//! the input, which is a convolution of the gradient of the output.

use super::ConvShape;

/// A grid of pixels that are computed, each from the pixels under its window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Images.
    pub n: usize,
    /// Rows and columns of the map that is read.
    pub inp: [usize; 2],
    /// Channels of the map that is read, and of the one that is written.
    pub channels: [usize; 2],
    /// Rows and columns of taps.
    pub taps: [usize; 2],
    /// Where the first tap of grid pixel (0, 0) lies in the map that is read.
    pub first: [isize; 2],
    /// Step from one window to the next.
    pub step: usize,
    /// Rows and columns of the grid.
    pub grid: [usize; 2],
    /// Rows and columns of the map that is written.
    pub out: [usize; 2],
    /// Grid pixel (y, x) is pixel (y, x) * out_step + phase of that map.
    pub out_step: usize,
    /// See `out_step`.
    pub phase: [usize; 2],
}

impl Window {
    /// Over the input, for every pixel of the output.
    pub fn forward(shape: ConvShape) -> Self {
        let [n, oh, ow, co] = shape.out();
        Window {
            n,
            inp: [shape.h, shape.w],
            channels: [shape.ci, co],
            taps: [shape.kernel; 2],
            first: [-((shape.kernel / 2) as isize); 2],
            step: shape.stride,
            grid: [oh, ow],
            out: [oh, ow],
            out_step: 1,
            phase: [0, 0],
        }
    }

    /// Pixels that are computed.
    pub fn pixels(&self) -> usize {
        self.n * self.grid[0] * self.grid[1]
    }
}

/// A phase: all pixels of the input whose row, and whose column, leave the same rest modulo the stride. The same taps of the kernel
/// reach all of them, so that one window over the gradient of the output gives their gradient.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase {
    /// The window.
    pub window: Window,
    /// Row and column in the kernel of the window's first tap. The next tap along an axis lies a stride before it.
    pub first_tap: [usize; 2],
}

/// All phases that any tap reaches, as the gradient of the input needs them.
///
/// Along one axis, tap k of output pixel o meets input pixel o s + k - pad. Of input pixel a s + phase those taps count for
/// which (phase + pad - k) leaves no rest modulo s. They meet output pixel a + (phase + pad - k) / s, the largest k first.
pub(crate) fn phases(shape: ConvShape) -> Vec<Phase> {
    let (ConvShape { n, h, w, ci, co, kernel, stride }, [_, oh, ow, _]) = (shape, shape.out());
    let along = |phase: usize| {
        let smallest = (phase + kernel / 2) % stride;
        let taps = if smallest < kernel { (kernel - 1 - smallest) / stride + 1 } else { 0 };
        let largest = smallest + stride * taps.saturating_sub(1);
        (taps, largest, ((phase + kernel / 2) as isize - largest as isize) / stride as isize)
    };
    let phase = |phase: [usize; 2]| {
        let [(taps_y, tap_y, first_y), (taps_x, tap_x, first_x)] = phase.map(along);
        let window = Window {
            n,
            inp: [oh, ow],
            channels: [co, ci],
            taps: [taps_y, taps_x],
            first: [first_y, first_x],
            step: 1,
            grid: [(h - phase[0]).div_ceil(stride), (w - phase[1]).div_ceil(stride)],
            out: [h, w],
            out_step: stride,
            phase,
        };
        Phase { window, first_tap: [tap_y, tap_x] }
    };
    let places = (0..stride * stride).map(|i| [i / stride, i % stride]).filter(|phase| phase[0] < h && phase[1] < w);
    places.map(phase).filter(|phase| phase.window.taps[0] * phase.window.taps[1] > 0).collect()
}
