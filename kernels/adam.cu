// One step of Adam over any number of parameters. Host side: src/ops/adam.rs.
//   m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2      p = p - rate * m / (sqrt(v) / root + eps)
// The host computes rate = lr / (1 - b1^t) and root = sqrt(1 - b2^t). There is no backward: no gradient goes through a step.
// Source: as in src/ops/adam.rs.
#include "kernel.h"

// Only memory limits the speed: seven values travel for each parameter, so a thread takes four parameters at a time where the
// addresses allow it.
struct AdamFactors {
    f32 rate, root, keep_first, add_first, keep_second, add_second, epsilon;
};

template <u32 COUNT>
DEVICE void adam_move(AdamFactors a, u64 at, GLOBAL(f32) p, GLOBAL(const f32) g, GLOBAL(f32) m, GLOBAL(f32) v) {
    Lanes<COUNT> parameter = load_lanes<COUNT>(p, at), gradient = load_lanes<COUNT>(g, at);
    Lanes<COUNT> first = load_lanes<COUNT>(m, at), second = load_lanes<COUNT>(v, at);
    UNROLL
    for (u32 k = 0; k < COUNT; k++) {
        first.at[k] = a.keep_first * first.at[k] + a.add_first * gradient.at[k];
        second.at[k] = a.keep_second * second.at[k] + a.add_second * (gradient.at[k] * gradient.at[k]);
        parameter.at[k] = parameter.at[k] - a.rate * (first.at[k] / (square_root(second.at[k]) / a.root + a.epsilon));
    }
    store_lanes<COUNT>(m, at, first);
    store_lanes<COUNT>(v, at, second);
    store_lanes<COUNT>(p, at, parameter);
}

KERNEL(256, 4)
adam_step(u32 count, u32 group, f64 rate, f64 root, f64 beta_first, f64 beta_second, f64 epsilon, GLOBAL(f32) p, GLOBAL(const f32) g,
          GLOBAL(f32) m, GLOBAL(f32) v) {
    AdamFactors a = {(f32)rate,        (f32)root,          (f32)beta_first, (f32)(1 - beta_first),
                     (f32)beta_second, (f32)(1 - beta_second), (f32)epsilon};
    u32 fours = group == 4 ? count / 4 : 0;
    FOR_EACH(i, fours) adam_move<4>(a, 4 * (u64)i, p, g, m, v);
    FOR_EACH(i, count - 4 * fours) adam_move<1>(a, 4 * (u64)fours + i, p, g, m, v);
}
