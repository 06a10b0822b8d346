/* SPDX-License-Identifier: Apache-2.0
 * Multiplications whose arrays are the host's: copied in, run, copied back; and timed over cold weights. */
#include "backend/cuda/device.h"

#include "core/median.h"
#include "core/memory.h"

#include <stdlib.h>

enum { MINIMUM_REPLAYS = 10, MAXIMUM_REPLAYS = 10000, WARM_UP_REPLAYS = 3 };

/** Device copies of a run's arrays, and the stream that all of it happens on. */
typedef struct arrays {
    CUdeviceptr a, c, bias, workspace;
    CUstream stream;
} arrays;

static void free_arrays(arrays *all) {
    w4_cuda_free(all->a);
    w4_cuda_free(all->c);
    w4_cuda_free(all->bias);
    w4_cuda_free(all->workspace);
    if (all->stream) (void)w4_cuda_driver_get()->cuStreamDestroy(all->stream);
}

/** Copy `rows` rows of `width` bytes between the host and rows of `pitch` bytes on the device. */
static w4a16_status copy_rows(bool to_device, CUdeviceptr device, size_t pitch, void *host, size_t stride, size_t width,
                              int64_t rows, CUstream stream) {
    CUDA_MEMCPY2D copy = {
        .srcMemoryType = to_device ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE,
        .dstMemoryType = to_device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST,
        .srcHost = host,
        .dstHost = host,
        .srcDevice = device,
        .dstDevice = device,
        .srcPitch = to_device ? stride : pitch,
        .dstPitch = to_device ? pitch : stride,
        .WidthInBytes = width,
        .Height = (size_t)rows,
    };
    if (pitch <= INT32_MAX && stride <= INT32_MAX) return w4_cuda_call(cuMemcpy2DAsync, &copy, stream);
    /* Wider than the driver's largest pitch. */
    for (int64_t row = 0; row < rows; row++) {
        CUdeviceptr there = device + (size_t)row * pitch;
        char *here = (char *)host + (size_t)row * stride;
        if (to_device)
            W4_TRY(w4_cuda_call(cuMemcpyHtoDAsync, there, here, width, stream));
        else
            W4_TRY(w4_cuda_call(cuMemcpyDtoHAsync, here, there, width, stream));
    }
    return W4A16_OK;
}

/** Make a run on the device out of one on the host: rows of A and C close together, A filled up to 16 bytes. The
 * context is current. */
static w4a16_status make_arrays(const w4_device *device, const w4_run *host, arrays *all, w4_run *run) {
    int64_t k = host->weight->k, n = host->weight->n, lda = w4_round_up(k, 8);
    w4_problem problem = host->problem;
    problem.m = host->m;
    size_t bias_bytes = (size_t)n * w4a16_dtype_size(host->bias_dtype);
    uint64_t a_bytes, c_bytes;
    if (!w4_multiply((uint64_t)host->m, (uint64_t)lda * 2, &a_bytes) ||
        !w4_multiply((uint64_t)host->m, (uint64_t)n * 2, &c_bytes))
        return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "A and C are larger than the address space");
    W4_TRY(w4_cuda_call(cuStreamCreate, &all->stream, CU_STREAM_NON_BLOCKING));
    W4_TRY(w4_cuda_allocate(a_bytes, "A", &all->a));
    W4_TRY(w4_cuda_allocate(c_bytes, "C", &all->c));
    W4_TRY(w4_cuda_allocate(w4_cuda_workspace_size(device, host->config, &problem), "a workspace", &all->workspace));
    W4_TRY(copy_rows(true, all->a, (size_t)lda * 2, (void *)(uintptr_t)host->a, (size_t)host->lda * 2, (size_t)k * 2,
                     host->m, all->stream));
    if (host->bias) {
        W4_TRY(w4_cuda_allocate(bias_bytes, "a bias", &all->bias));
        /* A plan's bias may be the device's, as w4a16_gemm wants it, or the host's; this copy takes either. */
        W4_TRY(w4_cuda_call(cuMemcpyAsync, all->bias, (CUdeviceptr)(uintptr_t)host->bias, bias_bytes, all->stream));
    }
    *run = *host;
    run->problem = problem;
    run->a = (const void *)(uintptr_t)all->a;
    run->lda = lda;
    run->c = (void *)(uintptr_t)all->c;
    run->ldc = n;
    run->bias = host->bias ? (const void *)(uintptr_t)all->bias : NULL;
    run->workspace = (void *)(uintptr_t)all->workspace;
    run->stream = all->stream;
    return W4A16_OK;
}

