// Maximum of windows that do not overlap, and its gradient. Host side: src/ops/max_pool.rs.
//   forward   out[n, y, x, ch]  = max over i, j < window of inp[n, y * window + i, x * window + j, ch]
//   backward  dinp[n, y * window + i, x * window + j, ch] += dout[n, y, x, ch] at the first maximum, in reading order
// Source: as in src/ops/max_pool.rs.
#include "kernel.h"

struct MaxPoolShape {
    u32 n, h, w, c, window; // of the input
};

DEVICE u32 max_pool_out_h(MaxPoolShape s) { return s.h / s.window; }
DEVICE u32 max_pool_out_w(MaxPoolShape s) { return s.w / s.window; }

// The first pixel of the window that belongs to output pixel `out`.
DEVICE u32 max_pool_first(MaxPoolShape s, u32 out) {
    u32 oh = max_pool_out_h(s), ow = max_pool_out_w(s);
    u32 x = out % ow, y = out / ow % oh, image = out / ow / oh;
    return (image * s.h + y * s.window) * s.w + x * s.window;
}

template <u32 COUNT>
DEVICE void max_pool_rows(MaxPoolShape s, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(f32) out, u32 out_stride) {
    u32 oh = max_pool_out_h(s), ow = max_pool_out_w(s), groups = s.c / COUNT;
    u32 row = block_y(), item = block_x() * block_threads() + thread_index();
    if (item >= ow * groups) return;
    u32 x = item / groups, ch = (item - x * groups) * COUNT;
    u32 first = (row / oh * s.h + row % oh * s.window) * s.w + x * s.window;
    Lanes<COUNT> most = load_lanes<COUNT>(inp, (u64)first * inp_stride + ch);
    for (u32 i = 0; i < s.window; i++) {
        for (u32 j = 0; j < s.window; j++) {
            Lanes<COUNT> value = load_lanes<COUNT>(inp, (u64)(first + i * s.w + j) * inp_stride + ch);
            UNROLL
            for (u32 k = 0; k < COUNT; k++) most.at[k] = larger(most.at[k], value.at[k]);
        }
    }
    store_lanes<COUNT>(out, (u64)(row * ow + x) * out_stride + ch, most);
}

// Grid: y counts rows of the output, through all images; x counts its pixels and groups of channels.
KERNEL(256, 4)
max_pool_forward(MaxPoolShape s, u32 group, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(f32) out, u32 out_stride) {
    if (group == 4) {
        max_pool_rows<4>(s, inp, inp_stride, out, out_stride);
    } else {
        max_pool_rows<1>(s, inp, inp_stride, out, out_stride);
    }
}

// Windows do not overlap, so each output value has inputs of its own, and no atomics are needed.
KERNEL(256, 4)
max_pool_backward(MaxPoolShape s, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) dout, u32 dout_stride, GLOBAL(f32) dinp,
                  u32 dinp_stride) {
    FOR_EACH(i, s.n * max_pool_out_h(s) * max_pool_out_w(s) * s.c) {
        u32 ch = i % s.c, pixel = i / s.c, first = max_pool_first(s, pixel), at = first;
        f32 most = inp[(u64)first * inp_stride + ch];
        for (u32 k = 1; k < s.window * s.window; k++) {
            u32 here = first + k / s.window * s.w + k % s.window;
            f32 value = inp[(u64)here * inp_stride + ch];
            if (value > most) most = value, at = here;
        }
        dinp[(u64)at * dinp_stride + ch] = dinp[(u64)at * dinp_stride + ch] + dout[(u64)pixel * dout_stride + ch];
    }
}
