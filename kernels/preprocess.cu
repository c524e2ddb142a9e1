// From the pixels of a file (frame M) to the network's input (frame N): survey, adjust, crop, quantise, equalise,
// letterbox, normalise. Host side: src/preprocess/mod.rs, src/preprocess/fourier_crop.rs.
//   crop  D = Re(R) X Re(C)' - Im(R) X Im(C)'
// R takes the rows of pixels to the spectrum, keeps the frequencies that fit frame D, and comes back; C does the same to the
// columns. Im(R) is a sum of two products u v', so [Re(R) | -u] times [X Re(C)' ; v' X Im(C)'] is the whole crop: two
// products of matrices. A constant goes through the crop unchanged, and grey levels depend neither on a constant nor on a
// factor. So X is the image less its mean and divided by its deviation, which keeps the digits of an f32.
// Source: as in src/preprocess/mod.rs and src/preprocess/fourier_crop.rs.
#include "kernel.h"

constexpr u32 PREPROCESS_THREADS = 256;
// The types of pixels: i8, u8, i16, u16, f16. Any other number means f32.
constexpr u32 PREPROCESS_I8 = 0, PREPROCESS_U8 = 1, PREPROCESS_I16 = 2, PREPROCESS_U16 = 3, PREPROCESS_F16 = 4;
// If a micrograph has pixels more than CLIP deviations away from the mean, these are clipped. The deviation is that of the
// pixels within INNER deviations, which is found in at most ROUNDS rounds (src/preprocess/gpu.rs).
constexpr f64 PREPROCESS_CLIP = 20, PREPROCESS_INNER = 5;
constexpr f64 PREPROCESS_MOST = 1.7976931348623157e308;

// What a look at all pixels finds. The host reads these 17 numbers back.
enum PreprocessSurvey {
    SURVEY_LOW,         // the range that is measured next
    SURVEY_HIGH,
    SURVEY_DONE,        // 1: nothing more is measured
    SURVEY_COUNT,       // how many pixels are numbers
    SURVEY_MIN,
    SURVEY_MAX,
    SURVEY_MEAN,
    SURVEY_DEVIATION,
    SURVEY_INNER_MEAN,  // mean and deviation of the pixels that are not far out
    SURVEY_INNER_DEVIATION,
    SURVEY_ADJUST,      // 1: pixels are clipped to CLIP_LOW .. CLIP_HIGH, and those that are no numbers are replaced
    SURVEY_CLIP_LOW,
    SURVEY_CLIP_HIGH,
    SURVEY_REPLACEMENT,
    SURVEY_CLIPPED,     // 1: some pixels are hot
    SURVEY_CONSTANT,    // 1: all pixels that are numbers are equal
    SURVEY_SCALE,       // 1 divided by the deviation
};

// A pixel, taken from the words of the file. `words` consists of whole words, whatever the number of pixels.
DEVICE f64 preprocess_pixel(u32 kind, GLOBAL(const u32) words, u64 i) {
    if (kind <= PREPROCESS_U8) {
        u32 byte = words[i / 4] >> (u32)(i % 4) * 8 & 0xff;
        return kind == PREPROCESS_I8 ? (f64)(i8)byte : (f64)byte;
    }
    if (kind <= PREPROCESS_F16) {
        u32 half = words[i / 2] >> (u32)(i % 2) * 16 & 0xffff;
        if (kind == PREPROCESS_I16) return (f64)(i16)half;
        return kind == PREPROCESS_U16 ? (f64)half : (f64)half_to_float((u16)half);
    }
    return (f64)float_of(words[i]);
}

DEVICE bool preprocess_is_number(f64 value) { return value >= -PREPROCESS_MOST && value <= PREPROCESS_MOST; }

// The sums are of differences from the first pixel, because the squares of large values would drown small differences.
DEVICE f64 preprocess_pivot(u32 kind, GLOBAL(const u32) words) {
    f64 value = preprocess_pixel(kind, words, 0);
    return preprocess_is_number(value) ? value : 0;
}

// The smallest of a block's values; every thread gets it. Of negated values it is the largest one, negated.
DEVICE f64 preprocess_smallest(f64 value, SHARED_POINTER(f64) scratch) {
    u32 thread = thread_index();
    scratch[thread] = value;
    block_sync();
    for (u32 step = PREPROCESS_THREADS / 2; step > 0; step /= 2) {
        if (thread < step) scratch[thread] = smaller(scratch[thread], scratch[thread + step]);
        block_sync();
    }
    f64 least = scratch[0];
    block_sync();
    return least;
}

