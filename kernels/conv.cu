// Convolution with square odd kernels and zero padding of half the kernel, and its gradients. Host side: src/ops/conv/gpu.rs.
//   forward   out[n, y, x, o] = relu(bias[o] + residual[n, y, x, o] + sum over ky, kx, c of
//                               inp[n, y*s + ky - k/2, x*s + kx - k/2, c] * weight[o, c, ky, kx])
//   backward  dinp[n, oy*s + ky - k/2, ox*s + kx - k/2, c] += dout[n, oy, ox, o] * weight[o, c, ky, kx]
//             dweight[o, c, ky, kx] += dout[n, oy, ox, o] * inp[n, oy*s + ky - k/2, ox*s + kx - k/2, c]
//             dbias[o] += dout[n, oy, ox, o]
//
// Each of these is a product of two matrices that are never written down. Forward, the product has a row for each output
// pixel and a column for each output channel, and it sums over (tap, channel), 8 summands at a time: the values under the
// windows are copied to shared memory, transposed, beside 8 rows of weights, while the tiles before them are multiplied in
// registers. The gradient of the input is the same product over the pixels of `dout`, with the kernel turned round. For a
// stride s, the input pixels fall into s x s phases, and each phase has the taps that reach it: so nothing is multiplied by
// zero, and nothing is added by an atomic. The gradient of the weights has a row for each (tap, channel) and sums over
// pixels, in parts that are added in their order. Whatever the tile, a value is the same sum in the same order.
// Source: as in src/ops/conv/mod.rs.
#include "kernel.h"

// How the pixels of a grid meet the map that is read and the map that is written. Forward, these maps are inp and out, and
// the grid's pixels are those of out. Backward, they are dout and dinp, and each phase of dinp's pixels has a grid of its
// own.
struct ConvWindow {
    u32 n;
    u32 inp_h, inp_w, inp_c;    // the map that is read
    u32 taps_y, taps_x;         // how many rows and columns of taps a window has
    i32 first_y, first_x;       // where in it the first tap of grid pixel (0, 0) lies
    u32 step;                   // pixels from one window to the next
    u32 h, w;                   // of the grid
    u32 out_h, out_w, out_c;    // the map that is written
    u32 out_y, out_x, out_step; // grid pixel (a, b) writes its pixel (a * out_step + out_y, b * out_step + out_x)
};

// The taps of a window, in the window's order, and the weights from which they are taken: [co][ci][kernel][kernel].
struct ConvTaps {
    u32 co, ci, kernel;
    u32 taps_y, taps_x;
    u32 first_y, first_x; // tap (i, j) of the window is tap (first_y + i * step, first_x + j * step) of the kernel
    i32 step;
};

// What is done to the sums of a window before they are written. With BACKWARD they are added to the values that `out` holds.
constexpr u32 WITH_BIAS = 1, WITH_RESIDUAL = 2, WITH_RELU = 4, BACKWARD = 8;
// The addresses of `out` and `residual` allow access to four values at once.
constexpr u32 OUT_BY_FOUR = 16;

constexpr u32 THREADS = 128;
// How many summands (forward) or pixels (gradient of the weights) a tile has.
constexpr u32 DEPTH = 8;

// Writes the weights as rows of the channels that are written: [tap][ci][co], or with BACKWARD [tap][co][ci]. Zeros fill them
// up to whole tiles of rows and columns, so that a kernel that reads tiles need not ask where they end. With WITH_BIAS, one
// more row holds the bias.
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

// Where the first tap of a grid pixel lies, and which taps lie outside of the map: bit k stands for the k-th row of taps, and
// bit 16 + k for the k-th column. The host sees to it that there are at most 15 rows and 15 columns of taps.
struct Corner {
    u32 outside;
    i32 pixel; // counted through all images; it may lie outside, but is never far from a tap inside
};

// A number whose first `count` bits are set: at most 16 of them, and none if `count` is below zero.
DEVICE u32 first_bits(i32 count) { return (1u << (u32)smaller(larger(count, 0), 16)) - 1; }

DEVICE Corner corner_of(ConvWindow v, u32 pixels, u32 m) {
    if (m >= pixels) return {~0u, 0};
    u32 b = m % v.w, a = m / v.w % v.h, image = m / v.w / v.h;
    i32 y = (i32)(a * v.step) + v.first_y, x = (i32)(b * v.step) + v.first_x;
    u32 rows = first_bits(smaller((i32)v.inp_h - y, (i32)v.taps_y)) & ~first_bits(-y);
    u32 columns = first_bits((i32)v.inp_w - x) & ~first_bits(-x);
    return {~(rows | columns << 16), (i32)((image * v.inp_h + (u32)y) * v.inp_w + (u32)x)};
}

// A tap and a channel. They are the same in all threads.
struct Summand {
    u32 tap;          // the bits of the tap, as in Corner
    u32 c;            // the channel
    u32 row_end;      // the bit behind the last column of taps
    i32 next, behind; // distances in values: to the next tap, and from the end of a row of taps to the next row
};

DEVICE Summand first_summand(ConvWindow v, u32 inp_stride) {
    return {0x10001, 0, 0x10000u << v.taps_x, (i32)(inp_stride - v.inp_c), (i32)((v.inp_w - v.taps_x) * inp_stride)};
}

// Moves on to the next tap, and returns how many values lie between the end of this tap and the channels of the next one.
// Behind the last tap, all taps lie outside.
DEVICE i32 next_tap(Summand& at) {
    i32 distance = at.next;
    at.tap += at.tap & 0xffff0000u;
    if (at.tap & at.row_end) {
        distance += at.behind;
        at.tap = (at.tap & 0xffffu) << 1 | 0x10000u;
    }
    return distance;
}

