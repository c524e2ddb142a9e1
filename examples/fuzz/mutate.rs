//! Makes a broken file out of valid ones, and the random numbers that this takes.

/// PCG-XSH-RR 64/32 is small and quick, and gives the same numbers on every machine. Source: O'Neill 2014, "PCG: a family of simple fast
/// space-efficient statistically good algorithms for random number generation", HMC-CS-2014-0905.
pub struct Pcg {
    state: u64,
}

impl Pcg {
    /// Every seed gives a sequence of its own.
    pub fn new(seed: u64) -> Self {
        let mut pcg = Pcg { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
        pcg.next();
        pcg.next();
        pcg
    }

    /// The next 32 bits.
    pub fn next(&mut self) -> u32 {
        let old = self.state;
        self.state = old.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((((old >> 18) ^ old) >> 27) as u32).rotate_right((old >> 59) as u32)
    }

    /// A number below `limit` (0 for a limit of 0).
    pub fn below(&mut self, limit: usize) -> usize {
        ((u64::from(self.next()) * limit as u64) >> 32) as usize
    }
}

/// Values at which readers break: borders of types, small sizes, sizes that overflow when multiplied.
const INTERESTING: [u64; 26] = [
    0,
    1,
    2,
    3,
    4,
    7,
    16,
    32,
    100,
    127,
    128,
    255,
    256,
    1000,
    1024,
    4096,
    32767,
    32768,
    65535,
    65536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

const TOKENS: [&[u8]; 40] = [
    b"0",
    b"-1",
    b"1",
    b"1e999",
    b"-1e-999",
    b"nan",
    b"inf",
    b"-inf",
    b"1,5",
    b"1.5",
    b"99999999999999999999",
    b"4294967296",
    b"2147483648",
    b"",
    b" ",
    b"\t",
    b"\n",
    b"\r\n",
    b"\r",
    b"\n\n",
    b"[",
    b"]",
    b"[End]",
    b"#",
    b";",
    b"'",
    b"\"",
    b"_",
    b"data_",
    b"loop_",
    b"<NA>",
    b"{",
    b"}",
    b",",
    b":",
    b"null",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\\u0000",
];

/// The longest input that is made, because duplication must not go on without end.
const LONGEST: usize = 1 << 20;

/// Puts a mutated seed into `out`, which is empty.
pub fn mutate(out: &mut Vec<u8>, seeds: &[Vec<u8>], text: bool, rng: &mut Pcg) {
    if seeds.is_empty() {
        out.extend((0..rng.below(2000)).map(|_| rng.next() as u8));
        return;
    }
    out.extend_from_slice(&seeds[rng.below(seeds.len())]);
    // Most inputs have one or two changes, because a file with many changes fails at the first check.
    let changes = 1 + rng.below(3) * rng.below(4);
    for _ in 0..changes {
        let kinds = if text { 15 } else { 10 };
        match rng.below(kinds) {
            0 => flip_bit(out, rng),
            1 => set_byte(out, rng),
            2..=4 => set_number(out, rng),
            5 => out.truncate(rng.below(out.len() + 1)),
            6 => duplicate(out, rng),
            7 => remove(out, rng),
            8 => splice(out, &seeds[rng.below(seeds.len())], rng),
            9 => fill(out, rng),
            10..=12 => replace_token(out, rng),
            13 => insert_token(out, rng),
            _ => swap_lines(out, rng),
        }
    }
}

/// A place in the input. The first kilobyte, where headers are, is chosen as often as all the rest.
fn place(len: usize, rng: &mut Pcg) -> usize {
    if rng.below(2) == 0 { rng.below(len.min(1024)) } else { rng.below(len) }
}

fn flip_bit(out: &mut [u8], rng: &mut Pcg) {
    if !out.is_empty() {
        let i = place(out.len(), rng);
        out[i] ^= 1 << rng.below(8);
    }
}

fn set_byte(out: &mut [u8], rng: &mut Pcg) {
    if !out.is_empty() {
        let i = place(out.len(), rng);
        out[i] = rng.next() as u8;
    }
}

/// An interesting number of 1, 2, 4 or 8 bytes at an offset that is a multiple of its size, in either byte order.
fn set_number(out: &mut [u8], rng: &mut Pcg) {
    let size = 1 << rng.below(4);
    if out.len() < size {
        return;
    }
    let mut value = INTERESTING[rng.below(INTERESTING.len())];
    if rng.below(4) == 0 {
        value = value.wrapping_add(u64::from(rng.next() % 33)).wrapping_sub(16);
    }
    let start = place(out.len() - size + 1, rng) / size * size;
    let bytes = value.to_le_bytes();
    for (i, byte) in out[start..start + size].iter_mut().enumerate() {
        *byte = bytes[i];
    }
    if rng.below(3) == 0 {
        out[start..start + size].reverse();
    }
}

fn range(len: usize, rng: &mut Pcg) -> std::ops::Range<usize> {
    let start = place(len, rng);
    let most = if rng.below(4) == 0 { len - start } else { (len - start).min(64) };
    start..start + rng.below(most + 1)
}

fn duplicate(out: &mut Vec<u8>, rng: &mut Pcg) {
    if out.is_empty() || out.len() > LONGEST {
        return;
    }
    let part = out[range(out.len(), rng)].to_vec();
    let at = rng.below(out.len() + 1);
    out.splice(at..at, part);
}

fn remove(out: &mut Vec<u8>, rng: &mut Pcg) {
    if !out.is_empty() {
        let range = range(out.len(), rng);
        out.drain(range);
    }
}

fn splice(out: &mut Vec<u8>, other: &[u8], rng: &mut Pcg) {
    if out.is_empty() || other.is_empty() || out.len() > LONGEST {
        return;
    }
    if rng.below(2) == 0 {
        // The head of one and the tail of the other.
        out.truncate(rng.below(out.len() + 1));
        out.extend_from_slice(&other[rng.below(other.len())..]);
    } else {
        let part = &other[range(other.len(), rng)];
        let at = rng.below(out.len());
        let end = (at + part.len()).min(out.len());
        out[at..end].copy_from_slice(&part[..end - at]);
    }
}

fn fill(out: &mut [u8], rng: &mut Pcg) {
    if !out.is_empty() {
        let range = range(out.len(), rng);
        let byte = [0, 0xff, 0x7f, 0x80, b' '][rng.below(5)];
        out[range].fill(byte);
    }
}

/// Start and end of a run of bytes without blanks, at or after a random place.
fn token(out: &[u8], rng: &mut Pcg) -> Option<std::ops::Range<usize>> {
    let from = rng.below(out.len());
    let start = from + out[from..].iter().position(|byte| !byte.is_ascii_whitespace())?;
    let end = start + out[start..].iter().position(|byte| byte.is_ascii_whitespace()).unwrap_or(out.len() - start);
    Some(start..end)
}

fn replace_token(out: &mut Vec<u8>, rng: &mut Pcg) {
    if let Some(range) = token(out, rng) {
        out.splice(range, TOKENS[rng.below(TOKENS.len())].iter().copied());
    }
}

fn insert_token(out: &mut Vec<u8>, rng: &mut Pcg) {
    let at = rng.below(out.len() + 1);
    out.splice(at..at, TOKENS[rng.below(TOKENS.len())].iter().copied());
}

fn swap_lines(out: &mut Vec<u8>, rng: &mut Pcg) {
    let mut lines: Vec<Vec<u8>> = out.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    if !lines.is_empty() {
        let (a, b) = (rng.below(lines.len()), rng.below(lines.len()));
        lines.swap(a, b);
        *out = lines.concat();
    }
}
