//! Every check reports its fault once, and says where it is.

use super::{Bench, HEAD, kernel};
use ptxgpu::{Options, kernels};

#[track_caller]
fn reported(found: Result<(), String>, words: &[&str]) {
    let report = found.unwrap_err();
    for word in words {
        assert!(report.contains(word), "`{report}` does not say `{word}`");
    }
}

/// Thread t of 32 copies the word t.
const COPY: &str = "mul.wide.u32 %rd8, %r0, 4;
    add.s64 %rd9, %rd0, %rd8;
    add.s64 %rd10, %rd1, %rd8;
    ld.global.u32 %r1, [%rd9];
    st.global.u32 [%rd10], %r1;";

#[test]
fn accesses_outside_of_an_allocation() {
    let text = kernel(2, 32, "", COPY);
    assert_eq!(Bench::new(&text).give(&[1_u32; 32]).unset(128).run(32), Ok(()));
    reported(
        Bench::new(&text).give(&[1_u32; 31]).unset(128).run(32),
        &[
            "k, line ",
            "`ld.global.u32 %r1, [%rd9]`",
            "thread 31 of block (0, 0, 0)",
            "reads 4 bytes",
            "byte 124 of an allocation of 124 bytes",
            "of parameter 0",
        ],
    );
    reported(
        Bench::new(&text).give(&[1_u32; 32]).unset(126).run(32),
        &["writes bytes 124 to 127 of an allocation of 126 bytes", "of parameter 1"],
    );
    let before = kernel(1, 32, "", "st.global.u32 [%rd0+-4], %r0;");
    reported(Bench::new(&before).unset(128).run(32), &["thread 0 ", "writes 4 bytes", "lies in no memory"]);
}

#[test]
fn crooked_addresses() {
    let text = kernel(1, 1, "", "ld.global.v2.u32 {%r1, %r2}, [%rd0+4];");
    reported(Bench::new(&text).give(&[1_u32; 32]).run(1), &["reads 8 bytes at byte 4 of an allocation", "no multiple of 8"]);
    let text = kernel(0, 1, "", ".shared .align 16 .b8 tile[64];\nst.shared.u64 [tile+4], 1;");
    reported(Bench::new(&text).run(1), &["writes 8 bytes of shared memory at byte 4", "no multiple of 8"]);
}

#[test]
fn accesses_outside_of_shared_memory() {
    let text = kernel(0, 32, "", ".shared .align 16 .b8 tile[64];\nmul.wide.u32 %rd1, %r0, 4;\nst.shared.u32 [%rd1], %r0;");
    assert_eq!(Bench::new(&text).run(16), Ok(()));
    reported(Bench::new(&text).run(17), &["thread 16 ", "writes shared memory at bytes 64 to 67; the block has 64"]);
    // What the launch adds counts.
    assert_eq!(Bench::new(&text).launch([1, 1, 1], 17, 4), Ok(()));
}

#[test]
fn addresses_of_another_space() {
    let shared = ".shared .align 16 .b8 tile[64];\n";
    let text = kernel(1, 1, "", &format!("{shared}st.shared.u32 [%rd0], %r0;"));
    reported(Bench::new(&text).unset(64).run(1), &["writes shared memory at 0x4", "an address of another memory"]);
    let text = kernel(0, 1, "", &format!("{shared}mov.u64 %rd1, tile;\ncvta.shared.u64 %rd2, %rd1;\nst.global.u32 [%rd2], %r0;"));
    reported(Bench::new(&text).run(1), &["is one of shared memory"]);
    let text = kernel(0, 1, "", &format!("{shared}mov.u64 %rd1, tile;\ncvta.shared.u64 %rd2, %rd1;\nst.shared.u32 [%rd2], %r0;"));
    reported(Bench::new(&text).run(1), &["a generic address of shared memory"]);
    // A generic access finds the way, and so does the address that comes back.
    let text = kernel(
        1,
        1,
        "",
        &format!(
            "{shared}mov.u64 %rd1, tile;\ncvta.shared.u64 %rd2, %rd1;\nmov.u32 %r1, 5;\nst.u32 [%rd2+8], %r1;\n\
             cvta.to.shared.u64 %rd3, %rd2;\nld.shared.u32 %r2, [%rd3+8];\nst.u32 [%rd0], %r2;"
        ),
    );
    let bench = Bench::new(&text).unset(4);
    assert_eq!(bench.run(1), Ok(()));
    assert_eq!(bench.read::<u32>(0), [5]);
}

