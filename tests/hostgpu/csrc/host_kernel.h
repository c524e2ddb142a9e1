// The bodies of kernel.h on the host: what a kernel says, executed by executor.cpp with real barriers.
//
// HOST_CHECKED: pointers and shared memory are classes that check every access: bounds, alignment, bytes that were never
// written, and values that two threads touch between the same two barriers. A value read from memory that can also be
// written comes as a proxy, which becomes the value where one is expected; take care with `c ? shared[i] : 0`, where C++
// makes an int of it: write (f32)0.
#pragma once
#ifndef HOST_SCAN
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#endif

#include "host_interface.h"

#define KERNEL(threads, blocks) extern "C" void
#define DEVICE static inline
#define UNROLL
#define NO_UNROLL

#ifdef HOST_SCAN // read by the build script, never compiled
#undef KERNEL
#define KERNEL(threads, blocks) HOST_SCAN_KERNEL <|threads|>
#endif

DEVICE u32 thread_index() { return host_thread.thread; }
DEVICE u32 block_threads() { return host_thread.threads; }
DEVICE u32 block_x() { return host_thread.block[0]; }
DEVICE u32 block_y() { return host_thread.block[1]; }
DEVICE u32 block_z() { return host_thread.block[2]; }
DEVICE u32 grid_x() { return host_thread.grid[0]; }
// A macro, so that a report can tell which of two barriers a thread waits at.
#define block_sync() host_block_sync(__LINE__)

template <class T> DEVICE T host_shuffle(T value, u32 lane, u32 line) {
    static_assert(sizeof(T) <= 8, "a shuffled value has at most 8 bytes");
    u64 bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = host_exchange(bits, lane, line);
    memcpy(&value, &bits, sizeof(T));
    return value;
}
template <class T> DEVICE T host_shuffle_down(T value, u32 distance, u32 line) {
    u32 lane = thread_index() % 32;
    return host_shuffle(value, lane + distance < 32 ? lane + distance : lane, line);
}
template <class T> DEVICE T host_shuffle_xor(T value, u32 mask, u32 line) { return host_shuffle(value, (thread_index() % 32) ^ mask, line); }
#define shuffle_down(value, distance) host_shuffle_down(value, distance, __LINE__)
#define shuffle_xor(value, mask) host_shuffle_xor(value, mask, __LINE__)

