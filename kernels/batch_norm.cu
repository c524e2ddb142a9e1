// Batch norm and its gradients. In evaluation it applies given scales and shifts. In training it normalises by the statistics
// of the batch, and also does the sum and the ReLU that follow it. Host side: src/ops/batch_norm.
//   statistics  mean, variance over all pixels      running = 0.9 running + 0.1 statistic (unbiased variance)
//   forward     out = relu(gamma x^ + beta + residual)      x^ = (inp - mean) / sqrt(variance + eps)
//   backward    g = dout where out > 0      dresidual += g      dbeta += sum g      dgamma += sum g x^
//               dinp += gamma / sqrt(variance + eps) (g - sum g / m - x^ sum (g x^) / m)      if frozen, without both sums
// Here m is the number of pixels of all images. The kernels sum differences from nearby values: a few at a time in the type of
// the values, and those short sums in f64. So neither a large mean nor many pixels cost digits. Each image is summed alone, and
// the images are added in their order: they may be those of several devices. Between the kernels, `saved` [3][c] holds each
// channel's mean, in two parts, and its factor 1 / sqrt(variance + eps).
// Source: as in src/ops/batch_norm/training.rs.
#include "kernel.h"

constexpr u32 BATCH_NORM_THREADS = 256;
// How many threads add the parts of one channel.
constexpr u32 BATCH_NORM_PARTS_THREADS = 128;
// How many values are summed in their own type before their sum goes into an f64.
constexpr u32 BATCH_NORM_RUN = 16;

// How the threads of a block are laid out: `columns` of them (a power of two) stand side by side on groups of channels, and
// the rows of them on pixels.
// Grid: x counts parts of an image's pixels, y counts the blocks that all groups of channels need, and z counts images where each
// is summed alone; elsewhere all pixels are taken as those of one image.
struct BatchNormShape {
    u32 pixels, c, columns, parts;
};

struct BatchNormWork {
    u32 ch, row, rows, first, end;
};

DEVICE BatchNormWork batch_norm_work(BatchNormShape s, u32 group) {
    u32 column = thread_index() % s.columns, row = thread_index() / s.columns, each = divide_up(s.pixels, s.parts);
    u32 first = block_x() * each, before = block_z() * s.pixels;
    return {(block_y() * s.columns + column) * group, row, BATCH_NORM_THREADS / s.columns, before + first,
            before + smaller(first + each, s.pixels)};
}

// Where the two sums of this block's part go: [image][part][2][c].
DEVICE u64 batch_norm_part(BatchNormShape s) {
    return ((u64)block_z() * s.parts + block_x()) * 2 * s.c;
}

// Adds `values` sums of each thread over the rows of the block, always in the same order; the first row gets the result.
template <u32 VALUES> DEVICE void batch_norm_add_rows(BatchNormShape s, f64 (&sums)[VALUES], SHARED_POINTER(f64) scratch) {
    u32 thread = thread_index();
    UNROLL
    for (u32 k = 0; k < VALUES; k++) scratch[k * BATCH_NORM_THREADS + thread] = sums[k];
    block_sync();
    for (u32 step = BATCH_NORM_THREADS / 2; step >= s.columns; step /= 2) {
        if (thread < step) {
            UNROLL
            for (u32 k = 0; k < VALUES; k++) {
                u32 at = k * BATCH_NORM_THREADS + thread;
                scratch[at] = scratch[at] + scratch[at + step];
            }
        }
        block_sync();
    }
    UNROLL
    for (u32 k = 0; k < VALUES; k++) sums[k] = scratch[k * BATCH_NORM_THREADS + thread % s.columns];
}

