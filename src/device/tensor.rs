//! Tensors, channels last: (n, h, w, c), with a pixel stride and a channel offset.
//!
//! The stride and the offset make a concatenation free: several producers write into one buffer, each its own
//! channels of every pixel. So two views of one buffer may interleave, which slices cannot express; the views here
//! are raw pointers behind bounds that are checked when the view is made. They are generic in the type of a value
//! because the naive references, and kernels that are compiled to prove indices, compute in f64. On a GPU their pointer is a device address,
//! which is never read on the host. A list of values (weights, sums, scratch memory) is a flat tensor, (1, 1, 1, length).

use super::Device;
use super::gpu::{Arg, Memory};
use anyhow::Result;
use bytemuck::Pod;
use rayon::prelude::*;
use std::any::TypeId;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

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

    /// `len` values in a row: (1, 1, 1, len).
    pub fn flat(len: usize) -> Self {
        Layout::packed([1, 1, 1, len])
    }

    fn image_offset(&self, image: usize) -> usize {
        let [n, h, w, _] = self.shape;
        assert!(image < n, "image {image} of {self:?}");
        image * h * w * self.pixel_stride
    }

    fn one_image(self) -> Self {
        let [_, h, w, c] = self.shape;
        Layout { shape: [1, h, w, c], ..self }
    }

    fn first_pixels(self, w: usize) -> Self {
        let [n, h, all, c] = self.shape;
        assert!(n == 1 && h == 1 && w <= all, "{w} pixels of {self:?}");
        Layout { shape: [1, 1, w, c], ..self }
    }

    /// n * h * w.
    pub fn pixels(&self) -> usize {
        self.shape[0] * self.shape[1] * self.shape[2]
    }

    /// Length of the buffer that holds it.
    pub fn buffer_len(&self) -> usize {
        self.pixels() * self.pixel_stride
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.pixels() * self.shape[3]
    }

    /// True if there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn check(&self, offset: usize, len: usize) {
        let fits = offset + self.buffer_len() <= len && self.channel_offset + self.shape[3] <= self.pixel_stride;
        assert!(fits, "{self:?} at {offset} of {len} values");
    }
}

/// Values on a device: in memory of the host, or of the GPU.
#[derive(Debug)]
pub struct Buffer<T = f32> {
    values: Values<T>,
    len: usize,
}

#[derive(Debug)]
enum Values<T> {
    Host(HostValues<T>),
    Gpu(Memory),
}

/// Values in memory of the host, the first of which may be preceded by others that nobody uses.
#[derive(Debug)]
struct HostValues<T> {
    values: Vec<T>,
    first: usize,
}

/// Bytes of a line of the cache, and of the widest vector register. Where the channels of a pixel fill whole lines, a vector that is
/// loaded or stored then touches one line, not two.
const LINE: usize = 64;

impl<T: Pod> HostValues<T> {
    /// Zeros that begin with a line of the cache.
    fn zeros(len: usize) -> Self {
        let most = LINE / size_of::<T>().clamp(1, LINE);
        let mut values = vec![T::zeroed(); len + most];
        let first = values.as_ptr().align_offset(LINE).min(most);
        values.truncate(first + len);
        HostValues { values, first }
    }
}

impl<T> Deref for HostValues<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values[self.first..]
    }
}

impl<T> DerefMut for HostValues<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[self.first..]
    }
}

impl<T> From<Vec<T>> for HostValues<T> {
    fn from(values: Vec<T>) -> Self {
        HostValues { values, first: 0 }
    }
}

impl<T: Pod + Send + Sync> Buffer<T> {
    /// `len` zeros.
    ///
    /// Errors: the device has not as much memory.
    pub fn zeros(device: &Device, len: usize) -> Result<Self> {
        let values = match device {
            Device::Cpu | Device::Reference => Values::Host(HostValues::zeros(len)),
            Device::Gpu(gpu) => {
                let mut memory = Memory::new(gpu, len * size_of::<T>())?;
                memory.clear(gpu, 0, len * size_of::<T>())?;
                Values::Gpu(memory)
            }
        };
        Ok(Buffer { values, len })
    }

    /// `len` values, on a GPU with whatever the memory held before (on the host: zeros).
    ///
    /// Errors: the device has not as much memory.
    pub fn unset(device: &Device, len: usize) -> Result<Self> {
        match device {
            Device::Cpu | Device::Reference => Self::zeros(device, len),
            Device::Gpu(gpu) => Ok(Buffer { values: Values::Gpu(Memory::new(gpu, len * size_of::<T>())?), len }),
        }
    }

