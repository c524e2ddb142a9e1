//! The devices of a run, each with a model on it, and the loop that keeps them busy: while a network works on one micrograph, the next
//! ones are read and preprocessed, and the files of those before are written.

use crate::ahead::ahead;
use crate::device::Device;
use crate::device::gpu::driver::{Meaning, means};
use crate::net::inference::peaks::UnderWay;
use crate::net::{Model, PeakFinders, Views};
use crate::ops::Compute;
use crate::pick::queue::{Place, Queue, Ticket};
use crate::pick::run::{Begun, Input, Ready, Seen, Source, prepare};
use crate::pick::settings::Sight;
use crate::pick::slots::Slots;
use anyhow::{Context, Result, anyhow, ensure};
use std::iter::from_fn;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

/// The devices of a run, in the order in which they were asked for. One that fails leaves.
pub struct Workers<'a> {
    all: Vec<Worker<'a>>,
    /// What is to be told of those that have left.
    lost: Vec<String>,
}

/// A device with a model on it. One thread drives it, and others read and prepare micrographs for it.
struct Worker<'a> {
    name: String,
    finders: PeakFinders<'a>,
    /// On a GPU: the places in which it prepares micrographs.
    slots: Option<Arc<Slots>>,
    /// Threads that read and prepare.
    loaders: usize,
}

/// A device by the name that the user knows it by, such as `GPU 1`.
pub type Named = (String, Compute);

/// Threads that read and prepare micrographs for one of `devices`, where nobody says how many: for all of them together half as many
/// as there are cores, and four at most for each.
fn usual_loaders(devices: usize) -> usize {
    (rayon::current_num_threads() / (2 * devices.max(1))).clamp(1, 4)
}

impl<'a> Workers<'a> {
    /// Devices with a model. `sizes`: the peaks get a size, as vesicles need it; `cap`: the most peaks of a micrograph.
    ///
    /// Errors: there is no device, or one has not enough memory to prepare micrographs.
    pub fn new(devices: &[Named], model: &'a Model, sizes: bool, cap: usize) -> Result<Self> {
        Self::with_loaders(usual_loaders(devices.len()), devices, model, sizes, cap)
    }

    /// The same with a number of threads that read and prepare for each device, one at least.
    ///
    /// Errors: as `new`.
    pub fn with_loaders(loaders: usize, devices: &[Named], model: &'a Model, sizes: bool, cap: usize) -> Result<Self> {
        let loaders = loaders.max(1);
        ensure!(!devices.is_empty(), "no device to pick on");
        let worker = |(name, compute): &Named| {
            let slots = match &compute.device {
                Device::Cpu | Device::Reference => None,
                // Every micrograph that is being prepared or waits for its turn needs a place, and so does one under way in the network.
                Device::Gpu(gpu) => Some(Slots::new(gpu, loaders + 2).with_context(|| name.clone())?),
            };
            Ok(Worker { name: name.clone(), finders: PeakFinders::new(compute, model, sizes, cap), slots, loaders })
        };
        Ok(Workers { all: devices.iter().map(worker).collect::<Result<_>>()?, lost: Vec::new() })
    }

    /// One device.
    ///
    /// Errors: as `new`.
    pub fn one(compute: &Compute, model: &'a Model, sizes: bool, cap: usize) -> Result<Self> {
        Self::new(&[(compute.device.describe(), compute.clone())], model, sizes, cap)
    }

    /// The same with several views of each micrograph, whose heat maps are averaged.
    pub fn averaging(mut self, views: Views) -> Self {
        self.all = self.all.into_iter().map(|one| Worker { finders: one.finders.averaging(views), ..one }).collect();
        self
    }

    /// Plans the network for a frame on every device, so that a frame that is too large for one of them is refused before any work.
    ///
    /// Errors: the network cannot be planned.
    pub fn plan(&mut self, frame: usize) -> Result<()> {
        let is_one = self.all.len() == 1;
        self.all.iter_mut().try_for_each(|one| {
            let planned = one.finders.get(frame).map(drop);
            if is_one { planned } else { planned.with_context(|| one.name.clone()) }
        })
    }