#[test]
fn an_address_that_was_cut_to_32_bits() {
    let text = kernel(1, 1, "", "cvt.u32.u64 %r1, %rd0;\ncvt.u64.u32 %rd1, %r1;\nld.global.u32 %r2, [%rd1+4];");
    reported(Bench::new(&text).give(&[1_u32; 4]).run(1), &["the upper half of 0x4", "is gone"]);
}

#[test]
fn memory_that_nobody_has_written() {
    let text = kernel(2, 32, "", COPY);
    reported(
        Bench::new(&text).unset(128).unset(128).run(32),
        &["thread 0 ", "reads bytes 0 to 3 of an allocation of 128 bytes", "which nobody has written"],
    );
    // One byte of four is missing.
    let text =
        kernel(1, 1, "", "st.global.u8 [%rd0], %r0;\nst.global.u8 [%rd0+1], %r0;\nst.global.u8 [%rd0+3], %r0;\nld.global.u32 %r1, [%rd0];");
    reported(Bench::new(&text).unset(4).run(1), &["which nobody has written"]);
    let shared = kernel(0, 1, "", ".shared .align 16 .b8 tile[64];\nst.shared.u8 [tile+5], %r0;\nld.shared.u32 %r1, [tile+4];");
    reported(Bench::new(&shared).run(1), &["byte 4 of `tile`", "reads 4 bytes of which nobody has written 3"]);
    // A part of a load that nobody uses may hold anything.
    let part = |used: &str| {
        let shared =
            ".shared .align 16 .b8 tile[64];\nst.shared.u32 [tile], %r0;\nst.shared.u32 [tile+4], %r0;\nst.shared.u32 [tile+8], %r0;";
        kernel(
            0,
            1,
            "",
            &format!("{shared}\nld.shared.v4.u32 {{%r1, %r2, %r3, %r4}}, [tile];\nadd.s32 %r1, %r1, %r2;\nadd.s32 %r1, %r3, {used};"),
        )
    };
    assert_eq!(Bench::new(&part("%r1")).run(1), Ok(()));
    reported(Bench::new(&part("%r4")).run(1), &["reads 16 bytes of which nobody has written 4"]);
    // The block before has written there, but each block begins anew.
    let stale = kernel(
        0,
        1,
        "",
        ".shared .align 16 .b8 tile[64];\nmov.u32 %r1, %ctaid.x;\nsetp.ne.u32 %p0, %r1, 0;\n@%p0 bra $read;\nst.shared.u32 [tile], %r0;\n$read:\nld.shared.u32 %r2, [tile];",
    );
    reported(Bench::new(&stale).launch([2, 1, 1], 1, 0), &["block (1, 0, 0)", "nobody has written"]);
}

#[test]
fn registers_that_were_never_written() {
    let text = kernel(1, 4, "", "setp.gt.u32 %p0, %r0, 2;\n@%p0 bra $skip;\nmov.u32 %r1, 1;\n$skip:\nadd.s32 %r2, %r1, 1;");
    reported(Bench::new(&text).unset(4).run(4), &["thread 3 ", "reads register %r1"]);
    assert_eq!(Bench::new(&text).unset(4).run(3), Ok(()));
    // Of an instruction that not all threads execute the others have not written the target.
    let text = kernel(1, 4, "", "setp.gt.u32 %p0, %r0, 2;\n@%p0 mov.u32 %r1, 1;\n@%p0 add.s32 %r2, %r1, 1;\nst.global.u32 [%rd0], %r1;");
    reported(Bench::new(&text).unset(4).run(4), &["`st.global.u32 [%rd0], %r1`", "thread 0 ", "reads register %r1"]);
}

