/* SPDX-License-Identifier: Apache-2.0
 * What the fast kernels of every instruction set share: bringing activations to fixed point, cutting the work into
 * tasks, and handing the rows that fixed point cannot hold to the reference. All memory is the caller's workspace. */
#include "backend/cpu/cpu.h"

#include "core/half.h"
#include "core/memory.h"

#include <string.h>

enum {
    GROUP_TILES = 8,    /* n tiles that one panel task takes through a chunk of k together, so that A's share of the
                           chunk is read from the L2 cache and not from further away */
    CONVERT_BLOCKS = 16 /* blocks of A that one conversion task takes */
};

/** One chunk of rows. The arrays lie in the workspace. */
typedef struct fast_job {
    const w4_run *run;
    const w4_device_weight *weight;
    const w4_cpu_config *config;
    const w4_cpu_kernels *kernels;
    int64_t row, rows;            /* of A and C */
    int64_t tile_rows, tiles;     /* rows are taken tile_rows at a time, the last tile filled up with zeros */
    int64_t rows_padded, blocks;  /* tiles * tile_rows; of k */
    int64_t k_chunk;              /* columns that are side by side in `values` */
    int64_t segments;             /* conversion tasks for each row */
    int64_t n_tiles, group_tiles; /* panel tasks: all of N, and of one task */
    int64_t m_parts;              /* parts of the rows that are tasks of their own */
    int32_t *values;              /* [k chunk][tile][column pair][tile_rows] */
    float *scale, *sum;           /* [block][rows_padded] */
    uint8_t *slow;                /* [rows]: 1 where the reference must do the row */
    uint8_t *uneven;              /* [rows]: 1 where the row has outliers */
    uint8_t *outlier_counts;      /* [rows_padded][blocks], set in rows that have outliers */
    w4_cpu_outlier *outliers;     /* [rows_padded][blocks][W4_CPU_OUTLIERS] */
    uint8_t *scratch;             /* [thread] of scratch_bytes: panel kernels only */
    size_t scratch_bytes;
} fast_job;

/** A thread's part of the workspace of a panel config. */
typedef struct panel_scratch {
    int32_t *w;
    float *scales, *zeros;
    float *sums; /* [group tile][rows_padded][tile_n] */
    size_t bytes;
} panel_scratch;

static size_t align(size_t bytes) {
    return (bytes + W4_WORKSPACE_ALIGNMENT - 1) / W4_WORKSPACE_ALIGNMENT * W4_WORKSPACE_ALIGNMENT;
}

static panel_scratch lay_out_scratch(uint8_t *base, const w4_cpu_config *config, int64_t rows_padded, int64_t block) {
    size_t tile_n = (size_t)config->public.tile_n, tile_k = (size_t)config->public.tile_k;
    size_t w = align(tile_k * tile_n * sizeof(int16_t)),
           scales = align(tile_k / (size_t)block * tile_n * sizeof(float));
    size_t sums = align(GROUP_TILES * (size_t)rows_padded * tile_n * sizeof(float));
    panel_scratch scratch = {0};
    scratch.bytes = w + 2 * scales + sums;
    if (!base) return scratch;
    scratch.w = (int32_t *)(void *)base;
    scratch.scales = (float *)(void *)(base + w);
    scratch.zeros = (float *)(void *)(base + w + scales);
    scratch.sums = (float *)(void *)(base + w + 2 * scales);
    return scratch;
}

/** Cut a chunk's arrays from `base` (NULL: only add up) and return the bytes taken. */
static size_t lay_out(fast_job *job, uint8_t *base, int64_t k_padded, int64_t block, int threads) {
    size_t values = align((size_t)(job->rows_padded * k_padded) * sizeof(int16_t));
    size_t factors = align((size_t)(job->rows_padded * (k_padded / block)) * sizeof(float));
    size_t flags = align((size_t)job->rows_padded), counts = align((size_t)(job->rows_padded * (k_padded / block)));
    size_t outliers = align(counts * W4_CPU_OUTLIERS * sizeof(w4_cpu_outlier));
    job->scratch_bytes = job->config->method == W4_CPU_METHOD_PANEL
                             ? lay_out_scratch(NULL, job->config, job->rows_padded, block).bytes
                             : 0;
    if (base) {
        job->values = (int32_t *)(void *)base;
        base += values;
        job->scale = (float *)(void *)base;
        job->sum = (float *)(void *)(base + factors);
        base += 2 * factors;
        job->slow = base;
        job->uneven = base + flags;
        base += 2 * flags;
        job->outlier_counts = base;
        job->outliers = (w4_cpu_outlier *)(void *)(base + counts);
        job->scratch = base + counts + outliers;
    }
    return values + 2 * factors + 2 * flags + counts + outliers + (size_t)threads * job->scratch_bytes;
}

