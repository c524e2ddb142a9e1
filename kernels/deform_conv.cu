// Modulated deformable convolution, 3x3, stride 1, padding 1, and its gradients. Host side: src/ops/deform_conv/gpu.rs.
//   forward   out[n, y, x, o] = relu(bias[o] + sum over taps t = 3 ky + kx and channels c of
//                               weight[o, c, ky, kx] * m_t * S_c(y - 1 + ky + dy_t, x - 1 + kx + dx_t))
//   backward  g[c, t] = sum over o of weight[o, c, t] * dout[y, x, o]        S = the sample of channel c at tap t
//             dinp at the four neighbours += neighbour's bilinear weight * m_t * g
//             dm_t = sum over c of g S                                       dlogit = dm_t m_t (1 - m_t)
//             d(dy_t) = m_t sum over c of g [(1 - lx) (v10 - v00) + lx (v11 - v01)], d(dx_t) likewise
//             dweight[o, c, t] += dout[y, x, o] * m_t S                      dbias as in conv.cu
// `offsets` has 27 channels: 2t is dy_t, 2t + 1 is dx_t, 18 + t the logit of the mask m_t. The sample at a position (py, px)
// is 0 unless -1 < py < h and -1 < px < w; a neighbour outside of the image counts as 0.
//
// No column buffer is ever written: tiles of samples are made in shared memory, where they are multiplied. The gradient of
// the input lands wherever the offsets point, so it is added by atomics. They add 64-bit integers, because a sum of integers
// does not depend on its order: a value v becomes the integer v * scale, without its fraction. Let L = 9 h w co max|dout|
// max|weight|, which no sum of one input value exceeds. The scale is a power of two in 2^58 / L .. 2^62 / L (2^120 at most),
// so no sum overflows, and a summand loses less than 2^-58 L; for 256 x 256 pixels and 64 channels that is less than 2^-34
// max|dout| max|weight|.
// Source: as in src/ops/deform_conv/backward.rs.
#include "kernel.h"

struct DeformConvShape {
    u32 n, h, w, ci, co;
};

constexpr u32 WITH_BIAS = 1, WITH_RELU = 4, OUT_BY_FOUR = 16; // as in conv.cu
constexpr u32 THREADS = 128, DEPTH = 8, TAPS = 9;
// A tile has BM pixels (or rows of the gradient of the weights) by BN channels; a thread computes TM by TN of its values.
constexpr u32 BM = 64, BN = 64, TM = 4, TN = 8;
constexpr u32 PITCH = BM + 4;

// Where one tap of one pixel is sampled.
struct Sample {
    u32 corners[4];   // the four neighbours, counted through all images; where one lies outside, some pixel of its image
    f32 bilinear[4];  // weights of the neighbours; 0 for those outside, and where nothing is sampled
    f32 ly, lx, mask; // the fractions of the position, and the mask
    u32 inside;       // bit i: neighbour i lies inside
};

DEVICE Sample sample_at(DeformConvShape s, u32 pixel, u32 tap, f32 dy, f32 dx, f32 logit) {
    u32 x = pixel % s.w, y = pixel / s.w % s.h, first = pixel / s.w / s.h * s.h * s.w;
    f32 py = (f32)((i32)(y + tap / 3) - 1) + dy, px = (f32)((i32)(x + tap % 3) - 1) + dx;
    Sample found = {{first, first, first, first}, {0, 0, 0, 0}, 0, 0, 1 / (1 + exponential(-logit)), 0};
    // The condition is written so that a NaN position samples nothing.
    if (!(py > -1 && px > -1 && py < (f32)s.h && px < (f32)s.w)) return found;
    f32 top = round_down(py), left = round_down(px);
    f32 ly = py - top, lx = px - left;
    i32 y0 = (i32)top, x0 = (i32)left;
    found.ly = ly, found.lx = lx;
    u32 above = y0 >= 0, below = y0 + 1 < (i32)s.h, before = x0 >= 0, after = x0 + 1 < (i32)s.w;
    found.inside = (above & before) | (above & after) << 1 | (below & before) << 2 | (below & after) << 3;
    f32 all[4] = {(1 - ly) * (1 - lx), (1 - ly) * lx, ly * (1 - lx), ly * lx};
    u32 rows[2] = {above ? (u32)y0 : 0, below ? (u32)(y0 + 1) : 0};
    u32 columns[2] = {before ? (u32)x0 : 0, after ? (u32)(x0 + 1) : 0};
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        found.corners[i] = first + rows[i / 2] * s.w + columns[i % 2];
        found.bilinear[i] = found.inside >> i & 1 ? all[i] : 0;
    }
    return found;
}

// Four channels of the four neighbours.
struct Neighbours {
    f32x4 values[4];
};

// Four neighbouring values of a row that has `count` values, from value `first` on, which lies at `index`. Values beyond the
// row's end are 0. BY_FOUR states that four divides count.
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

DEVICE f32 weighted(f32 a, f32 b, f32 c, f32 d, f32x4 weights) {
    return multiply_add(d, weights.w, multiply_add(c, weights.z, multiply_add(b, weights.y, a * weights.x)));
}

DEVICE f32x4 weighted(const Neighbours& r, f32x4 weights) {
    return {weighted(r.values[0].x, r.values[1].x, r.values[2].x, r.values[3].x, weights),
            weighted(r.values[0].y, r.values[1].y, r.values[2].y, r.values[3].y, weights),
            weighted(r.values[0].z, r.values[1].z, r.values[2].z, r.values[3].z, weights),
            weighted(r.values[0].w, r.values[1].w, r.values[2].w, r.values[3].w, weights)};
}

