//! Fragments, products of matrices, and asynchronous copies: exact for small whole numbers, against plain loops.

use super::{Bench, kernel};
use ptxgpu::float::{bf16_of_f32, f16_of_f32};
use ptxgpu::{Passes, Traffic};

/// Small whole numbers without a pattern.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % 9
    };
    (0..count).map(|_| next() as f32 - 4.0).collect()
}

/// (16 x depth) times (depth x 8) plus what is there.
fn product(left: &[f32], right: &[f32], sums: &[f32], depth: usize) -> Vec<f32> {
    let mut out = sums.to_vec();
    for row in 0..16 {
        for column in 0..8 {
            for k in 0..depth {
                out[row * 8 + column] += left[row * depth + k] * right[k * 8 + column];
            }
        }
    }
    out
}

/// The words of a warp's fragments, by the tables of the ISA: word i of thread t is at 32 i + t.
fn words(count: usize, word: impl Fn(usize, usize, usize) -> u32) -> Vec<u32> {
    (0..count).flat_map(|i| (0..32).map(move |lane| (i, lane))).map(|(i, lane)| word(i, lane / 4, lane % 4)).collect()
}

fn multiply(shape: &str, kind: &str, registers: [usize; 2], fragments: [&[u32]; 3]) -> Vec<u32> {
    let load = |pointer: usize, first: usize, count: usize| -> String {
        (0..count).map(|i| format!("ld.global.u32 %r{}, [%rd{}+{}];\n", first + i, 10 + pointer, 128 * i)).collect()
    };
    let list = |first: usize, count: usize| (first..first + count).map(|i| format!("%r{i}")).collect::<Vec<String>>().join(", ");
    let mut body = String::from("mul.wide.u32 %rd9, %r0, 4;\n");
    (0..4).for_each(|i| body.push_str(&format!("add.s64 %rd{}, %rd{i}, %rd9;\n", 10 + i)));
    body.push_str(&load(0, 10, registers[0]));
    body.push_str(&load(1, 20, registers[1]));
    body.push_str(&load(2, 30, 4));
    body.push_str(&format!(
        "mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
        list(30, 4),
        list(10, registers[0]),
        list(20, registers[1]),
        list(30, 4)
    ));
    (0..4).for_each(|i| body.push_str(&format!("st.global.u32 [%rd13+{}], %r{};\n", 128 * i, 30 + i)));
    let bench = Bench::new(&kernel(4, 32, "", &body)).give(fragments[0]).give(fragments[1]).give(fragments[2]).unset(512);
    bench.run(32).unwrap();
    let counters = bench.device.counters("k").unwrap();
    assert_eq!((counters.mma(), counters.of("mma").lanes), (1, 32));
    bench.read(3)
}

/// The sums of a fragment: two neighbours of row `group`, two of row `group + 8`.
fn of_sums(sums: &[f32]) -> Vec<u32> {
    words(4, |i, group, within| sums[(group + i / 2 * 8) * 8 + 2 * within + i % 2].to_bits())
}

#[test]
fn products_of_halves_are_exact_for_whole_numbers() {
    for kind in ["f16", "bf16"] {
        let short = |x| if kind == "f16" { f16_of_f32(x, false) } else { bf16_of_f32(x, false) };
        for (shape, depth, registers) in [("m16n8k8", 8, [2, 1]), ("m16n8k16", 16, [4, 2])] {
            let (left, right, sums) = (numbers(16 * depth, 1), numbers(depth * 8, 2), numbers(128, 3));
            let pair = |low: f32, high: f32| u32::from(short(high)) << 16 | u32::from(short(low));
            let lefts = words(registers[0], |i, group, within| {
                let at = (group + i % 2 * 8) * depth + 2 * within + i / 2 * 8;
                pair(left[at], left[at + 1])
            });
            let rights = words(registers[1], |i, group, within| {
                let row = 2 * within + 8 * i;
                pair(right[row * 8 + group], right[(row + 1) * 8 + group])
            });
            let found = multiply(shape, kind, registers, [&lefts, &rights, &of_sums(&sums)]);
            assert_eq!(found, of_sums(&product(&left, &right, &sums, depth)), "{kind} {shape}");
        }
    }
}

