// The losses that training minimises: their values and their gradients. Host side: src/ops/losses.rs.
//   p = clamp(sigmoid(z), 1e-4, 1 - 1e-4), y is the target, positives are the pixels with y = 1, N is their number,
//   w = (1 - y)^4
//   focal            -( sum over positives (1-p)^2 ln p + sum over others w p^2 ln(1-p) ) / N
//   sparse-original  -( sum over positives (1-p)^2 ln p + 0.01 sum over others w (p > 0.7 ? ln p : ln(1-p)) ) / N
//                    without positives, only the terms with ln(1-p) count, and nothing is divided
//   sparse           as focal, with m in place of w: src/ops/losses/sparse.rs says what m is
//   L1               sum over objects (|a0 - t0| + |a1 - t1|) / (2 objects + 1e-4), a at the object's pixel
//   distance         weight * sum (a - b)^2
// Everything is computed in f64 and always added in the same order: first the threads of a block, then the blocks. Each loss
// has a kernel for its sums, a kernel of one block that adds them, and a kernel for the gradient, which needs the number of
// objects.
// Source: as in src/ops/losses.rs.
#include "kernel.h"

constexpr u32 LOSSES_THREADS = 256;
// Which of the heat map's losses is computed: this one, or 1 for sparse-original. The sparse loss, which needs memory of its
// own, has its own kernels.
constexpr u32 LOSSES_FOCAL = 0;
// How far the sigmoid is kept from 0 and 1; above which score an unlabelled pixel counts as an object; and with which weight
// unlabelled pixels count.
constexpr f64 LOSSES_CLAMP = 1e-4, LOSSES_SPARSE_THRESHOLD = 0.7, LOSSES_SPARSE_WEIGHT = 0.01;
// The cell of a label that is no object.
constexpr u32 LOSSES_NO_OBJECT = 0xffffffff;

// What one pixel of the heat map contributes: its term of the sum and the slope of that term, both without the sign and the
// division.
struct LossesTerm {
    f64 value, slope;
    u32 seeming; // 1: the term counts only where there are positives
};

DEVICE f64 losses_sigmoid(f64 z) { return 1 / (1 + exponential(-z)); }
DEVICE f64 losses_clamp(f64 raw) { return smaller(larger(raw, LOSSES_CLAMP), 1 - LOSSES_CLAMP); }
// No gradient flows back from outside of the clamp.
DEVICE bool losses_flows(f64 raw) { return raw >= LOSSES_CLAMP && raw <= 1 - LOSSES_CLAMP; }
DEVICE f64 losses_far(f64 y) { return (1 - y) * (1 - y) * ((1 - y) * (1 - y)); }

// The focal terms: one for a positive, one for background.
DEVICE LossesTerm losses_found(f64 p) {
    f64 q = 1 - p, log_p = natural_log(p);
    return {q * q * log_p, q * q * q - 2 * p * (q * q) * log_p, 0};
}
DEVICE LossesTerm losses_left_out(f64 p) {
    f64 q = 1 - p, log_q = natural_log(q);
    return {p * p * log_q, 2 * p * p * q * log_q - p * p * p, 0};
}
DEVICE LossesTerm losses_scaled(f64 by, LossesTerm term) { return {by * term.value, by * term.slope, term.seeming}; }

DEVICE LossesTerm losses_heat_map_term(u32 kind, f64 p, f64 y) {
    if (y == 1) return losses_found(p);
    if (kind == LOSSES_FOCAL) return losses_scaled(losses_far(y), losses_left_out(p));
    f64 weight = LOSSES_SPARSE_WEIGHT * losses_far(y);
    if (p > LOSSES_SPARSE_THRESHOLD) return {weight * natural_log(p), weight * (1 - p), 1};
    return {weight * natural_log(1 - p), -weight * p, 0};
}

// Writes three sums for each block: of the terms that always count, of the terms that count only with positives, and the
// number of positives.
KERNEL(256, 2)
losses_heat_map_sums(u32 count, u32 kind, GLOBAL(const f32) logits, u32 logits_stride, GLOBAL(const f32) targets,
                     GLOBAL(f64) partial) {
    SHARED(f64, scratch, LOSSES_THREADS);
    f64 sure = 0, seeming = 0, positives = 0;
    FOR_EACH(i, count) {
        f64 y = (f64)targets[i];
        LossesTerm term = losses_heat_map_term(kind, losses_clamp(losses_sigmoid((f64)logits[(u64)i * logits_stride])), y);
        sure -= term.seeming ? 0 : term.value;
        seeming -= term.seeming ? term.value : 0;
        positives += y == 1 ? 1 : 0;
    }
    sure = block_sum<LOSSES_THREADS>(sure, scratch);
    seeming = block_sum<LOSSES_THREADS>(seeming, scratch);
    positives = block_sum<LOSSES_THREADS>(positives, scratch);
    if (thread_index() == 0) {
        partial[3 * (u64)block_x()] = sure;
        partial[3 * (u64)block_x() + 1] = seeming;
        partial[3 * (u64)block_x() + 2] = positives;
    }
}

