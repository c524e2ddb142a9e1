//! Members of a team in one process, which read each other's memory.

use super::Collective;
use super::by_host::{ByHost, HostExchange};
use anyhow::{Result, ensure};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// What a member is told that waits for one that has left.
pub const ANOTHER_FAILED: &str = "another device of the team has failed";

/// Where the members of a team meet.
#[derive(Debug)]
struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
    size: usize,
}

#[derive(Debug)]
struct State {
    /// What each member has shown in this round, and in the one before: somebody who is slow to wake still finds it there, because no
    /// round ends without him.
    shown: Vec<Option<Shown>>,
    shown_before: Vec<Option<Shown>>,
    /// Members that have arrived in this round, and rounds that are over.
    arrived: usize,
    round: u64,
    /// True once a member has left.
    is_over: bool,
}

/// Memory that a member lets the others read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    call: &'static str,
    first: usize,
    /// Bytes of a part; there is one for each member.
    bytes: usize,
}

/// A member.
#[derive(Debug)]
struct Member {
    meeting: Arc<Meeting>,
    rank: usize,
}

/// The members of a team of this process.
pub fn in_process(size: usize) -> Vec<Arc<dyn Collective>> {
    let state = State { shown: vec![None; size], shown_before: Vec::new(), arrived: 0, round: 0, is_over: false };
    let meeting = Arc::new(Meeting { state: Mutex::new(state), changed: Condvar::new(), size });
    (0..size).map(|rank| Arc::new(ByHost(Member { meeting: meeting.clone(), rank })) as Arc<dyn Collective>).collect()
}

impl Meeting {
    /// Waits until all members are here; what each of them shows.
    fn meet(&self, rank: usize, shown: Option<Shown>) -> Result<Vec<Option<Shown>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.shown[rank] = shown;
        state.arrived += 1;
        let round = state.round;
        if state.arrived == self.size {
            state.arrived = 0;
            state.round += 1;
            state.shown_before = state.shown.clone();
            self.changed.notify_all();
        }
        let state = self.changed.wait_while(state, |state| state.round == round && !state.is_over).unwrap_or_else(PoisonError::into_inner);
        ensure!(state.round > round, "{ANOTHER_FAILED}");
        Ok(state.shown_before.clone())
    }
}

impl Member {
    /// Shows `from`, parts of `bytes`, and calls `take` with what each member shows, while all of it stays as it is.
    fn show(&self, call: &'static str, from: *const u8, bytes: usize, mut take: impl FnMut(usize, *const u8)) -> Result<()> {
        let own = Shown { call, first: from as usize, bytes };
        let all = self.meeting.meet(self.rank, Some(own))?;
        for (rank, shown) in all.into_iter().enumerate() {
            match shown {
                Some(shown) if (shown.call, shown.bytes) == (call, bytes) => take(rank, shown.first as *const u8),
                other => anyhow::bail!("member {} of a team asks for {own:?}, and member {rank} for {other:?}", self.rank),
            }
        }
        // Nobody goes on, and changes what it has shown, before all have read it.
        self.meeting.meet(self.rank, None)?;
        Ok(())
    }
}

impl HostExchange for Member {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.size
    }

    unsafe fn gather(&self, memory: *mut u8, bytes: usize) -> Result<()> {
        self.show("gather", memory, bytes, |rank, theirs| {
            if rank != self.rank {
                let offset = rank * bytes;
                // SAFETY: each member has promised so many bytes, writes to the parts of the others alone, and reads theirs of their own.
                unsafe { std::ptr::copy_nonoverlapping(theirs.wrapping_add(offset), memory.wrapping_add(offset), bytes) }
            }
        })
    }

    unsafe fn exchange(&self, from: *const u8, to: *mut u8, bytes: usize) -> Result<()> {
        self.show("exchange", from, bytes, |rank, theirs| {
            // SAFETY: each member has promised so many bytes; `to` is this member's alone.
            unsafe { std::ptr::copy_nonoverlapping(theirs.wrapping_add(self.rank * bytes), to.wrapping_add(rank * bytes), bytes) }
        })
    }

    fn leave(&self) {
        self.meeting.state.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.meeting.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_host::assert_exchanges;
    use super::*;
    use crate::device::Device;

    /// Runs every member on a thread of its own.
    fn together<V: Send>(size: usize, each: impl Fn(&dyn Collective) -> V + Sync) -> Vec<V> {
        std::thread::scope(|scope| {
            let run = |member: Arc<dyn Collective>| {
                scope.spawn({
                    let each = &each;
                    move || each(&*member)
                })
            };
            let threads: Vec<_> = in_process(size).into_iter().map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn parts_come_to_their_places() {
        for size in 1..5 {
            together(size, assert_exchanges);
        }
    }

    #[test]
    fn who_waits_for_a_member_that_has_left_is_told() {
        let ends = together(3, |member| {
            if member.rank() == 1 {
                member.leave();
                return String::new();
            }
            let mut all = [0_u8; 3];
            // SAFETY: there is a byte for each member.
            unsafe { member.gather(&Device::Cpu, all.as_mut_ptr(), 1) }.unwrap_err().to_string()
        });
        assert_eq!(ends, ["another device of the team has failed", "", "another device of the team has failed"]);
    }

    #[test]
    fn members_that_do_different_things_are_told() {
        let ends = together(2, |member| {
            let (mut all, to) = ([0_u8; 4], &mut [0_u8; 4]);
            // SAFETY: there are two bytes for each member.
            let end = unsafe {
                match member.rank() {
                    0 => member.gather(&Device::Cpu, all.as_mut_ptr(), 2),
                    _ => member.exchange(&Device::Cpu, all.as_ptr(), to.as_mut_ptr(), 2),
                }
            };
            member.leave();
            end.is_err()
        });
        assert_eq!(ends, [true, true]);
    }
}