/** Tiles of about equal height: 8 rows are two tiles of 4 and not one of 6 and one of 2. */
static void cut_rows(fast_job *job, int64_t rows) {
    int64_t most = job->config->public.tile_m;
    job->rows = rows;
    job->tiles = w4_ceil_divide(rows, most);
    job->tile_rows = w4_ceil_divide(rows, job->tiles);
    job->rows_padded = job->tiles * job->tile_rows;
}

size_t w4_cpu_fast_workspace(int threads, const w4_cpu_config *config, const w4_problem *problem) {
    int64_t block = w4_cpu_block_columns(problem->k, problem->group_size);
    fast_job job = {.config = config};
    cut_rows(&job, w4_minimum(w4_maximum(problem->m, 1), W4_CPU_CHUNK_ROWS));
    return lay_out(&job, NULL, w4_round_up(problem->k, block), block, threads);
}

/* ---- Activations --------------------------------------------------------------------------------------------- */

/** 128 columns of a row as 16-bit values, gathered by k_order, with zeros from k up. */
static const uint16_t *gather(const fast_job *job, int64_t row, int64_t column, uint16_t buffer[W4_CPU_BLOCK]) {
    const w4_device_weight *weight = job->weight;
    const uint16_t *source = (const uint16_t *)job->run->a + (job->row + row) * job->run->lda;
    const int32_t *order = weight->k_order;
    int64_t count = w4_minimum(weight->block, weight->k - column);
    if (!order && count == weight->block) return source + column;
    memset(buffer, 0, W4_CPU_BLOCK * sizeof *buffer);
    for (int64_t i = 0; i < count; i++) buffer[i] = source[order ? order[column + i] : column + i];
    return buffer;
}

/** Where one block of one row goes. */
typedef struct block_place {
    int32_t *pairs;
    int64_t row, block, at; /* at: in `scale` and `sum` */
    bool is_bf16;
} block_place;

static w4_cpu_fit convert_block(fast_job *job, const block_place *place, const uint16_t *source) {
    return job->kernels->convert(source, job->weight->block, place->is_bf16, place->pairs, job->tile_rows,
                                 &job->scale[place->at], &job->sum[place->at]);
}

/** Take the largest values out of an uneven block until it fits, or W4_CPU_OUTLIERS of them are out. */
static w4_cpu_fit take_outliers(fast_job *job, const block_place *place, uint16_t buffer[W4_CPU_BLOCK]) {
    int64_t index = place->row * job->blocks + place->block, length = job->weight->block;
    w4_cpu_outlier *outliers = job->outliers + index * W4_CPU_OUTLIERS;
    w4_cpu_fit fit = W4_CPU_UNEVEN;
    uint8_t count = 0;
    while (fit == W4_CPU_UNEVEN && count < W4_CPU_OUTLIERS) {
        int64_t largest = 0;
        for (int64_t i = 1; i < length; i++)
            if ((buffer[i] & 0x7fff) > (buffer[largest] & 0x7fff)) largest = i;
        float value = place->is_bf16 ? w4_bf16_to_float(buffer[largest]) : w4_fp16_to_float(buffer[largest]);
        outliers[count++] = (w4_cpu_outlier){(int32_t)(place->block * length + largest), value};
        buffer[largest] = 0;
        fit = convert_block(job, place, buffer);
    }
    job->outlier_counts[index] = count;
    return fit;
}