DEVICE void clear(f32 (&sums)[TM][TN]) {
    UNROLL
    for (u32 i = 0; i < TM; i++) {
        UNROLL
        for (u32 j = 0; j < TN; j++) sums[i][j] = 0;
    }
}

// Stores four channels of a pixel into a tile [channel][pixel], where two lanes share a pixel. Four unused values lie between
// two rows, so that no two lanes write to one bank.
DEVICE void store_transposed(f32x4 value, SHARED_POINTER(f32) tile, u32 offset) {
    u64 to = offset + thread_index() % 2 * 4 * PITCH + thread_index() / 2;
    tile[to] = value.x;
    tile[to + PITCH] = value.y;
    tile[to + 2 * PITCH] = value.z;
    tile[to + 3 * PITCH] = value.w;
}

// The first row and the first column of a thread's part of a tile.
DEVICE u32 thread_row() { return thread_index() / (BN / TN) * 4; }
DEVICE u32 thread_column() { return thread_index() % (BN / TN) * 4; }

template <u32 LEFT_PITCH>
DEVICE void multiply(SHARED_POINTER(f32) left, SHARED_POINTER(f32) right, u32 half, f32 (&sums)[TM][TN]) {
    multiply_tiles<TM, TN, DEPTH, LEFT_PITCH, BN, BM / TM * 4, BN / TN * 4>(
        left, half * (DEPTH * LEFT_PITCH) + thread_row(), right, half * (DEPTH * BN) + thread_column(), sums);
}

// The samples of one pixel at one tap, a few channels at a time.
template <bool BY_FOUR> struct Sampler {
    u32 places[4]; // where the neighbours' values for the thread's first channel lie, with BY_FOUR counted in fours
    f32x4 weights;
    Neighbours neighbours;
};

template <bool BY_FOUR> DEVICE void start(Sampler<BY_FOUR>& r, Sample sample, u32 inp_stride, u32 c) {
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        r.places[i] = BY_FOUR ? sample.corners[i] * (inp_stride / 4) + c / 4 : sample.corners[i] * inp_stride + c;
    }
    f32 mask = sample.mask;
    r.weights = {sample.bilinear[0] * mask, sample.bilinear[1] * mask, sample.bilinear[2] * mask, sample.bilinear[3] * mask};
}

// Loads channels c .. c + 3, which lie `distance` behind the thread's first ones.
template <bool BY_FOUR> DEVICE void load(Sampler<BY_FOUR>& r, GLOBAL(const f32) inp, u32 distance, u32 c, u32 ci) {
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        if (BY_FOUR) r.neighbours.values[i] = load4(inp, (u64)(r.places[i] + distance / 4) * 4);
        else r.neighbours.values[i] = four_of<false>(inp, r.places[i] + distance, c, ci);
    }
}

// Writes four channels of a pixel, from channel `o` on, after the bias and the ReLU that `flags` asks for.
DEVICE void write_four(DeformConvShape s, u32 flags, const f32 (&sums)[4], u32 pixel, u32 o, GLOBAL(const f32) bias, GLOBAL(f32) out,
                       u32 out_stride) {
    f32 values[4];
    UNROLL
    for (u32 l = 0; l < 4; l++) {
        values[l] = sums[l];
        if (o + l >= s.co) continue;
        if (flags & WITH_BIAS) values[l] = values[l] + bias[o + l];
        if (flags & WITH_RELU) values[l] = larger(values[l], (f32)0);
        if (!(flags & OUT_BY_FOUR)) out[(u64)pixel * out_stride + o + l] = values[l];
    }
    if ((flags & OUT_BY_FOUR) && o < s.co) store4(out, (u64)pixel * out_stride + o, {values[0], values[1], values[2], values[3]});
}