template <u32 COUNT>
DEVICE void batch_norm_sum_part(BatchNormShape s, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(f64) partial,
                                SHARED_POINTER(f64) scratch) {
    BatchNormWork work = batch_norm_work(s, COUNT);
    f64 sums[2 * COUNT] = {}; // first of (inp - pivot), then of its square; the pivot is the image's first value of the channel
    if (work.ch < s.c) {
        Lanes<COUNT> pivot = load_lanes<COUNT>(inp, (u64)block_z() * s.pixels * inp_stride + work.ch);
        for (u32 start = work.first + work.row; start < work.end; start += BATCH_NORM_RUN * work.rows) {
            // The sums are of differences from the run's first value: what these lose by rounding is small against the run's
            // own spread.
            Lanes<COUNT> near = load_lanes<COUNT>(inp, (u64)start * inp_stride + work.ch);
            Lanes<COUNT> first = lanes_of<COUNT>(0), second = first;
            u32 count = smaller(divide_up(work.end - start, work.rows), BATCH_NORM_RUN);
            for (u32 i = 1; i < count; i++) {
                Lanes<COUNT> value = load_lanes<COUNT>(inp, (u64)(start + i * work.rows) * inp_stride + work.ch);
                UNROLL
                for (u32 k = 0; k < COUNT; k++) {
                    f32 difference = value.at[k] - near.at[k];
                    first.at[k] = first.at[k] + difference;
                    second.at[k] = multiply_add(difference, difference, second.at[k]);
                }
            }
            UNROLL
            for (u32 k = 0; k < COUNT; k++) {
                f64 shift = (f64)near.at[k] - (f64)pivot.at[k], sum = (f64)first.at[k];
                sums[k] = sums[k] + (count * shift + sum);
                sums[COUNT + k] = sums[COUNT + k] + ((f64)second.at[k] + shift * (2 * sum + count * shift));
            }
        }
    }
    batch_norm_add_rows<2 * COUNT>(s, sums, scratch);
    if (work.ch < s.c && work.row == 0) {
        UNROLL
        for (u32 k = 0; k < COUNT; k++) {
            partial[batch_norm_part(s) + work.ch + k] = sums[k];
            partial[batch_norm_part(s) + s.c + work.ch + k] = sums[COUNT + k];
        }
    }
}

// Writes two sums for each part, [image][part][2][c]: of the differences from the image's first value, and of their squares.
KERNEL(256, 2)
batch_norm_sums(BatchNormShape s, u32 group, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(f64) partial) {
    SHARED(f64, scratch, 8 * BATCH_NORM_THREADS);
    if (group == 4) {
        batch_norm_sum_part<4>(s, inp, inp_stride, partial, scratch);
    } else {
        batch_norm_sum_part<1>(s, inp, inp_stride, partial, scratch);
    }
}

// The sums of all parts of an image for one channel, always added in the same order; every thread gets them.
DEVICE void batch_norm_add_parts(BatchNormShape s, GLOBAL(const f64) partial, u32 image, u32 ch, SHARED_POINTER(f64) scratch,
                                 f64 (&sums)[2]) {
    UNROLL
    for (u32 which = 0; which < 2; which++) {
        f64 sum = 0;
        for (u32 part = thread_index(); part < s.parts; part += BATCH_NORM_PARTS_THREADS) {
            sum += partial[(((u64)image * s.parts + part) * 2 + which) * s.c + ch];
        }
        sums[which] = block_sum<BATCH_NORM_PARTS_THREADS>(sum, scratch);
    }
}

DEVICE void batch_norm_save(u32 c, u32 ch, f64 mean, f64 variance, f64 epsilon, GLOBAL(f32) saved) {
    f32 near = (f32)mean;
    saved[ch] = near;
    saved[c + ch] = (f32)(mean - (f64)near);
    saved[2 * c + ch] = (f32)(1 / square_root(variance + epsilon));
}

// Adds the parts of each image: its mean, and its sum of squared differences from it, [image][2][c].
// Grid: x counts channels, y images.
KERNEL(128, 4)
batch_norm_image(BatchNormShape s, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f64) partial, GLOBAL(f64) found) {
    SHARED(f64, scratch, BATCH_NORM_PARTS_THREADS);
    u32 ch = block_x(), image = block_y();
    f64 sums[2];
    batch_norm_add_parts(s, partial, image, ch, scratch, sums);
    if (thread_index() == 0) {
        f64 count = s.pixels, offset = sums[0] / count;
        found[((u64)image * 2) * s.c + ch] = (f64)inp[(u64)image * s.pixels * inp_stride + ch] + offset;
        found[((u64)image * 2 + 1) * s.c + ch] = larger(sums[1] - offset * sums[0], 0.0);
    }
}