w4a16_status w4_cuda_run_host(const w4_device *device, const w4_run *host) {
    arrays all = {0};
    w4_run run;
    W4_TRY(w4_cuda_enter(device));
    w4a16_status status = make_arrays(device, host, &all, &run);
    if (!status) status = w4_cuda_run(device, &run);
    /* First see that the kernels succeeded: C is not touched where they did not. */
    if (!status) status = w4_cuda_call(cuStreamSynchronize, all.stream);
    size_t width = (size_t)host->weight->n * 2;
    if (!status) status = copy_rows(false, all.c, width, host->c, (size_t)host->ldc * 2, width, host->m, all.stream);
    if (!status) status = w4_cuda_call(cuStreamSynchronize, all.stream);
    free_arrays(&all);
    w4_cuda_leave();
    return status;
}

/** A graph that runs once over every copy of the weight. */
static w4a16_status capture(const w4_device *device, const w4_run *first, w4_device_weight *const *copies,
                            size_t copy_count, CUgraphExec *executable) {
    CUgraph graph = NULL;
    w4_run run = *first;
    W4_TRY(w4_cuda_call(cuStreamBeginCapture, run.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    w4a16_status status = W4A16_OK;
    for (size_t i = 0; !status && i < copy_count; i++) {
        run.weight = copies[i];
        status = w4_cuda_run(device, &run);
    }
    /* A capture must end, also after a failure; its first error is the one to report. */
    if (status)
        (void)w4_cuda_driver_get()->cuStreamEndCapture(run.stream, &graph);
    else
        status = w4_cuda_call(cuStreamEndCapture, run.stream, &graph);
    if (!status) status = w4_cuda_call(cuGraphInstantiateWithFlags, executable, graph, 0);
    if (graph) (void)w4_cuda_driver_get()->cuGraphDestroy(graph);
    return status;
}

/** Seconds of one replay. */
static w4a16_status replay(CUgraphExec executable, CUstream stream, const CUevent events[2], double *seconds) {
    float milliseconds = 0;
    W4_TRY(w4_cuda_call(cuEventRecord, events[0], stream));
    W4_TRY(w4_cuda_call(cuGraphLaunch, executable, stream));
    W4_TRY(w4_cuda_call(cuEventRecord, events[1], stream));
    W4_TRY(w4_cuda_call(cuEventSynchronize, events[1]));
    W4_TRY(w4_cuda_call(cuEventElapsedTime, &milliseconds, events[0], events[1]));
    *seconds = (double)milliseconds * 1e-3;
    return W4A16_OK;
}

/** The median of the replays that fit in `min_seconds`, ten at least; `times` has room for MAXIMUM_REPLAYS. */
static w4a16_status time_replays(CUgraphExec executable, CUstream stream, double min_seconds, double *times,
                                 double *median, int *replays) {
    CUevent events[2] = {NULL, NULL};
    w4a16_status status = w4_cuda_call(cuEventCreate, &events[0], CU_EVENT_DEFAULT);
    if (!status) status = w4_cuda_call(cuEventCreate, &events[1], CU_EVENT_DEFAULT);
    double seconds = 0, total = 0;
    for (int i = 0; !status && i < WARM_UP_REPLAYS; i++) status = replay(executable, stream, events, &seconds);
    int count = 0;
    while (!status && count < MAXIMUM_REPLAYS && (count < MINIMUM_REPLAYS || total < min_seconds)) {
        status = replay(executable, stream, events, &times[count]);
        if (!status) total += times[count++];
    }
    for (int i = 0; i < 2; i++)
        if (events[i]) (void)w4_cuda_driver_get()->cuEventDestroy(events[i]);
    if (status) return status;
    *median = w4_median(times, (size_t)count);
    *replays = count;
    return W4A16_OK;
}

w4a16_status w4_cuda_time_cold(const w4_device *device, const w4_run *host, w4_device_weight *const *copies,
                               size_t copy_count, double min_seconds, double *seconds, int *runs) {
    arrays all = {0};
    w4_run run;
    CUgraphExec executable = NULL;
    void *times;
    double median = 0;
    W4_TRY(w4_allocate(MAXIMUM_REPLAYS * sizeof(double), "the times of the replays", &times));
    w4a16_status status = w4_cuda_enter(device);
    if (status) {
        free(times);
        return status;
    }
    status = make_arrays(device, host, &all, &run);
    if (!status) status = w4_cuda_call(cuStreamSynchronize, all.stream);
    if (!status) status = capture(device, &run, copies, copy_count, &executable);
    if (!status) status = time_replays(executable, all.stream, min_seconds, times, &median, runs);
    if (!status) *seconds = median / (double)copy_count;
    if (executable) (void)w4_cuda_driver_get()->cuGraphExecDestroy(executable);
    free_arrays(&all);
    w4_cuda_leave();
    free(times);
    return status;
}