/** Task = (row, run of blocks). Rows past the chunk's end become zeros. */
static void convert_task(void *user, int64_t task, int thread) {
    fast_job *job = user;
    const w4_device_weight *weight = job->weight;
    int64_t row = task / job->segments, tile = row / job->tile_rows, lane = row % job->tile_rows;
    int64_t first = task % job->segments * CONVERT_BLOCKS, last = w4_minimum(first + CONVERT_BLOCKS, job->blocks);
    block_place place = {.row = row, .is_bf16 = job->run->problem.a_dtype == W4A16_BF16};
    static const uint16_t nothing[W4_CPU_BLOCK];
    (void)thread;
    for (int64_t block = first; block < last; block++) {
        uint16_t buffer[W4_CPU_BLOCK];
        int64_t column = block * weight->block, chunk = column / job->k_chunk * job->k_chunk;
        int64_t width = w4_minimum(job->k_chunk, weight->k_padded - chunk);
        place.pairs = job->values + chunk / 2 * job->rows_padded + tile * job->tile_rows * (width / 2) +
                      (column - chunk) / 2 * job->tile_rows + lane;
        place.block = block;
        place.at = block * job->rows_padded + row;
        job->outlier_counts[row * job->blocks + block] = 0;
        const uint16_t *source = row < job->rows ? gather(job, row, column, buffer) : nothing;
        w4_cpu_fit fit = convert_block(job, &place, source);
        if (fit == W4_CPU_UNEVEN) {
            if (source != buffer) memcpy(buffer, source, (size_t)weight->block * sizeof *buffer);
            fit = take_outliers(job, &place, buffer);
            __atomic_store_n(&job->uneven[row], 1, __ATOMIC_RELAXED); /* several tasks may store the same 1 */
        }
        if (fit == W4_CPU_OUT_OF_RANGE) __atomic_store_n(&job->slow[row], 1, __ATOMIC_RELAXED);
    }
}

/* ---- Tasks --------------------------------------------------------------------------------------------------- */

static void load_bias(const w4_run *run, int64_t panel, float bias[W4_CPU_PANEL]) {
    int64_t first = panel * W4_CPU_PANEL, count = w4_minimum(W4_CPU_PANEL, run->weight->n - first);
    memset(bias, 0, W4_CPU_PANEL * sizeof *bias);
    for (int64_t i = 0; i < count && run->bias; i++)
        bias[i] = w4_load_float(run->bias, run->bias_dtype, (size_t)(first + i));
}

/** Blocks in a group; with one group for each row of W, more blocks than there are. */
static int64_t blocks_per_group(const w4_device_weight *weight) {
    return weight->groups == 1 ? weight->k_padded / weight->block + 1 : weight->group_size / weight->block;
}

/** The outliers of a row, block by block, after everything else: one order for every kernel. */
static void add_outliers(const fast_job *job, int64_t row, const uint8_t *packed, float sums[W4_CPU_PANEL]) {
    const w4_device_weight *weight = job->weight;
    w4_cpu_outlier_job call = {
        .block = weight->block,
        .blocks_per_group = blocks_per_group(weight),
        .codes = packed,
        .scales = packed + weight->scale_offset,
        .zeros = packed + weight->zero_offset,
        .scale_dtype = weight->scale_dtype,
        .zero_kind = weight->zero_kind,
        .sums = sums,
    };
    for (int64_t block = 0; block < job->blocks; block++) {
        int64_t index = row * job->blocks + block;
        call.count = job->outlier_counts[index];
        call.outliers = job->outliers + index * W4_CPU_OUTLIERS;
        if (call.count) job->kernels->add_outliers(&call);
    }
}

static void store_row(const fast_job *job, int64_t row, int64_t panel, float *sums, const float *bias) {
    const w4_run *run = job->run;
    if (job->uneven[row]) add_outliers(job, row, w4_cpu_panel(job->weight, panel), sums);
    int64_t first = panel * W4_CPU_PANEL, count = w4_minimum(W4_CPU_PANEL, job->weight->n - first);
    uint16_t *c = (uint16_t *)run->c + (job->row + row) * run->ldc + first;
    job->kernels->store(sums, bias, run->alpha, c, run->problem.c_dtype == W4A16_BF16, count);
}

