/* SPDX-License-Identifier: Apache-2.0
 * One multiplication on the caller's stream: tensor map, parameters, launch. Nothing here allocates or waits, so that a
 * call can stand in a graph capture. */
#include "backend/cuda/device.h"

#include "core/memory.h"
#include "sm80/decode_params.h"
#include "sm80/gemm_params.h"
#include "sm90/gemm_params.h"
#include "sm90/shape.h"

#include <stdatomic.h>
#include <time.h>

enum {
    GATHER_COLUMNS = 64, /* rows of the gathered copy are filled up to a multiple of this */
    GATHER_THREADS = 256,
    MAP_ALIGNMENT =
        16 /* what a tensor map, or a copy of 16 bytes, asks of an address and of the bytes from row to row */
};

/** Bytes from row to row that a tensor map can hold: below 2^40. */
static const int64_t MAP_LARGEST_STRIDE = (INT64_C(1) << 40) - MAP_ALIGNMENT;

/** Of the workspace, what the copy of A takes: whether a call needs the copy is known when its pointer and stride are,
 * and a plan must serve them all, so that the room is always asked for. */
static size_t gather_bytes(const w4_problem *problem) {
    uint64_t bytes = (uint64_t)problem->m * (uint64_t)w4_round_up(problem->k, GATHER_COLUMNS) * 2;
    return (size_t)w4_round_up((int64_t)bytes, W4_WORKSPACE_ALIGNMENT);
}

size_t w4_cuda_workspace_size(const w4_device *device, size_t index, const w4_problem *problem) {
    w4_cuda_shape shape = w4_cuda_shape_make(device, index, problem, problem->m);
    return gather_bytes(problem) + shape.partial_bytes +
           (size_t)w4_round_up((int64_t)shape.flag_bytes, W4_WORKSPACE_ALIGNMENT);
}

w4a16_status w4_cuda_prepare(const w4_device *device, size_t index, const w4_problem *problem) {
    CUfunction function;
    W4_TRY(w4_cuda_enter(device));
    w4a16_status status = w4_cuda_gemm_kernel(device, index, problem, &function);
    if (!status) status = w4_cuda_gather_kernel(device, &function);
    w4_cuda_leave();
    return status;
}

/** Copy A into the workspace, in the order of the weight's columns and aligned as the kernels need it. */
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

/** A matrix [rows, columns] of 16-bit numbers, as a tensor map describes it. */
typedef struct matrix {
    const void *data;
    int64_t rows, columns, stride; /* in bytes */
    w4a16_dtype dtype;
    int32_t box_rows, box_columns; /* what one copy takes */
    int32_t blocks;                /* 0: a map of 2 dimensions; else of 3, and a copy takes `blocks` of 64 columns */
    bool few_rows;                 /* less than a tile has: each block of 64 columns by a copy of its own */
    CUtensorMapSwizzle swizzle;
    CUtensorMapL2promotion promotion;
} matrix;

/** Of the three dimensions of A's map, the columns of a block, the rows, and the blocks, the last would run into the
 * next row where its length is no multiple of 64, and a copy of several blocks leaves no room for rows between them:
 * then all columns are of the first, and a copy takes one block. */
static bool whole_blocks(const matrix *from) {
    return from->columns % W4_BLOCK_COLUMNS == 0 && !from->few_rows;
}