// Writes `partial` [block][5]: count, sum, squares, min and max of the pixels in the survey's range or, if `first`, of all
// numbers.
KERNEL(256, 2)
preprocess_measure(u32 pixels, u32 kind, u32 first, GLOBAL(const u32) words, GLOBAL(const f64) survey, GLOBAL(f64) partial) {
    SHARED(f64, scratch, PREPROCESS_THREADS);
    f64 low = -PREPROCESS_MOST, high = PREPROCESS_MOST, pivot = preprocess_pivot(kind, words);
    if (!first) {
        low = survey[SURVEY_LOW], high = survey[SURVEY_HIGH];
        if (survey[SURVEY_DONE] == 1) pixels = 0;
    }
    f64 count = 0, sum = 0, squares = 0, least = PREPROCESS_MOST, most = -PREPROCESS_MOST;
    FOR_EACH(i, pixels) {
        f64 value = preprocess_pixel(kind, words, i);
        if (value >= low && value <= high) { // a NaN is in no range
            f64 offset = value - pivot;
            count += 1;
            sum += offset;
            squares = multiply_add(offset, offset, squares);
            least = smaller(least, value), most = larger(most, value);
        }
    }
    count = block_sum<PREPROCESS_THREADS>(count, scratch);
    sum = block_sum<PREPROCESS_THREADS>(sum, scratch);
    squares = block_sum<PREPROCESS_THREADS>(squares, scratch);
    least = preprocess_smallest(least, scratch);
    most = -preprocess_smallest(-most, scratch);
    if (thread_index() == 0) {
        u64 at = 5 * (u64)block_x();
        partial[at] = count, partial[at + 1] = sum, partial[at + 2] = squares, partial[at + 3] = least, partial[at + 4] = most;
    }
}

// One block adds what was measured, and decides two things: whether another round is needed, and what is done to the pixels
// if none follows.
KERNEL(256, 2)
preprocess_survey(u32 pixels, u32 kind, u32 first, u32 last, u32 clip_hot, u32 parts, GLOBAL(const u32) words,
                  GLOBAL(const f64) partial, GLOBAL(f64) survey) {
    SHARED(f64, scratch, PREPROCESS_THREADS);
    f64 sums[3] = {}, least = PREPROCESS_MOST, most = -PREPROCESS_MOST;
    for (u32 part = thread_index(); part < parts; part += PREPROCESS_THREADS) {
        u64 at = 5 * (u64)part;
        for (u32 k = 0; k < 3; k++) sums[k] += partial[at + k];
        least = smaller(least, partial[at + 3]), most = larger(most, partial[at + 4]);
    }
    for (u32 k = 0; k < 3; k++) sums[k] = block_sum<PREPROCESS_THREADS>(sums[k], scratch);
    least = preprocess_smallest(least, scratch);
    most = -preprocess_smallest(-most, scratch);
    if (thread_index() != 0 || (!first && survey[SURVEY_DONE] == 1)) return; // no barrier follows
    f64 count = larger(sums[0], 1.0), offset = sums[1] / count;
    f64 mean = preprocess_pivot(kind, words) + offset, deviation = square_root(larger(sums[2] / count - offset * offset, 0.0));
    bool done = last;
    if (first) {
        survey[SURVEY_COUNT] = sums[0], survey[SURVEY_MIN] = least, survey[SURVEY_MAX] = most;
        survey[SURVEY_MEAN] = mean, survey[SURVEY_DEVIATION] = deviation;
        survey[SURVEY_CONSTANT] = least == most ? 1 : 0;
        survey[SURVEY_INNER_MEAN] = mean, survey[SURVEY_INNER_DEVIATION] = deviation;
        done = done || !clip_hot || least == most;
    } else if (sums[0] == 0 || least == most) {
        done = true; // at most one value is left in the range, so there is no deviation to go by
    } else {
        done = done || deviation > 0.5 * survey[SURVEY_INNER_DEVIATION];
        survey[SURVEY_INNER_MEAN] = mean, survey[SURVEY_INNER_DEVIATION] = deviation;
    }
    f64 inner_mean = survey[SURVEY_INNER_MEAN], inner_deviation = survey[SURVEY_INNER_DEVIATION];
    f64 reach = PREPROCESS_INNER * inner_deviation;
    done = done || (least >= inner_mean - reach && most <= inner_mean + reach);
    survey[SURVEY_LOW] = inner_mean - reach, survey[SURVEY_HIGH] = inner_mean + reach, survey[SURVEY_DONE] = done ? 1 : 0;

    f64 all_least = survey[SURVEY_MIN], all_most = survey[SURVEY_MAX], clip = PREPROCESS_CLIP * inner_deviation;
    f64 low = all_least, high = all_most, replacement = survey[SURVEY_MEAN];
    bool clipped = clip_hot && survey[SURVEY_CONSTANT] == 0 && clip > 0 && (low < inner_mean - clip || high > inner_mean + clip);
    if (clipped) low = larger(low, inner_mean - clip), high = smaller(high, inner_mean + clip), replacement = inner_mean;
    survey[SURVEY_CLIP_LOW] = low, survey[SURVEY_CLIP_HIGH] = high, survey[SURVEY_REPLACEMENT] = replacement;
    survey[SURVEY_CLIPPED] = clipped ? 1 : 0;
    survey[SURVEY_ADJUST] = survey[SURVEY_COUNT] < pixels || low > all_least || high < all_most ? 1 : 0;
    survey[SURVEY_SCALE] = inner_deviation > 0 ? 1 / inner_deviation : 1;
}