/** Task = panel. */
static void direct_task(void *user, int64_t panel, int thread) {
    const fast_job *job = user;
    const w4_device_weight *weight = job->weight;
    const uint8_t *packed = w4_cpu_panel(weight, panel);
    float bias[W4_CPU_PANEL], sums[W4_CPU_MAX_TILE_M * W4_CPU_PANEL];
    w4_cpu_direct call = {
        .a_stride = job->rows_padded,
        .blocks = job->blocks,
        .block = weight->block,
        .blocks_per_group = blocks_per_group(weight),
        .codes = packed,
        .scales = packed + weight->scale_offset,
        .zeros = packed + weight->zero_offset,
        .scale_dtype = weight->scale_dtype,
        .zero_kind = weight->zero_kind,
        .sums = sums,
    };
    (void)thread;
    load_bias(job->run, panel, bias);
    for (int64_t tile = 0; tile < job->tiles; tile++) {
        int64_t row = tile * job->tile_rows, rows = w4_minimum(job->tile_rows, job->rows - row);
        call.a = job->values + row * (weight->k_padded / 2);
        call.a_scale = job->scale + row;
        call.a_sum = job->sum + row;
        job->kernels->direct[job->tile_rows](&call);
        for (int64_t r = 0; r < rows; r++) store_row(job, row + r, panel, sums + r * W4_CPU_PANEL, bias);
    }
}

/** Expand the panels of one n tile, columns k..k+width; where the tile is wider than what is left of N, zeros. */
static void expand_tile(const fast_job *job, const panel_scratch *scratch, int64_t n_tile, int64_t k, int64_t width) {
    const w4_device_weight *weight = job->weight;
    int64_t tile_n = job->config->public.tile_n, panels = tile_n / W4_CPU_PANEL, blocks = width / weight->block;
    for (int64_t i = 0; i < panels; i++) {
        int64_t panel = n_tile * panels + i, offset = i * W4_CPU_PANEL;
        if (panel >= weight->panels) {
            for (int64_t pair = 0; pair < width / 2; pair++)
                memset(scratch->w + pair * tile_n + offset, 0, W4_CPU_PANEL * sizeof(int32_t));
            for (int64_t block = 0; block < blocks; block++) {
                memset(scratch->scales + block * tile_n + offset, 0, W4_CPU_PANEL * sizeof(float));
                memset(scratch->zeros + block * tile_n + offset, 0, W4_CPU_PANEL * sizeof(float));
            }
            continue;
        }
        const uint8_t *packed = w4_cpu_panel(weight, panel);
        w4_cpu_expand call = {
            .codes = packed + k / W4_CPU_LINE_K * W4_CPU_LINE,
            .scales = packed + weight->scale_offset,
            .zeros = packed + weight->zero_offset,
            .scale_dtype = weight->scale_dtype,
            .zero_kind = weight->zero_kind,
            .first_block = k / weight->block,
            .blocks = blocks,
            .block = weight->block,
            .blocks_per_group = blocks_per_group(weight),
            .tile_n = tile_n,
            .w = scratch->w + offset,
            .w_scales = scratch->scales + offset,
            .w_zeros = scratch->zeros + offset,
        };
        job->kernels->expand(&call);
    }
}

