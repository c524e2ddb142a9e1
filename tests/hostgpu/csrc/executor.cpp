// Executes kernels block by block, with real barriers. One fiber takes thread after thread of a block; only when a thread
// waits at a barrier does the next thread start on another fiber, so a kernel without barriers is a plain loop. A fiber
// never changes its thread of the operating system while a block runs. The C functions below are called from Rust.
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(HOST_TSAN)
#include <sanitizer/tsan_interface.h>
#endif
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;
#include "host_interface.h"

__attribute__((tls_model("initial-exec"))) __thread HostThread host_thread;

namespace {

HostKernel* first_kernel = nullptr;

const size_t STACK = 128 * 1024, PAGE = 4096;
// Stacks begin at different places of their pages. The fibers of a block switch all the time, and if all stacks began at the same place,
// their ends would share a few sets of the cache.
const size_t COLOURS = 30, COLOUR = 128;

struct Fiber {
    void* sp = nullptr;
    char* memory = nullptr; // a page that nobody may touch, then the stack
    u32 thread = 0, line = 0;
    size_t index = 0; // among the fibers of its worker
    bool busy = false;
    const u32* wait = nullptr; // waits until this is no longer `seen`
    u32 seen = 0;
    bool shuffles = false;
#if !defined(__x86_64__)
    ucontext_t context;
#endif
    void* fake_stack = nullptr;
    void* tsan = nullptr;
};

struct Warp {
    u32 alive, arrived, generation, line;
    u64 slots[2][32];
};

struct SharedBlock {
    const void* key;
    size_t bytes, count;
    std::vector<char> memory;
    std::vector<HostCell> cells;
    char* data;
    u64 serial;
};

struct Worker;
__attribute__((tls_model("initial-exec"))) thread_local Worker* worker = nullptr;

} // namespace

struct HostJob {
    const HostKernel* kernel;
    const HostParameter* parameters;
    u32 grid[3];
    u32 shared_limit;
    u32 launch;
    u64 seed;
    u64 next_block;
    u32 failed;
    char error[512];
};

namespace {

struct Worker {
    HostJob* job = nullptr;
    u32 threads = 0, next = 0, finished = 0, arrived = 0, generation = 0, line = 0;
    // What a barrier orders, for the thread sanitizer. Each has another than the one before: who is past the next barrier
    // already comes in no order with who is still behind this one.
    char ordered[2];
    u32 order_factor = 1, order_shift = 0;
    std::vector<Fiber*> fibers;
    size_t used = 0; // fibers that have taken a thread of the block
    std::vector<Warp> warps;
    std::vector<SharedBlock*> shared;
    size_t shared_used = 0;
    u64 serial = 0; // of the block, over all launches
    Fiber* current = nullptr;
    void* scheduler_sp = nullptr;
    bool failed = false;
    char error[512];
#if !defined(__x86_64__)
    ucontext_t scheduler;
#endif
    void* scheduler_fake = nullptr;
    const void* scheduler_bottom = nullptr;
    size_t scheduler_size = 0;
    void* scheduler_tsan = nullptr;
};

} // namespace

#if defined(__x86_64__)
extern "C" void host_switch(void** save_sp, void* to_sp) __attribute__((visibility("hidden")));
asm(R"(
.text
.globl host_switch
.hidden host_switch
.type host_switch,@function
.p2align 4
host_switch:
  .cfi_startproc
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx
  .cfi_endproc
.size host_switch,.-host_switch
)");
#endif

namespace {

// To the thread sanitizer a fiber is a thread, so each thread of a block has its own. They serve block after block, which
// `release` and `acquire` order: making one takes longer than most threads run.
#if defined(HOST_TSAN)
const bool OWN_FIBERS = true;
#else
const bool OWN_FIBERS = false;
#endif

#if defined(HOST_TSAN)
void release(void* p) { __tsan_release(p); }
void acquire(void* p) { __tsan_acquire(p); }
#else
void release(void*) {}
void acquire(void*) {}
#endif

__attribute__((noinline)) void to_scheduler() {
    Worker* w = worker;
    Fiber* f = w->current;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&f->fake_stack, w->scheduler_bottom, w->scheduler_size);
#endif
#if defined(HOST_TSAN)
    __tsan_switch_to_fiber(w->scheduler_tsan, 1);
#endif
#if defined(__x86_64__)
    host_switch(&f->sp, w->scheduler_sp);
#else
    swapcontext(&f->context, &w->scheduler);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f->fake_stack, &w->scheduler_bottom, &w->scheduler_size);
