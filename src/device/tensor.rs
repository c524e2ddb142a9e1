//! Tensors, channels last: (n, h, w, c), with a pixel stride and a channel offset.
//!
//! The stride and the offset make a concatenation free: several producers write into one buffer, each its own
//! channels of every pixel. So two views of one buffer may interleave, which slices cannot express; the views here
//! are raw pointers behind bounds that are checked when the view is made. They are generic in the type of a value
//! because the training plan also runs in f64, through the naive references.

use std::marker::PhantomData;

/// Where a tensor lies in its buffer. All counts are in values, not bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// (n, h, w, c).
    pub shape: [usize; 4],
    /// Values from one pixel to the next; at least `channel_offset + c`.
    pub pixel_stride: usize,
    /// First channel of this tensor within each pixel of the buffer.
    pub channel_offset: usize,
}

impl Layout {
    /// A tensor alone in its buffer.
    pub fn packed(shape: [usize; 4]) -> Self {
        Layout { shape, pixel_stride: shape[3], channel_offset: 0 }
    }

    /// n * h * w.
    pub fn pixels(&self) -> usize {
        self.shape[0] * self.shape[1] * self.shape[2]
    }

    /// Length of the buffer that holds it.
    pub fn buffer_len(&self) -> usize {
        self.pixels() * self.pixel_stride
    }
}

/// A tensor that owns its buffer.
#[derive(Clone, Debug)]
pub struct Tensor {
    layout: Layout,
    data: Vec<f32>,
}

impl Tensor {
    /// A packed tensor of zeros.
    pub fn zeros(shape: [usize; 4]) -> Self {
        let layout = Layout::packed(shape);
        Tensor { layout, data: vec![0.0; layout.buffer_len()] }
    }

    /// A packed tensor of these values, in (n, h, w, c) order. Panics if the length does not fit: a programming error.
    pub fn from_values(shape: [usize; 4], data: Vec<f32>) -> Self {
        let layout = Layout::packed(shape);
        assert_eq!(data.len(), layout.buffer_len(), "tensor of shape {shape:?}");
        Tensor { layout, data }
    }

    /// (n, h, w, c).
    pub fn shape(&self) -> [usize; 4] {
        self.layout.shape
    }

    /// All values, in (n, h, w, c) order.
    pub fn values(&self) -> &[f32] {
        &self.data
    }

    /// All values, to write, in (n, h, w, c) order.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// A view to read.
    pub fn view(&self) -> TensorRef<'_> {
        TensorRef::new(&self.data, self.layout)
    }

    /// A view to write.
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        let layout = self.layout;
        TensorMut::new(&mut self.data, layout)
    }
}

/// A view to read.
#[derive(Debug)]
pub struct TensorRef<'a, T = f32> {
    data: *const T,
    layout: Layout,
    buffer: PhantomData<&'a [T]>,
}

/// A view to write. Not `Clone`: one writer for each value.
#[derive(Debug)]
pub struct TensorMut<'a, T = f32> {
    data: *mut T,
    layout: Layout,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: a view is a slice with gaps; whoever makes views of one buffer sees to it that no value is written by one
// and touched by another (`TensorMut::from_raw` states the duty), so sending and sharing them is as safe as for slices.
unsafe impl<T: Sync> Send for TensorRef<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for TensorRef<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for TensorMut<'_, T> {}
// SAFETY: as above; writing through a shared reference takes an unsafe method.
unsafe impl<T: Send + Sync> Sync for TensorMut<'_, T> {}

// Not derived: that would ask for `T: Clone`, which a view does not need.
impl<T> Clone for TensorRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for TensorRef<'_, T> {}

impl<'a, T> TensorRef<'a, T> {
    /// A view of a whole buffer. Panics if the layout does not fit: a programming error.
    pub fn new(buffer: &'a [T], layout: Layout) -> Self {
        assert!(layout.buffer_len() <= buffer.len() && layout.channel_offset + layout.shape[3] <= layout.pixel_stride, "{layout:?}");
        TensorRef { data: buffer.as_ptr(), layout, buffer: PhantomData }
    }

    /// A view of a buffer that others may be writing.
    ///
    /// # Safety
    /// `data` points to `layout.buffer_len()` values that live for `'a`, and none of the values of this view is
    /// written during `'a`.
    pub unsafe fn from_raw(data: *const T, layout: Layout) -> Self {
        TensorRef { data, layout, buffer: PhantomData }
    }

