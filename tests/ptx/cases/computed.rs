//! What instructions compute when they are executed, over whole and parted blocks.

use super::{Bench, kernel};
use ptxgpu::Options;

/// Runs a body of 32 threads that leaves a word in %r1, for each thread.
fn word(body: &str) -> Vec<u32> {
    let body = format!("{body}\nmul.wide.u32 %rd8, %r0, 4;\nadd.s64 %rd8, %rd0, %rd8;\nst.global.u32 [%rd8], %r1;");
    let bench = Bench::new(&kernel(1, 32, "", &body)).unset(128);
    bench.run(32).unwrap_or_else(|report| panic!("{report}"));
    bench.read(0)
}

/// The same, and every thread must have this.
#[track_caller]
fn gives(body: &str, expected: u32) {
    let found = word(body);
    assert!(found.iter().all(|&value| value == expected), "{body}: {:#x}, expected {expected:#x}", found[0]);
}

#[test]
fn whole_numbers() {
    gives("mov.u32 %r2, 7;\nmad.lo.s32 %r1, %r2, -3, 1;", -20_i32 as u32);
    gives("mov.u32 %r2, -7;\ndiv.s32 %r1, %r2, 2;", -3_i32 as u32);
    gives("mov.u32 %r2, -7;\nrem.u32 %r1, %r2, 10;", (u32::MAX - 6) % 10);
    gives("mov.u16 %rs0, -7281;\nmov.u16 %rs1, 18;\nmul.wide.u16 %r1, %rs0, %rs1;", (65536 - 7281) * 18);
    gives("mov.u32 %r2, -5;\nmul.hi.s32 %r1, %r2, 2;", u32::MAX);
    gives("mov.u32 %r2, -5;\nmin.s32 %r1, %r2, 3;", -5_i32 as u32);
    gives("mov.u32 %r2, -5;\nmin.u32 %r1, %r2, 3;", 3);
    gives("mov.u32 %r2, 1;\nshl.b32 %r1, %r2, 32;", 0);
    gives("mov.u32 %r2, -8;\nshr.s32 %r1, %r2, 40;", u32::MAX);
    gives("mov.u32 %r2, -8;\nshr.u32 %r1, %r2, 28;", 15);
    gives("mov.u32 %r2, 0x12345678;\nmov.u32 %r3, 0x9abcdef0;\nshf.l.wrap.b32 %r1, %r2, %r3, 8;", 0xbcdef012);
    gives("mov.u32 %r2, 0xff;\nmov.u32 %r3, 0;\nbfi.b32 %r1, %r2, %r3, 4, 8;", 0xff0);
    gives("mov.u64 %rd1, -2;\nsetp.lt.u64 %p0, %rd1, 5;\nselp.b32 %r1, 1, 2, %p0;", 2);
    gives("mov.pred %p0, -1;\nnot.pred %p1, %p0;\nxor.pred %p2, %p1, %p0;\nselp.u32 %r1, 4, 5, %p2;", 4);
    gives("mov.b32 %r2, 0x00020001;\nmov.b32 {%rs0, %rs1}, %r2;\nmov.b32 %r1, {%rs1, %rs0};", 0x0001_0002);
    gives("mov.b64 %rd1, 0x500000003;\n{\n.reg .b32 %temp;\nmov.b64 {%temp, %r1}, %rd1;\n}", 5);
}

#[test]
fn floats_and_conversions() {
    let f32s = |body: &str, expected: f32| gives(&format!("{body}\nmov.b32 %r1, %f1;"), expected.to_bits());
    f32s("mov.f32 %f2, 0f3DCCCCCD;\nfma.rn.f32 %f1, %f2, %f2, 0fBC23D70A;", 0.1_f32.mul_add(0.1, -0.01));
    f32s("mov.f32 %f2, 0f3F800000;\nfma.rm.f32 %f1, %f2, %f2, 0f80000001;", 1.0_f32.next_down());
    f32s("mov.f32 %f2, 0f40400000;\nex2.approx.ftz.f32 %f1, %f2;", 8.0);
    f32s("mov.f32 %f2, 0fC3160000;\nex2.approx.ftz.f32 %f1, %f2;", 0.0); // 2^-150
    f32s("mov.f32 %f2, 0f40490FDB;\ncvt.sat.f32.f32 %f1, %f2;", 1.0);
    f32s("mov.f32 %f2, 0fC0490FDB;\ncvt.rmi.f32.f32 %f1, %f2;", -4.0);
    f32s("mov.u32 %r2, 16777217;\ncvt.rn.f32.u32 %f1, %r2;", 16_777_216.0);
    gives("mov.f32 %f2, 0f7FC00000;\ncvt.rzi.s32.f32 %r1, %f2;", 0);
    gives("mov.f32 %f2, 0f4F800000;\ncvt.rzi.s32.f32 %r1, %f2;", i32::MAX as u32);
    gives("mov.f32 %f2, 0f7FC00000;\ncvt.rzi.s64.f32 %rd1, %f2;\nmov.b64 {%r2, %r1}, %rd1;", 1 << 31);
    gives("mov.f32 %f2, 0fC0200000;\ncvt.rzi.s32.f32 %r1, %f2;", -2_i32 as u32);
    gives("mov.u16 %rs0, 200;\ncvt.s16.s8 %rs1, %rs0;\ncvt.u32.u16 %r1, %rs1;", 0xffc8);
    gives("mov.f32 %f2, 0f3F800000;\nmov.f32 %f3, 0fC0000000;\ncvt.rn.f16x2.f32 %r1, %f2, %f3;", 0x3c00_c000);
    gives("mov.f32 %f2, 0f3F801000;\ncvt.rna.tf32.f32 %r1, %f2;", 0x3f80_2000);
    gives(
        "mov.f32 %f2, 0f7FC00000;\nsetp.gtu.f32 %p0, %f2, 0f00000000;\nsetp.gt.f32 %p1, %f2, 0f00000000;\nor.pred %p2, %p0, %p1;\nselp.u32 %r1, 1, 0, %p0;",
        1,
    );
    gives(
        "mov.f64 %fd0, 0d4024000000000000;\nrcp.approx.ftz.f64 %fd1, %fd0;\nfma.rn.f64 %fd2, %fd0, %fd1, 0dBFF0000000000000;\nabs.f64 %fd2, %fd2;\nsetp.lt.f64 %p0, %fd2, 0d3EB0C6F7A0B5ED8D;\nselp.u32 %r1, 1, 0, %p0;",
        1,
    );
}

