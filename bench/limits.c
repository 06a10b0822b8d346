/* SPDX-License-Identifier: Apache-2.0
 * Launching the kernels of limits.cu. */
#include "limits.h"

#include "backend/cuda/driver.h"

extern const char limits_image[]; /* limits.cu, compiled: CMakeLists.txt */

w4a16_status limits_open(int index, limits *self) {
    int major = 0;
    *self = (limits){0};
    W4_TRY(w4_cuda_call(cuDeviceGetAttribute, &major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, index));
    W4_TRY(w4_cuda_call(cuDeviceGetAttribute, &self->processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, index));
    self->overlaps = major == 9; /* elsewhere the PTX for all runs, whose kernels do not overlap */
    W4_TRY(w4_cuda_call(cuModuleLoadData, &self->module, limits_image));
    W4_TRY(w4_cuda_call(cuModuleGetFunction, &self->read, self->module, "limit_read"));
    W4_TRY(w4_cuda_call(cuModuleGetFunction, &self->multiply, self->module, "w4_multiply_loop"));
    W4_TRY(w4_cuda_call(cuFuncSetAttribute, self->read, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                        self->overlaps ? LIMIT_RING_BYTES : 0));
    return w4_cuda_call(cuMemAlloc, &self->sink, 256);
}

void limits_close(limits *self) {
    const w4_cuda_driver *driver = w4_cuda_driver_get();
    if (self->sink) (void)driver->cuMemFree(self->sink);
    if (self->module) (void)driver->cuModuleUnload(self->module);
    *self = (limits){0};
}

w4a16_status limits_read(const limits *self, CUdeviceptr data, uint64_t bytes, bool overlap, CUstream stream) {
    CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION};
    attribute.value.programmaticStreamSerializationAllowed = 1;
    CUlaunchConfig how = {
        .gridDimX = (unsigned)(self->processors * (self->overlaps ? 1 : LIMIT_READ_BLOCKS)),
        .gridDimY = 1,
        .gridDimZ = 1,
        .blockDimX = LIMIT_READ_THREADS,
        .blockDimY = 1,
        .blockDimZ = 1,
        .sharedMemBytes = self->overlaps ? LIMIT_RING_BYTES : 0,
        .hStream = stream,
        .attrs = &attribute,
        .numAttrs = overlap,
    };
    CUdeviceptr sink = self->sink;
    void *arguments[] = {&data, &bytes, &sink};
    return w4_cuda_call(cuLaunchKernelEx, &how, self->read, arguments, NULL);
}

w4a16_status limits_multiply(const limits *self, CUstream stream) {
    int32_t rounds = W4_MULTIPLY_ROUNDS;
    CUdeviceptr sink = self->sink;
    void *arguments[] = {&rounds, &sink};
    return w4_cuda_call(cuLaunchKernel, self->multiply, (unsigned)(self->processors * W4_MULTIPLY_BLOCKS), 1, 1,
                        W4_MULTIPLY_THREADS, 1, 1, 0, stream, arguments, NULL);
}

double limits_multiply_flop(const limits *self) {
    return (double)self->processors * W4_MULTIPLY_BLOCKS * W4_MULTIPLY_ROUNDS * (double)W4_MULTIPLY_OPERATIONS;
}
