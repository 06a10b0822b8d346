/* SPDX-License-Identifier: Apache-2.0
 * The cost model: how long a config takes for a problem. On an H200 by constants fitted to times (costs.def), elsewhere
 * by what the GPU says of itself. */
#include "backend/cuda/config_index.h"
#include "backend/cuda/device.h"

#include "core/memory.h"
#include "sm80/decode_params.h"

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
    w4_packed_layout layout = w4_cuda_layout(problem);
    return (double)layout.bytes + 2 * (double)problem->m * (double)(problem->k + problem->n);
}

/** What the busiest worker has to do: stages, and workers that share a tile; in how many passes a decode config's
 * stages are, and how full. */
typedef struct load {
    double stages, sharers, passes, fullness;
} load;

static load busiest(const w4_cuda_config *config, const w4_problem *problem, const w4_cuda_shape *shape) {
    const w4_schedule *schedule = &shape->schedule;
    if (config->decode) { /* passes over k, whose steps the warps share out */
        int64_t slices = w4_ceil_divide(w4_ceil_divide(problem->n, W4_SLICE_ROWS), shape->grid);
        int64_t passes = w4_ceil_divide(slices, config->public.tile_n / W4_SLICE_ROWS);
        int64_t steps = w4_ceil_divide(schedule->stages, config->warps / config->row_warps);
        return (load){.stages = (double)(passes * steps),
                      .passes = (double)passes,
                      .fullness = (double)(slices * W4_SLICE_ROWS) / (double)(passes * config->public.tile_n)};
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
 * the choices on an H200 come out best (sm_90 code, seven shapes, M = 32 to 2048): 1.3 % slower than the best config in
 * the mean; the times of 26 configs are 14 % off in the root mean square. */
static double sm80_run(const w4_device *device, const w4_cuda_config *config, const w4_cuda_shape *shape, load work) {
    static const double SHARER = 1.0e-6, FEED = 0.7, ANY_GROUP = 1.25, BARRIER = 500, SINGLE = 0.9;
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
    /* Where no other block is on the SM, nobody has work when all warps wait for one another; and else less time is
     * lost. */
    if (shape->resident == 1) stage = SINGLE * stage + BARRIER / clock;
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
    stage /= config->parts;
    return 1e-9 * (work.stages * stage + work.sharers * (config->split ? SPLIT / config->split : SHARER));
}

/** Workers on the busiest SM. */
static int64_t workers_together(const w4_device *device, const w4_cuda_config *config, const w4_cuda_shape *shape) {
    int32_t slots = w4_cuda_worker_slots(device, config, shape);
    return w4_ceil_divide(shape->schedule.workers, w4_maximum(slots / shape->resident, 1));
}

/** Stages of all tiles over all places for workers; where places are left, those on the busiest SM if that is more: two
 * workers on one slow each other down. */
static double mean_stages(const w4_device *device, const w4_cuda_config *config, const w4_cuda_shape *shape,
                          load work) {
    const w4_schedule *schedule = &shape->schedule;
    int32_t slots = w4_cuda_worker_slots(device, config, shape);
    double mean = (double)schedule->tiles_m * schedule->tiles_n * schedule->stages / slots;
    if (config->decode || (schedule->workers >= slots && !config->split)) return mean;
    double crowded = (double)workers_together(device, config, shape) / shape->resident * work.stages;
    return crowded > mean ? crowded : mean;
}

/** Seconds that an H200 takes besides what was fitted. Of a decode config each further pass costs a round of barriers,
 * 0.27 to 0.43 us (28672 x 4096, seven passes). A GEMM whose blocks fill SMs that hold several leaves the next kernel
 * no room while it runs; stream-K always does, so that its fit knows. */
static double besides(const w4_device *device, const w4_cuda_config *config, const w4_cuda_shape *shape, load work) {
    static const double PASS = 0.35e-6, ALONE = 2e-6;
    if (config->decode) return PASS * (work.passes - 1);
    bool full = shape->resident > 1 && workers_together(device, config, shape) == shape->resident;
    return full && !config->stream_k ? ALONE : 0;
}

/** Seconds of a fitted config on an H200, but for those besides, if reading takes no time; tools/fit_gpu_costs.py
 * (work_of) counts alike. Of a decode config the stages count by how full they are, and in full as sharers: a step
 * costs something besides its weights. */
static double fitted_run(const w4_device *device, size_t index, const w4_cuda_shape *shape, load work) {
    const w4_cuda_config *config = &w4_cuda_configs[index];
    double stages = config->decode ? work.stages * work.fullness : work.stages;
    double sharers = config->decode ? work.stages : work.sharers;
    double run = costs[index].call + stages * costs[index].stage + sharers * costs[index].sharer;
    double saturated = mean_stages(device, config, shape, work) * costs[index].saturated;
    return 1e-9 * (run > saturated ? run : saturated);
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
    double bytes = least_bytes(problem), seconds, memory;
    if (is_fitted(index) && device->runs.sm90) {
        seconds = fitted_run(device, index, &shape, work) + besides(device, config, &shape, work);
        memory = bytes / MEMORY_RATE;
    } else if (is_fitted(index) && config->decode) {
        /* The same code takes about as many clocks as on an H200; what reading takes is this GPU's, and calls do not
         * overlap. */
        double clock = H200_CLOCK / clock_of(device), more = besides(device, config, &shape, work);
        seconds = clock * (fitted_run(device, index, &shape, work) + more);
        memory = clock * (1e-9 * costs[index].call + more) + bytes / read_rate_of(device);
    } else {
        seconds = CALL + (config->decode ? decode_run(device, config, work)
                          : config->sm80 ? sm80_run(device, config, &shape, work)
                                         : sm90_run(config, work));
        memory = CALL + bytes / read_rate_of(device);
    }
    return seconds > memory ? seconds : memory;
}
