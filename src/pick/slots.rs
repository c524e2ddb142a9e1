//! Micrographs on their way through a GPU: several places, so that the next ones are uploaded and pre-processed on a stream of their
//! own while the network works on this one.

use crate::compat::Compat;
use crate::device::gpu::{Gpu, Moment};
use crate::formats::image::Micrograph;
use crate::net::PeakFinder;
use crate::net::inference::peaks::UnderWay;
use crate::ops::heat_map::Peak;
use crate::preprocess::Prepared;
use crate::preprocess::geometry::Geometry;
use crate::preprocess::gpu::Preprocessor;
use crate::preprocess::ground::Ground;
use anyhow::{Context, Result};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The places, and their stream.
#[derive(Debug)]
pub struct Slots {
    free: Mutex<Vec<Slot>>,
    one_is_free: Condvar,
    gpu: Gpu,
}

#[derive(Debug)]
struct Slot {
    preprocessor: Preprocessor,
    /// The image is there.
    ready: Moment,
}

/// A micrograph in one of the places, which is free again when this is dropped.
#[derive(Debug)]
pub struct InSlot {
    slots: Arc<Slots>,
    slot: Option<Slot>,
    geometry: Geometry,
    is_shown: bool,
    /// The GPU, with the picker's stream, that may still work with the place.
    is_under_way: Option<Gpu>,
}

impl Slots {
    /// Free places, two at least.
    ///
    /// Errors: the device has not as much memory.
    pub fn new(gpu: &Gpu, places: usize) -> Result<Arc<Self>> {
        let gpu = gpu.on_stream(gpu.driver().create_stream()?);
        let slots = Slots { free: Mutex::default(), one_is_free: Condvar::new(), gpu };
        let first = Preprocessor::new(&slots.gpu)?;
        let others = (1..places.max(2)).map(|_| first.another(&slots.gpu)).collect::<Result<Vec<_>>>()?;
        for preprocessor in std::iter::once(first).chain(others) {
            let slot = Slot { preprocessor, ready: slots.gpu.record()? };
            slots.free.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        }
        Ok(Arc::new(slots))
    }

    /// Waits for a free place, and puts all work of pre-processing into the stream. `is_shown`: frame D comes back, too.
    ///
    /// Errors: as `Preprocessor::start`.
    pub fn prepare(
        self: &Arc<Self>,
        micrograph: &Micrograph,
        frame: usize,
        ground: Ground,
        compat: &Compat,
        is_shown: bool,
    ) -> Result<InSlot> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = loop {
            match free.pop() {
                Some(slot) => break slot,
                None => free = self.one_is_free.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(free);
        let geometry = Geometry::new(micrograph.nx, micrograph.ny, frame);
        let mut in_slot = InSlot { slots: self.clone(), slot: Some(slot), geometry, is_shown, is_under_way: None };
        if let Some(slot) = &mut in_slot.slot {
            slot.preprocessor.start(&self.gpu, micrograph, frame, ground, compat)?;
            self.gpu.record_again(&slot.ready)?;
        }
        Ok(in_slot)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.gpu.driver().destroy_stream(self.gpu.stream());
    }
}

impl InSlot {
    /// Sizes of all frames.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// network -> decode, on the picker's stream: what `preprocess` says of the micrograph, and its peaks. A micrograph whose
    /// pixels are all equal has no peaks. The place is free afterwards.
    ///
    /// Errors: 1 % or more of the pixels are no numbers, or the device fails.
    pub fn peaks(mut self, picker: &mut PeakFinder) -> Result<(Prepared, Vec<Peak>)> {
        let under_way = self.launch(picker)?;
        self.landed(picker, under_way)
    }

    /// Puts all work of the network into the picker's stream, without waiting.
    ///
    /// Errors: the device fails.
    pub fn launch(&mut self, picker: &mut PeakFinder) -> Result<UnderWay> {
        let gpu = picker.gpu().context("a micrograph on a GPU, and a picker on the CPU")?.clone();
        let Slot { preprocessor, ready } = self.slot.as_mut().context("a micrograph that was picked before")?;
        self.is_under_way = Some(gpu.clone());
        gpu.wait_for(ready)?;
        preprocessor.put_read_back(&gpu, self.is_shown)?;
        picker.launch(preprocessor.image())
    }

    /// Waits for that work: what `peaks` gives.
    ///
    /// Errors: as `peaks`.
    pub fn landed(mut self, picker: &mut PeakFinder, under_way: UnderWay) -> Result<(Prepared, Vec<Peak>)> {
        let peaks = picker.landed(under_way)?;
        self.is_under_way = None;
        let slot = self.slot.as_mut().context("a micrograph that was picked before")?;
        let prepared = slot.preprocessor.prepared()?;
        let peaks = if prepared.constant { Vec::new() } else { peaks };
        Ok((prepared, peaks))
    }
}

impl Drop for InSlot {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        if let Some(gpu) = &self.is_under_way {
            // Work that was put into the picker's stream may still write to the place, so it is waited for before the place is given
            // to another. If waiting fails too, the error that is told is the first one.
            let _ = gpu.synchronize();
        }
        // If nobody has waited for its work, the preprocessor does before it takes the next micrograph.
        self.slots.free.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        self.slots.one_is_free.notify_one();
    }
}