// A block computes 64 pixels by 64 output channels. Grid: x counts tiles of pixels, y counts tiles of channels. Two threads
// share a pixel and find its samples tap by tap. The values that a tile needs are loaded while the tile before it is
// multiplied, also from one tap to the next. The weights are packed by conv.cu; the values that a tap's last tile reads
// beyond the tap's rows meet samples of 0. BY_FOUR states that DEPTH divides ci, and four the stride; without it, the host
// sees to it that the map's buffer has less than 2^32 values.
template <bool BY_FOUR>
DEVICE void deform_conv_forward(DeformConvShape s, u32 flags, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) offsets,
                                u32 offsets_stride, GLOBAL(const f32) weights, u32 weights_stride, GLOBAL(const f32) bias,
                                GLOBAL(f32) out, u32 out_stride) {
    SHARED(f32, left, 2 * DEPTH * PITCH);
    SHARED(f32, right, 2 * DEPTH * BN);
    u32 thread = thread_index(), first = block_x() * BM, pixels = s.n * s.h * s.w;
    // Beyond the last pixel a thread takes that pixel again, and nothing of it is written.
    u32 pixel = smaller(first + thread / 2, pixels - 1);
    u32 c = thread % 2 * 4, half = 0;
    u64 offset = (u64)pixel * offsets_stride;
    f32 dy = offsets[offset], dx = offsets[offset + 1], logit = offsets[offset + 2 * TAPS];
    // Where the thread's weights of the tap's first tile lie, and where the next ones lie that it reads, both counted in fours.
    u32 first_weight = (thread / (BN / 4) * weights_stride + block_y() * BN) / 4 + thread % (BN / 4);
    u32 weight_place = first_weight;
    f32 sums[TM][TN];
    clear(sums);
    Sampler<BY_FOUR> sampler;
    start(sampler, sample_at(s, pixel, 0, dy, dx, logit), inp_stride, c);
    dy = offsets[offset + 2], dx = offsets[offset + 3], logit = offsets[offset + 2 * TAPS + 1];
    load(sampler, inp, 0, c, s.ci);
    store_transposed(weighted(sampler.neighbours, sampler.weights), left, 0);
    store4(right, thread * 4, load4(weights, (u64)weight_place * 4));
    block_sync();
    NO_UNROLL
    for (u32 tap = 0; tap < TAPS; tap++) {
        NO_UNROLL
        for (u32 done = DEPTH; done < s.ci; done += DEPTH) {
            load(sampler, inp, done, c + done, s.ci);
            weight_place += DEPTH / 4 * weights_stride;
            f32x4 weight = load4(weights, (u64)weight_place * 4);
            multiply<PITCH>(left, right, half, sums);
            half = 1 - half;
            store_transposed(weighted(sampler.neighbours, sampler.weights), left, half * (DEPTH * PITCH));
            store4(right, half * (DEPTH * BN) + thread * 4, weight);
            block_sync();
        }
        // This is the last tile of the tap. The tile that is loaded now is the first of the next tap.
        f32x4 weight = {0, 0, 0, 0};
        if (tap + 1 < TAPS) {
            start(sampler, sample_at(s, pixel, tap + 1, dy, dx, logit), inp_stride, c);
            load(sampler, inp, 0, c, s.ci);
            first_weight += s.ci * (weights_stride / 4);
            weight_place = first_weight;
            weight = load4(weights, (u64)weight_place * 4);
        }
        if (tap + 2 < TAPS) {
            dy = offsets[offset + 2 * tap + 4], dx = offsets[offset + 2 * tap + 5];
            logit = offsets[offset + 2 * TAPS + tap + 2];
        }
        multiply<PITCH>(left, right, half, sums);
        half = 1 - half;
        if (tap + 1 < TAPS) {
            store_transposed(weighted(sampler.neighbours, sampler.weights), left, half * (DEPTH * PITCH));
            store4(right, half * (DEPTH * BN) + thread * 4, weight);
        }
        block_sync();
    }
    UNROLL
    for (u32 i = 0; i < TM; i++) {
        u32 m = first + thread_row() + i;
        if (m >= pixels) continue;
        UNROLL
        for (u32 j = 0; j < TN; j += 4) {
            u32 o = block_y() * BN + thread_column() + j / 4 * (BN / TN * 4);
            f32 four[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
            write_four(s, flags, four, m, o, bias, out, out_stride);
        }
    }
}

#define DEFORM_CONV_FORWARD(name, BY_FOUR)                                                                                     \
    KERNEL(128, 4)                                                                                                             \
    name(DeformConvShape s, u32 flags, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) offsets, u32 offsets_stride,   \
         GLOBAL(const f32) weights, u32 weights_stride, GLOBAL(const f32) bias, GLOBAL(f32) out, u32 out_stride) {             \
        deform_conv_forward<BY_FOUR>(s, flags, inp, inp_stride, offsets, offsets_stride, weights, weights_stride, bias, out,   \
                                     out_stride);                                                                              \
    }
DEFORM_CONV_FORWARD(deform_conv_forward_64x64, true)
DEFORM_CONV_FORWARD(deform_conv_forward_any_64x64, false)

// Gives the samples of a warp's pixels to pairs of lanes: `near` those of the even lane's pixel, `far` those of the odd lane's.
// Each lane of a pair reads four of eight channels, so that a pair reads whole sectors.
DEVICE void share(Sampler<true>& mine, Sampler<true>& near, Sampler<true>& far, u32 c) {
    bool odd = thread_index() % 2 == 1;
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        u32 other = shuffle_xor(mine.places[i], 1);
        near.places[i] = (odd ? other : mine.places[i]) + c / 4;
        far.places[i] = (odd ? mine.places[i] : other) + c / 4;
    }
    f32x4 other = {shuffle_xor(mine.weights.x, 1), shuffle_xor(mine.weights.y, 1), shuffle_xor(mine.weights.z, 1),
                   shuffle_xor(mine.weights.w, 1)};
    near.weights = odd ? other : mine.weights;
    far.weights = odd ? mine.weights : other;
}

