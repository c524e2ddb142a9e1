// The 3x3 neighbourhoods of chosen pixels. Host side: src/ops/gather.rs.
//   out[k, (3 i + j) c + ch] = inp[y_k + i - 1, x_k + j - 1, ch], 0 outside
// There is no backward: training evaluates the heads everywhere.
// Source: as in src/ops/gather.rs.
#include "kernel.h"

struct GatherShape {
    u32 h, w, c, rows, first; // the output has `rows` rows, for the indices from number `first` on
};

template <u32 COUNT>
DEVICE void gather_rows(GatherShape s, u32 has_found, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const u32) found,
                        GLOBAL(const u32) indices, GLOBAL(f32) out, u32 out_stride) {
    u32 groups = s.c / COUNT;
    FOR_EACH(item, s.rows * 9 * groups) {
        u32 ch = item % groups * COUNT, tap = item / groups % 9, row = item / groups / 9;
        Lanes<COUNT> value = lanes_of<COUNT>(0);
        if (!has_found || s.first + row < found[0]) {
            // Both y and x are one too large here, so that neither is negative.
            u32 index = indices[s.first + row], y = index / s.w + tap / 3, x = index % s.w + tap % 3;
            if (y >= 1 && x >= 1 && y <= s.h && x <= s.w) {
                value = load_lanes<COUNT>(inp, (u64)((y - 1) * s.w + x - 1) * inp_stride + ch);
            }
        }
        store_lanes<COUNT>(out, (u64)row * out_stride + tap * s.c + ch, value);
    }
}

// `found` [1], if it is given, says how many indices there are. Rows beyond them become 0, so that the ops that follow read
// numbers.
KERNEL(256, 4)
gather_forward(GatherShape s, u32 group, u32 has_found, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const u32) found,
               GLOBAL(const u32) indices, GLOBAL(f32) out, u32 out_stride) {
    if (group == 4) {
        gather_rows<4>(s, has_found, inp, inp_stride, found, indices, out, out_stride);
    } else {
        gather_rows<1>(s, has_found, inp, inp_stride, found, indices, out, out_stride);
    }
}