DEVICE u32 bits_of(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    return bits;
}
DEVICE float float_of(u32 bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
DEVICE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DEVICE f64 multiply_add(f64 a, f64 b, f64 c) { return __builtin_fma(a, b, c); }
DEVICE float exponential(float x) { return expf(x); }
DEVICE f64 exponential(f64 x) { return exp(x); }
DEVICE float square_root(float x) { return sqrtf(x); }
DEVICE f64 square_root(f64 x) { return sqrt(x); }
DEVICE f64 natural_log(f64 x) { return log(x); }
DEVICE float round_down(float x) { return floorf(x); }
DEVICE f64 round_down(f64 x) { return floor(x); }
DEVICE f64 round_to_even(f64 x) { return rint(x); }

template <class T> DEVICE T host_fetch_add(T* to, T value) { return __atomic_fetch_add(to, value, __ATOMIC_RELAXED); }
template <class T> DEVICE T host_fetch_max(T* to, T value) {
    T old = __atomic_load_n(to, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(to, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}

#ifndef HOST_CHECKED

#define GLOBAL(type) type* __restrict__
#define SHARED_POINTER(type) type*
#define SHARED(type, name, count)                                                                                              \
    static char host_key_##name;                                                                                               \
    type* const name = (type*)host_shared(&host_key_##name, sizeof(type), count, #name, nullptr)

DEVICE f32x4 load4(const f32* from, u64 index) {
    f32x4 value;
    memcpy(&value, from + index, sizeof(value));
    return value;
}
DEVICE void store4(f32* to, u64 index, f32x4 value) { memcpy(to + index, &value, sizeof(value)); }
DEVICE u32 atomic_add(u32* to, u64 index, u32 value) { return host_fetch_add(to + index, value); }
DEVICE u64 atomic_add(u64* to, u64 index, u64 value) { return host_fetch_add(to + index, value); }
DEVICE u32 atomic_max(u32* to, u64 index, u32 value) { return host_fetch_max(to + index, value); }

#else

#define GLOBAL(type) HostGlobal<type>
#define SHARED_POINTER(type) HostShared<type>
#define SHARED(type, name, count)                                                                                              \
    static char host_key_##name;                                                                                               \
    HostShared<type> name = HostShared<type>::of(&host_key_##name, count, #name)

// What can be assigned to: reads and writes go through `P`.
template <class P, class T> struct HostReference {
    P pointer;
    i64 index;
    operator T() const { return pointer.read(index); }
    HostReference(P pointer, i64 index) : pointer(pointer), index(index) {}
    HostReference(const HostReference&) = default;
    const HostReference& operator=(T value) const {
        pointer.write(index, value);
        return *this;
    }
    const HostReference& operator=(const HostReference& other) const { return *this = (T)other; }
    const HostReference& operator+=(T value) const { return *this = (T)((T)*this + value); }
    const HostReference& operator-=(T value) const { return *this = (T)((T)*this - value); }
    const HostReference& operator*=(T value) const { return *this = (T)((T)*this * value); }
    const HostReference& operator|=(T value) const { return *this = (T)((T)*this | value); }
};

// An address of global memory and where its allocation ends.
template <class C> struct HostGlobal {
    typedef std::remove_const_t<C> T;
    char* data;
    i64 offset, bytes; // of the address in the allocation, and the allocation's length
    unsigned char* written;
    u32 parameter;

    HostGlobal(const HostParameter& p, u32 parameter)
        : data(p.data), offset((i64)p.offset), bytes((i64)p.bytes), written(p.written), parameter(parameter) {}
    template <class D, class = std::enable_if_t<std::is_same<const D, C>::value>>
    HostGlobal(const HostGlobal<D>& other)
        : data(other.data), offset(other.offset), bytes(other.bytes), written(other.written), parameter(other.parameter) {}
    HostGlobal(const HostGlobal&) = default;
    HostGlobal& operator=(const HostGlobal&) = default;
    explicit operator bool() const { return data != nullptr; }
    HostGlobal operator+(i64 values) const {
        HostGlobal moved = *this;
        moved.offset += values * (i64)sizeof(T);
        return moved;
    }

    // The place of `count` values from `index` on.
    i64 place(i64 index, i64 count, const char* what) const {
        i64 at = offset + index * (i64)sizeof(T);
        if (!data) host_fail("%s parameter %u ($%u) at index %lld: it is no memory at all", what, parameter, parameter, index);
        if (at < 0 || at + count * (i64)sizeof(T) > bytes) {
            host_fail("%s parameter %u ($%u) at index %lld: bytes %lld to %lld of an allocation of %lld bytes", what, parameter, parameter, index, at,
                      at + count * (i64)sizeof(T) - 1, bytes);
        }
        if (at % (count * (i64)sizeof(T)) != 0) {
            host_fail("%s parameter %u ($%u) at index %lld: byte %lld is no multiple of %lld", what, parameter, parameter, index, at, count * (i64)sizeof(T));
        }
        return at;
    }
    void check_written(i64 at, i64 count, i64 index) const {
        for (i64 i = 0; i < count * (i64)sizeof(T); i++) {
            if (!written[at + i]) host_fail("reads parameter %u ($%u) at index %lld: nobody has written there", parameter, parameter, index);
        }
    }
    T read(i64 index) const {
        i64 at = place(index, 1, "reads");
        check_written(at, 1, index);
        T value;
        memcpy(&value, data + at, sizeof(T));
        return value;
    }
    void write(i64 index, T value) const {
        i64 at = place(index, 1, "writes");
        memcpy(data + at, &value, sizeof(T));
        memset(written + at, 1, sizeof(T));
    }
    template <class I> auto operator[](I index) const {
        if constexpr (std::is_const<C>::value) {
            return read((i64)index);
        } else {
            return HostReference<HostGlobal, T>(*this, (i64)index);
        }
    }
    // For atomics.
    T* cell(i64 index) const {
        i64 at = place(index, 1, "adds to");
        check_written(at, 1, index);
        return (T*)(data + at);
    }
};

// Shared memory of the block, with what is known of each value.
template <class C> struct HostShared {
    typedef std::remove_const_t<C> T;
    T* data;
    HostCell* cells;
    i64 first, count; // of this pointer, and of the declaration
    const char* name;

    static HostShared of(const void* key, i64 count, const char* name) {
        HostCell* cells;
        T* data = (T*)host_shared(key, sizeof(T), count, name, &cells);
        return HostShared{data, cells, 0, count, name};
    }
    template <class D, class = std::enable_if_t<std::is_same<D, const T>::value>> operator HostShared<D>() const {
        return HostShared<D>{data, cells, first, count, name};
    }
    HostShared operator+(i64 values) const { return HostShared{data, cells, first + values, count, name}; }

    HostCell& cell(i64 index, const char* what) const {
        if (first + index < 0 || first + index >= count) {
            host_fail("%s shared memory `%s` at index %lld of %lld", what, name, first + index, count);
        }
        return cells[first + index];
    }
    void note_read(i64 index) const {
        HostCell& cell = this->cell(index, "reads");
        u32 epoch = host_epoch();
        u16 thread = (u16)thread_index();
        if (cell.write_epoch == 0) host_fail("reads shared memory `%s` at index %lld: nobody has written there", name, first + index);
        if (cell.write_epoch == epoch && cell.writer != thread) {
            host_fail("race: reads shared memory `%s` at index %lld, which thread %u writes before the next barrier", name, first + index, cell.writer);
        }
        if (cell.read_epoch == epoch && cell.reader != thread) {
            cell.flags |= 2;
        } else if (cell.read_epoch != epoch) {
            cell.read_epoch = epoch;
            cell.reader = thread;
            cell.flags &= ~2;
        }
    }
    void note_write(i64 index, bool atomic) const {
        HostCell& cell = this->cell(index, "writes");
        u32 epoch = host_epoch();
        u16 thread = (u16)thread_index();
        bool both_atomic = atomic && (cell.flags & 1);
        if (cell.write_epoch == epoch && cell.writer != thread && !both_atomic) {
            host_fail("race: writes shared memory `%s` at index %lld, which thread %u writes before the next barrier", name, first + index, cell.writer);
        }
        if (cell.read_epoch == epoch && (cell.reader != thread || (cell.flags & 2))) {
            host_fail("race: writes shared memory `%s` at index %lld, which thread %u reads before the next barrier", name, first + index, cell.reader);
        }
        if (atomic && cell.write_epoch == 0) host_fail("adds to shared memory `%s` at index %lld: nobody has written there", name, first + index);
        cell.write_epoch = epoch;
        cell.writer = thread;
        cell.flags = (u16)((cell.flags & ~1) | (atomic ? 1 : 0));
    }
    T read(i64 index) const {
        note_read(index);
        return data[first + index];
    }
    void write(i64 index, T value) const {
        note_write(index, false);
        data[first + index] = value;
    }
    template <class I> auto operator[](I index) const {
        if constexpr (std::is_const<C>::value) {
            return read((i64)index);
        } else {
            return HostReference<HostShared, T>(*this, (i64)index);
        }
    }
};

template <class C> DEVICE f32x4 load4(HostGlobal<C> from, u64 index) {
    i64 at = from.place((i64)index, 4, "reads four values of");
    from.check_written(at, 4, (i64)index);
    f32x4 value;
    memcpy(&value, from.data + at, sizeof(value));
    return value;
}
DEVICE void store4(HostGlobal<f32> to, u64 index, f32x4 value) {
    i64 at = to.place((i64)index, 4, "writes four values of");
    memcpy(to.data + at, &value, sizeof(value));
    memset(to.written + at, 1, sizeof(value));
}
template <class C> DEVICE f32x4 load4(HostShared<C> from, u64 index) {
    if ((from.first + (i64)index) % 4 != 0) host_fail("reads four values of shared memory `%s` at index %lld: it is no multiple of 4", from.name, (i64)index);
    i64 i = (i64)index;
    return f32x4{from.read(i), from.read(i + 1), from.read(i + 2), from.read(i + 3)};
}
DEVICE void store4(HostShared<f32> to, u64 index, f32x4 value) {
    if ((to.first + (i64)index) % 4 != 0) host_fail("writes four values of shared memory `%s` at index %lld: it is no multiple of 4", to.name, (i64)index);
    i64 i = (i64)index;
    to.write(i, value.x), to.write(i + 1, value.y), to.write(i + 2, value.z), to.write(i + 3, value.w);
}
template <class T> DEVICE T atomic_add(HostGlobal<T> to, u64 index, std::common_type_t<T> value) { return host_fetch_add(to.cell((i64)index), value); }
template <class T> DEVICE T atomic_max(HostGlobal<T> to, u64 index, std::common_type_t<T> value) { return host_fetch_max(to.cell((i64)index), value); }
template <class T> DEVICE T atomic_add(HostShared<T> to, u64 index, std::common_type_t<T> value) {
    to.note_write((i64)index, true);
    T old = to.data[to.first + (i64)index];
    to.data[to.first + (i64)index] = old + value;
    return old;
}
template <class T> DEVICE T atomic_max(HostShared<T> to, u64 index, std::common_type_t<T> value) {
    to.note_write((i64)index, true);
    T old = to.data[to.first + (i64)index];
    if (value > old) to.data[to.first + (i64)index] = value;
    return old;
}

#endif

// From the launch's arguments to a call of the kernel, by the types of its parameters.
template <class P> struct HostArgument {
    static constexpr uint32_t SIZE = sizeof(P);
    static constexpr unsigned char POINTER = 0;
    static P of(const HostParameter& p, u32) {
        P value;
        memcpy(&value, p.value, sizeof(P));
        return value;
    }
};
template <class T> struct HostArgument<T*> {
    static constexpr uint32_t SIZE = 8;
    static constexpr unsigned char POINTER = 1;
    static T* of(const HostParameter& p, u32) { return (T*)(p.data ? p.data + p.offset : nullptr); }
};
#ifdef HOST_CHECKED
template <class T> struct HostArgument<HostGlobal<T>> {
    static constexpr uint32_t SIZE = 8;
    static constexpr unsigned char POINTER = 1;
    static HostGlobal<T> of(const HostParameter& p, u32 i) { return HostGlobal<T>(p, i); }
};
#endif
template <auto F> struct HostCall;
template <class... P, void (*F)(P...)> struct HostCall<F> {
    static constexpr uint32_t COUNT = sizeof...(P);
    static constexpr uint32_t SIZES[COUNT + 1] = {HostArgument<std::remove_const_t<P>>::SIZE..., 0};
    static constexpr unsigned char POINTERS[COUNT + 1] = {HostArgument<std::remove_const_t<P>>::POINTER..., 0};
    template <size_t... I> static void go(const HostParameter* p, std::index_sequence<I...>) { F(HostArgument<std::remove_const_t<P>>::of(p[I], I)...); }
    static void invoke(const HostParameter* p) { go(p, std::index_sequence_for<P...>{}); }
};
// One line of the table of kernels: the build script writes it behind each file.
#define HOST_KERNEL(name, threads, names)                                                                                      \
    static HostKernel host_kernel_##name = {#name, HostCall<name>::invoke, threads, HostCall<name>::COUNT, HostCall<name>::SIZES,       \
                                            HostCall<name>::POINTERS, names, nullptr};                                          \
    static const bool host_registered_##name = (host_register(&host_kernel_##name), true);
