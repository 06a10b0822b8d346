/* SPDX-License-Identifier: Apache-2.0
 * The table of configs, which of them a device may run, and the cost model that ranks them. */
#include "backend/cpu/cpu.h"

#include "core/memory.h"

#include <math.h>
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

/* What one thread takes, in nanoseconds: fits to the least times of calls with cold weights, M = 1 to 128, N and K from
 * 64 to 2048, on two cores of an AMD EPYC with AVX-512, shared with other work (docs/cpu-kernels.md). Of a line (64
 * bytes of a panel: 16 rows of W, 8 columns), by instruction set: */
typedef struct line_cost {
    double unpack, direct_row; /* direct: once for a tile of rows, and for each row */
    double expand, panel_row;  /* panel: once for all rows, and for each row */
} line_cost;

static const line_cost COSTS[] = {
    [W4_CPU_REFERENCE] = {.expand = 62, .panel_row = 60},
    [W4_CPU_AVX2] = {.unpack = 0.62, .direct_row = 1.43, .expand = 5.6, .panel_row = 1.20},
    [W4_CPU_AVX512] = {.unpack = 0.67, .direct_row = 0.89, .expand = 5.8, .panel_row = 0.92},
};

static const double READ = 2.5;     /* a line out of memory */
static const double CALL = 100;     /* a call */
static const double CONVERT = 55;   /* 128 activations to fixed point */
static const double TASK = 25;      /* a panel */
static const double STORE = 12;     /* a row of a panel */
static const double FORK = 2000;    /* waking two threads and waiting for both, where they spin */
static const double ONE_MORE = 100; /* and for each that the context has more, and again where it works, too */
/* 64 bytes that another core's cache holds: converted activations, and rows of C that another thread wrote last. */
static const double FETCH_A = 25, FETCH_C = 12;

double w4_cpu_config_cost(const w4_device *device, size_t index, const w4_problem *problem) {
    const w4_cpu_config *config = &w4_cpu_configs[index];
    const line_cost *cost = &COSTS[config->level];
    bool direct = config->method == W4_CPU_METHOD_DIRECT;
    int64_t tile_n = config->public.tile_n, tiles_n = w4_ceil_divide(problem->n, tile_n);
    int64_t tiles = w4_ceil_divide(problem->m, config->public.tile_m), tasks = direct ? tiles_n : tiles_n * tiles;
    int64_t threads = w4_minimum(w4_cpu_config_threads(device, index), tasks);
    double panels = (double)(tiles_n * tile_n / W4_CPU_PANEL), m = (double)problem->m, k = (double)problem->k;
    double lines = panels * (double)w4_ceil_divide(problem->k, W4_CPU_LINE_K);
    double rows = (double)(tiles * w4_ceil_divide(problem->m, tiles));
    double line =
        direct ? (double)tiles * cost->unpack + rows * cost->direct_row : cost->expand + rows * cost->panel_row;
    if (line < READ) line = READ;
    double work = lines * line + panels * (TASK + rows * STORE), convert = 0, shared = 0, forks = 0;
    if (config->method != W4_CPU_METHOD_REFERENCE) convert = rows * k / W4_CPU_BLOCK * CONVERT;
    if (threads > 1) {
        int64_t blocks = w4_ceil_divide(problem->k, w4_cpu_block_columns(problem->k, problem->group_size));
        bool together = rows * (double)blocks >= W4_CPU_CONVERT_SHARE; /* conversion is a parallel region of its own */
        double calls = ceil(m / W4_CPU_CHUNK_ROWS);
        work *= (double)w4_ceil_divide(tasks, threads) / (double)tasks;
        if (together) convert /= (double)threads;
        forks = calls * (together ? 2 : 1) * (FORK + ONE_MORE * (double)(device->threads + threads - 4));
        shared = m * 2 / 64 * (k * FETCH_A + (double)problem->n * FETCH_C);
    }
    return 1e-9 * (CALL + convert + work + forks + shared);
}
