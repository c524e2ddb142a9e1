// What the network should answer, drawn from labels on the heat map. Host side: src/train/targets.rs.
//   label   a box in heat-map pixels; it becomes an object if its centre lies inside of the map
//   object  has a cell, the offset of its centre from that cell, and its size
//   map     at each cell the largest of all objects' Gaussians, which have height 1 and end at their radius
// Every cell looks for the objects that reach it, so nothing needs clearing, and no two threads add to one value. Radii are
// whole numbers that were rounded down, so products must be rounded where the CPU rounds them.
// Source: as in src/train/targets.rs.
#include "kernel.h"

constexpr u32 TARGETS_TILE = 16;
constexpr u32 TARGETS_THREADS = 256;
// The cell of a label that is no object; losses.cu knows it too.
constexpr u32 TARGETS_NO_OBJECT = 0xffffffff;

struct TargetsShape {
    u32 n, h, w, labels, clip;
};

// A product that is never fused with the sum that it is part of.
DEVICE f64 targets_product(f64 a, f64 b) { return multiply_add(a, b, 0.0); }

DEVICE f64 targets_root(f64 b, f64 four_ac) { return (b + square_root(targets_product(b, b) - four_ac)) / 2; }

DEVICE u32 targets_radius(f64 h, f64 w) {
    f64 o = 0.7; // overlap that a box keeps with the true one when its corners move by the radius
    f64 touching = targets_root(h + w, 4 * (w * h * (1 - o) / (1 + o)));
    f64 inside = targets_root(2 * (h + w), 16 * ((1 - o) * w * h));
    f64 outside = targets_root(targets_product(-2 * o, h + w), targets_product(4 * (4 * o), (o - 1) * w * h));
    return (u32)larger(0.0, smaller(smaller(smaller(touching, inside), outside), 1073741824.0));
}

// The nearest value inside of the map; a NaN stays what it is.
DEVICE raw_f32 targets_limit(raw_f32 value, u32 cells) {
    return smaller(larger(value, (raw_f32)0), (raw_f32)(cells > 0 ? cells - 1 : 0));
}

// Reads `images` [labels] and `corners` [labels][4]: left, top, right, bottom. Writes `cells` [labels], counted through all
// images; `wanted` [labels][4]: offset and size, x before y; and `discs` [labels][3]: column, row, radius.
KERNEL(256, 2)
targets_objects(TargetsShape s, GLOBAL(const u32) images, GLOBAL(const raw_f32) corners, GLOBAL(u32) cells, GLOBAL(raw_f32) wanted,
                GLOBAL(u32) discs) {
    FOR_EACH(i, s.labels) {
        u64 at = 4 * (u64)i;
        raw_f32 x1 = corners[at], y1 = corners[at + 1], x2 = corners[at + 2], y2 = corners[at + 3];
        if (s.clip) {
            x1 = targets_limit(x1, s.w), y1 = targets_limit(y1, s.h), x2 = targets_limit(x2, s.w), y2 = targets_limit(y2, s.h);
        }
        raw_f32 size_x = x2 - x1, size_y = y2 - y1, x = (x1 + x2) / 2, y = (y1 + y2) / 2;
        // The condition is written so that a NaN counts as outside.
        bool inside = size_x > 0 && size_y > 0 && x >= 0 && x < (raw_f32)s.w && y >= 0 && y < (raw_f32)s.h;
        u32 column = inside ? (u32)x : 0, row = inside ? (u32)y : 0;
        cells[i] = inside ? (images[i] * s.h + row) * s.w + column : TARGETS_NO_OBJECT;
        wanted[at] = inside ? x - (raw_f32)column : 0;
        wanted[at + 1] = inside ? y - (raw_f32)row : 0;
        wanted[at + 2] = inside ? size_x : 0;
        wanted[at + 3] = inside ? size_y : 0;
        discs[3 * (u64)i] = column;
        discs[3 * (u64)i + 1] = row;
        discs[3 * (u64)i + 2] = inside ? targets_radius(-round_down(-(f64)size_y), -round_down(-(f64)size_x)) : 0;
    }
}

DEVICE u32 targets_distance(u32 a, u32 b) { return a > b ? a - b : b - a; }

// Draws `map` (n, h, w), packed. Grid: x and y count tiles of 16 x 16 cells, z counts images.
KERNEL(256, 2)
targets_draw(TargetsShape s, GLOBAL(const u32) images, GLOBAL(const u32) cells, GLOBAL(const u32) discs, GLOBAL(f32) map) {
    SHARED(u32, near, 3 * TARGETS_THREADS);
    SHARED(u32, count, 1);
    u32 thread = thread_index(), x0 = block_x() * TARGETS_TILE, y0 = block_y() * TARGETS_TILE;
    u32 column = x0 + thread % TARGETS_TILE, row = y0 + thread / TARGETS_TILE;
    raw_f32 most = 0;
    for (u32 first = 0; first < s.labels; first += TARGETS_THREADS) {
        if (thread == 0) count[0] = 0;
        block_sync();
        u32 label = first + thread;
        if (label < s.labels && images[label] == block_z() && cells[label] != TARGETS_NO_OBJECT) {
            u32 x = discs[3 * (u64)label], y = discs[3 * (u64)label + 1], radius = discs[3 * (u64)label + 2];
            bool reaches = x + radius >= x0 && y + radius >= y0 && x <= x0 + TARGETS_TILE - 1 + radius && y <= y0 + TARGETS_TILE - 1 + radius;
            if (reaches) { // their order does not matter: only the largest value counts
                u32 place = atomic_add(count, 0, 1);
                near[3 * place] = x;
                near[3 * place + 1] = y;
                near[3 * place + 2] = radius;
            }
        }
        block_sync();
        for (u32 i = 0; i < count[0]; i++) {
            u32 dx = targets_distance(near[3 * i], column), dy = targets_distance(near[3 * i + 1], row), radius = near[3 * i + 2];
            if (dx > radius || dy > radius) continue;
            f64 sigma = (f64)(2 * radius + 1) / 6;
            f64 value = exponential(-((f64)dx * (f64)dx + (f64)dy * (f64)dy) / (2 * sigma * sigma));
            if (value >= 2.220446049250313e-16) most = larger(most, (raw_f32)value);
        }
        block_sync();
    }
    if (column < s.w && row < s.h) map[((u64)block_z() * s.h + row) * s.w + column] = (f32)most;
}