// Adds `parts` values of `partial` that lie `apart` from each other, from `first` on, always in the same order. All threads
// of the block get the sum.
DEVICE f64 losses_add_parts(GLOBAL(const f64) partial, u32 parts, u32 apart, u32 first, SHARED_POINTER(f64) scratch) {
    f64 sum = 0;
    for (u32 part = thread_index(); part < parts; part += LOSSES_THREADS) sum += partial[(u64)part * apart + first];
    return block_sum<LOSSES_THREADS>(sum, scratch);
}

// One block writes `loss` [1] and `counts` [2]: the number of positives, and 1 / max(positives, 1).
KERNEL(256, 2)
losses_heat_map_total(u32 parts, GLOBAL(const f64) partial, GLOBAL(f64) loss, GLOBAL(f64) counts) {
    SHARED(f64, scratch, LOSSES_THREADS);
    f64 sure = losses_add_parts(partial, parts, 3, 0, scratch), seeming = losses_add_parts(partial, parts, 3, 1, scratch);
    f64 positives = losses_add_parts(partial, parts, 3, 2, scratch);
    if (thread_index() == 0) {
        f64 scale = 1 / larger(positives, 1.0);
        counts[0] = positives;
        counts[1] = scale;
        loss[0] = (sure + (positives > 0 ? seeming : 0)) * scale;
    }
}

// Adds `weight` times the gradient to `dlogits`.
KERNEL(256, 2)
losses_heat_map_gradient(u32 count, u32 kind, f64 weight, GLOBAL(const f32) logits, u32 logits_stride,
                         GLOBAL(const f32) targets, GLOBAL(const f64) counts, GLOBAL(f32) dlogits, u32 dlogits_stride) {
    FOR_EACH(i, count) {
        f64 raw = losses_sigmoid((f64)logits[(u64)i * logits_stride]);
        LossesTerm term = losses_heat_map_term(kind, losses_clamp(raw), (f64)targets[i]);
        u64 at = (u64)i * dlogits_stride;
        if (losses_flows(raw) && !(term.seeming && counts[0] == 0)) {
            dlogits[at] = dlogits[at] + (f32)(-term.slope * counts[1] * weight);
        }
    }
}

// The sparse loss. Its maps are packed: one value for each pixel.
struct LossesSparse {
    u32 images, h, w, radius;
};

// Writes the scores of all pixels, and once more those of the positives, in any order, because these are only counted.
// `found` [1] must be 0 before the call.
KERNEL(256, 2)
losses_sparse_scores(LossesSparse s, GLOBAL(const f32) logits, GLOBAL(const f32) targets, GLOBAL(f64) scores, GLOBAL(f64) labelled,
                     GLOBAL(u32) found) {
    FOR_EACH(i, s.images * s.h * s.w) {
        f64 p = losses_clamp(losses_sigmoid((f64)logits[i]));
        scores[i] = p;
        if ((f64)targets[i] == 1) labelled[atomic_add(found, 0, 1)] = p;
    }
}

// Writes how likely each pixel is the centre of an object without a label, which is 0 for most pixels, and each block's sum
// of that.
KERNEL(256, 2)
losses_sparse_guess(LossesSparse s, GLOBAL(const f32) targets, GLOBAL(const f64) scores, GLOBAL(const f64) labelled,
                    GLOBAL(const u32) found, GLOBAL(f64) guesses, GLOBAL(f64) partial) {
    SHARED(f64, scratch, LOSSES_THREADS);
    u32 positives = found[0];
    f64 sum = 0;
    FOR_EACH(i, s.images * s.h * s.w) {
        u32 column = i % s.w, row = i / s.w % s.h, image = i / s.w / s.h;
        f64 p = scores[i];
        bool peak = !((f64)targets[i] > 0);
        for (u32 y = row - smaller(row, 1u); peak && y <= smaller(row + 1, s.h - 1); y++) {
            for (u32 x = column - smaller(column, 1u); x <= smaller(column + 1, s.w - 1); x++) {
                if (scores[(image * s.h + y) * s.w + x] > p) peak = false;
            }
        }
        f64 guess = 0;
        if (peak) {
            u32 lower = positives == 0 && p >= 0.5 ? 1 : 0; // without positives, one score of 1/2 stands for them
            for (u32 k = 0; k < positives; k++) lower += labelled[k] <= p ? 1 : 0;
            guess = (f64)lower / (f64)larger(positives, 1u);
        }
        guesses[i] = guess;
        sum += guess;
    }
    sum = block_sum<LOSSES_THREADS>(sum, scratch);
    if (thread_index() == 0) partial[block_x()] = sum;
}