// Writes the matrix X: the pixels, adjusted, less their mean and divided by their deviation.
KERNEL(256, 4)
preprocess_adjust(u32 pixels, u32 kind, GLOBAL(const u32) words, GLOBAL(const f64) survey, GLOBAL(f32) out) {
    FOR_EACH(i, pixels) {
        f64 value = preprocess_pixel(kind, words, i);
        if (survey[SURVEY_ADJUST] == 1) {
            f64 clipped = smaller(larger(value, survey[SURVEY_CLIP_LOW]), survey[SURVEY_CLIP_HIGH]);
            value = preprocess_is_number(value) ? clipped : survey[SURVEY_REPLACEMENT];
        }
        out[i] = (f32)((value - survey[SURVEY_INNER_MEAN]) * survey[SURVEY_SCALE]);
    }
}

struct PreprocessProduct {
    u32 rows, columns, depth;
};

// A row of the tile of a has four values more than it needs: so eight neighbours in the depth of four rows lie in 32 banks.
constexpr u32 PREPROCESS_TILE = 128, PREPROCESS_DEPTH = 8, PREPROCESS_PITCH = PREPROCESS_TILE + 4;

// out = a b, all packed: a is (rows, depth), b is (depth, columns). A block computes a tile of 128 x 128, and a thread 8 x 8
// of it, in four pieces of 4 x 4. The next tiles are loaded while the present ones are multiplied.
KERNEL(256, 2) preprocess_product(PreprocessProduct s, GLOBAL(const f32) a, GLOBAL(const f32) b, GLOBAL(f32) out) {
    SHARED(f32, tile_a, 2 * PREPROCESS_DEPTH * PREPROCESS_PITCH); // [half][depth][row]
    SHARED(f32, tile_b, 2 * PREPROCESS_DEPTH * PREPROCESS_TILE); // [half][depth][column]
    constexpr u32 EACH = PREPROCESS_DEPTH * PREPROCESS_TILE / PREPROCESS_THREADS;
    u32 thread = thread_index(), x0 = block_x() * PREPROCESS_TILE, y0 = block_y() * PREPROCESS_TILE;
    u32 left = thread % 16 * 4, top = thread / 16 * 4;
    // What this thread loads: a value of a from each of 4 rows that lie 32 apart, and 4 values of b that lie 32 columns apart. A
    // warp then reads the whole depth of four rows, and 32 neighbours of b: as few sectors as there can be.
    u32 a_row = thread / PREPROCESS_DEPTH, a_depth = thread % PREPROCESS_DEPTH, b_depth = thread / 32, b_column = thread % 32;
    f32 next_a[EACH], next_b[EACH], sums[8][8] = {};
    u32 steps = divide_up(s.depth, PREPROCESS_DEPTH);
    for (u32 step = 0; step <= steps; step++) {
        u32 half = step % 2 * PREPROCESS_DEPTH, other = PREPROCESS_DEPTH - half; // in rows of the tiles
        if (step < steps) {
            UNROLL
            for (u32 k = 0; k < EACH; k++) {
                u32 row = y0 + a_row + 32 * k, d = step * PREPROCESS_DEPTH + a_depth;
                next_a[k] = row < s.rows && d < s.depth ? a[(u64)row * s.depth + d] : 0;
                u32 column = x0 + b_column + 32 * k, e = step * PREPROCESS_DEPTH + b_depth;
                next_b[k] = column < s.columns && e < s.depth ? b[(u64)e * s.columns + column] : 0;
            }
        }
        if (step > 0) {
            multiply_tiles<8, 8, PREPROCESS_DEPTH, PREPROCESS_PITCH, PREPROCESS_TILE, 64, 64>(
                tile_a, other * PREPROCESS_PITCH + top, tile_b, other * PREPROCESS_TILE + left, sums);
        }
        if (step < steps) {
            UNROLL
            for (u32 k = 0; k < EACH; k++) {
                tile_a[(half + a_depth) * PREPROCESS_PITCH + a_row + 32 * k] = next_a[k];
                tile_b[(half + b_depth) * PREPROCESS_TILE + b_column + 32 * k] = next_b[k];
            }
        }
        block_sync();
    }
    UNROLL
    for (u32 i = 0; i < 8; i++) {
        u32 row = y0 + top + (i < 4 ? i : 60 + i);
        if (row >= s.rows) continue;
        UNROLL
        for (u32 j = 0; j < 8; j += 4) {
            u32 column = x0 + left + 16 * j;
            u64 at = (u64)row * s.columns + column;
            if (s.columns % 4 == 0) {
                // A column that is a multiple of four lies within the row with its three neighbours, or none of them does.
                if (column < s.columns) store4(out, at, f32x4{sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]});
            } else {
                UNROLL
                for (u32 k = 0; k < 4; k++) {
                    if (column + k < s.columns) out[at + k] = sums[i][j + k];
                }
            }
        }
    }
}