// Mean and variance over all images, by the means and the squares of each; both are added in the order of the images.
// Source: Chan, Golub, LeVeque 1983, doi:10.1080/00031305.1983.10483115, formula 2.1, for equal counts.
KERNEL(128, 4)
batch_norm_statistics(BatchNormShape s, u32 images, f64 momentum, f64 epsilon, GLOBAL(const f64) found, GLOBAL(f32) running_mean,
                      GLOBAL(f32) running_variance, GLOBAL(f32) saved) {
    FOR_EACH(ch, s.c) {
        f64 count = (f64)images * s.pixels, mean = 0, squares = 0;
        NO_UNROLL
        for (u32 image = 0; image < images; image++) mean += found[((u64)image * 2) * s.c + ch];
        mean = mean / images;
        NO_UNROLL
        for (u32 image = 0; image < images; image++) {
            f64 difference = found[((u64)image * 2) * s.c + ch] - mean;
            squares += found[((u64)image * 2 + 1) * s.c + ch] + s.pixels * difference * difference;
        }
        f64 variance = squares / count;
        // A single value has no unbiased variance, so it adds nothing to the running variance.
        f64 unbiased = count > 1 ? count / (count - 1) : 0;
        running_mean[ch] = (f32)((1 - momentum) * (f64)running_mean[ch] + momentum * mean);
        running_variance[ch] = (f32)((1 - momentum) * (f64)running_variance[ch] + momentum * (variance * unbiased));
        batch_norm_save(s.c, ch, mean, variance, epsilon, saved);
    }
}

// For frozen statistics: saves the running ones as they are.
KERNEL(128, 4)
batch_norm_keep(u32 c, f64 epsilon, GLOBAL(const f32) running_mean, GLOBAL(const f32) running_variance, GLOBAL(f32) saved) {
    FOR_EACH(ch, c) batch_norm_save(c, ch, (f64)running_mean[ch], (f64)running_variance[ch], epsilon, saved);
}

template <u32 COUNT>
DEVICE void batch_norm_apply(BatchNormShape s, u32 relu, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) gamma,
                             GLOBAL(const f32) beta, GLOBAL(const f32) saved, u32 has_residual, GLOBAL(const f32) residual,
                             u32 residual_stride, GLOBAL(f32) out, u32 out_stride) {
    BatchNormWork work = batch_norm_work(s, COUNT);
    if (work.ch >= s.c) return;
    Lanes<COUNT> mean, rest, scale, shift;
    UNROLL
    for (u32 k = 0; k < COUNT; k++) {
        u32 ch = work.ch + k;
        mean.at[k] = saved[ch], rest.at[k] = saved[s.c + ch];
        scale.at[k] = gamma[ch] * saved[2 * s.c + ch], shift.at[k] = beta[ch];
    }
    for (u32 pixel = work.first + work.row; pixel < work.end; pixel += work.rows) {
        Lanes<COUNT> value = load_lanes<COUNT>(inp, (u64)pixel * inp_stride + work.ch);
        UNROLL
        for (u32 k = 0; k < COUNT; k++) {
            value.at[k] = multiply_add((value.at[k] - mean.at[k]) - rest.at[k], scale.at[k], shift.at[k]);
        }
        if (has_residual) {
            Lanes<COUNT> added = load_lanes<COUNT>(residual, (u64)pixel * residual_stride + work.ch);
            UNROLL
            for (u32 k = 0; k < COUNT; k++) value.at[k] = value.at[k] + added.at[k];
        }
        UNROLL
        for (u32 k = 0; k < COUNT; k++) value.at[k] = relu && value.at[k] < 0 ? 0 : value.at[k];
        store_lanes<COUNT>(out, (u64)pixel * out_stride + work.ch, value);
    }
}

KERNEL(256, 4)
batch_norm_train_forward(BatchNormShape s, u32 group, u32 relu, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) gamma,
                         GLOBAL(const f32) beta, GLOBAL(const f32) saved, u32 has_residual, GLOBAL(const f32) residual,
                         u32 residual_stride, GLOBAL(f32) out, u32 out_stride) {
    if (group == 4) {
        batch_norm_apply<4>(s, relu, inp, inp_stride, gamma, beta, saved, has_residual, residual, residual_stride, out, out_stride);
    } else {
        batch_norm_apply<1>(s, relu, inp, inp_stride, gamma, beta, saved, has_residual, residual, residual_stride, out, out_stride);
    }
}

// In evaluation: out = scale inp + shift, with a ReLU if one is asked for.
KERNEL(256, 4)
batch_norm_forward(BatchNormShape s, u32 relu, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) scale,
                   GLOBAL(const f32) shift, GLOBAL(f32) out, u32 out_stride) {
    FOR_EACH(i, s.pixels * s.c) {
        u32 pixel = i / s.c, ch = i % s.c;
        f32 value = multiply_add(inp[(u64)pixel * inp_stride + ch], scale[ch], shift[ch]);
        out[(u64)pixel * out_stride + ch] = relu && value < 0 ? 0 : value;
    }
}

