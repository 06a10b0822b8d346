/* SPDX-License-Identifier: Apache-2.0
 * The table of configs, which problems each can run, how it shares one out, and the cost model that ranks them. */
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

enum {
#define W4_SM90_SPLIT_0(name)
#define W4_SM90_SPLIT_2(name) CONFIG_##name##_split2,
#define W4_SM90_KERNEL(name, n, m, k, warpgroups, cluster, pingpong, resident, zeros, split)                           \
    CONFIG_##name, CONFIG_##name##_streamk, W4_SM90_SPLIT_##split(name)
#define W4_SM90_ANY_GROUP(name, ...) CONFIG_##name, CONFIG_##name##_streamk,
#define W4_SM80_KERNEL(name, ...) CONFIG_##name, CONFIG_##name##_streamk,
#define W4_SM80_ANY_GROUP(name, ...) CONFIG_##name, CONFIG_##name##_streamk,
#define W4_SM80_DECODE(name, ...) CONFIG_##name,
#include "sm90/kernels.def"

#include "sm80/kernels.def"
#undef W4_SM90_SPLIT_0
#undef W4_SM90_SPLIT_2
#undef W4_SM90_KERNEL
#undef W4_SM90_ANY_GROUP
#undef W4_SM80_KERNEL
#undef W4_SM80_ANY_GROUP
#undef W4_SM80_DECODE
};