// The same for few output channels: a block computes 128 pixels by COLUMNS channels, so that no thread multiplies for channels
// that are not there. A thread finds where one pixel is sampled, takes four channels of two pixels' samples, and computes RM by 4
// of the sums. Grid: as above. DEPTH divides ci, and four the stride.
template <u32 COLUMNS, u32 RM>
DEVICE void deform_conv_forward_narrow(DeformConvShape s, u32 flags, GLOBAL(const f32) inp, u32 inp_stride,
                                       GLOBAL(const f32) offsets, u32 offsets_stride, GLOBAL(const f32) weights, u32 weights_stride,
                                       GLOBAL(const f32) bias, GLOBAL(f32) out, u32 out_stride) {
    constexpr u32 ROWS = 128, ROW_PITCH = ROWS + 4, RN = 4, GROUPS = COLUMNS / RN;
    static_assert(ROWS / RM * GROUPS == THREADS, "a thread for each part of the tile");
    SHARED(f32, left, 2 * DEPTH * ROW_PITCH);
    SHARED(f32, right, 2 * DEPTH * COLUMNS);
    u32 thread = thread_index(), first = block_x() * ROWS, pixels = s.n * s.h * s.w, half = 0, c = thread % 2 * 4;
    // The first of the two pixels whose samples a thread takes; the other one lies 16 behind it. Beyond the last pixel that pixel
    // is taken again, and nothing of it is written.
    u32 taken = thread / 32 * 32 + thread % 32 / 2, pixel = smaller(first + taken + thread % 2 * 16, pixels - 1);
    u64 offset = (u64)pixel * offsets_stride;
    f32 dy = offsets[offset], dx = offsets[offset + 1], logit = offsets[offset + 2 * TAPS];
    // The first threads bring the weights, four each.
    bool brings = thread < DEPTH * COLUMNS / 4;
    u32 first_weight = brings ? (thread / GROUPS * weights_stride + block_y() * COLUMNS) / 4 + thread % GROUPS : 0;
    u32 weight_place = first_weight, row = thread / GROUPS * 4, column = thread % GROUPS * 4;
    f32 sums[RM][RN];
    UNROLL
    for (u32 i = 0; i < RM; i++) {
        UNROLL
        for (u32 j = 0; j < RN; j++) sums[i][j] = 0;
    }
    Sampler<true> mine, near, far;
    f32x4 weight = {0, 0, 0, 0};
    start(mine, sample_at(s, pixel, 0, dy, dx, logit), inp_stride, 0);
    share(mine, near, far, c);
    load(near, inp, 0, c, s.ci);
    load(far, inp, 0, c, s.ci);
    if (brings) weight = load4(weights, (u64)weight_place * 4);
    u32 tap = 0, done = 0;
    // A round stores the tile that was loaded, loads the next one, and multiplies.
    NO_UNROLL
    for (u32 rounds = TAPS * (s.ci / DEPTH); rounds > 0; rounds--) {
        u32 to = (half * DEPTH + c) * ROW_PITCH + taken;
        f32x4 values = weighted(near.neighbours, near.weights);
        left[to] = values.x, left[to + ROW_PITCH] = values.y;
        left[to + 2 * ROW_PITCH] = values.z, left[to + 3 * ROW_PITCH] = values.w;
        values = weighted(far.neighbours, far.weights), to += 16;
        left[to] = values.x, left[to + ROW_PITCH] = values.y;
        left[to + 2 * ROW_PITCH] = values.z, left[to + 3 * ROW_PITCH] = values.w;
        if (brings) store4(right, half * (DEPTH * COLUMNS) + thread * 4, weight);
        block_sync();
        done += DEPTH;
        if (done == s.ci) {
            // The next tile is the first of the next tap.
            done = 0, tap++;
            first_weight += s.ci * (weights_stride / 4);
            weight_place = first_weight;
            if (tap < TAPS) {
                dy = offsets[offset + 2 * tap], dx = offsets[offset + 2 * tap + 1], logit = offsets[offset + 2 * TAPS + tap];
                start(mine, sample_at(s, pixel, tap, dy, dx, logit), inp_stride, 0);
                share(mine, near, far, c);
            }
        } else {
            weight_place += DEPTH / 4 * weights_stride;
        }
        if (rounds > 1) {
            load(near, inp, done, c + done, s.ci);
            load(far, inp, done, c + done, s.ci);
            if (brings) weight = load4(weights, (u64)weight_place * 4);
        }
        multiply_tiles<RM, RN, DEPTH, ROW_PITCH, COLUMNS, ROWS / RM * 4, COLUMNS>(
            left, half * (DEPTH * ROW_PITCH) + row, right, half * (DEPTH * COLUMNS) + column, sums);
        half = 1 - half;
    }
    UNROLL
    for (u32 i = 0; i < RM; i++) {
        u32 m = first + i / 4 * (ROWS / RM * 4) + row + i % 4;
        if (m < pixels) write_four(s, flags, sums[i], m, block_y() * COLUMNS + column, bias, out, out_stride);
    }
}

#define DEFORM_CONV_FORWARD_NARROW(name, COLUMNS, RM, BLOCKS)                                                                  \
    KERNEL(128, BLOCKS)                                                                                                        \
    name(DeformConvShape s, u32 flags, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) offsets, u32 offsets_stride,   \
         GLOBAL(const f32) weights, u32 weights_stride, GLOBAL(const f32) bias, GLOBAL(f32) out, u32 out_stride) {             \
        deform_conv_forward_narrow<COLUMNS, RM>(s, flags, inp, inp_stride, offsets, offsets_stride, weights, weights_stride,   \
                                                bias, out, out_stride);                                                        \
    }
DEFORM_CONV_FORWARD_NARROW(deform_conv_forward_128x32, 32, 8, 3)
DEFORM_CONV_FORWARD_NARROW(deform_conv_forward_128x16, 16, 4, 4)

