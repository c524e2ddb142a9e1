//! The micrographs of a run, dealt out to the devices that work on it, and what came of them in their order again.
//!
//! Each device takes the next micrograph when it has room for one. What a device that has failed leaves undone goes to the others,
//! first of all. So which device works on a micrograph is a matter of chance, and the order in which their files are written is not.

use crate::pick::run::Source;
use std::collections::BTreeMap;
use std::iter::{Enumerate, Fuse};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The micrographs of a run that are still to be done.
pub struct Queue<'a, J> {
    state: Mutex<State<'a, J>>,
    changed: Condvar,
    is_stopped: &'a (dyn Fn() -> bool + Sync),
    /// The most micrographs that are begun while the files of an earlier one are not written.
    most_ahead: usize,
}

struct State<'a, J> {
    source: Fuse<Enumerate<Box<dyn Iterator<Item = J> + Send + 'a>>>,
    /// Micrographs that came back from a device that has failed.
    returned: BTreeMap<usize, J>,
    /// True once the source has no other.
    is_exhausted: bool,
    /// Micrographs that came from the source.
    begun: usize,
    /// Micrographs on a device.
    dealt: usize,
    /// Micrographs whose files are written.
    written: usize,
    /// Devices that work.
    devices: usize,
    /// True once nobody writes files any more.
    is_over: bool,
}

/// A micrograph in the hands of a device. If it is dropped before it is delivered, another device gets it.
pub struct Ticket<'q, 'a, J> {
    queue: &'q Queue<'a, J>,
    number: usize,
    /// Set until it is delivered.
    job: Option<J>,
}

/// A device's place in a queue. Once it has left, it gets no other micrograph.
pub struct Place<'q, 'a, J> {
    queue: &'q Queue<'a, J>,
    has_left: AtomicBool,
}

impl<'a, J> Queue<'a, J> {
    /// The micrographs of a source, for so many devices.
    pub fn new(source: Source<'a, J>, devices: usize, most_ahead: usize) -> Self {
        let state = State {
            source: source.jobs.enumerate().fuse(),
            returned: BTreeMap::new(),
            is_exhausted: false,
            begun: 0,
            dealt: 0,
            written: 0,
            devices,
            is_over: false,
        };
        Queue { state: Mutex::new(state), changed: Condvar::new(), is_stopped: source.is_stopped, most_ahead }
    }

    /// A place for a device.
    pub fn place(&self) -> Place<'_, 'a, J> {
        Place { queue: self, has_left: AtomicBool::new(false) }
    }

    /// True if the run is to end.
    pub fn is_stopped(&self) -> bool {
        (self.is_stopped)()
    }

    fn state(&self) -> MutexGuard<'_, State<'a, J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State<'a, J>)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Gives what came of the micrographs to `consume` in their order, until every sender is gone. Where a run was stopped, or its
    /// last device has failed, micrographs that were never finished are passed over.
    pub fn write<S>(&self, delivered: Receiver<(usize, J, S)>, mut consume: impl FnMut(J, S)) {
        let _ends = Ends(self);
        let mut early = BTreeMap::new();
        let mut next = 0;
        for (number, job, seen) in delivered {
            early.insert(number, (job, seen));
            while let Some((job, seen)) = early.remove(&next) {
                consume(job, seen);
                next += 1;
                self.change(|state| state.written += 1);
            }
        }
        early.into_values().for_each(|(job, seen)| consume(job, seen));
    }
}

/// Lets no device wait for files that nobody writes: the writer may have panicked.
struct Ends<'q, 'a, J>(&'q Queue<'a, J>);

impl<J> Drop for Ends<'_, '_, J> {
    fn drop(&mut self) {
        self.0.change(|state| state.is_over = true);
    }
}

impl<'q, 'a, J> Place<'q, 'a, J> {
    /// Waits for the next micrograph; none once all are done, the run is to end, or the device has left. At the end it waits for the
    /// other devices, because one of them may fail and leave what it has.
    pub fn next(&self) -> Option<Ticket<'q, 'a, J>> {
        let queue = self.queue;
        let mut state = queue.state();
        loop {
            if self.has_left.load(Ordering::Relaxed) || state.is_over || queue.is_stopped() {
                return None;
            }
            let mut given = state.returned.pop_first();
            if given.is_none() && state.begun < state.written + queue.most_ahead {
                given = state.source.next();
                state.is_exhausted |= given.is_none();
                state.begun += usize::from(given.is_some());
            }
            if let Some((number, job)) = given {
                state.dealt += 1;
                return Some(Ticket { queue, number, job: Some(job) });
            }
            if state.is_exhausted && state.dealt == 0 {
                return None;
            }
            state = queue.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Leaves the queue: whoever waits for a micrograph for this device is woken, and gets none.
    pub fn leave(&self) {
        self.queue.change(|_| self.has_left.store(true, Ordering::Relaxed));
    }

    /// Says that the device has failed. True if others work on.
    pub fn is_replaced(&self) -> bool {
        let mut state = self.queue.state();
        state.devices -= 1;
        state.devices > 0
    }
}

impl<J> Ticket<'_, '_, J> {
    /// Hands over what came of the micrograph.
    pub fn deliver<S>(mut self, seen: S, to: &SyncSender<(usize, J, S)>) {
        let Some(job) = self.job.take() else { return };
        // Sending fails only if the writer has panicked, which the scope of its thread passes on.
        let _ = to.send((self.number, job, seen));
        self.queue.change(|state| state.dealt -= 1);
    }
}

impl<J> Deref for Ticket<'_, '_, J> {
    type Target = J;

    fn deref(&self) -> &J {
        match &self.job {
            Some(job) => job,
            None => unreachable!("a ticket is used up when it is delivered"),
        }
    }
}

impl<J> Drop for Ticket<'_, '_, J> {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            self.queue.change(|state| {
                state.dealt -= 1;
                state.returned.insert(self.number, job);
            });
        }
    }
}