#[test]
fn reads_by_the_cache_of_what_the_launch_writes() {
    // Block 0 reads and block 1 writes, or the other way round.
    let body = |first: &str, second: &str| {
        kernel(1, 1, "", &format!("mov.u32 %r1, %ctaid.x;\nsetp.ne.u32 %p0, %r1, 0;\n@%p0 bra $second;\n{first}\nret;\n$second:\n{second}"))
    };
    let [read, write] = ["ld.global.nc.u32 %r2, [%rd0];", "st.global.u32 [%rd0], %r0;"];
    let give = |text: &str| Bench::new(text).give(&[1_u32; 2]);
    let found = give(&body(read, write)).launch([2, 1, 1], 1, 0);
    reported(found, &["block (1, 0, 0)", "writes what the same launch has read by the cache"]);
    let found = give(&body(write, read)).launch([2, 1, 1], 1, 0);
    reported(found, &["block (1, 0, 0)", "reads by the cache that sees no writes what the same launch has written"]);
    // Another word, or another launch, is nobody's business.
    let apart = give(&body(read, "st.global.u32 [%rd0+4], %r0;"));
    assert_eq!(apart.launch([2, 1, 1], 1, 0), Ok(()));
    let later = give(&body(write, read));
    assert_eq!(later.launch([1, 1, 1], 1, 0), Ok(()));
    assert_eq!(later.launch([1, 1, 1], 1, 0), Ok(()));
    // Bytes beside each other in a word are apart.
    let bytes = give(&body("ld.global.nc.u8 %rs0, [%rd0];", "st.global.u8 [%rd0+1], %r0;"));
    assert_eq!(bytes.launch([2, 1, 1], 1, 0), Ok(()));
}

#[test]
fn races_in_shared_memory() {
    let text = |barrier: &str| {
        kernel(
            0,
            64,
            "",
            &format!(
                ".shared .align 16 .b8 tile[256];\nshl.b32 %r1, %r0, 2;\nst.shared.u32 [%r1], %r0;\n{barrier}\n\
                 mov.u32 %r2, 252;\nsub.s32 %r2, %r2, %r1;\nld.shared.u32 %r3, [%r2];"
            ),
        )
    };
    assert_eq!(Bench::new(&text("bar.sync 0;")).run(64), Ok(()));
    reported(Bench::new(&text("")).run(64), &["thread 0 ", "byte 252 of `tile`", "race: reads what thread 63 writes"]);
    // A barrier of the warp is enough within a warp, and only there.
    let within = text("bar.warp.sync -1;").replace("252", "124");
    assert_eq!(Bench::new(&within).run(32), Ok(()));
    reported(Bench::new(&text("bar.warp.sync -1;")).run(64), &["race: reads what thread 63 writes"]);
    let two = kernel(0, 32, "", ".shared .align 16 .b8 tile[256];\nst.shared.u32 [tile], %r0;");
    reported(Bench::new(&two).run(32), &["thread 1 ", "race: writes what thread 0 writes"]);
    // After all have read it, one writes.
    let after = kernel(
        0,
        64,
        "",
        ".shared .align 16 .b8 tile[256];\nsetp.ne.u32 %p0, %r0, 0;\n@%p0 bra $a;\nst.shared.u32 [tile], %r0;\n$a:\nbar.sync 0;\n\
         ld.shared.u32 %r1, [tile];\n@%p0 bra $b;\nst.shared.u32 [tile], %r1;\n$b:",
    );
    reported(Bench::new(&after).run(64), &["thread 0 ", "race: writes what several threads read"]);
    // Atomics may meet; an atomic and a plain access may not.
    let atomics = |end: &str| {
        kernel(
            0,
            64,
            "",
            &format!(
                ".shared .align 16 .b8 tile[256];\nsetp.ne.u32 %p0, %r0, 0;\n@%p0 bra $a;\nmov.u32 %r2, 0;\nst.shared.u32 [tile], %r2;\n\
                 $a:\nbar.sync 0;\natom.shared.add.u32 %r1, [tile], 1;\n{end}\nld.shared.u32 %r3, [tile];"
            ),
        )
    };
    assert_eq!(Bench::new(&atomics("bar.sync 0;")).run(64), Ok(()));
    reported(Bench::new(&atomics("")).run(64), &["race: reads what several threads write"]);
    // Halves of a word are apart.
    let halves =
        kernel(0, 64, "", ".shared .align 16 .b8 tile[256];\nmul.wide.u32 %rd1, %r0, 2;\nmov.u16 %rs0, 1;\nst.shared.u16 [%rd1], %rs0;");
    assert_eq!(Bench::new(&halves).run(64), Ok(()));
}