const w4_cuda_config w4_cuda_configs[] = {
#define W4_SM90_ENTRY(kernel_name, suffix, tile_n, tile_m, tile_k, warpgroups, cluster_, pingpong_, resident_, zeros,  \
                      any, streamk, split_)                                                                            \
    {.public = {#kernel_name suffix, tile_m, (tile_n) * (cluster_), tile_k},                                           \
     .kernel = #kernel_name,                                                                                           \
     .warps = 4 * (warpgroups),                                                                                        \
     .cluster = cluster_,                                                                                              \
     .pingpong = pingpong_,                                                                                            \
     .resident = resident_,                                                                                            \
     .float_zeros = zeros,                                                                                             \
     .any_group = any,                                                                                                 \
     .stream_k = streamk,                                                                                              \
     .split = split_,                                                                                                  \
     .slot = SLOT_##kernel_name},
#define W4_SM90_SPLIT_0(...)
#define W4_SM90_SPLIT_2(name, ...) W4_SM90_ENTRY(name, "_split2", __VA_ARGS__, false, false, 2)
#define W4_SM90_KERNEL(name, n, m, k, warpgroups, cluster, pingpong, resident, zeros, split)                           \
    W4_SM90_ENTRY(name, "", n, m, k, warpgroups, cluster, pingpong, resident, zeros, false, false, 0)                  \
    W4_SM90_ENTRY(name, "_streamk", n, m, k, warpgroups, cluster, pingpong, resident, zeros, false, true, 0)           \
    W4_SM90_SPLIT_##split(name, n, m, k, warpgroups, cluster, pingpong, resident, zeros)
#define W4_SM90_ANY_GROUP(name, n, m, k, warpgroups, cluster, pingpong, resident, zeros, split)                        \
    W4_SM90_ENTRY(name, "", n, m, k, warpgroups, cluster, pingpong, resident, zeros, true, false, 0)                   \
    W4_SM90_ENTRY(name, "_streamk", n, m, k, warpgroups, cluster, pingpong, resident, zeros, true, true, 0)
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

static w4_packed_layout problem_layout(const w4_problem *problem) {
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
    w4_packed_layout layout = problem_layout(problem);
    int32_t tile_n = tile->tile_n / config->cluster;
    shape->resident = config->resident;
    shape->threads = 32 * (uint32_t)(4 + config->warps);
    /* Of a kernel for any group a stage is a chunk. */
    shape->lines = config->any_group ? (int32_t)layout.lines : lines_in_place(problem, tile->tile_k);
    shape->slot_bytes = w4_slot_bytes(&layout, tile->tile_k, shape->lines);
    int32_t stage = tile->tile_m * tile->tile_k * 2 + tile_n / W4_BLOCK_ROWS * shape->slot_bytes;
    int32_t room = config->resident > 1 ? W4_SM90_SHARED_OF_SM / config->resident - 1024 : device->shared_limit;
    int32_t fixed = w4_sm90_fixed_bytes(config->warps, tile->tile_m);
    shape->ring = (int32_t)w4_minimum((room - fixed) / stage, W4_SM90_MOST_STAGES);
    shape->shared_bytes = fixed + shape->ring * stage;
}

/** The same of an sm80 block. GPUs differ in what an SM has: the most blocks whose rings have three stages, or one. */
static void share_sm80(const w4_device *device, const w4_cuda_config *config, const w4_problem *problem,
                       w4_cuda_shape *shape) {
    const w4_config *tile = &config->public;
    w4_packed_layout layout = problem_layout(problem);
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

/** How many workers run at the same time. */
static int32_t worker_slots(const w4_device *device, const w4_cuda_config *config, const w4_cuda_shape *shape) {
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
    int32_t slots = worker_slots(device, config, &shape);
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

/** Bytes of the larger of a tile's rows of A, as the copy of A in a workspace has them, and of its rows of the weight.
 */
static int64_t bytes_of_rows(const w4_problem *problem, const w4_config *tile) {
    int64_t strips = w4_ceil_divide(tile->tile_n, W4_BLOCK_ROWS);
    return w4_maximum(tile->tile_m * w4_ceil_divide(problem->k, 64) * 128,
                      strips * problem_layout(problem).strip_stride);
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
    else if (config->decode && problem_layout(problem).strip_stride > UINT32_MAX / 4)
        snprintf(reason, reason_size, "rows of %" PRId64 " columns are too long: it counts bytes in 32 bits",
                 problem->k);
    else if (config->sm80 && !config->decode && bytes_of_rows(problem, tile) / 16 > UINT32_MAX)
        snprintf(reason, reason_size, "rows of %" PRId64 " columns are too long: it counts pieces of them in 32 bits",
                 problem->k);
    else if (config->split && tiles * config->split > worker_slots(device, config, &shape))
        snprintf(reason, reason_size, "the tiles, each shared out to %d blocks, are not all on the GPU at once",
                 config->split);
    else if (config->split && shape.schedule.stages < 2 * config->split)
        snprintf(reason, reason_size, "tiles of %d stages are too small to share out", shape.schedule.stages);
    else if (shape.shared_bytes > device->shared_limit)
        snprintf(reason, reason_size, "needs %d bytes of shared memory a block; this GPU offers %d", shape.shared_bytes,
                 device->shared_limit);
    else if (shape.ring < 2)
        snprintf(reason, reason_size, "two stages do not fit in the %d bytes of shared memory of this GPU",
                 device->shared_limit);
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
              (config->sm80 && device->runs.sm90)))
        snprintf(reason, reason_size, "its sums may differ in the last bit from those of the other configs");
    else if (config->stream_k && (int64_t)shape.schedule.split_tiles * shape.schedule.stages > INT32_MAX)
        snprintf(reason, reason_size, "the tiles to share out have more than %d stages", INT32_MAX);
    else
        return W4A16_OK;
    return W4A16_ERROR_UNSUPPORTED;
}

/** Of each config, in nanoseconds (costs.def, tools/fit_gpu_costs.py). Zeros: never measured. */
static const struct {
    double call, stage, sharer, saturated;
} costs[] = {
#define W4_COST(name, call, stage, sharer, saturated) [CONFIG_##name] = {call, stage, sharer, saturated},
#include "backend/cuda/costs.def"
#undef W4_COST
};

static const double MEMORY_RATE = 4.4e12; /* bytes a second: what reading cold memory reaches on an H200 */

/** Bytes that a multiplication must move: the weight, and A and C once. */
static double least_bytes(const w4_problem *problem) {
    w4_packed_layout layout = problem_layout(problem);
    return (double)layout.bytes + 2 * (double)problem->m * (double)(problem->k + problem->n);
}

/** What the busiest worker has to do: stages, and workers that share a tile. mean: of_fitted. */
typedef struct load {
    double stages, sharers, mean;
} load;

static load busiest(const w4_cuda_config *config, const w4_problem *problem, const w4_cuda_shape *shape) {
    const w4_schedule *schedule = &shape->schedule;
    if (config->decode) { /* passes over k, whose steps the warps share out */
        int64_t slices = w4_ceil_divide(w4_ceil_divide(problem->n, W4_SLICE_ROWS), shape->grid);
        int64_t passes = w4_ceil_divide(slices, config->public.tile_n / W4_SLICE_ROWS);
        int64_t steps = w4_ceil_divide(schedule->stages, config->warps / config->row_warps);
        return (load){.stages = (double)(passes * steps), .sharers = 0};
    }
    if (schedule->split)
        return (load){.stages = (double)w4_ceil_divide(schedule->stages, schedule->split),
                      .sharers = (double)schedule->split};
    int64_t tiles = (int64_t)schedule->tiles_m * schedule->tiles_n;
    return (load){
        .stages = (double)(w4_ceil_divide(tiles - schedule->split_tiles, schedule->workers) * schedule->stages +
                           w4_ceil_divide((int64_t)schedule->split_tiles * schedule->stages, schedule->workers)),
        .sharers = schedule->split_tiles ? (double)schedule->workers / schedule->split_tiles : 0,
    };
}

/** What the GPU says of itself, for configs that were never measured on it: clocks and bytes a second. */
static double clock_of(const w4_device *device) {
    return device->clock > 0 ? device->clock : 1.5e9;
}
static double read_rate_of(const w4_device *device) {
    static const double SHARE = 0.9; /* of the memory's rate */
    return SHARE * (device->memory_rate > 0 ? device->memory_rate : 1e12);
}

/** Seconds that an sm80 config's stages take, where it was never measured. A stage takes the longest of: its
 * multiplications, on an SM that its blocks share; reading its weights, at this SM's share of the memory's rate;
 * the SM's instructions; what one warp takes for its part, however empty the SM is. The constants are those at which
 * the times of 22 configs on an H200 (8192 x 8192, M = 32 to 8192, sm_90 code) come out best, 11 % off in the root mean
 * square. */
static double sm80_run(const w4_device *device, const w4_cuda_config *config, const w4_cuda_shape *shape, load work) {
    static const double SHARER = 0.7e-6, FEED = 0.7, ANY_GROUP = 1.25;
    /* Clocks for 16 x 64 weights, and more for each 8 tokens: of an SM, and of a warp. A warp with 16 rows loads all
     * tokens for these alone. */
    static const double ISSUE_WEIGHTS = 38, ISSUE_TOKENS = 7.5, ONE_SLICE = 1.08;
    static const double WARP_WEIGHTS = 180, WARP_TOKENS = 20, WARP_STAGE = 700;
    const w4_config *tile = &config->public;
    double clock = clock_of(device);
    /* Blocks on an SM, of those that there are. */
    double together = (double)shape->schedule.workers / device->processors,
           weights = (double)tile->tile_n * tile->tile_k;
    if (together < 1) together = 1;
    double multiply = 2 * weights * tile->tile_m / (FEED * device->runs.flop_per_clock) / clock * together;
    double busy = shape->schedule.workers < device->processors ? shape->schedule.workers : device->processors;
    double read = (double)(tile->tile_n / W4_BLOCK_ROWS * shape->slot_bytes) * busy / read_rate_of(device) * together;
    double issue = weights / 1024 * (ISSUE_WEIGHTS + ISSUE_TOKENS * tile->tile_m / 8) / clock * together;
    if (tile->tile_n == 16 * config->warps) issue *= ONE_SLICE;
    double stage = multiply > issue ? multiply : issue;
    if (config->any_group) stage *= ANY_GROUP;
    if (stage < read) stage = read;
    double warp = WARP_STAGE + weights / 1024 / config->warps * (WARP_WEIGHTS + WARP_TOKENS * tile->tile_m / 8);
    if (stage < warp / clock) stage = warp / clock;
    if (shape->ring < 3) stage += WARP_STAGE / clock; /* copies have no more than the time of one stage */
    return work.stages * stage + work.sharers * SHARER;
}

/** The same of a decode config: its warps' instructions for a step of 16 x 128 weights, at about every second clock. */
static double decode_run(const w4_device *device, const w4_cuda_config *config, load work) {
    double slices = (double)config->public.tile_n / W4_SLICE_ROWS / config->row_warps;
    return work.stages * (100 + 3.0 * config->public.tile_m) * slices * config->warps / 2 / clock_of(device);
}

/** The same of an sm90 config, by its tile: a least-squares fit to the stages of the configs in costs.def, 18 % off in
 * the root mean square; what a worker takes that shares a tile is their median. */
static double sm90_run(const w4_cuda_config *config, load work) {
    static const double STAGE = 350, WEIGHTS = 11.6, PRODUCTS = 9.0, ANY_GROUP = 7.7, SHARER = 700, SPLIT = 1640;
    const w4_config *tile = &config->public;
    double weights = (double)(tile->tile_n / config->cluster) * tile->tile_k / 1024;
    double products = weights * tile->tile_m / 64;
    double stage = STAGE + WEIGHTS * weights + (PRODUCTS + (config->any_group ? ANY_GROUP : 0)) * products;
    return 1e-9 * (work.stages * stage + work.sharers * (config->split ? SPLIT / config->split : SHARER));
}

/** What a fitted config's constants are multiplied by, from what the busiest worker has to do; tools/fit_gpu_costs.py
 * (work_of) counts alike. Of a decode config the stages count by how full they are, and in full as sharers: a step
 * costs something besides its weights. `mean`: stages of all tiles over all places for workers; where there are places
 * left, of those on the busiest SM: two workers on one slow each other down. */
static load of_fitted(const w4_device *device, const w4_cuda_config *config, const w4_problem *problem,
                      const w4_cuda_shape *shape, load work) {
    const w4_schedule *schedule = &shape->schedule;
    double slots = worker_slots(device, config, shape);
    double tiles = (double)schedule->tiles_m * schedule->tiles_n;
    work.mean = tiles * schedule->stages / slots;
    if (config->decode) {
        int64_t slices = w4_ceil_divide(w4_ceil_divide(problem->n, W4_SLICE_ROWS), shape->grid);
        int64_t passes = w4_ceil_divide(slices, config->public.tile_n / W4_SLICE_ROWS);
        double fullness = (double)slices * W4_SLICE_ROWS / (double)(passes * config->public.tile_n);
        work.sharers = work.stages;
        work.stages *= fullness;
    } else if (schedule->workers < slots || config->split) {
        int64_t together = w4_ceil_divide(schedule->workers, w4_maximum((int64_t)slots / shape->resident, 1));
        double crowded = (double)together / shape->resident * work.stages;
        if (crowded > work.mean) work.mean = crowded;
    }
    return work;
}

static bool is_fitted(size_t index) {
    return index < sizeof costs / sizeof *costs && costs[index].stage > 0;
}

bool w4_cuda_config_rough(const w4_device *device, size_t index) {
    return device->runs.sm90 && !is_fitted(index); /* elsewhere one model serves all configs */
}

double w4_cuda_config_cost(const w4_device *device, size_t index, const w4_problem *problem) {
    static const double CALL = 4e-6, H200_CLOCK = 1.98e9; /* the highest, as the driver says it */
    const w4_cuda_config *config = &w4_cuda_configs[index];
    w4_cuda_shape shape = w4_cuda_shape_make(device, index, problem, problem->m);
    load work = busiest(config, problem, &shape);
    if (!device->runs.sm90 && config->decode && is_fitted(index)) {
        /* The same code takes about as many clocks as on an H200; what reading takes is this GPU's. */
        double clock = H200_CLOCK / clock_of(device) * 1e-9, memory = least_bytes(problem) / read_rate_of(device);
        work = of_fitted(device, config, problem, &shape, work);
        double run = clock * (work.stages * costs[index].stage + work.sharers * costs[index].sharer);
        return clock * costs[index].call + (run > memory ? run : memory);
    }
    if (!device->runs.sm90 || !is_fitted(index)) {
        double memory = least_bytes(problem) / read_rate_of(device);
        double run = config->decode ? decode_run(device, config, work)
                     : config->sm80 ? sm80_run(device, config, &shape, work)
                                    : sm90_run(config, work);
        return CALL + (run > memory ? run : memory);
    }
    work = of_fitted(device, config, problem, &shape, work);
    double run = costs[index].call + work.stages * costs[index].stage + work.sharers * costs[index].sharer;
    double saturated = work.mean * costs[index].saturated;
    double seconds = 1e-9 * (run > saturated ? run : saturated), memory = least_bytes(problem) / MEMORY_RATE;
    return seconds > memory ? seconds : memory;
}
