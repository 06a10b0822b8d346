/* SPDX-License-Identifier: Apache-2.0
 * GPUs as devices: which there are, which can be used and why not, opening one. */
#include "backend/cuda/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** GPUs that the driver shows; 0 where there is no driver. */
static int gpu_count(void) {
    const w4_cuda_driver *driver = w4_cuda_driver_get();
    int count = 0;
    if (!driver || driver->cuDeviceGetCount(&count) != CUDA_SUCCESS) return 0;
    return count;
}

int w4_cuda_device_count(void) {
    int count = gpu_count();
    /* A machine without a GPU lists one device that cannot be used: its reason tells the user what is missing. */
    return count ? count : 1;
}

static int attribute(const w4_cuda_driver *driver, CUdevice handle, CUdevice_attribute which) {
    int value = 0;
    return driver->cuDeviceGetAttribute(&value, which, handle) == CUDA_SUCCESS ? value : 0;
}

static bool find_architecture(const w4_cuda_driver *driver, CUdevice handle, w4_cuda_architecture *found, char *reason,
                              size_t reason_size) {
    int major = attribute(driver, handle, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    int minor = attribute(driver, handle, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    return w4_cuda_architecture_find(10 * major + minor, getenv("W4A16_CUDA_ARCH"), found, reason, reason_size);
}

void w4_cuda_device_query(int index, w4a16_device_info *info) {
    const w4_cuda_driver *driver = w4_cuda_driver_get();
    CUdevice handle;
    snprintf(info->id, sizeof info->id, "cuda:%d", index);
    snprintf(info->name, sizeof info->name, "NVIDIA GPU");
    snprintf(info->architecture, sizeof info->architecture, "none");
    info->usable = 0;
    if (!driver) {
        snprintf(info->reason, sizeof info->reason, "%s", w4_cuda_driver_reason());
        return;
    }
    if (index >= gpu_count() || driver->cuDeviceGet(&handle, index) != CUDA_SUCCESS) {
        snprintf(info->reason, sizeof info->reason, "the NVIDIA driver shows no GPU to this process");
        return;
    }
    if (driver->cuDeviceGetName(info->name, (int)sizeof info->name, handle) != CUDA_SUCCESS)
        snprintf(info->name, sizeof info->name, "NVIDIA GPU");
    info->name[sizeof info->name - 1] = 0;
    int major = attribute(driver, handle, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    int minor = attribute(driver, handle, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    snprintf(info->architecture, sizeof info->architecture, "sm_%d%d", major, minor);
    w4_cuda_architecture runs;
    char reason[200];
    info->usable = find_architecture(driver, handle, &runs, reason, sizeof reason);
    if (info->usable)
        snprintf(info->reason, sizeof info->reason, "compute capability %d.%d, runs %s, driver of CUDA %d.%d", major,
                 minor,
                 runs.is_ptx ? "PTX of compute_80, which the driver compiles and caches when a plan first needs it"
                 : runs.sm90 ? "sm_90a and sm_90 code"
                             : runs.code,
                 driver->version / 1000, driver->version % 1000 / 10);
    else
        snprintf(info->reason, sizeof info->reason, "this GPU (%.40s): %s", info->name, reason);
}

w4a16_status w4_cuda_enter(const w4_device *device) {
    return w4_cuda_call(cuCtxPushCurrent, device->context);
}

void w4_cuda_leave(void) {
    CUcontext ours;
    (void)w4_cuda_driver_get()->cuCtxPopCurrent(&ours);
}

w4a16_status w4_cuda_device_open(int index, const w4a16_context_options *options, w4_device **device) {
    if (options && options->cpu_instruction_set)
        return w4_fail(W4A16_ERROR_INVALID_ARGUMENT,
                       "options.cpu_instruction_set is '%s', but the device is cuda:%d; it must be NULL there, or the "
                       "device 'cpu'",
                       options->cpu_instruction_set, index);
    w4a16_device_info info = {.struct_size = sizeof info};
    w4_cuda_device_query(index, &info);
    if (!info.usable) return w4_fail(W4A16_ERROR_UNSUPPORTED, "device cuda:%d cannot be used: %s", index, info.reason);
    const w4_cuda_driver *driver = w4_cuda_driver_get();
    w4_device *opened = calloc(1, sizeof *opened);
    if (!opened) return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the description of cuda:%d", index);
    w4a16_status status = w4_cuda_call(cuDeviceGet, &opened->handle, index);
    if (!status) status = w4_cuda_call(cuDevicePrimaryCtxRetain, &opened->context, opened->handle);
    if (status) {
        free(opened);
        return w4_fail_context(status, "cuda:%d: ", index);
    }
    char reason[200];
    if (!find_architecture(driver, opened->handle, &opened->runs, reason, sizeof reason)) {
        /* It was found when the device was queried. */
        (void)driver->cuDevicePrimaryCtxRelease(opened->handle);
        free(opened);
        return w4_fail(W4A16_ERROR_INTERNAL, "cuda:%d: %s", index, reason);
    }
    opened->processors = attribute(driver, opened->handle, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    opened->shared_limit = attribute(driver, opened->handle, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    opened->shared_of_sm = attribute(driver, opened->handle, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
    opened->threads_of_sm = attribute(driver, opened->handle, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
    opened->clock = 1e3 * attribute(driver, opened->handle, CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
    memcpy(opened->name, info.name, sizeof opened->name);
    int memory_khz = attribute(driver, opened->handle, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
    opened->memory_mhz = (memory_khz + 50000) / 100000 * 100;
    /* Two transfers a clock; the bus counts bits. */
    opened->memory_rate =
        1e3 * memory_khz * 2 / 8 * attribute(driver, opened->handle, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
    status = w4_cuda_enter(opened);
    if (!status) {
        status = w4_cuda_call(cuStreamCreate, &opened->stream, CU_STREAM_NON_BLOCKING);
        w4_cuda_leave();
    }
    if (!status) status = w4_cuda_kernels_create(&opened->kernels);
    if (status) {
        w4_cuda_device_close(opened);
        return w4_fail_context(status, "cuda:%d: ", index);
    }
    *device = opened;
    return W4A16_OK;
}

void w4_cuda_device_close(w4_device *device) {
    if (!device) return;
    const w4_cuda_driver *driver = w4_cuda_driver_get();
    /* At the process's end the driver may be gone already; then its calls fail and there is nothing left to give back.
     */
    if (driver->cuCtxPushCurrent(device->context) == CUDA_SUCCESS) {
        w4_cuda_kernels_destroy(device->kernels);
        if (device->stream) (void)driver->cuStreamDestroy(device->stream);
        w4_cuda_leave();
    }
    (void)driver->cuDevicePrimaryCtxRelease(device->handle);
    free(device);
}

w4a16_status w4_cuda_allocate(uint64_t bytes, const char *what, CUdeviceptr *memory) {
    w4a16_status status = w4_cuda_call(cuMemAlloc, memory, bytes ? bytes : 1);
    return status ? w4_fail_context(status, "%s of %llu bytes: ", what, (unsigned long long)bytes) : W4A16_OK;
}

void w4_cuda_free(CUdeviceptr memory) {
    if (memory) (void)w4_cuda_driver_get()->cuMemFree(memory);
}
