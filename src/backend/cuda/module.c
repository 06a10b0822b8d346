/* SPDX-License-Identifier: Apache-2.0
 * The embedded kernels, loaded into a device when they are first needed. */
#include "backend/cuda/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

w4a16_status w4_cuda_kernels_create(w4_cuda_kernels **kernels) {
    w4_cuda_kernels *made = calloc(1, sizeof *made);
    if (made) made->gemm = calloc(w4_cuda_config_count, sizeof *made->gemm);
    if (!made || !made->gemm) {
        free(made);
        return w4_fail(W4A16_ERROR_OUT_OF_MEMORY, "out of memory: the table of kernels");
    }
    pthread_mutex_init(&made->lock, NULL);
    *kernels = made;
    return W4A16_OK;
}

static void unload(w4_cuda_kernel *kernel) {
    if (kernel->module) (void)w4_cuda_driver_get()->cuModuleUnload(kernel->module);
}

void w4_cuda_kernels_destroy(w4_cuda_kernels *kernels) {
    if (!kernels) return;
    unload(&kernels->gather);
    unload(&kernels->pack);
    unload(&kernels->read);
    unload(&kernels->multiply);
    for (size_t i = 0; i < w4_cuda_config_count; i++)
        for (int j = 0; j < W4_CUDA_VARIANTS; j++) unload(&kernels->gemm[i][j]);
    pthread_mutex_destroy(&kernels->lock);
    free(kernels->gemm);
    free(kernels);
}

static const void *find_image(const char *name, const char *code, int variant) {
    for (size_t i = 0; w4_cuda_images[i].name; i++)
        if (strcmp(w4_cuda_images[i].name, name) == 0 && strcmp(w4_cuda_images[i].code, code) == 0)
            return w4_cuda_images[i].data[variant];
    return NULL;
}

static w4a16_status load(const char *name, const char *code, int variant, const char *entry, int32_t shared_bytes,
                         w4_cuda_kernel *kernel) {
    const void *data = find_image(name, code, variant);
    if (!data) return w4_fail(W4A16_ERROR_INTERNAL, "the library holds no kernel '%s' for %s", entry, code);
    CUmodule module;
    CUfunction function;
    w4a16_status status = w4_cuda_call(cuModuleLoadData, &module, data);
    if (status)
        return w4_fail_context(status, "kernel %s for %s, built with CUDA %d.%d for a driver of CUDA %d.%d: ", entry,
                               code, CUDA_VERSION / 1000, CUDA_VERSION % 1000 / 10,
                               w4_cuda_driver_get()->version / 1000, w4_cuda_driver_get()->version % 1000 / 10);
    status = w4_cuda_call(cuModuleGetFunction, &function, module, entry);
    /* Setting an attribute, be it to 0, also makes a driver that loads lazily load now, and not at the first launch,
     * which may stand in a capture. */
    if (!status)
        status =
            w4_cuda_call(cuFuncSetAttribute, function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes);
    if (status) {
        (void)w4_cuda_driver_get()->cuModuleUnload(module);
        return w4_fail_context(status, "kernel %s: ", entry);
    }
    kernel->module = module;
    atomic_store_explicit(&kernel->function, function, memory_order_release);
    return W4A16_OK;
}

static w4a16_status get(const w4_device *device, const char *name, const char *code, int variant, const char *entry,
                        int32_t shared_bytes, w4_cuda_kernel *kernel, CUfunction *function) {
    *function = atomic_load_explicit(&kernel->function, memory_order_acquire);
    if (*function) return W4A16_OK;
    pthread_mutex_lock(&device->kernels->lock);
    w4a16_status status = W4A16_OK;
    if (!atomic_load_explicit(&kernel->function, memory_order_relaxed))
        status = load(name, code, variant, entry, shared_bytes, kernel);
    pthread_mutex_unlock(&device->kernels->lock);
    *function = atomic_load_explicit(&kernel->function, memory_order_acquire);
    return status;
}

w4a16_status w4_cuda_gemm_kernel(const w4_device *device, size_t config, const w4_problem *problem,
                                 CUfunction *function) {
    static const char *const suffixes[] = {
        "fp16",         "bf16", "fp16_integer_zeros", "bf16_integer_zeros", "fp16_float_zeros", "bf16_float_zeros",
        "fp16_group_64"};
    const w4_cuda_config *entry = &w4_cuda_configs[config];
    int variant = (problem->a_dtype == W4A16_BF16) + 2 * (int)problem->zero_kind;
    if (entry->group_64 && variant == 0 && problem->group_size == 64 && problem->k > 64 &&
        problem->scale_dtype == W4A16_FP16)
        variant = W4_CUDA_GROUP_64;
    w4_cuda_kernel *kernel = &device->kernels->gemm[entry->slot][variant];
    char name[96];
    *function = atomic_load_explicit(&kernel->function, memory_order_acquire);
    if (*function) return W4A16_OK; /* every call but a kernel's first */
    snprintf(name, sizeof name, "w4_%s_%s", entry->kernel, suffixes[variant]);
    return get(device, entry->kernel, entry->sm80 ? device->runs.code : "sm_90a", variant, name, device->shared_limit,
               kernel, function);
}

w4a16_status w4_cuda_gather_kernel(const w4_device *device, CUfunction *function) {
    return get(device, "gather", device->runs.code, 0, "w4_gather", 0, &device->kernels->gather, function);
}

w4a16_status w4_cuda_pack_kernel(const w4_device *device, CUfunction *function) {
    return get(device, "pack", device->runs.code, 0, "w4_pack", 0, &device->kernels->pack, function);
}

w4a16_status w4_cuda_ceiling_kernels(const w4_device *device, CUfunction *read, CUfunction *multiply) {
    const char *code = device->runs.sm90 ? "sm_90a" : device->runs.code; /* wgmma is faster than mma.sync */
    W4_TRY(get(device, "ceilings", code, 0, "w4_read_loop", 0, &device->kernels->read, read));
    return get(device, "ceilings", code, 0, "w4_multiply_loop", 0, &device->kernels->multiply, multiply);
}