    /// These values.
    ///
    /// Errors: the device has not as much memory, or the copy fails.
    pub fn of(device: &Device, values: Vec<T>) -> Result<Self> {
        let len = values.len();
        let values = match device {
            Device::Cpu | Device::Reference => Values::Host(values.into()),
            Device::Gpu(gpu) => {
                let mut memory = Memory::new(gpu, len * size_of::<T>())?;
                memory.upload(gpu, 0, bytemuck::cast_slice(&values))?;
                Values::Gpu(memory)
            }
        };
        Ok(Buffer { values, len })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All values, to read: none if they lie on a GPU.
    pub fn host(&self) -> Option<&[T]> {
        match &self.values {
            Values::Host(values) => Some(values),
            Values::Gpu(_) => None,
        }
    }

    /// Copies values into `offset..`. Panics if they do not fit: a programming error.
    ///
    /// Errors: the copy fails.
    pub fn write(&mut self, offset: usize, values: &[T]) -> Result<()> {
        assert!(offset + values.len() <= self.len, "{offset} + {} of {} values", values.len(), self.len);
        match &mut self.values {
            Values::Host(all) => all[offset..offset + values.len()].copy_from_slice(values),
            Values::Gpu(memory) => {
                let gpu = memory.gpu().clone();
                memory.upload(&gpu, offset * size_of::<T>(), bytemuck::cast_slice(values))?;
            }
        }
        Ok(())
    }

    /// Copies of some values, after all work that was put into the device's stream. Panics if there are not as many.
    ///
    /// Errors: the copy, or work before it, fails.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<T>> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} values", self.len);
        match &self.values {
            Values::Host(all) => Ok(all[range].to_vec()),
            Values::Gpu(memory) => {
                let mut values = vec![T::zeroed(); range.len()];
                memory.download(memory.gpu(), range.start * size_of::<T>(), bytemuck::cast_slice_mut(&mut values))?;
                Ok(values)
            }
        }
    }

    /// Sets some values to 0. Panics if there are not as many: a programming error.
    ///
    /// Errors: the device fails.
    pub fn clear(&mut self, range: Range<usize>) -> Result<()> {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} values", self.len);
        match &mut self.values {
            Values::Host(all) => all[range].par_chunks_mut(1 << 16).for_each(|part| part.fill(T::zeroed())),
            Values::Gpu(memory) => {
                let gpu = memory.gpu().clone();
                memory.clear(&gpu, range.start * size_of::<T>(), range.len() * size_of::<T>())?;
            }
        }
        Ok(())
    }

    /// Its memory on a GPU: none if it lies on the host.
    pub fn memory(&self) -> Option<&Memory> {
        match &self.values {
            Values::Host(_) => None,
            Values::Gpu(memory) => Some(memory),
        }
    }

    /// A view of all values, flat.
    pub fn view(&self) -> TensorRef<'_, T> {
        self.at(0, Layout::flat(self.len))
    }

    /// A view of all values, flat, to write.
    pub fn view_mut(&mut self) -> TensorMut<'_, T> {
        self.at_mut(0, Layout::flat(self.len))
    }

    /// A view of some values, flat.
    pub fn part(&self, range: Range<usize>) -> TensorRef<'_, T> {
        self.at(range.start, Layout::flat(range.len()))
    }

    /// A view of some values, flat, to write.
    pub fn part_mut(&mut self, range: Range<usize>) -> TensorMut<'_, T> {
        self.at_mut(range.start, Layout::flat(range.len()))
    }

    /// A view of a tensor that lies at `offset`. Panics if it does not fit: a programming error.
    pub fn at(&self, offset: usize, layout: Layout) -> TensorRef<'_, T> {
        layout.check(offset, self.len);
        // SAFETY: the layout was checked against the buffer, which is borrowed as long as the view.
        unsafe { TensorRef::from_raw(self.base().wrapping_add(offset), layout) }
    }

    /// A view of a tensor that lies at `offset`, to write. Panics if it does not fit: a programming error.
    pub fn at_mut(&mut self, offset: usize, layout: Layout) -> TensorMut<'_, T> {
        layout.check(offset, self.len);
        // SAFETY: the layout was checked against the buffer, which is borrowed as long as the view.
        unsafe { TensorMut::from_raw(self.base_mut().wrapping_add(offset), layout) }
    }

    /// Its first value; a device address if it lies on a GPU.
    pub fn base(&self) -> *const T {
        match &self.values {
            Values::Host(values) => values.as_ptr(),
            Values::Gpu(memory) => memory.address() as *const T,
        }
    }

    /// Its first value, to write; a device address if it lies on a GPU.
    pub fn base_mut(&mut self) -> *mut T {
        match &mut self.values {
            Values::Host(values) => values.as_mut_ptr(),
            Values::Gpu(memory) => memory.address() as *mut T,
        }
    }
}