#[test]
fn words_go_between_the_threads_of_a_warp() {
    let expected: Vec<u32> = (0..32).map(|lane| lane ^ 16).collect();
    assert_eq!(word("shfl.sync.bfly.b32 %r1|%p0, %r0, 16, 31, -1;"), expected);
    let expected: Vec<u32> = (0..32).map(|lane| if lane + 3 < 32 { lane + 3 } else { 100 }).collect();
    assert_eq!(word("shfl.sync.down.b32 %r1|%p0, %r0, 3, 31, -1;\nselp.b32 %r1, %r1, 100, %p0;"), expected);
    assert_eq!(word("setp.gt.u32 %p0, %r0, 29;\nvote.sync.ballot.b32 %r1, %p0, -1;"), [0xc000_0000; 32]);
}

#[test]
fn atomics_add_up_over_blocks_and_threads_of_this_machine() {
    let body = "atom.global.add.u32 %r2, [%rd0], 2;\natom.global.max.u32 %r2, [%rd0+4], %r0;";
    for threads in [1, 2, 5] {
        let bench = Bench::with(&kernel(1, 64, "", body), Options { threads, ..Options::default() }).give(&[10_u32, 7]);
        bench.launch([30, 2, 2], 64, 0).unwrap();
        assert_eq!(bench.read::<u32>(0), [10 + 2 * 64 * 120, 63]);
    }
    // Where the value that was found is used, blocks go in order.
    let body = "atom.global.add.u32 %r1, [%rd0], 1;\nmov.u32 %r2, %ctaid.x;\nmul.wide.u32 %rd8, %r2, 4;\nadd.s64 %rd8, %rd1, %rd8;\nst.global.u32 [%rd8], %r1;";
    let bench = Bench::with(&kernel(2, 1, "", body), Options { threads: 4, ..Options::default() }).give(&[0_u32]).unset(4 * 5000);
    bench.launch([5000, 1, 1], 1, 0).unwrap();
    assert_eq!(bench.read::<u32>(1), (0..5000).collect::<Vec<u32>>());
}

#[test]
fn threads_that_part_meet_again() {
    // The number of halvings and treblings until 1, of numbers whose ways differ.
    let body = "add.s32 %r2, %r0, 1;
        mov.u32 %r1, 0;
        $loop:
        setp.le.u32 %p0, %r2, 1;
        @%p0 bra $end;
        add.s32 %r1, %r1, 1;
        and.b32 %r3, %r2, 1;
        setp.eq.s32 %p1, %r3, 0;
        @%p1 bra $even;
        mad.lo.s32 %r2, %r2, 3, 1;
        bra.uni $loop;
        $even:
        shr.u32 %r2, %r2, 1;
        bra.uni $loop;
        $end:
        shfl.sync.idx.b32 %r4|%p2, %r1, 26, 31, -1;
        add.s32 %r1, %r1, %r4;";
    let steps = |mut n: u32| {
        let mut steps = 0;
        while n > 1 {
            n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
            steps += 1;
        }
        steps
    };
    assert_eq!(steps(27), 111);
    assert_eq!(word(body), (1..=32).map(|n| steps(n) + 111).collect::<Vec<u32>>());
}