// Multiplies two vectors v [2][depth] by b, in parts: `partial` [part][2][columns] holds v' b over the `part_depth` rows of b
// that make a part.
// Grid: x counts columns, y counts parts.
KERNEL(256, 4)
preprocess_vectors(PreprocessProduct s, u32 part_depth, GLOBAL(const f32) v, GLOBAL(const f32) b, GLOBAL(f32) partial) {
    u32 column = block_x() * PREPROCESS_THREADS + thread_index();
    if (column >= s.columns) return;
    u32 first = block_y() * part_depth, end = smaller(first + part_depth, s.depth);
    f32 sums[2] = {};
    for (u32 d = first; d < end; d++) {
        f32 value = b[(u64)d * s.columns + column];
        sums[0] = multiply_add(v[d], value, sums[0]);
        sums[1] = multiply_add(v[s.depth + d], value, sums[1]);
    }
    partial[((u64)block_y() * 2) * s.columns + column] = sums[0];
    partial[((u64)block_y() * 2 + 1) * s.columns + column] = sums[1];
}

// Adds `parts` parts of `count` values each, in their order.
KERNEL(256, 4) preprocess_add_parts(u32 count, u32 parts, GLOBAL(const f32) partial, GLOBAL(f32) out) {
    FOR_EACH(i, count) {
        f64 sum = 0;
        for (u32 part = 0; part < parts; part++) sum += (f64)partial[(u64)part * count + i];
        out[i] = (f32)sum;
    }
}

// The ground is what a wide Gaussian leaves of frame D: the means of cells, blurred along rows and columns, and between the cells'
// centres a plane through each four. Host side: src/preprocess/ground.rs.
struct PreprocessCells {
    u32 width, height; // pixels of frame D
    u32 across, down;  // cells
    u32 reach;         // the last of the weights, in cells
};

constexpr u32 PREPROCESS_CELL = 8;