#endif
}

__attribute__((noinline)) void to_fiber(Worker* w, Fiber* f) {
    w->current = f;
    host_thread.thread = f->thread;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&w->scheduler_fake, f->memory + PAGE, STACK);
#endif
#if defined(HOST_TSAN)
    __tsan_switch_to_fiber(f->tsan, 1);
#endif
#if defined(__x86_64__)
    host_switch(&w->scheduler_sp, f->sp);
#else
    swapcontext(&w->scheduler, &f->context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(w->scheduler_fake, nullptr, nullptr);
#endif
}

// One thread after the other, until all have started; then again for the next block.
void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &worker->scheduler_bottom, &worker->scheduler_size);
#endif
    for (;;) {
        Worker* w = worker;
        Fiber* f = w->current;
        while (w->next < w->threads) {
            u32 thread = (u32)((u64)w->next++ * w->order_factor + w->order_shift) % w->threads;
            f->thread = thread;
            f->busy = true;
            host_thread.thread = thread;
            acquire(w);
            w->job->kernel->invoke(w->job->parameters);
            release(&w->finished);
            f->busy = false;
            w->finished++;
            w->warps[thread / 32].alive &= ~(1u << thread % 32);
            if (OWN_FIBERS) break;
        }
        to_scheduler();
    }
}

void prepare(Fiber* f) {
#if defined(__x86_64__)
    void** stack = (void**)((uintptr_t)(f->memory + PAGE + STACK - f->index % COLOURS * COLOUR) & ~(uintptr_t)15);
    *--stack = nullptr;
    *--stack = (void*)fiber_main;
    for (int i = 0; i < 6; i++) *--stack = nullptr;
    f->sp = stack;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->memory + PAGE;
    f->context.uc_stack.ss_size = STACK;
    f->context.uc_link = nullptr;
    makecontext(&f->context, fiber_main, 0);
#endif
    f->busy = f->shuffles = false;
    f->wait = nullptr;
#if defined(HOST_TSAN)
    if (f->tsan) __tsan_destroy_fiber(f->tsan);
    f->tsan = __tsan_create_fiber(0);
#endif
}

Fiber* new_fiber(size_t index) {
    void* memory = mmap(nullptr, PAGE + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        fprintf(stderr, "hostgpu: no memory for the stack of a thread\n");
        abort();
    }
    mprotect(memory, PAGE, PROT_NONE);
    Fiber* f = new Fiber;
    f->memory = (char*)memory;
    f->index = index;
    prepare(f);
    return f;
}

bool can_run(const Fiber* f) { return f->busy && (!f->wait || *f->wait != f->seen); }

// Lets others run. The scheduler would do, too, at the price of a second switch, and it takes the fibers of a block in turn: the stacks
// of all of them do not fit into the first cache, but those of a warp do. So a warp whose lanes wait for each other alone goes on.
void yield(Fiber* f) {
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(HOST_TSAN)
    Worker* w = worker;
    Fiber* next = f->index + 1 < w->used ? w->fibers[f->index + 1] : nullptr;
    if (f->index % 32 == 31) {
        Fiber* first = w->fibers[f->index - 31];
        if (can_run(first)) next = first;
    }
    if (next && can_run(next)) {
        w->current = next;
        host_thread.thread = next->thread;
        return host_switch(&f->sp, next->sp);
    }
#endif
    to_scheduler();
}

void wait_until_changed(const u32* generation, u32 seen, u32 line, bool shuffles) {
    Fiber* f = worker->current;
    f->wait = generation;
    f->seen = seen;
    f->line = line;
    f->shuffles = shuffles;
    do yield(f);
    while (*generation == seen);
    f->wait = nullptr;
    host_thread.thread = f->thread;
}

