/* SPDX-License-Identifier: Apache-2.0
 * One multiplication on the caller's stream: tensor map, parameters, launch. Nothing here allocates or waits, so that a
 * call can stand in a graph capture. */
#include "backend/cuda/device.h"

#include "core/memory.h"
#include "sm90/shape.h"

enum {
    GATHER_COLUMNS = 64, /* rows of the gathered copy are filled up to a multiple of this */
    GATHER_THREADS = 256,
    MAP_ALIGNMENT = 16 /* what a tensor map asks of an address and of the bytes from row to row */
};

/** Bytes from row to row that a tensor map can hold: below 2^40. */
static const int64_t MAP_LARGEST_STRIDE = (INT64_C(1) << 40) - MAP_ALIGNMENT;

/* Whether a call needs the copy is known when its pointer and stride are; a plan must serve them all, so that the room
 * is always asked for. */
size_t w4_cuda_workspace_size(const w4_device *device, size_t index, const w4_problem *problem) {
    (void)device;
    (void)index;
    uint64_t bytes = (uint64_t)problem->m * (uint64_t)w4_round_up(problem->k, GATHER_COLUMNS) * 2;
    return (size_t)w4_round_up((int64_t)bytes, W4_WORKSPACE_ALIGNMENT);
}

w4a16_status w4_cuda_prepare(const w4_device *device, size_t index, const w4_problem *problem) {
    CUfunction function;
    W4_TRY(w4_cuda_enter(device));
    w4a16_status status = w4_cuda_gemm_kernel(device, index, problem->a_dtype, &function);
    if (!status) status = w4_cuda_gather_kernel(device, &function);
    w4_cuda_leave();
    return status;
}

/** Copy A into the workspace, in the order of the weight's columns and as a tensor map needs it. */
static w4a16_status gather(const w4_device *device, const w4_run *run, int64_t columns) {
    CUfunction function;
    W4_TRY(w4_cuda_gather_kernel(device, &function));
    w4_gather_params params = {
        .a = run->a,
        .k_order = (const int32_t *)(uintptr_t)run->weight->k_order,
        .out = run->workspace,
        .lda = run->lda,
        .lda_out = columns,
        .m = (int32_t)run->m,
        .k = (int32_t)run->weight->k,
    };
    void *arguments[] = {&params};
    return w4_cuda_call(cuLaunchKernel, function, (unsigned)run->m, 1, 1, GATHER_THREADS, 1, 1, 0, run->stream,
                        arguments, NULL);
}

/** Describe A[m, k] with rows `stride` bytes apart; a box is 64 columns of a tile's tokens. */
static w4a16_status make_map(const w4_run *run, const void *a, int64_t stride, const w4_config *config,
                             CUtensorMap *map) {
    cuuint64_t sizes[] = {(cuuint64_t)run->weight->k, (cuuint64_t)run->m}, strides[] = {(cuuint64_t)stride};
    cuuint32_t box[] = {64, (cuuint32_t)config->tile_m}, steps[] = {1, 1};
    CUtensorMapDataType type =
        run->problem.a_dtype == W4A16_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    return w4_cuda_call(cuTensorMapEncodeTiled, map, type, 2, (void *)(uintptr_t)a, sizes, strides, box, steps,
                        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

static w4a16_status multiply(const w4_device *device, const w4_run *run) {
    const w4_device_weight *weight = run->weight;
    const w4_config *config = &w4_cuda_configs[run->config].public;
    const void *a = run->a;
    int64_t stride = run->lda <= MAP_LARGEST_STRIDE / 2 ? run->lda * 2 : 0;
    if (weight->k_order || (uintptr_t)a % MAP_ALIGNMENT || !stride || stride % MAP_ALIGNMENT) {
        int64_t columns = w4_round_up(weight->k, GATHER_COLUMNS);
        W4_TRY(gather(device, run, columns));
        a = run->workspace;
        stride = columns * 2;
    }
    CUtensorMap map;
    W4_TRY(make_map(run, a, stride, config, &map));
    w4_gemm_params params = {
        .packed = (const uint8_t *)(uintptr_t)weight->packed,
        .c = run->c,
        .bias = run->bias,
        .ldc = run->ldc,
        .layout = weight->layout,
        .m = (int32_t)run->m,
        .n = (int32_t)weight->n,
        .k = (int32_t)weight->k,
        .group_size = (int32_t)weight->group_size,
        .scale_dtype = (int32_t)weight->scale_dtype,
        .zero_kind = (int32_t)weight->zero_kind,
        .c_dtype = (int32_t)run->problem.c_dtype,
        .bias_dtype = (int32_t)run->bias_dtype,
        .alpha = run->alpha,
    };
    int64_t tiles = w4_ceil_divide(run->m, config->tile_m) * w4_ceil_divide(weight->n, config->tile_n);
    CUfunction function;
    W4_TRY(w4_cuda_gemm_kernel(device, run->config, run->problem.a_dtype, &function));
    void *arguments[] = {&map, &params};
    return w4_cuda_call(cuLaunchKernel, function, (unsigned)w4_minimum(tiles, device->processors), 1, 1,
                        W4_SM90_THREADS, 1, 1, (unsigned)w4_cuda_shared_bytes(run->config), run->stream, arguments,
                        NULL);
}

w4a16_status w4_cuda_run(const w4_device *device, const w4_run *run) {
    const char *name = w4_cuda_configs[run->config].public.name;
    W4_TRY(w4_cuda_enter(device));
    w4a16_status status = multiply(device, run);
    w4_cuda_leave();
    return status ? w4_fail_context(status, "config %s: ", name) : W4A16_OK;
}