#if HAS_TF32
// The same on tensor cores: samples and weights are rounded to TensorFloat-32, and summed as floats. A block computes 128 pixels by
// COLUMNS channels, with DOWN warps below each other. DEPTH divides ci, and four the stride.
template <u32 COLUMNS, u32 DOWN>
DEVICE void deform_conv_forward_tf32(DeformConvShape s, u32 flags, GLOBAL(const f32) inp, u32 inp_stride,
                                     GLOBAL(const f32) offsets, u32 offsets_stride, GLOBAL(const f32) weights, u32 weights_stride,
                                     GLOBAL(const f32) bias, GLOBAL(f32) out, u32 out_stride) {
    constexpr u32 ROWS = 128, ACROSS_WARPS = THREADS / 32 / DOWN, PIECES = ROWS / DOWN / 16, ACROSS = COLUMNS / ACROSS_WARPS / 8;
    constexpr u32 RIGHT_PITCH = COLUMNS + 8, GROUPS = COLUMNS / 4;
    SHARED(f32, left, 2 * DEPTH * ROWS);
    SHARED(f32, right, 2 * DEPTH * RIGHT_PITCH);
    u32 thread = thread_index(), warp = thread / 32, first = block_x() * ROWS, pixels = s.n * s.h * s.w, half = 0, c = thread % 2 * 4;
    u32 row = warp / ACROSS_WARPS * (PIECES * 16), column = warp % ACROSS_WARPS * (ACROSS * 8);
    // As in deform_conv_forward_narrow.
    u32 taken = thread / 32 * 32 + thread % 32 / 2, pixel = smaller(first + taken + thread % 2 * 16, pixels - 1);
    u64 offset = (u64)pixel * offsets_stride;
    f32 dy = offsets[offset], dx = offsets[offset + 1], logit = offsets[offset + 2 * TAPS];
    bool brings = thread < DEPTH * GROUPS;
    u32 weight_place = brings ? thread / GROUPS * weights_stride + block_y() * COLUMNS + thread % GROUPS * 4 : 0;
    f32 sums[PIECES][ACROSS][4];
    UNROLL
    for (u32 i = 0; i < PIECES; i++) {
        UNROLL
        for (u32 j = 0; j < ACROSS; j++) {
            UNROLL
            for (u32 l = 0; l < 4; l++) sums[i][j][l] = 0;
        }
    }
    Sampler<true> mine, near, far;
    f32x4 weight = {0, 0, 0, 0};
    start(mine, sample_at(s, pixel, 0, dy, dx, logit), inp_stride, 0);
    share(mine, near, far, c);
    load(near, inp, 0, c, s.ci);
    load(far, inp, 0, c, s.ci);
    if (brings) weight = load4(weights, weight_place);
    u32 tap = 0, done = 0;
    NO_UNROLL
    for (u32 rounds = TAPS * (s.ci / DEPTH); rounds > 0; rounds--) {
        u32 left_at = half * (DEPTH * ROWS), right_at = half * (DEPTH * RIGHT_PITCH);
        store4(left, left_at + four_at<DEPTH>(taken, c / 4), rounded_to_tf32(weighted(near.neighbours, near.weights)));
        store4(left, left_at + four_at<DEPTH>(taken + 16, c / 4), rounded_to_tf32(weighted(far.neighbours, far.weights)));
        if (brings) store4(right, right_at + thread / GROUPS * RIGHT_PITCH + thread % GROUPS * 4, rounded_to_tf32(weight));
        block_sync();
        // Weights of a tap lie behind those of the tap before, so the next rows are always the next ones.
        done += DEPTH, weight_place += DEPTH * weights_stride;
        if (done == s.ci) {
            done = 0, tap++;
            if (tap < TAPS) {
                dy = offsets[offset + 2 * tap], dx = offsets[offset + 2 * tap + 1], logit = offsets[offset + 2 * TAPS + tap];
                start(mine, sample_at(s, pixel, tap, dy, dx, logit), inp_stride, 0);
                share(mine, near, far, c);
            }
        }
        if (rounds > 1) {
            load(near, inp, done, c + done, s.ci);
            load(far, inp, done, c + done, s.ci);
            if (brings) weight = load4(weights, weight_place);
        }
        multiply_on_tensor_cores<PIECES, ACROSS, DEPTH, RIGHT_PITCH>(left, left_at, row, right, right_at, column, sums);
        half = 1 - half;
    }
    exchange_with_neighbour(sums);
    UNROLL
    for (u32 i = 0; i < PIECES; i++) {
        u32 m = first + row + i * 16 + thread % 32 / 4 + thread % 2 * 8;
        if (m >= pixels) continue;
        UNROLL
        for (u32 j = 0; j < ACROSS; j++) {
            u32 o = block_y() * COLUMNS + column + j * 8 + thread % 4 / 2 * 4;
            write_four(s, flags, sums[i][j], m, o, bias, out, out_stride);
        }
    }
}

#define DEFORM_CONV_FORWARD_TF32(name, COLUMNS, DOWN, BLOCKS)                                                                  \
    KERNEL(128, BLOCKS)                                                                                                        \
    name(DeformConvShape s, u32 flags, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) offsets, u32 offsets_stride,   \
         GLOBAL(const f32) weights, u32 weights_stride, GLOBAL(const f32) bias, GLOBAL(f32) out, u32 out_stride) {             \
        deform_conv_forward_tf32<COLUMNS, DOWN>(s, flags, inp, inp_stride, offsets, offsets_stride, weights, weights_stride,   \
                                                bias, out, out_stride);                                                        \
    }
DEFORM_CONV_FORWARD_TF32(deform_conv_forward_tf32_128x64, 64, 2, 3)
DEFORM_CONV_FORWARD_TF32(deform_conv_forward_tf32_128x32, 32, 4, 3)
DEFORM_CONV_FORWARD_TF32(deform_conv_forward_tf32_128x16, 16, 4, 3)
#endif

