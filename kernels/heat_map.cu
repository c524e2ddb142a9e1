// Peaks of the heat map, sorted. Host side: src/ops/heat_map.rs.
//   score  1 / (1 + exp(-logit)), rounded as the CPU rounds it; everything is decided on scores
//   peak   a pixel whose score no neighbour in its 3x3 window exceeds; a NaN is no peak and hides none
//   order  score descending, then index ascending; the first k are kept
// There are two kernels: one finds the peaks of every tile, and another, of one block, chooses among them and sorts. A key is
// (score, ~index), so no two keys are equal, and the result does not depend on the order in which peaks are found. There is
// no backward: nothing is learnt through peaks.
// Source: as in src/ops/heat_map.rs.
#include "kernel.h"

constexpr u32 HEAT_MAP_TILE = 16;
constexpr u32 HEAT_MAP_RING = HEAT_MAP_TILE + 2;
// How many threads the block has that sorts.
constexpr u32 HEAT_MAP_SORTERS = 1024;
// How many bits a digit has. The k-th key is looked for digit by digit, in 6 digits.
constexpr u32 HEAT_MAP_DIGIT_BITS = 11;
constexpr u32 HEAT_MAP_BINS = 1 << HEAT_MAP_DIGIT_BITS;
// How many keys can be sorted in shared memory.
constexpr u32 HEAT_MAP_SHARED_KEYS = 2048;

struct HeatMapShape {
    u32 h, w, k;
};

// Each step is rounded to a float, as on the CPU. The exponential is computed in f64, so that its own error is gone once it
// is rounded.
DEVICE raw_f32 heat_map_score(raw_f32 logit) {
    raw_f32 power = (raw_f32)exponential(-(f64)logit);
    return (raw_f32)1 / ((raw_f32)1 + power);
}

// Finds the peaks of each tile. Grid: x and y count tiles of 16 x 16 pixels. `counts` [tile] says how many peaks a tile has,
// and `keys` [tile][256] holds their keys.
KERNEL(256, 4)
heat_map_peaks(HeatMapShape s, GLOBAL(const f32) logits, u32 logits_stride, GLOBAL(u32) counts, GLOBAL(u64) keys) {
    SHARED(raw_f32, scores, HEAT_MAP_RING * HEAT_MAP_RING);
    SHARED(u32, count, 1);
    u32 thread = thread_index(), tile = block_y() * grid_x() + block_x();
    u32 x0 = block_x() * HEAT_MAP_TILE, y0 = block_y() * HEAT_MAP_TILE; // the tile's first pixel; its ring starts one pixel before
    if (thread == 0) count[0] = 0;
    for (u32 i = thread; i < HEAT_MAP_RING * HEAT_MAP_RING; i += 256) {
        u32 x = x0 + i % HEAT_MAP_RING, y = y0 + i / HEAT_MAP_RING; // both are one too large, so that none is negative
        bool inside = x >= 1 && y >= 1 && x <= s.w && y <= s.h;
        // A pixel outside of the map gets a value that is less than any score.
        scores[i] = inside ? heat_map_score((raw_f32)logits[(u64)((y - 1) * s.w + x - 1) * logits_stride]) : (raw_f32)-1;
    }
    block_sync();
    u32 column = thread % HEAT_MAP_TILE, row = thread / HEAT_MAP_TILE;
    if (x0 + column < s.w && y0 + row < s.h) {
        raw_f32 score = scores[(row + 1) * HEAT_MAP_RING + column + 1];
        bool peak = score == score;
        for (u32 i = 0; i < 9; i++) {
            if (scores[(row + i / 3) * HEAT_MAP_RING + column + i % 3] > score) peak = false;
        }
        if (peak) {
            u32 index = (y0 + row) * s.w + x0 + column;
            u32 place = atomic_add(count, 0, 1);
            keys[(u64)tile * 256 + place] = (u64)bits_of(score) << 32 | (u32)~index;
        }
    }
    block_sync();
    if (thread == 0) counts[tile] = count[0];
}

// Sorts `count` keys (a power of two), the largest first, by Batcher's bitonic network.
template <class Keys> DEVICE void heat_map_sort(Keys& keys, u32 count) {
    for (u32 size = 2; size <= count; size *= 2) {
        for (u32 step = size / 2; step > 0; step /= 2) {
            for (u32 pair = thread_index(); pair < count / 2; pair += HEAT_MAP_SORTERS) {
                u32 left = pair / step * 2 * step + pair % step;
                u64 a = keys[left], b = keys[left + step];
                bool falling = (left & size) == 0;
                if ((a < b) == falling) keys[left] = b, keys[left + step] = a;
            }
            block_sync();
        }
    }
}

template <class Keys> DEVICE void heat_map_write(Keys& keys, u32 count, GLOBAL(u32) indices, GLOBAL(raw_f32) scores) {
    for (u32 i = thread_index(); i < count; i += HEAT_MAP_SORTERS) {
        u64 key = keys[i];
        indices[i] = ~(u32)key;
        scores[i] = float_of((u32)(key >> 32));
    }
}

