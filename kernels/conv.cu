// Convolution with square odd kernels and zero padding of half the kernel, and its gradients. Host side: src/ops/conv/gpu.rs.
//   forward   out[n, y, x, o] = relu(bias[o] + residual[n, y, x, o] + sum over ky, kx, c of
//                               inp[n, y*s + ky - k/2, x*s + kx - k/2, c] * weight[o, c, ky, kx])
//   backward  dinp[n, oy*s + ky - k/2, ox*s + kx - k/2, c] += dout[n, oy, ox, o] * weight[o, c, ky, kx]
//             dweight[o, c, ky, kx] += dout[n, oy, ox, o] * inp[n, oy*s + ky - k/2, ox*s + kx - k/2, c]
//             dbias[o] += dout[n, oy, ox, o]
//
// Each of them is a product of matrices that are never written down. Forward: a row for each output pixel, a column for
// each output channel, summed over (tap, channel), 8 at a time: the values under the windows are copied to shared memory
// transposed, beside 8 rows of weights, while the tiles before them are multiplied in registers. The gradient of the
// input is the same over the pixels of `dout`, with the kernel turned round; for a stride s it falls into s x s phases
// of input pixels, each with the taps that reach it: nothing is multiplied by zero, and nothing is added by an atomic.
// The gradient of the weights has a row for each (tap, channel) and is summed over pixels, in parts that are added in
// their order. Whatever the tile, a value is the same sum in the same order.
// Source: as in src/ops/conv/mod.rs.
#include "kernel.h"

// How the pixels of a grid meet the map that is read and the one that is written. Forward these are inp and out, and the
// grid's pixels are those of out. Backward they are dout and dinp: there is a grid for each phase of dinp's pixels.
struct ConvWindow {
    u32 n;
    u32 inp_h, inp_w, inp_c;    // the map that is read
    u32 taps_y, taps_x;         // those that reach it
    i32 first_y, first_x;       // where the first tap of grid pixel (0, 0) lies in it
    u32 step;                   // from one window to the next
    u32 h, w;                   // of the grid
    u32 out_h, out_w, out_c;    // the map that is written
    u32 out_y, out_x, out_step; // grid pixel (a, b) is its pixel (a * out_step + out_y, b * out_step + out_x)
};

// The taps of a window in its order, and the weights they lie in: [co][ci][kernel][kernel].
struct ConvTaps {
    u32 co, ci, kernel;
    u32 taps_y, taps_x;
    u32 first_y, first_x; // tap (i, j) of the window is tap (first_y + i * step, first_x + j * step) of the kernel
    i32 step;
};

// What follows the sums of a window; BACKWARD: they are added to what `out` holds.
constexpr u32 WITH_BIAS = 1, WITH_RESIDUAL = 2, WITH_RELU = 4, BACKWARD = 8;
// `out` and `residual` take four values at once.
constexpr u32 OUT_BY_FOUR = 16;

constexpr u32 THREADS = 128;
// Summands (forward) or pixels (weights) of a tile.
constexpr u32 DEPTH = 8;

// Weights as rows of the channels that are written, [tap][ci][co], or with BACKWARD [tap][co][ci], which zeros fill up to
// whole tiles of rows and columns, so that what reads tiles need not ask. With WITH_BIAS one more row: the bias.
KERNEL(256, 4)
conv_pack_weights(ConvTaps s, u32 flags, GLOBAL(const f32) weights, GLOBAL(const f32) bias, u32 columns, GLOBAL(f32) packed) {
    bool backward = flags & BACKWARD;
    u32 rows = backward ? s.co : s.ci, taps = s.taps_y * s.taps_x, all_rows = divide_up(taps * rows, DEPTH) * DEPTH;
    FOR_EACH(i, (all_rows + (flags & WITH_BIAS ? 1 : 0)) * columns) {
        u32 column = i % columns, row = i / columns % rows, tap = i / columns / rows;
        u32 o = backward ? row : column, c = backward ? column : row;
        f32 value = 0;
        if (i >= all_rows * columns) {
            if (column < s.co) value = bias[column];
        } else if (o < s.co && c < s.ci && tap < taps) {
            u32 ky = s.first_y + tap / s.taps_x * s.step, kx = s.first_x + tap % s.taps_x * s.step;
            value = weights[(((u64)o * s.ci + c) * s.kernel + ky) * s.kernel + kx];
        }
        packed[i] = value;
    }
}

