// The dialect in which every kernel is written. NVRTC, nvcc and g++ compile the same text, because the tests run the kernels
// on the host, too, through the bodies of host_kernel.h (tests/hostgpu). This file knows no op.
//
// The rules of the dialect: a kernel includes this file and nothing else. Its parameters are u32, i32, f64, shape structs
// made of those, and GLOBAL pointers. A number that is not a count is passed as an f64, whatever the type of the values. A
// block has one dimension, and exactly as many threads as its KERNEL line states; a grid has up to three dimensions. No
// thread returns before the last block_sync of its kernel. Memory, shared or global, is never assumed to be zero. No float is
// added by an atomic: every sum has an order, so results have the same bits on every run. Maps are channels last: the value
// of channel ch at pixel i is map[i * stride + ch], where the pointer already points to the first channel, and i counts
// through all images and rows.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define ON_DEVICE 1
#else
#define ON_DEVICE 0
#endif

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
typedef double f64;
typedef float raw_f32; // always a float, even where f32 is a double, because a file holds floats
// The type of the values that kernels compute with. The host executor can make it double: that proves indices, strides and
// launches to 1e-9.
#ifdef VALUES_ARE_F64
typedef double f32;
#else
typedef float f32;
#endif
struct alignas(4 * sizeof(f32)) f32x4 {
    f32 x, y, z, w;
};

#if ON_DEVICE

// KERNEL(256, 2) name(...): blocks of 256 threads, of which at least 2 fit on a multiprocessor.
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define DEVICE static __device__ __forceinline__
// A pointer to global memory: GLOBAL(const f32) inp, GLOBAL(f32) out. Memory that is written through one of these pointers is
// accessed through no other of them.
#define GLOBAL(type) type* __restrict__
// Shared memory of the block: SHARED(f32, tile, 256). A function takes it as a parameter by SHARED_POINTER(f32) tile.
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define SHARED_POINTER(type) type*
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")

DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 block_threads() { return blockDim.x; }
DEVICE u32 block_x() { return blockIdx.x; }
DEVICE u32 block_y() { return blockIdx.y; }
DEVICE u32 block_z() { return blockIdx.z; }
DEVICE u32 grid_x() { return gridDim.x; }
DEVICE void block_sync() { __syncthreads(); }