// Moves on by `channels`, which divide those of the map, and moves `inp` along.
DEVICE void advance(Summand& at, ConvWindow v, u32 channels, GLOBAL(const f32)& inp) {
    at.c += channels;
    inp = inp + (i64)channels;
    if (at.c == v.inp_c) {
        at.c = 0;
        inp = inp + (i64)next_tap(at);
    }
}

// Copies the values under BM windows to shared memory, as [summand][window]. It takes four channels at once, so DEPTH must
// divide the channels, and four the stride. Two lanes read 32 neighbouring bytes of a pixel. Four unused values lie between
// two rows, so that no two lanes write to one bank.
template <u32 BM> struct FourChannels {
    static constexpr u32 COUNT = BM / (THREADS / 2);
    u32 outside[COUNT];
    i32 places[COUNT]; // where the values of the corners lie, counted in fours
    Summand at;
    f32x4 values[COUNT];
};

template <u32 BM> DEVICE void start(FourChannels<BM>& r, ConvWindow v, u32 pixels, u32 inp_stride) {
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        Corner corner = corner_of(v, pixels, block_x() * BM + i * (THREADS / 2) + thread_index() / 2);
        r.outside[i] = corner.outside;
        r.places[i] = corner.pixel * (i32)(inp_stride / 4) + (i32)(thread_index() % 2);
    }
    r.at = first_summand(v, inp_stride);
}

template <u32 BM> DEVICE void load(FourChannels<BM>& r, ConvWindow v, GLOBAL(const f32)& inp) {
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        r.values[i] = {0, 0, 0, 0};
        if (!(r.outside[i] & r.at.tap)) r.values[i] = load4(inp, (u64)((i64)r.places[i] * 4));
    }
    advance(r.at, v, DEPTH, inp);
}

// Where in a tile a thread puts its first value.
template <u32 BM> DEVICE u32 slot_of(FourChannels<BM>&) { return thread_index() % 2 * 4 * (BM + 4) + thread_index() / 2; }

template <u32 BM> DEVICE void store(FourChannels<BM>& r, SHARED_POINTER(f32) tiles, u32 to) {
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        tiles[(u64)to + (i * (THREADS / 2))] = r.values[i].x;
        tiles[(u64)to + (i * (THREADS / 2) + (BM + 4))] = r.values[i].y;
        tiles[(u64)to + (i * (THREADS / 2) + 2 * (BM + 4))] = r.values[i].z;
        tiles[(u64)to + (i * (THREADS / 2) + 3 * (BM + 4))] = r.values[i].w;
    }
}

// Does the same value by value, for any channels and strides. Neighbouring lanes have neighbouring pixels.
template <u32 BM> struct OneChannel {
    static constexpr u32 COUNT = BM / THREADS;
    u32 outside[COUNT];
    i32 places[COUNT]; // where the values of the corners lie
    Summand at;
    f32 values[COUNT][DEPTH];
};

template <u32 BM> DEVICE void start(OneChannel<BM>& r, ConvWindow v, u32 pixels, u32 inp_stride) {
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        Corner corner = corner_of(v, pixels, block_x() * BM + i * THREADS + thread_index());
        r.outside[i] = corner.outside;
        r.places[i] = corner.pixel * (i32)inp_stride;
    }
    r.at = first_summand(v, inp_stride);
}

template <u32 BM> DEVICE void load(OneChannel<BM>& r, ConvWindow v, GLOBAL(const f32)& inp) {
    UNROLL
    for (u32 k = 0; k < DEPTH; k++) {
        UNROLL
        for (u32 i = 0; i < r.COUNT; i++) {
            r.values[i][k] = 0;
            if (!(r.outside[i] & r.at.tap)) r.values[i][k] = inp[(i64)r.places[i]];
        }
        advance(r.at, v, 1, inp);
    }
}

template <u32 BM> DEVICE u32 slot_of(OneChannel<BM>&) { return thread_index(); }

template <u32 BM> DEVICE void store(OneChannel<BM>& r, SHARED_POINTER(f32) tiles, u32 to) {
    UNROLL
    for (u32 k = 0; k < DEPTH; k++) {
        UNROLL
        for (u32 i = 0; i < r.COUNT; i++) tiles[(u64)to + (k * (BM + 4) + i * THREADS)] = r.values[i][k];
    }
}

// Does the same for DEPTH channels or more, or for one tap: then no tile has more than two taps. Only loading differs from
// OneChannel.
template <u32 BM> struct TwoTaps : OneChannel<BM> {};

template <u32 BM> DEVICE void load(TwoTaps<BM>& r, ConvWindow v, GLOBAL(const f32)& inp) {
    // One bit for each summand of the tile that belongs to this tap; the other summands belong to the next tap.
    u32 left = v.inp_c - r.at.c, here = first_bits((i32)left), tap = r.at.tap;
    r.at.c += DEPTH;
    i32 jump = next_tap(r.at);
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        u32 inside = (r.outside[i] & tap ? 0 : here) | (r.outside[i] & r.at.tap ? 0 : ~here);
        UNROLL
        for (u32 k = 0; k < DEPTH; k++) {
            i32 place = r.places[i] + (here >> k & 1 ? 0 : jump);
            r.values[i][k] = 0;
            if (inside >> k & 1) r.values[i][k] = inp[(i64)place + k];
        }
    }
    inp = inp + (i64)DEPTH;
    if (left > DEPTH) {
        r.at.tap = tap;
    } else {
        r.at.c = DEPTH - left;
        inp = inp + (i64)jump;
    }
}