void divergence(Worker* w) {
    u32 waiting = 0, line = 0, other_line = 0;
    const Fiber* shuffling = nullptr;
    for (Fiber* f : w->fibers) {
        if (!f->busy || !f->wait) continue;
        if (f->shuffles) shuffling = f;
        if (waiting++ == 0) line = f->line;
        if (f->line != line) other_line = f->line;
    }
    const u32* b = host_thread.block;
    int length = snprintf(w->error, sizeof(w->error), "divergence in block (%u, %u, %u): %u of %u threads wait at a %s, line %u", b[0], b[1], b[2], waiting,
                          w->threads, shuffling ? "shuffle or barrier" : "barrier", line);
    if (other_line) length += snprintf(w->error + length, sizeof(w->error) - length, " or %u", other_line);
    snprintf(w->error + length, sizeof(w->error) - length, ", and %u have ended", w->finished);
    w->failed = true;
}

void run_block(Worker* w) {
    w->next = w->finished = w->arrived = w->generation = w->line = 0;
    w->serial++;
    w->warps.resize((w->threads + 31) / 32);
    for (u32 i = 0; i < w->warps.size(); i++) {
        u32 lanes = w->threads - 32 * i;
        w->warps[i].alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
        w->warps[i].arrived = w->warps[i].generation = w->warps[i].line = 0;
    }
    release(w);
    size_t& used = w->used;
    used = 0;
    while (w->finished < w->threads) {
        bool progress = false;
        for (size_t i = 0; i < used; i++) {
            Fiber* f = w->fibers[i];
            if (can_run(f)) {
                to_fiber(w, f);
                progress = true;
                if (w->failed) return;
            }
        }
        if (w->next < w->threads) {
            Fiber* f = used > 0 && !w->fibers[used - 1]->busy && !OWN_FIBERS ? w->fibers[used - 1] : nullptr;
            if (!f) {
                if (used == w->fibers.size()) w->fibers.push_back(new_fiber(used));
                f = w->fibers[used++];
            }
            to_fiber(w, f);
            progress = true;
            if (w->failed) return;
        }
        if (!progress && w->finished < w->threads) return divergence(w);
    }
    acquire(&w->finished);
}

} // namespace

void host_register(HostKernel* kernel) {
    kernel->next = first_kernel;
    first_kernel = kernel;
}

void host_fail(const char* format, ...) {
    Worker* w = worker;
    const u32* b = host_thread.block;
    int length = snprintf(w->error, sizeof(w->error), "thread %u of block (%u, %u, %u) ", host_thread.thread, b[0], b[1], b[2]);
    va_list list;
    va_start(list, format);
    vsnprintf(w->error + length, sizeof(w->error) - length, format, list);
    va_end(list);
    w->failed = true;
    // The block is given up: its fibers are made anew, and none of them goes on.
    for (;;) to_scheduler();
}

u32 host_epoch() { return worker->generation + 1; }

void host_block_sync(u32 line) {
    Worker* w = worker;
    if (w->arrived == 0) w->line = line;
    if (w->line != line) host_fail("waits at the barrier of line %u, while others wait at that of line %u: divergence", line, w->line);
    u32 generation = w->generation;
    char* ordered = &w->ordered[generation & 1];
    release(ordered);
    if (++w->arrived == w->threads) {
        w->arrived = 0;
        w->generation++;
    } else {
        wait_until_changed(&w->generation, generation, line, false);
    }
    acquire(ordered);
}

u64 host_exchange(u64 value, u32 lane, u32 line) {
    Worker* w = worker;
    u32 thread = host_thread.thread;
    Warp* warp = &w->warps[thread / 32];
    u32 all = w->threads - thread / 32 * 32 >= 32 ? ~0u : (1u << w->threads % 32) - 1;
    u32 generation = warp->generation;
    if (warp->arrived == 0) warp->line = line;
    if (warp->line != line) host_fail("shuffles at line %u, while other lanes of its warp do at line %u: divergence", line, warp->line);
    warp->slots[generation & 1][thread % 32] = value;
    void* ordered = warp->slots[generation & 1];
    release(ordered);
    warp->arrived |= 1u << thread % 32;
    if (warp->arrived == all) {
        warp->arrived = 0;
        warp->generation++;
    } else {
        wait_until_changed(&warp->generation, generation, line, true);
    }
    acquire(ordered);
    return all >> lane & 1 ? warp->slots[generation & 1][lane] : value;
}

