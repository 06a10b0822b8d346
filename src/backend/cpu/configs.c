/* SPDX-License-Identifier: Apache-2.0
 * The table of configs, which of them a device may run, and the cost model that ranks them. */
#include "backend/cpu/cpu.h"

#include "core/memory.h"

#include <stdio.h>

/* In the order of their threads: a context has those of the first configs that it has the threads for. */
const w4_cpu_config w4_cpu_configs[] = {
#define W4_CPU_ENTRY(name, threads, level, method, tile_m, tile_n, tile_k)                                             \
    {{name, tile_m, tile_n, tile_k}, level, method, threads},
#define W4_CPU_CONFIG(name, ...) W4_CPU_ENTRY(#name, 0, __VA_ARGS__)
#define W4_CPU_KERNEL W4_CPU_CONFIG
#include "backend/cpu/kernels.def"
#undef W4_CPU_CONFIG
#undef W4_CPU_KERNEL

#define TEXT_OF(number) #number
#define W4_CPU_CONFIG(...)
#define W4_CPU_KERNEL(name, ...) FEWER(name, W4_CPU_THREADS, __VA_ARGS__)
#define FEWER(name, threads, ...) W4_CPU_ENTRY(#name "_t" TEXT_OF(threads), threads, __VA_ARGS__)
#define W4_CPU_THREADS 1
#include "backend/cpu/kernels.def"
#undef W4_CPU_THREADS
#define W4_CPU_THREADS 2
#include "backend/cpu/kernels.def"
#undef W4_CPU_THREADS
#define W4_CPU_THREADS 4
#include "backend/cpu/kernels.def"
#undef W4_CPU_THREADS
#define W4_CPU_THREADS 8
#include "backend/cpu/kernels.def"
#undef W4_CPU_THREADS
#define W4_CPU_THREADS 16
#include "backend/cpu/kernels.def"
#undef W4_CPU_THREADS
#define W4_CPU_THREADS 32
#include "backend/cpu/kernels.def"
#undef W4_CPU_THREADS
#define W4_CPU_THREADS 64
#include "backend/cpu/kernels.def"
#undef W4_CPU_THREADS
};

enum { ALL_CONFIGS = sizeof w4_cpu_configs / sizeof *w4_cpu_configs };

size_t w4_cpu_config_count(const w4_device *device) {
    size_t count = 0;
    while (count < ALL_CONFIGS && w4_cpu_configs[count].threads < device->threads) count++;
    return count;
}

int w4_cpu_config_threads(const w4_device *device, size_t index) {
    int threads = w4_cpu_configs[index].threads;
    return threads ? threads : device->threads;
}

w4a16_status w4_cpu_config_check(const w4_device *device, size_t index, const w4_problem *problem, char *reason,
                                 size_t reason_size) {
    static const char *const needs[] = {"", "AVX2, FMA and F16C", "AVX-512 (F, BW, VL, VNNI)"};
    w4_cpu_level level = w4_cpu_configs[index].level;
    (void)problem; /* every config takes every shape */
    if (level > device->available) {
        snprintf(reason, reason_size, "needs %s, which this CPU lacks", needs[level]);
        return W4A16_ERROR_UNSUPPORTED;
    }
    if (level > device->allowed) {
        snprintf(reason, reason_size, "needs %s; the context's cpu_instruction_set is limited to %s", needs[level],
                 w4_cpu_level_name(device->allowed));
        return W4A16_ERROR_UNSUPPORTED;
    }
    if (reason_size) reason[0] = 0;
    return W4A16_OK;
}

/* What a 64-byte line of a panel (16 rows of W, 8 columns) costs one thread, in nanoseconds, by instruction set: fits
 * to one-thread runs on cold weights, M = 1 to 512 (docs/cpu-kernels.md); AVX2 on a Zen 3 server core, AVX-512 on an
 * Intel Xeon with AMX (Sapphire Rapids class). Only the ranking of a device's configs rests on them. */
typedef struct line_cost {
    double unpack, direct_row; /* direct: once for a tile of rows, and for each row */
    double expand, panel_row;  /* panel: once for all rows, and for each row */
} line_cost;

static const line_cost COSTS[] = {
    [W4_CPU_REFERENCE] = {.expand = 500, .panel_row = 80},
    [W4_CPU_AVX2] = {.unpack = 1.9, .direct_row = 2.0, .expand = 6.6, .panel_row = 1.9},
    [W4_CPU_AVX512] = {.unpack = 2.0, .direct_row = 0.83, .expand = 6.5, .panel_row = 0.93},
};

static const double READ_NANOSECONDS = 3.6; /* of a line out of memory, for one of two threads that both read */

double w4_cpu_config_cost(const w4_device *device, size_t index, const w4_problem *problem) {
    const w4_cpu_config *config = &w4_cpu_configs[index];
    const line_cost *cost = &COSTS[config->level];
    int64_t tile_n = config->public.tile_n, lines_k = w4_ceil_divide(problem->k, W4_CPU_LINE_K);
    int64_t tiles_n = w4_ceil_divide(problem->n, tile_n), tiles = w4_ceil_divide(problem->m, config->public.tile_m);
    double lines = (double)(tiles_n * tile_n / W4_CPU_PANEL) * (double)lines_k;
    double rows = (double)(tiles * w4_ceil_divide(problem->m, tiles)), nanoseconds;
    if (config->method == W4_CPU_METHOD_DIRECT)
        nanoseconds = (double)tiles * cost->unpack + rows * cost->direct_row;
    else
        nanoseconds = cost->expand + rows * cost->panel_row;
    if (nanoseconds < READ_NANOSECONDS) nanoseconds = READ_NANOSECONDS;
    double parts =
        (double)w4_minimum(w4_cpu_config_threads(device, index), config->method == W4_CPU_METHOD_DIRECT ? tiles_n : tiles_n * tiles);
    return 1e-9 * lines * nanoseconds / parts;
}