DEVICE f32x4 plus(f32x4 a, f32x4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
DEVICE f32 rectified(f32 x) { return larger(x, (f32)0); }

// Writes the sums of a pixel after the bias, the residual and the ReLU that `flags` asks for. The channels come in fours that
// lie GAP apart.
template <u32 TN, u32 GAP>
DEVICE void write(ConvWindow v, u32 flags, const f32 (&sums)[TN], u64 pixel, u32 first, GLOBAL(const f32) bias,
                  GLOBAL(const f32) residual, u32 residual_stride, GLOBAL(f32) out, u32 out_stride) {
    UNROLL
    for (u32 j = 0; j < TN; j += 4) {
        u32 o = first + j / 4 * GAP;
        if (flags & OUT_BY_FOUR && o + 4 <= v.out_c) {
            f32x4 sum = {sums[j], sums[j + 1], sums[j + 2], sums[j + 3]};
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
            f32 sum = sums[j + l];
            if (flags & WITH_BIAS) sum = sum + bias[o + l];
            if (flags & WITH_RESIDUAL) sum = sum + residual[pixel * residual_stride + o + l];
            if (flags & BACKWARD) sum = sum + out[pixel * out_stride + o + l];
            if (flags & WITH_RELU) sum = rectified(sum);
            out[pixel * out_stride + o + l] = sum;
        }
    }
}

// A block computes BM grid pixels by BN channels. Grid: x counts tiles of pixels, y counts tiles of channels.
template <u32 BM, u32 BN, u32 TM, u32 TN, class Reader>
DEVICE void conv_windows(ConvWindow v, u32 flags, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) weights,
                         u32 weights_stride, GLOBAL(const f32) bias, GLOBAL(const f32) residual, u32 residual_stride,
                         GLOBAL(f32) out, u32 out_stride) {
    static_assert(BM / TM * (BN / TN) == THREADS && (BM % THREADS == 0 || BM == THREADS / 2) && BN <= 64, "tiles and threads");
    // There are two tiles, each of windows and behind them of weights: one is read while the other is written.
    constexpr u32 LEFT = DEPTH * (BM + 4), TILE = LEFT + DEPTH * BN;
    SHARED(f32, tiles, 2 * TILE);
    u32 thread = thread_index(), first = block_x() * BM, first_column = block_y() * BN;
    u32 pixels = v.n * v.h * v.w, depth = v.taps_y * v.taps_x * v.inp_c;
    f32 sums[TM][TN];
    UNROLL
    for (u32 i = 0; i < TM; i++) {
        UNROLL
        for (u32 j = 0; j < TN; j++) sums[i][j] = 0;
    }
    u32 row = thread / (BN / TN) * 4, column = thread % (BN / TN) * 4;
    auto multiply = [&](u32 left, u32 right) {
        multiply_tiles<TM, TN, DEPTH, BM + 4, BN, BM / TM * 4, BN / TN * 4>(tiles, left, tiles, right, sums);
    };

    // Where in the weights this thread reads: its row of a tile, and four columns of that row.
    bool has_weights = DEPTH * BN / 4 == THREADS || thread < DEPTH * BN / 4;
    GLOBAL(const f32) weights_at = weights + (i64)(thread / (BN / 4) * weights_stride + first_column + thread % (BN / 4) * 4);
    f32x4 weight = {0, 0, 0, 0};
    if (depth > 0) {
        Reader reader;
        start(reader, v, pixels, inp_stride);
        u32 left = row, right = LEFT + column, to_left = slot_of(reader), to_right = LEFT + thread * 4;
        u32 other = TILE; // distance to the other tile; its sign turns at each step, modulo 2^32
        load(reader, v, inp);
        if (has_weights) weight = load4(weights_at, 0);
        store(reader, tiles, to_left);
        if (has_weights) store4(tiles, to_right, weight);
        block_sync();
        NO_UNROLL
        for (u32 rest = depth; rest > DEPTH; rest -= DEPTH) {
            load(reader, v, inp);
            weights_at = weights_at + (i64)(DEPTH * weights_stride);
            if (has_weights) weight = load4(weights_at, 0);
            multiply(left, right);
            to_left += other, to_right += other;
            store(reader, tiles, to_left);
            if (has_weights) store4(tiles, to_right, weight);
            left += other, right += other;
            other = 0 - other;
            block_sync();
        }
        multiply(left, right);
    }

    UNROLL
    for (u32 i = 0; i < TM; i++) {
        u32 m = first + row + i / 4 * (BM / TM * 4) + i % 4;
        if (m >= pixels) continue;
        u64 pixel = m;
        if (v.out_step > 1) {
            u64 y = m / v.w % v.h * v.out_step + v.out_y, x = m % v.w * v.out_step + v.out_x;
            pixel = (m / v.w / v.h * v.out_h + y) * v.out_w + x;
        }
        write<TN, BN / TN * 4>(v, flags, sums[i], pixel, first_column + column, bias, residual, residual_stride, out, out_stride);
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
CONV_WINDOWS(conv_windows_any_128x64, 128, 64, 8, 8, TwoTaps, 3)
CONV_WINDOWS(conv_windows_any_256x16, 256, 16, 8, 4, OneChannel, 4)

#if HAS_TF32
// The same on tensor cores: numbers are rounded to TensorFloat-32, and summed as floats. A tile is summed over 16 channels at a time,
// so 16 divides the channels of the map. The four warps of a block lie in two rows of two, or below each other.
constexpr u32 CORE_DEPTH = 16;

// Copies the values under BM windows to shared memory, as rows of 16 channels. Four lanes read 64 neighbouring bytes of a pixel.
template <u32 BM> struct SixteenChannels {
    static constexpr u32 COUNT = BM / (THREADS / 4);
    u32 outside[COUNT];
    i32 places[COUNT]; // where the values of the corners lie, counted in fours
    Summand at;
    f32x4 values[COUNT];
};

template <u32 BM> DEVICE void start(SixteenChannels<BM>& r, ConvWindow v, u32 pixels, u32 inp_stride) {
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        Corner corner = corner_of(v, pixels, block_x() * BM + i * (THREADS / 4) + thread_index() / 4);
        r.outside[i] = corner.outside;
        r.places[i] = corner.pixel * (i32)(inp_stride / 4) + (i32)(thread_index() % 4);
    }
    r.at = first_summand(v, inp_stride);
}

template <u32 BM> DEVICE void load(SixteenChannels<BM>& r, ConvWindow v, GLOBAL(const f32)& inp) {
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        r.values[i] = {0, 0, 0, 0};
        if (!(r.outside[i] & r.at.tap)) r.values[i] = load4(inp, (u64)((i64)r.places[i] * 4));
    }
    advance(r.at, v, CORE_DEPTH, inp);
}

