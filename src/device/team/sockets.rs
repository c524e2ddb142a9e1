//! Members in several processes, on one node or on many, which exchange memory through sockets. The first member passes on what the
//! others send.

use super::by_host::{ByHost, HostExchange};
use super::{ANOTHER_FAILED, Collective};
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a member knows that belongs to the team.
pub type Token = [u8; 16];

/// How often the first member looks whether another one knocks.
const BEAT: Duration = Duration::from_millis(20);
/// For how long one that knocks may take to say who it is.
const GREETING: Duration = Duration::from_secs(10);

const GATHER: u8 = 1;
const EXCHANGE: u8 = 2;

/// A member: the first one with a stream to each of the others, in the order of their ranks, or another one with a stream to the first.
#[derive(Debug)]
struct Member {
    rank: usize,
    size: usize,
    streams: Mutex<Vec<TcpStream>>,
}

/// The first member, which waits for the others. Who knocks without the token is sent away.
///
/// Errors: `goes_on` says that nobody waits any longer, or a socket fails.
pub fn first(listener: &TcpListener, size: usize, token: Token, goes_on: impl Fn() -> Result<()>) -> Result<Arc<dyn Collective>> {
    listener.set_nonblocking(true).context("a socket that waits for the other processes of the team")?;
    let mut others: Vec<Option<TcpStream>> = (1..size).map(|_| None).collect();
    while others.iter().any(Option::is_none) {
        match listener.accept() {
            Ok((stream, _)) => {
                // Whoever it is, and whatever goes wrong with it: the others are still waited for.
                if let Ok((rank, stream)) = greeted(stream, size, token) {
                    others[rank - 1] = Some(stream);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                goes_on()?;
                std::thread::sleep(BEAT);
            }
            Err(error) => return Err(error).context("a socket that waits for the other processes of the team"),
        }
    }
    let mut streams: Vec<TcpStream> = others.into_iter().flatten().collect();
    streams.iter_mut().try_for_each(|stream| stream.write_all(&token)).context(ANOTHER_FAILED)?;
    Ok(Arc::new(ByHost(Member { rank: 0, size, streams: Mutex::new(streams) })))
}

/// Who knocks: its rank.
fn greeted(mut stream: TcpStream, size: usize, token: Token) -> Result<(usize, TcpStream)> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GREETING))?;
    let mut said = [0_u8; 16 + 8];
    stream.read_exact(&mut said)?;
    let rank = usize::from_le_bytes(said[16..].try_into()?);
    ensure!(said[..16] == token && (1..size).contains(&rank), "a stranger");
    stream.set_read_timeout(None)?;
    Ok((rank, stream))
}

/// Another member, which goes to the first one and waits until all are there.
///
/// Errors: the first one does not answer, or is that of another team.
pub fn other(address: SocketAddr, rank: usize, size: usize, token: Token, patience: Duration) -> Result<Arc<dyn Collective>> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, patience).with_context(|| format!("{address}: nobody answers"))?;
    stream.set_nodelay(true)?;
    stream.write_all(&[&token[..], &rank.to_le_bytes()].concat())?;
    stream.set_read_timeout(Some(patience.saturating_sub(begun.elapsed()).max(BEAT)))?;
    let mut answer = Token::default();
    stream.read_exact(&mut answer).with_context(|| format!("{address}: the other processes of the team did not come"))?;
    ensure!(answer == token, "{address}: another team");
    stream.set_read_timeout(None)?;
    Ok(Arc::new(ByHost(Member { rank, size, streams: Mutex::new(vec![stream]) })))
}

impl Member {
    fn streams(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all members give is brought together, and each gets what `of_rank` makes of it: for `gather` all parts, for `exchange` its own.
    fn pass_on(&self, call: u8, own: &[u8], got: &mut [u8], of_rank: impl Fn(&[Vec<u8>], usize) -> Vec<u8>) -> Result<()> {
        let mut streams = self.streams();
        let head = [&[call][..], &(own.len() as u64).to_le_bytes()].concat();
        let mut work = || -> std::io::Result<Option<String>> {
            if self.rank > 0 {
                let stream = &mut streams[0];
                stream.write_all(&head)?;
                stream.write_all(own)?;
                stream.read_exact(got)?;
                return Ok(None);
            }
            let mut all = vec![own.to_vec()];
            for (i, stream) in streams.iter_mut().enumerate() {
                let mut said = vec![0_u8; head.len()];
                stream.read_exact(&mut said)?;
                if said != head {
                    return Ok(Some(format!("member 0 of a team asks for {head:?}, and member {} for {said:?}", i + 1)));
                }
                let mut part = vec![0_u8; own.len()];
                stream.read_exact(&mut part)?;
                all.push(part);
            }
            for (i, stream) in streams.iter_mut().enumerate() {
                stream.write_all(&of_rank(&all, i + 1))?;
            }
            got.copy_from_slice(&of_rank(&all, 0));
            Ok(None)
        };
        match work() {
            Ok(None) => Ok(()),
            Ok(Some(different)) => bail!(different),
            Err(error) => Err(error).context(ANOTHER_FAILED),
        }
    }
}

impl HostExchange for Member {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    unsafe fn gather(&self, memory: *mut u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller promises a part of so many bytes for each member, and that nobody else touches them.
        let all = unsafe { std::slice::from_raw_parts_mut(memory, bytes * self.size) };
        let own = all[self.rank * bytes..][..bytes].to_vec();
        self.pass_on(GATHER, &own, all, |all, _| all.concat())
    }

    unsafe fn exchange(&self, from: *const u8, to: *mut u8, bytes: usize) -> Result<()> {
        // SAFETY: as in `gather`; the two do not overlap.
        let (from, to) =
            unsafe { (std::slice::from_raw_parts(from, bytes * self.size), std::slice::from_raw_parts_mut(to, bytes * self.size)) };
        self.pass_on(EXCHANGE, from, to, |all, rank| all.iter().flat_map(|from| &from[rank * bytes..][..bytes]).copied().collect())
    }

    fn leave(&self) {
        // If a stream is closed already, nobody waits at its other end.
        self.streams().iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::by_host::assert_exchanges;
    use super::*;
    use crate::device::Device;

    const TOKEN: Token = *b"sixteen letters.";

    fn together<V: Send>(size: usize, each: impl Fn(Arc<dyn Collective>) -> V + Sync) -> Vec<V> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // A stranger comes first, and is sent away.
        let mut stranger = TcpStream::connect(address).unwrap();
        stranger.write_all(&[0; 24]).unwrap();
        std::thread::scope(|scope| {
            let (each, listener) = (&each, &listener);
            let first = scope.spawn(move || each(first(listener, size, TOKEN, || Ok(())).unwrap()));
            let others: Vec<_> = (1..size)
                .map(|rank| scope.spawn(move || each(other(address, rank, size, TOKEN, Duration::from_secs(60)).unwrap())))
                .collect();
            [first].into_iter().chain(others).map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn parts_come_to_their_places() {
        for size in 2..5 {
            together(size, |member| assert_exchanges(&*member));
        }
    }

    #[test]
    fn who_waits_for_a_member_that_has_left_is_told() {
        let ends = together(3, |member| {
            if member.rank() == 2 {
                member.leave();
                return String::new();
            }
            let mut all = [0_u8; 3];
            // SAFETY: there is a byte for each member.
            let end = unsafe { member.gather(&Device::Cpu, all.as_mut_ptr(), 1) }.unwrap_err().to_string();
            member.leave();
            end
        });
        assert_eq!(ends, [ANOTHER_FAILED, ANOTHER_FAILED, ""]);
    }
}