// largest[which] becomes the largest of its old value and of all |values|, kept as the bits of a float; the host clears it
// first. Floats that are not negative are ordered as their bits are, and a NaN is larger than all of them.
KERNEL(256, 4)
deform_conv_largest(u32 pixels, u32 channels, GLOBAL(const f32) values, u32 stride, u32 which, GLOBAL(u32) largest) {
    SHARED(u32, found, 256);
    u32 most = 0, thread = thread_index();
    FOR_EACH(i, pixels * channels) {
        u32 bits = bits_of((float)values[(u64)(i / channels) * stride + i % channels]) & 0x7fffffffu;
        most = larger(most, bits);
    }
    found[thread] = most;
    block_sync();
    for (u32 step = 128; step > 0; step /= 2) {
        u32 other = thread < step ? found[thread + step] : 0u;
        if (other > most) found[thread] = most = other;
        block_sync();
    }
    if (thread == 0) atomic_max(largest, which, found[0]);
}

DEVICE i32 whole_log2(u32 count) {
    i32 log = 0;
    while (log < 32 && (u64)1 << log < count) log++;
    return log;
}

DEVICE float power_of_two(i32 exponent) { return float_of((u32)(exponent + 127) << 23); }

// log2 of the scale of the fixed-point sums, which follows from the largest |dout| and |weight|. It is NOT_FINITE if one of
// these two is not finite.
constexpr i32 NOT_FINITE = 1000;

DEVICE i32 scale_of(DeformConvShape s, GLOBAL(const u32) largest) {
    i32 dout = (i32)(largest[0] >> 23), weight = (i32)(largest[1] >> 23);
    if (dout == 255 || weight == 255) return NOT_FINITE;
    // A value with this exponent is less than 2^(exponent - 126).
    i32 scale = 62 - (dout - 126) - (weight - 126) - whole_log2(TAPS * s.h * s.w) - whole_log2(s.co);
    return smaller(larger(scale, -120), 120);
}

// Adds the gradients of the offsets, of the mask logits and of the input. A block takes 64 pixels at one tap. Grid: x counts
// tiles of pixels, y counts taps. g is computed for 64 channels at a time; then each warp takes pixels of its own, and its
// lanes take neighbouring channels. The weights are packed by conv.cu as [tap][co][ci filled up to BN]. BY_FOUR states that
// DEPTH divides co, and four the stride of dout.
template <bool BY_FOUR>
DEVICE void deform_conv_backward_samples(DeformConvShape s, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) offsets,
                                         u32 offsets_stride, GLOBAL(const f32) weights, u32 weights_stride,
                                         GLOBAL(const f32) dout, u32 dout_stride, GLOBAL(const u32) largest, GLOBAL(u64) fixed,
                                         GLOBAL(f32) doffsets, u32 doffsets_stride) {
    constexpr u32 G_PITCH = BN + 4, FACTORS = 8;
    SHARED(f32, left, 2 * DEPTH * PITCH);
    SHARED(f32, right, 2 * DEPTH * BN);
    SHARED(f32, g, BM * G_PITCH);
    SHARED(u32, corners, BM * 4);
    SHARED(u32, inside, BM);
    SHARED(f32, factors, BM * FACTORS); // four bilinear weights, ly, lx, mask
    u32 thread = thread_index(), lane = thread % 32, warp = thread / 32;
    u32 first = block_x() * BM, tap = block_y(), pixels = s.n * s.h * s.w;
    i32 exponent = scale_of(s, largest);
    f32 scale = power_of_two(exponent == NOT_FINITE ? 0 : exponent);
    if (thread < BM) {
        u32 pixel = smaller(first + thread, pixels - 1);
        u64 offset = (u64)pixel * offsets_stride;
        f32 dy = offsets[offset + 2 * tap], dx = offsets[offset + 2 * tap + 1], logit = offsets[offset + 2 * TAPS + tap];
        Sample sample = sample_at(s, pixel, tap, dy, dx, logit);
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            corners[thread * 4 + i] = sample.corners[i];
            factors[thread * FACTORS + i] = sample.bilinear[i];
        }
        factors[thread * FACTORS + 4] = sample.ly;
        factors[thread * FACTORS + 5] = sample.lx;
        factors[thread * FACTORS + 6] = sample.mask;
        inside[thread] = sample.inside;
    }
    // The sums over channels for the warp's pixels: lane 0 holds d(dy), lane 1 holds d(dx), and lane 2 holds dm.
    constexpr u32 OWN = BM / (THREADS / 32);
    f32 slopes[OWN];
    UNROLL
    for (u32 p = 0; p < OWN; p++) slopes[p] = 0;

    u32 pixel = smaller(first + thread / 2, pixels - 1), k = thread % 2 * 4, steps = divide_up(s.co, DEPTH);
    NO_UNROLL
    for (u32 first_c = 0; first_c < s.ci; first_c += BN) {
        f32 sums[TM][TN];
        clear(sums);
        u64 dout_index = (u64)pixel * dout_stride + k;
        u32 weight_place = ((tap * s.co + thread / (BN / 4)) * weights_stride + first_c) / 4 + thread % (BN / 4);
        store_transposed(four_of<BY_FOUR>(dout, dout_index, k, s.co), left, 0);
        store4(right, thread * 4, load4(weights, (u64)weight_place * 4));
        block_sync();
        u32 half = 0;
        NO_UNROLL
        for (u32 done = DEPTH; done <= steps * DEPTH; done += DEPTH) {
            bool more = done < steps * DEPTH;
            f32x4 gradient = {0, 0, 0, 0}, weight = {0, 0, 0, 0};
            if (more) {
                gradient = four_of<BY_FOUR>(dout, dout_index + done, k + done, s.co);
                weight_place += DEPTH / 4 * weights_stride;
                weight = load4(weights, (u64)weight_place * 4);
            }
            multiply<PITCH>(left, right, half, sums);
            half = 1 - half;
            if (more) {
                store_transposed(gradient, left, half * (DEPTH * PITCH));
                store4(right, half * (DEPTH * BN) + thread * 4, weight);
            }
            block_sync();
        }
        UNROLL
        for (u32 i = 0; i < TM; i++) {
            UNROLL
            for (u32 j = 0; j < TN; j += 4) {
                f32x4 four = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
                store4(g, (thread_row() + i) * G_PITCH + thread_column() + j / 4 * (BN / TN * 4), four);
            }
        }
        block_sync();
        UNROLL
        for (u32 p = 0; p < OWN; p++) {
            u32 own = warp * OWN + p, mask_of = inside[own];
            f32 ly = factors[own * FACTORS + 4], lx = factors[own * FACTORS + 5], mask = factors[own * FACTORS + 6];
            f32 dy = 0, dx = 0, dm = 0;
            NO_UNROLL
            for (u32 i = lane; i < BN; i += 32) {
                u32 c = first_c + i;
                if (c >= s.ci || first + own >= pixels) continue;
                f32 gradient = g[own * G_PITCH + i], v[4], sample = 0;
                UNROLL
                for (u32 l = 0; l < 4; l++) {
                    u32 corner = corners[own * 4 + l];
                    f32 weight = factors[own * FACTORS + l];
                    v[l] = mask_of >> l & 1 ? inp[(u64)corner * inp_stride + c] : 0;
                    sample = multiply_add(weight, v[l], sample);
                    f32 part = weight * mask * gradient * scale;
                    if (part != 0) atomic_add(fixed, (u64)corner * s.ci + c, (u64)(i64)part);
                }
                dm = multiply_add(gradient, sample, dm);
                dy = multiply_add(gradient, multiply_add(1 - lx, v[2] - v[0], lx * (v[3] - v[1])), dy);
                dx = multiply_add(gradient, multiply_add(1 - ly, v[1] - v[0], ly * (v[3] - v[2])), dx);
            }
            UNROLL
            for (u32 step = 16; step > 0; step /= 2) {
                dy = dy + shuffle_xor(dy, step);
                dx = dx + shuffle_xor(dx, step);
                dm = dm + shuffle_xor(dm, step);
            }
            slopes[p] = slopes[p] + (lane == 0 ? dy : lane == 1 ? dx : dm);
        }
    }
    UNROLL
    for (u32 p = 0; p < OWN; p++) {
        u32 own = warp * OWN + p;
        f32 mask = factors[own * FACTORS + 6];
        if (lane >= 3 || first + own >= pixels) continue;
        u64 to = (u64)(first + own) * doffsets_stride + (lane < 2 ? 2 * tap + lane : 2 * TAPS + tap);
        doffsets[to] = doffsets[to] + slopes[p] * (lane < 2 ? mask : mask * (1 - mask));
    }
}

