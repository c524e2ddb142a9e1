// Depth-wise transposed convolution that enlarges a map f times (kernel 2f, stride f, padding f/2), with the sum that follows
// it, and the gradients of both. Host side: src/ops/up_conv.rs.
//   forward   out[n, Y, X, ch]    = skip[n, Y, X, ch] + sum of inp[n, y, x, ch] * weight[ch, i, j]
//   backward  dinp[n, y, x, ch]  += sum over i, j     of dout[n, Y, X, ch] * weight[ch, i, j]
//             dweight[ch, i, j]  += sum over n, y, x  of dout[n, Y, X, ch] * inp[n, y, x, ch]
// Here Y = y f + i - f/2 and X = x f + j - f/2, as far as they lie inside of the output.
// Source: as in src/ops/up_conv.rs.
#include "kernel.h"

struct UpConvShape {
    u32 n, h, w, c, factor; // of the input
};

// The weights of COUNT channels at a tap; `weights` lie as parameters do, [ch][tap].
template <u32 COUNT> DEVICE Lanes<COUNT> up_conv_weights(GLOBAL(const f32) weights, u32 taps, u32 tap, u32 ch) {
    Lanes<COUNT> found;
    u64 first = (u64)ch * taps + tap;
    UNROLL
    for (u32 k = 0; k < COUNT; k++) found.at[k] = weights[first + k * taps];
    return found;
}

// FACTOR is the factor where it is known when this is compiled, so that nothing is divided by it, else 0.
template <u32 COUNT, u32 FACTOR>
DEVICE void up_conv_enlarge(UpConvShape s, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) weights, u32 has_skip,
                            GLOBAL(const f32) skip, u32 skip_stride, GLOBAL(f32) out, u32 out_stride) {
    u32 f = FACTOR > 0 ? FACTOR : s.factor, oh = s.h * f, ow = s.w * f, groups = s.c / COUNT;
    u32 row = block_y(), item = block_x() * block_threads() + thread_index();
    if (item >= ow * groups) return;
    u32 x_out = item / groups, ch = (item - x_out * groups) * COUNT, pixel = row * ow + x_out;
    u32 x_shifted = x_out + f / 2, y_shifted = row % oh + f / 2, image = row / oh;
    Lanes<COUNT> sum = lanes_of<COUNT>(0);
    if (has_skip) sum = load_lanes<COUNT>(skip, (u64)pixel * skip_stride + ch);
    // Two y fulfil y f + i = Y + f/2 with 0 <= i < 2 f: the larger one is (Y + f/2) / f, the other one is one less. So it
    // is for x.
    u32 y_last = y_shifted / f, x_last = x_shifted / f;
    NO_UNROLL
    for (u32 y = y_last - smaller(y_last, 1u); y <= y_last && y < s.h; y++) {
        NO_UNROLL
        for (u32 x = x_last - smaller(x_last, 1u); x <= x_last && x < s.w; x++) {
            u32 tap = (y_shifted - y * f) * 2 * f + x_shifted - x * f;
            Lanes<COUNT> weight = up_conv_weights<COUNT>(weights, 4 * f * f, tap, ch);
            Lanes<COUNT> value = load_lanes<COUNT>(inp, (u64)((image * s.h + y) * s.w + x) * inp_stride + ch);
            UNROLL
            for (u32 k = 0; k < COUNT; k++) sum.at[k] = multiply_add(value.at[k], weight.at[k], sum.at[k]);
        }
    }
    store_lanes<COUNT>(out, (u64)pixel * out_stride + ch, sum);
}

// Grid: y counts rows of the output, through all images; x counts its pixels and groups of channels.
KERNEL(256, 4)
up_conv_forward(UpConvShape s, u32 group, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) weights, u32 has_skip,
                GLOBAL(const f32) skip, u32 skip_stride, GLOBAL(f32) out, u32 out_stride) {
    if (group == 1) {
        up_conv_enlarge<1, 0>(s, inp, inp_stride, weights, has_skip, skip, skip_stride, out, out_stride);
    } else if (s.factor == 2) {
        up_conv_enlarge<4, 2>(s, inp, inp_stride, weights, has_skip, skip, skip_stride, out, out_stride);
    } else if (s.factor == 4) {
        up_conv_enlarge<4, 4>(s, inp, inp_stride, weights, has_skip, skip, skip_stride, out, out_stride);
    } else {
        up_conv_enlarge<4, 0>(s, inp, inp_stride, weights, has_skip, skip, skip_stride, out, out_stride);
    }
}