/** Task = (some n tiles, part of the rows). */
static void panel_task(void *user, int64_t task, int thread) {
    const fast_job *job = user;
    const w4_device_weight *weight = job->weight;
    int64_t tile_n = job->config->public.tile_n, first = task / job->m_parts * job->group_tiles;
    int64_t count = w4_minimum(job->group_tiles, job->n_tiles - first), part = task % job->m_parts;
    int64_t tile_begin = job->tiles * part / job->m_parts, tile_end = job->tiles * (part + 1) / job->m_parts;
    panel_scratch scratch = lay_out_scratch(job->scratch + (size_t)thread * job->scratch_bytes, job->config,
                                            job->rows_padded, weight->block);
    memset(scratch.sums, 0, (size_t)(count * job->rows_padded * tile_n) * sizeof(float));
    for (int64_t k = 0; k < weight->k_padded; k += job->k_chunk) {
        int64_t width = w4_minimum(job->k_chunk, weight->k_padded - k), block = k / weight->block;
        for (int64_t i = 0; i < count; i++) {
            expand_tile(job, &scratch, first + i, k, width);
            for (int64_t tile = tile_begin; tile < tile_end; tile++) {
                int64_t row = tile * job->tile_rows;
                w4_cpu_panel_tile call = {
                    .a = job->values + k / 2 * job->rows_padded + row * (width / 2),
                    .a_scale = job->scale + block * job->rows_padded + row,
                    .a_sum = job->sum + block * job->rows_padded + row,
                    .a_stride = job->rows_padded,
                    .blocks = width / weight->block,
                    .block = weight->block,
                    .w = scratch.w,
                    .scales = scratch.scales,
                    .zeros = scratch.zeros,
                    .sums = scratch.sums + (i * job->rows_padded + row) * tile_n,
                };
                job->kernels->panel[job->tile_rows](&call);
            }
        }
    }
    int64_t row_end = w4_minimum(tile_end * job->tile_rows, job->rows), panels = tile_n / W4_CPU_PANEL;
    for (int64_t i = 0; i < count * panels; i++) {
        int64_t panel = first * panels + i;
        float bias[W4_CPU_PANEL];
        if (panel >= weight->panels) break;
        load_bias(job->run, panel, bias);
        float *sums = scratch.sums + i / panels * job->rows_padded * tile_n + i % panels * W4_CPU_PANEL;
        for (int64_t row = tile_begin * job->tile_rows; row < row_end; row++)
            store_row(job, row, panel, sums + row * tile_n, bias);
    }
}

/** Task = panel: the rows that fixed point could not hold. */
static void slow_task(void *user, int64_t panel, int thread) {
    const fast_job *job = user;
    (void)thread;
    for (int64_t row = 0; row < job->rows; row++) {
        int64_t end = row;
        while (end < job->rows && job->slow[end]) end++;
        if (end == row) continue;
        w4_cpu_reference_panel(job->run, job->row + row, end - row, panel);
        row = end;
    }
}

/** Few n tiles for many threads: smaller groups first, then parts of the rows. */
static void cut_panel_tasks(fast_job *job, int threads) {
    job->n_tiles = w4_ceil_divide(job->weight->n, job->config->public.tile_n);
    job->group_tiles = w4_maximum(1, w4_minimum(GROUP_TILES, job->n_tiles / (2 * (int64_t)threads)));
    job->m_parts = 1;
    if (job->n_tiles < threads) job->m_parts = w4_minimum(job->tiles, w4_ceil_divide(threads, job->n_tiles));
}

void w4_cpu_fast_run(const w4_device *device, int threads, const w4_cpu_config *config, const w4_run *run) {
    const w4_device_weight *weight = run->weight;
    int64_t chunks = w4_ceil_divide(run->m, W4_CPU_CHUNK_ROWS);
    fast_job job = {
        .run = run,
        .weight = weight,
        .config = config,
        .kernels = w4_cpu_kernels_of(config->level),
        .blocks = weight->k_padded / weight->block,
        .k_chunk = config->method == W4_CPU_METHOD_PANEL ? config->public.tile_k : weight->k_padded,
    };
    job.segments = w4_ceil_divide(job.blocks, CONVERT_BLOCKS);
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        job.row = run->m * chunk / chunks;
        cut_rows(&job, run->m * (chunk + 1) / chunks - job.row);
        lay_out(&job, run->workspace, weight->k_padded, weight->block, threads);
        memset(job.slow, 0, (size_t)job.rows_padded);
        memset(job.uneven, 0, (size_t)job.rows_padded);
        w4_cpu_parallel(device, job.rows_padded * job.blocks < W4_CPU_CONVERT_SHARE ? 1 : threads,
                        job.rows_padded * job.segments, convert_task, &job);
        if (config->method == W4_CPU_METHOD_PANEL) {
            cut_panel_tasks(&job, threads);
            int64_t groups = w4_ceil_divide(job.n_tiles, job.group_tiles);
            w4_cpu_parallel(device, threads, groups * job.m_parts, panel_task, &job);
        } else {
            w4_cpu_parallel(device, threads, weight->panels, direct_task, &job);
        }
        if (memchr(job.slow, 1, (size_t)job.rows)) w4_cpu_parallel(device, threads, weight->panels, slow_task, &job);
    }
}