// A place that no tap moves into the map.
constexpr i32 NOWHERE = -(1 << 30);

// Where the first tap of a grid pixel lies.
struct Corner {
    i32 y, x;
    u32 pixel; // counted through all images; modulo 2^32 where it lies outside
};

DEVICE Corner corner_of(ConvWindow v, u32 pixels, u32 m) {
    if (m >= pixels) return {NOWHERE, NOWHERE, 0};
    u32 b = m % v.w, a = m / v.w % v.h, image = m / v.w / v.h;
    i32 y = (i32)(a * v.step) + v.first_y, x = (i32)(b * v.step) + v.first_x;
    return {y, x, (image * v.inp_h + (u32)y) * v.inp_w + (u32)x};
}

// A tap and a channel: the same in all threads.
struct Summand {
    u32 ky, kx, c;
};

// `channels` further on, which divide those of the map.
DEVICE void advance(Summand& at, ConvWindow v, u32 channels) {
    at.c += channels;
    bool next = at.c == v.inp_c;
    at.c = next ? 0 : at.c;
    at.kx = next ? at.kx + 1 : at.kx;
    bool next_row = at.kx == v.taps_x;
    at.kx = next_row ? 0 : at.kx;
    at.ky = next_row ? at.ky + 1 : at.ky;
}

DEVICE bool meets(Corner corner, Summand at, ConvWindow v) {
    return (u32)corner.y + at.ky < v.inp_h && (u32)corner.x + at.kx < v.inp_w;
}

// Copies what lies under BM windows to shared memory, [summand][window]: four channels at once, where DEPTH divides the
// channels and four the stride. Two lanes read 32 neighbouring bytes of a pixel; with 4 values between the rows' ends no
// two lanes write to one bank.
template <u32 BM> struct FourChannels {
    static constexpr u32 COUNT = BM / (THREADS / 2);
    Corner corners[COUNT];
    u32 places[COUNT]; // of the corners' values, in fours
    Summand at;
    f32x4 values[COUNT];
};

template <u32 BM> DEVICE void start(FourChannels<BM>& r, ConvWindow v, u32 pixels, u32 inp_stride) {
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        r.corners[i] = corner_of(v, pixels, block_x() * BM + i * (THREADS / 2) + thread_index() / 2);
        r.places[i] = r.corners[i].pixel * (inp_stride / 4) + thread_index() % 2;
    }
    r.at = {0, 0, 0};
}

template <u32 BM> DEVICE void load(FourChannels<BM>& r, ConvWindow v, u32, GLOBAL(const f32) inp, u32 inp_stride) {
    u32 distance = (r.at.ky * v.inp_w + r.at.kx) * (inp_stride / 4) + r.at.c / 4;
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        r.values[i] = {0, 0, 0, 0};
        if (meets(r.corners[i], r.at, v)) r.values[i] = load4(inp, (u64)(r.places[i] + distance) * 4);
    }
    advance(r.at, v, DEPTH);
}

template <u32 BM> DEVICE void store(FourChannels<BM>& r, SHARED_POINTER(f32) tile, u32 offset) {
    u64 to = offset + thread_index() % 2 * 4 * (BM + 4) + thread_index() / 2;
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        tile[to + i * (THREADS / 2)] = r.values[i].x;
        tile[to + i * (THREADS / 2) + (BM + 4)] = r.values[i].y;
        tile[to + i * (THREADS / 2) + 2 * (BM + 4)] = r.values[i].z;
        tile[to + i * (THREADS / 2) + 3 * (BM + 4)] = r.values[i].w;
    }
}

// The same, value by value, for any channels and strides: lanes are neighbouring pixels. The host sees to it that the
// map's buffer has less than 2^32 values.
template <u32 BM> struct OneChannel {
    static constexpr u32 COUNT = BM / THREADS;
    Corner corners[COUNT];
    u32 places[COUNT]; // of the corners' values
    Summand at;
    f32 values[COUNT][DEPTH];
};

