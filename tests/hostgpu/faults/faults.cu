// Kernels with one fault each: the host executor has to report every one of them (tests/gpu/faults.rs). Each has a sound
// twin, or is sound with other arguments, so that the report is seen to be of the fault.
#include "kernel.h"

struct FaultShape {
    u32 count, flags;
};

// out[i] = inp[i], for as many values as it is told, whether they are there or not.
KERNEL(64, 1) fault_copy(FaultShape s, GLOBAL(const f32) inp, GLOBAL(f32) out) {
    FOR_EACH(i, s.count) out[i] = inp[i];
}

// Writes one value before the first.
KERNEL(64, 1) fault_before(GLOBAL(f32) out) {
    if (thread_index() == 0) out[-1] = 1;
}

// Reverses a block through shared memory; without the barrier a thread reads what another one writes.
KERNEL(64, 1) fault_reverse(FaultShape s, GLOBAL(const f32) inp, GLOBAL(f32) out) {
    SHARED(f32, tile, 64);
    u32 thread = thread_index();
    tile[thread] = inp[thread];
    if (s.flags) block_sync();
    out[thread] = tile[63 - thread];
}

// A loop over two tiles that forgets the barrier at its end: the second tile is written while the first is read.
KERNEL(64, 1) fault_two_tiles(FaultShape s, GLOBAL(const f32) inp, GLOBAL(f32) out) {
    SHARED(f32, tile, 64);
    u32 thread = thread_index();
    f32 sum = 0;
    for (u32 i = 0; i < 2; i++) {
        tile[thread] = inp[i * 64 + thread];
        block_sync();
        sum = sum + tile[(thread + 1) % 64];
        if (s.flags) block_sync();
    }
    out[thread] = sum;
}

// Two threads write one value of shared memory.
KERNEL(64, 1) fault_two_writers(FaultShape s, GLOBAL(f32) out) {
    SHARED(f32, tile, 64);
    u32 thread = thread_index();
    tile[s.flags ? thread : thread / 2] = (f32)thread;
    block_sync();
    if (thread == 0) out[0] = tile[0];
}

// Runs over the end of shared memory.
KERNEL(64, 1) fault_shared_overrun(FaultShape s, GLOBAL(f32) out) {
    SHARED(f32, tile, 64);
    u32 thread = thread_index();
    tile[thread + (s.flags ? 0 : 1)] = 1;
    block_sync();
    if (thread == 0) out[0] = tile[0];
}

// Reads shared memory that nobody has written.
KERNEL(64, 1) fault_shared_unwritten(FaultShape s, GLOBAL(f32) out) {
    SHARED(f32, tile, 64);
    u32 thread = thread_index();
    if (s.flags || thread < 32) tile[thread] = 1;
    block_sync();
    out[thread] = tile[thread];
}

// A barrier that half of the threads do not reach.
KERNEL(64, 1) fault_half_barrier(FaultShape s, GLOBAL(f32) out) {
    u32 thread = thread_index();
    if (s.flags || thread < 32) block_sync();
    out[thread] = 1;
}

// Two barriers, of which each thread reaches one.
KERNEL(64, 1) fault_two_barriers(GLOBAL(f32) out) {
    u32 thread = thread_index();
    if (thread % 2) {
        block_sync();
    } else {
        block_sync();
    }
    out[thread] = 1;
}

// A shuffle that not all lanes of the warp take part in.
KERNEL(64, 1) fault_half_shuffle(FaultShape s, GLOBAL(f32) out) {
    u32 thread = thread_index();
    f32 value = (f32)thread;
    if (s.flags || thread % 32 < 16) value = shuffle_xor(value, 1u);
    out[thread] = value;
}

// Four values at once from an address that is no multiple of four.
KERNEL(64, 1) fault_misaligned(FaultShape s, GLOBAL(const f32) inp, GLOBAL(f32) out) {
    if (thread_index() == 0) store4(out, 0, load4(inp, s.flags ? 4 : 2));
}

// More threads than any architecture has in a block.
KERNEL(2048, 1) fault_many_threads(GLOBAL(f32) out) {
    out[thread_index()] = 1;
}

// More shared memory than a kernel can declare on sm_60.
KERNEL(64, 1) fault_much_shared(GLOBAL(f32) out) {
    SHARED(f32, tile, 8192);
    SHARED(f32, other, 4097);
    u32 thread = thread_index();
    tile[thread] = 1;
    other[thread] = 1;
    out[thread] = tile[thread];
}

// Two blocks write one value.
KERNEL(64, 1) fault_two_blocks(FaultShape s, GLOBAL(f32) out) {
    if (thread_index() == 0) out[s.flags ? block_x() : 0] = (f32)block_x();
}

// A block reads what another one writes in the same launch.
KERNEL(64, 1) fault_read_of_a_block(FaultShape s, GLOBAL(f32) out) {
    if (thread_index() > 0) return;
    if (block_x() == 0) {
        out[0] = 1;
    } else {
        out[block_x()] = s.flags ? (f32)2 : (f32)(out[block_x() - 1] + 1);
    }
}

// Reverses a block in global memory; without the barrier a thread reads what another one writes.
KERNEL(64, 1) fault_global_reverse(FaultShape s, GLOBAL(f32) out) {
    u32 thread = thread_index();
    f32 value = out[63 - thread];
    if (s.flags) block_sync();
    out[thread] = value;
}

// Counts by atomics, and by adding: the sum of two threads that add at once is one of theirs.
KERNEL(64, 1) fault_count(FaultShape s, GLOBAL(u32) out) {
    if (s.flags) {
        atomic_add(out, 0, 1);
    } else {
        out[0] = out[0] + 1;
    }
}
