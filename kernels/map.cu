// What is done to maps and weights between the ops: maps are added, one channel stands for several equal ones, and maps are turned.
// Host side: src/ops/map.rs.
//   add            to += from
//   sum copies     out[o, tap] = sum over k < copies of weights[o, k, tap]
//   spread copies  to[o, k, tap] += from[o, tap] for every k
//   turn           to[y, x] = share from[y', x'], or += it, with y' = y or h-1-y and x' = x or w-1-x
#include "kernel.h"

struct MapShape {
    u32 pixels, c;
};

template <u32 COUNT> DEVICE void map_sum(MapShape s, GLOBAL(const f32) from, u32 from_stride, GLOBAL(f32) to, u32 to_stride) {
    u32 groups = s.c / COUNT;
    FOR_EACH(item, s.pixels * groups) {
        u32 pixel = item / groups, ch = item % groups * COUNT;
        u64 at = (u64)pixel * to_stride + ch;
        Lanes<COUNT> value = load_lanes<COUNT>(from, (u64)pixel * from_stride + ch), sum = load_lanes<COUNT>(to, at);
        UNROLL
        for (u32 k = 0; k < COUNT; k++) sum.at[k] = sum.at[k] + value.at[k];
        store_lanes<COUNT>(to, at, sum);
    }
}

KERNEL(256, 4) map_add(MapShape s, u32 group, GLOBAL(const f32) from, u32 from_stride, GLOBAL(f32) to, u32 to_stride) {
    if (group == 4) {
        map_sum<4>(s, from, from_stride, to, to_stride);
    } else {
        map_sum<1>(s, from, from_stride, to, to_stride);
    }
}

// Writes `count` values of `out`. Each is summed in f64 and rounded once.
KERNEL(256, 4) map_sum_copies(u32 count, u32 copies, u32 taps, GLOBAL(const f32) weights, GLOBAL(f32) out) {
    FOR_EACH(i, count) {
        u64 first = (u64)(i / taps) * copies * taps + i % taps;
        f64 sum = 0;
        for (u32 k = 0; k < copies; k++) sum += (f64)weights[first + (u64)k * taps];
        out[i] = (f32)sum;
    }
}

// Adds to `count` values of `to`.
KERNEL(256, 4) map_spread_copies(u32 count, u32 copies, u32 taps, GLOBAL(const f32) from, GLOBAL(f32) to) {
    FOR_EACH(i, count) to[i] = to[i] + from[i / (copies * taps) * taps + i % taps];
}

struct TurnShape {
    u32 h, w;
    u32 rows, columns; // 1: they change places
    u32 adds;          // 1: to what is there
};

KERNEL(256, 4) map_turn(TurnShape s, raw_f32 share, GLOBAL(const f32) from, u32 from_stride, GLOBAL(f32) to, u32 to_stride) {
    FOR_EACH(i, s.h * s.w) {
        u32 y = i / s.w, x = i % s.w;
        u32 source = (s.rows ? s.h - 1 - y : y) * s.w + (s.columns ? s.w - 1 - x : x);
        f32 value = (f32)share * from[(u64)source * from_stride];
        to[(u64)i * to_stride] = s.adds ? to[(u64)i * to_stride] + value : value;
    }
}