#[test]
fn barriers_that_not_all_threads_reach() {
    let text = kernel(0, 64, "", "setp.gt.u32 %p0, %r0, 31;\n@%p0 bra $end;\nbar.sync 0;\n$end:");
    assert_eq!(Bench::new(&text).run(32), Ok(()));
    reported(
        Bench::new(&text).run(64),
        &["thread 0 ", "divergent barrier: 32 of 64 threads wait here", "32 have returned, thread 32 among them"],
    );
    let text = kernel(0, 64, "", "setp.gt.u32 %p0, %r0, 31;\n@%p0 bra $else;\nbar.sync 0;\nbra $end;\n$else:\nbar.sync 0;\n$end:");
    reported(Bench::new(&text).run(64), &["divergent barrier: 32 of 64 threads wait here, but thread 32 at line "]);
}

#[test]
fn instructions_of_a_warp_that_is_not_whole() {
    let half = |body: &str| {
        kernel(
            0,
            32,
            "",
            &format!(".shared .align 16 .b8 tile[512];\nmov.u32 %r1, 0;\nsetp.gt.u32 %p0, %r0, 15;\n@%p0 bra $end;\n{body}\n$end:"),
        )
    };
    let words = ["divergence: 16 of the 32 threads of warp 0", "thread 16 is missing"];
    reported(Bench::new(&half("shfl.sync.bfly.b32 %r2|%p1, %r0, 1, 31, -1;")).run(32), &words);
    assert_eq!(Bench::new(&half("shfl.sync.bfly.b32 %r2|%p1, %r0, 1, 31, 65535;")).run(32), Ok(()));
    reported(Bench::new(&half("shfl.sync.bfly.b32 %r2|%p1, %r0, 1, 31, 255;")).run(32), &["thread 8 ", "the mask 0xff does not name it"]);
    reported(
        Bench::new(&half("shfl.sync.bfly.b32 %r2|%p1, %r0, 16, 31, 65535;")).run(32),
        &["takes the value of thread 16, which does not take part"],
    );
    reported(Bench::new(&half("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1];")).run(32), &words);
    let mma = "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%r8, %r9, %r10, %r11}, {%r1, %r1}, {%r1}, {%r1, %r1, %r1, %r1};";
    reported(Bench::new(&half(mma)).run(32), &words);
    reported(Bench::new(&half("bar.warp.sync -1;")).run(32), &words);
}