// The value of the lane that lies `distance` further on in the warp, or of the lane with the number lane ^ mask. All 32 lanes
// take part.
template <class T> DEVICE T shuffle_down(T value, u32 distance) { return __shfl_down_sync(0xffffffffu, value, distance); }
template <class T> DEVICE T shuffle_xor(T value, u32 mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// Access to 16 bytes at once; the address is a multiple of 16.
DEVICE f32x4 load4(const f32* from, u64 index) { return *reinterpret_cast<const f32x4*>(from + index); }
DEVICE void store4(f32* to, u64 index, f32x4 value) { *reinterpret_cast<f32x4*>(to + index) = value; }

// Tensor cores that read TensorFloat-32: from sm_80 on.
#define HAS_TF32 (__CUDA_ARCH__ >= 800)
#if HAS_TF32
// The number that a tensor core reads instead of `x`: ten bits of fraction are left, rounded to the nearest.
DEVICE f32 rounded_to_tf32(f32 x) {
    u32 bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

// Loads four pieces of 8 rows of 4 values. Lane 8 i + r says where row r of piece i lies, a multiple of 16 bytes; lane l gets of
// each piece value l % 4 of row l / 4. All 32 lanes take part.
DEVICE void load_pieces(f32 (&to)[4], const f32* from, u64 index) {
    u32 address = (u32)__cvta_generic_to_shared(from) + (u32)index * 4, bits[4];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(bits[0]), "=r"(bits[1]), "=r"(bits[2]), "=r"(bits[3])
                 : "r"(address)
                 : "memory");
    for (u32 i = 0; i < 4; i++) to[i] = __uint_as_float(bits[i]);
}

// sums += a b on a tensor core, of 16 x 8 and 8 x 8 values that all lanes of a warp hold together: with g = lane / 4 and
// t = lane % 4, a is (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4), b is (t, g), (t + 4, g), and the sums are those of row g,
// columns 2 t and 2 t + 1, and of row g + 8. Source: PTX ISA, mma.m16n8k8.
DEVICE void multiply_pieces(f32 (&sums)[4], const f32 (&a)[4], const f32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
          "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
#endif

DEVICE u32 atomic_add(u32* to, u64 index, u32 value) { return atomicAdd(to + index, value); }
DEVICE u64 atomic_add(u64* to, u64 index, u64 value) { return atomicAdd(to + index, value); }
DEVICE u32 atomic_max(u32* to, u64 index, u32 value) { return atomicMax(to + index, value); }

DEVICE u32 bits_of(float value) { return __float_as_uint(value); }
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
DEVICE f32 multiply_add(f32 a, f32 b, f32 c) { return fmaf(a, b, c); }
DEVICE f64 multiply_add(f64 a, f64 b, f64 c) { return fma(a, b, c); }
DEVICE f32 exponential(f32 x) { return expf(x); }
DEVICE f64 exponential(f64 x) { return exp(x); }
DEVICE f32 square_root(f32 x) { return sqrtf(x); }
DEVICE f64 square_root(f64 x) { return sqrt(x); }
DEVICE f64 natural_log(f64 x) { return log(x); }
DEVICE f32 round_down(f32 x) { return floorf(x); }
DEVICE f64 round_down(f64 x) { return floor(x); }
DEVICE f64 round_to_even(f64 x) { return rint(x); }

#else

#include "host_kernel.h"

#endif

// The larger and the smaller of two values. If one of them is a NaN, the result is `a`.
template <class T> DEVICE T larger(T a, T b) { return b > a ? b : a; }
template <class T> DEVICE T smaller(T a, T b) { return b < a ? b : a; }
template <class T> DEVICE T divide_up(T a, T b) { return (a + b - 1) / b; }

// Either 4 neighbouring values or 1, so that a kernel is written once for both. The address of 4 values is a multiple of
// their size.
template <u32 COUNT> struct Lanes {
    f32 at[COUNT];
};
template <u32 COUNT> DEVICE Lanes<COUNT> lanes_of(f32 value) {
    Lanes<COUNT> lanes;
    UNROLL
    for (u32 k = 0; k < COUNT; k++) lanes.at[k] = value;
    return lanes;
}
template <u32 COUNT> DEVICE Lanes<COUNT> load_lanes(GLOBAL(const f32) from, u64 index) {
    Lanes<COUNT> lanes;
    if constexpr (COUNT == 4) {
        f32x4 values = load4(from, index);
        lanes.at[0] = values.x, lanes.at[1] = values.y, lanes.at[2] = values.z, lanes.at[3] = values.w;
    } else {
        lanes.at[0] = from[index];
    }
    return lanes;
}
template <u32 COUNT> DEVICE void store_lanes(GLOBAL(f32) to, u64 index, Lanes<COUNT> lanes) {
    if constexpr (COUNT == 4) {
        store4(to, index, f32x4{lanes.at[0], lanes.at[1], lanes.at[2], lanes.at[3]});
    } else {
        to[index] = lanes.at[0];
    }
}

// Visits every index below `count` once, over all blocks of a one-dimensional grid. The host sees to it that count < 2^31.
#define FOR_EACH(i, count) for (u32 i = block_x() * block_threads() + thread_index(); i < (u32)(count); i += grid_x() * block_threads())

// The sum over all threads of a block of THREADS (a power of two). It is always added in the same order, and every thread
// gets it. `scratch` holds THREADS values; it is free again when the call returns.
template <u32 THREADS, class T> DEVICE T block_sum(T value, SHARED_POINTER(T) scratch) {
    u32 thread = thread_index();
    scratch[thread] = value;
    block_sync();
    UNROLL
    for (u32 step = THREADS / 2; step > 0; step /= 2) {
        if (thread < step) scratch[thread] = scratch[thread] + scratch[thread + step];
        block_sync();
    }
    T sum = scratch[0];
    block_sync();
    return sum;
}

// The float that the bits of an IEEE 754 half stand for.
DEVICE float half_to_float(u16 half) {
    u32 sign = (u32)(half & 0x8000u) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent > 0) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    float small = (float)fraction * 5.9604644775390625e-8f; // 2^-24, so the product is exact
    return sign ? -small : small;
}

// sums[i][j] += sum over k < DEPTH of left[k][row i] * right[k][column j], where both sides are read four values at a time.
// The thread's rows come in fours that lie ROW_GAP apart, and its columns in fours that lie COLUMN_GAP apart; the offsets
// point to its first row and its first column.
template <u32 ROWS, u32 COLUMNS, u32 DEPTH, u32 LEFT_PITCH, u32 RIGHT_PITCH, u32 ROW_GAP, u32 COLUMN_GAP>
DEVICE void multiply_tiles(SHARED_POINTER(f32) left, u32 left_offset, SHARED_POINTER(f32) right, u32 right_offset,
                           f32 (&sums)[ROWS][COLUMNS]) {
    UNROLL
    for (u32 k = 0; k < DEPTH; k++) {
        f32 a[ROWS], b[COLUMNS];
        UNROLL
        for (u32 i = 0; i < ROWS; i += 4) {
            f32x4 four = load4(left, (u64)left_offset + (k * LEFT_PITCH + i / 4 * ROW_GAP));
            a[i] = four.x, a[i + 1] = four.y, a[i + 2] = four.z, a[i + 3] = four.w;
        }
        UNROLL
        for (u32 j = 0; j < COLUMNS; j += 4) {
            f32x4 four = load4(right, (u64)right_offset + (k * RIGHT_PITCH + j / 4 * COLUMN_GAP));
            b[j] = four.x, b[j + 1] = four.y, b[j + 2] = four.z, b[j + 3] = four.w;
        }
        UNROLL
        for (u32 i = 0; i < ROWS; i++) {
            UNROLL
            for (u32 j = 0; j < COLUMNS; j++) sums[i][j] = multiply_add(a[i], b[j], sums[i][j]);
        }
    }
}

#if HAS_TF32
DEVICE f32x4 rounded_to_tf32(f32x4 x) {
    return {rounded_to_tf32(x.x), rounded_to_tf32(x.y), rounded_to_tf32(x.z), rounded_to_tf32(x.w)};
}

// Where four neighbouring values of a row lie in a tile of rows of DEPTH values, 8 or 16, whose fours are exchanged so that no two
// lanes that store a row's fours, and no two rows of a piece, lie in one bank.
template <u32 DEPTH> DEVICE u32 four_at(u32 row, u32 four) {
    static_assert(DEPTH == 8 || DEPTH == 16, "rows of two or four fours");
    return row * DEPTH + (four ^ (DEPTH == 16 ? row >> 1 & 3 : row >> 2 & 1)) * 4;
}

// sums += left right on tensor cores, for ROWS x 16 rows of `left`, from row `row` on, which lie as four_at says, and COLUMNS x 8
// columns of `right` [DEPTH][PITCH], from column `column` on. The numbers are rounded already.
template <u32 ROWS, u32 COLUMNS, u32 DEPTH, u32 PITCH>
DEVICE void multiply_on_tensor_cores(SHARED_POINTER(f32) left, u32 left_offset, u32 row, SHARED_POINTER(f32) right, u32 right_offset,
                                     u32 column, f32 (&sums)[ROWS][COLUMNS][4]) {
    // What lies where depends on the lane alone: rows that are 16 apart have their fours in the same order.
    u32 lane = thread_index() % 32, lane_row = row + lane / 8 % 2 * 8 + lane % 8;
    u32 right_at = right_offset + lane % 4 * PITCH + column + lane / 4;
    UNROLL
    for (u32 k = 0; k < DEPTH; k += 8) {
        f32 a[ROWS][4], b[COLUMNS][2];
        u32 left_at = left_offset + four_at<DEPTH>(lane_row, k / 4 + lane / 16);
        UNROLL
        for (u32 i = 0; i < ROWS; i++) load_pieces(a[i], left, (u64)left_at + i * (16 * DEPTH));
        UNROLL
        for (u32 j = 0; j < COLUMNS; j++) {
            b[j][0] = right[(u64)right_at + (k * PITCH + j * 8)], b[j][1] = right[(u64)right_at + ((k + 4) * PITCH + j * 8)];
        }
        UNROLL
        for (u32 i = 0; i < ROWS; i++) {
            UNROLL
            for (u32 j = 0; j < COLUMNS; j++) multiply_pieces(sums[i][j], a[i], b[j]);
        }
    }
}

// Exchanges the sums of two neighbouring lanes, so that each gets four neighbouring columns of one row: the even lane those of row
// lane / 4, the odd one those of the row that lies 8 below. The first column is lane % 4 / 2 * 4. All lanes take part, so this is done
// before any of them writes.
template <u32 ROWS, u32 COLUMNS> DEVICE void exchange_with_neighbour(f32 (&sums)[ROWS][COLUMNS][4]) {
    bool odd = thread_index() % 2 == 1;
    UNROLL
    for (u32 i = 0; i < ROWS; i++) {
        UNROLL
        for (u32 j = 0; j < COLUMNS; j++) {
            f32 first = shuffle_xor(odd ? sums[i][j][0] : sums[i][j][2], 1), second = shuffle_xor(odd ? sums[i][j][1] : sums[i][j][3], 1);
            if (odd) {
                sums[i][j][0] = first, sums[i][j][1] = second;
            } else {
                sums[i][j][2] = first, sums[i][j][3] = second;
            }
        }
    }
}
#endif
