//! Prepares the next job while the program works on the one before. The jobs are the micrographs of a batch, or the batches of
//! a training.

use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;

/// Prepares jobs on a thread of its own while `consume` works on the job before. At most three jobs are in memory at any time:
/// one is being prepared, one waits, and one is being consumed. When `consume` breaks off, the work ends, and the value that it
/// broke off with is returned.
///
/// A job is taken from `jobs` only when its preparation begins, so an iterator that ends when a run is to stop leaves
/// nothing half done.
pub fn ahead<J: Send, P: Send, B>(
    jobs: impl IntoIterator<Item = J, IntoIter: Send>,
    prepare: impl Fn(&J) -> P + Sync,
    mut consume: impl FnMut(J, P) -> ControlFlow<B>,
) -> Option<B> {
    let (jobs, prepare) = (jobs.into_iter(), &prepare);
    std::thread::scope(|scope| {
        let (send, receive) = sync_channel(1);
        scope.spawn(move || {
            for job in jobs {
                let prepared = prepare(&job);
                // Sending fails once the consumer has broken off and nobody listens any more.
                if send.send((job, prepared)).is_err() {
                    break;
                }
            }
        });
        for (job, prepared) in receive {
            if let ControlFlow::Break(value) = consume(job, prepared) {
                return Some(value);
            }
        }
        None
    })
}