#[test]
fn products_of_tf32_are_exact_and_ignore_the_lower_bits() {
    for (shape, depth, registers) in [("m16n8k4", 4, [2, 1]), ("m16n8k8", 8, [4, 2])] {
        let (left, right, sums) = (numbers(16 * depth, 4), numbers(depth * 8, 5), numbers(128, 6));
        let noise = |i: usize| (i as u32 * 37) & 0x1fff;
        let lefts = words(registers[0], |i, group, within| left[(group + i % 2 * 8) * depth + within + i / 2 * 4].to_bits() | noise(group));
        let rights = words(registers[1], |i, group, within| right[(within + 4 * i) * 8 + group].to_bits() | noise(within));
        let found = multiply(shape, "tf32", registers, [&lefts, &rights, &of_sums(&sums)]);
        assert_eq!(found, of_sums(&product(&left, &right, &sums, depth)), "{shape}");
    }
}

/// Puts the halves 0, 1, 2 ... into shared memory, in rows of `pitch` bytes, and loads fragments of `count` matrices from it.
fn fragments(count: usize, transposed: bool, pitch: usize) -> (Vec<u32>, Passes) {
    let list = (10..10 + count).map(|i| format!("%r{i}")).collect::<Vec<String>>().join(", ");
    let mut body = format!(
        ".shared .align 16 .b8 tile[4096];
         mov.u32 %r1, 0;
         $fill:
         mad.lo.s32 %r2, %r1, 32, %r0;
         shl.b32 %r3, %r2, 1;
         or.b32 %r4, %r3, 1;
         shl.b32 %r4, %r4, 16;
         or.b32 %r4, %r4, %r3;
         shr.u32 %r5, %r2, 2;
         and.b32 %r6, %r2, 3;
         shl.b32 %r6, %r6, 2;
         mad.lo.s32 %r5, %r5, {pitch}, %r6;
         st.shared.u32 [%r5], %r4;
         add.s32 %r1, %r1, 1;
         setp.lt.u32 %p0, %r1, 4;
         @%p0 bra $fill;
         bar.sync 0;
         mul.lo.s32 %r7, %r0, {pitch};
         ldmatrix.sync.aligned.m8n8.x{count}{}.shared.b16 {{{list}}}, [%r7];
         mul.wide.u32 %rd9, %r0, 4;
         add.s64 %rd9, %rd0, %rd9;\n",
        if transposed { ".trans" } else { "" }
    );
    (0..count).for_each(|i| body.push_str(&format!("st.global.u32 [%rd9+{}], %r{};\n", 128 * i, 10 + i)));
    let bench = Bench::new(&kernel(1, 32, "", &body)).unset(128 * count);
    bench.run(32).unwrap();
    let counters = bench.device.counters("k").unwrap();
    assert_eq!(counters.ldmatrix(), 1);
    (bench.read(0), counters.shared_loads)
}

#[test]
fn fragments_of_matrices_are_loaded_as_the_isa_says() {
    for count in [1, 2, 4] {
        // Value c of row r of matrix m is 64 m + 8 r + c.
        let plain = words(count, |m, group, within| {
            let value = (64 * m + 8 * group + 2 * within) as u32;
            (value + 1) << 16 | value
        });
        let transposed = words(count, |m, group, within| {
            let value = (64 * m + 8 * (2 * within) + group) as u32;
            (value + 8) << 16 | value
        });
        // Rows side by side lie in different banks; 128 bytes apart all lie in the same four.
        assert_eq!(fragments(count, false, 16), (plain.clone(), Passes { passes: count as u64, ideal: count as u64 }));
        assert_eq!(fragments(count, true, 16), (transposed, Passes { passes: count as u64, ideal: count as u64 }));
        assert_eq!(fragments(count, false, 128), (plain, Passes { passes: 8 * count as u64, ideal: count as u64 }));
    }
}

