// The bodies of kernel.h on the host: what a kernel says, executed by executor.cpp with real barriers.
//
// HOST_CHECKED: pointers and shared memory are classes that check every access: bounds, alignment, bytes that were never
// written, and values that two threads touch between the same two barriers; in global memory also values that two blocks
// touch in one launch. A value read from memory that can also be
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

#define HAS_TF32 1
DEVICE f64 rounded_to_tf32(f64 x) { return x; } // a proof of indices is exact
DEVICE float rounded_to_tf32(float x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    if ((bits >> 23 & 255) == 255) return x;
    bits = (bits + 0x1000) & ~0x1fffu;
    memcpy(&x, &bits, 4);
    return x;
}
template <class P> DEVICE void host_load_pieces(f32 (&to)[4], P from, u64 index, u32 line) {
    u32 lane = thread_index() % 32;
    for (u32 i = 0; i < 4; i++) {
        u64 row = host_shuffle(index, 8 * i + lane / 4, line);
        to[i] = from[row + lane % 4];
    }
}
#define load_pieces(to, from, index) host_load_pieces(to, from, index, __LINE__)
// The order of the sum is one that hardware may take; it does not say which it takes.
DEVICE void host_multiply_pieces(f32 (&sums)[4], const f32 (&a)[4], const f32 (&b)[2], u32 line) {
    u32 g = thread_index() % 32 / 4, t = thread_index() % 4;
    for (u32 k = 0; k < 8; k++) {
        f32 upper = host_shuffle(a[k / 4 * 2], g * 4 + k % 4, line), lower = host_shuffle(a[k / 4 * 2 + 1], g * 4 + k % 4, line);
        f32 left = host_shuffle(b[k / 4], 2 * t * 4 + k % 4, line), right = host_shuffle(b[k / 4], (2 * t + 1) * 4 + k % 4, line);
        sums[0] += upper * left, sums[1] += upper * right, sums[2] += lower * left, sums[3] += lower * right;
    }
}
#define multiply_pieces(sums, a, b) host_multiply_pieces(sums, a, b, __LINE__)

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

// A thread that touches global memory, in 64 bits, so that workers can exchange it at once. Two of one launch are in order
// if they are one thread, or of one block with a barrier between them.
struct HostToucher {
    u64 bits; // launch 18, block 20, epoch 15, thread 10, flag 1; 0 for nobody
    static const u64 EVERY_BLOCK = 0xfffff; // more than one

    static HostToucher of(u64 launch, u64 block, u64 epoch, u64 thread, u64 flag) {
        return {(launch & 0x3ffff) << 46 | (block & 0xfffff) << 26 | (epoch & 0x7fff) << 11 | (thread & 0x3ff) << 1 | flag};
    }
    // Launches are counted from 1.
    static HostToucher me(u64 flag) {
        u64 block = host_thread.flat_block % EVERY_BLOCK;
        return of(host_thread.launch % 0x3ffff + 1, block, host_epoch(), host_thread.thread, flag);
    }
    u64 launch() const { return bits >> 46; }
    u64 block() const { return bits >> 26 & 0xfffff; }
    u64 epoch() const { return bits >> 11 & 0x7fff; }
    u64 thread() const { return bits >> 1 & 0x3ff; }
    // Of a writer: it was an atomic. Of a reader: it was not the only thread of its block in this epoch.
    bool flag() const { return bits & 1; }
    bool races_with(HostToucher other) const {
        if (launch() != other.launch()) return false;
        return block() != other.block() || (epoch() == other.epoch() && thread() != other.thread());
    }
};