// The gradient that flows back through the ReLU which made `out`.
template <u32 COUNT>
DEVICE Lanes<COUNT> batch_norm_gradient(u32 relu, GLOBAL(const f32) out, u64 out_at, GLOBAL(const f32) dout, u64 dout_at) {
    Lanes<COUNT> gradient = load_lanes<COUNT>(dout, dout_at);
    if (relu) {
        Lanes<COUNT> value = load_lanes<COUNT>(out, out_at);
        UNROLL
        for (u32 k = 0; k < COUNT; k++) gradient.at[k] = value.at[k] <= 0 ? 0 : gradient.at[k];
    }
    return gradient;
}

template <u32 COUNT>
DEVICE void batch_norm_sum_gradients(BatchNormShape s, u32 relu, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) out,
                                     u32 out_stride, GLOBAL(const f32) dout, u32 dout_stride, GLOBAL(const f32) saved,
                                     GLOBAL(f64) partial, SHARED_POINTER(f64) scratch) {
    BatchNormWork work = batch_norm_work(s, COUNT);
    f64 sums[2 * COUNT] = {}; // first of g, then of g x^
    if (work.ch < s.c) {
        Lanes<COUNT> mean, rest, inverse;
        UNROLL
        for (u32 k = 0; k < COUNT; k++) {
            u32 ch = work.ch + k;
            mean.at[k] = saved[ch], rest.at[k] = saved[s.c + ch], inverse.at[k] = saved[2 * s.c + ch];
        }
        for (u32 start = work.first + work.row; start < work.end; start += BATCH_NORM_RUN * work.rows) {
            Lanes<COUNT> first = lanes_of<COUNT>(0), second = first;
            u32 count = smaller(divide_up(work.end - start, work.rows), BATCH_NORM_RUN);
            for (u32 i = 0; i < count; i++) {
                u64 pixel = start + i * work.rows;
                Lanes<COUNT> value = load_lanes<COUNT>(inp, pixel * inp_stride + work.ch);
                Lanes<COUNT> gradient =
                    batch_norm_gradient<COUNT>(relu, out, pixel * out_stride + work.ch, dout, pixel * dout_stride + work.ch);
                UNROLL
                for (u32 k = 0; k < COUNT; k++) {
                    f32 x = ((value.at[k] - mean.at[k]) - rest.at[k]) * inverse.at[k];
                    first.at[k] = first.at[k] + gradient.at[k];
                    second.at[k] = multiply_add(gradient.at[k], x, second.at[k]);
                }
            }
            UNROLL
            for (u32 k = 0; k < COUNT; k++) {
                sums[k] = sums[k] + (f64)first.at[k];
                sums[COUNT + k] = sums[COUNT + k] + (f64)second.at[k];
            }
        }
    }
    batch_norm_add_rows<2 * COUNT>(s, sums, scratch);
    if (work.ch < s.c && work.row == 0) {
        UNROLL
        for (u32 k = 0; k < COUNT; k++) {
            partial[batch_norm_part(s) + work.ch + k] = sums[k];
            partial[batch_norm_part(s) + s.c + work.ch + k] = sums[COUNT + k];
        }
    }
}

// Writes two sums for each part, [image][part][2][c]: of g, and of g x^.
KERNEL(256, 2)
batch_norm_gradient_sums(BatchNormShape s, u32 group, u32 relu, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) out,
                         u32 out_stride, GLOBAL(const f32) dout, u32 dout_stride, GLOBAL(const f32) saved, GLOBAL(f64) partial) {
    SHARED(f64, scratch, 8 * BATCH_NORM_THREADS);
    if (group == 4) {
        batch_norm_sum_gradients<4>(s, relu, inp, inp_stride, out, out_stride, dout, dout_stride, saved, partial, scratch);
    } else {
        batch_norm_sum_gradients<1>(s, relu, inp, inp_stride, out, out_stride, dout, dout_stride, saved, partial, scratch);
    }
}

// Adds the parts of each image: [image][2][c].
// Grid: x counts channels, y images.
KERNEL(128, 4)
batch_norm_image_gradients(BatchNormShape s, GLOBAL(const f64) partial, GLOBAL(f64) found) {
    SHARED(f64, scratch, BATCH_NORM_PARTS_THREADS);
    u32 ch = block_x(), image = block_y();
    f64 sums[2];
    batch_norm_add_parts(s, partial, image, ch, scratch, sums);
    if (thread_index() == 0) {
        found[((u64)image * 2) * s.c + ch] = sums[0];
        found[((u64)image * 2 + 1) * s.c + ch] = sums[1];
    }
}