/// A tensor that owns its buffer.
#[derive(Debug)]
pub struct Tensor<T = f32> {
    layout: Layout,
    buffer: Buffer<T>,
}

impl<T: Pod + Send + Sync> Tensor<T> {
    /// A packed tensor of zeros in memory of the host.
    pub fn zeros(shape: [usize; 4]) -> Self {
        Self::from_values(shape, vec![T::zeroed(); Layout::packed(shape).buffer_len()])
    }

    /// A packed tensor of these values, in (n, h, w, c) order, in memory of the host. Panics if the length does not fit: a
    /// programming error.
    pub fn from_values(shape: [usize; 4], data: Vec<T>) -> Self {
        let layout = Layout::packed(shape);
        assert_eq!(data.len(), layout.buffer_len(), "tensor of shape {shape:?}");
        Tensor { layout, buffer: Buffer { len: data.len(), values: Values::Host(data.into()) } }
    }

    /// A packed tensor of these values on a device. Panics if the length does not fit: a programming error.
    ///
    /// Errors: the device has not as much memory, or the copy fails.
    pub fn on(device: &Device, shape: [usize; 4], data: Vec<T>) -> Result<Self> {
        let layout = Layout::packed(shape);
        assert_eq!(data.len(), layout.buffer_len(), "tensor of shape {shape:?}");
        Ok(Tensor { layout, buffer: Buffer::of(device, data)? })
    }

    /// A flat tensor, (1, 1, 1, length), of these values on a device.
    ///
    /// Errors: as `on`.
    pub fn flat_on(device: &Device, data: Vec<T>) -> Result<Self> {
        Self::on(device, Layout::flat(data.len()).shape, data)
    }

    /// (n, h, w, c).
    pub fn shape(&self) -> [usize; 4] {
        self.layout.shape
    }

    /// All values, in (n, h, w, c) order. Panics if they lie on a GPU (`to_vec` reads those): a programming error.
    pub fn values(&self) -> &[T] {
        let Some(values) = self.buffer.host() else { panic!("a tensor of {:?} on a GPU", self.shape()) };
        values
    }

