// A libcuda.so.1 for tests, which keeps "device" memory on the host. STUB says how it behaves:
//   stub      as the library that CUDA's toolkit links against
//   no-device a driver on a machine without a GPU
//   taken     the GPU is in use by another process
//   old       a driver of CUDA 10.2
//   full      a GPU with 1 of 8 GiB free, which refuses memory beyond that
//   old-ptx   refuses every image, as a driver older than its PTX does
//   no-cubin  refuses machine code, and takes PTX
//   no-image  refuses both
//   timeout   ends every launch, as a GPU does that draws a screen, too
//   works     copies, and knows one kernel: add(address of doubles, u32 count, f64 summand)
// Compiled with -DINCOMPLETE it lacks calls. What is called in a wrong way ends the process.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t Address;
enum { BAD_VALUE = 1, NO_MEMORY = 2, NOT_INITIALIZED = 3, STUB_LIBRARY = 34, TAKEN = 46, NO_DEVICE = 100, NO_BINARY = 209, PTX_VERSION = 222, NOT_FOUND = 500, TIMEOUT = 702 };
enum { CONTEXT = 0x1111, STREAM = 0x2222, EVENT = 0x3333, MODULE = 0x4444, FUNCTION = 0x5555, GRAPH = 0x6666, EXECUTABLE = 0x7777 };

static int initialized, capturing, retained;
static __thread void *current;
static struct { double *at; uint32_t count; double summand; int set; } captured;

static int is(const char *mode) {
    const char *now = getenv("STUB");
    return now && !strcmp(now, mode);
}
static void expect(int what, const char *words) {
    if (!what) fprintf(stderr, "libcuda for tests: %s\n", words), abort();
}
static void expect_current(void) { expect(initialized && current == (void *)CONTEXT, "a call without a current context"); }