template <u32 BM> DEVICE void store(SixteenChannels<BM>& r, SHARED_POINTER(f32) tiles, u32 tile) {
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        // Rows that are THREADS / 4 apart have their fours in the same order.
        u64 at = (u64)(tile + four_at<CORE_DEPTH>(thread_index() / 4, thread_index() % 4)) + i * (THREADS / 4 * CORE_DEPTH);
        store4(tiles, at, rounded_to_tf32(r.values[i]));
    }
}

// A block computes BM grid pixels by BN channels, with DOWN warps below each other. Grid: as above.
template <u32 BM, u32 BN, u32 DOWN>
DEVICE void conv_windows_tf32(ConvWindow v, u32 flags, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) weights,
                              u32 weights_stride, GLOBAL(const f32) bias, GLOBAL(const f32) residual, u32 residual_stride,
                              GLOBAL(f32) out, u32 out_stride) {
    constexpr u32 ACROSS_WARPS = THREADS / 32 / DOWN, ROWS = BM / DOWN / 16, COLUMNS = BN / ACROSS_WARPS / 8;
    constexpr u32 PITCH = BN + 8, LEFT = BM * CORE_DEPTH, TILE = LEFT + CORE_DEPTH * PITCH;
    constexpr u32 EACH = (CORE_DEPTH * BN / 4 + THREADS - 1) / THREADS; // fours of weights that a thread brings
    static_assert(ROWS * DOWN * 16 == BM && COLUMNS * ACROSS_WARPS * 8 == BN, "whole pieces");
    SHARED(f32, tiles, 2 * TILE);
    u32 thread = thread_index(), warp = thread / 32, first = block_x() * BM, first_column = block_y() * BN;
    u32 row = warp / ACROSS_WARPS * (ROWS * 16), column = warp % ACROSS_WARPS * (COLUMNS * 8);
    u32 pixels = v.n * v.h * v.w, depth = v.taps_y * v.taps_x * v.inp_c;
    f32 sums[ROWS][COLUMNS][4];
    UNROLL
    for (u32 i = 0; i < ROWS; i++) {
        UNROLL
        for (u32 j = 0; j < COLUMNS; j++) {
            UNROLL
            for (u32 l = 0; l < 4; l++) sums[i][j][l] = 0;
        }
    }
    f32x4 weight[EACH];
    GLOBAL(const f32) weights_at = weights + (i64)(thread / (BN / 4) * weights_stride + first_column + thread % (BN / 4) * 4);
    auto load_weights = [&]() {
        UNROLL
        for (u32 i = 0; i < EACH; i++) {
            u32 four = thread + i * THREADS;
            weight[i] = {0, 0, 0, 0};
            if (four < CORE_DEPTH * BN / 4) {
                weight[i] = load4(weights_at, (u64)i * (THREADS / (BN / 4)) * weights_stride);
            }
        }
    };
    auto store_weights = [&](u32 tile) {
        UNROLL
        for (u32 i = 0; i < EACH; i++) {
            u32 four = thread + i * THREADS;
            if (four < CORE_DEPTH * BN / 4) {
                u64 at = (u64)(tile + thread / (BN / 4) * PITCH + thread % (BN / 4) * 4) + (LEFT + i * (THREADS / (BN / 4)) * PITCH);
                store4(tiles, at, rounded_to_tf32(weight[i]));
            }
        }
    };
    if (depth > 0) {
        SixteenChannels<BM> reader;
        start(reader, v, pixels, inp_stride);
        load(reader, v, inp);
        load_weights();
        u32 tile = 0;
        NO_UNROLL
        for (u32 done = 0; done < depth; done += CORE_DEPTH) {
            store(reader, tiles, tile);
            store_weights(tile);
            block_sync();
            if (done + CORE_DEPTH < depth) {
                load(reader, v, inp);
                weights_at = weights_at + (i64)(CORE_DEPTH * weights_stride);
                load_weights();
            }
            multiply_on_tensor_cores<ROWS, COLUMNS, CORE_DEPTH, PITCH>(tiles, tile, row, tiles, tile + LEFT, column, sums);
            tile = TILE - tile;
        }
    }

    exchange_with_neighbour(sums);
    UNROLL
    for (u32 i = 0; i < ROWS; i++) {
        u32 m = first + row + i * 16 + thread % 32 / 4 + thread % 2 * 8;
        if (m >= pixels) continue;
        u64 pixel = m;
        if (v.out_step > 1) {
            u64 y = m / v.w % v.h * v.out_step + v.out_y, x = m % v.w * v.out_step + v.out_x;
            pixel = (m / v.w / v.h * v.out_h + y) * v.out_w + x;
        }
        UNROLL
        for (u32 j = 0; j < COLUMNS; j++) {
            u32 o = first_column + column + j * 8 + thread % 4 / 2 * 4;
            write<4, 4>(v, flags, sums[i][j], pixel, o, bias, residual, residual_stride, out, out_stride);
        }
    }
}

