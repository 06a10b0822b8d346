/* SPDX-License-Identifier: Apache-2.0
 * The table of configs, which problems each can run, and how it shares one out. */
#include "backend/cuda/device.h"

#include "core/memory.h"
#include "pack/fragment.h"
#include "sm80/decode_params.h"
#include "sm80/shape.h"
#include "sm90/shape.h"

#include <inttypes.h>
#include <stdio.h>

enum {
#define W4_SM90_KERNEL(name, ...) SLOT_##name,
#define W4_SM90_ANY_GROUP(name, ...) SLOT_##name,
#define W4_SM80_KERNEL(name, ...) SLOT_##name,
#define W4_SM80_ANY_GROUP(name, ...) SLOT_##name,
#define W4_SM80_DECODE(name, ...) SLOT_##name,
#include "sm80/kernels.def"
#include "sm90/kernels.def"
#undef W4_SM90_KERNEL
#undef W4_SM90_ANY_GROUP
#undef W4_SM80_KERNEL
#undef W4_SM80_ANY_GROUP
#undef W4_SM80_DECODE
};

const w4_cuda_config w4_cuda_configs[] = {
#define W4_SM90_ENTRY(kernel_name, suffix, tile_n, tile_m, tile_k, warpgroups, cluster_, pingpong_, resident_, zeros,  \
                      parts_, group_64_, any, streamk, split_)                                                         \
    {.public = {#kernel_name suffix, tile_m, (tile_n) * (cluster_), tile_k},                                           \
     .kernel = #kernel_name,                                                                                           \
     .warps = 4 * (warpgroups),                                                                                        \
     .cluster = cluster_,                                                                                              \
     .pingpong = pingpong_,                                                                                            \
     .parts = parts_,                                                                                                  \
     .resident = resident_,                                                                                            \
     .float_zeros = zeros,                                                                                             \
     .any_group = any,                                                                                                 \
     .group_64 = group_64_,                                                                                            \
     .stream_k = streamk,                                                                                              \
     .split = split_,                                                                                                  \
     .slot = SLOT_##kernel_name},
#define W4_SM90_SPLIT_0(...)
#define W4_SM90_SPLIT_2(name, ...) W4_SM90_ENTRY(name, "_split2", __VA_ARGS__, false, false, 2)
#define W4_SM90_KERNEL(name, n, m, k, warpgroups, cluster, pingpong, resident, zeros, split, parts, group_64)          \
    W4_SM90_ENTRY(name, "", n, m, k, warpgroups, cluster, pingpong, resident, zeros, parts, group_64, false, false, 0) \
    W4_SM90_ENTRY(name, "_streamk", n, m, k, warpgroups, cluster, pingpong, resident, zeros, parts, group_64, false,   \
                  true, 0)                                                                                             \
    W4_SM90_SPLIT_##split(name, n, m, k, warpgroups, cluster, pingpong, resident, zeros, parts, group_64)
#define W4_SM90_ANY_GROUP(name, n, m, k, warpgroups, cluster, pingpong, resident, zeros, split, parts, group_64)       \
    W4_SM90_ENTRY(name, "", n, m, k, warpgroups, cluster, pingpong, resident, zeros, parts, group_64, true, false, 0)  \
    W4_SM90_ENTRY(name, "_streamk", n, m, k, warpgroups, cluster, pingpong, resident, zeros, parts, group_64, true,    \
                  true, 0)
#define W4_SM80_ENTRY(kernel_name, suffix, tile_n, tile_m, tile_k, warps_, warps_m, parts_, resident_, zeros, any,     \
                      streamk)                                                                                         \
    {.public = {#kernel_name suffix, tile_m, tile_n, tile_k},                                                          \
     .kernel = #kernel_name,                                                                                           \
     .warps = warps_,                                                                                                  \
     .cluster = 1,                                                                                                     \
     .parts = parts_,                                                                                                  \
     .resident = resident_,                                                                                            \
     .float_zeros = zeros,                                                                                             \
     .any_group = any,                                                                                                 \
     .sm80 = true,                                                                                                     \
     .stream_k = streamk,                                                                                              \
     .slot = SLOT_##kernel_name},
#define W4_SM80_KERNEL(name, ...)                                                                                      \
    W4_SM80_ENTRY(name, "", __VA_ARGS__, false, false) W4_SM80_ENTRY(name, "_streamk", __VA_ARGS__, false, true)
#define W4_SM80_ANY_GROUP(name, ...)                                                                                   \
    W4_SM80_ENTRY(name, "", __VA_ARGS__, true, false) W4_SM80_ENTRY(name, "_streamk", __VA_ARGS__, true, true)
#define W4_SM80_DECODE(kernel_name, tile_n, tile_m, warps_, row_warps_, stages_, resident_)                            \
    {.public = {#kernel_name, tile_m, tile_n, W4_STEP_COLUMNS},                                                        \
     .kernel = #kernel_name,                                                                                           \
     .warps = warps_,                                                                                                  \
     .cluster = 1,                                                                                                     \
     .row_warps = row_warps_,                                                                                          \
     .resident = resident_,                                                                                            \
     .float_zeros = true,                                                                                              \
     .any_group = true,                                                                                                \
     .sm80 = true,                                                                                                     \
     .decode = true,                                                                                                   \
     .stages = stages_,                                                                                                \
     .slot = SLOT_##kernel_name},
#include "sm90/kernels.def"

#include "sm80/kernels.def"
#undef W4_SM90_KERNEL
#undef W4_SM90_ANY_GROUP
#undef W4_SM90_ENTRY
#undef W4_SM80_KERNEL
#undef W4_SM80_ANY_GROUP
#undef W4_SM80_ENTRY
#undef W4_SM80_DECODE
};

const size_t w4_cuda_config_count = sizeof w4_cuda_configs / sizeof *w4_cuda_configs;

/* Fewer stages than this for each worker, and adding up the parts costs more than sharing saves. */
enum { LEAST_RUN = 4 };

w4_packed_layout w4_cuda_layout(const w4_problem *problem) {
    return w4_packed_layout_make(problem->n, problem->k, problem->group_size,
                                 (int64_t)w4a16_dtype_size(problem->scale_dtype),
                                 (int64_t)w4_zero_size(problem->zero_kind));
}

/** Bands of about this many tokens keep both the activations and the weights of a wave of tiles small: least bytes for
 * 132 tiles come from four times as many out features as tokens, as a weight has a quarter of an activation's bytes. */
static const int64_t BAND_TOKENS = 1024;

static w4_schedule make_schedule(const w4_cuda_config *config, int32_t slots, const w4_problem *problem, int64_t m) {
    const w4_config *tile = &config->public;
    w4_schedule schedule = {
        .tiles_m = (int32_t)w4_ceil_divide(m, tile->tile_m),
        .tiles_n = (int32_t)w4_ceil_divide(problem->n, tile->tile_n),
        .stages = (int32_t)w4_ceil_divide(problem->k, tile->tile_k),
        .band = (int32_t)w4_maximum(BAND_TOKENS / tile->tile_m, 1),
    };
    int64_t tiles = (int64_t)schedule.tiles_m * schedule.tiles_n;
    schedule.workers = (int32_t)w4_minimum(tiles, slots);
    if (config->split) {
        schedule.split = config->split;
        schedule.workers = (int32_t)(tiles * config->split);
    }
    if (!config->stream_k || tiles % slots == 0) return schedule;
    /* The last, broken wave is shared out together with the one before it, so that no run is very short. */
    int64_t whole_waves = tiles / slots - 1;
    schedule.split_tiles = (int32_t)(whole_waves > 0 ? tiles - whole_waves * slots : tiles);
    int64_t stages = (int64_t)schedule.split_tiles * schedule.stages;
    schedule.workers = (int32_t)w4_minimum(slots, w4_maximum(stages / LEAST_RUN, 1));
    if (schedule.workers <= tiles && schedule.workers < slots) { /* too little to share */
        schedule.workers = (int32_t)w4_minimum(tiles, slots);
        schedule.split_tiles = 0;
    } else if (whole_waves <= 0) {
        /* Where that leaves few places empty, as many workers for each tile: a run is then a part of one tile, and its
         * sums are left, or taken, but once. 5 % less time at 4096 x 14336 and 64 tokens, with 4 for each of 32 tiles;
         * nothing where an eighth of the places would be empty. */
        int64_t even = schedule.workers / tiles * tiles;
        if (even * 8 > schedule.workers * 7) schedule.workers = (int32_t)even;
    }
    return schedule;
}

/** The most lines of scales that a stage of a kernel for groups of some sizes needs (fits_in_place). */
static int32_t lines_in_place(const w4_problem *problem, int32_t tile_k) {
    bool several = problem->group_size < problem->k && problem->group_size < tile_k;
    return several ? tile_k / (int32_t)problem->group_size : 1;
}

/** Shared memory of an sm90 block: stages, and how many of them. */
static void share_sm90(const w4_device *device, const w4_cuda_config *config, const w4_problem *problem,
                       w4_cuda_shape *shape) {
    const w4_config *tile = &config->public;
    w4_packed_layout layout = w4_cuda_layout(problem);
    int32_t tile_n = tile->tile_n / config->cluster;
    shape->resident = config->resident;
    shape->threads = 32 * (uint32_t)(4 + config->warps);
    /* Of a kernel for any group a stage is a chunk. */
    shape->lines = config->any_group ? (int32_t)layout.lines : lines_in_place(problem, tile->tile_k);
    shape->slot_bytes = w4_slot_bytes(&layout, tile->tile_k, shape->lines);
    int32_t stage = tile->tile_m * tile->tile_k * 2 + tile_n / W4_BLOCK_ROWS * shape->slot_bytes;
    int32_t room = config->resident > 1 ? W4_SM90_SHARED_OF_SM / config->resident - 1024 : device->shared_limit;
    int32_t fixed = w4_sm90_fixed_bytes(config->warps, tile_n, tile->tile_m, config->parts);
    shape->ring = (int32_t)w4_minimum((room - fixed) / stage, W4_SM90_MOST_STAGES);
    shape->ring -= shape->ring % config->parts; /* a place in the ring is one part's, which meets its rounds in order */
    shape->shared_bytes = fixed + shape->ring * stage;
}

/** The same of an sm80 block. GPUs differ in what an SM has: the most blocks whose rings have three stages, or one. */
static void share_sm80(const w4_device *device, const w4_cuda_config *config, const w4_problem *problem,
                       w4_cuda_shape *shape) {
    const w4_config *tile = &config->public;
    w4_packed_layout layout = w4_cuda_layout(problem);
    shape->threads = 32 * (uint32_t)config->warps;
    shape->lines = config->any_group ? w4_sm80_lines(problem->k, problem->group_size, tile->tile_k)
                                     : lines_in_place(problem, tile->tile_k);
    shape->slot_bytes = w4_slot_bytes(&layout, tile->tile_k, shape->lines);
    shape->stage_bytes = w4_sm80_stage_bytes(tile->tile_n, tile->tile_m, tile->tile_k, shape->slot_bytes);
    int64_t by_threads = w4_maximum(device->threads_of_sm / (int32_t)shape->threads, 1);
    for (shape->resident = (int32_t)w4_minimum(config->resident, by_threads);; shape->resident--) {
        int64_t share = device->shared_of_sm / shape->resident - W4_SM80_BLOCK_RESERVE;
        int64_t room = w4_minimum(share, device->shared_limit) - W4_SM80_FIXED_BYTES;
        shape->ring = (int32_t)w4_minimum(w4_maximum(room, 0) / shape->stage_bytes, W4_SM80_MOST_STAGES);
        if (shape->ring >= 3 || shape->resident == 1) break;
    }
    shape->shared_bytes = W4_SM80_FIXED_BYTES + shape->ring * shape->stage_bytes;
}

/** A decode kernel's grid and shared memory. */
static w4_cuda_shape share_decode(const w4_device *device, const w4_cuda_config *config, const w4_problem *problem,
                                  int64_t m) {
    const w4_config *tile = &config->public;
    int64_t slices = w4_ceil_divide(problem->n, W4_SLICE_ROWS), g = problem->group_size;
    w4_cuda_shape shape = {.schedule = make_schedule(config, device->processors, problem, m),
                           .threads = 32 * (uint32_t)config->warps,
                           .resident = 1,
                           .ring = config->stages};
    shape.grid = (uint32_t)w4_minimum(slices, w4_maximum(device->processors, 1));
    shape.schedule.workers = (int32_t)shape.grid;
    int32_t span = g >= problem->k || g % 128 == 0 ? 128 : g % 64 == 0 ? 64 : 32;
    shape.lines = W4_STEP_COLUMNS / span;
    int32_t slices_of_warp = tile->tile_n / W4_SLICE_ROWS / config->row_warps;
    shape.slot_bytes = w4_decode_slot_bytes(slices_of_warp, tile->tile_m, span, (int32_t)problem->zero_kind);
    shape.shared_bytes = w4_decode_shared_bytes(config->warps, config->stages, slices_of_warp, tile->tile_m,
                                                config->resident, shape.slot_bytes);
    return shape;
}

int32_t w4_cuda_worker_slots(const w4_device *device, const w4_cuda_config *config, const w4_cuda_shape *shape) {
    return (int32_t)w4_maximum(device->processors * shape->resident / config->cluster, 1);
}

w4_cuda_shape w4_cuda_shape_make(const w4_device *device, size_t index, const w4_problem *problem, int64_t m) {
    const w4_cuda_config *config = &w4_cuda_configs[index];
    const w4_config *tile = &config->public;
    w4_cuda_shape shape = {.ring = 0};
    if (config->decode) return share_decode(device, config, problem, m);
    if (config->sm80)
        share_sm80(device, config, problem, &shape);
    else
        share_sm90(device, config, problem, &shape);
    int32_t slots = w4_cuda_worker_slots(device, config, &shape);
    shape.schedule = make_schedule(config, slots, problem, m);
    shape.grid = (uint32_t)(shape.schedule.workers * config->cluster);
    if (config->stream_k) {
        /* Fewer tokens may be shared out where more are not. */
        int64_t tiles = w4_ceil_divide(problem->m, tile->tile_m) * w4_ceil_divide(problem->n, tile->tile_n);
        int64_t stages = w4_minimum(tiles, (int64_t)slots * LEAST_RUN) * shape.schedule.stages;
        int64_t workers = w4_minimum(slots, w4_maximum(stages / LEAST_RUN, 1));
        size_t ctas = (size_t)(workers * config->cluster);
        shape.partial_bytes = ctas * (size_t)(tile->tile_n / config->cluster) * (size_t)tile->tile_m * sizeof(float);
        shape.flag_bytes = ctas * (size_t)(config->sm80 ? 1 : config->warps / 4) * sizeof(uint64_t);
    }
    return shape;
}

/** Whether the kernels that keep sums in units of a group's scale can run a problem. */
static bool fits_in_place(const w4_problem *problem) {
    int64_t g = problem->group_size;
    return !problem->uneven_scales &&
           (g >= problem->k || (g % W4_BLOCK_COLUMNS == 0 && (g % 256 == 0 || 256 % g == 0)));
}

/** Whether an sm90 kernel multiplies sums by the scales, and not, as the others do, the weights. */
static bool scales_sums(const w4_cuda_config *config, const w4_problem *problem) {
    int32_t registers = W4_SM90_EQUAL_SHARE(32 * (config->warps + 4) * config->resident); /* 4 more warps load */
    return !config->sm80 && !config->any_group && W4_SM90_SCALES_SUMS(registers, config->parts) &&
           problem->zero_kind == W4A16_ZERO_INTEGER && problem->a_dtype == W4A16_FP16;
}

/** Bytes of the larger of a tile's rows of A, as the copy of A in a workspace has them, and of its rows of the weight.
 */
static int64_t bytes_of_rows(const w4_problem *problem, const w4_config *tile) {
    int64_t strips = w4_ceil_divide(tile->tile_n, W4_BLOCK_ROWS);
    return w4_maximum(tile->tile_m * w4_ceil_divide(problem->k, 64) * 128,
                      strips * w4_cuda_layout(problem).strip_stride);
}

/** Stages that the ring must have: a warp gives one back when it has begun with its next one. */
static int32_t least_ring(const w4_cuda_config *config) {
    return config->sm80 ? 2 : 2 * config->parts;
}

w4a16_status w4_cuda_config_check(const w4_device *device, size_t index, const w4_problem *problem, char *reason,
                                  size_t reason_size) {
    const w4_cuda_config *config = &w4_cuda_configs[index];
    const w4_config *tile = &config->public;
    w4_cuda_shape shape = w4_cuda_shape_make(device, index, problem, problem->m);
    reason[0] = 0;
    /* Kernels count tiles in 32 bits. */
    int64_t tiles = w4_ceil_divide(problem->m, tile->tile_m) * w4_ceil_divide(problem->n, tile->tile_n);
    if (tiles > INT32_MAX / 2)
        snprintf(reason, reason_size, "C has %" PRId64 " tiles of %d x %d; %d is the most", tiles, tile->tile_m,
                 tile->tile_n, INT32_MAX / 2);
    else if (!config->sm80 && !device->runs.sm90)
        snprintf(reason, reason_size, "is code for compute capability 9.0 alone, which %s",
                 device->runs.first == 90 ? "W4A16_CUDA_ARCH leaves out" : "this GPU has not");
    else if (config->decode && problem->m > tile->tile_m)
        snprintf(reason, reason_size, "takes at most %d tokens", tile->tile_m);
    else if (config->decode && w4_cuda_layout(problem).strip_stride > UINT32_MAX / 4)
        snprintf(reason, reason_size, "rows of %" PRId64 " columns are too long: it counts bytes in 32 bits",
                 problem->k);
    else if (config->sm80 && !config->decode && bytes_of_rows(problem, tile) / 16 > UINT32_MAX)
        snprintf(reason, reason_size, "rows of %" PRId64 " columns are too long: it counts pieces of them in 32 bits",
                 problem->k);
    else if (config->split && tiles * config->split > w4_cuda_worker_slots(device, config, &shape))
        snprintf(reason, reason_size, "the tiles, each shared out to %d blocks, are not all on the GPU at once",
                 config->split);
    else if (config->split && shape.schedule.stages < config->split * least_ring(config))
        snprintf(reason, reason_size, "tiles of %d stages are too small to share out", shape.schedule.stages);
    else if (shape.shared_bytes > device->shared_limit)
        snprintf(reason, reason_size, "needs %d bytes of shared memory a block; this GPU offers %d", shape.shared_bytes,
                 device->shared_limit);
    else if (shape.ring < least_ring(config))
        snprintf(reason, reason_size, "%d stages do not fit in the %d bytes of shared memory of this GPU",
                 least_ring(config), device->shared_limit);
    else if (!config->any_group && !problem->uneven_scales && !fits_in_place(problem))
        snprintf(reason, reason_size, "takes groups of 64, 128 and multiples of 256, not of %" PRId64,
                 problem->group_size);
    else if (!config->float_zeros && problem->zero_kind == W4A16_ZERO_FLOAT)
        snprintf(reason, reason_size, "has no registers left for floating zero points");
    else if (!config->any_group && problem->uneven_scales)
        snprintf(reason, reason_size, "the scales lie too far apart: over 2^60 within a row, or outside 2^-60 .. 2^60");
    else if ((config->stream_k || config->split) && problem->flags & W4A16_PLAN_BATCH_INVARIANT)
        snprintf(reason, reason_size, "sharing out tiles adds up k in an order that depends on M");
    else if (config->stream_k && !shape.schedule.split_tiles)
        snprintf(reason, reason_size, "the tiles fill whole waves, or are too small to share out");
    else if (problem->flags & W4A16_PLAN_BATCH_INVARIANT &&
             ((config->any_group && fits_in_place(problem)) || config->decode || config->parts > 1 ||
              (config->sm80 && device->runs.sm90) || scales_sums(config, problem)))
        snprintf(reason, reason_size, "its sums may differ in the last bit from those of the other configs");
    else if (config->stream_k && (int64_t)shape.schedule.split_tiles * shape.schedule.stages > INT32_MAX)
        snprintf(reason, reason_size, "the tiles to share out have more than %d stages", INT32_MAX);
    else
        return W4A16_OK;
    return W4A16_ERROR_UNSUPPORTED;
}