template <u32 BM> DEVICE void start(OneChannel<BM>& r, ConvWindow v, u32 pixels, u32 inp_stride) {
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        r.corners[i] = corner_of(v, pixels, block_x() * BM + i * THREADS + thread_index());
        r.places[i] = r.corners[i].pixel * inp_stride;
    }
    r.at = {0, 0, 0};
}

// `rest` summands are left.
template <u32 BM> DEVICE void load(OneChannel<BM>& r, ConvWindow v, u32 rest, GLOBAL(const f32) inp, u32 inp_stride) {
    UNROLL
    for (u32 k = 0; k < DEPTH; k++) {
        u32 distance = (r.at.ky * v.inp_w + r.at.kx) * inp_stride + r.at.c;
        UNROLL
        for (u32 i = 0; i < r.COUNT; i++) {
            r.values[i][k] = 0;
            if (k < rest && meets(r.corners[i], r.at, v)) r.values[i][k] = inp[r.places[i] + distance];
        }
        advance(r.at, v, 1);
    }
}

template <u32 BM> DEVICE void store(OneChannel<BM>& r, SHARED_POINTER(f32) tile, u32 offset) {
    u64 to = offset + thread_index();
    UNROLL
    for (u32 k = 0; k < DEPTH; k++) {
        UNROLL
        for (u32 i = 0; i < r.COUNT; i++) tile[to + k * (BM + 4) + i * THREADS] = r.values[i][k];
    }
}

DEVICE f32x4 plus(f32x4 a, f32x4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
DEVICE f32 rectified(f32 x) { return larger(x, (f32)0); }

// BM grid pixels by BN channels a block: grid x counts tiles of pixels, y tiles of channels.
template <u32 BM, u32 BN, u32 TM, u32 TN, class Reader>
DEVICE void conv_windows(ConvWindow v, u32 flags, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) weights,
                         u32 weights_stride, GLOBAL(const f32) bias, GLOBAL(const f32) residual, u32 residual_stride,
                         GLOBAL(f32) out, u32 out_stride) {
    static_assert(BM / TM * (BN / TN) == THREADS && (BM % THREADS == 0 || BM == THREADS / 2) && BN <= 64, "tiles and threads");
    SHARED(f32, left, 2 * DEPTH * (BM + 4));
    SHARED(f32, right, 2 * DEPTH * BN);
    u32 thread = thread_index(), first = block_x() * BM, first_column = block_y() * BN;
    u32 pixels = v.n * v.h * v.w, depth = v.taps_y * v.taps_x * v.inp_c;
    f32 sums[TM][TN];
    UNROLL
    for (u32 i = 0; i < TM; i++) {
        UNROLL
        for (u32 j = 0; j < TN; j++) sums[i][j] = 0;
    }

    // This thread's row of a tile of weights and its four columns, in fours.
    bool has_weights = DEPTH * BN / 4 == THREADS || thread < DEPTH * BN / 4;
    u32 weight_place = (thread / (BN / 4) * weights_stride + first_column) / 4 + thread % (BN / 4);
    f32x4 weight = {0, 0, 0, 0};
    Reader reader;
    if (depth > 0) {
        start(reader, v, pixels, inp_stride);
        load(reader, v, depth, inp, inp_stride);
        if (has_weights) weight = load4(weights, (u64)weight_place * 4);
        store(reader, left, 0);
        if (has_weights) store4(right, thread * 4, weight);
    }
    block_sync();
    u32 row = thread / (BN / TN) * 4, column = thread % (BN / TN) * 4;
    u32 here = 0;
    NO_UNROLL
    for (u32 done = 0; done < depth; done += DEPTH) {
        bool more = done + DEPTH < depth;
        if (more) {
            load(reader, v, depth - done - DEPTH, inp, inp_stride);
            weight_place += DEPTH / 4 * weights_stride;
            if (has_weights) weight = load4(weights, (u64)weight_place * 4);
        }
        multiply_tiles<TM, TN, DEPTH, BM + 4, BN, BM / TM * 4, BN / TN * 4>(left, here * (DEPTH * (BM + 4)) + row, right,
                                                                            here * (DEPTH * BN) + column, sums);
        here = 1 - here;
        if (more) {
            store(reader, left, here * (DEPTH * (BM + 4)));
            if (has_weights) store4(right, here * (DEPTH * BN) + thread * 4, weight);
        }
        block_sync();
    }

    bool by_four = flags & OUT_BY_FOUR;
    UNROLL
    for (u32 i = 0; i < TM; i++) {
        u32 m = first + row + i / 4 * (BM / TM * 4) + i % 4;
        if (m >= pixels) continue;
        u64 pixel = m;
        if (v.out_step > 1) {
            u64 y = m / v.w % v.h * v.out_step + v.out_y, x = m % v.w * v.out_step + v.out_x;
            pixel = (m / v.w / v.h * v.out_h + y) * v.out_w + x;
        }
        UNROLL
        for (u32 j = 0; j < TN; j += 4) {
            u32 o = first_column + column + j / 4 * (BN / TN * 4);
            if (by_four && o + 4 <= v.out_c) {
                f32x4 sum = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
                if (flags & WITH_BIAS) sum = plus(sum, {bias[o], bias[o + 1], bias[o + 2], bias[o + 3]});
                if (flags & WITH_RESIDUAL) sum = plus(sum, load4(residual, pixel * residual_stride + o));
                if (flags & BACKWARD) sum = plus(sum, load4(out, pixel * out_stride + o));
                if (flags & WITH_RELU) sum = {rectified(sum.x), rectified(sum.y), rectified(sum.z), rectified(sum.w)};
                store4(out, pixel * out_stride + o, sum);
                continue;
            }
            UNROLL
            for (u32 l = 0; l < 4; l++) {
                if (o + l >= v.out_c) continue;
                f32 sum = sums[i][j + l];
                if (flags & WITH_BIAS) sum = sum + bias[o + l];
                if (flags & WITH_RESIDUAL) sum = sum + residual[pixel * residual_stride + o + l];
                if (flags & BACKWARD) sum = sum + out[pixel * out_stride + o + l];
                if (flags & WITH_RELU) sum = rectified(sum);
                out[pixel * out_stride + o + l] = sum;
            }
        }
    }
}

