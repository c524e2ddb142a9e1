// Gradient of a ReLU that was fused into the op before it, in place. Host side: src/ops/relu.rs.
//   backward  dout[i, ch] = out[i, ch] > 0 ? dout[i, ch] : 0
// Source: as in src/ops/relu.rs. Forward has no kernel here: the ops that a ReLU follows apply it as they write.
#include "kernel.h"

struct ReluShape {
    u32 pixels, c;
};

KERNEL(256, 4) relu_backward(ReluShape s, GLOBAL(const f32) out, u32 out_stride, GLOBAL(f32) dout, u32 dout_stride) {
    FOR_EACH(i, s.pixels * s.c) {
        u32 ch = i % s.c, pixel = i / s.c;
        // The condition is written so that a NaN stops the gradient, as on the CPU.
        if (!(out[(u64)pixel * out_stride + ch] > 0)) dout[(u64)pixel * dout_stride + ch] = 0;
    }
}