// An address of global memory and where its allocation ends.
template <class C> struct HostGlobal {
    typedef std::remove_const_t<C> T;
    char* data;
    i64 offset, bytes; // of the address in the allocation, and the allocation's length
    unsigned char* written;
    HostWord* words;
    u32 parameter;

    HostGlobal(const HostParameter& p, u32 parameter)
        : data(p.data), offset((i64)p.offset), bytes((i64)p.bytes), written(p.written), words(p.words), parameter(parameter) {}
    template <class D, class = std::enable_if_t<std::is_same<const D, C>::value>>
    HostGlobal(const HostGlobal<D>& other)
        : data(other.data), offset(other.offset), bytes(other.bytes), written(other.written), words(other.words), parameter(other.parameter) {}
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
    [[noreturn]] void race(const char* does, i64 index, HostToucher other, const char* did) const {
        if (other.block() == HostToucher::EVERY_BLOCK) {
            host_fail("race: %s parameter %u ($%u) at index %lld, which several blocks %s in the same launch", does, parameter, parameter, index, did);
        }
        bool same_block = other.block() == host_thread.flat_block % HostToucher::EVERY_BLOCK;
        host_fail("race: %s parameter %u ($%u) at index %lld, which thread %u of block %u of the grid %ss %s", does, parameter, parameter, index,
                  (u32)other.thread(), (u32)other.block(), did, same_block ? "before the next barrier" : "in the same launch");
    }
    // Values of less than four bytes share their words with others, and are not looked at.
    void note_read(i64 at, i64 count, i64 index) const {
        if (sizeof(T) < 4) return;
        HostToucher me = HostToucher::me(0);
        for (i64 i = at / 4; i < (at + count * (i64)sizeof(T)) / 4; i++) {
            HostToucher reader{__atomic_load_n(&words[i].reader, __ATOMIC_SEQ_CST)};
            // Whoever read earlier: who writes later races with one of the two, or with both.
            HostToucher now = me;
            if (reader.races_with(me)) {
                now = reader.block() == me.block() ? HostToucher::of(me.launch(), me.block(), me.epoch(), me.thread(), 1)
                                                   : HostToucher::of(me.launch(), HostToucher::EVERY_BLOCK, 0, 0, 1);
            } else if (reader.bits == (me.bits | 1)) {
                now = reader;
            }
            if (now.bits != reader.bits) __atomic_store_n(&words[i].reader, now.bits, __ATOMIC_SEQ_CST);
            HostToucher writer{__atomic_load_n(&words[i].writer, __ATOMIC_SEQ_CST)};
            if (writer.races_with(me)) race("reads", index, writer, "write");
        }
    }
    void note_write(i64 at, i64 count, i64 index, bool atomic) const {
        if (sizeof(T) < 4) return;
        HostToucher me = HostToucher::me(atomic);
        for (i64 i = at / 4; i < (at + count * (i64)sizeof(T)) / 4; i++) {
            HostToucher writer{__atomic_exchange_n(&words[i].writer, me.bits, __ATOMIC_SEQ_CST)};
            if (writer.races_with(me) && !(atomic && writer.flag())) race("writes", index, writer, "write");
            HostToucher reader{__atomic_load_n(&words[i].reader, __ATOMIC_SEQ_CST)};
            bool same_epoch = reader.launch() == me.launch() && reader.block() == me.block() && reader.epoch() == me.epoch();
            if (reader.races_with(me) || (same_epoch && reader.flag())) race("writes", index, reader, "read");
        }
    }
    T read(i64 index) const {
        i64 at = place(index, 1, "reads");
        check_written(at, 1, index);
        note_read(at, 1, index);
        T value;
        memcpy(&value, data + at, sizeof(T));
        return value;
    }
    void write(i64 index, T value) const {
        i64 at = place(index, 1, "writes");
        note_write(at, 1, index, false);
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
        note_write(at, 1, index, true);
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
    from.note_read(at, 4, (i64)index);
    f32x4 value;
    memcpy(&value, from.data + at, sizeof(value));
    return value;
}
DEVICE void store4(HostGlobal<f32> to, u64 index, f32x4 value) {
    i64 at = to.place((i64)index, 4, "writes four values of");
    to.note_write(at, 4, (i64)index, false);
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