#define CONV_WINDOWS_TF32(name, BM, BN, DOWN, BLOCKS)                                                                          \
    KERNEL(128, BLOCKS)                                                                                                        \
    name(ConvWindow v, u32 flags, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) weights, u32 weights_stride,        \
         GLOBAL(const f32) bias, GLOBAL(const f32) residual, u32 residual_stride, GLOBAL(f32) out, u32 out_stride) {           \
        conv_windows_tf32<BM, BN, DOWN>(v, flags, inp, inp_stride, weights, weights_stride, bias, residual, residual_stride,   \
                                        out, out_stride);                                                                      \
    }
CONV_WINDOWS_TF32(conv_windows_tf32_128x64, 128, 64, 2, 3)
CONV_WINDOWS_TF32(conv_windows_tf32_64x64, 64, 64, 2, 4) // for maps with few pixels
CONV_WINDOWS_TF32(conv_windows_tf32_128x32, 128, 32, 4, 4)
CONV_WINDOWS_TF32(conv_windows_tf32_128x16, 128, 16, 4, 4)
#endif

// The first layer has one channel and 7 x 7 taps that are one pixel apart. The piece of the map under a block's windows is
// copied to shared memory once, not once for each tap. Its rows lie so far apart that no two rows that a warp reads are in
// one bank.
constexpr u32 TAPS = 7, PIECE_COLUMNS = 40, PIECE_PITCH = 44;
// How many pixels a block has across, and how many channels.
constexpr u32 ACROSS = 32, CHANNELS = 16;

// Where a block's first pixel lies on the grid. Tiles are counted through rows, then through images.
struct Tile {
    u32 image, y, x;
};

DEVICE Tile tile_of(ConvWindow v, u32 tile, u32 rows) {
    u32 across = divide_up(v.w, ACROSS), down = divide_up(v.h, rows);
    return {tile / across / down, tile / across % down * rows, tile % across * ACROSS};
}

// Copies the piece of the map under a tile's windows. Outside of the map its values are 0.
template <u32 ROWS>
DEVICE void copy_piece(ConvWindow v, Tile tile, GLOBAL(const f32) inp, u32 inp_stride, SHARED_POINTER(f32) piece) {
    for (u32 i = thread_index(); i < ROWS * PIECE_COLUMNS; i += THREADS) {
        u32 row = i / PIECE_COLUMNS, column = i % PIECE_COLUMNS;
        u32 y = (u32)((i32)(tile.y + row) + v.first_y), x = (u32)((i32)(tile.x + column) + v.first_x);
        f32 value = 0;
        if (y < v.inp_h && x < v.inp_w) value = inp[(u64)((tile.image * v.inp_h + y) * v.inp_w + x) * inp_stride];
        piece[row * PIECE_PITCH + column] = value;
    }
}

// A block computes 8 x 32 pixels by 16 channels, and a thread 8 neighbouring pixels by 4 channels. Grid: x counts tiles, y
// counts sixteens of channels.
KERNEL(128, 4)
conv_windows_7x7(ConvWindow v, u32 flags, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) weights, u32 weights_stride,
                 GLOBAL(const f32) bias, GLOBAL(const f32) residual, u32 residual_stride, GLOBAL(f32) out, u32 out_stride) {
    constexpr u32 ROWS = 8, PIECE = (ROWS + TAPS - 1) * PIECE_PITCH;
    SHARED(f32, tiles, PIECE + TAPS * TAPS * CHANNELS);
    u32 thread = thread_index(), first_column = block_y() * CHANNELS;
    Tile tile = tile_of(v, block_x(), ROWS);
    copy_piece<ROWS + TAPS - 1>(v, tile, inp, inp_stride, tiles);
    for (u32 i = thread; i < TAPS * TAPS * (CHANNELS / 4); i += THREADS) {
        u32 tap = i / (CHANNELS / 4), column = i % (CHANNELS / 4) * 4;
        store4(tiles, PIECE + i * 4, load4(weights, (u64)tap * weights_stride + first_column + column));
    }
    block_sync();
    u32 row = thread / 16, first = thread / 4 % 4 * 8, column = thread % 4 * 4;
    u32 values_at = row * PIECE_PITCH + first, weights_at = PIECE + column;
    f32 sums[8][4];
    UNROLL
    for (u32 i = 0; i < 8; i++) {
        UNROLL
        for (u32 j = 0; j < 4; j++) sums[i][j] = 0;
    }
    NO_UNROLL
    for (u32 ky = 0; ky < TAPS; ky++) {
        f32 values[16];
        UNROLL
        for (u32 i = 0; i < 16; i += 4) {
            f32x4 four = load4(tiles, values_at + i);
            values[i] = four.x, values[i + 1] = four.y, values[i + 2] = four.z, values[i + 3] = four.w;
        }
        UNROLL
        for (u32 kx = 0; kx < TAPS; kx++) {
            f32x4 weight = load4(tiles, weights_at + kx * CHANNELS);
            UNROLL
            for (u32 i = 0; i < 8; i++) {
                sums[i][0] = multiply_add(values[i + kx], weight.x, sums[i][0]);
                sums[i][1] = multiply_add(values[i + kx], weight.y, sums[i][1]);
                sums[i][2] = multiply_add(values[i + kx], weight.z, sums[i][2]);
                sums[i][3] = multiply_add(values[i + kx], weight.w, sums[i][3]);
            }
        }
        values_at += PIECE_PITCH, weights_at += TAPS * CHANNELS;
    }
    u32 y = tile.y + row;
    UNROLL
    for (u32 i = 0; i < 8; i++) {
        u32 x = tile.x + first + i;
        if (y >= v.h || x >= v.w) continue;
        u64 pixel = (u64)(tile.image * v.h + y) * v.w + x;
        write<4, 0>(v, flags, sums[i], pixel, first_column + column, bias, residual, residual_stride, out, out_stride);
    }
}

