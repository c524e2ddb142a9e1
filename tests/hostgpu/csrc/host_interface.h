// What kernels and the executor know of each other.
#pragma once
#ifndef HOST_SCAN
#include <cstddef>
#include <cstdint>
#endif

// Who last wrote four bytes of global memory, and who last read them; see HostToucher. Workers share them.
struct HostWord {
    uint64_t writer, reader;
};

// An argument as the launch gives it: a value, or a place in memory. The executor's and this header's; C layout.
struct HostParameter {
    const void* value;      // of a number or struct
    char* data;             // first byte of the allocation; null for the address 0
    uint64_t offset, bytes; // of the address in the allocation, and the allocation's length
    unsigned char* written; // a flag for each of its bytes; null where nothing is checked
    HostWord* words;        // of each four bytes; null where nothing is checked
};

struct HostKernel {
    const char* name;
    void (*invoke)(const HostParameter*);
    uint32_t threads, parameters;
    const uint32_t* sizes;
    const unsigned char* pointers; // 1 for an address
    const char* names;             // of the parameters, separated by commas
    const HostKernel* next;
};

// What a thread knows of itself.
struct HostThread {
    uint32_t thread, threads;
    uint32_t block[3], grid[3];
    uint32_t launch, flat_block; // the launch's number; the block's, over the whole grid
};
extern __attribute__((tls_model("initial-exec"))) __thread HostThread host_thread;

void host_register(HostKernel* kernel);
void host_block_sync(uint32_t line);
uint64_t host_exchange(uint64_t value, uint32_t lane, uint32_t line);
// Shared memory of the block for a declaration, 64-byte aligned; `cells` are what the checks know of its values.
struct HostCell {
    uint32_t write_epoch, read_epoch; // barrier count plus one; 0 for never
    uint16_t writer, reader;
    uint16_t flags; // 1: written by an atomic, 2: read by several threads in read_epoch
};
void* host_shared(const void* key, size_t size, size_t count, const char* name, HostCell** cells);
// Ends the block: formats the report.
[[noreturn]] __attribute__((format(printf, 1, 2))) void host_fail(const char* format, ...);
uint32_t host_epoch();
