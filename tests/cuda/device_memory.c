/* SPDX-License-Identifier: Apache-2.0
 * Device memory, streams and graphs for the tests. */
#include "device_memory.h"

#include "api/support.h"

#include <cuda.h>
#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>

#define FUNCTIONS(FUNCTION)                                                                                            \
    FUNCTION(cuInit, "cuInit")                                                                                         \
    FUNCTION(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain")                                                     \
    FUNCTION(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2")                                                \
    FUNCTION(cuCtxPushCurrent, "cuCtxPushCurrent_v2")                                                                  \
    FUNCTION(cuCtxPopCurrent, "cuCtxPopCurrent_v2")                                                                    \
    FUNCTION(cuMemAlloc, "cuMemAlloc_v2")                                                                              \
    FUNCTION(cuMemFree, "cuMemFree_v2")                                                                                \
    FUNCTION(cuMemHostAlloc, "cuMemHostAlloc")                                                                         \
    FUNCTION(cuMemFreeHost, "cuMemFreeHost")                                                                           \
    FUNCTION(cuMemcpyAsync, "cuMemcpyAsync")                                                                           \
    FUNCTION(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2")                                                                \
    FUNCTION(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2")                                                                \
    FUNCTION(cuMemsetD8Async, "cuMemsetD8Async")                                                                       \
    FUNCTION(cuStreamCreate, "cuStreamCreate")                                                                         \
    FUNCTION(cuStreamDestroy, "cuStreamDestroy_v2")                                                                    \
    FUNCTION(cuStreamSynchronize, "cuStreamSynchronize")                                                               \
    FUNCTION(cuStreamBeginCapture, "cuStreamBeginCapture_v2")                                                          \
    FUNCTION(cuStreamEndCapture, "cuStreamEndCapture")                                                                 \
    FUNCTION(cuGraphInstantiateWithFlags, "cuGraphInstantiateWithFlags")                                               \
    FUNCTION(cuGraphLaunch, "cuGraphLaunch")                                                                           \
    FUNCTION(cuGraphDestroy, "cuGraphDestroy")                                                                         \
    FUNCTION(cuGraphExecDestroy, "cuGraphExecDestroy")

static struct {
#define FIELD(name, symbol) __typeof__(&name) name;
    FUNCTIONS(FIELD)
} driver;

enum { MAX_DEVICES = 16 };
static CUcontext contexts[MAX_DEVICES];         /* of the devices that have been in use */
static CUstream copies_of[MAX_DEVICES], copies; /* each one's copies and fills, and the current one's */

#define CALL(function, ...)                                                                                            \
    do {                                                                                                               \
        CUresult call_result = driver.function(__VA_ARGS__);                                                           \
        if (call_result != CUDA_SUCCESS) fail_msg("%s: error %d", #function, (int)call_result);                        \
    } while (0)

void device_begin(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *address;
    if (!library) fail_msg("%s", dlerror());
#define RESOLVE(name, symbol)                                                                                          \
    address = dlsym(library, symbol);                                                                                  \
    if (!address) fail_msg("no %s", symbol);                                                                           \
    memcpy(&driver.name, &address, sizeof address);
    FUNCTIONS(RESOLVE)
    CALL(cuInit, 0);
    device_use(0);
}

void device_use(int device) {
    CUcontext before;
    if (device < 0 || device >= MAX_DEVICES) fail_msg("device %d", device);
    if (copies) CALL(cuCtxPopCurrent, &before);
    const int is_new = !contexts[device];
    if (is_new) CALL(cuDevicePrimaryCtxRetain, &contexts[device], device);
    CALL(cuCtxPushCurrent, contexts[device]);
    if (is_new) CALL(cuStreamCreate, &copies_of[device], CU_STREAM_NON_BLOCKING);
    copies = copies_of[device];
}

void device_end(void) {
    CUcontext context;
    for (int device = 0; device < MAX_DEVICES; device++) {
        if (!contexts[device]) continue;
        device_use(device);
        CALL(cuStreamDestroy, copies);
        CALL(cuDevicePrimaryCtxRelease, device);
        contexts[device] = NULL;
    }
    CALL(cuCtxPopCurrent, &context);
    copies = NULL;
}

void *device_allocate(size_t bytes) {
    CUdeviceptr memory = 0;
    CALL(cuMemAlloc, &memory, bytes ? bytes : 1);
    return (void *)(uintptr_t)memory;
}

void *device_copy_in(const void *host, size_t bytes, size_t offset) {
    char *memory = device_allocate(bytes + offset);
    CALL(cuMemcpyHtoDAsync, (CUdeviceptr)(uintptr_t)memory + offset, host, bytes, copies);
    CALL(cuStreamSynchronize, copies);
    return memory + offset;
}

void device_copy_out(void *host, const void *device, size_t bytes) {
    CALL(cuMemcpyDtoHAsync, host, (CUdeviceptr)(uintptr_t)device, bytes, copies);
    CALL(cuStreamSynchronize, copies);
}

void device_free(void *memory, size_t offset) {
    if (memory) CALL(cuMemFree, (CUdeviceptr)(uintptr_t)memory - offset);
}

void device_fill(void *memory, int value, size_t bytes) {
    if (!bytes) return;
    CALL(cuMemsetD8Async, (CUdeviceptr)(uintptr_t)memory, (unsigned char)value, bytes, copies);
    CALL(cuStreamSynchronize, copies);
}

void *device_host_allocate(size_t bytes) {
    void *memory = NULL;
    CALL(cuMemHostAlloc, &memory, bytes ? bytes : 1, 0);
    return memory;
}

void device_host_free(void *memory) {
    CALL(cuMemFreeHost, memory);
}

void device_queue_copy(void *target, const void *source, size_t bytes, void *stream) {
    CALL(cuMemcpyAsync, (CUdeviceptr)(uintptr_t)target, (CUdeviceptr)(uintptr_t)source, bytes, stream);
}

void device_queue_fill(void *memory, int value, size_t bytes, void *stream) {
    if (bytes) CALL(cuMemsetD8Async, (CUdeviceptr)(uintptr_t)memory, (unsigned char)value, bytes, stream);
}

void *device_stream_create(void) {
    CUstream stream = NULL;
    CALL(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
    return stream;
}

void device_stream_destroy(void *stream) {
    CALL(cuStreamDestroy, stream);
}

void device_synchronize(void *stream) {
    CALL(cuStreamSynchronize, stream);
}

void device_capture_begin(void *stream) {
    CALL(cuStreamBeginCapture, stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
}

void *device_capture_end(void *stream) {
    CUgraph graph = NULL;
    CUgraphExec executable = NULL;
    CALL(cuStreamEndCapture, stream, &graph);
    CALL(cuGraphInstantiateWithFlags, &executable, graph, 0);
    CALL(cuGraphDestroy, graph);
    return executable;
}

void device_graph_launch(void *graph, void *stream) {
    CALL(cuGraphLaunch, graph, stream);
}

void device_graph_destroy(void *graph) {
    CALL(cuGraphExecDestroy, graph);
}

static char watched[512];

static void give_up(int signal) {
    static const char text[] = "\ndid not end in time: ";
    (void)signal;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0 || write(STDERR_FILENO, watched, strlen(watched)) < 0 ||
        write(STDERR_FILENO, "\n", 1) < 0)
        _exit(2);
    _exit(1);
}

void device_watch(const char *what) {
    alarm(0);
    if (!what) return;
    snprintf(watched, sizeof watched, "%s", what);
    signal(SIGALRM, give_up);
    alarm(getenv("W4A16_TEST_REDUCED") ? 600 : 120); /* a tool that looks at every access makes kernels slow */
}