#define DEFORM_CONV_BACKWARD_SAMPLES(name, BY_FOUR)                                                                            \
    KERNEL(128, 4)                                                                                                             \
    name(DeformConvShape s, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) offsets, u32 offsets_stride,              \
         GLOBAL(const f32) weights, u32 weights_stride, GLOBAL(const f32) dout, u32 dout_stride, GLOBAL(const u32) largest,    \
         GLOBAL(u64) fixed, GLOBAL(f32) doffsets, u32 doffsets_stride) {                                                       \
        deform_conv_backward_samples<BY_FOUR>(s, inp, inp_stride, offsets, offsets_stride, weights, weights_stride, dout,      \
                                              dout_stride, largest, fixed, doffsets, doffsets_stride);                         \
    }
DEFORM_CONV_BACKWARD_SAMPLES(deform_conv_backward_samples_64x64, true)
DEFORM_CONV_BACKWARD_SAMPLES(deform_conv_backward_samples_any_64x64, false)

// dinp += the fixed-point sums, turned back into floats.
KERNEL(256, 4)
deform_conv_add_input(DeformConvShape s, GLOBAL(const u32) largest, GLOBAL(const u64) fixed, GLOBAL(f32) dinp,
                      u32 dinp_stride) {
    i32 exponent = scale_of(s, largest);
    f32 unit = exponent == NOT_FINITE ? float_of(0x7fc00000u) : power_of_two(-exponent);
    FOR_EACH(i, s.n * s.h * s.w * s.ci) {
        u64 to = (u64)(i / s.ci) * dinp_stride + i % s.ci;
        dinp[to] = dinp[to] + (f32)(i64)fixed[i] * unit;
    }
}

// Loads the values that a thread copies for a tile of 8 pixels. The thread has pixel `at` of a run of `count` pixels.
template <bool BY_FOUR>
DEVICE void load_weights_tile(DeformConvShape s, Neighbours& neighbours, f32x4& gradient, SHARED_POINTER(u32) places, u32 at,
                              u32 place, GLOBAL(const f32) inp, GLOBAL(const f32) dout, u64 dout_index, u32 o, u32 count) {
    constexpr u32 RUN = THREADS;
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        u32 from = places[i * RUN + at] + place;
        if (BY_FOUR) neighbours.values[i] = load4(inp, (u64)from * 4);
        else neighbours.values[i] = four_of<false>(inp, from, place, s.ci);
    }
    gradient = {0, 0, 0, 0};
    if (at < count) gradient = four_of<BY_FOUR>(dout, dout_index, o, s.co);
}

