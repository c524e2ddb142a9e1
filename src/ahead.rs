//! Prepares the next jobs while the program works on the ones before. The jobs are the micrographs of a batch, or the batches of
//! a training.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Prepares jobs on threads of their own while `consume` works on the jobs before, in the order of the jobs. With N threads at most
/// N + 2 jobs are in memory at any time: N are being prepared, one more waits, and one is being consumed. When `consume` breaks off,
/// the work ends, and the value that it broke off with is returned.
///
/// `consume` gets none when it has to wait for the next job, and once more after the last one: time for what it has put off.
///
/// A job is taken from `jobs` only when its preparation begins, so an iterator that ends when a run is to stop leaves
/// nothing half done.
pub fn ahead<J: Send, P: Send, B>(
    jobs: impl IntoIterator<Item = J, IntoIter: Send>,
    threads: usize,
    prepare: impl Fn(&J) -> P + Sync,
    mut consume: impl FnMut(Option<(J, P)>) -> ControlFlow<B>,
) -> Option<B> {
    let jobs = Mutex::new(jobs.into_iter().enumerate().fuse());
    let line = Line::new(threads + 1);
    std::thread::scope(|scope| {
        let _ends = Ends { line: &line, always: true };
        for _ in 0..threads {
            scope.spawn(|| {
                let _ends = Ends { line: &line, always: false };
                loop {
                    // Whoever holds the jobs waits for room, so that jobs begin in their order.
                    let mut next = locked(&jobs);
                    if !line.wait_for_room() {
                        return;
                    }
                    let Some((i, job)) = next.next() else { break };
                    line.begin();
                    drop(next);
                    let prepared = prepare(&job);
                    line.put(i, (job, prepared));
                }
                line.end();
            });
        }
        loop {
            if !line.is_next_there()
                && let ControlFlow::Break(value) = consume(None)
            {
                return Some(value);
            }
            let next = Some(line.take()?);
            if let ControlFlow::Break(value) = consume(next) {
                return Some(value);
            }
        }
    })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prepared jobs that wait for their turn.
struct Line<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// Most jobs that were begun and not taken.
    most: usize,
}

struct State<T> {
    waiting: BTreeMap<usize, T>,
    begun: usize,
    taken: usize,
    /// True once no other job will be begun.
    is_last: bool,
    /// True once nobody is to wait any more.
    is_over: bool,
}

impl<T> Line<T> {
    fn new(most: usize) -> Self {
        let state = State { waiting: BTreeMap::new(), begun: 0, taken: 0, is_last: false, is_over: false };
        Line { state: Mutex::new(state), changed: Condvar::new(), most }
    }

    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        change(&mut locked(&self.state));
        self.changed.notify_all();
    }

    fn wait_while(&self, is_to_wait: impl Fn(&State<T>) -> bool) -> MutexGuard<'_, State<T>> {
        self.changed.wait_while(locked(&self.state), |state| !state.is_over && is_to_wait(state)).unwrap_or_else(PoisonError::into_inner)
    }

    /// False if nothing is to be begun any more.
    fn wait_for_room(&self) -> bool {
        !self.wait_while(|state| state.begun - state.taken >= self.most).is_over
    }

    fn begin(&self) {
        self.change(|state| state.begun += 1);
    }

    fn put(&self, i: usize, prepared: T) {
        self.change(|state| drop(state.waiting.insert(i, prepared)));
    }

    fn end(&self) {
        self.change(|state| state.is_last = true);
    }

    /// True if nobody has to wait for the next job.
    fn is_next_there(&self) -> bool {
        let state = locked(&self.state);
        state.waiting.contains_key(&state.taken)
    }

    /// The next job in order; none after the last.
    fn take(&self) -> Option<T> {
        let mut state = self.wait_while(|state| !(state.waiting.contains_key(&state.taken) || state.is_last && state.begun == state.taken));
        let next = state.taken;
        let taken = state.waiting.remove(&next).filter(|_| !state.is_over)?;
        state.taken += 1;
        self.changed.notify_all();
        Some(taken)
    }
}

/// Lets nobody wait any more: when the consumer leaves, and when a thread panics, because what it has begun never comes. The scope
/// passes the panic on.
struct Ends<'a, T> {
    line: &'a Line<T>,
    always: bool,
}

impl<T> Drop for Ends<'_, T> {
    fn drop(&mut self) {
        if self.always || std::thread::panicking() {
            self.line.change(|state| state.is_over = true);
        }
    }
}