#define CONV_WINDOWS(name, BM, BN, TM, TN, Reader, BLOCKS)                                                                     \
    KERNEL(128, BLOCKS)                                                                                                        \
    name(ConvWindow v, u32 flags, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) weights, u32 weights_stride,        \
         GLOBAL(const f32) bias, GLOBAL(const f32) residual, u32 residual_stride, GLOBAL(f32) out, u32 out_stride) {           \
        conv_windows<BM, BN, TM, TN, Reader<BM>>(v, flags, inp, inp_stride, weights, weights_stride, bias, residual,           \
                                                 residual_stride, out, out_stride);                                            \
    }
CONV_WINDOWS(conv_windows_128x64, 128, 64, 8, 8, FourChannels, 3)
CONV_WINDOWS(conv_windows_64x64, 64, 64, 4, 8, FourChannels, 4) // for maps with few pixels
CONV_WINDOWS(conv_windows_128x32, 128, 32, 8, 4, FourChannels, 4)
CONV_WINDOWS(conv_windows_256x16, 256, 16, 8, 4, FourChannels, 4)
CONV_WINDOWS(conv_windows_any_128x64, 128, 64, 8, 8, OneChannel, 3)
CONV_WINDOWS(conv_windows_any_256x16, 256, 16, 8, 4, OneChannel, 4)

// Where the pixel of a row (tap, channel) of the gradient of the weights lies; it moves from output pixel to output pixel.
struct Place {
    i32 y, x;
    u32 first_row; // of its image, counted through all images
};

DEVICE Place place_of(ConvWindow v, u32 pixel, i32 tap_y, i32 tap_x) {
    u32 b = pixel % v.w, a = pixel / v.w % v.h, image = pixel / v.w / v.h;
    return {(i32)(a * v.step) + tap_y, (i32)(b * v.step) + tap_x, image * v.inp_h};
}