// A row of the gradient of the weights belongs to a tap and a channel. The rows behind the last tap lie NOWHERE.
constexpr i32 NOWHERE = -(1 << 30);
struct Row {
    i32 tap_y, tap_x;
    u32 c;
};

DEVICE Row row_of(ConvWindow v, u32 row) {
    u32 tap = row / v.inp_c;
    if (tap >= v.taps_y * v.taps_x) return {NOWHERE, 0, 0};
    return {v.first_y + (i32)(tap / v.taps_x), v.first_x + (i32)(tap % v.taps_x), row % v.inp_c};
}

// Where the value lies that belongs to a row and to an output pixel. It moves on with the output pixel.
struct Place {
    i32 y, x;
    i32 at; // index into the map, counted in values, or in fours of them, through all images
};

// How a Place moves: by a fixed number of pixels along a row, from the end of a row to the next row, and from the end of an
// image to the next image.
struct Steps {
    i32 x_end, y_end, along, next_row, next_image;
};

DEVICE Steps steps_of(ConvWindow v, Row row, u32 pixels, u32 stride) {
    u32 w = v.w * v.step, h = v.h * v.step;
    return {row.tap_x + (i32)w, row.tap_y + (i32)h, (i32)(pixels * v.step * stride), (i32)((v.step * v.inp_w - w) * stride),
            (i32)((v.inp_h - h) * v.inp_w * stride)};
}

DEVICE Place place_of(ConvWindow v, u32 pixel, Row row, u32 stride) {
    u32 b = pixel % v.w, a = pixel / v.w % v.h, image = pixel / v.w / v.h;
    i32 y = (i32)(a * v.step) + row.tap_y, x = (i32)(b * v.step) + row.tap_x;
    return {y, x, (i32)(((image * v.inp_h + (u32)y) * v.inp_w + (u32)x) * stride)};
}

// Moves on by `pixels`, which is at most one row and must be the number for which the steps were made.
DEVICE void advance(Place& place, ConvWindow v, Steps steps, u32 pixels) {
    place.x += (i32)(pixels * v.step);
    place.at += steps.along;
    if (place.x >= steps.x_end) {
        place.x -= (i32)(v.w * v.step);
        place.y += (i32)v.step;
        place.at += steps.next_row;
    }
    if (place.y == steps.y_end) {
        place.y -= (i32)(v.h * v.step);
        place.at += steps.next_image;
    }
}

DEVICE bool inside(Place place, ConvWindow v) { return (u32)place.y < v.inp_h && (u32)place.x < v.inp_w; }

// Copies DEPTH pixels of BM rows to shared memory, as [pixel][row]. It takes four channels at once, so four must divide the
// channels and the stride, and a row of the output must have DEPTH pixels or more.
template <u32 BM> struct FourRows {
    static constexpr u32 COUNT = DEPTH * BM / 4 / THREADS, STEP = DEPTH / COUNT;
    Steps steps;
    Place places[COUNT]; // counted in fours of values
    f32x4 values[COUNT];
};

template <u32 BM> DEVICE void start(FourRows<BM>& r, ConvWindow v, u32 pixel, u32 inp_stride) {
    Row row = row_of(v, block_x() * BM + thread_index() % (BM / 4) * 4);
    r.steps = steps_of(v, row, DEPTH, inp_stride / 4);
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        r.places[i] = place_of(v, pixel + i * r.STEP + thread_index() / (BM / 4), row, inp_stride / 4);
        r.places[i].at += (i32)(row.c / 4);
    }
}

// Loads the next DEPTH pixels. Only `rest` pixels are left; any others count as 0.
template <u32 BM> DEVICE void load(FourRows<BM>& r, ConvWindow v, u32 rest, GLOBAL(const f32) inp) {
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) {
        r.values[i] = {0, 0, 0, 0};
        if (i * r.STEP + thread_index() / (BM / 4) < rest && inside(r.places[i], v)) {
            r.values[i] = load4(inp, (u64)((i64)r.places[i].at * 4));
        }
        advance(r.places[i], v, r.steps, DEPTH);
    }
}

template <u32 BM> DEVICE u32 slot_of(FourRows<BM>&) { return thread_index() * 4; }