#[test]
fn unchecked_and_uncounted_the_results_are_the_same_and_the_host_is_safe() {
    let body = "mul.wide.u32 %rd8, %r0, 4;\nadd.s64 %rd8, %rd0, %rd8;\nld.global.u32 %r1, [%rd8];\nst.global.u32 [%rd8+4], %r1;";
    let fast = Options { checks: false, counts: false, threads: 1, ..Options::default() };
    let bench = Bench::with(&kernel(1, 32, "", body), fast.clone()).give(&[3_u32; 33]);
    bench.run(31).unwrap();
    assert_eq!(bench.read::<u32>(0), [3; 33]);
    assert_eq!(bench.device.counters("k").unwrap().loads.sectors, 0);
    let outside = Bench::with(&kernel(1, 32, "", body), fast).give(&[3_u32; 32]).run(32).unwrap_err();
    assert!(outside.contains("thread 31 ") && outside.contains("writes 4 bytes"), "{outside}");
}

#[test]
fn code_that_stands_in_line_has_registers_and_a_predicate_of_its_own() {
    let body = "{ .reg .pred p; .reg .b32 t, %r1_of_mine; setp.gt.u32 p, %r0, 3; mov.u32 t, 7; // with a comment
        @!p add.s32 t, t, 1; mov.u32 %r1_of_mine, t; /* and
        another */ mov.u32 %r1, %r1_of_mine; }";
    assert_eq!(word(body), (0..32).map(|lane| if lane > 3 { 7 } else { 8 }).collect::<Vec<u32>>());
}

#[test]
fn shared_memory_of_the_launch_lies_behind_what_the_kernel_declares() {
    let shared = ".extern .shared .align 16 .b8 more[];\n.shared .align 4 .b8 outer[4];";
    let body = "st.shared.u32 [outer], %r0;
        .shared .align 4 .b8 own[20];
        mov.u64 %rd8, more;
        cvt.u32.u64 %r1, %rd8;
        st.shared.u32 [%rd8+28], %r1;
        ld.shared.u32 %r2, [more+28];
        st.global.u32 [%rd0], %r2;";
    let bench = Bench::new(&kernel(1, 1, shared, body)).unset(4);
    bench.launch([1, 1, 1], 1, 32).unwrap();
    assert_eq!(bench.read::<u32>(0), [32], "24 bytes of its own, and the next multiple of 16");
}

#[test]
fn fields_bytes_and_tables() {
    let of_two = |name: &str, a: u32, position: u32, length: u32| format!("mov.u32 %r2, {a};\n{name} %r1, %r2, {position}, {length};");
    gives(&of_two("bfe.u32", 0xabcd_1234, 8, 12), 0xd12);
    gives(&of_two("bfe.u32", 0xffff_ffff, 28, 12), 0xf);
    gives(&of_two("bfe.s32", 0x7f0, 4, 7), u32::MAX);
    gives(&of_two("bfe.s32", 0x3f0, 4, 7), 0x3f);
    gives(&of_two("bfe.s32", 0x8000_0000, 28, 12), -8_i32 as u32); // beyond the end the sign goes on
    gives(&of_two("bfe.s32", 0x8000_0000, 40, 3), u32::MAX);
    gives(&of_two("bfe.s32", 0xffff_ffff, 3, 0), 0);
    let insert =
        |b: u32, position: u32, length: u32| format!("mov.u32 %r2, 0x5;\nmov.u32 %r3, {b};\nbfi.b32 %r1, %r2, %r3, {position}, {length};");
    gives(&insert(0xffff_ffff, 30, 8), 0x7fff_ffff);
    gives(&insert(7, 32, 8), 7);
    let permute = |a: u32, selector: u32| format!("mov.u32 %r2, {a};\nmov.u32 %r3, 0x88776655;\nprmt.b32 %r1, %r2, %r3, {selector};");
    gives(&permute(0x4433_2211, 0x5410), 0x6655_2211);
    gives(&permute(0x4433_2211, 0x7632), 0x8877_4433);
    gives(&permute(0x0000_0080, 0x0008), 0x8080_80ff); // the sign of byte 0, and byte 0
    gives("mov.u32 %r2, 12;\nmov.u32 %r3, 10;\nmov.u32 %r4, 240;\nlop3.b32 %r1, %r2, %r3, %r4, 0xe8;", 0b1000); // the majority
}

#[test]
fn shuffles_know_segments_and_bounds() {
    // (mode, by, clamp) and the source of some threads; none where it is out of range.
    let cases = [
        ("down", 4, 0x1f, vec![(3, Some(7)), (29, None)]),
        ("up", 4, 0, vec![(5, Some(1)), (3, None)]),
        ("idx", 31, 0x1f, vec![(5, Some(31))]),
        // Segments of eight: the mask 0x18.
        ("idx", 2, 0x181f, vec![(13, Some(10)), (31, Some(26))]),
        ("down", 3, 0x181f, vec![(13, None), (12, Some(15))]),
        ("up", 2, 0x1800, vec![(9, None), (10, Some(8))]),
    ];
    for (mode, by, clamp, sources) in cases {
        let found = word(&format!("shfl.sync.{mode}.b32 %r1|%p0, %r0, {by}, {clamp}, -1;\nselp.b32 %r1, %r1, 99, %p0;"));
        for (lane, source) in sources {
            assert_eq!(found[lane], source.unwrap_or(99), "{mode} {by} {clamp:#x}, thread {lane}");
        }
    }
}