// `pixels` further on, at most one row.
DEVICE void advance(Place& at, ConvWindow v, u32 pixels, i32 tap_y, i32 tap_x) {
    i32 w = (i32)(v.w * v.step), h = (i32)(v.h * v.step);
    at.x += (i32)(pixels * v.step);
    bool next_row = at.x >= tap_x + w;
    at.x = next_row ? at.x - w : at.x;
    at.y = next_row ? at.y + (i32)v.step : at.y;
    bool next_image = at.y == tap_y + h;
    at.y = next_image ? tap_y : at.y;
    at.first_row = next_image ? at.first_row + v.inp_h : at.first_row;
}

DEVICE bool inside(Place at, ConvWindow v) { return (u32)at.y < v.inp_h && (u32)at.x < v.inp_w; }

// The tap of a row, as it shifts places; NOWHERE beyond the last row.
struct Row {
    i32 tap_y, tap_x;
    u32 c;
};

DEVICE Row row_of(ConvWindow v, u32 row) {
    u32 tap = row / v.inp_c;
    if (tap >= v.taps_y * v.taps_x) return {NOWHERE, 0, 0};
    return {v.first_y + (i32)(tap / v.taps_x), v.first_x + (i32)(tap % v.taps_x), row % v.inp_c};
}

// Copies DEPTH pixels of BM rows to shared memory, [pixel][row]: four channels at once, where four divides the channels
// and the stride, and a row of the output has DEPTH pixels or more.
template <u32 BM> struct FourRows {
    static constexpr u32 COUNT = DEPTH * BM / 4 / THREADS, STEP = DEPTH / COUNT;
    Row row;
    Place places[COUNT];
    f32x4 values[COUNT];
};

template <u32 BM> DEVICE void start(FourRows<BM>& r, ConvWindow v, u32 pixel) {
    r.row = row_of(v, block_x() * BM + thread_index() % (BM / 4) * 4);
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        r.places[i] = place_of(v, pixel + i * r.STEP + thread_index() / (BM / 4), r.row.tap_y, r.row.tap_x);
    }
}

// `rest` pixels are left.
template <u32 BM> DEVICE void load(FourRows<BM>& r, ConvWindow v, u32 rest, GLOBAL(const f32) inp, u32 inp_stride) {
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        Place at = r.places[i];
        r.values[i] = {0, 0, 0, 0};
        if (i * r.STEP + thread_index() / (BM / 4) < rest && inside(at, v)) {
            u32 pixel = (at.first_row + (u32)at.y) * v.inp_w + (u32)at.x;
            r.values[i] = load4(inp, (u64)(pixel * (inp_stride / 4) + r.row.c / 4) * 4);
        }
        advance(r.places[i], v, DEPTH, r.row.tap_y, r.row.tap_x);
    }
}

template <u32 BM> DEVICE void store(FourRows<BM>& r, SHARED_POINTER(f32) tile, u32 offset) {
    u64 to = offset + thread_index() * 4;
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) store4(tile, to + i * (THREADS * 4), r.values[i]);
}

// The same, value by value: each thread has one row.
template <u32 BM> struct OneRow {
    static_assert(BM == THREADS, "a row for each thread");
    Row row;
    Place place;
    f32 values[DEPTH];
};

template <u32 BM> DEVICE void start(OneRow<BM>& r, ConvWindow v, u32 pixel) {
    r.row = row_of(v, block_x() * BM + thread_index());
    r.place = place_of(v, pixel, r.row.tap_y, r.row.tap_x);
}

template <u32 BM> DEVICE void load(OneRow<BM>& r, ConvWindow v, u32 rest, GLOBAL(const f32) inp, u32 inp_stride) {
    UNROLL
    for (u32 i = 0; i < DEPTH; i++) {
        r.values[i] = 0;
        if (i < rest && inside(r.place, v)) {
            u32 pixel = (r.place.first_row + (u32)r.place.y) * v.inp_w + (u32)r.place.x;
            r.values[i] = inp[(u64)pixel * inp_stride + r.row.c];
        }
        advance(r.place, v, 1, r.row.tap_y, r.row.tap_x);
    }
}

