/* SPDX-License-Identifier: Apache-2.0
 * The CUDA driver, found when the program runs: one binary serves machines with and without a GPU. Only types come from
 * cuda.h; nothing of CUDA is linked. */
#ifndef W4_CUDA_DRIVER_H
#define W4_CUDA_DRIVER_H

#include "core/status.h"

#include <cuda.h>
#include <stdbool.h>

/* What the backend calls, and under which name the driver library exports it: cuda.h's plain names are macros for the
 * newest version of each function, the driver must also be one of CUDA 12.0. */
#define W4_CUDA_FUNCTIONS(FUNCTION)                                                                                    \
    FUNCTION(cuInit, "cuInit")                                                                                         \
    FUNCTION(cuGetErrorString, "cuGetErrorString")                                                                     \
    FUNCTION(cuDeviceGetCount, "cuDeviceGetCount")                                                                     \
    FUNCTION(cuDeviceGet, "cuDeviceGet")                                                                               \
    FUNCTION(cuDeviceGetName, "cuDeviceGetName")                                                                       \
    FUNCTION(cuDeviceGetAttribute, "cuDeviceGetAttribute")                                                             \
    FUNCTION(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain")                                                     \
    FUNCTION(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2")                                                \
    FUNCTION(cuCtxPushCurrent, "cuCtxPushCurrent_v2")                                                                  \
    FUNCTION(cuCtxPopCurrent, "cuCtxPopCurrent_v2")                                                                    \
    FUNCTION(cuCtxGetCurrent, "cuCtxGetCurrent")                                                                       \
    FUNCTION(cuModuleLoadData, "cuModuleLoadData")                                                                     \
    FUNCTION(cuModuleUnload, "cuModuleUnload")                                                                         \
    FUNCTION(cuModuleGetFunction, "cuModuleGetFunction")                                                               \
    FUNCTION(cuFuncSetAttribute, "cuFuncSetAttribute")                                                                 \
    FUNCTION(cuLaunchKernel, "cuLaunchKernel")                                                                         \
    FUNCTION(cuLaunchKernelEx, "cuLaunchKernelEx")                                                                     \
    FUNCTION(cuTensorMapEncodeTiled, "cuTensorMapEncodeTiled")                                                         \
    FUNCTION(cuMemAlloc, "cuMemAlloc_v2")                                                                              \
    FUNCTION(cuMemFree, "cuMemFree_v2")                                                                                \
    FUNCTION(cuMemcpyAsync, "cuMemcpyAsync")                                                                           \
    FUNCTION(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2")                                                                \
    FUNCTION(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2")                                                                \
    FUNCTION(cuMemcpy2DAsync, "cuMemcpy2DAsync_v2")                                                                    \
    FUNCTION(cuMemsetD8Async, "cuMemsetD8Async")                                                                       \
    FUNCTION(cuStreamCreate, "cuStreamCreate")                                                                         \
    FUNCTION(cuStreamDestroy, "cuStreamDestroy_v2")                                                                    \
    FUNCTION(cuStreamSynchronize, "cuStreamSynchronize")                                                               \
    FUNCTION(cuStreamBeginCapture, "cuStreamBeginCapture_v2")                                                          \
    FUNCTION(cuStreamEndCapture, "cuStreamEndCapture")                                                                 \
    FUNCTION(cuGraphInstantiateWithFlags, "cuGraphInstantiateWithFlags")                                               \
    FUNCTION(cuGraphLaunch, "cuGraphLaunch")                                                                           \
    FUNCTION(cuGraphDestroy, "cuGraphDestroy")                                                                         \
    FUNCTION(cuGraphExecDestroy, "cuGraphExecDestroy")                                                                 \
    FUNCTION(cuEventCreate, "cuEventCreate")                                                                           \
    FUNCTION(cuEventRecord, "cuEventRecord")                                                                           \
    FUNCTION(cuEventSynchronize, "cuEventSynchronize")                                                                 \
    FUNCTION(cuEventElapsedTime, "cuEventElapsedTime")                                                                 \
    FUNCTION(cuEventDestroy, "cuEventDestroy_v2")

typedef struct w4_cuda_driver {
    int version; /* as cuDriverGetVersion says: 12040 for 12.4 */
#define W4_CUDA_FIELD(name, symbol) __typeof__(&name) name;
    W4_CUDA_FUNCTIONS(W4_CUDA_FIELD)
#undef W4_CUDA_FIELD
} w4_cuda_driver;

enum { W4_CUDA_OLDEST_DRIVER = 12000 }; /* the first with tensor maps */

/** Load the driver library at `path` and initialise it. On false `reason` says in one line why it cannot be used; the
 * thread's last error stays as it was. */
bool w4_cuda_driver_open(const char *path, w4_cuda_driver *driver, char *reason, size_t reason_size);

/** This machine's driver (libcuda.so.1), opened at the first call; NULL where there is none that can be used. */
const w4_cuda_driver *w4_cuda_driver_get(void);

/** Why w4_cuda_driver_get is NULL. */
const char *w4_cuda_driver_reason(void);

/** A driver's result as a status; the text names the call. */
w4a16_status w4_cuda_check(CUresult result, const char *call);

/** w4_cuda_call(cuMemFree, pointer): call the machine's driver, which must be there, and check the result. The name in
 * the error's text is the one written here. */
#define w4_cuda_call(function, ...) w4_cuda_check(w4_cuda_driver_get()->function(__VA_ARGS__), #function)

#endif
