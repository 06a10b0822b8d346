/* SPDX-License-Identifier: Apache-2.0
 * The GPU's speed limits, measured with the two loops of kernels/common_gpu/ceilings.cu. */
#include "backend/cuda/device.h"

#include "common_gpu/ceilings.h"

static const uint64_t READ_BYTES = UINT64_C(2) << 30; /* many times the L2 cache */
static const double READ_SECONDS = 0.3, MULTIPLY_SECONDS = 0.3;

typedef struct loop {
    CUfunction function;
    unsigned blocks, threads;
    void **arguments;
} loop;

static w4a16_status time_once(const loop *what, CUstream stream, const CUevent events[2], double *seconds) {
    float milliseconds = 0;
    W4_TRY(w4_cuda_call(cuEventRecord, events[0], stream));
    W4_TRY(w4_cuda_call(cuLaunchKernel, what->function, what->blocks, 1, 1, what->threads, 1, 1, 0, stream,
                        what->arguments, NULL));
    W4_TRY(w4_cuda_call(cuEventRecord, events[1], stream));
    W4_TRY(w4_cuda_call(cuEventSynchronize, events[1]));
    W4_TRY(w4_cuda_call(cuEventElapsedTime, &milliseconds, events[0], events[1]));
    *seconds = (double)milliseconds * 1e-3;
    return W4A16_OK;
}

/** The shortest of as many launches as fit in `budget` seconds, three at least. */
static w4a16_status best_time(const loop *what, CUstream stream, const CUevent events[2], double budget, double *best) {
    double total = 0, seconds = 0;
    for (int i = 0; i < 3 || total < budget; i++) {
        W4_TRY(time_once(what, stream, events, &seconds));
        total += seconds;
        if (i == 0 || seconds < *best) *best = seconds;
        if (i == 100000) break;
    }
    return W4A16_OK;
}

static w4a16_status measure(const w4_device *device, CUdeviceptr data, CUdeviceptr sink, const CUevent events[2],
                            w4a16_ceilings *ceilings) {
    CUfunction read, multiply;
    W4_TRY(w4_cuda_ceiling_kernels(device, &read, &multiply));
    W4_TRY(w4_cuda_call(cuMemsetD8Async, data, 1, READ_BYTES, device->stream));
    uint64_t words = READ_BYTES / W4_READ_WORD;
    int32_t rounds = W4_MULTIPLY_ROUNDS;
    void *read_arguments[] = {&data, &words, &sink}, *multiply_arguments[] = {&rounds, &sink};
    unsigned processors = (unsigned)device->processors;
    loop loops[] = {{read, processors * W4_READ_BLOCKS, W4_READ_THREADS, read_arguments},
                    {multiply, processors * W4_MULTIPLY_BLOCKS, W4_MULTIPLY_THREADS, multiply_arguments}};
    double seconds[2] = {0, 0};
    W4_TRY(best_time(&loops[0], device->stream, events, READ_SECONDS, &seconds[0]));
    W4_TRY(best_time(&loops[1], device->stream, events, MULTIPLY_SECONDS, &seconds[1]));
    if (!(seconds[0] > 0 && seconds[1] > 0))
        return w4_fail(W4A16_ERROR_DEVICE, "the device's clock did not move while the limits were measured");
    ceilings->read_bytes_per_second = (double)READ_BYTES / seconds[0];
    ceilings->flop_per_second = (double)loops[1].blocks * rounds * (double)W4_MULTIPLY_OPERATIONS / seconds[1];
    return W4A16_OK;
}

w4a16_status w4_cuda_measure_ceilings(const w4_device *device, w4a16_ceilings *ceilings) {
    CUdeviceptr data = 0, sink = 0;
    CUevent events[2] = {NULL, NULL};
    W4_TRY(w4_cuda_enter(device));
    w4a16_status status = w4_cuda_allocate(READ_BYTES, "the memory that the read loop reads", &data);
    if (!status) status = w4_cuda_allocate(256, "the loops' result", &sink);
    for (int i = 0; !status && i < 2; i++) status = w4_cuda_call(cuEventCreate, &events[i], CU_EVENT_DEFAULT);
    if (!status) status = measure(device, data, sink, events, ceilings);
    for (int i = 0; i < 2; i++)
        if (events[i]) (void)w4_cuda_driver_get()->cuEventDestroy(events[i]);
    w4_cuda_free(data);
    w4_cuda_free(sink);
    w4_cuda_leave();
    return status;
}