template <u32 COUNT>
DEVICE void up_conv_reduce(UpConvShape s, GLOBAL(const f32) weights, GLOBAL(const f32) dout, u32 dout_stride, GLOBAL(f32) dinp,
                           u32 dinp_stride) {
    u32 f = s.factor, oh = s.h * f, ow = s.w * f, groups = s.c / COUNT;
    FOR_EACH(item, s.n * s.h * s.w * groups) {
        u32 ch = item % groups * COUNT, pixel = item / groups;
        u32 x = pixel % s.w, y = pixel / s.w % s.h, image = pixel / s.w / s.h;
        Lanes<COUNT> sum = lanes_of<COUNT>(0);
        for (u32 i = 0; i < 2 * f; i++) {
            u32 y_shifted = y * f + i;
            if (y_shifted < f / 2 || y_shifted - f / 2 >= oh) continue;
            u32 row = (image * oh + y_shifted - f / 2) * ow;
            for (u32 j = 0; j < 2 * f; j++) {
                u32 x_shifted = x * f + j;
                if (x_shifted < f / 2 || x_shifted - f / 2 >= ow) continue;
                Lanes<COUNT> weight = up_conv_weights<COUNT>(weights, 4 * f * f, i * 2 * f + j, ch);
                Lanes<COUNT> value = load_lanes<COUNT>(dout, (u64)(row + x_shifted - f / 2) * dout_stride + ch);
                UNROLL
                for (u32 k = 0; k < COUNT; k++) sum.at[k] = multiply_add(value.at[k], weight.at[k], sum.at[k]);
            }
        }
        u64 at = (u64)pixel * dinp_stride + ch;
        Lanes<COUNT> total = load_lanes<COUNT>(dinp, at);
        UNROLL
        for (u32 k = 0; k < COUNT; k++) total.at[k] = total.at[k] + sum.at[k];
        store_lanes<COUNT>(dinp, at, total);
    }
}

// This kernel gathers: every input pixel reads its own 2f x 2f output pixels, so no two threads add to one value.
KERNEL(256, 4)
up_conv_backward_data(UpConvShape s, u32 group, GLOBAL(const f32) weights, GLOBAL(const f32) dout, u32 dout_stride, GLOBAL(f32) dinp,
                      u32 dinp_stride) {
    if (group == 4) {
        up_conv_reduce<4>(s, weights, dout, dout_stride, dinp, dinp_stride);
    } else {
        up_conv_reduce<1>(s, weights, dout, dout_stride, dinp, dinp_stride);
    }
}

template <u32 COUNT>
DEVICE void up_conv_sum_part(UpConvShape s, u32 part_pixels, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) dout,
                             u32 dout_stride, GLOBAL(f32) partial) {
    u32 f = s.factor, oh = s.h * f, ow = s.w * f, groups = s.c / COUNT, taps = 4 * f * f;
    u32 item = block_x() * block_threads() + thread_index();
    if (item >= taps * groups) return;
    u32 ch = item % groups * COUNT, tap = item / groups, i = tap / (2 * f), j = tap % (2 * f);
    u32 first = block_y() * part_pixels, end = smaller(first + part_pixels, s.n * s.h * s.w);
    u32 x = first % s.w, y = first / s.w % s.h, image = first / s.w / s.h;
    Lanes<COUNT> sum = lanes_of<COUNT>(0);
    for (u32 pixel = first; pixel < end; pixel++) {
        u32 y_shifted = y * f + i, x_shifted = x * f + j;
        if (y_shifted >= f / 2 && y_shifted - f / 2 < oh && x_shifted >= f / 2 && x_shifted - f / 2 < ow) {
            u32 from = (image * oh + y_shifted - f / 2) * ow + x_shifted - f / 2;
            Lanes<COUNT> value = load_lanes<COUNT>(inp, (u64)pixel * inp_stride + ch);
            Lanes<COUNT> gradient = load_lanes<COUNT>(dout, (u64)from * dout_stride + ch);
            UNROLL
            for (u32 k = 0; k < COUNT; k++) sum.at[k] = multiply_add(value.at[k], gradient.at[k], sum.at[k]);
        }
        x++;
        if (x == s.w) x = 0, y++;
        if (y == s.h) y = 0, image++;
    }
    store_lanes<COUNT>(partial, ((u64)block_y() * taps + tap) * s.c + ch, sum);
}

// First half of the gradient of the weights: sums [part][tap][ch], each over one part of the input pixels.
// Grid: x counts threads, one for each tap and group of channels; y counts parts.
KERNEL(256, 4)
up_conv_backward_weights(UpConvShape s, u32 group, u32 part_pixels, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) dout,
                         u32 dout_stride, GLOBAL(f32) partial) {
    if (group == 4) {
        up_conv_sum_part<4>(s, part_pixels, inp, inp_stride, dout, dout_stride, partial);
    } else {
        up_conv_sum_part<1>(s, part_pixels, inp, inp_stride, dout, dout_stride, partial);
    }
}

// Second half: the parts are summed, always in the same order, and added to the values that are there.
KERNEL(256, 4)
up_conv_add_parts(UpConvShape s, u32 parts, GLOBAL(const f32) partial, GLOBAL(f32) dweights) {
    u32 taps = 4 * s.factor * s.factor;
    FOR_EACH(item, taps * s.c) {
        // Four sums at once, so that four loads are under way.
        f64 sums[4] = {};
        NO_UNROLL
        for (u32 part = 0; part < parts; part += 4) {
            UNROLL
            for (u32 k = 0; k < 4; k++) sums[k] += part + k < parts ? (f64)partial[(u64)(part + k) * taps * s.c + item] : 0;
        }
        f64 sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        u32 at = item % s.c * taps + item / s.c; // as parameters lie
        dweights[at] = dweights[at] + (f32)sum;
    }
}
