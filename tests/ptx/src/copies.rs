//! Asynchronous copies that are under way. A copy lands when its thread waits for it and no sooner, which is the latest that
//! hardware may take; until then its target holds what nobody has written.

/// A copy from the device's memory to the block's.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// First byte in shared memory.
    pub to: usize,
    /// Address of the source.
    pub from: u64,
    /// Bytes that are written.
    pub bytes: usize,
    /// Bytes that are read; the others become zero.
    pub read: usize,
    /// The group of its thread to which it belongs.
    group: u32,
}

#[derive(Debug, Default)]
struct OfThread {
    begun: Vec<Begun>,
    committed: u32,
}

/// The copies of a block.
#[derive(Debug)]
pub struct Copies {
    threads: Vec<OfThread>,
    /// Targets of the copies that one instruction begins.
    pub targets: Vec<u64>,
    /// Its threads that read something.
    pub readers: Vec<u16>,
}

impl Copies {
    /// For a block of so many threads.
    pub fn new(threads: usize) -> Self {
        let targets = vec![0; threads.next_multiple_of(32)];
        Copies { threads: (0..threads).map(|_| OfThread::default()).collect(), targets, readers: Vec::new() }
    }

    /// Nothing is under way.
    pub fn clear(&mut self) {
        for thread in &mut self.threads {
            thread.begun.clear();
            thread.committed = 0;
        }
    }

    /// A thread begins a copy.
    pub fn begin(&mut self, thread: usize, to: usize, from: u64, bytes: usize, read: usize) {
        let group = self.threads[thread].committed;
        self.threads[thread].begun.push(Begun { to, from, bytes, read, group });
    }

    /// The copies that a thread has begun since the last time become a group.
    pub fn commit(&mut self, thread: usize) {
        self.threads[thread].committed += 1;
    }

    /// Takes out the next copy of all groups but the latest `kept`.
    pub fn land(&mut self, thread: usize, kept: u32) -> Option<Begun> {
        let OfThread { begun, committed } = &mut self.threads[thread];
        let first = *begun.first()?;
        // What belongs to no group yet has the number of the next one.
        (first.group + kept < *committed).then(|| begun.remove(0))
    }
}