void* host_shared(const void* key, size_t size, size_t count, const char* name, HostCell** cells) {
    Worker* w = worker;
    SharedBlock* block = nullptr;
    for (SharedBlock* found : w->shared) {
        if (found->key == key) block = found;
    }
    if (!block) {
        // Poison: a NaN, or an index far out.
        block = new SharedBlock{key, size * count, count, std::vector<char>(size * count + 64, (char)0xff), {}, nullptr, 0};
        block->data = (char*)(((uintptr_t)block->memory.data() + 63) & ~(uintptr_t)63);
        if (cells) block->cells.resize(count);
        w->shared.push_back(block);
        w->shared_used += (size * count + 15) & ~(size_t)15;
        if (w->shared_used > w->job->shared_limit) {
            host_fail("declares `%s`: %zu bytes of shared memory in all; the architecture has %u for a block", name, w->shared_used, w->job->shared_limit);
        }
    }
    if (cells) {
        if (block->serial != w->serial) memset((void*)block->cells.data(), 0, count * sizeof(HostCell));
        block->serial = w->serial;
        *cells = block->cells.data();
    }
    return block->data;
}

// ---- what Rust calls ----

extern "C" __attribute__((visibility("default"))) const HostKernel* hostgpu_kernels() { return first_kernel; }

extern "C" __attribute__((visibility("default"))) void* hostgpu_worker_new() { return new Worker; }

extern "C" __attribute__((visibility("default"))) void hostgpu_worker_delete(void* pointer) {
    Worker* w = (Worker*)pointer;
    for (Fiber* f : w->fibers) {
        munmap(f->memory, PAGE + STACK);
#if defined(HOST_TSAN)
        if (f->tsan) __tsan_destroy_fiber(f->tsan);
#endif
        delete f;
    }
    for (SharedBlock* block : w->shared) delete block;
    delete w;
}

// Runs blocks of a job until none is left or one has failed.
extern "C" __attribute__((visibility("default"))) void hostgpu_run(void* pointer, HostJob* job) {
    Worker* w = (Worker*)pointer;
    worker = w;
    w->job = job;
    w->threads = job->kernel->threads;
    w->failed = false;
    for (SharedBlock* block : w->shared) delete block;
    w->shared.clear();
    w->shared_used = 0;
    // An order of the threads drawn by the seed: thread i * factor + shift, where the factor has no divisor in common.
    w->order_factor = 1, w->order_shift = 0;
    if (job->seed) {
        u64 hash = job->seed * 0x9e3779b97f4a7c15u;
        w->order_factor = (u32)(hash >> 40) % w->threads | 1;
        auto divisor = [](u32 a, u32 b) {
            while (b) {
                u32 rest = a % b;
                a = b, b = rest;
            }
            return a;
        };
        while (divisor(w->order_factor, w->threads) != 1) w->order_factor += 2;
        w->order_shift = (u32)(hash >> 20) % w->threads;
    }
    host_thread.threads = w->threads;
    memcpy(host_thread.grid, job->grid, sizeof(job->grid));
    host_thread.launch = job->launch;
#if defined(HOST_TSAN)
    w->scheduler_tsan = __tsan_get_current_fiber();
#endif
    u64 blocks = (u64)job->grid[0] * job->grid[1] * job->grid[2];
    for (;;) {
        u64 i = __atomic_fetch_add(&job->next_block, 1, __ATOMIC_RELAXED);
        if (i >= blocks || __atomic_load_n(&job->failed, __ATOMIC_RELAXED)) break;
        if (job->seed & 1) i = blocks - 1 - i;
        host_thread.flat_block = (u32)i;
        host_thread.block[0] = (u32)(i % job->grid[0]);
        host_thread.block[1] = (u32)(i / job->grid[0] % job->grid[1]);
        host_thread.block[2] = (u32)(i / job->grid[0] / job->grid[1]);
        run_block(w);
        if (w->failed) {
            // The first to fail speaks.
            if (!__atomic_exchange_n(&job->failed, 1, __ATOMIC_RELAXED)) memcpy(job->error, w->error, sizeof(job->error));
            for (Fiber* f : w->fibers) prepare(f);
            break;
        }
    }
    worker = nullptr;
}