#[test]
fn launches_that_break_a_limit() {
    let text = kernel(0, 64, "", ".shared .align 16 .b8 tile[1024];");
    let bench = || Bench::new(&text);
    reported(bench().run(65), &["65 threads in a block; its .maxntid says 64"]);
    reported(bench().run(0), &["0 threads"]);
    reported(bench().launch([1, 70000, 1], 64, 0), &["a grid of [1, 70000, 1] blocks"]);
    reported(bench().launch([1, 0, 1], 64, 0), &["a grid of [1, 0, 1] blocks"]);
    // 163 KiB on 8.0, 48 on 6.0.
    assert_eq!(bench().launch([1, 1, 1], 64, (163 << 10) - 1024), Ok(()));
    reported(
        bench().launch([1, 1, 1], 64, (163 << 10) - 1020),
        &["1024 bytes of shared memory and 165892 of the launch", "sm_80 has 166912"],
    );
    let old = text.replace("sm_80", "sm_52");
    let old = Bench::with(&old, Options { capability: [6, 0], ..Options::default() });
    reported(old.launch([1, 1, 1], 64, (48 << 10) - 1020), &["sm_60 has 49152"]);
    let much = kernel(0, 64, "", ".shared .align 16 .b8 tile[49168];");
    reported(Bench::new(&much).run(64), &["it declares 49168 bytes of shared memory; a block may declare 49152"]);
    let exact = text.replace(".maxntid", ".reqntid");
    reported(Bench::new(&exact).run(32), &["32 threads in a block; its .reqntid says 64"]);
    let newer = Bench::with(&text.replace("sm_80", "sm_52"), Options { capability: [5, 2], arch: 52, ..Options::default() });
    assert!(format!("{:#}", newer.device.load(text.as_bytes()).unwrap_err()).contains("PTX for sm_80; the device is of 5.2"));
}

#[test]
fn arguments_that_do_not_suit() {
    let text = kernel(2, 32, "", COPY);
    reported(Bench::new(&text).unset(4).run(32), &["1 arguments; it has 2 parameters"]);
    let mut bench = Bench::new(&text).unset(4).unset(4);
    bench.addresses[1] = 0x1234;
    reported(bench.run(32), &["argument 1: address 0x1234 lies in no memory"]);
}

#[test]
fn text_that_is_not_known() {
    let error = |text: &str| format!("{:#}", kernels(text.as_bytes()).unwrap_err());
    let of_body = |body: &str| error(&kernel(1, 32, "", body));
    assert!(
        of_body("fmm.rn.f32 %f0, %f0, %f0;").contains("kernel k, PTX line 17: `fmm.rn.f32 %f0, %f0, %f0`: this form"),
        "{}",
        of_body("fmm.rn.f32 %f0, %f0, %f0;")
    );
    assert!(of_body("add.ftz.f32 %f0, %f0, %f0;").contains("not known here"));
    assert!(of_body("atom.global.add.f32 %f0, [%rd0], %f0;").contains("not known here"));
    assert!(
        of_body("add.f32 %f0, %f0;").contains("1 operands; expected 2") || of_body("add.f32 %f0, %f0;").contains("2 operands; expected 3")
    );
    assert!(of_body("add.f32 %f0, %f0, %rd0;").contains("register %rd0 is B64; expected B32"));
    assert!(of_body("add.f32 %f0, %f0, %f99;").contains("`%f99` is no register"));
    assert!(of_body("mov.u32 %r1, %clock;").contains("`%clock` is no register"));
    assert!(of_body("add.s16 %rs0, %rs0, 70000;").contains("70000 does not fit into 16 bits"));
    assert!(of_body("ld.param.u64 %rd1, [p0+4];").contains("bytes 4 and on of a parameter of 8 bytes"));
    assert!(of_body("bra $nowhere;").contains("`$nowhere` is neither a label nor a shared variable"));
    assert!(of_body(".local .b8 x[4];").contains("`.local` is no directive"));
    assert!(of_body(".pragma \"unroll\";").contains("pragma \"unroll\" is not known"));
    assert!(error(&format!("{HEAD}.func f() {{ }}")).contains("PTX line 4: `.func` is no directive"));
    assert!(error(&format!("{HEAD}#")).contains("`#` is no sign of PTX"));
    assert!(error(".version 7.0").contains("no line .target") || error(".version 7.0").contains("without a line .target"));
    assert!(error("\u{fe}").contains("is no sign of PTX"));
}