// A block computes 64 channels of one tap by 64 output channels, summed over the pixels of one part. Grid: x counts taps and
// tiles of channels, y counts tiles of output channels, z counts parts. The places of the samples are found for 128 pixels at
// once. The sums are written as [part][tap][ci][co filled up to fours]. BY_FOUR states that four divides ci, co, and the
// strides of both maps; without it, the host sees to it that the input's buffer has less than 2^32 values.
template <bool BY_FOUR>
DEVICE void deform_conv_weights(DeformConvShape s, u32 part_pixels, GLOBAL(const f32) inp, u32 inp_stride,
                                GLOBAL(const f32) offsets, u32 offsets_stride, GLOBAL(const f32) dout, u32 dout_stride,
                                GLOBAL(f32) parts) {
    constexpr u32 RUN = THREADS;
    SHARED(f32, left, 2 * DEPTH * BM);
    SHARED(f32, right, 2 * DEPTH * BN);
    SHARED(u32, places, 4 * RUN); // where the neighbours' values lie, with BY_FOUR counted in fours
    SHARED(f32, masked, 4 * RUN); // the neighbours' weights times the mask, four for each pixel
    u32 thread = thread_index(), tiles = divide_up(s.ci, BM), tap = block_x() / tiles, first_c = block_x() % tiles * BM;
    u32 pixels = s.n * s.h * s.w, end = smaller((block_z() + 1) * part_pixels, pixels);
    // This thread's pixel of a tile, and its four channels of either map.
    u32 slot = thread / (BM / 4), c = first_c + thread % (BM / 4) * 4, o = block_y() * BN + thread % (BN / 4) * 4;
    u32 known_c = smaller(c, (s.ci - 1) / 4 * 4); // beyond the last channel it takes others, whose sums are not written
    u32 place = BY_FOUR ? known_c / 4 : known_c;
    f32 sums[TM][TN];
    clear(sums);
    u32 half = 0;
    NO_UNROLL
    for (u32 run = block_z() * part_pixels; run < end; run += RUN) {
        u32 pixel = smaller(run + thread, pixels - 1), count = smaller(end - run, RUN);
        u64 offset = (u64)pixel * offsets_stride;
        f32 dy = offsets[offset + 2 * tap], dx = offsets[offset + 2 * tap + 1], logit = offsets[offset + 2 * TAPS + tap];
        Sample sample = sample_at(s, pixel, tap, dy, dx, logit);
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            places[i * RUN + thread] = sample.corners[i] * (BY_FOUR ? inp_stride / 4 : inp_stride);
            masked[thread * 4 + i] = thread < count ? sample.bilinear[i] * sample.mask : 0;
        }
        block_sync();
        u32 at = slot;
        u64 dout_index = (u64)(run + slot) * dout_stride + o;
        Neighbours neighbours;
        f32x4 gradient;
        load_weights_tile<BY_FOUR>(s, neighbours, gradient, places, at, place, inp, dout, dout_index, o, count);
        f32x4 weights = load4(masked, at * 4);
        store4(left, half * (DEPTH * BM) + thread * 4, weighted(neighbours, weights));
        store4(right, half * (DEPTH * BN) + thread * 4, gradient);
        block_sync();
        NO_UNROLL
        for (u32 done = DEPTH; done < count; done += DEPTH) {
            at += DEPTH;
            dout_index += (u64)DEPTH * dout_stride;
            load_weights_tile<BY_FOUR>(s, neighbours, gradient, places, at, place, inp, dout, dout_index, o, count);
            multiply<BM>(left, right, half, sums);
            half = 1 - half;
            weights = load4(masked, at * 4);
            store4(left, half * (DEPTH * BM) + thread * 4, weighted(neighbours, weights));
            store4(right, half * (DEPTH * BN) + thread * 4, gradient);
            block_sync();
        }
        multiply<BM>(left, right, half, sums);
        half = 1 - half;
        block_sync();
    }
    u32 columns = divide_up(s.co, 4u) * 4;
    UNROLL
    for (u32 i = 0; i < TM; i++) {
        u32 row = first_c + thread_row() + i;
        if (row >= s.ci) continue;
        UNROLL
        for (u32 j = 0; j < TN; j += 4) {
            u32 column = block_y() * BN + thread_column() + j / 4 * (BN / TN * 4);
            f32x4 sum = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
            if (column < columns) store4(parts, (((u64)block_z() * TAPS + tap) * s.ci + row) * columns + column, sum);
        }
    }
}

#define DEFORM_CONV_WEIGHTS(name, BY_FOUR)                                                                                     \
    KERNEL(128, 4)                                                                                                             \
    name(DeformConvShape s, u32 part_pixels, GLOBAL(const f32) inp, u32 inp_stride, GLOBAL(const f32) offsets,                 \
         u32 offsets_stride, GLOBAL(const f32) dout, u32 dout_stride, GLOBAL(f32) parts) {                                     \
        deform_conv_weights<BY_FOUR>(s, part_pixels, inp, inp_stride, offsets, offsets_stride, dout, dout_stride, parts);      \
    }
DEFORM_CONV_WEIGHTS(deform_conv_weights_64x64, true)
DEFORM_CONV_WEIGHTS(deform_conv_weights_any_64x64, false)