// Writes the mean of each cell, [down][across].
// Grid: x counts the width of a block in pixels, y counts rows of cells. A thread adds a column of a cell, then eight columns are added.
KERNEL(256, 4) preprocess_cells(PreprocessCells s, GLOBAL(const f32) image, GLOBAL(f32) out) {
    SHARED(f32, columns, PREPROCESS_THREADS);
    u32 thread = thread_index(), x = block_x() * PREPROCESS_THREADS + thread, y0 = block_y() * PREPROCESS_CELL;
    u32 rows = smaller(PREPROCESS_CELL, s.height - y0);
    f32 sum = 0;
    for (u32 y = 0; y < rows; y++) sum += x < s.width ? image[(u64)(y0 + y) * s.width + x] : 0;
    columns[thread] = sum;
    block_sync();
    u32 cell = block_x() * (PREPROCESS_THREADS / PREPROCESS_CELL) + thread;
    if (thread >= PREPROCESS_THREADS / PREPROCESS_CELL || cell >= s.across) return; // no barrier follows
    f32 all = 0;
    for (u32 k = 0; k < PREPROCESS_CELL; k++) all += columns[thread * PREPROCESS_CELL + k];
    out[(u64)block_y() * s.across + cell] = all / (f32)(rows * smaller(PREPROCESS_CELL, s.width - cell * PREPROCESS_CELL));
}

// Replaces each cell by the mean of its neighbours by weight: those of its row or, if `down`, of its column.
KERNEL(256, 4) preprocess_blur(PreprocessCells s, u32 down, GLOBAL(const f32) weights, GLOBAL(const f32) cells, GLOBAL(f32) out) {
    FOR_EACH(i, s.across * s.down) {
        u32 at = down ? i / s.across : i % s.across, count = down ? s.down : s.across, stride = down ? s.across : 1;
        u32 from = at > s.reach ? at - s.reach : 0, to = smaller(at + s.reach + 1, count);
        f32 sum = 0, all = 0;
        for (u32 k = from; k < to; k++) {
            f32 weight = weights[k < at ? at - k : k - at];
            sum = multiply_add(weight, cells[i + (u64)k * stride - (u64)at * stride], sum);
            all += weight;
        }
        out[i] = sum / all;
    }
}

// Between which cells a pixel lies, and how far it is from the centre of the first to that of the second.
DEVICE f32 preprocess_between(u32 pixel, u32 cells, u32& first, u32& second) {
    f32 at = ((f32)pixel + (f32)0.5) / (f32)PREPROCESS_CELL - (f32)0.5;
    at = smaller(larger(at, (f32)0), (f32)(cells - 1));
    first = (u32)at;
    second = smaller(first + 1, cells - 1);
    return at - (f32)first;
}

// Takes the ground away.
KERNEL(256, 4) preprocess_take_ground(PreprocessCells s, GLOBAL(const f32) cells, GLOBAL(f32) image) {
    FOR_EACH(i, s.width * s.height) {
        u32 left, right, above, below;
        f32 x = preprocess_between(i % s.width, s.across, left, right);
        f32 y = preprocess_between(i / s.width, s.down, above, below);
        f32 first = cells[(u64)above * s.across + left], second = cells[(u64)above * s.across + right];
        first = multiply_add(y, cells[(u64)below * s.across + left] - first, first);
        second = multiply_add(y, cells[(u64)below * s.across + right] - second, second);
        image[i] = image[i] - multiply_add(x, second - first, first);
    }
}

// Writes the smallest and the largest value of each block, [block][2].
KERNEL(256, 4) preprocess_extremes(u32 count, GLOBAL(const f32) image, GLOBAL(f64) partial) {
    SHARED(f64, scratch, PREPROCESS_THREADS);
    f64 least = PREPROCESS_MOST, most = -PREPROCESS_MOST;
    FOR_EACH(i, count) {
        f64 value = (f64)(raw_f32)image[i];
        least = smaller(least, value), most = larger(most, value);
    }
    least = preprocess_smallest(least, scratch);
    most = -preprocess_smallest(-most, scratch);
    if (thread_index() == 0) partial[2 * (u64)block_x()] = least, partial[2 * (u64)block_x() + 1] = most;
}

// One block writes `range` [2], the smallest and the largest value of all blocks, and clears the histogram [256].
KERNEL(256, 4) preprocess_range(u32 parts, GLOBAL(const f64) partial, GLOBAL(f64) range, GLOBAL(u32) histogram) {
    SHARED(f64, scratch, PREPROCESS_THREADS);
    f64 least = PREPROCESS_MOST, most = -PREPROCESS_MOST;
    for (u32 part = thread_index(); part < parts; part += PREPROCESS_THREADS) {
        least = smaller(least, partial[2 * (u64)part]), most = larger(most, partial[2 * (u64)part + 1]);
    }
    least = preprocess_smallest(least, scratch);
    most = -preprocess_smallest(-most, scratch);
    histogram[thread_index()] = 0;
    if (thread_index() == 0) range[0] = least, range[1] = most;
}