template <u32 BM> DEVICE void store(OneRow<BM>& r, SHARED_POINTER(f32) tile, u32 offset) {
    u64 to = offset + thread_index();
    UNROLL
    for (u32 i = 0; i < DEPTH; i++) tile[to + i * BM] = r.values[i];
}

// Four neighbouring values of a row that has `count` from `first` on; 0 beyond.
template <bool BY_FOUR> DEVICE f32x4 four_of(GLOBAL(const f32) from, u64 index, u32 first, u32 count) {
    f32x4 found = {0, 0, 0, 0};
    if (BY_FOUR) {
        if (first < count) found = load4(from, index);
        return found;
    }
    if (first < count) found.x = from[index];
    if (first + 1 < count) found.y = from[index + 1];
    if (first + 2 < count) found.z = from[index + 2];
    if (first + 3 < count) found.w = from[index + 3];
    return found;
}

// BM rows (tap, channel) by BN output channels a block, summed over the pixels of one part: grid x counts tiles of rows,
// y tiles of channels, z parts. The sums are written as [part][row][co filled up to fours]. With DOUT_BY_FOUR four
// divides co and the stride of dout.
template <u32 BM, u32 BN, u32 TM, u32 TN, class Reader, bool DOUT_BY_FOUR>
DEVICE void conv_weights(ConvWindow v, u32 part_pixels, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) dout,
                         u32 dout_stride, GLOBAL(f32) parts) {
    static_assert(BM / TM * (BN / TN) == THREADS && BN <= 64, "tiles and threads");
    SHARED(f32, left, 2 * DEPTH * BM);
    SHARED(f32, right, 2 * DEPTH * BN);
    u32 thread = thread_index(), first_column = block_y() * BN;
    u32 first = block_z() * part_pixels, pixels = v.n * v.h * v.w;
    u32 count = first < pixels ? smaller(part_pixels, pixels - first) : 0;
    f32 sums[TM][TN];
    UNROLL
    for (u32 i = 0; i < TM; i++) {
        UNROLL
        for (u32 j = 0; j < TN; j++) sums[i][j] = 0;
    }
    u32 slot = thread / (BN / 4), dout_column = first_column + thread % (BN / 4) * 4;
    bool copies = DEPTH * BN / 4 == THREADS || thread < DEPTH * BN / 4;
    u64 dout_index = (u64)(first + slot) * dout_stride + dout_column;
    f32x4 gradient = {0, 0, 0, 0};
    Reader reader;
    if (count > 0) {
        start(reader, v, first);
        load(reader, v, count, inp, inp_stride);
        if (slot < smaller(count, DEPTH)) gradient = four_of<DOUT_BY_FOUR>(dout, dout_index, dout_column, v.out_c);
        store(reader, left, 0);
        if (copies) store4(right, thread * 4, gradient);
    }
    block_sync();
    u32 row = thread / (BN / TN) * 4, column = thread % (BN / TN) * 4;
    u32 here = 0;
    NO_UNROLL
    for (u32 done = 0; done < count; done += DEPTH) {
        bool more = done + DEPTH < count;
        if (more) {
            u32 rest = count - done - DEPTH;
            load(reader, v, rest, inp, inp_stride);
            dout_index += (u64)DEPTH * dout_stride;
            gradient = {0, 0, 0, 0};
            if (slot < smaller(rest, DEPTH)) gradient = four_of<DOUT_BY_FOUR>(dout, dout_index, dout_column, v.out_c);
        }
        multiply_tiles<TM, TN, DEPTH, BM, BN, BM / TM * 4, BN / TN * 4>(left, here * (DEPTH * BM) + row, right,
                                                                        here * (DEPTH * BN) + column, sums);
        here = 1 - here;
        if (more) {
            store(reader, left, here * (DEPTH * BM));
            if (copies) store4(right, here * (DEPTH * BN) + thread * 4, gradient);
        }
        block_sync();
    }
    u32 rows = v.taps_y * v.taps_x * v.inp_c, columns = divide_up(v.out_c, 4u) * 4;
    UNROLL
    for (u32 i = 0; i < TM; i++) {
        u32 m = block_x() * BM + row + i / 4 * (BM / TM * 4) + i % 4;
        if (m >= rows) continue;
        UNROLL
        for (u32 j = 0; j < TN; j += 4) {
            u32 o = first_column + column + j / 4 * (BN / TN * 4);
            if (o >= columns) continue;
            f32x4 sum = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
            store4(parts, ((u64)block_z() * rows + m) * columns + o, sum);
        }
    }
}