    /// (n, h, w, c).
    pub fn shape(&self) -> [usize; 4] {
        self.layout.shape
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The channels of pixel `index`, counted through all images and rows.
    #[inline(always)]
    pub fn pixel(&self, index: usize) -> &'a [T] {
        debug_assert!(index < self.layout.pixels());
        // SAFETY: the layout was checked against the buffer, and the index lies inside.
        unsafe { std::slice::from_raw_parts(self.pixel_ptr(index), self.layout.shape[3]) }
    }

    /// Pointer to the first channel of pixel `index`.
    #[inline(always)]
    pub fn pixel_ptr(&self, index: usize) -> *const T {
        self.data.wrapping_add(index * self.layout.pixel_stride + self.layout.channel_offset)
    }

    /// Values from one pixel to the next.
    #[inline(always)]
    pub fn pixel_stride(&self) -> usize {
        self.layout.pixel_stride
    }
}

impl<'a, T> TensorMut<'a, T> {
    /// A view of a whole buffer. Panics if the layout does not fit: a programming error.
    pub fn new(buffer: &'a mut [T], layout: Layout) -> Self {
        assert!(layout.buffer_len() <= buffer.len() && layout.channel_offset + layout.shape[3] <= layout.pixel_stride, "{layout:?}");
        TensorMut { data: buffer.as_mut_ptr(), layout, buffer: PhantomData }
    }

    /// A view of a buffer in which others may hold other values.
    ///
    /// # Safety
    /// `data` points to `layout.buffer_len()` values that live for `'a`, and no other view touches the values of this
    /// one during `'a`.
    pub unsafe fn from_raw(data: *mut T, layout: Layout) -> Self {
        TensorMut { data, layout, buffer: PhantomData }
    }

    /// (n, h, w, c).
    pub fn shape(&self) -> [usize; 4] {
        self.layout.shape
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Pointer to the first channel of pixel `index`.
    #[inline(always)]
    pub fn pixel_ptr(&self, index: usize) -> *mut T {
        self.data.wrapping_add(index * self.layout.pixel_stride + self.layout.channel_offset)
    }

    /// The channels of pixel `index`, to write.
    ///
    /// # Safety
    /// No other reference to this pixel is alive: parallel loops give each pixel to one task.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // the duty stands above
    pub unsafe fn pixel_mut(&self, index: usize) -> &mut [T] {
        debug_assert!(index < self.layout.pixels());
        // SAFETY: the layout was checked against the buffer, the index lies inside, and the caller is alone with it.
        unsafe { std::slice::from_raw_parts_mut(self.pixel_ptr(index), self.layout.shape[3]) }
    }

    /// Values from one pixel to the next.
    #[inline(always)]
    pub fn pixel_stride(&self) -> usize {
        self.layout.pixel_stride
    }

    /// A view to read the same values; the writer is borrowed for as long.
    pub fn as_ref(&self) -> TensorRef<'_, T> {
        TensorRef { data: self.data, layout: self.layout, buffer: PhantomData }
    }
}

impl<T: Copy> TensorRef<'_, T> {
    /// All values, packed, in (n, h, w, c) order.
    pub fn to_vec(&self) -> Vec<T> {
        (0..self.layout.pixels()).flat_map(|i| self.pixel(i)).copied().collect()
    }
}

impl<T: Copy + std::ops::AddAssign> TensorMut<'_, T> {
    /// Writes all values, given in (n, h, w, c) order.
    pub fn assign(&mut self, values: &[T]) {
        for (i, values) in values.chunks_exact(self.layout.shape[3]).enumerate() {
            // SAFETY: the writer is borrowed mutably, and there is one reference at a time.
            unsafe { self.pixel_mut(i) }.copy_from_slice(values);
        }
    }

    /// Adds to all values, given in (n, h, w, c) order.
    pub fn add(&mut self, values: &[T]) {
        for (i, values) in values.chunks_exact(self.layout.shape[3]).enumerate() {
            // SAFETY: as above.
            unsafe { self.pixel_mut(i) }.iter_mut().zip(values).for_each(|(to, &value)| *to += value);
        }
    }
}
