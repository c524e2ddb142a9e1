//! Streams as queues of work that nobody has done yet. Work starts only when somebody waits for it, or for what comes after it,
//! and then as much of it runs as has to, in an order that is drawn among all those that events allow. A program that forgets to
//! wait finds memory as it was before, every time.

use anyhow::{Context, Result};
use epicker::random::Random;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Everything.
    All,
    /// This stream, until it has got this far.
    Stream(u64, u64),
    /// This event, at the time that it was recorded this many times.
    Event(u64, u64),
}

#[derive(Debug)]
enum Entry<W> {
    Work(W),
    Record { event: u64, time: u64 },
    Wait { event: u64, time: u64 },
}

#[derive(Debug)]
struct Queue<W> {
    entries: VecDeque<Entry<W>>,
    /// Entries that were ever put in, and those that were taken out.
    put: u64,
    taken: u64,
}

/// An event counts how often it was recorded, and how many of these have happened.
#[derive(Debug, Default)]
struct Recorded {
    asked: u64,
    happened: u64,
    last: Option<Instant>,
}

/// The streams of a device.
#[derive(Debug)]
pub struct Streams<W> {
    queues: BTreeMap<u64, Queue<W>>,
    events: HashMap<u64, Recorded>,
    random: Random,
    /// One entry in so many is taken from any stream that can go on; 0 stands for no entry.
    eager: usize,
}

impl<W> Streams<W> {
    /// No streams. Of three seeds one does nothing before it has to; the others also begin what nobody waits for.
    pub fn new(seed: u64) -> Self {
        let eager = [0, 4, 2][(seed % 3) as usize];
        Streams { queues: BTreeMap::new(), events: HashMap::new(), random: Random::new(seed, &[]), eager }
    }

    fn put(&mut self, stream: u64, entry: Entry<W>) {
        let queue = self.queues.entry(stream).or_insert_with(|| Queue { entries: VecDeque::new(), put: 0, taken: 0 });
        queue.entries.push_back(entry);
        queue.put += 1;
    }

    /// Puts work into a stream.
    pub fn work(&mut self, stream: u64, work: W) {
        self.put(stream, Entry::Work(work));
    }

    /// Puts an event into a stream.
    pub fn record(&mut self, stream: u64, event: u64) {
        let recorded = self.events.entry(event).or_default();
        recorded.asked += 1;
        let time = recorded.asked;
        self.put(stream, Entry::Record { event, time });
    }

    /// What is put into the stream from now on starts after the event as it was recorded last. An event that was never recorded is
    /// not waited for, as CUDA has it.
    pub fn wait(&mut self, stream: u64, event: u64) {
        let time = self.events.get(&event).map_or(0, |recorded| recorded.asked);
        self.put(stream, Entry::Wait { event, time });
    }

    /// When an event happened; none if it was not recorded, or was recorded again and that has not happened.
    pub fn happened(&self, event: u64) -> Option<Instant> {
        let recorded = self.events.get(&event)?;
        recorded.last.filter(|_| recorded.happened == recorded.asked)
    }

    /// The event as it was recorded last.
    pub fn event(&self, event: u64) -> Goal {
        Goal::Event(event, self.events.get(&event).map_or(0, |recorded| recorded.asked))
    }

    /// All that is in the stream now.
    pub fn stream(&self, stream: u64) -> Goal {
        Goal::Stream(stream, self.queues.get(&stream).map_or(0, |queue| queue.put))
    }

    /// Forgets all work: a device that has failed does nothing any more.
    pub fn clear(&mut self) {
        self.queues.clear();
        self.events.values_mut().for_each(|recorded| recorded.happened = recorded.asked);
    }

    /// All work that has not started.
    pub fn waiting(&mut self) -> impl Iterator<Item = &mut W> {
        let entries = self.queues.values_mut().flat_map(|queue| &mut queue.entries);
        entries.filter_map(|entry| if let Entry::Work(work) = entry { Some(work) } else { None })
    }

    fn has_happened(&self, event: u64, time: u64) -> bool {
        time == 0 || self.events.get(&event).is_none_or(|recorded| recorded.happened >= time)
    }

    fn is_reached(&self, goal: Goal) -> bool {
        match goal {
            Goal::All => self.queues.values().all(|queue| queue.entries.is_empty()),
            Goal::Stream(stream, end) => self.queues.get(&stream).is_none_or(|queue| queue.taken >= end),
            Goal::Event(event, time) => self.has_happened(event, time),
        }
    }

    /// True if the first entry of a queue may run.
    fn can_go_on(&self, queue: &Queue<W>) -> bool {
        match queue.entries.front() {
            Some(Entry::Wait { event, time }) => self.has_happened(*event, *time),
            Some(_) => true,
            None => false,
        }
    }

    /// The stream into which an event was put.
    fn recorder(&self, event: u64, time: u64) -> Option<u64> {
        let records = |entry: &Entry<W>| matches!(entry, Entry::Record { event: e, time: t } if (*e, *t) == (event, time));
        self.queues.iter().find(|(_, queue)| queue.entries.iter().any(records)).map(|(&stream, _)| stream)
    }

    /// A stream whose first entry has to run, and may, before the goal is reached.
    fn needed(&self, goal: Goal) -> Option<u64> {
        let mut stream = match goal {
            Goal::All => *self.queues.iter().find(|(_, queue)| self.can_go_on(queue))?.0,
            Goal::Stream(stream, _) => stream,
            Goal::Event(event, time) => self.recorder(event, time)?,
        };
        // An event was recorded before anybody could wait for it, so this ends.
        while let Some(Entry::Wait { event, time }) = self.queues[&stream].entries.front() {
            if self.has_happened(*event, *time) {
                break;
            }
            stream = self.recorder(*event, *time)?;
        }
        Some(stream)
    }

    /// Takes the next piece of work out; none once the goal is reached.
    ///
    /// Errors: the goal cannot be reached, because what is waited for was never put into a stream.
    pub fn next(&mut self, goal: Goal) -> Result<Option<W>> {
        while !self.is_reached(goal) {
            let able: Vec<u64> = self.queues.iter().filter(|(_, queue)| self.can_go_on(queue)).map(|(&stream, _)| stream).collect();
            let takes_any = matches!(goal, Goal::All) || self.eager > 0 && self.random.below(self.eager) == 0;
            let stream = if takes_any && !able.is_empty() {
                able[self.random.below(able.len())]
            } else {
                self.needed(goal).context("a wait for what is in no stream")?
            };
            let Some(queue) = self.queues.get_mut(&stream) else { continue };
            queue.taken += 1;
            match queue.entries.pop_front() {
                Some(Entry::Work(work)) => return Ok(Some(work)),
                Some(Entry::Record { event, time }) => {
                    let recorded = self.events.entry(event).or_default();
                    recorded.happened = recorded.happened.max(time);
                    recorded.last = Some(Instant::now());
                }
                Some(Entry::Wait { .. }) | None => {}
            }
        }
        Ok(None)
    }
}
