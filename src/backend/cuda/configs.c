/* SPDX-License-Identifier: Apache-2.0
 * The table of configs, which problems each can run, and the cost model that ranks them. */
#include "backend/cuda/device.h"

#include "core/memory.h"
#include "pack/fragment.h"
#include "sm90/shape.h"

#include <inttypes.h>
#include <stdio.h>

const w4_cuda_config w4_cuda_configs[] = {
#define W4_SM90_CONFIG(name, tile_n, tile_m, tile_k, stages) {{#name, tile_m, tile_n, tile_k}, stages},
#include "sm90/kernels.def"
#undef W4_SM90_CONFIG
};

const size_t w4_cuda_config_count = sizeof w4_cuda_configs / sizeof *w4_cuda_configs;

int32_t w4_cuda_shared_bytes(size_t config) {
    const w4_cuda_config *entry = &w4_cuda_configs[config];
    return w4_sm90_shared_bytes(entry->public.tile_n, entry->public.tile_m, entry->public.tile_k, entry->stages);
}

w4a16_status w4_cuda_config_check(const w4_device *device, size_t index, const w4_problem *problem, char *reason,
                                  size_t reason_size) {
    const w4_config *config = &w4_cuda_configs[index].public;
    int32_t shared_bytes = w4_cuda_shared_bytes(index);
    if (shared_bytes > device->shared_limit) {
        snprintf(reason, reason_size, "needs %d bytes of shared memory a block; this GPU offers %d", shared_bytes,
                 device->shared_limit);
        return W4A16_ERROR_UNSUPPORTED;
    }
    if (problem->a_dtype == W4A16_BF16 && problem->zero_kind == W4A16_ZERO_FLOAT) {
        snprintf(reason, reason_size,
                 "floating zero points with bf16 activations would lose bits: bf16 holds q - z only "
                 "for whole z");
        return W4A16_ERROR_UNSUPPORTED;
    }
    /* Kernels count tiles in 32 bits. Batch invariance needs no check: every config adds up k in one order, whatever M
     * is. */
    int64_t tiles = w4_ceil_divide(problem->m, config->tile_m) * w4_ceil_divide(problem->n, config->tile_n);
    if (tiles > INT32_MAX) {
        snprintf(reason, reason_size, "C has %" PRId64 " tiles of %d x %d; %d is the most", tiles, config->tile_m,
                 config->tile_n, INT32_MAX);
        return W4A16_ERROR_UNSUPPORTED;
    }
    if (reason_size) reason[0] = 0;
    return W4A16_OK;
}

/* To rank configs with, from one H200: what reading cold memory reaches (bytes a second); what a CTA takes for 64
 * columns of a tile, from bench/results/2026-11-21-h200-sm90.csv (8192 x 8192, one wave, time / 128 stages); and what a
 * call takes besides. */
static const double MEMORY_RATE = 4.4e12, CALL_SECONDS = 2e-6;
static const struct {
    int32_t tile_m;
    double stage_seconds;
} stage_times[] = {{16, 0.355e-6}, {32, 0.365e-6}, {64, 0.435e-6}, {128, 0.645e-6}};

static double stage_seconds(int32_t tile_m) {
    size_t last = sizeof stage_times / sizeof *stage_times - 1, i = 0;
    while (i < last && stage_times[i].tile_m < tile_m) i++;
    return stage_times[i].stage_seconds * (tile_m > stage_times[i].tile_m ? (double)tile_m / stage_times[i].tile_m : 1);
}

double w4_cuda_config_cost(const w4_device *device, size_t index, const w4_problem *problem) {
    const w4_config *config = &w4_cuda_configs[index].public;
    w4_packed_layout layout = w4_packed_layout_make(problem->n, problem->k, problem->group_size,
                                                    (int64_t)w4a16_dtype_size(problem->scale_dtype),
                                                    (int64_t)w4_zero_size(problem->zero_kind));
    int64_t tiles_m = w4_ceil_divide(problem->m, config->tile_m), tiles_n = w4_ceil_divide(problem->n, config->tile_n);
    /* Tiles are not divided: the last wave costs as much as a full one. */
    double waves = (double)w4_ceil_divide(tiles_m * tiles_n, w4_maximum(device->processors, 1));
    double multiply = waves * (double)layout.blocks * stage_seconds(config->tile_m);
    double m = (double)problem->m;
    double memory = ((double)layout.bytes + 2 * m * (double)(problem->k + problem->n)) / MEMORY_RATE;
    return CALL_SECONDS + (memory > multiply ? memory : multiply);
}