    /// The networks of the first device, one for each frame: for work that is done before the micrographs are dealt out.
    pub fn finders(&mut self) -> &mut PeakFinders<'a> {
        &mut self.all[0].finders
    }

    /// What is to be told of devices that have failed, once.
    pub fn take_losses(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lost)
    }
}

/// Micrographs that the network has seen and that nobody has taken to write their files, at most.
const MOST_TO_WRITE: usize = 2;
/// A device may be ahead of the slowest one by as many micrographs, times the number of devices.
const MOST_AHEAD: usize = 16;

/// Shows every micrograph of a source to the network, and gives its peaks, or why there are none, to `consume`, in the source's order
/// and on a thread of its own: while it writes, the networks work on the next micrographs, and others are read.
///
/// A device that fails for good leaves, and the others do what it had begun.
///
/// Errors: the last device has failed for good. `consume` was told so of one micrograph; those after it are not begun.
pub fn each<J: AsRef<Input> + Send>(
    source: Source<J>,
    workers: &mut Workers,
    sight: Sight,
    consume: impl FnMut(J, Result<Seen>) + Send,
) -> Result<()> {
    let Workers { all, lost } = workers;
    let queue = Queue::new(source, all.len(), MOST_AHEAD * all.len());
    let (send, receive) = sync_channel(MOST_TO_WRITE);
    let ends: Vec<End> = std::thread::scope(|scope| {
        let queue = &queue;
        scope.spawn(move || queue.write(receive, consume));
        let mut others = all.iter_mut();
        let first = others.next();
        let others: Vec<ScopedJoinHandle<End>> = others
            .map(|worker| {
                let send = send.clone();
                scope.spawn(move || worker.work(queue, sight, send))
            })
            .collect();
        let first = first.map(|worker| worker.work(queue, sight, send));
        first.into_iter().chain(others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)))).collect()
    });
    let mut ends = ends.into_iter();
    let mut last = Ok(());
    all.retain(|worker| match ends.next() {
        Some(End::Replaced(error)) => {
            lost.push(format!("{} has failed, and the others have done its micrographs: {error:#}", worker.name));
            false
        }
        Some(End::Lost(error)) => {
            last = Err(error);
            true
        }
        Some(End::Done) | None => true,
    });
    last
}

/// How a device's work ended.
enum End {
    /// There was nothing left to do.
    Done,
    /// It has failed, and others go on.
    Replaced(anyhow::Error),
    /// It has failed, and it was the last one.
    Lost(anyhow::Error),
}

type Delivery<J> = SyncSender<(usize, J, Result<Seen>)>;

impl Worker<'_> {
    fn work<J: AsRef<Input> + Send>(&mut self, queue: &Queue<J>, sight: Sight, deliver: Delivery<J>) -> End {
        let Worker { finders, slots, loaders, .. } = self;
        let place = queue.place();
        let mut desk = Desk { finders, flight: None, last_landed: Instant::now(), place: &place, deliver };
        let end = ahead(
            from_fn(|| place.next()),
            *loaders,
            |job| prepare(job.as_ref(), sight, slots.as_ref()),
            |next| {
                let step = match next {
                    None => desk.land(),
                    // This one was prepared while the last was worked on; nobody is to wait for it.
                    Some(_) if queue.is_stopped() => ControlFlow::Break(End::Done),
                    Some((job, ready)) => desk.take(job, ready),
                };
                if step.is_break() {
                    place.leave();
                }
                step
            },
        );
        // Where a run is stopped, a micrograph may still be under way.
        match end {
            Some(End::Done) | None => desk.land().break_value().unwrap_or(End::Done),
            Some(end) => end,
        }
    }
}