// Writes grey levels between the smallest and the largest value, computed as the CPU computes them, and counts how often each
// one occurs.
KERNEL(256, 4)
preprocess_quantise(u32 count, GLOBAL(const f64) survey, GLOBAL(const f64) range, GLOBAL(const f32) image, GLOBAL(u8) levels,
                    GLOBAL(u32) histogram) {
    SHARED(u32, bins, 256);
    raw_f32 least = (raw_f32)range[0], extent = (raw_f32)range[1] - least;
    bool flat = survey[SURVEY_CONSTANT] == 1 || !(extent > 0);
    bins[thread_index()] = 0;
    block_sync();
    FOR_EACH(i, count) {
        raw_f32 level = flat ? 0 : ((raw_f32)255 * ((raw_f32)image[i] - least)) / extent + (raw_f32)0.5;
        u32 found = smaller((u32)level, 255u);
        levels[i] = (u8)found;
        atomic_add(bins, found, 1);
    }
    block_sync();
    if (bins[thread_index()] > 0) atomic_add(histogram, thread_index(), bins[thread_index()]);
}

// Finds the new level of every level: OpenCV's equalisation, to the bit. There is one block, and one thread of it does the
// work.
KERNEL(32, 1) preprocess_equalise_table(GLOBAL(const u32) histogram, GLOBAL(u8) table) {
    if (thread_index() != 0) return;
    u32 total = 0, first = 256, sum = 0;
    for (u32 level = 0; level < 256; level++) {
        u32 count = histogram[level];
        if (count > 0 && first == 256) first = level;
        total += count;
    }
    u32 lowest = first < 256 ? histogram[first] : 0;
    raw_f32 scale = (raw_f32)255 / (raw_f32)(total - lowest);
    for (u32 level = 0; level < 256; level++) {
        if (lowest == total) {
            table[level] = (u8)level; // there is only one level, which stays as it is
        } else {
            if (level > first) sum += histogram[level];
            raw_f32 scaled = (raw_f32)sum * scale;
            table[level] = (u8)round_to_even((f64)scaled);
        }
    }
}

// Replaces every level by its new one.
KERNEL(256, 4) preprocess_equalise(u32 count, GLOBAL(const u8) table, GLOBAL(const u8) levels, GLOBAL(u8) equalised) {
    FOR_EACH(i, count) equalised[i] = table[levels[i]];
}

struct PreprocessFrame {
    u32 frame, height; // frame N is frame x frame, frame D frame x height
};

DEVICE i32 preprocess_level(PreprocessFrame s, GLOBAL(const u8) levels, i32 x, i32 y) {
    return x < 0 || y < 0 || x >= (i32)s.frame || y >= (i32)s.height ? 0 : (i32)levels[(u64)y * s.frame + x];
}

// Puts frame D into frame N on black, and replaces every grey level by the network's input for it. `columns` and `rows`
// [frame] say where each column and row of N lies in D, in 1/32 pixel. The rounding is OpenCV's.
KERNEL(256, 4)
preprocess_letterbox(PreprocessFrame s, GLOBAL(const u8) levels, GLOBAL(const i32) columns, GLOBAL(const i32) rows,
                     GLOBAL(const raw_f32) inputs, GLOBAL(f32) out) {
    FOR_EACH(i, s.frame * s.frame) {
        i32 sx = columns[i % s.frame], sy = rows[i / s.frame], x = sx >> 5, y = sy >> 5, fx = sx & 31, fy = sy & 31;
        i32 above = preprocess_level(s, levels, x, y) * (32 - fx) + preprocess_level(s, levels, x + 1, y) * fx;
        i32 below = preprocess_level(s, levels, x, y + 1) * (32 - fx) + preprocess_level(s, levels, x + 1, y + 1) * fx;
        out[i] = (f32)inputs[(32 * (above * (32 - fy) + below * fy) + (1 << 14)) >> 15];
    }
}