/// Thread t copies piece t, then piece 32 + t, each a group of its own, waits for all but `kept` groups, and gives both pieces back.
fn copied(bytes: usize, read: usize, kept: &str) -> Result<Vec<u8>, String> {
    let cache = if bytes == 16 { "cg" } else { "ca" };
    let mut body = format!(
        ".shared .align 16 .b8 tile[{}];
         mov.u64 %rd8, tile;
         mul.wide.u32 %rd9, %r0, {bytes};
         add.s64 %rd10, %rd0, %rd9;
         add.s64 %rd11, %rd8, %rd9;
         cvt.u32.u64 %r1, %rd11;
         mov.u32 %r2, {read};
         cp.async.{cache}.shared.global [%r1], [%rd10], {bytes}, %r2;
         cp.async.commit_group;
         cp.async.{cache}.shared.global [%r1+{}], [%rd10+{}], {bytes};
         cp.async.commit_group;
         {kept}
         add.s64 %rd12, %rd1, %rd9;\n",
        64 * bytes,
        32 * bytes,
        32 * bytes
    );
    for piece in 0..2 {
        for word in 0..bytes / 4 {
            let at = piece * 32 * bytes + 4 * word;
            body.push_str(&format!("ld.shared.u32 %r3, [%r1+{at}];\nst.global.u32 [%rd12+{at}], %r3;\n"));
        }
    }
    let given: Vec<u8> = (0..64 * bytes).map(|i| (i % 251) as u8 + 1).collect();
    let bench = Bench::new(&kernel(2, 32, "", &body)).give(&given).unset(64 * bytes);
    bench.run(32)?;
    let counters = bench.device.counters("k").unwrap();
    assert_eq!(counters.cp_async(), 2);
    let sectors = 32 * bytes as u64 / 32;
    let of_first = u64::from(read > 0);
    let expected = (1 + of_first) * sectors;
    assert_eq!(counters.loads, Traffic { bytes: 32 * expected, sectors: expected, ideal: expected });
    Ok(bench.read(1))
}

#[test]
fn asynchronous_copies_land_when_they_are_waited_for() {
    for bytes in [4, 8, 16] {
        let expected: Vec<u8> = (0..64 * bytes).map(|i| (i % 251) as u8 + 1).collect();
        for wait in ["cp.async.wait_group 0;", "cp.async.wait_all;"] {
            assert_eq!(copied(bytes, bytes, wait).unwrap(), expected);
        }
        // What is not read becomes zero.
        for read in [0, 3] {
            let mut cut = expected.clone();
            cut[..32 * bytes].iter_mut().enumerate().filter(|(i, _)| i % bytes >= read).for_each(|(_, byte)| *byte = 0);
            assert_eq!(copied(bytes, read, "cp.async.wait_group 0;").unwrap(), cut);
        }
        // A wait that leaves a group under way.
        let early = copied(bytes, bytes, "cp.async.wait_group 1;").unwrap_err();
        assert!(early.contains("reads bytes of an asynchronous copy that was not waited for"), "{early}");
        assert!(early.contains(&format!("`ld.shared.u32 %r3, [%r1+{}]`", 32 * bytes)), "{early}");
    }
    let many = copied(4, 5, "cp.async.wait_all;").unwrap_err();
    assert!(many.contains("reads 5 bytes of 4"), "{many}");
}

#[test]
fn a_copy_over_what_others_still_read_is_a_race() {
    // Each thread reads its neighbour's word, and its next copy overwrites its own.
    let body = |barrier: &str| {
        format!(
            ".shared .align 16 .b8 tile[256];
             shl.b32 %r1, %r0, 2;
             mul.wide.u32 %rd9, %r0, 4;
             add.s64 %rd9, %rd0, %rd9;
             cp.async.ca.shared.global [%r1], [%rd9], 4;
             cp.async.wait_all;
             bar.sync 0;
             xor.b32 %r2, %r1, 4;
             ld.shared.u32 %r3, [%r2];
             {barrier}
             cp.async.ca.shared.global [%r1], [%rd9], 4;
             cp.async.wait_all;"
        )
    };
    let run = |barrier: &str| Bench::new(&kernel(1, 32, "", &body(barrier))).give(&[1_u32; 32]).run(32);
    assert_eq!(run("bar.sync 0;"), Ok(()));
    let report = run("").unwrap_err();
    assert!(report.contains("race: writes what thread 1 reads"), "{report}");
}