#define CONV_WEIGHTS(name, BM, BN, TM, TN, Reader, DOUT_BY_FOUR, BLOCKS)                                                       \
    KERNEL(128, BLOCKS)                                                                                                        \
    name(ConvWindow v, u32 part_pixels, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) dout, u32 dout_stride,        \
         GLOBAL(f32) parts) {                                                                                                  \
        conv_weights<BM, BN, TM, TN, Reader<BM>, DOUT_BY_FOUR>(v, part_pixels, inp, inp_stride, dout, dout_stride, parts);     \
    }
CONV_WEIGHTS(conv_weights_128x64, 128, 64, 8, 8, FourRows, true, 3)
CONV_WEIGHTS(conv_weights_128x32, 128, 32, 8, 4, FourRows, true, 4)
CONV_WEIGHTS(conv_weights_to_any_128x32, 128, 32, 8, 4, FourRows, false, 4)
CONV_WEIGHTS(conv_weights_any_128x32, 128, 32, 8, 4, OneRow, false, 4)

// dweights [co][ci][taps] += the sum of all parts [tap][ci][co filled up to fours], in their order. A block turns
// 32 x 32 values round, so that both are read and written along their rows: grid x counts tiles of (ci, tap), y of co.
KERNEL(256, 4) conv_add_weights(u32 co, u32 ci, u32 taps, u32 parts, GLOBAL(const f32) sums, GLOBAL(f32) dweights) {
    SHARED(f32, tile, 32 * 33);
    u32 lane = thread_index() % 32, warp = thread_index() / 32, rows = ci * taps, columns = divide_up(co, 4u) * 4;
    u32 first = block_x() * 32, first_o = block_y() * 32;
    for (u32 i = warp; i < 32; i += 8) {
        u32 j = first + i, o = first_o + lane;
        f32 sum = 0;
        if (j < rows && o < co) {
            u32 row = j % taps * ci + j / taps;
            for (u32 part = 0; part < parts; part++) sum = sum + sums[((u64)part * rows + row) * columns + o];
        }
        tile[i * 33 + lane] = sum;
    }
    block_sync();
    for (u32 i = warp; i < 32; i += 8) {
        u32 j = first + lane, o = first_o + i;
        if (j < rows && o < co) dweights[(u64)o * rows + j] = dweights[(u64)o * rows + j] + tile[lane * 33 + i];
    }
}

// Sums over the pixels of each part, [part][channel]: grid x counts groups of 32 channels, y parts.
KERNEL(256, 4)
conv_bias_parts(u32 pixels, u32 channels, u32 part_pixels, GLOBAL(const f32) dout, u32 dout_stride, GLOBAL(f32) parts) {
    SHARED(f32, sums, 256);
    u32 lane = thread_index() % 32, warp = thread_index() / 32, ch = block_x() * 32 + lane;
    u32 first = block_y() * part_pixels, end = smaller(first + part_pixels, pixels);
    f32 sum = 0;
    if (ch < channels) {
        for (u32 pixel = first + warp; pixel < end; pixel += 8) sum = sum + dout[(u64)pixel * dout_stride + ch];
    }
    sums[thread_index()] = sum;
    block_sync();
    if (warp == 0 && ch < channels) {
        for (u32 i = 1; i < 8; i++) sum = sum + sums[i * 32 + lane];
        parts[(u64)block_y() * channels + ch] = sum;
    }
}

// dbias += the parts, in their order.
KERNEL(256, 4) conv_add_bias(u32 channels, u32 parts, GLOBAL(const f32) sums, GLOBAL(f32) dbias) {
    FOR_EACH(ch, channels) {
        f32 sum = 0;
        for (u32 part = 0; part < parts; part++) sum = sum + sums[(u64)part * channels + ch];
        dbias[ch] = dbias[ch] + sum;
    }
}