static w4a16_status make_map(const matrix *from, CUtensorMap *map) {
    const bool whole = from->blocks && whole_blocks(from);
    cuuint64_t sizes[] = {(cuuint64_t)(whole ? W4_BLOCK_COLUMNS : from->columns), (cuuint64_t)from->rows,
                          (cuuint64_t)(whole ? from->columns / W4_BLOCK_COLUMNS : 1)};
    cuuint64_t strides[] = {(cuuint64_t)from->stride, W4_BLOCK_COLUMNS * 2};
    cuuint32_t box[] = {(cuuint32_t)from->box_columns, (cuuint32_t)from->box_rows,
                        (cuuint32_t)(whole ? from->blocks : 1)};
    cuuint32_t steps[] = {1, 1, 1};
    CUtensorMapDataType type =
        from->dtype == W4A16_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    return w4_cuda_call(cuTensorMapEncodeTiled, map, type, from->blocks ? 3 : 2, (void *)(uintptr_t)from->data, sizes,
                        strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, from->swizzle, from->promotion,
                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

/** A number that no workspace holds but by a chance of 2^-64: a counter that starts at the time of day, scrambled by
 * splitmix64 (Steele, Lea, Flood 2014), which maps different numbers to different ones. */
static uint64_t next_ticket(void) {
    static atomic_uint_fast64_t counter;
    uint64_t x = atomic_fetch_add_explicit(&counter, 1, memory_order_relaxed);
    if (x == 0) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        x = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
        atomic_fetch_add_explicit(&counter, x, memory_order_relaxed);
    }
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    x ^= x >> 31;
    return x ? x : 1;
}

static w4_gemm_params make_params(const w4_run *run) {
    const w4_device_weight *weight = run->weight;
    return (w4_gemm_params){
        .packed = (const uint8_t *)(uintptr_t)weight->packed,
        .units = (const float *)(uintptr_t)weight->units,
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
}

/** Launch a GEMM kernel. waits: it waits by itself for the kernel before it, and so may start while that one runs. */
static w4a16_status launch(const w4_device *device, const w4_run *run, const w4_cuda_shape *shape, bool waits,
                           void **arguments) {
    const w4_cuda_config *config = &w4_cuda_configs[run->config];
    CUfunction function;
    W4_TRY(w4_cuda_gemm_kernel(device, run->config, &run->problem, &function));
    CUlaunchAttribute attributes[2];
    unsigned count = 0;
    if (waits && !(run->problem.flags & W4A16_PLAN_NO_OVERLAP)) {
        attributes[count].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attributes[count++].value.programmaticStreamSerializationAllowed = 1;
    }
    int32_t cluster = config->split ? config->split : config->cluster;
    if (cluster > 1) {
        attributes[count].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attributes[count].value.clusterDim.x = (unsigned)cluster;
        attributes[count].value.clusterDim.y = attributes[count].value.clusterDim.z = 1;
        count++;
    }
    CUlaunchConfig how = {
        .gridDimX = shape->grid,
        .gridDimY = 1,
        .gridDimZ = 1,
        .blockDimX = shape->threads,
        .blockDimY = 1,
        .blockDimZ = 1,
        .sharedMemBytes = (unsigned)shape->shared_bytes,
        .hStream = run->stream,
        .attrs = attributes,
        .numAttrs = count,
    };
    return w4_cuda_call(cuLaunchKernelEx, &how, function, arguments, NULL);
}

/** Rows of C that begin at multiples of 16 bytes take 8 results in one store, or a tensor map. */
static bool stores_whole(const w4_run *run) {
    return (uintptr_t)run->c % MAP_ALIGNMENT == 0 && run->ldc % 8 == 0 && run->ldc <= MAP_LARGEST_STRIDE / 2;
}

/** Where in the workspace split tiles are put together. */
typedef struct exchange {
    float *partials;
    uint64_t *flags;
    uint64_t ticket;
} exchange;

static exchange make_exchange(const w4_run *run, const w4_cuda_shape *shape) {
    if (!shape->schedule.split_tiles) return (exchange){NULL, NULL, 0};
    char *room = (char *)run->workspace + gather_bytes(&run->problem);
    return (exchange){(float *)(void *)room, (uint64_t *)(void *)(room + shape->partial_bytes), next_ticket()};
}

/** A[m, k] with rows `stride` bytes apart, aligned. */
static w4a16_status launch_sm90(const w4_device *device, const w4_run *run, const void *a, int64_t stride) {
    const w4_cuda_config *config = &w4_cuda_configs[run->config];
    w4_cuda_shape shape = w4_cuda_shape_make(device, run->config, &run->problem, run->m);
    exchange split = make_exchange(run, &shape);
    int64_t group_size = run->problem.group_size;
    bool one_group = group_size >= run->problem.k;
    /* A box is what a CTA copies at a time; of C, what a warp stores at a time. */
    int32_t tile_m = config->public.tile_m, tile_k = config->public.tile_k;
    const bool few_rows = W4_SM90_FEW_TOKENS(run->m, tile_m, config->cluster);
    const matrix matrix_a = {.data = a,
                             .rows = run->m,
                             .columns = run->problem.k,
                             .stride = stride,
                             .dtype = run->problem.a_dtype,
                             .box_rows =
                                 few_rows ? (int32_t)run->m : W4_SM90_COPY_TOKENS(tile_m, tile_k, config->cluster),
                             .box_columns = W4_BLOCK_COLUMNS,
                             .blocks = W4_SM90_COPY_BLOCKS(tile_k, config->cluster),
                             .few_rows = few_rows,
                             .swizzle = CU_TENSOR_MAP_SWIZZLE_128B,
                             .promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B};
    w4_sm90_gemm_params params = {
        .gemm = make_params(run),
        .schedule = shape.schedule,
        .ring = shape.ring,
        .slot_bytes = shape.slot_bytes,
        .lines = shape.lines,
        .stage_stride = shape.slot_bytes * (config->public.tile_n / config->cluster / W4_BLOCK_ROWS),
        .group_blocks = one_group ? INT32_MAX : (int32_t)(group_size / W4_BLOCK_COLUMNS),
        /* Kernels for any group have all lines of a chunk in each stage. */
        .group_stages = config->any_group ? 1
                        : one_group       ? INT32_MAX
                                          : (int32_t)w4_maximum(group_size / tile_k, 1),
        .group_halves = one_group ? INT32_MAX : (int32_t)(group_size / 32),
        .whole_blocks = whole_blocks(&matrix_a),
        .a_bytes = (few_rows ? (int32_t)run->m : tile_m) * tile_k * 2,
        /* The copy engine leaves out what lies beyond n only by 16 bytes: it wrote past C where n was 1. */
        .store_whole = stores_whole(run) && run->problem.n % 8 == 0,
        .partials = split.partials,
        .flags = split.flags,
        .ticket = split.ticket,
    };
    const matrix matrix_c = {.data = run->c,
                             .rows = run->m,
                             .columns = run->problem.n,
                             .stride = run->ldc * 2,
                             .dtype = run->problem.c_dtype,
                             .box_rows = W4_SM90_STORE_TOKENS(tile_m),
                             .box_columns = W4_SLICE_ROWS,
                             .swizzle = CU_TENSOR_MAP_SWIZZLE_32B,
                             .promotion = CU_TENSOR_MAP_L2_PROMOTION_NONE};
    CUtensorMap map_a, map_c = {.opaque = {0}}; /* nobody looks at C's if its rows have no map */
    W4_TRY(make_map(&matrix_a, &map_a));
    if (params.store_whole) W4_TRY(make_map(&matrix_c, &map_c));
    void *arguments[] = {&map_a, &map_c, &params};
    return launch(device, run, &shape, true, arguments);
}

static w4a16_status launch_sm80(const w4_device *device, const w4_run *run, const void *a, int64_t stride) {
    w4_cuda_shape shape = w4_cuda_shape_make(device, run->config, &run->problem, run->m);
    exchange split = make_exchange(run, &shape);
    const w4_cuda_config *config = &w4_cuda_configs[run->config];
    int64_t k = run->problem.k, group_size = run->problem.group_size;
    bool one_group = group_size >= k;
    w4_sm80_gemm_params params = {
        .gemm = make_params(run),
        .a = a,
        .lda = stride / 2,
        .schedule = shape.schedule,
        .ring = shape.ring,
        .stage_bytes = shape.stage_bytes,
        .slot_bytes = shape.slot_bytes,
        .lines = shape.lines,
        .line_shift = one_group || group_size >= 256 ? 2
                      : group_size == 128            ? 1
                                                     : 0,
        .group_stages = one_group ? INT32_MAX : (int32_t)w4_maximum(group_size / config->public.tile_k, 1),
        .divider = w4_sm80_divider_make(k, group_size),
        .halves = group_size < k && group_size % W4_BLOCK_COLUMNS != 0,
        .store_whole = stores_whole(run),
        .partials = split.partials,
        .flags = split.flags,
        .ticket = split.ticket,
    };
    void *arguments[] = {&params};
    return launch(device, run, &shape, device->runs.overlaps, arguments);
}

static w4a16_status launch_decode(const w4_device *device, const w4_run *run, const void *a, int64_t stride) {
    const w4_cuda_config *config = &w4_cuda_configs[run->config];
    w4_cuda_shape shape = w4_cuda_shape_make(device, run->config, &run->problem, run->m);
    int64_t k = run->problem.k, group_size = w4_minimum(run->problem.group_size, k);
    int32_t slices = (int32_t)w4_ceil_divide(run->problem.n, W4_SLICE_ROWS), ctas = (int32_t)shape.grid;
    w4_decode_params params = {
        .gemm = make_params(run),
        .a = a,
        .lda = stride / 2,
        .slices = slices,
        .share = slices / ctas,
        .one_more = slices % ctas,
        .line_shift = 8,
        .span = W4_STEP_COLUMNS / shape.lines,
        .slot_bytes = shape.slot_bytes,
    };
    const w4_packed_layout *layout = &params.gemm.layout;
    params.gemm.group_size = (int32_t)group_size;
    int32_t pieces = (int32_t)(layout->scale_size + layout->zero_size);
    params.line_pieces = shape.lines * (config->public.tile_n / W4_SLICE_ROWS / config->row_warps) * pieces;
    params.pieces_reciprocal = (65536 + pieces - 1) / pieces;
    if (group_size < k) /* else the chunk's only line, however short k is */
        while (params.line_shift > 5 && 1 << params.line_shift > group_size) params.line_shift--;
    bool steady = group_size == k || group_size % W4_CHUNK_COLUMNS == 0 || W4_CHUNK_COLUMNS % group_size == 0;
    params.slow_lines = params.line_pieces > 32 || !steady;
    void *arguments[] = {&params};
    return launch(device, run, &shape, device->runs.overlaps, arguments);
}

static w4a16_status multiply(const w4_device *device, const w4_run *run) {
    const w4_device_weight *weight = run->weight;
    const void *a = run->a;
    int64_t stride = run->lda <= MAP_LARGEST_STRIDE / 2 ? run->lda * 2 : 0;
    const w4_cuda_config *config = &w4_cuda_configs[run->config];
    /* Kernels without a tensor map read 8 columns at a time, and count these pieces of a tile's rows in 32 bits. */
    bool ragged = config->sm80 && (weight->k % 8 || stride / MAP_ALIGNMENT > UINT32_MAX / config->public.tile_m);
    if (weight->k_order || (uintptr_t)a % MAP_ALIGNMENT || !stride || stride % MAP_ALIGNMENT || ragged) {
        int64_t columns = w4_round_up(weight->k, GATHER_COLUMNS);
        W4_TRY(gather(device, run, columns));
        a = run->workspace;
        stride = columns * 2;
    }
    if (config->decode) return launch_decode(device, run, a, stride);
    return config->sm80 ? launch_sm80(device, run, a, stride) : launch_sm90(device, run, a, stride);
}

w4a16_status w4_cuda_run(const w4_device *device, const w4_run *run) {
    const char *name = w4_cuda_configs[run->config].public.name;
    /* Callers that live with one GPU have its context current already: then a call need not change it. */
    CUcontext current = NULL;
    W4_TRY(w4_cuda_call(cuCtxGetCurrent, &current));
    bool outside = current != device->context;
    if (outside) W4_TRY(w4_cuda_enter(device));
    w4a16_status status = multiply(device, run);
    if (outside) w4_cuda_leave();
    return status ? w4_fail_context(status, "config %s: ", name) : W4A16_OK;
}
