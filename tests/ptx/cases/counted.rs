//! Counters against values worked out by hand.

use super::{Bench, kernel};
use ptxgpu::{Executed, Passes, Traffic};

#[test]
fn sectors_and_instructions_of_a_strided_copy_are_counted() {
    // Thread t of 64 reads the float 2t and writes the float t.
    let text = kernel(
        2,
        64,
        "",
        "mul.wide.u32 %rd2, %r0, 8;
         add.s64 %rd3, %rd0, %rd2;
         ld.global.f32 %f0, [%rd3];
         mul.wide.u32 %rd4, %r0, 4;
         add.s64 %rd5, %rd1, %rd4;
         st.global.f32 [%rd5], %f0;",
    );
    let bench = Bench::new(&text).give(&[1.0_f32; 128]).unset(256);
    bench.run(64).unwrap();
    let counters = bench.device.take_counters("k").unwrap();
    // A warp reads every second of 64 floats: eight sectors, of whose 256 bytes it needs 128.
    assert_eq!(counters.loads, Traffic { bytes: 256, sectors: 16, ideal: 8 });
    assert_eq!(counters.stores, Traffic { bytes: 256, sectors: 8, ideal: 8 });
    let times = |count: u64| Executed { warps: 2 * count, lanes: 64 * count };
    // Two parameters are loaded, too.
    let expected = [("add", 2), ("cvta", 2), ("ld", 3), ("mov", 1), ("mul", 2), ("ret", 1), ("st", 1)];
    assert_eq!(counters.instructions.len(), expected.len());
    for (name, count) in expected {
        assert_eq!(counters.of(name), times(count), "{name}");
    }
    assert_eq!((counters.launches, counters.blocks, counters.all()), (1, 1, times(12)));
    assert!(bench.device.counters("k").is_none(), "taken");
    // Two launches of two blocks are four times as much.
    (0..2).for_each(|_| bench.launch([2, 1, 1], 64, 0).unwrap());
    let twice = bench.device.counters("k").unwrap();
    assert_eq!((twice.launches, twice.blocks, twice.loads.sectors, twice.of("add").lanes), (2, 4, 64, 4 * 128));
}

#[test]
fn sectors_are_counted_once_for_a_warp_however_its_threads_lie() {
    // Thread t reads the word 31 - t, then word 0, then the bytes of word t, which cost a sector for each eight threads.
    let text = kernel(
        1,
        32,
        "",
        "mov.u32 %r1, 31;
         sub.s32 %r1, %r1, %r0;
         mul.wide.u32 %rd2, %r1, 4;
         add.s64 %rd2, %rd0, %rd2;
         ld.global.nc.u32 %r2, [%rd2];
         ld.global.u32 %r3, [%rd0];
         cvt.u64.u32 %rd3, %r0;
         add.s64 %rd3, %rd0, %rd3;
         ld.global.u8 %rs0, [%rd3];",
    );
    let bench = Bench::new(&text).give(&[7_u32; 32]);
    bench.run(32).unwrap();
    // 128 bytes in 4 sectors, 4 bytes in 1, 32 bytes in 1.
    assert_eq!(bench.device.counters("k").unwrap().loads, Traffic { bytes: 128 + 128 + 32, sectors: 6, ideal: 6 });
}

#[test]
fn bank_conflicts_of_single_words_are_counted() {
    // Thread t writes the word 32 t, so all are in bank 0; then it reads word 33 t, each from a bank of its own; then all read
    // word 0.
    let text = kernel(
        0,
        32,
        "",
        ".shared .align 16 .b8 tile[4096];
         mov.u32 %r1, 0;
         mov.u64 %rd8, tile;
         mul.wide.u32 %rd1, %r0, 128;
         add.s64 %rd1, %rd8, %rd1;
         st.shared.u32 [%rd1], %r0;
         mul.wide.u32 %rd2, %r0, 132;
         add.s64 %rd2, %rd8, %rd2;
         st.shared.u32 [%rd2], %r0;
         ld.shared.u32 %r2, [%rd2];
         bar.sync 0;
         ld.shared.u32 %r3, [tile];",
    );
    let bench = Bench::new(&text);
    bench.run(32).unwrap();
    let counters = bench.device.counters("k").unwrap();
    assert_eq!(counters.shared_stores, Passes { passes: 32 + 1, ideal: 2 });
    assert_eq!(counters.shared_loads, Passes { passes: 2, ideal: 2 });
}

#[test]
fn bank_conflicts_of_wide_accesses_are_counted_by_halves_and_quarters() {
    let text = kernel(
        0,
        32,
        "",
        ".shared .align 16 .b8 tile[1024];
         mov.u64 %rd8, tile;
         mov.f32 %f0, 0f3F800000;
         mul.wide.u32 %rd1, %r0, 16;
         add.s64 %rd1, %rd8, %rd1;
         st.shared.v4.f32 [%rd1], {%f0, %f0, %f0, %f0};
         mul.wide.u32 %rd2, %r0, 32;
         add.s64 %rd2, %rd8, %rd2;
         bar.sync 0;
         st.shared.v4.f32 [%rd2], {%f0, %f0, %f0, %f0};
         bar.sync 0;
         mul.wide.u32 %rd3, %r0, 8;
         add.s64 %rd3, %rd8, %rd3;
         ld.shared.v2.f32 {%f1, %f2}, [%rd3];
         ld.shared.v2.f32 {%f1, %f2}, [%rd1];",
    );
    let bench = Bench::new(&text);
    bench.run(32).unwrap();
    let counters = bench.device.counters("k").unwrap();
    // Side by side a quarter has its 32 words in 32 banks; 32 bytes apart its threads meet in pairs.
    assert_eq!(counters.shared_stores, Passes { passes: 4 + 8, ideal: 8 });
    // Half a warp takes 32 words side by side; 16 bytes apart its threads meet in pairs.
    assert_eq!(counters.shared_loads, Passes { passes: 2 + 4, ideal: 4 });
}

#[test]
fn instructions_of_threads_that_part_are_counted_for_those_that_execute_them() {
    // Thread t of 4 goes round t + 1 times. Then threads 0 and 1 negate, the others do not.
    let text = kernel(
        1,
        4,
        "",
        "mov.u32 %r1, 0;
         $again:
         add.s32 %r1, %r1, 1;
         setp.le.u32 %p0, %r1, %r0;
         @%p0 bra $again;
         setp.gt.u32 %p1, %r0, 1;
         @%p1 bra $end;
         neg.s32 %r1, %r1;
         $end:
         mul.wide.u32 %rd1, %r0, 4;
         add.s64 %rd1, %rd0, %rd1;
         st.global.u32 [%rd1], %r1;",
    );
    let bench = Bench::new(&text).unset(16);
    bench.run(4).unwrap();
    assert_eq!(bench.read::<i32>(0), [-1, -2, 3, 4]);
    let counters = bench.device.counters("k").unwrap();
    // Four rounds by 4, 3, 2 and 1 threads; the 64-bit sum beside them.
    assert_eq!(counters.of("add"), Executed { warps: 4 + 1, lanes: 10 + 4 });
    assert_eq!(counters.of("neg"), Executed { warps: 1, lanes: 2 });
    assert_eq!(counters.of("bra"), Executed { warps: 4 + 1, lanes: 10 + 4 });
    assert_eq!(counters.stores, Traffic { bytes: 16, sectors: 1, ideal: 1 });
    let shown = counters.to_string();
    assert!(shown.starts_with("1 launches, 1 blocks, "), "{shown}");
    assert!(shown.contains("neg            1 by warps, 2 by threads\n"), "{shown}");
}