// Chooses the k largest keys of all tiles and sorts them, in one block. `space` holds as many keys as the first power of two
// that is k or more; it is used where the keys do not fit into shared memory. `found` [1] becomes the number of keys that are
// kept, at most k.
KERNEL(1024, 1)
heat_map_select(HeatMapShape s, u32 tiles, GLOBAL(const u32) counts, GLOBAL(const u64) keys, GLOBAL(u64) space, GLOBAL(u32) found,
                GLOBAL(u32) indices, GLOBAL(raw_f32) scores) {
    SHARED(u32, bins, HEAT_MAP_BINS);
    SHARED(u32, sums, HEAT_MAP_SORTERS);
    SHARED(u64, sorted, HEAT_MAP_SHARED_KEYS);
    SHARED(u32, chosen, 3); // the digit, how many keys are still wanted from its bin, and whether the whole bin is wanted
    u32 thread = thread_index(), warp = thread / 32, lane = thread % 32;
    u32 mine = 0;
    for (u32 tile = thread; tile < tiles; tile += HEAT_MAP_SORTERS) mine += counts[tile];
    u32 total = block_sum<HEAT_MAP_SORTERS>(mine, sums);
    u32 kept = smaller(total, s.k);

    // Finds the k-th largest key, digit by digit from the top: all keys that are at least `lowest` are kept.
    u64 lowest = 0;
    u32 wanted = kept, shift = 64;
    bool whole = total <= s.k;
    while (!whole) { // the same in all threads
        u64 known = shift == 64 ? 0 : ~(u64)0 << shift; // the bits of `lowest` that are known by now
        shift = shift > HEAT_MAP_DIGIT_BITS ? shift - HEAT_MAP_DIGIT_BITS : 0;
        for (u32 bin = thread; bin < HEAT_MAP_BINS; bin += HEAT_MAP_SORTERS) bins[bin] = 0;
        block_sync();
        for (u32 tile = warp; tile < tiles; tile += HEAT_MAP_SORTERS / 32) {
            for (u32 i = lane; i < counts[tile]; i += 32) {
                u64 key = keys[(u64)tile * 256 + i];
                if ((key & known) == (lowest & known)) atomic_add(bins, (u32)(key >> shift) & (HEAT_MAP_BINS - 1), 1);
            }
        }
        block_sync();
        // How many keys lie in this thread's pair of bins and in the pairs above it. Pairs are counted from the top.
        u32 top = HEAT_MAP_BINS - 1 - 2 * thread, upper = bins[top], lower = bins[top - 1];
        u32 until = upper + lower;
        sums[thread] = until;
        block_sync();
        for (u32 step = 1; step < HEAT_MAP_SORTERS; step *= 2) {
            u32 before = thread >= step ? sums[thread - step] : 0;
            block_sync();
            until += before;
            sums[thread] = until;
            block_sync();
        }
        u32 above = until - upper - lower;
        if (above < wanted && wanted <= until) { // true in one thread: the wanted-th key lies in its pair
            bool in_upper = wanted <= above + upper;
            u32 rest = in_upper ? wanted - above : wanted - above - upper;
            chosen[0] = in_upper ? top : top - 1;
            chosen[1] = rest;
            chosen[2] = rest == (in_upper ? upper : lower);
        }
        block_sync();
        // The last digit overlaps the one before it. The bits that they share are the same in all keys that were counted.
        lowest |= (u64)chosen[0] << shift;
        wanted = chosen[1];
        whole = chosen[2] != 0 || shift == 0;
        block_sync();
    }

    // Collects the kept keys, in any order, and adds zeros up to a power of two. Every key is larger than 0, so the zeros end
    // up last.
    u32 room = 1;
    while (room < kept) room *= 2;
    bool shared = room <= HEAT_MAP_SHARED_KEYS;
    if (thread == 0) bins[0] = 0;
    block_sync();
    for (u32 tile = warp; tile < tiles; tile += HEAT_MAP_SORTERS / 32) {
        for (u32 i = lane; i < counts[tile]; i += 32) {
            u64 key = keys[(u64)tile * 256 + i];
            if (key < lowest) continue;
            u32 place = atomic_add(bins, 0, 1);
            if (shared) {
                sorted[place] = key;
            } else {
                space[place] = key;
            }
        }
    }
    for (u32 i = kept + thread; i < room; i += HEAT_MAP_SORTERS) {
        if (shared) {
            sorted[i] = 0;
        } else {
            space[i] = 0;
        }
    }
    block_sync();
    if (shared) {
        heat_map_sort(sorted, room);
        heat_map_write(sorted, kept, indices, scores);
    } else {
        heat_map_sort(space, room);
        heat_map_write(space, kept, indices, scores);
    }
    if (thread == 0) found[0] = kept;
}
