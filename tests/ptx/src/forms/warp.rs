//! What the threads of a warp tell each other.

use super::{Builder, Lowered};
use crate::block::Block;
use crate::code::{Effect, Lanes, Op, Row};
use crate::fault::Fault;
use crate::parse::{Class, Instruction, Operand};
use anyhow::{bail, ensure};

/// Which thread's value a thread takes.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Up,
    Down,
    Exclusive,
    Index,
}

/// `shfl.sync`. Source: PTX ISA, section "shfl.sync", its pseudo-code.
struct Shuffle {
    mode: Mode,
    to: Row,
    /// Where it goes whether the other thread was in range.
    in_range: Option<Row>,
    from: Row,
    /// Distance, mask or index.
    by: Row,
    /// The bound of the lane in bits 0 to 4, the mask of the segment in bits 8 to 12.
    clamp: Row,
    members: Row,
}

impl Mode {
    /// The source, and whether it is in range.
    fn source(self, lane: u32, by: u32, clamp: u32) -> (u32, bool) {
        let (by, bound, segment) = (by & 31, clamp & 31, clamp >> 8 & 31);
        let most = lane & segment | bound & !segment;
        let least = lane & segment;
        let (source, in_range) = match self {
            Mode::Up => (lane.wrapping_sub(by), lane as i32 - by as i32 >= most as i32),
            Mode::Down => (lane + by, lane + by <= most),
            Mode::Exclusive => (lane ^ by, lane ^ by <= most),
            Mode::Index => (least | by & !segment, least | by & !segment <= most),
        };
        if in_range { (source, true) } else { (lane, false) }
    }
}

impl Effect for Shuffle {
    fn run(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        for warp in lanes.list.chunk_by(|a, b| a / 32 == b / 32) {
            let first = usize::from(warp[0] / 32) * 32;
            let present = warp.iter().fold(0_u32, |bits, lane| bits | 1 << (lane % 32));
            let mut values = [0_u32; 32];
            for &lane in warp {
                // SAFETY: rows of the program, of this width.
                unsafe {
                    values[usize::from(lane) % 32] = *block.row::<u32>(self.from).add(usize::from(lane));
                    let members = *block.row::<u32>(self.members).add(usize::from(lane));
                    if members >> (lane % 32) & 1 == 0 {
                        return Err(block.fault(usize::from(lane), format!("takes part, but the mask {members:#x} does not name it")));
                    }
                    if members & !present != 0 {
                        block.whole_warps(Lanes { list: warp, all: false }, members)?;
                    }
                }
            }
            for &lane in warp {
                let lane = usize::from(lane);
                // SAFETY: as above; each thread's operands are read before its targets are written.
                unsafe {
                    let (by, clamp) = (*block.row::<u32>(self.by).add(lane), *block.row::<u32>(self.clamp).add(lane));
                    let (source, in_range) = self.mode.source(lane as u32 % 32, by, clamp);
                    if present >> source & 1 == 0 {
                        return Err(
                            block.fault(lane, format!("takes the value of thread {}, which does not take part", first + source as usize))
                        );
                    }
                    *block.row::<u32>(self.to).add(lane) = values[source as usize];
                    if let Some(row) = self.in_range {
                        *block.row::<u8>(row).add(lane) = u8::from(in_range);
                    }
                }
            }
        }
        Ok(())
    }
}

/// `vote.sync`: how a predicate stands in the threads of a warp.
struct Vote {
    kind: Kind,
    to: Row,
    predicate: Row,
    members: Row,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    All,
    Any,
    Ballot,
}

impl Effect for Vote {
    fn run(&self, block: &mut Block, lanes: Lanes) -> Result<(), Box<Fault>> {
        for warp in lanes.list.chunk_by(|a, b| a / 32 == b / 32) {
            // SAFETY: rows of the program, of these widths.
            unsafe {
                let members = *block.row::<u32>(self.members).add(usize::from(warp[0]));
                block.whole_warps(Lanes { list: warp, all: false }, members)?;
                let ballot = warp
                    .iter()
                    .fold(0_u32, |bits, &lane| bits | u32::from(*block.row::<u8>(self.predicate).add(usize::from(lane))) << (lane % 32));
                let count = warp.len() as u32;
                for &lane in warp {
                    let lane = usize::from(lane);
                    match self.kind {
                        Kind::All => *block.row::<u8>(self.to).add(lane) = u8::from(ballot.count_ones() == count),
                        Kind::Any => *block.row::<u8>(self.to).add(lane) = u8::from(ballot != 0),
                        Kind::Ballot => *block.row::<u32>(self.to).add(lane) = ballot,
                    }
                }
            }
        }
        Ok(())
    }
}

pub fn lower(b: &mut Builder, i: &Instruction, words: &[&str]) -> Lowered {
    match (words, &i.operands[..]) {
        (["shfl", "sync", mode, "b32"], [to, from, by, clamp, members]) => {
            let mode = match *mode {
                "up" => Mode::Up,
                "down" => Mode::Down,
                "bfly" => Mode::Exclusive,
                "idx" => Mode::Index,
                other => bail!("a shuffle by `{other}`"),
            };
            let (to, in_range) = match to {
                Operand::Pair(pair) => (&pair[0], Some(b.write(&pair[1], Class::Predicate)?)),
                to => (to, None),
            };
            let [from, by, clamp, members] =
                [b.read(from, Class::B32)?, b.read(by, Class::B32)?, b.read(clamp, Class::B32)?, b.read(members, Class::B32)?];
            Ok(Some(Op::Effect(Box::new(Shuffle { mode, to: b.write(to, Class::B32)?, in_range, from, by, clamp, members }))))
        }
        (["vote", "sync", kind, form], [to, predicate, members]) => {
            let (kind, class) = match (*kind, *form) {
                ("all", "pred") => (Kind::All, Class::Predicate),
                ("any", "pred") => (Kind::Any, Class::Predicate),
                ("ballot", "b32") => (Kind::Ballot, Class::B32),
                _ => return Ok(None),
            };
            ensure!(matches!(predicate, Operand::Register(_)), "a vote on {predicate:?}");
            let (predicate, members) = (b.read(predicate, Class::Predicate)?, b.read(members, Class::B32)?);
            Ok(Some(Op::Effect(Box::new(Vote { kind, to: b.write(to, class)?, predicate, members }))))
        }
        _ => Ok(None),
    }
}