template <u32 BM> DEVICE void store(FourRows<BM>& r, SHARED_POINTER(f32) tiles, u32 to) {
    UNROLL
    for (u32 i = 0; i < r.COUNT; i++) store4(tiles, (u64)to + i * (THREADS * 4), r.values[i]);
}

// Does the same value by value: each thread has one row.
template <u32 BM> struct OneRow {
    static_assert(BM == THREADS, "a row for each thread");
    Steps steps;
    Place place;
    f32 values[DEPTH];
};

template <u32 BM> DEVICE void start(OneRow<BM>& r, ConvWindow v, u32 pixel, u32 inp_stride) {
    Row row = row_of(v, block_x() * BM + thread_index());
    r.steps = steps_of(v, row, 1, inp_stride);
    r.place = place_of(v, pixel, row, inp_stride);
    r.place.at += (i32)row.c;
}

template <u32 BM> DEVICE void load(OneRow<BM>& r, ConvWindow v, u32 rest, GLOBAL(const f32) inp) {
    UNROLL
    for (u32 i = 0; i < DEPTH; i++) {
        r.values[i] = 0;
        if (i < rest && inside(r.place, v)) r.values[i] = inp[(i64)r.place.at];
        advance(r.place, v, r.steps, 1);
    }
}

template <u32 BM> DEVICE u32 slot_of(OneRow<BM>&) { return thread_index(); }

template <u32 BM> DEVICE void store(OneRow<BM>& r, SHARED_POINTER(f32) tiles, u32 to) {
    UNROLL
    for (u32 i = 0; i < DEPTH; i++) tiles[(u64)to + (i * BM)] = r.values[i];
}

// Four neighbouring values of a row that has `count` values, from column `first` on. Values beyond the row's end are 0.
template <bool BY_FOUR> DEVICE f32x4 four_of(GLOBAL(const f32) from, u32 first, u32 count) {
    f32x4 found = {0, 0, 0, 0};
    if (BY_FOUR) {
        if (first < count) found = load4(from, 0);
        return found;
    }
    if (first < count) found.x = from[0];
    if (first + 1 < count) found.y = from[1];
    if (first + 2 < count) found.z = from[2];
    if (first + 3 < count) found.w = from[3];
    return found;
}