int cuDriverGetVersion(int *version) {
    if (is("stub")) return STUB_LIBRARY;
    *version = is("old") ? 10020 : 12040;
    return 0;
}
int cuInit(unsigned flags) {
    expect(flags == 0, "cuInit with flags");
    if (is("no-device")) return NO_DEVICE;
    initialized = 1;
    return 0;
}
int cuGetErrorName(int error, const char **name) {
    *name = error == NO_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_OTHER";
    return 0;
}
int cuGetErrorString(int error, const char **words) {
    (void)error, *words = "words of the driver";
    return 0;
}
int cuDeviceGetCount(int *count) {
    expect(initialized, "cuDeviceGetCount before cuInit");
    *count = 1;
    return 0;
}
int cuDeviceGet(int *device, int index) {
    *device = 7;
    return index == 0 ? 0 : BAD_VALUE;
}
int cuDeviceGetName(char *name, int length, int device) {
    expect(device == 7, "not a device");
    snprintf(name, (size_t)length, "GPU of tests");
    return 0;
}
int cuDeviceGetUuid_v2(unsigned char uuid[16], int device) {
    expect(device == 7, "not a device");
    for (int i = 0; i < 16; i++) uuid[i] = (unsigned char)(0xf0 + i);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    expect(device == 7, "not a device");
    *bytes = (size_t)8 << 30;
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    expect(device == 7, "not a device");
    // maximum threads of a block, shared memory of a block, multiprocessors, compute capability, clocks, width of the memory
    *value = attribute == 1 ? 1024 : attribute == 8 ? 49152 : attribute == 16 ? 108 : attribute == 75 ? 8 : attribute == 76 ? 6 : attribute == 13 ? 1410000 : attribute == 36 ? 1215000 : attribute == 37 ? 5120 : -1;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    expect(device == 7, "not a device");
    if (is("taken")) return TAKEN;
    *context = (void *)CONTEXT, retained++;
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    expect(device == 7 && retained > 0, "released more often than retained");
    retained--;
    return 0;
}
int cuCtxSetCurrent(void *context) {
    current = context;
    return 0;
}
int cuMemGetInfo_v2(size_t *available, size_t *total) {
    expect_current();
    *available = (size_t)1 << 30, *total = (size_t)8 << 30;
    return 0;
}
int cuMemAlloc_v2(Address *address, size_t bytes) {
    expect_current();
    if (is("full") && bytes > (size_t)1 << 30) return NO_MEMORY;
    *address = (Address)aligned_alloc(256, (bytes + 255) / 256 * 256);
    return *address ? 0 : NO_MEMORY;
}
int cuMemFree_v2(Address address) {
    expect_current();
    free((void *)address);
    return 0;
}
int cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) {
    expect_current();
    expect(flags == 0, "pinned memory with flags");
    if (is("full")) return NO_MEMORY;
    *pointer = malloc(bytes);
    return *pointer ? 0 : NO_MEMORY;
}
int cuMemFreeHost(void *pointer) {
    expect_current();
    free(pointer);
    return 0;
}
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) {
    expect_current(), expect(stream == (void *)STREAM, "not a stream");
    memcpy((void *)to, from, bytes);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) {
    expect_current(), expect(stream == (void *)STREAM, "not a stream");
    memcpy(to, (void *)from, bytes);
    return 0;
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *stream) {
    expect_current(), expect(stream == (void *)STREAM, "not a stream");
    memcpy((void *)to, (void *)from, bytes);
    return 0;
}
int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void *stream) {
    expect_current(), expect(stream == (void *)STREAM, "not a stream");
    memset((void *)to, value, bytes);
    return 0;
}
int cuStreamCreate(void **stream, unsigned flags) {
    expect_current(), expect(flags == 1, "a stream that waits for the default stream");
    *stream = (void *)STREAM;
    return 0;
}
int cuStreamDestroy_v2(void *stream) {
    expect_current(), expect(stream == (void *)STREAM, "not a stream");
    return 0;
}
int cuStreamSynchronize(void *stream) {
    expect_current(), expect(stream == (void *)STREAM && !capturing, "not a stream, or in a capture");
    return 0;
}
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    expect_current(), expect(stream == (void *)STREAM && event == (void *)EVENT && flags == 0, "cuStreamWaitEvent");
    return 0;
}
int cuEventCreate(void **event, unsigned flags) {
    expect_current(), expect(flags == 0, "an event that measures no time");
    *event = (void *)EVENT;
    return 0;
}
int cuEventDestroy_v2(void *event) {
    expect_current(), expect(event == (void *)EVENT, "not an event");
    return 0;
}
int cuEventRecord(void *event, void *stream) {
    expect_current(), expect(event == (void *)EVENT && stream == (void *)STREAM, "cuEventRecord");
    return 0;
}
int cuEventSynchronize(void *event) {
    expect_current(), expect(event == (void *)EVENT, "not an event");
    return 0;
}
int cuEventElapsedTime(float *milliseconds, void *from, void *to) {
    expect_current(), expect(from == (void *)EVENT && to == (void *)EVENT, "not an event");
    *milliseconds = 1.5f;
    return 0;
}
int cuModuleLoadDataEx(void **module, const void *image, unsigned count, int *options, void **values) {
    expect_current(), expect(image && count == 2 && options[0] == 5 && options[1] == 6, "options of cuModuleLoadDataEx");
    if (is("old-ptx")) {
        snprintf(values[0], (size_t)values[1], "ptxas fatal: version 99.0\n");
        return PTX_VERSION;
    }
    if (is("no-image") || (is("no-cubin") && !memcmp(image, "\177ELF", 4))) return NO_BINARY;
    *module = (void *)MODULE;
    return 0;
}
int cuModuleUnload(void *module) {
    expect_current(), expect(module == (void *)MODULE, "not a module");
    return 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    expect_current(), expect(module == (void *)MODULE, "not a module");
    if (strcmp(name, "add")) return NOT_FOUND;
    *function = (void *)FUNCTION;
    return 0;
}
int cuFuncSetAttribute(void *function, int attribute, int value) {
    expect_current(), expect(function == (void *)FUNCTION && attribute == 8 && value > 48 << 10, "cuFuncSetAttribute");
    return 0;
}
static void run(void) {
    for (uint32_t i = 0; i < captured.count; i++) captured.at[i] += captured.summand;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz, unsigned shared, void *stream,
                   void **arguments, void **extra) {
    expect_current(), expect(function == (void *)FUNCTION && stream == (void *)STREAM && !extra, "cuLaunchKernel");
    expect(x == 3 && y == 2 && z == 1 && tx == 64 && ty == 1 && tz == 1 && shared == 0, "grid, block or shared memory");
    if (is("timeout")) return TIMEOUT;
    memcpy(&captured.at, arguments[0], 8), memcpy(&captured.count, arguments[1], 4), memcpy(&captured.summand, arguments[2], 8);
    if (capturing) captured.set = 1;
    else run();
    return 0;
}
int cuStreamBeginCapture_v2(void *stream, int mode) {
    expect_current(), expect(stream == (void *)STREAM && mode == 2 && !capturing, "cuStreamBeginCapture");
    capturing = 1, captured.set = 0;
    return 0;
}
int cuStreamEndCapture(void *stream, void **graph) {
    expect_current(), expect(stream == (void *)STREAM && capturing, "cuStreamEndCapture");
    capturing = 0, *graph = (void *)GRAPH;
    return 0;
}
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    expect_current(), expect(graph == (void *)GRAPH && flags == 0, "cuGraphInstantiateWithFlags");
    *executable = (void *)EXECUTABLE;
    return 0;
}
int cuGraphDestroy(void *graph) {
    expect_current(), expect(graph == (void *)GRAPH, "not a graph");
    return 0;
}
int cuGraphExecDestroy(void *executable) {
    expect_current(), expect(executable == (void *)EXECUTABLE, "not an executable graph");
    return 0;
}
#ifndef INCOMPLETE
int cuGraphLaunch(void *executable, void *stream) {
    expect_current(), expect(executable == (void *)EXECUTABLE && stream == (void *)STREAM && captured.set, "cuGraphLaunch");
    run();
    return 0;
}
#endif