// One block writes `counts` [3]: the number of positives, 1 / max(positives, 1), and the share of the objects that have a
// label.
KERNEL(256, 2)
losses_sparse_share(u32 parts, GLOBAL(const f64) partial, GLOBAL(const u32) found, GLOBAL(f64) counts) {
    SHARED(f64, scratch, LOSSES_THREADS);
    f64 guessed = losses_add_parts(partial, parts, 1, 0, scratch), objects = (f64)larger(found[0], 1u);
    if (thread_index() == 0) {
        counts[0] = (f64)found[0];
        counts[1] = 1 / objects;
        counts[2] = objects / (objects + guessed);
    }
}

// Writes the weight with which each pixel counts (1 at positives), and each block's sum of the weighted terms.
KERNEL(256, 2)
losses_sparse_sums(LossesSparse s, GLOBAL(const f32) targets, GLOBAL(const f64) scores, GLOBAL(const f64) guesses,
                   GLOBAL(const f64) counts, GLOBAL(f64) weights, GLOBAL(f64) partial) {
    SHARED(f64, scratch, LOSSES_THREADS);
    f64 sum = 0, sigma = (f64)(2 * s.radius + 1) / 6;
    FOR_EACH(i, s.images * s.h * s.w) {
        u32 column = i % s.w, row = i / s.w % s.h, image = i / s.w / s.h;
        f64 y = (f64)targets[i], weight = 1;
        if (y != 1) {
            f64 guess = 0;
            for (u32 yy = row - smaller(row, s.radius); yy <= smaller(row + s.radius, s.h - 1); yy++) {
                for (u32 xx = column - smaller(column, s.radius); xx <= smaller(column + s.radius, s.w - 1); xx++) {
                    f64 q = guesses[(image * s.h + yy) * s.w + xx], dx = (f64)xx - (f64)column, dy = (f64)yy - (f64)row;
                    if (q > 0) guess = larger(guess, q * exponential(-(dx * dx + dy * dy) / (2 * sigma * sigma)));
                }
            }
            weight = losses_far(y) * losses_far(guess) * (y == 0 ? counts[2] : 1);
        }
        LossesTerm term = y == 1 ? losses_found(scores[i]) : losses_left_out(scores[i]);
        weights[i] = weight;
        sum -= weight * term.value;
    }
    sum = block_sum<LOSSES_THREADS>(sum, scratch);
    if (thread_index() == 0) partial[block_x()] = sum;
}

// One block writes `loss` [1].
KERNEL(256, 2) losses_sparse_total(u32 parts, GLOBAL(const f64) partial, GLOBAL(const f64) counts, GLOBAL(f64) loss) {
    SHARED(f64, scratch, LOSSES_THREADS);
    f64 sum = losses_add_parts(partial, parts, 1, 0, scratch);
    if (thread_index() == 0) loss[0] = sum * counts[1];
}

// Adds `factor` times the gradient to `dlogits`.
KERNEL(256, 2)
losses_sparse_gradient(LossesSparse s, f64 factor, GLOBAL(const f32) logits, GLOBAL(const f32) targets, GLOBAL(const f64) counts,
                       GLOBAL(const f64) weights, GLOBAL(f32) dlogits) {
    FOR_EACH(i, s.images * s.h * s.w) {
        f64 raw = losses_sigmoid((f64)logits[i]), p = losses_clamp(raw);
        if (!losses_flows(raw)) continue;
        LossesTerm term = (f64)targets[i] == 1 ? losses_found(p) : losses_left_out(p);
        dlogits[i] = dlogits[i] + (f32)(-weights[i] * term.slope * counts[1] * factor);
    }
}