// A block computes BM rows (tap, channel) by BN output channels, summed over the pixels of one part. Grid: x counts tiles of
// rows, y counts tiles of channels, z counts parts. The sums are written as [part][row][co filled up to fours]. DOUT_BY_FOUR
// states that four divides co and the stride of dout.
template <u32 BM, u32 BN, u32 TM, u32 TN, class Reader, bool DOUT_BY_FOUR>
DEVICE void conv_weights(ConvWindow v, u32 part_pixels, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) dout,
                         u32 dout_stride, GLOBAL(f32) parts) {
    static_assert(BM / TM * (BN / TN) == THREADS && BN <= 64, "tiles and threads");
    constexpr u32 LEFT = DEPTH * BM, TILE = LEFT + DEPTH * BN;
    SHARED(f32, tiles, 2 * TILE);
    u32 thread = thread_index(), first_column = block_y() * BN;
    u32 first = block_z() * part_pixels, pixels = v.n * v.h * v.w;
    f32 sums[TM][TN];
    UNROLL
    for (u32 i = 0; i < TM; i++) {
        UNROLL
        for (u32 j = 0; j < TN; j++) sums[i][j] = 0;
    }
    u32 row = thread / (BN / TN) * 4, column = thread % (BN / TN) * 4;
    auto multiply = [&](u32 left, u32 right) {
        multiply_tiles<TM, TN, DEPTH, BM, BN, BM / TM * 4, BN / TN * 4>(tiles, left, tiles, right, sums);
    };

    u32 slot = thread / (BN / 4), dout_column = first_column + thread % (BN / 4) * 4;
    bool copies = DEPTH * BN / 4 == THREADS || thread < DEPTH * BN / 4;
    if (first < pixels) {
        u32 rest = smaller(part_pixels, pixels - first);
        Reader reader;
        start(reader, v, first, inp_stride);
        u32 left = row, right = LEFT + column, to_left = slot_of(reader), to_right = LEFT + thread * 4;
        GLOBAL(const f32) dout_at = dout + (i64)((u64)(first + slot) * dout_stride + dout_column);
        f32x4 gradient = {0, 0, 0, 0};
        u32 other = TILE; // distance to the other tile; its sign turns at each step, modulo 2^32
        load(reader, v, rest, inp);
        if (copies && slot < rest) gradient = four_of<DOUT_BY_FOUR>(dout_at, dout_column, v.out_c);
        store(reader, tiles, to_left);
        if (copies) store4(tiles, to_right, gradient);
        block_sync();
        NO_UNROLL
        while (rest > DEPTH) {
            rest -= DEPTH;
            load(reader, v, rest, inp);
            dout_at = dout_at + (i64)(DEPTH * dout_stride);
            gradient = {0, 0, 0, 0};
            if (copies && slot < rest) gradient = four_of<DOUT_BY_FOUR>(dout_at, dout_column, v.out_c);
            multiply(left, right);
            to_left += other, to_right += other;
            store(reader, tiles, to_left);
            if (copies) store4(tiles, to_right, gradient);
            left += other, right += other;
            other = 0 - other;
            block_sync();
        }
        multiply(left, right);
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

// Does the same for the first layer, with one channel and 7 x 7 taps that are one pixel apart. A block computes 16 output
// channels; four must divide co and the stride of dout. Grid: x counts sixteens of channels, z counts parts of `part_tiles`
// tiles of 4 x 32 pixels. A warp has a row of pixels; a lane has a row of taps and four channels. The sums of the rows of
// pixels are always added in the same order.
KERNEL(128, 4)
conv_weights_7x7(ConvWindow v, u32 part_tiles, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) dout, u32 dout_stride,
                 GLOBAL(f32) parts) {
    // There is one row more than the taps need, because lanes without a row of taps read it, too.
    constexpr u32 ROWS = 4, PIECE_ROWS = ROWS + TAPS, PIECE = PIECE_ROWS * PIECE_PITCH, SUMS = TAPS * 4;
    SHARED(f32, tiles, PIECE + ROWS * ACROSS * CHANNELS);
    static_assert(2 * 32 * SUMS <= PIECE + ROWS * ACROSS * CHANNELS, "room for the sums of two rows of pixels");
    u32 thread = thread_index(), warp = thread / 32, lane = thread % 32, ky = lane / 4, column = lane % 4 * 4;
    u32 first_column = block_x() * CHANNELS;
    u32 all = v.n * divide_up(v.h, ROWS) * divide_up(v.w, ACROSS), first = block_z() * part_tiles;
    f32 sums[TAPS][4];
    UNROLL
    for (u32 i = 0; i < TAPS; i++) {
        UNROLL
        for (u32 j = 0; j < 4; j++) sums[i][j] = 0;
    }
    NO_UNROLL
    for (u32 index = first; index < smaller(first + part_tiles, all); index++) {
        Tile tile = tile_of(v, index, ROWS);
        copy_piece<PIECE_ROWS>(v, tile, inp, inp_stride, tiles);
        for (u32 i = thread; i < ROWS * ACROSS * (CHANNELS / 4); i += THREADS) {
            u32 y = tile.y + i / (ACROSS * (CHANNELS / 4)), x = tile.x + i / (CHANNELS / 4) % ACROSS;
            u32 o = first_column + i % (CHANNELS / 4) * 4;
            f32x4 gradient = {0, 0, 0, 0};
            if (y < v.h && x < v.w && o < v.out_c) {
                gradient = load4(dout, ((u64)(tile.image * v.h + y) * v.w + x) * dout_stride + o);
            }
            store4(tiles, PIECE + i * 4, gradient);
        }
        block_sync();
        u32 values_at = (warp + ky) * PIECE_PITCH, gradients_at = PIECE + warp * (ACROSS * CHANNELS) + column;
        NO_UNROLL
        for (u32 x = 0; x < ACROSS; x += 4) {
            f32 values[12];
            UNROLL
            for (u32 i = 0; i < 12; i += 4) {
                f32x4 four = load4(tiles, values_at + i);
                values[i] = four.x, values[i + 1] = four.y, values[i + 2] = four.z, values[i + 3] = four.w;
            }
            UNROLL
            for (u32 i = 0; i < 4; i++) {
                f32x4 gradient = load4(tiles, gradients_at + i * CHANNELS);
                UNROLL
                for (u32 kx = 0; kx < TAPS; kx++) {
                    sums[kx][0] = multiply_add(values[i + kx], gradient.x, sums[kx][0]);
                    sums[kx][1] = multiply_add(values[i + kx], gradient.y, sums[kx][1]);
                    sums[kx][2] = multiply_add(values[i + kx], gradient.z, sums[kx][2]);
                    sums[kx][3] = multiply_add(values[i + kx], gradient.w, sums[kx][3]);
                }
            }
            values_at += 4, gradients_at += 4 * CHANNELS;
        }
        block_sync();
    }
    // The sums of rows 2 and 3 of pixels are added to those of rows 0 and 1, then the sums of row 1 to those of row 0.
    UNROLL
    for (u32 half = 2; half > 0; half /= 2) {
        if (warp >= half && warp < 2 * half) {
            UNROLL
            for (u32 i = 0; i < SUMS; i++) tiles[(i * 2 + warp - half) * 32 + lane] = sums[i / 4][i % 4];
        }
        block_sync();
        if (warp < half) {
            UNROLL
            for (u32 i = 0; i < SUMS; i++) sums[i / 4][i % 4] = sums[i / 4][i % 4] + tiles[(i * 2 + warp) * 32 + lane];
        }
        block_sync();
    }
    u32 columns = divide_up(v.out_c, 4u) * 4, o = first_column + column;
    if (warp == 0 && ky < TAPS && o < columns) {
        UNROLL
        for (u32 kx = 0; kx < TAPS; kx++) {
            f32x4 sum = {sums[kx][0], sums[kx][1], sums[kx][2], sums[kx][3]};
            store4(parts, ((u64)(block_z() * TAPS + ky) * TAPS + kx) * columns + o, sum);
        }
    }
}

// dweights [co][ci][taps] += the sum of all parts [tap][ci][co filled up to fours], added in their order. A block transposes
// 32 x 32 values, so that both sides are accessed along their rows. Grid: x counts tiles of (ci, tap), y counts tiles of co.
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

// Writes the sums of dout over the pixels of each part, as [part][channel]. Grid: x counts groups of 32 channels, y counts
// parts.
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

// dbias += the sum of all parts, added in their order.
KERNEL(256, 4) conv_add_bias(u32 channels, u32 parts, GLOBAL(const f32) sums, GLOBAL(f32) dbias) {
    FOR_EACH(ch, channels) {
        f32 sum = 0;
        for (u32 part = 0; part < parts; part++) sum = sum + sums[(u64)part * channels + ch];
        dbias[ch] = dbias[ch] + sum;
    }
}