// Adds the images' sums in their order: writes to `means` [2][c] the two means that the gradient of the input subtracts, and adds the
// gradients of gamma and beta if it is to.
KERNEL(128, 4)
batch_norm_parameter_gradients(BatchNormShape s, u32 images, u32 frozen, u32 adds, GLOBAL(const f64) found, GLOBAL(f32) dgamma,
                               GLOBAL(f32) dbeta, GLOBAL(f32) means) {
    FOR_EACH(ch, s.c) {
        f64 sums[2] = {0, 0}, part = frozen ? 0 : 1 / ((f64)images * s.pixels);
        NO_UNROLL
        for (u32 image = 0; image < images; image++) {
            sums[0] += found[((u64)image * 2) * s.c + ch];
            sums[1] += found[((u64)image * 2 + 1) * s.c + ch];
        }
        if (adds) {
            dbeta[ch] = dbeta[ch] + (f32)sums[0];
            dgamma[ch] = dgamma[ch] + (f32)sums[1];
        }
        means[ch] = (f32)(sums[0] * part);
        means[s.c + ch] = (f32)(sums[1] * part);
    }
}

template <u32 COUNT>
DEVICE void batch_norm_flow_back(BatchNormShape s, u32 relu, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) out,
                                 u32 out_stride, GLOBAL(const f32) dout, u32 dout_stride, GLOBAL(const f32) gamma,
                                 GLOBAL(const f32) saved, GLOBAL(const f32) means, GLOBAL(f32) dinp, u32 dinp_stride,
                                 u32 has_residual, GLOBAL(f32) dresidual, u32 dresidual_stride) {
    BatchNormWork work = batch_norm_work(s, COUNT);
    if (work.ch >= s.c) return;
    Lanes<COUNT> mean, rest, inverse, scale, mean_g, mean_gx;
    UNROLL
    for (u32 k = 0; k < COUNT; k++) {
        u32 ch = work.ch + k;
        mean.at[k] = saved[ch], rest.at[k] = saved[s.c + ch], inverse.at[k] = saved[2 * s.c + ch];
        scale.at[k] = gamma[ch] * inverse.at[k], mean_g.at[k] = means[ch], mean_gx.at[k] = means[s.c + ch];
    }
    for (u64 pixel = work.first + work.row; pixel < work.end; pixel += work.rows) {
        Lanes<COUNT> value = load_lanes<COUNT>(inp, pixel * inp_stride + work.ch);
        Lanes<COUNT> gradient =
            batch_norm_gradient<COUNT>(relu, out, pixel * out_stride + work.ch, dout, pixel * dout_stride + work.ch);
        Lanes<COUNT> to = load_lanes<COUNT>(dinp, pixel * dinp_stride + work.ch);
        UNROLL
        for (u32 k = 0; k < COUNT; k++) {
            f32 x = ((value.at[k] - mean.at[k]) - rest.at[k]) * inverse.at[k];
            to.at[k] = to.at[k] + scale.at[k] * ((gradient.at[k] - mean_g.at[k]) - x * mean_gx.at[k]);
        }
        store_lanes<COUNT>(dinp, pixel * dinp_stride + work.ch, to);
        if (has_residual) {
            Lanes<COUNT> sum = load_lanes<COUNT>(dresidual, pixel * dresidual_stride + work.ch);
            UNROLL
            for (u32 k = 0; k < COUNT; k++) sum.at[k] = sum.at[k] + gradient.at[k];
            store_lanes<COUNT>(dresidual, pixel * dresidual_stride + work.ch, sum);
        }
    }
}

KERNEL(256, 2)
batch_norm_backward(BatchNormShape s, u32 group, u32 relu, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) out,
                    u32 out_stride, GLOBAL(const f32) dout, u32 dout_stride, GLOBAL(const f32) gamma, GLOBAL(const f32) saved,
                    GLOBAL(const f32) means, GLOBAL(f32) dinp, u32 dinp_stride, u32 has_residual, GLOBAL(f32) dresidual,
                    u32 dresidual_stride) {
    if (group == 4) {
        batch_norm_flow_back<4>(s, relu, inp, inp_stride, out, out_stride, dout, dout_stride, gamma, saved, means, dinp, dinp_stride,
                                has_residual, dresidual, dresidual_stride);
    } else {
        batch_norm_flow_back<1>(s, relu, inp, inp_stride, out, out_stride, dout, dout_stride, gamma, saved, means, dinp, dinp_stride,
                                has_residual, dresidual, dresidual_stride);
    }
}