// `cells` [objects] are pixels counted through all images, or LOSSES_NO_OBJECT. `wanted` [objects][4] holds four values for
// each object, and this loss takes two of them, from `first` on. One block writes `loss` [1] and `counts` [2]: the number of
// objects, and 1 / (2 objects + 1e-4).
KERNEL(256, 2)
losses_l1_total(u32 objects, u32 first, GLOBAL(const u32) cells, GLOBAL(const raw_f32) wanted, GLOBAL(const f32) map, u32 map_stride,
                GLOBAL(f64) loss, GLOBAL(f64) counts) {
    SHARED(f64, scratch, LOSSES_THREADS);
    f64 sum = 0, count = 0;
    for (u32 i = thread_index(); i < objects; i += LOSSES_THREADS) {
        if (cells[i] == LOSSES_NO_OBJECT) continue;
        count += 1;
        for (u32 axis = 0; axis < 2; axis++) {
            f64 difference = (f64)map[(u64)cells[i] * map_stride + axis] - (f64)wanted[4 * (u64)i + first + axis];
            sum += larger(difference, -difference);
        }
    }
    sum = block_sum<LOSSES_THREADS>(sum, scratch);
    count = block_sum<LOSSES_THREADS>(count, scratch);
    if (thread_index() == 0) {
        f64 scale = 1 / (2 * count + 1e-4);
        counts[0] = count;
        counts[1] = scale;
        loss[0] = sum * scale;
    }
}

// Adds `weight` times the gradient to `dmap`. Where several objects share a pixel, the thread of the first one adds for all
// of them, in their order.
KERNEL(256, 2)
losses_l1_gradient(u32 objects, u32 first, f64 weight, GLOBAL(const u32) cells, GLOBAL(const raw_f32) wanted, GLOBAL(const f32) map,
                   u32 map_stride, GLOBAL(const f64) counts, GLOBAL(f32) dmap, u32 dmap_stride) {
    FOR_EACH(i, objects) {
        u32 cell = cells[i], earlier = 0;
        if (cell == LOSSES_NO_OBJECT) continue;
        while (earlier < i && cells[earlier] != cell) earlier++;
        if (earlier < i) continue;
        for (u32 axis = 0; axis < 2; axis++) {
            f64 value = (f64)map[(u64)cell * map_stride + axis];
            f32 sum = dmap[(u64)cell * dmap_stride + axis];
            for (u32 k = i; k < objects; k++) {
                if (cells[k] != cell) continue;
                f64 difference = value - (f64)wanted[4 * (u64)k + first + axis];
                f64 sign = difference > 0 ? 1 : difference < 0 ? -1 : 0;
                sum = sum + (f32)(sign * counts[1] * weight);
            }
            dmap[(u64)cell * dmap_stride + axis] = sum;
        }
    }
}

// Adds the gradient of `weight` times the squared distance of two maps, and writes each block's sum of squares.
KERNEL(256, 2)
losses_map_distance(u32 pixels, u32 c, f64 weight, GLOBAL(const f32) a, u32 a_stride, GLOBAL(const f32) b, u32 b_stride,
                    GLOBAL(f32) da, u32 da_stride, GLOBAL(f64) partial) {
    SHARED(f64, scratch, LOSSES_THREADS);
    f64 sum = 0;
    FOR_EACH(i, pixels * c) {
        u32 pixel = i / c, ch = i % c;
        f64 difference = (f64)a[(u64)pixel * a_stride + ch] - (f64)b[(u64)pixel * b_stride + ch];
        sum = multiply_add(difference, difference, sum);
        u64 at = (u64)pixel * da_stride + ch;
        da[at] = da[at] + (f32)(2 * weight * difference);
    }
    sum = block_sum<LOSSES_THREADS>(sum, scratch);
    if (thread_index() == 0) partial[block_x()] = sum;
}

// Does the same for ranges of parameters: `ranges` [block][2] holds the first value of a block's range, and the number of its
// values.
KERNEL(256, 2)
losses_parameter_distance(f64 weight, GLOBAL(const u32) ranges, GLOBAL(const f32) a, GLOBAL(const f32) b, GLOBAL(f32) da,
                          GLOBAL(f64) partial) {
    SHARED(f64, scratch, LOSSES_THREADS);
    u32 first = ranges[2 * (u64)block_x()], count = ranges[2 * (u64)block_x() + 1];
    f64 sum = 0;
    for (u32 i = first + thread_index(); i < first + count; i += LOSSES_THREADS) {
        f64 difference = (f64)a[i] - (f64)b[i];
        sum = multiply_add(difference, difference, sum);
        da[i] = da[i] + (f32)(2 * weight * difference);
    }
    sum = block_sum<LOSSES_THREADS>(sum, scratch);
    if (thread_index() == 0) partial[block_x()] = sum;
}

// One block sets `loss` [1] to `weight` times the sum of the parts, or adds that to it.
KERNEL(256, 2) losses_distance_total(u32 parts, u32 add, f64 weight, GLOBAL(const f64) partial, GLOBAL(f64) loss) {
    SHARED(f64, scratch, LOSSES_THREADS);
    f64 sum = losses_add_parts(partial, parts, 1, 0, scratch);
    if (thread_index() == 0) loss[0] = (add ? loss[0] : 0) + weight * sum;
}