/// A micrograph whose work a GPU has not finished.
struct Flight<'q, 'a, J> {
    job: Ticket<'q, 'a, J>,
    ready: Ready,
    under_way: UnderWay,
    launched: Instant,
}

/// Where micrographs come to a device and leave it again in the same order. On a GPU the work for one is launched before anybody waits
/// for that of the one before.
struct Desk<'d, 'm, 'q, 'a, J> {
    finders: &'d mut PeakFinders<'m>,
    flight: Option<Flight<'q, 'a, J>>,
    last_landed: Instant,
    place: &'d Place<'q, 'a, J>,
    deliver: Delivery<J>,
}

impl<'q, 'a, J: AsRef<Input>> Desk<'_, '_, 'q, 'a, J> {
    /// Takes the next micrograph. Breaks off when the device has failed for good.
    fn take(&mut self, job: Ticket<'q, 'a, J>, ready: Result<Ready>) -> ControlFlow<End> {
        // A network of another frame may take the place of the one that is working.
        if self.flight.as_ref().is_some_and(|flight| ready.as_ref().is_ok_and(|ready| ready.frame() != flight.ready.frame())) {
            self.land()?;
        }
        let launched = Instant::now();
        let begun = ready.and_then(|ready| self.begin(ready).with_context(|| job.as_ref().name.clone()));
        match begun {
            Ok((ready, Begun::UnderWay(under_way))) => {
                let before = self.flight.replace(Flight { job, ready, under_way, launched });
                before.map_or(ControlFlow::Continue(()), |before| self.land_one(before))
            }
            Ok((ready, Begun::Found(peaks))) => {
                self.land()?;
                let seen = Seen { ready, peaks, network_seconds: launched.elapsed().as_secs_f64() };
                self.hand_over(job, Ok(seen))
            }
            // If the one before has failed for good, that is the cause, and it alone is told.
            Err(error) => {
                self.land()?;
                self.hand_over(job, Err(error))
            }
        }
    }

    fn begin(&mut self, mut ready: Ready) -> Result<(Ready, Begun)> {
        let frame = ready.frame();
        let begun = ready.begin(self.finders.get(frame)?)?;
        Ok((ready, begun))
    }

    /// Waits for the micrograph that is under way, if one is.
    fn land(&mut self) -> ControlFlow<End> {
        let flight = self.flight.take();
        flight.map_or(ControlFlow::Continue(()), |flight| self.land_one(flight))
    }

    fn land_one(&mut self, flight: Flight<'q, 'a, J>) -> ControlFlow<End> {
        let Flight { job, mut ready, under_way, launched } = flight;
        let peaks = self.finders.get(ready.frame()).and_then(|finder| ready.landed(finder, under_way));
        // The GPU began with it when it was launched, or when the one before was done.
        let network_seconds = launched.max(self.last_landed).elapsed().as_secs_f64();
        self.last_landed = Instant::now();
        let seen = peaks.map(|peaks| Seen { ready, peaks, network_seconds }).with_context(|| job.as_ref().name.clone());
        self.hand_over(job, seen)
    }

    fn hand_over(&mut self, job: Ticket<'q, 'a, J>, seen: Result<Seen>) -> ControlFlow<End> {
        match seen {
            Err(error) if means(&error, Meaning::Lost) => {
                if self.place.is_replaced() {
                    return ControlFlow::Break(End::Replaced(error)); // the job goes back to the queue
                }
                job.deliver(Err(error), &self.deliver);
                ControlFlow::Break(End::Lost(anyhow!("{LOST}")))
            }
            seen => {
                job.deliver(seen, &self.deliver);
                ControlFlow::Continue(())
            }
        }
    }
}

/// What is said when a GPU has failed for good.
const LOST: &str = "the GPU has failed, and nothing can be done with it in this run, so the micrographs that are left were not begun; use \
                    another GPU (--gpus) or the CPU (--gpus -1)";