    /// A copy of all values, in (n, h, w, c) order.
    ///
    /// Errors: the copy, or work before it, fails.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.buffer.read(0..self.buffer.len())
    }

    /// A view to read.
    pub fn view(&self) -> TensorRef<'_, T> {
        self.buffer.at(0, self.layout)
    }

    /// A view to write.
    pub fn view_mut(&mut self) -> TensorMut<'_, T> {
        let layout = self.layout;
        self.buffer.at_mut(0, layout)
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
        layout.check(0, buffer.len());
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

    /// A flat view of a slice.
    pub fn flat(values: &'a [T]) -> Self {
        Self::new(values, Layout::flat(values.len()))
    }

    /// One image of it. Panics if there is none of that number: a programming error.
    pub fn image(self, image: usize) -> Self {
        let (data, layout) = (self.data.wrapping_add(self.layout.image_offset(image)), self.layout.one_image());
        TensorRef { data, layout, ..self }
    }

    /// The first pixels of one row: (1, 1, w, c) with a smaller w. Panics if there are not as many: a programming error.
    pub fn rows(self, w: usize) -> Self {
        let layout = self.layout.first_pixels(w);
        TensorRef { layout, ..self }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.layout.len()
    }

    /// True if there is no value.
    pub fn is_empty(&self) -> bool {
        self.layout.is_empty()
    }

    /// The values of a view that lies in one piece, on the host. Panics if it has gaps: a programming error.
    pub fn as_slice(&self) -> &'a [T] {
        let Layout { shape, pixel_stride, channel_offset } = self.layout;
        assert!(pixel_stride == shape[3] || self.layout.pixels() == 1, "{:?} lies in pieces", self.layout);
        // SAFETY: the layout was checked against the buffer, and has no gaps.
        unsafe { std::slice::from_raw_parts(self.data.wrapping_add(channel_offset), self.layout.len()) }
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
        layout.check(0, buffer.len());
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

    /// A flat view of a slice.
    pub fn flat(values: &'a mut [T]) -> Self {
        let layout = Layout::flat(values.len());
        Self::new(values, layout)
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.layout.len()
    }

    /// True if there is no value.
    pub fn is_empty(&self) -> bool {
        self.layout.is_empty()
    }

    /// The values of a view that lies in one piece, on the host. Panics if it has gaps: a programming error.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        let Layout { shape, pixel_stride, channel_offset } = self.layout;
        assert!(pixel_stride == shape[3] || self.layout.pixels() == 1, "{:?} lies in pieces", self.layout);
        // SAFETY: the layout was checked against the buffer, and has no gaps; the view is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.data.wrapping_add(channel_offset), self.layout.len()) }
    }

    /// One image of it. Panics if there is none of that number: a programming error.
    pub fn image_mut(&mut self, image: usize) -> TensorMut<'_, T> {
        let (data, layout) = (self.data.wrapping_add(self.layout.image_offset(image)), self.layout.one_image());
        TensorMut { data, layout, buffer: PhantomData }
    }

    /// The first pixels of one row: (1, 1, w, c) with a smaller w. Panics if there are not as many: a programming error.
    pub fn into_rows(self, w: usize) -> Self {
        let layout = self.layout.first_pixels(w);
        TensorMut { layout, ..self }
    }

    /// The first `len` values of a flat view, and the others. Panics if there are not as many: a programming error.
    pub fn into_split(self, len: usize) -> [Self; 2] {
        let Layout { shape, channel_offset, .. } = self.layout;
        assert!(self.layout.pixels() == 1 && len <= shape[3], "{len} values of {:?}", self.layout);
        let first = self.data.wrapping_add(channel_offset);
        // The two views lie in the one that is used up, and share no value.
        let part =
            |offset: usize, len: usize| TensorMut { data: first.wrapping_add(offset), layout: Layout::flat(len), buffer: PhantomData };
        [part(0, len), part(len, shape[3] - len)]
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> TensorMut<'_, T> {
        TensorMut { data: self.data, layout: self.layout, buffer: PhantomData }
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

impl<'a, T: Pod> TensorRef<'a, T> {
    /// The same view where T is f32: the CPU computes in that alone. Panics for another type: a programming error.
    pub fn as_f32(self) -> TensorRef<'a> {
        assert!(TypeId::of::<T>() == TypeId::of::<f32>(), "the CPU's ops compute in f32");
        TensorRef { data: self.data.cast(), layout: self.layout, buffer: PhantomData }
    }

    /// As an argument of a kernel: the address of the first channel of the first pixel.
    pub fn arg(&self) -> Arg {
        Arg::values_at(self.pixel_ptr(0) as u64, size_of::<T>())
    }

    /// Its pixel stride as an argument of a kernel. Panics from 2^32 on: the plan's frames are far smaller.
    pub fn stride_arg(&self) -> Arg {
        stride_arg(self.layout)
    }
}

impl<T: Pod> TensorMut<'_, T> {
    /// The same view where T is f32: the CPU computes in that alone. Panics for another type: a programming error.
    pub fn as_f32_mut(&mut self) -> TensorMut<'_> {
        assert!(TypeId::of::<T>() == TypeId::of::<f32>(), "the CPU's ops compute in f32");
        TensorMut { data: self.data.cast(), layout: self.layout, buffer: PhantomData }
    }

    /// As an argument of a kernel: the address of the first channel of the first pixel.
    pub fn arg(&mut self) -> Arg {
        Arg::values_at(self.pixel_ptr(0) as u64, size_of::<T>())
    }

    /// Its pixel stride as an argument of a kernel. Panics from 2^32 on: the plan's frames are far smaller.
    pub fn stride_arg(&self) -> Arg {
        stride_arg(self.layout)
    }
}

fn stride_arg(layout: Layout) -> Arg {
    assert!(layout.pixel_stride < 1 << 32, "{layout:?}");
    Arg::value(layout.pixel_stride as u32)
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
